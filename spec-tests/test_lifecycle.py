"""runtime.md: the operations and the statuses that a container goes through."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, Cli, TestBundle, end, fresh_id, until

from ocipy import cgroups, host
from ocipy.config.validate import validate_document
from ocipy.store import check_id

SLEEP = ("sleep", "1000")


def start_time(pid: int) -> int:
    """Field 22 of /proc/PID/stat."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def process_state(pid: int) -> str:
    """The letter of a process's state; "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def record(cli: Cli, name: str) -> dict[str, Any]:
    """What the state directory has of a container."""
    found: dict[str, Any] = json.loads((cli.root / name / "state.json").read_text())
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.spec(
    "runtime#scope-of-a-container-1", "runtime#state-1", "runtime#state-2", "runtime#state-3", "runtime#state-5",
    "runtime#state-6", "runtime#state-7", "runtime#lifecycle-3", "runtime#lifecycle-13", "runtime#operations-1",
    "runtime#query-state-3", "runtime#create-3", "runtime#create-5", "runtime#start-3", "config#annotations-8",
)  # fmt: skip
def test_statuses_in_order(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """runtime.md#state: created until start, running until the process ends, then stopped; each state document
    satisfies the schema, names pid, bundle and annotations, and the program does not run before start."""
    bundle.config["annotations"] = {"org.example.key": "välue"}
    bundle.config["mounts"].append(
        {"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["bind", "rw"]}
    )
    bundle.sh("echo ran > /out/ran; while [ ! -e /out/go ]; do sleep 0.01; done; exit 3")
    name = cli.create(bundle)
    created = cli.state(name)
    assert created["status"] == "created"
    assert not (tmp_path / "ran").exists()
    cli("start", name)
    until((tmp_path / "ran").exists)
    running = cli.state(name)
    assert running["status"] == "running"
    assert running["pid"] == created["pid"]
    assert os.readlink(f"/proc/{running['pid']}/ns/pid") != os.readlink("/proc/self/ns/pid")
    (tmp_path / "go").touch()
    cli.wait_for(name, "stopped")
    stopped = cli.state(name)
    for document in (created, running, stopped):
        assert validate_document("state", document) == []
        assert document["id"] == name
        assert document["bundle"] == str(bundle.path)
        assert document["rootfs"] == str(bundle.rootfs)
        assert document["annotations"] == {"org.example.key": "välue"}
        assert document["ociVersion"].startswith("1.")
    assert stopped["pid"] == 0
    cli("delete", name)
    assert "does not exist" in cli("state", name, code=1).stderr


@pytest.mark.spec("runtime#state-3", "runtime#state-7")
def test_status_creating(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """runtime.md#lifecycle, step 3: while createRuntime hooks run the status is creating, and what the hook gets
    on its standard input is a valid state document; delete waits for the create to end."""
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ncat > {tmp_path}/state.json\ntouch {tmp_path}/here\ncat {tmp_path}/fifo\n")
    hook.chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook), "timeout": 60}]}
    bundle.args(*SLEEP).save()
    name = fresh_id()
    creating = subprocess.Popen(
        cli.command("create", "-b", str(bundle.path), name), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    until((tmp_path / "here").exists)
    state = cli.state(name)
    assert state["status"] == "creating"
    assert validate_document("state", state) == []
    seen = json.loads((tmp_path / "state.json").read_text())
    assert validate_document("state", seen) == []
    assert seen["status"] == "creating"
    assert seen["pid"] > 0
    assert "container not running" in cli("kill", name, "KILL", code=1).stderr
    deleting = subprocess.Popen(cli.command("delete", name))
    (tmp_path / "fifo").write_text("go\n")
    assert creating.wait(20) == 0
    assert deleting.wait(20) == 0
    assert not (cli.root / name).exists()


@pytest.mark.spec("runtime#start-2")
def test_start_twice(cli: Cli, bundle: TestBundle) -> None:
    """runtime.md#start: a container that is not created can't be started, and is not touched by the attempt."""
    name = cli.start(bundle.args(*SLEEP))
    before = cli.state(name)
    done = cli("start", name, code=1)
    assert "cannot start an already running container" in done.stderr
    assert cli.state(name) == before
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    assert "cannot start a container that has stopped" in cli("start", name, code=1).stderr
    cli("delete", name)
    assert "does not exist" in cli("start", name, code=1).stderr


@pytest.mark.spec("runtime#scope-of-a-container-1", "runtime#operations-1", "runtime#kill-2", "runtime#kill-3")
def test_kill(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """runtime.md#kill: the signal reaches the init process of a running or created container, by default it is
    SIGTERM; a stopped one can't be signalled."""
    bundle.config["mounts"].append(
        {"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["bind", "rw"]}
    )
    script = 'for s in TERM USR1 HUP; do trap "echo $s >> /out/got" $s; done; touch /out/ready; '
    name = cli.start(bundle.sh(script + "while :; do sleep 0.01; done"))
    until((tmp_path / "ready").exists)
    got = tmp_path / "got"
    for words, expected in ((), "TERM"), (("SIGUSR1",), "USR1"), (("hup",), "HUP"), (("10",), "USR1"):
        got.unlink(missing_ok=True)
        cli("kill", name, *words)
        until(lambda: got.exists() and got.read_text())
        assert got.read_text().split() == [expected]
    cli("kill", name, "0")
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    for words in (), ("KILL",), ("0",):
        assert "container not running" in cli("kill", name, *words, code=1).stderr
    cli("kill", "--all", name, "KILL")
    cli("delete", name)


def test_moved_out_of_its_cgroup(cli: Cli, bundle: TestBundle) -> None:
    """Processes that somebody has moved out of the container's cgroup are found by its pid namespace: ps shows them,
    and kill --all does not say that it has signalled whom it has not."""
    name = cli.start(bundle.args(*SLEEP))
    pid = cli.state(name)["pid"]
    for hierarchy in host.cgroups().hierarchies:
        Path(f"{hierarchy.directory()}/cgroup.procs").write_text(str(pid))
    assert json.loads(cli("ps", "--format", "json", name).stdout) == [pid]
    cli("kill", "--all", name, "KILL")
    cli.wait_for(name, "stopped")
    cli("delete", name)


@pytest.mark.parametrize("sent", ["TERM", "KILL", "INT"])
def test_kill_created(cli: Cli, bundle: TestBundle, sent: str) -> None:
    """runtime.md#kill: a created container ends by the signals that end a program, before any program runs."""
    name = cli.create(bundle.args(*SLEEP))
    cli("kill", name, sent)
    cli.wait_for(name, "stopped")
    assert "stopped" in cli("start", name, code=1).stderr
    cli("delete", name)


@pytest.mark.spec("runtime#delete-2")
def test_delete_running(cli: Cli, bundle: TestBundle) -> None:
    """runtime.md#delete: a container that is not stopped is refused and not changed; --force kills it first."""
    name = cli.start(bundle.args(*SLEEP))
    before = cli.state(name)
    done = cli("delete", name, code=1)
    assert "not stopped" in done.stderr
    assert cli.state(name) == before
    cli("delete", "--force", name)
    assert process_state(before["pid"]) in ("", "Z")
    cli("delete", "--force", name)
    assert "does not exist" in cli("delete", name, code=1).stderr


def test_delete_created(cli: Cli, bundle: TestBundle) -> None:
    """A created container whose program never ran is deleted without force, as runc does."""
    name = cli.create(bundle.args(*SLEEP))
    pid = cli.state(name)["pid"]
    cli("delete", name)
    assert process_state(pid) in ("", "Z")


def test_zombie_is_stopped(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """runtime.md#state: a process that has exited and was not waited for yet is not running."""
    code = (
        "import ctypes, signal, subprocess, sys, time\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
        "for words in sys.argv[1:]: subprocess.run(words.split(), check=True, stdin=subprocess.DEVNULL)\n"
        "print('ready', flush=True)\n"
        "time.sleep(1000)\n"
    )
    bundle.args("true").save()
    name = fresh_id()
    create = " ".join(cli.command("create", "-b", str(bundle.path), name))
    start = " ".join(cli.command("start", name))
    command = ["/usr/bin/python3", "-c", code, create, start]
    engine = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert engine.stdout is not None
        assert engine.stdout.readline() == b"ready\n"
        pid = record(cli, name)["pid"]
        until(lambda: process_state(pid) == "Z")
        assert parent_of(pid) == engine.pid
        assert cli.state(name)["status"] == "stopped"
        assert "container not running" in cli("kill", name, code=1).stderr
        assert "stopped container" in cli("exec", name, "true", code=255).stderr
        cli("delete", name)
    finally:
        engine.kill()
        engine.wait()
        assert engine.stdout is not None
        engine.stdout.close()


HEADLESS = """
#include <pthread.h>
#include <unistd.h>
static void *stay(void *none) { for (;;) pause(); return none; }
int main(void) { pthread_t t; pthread_create(&t, 0, stay, 0); pthread_exit(0); }
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
@pytest.mark.parametrize("place", ["init", "init without a cgroup", "child"])
def test_first_thread_ended(cli: Cli, bundle: TestBundle, tmp_path: Path, place: str) -> None:
    """A process whose first thread has ended runs on: its container is running, and delete --force ends it, also if it
    is not init and the kernel's cgroup.kill passes it over."""
    (tmp_path / "p.c").write_text(HEADLESS)
    subprocess.run(["gcc", "-static", "-pthread", "-o", bundle.rootfs / "bin/headless", tmp_path / "p.c"], check=True)
    flags = ("--cgroup-manager", "disabled") if place.endswith("cgroup") else ()
    bundle.args("headless")
    if place == "child":
        bundle.sh("headless & exec sleep 1000")
        spaces = bundle.config["linux"]["namespaces"]
        bundle.config["linux"]["namespaces"] = [ns for ns in spaces if ns["type"] != "pid"]
    name = fresh_id()
    cli.detach(*flags, "run", "--detach", "--bundle", str(bundle.save()), name)

    until(_headless)
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)
    until(lambda: not _headless())


def _headless() -> list[str]:
    """The processes of that program whose first thread has ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = entry.read_text().partition("(")[2].rpartition(")")
        except OSError:
            continue
        if name == "headless" and rest.split()[0] == "Z" and int(rest.split()[17]) > 1:
            found.append(entry.parent.name)
    return found


def test_reparented(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """After create has exited the container is a child of the nearest subreaper, which gets its exit status:
    so engines follow their containers."""
    code = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "for words in sys.argv[2:]: subprocess.run(words.split(), check=True, stdin=subprocess.DEVNULL)\n"
        "pid = int(open(sys.argv[1]).read())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    bundle.sh("exit 42").save()
    name, pid_file = fresh_id(), tmp_path / "pid"
    create = " ".join(cli.command("create", "--pid-file", str(pid_file), "-b", str(bundle.path), name))
    start = " ".join(cli.command("start", name))
    command = ["/usr/bin/python3", "-c", code, str(pid_file), create, start]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout == "42\n", done.stderr
    cli("delete", name)


@pytest.mark.spec("runtime#lifecycle-4")
def test_config_changes_after_create(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """runtime.md#lifecycle, step 2: changes of config.json after create have no effect, on start and on exec,
    not even its removal."""
    bundle.config["mounts"].append(
        {"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["bind", "rw"]}
    )
    bundle.config["process"]["env"].append("WHICH=first")
    name = cli.create(bundle.sh("echo $WHICH > /out/start; sleep 1000"))
    bundle.config["process"]["env"][-1] = "WHICH=second"
    bundle.config["annotations"] = {"late": "yes"}
    bundle.sh("echo changed > /out/start").save()
    cli("start", name)
    until(lambda: (tmp_path / "start").exists() and (tmp_path / "start").read_text())
    assert (tmp_path / "start").read_text() == "first\n"
    (bundle.path / "config.json").unlink()
    assert cli("exec", name, "sh", "-c", "echo $WHICH").stdout == "first\n"
    assert "annotations" not in cli.state(name)
    cli("delete", "--force", name)


def test_recycled_pid(cli: Cli, bundle: TestBundle) -> None:
    """A pid is nothing without its start time: with the recorded pid in the hands of another process the
    container is stopped, and that process is neither signalled nor killed by any command."""
    name = cli.start(bundle.args(*SLEEP))
    pid = cli.state(name)["pid"]
    other = subprocess.Popen(["sleep", "1000"])
    try:
        forged = record(cli, name)
        assert forged["start_time"] == start_time(pid)
        forged["pid"] = other.pid
        if start_time(other.pid) == forged["start_time"]:  # within one clock tick
            forged["start_time"] -= 1
        (cli.root / name / "state.json").write_text(json.dumps(forged))
        assert cli.state(name)["status"] == "stopped"
        assert cli.state(name)["pid"] == 0
        assert "container not running" in cli("kill", name, "KILL", code=1).stderr
        assert "container not running" in cli("exec", name, "true", code=255).stderr
        assert "stopped" in cli("start", name, code=1).stderr
        assert "not running" in cli("pause", name, code=1).stderr
        assert json.loads(cli("ps", "--format", "json", name).stdout) == [pid]  # by the cgroup
        cli("delete", "--force", name)
        assert other.poll() is None
        until(lambda: process_state(pid) in ("", "Z"))  # found by the cgroup
    finally:
        other.kill()
        other.wait()


@pytest.mark.spec("runtime#create-2")
@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "ä", "a\n", "-" * 256, "a:b", "../x", "a\\b"])
def test_bad_ids(cli: Cli, bundle: TestBundle, name: str) -> None:
    """runtime.md#create: an id that is not valid is an error, for every command, and makes nothing."""
    bundle.save()
    for words in (
        ("create", "-b", str(bundle.path), "--", name),
        ("run", "-b", str(bundle.path), "--", name),
        ("state", "--", name),
        ("start", "--", name),
        ("delete", "--force", "--", name),
        ("kill", "--", name),
    ):
        assert "invalid id format" in cli(*words, code=1).stderr
    assert not cli.root.exists() or list(cli.root.iterdir()) == []


def test_good_ids() -> None:
    """All letters that runc takes, and up to 255 of them (a file name's limit)."""
    for name in ("a", "A_b+c.d-9", "_", "+", "-", "...", "x" * 255):
        assert check_id(name) == name


def test_long_id(cli: Cli, bundle: TestBundle) -> None:
    """The longest id that is valid lives a whole life: no part of it runs into a limit of the kernel's."""
    name = (fresh_id() + "-" + "x" * 255)[:255]
    bundle.sh("exit 5").save()
    assert cli("run", "-b", str(bundle.path), name, code=5)
    assert cli.create(bundle, name=name) == name
    cli("delete", name)


def test_deep_state_directory(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A state directory deeper than the 107 bytes of a unix socket's address works."""
    deep = Cli(tmp_path.joinpath(*["d" * 60] * 4))
    name = deep.start(bundle.args(*SLEEP))
    assert deep.state(name)["status"] == "running"
    deep("delete", "--force", name)


@pytest.mark.spec("runtime#state-2", "runtime#create-2")
def test_id_in_use(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """runtime.md#create: an id that is in use makes no new container and leaves the old one alone."""
    first = make_bundle().args(*SLEEP)
    name = cli.start(first)
    before = cli.state(name)
    second = make_bundle().save()
    done = cli("create", "-b", str(second), name, code=1)
    assert "container with given ID already exists" in done.stderr
    assert cli.state(name) == before
    cli("delete", "--force", name)


def test_concurrent_creates(cli: Cli, bundle: TestBundle) -> None:
    """runtime.md#create: of many creates with one id exactly one succeeds, and that container is whole."""
    bundle.args(*SLEEP).save()
    for _ in range(5):
        name = fresh_id()
        words = cli.command("create", "-b", str(bundle.path), name)
        racers = [
            subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for _ in range(6)
        ]
        assert sorted(racer.wait(60) for racer in racers) == [0, 1, 1, 1, 1, 1]
        cli("start", name)
        assert cli.state(name)["status"] == "running"
        cli("delete", "--force", name)


def test_delete_races_create(cli: Cli, bundle: TestBundle) -> None:
    """delete --force beside a create of the same id waits for it, or comes first: afterwards either the whole
    container is there or nothing of it."""
    bundle.args(*SLEEP).save()
    for _ in range(10):
        name = fresh_id()
        words = cli.command("create", "-b", str(bundle.path), name)
        create = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until((cli.root / name).exists)
        cli("delete", "--force", name)
        create.wait(60)
        cli("delete", "--force", name)


def test_concurrent_deletes(cli: Cli, bundle: TestBundle) -> None:
    """Deletes beside each other: all succeed with --force, one of them removes it."""
    name = cli.start(bundle.args(*SLEEP))
    racers = [subprocess.Popen(cli.command("delete", "--force", name)) for _ in range(4)]
    assert [racer.wait(60) for racer in racers] == [0] * 4


def test_state_does_not_disturb(cli: Cli, bundle: TestBundle) -> None:
    """Asking for the state, however often and from however many at once, changes nothing about a created
    container: it can still be started."""
    name = cli.create(bundle.args(*SLEEP))
    failures: list[str] = []

    def ask() -> None:
        for _ in range(8):
            done = subprocess.run(cli.command("state", name), capture_output=True, text=True)
            if '"created"' not in done.stdout:
                failures.append(done.stdout + done.stderr)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert failures == []
    cli("start", name)
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)


def test_state_of_a_stopped_init(cli: Cli, bundle: TestBundle) -> None:
    """A created container whose waiting process is stopped by SIGSTOP still answers `state`, any number of
    times: nobody waits for it to accept."""
    name = cli.create(bundle.args(*SLEEP))
    pid = cli.state(name)["pid"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: process_state(pid) == "T")
    for _ in range(25):  # more than the backlog of its socket
        assert cli.state(name)["status"] == "created"
    process = subprocess.Popen(cli.command("start", name), stdin=subprocess.DEVNULL)
    time.sleep(0.1)  # it waits for its turn, however long that takes
    assert process.poll() is None
    os.kill(pid, signal.SIGCONT)
    assert process.wait(60) == 0
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)


def test_pause_created(cli: Cli, bundle: TestBundle) -> None:
    """A container that is paused before its start is paused: it can't be started, and can be resumed."""
    name = cli.create(bundle.args(*SLEEP))
    cli("pause", name)
    for _ in range(20):
        assert cli.state(name)["status"] == "paused"
    assert "paused" in cli("start", name, code=1).stderr
    assert "paused" in cli("exec", name, "true", code=255).stderr
    cli("resume", name)
    assert cli.state(name)["status"] == "created"
    cli("start", name)
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)


@pytest.mark.spec("runtime#state-4", "runtime#delete-2")
def test_paused(cli: Cli, bundle: TestBundle) -> None:
    """A paused container: its state says so, pause is refused, delete too, kill ends it, delete --force too."""
    for kill in (True, False):
        name = cli.start(bundle.args(*SLEEP))
        cli("pause", name)
        state = cli.state(name)
        assert state["status"] == "paused"
        assert [fault.config_path for fault in validate_document("state", state)] == ["$.status"]
        assert "not running" in cli("pause", name, code=1).stderr
        assert "not stopped: paused" in cli("delete", name, code=1).stderr
        if kill:
            cli("kill", name, "KILL")
            cli.wait_for(name, "stopped")
            assert "not paused" in cli("resume", name, code=1).stderr
        cli("delete", "--force", name)


@pytest.mark.parametrize("way", ["pause", "cgroup2"])
def test_frozen_by_an_ancestor(cli: Cli, make_bundle: Callable[[], TestBundle], way: str) -> None:
    """What would wait for a container that a cgroup above its own holds frozen is refused, and says so."""
    parent = cgroups.select(f"/{fresh_id()}", "id")
    parent.create()
    freezer = Path(parent.paths.get("", "/nowhere"), "cgroup.freeze")
    if way == "cgroup2" and not freezer.exists():
        pytest.skip("there is no cgroup2 here")
    made = []
    for name in ("created", "running", "new"):
        bundle = make_bundle().args("sleep", "1000")
        above = parent.paths.get("freezer") or parent.paths[""]
        bundle.config["linux"]["cgroupsPath"] = f"/{os.path.basename(above)}/{name}"
        made.append(bundle)
    created, running = cli.create(made[0]), cli.start(made[1])
    freezer.write_text("1") if way == "cgroup2" else parent.freeze(True)
    try:
        new = cli("create", "--bundle", str(made[2].save()), fresh_id(), code=1).stderr
        assert "$.linux.cgroupsPath: container's cgroup unexpectedly frozen" in new
        assert "is frozen, by a cgroup that its own is below" in cli("start", created, code=1).stderr
        assert "is frozen, by a cgroup that its own is below" in cli("exec", running, "true", code=255).stderr
        assert cli.state(running)["status"] == "running"
    finally:
        freezer.write_text("0") if way == "cgroup2" else parent.freeze(False)
    cli("start", created)
    for name in (created, running):
        cli("delete", "--force", name)
    parent.delete()


@pytest.mark.parametrize("pid_namespace", [True, False])
def test_frozen_below(cli: Cli, bundle: TestBundle, pid_namespace: bool) -> None:
    """A container that has frozen some of its processes, in a cgroup below its own, is deleted nevertheless."""
    if not pid_namespace:
        spaces = bundle.config["linux"]["namespaces"]
        bundle.config["linux"]["namespaces"] = [ns for ns in spaces if ns["type"] != "pid"]
    name = cli.start(bundle.sh("sleep 1000 & exec sleep 1000"))
    own = cgroups.load(record(cli, name)["cgroup"])
    until(lambda: len(own.pids()) == 2)
    below = own.below({"": "below"})
    below.create()
    for pid in own.pids():
        if (pid == cli.state(name)["pid"]) == pid_namespace:
            below.add(pid)
    below.freeze(True)
    cli("delete", "--force", name)


def test_state_directory(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """The state directory is for root alone, made with its parents, holds no more than it should, and is
    locked while a command changes the container."""
    nested = Cli(tmp_path / "a/b/c")
    name = nested.create(bundle.args(*SLEEP))
    entry = nested.root / name
    assert stat.S_IMODE(nested.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry.stat().st_mode) == 0o700
    assert {path.name for path in entry.iterdir()} == {"state.json", "config.json", "brief", "start.sock"}
    assert json.loads((entry / "config.json").read_text()) == bundle.config
    nested("start", name)
    assert {path.name for path in entry.iterdir()} == {"state.json", "config.json", "brief"}
    fd = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert nested.state(name)["status"] == "running"  # who only looks does not wait
    nested("kill", name, "KILL")
    nested.wait_for(name, "stopped")
    waiting = subprocess.Popen(nested.command("delete", name))
    with pytest.raises(subprocess.TimeoutExpired):
        waiting.wait(0.3)
    os.close(fd)
    assert waiting.wait(60) == 0


def test_entry_that_create_left(cli: Cli) -> None:
    """A state directory without a state (create was killed right after making it) is stopped, is listed, and
    can be deleted."""
    cli.root.mkdir()
    for extra in (), ("state.json.new",), ("config.json", "start.sock"):
        name = fresh_id()
        (cli.root / name).mkdir()
        for file in extra:
            (cli.root / name / file).write_text("{")
        assert cli.state(name)["status"] == "stopped"
        assert name in cli("list", "-q").stdout
        assert "container not running" in cli("kill", name, code=1).stderr
        assert "stopped" in cli("start", name, code=1).stderr
        cli("delete", name)
        assert not (cli.root / name).exists()


def test_damaged_state(cli: Cli) -> None:
    """A state file that can't be parsed is named in the error, and does not hide the other containers."""
    name = fresh_id()
    (cli.root / name).mkdir(parents=True)
    (cli.root / name / "state.json").write_text('{"pid": ')
    done = cli("state", name, code=1)
    assert f"{name}/state.json is damaged" in done.stderr
    done = cli("list")
    assert "is damaged" in done.stderr
    for text in "[]", "null", "{}", '{"pid": "1"}', '{"pid": 1}', '{"pid": 1, "start_time": 1, "cgroup": 5}':
        (cli.root / name / "state.json").write_text(text)
        for words in ("state",), ("kill",), ("start",), ("delete",):
            assert "state.json is damaged: " in cli(*words, name, code=1).stderr
        assert "is damaged" in cli("exec", name, "true", code=255).stderr
        assert "is damaged" in cli("list").stderr
    cli("delete", "--force", name)
    assert not (cli.root / name).exists()


def test_other_directories(cli: Cli) -> None:
    """A directory that is no container's, or that of another runtime's container, is neither taken for one that has
    stopped nor removed; / is no root at all."""
    (cli.root / "box/inner").mkdir(parents=True)
    (cli.root / "box/config.json").write_text("{}")
    (cli.root / "runcs").mkdir()
    (cli.root / "runcs/state.json").write_text('{"id": "runcs", "init_process_pid": 1, "init_process_start": 0}')
    for words in ("state",), ("kill",), ("start",), ("delete",), ("delete", "--force"):
        said = cli(*words, "box", code=1).stderr
        assert f"'box' does not exist: {cli.root}/box is something else: it has 'inner' in it" in said
        assert "written by runc" in cli(*words, "runcs", code=1).stderr
    listed = cli("list", "--quiet")
    assert listed.stdout == ""
    assert len(listed.stderr.splitlines()) == 2
    assert (cli.root / "box/inner").exists()
    assert (cli.root / "runcs/state.json").exists()
    shutil.rmtree(cli.root)
    for root in "/", "/..", "//":
        done = subprocess.run([OCIPY, "--root", root, "list"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        assert "/ can't be the state directory" in done.stderr


@pytest.mark.spec("runtime#lifecycle-12", "runtime#lifecycle-15")
@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_hook_fails_at_start(cli: Cli, bundle: TestBundle, tmp_path: Path, kind: str) -> None:
    """runtime.md#lifecycle, steps 7 and 9: a failing startContainer or poststart hook is an error of start, the
    container is stopped and destroyed, and the poststop hooks run."""
    bundle.args(*SLEEP)
    failing = {"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 4"]}
    after = {"path": "/bin/sh", "args": ["sh", "-c", f"cat > {tmp_path}/after"]}
    bundle.config["hooks"] = {kind: [failing], "poststop": [after]}
    name = cli.create(bundle)
    pid = cli.state(name)["pid"]
    done = cli("start", name, code=1)
    last = done.stderr.splitlines()[-1]
    assert f"$.hooks.{kind}[0]" in last
    assert "no luck" in last
    assert "status 4" in last
    assert process_state(pid) in ("", "Z")
    assert json.loads((tmp_path / "after").read_text())["status"] == "stopped"
    assert "does not exist" in cli("state", name, code=1).stderr
    # and the same by run
    (tmp_path / "after").unlink()
    pid_file = tmp_path / "pid"
    done = cli.run(bundle, "--pid-file", str(pid_file), code=1)
    assert "no luck" in done.stderr.splitlines()[-1]
    assert (tmp_path / "after").exists()
    assert not pid_file.exists()


def test_pid_file(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """--pid-file has the pid and nothing else; after a create that failed it is not there, and one that can't be
    written is an error that leaves nothing."""
    pid_file = tmp_path / "pid"
    name = cli.create(bundle.args(*SLEEP), "--pid-file", str(pid_file))
    assert pid_file.read_text() == str(cli.state(name)["pid"])
    assert [path.name for path in tmp_path.iterdir() if "pid" in path.name] == ["pid"]
    cli("delete", name)
    pid_file.unlink()
    bundle.args("/missing").save()
    cli("create", "--pid-file", str(pid_file), "-b", str(bundle.path), fresh_id(), code=1)
    assert not pid_file.exists()
    bundle.args(*SLEEP).save()
    for bad in (tmp_path / "none/pid", tmp_path):
        done = cli("create", "--pid-file", str(bad), "-b", str(bundle.path), fresh_id(), code=1)
        assert f"can't write the pid file {bad}" in done.stderr
    os.mkfifo(pid_file)  # it is not replaced; with /dev/null, say, much would break
    done = cli("create", "--pid-file", str(pid_file), "-b", str(bundle.path), fresh_id(), code=1)
    assert done.stderr == f"ocipy: can't write the pid file {pid_file}: it is not a regular file\n"
    assert pid_file.is_fifo()
    assert list(cli.root.iterdir()) == []


def test_foreground_signals(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A foreground run passes signals on from the first moment: one that comes while the container is still being
    created reaches the program once it runs, and ends neither ocipy nor leaves the container behind."""
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/here\ncat {tmp_path}/fifo\n")
    hook.chmod(0o755)
    os.mkfifo(tmp_path / "fifo")
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook), "timeout": 60}]}
    bundle.sh("trap 'exit 9' TERM; while :; do sleep 0.01; done")
    name = fresh_id()
    running = subprocess.Popen(
        cli.command("run", "-b", str(bundle.save()), name), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        until((tmp_path / "here").exists)
        running.send_signal(signal.SIGUSR2)  # pid 1 without a handler ignores it: but ocipy would die of it
        running.send_signal(signal.SIGTERM)
        (tmp_path / "fifo").write_text("go\n")
        # the early SIGTERM may have come before the trap: then it takes another
        until(lambda: running.poll() is not None or running.send_signal(signal.SIGTERM))
        assert running.returncode == 9
        assert not (cli.root / name).exists()
    finally:
        end(running.pid)
        running.wait()
        assert running.stderr is not None
        running.stderr.close()


def test_foreground_deleted_by_another(cli: Cli, bundle: TestBundle) -> None:
    """A foreground run whose container somebody else deletes ends with the program's status."""
    name = fresh_id()
    running = subprocess.Popen(
        cli.command("run", "-b", str(bundle.args(*SLEEP).save()), name), stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: (cli.root / name / "state.json").exists())
    cli.wait_for(name, "running")
    cli("delete", "--force", name)
    _, words = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGKILL
    assert words == b""


@pytest.mark.parametrize("ignored", ["CHLD", "CHLD PIPE INT TERM"])
def test_ignored_signals(cli: Cli, bundle: TestBundle, ignored: str) -> None:
    """Whatever signals the caller ignores: the status is not lost, hooks are waited for, and the program has
    every signal at its default."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}], "poststop": [{"path": "/bin/true"}]}
    bundle.sh("grep SigIgn /proc/self/status; exit 7")
    words = " ".join(cli.command("run", "-b", str(bundle.save()), fresh_id()))
    done = subprocess.run(["sh", "-c", f"trap '' {ignored}; {words}"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split() == ["SigIgn:", "0" * 16]


def test_closed_standard_descriptors(cli: Cli, bundle: TestBundle) -> None:
    """With standard descriptors closed by the caller the program gets /dev/null there, and nothing of ocipy's."""
    bundle.sh("for fd in 0 2; do readlink /proc/self/fd/$fd; done; ls /proc/self/fd | wc -l; exit 3")
    words = " ".join(cli.command("run", "-b", str(bundle.save()), fresh_id()))
    done = subprocess.run(["sh", "-c", f"{words} <&- 2>&-"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert done.stdout.splitlines() == ["/dev/null", "/dev/null", "4"]
    done = subprocess.run(["sh", "-c", f"{OCIPY} --version >&-"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""
