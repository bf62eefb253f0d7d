"""kill ID KILL of a container that shares its pid namespace: nothing ends what its first process leaves behind, so the
signal is for all of them (as with runc since 1.2)."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import OCIPY, Cli, TestBundle, end, until

from ocipy import Container

KINDS = ("host", "joined")


def running(*pids: int) -> list[int]:
    """Those of some processes that are there, and no zombies."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state not in "ZX":
            found.append(pid)
    return found


@pytest.fixture(name="owner")
def owner_fixture() -> Iterator[int]:
    """The first process of a pid namespace, to be joined."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", "echo ready; exec sleep 1000"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        pid = int(Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text())
        yield pid
        assert running(pid), "the owner of the namespace is not the container's to kill"
        end(pid)


@pytest.fixture(name="shared", params=KINDS)
def shared_fixture(request: pytest.FixtureRequest, bundle: TestBundle, owner: int) -> TestBundle:
    """A bundle in the host's pid namespace, or in one that is joined by its path."""
    others = [ns for ns in bundle.config["linux"]["namespaces"] if ns["type"] != "pid"]
    if request.param == "joined":
        others.append({"type": "pid", "path": f"/proc/{owner}/ns/pid"})
    bundle.config["linux"]["namespaces"] = others
    return bundle


def started(cli: Cli, bundle: TestBundle, flags: tuple[str, ...] = ()) -> tuple[str, list[int]]:
    """A container with three processes, one of which has made itself independent; its name and their pids."""
    name = cli.start(bundle.sh("(sleep 1000 &); sleep 1000 & exec sleep 1000"), *flags)
    pids: list[int] = []

    def all_there() -> bool:
        pids[:] = json.loads(cli("ps", "--format", "json", name).stdout)
        return len(pids) == 3

    until(all_there)
    return name, pids


@pytest.mark.parametrize("word", ["KILL", "9", "sigkill"])
def test_all_are_killed(cli: Cli, shared: TestBundle, word: str) -> None:
    name, pids = started(cli, shared)
    cli("kill", name, word)
    until(lambda: not running(*pids))
    cli("delete", name)


def test_by_the_library(cli: Cli, shared: TestBundle) -> None:
    name, pids = started(cli, shared)
    Container.load(name, root=str(cli.root)).kill(9)
    until(lambda: not running(*pids))
    cli("delete", name)


def test_a_paused_one(cli: Cli, shared: TestBundle) -> None:
    name, pids = started(cli, shared)
    cli("pause", name)
    cli("kill", name, "KILL")
    until(lambda: not running(*pids))
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_a_created_one(cli: Cli, shared: TestBundle) -> None:
    name = cli.create(shared.args("sleep", "1000"))
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_other_signals(cli: Cli, shared: TestBundle) -> None:
    """Any other signal is for the first process alone; what that leaves can still be killed, and then there is nobody
    to be signalled."""
    name, pids = started(cli, shared)
    init = cli.state(name)["pid"]
    cli("kill", name, "TERM")
    cli.wait_for(name, "stopped")
    assert running(*pids) == [pid for pid in pids if pid != init]
    assert "container not running" in cli("kill", name, "TERM", code=1).stderr
    cli("kill", name, "KILL")
    until(lambda: not running(*pids))
    until(lambda: cli("ps", "--format", "json", name).stdout == "[]\n")  # nor zombies, which cgroup.procs of v1 has
    assert "container not running" in cli("kill", name, "KILL", code=1).stderr
    cli("delete", name)


def test_init_moved_out(cli: Cli, shared: TestBundle) -> None:
    """The first process dies, whichever cgroup somebody has moved it to."""
    from ocipy import host

    name, pids = started(cli, shared)
    init = cli.state(name)["pid"]
    for hierarchy in host.cgroups().hierarchies:
        Path(f"{hierarchy.directory()}/cgroup.procs").write_text(str(init))
    cli("kill", name, "KILL")
    until(lambda: not running(*pids))
    cli("delete", name)


def test_without_a_cgroup(cli: Cli, shared: TestBundle) -> None:
    """Without a cgroup they can't be told from others: only the first process is signalled, and nobody else."""
    name = cli.start(shared.args("sleep", "1000"), "--cgroup-manager", "disabled")
    assert "can't be told from others" in cli("ps", "--format", "json", name, code=1).stderr
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_own_cgroup_of_the_caller(cli: Cli, shared: TestBundle) -> None:
    """A caller that is itself in the cgroup that is recorded is told so, rather than killed."""
    name, pids = started(cli, shared)
    recorded = json.loads((cli.root / name / "state.json").read_text())["cgroup"]["paths"]
    join = "".join(f"echo $$ > {path}/cgroup.procs; " for path in dict.fromkeys(recorded.values()))
    words = ["sh", "-c", f"{join}exec \"$@\"", "sh", *cli.command("kill", name, "KILL")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "this process is in" in done.stderr
    assert running(*pids) == pids
    cli("kill", name, "KILL")
    until(lambda: not running(*pids))
    cli("delete", name)


def test_own_pid_namespace_is_left_to_the_kernel(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """With a pid namespace of its own, SIGKILL goes to the first process, without an interpreter."""
    (tmp_path / "bare/bin").mkdir(parents=True)
    bare = shutil.copy(OCIPY, tmp_path / "bare/bin/ocipy")  # no package is beside it
    name, pids = started(cli, bundle)
    subprocess.run([bare, "--root", str(cli.root), "kill", name, "KILL"], check=True)
    until(lambda: not running(*pids))
    cli("delete", name)
