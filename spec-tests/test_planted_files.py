"""Files that ocipy writes in a directory that others may write to: nothing that they put there is followed or in the
way."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id
from criu_tools import Counter, Dump
from criu_tools import counter as counter  # a fixture
from criu_tools import criu as criu  # a fixture
from criu_tools import dump as dump  # a fixture

from ocipy.container.create import write_pid_file

AHEAD = 3000  # pids that may be taken until the container gets one


def link(path: Path) -> None:
    path.symlink_to(path.parent / "victim")


def directory(path: Path) -> None:
    (path / "inner").mkdir(parents=True)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def file(path: Path) -> None:
    path.write_text("theirs")


@pytest.fixture(name="shared")
def shared_fixture(tmp_path: Path) -> Path:
    """A directory, and in it a file that is not to be touched."""
    path = tmp_path / "shared"
    path.mkdir()
    (path / "victim").write_text("precious")
    return path


@pytest.mark.parametrize("plant", [link, directory, fifo, file])
def test_pid_file_beside_others(cli: Cli, bundle: TestBundle, shared: Path, plant: Callable[[Path], None]) -> None:
    """The temporary file of a pid file has a name that can't be told beforehand, as it once had: by the pid."""
    pids = Path("/proc/loadavg").read_text().split()[-1]
    for pid in range(int(pids), int(pids) + AHEAD):
        plant(shared / f".pid.{pid}")
    cli.create(bundle.args("sleep", "1000"), "--pid-file", str(shared / "pid"), name=(name := fresh_id()))
    assert (shared / "pid").read_text() == str(cli.state(name)["pid"])
    assert (shared / "victim").read_text() == "precious"
    assert len(list(shared.iterdir())) == AHEAD + 2
    cli("delete", "--force", name)


def test_pid_file_of_a_known_pid(shared: Path) -> None:
    """The same for a pid that the others know; a pid file that is a link itself is replaced, and not followed."""
    link(shared / ".pid.1234")
    link(shared / "pid")
    write_pid_file(str(shared / "pid"), 1234)
    assert not (shared / "pid").is_symlink()
    assert (shared / "pid").read_text() == "1234"
    assert (shared / "victim").read_text() == "precious"


@pytest.mark.parametrize("name", ["p" * 255, "p"])
def test_pid_file_of_a_long_name(shared: Path, name: str) -> None:
    """The temporary file's name does not depend on the pid file's, which may be as long as a name can be."""
    write_pid_file(str(shared / name), 7)
    assert (shared / name).read_text() == "7"
    assert sorted(path.name for path in shared.iterdir()) == sorted([name, "victim"])


def test_descriptors_of_a_checkpoint(criu: str, dump: Dump, counter: Counter, shared: Path) -> None:
    """The file that a checkpoint adds to the images is written anew, whatever had its name."""
    dump.path.mkdir()
    (dump.path / "descriptors.json").symlink_to(shared / "victim")
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name, "--leave-running")
    (dump.path / "descriptors.json").unlink()
    (dump.path / "descriptors.json").symlink_to(shared / "nowhere")
    dump.checkpoint(name)
    assert (shared / "victim").read_text() == "precious"
    assert not (shared / "nowhere").exists()
    assert len(json.loads((dump.path / "descriptors.json").read_text())) == 3


def test_descriptors_can_not_be_replaced(criu: str, dump: Dump, counter: Counter) -> None:
    """A directory in its place is an error that says so, and the container goes on."""
    directory(dump.path / "descriptors.json")
    name = dump.start(counter.bundle)
    before = counter.goes_on()
    assert "descriptors.json: is a directory" in dump.checkpoint(name, code=1).stderr
    counter.goes_on(before)
    dump.cli("delete", "--force", name)
