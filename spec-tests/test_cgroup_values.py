"""The pure parts of the cgroup drivers: conversions, where cgroups are placed, what device rules mean."""

from __future__ import annotations

import struct
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ocipy import cgroups, host
from ocipy.cgroups import convert, device_rules
from ocipy.cgroups.device_rules import ALWAYS_ALLOWED, ANY
from ocipy.cgroups.v2 import devices
from ocipy.errors import CgroupError, ConfigError, Unsupported

ROOT = Path(cgroups.__file__).parent.parent.parent

Rule = tuple[bool, str, int, int, str]

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/elogind rw - cgroup cgroup rw,name=elogind
37 31 0:31 / /mnt/cpu rw - cgroup cgroup rw,cpu,cpuacct
"""
HYBRID_OWN = """\
4:name=elogind:/
3:memory:/users/1
2:cpu,cpuacct:/
1:name=systemd:/user.slice/session-1.scope
0::/user.slice/session-1.scope
"""
UNIFIED = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


HEAVY = {"os", "json", "re", "typing", "dataclasses", "enum", "pathlib", "functools", "contextlib",
         "subprocess", "threading", "logging", "socket", "collections", "_cffi_backend"}  # fmt: skip
HOT = [
    "v1.driver", "v1.resources", "v2.driver", "v2.resources", "v2.devices", "device_rules", "convert", "location",
]  # fmt: skip


def test_the_drivers_import_nothing_heavy() -> None:
    modules = "".join(f"import ocipy.cgroups.{name}\n" for name in HOT)
    code = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n{modules}print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", code]
    loaded = set(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode().split())
    assert not loaded & HEAVY
    assert "ocipy.cgroups.refusals" not in loaded


# Placement


def test_v2_with_a_v1_hierarchy_besides() -> None:
    """cgroup2 on /sys/fs/cgroup has the controllers: somebody's net_cls mounted below does not make it hybrid."""
    facts = host.parse_cgroups(
        UNIFIED + "40 31 0:40 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls\n", "1:net_cls:/\n0::/x\n"
    )
    assert facts.mode == "v2"
    assert [(h.mountpoint, h.own) for h in facts.hierarchies] == [("/sys/fs/cgroup", "/x")]


def test_hybrid_places_one_directory_per_hierarchy() -> None:
    facts = host.parse_cgroups(HYBRID, HYBRID_OWN)
    assert facts.mode == "hybrid"
    assert cgroups.select("/pods//one/", "id", facts).paths == {
        "": "/sys/fs/cgroup/unified/pods/one",
        "name=systemd": "/sys/fs/cgroup/systemd/pods/one",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/pods/one",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/pods/one",
        "memory": "/sys/fs/cgroup/memory/pods/one",
    }


@pytest.mark.parametrize("path", [None, "", "id", "./id"])
def test_relative_paths_are_below_the_own_cgroup_on_v1(path: str | None) -> None:
    paths = cgroups.select(path, "id", host.parse_cgroups(HYBRID, HYBRID_OWN)).paths
    assert paths["memory"] == "/sys/fs/cgroup/memory/users/1/id"
    assert paths["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/id"
    assert paths[""] == "/sys/fs/cgroup/unified/user.slice/session-1.scope/id"


@pytest.mark.parametrize(
    ("own", "directory"),
    [
        ("0::/\n", "/sys/fs/cgroup/id"),
        ("0::/init.scope\n", "/sys/fs/cgroup/id"),
        ("0::/user.slice/session-1.scope\n", "/sys/fs/cgroup/user.slice/id"),
    ],
)
def test_relative_paths_are_beside_the_own_cgroup_on_v2(own: str, directory: str) -> None:
    facts = host.parse_cgroups(UNIFIED, own)
    assert facts.mode == "v2"
    assert cgroups.select(None, "id", facts).paths == {"": directory}
    assert cgroups.select("/pods/one", "id", facts).paths == {"": "/sys/fs/cgroup/pods/one"}


def test_a_part_of_a_hierarchy_is_mounted() -> None:
    mountinfo = "35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    facts = host.parse_cgroups(mountinfo, "3:memory:/docker/1/sub\n")
    assert cgroups.select("id", "id", facts).paths == {"memory": "/sys/fs/cgroup/memory/sub/id"}
    facts = host.parse_cgroups(mountinfo, "3:memory:/docker/12\n")
    with pytest.raises(CgroupError, match="is not in /docker/1"):
        cgroups.select("id", "id", facts)
    assert cgroups.select("/id", "id", facts).paths == {"memory": "/sys/fs/cgroup/memory/id"}


def test_an_own_cgroup_outside_of_the_namespace_does_not_lead_out() -> None:
    facts = host.parse_cgroups(UNIFIED, "0::/../../x/y\n")
    assert cgroups.select(None, "id", facts).paths == {"": "/sys/fs/cgroup/x/id"}


@pytest.mark.parametrize("path", ["/..", "../x", "/a/../b", "/", "//", ".", "/./", "/a\nb", "/a\0"])
@pytest.mark.parametrize("layout", [(HYBRID, HYBRID_OWN), (UNIFIED, "0::/\n")])
def test_refused_paths(path: str, layout: tuple[str, str]) -> None:
    with pytest.raises(CgroupError) as caught:
        cgroups.select(path, "id", host.parse_cgroups(*layout))
    assert caught.value.config_path == "$.linux.cgroupsPath"


def test_records_lead_back() -> None:
    for layout in ((HYBRID, HYBRID_OWN), (UNIFIED, "0::/\n")):
        cgroup = cgroups.select(None, "id", host.parse_cgroups(*layout), rootless=True)
        again = cgroups.load(cgroup.record())
        assert type(again) is type(cgroup)
        assert again.paths == cgroup.paths
        assert again.optional
        assert cgroup.optional
        assert not cgroups.select("/id", "id", host.parse_cgroups(*layout), rootless=True).optional


def test_below() -> None:
    cgroup = cgroups.select("/c", "id", host.parse_cgroups(HYBRID, HYBRID_OWN))
    assert cgroup.below({"": "sub"}).paths["memory"] == "/sys/fs/cgroup/memory/c/sub"
    paths = cgroup.below({"memory": "/sub/x"}).paths
    assert paths["memory"] == "/sys/fs/cgroup/memory/c/sub/x"
    assert paths["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/c"
    unified = cgroups.select("/c", "id", host.parse_cgroups(UNIFIED, "0::/\n"))
    assert unified.below({"": "sub"}).paths == {"": "/sys/fs/cgroup/c/sub"}
    assert unified.below({}).paths == unified.paths
    for one, sub in ((cgroup, {"": "../x"}), (cgroup, {"pids": "x"}), (unified, {"memory": "x"})):
        with pytest.raises(CgroupError):
            one.below(sub)


# Conversions


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(0, 1), (1, 1), (2, 1), (3, 2), (200, 29), (512, 59), (1024, 100), (2048, 174), (262144, 10000),
     (1 << 30, 10000)],
)  # fmt: skip
def test_cpu_weight(shares: int, weight: int) -> None:
    assert convert.cpu_weight(shares) == weight


@settings(deadline=None)
@given(st.integers(2, 262143))
def test_cpu_weight_is_monotonic_and_in_range(shares: int) -> None:
    assert 1 <= convert.cpu_weight(shares) <= convert.cpu_weight(shares + 1) <= 10000


def test_shares_that_v1_would_clamp() -> None:
    assert convert.checked_shares(2, "$.x") == "2"
    for shares, words in ((1, "minimum allowed cpu-shares is 2"), (262145, "maximum allowed cpu-shares")):
        with pytest.raises(ConfigError, match=words) as caught:
            convert.checked_shares(shares, "$.x")
        assert caught.value.config_path == "$.x"


@pytest.mark.parametrize(
    ("quota", "period", "current", "text"),
    [
        (50000, 0, "max 100000", "50000"),
        (50000, 200000, "max 100000", "50000 200000"),
        (-1, 0, "50000 100000", "max"),
        (-1, 50000, "50000 100000", "max 50000"),
        (0, 50000, "20000 100000\n", "20000 50000"),
        (0, 50000, "max", "max 50000"),
    ],
)
def test_cpu_max(quota: int, period: int, current: str, text: str) -> None:
    assert convert.cpu_max(quota, period, current) == text


@pytest.mark.parametrize(
    ("swap", "limit", "text"),
    [(0, 0, ""), (0, 100, ""), (-1, 0, "max"), (-1, 100, "max"), (0, -1, "max"), (50, -1, "50"),
     (100, 100, "0"), (150, 100, "50")],
)  # fmt: skip
def test_swap_max(swap: int, limit: int, text: str) -> None:
    assert convert.swap_max(swap, limit, "$.x") == text


@pytest.mark.parametrize(("swap", "limit"), [(50, 0), (50, 100)])
def test_swap_that_does_not_fit(swap: int, limit: int) -> None:
    with pytest.raises(ConfigError) as caught:
        convert.swap_max(swap, limit, "$.linux.resources.memory.swap")
    assert caught.value.config_path == "$.linux.resources.memory.swap"


def test_small_conversions() -> None:
    assert [convert.io_weight(w) for w in (10, 100, 500, 1000)] == [1, 910, 4950, 10000]
    assert [convert.pids_max(n) for n in (-1, 0, 1, 7)] == ["max", "1", "1", "7"]
    assert [convert.limit_text(n) for n in (-1, 0, 7)] == ["max", "0", "7"]
    assert convert.rdma_max("mlx5", {"hcaHandles": 3, "hcaObjects": 0}) == "mlx5 hca_handle=3 hca_object=0"
    assert convert.rdma_max("rxe3", {"hcaObjects": 10}) == "rxe3 hca_object=10"
    assert convert.rate_line({"major": 8, "minor": 0, "rate": 600}, 2**32) == "8:0 600"


def test_io_max_is_one_line_per_device() -> None:
    block_io = {
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}],
        "throttleWriteBpsDevice": [{"major": 8, "minor": 16, "rate": 0}],
        "throttleReadIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}],
        "throttleWriteIOPSDevice": None,
    }
    assert convert.io_max(block_io) == [
        ("8:0 rbps=1000 riops=7", "throttleReadBpsDevice[0]"),
        ("8:16 wbps=max", "throttleWriteBpsDevice[0]"),
    ]


@pytest.mark.parametrize("text", ["", ".", "..", "a/b"])
def test_file_parts(text: str) -> None:
    with pytest.raises(ConfigError, match="no slashes"):
        convert.file_part(text, "$.x")


# Device rules: the reference is set arithmetic for each device, one rule after the other


def reference(ordered: list[Rule], kind: str, major: int, minor: int) -> set[str]:
    """The kinds of access that rules leave to one device."""
    allowed: set[str] = set()
    for allow, rule_kind, rule_major, rule_minor, access in ordered:
        if rule_kind in ("a", kind) and rule_major in (ANY, major) and rule_minor in (ANY, minor):
            allowed = allowed | set(access) if allow else allowed - set(access)
    return allowed


ACCESSES = ["r", "w", "m", "rw", "rm", "wm", "rwm"]
NUMBERS = [0, 1, 3, 0xFFFFFFFF]
RULES = st.lists(
    st.tuples(
        st.booleans(),
        st.sampled_from("abc"),
        st.sampled_from([ANY, *NUMBERS[1:]]),
        st.sampled_from([ANY, *NUMBERS[1:]]),
        st.sampled_from(ACCESSES),
    ),
    max_size=8,
)
BITS = {"m": 1, "r": 2, "w": 4}


def run(code: bytes, kind: str, major: int, minor: int, access: str) -> int:
    """Interpret a device program as the kernel would; a wrong instruction fails the test."""
    context = {0: sum(BITS[a] for a in access) << 16 | {"b": 1, "c": 2}[kind], 4: major, 8: minor}
    register = {1: -1}  # r1 points to the context; the others are not readable before they are written
    program = [struct.unpack("=BBhI", code[i : i + 8]) for i in range(0, len(code), 8)]
    at = 0
    while True:
        operation, registers, offset, immediate = program[at]
        low, high = registers & 15, registers >> 4
        to, source = (low, high) if sys.byteorder == "little" else (high, low)
        at += 1
        if operation == 0x61:
            assert source == 1
            register[to] = context[offset]
        elif operation == 0xB4:
            register[to] = immediate
        elif operation == 0x54:
            register[to] &= immediate
        elif operation == 0x74:
            register[to] >>= immediate
        elif operation in (0x16, 0x56, 0x46):
            assert offset >= 0
            value = register[to]
            if {0x16: value == immediate, 0x56: value != immediate, 0x46: bool(value & immediate)}[operation]:
                at += offset
        elif operation == 0x95:
            return register[0]
        else:
            raise AssertionError(f"instruction {operation:#x}")


def reachable(code: bytes) -> set[int]:
    program = [struct.unpack("=BBhI", code[i : i + 8]) for i in range(0, len(code), 8)]
    seen: set[int] = set()
    todo = [0]
    while todo:
        at = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        operation, _, offset, _ = program[at]
        if operation == 0x95:
            continue
        todo.append(at + 1)
        if operation in (0x16, 0x56, 0x46):
            todo.append(at + 1 + offset)
    return seen


@settings(deadline=None)
@given(RULES)
def test_program_decides_as_the_rules_say(ordered: list[Rule]) -> None:
    code = devices.program(ordered)
    assert reachable(code) == set(range(len(code) // 8)), "the verifier refuses dead code"
    for kind, major, minor in product("bc", NUMBERS, NUMBERS):
        allowed = reference(ordered, kind, major, minor)
        for access in ACCESSES:
            assert run(code, kind, major, minor, access) == (set(access) <= allowed)


def test_program_for_an_engine() -> None:
    ordered = device_rules.rules([{"allow": False, "access": "rwm"}], "$")
    code = devices.program(ordered)
    assert run(code, "c", 1, 3, "rw") == 1
    assert run(code, "c", 136, 77, "rw") == 1
    assert run(code, "c", 1, 11, "r") == 0
    assert run(code, "b", 8, 0, "m") == 1
    assert run(code, "b", 8, 0, "rm") == 0
    assert devices.program([(True, "a", ANY, ANY, "rwm")])[48:] == struct.pack(
        "=BBhIBBhI", 0xB4, 0, 0, 1, 0x95, 0, 0, 0
    )


def test_too_many_rules_for_a_program() -> None:
    with pytest.raises(Unsupported, match="too many device rules"):
        devices.program([(True, "c", n, n, "r") for n in range(10000)])


def kernel(result: device_rules.State, kind: str, major: int, minor: int, access: str) -> bool:
    """What a v1 kernel answers (security/device_cgroup.c): one exception has to cover an allowed access."""
    matching = [
        held
        for (a, b, c), held in result.exceptions.items()
        if a == kind and b in (ANY, major) and c in (ANY, minor)
    ]
    if result.allow:
        return not any(set(held) & set(access) for held in matching)
    return any(set(access) <= set(held) for held in matching)


@settings(deadline=None)
@given(RULES)
def test_v1_state_decides_as_the_rules_say(ordered: list[Rule]) -> None:
    try:
        result = device_rules.state(ordered)
    except Unsupported:
        return
    for kind, major, minor in product("bc", NUMBERS, NUMBERS):
        allowed = reference(ordered, kind, major, minor)
        for access in ACCESSES:
            answer = kernel(result, kind, major, minor, access)
            if access == "rw":  # what one open(2) asks for; making a node is asked for alone
                assert answer == (set(access) <= allowed)
            elif len(access) == 1:
                assert answer == (access in allowed)
            else:
                assert not answer or set(access) <= allowed


@settings(deadline=None)
@given(RULES, RULES)
def test_v1_transitions_arrive(old_rules: list[Rule], new_rules: list[Rule]) -> None:
    try:
        old, new = device_rules.state(old_rules), device_rules.state(new_rules)
    except Unsupported:
        return
    shown = device_rules.State(True) if old.allow else old
    for start, known in ((device_rules.State(True), None), (old, shown)):
        present = device_rules.State(start.allow, dict(start.exceptions))
        for file, line in device_rules.transition(known, new):
            allow = file == "devices.allow"
            if line == "a":
                present = device_rules.State(allow)
                continue
            kind, numbers, access = line.split(" ")
            major, minor = (ANY if n == "*" else int(n) for n in numbers.split(":"))
            held = set(present.exceptions.pop((kind, major, minor), ""))
            held = held | set(access) if allow != present.allow else held - set(access)
            if held:
                present.exceptions[kind, major, minor] = "".join(a for a in "rwm" if a in held)
        assert (present.allow, present.exceptions) == (new.allow, new.exceptions)


def test_transition_of_a_running_container_keeps_what_stays_allowed() -> None:
    old = device_rules.parse_list("c 1:3 rwm\nc 10:229 rw\nb *:* m\n")
    new = device_rules.state([(True, "c", 1, 3, "rwm"), (True, "c", 10, 229, "r"), (True, "b", 8, 0, "r")])
    assert device_rules.transition(old, new) == [
        ("devices.deny", "c 10:229 w"),
        ("devices.deny", "b *:* m"),
        ("devices.allow", "b 8:0 r"),
    ]
    assert device_rules.parse_list("a *:* rwm\n").allow


@pytest.mark.parametrize(
    ("entries", "granted"),
    [
        (["+c 1:11 r", "+c 1:11 w"], {"c 1:11": "rw"}),
        (["+c 1:11 w", "+c 1:11 r", "-c 1:11 w"], {"c 1:11": "r"}),
        (["+c 1:* r", "+c 1:11 w"], {"c 1:*": "r", "c 1:11": "rw"}),
        (["+c 1:11 w", "+a *:* r"], {"b *:*": "r", "c *:*": "r", "c 1:11": "rw"}),
        (["+c 1:* r", "+c *:11 w"], {"c 1:*": "r", "c *:11": "w", "c 1:11": "rw"}),
        (["+c 1:* rw", "+c *:11 w"], {"c 1:*": "rw", "c *:11": "w"}),
        (["+c 1:* rw", "-c *:* w", "+c *:11 w"], {"c 1:*": "r", "c *:11": "w", "c 1:11": "rw"}),
        (["+c 1:11 r", "+b 1:11 w"], {"c 1:11": "r", "b 1:11": "w"}),
        (["+c 1:* m", "+c 1:11 rw"], {"c 1:*": "m", "c 1:11": "rw"}),
    ],
)
def test_v1_joins_what_several_entries_give(entries: list[str], granted: dict[str, str]) -> None:
    """A v1 kernel asks for one exception that covers the whole of an access, as of an open to read and write."""
    rules = []
    for entry in entries:
        kind, numbers, access = entry[1:].split(" ")
        major, minor = (ANY if number == "*" else int(number) for number in numbers.split(":"))
        rules.append((entry[0] == "+", kind, major, minor, access))
    found = device_rules.state(rules).exceptions
    assert {device_rules._text(key, "").strip(): access for key, access in found.items()} == granted


def test_v1_can_not_take_back_a_part() -> None:
    entries: list[dict[str, Any]] = [
        {"allow": True, "type": "c", "major": 10, "access": "rw"},
        {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "w"},
    ]
    with pytest.raises(Unsupported, match=r"can't deny c 10:229 w after c 10:\* rw") as caught:
        device_rules.state(device_rules.rules(entries, "$.d"), "$.d")
    assert caught.value.config_path == "$.d[1]"


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        ({"allow": True, "type": "x", "access": "r"}, "$.d[0].type"),
        ({"allow": True, "type": "c"}, "$.d[0].access"),
        ({"allow": True, "type": "c", "access": "rx"}, "$.d[0].access"),
        ({"allow": True, "type": "c", "access": "r", "major": 1 << 32}, "$.d[0].major"),
        ({"allow": True, "type": "c", "access": "r", "minor": -2}, "$.d[0].minor"),
    ],
)
def test_wrong_device_rules(entry: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        device_rules.rules([entry], "$.d")
    assert caught.value.config_path == path


def test_every_container_has_the_default_devices() -> None:
    ordered = device_rules.rules([], "$")
    assert ordered == [(True, *always) for always in ALWAYS_ALLOWED]
    # runtime-spec, "Default Devices": those must be usable.
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, 0)):
        assert reference(ordered, "c", major, minor) == set("rwm")
