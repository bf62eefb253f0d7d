"""Kernel parameters: config-linux.md#sysctl."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Cli, TestBundle


def read(cli: Cli, bundle: TestBundle, *names: str) -> list[str]:
    return cli.run(bundle.args("cat", *(f"/proc/sys/{name}" for name in names))).stdout.split("\n")[:-1]


def test_namespaced(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#sysctl: parameters of the container's own namespaces are set there, and the host's
    stay."""
    names = ["net/ipv4/ip_forward", "kernel/msgmax", "kernel/sem", "fs/mqueue/msg_max"]
    before = [Path(f"/proc/sys/{name}").read_text() for name in names]
    bundle.config["linux"]["sysctl"] = {
        "net.ipv4.ip_forward": "1", "kernel.msgmax": "4321", "kernel.sem": "251 32001 101 129",
        "fs.mqueue.msg_max": "9",
    }  # fmt: skip
    assert read(cli, bundle, *names) == ["1", "4321", "251\t32001\t101\t129", "9"]
    assert [Path(f"/proc/sys/{name}").read_text() for name in names] == before


def test_spellings(cli: Cli, bundle: TestBundle) -> None:
    """sysctl(8): dots part a name, or slashes do and dots belong to it: `net/ipv4/conf/lo/…`."""
    bundle.config["linux"]["sysctl"] = {"net/ipv4/conf/lo/rp_filter": "2", "net.ipv4.conf.all.rp_filter": "1"}
    assert read(cli, bundle, "net/ipv4/conf/lo/rp_filter", "net/ipv4/conf/all/rp_filter") == ["2", "1"]


def test_domain_name(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#sysctl: kernel.domainname belongs to the uts namespace."""
    before = Path("/proc/sys/kernel/domainname").read_text()
    bundle.config["linux"]["sysctl"] = {"kernel.domainname": "nis"}
    assert read(cli, bundle, "kernel/domainname") == ["nis"]
    bundle.config["domainname"] = "to be emptied"
    bundle.config["linux"]["sysctl"] = {"kernel.domainname": ""}
    assert read(cli, bundle, "kernel/domainname") == [""]
    assert Path("/proc/sys/kernel/domainname").read_text() == before


def test_in_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#sysctl: in a user namespace its root may set what belongs to namespaces made in it."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    assert read(cli, bundle, "net/ipv4/ip_forward") == ["1"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("net.ipv4.ip_forward", "many", "write: invalid argument"),
        ("net.ipv4.ip_forward", "", "write: invalid argument"),
        ("net.ipv4.ip_forward", "1 1", "only the first 2 bytes were taken"),
        ("net.ipv4.no_such_thing", "1", "openat2: no such file or directory"),
        ("net.ipv4.conf.eth99.rp_filter", "1", "openat2: no such file or directory"),
    ],
)
def test_refused_by_kernel(cli: Cli, bundle: TestBundle, key: str, value: str, words: str) -> None:
    """config-linux.md#sysctl: what the kernel lacks or refuses is an error with the config path and the
    reason."""
    bundle.config["linux"]["sysctl"] = {key: value}
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert f'$.linux.sysctl["{key}"]' in line
    assert words in line


@pytest.mark.parametrize(
    ("key", "lacking"),
    [
        ("vm.swappiness", ""),
        ("kernel.core_pattern", ""),
        ("kernel.hostname", ""),
        ("kernel.modprobe", ""),
        ("net.ipv4.ip_forward", "network"),
        ("kernel.shmmax", "ipc"),
        ("fs.mqueue.msg_max", "ipc"),
        ("kernel.domainname", "uts"),
        ("net.ipv4/../../../../etc/passwd", ""),
        ("net/../../kernel/core_pattern", ""),
        ("", ""),
        ("net..ipv4", ""),
    ],
)
def test_host_parameters(cli: Cli, bundle: TestBundle, key: str, lacking: str) -> None:
    """config-linux.md#sysctl: a parameter of the host, or of a namespace that the container does not have to
    itself, is refused; so is a name that climbs."""
    linux = bundle.config["linux"]
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != lacking]
    if lacking == "uts":
        del bundle.config["hostname"]
    linux["sysctl"] = {key: "1"}
    assert "$.linux.sysctl" in cli.run(bundle, code=1).stderr


@pytest.mark.parametrize(
    ("kind", "file", "key"),
    [
        ("network", "net", "net.ipv4.conf.all.rp_filter"),
        ("ipc", "ipc", "kernel.msgmax"),
        ("ipc", "ipc", "fs.mqueue.msg_max"),
        ("uts", "uts", "kernel.domainname"),
    ],
)
def test_runtime_namespace_by_path(cli: Cli, bundle: TestBundle, kind: str, file: str, key: str) -> None:
    """config-linux.md#sysctl: nor may a parameter of the runtime's own namespace be set, joined by its
    path."""
    parameter = Path("/proc/sys", key.replace(".", "/"))
    before = parameter.read_text()
    linux = bundle.config["linux"]
    linux["namespaces"] = [n for n in linux["namespaces"] if n["type"] != kind]
    linux["namespaces"].append({"type": kind, "path": f"/proc/self/ns/{file}"})
    del bundle.config["hostname"]
    linux["sysctl"] = {key: "2"}
    assert "$.linux.namespaces[4].path" in cli.run(bundle, code=1).stderr
    assert parameter.read_text() == before


def test_written_to_the_real_procfs(cli: Cli, bundle: TestBundle) -> None:
    """A /proc that an image or a mount prepares can't catch the write, nor turn it elsewhere: it goes
    through the runtime's own procfs (CVE-2019-16884, CVE-2025-52881)."""
    (bundle.path / "fake").mkdir()
    (bundle.path / "fake/ip_forward").write_text("fake\n")
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/proc"]
    bundle.config["linux"]["maskedPaths"] = bundle.config["linux"]["readonlyPaths"] = []
    bundle.config["mounts"].append(
        {"destination": "/proc/sys/net/ipv4", "source": str(bundle.path / "fake"), "options": ["bind"]}
    )
    bundle.config["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
    cli.run(bundle, code=None)
    assert (bundle.path / "fake/ip_forward").read_text() == "fake\n"
