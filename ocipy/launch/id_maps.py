"""Writing the id maps of a user namespace (config-linux.md#user-namespace-mappings, user_namespaces(7))."""

from __future__ import annotations

from errno import EINVAL

from ocipy.errors import LaunchError, Unsupported
from ocipy.kernel import os
from ocipy.plan.namespaces import own_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PAGE = 4096  # bytes, at the least
SHOWN = 100  # letters of a map in an error
_SEARCH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


def write_maps(pid: int, section: dict[str, Any], where: str = "$.linux") -> None:
    """Map the ids of a process's new user namespace: directly where the caller may, else by newuidmap(1).

    Args:
        pid: the process, in the caller's pid namespace.
        section: what of the config has ``uidMappings`` and ``gidMappings``.
        where: its config path.

    Raises:
        LaunchError: the kernel or the helper program refused.
    """
    uids, gids = section.get("uidMappings") or [], section.get("gidMappings") or []
    privileged = os.geteuid() == 0
    if privileged or own_id(uids, os.geteuid()):
        _write(pid, "uid_map", uids, where)
    else:
        _program("newuidmap", pid, uids)
    if privileged:
        _write(pid, "gid_map", gids, where)
    elif own_id(gids, os.getegid()):
        # without privilege the kernel wants setgroups(2) given up before it takes a gid map
        os.write_text(f"/proc/{pid}/setgroups", "deny")
        _write(pid, "gid_map", gids, where)
    else:
        _program("newgidmap", pid, gids)


def check_joined(pid: int, linux: dict[str, Any]) -> None:
    """Refuse maps of the config that are not those of the user namespace that it joins by path. Engines write them down
    as well; others would be ignored.

    Args:
        pid: a process in that namespace.
        linux: ``linux`` of the config.

    Raises:
        LaunchError: they differ.
    """
    if not any(ns["type"] == "user" and ns.get("path") for ns in linux.get("namespaces") or ()):
        return
    for name in ("uid", "gid"):
        maps = linux.get(f"{name}Mappings")
        if not maps:
            continue
        try:
            numbers = list(map(int, os.read_text(f"/proc/{pid}/{name}_map").split()))
        except OSError:  # it died: what comes next says so
            return
        if set(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)) != {
            (m["containerID"], m["hostID"], m["size"]) for m in maps
        }:
            raise LaunchError(
                "not the map of the user namespace that is joined by its path", code="id-map",
                config_path=f"$.linux.{name}Mappings", hint="leave it out",
            )  # fmt: skip


def check_programs(linux: dict[str, Any]) -> None:
    """Refuse, before anything is made, maps for which a program is missing. Raises Unsupported."""
    for kind, own in ("uid", os.geteuid()), ("gid", os.getegid()):
        maps = linux.get(f"{kind}Mappings") or []
        if maps and not own_id(maps, own) and not _find(f"new{kind}map"):
            raise Unsupported(
                f"new{kind}map is not installed, and mapping more than one's own {kind} takes it", code="id-map",
                config_path=f"$.linux.{kind}Mappings",
                hint=f"install the package uidmap, or map nothing but {kind} {own}, with size 1",
            )  # fmt: skip


def host_id(maps: list[dict[str, int]], inside: int) -> int | None:
    """The host's id for one of a user namespace; None if it has none."""
    for m in maps:
        if 0 <= inside - m["containerID"] < m["size"]:
            return m["hostID"] + inside - m["containerID"]
    return None


def _write(pid: int, name: str, maps: list[dict[str, int]], where: str) -> None:
    text = "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in maps)
    try:
        os.write_text(f"/proc/{pid}/{name}", text)
    except OSError as error:
        known = os.read_text(f"/proc/self/{name}").split()
        ranges = zip(known[::3], known[2::3], strict=True)
        words = ", ".join(f"{first}-{int(first) + int(size) - 1}" for first, size in ranges)
        shown = text.strip() if len(text) < SHOWN else f"{text[:SHOWN]}..."
        hint = f"the caller itself has {words}"
        if error.errno == EINVAL and len(text) >= PAGE:
            hint = f"as text the map has {len(text)} bytes, and the kernel takes less than a page"
        raise LaunchError(
            f"can't map {shown!r}", config_path=f"{where}.{name[:3]}Mappings",
            syscall=f"write /proc/PID/{name}", errno=error.errno or 0, code="id-map", hint=hint,
        ) from None  # fmt: skip


def _find(name: str) -> str:
    return next((f"{d}/{name}" for d in _SEARCH if os.exists(f"{d}/{name}")), "")


def _program(name: str, pid: int, maps: list[dict[str, int]]) -> None:
    args = [_find(name), str(pid)]
    for m in maps:
        args += [str(m["containerID"]), str(m["hostID"]), str(m["size"])]
    import subprocess  # not on root's path

    kind = name[3:6]
    try:
        done = subprocess.run(args, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise LaunchError(
            f"can't run {args[0]}", config_path=f"$.linux.{kind}Mappings", code="id-map", syscall="execve",
            errno=error.errno or 0,
        ) from None  # fmt: skip
    if done.returncode:
        words = done.stderr.strip() or f"exit status {done.returncode}"
        raise LaunchError(
            " | ".join(words.removeprefix(f"{name}: ").split("\n")), config_path=f"$.linux.{kind}Mappings",
            code="id-map", syscall=name, hint=_powerless(args[0]) or _allowed(kind),
        )  # fmt: skip


def _powerless(path: str) -> str:
    """Why newuidmap(1) runs with no more than the caller's own privileges; "" if it does not."""
    import os as stdlib
    import stat

    if "\nNoNewPrivs:\t1\n" in os.read_text("/proc/self/status"):
        return "the caller runs with no_new_privs, which makes setuid programs powerless"
    if stdlib.statvfs(path).f_flag & stdlib.ST_NOSUID:
        return f"{path} is on a file system that is mounted nosuid"
    found = stdlib.stat(path)
    if not (found.st_mode & stat.S_ISUID and found.st_uid == 0):
        try:
            stdlib.getxattr(path, "security.capability")
        except OSError:
            return f"{path} is neither setuid root nor has it file capabilities"
    return ""


def _allowed(kind: str) -> str:
    """What /etc/subuid or /etc/subgid allows the caller: lines of ``user name or uid:first id:count``."""
    file, uid = f"/etc/sub{kind}", os.geteuid()
    try:
        import pwd

        names = {str(uid), pwd.getpwuid(uid).pw_name}
    except KeyError:
        return f"uid {uid} has no name in the user database, which new{kind}map wants"
    try:
        lines = [line.split(":") for line in os.lines(os.read_text(file))]
    except OSError as error:
        return f"{file}: {os.strerror(error.errno or 0).lower()}"
    own = [
        (int(row[1]), int(row[2])) for row in lines
        if len(row) == 3 and row[0] in names and row[1].isdecimal() and row[2].isdecimal()
    ]  # fmt: skip
    words = ", ".join(f"{first}-{first + count - 1}" for first, count in own)
    return f"{file} allows {words or 'no ids'} to {' or '.join(sorted(names))}, besides one's own {kind}"
