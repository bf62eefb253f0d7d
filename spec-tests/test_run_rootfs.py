"""run --rootfs: a container from nothing but a root file system, in one command."""

from __future__ import annotations

import os

from conftest import Cli, TestBundle, fresh_id
from unprivileged import (
    UID,
    User,
    box_fixture,  # noqa: F401
    last,
    user_fixture,  # noqa: F401
)


def test_one_command(user: User, box: TestBundle) -> None:
    """run --rootfs: all that a user needs is a root file system; nothing but its mount points is left behind."""
    (box.path / "config.json").unlink()
    before = sorted(path.name for path in box.rootfs.iterdir())
    done = user("run", "--rootfs", str(box.rootfs), fresh_id(), "sh", "-c", "id -u; cat /proc/self/uid_map; exit 7",
                code=7)  # fmt: skip
    assert done.stdout.split() == ["0", "0", str(UID), "1"]
    assert done.stderr == ""
    assert sorted(path.name for path in box.rootfs.iterdir()) == before
    assert os.listdir(box.path) == ["rootfs"]


def test_one_command_as_root(cli: Cli, bundle: TestBundle) -> None:
    """The same for root: no user namespace; flags after the id are the command's, and a relative root is below the
    working directory."""
    done = cli("run", "--rootfs", "rootfs", fresh_id(), "echo", "--keep", "-d", cwd=bundle.path)
    assert done.stdout == "--keep -d\n"
    name = fresh_id()
    cli.detach("run", "-d", "--rootfs", str(bundle.rootfs), name, "sleep", "100")
    state = cli.state(name)
    assert (state["bundle"], state["rootfs"]) == (str(bundle.path), str(bundle.rootfs))
    assert cli("exec", name, "cat", "/proc/self/uid_map").stdout.split()[:2] == ["0", "0"]


def test_one_command_refused(cli: Cli, bundle: TestBundle) -> None:
    assert "exclude each other" in last(cli("run", "--rootfs", "/x", "--bundle", "/y", "id", code=1))
    assert "too many arguments: 'sh'" in last(cli("run", "id", "sh", code=1))
    assert "$.root.path" in last(cli("run", "--rootfs", str(bundle.path / "none"), fresh_id(), code=1))
