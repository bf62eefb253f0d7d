"""Mounts (config.md#mounts, config-linux.md#default-filesystems): options to flags, mounts to operations."""

from __future__ import annotations

from ocipy.errors import ConfigError, Unsupported
from ocipy.kernel import os
from ocipy.plan import flags, ops
from ocipy.plan.builder import SCRATCH
from ocipy.plan.devices import is_bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.plan.builder import Builder

#: What may be mounted below /proc, besides /proc itself: single files that lxcfs and its like emulate.
#: Everything else there could hide the files through which a process is confined (CVE-2019-16884).
PROC_ALLOWED = frozenset(
    f"/proc/{name}"
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
        "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled",
    )
)  # fmt: skip

#: where the container finds the socket for sd_notify(3)
NOTIFY_DIR = "/run/notify"

#: file systems that show a namespace, and may be mounted by who owns that
SHOWN = {"proc": "a pid", "sysfs": "a network", "mqueue": "an ipc"}

#: words that only choose what kind of operation a mount is
BIND_WORDS = {"bind": 0, "rbind": flags.AT_RECURSIVE}
#: file systems that linux.mountLabel is not for, as with runc: the kernel labels them itself, and the root of a message
#: queue gets its label by setxattr(2)
UNLABELLED = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "mqueue"))
ID_WORDS = ("idmap", "ridmap")
#: what becomes of symbolic links of a bind mount -> (how its source is taken, how it is attached)
LINK_WORDS = {
    "src-nofollow": (flags.AT_SYMLINK_NOFOLLOW, 0),
    "dest-nofollow": (0, ops.ATTACH_NO_FOLLOW),
    "copy-symlink": (flags.AT_SYMLINK_NOFOLLOW, ops.ATTACH_COPY_LINK),
}
#: kinds of which each mount is a file system of its own; to change another's options would be to change the host's
#: mounts of it as well
OWN_FILESYSTEMS = ("tmpfs", "proc", "devpts", "overlay")
USER = flags.NAMESPACES["user"]
FSCONFIG_MAX = 255  # bytes of a value that fsconfig(2) takes


class Wanted:
    """What the options of one mount ask for."""

    __slots__ = (
        "bind", "clear", "copy_up", "data", "ids", "links", "ms", "of_fs", "propagation", "rec_clear", "rec_set",
        "recursive", "remount", "set", "unnamed", "words",
    )  # fmt: skip

    def __init__(self, options: list[str]) -> None:
        self.set = self.clear = self.rec_set = self.rec_clear = 0
        self.bind = self.remount = self.copy_up = False
        self.recursive = self.ms = 0
        self.unnamed = 0  # attributes that a bind mount does not take over from its source's mount
        self.ids = ""  # idmap or ridmap
        self.propagation: list[int] = []
        self.links: list[str] = []
        self.words: list[str] = []  # superblock flags, as fsconfig(2) has them; ms has the same for mount(2)
        self.data: list[str] = []  # the file system's own
        self.of_fs: list[str] = []  # the options of these kinds that are more than the kernel's default
        for option in options:
            if option in flags.MOUNT_ATTRIBUTES:
                on, off = flags.MOUNT_ATTRIBUTES[option]
                self.set, self.clear = _changed(self.set, self.clear, on, off)
                self.unnamed |= flags.OF_BINDS | (flags.TIMES if option in flags.SETS_TIMES else 0)
            elif option in flags.RECURSIVE_ATTRIBUTES:
                on, off = flags.RECURSIVE_ATTRIBUTES[option]
                self.rec_set, self.rec_clear = _changed(self.rec_set, self.rec_clear, on, off)
            elif option in flags.PROPAGATION:
                self.propagation.append(flags.PROPAGATION[option])
            elif option in BIND_WORDS:
                self.bind, self.recursive = True, self.recursive | BIND_WORDS[option]
            elif option == "remount":
                self.remount = True
            elif option == "tmpcopyup":
                self.copy_up = True
            elif option in flags.SUPERBLOCK:
                word, on, off = flags.SUPERBLOCK[option]
                self.unnamed |= flags.OF_BINDS if on | off else 0
                self.ms = self.ms & ~off | on
                self.words += [word] if word else []
                self.of_fs += [option] if on else []
            elif option in ID_WORDS:
                self.ids = option
            elif option in LINK_WORDS:
                self.links.append(option)
            else:
                own = _parts(option)
                self.data += own
                self.of_fs += own
        self.unnamed &= ~(self.set | self.clear)


def _parts(option: str) -> list[str]:
    """The options of a file system in a string that has several. mount(2), which would get it as it is, parts them by
    commas; but for those in quotes (SELinux), after a backslash (overlay) and before a digit (``mpol`` of tmpfs)."""
    parts, quoted, start = [], False, 0
    for at, letter in enumerate(option):
        quoted ^= letter == '"'
        if letter == "," and not quoted and option[at - 1 : at] != "\\" and not option[at + 1 : at + 2].isdigit():
            parts.append(option[start:at])
            start = at + 1
    return [part for part in (*parts, option[start:]) if part]


def _changed(set_: int, clear: int, on: int, off: int) -> tuple[int, int]:
    """Attributes to set and to clear, after one more option. The access time is a number in its bits: they
    are cleared whatever it is set to (mount_setattr(2))."""
    return set_ & ~off | on, (clear | off) & ~on | off & flags.ATIME


def option_names() -> set[str]:
    """The options that are acted upon here, rather than handed to the file system (features.md#mount-options)."""
    return {
        *flags.MOUNT_ATTRIBUTES, *flags.RECURSIVE_ATTRIBUTES, *flags.PROPAGATION, *flags.SUPERBLOCK, *BIND_WORDS,
        *LINK_WORDS, *ID_WORDS, "remount", "tmpcopyup",
    }  # fmt: skip


def make(b: Builder) -> None:
    """Emit every mount."""
    for index, mount in enumerate(b.spec.get("mounts") or ()):
        _mount(b, mount, mount.get("type") or "", f"$.mounts[{index}]")
    if b.options.notify_dir:
        options = ["bind", "nosuid", "noexec", "nodev", "ro"]
        mount = {"destination": NOTIFY_DIR, "source": b.options.notify_dir, "options": options}
        _mount(b, mount, "", "NOTIFY_SOCKET")


def _returns(b: Builder, target: str) -> bool:
    """Whether something is done at a mount or below it after it was attached: it is kept open then."""
    paths = [*(b.linux.get("readonlyPaths") or ()), *(b.linux.get("maskedPaths") or ())]
    for mount in b.spec.get("mounts") or ():
        if "remount" in (mount.get("options") or ()):
            paths.append("/" + mount["destination"])
    return target != "/" and any(f"{os.clean(path)}/".startswith(f"{target}/") for path in paths)


def _slot(b: Builder, target: str, kept: bool = False) -> int:
    """A slot for a mount: of its own, if it is to be kept open."""
    return b.slot() if kept or _returns(b, target) else SCRATCH


def _attach(b: Builder, slot: int, target: str, attach: int, where: str, kept: bool = False) -> None:
    kept = kept or _returns(b, target)
    b.add(ops.attach(where, slot, target, attach | (ops.ATTACH_KEEP if kept else 0)))
    b.attached(target, slot if kept else SCRATCH)


def _mount(b: Builder, mount: dict[str, Any], kind: str, where: str) -> None:
    target = os.clean("/" + mount["destination"])
    wanted = Wanted(mount.get("options") or [])
    if mount.get("uidMappings"):
        wanted.ids = wanted.ids or "idmap"
    attach = _attach_flags(target, kind, mount, where)
    _check(b, wanted, mount, kind, where)
    if wanted.remount:
        _remount(b, mount, wanted, target, where)
    elif is_bind(mount):
        _bind(b, mount, wanted, target, attach, where)
    elif kind == "cgroup" and b.host.cgroups.mode != "v2":
        _cgroup_v1(b, wanted, target, where)
    elif kind in ("cgroup", "cgroup2"):
        _cgroup_v2(b, wanted, target, attach, where)
    elif not kind:
        raise ConfigError("a mount needs a type, or the option bind or rbind", config_path=f"{where}.type")
    else:
        _filesystem(b, mount, kind, wanted, target, attach, where)
        if kind == "mqueue" and b.linux.get("mountLabel"):
            b.add(ops.file_label("$.linux.mountLabel", *b.place(target), b.linux["mountLabel"]))


def _check(b: Builder, wanted: Wanted, mount: dict[str, Any], kind: str, where: str) -> None:
    """Refuse the options that mean nothing for this kind of mount."""
    bind, options = is_bind(mount) and not wanted.remount, f"{where}.options"
    if wanted.copy_up and (kind != "tmpfs" or bind or wanted.remount):
        raise ConfigError("tmpcopyup is an option of tmpfs only", config_path=options)
    if wanted.of_fs and kind == "cgroup" and not bind:
        raise ConfigError(f"a cgroup mount takes no option {wanted.of_fs[0]!r}", config_path=options)
    if wanted.links and not bind:
        raise ConfigError(f"{wanted.links[0]} is an option of bind mounts only", config_path=options)
    if "copy-symlink" in wanted.links and len(set(wanted.links)) > 1:
        raise ConfigError("copy-symlink excludes src-nofollow and dest-nofollow", config_path=options)
    if not wanted.ids:
        return
    path = f"{where}.uidMappings" if mount.get("uidMappings") else options
    if wanted.remount or (not bind and kind in ("cgroup", "cgroup2")):
        raise ConfigError("ids can be mapped in a bind mount or a new file system only", config_path=path)
    if not bind and b.userns:
        # it would belong to the container's user namespace, whose root must not rule another one
        raise Unsupported("in a user namespace, only bind mounts can have their ids mapped", config_path=path)
    if b.host.euid:
        raise Unsupported("id-mapped mounts take the host's root", config_path=path)


def _remount(b: Builder, mount: dict[str, Any], wanted: Wanted, target: str, where: str) -> None:
    if wanted.ms & (flags.MS_I_VERSION | flags.MS_SILENT):
        raise Unsupported("remount with iversion or silent is not implemented", config_path=f"{where}.options")
    if options := wanted.words + wanted.data:
        # with bind it would be the mount alone that changes, as mount(8) has it
        kind = "" if wanted.bind else _made_kind(b, mount, target)
        if kind not in OWN_FILESYSTEMS:
            raise Unsupported(
                f"remount with option {options[0]!r} of what is no {', '.join(OWN_FILESYSTEMS)} mounted there before",
                config_path=f"{where}.options", hint="the options of others are the host's as well",
            )  # fmt: skip
        if target != "/" and target not in b.kept:
            raise Unsupported(
                f"remount with option {options[0]!r} of what a later mount has covered", config_path=f"{where}.options"
            )
        b.add(ops.remount_fs(where, *b.place(target), options))
    b.add(ops.remount(where, *b.place(target), wanted.set, wanted.clear, 0, 0))
    _remount_more(b, wanted, target, where)


def _made_kind(b: Builder, mount: dict[str, Any], target: str) -> str:
    """The type of the file system that the mounts before this one have made at a place, or ""."""
    kind = ""
    for earlier in b.spec["mounts"]:
        if earlier is mount:
            break
        if os.clean("/" + earlier["destination"]) == target and "remount" not in (earlier.get("options") or ()):
            kind = "" if is_bind(earlier) else earlier.get("type") or ""
    return kind


def _remount_more(b: Builder, wanted: Wanted, target: str, where: str) -> None:
    """Emit what mount_setattr(2) does to a mount that is attached already."""
    if wanted.rec_set or wanted.rec_clear:
        b.add(ops.remount(where, *b.place(target), wanted.rec_set, wanted.rec_clear, 0, 1))
    for flag in wanted.propagation:
        b.add(ops.remount(where, *b.place(target), 0, 0, flag & ~flags.MS_REC, bool(flag & flags.MS_REC)))


def _attach_flags(target: str, kind: str, mount: dict[str, Any], where: str) -> int:
    if target == "/proc":
        if kind != "proc" and not (is_bind(mount) and os.clean(mount.get("source") or "") == "/proc"):
            raise ConfigError(
                f"only a proc file system may be mounted on /proc, not {kind or 'this'}",
                config_path=f"{where}.destination",
            )
        return ops.ATTACH_IN_PROC | ops.ATTACH_NO_SYMLINK
    if target.startswith("/proc/"):
        if target not in PROC_ALLOWED:
            raise ConfigError(
                f"{target} is inside of /proc, where nothing may be mounted",
                config_path=f"{where}.destination",
            )
        return ops.ATTACH_IN_PROC
    if target in ("/sys", "/dev"):
        return ops.ATTACH_NO_SYMLINK
    return ops.ATTACH_OVER_ROOT if target == "/" else 0


def _finish(
    b: Builder, slot: int, wanted: Wanted, target: str, attach: int, where: str, kept: bool = False
) -> None:
    """Emit the attributes that need mount_setattr(2), and the attachment."""
    if wanted.rec_set or wanted.rec_clear:
        b.add(ops.mount_attr(where, slot, wanted.rec_set, wanted.rec_clear, 0, 1))
    for flag in wanted.propagation:
        b.add(ops.mount_attr(where, slot, 0, 0, flag & ~flags.MS_REC, bool(flag & flags.MS_REC)))
    _attach(b, slot, target, attach, where, kept)


def _map_ids(b: Builder, mount: dict[str, Any], wanted: Wanted, slot: int, where: str) -> None:
    """Emit the mapping of a detached mount's ids, by its own maps or as the container has them."""
    if not wanted.ids:
        return
    # who may do that is the root of the file system's user namespace: before the container's is entered, or for what is
    # taken anew inside, whoever has launched it
    emit = b.early.append if b.takes_early else b.add
    if mount.get("uidMappings"):
        userns = b.id_map(mount, where)
    elif path := b.joined.get(USER):
        userns = b.slot()
        emit(ops.open_ns(where, userns, path, USER, ""))
    else:
        userns = b.id_map(b.linux, "$.linux")
    values = slot, userns, wanted.ids == "ridmap", mount.get("source") or mount.get("type") or ""
    emit(ops.idmap(where, *values))
    if b.takes_early:
        b.add(ops.idmap_now(where, *values))


def _bind(
    b: Builder, mount: dict[str, Any], wanted: Wanted, target: str, attach: int, where: str
) -> None:
    if not mount.get("source"):
        raise ConfigError("a bind mount needs a source", config_path=f"{where}.source")
    if wanted.of_fs:  # mount(2), to which the spec passes them, ignores them here: so do others, without a word
        words = ", ".join(wanted.of_fs)
        b.notices.append(f"{where}.options: {words}: without effect on a bind mount; they belong to what is bound")
    source = os.clean(os.join(b.options.bundle, mount["source"]))
    how = flags.AT_RECURSIVE if wanted.recursive or (mount.get("type") == "bind" and "rbind" in (
        mount.get("options") or ()
    )) else 0
    for word in wanted.links:
        how |= LINK_WORDS[word][0]
        attach |= LINK_WORDS[word][1]
    slot = b.take(f"{where}.source", source, how, own=_returns(b, target), wait=True)
    _map_ids(b, mount, wanted, slot, where)
    if b.takes_early:  # before propagation from the host ended for our own copy of its mounts
        b.add(ops.mount_attr(where, slot, 0, 0, flags.MS_SLAVE, 1))
    # mount(2), by which others do it, sets exactly the flags that it is given; in a user namespace the kernel keeps
    # those that the source's mount has (MNT_LOCK_*)
    unnamed = 0 if b.userns else wanted.unnamed
    if wanted.set or wanted.clear or unnamed:
        b.add(ops.bind_attr(where, slot, wanted.set, wanted.clear, unnamed, source))
    _finish(b, slot, wanted, target, attach, where)


def _refuse_in_userns(b: Builder, kind: str, mount: dict[str, Any], where: str) -> None:
    """Refuse what the kernel would, without a word, in the container's user namespace: a file system that shows a
    namespace which that one does not own, and owners that are not mapped there."""
    need = SHOWN.get(kind, "")
    if need and not b.has(need.split()[1]):
        raise ConfigError(
            f"in a user namespace {kind} can be mounted only with {need} namespace of the container's own",
            config_path=f"{where}.type",
            hint=f"bind the host's {mount['destination']} instead, with the options rbind and ro",
        )
    for index, option in enumerate(mount.get("options") or ()):
        name, _, number = option.partition("=")
        if name in ("uid", "gid") and number.isascii() and number.isdigit() and not b.maps(name, int(number)):
            raise ConfigError(
                f"{name} {number} isn't mapped in the container's user namespace: it can't own a mount",
                config_path=f"{where}.options[{index}]", hint=f"leave {option} out, or map it: $.linux.{name}Mappings",
            )  # fmt: skip


def _filesystem(
    b: Builder, mount: dict[str, Any], kind: str, wanted: Wanted, target: str, attach: int, where: str
) -> None:
    source = mount.get("source") or kind
    attributes, data = wanted.set, wanted.words + wanted.data
    label = b.linux.get("mountLabel") or "" if kind not in UNLABELLED else ""
    if b.userns:
        _refuse_in_userns(b, kind, mount, where)
    # later mounts may need their mount points made in a tmpfs, and tmpcopyup fills it
    late = kind == "tmpfs" and bool(attributes & flags.RDONLY)
    labelled = kind == "mqueue" and bool(b.linux.get("mountLabel"))
    slot = _slot(b, target, late or labelled)
    if attributes & flags.RDONLY:
        if late:
            attributes &= ~flags.RDONLY
            skip = len(target.encode(errors="surrogateescape"))
            b.late.append(ops.remount(where, slot, skip, target, flags.RDONLY, 0, 0, 0))
        else:
            data.append("ro")  # the superblock as well, as mount(2) does: a read-only device needs it
    given = {option.partition("=")[0] for option in wanted.data}
    # Other runtimes do so: a tmpfs on an image's /run is not to be written to by all.
    like = target if kind == "tmpfs" and "mode" not in given else ""
    if wanted.ms & (flags.MS_I_VERSION | flags.MS_SILENT) or any(
        len(option.partition("=")[2].encode()) > FSCONFIG_MAX for option in [*wanted.data, f"={label}"]
    ):
        if wanted.copy_up or wanted.ids:
            raise Unsupported(
                f"{wanted.ids or 'tmpcopyup'} with iversion, silent or a value of over {FSCONFIG_MAX} bytes is not"
                " implemented", config_path=f"{where}.options",
            )  # fmt: skip
        ms = _legacy_flags(attributes) | wanted.ms
        data = [*wanted.data, f'context="{label}"'] if label else wanted.data
        b.add(ops.legacy_mount(where, slot, kind, source, ms, ",".join(data), like))
        _finish(b, slot, wanted, target, attach, where, late)
        return
    if label:
        data.append(f"context={label}")
    b.add(ops.new_fs(where, slot, kind, source, data, attributes & ~flags.NOSYMFOLLOW, like))
    if wanted.copy_up:
        kept = ((ops.KEEP_MODE, "mode"), (ops.KEEP_UID, "uid"), (ops.KEEP_GID, "gid"))
        b.add(ops.copy_up(where, slot, target, sum(flag for flag, name in kept if name in given)))
    _map_ids(b, mount, wanted, slot, where)
    if attributes & flags.NOSYMFOLLOW:  # fsmount(2) takes this one only since Linux 5.14
        b.add(ops.mount_attr(where, slot, flags.NOSYMFOLLOW, 0, 0, 0))
    _finish(b, slot, wanted, target, attach, where, late or labelled)


def _legacy_flags(attributes: int) -> int:
    """MOUNT_ATTR_* as mount(2) has them: the same bits for ro, nosuid, nodev and noexec."""
    ms = attributes & (flags.RDONLY | flags.NOSUID | flags.NODEV | flags.NOEXEC)
    table = (
        (flags.NOATIME, 1 << 10), (flags.NODIRATIME, 1 << 11), (flags.STRICTATIME, 1 << 24),
        (flags.NOSYMFOLLOW, 1 << 8),
    )  # fmt: skip
    return ms | sum(flag for attribute, flag in table if attributes & attribute)


def _cgroup_v2(b: Builder, wanted: Wanted, target: str, attach: int, where: str) -> None:
    if b.userns and not b.has("cgroup"):
        # cgroup2 can be mounted only by who owns the cgroup namespace: the host's mount is bound
        unified = next((h for h in b.host.cgroups.hierarchies if h.unified), None)
        if unified is None:
            raise Unsupported("this host has no cgroup2 mounted", config_path=f"{where}.type")
        slot = b.take(where, unified.mountpoint, flags.AT_RECURSIVE, own=_returns(b, target))
        b.add(ops.mount_attr(where, slot, wanted.set, 0, flags.MS_SLAVE, 1))
        _finish(b, slot, wanted, target, attach, where)
        return
    _filesystem(b, {"source": "cgroup"}, "cgroup2", wanted, target, attach, where)


def _cgroup_v1(b: Builder, wanted: Wanted, target: str, where: str) -> None:
    """A tmpfs that holds a directory per hierarchy: the container's own view of it in a cgroup namespace, and
    otherwise its own directory bound there. The tmpfs has the flags that runc gives it."""
    attributes = wanted.set & ~flags.RDONLY | flags.NOSUID | flags.NODEV | flags.NOEXEC
    own, slot = b.slot(), SCRATCH
    label = b.linux.get("mountLabel")
    data = ["mode=755", f"context={label}"] if label else ["mode=755"]
    b.add(ops.new_fs(where, own, "tmpfs", "tmpfs", data, attributes, ""))
    _attach(b, own, target, 0, where, kept=True)
    for hierarchy in b.host.cgroups.hierarchies:
        if hierarchy.unified:
            continue
        place = f"{target}/{hierarchy.name}"
        if b.has("cgroup"):
            options = ["none", *hierarchy.controllers] if hierarchy.controllers[0].startswith("name=") else [
                *hierarchy.controllers
            ]
            b.add(ops.new_fs(where, slot, "cgroup", "cgroup", options, wanted.set, ""))
        else:
            # without a cgroup of its own (rootless) the container stays in the caller's
            path = b.options.cgroup_paths.get(hierarchy.controllers[0]) or hierarchy.directory() or hierarchy.mountpoint
            b.add(ops.open_tree(where, slot, path, 0, 0))
            b.add(ops.mount_attr(where, slot, wanted.set, 0, 0, 0))
        b.add(ops.attach(where, slot, place, 0))
        for controller in hierarchy.controllers if len(hierarchy.controllers) > 1 else ():
            b.add(ops.symlink(where, hierarchy.name, f"{target}/{controller}"))
    if wanted.set & flags.RDONLY:
        b.late.append(ops.remount(where, *b.place(target), flags.RDONLY, 0, 0, 0))
    _remount_more(b, wanted, target, where)
