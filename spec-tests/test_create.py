"""runtime.md#create and config.md#extensibility: what is in force before start, and what a config may have besides."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id, mounts, until

SLEEP = ("sleep", "1000")


@pytest.mark.spec("runtime#create-4", "runtime#lifecycle-1")
def test_all_but_the_program(cli: Cli, bundle: TestBundle) -> None:
    """runtime.md#create: when create returns, the namespaces, the names, the mounts, the read-only root, the masks,
    the devices and the kernel parameters are the container's; nothing of it waits for start."""
    config = bundle.config
    config["hostname"], config["domainname"] = "created", "created.example"
    config["root"]["readonly"] = True
    config["linux"]["devices"] = [{"path": "/dev/x", "type": "c", "major": 1, "minor": 5}]
    config["linux"]["maskedPaths"] = ["/etc/passwd"]
    config["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1"}
    name = cli.create(bundle.args(*SLEEP))
    pid = cli.state(name)["pid"]
    inside = Path(f"/proc/{pid}/root")
    for file in ("pid", "net", "mnt", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{file}") != os.readlink(f"/proc/self/ns/{file}"), file
    found = mounts(Path(f"/proc/{pid}/mountinfo").read_text())
    assert {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/etc/passwd", "/proc/sys"} <= set(found)
    assert "ro" in found["/"].options
    assert found["/etc/passwd"].root == "/null"
    assert os.stat(inside / "dev/x").st_rdev == os.makedev(1, 5)
    look = "hostname; cat /proc/sys/kernel/domainname /proc/sys/kernel/shm_rmid_forced"
    assert cli("exec", name, "sh", "-c", look).stdout.split() == ["created", "created.example", "1"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes() != b"sleep\x001000\x00"
    cli("delete", "--force", name)


@pytest.mark.spec("runtime#state-6")
def test_bundle_is_absolute_in_the_state(cli: Cli, bundle: TestBundle) -> None:
    """runtime.md#state: also where create was told a relative path, or none."""
    for words in ("--bundle", bundle.path.name), ():
        name = fresh_id()
        where = bundle.path.parent if words else bundle.path
        bundle.args(*SLEEP).save()
        null = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(cli.command("create", *words, name), cwd=where, check=True, timeout=60, **null)
        assert cli.state(name)["bundle"] == str(bundle.path)
        cli("delete", name)


@pytest.mark.spec("config#process-2")
@pytest.mark.parametrize("terminal", [False, None])
def test_console_size_without_terminal(cli: Cli, bundle: TestBundle, terminal: bool | None) -> None:
    """config.md#process: consoleSize means nothing then, however large: no terminal, no error."""
    bundle.config["process"]["consoleSize"] = {"height": 1 << 40, "width": 7}
    if terminal is not None:
        bundle.config["process"]["terminal"] = terminal
    done = cli.run(bundle.sh("test -t 0 || test -t 1 || echo none"))
    assert (done.stdout, done.stderr) == ("none\n", "")


def _objects(value: Any) -> list[dict[str, Any]]:
    """Every object in a config whose properties the specification lists."""
    found: list[dict[str, Any]] = []
    if isinstance(value, dict):
        found.append(value)
        for name, inner in value.items():
            if name not in ("annotations", "sysctl", "unified"):
                found += _objects(inner)
    if isinstance(value, list):
        for inner in value:
            found += _objects(inner)
    return found


@pytest.mark.spec("config#extensibility-1", "config#annotations-8")
def test_unknown_properties(cli: Cli, bundle: TestBundle) -> None:
    """config.md#extensibility: a property that is unknown changes nothing and is no error, in any object."""
    bundle.config["annotations"] = {"org.unknown.example": "x"}
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    bundle.config["linux"]["resources"] = {"pids": {"limit": 100}, "devices": [{"allow": True, "access": "rwm"}]}
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
    bundle.sh("hostname; cat /proc/self/mountinfo | wc -l; grep -c . /proc/self/limits; id")
    plain = cli.run(bundle)
    objects = _objects(bundle.config)
    assert len(objects) > 20
    for shift in range(4):  # each object has each of them once
        for number, entry in enumerate(objects):
            entry["x-unknown"] = ["a string", 5, None, {"path": 1}][(number + shift) % 4]
        known = cli.run(bundle)
        assert (known.stdout, known.stderr) == (plain.stdout, plain.stderr)


@pytest.mark.spec("config-linux#cgroups-path-3")
@pytest.mark.parametrize("absolute", [True, False])
def test_same_cgroup_again(cli: Cli, bundle: TestBundle, absolute: bool) -> None:
    """config-linux.md#cgroups-path: a second container with the value of a first one is in the same place."""
    bundle.config["linux"]["cgroupsPath"] = ("/" if absolute else "") + fresh_id()
    places = []
    for _ in range(2):
        name = cli.start(bundle.args(*SLEEP))
        places.append(Path(f"/proc/{cli.state(name)['pid']}/cgroup").read_text())
        cli("delete", "--force", name)
    assert bundle.config["linux"]["cgroupsPath"] in places[0]
    assert places[0] == places[1]


@pytest.mark.spec("config-linux#user-namespace-mappings-4")
def test_owners_are_left(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """config-linux.md#user-namespace-mappings: files of the root file system and of a bound directory keep their
    owners, though the container's ids are others."""
    bundle = make_bundle()
    for path in (bundle.path, *bundle.path.parents):  # the container's root has to get there
        if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o77 == 0:
            path.chmod(0o711)
    data = bundle.path / "data"
    (data / "of-root").mkdir(parents=True)
    os.chown(data, 100007, 3)
    os.chown(bundle.rootfs / "home/user", 5, 6)
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.config["mounts"].append({"destination": "/home", "source": str(data), "options": ["rbind"]})
    before = {path: path.lstat() for path in bundle.path.rglob("*")}
    name = cli.start(bundle.args(*SLEEP))
    until(lambda: Path(f"/proc/{cli.state(name)['pid']}/cmdline").read_bytes() == b"sleep\x001000\x00")
    cli("delete", "--force", name)
    for path, old in before.items():
        assert (path.lstat().st_uid, path.lstat().st_gid) == (old.st_uid, old.st_gid), path
