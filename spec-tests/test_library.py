"""The Python library: what docs/library.md promises, in a program with threads, memory and signal handlers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import TestBundle, children, end, fresh_id, nothing_left, until

from ocipy import Bundle, Container, Error
from ocipy.container.prepare import CreateOptions
from ocipy.errors import ConfigError, LaunchError, StateError
from ocipy.launch.hooks import run_hooks
from ocipy.launch.protocol import ACK, Channel, launch
from ocipy.plan import Plan, ops
from ocipy.store import Store


@pytest.fixture
def root(tmp_path: Path) -> Iterator[str]:
    """A state directory. After the test nothing is left: no container, descriptor or child."""
    before = descriptors(), children()
    yield str(tmp_path / "state")
    assert nothing_left(tmp_path) == []
    assert (descriptors(), children()) == before


def descriptors() -> dict[str, str]:
    """Open descriptors by what they are, but for the one sealed helper that is kept."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue
        if "ocipy-init" not in target and not target.startswith(("/proc/", "/tmp/pytest")):
            found[name] = target
    return found


def output(bundle: TestBundle, root: str, **options: object) -> tuple[str, int | None]:
    """What a container prints, and its exit status."""
    reader, writer = os.pipe()
    create = CreateOptions(stdio=(0, writer, writer), **options)  # type: ignore[arg-type]
    with Container.run(fresh_id(), Bundle(str(bundle.save())), root=root, options=create) as container:
        os.close(writer)
        with open(reader) as file:
            return file.read(), container.wait(30)


def test_life(bundle: TestBundle, root: str) -> None:
    """create, start, wait, delete, and the status in between."""
    bundle.sh("exit 7").save()
    name = fresh_id()
    container = Container.create(name, Bundle(str(bundle.path)), root=root)
    assert container.status == "created"
    assert container.init is not None
    assert container.state()["pid"] == container.init.pid
    container.start()
    assert container.wait(30) == 7
    assert container.wait() == 7  # again
    assert container.status == "stopped"
    container.delete()
    with pytest.raises(StateError, match="does not exist"):
        Container.load(name, root=root)


def test_context_manager_ends_it(bundle: TestBundle, root: str) -> None:
    """Leaving the context kills and deletes; so does an exception."""
    bundle.args("sleep", "60").save()
    with pytest.raises(KeyError), Container.run(fresh_id(), str(bundle.path), root=root) as container:
        raise KeyError(container.status)


def test_exit_by_signal(bundle: TestBundle, root: str) -> None:
    """128 + n."""
    bundle.args("sleep", "60").save()
    with Container.run(fresh_id(), str(bundle.path), root=root) as container:
        with pytest.raises(TimeoutError):
            container.wait(0.01)
        container.kill(signal.SIGKILL)
        assert container.wait(30) == 137


def test_output_and_descriptors(bundle: TestBundle, root: str) -> None:
    """stdio goes where it was sent, and the program has nothing above it but what was preserved."""
    assert output(bundle.sh("echo to stdout; echo to stderr >&2"), root) == ("to stdout\nto stderr\n", 0)
    read, write = os.pipe()
    text, _ = output(bundle.sh("echo kept >&3; ls /proc/self/fd"), root, preserve_fds=(write,))
    os.close(write)
    with open(read) as file:
        assert file.read() == "kept\n"
    assert text.split() == ["0", "1", "2", "3", "4"]  # 4 is what ls reads the directory by


def test_exec(bundle: TestBundle, root: str) -> None:
    """A further process: its status, its output, and errors that are exceptions."""
    bundle.args("sleep", "60").save()
    reader, writer = os.pipe()
    with Container.run(fresh_id(), str(bundle.path), root=root) as container:
        process = container.exec(["sh", "-c", "hostname; exit 5"], stdio=(0, writer, 2))
        os.close(writer)
        with open(reader) as file:
            assert file.read() == "box\n"
        assert process.wait(30) == 5
        with pytest.raises(LaunchError, match="executable file not found") as caught:
            container.exec(["no-such-program"])
        assert caught.value.code == "executable-not-found"
        with pytest.raises(ConfigError):
            container.exec([])


def test_errors_are_typed(bundle: TestBundle, root: str) -> None:
    """Each failure has a class, a code and the place in the config."""
    bundle.config["mounts"].append({"destination": "/x", "source": "/no/such", "options": ["bind"]})
    with pytest.raises(LaunchError) as caught:
        Container.create(fresh_id(), str(bundle.save()), root=root)
    assert isinstance(caught.value, Error)
    assert caught.value.config_path == f"$.mounts[{len(bundle.config['mounts']) - 1}].source"
    assert (caught.value.syscall, caught.value.errno) == ("open_tree", 2)
    bundle.config["mounts"].pop()
    bundle.config["process"]["args"] = 7
    assert [fault.config_path for fault in Bundle(str(bundle.save())).validate()] == ["$.process.args"]
    with pytest.raises(ConfigError):
        _ = Bundle(str(bundle.path)).spec


def test_load_from_elsewhere(bundle: TestBundle, root: str) -> None:
    """A container that another process made can be seen, signalled and deleted; its status is its parent's."""
    bundle.args("sleep", "60").save()
    name = fresh_id()
    code = f"from ocipy import Container; Container.run({name!r}, {str(bundle.path)!r}, root={root!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd="/")
    container = Container.load(name, root=root)
    assert container.status == "running"
    container.kill(signal.SIGKILL)
    assert container.wait(30) is None
    container.delete()


def test_threads(make_bundle: object, root: str) -> None:
    """Several threads run containers at once; each gets its own exit status."""
    bundles = [make_bundle().sh(f"exit {number}") for number in range(8)]  # type: ignore[operator]
    for one in bundles:
        one.save()

    def lives(number: int) -> list[int | None]:
        codes = []
        for _ in range(5):
            with Container.run(fresh_id(), str(bundles[number].path), root=root) as container:
                codes.append(container.wait(60))
        return codes

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lives, range(8))) == [[number] * 5 for number in range(8)]


def test_same_id_from_two_threads(bundle: TestBundle, root: str) -> None:
    """One of them makes it, the others are told that it exists."""
    bundle.args("sleep", "60").save()
    name = fresh_id()
    made, refused = [], []
    barrier = threading.Barrier(4)

    def attempt() -> None:
        barrier.wait()
        try:
            made.append(Container.create(name, str(bundle.path), root=root))
        except StateError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert refused == ["container-exists"] * 3
    made[0].delete(force=True)


@pytest.mark.parametrize("action", ["SIG_IGN", "SIG_DFL"])
def test_sigchld_of_the_program(bundle: TestBundle, root: str, action: str) -> None:
    """A program that ignores SIGCHLD may miss the exit status (the kernel reaps), and otherwise works."""
    bundle.sh("exit 3").save()
    code = f"""
        import signal
        from ocipy import Container
        signal.signal(signal.SIGCHLD, signal.{action})
        with Container.run({fresh_id()!r}, {str(bundle.path)!r}, root={root!r}) as container:
            print(container.wait(30))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.stdout in (("3\n", "None\n") if action == "SIG_IGN" else ("3\n",))


def test_nothing_of_the_program_gets_in(bundle: TestBundle, root: str) -> None:
    """Its descriptors, its ignored and blocked signals and its environment stay outside."""
    script = "ls /proc/self/fd; grep -E 'Sig(Blk|Ign)' /proc/self/status; env"
    inheritable = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    ignored = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        text, _ = output(bundle.sh(script), root)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGUSR2, ignored)
        os.close(inheritable)
    assert text.split()[:4] == ["0", "1", "2", "3"]  # 3 is what ls reads the directory by
    assert "SigBlk:\t0000000000000000" in text
    assert "SigIgn:\t0000000000000000" in text
    assert "PYTEST_CURRENT_TEST" not in text


def test_create_from_a_large_process(bundle: TestBundle, root: str) -> None:
    """The memory of the calling process is neither copied nor charged: a small limit is enough."""
    heap = bytearray(256 << 20)
    heap[::4096] = b"x" * len(heap[::4096])
    bundle.args("true").config["linux"]["resources"] = {"memory": {"limit": 4 << 20}}
    with Container.run(fresh_id(), str(bundle.save()), root=root) as container:
        assert container.wait(30) == 0
    del heap


def test_timings(bundle: TestBundle, root: str) -> None:
    """A microsecond count per operation up to the wait for start."""
    bundle.args("true").save()
    with Container.run(fresh_id(), str(bundle.path), root=root, options=CreateOptions(timings=True)) as container:
        assert len(container.timings) > 20
        assert sum(container.timings) > 0


def test_pause_update_stats_pids(bundle: TestBundle, root: str) -> None:
    """The cgroup side of the library."""
    bundle.args("sleep", "60").save()
    with Container.run(fresh_id(), str(bundle.path), root=root) as container:
        container.pause()
        assert container.status == "paused"
        with pytest.raises(StateError):
            container.pause()
        container.resume()
        until(lambda: container.status == "running")
        container.update({"pids": {"limit": 33}})
        assert container.stats()["pids"]["limit"] == 33
        assert container.init is not None
        assert container.pids() == [container.init.pid]
        with pytest.raises(ConfigError):
            container.update({"pids": {"limit": "many"}})


def test_wait_in_one_thread_and_delete_in_another(bundle: TestBundle, root: str) -> None:
    """Several threads wait for a container that yet another deletes: all get its status, and no descriptor of
    somebody else's is waited for."""
    bundle.args("sleep", "60").save()
    for _ in range(5):
        container = Container.run(fresh_id(), str(bundle.path), root=root)
        with ThreadPoolExecutor(4) as pool:
            waiting = [pool.submit(container.wait, 60) for _ in range(4)]
            until(lambda waiting=waiting: all(one.running() for one in waiting))
            container.delete(force=True)
            assert [one.result() for one in waiting] == [137] * 4
        assert container.wait() == 137


def test_delete_reaps(bundle: TestBundle, root: str) -> None:
    """Whoever never waits has no zombie after delete: of a container that ended by itself, one that was only
    created, one that was killed, and one whose start failed. (The fixture looks for children.)"""
    bundle.sh("exit 3").save()
    container = Container.run(fresh_id(), str(bundle.path), root=root)
    until(lambda: container.status == "stopped")
    container.delete()
    assert container.wait() == 3
    container = Container.create(fresh_id(), str(bundle.path), root=root)
    container.delete()
    assert container.wait() == 137
    bundle.args("garbage").save()
    (bundle.rootfs / "bin/garbage").write_bytes(b"\0\1\2\3")
    (bundle.rootfs / "bin/garbage").chmod(0o755)
    with pytest.raises(LaunchError, match="exec format error"):
        Container.run(fresh_id(), str(bundle.path), root=root)
    bundle.args("sleep", "60").config["hooks"] = {"poststart": [{"path": "/bin/false"}]}
    with pytest.raises(LaunchError, match="exited with status 1"):
        Container.run(fresh_id(), str(bundle.save()), root=root)


def test_failures_leave_no_descriptor(bundle: TestBundle, root: str) -> None:
    """Creates and execs that fail at every stage leave no descriptor, child or lock; the fixture compares."""
    config = bundle.config
    good = dict(config["process"])
    for change in (
        {"args": ["missing"]},
        {"cwd": "/etc/passwd"},
        {"terminal": True},
        {"oomScoreAdj": 5000},
    ):
        config["process"] = good | change
        with pytest.raises(Error):
            Container.run(fresh_id(), str(bundle.save()), root=root)
    config["process"] = good
    with pytest.raises(StateError, match="pid file"):
        Container.create(fresh_id(), str(bundle.save()), root=root, options=CreateOptions(pid_file="/nonexistent/pid"))
    with pytest.raises(StateError, match="invalid id"):
        Container.create("a/b", str(bundle.path), root=root)
    bundle.args("sleep", "60").save()
    with Container.run(fresh_id(), str(bundle.path), root=root) as container:
        for process in (
            good | {"args": ["missing"]}, good | {"cwd": "/etc/passwd"}, good | {"terminal": True}, {"args": ["x"]},
        ):  # fmt: skip
            with pytest.raises(Error):
                container.exec(process=process)
        with pytest.raises(StateError):
            container.start()
        with pytest.raises(StateError):
            container.delete()
        assert container.status == "running"


def test_a_program_that_waits_for_any_child(bundle: TestBundle, make_bundle: object, root: str) -> None:
    """A SIGCHLD handler that reaps every child takes the status from us, but nothing else goes wrong; from
    Linux 6.15 on the kernel keeps it for the pidfd."""
    bundle.sh("exit 3").save()
    good = make_bundle().sh("exit 0")  # type: ignore[operator]
    good.save()
    # the first process of a pid namespace gets what it has a handler for, and SIGKILL
    long = make_bundle().sh("trap 'exit 41' TERM; touch /ready; while :; do sleep 0.1; done")  # type: ignore[operator]
    long.save()
    code = f"""
        import os, signal, time
        from ocipy import Container

        def reap(*_):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass

        signal.signal(signal.SIGCHLD, reap)
        for _ in range(5):
            with Container.run({fresh_id()!r}, {str(bundle.path)!r}, root={root!r}) as container:
                print(container.wait(30))
            with Container.run({fresh_id()!r}, {str(good.path)!r}, root={root!r}) as container:
                found = container.wait(30)
                print(3 if found == 0 else found)
        for number, status in (9, 137), (15, 41):
            with Container.run({fresh_id()!r}, {str(long.path)!r}, root={root!r}) as container:
                until = time.monotonic() + 30
                while not os.path.exists({str(long.rootfs / "ready")!r}) and time.monotonic() < until:
                    time.sleep(0.01)
                container.kill(number)
                found = container.wait(30)
                print(3 if found == status else found)
            os.unlink({str(long.rootfs / "ready")!r})
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=60, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    kernel = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
    allowed = {"3"} if kernel >= (6, 15) else {"3", "None"}
    assert set(done.stdout.split()) <= allowed
    assert done.stderr == ""


def test_an_entry_is_closed_once(root: str) -> None:
    """Closing a container's state directory again closes nothing else, though its number is in use again."""
    entry = Store(root).create("box")
    with contextlib.closing(entry):
        os.rmdir(entry.path)
        number = entry.fd
    other = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    assert other == number
    entry.close()
    with entry:
        pass
    assert os.path.samestat(os.fstat(other), os.stat("/"))
    os.close(other)


def test_the_state_is_removed_last(root: str) -> None:
    """What of a state directory can't be removed keeps the state, by which another try finds the container."""
    with Store(root).create("box") as entry:
        path = Path(entry.path)
        for name in ("state.json", "config.json", "zz", "aa"):
            entry.keep(name, b"{}")
        (path / "zzz/point").mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "t", str(path / "zzz/point")], check=True)
        try:
            with pytest.raises(StateError, match="something is mounted on"):
                entry.remove()
            assert (path / "state.json").read_bytes() == b"{}"
        finally:
            subprocess.run(["umount", str(path / "zzz/point")], check=True)
        entry.remove()
    assert not path.exists()


def test_not_our_child(bundle: TestBundle, root: str) -> None:
    """wait of a container that somebody else started returns at its end, without a status."""
    bundle.args("sleep", "60").save()
    name = fresh_id()
    code = f"from ocipy import Container; Container.run({name!r}, {str(bundle.path)!r}, root={root!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, cwd="/")
    with Container.load(name, root=root) as container:
        assert container.init is not None
        with pytest.raises(TimeoutError):
            container.wait(0)
        end(container.init.pid)
        assert container.wait(30) is None
        assert container.wait() is None
        until(lambda: container.status == "stopped")


def test_concurrent_use_of_one_container(bundle: TestBundle, root: str) -> None:
    """Threads exec in, look at, pause and update one container at the same time."""
    bundle.args("sleep", "60").save()
    with Container.run(fresh_id(), str(bundle.path), root=root) as container:

        def work(number: int) -> int | None:
            for _ in range(3):
                assert container.state()["status"] == "running"
                container.update({"pids": {"limit": 100 + number}})
                assert container.pids()
            return container.exec(["sh", "-c", f"exit {number}"]).wait(60)

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == list(range(8))


def test_container_ends_during_exec(bundle: TestBundle, root: str) -> None:
    """A container that ends while an exec is on its way in takes that with it: it is said to be not running."""
    bundle.args("sleep", "60").save()
    ours, theirs = socket.socketpair()  # for the terminal; full, so that the exec is stuck halfway
    theirs.setblocking(False)
    with ours, theirs, Container.run(fresh_id(), str(bundle.path), root=root) as container:
        with contextlib.suppress(BlockingIOError):
            while True:
                theirs.send(b"x" * 4096)
        theirs.setblocking(True)
        with ThreadPoolExecutor(1) as pool:
            tried = pool.submit(container.exec, ["true"], console_fd=theirs.fileno())
            until(lambda: len(container.pids()) == 2)
            container.kill(signal.SIGKILL)
            with pytest.raises(StateError, match="container not running"):
                tried.result()


def test_closed_standard_input(bundle: TestBundle, root: str) -> None:
    """A program that has closed its standard input: neither the state directory nor anything else of ours becomes that
    of a container; it is an error."""
    bundle.args("sleep", "60").save()
    code = f"""
        import os
        from ocipy import Container, Error
        with Container.run({fresh_id()!r}, {str(bundle.path)!r}, root={root!r}) as container:
            os.close(0)
            for call in (
                lambda: container.exec(["true"]),
                lambda: container.exec(["true"], stdio=(1, 1, 2), preserve_fds=(50,)),
                lambda: Container.create({fresh_id()!r}, {str(bundle.path)!r}, root={root!r}),
            ):
                try:
                    call()
                except Error as error:
                    print(error)
            print(container.exec(["true"], stdio=(1, 1, 2)).wait())
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, cwd="/")
    told = [line.partition(",")[0] for line in done.stdout.splitlines()]
    assert told == ["descriptor 0", "descriptor 50", "descriptor 0", "0"]


def test_interrupted_message(root: str) -> None:
    """A signal handler of the program runs while a long message waits for the helper to take it, or for an answer."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ticks: list[int] = []
    received = []

    def take() -> None:
        until(lambda: len(ticks) > 2)
        while len(received) < 65:
            received.append(len(theirs.recv(1 << 20)))

    former = signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    thread = threading.Thread(target=take)
    thread.start()
    try:
        Channel(ours.fileno()).send(ACK, bytes((4 << 20) + 1))
        thread.join()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
        ours.close()
        theirs.close()
    assert sum(received) == (4 << 20) + 1 + 65 * 16


def test_helper_dies_before_it_has_read_all(root: str) -> None:
    """The same error, whether it has left something unread or not: the end of the channel says more."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        Channel(ours.fileno()).send(ACK)
        theirs.close()
        with pytest.raises(BrokenPipeError):
            Channel(ours.fileno()).send(ACK)


def test_no_room_for_a_descriptor(root: str) -> None:
    """A program that has no descriptor left when the helper hands over its child: that is neither lost nor left."""
    plan = Plan([ops.sync("", ops.SYNC_HOOKS), ops.fork(""), ops.ready("", 0)], [], 0, True)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    launched = launch(plan, given={})
    first = launched.pid
    taken: list[int] = []

    def exhaust(kind: int, fd: int) -> bytes:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
        taken.extend(os.dup(0) for _ in range(101 - len(os.listdir("/proc/self/fd"))))
        return b""

    try:
        launched.until_ready(exhaust)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)
    try:
        assert launched.pid != first
        assert launched.pidfd >= 0
    finally:
        launched.kill()


def test_hook_when_descriptors_are_few(root: str) -> None:
    """A hook that can't be run, as the program has hardly a descriptor left, leaves none open; and one that the program
    has opened above its present limit is no hindrance."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = fcntl.fcntl(0, fcntl.F_DUPFD, 300)
    before = descriptors()
    outcomes = set()
    try:
        for free in range(8):
            resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
            taken = []
            with contextlib.suppress(OSError):
                for _ in range(200):
                    taken.append(os.dup(0))
            for fd in taken[:free]:
                os.close(fd)
            try:
                run_hooks("poststop", [{"path": "/bin/true"}], b"{}", "/")
                outcomes.add("")
            except (OSError, LaunchError) as error:
                outcomes.add(str(error).rpartition("] ")[2].partition(":")[0])
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in taken[free:]:
                    os.close(fd)
            assert descriptors() == before
    finally:
        os.close(high)
    assert outcomes == {"", "Too many open files"}


def test_subprocesses_beside_it(bundle: TestBundle, root: str) -> None:
    """A program that starts processes of its own in other threads while containers are launched: no descriptor of
    ours gets into them, and none of theirs keeps ours open."""
    bundle.sh("exit 4").save()
    stop = threading.Event()
    seen: set[str] = set()

    def spawn() -> None:
        while not stop.is_set():
            done = subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False)
            seen.update(line.rpartition("-> ")[2] for line in done.stdout.splitlines())

    spawner = threading.Thread(target=spawn)
    spawner.start()
    try:
        for _ in range(10):
            with Container.run(fresh_id(), str(bundle.path), root=root) as container:
                assert container.wait(60) == 4
    finally:
        stop.set()
        spawner.join()
    assert not [name for name in seen if "memfd" in name or "pidfd" in name or "ocipytest" in name]


def test_hook_of_a_program_that_ignores_sigchld(bundle: TestBundle, root: str) -> None:
    """The kernel reaps the hook, so nobody knows whether it failed: an error that says so, and nothing is left."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    code = f"""
        import signal
        from ocipy import Container, Error
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            Container.create({fresh_id()!r}, {str(bundle.save())!r}, root={root!r})
        except Error as error:
            print(error.code, error.config_path)
    """
    words = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60, cwd="/")
    assert done.stdout == "hook-status-lost $.hooks.createRuntime[0]\n"
