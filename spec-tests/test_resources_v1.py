"""config-linux.md#control-groups on cgroup v1: every property of linux.resources but devices, as the kernel has it."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cgroup_tools
import pytest
from cgroup_tools import HOG, block_device, private_mounts, until
from test_cgroups_v1 import CONTROLLERS, needs, needs_file, read  # and skipped with it, on another hierarchy

from ocipy import host
from ocipy.cgroups.v1.driver import LegacyCgroup
from ocipy.errors import CgroupError, ConfigError, Error, Unsupported

#: controllers of the cgroup2 beside (hybrid)
BESIDE = {
    name
    for h in host.cgroups().hierarchies
    if h.unified
    for name in Path(h.mountpoint, "cgroup.controllers").read_text().split()
}

#: fixtures
cgroup, prefix, start = cgroup_tools.cgroup, cgroup_tools.prefix, cgroup_tools.start

_SWAPPINESS = Path("/sys/fs/cgroup/memory/memory.swappiness")
INHERITED_SWAPPINESS = _SWAPPINESS.read_text().strip() if _SWAPPINESS.exists() else ""


def read_lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


@needs("memory")
@pytest.mark.parametrize(
    ("memory", "name", "value"),
    [
        ({"limit": 64 << 20}, "memory.limit_in_bytes", str(64 << 20)),
        ({"reservation": 32 << 20}, "memory.soft_limit_in_bytes", str(32 << 20)),
        ({"limit": 64 << 20, "swap": 128 << 20}, "memory.memsw.limit_in_bytes", str(128 << 20)),
        ({"swappiness": 10}, "memory.swappiness", "10"),
        ({"swappiness": 0}, "memory.swappiness", "0"),
        ({"swappiness": (1 << 64) - 1}, "memory.swappiness", INHERITED_SWAPPINESS),
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
    cgroup.apply({"blockIO": {key: [{"major": major, "minor": minor, "rate": 2**33}]}})
    kept = "" if "IOPS" in key else f"{major}:{minor} {2**33}"  # more than the kernel counts is no limit
    assert read(cgroup, "blkio", name) == kept
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
    major, minor = block_device()
    weighted = {"blockIO": {"weightDevice": [{"major": major, "minor": minor, "weight": 300}]}}
    scheduler = Path(f"/sys/dev/block/{major}:{minor}/queue/scheduler").read_text()
    if names and "[bfq]" in scheduler:
        cgroup.apply(weighted)
        assert f"{major}:{minor} 300" in read(cgroup, "blkio", f"{names[0]}_device")
    else:
        with pytest.raises(Error) as refused:
            cgroup.apply(weighted)
        assert refused.value.config_path == "$.linux.resources.blockIO.weightDevice[0]"
        assert not names or "I/O scheduler has no weights" in refused.value.hint
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
    for gone in (controller, ""):  # hybrid has some on its cgroup2
        cgroup.paths.pop(gone, None)
    with pytest.raises(Unsupported, match=f"the {controller} cgroup controller is not mounted") as caught:
        cgroup.apply(resources)
    assert caught.value.config_path == f"$.linux.resources.{path}"


LIMITS = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}


@pytest.mark.parametrize("suffix", ["", ".rsvd"])
def test_huge_page_limits(cgroup: LegacyCgroup, suffix: str) -> None:
    """hugepageLimits: of pages and of reservations; on hybrid perhaps by cgroup2, where the controller is then."""
    if "hugetlb" in CONTROLLERS:
        place, file = "hugetlb", f"hugetlb.2MB{suffix}.limit_in_bytes"
        needs_file(place, file)
    elif "hugetlb" in BESIDE:
        place, file = "", f"hugetlb.2MB{suffix}.max"
    else:
        pytest.skip("no hierarchy has hugetlb (mountinfo, cgroup.controllers)")
    cgroup.apply(LIMITS)
    assert read(cgroup, place, file) == str(4 << 20)
    assert cgroup.stats()["hugetlb"]["2MB"]["usage"] == 0
    with pytest.raises(Unsupported) as caught:
        cgroup.apply({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, update=True)
    assert caught.value.config_path == "$.linux.resources.hugepageLimits[0]"


@pytest.mark.skipif("rdma" not in CONTROLLERS | BESIDE, reason="no hierarchy has rdma (mountinfo, cgroup.controllers)")
def test_rdma(cgroup: LegacyCgroup) -> None:
    """rdma: a device that is not there is refused by the kernel."""
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"rdma": {"nosuch0": {"hcaHandles": 3}}})
    assert caught.value.config_path == "$.linux.resources.rdma.nosuch0"


@pytest.mark.parametrize(
    ("controller", "network", "file", "value"),
    [
        ("net_cls", {"classID": 1048577}, "net_cls.classid", "1048577"),
        ("net_prio", {"priorities": [{"name": "lo", "priority": 5}]}, "net_prio.ifpriomap", "lo 5"),
    ],
)
def test_network(tmp_path: Path, controller: str, network: dict[str, Any], file: str, value: str) -> None:
    """network.classID, network.priorities; the hierarchy is mounted for the test if it is not."""
    if controller not in (row.split()[0] for row in read_lines("/proc/cgroups")):
        pytest.skip(f"this kernel has no {controller} (/proc/cgroups)")
    with private_mounts():
        subprocess.run(["mount", "-t", "cgroup", "-o", controller, "none", tmp_path], check=True)
        made = LegacyCgroup({controller: f"{tmp_path}/ocipy-test-{os.getpid()}"})
        try:
            made.create()
            made.apply({"network": network}, update=True)
            assert value in read(made, controller, file).splitlines()
        finally:
            made.delete()
            # unmounted while the removed cgroup lingers, the hierarchy would outlive its mount
            until(lambda: dict(row.split()[:3:2] for row in read_lines("/proc/cgroups"))[controller] == "1")
            subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("resources", "kind", "path"),
    [
        ({"unified": {"memory.max": "1"}}, ConfigError, "unified"),
        ({"cpu": {"shares": 1}}, ConfigError, "cpu.shares"),
        ({"memory": {"swappiness": 101}}, ConfigError, "memory.swappiness"),
        ({"memory": {"useHierarchy": False}}, Error, "memory.useHierarchy"),
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
