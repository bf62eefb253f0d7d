"""What systemd is told of a container: the unit's name, its place and its properties. Pure.

Limits are read back from the cgroup's files once the kernel has taken them: so systemd, which writes them again when
it is reloaded, has the same values, whatever the conversions between (memory and swap, shares and weight) were.
"""

from __future__ import annotations

from ocipy.cgroups import device_rules
from ocipy.cgroups.device_rules import ANY, covers
from ocipy.cgroups.systemd import gvariant
from ocipy.config.fault import below
from ocipy.errors import ConfigError, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    #: name, (signature, value), and the config path that it is from
    Property = tuple[str, tuple[str, Any], str]
    #: the content of a cgroup file, "" if there is none
    Read = Callable[[str], str]

WHERE = "$.linux.cgroupsPath"
PREFIX = "org.systemd.property."
INFINITY = 2**64 - 1  # for systemd
UNLIMITED = 1 << 62  # v1 shows no limit as the largest multiple of a page in 63 bits
DEFAULT_PERIOD = 100000  # microseconds
IDLE_SINCE, OOM_POLICY_SINCE = 252, 253  # versions of systemd: CPUWeight=idle; OOMPolicy of a scope
#: of names of slices and scopes: those with an @, templates and their instances, are for other kinds of units
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\")

#: section of linux.resources, keys of it that are about this, file, property
_V2 = (
    ("memory", ("limit",), "memory.max", "MemoryMax"),
    ("memory", ("reservation",), "memory.low", "MemoryLow"),
    ("memory", ("swap", "limit"), "memory.swap.max", "MemorySwapMax"),
    ("memory", (), "memory.high", "MemoryHigh"),
    ("memory", (), "memory.min", "MemoryMin"),
    ("cpu", ("shares", "idle"), "cpu.weight", "CPUWeight"),
    ("cpu", ("quota", "period"), "cpu.max", "CPUQuota"),
    ("cpu", ("cpus",), "cpuset.cpus", "AllowedCPUs"),
    ("cpu", ("mems",), "cpuset.mems", "AllowedMemoryNodes"),
    ("pids", ("limit",), "pids.max", "TasksMax"),
    ("blockIO", ("weight",), "io.weight", "IOWeight"),
)
_V1 = (
    ("memory", ("limit",), "memory.limit_in_bytes", "MemoryLimit"),
    ("cpu", ("shares",), "cpu.shares", "CPUShares"),
    ("cpu", ("quota", "period"), "cpu.cfs_quota_us", "CPUQuota"),
    ("cpu", ("cpus",), "cpuset.cpus", "AllowedCPUs"),
    ("cpu", ("mems",), "cpuset.mems", "AllowedMemoryNodes"),
    ("pids", ("limit",), "pids.max", "TasksMax"),
    ("blockIO", ("weight",), "blkio.weight", "BlockIOWeight"),
)


def place(cgroups_path: str | None, container_id: str, user: bool) -> tuple[str, str]:
    """The slice and the unit that ``linux.cgroupsPath`` means.

    Args:
        cgroups_path: ``slice:prefix:name``; absent means ``:ocipy:ID``, and no slice system.slice (user.slice).
        container_id: a checked id.
        user: for the manager of a user rather than of the system.

    Raises:
        ConfigError: it has another form, or systemd has no such names.
    """
    parts = (cgroups_path or f":ocipy:{container_id}").split(":")
    if len(parts) != 3:
        raise ConfigError(
            f'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, got {cgroups_path!r} '
            "instead", phase="cgroup", config_path=WHERE, hint="--systemd-cgroup is given",
        )  # fmt: skip
    group, prefix, name = parts
    unit = name if name.endswith(".slice") else f"{prefix}-{name}.scope"
    if len(unit) > 255 or set(unit) - _LETTERS or not name:
        raise ConfigError(
            f"{unit!r} is no name of a unit", phase="cgroup", config_path=WHERE,
            hint="systemd allows 255 letters, digits and :-_.\\",
        )  # fmt: skip
    return group or ("user.slice" if user else "system.slice"), unit


def directory(group: str, unit: str) -> str:
    """Where systemd puts a unit, below the manager's own cgroup: ``/a.slice/a-b.slice/UNIT``.

    Raises:
        ConfigError: not the name of a slice, or the root slice itself.
    """
    path = _expand(unit) if unit.endswith(".slice") else f"{_expand(group)}/{unit}"
    if not path:  # kill and delete would take all of the host with them
        raise ConfigError("the root slice can't be a container's own", phase="cgroup", config_path=WHERE)
    return path


def _expand(group: str) -> str:
    """The path of a slice: each dash in its name is a step down (systemd.slice(5)); -.slice is the root."""
    stem = group.removesuffix(".slice")
    if stem == "-":
        return ""
    parts = stem.split("-")
    if stem == group or "" in parts or len(group) > 255 or set(group) - _LETTERS:
        raise ConfigError(f"invalid slice name: {group!r}", phase="cgroup", config_path=WHERE)
    return "".join(f"/{'-'.join(parts[: i + 1])}.slice" for i in range(len(parts)))


def version(text: str) -> int:
    """The number of a version of systemd: of ``v256~rc1`` or ``252.39-1~deb12u2``."""
    text = text.lstrip("v")
    end = next((at for at, letter in enumerate(text) if letter not in "0123456789"), len(text))
    return int(text[:end] or 0)


def begun(name: str, group: str, pid: int, container_id: str, legacy: bool) -> list[Property]:
    """The properties of a new unit, limits and devices aside."""
    found: list[tuple[str, str, Any]] = [("Description", "s", f"ocipy container {container_id}")]
    if name.endswith(".slice"):
        found.append(("Wants", "as", [group]))
    else:
        found += [("Slice", "s", group), ("Delegate", "b", True), ("PIDs", "au", [pid])]
    accounting = ("Memory", "CPU", "BlockIO" if legacy else "IO", "Tasks")
    found += [(f"{what}Accounting", "b", True) for what in accounting]
    found.append(("DefaultDependencies", "b", False))
    return [(key, (signature, value), WHERE) for key, signature, value in found]


def annotated(annotations: dict[str, str]) -> list[Property]:
    """The properties that ``org.systemd.property.NAME`` annotations set.

    A time in seconds (``TimeoutStopSec``) becomes what D-Bus has for it (``TimeoutStopUSec``, microseconds).

    Raises:
        ConfigError: the name or the value is malformed, or the property is ocipy's to set.
    """
    found: list[Property] = []
    for key, text in annotations.items():
        if not key.startswith(PREFIX):
            continue
        name, where = key[len(PREFIX) :], below("$.annotations", key)
        if len(name) < 3 or not (name.isascii() and name.isalpha()):
            raise ConfigError(f"{name!r} is no name of a unit's property", phase="cgroup", config_path=where)
        if name in ("PIDs", "Slice"):
            raise ConfigError(
                f"{name} is not for an annotation to set", phase="cgroup", config_path=where,
                hint="linux.cgroupsPath names the slice",
            )  # fmt: skip
        try:
            signature, value = gvariant.parse(text)
            if name.endswith("Sec") and name[:-3][-1:].islower():
                name, signature, value = f"{name[:-3]}USec", "t", _microseconds(signature, value)
        except ValueError as error:
            raise ConfigError(
                f"{text!r} is no value of a property: {error}", phase="cgroup", config_path=where,
                hint="the form is that of GVariant: 'text' in quotes, true, uint64 5, ['a', 'b']",
            ) from None  # fmt: skip
        found.append((name, (signature, value), where))
    return found


def _microseconds(signature: str, value: Any) -> int:
    if signature != "d" and signature not in gvariant.INTEGERS:
        raise ValueError("not a number of seconds")
    if not 0 <= value <= INFINITY // 10**6:
        raise ValueError(f"{value} seconds are out of range")
    return int(value * 10**6)


def oom_policy(resources: dict[str, Any], version: int, where: str) -> list[Property]:
    """``memory.oom.group`` of ``unified`` as systemd has it, for a scope's start: it can't be changed later."""
    group = (resources.get("unified") or {}).get("memory.oom.group", "").strip()
    if version < OOM_POLICY_SINCE or group not in ("0", "1"):
        return []
    policy = "kill" if group == "1" else "continue"
    return [("OOMPolicy", ("s", policy), f'{where}.unified["memory.oom.group"]')]


def rounded(resources: dict[str, Any], read: Read) -> dict[str, Any]:
    """The resources with a CPU quota of whole percents, rounded up: systemd knows no others."""
    cpu = resources.get("cpu") or {}
    quota = cpu.get("quota") or 0
    if quota <= 0:
        return resources
    period = cpu.get("period") or _quota(read)[1]
    return resources | {"cpu": cpu | {"quota": _per_second(quota, period) * period // 10**6}}


def _per_second(quota: int, period: int) -> int:
    """Microseconds of CPU time a second, in steps of a percent."""
    return -(-quota * 10**6 // period // 10000) * 10000


def _quota(read: Read) -> tuple[str, int]:
    """The quota (``max`` or ``-1``: none) and the period that are set."""
    both = read("cpu.max").split() or [read("cpu.cfs_quota_us").strip(), read("cpu.cfs_period_us").strip()]
    return both[0] or "max", int(both[1] or DEFAULT_PERIOD)


def limits(
    resources: dict[str, Any], read: Read, version: int, legacy: bool, where: str
) -> list[Property]:
    """The properties for the limits that were just written to the cgroup's files.

    Args:
        resources: ``linux.resources``: which limits these are.
        read: reads a file of the cgroup.
        version: systemd's.
        legacy: v1.
        where: the JSON path of ``resources``.
    """
    found: list[Property] = []
    unified = resources.get("unified") or {}
    for section, keys, file, name in _V1 if legacy else _V2:
        values = resources.get(section) or {}
        asked = [key for key in keys if values.get(key) is not None]
        if file in unified:
            path = f'{where}.unified["{file}"]'
        elif asked:
            path = f"{where}.{section}.{asked[0]}"
        else:
            continue
        if name == "CPUQuota":
            quota, period = _quota(read)
            limit = INFINITY if quota in ("max", "-1") else _per_second(int(quota), period)
            found += [("CPUQuotaPeriodUSec", ("t", period), path), ("CPUQuotaPerSecUSec", ("t", limit), path)]
            continue
        text = read(file).strip().removeprefix("default ").partition("\n")[0]
        if not text or (name == "CPUWeight" and text == "0" and version < IDLE_SINCE):
            continue
        if name.startswith("Allowed"):
            found.append((name, ("ay", bits(text)), path))
            continue
        number = INFINITY if text == "max" else int(text)
        found.append((name, ("t", INFINITY if number >= UNLIMITED else number), path))
    return found


def bits(text: str) -> bytes:
    """The bit mask of a list of CPUs or memory nodes (``0-3,7``), the lowest in the first byte."""
    mask = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        for number in range(int(first), int(last or first) + 1):
            mask |= 1 << number
    return mask.to_bytes((mask.bit_length() + 7) // 8, "little")


def devices(entries: list[dict[str, Any]], legacy: bool, where: str) -> list[Property]:
    """The device properties for ``linux.resources.devices``.

    The rules that hold are ours, in the cgroup. What systemd can't say (exceptions from "all are allowed", one minor
    number of every major) it must not spoil when it is reloaded: on v2 it is then told nothing, and adds no program of
    its own; on v1 it shares the list with us, so that it gets the strict part of it.

    Raises:
        ConfigError, Unsupported: as :func:`ocipy.cgroups.device_rules.state`, on v1.
    """
    allowed: list[tuple[str, str]] = []
    policy = "strict"
    try:
        held = device_rules.state(device_rules.rules(entries, where), where)
        exact = not held.allow or not held.exceptions
        if held.allow and exact:
            policy = "auto"
        elif not held.allow:
            for key in held.exceptions:
                kind, major, minor = key
                prefix = {"b": "block", "c": "char"}[kind]
                path = f"/dev/{prefix}/{major}:{minor}"
                if minor == ANY:
                    path = f"{prefix}-{'*' if major == ANY else major}"
                elif major == ANY:
                    exact = False
                    continue
                # systemd, for its part, wants one rule that allows all of what is asked for
                kinds = {letter for other, some in held.exceptions.items() if covers(other, key) for letter in some}
                allowed.append((path, "".join(letter for letter in "rwm" if letter in kinds)))
    except Unsupported:
        if legacy:
            raise
        exact = False
    if not exact and not legacy:
        policy, allowed = "auto", []
    found: list[Property] = [
        ("DeviceAllow", ("a(ss)", []), where),  # clears what there is
        ("DevicePolicy", ("s", policy), where),
    ]
    return [*found, ("DeviceAllow", ("a(ss)", allowed), where)] if allowed else found
