"""Descriptors: of the init helper after each of its operations, and of a process that can have few or whose lowest ones
are closed."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import TestBundle, children, fresh_id, nothing_left
from ocipy._native import ffi, lib
from test_faults import Trial, descriptors, joined, plain, user
from test_faults import place as place  # a fixture

from ocipy import Container
from ocipy.container.prepare import CreateOptions
from ocipy.errors import Error, LaunchError
from ocipy.launch.id_maps import write_maps
from ocipy.launch.protocol import launch
from ocipy.plan import ops

# --- the init helper's, operation by operation ---

LOOK = 99  # a kind of `sync` of which the helper knows no more than that it has to wait
#: what each operation leaves open, or closes
CHANGES = {
    "open_ns": 1, "open_tree": 1, "new_fs": 1, "legacy_mount": 1, "proc_open": 1, "put": -1, "bind_root": 1,
    "stdio": -1,
}  # fmt: skip
#: procfs, the helper's own file system, null device and empty directory: each opened by the first that needs it
LATE = 4
LATE_BY = {"proc_write", "proc_open", "mask", "mask_device", "own_device", "null_stdio", "mknod", "mode_of", "copy_up"}


def crowded(bundle: TestBundle) -> None:
    """Much of everything, and what an image can put in the way: links that lead nowhere, and all kinds of files."""
    top = bundle.rootfs / "full"
    (top / "sub/deeper").mkdir(parents=True)
    for name in ("a", "b", "sub/c", "sub/deeper/d"):
        (top / name).write_text(name)
    (top / "link").symlink_to("a")
    os.mkfifo(top / "fifo")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "socket"))
    (bundle.rootfs / "dangling").symlink_to("/not/yet/there")
    (bundle.rootfs / "dangling-file").symlink_to("not/this/either")
    os.mknod(bundle.rootfs / "node", 0o20600, os.makedev(1, 7))
    (bundle.path / "file").write_text("")
    (bundle.path / "link").symlink_to("file")
    lower = [bundle.path / f"lower-{n}{'x' * 60}" for n in range(5)]
    for directory in lower:
        directory.mkdir()
    long = f"lowerdir={':'.join(map(str, lower))}"
    bundle.config["mounts"] += [
        {"destination": "/full", "type": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/dangling", "type": "tmpfs"},
        {"destination": "/dangling-file", "source": str(bundle.path / "file"), "options": ["bind"]},
        {"destination": "/made/on/the/way", "type": "tmpfs"},
        {"destination": "/made/link", "source": str(bundle.path / "link"), "options": ["bind", "copy-symlink"]},
        {"destination": "/long", "type": "overlay", "options": [long]},
        {"destination": "/long2", "type": "overlay", "options": [long]},
        {"destination": "/dev/shm", "options": ["remount", "size=1m"]},
        {"destination": "/made/on/the/way", "options": ["remount", "bind", "ro"]},
    ]
    bundle.config["linux"]["devices"] = [
        {"path": "/node", "type": "c", "major": 1, "minor": 7, "fileMode": 0o644},
        *({"path": f"/dev/deep/{n}/p", "type": "p", "uid": 3} for n in range(3)),
    ]
    bundle.config["linux"]["netDevices"] = {"v0": {}}
    bundle.config["linux"]["maskedPaths"] += ["/full", "/node", "/full/a", "/absent"]
    bundle.config["linux"]["readonlyPaths"] += ["/made", "/absent/too"]
    bundle.config["process"]["cwd"] = "/work/here/"
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/true"}] * 3}


@pytest.mark.parametrize("kind", [plain, user, joined, crowded])
def test_of_each_operation(kind: Callable[[TestBundle], None], place: Path, image: Path) -> None:
    """After each operation up to the wait for start, the helper has open what that is to leave open, and no more: one
    that is left in each device or mount is one too many for a config with thousands of them."""
    bundle = TestBundle(place / "bundle", image)
    kind(bundle)
    bundle.save()
    trial = Trial(place, bundle)
    plan = trial.plan()
    watched = plan.ops[: next(n for n, op in enumerate(plan.ops) if op.name == "ready")]
    plan.ops[: len(watched)] = [made for op in watched for made in (op, ops.sync("", LOOK))]
    counts: list[int] = []
    launched = launch(
        plan, given={"listen": trial.null, "console": trial.theirs.fileno()}, stdio=(trial.null,) * 3
    )

    def sync(kind: int, fd: int) -> bytes:
        if kind == LOOK:
            counts.append(len(os.listdir(f"/proc/{launched.pid}/fd")))
        elif kind == ops.SYNC_MAPS:
            write_maps(launched.pid, bundle.config["linux"])
        elif kind == ops.SYNC_DEVICES:
            os.close(fd)
        return b"{}" if kind == ops.SYNC_HOOKS else b""

    try:
        launched.until_ready(sync)
    finally:
        launched.kill()
        trial.take_terminal()
        trial.close()
    before, late = 5 + len(plan.given), 0  # standard input, output and error, the channel, the plan
    inside = False
    for op, count in zip(watched, counts, strict=True):
        change = CHANGES.get(op.name, 0)
        if op.name == "attach":
            change = 0 if isinstance(op.values[2], int) and op.values[2] & ops.ATTACH_KEEP else -1
        if op.name == "cwd" and not inside:  # all that leads to files is closed then: nothing of ours is left but these
            inside = True
            assert count == 5 + len([name for name in plan.given if name != "console"])
        elif count - before != change:
            assert op.name in LATE_BY, f"{op.name} {op.path}: {before} to {count}"
            late += count - before - change
        before = count
    assert inside
    assert 0 < late <= LATE


# --- few descriptors ---


@contextmanager
def at_most(number: int) -> Iterator[None]:
    """As long as it lasts, this process and those that it starts get no descriptor above a number."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def highest() -> int:
    return max(map(int, descriptors()))


def without_gaps() -> list[int]:
    """Descriptors of /dev/null in the place of all that are free below the highest."""
    top = highest()
    made = []
    while (fd := os.open("/dev/null", os.O_RDONLY)) < top:
        made.append(fd)
    os.close(fd)
    return made


@pytest.mark.parametrize("count", [200, 500])
def test_launch_without_room(place: Path, image: Path, count: int) -> None:
    """A launch that fails in the child, for lack of descriptors or because there can be no such number, says so; no
    process and no descriptor is left."""
    bundle = TestBundle(place / "bundle", image)
    bundle.save()
    trial = Trial(place, bundle)
    try:
        trial.run(0, False)  # what is kept for good is made by the first one
        before, children_before = descriptors(), children()
        options = CreateOptions(stdio=(trial.null,) * 3, preserve_fds=(trial.null,) * count)
        with at_most(max(highest() + 1, 220)), pytest.raises(LaunchError, match="too many open files") as caught:
            Container.create(fresh_id(), str(bundle.path), root=str(place / "state"), options=options)
        assert caught.value.syscall == "clone3"
        assert descriptors() == before
        assert children() == children_before
    finally:
        trial.close()


@pytest.mark.parametrize("kind", [plain, user])
def test_any_limit(kind: Callable[[TestBundle], None], place: Path, image: Path) -> None:
    """Whatever the limit of open files is, a create either succeeds or says what it could not open; nothing is left of
    it, or that is said as well."""
    bundle = TestBundle(place / "bundle", image)
    kind(bundle)
    del bundle.config["hooks"]  # which are programs, and have their own trouble with few descriptors
    bundle.save()
    trial = Trial(place, bundle)
    room = without_gaps()
    try:
        trial.run(0, False)
        top = highest() + 1
        before, children_before = descriptors(), children()
        for limit in range(top, top + 60):
            name, root = fresh_id(), str(place / "state")
            try:
                with at_most(limit):
                    made = Container.create(name, str(bundle.path), root=root, options=trial.options(-1))
            except Error as error:
                said, told = str(error), getattr(error, "__notes__", [])
                assert "too many open files" in said.lower(), f"{limit - top}: {said}"
            else:
                with made:
                    made.delete(force=True)
                break
            trial.take_terminal()
            assert descriptors() == before, limit - top
            assert children() == children_before, limit - top
            assert not os.path.exists(place / "pid"), limit - top
            if nothing_left(place):  # there was no descriptor to remove it by either: that is told, and can be mended
                assert any("something is left" in note for note in told), (limit - top, said)
                with Container.load(name, root=root) as rest:
                    rest.delete(force=True)
            assert nothing_left(place) == [], (limit - top, said)
        else:
            pytest.fail("no create succeeded")
        trial.take_terminal()
        assert limit > top
        assert descriptors() == before
        assert children() == children_before
    finally:
        for fd in room:
            os.close(fd)
        trial.close()


def test_no_room_for_a_passed_one() -> None:
    """A descriptor that comes with a message, and for which there is no room, is told of: it is not as if none came."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    room = without_gaps()
    try:
        passed, buffer = ffi.new("int *"), ffi.new("char[]", 16)
        for limit, found in ((highest() + 1, -24), (highest() + 2, highest() + 1)):  # EMFILE
            assert lib.ocipy_send_fd(ours.fileno(), b"hello", 5, 0) == 5
            with at_most(limit):
                assert lib.ocipy_recv(theirs.fileno(), buffer, 16, passed, -1) == 5
            assert (bytes(ffi.buffer(buffer, 5)), passed[0]) == (b"hello", found)
        os.close(passed[0])
        assert lib.ocipy_send(ours.fileno(), b"alone", 5) == 5
        assert lib.ocipy_recv(theirs.fileno(), buffer, 16, passed, -1) == 5
        assert passed[0] == -1
    finally:
        for fd in room:
            os.close(fd)
        ours.close()
        theirs.close()


# --- the lowest ones closed ---


LOWEST = """
import os, fcntl, resource
from ocipy._native import ffi, lib
from ocipy.launch.protocol import helper

ends = ffi.new("int[2]")
assert lib.ocipy_channel(ends) == 0
plan = os.memfd_create("plan", 3)
os.write(plan, b"no plan")
high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in (helper(), ends[0], ends[1], plan)]
null = [fcntl.fcntl(os.open("/dev/null", os.O_RDWR), fcntl.F_DUPFD_CLOEXEC, 100) for _ in range(NULLS)]
out = fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, 100)
os.closerange(FROM, 100)
request = ffi.new("struct ocipy_launch *")
fds = ffi.new("int[]", [*null, high[2], high[3]])
base = ffi.new("char[]", b"%d" % len(null))
request.helper, request.cgroup, request.count, request.fds, request.base = high[0], -1, len(null) + 2, fds, base
assert lib.ocipy_launch(request) == 0
os.close(high[2])
buffer, passed = ffi.new("char[]", 4096), ffi.new("int *")
size = lib.ocipy_recv(high[1], buffer, 4096, passed, -1)
os.write(out, bytes(ffi.buffer(buffer, size)))
os._exit(os.waitstatus_to_exitcode(os.waitpid(request.pid, 0)[1]))
"""


@pytest.mark.parametrize("nulls", [3, 40])
@pytest.mark.parametrize("lowest", [0, 1, 3])
def test_launch_with_the_lowest_closed(lowest: int, nulls: int) -> None:
    """The helper gets its descriptors by the numbers that are meant, whichever of them are free in the process that
    launches it: here it finds its plan, which is none, and can say so."""
    script = LOWEST.replace("FROM", str(lowest)).replace("NULLS", str(nulls))
    words = [sys.executable, "-I", "-c", script]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 125, done.stderr
    assert b"bad plan header" in done.stdout
