"""Real engines for the tests: a containerd and a podman of one's own, and an image made without a network.

Each lives in a private mount and network namespace, with an empty ``/run`` there: containerd's shims keep
their sockets, and its clients their FIFOs, below ``/run/containerd`` whatever the configuration says. So
nothing of it meets an engine of the host, all its mounts go with the last process of the namespace, and that
namespace is what tells its processes from anybody else's.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import APPLETS, OCIPY, cgroups_left, end, fresh_id, until

IMAGE = "docker.io/ocipy-test/busybox:latest"
#: the same, but its configuration has the user "user", a working directory and the entrypoint "id"
USER_IMAGE = "docker.io/ocipy-test/user:latest"
Result = subprocess.CompletedProcess[str]

#: Needs no network, and loads nothing that the tests do not use.
CONFIG = """\
version = 2
root = "{home}/root"
state = "{home}/state"
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing", "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{home}/containerd.sock"
"""

#: Run in the private namespaces: an empty /run, and the loopback device up. What follows stays.
PREPARE = "mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && "


def make_images(directory: Path) -> list[Path]:
    """OCI archives of two busybox images, :data:`IMAGE` and :data:`USER_IMAGE`. Their PATH is /bin only."""
    tree = directory / "tree"
    for name in ("bin", "etc", "tmp", "home/user"):
        (tree / name).mkdir(parents=True)
    shutil.copy(str(shutil.which("busybox")), tree / "bin/busybox")
    for name in APPLETS:
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n")
    (tree / "etc/group").write_text("root:x:0:\nuser:x:1000:\nextra:x:2000:user\n")
    (tree / "tmp").chmod(0o1777)
    layout = directory / "layout"
    image = f"{layout}:busybox"
    _do("umoci", "init", "--layout", str(layout))
    _do("umoci", "new", "--image", image)
    _do("umoci", "insert", "--image", image, str(tree), "/")
    _do("umoci", "config", "--image", image, "--config.env", "PATH=/bin", "--config.cmd", "sh")
    user = ("--config.user", "user", "--config.workingdir", "/home/user", "--config.entrypoint", "id")
    _do("umoci", "config", "--image", image, "--tag", "user", *user, "--clear", "config.cmd")
    archives = []
    for tag, name in (("busybox", IMAGE), ("user", USER_IMAGE)):
        archives.append(directory / f"{tag}.tar")
        _do("skopeo", "copy", "--quiet", f"oci:{layout}:{tag}", f"oci-archive:{archives[-1]}:{name}")
    return archives


def _do(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"{words}\n{done.stderr}"


class Engine:
    """An engine of this test session, in namespaces of its own.

    Args:
        home: directory that it has for itself; removed in the end.
        cgroup: the cgroup, directly below the root, that has the containers' ones.
        program: shell command, made of the words that follow it, that stays in the namespaces.

    Attributes:
        runtime: the runtime binary.
    """

    def __init__(self, home: Path, cgroup: str, program: str, runtime: str = OCIPY) -> None:
        self.home = home
        self.cgroup = cgroup
        self.runtime = runtime
        home.chmod(0o711)  # root of a user namespace has to pass
        (home / "tmp").mkdir()
        (home / "bin").mkdir()
        (home / "bin/runc").symlink_to(runtime)  # for who does not say which runtime
        self.env = os.environ | {"TMPDIR": str(home / "tmp"), "PATH": f"{home}/bin:{os.environ['PATH']}"}
        with open(home / "log", "w") as log:
            self.anchor = subprocess.Popen(
                ["unshare", "--mount", "--net", "--propagation", "private", "sh", "-c", PREPARE + program],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env,
            )  # fmt: skip
        self.mounts = -1  # a descriptor of the mount namespace

    def wait(self, ready: Path) -> None:
        """Wait until a file shows that it is there."""
        until(lambda: ready.exists() or self.anchor.poll() is not None, 60, f"there is no {ready}")
        assert self.anchor.poll() is None, (self.home / "log").read_text()
        self.mounts = os.open(f"/proc/{self.anchor.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def find(self, program: str) -> None:
        """Let it and its runtime find a program."""
        link = self.home / "bin" / os.path.basename(program)
        if not link.exists():
            link.symlink_to(program)

    def enter(self, *words: str) -> list[str]:
        """A command line in its namespaces."""
        return ["nsenter", f"--target={self.anchor.pid}", "--mount", "--net", f"--wd={self.home}", *words]

    def command(self, *words: str) -> list[str]:
        """A command line of the engine."""
        raise NotImplementedError

    def __call__(self, *words: str, code: int | None = 0) -> Result:
        """Run a command of the engine and check its exit status (None: any)."""
        done = subprocess.run(
            self.command(*words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120,
            env=self.env,
        )  # fmt: skip
        if code is not None:
            assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def path(self, path: str) -> Path:
        """A path as its mount namespace has it."""
        return Path(f"/proc/{self.anchor.pid}/root{path}")

    def processes(self) -> dict[int, str]:
        """The processes of its mount namespace besides the one that stays: shims, and runtimes at work."""
        found: dict[int, str] = {}
        mine = os.fstat(self.mounts).st_ino if self.mounts >= 0 else 0
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == self.anchor.pid:
                continue
            try:
                if (entry / "ns/mnt").stat().st_ino == mine:
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue  # it ended meanwhile, or is a zombie
        return found

    def cgroups(self) -> list[Path]:
        """The cgroups of its containers, in every hierarchy, parents first."""
        found = []
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, kind = line.split(), line.rpartition(" - ")[2]
            if kind.startswith("cgroup") and fields[3] == "/":
                found += [Path(path) for path, _, _ in os.walk(f"{fields[4]}/{self.cgroup}")]
        return found

    def mounted(self) -> list[str]:
        """Mounts below its directory: root file systems of containers."""
        lines = Path(f"/proc/{self.anchor.pid}/mountinfo").read_text().splitlines()
        return [line for line in lines if line.split()[4].startswith(f"{self.home}/")]

    def left(self) -> list[str]:
        """What is left of containers: processes, mounts, cgroups, state."""
        parents = [path for path in self.cgroups() if path.name == self.cgroup]
        left = [f"process {pid}: {words}" for pid, words in self.processes().items()]
        left += [f"mount {line}" for line in self.mounted()]
        left += [f"cgroup {path}" for path in self.cgroups() if path not in parents] + cgroups_left()
        for where in [self.home / "tmp", *(self.path(path) for path in self.states())]:
            left += [str(path) for path in where.iterdir()] if where.exists() else []
        return left

    def states(self) -> list[str]:
        """The runtime's state directories."""
        return ["/run/ocipy"]

    def settle(self) -> None:
        """Wait until nothing is left of containers: an engine's commands do not wait for all of it."""
        left: list[str] = []

        def gone() -> bool:
            left[:] = self.left()
            return not left

        try:
            until(gone, 60)
        except AssertionError:
            self.clear()
            raise AssertionError(f"left behind: {left}") from None

    def clear(self) -> None:
        """Remove all containers."""
        raise NotImplementedError

    def stop(self) -> None:
        """End it and whatever it has left, its directory included."""
        self.anchor.send_signal(signal.SIGTERM)
        try:
            self.anchor.wait(30)
        except subprocess.TimeoutExpired:
            self.anchor.kill()
            self.anchor.wait()
        for path in reversed(self.cgroups()):
            until(lambda path=path: _emptied(path), 20, f"{path} is in use")  # type: ignore[misc]
            path.rmdir()
        for pid in self.processes():
            end(pid)
        if self.mounts >= 0:
            os.close(self.mounts)
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.home)], check=True)


def _emptied(cgroup: Path) -> bool:
    pids = (cgroup / "cgroup.procs").read_text().split()
    for pid in pids:
        end(int(pid))
    return not pids


class Containerd(Engine):
    """A daemon.

    Attributes:
        namespace: the containerd namespace of its containers.
    """

    def __init__(self, home: Path) -> None:
        (home / "config.toml").write_text(CONFIG.format(home=home))
        self.namespace = f"ocipy-ctr-{os.getpid()}"
        super().__init__(home, self.namespace, f"exec containerd --config {home}/config.toml")
        self.wait(home / "containerd.sock")

    def command(self, *words: str) -> list[str]:
        """A ctr command line."""
        socket = f"{self.home}/containerd.sock"
        return self.enter("ctr", "--address", socket, "--namespace", self.namespace, *words)

    def states(self) -> list[str]:
        return [*super().states(), f"/run/containerd/runc/{self.namespace}"]

    def left(self) -> list[str]:
        left = super().left()
        if not left:
            left = [f"task {name}" for name in self("task", "ls", "-q").stdout.split()]
            left += [f"container {name}" for name in self("container", "ls", "-q").stdout.split()]
        return left

    def clear(self) -> None:
        for name in self("task", "ls", "-q").stdout.split():
            self("task", "rm", "--force", name, code=None)
        for name in self("container", "ls", "-q").stdout.split():
            self("container", "rm", name, code=None)


class Ctr:
    """Containers of one test under a :class:`Containerd`."""

    def __init__(self, daemon: Containerd) -> None:
        self.daemon = daemon
        self.command = daemon.command

    def __call__(self, *words: str, code: int | None = 0) -> Result:
        """Run ctr; see :meth:`Engine.__call__`."""
        return self.daemon(*words, code=code)

    def flags(self, flags: Sequence[str], args: Sequence[str], name: str, image: str = IMAGE) -> list[str]:
        """The words of ``ctr run``."""
        return ["run", "--runc-binary", self.daemon.runtime, *flags, image, name, *args]

    def run(self, *args: str, flags: Sequence[str] = (), image: str = IMAGE, code: int = 0) -> Result:
        """``ctr run --rm``: the container's program in the foreground."""
        return self(*self.flags(["--rm", *flags], args, fresh_id(), image), code=code)

    def sh(self, script: str, *flags: str, code: int = 0) -> Result:
        """``ctr run --rm`` of a shell script."""
        return self.run("sh", "-c", script, flags=flags, code=code)

    def start(self, *args: str, flags: Sequence[str] = ()) -> str:
        """``ctr run --detach``; returns the container's name."""
        name = fresh_id()
        self(*self.flags(["--detach", *flags], args, name))
        return name

    def exec(self, name: str, *args: str, flags: Sequence[str] = (), code: int = 0) -> Result:
        """``ctr task exec``."""
        return self("task", "exec", "--exec-id", fresh_id(), *flags, name, *args, code=code)

    def tasks(self) -> dict[str, tuple[int, str]]:
        """``ctr task ls``: pid and status by name."""
        lines = self("task", "ls").stdout.splitlines()[1:]
        return {name: (int(pid), status) for name, pid, status in map(str.split, lines)}

    def status(self, name: str) -> str:
        """The status of a task."""
        return self.tasks()[name][1]

    def wait_for(self, name: str, status: str) -> None:
        """Wait until a task has a status."""
        until(lambda: self.status(name) == status, 60, f"{name} is not {status}")

    def kill(self, *names: str) -> None:
        """SIGKILL tasks and delete them, and their containers."""
        for name in names:
            self("task", "kill", "--signal", "SIGKILL", name)
        for name in names:
            self.wait_for(name, "STOPPED")
            self("task", "delete", name)
            self("container", "rm", name)


class Docker(Engine):
    """A dockerd with a containerd of its own, without networks; ocipy is its default runtime."""

    def __init__(self, home: Path) -> None:
        cgroup = f"ocipy-docker-{os.getpid()}"
        words = [
            "dockerd", "--experimental", f"--data-root={home}/root", "--exec-root=/run/dk", "--pidfile=/run/dk.pid",
            f"--host=unix://{home}/docker.sock", "--iptables=false", "--ip6tables=false", "--bridge=none",
            "--storage-driver=vfs", f"--cgroup-parent=/{cgroup}", f"--add-runtime=ocipy={OCIPY}",
            "--default-runtime=ocipy",
        ]  # fmt: skip
        super().__init__(home, cgroup, f"exec {' '.join(words)}")
        self.wait(home / "docker.sock")
        until(lambda: self("version", code=None).returncode == 0, 60, "dockerd does not answer")

    def command(self, *words: str) -> list[str]:
        """A docker command line, of the client that is dockerd's; another may come first in PATH."""
        return self.enter("/usr/bin/docker", f"--host=unix://{self.home}/docker.sock", *words)

    def left(self) -> list[str]:
        return [line for line in super().left() if ": containerd --config" not in line]  # its own, which stays

    def mounted(self) -> list[str]:
        return [line for line in super().mounted() if f" {self.home}/root/containers/" in line]

    def states(self) -> list[str]:
        return ["/run/docker/runtime-ocipy/moby", *super().states()]

    def clear(self) -> None:
        for name in self("ps", "--all", "--quiet").stdout.split():
            self("rm", "--force", name, code=None)


class Podman(Engine):
    """Podman with its storage and all else in its home; conmon calls the runtime.

    ``no-conmon``: else podman makes cgroups for conmon, and plain directories in place of a v1 controller's
    that is not mounted.
    """

    def __init__(self, home: Path) -> None:
        hide = "mkdir -p /var/lib/containers && mount -t tmpfs tmpfs /var/lib/containers"  # caches
        program = f"{hide} && touch {home}/ready && exec sleep infinity"
        super().__init__(home, f"ocipy-podman-{os.getpid()}", program)
        self.wait(home / "ready")

    def mounted(self) -> list[str]:
        return [
            line for line in super().mounted() if f" {self.home}/root/overlay " not in line
        ]  # its storage

    def command(self, *words: str) -> list[str]:
        """A podman command line."""
        return self.enter(
            "podman", "--root", f"{self.home}/root", "--runroot", "/run/podman",
            "--tmpdir", "/run/podman/tmp",
            "--storage-driver", "overlay", "--cgroup-manager", "cgroupfs",
            "--events-backend", "file", "--runtime", self.runtime, *words,
        )  # fmt: skip

    def run(self, *args: str, flags: Sequence[str] = (), code: int = 0) -> Result:
        """``podman run``. The limits that it has by default take CAP_SYS_RESOURCE."""
        return self(*self.flags(flags), IMAGE, *args, code=code)

    def flags(self, flags: Sequence[str] = ()) -> list[str]:
        """The words of ``podman run`` before the image."""
        return [
            "run", "--network", "none", "--cgroups", "no-conmon", "--cgroup-parent", f"/{self.cgroup}",
            "--security-opt", "apparmor=unconfined",
            "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", *flags,
        ]  # fmt: skip

    def clear(self) -> None:
        self("rm", "--force", "--all", "--time", "0", code=None)


def _need(*names: str) -> None:
    missing = [name for name in names if not shutil.which(name)]
    assert not missing, f"not installed: {missing} (make test installs them)"


@pytest.fixture(scope="session", name="containerd")
def containerd_fixture() -> Iterator[Containerd]:
    """A containerd with the test images; one for all tests of a module."""
    _need("containerd", "ctr", "umoci", "skopeo", "unshare", "nsenter", "ip", "setsid")
    # not below pytest's own directory: the path of a socket has 108 bytes at the most
    daemon = Containerd(Path(tempfile.mkdtemp(prefix="ocipy-ctrd-")))
    try:
        for archive in make_images(daemon.home):
            daemon("images", "import", str(archive))
        yield daemon
    finally:
        daemon.stop()


@pytest.fixture(name="ctr")
def ctr_fixture(containerd: Containerd) -> Iterator[Ctr]:
    """ctr for one test, which has to remove its containers: whatever is left of them is a failure."""
    yield Ctr(containerd)
    containerd.settle()


@pytest.fixture(scope="session", name="podman_engine")
def podman_engine_fixture() -> Iterator[Podman]:
    """Podman with the test image."""
    if missing := [name for name in ("podman", "conmon") if not shutil.which(name)]:
        pytest.skip(f"not installed: {missing}")
    _need("umoci", "skopeo", "unshare", "nsenter", "ip", "setsid")
    engine = Podman(Path(tempfile.mkdtemp(prefix="ocipy-podman-")))
    try:
        engine("load", "--quiet", "--input", str(make_images(engine.home)[0]))
        yield engine
    finally:
        engine.stop()


@pytest.fixture(name="podman")
def podman_fixture(podman_engine: Podman) -> Iterator[Podman]:
    """Podman for one test, which has to remove its containers."""
    yield podman_engine
    podman_engine.settle()


class Terminal:
    """A command on a terminal, which the test looks at and types into.

    Args:
        words: the command. The terminal is the controlling one of a session of its own.
        size: rows and columns.
    """

    def __init__(
        self, words: Sequence[str], size: tuple[int, int] = (24, 80), env: dict[str, str] | None = None
    ) -> None:
        self.master, slave = os.openpty()
        self.resize(*size)
        self.process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *words], stdin=slave, stdout=slave, stderr=slave, env=env
        )
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        """Change the window size."""
        termios.tcsetwinsize(self.master, (rows, columns))

    def type(self, text: str) -> None:
        """Type."""
        os.write(self.master, text.encode())

    def until(self, text: str, meanwhile: Callable[[], object] | None = None) -> None:
        """Read until a text has been seen; ``meanwhile`` is called as long as nothing comes."""
        deadline = time.monotonic() + 60
        while text not in self.seen:
            if meanwhile is not None and not select.select([self.master], [], [], 0.1)[0]:
                assert time.monotonic() < deadline, f"{text!r} is not in {self.seen!r}"
                meanwhile()
            else:
                assert self._read(), f"{text!r} is not in {self.seen!r}"

    def _read(self) -> bool:
        ready, _, _ = select.select([self.master], [], [], 60)
        assert ready, f"nothing more within a minute after {self.seen!r}"
        try:
            data = os.read(self.master, 4096)
        except OSError:  # EIO: nobody has the other side open any more
            data = b""
        self.seen += data.decode()
        return bool(data)

    def end(self) -> int:
        """Read to the end and return the command's exit status."""
        try:
            while self._read():
                pass
            return self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self.master)
