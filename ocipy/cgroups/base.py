"""What every cgroup driver does."""

from __future__ import annotations

from _signal import SIGKILL
from errno import EINVAL, ESRCH
from time import sleep

from ocipy.cgroups import fs
from ocipy.errors import CgroupError
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.oom import OomWatch

WHERE = "$.linux.resources"


class Cgroup:
    """The control groups of one container.

    The order of a create is: :meth:`record` into the state file, :meth:`create`, :meth:`apply`, then
    the processes. Limits come before processes because a realtime process can't enter a cgroup without
    realtime budget, and because nothing should run unlimited, however shortly.

    A process gets in by one of two ways:

    * **by itself** (the fast one, for a process that we make), with what :meth:`joining` returns. The
      kernel moves its own caller without the lock that keeps every fork of the machine waiting, whose
      first taker waits for an RCU grace period (6 to 15 ms when nothing moved lately).
    * **from outside**, by :meth:`add`, unless it was cloned with :meth:`clone_fd`.

    Attributes:
        paths: absolute directory per controller (v1: ``{"memory": "/sys/fs/cgroup/memory/x", …}``,
            ``name=systemd`` and, on hybrid, ``""`` for cgroup2 included; v2: ``{"": "/sys/fs/cgroup/x"}``).
        optional: directories that can't be made for lack of permission are left out of ``paths``
            (a rootless container that names no cgroup); limits for them are still refused.
        made: the directories that :meth:`create` or :meth:`adopt` has made, not found.
    """

    driver: str
    #: it is in the cgroup2 hierarchy alone, whoever made it
    unified = False
    #: it is made around a process (:meth:`adopt`), not before there is one (:meth:`create`)
    needs_process = False

    def __init__(self, paths: dict[str, str], optional: bool = False) -> None:
        self.paths = paths
        self.optional = optional
        self.made: set[str] = set()

    def record(self) -> dict[str, Any]:
        """What the state file keeps, to be given to :func:`ocipy.cgroups.load`.

        ``create`` may drop paths (see ``optional``): what was recorded before it is a superset.
        """
        return {"driver": self.driver, "paths": self.paths, "optional": self.optional}

    def _need(self, what: str, controller: str = "") -> None:
        """Refuse what takes a cgroup (v1: of a controller), where a rootless container has none. Raises Unsupported."""
        if self.optional and not (self.paths.get(controller) if controller else self.paths):
            from ocipy.cgroups.refusals import no_cgroup

            raise no_cgroup(what)

    def exists(self) -> bool:
        """Whether any of the directories exists (with processes in it or not)."""
        raise NotImplementedError

    def create(self) -> None:
        """Make the directories, with controllers enabled down to them.

        Directories that are there already are used. Parents that it makes stay behind (as with runc):
        other containers may be using them by the time this one is deleted.

        Raises:
            CgroupError: a directory can't be made.
        """
        raise NotImplementedError

    def apply(self, resources: dict[str, Any], *, update: bool = False, where: str = WHERE) -> None:
        """Write ``linux.resources`` (validated).

        Args:
            resources: the object; what is absent (or 0 where the spec knows no 0) is left as it is.
            update: the container runs already. Without it, the device rules are always written:
                ``devices`` (none is: deny all) and then the devices every container has; with it,
                only if there is a ``devices``.
            where: the JSON path of ``resources``, for errors.

        Raises:
            CgroupError: the kernel refuses a value.
            ConfigError: a value is wrong whatever the kernel.
            Unsupported: the controller, or the setting, does not exist here.
        """
        raise NotImplementedError

    def adopt(self, pid: int, resources: dict[str, Any]) -> None:
        """Make the cgroup around a process that waits; only where ``needs_process``.

        Args:
            pid: the process.
            resources: ``linux.resources``, for what can't be set later; the rest is for :meth:`apply`.

        Raises:
            CgroupError: it can't be made; with the code ``cgroup-in-use`` it is somebody else's.
        """
        raise NotImplementedError

    def add(self, pid: int, init: int = 0) -> None:
        """Move a process into every directory.

        Args:
            pid: the process.
            init: the container's, for an exec: where cgroup2 takes no more processes (EBUSY), it goes to where that is.
                An init that manages cgroups (systemd) has moved itself down then, and enabled controllers.

        Raises:
            CgroupError: the kernel refuses.
        """
        raise NotImplementedError

    def clone_fd(self) -> int:
        """An O_PATH fd for CLONE_INTO_CGROUP (the caller closes it), or -1 where that isn't all (v1).

        Raises:
            CgroupError: the directory can't be opened.
        """
        raise NotImplementedError

    def joining(self) -> tuple[int, list[str]]:
        """What takes a new process into every directory without :meth:`add`.

        Returns:
            An O_PATH fd for CLONE_INTO_CGROUP (the caller closes it) or -1; and files into each of which
            the new process then writes ``0``: while it has one thread, still sees the host's mounts, and
            is in the host's user and cgroup namespaces. Only both together do it: on hybrid, the fd is
            for cgroup2, the files for the v1 hierarchies.

        Raises:
            CgroupError: a directory can't be opened.
        """
        raise NotImplementedError

    def below(self, sub: dict[str, str]) -> Cgroup:
        """The driver for cgroups below this one (``exec --cgroup``).

        Args:
            sub: relative path per controller; the key ``""`` stands for all.

        Raises:
            CgroupError: an unknown controller, or a path that leads out.
        """
        raise NotImplementedError

    def pids(self) -> list[int]:
        """The processes in it and in every cgroup below it."""
        raise NotImplementedError

    def freeze(self, frozen: bool) -> None:
        """Freeze or thaw, and wait until the kernel says so. Raises CgroupError."""
        raise NotImplementedError

    def thaw_all(self) -> None:
        """Let what was killed die, also if the container has frozen cgroups below this one. (v2: it dies anyway.)"""

    def frozen_file(self) -> str:
        """The file that says "1" as long as it is frozen itself (not by an ancestor); "" if it can't be."""
        raise NotImplementedError

    def frozen(self) -> bool:
        """Whether it is frozen itself; False where it doesn't exist."""
        try:
            return bool(file := self.frozen_file()) and os.read_text(file).strip() == "1"
        except OSError:
            return False

    def held_files(self) -> list[str]:
        """The files that say "THAWED" or "frozen 0" as long as it is not frozen, neither itself nor by an ancestor."""
        raise NotImplementedError

    def held(self) -> bool:
        """Whether it is frozen, by itself or by an ancestor: what goes in does nothing more until that is thawed."""
        return any(fs.held(file) for file in self.held_files())

    def kill(self, signal: int) -> None:
        """Signal every process in it and below, also one that is forking (freeze first, or cgroup.kill).

        SIGKILL thaws a frozen cgroup and those below, since a frozen process of v1 can't die; any other
        signal leaves it frozen.
        """
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        """Usage now, in the shape of runc's ``events --stats`` ``data`` member.

        What doesn't come from cgroups (``intel_rdt``, ``network_interfaces``) is not in it.
        """
        raise NotImplementedError

    def oom_kills(self) -> int:
        """How many processes the OOM killer has killed in it; 0 without a memory controller."""
        raise NotImplementedError

    def oom_watch(self) -> OomWatch:
        """Something to poll for OOM kills. Raises Unsupported without a memory controller."""
        raise NotImplementedError

    def delegate(self, uid: int) -> None:
        """Give the cgroup to a uid of the host (config-linux.md#cgroup-ownership), where the caller may.

        v1 hierarchies are left alone: delegation isn't secure there, says the spec.
        """

    def undo(self) -> None:
        """Take back a create that came to nothing: end what is in it, and remove what create has made. A directory that
        it has found is not ours, and stays, frozen if it is. Raises CgroupError: something is left."""
        if self.pids():
            self.kill(SIGKILL)
        for controller in [name for name, directory in self.paths.items() if directory not in self.made]:
            del self.paths[controller]  # not replaced: the record has this dictionary
        self.delete()

    def delete(self) -> None:
        """Remove the directories, those below included; retried while EBUSY; fine if already gone."""
        raise NotImplementedError


def join(directory: str, pid: int) -> None:
    """Move a process into a cgroup by ``cgroup.procs``.

    Raises:
        CgroupError: the kernel refuses; its ``errno`` says why.
    """
    for attempt in range(6):
        refusal = fs.put(directory, "cgroup.procs", str(pid))
        if not refusal:
            return
        # EINVAL: the process has been cloned but has not begun to run yet (TASK_NEW).
        if refusal != EINVAL or attempt == 5:
            break
        sleep(0.03)
    if refusal == ESRCH:
        raise CgroupError(
            f"process {pid} is gone: can't join {directory}", code="process-gone", syscall="write",
            errno=refusal,
        )
    from ocipy.cgroups.refusals import join_refused

    raise join_refused(directory, pid, refusal)
