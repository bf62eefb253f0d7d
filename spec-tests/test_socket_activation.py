"""What comes from, and goes to, who started the runtime: LISTEN_FDS, NOTIFY_SOCKET and --pidfd-socket.

The service manager's side is played here by its protocols: sd_listen_fds(3), sd_notify(3), sd_notify_barrier(3).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id, until

# --- sockets that systemd opened ---


def activated(cli: Cli, *words: str, fds: int, extra: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command as systemd would: it is the process that LISTEN_PID names."""
    given = " ".join(f"{number}</dev/null" for number in range(3, 3 + fds))
    variables = "".join(f"export {name}={value}; " for name, value in env.items())
    script = f"export LISTEN_PID=$$ LISTEN_FDS={extra or fds}; {variables}exec {' '.join(cli.command(*words))} {given}"
    return subprocess.run(["sh", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True)


SHOW = "env | grep LISTEN | sort; echo self $$; ls -l /proc/self/fd | grep -c null"


def test_listen_fds(cli: Cli, bundle: TestBundle) -> None:
    """The program gets the sockets from 3 on, and is told of them with its own pid."""
    bundle.config["process"]["env"].append("LISTEN_FDS=9")  # the config's own has no say
    path = str(bundle.sh(SHOW).save())
    done = activated(cli, "run", "--bundle", path, fresh_id(), fds=2, LISTEN_FDNAMES="web:admin")
    assert done.stdout.splitlines() == [
        "LISTEN_FDNAMES=web:admin", "LISTEN_FDS=2", "LISTEN_PID=1", "self 1", "3",
    ], done.stderr  # fmt: skip


def test_listen_fds_and_preserved(cli: Cli, bundle: TestBundle) -> None:
    """--preserve-fds counts from behind them."""
    path = str(bundle.sh(SHOW).save())
    done = activated(cli, "run", "--preserve-fds", "1", "--bundle", path, fresh_id(), fds=3, extra="2")
    assert done.stdout.splitlines() == ["LISTEN_FDS=2", "LISTEN_PID=1", "self 1", "4"], done.stderr


def test_listen_fds_of_exec(cli: Cli, bundle: TestBundle) -> None:
    """A process of an exec is told its own pid, not 1."""
    name = cli.start(bundle.args("sleep", "100"))
    done = activated(cli, "exec", name, "sh", "-c", f"'{SHOW}'", fds=1)
    lines = done.stdout.splitlines()
    pid = lines[2].removeprefix("self ")
    assert lines == ["LISTEN_FDS=1", f"LISTEN_PID={pid}", f"self {pid}", "2"], done.stderr
    assert pid != "1"


def test_listen_fds_of_another(cli: Cli, bundle: TestBundle) -> None:
    """Variables that were meant for an ancestor are none of our business."""
    path = str(bundle.sh("env | grep LISTEN; true").save())
    env = os.environ | {"LISTEN_PID": "1", "LISTEN_FDS": "2"}
    done = cli("run", "--bundle", path, fresh_id(), env=env)
    assert done.stdout == ""


@pytest.mark.parametrize(("fds", "count", "words"), [(0, "x", "LISTEN_FDS: 'x'"), (1, "2", "LISTEN_FDS: descriptor 4")])
def test_bad_listen_fds(cli: Cli, bundle: TestBundle, fds: int, count: str, words: str) -> None:
    done = activated(cli, "create", "--bundle", str(bundle.save()), fresh_id(), fds=fds, extra=count)
    assert done.returncode == 1
    assert words in done.stderr


# --- readiness ---


class Manager:
    """The service manager's notification socket: takes datagrams, and closes the descriptor of a barrier."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.words: list[str] = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while True:
            data, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
            self.words.append(data.decode())
            for fd in fds:
                os.close(fd)
            if data == b"stop":
                return

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"stop", self.socket.getsockname())
        self.thread.join(20)
        self.socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = str(tmp_path / "manager") if request.param == "path" else f"\0ocipytest-{os.getpid()}"
    manager = Manager(address)
    yield manager
    manager.close()


def environment(manager: Manager) -> dict[str, str]:
    address = manager.socket.getsockname()
    text = address if isinstance(address, str) else "@" + address[1:].decode()
    return os.environ | {"NOTIFY_SOCKET": text}


def notifier(bundle: TestBundle, words: str, then: str) -> TestBundle:
    """A container that says words on its notification socket: by a program of its own, since busybox has none."""
    source = bundle.path / "notify.c"
    source.write_text(
        '#include <stdlib.h>\n#include <string.h>\n#include <sys/socket.h>\n#include <sys/un.h>\n'
        "int main(int argc, char **argv) {\n"
        "  struct sockaddr_un a = {.sun_family = AF_UNIX};\n"
        '  strcpy(a.sun_path, getenv("NOTIFY_SOCKET"));\n'
        "  int fd = socket(AF_UNIX, SOCK_DGRAM, 0);\n"
        "  return sendto(fd, argv[1], strlen(argv[1]), 0, (void *)&a, sizeof a) < 0; }\n"
    )
    subprocess.run(["gcc", "-static", "-o", bundle.rootfs / "bin/notify", source], check=True)
    return bundle.sh(f"notify '{words}' && {then}")


def test_notify(cli: Cli, bundle: TestBundle, manager: Manager) -> None:
    """start returns when the container is ready; the manager learns that, and the pid of its program. What else
    the container says is its own affair."""
    notifier(bundle, "READY=1\nMAINPID=1\nSTATUS=up", "sleep 100")
    env = environment(manager)
    name = fresh_id()
    created = subprocess.run(
        cli.command("create", "--bundle", str(bundle.save()), name), env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    assert created.returncode == 0
    assert manager.words == []
    cli("start", name, env=env)
    pid = cli.state(name)["pid"]
    assert manager.words == ["READY=1\n", f"MAINPID={pid}\n", "BARRIER=1"]


def test_notify_in_the_foreground(cli: Cli, bundle: TestBundle, manager: Manager) -> None:
    """run stays: it is the process to watch."""
    notifier(bundle, "READY=1", "sleep 100")
    process = subprocess.Popen(
        cli.command("run", "--bundle", str(bundle.save()), fresh_id()), env=environment(manager),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    until(lambda: len(manager.words) == 3)
    assert manager.words == ["READY=1\n", f"MAINPID={process.pid}\n", "BARRIER=1"]
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_notify_never(cli: Cli, bundle: TestBundle, manager: Manager) -> None:
    """A container that ends without a word of readiness: start returns all the same."""
    notifier(bundle, "STATUS=no", "true")
    name = fresh_id()
    cli("run", "--detach", "--bundle", str(bundle.save()), name, env=environment(manager))
    assert manager.words == []


def test_notify_socket_is_read_only(cli: Cli, bundle: TestBundle, manager: Manager) -> None:
    """The directory of the socket is the host's: the container can't write there."""
    bundle.sh("touch /run/notify/x 2>&1; grep ' /run/notify ' /proc/self/mountinfo")
    env = environment(manager)
    done = cli("run", "--bundle", str(bundle.save()), fresh_id(), env=env)
    assert "Read-only" in done.stdout
    options = done.stdout.splitlines()[1].split()[5]
    assert set(options.split(",")) >= {"ro", "nosuid", "nodev", "noexec"}


def test_notify_nobody_there(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    for path, why in ((tmp_path / "nobody", "no such file or directory"), (f"/{'x' * 120}", "file name too long")):
        env = os.environ | {"NOTIFY_SOCKET": str(path)}
        done = cli("run", "--bundle", str(bundle.save()), fresh_id(), env=env, code=1)
        assert f"NOTIFY_SOCKET {path}: connect: {why}" in done.stderr


# --- a pidfd ---


def received(listener: socket.socket) -> tuple[str, int]:
    """The message and the descriptor of the next connection."""
    connection, _ = listener.accept()
    with connection:
        data, fds, _, _ = socket.recv_fds(connection, 64, 1)
        return data.decode(), fds[0]


def pid_of(pidfd: int) -> int:
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Pid:")))


def test_pidfd_socket(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """The pidfd is that of the program, for create and for exec."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        name = cli.create(bundle.args("sleep", "100"), "--pidfd-socket", str(tmp_path / "s"))
        kind, pidfd = received(listener)
        assert (kind, pid_of(pidfd)) == ("standard", cli.state(name)["pid"])
        os.close(pidfd)
        cli("start", name)
        pid_file = tmp_path / "pid"
        words = ["--detach", "--pid-file", str(pid_file), "--pidfd-socket", str(tmp_path / "s"), name, "sleep", "9"]
        subprocess.run(cli.command("exec", *words), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        kind, pidfd = received(listener)
        assert (kind, pid_of(pidfd)) == ("setns", int(pid_file.read_text()))
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)


def test_pidfd_socket_of_run(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        bundle.args("sleep", "100")
        name = fresh_id()
        words = ["--detach", "--pidfd-socket", str(tmp_path / "s"), "--bundle", str(bundle.save()), name]
        subprocess.run(cli.command("run", *words), check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        kind, pidfd = received(listener)
        assert (kind, pid_of(pidfd)) == ("standard", cli.state(name)["pid"])
        os.close(pidfd)


def test_pidfd_socket_nobody_there(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    done = cli("create", "--bundle", str(bundle.save()), "--pidfd-socket", str(tmp_path / "s"), fresh_id(), code=1)
    assert done.stderr == f"ocipy: --pidfd-socket {tmp_path}/s: connect: no such file or directory\n"


def test_pidfd_socket_hung_up(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """One that hangs up before it gets the pidfd: no container is made."""
    flag = tmp_path / "flag"
    flag.touch()
    script = f"while [ -e {flag} ]; do sleep 0.02; done"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        process = subprocess.Popen(
            cli.command("create", "--bundle", str(bundle.save()), "--pidfd-socket", str(tmp_path / "s"), fresh_id()),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        listener.accept()[0].close()
    flag.unlink()
    _, words = process.communicate(timeout=60)
    assert process.returncode == 1
    assert words == "ocipy: --pidfd-socket: sendmsg: broken pipe\n"
    assert list(cli.root.iterdir()) == []
