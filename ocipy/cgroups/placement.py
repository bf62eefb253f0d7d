"""Where this process is, as the start of a relative ``cgroupsPath``."""

from __future__ import annotations

from ocipy import _os as os
from ocipy.errors import CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.host import Hierarchy


def own_directory(hierarchy: Hierarchy) -> str:
    """The directory of this process's cgroup.

    Raises:
        CgroupError: it is outside of the part of the hierarchy that is mounted.
    """
    own, root = os.clean(hierarchy.own).rstrip("/"), hierarchy.root.rstrip("/")
    if root and own != root and not own.startswith(root + "/"):
        raise CgroupError(
            f"this process's cgroup {own or '/'} is not in {root}, mounted on {hierarchy.mountpoint}",
            config_path="$.linux.cgroupsPath", hint="give an absolute cgroupsPath",
        )
    return hierarchy.mountpoint + own[len(root) :]
