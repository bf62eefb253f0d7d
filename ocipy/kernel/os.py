"""The part of :mod:`os` that the engine-called commands need, without importing it.

``import os`` costs 0.8 ms under ``python -I -S``, ``import json`` 4 ms; the commands an engine calls
start an interpreter each, so they use the C modules below them directly. This file and ``json.py``
are the only two places that know the trick; the rest of the code says ``from ocipy.kernel import os``
and reads like ordinary Python. ``spec-tests/test_import_budget.py`` holds the line.
"""

from __future__ import annotations

from errno import ELOOP, ENXIO
from posix import *  # noqa: F403
from posix import (
    O_CLOEXEC,
    O_CREAT,
    O_EXCL,
    O_NOCTTY,
    O_NOFOLLOW,
    O_NONBLOCK,
    O_RDONLY,
    O_TRUNC,
    O_WRONLY,
    close,
    fstat,
    getcwd,
    open,
    read,
    rename,
    stat,
    unlink,
    urandom,
    write,
)
from posix import (
    _exit as _exit,
)
from posix import (
    environ as environ,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: the calls that say their name when they fail: an OSError itself has no more than a number
_NAMED = (
    "chmod", "chown", "close", "dup", "fstat", "kill", "listdir", "lseek", "lstat", "memfd_create", "mkdir", "open",
    "pidfd_open", "pipe2", "posix_spawn", "read", "readlink", "rename", "rmdir", "stat", "unlink", "waitid", "waitpid",
    "write",
)  # fmt: skip


def named(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A system call whose OSError has a ``syscall``, for :func:`ocipy.errors.translated`."""

    def act(*args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except OSError as error:
            error.syscall = name  # type: ignore[attr-defined]
            raise

    return act


for _name in _NAMED:
    globals()[_name] = named(_name, globals()[_name])


def getenv(name: str, default: str = "") -> str:
    """The value of an environment variable, as text."""
    return environ.get(name.encode(), default.encode()).decode(errors="surrogateescape")


def read_bytes(path: str, limit: int = 1 << 30, *, dir_fd: int | None = None) -> bytes:
    """The content of a file, at most ``limit`` bytes of it.

    Raises:
        OSError: the file can't be opened or read.
    """
    fd = open(path, O_RDONLY | O_CLOEXEC, dir_fd=dir_fd)
    try:
        parts = []
        while limit > 0 and (data := read(fd, min(limit, 1 << 16))):
            parts.append(data)
            limit -= len(data)
    finally:
        close(fd)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_regular(path: str, limit: int, *, dir_fd: int | None = None) -> bytes:
    """The content of a file that may have been put there by anybody: a FIFO would never open, a device never end.

    Raises:
        OSError: the file can't be opened or read.
        ValueError: it is no regular file, or larger than ``limit`` bytes; the text says so.
    """
    try:
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY, dir_fd=dir_fd)
    except OSError as error:
        if error.errno == ELOOP:
            raise ValueError("it is a symbolic link") from None
        if error.errno == ENXIO:  # a socket, or a device that is not there
            raise ValueError("it is not a regular file") from None
        raise
    try:
        if fstat(fd).st_mode & 0o170000 != 0o100000:
            raise ValueError("it is not a regular file")
        parts, size = [], 0
        while size <= limit and (data := read(fd, 1 << 16)):
            parts.append(data)
            size += len(data)
    finally:
        close(fd)
    if size > limit:
        raise ValueError(f"it is larger than {limit >> 20} MiB")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_text(path: str, *, dir_fd: int | None = None) -> str:
    """The content of a small text file (procfs, cgroupfs, state), as UTF-8."""
    return read_bytes(path, dir_fd=dir_fd).decode(errors="surrogateescape")


def lines(text: str) -> list[str]:
    """The lines of what the kernel or another program has written. (``str.splitlines`` splits at further letters, which
    names of files and cgroups may have in them.)"""
    found = text.split("\n")
    if not found[-1]:
        found.pop()
    return found


def mount_name(text: str) -> str:
    """A name as it is, from how mountinfo writes it: space, tab, newline and backslash (and ``#``) as octal numbers
    (proc_pid_mountinfo(5))."""
    first, *rest = text.split("\\")
    return first + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)


def shut(*fds: int) -> None:
    """Close descriptors (negative ones are none). Linux gives one up whatever close(2) returns, so an error is no
    reason to leave the others, or what was just launched with them."""
    for fd in fds:
        if fd >= 0:
            try:
                close(fd)
            except OSError:
                continue


def write_text(path: str, text: str, *, dir_fd: int | None = None) -> None:
    """Write to an existing file with a single write, as procfs and cgroupfs want it."""
    fd = open(path, O_WRONLY | O_CLOEXEC, dir_fd=dir_fd)
    try:
        write(fd, text.encode(errors="surrogateescape"))
    finally:
        close(fd)


def replace_file(path: str, data: bytes, mode: int = 0o600, *, dir_fd: int | None = None) -> None:
    """Write a file that is at once whole, in a directory that others may write to as well: what they have put there is
    neither followed nor in the way.

    Raises:
        OSError: it can't be written; what was there before is there still.
    """
    while True:
        temporary = join(dirname(path), f".ocipy-{urandom(8).hex()}")
        try:
            fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode, dir_fd=dir_fd)
            break
        except FileExistsError:
            continue
    try:
        try:
            while data:
                data = data[write(fd, data) :]
        finally:
            close(fd)
        rename(temporary, path, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except OSError:
        unlink(temporary, dir_fd=dir_fd)
        raise


def write_file(path: str, data: bytes, mode: int = 0o600, *, dir_fd: int | None = None) -> None:
    """Create or replace a file's content (not atomically), in a directory of our own."""
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, mode, dir_fd=dir_fd)
    try:
        while data:
            data = data[write(fd, data) :]
    finally:
        close(fd)


def exists(path: str) -> bool:
    """Whether a path can be stat'ed (symbolic links followed)."""
    try:
        stat(path)
    except OSError:
        return False
    return True


def join(base: str, *parts: str) -> str:
    """Join path components; an absolute part replaces what is before it."""
    for part in parts:
        if part.startswith("/") or not base:
            base = part or base
        elif part:
            base = f"{base.rstrip('/')}/{part}"
    return base


def clean(path: str) -> str:
    """Normalize a path by its text alone: no ``//``, ``.`` or ``..`` (which can't climb above ``/``)."""
    kept: list[str] = []
    for part in path.split("/"):
        if part == ".." and kept and kept[-1] != "..":
            kept.pop()
        elif (part == ".." and not path.startswith("/")) or part not in ("", ".", ".."):
            kept.append(part)
    text = "/".join(kept)
    return f"/{text}" if path.startswith("/") else text or "."


def absolute(path: str) -> str:
    """A path against the working directory, normalized by its text. One that is absolute needs none: the caller's may
    have been removed.

    Raises:
        UsageError: it has been.
    """
    if path.startswith("/"):
        return clean(path)
    try:
        return clean(join(getcwd(), path))
    except FileNotFoundError as error:
        from ocipy.errors import UsageError

        raise UsageError(
            f"{path} is a relative path, and there is no working directory", syscall="getcwd", errno=error.errno or 0
        ) from None


def basename(path: str) -> str:
    """What follows the last slash."""
    return path.rpartition("/")[2]


def dirname(path: str) -> str:
    """What precedes the last slash."""
    head = path.rpartition("/")[0]
    return head or ("/" if path.startswith("/") else "")
