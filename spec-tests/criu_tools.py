"""What the tests of checkpoint and restore share: a CRIU that works on this kernel, and a program to watch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id, until

#: the machine's own, and the later one that `make test` puts beside the tests
PLACES = [p for p in (shutil.which("criu"), str(Path(sys.executable).parent.parent / "criu/criu")) if p]


@cache
def check(*words: str) -> tuple[str, str]:
    """A CRIU whose own check passes, and the words of those whose does not."""
    said = ""
    for path in PLACES:
        if os.path.exists(path):
            done = subprocess.run([path, "check", *words], capture_output=True, text=True, timeout=60)
            if done.returncode == 0:
                return path, ""
            said += f"{path} check {' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}\n"
    return "", said or "criu is not installed"


@pytest.fixture
def criu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A CRIU that works here; it is the first one in $PATH."""
    path, said = check()
    if not path:
        pytest.skip(f"CRIU does not work on this kernel: {said}")
    monkeypatch.setenv("PATH", f"{os.path.dirname(path)}:{os.environ['PATH']}")
    return path


def need(feature: str) -> None:
    """Skip where CRIU's own check does not find a feature of the kernel."""
    path, said = check("--feature", feature)
    if not path or path != check()[0]:
        pytest.skip(said or f"{check()[0]} does not find {feature}")


class Counter:
    """A program that counts in a file of its root file system."""

    def __init__(self, bundle: TestBundle) -> None:
        self.bundle = bundle.sh("i=0; while :; do i=$((i+1)); echo $i > /tmp/new; mv /tmp/new /tmp/count; "
                                "sleep 0.02; done")  # fmt: skip
        self.file = bundle.rootfs / "tmp/count"

    @property
    def value(self) -> int:
        """How far it is."""
        return int(self.file.read_text()) if self.file.exists() else 0

    def goes_on(self, beyond: int = 0) -> int:
        """Wait until it has counted further than it had, and than that. Returns how far it is then."""
        before = max(self.value, beyond)
        until(lambda: self.value > before + 1)
        return self.value


@pytest.fixture
def counter(bundle: TestBundle) -> Counter:
    """A counter."""
    return Counter(bundle)


class Dump:
    """The directory of a checkpoint, and the commands on it."""

    def __init__(self, cli: Cli, path: Path) -> None:
        self.cli = cli
        self.path = path

    def start(self, bundle: TestBundle) -> str:
        """Run a container, detached; returns its id. (Not by cli.start: that has stderr in a file that is opened
        with O_NOFOLLOW, which CRIU can't open again.)"""
        name = fresh_id()
        null = subprocess.DEVNULL
        words = self.cli.command("run", "--detach", "--bundle", str(bundle.save()), name)
        subprocess.run(words, stdin=null, stdout=null, stderr=null, check=True, timeout=60)
        return name

    def checkpoint(self, name: str, *flags: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.cli("checkpoint", "--image-path", str(self.path), *flags, name, code=code)

    def where(self, bundle: TestBundle, name: str, *flags: str) -> list[str]:
        """What follows the word restore."""
        return ["--image-path", str(self.path), "--bundle", str(bundle.save()), *flags, name]

    def restore(
        self, bundle: TestBundle, name: str, *flags: str, code: int = 0
    ) -> subprocess.CompletedProcess[bytes]:
        """Restore, detached; what it wrote is the file `stderr` beside the images."""
        with (self.path.parent / "stderr").open("w+b") as stderr:  # the container keeps it
            done = subprocess.run(
                self.cli.command("restore", *self.where(bundle, name, "--detach", *flags)), stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=stderr, timeout=60,
            )  # fmt: skip
        assert done.returncode == code, self.said
        return done

    @property
    def said(self) -> str:
        """What restore wrote to stderr."""
        return (self.path.parent / "stderr").read_text()


@pytest.fixture
def dump(cli: Cli, tmp_path: Path) -> Dump:
    """Where a test's checkpoint goes."""
    return Dump(cli, tmp_path / "images")
