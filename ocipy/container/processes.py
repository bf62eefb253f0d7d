"""The processes of a container, by its cgroup; or, where it has none of its own (rootless) or was moved out of it, by
its pid namespace."""

from __future__ import annotations

from ocipy.errors import StateError
from ocipy.kernel import os
from ocipy.store.record import Record


def members(record: Record) -> list[int]:
    """The pids of a container's processes, as the caller's pid namespace has them.

    Without a cgroup, or if nobody is in it, these are the processes in init's pid namespace, and what they have begun
    in namespaces below it.

    Raises:
        StateError: there is neither a cgroup nor a pid namespace of the container's own.
    """
    cgroup = record.cgroup()
    if cgroup is not None and cgroup.paths and (pids := cgroup.pids()):
        return pids
    if not record.alive():
        return []
    namespace = own_namespace(record)
    if not namespace:
        raise StateError(
            f"the processes of container {record.entry.id!r} can't be told from others: it has neither a cgroup nor a "
            "pid namespace of its own", code="no-cgroup",
        )  # fmt: skip
    parents: dict[int, int] = {}
    found = set()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            parents[int(name)] = int(os.read_text(f"/proc/{name}/stat").rpartition(")")[2].split()[1])
            if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                found.add(int(name))
        except OSError:
            continue  # gone, or another user's
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


def own_namespace(record: Record) -> str:
    """The pid namespace that was made for a container; "" if its init is gone, or shares one with others."""
    if record.data.get("shared_pids"):
        return ""
    try:
        namespace = os.readlink(f"/proc/{record.pid}/ns/pid")
    except OSError:  # gone; or not ours to look at
        return ""
    return namespace if record.alive() and namespace != os.readlink("/proc/self/ns/pid") else ""
