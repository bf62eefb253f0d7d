"""delete (runtime.md#delete): what is left of a container is ended and removed, also where it is damaged or busy."""

from __future__ import annotations

from _signal import SIGKILL

from ocipy.container.kill import kill_init
from ocipy.errors import StateError
from ocipy.store.record import CREATED, CREATING, PAUSED, STOPPED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cgroups.base import Cgroup
    from ocipy.store import Entry


def remove(entry: Entry, *, force: bool) -> list[str]:
    """Delete a container (:func:`delete`); with ``force`` also one whose state is damaged, or which another command is
    changing without an end (:mod:`ocipy.container.delete_busy`).

    Args:
        entry: not locked yet.
    """
    if not entry.lock(wait=not force):
        from ocipy.container.delete_busy import take

        if not take(entry):
            return []
    warnings: list[str] = []
    try:
        record = Record.load(entry, doomed=True)
    except StateError as error:
        if not force or error.code != "state-damaged":
            raise
        from ocipy.container.delete_damaged import salvage

        record, warnings = salvage(entry, error)
    return warnings + delete(record, force=force)


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
        from ocipy.launch.hooks import run_poststop

        failed = run_poststop(record)
    record.entry.remove()
    return failed


def _end(record: Record, cgroup: Cgroup | None) -> None:
    """Kill what is left of the container, and wait until it is gone."""
    kill_init(record)
    # Without a pid namespace of its own, what init started outlives it; and a create that was killed may have
    # left a process that was never recorded.
    if cgroup is not None and cgroup.exists() and cgroup.pids():
        cgroup.kill(SIGKILL)
