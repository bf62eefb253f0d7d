"""null for a property that may be left out, and values that are as good as none: as if they were not there, as readers
in Go have it and writers in Go send it. In config.json, in the files of `exec --process` and `update --resources`."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle

from ocipy.config import load, validate, warnings
from ocipy.config.check import CONFIG, PROCESS, RESOURCES, check
from ocipy.errors import ConfigError

Node = Any


def nulled(value: Any, node: Node) -> Any:
    """A copy in which every property that may be left out, and is, is null; whatever its type would be."""
    if node[0] == 3 and isinstance(value, list):
        return [nulled(item, node[1]) for item in value]
    if node[0] != 1 or not isinstance(value, dict):
        return value
    _, properties, required, other = node
    found = {name: nulled(member, properties.get(name, other) or (0,)) for name, member in value.items()}
    return found | {name: None for name in properties if name not in value and name not in required}


def nulls(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(nulls, value.values()))
    return sum(map(nulls, value)) if isinstance(value, list) else value is None


def rich(config: dict[str, Any]) -> dict[str, Any]:
    """A config with sections of every shape, so that there are properties to leave out in each."""
    config = copy.deepcopy(config)
    config["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH"},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {},
        "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
    }
    config["hooks"] = {"poststop": [{"path": "/bin/true"}]}
    config["annotations"] = {"key": "value"}
    config["linux"]["devices"] = [{"path": "/dev/zero2", "type": "c", "major": 1, "minor": 5}]
    config["linux"]["resources"] = {"memory": {}, "cpu": {}, "pids": {"limit": 50}, "blockIO": {},
                                    "devices": [{"allow": False, "access": "rwm"}]}  # fmt: skip
    config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                      "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}],
    }  # fmt: skip
    return config


def test_optional(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Every optional property of the schema may be null, and is then as if it were not there; a container runs so,
    an exec in it from a file with nulls, and an update of its limits."""
    plain = rich(bundle.sh("trap exit TERM; while :; do sleep 0.1; done").config)
    for platform in ("windows", "solaris", "vm", "zos"):
        assert platform not in plain
    config = nulled(plain, CONFIG)
    assert nulls(config) > 100
    bundle.config = config
    bundle.save()
    assert not check(config)
    assert load.load(str(bundle.path)) == plain
    assert validate.faults(config) == []
    name = cli.start(bundle)
    process = {"args": ["sh", "-c", 'echo "$HOME"'], "cwd": "/", "env": ["PATH=/bin"]}
    (tmp_path / "process").write_text(json.dumps(nulled(process, PROCESS)))
    assert cli("exec", "--process", str(tmp_path / "process"), name).stdout == "/root\n"
    (tmp_path / "limits").write_text(json.dumps(nulled({"pids": {"limit": 77}, "memory": {}}, RESOURCES)))
    cli("update", "--resources", str(tmp_path / "limits"), name)
    assert json.loads(cli("events", "--stats", name).stdout)["data"]["pids"]["limit"] == 77
    cli("delete", "--force", name)


def test_pids_without_limit(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#pids makes limit optional, which the schema does not."""
    bundle.config["linux"]["resources"] = {"pids": {"limit": None}}
    cli.run(bundle.args("true"))


def test_library(cli: Cli, bundle: TestBundle) -> None:
    """A config that a program hands over may have None as well, and is not changed."""
    config = nulled(rich(bundle.config), CONFIG)
    before = copy.deepcopy(config)
    assert nulls(load.verify(config)) == 0
    assert config == before


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (("ociVersion",), "$.ociVersion"),
        (("root",), "$.root"),
        (("root", "path"), "$.root.path"),
        (("process",), "$.process"),
        (("process", "args"), "$.process.args"),
        (("process", "args", 0), "$.process.args[0]"),
        (("process", "cwd"), "$.process.cwd"),
        (("process", "env", 0), "$.process.env[0]"),
        (("process", "rlimits", 0, "soft"), "$.process.rlimits[0].soft"),
        (("process", "capabilities", "bounding", 0), "$.process.capabilities.bounding[0]"),
        (("mounts", 0), "$.mounts[0]"),
        (("mounts", 1, "options", 0), "$.mounts[1].options[0]"),
        (("hooks", "poststop", 0), "$.hooks.poststop[0]"),
        (("hooks", "poststop", 0, "path"), "$.hooks.poststop[0].path"),
        (("annotations", "key"), "$.annotations.key"),
        (("linux", "namespaces", 0, "type"), "$.linux.namespaces[0].type"),
        (("linux", "maskedPaths", 0), "$.linux.maskedPaths[0]"),
        (("linux", "devices", 0, "major"), "$.linux.devices[0].major"),
        (("linux", "resources", "devices", 0, "allow"), "$.linux.resources.devices[0].allow"),
        (("linux", "seccomp", "defaultAction"), "$.linux.seccomp.defaultAction"),
        (("linux", "seccomp", "syscalls", 0, "args", 0, "value"), "$.linux.seccomp.syscalls[0].args[0].value"),
    ],
)
def test_required(bundle: TestBundle, change: tuple[str | int, ...], path: str) -> None:
    """What is required must not be null, and no entry of a list or of a map with free keys."""
    bundle.config = nulled(rich(bundle.config), CONFIG)
    at: Any = bundle.config
    for step in change[:-1]:
        at = at[step]
    at[change[-1]] = None
    bundle.save()
    with pytest.raises(ConfigError) as caught:
        load.load(str(bundle.path))
    assert caught.value.config_path == path
    assert [fault.config_path for fault in validate.faults(bundle.config)] == [path]


def test_required_in_files(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """The same in the files of exec and update."""
    name = cli.start(bundle.args("sleep", "1000"))
    (tmp_path / "process").write_text(json.dumps({"args": ["true"], "cwd": None}))
    assert "$.cwd" in cli("exec", "--process", str(tmp_path / "process"), name, code=255).stderr
    (tmp_path / "limits").write_text(json.dumps({"hugepageLimits": [{"pageSize": "2MB", "limit": None}]}))
    refused = cli("update", "--resources", str(tmp_path / "limits"), name, code=1).stderr
    assert "$.linux.resources.hugepageLimits[0].limit: found null" in refused
    cli("delete", "--force", name)


@pytest.mark.spec("config#posix-platform-user-1", "config#posix-platform-user-2")
def test_empty_user(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user: a user without uid or gid is root's, as with runc and crun; `validate` tells of
    it. --user changes what it says."""
    bundle.sh('echo "$(id -u) $(id -g)"')
    for user, ids in ((None, "0 0"), ({}, "0 0"), ({"uid": None}, "0 0"), ({"uid": 7}, "7 0"), ({"gid": 7}, "0 7")):
        bundle.config["process"]["user"] = user
        assert cli.run(bundle).stdout == f"{ids}\n"
        told = cli("validate", str(bundle.path)).stderr
        for name in ("uid", "gid"):
            lacks = user is not None and user.get(name) is None
            assert (f"$.process.user.{name}: found nothing" in told) == lacks
    name = cli.start(bundle.args("sleep", "1000"))
    assert cli("exec", "--user", "5", name, "sh", "-c", 'echo "$(id -u) $(id -g)"').stdout == "5 7\n"
    process = {"args": ["id", "-g"], "cwd": "/", "user": {"gid": 8}}
    assert cli("exec", "--process", "/dev/stdin", name, input=json.dumps(process)).stdout == "8\n"
    cli("delete", "--force", name)


def test_empty_propagation(cli: Cli, bundle: TestBundle) -> None:
    """An empty rootfsPropagation is none: what is mounted later on the host comes in, and nothing goes out."""
    seen = []
    for value in (None, ""):
        bundle.config["linux"]["rootfsPropagation"] = value
        lines = cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout.splitlines()
        seen.append([line.split()[6] for line in lines if line.split()[4] == "/"])
    assert seen[0] == seen[1]
    assert seen[0]


def test_validate_tells(cli: Cli, bundle: TestBundle) -> None:
    """`validate` has a notice for each, and no fault; `create` says nothing."""
    bundle.config["linux"] |= {"rootfsPropagation": "", "sysctl": None}
    bundle.config["process"]["user"] = {}
    bundle.config["mounts"][0]["options"] = None
    told = cli("validate", str(bundle.save())).stderr
    names = ("linux.rootfsPropagation", "linux.sysctl", "process.user.uid", "process.user.gid", "mounts[0].options")
    paths = [f"$.{name}" for name in names]
    assert len(told.splitlines()) == len(paths)
    assert all(f"{path}: found" in told for path in paths)
    assert cli.run(bundle.args("true")).stderr == ""
    assert len(warnings.notices(bundle.config)) == len(paths)
