"""The cgroup v2 driver, on a unified hierarchy and with real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cgroup_tools
import pytest
from cgroup_tools import PREFIX, deepen, hog, in_child, new, private_mounts, until

from ocipy import cgroups, host
from ocipy.cgroups import fs
from ocipy.cgroups.stats import NO_LIMIT
from ocipy.cgroups.v1.driver import LegacyCgroup
from ocipy.cgroups.v2 import devices
from ocipy.cgroups.v2.driver import UnifiedCgroup
from ocipy.errors import CgroupError, Unsupported

FACTS = host.cgroups()
TOP = FACTS.hierarchies[0].mountpoint

#: fixtures
cgroup, prefix, start = cgroup_tools.cgroup, cgroup_tools.prefix, cgroup_tools.start

if FACTS.mode != "v2":
    pytest.skip(f"this host has cgroup {FACTS.mode}", allow_module_level=True)
if os.geteuid():
    pytest.skip("needs root", allow_module_level=True)

CONTROLLERS = Path(TOP, "cgroup.controllers").read_text().split()


def needs(controller: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(controller not in CONTROLLERS, reason=f"there is no {controller} controller")


def needs_file(cgroup: UnifiedCgroup, name: str) -> None:
    if not Path(cgroup.directory, name).exists():
        pytest.skip(f"this kernel has no {name}")


def read(cgroup: UnifiedCgroup, name: str) -> str:
    return Path(cgroup.directory, name).read_text().strip()


# Placement, creation, membership


@pytest.mark.spec("config-linux#unified-1")
def test_create_enables_every_controller(cgroup: UnifiedCgroup) -> None:
    assert cgroup.directory == f"{TOP}{PREFIX}/{Path(cgroup.directory).name}"
    assert read(cgroup, "cgroup.controllers").split() == CONTROLLERS
    nested = new("nested/a/b")
    nested.create()
    nested.create()
    assert read(nested, "cgroup.controllers").split() == CONTROLLERS
    new("nested").delete()


def test_modes_and_owners_of_what_is_made() -> None:
    """Everybody may look into a cgroup and its new parents, nobody but root may change them, whatever the umask lets
    through."""
    nested = new("modes/a/b")
    before = os.umask(0)
    try:
        nested.create()
        directory = Path(nested.directory)
        for level in (directory, directory.parent, directory.parent.parent):
            found = level.stat()
            assert (oct(found.st_mode), found.st_uid, found.st_gid) == ("0o40755", 0, 0), level
    finally:
        os.umask(before)
        new("modes").delete()


def test_a_read_only_hierarchy(cgroup: UnifiedCgroup) -> None:
    """In a hierarchy that is mounted read-only, no cgroup can be made."""
    with private_mounts():
        subprocess.run(["mount", "-o", "remount,bind,ro", TOP], check=True)
        cgroup.create()
        with pytest.raises(CgroupError) as caught:
            new().create()
    assert caught.value.errno == errno.EROFS


def test_walks_leave_no_descriptor(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """What is below a cgroup is gone through without a descriptor left open, however much there is."""
    for name in ("a/b/c", "a/d", "e"):
        cgroup.below({"": name}).create()
    start(cgroup=cgroup.below({"": "e"}))
    before = os.listdir("/proc/self/fd")
    assert len(cgroup.pids()) == 1
    cgroup.freeze(True)
    cgroup.freeze(False)
    fs.signal_all(cgroup.directory, 0)
    cgroup.kill(signal.SIGKILL)
    cgroup.delete()
    assert os.listdir("/proc/self/fd") == before


def test_processes(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start(cgroup=cgroup)
    path = cgroup.directory.removeprefix(TOP)
    assert Path(f"/proc/{process.pid}/cgroup").read_text() == f"0::{path}\n"
    assert cgroup.pids() == [process.pid]
    assert UnifiedCgroup.of(process.pid).paths == cgroup.paths
    child = cgroup.below({"": "child"})
    child.create()
    child.add(process.pid)
    assert child.pids() == cgroup.pids() == [process.pid]
    with pytest.raises(CgroupError) as caught:
        cgroup.add(2**22 + 1)
    assert caught.value.errno == errno.ESRCH
    with pytest.raises(CgroupError):
        UnifiedCgroup.of(2**22 + 1)


def test_the_clone_fd(cgroup: UnifiedCgroup) -> None:
    other, files = cgroup.joining()
    assert files == []
    for fd in (cgroup.clone_fd(), other):
        assert os.path.samestat(os.fstat(fd), os.stat(cgroup.directory))
        assert not os.get_inheritable(fd)
        os.close(fd)
    with pytest.raises(CgroupError):
        new().clone_fd()


@needs("memory")
def test_processes_and_controllers_exclude_each_other(
    cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    inner = cgroup.below({"": "inner"})
    inner.create()
    with pytest.raises(CgroupError, match="can't hold processes itself") as caught:
        cgroup.add(start().pid)
    assert caught.value.errno == errno.EBUSY
    init, process = start(cgroup=inner), start()
    cgroup.add(process.pid, init.pid)  # as exec does: to where the container's init has moved itself
    assert sorted(inner.pids()) == sorted([init.pid, process.pid])
    # and so on hybrid, for the cgroup2 beside the v1 hierarchies
    third = start()
    LegacyCgroup({"": cgroup.directory}).add(third.pid, init.pid)
    assert third.pid in inner.pids()
    # The other way round: no controller below a cgroup with processes, and the limit says why.
    other = new()
    other.create()
    start(cgroup=other)
    below = other.below({"": "below"})
    below.create()
    with pytest.raises(Unsupported, match="'memory' not available") as refused:
        below.apply({"memory": {"limit": 1 << 30}})
    assert refused.value.config_path == "$.linux.resources.memory.limit"
    assert refused.value.hint.startswith(f"{other.directory} has processes of its own")
    other.kill(signal.SIGKILL)
    other.delete()


@needs("memory")
def test_below_a_threaded_domain(
    cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    threaded = cgroup.below({"": "threaded"})
    os.mkdir(threaded.directory)
    Path(threaded.directory, "cgroup.type").write_text("threaded")
    inner = cgroup.below({"": "inner"})  # would be "domain invalid"
    inner.create()
    assert read(inner, "cgroup.type") == "threaded"
    # controllers that can't be enabled there keep the others not out
    able = [c for c in CONTROLLERS if c in ("cpu", "cpuset", "pids", "perf_event")]
    assert able
    assert read(inner, "cgroup.controllers").split() == able
    process = start(cgroup=cgroup)
    inner.add(process.pid)
    assert cgroup.pids() == [process.pid, process.pid]  # the domain lists what is in its threaded part
    assert inner.pids() == [process.pid]
    with pytest.raises(Unsupported, match="only threaded controllers work there"):
        inner.apply({"memory": {"limit": 1 << 30}})


def test_without_permission_an_optional_cgroup_is_left_out() -> None:
    def attempt() -> object:
        os.setgid(65534)
        os.setuid(65534)
        required = cgroups.select(f"ocipy-test-{os.getppid()}-r", "id", FACTS, rootless=True)
        optional = cgroups.select(None, f"ocipy-test-{os.getppid()}-o", FACTS, rootless=True)
        try:
            required.create()
        except CgroupError as error:
            refused = (error.errno, error.config_path, "refuses it" in error.hint)
        optional.create()
        optional.add(os.getpid())
        optional.apply({"devices": [{"allow": False, "access": "rwm"}]})
        optional.kill(0)
        optional.delete()
        try:
            optional.apply({"memory": {"limit": 1 << 30}})
        except CgroupError as error:
            limits = str(error)
        return refused, optional.paths, optional.pids(), optional.clone_fd(), limits

    text = in_child(attempt)
    assert text.startswith(f"(({errno.EACCES}, '$.linux.cgroupsPath', True), {{}}, [], -1, ")
    assert "$.linux.resources.memory: cannot set memory limit: container could not join" in text


@pytest.mark.spec("config-linux#cgroup-ownership-4")
def test_delegation(cgroup: UnifiedCgroup) -> None:
    cgroup.delegate(1234)
    for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        status = os.stat(f"{cgroup.directory}/{name}")
        assert (status.st_uid, status.st_gid) == (1234, 0)
    for name in ("memory.max", "pids.max"):
        if Path(cgroup.directory, name).exists():
            assert os.stat(f"{cgroup.directory}/{name}").st_uid == 0


@pytest.mark.spec("config-linux#cgroup-ownership-6")
def test_delegation_without_the_kernels_list(cgroup: UnifiedCgroup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocipy.cgroups.v2.driver.DELEGATE", "/sys/kernel/cgroup/missing")
    cgroup.delegate(1234)
    assert owned_by(cgroup, 1234) == {"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}


@pytest.mark.spec("config-linux#cgroup-ownership-4", "config-linux#cgroup-ownership-5")
def test_delegation_of_what_there_is(cgroup: UnifiedCgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "delegate").write_text("missing.file\ncgroup.procs\n")
    monkeypatch.setattr("ocipy.cgroups.v2.driver.DELEGATE", str(tmp_path / "delegate"))
    cgroup.delegate(1234)
    assert owned_by(cgroup, 1234) == {"cgroup.procs"}


def owned_by(cgroup: UnifiedCgroup, uid: int) -> set[str]:
    names = os.listdir(cgroup.directory)
    return {name for name in names if os.stat(f"{cgroup.directory}/{name}").st_uid == uid}


# Devices


def opened(cgroup: UnifiedCgroup, *paths: str) -> dict[str, str]:
    """What a process in the cgroup gets from opening device nodes to read and to write."""

    def attempt() -> dict[str, str]:
        cgroup.add(os.getpid())
        result = {}
        for path in paths:
            text = ""
            for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY), ("+", os.O_RDWR)):
                with contextlib.suppress(PermissionError):
                    os.close(os.open(path, flags | os.O_NONBLOCK))
                    text += letter
            result[path] = text
        return result

    found = eval(in_child(attempt))
    assert isinstance(found, dict)
    return found


KMSG, FULL = "/dev/kmsg", "/dev/full"


@pytest.fixture
def limited(cgroup: UnifiedCgroup) -> UnifiedCgroup:
    """A cgroup on a kernel that can limit devices, and whose processes may use /dev/kmsg."""
    pytest.importorskip("ocipy._native", reason="the native extension is not built")
    if opened(cgroup, KMSG)[KMSG] != "rw+":
        pytest.skip("this host's root may not use /dev/kmsg")
    try:
        devices.attached(cgroup.directory)
    except OSError as error:
        pytest.skip(f"this kernel has no eBPF for cgroups: {error}")
    return cgroup


def test_devices_are_denied_but_for_the_defaults(limited: UnifiedCgroup) -> None:
    limited.apply({})
    assert opened(limited, KMSG, FULL) == {KMSG: "", FULL: "rw+"}
    assert len(devices.attached(limited.directory)) == 1


@pytest.mark.spec("config-linux#allowed-device-list-1")
def test_device_rules_apply_in_order(limited: UnifiedCgroup) -> None:
    kmsg = {"type": "c", "major": 1, "minor": 11}
    limited.apply(
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {**kmsg, "allow": True, "access": "rwm"},
                {**kmsg, "allow": False, "access": "w"},
            ]
        }
    )
    assert opened(limited, KMSG) == {KMSG: "r"}
    first = devices.attached(limited.directory)
    limited.apply({"pids": {}}, update=True)
    assert devices.attached(limited.directory) == first
    limited.apply({"devices": [{**kmsg, "allow": True, "access": "rw"}]}, update=True)
    assert opened(limited, KMSG) == {KMSG: "rw+"}
    second = devices.attached(limited.directory)
    assert len(second) == 1
    assert second != first
    # A hole in a wide rule, which v1 can't have.
    limited.apply({"devices": [{"allow": True, "access": "rwm"}, {**kmsg, "allow": False, "access": "rw"}]},
                  update=True)  # fmt: skip
    assert opened(limited, KMSG, FULL) == {KMSG: "", FULL: "rw+"}


@pytest.mark.parametrize("wide", [{}, {"minor": None}, {"major": None}, {"major": None, "minor": None}])
def test_device_rules_add_up(limited: UnifiedCgroup, wide: dict[str, None]) -> None:
    """Reading by one entry and writing by another is both at once; what denies one of them leaves the other."""
    kmsg = {"type": "c", "major": 1, "minor": 11, "allow": True}
    other = {key: value for key, value in (kmsg | wide).items() if value is not None}
    for first, second in (kmsg, other), (other, kmsg):
        both = [{**first, "access": "r"}, {**second, "access": "w"}]
        limited.apply({"devices": both})
        assert opened(limited, KMSG) == {KMSG: "rw+"}
        limited.apply({"devices": [*both, {**other, "allow": False, "access": "w"}]})
        assert opened(limited, KMSG) == {KMSG: "r"}


def test_several_device_programs_become_one(limited: UnifiedCgroup) -> None:
    # Without BPF_F_REPLACE, and as systemd leaves them: a second one beside the first.
    allow_all = devices.program([(True, "a", -1, -1, "rwm")])
    directory = os.open(limited.directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(2):
            program = devices._load(allow_all)
            arguments = struct.pack("=IIIII", directory, program, devices.BPF_CGROUP_DEVICE,
                                     devices.BPF_F_ALLOW_MULTI, 0)  # fmt: skip
            devices._bpf(devices.BPF_PROG_ATTACH, arguments)
            os.close(program)
    finally:
        os.close(directory)
    assert len(devices.attached(limited.directory)) == 2
    limited.apply({})
    assert len(devices.attached(limited.directory)) == 1
    assert opened(limited, KMSG) == {KMSG: ""}


def test_no_program_leaks_descriptors(limited: UnifiedCgroup) -> None:
    limited.apply({})
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        limited.apply({})
    assert os.listdir("/proc/self/fd") == before


def test_many_device_rules(limited: UnifiedCgroup) -> None:
    rules = [{"allow": True, "type": "c", "major": 200 + n, "access": "rw"} for n in range(500)]
    limited.apply({"devices": rules})
    assert opened(limited, KMSG, FULL) == {KMSG: "", FULL: "rw+"}
    rules = [{"allow": True, "type": "c", "major": n, "minor": 3, "access": "rw"} for n in range(2000)]
    with pytest.raises(Unsupported, match="2000 device rules are more than the kernel takes") as caught:
        limited.apply({"devices": rules})
    assert caught.value.config_path == "$.linux.resources.devices"


# Freezing, killing, watching, removing


def test_freeze_and_thaw(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("sh", "-c", "while :; do /bin/true; done", cgroup=cgroup)
    assert not cgroup.frozen()
    cgroup.freeze(True)
    assert cgroup.frozen()
    assert "frozen 1" in read(cgroup, "cgroup.events")
    cgroup.freeze(True)
    child = cgroup.below({"": "child"})
    child.create()
    assert not child.frozen()
    cgroup.freeze(False)
    assert not cgroup.frozen()
    process.terminate()
    process.wait()
    cgroup.freeze(True)  # an empty one
    cgroup.freeze(False)


def test_a_cgroup_that_is_gone() -> None:
    gone = new()
    assert not gone.exists()
    assert not gone.frozen()
    assert gone.pids() == []
    assert gone.oom_kills() == 0
    gone.kill(signal.SIGKILL)
    gone.delete()
    for action in (lambda: gone.freeze(True), gone.oom_watch, lambda: gone.apply({"pids": {"limit": 1}})):
        with pytest.raises(CgroupError):
            action()


FORKER = """
import os
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        pass
"""


@pytest.mark.parametrize("whole", [True, False])
def test_kill_gets_a_process_that_keeps_forking(
    cgroup: UnifiedCgroup,
    start: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,
) -> None:
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-I", "-S", "-c", FORKER,
                    cgroup=cgroup, stdin=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    until(lambda: process.poll() is not None)
    until(lambda: cgroup.pids() != [])
    if not whole:  # as on a kernel before 5.14
        put = fs.put
        monkeypatch.setattr(
            fs, "put", lambda d, name, v: errno.ENOENT if name == "cgroup.kill" else put(d, name, v)
        )
    cgroup.kill(signal.SIGKILL)
    until(lambda: cgroup.pids() == [])
    assert not cgroup.frozen()


def test_signals_and_the_frozen(
    cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    cgroup.freeze(True)
    cgroup.kill(signal.SIGCONT)
    assert cgroup.frozen()
    cgroup.kill(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    cgroup.freeze(False)
    other = start(cgroup=cgroup)
    cgroup.kill(signal.SIGTERM)
    assert not cgroup.frozen()
    assert other.wait() == -signal.SIGTERM


def test_signals_come_while_it_is_frozen(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """So nobody is missed who is being forked meanwhile, and nobody gets a signal who was forked in answer to it."""
    start(cgroup=cgroup)
    events = os.open(f"{cgroup.directory}/cgroup.events", os.O_RDONLY)
    try:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        os.pread(events, 4096, 0)
        while poller.poll(100):  # of the process that came
            os.pread(events, 4096, 0)
        cgroup.kill(signal.SIGCONT)
        assert poller.poll(20_000), "it was never frozen"
        assert os.pread(events, 4096, 0).split() == [b"populated", b"1", b"frozen", b"0"]
    finally:
        os.close(events)


@needs("memory")
def test_oom_is_watched(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    cgroup.apply({"memory": {"limit": 24 << 20, "swap": 24 << 20}}, update=True)
    with cgroup.oom_watch() as watch:
        poller = select.poll()
        poller.register(watch.fileno(), watch.events)
        assert poller.poll(0) == []
        process = hog(start, cgroup, 256 << 20)
        assert process.wait() == -signal.SIGKILL
        kills = 0
        while not kills:
            assert poller.poll()
            kills = watch.check()
        assert cgroup.oom_kills() == kills == 1
        assert watch.check() == 0
    cgroup.kill(signal.SIGKILL)


def test_no_oom_without_the_controller() -> None:
    cgroup = UnifiedCgroup({"": TOP})  # the root has no memory.events
    assert cgroup.oom_kills() == 0
    with pytest.raises(Unsupported):
        cgroup.oom_watch()


def test_stats(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    cgroup.apply({"pids": {"limit": 20}} if "pids" in CONTROLLERS else {}, update=True)
    process = hog(start, cgroup, 16 << 20)
    process.stdout.readline()
    data = cgroup.stats()
    assert set(data) == {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"}
    assert data["pids"] == {"current": 1, "limit": 20 if "pids" in CONTROLLERS else 0}
    assert data["cpu"]["usage"]["total"] > 0
    assert set(data["cpu"]["throttling"]) == {"periods", "throttledPeriods", "throttledTime"}
    if "memory" in CONTROLLERS:
        assert data["memory"]["usage"]["usage"] > 16 << 20
        assert data["memory"]["usage"]["limit"] == (1 << 64) - 1
        assert data["memory"]["raw"]["anon"] > 16 << 20
    if "hugetlb" in CONTROLLERS:
        assert set(data["hugetlb"]["2MB"]) == {"usage", "max", "failcnt"}
    if Path(cgroup.directory, "memory.pressure").exists() and "psi" in data["memory"]:
        assert set(data["memory"]["psi"]["some"]) == {"avg10", "avg60", "avg300", "total"}


def test_every_statistic(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """All of what is told is what the files say, of a cgroup whose process has ended."""
    process = hog(start, cgroup, 16 << 20)
    process.communicate()
    for name, value in {"memory.max": 64 << 20, "memory.swap.max": 3 << 20, "cpu.max": "90000 100000"}.items():
        if Path(cgroup.directory, name).exists():
            Path(cgroup.directory, name).write_text(str(value))

    def table(name: str) -> dict[str, int]:
        path = Path(cgroup.directory, name)
        return {k: int(v) for k, v in map(str.split, path.read_text().splitlines())} if path.exists() else {}

    def one(name: str) -> int:
        path = Path(cgroup.directory, name)
        text = path.read_text().strip() if path.exists() else "0"
        return NO_LIMIT if text == "max" else int(text)

    data = {k: {x: y for x, y in v.items() if x != "psi"} for k, v in cgroup.stats().items()}
    time = table("cpu.stat")
    assert time["usage_usec"] > 0
    assert data["cpu"] == {
        "usage": {
            "total": time["usage_usec"] * 1000, "kernel": time["system_usec"] * 1000, "user": time["user_usec"] * 1000,
        },
        "throttling": {
            "periods": time.get("nr_periods", 0), "throttledPeriods": time.get("nr_throttled", 0),
            "throttledTime": time.get("throttled_usec", 0) * 1000,
        },
    }  # fmt: skip
    swap = one("memory.swap.max")
    both = NO_LIMIT if swap == NO_LIMIT or one("memory.max") == NO_LIMIT else swap + one("memory.max")
    for _ in range(300):  # the kernel takes back what has been freed some time after
        told = {k: v for k, v in cgroup.stats()["memory"].items() if k != "psi"}
        raw, events, current = table("memory.stat"), table("memory.events"), one("memory.current")
        there = {
            "cache": raw.get("file", 0), "raw": raw,
            "usage": {"limit": one("memory.max"), "usage": current, "max": one("memory.peak"),
                      "failcnt": events.get("max", 0)},
            "swap": {"limit": both, "usage": current + one("memory.swap.current"), "failcnt": 0},
            "kernel": {"limit": NO_LIMIT, "usage": raw.get("kernel", raw.get("slab", 0)), "failcnt": 0},
            "kernelTCP": {"limit": NO_LIMIT, "usage": raw.get("sock", 0), "failcnt": 0},
        }  # fmt: skip
        if told == there:
            break
    assert told == there
    assert data["pids"] == {"current": 0, "limit": 0}
    if "cpuset" in CONTROLLERS:
        assert len(data["cpuset"]["cpus"]) == os.cpu_count()
        assert data["cpuset"]["mems"] == [0]


def test_delete_takes_what_is_below(cgroup: UnifiedCgroup) -> None:
    cgroup.below({"": "a/b"}).create()
    cgroup.below({"": "c"}).create()
    deepen(next(iter(cgroup.paths.values())), 2500)
    assert cgroup.pids() == []
    cgroup.delete()
    assert not cgroup.exists()
    cgroup.delete()


def test_delete_waits_for_a_process_to_vanish(
    cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    timer = threading.Timer(0.2, process.kill)
    timer.start()
    cgroup.delete()
    timer.join()
    assert not cgroup.exists()


def test_a_busy_cgroup_says_who_is_in_it(
    cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(cgroup=cgroup)
    monkeypatch.setattr(fs, "DELETE_SECONDS", 0.05)
    with pytest.raises(CgroupError, match=rf"can't remove cgroup .*still in it: \[{process.pid}\]") as caught:
        cgroup.delete()
    assert caught.value.errno == errno.EBUSY
