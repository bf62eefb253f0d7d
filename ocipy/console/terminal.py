"""The foreground's side of a container's terminal: bytes back and forth, window size, raw mode."""

from __future__ import annotations

import _signal
import termios
from _struct import unpack
from fcntl import ioctl
from select import POLLIN, POLLOUT, poll

from ocipy._native import ffi, lib
from ocipy.kernel import os
from ocipy.launch.protocol import check

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Console:
    """A socket pair that stands for ``--console-socket`` when the caller itself is the terminal's user.

    Attributes:
        taken: the pty's master, once :meth:`master` has taken it.
    """

    def __init__(self) -> None:
        ends = ffi.new("int[2]")
        check(lib.ocipy_channel(ends), "socketpair")
        self.theirs: int = ends[1]
        self._ours: int = ends[0]
        self.taken = -1

    def master(self) -> int:
        """The pty's master, which the init helper sent, with the size of the caller's window, and with plain line ends:
        ends of lines in a pipe or file are those that the program wrote, and the caller's terminal has its own carriage
        return. Taken before the program runs, it never sees other settings."""
        buffer, passed = ffi.new("char[]", 64), ffi.new("int *")
        lib.ocipy_recv(self._ours, buffer, 64, passed, -1)
        self.close()
        self.taken = master = int(passed[0])
        mode = termios.tcgetattr(master)
        mode[1] &= ~termios.ONLCR
        termios.tcsetattr(master, termios.TCSANOW, mode)
        follow_window(master)
        return master

    def close(self) -> None:
        """Give up, when nothing was launched."""
        os.close(self._ours)
        os.close(self.theirs)


def window() -> tuple[int, int]:
    """Columns and rows of the caller's window; zeros if it has none."""
    if not os.isatty(0):
        return 0, 0
    rows, columns, _, _ = unpack("HHHH", ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))
    return columns, rows


def follow_window(master: int) -> None:
    """Give a pty the size of the caller's window."""
    if os.isatty(0):
        ioctl(master, termios.TIOCSWINSZ, ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))


def make_raw(fd: int) -> list[Any]:
    """Put a terminal into raw mode, but for what it does with output: the line ends that come from the pty are plain.
    Returns what to restore. (`tty.setraw` without importing tty.)"""
    saved: list[Any] = termios.tcgetattr(fd)
    mode = list(saved)
    mode[0] &= ~(
        termios.IGNBRK | termios.BRKINT | termios.PARMRK | termios.ISTRIP
        | termios.INLCR | termios.IGNCR | termios.ICRNL | termios.IXON
    )  # fmt: skip
    mode[1] |= termios.OPOST
    mode[2] = mode[2] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    mode[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    mode[6] = list(mode[6])
    mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
    termios.tcsetattr(fd, termios.TCSADRAIN, mode)
    return saved


class Relay:
    """Copies between the caller's terminal (or pipes) and a pty's master, until the other side closes."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.tty = os.isatty(0)
        self.saved = make_raw(0) if self.tty else []
        # A program that writes and does not read would block us, who then don't read what it writes.
        os.set_blocking(master, False)
        self.pending = b""
        self.last = b"\n"
        # Signals wake poll up through a pipe: the size may have changed, or a child ended.
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self.wake_write)
        _signal.signal(_signal.SIGWINCH, lambda *_: follow_window(master))
        follow_window(master)  # it may have changed before we listened

    def run(self, pidfd: int) -> None:
        """Relay until the process has ended, or nothing has the other side open any more."""
        watch = poll()
        watch.register(pidfd, POLLIN)
        watch.register(self.wake_read, POLLIN)
        open_input = True
        while True:
            watch.register(self.master, POLLIN | POLLOUT if self.pending else POLLIN)
            if open_input and not self.pending:
                watch.register(0, POLLIN)
            for fd, event in watch.poll():
                if fd == pidfd:
                    self._drain()
                    return
                if fd == self.wake_read:
                    os.read(fd, 512)
                elif fd == self.master:
                    if event & POLLOUT:
                        self._feed()
                    if event & ~POLLOUT and not self._show():
                        return
                elif event:
                    watch.unregister(0)  # until it is passed on
                    open_input = self._take()

    def _take(self) -> bool:
        """Take what there is of input; whether more may come."""
        try:
            data = os.read(0, 32768)
        except OSError:  # EIO: the caller's terminal is gone
            data = b""
        if data:
            self.pending, self.last = data, data[-1:]
        elif not self.tty:
            # the end of input, as a terminal's user types it: in the middle of a line, once more to end that
            self.pending = b"\x04" if self.last == b"\n" else b"\x04\x04"
        self._feed()
        return bool(data)

    def _feed(self) -> None:
        try:
            self.pending = self.pending[os.write(self.master, self.pending) :]
        except BlockingIOError:
            pass
        except OSError:  # EIO: the last slave was closed
            self.pending = b""

    def _show(self) -> bool:
        """Pass output on; whether more may come. If nobody takes it the terminal hangs up, as a user's would: the
        process gets a SIGHUP, and is waited for."""
        try:
            data = os.read(self.master, 32768)
        except BlockingIOError:
            return True
        except OSError:  # EIO: the last slave was closed
            return False
        left = data
        while left:
            try:
                left = left[os.write(1, left) :]
            except BlockingIOError:  # whoever shares the caller's standard output has made it so
                watch = poll()
                watch.register(1, POLLOUT)
                watch.poll()
            except OSError:  # EPIPE, ENOSPC, EIO
                return False
        return bool(data)

    def _drain(self) -> None:
        """Copy what the process wrote before it ended. (Others may hold the terminal open for ever.)"""
        watch = poll()
        watch.register(self.master, POLLIN)
        while watch.poll(0) and self._show():
            pass

    def close(self) -> None:
        """Restore the caller's terminal."""
        if self.saved:
            termios.tcsetattr(0, termios.TCSADRAIN, self.saved)
        _signal.set_wakeup_fd(-1)
        os.close(self.master)
