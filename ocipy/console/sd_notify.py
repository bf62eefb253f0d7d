"""sd_notify(3) from inside a container: READY is passed on to who started us. Loaded only with ``NOTIFY_SOCKET``.

The container gets a socket of its own, in a directory that it may not write to. What it says there is not trusted:
READY is all that is passed on, and the main process is named by us.
"""

from __future__ import annotations

from _socket import AF_UNIX, MSG_NOSIGNAL, SCM_RIGHTS, SOCK_CLOEXEC, SOCK_DGRAM, SOL_SOCKET, socket
from _struct import pack
from errno import ENAMETOOLONG
from select import POLLIN, poll

from ocipy.errors import UsageError
from ocipy.kernel import os
from ocipy.plan.mounts import NOTIFY_DIR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.store import Entry

DIRECTORY, NAME = "notify", "notify.sock"
#: the program's variable
ENV = f"NOTIFY_SOCKET={NOTIFY_DIR}/{NAME}"
BARRIER_TIMEOUT = 30_000  # milliseconds for the service manager to take what it was told


def _open_to_all(path: str) -> None:
    """Let whatever user the program is send to a socket. By a descriptor: a container that may remount the directory
    could put a link in its place. Raises OSError."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_mode & 0o170000 == 0o140000:
            os.chmod(f"/proc/self/fd/{fd}", 0o777)
    finally:
        os.close(fd)


class NotifySocket:
    """The container's socket, and the way to the caller's.

    Args:
        entry: the container's state directory; it has the directory that the container sees.
        host: the caller's ``NOTIFY_SOCKET``: an absolute path, or ``@`` and a name.

    Raises:
        UsageError: one of the two can't be had.
    """

    def __init__(self, entry: Entry, host: str) -> None:
        self._host = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        self._own = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
        # through the descriptor: the path itself may be longer than an address can be
        path = f"/proc/self/fd/{entry.fd}/{DIRECTORY}/{NAME}"
        try:
            self._host.connect(f"\0{host[1:]}" if host.startswith("@") else host)
            self._own.bind(path)
            _open_to_all(path)
        except OSError as error:
            self.close()
            errno = error.errno or ENAMETOOLONG  # of that the socket module says so itself, without the kernel
            raise UsageError(f"NOTIFY_SOCKET {host}", syscall="connect", errno=errno) from None

    def close(self) -> None:
        """Close both."""
        self._host.close()
        self._own.close()

    def forward(self, pidfd: int, main_pid: int) -> None:
        """Wait until the container says that it is ready, and pass that on; or until it has ended.

        Args:
            pidfd: of the container's process.
            main_pid: the process for the service manager to watch.
        """
        watch = poll()
        watch.register(self._own.fileno(), POLLIN)
        watch.register(pidfd, POLLIN)
        try:
            while True:
                ready = [fd for fd, _ in watch.poll()]
                if self._own.fileno() in ready:
                    words = [w for w in self._own.recv(4096).split(b"\n") if w.startswith(b"READY=")]
                    if words:
                        self._host.send(words[0] + b"\n", MSG_NOSIGNAL)
                        self._host.send(f"MAINPID={main_pid}\n".encode(), MSG_NOSIGNAL)
                        self._barrier()
                        return
                elif pidfd in ready:
                    return
        except OSError:
            pass  # the service manager is gone: nobody is left to tell
        finally:
            self.close()

    def _barrier(self) -> None:
        """Wait until all of it was read (sd_notify_barrier(3)): a sender that is gone by then is not believed."""
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._host.sendmsg([b"BARRIER=1"], [(SOL_SOCKET, SCM_RIGHTS, pack("=i", writer))], MSG_NOSIGNAL)
        finally:
            os.close(writer)
        watch = poll()
        watch.register(reader, POLLIN)
        watch.poll(BARRIER_TIMEOUT)
        os.close(reader)
