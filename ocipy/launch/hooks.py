"""Hooks that run in the runtime's namespaces: prestart, createRuntime, poststart, poststop
(config.md#posix-platform-hooks)."""

from __future__ import annotations

from fcntl import F_GETFD, FD_CLOEXEC, fcntl
from time import monotonic

from ocipy._native import ffi, lib
from ocipy.errors import LaunchError
from ocipy.kernel import os
from ocipy.kernel.proc import start_time
from ocipy.plan.ops import TIMEOUT_MAX
from ocipy.store.record import STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.store import Entry
    from ocipy.store.record import Record

OUTPUT_MAX = 2048  # bytes of a hook's output that go into its error
POLL_MAX = 2**31 - 1  # milliseconds that poll(2) takes


def run_hooks(
    kind: str, hooks: list[dict[str, Any]], state: bytes, bundle: str, entry: Entry | None = None
) -> None:
    """Run the hooks of a kind in order, with the state on their standard input, in the bundle's directory.

    Args:
        kind, hooks, state: as said.
        bundle: its path. Where it is gone by now, as it may be at the end, hooks run in the caller's directory.
        entry: the container's, where the hook that runs is noted: `delete --force` can end it.

    Raises:
        LaunchError: one could not be run, exited with another status than 0, or ran out of time; the
            message has what it wrote.
    """
    for index, hook in enumerate(hooks):
        try:
            _run(hook, state, bundle, f"$.hooks.{kind}[{index}]", kind, entry)
        finally:
            if entry is not None:
                entry.forget()


def run_poststop(record: Record, error: BaseException | None = None) -> list[str]:
    """Run the poststop hooks. One that fails does not stop the others, nor the deletion (runtime.md#lifecycle).

    Returns:
        The failures, as text.
    """
    failed = []
    for hook in (record.data.get("hooks") or {}).get("poststop") or ():
        try:
            run_hooks("poststop", [hook], record.hook_state(STOPPED), record.data["bundle"], record.entry)
        except LaunchError as failure:
            failed.append(str(failure))
            if error is not None:
                error.add_note(str(failure))
    return failed


def _run(hook: dict[str, Any], state: bytes, bundle: str, where: str, kind: str, entry: Entry | None) -> None:
    path = hook["path"]
    # as a file, so that a hook which does not read it can't block us
    fds = [os.memfd_create("ocipy-state", 1)]
    try:
        os.write(fds[0], state)
        os.lseek(fds[0], 0, 0)
        fds += os.pipe2(os.O_CLOEXEC)
        stdin, reader, writer = fds
        pid = _spawn(hook, stdin, writer, bundle)
        if pid < 0:
            raise LaunchError(
                f"can't run hook {path}", config_path=where, code="hook-failed", syscall="execve", errno=-pid
            )
        os.close(fds.pop())  # the writer: the pipe ends with the hook
        if entry is not None:
            entry.note(kind, pid, start_time(pid))
        status, output = _attend(pid, reader, min(hook.get("timeout") or 0, TIMEOUT_MAX))
    except ChildProcessError:
        raise LaunchError(
            f"hook {path}: its exit status was lost", config_path=where, code="hook-status-lost",
            hint="this program ignores SIGCHLD, or reaps children that it did not start",
        ) from None  # fmt: skip
    finally:
        for fd in fds:
            os.close(fd)
    words = output.decode(errors="replace").replace("\0", " ").strip()
    if status is None:
        raise LaunchError(
            f"hook {path} did not end within {hook['timeout']} s{f'; its output: {words}' if words else ''}",
            config_path=where, code="hook-timeout",
        )  # fmt: skip
    if status:
        how = f"was killed by signal {-status}" if status < 0 else f"exited with status {status}"
        message = f"hook {path} {how}{f': {words}' if words else ''}"
        raise LaunchError(message, config_path=where, code="hook-failed")


def _spawn(hook: dict[str, Any], stdin: int, output: int, bundle: str) -> int:
    """Start a hook, in a process group of its own so that what it started can be ended with it.

    Returns:
        Its pid, or -errno.
    """
    if hook.get("env") is None:  # as runc and crun have it; an empty list is an empty environment
        env = [name + b"=" + value for name, value in os.environ.items()]
    else:
        from ocipy.plan.process import once

        env = [_bytes(entry) for entry in once(hook["env"])]
    args = [_bytes(word) for word in hook.get("args") or [hook["path"]]]
    vectors = [[*(ffi.new("char[]", word) for word in words), ffi.NULL] for words in (args, env)]
    closed = _inherited()  # what the caller left open is not for hooks
    try:
        directory = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        directory = -1
    except OSError as error:
        return -(error.errno or 0)
    path, numbers = ffi.new("char[]", _bytes(hook["path"])), ffi.new("int[]", closed)
    argv, envp = (ffi.new("char *[]", vector) for vector in vectors)
    request = ffi.new("struct ocipy_spawn *", (path, argv, envp, stdin, output, directory, len(closed), numbers))
    try:
        return int(lib.ocipy_spawn(request))
    finally:
        if directory >= 0:
            os.close(directory)


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _inherited() -> list[int]:
    """The descriptors besides standard input, output and error that a program of ours would inherit. posix_spawn(3)
    refuses to close one above RLIMIT_NOFILE, as there may be where that was lowered: the hook then gets it."""
    found, limit = [], os.sysconf("SC_OPEN_MAX")
    for fd in map(int, os.listdir("/proc/self/fd")):
        try:
            if 2 < fd < limit and not fcntl(fd, F_GETFD) & FD_CLOEXEC:
                found.append(fd)
        except OSError:
            continue  # of the list itself; or another thread closed it
    return found


def _attend(pid: int, reader: int, timeout: int) -> tuple[int | None, bytes]:
    """Collect output until the hook ends; its exit status (negative: signal), None if time ran out.

    Raises:
        ChildProcessError: the status was taken by others.
    """
    from _signal import SIGKILL
    from select import POLLIN, poll

    try:
        pidfd = os.pidfd_open(pid, 0)
    except OSError:  # it ended, and somebody in this program reaped it
        raise ChildProcessError from None
    watch = poll()
    watch.register(pidfd, POLLIN)
    watch.register(reader, POLLIN)
    deadline = monotonic() + timeout if timeout else None
    output = b""
    try:
        while True:
            left = None if deadline is None else (deadline - monotonic()) * 1000
            # the time is up also for one that never stops writing
            up = left is not None and left <= 0
            ready = {} if up else dict(watch.poll(left if left is None else min(left, POLL_MAX)))
            if not ready:
                if not up:
                    continue
                os.kill(-pid, SIGKILL)
                try:
                    os.waitpid(pid, 0)
                except ChildProcessError:
                    pass
                return None, output
            if reader in ready:
                data = os.read(reader, 4096)
                output = (output + data)[:OUTPUT_MAX]
                if data:
                    continue  # what it wrote before it ended is still to be read
                watch.unregister(reader)
            if pidfd in ready:
                status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                return status, output
    finally:
        os.close(pidfd)
