"""What the specification asks of a config's author: a config that has all sections is broken in one place, and create
refuses it by the path of that place, with nothing left behind."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from conftest import BASE, Cli, TestBundle, fresh_id

GONE = object()
IDS = [{"containerID": 0, "hostID": 0, "size": 65536}]
NODE = {"major": 8, "minor": 0}
#: a valid config in which everything is there that the cases take away
WHOLE: dict[str, Any] = copy.deepcopy(BASE)
WHOLE["process"] |= {
    "consoleSize": {"height": 24, "width": 80},
    "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    "scheduler": {"policy": "SCHED_BATCH"},
    "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
}
WHOLE["hooks"] = {
    kind: [{"path": "/bin/true", "timeout": 5}]
    for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
}
WHOLE["annotations"] = {"org.example": "x"}
WHOLE["mounts"][0] |= {"options": ["nosuid"]}
WHOLE["mounts"].append(
    {"destination": "/m", "source": "/tmp", "options": ["bind", "idmap"], "uidMappings": IDS, "gidMappings": IDS}
)
WHOLE["linux"]["namespaces"].append({"type": "user"})
WHOLE["linux"] |= {
    "uidMappings": copy.deepcopy(IDS),
    "gidMappings": copy.deepcopy(IDS),
    "devices": [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
    "memoryPolicy": {"mode": "MPOL_PREFERRED"},
    "personality": {"domain": "LINUX"},
    "intelRdt": {"memBwSchema": "MB:0=100", "schemata": ["L3:0=f"]},
    "seccomp": {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {
                "names": ["mkdir"], "action": "SCMP_ACT_ERRNO",
                "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}],
            }
        ],
    },
    "resources": {
        "devices": [{"allow": False}],
        "cpu": {"quota": 10000, "burst": 1000},
        "blockIO": {
            "weightDevice": [NODE | {"weight": 100}],
            "throttleReadBpsDevice": [NODE | {"rate": 1000}],
            "throttleWriteBpsDevice": [NODE | {"rate": 1000}],
            "throttleReadIOPSDevice": [NODE | {"rate": 1000}],
            "throttleWriteIOPSDevice": [NODE | {"rate": 1000}],
        },
        "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
        "network": {"priorities": [{"name": "lo", "priority": 1}]},
        "rdma": {"mlx5_1": {"hcaHandles": 1}},
    },
}  # fmt: skip


def change(config: dict[str, Any], place: str, value: Any) -> None:
    """Set or delete the property at a place such as ``linux.devices.0.path``."""
    within: Any = config
    *parents, last = place.split(".")
    for step in parents:
        within = within[int(step) if isinstance(within, list) else step]
    if value is GONE:
        del within[last]
    else:
        within[int(last) if isinstance(within, list) else last] = value


def path(place: str) -> str:
    """The place as errors write it: ``$.linux.devices[0].path``."""
    return "$" + "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in place.split("."))


def check(cli: Cli, bundle: TestBundle, place: str, value: Any, where: str = "") -> None:
    bundle.config = copy.deepcopy(WHOLE)
    change(bundle.config, place, value)
    done = cli("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    assert done.stderr.splitlines()[-1].startswith(f"ocipy: {where or path(place)}: found "), done.stderr
    assert not cli.root.exists() or list(cli.root.iterdir()) == []


def test_the_whole_config_is_valid(cli: Cli, bundle: TestBundle) -> None:
    """Otherwise the cases below could be refused for something else."""
    bundle.config = copy.deepcopy(WHOLE)
    assert cli("validate", str(bundle.save())).stdout == ""


@pytest.mark.parametrize(
    "place",
    [
        pytest.param("ociVersion", marks=pytest.mark.spec("config#specification-version-1")),
        pytest.param("root", marks=pytest.mark.spec("config#root-3")),
        pytest.param("root.path", marks=pytest.mark.spec("config#root-4")),
        pytest.param("mounts.1.destination", marks=pytest.mark.spec("config#mounts-2")),
        pytest.param("mounts.5.gidMappings", marks=pytest.mark.spec("config#posix-platform-mounts-3")),
        pytest.param("mounts.5.uidMappings", marks=pytest.mark.spec("config#posix-platform-mounts-4")),
        pytest.param("process", marks=pytest.mark.spec("config#process-1", "runtime#start-4")),
        pytest.param("process.consoleSize.height", marks=pytest.mark.spec("config#process-3")),
        pytest.param("process.consoleSize.width", marks=pytest.mark.spec("config#process-4")),
        pytest.param("process.cwd", marks=pytest.mark.spec("config#process-5")),
        pytest.param("process.args", marks=pytest.mark.spec("config#process-7")),
        pytest.param("process.rlimits.0.type", marks=pytest.mark.spec("config#posix-process-1")),
        pytest.param("process.rlimits.0.soft", marks=pytest.mark.spec("config#posix-process-4")),
        pytest.param("process.rlimits.0.hard", marks=pytest.mark.spec("config#posix-process-6")),
        pytest.param("process.scheduler.policy", marks=pytest.mark.spec("config#linux-process-5")),
        pytest.param("process.ioPriority.class", marks=pytest.mark.spec("config#linux-process-7")),
        pytest.param("process.ioPriority.priority", marks=pytest.mark.spec("config#linux-process-8")),
        pytest.param("hooks.prestart.0.path", marks=pytest.mark.spec("config#posix-platform-hooks-1")),
        pytest.param("hooks.createRuntime.0.path", marks=pytest.mark.spec("config#posix-platform-hooks-6")),
        pytest.param("hooks.createContainer.0.path", marks=pytest.mark.spec("config#posix-platform-hooks-6")),
        pytest.param("hooks.startContainer.0.path", marks=pytest.mark.spec("config#posix-platform-hooks-6")),
        pytest.param("hooks.poststart.0.path", marks=pytest.mark.spec("config#posix-platform-hooks-6")),
        pytest.param("hooks.poststop.0.path", marks=pytest.mark.spec("config#posix-platform-hooks-6")),
        pytest.param("linux.namespaces.0.type", marks=pytest.mark.spec("config-linux#namespaces-1")),
        pytest.param(
            "linux.uidMappings.0.containerID", marks=pytest.mark.spec("config-linux#user-namespace-mappings-1")
        ),
        pytest.param(
            "linux.gidMappings.0.hostID", marks=pytest.mark.spec("config-linux#user-namespace-mappings-2")
        ),
        pytest.param("linux.uidMappings.0.size", marks=pytest.mark.spec("config-linux#user-namespace-mappings-3")),
        pytest.param("linux.devices.0.type", marks=pytest.mark.spec("config-linux#devices-2")),
        pytest.param("linux.devices.0.path", marks=pytest.mark.spec("config-linux#devices-3")),
        pytest.param("linux.devices.0.major", marks=pytest.mark.spec("config-linux#devices-5")),
        pytest.param("linux.devices.0.minor", marks=pytest.mark.spec("config-linux#devices-5")),
        pytest.param("linux.resources.devices.0.allow", marks=pytest.mark.spec("config-linux#allowed-device-list-2")),
        pytest.param(
            "linux.resources.blockIO.weightDevice.0.major", marks=pytest.mark.spec("config-linux#block-io-1")
        ),
        pytest.param(
            "linux.resources.blockIO.weightDevice.0.minor", marks=pytest.mark.spec("config-linux#block-io-1")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleReadBpsDevice.0.major", marks=pytest.mark.spec("config-linux#block-io-3")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleWriteBpsDevice.0.minor", marks=pytest.mark.spec("config-linux#block-io-3")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleReadBpsDevice.0.rate", marks=pytest.mark.spec("config-linux#block-io-4")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleWriteBpsDevice.0.rate", marks=pytest.mark.spec("config-linux#block-io-4")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleReadIOPSDevice.0.major", marks=pytest.mark.spec("config-linux#block-io-5")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleWriteIOPSDevice.0.minor",
            marks=pytest.mark.spec("config-linux#block-io-5"),
        ),
        pytest.param(
            "linux.resources.blockIO.throttleReadIOPSDevice.0.rate", marks=pytest.mark.spec("config-linux#block-io-6")
        ),
        pytest.param(
            "linux.resources.blockIO.throttleWriteIOPSDevice.0.rate",
            marks=pytest.mark.spec("config-linux#block-io-6"),
        ),
        pytest.param(
            "linux.resources.hugepageLimits.0.pageSize", marks=pytest.mark.spec("config-linux#huge-page-limits-1")
        ),
        pytest.param(
            "linux.resources.hugepageLimits.0.limit", marks=pytest.mark.spec("config-linux#huge-page-limits-3")
        ),
        pytest.param("linux.resources.network.priorities.0.name", marks=pytest.mark.spec("config-linux#network-1")),
        pytest.param(
            "linux.resources.network.priorities.0.priority", marks=pytest.mark.spec("config-linux#network-2")
        ),
        pytest.param("linux.memoryPolicy.mode", marks=pytest.mark.spec("config-linux#memory-policy-1")),
        pytest.param("linux.personality.domain", marks=pytest.mark.spec("config-linux#personality-1")),
        pytest.param("linux.seccomp.defaultAction", marks=pytest.mark.spec("config-linux#seccomp-1")),
        pytest.param("linux.seccomp.syscalls.0.names", marks=pytest.mark.spec("config-linux#seccomp-8")),
        pytest.param("linux.seccomp.syscalls.0.action", marks=pytest.mark.spec("config-linux#seccomp-10")),
        pytest.param("linux.seccomp.syscalls.0.args.0.index", marks=pytest.mark.spec("config-linux#seccomp-12")),
        pytest.param("linux.seccomp.syscalls.0.args.0.value", marks=pytest.mark.spec("config-linux#seccomp-13")),
        pytest.param("linux.seccomp.syscalls.0.args.0.op", marks=pytest.mark.spec("config-linux#seccomp-14")),
    ],
)
def test_missing(cli: Cli, bundle: TestBundle, place: str) -> None:
    """Properties that are required, here or where another one is."""
    check(cli, bundle, place, GONE)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        pytest.param("ociVersion", "1.3", marks=pytest.mark.spec("config#specification-version-2")),
        pytest.param("ociVersion", "v1.3.0", marks=pytest.mark.spec("config#specification-version-2")),
        pytest.param("ociVersion", "1.03.0", marks=pytest.mark.spec("config#specification-version-2")),
        pytest.param("process.cwd", "tmp", marks=pytest.mark.spec("config#process-6")),
        pytest.param("process.args", [], marks=pytest.mark.spec("config#process-7")),
        pytest.param("process.rlimits.0.type", "RLIMIT_X", marks=pytest.mark.spec("config#posix-process-2")),
        pytest.param("hooks.prestart.0.path", "bin/true", marks=pytest.mark.spec("config#posix-platform-hooks-2")),
        pytest.param("hooks.prestart.0.timeout", 0, marks=pytest.mark.spec("config#posix-platform-hooks-3")),
        pytest.param("hooks.prestart.0.timeout", -1, marks=pytest.mark.spec("config#posix-platform-hooks-3")),
        pytest.param("hooks.createRuntime.0.path", "true", marks=pytest.mark.spec("config#posix-platform-hooks-7")),
        pytest.param("hooks.createContainer.0.path", "", marks=pytest.mark.spec("config#posix-platform-hooks-7")),
        pytest.param("hooks.startContainer.0.path", "./x", marks=pytest.mark.spec("config#posix-platform-hooks-7")),
        pytest.param("hooks.poststart.0.path", "true", marks=pytest.mark.spec("config#posix-platform-hooks-7")),
        pytest.param("hooks.poststop.0.path", "../x", marks=pytest.mark.spec("config#posix-platform-hooks-7")),
        pytest.param("hooks.createRuntime.0.timeout", 0, marks=pytest.mark.spec("config#posix-platform-hooks-8")),
        pytest.param("hooks.createContainer.0.timeout", 0, marks=pytest.mark.spec("config#posix-platform-hooks-8")),
        pytest.param("hooks.startContainer.0.timeout", -1, marks=pytest.mark.spec("config#posix-platform-hooks-8")),
        pytest.param("hooks.poststart.0.timeout", 0, marks=pytest.mark.spec("config#posix-platform-hooks-8")),
        pytest.param("hooks.poststop.0.timeout", 0, marks=pytest.mark.spec("config#posix-platform-hooks-8")),
        pytest.param("annotations", ["x"], marks=pytest.mark.spec("config#annotations-1")),
        pytest.param("annotations.org", 1, marks=pytest.mark.spec("config#annotations-9")),
        pytest.param("linux.maskedPaths.0", "proc/keys", marks=pytest.mark.spec("config-linux#masked-paths-1")),
        pytest.param("linux.readonlyPaths.0", "proc/sys", marks=pytest.mark.spec("config-linux#readonly-paths-1")),
        pytest.param("linux.seccomp.syscalls.0.names", [], marks=pytest.mark.spec("config-linux#seccomp-9")),
        pytest.param("linux.seccomp.defaultErrnoRet", 1, marks=pytest.mark.spec("config-linux#seccomp-2")),
        pytest.param("linux.seccomp.listenerMetadata", "x", marks=pytest.mark.spec("config-linux#seccomp-7")),
        pytest.param("linux.resources.cpu.burst", 10001, marks=pytest.mark.spec("config-linux#cpu-1")),
        pytest.param(
            "linux.resources.blockIO.weightDevice.0", NODE, marks=pytest.mark.spec("config-linux#block-io-2")
        ),
        pytest.param("linux.resources.rdma.mlx5_1", {}, marks=pytest.mark.spec("config-linux#rdma-1")),
        pytest.param("linux.intelRdt.memBwSchema", "L3:0=f", marks=pytest.mark.spec("config-linux#intelrdt-6")),
        pytest.param("linux.intelRdt.memBwSchema", "MB:0=1\n", marks=pytest.mark.spec("config-linux#intelrdt-6")),
        pytest.param("linux.intelRdt.schemata.0", "L3:0=f\nL2:0=1", marks=pytest.mark.spec("config-linux#intelrdt-7")),
    ],
)
def test_wrong(cli: Cli, bundle: TestBundle, place: str, value: Any) -> None:
    """Values that the specification excludes."""
    check(cli, bundle, place, value)


@pytest.mark.parametrize(
    ("place", "value", "where"),
    [
        pytest.param("annotations", {"": "x"}, '$.annotations[""]', marks=pytest.mark.spec("config#annotations-3")),
        pytest.param(
            "linux.namespaces.0", {"type": "pid", "path": "ns/pid"}, "$.linux.namespaces[0].path",
            marks=pytest.mark.spec("config-linux#namespaces-3"),
        ),
        pytest.param(
            "process.rlimits", [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2, "$.process.rlimits[1].type",
            marks=pytest.mark.spec("config#posix-process-8"),
        ),
        pytest.param(
            "linux.seccomp.syscalls.0", {"names": ["mkdir"], "action": "SCMP_ACT_KILL", "errnoRet": 1},
            "$.linux.seccomp.syscalls[0].errnoRet", marks=pytest.mark.spec("config-linux#seccomp-11"),
        ),
    ],
)  # fmt: skip
def test_wrong_inside(cli: Cli, bundle: TestBundle, place: str, value: Any, where: str) -> None:
    """The same, where the path of the fault is below what is changed."""
    check(cli, bundle, place, value, where)
