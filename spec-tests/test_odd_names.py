"""Names with letters that Python takes for the end of a line, or for a space, and the kernel does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from criu_tools import Counter, Dump
from criu_tools import counter as counter  # a fixture
from criu_tools import criu as criu  # a fixture
from criu_tools import dump as dump  # a fixture

from ocipy import host
from ocipy.cgroups import resctrl_groups
from ocipy.checkpoint import external_resources

#: str.splitlines() splits at all of them, str.split() as well
LETTERS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
CRIUS = LETTERS.translate(dict.fromkeys(map(ord, "\v\f")))
#: what the kernel writes as an octal number in mountinfo
ESCAPED = " \t\n\\"


@pytest.fixture(name="mounted")
def mounted_fixture(tmp_path: Path) -> Path:
    """A name of all of these letters, for a directory."""
    path = tmp_path / f"a{LETTERS}b{ESCAPED}c"
    path.mkdir()
    return path


def test_mount_table(mounted: Path) -> None:
    """A mount below such a directory reads as it is called, and the mounts after it are read."""
    subprocess.run(["mount", "-t", "tmpfs", f"from{LETTERS}", mounted], check=True)
    last = mounted.parent / "last"
    last.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "none", last], check=True)
        try:
            points = external_resources.mount_points(os.getpid())
        finally:
            subprocess.run(["umount", last], check=True)
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert {str(mounted), str(last)} <= points


def test_hierarchies_in_odd_places() -> None:
    """The cgroup hierarchies are found beside mounts of such names, and in places of such names."""
    table = (
        f"1 0 0:1 / /mnt/a{LETTERS}b rw - tmpfs x{LETTERS} rw\n"
        f"2 0 0:2 / /cg{LETTERS}\\040roup rw - cgroup2 cgroup2 rw\n"
        "3 0 0:3 /a\\040b /cpu rw - cgroup cgroup rw,cpu\n"
    )
    found = host.parse_cgroups(table, f"1:cpu:/a b/c{LETTERS}\n0::/x\v/y\n")
    where = {hierarchy.controllers: hierarchy.directory() for hierarchy in found.hierarchies}
    assert where == {(): f"/cg{LETTERS} roup/x\v/y", ("cpu",): f"/cpu/c{LETTERS}"}


def test_resctrl_in_an_odd_place() -> None:
    assert resctrl_groups.find(f"1 0 0:1 / /r{LETTERS}\\040\\134 rw - resctrl resctrl rw\n") == f"/r{LETTERS} \\"


def test_checkpoint(criu: str, dump: Dump, counter: Counter, tmp_path: Path) -> None:
    """A bind mount whose source has such a name does not stop a checkpoint, nor a restore. (Vertical tab and form feed
    do: CRIU itself takes them for a space.)"""
    point = f"/mnt{CRIUS}"
    source = tmp_path / (f"a{CRIUS}b{ESCAPED}c")
    source.mkdir()
    counter.bundle.config["mounts"].append(
        {"destination": point, "type": "bind", "source": str(source), "options": ["bind", "rw"]}
    )
    name = dump.start(counter.bundle)
    before = counter.goes_on()
    dump.checkpoint(name)
    dump.restore(counter.bundle, name)
    counter.goes_on(before)
    dump.cli("delete", "--force", name)
