"""delete --force ends what another command waits for, and does not wait for it.

The time limits are for a hang: without them, all of these would wait for 1000 seconds.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, cgroups_left, fresh_id, until
from criu_tools import Counter, Dump
from criu_tools import counter as counter  # a fixture
from criu_tools import criu as criu  # a fixture
from criu_tools import dump as dump  # a fixture

from ocipy.api import Container
from ocipy.config.bundle import Bundle
from ocipy.container import delete_busy
from ocipy.container.delete import remove
from ocipy.errors import LaunchError, StateError
from ocipy.store import Store

HANG = 60  # seconds
Spawn = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(name="spawn")
def spawn_fixture(cli: Cli) -> Iterator[Spawn]:
    """Starts a command that hangs; it has ended, or is ended, when the test is over."""
    made = []

    def spawn(*words: str) -> subprocess.Popen[str]:
        null = subprocess.DEVNULL
        made.append(subprocess.Popen(cli.command(*words), stdin=null, stdout=null, stderr=subprocess.PIPE, text=True))
        return made[-1]

    yield spawn
    for process in made:
        process.kill()
        process.communicate()


class Hook:
    """A hook that never ends, nor does what it has started."""

    def __init__(self, bundle: TestBundle, path: Path, kind: str) -> None:
        self.kind = kind
        self.path = path
        path.mkdir()
        bundle.config["mounts"].append({"destination": str(path), "source": str(path), "options": ["rbind"]})
        script = f"cat > /dev/null; touch {path}/here; trap '' TERM; sleep 1000 & sleep 1000"
        entry = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin", f"MARK={path}"]}
        bundle.config.setdefault("hooks", {})[kind] = [entry]

    def wait(self) -> None:
        until((self.path / "here").exists)

    def processes(self) -> list[str]:
        """What is left of it."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if f"MARK={self.path}".encode() in (entry / "environ").read_bytes():
                    found.append(entry.name)
            except OSError:
                continue
        return found

    def gone(self) -> None:
        until(lambda: not self.processes(), what=f"processes of the hook are left: {self.processes()}")


def nothing_is_left(cli: Cli, name: str) -> None:
    assert not (cli.root / name).exists()
    assert not [path for path in cgroups_left() if name in path]


@pytest.mark.parametrize("flags", [(), ("--cgroup-manager", "disabled")], ids=["cgroup", "no cgroup"])
@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_hook_of_create(
    cli: Cli, bundle: TestBundle, tmp_path: Path, spawn: Spawn, kind: str, flags: tuple[str, ...]
) -> None:  # fmt: skip
    """Nothing is recorded yet of the first process. Create says what became of the hook, and cleans up."""
    hook = Hook(bundle, tmp_path / "hook", kind)
    name = fresh_id()
    creating = spawn(*flags, "create", "--bundle", str(bundle.args("sleep", "1000").save()), name)
    hook.wait()
    cli("delete", "--force", name)
    _, said = creating.communicate(timeout=HANG)
    assert creating.returncode == 1
    assert ("was killed by signal 9" in said) if kind != "createContainer" else said
    nothing_is_left(cli, name)
    hook.gone()


@pytest.mark.parametrize("own", [True, False], ids=["pid namespace", "no pid namespace"])
@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_a_hook_of_start(
    cli: Cli, bundle: TestBundle, tmp_path: Path, spawn: Spawn, kind: str, own: bool
) -> None:  # fmt: skip
    """The first process dies at once, and with it what it waits for; a hook of the host's soon after."""
    if not own:
        spaces = bundle.config["linux"]["namespaces"]
        bundle.config["linux"]["namespaces"] = [space for space in spaces if space["type"] != "pid"]
    hook = Hook(bundle, tmp_path / "hook", kind)
    name = cli.create(bundle.args("sleep", "1000"))
    starting = spawn("start", name)
    hook.wait()
    assert cli.state(name)["pid"]  # who only looks, does not wait
    cli("delete", "--force", name)
    _, said = starting.communicate(timeout=HANG)
    assert starting.returncode == 1
    if kind == "poststart":
        assert "$.hooks.poststart[0]: hook /bin/sh was killed by signal 9" in said
    nothing_is_left(cli, name)
    hook.gone()


def test_a_hook_of_delete(cli: Cli, bundle: TestBundle, tmp_path: Path, spawn: Spawn) -> None:
    """A poststop hook of another delete, which hangs after everything else was removed."""
    hook = Hook(bundle, tmp_path / "hook", "poststop")
    name = cli.start(bundle.args("true"))
    cli.wait_for(name, "stopped")
    deleting = spawn("delete", name)
    hook.wait()
    cli("delete", "--force", name)
    _, said = deleting.communicate(timeout=HANG)
    assert deleting.returncode == 0
    assert "$.hooks.poststop[0]: hook /bin/sh was killed by signal 9" in said
    nothing_is_left(cli, name)
    hook.gone()


def test_a_hook_that_ends(cli: Cli, bundle: TestBundle, tmp_path: Path, spawn: Spawn) -> None:
    """One that ends soon is not killed: it may have half a network in its hands."""
    script = f"touch {tmp_path}/here; sleep 0.3; touch {tmp_path}/done"
    bundle.config["hooks"] = {"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    name = cli.create(bundle.args("sleep", "1000"))
    starting = spawn("start", name)
    until((tmp_path / "here").exists)
    cli("delete", "--force", name)
    starting.communicate(timeout=HANG)
    assert (tmp_path / "done").exists()
    assert starting.returncode == 0
    nothing_is_left(cli, name)


def test_run(cli: Cli, bundle: TestBundle, tmp_path: Path, spawn: Spawn) -> None:
    """The same for a run in the foreground."""
    hook = Hook(bundle, tmp_path / "hook", "poststart")
    name = fresh_id()
    running = spawn("run", "--bundle", str(bundle.args("sleep", "1000").save()), name)
    hook.wait()
    cli("delete", "--force", name)
    _, said = running.communicate(timeout=HANG)
    assert running.returncode == 1
    assert "was killed by signal 9" in said
    nothing_is_left(cli, name)
    hook.gone()


def test_the_library(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """From another thread of the program that starts it; and by the end of a with statement."""
    for way in "delete", "with":
        hook = Hook(bundle, tmp_path / way, "poststart")
        container = Container.create(fresh_id(), Bundle(str(bundle.args("sleep", "1000").save())), root=str(cli.root))
        errors: list[BaseException] = []

        def start(container: Container = container, errors: list[BaseException] = errors) -> None:
            try:
                container.start()
            except LaunchError as error:
                errors.append(error)

        thread = threading.Thread(target=start, daemon=True)
        thread.start()
        hook.wait()
        if way == "delete":
            container.delete(force=True)
        else:
            with container:
                pass
        thread.join(HANG)
        assert not thread.is_alive()
        assert "was killed by signal 9" in str(errors[0])
        nothing_is_left(cli, container.id)
        hook.gone()


def test_a_checkpoint(
    criu: str, cli: Cli, dump: Dump, counter: Counter, tmp_path: Path, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """CRIU, which does not get on: here it is stopped by a signal when it is about to dump."""
    (tmp_path / "bin").mkdir()
    wrapper = tmp_path / "bin/criu"
    wrapper.write_text(
        f"#!/bin/sh\nif mkdir {tmp_path}/asked 2>/dev/null; then exec {criu} \"$@\"; fi\n"  # for its version
        f"touch {tmp_path}/here; kill -STOP $$; exec {criu} \"$@\"\n"
    )
    wrapper.chmod(0o755)
    name = dump.start(counter.bundle)
    counter.goes_on()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    checkpointing = spawn("checkpoint", "--image-path", str(dump.path), name)
    until((tmp_path / "here").exists)
    cli("delete", "--force", name)
    _, said = checkpointing.communicate(timeout=HANG)
    assert checkpointing.returncode == 1
    assert f"CRIU could not checkpoint container '{name}': it ended without a word" in said
    nothing_is_left(cli, name)


def test_kill_does_not_wait(cli: Cli, bundle: TestBundle) -> None:
    """kill takes no lock: it is what ends a command that hangs with the container."""
    name = cli.start(bundle.args("sleep", "1000"))
    fd = os.open(cli.root / name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        cli("kill", name, "KILL")
        cli("kill", "--all", name, "KILL")
        cli.wait_for(name, "stopped")
    finally:
        os.close(fd)
    cli("delete", name)


def test_one_that_holds_it_for_ever(cli: Cli, bundle: TestBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the other command is not to be moved, the container is killed all the same, and the error says why it is
    not removed."""
    monkeypatch.setattr(delete_busy, "PATIENCE", 0.5)
    name = cli.start(bundle.args("sleep", "1000"))
    fd = os.open(cli.root / name, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with Store(str(cli.root)).open(name) as entry, pytest.raises(StateError) as caught:
            remove(entry, force=True)
        assert caught.value.code == "locked"
        assert f"container '{name}' is held by another command, which does not end" in str(caught.value)
        cli.wait_for(name, "stopped")
    finally:
        os.close(fd)
    cli("delete", name)


def test_a_note_of_another_process(cli: Cli, bundle: TestBundle) -> None:
    """What a dead command has noted is not killed if its pid is another's by now; nor what is no note."""
    name = cli.start(bundle.args("sleep", "1000"))
    other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    try:
        fd = os.open(cli.root / name, os.O_RDONLY | os.O_DIRECTORY)
        with Store(str(cli.root)).open(name) as entry:
            for note in f"{other.pid} 1 criu", f"{other.pid} 0 criu", "-1 1 criu", f"{other.pid}", "\0", "":
                (cli.root / name / "busy").write_text(note)
                fcntl.flock(fd, fcntl.LOCK_EX)
                timer = threading.Timer(0.1, fcntl.flock, (fd, fcntl.LOCK_UN))
                timer.start()
                delete_busy.take(entry)
                timer.join()
                fcntl.flock(entry.fd, fcntl.LOCK_UN)
        os.close(fd)
        assert other.poll() is None
    finally:
        os.killpg(other.pid, signal.SIGKILL)
        other.wait()
    cli("delete", "--force", name)


def test_no_note_is_left(cli: Cli, bundle: TestBundle) -> None:
    """The note of a hook goes with it; one that a killed command has left does not keep a delete off."""
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/true"}] for kind in ("createRuntime", "createContainer", "poststart")
    }
    name = cli.create(bundle.args("sleep", "1000"))
    assert not (cli.root / name / "busy").exists()
    cli("start", name)
    assert not (cli.root / name / "busy").exists()
    cli("delete", "--force", name)
    (cli.root / name).mkdir()
    (cli.root / name / "busy").touch()
    cli("delete", name)
