"""Flags and small steps that several commands share."""

from __future__ import annotations

from fcntl import F_GETFD, FD_CLOEXEC, fcntl

from ocipy._native import lib
from ocipy.cli.parser import Args, Flag
from ocipy.errors import ConfigError, UsageError
from ocipy.kernel import json, os
from ocipy.store import Store
from ocipy.store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.console.sd_notify import NotifySocket

BUNDLE = Flag("bundle b", "the bundle directory (default: the working directory)", "DIR")
CONSOLE_SOCKET = Flag("console-socket", "unix socket that gets the terminal's master", "PATH")
PIDFD_SOCKET = Flag("pidfd-socket", "unix socket that gets a pidfd of the process", "PATH")
PID_FILE = Flag("pid-file", "file to write the process's pid to", "FILE")
PRESERVE_FDS = Flag("preserve-fds", "pass this many descriptors from 3 on to the program", "N", kind=int)
NO_PIVOT = Flag("no-pivot", "move the root instead of pivot_root, for a host on an initramfs")
NO_NEW_KEYRING = Flag("no-new-keyring", "keep the caller's session keyring")


def locked(root: str, container_id: str) -> Record:
    """A container's record, with its lock held until the entry is closed or the process ends."""
    return Record.locked(Store(root), container_id)


def connect(flag: str, path: str | None) -> int:
    """A connection to the socket that a flag names; -1 without one.

    Raises:
        UsageError: nobody listens there.
    """
    if not path:
        return -1
    fd = lib.ocipy_unix_connect(path.encode(errors="surrogateescape"))
    if fd < 0:
        raise UsageError(f"{flag} {path}", syscall="connect", errno=-fd)
    return int(fd)


def listening() -> int:
    """How many sockets systemd has opened for this process, from 3 on (sd_listen_fds(3)).

    Raises:
        UsageError: LISTEN_FDS is no number.
    """
    if os.getenv("LISTEN_PID") != str(os.getpid()):
        return 0  # not meant for us: those of an ancestor
    text = os.getenv("LISTEN_FDS", "0")
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"LISTEN_FDS: {text!r} is not a number")
    return int(text)


def preserved(args: Args) -> tuple[int, ...]:
    """The descriptors that the program is to inherit: those of systemd, and as many more as --preserve-fds says.

    Raises:
        UsageError: one of them is not open.
    """
    count = args.preserve_fds or 0
    if count < 0:
        raise UsageError(f"--preserve-fds: {count} is negative")
    fds = range(3, 3 + listening() + count)
    for fd in fds:
        try:
            inherited = not fcntl(fd, F_GETFD) & FD_CLOEXEC  # else it is one that this process has opened itself
        except OSError:
            inherited = False
        if not inherited:
            raise UsageError(f"{'--preserve-fds' if count else 'LISTEN_FDS'}: descriptor {fd} is not open")
    return tuple(fds)


def notify_socket(record: Record) -> NotifySocket | None:
    """The socket by which a container that is about to start can say that it is ready, if we are to pass that on.

    Raises:
        UsageError: NOTIFY_SOCKET is nothing to connect to.
    """
    host = os.getenv("NOTIFY_SOCKET")
    if not host or not record.data.get("plan_options", {}).get("notify_dir"):
        return None
    from ocipy.console.sd_notify import NotifySocket

    return NotifySocket(record.entry, host)


def absolute(path: str | None) -> str:
    """A path made absolute against the working directory; "" if there is none."""
    return os.absolute(path) if path else ""


def read_object(flag: str, path: str, read: Callable[[str], bytes] = os.read_bytes) -> dict[str, Any]:
    """The JSON object in the file that a flag names.

    Raises:
        UsageError: it can't be read.
        ConfigError: it is not a JSON object.
    """
    try:
        value = json.loads(read(path))
    except OSError as error:
        raise UsageError(f"{flag} {path}", syscall="open", errno=error.errno or 0) from None
    except json.JSONError as error:
        raise ConfigError(f"{flag} {path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{flag} {path}: not an object")
    return value
