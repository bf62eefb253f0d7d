"""config-linux.md#seccomp, SCMP_ACT_NOTIFY: the listener and the container process state go to an agent, which answers
for the calls of a real container."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import platform
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id, nothing_left, until
from seccomp_tools import MKDIR, profile, rule

from ocipy import Container
from ocipy.errors import LaunchError
from ocipy.plan import seccomp

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="numbers below are x86_64's"),
    pytest.mark.skipif(
        "SCMP_ACT_NOTIFY" not in seccomp.supported_actions(), reason="SECCOMP_GET_ACTION_AVAIL: no USER_NOTIF"
    ),
]
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
WRITE, EXECVE = 1, 59
CONTINUE = (0, 0, 1)  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
DONE = (0, 0, 0)

Answer = tuple[int, int, int]  # value, error (negative), flags


class Agent:
    """A seccomp agent.

    Attributes:
        path: of its socket.
        answers: call number to (value, error, flags).
        states: the container process states that it was sent, one for each connection.
        calls: (pid, call number) of each notification.
        faults: what went wrong in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: dict[int, Answer] = {}
        self.states: list[dict[str, Any]] = []
        self.calls: list[tuple[int, int]] = []
        self.faults: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._stop, self._stopper = os.pipe()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        os.close(self._stopper)
        for thread in self._threads:
            thread.join()
        self._socket.close()
        os.close(self._stop)

    def _ready(self, fd: int) -> bool:
        """Whether there is something to read; not if the agent is to stop, or all that could ask have ended."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.register(self._stop)
        found = dict(poll.poll())
        return self._stop not in found and not found[fd] & select.POLLHUP

    def _accept(self) -> None:
        while self._ready(self._socket.fileno()):
            connection, _ = self._socket.accept()
            with connection:
                data, control, _, _ = connection.recvmsg(1 << 16, socket.CMSG_SPACE(64))
                fds = array.array("i")
                for _, kind, more in control:
                    assert kind == socket.SCM_RIGHTS
                    fds.frombytes(more)
                while more := connection.recv(1 << 16):  # up to the end: one state for each connection
                    data += more
            if not data:  # of a start that failed
                continue
            self.states.append(json.loads(data))
            if len(fds) != 1:
                self.faults.append(f"{len(fds)} descriptors")
            for fd in fds:
                self._threads.append(threading.Thread(target=self._answer, args=(fd,)))
                self._threads[-1].start()

    def _answer(self, listener: int) -> None:
        while self._ready(listener):
            asked = bytearray(80)
            try:
                fcntl.ioctl(listener, NOTIF_RECV, asked)
                cookie, pid, _, number = struct.unpack_from("=QIIi", asked)
                self.calls.append((pid, number))
                answer = struct.pack("=QqiI", cookie, *self.answers[number])
                fcntl.ioctl(listener, NOTIF_SEND, answer)
            except OSError as error:
                if error.errno != errno.ENOENT:  # who asked was killed meanwhile
                    self.faults.append(str(error))
        os.close(listener)


@pytest.fixture
def agent(tmp_path: Path, cli: Cli) -> Iterator[Agent]:
    """An agent that says of mkdir that it is done. It ends before the containers do."""
    made = Agent(tmp_path / "agent.sock")
    made.answers = {MKDIR: DONE}
    yield made
    made.close()
    assert made.faults == []


def notify(bundle: TestBundle, agent: Path, *names: str, **more: Any) -> None:
    """Give a bundle a profile that lets through all but some calls, which are notified of."""
    bundle.config["linux"]["seccomp"] = profile(
        "ALLOW", rule(" ".join(names), "SCMP_ACT_NOTIFY"), listenerPath=str(agent), **more
    )


#: the agent says that it is made, and it is not
FAKED = "mkdir /made && test ! -e /made && echo faked"


@pytest.mark.spec(
    "config-linux#seccomp-4", "config-linux#seccomp-6",
    "config-linux#the-container-process-state-1", "config-linux#the-container-process-state-2",
    "config-linux#the-container-process-state-3", "config-linux#the-container-process-state-4",
    "config-linux#the-container-process-state-5",
)  # fmt: skip
@pytest.mark.parametrize("no_new_privs", [True, False])
def test_init(cli: Cli, bundle: TestBundle, agent: Agent, no_new_privs: bool) -> None:
    """The Container Process State, for the first process; of any size, and whole when the connection ends."""
    bundle.config["process"]["noNewPrivileges"] = no_new_privs
    bundle.config["annotations"] = {"key": "v" * 400_000}
    notify(bundle, agent.path, "mkdir", listenerMetadata="MKNOD=/dev/null")
    name = cli.create(bundle.sh(f"{FAKED} >/out; sleep 60"))
    assert agent.states == []  # connections are for processes that start
    cli("start", name)
    until((bundle.rootfs / "out").exists)
    until(lambda: (bundle.rootfs / "out").read_text() == "faked\n")
    pid = cli.state(name)["pid"]
    state = {"ociVersion": "1.3.0", "id": name, "status": "created", "pid": pid, "bundle": str(bundle.path)}
    assert agent.states == [
        {
            "ociVersion": "1.3.0",
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": "MKNOD=/dev/null",
            "state": state | {"annotations": bundle.config["annotations"]},
        }
    ]
    # nothing of it is left with the program
    links = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    assert [link for link in links if "seccomp" in link or "socket" in link] == []


def test_exec(cli: Cli, bundle: TestBundle, agent: Agent, tmp_path: Path) -> None:
    """The Container Process State, for an exec: `pid` is the process's, `state.pid` the container's."""
    notify(bundle, agent.path, "mkdir")
    name = cli.start(bundle.args("sleep", "60"))
    done = cli("exec", "--pid-file", str(tmp_path / "pid"), name, "sh", "-c", FAKED)
    assert done.stdout == "faked\n"
    first, second = agent.states
    assert first["pid"] == first["state"]["pid"] == cli.state(name)["pid"]
    assert second["pid"] == int((tmp_path / "pid").read_text()) != first["pid"]
    assert second["state"] == first["state"] | {"status": "running"}
    assert "metadata" not in second


def test_user_namespace(cli: Cli, bundle: TestBundle, agent: Agent) -> None:
    """It is by the host's path and with the runtime's rights that the agent is connected to."""
    linux = bundle.config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    os.chown(bundle.rootfs, 100000, 100000)
    for parent in bundle.path.parents:
        if parent.name.startswith(("pytest-", "test_")):
            parent.chmod(0o755)  # root of the user namespace has to pass
    agent.path.chmod(0o700)
    notify(bundle, agent.path, "mkdir")
    assert cli.run(bundle.sh(FAKED)).stdout == "faked\n"


def test_exec_is_notified(cli: Cli, bundle: TestBundle, agent: Agent) -> None:
    """The program's execve may be notified of as well: start waits for the agent, and gets to know its answer."""
    notify(bundle, agent.path, "execve", "mkdir")
    agent.answers[EXECVE] = CONTINUE
    name = cli.start(bundle.args("sleep", "60"))
    pid = cli.state(name)["pid"]
    assert agent.calls == [(pid, EXECVE)]
    assert cli("exec", name, "echo", "ran").stdout == "ran\n"
    agent.answers[EXECVE] = (0, -errno.EACCES, 0)
    assert "permission denied" in cli("exec", name, "echo", "ran", code=None).stderr
    assert cli.state(name)["status"] == "running"
    other = cli.create(bundle)
    assert "permission denied" in cli("start", other, code=1).stderr.splitlines()[-1]
    assert cli.state(other)["status"] == "stopped"


def test_write_is_notified(cli: Cli, bundle: TestBundle, agent: Agent) -> None:
    """The helper needs nothing but sendmsg and execve once the filter is there: write is free for notifying."""
    notify(bundle, agent.path, "write", "read", "close", "openat", "exit_group", "futex", "recvmsg")
    agent.answers = dict.fromkeys((0, 1, 3, 257, 231, 202, 47), CONTINUE)
    assert cli.run(bundle.sh("echo written")).stdout == "written\n"
    assert WRITE in [number for _, number in agent.calls]


def test_flags(cli: Cli, bundle: TestBundle, agent: Agent) -> None:
    """SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV goes with a listener."""
    flag = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"
    if flag not in seccomp.supported_flags():
        pytest.skip(f"seccomp(2) does not take {flag}")
    notify(bundle, agent.path, "mkdir", flags=[flag])
    assert cli.run(bundle.sh(FAKED)).stdout == "faked\n"


def test_library(tmp_path: Path, bundle: TestBundle, agent: Agent) -> None:
    """The agent may be a thread of the program that starts the container."""
    notify(bundle, agent.path, "execve", "mkdir")
    agent.answers[EXECVE] = CONTINUE
    with Container.run(fresh_id(), str(bundle.sh(f"{FAKED} >/out").save()), root=str(tmp_path / "state")) as container:
        assert container.wait(20) == 0
    assert (bundle.rootfs / "out").read_text() == "faked\n"
    assert len(agent.states) == 1


def test_unused_listener(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#seccomp: without SCMP_ACT_NOTIFY there is nobody to connect to, and no error."""
    bundle.config["linux"]["seccomp"] = profile("ALLOW", listenerPath="/none/there", listenerMetadata="x")
    assert cli.run(bundle.args("echo", "ran")).stdout == "ran\n"


# --- what is refused ---

WHERE = "$.linux.seccomp.listenerPath"


@pytest.mark.spec("config-linux#seccomp-3", "config-linux#seccomp-5")
def test_no_agent(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """An agent that isn't there is an error of create, and nothing is left."""
    for path, words in (
        (tmp_path / "none", "no such file"),
        (bundle.path, "is not a socket"),
        (bundle.rootfs / "etc/passwd", "is not a socket"),
        (Path("/dev/null"), "is not a socket"),
        ("agent.sock", "is not absolute"),
        (f"{bundle.rootfs}/bin/busybox/x", "not a directory"),
    ):
        notify(bundle, Path(path), "mkdir")
        done = cli("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
        assert WHERE in done.stderr
        assert words in done.stderr
        assert nothing_left(tmp_path) == []
    del bundle.config["linux"]["seccomp"]["listenerPath"]
    assert WHERE in cli.run(bundle, code=1).stderr


def test_agent_gone(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """One that went away is an error of start, before anything runs: the container waits for the next attempt."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    notify(bundle, path, "mkdir")
    name = cli.create(bundle.sh(f"touch /ran; {FAKED} >/out; sleep 60"))
    error = cli("start", name, code=1).stderr
    assert WHERE in error
    assert "connection refused" in error
    assert cli.state(name)["status"] == "created"
    assert not (bundle.rootfs / "ran").exists()
    path.unlink()
    agent = Agent(path)
    agent.answers = {MKDIR: DONE}
    cli("start", name)
    until(lambda: (bundle.rootfs / "out").exists() and (bundle.rootfs / "out").read_text() == "faked\n")
    agent.close()
    error = cli("exec", name, "touch", "/execed", code=None).stderr
    assert WHERE in error
    assert not (bundle.rootfs / "execed").exists()
    # `run` deletes what it could not start
    assert WHERE in cli.run(bundle, code=1).stderr


def test_agent_hangs_up(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config-linux.md#seccomp: a state that can't be sent is an error (MUST), and the container does not run on."""
    path = tmp_path / "agent.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        notify(bundle, path, "mkdir")
        name = cli.create(bundle.args("sleep", "60"))
        pid = cli.state(name)["pid"]
        os.kill(pid, signal.SIGSTOP)  # between the connection and the filter, until the agent has hung up

        def hang_up() -> None:
            listener.accept()[0].close()
            os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=hang_up)
        thread.start()
        error = cli("start", name, code=1).stderr
        thread.join()
    assert WHERE in error
    assert "sendmsg: broken pipe" in error
    assert cli.state(name)["status"] == "stopped"


@pytest.mark.parametrize("action", ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"])
def test_sendmsg_is_needed(
    cli: Cli, bundle: TestBundle, agent: Agent, tmp_path: Path, action: str
) -> None:
    """A profile that keeps the helper from handing the listener over is an error, not a program without an agent."""
    notify(bundle, agent.path, "mkdir")
    bundle.config["linux"]["seccomp"]["syscalls"].append(rule("sendmsg", action))
    name = cli.create(bundle.sh("touch /ran"))
    error = cli("start", name, code=1).stderr
    assert "$.linux.seccomp" in error
    assert "must let sendmsg through" in error
    assert cli.state(name)["status"] == "stopped"
    assert not (bundle.rootfs / "ran").exists()
    with pytest.raises(LaunchError) as caught:
        Container.run(fresh_id(), str(bundle.path), root=str(tmp_path / "state"))
    assert caught.value.code == "seccomp-agent"


def test_sendmsg_is_not_notified(cli: Cli, bundle: TestBundle, agent: Agent) -> None:
    """To notify of sendmsg would be to wait for an agent that knows of nothing."""
    notify(bundle, agent.path, "mkdir", "sendmsg")
    assert "$.linux.seccomp.syscalls[0].names[1]" in cli.run(bundle, code=1).stderr


def test_failed_start(cli: Cli, bundle: TestBundle, agent: Agent) -> None:
    """What fails before the filter is loaded is told as it is without an agent."""
    notify(bundle, agent.path, "mkdir")
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/false"}]}
    name = cli.create(bundle)
    assert "hook /bin/false exited with status 1" in cli("start", name, code=1).stderr
    until(lambda: not (cli.root / name).exists())
