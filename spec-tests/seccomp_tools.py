"""What the seccomp tests share: profiles in short, an interpreter of classic BPF, and libseccomp itself."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import tempfile
from typing import Any

from ocipy.plan import seccomp

X86_64, X86, ARM, AARCH64, S390X = 0xC000003E, 0x40000003, 0x40000028, 0xC00000B7, 0x80000016
X32 = 0x40000000
ALLOW, KILL, KILL_PROCESS, TRAP = 0x7FFF0000, 0, 0x80000000, 0x30000
ERRNO, TRACE, LOG = 0x50000, 0x7FF00000, 0x7FFC0000
ENOSYS = ERRNO | errno.ENOSYS
ALL_X86 = ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
GETPPID, GETPGRP, MKDIR, OPENAT2 = 110, 111, 83, 437


def rule(names: str, action: str = "SCMP_ACT_ALLOW", *args: tuple[Any, ...], **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = {"names": names.split(), "action": action, **more}
    if args:
        made["args"] = [
            {"index": i, "op": f"SCMP_CMP_{op}", "value": value, **({"valueTwo": two[0]} if two else {})}
            for i, op, value, *two in args
        ]
    return made


def profile(default: str, *rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"defaultAction": f"SCMP_ACT_{default}", "syscalls": list(rules), **more}


@functools.lru_cache
def instructions(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


def interpret(program: bytes, nr: int, arch: int = X86_64, args: tuple[int, ...] = ()) -> int:
    """Run a program of classic BPF, as the kernel does (little endian)."""
    data = struct.pack("=IIQ6Q", nr & 0xFFFFFFFF, arch, 0, *(args + (0,) * 6)[:6])
    insns = instructions(program)
    acc = pc = 0
    while True:
        code, jt, jf, k = insns[pc]
        pc += 1
        if code == 0x20:
            acc = struct.unpack_from("=I", data, k)[0]
        elif code == 0x54:
            acc &= k
        elif code == 0x05:
            pc += k
        elif code == 0x06:
            return k
        else:
            taken = {0x15: acc == k, 0x25: acc > k, 0x35: acc >= k, 0x45: bool(acc & k)}[code]
            pc += jt if taken else jf


class Compare(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def libseccomp() -> ctypes.CDLL:
    lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Compare)]
    for name, count in {"release": 1, "arch_add": 2, "export_bpf": 2, "rule_add_array": 5}.items():
        getattr(lib, f"seccomp_{name}").argtypes = argtypes[:count]
    return lib


def generated_by_libseccomp(spec: dict[str, Any]) -> bytes:
    """The program that libseccomp makes of a profile without errnoRet or repeated argument indices."""
    lib = libseccomp()

    def value(action: str) -> int:
        plain = seccomp._ACTIONS[action]
        return plain | (plain == ERRNO)

    default = value(spec["defaultAction"])
    ctx = lib.seccomp_init(ctypes.c_uint32(default))
    try:
        for arch in spec["architectures"]:
            token = lib.seccomp_arch_resolve_name(arch[10:].lower().encode())
            assert lib.seccomp_arch_add(ctx, token & 0xFFFFFFFF) in (0, -errno.EEXIST)
        for entry in spec["syscalls"]:
            if value(entry["action"]) == default:
                continue
            args = [
                Compare(a["index"], seccomp._OPERATORS[a["op"]], a["value"], a.get("valueTwo", 0))
                for a in entry.get("args", ())
            ]
            for name in entry["names"]:
                nr = lib.seccomp_syscall_resolve_name(name.encode())
                if nr != -1:
                    added = lib.seccomp_rule_add_array(
                        ctx, value(entry["action"]), nr, len(args), (Compare * len(args))(*args)
                    )
                    assert added == 0, (name, os.strerror(-added))
        with tempfile.TemporaryFile() as file:
            assert lib.seccomp_export_bpf(ctx, file.fileno()) == 0
            file.seek(0)
            return file.read()
    finally:
        lib.seccomp_release(ctx)


def all_names() -> list[tuple[int, str]]:
    """x86_64's calls up to openat2, with their numbers."""
    lib = libseccomp()
    names = ((nr, lib.seccomp_syscall_resolve_num_arch(ctypes.c_uint32(X86_64), nr)) for nr in range(440))
    return [(nr, name.decode()) for nr, name in names if name]
