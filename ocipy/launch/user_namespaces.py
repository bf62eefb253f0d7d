"""User namespaces that only map ids, for mounts (config.md#posix-platform-mounts, mount_setattr(2))."""

from __future__ import annotations

from ocipy.errors import LaunchError
from ocipy.kernel import os
from ocipy.launch.id_maps import write_maps
from ocipy.launch.protocol import launch
from ocipy.plan import ops
from ocipy.plan.builder import Plan
from ocipy.plan.flags import NAMESPACES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def user_namespace(section: dict[str, Any], where: str, stdio: tuple[int, int, int]) -> int:
    """Make a user namespace.

    A namespace needs a process for as long as nobody has it open: a helper that waits, and ends with us if we do.

    Args:
        section: what of the config has ``uidMappings`` and ``gidMappings``.
        where: its config path.
        stdio: three open descriptors.

    Returns:
        A descriptor of the namespace.

    Raises:
        LaunchError: the namespace, or its maps, can't be made.
    """
    waits = Plan([ops.sync(where, ops.SYNC_MAPS)], [], NAMESPACES["user"], False)
    try:
        launched = launch(waits, given={}, stdio=stdio)
    except LaunchError as error:
        raise LaunchError(
            "can't make a user namespace for a mount", config_path=where, syscall=error.syscall, errno=error.errno,
            code="id-map",
        ) from None  # fmt: skip
    try:
        write_maps(launched.pid, section, where)
        return os.open(f"/proc/{launched.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise LaunchError(
            "can't open the user namespace for a mount", config_path=where, syscall="open", errno=error.errno or 0,
            code="id-map",
        ) from None  # fmt: skip
    finally:
        launched.kill()
