"""Staying with a process until it ends: signals passed on, orphans reaped, the terminal relayed."""

from __future__ import annotations

import _signal

from ocipy._native import lib
from ocipy.kernel import os

#: signals that stay with this process: they can't be caught, or concern it alone
_OWN = (_signal.SIGKILL, _signal.SIGSTOP, _signal.SIGCHLD, _signal.SIGPIPE, _signal.SIGWINCH, _signal.SIGURG)


def _passed() -> list[int]:
    return [s for s in _signal.valid_signals() if s not in _OWN and not 32 <= s <= 33]


def hold_signals() -> None:
    """Let signals wait until there is a process to pass them to: one that came in between would end us,
    and leave the process behind."""
    _signal.pthread_sigmask(_signal.SIG_BLOCK, _passed())


def pass_signals(pidfd: int) -> None:
    """Send the process every signal that this one gets, and got since :func:`hold_signals`."""

    def forward(number: int, _frame: object) -> None:
        try:
            _signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:
            pass

    for number in _passed():
        _signal.signal(number, forward)
    _signal.pthread_sigmask(_signal.SIG_UNBLOCK, _passed())


def become_subreaper() -> None:
    """Let orphans of the container become children of this process, which reaps them."""
    lib.ocipy_set_subreaper(1)


def reap_until(pid: int) -> int:
    """Reap children until the given one has ended.

    Returns:
        Its exit status, 128 + n if signal n ended it.
    """
    while True:
        try:
            ended, status = os.waitpid(-1, 0)
        except InterruptedError:
            continue
        if ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def attend(pid: int, pidfd: int, master: int) -> int:
    """Relay a terminal (``master`` >= 0) and wait for the process. Returns its exit status."""
    pass_signals(pidfd)
    if master < 0:
        return reap_until(pid)
    from ocipy.console.terminal import Relay

    relay = Relay(master)
    try:
        relay.run(pidfd)
    finally:
        relay.close()
    return reap_until(pid)
