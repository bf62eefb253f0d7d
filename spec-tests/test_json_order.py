"""The keys of what is printed as JSON stand in the order of runc's: people and scripts compare texts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Cli, TestBundle

STATE = ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
MEMORY = ["limit", "usage", "max", "failcnt"]
#: path below the event -> keys, of runc 1.5 (those of one hierarchy are left out in the other)
STATS = {
    "": ["type", "id", "data"],
    "data": ["cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"],
    "data.cpu": ["usage", "throttling", "psi"],
    "data.cpu.usage": ["total", "percpu", "percpu_kernel", "percpu_user", "kernel", "user"],
    "data.cpu.throttling": ["periods", "throttledPeriods", "throttledTime"],
    "data.cpuset": [
        "cpus", "cpu_exclusive", "mems", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
        "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
    ],
    "data.memory": ["cache", "usage", "swap", "kernel", "kernelTCP", "raw", "psi"],
    "data.memory.usage": MEMORY,
    "data.memory.swap": MEMORY,
    "data.memory.kernel": MEMORY,
    "data.memory.kernelTCP": MEMORY,
    "data.pids": ["current", "limit"],
}  # fmt: skip
FEATURES = {
    "": ["ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux", "annotations",
         "potentiallyUnsafeConfigAnnotations"],
    "linux": ["namespaces", "capabilities", "cgroup", "seccomp", "apparmor", "selinux", "intelRdt", "memoryPolicy",
              "mountExtensions", "netDevices"],
    "linux.cgroup": ["v1", "v2", "systemd", "systemdUser", "rdma"],
    "linux.seccomp": ["enabled", "actions", "operators", "archs", "knownFlags", "supportedFlags"],
    "linux.intelRdt": ["enabled", "schemata", "monitoring"],
    "linux.memoryPolicy": ["modes", "flags"],
}  # fmt: skip
SPEC = {
    "": ["ociVersion", "process", "root", "hostname", "mounts", "linux"],
    "process": ["terminal", "user", "args", "env", "cwd", "capabilities", "rlimits", "noNewPrivileges"],
    "process.user": ["uid", "gid"],
    "process.capabilities": ["bounding", "effective", "permitted"],
    "root": ["path", "readonly"],
    "linux": ["resources", "namespaces", "maskedPaths", "readonlyPaths"],
}


def at(document: dict[str, Any], path: str) -> dict[str, Any]:
    for key in filter(None, path.split(".")):
        document = document[key]
    return document


def wrong(document: dict[str, Any], order: dict[str, list[str]]) -> dict[str, list[str]]:
    """The keys that don't stand in their order, by path."""
    found = {path: list(at(document, path)) for path in order}
    return {path: keys for path, keys in found.items() if keys != [key for key in order[path] if key in keys]}


@pytest.fixture(name="name")
def name_fixture(cli: Cli, bundle: TestBundle) -> Iterator[str]:
    bundle.config["annotations"] = {"b": "1", "a": "2", "c": '\n  "status": "created",'}
    name = cli.start(bundle.args("sleep", "1000"))
    yield name
    cli("delete", "--force", name)


@pytest.mark.parametrize("flags", [[], ["--debug"]], ids=["brief", "interpreter"])
def test_state(cli: Cli, name: str, flags: list[str]) -> None:
    """Of both ways to print it; annotations by name, and none where there are none."""
    state = json.loads(cli(*flags, "state", name).stdout)
    assert list(state) == STATE
    assert list(state["annotations"]) == ["a", "b", "c"]
    assert state["pid"] > 1
    assert state["status"] == "running"


def test_state_without_annotations(cli: Cli, bundle: TestBundle) -> None:
    assert list(cli.state(cli.create(bundle))) == [key for key in STATE if key != "annotations"]


def test_list(cli: Cli, name: str) -> None:
    [row] = json.loads(cli("list", "--format", "json").stdout)
    assert row["id"] == name
    assert list(row) == STATE


def test_events(cli: Cli, name: str) -> None:
    event = json.loads(cli("events", "--stats", name).stdout)
    assert wrong(event, STATS) == {}
    for path in ("data.memory.raw", "data.hugetlb"):
        assert list(at(event, path)) == sorted(at(event, path))


def test_features(cli: Cli) -> None:
    assert wrong(json.loads(cli("features").stdout), FEATURES) == {}


def test_spec(cli: Cli, tmp_path: Any) -> None:
    cli("spec", "--bundle", str(tmp_path))
    assert wrong(json.loads((tmp_path / "config.json").read_text()), SPEC) == {}
