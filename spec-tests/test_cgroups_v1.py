"""The cgroup v1 (and hybrid) driver, on this host's hierarchies and with real processes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocipy import cgroups, host
from ocipy.cgroups import _fs, device_rules
from ocipy.cgroups.v1 import LegacyCgroup
from ocipy.errors import CgroupError, ConfigError, Error, Unsupported

MODE = host.cgroups().mode
CONTROLLERS = {c for h in host.cgroups().hierarchies for c in h.controllers}
HYBRID = MODE == "hybrid"

if MODE == "v2":
    pytest.skip("this host has cgroup v2 only", allow_module_level=True)
if os.geteuid():
    pytest.skip("needs root", allow_module_level=True)

PREFIX = f"/ocipy-test-{os.getpid()}"
numbers = itertools.count()


def needs(controller: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(controller not in CONTROLLERS, reason=f"no {controller} hierarchy is mounted")


def needs_file(controller: str, name: str) -> None:
    """Skip where a new cgroup does not have a file."""
    probe = new()
    probe.create()
    try:
        if controller not in probe.paths or not Path(probe.paths[controller], name).exists():
            pytest.skip(f"this kernel has no {name}")
    finally:
        probe.delete()


def new(name: str = "") -> LegacyCgroup:
    cgroup = cgroups.select(f"{PREFIX}/{name or next(numbers)}", "id")
    assert isinstance(cgroup, LegacyCgroup)
    return cgroup


@pytest.fixture(scope="module", autouse=True)
def prefix() -> Iterator[None]:
    yield
    parent = cgroups.select(PREFIX, "id")
    parent.kill(signal.SIGKILL)
    parent.delete()
    assert not parent.exists()


@pytest.fixture
def cgroup() -> Iterator[LegacyCgroup]:
    made = new()
    made.create()
    yield made
    if made.exists():
        made.kill(signal.SIGKILL)
    made.delete()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process; it is killed and reaped at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, cgroup: LegacyCgroup | None = None, **options: Any) -> subprocess.Popen[bytes]:
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


def read(cgroup: LegacyCgroup, controller: str, name: str) -> str:
    return Path(cgroup.paths[controller], name).read_text().strip()


def memberships(pid: int | str) -> dict[str, str]:
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


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


# Placement, creation, membership


def test_there_is_a_directory_in_each_hierarchy(cgroup: LegacyCgroup) -> None:
    expected = {c for c in CONTROLLERS if not c.startswith("name=") or c == "name=systemd"}
    if HYBRID:
        expected.add("")
    assert set(cgroup.paths) == expected
    for directory in cgroup.paths.values():
        assert PREFIX in directory
        assert Path(directory, "cgroup.procs").exists()
    cgroup.create()  # what is there is used


def test_a_relative_path_is_below_the_own_cgroup() -> None:
    own = memberships("self")
    placed = cgroups.select(None, f"ocipy-test-{os.getpid()}-relative")
    roots = {c: h.root.rstrip("/") for h in host.cgroups().hierarchies for c in h.controllers or ("",)}
    points = {c: h.mountpoint for h in host.cgroups().hierarchies for c in h.controllers or ("",)}
    for controller, path in placed.paths.items():
        inside = own[controller].removeprefix(roots[controller]).rstrip("/")
        assert path == f"{points[controller]}{inside}/ocipy-test-{os.getpid()}-relative"
    try:
        placed.create()
        assert placed.exists()
    finally:
        placed.delete()
    assert not placed.exists()


@needs("cpuset")
def test_cpusets_inherit_down_the_path() -> None:
    nested = new("nested/a/b")
    try:
        nested.create()
        root = next(h.mountpoint for h in host.cgroups().hierarchies if "cpuset" in h.controllers)
        for name in ("cpuset.cpus", "cpuset.mems"):
            wanted = Path(root, name).read_text().strip()
            directory = Path(nested.paths["cpuset"])
            for level in (directory, directory.parent, directory.parent.parent):
                assert (level / name).read_text().strip() == wanted
    finally:
        new("nested").delete()


@needs("cpuset")
def test_an_existing_cpuset_keeps_its_own(cgroup: LegacyCgroup) -> None:
    first = read(cgroup, "cpuset", "cpuset.cpus").replace("-", ",").split(",")[0]
    cgroup.apply({"cpu": {"cpus": first}}, update=True)
    cgroup.create()
    assert read(cgroup, "cpuset", "cpuset.cpus") == first


def test_a_process_enters_every_hierarchy(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    found = memberships(process.pid)
    for controller in cgroup.paths:
        assert found[controller].endswith(cgroup.paths[controller][cgroup.paths[controller].index(PREFIX) :])
    assert cgroup.pids() == [process.pid]
    with pytest.raises(CgroupError) as caught:
        cgroup.add(2**22 + 1)
    assert caught.value.errno == errno.ESRCH


def test_a_process_joins_by_itself(cgroup: LegacyCgroup) -> None:
    fd, files = cgroup.joining()
    assert len(files) == len({path for key, path in cgroup.paths.items() if key})
    if HYBRID:
        assert os.path.samestat(os.fstat(fd), os.stat(cgroup.paths[""]))
        assert not os.get_inheritable(fd)
        os.close(fd)
    else:
        assert fd == -1

    def join() -> list[str]:
        for file in files:
            Path(file).write_text("0")
        found = memberships("self")
        return [c for c in cgroup.paths if c and PREFIX not in found[c]]

    assert in_child(join) == "[]"
    assert cgroup.clone_fd() == -1, "a clone alone does not enter v1 hierarchies"
    if HYBRID:
        with pytest.raises(CgroupError):
            new().joining()


def test_a_sub_cgroup(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = cgroup.below({"": "sub"})
    child.create()
    process = start(cgroup=child)
    assert child.pids() == [process.pid]
    assert cgroup.pids() == [process.pid]


def test_without_permission_an_optional_cgroup_is_left_out() -> None:
    facts = host.cgroups()

    def attempt() -> object:
        os.setgid(65534)
        os.setuid(65534)
        required = cgroups.select(f"ocipy-test-{os.getppid()}-r", "id", facts, rootless=True)
        optional = cgroups.select(None, f"ocipy-test-{os.getppid()}-o", facts, rootless=True)
        try:
            required.create()
        except CgroupError as error:
            refused = (error.errno, error.config_path, "refuses it" in error.hint)
        optional.create()
        optional.add(os.getpid())
        optional.apply({"devices": [{"allow": False, "access": "rwm"}]})
        optional.delete()
        try:
            optional.apply({"memory": {"limit": 1 << 30}})
        except CgroupError as error:
            limits = str(error)
        return refused, optional.paths, optional.pids(), limits

    text = in_child(attempt)
    assert text.startswith(f"(({errno.EACCES}, '$.linux.cgroupsPath', True), {{}}, [], ")
    assert "$.linux.resources.memory.limit: cannot set memory limit: container could not join" in text


# Resources


@needs("memory")
@pytest.mark.parametrize(
    ("memory", "name", "value"),
    [
        ({"limit": 64 << 20}, "memory.limit_in_bytes", str(64 << 20)),
        ({"reservation": 32 << 20}, "memory.soft_limit_in_bytes", str(32 << 20)),
        ({"limit": 64 << 20, "swap": 128 << 20}, "memory.memsw.limit_in_bytes", str(128 << 20)),
        ({"swappiness": 10}, "memory.swappiness", "10"),
        ({"kernelTCP": 8 << 20}, "memory.kmem.tcp.limit_in_bytes", str(8 << 20)),
        ({"disableOOMKiller": True}, "memory.oom_control", "oom_kill_disable 1"),
        ({"useHierarchy": True}, "memory.use_hierarchy", "1"),
        ({"limit": 0, "swap": 0, "reservation": None, "checkBeforeUpdate": True}, "memory.failcnt", "0"),
    ],
)
def test_memory(cgroup: LegacyCgroup, memory: dict[str, Any], name: str, value: str) -> None:
    needs_file("memory", name)
    cgroup.apply({"memory": memory})
    assert read(cgroup, "memory", name).splitlines()[0] == value


@needs("memory")
def test_memory_and_swap_go_up_and_down_in_any_order(cgroup: LegacyCgroup) -> None:
    needs_file("memory", "memory.memsw.limit_in_bytes")
    for limit, swap in ((100, 200), (300, 400), (50, 60), (60, 60), (500, -1), (10, 20)):
        both = swap << 20 if swap > 0 else swap
        cgroup.apply({"memory": {"limit": limit << 20, "swap": both}}, update=True)
        assert int(read(cgroup, "memory", "memory.limit_in_bytes")) == limit << 20
        got = int(read(cgroup, "memory", "memory.memsw.limit_in_bytes"))
        assert got == swap << 20 if swap > 0 else got > 1 << 60
    cgroup.apply({"memory": {"limit": -1}}, update=True)
    assert int(read(cgroup, "memory", "memory.limit_in_bytes")) > 1 << 60
    assert int(read(cgroup, "memory", "memory.memsw.limit_in_bytes")) > 1 << 60
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"memory": {"limit": 100 << 20, "swap": 50 << 20}}, update=True)
    assert caught.value.errno == errno.EINVAL
    assert caught.value.config_path == "$.linux.resources.memory.swap"


@needs("memory")
def test_the_oom_killer_is_enabled_again_by_an_update(cgroup: LegacyCgroup) -> None:
    cgroup.apply({"memory": {"disableOOMKiller": True}})
    cgroup.apply({"memory": {"disableOOMKiller": False}}, update=True)
    assert "oom_kill_disable 0" in read(cgroup, "memory", "memory.oom_control")


HOG = "import sys; data = bytearray({size}); print(flush=True); sys.stdin.read()"


@needs("memory")
def test_a_memory_limit_below_usage_is_refused(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", HOG.format(size=64 << 20),
                    cgroup=cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    assert process.stdout
    swap = {"swap": 8 << 20} if Path(cgroup.paths["memory"], "memory.memsw.limit_in_bytes").exists() else {}
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    if swap and Path("/proc/swaps").read_text().count("\n") > 1:
        pytest.skip("this host has swap to move the memory to")
    with pytest.raises(CgroupError, match="unable to set memory limit to 8388608") as caught:
        cgroup.apply({"memory": {"limit": 8 << 20}}, update=True)
    assert caught.value.errno == errno.EBUSY
    assert caught.value.config_path == "$.linux.resources.memory.limit"


@needs("memory")
def test_kernel_memory(cgroup: LegacyCgroup) -> None:
    cgroup.apply({"memory": {"kernel": -1}})
    probe = Path(cgroup.paths["memory"], "memory.kmem.limit_in_bytes")
    with contextlib.suppress(OSError):
        probe.write_text(str(32 << 20))
    if probe.exists() and probe.read_text().strip() == str(32 << 20):
        cgroup.apply({"memory": {"kernel": 64 << 20}})
        assert probe.read_text().strip() == str(64 << 20)
    else:  # newer kernels have no such limit, whatever the file says
        with pytest.raises(Unsupported) as caught:
            cgroup.apply({"memory": {"kernel": 64 << 20}})
        assert caught.value.config_path == "$.linux.resources.memory.kernel"


@needs("cpu")
@pytest.mark.parametrize(
    ("cpu", "name", "value"),
    [
        ({"shares": 512}, "cpu.shares", "512"),
        ({"quota": 50000}, "cpu.cfs_quota_us", "50000"),
        ({"quota": -1}, "cpu.cfs_quota_us", "-1"),
        ({"period": 50000}, "cpu.cfs_period_us", "50000"),
        ({"quota": 20000, "burst": 10000}, "cpu.cfs_burst_us", "10000"),
        ({"idle": 1}, "cpu.idle", "1"),
        ({"idle": 0, "shares": 100}, "cpu.shares", "100"),
        ({"realtimePeriod": 500000, "realtimeRuntime": 1000}, "cpu.rt_runtime_us", "1000"),
        ({"shares": 0, "quota": 0, "period": 0, "cpus": "", "realtimeRuntime": 0}, "cpu.shares", "1024"),
    ],
)
def test_cpu(cgroup: LegacyCgroup, cpu: dict[str, Any], name: str, value: str) -> None:
    needs_file("cpu", name)
    if cpu.get("realtimeRuntime"):
        # Realtime budget has to come from the parent.
        parent = Path(cgroup.paths["cpu"]).parent
        (parent / "cpu.rt_runtime_us").write_text("10000")
    cgroup.apply({"cpu": cpu})
    assert read(cgroup, "cpu", name) == value


@needs("cpu")
def test_quota_and_period_within_the_parents(cgroup: LegacyCgroup) -> None:
    parent = LegacyCgroup({"cpu": cgroup.paths["cpu"]})
    child = LegacyCgroup({"cpu": cgroup.paths["cpu"] + "/child"})
    child.create()
    parent.apply({"cpu": {"quota": 50000, "period": 100000}}, update=True)
    # Each of these has a wrong order, in which the first write would exceed the parent's half CPU.
    for quota, period in ((40000, 100000), (4000, 10000), (400000, 1000000), (5000, 10000)):
        child.apply({"cpu": {"quota": quota, "period": period}}, update=True)
        assert read(child, "cpu", "cpu.cfs_quota_us") == str(quota)
        assert read(child, "cpu", "cpu.cfs_period_us") == str(period)
    with pytest.raises(CgroupError) as caught:
        child.apply({"cpu": {"quota": 60000, "period": 100000}}, update=True)
    assert caught.value.config_path == "$.linux.resources.cpu.quota"
    assert "parent" in caught.value.hint


@needs("cpu")
def test_burst_follows_the_quota(cgroup: LegacyCgroup) -> None:
    needs_file("cpu", "cpu.cfs_burst_us")
    for quota, burst in ((10000, 10000), (50000, 50000), (20000, 5000)):
        cgroup.apply({"cpu": {"quota": quota, "burst": burst}}, update=True)
        assert read(cgroup, "cpu", "cpu.cfs_burst_us") == str(burst)


@needs("cpu")
def test_shares_of_an_idle_cgroup(cgroup: LegacyCgroup) -> None:
    needs_file("cpu", "cpu.idle")
    cgroup.apply({"cpu": {"idle": 1, "shares": 512}})
    cgroup.apply({"cpu": {"idle": 1, "shares": 512}}, update=True)
    assert read(cgroup, "cpu", "cpu.idle") == "1"
    with pytest.raises(CgroupError, match="idle cgroup has no shares"):
        cgroup.apply({"cpu": {"shares": 512}}, update=True)
    cgroup.apply({"cpu": {"idle": 0, "shares": 512}}, update=True)
    assert read(cgroup, "cpu", "cpu.shares") == "512"


@needs("cpuset")
def test_cpuset(cgroup: LegacyCgroup) -> None:
    cgroup.apply({"cpu": {"cpus": "0", "mems": "0"}})
    assert read(cgroup, "cpuset", "cpuset.cpus") == "0"
    assert read(cgroup, "cpuset", "cpuset.mems") == "0"
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"cpu": {"cpus": "4000"}})
    assert caught.value.config_path == "$.linux.resources.cpu.cpus"
    assert "$.linux.resources.cpu.cpus: can't write '4000' to" in str(caught.value)


@pytest.mark.spec("config-linux#pids-1")
@needs("pids")
@pytest.mark.parametrize(("limit", "value"), [(42, "42"), (-1, "max"), (0, "1"), (None, "max")])
def test_pids(cgroup: LegacyCgroup, limit: int | None, value: str) -> None:
    cgroup.apply({"pids": {"limit": limit}})
    assert read(cgroup, "pids", "pids.max") == value


def block_device() -> tuple[int, int]:
    for name in sorted(os.listdir("/sys/block")):
        number = Path("/sys/block", name, "dev").read_text().strip()
        major, minor = number.split(":")
        return int(major), int(minor)
    pytest.skip("this host has no block device")


@needs("blkio")
@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    ],
)
def test_throttling(cgroup: LegacyCgroup, key: str, name: str) -> None:
    needs_file("blkio", name)
    major, minor = block_device()
    cgroup.apply({"blockIO": {key: [{"major": major, "minor": minor, "rate": 1048576}]}})
    assert read(cgroup, "blkio", name) == f"{major}:{minor} 1048576"
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"blockIO": {key: [{"major": 4000, "minor": 0, "rate": 1}]}})
    assert caught.value.config_path == f"$.linux.resources.blockIO.{key}[0]"


@needs("blkio")
def test_block_io_weight(cgroup: LegacyCgroup) -> None:
    directory = Path(cgroup.paths["blkio"])
    names = [n for n in ("blkio.weight", "blkio.bfq.weight") if (directory / n).exists()]
    if names:
        cgroup.apply({"blockIO": {"weight": 500}})
        assert read(cgroup, "blkio", names[0]).splitlines()[0].removeprefix("default ") == "500"
    else:
        with pytest.raises(Unsupported, match=r"this kernel has no blkio\.bfq\.weight"):
            cgroup.apply({"blockIO": {"weight": 500}})
    if not (directory / "blkio.leaf_weight").exists():
        for block_io, path in (
            ({"leafWeight": 500}, "leafWeight"),
            ({"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 500}]}, "weightDevice[0]"),
        ):
            with pytest.raises(Unsupported) as caught:
                cgroup.apply({"blockIO": block_io})
            assert caught.value.config_path == f"$.linux.resources.blockIO.{path}"


@pytest.mark.parametrize(
    ("controller", "resources", "path"),
    [
        ("hugetlb", {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]}, "hugepageLimits[0]"),
        ("net_cls", {"network": {"classID": 1048577}}, "network.classID"),
        ("net_prio", {"network": {"priorities": [{"name": "lo", "priority": 5}]}}, "network.priorities[0]"),
        ("rdma", {"rdma": {"mlx5_1": {"hcaHandles": 3}}}, "rdma.mlx5_1"),
    ],
)
def test_a_controller_that_is_not_mounted(
    cgroup: LegacyCgroup, controller: str, resources: dict[str, Any], path: str
) -> None:
    cgroup.paths.pop(controller, None)
    with pytest.raises(Unsupported, match=f"the {controller} cgroup controller is not mounted") as caught:
        cgroup.apply(resources)
    assert caught.value.config_path == f"$.linux.resources.{path}"


@needs("hugetlb")
def test_huge_pages(cgroup: LegacyCgroup) -> None:
    cgroup.apply({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]})
    assert read(cgroup, "hugetlb", "hugetlb.2MB.limit_in_bytes") == str(4 << 20)


@needs("net_cls")
def test_network_class(cgroup: LegacyCgroup) -> None:
    cgroup.apply({"network": {"classID": 1048577}})
    assert read(cgroup, "net_cls", "net_cls.classid") == "1048577"


@pytest.mark.parametrize(
    ("resources", "kind", "path"),
    [
        ({"unified": {"memory.max": "1"}}, ConfigError, "unified"),
        ({"cpu": {"shares": 1}}, ConfigError, "cpu.shares"),
        ({"memory": {"swappiness": 101}}, ConfigError, "memory.swappiness"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, ConfigError, "hugepageLimits[0].pageSize"),
        ({"pids": {"limit": 1 << 40}}, CgroupError, "pids.limit"),
        ({"devices": [{"allow": True, "type": "c", "access": ""}]}, ConfigError, "devices[0].access"),
    ],
)
def test_what_is_wrong_is_named(
    cgroup: LegacyCgroup, resources: dict[str, Any], kind: type[Error], path: str
) -> None:
    with pytest.raises(kind) as caught:
        cgroup.apply(resources)
    assert caught.value.config_path == f"$.linux.resources.{path}"
    with pytest.raises(kind) as caught:
        cgroup.apply(resources, where="$")
    assert caught.value.config_path == f"$.{path}"


def test_nothing_asked_for_nothing_refused(cgroup: LegacyCgroup) -> None:
    empty: dict[str, Any] = {
        "memory": {}, "cpu": {}, "pids": {}, "blockIO": {}, "network": {"classID": 0, "priorities": []},
        "hugepageLimits": [], "rdma": {}, "unified": {}, "devices": [],
    }  # fmt: skip
    cgroup.apply(empty)
    cgroup.apply({})


# Devices


def opened(cgroup: LegacyCgroup, *paths: str) -> dict[str, str]:
    """What a process in the cgroup gets from opening device nodes to read and to write."""

    def attempt() -> dict[str, str]:
        for file in cgroup.joining()[1]:
            Path(file).write_text("0")
        result = {}
        for path in paths:
            text = ""
            for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
                with contextlib.suppress(PermissionError):
                    os.close(os.open(path, flags | os.O_NONBLOCK))
                    text += letter
            result[path] = text
        return result

    found = eval(in_child(attempt))
    assert isinstance(found, dict)
    return found


KMSG, FULL = "/dev/kmsg", "/dev/full"


@needs("devices")
def test_devices_are_denied_but_for_the_defaults(cgroup: LegacyCgroup) -> None:
    if opened(cgroup, KMSG)[KMSG] != "rw":
        pytest.skip("this host's root may not use /dev/kmsg")
    cgroup.apply({})
    assert opened(cgroup, KMSG, FULL) == {KMSG: "", FULL: "rw"}
    listed = device_rules.parse_list(read(cgroup, "devices", "devices.list"))
    assert not listed.allow
    assert set(listed.exceptions) == {always[:3] for always in device_rules.ALWAYS_ALLOWED}


@pytest.mark.spec("config-linux#allowed-device-list-1")
@needs("devices")
def test_device_rules_apply_in_order(cgroup: LegacyCgroup) -> None:
    if opened(cgroup, KMSG)[KMSG] != "rw":
        pytest.skip("this host's root may not use /dev/kmsg")
    kmsg = {"type": "c", "major": 1, "minor": 11}
    cgroup.apply(
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {**kmsg, "allow": True, "access": "rw"},
                {**kmsg, "allow": False, "access": "w"},
            ]
        }
    )
    assert opened(cgroup, KMSG) == {KMSG: "r"}
    cgroup.apply({"memory": {}}, update=True)
    assert opened(cgroup, KMSG) == {KMSG: "r"}
    cgroup.apply({"devices": [{**kmsg, "allow": True, "access": "rw"}]}, update=True)
    assert opened(cgroup, KMSG) == {KMSG: "rw"}
    cgroup.apply({"devices": [{"allow": True, "access": "rwm"}, {**kmsg, "allow": False, "access": "rw"}]},
                 update=True)  # fmt: skip
    assert opened(cgroup, KMSG, FULL) == {KMSG: "", FULL: "rw"}
    cgroup.apply({"devices": []}, update=True)
    assert not device_rules.parse_list(read(cgroup, "devices", "devices.list")).allow


# Freezing, killing, watching, removing


@needs("freezer")
def test_freeze_and_thaw(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("sh", "-c", "while :; do /bin/true; done", cgroup=cgroup)
    assert not cgroup.frozen()
    cgroup.freeze(True)
    assert cgroup.frozen()
    assert read(cgroup, "freezer", "freezer.state") == "FROZEN"
    cgroup.freeze(True)
    process.terminate()
    assert process.poll() is None
    cgroup.freeze(False)
    assert not cgroup.frozen()
    process.wait()


@needs("freezer")
def test_a_frozen_parent_is_not_a_frozen_cgroup(cgroup: LegacyCgroup) -> None:
    child = cgroup.below({"": "child"})
    child.create()
    cgroup.freeze(True)
    assert not child.frozen()
    assert cgroup.frozen()
    cgroup.freeze(False)


def test_a_cgroup_that_is_gone() -> None:
    gone = new()
    assert not gone.exists()
    assert not gone.frozen()
    assert gone.pids() == []
    assert gone.oom_kills() == 0
    gone.kill(signal.SIGKILL)
    gone.delete()
    with pytest.raises(CgroupError):
        gone.freeze(True)
    if "memory" in gone.paths:
        with pytest.raises(CgroupError, match="can't watch"):
            gone.oom_watch()


FORKER = """
import os
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        pass
"""


@pytest.mark.parametrize("beside", [False, True])
def test_kill_gets_a_process_that_keeps_forking(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]], beside: bool
) -> None:
    if beside:
        # A process that is not in cgroup2 with the others, or without cgroup.kill.
        cgroup = LegacyCgroup({key: path for key, path in cgroup.paths.items() if key})
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", FORKER, cgroup=cgroup,
                    stdin=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    until(lambda: process.poll() is not None)
    until(lambda: cgroup.pids() != [])
    cgroup.kill(signal.SIGKILL)
    until(lambda: cgroup.pids() == [])


@needs("freezer")
def test_kill_thaws_but_other_signals_do_not(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    cgroup.freeze(True)
    cgroup.kill(signal.SIGCONT)
    assert cgroup.frozen()
    cgroup.kill(signal.SIGKILL)
    assert not cgroup.frozen()
    assert process.wait() == -signal.SIGKILL
    other = start(cgroup=cgroup)
    cgroup.kill(signal.SIGTERM)
    assert not cgroup.frozen()
    assert other.wait() == -signal.SIGTERM


@needs("memory")
def test_oom_is_watched(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    limits = {"limit": 32 << 20, "swap": 32 << 20}
    if not Path(cgroup.paths["memory"], "memory.memsw.limit_in_bytes").exists():
        del limits["swap"]
    cgroup.apply({"memory": limits})
    with cgroup.oom_watch() as watch:
        poller = select.poll()
        poller.register(watch.fileno(), watch.events)
        assert poller.poll(0) == []
        assert watch.check() == 0
        process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c",
                        HOG.format(size=256 << 20), cgroup=cgroup, stdin=subprocess.PIPE)  # fmt: skip
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert poller.poll()
        assert process.wait() == -signal.SIGKILL
        assert watch.check() >= 1
        assert cgroup.oom_kills() >= 1
        assert watch.check() == 0
        cgroup.delete()
        assert poller.poll(), "the end of the cgroup is told too"
        assert watch.check() == 0


def test_stats(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    cgroup.apply({"pids": {"limit": 20}} if "pids" in CONTROLLERS else {})
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", HOG.format(size=16 << 20),
                    cgroup=cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    data = cgroup.stats()
    assert set(data) == {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"}
    if "pids" in CONTROLLERS:
        assert data["pids"] == {"current": 1, "limit": 20}
    if "cpuacct" in CONTROLLERS:
        usage = data["cpu"]["usage"]
        assert usage["total"] == int(read(cgroup, "cpuacct", "cpuacct.usage")) or usage["total"] > 0
        assert len(usage["percpu"]) == len(usage["percpu_user"]) == len(usage["percpu_kernel"])
        assert set(data["cpu"]["throttling"]) == {"periods", "throttledPeriods", "throttledTime"}
    if "memory" in CONTROLLERS:
        assert data["memory"]["usage"]["usage"] > 16 << 20
        assert data["memory"]["raw"]["rss"] > 16 << 20
        assert set(data["memory"]["swap"]) == {"limit", "usage", "max", "failcnt"}
    if "cpuset" in CONTROLLERS:
        assert data["cpuset"]["cpus"]
        assert data["cpuset"]["mems"]


def test_delete_takes_what_is_below(cgroup: LegacyCgroup) -> None:
    cgroup.below({"": "a/b"}).create()
    cgroup.below({"": "c"}).create()
    cgroup.delete()
    assert not cgroup.exists()
    cgroup.delete()


def test_delete_waits_for_a_process_to_vanish(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    timer = threading.Timer(0.2, process.kill)
    timer.start()
    cgroup.delete()
    timer.join()
    assert not cgroup.exists()


def test_one_busy_hierarchy_does_not_keep_the_others(
    cgroup: LegacyCgroup,
    start: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = start()
    busy = next(iter(cgroup.paths))
    _fs.join(cgroup.paths[busy], process.pid)
    monkeypatch.setattr(_fs, "DELETE_SECONDS", 0.05)
    with pytest.raises(CgroupError, match=rf"can't remove cgroup .*still in it: \[{process.pid}\]") as caught:
        cgroup.delete()
    assert caught.value.errno == errno.EBUSY
    assert {path for path in cgroup.paths.values() if Path(path).exists()} == {cgroup.paths[busy]}
