"""What engines write that the schema does not allow, and every runtime takes.

The schema is the official one's equal, to the letter. In three places that is stricter than the
specification's text or than the configs of Docker, containerd and Podman:

- ``rootfsPropagation`` may have the recursive form of a value (``rslave`` for a volume with propagation);
- a device's ``fileMode`` may carry the file type's bits, as stat(2) gives them, or set-id bits;
- ``pids`` may come without ``limit``, which config-linux.md makes optional.

Such a config is judged in the words of the schema; what is judged is a copy, the config stays as it is.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.spec.fault import Row

RECURSIVE = {"r" + word: word for word in ("private", "shared", "slave", "unbindable")}


def usual_form(config: Any) -> Any:
    """The config in the words of the schema: itself, or a copy of what differs.

    The config may be of any shape: what has the wrong type is left for the schema to refuse.
    """
    linux = config.get("linux") if type(config) is dict else None
    if type(linux) is not dict:
        return config
    changed: dict[str, Any] = {}
    propagation = linux.get("rootfsPropagation")
    if type(propagation) is str and propagation in RECURSIVE:
        changed["rootfsPropagation"] = RECURSIVE[propagation]
    devices = linux.get("devices")
    if type(devices) is list and any(_has_type_bits(device) for device in devices):
        changed["devices"] = [
            {**device, "fileMode": device["fileMode"] & 0o777} if _has_type_bits(device) else device
            for device in devices
        ]
    resources = linux.get("resources")
    if type(resources) is dict and _without_limit(resources.get("pids")):
        changed["resources"] = {name: value for name, value in resources.items() if name != "pids"}
    return {**config, "linux": {**linux, **changed}} if changed else config


def _has_type_bits(device: Any) -> bool:
    mode = device.get("fileMode") if type(device) is dict else None
    return type(mode) is int and 0o777 < mode < 2**32


def _without_limit(pids: Any) -> bool:
    return type(pids) is dict and "limit" not in pids


def rows(config: dict[str, Any]) -> list[Row]:
    """Where a config differs from its usual form."""
    out: list[Row] = []
    linux = config.get("linux", {})
    propagation = linux.get("rootfsPropagation")
    if propagation in RECURSIVE:
        out.append(
            ("$.linux.rootfsPropagation", propagation, "private, shared, slave or unbindable",
             "config-linux.md#rootfs-mount-propagation")
        )  # fmt: skip
    for index, device in enumerate(linux.get("devices", ())):
        if _has_type_bits(device):
            out.append(
                (f"$.linux.devices[{index}].fileMode", device["fileMode"], "permission bits only, 0 to 511",
                 "config-linux.md#devices")
            )  # fmt: skip
    if _without_limit(linux.get("resources", {}).get("pids")):
        out.append(("$.linux.resources.pids.limit", None, "an integer", "config-linux.md#pids"))
    return out
