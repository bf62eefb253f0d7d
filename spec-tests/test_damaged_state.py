"""A state directory that is damaged: every command says what is wrong, and `delete --force` gets rid of it.

What is left of the state decides what is killed and removed; so it must not lead to anything that is not the
container's: another process, another directory.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, cgroups_left, fresh_id, run_here, until

from ocipy import Container
from ocipy.container.prepare import CreateOptions
from ocipy.store import shape

PYTHON = (
    "Error:", "Traceback", "KeyError", "TypeError", "AttributeError", "ValueError", "OSError", "Errno", "IndexError",
)  # fmt: skip
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("state", "ID"), ("kill", "ID", "0"), ("kill", "--all", "ID", "0"), ("start", "ID"), ("delete", "ID"), ("ps", "ID"),
    ("ps", "--format", "json", "ID"), ("pause", "ID"), ("resume", "ID"), ("update", "--pids-limit", "100", "ID"),
    ("events", "--stats", "ID"), ("exec", "--detach", "ID", "true"), ("checkpoint", "--image-path", "TMP/images", "ID"),
)  # fmt: skip
ABSENT = object()
WRONG: tuple[Any, ...] = (None, True, 7, -1, 1.5, 1 << 70, "", "text", "a\0b", "\ud800", [], [1], {}, {"a": 1})


def places(value: dict[str, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a state: the path of each member, at every level."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, (dict, list)):
            yield from places(inner, (*path, key))


def changed(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    made = copy.deepcopy(state)
    within: Any = made
    for step in path[:-1]:
        within = within[step]
    if value is ABSENT:
        del within[path[-1]]
    else:
        within[path[-1]] = value
    return made


@pytest.fixture
def created(bundle: TestBundle, tmp_path: Path) -> Iterator[Callable[[], Container]]:
    """Makes containers below tmp_path/state, and removes what is left of them in the end."""
    hook = {"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}
    bundle.config["hooks"] = {kind: [hook] for kind in shape.HOOKS}
    bundle.config["annotations"] = {"org.example": "value"}
    bundle.args("sleep", "1000").save()
    null = os.open("/dev/null", os.O_RDWR)
    made: list[tuple[Container, dict[str, Any]]] = []

    def make() -> Container:
        container = Container.create(
            fresh_id(), str(bundle.path), root=str(tmp_path / "state"), options=CreateOptions(stdio=(null,) * 3)
        )
        made.append((container, json.loads((tmp_path / "state" / container.id / "state.json").read_text())))
        return container

    yield make
    for container, state in made:
        assert container.init is not None
        if container.init.pidfd >= 0:
            signal.pidfd_send_signal(container.init.pidfd, signal.SIGKILL)
            container.wait(20)
        for directory in set(state["cgroup"]["paths"].values()):
            if os.path.exists(directory):
                os.rmdir(directory)
    os.close(null)


def check_all(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, damaged: bool = True) -> None:
    """Run every command on a damaged container: all of them fail, in plain words."""
    for words in COMMANDS:
        argv = [word.replace("ID", name).replace("TMP", str(tmp_path)) for word in words]
        code = run_here("--root", str(tmp_path / "state"), *argv)
        err = capsys.readouterr().err
        assert not [word for word in PYTHON if word in err], (what, words, err)
        if damaged:
            assert code, (what, words)
            assert f"{name}/state.json is damaged: " in err, (what, words, err)


def test_texts(created: Callable[[], Container], tmp_path: Path) -> None:
    """A string that the kernel can't take, for a NUL or for half of a surrogate pair, is wrong wherever one stands. But
    annotations go nowhere."""
    container = created()
    sound = json.loads((tmp_path / "state" / container.id / "state.json").read_text())
    found = set()
    for path in places(sound):
        text: Any = sound
        for step in path:
            text = text[step]
        if type(text) is str:
            faults = [shape.wrong(changed(sound, path, text + end), container.id) for end in ("\0", "\ud800")]
            if path[0] != "annotations":
                assert all(faults), path
            found.add(path[0])
    assert {"annotations", "bundle", "cgroup", "hooks"} <= found


def test_every_field(created: Callable[[], Container], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each field of a real record is left out, and has each wrong value in turn: what is wrong is named and nothing is
    done; `list` goes on. `delete --force` removes the container by what is left: by its process, or its cgroup."""
    root = tmp_path / "state"
    container, other = created(), created()
    file = root / container.id / "state.json"
    sound = json.loads(file.read_text())
    assert shape.wrong(sound, container.id) == ""
    for path in places(sound):
        for value in (ABSENT, *WRONG):
            made = changed(sound, path, value)
            fault = shape.wrong(made, container.id)
            if not fault:
                continue  # another value of the same type, say
            what = f"{path}: {value!r}"
            assert str(path[0]) in fault, what
            file.write_text(json.dumps(made))
            if value in (ABSENT, None) or len(path) == 1:
                check_all(container.id, tmp_path, capsys, what)
                for flags in ((), ("--format", "json"), ("--quiet",)):
                    assert run_here("--root", str(root), "list", *flags) == 0
                    out, err = capsys.readouterr()
                    assert other.id in out, what
                    assert container.id not in out, what
                    assert f"{container.id}/state.json is damaged: {fault}" in err, what
    file.write_text(json.dumps(sound))
    assert container.status == "created"
    for path in places(sound):
        for value in (ABSENT, None, "\ud800", -1):
            if not shape.wrong(changed(sound, path, value), container.id):
                continue
            if path[-1] not in sound and path[0] not in ("cgroup", "hooks"):
                continue
            doomed = created()
            place = root / doomed.id
            state = json.loads((place / "state.json").read_text())
            (place / "state.json").write_text(json.dumps(changed(state, path, value)))
            assert run_here("--root", str(root), "delete", "--force", doomed.id) == 0, capsys.readouterr().err
            assert "poststop hooks were not run" in capsys.readouterr().err
            assert not place.exists()
            # a number or a cgroup is left to find it by
            until(lambda doomed=doomed: doomed.init.wait(20) == 137, what=f"{path}: {value!r}")
    for left in (container, other):
        left.delete(force=True)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", "\xff", "[" * 5000, '{"a":1,"a":2}', '{"cgroup":{}}', '{"pid":' + "9" * 5000 + "}"],
    ids=["empty", "cut", "list", "null", "none", "encoding", "deep", "twice", "cgroup", "digits"],
)  # fmt: skip
def test_whole_file(
    cli: Cli, created: Callable[[], Container], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A state that is nothing at all, by the installed command as well."""
    name = created().id
    (cli.root / name / "state.json").write_bytes(text.encode("latin-1"))
    check_all(name, tmp_path, capsys, text[:20])
    assert "is damaged" in cli("list").stderr
    for words in ("state",), ("kill",), ("start",), ("delete",):
        done = cli(*words, name, code=1)
        assert "state.json is damaged" in done.stderr
    assert "may be left" in cli("delete", "--force", name).stderr
    assert not (cli.root / name).exists()


def directory(path: Path) -> None:
    (path / "a/b").mkdir(parents=True)
    (path / "a/file").write_text("x")


def link(path: Path) -> None:
    (path.parent.parent.parent / "precious").write_text("{}")
    path.symlink_to("../../precious")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


KINDS = [directory, os.mkfifo, link, huge, lambda path: path.write_text("[]")]
NAMES = ["directory", "fifo", "link", "huge", "list"]


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_kinds_of_files(
    cli: Cli, created: Callable[[], Container], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    kind: Callable[[Path], Any],
) -> None:  # fmt: skip
    """A state.json that is a directory, a FIFO, a link, huge or a list: no command hangs or follows it."""
    name = created().id
    file = cli.root / name / "state.json"
    file.unlink()
    kind(file)
    check_all(name, tmp_path, capsys, "kind")
    for words in ("state",), ("start",), ("kill",):
        assert "state.json is damaged" in cli(*words, name, code=1).stderr
    cli("delete", "--force", name)
    assert not (cli.root / name).exists()
    assert (tmp_path / "precious").exists() == (kind is link)


@pytest.mark.parametrize("kind", [*KINDS, lambda path: None], ids=[*NAMES, "missing"])
def test_config(cli: Cli, bundle: TestBundle, kind: Callable[[Path], Any]) -> None:
    """The recorded config, in the same ways, and with wrong types in it: what needs it says so, the rest goes on."""
    name = cli.start(bundle.args("sleep", "1000"))
    file = cli.root / name / "config.json"
    for text in ('{"process": []}', '{"linux": 5}', "{}", '{"process": {"args": ["\\ud800"]}}'):
        file.write_text(text)
        done = cli("exec", name, "true", code=255)
        assert f"{name}/config.json is damaged: $" in done.stderr
        assert not [word for word in PYTHON if word in done.stderr]
    file.unlink()
    kind(file)
    for words in ("exec", "--detach", name, "true"), ("checkpoint", "--image-path", str(bundle.path / "i"), name):
        done = cli(*words, code=None)
        assert done.returncode
        assert not [word for word in PYTHON if word in done.stderr]
    assert f"{name}/config.json is damaged" in cli("exec", name, "true", code=255).stderr
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)
    assert not (cli.root / name).exists()


def test_start_explains_without_the_config(cli: Cli, bundle: TestBundle) -> None:
    """What fails in start is told even if its place in the config can't be."""
    script = bundle.rootfs / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    name = cli.create(bundle.args("/script"))
    script.write_text("#!/none\n")
    (cli.root / name / "config.json").write_text("{")
    done = cli("start", name, code=1)
    assert "the interpreter of its #! line, /none" in done.stderr.splitlines()[-1]
    assert "config.json is damaged" in done.stderr
    cli("delete", name)


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_brief(cli: Cli, bundle: TestBundle, kind: Callable[[Path], Any]) -> None:
    """A brief that is damaged is of no effect: the interpreter does without it."""
    name = cli.create(bundle.args("sleep", "1000"))
    file = cli.root / name / "brief"
    file.unlink()
    kind(file)
    assert cli.state(name)["status"] == "created"
    cli("start", name)
    assert cli.state(name)["status"] == "running"
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    cli("delete", name)
    assert not (cli.root / name).exists()


def test_other_processes(cli: Cli, created: Callable[[], Container], tmp_path: Path) -> None:
    """A number that is this process's, the first of the machine, or of another start time: nothing else is killed."""
    bystander = subprocess.Popen(["sleep", "1000"])
    try:
        for pid in 1, 0, -1, os.getpid(), bystander.pid, 1 << 40:
            name = created().id
            file = cli.root / name / "state.json"
            started = 0
            if 0 < pid < 1 << 30:
                started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
            state = json.loads(file.read_text())
            state |= {"pid": pid, "start_time": started + (pid == bystander.pid), "cgroup": 5}
            file.write_text(json.dumps(state))
            cli("delete", "--force", name)
            assert not (cli.root / name).exists()
            assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_other_directories(cli: Cli, created: Callable[[], Container], tmp_path: Path) -> None:
    """Recorded cgroups that are elsewhere, the root of a hierarchy, or what this process is in are left alone: nothing
    in them is killed, and no directory is removed."""
    empty = tmp_path / "empty"
    empty.mkdir()
    name = created().id
    file = cli.root / name / "state.json"
    sound = json.loads(file.read_text())
    key, path = next(iter(sound["cgroup"]["paths"].items()))
    mount = path.removesuffix(f"/{name}")
    for other in (str(empty), mount, "/", f"{path}/../..", f"{path}/", "relative", f"/{path}", os.path.dirname(mount)):
        state = changed(sound, ("cgroup", "paths", key), other)
        file.write_text(json.dumps(state))
        done = cli("state", name, code=1)
        assert "state.json is damaged: cgroup.paths" in done.stderr, other
        assert "cgroup.paths" in cli("kill", "--all", name, code=1).stderr, other
    file.write_text(json.dumps(changed(sound, ("cgroup", "paths", key), str(empty))))
    assert "its cgroup" in cli("delete", "--force", name).stderr
    assert empty.is_dir()
    assert not (cli.root / name).exists()


def test_foreign_directory(cli: Cli) -> None:
    """With the wrong --root, a state.json of another program does not make delete --force empty its directory."""
    (cli.root / "box").mkdir(parents=True)
    (cli.root / "box/state.json").write_text('{"theirs": 1}')
    (cli.root / "box/data").write_text("precious")
    assert "it has 'data' in it" in cli("delete", "--force", "box", code=1).stderr
    assert (cli.root / "box/data").read_text() == "precious"
    subprocess.run(["rm", "-rf", "--one-file-system", cli.root / "box"], check=True)


def test_mounted_in(cli: Cli, created: Callable[[], Container], tmp_path: Path) -> None:
    """What is mounted in a damaged state directory is not emptied with it."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/precious").write_text("x")
    name = created().id
    file = cli.root / name / "state.json"
    file.unlink()
    (file / "point").mkdir(parents=True)
    subprocess.run(["mount", "--bind", tmp_path / "volume", file / "point"], check=True)
    try:
        assert f"something is mounted on {file}/point" in cli("delete", "--force", name, code=1).stderr
    finally:
        subprocess.run(["umount", file / "point"], check=True)
    assert (tmp_path / "volume/precious").exists()
    cli("delete", "--force", name)
    assert not [path for path in cgroups_left() if name in path and not os.path.exists(path)]


def test_recorded_resctrl_groups() -> None:
    """What is recorded of resctrl names a group right in its root, and for one of its own that of the container."""
    sound = {"root": "/r", "group": "/r/box", "monitor": "/r/box/mon_groups/box", "fate": "own"}
    assert shape.rdt(sound, "box") == ""
    shared = sound | {"fate": "shared"}
    for more in ({"monitor": ""}, {"group": "/r", "monitor": "/r/mon_groups/box"}, {"group": "/r/x", "monitor": ""}):
        assert shape.rdt(shared | more, "box") == ""
    for wrong, where in (
        (sound | {"group": "/r/other", "monitor": ""}, "group"), (sound | {"group": "/r", "monitor": ""}, "group"),
        (shared | {"group": "/etc", "monitor": ""}, "group"), (shared | {"group": "/r/a/b", "monitor": ""}, "group"),
        (shared | {"group": "/rr/a", "monitor": ""}, "group"), (sound | {"monitor": "/r/box"}, "monitor"),
        (sound | {"monitor": "/r/box/mon_groups/other"}, "monitor"), (sound | {"fate": "new"}, "fate"),
        (sound | {"root": "r"}, "root"),
    ):  # fmt: skip
        assert f"intel_rdt.{where}" in shape.rdt(wrong, "box"), wrong
