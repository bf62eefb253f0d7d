"""Mounts: config.md#mounts, with its table of options, and config-linux.md#default-filesystems."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, Mount, TestBundle, fresh_id, mounts

ATIMES = {"relatime", "noatime", "nodiratime"}  # how mountinfo words access times; strictatime has no word


def add(bundle: TestBundle, destination: str, kind: str = "", source: str = "", *options: str) -> int:
    """Append a mount; returns its index."""
    mount: dict[str, Any] = {"destination": destination}
    mount |= {"type": kind} if kind else {}
    mount |= {"source": source} if source else {}
    mount |= {"options": list(options)} if options else {}
    bundle.config["mounts"].append(mount)
    return len(bundle.config["mounts"]) - 1


def table(cli: Cli, bundle: TestBundle, *flags: str) -> dict[str, Mount]:
    """Run a bundle that prints its mountinfo."""
    return mounts(cli.run(bundle.args("cat", "/proc/self/mountinfo"), *flags).stdout)


def refusal(cli: Cli, bundle: TestBundle, code: int = 1) -> str:
    """Run a bundle that is refused; returns the last line of stderr."""
    return str(cli.run(bundle, code=code).stderr.splitlines()[-1])


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory of the host with a file and a tmpfs mounted in it."""
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "file").write_text("content\n")
    subprocess.run(["mount", "-t", "tmpfs", "tree-sub", top / "sub"], check=True)
    yield top
    subprocess.run(["umount", top / "sub"], check=True)


# --- options ---

#: option -> what mountinfo must say, and what not
PLAIN = {
    "ro": ({"ro"}, {"rw"}),
    "rw": ({"rw"}, {"ro"}),
    "nosuid": ({"nosuid"}, set()),
    "suid": (set(), {"nosuid"}),
    "nodev": ({"nodev"}, set()),
    "dev": (set(), {"nodev"}),
    "noexec": ({"noexec"}, set()),
    "exec": (set(), {"noexec"}),
    "noatime": ({"noatime"}, {"relatime"}),
    "atime": ({"relatime"}, {"noatime"}),
    "nodiratime": ({"nodiratime"}, set()),
    "diratime": (set(), {"nodiratime"}),
    "relatime": ({"relatime"}, {"noatime"}),
    "strictatime": (set(), {"relatime", "noatime"}),
    "nostrictatime": ({"relatime"}, set()),
    "nosymfollow": ({"nosymfollow"}, set()),
    "symfollow": (set(), {"nosymfollow"}),
    "defaults": ({"rw", "relatime"}, {"nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"}),
}
OPPOSITE = {
    "rw": "ro", "suid": "nosuid", "dev": "nodev", "exec": "noexec", "atime": "noatime",
    "diratime": "nodiratime", "nostrictatime": "strictatime", "symfollow": "nosymfollow",
}  # fmt: skip


@pytest.mark.spec(
    "config#linux-mount-options-2", "config#linux-mount-options-3", "config#linux-mount-options-5",
    "config#linux-mount-options-10", "config#linux-mount-options-16",
)  # fmt: skip
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_attributes(cli: Cli, bundle: TestBundle, tmp_path: Path, kind: str) -> None:
    """config.md#linux-mount-options: each attribute, on a new file system and on a bind mount; a later word
    takes back an earlier one."""
    (tmp_path / "source").mkdir()
    for option in PLAIN:
        before = [OPPOSITE[option]] if option in OPPOSITE else []
        if kind == "bind":
            add(bundle, f"/m/{option}", "", str(tmp_path / "source"), "bind", *before, option)
        else:
            add(bundle, f"/m/{option}", "tmpfs", "tmpfs", *before, option)
    found = table(cli, bundle)
    for option, (there, absent) in PLAIN.items():
        got = found[f"/m/{option}"].options
        assert there <= got, option
        assert not absent & got, option


@pytest.mark.spec("config#linux-mount-options-9")
@pytest.mark.parametrize("option", [o for o in PLAIN if o != "defaults"])
def test_recursive_attributes(cli: Cli, bundle: TestBundle, tree: Path, option: str) -> None:
    """config.md#linux-mount-options: each r* form holds for what is mounted below as well, the plain one
    for the mount alone."""
    before = [f"r{OPPOSITE[option]}"] if option in OPPOSITE else []
    add(bundle, "/rec", "", str(tree), "rbind", *before, f"r{option}")
    add(bundle, "/flat", "", str(tree), "rbind", *(b[1:] for b in before), option)
    found = table(cli, bundle)
    there, absent = PLAIN[option]
    for point in ("/rec", "/rec/sub"):
        assert there <= found[point].options, point
        assert not absent & found[point].options, point
    assert there <= found["/flat"].options
    assert found["/flat/sub"].options == {"rw", "relatime"}


def test_recursive_and_plain(cli: Cli, bundle: TestBundle, tree: Path) -> None:
    """config.md#linux-mount-options: both kinds together; `rro` reaches a submount that is written to."""
    add(bundle, "/m", "", str(tree), "rbind", "nosuid", "rro", "rnodev")
    done = cli.run(bundle.sh("touch /m/sub/f; cat /proc/self/mountinfo"))
    found = mounts(done.stdout)
    assert "/m/sub/f: Read-only file system" in done.stderr
    assert {"ro", "nodev", "nosuid"} <= found["/m"].options
    assert {"ro", "nodev"} <= found["/m/sub"].options
    assert "nosuid" not in found["/m/sub"].options


@pytest.mark.spec("config#linux-mount-options-7")
@pytest.mark.parametrize(
    ("option", "top", "below"),
    [
        ("private", set(), {"master"}),
        ("rprivate", set(), set()),
        ("slave", {"master"}, {"master"}),
        ("rslave", {"master"}, {"master"}),
        ("shared", {"master", "shared"}, {"master"}),
        ("rshared", {"master", "shared"}, {"master", "shared"}),
        ("unbindable", {"unbindable"}, {"master"}),
        ("runbindable", {"unbindable"}, {"unbindable"}),
        ("", {"master"}, {"master"}),
    ],
)
def test_propagation(
    cli: Cli, bundle: TestBundle, tmp_path: Path, option: str, top: set[str], below: set[str]
) -> None:
    """config.md#linux-mount-options: each propagation type, for a bind of what the host shares; with the
    default propagation of the root, nothing mounted in the container gets out."""
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    add(bundle, "/m", "", str(tree), "rbind", *([option] if option else []))
    bundle.args("cat", "/proc/self/mountinfo")
    words = cli.command("run", "--bundle", str(bundle.save()), fresh_id())
    script = f'mount -t tmpfs tree-sub {tree}/sub; exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", "sh", "-ec", script, "sh", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = mounts(done.stdout)
    assert found["/m"].propagation == top
    assert found["/m/sub"].propagation == below


def test_propagation_to_host(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config-linux.md#rootfs-mount-propagation: with a shared root, an rshared bind mount stays a peer of the
    host's, so that what the container mounts in it shows on the host."""
    (tmp_path / "tree/sub").mkdir(parents=True)
    bundle.config["linux"]["rootfsPropagation"] = "rshared"
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN"]
    add(bundle, "/m", "", str(tmp_path / "tree"), "rbind", "rshared")
    bundle.sh("mount -t tmpfs from-inside /m/sub")
    words = cli.command("run", "--bundle", str(bundle.save()), fresh_id())
    script = f'mount -t tmpfs top {tmp_path}/tree; mkdir {tmp_path}/tree/sub; "$@"; cat /proc/self/mountinfo'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", "sh", "-ec", script, "sh", *words],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert mounts(done.stdout)[f"{tmp_path}/tree/sub"].source == "from-inside"


@pytest.mark.spec("config#linux-mount-options-4", "config#linux-mount-options-18")
def test_superblock_options(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-mount-options: options of the superblock, those of the file system, and words that
    are the kernel's default anyway."""
    add(bundle, "/m", "tmpfs", "scratch", "size=3m", "nr_inodes=77", "mode=0711", "uid=5", "gid=6", "sync",
        "dirsync", "silent", "loud", "defaults", "async")  # fmt: skip
    add(bundle, "/n", "tmpfs", "tmpfs", "sync", "dirsync", "lazytime", "mand", "nomand", "noiversion")
    add(bundle, "/v", "tmpfs", "tmpfs", "iversion", "nosuid", "ro", "size=1m", "dirsync", "sync", "async")
    done = cli.run(bundle.sh("stat -c %a:%u:%g /m; cat /proc/self/mountinfo"))
    found = mounts(done.stdout)
    assert done.stdout.startswith("711:5:6\n")
    assert {"size=3072k", "nr_inodes=77", "dirsync"} <= found["/m"].superblock
    assert "sync" not in found["/m"].superblock
    assert found["/m"].source == "scratch"
    assert {"sync", "dirsync", "lazytime"} <= found["/n"].superblock
    assert {"ro", "nosuid"} <= found["/v"].options
    assert {"dirsync", "size=1024k"} <= found["/v"].superblock
    assert "sync" not in found["/v"].superblock


@pytest.mark.spec("config#linux-mount-options-18")
@pytest.mark.parametrize(
    ("kind", "option", "words"),
    [
        ("tmpfs", "size=lots", "tmpfs: Bad value for 'size'"),
        pytest.param("tmpfs", f"size={'0' * 99999}1m", "100006 bytes of options, of which mount(2) takes", id="long"),
        ("tmpfs", "frobnicate", "tmpfs: Unknown parameter 'frobnicate'"),
        ("proc", "hidepid=9", "proc:"),
        ("nosuchfs", "rw", "can't make a nosuchfs mount: fsopen: no such device"),
    ],
)
def test_kernel_words(cli: Cli, bundle: TestBundle, kind: str, option: str, words: str) -> None:
    """A file system that refuses an option: the error has the kernel's own words, and the config path."""
    where = f"$.mounts[{add(bundle, '/m', kind, kind, option)}]"
    line = refusal(cli, bundle)
    assert where in line
    assert words in line


def test_options_of_binds(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: options of a file system go to mount(2), which has no use for them in a bind mount: the
    container runs, and a warning says that they have no effect."""
    where = f"$.mounts[{add(bundle, '/m', '', str(tmp_path), 'bind', 'size=5m', 'sync', 'ro')}].options"
    bundle.sh("grep ' /m ' /proc/self/mountinfo; touch /m/x")
    done = cli.run(bundle, code=1)
    assert f"warning: {where}: size=5m, sync: without effect on a bind mount" in done.stderr
    assert "Read-only file system" in done.stderr


# --- bind mounts ---


@pytest.mark.spec("config#linux-mount-options-6")
def test_bind_and_rbind(cli: Cli, bundle: TestBundle, tree: Path) -> None:
    """config.md#linux-mount-options: bind takes the mount alone, rbind what is mounted below as well; the
    type `bind` says the same as the option."""
    add(bundle, "/one", "", str(tree), "bind")
    add(bundle, "/all", "", str(tree), "rbind")
    add(bundle, "/typed", "bind", str(tree))
    add(bundle, "/typed-all", "bind", str(tree), "rbind")
    add(bundle, "/none", "none", str(tree), "bind")
    done = cli.run(bundle.sh("cat /one/file /all/file /typed/file /none/file; cat /proc/self/mountinfo"))
    assert done.stdout.startswith("content\n" * 4)
    found = mounts(done.stdout)
    assert {"/all/sub", "/typed-all/sub"} <= set(found)
    assert not {"/one/sub", "/typed/sub", "/none/sub"} & set(found)


def test_relative_sources(cli: Cli, bundle: TestBundle) -> None:
    """config.md#mounts, source: relative to the bundle, links on the host followed."""
    (bundle.path / "data").mkdir()
    (bundle.path / "data/f").write_text("data\n")
    (bundle.path / "link").symlink_to("data")
    for number, source in enumerate(("data", "./data/../data", "link")):
        add(bundle, f"/m{number}", "", source, "bind")
    assert cli.run(bundle.sh("cat /m0/f /m1/f /m2/f")).stdout == "data\n" * 3


@pytest.mark.spec("config#mounts-4")
def test_destinations(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts, destination: relative ones count from the root, and no text leads above it."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/f").write_text("f\n")
    for destination in ("relative/place", "/../../../above", "/a//b/./c/", "/a/../d"):
        add(bundle, destination, "", str(tmp_path / "source"), "bind")
    done = cli.run(bundle.sh("cat /relative/place/f /above/f /a/b/c/f /d/f"))
    assert done.stdout == "f\n" * 4


def test_file_binds(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: a file is bound on a file, which is made if missing, with the directories to it."""
    (tmp_path / "file").write_text("from the host\n")
    (bundle.rootfs / "etc/there").write_text("covered")
    add(bundle, "/etc/there", "", str(tmp_path / "file"), "bind", "ro")
    add(bundle, "/new/deep/file", "", str(tmp_path / "file"), "bind")
    done = cli.run(
        bundle.sh("cat /etc/there /new/deep/file; echo x >> /new/deep/file; echo x >> /etc/there"), code=1
    )
    assert done.stdout == "from the host\n" * 2
    assert "can't create /etc/there: Read-only file system" in done.stderr
    assert (tmp_path / "file").read_text() == "from the host\nx\n"
    assert (bundle.rootfs / "etc/there").read_text() == "covered"
    assert (bundle.rootfs / "new/deep/file").stat().st_size == 0


def test_bind_special_files(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: sockets, fifos and devices are bound as files are; opening them is not needed."""
    os.mkfifo(tmp_path / "fifo")
    add(bundle, "/m/fifo", "", str(tmp_path / "fifo"), "bind")
    add(bundle, "/m/full", "", "/dev/full", "bind")
    done = cli.run(bundle.sh("stat -c %F /m/fifo; stat -c %t:%T /m/full"))
    assert done.stdout == "fifo\n1:7\n"


@pytest.mark.parametrize("source", ["/nowhere/at/all", "missing-below-bundle", "/etc/passwd/below"])
def test_missing_source(cli: Cli, bundle: TestBundle, source: str) -> None:
    """config.md#mounts: a missing source of a bind mount names $.mounts[N].source, the path and the
    reason."""
    index = add(bundle, "/m", "", source, "bind")
    line = refusal(cli, bundle)
    assert f"$.mounts[{index}].source" in line
    assert source.rpartition("/")[2] in line
    assert line.endswith(("no such file or directory", "not a directory"))
    assert not (bundle.rootfs / "m").exists()


def test_source_and_target_differ(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: a directory can't be bound on a file, nor a file on a directory; the error says
    so."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").write_text("")
    index = add(bundle, "/etc/passwd", "", str(tmp_path / "dir"), "bind")
    assert f"$.mounts[{index}]" in (line := refusal(cli, bundle))
    assert "not a directory" in line
    bundle.config["mounts"][index] = {
        "destination": "/etc",
        "source": str(tmp_path / "file"),
        "options": ["bind"],
    }
    assert f"$.mounts[{index}]" in (line := refusal(cli, bundle))
    assert "one of source and /etc is a directory, the other is not" in line


@pytest.mark.parametrize(
    "mount",
    [
        {"destination": "/m", "options": ["bind"]},
        {"destination": "/m", "source": "/tmp"},
        {"destination": "/m", "type": "bind"},
        {"destination": "", "type": "tmpfs"},
        {"type": "tmpfs"},
    ],
)
def test_incomplete(cli: Cli, bundle: TestBundle, mount: dict[str, Any]) -> None:
    """config.md#mounts: a mount that lacks destination, type, or a bind's source is refused by its path."""
    bundle.config["mounts"].append(mount)
    assert f"$.mounts[{len(bundle.config['mounts']) - 1}]" in refusal(cli, bundle)


# --- mount points ---


def links(bundle: TestBundle) -> None:
    """Links of an image, of every kind that has led a runtime astray."""
    root = bundle.rootfs
    (root / "real").mkdir()
    (root / "abs").symlink_to("/real")
    (root / "above").symlink_to("../../../../../real")
    (root / "chain").symlink_to("abs")
    (root / "dangling").symlink_to("/made/by/runtime")
    (root / "dangling-chain").symlink_to("dangling-2")
    (root / "dangling-2").symlink_to("var/../made-2")
    (root / "etc/resolv.conf").symlink_to("../run/resolve/stub.conf")


def test_links_in_image(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: mount points behind links of the image: absolute, climbing, chained and dangling ones
    stay inside of the root, and what they point to is made."""
    links(bundle)
    (tmp_path / "source").mkdir()
    (tmp_path / "file").write_text("nameserver\n")
    for name in ("abs/1", "above/2", "chain/3", "dangling", "dangling-chain"):
        add(bundle, f"/{name}", "", str(tmp_path / "source"), "bind")
    add(bundle, "/etc/resolv.conf", "", str(tmp_path / "file"), "bind")
    done = cli.run(bundle.sh("cat /etc/resolv.conf; cat /proc/self/mountinfo"))
    assert done.stdout.startswith("nameserver\n")
    expected = {"/real/1", "/real/2", "/real/3", "/made/by/runtime", "/made-2", "/run/resolve/stub.conf"}
    assert expected <= set(mounts(done.stdout))
    assert [p for p in ("/made", "/made-2", "/real", "/run/resolve") if os.path.lexists(p)] == []
    assert (bundle.rootfs / "etc/resolv.conf").is_symlink()


def test_link_loops(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: links in a circle are an error of the mount that meets them, not a hang."""
    (bundle.rootfs / "a").symlink_to("b")
    (bundle.rootfs / "b").symlink_to("a")
    index = add(bundle, "/a/x", "", str(tmp_path), "bind")
    assert f"$.mounts[{index}]" in (line := refusal(cli, bundle))
    assert line.endswith("too many levels of symbolic links")


def test_mount_point_modes(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Mount points are made with mode 0755, or 0644 for a file, whatever the caller's umask."""
    (tmp_path / "file").write_text("")
    add(bundle, "/deep/dir", "tmpfs", "tmpfs")
    add(bundle, "/other/file", "", str(tmp_path / "file"), "bind")
    before = os.umask(0o077)
    try:
        cli.run(bundle)
    finally:
        os.umask(before)
    modes = [(bundle.rootfs / n).stat().st_mode & 0o7777 for n in ("deep", "deep/dir", "other", "other/file")]
    assert modes == [0o755, 0o755, 0o755, 0o644]


def test_in_readonly_tmpfs(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: mounts are made in the listed order; in a tmpfs that is to be read-only the mount
    points of later ones can still be made."""
    add(bundle, "/t", "tmpfs", "tmpfs", "ro", "mode=755")
    add(bundle, "/t/a/b", "", str(tmp_path), "bind")
    done = cli.run(bundle.sh("touch /t/f; cat /proc/self/mountinfo"))
    assert "/t/f: Read-only file system" in done.stderr
    assert "ro" in mounts(done.stdout)["/t"].options
    assert "rw" in mounts(done.stdout)["/t/a/b"].options


@pytest.mark.spec("config#mounts-1")
def test_order_and_stacking(cli: Cli, bundle: TestBundle, make_dirs: Callable[..., list[Path]]) -> None:
    """config.md#mounts: the runtime mounts in the listed order; a later mount on the same place covers."""
    first, second = make_dirs("first", "second")
    (second / "f").write_text("second\n")
    add(bundle, "/m", "", str(first), "bind")
    add(bundle, "/m", "", str(second), "bind")
    assert cli.run(bundle.sh("cat /m/f")).stdout == "second\n"


@pytest.fixture
def make_dirs(tmp_path: Path) -> Callable[..., list[Path]]:
    """Makes directories of the host."""

    def make(*names: str) -> list[Path]:
        made = [tmp_path / name for name in names]
        for path in made:
            path.mkdir()
        return made

    return make


def test_over_root(cli: Cli, bundle: TestBundle, image: Path) -> None:
    """config.md#mounts: a mount on / is the root from then on, for the mounts after it and for the
    program."""
    bundle.config["mounts"].insert(0, {"destination": "/", "source": str(image), "options": ["rbind", "ro"]})
    bundle.config["root"]["path"] = "empty"
    (bundle.path / "empty").mkdir()
    done = cli.run(bundle.sh("touch /f; hostname; ls /proc/1/exe"))
    assert done.stdout == "box\n/proc/1/exe\n"
    assert "/f: Read-only file system" in done.stderr


def test_many(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: hundreds of mounts are no more trouble than a few."""
    (tmp_path / "file").write_text("x")
    for number in range(600):
        add(bundle, f"/m/{number}", "", str(tmp_path / "file"), "bind", "ro")
    assert cli.run(bundle.sh("cat /m/* | wc -c; grep -c ' /m/' /proc/self/mountinfo")).stdout.split() == [
        "600",
        "600",
    ]


def test_deep_destination(cli: Cli, bundle: TestBundle) -> None:
    """config.md#mounts: a destination of which hundreds of directories are missing is made as well."""
    place = "/m" + "/d" * 500
    add(bundle, place, "tmpfs", "tmpfs")
    assert f" {place} " in cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout


# --- where nothing may be mounted ---


@pytest.mark.parametrize("place", ["/proc", "/sys", "/dev"])
@pytest.mark.parametrize("to", ["/elsewhere", "tmp", "/"])
def test_symlinked_api_directories(cli: Cli, bundle: TestBundle, place: str, to: str) -> None:
    """A /proc, /sys or /dev that is a link is refused: its file system would be mounted elsewhere, and what
    confines a process would not be what it looks at (CVE-2019-19921, CVE-2023-27561)."""
    (bundle.rootfs / place[1:]).rmdir()
    (bundle.rootfs / place[1:]).symlink_to(to)
    line = refusal(cli, bundle)
    assert "$.mounts[" in line
    assert f"{place} must not be a symbolic link" in line


@pytest.mark.parametrize(
    "place",
    [
        "/proc/sys",
        "/proc/self",
        "/proc/self/attr",
        "/proc/1/environ",
        "/proc/meminfo/x",
        "/proc/../proc/keys",
    ],
)
def test_inside_proc(cli: Cli, bundle: TestBundle, tmp_path: Path, place: str) -> None:
    """Nothing may be mounted inside of /proc, where it could hide what a process is confined by
    (CVE-2019-16884)."""
    (tmp_path / "file").write_text("")
    index = add(bundle, place, "", str(tmp_path / "file"), "bind")
    assert f"$.mounts[{index}]" in (line := refusal(cli, bundle))
    assert "/proc" in line


def test_inside_proc_by_link(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Nor may it be by way of a link of the image."""
    (tmp_path / "dir").mkdir()
    (bundle.rootfs / "innocent").symlink_to("/proc/sys")
    index = add(bundle, "/innocent", "", str(tmp_path / "dir"), "bind")
    assert f"$.mounts[{index}]" in (line := refusal(cli, bundle))
    assert "inside of a procfs" in line


@pytest.mark.parametrize("kind", ["tmpfs", "sysfs"])
def test_over_proc(cli: Cli, bundle: TestBundle, kind: str) -> None:
    """Only a proc file system may be mounted on /proc."""
    index = add(bundle, "/proc", kind, kind)
    assert f"$.mounts[{index}].destination" in refusal(cli, bundle)


def test_allowed_in_proc(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Files that lxcfs and its like emulate may be bound over those of /proc."""
    (tmp_path / "file").write_text("emulated\n")
    names = ["cpuinfo", "meminfo", "stat", "uptime", "loadavg", "diskstats", "swaps"]
    for name in names:
        add(bundle, f"/proc/{name}", "", str(tmp_path / "file"), "bind")
    done = cli.run(bundle.sh(f"cd /proc; cat {' '.join(names)}"))
    assert done.stdout == "emulated\n" * len(names)


def test_host_proc(cli: Cli, bundle: TestBundle) -> None:
    """The host's /proc may be bound on /proc, and then shows the host's processes."""
    bundle.config["mounts"][0] = {"destination": "/proc", "source": "/proc", "options": ["rbind"]}
    bundle.config["linux"]["maskedPaths"] = bundle.config["linux"]["readonlyPaths"] = []
    comm = Path("/proc/self/comm").read_text()
    assert cli.run(bundle.args("cat", f"/proc/{os.getpid()}/comm")).stdout == comm


# --- file systems ---


@pytest.mark.spec("config-linux#default-filesystems-1")
def test_default_file_systems(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#default-filesystems: proc, sysfs, devpts, tmpfs and mqueue, with the options that
    engines give them."""
    add(bundle, "/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev")
    done = cli.run(bundle.sh("stat -c %a /dev /dev/shm /dev/pts/ptmx; cat /proc/self/mountinfo"))
    assert done.stdout.startswith("755\n1777\n666\n")
    found = mounts(done.stdout)
    kinds = {point: mount.type for point, mount in found.items()}
    assert kinds | {
        "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/dev/mqueue": "mqueue",
        "/sys": "sysfs",
    } == kinds  # fmt: skip
    assert {"nosuid", "noexec", "nodev"} <= found["/dev/mqueue"].options
    assert {"nosuid", "noexec", "nodev", "ro"} <= found["/sys"].options
    assert {"gid=5", "mode=620", "ptmxmode=666"} <= found["/dev/pts"].superblock
    assert "size=65536k" in found["/dev"].superblock


def test_proc_options(cli: Cli, bundle: TestBundle) -> None:
    """config.md#mounts: options of proc; hidepid hides the processes of others."""
    bundle.config["mounts"][0]["options"] = ["nosuid", "noexec", "nodev", "hidepid=2"]
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    done = cli.run(bundle.sh("cat /proc/self/mountinfo; id -u"))
    found = mounts(done.stdout)["/proc"]
    assert {"nosuid", "noexec", "nodev"} <= found.options
    assert found.superblock & {"hidepid=invisible", "hidepid=2"}


def test_tmpcopyup(cli: Cli, bundle: TestBundle) -> None:
    """tmpcopyup: a new tmpfs starts with what the image has there: content, modes, owners and links; the
    image stays as it is, and what is read-only is filled before."""
    top = bundle.rootfs / "data"
    (top / "sub").mkdir(parents=True, mode=0o751)
    (top / "file").write_text("content\n")
    (top / "file").chmod(0o4640)
    (top / "sub/inner").write_text("inner\n")
    (top / "link").symlink_to("/etc/shadow")
    os.mkfifo(top / "fifo")
    os.chown(top / "sub", 12, 34)
    top.chmod(0o2711)
    add(bundle, "/data", "tmpfs", "tmpfs", "tmpcopyup", "size=1m", "ro")
    add(bundle, "/fresh", "tmpfs", "tmpfs", "tmpcopyup")
    script = """
        cat /data/file /data/sub/inner; readlink /data/link; stat -c '%a %u:%g' /data /data/file /data/sub
        test -e /data/fifo || echo none; touch /data/new; touch /fresh/new && echo fresh
        cat /proc/self/mountinfo
    """
    done = cli.run(bundle.sh(script))
    assert done.stdout.startswith("content\ninner\n/etc/shadow\n2711 0:0\n4640 0:0\n751 12:34\nnone\nfresh\n")
    assert "/data/new: Read-only file system" in done.stderr
    assert mounts(done.stdout)["/data"].type == "tmpfs"
    assert not (bundle.rootfs / "data/new").exists()


@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize(
    ("options", "found"),
    [([], ["750", "7", "8"]), (["mode=0711"], ["711", "7", "8"]), (["uid=3", "gid=4"], ["750", "3", "4"]),
     (["uid=3"], ["750", "3", "8"]), (["gid=4"], ["750", "7", "4"])],
)
def test_tmpfs_on_directory(
    cli: Cli, bundle: TestBundle, options: list[str], found: list[str], copied: bool
) -> None:
    """A tmpfs has the mode of the directory of the image that it covers, and with tmpcopyup also the owner, unless
    options say otherwise; one of its own on a directory that the image lacks."""
    top = bundle.rootfs / "data"
    top.mkdir()
    os.chown(top, 7, 8)
    top.chmod(0o750)
    add(bundle, "/data", "tmpfs", "tmpfs", *options, *(["tmpcopyup"] if copied else []))
    add(bundle, "/fresh", "tmpfs", "tmpfs")
    if not copied:
        found = [found[0], "3" if "uid=3" in options else "0", "4" if "gid=4" in options else "0"]
    done = cli.run(bundle.sh("stat -c '%a %u %g' /data /fresh"))
    assert done.stdout == f"{' '.join(found)}\n1777 0 0\n"


@pytest.mark.parametrize("more", [[], ["tmpcopyup"], ["silent"]], ids=["", "tmpcopyup", "by mount(2)"])
def test_tmpfs_mode_is_seen(cli: Cli, bundle: TestBundle, more: list[str]) -> None:
    """The mode of a tmpfs is an option of it, which /proc/mounts shows, whoever has chosen it; 1777 is the kernel's own
    and never shown."""
    for name, mode in (("set", 0o755), ("sticky", 0o1755), ("data", 0o750), ("named", 0o750), ("usual", 0o1777)):
        (bundle.rootfs / name).mkdir()
        (bundle.rootfs / name).chmod(mode)
        add(bundle, f"/{name}", "tmpfs", "tmpfs", *more, *(["mode=0711", "size=1m"] if name == "named" else []))
    add(bundle, "/fresh", "tmpfs", "tmpfs", *(word for word in more if word != "tmpcopyup"))
    found = table(cli, bundle)
    names = ("set", "sticky", "data", "named", "usual", "fresh")
    shown = [{word for word in found[f"/{name}"].superblock if word.startswith("mode=")} for name in names]
    assert shown == [{"mode=755"}, {"mode=1755"}, {"mode=750"}, {"mode=711"}, set(), set()]


def test_tmpcopyup_elsewhere(cli: Cli, bundle: TestBundle) -> None:
    """tmpcopyup on anything but a tmpfs is refused."""
    index = add(bundle, "/m", "mqueue", "mqueue", "tmpcopyup")
    assert f"$.mounts[{index}].options" in refusal(cli, bundle)


def test_overlay(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: an overlay, and one whose lowerdir has more than the 255 bytes that fsconfig(2)
    takes."""
    for name in ("l1", "l2", "up", "work", "up2", "work2", "long"):
        (tmp_path / name).mkdir()
    (tmp_path / "l1/a").write_text("1")
    (tmp_path / "l2/b").write_text("2")
    lower = f"lowerdir={tmp_path}/l1:{tmp_path}/l2"
    add(bundle, "/short", "overlay", "overlay", lower, f"upperdir={tmp_path}/up", f"workdir={tmp_path}/work")
    layers = [tmp_path / "long" / f"{n}{'x' * 60}" for n in range(8)]
    for number, layer in enumerate(layers):
        layer.mkdir()
        (layer / f"f{number}").write_text(str(number))
    long = "lowerdir=" + ":".join(map(str, layers))
    assert len(long) > 300
    add(bundle, "/long", "overlay", "overlay", long, "nosuid", "nodev", "ro", f"upperdir={tmp_path}/up2",
        f"workdir={tmp_path}/work2")  # fmt: skip
    done = cli.run(bundle.sh("cat /short/a /short/b /long/f*; touch /short/new; cat /proc/self/mountinfo"))
    assert done.stdout.startswith("1201234567")
    assert (tmp_path / "up/new").exists()
    found = mounts(done.stdout)
    assert {"nosuid", "nodev", "ro"} <= found["/long"].options


def test_overlay_error(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A long overlay whose layer is missing: the error has its config path."""
    index = add(
        bundle,
        "/m",
        "overlay",
        "overlay",
        "lowerdir=" + ":".join(f"{tmp_path}/{'y' * n}" for n in range(90, 99)),
    )
    assert f"$.mounts[{index}]" in refusal(cli, bundle)


@pytest.mark.spec("config#linux-mount-options-8")
def test_remount(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#linux-mount-options, remount: changes what was mounted before, in its place."""
    add(bundle, "/m", "", str(tmp_path), "bind")
    add(bundle, "/m", "", "", "remount", "bind", "ro", "nosuid")
    add(bundle, "/sys", "", "", "remount", "rw")
    found = table(cli, bundle)
    assert {"ro", "nosuid"} <= found["/m"].options
    assert "rw" in found["/sys"].options


def test_remount_options(cli: Cli, bundle: TestBundle, tree: Path) -> None:
    """config.md#linux-mount-options, remount: recursive forms and propagation hold as well; options of a
    file system of the host are refused."""
    add(bundle, "/m", "", str(tree), "rbind")
    index = add(bundle, "/m", "", "", "remount", "rro", "unbindable")
    found = table(cli, bundle)
    assert "ro" in found["/m/sub"].options
    assert found["/m"].propagation == {"unbindable"}
    bundle.config["mounts"][index]["options"].append("size=5m")
    assert f"$.mounts[{index}].options" in refusal(cli, bundle)


def test_remount_nothing(cli: Cli, bundle: TestBundle) -> None:
    """remount of a place where nothing is: an error with its path."""
    index = add(bundle, "/nothing/here", "", "", "remount", "ro")
    assert f"$.mounts[{index}]" in refusal(cli, bundle)


# --- cgroups ---


def hierarchies() -> list[Mount]:
    """The host's own cgroup v1 mounts."""
    found = mounts(Path("/proc/self/mountinfo").read_text()).values()
    return [m for m in found if m.type == "cgroup" and m.point.startswith("/sys/fs/cgroup/")]


def unified() -> bool:
    """Whether the host has cgroup2 only."""
    found = mounts(Path("/proc/self/mountinfo").read_text())
    return found["/sys/fs/cgroup"].type == "cgroup2"


@pytest.mark.parametrize("namespace", [False, True])
@pytest.mark.parametrize("option", ["ro", "rw"])
def test_cgroup_mount(cli: Cli, bundle: TestBundle, namespace: bool, option: str) -> None:
    """config-linux.md#default-filesystems: the type `cgroup` gives every hierarchy of the host, each with the
    container's own cgroup at its top, with and without a cgroup namespace."""
    if namespace:
        bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    bundle.config["linux"]["cgroupsPath"] = f"/{fresh_id()}"
    add(bundle, "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", option)
    point = "/sys/fs/cgroup" if unified() else "/sys/fs/cgroup/memory"
    script = (
        f"cat /proc/self/mountinfo; ls -l /sys/fs/cgroup; cat {point}/cgroup.procs; cat /proc/self/cgroup"
    )
    done = cli.run(bundle.sh(script))
    found = mounts(done.stdout)
    path = bundle.config["linux"]["cgroupsPath"]
    assert (f":{path}\n" in done.stdout) is not namespace
    if unified():
        assert found["/sys/fs/cgroup"].type == "cgroup2"
        assert found["/sys/fs/cgroup"].options == {option, "nosuid", "noexec", "nodev", "relatime"}
        if namespace:
            assert "\n1\n" in done.stdout
        return
    assert found["/sys/fs/cgroup"].type == "tmpfs"
    assert found["/sys/fs/cgroup"].superblock >= {"mode=755"}
    for point, inner in found.items():  # the tmpfs and what is in it
        if point.startswith("/sys/fs/cgroup"):
            assert inner.options == {option, "nosuid", "noexec", "nodev", "relatime"}, point
    for hierarchy in hierarchies():
        inner = found[hierarchy.point]
        assert inner.type == "cgroup"
        assert inner.root == ("/" if namespace else inner.root)
    assert "\n1\n" in done.stdout  # the program itself, in the top cgroup that it sees


@pytest.mark.parametrize("namespace", [False, True])
def test_cgroup2_mount(cli: Cli, bundle: TestBundle, namespace: bool) -> None:
    """config-linux.md#default-filesystems: the type `cgroup2` gives the unified hierarchy."""
    if namespace:
        bundle.config["linux"]["namespaces"].append({"type": "cgroup"})
    add(bundle, "/unified", "cgroup2", "cgroup2", "nosuid", "ro")
    done = cli.run(bundle.sh("cat /proc/self/mountinfo; cat /unified/cgroup.procs"))
    found = mounts(done.stdout)["/unified"]
    assert found.type == "cgroup2"
    assert {"ro", "nosuid"} <= found.options


def test_cgroup_in_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """A cgroup mount in a user namespace without a cgroup namespace: the host's mount is bound, and
    read-only."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    add(bundle, "/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "ro")
    done = cli.run(bundle.sh("cat /proc/self/mountinfo"))
    found = mounts(done.stdout)
    assert "ro" in found["/sys/fs/cgroup"].options
    assert any(m.type.startswith("cgroup") for m in found.values())
