"""What engines write that the schema does not allow, and every runtime takes.

The schema is the official one's equal, to the letter. In five places that is stricter than the
specification's text or than the configs of Docker, containerd and Podman:

- a property that may be left out may be ``null`` (:func:`without_nulls`);
- ``rootfsPropagation`` may have the recursive form of a value (``rslave`` for a volume with propagation), or be
  empty, which is as if it were not there;
- a device's ``fileMode`` may carry the file type's bits, as stat(2) gives them, or set-id bits;
- ``user`` may be without ``uid`` or ``gid``, which are 0 then;
- ``pids`` may come without ``limit``, which config-linux.md makes optional.

Nulls are taken out when a config is loaded, so that nobody after that meets one. With the others a config is judged
in the words of the schema; what is judged is a copy, the config stays as it is.
"""

from __future__ import annotations

from ocipy.config.check import RESOURCES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.check import Node
    from ocipy.config.fault import Row

RECURSIVE = {"r" + word: word for word in ("private", "shared", "slave", "unbindable")}


def without_nulls(value: Any, node: Node) -> Any:
    """A value without the properties that are null: itself if there are none, or a copy of what differs.

    Readers in Go take a null for a property that is not there, and writers in Go send it. One that is required
    stays, for the schema to refuse; so do entries of lists and of maps with free keys, which have no default.

    Args:
        value: of any shape; what has the wrong type is left for the schema to refuse.
        node: its schema, from ``_table``.
    """
    if node[0] == 3 and type(value) is list:
        items = [without_nulls(item, node[1]) for item in value]
        return items if any(new is not old for new, old in zip(items, value, strict=True)) else value
    if node[0] != 1 or type(value) is not dict:
        return value
    _, properties, _, other = node
    kept = {}
    changed = False
    for name, member in value.items():
        if member is None and _optional(node, name):
            changed = True
            continue
        inner = properties.get(name, other)
        kept[name] = member if inner is None else without_nulls(member, inner)
        changed = changed or kept[name] is not member
    return kept if changed else value


def _optional(node: Node, name: str) -> bool:
    """Whether a property may be left out: as the schema says, and the ``limit`` of ``pids``."""
    _, properties, required, _ = node
    return name in properties and (name not in required or node is RESOURCES[1]["pids"])


def null_rows(value: Any, node: Node, where: str = "$", section: str = "config.md") -> list[Row]:
    """Where :func:`without_nulls` takes something out."""
    if node[0] == 3 and type(value) is list:
        return [row for i, item in enumerate(value) for row in null_rows(item, node[1], f"{where}[{i}]", section)]
    if node[0] != 1 or type(value) is not dict:
        return []
    from ocipy.config.fault import below

    _, properties, _, other = node
    out: list[Row] = []
    for name, member in value.items():
        path, inner = below(where, name), properties.get(name, other)
        if member is None and _optional(node, name):
            out.append((path, None, "a value, or no such property, which this is taken for", section))
        elif inner is not None:
            out += null_rows(member, inner, path, "config-linux.md" if path == "$.linux" else section)
    return out


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
    elif propagation == "":
        changed["rootfsPropagation"] = "private"  # any of the schema's: what is judged is not what is run
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
    user = config.get("process", {}).get("user")
    for name in ("uid", "gid"):
        if user is not None and name not in user:
            where = f"$.process.user.{name}"
            out.append((where, None, "an id; without one it is 0, root's", "config.md#posix-platform-user"))
    linux = config.get("linux", {})
    propagation = linux.get("rootfsPropagation")
    if propagation == "" or propagation in RECURSIVE:
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
