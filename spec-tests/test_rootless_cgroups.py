"""The cgroups of a user without privilege: delegated, or not (config-linux.md#cgroups-path, cgroups(7))."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TestBundle, fresh_id
from unprivileged import (
    UID,
    User,
    box_fixture,  # noqa: F401
    config_of,
    last,
    user_fixture,  # noqa: F401
)

from ocipy import host

V2 = host.cgroups().mode == "v2"
on_v2 = pytest.mark.skipif(not V2, reason="/proc/self/mountinfo: controllers are on cgroup v1")
on_v1 = pytest.mark.skipif(V2, reason="/proc/self/mountinfo: there is only cgroup v2")
CONTROLLERS = ("memory", "pids", "freezer", "devices")
LIMITS = {"memory": {"limit": 64 << 20}, "pids": {"limit": 33}}


def give(*paths: Path) -> None:
    for path in paths:
        os.chown(path, UID, -1)


class Delegated:
    """A part of the cgroup tree for a user.

    Attributes:
        tops: its directories, one per hierarchy.
    """

    def __init__(self) -> None:
        self.name = fresh_id()
        self.tops: list[Path] = []
        for hierarchy in host.cgroups().hierarchies:
            if hierarchy.unified or set(CONTROLLERS) & set(hierarchy.controllers):
                self.tops.append(Path(hierarchy.mountpoint) / self.name)
        for top in self.tops:
            top.mkdir()
        if V2:
            (self.tops[0].parent / "cgroup.subtree_control").write_text("+memory +pids")

    def remove(self) -> None:
        for top in self.tops:
            for directory, _, _ in os.walk(top, topdown=False):
                os.rmdir(directory)


@pytest.fixture
def part(user: User) -> Iterator[Delegated]:
    one = Delegated()
    yield one
    user.cgroups = []
    try:
        for name in sorted(os.listdir(user.root)) if user.root.exists() else []:
            user("delete", "--force", name)
    finally:
        one.remove()


@pytest.fixture
def beside(user: User, part: Delegated) -> Delegated:
    """The user's processes are in a cgroup of a delegated one, as systemd has it for a user's session (v2); on v1,
    where a container's is made below its creator's, in the delegated one itself."""
    for top in part.tops:
        unified = (top / "cgroup.controllers").exists()
        give(top, top / "cgroup.procs", *([top / "cgroup.subtree_control"] if unified else [top / "tasks"]))
        if V2:
            (top / "session").mkdir()
            give(top / "session", top / "session/cgroup.procs")
            user.cgroups.append(top / "session")
        else:
            user.cgroups.append(top)
    return part


def groups(pid: int) -> str:
    return Path(f"/proc/{pid}/cgroup").read_text()


def test_life(user: User, box: TestBundle, beside: Delegated) -> None:
    """With a delegated cgroup, limits, pause, update, events and ps work as for root."""
    box.config["linux"]["resources"] = LIMITS
    name = user.start(box.args("sleep", "1000"))
    pid = user.state(name)["pid"]
    directories = [top / name for top in beside.tops]
    assert all(directory.is_dir() for directory in directories)
    assert groups(pid).count(f"/{beside.name}/{name}\n") == len(directories)
    user.detach("exec", "--detach", name, "sleep", "1001")
    pids = json.loads(user("ps", "--format", "json", name).stdout)
    assert len(pids) == 2
    assert all(groups(p).count(f"/{beside.name}/{name}\n") == len(directories) for p in pids)
    stats = json.loads(user("events", "--stats", name).stdout)["data"]
    assert stats["pids"] == {"current": 2, "limit": 33}
    assert stats["memory"]["usage"]["limit"] == 64 << 20
    user("pause", name)
    assert user.state(name)["status"] == "paused"
    user("resume", name)
    user("update", "--pids-limit", "44", "--memory", "128m", name)
    stats = json.loads(user("events", "--stats", name).stdout)["data"]
    assert (stats["pids"]["limit"], stats["memory"]["usage"]["limit"]) == (44, 128 << 20)
    user("kill", "--all", name, "KILL")
    user.wait_for(name, "stopped")
    user("delete", name)
    assert not any(directory.exists() for directory in directories)


@on_v2
def test_exec_from_elsewhere(user: User, box: TestBundle, beside: Delegated) -> None:
    """cgroups(7): a process enters a delegated part only from within. An exec from outside would escape the limits: it
    is refused, and nothing of it is left."""
    name = user.start(box.args("sleep", "1000"))
    user.cgroups = []
    line = last(user("exec", name, "true", code=255))
    assert f"to cgroup {beside.tops[0]}/{name}" in line
    assert "Delegate=yes" in line
    assert len(json.loads(user("ps", "--format", "json", name).stdout)) == 1


def test_limit_holds(user: User, box: TestBundle, beside: Delegated) -> None:
    """A limit that was asked for is one: there are no more processes than it allows."""
    box.config["linux"]["resources"] = {"pids": {"limit": 4}}
    done = user.run(box.sh("for i in 1 2 3 4 5 6; do sleep 1 & done; wait"), code=None)
    assert "can't fork" in done.stderr


@on_v2
def test_cgroup_namespace(user: User, box: TestBundle, beside: Delegated) -> None:
    """The container's own part is what it sees at /sys/fs/cgroup, read-only."""
    box.config["linux"]["resources"] = LIMITS
    done = user.run(box.sh("cat /proc/self/cgroup /sys/fs/cgroup/pids.max; echo 1 > /sys/fs/cgroup/pids.max"), code=1)
    assert done.stdout.split() == ["0::/", "33"]
    assert "Read-only file system" in done.stderr


@on_v2
def test_only_its_own_cgroup(user: User, box: TestBundle, part: Delegated) -> None:
    """Where only the caller's own cgroup was delegated, as for a service, the container's is made below: all works
    but limits, which processes in the caller's keep from being handed down. The error says that."""
    top = part.tops[0]
    (top / "service").mkdir()
    give(*(top / "service" / name for name in ("", "cgroup.procs", "cgroup.subtree_control")))
    (top / "cgroup.subtree_control").write_text("+memory +pids")
    user.cgroups = [top / "service"]
    name = user.start(box.args("sleep", "1000"))
    assert groups(user.state(name)["pid"]) == f"0::/{part.name}/service/{name}\n"
    user("pause", name)
    user("resume", name)
    user("delete", "--force", name)
    assert not (top / "service" / name).exists()
    box.config["linux"]["resources"] = LIMITS
    line = user.error(box)
    assert "$.linux.resources.pids.limit" in line
    assert "has processes of its own" in line
    assert [p for p in (top / "service").iterdir() if p.is_dir()] == []


@on_v2
def test_incomplete_delegation(user: User, box: TestBundle, part: Delegated) -> None:
    """A directory alone, without its cgroup.procs, is no delegation: a cgroup in it could not be entered. The
    container stays where it began, and none is made."""
    top = part.tops[0]
    (top / "session").mkdir()
    give(top)
    user.cgroups = [top / "session"]
    name = user.start(box.args("sleep", "1000"))
    assert groups(user.state(name)["pid"]) == f"0::/{part.name}/session\n"
    assert [p.name for p in top.iterdir() if p.is_dir()] == ["session"]
    user("delete", "--force", name)
    box.config["linux"]["resources"] = LIMITS
    line = user.error(box)
    assert "$.linux.resources." in line
    assert f"uid {UID} may not write to {top}/session" in line


@on_v1
def test_some_hierarchies(user: User, box: TestBundle, beside: Delegated) -> None:
    """On v1 some hierarchies may be delegated and others not: a limit in one of the others is an error, and leaves
    nothing in the first."""
    box.config["linux"]["resources"] = LIMITS | {"cpu": {"shares": 100}}
    line = user.error(box)
    assert "$.linux.resources.cpu.shares" in line
    assert "may not write to /sys/fs/cgroup/cpu" in line
    for top in beside.tops:
        assert [p for p in top.iterdir() if p.is_dir()] == []


@on_v1
def test_mount_shows_the_own_cgroup(user: User, box: TestBundle, beside: Delegated) -> None:
    """config-linux.md#cgroup-ownership: the cgroup mount has the container's own directories, and the caller's where it
    has none."""
    config_of(box)["/sys/fs/cgroup"]["options"] = ["ro"]
    box.config["linux"]["resources"] = LIMITS
    done = user.run(box.sh("cat /sys/fs/cgroup/pids/pids.max; ls /sys/fs/cgroup; cat /sys/fs/cgroup/pids/cgroup.procs"))
    assert done.stdout.split()[0] == "33"
    assert "memory" in done.stdout
    assert "1" in done.stdout.split()


def test_a_relative_path_is_insisted_on(user: User, box: TestBundle, beside: Delegated) -> None:
    """cgroupsPath that is given is made, or is an error: with auto, too."""
    name = fresh_id()
    box.config["linux"]["cgroupsPath"] = name
    if V2:
        done = user.run(box.args("true"))
        assert done.stderr == ""
    else:  # not every hierarchy was delegated
        assert "$.linux.cgroupsPath" in user.error(box)
    box.config["linux"]["cgroupsPath"] = f"/{name}"
    assert "$.linux.cgroupsPath" in user.error(box)


def test_root_of_a_user_namespace(user: User, box: TestBundle, beside: Delegated) -> None:
    """Root inside a user namespace has the cgroups that its user was given."""
    user.wrap = "unshare -Ur"
    ids = [{"containerID": 0, "hostID": 0, "size": 1}]
    box.config["linux"].update(uidMappings=ids, gidMappings=ids, resources=LIMITS)
    assert user.run(box.args("cat", f"/sys/fs/cgroup/{'' if V2 else 'pids/'}pids.max")).stdout == "33\n"
    box.config["linux"]["resources"] = LIMITS | {"rdma": {"mlx": {"hcaHandles": 1}}}
    assert "$.linux.resources.rdma" in last(user.run(box, code=1))
