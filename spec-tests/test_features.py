"""features.md, features-linux.md: the structure is well formed, and everything that it claims is exercised.

What is listed by name is used in containers here, one for each list; what is claimed as a whole names the tests
that show it.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, Cli, TestBundle
from test_schema_verdict import OFFICIAL_VALIDATORS

import ocipy
from ocipy.config import validate

FEATURES: dict[str, Any] = json.loads(subprocess.run([OCIPY, "features"], stdout=subprocess.PIPE, check=True).stdout)
LINUX: dict[str, Any] = FEATURES["linux"]
HERE = Path(__file__).parent

#: each claim that is not a list, and the tests of it
CLAIMS = {
    "cgroup.v1": "test_cgroups_v1.py",
    "cgroup.v2": "test_cgroups_v2.py",
    "cgroup.rdma": "test_cgroups_v2.py",
    "mountExtensions.idmap": "test_idmapped_mounts.py",
    "cgroup.systemd": "test_systemd_cgroups.py",
    "cgroup.systemdUser": "test_systemd_cgroups.py",
    "seccomp.enabled": "test_seccomp.py",
    "apparmor.enabled": "test_lsm.py",
    "selinux.enabled": "test_lsm.py",
    "netDevices.enabled": "test_net_devices.py",
    "intelRdt.enabled": "test_intel_rdt.py",
    "intelRdt.schemata": "test_intel_rdt.py",
    "intelRdt.monitoring": "test_intel_rdt.py",
}


@pytest.mark.spec("features#specification-version-1", "features#specification-version-3", "features#annotations-1")
def test_form() -> None:
    """features.md: valid by the project's schema and, where they are at hand, by the official ones."""
    assert validate.validate_document("features", FEATURES) == []
    if OFFICIAL_VALIDATORS:
        assert list(OFFICIAL_VALIDATORS["features"].iter_errors(FEATURES)) == []


@pytest.mark.spec("features#features-structure-2", "features#specification-version-6")
def test_only_defined_properties() -> None:
    """features.md: every property is one that the specification defines, and none is null: what ocipy does not have
    it denies by false or leaves out."""
    schemas = Path(ocipy.config.__path__[0]) / "schemas"

    def walk(value: Any, schema: dict[str, Any], base: str) -> None:
        while "$ref" in schema:
            name, _, pointer = schema["$ref"].partition("#")
            base = name or base
            schema = json.loads((schemas / base).read_text())
            for step in pointer.split("/")[1:]:
                schema = schema[step]
        assert value is not None
        if isinstance(value, dict) and "properties" in schema:
            assert set(value) <= set(schema["properties"])
            for key, inner in value.items():
                walk(inner, schema["properties"][key], base)

    walk(FEATURES, {"$ref": "features.schema.json"}, "features.schema.json")


def test_nothing_twice() -> None:
    """Every list has each of its elements once."""

    def walk(node: Any) -> None:
        for value in node.values() if isinstance(node, dict) else ():
            walk(value)
        if isinstance(node, list):
            assert len(node) == len(set(node))

    walk(FEATURES)


@pytest.mark.spec("features#specification-version-2", "features#specification-version-4")
@pytest.mark.parametrize("name", ["ociVersionMin", "ociVersionMax"])
def test_version(cli: Cli, bundle: TestBundle, name: str) -> None:
    """features.md#specification-version: both are accepted in config.json."""
    bundle.config["ociVersion"] = FEATURES[name]
    cli.run(bundle)


@pytest.mark.spec("features#specification-version-5")
def test_version_order(cli: Cli, bundle: TestBundle) -> None:
    """features.md#specification-version: the greatest is not less than the least; what is less is refused."""
    least, greatest = (tuple(map(int, FEATURES[key].split("."))) for key in ("ociVersionMin", "ociVersionMax"))
    assert least <= greatest
    bundle.config["ociVersion"] = f"{least[0] - 1}.9.0"
    assert "$.ociVersion" in cli.run(bundle, code=1).stderr


@pytest.mark.spec("features#hooks-1")
def test_hooks(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """features.md#hooks: each kind is run."""
    bundle.config["mounts"].append({"destination": "/log", "source": str(tmp_path), "options": ["bind"]})
    bundle.config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo $0 >> {place}/log", kind]}]
        for kind in FEATURES["hooks"]
        for place in ["/log" if kind == "startContainer" else tmp_path]
    }
    cli.run(bundle)
    assert sorted((tmp_path / "log").read_text().split()) == sorted(FEATURES["hooks"])


@pytest.mark.spec("features#mount-options-1")
def test_mount_options(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """features.md#mount-options: each is taken, by a file system that refuses a word which it does not know."""
    mounts = bundle.config["mounts"]
    maps = [{"containerID": 0, "hostID": 0, "size": 1}]
    for number, option in enumerate(FEATURES["mountOptions"]):
        mount = {"destination": f"/m/{number}", "type": "tmpfs", "source": "tmpfs", "options": [option]}
        if option in ("bind", "rbind"):
            mount["source"] = str(tmp_path)
        if option in ("src-nofollow", "dest-nofollow", "copy-symlink"):
            mount |= {"source": str(tmp_path), "options": ["bind", option]}
        if option in ("idmap", "ridmap"):  # not every file system has them
            mount |= {"source": str(tmp_path), "options": ["bind", option], "uidMappings": maps, "gidMappings": maps}
            mounts.append(mount)
            cli("explain", str(bundle.save()))
            mounts.pop()
            continue
        if option == "remount":
            mounts.append(mount | {"options": []})
        mounts.append(mount)
    cli.run(bundle)
    mounts.append({"destination": "/m/x", "type": "tmpfs", "source": "tmpfs", "options": ["frobnicate"]})
    assert f"$.mounts[{len(mounts) - 1}]" in cli.run(bundle, code=1).stderr


@pytest.mark.spec("features-linux#namespaces-1", "config-linux#namespaces-2")
def test_namespaces(cli: Cli, bundle: TestBundle) -> None:
    """features-linux.md#namespaces: each kind is made, but for those that this kernel lacks."""
    files = {"mount": "mnt", "network": "net"}
    kinds = [kind for kind in LINUX["namespaces"] if Path(f"/proc/self/ns/{files.get(kind, kind)}").exists()]
    missing = set(LINUX["namespaces"]) - set(kinds)
    assert missing <= {"time"}, "the kernel of a test host has the others"
    bundle.path.chmod(0o755)
    bundle.config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
    bundle.config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    bundle.config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 1000}]
    bundle.sh("for f in /proc/self/ns/*; do echo ${f##*/} $(readlink $f); done")
    inside = dict(line.split() for line in cli.run(bundle).stdout.splitlines())
    for kind in kinds:
        file = files.get(kind, kind)
        assert inside[file] != str(Path(f"/proc/self/ns/{file}").readlink())


@pytest.mark.spec("features-linux#capabilities-1")
def test_capabilities(cli: Cli, bundle: TestBundle) -> None:
    """features-linux.md#capabilities: each that root has here is the one that the kernel calls so."""
    bounds = next(line for line in Path("/proc/self/status").read_text().splitlines() if "CapBnd" in line)
    held = int(bounds.split()[1], 16)
    names = [name for number, name in enumerate(LINUX["capabilities"]) if held >> number & 1]
    assert len(names) >= 38
    sets = ("bounding", "effective", "permitted")
    bundle.config["process"]["capabilities"] = dict.fromkeys(sets, names)
    bundle.sh("grep -E 'Cap(Bnd|Eff|Prm)' /proc/self/status")
    for line in cli.run(bundle).stdout.splitlines():
        assert int(line.split()[1], 16) == held & (1 << len(LINUX["capabilities"])) - 1
    bundle.config["linux"]["namespaces"].append({"type": "user"})  # there a container has those too that root lacks
    bundle.config["linux"]["uidMappings"] = bundle.config["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 0, "size": 10}
    ]
    for number, name in enumerate(LINUX["capabilities"]):
        bundle.config["process"]["capabilities"] = {"bounding": [name]}
        words = cli("explain", str(bundle.save())).stdout
        assert any(line.startswith("bounding") and name in line for line in words.splitlines()), number


def profile(**more: Any) -> dict[str, Any]:
    """A seccomp profile that denies nothing which ``true`` calls."""
    return {"defaultAction": "SCMP_ACT_ALLOW", **more}


@pytest.mark.spec("features-linux#seccomp-1")
@pytest.mark.parametrize("name", sorted(set(LINUX["seccomp"]["actions"]) - {"SCMP_ACT_NOTIFY"}))
def test_seccomp_action(cli: Cli, bundle: TestBundle, name: str) -> None:
    """features-linux.md#seccomp, actions; what each does is in test_seccomp.py."""
    bundle.config["linux"]["seccomp"] = profile(syscalls=[{"names": ["swapon"], "action": name}])
    cli.run(bundle)


@pytest.mark.spec("features-linux#seccomp-2")
def test_seccomp_operators(cli: Cli, bundle: TestBundle) -> None:
    """features-linux.md#seccomp, operators."""
    bundle.config["linux"]["seccomp"] = profile(
        syscalls=[
            {"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": operator}]}
            for operator in LINUX["seccomp"]["operators"]
        ]
    )
    cli.run(bundle)


@pytest.mark.spec("features-linux#seccomp-3")
def test_seccomp_architectures(cli: Cli, bundle: TestBundle) -> None:
    """features-linux.md#seccomp, archs: each is known; what no machine could have beside this one's says so."""
    for name in LINUX["seccomp"]["archs"]:
        bundle.config["linux"]["seccomp"] = profile(
            architectures=[name], syscalls=[{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]
        )
        done = cli.run(bundle, code=None)
        assert done.returncode == 0 or f"{name} has another byte order" in done.stderr


@pytest.mark.spec("features-linux#seccomp-4", "features-linux#seccomp-5")
def test_seccomp_flags(cli: Cli, bundle: TestBundle) -> None:
    """features-linux.md#seccomp, knownFlags and supportedFlags: the others are refused by name."""
    seccomp = LINUX["seccomp"]
    assert set(seccomp["supportedFlags"]) <= set(seccomp["knownFlags"])
    for name in seccomp["knownFlags"]:
        supported = name in seccomp["supportedFlags"] and "WAIT_KILLABLE" not in name  # that one goes with NOTIFY
        bundle.config["linux"]["seccomp"] = profile(
            flags=[name], syscalls=[{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}]
        )
        done = cli.run(bundle, code=0 if supported else None)
        assert supported or done.returncode == 0 or "$.linux.seccomp.flags" in done.stderr


@pytest.mark.spec("features-linux#memorypolicy-1", "features-linux#memorypolicy-2")
def test_memory_policies(cli: Cli, bundle: TestBundle) -> None:
    """features-linux.md#memorypolicy: each mode and flag is known; the rest is the host's affair."""
    policy = LINUX["memoryPolicy"]
    assert len(policy["modes"]) == 7
    for mode in policy["modes"]:
        nodes = {} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"nodes": "0"}
        for flags in ([], *([flag] for flag in policy["flags"])):
            bundle.config["linux"]["memoryPolicy"] = {"mode": mode, "flags": flags, **nodes}
            done = cli("explain", str(bundle.save()), code=None)
            assert "set memory policy" in done.stdout or "this kernel has no NUMA" in done.stderr


def test_claims_have_tests() -> None:
    """Everything else that is claimed names its tests; what is denied has none."""
    lists = {"namespaces", "capabilities"}
    claimed = {
        f"{section}.{key}"
        for section, values in LINUX.items()
        if section not in lists
        for key, value in values.items()
        if value and not isinstance(value, list)
    }
    assert claimed == set(CLAIMS)
    for file in CLAIMS.values():
        assert (HERE / file).is_file()


def test_annotations(cli: Cli) -> None:
    """features.md#annotations, #unsafe-annotations: what engines ask for checkpoints by, and the annotations of a
    config that do something: those that the code names."""
    assert FEATURES["annotations"]["org.opencontainers.runc.checkpoint.enabled"] == "true"
    assert "--image-path" in cli("checkpoint", "--help").stdout
    package = Path(ocipy.__file__ or "").parent
    source = "".join(path.read_text() for path in package.rglob("*.py") if path.name != "features.py")
    named = set(re.findall(r'"(org\.(?:criu|systemd)\.[a-z.]+)"', source))
    assert named == set(FEATURES["potentiallyUnsafeConfigAnnotations"])
