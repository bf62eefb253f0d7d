"""--cgroup-manager: who makes the cgroup. systemd's part is in test_systemd_cgroups.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, cgroups_left, fresh_id


def own() -> set[str]:
    return set(Path("/proc/self/cgroup").read_text().splitlines())


def test_cgroupfs(cli: Cli, bundle: TestBundle) -> None:
    """The default, by name."""
    name = fresh_id()
    words = cli.command("--cgroup-manager", "cgroupfs", "create", "--bundle", str(bundle.save()), name)
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    assert any(name in path for path in cgroups_left())


def test_disabled(cli: Cli, bundle: TestBundle) -> None:
    """Nobody: the program stays in the caller's cgroups, and there are none to be removed."""
    name = fresh_id()
    bundle.sh("cat /proc/self/cgroup; sleep 1000 & wait")
    words = cli.command("--cgroup-manager", "disabled", "run", "--detach", "--bundle", str(bundle.save()), name)
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    pid = cli.state(name)["pid"]
    assert set(Path(f"/proc/{pid}/cgroup").read_text().splitlines()) == own()
    assert cgroups_left() == []
    assert "no cgroup of its own" in cli("pause", name, code=1).stderr
    assert str(pid) in cli("ps", "--format", "json", name).stdout
    cli("exec", name, "true")
    cli("kill", "--all", name, "KILL")
    cli.wait_for(name, "stopped")
    cli("delete", name)


@pytest.mark.parametrize(
    ("key", "value"), [("cgroupsPath", "/box"), ("resources", {"pids": {"limit": 10}}), ("resources", {"devices": [
        {"allow": False, "access": "rwm"}]})]
)  # fmt: skip
def test_disabled_and_asked_for(cli: Cli, bundle: TestBundle, key: str, value: object) -> None:
    """What takes a cgroup is an error, with its config path."""
    bundle.config["linux"][key] = value
    words = ["--cgroup-manager", "disabled", "create", "--bundle", str(bundle.save()), fresh_id()]
    assert f"$.linux.{key}: {key} is set" in cli(*words, code=1).stderr


def test_contradiction(cli: Cli) -> None:
    done = cli("--systemd-cgroup", "--cgroup-manager", "cgroupfs", "list", code=1)
    assert "contradict each other" in done.stderr
    assert "is none of cgroupfs, systemd, disabled" in cli("--cgroup-manager", "me", "list", code=1).stderr
