"""Device rules on cgroup v2: an eBPF program of our own, attached to the cgroup.

The kernel asks it at each open and mknod of a device node; the program of an ancestor can only forbid more.
The rules keep their meaning exactly: for each kind of access the last rule that speaks of it decides.
"""

from __future__ import annotations

from _struct import pack
from errno import E2BIG, EACCES, EINVAL, ENOENT, ENOSPC, EPERM
from sys import byteorder

from ocipy.cgroups.device_rules import ANY, is_all, rules
from ocipy.errors import CgroupError, Unsupported
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.device_rules import Rule

# linux/bpf.h
BPF_PROG_LOAD, BPF_PROG_ATTACH, BPF_PROG_DETACH, BPF_PROG_GET_FD_BY_ID, BPF_PROG_QUERY = 5, 8, 9, 13, 16
BPF_PROG_TYPE_CGROUP_DEVICE = 15
BPF_CGROUP_DEVICE = 6
BPF_F_ALLOW_MULTI, BPF_F_REPLACE = 2, 4
MAX_PROGRAMS = 64  # that one cgroup can have
DEVICE_TYPES = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*
ACCESS = {"m": 1, "r": 2, "w": 4}  # BPF_DEVCG_ACC_*
ALL_ACCESS = 7
REPLACE_TRIES = 20

LDX_W, MOV32, AND32, RSH32, EXIT = 0x61, 0xB4, 0x54, 0x74, 0x95
# 32-bit comparisons (5.1): device numbers are unsigned, an immediate of the 64-bit ones is sign-extended.
JEQ32, JNE32, JSET32 = 0x16, 0x56, 0x46
R0, R1, TYPE, WANTED, MAJOR, MINOR = 0, 1, 2, 3, 4, 5
NEXT, ALLOW, DENY = "next", "allow", "deny"


def _instruction(code: int, register: int, immediate: int = 0, offset: int = 0, source: int = 0) -> bytes:
    registers = register | source << 4 if byteorder == "little" else register << 4 | source
    return pack("=BBhI", code, registers, offset, immediate & 0xFFFFFFFF)


def program(ordered: list[Rule]) -> bytes:
    """The instructions for rules: returns 1 (go on) or 0 (EPERM) for a struct bpf_cgroup_dev_ctx.

    The last rule comes first. WANTED holds the kinds of access that no rule has decided on yet: a matching
    "deny" that touches one of them ends it, a matching "allow" takes its kinds out, and when none is left
    the access is allowed. No code follows a rule for everything, as the verifier takes no dead code.

    Raises:
        Unsupported: more rules than a program's jumps can span.
    """
    # Jumps go forward only; their targets are filled in once the blocks are known.
    code: list[tuple[int, int, int, str]] = []
    starts: dict[int, int] = {}  # index of a jump to NEXT -> index of its target
    default = False
    for rule in reversed(ordered):
        allow, kind, major, minor, access = rule
        if is_all(rule):
            default = allow
            break
        first = len(code)
        if kind != "a":
            code.append((JNE32, TYPE, DEVICE_TYPES[kind], NEXT))
        if major != ANY:
            code.append((JNE32, MAJOR, major, NEXT))
        if minor != ANY:
            code.append((JNE32, MINOR, minor, NEXT))
        mask = sum(ACCESS[letter] for letter in access)
        if allow:
            code.append((AND32, WANTED, ALL_ACCESS & ~mask, ""))
            code.append((JEQ32, WANTED, 0, ALLOW))
        else:
            code.append((JSET32, WANTED, mask, DENY))
        for index in range(first, len(code)):
            if code[index][3] == NEXT:
                starts[index] = len(code)
    end = len(code)
    deny = end if not default else end + 2  # the default's own return serves for its value
    allow_at = end if default else end + 2
    lines = [
        _instruction(LDX_W, TYPE, offset=0, source=R1),
        _instruction(AND32, TYPE, 0xFFFF),
        _instruction(LDX_W, WANTED, offset=0, source=R1),
        _instruction(RSH32, WANTED, 16),
        _instruction(LDX_W, MAJOR, offset=4, source=R1),
        _instruction(LDX_W, MINOR, offset=8, source=R1),
    ]
    targets = {ALLOW: allow_at, DENY: deny}
    for index, (operation, register, immediate, target) in enumerate(code):
        offset = 0
        if target:
            offset = (starts[index] if target == NEXT else targets[target]) - index - 1
            if offset > 0x7FFF:
                raise Unsupported("too many device rules for one eBPF program", phase="cgroup")
        lines.append(_instruction(operation, register, immediate, offset))
    lines += [_instruction(MOV32, R0, int(default)), _instruction(EXIT, R0)]
    if any(step[3] == (DENY if default else ALLOW) for step in code):
        lines += [_instruction(MOV32, R0, int(not default)), _instruction(EXIT, R0)]
    return b"".join(lines)


def apply(directory: str, devices: list[dict[str, Any]], where: str) -> None:
    """Give a cgroup the program for ``linux.resources.devices``, in place of the one that it has.

    Raises:
        CgroupError: the kernel refuses.
        ConfigError: a rule is wrong.
        Unsupported: the kernel has no eBPF for cgroups, and a rule denies something.
    """
    instructions = program(rules(devices, where))
    fd = -1
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = _load(instructions)
            _attach(directory_fd, fd)
        finally:
            os.close(directory_fd)
            if fd >= 0:
                os.close(fd)  # the cgroup holds the program now
    except OSError as error:
        from ocipy.cgroups.refusals import privileged

        number = error.errno or 0
        if number in (EPERM, EACCES) and not privileged():
            return  # who may not load programs may not make device nodes either
        if number in (EPERM, EACCES, ENOENT):
            raise CgroupError(
                f"can't limit devices of {directory}", config_path=where, syscall="bpf", errno=number
            ) from None
        if number == E2BIG:
            raise Unsupported(
                f"{len(devices)} device rules are more than the kernel takes in a program", phase="cgroup",
                config_path=where, syscall="bpf", errno=number, hint="several hundred fit",
            ) from None  # fmt: skip
        if all(entry["allow"] for entry in devices):
            return  # nothing was to be denied
        raise Unsupported(
            "this kernel can't limit devices (CONFIG_CGROUP_BPF)", phase="cgroup", config_path=where,
            syscall="bpf", errno=number,
        ) from None


def attached(directory: str) -> list[int]:
    """The ids of the device programs that are attached to a cgroup. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return _query(fd)
    finally:
        os.close(fd)


def _bpf(command: int, attributes: bytes) -> int:
    """bpf(2) with a ``union bpf_attr`` that it may write to. Raises OSError."""
    return _bpf_inout(command, bytearray(attributes))


def _bpf_inout(command: int, attributes: bytearray) -> int:
    from ocipy._native import ffi, lib

    result: int = lib.ocipy_bpf(command, ffi.from_buffer(attributes), len(attributes))
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def _address(buffer: bytearray) -> int:
    from ocipy._native import ffi

    return int(ffi.cast("unsigned long", ffi.from_buffer(buffer)))


def _load(instructions: bytes) -> int:
    code = bytearray(instructions)
    license = bytearray(b"Apache-2.0\0")  # has to be there; no GPL-only helper is called
    attributes = pack(
        "=IIQQIIQII16s", BPF_PROG_TYPE_CGROUP_DEVICE, len(code) // 8, _address(code), _address(license),
        0, 0, 0, 0, 0, b"ocipy_devices",
    )
    try:
        return _bpf(BPF_PROG_LOAD, attributes)
    except OSError as error:
        if error.errno != EPERM:
            raise
    # Before 5.11 programs counted against RLIMIT_MEMLOCK.
    from resource import RLIMIT_MEMLOCK, getrlimit, setrlimit

    before = getrlimit(RLIMIT_MEMLOCK)
    try:
        setrlimit(RLIMIT_MEMLOCK, (1 << 26, max(1 << 26, before[1])) if before[1] != -1 else (-1, -1))
    except ValueError:
        raise OSError(EPERM, os.strerror(EPERM)) from None
    try:
        return _bpf(BPF_PROG_LOAD, attributes)
    finally:
        setrlimit(RLIMIT_MEMLOCK, before)


def _query(directory: int) -> list[int]:
    ids = bytearray(4 * MAX_PROGRAMS)
    attributes = bytearray(
        pack("=IIIIQII", directory, BPF_CGROUP_DEVICE, 0, 0, _address(ids), MAX_PROGRAMS, 0)
    )
    _bpf_inout(BPF_PROG_QUERY, attributes)
    count = int.from_bytes(attributes[24:28], byteorder)
    return [int.from_bytes(ids[4 * i : 4 * i + 4], byteorder) for i in range(count)]


def _attach(directory: int, new: int) -> None:
    """Attach a program in place of those that are there, with no moment without any."""
    replace = True
    for _ in range(REPLACE_TRIES):
        ids = _query(directory)
        old = _open_programs(ids)
        try:
            if len(old) == len(ids) == 1 and replace:
                try:
                    flags = BPF_F_ALLOW_MULTI | BPF_F_REPLACE
                    _bpf(BPF_PROG_ATTACH, pack("=IIIII", directory, new, BPF_CGROUP_DEVICE, flags, old[0]))
                    return
                except OSError as error:
                    if error.errno not in (ENOENT, EINVAL):
                        raise
                    # ENOENT: another update was faster. EINVAL: no BPF_F_REPLACE, or attached otherwise.
                    replace = error.errno == ENOENT
                    continue
            _bpf(BPF_PROG_ATTACH, pack("=IIIII", directory, new, BPF_CGROUP_DEVICE, BPF_F_ALLOW_MULTI, 0))
            for fd in old:
                try:
                    _bpf(BPF_PROG_DETACH, pack("=IIIII", directory, fd, BPF_CGROUP_DEVICE, 0, 0))
                except OSError as error:
                    if error.errno != ENOENT:
                        raise
            return
        finally:
            for fd in old:
                os.close(fd)
    raise OSError(ENOSPC, "the cgroup's device programs keep changing")


def _open_programs(ids: list[int]) -> list[int]:
    """File descriptors for programs; those that are gone, or that a security module hides, are left out."""
    found: list[int] = []
    for program_id in ids:
        try:
            found.append(_bpf(BPF_PROG_GET_FD_BY_ID, pack("=III", program_id, 0, 0)))
        except OSError as error:
            if error.errno not in (ENOENT, EPERM, EACCES):
                for fd in found:
                    os.close(fd)
                raise
    return found
