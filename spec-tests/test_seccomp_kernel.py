"""config-linux.md, Seccomp: what is refused, what ``features`` says, and the programs run by the kernel."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ocipy._seccomp import ffi, lib
from seccomp_tools import (
    ALL_X86,
    ALLOW,
    ERRNO,
    GETPGRP,
    GETPPID,
    MKDIR,
    OPENAT2,
    X32,
    X86_64,
    all_names,
    profile,
    rule,
)

import ocipy
from ocipy.errors import ConfigError, Unsupported
from ocipy.plan import seccomp

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers below are x86_64's")

# ---- flags, and what is refused ----


def test_flags() -> None:
    def flags(names: list[str] | None, *rules: dict[str, Any], **more: Any) -> int:
        spec = profile("ALLOW", *rules, **more)
        if names is not None:
            spec["flags"] = [f"SECCOMP_FILTER_FLAG_{n}" for n in names]
        return seccomp.compile_filter(spec, kernel_flags=0xFF).flags

    notify = rule("getppid", "SCMP_ACT_NOTIFY")
    assert flags(None) == 4  # SPEC_ALLOW, as runc has it
    assert flags([]) == 0
    assert flags(["TSYNC"]) == 0
    assert flags(["LOG", "SPEC_ALLOW"]) == 6
    assert flags(["WAIT_KILLABLE_RECV"], notify, listenerPath="/x") == 0x28
    assert seccomp.compile_filter(profile("ALLOW"), kernel_flags=0).flags == 0
    assert not seccomp.compile_filter(profile("ALLOW")).notify
    assert seccomp.compile_filter(profile("ALLOW", notify, listenerPath="/x")).notify


REFUSED: list[tuple[str, str, dict[str, Any]]] = [
    (".defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action", profile("NOTIFY")),
    (".defaultAction", "not a seccomp action", profile("NO")),
    (".defaultErrnoRet", "does not take an errno", profile("ALLOW", defaultErrnoRet=1)),
    (".defaultErrnoRet", "out of range", profile("ERRNO", defaultErrnoRet=4096)),
    (".syscalls[1].errnoRet", "does not take an errno",
     profile("ALLOW", rule("read", "SCMP_ACT_TRAP"), rule("read", "SCMP_ACT_KILL", errnoRet=1))),
    (".syscalls[0].action", "not a seccomp action", profile("ALLOW", rule("read", "SCMP_ACT_X"))),
    (".syscalls[0].names[1]", "SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall",
     profile("ALLOW", rule("read sendmsg", "SCMP_ACT_NOTIFY"), listenerPath="/x")),
    (".syscalls[0].names[1]", "empty string",
     profile("ALLOW", {"names": ["a", ""], "action": "SCMP_ACT_TRAP"})),
    (".syscalls[0].names[0]", "not a syscall", profile("ALLOW", rule("re\0ad", "SCMP_ACT_TRAP"))),
    (".syscalls[0].args[0].index", "no argument 6",
     profile("TRAP", rule("read", "SCMP_ACT_ALLOW", (6, "EQ", 0)))),
    (".syscalls[0].args[1].op", "not a seccomp operator",
     profile("TRAP", rule("read", "SCMP_ACT_ALLOW", (0, "EQ", 0), (1, "XX", 0)))),
    (".listenerPath", "seccomp listenerPath is not set", profile("ALLOW", rule("read", "SCMP_ACT_NOTIFY"))),
    (".listenerPath", "is not absolute", profile("ALLOW", rule("read", "SCMP_ACT_NOTIFY"), listenerPath="x")),
    (".listenerMetadata", "listenerPath is not", profile("ALLOW", listenerMetadata="m")),
    (".flags[0]", "is not known", profile("ALLOW", flags=["SECCOMP_FILTER_FLAG_X"])),
    (".flags[1]", "needs a listener",
     profile("ALLOW", flags=["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])),
]  # fmt: skip


@pytest.mark.parametrize(("path", "message", "spec"), REFUSED)
def test_refused(path: str, message: str, spec: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        seccomp.compile_filter(spec, kernel_flags=0xFF)
    assert caught.value.config_path == f"$.linux.seccomp{path}"


def test_not_on_this_host() -> None:
    for more, path in [
        ({"architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_S390X"]}, ".architectures[1]"),
        ({"architectures": ["SCMP_ARCH_VAX"]}, ".architectures[0]"),
        ({"flags": ["SECCOMP_FILTER_FLAG_LOG"]}, ".flags[0]"),
    ]:
        with pytest.raises(Unsupported) as caught:
            seccomp.compile_filter(profile("ALLOW", **more), kernel_flags=0)
        assert caught.value.config_path == f"$.linux.seccomp{path}"


def test_malformed_requests_are_refused() -> None:
    """The C side checks every length of the request itself."""
    good = struct.pack("=IIIII", ERRNO, 0, 1, 1, X86_64) + struct.pack("=IIII", ALLOW, 1, 1, 5)
    good += struct.pack("=IIQQ", 0, 4, 0, 0) + b"read\0"
    program = ffi.new("char[]", 4096 * 8)

    def compiled(request: bytes) -> int:
        return int(lib.ocipy_seccomp_compile(request, len(request), program))

    assert compiled(good) > 0
    for size in range(len(good)):
        assert compiled(good[:size]) == -errno.EINVAL
    assert compiled(good + b"\0") == -errno.EINVAL
    for offset in range(8, len(good) - 5, 4):  # any word but the two actions (and the value) made huge
        bad = bytearray(good)
        bad[offset : offset + 4] = b"\xff\xff\xff\xff"
        compiled(bytes(bad))


def test_tables_for_features() -> None:
    assert seccomp.version().count(".") == 2
    assert set(ALL_X86) | {"SCMP_ARCH_AARCH64", "SCMP_ARCH_RISCV64"} <= set(seccomp.known_architectures())
    assert "SCMP_ACT_NOTIFY" in seccomp.known_actions() == sorted(seccomp.known_actions())
    assert set(seccomp.supported_actions()) <= set(seccomp.known_actions())
    assert {"SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_KILL"} <= set(seccomp.supported_actions())
    assert len(seccomp.known_operators()) == 7
    assert "SECCOMP_FILTER_FLAG_SPEC_ALLOW" in seccomp.supported_flags()
    assert set(seccomp.supported_flags()) <= set(seccomp.known_flags())


def test_import_budget() -> None:
    """It is on the path of create: no module of the standard library that isn't written in C."""
    backend = __import__("_cffi_backend").__file__
    sites = [str(Path(ocipy.__file__).parent.parent), str(Path(str(backend)).parent)]
    code = f"import sys; sys.path += {sites!r}; import ocipy.plan.seccomp; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-I", "-S", "-c", code], text=True).split()
    assert "ocipy.plan.seccomp" in loaded
    assert not {"os", "json", "re", "typing", "dataclasses", "enum", "functools"}.intersection(loaded)


# ---- by the kernel ----

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = libc.ptrace.restype = ctypes.c_long
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
# What a Python process may need for a few lines and its exit.
QUIET = rule(
    "read write close futex brk mmap munmap mremap mprotect madvise rt_sigaction rt_sigprocmask rt_sigreturn "
    "exit exit_group getpid gettid sched_yield clock_gettime fcntl"
)
SECCOMP, SET_MODE_FILTER = 317, 1


def call(nr: int, *args: int) -> int:
    result: int = libc.syscall(ctypes.c_long(nr), *(ctypes.c_ulong(a) for a in args))
    return -ctypes.get_errno() if result == -1 else result


def install(made: seccomp.Filter) -> int:
    buffer = ctypes.create_string_buffer(made.program, len(made.program))
    pointer = ctypes.addressof(buffer)
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(made.program) // 8, pointer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    return call(SECCOMP, SET_MODE_FILTER, made.flags, ctypes.addressof(fprog))


def forked(body: Callable[[], int]) -> int:
    """What `body` returns in a child; -1000 - signal if one ends it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            os.write(writer, struct.pack("=q", body()))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return -1000 - os.WTERMSIG(status)
    return int(struct.unpack("=q", answer)[0])


def in_child(made: seccomp.Filter, body: Callable[[], int]) -> int:
    def guarded() -> int:
        assert install(made) >= 0
        return body()

    return forked(guarded)


KILLED = -1000 - signal.SIGSYS


def test_kernel_allows_and_denies() -> None:
    made = seccomp.compile_filter(profile("ERRNO", QUIET, rule("getppid"), defaultErrnoRet=errno.EPROTO))
    assert in_child(made, lambda: call(GETPPID)) == os.getpid()
    assert in_child(made, lambda: call(GETPGRP)) == -errno.EPROTO


def test_kernel_enosys() -> None:
    """openat2 is there, but newer than all of the profile: denied as if it weren't."""
    made = seccomp.compile_filter(profile("ERRNO", QUIET))
    assert in_child(made, lambda: call(MKDIR, 0, 0)) == -errno.EPERM
    assert in_child(made, lambda: call(OPENAT2)) == -errno.ENOSYS
    assert in_child(made, lambda: call(0xFFFFFFF)) == -errno.ENOSYS
    made = seccomp.compile_filter(profile("KILL_PROCESS", QUIET))
    assert in_child(made, lambda: call(OPENAT2)) == -errno.ENOSYS
    assert in_child(made, lambda: call(MKDIR, 0, 0)) == KILLED


@pytest.mark.parametrize(
    ("condition", "yes", "no"),
    [
        ((0, "EQ", 1 << 40 | 3), 1 << 40 | 3, 3), ((0, "NE", 3), 4, 3),
        ((0, "GT", 1 << 32), (1 << 32) + 1, 1 << 32), ((0, "GE", 1 << 32), 1 << 32, 0xFFFFFFFF),
        ((0, "LT", 1 << 32), 0xFFFFFFFF, 1 << 32), ((0, "LE", 1 << 32), 1 << 32, (1 << 32) + 1),
        ((0, "MASKED_EQ", 0xF0, 0x20), 0x12F, 0x13F),
    ],
)  # fmt: skip
def test_kernel_operators(condition: tuple[Any, ...], yes: int, no: int) -> None:
    # getppid(2) takes no arguments: they are free.
    made = seccomp.compile_filter(profile("ALLOW", rule("getppid", "SCMP_ACT_ERRNO", condition, errnoRet=77)))
    assert in_child(made, lambda: call(GETPPID, yes)) == -77
    assert in_child(made, lambda: call(GETPPID, no)) == os.getpid()


def test_kernel_takes_long_programs() -> None:
    rules = [rule(name, "SCMP_ACT_ERRNO", errnoRet=nr) for nr, name in all_names() if nr % 2 and nr > 231]
    made = seccomp.compile_filter(profile("ALLOW", *rules, architectures=ALL_X86))
    assert in_child(made, lambda: call(OPENAT2)) == -OPENAT2


@pytest.mark.parametrize("action", ["KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP"])
def test_kernel_kills(action: str) -> None:
    made = seccomp.compile_filter(profile("ALLOW", rule("getppid", f"SCMP_ACT_{action}")))
    assert in_child(made, lambda: call(GETPPID)) == KILLED
    assert in_child(made, lambda: call(GETPGRP)) == os.getpgrp()


def test_kernel_trap_is_a_signal() -> None:
    made = seccomp.compile_filter(profile("ALLOW", rule("getppid", "SCMP_ACT_TRAP")))
    caught: list[int] = []

    def body() -> int:
        signal.signal(signal.SIGSYS, lambda number, _: caught.append(number))
        call(GETPPID)
        return len(caught)

    assert in_child(made, body) == 1


def test_kernel_log_lets_it_through() -> None:
    spec = profile("LOG", rule("getppid", "SCMP_ACT_ALLOW"), flags=["SECCOMP_FILTER_FLAG_LOG"])
    assert in_child(seccomp.compile_filter(spec), lambda: call(GETPPID)) == os.getpid()
    assert in_child(seccomp.compile_filter(spec), lambda: call(GETPGRP)) == os.getpgrp()


def test_kernel_trace() -> None:
    made = seccomp.compile_filter(profile("ALLOW", rule("getppid", "SCMP_ACT_TRACE", errnoRet=321)))
    assert in_child(made, lambda: call(GETPPID)) == -errno.ENOSYS  # nobody traces
    pid = os.fork()
    if pid == 0:
        libc.ptrace(0, 0, None, None)  # PTRACE_TRACEME
        os.kill(os.getpid(), signal.SIGSTOP)
        install(made)
        call(GETPPID)
        os._exit(0)
    os.waitpid(pid, 0)
    message = ctypes.c_ulong()
    try:
        assert libc.ptrace(0x4200, pid, None, 0x80) == 0  # PTRACE_SETOPTIONS, PTRACE_O_TRACESECCOMP
        assert libc.ptrace(7, pid, None, None) == 0  # PTRACE_CONT
        _, status = os.waitpid(pid, 0)
        assert status >> 8 == signal.SIGTRAP | 7 << 8  # PTRACE_EVENT_SECCOMP
        assert libc.ptrace(0x4201, pid, None, ctypes.addressof(message)) == 0  # PTRACE_GETEVENTMSG
        assert message.value == 321
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_kernel_notify() -> None:
    if "SCMP_ACT_NOTIFY" not in seccomp.supported_actions():
        pytest.skip("the kernel has no SECCOMP_RET_USER_NOTIF")
    flags = set(seccomp.supported_flags()) & {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}
    made = seccomp.compile_filter(
        profile("ALLOW", rule("getppid", "SCMP_ACT_NOTIFY"), listenerPath="/x", flags=sorted(flags))
    )

    def body() -> int:
        listener = install(made)
        pid = os.fork()
        if pid == 0:
            os._exit(call(GETPPID) & 0xFF)
        asked = bytearray(80)
        fcntl.ioctl(listener, 0xC0502100, asked)  # SECCOMP_IOCTL_NOTIF_RECV
        answer = asked[:8] + struct.pack("=qiI", 42, 0, 0)
        fcntl.ioctl(listener, 0xC0182101, answer)  # SECCOMP_IOCTL_NOTIF_SEND
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert forked(body) == 42


def int_0x80() -> Callable[[int, int], int]:
    """A function that makes a system call by i386's gate: push rbx; mov eax, edi; mov ebx, esi; int 0x80 …"""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("53 89f8 89f3 cd80 5b c3"))
    code = ctypes.c_char.from_buffer(page)
    gate = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(ctypes.addressof(code))
    return lambda nr, arg: gate(nr, arg) if code else -1  # which keeps the page


def test_kernel_other_architectures() -> None:
    spec = profile("ALLOW", rule("getppid socket", "SCMP_ACT_ERRNO", errnoRet=55), architectures=ALL_X86)
    made, native = seccomp.compile_filter(spec), seccomp.compile_filter({**spec, "architectures": []})
    assert in_child(made, lambda: call(X32 | GETPPID)) == -55
    assert in_child(native, lambda: call(X32 | GETPPID)) == KILLED
    gate = int_0x80()
    if forked(lambda: gate(64, 0)) != os.getpid():
        pytest.skip("the kernel has no IA32 emulation")
    assert in_child(made, lambda: gate(64, 0)) == -55  # getppid
    assert in_child(made, lambda: gate(102, 1)) == -55  # socketcall(SYS_SOCKET)
    assert in_child(made, lambda: gate(102, 99)) == -errno.EINVAL
    assert in_child(native, lambda: gate(64, 0)) == KILLED
