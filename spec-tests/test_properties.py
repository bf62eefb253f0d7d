"""No property is ignored: each one of the schema changes what is done, or is refused with its config path.

The schema is walked, so a property that is added to it fails here until something is done with it. Each of them is
given two values in turn: the plans of the two configs differ, or what is written to the cgroup does; or one is
refused by name. What shows in neither names the test that shows it.
"""

from __future__ import annotations

import ast
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE

import ocipy.config
from ocipy import plan
from ocipy.cgroups.v1 import resources as v1_resources
from ocipy.cgroups.v2 import resources as v2_resources
from ocipy.config.load import verify
from ocipy.errors import Error
from ocipy.host import Host, parse_cgroups

SCHEMAS = Path(ocipy.config.__path__[0]) / "schemas"
HOST = Host(parse_cgroups("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n"), 0, False)
HOST.units = {"cpu/online": "0-1", "node/has_memory": "0-1"}
ABSENT = object()
OTHER_PLATFORMS = {"windows", "solaris", "vm", "zos", "freebsd"}

# --- the schema's properties ---


def schema_properties() -> set[str]:
    """The paths of all properties that hold no others: ``linux.devices[].path``, ``linux.sysctl{}``."""
    documents = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    found: set[str] = set()

    def resolve(file: str, node: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        while "$ref" in node:
            name, _, fragment = node["$ref"].partition("#")
            file = name or file
            node = documents[file]
            for key in filter(None, fragment.split("/")):
                node = node[key]
        return file, node

    def walk(file: str, node: dict[str, Any], path: str) -> None:
        below = []
        parts = [(file, node)]
        for place, part in parts:  # grows as it goes
            place, part = resolve(place, part)
            parts += [(place, more) for key in ("allOf", "anyOf", "oneOf") for more in part.get(key, ())]
            for key, value in part.get("properties", {}).items():
                if path or key not in OTHER_PLATFORMS:
                    below.append((place, value, f"{path}.{key}".lstrip(".")))
            for key, suffix in (("additionalProperties", "{}"), ("items", "[]")):
                if isinstance(part.get(key), dict):
                    below.append((place, part[key], path + suffix))
            below += [(place, value, path + "{}") for value in part.get("patternProperties", {}).values()]
        for place, value, name in below:
            walk(place, value, name)
        if not below:
            found.add(path)

    walk("config.schema.json", documents["config.schema.json"], "")
    return found


# --- two values for each ---

#: what must be around a property for it to make sense: merged into the config first
AROUND: dict[str, dict[str, Any]] = {
    "hooks.createContainer[]": {"path": "/a"},
    "hooks.startContainer[]": {"path": "/a"},
    "linux.devices[]": {"path": "/dev/a", "type": "c", "major": 1, "minor": 3},
    "linux.uidMappings[]": {"containerID": 0, "hostID": 1000, "size": 10},
    "linux.gidMappings[]": {"containerID": 0, "hostID": 1000, "size": 10},
    "linux.namespaces[]": {"type": "cgroup"},
    "linux.netDevices{}": {"name": "eth7"},
    "linux.memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0"},
    "linux.personality": {"domain": "LINUX32"},
    "linux.resources.devices[]": {"allow": True, "type": "c", "major": 10, "minor": 3, "access": "r"},
    "linux.resources.hugepageLimits[]": {"pageSize": "2MB", "limit": 4096},
    "linux.resources.network.priorities[]": {"name": "lo", "priority": 1},
    "linux.resources.blockIO.weightDevice[]": {"major": 8, "minor": 0, "weight": 100, "leafWeight": 100},
    **{
        f"linux.resources.blockIO.throttle{kind}Device[]": {"major": 8, "minor": 0, "rate": 1000}
        for kind in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
    },
    "linux.resources.memory": {"limit": 1 << 30},
    "linux.resources.rdma{}": {"hcaHandles": 1, "hcaObjects": 1},
    "linux.resources.cpu": {"quota": 50000, "period": 100000},
    "linux.seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86"]},
    "linux.seccomp.syscalls[]": {"names": ["chmod"], "action": "SCMP_ACT_TRACE"},
    "linux.seccomp.syscalls[].args[]": {"index": 0, "value": 1, "valueTwo": 1, "op": "SCMP_CMP_MASKED_EQ"},
    "mounts[]": {"destination": "/a", "type": "tmpfs", "source": "a"},
    "mounts[].uidMappings[]": {"containerID": 0, "hostID": 1000, "size": 10},
    "mounts[].gidMappings[]": {"containerID": 0, "hostID": 1000, "size": 10},
    "process.consoleSize": {"height": 20, "width": 80},
    "process.ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 1},
    "process.rlimits[]": {"type": "RLIMIT_CORE", "soft": 1, "hard": 2},
    "process.scheduler": {"policy": "SCHED_FIFO", "priority": 1},
}

#: a mount that has maps already: it needs both
MAPPED = {
    "destination": "/a", "source": "/a", "options": ["bind"],
    **{key: [{"containerID": 100, "hostID": 5000, "size": 1}] for key in ("uidMappings", "gidMappings")},
}  # fmt: skip

#: property -> two values, between which what is done must change
VALUES: dict[str, tuple[Any, Any]] = {
    "domainname": (ABSENT, "d.example"),
    "hostname": ("a", "b"),
    "ociVersion": ("1.0.0", "2.0.0"),
    **{f"hooks.{kind}[].path": ("/a", "/b") for kind in ("createContainer", "startContainer")},
    **{f"hooks.{kind}[].args[]": ("a", "b") for kind in ("createContainer", "startContainer")},
    **{f"hooks.{kind}[].env[]": ("A=1", "A=2") for kind in ("createContainer", "startContainer")},
    **{f"hooks.{kind}[].timeout": (1, 2) for kind in ("createContainer", "startContainer")},
    "linux.devices[].path": ("/dev/a", "/dev/b"),
    "linux.devices[].type": ("c", "b"),
    "linux.devices[].major": (1, 2),
    "linux.devices[].minor": (1, 2),
    "linux.devices[].fileMode": (0o600, 0o666),
    "linux.devices[].uid": (1, 2),
    "linux.devices[].gid": (1, 2),
    "linux.maskedPaths[]": ("/a", "/b"),
    "linux.memoryPolicy.mode": ("MPOL_BIND", "MPOL_INTERLEAVE"),
    "linux.memoryPolicy.nodes": ("0", "0-1"),
    "linux.memoryPolicy.flags[]": ("MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"),
    "linux.mountLabel": (ABSENT, "system_u:object_r:container_file_t:s0"),
    "linux.namespaces[].path": (ABSENT, "/proc/1/ns/cgroup"),
    "linux.namespaces[].type": ("time", "cgroup"),
    "linux.personality.domain": ("LINUX", "LINUX32"),
    "linux.personality.flags[]": (ABSENT, "ADDR_NO_RANDOMIZE"),
    "linux.readonlyPaths[]": ("/a", "/b"),
    "linux.resources.blockIO.leafWeight": (ABSENT, 300),
    "linux.resources.blockIO.weight": (ABSENT, 300),
    "linux.resources.blockIO.weightDevice[].major": (8, 9),
    "linux.resources.blockIO.weightDevice[].minor": (0, 16),
    "linux.resources.blockIO.weightDevice[].weight": (100, 200),
    "linux.resources.blockIO.weightDevice[].leafWeight": (100, 200),
    **{
        f"linux.resources.blockIO.throttle{kind}Device[].{key}": values
        for kind in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
        for key, values in (("major", (8, 9)), ("minor", (0, 16)), ("rate", (1000, 2000)))
    },
    "linux.resources.cpu.burst": (ABSENT, 1000),
    "linux.resources.cpu.cpus": (ABSENT, "0"),
    "linux.resources.cpu.idle": (ABSENT, 1),
    "linux.resources.cpu.mems": (ABSENT, "0"),
    "linux.resources.cpu.period": (100000, 50000),
    "linux.resources.cpu.quota": (50000, 60000),
    "linux.resources.cpu.realtimePeriod": (ABSENT, 1000000),
    "linux.resources.cpu.realtimeRuntime": (ABSENT, 1000),
    "linux.resources.cpu.shares": (100, 200),
    "linux.resources.devices[].access": ("r", "rw"),
    "linux.resources.devices[].allow": (False, True),
    "linux.resources.devices[].major": (10, 11),
    "linux.resources.devices[].minor": (1, 2),
    "linux.resources.devices[].type": ("c", "b"),
    "linux.resources.hugepageLimits[].limit": (4096, 8192),
    "linux.resources.hugepageLimits[].pageSize": ("2MB", "1GB"),
    "linux.resources.memory.checkBeforeUpdate": (ABSENT, True),
    "linux.resources.memory.disableOOMKiller": (False, True),
    "linux.resources.memory.kernel": (ABSENT, 1 << 20),
    "linux.resources.memory.kernelTCP": (ABSENT, 1 << 20),
    "linux.resources.memory.limit": (1 << 30, 1 << 31),
    "linux.resources.memory.reservation": (ABSENT, 1 << 20),
    "linux.resources.memory.swap": (1 << 31, 1 << 32),
    "linux.resources.memory.swappiness": (ABSENT, 10),
    "linux.resources.memory.useHierarchy": (ABSENT, False),
    "linux.resources.network.classID": (ABSENT, 7),
    "linux.resources.network.priorities[].name": ("lo", "eth0"),
    "linux.resources.network.priorities[].priority": (1, 2),
    "linux.resources.pids.limit": (10, 20),
    "linux.resources.rdma{}.hcaHandles": (1, 2),
    "linux.resources.rdma{}.hcaObjects": (1, 2),
    "linux.resources.unified{}": ("10", "20"),
    "linux.rootfsPropagation": ("private", "shared"),
    "linux.seccomp.architectures[]": ("SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "linux.seccomp.defaultAction": ("SCMP_ACT_ERRNO", "SCMP_ACT_TRAP"),
    "linux.seccomp.defaultErrnoRet": (1, 2),
    "linux.seccomp.listenerPath": (ABSENT, "/a"),
    "linux.seccomp.flags[]": ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    "linux.seccomp.syscalls[].action": ("SCMP_ACT_ALLOW", "SCMP_ACT_TRAP"),
    "linux.seccomp.syscalls[].errnoRet": (1, 2),
    "linux.seccomp.syscalls[].names[]": ("chmod", "chown"),
    "linux.seccomp.syscalls[].args[].index": (0, 1),
    "linux.seccomp.syscalls[].args[].op": ("SCMP_CMP_EQ", "SCMP_CMP_NE"),
    "linux.seccomp.syscalls[].args[].value": (1, 3),
    "linux.seccomp.syscalls[].args[].valueTwo": (1, 0),
    "linux.sysctl{}": ("1", "2"),
    "linux.timeOffsets.boottime.nanosecs": (1, 2),
    "linux.timeOffsets.boottime.secs": (1, 2),
    "linux.timeOffsets.monotonic.nanosecs": (1, 2),
    "linux.timeOffsets.monotonic.secs": (1, 2),
    "mounts[].destination": ("/a", "/b"),
    **{f"mounts[].{kind}Mappings[].{key}": values for kind in ("uid", "gid")
       for key, values in (("containerID", (0, 1)), ("hostID", (1000, 2000)), ("size", (10, 20)))},
    "mounts[].options[]": ("ro", "rw"),
    "mounts[].source": ("a", "b"),
    "mounts[].type": ("tmpfs", "ramfs"),
    "process.apparmorProfile": (ABSENT, "a"),
    "process.args[]": ("a", "b"),
    "process.capabilities.ambient[]": ("CAP_KILL", "CAP_MKNOD"),
    **{f"process.capabilities.{name}[]": ("CAP_KILL", "CAP_MKNOD")
       for name in ("bounding", "effective", "inheritable", "permitted")},
    "process.consoleSize.height": (20, 25),
    "process.consoleSize.width": (80, 90),
    "process.cwd": ("/a", "/b"),
    "process.env[]": ("A=1", "A=2"),
    "process.ioPriority.class": ("IOPRIO_CLASS_BE", "IOPRIO_CLASS_RT"),
    "process.ioPriority.priority": (1, 2),
    "process.noNewPrivileges": (False, True),
    "process.oomScoreAdj": (1, 2),
    "process.rlimits[].hard": (2, 3),
    "process.rlimits[].soft": (1, 2),
    "process.rlimits[].type": ("RLIMIT_CORE", "RLIMIT_CPU"),
    **{f"process.scheduler.{name}": (3000000, 3500000) for name in ("runtime", "deadline")},
    "process.scheduler.flags[]": ("SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM"),
    "process.scheduler.nice": (1, 2),
    "process.scheduler.period": (5000000, 6000000),
    "process.scheduler.policy": ("SCHED_OTHER", "SCHED_BATCH"),
    "process.scheduler.priority": (1, 2),
    "process.selinuxLabel": (ABSENT, "system_u:system_r:container_t:s0"),
    "process.terminal": (False, True),
    "process.user.additionalGids[]": (1, 2),
    "process.user.gid": (1, 2),
    "process.user.uid": (1, 2),
    "process.user.umask": (1, 2),
    "root.path": ("a", "b"),
    "root.readonly": (False, True),
}  # fmt: skip

#: what else a property needs: other sections of the config
ALSO: dict[str, Any] = {
    "linux.timeOffsets": {"linux": {"namespaces": [{"type": "time"}]}},
    "process.consoleSize": {"process": {"terminal": True}},
    "linux.seccomp.listener": {"linux": {"seccomp": AROUND["linux.seccomp"] | {
        "syscalls": [{"names": ["chmod"], "action": "SCMP_ACT_NOTIFY"}]}}},
    "process.capabilities.ambient": {"process": {"capabilities": {
        name: ["CAP_KILL", "CAP_MKNOD"] for name in ("permitted", "inheritable")}}},
    "process.scheduler.nice": {"process": {"scheduler": {"policy": "SCHED_OTHER"}}},
    "process.scheduler.policy": {"process": {"scheduler": {"nice": 1}}},
    **{f"process.scheduler.{name}": {"process": {"scheduler": {
        "policy": "SCHED_DEADLINE", "runtime": 2000000, "deadline": 4000000, "period": 5000000}}}
       for name in ("runtime", "deadline", "period")},
}

#: key of a map, where it must be a special one
KEYS = {"linux.sysctl": "net.ipv4.ip_forward", "linux.resources.unified": "pids.max", "linux.resources.rdma": "mlx5_0"}

#: properties whose effect is neither in the plan nor in the cgroup, and the test that shows it
SHOWN: dict[str, str] = {
    "annotations{}": "test_hooks.py::test_large_state",
    **{f"hooks.{kind}[].{key}": f"test_hooks.py::{test}"
       for kind in ("prestart", "createRuntime", "poststart", "poststop")
       for key, test in (("path", "test_path_alone"), ("args[]", "test_args"), ("env[]", "test_env"),
                         ("timeout", "test_timeout"))},
    "linux.netDevices{}.name": "test_net_devices.py::test_names",
    "process.execCPUAffinity.final": "test_exec_affinity.py::test_final",
    "process.execCPUAffinity.initial": "test_exec_affinity.py::test_initial_before_the_cgroup",
    "linux.seccomp.listenerMetadata": "test_seccomp_notify.py::test_init",
    "linux.intelRdt.closID": "test_intel_rdt.py::test_an_existing_class",
    "linux.intelRdt.schemata[]": "test_intel_rdt.py::test_the_order_of_schemata",
    "linux.intelRdt.l3CacheSchema": "test_intel_rdt.py::test_the_order_of_schemata",
    "linux.intelRdt.memBwSchema": "test_intel_rdt.py::test_the_order_of_schemata",
    "linux.intelRdt.enableMonitoring": "test_intel_rdt.py::test_monitoring",
    "linux.cgroupsPath": "test_cgroup_values.py::test_hybrid_places_one_directory_per_hierarchy",
    **{f"linux.{kind}Mappings[].{key}": "test_namespaces.py::test_root_elsewhere"
       for kind in ("uid", "gid") for key in ("containerID", "hostID", "size")},
}  # fmt: skip

#: Windows' own, that Linux has no use for (config.md#process, config.md#windows-user)
WINDOWS = {"process.commandLine", "process.user.username"}


def build(path: str, value: Any) -> dict[str, Any]:
    """The base config with a property, and what must be around it."""
    config = copy.deepcopy(BASE)
    for prefix, more in ALSO.items():
        if path.startswith(prefix):
            for section, values in more.items():
                for key, item in values.items():
                    old = config[section].get(key)
                    if isinstance(old, list):
                        config[section][key] = [*old, *item]
                    elif isinstance(old, dict):
                        config[section][key] = old | item
                    else:
                        config[section][key] = copy.deepcopy(item)
    node: Any = config
    walked = ""
    steps = path.replace("[]", ".[]").replace("{}", ".{}").split(".")
    for step, after in zip(steps, [*steps[1:], ""], strict=True):
        key: Any = step
        if step == "{}":
            key = KEYS.get(walked, "dummy0")
        elif step == "[]":
            key = len(node)
        walked += step if step in ("[]", "{}") else f".{step}".lstrip("." if not walked else "")
        if not after:
            if value is ABSENT:
                if isinstance(node, dict):
                    node.pop(key, None)
            elif isinstance(node, list):
                node.append(value)
            else:
                node[key] = value
            break
        fresh: Any = [] if after == "[]" else {}
        around = copy.deepcopy(MAPPED if walked == "mounts[]" and "Mappings" in path else AROUND.get(walked))
        if isinstance(node, list):
            node.append(around if around is not None else fresh)
        elif around is not None:
            node[key] = node.get(key) or around
        else:
            node.setdefault(key, fresh)
        node = node[key]
    return config


class Files:
    """A directory that looks like a cgroup of either version, to see what is written."""

    NAMES = (
        *(f"memory.{n}" for n in (
            "max", "low", "swap.max", "current", "limit_in_bytes", "memsw.limit_in_bytes", "soft_limit_in_bytes",
            "kmem.limit_in_bytes", "kmem.tcp.limit_in_bytes", "oom_control", "swappiness", "use_hierarchy",
            "usage_in_bytes", "max_usage_in_bytes")),
        *(f"cpu.{n}" for n in (
            "max", "max.burst", "weight", "idle", "shares", "cfs_quota_us", "cfs_period_us", "cfs_burst_us",
            "rt_period_us", "rt_runtime_us")),
        "cpuset.cpus", "cpuset.mems", "pids.max", "rdma.max", "net_cls.classid", "net_prio.ifpriomap",
        *(f"blkio.{n}" for n in (
            "weight", "leaf_weight", "weight_device", "leaf_weight_device", "bfq.weight", "bfq.weight_device",
            "throttle.read_bps_device", "throttle.write_bps_device", "throttle.read_iops_device",
            "throttle.write_iops_device")),
        "io.max", "io.weight", "io.bfq.weight", "cgroup.controllers", "devices.allow", "devices.deny",
        *(f"hugetlb.{size}.{n}" for size in ("2MB", "1GB") for n in (
            "max", "rsvd.max", "limit_in_bytes", "rsvd.limit_in_bytes")),
    )  # fmt: skip

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in self.NAMES:
            (path / name).write_text("")
        (path / "memory.current").write_text(f"{1 << 40}\n")

    def content(self) -> dict[str, str]:
        return {name: (self.path / name).read_text() for name in self.NAMES}


def outcome(config: dict[str, Any], directory: Path) -> tuple[Any, str]:
    """What would be done: (everything that shows it, path of the property that was refused or "")."""
    try:
        verify(config)
        compiled = plan.compile(config, HOST, plan.Options("/bundle", "c", {"": "/sys/fs/cgroup/c"}))
        shown: list[Any] = [compiled.encode(), compiled.clone_flags, compiled.given, compiled.id_maps]
    except Error as error:
        return str(error), error.config_path
    resources = config["linux"].get("resources")
    if resources:
        return [resources_outcome(resources, directory), *shown], ""
    return shown, ""


def resources_outcome(resources: dict[str, Any], directory: Path) -> list[Any]:
    shown: list[Any] = []
    controllers = "cpu cpuset memory pids blkio net_cls net_prio hugetlb rdma devices".split()
    for version in "v1", "v2":
        place = directory / version
        place.mkdir()
        files = Files(place)
        try:
            if version == "v1":
                paths = dict.fromkeys(controllers, str(place))
                v1_resources.apply(paths, resources, False, "$.linux.resources", False)
            else:
                (place / "cgroup.controllers").write_text(" ".join(controllers))
                v2_resources.apply(str(place), {k: v for k, v in resources.items() if k != "devices"}, True,
                                   "$.linux.resources")  # fmt: skip
            shown.append(files.content())
        except Error as error:
            shown.append((str(error), error.config_path))
    return shown


PROPERTIES = sorted(schema_properties() - WINDOWS)


@pytest.mark.parametrize("path", PROPERTIES)
def test_no_property_is_ignored(path: str, tmp_path: Path) -> None:
    if path in SHOWN:
        file, _, name = SHOWN[path].partition("::")
        tree = ast.parse((Path(__file__).parent / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        return
    first, second = VALUES[path]
    results = []
    for number, value in enumerate((first, second)):
        directory = tmp_path / str(number)
        directory.mkdir()
        done, refused = outcome(build(path, value), directory)
        # an object may be refused as a whole, as long as it is the one that this property is in
        allowed = "$." + path.replace("[]", "").replace("{}", "")
        plain = "".join(part for part in refused.replace("[", "]").split("]") if not part.isdigit())
        assert allowed.startswith(plain) or plain.startswith(allowed), (refused, done)
        results.append(done)
    assert refused or results[0] != results[1], f"{path} makes no difference: {first!r} or {second!r}"
