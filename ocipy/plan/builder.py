"""What the compilers of the single sections share: the growing list of operations, and its slots."""

from __future__ import annotations

from _struct import pack

from ocipy.errors import Unsupported
from ocipy.kernel import os
from ocipy.plan import flags, ops
from ocipy.plan.ops import Op

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.host import Host

    IdMaps = dict[str, tuple[dict[str, list[dict[str, int]]], str]]

MAGIC, VERSION = 0x5049434F, 1
NO_FAULT = 0xFFFFFFFF
#: a slot for what is used at once; those below it are for what is given at launch
SCRATCH = 64
MAX_ID_MAPS = 32  # of mounts; far below SCRATCH
MAX_SLOTS, MAX_OPS = 512, 4096  # of native/init/init.h


class Plan:
    """A compiled plan.

    Attributes:
        ops: the operations, in order.
        given: names of the descriptors that the launch must hand over, in the order of their slots.
        clone_flags: namespaces that the first process is cloned into.
        forks: whether the plan continues in a child, so that the first process is not the last.
        notifies: whether its seccomp filter has a listener, which is for an agent.
        id_maps: what those of ``given`` that are user namespaces map (``uidMappings`` and ``gidMappings`` of a
            section of the config), and the section's config path.
        notices: what of the config has no effect, a line each with the config path (runtime.md#warnings).
    """

    __slots__ = ("clone_flags", "forks", "given", "id_maps", "notices", "notifies", "ops")

    def __init__(
        self, ops: list[Op], given: list[str], clone_flags: int, forks: bool, notifies: bool = False,
        id_maps: IdMaps | None = None, notices: list[str] | None = None,
    ) -> None:
        self.ops = ops
        self.given = given
        self.clone_flags = clone_flags
        self.forks = forks
        self.notifies = notifies
        self.id_maps = id_maps or {}
        self.notices = notices or []

    def encode(self, fault: int = NO_FAULT, timings: bool = False) -> bytes:
        """The plan as the init helper reads it.

        Args:
            fault: index of an operation that is to fail with EIO (fault injection).
            timings: whether the helper measures each operation.
        """
        head = pack("=IIIIII", MAGIC, VERSION, len(self.ops), len(self.given), fault, timings)
        return head + b"".join([op.encode() for op in self.ops])

    def lines(self) -> list[tuple[str, str, str]]:
        """(operation, description, config path) of each operation, for ``ocipy explain``."""
        from ocipy.plan.describe import describe

        first = []
        for maps, where in self.id_maps.values():
            uids, gids = (
                " ".join(f"{m['containerID']}:{m['hostID']}:{m['size']}" for m in maps[name])
                for name in ("uidMappings", "gidMappings")
            )
            first.append(("clone3", f"make a user namespace for mounts: uids {uids}, gids {gids}", where))
        if self.clone_flags:
            names = flags.namespaces(self.clone_flags)
            first.append(("clone3", f"start in new namespaces: {names}", "$.linux.namespaces"))
        return first + [(op.name, describe(op), op.path) for op in self.ops]


class Options:
    """What the caller of `create` chose, besides the config.

    Attributes:
        bundle: absolute path of the bundle directory.
        container_id: the container's id.
        cgroup_paths: the container's cgroup directory per controller (:attr:`Cgroup.paths`).
        no_pivot: move the root instead of pivoting.
        no_new_keyring: keep the caller's session keyring.
        env: variables for the program, besides the config's and before those of the same names.
        listen_pid: add LISTEN_PID, which is the program's own (sd_listen_fds(3)).
        notify_dir: directory of a socket for sd_notify(3), to be seen as ``/run/notify``.
    """

    __slots__ = (
        "bundle", "cgroup_paths", "container_id", "env", "listen_pid", "no_new_keyring", "no_pivot", "notify_dir",
    )  # fmt: skip

    def __init__(
        self,
        bundle: str,
        container_id: str,
        cgroup_paths: dict[str, str] | None = None,
        *,
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        env: list[str] | None = None,
        listen_pid: bool = False,
        notify_dir: str = "",
    ) -> None:
        self.bundle = bundle
        self.container_id = container_id
        self.cgroup_paths = cgroup_paths or {}
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.env = env or []
        self.listen_pid = listen_pid
        self.notify_dir = notify_dir


class Builder:
    """The state of a compilation.

    Attributes:
        new: CLONE_NEW* flags of the namespaces to make.
        joined: path per CLONE_NEW* flag of the namespaces to join.
        ops: what was emitted so far.
        early: operations that belong before any namespace is entered (sources on the host).
        late: remounts that must wait until everything is mounted.
        limits: those that must wait until only the exec is left.
        kept: slot per path of the mounts that are held open, for what is done below them later. Who shares the root
            file system may rename in it while the container is set up: a path would then lead elsewhere.
    """

    def __init__(self, spec: dict[str, Any], host: Host, options: Options) -> None:
        self.spec = spec
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.process: dict[str, Any] = spec.get("process") or {}
        self.host = host
        self.options = options
        self.new = 0
        self.joined: dict[int, str] = {}
        self.ops: list[Op] = []
        self.early: list[Op] = []
        self.late: list[Op] = []
        self.limits: list[Op] = []
        self.given: list[str] = []
        self.kept: dict[str, int] = {}
        self.id_maps: IdMaps = {}
        self.notices: list[str] = []
        self.forks = self.notifies = False
        self.in_cgroup = False
        self._slots = SCRATCH

    def add(self, op: Op) -> None:
        """Emit an operation."""
        self.ops.append(op)

    def give(self, name: str) -> int:
        """The slot of a descriptor that the launch hands over."""
        if name not in self.given:
            self.given.append(name)
        return self.given.index(name)

    def id_map(self, section: dict[str, Any], where: str) -> int:
        """The slot of a user namespace, which the launch hands over, with the id maps of a section of the config.
        The same maps are the same namespace.

        Raises:
            Unsupported: there is no slot left.
        """
        maps = {name: section[name] for name in ("uidMappings", "gidMappings")}
        name = next((name for name, (known, _) in self.id_maps.items() if known == maps), "")
        if not name:
            name = f"ids{len(self.id_maps)}"
            self.id_maps[name] = maps, where
            if len(self.id_maps) > MAX_ID_MAPS:
                raise Unsupported(f"mounts with more than {MAX_ID_MAPS} different id maps", config_path=where)
        return self.give(name)

    def slot(self) -> int:
        """A slot of its own, for what is opened early and used late.

        Raises:
            Unsupported: there is none left.
        """
        self._slots += 1
        if self._slots >= MAX_SLOTS:
            raise Unsupported(
                f"more than {MAX_SLOTS - SCRATCH} bind mounts and devices in a user namespace",
                config_path="$.mounts",
            )
        return self._slots

    def plan(self, clone_flags: int) -> Plan:
        """What was emitted, as a plan.

        Raises:
            Unsupported: it is too long for the helper.
        """
        if len(self.ops) > MAX_OPS:
            raise Unsupported(f"the plan has {len(self.ops)} operations, more than the {MAX_OPS} that fit")
        return Plan(self.ops, self.given, clone_flags, self.forks, self.notifies, self.id_maps, self.notices)

    def has(self, kind: str) -> bool:
        """Whether the container has a namespace of its own of a kind, new or joined."""
        flag = flags.NAMESPACES[kind]
        return bool(self.new & flag) or flag in self.joined

    @property
    def userns(self) -> bool:
        """Whether the container has a user namespace of its own."""
        return self.has("user")

    @property
    def takes_early(self) -> bool:
        """Whether sources on the host are taken before the container's user namespace is entered: as root, who may
        traverse what the container's root may not. A user without privilege has that only inside."""
        return self.userns and self.host.euid == 0

    def take(self, where: str, source: str, how: int, own: bool = False, wait: bool = False) -> int:
        """Emit taking a copy of what is mounted at a path of the host.

        Args:
            own: give it a slot for itself alone.
            wait: it is what it is when its turn comes, since earlier mounts may make or cover it.

        Returns:
            Its slot.
        """
        slot = self.slot() if own or self.takes_early else SCRATCH
        if self.takes_early:
            self.early.append(ops.open_tree(where, slot, source, how, wait))
            if wait:
                self.add(ops.open_now(where, slot, source, how))
        else:
            self.add(ops.open_tree(where, slot, source, how, 0))
        return slot

    def attached(self, target: str, slot: int) -> None:
        """Note that a mount was attached: ``slot`` holds it, or is SCRATCH. What was there and below is covered now."""
        for path in [path for path in self.kept if path == target or path.startswith(target.rstrip("/") + "/")]:
            del self.kept[path]
        if slot != SCRATCH:
            self.kept[target] = slot

    def place(self, path: str) -> tuple[int, int, str]:
        """Where a path begins, for an operation: the slot of the mount that it leads through, the bytes of the path up
        to that, and the path."""
        best, cleaned = "", os.clean(path)
        for target in self.kept:
            if len(target) > len(best) and (cleaned == target or cleaned.startswith(target + "/")):
                best = target
        if not best:
            return ops.NO_SLOT, 0, path
        return self.kept[best], len(best.encode(errors="surrogateescape")), cleaned

    def maps(self, kind: str, number: int) -> bool:
        """Whether an id means something in the container, as far as the config tells; kind is uid or gid."""
        maps = self.linux.get(f"{kind}Mappings") or ()
        return not maps or any(m["containerID"] <= number < m["containerID"] + m["size"] for m in maps)
