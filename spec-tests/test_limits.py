"""config-linux.md#control-groups in whole containers: limits that are written, read back and felt; update, events,
the freezer, and what delete does about processes that are left."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id, until

from ocipy import Container, host
from ocipy.errors import StateError
from ocipy.store import Store

UNIFIED = host.cgroups().mode == "v2"
SLEEP = ("sleep", "1000")


def directory(cli: Cli, name: str, controller: str) -> Path:
    """The container's cgroup of a controller."""
    paths: dict[str, str] = json.loads((cli.root / name / "state.json").read_text())["cgroup"]["paths"]
    return Path(paths["" if UNIFIED else controller])


def controllers() -> set[str]:
    """The controllers of this machine."""
    if UNIFIED:
        return set((Path(host.cgroups().hierarchies[0].mountpoint) / "cgroup.controllers").read_text().split())
    return {c for hierarchy in host.cgroups().hierarchies for c in hierarchy.controllers}


def needs(controller: str) -> pytest.MarkDecorator:
    have = controllers()
    return pytest.mark.skipif(controller not in have, reason=f"no {controller} among the controllers: {sorted(have)}")


def read(cli: Cli, name: str, controller: str, v1: str, v2: str) -> str:
    return (directory(cli, name, controller) / (v2 if UNIFIED else v1)).read_text().strip()


#: section and limit, controller, file and content on v1, on v2
VALUES: list[tuple[dict[str, Any], str, str, str, str, str]] = [
    ({"memory": {"limit": 64 << 20}}, "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
    (
        {"memory": {"limit": 64 << 20, "reservation": 32 << 20}}, "memory", "memory.soft_limit_in_bytes", "33554432",
        "memory.low", "33554432",
    ),
    ({"pids": {"limit": 77}}, "pids", "pids.max", "77", "pids.max", "77"),
    ({"pids": {"limit": -1}}, "pids", "pids.max", "max", "pids.max", "max"),
    ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "512", "cpu.weight", r"\d+"),
    ({"cpu": {"quota": 20000, "period": 50000}}, "cpu", "cpu.cfs_quota_us", "20000", "cpu.max", "20000 50000"),
    ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
]  # fmt: skip


@pytest.mark.spec("runtime#lifecycle-1", "runtime#lifecycle-16", "runtime#delete-3")
@pytest.mark.parametrize("case", VALUES, ids=lambda case: f"{case[1]}-{'-'.join(next(iter(case[0].values())))}")
def test_written(cli: Cli, bundle: TestBundle, case: tuple[dict[str, Any], str, str, str, str, str]) -> None:
    """Each limit of config.json is in the container's cgroup from create on, and goes with the container."""
    resources, controller, v1, content1, v2, content2 = case
    if controller not in controllers():
        pytest.skip(f"no {controller} among the controllers: {sorted(controllers())}")
    bundle.config["linux"]["resources"] = resources
    name = cli.create(bundle.args(*SLEEP))
    where = directory(cli, name, controller)
    assert re.fullmatch(content2 if UNIFIED else content1, read(cli, name, controller, v1, v2))
    assert str(cli.state(name)["pid"]) in (where / "cgroup.procs").read_text().split()
    cli("delete", name)
    assert not where.exists()


@needs("memory")
def test_memory_is_felt(cli: Cli, bundle: TestBundle) -> None:
    """A program that takes more memory than its limit is killed: exit status 137."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    # dd's buffer is anonymous memory
    done = cli.run(bundle.sh("exec dd if=/dev/zero of=/dev/null bs=200M count=1"), code=137)
    assert done.stdout == ""
    cli.run(bundle.sh("exec dd if=/dev/zero of=/dev/null bs=4M count=1"))


@needs("pids")
def test_pids_are_felt(cli: Cli, bundle: TestBundle) -> None:
    """One process more than the limit can't be forked; below it all can."""
    bundle.config["linux"]["resources"] = {"pids": {"limit": 4}}
    script = "for n in 1 2 3 4 5 6 7 8; do sleep 100 & done; echo all"
    done = cli.run(bundle.sh(script), code=None)
    assert "fork" in done.stderr
    assert "all" not in done.stdout
    bundle.config["linux"]["resources"] = {"pids": {"limit": 20}}
    assert cli.run(bundle.sh(script)).stdout == "all\n"


@needs("cpuset")
def test_cpuset_is_felt(cli: Cli, bundle: TestBundle) -> None:
    """The program may run on the CPUs of its cpuset only."""
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "0"}}
    found = cli.run(bundle.args("grep", "Cpus_allowed_list", "/proc/self/status")).stdout
    assert found.split() == ["Cpus_allowed_list:", "0"]


@needs("cpu")
def test_cpu_is_felt(cli: Cli, bundle: TestBundle) -> None:
    """A program with a quota below its appetite is throttled, and the kernel counts it."""
    bundle.config["linux"]["resources"] = {"cpu": {"quota": 5000, "period": 100000}}
    name = cli.start(bundle.sh("while :; do :; done"))
    until(lambda: stats(cli, name)["cpu"]["throttling"]["throttledPeriods"] > 0)
    cli("delete", "--force", name)


def test_devices_are_felt(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#allowed-device-list: what is denied can't be opened though the node is there."""
    bundle.config["process"]["capabilities"] = {name: ["CAP_MKNOD"] for name in ("bounding", "effective", "permitted")}
    # /dev/kmsg takes no capability to be opened for writing
    script = "mknod /tmp/kmsg c 1 11; (: > /tmp/kmsg); head -c 1 /dev/zero | wc -c"
    if UNIFIED and not has_device_programs():
        pytest.skip("BPF_PROG_QUERY of BPF_CGROUP_DEVICE: this kernel attaches no device programs to cgroups")
    done = cli.run(bundle.sh(script))
    assert "/tmp/kmsg: Operation not permitted" in done.stderr
    assert done.stdout.endswith("1\n")
    bundle.config["linux"]["resources"] = {
        "devices": [
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rwm"},
        ]
    }
    done = cli.run(bundle.sh("(: > /tmp/kmsg) && echo opened"))
    assert done.stdout == "opened\n"


def has_device_programs() -> bool:
    """Whether BPF_PROG_QUERY of a cgroup for BPF_CGROUP_DEVICE is answered: EINVAL where the kernel has none."""
    from ocipy._native import ffi, lib

    fd = os.open(host.cgroups().hierarchies[0].mountpoint, os.O_RDONLY)
    try:
        attr = ffi.from_buffer(bytearray(struct.pack("=IIIIQIIQQ", fd, 6, 0, 0, 0, 0, 0, 0, 0) + bytes(64)))
        return bool(lib.ocipy_bpf(16, attr, 64) >= 0)
    finally:
        os.close(fd)


# --- update ---


def stats(cli: Cli, name: str) -> dict[str, Any]:
    [line] = cli("events", "--stats", name).stdout.splitlines()
    event = json.loads(line)
    assert (event["type"], event["id"]) == ("stats", name)
    data: dict[str, Any] = event["data"]
    return data


def test_update_flags(cli: Cli, bundle: TestBundle) -> None:
    """update by flags changes the limits that are named and no others."""
    have = controllers()
    bundle.config["linux"]["resources"] = {
        "memory": {"limit": 64 << 20}, "pids": {"limit": 50}, "cpu": {"quota": 50000, "period": 100000},
    }  # fmt: skip
    name = cli.start(bundle.args(*SLEEP))
    cli("update", "--memory", "32m", "--pids-limit=60", name)
    assert read(cli, name, "memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)
    assert read(cli, name, "pids", "pids.max", "pids.max") == "60"
    assert read(cli, name, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "50000"
    cli("update", name, "--cpu-quota", "20000", "--cpu-period", "50000", "--cpu-share", "2048")
    assert read(cli, name, "cpu", "cpu.cfs_quota_us", "cpu.max").split()[0] == "20000"
    if not UNIFIED:
        assert read(cli, name, "cpu", "cpu.shares", "") == "2048"
    cli("update", "--pids-limit", "-1", "--memory-reservation", "16MiB", name)
    assert read(cli, name, "pids", "pids.max", "pids.max") == "max"
    assert read(cli, name, "memory", "memory.soft_limit_in_bytes", "memory.low") == str(16 << 20)
    if "cpuset" in have:
        cli("update", "--cpuset-cpus", "0", "--cpuset-mems", "0", name)
        assert read(cli, name, "cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
        done = cli("update", "--cpuset-cpus", "4000", name, code=1)
        assert "$.linux.resources.cpu.cpus" in done.stderr
    cli("delete", "--force", name)


@pytest.mark.parametrize("source", ["file", "stdin"])
def test_update_resources(cli: Cli, bundle: TestBundle, tmp_path: Path, source: str) -> None:
    """update --resources takes linux.resources from a file or from standard input, checked like config.json."""
    name = cli.create(bundle.args(*SLEEP))  # a created container may be updated too
    file = tmp_path / "resources.json"

    def update(value: Any, code: int | None = 0) -> str:
        text = value if isinstance(value, str) else json.dumps(value)
        file.write_text(text)
        if source == "file":
            return cli("update", "--resources", str(file), name, code=code).stderr
        return cli("update", "-r", "-", name, input=text, code=code).stderr

    update({"pids": {"limit": 33}, "memory": {"limit": 48 << 20}})
    assert read(cli, name, "pids", "pids.max", "pids.max") == "33"
    assert read(cli, name, "memory", "memory.limit_in_bytes", "memory.max") == str(48 << 20)
    update({"pids": {"limit": 0}})  # as good as absent, as runc has it
    entry = {"pageSize": "2MB", "limit": 0, "x": 1}
    for value, places in (
        ({"Pids": {"limit": 5}}, ["Pids"]),
        ({"cpu": {"share": 5}, "hugepageLimits": [entry]}, ["cpu.share", "hugepageLimits[0].x"]),
        ({"rdma": {}, "unified": {}}, []),
    ):
        said = update(value, None).splitlines()
        assert [line.split(": ")[2] for line in said if "warning" in line] == [f"$.linux.resources.{p}" for p in places]
    assert "$.linux.resources.pids.limit" in update({"pids": {"limit": "many"}}, 1)
    assert "not an object" in update([], 1)
    assert "--resources" in update("{", 1)
    assert read(cli, name, "memory", "memory.limit_in_bytes", "memory.max") == str(48 << 20)
    assert "exclude each other" in cli("update", "-r", str(file), "--memory", "1g", name, code=1).stderr
    assert "no such file" in cli("update", "-r", str(tmp_path / "none"), name, code=1).stderr
    cli("delete", "--force", name)


# --- events ---


def test_stats(cli: Cli, bundle: TestBundle) -> None:
    """events --stats prints one JSON line in the shape of runc's, which engines read."""
    bundle.config["linux"]["resources"] = {"pids": {"limit": 40}, "memory": {"limit": 64 << 20}}
    name = cli.start(bundle.sh("while :; do :; done"))
    # some kernels account CPU time by ticks: none may have come yet
    until(lambda: stats(cli, name)["cpu"]["usage"]["total"] > 0, what="no CPU time is accounted")
    found = stats(cli, name)
    assert found["pids"] == {"current": found["pids"]["current"], "limit": 40}
    assert found["pids"]["current"] >= 1
    assert found["cpu"]["usage"]["total"] > 0
    assert found["memory"]["usage"]["usage"] > 0
    assert found["memory"]["usage"]["limit"] == 64 << 20
    assert isinstance(found["memory"]["raw"], dict)
    assert set(found) >= {"cpu", "memory", "pids", "blkio", "hugetlb"}
    assert (found["intel_rdt"], found["network_interfaces"]) == ({}, None)
    cli("delete", "--force", name)


@pytest.mark.parametrize("flags", [("--stats",), ("--interval", "50ms")], ids=["stats", "follow"])
def test_events_of_a_stopped_one(cli: Cli, bundle: TestBundle, flags: tuple[str, ...]) -> None:
    """events of a container that has stopped is refused with the reason, also where its creator died before it had
    recorded anything of it."""
    name = cli.start(bundle.args("true"))
    cli.wait_for(name, "stopped")
    with Store(str(cli.root)).create("nothing"):
        pass
    for one in name, "nothing":
        done = cli("events", *flags, one, code=1)
        assert done.stdout == ""
        assert "container not running" in done.stderr
    cli("delete", name)
    cli("delete", "--force", "nothing")


def test_events_follow(cli: Cli, bundle: TestBundle) -> None:
    """events prints a line at each interval, and ends when the container does."""
    name = cli.start(bundle.args(*SLEEP))
    process = subprocess.Popen(
        cli.command("events", "--interval", "50ms", name), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for _ in range(3):
        event = json.loads(process.stdout.readline())
        assert (event["type"], event["id"]) == ("stats", name)
    cli("kill", name, "KILL")
    for line in process.stdout:
        assert json.loads(line)["type"] == "stats"
    assert process.wait(20) == 0
    process.stdout.close()
    cli("delete", name)


@needs("memory")
def test_oom_event(cli: Cli, bundle: TestBundle) -> None:
    """events tells of a kill for lack of memory, while the container lives on."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    name = cli.start(bundle.args(*SLEEP))
    process = subprocess.Popen(
        cli.command("events", "--interval", "1h", name), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    lines: list[str] = []
    assert process.stdout is not None
    stream = process.stdout
    reader = threading.Thread(target=lambda: lines.extend(iter(stream.readline, "")))
    reader.start()
    hungry = ("dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1")

    # until the watcher is there: a kill before that is not told
    def killed_and_told() -> bool:
        cli("exec", name, *hungry, code=137)
        return bool(lines)

    until(killed_and_told)
    assert json.loads(lines[0]) == {"type": "oom", "id": name}
    assert cli.state(name)["status"] == "running"
    cli("kill", name, "KILL")
    assert process.wait(20) == 0
    reader.join()
    stream.close()
    cli("delete", name)


@needs("memory")
def test_oom_event_of_init(cli: Cli, bundle: TestBundle) -> None:
    """It also tells of the kill that ends the container."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 16 << 20, "swap": 16 << 20}}
    hungry = "while [ ! -e /go ]; do sleep 0.02; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1"
    name = cli.start(bundle.sh(hungry))
    with subprocess.Popen(
        cli.command("events", "--interval", "1h", name), stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    ) as process:

        def watches() -> bool:
            try:
                links = [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]
            except FileNotFoundError:
                return False  # one that was closed meanwhile
            return any(link.endswith(("/memory.events", "[eventfd]")) for link in links)

        until(watches)
        (bundle.rootfs / "go").touch()
        told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert [json.loads(line) for line in told.splitlines()] == [{"type": "oom", "id": name}]
    cli("delete", name)


# --- processes ---


def without_pid_namespace(bundle: TestBundle) -> TestBundle:
    linux = bundle.config["linux"]
    linux["namespaces"] = [ns for ns in linux["namespaces"] if ns["type"] != "pid"]
    return bundle


def pids(cli: Cli, name: str) -> list[int]:
    found: list[int] = json.loads(cli("ps", "--format", "json", name).stdout)
    return found


@pytest.mark.parametrize("own", [True, False], ids=["pid-namespace", "host-pid-namespace"])
def test_kill_all(cli: Cli, bundle: TestBundle, own: bool) -> None:
    """kill --all reaches every process of the container, with and without a pid namespace of its own, also when
    init has ended already."""
    if not own:
        without_pid_namespace(bundle)
    name = cli.start(bundle.sh("sleep 1001 & sleep 1002 & (sleep 1003 & wait) & wait"))
    until(lambda: len(pids(cli, name)) == 5)
    everyone = pids(cli, name)
    cli("kill", "--all", name, "KILL")
    cli.wait_for(name, "stopped")
    until(lambda: not [pid for pid in everyone if alive(pid)])
    assert "container not running" in cli("kill", name, "KILL", code=1).stderr
    cli("kill", "--all", name, "KILL")  # none is left to signal: no error, as with runc
    for number in signal.SIGKILL, signal.SIGTERM:  # the library says that there was none
        with pytest.raises(StateError, match="container not running"):
            Container.load(name, root=str(cli.root)).kill(number, everyone=True)
    cli("delete", name)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_kill_all_after_init(cli: Cli, bundle: TestBundle) -> None:
    """Without a pid namespace processes outlive init: the container is stopped, kill --all ends them."""
    name = cli.start(without_pid_namespace(bundle).sh("sleep 1004 & exit 0"))
    cli.wait_for(name, "stopped")
    cgroup = directory(cli, name, "pids")
    [left] = [int(line) for line in (cgroup / "cgroup.procs").read_text().split()]
    assert "container not running" in cli("kill", name, "TERM", code=1).stderr
    assert alive(left)
    cli("kill", "--all", name, "TERM")
    until(lambda: not alive(left))
    cli("delete", name)


def test_delete_ends_what_is_left(cli: Cli, bundle: TestBundle) -> None:
    """delete of a stopped container ends processes that outlived it, also such that ignore signals, are frozen, or
    sit in cgroups that they made below."""
    name = cli.start(without_pid_namespace(bundle).sh("(trap '' TERM HUP INT; while :; do sleep 0.1; done) & exit 0"))
    cli.wait_for(name, "stopped")
    where = directory(cli, name, "freezer")
    left = [int(line) for line in (where / "cgroup.procs").read_text().split()]
    assert left
    below = where / "below"
    below.mkdir()
    (below / "cgroup.procs").write_text(str(left[0]))
    if UNIFIED:
        (where / "cgroup.freeze").write_text("1")
    else:
        (where / "freezer.state").write_text("FROZEN")
    cli("delete", name)
    assert not where.exists()
    until(lambda: not [pid for pid in left if alive(pid)])


def test_fork_bomb(cli: Cli, bundle: TestBundle) -> None:
    """delete --force ends a container that forks as fast as it can."""
    loops = "for n in 1 2 3 4 5 6 7 8; do (while :; do (sleep 0.001 & true & true); done) & done; wait"
    name = cli.start(without_pid_namespace(bundle).sh(loops))
    until(lambda: len(pids(cli, name)) > 8)
    cli("delete", "--force", name)


@pytest.mark.spec("config-linux#cgroups-path-1", "config-linux#cgroups-path-2")
@pytest.mark.parametrize("path", ["absolute", "relative", "nested"])
def test_cgroups_path(cli: Cli, bundle: TestBundle, path: str) -> None:
    """config-linux.md#cgroups-path: absolute is below the mount point, relative where the runtime decides; the
    last directory goes with the container."""
    own = fresh_id()
    value = {"absolute": f"/{own}", "relative": own, "nested": f"/{own}/a/b"}[path]
    bundle.config["linux"]["cgroupsPath"] = value
    name = cli.start(bundle.args(*SLEEP))
    where = directory(cli, name, "pids")
    assert str(where).endswith(value if path != "relative" else f"/{own}")
    pid = cli.state(name)["pid"]
    lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    assert all(line[2].endswith(value) for line in lines if line[1] in ("", "pids", "memory"))
    cli("delete", "--force", name)
    assert not where.exists()
    if path == "nested":  # parents stay, as with runc: others may use them
        for hierarchy in host.cgroups().hierarchies:
            for parent in (f"{hierarchy.mountpoint}/{own}/a", f"{hierarchy.mountpoint}/{own}"):
                if os.path.isdir(parent):
                    os.rmdir(parent)


@needs("memory")
def test_small_memory_limit(cli: Cli, bundle: TestBundle) -> None:
    """The container's memory limit is charged with a small static helper, not with an interpreter: a program
    runs under less than a megabyte."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 768 << 10}}
    bundle.config["linux"]["namespaces"] = [
        ns for ns in bundle.config["linux"]["namespaces"] if ns["type"] != "network"
    ]
    cli.run(bundle.args("true"))


@pytest.mark.parametrize("again", ["create", "run"])
def test_cgroup_that_exists(cli: Cli, bundle: TestBundle, make_bundle: Callable[[], TestBundle], again: str) -> None:
    """An empty cgroup that somebody made before is used, and its old limits do not survive where config.json has
    others."""
    own = fresh_id()
    mount = next(h.mountpoint for h in host.cgroups().hierarchies if UNIFIED or "pids" in h.controllers)
    Path(mount, own).mkdir()
    bundle.config["linux"]["cgroupsPath"] = f"/{own}"
    bundle.config["linux"]["resources"] = {"pids": {"limit": 25}}
    if again == "create":
        name = cli.create(bundle.args(*SLEEP))
        assert read(cli, name, "pids", "pids.max", "pids.max") == "25"
        cli("delete", name)
    else:
        cli.run(bundle.args("true"))
    assert not Path(mount, own).exists()


def test_signals_by_cgroup_spare_others(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """Killing and deleting one container does nothing to another beside it."""
    first, second = cli.start(make_bundle().args(*SLEEP)), cli.start(make_bundle().args(*SLEEP))
    cli("kill", "--all", first, "KILL")
    cli.wait_for(first, "stopped")
    cli("delete", "--force", first)
    assert cli.state(second)["status"] == "running"
    os.kill(cli.state(second)["pid"], signal.SIGKILL)
    cli.wait_for(second, "stopped")
    cli("delete", second)
