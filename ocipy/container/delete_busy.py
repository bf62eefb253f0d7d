"""delete --force of a container that another command is changing and does not come to an end with: what that waits for
is ended. Loaded only if the lock is held."""

from __future__ import annotations

from _signal import SIGKILL, pidfd_send_signal
from time import monotonic, sleep

from ocipy.container.kill import kill
from ocipy.errors import StateError
from ocipy.kernel import os
from ocipy.kernel.proc import start_time
from ocipy.store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.store import Entry

#: seconds that something has to end by itself: a hook that has begun may have half a network in its hands, and one of
#: poststop, of another delete, is cleaning up. CRIU has no business with a container that is to be killed.
GRACE, GRACES = 2.0, {"poststop": 10.0, "criu": 0.0}
#: seconds until what is not recorded yet is killed: create has looked by then whether the cgroup is somebody else's
CREATE = 0.5
PATIENCE = 30.0  # seconds for the other command to end, once it waits for nothing that we know of
STEP = 0.01


def take(entry: Entry) -> bool:
    """Get the lock of a container that is to be killed and removed.

    The other command is not killed: it finds that what it waited for has ended, says so, and cleans up.

    Returns:
        Whether there is something left to remove: the other command may have done it.

    Raises:
        StateError: the other command does not end.
    """
    begun = since = monotonic()
    noted = None
    while not (held := _try(entry)):
        now = monotonic()
        if (latest := entry.noted()) != noted:
            noted, since = latest, now
        _end_container(entry, unrecorded=now - begun >= CREATE)
        if noted is not None and now - since >= GRACES.get(noted[2], GRACE):
            _end(noted[0], noted[1])
        if now - since >= PATIENCE:
            raise StateError(
                f"container {entry.id!r} is held by another command, which does not end", code="locked",
                hint=f"it waits for {noted[2]}, process {noted[0]}" if noted else "is it stopped by a signal?",
            )  # fmt: skip
        sleep(STEP)
    return held > 0


def _try(entry: Entry) -> int:
    """1: this command has the lock, 0: another has it, -1: the container is gone."""
    try:
        return int(entry.lock(wait=False))
    except StateError as error:
        if error.code != "container-not-found":
            raise
        return -1


def _end_container(entry: Entry, *, unrecorded: bool) -> None:
    """Kill the container's first process; before that is recorded, all that is in its cgroup. What can't be read of the
    state is left for the delete, which can say so."""
    try:
        record = Record.load(entry, doomed=True)
    except StateError:
        return
    if record.pid:
        try:
            kill(record, SIGKILL)
        except StateError as error:
            if error.code != "not-running":
                raise
    elif unrecorded and (cgroup := record.cgroup()) is not None and cgroup.exists() and cgroup.pids():
        cgroup.kill(SIGKILL)


def _end(pid: int, started: int) -> None:
    """Kill a process, and its group if it has one of its own, as a hook has."""
    try:
        pidfd = os.pidfd_open(pid, 0)
    except OSError:
        return  # it has ended
    try:
        if pid < 2 or not started or start_time(pid) != started:
            return
        if os.getpgid(pid) == pid:
            os.kill(-pid, SIGKILL)
        pidfd_send_signal(pidfd, SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
