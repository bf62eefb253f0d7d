"""--systemd-cgroup without systemd, without the library, or without an answer: errors, and nothing is left.

These run anywhere: systemd is feigned by its directory in a private /run, and the bus is one that stalls.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, Cli, TestBundle, fresh_id, nothing_left

from ocipy import cgroups, host
from ocipy.cgroups.systemd import bus
from ocipy.cgroups.systemd.driver import LegacySystemdCgroup
from ocipy.errors import CgroupError


def refused(cli: Cli, bundle: TestBundle, tmp_path: Path, before: tuple[str, ...] = (), **env: str) -> str:
    """create --systemd-cgroup, which must fail and leave nothing; the last line of stderr."""
    where = ["--root", str(cli.root), "create", "--bundle", str(bundle.save())]
    words = [*before, OCIPY, "--systemd-cgroup", *where, "box"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=os.environ | env, check=False)
    assert done.returncode == 1, done.stderr
    assert nothing_left(tmp_path) == []
    return done.stderr.splitlines()[-1]


#: a private /run that looks as if systemd were the init
DISGUISED = (
    "unshare", "-m", "--propagation", "private", "sh", "-c",
    'mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/system && exec "$@"', "sh",
)  # fmt: skip
BARE = (*DISGUISED[:-2], 'mount -t tmpfs tmpfs /run && exec "$@"', "sh")


def test_no_systemd(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Without systemd the flag is an error that names it."""
    words = refused(cli, bundle, tmp_path, BARE)
    assert words.startswith("ocipy: --systemd-cgroup: systemd is not running here (/run/systemd/system")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("unix:path=/nonexistent", "no such file or directory"),
        ("tcp:host=localhost,port=1", "is none that can be connected to"),
        ("nonsense", "is none that can be connected to"),
    ],
)
def test_no_bus(cli: Cli, bundle: TestBundle, tmp_path: Path, address: str, words: str) -> None:
    """Nor is there anything without a bus."""
    line = refused(cli, bundle, tmp_path, DISGUISED, DBUS_SYSTEM_BUS_ADDRESS=address)
    assert line.startswith(f"ocipy: --systemd-cgroup: the bus at {address} ")
    assert words in line


def test_wrong_path(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A path for cgroupfs with the flag, and one for systemd without it, are errors of $.linux.cgroupsPath."""
    bundle.config["linux"]["cgroupsPath"] = "/a/b"
    line = refused(cli, bundle, tmp_path)
    assert line.startswith('ocipy: $.linux.cgroupsPath: expected cgroupsPath to be of format "slice:prefix:name"')
    bundle.config["linux"]["cgroupsPath"] = "system.slice:a:b"
    done = cli("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    assert "$.linux.cgroupsPath" in done.stderr
    assert "--systemd-cgroup is not given" in done.stderr


def test_restore(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A restore does not go by systemd, and says so."""
    done = subprocess.run(
        [OCIPY, "--systemd-cgroup", "--root", str(cli.root), "restore", "--bundle", str(bundle.save()), "box"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ocipy: --systemd-cgroup: restore makes the cgroup")
    assert nothing_left(tmp_path) == []


def test_malformed_annotation(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """An annotation that is no GVariant text, with its config path."""
    bundle.config["annotations"] = {"org.systemd.property.CollectMode": "inactive-or-failed"}
    line = refused(cli, bundle, tmp_path)
    assert line.startswith('ocipy: $.annotations["org.systemd.property.CollectMode"]: ')


IN_PROCESS = """
import sys
sys.modules.update({name: None for name in sys.argv[3:]})
from ocipy import Container
from ocipy.container.prepare import CreateOptions
from ocipy.errors import Error
try:
    if not sys.argv[3:]:
        from ocipy.cgroups.systemd import bus
        bus.SECONDS = 1.0
    Container.create("box", sys.argv[1], root=sys.argv[2], options=CreateOptions(cgroup_manager="systemd"))
except Error as error:
    print(error.code, "|", error)
"""


def in_process(cli: Cli, bundle: TestBundle, *missing: str, **env: str) -> str:
    words = [*DISGUISED, sys.executable, "-I", "-c", IN_PROCESS, str(bundle.save()), str(cli.root), *missing]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=os.environ | env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_library(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Without jeepney, the error says what to install, and for which flag."""
    line = in_process(cli, bundle, "jeepney")
    assert line.startswith("systemd-missing | --systemd-cgroup needs the Python package jeepney")
    assert "pip install jeepney" in line
    assert nothing_left(tmp_path) == []


#: a bus that goes so far and no further: it accepts; it lets one in; it answers what is asked first
STALLED = """
import socket, sys
from jeepney import MessageType, Parser, new_method_return
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
print("ready", flush=True)
while True:
    link, _ = server.accept()
    if sys.argv[2] == "accepts":
        sys.stdin.read()
    link.recv(100)
    link.sendall(b"DATA\\r\\nOK 0123\\r\\n")
    if sys.argv[2] == "authenticates":
        sys.stdin.read()
    parser, data = Parser(), link.recv(4096).removeprefix(b"BEGIN\\r\\n")
    while True:
        parser.add_data(data)
        while (message := parser.get_next_message()) is not None:
            member = message.header.fields[3]
            if member == "Hello":
                link.sendall(new_method_return(message, "s", (":1.1",)).serialise(1))
            elif member == "Get":
                text = "252" if message.body[1] == "Version" else ""
                link.sendall(new_method_return(message, "v", (("s", text),)).serialise(1))
            elif member in ("AddMatch", "Subscribe"):
                link.sendall(new_method_return(message).serialise(1))
        data = link.recv(4096)
        if not data:
            break
"""


@pytest.fixture
def stalled(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Starts a bus that stalls; returns its address."""
    running: list[subprocess.Popen[str]] = []

    def start(where: str) -> str:
        path = tmp_path / "bus"
        words = [sys.executable, "-I", "-c", STALLED, str(path), where]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return f"unix:path={path}"

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("where", ["accepts", "authenticates"])
def test_stalled_bus(
    cli: Cli, bundle: TestBundle, tmp_path: Path, stalled: Callable[[str], str], where: str
) -> None:
    """A bus that does not answer: an error that says so, after a time, and nothing is left."""
    address = stalled(where)
    line = in_process(cli, bundle, DBUS_SYSTEM_BUS_ADDRESS=address)
    assert line.startswith(
        f"systemd-timeout | --systemd-cgroup: the bus at {address} did not answer the connection within 1 s"
    )
    assert nothing_left(tmp_path) == []


def test_stalled_systemd(cli: Cli, bundle: TestBundle, tmp_path: Path, stalled: Callable[[str], str]) -> None:
    """A systemd that does not answer: the call is named. The unit may come to be, so its record is kept, for delete."""
    address = stalled("answers")
    line = in_process(cli, bundle, DBUS_SYSTEM_BUS_ADDRESS=address)
    assert line.startswith(
        f"systemd-timeout | --systemd-cgroup: the bus at {address} did not answer "
        "org.freedesktop.systemd1.Manager.StartTransientUnit(ocipy-box.scope) within 1 s"
    )
    record = json.loads((cli.root / "box/state.json").read_text())
    assert record["cgroup"]["unit"]["name"] == "ocipy-box.scope"
    assert record["pid"] == 0
    # where there is no systemd any more, nor are there units: delete finishes
    done = subprocess.run(
        [*BARE, *cli.command("delete", "--force", "box")], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert nothing_left(tmp_path) == []


# --- what is said to a systemd ---

#: a bus with something like systemd behind it: it keeps a list of units, tells of jobs whoever has subscribed, and
#: writes down what it is asked; with it the state of a freezer, if its file is given
MANAGER = """
import json, os, socket, sys
from jeepney import DBusAddress, HeaderFields, Parser, new_error, new_method_return, new_signal
NAME = "org.freedesktop.systemd1"
manager = DBusAddress("/org/freedesktop/systemd1", NAME, NAME + ".Manager")
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
freezer, results = sys.argv[2], sys.argv[3:]
failed, running = {"failed.scope"}, {"taken.scope"}
print("ready", flush=True)
serial = jobs = 0
while True:
    link, _ = server.accept()
    link.recv(100)
    link.sendall(b"DATA\\r\\nOK 0123\\r\\n")
    parser, data, told = Parser(), link.recv(4096).removeprefix(b"BEGIN\\r\\n"), set()

    def send(message, sender):
        global serial
        serial += 1
        message.header.fields[HeaderFields.sender] = sender
        link.sendall(message.serialise(serial))

    while True:
        parser.add_data(data)
        while (message := parser.get_next_message()) is not None:
            member, body = message.header.fields[HeaderFields.member], message.body
            state = open(freezer).read().strip() if freezer else ""
            words = [member, *body[:1]] if member not in ("AddMatch", "Hello") else [member]
            print(json.dumps([*words, state] if state else words), flush=True)
            job, sender = f"/job/{jobs}", ":1.7"
            if member in ("AddMatch", "Subscribe"):
                told.add(member)
            error = ""
            if member == "StartTransientUnit":
                error = "UnitExists" if body[0] in failed | running else ""
                running |= set() if error else {body[0]}
            elif member == "StopUnit":
                error = "" if body[0] in running else "NoSuchUnit"
                running -= {body[0]}
            elif member == "ResetFailedUnit":
                failed -= {body[0]}
            if error:
                send(new_error(message, f"{NAME}.{error}", "s", (error,)), sender)
            elif member == "Hello":
                send(new_method_return(message, "s", (":1.1",)), sender)
            elif member in ("StartTransientUnit", "StopUnit"):
                if told == {"AddMatch", "Subscribe"}:  # systemd's own order: of the new job before the answer
                    send(new_signal(manager, "JobNew", "uos", (jobs, job, body[0])), sender)
                send(new_method_return(message, "o", (job,)), sender)
                jobs += 1
                if told == {"AddMatch", "Subscribe"}:
                    for which, by, result in ((job, ":1.8", "forged"), (job + "0", sender, "other"),
                                              (job, sender, results.pop(0) if results else "done")):
                        send(new_signal(manager, "JobRemoved", "uoss", (jobs, which, body[0], result)), by)
            else:
                send(new_method_return(message), sender)
        data = link.recv(4096)
        if not data:
            break
"""


class Manager:
    """The bus, and what it was asked."""

    def __init__(self, path: Path, freezer: str = "", *results: str) -> None:
        self.address = f"unix:path={path}"
        words = [sys.executable, "-I", "-c", MANAGER, str(path), freezer, *results]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def asked(self) -> list[list[str]]:
        """Ends it."""
        self.process.kill()
        out, _ = self.process.communicate()
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Manager]]:
    """Starts one."""
    monkeypatch.setattr(bus, "SECONDS", 5.0)
    running: list[Manager] = []

    def start(freezer: str = "", *results: str) -> Manager:
        running.append(Manager(tmp_path / f"bus{len(running)}", freezer, *results))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.asked()


HELLO = [["Hello"], ["AddMatch"], ["Subscribe"]]


def test_jobs(manager: Callable[..., Manager]) -> None:
    """Who wants to hear of jobs subscribes to them, once; and believes systemd alone, of its own job."""
    one = manager()
    with bus.Bus(one.address) as link:
        link.start("new.scope", [])
        link.change("new.scope", [])
        link.attach("new.scope", 1)
        link.stop("new.scope")
        link.stop("new.scope")
    calls = ["StartTransientUnit", "SetUnitProperties", "AttachProcessesToUnit", "StopUnit", "ResetFailedUnit",
             "StopUnit", "ResetFailedUnit"]  # fmt: skip
    assert one.asked() == [*HELLO, *([call, "new.scope"] for call in calls)]


def test_failed_unit(manager: Callable[..., Manager]) -> None:
    """A unit that failed, and is still known, makes room; one that runs does not."""
    one = manager()
    with bus.Bus(one.address) as link:
        link.start("failed.scope", [])
        with pytest.raises(CgroupError, match=r"systemd has a unit taken\.scope already") as caught:
            link.start("taken.scope", [])
    assert (caught.value.code, caught.value.config_path) == ("cgroup-in-use", "$.linux.cgroupsPath")
    again = ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]
    assert one.asked() == [*HELLO, *([call, name] for name in ("failed.scope", "taken.scope") for call in again)]


def test_failed_jobs(manager: Callable[..., Manager]) -> None:
    """A job that fails is an error, and the unit is forgotten."""
    one = manager("", "failed", "timeout")
    with bus.Bus(one.address) as link:
        for call in (lambda: link.start("a.scope", []), lambda: link.stop("a.scope")):
            with pytest.raises(CgroupError, match=r"a\.scope: the job's result is '(failed|timeout)'") as caught:
                call()
            assert caught.value.code == "systemd-job"
    calls = ["StartTransientUnit", "ResetFailedUnit", "StopUnit", "ResetFailedUnit"]
    assert one.asked() == [*HELLO, *([call, "a.scope"] for call in calls)]


@pytest.mark.skipif(host.cgroups().mode == "v2", reason="there is no freezer hierarchy")
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize(
    ("resources", "update", "seen"),
    [
        ({"devices": [{"allow": False, "access": "rwm"}]}, True, "FROZEN"),
        ({"devices": [{"allow": False, "access": "rwm"}]}, False, "THAWED"),
        ({"pids": {"limit": 7}}, True, "THAWED"),
    ],
)
def test_devices_of_a_legacy_scope(
    manager: Callable[..., Manager], paused: bool, resources: dict[str, Any], update: bool, seen: str
) -> None:
    """On v1 systemd denies all devices for a moment when it changes their rules, so nobody runs meanwhile. A container
    that is paused stays so."""
    plain = cgroups.select(f"/{fresh_id()}", "id")
    plain.create()
    try:
        file = f"{plain.paths['freezer']}/freezer.state"
        one = manager(file)
        unit = {"name": "box.scope", "slice": "system.slice", "id": "box", "bus": one.address, "user": False,
                "version": 252}  # fmt: skip
        scope = LegacySystemdCgroup(plain.paths, unit)
        if paused:
            scope.freeze(True)
        scope.apply(resources, update=update)
        assert Path(file).read_text().strip() == ("FROZEN" if paused else "THAWED")
        assert one.asked()[1:] == [["SetUnitProperties", "box.scope", "FROZEN" if paused else seen]]
    finally:
        plain.freeze(False)
        plain.delete()
