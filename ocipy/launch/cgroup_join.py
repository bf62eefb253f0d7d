"""Launching the helper into a cgroup, the cheap way where the kernel has one."""

from __future__ import annotations

from ocipy.errors import LaunchError
from ocipy.kernel import os
from ocipy.launch.protocol import Launched, launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.base import Cgroup
    from ocipy.cgroups.resctrl_groups import Rdt
    from ocipy.plan import Plan


class Join:
    """A process on its way into a cgroup: cloned into cgroup2, then moving itself into what v1 there is; and into
    the container's groups of resctrl, if it has any.

    Moving it from outside, by its pid, is the fallback: that waits for a grace period of the kernel's.
    """

    def __init__(self, cgroup: Cgroup, init: int = 0, *, rdt: Rdt | None = None, late: bool = False) -> None:
        self.cgroup = cgroup
        self._rdt = rdt
        self._init = init  # of the container, for an exec
        self._late = late  # whether it has something to do before it is there
        self._files: list[str] = []
        self._outside = False

    def launch(self, plan: Plan, **options: Any) -> Launched:
        """:func:`ocipy.launch.protocol.launch` into the cgroup. Raises LaunchError, CgroupError."""
        fd, self._files = self.cgroup.joining()
        self._outside = self._late and fd >= 0
        try:
            return launch(plan, cgroup_fd=-1 if self._late else fd, **options)
        except LaunchError:
            if fd < 0 or self._late:
                raise
            # refused there (a cgroup with controllers takes no processes, an old kernel no fd)? Then `add`
            # says why, or does it
            self._outside = True
            return launch(plan, **options)
        finally:
            os.shut(fd)

    def finish(self, launched: Launched) -> bytes:
        """The answer to the helper's `Sync`: the files by which it joins. Raises Error."""
        if self._rdt is not None:
            self._rdt.add(launched.pid)
        if self._outside:
            self.cgroup.add(launched.pid, self._init)
            return b""
        return "\n".join(self._files).encode()
