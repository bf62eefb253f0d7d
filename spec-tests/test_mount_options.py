"""config.md#linux-mount-options: words of the table whose effect is to undo another, or that only some kernels show.
(test_mounts.py has the others.)"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, mounts


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory of the host with a noatime tmpfs mounted in it."""
    sub = tmp_path / "tree/sub"
    sub.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "noatime", "tree-sub", sub], check=True)
    yield sub.parent
    subprocess.run(["umount", sub], check=True)


def add(bundle: TestBundle, destination: str, source: str, *options: str) -> None:
    kind = {} if "rbind" in options or "bind" in options else {"type": "tmpfs"}
    bundle.config["mounts"].append({"destination": destination, "source": source, "options": list(options), **kind})


@pytest.mark.spec("config#linux-mount-options-3", "config#linux-mount-options-9")
def test_norelatime(cli: Cli, bundle: TestBundle, tree: Path) -> None:
    """`norelatime`: access times are not relative, but updated always; rnorelatime in the whole tree."""
    add(bundle, "/new", "tmpfs", "norelatime")
    add(bundle, "/bound", str(tree), "bind", "relatime", "norelatime")
    add(bundle, "/tree", str(tree), "rbind", "rnorelatime")
    found = mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout)
    for point in ("/new", "/bound", "/tree", "/tree/sub"):
        assert not {"relatime", "noatime"} & found[point].options, point


@pytest.mark.spec("config#linux-mount-options-18")
def test_options_in_one_string(cli: Cli, bundle: TestBundle) -> None:
    """Options of the file system, as the kernel parts them; an empty one is none."""
    add(bundle, "/m", "tmpfs", "", "size=1m,mode=0711,,uid=5", "nosuid")
    add(bundle, "/bound", str(bundle.path), "bind", "", "ro")
    done = cli.run(bundle.sh("cat /proc/self/mountinfo; stat -c '%a %u' /m"))
    found = mounts(done.stdout)
    assert {"size=1024k", "mode=711", "uid=5"} <= found["/m"].superblock
    assert "nosuid" in found["/m"].options
    assert done.stdout.endswith("711 5\n")
    assert done.stderr == ""


@pytest.mark.spec("config#linux-mount-options-4")
def test_superblock_words_are_taken_back(cli: Cli, bundle: TestBundle) -> None:
    """`nolazytime` after `lazytime` and `async` after `sync`, in this order and no other; `noiversion`, `silent` and
    `loud` show nowhere, and are not passed to the file system, which would refuse them."""
    add(bundle, "/off", "tmpfs", "lazytime", "nolazytime", "sync", "async", "iversion", "noiversion", "silent", "loud")
    add(bundle, "/on", "tmpfs", "nolazytime", "lazytime", "async", "sync", "loud", "silent")
    found = mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout)
    assert not {"lazytime", "sync"} & found["/off"].superblock
    assert {"lazytime", "sync"} <= found["/on"].superblock
