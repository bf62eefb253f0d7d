"""Terminals: config.md#process (terminal, consoleSize), config-linux.md#default-devices, and a run in the
foreground."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id


def terminal(bundle: TestBundle, script: str) -> TestBundle:
    bundle.config["process"]["terminal"] = True
    return bundle.sh(script)


class Screen:
    """A pty's master, and what came out of it so far."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.text = ""

    def read(self, until: Callable[[str], bool] = lambda text: False) -> str:
        """Read until a condition holds, or to the end; a minute is the limit for a hang."""
        deadline = time.monotonic() + 60
        while not until(self.text):
            left = deadline - time.monotonic()
            assert left > 0, f"the terminal had only {self.text!r}"
            if not select.select([self.fd], [], [], left)[0]:
                continue
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # EIO: no one has the other side open
                break
            if not data:
                break
            self.text += data.decode(errors="replace")
        return self.text

    def expect(self, words: str) -> str:
        """Read until words have come; returns what came before them, and forgets both."""
        self.read(lambda text: words in text)
        assert words in self.text
        before, _, self.text = self.text.partition(words)
        return before

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class ConsoleSocket:
    """Listens where --console-socket points to."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.bind(self.path)
        self.socket.listen()
        self.message = b""
        self.open: list[int] = []

    def screen(self) -> Screen:
        """The terminal that was sent."""
        connection = self.socket.accept()[0]
        with connection:
            connection.settimeout(60)
            self.message, fds, _, _ = socket.recv_fds(connection, 4096, 4)
        self.open += fds
        assert len(fds) == 1
        return Screen(fds[0])

    def close(self) -> None:
        self.socket.close()
        for fd in self.open:
            os.close(fd)


@pytest.fixture
def console(tmp_path: Path) -> Iterator[ConsoleSocket]:
    made = ConsoleSocket(tmp_path / "console.sock")
    yield made
    made.close()


def test_console_socket(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """config.md#process, terminal: the socket gets the master of a pty of the container's own, with a
    name; the slave is the controlling terminal."""
    script = """
        test $(cut -d' ' -f7 /proc/self/stat) -ne 0 && echo controlled
        read line; echo "[$line]"; exit 3
    """
    name = cli.create(terminal(bundle, script), "--console-socket", console.path)
    screen = console.screen()
    assert console.message
    assert os.isatty(screen.fd)
    cli("start", name)
    screen.expect("controlled")
    screen.type("typed\n")
    screen.expect("[typed]")
    screen.read()
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_size_and_name(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """config.md#process, consoleSize: the size is there from the first moment; the pty is the first of its
    devpts."""
    bundle.config["process"]["consoleSize"] = {"height": 33, "width": 101}
    script = "tty; stty size; stat -L -c %t:%T /dev/console /proc/self/fd/0 /proc/self/fd/1 /proc/self/fd/2"
    name = cli.create(terminal(bundle, script), "--console-socket", console.path)
    screen = console.screen()
    cli("start", name)
    assert screen.read().splitlines() == ["/dev/pts/0", "33 101", *["88:0"] * 4]
    cli.wait_for(name, "stopped")
    cli("delete", name)


@pytest.mark.spec("config-linux#default-devices-1")
def test_dev_console_and_ptmx(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """config-linux.md#default-devices: /dev/console is the terminal, and /dev/ptmx makes further ones, of the
    container's own devpts."""
    script = """
        echo by console > /dev/console; exec 3<>/dev/ptmx && echo opened
        ls /dev/pts/1; stat -c %t:%T /dev/pts/1
    """
    name = cli.create(terminal(bundle, script), "--console-socket", console.path)
    screen = console.screen()
    cli("start", name)
    assert screen.read().splitlines() == ["by console", "opened", "/dev/pts/1", "88:1"]
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_no_terminal(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#default-devices: /dev/console is there only with a terminal; /dev/ptmx is there
    always."""
    done = cli.run(bundle.sh("ls /dev/console; tty; exec 3<>/dev/ptmx && echo opened"), code=None)
    assert "/dev/console: No such file" in done.stderr
    assert done.stdout.split("\n")[:2] == ["not a tty", "opened"]


def test_owner(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """The terminal belongs to the container's user, who can open it anew by its name."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    name = cli.create(
        terminal(bundle, "stat -c %u:%g $(tty); echo again > $(tty); echo err > /dev/stderr"),
        "--console-socket",
        console.path,
    )
    screen = console.screen()
    cli("start", name)
    assert screen.read().splitlines() == ["1000:5", "again", "err"]
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_in_user_namespace(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """The same in a user namespace."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    name = cli.create(
        terminal(bundle, "tty; stat -c %u:%g $(tty); echo x > /dev/console"), "--console-socket", console.path
    )
    screen = console.screen()
    cli("start", name)
    assert screen.read().splitlines()[:2] == ["/dev/pts/0", "1000:5"]
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_interrupt(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """The terminal controls the program's session: ^C typed on it is a signal."""
    script = "trap 'echo interrupted; exit 3' INT; echo ready; while :; do sleep 1; done"
    name = cli.create(terminal(bundle, script), "--console-socket", console.path)
    screen = console.screen()
    cli("start", name)
    screen.expect("ready")
    screen.type("\x03")
    screen.expect("interrupted")
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_exec(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """exec --tty --console-socket: a further terminal in the same container."""
    name = cli.start(bundle.args("sleep", "1000"))
    words = [
        "--detach",
        "--tty",
        "--console-socket",
        console.path,
        name,
        "sh",
        "-c",
        "tty; test -t 2 && echo all",
    ]
    cli("exec", *words)
    assert console.screen().read().splitlines() == ["/dev/pts/0", "all"]
    cli("delete", "--force", name)


# --- what is wrong ---


def test_socket_needed(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, terminal: a create without a console socket has no one to give the terminal to."""
    done = cli("create", "--bundle", str(terminal(bundle, "tty").save()), fresh_id(), code=1)
    assert "$.process.terminal" in done.stderr
    assert "--console-socket" in done.stderr


def test_socket_unreachable(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """--console-socket: a path where no one listens."""
    terminal(bundle, "tty")
    done = cli.run(bundle, "--detach", "--console-socket", str(tmp_path / "none"), code=1)
    assert "none: connect: no such file or directory" in done.stderr


def test_no_devpts(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """A terminal needs a devpts mount of the container's own; the error says so."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/dev/pts"]
    line = cli.run(terminal(bundle, "tty"), "--detach", "--console-socket", console.path, code=1).stderr
    assert "$.process.terminal" in line
    assert "a terminal needs a devpts mount at /dev/pts" in line


def test_false_ptmx(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """What an image puts in the multiplexer's place is not taken for it (CVE-2025-52565)."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/pts").mkdir()
    target = bundle.rootfs / "dev/pts/ptmx"
    for make in (
        lambda: target.write_text(""),
        lambda: target.symlink_to("/etc/passwd"),
        lambda: os.mknod(target, 0o20666, os.makedev(1, 3)),
    ):
        make()
        done = cli.run(terminal(bundle, "tty"), "--detach", "--console-socket", console.path, code=1)
        assert "/dev/pts/ptmx is not a pty multiplexer" in done.stderr
        target.unlink()


def test_console_link(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """A /dev/console that is a link, of an image whose /dev is used, is bound within the root at the most, and not in
    /proc."""
    bundle.config["mounts"] = [
        m for m in bundle.config["mounts"] if m["destination"] not in ("/dev", "/dev/shm")
    ]
    (bundle.rootfs / "dev/console").symlink_to("../../../../../../../escaped-console")
    name = cli.create(terminal(bundle, "echo ok"), "--console-socket", console.path)
    screen = console.screen()
    cli("start", name)
    assert screen.read() == "ok\r\n"
    cli.wait_for(name, "stopped")
    cli("delete", name)
    assert not os.path.lexists("/escaped-console")
    (bundle.rootfs / "dev/console").unlink()
    (bundle.rootfs / "dev/console").symlink_to("/proc/sys/kernel/hostname")
    line = cli("create", "-b", str(bundle.save()), "--console-socket", console.path, fresh_id(), code=1).stderr
    assert "/dev/console is inside of a procfs" in line


# --- a run in the foreground ---


class Session:
    """A command on a terminal of its own, as a user has it."""

    def __init__(self, words: list[str], rows: int = 24, columns: int = 80) -> None:
        master, slave = os.openpty()
        self.screen = Screen(master)
        self.screen.resize(rows, columns)
        self.slave = slave
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            words, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip

    def end(self) -> int:
        """Wait for the end; the terminal must be as it was before."""
        code = self.process.wait(60)
        assert termios.tcgetattr(self.slave) == self.before
        os.close(self.slave)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.screen.fd)


def follows(screen: Screen, size: str) -> None:
    """Ask the program for the size until it is the expected one: the signal may come after the question."""
    while True:
        screen.type("\r")
        screen.read(lambda text: text.count("\n") >= 2)  # the echo, and the answer
        found, screen.text = screen.text.split("\r\n")[-2], ""
        if found == size:
            return


def test_foreground(cli: Cli, bundle: TestBundle) -> None:
    """run on a terminal: the container's pty has the window's size and follows it, keys go in as they are
    typed, the exit status comes out, and the terminal is left as it was."""
    script = "while read line; do case $line in q) exit 5;; *) stty size;; esac; done"
    session = Session(
        cli.command("run", "--bundle", str(terminal(bundle, script).save()), fresh_id()), 30, 90
    )
    try:
        screen = session.screen
        follows(screen, "30 90")
        screen.resize(41, 121)
        follows(screen, "41 121")
        screen.type("q\r")
        assert session.end() == 5
    finally:
        session.close()


def test_foreground_interrupt(cli: Cli, bundle: TestBundle) -> None:
    """run on a terminal: ^C goes to the container's program, not to the command."""
    script = "trap 'echo interrupted; exit 7' INT; echo ready; while :; do sleep 1; done"
    session = Session(cli.command("run", "--bundle", str(terminal(bundle, script).save()), fresh_id()))
    try:
        session.screen.expect("ready\r\n")
        session.screen.type("\x03")
        session.screen.expect("interrupted")
        assert session.end() == 7
    finally:
        session.close()


def test_foreground_exec(cli: Cli, bundle: TestBundle) -> None:
    """exec --tty on a terminal."""
    name = cli.start(bundle.args("sleep", "1000"))
    session = Session(cli.command("exec", "--tty", name, "sh", "-c", "stty size; read x; exit $x"), 20, 70)
    try:
        session.screen.expect("20 70\r\n")
        session.screen.type("9\r")
        assert session.end() == 9
    finally:
        session.close()
    cli("delete", "--force", name)


def test_foreground_keys(cli: Cli, bundle: TestBundle) -> None:
    """run on a terminal: each key reaches the container's terminal as it is, which alone says what it does: Enter,
    ^S, ^Q, ^Z, ^D and ^V here."""
    keys = "\r\x13\x11\x1a\x04\x16"
    script = f"stty raw -echo; echo ready; dd bs=1 count={len(keys)} 2>/dev/null | od -An -tx1; stty sane"
    session = Session(cli.command("run", "--bundle", str(terminal(bundle, script).save()), fresh_id()))
    try:
        session.screen.expect("ready")
        session.screen.type(keys)
        session.screen.expect("0d 13 11 1a 04 16")
        assert session.end() == 0
    finally:
        session.close()


def test_piped_input(cli: Cli, bundle: TestBundle) -> None:
    """run with a terminal in the container and pipes outside: input goes in, its end as a terminal's user
    would give it."""
    done = cli.run(terminal(bundle, 'read x; echo "got $x"; cat; echo end'), input="hello\nmore\n")
    lines = done.stdout.splitlines()
    assert "got hello" in lines
    assert lines[-1] == "end"
    assert "more" in lines


def test_no_input(cli: Cli, bundle: TestBundle) -> None:
    """run with a terminal in the container and nothing to read outside."""
    assert cli.run(terminal(bundle, "cat; echo end; exit 4"), code=4).stdout.splitlines()[-1] == "end"


def test_much_output(cli: Cli, bundle: TestBundle) -> None:
    """run: all that the program wrote is there, however fast it ended after."""
    done = cli.run(terminal(bundle, "head -c 300000 /dev/zero | tr '\\0' x; echo; echo end"))
    assert done.stdout == "x" * 300000 + "\nend\n"


def test_much_both_ways(cli: Cli, bundle: TestBundle) -> None:
    """run: input and output of more than a terminal's buffer at once do not block each other."""
    text = "".join(f"{n:099}\n" for n in range(3000))
    done = cli.run(terminal(bundle, "stty -echo; echo ready; cat; echo end"), input=text)
    assert done.stdout.endswith("0002999\nend\n")
    assert done.stdout.partition("ready\n")[2].count("\n") == 3001


def test_input_without_line_end(cli: Cli, bundle: TestBundle) -> None:
    """run: the end of input in the middle of a line is an end nevertheless."""
    done = cli.run(terminal(bundle, "stty -echo; cat; echo; echo end"), input="abc")
    assert done.stdout.endswith("abc\nend\n")


def test_output_that_nobody_takes(cli: Cli, bundle: TestBundle) -> None:
    """The terminal hangs up: the program gets its SIGHUP, run exits as it did, and the container is deleted."""
    terminal(bundle, "trap 'exit 9' HUP; while :; do echo words; sleep 0.01; done").save()
    for full in False, True:
        if full:
            output = os.open("/dev/full", os.O_WRONLY)
        else:
            reader, output = os.pipe()
            os.close(reader)
        words = cli.command("run", "--bundle", str(bundle.path), fresh_id())
        done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.PIPE, timeout=60)
        os.close(output)
        assert (done.returncode, done.stderr) == (9, b"")
        assert list(cli.root.iterdir()) == []


def test_output_that_does_not_block(cli: Cli, bundle: TestBundle) -> None:
    """A standard output in non-blocking mode, which is the caller's to share, loses nothing."""
    terminal(bundle, "i=0; while [ $i -lt 20000 ]; do echo words $i; i=$((i+1)); done").save()
    reader, writer = os.pipe2(os.O_NONBLOCK)
    words = cli.command("run", "--bundle", str(bundle.path), fresh_id())
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=writer)
    os.close(writer)
    time.sleep(0.5)  # until the pipe is full
    os.set_blocking(reader, True)
    with open(reader) as output:
        assert output.read().split("\n") == [f"words {i}" for i in range(20000)] + [""]
    assert process.wait(60) == 0


# --- what becomes of the ends of lines ---


@pytest.mark.parametrize("outside", ["pipe", "terminal for input"])
def test_plain_line_ends(cli: Cli, bundle: TestBundle, outside: str) -> None:
    """run and exec: in a pipe there is what the program wrote, with no carriage return, from its first line on."""
    name = cli.start(bundle.args("sleep", "1000"))
    terminal(bundle, "echo one; echo two").save()
    words = ("sh", "-c", "echo one; echo two")
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    for command in (
        cli.command("run", "--bundle", str(bundle.path), fresh_id()),
        cli.command("exec", "--tty", name, *words),
    ):
        done = subprocess.run(
            command, stdin=slave if outside == "terminal for input" else subprocess.DEVNULL, capture_output=True,
            timeout=60,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.replace(b"^D\b\b", b"") == b"one\ntwo\n"
        assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
    cli("delete", "--force", name)


def test_line_ends_of_the_host(cli: Cli, bundle: TestBundle) -> None:
    """On a terminal, raw mode leaves what that does with output: its own carriage returns, one for each line."""
    session = Session(
        cli.command("run", "--bundle", str(terminal(bundle, "echo one; echo two; read x").save()), fresh_id())
    )
    try:
        assert session.screen.expect("two\r\n") == "one\r\n"
        mode = termios.tcgetattr(session.slave)
        assert mode[1] == session.before[1]
        assert not mode[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
        session.screen.type("\r")
        assert session.end() == 0
    finally:
        session.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_terminal_restored_after_signals(cli: Cli, bundle: TestBundle, number: int) -> None:
    """A signal that the command gets is the program's; the terminal is as before when that has ended by it."""
    terminal(bundle, f"trap 'exit 8' {number}; echo ready; while :; do sleep 0.05; done")
    session = Session(cli.command("run", "--bundle", str(bundle.save()), fresh_id()))
    try:
        session.screen.expect("ready\r\n")
        assert termios.tcgetattr(session.slave) != session.before
        session.process.send_signal(number)
        assert session.end() == 8
    finally:
        session.close()


def test_terminal_restored_after_errors(cli: Cli, bundle: TestBundle) -> None:
    """A program that can't be run leaves the terminal alone."""
    name = cli.start(bundle.args("sleep", "1000"))
    terminal(bundle, "").args("/none").save()
    for command in (
        cli.command("run", "--bundle", str(bundle.path), fresh_id()),
        cli.command("exec", "--tty", name, "/none"),
    ):
        session = Session(command)
        try:
            session.screen.expect("/none")
            assert session.end() != 0
        finally:
            session.close()
    cli("delete", "--force", name)


def test_line_ends_of_a_console_socket(cli: Cli, bundle: TestBundle, console: ConsoleSocket) -> None:
    """--console-socket: the pty is sent as the kernel made it, as by runc; the receiver may change it."""
    name = cli.create(terminal(bundle, "echo one"), "--console-socket", console.path)
    screen = console.screen()
    assert termios.tcgetattr(screen.fd)[1] & termios.ONLCR
    cli("start", name)
    assert screen.read() == "one\r\n"
    cli.wait_for(name, "stopped")
    cli("delete", name)
