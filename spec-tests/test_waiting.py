"""The process that waits for start, and what an odd caller or image may do to it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id

from ocipy import Container


def connect(cli: Cli, name: str) -> socket.socket:
    """A connection to the process, as start makes one; it does not wait."""
    directory = os.open(cli.root / name, os.O_PATH)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        made.connect(f"/proc/self/fd/{directory}/start.sock")
    except BaseException:
        made.close()
        raise
    finally:
        os.close(directory)
    return made


@pytest.mark.parametrize("words", [b"", b"\5" + bytes(15), b"x", b"\6" + bytes(11) + b"\1\0\0\0"])
def test_what_is_no_start(cli: Cli, bundle: TestBundle, words: bytes) -> None:
    """One who connects and says anything else, or nothing, starts nothing; start still does."""
    name = cli.create(bundle.args("sleep", "1000"))
    with connect(cli, name) as other:
        if words:
            other.send(words)
        other.shutdown(socket.SHUT_WR)
        other.settimeout(20)
        assert not other.recv(100)
    assert cli.state(name)["status"] == "created"
    cli("start", name)
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)


@pytest.mark.parametrize("brief", [True, False])
def test_stopped_and_crowded(cli: Cli, bundle: TestBundle, brief: bool) -> None:
    """Nobody is kept waiting by a process that is stopped and that too many have called: it is created."""
    name = cli.create(bundle.args("sleep", "1000"))
    if not brief:
        (cli.root / name / "brief").unlink()
    os.kill(cli.state(name)["pid"], signal.SIGSTOP)
    callers = []
    try:
        with pytest.raises(BlockingIOError):
            callers.extend(connect(cli, name) for _ in range(10_000))
        assert cli.state(name)["status"] == "created"
    finally:
        for caller in callers:
            caller.close()
    cli("delete", "--force", name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGALRM])
def test_status_of_a_signal(tmp_path: Path, bundle: TestBundle, number: signal.Signals) -> None:
    """A signal that ends the process before it is started shows in its exit status, as a program's would."""
    with Container.create(fresh_id(), str(bundle.save()), root=str(tmp_path / "state")) as container:
        container.kill(number)
        assert container.wait(20) == 128 + number
        container.delete()


def test_ambient_of_the_caller(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, capabilities: ambient ones of the caller's are none of the container's."""
    for name in ("bounding", "effective", "permitted", "inheritable"):
        bundle.config["process"]["capabilities"][name] = ["CAP_NET_RAW", "CAP_KILL"]
    bundle.args("grep", "CapAmb", "/proc/self/status")
    words = ["setpriv", "--inh-caps", "+net_raw", "--ambient-caps", "+net_raw", *cli.command()]
    words += ["run", "--bundle", str(bundle.save()), fresh_id()]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.stdout.split() == ["CapAmb:", "0" * 16], done.stderr


def test_home_of_a_line_without_a_uid(cli: Cli, bundle: TestBundle) -> None:
    """HOME: a line of the image's passwd file whose uid is empty or no number is nobody's, and not root's."""
    lines = "a:x::0::/empty:/bin/sh\nb:x:0x:0::/odd:/bin/sh\nc:x:x0:0::/odder:/bin/sh\nroot:x:0:0::/root:/bin/sh\n"
    (bundle.rootfs / "etc/passwd").write_text(lines)
    assert cli.run(bundle.sh("echo $HOME")).stdout == "/root\n"


def test_copy_of_a_deep_tree(cli: Cli, bundle: TestBundle) -> None:
    """tmpcopyup: a tree deeper than the helper's stack and descriptors are meant for is refused; 60 are copied."""
    bundle.config["mounts"].append({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"]})
    (bundle.rootfs / ("data" + "/d" * 60)).mkdir(parents=True)
    cli.run(bundle.args("test", "-d", "/data" + "/d" * 60))
    (bundle.rootfs / ("data" + "/d" * 70)).mkdir(parents=True)
    assert "nested too deeply" in cli.run(bundle, code=1).stderr
