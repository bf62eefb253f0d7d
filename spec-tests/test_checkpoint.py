"""checkpoint and restore: processes go on where they were, with what belongs to the host in its place."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id, mounts, until
from criu_tools import Counter, Dump, counter, criu, dump, need
from test_namespaces import give_to
from test_terminal import ConsoleSocket, console, terminal

__all__ = ["console", "counter", "criu", "dump"]
pytestmark = pytest.mark.usefixtures("criu")


def test_goes_on(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """A container that was checkpointed is gone; restored it goes on where it was, and is one like any other."""
    counter.bundle.config["annotations"] = {"a": "b"}
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    assert "does not exist" in cli("state", name, code=1).stderr
    stopped = counter.value
    pid_file = tmp_path / "pid"
    dump.restore(counter.bundle, name, "--pid-file", str(pid_file))
    assert counter.goes_on() > stopped > 1
    state = cli.state(name)
    assert state["status"] == "running"
    assert state["annotations"] == {"a": "b"}
    assert state["pid"] == int(pid_file.read_text())
    assert state["pid"] in json.loads(cli("ps", "--format", "json", name).stdout)
    assert cli("exec", name, "hostname").stdout == "box\n"
    assert "127.0.0.1" in cli("exec", name, "ip", "a").stdout  # the loopback interface is up, as create has it
    cli("pause", name)
    cli("resume", name)
    counter.goes_on()
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_again(cli: Cli, counter: Counter, dump: Dump) -> None:
    """A restored container can be checkpointed and restored again, also into another id; so can a paused one."""
    name, other = dump.start(counter.bundle), fresh_id()
    counter.goes_on()
    dump.checkpoint(name)
    dump.restore(counter.bundle, other)
    counter.goes_on()
    dump.checkpoint(other)
    stopped = counter.value
    dump.restore(counter.bundle, name)
    assert counter.goes_on() > stopped
    cli("pause", name)
    dump.checkpoint(name)
    dump.restore(counter.bundle, name)
    counter.goes_on()
    cli("delete", "--force", name)


def test_leave_running(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """--leave-running: the container goes on, and the images are whole. --work-path: that's where the log is."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    pid = cli.state(name)["pid"]
    dump.checkpoint(name, "--leave-running", "--work-path", str(tmp_path / "work"))
    assert (tmp_path / "work/dump.log").exists()
    assert not (dump.path / "dump.log").exists()
    dumped = counter.goes_on()
    assert cli.state(name)["pid"] == pid
    cli("delete", "--force", name)
    counter.file.write_text("0")
    dump.restore(counter.bundle, name)
    until(lambda: counter.value > 0)
    assert 0 < counter.value <= dumped + 5  # from where it was when it was dumped
    cli("delete", "--force", name)


def test_foreground(cli: Cli, bundle: TestBundle, dump: Dump) -> None:
    """In the foreground, restore stays with the container: its pipes in place of the former ones, its exit
    status, and it is deleted."""
    bundle.sh("echo one; until [ -e /tmp/go ]; do sleep 0.02; done; read line; echo two $line; echo three >&2; exit 7")
    name = fresh_id()
    run = subprocess.Popen(cli.command("run", "--bundle", str(bundle.save()), name), stdin=subprocess.PIPE,
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    with run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"one\n"
        dump.checkpoint(name)
        assert run.wait(60) == 137
    assert [link.partition(":")[0] for link in json.loads((dump.path / "descriptors.json").read_text())] == ["pipe"] * 3
    (bundle.rootfs / "tmp/go").touch()
    done = cli("restore", *dump.where(bundle, name), code=7, input="typed\n")
    assert done.stdout == "two typed\n"
    assert done.stderr.endswith("three\n")


def test_files_of_the_host(cli: Cli, bundle: TestBundle, dump: Dump, tmp_path: Path) -> None:
    """Standard streams that are files outside of the container: the restore has its own in their place. (CRIU
    insists on the former size, so it must be the same file, or a copy.)"""
    bundle.sh("echo one; until [ -e /tmp/go ]; do sleep 0.02; done; echo two; echo three >&2")
    name = fresh_id()
    log, moved = tmp_path / "log", tmp_path / "moved"

    def start(file: Path, *words: str) -> None:
        with file.open("ab") as out:
            null = subprocess.DEVNULL
            subprocess.run(cli.command(*words), stdin=null, stdout=out, stderr=out, check=True, timeout=60)

    start(log, "run", "--detach", "--bundle", str(bundle.save()), name)
    until(lambda: log.read_text() == "one\n")
    dump.checkpoint(name)
    (bundle.rootfs / "tmp/go").touch()
    log.rename(moved)
    start(moved, "restore", *dump.where(bundle, name))
    assert moved.read_text() == "one\ntwo\nthree\n"


@pytest.mark.parametrize("closed", [(0,), (1,), (0, 1, 2)])
def test_closed_streams(cli: Cli, counter: Counter, dump: Dump, closed: tuple[int, ...]) -> None:
    """Standard streams that the program has closed lead nowhere, and are closed in the restored one."""
    script = counter.bundle.config["process"]["args"][-1]
    counter.bundle.sh("; ".join(f"exec {fd}>&-" for fd in closed) + f"; {script}")
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    links = json.loads((dump.path / "descriptors.json").read_text())
    assert [bool(link) for link in links] == [fd not in closed for fd in range(3)]
    dump.restore(counter.bundle, name)
    counter.goes_on()
    pid = cli.state(name)["pid"]
    assert {fd for fd in range(3) if os.path.lexists(f"/proc/{pid}/fd/{fd}")} == {0, 1, 2} - set(closed)
    cli("delete", "--force", name)


def test_sysctl(cli: Cli, counter: Counter, dump: Dump) -> None:
    """Kernel parameters of the network namespace are as they were; none of the host's changes."""
    files = ["net/core/somaxconn", "kernel/msgmax", "kernel/domainname"]
    values = ["4321", "8765", "inner.example"]
    counter.bundle.config["linux"]["sysctl"] = dict(zip(files, values, strict=True))
    before = [Path("/proc/sys", file).read_text() for file in files]
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    dump.restore(counter.bundle, name)
    counter.goes_on()
    try:
        assert cli("exec", name, "cat", *(f"/proc/sys/{file}" for file in files)).stdout.split() == values
        assert [Path("/proc/sys", file).read_text() for file in files] == before
    finally:
        for file, text in zip(files, before, strict=True):
            Path("/proc/sys", file).write_text(text)
    cli("delete", "--force", name)


def test_terminal(cli: Cli, bundle: TestBundle, dump: Dump, console: ConsoleSocket) -> None:
    """A terminal: the master of the restored one goes over the console socket."""
    terminal(bundle, "stty -echo; echo ready; while read line; do echo [$line]; done")
    name = cli.create(bundle, "--console-socket", console.path)
    first = console.screen()
    cli("start", name)
    first.expect("ready")
    dump.checkpoint(name)
    dump.restore(bundle, name, code=1)
    assert "--console-socket" in dump.said
    dump.restore(bundle, name, "--console-socket", console.path)
    screen = console.screen()
    assert console.message
    screen.type("typed\n")
    screen.expect("[typed]")
    cli("delete", "--force", name)


def test_terminal_in_foreground(cli: Cli, bundle: TestBundle, dump: Dump, console: ConsoleSocket) -> None:
    """In the foreground the terminal is relayed."""
    terminal(bundle, "stty -echo; echo ready; read line; echo [$line]; exit 3")
    name = cli.create(bundle, "--console-socket", console.path)
    screen = console.screen()
    cli("start", name)
    screen.expect("ready")
    dump.checkpoint(name)
    done = cli("restore", *dump.where(bundle, name), code=3, input="typed\n")
    assert "[typed]" in done.stdout


def test_pre_dump(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """--pre-dump: memory is written and the container goes on; --parent-path: what it did not change since then is
    taken from there."""
    need("mem_dirty_track")
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name, "--pre-dump")
    counter.goes_on()
    early = Dump(cli, dump.path)
    early.restore(counter.bundle, fresh_id(), code=1)
    assert "pre-dump" in early.said
    last = Dump(cli, tmp_path / "last")
    last.checkpoint(name, "--parent-path", "../images")
    assert (last.path / "parent").resolve() == dump.path.resolve()
    stopped = counter.value
    last.restore(counter.bundle, name)
    assert counter.goes_on() > stopped
    cli("delete", "--force", name)


def test_no_pre_dump(cli: Cli, counter: Counter, dump: Dump, criu: str) -> None:
    """--pre-dump on a kernel without dirty memory tracking is refused, and names what is missing."""
    if subprocess.run([criu, "check", "--feature", "mem_dirty_track"], capture_output=True).returncode == 0:
        pytest.skip("criu check --feature mem_dirty_track: this kernel has it")
    name = dump.start(counter.bundle)
    counter.goes_on()
    assert "dirty memory tracking" in dump.checkpoint(name, "--pre-dump", code=1).stderr
    assert not dump.path.exists()
    counter.goes_on()
    cli("delete", "--force", name)


def test_file_locks(cli: Cli, bundle: TestBundle, dump: Dump) -> None:
    """--file-locks: a lock is held again; without it CRIU refuses, and the container goes on."""
    lock = bundle.rootfs / "tmp/lock"
    copy_program(bundle, "flock")
    bundle.args("/bin/flock", "/tmp/lock", "sleep", "1000")
    name = dump.start(bundle)

    def held() -> bool:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    until(lambda: lock.exists() and held())
    line = dump.checkpoint(name, code=1).stderr.splitlines()[-1]
    assert "Error (" in line
    assert "lock" in line
    assert f"{dump.path}/dump.log" in line
    assert cli.state(name)["status"] == "running"
    assert not (dump.path / "descriptors.json").exists()
    dump.checkpoint(name, "--file-locks")
    assert not held()
    dump.restore(bundle, name, "--file-locks")
    assert held()
    cli("delete", "--force", name)


def test_tcp(cli: Cli, bundle: TestBundle, dump: Dump) -> None:
    """--tcp-established: a connection inside of the container goes on."""
    with socket.socket() as probe:
        try:
            probe.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED)
        except OSError as error:  # since Linux 6.17
            pytest.skip(f"getsockopt(SO_PASSCRED) on a TCP socket, which CRIU dumps: {error}")
    bundle.sh("""
        busybox mkfifo /tmp/in; busybox mkfifo /tmp/none; exec 3<>/tmp/in 4<>/tmp/none
        busybox nc -l -p 2000 > /tmp/out <&4 &
        until busybox nc 127.0.0.1 2000 <&3; do sleep 0.1; done
    """)
    name = dump.start(bundle)
    fifo, out = bundle.rootfs / "tmp/in", bundle.rootfs / "tmp/out"
    until(lambda: fifo.exists())
    fifo.write_text("one\n")
    until(lambda: out.exists() and out.read_text() == "one\n")
    assert "Error (" in dump.checkpoint(name, code=1).stderr
    dump.checkpoint(name, "--tcp-established", "--tcp-skip-in-flight")
    dump.restore(bundle, name, "--tcp-established")
    fifo.write_text("two\n")
    until(lambda: out.read_text() == "one\ntwo\n")
    cli("delete", "--force", name)


def test_bind_mounts(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """Bind mounts come from where the config of the restore says; their mount points are made in a root file
    system that has none, behind a symbolic link as well, and no mount is left in sight of the host."""
    for side in ("first", "second"):
        (tmp_path / side / "sub").mkdir(parents=True)
        (tmp_path / side / "file").write_text(side)
    bundle = counter.bundle
    (bundle.rootfs / "link").symlink_to("/var/run")

    def bind(side: str) -> None:
        bundle.config["mounts"][5:] = [
            {"destination": "/mnt/dir", "type": "bind", "source": str(tmp_path / side), "options": ["rbind", "ro"]},
            {"destination": "/mnt/dir/sub", "type": "tmpfs", "source": "t"},
            {"destination": "/link/file", "source": str(tmp_path / side / "file"), "options": ["bind"]},
        ]

    bind("first")
    name = dump.start(bundle)
    counter.goes_on()
    dump.checkpoint(name)
    for made in ("mnt/dir", "mnt", "proc", "sys", "dev"):
        (bundle.rootfs / made).rmdir()
    (bundle.rootfs / "var/run/file").unlink()
    bind("second")
    dump.restore(bundle, name)
    counter.goes_on()
    assert cli("exec", name, "cat", "/mnt/dir/file", "/var/run/file").stdout == "secondsecond"
    inside = mounts(cli("exec", name, "cat", "/proc/self/mountinfo").stdout)
    assert "ro" in inside["/mnt/dir"].options
    assert inside["/mnt/dir/sub"].type == "tmpfs"
    assert str(bundle.path) not in Path("/proc/self/mountinfo").read_text()
    cli("delete", "--force", name)


def test_joined_namespaces(cli: Cli, counter: Counter, dump: Dump) -> None:
    """Namespaces that are joined by a path are left out, and the restored container joins those of its config."""
    bundle = counter.bundle
    with background(["unshare", "--net", "--ipc", "sleep", "1000"]) as holder:
        until(lambda: Path(f"/proc/{holder.pid}/comm").read_text() == "sleep\n")
        joined = {"network": f"/proc/{holder.pid}/ns/net", "ipc": f"/proc/{holder.pid}/ns/ipc"}
        bundle.config["linux"]["namespaces"] = [
            *({"type": kind} for kind in ("pid", "mount", "uts")),
            *({"type": kind, "path": path} for kind, path in joined.items()),
        ]
        name = dump.start(bundle)
        counter.goes_on()
        dump.checkpoint(name)
        dump.restore(bundle, name)
        counter.goes_on()
        pid = cli.state(name)["pid"]
        for path in joined.values():
            assert os.readlink(f"/proc/{pid}/ns/{path.rpartition('/')[2]}") == os.readlink(path)
        cli("delete", "--force", name)


def test_user_namespace(cli: Cli, open_bundle: TestBundle, dump: Dump) -> None:
    """A user namespace: the ids are mapped as before, and devices are the host's."""
    counter = Counter(open_bundle)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    open_bundle.config["linux"] |= {"uidMappings": mapping, "gidMappings": mapping}
    open_bundle.config["linux"]["namespaces"].append({"type": "user"})
    give_to(open_bundle.rootfs, 100000)
    name = dump.start(open_bundle)
    counter.goes_on()
    dump.checkpoint(name)
    dump.restore(open_bundle, name)
    counter.goes_on()
    assert counter.file.stat().st_uid == 100000
    assert dump.path.stat().st_mode & 0o67 == 0  # the memory of processes is not for everybody
    assert cli("exec", name, "sh", "-c", "echo x > /dev/null; cat /proc/self/uid_map").stdout.split()[1] == "100000"
    cli("delete", "--force", name)


def test_limits(cli: Cli, counter: Counter, dump: Dump) -> None:
    """Limits are those of the config of the restore, and ones that CRIU itself would break are no obstacle."""
    counter.bundle.config["linux"]["resources"] = {"pids": {"limit": 3}, "memory": {"limit": 8 << 20}}
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    counter.bundle.config["linux"]["resources"]["pids"]["limit"] = 2
    dump.restore(counter.bundle, name)
    counter.goes_on()
    stats = json.loads(cli("events", "--stats", name).stdout)["data"]
    assert stats["pids"]["limit"] == 2
    assert stats["memory"]["usage"]["limit"] == 8 << 20
    cli("delete", "--force", name)


@pytest.mark.parametrize("own", [False, True])
def test_cgroup_mount(cli: Cli, counter: Counter, dump: Dump, own: bool) -> None:
    """A cgroup mount, with a cgroup namespace and without one."""
    config = counter.bundle.config
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]})
    if own:
        config["linux"]["namespaces"].append({"type": "cgroup"})
    name = dump.start(counter.bundle)
    counter.goes_on()
    before = cli("exec", name, "ls", "/sys/fs/cgroup").stdout
    dump.checkpoint(name)
    dump.restore(counter.bundle, name)
    counter.goes_on()
    assert cli("exec", name, "ls", "/sys/fs/cgroup").stdout == before
    cli("delete", "--force", name)


@pytest.mark.parametrize("mode", ["ignore", "soft", "full"])
def test_cgroup_modes(cli: Cli, counter: Counter, dump: Dump, mode: str) -> None:
    """--manage-cgroups-mode: in each the restored processes are in the container's cgroup."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name, "--manage-cgroups-mode", mode)
    dump.restore(counter.bundle, name, "--manage-cgroups-mode", mode)
    counter.goes_on()
    assert cli.state(name)["pid"] in json.loads(cli("ps", "--format", "json", name).stdout)
    cli("delete", "--force", name)


def test_strict_cgroups(counter: Counter, dump: Dump) -> None:
    """--manage-cgroups-mode strict: CRIU refuses cgroups that exist, and the container's has been made."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    dump.restore(counter.bundle, name, "--manage-cgroups-mode", "strict", code=1)
    assert "existing cgroups" in dump.said


def test_hooks(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """prestart and createRuntime hooks are for the namespaces, which are new: they run, with the pid of the new
    init. What prepares or follows the program does not. One that fails leaves nothing of the container."""
    log = tmp_path / "log"
    hooks = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"(echo {kind}; cat; echo) >> {log}"]}]
        for kind in ("prestart", "createRuntime", "poststart", "poststop")
    }
    counter.bundle.config["hooks"] = hooks
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    assert log.read_text().split("\n")[::2][:-1] == ["prestart", "createRuntime", "poststart", "poststop"]
    log.unlink()
    dump.restore(counter.bundle, name)
    lines = log.read_text().splitlines()
    assert lines[::2] == ["prestart", "createRuntime"]
    assert json.loads(lines[1])["pid"] == cli.state(name)["pid"]
    dump.checkpoint(name)
    hooks["createRuntime"] = [{"path": "/bin/sh", "args": ["sh", "-c", "echo no network >&2; exit 3"]}]
    dump.restore(counter.bundle, name, code=1)
    assert "$.hooks.createRuntime[0]" in dump.said
    assert "no network" in dump.said
    assert "does not exist" in cli("state", name, code=1).stderr


def test_config_file(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """The annotation org.criu.config names a file of options for CRIU; one that is not there is an error."""
    file = tmp_path / "criu.conf"
    counter.bundle.config["annotations"] = {"org.criu.config": str(file)}
    name = dump.start(counter.bundle)
    counter.goes_on()
    assert "org.criu.config" in dump.checkpoint(name, code=1).stderr
    file.write_text("log-file other.log\n")
    dump.checkpoint(name)
    assert (dump.path / "other.log").exists()
    assert not (dump.path / "dump.log").exists()


def test_link_remap(cli: Cli, counter: Counter, dump: Dump) -> None:
    """--link-remap: a file that is open, unlinked, and has another name."""
    script = counter.bundle.config["process"]["args"][2]
    counter.bundle.sh(f"echo x > /tmp/a; ln /tmp/a /tmp/b; exec 5</tmp/a; rm /tmp/a; {script}")
    name = dump.start(counter.bundle)
    counter.goes_on()
    assert "link-remap" in dump.checkpoint(name, code=1).stderr
    dump.checkpoint(name, "--link-remap")
    dump.restore(counter.bundle, name)
    counter.goes_on()
    assert cli("exec", name, "cat", "/proc/1/fd/5").stdout == "x\n"
    cli("delete", "--force", name)


def test_flags_without_occasion(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """Flags for what the container does not have change nothing."""
    flags = ["--ext-unix-sk", "--shell-job", "--auto-dedup", "--empty-ns", "network", "--tcp-established",
             "--file-locks", "--work-path", str(tmp_path / "work")]  # fmt: skip
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name, *flags)
    dump.restore(counter.bundle, name, "--no-subreaper", *flags)
    counter.goes_on()
    assert (tmp_path / "work/restore.log").exists()
    cli("delete", "--force", name)


def test_lsm(cli: Cli, counter: Counter, dump: Dump) -> None:
    """--lsm-profile is refused where CRIU can't set it, or does not, since there was none before (the fixture looks
    for what is left); --lsm-mount-context without SELinux."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    dump.restore(counter.bundle, name, "--lsm-profile", "apparmor:no-such", code=1)
    assert "apparmor" in dump.said
    assert not (cli.root / name).exists()
    if Path("/sys/fs/selinux/enforce").exists():
        pytest.skip("/sys/fs/selinux: SELinux is enabled")
    dump.restore(counter.bundle, name, "--lsm-mount-context", "no:such:context", code=1)
    assert "--lsm-mount-context: SELinux is not enabled" in dump.said


def test_page_server(cli: Cli, counter: Counter, dump: Dump, criu: str) -> None:
    """--page-server: memory goes there instead of into files here."""
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.path.mkdir()
    port = free_port()
    words = [criu, "page-server", "--images-dir", dump.path, "--address", "127.0.0.1", "--port", str(port)]
    with background(words) as server:
        until(lambda: listens(port))
        dump.checkpoint(name, "--page-server", f"127.0.0.1:{port}")
        assert server.wait(60) == 0
    dump.restore(counter.bundle, name)
    counter.goes_on()
    cli("delete", "--force", name)


def test_lazy_pages(cli: Cli, counter: Counter, dump: Dump, criu: str, tmp_path: Path) -> None:
    """--lazy-pages: memory is offered at the page server's address, told by a zero byte on --status-fd, and comes
    when the restored container, elsewhere, touches it."""
    need("uffd-noncoop")
    name, other = dump.start(counter.bundle), fresh_id()
    counter.goes_on()
    port = free_port()
    reader, writer = os.pipe()
    words = ["checkpoint", "--image-path", str(dump.path), "--lazy-pages", "--page-server", f"127.0.0.1:{port}",
             "--status-fd", str(writer), name]  # fmt: skip
    with background(cli.command(*words), pass_fds=[writer]) as source:
        os.close(writer)
        assert os.read(reader, 10) == b"\0"
        os.close(reader)
        stopped = counter.value
        work = tmp_path / "work"
        work.mkdir()
        daemon = [criu, "lazy-pages", "--images-dir", dump.path, "--work-dir", work, "--page-server",
                  "--address", "127.0.0.1", "--port", str(port)]  # fmt: skip
        log = dump.path / "dump.log"
        flags = ["--lazy-pages", "--work-path", str(work), "--detach"]
        words = cli.command("restore", *dump.where(counter.bundle, other, *flags))
        null = subprocess.DEVNULL
        with background(daemon) as pages:
            until(lambda: (work / "lazy-pages.socket").exists())
            with background(words, stdin=null, stdout=null, stderr=null) as target:
                until(lambda: counter.value > stopped + 1 or LAZY_BROKEN in log.read_text())
                if LAZY_BROKEN in log.read_text():
                    pytest.skip(f"CRIU's page server says {LAZY_BROKEN!r}, as that of its own command line does")
                assert target.wait(60) == 0
            assert pages.wait(60) == 0
        assert source.wait(60) == 0
    assert cli.state(other)["status"] == "running"
    cli("delete", "--force", other)


#: CRIU 4.1.1 on Linux 6.18; 3.17.1 on Linux 6.12 works
LAZY_BROKEN = "page-pipe: splice: -1: Bad file descriptor"


@contextmanager
def background(words: list[Any], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program beside the test, which does not outlive it."""
    with subprocess.Popen(words, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def copy_program(bundle: TestBundle, name: str) -> None:
    """Put a program of this machine, with its libraries, into a root file system."""
    path = shutil.which(name)
    assert path
    shutil.copy(path, bundle.rootfs / "bin" / name)
    for word in subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout.split():
        if word.startswith("/"):
            (bundle.rootfs / word[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, bundle.rootfs / word[1:])


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def listens(port: int) -> bool:
    """Whether somebody listens on a TCP port of this host; not by connecting, which would count."""
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(line.split()[1:4:2] == [f"0100007F:{port:04X}", "0A"] for line in lines)


LIBRARY = """
import os, sys
from ocipy import Container
from ocipy.checkpoint.checkpoint import CheckpointOptions
from ocipy.container.prepare import CreateOptions
from ocipy.checkpoint.restore import RestoreOptions
root, bundle, images, name = sys.argv[1:]
null = os.open("/dev/null", os.O_RDWR)
def descriptors():
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    targets = [os.readlink(file) for file in files if os.path.lexists(file)]
    return sorted(target for target in targets if "ocipy-init" not in target)
before = descriptors()
create = CreateOptions(stdio=(null, null, null))
container = Container.run(name, bundle, root=root, options=create)
container.checkpoint(CheckpointOptions(image_path=images))
assert container.wait() == 137
with Container.restore(name, bundle, RestoreOptions(image_path=images, create=create), root=root) as container:
    assert container.status == "running"
    container.checkpoint(CheckpointOptions(image_path=images, leave_running=True))
    container.kill(9)
    assert container.wait() == 137
assert descriptors() == before, (descriptors(), before)
"""


def test_library(cli: Cli, counter: Counter, dump: Dump) -> None:
    """Container.checkpoint and Container.restore: the restored init is a child of the caller. No descriptor is left
    open, and none is for the collector to close."""
    words = [cli.root, counter.bundle.save(), dump.path, fresh_id()]
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", LIBRARY, *words]
    done = subprocess.run(command, check=False, timeout=60, cwd="/", stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("relative", [False, True])
def test_directories_behind_links(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path, relative: bool) -> None:
    """--image-path, --parent-path and --work-path through symbolic links, absolute ones too: containerd's bundles have
    such a link to their work directory."""
    for name in "images", "work", "pre":
        (tmp_path / f"real-{name}").mkdir()
        target = f"real-{name}" if relative else str(tmp_path / f"real-{name}")
        (tmp_path / name).symlink_to(target)
    (tmp_path / "bundles").symlink_to("." if relative else tmp_path)
    work = str(tmp_path / "bundles/work")
    dump.path = tmp_path / "bundles/images"
    name = dump.start(counter.bundle)
    counter.goes_on()
    pre_dumped = pre_dump(cli, tmp_path / "bundles/pre", name)
    parent = ("--parent-path", "../pre") if pre_dumped else ()
    dump.checkpoint(name, "--work-path", work, *parent)
    assert (tmp_path / "real-work/dump.log").exists()
    assert (tmp_path / "real-images/descriptors.json").exists()
    stopped = counter.value
    dump.restore(counter.bundle, name, "--work-path", work)
    assert counter.goes_on() > stopped
    assert (tmp_path / "real-work/restore.log").exists()
    cli("delete", "--force", name)


def pre_dump(cli: Cli, path: Path, name: str) -> bool:
    """A pre-dump, where the kernel can do that."""
    from criu_tools import check

    if check("--feature", "mem_dirty_track")[0] != check()[0]:
        return False
    cli("checkpoint", "--pre-dump", "--image-path", str(path), name)
    return True


def test_root_behind_a_link(cli: Cli, counter: Counter, dump: Dump, tmp_path: Path) -> None:
    """--root and --bundle through symbolic links."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state-link").symlink_to(tmp_path / "state")
    (tmp_path / "bundle-link").symlink_to(counter.bundle.save())
    name = dump.start(counter.bundle)
    counter.goes_on()
    dump.checkpoint(name)
    words = [*cli.command("--root", str(tmp_path / "state-link"))]
    null = subprocess.DEVNULL
    subprocess.run(
        [*words, "restore", "--detach", "--image-path", str(dump.path), "--bundle", f"{tmp_path}/bundle-link", name],
        stdin=null, stdout=null, stderr=null, check=True, timeout=60,
    )  # fmt: skip
    counter.goes_on()
    subprocess.run([*words, "delete", "--force", name], check=True, timeout=60)
