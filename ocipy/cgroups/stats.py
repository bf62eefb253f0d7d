"""Usage of a container's cgroups, in the shape of the ``data`` of runc's ``events --stats``.

Times are in nanoseconds, sizes in bytes. A file that isn't there (no controller, an older kernel) leaves
out what it would say. 18446744073709551615 is "no limit", as in runc's output.
"""

from __future__ import annotations

from errno import ENOTSUP

from ocipy.cgroups import fs
from ocipy.errors import CgroupError
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NO_LIMIT = (1 << 64) - 1
TICK = 10_000_000  # nanoseconds; USER_HZ is 100 wherever Linux runs
HUGE_PAGES = "/sys/kernel/mm/hugepages"
BLKIO = (  # our key, its file below blkio., for each scheduler
    ("ioServiceBytesRecursive", "io_service_bytes"),
    ("ioServicedRecursive", "io_serviced"),
    ("ioQueueRecursive", "io_queued"),
    ("ioServiceTimeRecursive", "io_service_time"),
    ("ioWaitTimeRecursive", "io_wait_time"),
    ("ioMergedRecursive", "io_merged"),
    ("ioTimeRecursive", "time"),
    ("sectorsRecursive", "sectors"),
)


def legacy(paths: dict[str, str]) -> dict[str, Any]:
    """The statistics of v1 directories.

    Raises:
        CgroupError: a file can't be read although it exists.
    """
    return {
        "cpu": _legacy_cpu(paths.get("cpu", ""), paths.get("cpuacct", "")),
        "cpuset": _legacy_cpuset(paths.get("cpuset", "")),
        "memory": _legacy_memory(paths.get("memory", "")),
        "pids": _pids(paths.get("pids", "")),
        "blkio": _legacy_blkio(paths.get("blkio", "")),
        "hugetlb": _huge_pages(paths.get("hugetlb", "") or paths.get("", ""), unified="hugetlb" not in paths),
    }


def unified(directory: str) -> dict[str, Any]:
    """The statistics of a v2 directory.

    Raises:
        CgroupError: a file can't be read although it exists.
    """
    return {
        "cpu": _unified_cpu(directory),
        "cpuset": {
            "cpus": _cpu_list(_text(directory, "cpuset.cpus.effective")),
            "mems": _cpu_list(_text(directory, "cpuset.mems.effective")),
        },
        "memory": _unified_memory(directory),
        "pids": _pids(directory),
        "blkio": _unified_io(directory),
        "hugetlb": _huge_pages(directory, unified=True),
    }


def _text(directory: str, name: str) -> str:
    """A file's content; "" where there is none."""
    if not directory:
        return ""
    try:
        return os.read_text(f"{directory}/{name}").strip()
    except OSError as error:
        if error.errno in (*fs.GONE, ENOTSUP):  # ENOTSUP: pressure on a kernel started without it
            return ""
        raise CgroupError(
            f"can't read {directory}/{name}", syscall="read", errno=error.errno or 0
        ) from None


def _number(directory: str, name: str) -> int:
    text = _text(directory, name)
    return NO_LIMIT if text == "max" else int(text or 0)


def _table(text: str) -> dict[str, int]:
    """``key number`` lines."""
    pairs = (line.split() for line in text.splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _numbers(text: str) -> list[int]:
    return [int(word) for word in text.split()]


def _cpu_list(text: str) -> list[int]:
    """``0-2,5`` as numbers."""
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _psi(directory: str, name: str) -> dict[str, Any]:
    """Pressure stall information as ``{"psi": …}``, or nothing where the kernel keeps none."""
    text = _text(directory, name)
    if not text:
        return {}
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        found[kind] = {k: int(v) if k == "total" else float(v) for k, v in values.items()}
    return {"psi": found}


def _legacy_cpu(cpu: str, cpuacct: str) -> dict[str, Any]:
    time = _table(_text(cpuacct, "cpuacct.stat"))
    throttling = _table(_text(cpu, "cpu.stat"))
    usage: dict[str, Any] = {
        "total": _number(cpuacct, "cpuacct.usage"),
        "percpu": _numbers(_text(cpuacct, "cpuacct.usage_percpu")),
    }
    rows = [_numbers(row) for row in _text(cpuacct, "cpuacct.usage_all").splitlines()[1:]]
    if rows:  # cpu user system
        usage["percpu_kernel"] = [row[2] for row in rows]
        usage["percpu_user"] = [row[1] for row in rows]
    times = {"kernel": time.get("system", 0) * TICK, "user": time.get("user", 0) * TICK}
    return {
        "usage": usage | times,
        "throttling": {
            "periods": throttling.get("nr_periods", 0),
            "throttledPeriods": throttling.get("nr_throttled", 0),
            "throttledTime": throttling.get("throttled_time", 0),
        },
    }


def _unified_cpu(directory: str) -> dict[str, Any]:
    values = _table(_text(directory, "cpu.stat"))
    return {
        "usage": {
            "total": values.get("usage_usec", 0) * 1000,
            "kernel": values.get("system_usec", 0) * 1000,
            "user": values.get("user_usec", 0) * 1000,
        },
        "throttling": {
            "periods": values.get("nr_periods", 0),
            "throttledPeriods": values.get("nr_throttled", 0),
            "throttledTime": values.get("throttled_usec", 0) * 1000,
        },
        **_psi(directory, "cpu.pressure"),
    }


def _legacy_cpuset(directory: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in (
        "cpus", "cpu_exclusive", "mems", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page",
        "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
    ):  # fmt: skip
        if name in ("cpus", "mems"):
            found[name] = _cpu_list(_text(directory, f"cpuset.{name}"))
        else:
            found[name] = _number(directory, f"cpuset.{name}")
    return found


def _legacy_memory(directory: str) -> dict[str, Any]:
    raw = _table(_text(directory, "memory.stat"))
    found: dict[str, Any] = {"cache": raw.get("cache", 0)}
    for key, name in (
        ("usage", "memory"),
        ("swap", "memory.memsw"),
        ("kernel", "memory.kmem"),
        ("kernelTCP", "memory.kmem.tcp"),
    ):
        found[key] = {
            "limit": _number(directory, f"{name}.limit_in_bytes"),
            "usage": _number(directory, f"{name}.usage_in_bytes"),
            "max": _number(directory, f"{name}.max_usage_in_bytes"),
            "failcnt": _number(directory, f"{name}.failcnt"),
        }
    found["raw"] = dict(sorted(raw.items()))
    return found


def _unified_memory(directory: str) -> dict[str, Any]:
    raw = _table(_text(directory, "memory.stat"))
    usage = _number(directory, "memory.current")
    limit = _number(directory, "memory.max")
    swap_limit = _number(directory, "memory.swap.max")
    events = _table(_text(directory, "memory.events"))
    return {
        "cache": raw.get("file", 0),
        "usage": {
            "limit": limit,
            "usage": usage,
            "max": _number(directory, "memory.peak"),
            "failcnt": events.get("max", 0),
        },
        # Memory and swap together, as v1 counts; a peak of the sum is not known.
        "swap": {
            "limit": NO_LIMIT if NO_LIMIT in (limit, swap_limit) else limit + swap_limit,
            "usage": usage + _number(directory, "memory.swap.current"),
            "failcnt": 0,
        },
        "kernel": {"limit": NO_LIMIT, "usage": raw.get("kernel", raw.get("slab", 0)), "failcnt": 0},
        "kernelTCP": {"limit": NO_LIMIT, "usage": raw.get("sock", 0), "failcnt": 0},
        "raw": dict(sorted(raw.items())),
        **_psi(directory, "memory.pressure"),
    }


def _pids(directory: str) -> dict[str, Any]:
    """Tasks and their limit; a limit of 0 is none, as runc has it."""
    current, limit = _text(directory, "pids.current"), _number(directory, "pids.max")
    if not current:
        return {"current": len(fs.processes(directory)) if directory else 0, "limit": 0}
    return {"current": int(current), "limit": 0 if limit == NO_LIMIT else limit}


def _legacy_blkio(directory: str) -> dict[str, Any]:
    """From the first scheduler that keeps count: BFQ, CFQ (before 5.0), or the throttle layer."""
    for prefix, suffix in (
        ("blkio.bfq.", "_recursive"),
        ("blkio.", "_recursive"),
        ("blkio.throttle.", "_recursive"),
        ("blkio.throttle.", ""),
    ):
        found = {}
        for key, name in BLKIO:
            entries = _blkio_entries(_text(directory, f"{prefix}{name}{suffix}"))
            if entries:
                found[key] = entries
        if found:
            return found
    return {}


def _blkio_entries(text: str) -> list[dict[str, Any]]:
    found = []
    for line in text.splitlines():
        words = line.replace(":", " ").split()
        if len(words) >= 3 and words[0] != "Total":  # the last line sums up the devices
            operation = words[2] if len(words) > 3 else ""
            found.append(_entry(words[0], words[1], operation, words[-1]))
    return found


def _entry(major: str, minor: str, operation: str, value: str) -> dict[str, Any]:
    return {"major": int(major), "minor": int(minor), "op": operation, "value": int(value)}


def _unified_io(directory: str) -> dict[str, Any]:
    tables = {
        "rbytes": ("ioServiceBytesRecursive", "Read"),
        "wbytes": ("ioServiceBytesRecursive", "Write"),
        "rios": ("ioServicedRecursive", "Read"),
        "wios": ("ioServicedRecursive", "Write"),
    }
    found: dict[str, Any] = {}
    for line in _text(directory, "io.stat").splitlines():
        device, *pairs = line.split()
        major, _, minor = device.partition(":")
        for pair in pairs:
            name, _, value = pair.partition("=")
            if minor and name in tables:
                key, operation = tables[name]
                found.setdefault(key, []).append(_entry(major, minor, operation, value))
    return {**found, **_psi(directory, "io.pressure")}


def _page_sizes() -> list[str]:
    """The huge page sizes of this machine, as cgroup file names have them (``2MB``, ``1GB``)."""
    try:
        names = os.listdir(HUGE_PAGES)
    except OSError:
        return []
    found = []
    for name in names:  # hugepages-2048kB
        kilobytes = int(name.partition("-")[2].removesuffix("kB"))
        for unit, letters in ((1 << 20, "GB"), (1 << 10, "MB"), (1, "KB")):
            if kilobytes >= unit:
                found.append(f"{kilobytes // unit}{letters}")
                break
    return sorted(found)


def _huge_pages(directory: str, unified: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for size in _page_sizes() if directory else ():
        if unified:
            usage, peak = f"hugetlb.{size}{{}}.current", ""
        else:
            usage, peak = f"hugetlb.{size}{{}}.usage_in_bytes", f"hugetlb.{size}{{}}.max_usage_in_bytes"
        # Reservations, where the kernel counts them (5.7).
        kind = ".rsvd" if _text(directory, usage.format(".rsvd")) else ""
        if not kind and not _text(directory, usage.format("")):
            continue  # no controller
        if unified:
            failures = fs.field(directory, f"hugetlb.{size}.events", "max")
        else:
            failures = _number(directory, f"hugetlb.{size}{kind}.failcnt")
        found[size] = {
            "usage": _number(directory, usage.format(kind)),
            "max": _number(directory, peak.format(kind)) if peak else 0,
            "failcnt": failures,
        }
    return found
