"""What the tests share: real bundles, the installed command, and a check that nothing is left behind.

Everything here runs as root on a real kernel. The command under test is the installed ``ocipy`` (the one beside
this interpreter, or ``$OCIPY_BIN``); the library is the installed package.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
# `python -m pytest` puts the source tree first: the package under test is the installed one
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE.parent]
OCIPY = os.environ.get("OCIPY_BIN") or str(Path(sys.executable).parent / "ocipy")
_numbers = itertools.count(1)

#: busybox applets that the test image has, besides busybox itself
APPLETS = (
    "sh cat ls id hostname sleep mount ps echo env true false touch mkdir stat readlink grep head kill "
    "umount pwd test tr wc dd mknod chown chmod rm ln cut sort printf ip ulimit nproc sync stty tty ifconfig"
).split()


#: what only `make test-docker` runs: Debian's dockerd is a large package
collect_ignore = [] if os.environ.get("OCIPY_DOCKER") else ["test_docker.py"]


def pytest_configure(config: pytest.Config) -> None:
    if os.geteuid() != 0:
        pytest.exit("the tests run real containers: they need root", returncode=4)


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root file system with a static busybox; tests get copies of it."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static is not installed (make test installs it)"
    root = tmp_path_factory.mktemp("image") / "rootfs"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root", "home/user", "var/run"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in APPLETS:
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")
    (root / "tmp").chmod(0o1777)
    return root


#: namespaces, mounts and limits of an ordinary container, as engines configure it
BASE: dict[str, Any] = {
    "ociVersion": "1.3.0",
    "process": {
        "user": {"uid": 0, "gid": 0},
        "args": ["true"],
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        "cwd": "/",
        "capabilities": {
            name: ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
            for name in ("bounding", "effective", "permitted")
        },
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs"},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", "ro"],
        },
    ],
    "linux": {
        "namespaces": [{"type": name} for name in ("pid", "ipc", "uts", "mount", "network")],
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware", "/proc/scsi"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}


class TestBundle:
    """A bundle directory of a test, with its config at hand.

    Attributes:
        path: the directory.
        config: the config; written by :meth:`save` (and by whatever runs the bundle).
    """

    __test__ = False

    def __init__(self, path: Path, image: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        shutil.copytree(image, self.rootfs, symlinks=True)
        self.config: dict[str, Any] = copy.deepcopy(BASE)

    def args(self, *words: str) -> TestBundle:
        """Set the program."""
        self.config["process"]["args"] = list(words)
        return self

    def sh(self, script: str) -> TestBundle:
        """Set the program to a shell script."""
        return self.args("sh", "-c", script)

    def save(self) -> Path:
        """Write config.json."""
        (self.path / "config.json").write_text(json.dumps(self.config))
        return self.path


@pytest.fixture
def make_bundle(tmp_path: Path, image: Path) -> Iterator[Callable[[], TestBundle]]:
    """Makes bundles in the test's directory."""
    made = []

    def make() -> TestBundle:
        made.append(TestBundle(tmp_path / f"bundle{next(_numbers)}", image))
        return made[-1]

    yield make
    for bundle in made:  # two megabytes each, and in a guest all is in memory
        (bundle.path / "rootfs/bin/busybox").unlink(missing_ok=True)


@pytest.fixture
def bundle(make_bundle: Callable[[], TestBundle]) -> TestBundle:
    """One bundle."""
    return make_bundle()


class Cli:
    """The command line, with a state root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def command(self, *words: str) -> list[str]:
        return [OCIPY, "--root", str(self.root), *words]

    def __call__(
        self, *words: str, code: int | None = 0, input: str | None = None, **options: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run a command and check its exit status (None: any)."""
        stdin = {} if input is not None or "stdin" in options else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            self.command(*words), capture_output=True, text=True, input=input, timeout=60, **stdin, **options
        )
        if code is not None:
            assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def detach(self, *words: str) -> None:
        """Run a command that leaves a process behind, which keeps the descriptors: with its output discarded."""
        null = subprocess.DEVNULL
        subprocess.run(self.command(*words), stdin=null, stdout=null, stderr=null, check=True, timeout=60)

    def run(self, bundle: TestBundle, *flags: str, code: int | None = 0, **options: Any) -> Any:
        """Run a bundle in the foreground."""
        return self("run", *flags, "--bundle", str(bundle.save()), fresh_id(), code=code, **options)

    def create(self, bundle: TestBundle, *flags: str, name: str = "") -> str:
        """Create a container with its output discarded; returns the id."""
        name = name or fresh_id()
        words = self.command("create", *flags, "--bundle", str(bundle.save()), name)
        # not captured: the container keeps the descriptors, and reading them would wait for its end
        with tempfile.TemporaryFile("w+") as stderr:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr, timeout=60
            )
            stderr.seek(0)
            assert done.returncode == 0, stderr.read()
        return name

    def start(self, bundle: TestBundle, *flags: str) -> str:
        """Create and start a container; returns the id."""
        name = self.create(bundle, *flags)
        self("start", name)
        return name

    def state(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self("state", name).stdout)
        return found

    def wait_for(self, name: str, status: str, seconds: float = 20) -> None:
        """Wait until a container has a status."""
        until(lambda: self.state(name)["status"] == status, seconds, f"{name} is not {status}")


@pytest.fixture
def open_bundle(image: Path, cli: Cli) -> Iterator[TestBundle]:
    """A bundle in a directory that every user can get to, as the root of a user namespace must."""
    top = Path(tempfile.mkdtemp(prefix="ocipytest-"))
    top.chmod(0o755)
    yield TestBundle(top / "bundle", image)
    left = nothing_left(top)
    subprocess.run(["rm", "-rf", "--one-file-system", top], check=True)  # whatever is mounted below, if it is
    assert left == []


class Mount:
    """One line of mountinfo (proc_pid_mountinfo(5))."""

    __test__ = False

    def __init__(self, line: str) -> None:
        left, _, right = line.partition(" - ")
        _, _, self.device, self.root, self.point, options, *self.tags = left.split()
        self.type, self.source, superblock = right.split()
        self.options = set(options.split(","))
        self.superblock = set(superblock.split(","))

    @property
    def propagation(self) -> set[str]:
        """``shared``, ``master``, ``unbindable``; empty if it is private."""
        return {tag.partition(":")[0] for tag in self.tags}


def mounts(text: str) -> dict[str, Mount]:
    """The mounts in a mountinfo text (other lines are skipped) by mount point; of stacked ones the last."""
    found = (Mount(line) for line in text.splitlines() if " - " in line)
    return {mount.point: mount for mount in found}


def run_here(*words: str) -> int:
    """Run a command line in this process, where it costs no interpreter. What it leaves for the end of a process of its
    own to close is closed."""
    from ocipy.cli import main

    before = _open_here()
    try:
        return main.run(list(words))
    finally:
        for fd in _open_here() - before:
            os.close(fd)


def _open_here() -> set[int]:
    """The descriptors that are open in this process, without that of the list itself."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    return {fd for fd in listed if os.path.lexists(f"/proc/self/fd/{fd}")}


def fresh_id() -> str:
    """An id that no other test has."""
    return f"ocipytest-{os.getpid()}-{next(_numbers)}"


def until(condition: Callable[[], Any], seconds: float = 20, what: str = "") -> None:
    """Poll for a condition; the time is a limit for a hang, not a measurement."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what or "the condition did not come true"
        time.sleep(0.01)


def _prefix() -> str:
    return f"ocipytest-{os.getpid()}-"


def cgroups_left() -> list[str]:
    """Directories of this run's containers in any hierarchy."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    look = [line.split()[4] for line in lines if line.rpartition(" - ")[2].startswith("cgroup")]
    found = []
    while look:  # os.walk would be at its end a thousand directories deep
        directory = look.pop()
        try:
            below = [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue  # another's, gone meanwhile
        found += [path for path in below if os.path.basename(path).startswith(_prefix())]
        look += below
    return found


def processes_left(path: Path) -> list[str]:
    """Processes whose root is below a directory, and helpers of this run that wait in a container."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            root = os.readlink(entry / "root")
            # not dead already: a zombie has no root, but is not ours to reap
            if root.startswith(str(path)):
                found.append(f"{entry.name}: {(entry / 'cmdline').read_bytes()!r}")
        except OSError:
            continue
    return found


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """The command under test. Whatever the test leaves is removed, and is a failure of the test if no
    container of its own explains it."""
    command = Cli(tmp_path / "state")
    yield command
    names = sorted(p.name for p in command.root.iterdir()) if command.root.exists() else []
    for name in names:
        command("delete", "--force", name)
    assert nothing_left(tmp_path) == []


def nothing_left(path: Path) -> list[str]:
    """What is left of containers whose bundles are below a directory: cgroups, mounts, processes, state."""
    for _ in range(50):  # a killed process takes a moment to be gone
        left = processes_left(path)
        if not left:
            break
        time.sleep(0.02)
    left += cgroups_left()
    left += [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {path}/" in line]
    state = path / "state"
    left += [str(p) for p in state.iterdir()] if state.exists() else []
    return left


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    """A test leaves neither descriptors open in this process nor children, which whatever it calls here could have
    left. (The copy of the init helper is kept for good.)"""
    fds, before = _open_here(), children()
    yield
    new = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in _open_here() - fds}
    assert [link for link in new.values() if not link.startswith("/memfd:ocipy-init")] == []
    assert children() - before == set()


def children() -> set[str]:
    """The children of this process, running or not reaped. A thread may end while they are read."""
    found: set[str] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found.update((task / "children").read_text().split())
    return found


def end(pid: int) -> None:
    """Kill a process that the test started itself."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.fixture
def ext4(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    """Mounts new, small ext4 file systems on directories, which it makes: a kind whose ids every kernel can map."""
    made: list[Path] = []

    def mount(point: Path) -> Path:
        image = tmp_path / f"ext4-{len(made)}.img"
        with image.open("wb") as file:
            file.truncate(2 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True, capture_output=True)
        point.mkdir(parents=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True)
        made.append(point)
        return point

    yield mount
    for point in reversed(made):
        subprocess.run(["umount", str(point)], check=True)


class Lan:
    """A network namespace for a test, with devices that it makes itself: nothing of the machine's is in sight.

    Calls run in a thread that is in it; so do the programs that they start.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)
        accept_dad = Path("/proc/sys/net/ipv6/conf/default/accept_dad")
        self(accept_dad.write_text, "0")  # new addresses count at once

    @staticmethod
    def _enter() -> None:
        if ctypes.CDLL(None, use_errno=True).unshare(0x40000000) < 0:  # CLONE_NEWNET; of this thread
            raise OSError(ctypes.get_errno(), "unshare")

    def __call__(self, function: Callable[..., Any], *args: Any, **named: Any) -> Any:
        """Call a function in the namespace."""
        return self._thread.submit(function, *args, **named).result()

    def ip(self, *words: str) -> str:
        """Run ip(8) there."""
        done = self(subprocess.run, ["ip", *words], capture_output=True, text=True, check=True)
        return str(done.stdout)

    def veth(self, name: str) -> None:
        """Make a pair of devices, both up: NAME, and pNAME."""
        self.ip("link", "add", name, "type", "veth", "peer", "name", f"p{name}")
        for end in (name, f"p{name}"):
            self.ip("link", "set", end, "up")

    def close(self) -> None:
        """Leave it, and let it go with all that is in it."""
        self._thread.shutdown()


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A network namespace of the test's own."""
    made = Lan()
    yield made
    made.close()
