"""The plan (docs/architecture.md): compiled from config and host facts alone, without a system call."""

from __future__ import annotations

import copy
import re
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, Cli, TestBundle

from ocipy import plan
from ocipy.errors import ConfigError, Error, Unsupported
from ocipy.host import Host, facts, parse_cgroups
from ocipy.plan import criu, describe, flags, ops
from ocipy.plan.builder import MAGIC, MAX_ID_MAPS, MAX_OPS, MAX_SLOTS, VERSION

INIT = Path(__file__).parent.parent / "native/init"
V1 = parse_cgroups(
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    "3:cpu,cpuacct:/\n2:memory:/\n1:name=systemd:/\n0::/\n",
)
V2 = parse_cgroups("31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/\n")
PATHS = {"memory": "/sys/fs/cgroup/memory/c", "cpu": "/sys/fs/cgroup/cpu,cpuacct/c", "": "/sys/fs/cgroup/c"}


def host(cgroups: Any = V2, euid: int = 0, in_userns: bool = False, lsms: tuple[str, ...] = ()) -> Host:
    made = Host(cgroups, euid, in_userns, lsms=frozenset(lsms))
    made.units = {"cpu/online": "0-3,66", "node/has_memory": "0-1"}
    return made


def compile_(config: dict[str, Any], at: Host | None = None, **options: Any) -> plan.Plan:
    return plan.compile(config, at or host(), plan.Options("/bundle", "c", PATHS, **options))


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(BASE)


def user_namespace(config: dict[str, Any], host_id: int = 100000, size: int = 65536) -> dict[str, Any]:
    config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        config["linux"][name] = [{"containerID": 0, "hostID": host_id, "size": size}]
    return config


def names(compiled: plan.Plan) -> list[str]:
    return [op.name for op in compiled.ops]


def find(compiled: plan.Plan, name: str) -> list[tuple[Any, ...]]:
    return [op.values for op in compiled.ops if op.name == name]


def refused(config: dict[str, Any], at: Host | None = None, **options: Any) -> Error:
    with pytest.raises((ConfigError, Unsupported)) as caught:
        compile_(config, at, **options)
    return caught.value


# --- order ---


def test_typical_order(config: dict[str, Any]) -> None:
    """An engine's container: each operation once, in the order in which each can still be done. The pid
    namespace is made by the clone."""
    compiled = compile_(config)
    assert compiled.clone_flags == flags.NAMESPACES["pid"]
    assert not compiled.forks
    assert compiled.given == ["listen"]
    found = names(compiled)
    expected = [
        "unshare", "setsid", "loopback", "keyring", "hostname", "sync", "propagation", "bind_root",
        *["new_fs", "attach"] * 5, *["mknod"] * 6, *["symlink"] * 6, "mkdir",
        *["readonly"] * 5, *["mask"] * 4, "pivot_root", "null_stdio",
        "bounding", "cwd", "user", "cwd", "no_new_privs", "caps", "lookup", "ready", "wait_start", "exec",
    ]  # fmt: skip
    assert found == expected


def test_order_with_user_namespace(config: dict[str, Any]) -> None:
    """With a user namespace: limits before anything, sources taken as the host's root, then the namespace,
    its maps, its root's ids, the other namespaces, and a child that is in the pid namespace."""
    user_namespace(config)
    config["process"]["oomScoreAdj"] = 5
    config["mounts"].append({"destination": "/m", "source": "data", "options": ["rbind"]})
    compiled = compile_(config)
    assert compiled.clone_flags == 0
    assert compiled.forks
    found = names(compiled)
    order = [
        "proc_write",
        "open_tree",
        "sync",
        "unshare",
        "sync",
        "root_ids",
        "unshare",
        "fork",
        "setsid",
        "bind_root",
    ]
    places = [found.index("proc_write")]
    for name in order[1:]:
        places.append(found.index(name, places[-1] + 1))
    assert places == sorted(places)
    assert "mknod" not in found  # refused in a user namespace: bound instead
    assert find(compiled, "unshare")[0] == (flags.NAMESPACES["user"],)
    sources = [values[1] for values in find(compiled, "open_tree")]
    assert sources == [
        "/bundle/data",
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
    ]
    assert found.index("open_tree") < found.index("unshare")


def test_hooks_order(config: dict[str, Any]) -> None:
    """runtime.md#lifecycle: the runtime's hooks before createContainer ones, all before pivot_root;
    startContainer ones right before the exec, seccomp after them."""
    config["hooks"] = {
        kind: [{"path": f"/{kind}"}] for kind in ("createRuntime", "createContainer", "startContainer")
    }
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    compiled = compile_(config)
    found = [(op.name, op.path) for op in compiled.ops]
    order = [
        ("sync", "$.hooks"), ("hook", "$.hooks.createContainer[0]"), ("pivot_root", "$.root.path"),
        ("ready", ""),
        ("wait_start", ""), ("hook", "$.hooks.startContainer[0]"), ("seccomp", "$.linux.seccomp"),
        ("exec", "$.process.args"),
    ]  # fmt: skip
    assert [entry for entry in found if entry in order] == order


def test_joined_namespaces(config: dict[str, Any]) -> None:
    """Joined namespaces are all opened, with the config path of each, before any is entered, and not
    dumpable is what enters."""
    config["linux"]["namespaces"] = [
        {"type": "mount"}, {"type": "network", "path": "/n"}, {"type": "pid", "path": "/p"},
        {"type": "ipc", "path": "/i"},
    ]  # fmt: skip
    del config["hostname"]
    compiled = compile_(config)
    assert names(compiled)[:5] == ["open_ns", "open_ns", "open_ns", "dumpable", "setns"]
    assert [op.path for op in compiled.ops[:3]] == [f"$.linux.namespaces[{n}].path" for n in (1, 2, 3)]
    assert (compiled.forks, compiled.clone_flags) == (True, 0)
    assert compiled.ops[3].values == (0,)


def test_cgroup_namespace_after_membership(config: dict[str, Any]) -> None:
    """cgroup_namespaces(7): its root is the cgroup that the process is in when it is made; and a cgroup
    mount comes after both."""
    config["linux"]["namespaces"].append({"type": "cgroup"})
    config["mounts"].append({"destination": "/sys/fs/cgroup", "type": "cgroup"})
    compiled = compile_(config)
    membership = next(
        n for n, op in enumerate(compiled.ops) if op.name == "sync" and op.values == (ops.SYNC_CGROUP,)
    )
    assert compiled.ops[membership + 1].values == (flags.NAMESPACES["cgroup"],)
    assert compiled.ops[membership + 2].name == "propagation"  # before any mount, whose pages the cgroup pays for
    kinds = [n for n, op in enumerate(compiled.ops) if op.name == "new_fs" and op.values[1] == "cgroup2"]
    assert len(kinds) == 1
    assert kinds[0] > membership


def test_root_is_last(config: dict[str, Any]) -> None:
    """What makes mounts read-only comes when everything is in them, and the root's own attributes after
    pivot_root."""
    config["root"]["readonly"] = True
    config["linux"]["rootfsPropagation"] = "shared"
    config["mounts"][1]["options"].append("ro")
    found = names(compile_(config))
    assert found.index("remount") < found.index("pivot_root") < found.index("root_attr")
    assert found.index("remount") > max(
        n for n, name in enumerate(found) if name in ("mknod", "symlink", "attach")
    )
    assert "move_root" in names(compile_(config, no_pivot=True))
    assert "pivot_root" not in names(compile_(config, no_pivot=True))


def test_sources_without_privilege(config: dict[str, Any]) -> None:
    """Sources are taken where the caller may: as a user only inside its user namespace; as root of one in a mount
    namespace that is its own, before the container's user namespace."""
    user_namespace(config, 1000, 10)
    found = names(compile_(config, Host(V2, 1000, False, egid=1000)))
    assert found.index("unshare", found.index("unshare") + 1) < found.index("open_tree")
    assert found[found.index("ready") - 1] == "dumpable"
    compiled = compile_(config, host(in_userns=True))
    found = names(compiled)
    assert found[:2] == ["unshare", "open_tree"]
    assert find(compiled, "unshare")[:2] == [(flags.NAMESPACES["mount"],), (flags.NAMESPACES["user"],)]
    assert "dumpable" not in found


@pytest.mark.parametrize(
    ("maps", "ids"),
    [([(0, 1000, 1)], (0, 0, 0)), ([(5, 1000, 1)], (0, 5, 5)), ([(5, 100000, 9)], (1, 5, 5)), ([(0, 1, 9)], (1, 0, 0))],
)
def test_who_it_is_inside(config: dict[str, Any], maps: list[tuple[int, int, int]], ids: tuple[int, ...]) -> None:
    """Root of the user namespace, or who is mapped; setgroups is denied to who maps nothing but the own gid."""
    user_namespace(config)
    keys = ("containerID", "hostID", "size")
    config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [dict(zip(keys, m, strict=True)) for m in maps]
    config["mounts"] = []
    config["process"]["user"] = {"uid": 5, "gid": 5} if maps[0][0] else {"uid": 0, "gid": 0}
    assert find(compile_(config, Host(V2, 1000, False, egid=1000)), "root_ids") == [ids]


def test_exec_plan(config: dict[str, Any]) -> None:
    """exec: joins by pidfd, undumpable, and shares the rest with create."""
    kinds = flags.NAMESPACES["pid"] | flags.NAMESPACES["mount"]
    compiled = plan.compile_exec(config, host(), plan.Options("/bundle", "c"), kinds)
    found = names(compiled)
    assert found[:5] == ["sync", "dumpable", "setns_pidfd", "fork", "setsid"]
    assert compiled.given == ["pidfd"]
    assert found[-3:] == ["lookup", "ready", "exec"]
    assert "root_ids" not in found
    kinds |= flags.NAMESPACES["user"]
    assert "root_ids" in names(
        plan.compile_exec(user_namespace(config), host(), plan.Options("/bundle", "c"), kinds)
    )


def test_pure(config: dict[str, Any]) -> None:
    """compile changes nothing that it is given, and says the same each time."""
    user_namespace(config)
    config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW"}
    before = copy.deepcopy(config)
    first, second = compile_(config), compile_(config)
    assert config == before
    assert first.encode() == second.encode()


# --- single sections ---


def test_device_in_user_namespace(config: dict[str, Any]) -> None:
    """A caller that is itself in a user namespace may not mknod either; a fifo it may make."""
    config["linux"]["devices"] = [{"path": "/p", "type": "p"}]
    compiled = compile_(config, host(in_userns=True))
    assert [values[0] for values in find(compiled, "mknod")] == ["/p"]
    assert len(find(compiled, "open_tree")) == 6


def test_options_in_one_string(config: dict[str, Any]) -> None:
    """Options of a file system are parted by commas as mount(2) does it: not before a digit, in quotes or after a
    backslash; and an empty one is none."""
    options = ["", "a,b=1,,c,", "mpol=bind:0,2", 'context="u:r:t:c1,c2",d', "lowerdir=/a\\,b"]
    config["mounts"] = [{"destination": "/m", "type": "overlay", "options": options}]
    found = [v[3] for v in find(compile_(config), "new_fs")]
    assert found == [["a", "b=1", "c", "mpol=bind:0,2", 'context="u:r:t:c1,c2"', "d", "lowerdir=/a\\,b"]]


def test_cgroup_v1_mount(config: dict[str, Any]) -> None:
    """config-linux.md#default-filesystems: on v1 the type `cgroup` is a tmpfs with a mount per hierarchy,
    and links for the controllers that share one."""
    config["mounts"] = [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro", "nosuid"]}]
    compiled = compile_(config, host(V1))
    assert [v[1] for v in find(compiled, "open_tree")] == [
        PATHS["cpu"],
        PATHS["memory"],
        "/sys/fs/cgroup/systemd",
    ]
    assert [v[1] for v in find(compiled, "symlink")][:2] == ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpuacct"]
    config["linux"]["namespaces"].append({"type": "cgroup"})
    compiled = compile_(config, host(V1))
    assert [v[3] for v in find(compiled, "new_fs")] == [
        ["mode=755"],
        ["cpu", "cpuacct"],
        ["memory"],
        ["none", "name=systemd"],
    ]


def test_mount_options(config: dict[str, Any]) -> None:
    """config.md#linux-mount-options: words to flags; later ones win; what is the kernel's goes to the
    kernel."""
    config["mounts"] = [
        {
            "destination": "/a",
            "type": "tmpfs",
            "options": ["noexec", "exec", "nosuid", "size=1m", "sync", "noatime"],
        },
        {"destination": "/b", "source": "/s", "options": ["rbind", "ro", "rnodev", "rshared", "unbindable"]},
    ]
    compiled = compile_(config)
    assert find(compiled, "new_fs")[0][3:] == (["sync", "size=1m"], flags.NOSUID | flags.NOATIME, "/a")
    recursive, shared, unbindable = find(compiled, "mount_attr")
    [set_] = find(compiled, "bind_attr")
    others = flags.NOSUID | flags.NODEV | flags.NOEXEC | flags.NOSYMFOLLOW
    assert set_[1:] == (flags.RDONLY, 0, others, "/s")
    assert recursive[1:5] == (flags.NODEV, 0, 0, 1)
    assert shared[3:5] == (flags.MS_SHARED, 1)
    assert unbindable[3:5] == (flags.MS_UNBINDABLE, 0)


def test_every_option_has_a_place() -> None:
    """config.md#linux-mount-options: each word of the spec's table is known to exactly one of the tables."""
    spec_words = {
        "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion",
        "lazytime", "loud", "mand", "noatime", "nodev", "nodiratime", "noexec", "noiversion",
        "nolazytime", "nomand", "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private",
        "ratime", "rbind", "rdev", "rdiratime", "relatime", "remount", "rexec", "rnoatime",
        "rnodiratime", "rnoexec", "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro",
        "rprivate", "rrelatime", "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid",
        "rsymfollow", "runbindable", "rw", "shared", "silent", "slave", "strictatime", "suid",
        "symfollow", "sync", "tmpcopyup", "unbindable", "rnodev",
    }  # fmt: skip
    tables = [
        flags.MOUNT_ATTRIBUTES, flags.RECURSIVE_ATTRIBUTES, flags.PROPAGATION, flags.SUPERBLOCK,
        {"bind": 0, "rbind": 0, "remount": 0, "tmpcopyup": 0},
    ]  # fmt: skip
    for word in spec_words:
        assert sum(word in table for table in tables) == 1, word
    assert sum(map(len, tables)) == len(set().union(*tables))


def test_sysctl_files() -> None:
    """sysctl(8): the separator is whichever of dot and slash comes first."""
    from ocipy.plan.rootfs import sysctl_file

    assert sysctl_file("net.ipv4.ip_forward") == "sys/net/ipv4/ip_forward"
    assert sysctl_file("net/ipv4/conf/eth0.1/forwarding") == "sys/net/ipv4/conf/eth0.1/forwarding"
    assert sysctl_file("net.ipv4.conf.eth0/1.forwarding") == "sys/net/ipv4/conf/eth0.1/forwarding"


def test_sysctls_of_a_restored_network() -> None:
    """A restore writes those of the network namespace, and none else: it is not in the container's other namespaces."""
    made = criu.network({
        "net.core.somaxconn": "7", "kernel.msgmax": "1", "net/ipv4/conf/eth0.100/rp_filter": "1",
        "fs.mqueue.msg_max": "1", "kernel.domainname": "net", "netfilter.x": "1",
    })  # fmt: skip
    assert [(op.path, op.values) for op in made.ops if op.name == "proc_write"] == [
        ('$.linux.sysctl["net.core.somaxconn"]', ("sys/net/core/somaxconn", "7")),
        ('$.linux.sysctl["net/ipv4/conf/eth0.100/rp_filter"]', ("sys/net/ipv4/conf/eth0.100/rp_filter", "1")),
    ]


def test_ambient_within_inheritable(config: dict[str, Any]) -> None:
    """capabilities(7): ambient ones that are not inheritable have no effect, and `runc spec` always wrote
    them."""
    config["process"]["capabilities"] |= {"ambient": ["CAP_KILL", "CAP_CHOWN"], "inheritable": ["CAP_KILL"]}
    assert find(compile_(config), "caps")[0][3] == 1 << 5


def test_affinity_around_the_cgroup(config: dict[str, Any]) -> None:
    """config.md#linux-process, execCPUAffinity: `initial` before an exec'd process joins the cgroup, `final` after
    it; and none for the container's first process. CPUs are bits of words of 64."""
    config["process"]["execCPUAffinity"] = {"initial": "1", "final": "2-3,66"}
    compiled = plan.compile_exec(config, host(), plan.Options("/b", "c"), 0x20000000)
    assert names(compiled)[:3] == ["affinity", "sync", "affinity"]
    assert find(compiled, "affinity") == [(struct.pack("=Q", 2),), (struct.pack("=QQ", 12, 4),)]
    assert [line for name, line, _ in compiled.lines() if name == "affinity"][1] == "run on CPUs 2,3,66"
    assert find(compile_(config), "affinity") == []


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("process", "execCPUAffinity", {"initial": "0-4"}, ".initial"),
        ("process", "execCPUAffinity", {"final": "65"}, ".final"),
        ("linux", "memoryPolicy", {"mode": "MPOL_BIND", "nodes": "0,2"}, ".nodes"),
    ],
)
def test_host_lacks_units(config: dict[str, Any], section: str, key: str, value: Any, where: str) -> None:
    """A CPU or memory node that the host does not have is refused by its path."""
    config[section][key] = value
    error = refused(config)
    assert (type(error), error.config_path) == (ConfigError, f"$.{section}.{key}{where}")


def test_memory_policy(config: dict[str, Any]) -> None:
    """config-linux.md#memory-policy: relative nodes are of no host; a host may know of no nodes at all."""
    config["linux"]["memoryPolicy"] = {
        "mode": "MPOL_INTERLEAVE", "nodes": "9", "flags": ["MPOL_F_RELATIVE_NODES"],
    }  # fmt: skip
    assert find(compile_(config), "mempolicy") == [(3 | 1 << 14, struct.pack("=Q", 1 << 9))]
    config["linux"]["memoryPolicy"] = {"mode": "MPOL_DEFAULT"}
    assert find(compile_(config), "mempolicy") == [(0, b"")]
    bare = host()
    bare.units["node/has_memory"] = ""
    assert refused(config, bare).config_path == "$.linux.memoryPolicy"


def test_network_devices_before_hooks(config: dict[str, Any]) -> None:
    """config-linux.md#network-devices: they are asked for last before the createRuntime hooks, which may be about
    them; and a network namespace that is joined for them must not be the runtime's own."""
    config["linux"]["netDevices"] = {"eth0": {}}
    config["hooks"] = {"createRuntime": [{"path": "/bin/true"}]}
    config["linux"]["namespaces"][-1]["path"] = "/ns"
    compiled = compile_(config)
    kinds = [values[0] for values in find(compiled, "sync")]
    assert kinds[-2:] == [ops.SYNC_DEVICES, ops.SYNC_HOOKS]
    assert find(compiled, "open_ns")[0][3] == "/proc/self/ns/net"


# --- what is refused, with its config path ---


@pytest.mark.parametrize(
    ("section", "key", "module"),
    [
        ("process", "apparmorProfile", "AppArmor"),
        ("process", "selinuxLabel", "SELinux"),
        ("linux", "mountLabel", "SELinux"),
    ],
)
def test_labels_without_module(config: dict[str, Any], section: str, key: str, module: str) -> None:
    """A label for a security module that the host has not enabled is refused; another one does not help."""
    config[section][key] = "l"
    others = {"AppArmor": ("selinux",), "SELinux": ("apparmor",)}[module]
    for at in (host(), host(lsms=others)):
        error = refused(config, at)
        assert (type(error), error.config_path) == (Unsupported, f"$.{section}.{key}")
        assert f"{module} is not enabled on this host" in str(error)


def test_mounts_in_proc(config: dict[str, Any]) -> None:
    """The files of /proc that may be bound over are these, and nothing else that this kernel has there is one."""
    allowed = {"cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo",
               "sys/kernel/ns_last_pid", "sys/crypto/fips_enabled"}  # fmt: skip
    others = {path.name for path in Path("/proc").iterdir()} | {"new", "sys/kernel", "sys/kernel/core_pattern"}
    for name in allowed | others:
        config["mounts"] = [{"destination": f"/proc/{name}", "source": "/dev/null", "options": ["bind"]}]
        if name in allowed:
            compile_(config)
        else:
            assert refused(config).config_path == "$.mounts[0].destination", name


@pytest.mark.parametrize(
    ("mount", "where"),
    [
        ({"destination": "/m", "type": "bind"}, ".source"),
        ({"destination": "/m"}, ".type"),
        ({"destination": "/proc", "type": "tmpfs"}, ".destination"),
        ({"destination": "/proc/sys", "type": "tmpfs"}, ".destination"),
        ({"destination": "proc//./sys/../keys", "type": "tmpfs"}, ".destination"),
        ({"destination": "/m", "type": "proc", "options": ["tmpcopyup"]}, ".options"),
        ({"destination": "/m", "source": "/s", "options": ["bind", "tmpcopyup"]}, ".options"),
        ({"destination": "/m", "options": ["remount", "size=1"]}, ".options"),
        ({"destination": "/m", "type": "cgroup", "options": ["memory"]}, ".options"),
        ({"destination": "/a", "options": ["remount", "iversion"]}, ".options"),
        ({"destination": "/m", "type": "tmpfs", "options": ["src-nofollow"]}, ".options"),
        ({"destination": "/m", "type": "cgroup", "options": ["idmap"]}, ".options"),
        ({"destination": "/m", "type": "tmpfs", "options": ["idmap", "tmpcopyup", "silent"]}, ".options"),
    ],
)
def test_refused_mounts(config: dict[str, Any], mount: dict[str, Any], where: str) -> None:
    """config.md#mounts: mounts that can't be had, by their paths."""
    config["mounts"] = [{"destination": "/a", "type": "tmpfs"}, mount]
    assert refused(config).config_path == f"$.mounts[1]{where}"


def idmapped(*hosts: int, **more: Any) -> list[dict[str, Any]]:
    """Bind mounts with maps to these ids of the host."""
    return [
        {"destination": f"/m{number}", "source": "/s", "options": ["bind"]} | more
        | {name: [{"containerID": 0, "hostID": id, "size": 1}] for name in ("uidMappings", "gidMappings")}
        for number, id in enumerate(hosts)
    ]  # fmt: skip


def test_id_maps(config: dict[str, Any]) -> None:
    """config.md#posix-platform-mounts: mounts with the same maps share a namespace, which the launch hands over; the
    ids are mapped in the detached mount, before it is attached."""
    config["mounts"] = idmapped(5, 6, 5)
    compiled = compile_(config)
    assert compiled.given == ["ids0", "ids1", "listen"]
    assert [where for _, where in compiled.id_maps.values()] == ["$.mounts[0]", "$.mounts[1]"]
    first = ("clone3", "make a user namespace for mounts: uids 0:5:1, gids 0:5:1", "$.mounts[0]")
    assert compiled.lines()[0] == first
    assert [values[1:] for values in find(compiled, "idmap")] == [(0, 0, "/s"), (1, 0, "/s"), (0, 0, "/s")]
    assert [n for n in names(compiled) if n in ("open_tree", "idmap", "attach")] == ["open_tree", "idmap", "attach"] * 3


def test_id_maps_of_the_container(config: dict[str, Any]) -> None:
    """config.md#linux-mount-options: idmap, without maps of its own, has the container's; all of it is done before the
    user namespace is entered, as the host's root."""
    config["mounts"] = [
        {"destination": "/m", "source": "/s", "options": ["rbind", "ridmap"]}, *idmapped(100000, options=["bind"]),
    ]  # fmt: skip
    own = compile_(user_namespace(copy.deepcopy(config)))
    assert [where for _, where in own.id_maps.values()] == ["$.linux", "$.mounts[1]"]
    assert [values[2] for values in find(own, "idmap")] == [1, 0]
    found = names(own)
    assert max(n for n, name in enumerate(found) if name == "idmap") < found.index("unshare")
    config["linux"]["namespaces"].append({"type": "user", "path": "/proc/1/ns/user"})
    joined = compile_(config)
    assert [where for _, where in joined.id_maps.values()] == ["$.mounts[1]"]
    found = names(joined)
    # the namespaces to join are opened first of all
    assert found[:6] == ["open_ns", "open_tree", "open_ns", "idmap", "open_tree", "idmap"]
    assert find(joined, "open_ns")[1][1:] == ("/proc/1/ns/user", flags.NAMESPACES["user"], "")


def test_untraceable_in_a_joined_user_namespace(config: dict[str, Any]) -> None:
    """From before it joins one, the helper is never dumpable: not for its time offsets either, whose file it has opened
    before (CVE-2016-9962)."""
    config["linux"]["namespaces"] += [{"type": "user", "path": "/proc/1/ns/user"}, {"type": "time"}]
    config["linux"]["timeOffsets"] = {"boottime": {"secs": 1}}
    compiled = compile_(config)
    found = names(compiled)
    assert find(compiled, "dumpable") == [(0,)]
    assert found.index("proc_open") < found.index("dumpable") < found.index("setns") < found.index("put")


def test_id_maps_refused(config: dict[str, Any]) -> None:
    """config.md#posix-platform-mounts: what takes the host's root, what a user namespace excludes, and too many."""
    config["mounts"] = idmapped(5)
    own = user_namespace(copy.deepcopy(config), 1000, 1)
    assert refused(own, host(euid=1000)).config_path == "$.mounts[0].uidMappings"
    config["mounts"] = idmapped(5, type="tmpfs", options=[])
    assert refused(user_namespace(copy.deepcopy(config))).config_path == "$.mounts[0].uidMappings"
    config["mounts"] = idmapped(*range(MAX_ID_MAPS))
    compile_(config)
    config["mounts"] = idmapped(*range(MAX_ID_MAPS + 1))
    assert refused(config).config_path == f"$.mounts[{MAX_ID_MAPS}]"


def test_link_words(config: dict[str, Any]) -> None:
    """The words for symbolic links (crun.1) say how a source is taken and how it is attached."""
    words = (["src-nofollow"], ["dest-nofollow"], ["copy-symlink"], ["src-nofollow", "dest-nofollow"])
    config["mounts"] = [{"destination": "/m", "source": "/s", "options": ["bind", *word]} for word in words]
    compiled = compile_(config)
    assert [values[2] for values in find(compiled, "open_tree")] == [0x100, 0, 0x100, 0x100]
    assert [values[2] for values in find(compiled, "attach")] == [0, 8, 16, 8]


def test_more_refusals(config: dict[str, Any]) -> None:
    """The rest of what only the compiler knows."""
    without = copy.deepcopy(config)
    without["linux"]["namespaces"] = [{"type": "pid"}]
    assert refused(without).config_path == "$.linux.namespaces"
    notify = copy.deepcopy(config)
    notify["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
    }  # fmt: skip
    assert refused(notify).config_path.startswith("$.linux.seccomp")
    groups = user_namespace(copy.deepcopy(config), 1000, 1)
    groups["mounts"] = []
    groups["process"]["user"]["additionalGids"] = [1]
    assert refused(groups, host(euid=1000)).config_path == "$.process.user.additionalGids[0]"
    groups["process"]["user"]["additionalGids"] = [0]
    assert refused(groups, Host(V2, 1000, False, egid=1000)).config_path == "$.process.user.additionalGids"
    assert plan.compile(groups, Host(V2, 1000, False, egid=1), plan.Options("/bundle", "c"))  # newgidmap lets it be


def test_limits(config: dict[str, Any]) -> None:
    """What does not fit into the helper is refused here, not there."""
    mounts = [{"destination": f"/m{n}", "source": "/s", "options": ["bind"]} for n in range(MAX_SLOTS)]
    config["mounts"] = mounts
    assert len(compile_(config).ops) > 2 * MAX_SLOTS
    assert refused(user_namespace(copy.deepcopy(config))).config_path == "$.mounts"
    config["mounts"] = mounts * (MAX_OPS // MAX_SLOTS)
    assert "operations" in str(refused(config))


# --- encoding ---


def test_numbers_and_names() -> None:
    """Every operation has the number and name that the helper has, no more and no less; so have the header's
    constants and the limits."""
    text = (INIT / "ops.h").read_text()
    theirs = {name: int(code) for code, name in re.findall(r"X\((\d+), (\w+), op_\w+\)", text)}
    assert {kind.name: kind.code for kind in ops.KINDS} == theirs
    assert len({kind.code for kind in ops.KINDS}) == len(ops.KINDS)
    constants = dict(re.findall(r"#define OCIPY_PLAN_(\w+) (\w+)u", text))
    assert (int(constants["MAGIC"], 16), int(constants["VERSION"])) == (MAGIC, VERSION)
    limits = dict(re.findall(r"#define MAX_(\w+) (\d+)", (INIT / "init.h").read_text()))
    assert (int(limits["SLOTS"]), int(limits["OPS"])) == (MAX_SLOTS, MAX_OPS)


def test_layouts() -> None:
    """Each handler reads what its operation's layout writes, in that order."""
    reads = {"rd_u32": "I", "rd_u64": "Q", "rd_str": "s", "rd_strs": "S", "rd_bytes": "b", "in_mount": "IIs"}
    sources = "\n".join(path.read_text() for path in sorted(INIT.glob("*.c")))
    for kind in ops.KINDS:
        match = re.search(rf"^int op_{kind.name}\(.*?^}}", sources, re.MULTILINE | re.DOTALL)
        assert match, kind.name
        body = match.group()
        found = "".join(reads[name] for name in re.findall(r"\b(rd_\w+|in_mount)\(", body))
        assert found == kind.layout.replace("P", "III"), kind.name


SAMPLE: dict[str, Any] = {
    "I": 7,
    "Q": 1 << 40,
    "s": "tëxt",
    "S": ["a", ""],
    "b": b"\0\1",
    "P": [(1, 2), (3, 4)],
}
ENCODED = {
    "I": struct.pack("=I", 7),
    "Q": struct.pack("=Q", 1 << 40),
    "s": struct.pack("=I", 6) + "tëxt\0".encode(),
    "S": struct.pack("=II", 2, 2) + b"a\0" + struct.pack("=I", 1) + b"\0",
    "b": struct.pack("=I", 2) + b"\0\1",
    "P": struct.pack("=IIIII", 2, 1, 2, 3, 4),
}


@pytest.mark.parametrize("kind", ops.KINDS, ids=lambda kind: kind.name)
def test_encoding(kind: ops.Kind) -> None:
    """Each operation encodes by its layout, with its number and length first."""
    encoded = kind("$.x", *(SAMPLE[letter] for letter in kind.layout)).encode()
    body = b"".join(ENCODED[letter] for letter in kind.layout)
    assert encoded == struct.pack("=II", kind.code, len(body)) + body


def test_too_few_values() -> None:
    """A value too many or too few is an error where it is encoded."""
    with pytest.raises(ValueError, match="zip"):
        ops.hostname("").encode()


def test_header(config: dict[str, Any]) -> None:
    """The plan's header: magic, version, count, descriptors given, the operation to fail, and whether to
    measure."""
    compiled = compile_(config)
    head = struct.unpack_from("=6I", compiled.encode(fault=3, timings=True))
    assert head == (MAGIC, VERSION, len(compiled.ops), 1, 3, 1)
    assert struct.unpack_from("=6I", compiled.encode())[4:] == (plan.NO_FAULT, 0)


def test_undecodable_names(config: dict[str, Any]) -> None:
    """Bytes of the config's strings that are no text come out as they went in."""
    config["process"]["args"] = ["/bin/\udcff"]
    assert b"/bin/\xff\0" in compile_(config).encode()


# --- words ---


def rich(config: dict[str, Any]) -> dict[str, Any]:
    """A config with one of everything."""
    config["linux"]["namespaces"] += [{"type": "time"}, {"type": "cgroup"}]
    config["linux"] |= {
        "timeOffsets": {"boottime": {"secs": 5}},
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}],
        "rootfsPropagation": "slave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}],
        },
        "personality": {"domain": "LINUX"},
        "netDevices": {"eth0": {}},
        "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0-1", "flags": ["MPOL_F_STATIC_NODES"]},
    }
    config["root"]["readonly"] = True
    config["domainname"] = "nis"
    config["process"] |= {
        "terminal": True, "oomScoreAdj": 7, "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        "scheduler": {"policy": "SCHED_BATCH"}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 4},
        "execCPUAffinity": {"initial": "0", "final": "2-3,66"},
    }  # fmt: skip
    config["process"]["user"] |= {"umask": 0o27, "additionalGids": [5]}
    config["mounts"] += [
        {"destination": "/b", "source": "/tmp", "options": ["rbind", "ro", "rnosuid", "slave"]},
        {"destination": "/c", "type": "tmpfs", "options": ["tmpcopyup", "ro", "nosymfollow"]},
        {"destination": "/c", "options": ["remount", "size=1m"]},
        {"destination": "/d", "type": "tmpfs"},
        {"destination": "/l", "source": "/tmp", "options": ["bind", "copy-symlink"]},
        *idmapped(5, options=["rbind", "ridmap", "dest-nofollow", "src-nofollow"]),
        {"destination": "/o", "type": "overlay", "options": ["lowerdir=" + "x" * 300]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["ro"]},
    ]
    config["hooks"] = {kind: [{"path": "/bin/true"}] for kind in ("createContainer", "startContainer")}
    return config


def test_words(config: dict[str, Any]) -> None:
    """Every operation of any plan has words: one line, with no trace of a default representation."""
    rich_plan = compile_(rich(copy.deepcopy(config)))
    joined = copy.deepcopy(config)
    joined["linux"]["namespaces"][-1]["path"] = "/ns"
    queue = copy.deepcopy(config)
    queue["mounts"].append({"destination": "/q", "type": "mqueue"})
    queue["linux"]["mountLabel"] = "u:r:t:s0"
    clocks = user_namespace(copy.deepcopy(config))
    clocks["linux"]["namespaces"].append({"type": "time"})
    clocks["linux"]["timeOffsets"] = {"boottime": {"secs": 1}}
    clocks["mounts"].append({"destination": "/b", "source": "/s", "options": ["bind", "idmap"]})
    plans = [
        rich_plan, compile_(clocks), compile_(user_namespace(joined)), compile_(config, no_pivot=True),
        compile_(rich(config), host(V1)),
        plan.compile_exec(rich(config), host(), plan.Options("/b", "c"), 0x20000000),
        compile_(queue, host(lsms=("selinux",))),
        criu.serve_restore("/usr/sbin/criu", [], "/b/rootfs", "/run/ocipy/c"),
        criu.network({"net.core.somaxconn": "9"}),
    ]  # fmt: skip
    seen = set()
    for compiled in plans:
        for name, line, path in compiled.lines():
            seen.add(name)
            assert line, name
            assert not {"\n", "<"} & set(line), name
            assert path == "" or path.startswith("$."), name
    assert {kind.name for kind in ops.KINDS} - seen == set()
    assert set(describe._WORDS) <= {kind.name for kind in ops.KINDS}


def test_words_of_some(config: dict[str, Any]) -> None:
    """A few of them to the letter."""
    lines = {name: line for name, line, _ in compile_(rich(config)).lines()}
    assert lines["fork"] == "continue in a child"
    assert lines["rlimit"] == "set RLIMIT_CORE to 0:0"
    assert lines["umask"] == "set umask 0027"
    assert lines["root_attr"] == "make the root ro slave"
    assert lines["exec"] == "exec true"
    assert lines["mempolicy"] == "set memory policy 0x8002 on nodes 0,1"
    assert lines["bounding"] == "keep in the bounding set: CAP_KILL,CAP_NET_BIND_SERVICE,CAP_AUDIT_WRITE"


def test_explain(cli: Cli, bundle: TestBundle) -> None:
    """`ocipy explain` prints the cgroups and the plan, one operation a line with its config path; and does
    nothing."""
    lines = cli("explain", str(bundle.save())).stdout.splitlines()
    plain = [line.split()[0] for line in lines]
    compiled = names(compile_(bundle.config, facts()))
    assert plain[plain.index("clone3") :] == ["clone3", *compiled]
    assert any(line.endswith("[$.linux.maskedPaths[0]]") and "mask /proc/kcore" in line for line in lines)
    assert all(name == "cgroup" for name in plain[: plain.index("clone3")])
    assert not cli.root.exists()


def test_explain_refuses(cli: Cli, bundle: TestBundle) -> None:
    """`ocipy explain` refuses what create refuses."""
    bundle.config["mounts"].append({"destination": "/proc/sys", "type": "tmpfs"})
    assert "$.mounts[5].destination" in cli("explain", str(bundle.save()), code=1).stderr
