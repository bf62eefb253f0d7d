"""Where log entries go, and which: --log, --log-format, --log-level, --debug."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id

UNKNOWN = "NO_SUCH_CAPABILITY"


@pytest.fixture
def warned(bundle: TestBundle) -> TestBundle:
    """A bundle that is worth a warning."""
    bundle.config["process"]["capabilities"]["bounding"].append(UNKNOWN)
    return bundle


def levels(log: Path) -> list[str]:
    return [json.loads(line)["level"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["warning"]),
        (["--log-level", "info"], ["warning"]),
        (["--log-level", "warning"], ["warning"]),
        (["--log-level", "error"], []),
        (["--log-level", "debug"], ["debug", "warning"]),
        (["--debug"], ["debug", "warning"]),
        (["--debug", "--log-level", "error"], []),
    ],
)
def test_levels(cli: Cli, warned: TestBundle, tmp_path: Path, flags: list[str], expected: list[str]) -> None:
    """The least level to log; --debug is short for the lowest."""
    log = tmp_path / "log"
    words = ["--log", str(log), "--log-format", "json", *flags, "run", "--bundle", str(warned.save()), fresh_id()]
    done = cli(*words)
    assert levels(log) == expected
    assert done.stderr == ""


def test_level_without_log(cli: Cli, warned: TestBundle) -> None:
    """Without --log entries go to stderr; an error is told there whatever the level."""
    words = ["run", "--bundle", str(warned.save()), fresh_id()]
    assert UNKNOWN in cli(*words).stderr
    assert cli("--log-level", "error", *words).stderr == ""
    assert cli("--log-level", "error", "state", "nobody", code=1).stderr.startswith("ocipy: container 'nobody'")


def test_bad_level(cli: Cli) -> None:
    assert "--log-level: 'loud' is none of" in cli("--log-level", "loud", "list", code=1).stderr


def as_server(path: str, command: list[str]) -> tuple[subprocess.CompletedProcess[str], list[bytes]]:
    """Run a command with a socket of ours at a path, in a mount namespace where that is all there is below /run
    and /dev/log is it too; returns what was sent to it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        server.settimeout(20)
        script = (
            f"mount -t tmpfs none /run && mkdir -p /run/systemd/journal && touch /run/systemd/journal/socket && "
            f"mount --bind {path} /run/systemd/journal/socket && "
            f"mount -t tmpfs none /mnt && cp -a /dev/null /mnt/null && ln -s /run/systemd/journal/socket /mnt/log && "
            f'mount --bind /mnt /dev && exec "$@"'
        )
        done = subprocess.run(
            ["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True, stdin=subprocess.PIPE
        )
        sent = []
        server.setblocking(False)
        try:
            while True:
                sent.append(server.recv(65536))
        except BlockingIOError:
            pass
        return done, sent


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    path = tmp_path / "server"
    yield str(path)
    path.unlink(missing_ok=True)


def test_journald(cli: Cli, place: str) -> None:
    """journald:NAME: an entry in the journal's own protocol, with the error's fields."""
    done, sent = as_server(place, cli.command("--log", "journald:box", "state", "nobody"))
    assert done.returncode == 1
    assert done.stderr == "ocipy: container 'nobody' does not exist\n"
    assert len(sent) == 1
    entry = dict(line.split("=", 1) for line in sent[0].decode().splitlines())
    assert entry["MESSAGE"] == "container 'nobody' does not exist"
    assert entry["SYSLOG_IDENTIFIER"] == "box"
    assert entry["PRIORITY"] == "3"
    assert entry["OCIPY_CODE"] == "container-not-found"


def test_syslog(cli: Cli, place: str) -> None:
    """syslog:NAME: a line as syslog(3) writes it: facility user, severity error."""
    done, sent = as_server(place, cli.command("--log", "syslog:box", "state", "nobody"))
    assert done.returncode == 1
    assert len(sent) == 1
    head, _, text = sent[0].decode().partition("]: ")
    assert head.startswith("<11>box[")
    assert text == "container 'nobody' does not exist"


@pytest.mark.parametrize("kind", ["journald", "syslog"])
def test_nobody_listens(cli: Cli, kind: str) -> None:
    """The error itself is told all the same, last."""
    script = 'mount -t tmpfs none /run && mount -t tmpfs none /mnt && mount --bind /mnt /dev && exec "$@"'
    command = cli.command("--log", f"{kind}:box", "state", "nobody")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True)
    assert done.returncode == 1
    first, last = done.stderr.splitlines()
    assert first.startswith(f"ocipy: --log {kind}:box: ")
    assert last == "ocipy: container 'nobody' does not exist"
