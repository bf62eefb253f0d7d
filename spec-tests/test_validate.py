"""Loading and judging config.json: every fault listed with its path, and create's verdict the same."""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

import ocipy.config

ROOT = Path(__file__).resolve().parent.parent
TOOL = ROOT / "tools" / "make_schema_table.py"
if importlib.util.find_spec("ocipy.config._table") is None:  # a source tree in which nothing was built yet
    runpy.run_path(str(TOOL))["write"](ocipy.config.__path__[0])

from ocipy.config import check, defaults, load, validate, warnings  # noqa: E402
from ocipy.config.bundle import validate_bundle  # noqa: E402
from ocipy.errors import ConfigError  # noqa: E402


def typical() -> dict[str, Any]:
    """A config as engines write it."""
    config = defaults.spec()
    config["linux"]["namespaces"] = [
        {"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")
    ]
    return config


def bundle(path: Path, config: Any) -> str:
    """A bundle directory with a root filesystem and a config.json."""
    (path / "rootfs").mkdir(exist_ok=True)
    (path / "config.json").write_bytes(config if isinstance(config, bytes) else json.dumps(config).encode())
    return str(path)


def refusal(bundle_dir: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load.load(bundle_dir)
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_fault_is_listed_with_its_path() -> None:
    config = typical()
    config["mounts"][3]["source"] = 5
    config["mounts"][4] = "tmpfs"
    config["process"] |= {"args": [], "cwd": 1, "rlimits": [{"type": "NOFILE", "soft": -1}]}
    config["linux"]["seccomp"] = {"defaultAction": "ALLOW", "syscalls": [{"names": [], "action": "X"}]}
    config["linux"]["sysctl"] = {"net.core.somaxconn": 256, "kernel.sem": "1", "vm.x": "1"}
    config["linux"]["namespaces"].append({"type": "usr"})
    config["hooks"] = {"prestart": [{"timeout": 0}]}
    config["annotations"] = {"com.example": None}
    config["root"]["readonly"] = "yes"
    del config["ociVersion"]
    texts = [fault.text for fault in validate.faults(config)]
    assert texts == [
        '$.process.cwd: found 1, allowed: a string (config.md#process)',
        '$.process.rlimits[0].type: found "NOFILE", allowed: the name of a limit such as RLIMIT_NOFILE '
        "(config.md#posix-process)",
        "$.process.rlimits[0].soft: found -1, allowed: an integer from 0 to 18446744073709551615 "
        "(config.md#posix-process)",
        "$.process.rlimits[0].hard: found nothing, allowed: an integer from 0 to 18446744073709551615 "
        "(config.md#posix-process)",
        '$.root.readonly: found "yes", allowed: true or false (config.md#root)',
        "$.mounts[3].source: found 5, allowed: a string (config.md#mounts)",
        '$.mounts[4]: found "tmpfs", allowed: an object (config.md#mounts)',
        '$.linux.namespaces[6].type: found "usr", allowed: one of mount, pid, network, uts, ipc, user, '
        "cgroup, time (config-linux.md#namespaces)",
        '$.linux.seccomp.defaultAction: found "ALLOW", allowed: one of SCMP_ACT_KILL, SCMP_ACT_KILL_PROCESS, '
        "SCMP_ACT_KILL_THREAD, SCMP_ACT_TRAP, SCMP_ACT_ERRNO, SCMP_ACT_TRACE, SCMP_ACT_ALLOW, SCMP_ACT_LOG, "
        "SCMP_ACT_NOTIFY (config-linux.md#seccomp)",
        "$.linux.seccomp.syscalls[0].names: found [], allowed: an array of strings, at least 1 "
        "(config-linux.md#seccomp)",
        '$.linux.seccomp.syscalls[0].action: found "X", allowed: one of SCMP_ACT_KILL, '
        "SCMP_ACT_KILL_PROCESS, SCMP_ACT_KILL_THREAD, SCMP_ACT_TRAP, SCMP_ACT_ERRNO, SCMP_ACT_TRACE, "
        "SCMP_ACT_ALLOW, SCMP_ACT_LOG, SCMP_ACT_NOTIFY (config-linux.md#seccomp)",
        '$.linux.sysctl["net.core.somaxconn"]: found 256, allowed: a string (config-linux.md#sysctl)',
        "$.hooks.prestart[0].timeout: found 0, allowed: an integer of at least 1 "
        "(config.md#posix-platform-hooks)",
        "$.hooks.prestart[0].path: found nothing, allowed: a string (config.md#posix-platform-hooks)",
        '$.annotations["com.example"]: found null, allowed: a string (config.md#annotations)',
        "$.ociVersion: found nothing, allowed: a string (config.md#specification-version)",
        "$.process.args: found [], allowed: an array with at least one entry (config.md#process)",
        '$.linux.sysctl["vm.x"]: found "1", allowed: a parameter that belongs to a namespace '
        "(config-linux.md#sysctl)",
    ]


def test_refusal_names_the_first_and_counts_the_rest(tmp_path: Path) -> None:
    config = typical()
    config["root"]["path"] = 5
    config["process"]["cwd"] = "x"
    config["process"]["args"] = []
    path = bundle(tmp_path, config)
    error = refusal(path)
    assert error.config_path == "$.root.path"
    assert str(error) == (
        "$.root.path: found 5, allowed: a string (config.md#root); "
        f"2 more faults: `ocipy validate {path}` lists all"
    )
    assert error.code == "config-invalid"
    config["process"]["args"] = ["sh"]
    assert "; 1 more fault: `ocipy validate" in str(refusal(bundle(tmp_path, config)))


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_not_an_object(value: Any, tmp_path: Path) -> None:
    error = refusal(bundle(tmp_path, value))
    assert error.config_path == "$"
    assert "allowed: an object" in str(error)


def test_missing(tmp_path: Path) -> None:
    error = refusal(str(tmp_path))
    assert str(error) == f"cannot open {tmp_path}/config.json: no such file or directory"
    assert error.code == "config-unreadable"
    error = refusal(f"{tmp_path}/nowhere")
    assert "config.json: no such file or directory (the bundle directory does not exist)" in str(error)
    (fault,) = validate_bundle(str(tmp_path))
    assert "no such file or directory" in fault.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_unreadable(tmp_path: Path) -> None:
    path = bundle(tmp_path, typical())
    (tmp_path / "config.json").chmod(0)
    for directory in (tmp_path, *tmp_path.parents[:3]):  # pytest's directories are for the owner alone
        if directory.stat().st_uid == 0 and directory != Path("/tmp"):
            directory.chmod(0o755)
    code = (
        f"import os, sys; sys.path[:0] = {sys.path!r}; os.setuid(65534)\n"
        "from ocipy.config import load\n"
        f"try: load.load({path!r})\n"
        "except load.ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/")
    assert done.stdout == f"cannot open {path}/config.json: permission denied\n", done.stderr


def test_not_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    assert str(refusal(str(tmp_path))) == f"{tmp_path}/config.json is not a regular file"
    (tmp_path / "config.json").rmdir()
    os.mkfifo(tmp_path / "config.json")  # opening it must not wait for a writer
    assert str(refusal(str(tmp_path))) == f"{tmp_path}/config.json is not a regular file"


def test_too_large(tmp_path: Path) -> None:
    text = json.dumps(typical()).encode()
    path = bundle(tmp_path, text + b" " * (16 * 2**20 - len(text)))
    assert load.load(path) == typical()
    bundle(tmp_path, text + b" " * (16 * 2**20 - len(text) + 1))
    assert str(refusal(path)) == f"{path}/config.json is larger than 16 MiB"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected a value at line 1 column 1"),
        (b"{]", "line 1 column 2"),
        (b'{"a": 1,\n "b" 2}', "line 2 column 6"),
        (b'{"a": "\xff"}', "not UTF-8: byte 7 is 0xff"),
        (b"{} x", "more text after the value at line 1 column 4"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'\xef\xbb\xbf{}', "expected a value at line 1 column 1"),
        (b"[" * 100000, "nested too deeply"),
        (b'{"a": 1, "b": {"c": [1, {"x": 1,\n  "x": 2}]}}',
         'duplicate key "x" in $.b.c[1] at line 2 column 3'),
        (b'{"a": {"k": "\\"}"}, "\\u0061": 2}', 'duplicate key "a" in $ at line 1 column 21'),
        (b'{"a.b": {"k": ["k", "k"], "k": 2}}', 'duplicate key "k" in $["a.b"] at line 1 column 27'),
    ],
)  # fmt: skip
def test_not_json(data: bytes, message: str, tmp_path: Path) -> None:
    path = bundle(tmp_path, data)
    error = refusal(path)
    assert error.config_path == "$"
    assert error.code == "config-json"
    assert message in str(error)
    (fault,) = validate_bundle(path)
    assert fault.config_path == "$"
    assert message in fault.text


def test_bundle_without_root_filesystem(tmp_path: Path) -> None:
    path = bundle(tmp_path, typical())
    (tmp_path / "rootfs").rmdir()
    (fault,) = validate_bundle(path)
    assert fault.config_path == "$.root.path"


def test_subclasses_of_the_types_of_json_are_judged_like_them() -> None:
    class Text(str):
        __slots__ = ()

    config = typical()
    config["hostname"] = Text("host")
    assert not check.check(config)
    load.verify(config)
    config["hostname"] = Text("x" * 65)
    with pytest.raises(ConfigError, match="at most 64 bytes"):
        load.verify(config)


def test_process_of_exec() -> None:
    process = typical()["process"]
    load.verify_process(process)
    for change, path in (
        ({"args": []}, "$.args"), ({"cwd": "x"}, "$.cwd"), ({"env": [1]}, "$.env[0]"),
        ({"env": ["a\0=1"]}, "$.env[0]"), ({"scheduler": {"policy": "SCHED_RR"}}, "$.scheduler.priority"),
        ({"user": {"uid": "0", "gid": 0}}, "$.user.uid"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            load.verify_process({**process, **change})
        assert caught.value.config_path == path
        assert [fault.config_path for fault in validate.process_faults({**process, **change})] == [path]
    with pytest.raises(ConfigError, match="allowed: an object"):
        load.verify_process([])


def test_resources_of_update() -> None:
    load.verify_linux({"resources": {"memory": {"limit": 2**30}, "pids": {}, "unified": {"memory.high": "max"}}})
    for resources, path in (
        ([], ""), ({"memory": {"limit": "1G"}}, ".memory.limit"), ({"cpu": {"idle": 2}}, ".cpu.idle"),
    ):  # fmt: skip
        with pytest.raises(ConfigError) as caught:
            load.verify_linux({"resources": resources})
        assert caught.value.config_path == f"$.linux.resources{path}"


def test_other_documents() -> None:
    state = {"ociVersion": "1.3.0", "id": "a", "status": "running", "pid": 1, "bundle": "/b"}
    assert validate.validate_document("state", state) == []
    (fault,) = validate.validate_document("state", {**state, "pid": "1"})
    assert fault.text == '$.pid: found "1", allowed: an integer of at least 0 (runtime.md#state)'
    assert validate.validate_document("features", {"ociVersionMin": "1.0.0", "ociVersionMax": "1.3.0"}) == []
    features = {"ociVersionMin": "1.0.0", "linux": {"capabilities": ["KILL"]}}
    faults = validate.validate_document("features", features)
    assert [fault.config_path for fault in faults] == ["$.linux.capabilities[0]", "$.ociVersionMax"]


@pytest.mark.spec("config#mounts-3")
def test_notices() -> None:
    config = typical()
    assert warnings.notices(config) == []
    config["process"]["capabilities"]["bounding"].append("CAP_FUTURE")
    config["mounts"][0]["destination"] = "proc"
    config["linux"]["rootfsPropagation"] = "rslave"
    device = {"path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20666}
    config["linux"]["devices"] = [device]
    config["linux"]["resources"]["pids"] = {}
    assert [notice.config_path for notice in warnings.notices(config)] == [
        "$.process.capabilities.bounding[3]", "$.mounts[0].destination", "$.linux.rootfsPropagation",
        "$.linux.devices[0].fileMode", "$.linux.resources.pids.limit",
    ]  # fmt: skip


@pytest.mark.parametrize("rootless", [False, True])
def test_default_spec_has_no_fault(rootless: bool) -> None:
    config = defaults.spec(rootless)
    assert validate.faults(config) == []
    assert warnings.notices(config) == []
    assert ("user" in [entry["type"] for entry in config["linux"]["namespaces"]]) == rootless


@pytest.mark.skipif(shutil.which("runc") is None, reason="no runc on PATH")
@pytest.mark.parametrize("flags", [[], ["--rootless"]], ids=str)
def test_runc_spec_has_no_fault(flags: list[str], tmp_path: Path) -> None:
    subprocess.run(["runc", "spec", *flags], cwd=tmp_path, check=True)
    config = load.load(str(tmp_path))
    ours = defaults.spec(bool(flags))
    assert config.keys() == ours.keys()
    assert config["process"].keys() == ours["process"].keys()
    assert [m["destination"] for m in config["mounts"]] == [m["destination"] for m in ours["mounts"]]
    assert [m.get("options") for m in config["mounts"]] == [m.get("options") for m in ours["mounts"]]


@pytest.mark.skipif(shutil.which("ctr") is None, reason="no ctr on PATH")
def test_containerd_spec_has_no_fault(tmp_path: Path) -> None:
    config = json.loads(subprocess.run(["ctr", "oci", "spec"], capture_output=True, check=True).stdout)
    config["process"]["args"] = ["sh"]  # left for the image to say
    assert load.load(bundle(tmp_path, config)) == config


PROFILE = Path("/usr/share/containers/seccomp.json")


@pytest.mark.skipif(not PROFILE.is_file(), reason=f"no {PROFILE}")
def test_podmans_seccomp_profile_has_no_fault() -> None:
    profile = json.loads(PROFILE.read_text())
    config = typical()
    members = ("names", "action", "errnoRet", "args")
    config["linux"]["seccomp"] = {
        "defaultAction": profile["defaultAction"],
        "syscalls": [
            {key: entry[key] for key in members if entry.get(key) is not None}
            for entry in profile["syscalls"]
        ],
    }
    load.verify(config)


@pytest.mark.skipif(not TOOL.is_file(), reason="an installed package has no tools")
def test_table_is_what_the_schemas_say() -> None:
    written = Path(ocipy.config.__path__[0]) / "_table.py"
    assert written.read_text() == runpy.run_path(str(TOOL))["render"]()


def test_every_property_says_what_it_is_and_where_the_specification_says_so() -> None:
    def walk(schema: Any, place: str) -> None:
        if not isinstance(schema, dict):
            return
        for name, inner in schema.get("properties", {}).items():
            assert inner.get("description"), f"{place}.{name}"
            assert inner.get("x-spec", "").partition("#")[0].endswith(".md"), f"{place}.{name}"
        for name, inner in schema.items():
            if isinstance(inner, dict):
                walk(inner, f"{place}.{name}")

    for path in sorted(validate.SCHEMAS.glob("*.json")):
        schema = json.loads(path.read_text())
        assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
        validate.jsonschema.Draft202012Validator.check_schema(schema)
        walk(schema, path.name)


def test_loading_a_good_config_imports_nothing_heavy(tmp_path: Path) -> None:
    config = typical()
    config["linux"]["rootfsPropagation"] = "rslave"
    path = bundle(tmp_path, config)
    package = str(Path(ocipy.config.__path__[0]).parent.parent)
    code = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {package!r})\n"
        f"from ocipy.config import load; load.load({path!r})\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    command = [sys.executable, "-I", "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert {name for name in imported if not name.startswith("ocipy")} <= {
        "__future__", "_json", "errno", "posix", "_struct", "builtins",
    }  # fmt: skip
    unneeded = ("validate", "fault", "strings", "rules_rare")
    assert not imported & {f"ocipy.config.{name}" for name in unneeded}
