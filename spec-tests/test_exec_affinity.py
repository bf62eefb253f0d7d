"""config.md#linux-process, execCPUAffinity: the CPUs of exec'd processes, before and after they join the cgroup."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id

CPUS = sorted(os.sched_getaffinity(0))
FIRST, LAST = str(CPUS[0]), str(CPUS[-1])
ALL = Path("/sys/devices/system/cpu/online").read_text().strip()
needs_two = pytest.mark.skipif(len(CPUS) < 2, reason="sched_getaffinity: a single CPU")


def has_cpuset() -> bool:
    controllers = Path("/sys/fs/cgroup/cgroup.controllers")
    return Path("/sys/fs/cgroup/cpuset").exists() or (
        controllers.exists() and "cpuset" in controllers.read_text().split()
    )


REMEMBERS = tuple(map(int, os.uname().release.split(".")[:2])) >= (6, 2)
needs_cpuset = pytest.mark.skipif(not has_cpuset(), reason="no cpuset controller in /sys/fs/cgroup")


def started(cli: Cli, bundle: TestBundle, **affinity: str) -> str:
    bundle.config["process"]["execCPUAffinity"] = affinity
    return cli.start(bundle.args("sleep", "1000"))


def allowed(text: str) -> str:
    """The CPUs in a text of /proc/PID/status."""
    return text.partition("Cpus_allowed_list:")[2].split()[0]


def of_exec(cli: Cli, name: str, *words: str) -> str:
    return allowed(cli("exec", *(words or (name, "cat", "/proc/self/status"))).stdout)


@needs_two
def test_final(cli: Cli, bundle: TestBundle) -> None:
    """`final` holds for what exec runs, and not for the container's first process."""
    name = started(cli, bundle, final=LAST)
    assert of_exec(cli, name) == LAST
    assert allowed(Path(f"/proc/{cli.state(name)['pid']}/status").read_text()) == allowed(
        Path("/proc/self/status").read_text()
    )
    cli("delete", "--force", name)


@needs_two
def test_both(cli: Cli, bundle: TestBundle) -> None:
    """`initial` and `final`, as lists: what holds in the end is `final`."""
    name = started(cli, bundle, initial=FIRST, final=f"{FIRST}-{FIRST}, {LAST},")
    assert set(of_exec(cli, name).replace("-", ",").split(",")) == {FIRST, LAST}
    cli("delete", "--force", name)


@needs_two
@needs_cpuset
@pytest.mark.spec("config#linux-process-9")
def test_initial_before_the_cgroup(cli: Cli, bundle: TestBundle) -> None:
    """`initial` is set before the transition to the container's cgroup: it may be a CPU that the cgroup does not
    have. After it, the kernel decides, or `final`, which the cgroup must have."""
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": FIRST, "mems": "0"}}
    name = started(cli, bundle, initial=LAST)
    assert of_exec(cli, name) == FIRST
    cli("delete", "--force", name)
    name = started(cli, bundle, initial=LAST, final=FIRST)
    assert of_exec(cli, name) == FIRST
    cli("delete", "--force", name)
    name = started(cli, bundle, initial=LAST, final=LAST)
    line = cli("exec", name, "true", code=255).stderr.splitlines()[-1]
    assert f"$.process.execCPUAffinity.final: can't run on CPUs {LAST}: sched_setaffinity: invalid argument" in line
    cli("delete", "--force", name)


@needs_two
def test_initial_is_not_forgotten(cli: Cli, bundle: TestBundle) -> None:
    """What `initial` says holds on in a cgroup that has those CPUs too: the kernel remembers what was asked for (Linux
    6.2; before, a cpuset of cgroup v1 gives all that it has)."""
    free = allowed(cli.run(bundle.args("cat", "/proc/self/status")).stdout)
    for cpu in (FIRST, LAST):
        name = started(cli, bundle, initial=cpu)
        assert of_exec(cli, name) in ([cpu] if REMEMBERS else [cpu, free])
        cli("delete", "--force", name)


@needs_two
def test_of_the_process(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A process file has its own; without, that of the container's holds."""
    name = started(cli, bundle, final=FIRST)
    process: dict[str, Any] = {"args": ["cat", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"]}
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process))
    assert of_exec(cli, name, "--process", str(file), name) == FIRST
    file.write_text(json.dumps(process | {"execCPUAffinity": {"final": LAST}}))
    assert of_exec(cli, name, "--process", str(file), name) == LAST
    file.write_text(json.dumps(process | {"execCPUAffinity": {}}))
    assert of_exec(cli, name, "--process", str(file), name) == allowed(Path("/proc/self/status").read_text())
    cli("delete", "--force", name)


@pytest.mark.parametrize("when", ["initial", "final"])
def test_missing_cpu(cli: Cli, bundle: TestBundle, tmp_path: Path, when: str) -> None:
    """A CPU that the host does not have: refused by create, before anything is made, and by exec; the kernel would
    leave it out without a word."""
    message = f"$.process.execCPUAffinity.{when}: CPU 8000 is not among this host's: {ALL}"
    bundle.config["process"]["execCPUAffinity"] = {when: f"{FIRST},8000"}
    assert message in cli("create", "--bundle", str(bundle.save()), fresh_id(), code=1).stderr
    assert not cli.root.exists() or not list(cli.root.iterdir())
    name = started(cli, bundle)
    file = tmp_path / "process.json"
    file.write_text(json.dumps({"args": ["true"], "cwd": "/", "execCPUAffinity": {when: "8000"}}))
    assert message in cli("exec", "--process", str(file), name, code=255).stderr
    cli("delete", "--force", name)


@pytest.mark.parametrize("text", ["0-", "a", "1-0", "-1", "0;1", "0x1", "+1", "0-1-2", "99999"])
def test_bad_list(cli: Cli, bundle: TestBundle, text: str) -> None:
    """What is no list of CPUs is refused by its config path."""
    bundle.config["process"]["execCPUAffinity"] = {"initial": text}
    assert "$.process.execCPUAffinity.initial: found" in cli.run(bundle, code=1).stderr


@needs_two
def test_of_the_creator(cli: Cli, bundle: TestBundle) -> None:
    """The CPUs that the runtime itself is confined to are not the container's: an engine may be pinned to some."""
    show = "grep Cpus_allowed_list /proc/self/status"
    free = cli.run(bundle.sh(show)).stdout
    pinned = ["taskset", "--cpu-list", "0", *cli.command()]
    words = [*pinned, "run", "--bundle", str(bundle.save()), fresh_id()]
    assert subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, stdin=subprocess.DEVNULL).stdout == free
    name = cli.start(bundle.args("sleep", "100"))
    words = [*pinned, "exec", name, "sh", "-c", show]
    assert subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, stdin=subprocess.DEVNULL).stdout == free
    assert "0-" in free
