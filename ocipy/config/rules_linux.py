"""The rules of the ``linux`` section (see ``rules``): namespaces, ids, devices, sysctl, seccomp, cgroups."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.fault import Namespaces, Row

RARE = ("intelRdt", "memoryPolicy", "netDevices", "personality", "timeOffsets")
ID_EXTENTS = 340  # UID_GID_MAP_MAX_EXTENTS, kernel/user_namespace.c
UNSET_SWAPPINESS = 2**64 - 1  # -1 as engines write it into an unsigned property: left alone
IPC_SYSCTLS = frozenset((
    "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax",
    "kernel/shmmni", "kernel/shm_rmid_forced",
))  # fmt: skip
ERRNO_ACTIONS = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")
_SWAP_SEPARATORS = {ord("."): "/", ord("/"): "."}


def linux_rows(linux: dict[str, Any], namespaces: Namespaces | None, out: list[Row]) -> None:
    """The broken rules of a ``linux`` section; ``namespaces`` is None where they are not known."""
    _namespaces(linux.get("namespaces", ()), out)
    if namespaces is not None:
        _user_namespace(linux, namespaces, out)
    for name in ("uidMappings", "gidMappings"):
        if name in linux:
            id_mappings(linux[name], f"$.linux.{name}", out)
    for name, anchor in (("maskedPaths", "masked-paths"), ("readonlyPaths", "readonly-paths")):
        if linux.get(name):
            _paths(linux[name], name, anchor, namespaces, out)
    for index, device in enumerate(linux.get("devices", ())):
        _device(device, f"$.linux.devices[{index}]", out)
    path = linux.get("cgroupsPath", "")
    if ".." in path and ".." in path.split("/"):
        out.append(("$.linux.cgroupsPath", path, "a path without '..'", "config-linux.md#cgroups-path"))
    if "sysctl" in linux:
        _sysctls(linux["sysctl"], namespaces, out)
    if "seccomp" in linux:
        _seccomp(linux["seccomp"], out)
    if "resources" in linux:
        resources_rows(linux["resources"], "$.linux.resources", out)
    for name in RARE:
        if name in linux:
            from ocipy.config.rules_rare import linux_rows as rare_rows

            rare_rows(linux, namespaces, out)
            break


def _namespaces(entries: Any, out: list[Row]) -> None:
    section = "config-linux.md#namespaces"
    seen = set()
    for index, entry in enumerate(entries):
        kind, path = entry.get("type"), entry.get("path")
        if kind is not None and kind in seen:
            out.append((f"$.linux.namespaces[{index}].type", kind, "each type once", section))
        seen.add(kind)
        if path and path[0] != "/":
            out.append((f"$.linux.namespaces[{index}].path", path, "an absolute path", section))


def _user_namespace(linux: dict[str, Any], namespaces: Namespaces, out: list[Row]) -> None:
    """A new user namespace needs both mappings; without one they would be ignored.

    Where one is joined by its path they may be there too: engines write down the joined one's.
    """
    section = "config-linux.md#user-namespace-mappings"
    path = namespaces.get("user")
    for name in ("uidMappings", "gidMappings"):
        if path is None and linux.get(name):
            out.append(
                (f"$.linux.{name}", linux[name], "only with a user namespace in linux.namespaces", section)
            )
        elif path == "" and not linux.get(name):
            out.append(
                (f"$.linux.{name}", linux.get(name), "mappings for the new user namespace", section)
            )


def id_mappings(
    entries: list[dict[str, Any]], path: str, out: list[Row],
    section: str = "config-linux.md#user-namespace-mappings",
) -> None:  # fmt: skip
    """What the kernel refuses in a uid_map or gid_map: empty, overflowing, overlapping or too many ranges."""
    if len(entries) > ID_EXTENTS:
        out.append((path, f"{len(entries)} ranges", f"at most {ID_EXTENTS} ranges", section))
    sides: dict[str, list[tuple[int, int, int]]] = {"containerID": [], "hostID": []}
    for index, entry in enumerate(entries):
        size = entry.get("size")
        if size is None:
            continue
        if size == 0:
            out.append((f"{path}[{index}].size", 0, "an integer of at least 1", section))
            continue
        for side, ranges in sides.items():
            first = entry.get(side)
            if first is None:
                continue
            if first + size > 2**32 - 1:  # the last id, (uid_t) -1, is no id
                out.append((f"{path}[{index}].size", size, f"no id above 4294967294 from {side} on", section))
            else:
                ranges.append((first, first + size, index))
    if len(entries) > 1:
        for side, ranges in sides.items():
            ranges.sort()
            reach = (0, 0, 0)  # the range that goes furthest so far
            for entry_range in ranges:
                if entry_range[0] < reach[1]:
                    out.append(
                        (f"{path}[{entry_range[2]}].{side}", entry_range[0],
                         f"a range that does not overlap entry {reach[2]}", section)
                    )  # fmt: skip
                if entry_range[1] > reach[1]:
                    reach = entry_range


def _paths(paths: list[str], name: str, anchor: str, namespaces: Namespaces | None, out: list[Row]) -> None:
    section = f"config-linux.md#{anchor}"
    for index, path in enumerate(paths):
        if path[:1] != "/":
            out.append((f"$.linux.{name}[{index}]", path, "an absolute path", section))
        elif name == "maskedPaths" and {"", ".", ".."}.issuperset(path.split("/")):
            # what covers the root is not seen from within
            out.append((f"$.linux.{name}[{index}]", path, "a path below /", section))
    if namespaces is not None and "mount" not in namespaces:  # it would change the host's own tree
        out.append((f"$.linux.{name}", paths, "only with a mount namespace in linux.namespaces", section))


def _device(device: dict[str, Any], path: str, out: list[Row]) -> None:
    section = "config-linux.md#devices"
    where = device.get("path")
    if where is not None and where[:1] != "/":
        out.append((f"{path}.path", where, "an absolute path", section))
    if device.get("type") in ("c", "b", "u"):
        for name, limit in (("major", 0xFFF), ("minor", 0xFFFFF)):  # 12 and 20 bits of a dev_t
            number = device.get(name)
            if number is None or not 0 <= number <= limit:
                out.append((f"{path}.{name}", number, f"an integer from 0 to {limit}", section))


def sysctl_path(name: str) -> str:
    """A kernel parameter's path below /proc/sys, or "" where the name is none.

    As sysctl(8) has it, the separator is whichever of ``.`` and ``/`` comes first; the other one is then
    part of a name (``net.ipv4.conf.eth0/1.rp_filter``). No component can climb out of /proc/sys.
    """
    dot, slash = name.find("."), name.find("/")
    if dot >= 0 and (slash < 0 or dot < slash):
        name = name.translate(_SWAP_SEPARATORS)
    for part in name.split("/"):
        if part in ("", ".", ".."):
            return ""
    return name


def _sysctls(parameters: dict[str, str], namespaces: Namespaces | None, out: list[Row]) -> None:
    """Only what a namespace of the container's own holds may be set: the rest would change the host."""
    for name, value in parameters.items():
        path = sysctl_path(name)
        allowed = ""
        if path in IPC_SYSCTLS or path.startswith("fs/mqueue/"):
            needed = "ipc"
        elif path.startswith("net/"):
            needed = "network"
        elif path.startswith("user/"):
            needed = "user"
        elif path == "kernel/domainname":
            needed = "uts"
        else:
            needed = ""
            allowed = "a parameter that belongs to a namespace"
            if path == "kernel/hostname":
                allowed = "the hostname property instead"
        if needed and namespaces is not None and needed not in namespaces:
            allowed = f"only with a {needed} namespace in linux.namespaces"
        elif needed == "uts" and (len(value.encode("utf-8", "surrogatepass")) > 64 or "\n" in value[:-1]):
            allowed = "at most 64 bytes in a line"  # the kernel would take the beginning, and say nothing
        if allowed:
            from ocipy.config.fault import below

            out.append((below("$.linux.sysctl", name), value, allowed, "config-linux.md#sysctl"))


def _seccomp(seccomp: dict[str, Any], out: list[Row]) -> None:
    section = "config-linux.md#seccomp"
    path = "$.linux.seccomp"
    action = seccomp.get("defaultAction")
    notify = action == "SCMP_ACT_NOTIFY"
    if "defaultErrnoRet" in seccomp:
        _errno(action, seccomp["defaultErrnoRet"], f"{path}.defaultErrnoRet", out)
    for index, entry in enumerate(seccomp.get("syscalls", ())):
        action = entry.get("action")
        if action == "SCMP_ACT_NOTIFY":
            notify = True
        if "errnoRet" in entry:
            _errno(action, entry["errnoRet"], f"{path}.syscalls[{index}].errnoRet", out)
        names = entry.get("names", ())
        if "" in names:
            place = f"{path}.syscalls[{index}].names[{names.index('')}]"
            out.append((place, "", "the name of a system call", section))
        for number, argument in enumerate(entry.get("args", ())):
            if argument.get("index", 0) > 5:  # a system call has at most six
                place = f"{path}.syscalls[{index}].args[{number}].index"
                out.append((place, argument["index"], "an integer from 0 to 5", section))
    listener = seccomp.get("listenerPath")
    if notify and not listener:
        out.append((f"{path}.listenerPath", listener, "a socket, for SCMP_ACT_NOTIFY", section))
    if seccomp.get("listenerMetadata") and not listener:
        out.append(
            (f"{path}.listenerMetadata", seccomp["listenerMetadata"], "only with listenerPath", section)
        )


def _errno(action: str | None, number: int, path: str, out: list[Row]) -> None:
    section = "config-linux.md#seccomp"
    if action is not None and action not in ERRNO_ACTIONS:
        out.append((path, number, "only with " + " or ".join(ERRNO_ACTIONS), section))
    elif action == "SCMP_ACT_ERRNO" and number > 4095:  # the kernel would cap it at MAX_ERRNO
        out.append((path, number, "an integer from 0 to 4095", section))
    elif action == "SCMP_ACT_TRACE" and number > 0xFFFF:  # SECCOMP_RET_DATA has 16 bits
        out.append((path, number, "an integer from 0 to 65535", section))


def resources_rows(resources: dict[str, Any], path: str, out: list[Row]) -> None:
    """The broken rules of a ``linux.resources`` object (also the file of ``update --resources``)."""
    for index, device in enumerate(resources.get("devices", ())):
        _device_rule(device, f"{path}.devices[{index}]", out)
    if "memory" in resources:
        _memory(resources["memory"], f"{path}.memory", out)
    cpu = resources.get("cpu")
    if cpu:
        section = "config-linux.md#cpu"
        quota, burst = cpu.get("quota", 0), cpu.get("burst", 0)
        if burst > quota > 0:
            out.append((f"{path}.cpu.burst", burst, f"at most the quota, {quota}", section))
        if cpu.get("idle", 0) not in (0, 1):
            out.append((f"{path}.cpu.idle", cpu["idle"], "0 or 1", section))
    if "blockIO" in resources or "rdma" in resources or "unified" in resources:
        from ocipy.config.rules_rare import resources_rows as rare_rows

        rare_rows(resources, path, out)


def _device_rule(rule: dict[str, Any], path: str, out: list[Row]) -> None:
    section = "config-linux.md#allowed-device-list"
    if rule.get("type", "a") not in ("a", "b", "c", ""):
        out.append((f"{path}.type", rule["type"], "a, b or c", section))
    access = rule.get("access", "")
    if access.strip("rwm"):
        out.append((f"{path}.access", access, "any of r, w and m", section))
    for name in ("major", "minor"):  # engines write -1 for "all"
        if rule.get(name, 0) < -1:
            out.append((f"{path}.{name}", rule[name], "an integer of at least 0", section))


def _memory(memory: dict[str, Any], path: str, out: list[Row]) -> None:
    section = "config-linux.md#memory"
    for name in ("limit", "reservation", "swap", "kernel", "kernelTCP"):
        if memory.get(name, 0) < -1:
            out.append((f"{path}.{name}", memory[name], "bytes, or -1 for no limit", section))
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit > swap > 0:
        out.append((f"{path}.swap", swap, f"memory and swap together: at least the limit, {limit}", section))
    swappiness = memory.get("swappiness", 0)
    if swappiness > 100 and swappiness != UNSET_SWAPPINESS:
        out.append((f"{path}.swappiness", swappiness, "an integer from 0 to 100", section))
