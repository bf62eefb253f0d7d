"""Namespaces: config-linux.md#namespaces, #user-namespace-mappings, #offset-for-time-namespace."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, end, mounts, until

#: the spec's names and those under /proc/PID/ns
FILES = {
    "pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user",
    "cgroup": "cgroup", "time": "time",
}  # fmt: skip
IDENTITY = [{"containerID": 0, "hostID": 0, "size": 65536}]
HAVE_TIME = os.path.exists("/proc/self/ns/time")
needs_time = pytest.mark.skipif(not HAVE_TIME, reason="this kernel has no /proc/self/ns/time")
LINKS = "; ".join(f"readlink /proc/self/ns/{file}" for file in FILES.values() if file != "time" or HAVE_TIME)


def kinds() -> list[str]:
    return [kind for kind in FILES if kind != "time" or HAVE_TIME]


def own(pid: int | str = "self") -> dict[str, str]:
    """The namespaces of a process of the host."""
    return {kind: os.readlink(f"/proc/{pid}/ns/{FILES[kind]}") for kind in kinds()}


def seen(cli: Cli, bundle: TestBundle) -> dict[str, str]:
    """The namespaces of a container's program, as it sees them itself."""
    lines = cli.run(bundle.sh(LINKS)).stdout.splitlines()
    return dict(zip(kinds(), lines, strict=True))


def namespaces(bundle: TestBundle, *entries: str | tuple[str, str]) -> None:
    """Set the namespaces: names of new ones, and (name, path) of ones to join."""
    bundle.config["linux"]["namespaces"] = [
        {"type": e} if isinstance(e, str) else {"type": e[0], "path": e[1]} for e in entries
    ]


def map_ids(bundle: TestBundle, maps: list[dict[str, int]] | None = None) -> None:
    """Give the container a user namespace."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = maps or IDENTITY


@pytest.fixture
def holder(request: pytest.FixtureRequest) -> Iterator[Callable[..., int]]:
    """Starts processes that hold new namespaces, made by unshare(1) with the given flags; returns their
    pids."""
    held: list[subprocess.Popen[str]] = []

    def hold(*flags: str) -> int:
        words = ["unshare", *flags, "sh", "-c", "echo $$; exec sleep 1000"]
        held.append(subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True))
        out = held[-1].stdout
        assert out is not None
        first = int(out.readline())
        if "--fork" not in flags:
            return first
        children = Path(f"/proc/{held[-1].pid}/task/{held[-1].pid}/children")
        return int(children.read_text().split()[0])

    yield hold
    for process in held:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in children:
            end(int(pid))
        end(process.pid)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def give_to(path: Path, uid: int) -> None:
    """Give a tree to a user."""
    for name in [path, *path.rglob("*")]:
        os.chown(name, uid, uid, follow_symlinks=False)


# --- new, inherited ---


@pytest.mark.spec("config-linux#namespaces-2", "config-linux#namespaces-6")
def test_new(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces: a type that is listed without a path is a new namespace, of all eight
    types."""
    namespaces(bundle, *(k for k in kinds() if k != "user"))
    map_ids(bundle)
    inside, outside = seen(cli, bundle), own()
    assert [k for k in kinds() if inside[k] == outside[k]] == []


@pytest.mark.spec("config-linux#namespaces-7")
@pytest.mark.parametrize("kind", [k for k in FILES if k != "mount"])
def test_only_one(cli: Cli, bundle: TestBundle, kind: str) -> None:
    """config-linux.md#namespaces: a type that is not listed is the runtime's own; each type alone, beside the
    mount namespace."""
    if kind not in kinds():
        pytest.skip("this kernel has no /proc/self/ns/time")
    namespaces(bundle, "mount", *([kind] if kind != "user" else []))
    del bundle.config["hostname"]
    if kind == "user":
        map_ids(bundle)
        # a sysfs and a proc can be mounted only by who owns the network and pid namespaces
        for index, path in ((4, "/sys"), (0, "/proc")):
            bundle.config["mounts"][index] = {"destination": path, "source": path, "options": ["rbind"]}
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/dev/pts"]
        bundle.config["linux"]["maskedPaths"] = bundle.config["linux"]["readonlyPaths"] = []
    inside, outside = seen(cli, bundle), own()
    assert [k for k in kinds() if inside[k] != outside[k]] == sorted((kind, "mount"), key=kinds().index)


def test_no_mount_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces: without a mount namespace it would be the host's tree that is mounted
    upon and its root that is pivoted: refused, and so is the runtime's own one joined by path."""
    before = Path("/proc/self/mountinfo").read_text()
    bundle.config["linux"] = {"namespaces": [{"type": "pid"}, {"type": "uts"}]}
    done = cli.run(bundle, code=1)
    assert "$.linux.namespaces: a container without a mount namespace" in done.stderr
    namespaces(bundle, "pid", "uts", ("mount", "/proc/self/ns/mnt"))
    done = cli.run(bundle, code=1)
    assert "$.linux.namespaces[2].path" in done.stderr
    assert "the runtime's own namespace" in done.stderr
    assert Path("/proc/self/mountinfo").read_text() == before


def test_pid(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces, pid: the program is process 1, leads a session of its own, and sees nobody
    else."""
    done = cli.run(bundle.sh("echo $$; cut -d' ' -f5,6 /proc/self/stat; cd /proc; ls -d [0-9]* | wc -l"))
    assert done.stdout.splitlines()[0] == "1"
    assert done.stdout.splitlines()[1] == "1 1"
    assert int(done.stdout.splitlines()[2]) <= 3


def test_host_pid(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces: without a pid namespace the program is a process among the host's, and
    when it has ended delete ends what it left."""
    bundle.config["linux"]["namespaces"] = [
        n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"
    ]
    name = cli.start(bundle.sh("sleep 1000 & exec sleep 1000"))
    pid = cli.state(name)["pid"]
    assert os.readlink(f"/proc/{pid}/ns/pid") == os.readlink("/proc/self/ns/pid")
    cli("kill", name, "TERM")
    cli.wait_for(name, "stopped")
    left = json.loads(cli("ps", "--format", "json", name).stdout)
    assert [p for p in left if p != pid]
    cli("delete", name)
    until(lambda: not [p for p in left if Path(f"/proc/{p}").exists()])


def test_names(cli: Cli, bundle: TestBundle) -> None:
    """config.md#hostname, #domainname: set in the container's uts namespace and nowhere else."""
    before = os.uname().nodename
    bundle.config["hostname"], bundle.config["domainname"] = "here.example", "nis.example"
    done = cli.run(bundle.sh("hostname; cat /proc/sys/kernel/domainname"))
    assert done.stdout == "here.example\nnis.example\n"
    assert os.uname().nodename == before


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_names_need_uts(cli: Cli, bundle: TestBundle, name: str) -> None:
    """config.md#hostname, #domainname: refused without a uts namespace; the host would be renamed."""
    namespaces(bundle, "mount", "pid", "network", "ipc")
    bundle.config.pop("hostname")
    bundle.config[name] = "other"
    assert f"$.{name}" in cli.run(bundle, code=1).stderr


@pytest.mark.parametrize("name", ["hostname", "domainname"])
def test_names_of_host_by_path(cli: Cli, bundle: TestBundle, name: str) -> None:
    """config.md#hostname, #domainname: nor may the runtime's own uts namespace be renamed by way of its
    path."""
    before = os.uname()
    namespaces(bundle, "mount", "pid", ("uts", "/proc/self/ns/uts"))
    bundle.config.pop("hostname")
    bundle.config[name] = "other"
    assert "$.linux.namespaces[2].path" in cli.run(bundle, code=1).stderr
    assert os.uname() == before


def test_network(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces, network: a new one has the loopback device, up, and nothing else."""
    done = cli.run(
        bundle.sh(
            "cd /sys/class/net; for n in *; do echo $n; done; cat lo/flags; ping -c1 127.0.0.1 >&2 || :"
        )
    )
    names = done.stdout.split()
    assert "lo" in names
    assert int(names[-1], 16) & 1  # IFF_UP
    assert "eth0" not in names


def test_ipc(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces, ipc: a queue made inside is not on the host."""
    bundle.config["mounts"].append({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"})
    done = cli.run(bundle.sh("touch /dev/mqueue/inner; ls /dev/mqueue; tail -n +2 /proc/sysvipc/shm | wc -l"))
    assert done.stdout.split() == ["inner", "0"]


def test_cgroup(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces, cgroup: a new one has the container's own cgroup as its root."""
    bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    paths = {
        line.rpartition(":")[2]
        for line in cli.run(bundle.args("cat", "/proc/self/cgroup")).stdout.splitlines()
    }
    assert "/" in paths
    assert not [p for p in paths if "ocipytest" in p]


# --- joined by path ---


@pytest.mark.spec("config-linux#namespaces-4")
@pytest.mark.parametrize("kind", ["network", "ipc", "uts", "cgroup"])
def test_joined(cli: Cli, bundle: TestBundle, holder: Callable[..., int], kind: str) -> None:
    """config-linux.md#namespaces, path: the namespace of another process is joined, and is no other's
    business."""
    flag = {"network": "net"}.get(kind, kind)
    pid = holder(f"--{flag}")
    others = [n for n in ("mount", "pid", "ipc", "uts", "network") if n != kind]
    namespaces(bundle, *others, (kind, f"/proc/{pid}/ns/{FILES[kind]}"))
    if kind == "uts":
        bundle.config["hostname"] = "joined"
    inside = seen(cli, bundle)
    assert inside[kind] == own(pid)[kind]
    assert [k for k in others if inside[k] == own()[k]] == []


def test_joined_by_bound_file(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config-linux.md#namespaces, path: a file that a namespace is bound on, as `ip netns` makes them."""
    file = tmp_path / "netns"
    file.write_text("")
    subprocess.run(["unshare", f"--net={file}", "true"], check=True)
    try:
        namespaces(bundle, "mount", "pid", ("network", str(file)))
        bundle.config.pop("hostname")
        assert seen(cli, bundle)["network"] != own()["network"]
    finally:
        subprocess.run(["umount", file], check=True)


@pytest.mark.spec("config-linux#namespaces-4", "runtime#delete-4")
def test_joined_pid(cli: Cli, bundle: TestBundle, holder: Callable[..., int]) -> None:
    """config-linux.md#namespaces, path, pid: the program is in the other's pid namespace, and its pid as
    the host sees it is in the state."""
    pid = holder("--pid", "--fork", "--mount-proc")
    namespaces(bundle, "mount", "uts", "ipc", "network", ("pid", f"/proc/{pid}/ns/pid"))
    name = cli.start(bundle.sh("ls -d /proc/[0-9]* > /seen; exec sleep 1000"))
    found = cli.state(name)["pid"]
    assert os.readlink(f"/proc/{found}/ns/pid") == os.readlink(f"/proc/{pid}/ns/pid")
    seen = bundle.rootfs / "seen"
    until(lambda: seen.exists() and "/proc/1\n" in seen.read_text())
    assert Path(f"/proc/{found}/stat").read_text().split()[3] != str(pid)
    done = cli("exec", name, "sh", "-c", "readlink /proc/self/ns/pid")
    assert done.stdout.strip() == os.readlink(f"/proc/{pid}/ns/pid")
    cli("delete", "--force", name)
    os.kill(pid, 0)  # delete ends the container, not the owner of the namespace


@pytest.mark.spec("config-linux#namespaces-4")
def test_joined_mount(cli: Cli, bundle: TestBundle, holder: Callable[..., int]) -> None:
    """config-linux.md#namespaces, path, mount: the container's mounts are made in the joined namespace."""
    pid = holder("--mount")
    namespaces(bundle, "pid", "uts", "ipc", "network", ("mount", f"/proc/{pid}/ns/mnt"))
    inside = seen(cli, bundle)
    assert inside["mount"] == own(pid)["mount"]
    assert f"{bundle.rootfs}" not in mounts(Path("/proc/self/mountinfo").read_text())


@pytest.mark.spec("config-linux#namespaces-4")
def test_joined_user(cli: Cli, open_bundle: TestBundle, holder: Callable[..., int]) -> None:
    """config-linux.md#namespaces, path, user: a user namespace and one that it owns are joined together,
    though the one may be entered only from within the other."""
    pid = holder("--user", "--map-root-user", "--net", "--uts")
    if own(pid)["user"] == own()["user"]:
        pytest.fail("unshare made no user namespace")
    namespaces(
        open_bundle, "mount", "pid", "ipc",
        ("uts", f"/proc/{pid}/ns/uts"), ("network", f"/proc/{pid}/ns/net"),
        ("user", f"/proc/{pid}/ns/user"),
    )  # fmt: skip
    open_bundle.config["mounts"] = [m for m in open_bundle.config["mounts"] if m["destination"] != "/dev/pts"]
    inside = seen(cli, open_bundle)
    assert {k: inside[k] for k in ("user", "network", "uts")} == {
        k: own(pid)[k] for k in ("user", "network", "uts")
    }


@pytest.mark.parametrize(("size", "code"), [(1, 0), (2, 1)])
def test_joined_user_with_maps(
    cli: Cli, open_bundle: TestBundle, holder: Callable[..., int], size: int, code: int
) -> None:
    """config-linux.md#user-namespace-mappings: those of the namespace that is joined may be in the config, too; others
    would be ignored, and are refused."""
    pid = holder("--user", "--map-root-user")
    namespaces(open_bundle, "mount", "pid", "ipc", "network", "uts", ("user", f"/proc/{pid}/ns/user"))
    open_bundle.config["mounts"] = [m for m in open_bundle.config["mounts"] if m["destination"] != "/dev/pts"]
    for name in ("uidMappings", "gidMappings"):
        open_bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": size}]
    words = "$.linux.uidMappings: not the map of the user namespace that is joined by its path"
    assert (words in cli.run(open_bundle, code=code).stderr) == bool(code)


@pytest.mark.parametrize(("name", "size", "code"), [
    ("uidMappings", 1, 0), ("uidMappings", 2, 1), ("gidMappings", 1, 0), ("gidMappings", 2, 1),
])  # fmt: skip
@pytest.mark.parametrize("other", [{}, {"uidMappings": [], "gidMappings": []}])
def test_joined_user_with_one_map(
    cli: Cli, open_bundle: TestBundle, holder: Callable[..., int], name: str, size: int, code: int,
    other: dict[str, Any],
) -> None:
    """One of the two is looked at also if the other is left out, or empty."""
    pid = holder("--user", "--map-root-user")
    namespaces(open_bundle, "mount", "pid", "ipc", "network", "uts", ("user", f"/proc/{pid}/ns/user"))
    open_bundle.config["mounts"] = [m for m in open_bundle.config["mounts"] if m["destination"] != "/dev/pts"]
    open_bundle.config["linux"] |= other | {name: [{"containerID": 0, "hostID": 0, "size": size}]}
    words = f"$.linux.{name}: not the map of the user namespace that is joined by its path"
    assert (words in cli.run(open_bundle, code=code).stderr) == bool(code)


def test_host_network_in_new_user(cli: Cli, open_bundle: TestBundle, holder: Callable[..., int]) -> None:
    """config-linux.md#namespaces: a network namespace that the host owns is joined before the container's new
    user namespace is made, which could not join it."""
    pid = holder("--net")
    namespaces(open_bundle, "mount", "pid", "ipc", "uts", ("network", f"/proc/{pid}/ns/net"))
    map_ids(open_bundle)
    open_bundle.config["mounts"] = [m for m in open_bundle.config["mounts"] if m["destination"] != "/sys"]
    assert seen(cli, open_bundle)["network"] == own(pid)["network"]


@pytest.mark.spec("config-linux#namespaces-4", "runtime#delete-4")
def test_container_joins_container(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """config-linux.md#namespaces, path: a second container in the namespaces of a first, as in a pod;
    deleting it leaves the first alone."""
    first, second = make_bundle(), make_bundle()
    name = cli.start(first.sh("echo first > /proc/sys/kernel/x 2>/dev/null; exec sleep 1000"))
    pid = cli.state(name)["pid"]
    shared = ("network", "ipc", "uts", "pid")
    namespaces(second, "mount", *((k, f"/proc/{pid}/ns/{FILES[k]}") for k in shared))
    second.config.pop("hostname")
    inside = seen(cli, second)
    assert {k: inside[k] for k in shared} == {k: own(pid)[k] for k in shared}
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)


def _no_file(path: Path) -> str:
    return "/nowhere/ns"


def _wrong_type(path: Path) -> str:
    return "/proc/self/ns/uts"


def _plain_file(path: Path) -> str:
    (path / "plain").write_text("")
    return str(path / "plain")


def _directory(path: Path) -> str:
    return str(path)


def _fifo(path: Path) -> str:
    os.mkfifo(path / "fifo")
    return str(path / "fifo")


@pytest.mark.spec("config-linux#namespaces-5")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_no_file, "no such file or directory"),
        (_wrong_type, "a namespace of another type"),
        (_plain_file, "not a namespace file"),
        (_directory, "not a namespace file"),
        (_fifo, "not a namespace file"),
    ],
)
def test_bad_path(
    cli: Cli, bundle: TestBundle, tmp_path: Path, make: Callable[[Path], str], words: str
) -> None:
    """config-linux.md#namespaces, path: what is no namespace, or one of another type, is an error with the
    path in the config and the reason."""
    namespaces(bundle, "mount", "pid", "uts", ("network", make(tmp_path)))
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert "$.linux.namespaces[3].path" in line
    assert words in line


@pytest.mark.spec("config-linux#namespaces-8")
@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([{"type": "mount"}, {"type": "net"}], "$.linux.namespaces[1].type"),
        ([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}], "$.linux.namespaces[2].type"),
        ([{"type": "mount"}, {"type": "ipc", "path": "relative/ns"}], "$.linux.namespaces[1].path"),
        ([{"type": "mount"}, {}], "$.linux.namespaces[1]"),
    ],
)
def test_bad_entry(cli: Cli, bundle: TestBundle, entries: list[dict[str, Any]], words: str) -> None:
    """config-linux.md#namespaces: unknown and repeated types and relative paths are refused."""
    bundle.config["linux"] = {"namespaces": entries}
    del bundle.config["hostname"]
    assert words in cli.run(bundle, code=1).stderr


# --- user namespaces ---


def test_root_elsewhere(cli: Cli, open_bundle: TestBundle) -> None:
    """config-linux.md#user-namespace-mappings: root in the container is user 100000 of the host, who owns the
    bundle's files; what it makes belongs to that user, and the host's files are nobody's."""
    map_ids(open_bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    give_to(open_bundle.rootfs, 100000)
    script = """
        id; stat -c %u:%g / /proc/1 /dev /dev/shm; cat /proc/self/uid_map /proc/self/gid_map
        cat /proc/self/setgroups; touch /made; stat -c %u:%g /dev/null; echo x > /dev/null && echo ok
    """
    done = cli.run(open_bundle.sh(script))
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert lines == [
        "uid=0(root) gid=0(root)", "0:0", "0:0", "0:0", "0:0", "0 100000 65536", "0 100000 65536",
        "allow", "65534:65534", "ok",
    ]  # fmt: skip
    made = (open_bundle.rootfs / "made").stat()
    assert (made.st_uid, made.st_gid) == (100000, 100000)


def test_users_of_mapped_ids(cli: Cli, open_bundle: TestBundle) -> None:
    """config.md#posix-platform-user: uid, gid and additional gids count inside of the mapping, of several
    ranges."""
    open_bundle.config["linux"]["namespaces"].append({"type": "user"})
    open_bundle.config["linux"]["uidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 1}, {"containerID": 1000, "hostID": 5000, "size": 2},
    ]  # fmt: skip
    open_bundle.config["linux"]["gidMappings"] = [
        {"containerID": 0, "hostID": 100000, "size": 10}, {"containerID": 1000, "hostID": 6000, "size": 100},
    ]  # fmt: skip
    # gid=5 of devpts is mapped, as engines take care of
    open_bundle.config["process"]["user"] = {"uid": 1001, "gid": 1002, "additionalGids": [1003, 5]}
    give_to(open_bundle.rootfs, 100000)
    (open_bundle.rootfs / "tmp").chmod(0o777)
    done = cli.run(open_bundle.sh("id -u; id -g; id -G; touch /tmp/f"))
    uid, gid, *groups = done.stdout.split()
    assert (uid, gid, set(groups)) == ("1001", "1002", {"1002", "1003", "5"})
    made = (open_bundle.rootfs / "tmp/f").stat()
    assert (made.st_uid, made.st_gid) == (5001, 6002)


def test_unmapped_user(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user: a user that is not mapped is an error with the config path."""
    map_ids(bundle, [{"containerID": 0, "hostID": 0, "size": 10}])
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 0}
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert "$.process.user.uid: uid 1000 isn't mapped" in line


def test_unreachable_bundle(cli: Cli, bundle: TestBundle) -> None:
    """A bundle that the container's root may not get to, as its directory is private: an error that says
    so."""
    map_ids(bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert "$.root.path" in line
    assert "permission denied" in line


def test_bind_out_of_reach(cli: Cli, open_bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: the source of a bind mount is taken as the caller, who gets to places where the
    container's root does not; its flags are locked, and more can be added."""
    map_ids(open_bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    give_to(open_bundle.rootfs, 100000)
    source = tmp_path / "private"
    source.mkdir(mode=0o755)
    (source / "f").write_text("reached\n")
    options = [["bind", "ro", "nosuid"], ["rbind", "rw", "suid", "exec", "dev"], ["rbind", "rslave", "rro"]]
    for number, words in enumerate(options):
        open_bundle.config["mounts"].append(
            {"destination": f"/m{number}", "source": str(source), "options": words}
        )
    done = cli.run(open_bundle.sh("cat /m0/f /m1/f /m2/f; cat /proc/self/mountinfo"))
    assert done.stdout.startswith("reached\n" * 3)
    assert {"ro", "nosuid"} <= mounts(done.stdout)["/m0"].options
    assert "rw" in mounts(done.stdout)["/m1"].options


def test_capabilities_in_user_namespace(cli: Cli, open_bundle: TestBundle) -> None:
    """user_namespaces(7): the container's root has the capabilities that the config gives, within its
    namespaces only."""
    map_ids(open_bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    give_to(open_bundle.rootfs, 100000)
    for name in ("bounding", "effective", "permitted"):
        open_bundle.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN", "CAP_CHOWN"]
    script = (
        "mount -t tmpfs t /tmp && echo mounted; hostname other && hostname; cat /proc/kmsg 2>&1 | head -1"
    )
    done = cli.run(open_bundle.sh(script))
    assert done.stdout.startswith("mounted\nother\n")
    assert "Operation not permitted" in done.stdout or "Permission denied" in done.stdout


@pytest.mark.parametrize(
    ("maps", "where"),
    [
        ([], "uidMappings"),
        ([{"containerID": 0, "hostID": 0, "size": 0}], "uidMappings[0].size"),
        (
            [{"containerID": 0, "hostID": 0, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}],
            "uidMappings[1].containerID",
        ),
    ],
)
def test_bad_maps(cli: Cli, bundle: TestBundle, maps: list[dict[str, int]], where: str) -> None:
    """config-linux.md#user-namespace-mappings: missing, empty and overlapping ranges are refused."""
    map_ids(bundle)
    bundle.config["linux"]["uidMappings"] = maps
    assert f"$.linux.{where}" in cli.run(bundle, code=1).stderr


def test_long_map(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#user-namespace-mappings: a map whose text does not fit a page, though the kernel takes as many
    ranges, is refused in a line."""
    map_ids(bundle)
    base, page = 10**9, os.sysconf("SC_PAGESIZE")
    maps = [{"containerID": base + 2 * n, "hostID": base + 2 * n, "size": 1} for n in range(340)]
    bundle.config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}, *maps[1:]]
    done = cli.run(bundle, code=1 if page == 4096 else 0)
    if page == 4096:
        assert "$.linux.uidMappings: can't map '0 0 65536" in done.stderr
        assert "the kernel takes less than a page" in done.stderr
        assert len(done.stderr) < 400


def test_maps_without_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#user-namespace-mappings: mappings without a user namespace would be ignored:
    refused."""
    bundle.config["linux"]["uidMappings"] = IDENTITY
    assert "$.linux.uidMappings" in cli.run(bundle, code=1).stderr


def test_exec_in_user_namespace(cli: Cli, open_bundle: TestBundle) -> None:
    """exec joins the user namespace too, and is its root, with the capabilities of the config."""
    map_ids(open_bundle, [{"containerID": 0, "hostID": 100000, "size": 65536}])
    give_to(open_bundle.rootfs, 100000)
    name = cli.start(open_bundle.args("sleep", "1000"))
    done = cli("exec", name, "sh", "-c", "id -u; readlink /proc/self/ns/user; grep CapEff /proc/self/status")
    pid = cli.state(name)["pid"]
    expected = Path(f"/proc/{pid}/status").read_text().partition("CapEff:")[2].split()[0]
    assert done.stdout.split() == ["0", os.readlink(f"/proc/{pid}/ns/user"), "CapEff:", expected]
    cli("delete", "--force", name)


# --- time namespaces ---


@needs_time
@pytest.mark.parametrize("user", [False, True])
def test_time_offsets(cli: Cli, bundle: TestBundle, user: bool) -> None:
    """config-linux.md#offset-for-time-namespace: both clocks are moved, and only in the container; in a user
    namespace as well."""
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    if user:
        map_ids(bundle)
    bundle.config["linux"]["timeOffsets"] = {
        "monotonic": {"secs": 1000000, "nanosecs": 500}, "boottime": {"secs": 2000000},
    }  # fmt: skip
    done = cli.run(bundle.sh("cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime"))
    words = done.stdout.split()
    assert words[:6] == ["monotonic", "1000000", "500", "boottime", "2000000", "0"]
    assert int(words[6]) > 2000000
    assert Path("/proc/self/timens_offsets").read_text().split()[1] == "0"


@needs_time
def test_time_offsets_of_exec(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#offset-for-time-namespace: they hold for what exec runs; into the past, and of a part of a
    second, as well."""
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    bundle.config["linux"]["timeOffsets"] = {
        "monotonic": {"secs": -1, "nanosecs": 999999999}, "boottime": {"secs": 4000000},
    }  # fmt: skip
    name = cli.start(bundle.args("sleep", "1000"))
    words = cli("exec", name, "sh", "-c", "cat /proc/self/timens_offsets; cut -d. -f1 /proc/uptime").stdout.split()
    assert words[:6] == ["monotonic", "-1", "999999999", "boottime", "4000000", "0"]
    assert int(words[6]) > 4000000
    cli("delete", "--force", name)


@needs_time
def test_time_offset_before_boot(cli: Cli, bundle: TestBundle) -> None:
    """time_namespaces(7): an offset that would take a clock below zero is an error with the config path."""
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    bundle.config["linux"]["timeOffsets"] = {"monotonic": {"secs": -(10**9)}}
    assert "$.linux.timeOffsets" in cli.run(bundle, code=1).stderr.splitlines()[-1]


@pytest.mark.spec("config-linux#namespaces-4")
@needs_time
def test_joined_time(cli: Cli, bundle: TestBundle, holder: Callable[..., int]) -> None:
    """config-linux.md#namespaces, path, time: the clocks of another process's time namespace."""
    pid = holder("--time", "--fork", "--boottime", "3000000")
    namespaces(bundle, "mount", "pid", "uts", "ipc", "network", ("time", f"/proc/{pid}/ns/time"))
    assert int(cli.run(bundle.args("cat", "/proc/uptime")).stdout.partition(".")[0]) > 3000000
    assert seen(cli, bundle)["time"] == own(pid)["time"]


@pytest.mark.skipif(HAVE_TIME, reason="this kernel has time namespaces")
def test_time_missing(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#namespaces: a type that the kernel lacks is an error with the config path."""
    bundle.config["linux"]["namespaces"].append({"type": "time"})
    assert "$.linux.namespaces" in cli.run(bundle, code=1).stderr.splitlines()[-1]


def test_offsets_without_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#offset-for-time-namespace: offsets without a new time namespace are refused."""
    bundle.config["linux"]["timeOffsets"] = {"monotonic": {"secs": 1}}
    assert "$.linux.timeOffsets" in cli.run(bundle, code=1).stderr


def test_state_during_joins(cli: Cli, bundle: TestBundle) -> None:
    """runtime.md#state: the pid is that of the program, also where the first process is not the last (a user
    namespace takes a second one)."""
    map_ids(bundle)
    name = cli.create(bundle.args("sleep", "1000"))
    pid = cli.state(name)["pid"]
    cli("start", name)
    until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x001000\x00")
    cli("delete", "--force", name)
