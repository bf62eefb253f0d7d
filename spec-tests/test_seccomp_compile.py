"""config-linux.md, Seccomp: what the compiled programs do, by an interpreter and beside libseccomp's own."""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seccomp_tools import (
    AARCH64,
    ALL_X86,
    ALLOW,
    ARM,
    ENOSYS,
    ERRNO,
    GETPPID,
    KILL,
    KILL_PROCESS,
    LOG,
    OPENAT2,
    TRACE,
    TRAP,
    X32,
    X86,
    X86_64,
    all_names,
    generated_by_libseccomp,
    interpret,
    libseccomp,
    profile,
    rule,
)

from ocipy.errors import ConfigError
from ocipy.plan import seccomp

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers below are x86_64's")

def run(spec: dict[str, Any], nr: int, arch: int = X86_64, args: tuple[int, ...] = ()) -> int:
    return interpret(seccomp.compile_filter(spec).program, nr, arch, args)


# ---- what a profile means ----


def test_default_and_rules() -> None:
    spec = profile("ERRNO", rule("read write"), rule("getppid", "SCMP_ACT_ERRNO", errnoRet=5))
    assert run(spec, 0) == ALLOW
    assert run(spec, 1) == ALLOW
    assert run(spec, 2) == ERRNO | errno.EPERM
    assert run(spec, GETPPID) == ERRNO | 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KILL", KILL), ("KILL_THREAD", KILL), ("KILL_PROCESS", KILL_PROCESS), ("TRAP", TRAP),
        ("ERRNO", ERRNO | 1), ("TRACE", TRACE | 1), ("LOG", LOG),
    ],
)  # fmt: skip
def test_actions(name: str, value: int) -> None:
    assert run(profile("ALLOW", rule("getppid", f"SCMP_ACT_{name}")), GETPPID) == value
    assert run(profile(name, rule("getppid")), GETPPID - 1) == value


def test_default_errno_ret() -> None:
    assert run(profile("ERRNO", rule("getppid"), defaultErrnoRet=6), 0) == ERRNO | 6
    assert run(profile("TRACE", defaultErrnoRet=0xFFFF), 0) == TRACE | 0xFFFF


def test_no_rules() -> None:
    assert run(profile("ERRNO"), 0xFFFFFF) == ERRNO | 1
    assert run({"defaultAction": "SCMP_ACT_ALLOW"}, 0) == ALLOW


def test_unknown_names_are_skipped() -> None:
    assert run(profile("ERRNO", rule("no_such_call read ünïcode")), 0) == ALLOW


def test_rule_equal_to_the_default_says_nothing() -> None:
    spec = profile("ERRNO", rule("read", "SCMP_ACT_ERRNO"), rule("read"))
    assert run(spec, 0) == ALLOW


def test_unconditional_rule_beats_conditional_ones_and_the_first_wins() -> None:
    only_if = rule("getppid", "SCMP_ACT_ERRNO", (0, "EQ", 1), errnoRet=9)
    spec = profile("TRAP", only_if, rule("getppid"), rule("getppid", "SCMP_ACT_LOG"))
    assert run(spec, GETPPID, args=(1,)) == ALLOW
    spec = profile("TRAP", only_if, rule("getppid", "SCMP_ACT_ALLOW", (0, "LE", 5)))
    assert [run(spec, GETPPID, args=(a,)) for a in (1, 2, 6)] == [ERRNO | 9, ALLOW, TRAP]


VALUES = [0, 1, 7, 0xFFFFFFFE, 0xFFFFFFFF, 1 << 32, (1 << 32) + 7, (7 << 32) + 1, (1 << 64) - 1]
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "NE": int.__ne__, "LT": int.__lt__, "LE": int.__le__, "EQ": int.__eq__, "GE": int.__ge__,
    "GT": int.__gt__,
}  # fmt: skip


@pytest.mark.parametrize("op", COMPARE)
@pytest.mark.parametrize("index", [0, 5])
def test_operators(op: str, index: int) -> None:
    for value in VALUES:
        spec = profile("TRAP", rule("getppid", "SCMP_ACT_ALLOW", (index, op, value)), architectures=ALL_X86)
        program = seccomp.compile_filter(spec).program
        for arg in VALUES:
            args = (0,) * index + (arg,)
            wide, low = COMPARE[op](arg, value), COMPARE[op](arg & 0xFFFFFFFF, value & 0xFFFFFFFF)
            assert interpret(program, GETPPID, X86_64, args) == (ALLOW if wide else TRAP)
            assert interpret(program, GETPPID | X32, X86_64, args) == (ALLOW if low else TRAP)
            assert interpret(program, 64, X86, args) == (ALLOW if low else TRAP)


@pytest.mark.parametrize("mask", [0, 1, 0xFF, 0xFFFFFFFF, 0xFF << 32, (0xFF << 32) | 0xFF, (1 << 64) - 1])
def test_masked_equal(mask: int) -> None:
    for value in VALUES:
        spec = profile("TRAP", rule("getppid", "SCMP_ACT_ALLOW", (1, "MASKED_EQ", mask, value)))
        for arg in VALUES:
            expected = ALLOW if arg & mask == value & mask else TRAP
            assert run(spec, GETPPID, args=(0, arg)) == expected


def test_a_mask_of_nothing() -> None:
    """Every value fits: the rule always holds, and what comes after it never decides."""
    kill, error = "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ERRNO"
    always, five = (1, "MASKED_EQ", 0, 0), (0, "EQ", 5)
    for action in kill, error:
        spec = profile("TRAP", rule("getppid", error, five), rule("getppid", action, always))
        assert run(spec, GETPPID, args=(5,)) == ERRNO | 1
        assert run(spec, GETPPID, args=(6,)) == (KILL_PROCESS if action == kill else ERRNO | 1)
    spec = profile("TRAP", *(rule("getppid", action, always) for action in (error, kill, error)))
    assert run(spec, GETPPID) == ERRNO | 1


def test_args_are_a_conjunction() -> None:
    spec = profile("TRAP", rule("getppid", "SCMP_ACT_ALLOW", (0, "EQ", 1), (3, "GT", 5)))
    assert run(spec, GETPPID, args=(1, 0, 0, 6)) == ALLOW
    assert run(spec, GETPPID, args=(1, 0, 0, 5)) == TRAP
    assert run(spec, GETPPID, args=(2, 0, 0, 6)) == TRAP


def test_the_same_index_twice_makes_alternatives() -> None:
    spec = profile("TRAP", rule("getppid", "SCMP_ACT_ALLOW", (0, "EQ", 1), (0, "EQ", 2), (1, "EQ", 3)))
    assert [run(spec, GETPPID, args=a) for a in ((1, 0), (2, 0), (0, 3), (0, 0))] == [ALLOW] * 3 + [TRAP]


# ---- architectures ----


def test_native_architecture_is_implied() -> None:
    assert run(profile("ERRNO", rule("read"), architectures=["SCMP_ARCH_X86"]), 0) == ALLOW


def test_unlisted_architectures_are_killed() -> None:
    spec = profile("ALLOW", rule("read", "SCMP_ACT_ERRNO"))
    assert run(spec, 3, X86) == KILL
    assert run(spec, X32) == KILL
    assert run(spec, 0xFFFFFFFF) == ALLOW  # the number a tracer skips a call with, not one of x32
    assert run({**spec, "architectures": ALL_X86}, 3, X86) == ERRNO | 1
    assert run({**spec, "architectures": ALL_X86}, X32) == ERRNO | 1


def test_multiplexed_calls() -> None:
    spec = profile("ERRNO", rule("socket accept semget msgrcv recvmmsg"), architectures=ALL_X86)
    program = seccomp.compile_filter(spec).program
    for call in range(25):  # socketcall(2), and the direct socket(2) of Linux 4.3
        assert interpret(program, 102, X86, (call,)) == (ALLOW if call in (1, 5, 19) else ERRNO | 1)
        assert interpret(program, 117, X86, (call,)) == (ALLOW if call in (2, 12) else ERRNO | 1)
    assert interpret(program, 117, X86, (1 << 16 | 12,)) == ALLOW  # ipc(2) has a version up there
    direct = {nr for nr in range(300, 403) if interpret(program, nr, X86) == ALLOW}
    assert direct == {337, 359, 393, 401}
    assert interpret(program, 102, X86_64) != interpret(program, 41, X86_64) == ALLOW


def test_conditions_of_multiplexed_calls() -> None:
    """They hold for a multiplexed call as well, but for those on its first argument: there that says which call it
    is."""
    spec = profile("TRAP", rule("socket", "SCMP_ACT_ALLOW", (0, "EQ", 2), (1, "EQ", 5)),
                   rule("semget", "SCMP_ACT_ALLOW", (2, "GE", 7)), architectures=ALL_X86)  # fmt: skip
    program = seccomp.compile_filter(spec).program
    for nr, args, expected in [
        (102, (1, 5), ALLOW), (102, (1, 4), TRAP), (102, (2, 5), TRAP),  # socketcall(2)
        (359, (2, 5), ALLOW), (359, (1, 5), TRAP), (359, (2, 4), TRAP),  # socket(2)
        (117, (2, 0, 7), ALLOW), (117, (2, 0, 6), TRAP), (117, (3, 0, 7), TRAP), (117, (1 << 16 | 2, 0, 8), ALLOW),
        (393, (0, 0, 7), ALLOW), (393, (0, 0, 6), TRAP),
    ]:  # fmt: skip
        assert interpret(program, nr, X86, args) == expected, (nr, args)


def test_unconditional_socketcall_covers_all() -> None:
    spec = profile("ALLOW", rule("socket", "SCMP_ACT_TRAP"), rule("socketcall", "SCMP_ACT_LOG"),
                   architectures=ALL_X86)  # fmt: skip
    assert [run(spec, 102, X86, (call,)) for call in (1, 2)] == [LOG, LOG]


def test_direct_numbers_are_libseccomps() -> None:
    lib = libseccomp()
    names = "socket bind connect listen getsockname getpeername socketpair sendto recvfrom shutdown "
    names += "setsockopt getsockopt sendmsg recvmsg accept4 recvmmsg sendmmsg semget semctl msgsnd msgrcv "
    names += "msgget msgctl shmat shmdt shmget shmctl"
    for name in names.split():
        spec = profile("TRAP", rule(name), architectures=ALL_X86)
        program = seccomp.compile_filter(spec).program
        found = [nr for nr in range(460) if interpret(program, nr, X86) == ALLOW]
        assert [lib.seccomp_syscall_resolve_num_arch(X86, nr) for nr in found] == [name.encode()]


# ---- calls that are newer than the profile ----


@pytest.mark.parametrize("default", ["ERRNO", "KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_newer_calls_answer_enosys(default: str) -> None:
    denied = seccomp._ACTIONS[f"SCMP_ACT_{default}"] | (default == "ERRNO")
    spec = profile(default, rule("read exit_group"), rule("openat2", f"SCMP_ACT_{default}"))
    assert [run(spec, nr) for nr in (0, 1, 231, 436, OPENAT2, 438, 0x3FFFFFFF)] == [
        ALLOW, denied, ALLOW, denied, denied, ENOSYS, ENOSYS,
    ]  # fmt: skip
    assert run(spec, X32) == KILL
    assert run(spec, 0xFFFFFFFF) == ENOSYS


@pytest.mark.parametrize("default", ["ALLOW", "LOG", "TRACE"])
def test_no_enosys_under_a_permissive_default(default: str) -> None:
    assert run(profile(default, rule("read", "SCMP_ACT_TRAP")), 5000) != ENOSYS


def test_default_errno_is_enosys_everywhere_if_asked_for() -> None:
    spec = profile("ERRNO", rule("read"), defaultErrnoRet=errno.ENOSYS)
    assert [run(spec, nr) for nr in (1, 5000)] == [ENOSYS, ENOSYS]


def test_enosys_starts_at_each_architectures_own_number() -> None:
    spec = profile("ERRNO", rule("read exit_group set_tls waitpid"), architectures=[*ALL_X86, "SCMP_ARCH_ARM",
                   "SCMP_ARCH_AARCH64", "SCMP_ARCH_RISCV64"])  # fmt: skip
    program = seccomp.compile_filter(spec).program
    denied = ERRNO | 1
    for nr, arch, expected in [
        (232, X86_64, ENOSYS), (X32 | 231, X86_64, ALLOW), (X32 | 232, X86_64, ENOSYS), (251, X86, denied),
        (252, X86, ALLOW), (253, X86, ENOSYS), (94, AARCH64, ALLOW), (95, AARCH64, ENOSYS),
        (248, ARM, ALLOW), (249, ARM, ENOSYS), (0xEFFFF, ARM, ENOSYS), (0xF0001, ARM, denied),
        (0xF0005, ARM, ALLOW), (0xF0006, ARM, ENOSYS),
    ]:  # fmt: skip
        assert interpret(program, nr, arch) == expected, (nr, hex(arch))


def test_an_architecture_with_nothing_named_keeps_the_default() -> None:
    spec = profile("ERRNO", rule("arch_prctl"), architectures=["SCMP_ARCH_AARCH64"])
    assert run(spec, 5000, AARCH64) == ERRNO | 1


# ---- beside libseccomp's own generator ----


MULTIPLEXED = [
    "socket", "accept", "accept4", "bind", "recv", "sendmmsg", "semget", "semop", "semtimedop", "msgrcv",
    "shmat",
]  # fmt: skip
NAMES = [
    "read", "write", "open", "getppid", "clone", "personality", "openat2", "arch_prctl", "exit_group",
    "pidfd_open", "waitpid", "clock_gettime64", "set_tls", "nothing_like_it", *MULTIPLEXED,
]  # fmt: skip
ARGUMENTS = st.lists(st.tuples(*[st.sampled_from(VALUES)] * 6), min_size=4, max_size=8)


def is_condition(arg: dict[str, Any]) -> bool:
    """Not a comparison of no bits at all, on an architecture of 32."""
    return arg["op"] != "SCMP_CMP_MASKED_EQ" or bool(arg["value"] & 0xFFFFFFFF)


ARG = st.builds(
    lambda index, op, value, two: {"index": index, "op": op, "value": value, "valueTwo": two},
    st.integers(0, 5), st.sampled_from(seccomp.known_operators()),
    st.sampled_from(VALUES), st.sampled_from(VALUES),
).filter(is_condition)  # fmt: skip
ACTIONS = ["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_TRAP", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"]


@st.composite
def profiles(draw: st.DrawFn, unambiguous: bool) -> dict[str, Any]:
    """Profiles of a few rules; unambiguous: a call has one rule with conditions, for libseccomp loses some
    of several (``>= 1``, then ``>= 0 && …``), and none if it is multiplexed too (the conditions would be
    on arguments that are elsewhere)."""
    conditional = draw(st.sampled_from(ACTIONS))
    rules = []
    left = set(NAMES) - set(MULTIPLEXED)
    for _ in range(draw(st.integers(0, 6))):
        args = draw(st.lists(ARG, max_size=2, unique_by=lambda a: a["index"]))
        names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=8))
        free = not unambiguous or (not args and not set(names).intersection(MULTIPLEXED))
        if args and unambiguous:
            names = sorted(left.intersection(names))
            left.difference_update(names)
        action = draw(st.sampled_from(ACTIONS)) if free else conditional
        if names:
            rules.append({"names": names, "action": action, **({"args": args} if args else {})})
    return {
        "defaultAction": draw(st.sampled_from(ACTIONS)),
        "architectures": draw(st.lists(st.sampled_from(ALL_X86))),
        "syscalls": rules,
    }


def holds(arg: dict[str, Any], args: tuple[int, ...]) -> bool:
    op, value, given_value = arg["op"][9:], arg["value"], args[arg["index"]]
    if op == "MASKED_EQ":
        return bool(given_value & value == arg["valueTwo"] & value)
    return COMPARE[op](given_value, value)


def meaning(spec: dict[str, Any], name: str, args: tuple[int, ...]) -> str:
    default: str = spec["defaultAction"]
    rules = [r for r in spec["syscalls"] if name in r["names"] and r["action"] != default]
    rules.sort(key=lambda r: "args" in r)  # stable: what has no conditions comes first
    return next((r["action"] for r in rules if all(holds(a, args) for a in r.get("args", ()))), default)


@settings(max_examples=150, deadline=None)
@given(profiles(unambiguous=False), ARGUMENTS)
def test_same_as_its_meaning(spec: dict[str, Any], arguments: list[tuple[int, ...]]) -> None:
    program = seccomp.compile_filter(spec).program
    lib = libseccomp()
    for name in NAMES:
        nr = lib.seccomp_syscall_resolve_name(name.encode())
        for args in arguments if nr >= 0 else ():
            found = interpret(program, nr, X86_64, args)
            if found != ENOSYS:
                expected = seccomp._ACTIONS[meaning(spec, name, args)]
                assert found & ~1 == expected, (name, args)


@settings(max_examples=150, deadline=None)
@given(profiles(unambiguous=True), ARGUMENTS)
def test_same_as_libseccomp(spec: dict[str, Any], arguments: list[tuple[int, ...]]) -> None:
    # libseccomp 2.5.4 forgets to load a further architecture's call number if it has no rule without
    # conditions to begin with; then every call gets the default action.
    spec["syscalls"].append(rule("execve", next(a for a in ACTIONS if a != spec["defaultAction"])))
    ours, theirs = seccomp.compile_filter(spec).program, generated_by_libseccomp(spec)
    for nr, arch in numbers_of(frozenset(n for r in spec["syscalls"] for n in r["names"])):
        calls = range(25) if nr in (102, 117) and arch == X86 else [None]  # socketcall, ipc
        for args in arguments:
            for call in calls:
                given_args = args if call is None else (call, *args[1:])
                mine = interpret(ours, nr, arch, given_args)
                if mine != ENOSYS:
                    assert mine == interpret(theirs, nr, arch, given_args), (nr, hex(arch), given_args)


@functools.lru_cache
def numbers_of(names: frozenset[str]) -> set[tuple[int, int]]:
    """Each name's number on each architecture, and a few that have no rule."""
    lib = libseccomp()
    numbers = {(102, X86), (117, X86), (8, X86_64), (0x80000000, X86_64), (3, ARM)}
    for token in (X86_64, X86, 0x4000003E):
        for name in names | {"mkdir"}:
            nr = lib.seccomp_syscall_resolve_name_arch(ctypes.c_uint32(token), name.encode())
            numbers |= {(nr, X86 if token == X86 else X86_64)} if nr >= 0 else set()
    return numbers


# ---- long programs ----


def test_every_second_call() -> None:
    """As many spans as can be: the tree's jumps go beyond the 255 that a conditional jump reaches."""
    names = all_names()
    rules = [
        rule(name, "SCMP_ACT_ERRNO", errnoRet=nr) for nr, name in names if nr % 2 and nr not in (1, 231)
    ]
    made = seccomp.compile_filter(profile("ALLOW", *rules, architectures=ALL_X86))
    for nr, _ in names:
        expected = ALLOW if nr % 2 == 0 or nr in (1, 231) else ERRNO | nr
        assert interpret(made.program, nr) == expected


def test_many_alternatives() -> None:
    values = list(range(0, 1200, 4))
    rules = [rule("getppid", "SCMP_ACT_ALLOW", (5, "EQ", value)) for value in values]
    made = seccomp.compile_filter(profile("TRAP", *rules))
    for value in range(1204):
        found = interpret(made.program, GETPPID, X86_64, (0, 0, 0, 0, 0, value))
        assert found == (ALLOW if value in values else TRAP)


def instructions(*rules: dict[str, Any]) -> int:
    return len(seccomp.compile_filter(profile("ALLOW", *rules)).program) // 8


def longest() -> list[dict[str, Any]]:
    """Rules that compile to exactly as many instructions as the kernel takes: a comparison of all bits takes four, one
    of a mask's low ones three."""
    rules = [rule("getppid", "SCMP_ACT_ERRNO", (0, "EQ", value)) for value in range(1000)]
    while (left := 4096 - instructions(*rules)) not in (0, 3, 6, 9):
        rules.append(rule("getppid", "SCMP_ACT_ERRNO", (0, "EQ", len(rules))))
    for number in range(left // 3):
        rules.append(rule("getppid", "SCMP_ACT_ERRNO", (0, "MASKED_EQ", 0xFFFFF, 0xABCD0 + number)))
    return rules


def test_the_longest_program() -> None:
    rules = longest()
    program = seccomp.compile_filter(profile("ALLOW", *rules)).program
    assert len(program) == 4096 * 8
    for value, expected in ((0, ERRNO | 1), (500, ERRNO | 1), (999, ERRNO | 1), (0xFFFFF, ALLOW)):
        assert interpret(program, GETPPID, X86_64, (value,)) == expected
    with pytest.raises(ConfigError, match="4096 instructions"):
        instructions(*rules, rule("getpid", "SCMP_ACT_ERRNO"))


def test_a_program_too_long_for_the_kernel() -> None:
    rules = [rule("getppid", "SCMP_ACT_ALLOW", (0, "EQ", v)) for v in range(1100)]
    with pytest.raises(ConfigError, match="4096 instructions") as caught:
        seccomp.compile_filter(profile("ERRNO", *rules))
    assert caught.value.config_path == "$.linux.seccomp.syscalls"


