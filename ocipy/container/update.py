"""update: other limits for a container that exists."""

from __future__ import annotations

from ocipy.store.record import Record, not_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.base import Cgroup
    from ocipy.cgroups.resctrl_groups import Rdt


def update(
    record: Record, resources: dict[str, Any], intel_rdt: dict[str, Any] | None = None, resctrl: str = ""
) -> None:
    """Apply changed limits.

    Args:
        record: locked.
        resources: ``linux.resources`` with only what is to change.
        intel_rdt: schemas of ``linux.intelRdt`` to write.
        resctrl: directory of the resctrl file system; found in mountinfo unless given.

    Raises:
        ConfigError: not valid, or not what the kernel takes.
        StateError: the container is stopped.
        CgroupError: the kernel refused a value.
    """
    from ocipy.config.load import verify_linux

    given = {"resources": resources} | ({"intelRdt": intel_rdt} if intel_rdt else {})
    resources = verify_linux(given)["resources"]
    cgroup = record.cgroup()
    if cgroup is None or not record.alive():
        raise not_running(record)
    rdt = _placed(record, intel_rdt, resctrl) if intel_rdt else None
    if cgroup.unified and resources.get("memory"):
        resources = resources | {"memory": _memory(record, resources["memory"])}
    cgroup.apply(resources, update=True)
    if total := (resources.get("memory") or {}).get("swap"):
        record.data["memory_swap"] = total
        record.save()
    if rdt is not None:
        _apply(record, rdt, cgroup)


def _memory(record: Record, memory: dict[str, Any]) -> dict[str, Any]:
    """``memory`` with the ``swap`` that holds: it is memory and swap together, so a new memory limit leaves less or
    more for swap. v1's kernel does that itself; v2 has a limit for each, and the total must be known."""
    limit, total = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and not total:
        total = -1  # lifted as well
    elif limit and not total:
        configured = ((record.config().get("linux") or {}).get("resources") or {}).get("memory") or {}
        total = record.data.get("memory_swap", configured.get("swap") or 0)
    return memory | {"swap": total} if total else memory


def _placed(record: Record, intel_rdt: dict[str, Any], resctrl: str) -> Rdt:
    """The container's class with the new schemas; or, as runc has it, the one that it is to get."""
    from ocipy.cgroups import resctrl_groups

    present = record.rdt()
    if present is None:
        return resctrl_groups.place(intel_rdt, record.entry.id, resctrl)
    present.lines = resctrl_groups.lines(intel_rdt, present.root)
    return present


def _apply(record: Record, rdt: Rdt, cgroup: Cgroup) -> None:
    if "intel_rdt" in record.data:
        rdt.write()
        return
    record.data["intel_rdt"] = rdt.record()
    record.save()
    try:
        rdt.make()
        rdt.add_all(cgroup.pids)
        record.data["intel_rdt"] = rdt.record()
    except BaseException:
        rdt.remove(created=False)
        del record.data["intel_rdt"]
        raise
    finally:
        record.save()
