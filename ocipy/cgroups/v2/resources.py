"""``linux.resources`` written to a cgroup of v2: one function per controller.

The spec's numbers are those of v1: :mod:`ocipy.cgroups.convert` translates. A value of 0 means "not set"
wherever runc has it so. What v2 can't do is an error with its config path, unless asking for it changes
nothing (``disableOOMKiller: false``, ``useHierarchy: true``, no limit where there is none).
"""

from __future__ import annotations

from errno import EINVAL, ENOENT

from ocipy.cgroups import convert
from ocipy.cgroups.fs import number, put
from ocipy.errors import CgroupError, ConfigError, Unsupported
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def apply(directory: str, resources: dict[str, Any], update: bool, where: str) -> None:
    """See :meth:`ocipy.cgroups.base.Cgroup.apply`."""
    if not directory:
        asked = next((key for key, value in resources.items() if value and key != "devices"), "")
        if asked:
            from ocipy.cgroups.refusals import no_controller

            raise no_controller(asked, f"{where}.{asked}", True)
        return
    target = Target(directory, where)
    for key, section in (
        ("pids", _pids),
        ("memory", _memory),
        ("blockIO", _block_io),
        ("cpu", _cpu),
        ("network", _network),
    ):
        values = resources.get(key)
        if values:
            section(target, values)
    if not update or "devices" in resources:
        from ocipy.cgroups.v2.devices import apply as apply_devices

        apply_devices(directory, resources.get("devices") or [], f"{where}.devices")
    huge_pages(target, resources.get("hugepageLimits") or [])
    rdma(target, resources.get("rdma") or {})
    _unified(target, resources.get("unified") or {})


class Target:
    """Where to write, and how to say what went wrong."""

    def __init__(self, directory: str, where: str) -> None:
        self.directory = directory
        self.where = where

    def write(self, name: str, value: object, key: str) -> None:
        """Write, or raise."""
        self.attempt(name, value, key)

    def attempt(self, name: str, value: object, key: str, *expected: int) -> int:
        """Write; an expected error number is returned rather than raised."""
        refusal = put(self.directory, name, str(value))
        if refusal and refusal not in expected:
            from ocipy.cgroups.refusals import write_refused

            raise write_refused(self.directory, name, str(value), refusal, f"{self.where}.{key}")
        return refusal

    def unsupported(self, key: str) -> Unsupported:
        return Unsupported(
            f"{key} does not exist on cgroup v2", phase="cgroup", config_path=f"{self.where}.{key}"
        )


def _pids(target: Target, pids: dict[str, Any]) -> None:
    limit = pids.get("limit")
    if limit is not None:
        target.write("pids.max", convert.pids_max(limit), "pids.limit")


def _memory(target: Target, memory: dict[str, Any]) -> None:
    for key in ("kernel", "kernelTCP"):
        if (memory.get(key) or 0) > 0:
            raise target.unsupported(f"memory.{key}")
    if convert.swappiness(memory) is not None:
        raise target.unsupported("memory.swappiness")
    if memory.get("disableOOMKiller"):
        raise target.unsupported("memory.disableOOMKiller")
    if memory.get("useHierarchy") is False:
        raise target.unsupported("memory.useHierarchy")
    limit = memory.get("limit") or 0
    swap = memory.get("swap") or 0
    if memory.get("checkBeforeUpdate"):
        _check_usage(target, limit, swap)
    if swap > 0 and limit == 0:  # an update of swap alone: with the memory limit that is set
        try:
            present = number(target.directory, "memory.max")
        except OSError:
            present = 0
        swap_text = convert.swap_max(
            swap, -1 if present >= 1 << 63 else present, f"{target.where}.memory.swap"
        )
    else:
        swap_text = convert.swap_max(swap, limit, f"{target.where}.memory.swap")
    if swap_text:
        # Without swap accounting none is limited ("max"), and without swap none is used ("0").
        expected = (ENOENT,) if swap_text in ("0", "max") else ()
        target.attempt("memory.swap.max", swap_text, "memory.swap", *expected)
    if limit:
        target.write("memory.max", convert.limit_text(limit), "memory.limit")
    if memory.get("reservation"):
        target.write(
            "memory.low", convert.limit_text(memory["reservation"]), "memory.reservation"
        )


def _check_usage(target: Target, limit: int, swap: int) -> None:
    """Refuse a limit below the usage, as v1 does; v2 would have the OOM killer make room."""
    try:
        usage = number(target.directory, "memory.current")
    except OSError:
        return  # no controller: the limit will be refused for that
    for value, name, key in ((swap, "memory+swap", "swap"), (limit, "memory", "limit")):
        if 0 < value <= usage:
            raise CgroupError(
                f"rejecting {name} limit {value} <= usage {usage}",
                config_path=f"{target.where}.memory.{key}",
            )


def _block_io(target: Target, block_io: dict[str, Any]) -> None:
    if block_io.get("leafWeight"):
        raise target.unsupported("blockIO.leafWeight")
    weight = block_io.get("weight")
    if weight:
        _weight(target, "", weight, "blockIO.weight")
    for index, device in enumerate(block_io.get("weightDevice") or ()):
        key = f"blockIO.weightDevice[{index}]"
        if device.get("leafWeight"):
            raise target.unsupported(f"{key}.leafWeight")
        if device.get("weight"):
            _weight(target, f"{device['major']}:{device['minor']} ", device["weight"], key)
    for line, key in convert.io_max(block_io):
        target.write("io.max", line, f"blockIO.{key}")


def _weight(target: Target, device: str, weight: int, key: str) -> None:
    """Write a weight for BFQ where that is the scheduler, else for the io.cost model."""
    if target.attempt("io.bfq.weight", f"{device}{weight}", key, ENOENT):
        target.write("io.weight", f"{device}{convert.io_weight(weight)}", key)


def _cpu(target: Target, cpu: dict[str, Any]) -> None:
    for key in ("realtimeRuntime", "realtimePeriod"):
        if cpu.get(key):
            raise target.unsupported(f"cpu.{key}")
    if cpu.get("cpus"):
        target.write("cpuset.cpus", cpu["cpus"], "cpu.cpus")
    if cpu.get("mems"):
        target.write("cpuset.mems", cpu["mems"], "cpu.mems")
    idle = cpu.get("idle")
    if idle == 0:  # before the weight: an idle group has none
        target.attempt("cpu.idle", 0, "cpu.idle", ENOENT)
    if cpu.get("shares"):
        # An idle group's weight is fixed: the kernel refuses to change it, and nothing is lost.
        expected = (EINVAL,) if idle else ()
        target.attempt("cpu.weight", convert.cpu_weight(cpu["shares"]), "cpu.shares", *expected)
    quota, period, burst = cpu.get("quota") or 0, cpu.get("period") or 0, cpu.get("burst")
    late = False
    if burst is not None:
        allowed = ((ENOENT,) if burst == 0 else ()) + ((EINVAL,) if quota else ())
        late = target.attempt("cpu.max.burst", burst, "cpu.burst", *allowed) == EINVAL
    if quota or period:
        current = "max"
        if not quota:
            try:
                current = os.read_text(f"{target.directory}/cpu.max")
            except OSError:
                pass  # no controller: the write says so
        target.write(
            "cpu.max", convert.cpu_max(quota, period, current), "cpu.quota" if quota else "cpu.period"
        )
    if late:  # larger than the quota before
        target.write("cpu.max.burst", burst, "cpu.burst")
    if idle:
        target.write("cpu.idle", idle, "cpu.idle")


def _network(target: Target, network: dict[str, Any]) -> None:
    for key in ("classID", "priorities"):
        if network.get(key):
            raise target.unsupported(f"network.{key}")


def huge_pages(target: Target, limits: list[dict[str, Any]]) -> None:
    """Write ``hugepageLimits``."""
    for index, entry in enumerate(limits):
        key = f"hugepageLimits[{index}]"
        size = convert.file_part(entry["pageSize"], f"{target.where}.{key}.pageSize")
        target.write(f"hugetlb.{size}.max", entry["limit"], key)
        # Reservations are limited too, since 5.7: they fail where the process asks, not by SIGBUS later.
        target.attempt(f"hugetlb.{size}.rsvd.max", entry["limit"], key, ENOENT)


def rdma(target: Target, devices: dict[str, Any]) -> None:
    """Write ``rdma``."""
    for device, limits in devices.items():
        target.write("rdma.max", convert.rdma_max(device, limits), f"rdma.{device}")


def _unified(target: Target, unified: dict[str, str]) -> None:
    for name, value in unified.items():
        key = f'unified["{name}"]'
        if "/" in name or name in ("", ".", ".."):
            raise ConfigError(
                f"unified resource {name!r} must be a file name (no slashes)", phase="cgroup",
                config_path=f"{target.where}.unified",
            )
        # A file takes one line per write. An empty one empties a cpuset; a write of nothing would change nothing.
        for line in value.splitlines() or [""]:
            target.write(name, line or "\n", key)
