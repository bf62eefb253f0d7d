"""Whatever is fed to ocipy, and whatever system call fails under it, what comes out is an error of its own, in words.

Configs are mutated, and refused or taken; calls are made to fail one by one while the verbs of the library run on real
containers: the error names the call and its reason, and nothing is left.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, Cli, TestBundle, fresh_id, nothing_left, run_here, until
from test_faults import children, descriptors

from ocipy import Container, host, plan
from ocipy.cli import main
from ocipy.config import load
from ocipy.config.bundle import validate_bundle
from ocipy.container.prepare import CreateOptions
from ocipy.errors import Error
from ocipy.kernel import json as _json
from ocipy.kernel import os as _os

PYTHON = ("Traceback", "KeyError", "TypeError", "AttributeError", "ValueError", "OSError", "[Errno", "IndexError")

@pytest.fixture(autouse=True)
def nothing_kept() -> None:
    """Not asked here: a close or waitid that is made to fail leaves what it was for. The tests count the processes and
    cgroups that are left by themselves."""


# --- configs ---


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, -(2**63), 10**30, 1.0, 1.5, "", "a", "/", "/a", "..",
    "a\0b", "\0", "\ud800", "x\udfffy", "\n", "a" * 5000, "/" + "a" * 300, "\u00e9" * 200, [], {}, [[]], [{}], {"": 1},
    {"\0": "x"}, {"\ud800": "x"}, {"": {"a": "\0"}}, {"\n\n": {"a": "\0"}}, {"a": None},
    nested(90), "=", "A=", "A=\ud800", "1-0", [""], ["\ud800"], ["\0"], float("inf"),
)  # fmt: skip
KEYS = ("", "\0", "\ud800", "x", "path", "a\nb", "\n", "annotations")


def places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(inner, (dict, list)):
            found += places(inner)
    return found


def mutated(document: Any, rng: random.Random) -> Any:
    made = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 2))):
        within, key = rng.choice(places(made))
        kind = rng.randrange(4)
        if kind == 0 and isinstance(within, dict):
            within[rng.choice(KEYS)] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 1:
            del within[key]
        else:
            within[key] = copy.deepcopy(rng.choice(VALUES))
    return made


FULL = copy.deepcopy(BASE) | {
    "annotations": {"a": "b"},
    "hooks": {"createRuntime": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"]}]},
}
FULL["linux"] |= {
    "sysctl": {"net.ipv4.ip_forward": "1"}, "cgroupsPath": "/ocipytest-raw",
    "devices": [{"path": "/dev/full", "type": "c", "major": 1, "minor": 7}],
    "resources": {"memory": {"limit": 1 << 28}, "unified": {"a.b": "c"}, "devices": [{"allow": False}]},
    "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]},
}  # fmt: skip


def written(config: Any) -> str:
    return json.dumps(config).replace("Infinity", "1e400")


def test_mutated_configs(tmp_path: Path) -> None:
    """Configs with a wrong value or two: `load` and `validate` agree, in errors of ours; what is taken can be compiled
    and kept."""
    facts, rng = host.facts(), random.Random(1)
    (tmp_path / "rootfs").mkdir()
    for _ in range(2500):
        config = mutated(FULL, rng)
        (tmp_path / "config.json").write_text(text := written(config))
        listed = [fault for fault in validate_bundle(str(tmp_path)) if "existing directory" not in fault.text]
        for fault in listed:
            fault.text.encode()
        try:
            spec = load.load(str(tmp_path))
        except Error as error:
            str(error).encode()
            assert listed, text
            continue
        assert not listed, text
        assert _json.loads(_json.encode(spec)) == spec
        try:
            plan.compile(spec, facts, plan.Options(str(tmp_path), "x", {"": "/sys/fs/cgroup/x"})).encode()
        except Error as error:
            str(error).encode()


@pytest.mark.parametrize(
    "text",
    [
        '{"annotations": {"": {"a": "\\u0000"}}}', '{"annotations": {"\\n": ["\\u0000"]}}',
        f'{{"hostname": {json.dumps(nested(900))}}}', f'{{"hostname": {json.dumps(nested(150))}}}',
        '{"x": 1e400}', '{"x": -1e999}', '{"x": ' + "9" * 5000 + "}", '{"domainname": "\\ud800"}',
    ],
    ids=["nul", "line-feed", "900-levels", "150-levels", "large", "small", "digits", "surrogate"],
)  # fmt: skip
def test_odd_configs(cli: Cli, bundle: TestBundle, text: str) -> None:
    """What JSON allows and nobody can do anything with: refused in words, by create as by validate."""
    bundle.save()
    config = json.dumps(bundle.config)[:-1] + ", " + text[1:]
    (bundle.path / "config.json").write_text(config.replace('"hostname": "box", ', "", text.startswith('{"hostname')))
    for words in ("create", "--bundle", str(bundle.path), fresh_id()), ("validate", str(bundle.path)):
        done = cli(*words, code=1)
        assert not [word for word in (*PYTHON, "int_max_str") if word in done.stderr + done.stdout], done.stderr
        assert "internal" not in done.stderr


def test_half_a_pair_where_it_is_ignored(cli: Cli, bundle: TestBundle) -> None:
    """A property that nobody knows may have any string: validate and create agree on that."""
    bundle.config["org.example"] = {"\ud800": "\udfff"}
    bundle.args("sleep", "1000").save()
    cli("validate", str(bundle.path))
    name = cli.start(bundle)
    assert json.loads((cli.root / name / "config.json").read_text())["org.example"] == {"\ud800": "\udfff"}
    cli("exec", name, "true")
    cli("delete", "--force", name)


def test_a_bundle_in_another_encoding(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A path that is not UTF-8 goes through the state and back."""
    bundle.args("sleep", "1000").save()
    where = os.fsencode(tmp_path) + b"/bundle\xff"
    os.symlink(bundle.path, where)
    name = fresh_id()
    null = subprocess.DEVNULL
    subprocess.run(
        [*cli.command("create", "--bundle"), where, name], check=True, stdin=null, stdout=null, stderr=null
    )
    cli("exec", name, "true")
    cli("delete", "--force", name)


# --- system calls ---

CALLS = (
    "open", "read", "write", "mkdir", "rename", "unlink", "rmdir", "stat", "fstat", "memfd_create", "pidfd_open",
    "waitid", "readlink", "listdir", "close",
)  # fmt: skip


class Faults:
    """Makes the Nth use of a call fail, once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch

    def run(self, name: str, number: int, code: int, act: Callable[[], Any]) -> tuple[bool, BaseException | None]:
        """Returns whether the call came to fail, and what was raised."""
        real, count = getattr(_os, name), 0

        def fail(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                if name == "close":  # the kernel gives the descriptor up nevertheless
                    real(*args, **options)
                raise OSError(code, os.strerror(code))
            return real(*args, **options)

        with self._patch.context() as patch:
            patch.setattr(_os, name, _os.named(name, fail))
            try:
                act()
            except BaseException as error:
                return count >= number, error
        return count >= number, None


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.fixture
def quiet() -> Iterator[CreateOptions]:
    null = os.open("/dev/null", os.O_RDWR)
    yield CreateOptions(stdio=(null,) * 3)
    os.close(null)


def plain(error: BaseException, what: str) -> None:
    assert isinstance(error, Error), (what, error)
    assert not [word for word in PYTHON if word in str(error)], what
    assert error.code != "internal", (what, str(error))


@pytest.mark.parametrize("name", CALLS)
def test_create_with_a_failing_call(
    faults: Faults, bundle: TestBundle, quiet: CreateOptions, tmp_path: Path, name: str
) -> None:
    """Each use of a call in turn fails in create: an error in words, and no process, descriptor, cgroup or state left;
    or it did not matter, and the container is there."""
    bundle.args("sleep", "1000").save()
    root = str(tmp_path / "state")
    with Container.create(fresh_id(), str(bundle.path), root=root, options=quiet):
        pass  # what is kept for good is made by the first one
    before, children_before = descriptors(), children()
    for number in range(1, 400):
        made = fresh_id()
        code = (errno.EIO, errno.ENOSPC, errno.EMFILE, errno.ENOMEM, errno.EACCES)[number % 5]
        what = f"{name} {number}"
        failed, error = faults.run(
            name, number, code, lambda made=made: Container.create(made, str(bundle.path), root=root, options=quiet)
        )
        if not failed:
            Container.load(made, root=root).delete(force=True)
            break
        if error is not None:
            plain(error, what)
        left = Path(root, made)
        if left.exists():
            assert error is None or "delete --force" in "".join(getattr(error, "__notes__", ())), what
            Container.load(made, root=root).delete(force=True)
        until(lambda: children() == children_before or not _zombies(), what=what)
        assert nothing_left(tmp_path) == [], what
        error = None
        if name != "close":  # where several are closed in a row, the later ones stay open
            assert descriptors() == before, what


def _zombies() -> int:
    """Reap what a create that succeeded has left as ours."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0]
    except ChildProcessError:
        return 0


@pytest.mark.parametrize("name", CALLS)
def test_exec_with_a_failing_call(
    faults: Faults, bundle: TestBundle, quiet: CreateOptions, tmp_path: Path, name: str
) -> None:
    """The same for exec: where it says that it failed, no process of it runs; where a process runs, it says so."""
    bundle.args("sleep", "1000").save()
    root = str(tmp_path / "state")
    with Container.run(fresh_id(), str(bundle.path), root=root, options=quiet) as container:
        for number in range(1, 400):
            what = f"{name} {number}"
            made: list[Any] = []
            failed, error = faults.run(
                name, number, errno.EIO,
                lambda made=made: made.append(container.exec(["sleep", "1001"], stdio=quiet.stdio)),
            )  # fmt: skip
            pids = container.pids()
            if error is not None:
                plain(error, what)
                assert len(pids) == 1, what
            else:
                assert len(pids) == 2, what
                signal.pidfd_send_signal(made[0].pidfd, signal.SIGKILL)
                made[0].wait(20)
            if not failed:
                break


@pytest.mark.parametrize("verb", ["start", "kill", "pause", "update", "state", "delete"])
def test_verbs_with_a_failing_call(
    faults: Faults, bundle: TestBundle, quiet: CreateOptions, tmp_path: Path, verb: str
) -> None:
    """And for what is done with a container: an error in words, after which delete still removes it."""
    bundle.args("sleep", "1000").save()
    root = str(tmp_path / "state")
    for name in CALLS:
        for number in range(1, 12):
            with Container.create(fresh_id(), str(bundle.path), root=root, options=quiet) as container:
                act = {
                    "start": container.start, "kill": lambda c=container: c.kill(0), "pause": container.pause,
                    "update": lambda c=container: c.update({"pids": {"limit": 100}}), "state": container.state,
                    "delete": lambda c=container: c.delete(force=True),
                }[verb]  # fmt: skip
                failed, error = faults.run(name, number, errno.EIO, act)
                if error is not None:
                    plain(error, f"{verb} {name} {number}")
            if not failed:
                break
    assert nothing_left(tmp_path) == []


def test_exec_that_can_not_stay(
    cli: Cli, bundle: TestBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An exec in the foreground that can't wait for its process ends it: failure was reported."""
    name = cli.start(bundle.args("sleep", "1000"))

    def fail(*_: Any) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    from ocipy.console import foreground

    with monkeypatch.context() as patch:
        patch.setattr(foreground, "become_subreaper", lambda: None)
        patch.setattr(foreground, "hold_signals", lambda: None)
        patch.setattr(foreground, "attend", fail)
        pid_file = tmp_path / "pid"
        words = ["exec", "--pid-file", str(pid_file), name, "sleep", "1001"]
        assert run_here("--root", str(cli.root), *words) == 255
    assert capsys.readouterr().err == "ocipy: exec failed: too many open files\n"
    assert len(json.loads(cli("ps", "--format", "json", name).stdout)) == 1
    assert not pid_file.exists()
    cli("delete", "--force", name)


def test_defect_in_words(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A defect of ours is called that, and --debug shows where it is; the name of an exception helps nobody."""
    from ocipy.cli import features

    def fail(*_: Any) -> int:
        raise KeyError("x")

    monkeypatch.setattr(features, "run", fail)
    assert run_here("features") == 1
    assert capsys.readouterr().err == "ocipy: internal error in features (--debug shows where)\n"
    with pytest.raises(KeyError):
        main.run(["--debug", "features"])
