"""What a checkpoint leaves out, since it belongs to the host: bind mounts, joined namespaces, standard streams."""

from __future__ import annotations

import os

from ocipy.checkpoint.criu import pair
from ocipy.errors import ConfigError, Unsupported
from ocipy.kernel import os as _os
from ocipy.plan.devices import is_bind
from ocipy.plan.flags import NAMESPACE_FILES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.host import CgroupFacts

LINKS = 40  # symbolic links in a path, as the kernel has it
NULL = "/dev/null"


def resolve(root: str, path: str) -> str:
    """A path of the container with its symbolic links followed below the root, as far as it exists. Nothing is
    opened: the result is what CRIU compares with the mount table."""
    done: list[str] = []
    todo = path.split("/")[::-1]
    links = 0
    while todo:
        part = todo.pop()
        if part == "..":
            del done[-1:]
        elif part not in ("", "."):
            try:
                target = os.readlink("/".join([root, *done, part]))
            except OSError:
                done.append(part)
                continue
            links += 1
            if links > LINKS:
                raise Unsupported(f"too many symbolic links in {path}", config_path="$.mounts")
            if target.startswith("/"):
                done = []
            todo += target.split("/")[::-1]
    return "/" + "/".join(done)


def bound(
    spec: dict[str, Any], bundle: str, root: str, facts: CgroupFacts, cgroup_paths: dict[str, str]
) -> list[tuple[str, str]]:
    """The mounts that come from the host, as (mount point, source).

    Args:
        spec: the config.
        bundle: its directory.
        root: where the container's root file system can be looked at.
        facts: the cgroup layout of this host.
        cgroup_paths: the container's cgroup directory per controller.
    """
    found = []
    linux = spec.get("linux") or {}
    own = {ns["type"] for ns in linux.get("namespaces") or ()}
    for mount in spec.get("mounts") or ():
        point = resolve(root, mount["destination"])
        if "remount" in (mount.get("options") or ()):
            continue
        if is_bind(mount):
            found.append((point, _os.clean(_os.join(bundle, mount["source"]))))
        elif mount.get("type") == "cgroup" and facts.mode != "v2" and "cgroup" not in own:
            for hierarchy in facts.hierarchies:
                if not hierarchy.unified:
                    path = cgroup_paths.get(hierarchy.controllers[0], hierarchy.mountpoint)
                    found.append((f"{point}/{hierarchy.name}", path))
    if "user" in own:  # no device node could be made there: they are the host's
        from ocipy.plan.devices import DEFAULT_DEVICES

        paths = [device["path"] for device in linux.get("devices") or ()] + [row[0] for row in DEFAULT_DEVICES]
        found += [(resolve(root, path), path) for path in dict.fromkeys(map(_os.clean, paths))]
    return found


def mount_points(pid: int) -> set[str]:
    """The mount points that a process has, as it names them."""
    table = _os.lines(_os.read_text(f"/proc/{pid}/mountinfo"))
    return {_os.mount_name(line.split(" ")[4]) for line in table}


def to_dump(spec: dict[str, Any], found: list[tuple[str, str]], pid: int) -> list[bytes]:
    """CRIU's external mounts for a dump: those of :func:`bound` that are there, and masked files. The key of
    each is what the restore will call it."""
    root = f"/proc/{pid}/root"
    points = mount_points(pid)
    pairs = [pair(point, point) for point, _ in found if point in points]
    for path in (spec.get("linux") or {}).get("maskedPaths") or ():
        point = resolve(root, path)
        if point in points and not os.path.isdir(root + point):
            pairs.append(pair(point, NULL))
    return pairs


def to_restore(found: list[tuple[str, str]]) -> list[bytes]:
    """The same for a restore: where each comes from now."""
    return [pair(point, source) for point, source in found] + [pair(NULL, NULL)]


def namespaces(spec: dict[str, Any]) -> dict[str, str]:
    """The namespaces that are joined by a path: kind and path.

    Raises:
        Unsupported: CRIU can't restore into one of this kind.
    """
    found = {}
    for index, ns in enumerate((spec.get("linux") or {}).get("namespaces") or ()):
        if not ns.get("path"):
            continue
        if ns["type"] in ("mount", "cgroup"):
            raise Unsupported(f"CRIU can't restore into an existing {ns['type']} namespace",
                              config_path=f"$.linux.namespaces[{index}].path")  # fmt: skip
        found[ns["type"]] = ns["path"]
    return found


#: those that CRIU neither dumps nor makes, with its name for each
LEFT_OUT = {"network": "extRootNetNS", "pid": "extRootPidNS"}


def namespaces_to_dump(spec: dict[str, Any], pid: int) -> list[str]:
    """CRIU's external namespaces for a dump."""
    found = []
    for kind in namespaces(spec):
        if kind in LEFT_OUT:
            file = NAMESPACE_FILES[kind]
            found.append(f"{file}[{os.stat(f'/proc/{pid}/ns/{file}').st_ino}]:{LEFT_OUT[kind]}")
    return found


def namespaces_to_restore(spec: dict[str, Any], first: int) -> tuple[dict[str, list[bytes]], list[int]]:
    """The same for a restore, and descriptors for CRIU, which are to be its ``first`` and following ones; the
    caller closes them.

    Raises:
        ConfigError, Unsupported: one of them can't be had.
    """
    request: dict[str, list[bytes]] = {"inherit_fd": [], "join_ns": []}
    fds: list[int] = []
    for index, ns in enumerate((spec.get("linux") or {}).get("namespaces") or ()):
        kind, path = ns["type"], ns.get("path")
        if not path:
            continue
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            for fd in fds:
                os.close(fd)
            raise ConfigError(f"can't open {path}", config_path=f"$.linux.namespaces[{index}].path", syscall="open",
                              errno=error.errno or 0) from None  # fmt: skip
        if kind in LEFT_OUT:
            request["inherit_fd"].append(pair(LEFT_OUT[kind], first + len(fds)))
            fds.append(fd)
        else:
            request["join_ns"].append(pair(NAMESPACE_FILES[kind], path))
            os.close(fd)
    return request, fds


def streams(pid: int) -> tuple[list[str], list[str]]:
    """Where a process's standard streams lead, in the words of CRIU; and which of them are files outside of
    the container, which CRIU must be told to leave out."""
    mounts = {line.partition(" ")[0] for line in _os.lines(_os.read_text(f"/proc/{pid}/mountinfo"))}
    found, outside = [], []
    for fd in range(3):
        try:
            link = os.readlink(f"/proc/{pid}/fd/{fd}")
            info = dict(line.split(":\t", 1) for line in _os.lines(_os.read_text(f"/proc/{pid}/fdinfo/{fd}"))[:4])
            if link.startswith("/") and (mount := info.get("mnt_id", "")) not in mounts:
                link = f"file[{int(mount):x}:{os.stat(f'/proc/{pid}/fd/{fd}').st_ino:x}]"
                outside.append(link)
        except (FileNotFoundError, ProcessLookupError):  # closed
            link = ""
        found.append(link)
    return found, list(dict.fromkeys(outside))


def streams_to_restore(
    found: list[str], stdio: tuple[int, int, int], first: int
) -> tuple[list[bytes], list[int]]:
    """CRIU's descriptors to inherit in place of the container's former standard streams, and these descriptors,
    which are to be its ``first`` and following ones. (Not its own 0 to 2: it closes what it has passed on, and
    --shell-job needs those.)"""
    keys: dict[str, int] = {}
    for link, fd in zip(found, stdio, strict=False):
        if link.startswith(("pipe:", "file[")):
            keys.setdefault(link, fd)
    return [pair(key, first + index) for index, key in enumerate(keys)], list(keys.values())


def cgroup_roots(pid: int) -> list[bytes]:
    """Where CRIU is to make the cgroups of the images: in those of a process, per controller."""
    roots = []
    for line in _os.lines(_os.read_text(f"/proc/{pid}/cgroup")):
        _, controllers, path = line.split(":", 2)
        roots += [pair(controller, path) for controller in controllers.split(",")]
    return roots


