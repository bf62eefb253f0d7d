"""The driver for cgroup v1, and for hybrid: v1 hierarchies with a cgroup2 beside them.

Each mounted controller hierarchy gets a directory, so does ``name=systemd`` (systemd would else take the
processes for those of the unit that started them) and, on hybrid, cgroup2: runc and crun do the same.
cgroup2 has no controllers then, but ``cgroup.kill`` and CLONE_INTO_CGROUP work.
"""

from __future__ import annotations

from errno import EACCES, ENOENT, EPERM, EROFS
from time import monotonic, sleep

from ocipy.cgroups import fs
from ocipy.cgroups.base import WHERE, Cgroup, join
from ocipy.errors import CgroupError, Unsupported
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.oom import OomWatch
    from ocipy.host import CgroupFacts

SIGKILL = 9
FREEZE_TRIES = 1000
FREEZE_SECONDS = 10.0
NOT_ALLOWED = (EACCES, EPERM, EROFS)
UNLIMITED = ("name=systemd", "")  # hierarchies that track and limit nothing: doing without is harmless


class LegacyCgroup(Cgroup):
    """A directory in each v1 hierarchy. See :class:`ocipy.cgroups.base.Cgroup` for the contract."""

    driver = "v1"

    @classmethod
    def place(cls, path: str, facts: CgroupFacts, optional: bool = False) -> LegacyCgroup:
        """The driver for a path that :func:`ocipy.cgroups.select` has checked."""
        below = os.clean(f"/{path}")
        paths: dict[str, str] = {}
        for hierarchy in facts.hierarchies:
            base = hierarchy.mountpoint
            if not path.startswith("/"):
                from ocipy.cgroups.location import own_directory

                try:
                    base = own_directory(hierarchy)
                except CgroupError:
                    if optional:
                        continue
                    raise
            directory = base + below
            for controller in hierarchy.controllers or ("",):
                if not controller.startswith("name=") or controller == "name=systemd":
                    paths[controller] = directory
        return cls(paths, optional)

    def _directories(self) -> list[str]:
        """Each directory once: controllers mounted together (``cpu,cpuacct``) share one."""
        return list(dict.fromkeys(self.paths.values()))

    def _main(self) -> str:
        """The directory to ask for processes: all hold the same ones."""
        for controller in ("freezer", "devices", *self.paths):
            if controller in self.paths:
                return self.paths[controller]
        return ""

    def exists(self) -> bool:
        return any(os.exists(directory) for directory in self._directories())

    def create(self) -> None:
        for directory in self._directories():
            try:
                new = fs.make(directory)
            except OSError as error:
                users = [c for c, path in self.paths.items() if path == directory]
                harmless = all(c in UNLIMITED for c in users)
                allowed = self.optional or harmless
                if allowed and (error.errno in NOT_ALLOWED or (harmless and error.errno == ENOENT)):
                    for controller in users:
                        del self.paths[controller]
                    continue
                from ocipy.cgroups.refusals import make_refused

                raise make_refused(error, directory) from None
            if new:
                self.made.add(directory)
            if directory == self.paths.get("cpuset"):
                self._inherit_cpuset(directory, new)

    @staticmethod
    def _inherit_cpuset(directory: str, new: bool) -> None:
        """Fill cpuset.cpus and cpuset.mems: a v1 cpuset begins empty, and then takes no process.

        What is refused (EINVAL: an exclusive sibling has those CPUs) is left to ``linux.resources.cpu``;
        if that says nothing either, adding the first process fails with an explanation.
        """
        for name in ("cpuset.cpus", "cpuset.mems"):
            try:
                if new or not os.read_text(f"{directory}/{name}").strip():
                    fs.put(directory, name, _cpuset(os.dirname(directory), name))
            except OSError as error:
                raise CgroupError(
                    f"can't read {name} of {directory} or its parents", syscall="read",
                    errno=error.errno or 0,
                ) from None

    def apply(self, resources: dict[str, Any], *, update: bool = False, where: str = WHERE) -> None:
        from ocipy.cgroups.v1.resources import apply

        apply(self.paths, resources, update, where, self.optional)

    def add(self, pid: int, init: int = 0) -> None:
        beside = self.paths.get("")
        for directory in self._directories():
            if directory == beside:
                from ocipy.cgroups.v2.driver import enter

                enter(directory, pid, init)
            else:
                join(directory, pid)

    def clone_fd(self) -> int:
        return -1

    def joining(self) -> tuple[int, list[str]]:
        # "tasks" moves one thread. For a caller that moves itself and nothing else (0), the kernel skips
        # cgroup_threadgroup_rwsem since 5.5; cgroup.procs always takes it, and cgroup2 has no other file.
        beside = self.paths.get("")
        files = [f"{directory}/tasks" for directory in self._directories() if directory != beside]
        return fs.open_path(beside) if beside else -1, files

    def below(self, sub: dict[str, str]) -> LegacyCgroup:
        for controller, path in sub.items():
            if ".." in path.split("/"):
                raise CgroupError(f"bad sub cgroup path: {path}")
            if controller and controller not in self.paths:
                raise CgroupError(f"unknown controller {controller}")
        named: dict[str, str] = {}  # by directory: controllers that are mounted together can't be in two places
        for controller, path in sub.items():
            if controller and named.setdefault(self.paths[controller], path) != path:
                raise CgroupError(f"{controller} is mounted with others: they go to one sub cgroup, not two")
        paths = {
            controller: os.clean(f"{directory}/{named.get(directory, sub.get('', ''))}")
            for controller, directory in self.paths.items()
        }
        return LegacyCgroup(paths, self.optional)

    def pids(self) -> list[int]:
        return fs.processes(self._main())

    def freeze(self, frozen: bool) -> None:
        directory = self.paths.get("freezer", "")
        if not directory:
            self._need("freeze", "freezer")
            raise Unsupported("the freezer cgroup controller is not mounted", phase="cgroup")
        if not frozen:
            self._set_frozen(directory, "THAWED")
            return
        try:
            self._freeze(directory)
        except BaseException:
            fs.put(directory, "freezer.state", "THAWED")  # half frozen is worse than not at all
            raise

    def _freeze(self, directory: str) -> None:
        # A v1 freezer does not reliably reach FROZEN while processes are forked or moved in: it stays
        # FREEZING until written again. Now and then a thaw lets those through that wait for a frozen one.
        deadline = monotonic() + FREEZE_SECONDS
        for attempt in range(FREEZE_TRIES):
            if attempt % 50 == 49:
                self._set_frozen(directory, "THAWED")
                sleep(0.01)
            self._set_frozen(directory, "FROZEN")
            if attempt % 25 == 24:
                sleep(0.00001)
            if self._state(directory) == "FROZEN":
                return
            if monotonic() > deadline:
                break
        from ocipy.cgroups.refusals import not_frozen

        raise not_frozen(directory, FREEZE_SECONDS)

    @staticmethod
    def _set_frozen(directory: str, state: str) -> None:
        refusal = fs.put(directory, "freezer.state", state)
        if refusal:
            raise CgroupError(
                f"can't write {state} to {directory}/freezer.state", syscall="write", errno=refusal
            )

    @staticmethod
    def _state(directory: str) -> str:
        try:
            return os.read_text(f"{directory}/freezer.state").strip()
        except OSError as error:
            if error.errno in fs.GONE:
                return ""
            raise CgroupError(
                f"can't read {directory}/freezer.state", syscall="read", errno=error.errno or 0
            ) from None

    def frozen_file(self) -> str:
        # in freezer.state, FROZEN and FREEZING also mean that an ancestor is frozen
        return f"{self.paths['freezer']}/freezer.self_freezing" if "freezer" in self.paths else ""

    def thaw_all(self) -> None:
        if directory := self.paths.get("freezer"):
            fs.thaw_all(directory)

    def held_files(self) -> list[str]:
        files = {"freezer": "freezer.state", "": "cgroup.events"}
        return [f"{self.paths[controller]}/{name}" for controller, name in files.items() if controller in self.paths]

    def kill(self, signal: int) -> None:
        freezer = self.paths.get("freezer", "")
        thawed = not self.frozen()
        left: list[int] | None = None
        if signal == SIGKILL and "" in self.paths and not fs.kill_all(self.paths[""]):
            # Hybrid, kernel 5.14: all that is in the cgroup2 directory dies, what is being forked there
            # too. Whoever is not in that (moved by hand) is found in the other hierarchy; read second,
            # as nothing killed can appear there anew.
            dying = set(fs.processes(self.paths[""]))
            left = [pid for pid in self.pids() if pid not in dying]
        if left != []:
            if freezer and thawed:
                try:
                    self.freeze(True)
                except CgroupError:
                    pass  # some won't freeze: then it takes rounds to catch those that are being forked
            fs.signal_all(self._main(), signal)
        if signal == SIGKILL:
            self.thaw_all()
        elif freezer and thawed:
            fs.put(freezer, "freezer.state", "THAWED")

    def stats(self) -> dict[str, Any]:
        self._need("measure")
        from ocipy.cgroups.stats import legacy

        return legacy(self.paths)

    def oom_kills(self) -> int:
        if "memory" not in self.paths:
            return 0
        return fs.field(self.paths["memory"], "memory.oom_control", "oom_kill")

    def oom_watch(self) -> OomWatch:
        self._need("watch", "memory")
        from ocipy.cgroups.oom import watch_legacy

        return watch_legacy(self.paths.get("memory", ""))

    def delete(self) -> None:
        fs.remove(self._directories())


def _cpuset(directory: str, name: str) -> str:
    """The CPUs or memory nodes of a v1 cpuset; an empty one is given its parent's first."""
    value = os.read_text(f"{directory}/{name}").strip()
    if not value:
        value = _cpuset(os.dirname(directory), name)
        fs.put(directory, name, value)
    return value
