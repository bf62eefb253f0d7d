"""The kernel's flags and the spec's words for them: one table for compile, explain and features."""

from __future__ import annotations

from ocipy.config.names import CAPABILITIES

# --- namespaces (config-linux.md#namespaces; sched.h) ---

NAMESPACES = {
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
    "mount": 0x00020000,
    "ipc": 0x08000000,
    "uts": 0x04000000,
    "cgroup": 0x02000000,
    "time": 0x00000080,
}
#: the names under /proc/PID/ns
NAMESPACE_FILES = {
    "user": "user",
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "cgroup": "cgroup",
    "time": "time",
}


def namespaces(kinds: int) -> str:
    """The names of a set of CLONE_NEW* flags."""
    return " ".join(name for name, flag in NAMESPACES.items() if kinds & flag)


# --- types of files (stat.h) ---

S_IFCHR, S_IFBLK, S_IFIFO = 0o020000, 0o060000, 0o010000

# --- mount attributes (mount.h, mount_setattr(2)) ---

AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
RDONLY, NOSUID, NODEV, NOEXEC = 1, 2, 4, 8
ATIME = 0x70
RELATIME, NOATIME, STRICTATIME = 0, 0x10, 0x20
NODIRATIME, NOSYMFOLLOW = 0x80, 0x200000

#: option -> (attributes to set, attributes to clear)
MOUNT_ATTRIBUTES = {
    "ro": (RDONLY, 0),
    "rw": (0, RDONLY),
    "nosuid": (NOSUID, 0),
    "suid": (0, NOSUID),
    "nodev": (NODEV, 0),
    "dev": (0, NODEV),
    "noexec": (NOEXEC, 0),
    "exec": (0, NOEXEC),
    "nodiratime": (NODIRATIME, 0),
    "diratime": (0, NODIRATIME),
    "nosymfollow": (NOSYMFOLLOW, 0),
    "symfollow": (0, NOSYMFOLLOW),
    "relatime": (RELATIME, ATIME),
    "norelatime": (STRICTATIME, ATIME),
    "noatime": (NOATIME, ATIME),
    "atime": (RELATIME, ATIME),
    "strictatime": (STRICTATIME, ATIME),
    "nostrictatime": (RELATIME, ATIME),
}

#: what a bind mount with an option of its own has of its source's mount only if the option says so; of the access times
#: that holds only if one is set, as mount(2) has it
OF_BINDS = RDONLY | NOSUID | NODEV | NOEXEC | NOSYMFOLLOW
TIMES = ATIME | NODIRATIME
SETS_TIMES = ("relatime", "noatime", "strictatime", "nodiratime")

#: the forms that hold for everything mounted below as well
RECURSIVE_ATTRIBUTES = {f"r{name}": value for name, value in MOUNT_ATTRIBUTES.items()}

MS_REC, MS_SHARED, MS_PRIVATE, MS_SLAVE, MS_UNBINDABLE = 0x4000, 1 << 20, 1 << 18, 1 << 19, 1 << 17

#: option or rootfsPropagation -> flags
PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "shared": MS_SHARED,
    "rshared": MS_SHARED | MS_REC,
    "slave": MS_SLAVE,
    "rslave": MS_SLAVE | MS_REC,
    "unbindable": MS_UNBINDABLE,
    "runbindable": MS_UNBINDABLE | MS_REC,
}

MS_RDONLY, MS_SILENT, MS_I_VERSION = 1, 1 << 15, 1 << 23

#: options of the superblock -> (word for fsconfig(2), "" for none; flags for mount(2) to set; to clear)
SUPERBLOCK = {
    "sync": ("sync", 1 << 4, 0),
    "async": ("async", 0, 1 << 4),
    "dirsync": ("dirsync", 1 << 7, 0),
    "lazytime": ("lazytime", 1 << 25, 0),
    "nolazytime": ("nolazytime", 0, 1 << 25),
    "mand": ("mand", 1 << 6, 0),
    "nomand": ("nomand", 0, 1 << 6),
    "silent": ("", MS_SILENT, 0),  # fsconfig(2) has neither this one
    "loud": ("", 0, MS_SILENT),
    "iversion": ("", MS_I_VERSION, 0),  # nor this
    "noiversion": ("", 0, MS_I_VERSION),
    "defaults": ("", 0, 0),
}


def attributes(value: int, prefix: str = "") -> str:
    """The words of a set of MOUNT_ATTR_* flags."""
    words = [(RDONLY, "ro"), (NOSUID, "nosuid"), (NODEV, "nodev"), (NOEXEC, "noexec"), (NOATIME, "noatime")]
    words += [(STRICTATIME, "strictatime"), (NODIRATIME, "nodiratime"), (NOSYMFOLLOW, "nosymfollow")]
    return ",".join(prefix + word for flag, word in words if value & flag)


def propagation(value: int) -> str:
    """The word for a propagation flag."""
    for word, flag in PROPAGATION.items():
        if flag == value:
            return word
    return ""


# --- capabilities (capability.h) ---

CAP_SYS_ADMIN, CAP_SYS_NICE = 21, 23


def capabilities(value: int) -> str:
    """The names of a capability set."""
    names = [name for number, name in enumerate(CAPABILITIES) if value >> number & 1]
    return f"all {len(names)}" if len(names) == len(CAPABILITIES) else ",".join(names) or "none"
