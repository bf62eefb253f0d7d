"""exec in a cgroup below the container's (--cgroup), and in a container that is paused (--ignore-paused)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, until

from ocipy import host
from ocipy.store import Store
from ocipy.store.record import Record

UNIFIED = host.cgroups().mode == "v2"
legacy = pytest.mark.skipif(UNIFIED, reason="no v1 hierarchy is mounted (/proc/self/mountinfo)")


class Running:
    """A container that runs, with a cgroup ``sub`` below each of its own."""

    def __init__(self, cli: Cli, bundle: TestBundle) -> None:
        self.cli = cli
        self.place = bundle.path
        self.name = cli.start(bundle.args("sleep", "100"))
        with Store(str(cli.root)).open(self.name) as entry:
            cgroup = Record.load(entry).cgroup()
        assert cgroup is not None
        self.paths = cgroup.paths
        for path in set(self.paths.values()):
            below = Path(path) / "sub"
            below.mkdir()
            for name in "cpuset.cpus", "cpuset.mems":  # of v1, where a cpuset takes no process without them
                if (below / name).exists() and not UNIFIED:
                    (below / name).write_text((Path(path) / name).read_text())

    def cgroups(self, *flags: str) -> dict[str, str]:
        """Where an exec's process is: a controller's path below the container's cgroup ("" for cgroup2)."""
        pid_file = self.place / "pid"
        words = self.cli.command("exec", *flags, "--detach", "--pid-file", str(pid_file), self.name, "sleep", "100")
        with (self.place / "stderr").open("w+") as stderr:  # no pipe: the process keeps it open
            done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr)
            stderr.seek(0)
            assert done.returncode == 0, stderr.read()
        found = {}
        for line in Path(f"/proc/{pid_file.read_text()}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                if controller in self.paths:
                    found[controller] = path.partition(self.name)[2]
        pid_file.unlink()
        return found


@pytest.fixture
def running(cli: Cli, bundle: TestBundle) -> Running:
    return Running(cli, bundle)


def test_without(running: Running) -> None:
    """The container's own, if nothing else is said."""
    assert set(running.cgroups().values()) == {""}


@pytest.mark.parametrize("word", ["sub", "/sub", "sub/"])
def test_all(running: Running, word: str) -> None:
    """A path alone: below the container's cgroup in every hierarchy."""
    assert set(running.cgroups("--cgroup", word).values()) == {"/sub"}


@legacy
def test_one_controller(running: Running) -> None:
    """The others, but for those that are mounted with it, stay where they are."""
    found = running.cgroups("--cgroup", "memory:sub")
    assert found.pop("memory") == "/sub"
    assert set(found.values()) == {""}


@legacy
def test_some_controllers(running: Running) -> None:
    """Several at a time, and repeated."""
    found = running.cgroups("--cgroup", "memory,pids:sub", "--cgroup", "devices:sub")
    assert {found.pop("memory"), found.pop("pids"), found.pop("devices")} == {"/sub"}
    assert set(found.values()) == {""}


@legacy
def test_mounted_together(running: Running) -> None:
    """Controllers of one hierarchy go together: naming one of them is enough, and two places are refused."""
    shared = [c for c, path in running.paths.items() if list(running.paths.values()).count(path) > 1]
    if not shared:
        pytest.skip("no two controllers are mounted together (/proc/self/mountinfo)")
    first, second = shared[:2]
    found = running.cgroups("--cgroup", f"{first}:sub")
    assert found[first] == found[second] == "/sub"
    words = ["--cgroup", f"{first}:sub", "--cgroup", f"{second}:.", running.name, "true"]
    assert "mounted with others" in running.cli("exec", *words, code=255).stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["nowhere"], "/nowhere does not exist"),
        (["../.."], "--cgroup: bad sub cgroup path: ../.."),
        (["nonsense:sub"], "--cgroup: unknown controller nonsense"),
        ([":sub"], "--cgroup: ':sub' names no controller"),
        (["sub", "sub"], "--cgroup: 'sub' names no controller"),
        (["memory:sub", "memory:sub"], "--cgroup: 'memory:sub' names memory twice"),
    ],
)
def test_refused(running: Running, flags: list[str], words: str) -> None:
    given = [part for flag in flags for part in ("--cgroup", flag)]
    done = running.cli("exec", *given, running.name, "true", code=255)
    assert words in done.stderr


def test_ignore_paused(cli: Cli, bundle: TestBundle) -> None:
    """The process waits with the container, and runs when that is resumed; without the flag it is an error."""
    name = cli.start(bundle.args("sleep", "100"))
    cli("pause", name)
    assert "--ignore-paused" in cli("exec", name, "true", code=255).stderr
    words = cli.command("exec", "--ignore-paused", name, "echo", "awake")
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    with Store(str(cli.root)).open(name) as entry:
        cgroup = Record.load(entry).cgroup()
    assert cgroup is not None
    until(lambda: len(cgroup.pids()) == 2)
    assert process.poll() is None
    cli("resume", name)
    assert process.communicate(timeout=60)[0] == "awake\n"
    assert process.returncode == 0
