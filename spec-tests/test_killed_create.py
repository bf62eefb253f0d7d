"""A command that is SIGKILLed at any instant leaves nothing that ``delete --force`` does not remove.

The intent is recorded before the act, and a process that was never recorded dies with its creator. ``OCIPY_STORM``
says how many instants are tried (``make storm``: 400).
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id, nothing_left, until

ROUNDS = int(os.environ.get("OCIPY_STORM", "60"))


def killed(words: list[str], delay: float) -> int:
    """Run a command and kill it after so many seconds; its exit status, negative for the kill."""
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(delay)
    process.kill()
    return process.wait(30)


def duration(cli: Cli, words: list[str]) -> float:
    """How long an undisturbed command takes here, in seconds: the instants are spread over that."""
    begin = time.monotonic()
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)
    return time.monotonic() - begin


@pytest.mark.parametrize("limits", [False, True], ids=["plain", "userns-limits-hooks-idmap"])
def test_killed_create(
    cli: Cli, bundle: TestBundle, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    ext4: Callable[[Path], Path], limits: bool,
) -> None:  # fmt: skip
    """runtime.md#delete: create killed at random instants, the id deleted by force and used again."""
    bundle.args("sleep", "60")
    if limits:
        linux = bundle.config["linux"]
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]
        linux["resources"] = {"memory": {"limit": 64 << 20}, "pids": {"limit": 100}}
        bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
        volume = ext4(tmp_path_factory.mktemp("volume") / "v")
        mount = {"destination": "/m", "source": str(volume), "options": ["bind", "idmap"]}
        maps = [{"containerID": 0, "hostID": 7, "size": 1}]
        bundle.config["mounts"].append(mount | {"uidMappings": maps, "gidMappings": maps})
    bundle.save()
    name = fresh_id()
    create = cli.command("create", "--bundle", str(bundle.path), name)
    whole = duration(cli, create)
    cli("delete", "--force", name)
    seed = random.randrange(1 << 30)
    instants = random.Random(seed)
    outcomes = set()
    for number in range(ROUNDS // 2):
        delay = instants.uniform(0, whole * 1.2)
        outcomes.add(killed(create, delay) < 0)
        cli("delete", "--force", name)
        assert nothing_left(tmp_path) == [], f"kill {number} after {delay:.4f} s (seed {seed})"
    assert True in outcomes, "no kill came before the command was done"
    # and the id can be used again
    duration(cli, create)
    assert cli.state(name)["status"] == "created"
    cli("delete", "--force", name)


@pytest.mark.parametrize("command", ["start", "delete", "run"])
def test_other_commands_killed(cli: Cli, bundle: TestBundle, tmp_path: Path, command: str) -> None:
    """start, delete and run killed at random instants: ``delete --force`` still removes all."""
    bundle.args("sleep", "60").save()
    name = fresh_id()
    create = cli.command("create", "--bundle", str(bundle.path), name)
    words = {
        "start": cli.command("start", name),
        "delete": cli.command("delete", "--force", name),
        "run": cli.command("run", "--bundle", str(bundle.path), name),
    }[command]
    instants = random.Random(command)
    for _ in range(max(4, ROUNDS // 6)):
        if command != "run":
            duration(cli, create)
        killed(words, instants.uniform(0, 0.04))
        cli("delete", "--force", name)
        assert nothing_left(tmp_path) == []


def test_killed_while_a_hook_runs(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """The helper that waits for its creator's hooks ends with the creator: it was never recorded."""
    mark = tmp_path / "hook-runs"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {mark}\nexec sleep 60\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    bundle.save()
    name = fresh_id()
    process = subprocess.Popen(
        cli.command("create", "--bundle", str(bundle.path), name), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until(mark.exists)
    assert cli.state(name)["status"] == "creating"
    process.kill()
    process.wait(30)
    assert cli.state(name)["status"] == "stopped"
    cli("delete", name)
    assert nothing_left(tmp_path) == []
