"""Mount options: every word of the table in config.md#linux-mount-options by its effect, the words for symbolic links
that other runtimes have too, and remount with options of the file system."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Mount, TestBundle, fresh_id, mounts

from ocipy.container.prepare import prepare

# --- the table ---

#: option -> (option before it, which it takes back; what mountinfo says then; what not), of the mount itself
ATTRIBUTES: dict[str, tuple[str, set[str], set[str]]] = {
    "atime": ("noatime", {"relatime"}, {"noatime"}),
    "defaults": ("", {"rw", "relatime"}, {"nosuid", "nodev", "noexec"}),
    "dev": ("nodev", set(), {"nodev"}),
    "diratime": ("nodiratime", set(), {"nodiratime"}),
    "exec": ("noexec", set(), {"noexec"}),
    "noatime": ("", {"noatime"}, {"relatime"}),
    "nodev": ("", {"nodev"}, set()),
    "nodiratime": ("", {"nodiratime"}, set()),
    "noexec": ("", {"noexec"}, set()),
    "norelatime": ("relatime", set(), {"relatime", "noatime"}),
    "nostrictatime": ("strictatime", {"relatime"}, set()),
    "nosuid": ("", {"nosuid"}, set()),
    "nosymfollow": ("", {"nosymfollow"}, set()),
    "relatime": ("noatime", {"relatime"}, {"noatime"}),
    "ro": ("", {"ro"}, {"rw"}),
    "rw": ("ro", {"rw"}, {"ro"}),
    "strictatime": ("", set(), {"relatime", "noatime"}),
    "suid": ("nosuid", set(), {"nosuid"}),
    "symfollow": ("nosymfollow", set(), {"nosymfollow"}),
}
#: the same of the file system: the word, or the one that it takes back
SUPERBLOCK = {
    "async": ("sync", set(), {"sync"}),
    "dirsync": ("", {"dirsync"}, set()),
    "lazytime": ("", {"lazytime"}, set()),
    "mand": ("", {"mand"}, set()),
    "nolazytime": ("lazytime", set(), {"lazytime"}),
    "nomand": ("mand", set(), {"mand"}),
    "sync": ("", {"sync"}, set()),
}
#: option -> tags of the mount, and of one below it, where the host shares both
PROPAGATION: dict[str, tuple[set[str], set[str]]] = {
    "private": (set(), {"master"}),
    "rprivate": (set(), set()),
    "rshared": ({"master", "shared"}, {"master", "shared"}),
    "rslave": ({"master"}, {"master"}),
    "runbindable": ({"unbindable"}, {"unbindable"}),
    "shared": ({"master", "shared"}, {"master"}),
    "slave": ({"master"}, {"master"}),
    "unbindable": ({"unbindable"}, {"master"}),
}
#: what has a test of its own below: its effect is on what is mounted, or is not in mountinfo
OTHER = {"bind", "rbind", "remount", "tmpcopyup", "idmap", "ridmap", "iversion", "noiversion", "silent", "loud"}

#: the table, as runtime-spec 1.3.0 has it
TABLE = """
    async atime bind defaults dev diratime dirsync exec iversion lazytime loud mand noatime nodev nodiratime noexec
    noiversion nolazytime nomand norelatime nostrictatime nosuid nosymfollow private ratime rbind rdev rdiratime
    relatime remount rexec rnoatime rnodiratime rnoexec rnorelatime rnostrictatime rnosuid rnosymfollow ro rprivate
    rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime suid
    symfollow sync tmpcopyup unbindable idmap ridmap
""".split()


def add(bundle: TestBundle, to: str, kind: str, source: object, *options: str, **more: Any) -> str:
    """Append a mount; returns its config path."""
    given = [option for option in options if option]
    mount = {"destination": to, "type": kind, "source": str(source), "options": given}
    bundle.config["mounts"].append(mount | more)
    return f"$.mounts[{len(bundle.config['mounts']) - 1}]"


def refusal(cli: Cli, bundle: TestBundle) -> str:
    """The last line of stderr of a run that is refused."""
    return str(cli.run(bundle, code=1).stderr.splitlines()[-1])


def judge(found: set[str], there: set[str], absent: set[str]) -> str:
    """What is wrong with words of mountinfo, or ""."""
    return f"{there} and not {absent}: {found}" if not there <= found or absent & found else ""


def test_table_is_covered() -> None:
    """Each word of the table is in one of the tests here, and none is said to be in the table that is not."""
    recursive = {f"r{word}" for word in ATTRIBUTES} - {"rdefaults"}
    known = ATTRIBUTES.keys() | SUPERBLOCK.keys() | PROPAGATION.keys() | OTHER | recursive
    # the spec forgot it, among its recursive words; runtimes know it
    assert known - set(TABLE) == {"rnodev"}
    assert set(TABLE) - known == set()


def test_attributes_and_superblock(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-mount-options: the words that hold for one mount, and those of a file system."""
    for word, (before, _, _) in (ATTRIBUTES | SUPERBLOCK).items():
        add(bundle, f"/w/{word}", "tmpfs", "tmpfs", before, word)
    found = mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout)
    wrong = {word: judge(found[f"/w/{word}"].options, *says) for word, (_, *says) in ATTRIBUTES.items()}
    wrong |= {word: judge(found[f"/w/{word}"].superblock, *says) for word, (_, *says) in SUPERBLOCK.items()}
    assert {word: fault for word, fault in wrong.items() if fault} == {}


@pytest.fixture
def shared_tree(tmp_path: Path) -> Callable[[Cli, TestBundle], dict[str, Mount]]:
    """Runs a bundle where TREE is a mount with another below it, both shared as systemd shares a host's; returns the
    container's mounts."""
    (tmp_path / "tree").mkdir()

    def run(cli: Cli, bundle: TestBundle) -> dict[str, Mount]:
        bundle.args("cat", "/proc/self/mountinfo")
        script = 'mount -t tmpfs top "$0"; mkdir "$0/sub"; mount -t tmpfs sub "$0/sub"; exec "$@"'
        words = cli.command("run", "--bundle", str(bundle.save()), fresh_id())
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "shared", "sh", "-ec", script, tmp_path / "tree", *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return mounts(done.stdout)

    return run


def test_recursive_and_propagation(
    cli: Cli, bundle: TestBundle, tmp_path: Path, shared_tree: Callable[[Cli, TestBundle], dict[str, Mount]]
) -> None:
    """config.md#linux-mount-options: bind and rbind, the words for both a mount and what is below it, and
    propagation."""
    recursive = {f"r{word}": value for word, value in ATTRIBUTES.items() if word != "defaults"}
    for word, (before, _, _) in recursive.items():
        add(bundle, f"/w/{word}", "none", tmp_path / "tree", "rbind", before and f"r{before}", word)
    for word in PROPAGATION:
        add(bundle, f"/p/{word}", "none", tmp_path / "tree", "rbind", word)
    add(bundle, "/w/bind", "none", tmp_path / "tree", "bind")
    add(bundle, "/w/rbind", "none", tmp_path / "tree", "rbind")
    found = shared_tree(cli, bundle)
    wrong = {
        f"{word}{below}": judge(found[f"/w/{word}{below}"].options, *says)
        for word, (_, *says) in recursive.items() for below in ("", "/sub")
    }  # fmt: skip
    assert {word: fault for word, fault in wrong.items() if fault} == {}
    tags = {word: tuple(found[f"/p/{word}{below}"].propagation for below in ("", "/sub")) for word in PROPAGATION}
    assert tags == PROPAGATION
    assert "/w/rbind/sub" in found
    assert "/w/bind/sub" not in found


def test_remount_and_copy_up(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-mount-options: remount changes what is there, tmpcopyup fills a new tmpfs."""
    (bundle.rootfs / "c").mkdir()
    (bundle.rootfs / "c/file").write_text("content\n")
    add(bundle, "/m", "tmpfs", "first", "size=1m")
    add(bundle, "/m", "tmpfs", "second", "remount", "nosuid")
    add(bundle, "/c", "tmpfs", "tmpfs", "tmpcopyup")
    done = cli.run(bundle.sh("cat /c/file /proc/self/mountinfo"))
    assert done.stdout.startswith("content\n")
    found = mounts(done.stdout)
    assert (found["/m"].source, found["/c"].type) == ("first", "tmpfs")
    assert "nosuid" in found["/m"].options
    assert done.stdout.count(" /m ") == 1


def test_id_maps(cli: Cli, bundle: TestBundle, tmp_path: Path, ext4: Callable[[Path], Path]) -> None:
    """config.md#linux-mount-options: idmap for a mount, ridmap for what is below it too (more in
    test_idmapped_mounts.py)."""
    ext4(tmp_path / "tree")
    ext4(tmp_path / "tree/sub")
    maps = [{"containerID": 0, "hostID": 3, "size": 9}]
    for word in ("idmap", "ridmap"):
        add(bundle, f"/{word}", "", tmp_path / "tree", "rbind", word, uidMappings=maps, gidMappings=maps)
    found = mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout)
    assert [point for point, mount in found.items() if "idmapped" in mount.options] == [
        "/idmap", "/ridmap", "/ridmap/sub",
    ]  # fmt: skip


def test_versions(bundle: TestBundle) -> None:
    """config.md#linux-mount-options: iversion and noiversion. What they turn on, only the kernel itself can see: it is
    given the flag, by the only call that takes it."""
    add(bundle, "/v", "tmpfs", "tmpfs", "iversion")
    add(bundle, "/n", "tmpfs", "tmpfs", "iversion", "noiversion")
    compiled = prepare(fresh_id(), str(bundle.save()), {})[2]
    made = {op.path: op for op in compiled.ops if op.name in ("legacy_mount", "new_fs")}
    versioned, plain = (made[f"$.mounts[{len(bundle.config['mounts']) - n}]"] for n in (2, 1))
    assert (versioned.name, versioned.values[3]) == ("legacy_mount", 1 << 23)
    assert plain.name == "new_fs"


@pytest.mark.parametrize(("options", "logged"), [([], True), (["silent"], False), (["silent", "loud"], True)])
def test_silent(cli: Cli, bundle: TestBundle, tmp_path: Path, options: list[str], logged: bool) -> None:
    """config.md#linux-mount-options: silent keeps the kernel from logging what is wrong with a file system, loud takes
    that back."""
    (tmp_path / "junk").write_bytes(os.urandom(1 << 20))
    device = subprocess.run(
        ["losetup", "--find", "--show", str(tmp_path / "junk")], check=True, capture_output=True, text=True
    ).stdout.strip()
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    # on cgroup v2 the helper may be subject to the rules for devices by the time that it mounts
    bundle.config["linux"]["resources"] = {"devices": [{"allow": True, "type": "b", "access": "rw"}]}
    try:
        os.lseek(log, 0, os.SEEK_END)
        where = add(bundle, "/m", "ext4", device, *options)
        assert re.search(re.escape(where) + ": .*: (fsconfig|mount): invalid argument", refusal(cli, bundle))
        lines = []
        try:
            while line := os.read(log, 8192):
                lines.append(line)
        except BlockingIOError:
            pass
    finally:
        os.close(log)
        subprocess.run(["losetup", "--detach", device], check=True)
    said = f"EXT4-fs ({device.rpartition('/')[2]}): VFS: Can't find ext4 filesystem".encode()
    assert any(said in line for line in lines) is logged


@pytest.mark.parametrize(
    "options",
    [
        [], ["ro"], ["nosuid"], ["nodev"], ["noexec"], ["noatime"], ["nodiratime"], ["strictatime"], ["nosymfollow"],
        ["relatime"], ["noatime", "nodiratime", "ro"], ["sync"], ["dirsync"], ["lazytime"], ["mode=700", "size=64k"],
        ["nosuid", "nodev", "noexec", "strictatime", "rprivate"],
    ],
)  # fmt: skip
def test_silent_changes_no_other_option(cli: Cli, bundle: TestBundle, options: list[str]) -> None:
    """What goes by mount(2), as with `silent`, has the same options as what does not."""
    add(bundle, "/one", "tmpfs", "t", *options)
    add(bundle, "/two", "tmpfs", "t", *options, "silent")
    found = mounts(cli.run(bundle.sh("cat /proc/self/mountinfo")).stdout)
    one, two = found["/one"], found["/two"]
    assert (one.options, one.superblock, one.tags) == (two.options, two.superblock, two.tags)


# --- symbolic links (crun.1) ---


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host with a file, and links to it, to a directory and to nothing."""
    top = tmp_path / "host"
    (top / "dir").mkdir(parents=True)
    (top / "file").write_text("host\n")
    (top / "dir/inner").write_text("inner\n")
    for name, target in {"link": "file", "dir-link": "dir", "dangling": "/no/where"}.items():
        (top / name).symlink_to(target)
    return top


def test_source_not_followed(cli: Cli, bundle: TestBundle, host: Path) -> None:
    """src-nofollow: a link is mounted itself, on a file that is made for it; anything else is mounted as ever."""
    for name in ("link", "dangling", "file", "dir"):
        add(bundle, f"/m/{name}", "", host / name, "bind", "ro", "src-nofollow")
    script = "readlink /m/link; readlink /m/dangling; cat /m/file /m/dir/inner /proc/self/mountinfo"
    done = cli.run(bundle.sh(script))
    assert done.stdout.startswith("file\n/no/where\nhost\ninner\n")
    assert "ro" in mounts(done.stdout)["/m/link"].options
    assert (bundle.rootfs / "m/link").is_file()


def test_destination_not_followed(cli: Cli, bundle: TestBundle, host: Path) -> None:
    """dest-nofollow: where the mount point is a link, it is mounted on, and not what it leads to; other mount points,
    and missing ones, are as ever."""
    (bundle.rootfs / "target").write_text("image\n")
    (bundle.rootfs / "there").symlink_to("/target")
    (bundle.rootfs / "abroad").symlink_to("../../../../../../etc")
    (bundle.rootfs / "plain").write_text("")
    for name in ("there", "abroad", "plain", "made/deep/file"):
        add(bundle, f"/{name}", "", host / "file", "bind", "dest-nofollow")
    add(bundle, "/made/dir", "", host / "dir", "bind", "dest-nofollow")
    script = "cat /target /there /abroad /plain /made/deep/file /made/dir/inner; cat /proc/self/mountinfo"
    done = cli.run(bundle.sh(script))
    assert done.stdout.startswith("image\n" + "host\n" * 4 + "inner\n")
    assert {"/there", "/abroad", "/plain"} <= set(mounts(done.stdout))
    assert (bundle.rootfs / "there").is_symlink()


def test_neither_followed(cli: Cli, bundle: TestBundle, host: Path) -> None:
    """src-nofollow and dest-nofollow together: one link covers the other."""
    (bundle.rootfs / "there").symlink_to("/etc/passwd")
    add(bundle, "/there", "", host / "dangling", "bind", "src-nofollow", "dest-nofollow")
    assert cli.run(bundle.sh("readlink /there")).stdout == "/no/where\n"
    assert os.readlink(bundle.rootfs / "there") == "/etc/passwd"


def test_copied_link(cli: Cli, bundle: TestBundle, host: Path) -> None:
    """copy-symlink: a link is made anew, as it is, and nothing is mounted; what is no link is bound."""
    (bundle.rootfs / "same").symlink_to("file")
    for name in ("/a/b/link", "/same"):
        add(bundle, name, "", host / "link", "bind", "copy-symlink")
    add(bundle, "/dangling", "", host / "dangling", "rbind", "ro", "copy-symlink")
    add(bundle, "/file", "", host / "file", "bind", "ro", "copy-symlink")
    done = cli.run(bundle.sh("cat /file /proc/self/mountinfo"))
    assert done.stdout.startswith("host\n")
    assert "ro" in mounts(done.stdout)["/file"].options
    assert not {"/a/b/link", "/same", "/dangling"} & set(mounts(done.stdout))
    links = {name: os.readlink(bundle.rootfs / name) for name in ("a/b/link", "same", "dangling")}
    assert links == {"a/b/link": "file", "same": "file", "dangling": "/no/where"}


@pytest.mark.parametrize("there", ["file", "dir", "link"])
def test_copied_on_another(cli: Cli, bundle: TestBundle, host: Path, there: str) -> None:
    """copy-symlink where something else is already: refused, and left as it is."""
    place = bundle.rootfs / "place"
    {"file": place.touch, "dir": place.mkdir, "link": lambda: place.symlink_to("filet")}[there]()
    where = add(bundle, "/place", "", host / "link", "bind", "copy-symlink")
    line = refusal(cli, bundle)
    assert where in line
    assert line.endswith("/place: symlinkat: file exists")
    assert place.is_symlink() is (there == "link")


def test_copied_outside(cli: Cli, bundle: TestBundle, host: Path, tmp_path: Path) -> None:
    """copy-symlink behind a link of the image: made inside of the root, wherever that link leads."""
    (bundle.rootfs / "way").symlink_to(tmp_path)
    add(bundle, "/way/new", "", host / "link", "bind", "copy-symlink")
    cli.run(bundle)
    assert not os.path.lexists(tmp_path / "new")
    assert (bundle.rootfs / str(tmp_path / "new")[1:]).is_symlink()


@pytest.mark.parametrize("place", ["/proc", "/sys", "/dev"])
@pytest.mark.parametrize("option", ["copy-symlink", "dest-nofollow"])
def test_links_for_api_directories(cli: Cli, bundle: TestBundle, host: Path, place: str, option: str) -> None:
    """No option makes /proc, /sys or /dev a link, nor mounts on one that is (CVE-2019-19921)."""
    if option == "dest-nofollow":
        (bundle.rootfs / place[1:]).rmdir()
        (bundle.rootfs / place[1:]).symlink_to("tmp")
    bundle.config["mounts"] = []
    where = add(bundle, place, "", "/proc" if place == "/proc" else host / "dir-link", "bind", option)
    if place == "/proc" and option == "copy-symlink":  # only the host's /proc, which is no link, may be bound there
        bundle.config["mounts"][0]["source"] = str(host / "dir-link")
        assert f"{where}.destination" in refusal(cli, bundle)
        return
    line = refusal(cli, bundle)
    assert where in line
    assert f"{place} must not be a symbolic link" in line


@pytest.mark.parametrize(
    ("mount", "words"),
    [
        ({"type": "tmpfs", "options": ["dest-nofollow"]}, "dest-nofollow is an option of bind mounts only"),
        ({"options": ["remount", "src-nofollow"]}, "src-nofollow is an option of bind mounts only"),
        ({"options": ["bind", "copy-symlink", "src-nofollow"]}, "copy-symlink excludes"),
        ({"options": ["bind", "dest-nofollow", "copy-symlink"]}, "copy-symlink excludes"),
    ],
)
def test_links_refused(cli: Cli, bundle: TestBundle, host: Path, mount: dict[str, Any], words: str) -> None:
    """The words for links where they would mean nothing, or two things."""
    bundle.config["mounts"].append({"destination": "/m", "source": str(host / "link")} | mount)
    line = refusal(cli, bundle)
    assert f"$.mounts[{len(bundle.config['mounts']) - 1}].options" in line
    assert words in line


# --- remount with options of the file system ---


def test_remounted_filesystem(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-mount-options, remount: options of a file system that the config has mounted before, together
    with those of the mount."""
    add(bundle, "/dev/shm", "tmpfs", "shm", "remount", "size=3m", "nr_inodes=77", "lazytime", "noatime")
    add(bundle, "/dev/pts", "devpts", "devpts", "remount", "gid=7", "mode=620")
    add(bundle, "/proc", "proc", "proc", "remount", "hidepid=1")
    add(bundle, "/t", "tmpfs", "tmpfs", "sync", "size=1m")
    add(bundle, "/t", "", "", "remount", "async", "ro")
    found = mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout)
    assert {"size=3072k", "nr_inodes=77", "lazytime"} <= found["/dev/shm"].superblock
    assert {"noatime", "nosuid", "noexec", "nodev"} <= found["/dev/shm"].options
    assert {"gid=7", "mode=620"} <= found["/dev/pts"].superblock
    assert {"hidepid=noaccess", "hidepid=1"} & found["/proc"].superblock
    assert "size=1024k" in found["/t"].superblock
    assert "sync" not in found["/t"].superblock
    assert "ro" in found["/t"].options


def test_remount_in_a_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """The same where the file systems belong to the container's user namespace."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    add(bundle, "/dev/shm", "tmpfs", "shm", "remount", "size=3m")
    found = mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout)
    assert "size=3072k" in found["/dev/shm"].superblock


@pytest.mark.parametrize(
    ("place", "options", "words"),
    [
        ("/sys", ["sync"], "of what is no tmpfs, proc, devpts, overlay"),
        ("/bound", ["size=1m"], "of what is no tmpfs, proc, devpts, overlay"),
        ("/nothing", ["lazytime"], "of what is no tmpfs, proc, devpts, overlay"),
        ("/dev/shm", ["bind", "size=1m"], "of what is no tmpfs, proc, devpts, overlay"),
        ("/dev/shm", ["silent"], "iversion or silent"),
        ("/dev/shm", ["iversion"], "iversion or silent"),
        ("/dev/shm", ["size=lots"], "tmpfs: Bad value for 'size'"),
        ("/dev/shm", ["frobnicate"], "tmpfs: Unknown parameter 'frobnicate'"),
    ],
)
def test_remount_refused(
    cli: Cli, bundle: TestBundle, tmp_path: Path, place: str, options: list[str], words: str
) -> None:
    """remount: not of a file system that is the host's as well, nor with what the kernel does not take."""
    add(bundle, "/bound", "", tmp_path, "bind")
    where = add(bundle, place, "tmpfs", "tmpfs", "remount", *options)
    line = refusal(cli, bundle)
    assert re.search(re.escape(where) + r"(\.options)?: ", line)
    assert words in line


def test_remount_of_another(cli: Cli, bundle: TestBundle) -> None:
    """remount: where by then something else is, that is not touched."""
    (bundle.path / "other/below").mkdir(parents=True)
    add(bundle, "/way/below", "tmpfs", "tmpfs")
    add(bundle, "/way", "", "other", "bind")
    where = add(bundle, "/way/below", "", "", "remount", "size=1m")
    line = refusal(cli, bundle)
    assert where in line
    assert "'size=1m' of what a later mount has covered" in line


def test_remount_of_what_is_covered(cli: Cli, bundle: TestBundle) -> None:
    """remount is of the mount that the config made, whatever has come upon it since."""
    (bundle.rootfs / "way").symlink_to("/t")
    add(bundle, "/way", "tmpfs", "tmpfs")
    add(bundle, "/t", "proc", "proc")
    add(bundle, "/way", "", "", "remount", "size=1m")
    out = cli.run(bundle.sh("grep ' /t ' /proc/mounts")).stdout.splitlines()
    assert [line.split()[2] for line in out] == ["tmpfs", "proc"]
    assert "size=1024k" in out[0]
