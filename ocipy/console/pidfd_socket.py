"""A pidfd handed to whoever listens on a socket (``--pidfd-socket``). Loaded only for that."""

from __future__ import annotations

import _socket
from _struct import pack

from ocipy.errors import UsageError
from ocipy.kernel import os


def send_pidfd(socket: int, pidfd: int, kind: str) -> None:
    """Send the pidfd of a container's process.

    Args:
        socket: a connected unix stream socket.
        pidfd: of the process.
        kind: the message that comes with it; as with runc ``standard`` for an init process, ``setns`` for an exec.

    Raises:
        UsageError: nobody takes it.
    """
    rights = pack("=i", pidfd)
    connection = _socket.socket(fileno=os.dup(socket))
    try:
        connection.sendmsg([kind.encode()], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)], _socket.MSG_NOSIGNAL)
    except OSError as error:
        raise UsageError("--pidfd-socket", syscall="sendmsg", errno=error.errno or 0) from None
    finally:
        connection.close()
