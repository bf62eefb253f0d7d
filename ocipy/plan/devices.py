"""Device nodes and the links that belong to /dev (config-linux.md#devices, #default-devices)."""

from __future__ import annotations

from ocipy.kernel import os
from ocipy.plan import ops
from ocipy.plan.flags import S_IFBLK, S_IFCHR, S_IFIFO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.plan.builder import Builder

KINDS = {"c": S_IFCHR, "u": S_IFCHR, "b": S_IFBLK, "p": S_IFIFO}

#: path, major, minor of the devices that every container has
DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
DEFAULT_LINKS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
)


def make(b: Builder) -> None:
    """Emit the devices of the config, the default ones, and the links; none in a /dev that is bound or a devtmpfs: they
    would be the host's."""
    mounted = {  # every devtmpfs is the host's as well
        os.clean("/" + mount["destination"]): is_bind(mount) or mount.get("type") == "devtmpfs"
        for mount in b.spec.get("mounts") or ()
        if "remount" not in (mount.get("options") or ())
    }
    bound = mounted.get("/dev", False)
    configured, left = set(), 0
    for index, device in enumerate(b.linux.get("devices") or ()):
        where, path = f"$.linux.devices[{index}]", os.clean(device["path"])
        if bound and path.startswith("/dev/"):
            left += 1
            continue
        configured.add(path)
        given = [name for name in ("fileMode", "uid", "gid") if device.get(name) is not None]
        if _taken(b, device["type"]) and given:
            b.notices.append(
                f"{where}: {', '.join(given)}: without effect in a user namespace, where the host's node is bound"
            )
        mode = device.get("fileMode", 0o666) & 0o7777
        _node(
            b, where, device["path"], KINDS[device["type"]] | mode, device.get("major", 0), device.get("minor", 0),
            device.get("uid", 0), device.get("gid", 0), _taken(b, device["type"]),
        )  # fmt: skip
    if left:
        b.notices.append(f"$.linux.devices: {left} below /dev not made, as /dev is the host's: what is there stays")
    if bound:
        return
    for path, major, minor in DEFAULT_DEVICES:
        # what is mounted in the place of one stays: many a container has /dev/urandom on /dev/random
        if path not in configured and path not in mounted:
            _node(b, "", path, S_IFCHR | 0o666, major, minor, 0, 0, _taken(b, "c"))
    for target, path in DEFAULT_LINKS:
        if b.host.kcore or target != "/proc/kcore":
            b.add(ops.symlink("", target, path))


def _taken(b: Builder, kind: str) -> bool:
    """Whether a node is taken from the host: mknod(2) is refused in a user namespace, whatever its capabilities."""
    return (b.userns or b.host.in_userns) and kind != "p"


def _node(
    b: Builder, where: str, path: str, mode: int, major: int, minor: int, uid: int, gid: int, taken: bool
) -> None:
    if taken:
        slot = b.take(where, path, 0)
        (b.early if b.takes_early else b.ops).append(
            ops.own_device(where, slot, path, mode & (S_IFCHR | S_IFBLK), major, minor)
        )
        b.add(ops.attach(where, slot, path, ops.ATTACH_DEVICE))
    else:
        b.add(ops.mknod(where, path, mode, major, minor, uid, gid))


def is_bind(mount: dict[str, Any]) -> bool:
    """Whether a mount of the config is a bind mount (config.md#mounts: by its options, or runc's type)."""
    options = mount.get("options") or ()
    return mount.get("type") == "bind" or "bind" in options or "rbind" in options


def console(b: Builder) -> None:
    """Emit the terminal."""
    if b.process.get("terminal"):
        size = b.process.get("consoleSize") or {}
        user = b.process.get("user") or {}
        b.add(
            ops.console(
                "$.process.terminal", b.give("console"), size.get("width", 0), size.get("height", 0), 1,
                user.get("uid", 0),
            )
        )  # fmt: skip
