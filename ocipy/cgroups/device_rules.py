"""Device rules: what ``linux.resources.devices`` means, for both cgroup versions.

The meaning, from runtime-spec "Allowed Device list": everything is denied at first, then each entry in
turn allows or denies some kinds of access (r, w, m) to some devices. An entry without a type is for both
types (``a``), without a number for every number.

v1 kernels read ``a`` as "all devices, whatever else the entry says"; here an entry of type ``a`` that names
numbers or only some access means just that, and is written as one ``b`` and one ``c`` rule.
"""

from __future__ import annotations

from ocipy.errors import ConfigError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Rule = tuple[bool, str, int, int, str]  # allow, type, major, minor, access
    Key = tuple[str, int, int]  # type, major, minor

ANY = -1

# What every container has, whatever its rules say (they come last); the same as runc's and crun's, which
# engines build on. The devices of runtime-spec "Default Devices", /dev/net/tun, pseudo terminals, and
# making (not opening) any device node. Type, major, minor, access.
ALWAYS_ALLOWED = (
    ("c", ANY, ANY, "m"),
    ("b", ANY, ANY, "m"),
    ("c", 1, 3, "rwm"),  # null
    ("c", 1, 5, "rwm"),  # zero
    ("c", 1, 7, "rwm"),  # full
    ("c", 1, 8, "rwm"),  # random
    ("c", 1, 9, "rwm"),  # urandom
    ("c", 5, 0, "rwm"),  # tty
    ("c", 5, 2, "rwm"),  # ptmx
    ("c", 136, ANY, "rwm"),  # pts/*
    ("c", 10, 200, "rwm"),  # net/tun
)


def rules(devices: list[dict[str, Any]], where: str) -> list[Rule]:
    """The entries as tuples, checked, with the always allowed ones behind.

    Raises:
        ConfigError: an entry has no access, a wrong type or a wrong number.
    """
    found: list[Rule] = []
    for index, entry in enumerate(devices):
        kind = entry.get("type") or "a"
        access = entry.get("access") or ""
        if kind not in ("a", "b", "c"):
            raise ConfigError(
                f"a device rule's type is a, b or c, not {kind!r}", config_path=f"{where}[{index}].type"
            )
        if not access or set(access) - set("rwm"):
            raise ConfigError(
                f"a device rule's access is made of r, w and m, not {access!r}",
                config_path=f"{where}[{index}].access",
            )
        major, minor = entry.get("major"), entry.get("minor")
        major = ANY if major is None else major
        minor = ANY if minor is None else minor
        for name, value in (("major", major), ("minor", minor)):
            if not ANY <= value < 1 << 32:
                raise ConfigError(
                    f"a device number does not fit 32 bits: {value}", config_path=f"{where}[{index}].{name}"
                )
        ordered = "".join(letter for letter in "rwm" if letter in access)
        found.append((entry["allow"], kind, major, minor, ordered))
    found += [(True, *always) for always in ALWAYS_ALLOWED]
    return found


def is_all(rule: Rule) -> bool:
    """Whether a rule is for all devices and any access, and so makes those before it void."""
    return rule[1:] == ("a", ANY, ANY, "rwm")


class State:
    """What a v1 devices cgroup holds: a default, and exceptions from it, all of one direction.

    Attributes:
        allow: whether what no exception matches is allowed.
        exceptions: access per (type, major, minor), to be denied if ``allow``, else to be allowed.
    """

    __slots__ = ("allow", "exceptions")

    def __init__(self, allow: bool = False, exceptions: dict[Key, str] | None = None) -> None:
        self.allow = allow
        self.exceptions: dict[Key, str] = {} if exceptions is None else exceptions


def state(ordered: Iterable[Rule], where: str = "") -> State:
    """The v1 state that rules lead to.

    Raises:
        Unsupported: a rule takes back a part of what an earlier one gave: v1 has no exceptions from
            exceptions (the kernel would silently do nothing).
    """
    result = State()
    for index, rule in enumerate(ordered):
        allow, kind, major, minor, access = rule
        if is_all(rule):
            result = State(allow)
            continue
        for one in ("b", "c") if kind == "a" else (kind,):
            key = (one, major, minor)
            if allow != result.allow:
                held = result.exceptions.get(key, "")
                result.exceptions[key] = "".join(a for a in "rwm" if a in access or a in held)
                continue
            for other, held in list(result.exceptions.items()):
                rest = "".join(a for a in held if a not in access)
                if rest == held or not _overlap(other, key):
                    continue
                if not covers(key, other):
                    verbs = ("allow", "denied") if allow else ("deny", "allowed")
                    raise Unsupported(
                        f"cgroup v1 can't {verbs[0]} {_text(key, access)} after {_text(other, held)} "
                        f"was {verbs[1]}",
                        phase="cgroup", config_path=f"{where}[{index}]" if where else "",
                    )
                if rest:
                    result.exceptions[other] = rest
                else:
                    del result.exceptions[other]
    if not result.allow:
        _join(result.exceptions)
    return result


def _join(allowed: dict[Key, str]) -> None:
    """Let devices be opened to read and write at once that one exception lets read and another lets write: a v1 kernel
    looks for one exception that has all of what is asked for (match_exception). Making a node it asks for alone."""
    reading = [key for key, access in allowed.items() if "r" in access and "w" not in access]
    writing = [key for key, access in allowed.items() if "w" in access and "r" not in access]
    whole = [key for key, access in allowed.items() if "r" in access and "w" in access]
    for one in reading:
        for other in writing:
            if not _overlap(one, other):
                continue
            both: Key = (one[0], max(one[1], other[1]), max(one[2], other[2]))  # the number, where one has ANY
            if not any(covers(wide, both) for wide in whole):
                held = allowed.get(both, "")
                allowed[both] = "".join(letter for letter in "rwm" if letter in "rw" or letter in held)


def covers(wide: Key, key: Key) -> bool:
    """Whether a key stands for all devices that another one does."""
    return wide[0] == key[0] and wide[1] in (ANY, key[1]) and wide[2] in (ANY, key[2])


def _overlap(one: Key, other: Key) -> bool:
    pairs = zip(one[1:], other[1:], strict=True)
    return one[0] == other[0] and all(ANY in pair or pair[0] == pair[1] for pair in pairs)


def _text(key: Key, access: str) -> str:
    numbers = ":".join("*" if number == ANY else str(number) for number in key[1:])
    return f"{key[0]} {numbers} {access}"


def parse_list(text: str) -> State:
    """The state that ``devices.list`` shows. With an allowing default, its exceptions don't show."""
    result = State()
    for line in text.splitlines():
        kind, numbers, access = line.split(" ")
        if kind == "a":
            return State(allow=True)
        major, minor = (ANY if number == "*" else int(number) for number in numbers.split(":"))
        result.exceptions[kind, major, minor] = access
    return result


def transition(old: State | None, new: State) -> list[tuple[str, str]]:
    """The (file, line) writes that lead from one v1 state to another.

    As few as possible, and what both allow stays allowed in between: a container may be running.

    Args:
        old: what ``devices.list`` shows; None for a new cgroup, which has its parent's state.
    """
    grant, revoke = ("devices.deny", "devices.allow") if new.allow else ("devices.allow", "devices.deny")
    writes = []
    before: dict[Key, str] = {}
    if old is None or old.allow or new.allow:
        writes.append((revoke, "a"))
    else:
        before = old.exceptions
    for key, access in before.items():
        lost = "".join(a for a in access if a not in new.exceptions.get(key, ""))
        if lost:
            writes.append((revoke, _text(key, lost)))
    for key, access in new.exceptions.items():
        gained = "".join(a for a in access if a not in before.get(key, ""))
        if gained:
            writes.append((grant, _text(key, gained)))
    return writes
