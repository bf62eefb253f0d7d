"""ocipy under a real dockerd of Debian's, on a socket, a root and namespaces of its own. Its package is large:
`make test-docker` runs this, apart from the other tests."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import until
from criu_tools import criu as criu
from engines import Docker

NAME = "busybox"


@pytest.fixture(scope="module")
def daemon(image: Path) -> Iterator[Docker]:
    engine = Docker(Path(tempfile.mkdtemp(prefix="ocipy-docker-")))  # short: a socket's path has 108 bytes
    try:
        archive = engine.home / "image.tar"
        subprocess.run(["tar", "-C", str(image), "-cf", str(archive), "."], check=True)
        engine("import", "--change", "ENV PATH=/bin", str(archive), NAME)
        yield engine
    finally:
        engine.stop()


@pytest.fixture
def docker(daemon: Docker) -> Iterator[Docker]:
    """Whatever a test leaves is its failure."""
    yield daemon
    daemon.clear()
    daemon.settle()


def run(docker: Docker, *words: str, flags: tuple[str, ...] = (), code: int = 0) -> str:
    return docker("run", "--rm", *flags, NAME, *words, code=code).stdout


def start(docker: Docker, script: str, *flags: str) -> str:
    return docker("run", "--detach", *flags, NAME, "sh", "-c", script).stdout.strip()


def test_run(docker: Docker) -> None:
    """Output, exit status, and what a program that can't be run is."""
    assert run(docker, "sh", "-c", "echo hello; exit 3", code=3) == "hello\n"
    run(docker, "/no/such", code=127)
    run(docker, "/etc", code=126)
    run(docker, "/etc/passwd", code=126)


def test_terminal(docker: Docker) -> None:
    """run -t: the program has a terminal."""
    assert run(docker, "tty", flags=("--tty",)) == "/dev/pts/0\n"


def test_limits(docker: Docker) -> None:
    """Limits reach the cgroup, and update changes them; too much memory is told."""
    name = start(docker, "sleep 1000", "--memory=64m", "--pids-limit=50")
    files = ("pids.max", "memory.max", "memory.limit_in_bytes")
    found = [path / file for path in docker.cgroups() for file in files if path.name == name and (path / file).exists()]
    assert sorted(int(file.read_text()) for file in found) == [50, 64 << 20]
    docker("update", "--memory=96m", "--memory-swap=96m", name)
    used = json.loads(docker("stats", "--no-stream", "--format", "{{json .}}", name).stdout)
    assert used["MemUsage"].endswith("96MiB")
    docker("rm", "--force", name)
    name = start(docker, "x=x; while :; do x=$x$x; done", "--memory=16m", "--memory-swap=16m")
    assert docker("wait", name).stdout == "137\n"
    assert docker("inspect", "--format", "{{.State.OOMKilled}}", name).stdout == "true\n"


def test_exec(docker: Docker) -> None:
    """exec, as another user too; pause holds it."""
    name = start(docker, "sleep 1000")
    assert docker("exec", name, "echo", "words").stdout == "words\n"
    assert docker("exec", "--user=1000", name, "id", "-u").stdout == "1000\n"
    docker("exec", name, "/etc", code=126)
    docker("pause", name)
    assert docker("inspect", "--format", "{{.State.Status}}", name).stdout == "paused\n"
    docker("unpause", name)
    docker("exec", name, "true")


def test_logs_and_restart(docker: Docker) -> None:
    """Output is kept; a restart policy starts it again."""
    name = start(docker, "echo once; sleep 0.2; exit 1", "--restart=on-failure:2")
    until(lambda: docker("logs", name).stdout == "once\n" * 3, 60)
    until(lambda: docker("inspect", "--format", "{{.State.Status}}", name).stdout == "exited\n", 60)


def test_stop(docker: Docker) -> None:
    """stop is a signal that the program gets."""
    name = start(docker, "trap 'exit 7' TERM; echo up; while :; do sleep 0.05; done")
    until(lambda: docker("logs", name).stdout == "up\n", 60)
    docker("stop", name)
    assert docker("wait", name).stdout == "7\n"


def test_volume(docker: Docker, tmp_path: Path) -> None:
    """A volume is there, and read-only if asked."""
    (tmp_path / "file").write_text("words")
    tmp_path.parent.chmod(0o755)
    assert run(docker, "cat", "/v/file", flags=(f"--volume={tmp_path}:/v:ro",)) == "words"
    run(docker, "touch", "/v/new", flags=(f"--volume={tmp_path}:/v:ro",), code=1)


def test_checkpoint(docker: Docker, criu: str) -> None:
    """docker checkpoint create, and start --checkpoint, whose work directory is behind a link of containerd's: a
    counter in memory goes on."""
    docker.find(criu)
    script = """t=$(cat /proc/sys/kernel/random/uuid); i=0
        while :; do i=$((i+1)); echo "$t $i" >/tmp/new; mv /tmp/new /tmp/count; sleep 0.05; done"""
    name = start(docker, script, "--network=none")

    def count() -> tuple[str, int]:
        token, _, number = docker("exec", name, "cat", "/tmp/count", code=None).stdout.strip().partition(" ")
        return token, int(number or 0)

    until(lambda: count()[1] > 10, 60)
    docker("checkpoint", "create", name, "one")
    until(lambda: docker("inspect", "--format", "{{.State.Running}}", name).stdout == "false\n", 60)
    docker("cp", f"{name}:/tmp/count", str(docker.home / "count"))
    token, _, number = (docker.home / "count").read_text().strip().partition(" ")
    docker("start", "--checkpoint", "one", name)
    until(lambda: count()[1] > int(number) + 5, 60)
    assert count()[0] == token
    for left in (docker.home / "tmp").glob("ctrd-checkpoint*"):  # containerd forgets them
        shutil.rmtree(left)
