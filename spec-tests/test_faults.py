"""Fault injection: whichever operation of a plan fails, the error says which, and nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Lan, TestBundle, children, fresh_id, nothing_left, until

from ocipy import Container
from ocipy.container import create
from ocipy.container.prepare import CreateOptions, prepare
from ocipy.errors import LaunchError
from ocipy.launch.id_maps import check_joined
from ocipy.plan import Plan


def plain(bundle: TestBundle) -> None:
    """Most of what a plan can have, in a container as engines make it."""
    config = bundle.config
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["linux"] |= {
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "devices": [{"path": "/dev/full", "type": "c", "major": 1, "minor": 7}],
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
        },
        "resources": {"pids": {"limit": 50}},
    }
    config["root"]["readonly"] = True
    config["domainname"] = "nis"
    config["process"] |= {
        "terminal": True, "oomScoreAdj": 500, "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
    }  # fmt: skip
    config["process"]["user"] |= {"umask": 0o27, "additionalGids": [5]}
    config["mounts"] += [
        {"destination": "/b", "source": "/tmp", "options": ["rbind", "ro", "rnosuid", "slave"]},
        {"destination": "/c", "type": "tmpfs", "options": ["tmpcopyup", "ro"]},
        {"destination": "/d", "type": "tmpfs"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
    ]
    config["hooks"] = {
        kind: [{"path": "/bin/true"}]
        for kind in ("createRuntime", "createContainer", "startContainer", "poststop")
    }


def user(bundle: TestBundle) -> None:
    """In a user namespace, where the first process is not the last."""
    plain(bundle)
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    if os.path.exists("/proc/self/ns/time"):
        bundle.config["linux"]["namespaces"].append({"type": "time"})
        bundle.config["linux"]["timeOffsets"] = {"boottime": {"secs": 5}}
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]


def joined(bundle: TestBundle) -> None:
    """In namespaces joined by path."""
    plain(bundle)
    kinds = {"network": "net", "pid": "pid"}
    for namespace in bundle.config["linux"]["namespaces"]:
        if namespace["type"] in kinds:
            namespace["path"] = f"/proc/{os.getpid()}/ns/{kinds[namespace['type']]}"
    # the parameter would be the host's, and so would be what is seen of its processes
    del bundle.config["linux"]["sysctl"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory that the root of a user namespace can get to."""
    made = Path(tempfile.mkdtemp(prefix="ocipytest-"))
    made.chmod(0o755)
    yield made
    left = nothing_left(made)
    subprocess.run(["rm", "-rf", "--one-file-system", made], check=True)
    assert left == []


class Trial:
    """One create with a fault, and a look at what is left of it."""

    def __init__(self, place: Path, bundle: TestBundle) -> None:
        self.place = place
        self.bundle = bundle
        self.null = os.open("/dev/null", os.O_RDWR)
        self.ours, self.theirs = socket.socketpair()

    def close(self) -> None:
        os.close(self.null)
        self.ours.close()
        self.theirs.close()

    def options(self, fault: int) -> CreateOptions:
        terminal = self.bundle.config["process"].get("terminal")
        return CreateOptions(
            fault=fault,
            console_fd=self.theirs.fileno() if terminal else -1,
            stdio=(self.null,) * 3,
            pid_file=str(self.place / "pid"),
        )

    def plan(self) -> Plan:
        return prepare(fresh_id(), str(self.bundle.path), {})[2]

    def run(self, fault: int, start: bool) -> LaunchError:
        """The error of the create, or (``start``) of the start after it."""
        name, root = fresh_id(), str(self.place / "state")
        if not start:
            with pytest.raises(LaunchError) as caught:
                Container.create(name, str(self.bundle.path), root=root, options=self.options(fault))
            return caught.value
        with Container.create(
            name, str(self.bundle.path), root=root, options=self.options(fault)
        ) as container:
            with pytest.raises(LaunchError) as caught:
                container.start()
            if container.init is not None:
                container.wait(60)
        return caught.value

    def take_terminal(self) -> None:
        """Close the terminals that were sent before the operation failed."""
        self.ours.setblocking(False)
        try:
            while True:
                for fd in socket.recv_fds(self.ours, 4096, 16)[1]:
                    os.close(fd)
        except BlockingIOError:
            pass


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[name] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing itself
            continue
    return found


@pytest.mark.spec("runtime#errors-1", "runtime#lifecycle-2")
@pytest.mark.parametrize("kind", [plain, user, joined])
def test_every_operation(kind: Callable[[TestBundle], None], place: Path, image: Path) -> None:
    """Each operation of a plan in turn is made to fail. Up to where the container waits, create fails;
    after it, start. The error names the operation's config path and the cause; no process, descriptor,
    cgroup, mount, state or pid file is left, and the id can be used again."""
    bundle = TestBundle(place / "bundle", image)
    kind(bundle)
    fail_each(bundle, place)


@pytest.mark.parametrize("kind", [plain, user])
def test_idmapped_mounts(
    kind: Callable[[TestBundle], None], place: Path, image: Path, tmp_path: Path, ext4: Callable[[Path], Path]
) -> None:
    """The same, with mounts that take user namespaces of their own, and with links and changed file systems."""
    bundle = TestBundle(place / "bundle", image)
    kind(bundle)
    volume = str(ext4(tmp_path / "volume"))
    (tmp_path / "link").symlink_to("elsewhere")
    maps = [{"containerID": 0, "hostID": 5, "size": 1}]
    bundle.config["mounts"] += [
        {"destination": "/c/v", "source": volume, "options": ["bind"], "uidMappings": maps, "gidMappings": maps},
        {"destination": "/c/l", "source": str(tmp_path / "link"), "options": ["bind", "copy-symlink"]},
        {"destination": "/c/l", "source": "/dev/null", "options": ["bind", "dest-nofollow"]},
        {"destination": "/dev/shm", "options": ["remount", "size=1m"]},
    ]
    if kind is user:
        bundle.config["mounts"].append({"destination": "/c/w", "source": volume, "options": ["rbind", "ridmap"]})
    fail_each(bundle, place)


def fail_each(bundle: TestBundle, place: Path) -> None:
    """Fail each operation of a bundle's plan, and look at what is left."""
    bundle.save()
    trial = Trial(place, bundle)
    try:
        operations = trial.plan().ops
        waits = next(n for n, op in enumerate(operations) if op.name == "wait_start")
        trial.run(0, False)  # what is kept for good is made by the first one
        before, children_before = descriptors(), children()
        mounts_before = Path("/proc/self/mountinfo").read_text()
        for number, op in enumerate(operations):
            if number == waits:  # fails when no one listens any more: the container has stopped, no more
                continue
            error = trial.run(number, start=number > waits)
            trial.take_terminal()
            what = f"{number}: {op.name} {op.path}"
            assert error.config_path == op.path, what
            assert (error.errno, error.syscall) == (5, "injected"), what
            assert "injected fault" in str(error), what
            assert descriptors() == before, what
            assert children() == children_before, what
            if number > waits:  # the file was for the caller of create, which has been
                os.unlink(place / "pid")
            assert not os.path.exists(place / "pid"), what
            assert nothing_left(place) == [], what
        assert Path("/proc/self/mountinfo").read_text() == mounts_before
    finally:
        trial.close()


@pytest.mark.parametrize("kind", [plain, user])
def test_network_devices(kind: Callable[[TestBundle], None], place: Path, image: Path, lan: Lan) -> None:
    """Whatever fails in a create, a network device that was to move is on the host, as it was."""
    lan.veth("v0")
    lan.ip("addr", "add", "192.0.2.5/24", "dev", "v0")
    bundle = TestBundle(place / "bundle", image)
    kind(bundle)
    bundle.config["linux"]["netDevices"] = {"v0": {"name": "eth%d"}}
    bundle.save()
    trial = Trial(place, bundle)
    try:
        operations = trial.plan().ops
        moves = next(n for n, op in enumerate(operations) if op.path == "$.linux.netDevices")
        waits = next(n for n, op in enumerate(operations) if op.name == "wait_start")
        lan(trial.run, 0, False)
        before = descriptors()
        until(lambda: "tentative" not in lan.ip("addr", "show", "dev", "v0"))
        address = lan.ip("addr", "show", "dev", "v0")
        for number in range(moves, waits):
            lan(trial.run, number, False)
            trial.take_terminal()
            what = f"{number}: {operations[number].name}"
            # a new address of IPv6 is tentative for a moment
            until(lambda: lan.ip("addr", "show", "dev", "v0") == address, what=what)
            assert descriptors() == before, what
            assert nothing_left(place) == [], what
    finally:
        trial.close()


def test_wait_itself(place: Path, image: Path) -> None:
    """The wait for start fails: the container has been created, and is stopped; delete removes it."""
    bundle = TestBundle(place / "bundle", image)
    bundle.save()
    trial = Trial(place, bundle)
    try:
        waits = next(n for n, op in enumerate(trial.plan().ops) if op.name == "wait_start")
        name, root = fresh_id(), str(place / "state")
        with Container.create(name, str(bundle.path), root=root, options=trial.options(waits)) as container:
            assert container.wait(60) == 125
            assert container.status == "stopped"
    finally:
        trial.close()


def test_helper_killed(place: Path, image: Path) -> None:
    """The helper is killed while it works, by a hook that knows its pid: the error says by what, and
    nothing is left."""
    bundle = TestBundle(place / "bundle", image)
    script = "kill -9 $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    bundle.save()
    trial = Trial(place, bundle)
    try:
        before = children()
        error = trial.run(-1, False)
        assert "the container's first process was killed by signal 9" in str(error)
        assert children() == before
    finally:
        trial.close()


def test_killed_before_it_is_recorded(bundle: TestBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first process that is killed when it is ready, but not yet recorded: create fails, rather than to make a
    container of it that has never been."""
    def killed(pid: int, linux: dict[str, Any]) -> None:
        check_joined(pid, linux)
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)

    monkeypatch.setattr(create, "check_joined", killed)
    with pytest.raises(LaunchError, match="the container's first process died") as caught:
        Container.create(fresh_id(), str(bundle.args("true").save()), root=str(tmp_path / "state"))
    assert caught.value.code == "launch-died"
    assert nothing_left(tmp_path) == []
