"""The driver for cgroup v2: one directory, with every controller there is enabled down to it."""

from __future__ import annotations

from errno import EACCES, EBUSY, ENOENT, EPERM, EROFS
from posix import O_CLOEXEC, O_RDONLY, close, open, pread
from select import POLLPRI, poll
from time import monotonic

from ocipy.cgroups import fs
from ocipy.cgroups.base import WHERE, Cgroup, join
from ocipy.errors import CgroupError
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.oom import OomWatch
    from ocipy.host import CgroupFacts

SIGKILL = 9
FREEZE_SECONDS = 10.0
NOT_ALLOWED = (EACCES, EPERM, EROFS)
DELEGATE = "/sys/kernel/cgroup/delegate"


class UnifiedCgroup(Cgroup):
    """A directory in the cgroup2 hierarchy. See :class:`ocipy.cgroups.base.Cgroup` for the contract.

    A rootless container without a cgroup of its own has no ``paths`` at all, and stays where it began.
    """

    driver = "v2"
    unified = True

    def __init__(self, paths: dict[str, str], optional: bool = False, top: str = "") -> None:
        super().__init__(paths, optional)
        self._top = top

    @classmethod
    def place(cls, path: str, facts: CgroupFacts, optional: bool = False) -> UnifiedCgroup:
        """The driver for a path that :func:`ocipy.cgroups.select` has checked."""
        hierarchy = facts.hierarchies[0]
        base = top = hierarchy.mountpoint
        if not path.startswith("/"):
            # Beside this process's cgroup, not below it: that one has processes, and a cgroup with
            # processes can't enable controllers for those below.
            from ocipy.cgroups.location import own_directory

            try:
                own = own_directory(hierarchy)
            except CgroupError:
                if optional:
                    return cls({}, optional, top)
                raise
            base = own if own == top else os.dirname(own)
        return cls({"": os.clean(f"{base}/{path}")}, optional, top)

    @classmethod
    def of(cls, pid: int) -> UnifiedCgroup:
        """The cgroup of cgroup2 that a process is in now, also where v1 hierarchies are beside it.

        Raises:
            CgroupError: the process is gone; or it is outside of what is mounted.
        """
        from ocipy import host
        from ocipy.cgroups.location import own_directory

        unified = next(hierarchy for hierarchy in host.cgroups().hierarchies if hierarchy.unified)
        try:
            text = os.read_text(f"/proc/{pid}/cgroup")
        except OSError as error:
            raise CgroupError(
                f"process {pid} is gone", code="process-gone", syscall="open", errno=error.errno or 0
            ) from None
        own = next((line[3:] for line in os.lines(text) if line.startswith("0::")), "/")
        its = host.Hierarchy(unified.mountpoint, (), True, unified.root, own)
        return cls({"": own_directory(its)}, top=unified.mountpoint)

    @property
    def directory(self) -> str:
        """The cgroup's directory, or "" if it has none."""
        return self.paths.get("", "")

    def exists(self) -> bool:
        return bool(self.directory) and os.exists(self.directory)

    def create(self) -> None:
        directory = self.directory
        if not directory:
            return
        try:
            if fs.make(directory):
                self.made.add(directory)
            self.enable()
            kind = os.read_text(f"{directory}/cgroup.type").strip()
        except OSError as error:
            if self.optional and error.errno in NOT_ALLOWED:
                self.paths.clear()  # not replaced: the record that is written in the end has this dictionary
                return
            from ocipy.cgroups.refusals import make_refused

            raise make_refused(error, directory) from None
        if kind == "domain invalid":
            # An ancestor is a threaded domain: the only way to hold processes there is to be threaded too.
            # Controllers that can't be (memory, io) will be missing, and be refused if asked for.
            fs.put(directory, "cgroup.type", "threaded")

    def enable(self, only: list[str] | None = None) -> None:
        """Enable every controller that the top has, or only some, in each ancestor's cgroup.subtree_control.

        What is refused is reported by ``apply``, if it is needed at all.
        """
        if not self._top:
            from ocipy import host

            self._top = host.cgroups().hierarchies[0].mountpoint
        wanted = only or _words(self._top, "cgroup.controllers")
        if set(wanted) <= set(_words(self.directory, "cgroup.controllers")):
            return
        current = self._top
        for part in self.directory[len(self._top) + 1 :].split("/"):
            enabled = _words(current, "cgroup.subtree_control")
            missing = [f"+{c}" for c in _words(current, "cgroup.controllers") if c in wanted and c not in enabled]
            if not missing or not self._may_enable(current):
                pass
            elif fs.put(current, "cgroup.subtree_control", " ".join(missing)):
                for one in missing:  # all or nothing: one that can't be keeps the others out
                    fs.put(current, "cgroup.subtree_control", one)
            current += f"/{part}"

    @staticmethod
    def _may_enable(directory: str) -> bool:
        """Whether enabling controllers leaves a cgroup what it is.

        One with processes refuses memory and io, but not cpu and pids: with those it would become a
        threaded domain, and so all that is below it. That is not ours to decide.
        """
        if not os.exists(f"{directory}/cgroup.type") or "threaded" in _words(directory, "cgroup.type"):
            return True  # the root of all may have both
        return not _words(directory, "cgroup.procs")

    def apply(self, resources: dict[str, Any], *, update: bool = False, where: str = WHERE) -> None:
        from ocipy.cgroups.v2.resources import apply

        apply(self.directory, resources, update, where)

    def add(self, pid: int, init: int = 0) -> None:
        if self.directory:
            enter(self.directory, pid, init)

    def clone_fd(self) -> int:
        return fs.open_path(self.directory) if self.directory else -1

    def joining(self) -> tuple[int, list[str]]:
        return self.clone_fd(), []

    def below(self, sub: dict[str, str]) -> UnifiedCgroup:
        for controller, path in sub.items():
            if controller:
                raise CgroupError(f"unknown controller {controller} (cgroup v2 has one hierarchy)")
            if ".." in path.split("/"):
                raise CgroupError(f"bad sub cgroup path: {path}")
        directory = os.clean(f"{self.directory}/{sub.get('', '')}")
        return UnifiedCgroup({"": directory} if self.directory else {}, self.optional, self._top)

    def pids(self) -> list[int]:
        return fs.processes(self.directory) if self.directory else []

    def freeze(self, frozen: bool) -> None:
        directory = self.directory
        self._need("freeze")
        try:
            # Opened before the write: poll(2) reports what has changed since the last read.
            events = open(f"{directory}/cgroup.events", O_RDONLY | O_CLOEXEC)
        except OSError as error:
            raise CgroupError(
                f"can't open {directory}/cgroup.events", syscall="open", errno=error.errno or 0
            ) from None
        try:
            refusal = fs.put(directory, "cgroup.freeze", str(int(frozen)))
            if refusal:
                raise CgroupError(
                    f"can't write {int(frozen)} to {directory}/cgroup.freeze", syscall="write", errno=refusal
                )
            if frozen:
                self._wait_frozen(events)
        except BaseException:
            if frozen:
                fs.put(directory, "cgroup.freeze", "0")
            raise
        finally:
            close(events)

    def _wait_frozen(self, events: int) -> None:
        poller = poll()
        poller.register(events, POLLPRI)
        deadline = monotonic() + FREEZE_SECONDS
        while b"frozen 1" not in _events(events):
            left = deadline - monotonic()
            if left <= 0:
                from ocipy.cgroups.refusals import not_frozen

                raise not_frozen(self.directory, FREEZE_SECONDS)
            poller.poll(left * 1000)

    def frozen_file(self) -> str:
        return f"{self.directory}/cgroup.freeze" if self.directory else ""

    def held_files(self) -> list[str]:
        return [f"{self.directory}/cgroup.events"] if self.directory else []

    def kill(self, signal: int) -> None:
        if not self.directory:
            return
        if signal == SIGKILL:
            refusal = fs.kill_all(self.directory)
            if not refusal or not os.exists(self.directory):
                return
        was_frozen = self.frozen()
        if not was_frozen:
            try:
                self.freeze(True)
            except CgroupError:
                pass  # some won't freeze: then it takes rounds to catch those that are being forked
        try:
            fs.signal_all(self.directory, signal)
        finally:
            if not was_frozen:
                fs.put(self.directory, "cgroup.freeze", "0")

    def stats(self) -> dict[str, Any]:
        self._need("measure")
        from ocipy.cgroups.stats import unified

        return unified(self.directory)

    def oom_kills(self) -> int:
        return fs.field(self.directory, "memory.events", "oom_kill") if self.directory else 0

    def oom_watch(self) -> OomWatch:
        self._need("watch")
        from ocipy.cgroups.oom import watch_unified

        return watch_unified(self.directory)

    def delegate(self, uid: int) -> None:
        directory = self.directory
        if not directory:
            return
        try:
            names = os.read_text(DELEGATE).split()
        except OSError:
            names = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]  # before 4.15
        for path in (directory, *(f"{directory}/{name}" for name in names)):
            try:
                os.chown(path, uid, -1)
            except OSError as error:
                if error.errno == EPERM and os.geteuid():
                    return  # only root gives files away, and nothing in the config asks for it
                # A file that the kernel says can be delegated need not exist here (memory.oom.group).
                if error.errno != ENOENT or path == directory:
                    raise CgroupError(
                        f"can't give {path} to uid {uid}", syscall="chown", errno=error.errno or 0
                    ) from None

    def delete(self) -> None:
        if self.directory:
            fs.remove([self.directory])


def enter(directory: str, pid: int, init: int = 0) -> None:
    """Move a process into a cgroup of cgroup2, or to where ``init`` is (see :meth:`Cgroup.add`). Raises CgroupError."""
    try:
        join(directory, pid)
    except CgroupError as error:
        if error.errno != EBUSY or not init:
            raise
        UnifiedCgroup.of(init).add(pid)


def _words(directory: str, name: str) -> list[str]:
    return os.read_text(f"{directory}/{name}").split()


def _events(fd: int) -> bytes:
    try:
        return pread(fd, 4096, 0)
    except OSError as error:
        raise CgroupError("can't read cgroup.events", syscall="read", errno=error.errno or 0) from None
