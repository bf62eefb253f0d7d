"""Removing a directory that a container could write to: that of its notify socket, which it has read-only unless it may
remount it. Loaded only where there is one.

What it may have made there: trees deeper than descriptors or a path can be, links to anywhere, files that may not be
removed (chattr +i), directories without permissions. Nothing is followed; only files and directories are opened.
"""

from __future__ import annotations

from errno import ENOTTY, EOPNOTSUPP
from fcntl import ioctl

from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FS_IOC_GETFLAGS, FS_IOC_SETFLAGS = 0x80086601, 0x40086602
IMMUTABLE, APPEND = 0x10, 0x20
_FORMAT, _FILE, _DIRECTORY = 0o170000, 0o100000, 0o040000


def clear(name: str, at: int) -> None:
    """Remove a directory with all that is in it.

    Args:
        name: of the directory.
        at: descriptor of the directory that it is in.

    Raises:
        OSError: something can't be removed.
    """
    top = _open(name, at)
    try:
        while found := os.listdir(top):
            for inner in found:
                _take_apart(inner, top)
    finally:
        os.close(top)
    _without_flags(os.rmdir, name, at)


def _take_apart(name: str, top: int) -> None:
    """Remove one thing. Of a directory, those in it are moved up instead, to have their turn: so it takes two
    descriptors however deep it is."""
    if _unlinked(name, top):
        return
    fd = _open(name, top)
    try:
        for inner in os.listdir(fd):
            if not _unlinked(inner, fd):
                _without_flags(_up_to(top), inner, fd)
    finally:
        os.close(fd)
    _without_flags(os.rmdir, name, top)


def _unlinked(name: str, at: int) -> bool:
    """Remove it if it is no directory."""
    try:
        _without_flags(os.unlink, name, at)
    except IsADirectoryError:
        return False
    except FileNotFoundError:
        pass
    return True


def _up_to(top: int) -> Callable[..., None]:
    def move(name: str, *, dir_fd: int) -> None:
        os.rename(name, f"ocipy-{os.urandom(8).hex()}", src_dir_fd=dir_fd, dst_dir_fd=top)

    return move


def _without_flags(change: Callable[..., None], name: str, at: int) -> None:
    """Do something to a name; if that is not permitted, once more without the flags that forbid it."""
    try:
        change(name, dir_fd=at)
    except PermissionError:
        _unflag(name, at)
        change(name, dir_fd=at)


def _open(name: str, at: int) -> int:
    """A directory that can be listed and changed. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(name, flags, dir_fd=at)
    except PermissionError:  # its owner may have no right to it, but can have it
        _unflag(name, at)
        fd = os.open(name, flags, dir_fd=at)
    _clear_flags(fd)
    return fd


def _unflag(name: str, at: int) -> None:
    """Take what forbids a change off a file or directory, as far as that can be. It is looked at before it is opened,
    and only through the same descriptor: a device or a fifo would act on an open."""
    found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
    try:
        kind = os.fstat(found).st_mode & _FORMAT
        if kind not in (_FILE, _DIRECTORY):
            return
        path = f"/proc/self/fd/{found}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except PermissionError:
            os.chmod(path, 0o700)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _clear_flags(fd)
        finally:
            os.close(fd)
    finally:
        os.close(found)


def _clear_flags(fd: int) -> None:
    flags = bytearray(8)
    try:
        ioctl(fd, FS_IOC_GETFLAGS, flags)
        if flags[0] & (IMMUTABLE | APPEND):
            flags[0] &= ~(IMMUTABLE | APPEND) & 0xFF
            ioctl(fd, FS_IOC_SETFLAGS, bytes(flags))
    except OSError as error:
        if error.errno not in (ENOTTY, EOPNOTSUPP):  # a file system that has no flags
            raise
