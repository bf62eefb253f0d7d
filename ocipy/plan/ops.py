"""The operations of a plan: each knows its config path, describes itself and encodes itself.

An operation is one step that the init helper executes (``native/init/ops.h`` has the same numbers). The
``layout`` says how its fields, in the order of ``__slots__``, are encoded: ``I`` and ``Q`` unsigned integers
of 32 and 64 bits, ``s`` a string, ``S`` a list of strings, ``b`` bytes. Slots are numbers of descriptors that
the helper holds: the first ones are given to it at launch, the others are filled by operations.
"""

from __future__ import annotations

from _struct import pack

from ocipy.plan import flags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar

NO_UID = 0xFFFFFFFF

# What a `Sync` asks of the launching side.
SYNC_MAPS, SYNC_CGROUP, SYNC_HOOKS = 1, 2, 3
SYNC_NAMES = {SYNC_MAPS: "the id maps", SYNC_CGROUP: "the cgroup membership", SYNC_HOOKS: "the runtime's hooks"}

# How an `Attach` finds its mount point.
ATTACH_IN_PROC, ATTACH_NO_SYMLINK, ATTACH_OVER_ROOT = 1, 2, 4


class Op:
    """One operation. ``path`` is the place in config.json that asked for it ("" for what is always done)."""

    __slots__ = ("path",)
    code: ClassVar[int]
    layout: ClassVar[str] = ""

    def __init__(self, path: str, *values: Any) -> None:
        self.path = path
        for name, value in zip(self.__slots__, values, strict=True):
            setattr(self, name, value)

    @property
    def name(self) -> str:
        """The operation's name as the helper has it (``open_tree``)."""
        out = ""
        for letter in type(self).__name__:
            out += f"_{letter.lower()}" if letter.isupper() and out else letter.lower()
        return out

    def describe(self) -> str:
        """The operation in a line, for people."""
        return self.name.replace("_", " ")

    def encode(self) -> bytes:
        """The operation as the helper reads it."""
        parts = []
        for kind, name in zip(self.layout, self.__slots__, strict=True):
            value = getattr(self, name)
            if kind in "IQ":
                parts.append(pack("=" + kind, value))
            elif kind == "s":
                parts.append(_string(value))
            elif kind == "S":
                parts.append(pack("=I", len(value)))
                parts.extend(map(_string, value))
            else:
                parts.append(pack("=I", len(value)) + value)
        body = b"".join(parts)
        return pack("=II", self.code, len(body)) + body


def _words(args: list[str]) -> str:
    """Arguments in a line, quoted where one has more than plain letters in it."""
    return " ".join(a if a and a.isprintable() and not set(a) & set(" '\"\\$") else repr(a) for a in args)


def _string(text: str) -> bytes:
    raw = text.encode(errors="surrogateescape") + b"\0"
    return pack("=I", len(raw)) + raw


# --- synchronization, start and exec ---


class Sync(Op):
    """Waits for the launching side to do its part."""

    __slots__ = ("kind",)
    code, layout = 1, "I"
    kind: int

    def describe(self) -> str:
        return f"wait for {SYNC_NAMES[self.kind]}"


class Fork(Op):
    """Continues in a child: joined pid and new time namespaces hold for children only."""

    __slots__ = ()
    code = 2

    def describe(self) -> str:
        return "continue in a child"


class Ready(Op):
    """Everything but the exec is done. ``keep`` the channel for its failure, where no start will come."""

    __slots__ = ("keep",)
    code, layout = 3, "I"

    def describe(self) -> str:
        return "report that all is ready"


class WaitStart(Op):
    """Waits for `start` on the listening socket in a slot."""

    __slots__ = ("slot",)
    code, layout = 4, "I"
    slot: int

    def describe(self) -> str:
        return "wait for start"


class Hook(Op):
    """Runs a hook in the container's namespaces; ``timeout`` in seconds, 0 for none."""

    __slots__ = ("executable", "args", "env", "timeout")
    code, layout = 5, "sSSI"
    executable: str
    args: list[str]

    def describe(self) -> str:
        return f"run hook {_words([self.executable, *self.args[1:]])}"


class Exec(Op):
    """Becomes the user's program."""

    __slots__ = ("args", "env")
    code, layout = 6, "SS"
    args: list[str]

    def describe(self) -> str:
        return f"exec {_words(self.args)}"


class Lookup(Op):
    """Finds the executable, what it needs to run, and the home directory of ``home_uid`` (NO_UID: not wanted)."""

    __slots__ = ("executable", "search", "home_uid")
    code, layout = 7, "ssI"
    executable: str

    def describe(self) -> str:
        return f"find the executable {self.executable}"


# --- namespaces ---


class OpenNs(Op):
    """Opens a namespace file into a slot."""

    __slots__ = ("slot", "file", "kind")
    code, layout = 10, "IsI"
    file: str
    kind: int

    def describe(self) -> str:
        return f"open the {flags.namespaces(self.kind)} namespace {self.file}"


class Setns(Op):
    """Joins the namespaces opened before, in the order that their owners allow."""

    __slots__ = ("pairs",)
    code = 11
    pairs: list[tuple[int, int]]

    def describe(self) -> str:
        return "join namespaces: " + " ".join(flags.namespaces(kind) for _, kind in self.pairs)

    def encode(self) -> bytes:
        body = pack("=I", len(self.pairs)) + b"".join(pack("=II", *pair) for pair in self.pairs)
        return pack("=II", self.code, len(body)) + body


class SetnsPidfd(Op):
    """Joins the namespaces of a running process, by its pidfd."""

    __slots__ = ("slot", "kinds")
    code, layout = 12, "II"
    kinds: int

    def describe(self) -> str:
        return f"join the container's namespaces: {flags.namespaces(self.kinds)}"


class Unshare(Op):
    """Makes new namespaces."""

    __slots__ = ("kinds",)
    code, layout = 13, "I"
    kinds: int

    def describe(self) -> str:
        return f"make new namespaces: {flags.namespaces(self.kinds)}"


class Setsid(Op):
    """Starts a session of its own."""

    __slots__ = ()
    code = 14


class Loopback(Op):
    """Brings the loopback device of a new network namespace up."""

    __slots__ = ()
    code = 15

    def describe(self) -> str:
        return "bring lo up"


class Hostname(Op):
    """Sets the host name."""

    __slots__ = ("value",)
    code, layout = 16, "s"
    value: str

    def describe(self) -> str:
        return f"set the host name to {self.value}"


class Domainname(Op):
    """Sets the NIS domain name."""

    __slots__ = ("value",)
    code, layout = 17, "s"
    value: str

    def describe(self) -> str:
        return f"set the domain name to {self.value}"


class Keyring(Op):
    """Joins a new session keyring."""

    __slots__ = ("value",)
    code, layout = 18, "s"

    def describe(self) -> str:
        return "join a new session keyring"


class RootIds(Op):
    """Becomes uid and gid 0 of the user namespace."""

    __slots__ = ("setgroups",)
    code, layout = 19, "I"

    def describe(self) -> str:
        return "become root of the user namespace"


class Dumpable(Op):
    """Sets whether other processes may trace this one."""

    __slots__ = ("value",)
    code, layout = 20, "I"
    value: int

    def describe(self) -> str:
        return "be traceable again" if self.value else "be untraceable for those inside"


class ProcWrite(Op):
    """Writes to a file below a verified procfs."""

    __slots__ = ("file", "value")
    code, layout = 21, "ss"
    file: str
    value: str

    def describe(self) -> str:
        return f"write {self.value.strip()} to /proc/{self.file}"


# --- the root file system ---


class Propagation(Op):
    """Sets the propagation of a mount on the host's side of the new mount namespace."""

    __slots__ = ("target", "flags")
    code, layout = 30, "sQ"
    target: str
    flags: int

    def describe(self) -> str:
        return f"make {self.target} {flags.propagation(self.flags)}"


class BindRoot(Op):
    """Makes the root file system a mount and opens it."""

    __slots__ = ("rootfs",)
    code, layout = 31, "s"
    rootfs: str

    def describe(self) -> str:
        return f"bind {self.rootfs} on itself"


class OpenRoot(Op):
    """Opens the root directory as it is."""

    __slots__ = ()
    code = 32


class PivotRoot(Op):
    """Changes the root and leaves the old one."""

    __slots__ = ()
    code = 33

    def describe(self) -> str:
        return "pivot_root"


class MoveRoot(Op):
    """Changes the root by a mount move, for a host on an initramfs."""

    __slots__ = ()
    code = 34

    def describe(self) -> str:
        return "move the root over / and chroot (no pivot_root)"


class RootAttr(Op):
    """The root mount's own attributes and propagation."""

    __slots__ = ("set", "propagation")
    code, layout = 35, "QQ"
    set: int
    propagation: int

    def describe(self) -> str:
        words = [flags.attributes(self.set), flags.propagation(self.propagation)]
        return f"make the root {' '.join(w for w in words if w)}"


class Mkdir(Op):
    """Makes a directory where it is missing."""

    __slots__ = ("target", "mode")
    code, layout = 36, "sI"
    target: str

    def describe(self) -> str:
        return f"make directory {self.target} if missing"


class Symlink(Op):
    """Makes a symbolic link where nothing is."""

    __slots__ = ("to", "target")
    code, layout = 37, "ss"
    to: str
    target: str

    def describe(self) -> str:
        return f"link {self.target} to {self.to}"


class Mknod(Op):
    """Makes a device or fifo."""

    __slots__ = ("target", "mode", "major", "minor", "uid", "gid")
    code, layout = 38, "sIIIII"
    target: str
    mode: int
    major: int
    minor: int
    uid: int
    gid: int

    def describe(self) -> str:
        return f"make node {self.target} {self.major}:{self.minor} mode {self.mode & 0o7777:o}"


class Mask(Op):
    """Hides a path, if it is there."""

    __slots__ = ("target",)
    code, layout = 39, "s"
    target: str

    def describe(self) -> str:
        return f"mask {self.target}"


class Readonly(Op):
    """Makes a path read-only, if it is there."""

    __slots__ = ("target",)
    code, layout = 40, "s"
    target: str

    def describe(self) -> str:
        return f"make {self.target} read-only"


# --- mounts ---


class OpenTree(Op):
    """Takes a detached copy of a mount, the source of a bind mount."""

    __slots__ = ("slot", "source", "flags")
    code, layout = 50, "IsI"
    source: str
    flags: int

    def describe(self) -> str:
        return f"take {self.source}{' and what is mounted below it' if self.flags & flags.AT_RECURSIVE else ''}"


class NewFs(Op):
    """Makes a new detached mount."""

    __slots__ = ("slot", "type", "source", "options", "attributes")
    code, layout = 51, "IssSI"
    type: str
    source: str
    options: list[str]
    attributes: int

    def describe(self) -> str:
        words = [w for w in (flags.attributes(self.attributes), ",".join(self.options)) if w]
        return f"make a {self.type} mount{' (' + ','.join(words) + ')' if words else ''}"


class MountAttr(Op):
    """Changes the attributes of a detached mount."""

    __slots__ = ("slot", "set", "clear", "propagation", "recursive", "userns")
    code, layout = 52, "IQQQII"
    set: int
    clear: int
    propagation: int
    recursive: int
    userns: int

    def describe(self) -> str:
        words = [flags.attributes(self.set), flags.attributes(self.clear & ~self.set & ~flags.ATIME, "no longer ")]
        words += [flags.propagation(self.propagation)]
        tail = ", recursively" if self.recursive else ""
        return f"make it {' '.join(w for w in words if w) or 'as it was'}{tail}"


class CopyUp(Op):
    """Fills a new tmpfs with what the image has at its mount point."""

    __slots__ = ("slot", "target")
    code, layout = 53, "Is"
    target: str

    def describe(self) -> str:
        return f"copy {self.target} up into it"


class Attach(Op):
    """Attaches a detached mount."""

    __slots__ = ("slot", "target", "flags")
    code, layout = 54, "IsI"
    target: str

    def describe(self) -> str:
        return f"attach it to {self.target}"


class LegacyMount(Op):
    """Mounts by mount(2): what fsconfig(2) can't carry."""

    __slots__ = ("type", "source", "target", "flags", "data", "attach")
    code, layout = 55, "sssQsI"
    type: str
    source: str
    target: str
    data: str

    def describe(self) -> str:
        return f"mount {self.type} from {self.source} on {self.target} ({self.data})"


class Remount(Op):
    """Changes the attributes of a mount in place."""

    __slots__ = ("target", "set", "clear", "propagation", "recursive")
    code, layout = 56, "sQQQI"
    target: str
    set: int
    clear: int
    propagation: int

    def describe(self) -> str:
        words = [flags.attributes(self.set), flags.propagation(self.propagation)]
        return f"remount {self.target} {' '.join(w for w in words if w)}"


# --- terminal ---


class Console(Op):
    """Makes the terminal and sends its master to the console socket in a slot."""

    __slots__ = ("slot", "columns", "rows", "bind", "uid")
    code, layout = 60, "IIIII"
    bind: int

    def describe(self) -> str:
        return "make a terminal" + (" and bind it on /dev/console" if self.bind else "")


class Stdio(Op):
    """Makes the terminal standard input, output and error."""

    __slots__ = ()
    code = 61

    def describe(self) -> str:
        return "make the terminal stdin, stdout and stderr"


# --- the process ---


class Rlimit(Op):
    """Sets a resource limit."""

    __slots__ = ("resource", "soft", "hard")
    code, layout = 70, "IQQ"
    resource: int
    soft: int
    hard: int

    def describe(self) -> str:
        return f"set {flags.RLIMIT_NAMES[self.resource]} to {self.soft}:{self.hard}"


class Umask(Op):
    """Sets the file mode creation mask."""

    __slots__ = ("value",)
    code, layout = 71, "I"
    value: int

    def describe(self) -> str:
        return f"set umask {self.value:04o}"


class Bounding(Op):
    """Drops capabilities from the bounding set."""

    __slots__ = ("keep",)
    code, layout = 72, "Q"
    keep: int

    def describe(self) -> str:
        return f"keep in the bounding set: {flags.capabilities(self.keep)}"


class User(Op):
    """Becomes the container's user."""

    __slots__ = ("uid", "gid", "groups", "setgroups")
    code, layout = 73, "IIbI"
    uid: int
    gid: int
    groups: bytes

    def describe(self) -> str:
        return f"become uid {self.uid} gid {self.gid}"


class Caps(Op):
    """Sets the effective, permitted, inheritable and ambient capabilities."""

    __slots__ = ("effective", "permitted", "inheritable", "ambient", "held")
    code, layout = 74, "QQQQQ"
    effective: int
    permitted: int
    inheritable: int
    ambient: int

    def describe(self) -> str:
        return f"set capabilities: effective {flags.capabilities(self.effective)}"


class Cwd(Op):
    """Changes to the working directory and makes sure that it is inside."""

    __slots__ = ("target", "tentative")
    code, layout = 75, "sI"
    target: str

    def describe(self) -> str:
        return f"change to directory {self.target}"


class NoNewPrivs(Op):
    """Gives up ever gaining privileges."""

    __slots__ = ()
    code = 76


class Seccomp(Op):
    """Loads the system call filter."""

    __slots__ = ("flags", "program")
    code, layout = 77, "Ib"
    program: bytes

    def describe(self) -> str:
        return f"load the seccomp filter ({len(self.program) // 8} instructions)"


class Personality(Op):
    """Sets the execution domain."""

    __slots__ = ("value",)
    code, layout = 78, "I"
    value: int

    def describe(self) -> str:
        return f"set personality {self.value:#x}"


class Scheduler(Op):
    """Sets the scheduling policy; runtime, deadline and period in nanoseconds."""

    __slots__ = ("policy", "nice", "priority", "flags", "runtime", "deadline", "period")
    code, layout = 79, "IIIQQQQ"
    policy: int

    def describe(self) -> str:
        return f"set scheduling policy {self.policy}"


class Ioprio(Op):
    """Sets the I/O scheduling class and priority."""

    __slots__ = ("value",)
    code, layout = 80, "I"
    value: int

    def describe(self) -> str:
        return f"set I/O priority class {self.value >> 13} level {self.value & 0x1FFF}"
