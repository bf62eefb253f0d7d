"""What a recorded state must look like, field by field.

The record is checked once, when it is read, so that the rest of the code can count on it: a disk that has lost a
block, or somebody with an editor, must neither end in a defect nor make `delete` kill or remove what is not the
container's. The types are those that ``Record.new``, create, restore and update write. Properties that are not listed
are another version's, and are left alone.
"""

from __future__ import annotations

from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: whether a value is right, and in words what it should be
    Rule = tuple[Callable[[Any], bool], str]

PID_MAX = 1 << 22  # PID_MAX_LIMIT of linux/threads.h: no process has a greater number
HOOKS = ("startContainer", "poststart", "poststop")


def _text(value: Any) -> bool:
    """A string that the kernel can take."""
    if type(value) is not str or "\0" in value:
        return False
    if not value.isascii():
        try:
            value.encode(errors="surrogateescape")
        except UnicodeEncodeError:
            return False
    return True


def _path(value: Any) -> bool:
    return _text(value) and value[:1] == "/"


def _clean(value: Any) -> bool:
    """An absolute path below / in its shortest form: no ``..`` leads out of where it seems to be."""
    return _path(value) and len(value) > 1 and os.clean(value) == value


def _list(value: Any) -> bool:
    return type(value) is list and all(map(_text, value))


def _texts(value: Any) -> bool:
    return type(value) is dict and all(map(_text, value)) and all(map(_text, value.values()))


def _strings(value: Any) -> bool:
    """As annotations are: they only ever go into JSON again, and may have a NUL."""
    return type(value) is dict and all(type(text) is str for text in value.values())


def _number(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


def _signed(value: Any) -> bool:
    return type(value) is int and -1 <= value < 1 << 63


def _flag(value: Any) -> bool:
    return type(value) is bool


def _pid(value: Any) -> bool:
    """0, or that of a process which can be a container's first: not the machine's own, nor this one."""
    return type(value) is int and (value == 0 or (1 < value <= PID_MAX and value != os.getpid()))


def _uid(value: Any) -> bool:
    return type(value) is int and 0 <= value < 0xFFFFFFFF


def _paths(value: Any) -> bool:
    return type(value) is dict and all(map(_text, value)) and all(map(_clean, value.values()))


STRING: Rule = (_text, "a string")
FLAG: Rule = (_flag, "true or false")
NUMBER: Rule = (_number, "a number")
OBJECT: Rule = (lambda value: type(value) is dict, "an object")

RECORD: dict[str, Rule] = {
    "id": STRING,
    "bundle": (_path, "an absolute path"),
    "rootfs": (_path, "an absolute path"),
    "annotations": (_strings, "an object of strings"),
    "pid": (_pid, "0 or the number of a process"),
    "start_time": NUMBER,
    "created": STRING,
    "owner": (_uid, "a user id"),
    "terminal": FLAG,
    "hooks": OBJECT,
    "cgroup": OBJECT,
    "plan_options": OBJECT,
    "seccomp_agent": OBJECT,
    "intel_rdt": OBJECT,
    "memory_swap": (_signed, "a number of bytes"),
    "shared_pids": FLAG,  # its pid namespace is the caller's, or was joined by a path: others are in it
}
#: what is written only for containers that have it
RARE = frozenset(("plan_options", "seccomp_agent", "intel_rdt", "memory_swap", "shared_pids"))

HOOK: dict[str, Rule] = {
    "path": (_path, "an absolute path"),
    "args": (_list, "an array of strings"),
    "env": (_list, "an array of strings"),
    "timeout": (lambda value: type(value) is int, "a number of seconds"),  # the spec knows no greatest one
}
CGROUP: dict[str, Rule] = {
    "driver": (lambda value: value in ("v1", "v2", "systemd"), "v1, v2 or systemd"),
    "paths": (_paths, "an object of absolute paths in their shortest form"),
    "optional": FLAG,
    "unit": OBJECT,
    "legacy": FLAG,
}
UNIT: dict[str, Rule] = {
    "name": STRING, "slice": STRING, "id": STRING, "bus": STRING, "user": FLAG, "version": NUMBER,
}  # fmt: skip
RDT: dict[str, Rule] = {
    "root": (_clean, "an absolute path"),
    "group": (_clean, "an absolute path"),
    "monitor": (lambda value: value == "" or _clean(value), "an absolute path, or empty"),
    "fate": (lambda value: value in ("own", "fresh", "shared"), "own, fresh or shared"),
}
OPTIONS: dict[str, Rule] = {
    "no_pivot": FLAG,
    "no_new_keyring": FLAG,
    "listen_pid": FLAG,
    "env": (_list, "an array of strings"),
    "notify_dir": (_path, "an absolute path"),
}
AGENT: dict[str, Rule] = {
    "listenerPath": STRING,
    "listenerMetadata": (lambda value: type(value) is str, "a string"),
}


def wrong(state: dict[str, Any], container_id: str) -> str:
    """The first thing that is wrong with a recorded state, in words; "" if nothing is."""
    found = _members(state, "", RECORD, RARE) or _process(state) or _hooks(state["hooks"])
    if found:
        return found
    if state["id"] != container_id:
        return _found("id", state["id"], f"{container_id}, as its directory is called")
    found = cgroup(state["cgroup"])
    if not found and "plan_options" in state:
        found = _members(state["plan_options"], "plan_options", OPTIONS, OPTIONS)
    if not found and "seccomp_agent" in state:
        found = _members(state["seccomp_agent"], "seccomp_agent", AGENT, ("listenerMetadata",))
    if not found and "intel_rdt" in state:
        found = rdt(state["intel_rdt"], container_id)
    return found


def remains(state: Any, container_id: str) -> dict[str, Any]:
    """What can still be relied on of a damaged state, for `delete --force`: the process if it is told by number and
    start time; the cgroup; the groups of resctrl. Hooks are not among it: nothing that is damaged is executed."""
    kept: dict[str, Any] = {"pid": 0, "start_time": 0}
    if type(state) is not dict:
        return kept
    process = {name: state.get(name) for name in kept}
    if _pid(process["pid"]) and _number(process["start_time"]) and not _process(process):
        kept = process
    for name, fault in (
        ("cgroup", cgroup(state.get("cgroup"))),
        ("intel_rdt", rdt(state.get("intel_rdt"), container_id)),
    ):
        if not fault:
            kept[name] = state[name]
    return kept


def _members(value: Any, where: str, rules: dict[str, Rule], optional: Any = ()) -> str:
    if type(value) is not dict:
        return _found(where, value, "an object")
    for name, (right, allowed) in rules.items():
        if name not in value:
            if name not in optional:
                return f"{where}{'.' * bool(where)}{name} is missing"
        elif not right(value[name]):
            return _found(f"{where}{'.' * bool(where)}{name}", value[name], allowed)
    return ""


def _process(state: dict[str, Any]) -> str:
    # with the start time 0, which one that has ended has, it would seem to be there for ever
    return "start_time: found 0 beside a pid" if state["pid"] and not state["start_time"] else ""


def _hooks(hooks: dict[str, Any]) -> str:
    for kind in HOOKS:
        listed = hooks.get(kind, [])
        if type(listed) is not list:
            return _found(f"hooks.{kind}", listed, "an array of hooks")
        for index, hook in enumerate(listed):
            if found := _members(hook, f"hooks.{kind}[{index}]", HOOK, ("args", "env", "timeout")):
                return found
    return ""


def cgroup(value: Any) -> str:
    """What is wrong with the recorded control groups; "" if nothing is."""
    if found := _members(value, "cgroup", CGROUP, ("optional", "unit", "legacy")):
        return found
    paths = value["paths"]
    if value["driver"] == "systemd":
        found = _members(value.get("unit"), "cgroup.unit", UNIT) or (
            "" if "legacy" in value else "cgroup.legacy is missing"
        )
        if found:
            return found
        name = value["unit"]["name"]
        # what is stopped is what is in these directories, and no other unit
        if not name.endswith((".scope", ".slice")) or any(os.basename(path) != name for path in paths.values()):
            return _found("cgroup.unit.name", name, "the scope or slice that its directories are called by")
    unified = value["driver"] == "v2" or value.get("legacy") is False
    if unified and value["driver"] != "v1" and set(paths) - {""}:
        return _found("cgroup.paths", paths, "one directory")
    return ""


def rdt(value: Any, container_id: str) -> str:
    """What is wrong with the recorded groups of resctrl; "" if nothing is."""
    if found := _members(value, "intel_rdt", RDT):
        return found
    root, group, monitor = value["root"], value["group"], value["monitor"]
    if (group != root and os.dirname(group) != root) or (value["fate"] == "own" and group != f"{root}/{container_id}"):
        return _found("intel_rdt.group", group, f"a directory right in {root}")
    if monitor not in ("", f"{group}/mon_groups/{container_id}"):
        return _found("intel_rdt.monitor", monitor, f"{group}/mon_groups/{container_id}, or empty")
    return ""


def _found(where: str, value: Any, allowed: str) -> str:
    from ocipy.config.fault import shown

    return f"{where}: found {shown(value)}, expected {allowed}"
