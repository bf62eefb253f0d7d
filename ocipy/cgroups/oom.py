"""Watching for OOM kills."""

from __future__ import annotations

from posix import EFD_CLOEXEC, EFD_NONBLOCK, O_CLOEXEC, O_RDONLY, close, eventfd, eventfd_read, open
from select import POLLIN, POLLPRI

from ocipy.cgroups import fs
from ocipy.errors import CgroupError, Unsupported
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType


class OomWatch:
    """An open watch. Poll :meth:`fileno` for ``events``, then call :meth:`check`.

    It also becomes ready when the cgroup is removed.

    Attributes:
        events: the poll(2) mask to register it with. v2 reports POLLERR with POLLPRI: not an error.
    """

    def __init__(self, fd: int, events: int, directory: str, name: str) -> None:
        self.events = events
        self._fd = fd
        self._directory = directory
        self._name = name
        self._seen = self._kills()

    def _kills(self) -> int:
        return fs.field(self._directory, self._name, "oom_kill")

    def fileno(self) -> int:
        """The file descriptor to poll."""
        return self._fd

    def check(self) -> int:
        """Clear the readiness; returns how often there was an OOM since the last time.

        v1 tells of an OOM before the kill is counted (or where the killer is disabled): that is one, and
        the count that follows is not told again.
        """
        if self.events == POLLPRI:
            try:
                os.pread(self._fd, 4096, 0)  # what is read now is what later changes are told against
            except OSError as error:
                if error.errno not in fs.GONE:
                    raise
            kills = self._kills()
            new, self._seen = max(kills - self._seen, 0), kills
            return new
        try:
            told = eventfd_read(self._fd)
        except BlockingIOError:
            return 0
        return told if os.exists(f"{self._directory}/{self._name}") else 0

    def close(self) -> None:
        """Close the file descriptor."""
        if self._fd >= 0:
            close(self._fd)
            self._fd = -1

    def __enter__(self) -> OomWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _unwatchable(directory: str, error: OSError) -> CgroupError:
    return CgroupError(f"can't watch {directory} for OOM", syscall="open", errno=error.errno or 0)


def watch_legacy(directory: str) -> OomWatch:
    """A watch by eventfd and ``cgroup.event_control`` (v1).

    Raises:
        CgroupError: the cgroup is gone.
        Unsupported: there is no memory controller.
    """
    if not directory:
        raise Unsupported("the memory cgroup controller is not mounted", phase="cgroup")
    fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    try:
        control = open(f"{directory}/memory.oom_control", O_RDONLY | O_CLOEXEC)
        try:
            os.write_text(f"{directory}/cgroup.event_control", f"{fd} {control}")
        finally:
            close(control)
        return OomWatch(fd, POLLIN, directory, "memory.oom_control")
    except BaseException as error:
        close(fd)
        if isinstance(error, OSError):
            raise _unwatchable(directory, error) from None
        raise


def watch_unified(directory: str) -> OomWatch:
    """A watch by poll(2) of ``memory.events`` (v2).

    Raises:
        CgroupError: the cgroup is gone.
        Unsupported: the memory controller is not enabled for it.
    """
    if not directory or not os.exists(f"{directory}/memory.events"):
        if directory and not os.exists(directory):
            raise CgroupError(f"cgroup {directory} is gone")
        raise Unsupported("the memory cgroup controller is not enabled", phase="cgroup")
    try:
        fd = open(f"{directory}/memory.events", O_RDONLY | O_CLOEXEC)
    except OSError as error:
        raise _unwatchable(directory, error) from None
    watch = OomWatch(fd, POLLPRI, directory, "memory.events")
    watch.check()  # what was never read is always ready
    return watch
