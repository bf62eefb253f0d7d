"""pause and resume, by the freezer of the container's cgroup."""

from __future__ import annotations

from ocipy.errors import StateError
from ocipy.store.record import CREATED, PAUSED, RUNNING, Record


def freeze(record: Record, frozen: bool) -> None:
    """Freeze or thaw every process of a container.

    Raises:
        StateError: to be frozen it must be running (or created), to be thawed it must be paused.
        CgroupError: the freezer did not do it.
    """
    status = record.status()
    wanted = (RUNNING, CREATED) if frozen else (PAUSED,)
    cgroup = record.cgroup()
    if status not in wanted or cgroup is None:
        verb, need = ("pause", "running") if frozen else ("resume", "paused")
        raise StateError(
            f"cannot {verb} container {record.entry.id!r}: container not {need}: it is {status}", code=f"not-{need}"
        )
    cgroup.freeze(frozen)
