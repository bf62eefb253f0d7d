"""The cgroup v2 driver, on a unified hierarchy and with real processes."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ocipy import cgroups, host
from ocipy.cgroups import _fs, devices
from ocipy.cgroups.v2 import UnifiedCgroup
from ocipy.errors import CgroupError, ConfigError, Error, Unsupported

FACTS = host.cgroups()
TOP = FACTS.hierarchies[0].mountpoint

if FACTS.mode != "v2":
    pytest.skip(f"this host has cgroup {FACTS.mode}", allow_module_level=True)
if os.geteuid():
    pytest.skip("needs root", allow_module_level=True)

CONTROLLERS = Path(TOP, "cgroup.controllers").read_text().split()

PREFIX = f"/ocipy-test-{os.getpid()}"
numbers = itertools.count()


def needs(controller: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(controller not in CONTROLLERS, reason=f"there is no {controller} controller")


def needs_file(cgroup: UnifiedCgroup, name: str) -> None:
    if not Path(cgroup.directory, name).exists():
        pytest.skip(f"this kernel has no {name}")


def new(name: str = "") -> UnifiedCgroup:
    cgroup = cgroups.select(f"{PREFIX}/{name or next(numbers)}", "id")
    assert isinstance(cgroup, UnifiedCgroup)
    return cgroup


@pytest.fixture(scope="module", autouse=True)
def prefix() -> Iterator[None]:
    yield
    parent = cgroups.select(PREFIX, "id")
    parent.kill(signal.SIGKILL)
    parent.delete()
    assert not parent.exists()


@pytest.fixture
def cgroup() -> Iterator[UnifiedCgroup]:
    made = new()
    made.create()
    yield made
    made.kill(signal.SIGKILL)
    made.delete()


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start a process; it is killed and reaped at the end."""
    started: list[subprocess.Popen[bytes]] = []

    def begin(*command: str, cgroup: UnifiedCgroup | None = None, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command or ("sleep", "1000"), **options)
        started.append(process)
        if cgroup:
            cgroup.add(process.pid)
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()


def read(cgroup: UnifiedCgroup, name: str) -> str:
    return Path(cgroup.directory, name).read_text().strip()


def in_child(action: Callable[[], object]) -> str:
    """Run something in a forked process; returns the repr of its result, or of its exception."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            try:
                text = repr(action())
            except BaseException as error:
                text = repr(error)
            os.write(writer, text.encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as stream:
        text = stream.read().decode()
    os.waitpid(pid, 0)
    return text


def until(condition: Callable[[], bool]) -> None:
    """Wait for what must become true, however long the machine takes."""
    while not condition():
        time.sleep(0.01)


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
    monkeypatch.setattr("ocipy.cgroups.v2.DELEGATE", "/sys/kernel/cgroup/missing")
    cgroup.delegate(1234)
    assert owned_by(cgroup, 1234) == {"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}


@pytest.mark.spec("config-linux#cgroup-ownership-4", "config-linux#cgroup-ownership-5")
def test_delegation_of_what_there_is(cgroup: UnifiedCgroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "delegate").write_text("missing.file\ncgroup.procs\n")
    monkeypatch.setattr("ocipy.cgroups.v2.DELEGATE", str(tmp_path / "delegate"))
    cgroup.delegate(1234)
    assert owned_by(cgroup, 1234) == {"cgroup.procs"}


def owned_by(cgroup: UnifiedCgroup, uid: int) -> set[str]:
    names = os.listdir(cgroup.directory)
    return {name for name in names if os.stat(f"{cgroup.directory}/{name}").st_uid == uid}


# Resources


@pytest.mark.spec("config-linux#unified-2")
@pytest.mark.parametrize(
    ("resources", "name", "value"),
    [
        ({"memory": {"limit": 64 << 20}}, "memory.max", str(64 << 20)),
        ({"memory": {"limit": -1}}, "memory.max", "max"),
        ({"memory": {"reservation": 32 << 20}}, "memory.low", str(32 << 20)),
        ({"memory": {"limit": 64 << 20, "swap": 96 << 20}}, "memory.swap.max", str(32 << 20)),
        ({"memory": {"limit": 64 << 20, "swap": 64 << 20}}, "memory.swap.max", "0"),
        ({"memory": {"limit": 64 << 20, "swap": -1}}, "memory.swap.max", "max"),
        ({"memory": {"kernel": -1, "useHierarchy": True, "disableOOMKiller": False}}, "memory.max", "max"),
        ({"cpu": {"shares": 512}}, "cpu.weight", "59"),
        ({"cpu": {"quota": 50000, "period": 200000}}, "cpu.max", "50000 200000"),
        ({"cpu": {"quota": 50000}}, "cpu.max", "50000 100000"),
        ({"cpu": {"period": 50000}}, "cpu.max", "max 50000"),
        ({"cpu": {"quota": 20000, "burst": 10000}}, "cpu.max.burst", "10000"),
        ({"cpu": {"idle": 1, "shares": 512}}, "cpu.idle", "1"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.cpus", "0"),
        ({"cpu": {"cpus": "0", "mems": "0"}}, "cpuset.mems", "0"),
        ({"pids": {"limit": 42}}, "pids.max", "42"),
        ({"pids": {"limit": -1}}, "pids.max", "max"),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb.2MB.max", str(4 << 20)),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}, "hugetlb.2MB.rsvd.max", str(4 << 20)),
        ({"unified": {"memory.high": "1073741824"}}, "memory.high", "1073741824"),
        ({"unified": {"cgroup.max.depth": "3"}}, "cgroup.max.depth", "3"),
        ({"blockIO": {"weight": 500}}, "io.bfq.weight", "default 500"),
    ],
)
def test_values(cgroup: UnifiedCgroup, resources: dict[str, Any], name: str, value: str) -> None:
    needs_file(cgroup, name)
    cgroup.apply(resources, update=True)
    assert read(cgroup, name).splitlines()[0] == value


@needs("io")
def test_throttling_and_weights(cgroup: UnifiedCgroup) -> None:
    needs_file(cgroup, "io.max")
    names = sorted(os.listdir("/sys/block"))
    if not names:
        pytest.skip("this host has no block device")
    major, minor = (int(n) for n in Path("/sys/block", names[0], "dev").read_text().split(":"))
    device = {"major": major, "minor": minor}
    cgroup.apply(
        {
            "blockIO": {
                "throttleReadBpsDevice": [{**device, "rate": 1048576}],
                "throttleWriteIOPSDevice": [{**device, "rate": 100}],
            }
        },
        update=True,
    )
    assert read(cgroup, "io.max") == f"{major}:{minor} rbps=1048576 wbps=max riops=max wiops=100"
    cgroup.apply(
        {"unified": {"io.max": f"{major}:{minor} riops=7\n{major}:{minor} wbps=2097152"}}, update=True
    )
    assert read(cgroup, "io.max") == f"{major}:{minor} rbps=1048576 wbps=2097152 riops=7 wiops=100"
    with pytest.raises(CgroupError) as caught:
        cgroup.apply({"blockIO": {"throttleReadBpsDevice": [{"major": 4000, "minor": 0, "rate": 1}]}})
    assert caught.value.config_path == "$.linux.resources.blockIO.throttleReadBpsDevice[0]"
    if not any(Path(cgroup.directory, n).exists() for n in ("io.bfq.weight", "io.weight")):
        with pytest.raises(Unsupported, match=r"this kernel has no io.weight"):
            cgroup.apply({"blockIO": {"weight": 500}})


@needs("cpu")
def test_cpu_updates(cgroup: UnifiedCgroup) -> None:
    cgroup.apply({"cpu": {"quota": 50000, "period": 200000}}, update=True)
    cgroup.apply({"cpu": {"quota": 60000}}, update=True)
    assert read(cgroup, "cpu.max") == "60000 200000"
    cgroup.apply({"cpu": {"period": 100000}}, update=True)
    assert read(cgroup, "cpu.max") == "60000 100000"
    needs_file(cgroup, "cpu.max.burst")
    for quota, burst in ((10000, 10000), (50000, 50000), (20000, 5000)):
        cgroup.apply({"cpu": {"quota": quota, "burst": burst}}, update=True)
        assert read(cgroup, "cpu.max.burst") == str(burst)
    needs_file(cgroup, "cpu.idle")
    for _ in range(2):
        cgroup.apply({"cpu": {"idle": 1, "shares": 512}}, update=True)
    with pytest.raises(CgroupError, match="idle cgroup has no shares"):
        cgroup.apply({"cpu": {"shares": 512}}, update=True)
    cgroup.apply({"cpu": {"idle": 0, "shares": 512}}, update=True)
    assert read(cgroup, "cpu.weight") == "59"


@needs("memory")
def test_an_update_of_swap_alone(cgroup: UnifiedCgroup) -> None:
    needs_file(cgroup, "memory.swap.max")
    cgroup.apply({"memory": {"swap": 96 << 20}}, update=True)
    assert read(cgroup, "memory.swap.max") == str(96 << 20)  # no memory limit
    cgroup.apply({"memory": {"limit": 64 << 20}}, update=True)
    cgroup.apply({"memory": {"swap": 96 << 20}}, update=True)
    assert read(cgroup, "memory.swap.max") == str(32 << 20)
    with pytest.raises(ConfigError, match="should be >= memory limit"):
        cgroup.apply({"memory": {"swap": 32 << 20}}, update=True)


HOG = "import sys; data = bytearray({size}); print(flush=True); sys.stdin.read()"


def hog(start: Callable[..., subprocess.Popen[bytes]], cgroup: UnifiedCgroup, size: int) -> Any:
    """A process that takes memory once it is in the cgroup."""
    command = (sys.executable, "-I", "-S", "-c", HOG.format(size=size))
    process = start("sh", "-c", 'read go; exec "$@"', "sh", *command, cgroup=cgroup,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"\n")
    process.stdin.flush()
    return process


@pytest.mark.spec("config-linux#memory-2")
@needs("memory")
def test_check_before_update(cgroup: UnifiedCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = hog(start, cgroup, 32 << 20)
    process.stdout.readline()
    for memory, words, key in (
        ({"limit": 8 << 20}, "rejecting memory limit 8388608 <= usage", "limit"),
        ({"limit": 256 << 20, "swap": 8 << 20}, "rejecting memory.swap limit 8388608 <= usage", "swap"),
    ):
        with pytest.raises(CgroupError, match=words) as caught:
            cgroup.apply({"memory": {**memory, "checkBeforeUpdate": True}}, update=True)
        assert caught.value.config_path == f"$.linux.resources.memory.{key}"
    cgroup.apply({"memory": {"limit": 256 << 20, "checkBeforeUpdate": True}}, update=True)
    assert process.poll() is None
    assert cgroup.oom_kills() == 0


@pytest.mark.spec("config-linux#huge-page-limits-2", "config-linux#unified-3", "config-linux#unified-4")
@pytest.mark.parametrize(
    ("resources", "kind", "path"),
    [
        ({"memory": {"kernel": 1 << 30}}, Unsupported, "memory.kernel"),
        ({"memory": {"kernelTCP": 1 << 30}}, Unsupported, "memory.kernelTCP"),
        ({"memory": {"swappiness": 10}}, Unsupported, "memory.swappiness"),
        ({"memory": {"disableOOMKiller": True}}, Unsupported, "memory.disableOOMKiller"),
        ({"memory": {"useHierarchy": False}}, Unsupported, "memory.useHierarchy"),
        ({"memory": {"limit": 100 << 20, "swap": 50 << 20}}, ConfigError, "memory.swap"),
        ({"cpu": {"realtimeRuntime": 1000}}, Unsupported, "cpu.realtimeRuntime"),
        ({"cpu": {"realtimePeriod": 1000}}, Unsupported, "cpu.realtimePeriod"),
        ({"blockIO": {"leafWeight": 500}}, Unsupported, "blockIO.leafWeight"),
        ({"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 5}]}}, Unsupported,
         "blockIO.weightDevice[0].leafWeight"),
        ({"network": {"classID": 1}}, Unsupported, "network.classID"),
        ({"network": {"priorities": [{"name": "lo", "priority": 5}]}}, Unsupported, "network.priorities"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, Unsupported, "hugepageLimits[0]"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, ConfigError, "hugepageLimits[0].pageSize"),
        ({"unified": {"../x": "1"}}, ConfigError, "unified"),
        ({"unified": {"nothing": "1"}}, ConfigError, 'unified["nothing"]'),
        ({"unified": {"absent.max": "1"}}, Unsupported, 'unified["absent.max"]'),
        ({"unified": {"cgroup.absent": "1"}}, Unsupported, 'unified["cgroup.absent"]'),
        ({"unified": {"cgroup.max.depth": "x"}}, CgroupError, 'unified["cgroup.max.depth"]'),
        ({"devices": [{"allow": True, "type": "x", "access": "r"}]}, ConfigError, "devices[0].type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    cgroup: UnifiedCgroup, resources: dict[str, Any], kind: type[Error], path: str
) -> None:
    with pytest.raises(kind) as caught:
        cgroup.apply(resources, update=True)
    assert caught.value.config_path == f"$.linux.resources.{path}"


def test_nothing_asked_for_nothing_refused(cgroup: UnifiedCgroup) -> None:
    empty: dict[str, Any] = {
        "memory": {"swappiness": None}, "cpu": {"shares": 0}, "pids": {}, "blockIO": {"weight": 0},
        "network": {"classID": 0, "priorities": []}, "hugepageLimits": [], "rdma": {}, "unified": {},
    }  # fmt: skip
    cgroup.apply(empty, update=True)
    cgroup.apply({}, update=True)


# Devices


def opened(cgroup: UnifiedCgroup, *paths: str) -> dict[str, str]:
    """What a process in the cgroup gets from opening device nodes to read and to write."""

    def attempt() -> dict[str, str]:
        cgroup.add(os.getpid())
        result = {}
        for path in paths:
            text = ""
            for letter, flags in (("r", os.O_RDONLY), ("w", os.O_WRONLY)):
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
    if opened(cgroup, KMSG)[KMSG] != "rw":
        pytest.skip("this host's root may not use /dev/kmsg")
    try:
        devices.attached(cgroup.directory)
    except OSError as error:
        pytest.skip(f"this kernel has no eBPF for cgroups: {error}")
    return cgroup


def test_devices_are_denied_but_for_the_defaults(limited: UnifiedCgroup) -> None:
    limited.apply({})
    assert opened(limited, KMSG, FULL) == {KMSG: "", FULL: "rw"}
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
    assert opened(limited, KMSG) == {KMSG: "rw"}
    second = devices.attached(limited.directory)
    assert len(second) == 1
    assert second != first
    # A hole in a wide rule, which v1 can't have.
    limited.apply({"devices": [{"allow": True, "access": "rwm"}, {**kmsg, "allow": False, "access": "rw"}]},
                  update=True)  # fmt: skip
    assert opened(limited, KMSG, FULL) == {KMSG: "", FULL: "rw"}


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
    assert opened(limited, KMSG, FULL) == {KMSG: "", FULL: "rw"}


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
        put = _fs.put
        monkeypatch.setattr(
            _fs, "put", lambda d, name, v: errno.ENOENT if name == "cgroup.kill" else put(d, name, v)
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


def test_delete_takes_what_is_below(cgroup: UnifiedCgroup) -> None:
    cgroup.below({"": "a/b"}).create()
    cgroup.below({"": "c"}).create()
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
    monkeypatch.setattr(_fs, "DELETE_SECONDS", 0.05)
    with pytest.raises(CgroupError, match=rf"can't remove cgroup .*still in it: \[{process.pid}\]") as caught:
        cgroup.delete()
    assert caught.value.errno == errno.EBUSY
