"""The features structure (features.md, features-linux.md): what this implementation recognizes.

Made of the tables that ``compile``, the validator and the drivers use themselves, so it can't claim what they
don't have. It says nothing of the host: a kernel may lack what is listed here.
"""

from __future__ import annotations

from ocipy.config.names import CAPABILITIES
from ocipy.config.rules import HOOKS
from ocipy.plan import flags, mounts, process, seccomp
from ocipy.version import SPEC_MINIMUM, SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def document() -> dict[str, Any]:
    """The features structure, ready for JSON, in the order of runc's.

    It depends on ocipy and the libseccomp it runs with alone, except for ``seccomp.supportedFlags``, for which
    the kernel is asked (features-linux.md#seccomp).
    """
    return {
        "ociVersionMin": SPEC_MINIMUM,
        "ociVersionMax": SPEC_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted(mounts.option_names()),
        "linux": {
            "namespaces": sorted(flags.NAMESPACES),
            "capabilities": list(CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": True, "rdma": True},
            "seccomp": {
                "enabled": True,
                "actions": seccomp.known_actions(),
                "operators": seccomp.known_operators(),
                "archs": seccomp.known_architectures(),
                "knownFlags": seccomp.known_flags(),
                "supportedFlags": seccomp.supported_flags(),
            },
            **{module: {"enabled": True} for _, _, module, _ in process.LSM_PROPERTIES},
            "intelRdt": {"enabled": True, "schemata": True, "monitoring": True},
            "memoryPolicy": {"modes": sorted(process.MEMORY_POLICIES), "flags": sorted(process.MEMORY_POLICY_FLAGS)},
            "mountExtensions": {"idmap": {"enabled": "idmap" in mounts.option_names()}},
            "netDevices": {"enabled": True},
        },
        "annotations": {
            "io.github.seccomp.libseccomp.version": seccomp.version(),
            "org.opencontainers.runc.checkpoint.enabled": "true",  # the name that engines know
        },
        "potentiallyUnsafeConfigAnnotations": ["org.criu.config", "org.systemd.property."],
    }
