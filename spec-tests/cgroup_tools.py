"""What the tests of the cgroup drivers share: cgroups of their own, and processes in them."""

from __future__ import annotations

import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ocipy import cgroups
from ocipy.cgroups.base import Cgroup

PREFIX = f"/ocipy-test-{os.getpid()}"
HOG = "import sys; data = bytearray({size}); print(flush=True); sys.stdin.read()"
CLONE_NEWNS = 0x20000
_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def new(name: str = "") -> Any:
    """A cgroup that is not there yet."""
    return cgroups.select(f"{PREFIX}/{name or next(_numbers)}", "id")


@pytest.fixture(scope="module", autouse=True)
def prefix() -> Iterator[None]:
    """Removes the parent of this module's cgroups."""
    yield
    parent = cgroups.select(PREFIX, "id")
    parent.kill(signal.SIGKILL)
    parent.delete()
    assert not parent.exists()


@pytest.fixture
def cgroup() -> Iterator[Any]:
    """A cgroup."""
    made = new()
    made.create()
    yield made
    if made.exists():
        made.kill(signal.SIGKILL)
    made.delete()


Start = Callable[..., subprocess.Popen[bytes]]


def hog(start: Start, cgroup: Cgroup, size: int) -> Any:
    """A process that takes memory once it is in the cgroup, and says so with a line."""
    command = (sys.executable, "-I", "-S", "-c", HOG.format(size=size))
    process = start("sh", "-c", 'read go; exec "$@"', "sh", *command, cgroup=cgroup,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    return process


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a process; it is killed and reaped at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, cgroup: Cgroup | None = None, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command or ("sleep", "1000"), **options)
        started.append(process)
        if cgroup:
            cgroup.add(process.pid)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def in_child(action: Callable[[], object]) -> str:
    """Run something in a forked process; returns the repr of its result, or of its exception."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            try:
                text = repr(action())
            except BaseException as error:
                text = repr(error)
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(pid, 0)
    return text


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must become true, however long the machine takes."""
    while not condition():
        time.sleep(0.005)


def block_device() -> tuple[int, int]:
    """Numbers of a block device."""
    for name in sorted(os.listdir("/sys/block")):
        major, minor = Path("/sys/block", name, "dev").read_text().strip().split(":")
        return int(major), int(minor)
    pytest.skip("this host has no block device (/sys/block)")


@contextmanager
def private_mounts() -> Iterator[None]:
    """A mount namespace of one's own: mounts made in it are seen by nobody else, and are gone with the last process."""
    back, where = os.open("/proc/self/ns/mnt", os.O_RDONLY), os.getcwd()
    assert _libc.unshare(CLONE_NEWNS) == 0
    try:
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        yield
    finally:
        assert _libc.setns(back, CLONE_NEWNS) == 0
        os.close(back)
        os.chdir(where)


def deepen(directory: str, depth: int) -> None:
    """Make cgroups one below the other, deeper than a path can be long, as a container may with its own."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("n", dir_fd=fd)
        below = os.open("n", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
