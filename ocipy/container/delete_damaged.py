"""delete --force of a container whose state is damaged. Loaded only for that."""

from __future__ import annotations

from ocipy.errors import StateError
from ocipy.kernel import os
from ocipy.store import Entry
from ocipy.store.record import Record, stray


def salvage(entry: Entry, damage: StateError) -> tuple[Record, list[str]]:
    """What a damaged state still says for sure, as a record to delete the container by: its process, where number and
    start time are whole, and its cgroup, where that is.

    Args:
        entry: locked.
        damage: what is wrong with the state.

    Returns:
        The record, and what the user should know once it is deleted.

    Raises:
        StateError: the directory has something in it that is no container's.
    """
    kept = entry.remains()
    if kept["pid"] in _ancestors():
        kept |= {"pid": 0, "start_time": 0}
    if "cgroup" in kept and stray(kept["cgroup"]["paths"], own=True):
        del kept["cgroup"]
    unknown = [name for name, there in (("process", kept["pid"]), ("cgroup", kept.get("cgroup"))) if not there]
    text = f"{damage.message}: it was removed, and poststop hooks were not run"
    if unknown:
        text += f"; its {' and '.join(unknown)}, if there is any, could not be told, and may be left"
    return Record(entry, kept), [text]


def _ancestors() -> set[int]:
    """The processes that this one was started by. None of them is a container's, whatever the state says."""
    found: set[int] = set()
    pid = os.getpid()
    while pid and pid not in found:
        found.add(pid)
        try:
            pid = int(os.read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])
        except OSError:
            break
    return found
