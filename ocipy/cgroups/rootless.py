"""Where a caller without root may make a cgroup, found out before anything is made.

What is left out here is known already when the plan is compiled and before a limit is asked for: a container that
turns out to have no cgroup late would have to be undone.
"""

from __future__ import annotations

from posix import W_OK, access

from ocipy.cgroups.location import own_directory
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cgroups.base import Cgroup
    from ocipy.host import CgroupFacts


def settle(cgroup: Cgroup, facts: CgroupFacts) -> None:
    """Leave out of an optional cgroup's ``paths`` what the caller may not make; changes nothing on the host.

    On v2 the place beside the caller's own cgroup (where limits work) is tried first, then the one below it.
    """
    if facts.mode == "v2":
        _settle_v2(cgroup, facts)
        return
    for controller, directory in list(cgroup.paths.items()):
        if not _writable(os.dirname(directory), unified=not controller):
            del cgroup.paths[controller]


def _settle_v2(cgroup: Cgroup, facts: CgroupFacts) -> None:
    beside = cgroup.paths.pop("", "")
    if not beside:
        return
    below = f"{own_directory(facts.hierarchies[0])}/{os.basename(beside)}"
    for directory in (beside, below):
        if _writable(os.dirname(directory), unified=True):
            cgroup.paths[""] = directory
            return


def _writable(directory: str, *, unified: bool) -> bool:
    """Whether a cgroup can be made in a directory, and be entered from where the caller is.

    cgroup2 wants the caller to own what is above both ends of a move, too: a directory that was given away without
    its ``cgroup.procs`` would only get cgroups that stay empty, and whose limits limit nothing.
    """
    if not access(directory, W_OK, effective_ids=True):
        return False
    return not unified or access(f"{directory}/cgroup.procs", W_OK, effective_ids=True)
