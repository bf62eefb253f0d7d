"""Devices: config-linux.md#default-devices, #devices, #allowed-device-list, #dev-symbolic-links."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, mounts

DEFAULT = {
    "/dev/null": "1:3", "/dev/zero": "1:5", "/dev/full": "1:7", "/dev/random": "1:8", "/dev/urandom": "1:9",
    "/dev/tty": "5:0",
}  # fmt: skip
LINKS = {
    "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0", "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2", "/dev/ptmx": "pts/ptmx",
}  # fmt: skip


def look(*paths: str) -> str:
    """A script that prints type, device, mode and owner of paths."""
    return f"stat -c '%F %t:%T %a %u:%g' {' '.join(paths)}"


def add(bundle: TestBundle, path: str, kind: str, **more: Any) -> None:
    bundle.config["linux"].setdefault("devices", []).append({"path": path, "type": kind, **more})


def grant(bundle: TestBundle, *capabilities: str) -> None:
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name] += capabilities


@pytest.mark.spec("config-linux#default-devices-1")
def test_default(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#default-devices: every container has them, open to all, whatever the umask; and they
    work."""
    before = os.umask(0o077)
    try:
        done = cli.run(
            bundle.sh(
                f"{look(*DEFAULT)}; head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c;"
                "echo x > /dev/null && echo null; echo x > /dev/full"
            ),
            code=1,
        )
    finally:
        os.umask(before)
    lines = done.stdout.splitlines()
    assert lines[:6] == [f"character special file {number} 666 0:0" for number in DEFAULT.values()]
    assert lines[6:] == ["3", "5", "null"]
    assert "No space left on device" in done.stderr


@pytest.mark.spec("runtime-linux#dev-symbolic-links-1", "config-linux#default-devices-1")
def test_links(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#dev-symbolic-links: the links are there, and lead to the program's own descriptors."""
    script = (
        "".join(f"readlink {path};" for path in LINKS) + "echo out > /dev/stdout; echo in | cat /dev/stdin"
    )
    assert cli.run(bundle.sh(script)).stdout.split() == [*LINKS.values(), "out", "in"]


def test_kcore_link(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#dev-symbolic-links: /dev/core, where the kernel has /proc/kcore."""
    done = cli.run(bundle.sh("readlink /dev/core"), code=None)
    assert done.stdout == ("/proc/kcore\n" if Path("/proc/kcore").exists() else "")


def test_links_of_image_stay(cli: Cli, bundle: TestBundle) -> None:
    """What an image has in the place of a link is left alone, where its /dev is used."""
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/stdin").symlink_to("elsewhere")
    done = cli.run(bundle.sh(f"readlink /dev/stdin; readlink /dev/stdout; {look('/dev/null')}"))
    assert done.stdout.splitlines() == ["elsewhere", "/proc/self/fd/1", "character special file 1:3 666 0:0"]
    again = cli.run(bundle)  # now all are there already
    assert again.returncode == 0


@pytest.mark.spec("config-linux#devices-1")
def test_configured(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#devices: character, block and fifo nodes, with mode, owner, and the directories to
    them; a missing fileMode is 0666."""
    add(bundle, "/dev/fuse", "c", major=10, minor=229, fileMode=0o640, uid=12, gid=34)
    add(bundle, "/dev/deep/er/disk", "b", major=7, minor=300, fileMode=0o4600)
    add(bundle, "/dev/unbuffered", "u", major=10, minor=200)
    add(bundle, "/pipes/p", "p", fileMode=0o622, uid=5)
    done = cli.run(bundle.sh(look("/dev/fuse", "/dev/deep/er/disk", "/dev/unbuffered", "/pipes/p")))
    assert done.stdout.splitlines() == [
        "character special file a:e5 640 12:34",
        "block special file 7:12c 4600 0:0",
        "character special file a:c8 666 0:0",
        "fifo 0:0 622 5:0",
    ]


def test_default_replaced(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#devices: an entry for a default device is the one that counts."""
    add(bundle, "/dev//full", "c", major=1, minor=7, fileMode=0o600, uid=1)
    assert cli.run(bundle.sh(look("/dev/full"))).stdout == "character special file 1:7 600 1:0\n"


@pytest.mark.spec("config-linux#devices-4")
def test_existing_node(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#devices: a node that is there and the same is kept, with mode and owner made right;
    something else there is an error with the config path."""
    os.mknod(bundle.rootfs / "node", stat.S_IFCHR | 0o600, os.makedev(10, 229))
    add(bundle, "/node", "c", major=10, minor=229, fileMode=0o644, uid=3)
    assert cli.run(bundle.sh(look("/node"))).stdout == "character special file a:e5 644 3:0\n"
    bundle.config["linux"]["devices"][0]["minor"] = 230
    done = cli.run(bundle, code=1)
    assert "$.linux.devices[0]" in done.stderr
    assert "something else is there" in done.stderr


def test_node_behind_link(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#devices: links on the way to a node stay in the root; one in its place is not
    followed."""
    (bundle.rootfs / "away").symlink_to("/../../../../../elsewhere")
    (bundle.rootfs / "taken").symlink_to("/tmp/x")
    add(bundle, "/away/node", "c", major=10, minor=229)
    assert cli.run(bundle.sh(look("/elsewhere/node"))).stdout == "character special file a:e5 666 0:0\n"
    assert not os.path.lexists("/elsewhere")
    bundle.config["linux"]["devices"][0]["path"] = "/taken"
    assert "$.linux.devices[0]" in cli.run(bundle, code=1).stderr
    assert not (bundle.rootfs / "tmp/x").exists()


@pytest.mark.parametrize(
    ("device", "where"),
    [
        ({"path": "/dev/x", "type": "c", "minor": 1}, "$.linux.devices[0].major"),
        ({"path": "/dev/x", "type": "x", "major": 1, "minor": 1}, "$.linux.devices[0].type"),
        ({"path": "dev/x", "type": "p"}, "$.linux.devices[0].path"),
        ({"type": "p"}, "$.linux.devices[0].path"),
        ({"path": "/dev/x", "type": "c", "major": 1, "minor": 1 << 20}, "$.linux.devices[0].minor"),
    ],
)
def test_bad_entries(cli: Cli, bundle: TestBundle, device: dict[str, Any], where: str) -> None:
    """config-linux.md#devices: what is missing or out of range is refused by its path."""
    bundle.config["linux"]["devices"] = [device]
    assert where in cli.run(bundle, code=1).stderr


@pytest.mark.spec("config-linux#devices-1")
def test_in_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#devices: in a user namespace, where mknod(2) is refused, the host's nodes are bound; a
    fifo is made."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    add(bundle, "/dev/kmsg", "c", major=1, minor=11)
    add(bundle, "/dev/pipe", "p", fileMode=0o600)
    done = cli.run(
        bundle.sh(f"{look(*DEFAULT, '/dev/kmsg', '/dev/pipe')}; echo x > /dev/null; cat /proc/self/mountinfo")
    )
    lines = done.stdout.splitlines()
    assert [line.split()[3] for line in lines[:7]] == [*DEFAULT.values(), "1:b"]
    assert lines[7] == "fifo 0:0 600 0:0"
    found = mounts(done.stdout)
    for path in (*DEFAULT, "/dev/kmsg"):  # as with runc and crun
        assert {"nosuid", "noexec"} <= found[path].options, path
    assert done.stderr == ""
    add(bundle, "/dev/zero", "c", major=1, minor=5, fileMode=0o600, uid=1)
    assert cli.run(bundle.sh("true")).stderr == (
        "ocipy: warning: $.linux.devices[2]: fileMode, uid: without effect in a user namespace, where the host's node"
        " is bound\n"
    )


@pytest.mark.spec("config-linux#devices-1", "config-linux#devices-4")
@pytest.mark.parametrize(
    ("path", "kind", "number", "words"),
    [
        ("/dev/no-such-device", "c", (1, 11), "no such file or directory"),
        ("/dev/zero", "c", (1, 3), "the host's /dev/zero is the character device 1:5"),
        ("/dev/null", "b", (1, 3), "the host's /dev/null is the character device 1:3"),
        ("/etc/passwd", "c", (1, 3), "the host's /etc/passwd is no device"),
        ("/dev", "c", (1, 3), "the host's /dev is no device"),
    ],
)
def test_not_on_host_in_user_namespace(
    cli: Cli, bundle: TestBundle, path: str, kind: str, number: tuple[int, int], words: str
) -> None:
    """config-linux.md#devices: a node that the host lacks can't be had in a user namespace, and what is there instead
    is not taken for it: an error by path."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    add(bundle, path, kind, major=number[0], minor=number[1])
    line = cli.run(bundle, code=1).stderr
    assert "$.linux.devices[0]: " in line
    assert words in line


@pytest.mark.spec("config-linux#devices-4")
def test_existing_file_in_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#devices: a file of the image that is not the device is not covered by it."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    cli.run(bundle)
    (bundle.rootfs / "dev/zero").write_text("x")
    assert "attach it to /dev/zero: something else is there" in cli.run(bundle, code=1).stderr


@pytest.mark.parametrize(
    "mount", [{"source": "/dev", "options": ["rbind", "rslave"]}, {"source": "dev", "type": "devtmpfs"}], ids=str
)
def test_bound_dev(cli: Cli, bundle: TestBundle, mount: dict[str, Any]) -> None:
    """A /dev bound from the host is the host's, as is a devtmpfs: nothing in it is made, linked or changed."""
    before = {p: os.lstat(p) for p in Path("/dev").iterdir()}
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    bundle.config["mounts"].append({"destination": "/dev", **mount})
    add(bundle, "/dev/full", "c", major=1, minor=7, fileMode=0o600, uid=1)
    add(bundle, "/dev/no-such", "c", major=1, minor=7)
    add(bundle, "/elsewhere/full", "c", major=1, minor=7, fileMode=0o600)
    done = cli.run(bundle.sh(f"echo x > /dev/null; {look('/elsewhere/full')}"))
    assert done.stdout == "character special file 1:7 600 0:0\n"
    assert done.stderr == (
        "ocipy: warning: $.linux.devices: 2 below /dev not made, as /dev is the host's: what is there stays\n"
    )
    after = {p: os.lstat(p) for p in Path("/dev").iterdir()}
    assert {p: (s.st_mode, s.st_uid, s.st_ino) for p, s in before.items()} == {
        p: (s.st_mode, s.st_uid, s.st_ino) for p, s in after.items()
    }


@pytest.mark.parametrize("bound", [False, True])
def test_null_of_host(cli: Cli, bundle: TestBundle, bound: bool, tmp_path: Path) -> None:
    """The host's /dev/null, as standard input, keeps its owner, where the container's is another device or none."""
    before = os.lstat("/dev/null")
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    if bound:
        (tmp_path / "dev").mkdir()
        bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
        bundle.config["mounts"].append({"destination": "/dev", "source": str(tmp_path / "dev"), "options": ["bind"]})
    else:
        add(bundle, "/dev/null", "c", major=1, minor=5)
    cli.run(bundle)
    assert (os.lstat("/dev/null").st_uid, os.lstat("/dev/null").st_gid) == (before.st_uid, before.st_gid)


@pytest.mark.parametrize("user", [False, True])
def test_mounted_over_default(cli: Cli, bundle: TestBundle, user: bool) -> None:
    """What the config mounts in the place of a default device stays there."""
    if user:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["mounts"].append({"destination": "/dev/random", "source": "/dev/urandom", "options": ["bind"]})
    bundle.config["mounts"].append({"destination": "/dev", "options": ["remount", "bind", "noexec"]})
    found = cli.run(bundle.sh(look("/dev/random", "/dev/zero"))).stdout
    assert [line.split()[3] for line in found.splitlines()] == ["1:9", "1:5"]


# --- config-linux.md#allowed-device-list (the cgroup's part) ---


def rule(allow: bool, access: str = "rwm", **more: Any) -> dict[str, Any]:
    return {"allow": allow, "access": access, **more}


@pytest.mark.spec("config-linux#allowed-device-list-1")
def test_device_rules(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#allowed-device-list: after a denial of all, what is allowed works with the access
    that is given, the default devices always, and the rest is refused, also to who may make nodes."""
    bundle.config["linux"]["resources"] = {
        "devices": [rule(False), rule(True, "r", type="c", major=1, minor=11)],
    }
    grant(bundle, "CAP_MKNOD", "CAP_SYSLOG")
    add(bundle, "/dev/kmsg", "c", major=1, minor=11)
    add(bundle, "/dev/mem", "c", major=1, minor=1)
    script = """
        head -c 1 /dev/zero | wc -c; echo x > /dev/null && echo null; head -c 1 /dev/urandom | wc -c
        (exec 3< /dev/kmsg) && echo readable; (exec 3>> /dev/kmsg) || echo unwritable
        (exec 3< /dev/mem) || echo denied
        mknod /tmp/b b 7 0 && echo made; (exec 3< /tmp/b) || echo unopenable
    """
    done = cli.run(bundle.sh(script), code=None)
    words = done.stdout.split()
    assert words[:6] == ["1", "null", "1", "readable", "unwritable", "denied"]
    assert words[-1] == "unopenable"


def test_devices_unlimited(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#allowed-device-list: an entry that allows all lets everything through."""
    bundle.config["linux"]["resources"] = {"devices": [rule(True)]}
    grant(bundle, "CAP_MKNOD", "CAP_SYSLOG")
    add(bundle, "/dev/kmsg", "c", major=1, minor=11)
    done = cli.run(bundle.sh("(exec 3<> /dev/kmsg) && echo ok; mknod /tmp/c c 1 11 && echo made"))
    assert done.stdout.split() == ["ok", "made"]


def test_nodev(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-mount-options, nodev: nodes made on such a mount can't be opened."""
    bundle.config["mounts"][1]["options"].append("nodev")
    assert "Permission denied" in cli.run(bundle.sh("echo x > /dev/null"), code=1).stderr


def test_disk_that_may_not_be_opened(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A file system on a block device is mounted by the runtime: the device rules are the program's."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run(["mkfs.ext2", "-q", "-F", image], check=True)
    words = ["losetup", "--find", "--show", image]
    loop = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    try:
        bundle.config["mounts"].append({"destination": "/disk", "type": "ext4", "source": loop})
        bundle.config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
        number = os.stat(loop).st_rdev
        bundle.sh(f"touch /disk/x && ls /disk; mknod /tmp/loop b {os.major(number)} {os.minor(number)}; cat /tmp/loop")
        bundle.config["process"]["capabilities"]["effective"].append("CAP_MKNOD")
        bundle.config["process"]["capabilities"]["permitted"].append("CAP_MKNOD")
        bundle.config["process"]["capabilities"]["bounding"].append("CAP_MKNOD")
        for _ in range(5):  # the rules and the mounts were once made side by side
            done = cli.run(bundle, code=None)
            assert done.stdout.split() == ["lost+found", "x"], done.stderr
            assert "not permitted" in done.stderr
    finally:
        subprocess.run(["losetup", "--detach", loop], check=True)
