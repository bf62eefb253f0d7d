"""What has hurt other runtimes: each rule of the safety table in docs/architecture.md, tried on a real
container."""

from __future__ import annotations

import ctypes
import hashlib
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, end, fresh_id, mounts, until

import ocipy
from ocipy.launch.protocol import ERROR, launch
from ocipy.plan import NO_FAULT
from ocipy.plan.builder import MAGIC, VERSION

HELPER = Path(ocipy.__file__).parent / "_init"


@pytest.fixture
def created(cli: Cli, bundle: TestBundle) -> Iterator[tuple[str, int]]:
    """A container that waits for start: its first process is the helper. Its id and pid."""
    bundle.config["linux"]["maskedPaths"] = []
    name = cli.create(bundle.args("sleep", "1000"))
    yield name, cli.state(name)["pid"]
    cli("delete", "--force", name)


# --- /proc/self/exe (CVE-2019-5736) ---


def test_helper_file(cli: Cli, created: tuple[str, int]) -> None:
    """What runs in a container before its program is no file of the host: a sealed copy, which can't be
    written, nor truncated, nor chmodded into being so."""
    name = created[0]
    before = hashlib.sha256(HELPER.read_bytes()).digest()
    script = """
        readlink /proc/1/exe
        cat /proc/1/exe | wc -c
        (: > /proc/1/exe) || echo unwritable
        (echo x >> /proc/1/exe) || echo unwritable
        dd if=/dev/zero of=/proc/1/exe conv=notrunc count=1 2>/dev/null || echo unwritable
        chmod 777 /proc/1/exe; (: > /proc/1/exe) || echo unwritable
        cp /bin/busybox /proc/1/exe || echo unwritable
    """
    lines = cli("exec", name, "sh", "-c", script, code=None).stdout.splitlines()
    assert lines[0] == "/memfd:ocipy-init (deleted)"
    assert int(lines[1]) == HELPER.stat().st_size
    assert lines[2:] == ["unwritable"] * 5
    assert hashlib.sha256(HELPER.read_bytes()).digest() == before


def test_helper_is_sealed(created: tuple[str, int]) -> None:
    """The copy is sealed, so that not even the host's root can change it in place."""
    import fcntl

    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fd = os.open(f"/proc/{created[1]}/exe", os.O_RDONLY)
    try:
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & seals == seals
        with pytest.raises(OSError):
            os.open(f"/proc/{created[1]}/exe", os.O_WRONLY)
    finally:
        os.close(fd)


@pytest.mark.parametrize("program", ["/proc/self/exe", "/script", "/link"])
def test_helper_as_program(cli: Cli, bundle: TestBundle, program: str) -> None:
    """A program that is /proc/self/exe, as such, by a #! line or by a link, gets no more than the copy; that
    goes for create and for exec."""
    (bundle.rootfs / "script").write_text("#!/proc/self/exe\n")
    (bundle.rootfs / "script").chmod(0o755)
    (bundle.rootfs / "link").symlink_to("/proc/self/exe")
    before = hashlib.sha256(HELPER.read_bytes()).digest()
    cli.run(bundle.args(program), code=125)
    name = cli.start(bundle.args("sleep", "1000"))
    cli("exec", name, program, code=125)
    cli("delete", "--force", name)
    assert hashlib.sha256(HELPER.read_bytes()).digest() == before


def test_no_interpreter_inside(created: tuple[str, int]) -> None:
    """The process in the container is never Python, nor a copy of the one that made it: its memory is the
    helper's few pages."""
    maps = Path(f"/proc/{created[1]}/maps").read_text()
    files = {line.split(None, 5)[5] for line in maps.splitlines() if len(line.split(None, 5)) == 6}
    assert {f for f in files if f[0] != "["} == {"/memfd:ocipy-init (deleted)", "/memfd:ocipy-plan (deleted)"}
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{created[1]}/status").read_text().splitlines()
    )
    assert int(status["VmRSS"].split()[0]) < 1500
    assert status["Name"] == "ocipy-init"
    assert Path(f"/proc/{created[1]}/environ").read_bytes() == b""


# --- descriptors and the working directory (CVE-2024-21626) ---


def test_descriptors_while_waiting(created: tuple[str, int]) -> None:
    """A container that waits for start has the socket on which start calls, and nothing else of the
    runtime's: no host directory, no procfs of the host."""
    names = sorted(os.listdir(f"/proc/{created[1]}/fd"), key=int)
    assert [n for n in names if int(n) > 2] == ["3"]
    assert os.readlink(f"/proc/{created[1]}/fd/3").startswith("socket:")


LEAK = """
import os, sys
fd = os.dup2(os.open("/", os.O_RDONLY | os.O_DIRECTORY), 40)
for target in range(3, 20):
    os.dup2(fd, target, inheritable=True)
os.execv(sys.argv[1], sys.argv[1:])
"""


def leaking(cli: Cli, *words: str) -> subprocess.CompletedProcess[str]:
    """A command whose caller has left the host's root directory open on many descriptors."""
    return subprocess.run(
        [sys.executable, "-c", LEAK, *cli.command(*words)],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("way", ["/proc/self/fd/{}", "/proc/self/fd/{}/etc", "/link{}"])
def test_cwd_by_descriptor(cli: Cli, bundle: TestBundle, way: str) -> None:
    """A working directory by way of a descriptor, the runtime's or one that leaked into it, is refused, also
    behind a link of the image."""
    for number in range(3, 14):
        (bundle.rootfs / f"link{number}").symlink_to(f"/proc/self/fd/{number}")
    for number in range(3, 14):
        bundle.config["process"]["cwd"] = way.format(number)
        done = leaking(cli, "run", "--bundle", str(bundle.args("pwd").save()), f"ocipytest-{os.getpid()}-cwd")
        assert done.returncode == 1, done.stdout
        assert "$.process.cwd" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("way", ["/proc/self/fd/{}", "/proc/self/fd/{}/etc", "/link{}", "/proc/1/fd/{}"])
def test_cwd_of_exec_by_descriptor(cli: Cli, bundle: TestBundle, way: str) -> None:
    """The same for exec, where one of the descriptors is the container's own root."""
    for number in range(3, 14):
        (bundle.rootfs / f"link{number}").symlink_to(f"/proc/self/fd/{number}")
    inside = [str(p.stat().st_ino) for p in (bundle.rootfs, bundle.rootfs / "etc")]
    name = cli.start(bundle.args("sleep", "1000"))
    for number in range(3, 14):
        done = leaking(cli, "exec", "--cwd", way.format(number), name, "stat", "-c", "%i", ".")
        if done.returncode == 0:
            assert done.stdout.strip() in inside
        else:
            assert "$.process.cwd" in done.stderr.splitlines()[-1]
    cli("delete", "--force", name)


def test_cwd_of_preserved_descriptor(cli: Cli, bundle: TestBundle) -> None:
    """A directory of the host that is passed on on purpose is still no working directory."""
    bundle.config["process"]["cwd"] = "/proc/self/fd/3"
    bundle.args("pwd").save()
    words = ["run", "--preserve-fds", "1", "--bundle", str(bundle.path), f"ocipytest-{os.getpid()}-cwd"]
    assert leaking(cli, *words).returncode == 1
    bundle.config["process"]["cwd"] = "/"
    name = cli.start(bundle.args("sleep", "1000"))
    done = leaking(cli, "exec", "--preserve-fds", "1", "--cwd", "/proc/self/fd/3", name, "pwd")
    cli("delete", "--force", name)
    assert done.returncode == 255
    assert "outside of the container" in done.stderr


def test_program_by_descriptor(cli: Cli, bundle: TestBundle) -> None:
    """Nor is a program of the host to be had by one."""
    for number in range(3, 14):
        done = leaking(
            cli, "run", "--bundle", str(bundle.args(f"/proc/self/fd/{number}/bin/ls").save()),
            f"ocipytest-{os.getpid()}-exe",
        )  # fmt: skip
        assert done.returncode == 1, done.stdout


# --- who joins, and who watches (CVE-2016-9962) ---


def test_not_traceable(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """A process that has joined the pid namespace of a running container, and waits there, can't be looked
    into by that container's processes, though they have the same rights."""
    first, second = make_bundle(), make_bundle()
    for name in ("bounding", "effective", "permitted"):
        first.config["process"]["capabilities"][name] = [
            "CAP_KILL",
            "CAP_NET_BIND_SERVICE",
            "CAP_AUDIT_WRITE",
        ]
    one = cli.start(first.args("sleep", "1000"))
    pid = cli.state(one)["pid"]
    for namespace in second.config["linux"]["namespaces"]:
        if namespace["type"] == "pid":
            namespace["path"] = f"/proc/{pid}/ns/pid"
    two = cli.create(second.args("sleep", "1000"))
    inside = Path(f"/proc/{cli.state(two)['pid']}/status").read_text().partition("NSpid:")[2].split()[1]
    script = f"cd /proc/{inside}; readlink fd/* exe root cwd; cat environ maps; ls fd/0/ root/"
    done = cli("exec", one, "sh", "-c", script, code=None)
    assert done.stdout == ""
    assert "Permission denied" in done.stderr
    cli("start", two)
    until(lambda: cli("exec", one, "cat", f"/proc/{inside}/cmdline").stdout == "sleep\x001000\x00")
    cli("delete", "--force", two)
    cli("delete", "--force", one)


# --- links that change while they are looked at (CVE-2021-30465, CVE-2025-31133 and others) ---


def swap(first: Path, second: Path) -> int:
    """Start a process that exchanges two names for ever; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        libc = ctypes.CDLL(None)
        names = os.fsencode(first), os.fsencode(second)
        while os.getppid() != 1:
            libc.renameat2(-100, names[0], -100, names[1], 2)
    finally:
        os._exit(0)


def test_changing_links(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A directory of the rootfs that another process keeps exchanging for a link to the outside: mounts,
    devices, masks and the working directory end up inside, or fail; nothing is ever made outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.rootfs / "a/dir").mkdir(parents=True)
    (bundle.rootfs / "b").symlink_to(outside)
    (bundle.rootfs / "deep").mkdir()
    (bundle.rootfs / "c").symlink_to("../../../../../../../" + str(outside))
    bundle.config["mounts"] += [
        {"destination": "/a/made/1", "type": "tmpfs"},
        {"destination": "/a/file", "source": "/etc/passwd", "options": ["bind"]},
        {"destination": "/deep/made", "type": "tmpfs"},
    ]
    bundle.config["linux"]["devices"] = [{"path": "/a/null", "type": "c", "major": 1, "minor": 3}]
    bundle.config["linux"]["maskedPaths"] += ["/a/dir", "/deep"]
    bundle.config["process"]["cwd"] = "/a/cwd"
    pids = [swap(bundle.rootfs / "a", bundle.rootfs / "b"), swap(bundle.rootfs / "deep", bundle.rootfs / "c")]
    try:
        for _ in range(30):
            done = cli.run(bundle.args("cat", "/proc/self/mountinfo"), code=None)
            if done.returncode == 0:
                assert all(m.point.startswith("/") for m in mounts(done.stdout).values())
            else:
                assert "$." in done.stderr
    finally:
        for pid in pids:
            end(pid)
            os.waitpid(pid, 0)
    assert list(outside.iterdir()) == []


def test_changing_proc(cli: Cli, bundle: TestBundle) -> None:
    """A /proc that another process keeps exchanging for a link: its file system is mounted on the directory that was
    looked at, never where the link leads, which no mask would cover (CVE-2019-19921, CVE-2023-27561)."""
    (bundle.rootfs / "elsewhere").mkdir()
    (bundle.rootfs / "link").symlink_to("/elsewhere")
    pid = swap(bundle.rootfs / "proc", bundle.rootfs / "link")
    try:
        for _ in range(60):
            done = cli.run(bundle.sh("test ! -e /elsewhere/self || echo elsewhere"), code=None)
            assert done.stdout == ""
    finally:
        end(pid)
        os.waitpid(pid, 0)


@pytest.mark.parametrize("kind", ["fifo", "endless", "directory"])
def test_passwd_that_is_no_file(cli: Cli, bundle: TestBundle, kind: str) -> None:
    """An image's /etc/passwd that would keep its reader for ever is as good as none."""
    passwd = bundle.rootfs / "etc/passwd"
    passwd.unlink()
    if kind == "fifo":
        os.mkfifo(passwd)
    elif kind == "endless":
        passwd.symlink_to("/dev/zero")
    else:
        passwd.mkdir()
    assert cli.run(bundle.sh("echo $HOME")).stdout == "/\n"


def test_links_in_rootfs_point_inside(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Links of an image that name places of the host are taken as places in the root, by every operation that
    makes something."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (bundle.rootfs / "out").symlink_to(outside)
    bundle.config["mounts"] += [
        {"destination": "/out/mount", "type": "tmpfs"},
        {"destination": "/out/file", "source": "/etc/passwd", "options": ["bind"]},
    ]
    bundle.config["linux"]["devices"] = [{"path": "/out/null", "type": "c", "major": 1, "minor": 3}]
    bundle.config["linux"]["maskedPaths"].append("/out/mount")
    bundle.config["linux"]["readonlyPaths"].append("/out/file")
    bundle.config["process"]["cwd"] = "/out/cwd"
    assert cli.run(bundle.args("pwd", "-P")).stdout == f"{outside}/cwd\n"
    assert list(outside.iterdir()) == []
    assert {p.name for p in (bundle.rootfs / str(outside)[1:]).iterdir()} == {"mount", "file", "null", "cwd"}


# --- keys ---


@pytest.mark.skipif(not os.path.exists("/proc/keys"), reason="this kernel has no /proc/keys")
def test_keyring(cli: Cli, bundle: TestBundle) -> None:
    """The container has a session keyring of its own, named after it, unless --no-new-keyring is given."""
    bundle.config["linux"]["maskedPaths"] = []
    path = str(bundle.args("cat", "/proc/keys").save())
    one, two = fresh_id(), fresh_id()
    assert f" _ses.{one}: " in cli("run", "--bundle", path, one).stdout
    assert f" _ses.{two}: " not in cli("run", "--no-new-keyring", "--bundle", path, two).stdout
    created = cli.create(bundle, "--no-new-keyring")
    assert f" _ses.{created}: " not in Path("/proc/keys").read_text()


@pytest.mark.skipif(not os.path.exists("/proc/keys"), reason="this kernel has no /proc/keys")
@pytest.mark.parametrize("new", [True, False])
def test_keyring_of_exec(cli: Cli, bundle: TestBundle, new: bool) -> None:
    """What exec runs has a session keyring of the container's name, unless that was created with --no-new-keyring."""
    bundle.config["linux"]["maskedPaths"] = []
    name = cli.start(bundle.args("sleep", "1000"), *(() if new else ("--no-new-keyring",)))
    assert (f" _ses.{name}: " in cli("exec", name, "cat", "/proc/keys").stdout) == new
    cli("delete", "--force", name)


# --- a damaged plan (CVE-2021-43784) ---


class Damaged:
    """A plan of bytes."""

    clone_flags = 0
    given: list[str] = []
    ops: list[Any] = []

    def __init__(self, data: bytes) -> None:
        self.data = data

    def encode(self, fault: int = NO_FAULT, timings: bool = False) -> bytes:
        return self.data


def header(count: int = 1, magic: int = MAGIC, version: int = VERSION, given: int = 0) -> bytes:
    return struct.pack("=6I", magic, version, count, given, NO_FAULT, 0)


def operation(code: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack("=II", code, len(body) if length is None else length) + body


U32 = struct.pack("=I", 0xFFFFFFFF)


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        header()[:10],
        header(magic=1),
        header(version=99),
        header(count=1 << 30),
        header(given=1 << 30),
        header(),
        header(count=0),
        header() + b"\7\0\0",
        header() + operation(7, b"", 1 << 31),
        header() + operation(7, U32 + b"abc"),
        header() + operation(7, struct.pack("=I", 3) + b"abc"),
        header() + operation(7, struct.pack("=I", 4) + b"a\0b\0" + struct.pack("=I", 1) + b"\0"),
        header() + operation(7, struct.pack("=I", 0)),
        header() + operation(6, U32),
        header() + operation(6, struct.pack("=I", 0x33333333) + b"x" * 40),
        header() + operation(6, b""),
        header() + operation(5, b""),
        header() + operation(0, b""),
        header() + operation(8, b""),
        header() + operation(9999, b""),
        header() + operation(50, U32 + struct.pack("=I", 2) + b"/\0" + struct.pack("=I", 0)),
        header() + operation(54, U32 + struct.pack("=I", 2) + b"/\0" + struct.pack("=I", 0)),
        header() + operation(73, struct.pack("=III", 0, 0, 0xFFFFFFFF)),
        header() + operation(73, struct.pack("=III", 0, 0, 5) + b"12345" + struct.pack("=I", 0)),
        header() + operation(77, struct.pack("=II", 0, 7) + b"1234567"),
        header() + operation(11, U32),
        header(count=2) + operation(71, struct.pack("=I", 0o22)),
    ],
)
def test_damaged_plan(data: bytes) -> None:
    """A plan whose lengths, counts or numbers are wrong is refused by the helper: it reads nothing beyond,
    executes nothing of it, and says so."""
    null = os.open("/dev/null", os.O_RDWR)
    launched = launch(Damaged(data), given={}, stdio=(null, null, null))  # type: ignore[arg-type]
    try:
        message = launched.channel.receive()
        assert message is not None
        assert message.type == ERROR
        info = os.waitid(os.P_PIDFD, launched.pidfd, os.WEXITED | os.WNOWAIT)
        assert info is not None
        assert (info.si_code, info.si_status) == (os.CLD_EXITED, 125)
    finally:
        launched.kill()
        os.close(null)
