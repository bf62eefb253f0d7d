"""The plans around CRIU: starting it, readying what it restores into (checkpoint and restore)."""

from __future__ import annotations

from _signal import SIGKILL

from ocipy.plan import flags, mounts, namespaces, ops, rootfs
from ocipy.plan.builder import SCRATCH, Builder, Options, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.host import Host

_DIES = ops.death_signal("", SIGKILL)
MOUNT, NETWORK = flags.NAMESPACES["mount"], flags.NAMESPACES["network"]


def serve(path: str, env: list[str], *, dies: bool = False) -> Plan:
    """Become ``criu swrk``, which serves requests on descriptor 3.

    Args:
        path: CRIU's executable.
        env: its environment.
        dies: whether it ends with its launcher: one that waits for others would keep the processes for ever.
            While it is at work in a process it must not be killed, but notices that nobody listens any more.
    """
    return Plan([_DIES] * dies + _become(path, env), [], 0, False)


def serve_restore(path: str, env: list[str], root: str, at: str) -> Plan:
    """Become ``criu swrk`` in the container's cgroup, with the root file system mounted in a mount namespace
    that ends with CRIU: whatever fails, no mount is left on the host.

    Args:
        path: CRIU's executable.
        env: its environment.
        root: the root file system.
        at: a directory to mount it on. CRIU wants a mount point whose parent is not covered itself, as the root
            would be if it was bound onto itself.
    """
    before = [
        _DIES,  # it leaves only what `delete --force` finds
        ops.sync("$.linux.cgroupsPath", ops.SYNC_CGROUP),
        ops.propagation("", "/", flags.MS_SLAVE | flags.MS_REC),
        ops.open_root(""),
        ops.open_tree("$.root.path", SCRATCH, root, flags.AT_RECURSIVE, 0),
        ops.attach("$.root.path", SCRATCH, at, 0),
    ]
    return Plan(before + _become(path, env), [], MOUNT, False)


def _become(path: str, env: list[str]) -> list[ops.Op]:
    args = ["criu", "swrk", "3"]
    return [ops.lookup("", path, "", ops.NO_UID), ops.ready("", 1), ops.exec("", args, env, 0)]


def mount_points(spec: dict[str, Any], host: Host, options: Options) -> Plan:
    """Make the mount points of the config in its root file system, by mounting all of it in a mount namespace
    that is then given up: CRIU mounts, but makes no mount point, and the root may be a fresh one."""
    linux = (spec.get("linux") or {}) | {"namespaces": [{"type": "mount"}], "rootfsPropagation": "rslave"}
    shown = [mount for mount in spec.get("mounts") or () if mount.get("type") not in ("cgroup", "cgroup2")]
    b = Builder(spec | {"linux": linux, "mounts": shown}, host, options)
    namespaces.collect(b)
    rootfs.bind(b)
    mounts.make(b)
    b.add(ops.ready("", 0))
    return b.plan(MOUNT)


def network(sysctls: dict[str, str]) -> Plan:
    """Ready a new network namespace, as `create` does: the loopback interface, the config's kernel parameters."""
    b = [ops.setns_pidfd("", 0, NETWORK), ops.loopback("$.linux.namespaces")]
    for key, value in sysctls.items():
        file = rootfs.sysctl_file(key)
        if file.startswith("sys/net/"):
            b.append(ops.proc_write(f'$.linux.sysctl["{key}"]', file, value))
    return Plan([*b, ops.ready("", 0)], ["pidfd"], 0, False)
