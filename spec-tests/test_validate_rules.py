"""The rules that the schema can't express: each is broken once, and what engines write breaks none."""

from __future__ import annotations

import copy
import importlib.util
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

import ocipy.config

ROOT = Path(__file__).resolve().parent.parent
if importlib.util.find_spec("ocipy.config._table") is None:  # a source tree in which nothing was built yet
    runpy.run_path(str(ROOT / "tools" / "make_schema_table.py"))["write"](ocipy.config.__path__[0])

from ocipy.config import defaults, load, validate  # noqa: E402
from ocipy.config.bundle import validate_bundle  # noqa: E402
from ocipy.errors import ConfigError  # noqa: E402

MANY = 2**32 - 1


def typical() -> dict[str, Any]:
    """A config as engines write it, with the namespaces that the rules ask for."""
    config = defaults.spec()
    config["linux"]["namespaces"] = [
        {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
    ]
    return config


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets one property, by a path such as ``linux.devices.0.major``; None deletes it."""

    def change(config: dict[str, Any]) -> None:
        within: Any = config
        *parents, last = path.split(".")
        for step in parents:
            within = within[int(step)] if isinstance(within, list) else within.setdefault(step, {})
        if isinstance(within, list):
            within[int(last)] = value
        elif value is None:
            del within[last]
        else:
            within[last] = value

    return change


def namespaces(*entries: str, **joined: str) -> Callable[[dict[str, Any]], None]:
    """A change that sets ``linux.namespaces``: new ones by type, and joined ones by type and path."""
    listed: list[dict[str, str]] = [{"type": kind} for kind in entries]
    return put("linux.namespaces", listed + [{"type": kind, "path": path} for kind, path in joined.items()])


def both(*changes: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    def change(config: dict[str, Any]) -> None:
        for one in changes:
            one(config)

    return change


def ids(*ranges: tuple[int, int, int]) -> list[dict[str, int]]:
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in ranges]


USER = both(
    namespaces("pid", "mount", "uts", "ipc", "network", "user"),
    put("linux.uidMappings", ids((0, 1000, 10))), put("linux.gidMappings", ids((0, 1000, 10))),
)  # fmt: skip
TIME = namespaces("pid", "mount", "uts", "ipc", "network", "time")
BIND = {"destination": "/d", "source": "/s", "type": "none", "options": ["bind"]}
IDMAP = {**BIND, "options": ["bind", "idmap"]}
DEVICE = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3}
NODES = "linux.memoryPolicy"


def resource(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return put(f"linux.resources.{path}", value)


def seccomp(**members: Any) -> Callable[[dict[str, Any]], None]:
    return put("linux.seccomp", {"defaultAction": "SCMP_ACT_ALLOW", **members})


def syscall(**members: Any) -> Callable[[dict[str, Any]], None]:
    return seccomp(syscalls=[{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", **members}])


#: What the schema lets pass and a rule refuses: the change, and the one path that is named.
BROKEN_RULES: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    *((put("ociVersion", version), "$.ociVersion") for version in (
        "", "1", "1.0", "1.0.0.0", "01.0.0", "1.0.00", "1.0.0-", "1.0.0-a..b", "1.0.0-01", "1.0.0+", "1.0.0 ",
        "v1.0.0", "0.5.0-dev", "2.0.0", "10.0.0", "1.0.0-é", "1.0.0\n", "1.0.0-rc_1", "-1.0.0", "1.-0.0",
    )),
    (both(put("windows", {"layerFolders": ["a"]}), put("linux", None), put("hostname", None)), "$.windows"),
    (both(put("freebsd", {}), put("linux", None), put("hostname", None)), "$.freebsd"),
    (put("root", None), "$.root"),
    (put("root.path", ""), "$.root.path"),
    (put("process", None), "$.process"),
    (put("process.cwd", ""), "$.process.cwd"),
    (put("process.cwd", "tmp"), "$.process.cwd"),
    (put("process.args", None), "$.process.args"),
    (put("process.args", []), "$.process.args"),
    (put("process.env", ["A=1", "B"]), "$.process.env[1]"),
    (put("process.env", ["=1"]), "$.process.env[0]"),
    (put("process.consoleSize", {"height": 1, "width": 65536}), "$.process.consoleSize.width"),
    (put("process.user.uid", MANY), "$.process.user.uid"),
    (put("process.user.gid", MANY), "$.process.user.gid"),
    (put("process.user.additionalGids", [1, MANY]), "$.process.user.additionalGids[1]"),
    (put("process.user.additionalGids", [1] * 65537), "$.process.user.additionalGids"),
    (put("process.user.umask", 0o1000), "$.process.user.umask"),
    (put("process.rlimits", [{"type": "RLIMIT_FOO", "soft": 1, "hard": 1}]), "$.process.rlimits[0].type"),
    (put("process.rlimits", [{"type": "RLIMIT_CPU\n", "soft": 1, "hard": 1}]), "$.process.rlimits[0].type"),
    (put("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 1, "hard": 1}] * 2), "$.process.rlimits[1].type"),
    (put("process.rlimits", [{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), "$.process.rlimits[0].soft"),
    (put("process.oomScoreAdj", 1001), "$.process.oomScoreAdj"),
    (put("process.oomScoreAdj", -1001), "$.process.oomScoreAdj"),
    (put("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 8}), "$.process.ioPriority.priority"),
    (put("process.execCPUAffinity", {"initial": "3-1"}), "$.process.execCPUAffinity.initial"),
    (put("process.execCPUAffinity", {"final": ",-"}), "$.process.execCPUAffinity.final"),
    (put("process.execCPUAffinity", {"final": "1\n"}), "$.process.execCPUAffinity.final"),
    *((put("process.scheduler", {"policy": policy, "nice": 20}), "$.process.scheduler.nice")
      for policy in ("SCHED_OTHER", "SCHED_IDLE")),
    (put("process.scheduler", {"policy": "SCHED_OTHER", "priority": 1}), "$.process.scheduler.priority"),
    (put("process.scheduler", {"policy": "SCHED_FIFO"}), "$.process.scheduler.priority"),
    (put("process.scheduler", {"policy": "SCHED_RR", "priority": 100}), "$.process.scheduler.priority"),
    (put("process.scheduler", {"policy": "SCHED_RR", "priority": 1, "period": 1}),
     "$.process.scheduler.period"),
    (put("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 9999, "deadline": 5000}),
     "$.process.scheduler.runtime"),
    (put("hostname", "x" * 65), "$.hostname"),
    (put("hostname", "é" * 33), "$.hostname"),
    (namespaces("pid", "network", "ipc", "mount"), "$.hostname"),
    (both(put("domainname", "d"), put("hostname", None), namespaces("mount")), "$.domainname"),
    (put("hooks.poststop", [{"path": "bin/true"}]), "$.hooks.poststop[0].path"),
    (put("annotations", {"": "x"}), '$.annotations[""]'),
    (put("annotations", {"\n": 1}), '$.annotations["\\n"]'),
    (put("mounts.0.destination", ""), "$.mounts[0].destination"),
    (put("mounts.0", {"destination": "/d", "options": ["rbind"]}), "$.mounts[0].source"),
    (put("mounts.0", {**IDMAP, "uidMappings": ids((0, 0, 1))}), "$.mounts[0].gidMappings"),
    (put("mounts.0", {**IDMAP, "gidMappings": ids((0, 0, 1))}), "$.mounts[0].uidMappings"),
    (put("mounts.0", IDMAP), "$.mounts[0].options"),
    (put("mounts.0", {**IDMAP, "uidMappings": ids((0, 0, 0)), "gidMappings": ids((0, 0, 1))}),
     "$.mounts[0].uidMappings[0].size"),
    (namespaces("mount", "uts", "mount"), "$.linux.namespaces[2].type"),
    (namespaces("uts", "mount", network="ns/net"), "$.linux.namespaces[2].path"),
    (put("linux.maskedPaths", ["/a", "proc"]), "$.linux.maskedPaths[1]"),
    (put("linux.maskedPaths", ["//../."]), "$.linux.maskedPaths[0]"),
    (put("linux.readonlyPaths", [""]), "$.linux.readonlyPaths[0]"),
    (both(namespaces("uts"), put("linux.maskedPaths", None)), "$.linux.readonlyPaths"),
    (put("linux.uidMappings", ids((0, 0, 1))), "$.linux.uidMappings"),
    (both(USER, put("linux.gidMappings", None)), "$.linux.gidMappings"),
    (both(USER, put("linux.uidMappings", [])), "$.linux.uidMappings"),
    (both(USER, put("linux.uidMappings", ids((0, 1, 0)))), "$.linux.uidMappings[0].size"),
    (both(USER, put("linux.uidMappings", ids((0, 0, 5), (4, 9, 1)))), "$.linux.uidMappings[1].containerID"),
    (both(USER, put("linux.gidMappings", ids((9, 2, 1), (0, 0, 5)))), "$.linux.gidMappings[0].hostID"),
    (both(USER, put("linux.uidMappings", ids((2**31, 0, 2**31)))), "$.linux.uidMappings[0].size"),
    (both(USER, put("linux.uidMappings", ids(*((i, i, 1) for i in range(341))))), "$.linux.uidMappings"),
    (put("linux.timeOffsets.monotonic", {"secs": 1}), "$.linux.timeOffsets"),
    (both(namespaces("uts", "mount", time="/ns"), put("linux.timeOffsets.monotonic", {})),
     "$.linux.timeOffsets"),
    (both(TIME, put("linux.timeOffsets.boottime", {"nanosecs": 10**9})),
     "$.linux.timeOffsets.boottime.nanosecs"),
    (both(TIME, put("linux.timeOffsets.realtime", {"secs": 1})), "$.linux.timeOffsets.realtime"),
    (put("linux.devices", [{**DEVICE, "path": "dev/x"}]), "$.linux.devices[0].path"),
    (put("linux.devices", [{"path": "/x", "type": "b", "major": 1}]), "$.linux.devices[0].minor"),
    (put("linux.devices", [{**DEVICE, "major": -1}]), "$.linux.devices[0].major"),
    (put("linux.devices", [{**DEVICE, "minor": 2**20}]), "$.linux.devices[0].minor"),
    (put("linux.netDevices", {"a/b": {}}), '$.linux.netDevices["a/b"]'),
    (put("linux.netDevices", {"eth0": {"name": "x" * 16}}), "$.linux.netDevices.eth0.name"),
    (put("linux.netDevices", {"eth0": {"name": "a b"}}), "$.linux.netDevices.eth0.name"),
    (put("linux.netDevices", {"eth0": {"name": "e%s"}}), "$.linux.netDevices.eth0.name"),
    (put("linux.netDevices", {"eth0": {}, "eth1": {"name": "eth0"}}), "$.linux.netDevices.eth1.name"),
    (both(namespaces("mount", "uts"), put("linux.netDevices", {"eth0": {}})), "$.linux.netDevices"),
    (put("linux.cgroupsPath", "/a/../b"), "$.linux.cgroupsPath"),
    (put("linux.cgroupsPath", ".."), "$.linux.cgroupsPath"),
    *((put("linux.sysctl", {name: "1"}), f"$.linux.sysctl{shown}") for name, shown in (
        ("vm.swappiness", '["vm.swappiness"]'), ("kernel.hostname", '["kernel.hostname"]'), ("net", ".net"),
        ("user.max_ipc_namespaces", '["user.max_ipc_namespaces"]'), ("", '[""]'),
        ("net/../kernel/core_pattern", '["net/../kernel/core_pattern"]'), ("net..x", '["net..x"]'),
        ("net.x.//.y", '["net.x.//.y"]'),
    )),
    (both(put("linux.sysctl", {"net.core.somaxconn": "1"}), namespaces("mount", "uts")),
     '$.linux.sysctl["net.core.somaxconn"]'),
    (both(put("linux.sysctl", {"kernel.msgmax": "1"}), namespaces("mount", "uts")),
     '$.linux.sysctl["kernel.msgmax"]'),
    (both(put("linux.sysctl", {"kernel.domainname": "1"}), put("hostname", None), namespaces("mount")),
     '$.linux.sysctl["kernel.domainname"]'),
    *((put("linux.sysctl", {"kernel.domainname": value}), '$.linux.sysctl["kernel.domainname"]')
      for value in ("x" * 65, "a\nb")),
    (seccomp(defaultErrnoRet=1), "$.linux.seccomp.defaultErrnoRet"),
    (seccomp(listenerMetadata="x"), "$.linux.seccomp.listenerMetadata"),
    (syscall(action="SCMP_ACT_NOTIFY"), "$.linux.seccomp.listenerPath"),
    (seccomp(defaultAction="SCMP_ACT_NOTIFY", listenerPath=""), "$.linux.seccomp.listenerPath"),
    (syscall(action="SCMP_ACT_KILL", errnoRet=1), "$.linux.seccomp.syscalls[0].errnoRet"),
    (syscall(errnoRet=4096), "$.linux.seccomp.syscalls[0].errnoRet"),
    (syscall(names=["mkdir", ""]), "$.linux.seccomp.syscalls[0].names[1]"),
    (syscall(args=[{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]),
     "$.linux.seccomp.syscalls[0].args[0].index"),
    (resource("memory.limit", -2), "$.linux.resources.memory.limit"),
    (resource("memory", {"limit": 2**20, "swap": 2**19}), "$.linux.resources.memory.swap"),
    (resource("memory.swappiness", 101), "$.linux.resources.memory.swappiness"),
    (resource("cpu", {"quota": 1000, "burst": 1001}), "$.linux.resources.cpu.burst"),
    (resource("cpu.idle", 2), "$.linux.resources.cpu.idle"),
    (resource("devices", [{"allow": True, "type": "u"}]), "$.linux.resources.devices[0].type"),
    # the second of two is named as that
    (resource("devices", [{"allow": True}, {"allow": True, "type": "u"}]), "$.linux.resources.devices[1].type"),
    (put("linux.devices", [DEVICE, {**DEVICE, "path": "y"}]), "$.linux.devices[1].path"),
    (put("process.rlimits", [{"type": "RLIMIT_AS", "soft": 0, "hard": 0},
                             {"type": "RLIMIT_CORE", "soft": 1, "hard": 0}]), "$.process.rlimits[1].soft"),
    (put("process.env", ["A=1", "=2"]), "$.process.env[1]"),
    (put("process.user.additionalGids", [5, 2**32 - 1]), "$.process.user.additionalGids[1]"),
    (put("hooks", {"poststop": [{"path": "/a"}, {"path": "b"}]}), "$.hooks.poststop[1].path"),
    (put("linux.maskedPaths", ["/a", "b"]), "$.linux.maskedPaths[1]"),
    (put("linux.readonlyPaths", ["/a", "b"]), "$.linux.readonlyPaths[1]"),
    (seccomp(syscalls=[{"names": ["a"], "action": "SCMP_ACT_ALLOW"},
                       {"names": ["b"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096}]),
     "$.linux.seccomp.syscalls[1].errnoRet"),
    (resource("devices", [{"allow": True, "access": "rx"}]), "$.linux.resources.devices[0].access"),
    (resource("devices", [{"allow": True, "major": -2}]), "$.linux.resources.devices[0].major"),
    (resource("blockIO.weight", 9), "$.linux.resources.blockIO.weight"),
    (resource("blockIO.weightDevice", [{"major": 8, "minor": 0}]),
     "$.linux.resources.blockIO.weightDevice[0]"),
    (resource("blockIO.throttleReadBpsDevice", [{"major": 8, "minor": 0}]),
     "$.linux.resources.blockIO.throttleReadBpsDevice[0].rate"),
    (resource("rdma", {"mlx5_1": {}}), "$.linux.resources.rdma.mlx5_1"),
    (resource("unified", {"../x": "1"}), '$.linux.resources.unified["../x"]'),
    (resource("unified", {"memory.max": " \n"}), '$.linux.resources.unified["memory.max"]'),
    (put("linux.intelRdt.closID", ".."), "$.linux.intelRdt.closID"),
    (put("linux.intelRdt.closID", "a/b"), "$.linux.intelRdt.closID"),
    (put("linux.intelRdt.memBwSchema", "MB:0=1\n"), "$.linux.intelRdt.memBwSchema"),
    (put("linux.intelRdt.schemata", ["L3:0=f", "L3:0=1\nMB:0=1"]), "$.linux.intelRdt.schemata[1]"),
    (put(NODES, {"nodes": "0"}), "$.linux.memoryPolicy.mode"),
    (put(NODES, {"mode": "MPOL_BIND"}), "$.linux.memoryPolicy.nodes"),
    (put(NODES, {"mode": "MPOL_LOCAL", "nodes": "0"}), "$.linux.memoryPolicy.nodes"),
    (put(NODES, {"mode": "MPOL_BIND", "nodes": "a"}), "$.linux.memoryPolicy.nodes"),
    (put(NODES, {"mode": "MPOL_BIND", "nodes": "0-99999"}), "$.linux.memoryPolicy.nodes"),
    (put(NODES, {"mode": "MPOL_BIND", "nodes": "0",
                 "flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]}),
     "$.linux.memoryPolicy.flags"),
    (put("linux.personality.flags", []), "$.linux.personality.domain"),
    (put("linux.personality", {"domain": "LINUX", "flags": ["X"]}), "$.linux.personality.flags"),
    (put("process.args", ["a\0b"]), "$.process.args[0]"),
    (put("mounts.0.options", ["a\0b"]), "$.mounts[0].options[0]"),
    (put("linux.resources.unified", {"memory.high\0x": "1"}),
     '$.linux.resources.unified["memory.high\\u0000x"]'),
    (put("hostname", "\ud800"), "$.hostname"),
    (put("annotations", {"a": "\udfff"}), "$.annotations.a"),
]  # fmt: skip

#: What engines write, or the specification allows, and no rule may refuse.
ACCEPTED: list[Callable[[dict[str, Any]], None]] = [
    *(put("ociVersion", version) for version in (
        "1.0.0", "1.0.2-dev", "1.1.0-rc.1", "1.3.0+dev", "1.0.0-0a.b-c+001", "1.4.0", "1.0.0-0",
    )),
    namespaces("mount", "uts", ipc="/proc/1/ns/ipc", network=""),
    USER,
    both(namespaces("mount", "uts", user="/proc/1/ns/user"), put("linux.uidMappings", ids((0, 0, MANY)))),
    both(USER, put("mounts.0", IDMAP)),
    put("mounts.0", {**IDMAP, "uidMappings": ids((0, 0, 1)), "gidMappings": ids((0, 0, 1), (1, 1, 1))}),
    put("mounts.0.destination", "relative"),
    put("mounts.0", {"destination": "/d", "options": ["rslave"]}),
    put("hostname", ""),
    both(put("hostname", None), namespaces("mount")),
    put("hostname", "é" * 32),
    put("process.capabilities.ambient", ["CAP_FUTURE", "cap_kill"]),
    put("process.env", ["A=", "B==", "PATH=/bin"]),
    put("process.rlimits", [{"type": "RLIMIT_AS", "soft": 2**64 - 1, "hard": 2**64 - 1}]),
    both(put("process.terminal", False), put("process.consoleSize", {"height": 2**40, "width": 0})),
    put("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 2000, "deadline": 3000}),
    put("process.scheduler", {"policy": "SCHED_BATCH", "nice": -20}),
    put("process.execCPUAffinity", {"initial": "0-3, 7,", "final": ""}),
    put("linux.rootfsPropagation", "rslave"),
    put("linux.rootfsPropagation", "rshared"),
    put("linux.devices", [{**DEVICE, "fileMode": 0o20666, "uid": 0, "gid": 0}]),
    put("linux.devices", [{"path": "/dev/p", "type": "p"}, {**DEVICE, "type": "u", "major": 4095}]),
    put("linux.resources", {}),
    resource("pids", {}),
    resource("unified", {"cpuset.cpus": ""}),
    resource("pids.limit", -1),
    resource("memory", {"limit": 2**29, "swap": 2**30, "reservation": 0, "swappiness": 2**64 - 1}),
    resource("memory", {"limit": -1, "swap": -1}),
    resource("devices", [{"allow": True, "type": "", "major": -1, "minor": -1, "access": "mrw"}]),
    resource("blockIO", {"weight": 0, "leafWeight": 1000}),
    resource("cpu", {"quota": -1, "burst": 100, "shares": 2}),
    resource("cpu", {"quota": 1000, "burst": 1000, "idle": 1}),
    put("linux.sysctl", {
        "net.ipv4.ip_forward": "1", "net/ipv4/conf/eth0.100/rp_filter": "1", "kernel.shm_rmid_forced": "1",
        "net.ipv4.conf.eth0/100.rp_filter": "1", "fs.mqueue.msg_max": "1", "kernel.domainname": "d",
    }),
    put("linux.seccomp", {
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "flags": [], "syscalls": [
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            {"names": ["no_such_call"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535, "args": []},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW",
             "args": [{"index": 5, "value": 2**64 - 1, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        ],
    }),
    seccomp(listenerPath="/s", listenerMetadata="\0",
            syscalls=[{"names": ["a"], "action": "SCMP_ACT_NOTIFY"}]),
    put("linux.cgroupsPath", "system.slice:ocipy:..x"),
    put("linux.cgroupsPath", "/a..b/c"),
    both(TIME, put("linux.timeOffsets", {"monotonic": {"secs": -5, "nanosecs": 999999999}})),
    put("linux.timeOffsets", {}),
    put("linux.netDevices", {"eth0": {"name": "eth%d"}, "eth1": {"name": "eth%d"}, "x" * 15: {}}),
    put("linux.intelRdt", {"closID": "/", "schemata": ["L3:0=f"]}),
    put(NODES, {"mode": "MPOL_PREFERRED"}),
    put(NODES, {"mode": "MPOL_INTERLEAVE", "nodes": "0-1,3"}),
    put("annotations", {"a": "\0", "org.criu.config": ""}),
    put("unknown", {"\0": "\0"}),
    put("linux.unknown", [None, "\0", 1.5]),
    put("windows", {"layerFolders": ["a"]}),
    put("mounts", []),
    # both ends of every range
    put("process.oomScoreAdj", 1000),
    put("process.oomScoreAdj", -1000),
    both(put("process.terminal", True), put("process.consoleSize", {"height": 65535, "width": 65535})),
    put("process.user", {"uid": 2**32 - 2, "gid": 2**32 - 2, "umask": 0o777, "additionalGids": [2**32 - 2]}),
    put("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 0}),
    put("process.ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 7}),
    put("process.scheduler", {"policy": "SCHED_OTHER", "nice": 19}),
    put("process.scheduler", {"policy": "SCHED_FIFO", "priority": 1}),
    put("process.scheduler", {"policy": "SCHED_RR", "priority": 99}),
    put("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 1024, "deadline": 1024, "period": 1024}),
    put("process.scheduler", {"policy": "SCHED_DEADLINE", "runtime": 2**63 - 1, "deadline": 2**63 - 1,
                              "period": 2**63 - 1}),
    put("hostname", "h" * 64),
    both(USER, put("linux.uidMappings", ids((0, 0, 2**32 - 1)))),
    both(USER, put("linux.uidMappings", ids((0, 0, 5), (5, 5, 1), (2**32 - 2, 9, 1)))),
    both(USER, put("linux.uidMappings", ids(*((i, i, 1) for i in range(340))))),
    put("linux.devices", [{**DEVICE, "major": 0, "minor": 0}, {**DEVICE, "path": "/y", "minor": 0xFFFFF}]),
    put("linux.seccomp", {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095}),
    resource("memory", {"limit": 2**30, "swap": 2**30, "swappiness": 100}),
    resource("memory.swappiness", 0),
    resource("blockIO", {"weight": 1000, "leafWeight": 10}),
    both(put("linux", None), put("hostname", None)),
]  # fmt: skip


def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    config = copy.deepcopy(typical())
    change(config)
    return config


def bundle(path: Path, config: Any) -> str:
    """A bundle directory with a root filesystem and a config.json."""
    (path / "rootfs").mkdir(exist_ok=True)
    (path / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    return str(path)



@pytest.mark.parametrize(("change", "path"), BROKEN_RULES, ids=lambda v: v if isinstance(v, str) else "")
def test_rule(change: Callable[[dict[str, Any]], None], path: str, tmp_path: Path) -> None:
    config = changed(change)
    faults = validate.faults(config)
    assert [fault.config_path for fault in faults] == [path]
    assert faults[0].allowed
    assert faults[0].section.startswith(("config.md#", "config-linux.md#"))
    with pytest.raises(ConfigError) as caught:
        load.load(bundle(tmp_path, config))
    assert caught.value.config_path == path
    assert path in str(caught.value)


@pytest.mark.parametrize("change", ACCEPTED)
def test_accepted(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    config = changed(change)
    assert [fault.text for fault in validate.faults(config)] == []
    assert load.load(bundle(tmp_path, config)) == config
    assert validate_bundle(str(tmp_path)) == []
