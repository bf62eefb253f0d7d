"""Containers of a user without privilege: the whole life, what is refused, and root inside a user namespace."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id, mounts, until
from test_terminal import Screen
from unprivileged import (
    GID,
    NAME,
    SUBIDS,
    UID,
    User,
    box_fixture,  # noqa: F401
    config_of,
    id_map,
    last,
    map_ids,
    ranges,
    user_fixture,  # noqa: F401
)


def alone(bundle: TestBundle) -> TestBundle:
    return bundle


def as_other(bundle: TestBundle) -> TestBundle:
    """Nobody but uid 1000, gid 1001: there is no root in the container."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1001}
    return map_ids(bundle, id_map((1000, UID, 1)), id_map((1001, GID, 1)))


# --- the whole life ---


def test_spec_as_is(user: User, box: TestBundle) -> None:
    """spec --rootless: the config works as it is written, with its terminal and a shell."""
    (box.path / "config.json").unlink()
    user("spec", "--rootless", "--bundle", str(box.path))
    master, slave = pty.openpty()
    try:
        command = user.command("run", "--bundle", str(box.path), fresh_id())
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as running:
            screen = Screen(master)
            screen.type("tty; id -u; hostname; exit 3\n")
            screen.expect("/dev/pts/0\r\n0\r\nocipy\r\n")
            assert running.wait(60) == 3
    finally:
        os.close(master)
        os.close(slave)


def test_devices(user: User, box: TestBundle) -> None:
    """The host's nodes are bound: nobody can change them through that, nor are programs or set-user-ID bits heeded."""
    found = mounts(user.run(box.args("cat", "/proc/self/mountinfo")).stdout)
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        assert {"ro", "nosuid", "noexec"} <= found[f"/dev/{name}"].options, name


@pytest.mark.parametrize("mapped", [alone, ranges, as_other])
def test_life(user: User, box: TestBundle, mapped: Callable[[TestBundle], TestBundle]) -> None:
    """create, state, exec before and after start, ps, list, kill --all, delete; the user's own id mapped to root, to
    another, or with the ranges of /etc/subuid."""
    mapped(box).args("sleep", "1000")
    who = box.config["process"]["user"]
    name = user.create(box)
    assert user.state(name)["status"] == "created"
    assert user("exec", name, "id", "-u").stdout == f"{who['uid']}\n"
    user("start", name)
    assert user.state(name)["status"] == "running"
    inside = user("exec", name, "sh", "-c", "id -u; id -g; cat /proc/self/uid_map; ls /proc | head -1").stdout.split()
    assert inside[:2] == [str(who["uid"]), str(who["gid"])]
    maps = box.config["linux"]["uidMappings"]
    expected = [str(m[key]) for m in maps for key in ("containerID", "hostID", "size")]
    assert inside[2:] == [*expected, "1"]
    user.detach("exec", "--detach", name, "sleep", "1001")
    pids = json.loads(user("ps", "--format", "json", name).stdout)
    commands = {Path(f"/proc/{pid}/cmdline").read_text() for pid in pids}
    assert commands == {"sleep\0001000\0", "sleep\0001001\0"}
    assert "sleep 1001" in user("ps", name, "-e", "-o", "pid,args").stdout
    (row,) = json.loads(user("list", "--format", "json").stdout)
    assert (row["id"], row["owner"]) == (name, "ocipyuser") or row["owner"] == f"#{UID}"
    assert "cannot delete" in last(user("delete", name, code=1))
    user("kill", "--all", name, "KILL")
    user.wait_for(name, "stopped")
    user("delete", name)
    assert "does not exist" in last(user("state", name, code=1))


def test_ranges(user: User, box: TestBundle) -> None:
    """Ids of the ranges: another user with groups, and files of theirs in a file system of the container."""
    ranges(box)
    box.config["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5, 7]}
    config_of(box)["/dev/pts"]["options"].append("gid=5")
    script = "id -u; id -g; id -G; touch /dev/shm/f; stat -c %u:%g /dev/shm/f /dev/pts/.; cat /proc/self/mountinfo"
    done = user.run(box.sh(script))
    assert done.stdout.splitlines()[:4] == ["1000", "1000", "1000 5 7", "1000:1000"]
    assert f"gid={SUBIDS[0] + 4}" in mounts(done.stdout)["/dev/pts"].superblock or "gid=5" in done.stdout


def test_run_and_exec_with_terminal(user: User, box: TestBundle) -> None:
    """exec --tty gets a terminal of the container's; and run --detach needs a console socket for one."""
    name = user.start(box.args("sleep", "1000"))
    master, slave = pty.openpty()
    try:
        command = user.command("exec", "--tty", name, "sh", "-c", "tty; exit 5")
        with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as running:
            Screen(master).expect("/dev/pts/0\r\n")
            assert running.wait(60) == 5
    finally:
        os.close(master)
        os.close(slave)


def test_signals_to_all(user: User, box: TestBundle) -> None:
    """kill --all without a cgroup: every process of the pid namespace gets the signal, also one that init did not
    begin, and one in a namespace below."""
    box.sh("trap 'echo init >> /dev/shm/got' USR1; while :; do sleep 0.1; done")
    name = user.start(box)
    trap = "trap 'echo exec >> /dev/shm/got; exit' USR1; echo ready >> /dev/shm/got; while :; do sleep 0.1; done"
    user.detach("exec", "--detach", name, "sh", "-c", trap)
    below = "trap 'echo below >> /dev/shm/got; exit' USR1; echo ready2 >> /dev/shm/got; while :; do sleep 0.1; done"
    user.detach("exec", "--detach", name, "busybox", "unshare", "-U", "-p", "-f", "sh", "-c", below)

    def got() -> set[str]:
        return set(user("exec", name, "cat", "/dev/shm/got", code=None).stdout.split())

    until(lambda: got() == {"ready", "ready2"})
    user("kill", "--all", name, "USR1")
    until(lambda: got() == {"ready", "ready2", "init", "exec", "below"})
    user("kill", name, "KILL")


def test_shared_pid_namespace(user: User, box: TestBundle) -> None:
    """Without a cgroup and without a pid namespace its processes can't be told: ps and kill --all say so, and kill
    and delete --force reach the init process."""
    box.config["linux"]["namespaces"] = [ns for ns in box.config["linux"]["namespaces"] if ns["type"] != "pid"]
    config_of(box)["/proc"].update(type="none", source="/proc", options=["rbind"])
    box.config["linux"].update(maskedPaths=[], readonlyPaths=[])
    name = user.start(box.args("sleep", "1000"))
    for words in (["ps", name], ["kill", "--all", name, "TERM"], ["kill", "--all", name, "KILL"]):
        assert "neither a cgroup nor a pid namespace" in last(user(*words, code=1))
    user("delete", "--force", name)


def test_mounts_keep_what_is_locked(user: User, box: TestBundle) -> None:
    """mount_namespaces(7): flags of the host's mounts are locked; more can be set, and to take one off is an error."""
    source = user.home / "source"
    source.mkdir()
    user.prepare = f"mount -t tmpfs -o nosuid,nodev,noexec,noatime t {source}"
    more = {"destination": "/mnt", "type": "none", "source": str(source), "options": ["bind", "ro"]}
    box.config["mounts"].append(more)
    options = mounts(user.run(box.args("cat", "/proc/self/mountinfo")).stdout)["/mnt"].options
    assert {"ro", "nosuid", "nodev", "noexec", "noatime"} <= options
    for option in ("exec", "relatime", "suid"):
        more["options"] = ["bind", option]
        line = user.error(box)
        assert f"$.mounts[{box.config['mounts'].index(more)}]" in line
        assert "can't be taken off" in line
    more["options"] = ["bind", "noatime", "rw", "nodev"]
    user.run(box.args("true"))


def test_joined(user: User, box: TestBundle, image: Path) -> None:
    """config-linux.md#namespaces, path: a user joins namespaces of another container of theirs, as in a pod: its user
    namespace, and what that owns."""
    first = user.start(ranges(box).args("sleep", "1000"))
    pid = user.state(first)["pid"]
    other = user.bundle(image)
    linux = other.config["linux"]
    for ns in linux["namespaces"]:
        if ns["type"] in ("user", "ipc", "uts"):
            ns["path"] = f"/proc/{pid}/ns/{ns['type']}"
    del linux["uidMappings"], linux["gidMappings"], other.config["hostname"]
    name = user.start(other.args("sleep", "1000"))
    second = user.state(name)["pid"]
    for kind in ("user", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") == os.readlink(f"/proc/{second}/ns/{kind}")
    maps = user("exec", name, "sh", "-c", "id -u; cat /proc/self/uid_map").stdout.split()
    assert maps == ["0", "0", str(UID), "1", "1", *map(str, SUBIDS)]


def test_explain(user: User, box: TestBundle) -> None:
    """explain: the plan of a user has no cgroup that could not be made."""
    box.save()
    lines = user("explain", str(box.path)).stdout.splitlines()
    assert not any(line.startswith("cgroup") for line in lines)
    assert any("wait for the id maps" in line for line in lines)


def test_no_pivot(user: User, box: TestBundle) -> None:
    """--no-pivot: what of the host's /proc and /sys is locked can't be unmounted, and is covered."""
    assert user.run(box.args("ls", "/"), "--no-pivot").stdout.split()[:3] == ["bin", "dev", "etc"]


def test_network_of_its_own(user: User, box: TestBundle) -> None:
    """A new network namespace, with lo up, and a sysfs of its own."""
    box.config["linux"]["namespaces"].append({"type": "network"})
    config_of(box)["/sys"].update(type="sysfs", source="sysfs", options=["nosuid", "noexec", "nodev", "ro"])
    assert user.run(box.sh("ls /sys/class/net; ip addr show lo | grep -c UP")).stdout.split() == ["lo", "1"]


def test_hooks_and_seccomp(user: User, box: TestBundle) -> None:
    """Hooks run as the user; a filter is loaded without privilege on the host."""
    out = user.owns(user.home / "run") / "hook"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"id -u >> {out}"]}
    box.config["hooks"] = {kind: [hook] for kind in ("createRuntime", "poststart", "poststop")}
    box.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}],
    }  # fmt: skip
    assert "Operation not permitted" in user.run(box.args("mkdir", "/tmp/x"), code=1).stderr
    assert out.read_text().split() == [str(UID)] * 3
    out.unlink()


# --- refused ---


def without_userns(user: User, box: TestBundle) -> None:
    linux = box.config["linux"]
    linux["namespaces"] = [ns for ns in linux["namespaces"] if ns["type"] != "user"]
    del linux["uidMappings"], linux["gidMappings"]


def without_maps(user: User, box: TestBundle) -> None:
    del box.config["linux"]["uidMappings"]


def beyond_subuid(user: User, box: TestBundle) -> None:
    map_ids(box, id_map((0, UID, 1), (1, 900000, 10)), id_map((0, GID, 1), (1, SUBIDS[0], 10)))


def beyond_subgid(user: User, box: TestBundle) -> None:
    map_ids(box, id_map((0, UID, 1), (1, SUBIDS[0], 10)), id_map((0, GID, 1), (1, 900000, 10)))


def no_ranges(user: User, box: TestBundle) -> None:
    (user.home / "etc/subuid").write_text("")
    ranges(box)


def damaged_ranges(user: User, box: TestBundle) -> None:
    (user.home / "etc/subuid").write_text(f"{NAME}:many:10\n{NAME}:200000\n")
    ranges(box)


def no_name(user: User, box: TestBundle) -> None:
    (user.home / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    ranges(box)


#: a /usr/bin without the programs of the package uidmap, in the private mount namespace
HIDE = """
mkdir "$1/t"; mount -t tmpfs t "$1/t"; mkdir "$1/t/up" "$1/t/work"
mount -t overlay o -o lowerdir=/usr/bin,upperdir="$1/t/up",workdir="$1/t/work" /usr/bin || exit 99
rm /usr/bin/new?idmap || exit 99
"""


def no_program(user: User, box: TestBundle) -> None:
    user.prepare = HIDE
    ranges(box)


#: newuidmap changed, in the private mount namespace
OTHER = """
cp /usr/bin/newuidmap "$1/newuidmap"; {change} "$1/newuidmap"
mount --bind "$1/newuidmap" /usr/bin/newuidmap || exit 99
"""


def no_setuid(user: User, box: TestBundle) -> None:
    user.prepare = OTHER.format(change="chmod 755")
    ranges(box)


def no_permission(user: User, box: TestBundle) -> None:
    user.prepare = OTHER.format(change="chmod 4700")
    ranges(box)


def no_new_privileges(user: User, box: TestBundle) -> None:
    user.wrap = f"{user.home}/setpriv --no-new-privs"
    ranges(box)


def no_program_for_groups(user: User, box: TestBundle) -> None:
    user.prepare = HIDE
    map_ids(box, id_map((0, UID, 1)), ranges(box).config["linux"]["gidMappings"])


def closed_root(user: User, box: TestBundle) -> None:
    box.rootfs.chmod(0o700)
    os.chown(box.rootfs, 0, 0)


def host_sysfs(user: User, box: TestBundle) -> None:
    config_of(box)["/sys"].update(type="sysfs", source="sysfs", options=["ro"])


def host_mqueue(user: User, box: TestBundle) -> None:
    box.config["linux"]["namespaces"] = [ns for ns in box.config["linux"]["namespaces"] if ns["type"] != "ipc"]


def host_proc(user: User, box: TestBundle) -> None:
    box.config["linux"]["namespaces"] = [ns for ns in box.config["linux"]["namespaces"] if ns["type"] != "pid"]


def group_of_a_mount(user: User, box: TestBundle) -> None:
    config_of(box)["/dev/pts"]["options"][0:0] = ["gid=5"]


def unmapped_user(user: User, box: TestBundle) -> None:
    box.config["process"]["user"]["uid"] = 1


def unmapped_group(user: User, box: TestBundle) -> None:
    box.config["process"]["user"]["gid"] = 1


def more_groups(user: User, box: TestBundle) -> None:
    box.config["process"]["user"]["additionalGids"] = [0]


def more_memory(user: User, box: TestBundle) -> None:
    box.config["linux"]["resources"] = {"memory": {"limit": 1 << 28}}


def a_cgroup(user: User, box: TestBundle) -> None:
    box.config["linux"]["cgroupsPath"] = f"/{fresh_id()}"


def less_oom_score(user: User, box: TestBundle) -> None:
    box.config["process"]["oomScoreAdj"] = -1000


def higher_limit(user: User, box: TestBundle) -> None:
    user.prepare = "ulimit -n 4096"
    box.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 8192}]


def a_file_system(user: User, box: TestBundle) -> None:
    box.config["mounts"].append({"destination": "/mnt", "type": "ext4", "source": "/dev/null"})


def part_of_a_tree(user: User, box: TestBundle) -> None:
    config_of(box)["/sys"]["options"] = ["bind", "ro"]
    del box.config["mounts"][-1]


@pytest.mark.parametrize(
    ("change", "where", "words"),
    [
        (without_userns, "$.linux.namespaces:", "`ocipy spec --rootless`"),
        (without_maps, "$.linux.uidMappings:", "mappings for the new user namespace"),
        (beyond_subuid, "$.linux.uidMappings:", "/etc/subuid allows 200000-265535"),
        (beyond_subgid, "$.linux.gidMappings:", "/etc/subgid allows 200000-265535"),
        (no_ranges, "$.linux.uidMappings:", "/etc/subuid allows no ids"),
        (damaged_ranges, "$.linux.uidMappings:", "/etc/subuid allows no ids"),
        (no_name, "$.linux.uidMappings:", "has no name in the user database"),
        (no_program, "$.linux.uidMappings:", "newuidmap is not installed"),
        (no_setuid, "$.linux.uidMappings:", "/usr/bin/newuidmap is neither setuid root"),
        (no_permission, "$.linux.uidMappings:", "can't run /usr/bin/newuidmap: execve: permission denied"),
        (no_new_privileges, "$.linux.uidMappings:", "no_new_privs"),
        (no_program_for_groups, "$.linux.gidMappings:", "package uidmap"),
        (closed_root, "$.mounts[0]:", "as the id maps have it, may not enter or change"),
        (host_sysfs, "$.mounts[5].type:", "only with a network namespace of the container's own"),
        (host_mqueue, "$.mounts[4].type:", "only with an ipc namespace"),
        (host_proc, "$.mounts[0].type:", "only with a pid namespace"),
        (group_of_a_mount, "$.mounts[2].options[0]:", "gid 5 isn't mapped"),
        (unmapped_user, "$.process.user.uid:", "uid 1 isn't mapped"),
        (unmapped_group, "$.process.user.gid:", "gid 1 isn't mapped"),
        (more_groups, "$.process.user.additionalGids:", "/etc/subgid"),
        (more_memory, "$.linux.resources.memory", f"uid {UID} may not write to /sys/fs/cgroup"),
        (a_cgroup, "$.linux.cgroupsPath:", "mkdir: permission denied"),
        (less_oom_score, "$.process.oomScoreAdj:", "CAP_SYS_RESOURCE"),
        (higher_limit, "$.process.rlimits[0]:", "CAP_SYS_RESOURCE"),
        (a_file_system, "$.mounts[7]:", "may not be mountable in a user namespace"),
        (part_of_a_tree, "$.mounts[5].source:", "rbind"),
    ],
)
def test_refused(
    user: User, box: TestBundle, change: Callable[[User, TestBundle], None], where: str, words: str
) -> None:
    """What a user can't have is an error with its config path that says what is missing."""
    change(user, box)
    line = user.error(box)
    assert where in line
    assert words in line


def test_no_user_namespaces(user: User, box: TestBundle) -> None:
    """Where the host allows none, the error says which setting does it."""
    user.wrap = "unshare -Ur sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; exec \"$@\"' sh"
    line = user.error(box)
    assert "$.linux.namespaces: can't make new namespaces: user" in line
    assert "/proc/sys/user/max_user_namespaces" in line


ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine, (0, 0))
#: uses up the user's quota of keys, in a session keyring that goes with the process
FILL = (
    f"{sys.executable} -c 'import ctypes, os, sys; call = ctypes.CDLL(None).syscall; call({KEYCTL}, 1, None); "
    f'[call({ADD_KEY}, b"keyring", b"k%d" % i, None, 0, -3) for i in range(400)]; os.execv(sys.argv[1], sys.argv[1:])\''
)


@pytest.mark.skipif(not KEYCTL or not Path("/proc/key-users").exists(), reason="/proc/key-users: no keys here")
def test_keyring_quota(user: User, box: TestBundle) -> None:
    """keyrings(7): each user has a quota. Where it is used up the error says so, and what does without a keyring.
    The kernel gives back late what ended processes had: create waits for that."""
    until(lambda: f"{UID}:" not in Path("/proc/key-users").read_text().split())
    user.wrap = FILL
    line = user.error(box)
    assert "disk quota exceeded" in line
    assert "--no-new-keyring" in line
    user.run(box.args("true"), "--no-new-keyring")
    user.wrap = ""
    user.run(box)


def test_state_directory(user: User, box: TestBundle) -> None:
    """Below XDG_RUNTIME_DIR; without one the error names --root, which works."""
    name = user.start(box.args("sleep", "100"))
    assert (user.home / "run/ocipy" / name / "state.json").exists()
    assert (user.home / "run/ocipy").stat().st_mode & 0o7777 == 0o1700
    user("delete", "--force", name)
    user.environment = "unset XDG_RUNTIME_DIR"
    line = user.error(box)
    assert "can't use the state directory /run/ocipy" in line
    assert "XDG_RUNTIME_DIR is not set; --root" in line
    user.environment = "export XDG_RUNTIME_DIR=run"  # relative: to be ignored
    assert "XDG_RUNTIME_DIR is no absolute path; --root" in user.error(box)
    other = user.home / "run/other"
    done = user("--root", str(other), "run", "--bundle", str(box.args("echo", "x").save()), fresh_id())
    assert done.stdout == "x\n"
    assert os.listdir(other) == []


def test_another_users_containers(user: User, cli: Cli, bundle: TestBundle) -> None:
    """Root's state directory is closed to users."""
    cli.root.mkdir(mode=0o700)
    cli.root.parent.chmod(0o755)
    name = cli.start(bundle.args("sleep", "100"))
    line = last(user("--root", str(cli.root), "state", name, code=1))
    assert "permission denied" in line


# --- without a cgroup ---


def test_without_cgroup(user: User, box: TestBundle) -> None:
    """What takes a cgroup is refused with the reason, and the container goes on."""
    name = user.start(box.args("sleep", "1000"))
    for words, reason in (
        (["pause"], "no cgroup of its own to freeze"),
        (["events", "--stats"], "no cgroup of its own to measure"),
        (["events"], "no cgroup of its own to watch"),
        (["update", "--memory", "64m"], "$.linux.resources.memory"),
        (["update", "--pids-limit", "5"], "$.linux.resources.pids"),
        (["exec", "--cgroup", "below"], "no cgroup of its own to have one below (--cgroup)"),
    ):
        done = user(*words, name, *(["true"] if words[0] == "exec" else []), code=255 if words[0] == "exec" else 1)
        line = last(done)
        assert reason in line
        assert "Delegate=yes" in line
    assert user.state(name)["status"] == "running"


def test_rootless_flag(user: User, box: TestBundle, cli: Cli) -> None:
    """--rootless, as runc has it: false insists on the cgroup, true and auto do without."""
    box.args("true").save()
    for word, code in (("true", 0), ("auto", 0), ("1", 0), ("false", 1)):
        done = user("--rootless", word, "run", "--bundle", str(box.path), fresh_id(), code=code)
        assert ("$.linux.cgroupsPath" in done.stderr) == (word == "false")
    assert "'maybe' is not a valid BOOL" in last(cli("--rootless", "maybe", "list", code=1))


def test_rootless_as_root(cli: Cli, bundle: TestBundle) -> None:
    """Root may say --rootless true too: it has its cgroup all the same."""
    bundle.config["linux"]["resources"] = {"pids": {"limit": 77}}
    bundle.args("sleep", "100").save()
    name = fresh_id()
    cli.detach("--rootless=true", "run", "-d", "--bundle", str(bundle.path), name)
    cli("pause", name)
    assert cli.state(name)["status"] == "paused"


# --- root inside a user namespace ---


@pytest.mark.parametrize("wrap", ["unshare -Ur", "unshare -Urm", "unshare -Urmpf --mount-proc"])
def test_root_of_a_user_namespace(user: User, box: TestBundle, wrap: str) -> None:
    """As in a rootless engine: an ordinary config works, but for what its namespace does not have; so does one with
    a further user namespace, and one command."""
    user.wrap = wrap
    (box.path / "config.json").unlink()
    user("spec", "--bundle", str(box.path))
    config = json.loads((box.path / "config.json").read_text())
    nested = box.config
    box.config = config | {"process": config["process"] | {"terminal": False}}
    config_of(box)["/dev/pts"]["options"].remove("gid=5")
    box.config["mounts"].append({"destination": "/mnt", "source": "/etc", "options": ["rbind", "ro"]})
    done = user.run(box.sh("cat /proc/self/uid_map; echo >/dev/null; test -e /mnt/passwd && ls -n /dev/null"))
    assert done.stdout.split()[:3] == ["0", str(UID), "1"]
    assert done.stdout.split()[3].startswith("crw-rw-rw-")
    assert user("run", "--rootfs", str(box.rootfs), fresh_id(), "id", "-u").stdout == "0\n"
    box.config = nested
    ids = id_map((5, 0, 1))
    map_ids(box, ids, ids).config["process"]["user"] = {"uid": 5, "gid": 5}
    box.config["mounts"].append({"destination": "/mnt", "source": "/etc", "options": ["rbind", "ro"]})
    assert user.run(box.sh("id -u; test -e /mnt/passwd && echo >/dev/null")).stdout == "5\n"


def test_life_in_a_user_namespace(user: User, box: TestBundle) -> None:
    """The whole life from inside of one: each command sees the same, as a rootless engine keeps its namespaces."""
    config = map_ids(box, id_map((0, 0, 1)), id_map((0, 0, 1))).args("sleep", "100").save()
    name = fresh_id()
    ocipy = user.command()[-1]
    script = (
        f"set -e; o={ocipy}; $o create --bundle {config} {name} </dev/null >/dev/null; $o start {name}; "
        f"$o exec {name} id -u; $o ps -f json {name}; $o kill --all {name} KILL; "
        f"until $o delete {name} 2>/dev/null; do :; done; $o list -q"
    )
    words = user.enter("unshare", "-Ur", "sh", "-c", script)
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == "0"
    assert len(json.loads(done.stdout.splitlines()[1])) == 1
    assert len(done.stdout.splitlines()) == 2


def test_ranges_in_a_user_namespace(user: User, box: TestBundle) -> None:
    """Root of a namespace with ranges gives a part of them to a container's own namespace, and takes its sources as
    who it is: the container's root may not get to them."""
    first = SUBIDS[0]
    user.wrap = "unshare -U --map-auto -r"
    private = user.home / "run/private"
    private.mkdir(mode=0o700)
    (private / "f").write_text("reached\n")
    user.owns(private)
    subprocess.run(["chown", "-hR", f"{first}:{first}", str(box.rootfs)], check=True)
    ids = id_map((0, 1, 1000))
    map_ids(box, ids, ids)
    box.config["mounts"].append({"destination": "/mnt", "source": str(private / "f"), "options": ["bind"]})
    done = user.run(box.sh("cat /mnt /proc/self/uid_map; id -u"))
    assert done.stdout.split() == ["reached", "0", "1", "1000", "0"]
    bad = id_map((0, 70000, 10))
    line = user.error(map_ids(box, bad, bad))
    assert "$.linux.uidMappings" in line
    assert "the caller itself has 0-0, 1-" in line
