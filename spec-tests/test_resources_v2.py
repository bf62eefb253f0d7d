"""config-linux.md#control-groups on cgroup v2: every property of linux.resources but devices, as the kernel has it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cgroup_tools
import pytest
from cgroup_tools import hog
from conftest import Cli, TestBundle
from test_cgroups_v2 import TOP, needs, needs_file, read  # and skipped with it, on another hierarchy

from ocipy.cgroups.v2.driver import UnifiedCgroup
from ocipy.errors import CgroupError, ConfigError, Error, Unsupported

#: fixtures
cgroup, prefix, start = cgroup_tools.cgroup, cgroup_tools.prefix, cgroup_tools.start


@pytest.mark.spec("config-linux#unified-2")
@pytest.mark.parametrize(
    ("resources", "name", "value"),
    [
        ({"memory": {"limit": 64 << 20}}, "memory.max", str(64 << 20)),
        ({"memory": {"limit": -1}}, "memory.max", "max"),
        ({"memory": {"reservation": 32 << 20}}, "memory.low", str(32 << 20)),
        ({"memory": {"limit": 64 << 20, "swap": 96 << 20}}, "memory.swap.max", str(32 << 20)),
        ({"memory": {"limit": 64 << 20, "swap": 64 << 20}}, "memory.swap.max", "0"),
        ({"memory": {"limit": 64 << 20, "swap": -1}}, "memory.swap.max", "max"),
        ({"memory": {"kernel": -1, "useHierarchy": True, "disableOOMKiller": False}}, "memory.max", "max"),
        ({"cpu": {"shares": 512}}, "cpu.weight", "59"),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000"),
        ({"cpu": {"quota": 50000}}, "cpu.max", "50000 100000"),
        ({"cpu": {"period": 50000}}, "cpu.max", "max 50000"),
        ({"cpu": {"quota": 20000, "burst": 10000}}, "cpu.max.burst", "10000"),
        ({"cpu": {"idle": 1, "shares": 512}}, "cpu.idle", "1"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.cpus", "0"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.mems", "0"),
        ({"pids": {"limit": 42}}, "pids.max", "42"),
        ({"pids": {"limit": -1}}, "pids.max", "max"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb.2MB.max", str(4 << 20)),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb.2MB.rsvd.max", str(4 << 20)),
        ({"memory": {"swappiness": (1 << 64) - 1}}, "memory.max", "max"),
        ({"unified": {"memory.high": "1073741824"}}, "memory.high", "1073741824"),
        ({"unified": {"cgroup.max.depth": "3"}}, "cgroup.max.depth", "3"),
        ({"blockIO": {"weight": 500}}, "io.bfq.weight", "default 500"),
    ],
)
def test_values(cgroup: UnifiedCgroup, resources: dict[str, Any], name: str, value: str) -> None:
    needs_file(cgroup, name)
    cgroup.apply(resources, update=True)
    assert read(cgroup, name).splitlines()[0] == value


@needs("cpuset")
def test_unified_cpuset_emptied(cgroup: UnifiedCgroup) -> None:
    """unified: an empty value is written too, and a cpuset without CPUs has its parent's."""
    cgroup.apply({"unified": {"cpuset.cpus": "0"}}, update=True)
    cgroup.apply({"unified": {"cpuset.cpus": ""}}, update=True)
    assert read(cgroup, "cpuset.cpus") == ""


@needs("io")
def test_throttling_and_weights(cgroup: UnifiedCgroup) -> None:
    needs_file(cgroup, "io.max")
    names = sorted(os.listdir("/sys/block"))
    if not names:
        pytest.skip("this host has no block device")
    major, minor = (int(n) for n in Path("/sys/block", names[0], "dev").read_text().split(":"))
    device = {"major": major, "minor": minor}
    cgroup.apply(
        {
            "blockIO": {
                "throttleReadBpsDevice": [{**device, "rate": 1048576}],
                "throttleWriteIOPSDevice": [{**device, "rate": 100}],
            }
        },
        update=True,
    )
    assert read(cgroup, "io.max") == f"{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"
    cgroup.apply(
        {"unified": {"io.max": f"{major}:{minor} riops=7\n{major}:{minor} wbps=2097152"}}, update=True
    )
    assert read(cgroup, "io.max") == f"{major}:{minor} rbps=1048576 wbps=2097152 riops=7 wiops=100"
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 0, "rate": 1}]}})
    assert caught.value.config_path == "$.linux.resources.blockIO.throttleReadBpsDevice[0]"
    if not any(Path(cgroup.directory, n).exists() for n in ("io.bfq.weight", "io.weight")):
        with pytest.raises(Unsupported, match=r"this kernel has no io.weight"):
            cgroup.apply({"blockIO": {"weight": 500}})


@needs("cpu")
def test_cpu_updates(cgroup: UnifiedCgroup) -> None:
    cgroup.apply({"cpu": {"quota": 50000, "period": 200000}}, update=True)
    cgroup.apply({"cpu": {"quota": 60000}}, update=True)
    assert read(cgroup, "cpu.max") == "60000 200000"
    cgroup.apply({"cpu": {"period": 100000}}, update=True)
    assert read(cgroup, "cpu.max") == "60000 100000"
    needs_file(cgroup, "cpu.max.burst")
    for quota, burst in ((10000, 10000), (50000, 50000), (20000, 5000)):
        cgroup.apply({"cpu": {"quota": quota, "burst": burst}}, update=True)
        assert read(cgroup, "cpu.max.burst") == str(burst)
    needs_file(cgroup, "cpu.idle")
    for _ in range(2):
        cgroup.apply({"cpu": {"idle": 1, "shares": 512}}, update=True)
    with pytest.raises(CgroupError, match="idle cgroup has no shares"):
        cgroup.apply({"cpu": {"shares": 512}}, update=True)
    cgroup.apply({"cpu": {"idle": 0, "shares": 512}}, update=True)
    assert read(cgroup, "cpu.weight") == "59"


@needs("memory")
def test_an_update_of_swap_alone(cgroup: UnifiedCgroup) -> None:
    needs_file(cgroup, "memory.swap.max")
    cgroup.apply({"memory": {"swap": 96 << 20}}, update=True)
    assert read(cgroup, "memory.swap.max") == str(96 << 20)  # no memory limit
    cgroup.apply({"memory": {"limit": 64 << 20}}, update=True)
    cgroup.apply({"memory": {"swap": 96 << 20}}, update=True)
    assert read(cgroup, "memory.swap.max") == str(32 << 20)
    with pytest.raises(ConfigError, match="should be >= memory limit"):
        cgroup.apply({"memory": {"swap": 32 << 20}}, update=True)


@pytest.mark.spec("config-linux#memory-2")
@needs("memory")
def test_check_before_update(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = hog(start, cgroup, 32 << 20)
    process.stdout.readline()
    for memory, words, key in (
        ({"limit": 8 << 20}, "rejecting memory limit 8388608 <= usage", "limit"),
        ({"limit": 256 << 20, "swap": 8 << 20}, "rejecting memory.swap limit 8388608 <= usage", "swap"),
    ):
        with pytest.raises(CgroupError, match=words) as caught:
            cgroup.apply({"memory": {**memory, "checkBeforeUpdate": True}}, update=True)
        assert caught.value.config_path == f"$.linux.resources.memory.{key}"
    cgroup.apply({"memory": {"limit": 256 << 20, "checkBeforeUpdate": True}}, update=True)
    assert process.poll() is None
    assert cgroup.oom_kills() == 0


@pytest.mark.spec("config-linux#huge-page-limits-2", "config-linux#unified-3", "config-linux#unified-4")
@pytest.mark.parametrize(
    ("resources", "kind", "path"),
    [
        ({"memory": {"kernel": 1 << 30}}, Unsupported, "memory.kernel"),
        ({"memory": {"kernelTCP": 1 << 30}}, Unsupported, "memory.kernelTCP"),
        ({"memory": {"swappiness": 10}}, Unsupported, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, Unsupported, "memory.disableOOMKiller"),
        ({"memory": {"useHierarchy": False}}, Unsupported, "memory.useHierarchy"),
        ({"memory": {"limit": 100 << 20, "swap": 50 << 20}}, ConfigError, "memory.swap"),
        ({"cpu": {"realtimeRuntime": 1000}}, Unsupported, "cpu.realtimeRuntime"),
        ({"cpu": {"realtimePeriod": 1000}}, Unsupported, "cpu.realtimePeriod"),
        ({"blockIO": {"leafWeight": 500}}, Unsupported, "blockIO.leafWeight"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 5}]}}, Unsupported,
         "blockIO.weightDevice[0].leafWeight"),
        ({"network": {"classID": 1}}, Unsupported, "network.classID"),
        ({"network": {"priorities": [{"name": "lo", "priority": 5}]}}, Unsupported, "network.priorities"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, Unsupported, "hugepageLimits[0]"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, ConfigError, "hugepageLimits[0].pageSize"),
        ({"unified": {"../x": "1"}}, ConfigError, "unified"),
        ({"unified": {"nothing": "1"}}, ConfigError, 'unified["nothing"]'),
        ({"unified": {"absent.max": "1"}}, Unsupported, 'unified["absent.max"]'),
        ({"unified": {"cgroup.absent": "1"}}, Unsupported, 'unified["cgroup.absent"]'),
        ({"unified": {"cgroup.max.depth": "x"}}, CgroupError, 'unified["cgroup.max.depth"]'),
        ({"devices": [{"allow": True, "type": "x", "access": "r"}]}, ConfigError, "devices[0].type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    cgroup: UnifiedCgroup, resources: dict[str, Any], kind: type[Error], path: str
) -> None:
    with pytest.raises(kind) as caught:
        cgroup.apply(resources, update=True)
    assert caught.value.config_path == f"$.linux.resources.{path}"


@needs("rdma")
def test_rdma(cgroup: UnifiedCgroup) -> None:
    """rdma: a device that is not there is refused by the kernel."""
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"rdma": {"nosuch0": {"hcaHandles": 3, "hcaObjects": 5}}}, update=True)
    assert caught.value.config_path == "$.linux.resources.rdma.nosuch0"
    assert "nosuch0 hca_handle=3 hca_object=5" in caught.value.message


@needs("misc")
def test_unified_of_any_controller(cgroup: UnifiedCgroup) -> None:
    """unified: files that nothing here knows are written all the same; a wrong value is the kernel's to refuse."""
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"unified": {"misc.max": "nosuch 5"}}, update=True)
    assert caught.value.config_path == '$.linux.resources.unified["misc.max"]'


@needs("memory")
def test_a_memory_limit_alone_keeps_the_total(cli: Cli, bundle: TestBundle) -> None:
    """memory.swap is memory and swap together: an update of memory.limit leaves it at that, as on v1 and with runc."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 64 << 20, "swap": 96 << 20}}
    name = cli.create(bundle.args("sleep", "60"))
    lines = Path(f"/proc/{cli.state(name)['pid']}/cgroup").read_text()
    directory = Path(TOP + lines.partition("0::")[2].strip())
    if not (directory / "memory.swap.max").exists():
        pytest.skip("this kernel has no memory.swap.max")

    def limits(*flags: str, code: int = 0) -> list[str]:
        words = cli("update", *flags, name, code=code).stderr
        values = [(directory / f).read_text().strip() for f in ("memory.max", "memory.swap.max")]
        return [words.strip(), *values] if code else [str(int(v) >> 20) if v.isdigit() else v for v in values]

    assert limits("--memory", "80M") == ["80", "16"]
    assert limits("--memory-swap", "100M") == ["80", "20"]
    assert limits("--memory", "70M") == ["70", "30"]
    words, *values = limits("--memory", "200M", code=1)
    assert "memory.swap: memory+swap limit should be >= memory limit" in words
    assert values == [str(70 << 20), str(30 << 20)]
    assert limits("--memory", "-1") == ["max", "max"]
    assert limits("--memory", "200M") == ["200", "max"]


def test_nothing_asked_for_nothing_refused(cgroup: UnifiedCgroup) -> None:
    empty: dict[str, Any] = {
        "memory": {"swappiness": None}, "cpu": {"shares": 0}, "pids": {}, "blockIO": {"weight": 0},
        "network": {"classID": 0, "priorities": []}, "hugepageLimits": [], "rdma": {}, "unified": {},
    }  # fmt: skip
    cgroup.apply(empty, update=True)
    cgroup.apply({}, update=True)
