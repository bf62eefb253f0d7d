"""Launching the init helper, and talking with it: the other half of ``native/init/msg.c``."""

from __future__ import annotations

from _struct import calcsize, pack, unpack_from
from _thread import allocate_lock
from errno import EACCES, EPERM

from ocipy._native import ffi, lib
from ocipy.errors import LaunchError, UsageError
from ocipy.kernel import os
from ocipy.plan.builder import NO_FAULT, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


SYNC, FORKED, READY, ERROR, ACK, START, PART, LISTENER, HOOKED = 1, 2, 3, 4, 5, 6, 7, 8, 9
_HEADER = "=IIiI"
HEADER_SIZE = calcsize(_HEADER)
_BUFFER = 64 << 10
_PART = 64 << 10  # bytes of a message's text; well below the default of net.core.wmem_default

_EINTR = -4  # a signal handler of the caller ran; Python's part of it does before the next try

_helper: list[int] = []
_helper_lock = allocate_lock()


def check(result: int, syscall: str) -> int:
    """The result of a call of the extension.

    Raises:
        OSError: it is a negative errno; with the name of the system call.
    """
    if result < 0:
        error = OSError(-result, os.strerror(-result))
        error.syscall = syscall  # type: ignore[attr-defined]
        raise error
    return result


def helper(fresh: bool = False) -> int:
    """The sealed copy of the init helper, for the caller to close. It is made once: nothing can write to it.

    Args:
        fresh: make a new one.

    Raises:
        LaunchError: it can't be made.
    """
    with _helper_lock:
        if fresh or not _helper:
            made = lib.ocipy_sealed_copy(f"{os.dirname(__file__)}/../_init".encode())
            if made < 0:
                raise LaunchError(
                    "can't copy the init helper", syscall="memfd_create", errno=-made,
                    hint="the sysctl vm.memfd_noexec is 2" if made == -EACCES or made == -EPERM else "",
                )  # fmt: skip
            os.shut(*_helper)
            _helper[:] = [made]
        return int(os.dup(_helper[0]))


def check_open(*fds: int) -> None:
    """Make sure that descriptors which a container is to get are open, before anything else is opened: that would take
    the place of one that is closed, and the container would get the state directory, say.

    Raises:
        UsageError: one is not.
    """
    for fd in fds:
        try:
            os.fstat(fd)
        except OSError as error:
            raise UsageError(
                f"descriptor {fd}, which the container is to get, is not open", errno=error.errno or 0,
                hint="open /dev/null for those of standard input, output and error, or pass others: stdio=",
            ) from None


class Message:
    """One message of the helper."""

    __slots__ = ("fd", "op", "text", "type", "value")

    def __init__(self, type: int, op: int, value: int, text: bytes, fd: int) -> None:
        self.type = type
        self.op = op
        self.value = value
        self.text = text
        self.fd = fd

    @classmethod
    def decode(cls, raw: bytes, fd: int = -1) -> Message:
        """The message that some bytes are."""
        type, op, value, length = unpack_from(_HEADER, raw)
        return cls(type, op, value, raw[HEADER_SIZE : HEADER_SIZE + length], fd)


class Channel:
    """A SOCK_SEQPACKET connection to the helper."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Close the connection."""
        fd, self.fd = self.fd, -1
        os.shut(fd)

    def send(self, type: int, text: bytes = b"") -> None:
        """Send one message, in parts if it is long (a datagram is limited by the socket's buffer). Raises
        OSError (EPIPE: the helper is gone)."""
        while True:
            part, text = text[:_PART], text[_PART:]
            data = pack(_HEADER, PART if text else type, 0, 0, len(part)) + part
            while (sent := lib.ocipy_send(self.fd, data, len(data))) == _EINTR:
                pass
            check(sent, "sendmsg")
            if not text:
                return

    def receive(self) -> Message | None:
        """The next message; None at the end of the channel: the helper is gone, or has become the program."""
        buffer = ffi.new("char[]", _BUFFER)
        passed = ffi.new("int *")
        while True:
            size = lib.ocipy_recv(self.fd, buffer, _BUFFER, passed, -1)
            if size != _EINTR:
                break
        if check(size, "recvmsg") == 0:
            return None
        return Message.decode(bytes(ffi.buffer(buffer, size)), passed[0])


class Launched:
    """A helper that runs.

    Attributes:
        pid: of the process that is to become the program; changes when the plan forks.
        pidfd: of the same.
        channel: to it.
        timings: microseconds per operation up to READY, if they were asked for.
    """

    def __init__(self, plan: Plan, pid: int, pidfd: int, channel: Channel) -> None:
        self.plan = plan
        self.pid = pid
        self.pidfd = pidfd
        self.channel = channel
        self.timings: list[int] = []

    def kill(self) -> None:
        """End the helper, or the program that it has become, and reap it. Whatever fails in that, the rest is done: it
        must not go on running when its launch is reported to have failed."""
        self.channel.close()
        if self.pid <= 0:
            return
        from _signal import pidfd_send_signal

        try:
            if self.pidfd >= 0:
                pidfd_send_signal(self.pidfd, 9)
            else:  # there was no descriptor to be had; it is our child, so until it is reaped the number is its own
                os.kill(self.pid, 9)
        except OSError:
            pass  # it has ended
        try:
            self.reap()
        finally:
            self.close()

    def reap(self) -> None:
        """Wait for the process to end."""
        try:
            if self.pidfd >= 0:
                os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            else:
                os.waitid(os.P_PID, self.pid, os.WEXITED)
        except ChildProcessError:
            pass  # a SIGCHLD handler of the embedding program was faster
        self.pid = 0

    def close(self) -> None:
        """Close the pidfd."""
        fd, self.pidfd = self.pidfd, -1
        os.shut(fd)

    def until_ready(self, sync: Callable[[int, int], bytes]) -> None:
        """Serve the helper until all but the exec is done.

        Args:
            sync: does the launching side's part of a `Sync` operation, given its kind and the descriptor that came
                with it (or -1), and returns the text for the helper.

        Raises:
            LaunchError: an operation failed, with its config path; or the helper died.
        """
        while True:
            message = self.channel.receive()
            if message is None:
                raise self.died()
            if message.type == ERROR:
                raise failure(self.plan, message)
            if message.type == FORKED:
                former = Launched(self.plan, self.pid, self.pidfd, Channel(-1))
                # first of all: whatever fails from here on, it is this one that must not be left
                self.pid, self.pidfd = message.value, max(message.fd, -1)
                try:
                    former.reap()
                finally:
                    former.close()
                if self.pidfd < 0:  # where it found no room, there is some now
                    self.pidfd = os.pidfd_open(self.pid, 0)
                self._acknowledge()
            elif message.type == SYNC:
                if message.fd < -1:
                    raise LaunchError(
                        "can't take a descriptor from the init helper", syscall="recvmsg", errno=-message.fd
                    )
                self._acknowledge(sync(message.value, message.fd))
            elif message.type == READY:
                self.timings = list(unpack_from(f"={len(message.text) // 4}I", message.text))
                return

    def _acknowledge(self, text: bytes = b"") -> None:
        try:
            self.channel.send(ACK, text)
        except BrokenPipeError:
            pass  # the end of the channel, which comes next, says more

    def died(self) -> LaunchError:
        """The error for a helper that ended without a word."""
        how = ""
        try:
            info = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOWAIT)
            if info is not None:
                how = f"was killed by signal {info.si_status}" if info.si_code != 1 else f"exited with {info.si_status}"
        except OSError:
            how = "is gone"
        hint = "the memory limit may be too small" if how.endswith("signal 9") else ""
        return LaunchError(f"the container's first process {how} before it was ready", code="launch-died", hint=hint)


def launch(
    plan: Plan,
    *,
    given: dict[str, int],
    stdio: tuple[int, int, int] = (0, 1, 2),
    preserve: tuple[int, ...] = (),
    cgroup_fd: int = -1,
    fault: int = NO_FAULT,
    timings: bool = False,
) -> Launched:
    """Start the helper on a plan.

    Args:
        given: descriptors by the names in ``plan.given``.
        stdio: descriptors that become standard input, output and error.
        preserve: descriptors that the program gets as 3, 4, ….
        cgroup_fd: where to put the process (cgroup v2), or -1.
        fault: operation that is to fail, for fault injection.
        timings: whether to measure each operation.

    Raises:
        LaunchError: the process could not be made.
    """
    data = plan.encode(fault, timings)
    ends = ffi.new("int[2]")
    check(lib.ocipy_channel(ends), "socketpair")
    channel, theirs, plan_fd = Channel(ends[0]), ends[1], -1
    try:
        plan_fd = os.memfd_create("ocipy-plan", 3)  # MFD_CLOEXEC, MFD_ALLOW_SEALING
        while data:
            data = data[os.write(plan_fd, data) :]
        check(lib.ocipy_seal(plan_fd), "fcntl")
        fds = [*stdio, *preserve, theirs, plan_fd, *(given[name] for name in plan.given)]
        array = ffi.new("int[]", fds)
        base = ffi.new("char[]", b"%d" % (3 + len(preserve)))
        request = ffi.new("struct ocipy_launch *")
        request.cgroup, request.flags = cgroup_fd, plan.clone_flags
        request.count, request.fds, request.base = len(fds), array, base
        result = _launch(request)
        if result == -EACCES:
            # A container may have taken our right to execute the copy, by its mode, owner or access list, through the
            # /proc/PID/exe of one that was launched before: it has no way to a fresh one.
            result = _launch(request, fresh=True)
        if result < 0:
            raise LaunchError(
                "can't start the container's first process", syscall="clone3", errno=-result,
                config_path="$.linux.namespaces" if plan.clone_flags else "",
            )  # fmt: skip
    except BaseException:
        channel.close()
        raise
    finally:
        os.shut(plan_fd, theirs)
    return Launched(plan, request.pid, request.pidfd, channel)


def _launch(request: Any, fresh: bool = False) -> int:
    request.helper = helper(fresh)
    try:
        return int(lib.ocipy_launch(request))
    finally:
        os.shut(request.helper)


#: code of a failed exec or look-up, by errno
_EXEC_CODES = {2: "executable-not-found", 13: "permission-denied", 8: "exec-format", 21: "is-a-directory"}


def failure(plan: Plan | None, message: Message) -> LaunchError:
    """The error that an ERROR message stands for: which operation, on which config path, and why."""
    syscall, _, text = message.text.decode(errors="replace").partition("\0")
    if plan is None or message.op >= len(plan.ops):
        return LaunchError(text or "the init helper failed", syscall=syscall, errno=message.value)
    from ocipy.launch.failure_hints import hint
    from ocipy.plan.describe import describe

    op = plan.ops[message.op]
    if not syscall:  # the text is all there is to say
        code = _EXEC_CODES.get(message.value, "") if op.name in ("exec", "lookup") else ""
        words = text if op.name in ("exec", "lookup", "hook") else f"{describe(op)}: {text}"
        return LaunchError(
            words, errno=message.value, explained=True, config_path=op.path, code=code or _code(op.name)
        )
    return LaunchError(
        f"can't {describe(op)}{f': {text}' if text else ''}", syscall=syscall, errno=message.value,
        config_path=op.path, code=_code(op.name), hint=hint(op, message.value),
    )  # fmt: skip


def _code(name: str) -> str:
    codes = {
        "hook": "hook-failed", "open_tree": "mount-source", "open_now": "mount-source", "open_ns": "namespace-path",
    }  # fmt: skip
    return codes.get(name, "launch")
