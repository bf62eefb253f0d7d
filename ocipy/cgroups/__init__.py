"""Control groups behind one interface: v1 and hybrid, v2; by ``--systemd-cgroup``, systemd makes them (``systemd.py``).

A driver object knows the paths it owns before any of them exists, so that the state file can record
them first (:meth:`Cgroup.record`): whatever dies half-way, ``delete`` finds all of it again.
Import cost matters here: this package and the chosen driver are on the path of every engine call.
"""

from __future__ import annotations

from ocipy import host
from ocipy.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.base import Cgroup


def select(
    cgroups_path: str | None,
    container_id: str,
    facts: host.CgroupFacts | None = None,
    *,
    rootless: bool = False,
) -> Cgroup:
    """The driver for a new container; decides paths, touches nothing.

    Args:
        cgroups_path: ``linux.cgroupsPath``: absolute means below the hierarchy's root; relative (or
            absent: the id) means below this process's own cgroup, on v2 beside it, as runc has it.
        container_id: a checked id.
        facts: the cgroup layout, this host's unless given.
        rootless: lacking permission to make a cgroup that ``cgroups_path`` doesn't ask for is fine
            (:func:`ocipy.cgroups.rootless.settle` tells beforehand).

    Raises:
        CgroupError: a path with ``..`` components, or one that is the root itself, or for systemd.
    """
    facts = facts or host.cgroups()
    path = cgroups_path or container_id
    parts = path.split("/")
    if ".." in parts:
        raise CgroupError("a cgroup path must not contain '..'", config_path="$.linux.cgroupsPath")
    if "\0" in path or "\n" in path:
        raise CgroupError(
            "a cgroup path must not contain a newline or NUL", config_path="$.linux.cgroupsPath"
        )
    if ".slice:" in path and path.count(":") == 2:
        raise CgroupError(
            f"{path!r} is a path for systemd, slice:prefix:name", config_path="$.linux.cgroupsPath",
            hint="--systemd-cgroup is not given",
        )
    if not set(parts) - {"", "."}:  # kill and delete would take all of the host with them
        raise CgroupError(
            "the root cgroup can't be a container's own", config_path="$.linux.cgroupsPath"
        )
    optional = rootless and not cgroups_path
    if facts.mode == "v2":
        from ocipy.cgroups.v2.driver import UnifiedCgroup

        return UnifiedCgroup.place(path, facts, optional)
    from ocipy.cgroups.v1.driver import LegacyCgroup

    return LegacyCgroup.place(path, facts, optional)


def load(record: dict[str, Any]) -> Cgroup:
    """The driver object for what :meth:`Cgroup.record` returned, in a later process."""
    if record["driver"] == "systemd":
        from ocipy.cgroups.systemd.driver import load as load_systemd

        return load_systemd(record)
    optional: bool = record.get("optional", False)
    if record["driver"] == "v2":
        from ocipy.cgroups.v2.driver import UnifiedCgroup

        return UnifiedCgroup(record["paths"], optional)
    from ocipy.cgroups.v1.driver import LegacyCgroup

    return LegacyCgroup(record["paths"], optional)
