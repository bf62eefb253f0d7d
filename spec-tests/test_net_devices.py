"""config-linux.md#network-devices: devices of the host that move into the container.

The host is a network namespace of the test's own (``lan``), and its devices are veth pairs made there.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import Cli, Lan, TestBundle, fresh_id, until

SHOW = "ip addr; for n in /sys/class/net/*; do echo \"$n $(cat $n/address) $(cat $n/mtu)\"; done"


def devices(bundle: TestBundle, **names: str) -> TestBundle:
    """Configure devices: ``eth0=""`` keeps the name."""
    bundle.config["linux"]["netDevices"] = {k: {"name": v} if v else {} for k, v in names.items()}
    return bundle


def links(lan: Lan) -> list[str]:
    return [link["ifname"] for link in json.loads(lan.ip("-j", "link"))]


def state(lan: Lan, name: str) -> dict[str, Any]:
    """All that a failed create must leave as it was."""
    (link,) = json.loads(lan.ip("-j", "addr", "show", "dev", name))
    routes = [lan.ip(f"-{family}", "route", "show", "table", "all", "dev", name) for family in (4, 6)]
    addresses = [
        {k: a.get(k) for k in ("local", "prefixlen", "scope", "label", "broadcast", "address")}
        for a in link["addr_info"]
    ]
    return {k: link[k] for k in ("ifname", "address", "mtu", "flags")} | {
        "addresses": sorted(addresses, key=str),
        # those of the kernel's own come some time after the addresses
        "routes": sorted(
            line.strip() for text in routes for line in text.splitlines() if "proto kernel" not in line
        ),
    }


def dress(lan: Lan, name: str) -> dict[str, Any]:
    """A device with one of everything; returns its state. For one device of a test."""
    lan.veth(name)
    lan.ip("link", "set", name, "mtu", "1400")
    lan.ip("addr", "add", "192.0.2.5/24", "broadcast", "192.0.2.255", "label", f"{name}:one", "dev", name)
    lan.ip("addr", "add", "192.0.2.6/24", "dev", name)  # secondary
    lan.ip("addr", "add", "198.51.100.1", "peer", "198.51.100.2/32", "dev", name)
    lan.ip("addr", "add", "192.0.2.7/24", "dev", name, "valid_lft", "3000", "preferred_lft", "3000")  # not permanent
    lan.ip("addr", "add", "203.0.113.9/32", "scope", "link", "dev", name)  # not global
    lan.ip("addr", "add", "2001:db8::5/64", "dev", name)
    lan.ip("route", "add", "203.0.113.0/24", "via", "192.0.2.1", "dev", name)
    lan.ip("route", "add", "203.0.114.0/24", "dev", name, "table", "77")
    lan.ip("route", "add", "203.0.115.1", "dev", name)
    lan.ip("route", "add", "10.9.0.0/16", "via", "203.0.115.1", "dev", name)  # listed before what leads there
    lan.ip("-6", "route", "add", "2001:db8:1::/48", "via", "2001:db8::1", "dev", name)
    return state(lan, name)


@pytest.fixture
def neighbour() -> Iterator[int]:
    """A process in a further network namespace."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "1000"])
    until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
    yield process.pid
    process.kill()
    process.wait()


# --- what moves ---


@pytest.mark.spec("config-linux#network-devices-1", "config-linux#network-devices-5", "config-linux#network-devices-6")
def test_move(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """The device is in the container and no longer on the host, by its new name, up, with its permanent addresses of
    global scope and no others, and with what else it is."""
    was = dress(lan, "v0")
    lines = lan(cli.run, devices(bundle, v0="inner0").sh(SHOW)).stdout
    assert f"/sys/class/net/inner0 {was['address']} 1400" in lines
    assert "v0:" not in lines
    assert ",UP," in next(line for line in lines.splitlines() if ": inner0" in line)
    addresses = [line.split()[1:] for line in lines.splitlines() if line.strip().startswith("inet")]
    assert ["192.0.2.5/24", "brd", "192.0.2.255", "scope", "global", "inner0:one"] in addresses
    assert ["192.0.2.6/24", "scope", "global", "secondary", "inner0"] in addresses
    assert ["198.51.100.1", "peer", "198.51.100.2/32", "scope", "global", "inner0"] in addresses
    assert ["2001:db8::5/64", "scope", "global"] in [a[:3] for a in addresses]
    assert "192.0.2.7" not in lines
    assert "203.0.113.9" not in lines


@pytest.mark.spec("config-linux#network-devices-1", "config-linux#network-devices-4")
def test_names(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """Several devices: one keeps its name, two exchange theirs, and templates get numbers from the kernel."""
    for number in range(5):
        lan.veth(f"v{number}")
    macs = [json.loads(lan.ip("-j", "link", "show", "dev", f"v{n}"))[0]["address"] for n in range(5)]
    script = "cd /sys/class/net; for n in *; do echo $n $(cat $n/address); done"
    done = lan(cli.run, devices(bundle, v0="v1", v1="v0", v2="", v3="eth%d", v4="eth%d").sh(script))
    inside = dict(line.split() for line in done.stdout.splitlines())
    assert [inside[name] for name in ("v1", "v0", "v2")] == macs[:3]
    assert {inside[name] for name in inside if name.startswith("eth")} == set(macs[3:])


@pytest.mark.spec(
    "config-linux#namespace-lifecycle-and-container-termination-1",
    "config-linux#namespace-lifecycle-and-container-termination-2",
)
def test_gone_with_the_container(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """Namespace lifecycle: the runtime does not move a device back; a virtual one ends with its namespace."""
    lan.veth("v0")
    name = lan(cli.create, devices(bundle, v0="x").args("sleep", "1000"))
    assert links(lan) == ["lo", "pv0"]
    lan(cli, "start", name)
    assert " x@" in cli("exec", name, "ip", "link").stdout
    lan(cli, "delete", "--force", name)
    until(lambda: links(lan) == ["lo"])


def test_user_namespace(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """Into a network namespace that the container's user namespace owns."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    lan.veth("v0")
    lan.ip("addr", "add", "192.0.2.5/24", "dev", "v0")
    assert "inet 192.0.2.5/24" in lan(cli.run, devices(bundle, v0="").args("ip", "addr")).stdout


def join(bundle: TestBundle, pid: int) -> None:
    """Configure the network namespace of another process."""
    for entry in bundle.config["linux"]["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = f"/proc/{pid}/ns/net"


def test_joined(cli: Cli, bundle: TestBundle, lan: Lan, neighbour: int) -> None:
    """Into a network namespace that is joined by path; there it stays when the container is deleted."""
    join(bundle, neighbour)
    lan.veth("v0")
    lan(cli.run, devices(bundle, v0="x"))
    inside = ["nsenter", "-t", str(neighbour), "-n", "ip", "link"]
    assert " x@" in subprocess.run(inside, capture_output=True, text=True, check=True).stdout
    # and a second container finds the name taken
    lan.veth("v1")
    before = state(lan, "v1")
    error = lan(cli.run, devices(bundle, v1="x"), code=1).stderr
    assert "$.linux.netDevices.v1: the container's network namespace has a device x already" in error
    assert state(lan, "v1") == before


def test_hooks_and_sysctl(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """The device is there when the createRuntime hooks run, and for a kernel parameter of its own."""
    lan.veth("v0")
    devices(bundle, v0="x")
    seen = bundle.path / "seen"
    script = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); nsenter -t $pid -n ip link > " + str(seen)
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin:/sbin:/usr/sbin"]}
    bundle.config["hooks"] = {"createRuntime": [hook]}
    bundle.config["linux"]["sysctl"] = {"net.ipv4.conf.x.forwarding": "1"}
    assert lan(cli.run, bundle.args("cat", "/proc/sys/net/ipv4/conf/x/forwarding")).stdout == "1\n"
    assert " x@" in seen.read_text()


# --- what is refused, and what is left then ---


@pytest.mark.spec("config-linux#network-devices-2")
def test_missing(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """A device that the host does not have: an error with its config path, before anything is made."""
    lan.veth("v0")
    before = state(lan, "v0")
    done = lan(cli.run, devices(bundle, v0="", v9=""), code=1)
    assert "$.linux.netDevices.v9: there is no network device v9" in done.stderr
    assert state(lan, "v0") == before
    lan.ip("link", "property", "add", "dev", "v0", "altname", "other")
    assert "no network device other" in lan(cli.run, devices(bundle, other=""), code=1).stderr


@pytest.mark.spec("config-linux#network-devices-3")
def test_name_in_use(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """A name that the container has already: an error, and the device stays where it was, and so does another that
    had moved before it."""
    before = [dress(lan, "v0")]
    lan.veth("v1")
    lan.ip("addr", "add", "203.0.120.1/24", "dev", "v1")
    before.append(state(lan, "v1"))
    done = lan(cli.run, devices(bundle, v0="", v1="lo"), code=1)
    assert "$.linux.netDevices.v1: the container's network namespace has a device lo already" in done.stderr
    assert [state(lan, "v0"), state(lan, "v1")] == before


@pytest.mark.spec("config-linux#network-devices-2")
def test_immovable(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """A device that the kernel keeps in its namespace."""
    lan.veth("v0")
    before = state(lan, "v0")
    done = lan(cli.run, devices(bundle, v0="", lo="lo1"), code=1)
    assert "$.linux.netDevices.lo: can't move network device lo" in done.stderr
    assert "invalid argument" in done.stderr
    assert state(lan, "v0") == before


def test_without_network_namespace(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """A container in the host's network namespace, without one or by the path of the host's own."""
    lan.veth("v0")
    devices(bundle, v0="x")
    namespaces = bundle.config["linux"]["namespaces"]
    bundle.config["linux"]["namespaces"] = [n for n in namespaces if n["type"] != "network"]
    assert "$.linux.netDevices" in lan(cli.run, bundle, code=1).stderr
    bundle.config["linux"]["namespaces"].append({"type": "network", "path": "/proc/thread-self/ns/net"})
    done = lan(cli.run, bundle, code=1)
    assert "$.linux.namespaces[4].path" in done.stderr
    assert "the runtime's own namespace" in done.stderr
    assert links(lan) == ["lo", "pv0", "v0"]


def test_unprivileged(cli: Cli, bundle: TestBundle, lan: Lan, neighbour: int) -> None:
    """A caller that may not move devices is told so."""
    join(bundle, neighbour)
    lan.veth("v0")
    before = state(lan, "v0")
    words = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    words += cli.command("run", "--bundle", str(devices(bundle, v0="").save()), fresh_id())
    done = lan(subprocess.run, words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "operation not permitted" in line
    # on cgroup v2 the program for device rules takes the same capability, and comes first
    assert "$.linux.netDevices: can't reach the container's network namespace" in line or "bpf" in line
    assert state(lan, "v0") == before


def _no_program(bundle: TestBundle) -> None:
    bundle.args("/nowhere/program")


def _failing_hook(bundle: TestBundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}


def _killed(bundle: TestBundle) -> None:
    script = "kill -9 $(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')"
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}


@pytest.mark.parametrize("break_it", [_no_program, _failing_hook, _killed])
@pytest.mark.parametrize("user", [False, True])
def test_brought_back(
    cli: Cli, bundle: TestBundle, lan: Lan, break_it: Callable[[TestBundle], None], user: bool
) -> None:
    """A create that fails after the devices have moved: they are on the host again, by their names, with their
    addresses and routes, and up; though the container's namespace is gone, and would have taken them with it."""
    before = [dress(lan, "v0")]
    lan.veth("v1")
    lan.ip("link", "set", "v1", "down")
    before.append(state(lan, "v1"))
    if user:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    break_it(devices(bundle, v0="inner0", v1="eth%d"))
    done = lan(cli.run, bundle, code=1)
    assert "could not be brought back" not in done.stderr
    assert "netDevices" not in done.stderr
    assert [state(lan, "v0"), state(lan, "v1")] == before


def test_brought_back_beside_routes_of_the_kernels(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """A route in place of one that the kernel makes when the device is up: it is there already when it would be set
    again, which is no failure."""
    lan.veth("v0")
    until(lambda: "fe80::/64 proto kernel" in lan.ip("-6", "route", "show", "dev", "v0"))
    lan.ip("-6", "route", "replace", "fe80::/64", "dev", "v0", "proto", "static", "metric", "256")
    lan.ip("-6", "route", "add", "2001:db8:2::/48", "dev", "v0")

    def routes() -> set[str]:
        """By whoever they were set, and how often."""
        text = lan.ip("-6", "route", "show", "dev", "v0").replace(" proto static", " proto kernel")
        return {line.strip() for line in text.splitlines()}

    before = routes()
    _no_program(devices(bundle, v0="inner0"))
    done = lan(cli.run, bundle, code=1)
    assert "could not be brought back" not in done.stderr
    until(lambda: routes() == before)


def test_explain(cli: Cli, bundle: TestBundle, lan: Lan) -> None:
    """`ocipy explain` says when they move, and moves none."""
    lan.veth("v0")
    lines = lan(cli, "explain", str(devices(bundle, v0="x").save())).stdout
    assert "wait for the network devices  [$.linux.netDevices]" in lines
    assert links(lan) == ["lo", "pv0", "v0"]
