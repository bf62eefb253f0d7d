"""Id-mapped mounts: config.md#posix-platform-mounts (uidMappings, gidMappings), and the options idmap and ridmap."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, children, fresh_id, mounts, nothing_left, until

from ocipy import Container
from ocipy.container.prepare import CreateOptions
from ocipy.errors import LaunchError
from ocipy.launch.protocol import Message, failure
from ocipy.plan import Plan, ops

#: on the disk -> in the container: root and user 1000 change places, everybody else is nobody
SWAP = [{"containerID": 0, "hostID": 1000, "size": 1}, {"containerID": 1000, "hostID": 0, "size": 1}]
SHIFT = [{"containerID": 0, "hostID": 100000, "size": 65536}]
NOBODY = 65534


def add(bundle: TestBundle, *options: str, source: Path, to: str = "/m", **more: Any) -> str:
    """Append a bind mount; returns its config path."""
    bundle.config["mounts"].append({"destination": to, "source": str(source), "options": list(options)} | more)
    return f"$.mounts[{len(bundle.config['mounts']) - 1}]"


def both(maps: list[dict[str, int]]) -> dict[str, Any]:
    return {"uidMappings": maps, "gidMappings": maps}


def user_namespace(bundle: TestBundle, path: str = "") -> None:
    """A user namespace of its own, or one joined; its root can't make mount points in the image."""
    bundle.config["linux"]["namespaces"].append({"type": "user"} | ({"path": path} if path else {}))
    bundle.config["linux"] |= {} if path else both(SHIFT)
    (bundle.rootfs / "m").mkdir()


@pytest.fixture
def volume(ext4: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A file system with a file each of root, of user 1000 and of user 5000."""
    point = ext4(tmp_path / "volume")
    point.chmod(0o777)
    for owner in (0, 1000, 5000):
        (point / f"of-{owner}").write_text("")
        os.chown(point / f"of-{owner}", owner, owner)
    return point


@pytest.fixture
def joinable() -> Iterator[str]:
    """A user namespace to join, with the maps of SHIFT."""
    held = subprocess.Popen(["unshare", "--user", "sleep", "1000"], stdin=subprocess.DEVNULL)
    ours = os.readlink("/proc/self/ns/user")
    while os.readlink(f"/proc/{held.pid}/ns/user") == ours:
        pass
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{held.pid}/{name}").write_text("0 100000 65536")
    yield f"/proc/{held.pid}/ns/user"
    held.kill()
    held.wait()


LOOK = "cd /m && stat -c '%n %u %g' of-*; touch new; cat /proc/self/mountinfo"


def owners(stdout: str) -> list[int]:
    """What LOOK saw: the owners of the three files."""
    lines = [line.split() for line in stdout.splitlines()[:3]]
    assert [line[0] for line in lines] == ["of-0", "of-1000", "of-5000"]
    assert all(uid == gid for _, uid, gid in lines)
    return [int(uid) for _, uid, _ in lines]


@pytest.mark.spec("features-linux#mountextensions-1")
def test_is_claimed(cli: Cli) -> None:
    """features-linux.md#mountextensions: `ocipy features` says so."""
    assert json.loads(cli("features").stdout)["linux"]["mountExtensions"]["idmap"]["enabled"] is True


# --- whose maps ---


@pytest.mark.spec("config#posix-platform-mounts-1", "config#posix-platform-mounts-2", "config#linux-mount-options-11")
@pytest.mark.parametrize("option", [[], ["idmap"], ["ridmap"]])
def test_own_maps(cli: Cli, bundle: TestBundle, volume: Path, option: list[str]) -> None:
    """config.md#posix-platform-mounts: the mount's own mappings, in a container without a user namespace, with the
    option and without. Files are seen, and made, with ids as mapped; an id without a map is nobody's."""
    add(bundle, "bind", *option, "nosuid", source=volume, **both(SWAP))
    found = cli.run(bundle.sh(LOOK)).stdout
    assert owners(found) == [1000, 0, NOBODY]
    assert {"idmapped", "nosuid"} <= mounts(found)["/m"].options
    made = (volume / "new").stat()
    assert (made.st_uid, made.st_gid) == (1000, 1000)


def test_unmapped_writer(cli: Cli, bundle: TestBundle, volume: Path) -> None:
    """config.md#posix-platform-mounts: who has no id there makes no files there."""
    add(bundle, "bind", "idmap", source=volume, **both(SWAP))
    bundle.config["process"]["user"] = {"uid": 7, "gid": 7}
    assert "Value too large" in cli.run(bundle.sh("touch /m/new"), code=1).stderr
    assert not (volume / "new").exists()


def test_uids_and_gids_differ(cli: Cli, bundle: TestBundle, volume: Path) -> None:
    """config.md#posix-platform-mounts: uids and gids have a map each."""
    gids = [{"containerID": 0, "hostID": 7, "size": 1}]
    add(bundle, "bind", "idmap", source=volume, uidMappings=SWAP, gidMappings=gids)
    done = cli.run(bundle.sh("stat -c %u:%g /m/of-0 /m/of-1000"))
    assert done.stdout == f"1000:7\n0:{NOBODY}\n"


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_of_the_container(cli: Cli, open_bundle: TestBundle, volume: Path, option: str) -> None:
    """config.md#linux-mount-options: without mappings of its own a mount has those of the container's user namespace:
    root on the disk is root in the container."""
    user_namespace(open_bundle)
    add(open_bundle, "bind", option, source=volume)
    found = cli.run(open_bundle.sh(LOOK)).stdout
    assert owners(found) == [0, 1000, 5000]
    assert (volume / "new").stat().st_uid == 0


def test_own_in_a_user_namespace(cli: Cli, open_bundle: TestBundle, volume: Path) -> None:
    """config.md#posix-platform-mounts: the mount's own mappings are to ids of the host, in a user namespace as well."""
    user_namespace(open_bundle)
    maps = [{"containerID": 5000, "hostID": 100001, "size": 1}]
    add(open_bundle, "bind", "idmap", source=volume, **both(maps))
    found = cli.run(open_bundle.sh(LOOK)).stdout
    assert owners(found) == [NOBODY, NOBODY, 1]


@pytest.mark.parametrize("own", [False, True])
def test_of_a_joined_one(cli: Cli, open_bundle: TestBundle, volume: Path, joinable: str, own: bool) -> None:
    """config.md#linux-mount-options: idmap where the user namespace is joined by its path."""
    user_namespace(open_bundle, joinable)
    maps = both([{"containerID": 5000, "hostID": 100001, "size": 1}]) if own else {}
    add(open_bundle, "bind", "idmap", source=volume, **maps)
    found = cli.run(open_bundle.sh(LOOK)).stdout
    assert owners(found) == ([NOBODY, NOBODY, 1] if own else [0, 1000, 5000])


@pytest.mark.spec("config#linux-mount-options-13")
@pytest.mark.parametrize(("option", "below"), [("idmap", False), ("ridmap", True)])
def test_recursive(
    cli: Cli, bundle: TestBundle, volume: Path, ext4: Callable[[Path], Path], option: str, below: bool
) -> None:
    """config.md#linux-mount-options: ridmap maps what is mounted below as well, idmap the mount alone."""
    ext4(volume / "sub")
    add(bundle, "rbind", option, source=volume, **both(SWAP))
    done = cli.run(bundle.sh("stat -c %u /m/of-0 /m/sub; cat /proc/self/mountinfo"))
    assert done.stdout.startswith(f"1000\n{1000 if below else 0}\n")
    found = mounts(done.stdout)
    assert "idmapped" in found["/m"].options
    assert ("idmapped" in found["/m/sub"].options) is below


def test_many_maps(cli: Cli, bundle: TestBundle, volume: Path) -> None:
    """config.md#posix-platform-mounts: mounts with different maps side by side, and with the same."""
    for number in range(1, 6):
        maps = [{"containerID": 0, "hostID": number, "size": 1}]
        for name in (f"/m/{number}", f"/n/{number}"):
            add(bundle, "bind", "idmap", source=volume, to=name, **both(maps))
    done = cli.run(bundle.sh("stat -c %u /m/*/of-0 /n/*/of-0"))
    assert done.stdout.split() == [*"12345"] * 2


def test_file(cli: Cli, bundle: TestBundle, volume: Path) -> None:
    """config.md#posix-platform-mounts: a single file."""
    add(bundle, "bind", "idmap", "ro", source=volume / "of-0", to="/etc/file", **both(SWAP))
    assert cli.run(bundle.sh("stat -c %u /etc/file")).stdout == "1000\n"


def test_new_filesystem(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-mounts: not only bind mounts; a tmpfs, filled by tmpcopyup with what is then mapped."""
    (bundle.rootfs / "m").mkdir()
    (bundle.rootfs / "m").chmod(0o777)
    (bundle.rootfs / "m/f").write_text("")
    where = add(bundle, "idmap", "tmpcopyup", source=Path("tmpfs"), type="tmpfs", **both(SWAP))
    done = cli.run(bundle.sh("stat -c %u /m/f; touch /m/new; stat -c %u /m/new"), code=None)
    if done.returncode and "this kernel can't map the ids" in done.stderr:
        assert where in done.stderr
        pytest.skip("this kernel can't map the ids of a tmpfs (mount_setattr: EINVAL)")
    assert done.stdout == "1000\n0\n"


# --- what can't be had ---


def refusal(cli: Cli, bundle: TestBundle) -> str:
    """The last line of stderr of a run that is refused."""
    return str(cli.run(bundle, code=1).stderr.splitlines()[-1])


def test_wrong_filesystem(cli: Cli, bundle: TestBundle) -> None:
    """A file system whose ids can't be mapped: the error says that, and which mount it is."""
    where = add(bundle, "bind", "idmap", source=Path("/proc/self"), **both(SWAP))
    line = refusal(cli, bundle)
    assert line.startswith(f"ocipy: {where}: can't map the ids of /proc/self: mount_setattr: invalid argument")
    assert "this kernel can't map the ids of its file system" in line


def test_wrong_filesystem_below(cli: Cli, bundle: TestBundle, volume: Path) -> None:
    """ridmap with one of those mounted below."""
    (volume / "sub").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", volume / "sub"], check=True)
    try:
        where = add(bundle, "rbind", "ridmap", source=volume, **both(SWAP))
        line = refusal(cli, bundle)
        bundle.config["mounts"][-1]["options"] = ["rbind", "idmap"]
        cli.run(bundle)
    finally:
        subprocess.run(["umount", volume / "sub"], check=True)
    assert where in line
    assert "and what is mounted below it: mount_setattr" in line


@pytest.mark.parametrize(("errno", "words"), [(1, "are mapped already"), (22, "can't map"), (38, "Linux 5.12")])
def test_reasons(errno: int, words: str) -> None:
    """What mount_setattr(2) answers for a mount that is mapped already, a file system that can't be, an old kernel."""
    op = ops.idmap("$.mounts[7]", 70, 1, 0, "/srv/data")
    error = failure(Plan([op], [], 0, False), Message(4, 0, errno, b"mount_setattr\0", -1))
    assert error.config_path == "$.mounts[7]"
    assert "/srv/data" in str(error)
    assert words in error.hint


@pytest.mark.spec("config#linux-mount-options-12", "config#linux-mount-options-14")
@pytest.mark.parametrize(
    ("mount", "where"),
    [
        ({"options": ["bind"], "uidMappings": SWAP}, ".gidMappings"),
        ({"options": ["bind", "idmap"], "gidMappings": SWAP}, ".uidMappings"),
        ({"options": ["bind", "idmap"], **both([*SWAP, SWAP[0]])}, ".uidMappings[2].containerID"),
        ({"options": ["bind", "idmap"], **both([{"containerID": 0, "hostID": 0, "size": 0}])}, ".uidMappings[0].size"),
        ({"options": ["bind", "idmap"]}, ".options"),
        ({"options": ["rbind", "ridmap"]}, ".options"),
        ({"options": ["remount"], **both(SWAP)}, ".uidMappings"),
        ({"type": "cgroup2", "source": "none", **both(SWAP)}, ".uidMappings"),
        ({"type": "tmpfs", "source": "tmpfs", "options": ["idmap", "iversion"], **both(SWAP)}, ".options"),
        ({"type": "tmpfs", "source": "tmpfs", "options": ["idmap"]}, ".options"),
    ],
)
def test_refused(cli: Cli, bundle: TestBundle, tmp_path: Path, mount: dict[str, Any], where: str) -> None:
    """config.md#posix-platform-mounts: mappings that make no sense, or are on what has no ids to map, by their
    paths; and idmap where there is nothing to map to."""
    bundle.config["mounts"].append({"destination": "/m", "source": str(tmp_path)} | mount)
    assert f"$.mounts[{len(bundle.config['mounts']) - 1}]{where}" in refusal(cli, bundle)


def test_new_filesystem_of_a_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """A file system that is made in a user namespace belongs to that, and can't be mapped to another."""
    user_namespace(bundle)
    where = add(bundle, "idmap", source=Path("tmpfs"), type="tmpfs")
    assert f"{where}.options" in refusal(cli, bundle)


# --- nothing of the namespaces is left ---


def _descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("spoil", ["", "source", "map"])
def test_nothing_is_left(bundle: TestBundle, volume: Path, tmp_path: Path, spoil: str) -> None:
    """The processes that hold the namespaces are gone and the descriptors closed when create returns, whether all went
    well, or a map (of the second namespace, at that) or a mount was refused."""
    # well-formed, but the kernel takes no more than a page of text
    bad = [{"containerID": 4_000_000_000 + n, "hostID": 4_000_000_000 + n, "size": 1} for n in range(300)]
    add(bundle, "bind", "idmap", source=volume, **both(SWAP))
    where = add(
        bundle, "bind", "idmap", source=volume / "nowhere" if spoil == "source" else volume, to="/n",
        **both(bad if spoil == "map" else SHIFT),
    )  # fmt: skip
    null = os.open("/dev/null", os.O_RDWR)
    options = CreateOptions(stdio=(null, null, null))
    path, root = str(bundle.save()), str(tmp_path / "state")

    def create() -> None:
        if not spoil:
            Container.create(fresh_id(), path, root=root, options=options).delete(force=True)
            return
        with pytest.raises(LaunchError) as caught:
            Container.create(fresh_id(), path, root=root, options=options)
        assert caught.value.config_path == where + {"source": ".source", "map": ".uidMappings"}[spoil]

    try:
        create()  # what is kept for good is made by the first one
        before = _descriptors(), children()
        create()
        assert (_descriptors(), children()) == before
        assert nothing_left(tmp_path / "bundle") == []
    finally:
        os.close(null)


IN_A_USER_NAMESPACE = """
from ocipy.launch.user_namespaces import user_namespace
from ocipy.errors import LaunchError
import os, sys
maps = {name: [{"containerID": 0, "hostID": int(sys.argv[1]), "size": 1}] for name in ("uidMappings", "gidMappings")}
if sys.argv[2]:
    open("/proc/sys/user/max_user_namespaces", "w").write(sys.argv[2])
try:
    user_namespace(maps, "$.mounts[3]", (0, 1, 2))
    print("made")
except LaunchError as error:
    print(error)
try:
    os.waitpid(-1, 0)
except ChildProcessError:
    print("no child")
"""


@pytest.mark.parametrize(
    ("host_id", "limit", "words"),
    [
        ("0", "", "made"),
        ("5", "", "$.mounts[3].uidMappings: can't map '0 5 1': write /proc/PID/uid_map: operation not permitted"),
        ("0", "0", "$.mounts[3]: can't make a user namespace for a mount: clone3: no space left on device"),
    ],
)
def test_in_a_user_namespace(host_id: str, limit: str, words: str) -> None:
    """Where ocipy itself is in a user namespace: ids that are not mapped there can't be mapped to, and there may be no
    more namespaces (their limit is that namespace's own)."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", sys.executable, "-I", "-c", IN_A_USER_NAMESPACE, host_id, limit],
        capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said, left = done.stdout.splitlines()
    assert said.startswith(words), done.stderr
    assert left == "no child"


KILLED = """
import os
from ocipy.launch import user_namespaces
user_namespaces.write_maps = lambda pid, *_: (print(pid, flush=True), os.kill(os.getpid(), 9))
user_namespaces.user_namespace({}, "$.mounts[3]", (0, 1, 2))
"""


def test_creator_killed() -> None:
    """The process that holds a new namespace ends with who made it, killed while it writes the maps."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", KILLED], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    )
    assert done.returncode == -9, done.stderr
    # what it was executed from can't be told of a process that has ended, whether somebody has waited for it or not
    until(lambda: not os.path.exists(f"/proc/{int(done.stdout)}/exe"))
