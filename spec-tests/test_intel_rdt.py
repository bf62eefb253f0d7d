"""config-linux.md#intelrdt: the container's class of service and monitoring group in resctrl.

Hardware with resctrl is rare: but for one test, the file system is the stand-in of ``resctrl_fs.py``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cgroup_tools import private_mounts
from conftest import HERE, Cli, TestBundle, end, fresh_id, until

from ocipy import Container, Error
from ocipy.cgroups import resctrl_groups
from ocipy.container.prepare import CreateOptions
from ocipy.errors import ConfigError, Unsupported

WHERE = "$.linux.intelRdt"
fuse = pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE (/dev/fuse)")


@pytest.fixture(scope="module")
def mount_namespace() -> Iterator[None]:
    """Mounts of these tests are seen by nobody else, and are gone with the last process."""
    with private_mounts():
        yield


class Resctrl:
    """The mounted file system, with a journal of what was done to it."""

    def __init__(self, path: Path) -> None:
        self.path = path / "resctrl"
        self.path.mkdir()
        self._journal = path / "resctrl-journal"
        self._seen = 0

    def journal(self) -> list[str]:
        """What was done since the last call."""
        lines = self._journal.read_text().splitlines() if self._journal.exists() else []
        new, self._seen = lines[self._seen :], len(lines)
        return new

    def groups(self) -> set[str]:
        """The classes and monitoring groups there are."""
        found = {p.name for p in self.path.iterdir() if (p / "tasks").exists()}
        return found | {str(p.relative_to(self.path)) for p in self.path.glob("**/mon_groups/*")}

    def tasks(self, group: str) -> list[int]:
        return [int(line) for line in (self.path / group / "tasks").read_text().split()]

    def schema(self, group: str, resource: str) -> str:
        lines = (self.path / group / "schemata").read_text().splitlines()
        return next(line.strip() for line in lines if line.strip().startswith(resource))

    def make(self, group: str, *lines: str) -> None:
        """Make a class, as an administrator does."""
        (self.path / group).mkdir()
        for line in lines:
            with open(self.path / group / "schemata", "w") as file:
                file.write(line + "\n")
        self.journal()


@pytest.fixture
def resctrl(tmp_path: Path, mount_namespace: None) -> Iterator[Resctrl]:
    found = Resctrl(tmp_path)
    server = subprocess.Popen([sys.executable, HERE / "resctrl_fs.py", found.path, found._journal])
    until(lambda: (found.path / "tasks").exists() or server.poll() is not None)
    yield found
    subprocess.run(["umount", "--lazy", found.path], check=True)
    server.wait(20)


Create = Callable[[dict[str, Any]], Container]


@pytest.fixture
def create(cli: Cli, bundle: TestBundle, resctrl: Resctrl) -> Create:
    """Create a container with this ``linux.intelRdt``."""

    def make(rdt: dict[str, Any]) -> Container:
        bundle.config["linux"]["intelRdt"] = rdt
        bundle.args("sleep", "1000")
        options = CreateOptions(resctrl=str(resctrl.path))
        return Container.create(fresh_id(), str(bundle.save()), root=str(cli.root), options=options)

    return make


def pid(container: Container) -> int:
    assert container.init is not None
    return container.init.pid


# --- closID ---


@pytest.mark.spec(
    "config-linux#intelrdt-1", "config-linux#intelrdt-11", "config-linux#intelrdt-12", "config-linux#intelrdt-16"
)
@fuse
def test_no_clos_id(create: Create, resctrl: Resctrl) -> None:
    """Without closID, a class named by the container's id; it goes with the container. No schema, none written."""
    container = create({})
    name = container.id
    assert resctrl.journal() == [f"mkdir {name}", f"write {name}/tasks {pid(container)}"]
    assert resctrl.tasks(name) == [pid(container)]
    container.delete(force=True)
    assert resctrl.journal() == [f"rmdir {name}"]


@pytest.mark.spec("config-linux#intelrdt-3")
@fuse
def test_no_intel_rdt(cli: Cli, bundle: TestBundle, resctrl: Resctrl) -> None:
    """Without ``linux.intelRdt`` nothing in resctrl is touched."""
    options = CreateOptions(resctrl=str(resctrl.path))
    Container.create(fresh_id(), str(bundle.save()), root=str(cli.root), options=options).delete(force=True)
    assert resctrl.journal() == []


@pytest.mark.spec("config-linux#intelrdt-17")
@fuse
def test_a_class_with_the_containers_name_that_is_not_its_own(create: Create, resctrl: Resctrl, bundle: TestBundle,
                                                              cli: Cli) -> None:  # fmt: skip
    """One that the runtime has not created, it does not remove."""
    name = fresh_id()
    resctrl.make(name)
    bundle.config["linux"]["intelRdt"] = {}
    options = CreateOptions(resctrl=str(resctrl.path))
    with Container.create(name, str(bundle.save()), root=str(cli.root), options=options) as container:
        assert resctrl.journal() == [f"write {name}/tasks {pid(container)}"]
    assert resctrl.groups() == {name}


@pytest.mark.spec("config-linux#intelrdt-11", "config-linux#intelrdt-15", "config-linux#intelrdt-17")
@fuse
def test_an_existing_class(create: Create, resctrl: Resctrl) -> None:
    """closID without schemata: that class must exist; it is joined, not written to, and stays."""
    resctrl.make("gold")
    with create({"closID": "gold"}) as container:
        assert resctrl.journal() == [f"write gold/tasks {pid(container)}"]
    assert resctrl.groups() == {"gold"}


@pytest.mark.spec("config-linux#intelrdt-4")
@fuse
def test_the_default_class(create: Create, resctrl: Resctrl) -> None:
    """closID ``/``."""
    with create({"closID": "/"}) as container:
        assert resctrl.tasks("") == [pid(container)]
    assert resctrl.journal() == [f"write ./tasks {pid(container)}"]


@pytest.mark.spec("config-linux#intelrdt-8", "config-linux#intelrdt-13", "config-linux#intelrdt-17")
@fuse
def test_a_class_is_made_for_its_schema(create: Create, resctrl: Resctrl) -> None:
    """closID with a schema: made if it is not there, and not removed with the container; the next one finds it as it
    wants it, though the kernel writes it otherwise."""
    rdt = {"closID": "gold", "l3CacheSchema": "L3:0=0f0;1=3", "memBwSchema": "MB:0=25"}
    for _ in range(2):
        create(rdt).delete(force=True)
    assert resctrl.journal()[:3] == ["mkdir gold", "write gold/schemata L3:0=0f0;1=3", "write gold/schemata MB:0=25"]
    assert (resctrl.schema("gold", "L3"), resctrl.schema("gold", "MB")) == ("L3:0=f0;1=3", "MB:0=30;1=100")
    assert resctrl.groups() == {"gold"}


@pytest.mark.spec("config-linux#intelrdt-14")
@fuse
@pytest.mark.parametrize(
    ("rdt", "path"),
    [
        ({"l3CacheSchema": "L3:0=f"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L3:0=f0;1=1"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L3:0=f0;7=3"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L3:nonsense"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L3:0=f0", "memBwSchema": "MB:0=40"}, "memBwSchema"),
    ],
)
def test_an_existing_class_with_another_schema(
    create: Create, resctrl: Resctrl, rdt: dict[str, Any], path: str
) -> None:
    resctrl.make("gold", "L3:0=f0;1=3", "MB:0=30")
    with pytest.raises(ConfigError, match=r"the class .*/gold exists, with ") as caught:
        create({"closID": "gold", **rdt})
    assert caught.value.config_path == f"{WHERE}.{path}"
    assert resctrl.journal() == []


@pytest.mark.spec("config-linux#intelrdt-15")
@fuse
def test_no_such_class(create: Create, resctrl: Resctrl) -> None:
    """closID without schemata, of a class that does not exist."""
    with pytest.raises(ConfigError, match="there is no class nosuch") as caught:
        create({"closID": "nosuch", "enableMonitoring": True})
    assert caught.value.config_path == f"{WHERE}.closID"
    with pytest.raises(ConfigError, match="info is not a class") as caught:
        create({"closID": "info"})
    assert caught.value.config_path == f"{WHERE}.closID"
    assert resctrl.journal() == []


# --- schemata ---


@pytest.mark.spec("config-linux#intelrdt-8", "config-linux#intelrdt-10")
@fuse
def test_the_order_of_schemata(create: Create, resctrl: Resctrl) -> None:
    """l3CacheSchema, memBwSchema, schemata; the later line wins. The limits are there before the process."""
    schemata = ["MB:1=50", "L3:0=ff"]
    with create({"schemata": schemata, "memBwSchema": "MB:0=20", "l3CacheSchema": "L3:0=f;1=f"}) as container:
        name = container.id
        assert resctrl.journal() == [
            f"mkdir {name}", f"write {name}/schemata L3:0=f;1=f", f"write {name}/schemata MB:0=20",
            f"write {name}/schemata MB:1=50", f"write {name}/schemata L3:0=ff",
            f"write {name}/tasks {pid(container)}",
        ]  # fmt: skip
        assert (resctrl.schema(name, "L3"), resctrl.schema(name, "MB")) == ("L3:0=ff;1=f", "MB:0=20;1=50")


@fuse
@pytest.mark.parametrize(
    ("rdt", "path", "status"),
    [
        ({"l3CacheSchema": "L3:0=f0f"}, "l3CacheSchema", "The mask f0f has non-consecutive 1-bits"),
        ({"memBwSchema": "MB:0=5"}, "memBwSchema", "MB value 5 out of range [10,100]"),
        ({"schemata": ["L3:0=f", "L3:0=f;0=f"]}, "schemata[1]", "Duplicate domain 0"),
    ],
)
@pytest.mark.parametrize("clos", ["", "fresh"])
def test_a_refused_schema(
    create: Create, resctrl: Resctrl, rdt: dict[str, Any], path: str, status: str, clos: str
) -> None:
    """What the kernel refuses: its words, the config path, and nothing is left."""
    with pytest.raises(ConfigError) as caught:
        create({"closID": clos, **rdt})
    assert (caught.value.config_path, caught.value.hint) == (f"{WHERE}.{path}", status)
    assert resctrl.groups() == set()


@fuse
def test_a_refused_schema_leaves_a_class_as_it_was(create: Create, resctrl: Resctrl) -> None:
    resctrl.make("gold", "L3:0=f0;1=3")
    with pytest.raises(ConfigError) as caught:
        create({"closID": "gold", "schemata": ["L3:0=f", "MB:0=1"]})
    assert caught.value.config_path == f"{WHERE}.schemata[1]"
    assert resctrl.schema("gold", "L3") == "L3:0=f0;1=3"


@fuse
@pytest.mark.parametrize(
    ("rdt", "kind", "path"),
    [
        ({"schemata": ["L3:0=f", "L2:0=f"]}, Unsupported, "schemata[1]"),
        ({"l3CacheSchema": "L3CODE:0=f"}, Unsupported, "l3CacheSchema"),
        ({"l3CacheSchema": "f"}, ConfigError, "l3CacheSchema"),
        ({"schemata": ["../L3:0=f"]}, ConfigError, "schemata[0]"),
    ],
)
def test_a_resource_that_is_not_there(
    create: Create, resctrl: Resctrl, rdt: dict[str, Any], kind: type[Error], path: str
) -> None:
    with pytest.raises(kind) as caught:
        create(rdt)
    assert caught.value.config_path == f"{WHERE}.{path}"
    assert resctrl.journal() == []


# --- enableMonitoring ---


@pytest.mark.spec("config-linux#intelrdt-18", "config-linux#intelrdt-19")
@fuse
@pytest.mark.parametrize("clos", ["", "gold", "/"])
def test_monitoring(create: Create, resctrl: Resctrl, clos: str) -> None:
    """A monitoring group named by the id, below the class; it goes with the container."""
    resctrl.make("gold")
    container = create({"closID": clos, "enableMonitoring": True})
    group = {"": container.id, "/": "."}.get(clos, clos)
    monitor = f"{group}/mon_groups/{container.id}"
    assert resctrl.tasks(monitor) == [pid(container)]
    assert resctrl.journal()[-3:] == [
        f"mkdir {monitor}", f"write {group}/tasks {pid(container)}",
        f"write {monitor}/tasks {pid(container)}",
    ]  # fmt: skip
    container.delete(force=True)
    assert resctrl.groups() == {"gold"}


@pytest.mark.spec("config-linux#intelrdt-20")
@fuse
def test_no_monitoring_group_left(create: Create, resctrl: Resctrl) -> None:
    """If the group can't be made, or is another's, that is an error."""
    resctrl.make("gold")
    for name in ("a", "b"):
        (resctrl.path / f"gold/mon_groups/{name}").mkdir()
    before = resctrl.groups()
    with pytest.raises(Error) as caught:
        create({"closID": "gold", "enableMonitoring": True})
    assert (caught.value.config_path, caught.value.hint) == (f"{WHERE}.enableMonitoring", "Out of RMIDs")
    assert resctrl.groups() == before
    with pytest.raises(ConfigError, match="would not be the container's own") as caught:
        resctrl_groups.place({"closID": "gold", "enableMonitoring": True}, "a", str(resctrl.path))
    assert caught.value.config_path == f"{WHERE}.enableMonitoring"


# --- what can go wrong ---


@fuse
def test_no_class_left(create: Create, resctrl: Resctrl) -> None:
    """The hardware has a handful of classes."""
    for name in ("a", "b", "c"):
        resctrl.make(name)
    with pytest.raises(Error) as caught:
        create({})
    assert (caught.value.config_path, caught.value.hint) == (WHERE, "Out of CLOSIDs")
    assert resctrl.groups() == {"a", "b", "c"}


@fuse
@pytest.mark.parametrize("rdt", [{}, {"closID": "fresh", "schemata": ["L3:0=f"]}])
def test_a_create_that_fails_later(
    create: Create, resctrl: Resctrl, bundle: TestBundle, rdt: dict[str, Any]
) -> None:
    """What it made goes again, a class of the config's name too; in that of others nothing stays."""
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    with pytest.raises(Error, match="hook"):
        create({**rdt, "enableMonitoring": True})
    assert any(line.startswith("mkdir ") for line in resctrl.journal())
    assert resctrl.groups() == set()


@fuse
@pytest.mark.parametrize("clos", ["", "fresh", "used"])
def test_a_killed_create(cli: Cli, bundle: TestBundle, resctrl: Resctrl, tmp_path: Path, clos: str) -> None:
    """SIGKILL amid a create: ``delete`` removes what it had made; not a class with somebody else's task."""
    mark, hook, name = tmp_path / "hook-runs", tmp_path / "hook", fresh_id()
    hook.write_text(f"#!/bin/sh\ntouch {mark}\nexec sleep 60\n")
    hook.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(hook)}]}
    bundle.config["linux"]["intelRdt"] = {"closID": clos, "schemata": ["L3:0=f"], "enableMonitoring": True}
    script = f"""
        from ocipy import Container
        from ocipy.container.prepare import CreateOptions
        Container.create({name!r}, {str(bundle.save())!r}, root={str(cli.root)!r},
                         options=CreateOptions(resctrl={str(resctrl.path)!r}))
    """
    process = subprocess.Popen([sys.executable, "-I", "-c", textwrap.dedent(script)])
    until(mark.exists)
    group = clos or name
    assert resctrl.groups() == {group, f"{group}/mon_groups/{name}"}
    assert len(resctrl.tasks(f"{group}/mon_groups/{name}")) == 1
    if clos == "used":
        (resctrl.path / "used/tasks").write_text(f"{os.getpid()}\n")
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    cli("delete", "--force", name)
    assert resctrl.groups() == ({"used"} if clos == "used" else set())


@pytest.mark.spec("config-linux#intelrdt-2")
@pytest.mark.skipif(
    bool(resctrl_groups.find(Path("/proc/self/mountinfo").read_text())), reason="resctrl is mounted (mountinfo)"
)
@pytest.mark.parametrize("rdt", [{}, {"closID": "gold"}])
def test_without_resctrl(cli: Cli, bundle: TestBundle, rdt: dict[str, Any]) -> None:
    """No mounted resctrl: an error, before anything is made."""
    bundle.config["linux"]["intelRdt"] = rdt
    done = cli.run(bundle, code=1)
    assert f"{WHERE}: no resctrl file system is mounted" in done.stderr.splitlines()[-1]
    assert not cli.root.exists() or list(cli.root.iterdir()) == []
    assert WHERE in cli("explain", str(bundle.path), code=1).stderr


def test_without_monitoring(tmp_path: Path) -> None:
    """resctrl of a machine that only allocates."""
    (tmp_path / "tasks").touch()
    with pytest.raises(Unsupported) as caught:
        resctrl_groups.place({"closID": "/", "enableMonitoring": True}, "x", str(tmp_path))
    assert caught.value.config_path == f"{WHERE}.enableMonitoring"


def test_the_mount_point() -> None:
    """It is found by its type, wherever it is; a part of it that is mounted elsewhere is not it."""
    part = "9 1 0:9 /gold /mnt rw - resctrl resctrl rw\n"
    assert resctrl_groups.find(part + "8 1 0:9 / /my\\040fs rw,relatime shared:7 - resctrl resctrl rw\n") == "/my fs"
    assert resctrl_groups.find("8 1 0:9 / /resctrl rw - tmpfs resctrl rw\n" + part) == ""


# --- exec, update, events ---


@fuse
def test_exec_joins(create: Create, resctrl: Resctrl) -> None:
    """A further process is in the container's groups as well; not if the class has been removed meanwhile."""
    with create({"enableMonitoring": True}) as container:
        container.start()
        process = container.exec(["sleep", "1000"])
        # it is moved before it forks into the pid namespace; the stand-in does not see the fork
        joined = set(resctrl.tasks(f"{container.id}/mon_groups/{container.id}")) - {pid(container)}
        (resctrl.path / container.id).rmdir()
        resctrl.journal()
        container.exec(["true"]).wait()
        assert resctrl.journal() == []
        end(process.pid)
        process.wait()
        assert len(joined) == 1


@pytest.mark.spec("config-linux#intelrdt-9")
@fuse
def test_update(cli: Cli, create: Create, resctrl: Resctrl) -> None:
    """update --l3-cache-schema --mem-bw-schema."""
    with create({"l3CacheSchema": "L3:0=f"}) as container:
        name = container.id
        assert resctrl.schema(name, "L3") == "L3:0=f;1=fff"
        cli("update", name, "--l3-cache-schema", "L3:0=ff0", "--mem-bw-schema", "MB:1=20", "--pids-limit", "50")
        assert (resctrl.schema(name, "L3"), resctrl.schema(name, "MB")) == ("L3:0=ff0;1=fff", "MB:0=100;1=20")
        for flag, value, words in (
            ("--l3-cache-schema", "L3:0=f0f", "l3CacheSchema: can't write 'L3:0=f0f'"),
            ("--mem-bw-schema", "L3:0=f", "memBwSchema"),
            ("--l3-cache-schema", "", "nothing to change"),
        ):
            assert words in cli("update", name, flag, value, code=1).stderr
        assert resctrl.schema(name, "L3") == "L3:0=ff0;1=fff"


@fuse
def test_update_of_a_container_without_a_class(cli: Cli, bundle: TestBundle, resctrl: Resctrl) -> None:
    """As with runc it gets one, with all threads of all its processes; or, with a wrong schema, it does not."""
    with Container.run(fresh_id(), str(bundle.sh("sleep 1000 & wait").save()), root=str(cli.root)) as container:
        until(lambda: len(container.pids()) == 2)
        with pytest.raises(ConfigError) as caught:
            container.update({}, intel_rdt={"memBwSchema": "MB:0=1"}, resctrl=str(resctrl.path))
        assert caught.value.config_path == f"{WHERE}.memBwSchema"
        assert resctrl.groups() == set()
        assert "intel_rdt" not in container.stats()
        container.update({}, intel_rdt={"memBwSchema": "MB:0=20"}, resctrl=str(resctrl.path))
        assert resctrl.tasks(container.id) == sorted(container.pids())
        assert resctrl.schema(container.id, "MB") == "MB:0=20;1=100"
        assert container.stats()["intel_rdt"]["mem_bw_schema"] == "MB:0=20;1=100"
    assert resctrl.groups() == set()


@fuse
def test_events(cli: Cli, create: Create) -> None:
    """events --stats has what runc's has in ``intel_rdt``."""
    with create({"l3CacheSchema": "L3:0=f;1=f", "enableMonitoring": True}) as container:
        found = json.loads(cli("events", "--stats", container.id).stdout)["data"]["intel_rdt"]
    assert found == {
        "schemata": ["MB:0=100;1=100", "L3:0=f;1=f"],
        "l3_cache_info": {"cbm_mask": "fff", "min_cbm_bits": 1, "num_closids": 4},
        "l3_cache_schema_root": "L3:0=fff;1=fff",
        "l3_cache_schema": "L3:0=f;1=f",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 4},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=100;1=100",
        "mbm_stats": [{"mbm_total_bytes": 20, "mbm_local_bytes": 10}, {}],
        "cmt_stats": [{"llc_occupancy": 4096}, {}],
    }


# --- the real one ---


@pytest.mark.spec("config-linux#intelrdt-1")
@pytest.mark.skipif(
    "\tresctrl\n" not in Path("/proc/filesystems").read_text(), reason="no resctrl in /proc/filesystems"
)
def test_the_real_one(cli: Cli, bundle: TestBundle, tmp_path: Path, mount_namespace: None) -> None:
    """On hardware that has it: the container's process is in a class of its own."""
    root = resctrl_groups.find(Path("/proc/self/mountinfo").read_text())
    if not root:
        root = str(tmp_path / "real")
        os.mkdir(root)
        subprocess.run(["mount", "-t", "resctrl", "resctrl", root], check=True)
    bundle.config["linux"]["intelRdt"] = {}
    name = cli.create(bundle.args("sleep", "1000"))
    assert Path(root, name, "tasks").read_text().split() == [str(cli.state(name)["pid"])]
    cli("delete", "--force", name)
    assert not Path(root, name).exists()
