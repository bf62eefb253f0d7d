"""Where this process is, as the start of a relative ``cgroupsPath``."""

from __future__ import annotations

from ocipy.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.host import Hierarchy


def own_directory(hierarchy: Hierarchy) -> str:
    """The directory of this process's cgroup.

    Raises:
        CgroupError: it is outside of the part of the hierarchy that is mounted.
    """
    directory = hierarchy.directory()
    if not directory:
        raise CgroupError(
            f"this process's cgroup {hierarchy.own} is not in {hierarchy.root}, mounted on {hierarchy.mountpoint}",
            config_path="$.linux.cgroupsPath", hint="give an absolute cgroupsPath",
        )
    return directory
