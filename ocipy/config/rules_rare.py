"""The rules of properties that few configs have (see ``rules``); imported only for those."""

from __future__ import annotations

from ocipy.config.fault import below, shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.fault import Namespaces, Row

LAST_CPU = 8191  # NR_CPUS is at most 8192
INTERFACE_NAME = 15  # IFNAMSIZ less the terminating NUL
NO_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
SOME_NODES = ("MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE", "MPOL_PREFERRED_MANY")
THROTTLES = (
    "throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice",
)  # fmt: skip


def number_list(text: str) -> list[tuple[int, int]] | None:
    """The ranges (first, last) of a list of CPUs or memory nodes such as ``0-3,7``, or None if it is none.

    Blanks and surplus commas are of no account, as for other runtimes.
    """
    ranges = []
    for part in text.split(","):
        part = part.strip(" ")
        if not part:
            continue
        first, dash, last = part.partition("-")
        if not dash:
            last = first
        if not (first.isascii() and first.isdigit() and last.isascii() and last.isdigit()):
            return None
        if len(first) > 5 or len(last) > 5 or not int(first) <= int(last) <= LAST_CPU:
            return None
        ranges.append((int(first), int(last)))
    return ranges


def process_rows(process: dict[str, Any], path: str, out: list[Row]) -> None:
    """The broken rules of ``scheduler``, ``ioPriority`` and ``execCPUAffinity``."""
    section = "config.md#linux-process"
    if "scheduler" in process:
        _scheduler(process["scheduler"], f"{path}.scheduler", out)
    priority = process.get("ioPriority", {"priority": 0}).get("priority")
    if priority is None or not 0 <= priority <= 7:
        out.append((f"{path}.ioPriority.priority", priority, "an integer from 0 to 7", section))
    for name, text in process.get("execCPUAffinity", {}).items():
        if name in ("initial", "final") and text and not number_list(text):
            out.append((f"{path}.execCPUAffinity.{name}", text, "a list of CPUs such as 0-3,7", section))


def _scheduler(scheduler: dict[str, Any], path: str, out: list[Row]) -> None:
    """What sched_setattr(2) refuses."""
    section = "config.md#linux-process"
    policy = scheduler.get("policy")
    nice, priority = scheduler.get("nice", 0), scheduler.get("priority", 0)
    if policy is not None and not -20 <= nice <= 19:
        out.append((f"{path}.nice", nice, "an integer from -20 to 19", section))
    if policy in ("SCHED_FIFO", "SCHED_RR"):
        if not 1 <= priority <= 99:
            out.append((f"{path}.priority", priority, f"an integer from 1 to 99 for {policy}", section))
    elif policy is not None and priority:
        out.append((f"{path}.priority", priority, "only with SCHED_FIFO or SCHED_RR", section))
    runtime, deadline, period = (scheduler.get(name, 0) for name in ("runtime", "deadline", "period"))
    if policy == "SCHED_DEADLINE":
        for name, value in (("runtime", runtime), ("deadline", deadline)):
            if not 1024 <= value < 2**63:
                out.append((f"{path}.{name}", value, "nanoseconds, at least 1024 and below 2^63", section))
        if period and not 1024 <= period < 2**63:
            out.append((f"{path}.period", period, "nanoseconds, at least 1024 and below 2^63, or 0", section))
        if runtime > deadline:
            out.append((f"{path}.runtime", runtime, f"at most the deadline, {deadline}", section))
        if period and deadline > period:
            out.append((f"{path}.deadline", deadline, f"at most the period, {period}", section))
    elif policy is not None:
        for name, value in (("runtime", runtime), ("deadline", deadline), ("period", period)):
            if value:
                out.append((f"{path}.{name}", value, "only with SCHED_DEADLINE", section))


def linux_rows(linux: dict[str, Any], namespaces: Namespaces | None, out: list[Row]) -> None:
    """The broken rules of the rare members of the ``linux`` section."""
    if linux.get("netDevices"):
        _net_devices(linux["netDevices"], namespaces, out)
    if linux.get("timeOffsets"):
        _time_offsets(linux["timeOffsets"], namespaces, out)
    if "memoryPolicy" in linux:
        _memory_policy(linux["memoryPolicy"], out)
    if "intelRdt" in linux:
        _intel_rdt(linux["intelRdt"], out)
    if "personality" in linux:
        section = "config-linux.md#personality"
        if "domain" not in linux["personality"]:
            out.append(("$.linux.personality.domain", None, "LINUX or LINUX32", section))
        flags = linux["personality"].get("flags")
        if flags:
            out.append(("$.linux.personality.flags", flags, "no flags; none is defined", section))


def _net_devices(devices: dict[str, Any], namespaces: Namespaces | None, out: list[Row]) -> None:
    section = "config-linux.md#network-devices"
    if namespaces is not None and "network" not in namespaces:
        out.append(
            ("$.linux.netDevices", devices, "only with a network namespace in linux.namespaces", section)
        )
    taken: dict[str, str] = {}
    for name, device in devices.items():
        path = below("$.linux.netDevices", name)
        if not interface_name(name):
            out.append((path, name, "the name of a network device", section))
        target = device.get("name") or name
        if target != name and not interface_name(target):
            out.append((f"{path}.name", target, "the name of a network device", section))
        elif target in taken and "%d" not in target:
            out.append((f"{path}.name", target, f"a name that {shown(taken[target])} does not get", section))
        taken[target] = name


def interface_name(name: str) -> bool:
    """Whether the kernel takes a network device's name (dev_valid_name), or a template with ``%d``."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= INTERFACE_NAME
        and name not in (".", "..")
        and "/" not in name
        and ":" not in name
        and name.count("%") == name.count("%d") <= 1
        and not any(character.isspace() for character in name)
    )


def _time_offsets(offsets: dict[str, Any], namespaces: Namespaces | None, out: list[Row]) -> None:
    section = "config-linux.md#offset-for-time-namespace"
    if namespaces is not None and namespaces.get("time") != "":
        out.append(
            ("$.linux.timeOffsets", offsets, "only with a new time namespace in linux.namespaces", section)
        )
    for clock, offset in offsets.items():
        path = below("$.linux.timeOffsets", clock)
        if clock not in ("monotonic", "boottime"):
            out.append((path, offset, "only the clocks monotonic and boottime", section))
        elif offset.get("nanosecs", 0) >= 10**9:
            out.append((f"{path}.nanosecs", offset["nanosecs"], "an integer from 0 to 999999999", section))


def _memory_policy(policy: dict[str, Any], out: list[Row]) -> None:
    section = "config-linux.md#memory-policy"
    mode, text = policy.get("mode"), policy.get("nodes", "")
    if mode is None:
        out.append(("$.linux.memoryPolicy.mode", None, "a policy such as MPOL_BIND", section))
    nodes = number_list(text)
    if nodes is None or (text and not nodes):
        out.append(("$.linux.memoryPolicy.nodes", text, "a list of memory nodes such as 0-3,7", section))
    elif nodes and mode in NO_NODES:
        out.append(("$.linux.memoryPolicy.nodes", text, f"no nodes for {mode}", section))
    elif not nodes and mode in SOME_NODES:
        out.append(
            ("$.linux.memoryPolicy.nodes", policy.get("nodes"), f"at least one node for {mode}", section)
        )
    flags = policy.get("flags", ())
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        out.append(
            ("$.linux.memoryPolicy.flags", flags, "MPOL_F_STATIC_NODES or MPOL_F_RELATIVE_NODES", section)
        )


def _intel_rdt(rdt: dict[str, Any], out: list[Row]) -> None:
    section = "config-linux.md#intelrdt"
    path = "$.linux.intelRdt"
    clos = rdt.get("closID", "")
    if clos in (".", "..") or ("/" in clos and clos != "/"):
        out.append((f"{path}.closID", clos, "the name of a directory, or /", section))
    lines = {f"{path}.{name}": rdt.get(name, "") for name in ("l3CacheSchema", "memBwSchema")}
    lines.update({f"{path}.schemata[{i}]": line for i, line in enumerate(rdt.get("schemata", ()))})
    for place, line in lines.items():
        if "\n" in line:
            out.append((place, line, "a single line", section))


def resources_rows(resources: dict[str, Any], path: str, out: list[Row]) -> None:
    """The broken rules of ``blockIO``, ``rdma`` and ``unified``."""
    if "blockIO" in resources:
        _block_io(resources["blockIO"], f"{path}.blockIO", out)
    for name, limits in resources.get("rdma", {}).items():
        if "hcaHandles" not in limits and "hcaObjects" not in limits:
            place = below(f"{path}.rdma", name)
            out.append((place, limits, "hcaHandles, hcaObjects or both", "config-linux.md#rdma"))
    for name, text in resources.get("unified", {}).items():
        if "/" in name or not name.strip("\n") or name in (".", ".."):
            place = below(f"{path}.unified", name)
            out.append((place, text, "the name of a file of cgroup v2", "config-linux.md#unified"))
        elif not text.strip() and not name.startswith("cpuset."):  # to memory.max it would be 0
            place = below(f"{path}.unified", name)
            out.append((place, text, "a value; only a cpuset's may be empty", "config-linux.md#unified"))


def _block_io(block: dict[str, Any], path: str, out: list[Row]) -> None:
    section = "config-linux.md#block-io"
    weighted = [(path, block)]
    for index, entry in enumerate(block.get("weightDevice", ())):
        weighted.append((f"{path}.weightDevice[{index}]", entry))
        if "weight" not in entry and "leafWeight" not in entry:
            place = f"{path}.weightDevice[{index}]"
            out.append((place, entry, "weight, leafWeight or both", section))
    for place, entry in weighted:
        for name in ("weight", "leafWeight"):
            weight = entry.get(name, 0)
            if weight and not 10 <= weight <= 1000:
                out.append((f"{place}.{name}", weight, "an integer from 10 to 1000, or 0", section))
    for name in THROTTLES:
        for index, entry in enumerate(block.get(name, ())):
            if "rate" not in entry:
                place = f"{path}.{name}[{index}].rate"
                out.append((place, None, "an integer from 0 to 18446744073709551615", section))
