"""The foreground's side of a container's terminal: bytes back and forth, window size, raw mode."""

from __future__ import annotations

import _signal
from fcntl import ioctl
from select import POLLHUP, POLLIN, poll
from termios import (
    BRKINT, CS8, CSIZE, ECHO, ECHONL, ICANON, ICRNL, IEXTEN, IGNBRK, IGNCR, INLCR, ISIG, ISTRIP, IXON, OPOST,
    PARENB, PARMRK, TCSADRAIN, TIOCGWINSZ, TIOCSWINSZ, VMIN, VTIME, tcgetattr, tcsetattr,
)  # fmt: skip

from ocipy import _os as os
from ocipy._native import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Console:
    """A socket pair that stands for ``--console-socket`` when the caller itself is the terminal's user."""

    def __init__(self) -> None:
        ends = ffi.new("int[2]")
        lib.ocipy_channel(ends)
        self.theirs: int = ends[1]
        self._ours: int = ends[0]

    def master(self) -> int:
        """The pty's master, which the init helper sent."""
        buffer, passed = ffi.new("char[]", 64), ffi.new("int *")
        lib.ocipy_recv(self._ours, buffer, 64, passed, -1)
        os.close(self._ours)
        os.close(self.theirs)
        return int(passed[0])

    def close(self) -> None:
        """Give up, when nothing was launched."""
        os.close(self._ours)
        os.close(self.theirs)


def make_raw(fd: int) -> list[Any]:
    """Put a terminal into raw mode; returns what to restore. (`tty.setraw` without importing tty.)"""
    saved: list[Any] = tcgetattr(fd)
    mode = list(saved)
    mode[0] &= ~(IGNBRK | BRKINT | PARMRK | ISTRIP | INLCR | IGNCR | ICRNL | IXON)
    mode[1] &= ~OPOST
    mode[2] = mode[2] & ~(CSIZE | PARENB) | CS8
    mode[3] &= ~(ECHO | ECHONL | ICANON | ISIG | IEXTEN)
    mode[6] = list(mode[6])
    mode[6][VMIN], mode[6][VTIME] = 1, 0
    tcsetattr(fd, TCSADRAIN, mode)
    return saved


class Relay:
    """Copies between the caller's terminal (or pipes) and a pty's master, until the master's other side closes."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.tty = os.isatty(0)
        self.saved = make_raw(0) if self.tty else []
        self.resize()
        # Signals wake poll up through a pipe: the size may have changed, or a child ended.
        self.wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        _signal.set_wakeup_fd(self.wake_write)
        _signal.signal(_signal.SIGWINCH, lambda *_: self.resize())

    def resize(self) -> None:
        """Give the pty the size of the caller's window."""
        if self.tty:
            ioctl(self.master, TIOCSWINSZ, ioctl(0, TIOCGWINSZ, b"\0" * 8))

    def run(self, pidfd: int) -> None:
        """Relay until the process has ended, or nothing has the other side open any more."""
        watch = poll()
        watch.register(pidfd, POLLIN)
        watch.register(0, POLLIN)
        watch.register(self.master, POLLIN)
        watch.register(self.wake_read, POLLIN)
        while True:
            for fd, event in watch.poll():
                if fd == pidfd:
                    self._drain()
                    return
                if fd == self.wake_read:
                    os.read(fd, 512)
                elif fd == self.master:
                    if not self._copy(fd, 1):
                        return
                elif event & (POLLIN | POLLHUP) and not self._copy(0, self.master):
                    watch.unregister(0)
                    if not self.tty:
                        os.write(self.master, b"\x04")  # end of input, as a terminal's user would type it

    def _drain(self) -> None:
        """Copy what the process wrote before it ended. (Others may hold the terminal open for ever.)"""
        watch = poll()
        watch.register(self.master, POLLIN)
        while watch.poll(0) and self._copy(self.master, 1):
            pass

    @staticmethod
    def _copy(source: int, target: int) -> bool:
        try:
            data = os.read(source, 32768)
        except OSError:  # EIO: the last slave was closed
            return False
        left = data
        while left:
            left = left[os.write(target, left) :]
        return bool(data)

    def close(self) -> None:
        """Restore the caller's terminal."""
        if self.saved:
            tcsetattr(0, TCSADRAIN, self.saved)
        _signal.set_wakeup_fd(-1)
        os.close(self.master)
