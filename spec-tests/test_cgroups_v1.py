"""The cgroup v1 (and hybrid) driver, on this host's hierarchies and with real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cgroup_tools
import pytest
from cgroup_tools import HOG, PREFIX, deepen, in_child, new, private_mounts, until

from ocipy import cgroups, host
from ocipy.cgroups import base, device_rules, fs
from ocipy.cgroups.v1.driver import LegacyCgroup
from ocipy.cgroups.v2.driver import UnifiedCgroup
from ocipy.errors import CgroupError

MODE = host.cgroups().mode
CONTROLLERS = {c for h in host.cgroups().hierarchies for c in h.controllers}
HYBRID = MODE == "hybrid"

#: fixtures
cgroup, prefix, start = cgroup_tools.cgroup, cgroup_tools.prefix, cgroup_tools.start

if MODE == "v2":
    pytest.skip("this host has cgroup v2 only", allow_module_level=True)
if os.geteuid():
    pytest.skip("needs root", allow_module_level=True)


def needs(controller: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(controller not in CONTROLLERS, reason=f"no {controller} hierarchy is mounted")


def needs_file(controller: str, name: str) -> None:
    """Skip where a new cgroup does not have a file."""
    probe = new()
    probe.create()
    try:
        if controller not in probe.paths or not Path(probe.paths[controller], name).exists():
            pytest.skip(f"this kernel has no {name}")
    finally:
        probe.delete()


def read(cgroup: LegacyCgroup, controller: str, name: str) -> str:
    return Path(cgroup.paths[controller], name).read_text().strip()


def memberships(pid: int | str) -> dict[str, str]:
    found = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        found.update(dict.fromkeys(controllers.split(","), path))
    return found


# Placement, creation, membership


def test_there_is_a_directory_in_each_hierarchy(cgroup: LegacyCgroup) -> None:
    expected = {c for c in CONTROLLERS if not c.startswith("name=") or c == "name=systemd"}
    if HYBRID:
        expected.add("")
    assert set(cgroup.paths) == expected
    for directory in cgroup.paths.values():
        assert PREFIX in directory
        assert Path(directory, "cgroup.procs").exists()
    cgroup.create()  # what is there is used


def test_modes_and_owners_of_what_is_made() -> None:
    """Everybody may look into a cgroup and its new parents, nobody but root may change them, whatever the umask lets
    through."""
    nested = new("modes/a/b")
    before = os.umask(0)
    try:
        nested.create()
        for directory in map(Path, nested.paths.values()):
            for level in (directory, directory.parent, directory.parent.parent):
                found = level.stat()
                assert (oct(found.st_mode), found.st_uid, found.st_gid) == ("0o40755", 0, 0), level
    finally:
        os.umask(before)
        new("modes").delete()


def test_read_only_hierarchies(cgroup: LegacyCgroup) -> None:
    """In hierarchies that are mounted read-only, a cgroup that is there is used; none can be made."""
    with private_mounts():
        for hierarchy in host.cgroups().hierarchies:
            subprocess.run(["mount", "-o", "remount,bind,ro", hierarchy.mountpoint], check=True)
        cgroup.create()
        with pytest.raises(CgroupError) as caught:
            new().create()
        with pytest.raises(CgroupError):
            new("deep/er").create()
    assert caught.value.errno == errno.EROFS


def test_walks_leave_no_descriptor(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """What is below a cgroup is gone through without a descriptor left open, however much there is."""
    start(cgroup=cgroup)
    for name in ("a/b/c", "a/d", "e"):
        cgroup.below({"": name}).create()
    before = os.listdir("/proc/self/fd")
    assert len(cgroup.pids()) == 1
    for directory in cgroup.paths.values():
        assert len(fs.processes(directory)) == 1
        fs.thaw_all(directory)
        fs.signal_all(directory, 0)
    cgroup.kill(signal.SIGKILL)
    cgroup.delete()
    assert os.listdir("/proc/self/fd") == before


def test_a_relative_path_is_below_the_own_cgroup() -> None:
    own = memberships("self")
    placed = cgroups.select(None, f"ocipy-test-{os.getpid()}-relative")
    roots = {c: h.root.rstrip("/") for h in host.cgroups().hierarchies for c in h.controllers or ("",)}
    points = {c: h.mountpoint for h in host.cgroups().hierarchies for c in h.controllers or ("",)}
    for controller, path in placed.paths.items():
        inside = own[controller].removeprefix(roots[controller]).rstrip("/")
        assert path == f"{points[controller]}{inside}/ocipy-test-{os.getpid()}-relative"
    try:
        placed.create()
        assert placed.exists()
    finally:
        placed.delete()
    assert not placed.exists()


@needs("cpuset")
def test_cpusets_inherit_down_the_path() -> None:
    nested = new("nested/a/b")
    try:
        nested.create()
        root = next(h.mountpoint for h in host.cgroups().hierarchies if "cpuset" in h.controllers)
        for name in ("cpuset.cpus", "cpuset.mems"):
            wanted = Path(root, name).read_text().strip()
            directory = Path(nested.paths["cpuset"])
            for level in (directory, directory.parent, directory.parent.parent):
                assert (level / name).read_text().strip() == wanted
    finally:
        new("nested").delete()


@needs("cpuset")
def test_an_existing_cpuset_keeps_its_own(cgroup: LegacyCgroup) -> None:
    first = read(cgroup, "cpuset", "cpuset.cpus").replace("-", ",").split(",")[0]
    cgroup.apply({"cpu": {"cpus": first}}, update=True)
    cgroup.create()
    assert read(cgroup, "cpuset", "cpuset.cpus") == first


def test_a_process_enters_every_hierarchy(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    found = memberships(process.pid)
    for controller in cgroup.paths:
        assert found[controller].endswith(cgroup.paths[controller][cgroup.paths[controller].index(PREFIX) :])
    assert cgroup.pids() == [process.pid]
    with pytest.raises(CgroupError) as caught:
        cgroup.add(2**22 + 1)
    assert caught.value.errno == errno.ESRCH


def test_a_process_joins_by_itself(cgroup: LegacyCgroup) -> None:
    fd, files = cgroup.joining()
    assert len(files) == len({path for key, path in cgroup.paths.items() if key})
    if HYBRID:
        assert os.path.samestat(os.fstat(fd), os.stat(cgroup.paths[""]))
        assert not os.get_inheritable(fd)
        os.close(fd)
    else:
        assert fd == -1

    def join() -> list[str]:
        for file in files:
            Path(file).write_text("0")
        found = memberships("self")
        return [c for c in cgroup.paths if c and PREFIX not in found[c]]

    assert in_child(join) == "[]"
    assert cgroup.clone_fd() == -1, "a clone alone does not enter v1 hierarchies"
    if HYBRID:
        with pytest.raises(CgroupError):
            new().joining()


@pytest.mark.skipif(not HYBRID, reason="there is no cgroup2 beside v1")
def test_where_a_process_is_in_cgroup2(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:  # fmt: skip
    """Where exec goes if cgroup2 takes no more processes in the container's own cgroup: to init's, in cgroup2."""
    inner = LegacyCgroup({"": f"{cgroup.paths['']}/0::", "freezer": f"{cgroup.paths['freezer']}/frozen"})
    inner.create()
    init, other = start(cgroup=inner), start()
    found = UnifiedCgroup.of(init.pid)
    assert found.paths == {"": inner.paths[""]}
    before = memberships(other.pid)
    found.add(other.pid)
    assert memberships(other.pid) == before | {"": memberships(init.pid)[""]}
    with pytest.raises(CgroupError):
        UnifiedCgroup.of(2**22 + 1)


def test_a_sub_cgroup(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    child = cgroup.below({"": "sub"})
    child.create()
    process = start(cgroup=child)
    assert child.pids() == [process.pid]
    assert cgroup.pids() == [process.pid]


def test_without_permission_an_optional_cgroup_is_left_out() -> None:
    facts = host.cgroups()

    def attempt() -> object:
        os.setgid(65534)
        os.setuid(65534)
        required = cgroups.select(f"ocipy-test-{os.getppid()}-r", "id", facts, rootless=True)
        optional = cgroups.select(None, f"ocipy-test-{os.getppid()}-o", facts, rootless=True)
        try:
            required.create()
        except CgroupError as error:
            refused = (error.errno, error.config_path, "refuses it" in error.hint)
        optional.create()
        optional.add(os.getpid())
        optional.apply({"devices": [{"allow": False, "access": "rwm"}]})
        optional.delete()
        try:
            optional.apply({"memory": {"limit": 1 << 30}})
        except CgroupError as error:
            limits = str(error)
        return refused, optional.paths, optional.pids(), limits

    text = in_child(attempt)
    assert text.startswith(f"(({errno.EACCES}, '$.linux.cgroupsPath', True), {{}}, [], ")
    assert "$.linux.resources.memory.limit: cannot set memory limit: container could not join" in text


# Devices


def opened(cgroup: LegacyCgroup, *paths: str) -> dict[str, str]:
    """What a process in the cgroup gets from opening device nodes to read and to write."""

    def attempt() -> dict[str, str]:
        for file in cgroup.joining()[1]:
            Path(file).write_text("0")
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


@needs("devices")
def test_devices_are_denied_but_for_the_defaults(cgroup: LegacyCgroup) -> None:
    if opened(cgroup, KMSG)[KMSG] != "rw+":
        pytest.skip("this host's root may not use /dev/kmsg")
    cgroup.apply({})
    assert opened(cgroup, KMSG, FULL) == {KMSG: "", FULL: "rw+"}
    listed = device_rules.parse_list(read(cgroup, "devices", "devices.list"))
    assert not listed.allow
    assert set(listed.exceptions) == {always[:3] for always in device_rules.ALWAYS_ALLOWED}


@pytest.mark.spec("config-linux#allowed-device-list-1")
@needs("devices")
def test_device_rules_apply_in_order(cgroup: LegacyCgroup) -> None:
    if opened(cgroup, KMSG)[KMSG] != "rw+":
        pytest.skip("this host's root may not use /dev/kmsg")
    kmsg = {"type": "c", "major": 1, "minor": 11}
    cgroup.apply(
        {
            "devices": [
                {"allow": False, "access": "rwm"},
                {**kmsg, "allow": True, "access": "rw"},
                {**kmsg, "allow": False, "access": "w"},
            ]
        }
    )
    assert opened(cgroup, KMSG) == {KMSG: "r"}
    cgroup.apply({"memory": {}}, update=True)
    assert opened(cgroup, KMSG) == {KMSG: "r"}
    cgroup.apply({"devices": [{**kmsg, "allow": True, "access": "rw"}]}, update=True)
    assert opened(cgroup, KMSG) == {KMSG: "rw+"}
    cgroup.apply({"devices": [{"allow": True, "access": "rwm"}, {**kmsg, "allow": False, "access": "rw"}]},
                 update=True)  # fmt: skip
    assert opened(cgroup, KMSG, FULL) == {KMSG: "", FULL: "rw+"}
    cgroup.apply({"devices": []}, update=True)
    assert not device_rules.parse_list(read(cgroup, "devices", "devices.list")).allow


@pytest.mark.spec("config-linux#allowed-device-list-1")
@needs("devices")
@pytest.mark.parametrize("update", [False, True])
@pytest.mark.parametrize("wide", [{}, {"minor": None}, {"major": None}, {"major": None, "minor": None}])
def test_device_rules_add_up(cgroup: LegacyCgroup, wide: dict[str, None], update: bool) -> None:
    """Reading by one entry and writing by another is both at once; what denies one of them leaves the other."""
    if opened(cgroup, KMSG)[KMSG] != "rw+":
        pytest.skip("this host's root may not use /dev/kmsg")
    kmsg = {"type": "c", "major": 1, "minor": 11, "allow": True}
    other = {key: value for key, value in (kmsg | wide).items() if value is not None}
    if update:
        cgroup.apply({})
    for first, second in (kmsg, other), (other, kmsg):
        both = [{**first, "access": "r"}, {**second, "access": "w"}]
        cgroup.apply({"devices": both}, update=update)
        assert opened(cgroup, KMSG) == {KMSG: "rw+"}
        cgroup.apply({"devices": [*both, {**other, "allow": False, "access": "w"}]}, update=update)
        assert opened(cgroup, KMSG) == {KMSG: "r"}
        cgroup.apply({"devices": both}, update=True)
        assert opened(cgroup, KMSG) == {KMSG: "rw+"}


# Freezing, killing, watching, removing


@needs("freezer")
def test_freeze_and_thaw(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = start("sh", "-c", "while :; do /bin/true; done", cgroup=cgroup)
    assert not cgroup.frozen()
    cgroup.freeze(True)
    assert cgroup.frozen()
    assert read(cgroup, "freezer", "freezer.state") == "FROZEN"
    cgroup.freeze(True)
    process.terminate()
    assert process.poll() is None
    cgroup.freeze(False)
    assert not cgroup.frozen()
    process.wait()


@needs("freezer")
def test_a_frozen_parent_is_not_a_frozen_cgroup(cgroup: LegacyCgroup) -> None:
    child = cgroup.below({"": "child"})
    child.create()
    cgroup.freeze(True)
    assert not child.frozen()
    assert cgroup.frozen()
    cgroup.freeze(False)


def test_a_cgroup_that_is_gone() -> None:
    gone = new()
    assert not gone.exists()
    assert not gone.frozen()
    assert gone.pids() == []
    assert gone.oom_kills() == 0
    gone.kill(signal.SIGKILL)
    gone.delete()
    with pytest.raises(CgroupError):
        gone.freeze(True)
    if "memory" in gone.paths:
        with pytest.raises(CgroupError, match="can't watch"):
            gone.oom_watch()


FORKER = """
import os
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        pass
"""


@pytest.mark.parametrize("beside", [False, True])
def test_kill_gets_a_process_that_keeps_forking(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]], beside: bool
) -> None:
    if beside:
        # A process that is not in cgroup2 with the others, or without cgroup.kill.
        cgroup = LegacyCgroup({key: path for key, path in cgroup.paths.items() if key})
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", FORKER, cgroup=cgroup,
                    stdin=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()
    until(lambda: process.poll() is not None)
    until(lambda: cgroup.pids() != [])
    cgroup.kill(signal.SIGKILL)
    until(lambda: cgroup.pids() == [])


@needs("freezer")
def test_kill_thaws_but_other_signals_do_not(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    cgroup.freeze(True)
    cgroup.kill(signal.SIGCONT)
    assert cgroup.frozen()
    cgroup.kill(signal.SIGKILL)
    assert not cgroup.frozen()
    assert process.wait() == -signal.SIGKILL
    other = start(cgroup=cgroup)
    cgroup.kill(signal.SIGTERM)
    assert not cgroup.frozen()
    assert other.wait() == -signal.SIGTERM


@needs("memory")
def test_oom_is_watched(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    limits = {"limit": 32 << 20, "swap": 32 << 20}
    if not Path(cgroup.paths["memory"], "memory.memsw.limit_in_bytes").exists():
        del limits["swap"]
    cgroup.apply({"memory": limits})
    with cgroup.oom_watch() as watch:
        poller = select.poll()
        poller.register(watch.fileno(), watch.events)
        assert poller.poll(0) == []
        assert watch.check() == 0
        process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c",
                        HOG.format(size=256 << 20), cgroup=cgroup, stdin=subprocess.PIPE)  # fmt: skip
        assert process.stdin
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert poller.poll()
        assert process.wait() == -signal.SIGKILL
        assert watch.check() >= 1
        assert cgroup.oom_kills() >= 1
        assert watch.check() == 0
        cgroup.delete()
        assert poller.poll(), "the end of the cgroup is told too"
        assert watch.check() == 0


def test_stats(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    cgroup.apply({"pids": {"limit": 20}} if "pids" in CONTROLLERS else {})
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", HOG.format(size=16 << 20),
                    cgroup=cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    assert process.stdin
    assert process.stdout
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    data = cgroup.stats()
    assert set(data) == {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb"}
    if "pids" in CONTROLLERS:
        assert data["pids"] == {"current": 1, "limit": 20}
    if "cpuacct" in CONTROLLERS:
        usage = data["cpu"]["usage"]
        assert usage["total"] == int(read(cgroup, "cpuacct", "cpuacct.usage")) or usage["total"] > 0
        assert len(usage["percpu"]) == len(usage["percpu_user"]) == len(usage["percpu_kernel"])
        assert set(data["cpu"]["throttling"]) == {"periods", "throttledPeriods", "throttledTime"}
    if "memory" in CONTROLLERS:
        assert data["memory"]["usage"]["usage"] > 16 << 20
        assert data["memory"]["raw"]["rss"] > 16 << 20
        assert set(data["memory"]["swap"]) == {"limit", "usage", "max", "failcnt"}
    if "cpuset" in CONTROLLERS:
        assert data["cpuset"]["cpus"]
        assert data["cpuset"]["mems"]


def test_every_statistic(cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]) -> None:
    """All of what is told is what the files say, of a cgroup whose processes have ended."""
    process = start("sh", "-c", 'read go; exec "$@"', "sh", sys.executable, "-c", HOG.format(size=16 << 20),
                    cgroup=cgroup, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
    process.communicate(b"\ngo")

    def one(controller: str, name: str) -> int:
        path = Path(cgroup.paths.get(controller, "/nonexistent"), name)
        return int(path.read_text()) if path.exists() else 0

    def table(controller: str, name: str) -> dict[str, int]:
        path = Path(cgroup.paths.get(controller, "/nonexistent"), name)
        return {k: int(v) for k, v in map(str.split, path.read_text().splitlines())} if path.exists() else {}

    def put(controller: str, name: str, value: int) -> None:
        path = Path(cgroup.paths.get(controller, "/nonexistent"), name)
        if path.exists():
            with contextlib.suppress(OSError):  # cpus are exclusive only where they are to others
                path.write_text(str(value))

    # that no two files say the same
    for number, name in enumerate(("memory", "memory.memsw", "memory.kmem.tcp")):
        put("memory", f"{name}.limit_in_bytes", (64 + number) << 20)
    flags = ("cpu_exclusive", "mem_exclusive", "mem_hardwall", "memory_migrate", "memory_spread_page",
             "memory_spread_slab", "memory_pressure", "sched_load_balance", "sched_relax_domain_level")  # fmt: skip
    data = cgroup.stats()
    for flag in flags:
        was = data["cpuset"].get(flag, 0)
        put("cpuset", f"cpuset.{flag}", was + 1 if flag == "sched_relax_domain_level" else 1 - was)
        found = cgroup.stats()["cpuset"]
        assert set(found) == {"cpus", "mems", *flags}
        assert {name: found[name] for name in flags} == {name: one("cpuset", f"cpuset.{name}") for name in flags}
        put("cpuset", f"cpuset.{flag}", was)

    data = cgroup.stats()
    time, throttled = table("cpuacct", "cpuacct.stat"), table("cpu", "cpu.stat")
    usage = data["cpu"]["usage"]
    assert [usage["total"], usage["user"], usage["kernel"]] == [
        one("cpuacct", "cpuacct.usage"), time.get("user", 0) * 10**7, time.get("system", 0) * 10**7
    ]  # fmt: skip
    if "cpuacct" in CONTROLLERS:
        assert usage["percpu"] == [int(word) for word in read(cgroup, "cpuacct", "cpuacct.usage_percpu").split()]
        rows = [list(map(int, row.split())) for row in read(cgroup, "cpuacct", "cpuacct.usage_all").splitlines()[1:]]
        assert [usage["percpu_user"], usage["percpu_kernel"]] == [[row[1] for row in rows], [row[2] for row in rows]]
        assert sum(usage["percpu"]) == usage["total"] > 0
    assert data["cpu"]["throttling"] == {
        "periods": throttled.get("nr_periods", 0), "throttledPeriods": throttled.get("nr_throttled", 0),
        "throttledTime": throttled.get("throttled_time", 0),
    }  # fmt: skip
    names = {"usage": "memory", "swap": "memory.memsw", "kernel": "memory.kmem", "kernelTCP": "memory.kmem.tcp"}
    files = {"limit": "limit_in_bytes", "usage": "usage_in_bytes", "max": "max_usage_in_bytes", "failcnt": "failcnt"}
    for _ in range(300):  # the kernel takes back what has been freed some time after
        told, raw = cgroup.stats()["memory"], table("memory", "memory.stat")
        there = {"cache": raw.get("cache", 0), "raw": raw} | {
            key: {k: one("memory", f"{name}.{file}") for k, file in files.items()} for key, name in names.items()
        }
        if told == there:
            break
    assert told == there
    assert data["pids"] == {"current": 0, "limit": 0}


def test_delete_takes_what_is_below(cgroup: LegacyCgroup) -> None:
    cgroup.below({"": "a/b"}).create()
    cgroup.below({"": "c"}).create()
    deepen(next(iter(cgroup.paths.values())), 2500)
    assert cgroup.pids() == []
    cgroup.delete()
    assert not cgroup.exists()
    cgroup.delete()


def test_delete_waits_for_a_process_to_vanish(
    cgroup: LegacyCgroup, start: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = start(cgroup=cgroup)
    timer = threading.Timer(0.2, process.kill)
    timer.start()
    cgroup.delete()
    timer.join()
    assert not cgroup.exists()


def test_one_busy_hierarchy_does_not_keep_the_others(
    cgroup: LegacyCgroup,
    start: Callable[..., subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = start()
    busy = next(iter(cgroup.paths))
    base.join(cgroup.paths[busy], process.pid)
    monkeypatch.setattr(fs, "DELETE_SECONDS", 0.05)
    with pytest.raises(CgroupError, match=rf"can't remove cgroup .*still in it: \[{process.pid}\]") as caught:
        cgroup.delete()
    assert caught.value.errno == errno.EBUSY
    assert {path for path in cgroup.paths.values() if Path(path).exists()} == {cgroup.paths[busy]}
