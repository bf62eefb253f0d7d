"""Host facts: what ``compile`` and the cgroup drivers need to know of this machine.

Facts are read once per process and handed to the pure parts; nothing here changes anything.
"""

from __future__ import annotations

from ocipy.errors import Error
from ocipy.kernel import os

CGROUP_ROOT = "/sys/fs/cgroup"
ALL = 2**64 - 1


class Hierarchy:
    """One mounted cgroup hierarchy.

    Attributes:
        mountpoint: where it is mounted.
        controllers: v1 controllers bound to it, ``name=systemd`` style for a named one; empty for cgroup2.
        unified: whether this is the cgroup2 hierarchy.
        root: the cgroup that is at the mount point (``/`` but for a bind mount of a part).
        own: this process's cgroup in the hierarchy, as /proc/self/cgroup has it.
    """

    __slots__ = ("controllers", "mountpoint", "own", "root", "unified")

    def __init__(
        self, mountpoint: str, controllers: tuple[str, ...], unified: bool, root: str, own: str
    ) -> None:
        self.mountpoint = mountpoint
        self.controllers = controllers
        self.unified = unified
        self.root = root
        self.own = own

    @property
    def name(self) -> str:
        """The directory name it goes by (``cpu,cpuacct``, ``systemd``, ``unified``)."""
        return os.basename(self.mountpoint)

    def directory(self) -> str:
        """The directory of this process's cgroup; "" if that is outside of what is mounted."""
        own, root = os.clean(self.own).rstrip("/"), self.root.rstrip("/")
        inside = not root or own == root or own.startswith(root + "/")
        return self.mountpoint + own[len(root) :] if inside else ""


class CgroupFacts:
    """The cgroup layout: ``mode`` is ``v1``, ``hybrid`` (v1 and cgroup2 side by side) or ``v2``."""

    __slots__ = ("hierarchies", "mode")

    def __init__(self, mode: str, hierarchies: list[Hierarchy]) -> None:
        self.mode = mode
        self.hierarchies = hierarchies


def parse_cgroups(mountinfo: str, own: str) -> CgroupFacts:
    """The cgroup layout, from the text of ``/proc/self/mountinfo`` and ``/proc/self/cgroup``.

    Raises:
        Error: no cgroup hierarchy is mounted.
    """
    owns: dict[str, str] = {}
    for line in os.lines(own):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            owns[controller] = path
    found: list[Hierarchy] = []
    seen: set[tuple[str, ...]] = set()
    for line in os.lines(mountinfo):
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        fstype, _, rest = right.partition(" ")
        fields = left.split(" ")
        root, mountpoint = os.mount_name(fields[3]), os.mount_name(fields[4])
        if fstype == "cgroup2":
            key: tuple[str, ...] = ()
        elif fstype == "cgroup":
            options = rest.partition(" ")[2].split(",")
            key = tuple(o for o in options if o in owns and o)
        else:
            continue
        if key in seen:  # the same hierarchy mounted again, for a container perhaps
            continue
        seen.add(key)
        unified = fstype == "cgroup2"
        found.append(Hierarchy(mountpoint, key, unified, root, owns.get(key[0] if key else "", "/")))
    if not found:
        raise Error(
            "no cgroup hierarchy is mounted", code="cgroup-missing", phase="cgroup",
            hint=f"mount cgroup2 on {CGROUP_ROOT}",
        )
    # cgroup2 in the usual place has the controllers, whatever v1 hierarchy somebody mounts besides (net_cls)
    main = [h for h in found if h.unified and (h.mountpoint == CGROUP_ROOT or len(found) == 1)]
    if main:
        return CgroupFacts("v2", main)
    return CgroupFacts("hybrid" if any(h.unified for h in found) else "v1", found)


_facts: list[CgroupFacts] = []


def cgroups() -> CgroupFacts:
    """The cgroup layout of this host (read once per process)."""
    if not _facts:
        _facts.append(
            parse_cgroups(os.read_text("/proc/self/mountinfo"), os.read_text("/proc/self/cgroup"))
        )
    return _facts[0]


class Host:
    """What ``compile`` is told of the host.

    Attributes:
        cgroups: the cgroup layout.
        euid: the effective uid of the caller.
        in_userns: whether the caller is itself in a user namespace other than the host's first one.
        kcore: whether the kernel has /proc/kcore.
        capabilities: those that the caller can give to a container in its own user namespace, as bits.
        egid: the effective gid of the caller.
        set_groups: whether setgroups(2) is allowed in the caller's user namespace.
        units: text of the kernel's lists of CPUs and memory nodes, by file, as far as they were asked for.
    """

    __slots__ = ("_lsms", "capabilities", "cgroups", "egid", "euid", "in_userns", "kcore", "set_groups", "units")

    def __init__(
        self,
        cgroups: CgroupFacts,
        euid: int,
        in_userns: bool,
        capabilities: int = ALL,
        lsms: frozenset[str] | None = None,
        *,
        kcore: bool = True,
        egid: int = 0,
        set_groups: bool = True,
    ) -> None:
        self.cgroups = cgroups
        self.euid = euid
        self.in_userns = in_userns
        self.capabilities = capabilities
        self.kcore = kcore
        self.egid = egid
        self.set_groups = set_groups
        self._lsms = lsms
        self.units: dict[str, str] = {}

    @property
    def rootless(self) -> bool:
        """Whether the caller is not the host's root: what ``--rootless auto`` means."""
        return self.euid != 0 or self.in_userns

    @property
    def lsms(self) -> frozenset[str]:
        """The security modules that label processes and are enabled: of ``apparmor`` and ``selinux``. Looked up
        when it is first asked for: most configs have no labels."""
        if self._lsms is None:
            self._lsms = frozenset(name for name, enabled in _LSMS.items() if enabled())
        return self._lsms

    def cpus(self) -> str:
        """The CPUs that are online, as a list such as ``0-3,7``."""
        return self._units("cpu/online")

    def memory_nodes(self) -> str:
        """The NUMA nodes that have memory, as a list; "" if the kernel does not know of nodes."""
        return self._units("node/has_memory")

    def _units(self, file: str) -> str:
        if file not in self.units:  # read when asked for: few configs name any
            try:
                self.units[file] = os.read_text(f"/sys/devices/system/{file}").strip()
            except FileNotFoundError:
                self.units[file] = ""
        return self.units[file]


def _apparmor() -> bool:
    file = "/sys/module/apparmor/parameters/enabled"
    return os.exists(file) and os.read_text(file).startswith("Y")


def _selinux() -> bool:
    # the file system is registered only when SELinux was not disabled at boot
    return "\tselinuxfs\n" in os.read_text("/proc/filesystems")


_LSMS = {"apparmor": _apparmor, "selinux": _selinux}


def facts() -> Host:
    """The facts of this host."""
    from ocipy._native import lib  # not for the cgroup drivers, which import this module too

    inside = in_userns()
    groups = not inside or os.read_text("/proc/self/setgroups").strip() == "allow"
    return Host(
        cgroups(), os.geteuid(), inside, lib.ocipy_capabilities(), kcore=os.exists("/proc/kcore"),
        egid=os.getegid(), set_groups=groups,
    )  # fmt: skip


def in_userns() -> bool:
    """Whether this process is in a user namespace other than the host's first one."""
    return os.read_text("/proc/self/uid_map").split() != ["0", "0", "4294967295"]
