"""What systemd is told of a container, without systemd: names, slices, annotations, limits, devices."""

from __future__ import annotations

from typing import Any

import pytest

from ocipy import cgroups
from ocipy.cgroups.systemd import gvariant, unit
from ocipy.errors import CgroupError, ConfigError, Unsupported

WHERE = "$.linux.resources"


def values(properties: list[unit.Property]) -> dict[str, Any]:
    return {name: value for name, (_, value), _ in properties}


def paths(properties: list[unit.Property]) -> dict[str, str]:
    return {name: path for name, _, path in properties}


@pytest.mark.parametrize(
    ("path", "user", "expected"),
    [
        (None, False, ("system.slice", "ocipy-c1.scope")),
        (None, True, ("user.slice", "ocipy-c1.scope")),
        ("system.slice:docker:1234", False, ("system.slice", "docker-1234.scope")),
        (":cri:1234", True, ("user.slice", "cri-1234.scope")),
        ("a.slice:ignored:a-b.slice", False, ("a.slice", "a-b.slice")),
    ],
)
def test_place(path: str | None, user: bool, expected: tuple[str, str]) -> None:
    """config-linux.md#cgroups-path, as runc reads it with --systemd-cgroup: slice:prefix:name."""
    assert unit.place(path, "c1", user) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/a/b", "a", "a.slice:b", "a.slice:b:c:d", "a.slice:b:", "a.slice:b/../c:d", "a:b:é", "a.slice:b:c@d",
        "a.slice:b:c@",
    ],
)  # fmt: skip
def test_bad_path(path: str) -> None:
    """Anything else is an error of $.linux.cgroupsPath."""
    with pytest.raises(ConfigError) as caught:
        unit.place(path, "c1", False)
    assert caught.value.config_path == "$.linux.cgroupsPath"
    if path.count(":") != 2:
        assert 'expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups' in str(caught.value)


def test_slice_path_without_the_flag() -> None:
    """And a path for systemd is one where cgroupfs is to be used."""
    with pytest.raises(CgroupError, match=r"--systemd-cgroup is not given") as caught:
        cgroups.select("system.slice:docker:1234", "c1")
    assert caught.value.config_path == "$.linux.cgroupsPath"


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("system.slice", "/system.slice/x.scope"),
        ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice/x.scope"),
        ("-.slice", "/x.scope"),
    ],
)
def test_slices(group: str, expected: str) -> None:
    """systemd.slice(5): a dash is a step down."""
    assert unit.directory(group, "x.scope") == expected
    assert unit.directory("any.slice", "a-b.slice") == "/a.slice/a-b.slice"


@pytest.mark.parametrize(
    "group", ["a", ".slice", "-a.slice", "a--b.slice", "a-.slice", "a/b.slice", "../x.slice", "a@b.slice"]
)
def test_bad_slices(group: str) -> None:
    """systemd has no such slices."""
    with pytest.raises(ConfigError, match="invalid slice name"):
        unit.directory(group, "x.scope")


def test_root_slice() -> None:
    """The root slice is the host: it is nobody's own."""
    with pytest.raises(ConfigError, match="root slice"):
        unit.directory("any.slice", "-.slice")


@pytest.mark.parametrize(
    ("text", "number"), [("252.39-1~deb12u2", 252), ("v245.4-1.fc32", 245), ("256~rc1", 256), ("247", 247), ("", 0)]
)
def test_version(text: str, number: int) -> None:
    """systemd's version, with what distributions make of it."""
    assert unit.version(text) == number


def test_begun() -> None:
    """A scope is delegated, and begins with the process; a slice can't have any of that."""
    scope = values(unit.begun("x.scope", "a.slice", 7, "c1", legacy=False))
    assert scope["PIDs"] == [7]
    assert scope["Slice"] == "a.slice"
    assert scope["Delegate"] is True
    assert scope["DefaultDependencies"] is False
    assert {name for name in scope if name.endswith("Accounting")} == {
        "MemoryAccounting", "CPUAccounting", "IOAccounting", "TasksAccounting"
    }  # fmt: skip
    assert "BlockIOAccounting" in values(unit.begun("x.scope", "a.slice", 7, "c1", legacy=True))
    group = values(unit.begun("a-b.slice", "a.slice", 7, "c1", legacy=False))
    assert group["Wants"] == ["a.slice"]
    assert not {"PIDs", "Slice", "Delegate"} & group.keys()


# --- annotations ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("'inactive-or-failed'", ("s", "inactive-or-failed")),
        ('"it\'s"', ("s", "it's")),
        (r"'a\nb\u00e9\'\\'", ("s", "a\nbé'\\")),
        ("true", ("b", True)),
        (" -7 ", ("i", -7)),
        ("0x10", ("i", 16)),
        ("010", ("i", 8)),
        ("2.5", ("d", 2.5)),
        ("1e3", ("d", 1000.0)),
        ("double 3", ("d", 3.0)),
        ("uint64 18446744073709551615", ("t", 2**64 - 1)),
        ("@t 5", ("t", 5)),
        ("byte 255", ("y", 255)),
        ("objectpath '/a'", ("o", "/a")),
        ("@as []", ("as", [])),
        ("['a', 'b']", ("as", ["a", "b"])),
        ("[uint32 1, 2]", ("au", [1, 2])),
        ("[[1], []]", ("aai", [[1], []])),
        ("[('/dev/null', 'rw')]", ("a(ss)", [("/dev/null", "rw")])),
        ("@a(iayu) [(2, [10, 0, 0, 0], 8)]", ("a(iayu)", [(2, [10, 0, 0, 0], 8)])),
    ],
)
def test_gvariant(text: str, expected: tuple[str, Any]) -> None:
    """The GVariant text format, as far as properties need it."""
    assert gvariant.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "plain", "'open", "'a' 'b'", "5x", "089", "--5", "1.2.3", ".", "uint16 65536", "uint32 -1",
        "uint64 'a'", "[]", "[1, 'a']", "[1", "[1 2]", "()", "(1", "@", "@z 1", "@a{sv} {}", "{'a': 1}", "nothing",
        r"'\ud800'", r"'\U00110000'", r"'\u0000'", "true1", "b'x'", "(" * 100,
    ],
)  # fmt: skip
def test_bad_gvariant(text: str) -> None:
    """Malformed text is a ValueError that says where; nothing is guessed."""
    with pytest.raises(ValueError, match="character "):
        gvariant.parse(text)


def test_annotations() -> None:
    """org.systemd.property.NAME, with seconds turned into microseconds, as runc has them."""
    found = unit.annotated({
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.TimeoutStopSec": "2.5",
        "org.systemd.property.RuntimeMaxSec": "uint16 3",
        "org.systemd.property.TimeoutStopUSec": "uint64 7",
        "org.systemd.property.SEC": "true",
        "org.example": "not for us",
    })  # fmt: skip
    assert [(name, value) for name, value, _ in found] == [
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TimeoutStopUSec", ("t", 2_500_000)),
        ("RuntimeMaxUSec", ("t", 3_000_000)),
        ("TimeoutStopUSec", ("t", 7)),
        ("SEC", ("b", True)),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("CollectMode", "inactive-or-failed"),
        ("TimeoutStopSec", "'5s'"),
        ("TimeoutStopSec", "-1"),
        ("TimeoutStopSec", "uint64 18446744073709551615"),
        ("ab", "true"),
        ("a.b", "true"),
        ("Größe", "true"),
        ("", "true"),
        ("Slice", "'other.slice'"),
        ("PIDs", "[uint32 1]"),
    ],
)
def test_bad_annotations(name: str, text: str) -> None:
    """A malformed one is an error of its config path."""
    with pytest.raises(ConfigError) as caught:
        unit.annotated({f"org.systemd.property.{name}": text})
    assert caught.value.config_path.startswith('$.annotations["org.systemd.property.')
    assert caught.value.config_path in str(caught.value)


# --- limits ---


def test_limits_v2() -> None:
    """Each limit that was written, as the file has it now; nothing that was not asked for."""
    files = {
        "memory.max": "1048576\n", "memory.low": "4096\n", "memory.swap.max": "max\n", "memory.high": "8192\n",
        "cpu.weight": "59\n", "cpu.max": "34000 100000\n", "cpuset.cpus": "0-1,9\n", "cpuset.mems": "0\n",
        "pids.max": "max\n", "io.weight": "default 50\n8:0 100\n",
    }  # fmt: skip
    resources: dict[str, Any] = {
        "memory": {"limit": 1 << 20, "reservation": 4096, "swap": -1}, "cpu": {"shares": 512, "quota": 1, "cpus": "0"},
        "pids": {"limit": -1}, "blockIO": {"weight": 50}, "unified": {"memory.high": "8192", "hugetlb.2MB.max": "0"},
    }  # fmt: skip
    found = unit.limits(resources, lambda name: files.get(name, ""), 252, False, WHERE)
    assert values(found) == {
        "MemoryMax": 1 << 20, "MemoryLow": 4096, "MemorySwapMax": 2**64 - 1, "MemoryHigh": 8192, "CPUWeight": 59,
        "CPUQuotaPeriodUSec": 100000, "CPUQuotaPerSecUSec": 340000, "AllowedCPUs": b"\x03\x02",
        "TasksMax": 2**64 - 1, "IOWeight": 50,
    }  # fmt: skip
    assert paths(found)["MemoryLow"] == "$.linux.resources.memory.reservation"
    assert paths(found)["MemoryHigh"] == '$.linux.resources.unified["memory.high"]'
    assert unit.limits({"memory": {"limit": 1}}, lambda _: "", 252, False, WHERE) == []  # no such controller
    assert unit.limits({}, lambda name: files[name], 252, False, WHERE) == []


def test_idle() -> None:
    """cpu.idle 1 is CPUWeight=idle, 0 on D-Bus, in a systemd that knows it."""
    idle = {"cpu": {"idle": 1}}
    assert values(unit.limits(idle, lambda _: "0\n", 252, False, WHERE)) == {"CPUWeight": 0}
    assert unit.limits(idle, lambda _: "0\n", 251, False, WHERE) == []


def test_limits_v1() -> None:
    """The same by the names that systemd has for v1."""
    files = {
        "memory.limit_in_bytes": "9223372036854771712\n", "cpu.shares": "512\n", "cpu.cfs_quota_us": "-1\n",
        "cpu.cfs_period_us": "50000\n", "pids.max": "7\n", "blkio.weight": "500\n", "cpuset.mems": "0\n",
    }  # fmt: skip
    resources: dict[str, Any] = {
        "memory": {"limit": -1}, "cpu": {"shares": 512, "period": 50000, "mems": "0"}, "pids": {"limit": 7},
        "blockIO": {"weight": 500},
    }  # fmt: skip
    found = unit.limits(resources, lambda name: files.get(name, ""), 252, True, WHERE)
    assert values(found) == {
        "MemoryLimit": 2**64 - 1, "CPUShares": 512, "CPUQuotaPeriodUSec": 50000, "CPUQuotaPerSecUSec": 2**64 - 1,
        "TasksMax": 7, "BlockIOWeight": 500, "AllowedMemoryNodes": b"\x01",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cpu", "files", "quota"),
    [
        ({"quota": 33333, "period": 100000}, {}, 34000),
        ({"quota": 34000, "period": 100000}, {}, 34000),
        ({"quota": 33333}, {}, 34000),
        ({"quota": 5001}, {"cpu.max": "max 50000\n"}, 5500),
        ({"quota": 5001}, {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "50000\n"}, 5500),
        ({"quota": -1}, {}, -1),
    ],
)
def test_quota_in_percents(cpu: dict[str, int], files: dict[str, str], quota: int) -> None:
    """systemd keeps whole percents: the quota is rounded up to one, for the file too."""
    resources = unit.rounded({"cpu": cpu, "pids": {"limit": 1}}, lambda name: files.get(name, ""))
    assert resources == {"cpu": cpu | {"quota": quota}, "pids": {"limit": 1}}


def test_oom_policy() -> None:
    """memory.oom.group, by a systemd that can say it of a scope."""
    for text, policy in (("1", "kill"), ("0", "continue")):
        resources = {"unified": {"memory.oom.group": text}}
        assert values(unit.oom_policy(resources, 253, WHERE)) == {"OOMPolicy": policy}
        assert unit.oom_policy(resources, 252, WHERE) == []
    assert unit.oom_policy({}, 253, WHERE) == []


# --- devices ---


def rule(allow: bool, access: str, **more: Any) -> dict[str, Any]:
    return {"allow": allow, "access": access, **more}


NOTHING = rule(False, "rwm")
ONE_MINOR = rule(True, "r", type="c", minor=5)


@pytest.mark.parametrize("legacy", [False, True])
def test_devices(legacy: bool) -> None:
    """A list of what is allowed is systemd's strict policy."""
    found = unit.devices([NOTHING, rule(True, "rw", type="b", major=7), rule(True, "r", type="c", major=1, minor=1)],
                         legacy, WHERE)  # fmt: skip
    assert [name for name, _, _ in found] == ["DeviceAllow", "DevicePolicy", "DeviceAllow"]
    assert found[0][1] == ("a(ss)", [])  # clears the list
    assert found[1][1] == ("s", "strict")
    allowed = dict(found[2][1][1])
    assert allowed["block-7"] == "rwm"  # with the mknod that every device has
    assert allowed["/dev/char/1:1"] == "rm"
    assert allowed["char-*"] == allowed["block-*"] == "m"
    assert allowed["/dev/char/1:3"] == "rwm"  # of every container


@pytest.mark.parametrize("legacy", [False, True])
def test_all_devices(legacy: bool) -> None:
    """All devices are no policy."""
    found = unit.devices([rule(True, "rwm")], legacy, WHERE)
    assert [value for _, value, _ in found] == [("a(ss)", []), ("s", "auto")]


@pytest.mark.parametrize(
    "rules", [[NOTHING, ONE_MINOR], [rule(True, "rwm"), rule(False, "rwm", type="c", major=1, minor=11)]]
)
def test_devices_that_systemd_cannot_say(rules: list[dict[str, Any]]) -> None:
    """On v2 our program alone holds then; on v1 systemd never allows more than the config."""
    assert values(unit.devices(rules, False, WHERE)) == {"DeviceAllow": [], "DevicePolicy": "auto"}
    legacy = values(unit.devices(rules, True, WHERE))
    assert legacy["DevicePolicy"] == "strict"
    assert not any("5" in path and "r" in access for path, access in legacy["DeviceAllow"] if path == "char-*")


def test_devices_beyond_v1() -> None:
    """A hole in a wide rule is an error on v1, as with cgroupfs; on v2 it is left to our program."""
    rules = [NOTHING, rule(True, "rwm", type="c", major=200), rule(False, "w", type="c", major=200, minor=3)]
    assert values(unit.devices(rules, False, WHERE)) == {"DeviceAllow": [], "DevicePolicy": "auto"}
    with pytest.raises(Unsupported):
        unit.devices(rules, True, WHERE)
