"""Writing the id maps of a user namespace (config-linux.md#user-namespace-mappings, user_namespaces(7))."""

from __future__ import annotations

from ocipy import _os as os
from ocipy.errors import LaunchError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SEARCH = ("/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin")


def write_maps(pid: int, linux: dict[str, Any]) -> None:
    """Map the ids of a process's new user namespace: directly where the caller may, else by newuidmap(1).

    Raises:
        LaunchError: the kernel or the helper program refused, or there is no helper program.
    """
    uids, gids = linux.get("uidMappings") or [], linux.get("gidMappings") or []
    privileged = os.geteuid() == 0
    if privileged or _single(uids, os.geteuid()):
        _write(pid, "uid_map", uids)
    else:
        _program("newuidmap", pid, uids, "$.linux.uidMappings")
    if privileged:
        _write(pid, "gid_map", gids)
    elif _single(gids, os.getegid()):
        # without privilege the kernel wants setgroups(2) given up before it takes a gid map
        os.write_text(f"/proc/{pid}/setgroups", "deny")
        _write(pid, "gid_map", gids)
    else:
        _program("newgidmap", pid, gids, "$.linux.gidMappings")


def _single(maps: list[dict[str, int]], own: int) -> bool:
    return len(maps) == 1 and maps[0]["size"] == 1 and maps[0]["hostID"] == own


def _write(pid: int, name: str, maps: list[dict[str, int]]) -> None:
    text = "".join(f"{m['containerID']} {m['hostID']} {m['size']}\n" for m in maps)
    try:
        os.write_text(f"/proc/{pid}/{name}", text)
    except OSError as error:
        raise LaunchError(
            f"can't map {text.strip()!r}", config_path=f"$.linux.{name[:3]}Mappings",
            syscall=f"write /proc/PID/{name}", errno=error.errno or 0, code="id-map",
            hint="an id of the host that is not mapped for the caller?",
        ) from None  # fmt: skip


def _program(name: str, pid: int, maps: list[dict[str, int]], where: str) -> None:
    path = next((f"{d}/{name}" for d in _SEARCH if os.exists(f"{d}/{name}")), "")
    if not path:
        raise LaunchError(
            f"{name} is not installed, and mapping more than one's own id takes it", config_path=where,
            code="id-map", hint="install the package uidmap",
        )  # fmt: skip
    args = [name, str(pid)]
    for m in maps:
        args += [str(m["containerID"]), str(m["hostID"]), str(m["size"])]
    import subprocess  # not on root's path

    done = subprocess.run([path, *args[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip() or f"exit status {done.returncode}"
        raise LaunchError(
            f"{name}: {words}", config_path=where, code="id-map", hint="see /etc/subuid and /etc/subgid"
        )
