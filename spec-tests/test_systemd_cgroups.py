"""--systemd-cgroup under a real systemd: the container is a transient scope (`make test-systemd`).

What is refused without systemd, or without its answer, is in test_systemd_bus.py.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_cgroup_ownership
import test_devices as test_devices_of_all
from conftest import OCIPY, Cli, TestBundle, fresh_id, nothing_left, until
from test_killed_create import duration, killed
from unprivileged import (
    NAME,
    UID,
    User,
    box_fixture,  # noqa: F401
    id_map,
    map_ids,
    user_fixture,  # noqa: F401
)

from ocipy import host

TOP = Path(host.cgroups().hierarchies[0].mountpoint)
if not Path("/run/systemd/system").is_dir():
    pytest.skip("/run/systemd/system does not exist: systemd is not the init", allow_module_level=True)
if host.cgroups().mode != "v2":
    pytest.skip(f"the cgroups are {host.cgroups().mode}: these tests read v2's", allow_module_level=True)


class Scoped(Cli):
    """The command with --systemd-cgroup (which only create, run and explain look at)."""

    def command(self, *words: str) -> list[str]:
        return [OCIPY, "--systemd-cgroup", "--root", str(self.root), *words]


@pytest.fixture
def scoped(cli: Cli) -> Iterator[Scoped]:
    """The command under test; what is left is deleted without the flag, and no unit of a container stays."""
    yield Scoped(cli.root)
    names = [path.name for path in cli.root.iterdir()] if cli.root.exists() else []
    for name in names:
        cli("delete", "--force", name)
    assert units_left() == []


def systemctl(*words: str) -> str:
    return subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False, timeout=60).stdout


def units_left() -> list[str]:
    """Units of containers that systemd knows, failed ones included."""
    units = systemctl("list-units", "--all", "--plain", "--no-legend").splitlines()
    return [line for line in units if "ocipytest" in line]


def show(unit: str, *names: str) -> dict[str, str]:
    lines = systemctl("show", unit, *(f"--property={name}" for name in names)).splitlines()
    return dict(line.split("=", 1) for line in lines)


def scope_of(bundle: TestBundle, group: str = "system.slice") -> tuple[str, Path]:
    """Give a bundle a scope of its own; its name and its cgroup's directory."""
    prefix = fresh_id()
    bundle.config["linux"]["cgroupsPath"] = f"{group}:{prefix}:box"
    return f"{prefix}-box.scope", TOP / group / f"{prefix}-box.scope"


# --- the unit ---


def test_scope(scoped: Scoped, bundle: TestBundle) -> None:
    """create makes the scope around the init process; systemctl status shows it; delete stops it."""
    name, directory = scope_of(bundle)
    bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    bundle.config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]})
    script = "cat /proc/self/cgroup > /where; cat /sys/fs/cgroup/cgroup.procs > /inside; sleep 60"
    box = scoped.create(bundle.sh(script))
    state = scoped.state(box)
    assert (directory / "cgroup.procs").read_text().split() == [str(state["pid"])]
    status = systemctl("status", "--no-pager", name)
    assert f"{name} - ocipy container {box}" in status
    assert "Active: active (running)" in status
    assert str(state["pid"]) in status
    assert show(name, "Slice", "Delegate", "DefaultDependencies", "Transient", "CPUAccounting") == {
        "Slice": "system.slice", "Delegate": "yes", "DefaultDependencies": "no", "Transient": "yes",
        "CPUAccounting": "yes",
    }  # fmt: skip
    scoped("start", box)
    until(lambda: (bundle.rootfs / "inside").exists() and (bundle.rootfs / "inside").read_text())
    assert (bundle.rootfs / "where").read_text() == "0::/\n"  # a cgroup namespace is rooted in the scope
    process = subprocess.Popen(
        scoped.command("exec", box, "sleep", "50"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    until(lambda: "sleep 50" in systemctl("status", "--no-pager", name))
    scoped("kill", box, "KILL")
    scoped.wait_for(box, "stopped")
    process.wait(30)
    scoped("delete", box)
    assert not directory.exists()
    assert show(name, "LoadState")["LoadState"] == "not-found"


def test_default_name(scoped: Scoped, bundle: TestBundle) -> None:
    """Without cgroupsPath: ocipy-ID.scope in system.slice; run in the foreground leaves nothing of it."""
    done = scoped.run(bundle.sh("cat /proc/self/cgroup"))
    assert re.fullmatch(r"0::/system.slice/ocipy-ocipytest-\d+-\d+.scope\n", done.stdout)
    assert units_left() == []


def test_slices(scoped: Scoped, bundle: TestBundle) -> None:
    """A dash in a slice's name is a step down (systemd.slice(5)); the root slice is the top."""
    outer = f"ocipytest{os.getpid()}"
    group = f"{outer}-in.slice"
    bundle.config["linux"]["cgroupsPath"] = f"{group}:pre:box"
    done = scoped.run(bundle.sh("cat /proc/self/cgroup"))
    assert done.stdout == f"0::/{outer}.slice/{group}/pre-box.scope\n"
    subprocess.run(["systemctl", "stop", group, f"{outer}.slice"], check=True, timeout=60)
    bundle.config["linux"]["cgroupsPath"] = "-.slice:pre:box"
    assert scoped.run(bundle).stdout == "0::/pre-box.scope\n"


def test_slice_as_unit(scoped: Scoped, bundle: TestBundle) -> None:
    """A name that ends with .slice is the unit, a slice."""
    name = f"ocipytest{os.getpid()}.slice"
    bundle.config["linux"]["cgroupsPath"] = f"system.slice:any:{name}"
    bundle.config["linux"]["resources"] = {"pids": {"limit": 30}}
    box = scoped.start(bundle.args("sleep", "60"))
    assert (TOP / name / "cgroup.procs").read_text().split() == [str(scoped.state(box)["pid"])]
    assert show(name, "TasksMax", "ActiveState") == {"TasksMax": "30", "ActiveState": "active"}
    scoped("delete", "--force", box)
    assert not (TOP / name).exists()


def test_explain(scoped: Scoped, bundle: TestBundle) -> None:
    """explain says where the cgroup will be, and makes nothing."""
    name, directory = scope_of(bundle)
    assert f"make {directory} " in scoped("explain", str(bundle.save())).stdout
    assert show(name, "LoadState")["LoadState"] == "not-found"


@pytest.mark.parametrize("kinds", [["user"], ["user", "cgroup"]])
def test_user_namespace(scoped: Scoped, bundle: TestBundle, kinds: list[str]) -> None:
    """In a user namespace the scope is made before the host's side is left."""
    name, directory = scope_of(bundle)
    linux = bundle.config["linux"]
    linux["namespaces"] += [{"type": kind} for kind in kinds]
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    linux["resources"] = {"pids": {"limit": 40}}
    box = scoped.start(bundle.args("sleep", "60"))
    assert (directory / "cgroup.procs").read_text().split() == [str(scoped.state(box)["pid"])]
    assert show(name, "TasksMax")["TasksMax"] == "40"
    scoped("delete", "--force", box)


def test_owner(scoped: Scoped, bundle: TestBundle) -> None:
    """config-linux.md#cgroup-ownership: the scope's cgroup is given to the container's root too."""
    test_cgroup_ownership.test_owner(scoped, bundle, 0, True, test_cgroup_ownership.ROOT)


# --- limits ---

LIMITS = {
    "memory": {"limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20},
    "cpu": {"shares": 512, "quota": 33333, "period": 100000},
    "pids": {"limit": 50},
    "unified": {"memory.high": str(48 << 20)},
}
FILES = {
    "memory.max": str(64 << 20), "memory.low": str(32 << 20), "memory.high": str(48 << 20), "cpu.weight": "59",
    "cpu.max": "34000 100000", "pids.max": "50",
}  # fmt: skip


def files(directory: Path, names: dict[str, str]) -> dict[str, str]:
    return {name: (directory / name).read_text().strip() for name in names}


def test_limits(scoped: Scoped, bundle: TestBundle) -> None:
    """Limits are systemd's properties and in the cgroup's files; systemd's reload leaves the files as they are."""
    name, directory = scope_of(bundle)
    bundle.config["linux"]["resources"] = LIMITS
    box = scoped.start(bundle.args("sleep", "60"))
    expected = {
        "MemoryMax": str(64 << 20), "MemoryLow": str(32 << 20), "MemoryHigh": str(48 << 20), "CPUWeight": "59",
        "CPUQuotaPerSecUSec": "340ms", "TasksMax": "50",
    }  # fmt: skip
    if (directory / "memory.swap.max").exists():
        assert show(name, "MemorySwapMax")["MemorySwapMax"] == str(32 << 20)
    assert show(name, *expected) == expected
    assert files(directory, FILES) == FILES
    systemctl("daemon-reload")
    assert show(name, *expected) == expected
    assert files(directory, FILES) == FILES
    scoped("update", "--memory", "80m", "--pids-limit", "-1", "--cpu-quota", "-1", box)
    expected |= {"MemoryMax": str(80 << 20), "TasksMax": "infinity", "CPUQuotaPerSecUSec": "infinity"}
    assert show(name, *expected) == expected
    changed = FILES | {"memory.max": str(80 << 20), "pids.max": "max", "cpu.max": "max 100000"}
    assert files(directory, FILES) == changed
    systemctl("daemon-reload")
    assert files(directory, FILES) == changed
    if (directory / "memory.swap.max").exists():  # the limit of the config is for both together
        assert show(name, "MemorySwapMax")["MemorySwapMax"] == str(16 << 20)
        assert (directory / "memory.swap.max").read_text() == f"{16 << 20}\n"
    done = scoped("update", "--memory", "128m", box, code=1)
    assert "memory+swap limit should be >= memory limit" in done.stderr
    assert show(name, *expected) == expected
    assert files(directory, FILES) == changed
    scoped("update", "--memory", "-1", box)
    assert show(name, "MemoryMax", "MemorySwapMax") == {"MemoryMax": "infinity", "MemorySwapMax": "infinity"}
    scoped("delete", "--force", box)


def test_cpus(scoped: Scoped, bundle: TestBundle) -> None:
    """AllowedCPUs and AllowedMemoryNodes."""
    if "cpuset" not in (TOP / "cgroup.controllers").read_text().split():
        pytest.skip(f"{TOP}/cgroup.controllers has no cpuset")
    name, directory = scope_of(bundle)
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "0", "mems": "0"}}
    box = scoped.start(bundle.args("sleep", "60"))
    assert show(name, "AllowedCPUs", "AllowedMemoryNodes") == {"AllowedCPUs": "0", "AllowedMemoryNodes": "0"}
    assert (directory / "cpuset.cpus").read_text() == "0\n"
    scoped("delete", "--force", box)


def test_refused_limit(scoped: Scoped, bundle: TestBundle, tmp_path: Path) -> None:
    """What the kernel refuses is an error with its config path, and the scope is gone."""
    scope_of(bundle)
    bundle.config["linux"]["resources"] = {"unified": {"pids.max": "many"}}
    done = scoped("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    assert '$.linux.resources.unified["pids.max"]' in done.stderr
    assert nothing_left(tmp_path) == []
    assert units_left() == []
    # an update that fails leaves systemd's side as it was
    name, _ = scope_of(bundle)
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    box = scoped.start(bundle.args("sleep", "60"))
    wrong = json.dumps({"pids": {"limit": 60}, "cpu": {"quota": 1, "period": 1}})
    scoped("update", "--resources", "-", box, input=wrong, code=1)
    assert show(name, "TasksMax")["TasksMax"] == "50"
    scoped("delete", "--force", box)


DEVICES = [
    {"allow": False, "access": "rwm"},
    {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"},
]
TRY = "for d in null kmsg; do (: < /dev/$d) 2>/dev/null && echo $d; done; (: > /dev/kmsg) 2>/dev/null && echo written"


def with_devices(bundle: TestBundle, rules: list[dict[str, object]]) -> None:
    bundle.config["linux"]["resources"] = {"devices": rules}
    node = {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}
    bundle.config["linux"]["devices"] = [node]
    bundle.config["process"]["capabilities"]["bounding"].append("CAP_SYSLOG")
    for kind in ("effective", "permitted"):
        bundle.config["process"]["capabilities"][kind].append("CAP_SYSLOG")


def test_devices(scoped: Scoped, bundle: TestBundle) -> None:
    """Device rules are systemd's strict policy, and hold through its reload and through an update."""
    name, _ = scope_of(bundle)
    with_devices(bundle, DEVICES)
    box = scoped.start(bundle.args("sleep", "60"))
    found = show(name, "DevicePolicy", "DeviceAllow")
    assert found["DevicePolicy"] == "strict"
    assert "/dev/char/1:11 rm" in systemctl("show", name, "--property=DeviceAllow")
    assert scoped("exec", box, "sh", "-c", TRY, code=None).stdout.split() == ["null", "kmsg"]
    systemctl("daemon-reload")
    assert scoped("exec", box, "sh", "-c", TRY, code=None).stdout.split() == ["null", "kmsg"]
    scoped("update", "--resources", "-", box, input=json.dumps({"devices": DEVICES[:1]}))
    assert scoped("exec", box, "sh", "-c", TRY, code=None).stdout.split() == ["null"]
    scoped("update", "--resources", "-", box, input=json.dumps({"devices": [{"allow": True, "access": "rwm"}]}))
    assert show(name, "DevicePolicy") == {"DevicePolicy": "auto"}
    assert scoped("exec", box, "sh", "-c", TRY, code=None).stdout.split() == ["null", "kmsg", "written"]
    scoped("delete", "--force", box)


def test_devices_that_systemd_cannot_say(scoped: Scoped, bundle: TestBundle) -> None:
    """Exceptions from "all are allowed" hold all the same, through systemd's reload too."""
    name, _ = scope_of(bundle)
    with_devices(bundle, [{"allow": True, "access": "rwm"}, {**DEVICES[1], "allow": False, "access": "w"}])
    box = scoped.start(bundle.args("sleep", "60"))
    assert show(name, "DevicePolicy") == {"DevicePolicy": "auto"}
    for _ in range(2):
        assert scoped("exec", box, "sh", "-c", TRY, code=None).stdout.split() == ["null", "kmsg"]
        systemctl("daemon-reload")
    scoped("delete", "--force", box)


def test_disk(scoped: Scoped, bundle: TestBundle, tmp_path: Path) -> None:
    """A disk is mounted after the scope was made, for a cgroup mount before it: the device rules come later still."""
    bundle.config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]})
    test_devices_of_all.test_disk_that_may_not_be_opened(scoped, bundle, tmp_path)


def test_pause(scoped: Scoped, bundle: TestBundle) -> None:
    """pause and resume go by cgroup.freeze, as in runc; a paused container can be deleted."""
    _, directory = scope_of(bundle)
    box = scoped.start(bundle.args("sleep", "60"))
    scoped("pause", box)
    assert scoped.state(box)["status"] == "paused"
    assert "frozen 1" in (directory / "cgroup.events").read_text()
    scoped("resume", box)
    assert scoped.state(box)["status"] == "running"
    scoped("pause", box)
    scoped("delete", "--force", box)
    assert not directory.exists()


def test_stats(scoped: Scoped, bundle: TestBundle) -> None:
    """events --stats and ps read the scope."""
    scope_of(bundle)
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    box = scoped.start(bundle.args("sleep", "60"))
    data = json.loads(scoped("events", "--stats", box).stdout)["data"]
    assert data["pids"] == {"current": 1, "limit": 50}
    assert json.loads(scoped("ps", "--format", "json", box).stdout) == [scoped.state(box)["pid"]]
    scoped("delete", "--force", box)


# --- annotations ---


def annotate(bundle: TestBundle, name: str, text: str) -> None:
    bundle.config.setdefault("annotations", {})[f"org.systemd.property.{name}"] = text


def test_annotations(scoped: Scoped, bundle: TestBundle) -> None:
    """org.systemd.property.NAME sets a property of the unit; linux.resources come after it."""
    name, _ = scope_of(bundle)
    annotate(bundle, "CollectMode", "'inactive-or-failed'")
    annotate(bundle, "TimeoutStopSec", "7")
    annotate(bundle, "After", "['basic.target']")
    annotate(bundle, "TasksMax", "uint64 33")
    annotate(bundle, "MemoryHigh", "uint64 50003968")
    bundle.config["linux"]["resources"] = {"pids": {"limit": 44}}
    box = scoped.create(bundle.args("sleep", "60"))
    found = show(name, "CollectMode", "TimeoutStopUSec", "After", "TasksMax", "MemoryHigh")
    assert "basic.target" in found.pop("After").split()
    assert found == {
        "CollectMode": "inactive-or-failed", "TimeoutStopUSec": "7s", "TasksMax": "44", "MemoryHigh": "50003968"
    }  # fmt: skip
    scoped("delete", box)


@pytest.mark.parametrize(
    ("name", "text"),
    [("NoSuchThing", "true"), ("CollectMode", "'sometimes'"), ("TasksMax", "'many'"), ("ExecStart", "'x'")],
)
def test_refused_annotation(scoped: Scoped, bundle: TestBundle, tmp_path: Path, name: str, text: str) -> None:
    """A property that systemd refuses is an error with systemd's words, and nothing is left."""
    scope_of(bundle)
    annotate(bundle, name, text)
    done = scoped("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    assert "systemd refused org.freedesktop.systemd1.Manager.StartTransientUnit" in done.stderr
    assert f'$.annotations["org.systemd.property.{name}"]: systemd refused' in done.stderr
    assert nothing_left(tmp_path) == []
    assert units_left() == []


# --- conflicts, failures, crashes ---


def test_name_in_use(scoped: Scoped, bundle: TestBundle, tmp_path: Path) -> None:
    """A unit of that name that runs is left alone, wherever it is; one that failed makes room."""
    prefix = f"inuse{os.getpid()}"  # not what nothing_left takes for a container's
    name = f"{prefix}-box.scope"
    bundle.config["linux"]["cgroupsPath"] = f"system.slice:{prefix}:box"
    words = ["systemd-run", "--scope", f"--unit={name}", f"--slice={prefix}.slice", "sleep", "60"]
    other = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    try:
        until(lambda: show(name, "ActiveState")["ActiveState"] == "active")
        done = scoped("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
        assert f"systemd has a unit {name} already" in done.stderr
        assert "$.linux.cgroupsPath" in done.stderr
        assert nothing_left(tmp_path) == []
        assert show(name, "ActiveState")["ActiveState"] == "active"
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    until(lambda: show(name, "LoadState")["LoadState"] == "not-found")
    subprocess.run(["systemctl", "stop", f"{prefix}.slice"], check=True, timeout=60)
    words = ["systemd-run", "--scope", f"--unit={name}", "--property=RuntimeMaxSec=1", "sleep", "60"]
    subprocess.run(words, check=False, stderr=subprocess.DEVNULL, timeout=60)
    until(lambda: show(name, "ActiveState")["ActiveState"] == "failed")
    box = scoped.create(bundle)
    assert show(name, "ActiveState")["ActiveState"] == "active"
    scoped("delete", box)
    assert show(name, "LoadState")["LoadState"] == "not-found"


def test_failed_scope(scoped: Scoped, bundle: TestBundle) -> None:
    """A scope that failed (its time was up) is forgotten by delete."""
    name, _ = scope_of(bundle)
    annotate(bundle, "RuntimeMaxSec", "1")
    annotate(bundle, "TimeoutStopSec", "1")  # SIGTERM means nothing to the init of a pid namespace
    box = scoped.start(bundle.args("sleep", "60"))
    scoped.wait_for(box, "stopped")
    until(lambda: show(name, "ActiveState")["ActiveState"] == "failed")
    scoped("delete", box)
    assert show(name, "LoadState")["LoadState"] == "not-found"


def test_failed_create(scoped: Scoped, bundle: TestBundle, tmp_path: Path) -> None:
    """A hook that fails, after the scope was made, ends it."""
    name, directory = scope_of(bundle)
    mark = tmp_path / "mark"
    script = f"test -d {directory} && touch {mark}; exit 3"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    scoped("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    assert mark.exists()
    assert nothing_left(tmp_path) == []
    assert show(name, "LoadState")["LoadState"] == "not-found"


def test_killed_create(scoped: Scoped, cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """create killed at random instants: `delete --force`, without the flag, removes the unit too."""
    name, directory = scope_of(bundle)
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    bundle.args("sleep", "60").save()
    box = fresh_id()
    create = scoped.command("create", "--bundle", str(bundle.path), box)
    whole = duration(scoped, create)
    cli("delete", "--force", box)
    seed = random.randrange(1 << 30)
    instants = random.Random(seed)
    for number in range(int(os.environ.get("OCIPY_STORM", "12"))):
        delay = instants.uniform(0, whole * 1.1)
        killed(create, delay)
        cli("delete", "--force", box)
        where = f"kill {number} after {delay:.4f} s (seed {seed})"
        assert nothing_left(tmp_path) == [], where
        assert show(name, "LoadState")["LoadState"] == "not-found", where
        assert not directory.exists(), where
    duration(scoped, create)
    cli("delete", "--force", box)


# --- a user's systemd ---


@pytest.fixture
def session(user: User) -> Iterator[User]:
    """The user with a systemd of its own; the guest gets to know of it."""
    assert "GUEST_KERNEL" in os.environ, "not on a real machine"
    if subprocess.run(["id", str(UID)], capture_output=True, check=False).returncode:
        subprocess.run(["useradd", f"--uid={UID}", "--user-group", NAME], check=True, timeout=60)
    # logind, which comes with the user's manager, comes after the cleaning of /tmp at boot, and this is where we are
    subprocess.run(["systemctl", "mask", "--runtime", "systemd-tmpfiles-setup.service"], check=True, timeout=60)
    done = subprocess.run(["systemctl", "start", f"user@{UID}.service"], capture_output=True, check=False, timeout=60)
    if done.returncode or not Path(f"/run/user/{UID}/bus").exists():
        pytest.skip(f"no user@{UID}.service, or no bus of it: {done.stderr.decode()}")
    user.environment = f"export DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/{UID}/bus"
    yield user
    subprocess.run(["systemctl", "stop", f"user@{UID}.service"], check=True, timeout=60)


@pytest.mark.parametrize("wrap", ["", "unshare -Ur"], ids=["plain", "userns"])
def test_user(session: User, box: TestBundle, wrap: str) -> None:
    """Not root, or root of a user namespace only: the user's systemd, in user.slice below its own cgroup. exec comes
    from outside of that, and so needs systemd's help to get in; later commands know the bus from the record."""
    session.wrap = wrap
    if wrap:
        map_ids(box, id_map((0, 0, 1)), id_map((0, 0, 1)))
    box.config["linux"]["resources"] = {"pids": {"limit": 20}}
    name = fresh_id()
    box.args("sleep", "1000").save()
    session.detach("--systemd-cgroup", "run", "--detach", "--bundle", str(box.path), name)
    session.environment = ""
    parent = TOP / f"user.slice/user-{UID}.slice/user@{UID}.service/user.slice"
    directory = parent / f"ocipy-{name}.scope"
    assert (directory / "cgroup.procs").read_text().split() == [str(session.state(name)["pid"])]
    session("update", "--pids-limit", "25", name)
    assert (directory / "pids.max").read_text() == "25\n"
    if not wrap:  # each command in a user namespace of its own could not join the container's
        session.detach("exec", "--detach", name, "sleep", "1001")
        assert len((directory / "cgroup.procs").read_text().split()) == 2
    session("delete", "--force", name)
    assert not directory.exists()


def test_refused_user(user: User, box: TestBundle) -> None:
    """A systemd that makes no unit for the caller has none to stop either: nothing is left that can't be deleted."""
    user.environment = "export DBUS_SESSION_BUS_ADDRESS=unix:path=/run/dbus/system_bus_socket"
    box.args("true").save()
    done = user("--systemd-cgroup", "run", "--bundle", str(box.path), fresh_id(), code=1)
    assert "systemd refused org.freedesktop.systemd1.Manager.StartTransientUnit" in done.stderr.splitlines()[-1]
    assert "left" not in done.stderr
    assert list(user.root.iterdir()) == []
