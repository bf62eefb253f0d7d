"""exec: a further process in a container, in all its namespaces and its cgroup, as config.md#process describes it."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, until

from ocipy.cli.exec import parse_user
from ocipy.errors import UsageError

KINDS = ("mnt", "pid", "net", "ipc", "uts", "user", "cgroup", "time")


@pytest.fixture
def box(cli: Cli, bundle: TestBundle) -> Iterator[str]:
    """A running container."""
    name = cli.start(bundle.args("sleep", "1000"))
    yield name
    cli("delete", "--force", name)


def started(cli: Cli, bundle: TestBundle) -> str:
    return cli.start(bundle.args("sleep", "1000"))


def pid_of(cli: Cli, name: str, cmdline: bytes) -> int:
    """The pid of a process of a container, once it is the program: before that it is a helper, or two."""
    found: list[int] = []

    def look() -> list[int]:
        for pid in json.loads(cli("ps", "-f", "json", name).stdout):
            try:
                if Path(f"/proc/{pid}/cmdline").read_bytes() == cmdline:
                    found.append(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    until(look)
    return found[0]


def receive_master(listener: socket.socket) -> int:
    """The pty master that comes to a console socket."""
    connection, _ = listener.accept()
    with connection:
        data, messages, _, _ = connection.recvmsg(256, socket.CMSG_SPACE(4))
    assert data
    [(level, kind, payload)] = messages
    assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
    return int(array.array("i", payload[:4])[0])


def read_until(fd: int, words: bytes) -> bytes:
    """What comes from a terminal up to and with some words."""
    data = b""
    while words not in data:
        assert select.select([fd], [], [], 20)[0], data
        try:
            more = os.read(fd, 4096)
        except OSError:  # EIO: the last slave is closed
            more = b""
        assert more, data
        data += more
    return data


def test_joins_everything(cli: Cli, bundle: TestBundle) -> None:
    """The process is in every namespace of the container, in its cgroup in every hierarchy, in its root and in a
    session of its own; and sees itself as one of its processes."""
    bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    name = started(cli, bundle)
    pid = cli.state(name)["pid"]
    links = " ".join(f"/proc/self/ns/{kind}" for kind in KINDS if Path(f"/proc/self/ns/{kind}").exists())
    done = cli("exec", name, "sh", "-c", f"for l in {links}; do readlink $l; done; hostname; cat /proc/self/cgroup")
    found = done.stdout.split("\n")
    kinds = [kind for kind in KINDS if Path(f"/proc/self/ns/{kind}").exists()]
    assert found[: len(kinds)] == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in kinds]
    assert found[len(kinds)] == "box"
    # from inside its cgroup namespace: the root
    assert {line.rpartition(":")[2] for line in found[len(kinds) + 1 :] if line} == {"/"}
    process = subprocess.Popen(
        cli.command("exec", name, "sleep", "1004"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    other = pid_of(cli, name, b"sleep\x001004\0")
    assert Path(f"/proc/{other}/cgroup").read_text() == Path(f"/proc/{pid}/cgroup").read_text()
    assert os.readlink(f"/proc/{other}/cwd") == os.readlink(f"/proc/{pid}/cwd")
    fields = Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()
    assert fields[3] == str(other)  # the session
    os.kill(other, signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    cli("delete", "--force", name)


def test_like_the_container(cli: Cli, bundle: TestBundle) -> None:
    """Without flags the process has what config.json's process has: cwd, environment, user, capabilities,
    no_new_privs, rlimits, umask, oom score; its standard streams and status are the caller's."""
    process = bundle.config["process"]
    process["cwd"] = "/home/user"
    process["env"] += ["COLOUR=grün", "EMPTY="]
    process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [7, 8], "umask": 0o027}
    process["rlimits"] = [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    process["oomScoreAdj"] = 100
    name = started(cli, bundle)
    script = "pwd; echo $COLOUR; id -u; id -G; umask; ulimit -c; cat /proc/self/oom_score_adj; env | sort; exit 5"
    done = cli("exec", name, "sh", "-c", script, code=5)
    lines = done.stdout.splitlines()
    assert lines[:7] == ["/home/user", "grün", "1000", "1000 7 8", "0027", "0", "100"]
    assert {"COLOUR=grün", "EMPTY=", "HOME=/home/user"} <= set(lines[7:])
    status = dict(line.split(":\t", 1) for line in cli("exec", name, "cat", "/proc/self/status").stdout.splitlines())
    init = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{cli.state(name)['pid']}/status").read_text().splitlines()
    )
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups"):
        assert status[field] == init[field], field
    assert status["NoNewPrivs"] == "1"
    assert cli("exec", name, "cat", input="words\n").stdout == "words\n"
    cli("delete", "--force", name)


def test_flags(cli: Cli, box: str) -> None:
    """--cwd, --env, --user, --additional-gids, each in the container's terms; env adds and replaces."""
    done = cli("exec", "--cwd", "/tmp", "-e", "A=1", "--env", "B=x=y", "--env=PATH=/bin", box, "sh", "-c", "pwd; env")
    assert {"/tmp", "A=1", "B=x=y", "PATH=/bin"} <= set(done.stdout.splitlines())
    assert done.stdout.count("PATH=") == 1
    done = cli("exec", "-u", "1000:1001", "-g", "5", "--additional-gids=6", box, "sh", "-c", "id -u; id -g; id -G; env")
    assert done.stdout.splitlines()[:3] == ["1000", "1001", "1001 5 6"]
    assert "HOME=/home/user" in done.stdout.splitlines()
    assert cli("exec", "-u", "1000", box, "id", "-g").stdout == "0\n"
    assert cli("exec", "--user", "4242:0", box, "sh", "-c", "echo $HOME").stdout == "/\n"
    for flag, value in (
        ("--cwd", "relative"), ("--cwd", ""), ("--env", "A"), ("--env", "=1"), ("--additional-gids", "-1"),
        ("--additional-gids", "4294967295"),
    ):  # fmt: skip
        done = cli("exec", flag, value, box, "true", code=255)
        assert re.fullmatch(f"ocipy: {flag}: '?{value}'? is not .+\n", done.stderr)
    assert cli("exec", "--no-new-privs=false", box, "grep", "NoNew", "/proc/self/status").stdout == "NoNewPrivs:\t0\n"
    assert "not a directory" in cli("exec", "--cwd", "/etc/passwd", box, "true", code=255).stderr


def test_user_is_parsed_strictly() -> None:
    """--user is UID[:GID] in decimal and nothing else (CVE-2026-30892: a wrong value made a program root)."""
    user = {"uid": 7, "gid": 8, "additionalGids": [9]}
    assert parse_user("1000", user) == user | {"uid": 1000}
    assert parse_user("0:0", user) == user | {"uid": 0, "gid": 0}
    assert parse_user("4294967294:1", user) == user | {"uid": 4294967294, "gid": 1}
    for text in (
        "", ":", ":1", "1:", "1:2:3", "0x10", "-1", "+1", " 1", "1 ", "1\n", "root", "1:root", "1.0", "1e3", "٣",
        "4294967295", "4294967296", "1:4294967295", "18446744073709551616", "1_000", "0b1",
    ):  # fmt: skip
        with pytest.raises(UsageError, match="UID"):
            parse_user(text, user)


def test_user_flag_refused(cli: Cli, box: str) -> None:
    """A malformed --user runs nothing."""
    for text in "root", "1000:", "", "0x0":
        done = cli("exec", "--user", text, box, "id", code=255)
        assert done.stdout == ""
        assert "--user" in done.stderr


def test_exit_statuses(cli: Cli, box: str) -> None:
    """exec exits as the process does; 128 and the signal's number if one ended it; 255 if it did not run."""
    for code in (0, 1, 42, 127):
        cli("exec", box, "sh", "-c", f"exit {code}", code=code)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGABRT):
        cli("exec", box, "sh", "-c", f"kill -{int(number)} $$", code=128 + number)
    done = cli("exec", box, "nonsense", code=255)
    assert done.stderr.splitlines()[-1].endswith('exec: "nonsense": executable file not found in $PATH')
    assert "no such file or directory" in cli("exec", box, "/bin/nonsense", code=255).stderr
    assert "permission denied" in cli("exec", box, "/etc/passwd", code=255).stderr
    assert cli.state(box)["status"] == "running"


def test_killed_from_outside(cli: Cli, box: str) -> None:
    """A foreground exec passes signals on, and ends as the process does."""
    words = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    process = subprocess.Popen(
        cli.command("exec", box, "sh", "-c", words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 9
    process.stdout.close()


def test_container_ends(cli: Cli, bundle: TestBundle) -> None:
    """When the container's init ends, so does a process of an exec in its pid namespace."""
    name = started(cli, bundle)
    process = subprocess.Popen(
        cli.command("exec", name, "sh", "-c", "echo ready; exec sleep 1000"), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    cli("kill", name, "KILL")
    assert process.wait(20) == 128 + signal.SIGKILL
    process.stdout.close()
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_process_file(cli: Cli, box: str, tmp_path: Path) -> None:
    """--process takes the whole process from a file; a wrong file is refused."""
    file = tmp_path / "process.json"
    process: dict[str, Any] = {
        "args": ["sh", "-c", "pwd; id -u; env; grep CapEff /proc/self/status; exit 6"],
        "cwd": "/tmp",
        "env": ["PATH=/bin", "ONLY=this"],
        "user": {"uid": 1000, "gid": 1000},
    }
    file.write_text(json.dumps(process))
    for flag in "--process", "-p":
        done = cli("exec", flag, str(file), box, code=6)
        lines = done.stdout.splitlines()
        assert lines[:2] == ["/tmp", "1000"]
        assert {line for line in lines if "=" in line and "PWD" not in line and "SHLVL" not in line} == {
            "PATH=/bin", "ONLY=this", "HOME=/home/user",
        }  # fmt: skip
        assert lines[-1] == "CapEff:\t0000000000000000"
    for text, words in (
        (json.dumps(process | {"cwd": "relative"}), "cwd"),
        (json.dumps(process | {"args": []}), "args"),
        (json.dumps({"args": ["true"]}), "cwd"),
        ("[]", "not an object"),
        ("{", "--process"),
    ):
        file.write_text(text)
        assert words in cli("exec", "-p", str(file), box, code=255).stderr
    assert "no such file" in cli("exec", "-p", str(tmp_path / "missing"), box, code=255).stderr
    file.write_text(json.dumps(process))
    assert "exclude each other" in cli("exec", "-p", str(file), box, "true", code=255).stderr
    assert "has no terminal" in cli("exec", "--tty", "-p", str(file), box, code=255).stderr
    for flag in (
        "--cwd=/", "--cwd=", "--env=A=1", "--user=1", "--additional-gids=1", "--cap=CAP_KILL", "--no-new-privs=f",
    ):  # fmt: skip
        done = cli("exec", "--process", str(file), flag, box, code=255)
        assert f"exec: {flag.partition('=')[0]} and --process exclude each other" in done.stderr


def test_process_file_that_leaves_out(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """What a process file does not say of capabilities and limits is as the container has it."""
    bundle.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 99, "hard": 99}]
    name = started(cli, bundle)
    file = tmp_path / "process.json"
    process = {"args": ["sh", "-c", "ulimit -n; grep CapEff /proc/self/status"], "cwd": "/", "env": ["PATH=/bin"]}
    limit = [{"type": "RLIMIT_NOFILE", "soft": 98, "hard": 98}]
    for said, words in (
        ({}, ["99", "0000000020000420"]),
        ({"rlimits": [], "apparmorProfile": "", "selinuxLabel": ""}, ["99", "0000000020000420"]),
        ({"rlimits": limit, "capabilities": {}}, ["98", "0000000000000000"]),
    ):
        file.write_text(json.dumps(process | said))
        assert cli("exec", "--process", str(file), name).stdout.replace("CapEff:\t", "").split() == words
    cli("delete", "--force", name)


def test_detach_and_pid_file(cli: Cli, box: str, tmp_path: Path) -> None:
    """--detach returns once the process runs, with its pid as the caller sees it in the pid file; a process that
    can't be run is still an error, and leaves no pid file."""
    pid_file = tmp_path / "pid"
    with open(os.devnull, "r+") as null:
        words = cli.command("exec", "-d", "--pid-file", str(pid_file), box, "sleep", "1005")
        assert subprocess.run(words, stdin=null, stdout=null, stderr=null, timeout=60).returncode == 0
    pid = int(pid_file.read_text())
    assert Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001005\0"
    assert pid in json.loads(cli("ps", "-f", "json", box).stdout)
    os.kill(pid, signal.SIGKILL)
    pid_file.unlink()
    cli("exec", "--detach", "--pid-file", str(pid_file), box, "nonsense", code=255)
    assert not pid_file.exists()
    pid_file.write_text("mine")
    cli("exec", "--pid-file", str(pid_file), "--cwd", "/none", box, "true", code=255)
    assert pid_file.read_text() == "mine"  # what it did not write it does not remove
    done = cli("exec", "--pid-file", str(tmp_path / "none/pid"), box, "sleep", "1006", code=255)
    assert "can't write the pid file" in done.stderr
    until(lambda: len(json.loads(cli("ps", "-f", "json", box).stdout)) == 1)


def test_detached_is_reparented(cli: Cli, box: str, tmp_path: Path) -> None:
    """After exec --detach the process is a child of the nearest subreaper, which gets its status."""
    code = (
        "import ctypes, os, subprocess, sys\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "subprocess.run(sys.argv[2:], check=True, stdin=subprocess.DEVNULL)\n"
        "pid = int(open(sys.argv[1]).read())\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    words = cli.command("exec", "-d", "--pid-file", str(tmp_path / "pid"), box, "sh", "-c", "exit 43")
    command = ["/usr/bin/python3", "-c", code, str(tmp_path / "pid"), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout == "43\n", done.stderr


def test_created(cli: Cli, bundle: TestBundle) -> None:
    """exec works in a container that is created but not started, before and beside its program."""
    name = cli.create(bundle.args("sleep", "1000"))
    assert cli("exec", name, "hostname").stdout == "box\n"
    assert cli.state(name)["status"] == "created"
    cli("start", name)
    assert cli("exec", name, "hostname").stdout == "box\n"
    cli("delete", "--force", name)


def test_wrong_status(cli: Cli, box: str) -> None:
    """exec in a paused or stopped container is refused."""
    cli("pause", box)
    done = cli("exec", box, "true", code=255)
    assert "cannot exec in a paused container" in done.stderr
    cli("resume", box)
    cli("kill", box, "KILL")
    cli.wait_for(box, "stopped")
    assert "container not running" in cli("exec", box, "true", code=255).stderr


def test_privileges(cli: Cli, bundle: TestBundle) -> None:
    """--cap adds a capability to the sets, --no-new-privs sets the flag, --user changes what capabilities mean."""
    bundle.config["process"]["noNewPrivileges"] = False
    name = started(cli, bundle)

    def sets(*flags: str) -> dict[str, int]:
        text = cli("exec", *flags, name, "cat", "/proc/self/status").stdout
        rows = dict(line.split(":\t", 1) for line in text.splitlines())
        return {key: int(rows[key], 16) for key in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")}

    plain = sets()
    assert plain["NoNewPrivs"] == 0
    assert not plain["CapEff"] >> 13 & 1
    more = sets("--cap", "CAP_NET_RAW", "-c", "CAP_CHOWN", "--no-new-privs")
    wanted = 1 << 13 | 1 << 0
    assert more["NoNewPrivs"] == 1
    for key in ("CapPrm", "CapEff", "CapBnd"):
        assert more[key] == plain[key] | wanted
    assert more["CapInh"] == more["CapAmb"] == 0
    assert "CAP_NONSENSE" in cli("exec", "--cap", "CAP_NONSENSE", name, "true", code=255).stderr
    user = sets("--user", "1000")
    assert user["CapEff"] == user["CapPrm"] == 0
    cli("delete", "--force", name)


def test_ambient(cli: Cli, bundle: TestBundle) -> None:
    """--cap adds one that is inheritable to the ambient set as well, as runc has it: so another user than root has it.
    An ambient one that can't be is a warning."""
    bundle.config["process"]["noNewPrivileges"] = False
    sets = bundle.config["process"]["capabilities"]
    sets |= {"inheritable": ["CAP_NET_RAW", "CAP_CHOWN"], "ambient": ["CAP_CHOWN", "CAP_KILL"]}
    sets["permitted"].append("CAP_CHOWN")
    sets["bounding"] += ["CAP_CHOWN", "CAP_NET_RAW"]
    warning = "$.process.capabilities.ambient: can't raise ambient capability CAP_KILL: "
    assert warning in cli.run(bundle.args("true")).stderr
    name = cli.start(bundle.args("sleep", "1000"))

    def effective(*flags: str) -> int:
        done = cli("exec", "--user", "1000", *flags, name, "grep", "-E", "CapEff|CapAmb", "/proc/self/status")
        assert warning in done.stderr
        found = {int(word, 16) for word in done.stdout.split()[1::2]}
        assert len(found) == 1
        return found.pop()

    assert effective() == 1 << 0
    assert effective("--cap", "CAP_NET_RAW") == 1 << 13 | 1 << 0
    assert effective("--cap", "CAP_SETUID") == 1 << 0
    cli("delete", "--force", name)


def test_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """exec in a container with a user namespace: its ids are those of the container, on the host the mapped ones."""
    linux = bundle.config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (bundle.path, *bundle.rootfs.rglob("*")):
        if not path.is_symlink():
            os.chown(path, 100000, 100000)
    for parent in bundle.path.parents:
        if parent.name.startswith(("pytest-", "test_")):
            parent.chmod(0o755)
    name = started(cli, bundle)
    script = "id -u; id -g; cat /proc/self/uid_map; readlink /proc/self/ns/user; exit 4"
    lines = cli("exec", name, "sh", "-c", script, code=4).stdout.splitlines()
    assert lines[:2] == ["0", "0"]
    assert lines[2].split() == ["0", "100000", "65536"]
    assert lines[3] == os.readlink(f"/proc/{cli.state(name)['pid']}/ns/user")
    assert cli("exec", "-u", "1000:1000", "-g", "5", name, "id", "-G").stdout == "1000 5\n"
    process = subprocess.Popen(cli.command("exec", name, "sleep", "1007"), stdin=subprocess.DEVNULL)
    other = pid_of(cli, name, b"sleep\x001007\0")
    assert os.stat(f"/proc/{other}").st_uid == 100000
    os.kill(other, signal.SIGKILL)
    assert process.wait(20) == 137
    cli("delete", "--force", name)


def test_seccomp(cli: Cli, bundle: TestBundle) -> None:
    """The container's seccomp profile holds for exec too, with and without no_new_privs."""
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}],
    }
    for flag in (True, False):
        bundle.config["process"]["noNewPrivileges"] = flag
        name = started(cli, bundle)
        done = cli("exec", name, "sh", "-c", "grep Seccomp: /proc/self/status; mkdir /tmp/x", code=1)
        assert done.stdout.split() == ["Seccomp:", "2"]
        assert "No space left on device" in done.stderr
        cli("delete", "--force", name)


def test_large(cli: Cli, box: str, tmp_path: Path) -> None:
    """Environment and arguments of hundreds of KiB arrive whole."""
    env = [f"V{n}={'x' * 1000}" for n in range(400)]
    file = tmp_path / "process.json"
    file.write_text(
        json.dumps({"args": ["sh", "-c", "env | wc -c; echo $# ${#1}", "-", "y" * 100_000], "cwd": "/",
                    "env": ["PATH=/bin", "HOME=/", "PWD=/", "SHLVL=1", *env], "user": {"uid": 0, "gid": 0}})
    )  # fmt: skip
    size, words = cli("exec", "-p", str(file), box).stdout.splitlines()
    assert int(size) >= sum(len(entry) + 1 for entry in env)
    assert words == "1 100000"


def test_preserve_fds(cli: Cli, box: str, tmp_path: Path) -> None:
    """--preserve-fds passes descriptors from 3 on and no others: nothing of ours is left open."""
    (tmp_path / "three").write_text("three\n")
    words = " ".join(cli.command("exec", "--preserve-fds", "1", box))
    script = f"exec 3<{tmp_path}/three 4</dev/null; exec {words} sh -c 'cat <&3; ls /proc/self/fd'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.stdout.split() == ["three", "0", "1", "2", "3", "4"]  # 4 is the directory that ls reads
    assert cli("exec", box, "ls", "/proc/self/fd").stdout.split() == ["0", "1", "2", "3"]


def test_console_socket(cli: Cli, box: str, tmp_path: Path) -> None:
    """--tty with --console-socket and --detach: the master of a pty of the container's comes over the socket, and
    the slave is the process's terminal."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        pid_file = tmp_path / "pid"
        words = ("exec", "-t", "-d", "--console-socket", str(tmp_path / "console"), "--pid-file", str(pid_file))
        script = "tty; test -t 0 && test -t 1 && test -t 2 && echo terminal; cat /dev/tty"
        with open(os.devnull, "r+") as null:
            command = cli.command(*words, "-e", "X=1", box, "sh", "-c", script)
            assert subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=60).returncode == 0
        master = receive_master(listener)
    data = read_until(master, b"terminal\r\n")
    assert data.startswith(b"/dev/pts/")
    os.write(master, b"typed\n")
    read_until(master, b"typed\r\ntyped\r\n")
    pid = int(pid_file.read_text())
    # its controlling terminal: what ^C is for
    os.write(master, b"\x03")
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])
    os.close(master)


def test_console_size_from_the_file(cli: Cli, box: str, tmp_path: Path) -> None:
    """config.md#process: consoleSize of a process file is the pty's."""
    file = tmp_path / "process.json"
    file.write_text(
        json.dumps({"terminal": True, "consoleSize": {"height": 33, "width": 77}, "args": ["stty", "size"],
                    "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 1000, "gid": 1000}})
    )  # fmt: skip
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen()
        flags = ("--detach", "--console-socket", str(tmp_path / "console"))
        with open(os.devnull, "r+") as null:
            words = cli.command("exec", "-p", str(file), *flags, box)
            assert subprocess.run(words, stdin=null, stdout=null, stderr=null, timeout=60).returncode == 0
        master = receive_master(listener)
    read_until(master, b"33 77\r\n")
    os.close(master)


def test_console_refused(cli: Cli, box: str, tmp_path: Path) -> None:
    """A terminal for a detached process needs a console socket; a console socket needs both."""
    assert "console socket" in cli("exec", "-t", "-d", box, "true", code=255).stderr
    path = str(tmp_path / "console")
    assert "no such file" in cli("exec", "-t", "-d", "--console-socket", path, box, "true", code=255).stderr
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert "--detach" in cli("exec", "-t", "--console-socket", path, box, "true", code=255).stderr
        assert "terminal" in cli("exec", "-d", "--console-socket", path, box, "true", code=255).stderr


def test_foreground_terminal(cli: Cli, box: str) -> None:
    """--tty in the foreground: the caller's terminal and the process's are one: keys, output, size and changes of it,
    ^C; and the caller's terminal is as it was afterwards."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    before = termios.tcgetattr(slave)
    script = "stty size; trap 'echo; stty size' WINCH; trap 'echo interrupted; exit 8' INT; echo ready; " \
        "while :; do read line && echo \"got $line\"; done"  # fmt: skip
    process = subprocess.Popen(
        cli.command("exec", "--tty", box, "sh", "-c", script), stdin=slave, stdout=slave, stderr=slave,
        preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),
    )  # fmt: skip
    read_until(master, b"40 100\r\nready\r\n")
    assert termios.tcgetattr(slave)[3] & (termios.ECHO | termios.ICANON | termios.ISIG) == 0
    os.write(master, b"typed\r")
    read_until(master, b"got typed\r\n")
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
    read_until(master, b"50 120\r\n")
    os.write(master, b"\x03")
    read_until(master, b"interrupted\r\n")
    assert process.wait(20) == 8
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_terminal_with_pipes(cli: Cli, box: str) -> None:
    """--tty with standard streams that are no terminal: the process still has one, and the end of the input is
    the end of its input."""
    done = cli("exec", "-t", box, "sh", "-c", "test -t 0 && test -t 1 && cat", input="words\n")
    assert done.stdout.replace("\r", "").endswith("words\n")


def test_nothing_of_the_host(cli: Cli, box: str) -> None:
    """What an exec'd process can reach of its own past: no environment, no descriptors, no keyring of the caller's,
    and /proc/self/exe is the program (CVE-2019-5736)."""
    env = os.environ | {"SECRET": "1"}
    done = subprocess.run(
        cli.command("exec", box, "sh", "-c", "env; readlink /proc/self/exe; ls -l /proc/self/fd"), env=env,
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0
    assert "SECRET" not in done.stdout
    assert "/bin/busybox" in done.stdout
    assert "memfd" not in done.stdout
    assert "socket" not in done.stdout


def test_many_at_once(cli: Cli, box: str) -> None:
    """Execs beside each other do not get into each other's way."""
    running = [
        subprocess.Popen(
            cli.command("exec", box, "sh", "-c", f"echo {n}; exit {n}"), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True,
        )
        for n in range(12)
    ]  # fmt: skip
    for n, process in enumerate(running):
        out, _ = process.communicate(timeout=60)
        assert (process.returncode, out) == (n, f"{n}\n")
