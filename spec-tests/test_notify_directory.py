"""The directory of a container's notify socket: the container has it read-only, and if it may remount it, whatever it
makes there neither keeps a delete off nor leads it elsewhere."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, cgroups_left, fresh_id

from ocipy.console.sd_notify import NotifySocket
from ocipy.store import Store

DEEP = 2100  # deeper than a path is long, than calls nest, and than there are descriptors
#: remounts the directory so that it can be written to
OPEN = "mount -o remount,bind,rw /run/notify; cd /run/notify; "


#: busybox has no chattr
FLAG = """
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <sys/ioctl.h>
int main(int argc, char **argv) {
    for (int i = 2, flags; i < argc; i++) {
        int fd = open(argv[i], O_RDONLY);
        if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0) return i;
        flags |= strtol(argv[1], 0, 0);
        if (ioctl(fd, FS_IOC_SETFLAGS, &flags) < 0) return i;
    }
    return 0;
}
"""


@pytest.fixture(name="victim")
def victim_fixture(tmp_path: Path) -> Iterator[Path]:
    """Something of the host's, which has to be there afterwards."""
    path = tmp_path / "victim"
    (path / "inner").mkdir(parents=True)
    (path / "file").write_text("precious")
    (path / "file").chmod(0o600)
    yield path
    assert (path / "inner").is_dir()
    assert (path / "file").read_text() == "precious"
    assert stat.S_IMODE((path / "file").stat().st_mode) == 0o600


def create(cli: Cli, bundle: TestBundle, script: str, *capabilities: str) -> str:
    """A container with a notify socket that has run a script; returns its id."""
    for have in bundle.config["process"]["capabilities"].values():
        have += capabilities
    name = fresh_id()
    words = cli.command("create", "--bundle", str(bundle.sh(script).save()), name)
    null = subprocess.DEVNULL
    subprocess.run(
        words, stdin=null, stdout=null, stderr=null, check=True, timeout=60, env=os.environ | {"NOTIFY_SOCKET": "/none"}
    )
    cli("start", name)
    cli.wait_for(name, "stopped", 200)
    return name


def deleted(cli: Cli, name: str) -> None:
    cli("delete", name)
    assert not (cli.root / name).exists()
    assert not [path for path in cgroups_left() if name in path]


def test_it_can_not_be_written(cli: Cli, bundle: TestBundle) -> None:
    """Without CAP_SYS_ADMIN, root of the container can't make anything there."""
    name = create(cli, bundle, OPEN + "mkdir /run/notify/made; echo > /run/notify/made")
    assert list((cli.root / name / "notify").iterdir()) == []
    deleted(cli, name)


@pytest.mark.parametrize(
    "script",
    [
        f"i=0; while [ $i -lt {DEEP} ]; do mkdir d; cd d; i=$((i+1)); done",
        "i=0; while [ $i -lt 3000 ]; do mkdir $i; echo > file$i; i=$((i+1)); done",
        "ln -s / root; ln -s VICTIM victim; mkdir sub; ln -s VICTIM sub/victim; ln -s VICTIM/file sub/file",
        "mknod fifo p; mknod null c 1 3; mkdir sub; mknod sub/fifo p; mknod sub/null c 1 3",
        "mkdir -p a/b/c; echo > a/b/c/file; chmod 0 a/b/c a/b a; chmod 0 .",
        "mkdir -p a/b; echo > a/b/file; echo > file; flag 0x10 a/b/file file a/b a .",
        "mkdir -p a/b; echo > a/b/file; echo > file; flag 0x20 a/b/file file a/b a .",
        "mkdir -p a/b; mount -t tmpfs none a/b; echo > a/b/file; mount --bind a a",
    ],
    ids=["deep", "many", "links", "special files", "no permissions", "immutable", "append only", "mounts"],
)
def test_what_is_made_there(cli: Cli, bundle: TestBundle, victim: Path, script: str) -> None:
    """Anything that a container may make there which can remount it."""
    source = bundle.path / "flag.c"
    source.write_text(FLAG)
    subprocess.run(["gcc", "-static", "-o", bundle.rootfs / "bin/flag", source], check=True)
    name = create(
        cli, bundle, OPEN + script.replace("VICTIM", str(victim)), "CAP_SYS_ADMIN", "CAP_LINUX_IMMUTABLE", "CAP_MKNOD",
        "CAP_DAC_OVERRIDE",
    )  # fmt: skip
    made = cli.root / name / "notify"
    assert list(made.iterdir()) != []
    if script.endswith("a ."):
        listed = subprocess.run(["lsattr", "-d", made, made / "a/b/file"], capture_output=True, text=True, check=True)
        assert all(set(line.split()[0]) & set("ia") for line in listed.stdout.splitlines()), listed
    try:
        deleted(cli, name)
    finally:
        if made.exists():  # else a failure would leave what nobody can remove
            subprocess.run(["chattr", "-R", "-f", "-i", "-a", made])


def test_forced(cli: Cli, bundle: TestBundle) -> None:
    """Without an interpreter it is left to one."""
    name = create(cli, bundle, OPEN + "mkdir -p a/b/c", "CAP_SYS_ADMIN")
    cli("delete", "--force", name)
    assert not (cli.root / name).exists()


def moved(path: Path) -> None:
    for number in range(3):
        (path / f"{number}/same/name").mkdir(parents=True)
        (path / f"{number}/same/file").touch()


def long_names(path: Path) -> None:
    (path / ("n" * 255) / ("m" * 255) / ("o" * 255)).mkdir(parents=True)


def odd_names(path: Path) -> None:
    (path / os.fsdecode(b"\xff\n") / "a\\ b").mkdir(parents=True)


def sockets(path: Path) -> None:
    (path / "sub").mkdir()
    for place in path / "s", path / "sub/s":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(place))


@pytest.mark.parametrize("make", [moved, long_names, odd_names, sockets])
def test_removing(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Names that may be in each other's way, are as long as they can be, or no text."""
    with Store(str(tmp_path / "s")).create("c") as entry:
        (tmp_path / "s/c/notify").mkdir()
        make(tmp_path / "s/c/notify")
        entry.remove()
    assert not (tmp_path / "s/c").exists()


def test_a_mount_of_the_host(tmp_path: Path, victim: Path) -> None:
    """What is mounted there for the host as well (by a container whose mounts are shared with it) is not emptied."""
    with Store(str(tmp_path / "s p")).create("c") as entry:
        inner = tmp_path / "s p/c/notify/inner"
        inner.mkdir(parents=True)
        subprocess.run(["mount", "--bind", victim, inner], check=True)
        try:
            with pytest.raises(Exception, match=r"something is mounted on .*/notify/inner"):
                entry.remove()
        finally:
            subprocess.run(["umount", inner], check=True)
        entry.remove()
    assert not (tmp_path / "s p/c").exists()


def test_a_link_for_the_socket(tmp_path: Path, victim: Path) -> None:
    """A link in the place of the socket is not followed: neither is the socket made elsewhere, nor what is there made
    accessible."""
    from ocipy.console import sd_notify

    (tmp_path / "link").symlink_to(victim / "file")
    sd_notify._open_to_all(str(tmp_path / "link"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, Store(str(tmp_path / "s")).create("c") as entry:
        manager.bind(str(tmp_path / "manager"))
        (tmp_path / "s/c/notify").mkdir()
        NotifySocket(entry, str(tmp_path / "manager")).close()
        made = tmp_path / "s/c/notify/notify.sock"
        assert stat.S_IMODE(made.lstat().st_mode) == 0o777
        entry.remove()
