"""update: each flag by itself, read back from the file that the kernel has for it, or refused by its config path."""

from __future__ import annotations

import re

import pytest
from conftest import Cli, TestBundle
from test_limits import SLEEP, UNIFIED, controllers, directory, needs

#: flags, controller, file and content (a pattern) on v1, on v2; "" where that version has no such thing
FLAGS: list[tuple[list[str], str, str, str, str, str]] = [
    (["--cpu-burst", "10000", "--cpu-quota", "20000"], "cpu", "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000"),
    (["--cpu-idle", "1"], "cpu", "cpu.idle", "1", "cpu.idle", "1"),
    (["--cpu-period", "50000", "--cpu-quota", "20000"], "cpu", "cpu.cfs_period_us", "50000", "cpu.max", "20000 50000"),
    (["--cpu-quota", "30000"], "cpu", "cpu.cfs_quota_us", "30000", "cpu.max", "30000 100000"),
    (["--cpu-share", "512"], "cpu", "cpu.shares", "512", "cpu.weight", r"\d+"),
    (["--cpu-rt-period", "900000"], "cpu", "cpu.rt_period_us", "900000", "", ""),
    (["--cpu-rt-runtime", "0"], "cpu", "cpu.rt_runtime_us", "0", "", ""),
    (["--cpuset-cpus", "0"], "cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0"),
    (["--cpuset-mems", "0"], "cpuset", "cpuset.mems", "0", "cpuset.mems", "0"),
    (["--blkio-weight", "300"], "blkio", r"blkio\.(bfq\.)?weight", "300", r"io\.(bfq\.)?weight", r"(default )?\d+"),
    (["--memory", "64m"], "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
    (["--memory", "0.0625gib"], "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864"),
    (["--memory-reservation", "32m"], "memory", "memory.soft_limit_in_bytes", "33554432", "memory.low", "33554432"),
    (["--memory", "64m", "--memory-swap", "96m"], "memory", "memory.memsw.limit_in_bytes", "100663296",
     "memory.swap.max", "33554432"),
    (["--pids-limit", "44"], "pids", "pids.max", "44", "pids.max", "44"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "controller", "v1", "v1_text", "v2", "v2_text"), FLAGS, ids=lambda v: str(v)[:24])
def test_flag(
    cli: Cli, bundle: TestBundle, flags: list[str], controller: str, v1: str, v1_text: str, v2: str, v2_text: str
) -> None:
    """The value is in the file; without such a file, the error names the limit, and nothing was changed."""
    have = controllers()
    if UNIFIED and not v2:
        flags = [flags[0], "1000"]  # 0 would be "not set"
    name = cli.start(bundle.args(*SLEEP))
    kernel = {"blkio": "io"}.get(controller, controller) if UNIFIED else controller
    if kernel not in have:
        assert "$.linux.resources." in cli("update", *flags, name, code=1).stderr
        return
    place = directory(cli, name, controller)
    pattern, text = (v2, v2_text) if UNIFIED else (v1, v1_text)
    files = [path for path in place.iterdir() if pattern and re.fullmatch(pattern, path.name)]
    if not files:
        assert "$.linux.resources." in cli("update", *flags, name, code=1).stderr
        return
    cli("update", *flags, name)
    assert any(re.fullmatch(text, path.read_text().strip()) for path in files)


@pytest.mark.parametrize(
    ("flag", "key", "file"),
    [("--kernel-memory", "kernel", "memory.kmem"), ("--kernel-memory-tcp", "kernelTCP", "memory.kmem.tcp")],
)
def test_kernel_memory(cli: Cli, bundle: TestBundle, flag: str, key: str, file: str) -> None:
    """What kernels have had and mostly have no more: set, or refused by its config path."""
    name = cli.start(bundle.args(*SLEEP))
    done = cli("update", flag, "64m", name, code=None)
    if done.returncode == 0:
        assert (directory(cli, name, "memory") / f"{file}.limit_in_bytes").read_text() == "67108864\n"
    else:
        assert f"$.linux.resources.memory.{key}: " in done.stderr


@needs("pids")
def test_of_a_created_container(cli: Cli, bundle: TestBundle) -> None:
    """A limit may be changed before the start."""
    name = cli.create(bundle.args(*SLEEP))
    cli("update", "--pids-limit", "33", name)
    assert (directory(cli, name, "pids") / "pids.max").read_text() == "33\n"


def test_of_a_stopped_container(cli: Cli, bundle: TestBundle) -> None:
    name = cli.start(bundle.args("true"))
    cli.wait_for(name, "stopped")
    assert "not running" in cli("update", "--pids-limit", "33", name, code=1).stderr
