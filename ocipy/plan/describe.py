"""The words for operations: what `explain` prints and errors say ("can't <words>: <syscall>: <errno>")."""

from __future__ import annotations

from _struct import unpack

from ocipy.config.names import RLIMITS
from ocipy.plan import flags
from ocipy.plan.ops import (
    ATTACH_COPY_LINK,
    ATTACH_NO_FOLLOW,
    SYNC_CGROUP,
    SYNC_DEVICES,
    SYNC_HOOKS,
    SYNC_MAPS,
    SYNC_SCHEDULING,
    Op,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SYNC = {
    SYNC_MAPS: "the id maps", SYNC_CGROUP: "the cgroup limits, and join", SYNC_HOOKS: "the runtime's hooks",
    SYNC_DEVICES: "the network devices", SYNC_SCHEDULING: "the scheduling, set with the host's capabilities",
}  # fmt: skip


def describe(op: Op) -> str:
    """An operation in a line, for people."""
    words = _WORDS.get(op.name, op.name.replace("_", " "))
    return words if isinstance(words, str) else words(*op.values)


def args(words: list[str]) -> str:
    """Arguments in a line, quoted where one has more than plain letters in it."""
    return " ".join(a if a and a.isprintable() and not set(a) & set(" '\"\\$") else repr(a) for a in words)


def _joined(*words: str) -> str:
    return " ".join(word for word in words if word)


def _numbers(mask: bytes) -> str:
    """The numbers of the bits of a mask, which is of words of 64 bits."""
    words = unpack(f"={len(mask) // 8}Q", mask)
    return ",".join(str(n) for n in range(64 * len(words)) if words[n // 64] >> n % 64 & 1)


def _mempolicy(mode: int, nodes: bytes) -> str:
    return f"set memory policy {mode:#x}{f' on nodes {_numbers(nodes)}' if nodes else ''}"


def _new_fs(_slot: int, kind: str, _source: str, options: list[str], attributes: int, like: str) -> str:
    words = ",".join(word for word in (flags.attributes(attributes), ",".join(options)) if word)
    return f"make a {kind} mount{f' ({words})' if words else ''}{_mode_of(like)}"


def _mode_of(path: str) -> str:
    return f" with the mode of {path}, if that is there" if path else ""


def _mount_attr(_slot: int, on: int, off: int, propagation: int, recursive: int) -> str:
    cleared = flags.attributes(off & ~on & ~flags.ATIME, "no longer ")
    words = _joined(flags.attributes(on), cleared, flags.propagation(propagation)) or "as it was"
    return f"make it {words}{', recursively' if recursive else ''}"


def _bind_attr(_slot: int, on: int, off: int, unnamed: int, _source: str) -> str:
    words = _mount_attr(0, on, off, 0, 0)
    return words + (", and nothing else of what its source's mount is" if unnamed else "")


def _open_tree(_slot: int, source: str, how: int, wait: int = 0) -> str:
    words = f"take {source}{' and what is mounted below it' if how & flags.AT_RECURSIVE else ''}"
    words += ", the link itself if it is one" if how & flags.AT_SYMLINK_NOFOLLOW else ""
    return words + (", if it is there already" if wait else "")


def _idmap(_slot: int, _userns: int, recursive: int, source: str) -> str:
    return f"map the ids of {source}{' and what is mounted below it' if recursive else ''}"


def _attach(_slot: int, path: str, how: int) -> str:
    if how & ATTACH_COPY_LINK:
        return f"attach it to {path}, or if it is a symbolic link, make the same one there"
    return f"attach it to {path}{', the link itself if it is one' if how & ATTACH_NO_FOLLOW else ''}"


def _root_attr(attributes: int, propagation: int) -> str:
    return f"make the root {_joined(flags.attributes(attributes), flags.propagation(propagation))}"


_WORDS: dict[str, str | Callable[..., str]] = {
    "sync": lambda kind: f"wait for {_SYNC[kind]}",
    "fork": "continue in a child",
    "ready": "report that all is ready",
    "wait_start": "wait for start",
    "hook": lambda path, words, env, timeout, inherits, last: f"run hook {args([path, *words[1:]])}",
    "exec": lambda words, env, listens: f"exec {args(words)}",
    "lookup": lambda name, path, uid: f"find the executable {name}",
    "open_ns": lambda slot, file, kind, other: f"open the {flags.namespaces(kind)} namespace {file}",
    "setns": lambda pairs: "join namespaces: " + _joined(*(flags.namespaces(kind) for _, kind in pairs)),
    "setns_pidfd": lambda slot, kinds: f"join the container's namespaces: {flags.namespaces(kinds)}",
    "unshare": lambda kinds: f"make new namespaces: {flags.namespaces(kinds)}",
    "loopback": "bring lo up",
    "hostname": lambda value: f"set the host name to {value}",
    "domainname": lambda value: f"set the domain name to {value}",
    "keyring": lambda name: "join a new session keyring",
    "root_ids": lambda groups, uid, gid: (
        f"become {f'uid {uid} gid {gid}' if uid or gid else 'root'} of the user namespace"
    ),
    "dumpable": lambda on: "be traceable again" if on else "be untraceable for those inside",
    "proc_open": lambda slot, file: f"open /proc/{file}",
    "put": lambda slot, text: f"write {text.strip() or repr(text)} to it",
    "proc_write": lambda file, text: f"write {text.strip() or repr(text)} to /proc/{file}",
    "propagation": lambda target, value: f"make {target} {flags.propagation(value)}",
    "bind_root": lambda path: f"bind {path} on itself",
    "open_root": "open the root directory",
    "to_root": "change to the root directory, for the hooks",
    "pivot_root": "pivot_root",
    "move_root": "move the root over / and chroot (no pivot_root)",
    "root_attr": _root_attr,
    "mkdir": lambda path, mode: f"make directory {path} if missing",
    "own_device": lambda slot, source, kind, major, minor: (
        f"see that {source} is the {'block' if kind == flags.S_IFBLK else 'character'} device {major}:{minor}, and"
        " take one like it instead, where one can be made"
    ),
    "mask_device": "make a null device, for masks",
    "symlink": lambda target, path: f"link {path} to {target}",
    "mknod": lambda path, mode, major, minor, *_: f"make node {path} {major}:{minor} mode {mode & 0o7777:o}",
    "mask": lambda slot, skip, path, label: f"mask {path}",
    "readonly": lambda slot, skip, path: f"make {path} read-only",
    "open_tree": _open_tree,
    "open_now": _open_tree,
    "new_fs": _new_fs,
    "mount_attr": _mount_attr,
    "bind_attr": _bind_attr,
    "copy_up": lambda slot, path, keep: f"copy {path} up into it",
    "idmap": _idmap,
    "idmap_now": lambda *values: f"{_idmap(*values)}, by the launching side, if it was taken anew",
    "attach": _attach,
    "legacy_mount": lambda slot, kind, source, ms, data, like: (
        f"make a {kind} mount of {source} ({data}){_mode_of(like)} by mount(2)"
    ),
    "remount": lambda slot, skip, path, on, off, propagation, recursive: (
        f"remount {path} {_joined(flags.attributes(on), flags.propagation(propagation))}"
    ),
    "file_label": lambda slot, skip, path, label: f"label {path} {label}",
    "remount_fs": lambda slot, skip, path, options: (
        f"change options of the file system on {path}: {','.join(options)}"
    ),
    "console": lambda slot, columns, rows, bind, uid: (
        f"make a terminal{' and bind it on /dev/console' * bind}"
    ),
    "stdio": "make the terminal stdin, stdout and stderr",
    "null_stdio": "open the container's own /dev/null where stdin, stdout or stderr is the host's",
    "rlimit": lambda number, soft, hard: f"set {RLIMITS[number]} to {soft}:{hard}",
    "umask": lambda value: f"set umask {value:04o}",
    "bounding": lambda keep: f"keep in the bounding set: {flags.capabilities(keep)}",
    "user": lambda uid, gid, *_: f"become uid {uid} gid {gid}",
    "caps": lambda effective, *_: f"set capabilities: effective {flags.capabilities(effective)}",
    "cwd": lambda path, tentative: f"change to directory {path}",
    "no_new_privs": "set no_new_privs",
    "seccomp": lambda how, program: (
        f"load the seccomp filter ({len(program) // 8} instructions{', with a listener' * bool(how & 8)})"
    ),
    "hook_filter": lambda how, program: f"filter the next hooks' system calls ({len(program) // 8} instructions)",
    "personality": lambda value: f"set personality {value:#x}",
    "scheduler": lambda policy, *_: f"set scheduling policy {policy}",
    "ioprio": lambda value: f"set I/O priority class {value >> 13} level {value & 0x1FFF}",
    "mempolicy": _mempolicy,
    "affinity": lambda cpus: f"run on CPUs {_numbers(cpus)}",
    "death_signal": lambda number: f"end by signal {number} with the launcher",
}
