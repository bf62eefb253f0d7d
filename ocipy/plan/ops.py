"""The operations of a plan: steps that the init helper executes.

An :class:`Op` knows its config path and encodes itself (``describe.py`` says in words what it does, which takes
`explain` or an error). Its kind says how the values are encoded: ``I`` and ``Q`` are
unsigned integers of 32 and 64 bits, ``s`` a string, ``S`` a list of strings, ``b`` bytes, ``P`` a list of
pairs of 32 bits. ``native/init/ops.h`` has the same numbers and names, and a test holds the two together.

*Slots* are numbers of descriptors that the helper holds: the first ones are given to it at launch, the others
are filled by operations.

A table of plain objects, not a class per operation: fifty classes take half a millisecond to make, at every
start of a command.
"""

from __future__ import annotations

from _struct import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    Value = int | str | bytes | list[str] | list[tuple[int, int]]

NO_UID = NO_SLOT = 0xFFFFFFFF
TIMEOUT_MAX = 0xFFFFFFFF  # seconds of a hook's timeout, for which a larger one is taken: it is a century

#: what a `sync` asks of the launching side
SYNC_MAPS, SYNC_CGROUP, SYNC_HOOKS, SYNC_DEVICES, SYNC_SCHEDULING = 1, 2, 3, 4, 5
#: what `idmap_now` asks of it
SYNC_USERNS, SYNC_IDMAP, SYNC_RIDMAP = 6, 7, 8

#: how an `attach` finds its mount point
ATTACH_IN_PROC, ATTACH_NO_SYMLINK, ATTACH_OVER_ROOT, ATTACH_NO_FOLLOW, ATTACH_COPY_LINK = 1, 2, 4, 8, 16
ATTACH_DEVICE, ATTACH_KEEP = 32, 64

#: what a `copy_up` does not take from the directory, as options of the mount say it
KEEP_MODE, KEEP_UID, KEEP_GID = 1, 2, 4


class Op:
    """One operation.

    Attributes:
        kind: which operation.
        path: the place in config.json that asked for it; "" for what is always done.
        values: as the kind's layout has them.
    """

    __slots__ = ("kind", "path", "values")

    def __init__(self, kind: Kind, path: str, values: tuple[Value, ...]) -> None:
        self.kind = kind
        self.path = path
        self.values = values

    @property
    def name(self) -> str:
        """The operation's name, as the helper has it."""
        return self.kind.name

    def encode(self) -> bytes:
        """The operation as the helper reads it."""
        parts = []
        value: Value
        for kind, value in zip(self.kind.layout, self.values, strict=True):
            if kind == "I" or kind == "Q":
                parts.append(pack("=" + kind, value))
            elif kind == "s":
                parts.append(_string(value))  # type: ignore[arg-type]
            elif kind == "S":
                parts.append(pack("=I", len(value)))  # type: ignore[arg-type]
                parts.extend(map(_string, value))  # type: ignore[arg-type]
            elif kind == "P":
                parts.append(pack("=I", len(value)))  # type: ignore[arg-type]
                parts.extend(pack("=II", *pair) for pair in value)  # type: ignore[union-attr,misc]
            else:
                parts.append(pack("=I", len(value)) + value)  # type: ignore[arg-type,operator]
        body = b"".join(parts)
        return pack("=II", self.kind.code, len(body)) + body


def _string(text: str) -> bytes:
    raw = text.encode(errors="surrogateescape") + b"\0"
    return pack("=I", len(raw)) + raw


class Kind:
    """One kind of operation; called it makes an :class:`Op`: ``ops.unshare("$.linux.namespaces", flags)``."""

    __slots__ = ("code", "layout", "name")

    def __init__(self, code: int, name: str, layout: str = "") -> None:
        self.code = code
        self.name = name
        self.layout = layout

    def __call__(self, path: str, *values: Value) -> Op:
        return Op(self, path, values)


# Synchronization, start and exec
sync = Kind(1, "sync", "I")  # kind
fork = Kind(2, "fork")
ready = Kind(3, "ready", "I")  # whether to keep the channel
wait_start = Kind(4, "wait_start", "I")  # slot of the listening socket
#: path, args, env, timeout in seconds or 0, whether env is the program's, whether `start` is told when it is done
hook = Kind(5, "hook", "sSSIII")
exec = Kind(6, "exec", "SSI")  # args, env, whether to add LISTEN_PID
lookup = Kind(7, "lookup", "ssI")  # executable, PATH, uid whose home directory becomes HOME or NO_UID

# Namespaces, and what is set once inside them
open_ns = Kind(10, "open_ns", "IsIs")  # slot, file, CLONE_NEW*, file of the one that it must not be or ""
setns = Kind(11, "setns", "P")  # (slot, CLONE_NEW*) …
setns_pidfd = Kind(12, "setns_pidfd", "II")  # slot, CLONE_NEW* flags
unshare = Kind(13, "unshare", "I")  # CLONE_NEW* flags
setsid = Kind(14, "setsid")
loopback = Kind(15, "loopback")
hostname = Kind(16, "hostname", "s")
domainname = Kind(17, "domainname", "s")
keyring = Kind(18, "keyring", "s")  # name
root_ids = Kind(19, "root_ids", "III")  # whether setgroups may be called, uid, gid
dumpable = Kind(20, "dumpable", "I")
proc_write = Kind(21, "proc_write", "ss")  # file below /proc, text
proc_open = Kind(22, "proc_open", "Is")  # slot, file below /proc
put = Kind(23, "put", "Is")  # slot of an open file, text

# The root file system
propagation = Kind(30, "propagation", "sQ")  # mount on the host's side, MS_*
bind_root = Kind(31, "bind_root", "s")  # directory
open_root = Kind(32, "open_root")
pivot_root = Kind(33, "pivot_root")
move_root = Kind(34, "move_root")
root_attr = Kind(35, "root_attr", "QQ")  # attributes to set, propagation
to_root = Kind(41, "to_root")
mkdir = Kind(36, "mkdir", "sI")  # path, mode
symlink = Kind(37, "symlink", "ss")  # target, path
mknod = Kind(38, "mknod", "sIIIII")  # path, mode, major, minor, uid, gid
# a path is of the root or, with a slot that is not NO_SLOT, its rest after so many bytes is of the mount in there
mask = Kind(39, "mask", "IIss")  # slot, bytes, path, SELinux label of what covers a directory or ""
readonly = Kind(40, "readonly", "IIs")  # slot, bytes, path

# Mounts
# how: AT_RECURSIVE and AT_SYMLINK_NOFOLLOW
open_tree = Kind(50, "open_tree", "IsII")  # slot, source, how, whether it may be missing
open_now = Kind(49, "open_now", "IsI")  # slot, source, how
# a path whose mode becomes an option, if it is there; or ""
new_fs = Kind(51, "new_fs", "IssSIs")  # slot, type, source, options, attributes, path
mount_attr = Kind(52, "mount_attr", "IQQQI")  # slot, set, clear, propagation, recursive
bind_attr = Kind(59, "bind_attr", "IQQQs")  # slot, set, clear, clear unless locked, source (for words)
copy_up = Kind(53, "copy_up", "IsI")  # slot, path, KEEP_*
attach = Kind(54, "attach", "IsI")  # slot, path, ATTACH_*
legacy_mount = Kind(55, "legacy_mount", "IssQss")  # slot, type, source, MS_*, data, path
remount = Kind(56, "remount", "IIsQQQI")  # slot, bytes, path, set, clear, propagation, recursive
idmap = Kind(57, "idmap", "IIIs")  # slot, slot of the user namespace, recursive, source (for words)
idmap_now = Kind(48, "idmap_now", "IIIs")  # the same
remount_fs = Kind(58, "remount_fs", "IIsS")  # slot, bytes, path, options
file_label = Kind(81, "file_label", "IIss")  # slot, bytes, path, SELinux label

own_device = Kind(94, "own_device", "IsIII")  # slot, source (for words), type of S_IFMT, major, minor
mask_device = Kind(96, "mask_device")

# The terminal
console = Kind(60, "console", "IIIII")  # slot of the socket, columns, rows, whether to bind /dev/console, uid
stdio = Kind(61, "stdio")
null_stdio = Kind(62, "null_stdio")

# The process
rlimit = Kind(70, "rlimit", "IQQ")  # resource, soft, hard
umask = Kind(71, "umask", "I")
bounding = Kind(72, "bounding", "Q")  # capabilities to keep
user = Kind(73, "user", "IIbI")  # uid, gid, groups, whether setgroups may be called
caps = Kind(74, "caps", "QQQQQ")  # effective, permitted, inheritable, ambient, held until the exec
cwd = Kind(75, "cwd", "sI")  # path, whether a refusal is to be tried again later
no_new_privs = Kind(76, "no_new_privs")
seccomp = Kind(77, "seccomp", "Ib")  # flags, program
hook_filter = Kind(87, "hook_filter", "Ib")  # flags, program
personality = Kind(78, "personality", "I")
scheduler = Kind(79, "scheduler", "IIIQQQQ")  # policy, nice, priority, flags, runtime, deadline, period in ns
ioprio = Kind(80, "ioprio", "I")  # class and level
mempolicy = Kind(85, "mempolicy", "Ib")  # mode and flags, nodes as bits
affinity = Kind(86, "affinity", "b")  # CPUs as bits

# A helper program that must not outlive its launcher
death_signal = Kind(93, "death_signal", "I")  # signal

KINDS = tuple(value for value in tuple(globals().values()) if isinstance(value, Kind))
