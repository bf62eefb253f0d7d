"""From the spec's v1-shaped numbers to what the files of cgroup v1 and v2 take. Pure."""

from __future__ import annotations

from ocipy.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MIN_SHARES, MAX_SHARES = 2, 1 << 18  # kernel/sched: MIN_SHARES, MAX_SHARES
DEFAULT_PERIOD = 100000  # microseconds, kernel/sched: default_cfs_period


def checked_shares(shares: int, config_path: str) -> str:
    """``cpu.shares`` of v1, which clamps silently.

    Raises:
        ConfigError: the kernel would take another value (the wording is runc's).
    """
    if shares < MIN_SHARES:
        raise ConfigError(
            f"the minimum allowed cpu-shares is {MIN_SHARES}", phase="cgroup", config_path=config_path
        )
    if shares > MAX_SHARES:
        raise ConfigError(
            f"the maximum allowed cpu-shares is {MAX_SHARES}", phase="cgroup", config_path=config_path
        )
    return str(shares)


def cpu_weight(shares: int) -> int:
    """``cpu.weight`` (1 to 10000, 100 is normal) for cpu.shares (2 to 262144, 1024 is normal).

    runc's curve since 1.3: quadratic in the logarithms, through minimum, default and maximum. The linear
    one that runtimes had before gave a normal container (1024) a weight of 39.
    """
    if shares <= MIN_SHARES:
        return 1
    if shares >= MAX_SHARES:
        return 10000
    from math import ceil, log2, pow  # an extension module in some builds of CPython: only who needs it pays

    logarithm = log2(shares)
    exponent = (logarithm * logarithm + 125 * logarithm) / 612.0 - 7.0 / 34.0
    return ceil(pow(10, exponent))


def cpu_max(quota: int, period: int, current: str = "max") -> str:
    """``cpu.max`` for a quota and a period in microseconds.

    Args:
        quota: 0 leaves it as it is, a negative one is none.
        period: 0 leaves it as it is.
        current: the file's present content, for the part that is left.
    """
    amount = str(quota) if quota > 0 else "max" if quota else current.split()[0]
    return f"{amount} {period}" if period else amount


def swap_max(swap: int, limit: int, config_path: str) -> str:
    """``memory.swap.max`` for the spec's memory+swap and memory; "" leaves it as it is.

    Args:
        swap: memory and swap together, in bytes; -1 is unlimited, 0 unset.
        limit: memory in bytes, with the same meanings.

    Raises:
        ConfigError: they don't fit together.
    """
    if swap == -1 or (swap == 0 and limit == -1):  # no memory limit and no word about swap: v1 lifts both
        return "max"
    if swap == 0:
        return ""
    if limit == -1:
        return str(swap)
    if limit == 0:
        raise ConfigError(
            "unable to set swap limit without memory limit", phase="cgroup", config_path=config_path
        )
    if swap < limit:
        raise ConfigError(
            "memory+swap limit should be >= memory limit", phase="cgroup", config_path=config_path
        )
    return str(swap - limit)


def swappiness(memory: dict[str, Any]) -> int | None:
    """``memory.swappiness``; None if it is not set. The largest of 64 bits stands for -1, which is "not set"."""
    value: int | None = memory.get("swappiness")
    return None if value in (-1, (1 << 64) - 1) else value


def limit_text(value: int) -> str:
    """A v2 limit in bytes; any negative number is none."""
    return "max" if value < 0 else str(value)


def pids_max(limit: int) -> str:
    """``pids.max``: negative is none.

    0 becomes 1, as runc has it: a container's one process doesn't count when it is moved in, but does when
    it is cloned into the cgroup. What it may fork is the same.
    """
    return "max" if limit < 0 else str(limit or 1)


def io_weight(weight: int) -> int:
    """``io.weight`` (1 to 10000) for a blkio weight (10 to 1000), linearly."""
    return 1 + (max(weight, 10) - 10) * 9999 // 990


def rate_line(device: dict[str, Any], most: int) -> str:
    """A line of a v1 ``blkio.throttle.*_device`` file, which takes a rate of so much at the most."""
    return f"{device['major']}:{device['minor']} {min(device['rate'], most)}"


def io_max(block_io: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of ``io.max`` for all of the ``throttle*Device``, one per device, with the key each is from.

    A rate of 0, by which v1 lifts a limit, is ``max`` in v2.
    """
    lines: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for key, name in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for index, device in enumerate(block_io.get(key) or ()):
            number = f"{device['major']}:{device['minor']}"
            lines.setdefault(number, []).append(f"{name}={device['rate'] or 'max'}")
            paths.setdefault(number, f"{key}[{index}]")
    return [(f"{number} {' '.join(parts)}", paths[number]) for number, parts in lines.items()]


def rdma_max(device: str, limits: dict[str, Any]) -> str:
    """A line of ``rdma.max``."""
    line = device
    for key, name in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
        if limits.get(key) is not None:
            line += f" {name}={limits[key]}"
    return line


def file_part(text: str, config_path: str) -> str:
    """A part of a file name that comes from the configuration.

    Raises:
        ConfigError: it could lead to another directory.
    """
    if "/" in text or text in ("", ".", ".."):
        raise ConfigError(
            f"{text!r} must be a file name (no slashes)", phase="cgroup", config_path=config_path
        )
    return text
