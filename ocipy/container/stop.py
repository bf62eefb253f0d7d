"""kill and delete (runtime.md#kill, runtime.md#delete)."""

from __future__ import annotations

from _signal import SIGKILL, pidfd_send_signal
from select import POLLIN, poll

from ocipy.errors import CgroupError, StateError
from ocipy.kernel import os
from ocipy.store import STATE
from ocipy.store.record import CREATED, CREATING, PAUSED, STOPPED, Record, stray

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cgroups.base import Cgroup

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


def not_running(record: Record) -> StateError:
    """The error for an operation on a container whose init is gone."""
    return StateError(f"container not running: {record.entry.id!r} is {STOPPED}", code="not-running")


def held(record: Record) -> StateError:
    """The error for an operation that would wait for a container that somebody else has frozen."""
    return StateError(
        f"container {record.entry.id!r} is frozen, by a cgroup that its own is below", code="paused",
        hint="whoever froze that must thaw it",
    )


def delete(record: Record, *, force: bool = False) -> list[str]:
    """Remove a container: its cgroup, its poststop hooks run, its state directory.

    Args:
        record: locked.
        force: kill it first if it runs.

    Returns:
        What went wrong without stopping the deletion (failed poststop hooks).

    Raises:
        StateError: it is running, and force was not given.
        Error: a cgroup or a group of resctrl can't be removed; the state is kept, so that delete can be tried again.
    """
    status = record.status()
    if status not in (STOPPED, CREATED, CREATING) and not force:
        raise StateError(
            f"cannot delete container {record.entry.id!r} that is not stopped: {status}", code="not-stopped",
            hint="--force kills it first",
        )  # fmt: skip
    cgroup = record.cgroup()
    if status == PAUSED and cgroup is not None:
        cgroup.freeze(False)
    _end(record, cgroup)
    if cgroup is not None:
        cgroup.delete()
    if (rdt := record.rdt()) is not None:
        rdt.remove(created=record.pid > 0)
    failed = []
    if (record.data.get("hooks") or {}).get("poststop"):
        from ocipy.container.create import run_poststop

        failed = run_poststop(record)
    record.entry.remove()
    return failed


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


def _end(record: Record, cgroup: Cgroup | None) -> None:
    """Kill what is left of the container, and wait until it is gone."""
    kill_init(record)
    # Without a pid namespace of its own, what init started outlives it; and a create that was killed may have
    # left a process that was never recorded.
    if cgroup is not None and cgroup.exists() and cgroup.pids():
        cgroup.kill(SIGKILL)
