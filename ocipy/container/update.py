"""update: other limits for a container that exists."""

from __future__ import annotations

from ocipy.container import stop
from ocipy.container.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def update(record: Record, resources: dict[str, Any]) -> None:
    """Apply changed limits.

    Args:
        record: locked.
        resources: ``linux.resources`` with only what is to change.

    Raises:
        ConfigError: not valid.
        StateError: the container is stopped.
        CgroupError: the kernel refused a value.
    """
    from ocipy.spec.load import verify_resources

    verify_resources(resources)
    cgroup = record.cgroup()
    if cgroup is None or not record.alive():
        raise stop.not_running(record)
    cgroup.apply(resources, update=True)
