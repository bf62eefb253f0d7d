"""Rootless Podman with ocipy as its runtime: root inside a user namespace, as an engine has it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import OCIPY
from unprivileged import SUBIDS, UID, User, unprivileged

pytestmark = pytest.mark.skipif(not shutil.which("podman"), reason="Podman is not installed")


class Podman:
    """Podman as the user, with its storage in the user's directory."""

    def __init__(self, user: User) -> None:
        self.user = user

    def __call__(self, *words: str, code: int = 0) -> str:
        home = self.user.home
        command = self.user.enter(
            "podman", "--runtime", OCIPY, "--root", f"{home}/podman", "--runroot", f"{home}/run/podman",
            "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", *words,
        )  # fmt: skip
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout


@pytest.fixture
def podman(image: Path) -> Iterator[Podman]:
    with unprivileged() as user:
        shutil.copytree(image, user.home / "rootfs", symlinks=True)
        user.owns(user.home)
        one = Podman(user)
        yield one
        one("rm", "--all", "--force", "--time", "0")
        # the process that keeps the user namespace between commands
        os.kill(int((user.home / "run/libpod/tmp/pause.pid").read_text()), signal.SIGKILL)


def test_life(podman: Podman) -> None:
    """run, exec, top, rm: ids of the user's ranges, the program's exit status, and nothing left."""
    root = ["--network", "host", "--rootfs", str(podman.user.home / "rootfs")]
    script = "id -u; cat /proc/self/uid_map; exit 5"
    expected = ["0", "0", str(UID), "1", "1", str(SUBIDS[0]), str(SUBIDS[1])]
    assert podman("run", "--rm", *root, "sh", "-c", script, code=5).split() == expected
    name = podman("run", "--detach", *root, "sleep", "1000").strip()
    assert podman("exec", "--user", "1000", name, "id", "-u") == "1000\n"
    assert "sleep 1000" in podman("top", name)
