"""ocipy update."""

from __future__ import annotations

import sys

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Args, Command, Flag
from ocipy.config.check import RESOURCES, unknown
from ocipy.container.update import update
from ocipy.errors import UsageError
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_UNITS = {"k": 10, "m": 20, "g": 30, "t": 40, "p": 50}


def size(text: str) -> int:
    """Bytes, with a unit such as 64m or 1.5GiB if wanted (powers of 1024); -1 is no limit."""
    word = text.lower().removesuffix("b").removesuffix("i")
    shift = _UNITS.get(word[-1:], 0)
    whole, point, part = (word[:-1] if shift else word).strip().partition(".")
    if not point:
        return int(whole) << shift
    if not (whole + part).isdigit():
        raise ValueError
    return (int(whole + part) << shift) // int(10 ** len(part))


#: flag -> place in linux.resources
_FLAGS = (
    (Flag("blkio-weight", "block I/O weight, 10 to 1000", "N", kind=int), "blockIO", "weight"),
    (Flag("cpu-period", "CPU period in microseconds", "N", kind=int), "cpu", "period"),
    (Flag("cpu-quota", "CPU time per period in microseconds; -1: no limit", "N", kind=int), "cpu", "quota"),
    (Flag("cpu-burst", "CPU time in microseconds that may be saved up", "N", kind=int), "cpu", "burst"),
    (Flag("cpu-share", "CPU shares", "N", kind=int), "cpu", "shares"),
    (Flag("cpu-rt-period", "real-time period in microseconds", "N", kind=int), "cpu", "realtimePeriod"),
    (Flag("cpu-rt-runtime", "real-time per period in microseconds", "N", kind=int), "cpu", "realtimeRuntime"),
    (Flag("cpu-idle", "1: run only when nothing else does", "N", kind=int), "cpu", "idle"),
    (Flag("cpuset-cpus", "CPUs to use", "LIST"), "cpu", "cpus"),
    (Flag("cpuset-mems", "memory nodes to use", "LIST"), "cpu", "mems"),
    (Flag("memory", "memory limit in bytes; -1: no limit", "BYTES", kind=size), "memory", "limit"),
    (Flag("memory-reservation", "memory soft limit in bytes", "BYTES", kind=size), "memory", "reservation"),
    (Flag("memory-swap", "memory and swap in bytes; -1: no limit", "BYTES", kind=size), "memory", "swap"),
    (Flag("kernel-memory", "limit of kernel memory, where the kernel has one", "BYTES", kind=size), "memory", "kernel"),
    (Flag("kernel-memory-tcp", "limit of TCP buffers, where the kernel has one", "BYTES", kind=size),
     "memory", "kernelTCP"),
    (Flag("pids-limit", "how many processes; -1: no limit", "N", kind=int), "pids", "limit"),
)  # fmt: skip

#: flag -> place in linux.intelRdt
_RDT_FLAGS = (
    (Flag("l3-cache-schema", "line for the L3 cache in resctrl's schemata", "SCHEMA"), "l3CacheSchema"),
    (Flag("mem-bw-schema", "line for memory bandwidth in resctrl's schemata", "SCHEMA"), "memBwSchema"),
)

COMMAND = Command(
    "update",
    "Change the limits of a container",
    "ID",
    (
        Flag("resources r", "file with linux.resources, - for standard input", "FILE"),
        *(row[0] for row in _FLAGS),
        *(flag for flag, _ in _RDT_FLAGS),
    ),
)


def run(context: Context) -> int:
    args = context.args
    intel_rdt = {key: getattr(args, flag.key) for flag, key in _RDT_FLAGS if getattr(args, flag.key)}
    resources = _resources(args, bool(intel_rdt))
    for path in unknown(RESOURCES, resources, "$.linux.resources"):
        context.warn(f"{path}: there is no such property; it has no effect")
    update(common.locked(context.root, args.rest[0]), resources, intel_rdt)
    return 0


def _resources(args: Args, may_be_none: bool) -> dict[str, Any]:
    given = [(flag, section, key) for flag, section, key in _FLAGS if getattr(args, flag.key) is not None]
    if args.resources:
        if given:
            raise UsageError(f"update: --resources and --{given[0][0].names[0]} exclude each other")
        return common.read_object("--resources", args.resources, _read)
    if not given and not may_be_none:
        raise UsageError("update: nothing to change: give --resources or a limit")
    resources: dict[str, Any] = {}
    for flag, section, key in given:
        resources.setdefault(section, {})[key] = getattr(args, flag.key)
    return resources


def _read(path: str) -> bytes:
    """A file's content; that of standard input for ``-``."""
    return sys.stdin.buffer.read() if path == "-" else os.read_bytes(path)
