"""What checkpoint and restore refuse: before anything is made, or with nothing left of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import OCIPY, Cli, TestBundle, fresh_id
from criu_tools import Counter, Dump, counter, criu, dump

__all__ = ["counter", "criu", "dump"]

#: a criu that only tells a version, which is too old
OLD = f"""#!{sys.executable}
import socket
with socket.socket(fileno=3) as server:
    assert server.recv(100) == bytes([8, 10])
    server.send(bytes([8, 10, 16, 1, 82, 4, 8, 3, 16, 10]))
"""


def test_status(cli: Cli, bundle: TestBundle, dump: Dump) -> None:
    """A container that is not started, or has ended, is not checkpointed; nor one that does not exist."""
    name = cli.create(bundle)
    assert "in created state" in dump.checkpoint(name, code=1).stderr
    cli("start", name)
    cli.wait_for(name, "stopped")
    assert "in stopped state" in dump.checkpoint(name, code=1).stderr
    assert "does not exist" in dump.checkpoint(fresh_id(), code=1).stderr
    assert not dump.path.exists()
    cli("delete", name)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--manage-cgroups-mode", "hard"], "'hard' is none of ignore, soft, full, strict"),
        (["--empty-ns", "ipc"], "'ipc' is none of network"),
        (["--page-server", "nowhere"], "--page-server"),
        (["--page-server", ":7"], "--page-server"),
        (["--page-server", "127.0.0.1:70000"], "--page-server"),
        (["--status-fd", "77", "--lazy-pages"], "--status-fd 77: bad file descriptor"),
        (["--status-fd", "0", "--lazy-pages"], "--status-fd 0: not writable"),
        (["--status-fd", "-1"], "--status-fd"),
        (["--lazy-pages"], "--lazy-pages: takes --page-server too"),
        (["--page-server", "127.0.0.1:1"], "Can't connect to server 127.0.0.1:1"),
        (["--status-fd", "2"], "only with --lazy-pages"),
        (["--parent-path", "/tmp"], "--parent-path must be relative"),
        (["--parent-path", "../none"], "--parent-path ../none: no such file or directory"),
        (["--image-path", "/proc/none"], "--image-path /proc/none"),
        (["--image-path", "/dev/null"], "--image-path /dev/null: not a directory"),
        (["--work-path", "/proc/none"], "--work-path /proc/none"),
    ],
)
def test_flags(criu: str, cli: Cli, counter: Counter, dump: Dump, flags: list[str], words: str) -> None:
    """Bad flags of checkpoint; the container goes on."""
    name = dump.start(counter.bundle)
    with open(os.devnull) as null:
        done = cli("checkpoint", "--image-path", str(dump.path), *flags, name, code=1, stdin=null)
    assert words in done.stderr.splitlines()[-1]
    counter.goes_on()
    cli("delete", "--force", name)


def test_no_criu(cli: Cli, counter: Counter, dump: Dump, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without CRIU, the error names the package; with one that is too old, its version."""
    name = dump.start(counter.bundle)
    monkeypatch.setenv("PATH", str(tmp_path))
    line = dump.checkpoint(name, code=1).stderr
    assert "criu is not installed" in line
    assert "package is called criu" in line
    fake = tmp_path / "criu"
    fake.write_text(OLD)
    fake.chmod(0o755)
    assert "criu 3.10.0 is too old" in dump.checkpoint(name, code=1).stderr
    fake.write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    assert "broken" in dump.checkpoint(name, code=1).stderr
    assert not dump.path.exists()
    dump.path.mkdir()
    (dump.path / "descriptors.json").write_text("[]")
    dump.restore(counter.bundle, fresh_id(), code=1)
    assert "broken" in dump.said
    counter.goes_on()
    cli("delete", "--force", name)


def test_not_root(open_bundle: TestBundle) -> None:
    """Without root it is refused at once."""
    top = open_bundle.save().parent
    (top / "images").mkdir()
    (top / "images/descriptors.json").write_text("[]")
    words = ["--root", f"{top}/state", "restore", "--image-path", f"{top}/images", "--bundle", str(open_bundle.path)]
    setpriv = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    done = subprocess.run([*setpriv, OCIPY, *words, fresh_id()], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "take root" in done.stderr


def test_no_images(criu: str, bundle: TestBundle, dump: Dump) -> None:
    """A directory without a checkpoint is refused before anything is made."""
    dump.restore(bundle, fresh_id(), code=1)
    assert f"--image-path {dump.path}: no such file or directory" in dump.said
    dump.path.mkdir()
    dump.restore(bundle, fresh_id(), code=1)
    assert "no complete checkpoint" in dump.said
    assert list(dump.path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "nonsense", "{}", "7", '"pipe:[1]"', "[1]", '["", null, ""]', '[["a"]]', '{"0": "a"}']
)
def test_damaged_descriptors(criu: str, bundle: TestBundle, dump: Dump, text: str) -> None:
    """A list of streams that is none: an error that names the file."""
    dump.path.mkdir()
    (dump.path / "descriptors.json").write_text(text)
    dump.restore(bundle, fresh_id(), code=1)
    assert dump.said.splitlines()[-1].startswith(f"ocipy: {dump.path}/descriptors.json")


def test_no_pivot(criu: str, bundle: TestBundle, dump: Dump) -> None:
    """--no-pivot has no meaning to CRIU, and is refused by name."""
    dump.restore(bundle, fresh_id(), "--no-pivot", code=1)
    assert "--no-pivot" in dump.said


def test_id_in_use(criu: str, cli: Cli, counter: Counter, dump: Dump) -> None:
    """The id of a container that exists: that is left alone."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name, "--leave-running")
    dump.restore(counter.bundle, name, code=1)
    assert "exists" in dump.said
    counter.goes_on()
    cli("delete", "--force", name)


@pytest.mark.parametrize("lost", ["pstree.img", "core-1.img", "inventory.img"])
def test_broken_images(criu: str, cli: Cli, counter: Counter, dump: Dump, lost: str, tmp_path: Path) -> None:
    """Images that are not whole: CRIU's words and the name of its log, and nothing is left (the fixture looks for
    cgroups, mounts, processes and state)."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    (dump.path / lost).write_bytes(b"")
    pid_file = tmp_path / "pid"
    dump.restore(counter.bundle, name, "--pid-file", str(pid_file), code=1)
    line = dump.said.splitlines()[-1]
    assert "Error (" in line
    assert f"{dump.path}/restore.log" in line
    assert not pid_file.exists()
    assert not (cli.root / name).exists()


def test_failed_checkpoint_over_another(criu: str, cli: Cli, counter: Counter, dump: Dump) -> None:
    """A checkpoint that fails halfway has overwritten images of an earlier one: those are not taken for whole."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name, "--leave-running")
    (dump.path / "inventory.img").unlink()
    (dump.path / "inventory.img").mkdir()
    dump.checkpoint(name, "--leave-running", code=1)
    counter.goes_on()
    dump.restore(counter.bundle, fresh_id(), code=1)
    assert "holds no complete checkpoint" in dump.said
    cli("delete", "--force", name)


def test_unwritable_pid_file(criu: str, cli: Cli, counter: Counter, dump: Dump) -> None:
    """What fails when all is restored, but does not run yet: nothing is left, and nothing has run."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    stopped = counter.value
    dump.restore(counter.bundle, name, "--pid-file", "/proc/none/pid", code=1)
    assert "can't write the pid file" in dump.said
    assert counter.value == stopped


def test_lost_source(criu: str, cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """The source of a bind mount is gone: the error has its config path."""
    source = tmp_path / "source"
    source.mkdir()
    counter.bundle.config["mounts"].append({"destination": "/mnt", "source": str(source), "options": ["bind"]})
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    source.rmdir()
    dump.restore(counter.bundle, name, code=1)
    assert "$.mounts[5].source" in dump.said


@pytest.mark.parametrize("kind", ["mount", "cgroup"])
def test_joined_namespace(criu: str, bundle: TestBundle, dump: Dump, kind: str) -> None:
    """A mount or cgroup namespace to join: CRIU can't."""
    kinds = [one for one in bundle.config["linux"]["namespaces"] if one["type"] != kind]
    file = {"mount": "mnt"}.get(kind, kind)
    bundle.config["linux"]["namespaces"] = [*kinds, {"type": kind, "path": f"/proc/self/ns/{file}"}]
    dump.restore(bundle, fresh_id(), code=1)
    assert "$.linux.namespaces[" in dump.said


@pytest.mark.parametrize("kind", ["network", "pid", "ipc", "uts"])
def test_lost_namespace(criu: str, cli: Cli, counter: Counter, dump: Dump, tmp_path: Path, kind: str) -> None:
    """A namespace to join that is not there any more is an error of its path, and nothing is left."""
    name = dump.start(counter.bundle)
    cli("checkpoint", "--image-path", str(dump.path), name)
    namespaces = counter.bundle.config["linux"]["namespaces"]
    index = next(at for at, ns in enumerate(namespaces) if ns["type"] == kind)
    namespaces[index]["path"] = str(tmp_path / "none")
    dump.restore(counter.bundle, name, code=1)
    assert f"$.linux.namespaces[{index}].path: can't open {tmp_path}/none: open: no such file" in dump.said


def test_network_devices(criu: str, bundle: TestBundle, dump: Dump) -> None:
    """config-linux.md#network-devices: a restore moves none, and says so."""
    bundle.config["linux"]["netDevices"] = {"eth7": {}}
    dump.restore(bundle, fresh_id(), code=1)
    assert "$.linux.netDevices" in dump.said
