"""kill (runtime.md#kill): a signal to the first process of a container, or to all of them."""

from __future__ import annotations

from _signal import SIGKILL, pidfd_send_signal
from select import POLLIN, poll

from ocipy.errors import CgroupError, StateError
from ocipy.kernel import os
from ocipy.store import STATE
from ocipy.store.record import Record, not_running, stray

FREEZE_TIMEOUT = 200  # milliseconds for a killed init to end, before it may be one that the container has frozen itself
KILL_TIMEOUT = 10_000  # milliseconds for a killed init to end: it may be in an uninterruptible sleep


def kill(record: Record, signal: int, *, everyone: bool = False) -> None:
    """Signal a container's init process, or all its processes.

    Without a pid namespace of its own, nothing ends what init leaves behind: SIGKILL is then for all of them, as runc
    has had it since 1.2. So they can still be killed when init has ended.

    Raises:
        StateError: the container is neither created nor running.
    """
    if everyone:
        _signal_all(record, signal)
        return
    if signal == SIGKILL and record.data.get("shared_pids"):
        _kill_shared(record)
        return
    _signal_init(record, signal)
    if signal == SIGKILL and (cgroup := record.cgroup()) is not None and cgroup.frozen():
        cgroup.freeze(False)  # a frozen process of v1 dies only when it is thawed


def _signal_all(record: Record, signal: int) -> None:
    cgroup = record.cgroup()
    if cgroup is not None and cgroup.paths and cgroup.pids():
        cgroup.kill(signal)
        return
    if not record.alive():
        raise not_running(record)
    from ocipy.container.processes import members

    pids = members(record)
    if signal == SIGKILL:  # with the init of a pid namespace dies all that is in it, also what is forking
        _signal_init(record, signal)
        return
    for pid in pids:
        try:
            os.kill(pid, signal)
        except ProcessLookupError:
            continue


def _kill_shared(record: Record) -> None:
    """Kill all that is in the cgroup; and init, which may be in another one."""
    cgroup = record.cgroup()
    found = record.pid > 0 and cgroup is not None and bool(cgroup.paths and cgroup.pids())
    if found and cgroup is not None:
        if fault := stray(cgroup.paths, own=True):
            raise record.entry.damaged(STATE, fault)
        try:
            cgroup.kill(SIGKILL)
        except CgroupError:
            if not cgroup.optional:
                raise
            found = False  # rootless, and it may not: init's end is all there is to be had
    try:
        _signal_init(record, SIGKILL)
    except StateError:
        if not found:
            raise


def _signal_init(record: Record, signal: int) -> None:
    pidfd = record.pidfd()
    if pidfd < 0:
        raise not_running(record)
    try:
        pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        raise StateError(f"process already finished: {record.entry.id!r}", code="not-running") from None
    except PermissionError as error:
        raise StateError(
            f"can't signal container {record.entry.id!r}", syscall="pidfd_send_signal", errno=error.errno or 0
        ) from None
    finally:
        os.close(pidfd)


def held(record: Record) -> StateError:
    """The error for an operation that would wait for a container that somebody else has frozen."""
    return StateError(
        f"container {record.entry.id!r} is frozen, by a cgroup that its own is below", code="paused",
        hint="whoever froze that must thaw it",
    )


def kill_init(record: Record) -> None:
    """Kill the init process, where there is one, and wait until it is gone. Raises StateError: it stays."""
    pidfd = record.pidfd()
    if pidfd < 0:
        return
    try:
        pidfd_send_signal(pidfd, SIGKILL)
        watch = poll()
        watch.register(pidfd, POLLIN)
        if not watch.poll(FREEZE_TIMEOUT) and (cgroup := record.cgroup()) is not None:
            cgroup.thaw_all()
        if not watch.poll(KILL_TIMEOUT):
            frozen = (cgroup := record.cgroup()) is not None and cgroup.held()
            raise StateError(
                f"container {record.entry.id!r} did not die: pid {record.pid}", code="still-alive",
                hint="a cgroup that its own is below is frozen" if frozen else "it may hang in the kernel (state D)",
            )  # fmt: skip
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
