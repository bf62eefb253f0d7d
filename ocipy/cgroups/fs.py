"""Touching cgroupfs: what both drivers do with directories, processes and files in them.

A write returns an error number rather than raising: several of them are expected, and the drivers
then do something else. What is not expected is explained by :mod:`ocipy.cgroups.refusals`.
"""

from __future__ import annotations

from _signal import SIGKILL
from errno import EBUSY, EEXIST, EIO, ENODEV, ENOENT, ENOTSUP, EROFS, ESRCH
from posix import close as _close
from posix import getpid, kill, mkdir, open, rmdir, scandir, write
from time import monotonic, sleep

from ocipy.errors import CgroupError
from ocipy.kernel import os
from ocipy.kernel.os import O_CLOEXEC, O_DIRECTORY, O_PATH, O_RDONLY, O_WRONLY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DELETE_SECONDS = 10.0
SIGNAL_ROUNDS = 100
GONE = (ENOENT, ENODEV)  # ENODEV: it went while the file was open


def put(directory: str, name: str, value: str) -> int:
    """Write a value with one write(2), as every cgroup file wants it. Returns 0 or the error number."""
    try:
        fd = open(f"{directory}/{name}", O_WRONLY | O_CLOEXEC)
    except OSError as error:
        return error.errno or EIO
    try:
        write(fd, value.encode(errors="surrogateescape"))
    except OSError as error:
        return error.errno or EIO
    finally:
        _close(fd)
    return 0


def open_path(directory: str) -> int:
    """An O_PATH fd of a cgroup, for CLONE_INTO_CGROUP.

    Raises:
        CgroupError: it can't be opened.
    """
    try:
        return open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC)
    except OSError as error:
        raise CgroupError(
            f"can't open cgroup {directory}", syscall="open", errno=error.errno or EIO
        ) from None


def number(directory: str, name: str) -> int:
    """A file's single number; ``max`` is the largest of 64 bits. Raises OSError."""
    text = os.read_text(f"{directory}/{name}").strip()
    return (1 << 64) - 1 if text == "max" else int(text)


def field(directory: str, name: str, key: str) -> int:
    """The number beside a key of a ``key value`` file; 0 where the file or the key is missing."""
    try:
        text = os.read_text(f"{directory}/{name}")
    except OSError as error:
        if error.errno in GONE:
            return 0
        raise
    for line in os.lines(text):
        if line.startswith(key + " "):
            return int(line[len(key) + 1 :])
    return 0


def held(file: str) -> bool:
    """Whether a ``freezer.state`` or ``cgroup.events`` says frozen; False where it is gone. (The root has none.)"""
    try:
        text = os.read_text(file)
    except OSError:
        return False
    return "THAWED" not in text and "frozen 0" not in text


def make(directory: str) -> bool:
    """Make a directory and the parents it lacks. Returns whether it is new. Raises OSError."""
    try:
        mkdir(directory, 0o755)
    except OSError as error:
        if error.errno == EEXIST:
            return False
        if error.errno != ENOENT:
            # A read-only mount answers EROFS even for what exists.
            if error.errno == EROFS and os.exists(directory):
                return False
            raise
        make(os.dirname(directory))
        return make(directory)
    return True


def _open(path: str, at: int | None = None) -> int:
    """A directory below another, or -1 if it is gone."""
    try:
        return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, dir_fd=at)
    except OSError as error:
        if error.errno in GONE:
            return -1
        raise


def _below(fd: int) -> list[str]:
    """The names of the cgroups right below one; none where it is gone."""
    try:
        with scandir(fd) as entries:
            return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def _tree(directory: str) -> Iterator[int]:
    """A cgroup and those below it, as descriptors that are good until the next one is asked for. One step at a time:
    what a container has made below its own may be deeper than a path is long, and than calls may nest."""
    fd = _open(directory)
    if fd < 0:
        return
    try:
        yield fd
        todo = [_below(fd)]
        while todo:
            name = todo[-1].pop() if todo[-1] else ".."
            if name == "..":
                todo.pop()
                if not todo:
                    return
            if (to := _open(name, fd)) < 0:
                continue
            _close(fd)
            fd = to
            if name != "..":
                yield fd
                todo.append(_below(fd))
    finally:
        _close(fd)


def processes(directory: str) -> list[int]:
    """The processes in a cgroup and below it; none where it is gone."""
    found = []
    for fd in _tree(directory):
        try:
            text = os.read_text("cgroup.procs", dir_fd=fd)
        except OSError as error:
            if error.errno == ENOTSUP:  # a threaded cgroup of v2 lists threads only
                text = os.read_text("cgroup.threads", dir_fd=fd)
            elif error.errno in GONE:
                continue
            else:
                raise
        found += [int(line) for line in text.splitlines()]
    return found


def thaw_all(directory: str) -> None:
    """Thaw a cgroup of the v1 freezer and all below it, as far as they are there."""
    for fd in _tree(directory):
        try:
            os.write_text("freezer.state", "THAWED", dir_fd=fd)
        except OSError:
            continue


def signal_all(directory: str, signal: int) -> None:
    """Signal each process in a cgroup and below once, in rounds until none is new.

    Those that are gone meanwhile are fine; this process is left out. Where the cgroup is frozen the first
    round finds them all.

    Raises:
        CgroupError: a process may not be signalled.
    """
    done = {0, getpid()}  # 0: a process that this pid namespace can't see
    for _ in range(SIGNAL_ROUNDS):
        new = [pid for pid in processes(directory) if pid not in done]
        if not new:
            return
        for pid in new:
            try:
                kill(pid, signal)
            except OSError as error:
                if error.errno != ESRCH:
                    raise CgroupError(
                        f"can't signal process {pid}", syscall="kill", errno=error.errno or EIO
                    ) from None
        done.update(new)


def kill_all(directory: str) -> int:
    """Kill all in a cgroup of v2 and below, also what is being forked there, by ``cgroup.kill`` (Linux 5.14).

    The kernel sends the signal to the first thread of each process, and it is lost where that has ended and others
    go on: those get it once more, as a process.

    Returns:
        0, or the number of the error that ``cgroup.kill`` gave.
    """
    for _ in range(SIGNAL_ROUNDS):
        refusal = put(directory, "cgroup.kill", "1")
        headless = [] if refusal else [pid for pid in processes(directory) if _headless(pid)]
        if not headless:
            return refusal
        for pid in headless:
            try:
                kill(pid, SIGKILL)
            except OSError:
                continue
    return 0


def _headless(pid: int) -> bool:
    """Whether a process has lost its first thread; also for one that is about to be gone."""
    try:
        return os.read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def remove(directories: list[str]) -> None:
    """Remove cgroups with all below them.

    All are tried in each round, so that a slow one keeps no other; EBUSY (processes that are about to
    vanish) is tried again for up to 10 seconds.

    Raises:
        CgroupError: one is still there.
    """
    deadline = monotonic() + DELETE_SECONDS
    delay = 0.0005
    failed: list[tuple[str, int]] = []
    left = directories
    while left:
        busy = []
        for directory in left:
            refusal = _remove_tree(directory)
            if refusal == EBUSY:
                busy.append(directory)
            elif refusal:
                failed.append((directory, refusal))
        left = busy
        if left:
            if monotonic() > deadline:
                failed += [(directory, EBUSY) for directory in left]
                break
            sleep(delay)
            delay = min(delay * 2, 0.1)
    if failed:
        directory, refusal = failed[0]
        left_in = processes(directory) if refusal == EBUSY else []
        raise CgroupError(
            f"can't remove cgroup {directory}", syscall="rmdir", errno=refusal,
            hint=f"still in it: {left_in}" if left_in else "",
        )


def _remove_tree(directory: str) -> int:
    """One try to remove a cgroup and those below it. Returns 0 or the error number."""
    refusal = _rmdir(directory)
    if refusal == EROFS and not os.exists(directory):
        return 0
    if refusal != EBUSY or (fd := _open(directory)) < 0:
        return refusal
    try:
        todo = [_below(fd)]
        empty = False  # whether the last one at this level has nothing below it any more
        while todo:
            if not todo[-1]:
                todo.pop()
                empty, name = True, ".."
            else:
                name = todo[-1][-1]
                refusal = _rmdir(name, fd)
                if not refusal:
                    todo[-1].pop()
                    empty = False
                    continue
                if refusal != EBUSY or empty:
                    return refusal  # EBUSY: of processes, then
            if todo:
                to = _open(name, fd)
                if to < 0:
                    return EBUSY  # gone meanwhile: the next try finds what is left
                _close(fd)
                fd = to
                if name != "..":
                    todo.append(_below(fd))
                    empty = False
    finally:
        _close(fd)
    return _rmdir(directory)


def _rmdir(path: str, at: int | None = None) -> int:
    """Remove one cgroup. Returns 0, also if it was gone, or the error number."""
    try:
        rmdir(path, dir_fd=at)
    except OSError as error:
        return 0 if error.errno in GONE else error.errno or EIO
    return 0
