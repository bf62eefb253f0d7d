"""start, state, kill and delete without an interpreter (native/launcher/fast_path.c): the same as
with it, and what is left to it.

An executable that has no package beside it can't start the interpreter, and says so: what it does, it does alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import OCIPY, Cli, TestBundle, cgroups_left, until

#: the exit status of an executable that needed the interpreter
NEEDED = 127


class Bare(Cli):
    """The command line of an executable without a package."""

    executable = ""

    def command(self, *words: str) -> list[str]:
        return [self.executable, "--root", str(self.root), *words]


@pytest.fixture(name="bare")
def bare_fixture(cli: Cli, tmp_path: Path) -> Bare:
    """It, with the containers of ``cli``."""
    (tmp_path / "bare/bin").mkdir(parents=True)
    made = Bare(cli.root)
    made.executable = shutil.copy(OCIPY, tmp_path / "bare/bin/ocipy")
    return made


@pytest.fixture(name="name")
def name_fixture(cli: Cli, bundle: TestBundle) -> Iterator[str]:
    """A created container, that goes on until it is killed."""
    bundle.config["annotations"] = {"a": 'é"\\status": "created"', "b": str(os.getpid())}
    name = cli.create(bundle.args("sleep", "1000"))
    yield name
    cli("delete", "--force", name)


def both(cli: Cli, bare: Bare, name: str) -> str:
    """What both print as the state, which must be the same; returns the status."""
    alone = bare("state", name)
    brief = cli.root / name / "brief"
    brief.rename(cli.root / name / "aside")
    assert cli("state", name).stdout == alone.stdout
    (cli.root / name / "aside").rename(brief)
    status: str = cli.state(name)["status"]
    return status


def test_life(cli: Cli, bare: Bare, name: str) -> None:
    """Everything after create, alone; each status reads as the interpreter writes it."""
    assert both(cli, bare, name) == "created"
    bare("start", name)
    assert both(cli, bare, name) == "running"
    cli("pause", name)
    assert both(cli, bare, name) == "paused"
    cli("resume", name)
    bare("kill", name, "0")
    bare("kill", name, "SIGKILL")
    cli.wait_for(name, "stopped")
    assert both(cli, bare, name) == "stopped"
    bare("delete", name)
    assert not (cli.root / name).exists()
    assert not [path for path in cgroups_left() if name in path]


def test_state_of_misleading_names(cli: Cli, bare: Bare, bundle: TestBundle) -> None:
    """A container may be called as a status is, and have lines that look like those of its state."""
    bundle.config["annotations"] = {"status": "created", "a": '\n  "status": "created",\n  "pid": 1,'}
    name = cli.create(bundle.args("sleep", "1000"), name="created")
    assert both(cli, bare, name) == "created"
    bare("start", name)
    assert both(cli, bare, name) == "running"
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    assert both(cli, bare, name) == "stopped"
    bare("delete", name)


@pytest.mark.parametrize("flag", ["--force", "-f"])
def test_delete_of_a_running_one(cli: Cli, bare: Bare, bundle: TestBundle, flag: str) -> None:
    name = cli.start(bundle.args("sleep", "1000"))
    bare("delete", flag, name)
    assert not (cli.root / name).exists()
    assert not [path for path in cgroups_left() if name in path]


@pytest.mark.parametrize(
    ("words", "number"),
    [([], signal.SIGTERM), (["TERM"], signal.SIGTERM), (["10"], signal.SIGUSR1), (["KILL"], signal.SIGKILL)],
)
def test_signals(cli: Cli, bare: Bare, bundle: TestBundle, words: list[str], number: int) -> None:
    """kill ID [SIGNAL]: the program gets the one that was named; the interpreter knows the other names."""
    fifo = bundle.path / "rootfs/got"
    bundle.sh(f"trap 'echo {number} > /got; exit' {number if number != signal.SIGKILL else 'TERM'}; "
              "echo ready > /got; while :; do sleep 0.05; done")  # fmt: skip
    bundle.config["root"]["readonly"] = False
    name = cli.start(bundle)
    until(lambda: fifo.exists() and fifo.read_text() == "ready\n")
    assert "there is no Python package to" in bare("kill", name, "HUP", code=NEEDED).stderr
    bare("kill", name, *words)
    cli.wait_for(name, "stopped")
    assert fifo.read_text() == ("ready\n" if number == signal.SIGKILL else f"{number}\n")
    bare("delete", "--force", name)


@pytest.mark.parametrize(
    "words",
    [
        ["--log", "{tmp}/log", "--log-format", "json", "state"], ["--log={tmp}/log", "--log-format=text", "state"],
        ["--systemd-cgroup", "state"], ["--log", "journald:x", "state"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_flags(bare: Bare, name: str, tmp_path: Path, words: list[str]) -> None:
    """The global flags that engines give; the log is made even if there is nothing to say."""
    done = bare(*(word.format(tmp=tmp_path) for word in words), name)
    assert name in done.stdout
    assert (tmp_path / "log").exists() == any("{tmp}" in word for word in words)


@pytest.mark.parametrize(
    "words",
    [
        ["--debug", "state", "ID"], ["--log-format", "xml", "state", "ID"], ["--log", "/nowhere/log", "state", "ID"],
        ["--log-level", "debug", "state", "ID"], ["state", "--help", "ID"], ["state", "ID", "more"], ["state"],
        ["kill", "--all", "ID"], ["kill", "ID", "200"], ["kill", "ID", "TERM", "more"], ["kill", "ID", ""],
        ["delete", "ID"], ["delete", "--regex", "ID"], ["pause", "ID"], ["start", "../ID"],
        ["start", "nobody"], ["list"], ["--root"], [],
    ],
    ids=" ".join,
)  # fmt: skip
def test_left_to_the_interpreter(cli: Cli, bare: Bare, name: str, words: list[str]) -> None:
    """What it does not know or has to explain: nothing has happened then."""
    bare(*(word.replace("ID", name) for word in words), code=NEEDED)
    assert cli.state(name)["status"] == "created"


def paused(cli: Cli, name: str) -> None:
    cli("pause", name)


def changed(cli: Cli, name: str) -> None:
    """The state is written anew: the brief is one of another."""
    state = cli.root / name / "state.json"
    text = state.read_text()
    state.unlink()
    state.write_text(text)


def damaged(cli: Cli, name: str) -> None:
    brief = cli.root / name / "brief"
    brief.write_bytes(brief.read_bytes()[:-1])


def stopped(cli: Cli, name: str) -> None:
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")


def test_a_brief_of_the_buffers_size(cli: Cli, bare: Bare, name: str) -> None:
    """One that is as long as there is room for may be longer: what is missing are cgroups, which would be left."""
    stopped(cli, name)
    brief = cli.root / name / "brief"
    fields = brief.read_bytes().split(b"\0")
    size = len(b"\0".join(fields[:11])) + 1  # up to the cgroups
    fields[9] += b" " * ((64 << 10) - 1 - size)
    brief.write_bytes(b"\0".join(fields))
    bare("delete", name, code=NEEDED)
    assert [path for path in cgroups_left() if name in path]
    cli("delete", name)
    assert not [path for path in cgroups_left() if name in path]


@pytest.mark.parametrize("what", [paused, changed, damaged, stopped])
def test_start_left_to_the_interpreter(
    cli: Cli, bare: Bare, name: str, what: Callable[[Cli, str], None]
) -> None:  # fmt: skip
    what(cli, name)
    bare("start", name, code=NEEDED)


@pytest.mark.parametrize(
    ("command", "hook"), [("start", "startContainer"), ("start", "poststart"), ("delete", "poststop")]
)
def test_hooks_take_the_interpreter(cli: Cli, bare: Bare, bundle: TestBundle, command: str, hook: str) -> None:
    where = "/dev/shm" if hook == "startContainer" else str(bundle.path)
    bundle.config["hooks"] = {hook: [{"path": "/bin/touch", "args": ["touch", f"{where}/{hook}"]}]}
    name = cli.create(bundle.args("true"))
    if command == "delete":
        bare("start", name)
        cli.wait_for(name, "stopped")
    bare(command, name, code=NEEDED)
    cli(command, name)
    assert where == "/dev/shm" or (bundle.path / hook).exists()
    cli("delete", "--force", name)


def test_failed_exec(cli: Cli, bundle: TestBundle) -> None:
    """The answer that the launcher gets is handed to the interpreter, which explains it."""
    script = bundle.path / "rootfs/script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    name = cli.create(bundle.args("/script"))
    script.write_text("#!/none\n")
    done = cli("start", name, code=1)
    assert '$.process.args: exec: "/script": the interpreter of its #! line, /none' in done.stderr
    assert not (cli.root / name / "answer").exists()
    assert cli.state(name)["status"] == "stopped"
    cli("delete", name)


def test_no_standard_descriptors(cli: Cli, bare: Bare, name: str) -> None:
    """With one closed, what is opened next would be taken for it: the interpreter puts that right."""
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *bare.command("state", name)], capture_output=True)
    assert done.returncode == NEEDED


def test_a_cgroup_below(cli: Cli, bare: Bare, name: str) -> None:
    """delete of a container whose cgroup is not empty is for the interpreter, which finds all as it needs it."""
    stopped(cli, name)
    for path in cgroups_left():
        if name in path:
            (Path(path) / "below").mkdir()
    bare("delete", name, code=NEEDED)
    cli("delete", name)
    assert not [path for path in cgroups_left() if name in path]


def test_processes_outside_of_a_pid_namespace(cli: Cli, bare: Bare, bundle: TestBundle) -> None:
    """They outlive the init process, and it takes the interpreter to kill them."""
    bundle.config["linux"]["namespaces"] = [ns for ns in bundle.config["linux"]["namespaces"] if ns["type"] != "pid"]
    name = cli.start(bundle.sh("sleep 1001 & exec sleep 1000"))
    until(lambda: len(cli("ps", "-f", "json", name).stdout.split(",")) == 2)
    bare("delete", "--force", name, code=NEEDED)
    cli("delete", "--force", name)
    assert not [path for path in cgroups_left() if name in path]
