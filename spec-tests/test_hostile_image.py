"""Images that are made to be in the way: links and FIFOs where something else is due, all kinds of modes, paths that
change while they are looked up. And whatever is made in an image is compared whole: kinds, modes and owners of all."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle

#: path, mode and device number of the default devices
DEVICES = {
    "/dev/null": (1, 3), "/dev/zero": (1, 5), "/dev/full": (1, 7), "/dev/random": (1, 8), "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}  # fmt: skip
FORMAT = "%F|%a|%u:%g|%t:%T|%N"


def without_dev(bundle: TestBundle) -> TestBundle:
    """The image's own /dev."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    return bundle


def whole(cli: Cli, bundle: TestBundle, *tops: str, code: int = 0) -> dict[str, str]:
    """Kind, mode, owner, device number and target of all that there is below some paths in the container."""
    script = f"find {' '.join(tops)} | while read -r name; do echo \"$(stat -c '{FORMAT}' \"$name\")\"; done"
    (bundle.rootfs / "bin/find").unlink(missing_ok=True)
    (bundle.rootfs / "bin/find").symlink_to("busybox")
    found = {}
    for line in cli.run(bundle.sh(script), code=code).stdout.splitlines():
        kind, mode, owner, number, name = line.split("|")
        name, _, target = name.partition(" -> ")
        found[name.strip("'")] = " ".join([kind, mode, owner, *([number] if "special" in kind else []), target]).strip()
    return found


# --- devices ---


@pytest.mark.parametrize("path", [*DEVICES, "/dev/deep/node"])
def test_link_in_the_place_of_a_device(cli: Cli, bundle: TestBundle, tmp_path: Path, path: str) -> None:
    """config-linux.md#devices: a link of the image where a device belongs is refused: it may lead to a node of the
    host's that is the same device, whose mode and owner would be changed."""
    number = DEVICES.get(path, (1, 7))
    node = tmp_path / "node"
    os.mknod(node, stat.S_IFCHR | 0o640, os.makedev(*number))
    os.chown(node, 5, 6)
    before = os.lstat(node)
    if path not in DEVICES:
        bundle.config["linux"]["devices"] = [
            {"path": path, "type": "c", "major": 1, "minor": 7, "fileMode": 0o600, "uid": 12, "gid": 34}
        ]
    link = bundle.rootfs / path[1:]
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(node)
    said = cli.run(without_dev(bundle), code=1).stderr
    assert f"can't make node {path} " in said
    assert "something else is there" in said
    after = os.lstat(node)
    assert (after.st_mode, after.st_uid, after.st_gid, after.st_ctime_ns) == (
        before.st_mode, before.st_uid, before.st_gid, before.st_ctime_ns,
    )  # fmt: skip


def test_all_of_dev(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#default-devices, #devices, #dev-symbolic-links: all that is made in /dev, each with its kind,
    mode and owner, and the directories on the way to it, under any umask; and nothing else."""
    bundle.config["linux"]["devices"] = [
        {"path": "/dev/a/b/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o1640, "uid": 12, "gid": 34},
        {"path": "/dev/a/pipe", "type": "p", "fileMode": 0o4622, "gid": 7},
        {"path": "/dev/disk", "type": "b", "major": 7, "minor": 300, "fileMode": 0o2060},
        {"path": "/dev/tty", "type": "c", "major": 5, "minor": 0, "uid": 9},
    ]
    before = os.umask(0o077)
    try:
        found = whole(cli, bundle, "/dev")
    finally:
        os.umask(before)
    core = {"/dev/core": "symbolic link 777 0:0 '/proc/kcore'"} if Path("/proc/kcore").exists() else {}
    assert found == core | {
        "/dev": "directory 755 0:0",
        "/dev/a": "directory 755 0:0",
        "/dev/a/b": "directory 755 0:0",
        "/dev/a/b/fuse": "character special file 1640 12:34 a:e5",
        "/dev/a/pipe": "fifo 4622 0:7",
        "/dev/disk": "block special file 2060 0:0 7:12c",
        "/dev/tty": "character special file 666 9:0 5:0",
        **{f"/dev/{name}": f"character special file 666 0:0 1:{n}" for name, n in
           {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}.items()},
        "/dev/fd": "symbolic link 777 0:0 '/proc/self/fd'",
        **{f"/dev/{name}": f"symbolic link 777 0:0 '/proc/self/fd/{n}'" for n, name in
           enumerate(("stdin", "stdout", "stderr"))},
        "/dev/ptmx": "symbolic link 777 0:0 'pts/ptmx'",
        "/dev/pts": "directory 755 0:0",
        "/dev/pts/ptmx": "character special file 666 0:0 5:2",
        "/dev/shm": "directory 1777 0:0",
    }  # fmt: skip


def test_all_that_is_made_in_an_image(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts, config.md#linux-process: mount points, the working directory and what is on the way to them,
    by links that lead nowhere and paths that end in a slash, are directories 0755 and files 0644 of root, under any
    umask; what is there keeps its mode."""
    (tmp_path / "file").write_text("")
    for name, target in (("to-dir", "/led/to/dir/"), ("to-file", "led/to/file"), ("chain", "to-chain/"),
                         ("to-chain", "/led/chain//")):  # fmt: skip
        (bundle.rootfs / name).symlink_to(target)
    (bundle.rootfs / "kept").mkdir(mode=0o700)
    (bundle.rootfs / "kept").chmod(0o3701)
    os.chown(bundle.rootfs / "kept", 3, 4)
    bundle.config["mounts"] += [
        {"destination": "/one/two//three/", "type": "tmpfs"},
        {"destination": "/to-dir", "type": "tmpfs"},
        {"destination": "/chain", "type": "tmpfs"},
        {"destination": "/kept/inner", "source": str(tmp_path / "file"), "options": ["bind"]},
        {"destination": "/to-file", "source": str(tmp_path / "file"), "options": ["bind"]},
    ]
    bundle.config["process"]["cwd"] = "/work/in/here///"
    image = {path.relative_to(bundle.rootfs) for path in bundle.rootfs.rglob("*")}
    before = os.umask(0o077)
    try:
        assert cli.run(bundle.args("pwd")).stdout == "/work/in/here\n"
    finally:
        os.umask(before)
    made = {}
    for path in sorted(bundle.rootfs.rglob("*")):
        if (name := path.relative_to(bundle.rootfs)) not in image or name == Path("kept"):
            found = path.lstat()
            made[str(name)] = (stat.filemode(found.st_mode), found.st_uid, found.st_gid)
    directory, file = ("drwxr-xr-x", 0, 0), ("-rw-r--r--", 0, 0)
    assert made == {
        "kept": ("drwx--S--t", 3, 4), "kept/inner": ("-rw-r--r--", 0, 4), "led": directory, "led/chain": directory,
        "led/to": directory, "led/to/dir": directory, "led/to/file": file, "one": directory, "one/two": directory,
        "one/two/three": directory, "work": directory, "work/in": directory, "work/in/here": directory,
    }  # fmt: skip


# --- a new tmpfs on a directory ---


@pytest.mark.parametrize("mode", [0o1777, 0o3770, 0o2711, 0o4755, 0o7777, 0o000])
@pytest.mark.parametrize("copied", [False, True])
def test_tmpfs_on_any_mode(cli: Cli, bundle: TestBundle, mode: int, copied: bool) -> None:
    """A tmpfs has all of the mode of the directory that it covers: the sticky bit of /tmp, above all."""
    (bundle.rootfs / "data").mkdir()
    (bundle.rootfs / "data").chmod(mode)
    options = ["tmpcopyup"] if copied else []
    bundle.config["mounts"] += [
        {"destination": place, "type": "tmpfs", "source": "tmpfs", "options": options} for place in ("/data", "/tmp")
    ]
    assert whole(cli, bundle, "/data", "/tmp") == {
        "/data": f"directory {mode:o} 0:0", "/tmp": "directory 1777 0:0",
    }  # fmt: skip


def test_all_that_is_copied(cli: Cli, bundle: TestBundle) -> None:
    """tmpcopyup: of all files, directories and links the kind, mode, owner, target and content; nothing else is."""
    top = bundle.rootfs / "data"
    (top / "sub/deeper").mkdir(parents=True)
    (top / "link").symlink_to("/etc/shadow")
    (top / "sub/long").symlink_to("x/" * 2000 + "x")
    os.lchown(top / "link", 7, 8)
    os.mkfifo(top / "fifo")
    os.mknod(top / "sub/null", 0o20666, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(top / "socket"))
    for number, mode in enumerate((0o000, 0o4755, 0o2755, 0o1644, 0o7777, 0o600)):
        for path in (top / f"file{number}", top / f"sub/deeper/file{number}"):
            path.write_bytes(os.urandom(number * 70_000))
            os.chown(path, number, 100 + number)
            path.chmod(mode)
        path = top / f"dir{number}"
        path.mkdir()
        os.chown(path, 200 + number, number)
        path.chmod(mode)
    top.chmod(0o3751)
    (top / "sub").chmod(0o1711)
    bundle.config["mounts"].append({"destination": "/data", "type": "tmpfs", "options": ["tmpcopyup"]})
    bundle.config["process"]["capabilities"] = {
        name: ["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH"] for name in ("bounding", "effective", "permitted")
    }
    wanted = {}
    for path in (top, *top.rglob("*")):
        found, name = path.lstat(), f"/{path.relative_to(bundle.rootfs)}"
        kind = {"d": "directory", "l": "symbolic link", "-": "regular file"}.get(stat.filemode(found.st_mode)[0])
        if kind:
            kind = "regular empty file" if kind == "regular file" and not found.st_size else kind
            target = f" '{os.readlink(path)}'" if path.is_symlink() else ""
            wanted[name] = f"{kind} {found.st_mode & 0o7777:o} {found.st_uid}:{found.st_gid}{target}"
    assert whole(cli, bundle, "/data") == wanted
    (bundle.rootfs / "bin/md5sum").symlink_to("busybox")
    sums = "md5sum file* sub/deeper/file*"
    here = subprocess.run(["sh", "-c", sums], cwd=top, capture_output=True, text=True, check=True).stdout
    assert cli.run(bundle.sh(f"cd /data && {sums}")).stdout == here


# --- programs that are none ---


def fifo(path: Path) -> None:
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero: it can be read without an end


def to_fifo(path: Path) -> None:
    os.mkfifo(path.parent / "elsewhere")
    (path.parent / "elsewhere").chmod(0o755)
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [fifo, unix_socket, device, to_fifo])
@pytest.mark.parametrize("word", ["/bin/odd", "odd", "./bin/odd"])
def test_program_that_is_no_file(cli: Cli, bundle: TestBundle, make: Any, word: str) -> None:
    """config.md#linux-process, args: what is no regular file is not waited for, nor read without an end: it can't be
    executed, of which create, run or exec tells."""
    make(bundle.rootfs / "bin/odd")
    if not (bundle.rootfs / "bin/odd").is_symlink():
        (bundle.rootfs / "bin/odd").chmod(0o755)
    assert f'$.process.args: exec: "{word if "/" in word else "/bin/odd"}": permission denied' in cli.run(
        bundle.args(word), code=1
    ).stderr.replace("$.process.args[0]", "$.process.args")
    name = cli.start(bundle.args("sleep", "1000"))
    assert "permission denied" in cli("exec", name, word, code=255).stderr
    cli("delete", "--force", name)


# --- paths that change ---


RENAMES = """
import os, random, sys, time
os.chdir(sys.argv[1])
print(flush=True)
while True:
    os.rename("a", "b")
    os.rename("b", "a")
    time.sleep(random.expovariate(1 / float(sys.argv[2])))
"""


@contextmanager
def renames(place: Path, mean: float) -> Iterator[None]:
    """Renames of directories, somewhere on the machine, with pauses between them, of all lengths."""
    (place / "a").mkdir(parents=True)
    words = [sys.executable, "-I", "-c", RENAMES, str(place), str(mean)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def test_renames_elsewhere(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """When something is renamed anywhere, the kernel does not follow a ``..`` inside of a root, and asks to try again:
    it is tried again. (A look-up takes about as long here as it is from one rename to the next: some are disturbed, and
    not all.)"""
    for name in ("x", "end"):
        (bundle.rootfs / name).mkdir()
    links = 20
    for number in range(links):
        following = f"link{number + 1}" if number < links - 1 else "end"
        (bundle.rootfs / f"link{number}").symlink_to("x/../" * 600 + following)
    takes = []
    for _ in range(10):
        start = time.monotonic()
        os.stat(bundle.rootfs / "link0")
        takes.append(time.monotonic() - start)
    bundle.config["mounts"] += [{"destination": f"/link0/{number}", "type": "tmpfs"} for number in range(12)]
    with renames(tmp_path / "renames", 3 * min(takes)):
        assert cli.run(bundle.sh("grep -c ' /end/' /proc/self/mountinfo")).stdout == "12\n"
