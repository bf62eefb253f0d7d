"""``linux.seccomp`` (config-linux.md, Seccomp): from the profile to the program that the kernel loads.

The meaning of a profile is decided here, the code is made by ``native/ext/seccomp.c``. What the spec leaves
open is as runc has it: rules equal to the default action say nothing, names that libseccomp doesn't know
are skipped, two conditions on one argument are alternatives, the native architecture is always covered,
and a call newer than all that the profile names answers ENOSYS where the default action would deny it.

On the path of ``create``, but loaded only for a config that has a profile: libseccomp comes with it.
"""

from __future__ import annotations

from _struct import pack
from errno import E2BIG, ENOSYS, EPERM

from ocipy._seccomp import ffi, lib
from ocipy.errors import ConfigError, Error, Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "$.linux.seccomp"
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS, for one program
MAX_ERRNO = 4095  # the kernel turns a greater one into this

_ERRNO = 0x00050000
_TRACE = 0x7FF00000
_NOTIFY = 0x7FC00000
# SECCOMP_RET_*: the low half of errno's and trace's is errnoRet.
_ACTIONS = {
    "SCMP_ACT_ALLOW": 0x7FFF0000,
    "SCMP_ACT_ERRNO": _ERRNO,
    "SCMP_ACT_KILL": 0x00000000,  # the thread, which is what it has always meant
    "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_KILL_THREAD": 0x00000000,
    "SCMP_ACT_LOG": 0x7FFC0000,
    "SCMP_ACT_NOTIFY": _NOTIFY,
    "SCMP_ACT_TRACE": _TRACE,
    "SCMP_ACT_TRAP": 0x00030000,
}
# Under these a call that nobody knew of goes through (or to a tracer), and the kernel answers ENOSYS itself.
_PERMISSIVE = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE")

# enum scmp_compare
_OPERATORS = {
    "SCMP_CMP_EQ": 4,
    "SCMP_CMP_GE": 5,
    "SCMP_CMP_GT": 6,
    "SCMP_CMP_LE": 3,
    "SCMP_CMP_LT": 2,
    "SCMP_CMP_MASKED_EQ": 7,
    "SCMP_CMP_NE": 1,
}

_ARCHITECTURES = (
    "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_LOONGARCH64", "SCMP_ARCH_M68K", "SCMP_ARCH_MIPS",
    "SCMP_ARCH_MIPS64", "SCMP_ARCH_MIPS64N32", "SCMP_ARCH_MIPSEL", "SCMP_ARCH_MIPSEL64",
    "SCMP_ARCH_MIPSEL64N32", "SCMP_ARCH_PARISC", "SCMP_ARCH_PARISC64", "SCMP_ARCH_PPC", "SCMP_ARCH_PPC64",
    "SCMP_ARCH_PPC64LE", "SCMP_ARCH_RISCV64", "SCMP_ARCH_S390", "SCMP_ARCH_S390X", "SCMP_ARCH_SH",
    "SCMP_ARCH_SHEB", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64",
)  # fmt: skip
_LITTLE_ENDIAN = 0x40000000  # __AUDIT_ARCH_LE, in a token

# SECCOMP_FILTER_FLAG_*. TSYNC is known and has nothing to do: the filter goes to a process of one thread.
_FLAGS = {
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_TSYNC": 0,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
NEW_LISTENER = 1 << 3
WAIT_KILLABLE_RECV = 1 << 5
SPEC_ALLOW = 1 << 2

# What native/ext/seccomp.c takes, in words of 32 bits in this machine's order: default action, options, number of
# architectures, number of rules; the architectures' tokens; and for each rule its action, number of
# arguments, number of names, bytes of names, then the arguments (index, operator, and value and valueTwo
# of 64 bits) and the names, each with a NUL.
_WANT_ENOSYS = 1  # an option
_ARG_SIZE = 24


class Filter:
    """A compiled profile.

    Attributes:
        program: the instructions, an array of ``struct sock_filter`` (8 bytes each, at most 4096).
        flags: for ``seccomp(SECCOMP_SET_MODE_FILTER, flags, …)``; SECCOMP_FILTER_FLAG_NEW_LISTENER is
            among them if ``notify``.
        notify: whether the profile uses SCMP_ACT_NOTIFY: the call returns a listener, for listenerPath.
    """

    __slots__ = ("flags", "notify", "program")

    def __init__(self, program: bytes, flags: int, notify: bool) -> None:
        self.program = program
        self.flags = flags
        self.notify = notify


def compile_filter(profile: dict[str, Any], kernel_flags: int | None = None) -> Filter:
    """Compile ``linux.seccomp``, already valid by the schema.

    Args:
        profile: the object, as config.json has it.
        kernel_flags: the SECCOMP_FILTER_FLAG_* bits that the kernel takes; by default it is asked.

    Raises:
        ConfigError: the profile contradicts itself, or gives too long a program.
        Unsupported: an architecture, flag or the whole of it is not to be had on this host.
    """
    default_name = profile["defaultAction"]
    default = _action(default_name, profile.get("defaultErrnoRet"), PATH, "default")
    if default == _NOTIFY:
        raise ConfigError(
            "SCMP_ACT_NOTIFY cannot be used as default action",
            config_path=f"{PATH}.defaultAction",
            hint="nobody could answer for the calls that set the listener up",
        )
    rules: list[bytes] = []
    notify = False
    for i, rule in enumerate(profile.get("syscalls") or ()):
        action = _action(rule["action"], rule.get("errnoRet"), f"{PATH}.syscalls[{i}]", "")
        if action == _NOTIFY:
            notify = True
            if "sendmsg" in rule["names"]:
                raise ConfigError(
                    "SCMP_ACT_NOTIFY cannot be used for the sendmsg syscall",
                    config_path=f"{PATH}.syscalls[{i}].names[{rule['names'].index('sendmsg')}]",
                    hint="it is by sendmsg that the agent gets the listener",
                )
        names = _names(rule["names"], f"{PATH}.syscalls[{i}]")
        for args in _conditions(rule.get("args"), f"{PATH}.syscalls[{i}]"):
            rules.append(
                pack("=IIII", action, len(args) // _ARG_SIZE, len(rule["names"]), len(names)) + args + names
            )
    flags = _flags(profile, notify, kernel_flags)
    tokens = _architectures(profile.get("architectures") or ())
    # With ENOSYS as the default there is nothing to tell apart.
    enosys = default_name not in _PERMISSIVE and default != _ERRNO | ENOSYS
    request = pack(
        f"=IIII{len(tokens)}I", default, _WANT_ENOSYS if enosys else 0, len(tokens), len(rules), *tokens
    ) + b"".join(rules)
    return Filter(_generate(request), flags, notify)


def _generate(request: bytes) -> bytes:
    program = ffi.new("char[]", MAX_INSTRUCTIONS * 8)
    count = lib.ocipy_seccomp_compile(request, len(request), program)
    if count == -E2BIG:
        raise ConfigError(
            f"the rules compile to more than the {MAX_INSTRUCTIONS} instructions that the kernel takes",
            config_path=f"{PATH}.syscalls",
            hint="rules with args and further architectures are what makes a program long",
        )
    if count < 0:
        raise Error("cannot compile the seccomp profile", phase="compile", config_path=PATH, errno=-count)
    return bytes(ffi.buffer(program, count * 8))


def _action(name: str, errno_ret: int | None, path: str, prefix: str) -> int:
    """The SECCOMP_RET_* value, with its data."""
    value = _ACTIONS.get(name)
    member = f"{prefix}Action" if prefix else "action"
    if value is None:
        raise ConfigError(f"{name} is not a seccomp action", config_path=f"{path}.{member}")
    if value != _ERRNO and value != _TRACE:
        if errno_ret is not None:
            member = f"{prefix}ErrnoRet" if prefix else "errnoRet"
            raise ConfigError(
                f"{name} does not take an errno",
                config_path=f"{path}.{member}",
                hint="only SCMP_ACT_ERRNO and SCMP_ACT_TRACE do",
            )
        return value
    if errno_ret is None:
        return value | EPERM
    limit = MAX_ERRNO if value == _ERRNO else 0xFFFF
    if not 0 <= errno_ret <= limit:
        member = f"{prefix}ErrnoRet" if prefix else "errnoRet"
        raise ConfigError(
            f"{errno_ret} is out of range for {name}",
            config_path=f"{path}.{member}",
            hint=f"the kernel carries 0 to {limit}",
        )
    return value | errno_ret


def _names(names: list[str], path: str) -> bytes:
    """All names of a rule, each with a NUL behind it."""
    blob = ("\0".join(names) + "\0").encode(errors="replace")
    if blob.count(0) != len(names) or "" in names:
        for i, name in enumerate(names):
            if not name or "\0" in name:
                raise ConfigError(
                    "empty string is not a valid syscall" if not name else f"{name!r} is not a syscall",
                    config_path=f"{path}.names[{i}]",
                )
    return blob


def _conditions(args: list[dict[str, Any]] | None, path: str) -> list[bytes]:
    """The rules that a list of arguments stands for: struct arg arrays, each to be met as a whole.

    Several comparisons of one argument are alternatives, and then so are all of the list: libseccomp takes
    each argument once, and engines have relied on this way out (for ``clone`` flags, say) ever since.
    """
    if not args:
        return [b""]
    parts = []
    indices = set()
    for i, arg in enumerate(args):
        index, op = arg["index"], _OPERATORS.get(arg["op"])
        if not 0 <= index <= 5:
            raise ConfigError(
                f"a system call has no argument {index}",
                config_path=f"{path}.args[{i}].index",
                hint="there are six, counted from 0",
            )
        if op is None:
            raise ConfigError(
                f"{arg['op']} is not a seccomp operator", config_path=f"{path}.args[{i}].op"
            )
        indices.add(index)
        parts.append(pack("=IIQQ", index, op, arg["value"], arg.get("valueTwo", 0)))
    return parts if len(indices) < len(parts) else [b"".join(parts)]


def _architectures(names: list[str] | tuple[()]) -> list[int]:
    """The SCMP_ARCH_* tokens, the native one first (the generated code asks for it first)."""
    native = lib.ocipy_seccomp_arch(b"native")
    tokens = [native]
    for i, name in enumerate(names):
        token = _token(name)
        if not token:
            raise Unsupported(
                f"libseccomp {version()} does not know {name}",
                config_path=f"{PATH}.architectures[{i}]",
                hint="remove it from the profile, or update libseccomp",
            )
        if (token ^ native) & _LITTLE_ENDIAN:
            raise Unsupported(
                f"{name} has another byte order than this host",
                config_path=f"{PATH}.architectures[{i}]",
                hint="one program can't serve both",
            )
        if token not in tokens:
            tokens.append(token)
    return tokens


def _token(name: str) -> int:
    known = name in _ARCHITECTURES
    token: int = lib.ocipy_seccomp_arch(name[len("SCMP_ARCH_") :].lower().encode()) if known else 0
    return token


def _flags(profile: dict[str, Any], notify: bool, kernel_flags: int | None) -> int:
    names = profile.get("flags")
    kernel = _kernel_flags() if kernel_flags is None else kernel_flags
    if names is None:
        # runc's default, and crun's: the speculation mitigations that come with seccomp were found to
        # cost more than they are worth, and kernels from 5.16 on don't apply them either.
        flags = SPEC_ALLOW & kernel
    else:
        flags = 0
        for i, name in enumerate(names):
            path = f"{PATH}.flags[{i}]"
            bit = _FLAGS.get(name)
            if bit is None:
                raise ConfigError(f"seccomp flag {name} is not known", config_path=path)
            if bit & ~kernel:
                raise Unsupported(f"the kernel does not have {name}", config_path=path)
            if bit == WAIT_KILLABLE_RECV and not notify:
                raise ConfigError(
                    f"{name} needs a listener",
                    config_path=path,
                    hint="no rule of the profile has SCMP_ACT_NOTIFY",
                )
            flags |= bit
    if notify:
        if not NEW_LISTENER & kernel:
            raise Unsupported("the kernel does not have SCMP_ACT_NOTIFY", config_path=f"{PATH}.syscalls")
        if not profile.get("listenerPath"):
            raise ConfigError(
                "seccomp listenerPath is not set",
                config_path=f"{PATH}.listenerPath",
                hint="SCMP_ACT_NOTIFY needs an agent that listens there",
            )
        if not profile["listenerPath"].startswith("/"):
            raise ConfigError(
                f"the seccomp listenerPath {profile['listenerPath']} is not absolute",
                config_path=f"{PATH}.listenerPath",
                hint="create, start and exec need not be called in the same directory",
            )
        flags |= NEW_LISTENER
    if profile.get("listenerMetadata") and not profile.get("listenerPath"):
        raise ConfigError(
            "listenerMetadata is set and listenerPath is not", config_path=f"{PATH}.listenerMetadata"
        )
    return flags


def _kernel_flags() -> int:
    flags: int = lib.ocipy_seccomp_flags()
    if flags < 0:
        raise Unsupported(
            "the kernel has no seccomp filters",
            config_path=PATH,
            syscall="seccomp",
            errno=-flags,
            hint="it was built without CONFIG_SECCOMP_FILTER, or an outer filter forbids the call",
        )
    return flags


# ---- what `features` says ----


def version() -> str:
    """The libseccomp in use, as ``2.5.4``."""
    number: int = lib.ocipy_seccomp_version()
    return f"{number >> 16}.{number >> 8 & 0xFF}.{number & 0xFF}"


def known_actions() -> list[str]:
    """The actions that a profile may name (features.md, ``actions``)."""
    return sorted(_ACTIONS)


def supported_actions() -> list[str]:
    """Those of them that the running kernel has."""
    return [name for name in known_actions() if lib.ocipy_seccomp_action(_ACTIONS[name])]


def known_operators() -> list[str]:
    """The operators that a profile may name (features.md, ``operators``)."""
    return sorted(_OPERATORS)


def known_architectures() -> list[str]:
    """The architectures that a profile may name: the spec's, as far as libseccomp knows them."""
    return [name for name in _ARCHITECTURES if _token(name)]


def known_flags() -> list[str]:
    """The flags that a profile may name (features.md, ``knownFlags``)."""
    return sorted(_FLAGS)


def supported_flags() -> list[str]:
    """Those of them that the running kernel takes; none if it has no seccomp filters."""
    kernel: int = lib.ocipy_seccomp_flags()
    return [name for name in known_flags() if kernel >= 0 and not _FLAGS[name] & ~kernel]
