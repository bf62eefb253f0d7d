"""``linux.resources`` written to cgroup v1 hierarchies: one function per controller.

A value of 0 means "not set" wherever runc has it so (the spec's Go types once had no other way to say it).
A limit that is -1, none, is satisfied where there is no such limit. Anything else that this host can't do
is an error with its config path.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENOENT, ENOTSUP, EPERM

from ocipy.cgroups import convert
from ocipy.cgroups.fs import number, put
from ocipy.errors import ConfigError, Unsupported
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

THROTTLES = (
    ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
    ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
    ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
    ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
)


def apply(
    paths: dict[str, str], resources: dict[str, Any], update: bool, where: str, optional: bool
) -> None:
    """See :meth:`ocipy.cgroups.base.Cgroup.apply`."""
    if resources.get("unified"):
        raise ConfigError(
            "invalid configuration: cannot use unified on cgroup v1", phase="cgroup",
            config_path=f"{where}.unified",
        )
    target = _Target(paths, where, optional)
    if not update or "devices" in resources:
        _devices(target, resources.get("devices") or [], update)
    for key, section in (
        ("memory", _memory),
        ("cpu", _cpu),
        ("pids", _pids),
        ("blockIO", _block_io),
        ("network", _network),
    ):
        values = resources.get(key)
        if values:
            section(target, values, update)
    _huge_pages(target, resources.get("hugepageLimits") or [])
    _rdma(target, resources.get("rdma") or {})


def _beside(paths: dict[str, str], controller: str) -> str:
    """The cgroup2 directory, if a controller is there (hybrid: newer ones are often mounted nowhere as v1), enabled
    down to it; else ""."""
    if controller in paths or "" not in paths:
        return ""
    from ocipy import host
    from ocipy.cgroups.v2.driver import UnifiedCgroup

    top = next((h.mountpoint for h in host.cgroups().hierarchies if h.unified), "")
    if not top or controller not in os.read_text(f"{top}/cgroup.controllers").split():
        return ""
    UnifiedCgroup({"": paths[""]}, top=top).enable([controller])
    return paths[""]


class _Target:
    """Where to write, and how to say what went wrong."""

    def __init__(self, paths: dict[str, str], where: str, optional: bool) -> None:
        self.paths = paths
        self.where = where
        self.optional = optional

    def directory(self, controller: str, key: str) -> str:
        directory = self.paths.get(controller)
        if directory is None:
            from ocipy.cgroups.refusals import no_controller

            raise no_controller(controller, f"{self.where}.{key}", self.optional)
        return directory

    def write(self, controller: str, name: str, value: object, key: str) -> None:
        """Write, or raise."""
        refusal = put(self.directory(controller, key), name, str(value))
        if refusal:
            self.refused(controller, name, value, key, refusal)

    def attempt(self, controller: str, name: str, value: object, key: str, *expected: int) -> int:
        """Write; an expected error number is returned rather than raised."""
        refusal = put(self.directory(controller, key), name, str(value))
        if refusal and refusal not in expected:
            self.refused(controller, name, value, key, refusal)
        return refusal

    def refused(self, controller: str, name: str, value: object, key: str, refusal: int) -> None:
        from ocipy.cgroups.refusals import write_refused

        directory = self.directory(controller, key)
        raise write_refused(directory, name, str(value), refusal, f"{self.where}.{key}")


def _memory(target: _Target, memory: dict[str, Any], update: bool) -> None:
    if memory.get("useHierarchy") is not None:  # first: it can't change once there are limits and children
        target.write(
            "memory", "memory.use_hierarchy", int(memory["useHierarchy"]), "memory.useHierarchy"
        )
    limit = memory.get("limit") or 0
    swap = memory.get("swap") or 0
    lift = limit == -1 and swap == 0  # no word about swap: lift that too, where the kernel accounts for it
    if lift and not target.attempt("memory", "memory.memsw.limit_in_bytes", -1, "memory.limit", ENOENT):
        target.write("memory", "memory.limit_in_bytes", -1, "memory.limit")
        limit = 0
    # memory.limit <= memory.memsw.limit must hold after each write, so the order depends on what is set
    # now: the limit first fits a fresh cgroup and one being lowered; EINVAL says that it is being raised.
    if limit and _limit(target, limit, bool(swap)) == EINVAL:
        _swap(target, swap)
        _limit(target, limit, False)
    elif swap:
        _swap(target, swap)
    if memory.get("reservation"):
        target.write(
            "memory", "memory.soft_limit_in_bytes", memory["reservation"], "memory.reservation"
        )
    for key, name in (("kernel", "memory.kmem"), ("kernelTCP", "memory.kmem.tcp")):
        value = memory.get(key)
        if value:
            _kernel_memory(target, name, value, f"memory.{key}")
    swappiness = convert.swappiness(memory)
    if swappiness is not None:
        if not 0 <= swappiness <= 100:
            raise ConfigError(
                f"invalid memory swappiness value: {swappiness} (valid range is 0-100)", phase="cgroup",
                config_path=f"{target.where}.memory.swappiness",
            )
        target.write("memory", "memory.swappiness", swappiness, "memory.swappiness")
    disable = memory.get("disableOOMKiller")
    if disable or (update and disable is False):
        target.write("memory", "memory.oom_control", int(disable), "memory.disableOOMKiller")


def _limit(target: _Target, limit: int, retried: bool) -> int:
    expected = (EBUSY, EINVAL) if retried else (EBUSY,)
    refusal = target.attempt("memory", "memory.limit_in_bytes", limit, "memory.limit", *expected)
    if refusal == EBUSY:
        from ocipy.cgroups.refusals import memory_busy

        raise memory_busy(
            target.directory("memory", "memory.limit"), str(limit), "memory.usage_in_bytes",
            "memory.max_usage_in_bytes", f"{target.where}.memory.limit",
        )
    return refusal


def _swap(target: _Target, swap: int) -> None:
    expected = (ENOENT,) if swap < 0 else ()  # no swap accounting, no limit
    target.attempt("memory", "memory.memsw.limit_in_bytes", swap, "memory.swap", *expected)


def _kernel_memory(target: _Target, name: str, value: int, key: str) -> None:
    # Newer kernels have none: the file takes any number and keeps it not, refuses (ENOTSUP), or is gone.
    file = f"{name}.limit_in_bytes"
    refusal = target.attempt("memory", file, value, key, ENOENT, ENOTSUP)
    if value > 0 and (refusal or number(target.directory("memory", key), file) > value):
        raise Unsupported(
            f"this kernel has no limit for {name}", phase="cgroup", config_path=f"{target.where}.{key}"
        )


def _cpu(target: _Target, cpu: dict[str, Any], update: bool) -> None:
    if cpu.get("cpus"):
        target.write("cpuset", "cpuset.cpus", cpu["cpus"], "cpu.cpus")
    if cpu.get("mems"):
        target.write("cpuset", "cpuset.mems", cpu["mems"], "cpu.mems")
    # Realtime first: it must be there before a realtime process comes in.
    _pair(
        target, ("cpu.rt_period_us", cpu.get("realtimePeriod") or 0, "cpu.realtimePeriod"),
        ("cpu.rt_runtime_us", cpu.get("realtimeRuntime") or 0, "cpu.realtimeRuntime"),
    )
    idle = cpu.get("idle")
    if idle == 0:  # before the shares: an idle group has none
        target.attempt("cpu", "cpu.idle", 0, "cpu.idle", ENOENT)
    if cpu.get("shares"):
        shares = convert.checked_shares(cpu["shares"], f"{target.where}.cpu.shares")
        # An idle group's weight is fixed: the kernel refuses to change it, and nothing is lost.
        target.attempt("cpu", "cpu.shares", shares, "cpu.shares", *((EINVAL,) if idle else ()))
    quota = cpu.get("quota") or 0
    burst = cpu.get("burst")
    late = False
    if burst is not None:
        expected = ((ENOENT,) if burst == 0 else ()) + ((EINVAL,) if quota else ())
        late = target.attempt("cpu", "cpu.cfs_burst_us", burst, "cpu.burst", *expected) == EINVAL
    _pair(
        target, ("cpu.cfs_period_us", cpu.get("period") or 0, "cpu.period"),
        ("cpu.cfs_quota_us", quota, "cpu.quota"),
    )
    if late:  # larger than the quota before
        target.write("cpu", "cpu.cfs_burst_us", burst, "cpu.burst")
    if idle:
        target.write("cpu", "cpu.idle", idle, "cpu.idle")


def _pair(target: _Target, period: tuple[str, int, str], share: tuple[str, int, str]) -> None:
    """Write a period and the time out of it (0: not set).

    Time by period must fit the parent's after each write: a period that is refused (EINVAL) may do after
    the time was set.
    """
    late = False
    if period[1]:
        expected = (EINVAL,) if share[1] else ()
        late = target.attempt("cpu", *period, *expected) == EINVAL
    if share[1]:
        target.write("cpu", *share)
    if late:
        target.write("cpu", *period)


def _pids(target: _Target, pids: dict[str, Any], update: bool) -> None:
    limit = pids.get("limit")
    if limit is not None:
        target.write("pids", "pids.max", convert.pids_max(limit), "pids.limit")


def _block_io(target: _Target, block_io: dict[str, Any], update: bool) -> None:
    if block_io.get("weight"):
        _bfq(target, "blkio.weight", "blkio.bfq.weight", block_io["weight"], "blockIO.weight")
    if block_io.get("leafWeight"):
        target.write("blkio", "blkio.leaf_weight", block_io["leafWeight"], "blockIO.leafWeight")
    for index, device in enumerate(block_io.get("weightDevice") or ()):
        number = f"{device['major']}:{device['minor']}"
        key = f"blockIO.weightDevice[{index}]"
        if device.get("weight"):
            line = f"{number} {device['weight']}"
            _bfq(target, "blkio.weight_device", "blkio.bfq.weight_device", line, key)
        if device.get("leafWeight"):
            target.write("blkio", "blkio.leaf_weight_device", f"{number} {device['leafWeight']}", key)
    for name, file in THROTTLES:
        for index, device in enumerate(block_io.get(name) or ()):
            # The kernel keeps operations in 32 bits, of which it takes the low ones: 2^32 would be none at all.
            most = 2**32 - 1 if "IOPS" in name else 2**64 - 1
            target.write("blkio", file, convert.rate_line(device, most), f"blockIO.{name}[{index}]")


def _bfq(target: _Target, cfq: str, bfq: str, value: object, key: str) -> None:
    """Write to the CFQ scheduler's file, or to BFQ's, which followed it in 5.0."""
    if target.attempt("blkio", cfq, value, key, ENOENT):
        target.write("blkio", bfq, value, key)


def _network(target: _Target, network: dict[str, Any], update: bool) -> None:
    if network.get("classID"):
        target.write("net_cls", "net_cls.classid", network["classID"], "network.classID")
    for index, entry in enumerate(network.get("priorities") or ()):
        target.write(
            "net_prio", "net_prio.ifpriomap", f"{entry['name']} {entry['priority']}",
            f"network.priorities[{index}]",
        )


def _huge_pages(target: _Target, limits: list[dict[str, Any]]) -> None:
    directory = _beside(target.paths, "hugetlb") if limits else ""
    if directory:
        from ocipy.cgroups.v2 import resources as v2_resources

        v2_resources.huge_pages(v2_resources.Target(directory, target.where), limits)
        return
    for index, entry in enumerate(limits):
        key = f"hugepageLimits[{index}]"
        size = convert.file_part(entry["pageSize"], f"{target.where}.{key}.pageSize")
        target.write("hugetlb", f"hugetlb.{size}.limit_in_bytes", entry["limit"], key)
        # Reservations are limited too, since 5.7: they fail where the process asks, not by SIGBUS later.
        target.attempt("hugetlb", f"hugetlb.{size}.rsvd.limit_in_bytes", entry["limit"], key, ENOENT)


def _rdma(target: _Target, devices: dict[str, Any]) -> None:
    directory = _beside(target.paths, "rdma") if devices else ""
    if directory:
        from ocipy.cgroups.v2 import resources as v2_resources

        v2_resources.rdma(v2_resources.Target(directory, target.where), devices)
        return
    for device, limits in devices.items():
        target.write("rdma", "rdma.max", convert.rdma_max(device, limits), f"rdma.{device}")


def _devices(target: _Target, devices: list[dict[str, Any]], update: bool) -> None:
    from ocipy.cgroups import device_rules

    where = f"{target.where}.devices"
    wanted = device_rules.state(device_rules.rules(devices, where), where)
    if "devices" not in target.paths and target.optional:
        return  # rootless: who may not make nodes needs no rules about them
    directory = target.directory("devices", "devices")
    old = None
    if update:
        old = device_rules.parse_list(os.read_text(f"{directory}/devices.list"))
    files: dict[str, int] = {}
    try:
        for name, line in device_rules.transition(old, wanted):
            if name not in files:
                files[name] = os.open(f"{directory}/{name}", os.O_WRONLY | os.O_CLOEXEC)
            os.write(files[name], line.encode())
    except OSError as error:
        from ocipy.cgroups.refusals import privileged

        if error.errno in (EACCES, EPERM) and not privileged():
            return  # who may not write device rules may not make device nodes either
        target.refused("devices", name, line, "devices", error.errno or 0)
    finally:
        for fd in files.values():
            os.close(fd)
