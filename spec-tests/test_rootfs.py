"""The root file system: config.md#root, and of config-linux.md its propagation, masked and read-only
paths."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, Mount, TestBundle, fresh_id, mounts

TREE = {"file": "secret", "dir/inner": "secret"}


def fill(bundle: TestBundle) -> None:
    """Files for masking: /x/file and /x/dir/inner, and links to them, absolute ones among them."""
    root = bundle.rootfs / "x"
    (root / "dir").mkdir(parents=True)
    for name, content in TREE.items():
        (root / name).write_text(content)
    (root / "file-link").symlink_to("/x/file")
    (root / "dir-link").symlink_to("../x/dir")


def shared_host(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a mount namespace in which all is shared, as systemd sets a host up."""
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "shared", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


# --- config.md#root ---


@pytest.mark.parametrize("spelling", ["rootfs", "./rootfs/", "nested/../rootfs", "ABSOLUTE", "../elsewhere"])
def test_path(cli: Cli, bundle: TestBundle, spelling: str) -> None:
    """config.md#root, path: absolute, or relative to the bundle (which it may leave)."""
    (bundle.rootfs / "mark").write_text("here")
    if spelling == "../elsewhere":
        bundle.rootfs.rename(bundle.path.parent / "elsewhere")
    (bundle.path / "nested").mkdir()
    bundle.config["root"]["path"] = str(bundle.rootfs) if spelling == "ABSOLUTE" else spelling
    assert cli.run(bundle.args("cat", "/mark")).stdout == "here"


def test_root_is_the_whole_view(cli: Cli, bundle: TestBundle) -> None:
    """config.md#root: the rootfs is the container's /; the host's tree is nowhere, and the container starts
    with the rootfs's own mount at /."""
    done = cli.run(bundle.sh("ls -a /; echo; cat /proc/self/mountinfo"))
    names, _, table = done.stdout.partition("\n\n")
    assert sorted(names.split()) == sorted([".", "..", *(p.name for p in bundle.rootfs.iterdir())])
    found = mounts(table)
    assert set(found) == {"/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys"} | {
        p
        for p in found
        if p.startswith(("/proc/", "/sys/"))  # masked and read-only paths
    }
    assert found["/"].root.endswith("/rootfs")


@pytest.mark.spec("config#root-8")
def test_readonly(cli: Cli, bundle: TestBundle) -> None:
    """config.md#root, readonly: nothing in the root can be written, mounts below it keep their own flags, and
    mount points that the image lacks are made nevertheless."""
    bundle.config["root"]["readonly"] = True
    bundle.config["mounts"].append({"destination": "/made/here", "type": "tmpfs", "source": "tmpfs"})
    script = (
        "touch /f; touch /made/here/f && echo made; touch /dev/shm/f && echo shm; cat /proc/self/mountinfo"
    )
    done = cli.run(bundle.sh(script))
    assert "/f: Read-only file system" in done.stderr
    assert done.stdout.startswith("made\nshm\n")
    assert "ro" in mounts(done.stdout)["/"].options
    assert (bundle.rootfs / "made/here").is_dir()


def test_writable_unless_readonly(cli: Cli, bundle: TestBundle) -> None:
    """config.md#root, readonly: false is the default."""
    cli.run(bundle.sh("echo content > /f"))
    assert (bundle.rootfs / "f").read_text() == "content\n"


def _missing(bundle: TestBundle) -> None:
    bundle.config["root"]["path"] = "nowhere"


def _file(bundle: TestBundle) -> None:
    (bundle.path / "file").write_text("")
    bundle.config["root"]["path"] = "file"


def _link(bundle: TestBundle) -> None:
    (bundle.path / "link").symlink_to("rootfs")
    bundle.config["root"]["path"] = "link"


def _empty(bundle: TestBundle) -> None:
    bundle.config["root"]["path"] = ""


def _none(bundle: TestBundle) -> None:
    del bundle.config["root"]


@pytest.mark.spec("config#root-7")
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_missing, "nowhere: lstat: no such file or directory"),
        (_file, "is not a directory"),
        (_link, "is a symbolic link"),
        (_empty, "$.root.path"),
        (_none, "$.root"),
    ],
)
def test_bad_root(cli: Cli, bundle: TestBundle, spoil: Callable[[TestBundle], None], words: str) -> None:
    """config.md#root: a rootfs that is missing, no directory, a link, or not said is refused by config
    path."""
    spoil(bundle)
    done = cli.run(bundle, code=1)
    assert "$.root" in done.stderr
    assert words in done.stderr.splitlines()[-1]


def test_no_pivot(cli: Cli, bundle: TestBundle) -> None:
    """--no-pivot (for a root on an initramfs): the view is the same, and with it nothing of the host's."""
    bundle.config["root"]["readonly"] = True
    bundle.sh("ls /; touch /f; ls /proc/1/root/bin/busybox; hostname; cd ..; pwd")
    plain, moved = cli.run(bundle), cli.run(bundle, "--no-pivot")
    assert moved.stdout == plain.stdout
    assert "/f: Read-only file system" in moved.stderr
    bundle.args("true")
    name = cli.create(bundle, "--no-pivot")
    cli("start", name)


def test_no_pivot_hides_procfs(cli: Cli, bundle: TestBundle) -> None:
    """--no-pivot: the host's own procfs and sysfs, which would stay mounted out of sight, are gone: with them
    a container could mount another, unmasked one in a user namespace."""
    bundle.sh("cat /proc/self/mountinfo")
    found = [line for line in cli.run(bundle, "--no-pivot").stdout.splitlines() if " - " in line]
    fields = [line.split() for line in found]
    assert [f[4] for f in fields if f[f.index("-") + 1] == "proc" and f[3] == "/"] == ["/proc"]
    assert [f[4] for f in fields if f[f.index("-") + 1] == "sysfs" and f[3] == "/"] == ["/sys"]


# --- config-linux.md#rootfs-mount-propagation ---


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (None, {"master"}),
        ("slave", {"master"}),
        ("rslave", {"master"}),
        ("private", set()),
        ("rprivate", set()),
        ("shared", {"shared", "master"}),
        ("rshared", {"shared", "master"}),
        ("unbindable", {"unbindable"}),
        ("runbindable", {"unbindable"}),
    ],
)
def test_propagation(cli: Cli, bundle: TestBundle, value: str | None, tags: set[str]) -> None:
    """config-linux.md#rootfs-mount-propagation: every value, on a host whose mounts are shared. A shared root
    is a peer group of its own: it gets what the host mounts and never gives any."""
    if value is not None:
        bundle.config["linux"]["rootfsPropagation"] = value
    bundle.args("cat", "/proc/self/mountinfo")
    done = shared_host(*cli.command("run", "--bundle", str(bundle.save()), fresh_id()))
    assert done.returncode == 0, done.stderr
    assert mounts(done.stdout)["/"].propagation == tags


@pytest.mark.parametrize(
    ("value", "tags"),
    [
        (None, {"master"}),
        ("slave", {"master"}),
        ("rslave", {"master"}),
        ("private", {"master"}),
        ("rprivate", set()),
        ("shared", {"master"}),
        ("rshared", {"shared", "master"}),
        ("unbindable", {"master"}),
        ("runbindable", {"unbindable"}),
    ],
)
def test_propagation_below(cli: Cli, bundle: TestBundle, value: str | None, tags: set[str]) -> None:
    """config-linux.md#rootfs-mount-propagation: the recursive forms hold for what is mounted below the root as well;
    with the others that is a slave of the host's."""
    if value is not None:
        bundle.config["linux"]["rootfsPropagation"] = value
    (bundle.rootfs / "sub").mkdir()
    bundle.args("cat", "/proc/self/mountinfo")
    script = f'mount -t tmpfs sub {bundle.rootfs}/sub; exec "$@"'
    words = cli.command("run", "--bundle", str(bundle.save()), fresh_id())
    done = shared_host("sh", "-ec", script, "sh", *words)
    assert done.returncode == 0, done.stderr
    found = mounts(done.stdout)
    assert found["/sub"].propagation == tags
    # the container's own mounts have no master
    assert found["/proc"].propagation == tags - {"master"}


@pytest.mark.parametrize(
    ("value", "top", "below"), [("unbindable", False, True), ("runbindable", False, False), ("private", True, True)]
)
def test_unbindable(cli: Cli, bundle: TestBundle, value: str, top: bool, below: bool) -> None:
    """config-linux.md#rootfs-mount-propagation, unbindable: the root can't be bind-mounted; runbindable: nor can
    what is mounted below it."""
    bundle.config["linux"]["rootfsPropagation"] = value
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN"]
    for name in ("a", "b"):
        (bundle.rootfs / name).mkdir()
    bundle.sh("mount -o bind / /a && echo top; mount -o bind /dev/shm /b && echo below; true")
    said = cli.run(bundle).stdout.split()
    assert ("top" in said, "below" in said) == (top, below)


def test_shared_within(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#rootfs-mount-propagation, shared: what is mounted in a container nested in this one shows in
    this one's root, and not on the host."""
    bundle.config["linux"]["rootfsPropagation"] = "shared"
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN", "CAP_SYS_CHROOT"]
    (bundle.rootfs / "sub").mkdir()
    (bundle.rootfs / "bin/unshare").symlink_to("busybox")
    bundle.sh("unshare -m --propagation shared mount -t tmpfs nested /sub; cat /proc/self/mountinfo")
    words = cli.command("run", "--bundle", str(bundle.save()), fresh_id())
    done = shared_host("sh", "-ec", '"$@"; echo; cat /proc/self/mountinfo', "sh", *words)
    assert done.returncode == 0, done.stderr
    inside, _, outside = done.stdout.partition("\n\n")
    assert mounts(inside)["/sub"].source == "nested"
    assert f"{bundle.rootfs}/sub" not in mounts(outside)


def test_propagation_refused(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#rootfs-mount-propagation: another value is refused."""
    bundle.config["linux"]["rootfsPropagation"] = "public"
    assert "$.linux.rootfsPropagation" in cli.run(bundle, code=1).stderr


@pytest.mark.parametrize(("value", "seen"), [("slave", True), ("shared", True), ("private", False)])
def test_propagation_from_host(cli: Cli, bundle: TestBundle, value: str, seen: bool) -> None:
    """config-linux.md#rootfs-mount-propagation: a mount of the host below the rootfs shows in a slave and not
    in a private root; one of the container's never shows on the host."""
    bundle.config["linux"]["rootfsPropagation"] = value
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN"]
    for name in ("from-host", "from-container"):
        (bundle.rootfs / name).mkdir()
    bundle.sh("mount -t tmpfs inner /from-container; cat /proc/self/mountinfo > /inside")
    ocipy, name = " ".join(cli.command()), fresh_id()
    script = f"""
        {ocipy} create --bundle {bundle.save()} {name} >/dev/null 2>&1
        mount -t tmpfs outer {bundle.rootfs}/from-host
        {ocipy} start {name}
        while {ocipy} state {name} | grep -q running; do sleep 0.02; done
        cat /proc/self/mountinfo
        {ocipy} delete {name}
    """
    done = shared_host("sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    inside = mounts((bundle.rootfs / "inside").read_text())
    assert "/from-container" in inside
    assert ("/from-host" in inside) is seen
    assert f"{bundle.rootfs}/from-host" in mounts(done.stdout)
    assert f"{bundle.rootfs}/from-container" not in mounts(done.stdout)


def test_submounts_of_rootfs(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#rootfs-mount-propagation: what is mounted below the rootfs comes along, and whatever
    the root's propagation, a mount made in it does not carry to the host."""
    bundle.config["linux"]["rootfsPropagation"] = "private"
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name] = ["CAP_SYS_ADMIN"]
    (bundle.rootfs / "sub").mkdir()
    bundle.sh("mkdir /sub/deeper; mount -t tmpfs inner /sub/deeper; cat /proc/self/mountinfo")
    script = f"""
        mount -t tmpfs outer {bundle.rootfs}/sub
        {" ".join(cli.command())} create --bundle {bundle.save()} NAME > {bundle.path}/out 2>&1
        {" ".join(cli.command())} start NAME
        while {" ".join(cli.command())} state NAME | grep -q running; do sleep 0.02; done
        cat /proc/self/mountinfo
        {" ".join(cli.command())} delete NAME
    """.replace("NAME", fresh_id())
    done = shared_host("sh", "-ec", script)
    assert done.returncode == 0, done.stderr
    inside = mounts((bundle.path / "out").read_text())
    assert inside["/sub"].source == "outer"
    assert "/sub/deeper" in inside
    assert f"{bundle.rootfs}/sub/deeper" not in mounts(done.stdout)


# --- config-linux.md#masked-paths, #readonly-paths ---


def test_masked(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#masked-paths: a file reads as empty, a directory as an empty read-only one; a path
    that is absent is no error, one behind a link masks what the link leads to."""
    fill(bundle)
    bundle.config["linux"]["maskedPaths"] = ["/x/file", "/x/dir", "/x/absent", "/absent/too", "/x/file/below"]
    done = cli.run(
        bundle.sh("cat /x/file /x/file-link; ls -A /x/dir; touch /x/dir/f; ls /x; cat /proc/self/mountinfo")
    )
    names, _, _ = done.stdout.partition("1 ")
    assert "secret" not in done.stdout
    assert names.startswith("dir\ndir-link\nfile\nfile-link\n")
    assert "/x/dir/f: Read-only file system" in done.stderr
    found = mounts(done.stdout)
    assert found["/x/dir"].type == "tmpfs"
    assert {"ro", "nosuid", "nodev", "noexec"} <= found["/x/dir"].options
    assert found["/x/file"].root == "/null"


def test_masked_through_links(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#masked-paths: links are followed inside of the root, wherever they point to."""
    fill(bundle)
    (bundle.rootfs / "x/outside").symlink_to("/../../../../../../x/file")
    bundle.config["linux"]["maskedPaths"] = ["/x/outside", "/x/dir-link"]
    done = cli.run(bundle.sh("cat /x/file; ls -A /x/dir; cat /proc/self/mountinfo"))
    assert "secret" not in done.stdout
    assert {"/x/file", "/x/dir"} <= set(mounts(done.stdout))


def test_masked_in_proc(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#masked-paths: what engines mask below /proc and /sys."""
    bundle.config["linux"]["maskedPaths"] = ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"]
    done = cli.run(
        bundle.sh("cat /proc/timer_list /proc/keys; ls -A /sys/firmware; stat -c %t:%T /proc/timer_list")
    )
    assert done.stdout == "1:3\n"


def test_masked_and_bound_null(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#masked-paths: the mask is the host's null device, whatever the image has at /dev/null
    (CVE-2025-31133)."""
    fill(bundle)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if not m["destination"].startswith("/dev")]
    (bundle.rootfs / "dev/null").symlink_to("/x/dir/inner")
    bundle.config["linux"]["maskedPaths"] = ["/x/file"]
    done = cli.run(bundle.sh("stat -c %t:%T /x/file; cat /x/file"), code=None)
    if done.returncode:  # a link where the default device belongs may be refused as well
        assert "/dev/null" in done.stderr
    else:
        assert done.stdout == "1:3\n"


def test_readonly_paths(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#readonly-paths: files and directories can be read but not written, absent ones are no
    error, links are followed inside of the root."""
    fill(bundle)
    bundle.config["linux"]["readonlyPaths"] = ["/x/file-link", "/x/dir", "/x/absent", "/x/file/below"]
    script = "cat /x/file; cat /x/dir/inner; echo 1 >> /x/file; touch /x/dir/f; touch /x/f && echo ok"
    done = cli.run(bundle.sh(script))
    assert done.stdout == "secretsecretok\n"
    assert "can't create /x/file: Read-only file system" in done.stderr
    assert "/x/dir/f: Read-only file system" in done.stderr


@pytest.mark.parametrize("path", ["/", "/x/.."])
def test_readonly_root(cli: Cli, bundle: TestBundle, path: str) -> None:
    """config-linux.md#readonly-paths: the root itself, of which other mounts keep their own flags."""
    bundle.config["linux"]["readonlyPaths"] = ["/absent", path]
    done = cli.run(bundle.sh("touch /dev/shm/f && echo shm; touch /f"), code=1)
    assert done.stdout == "shm\n"
    assert "/f: Read-only file system" in done.stderr


def test_readonly_paths_in_proc(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#readonly-paths: /proc/sys can't be written, even where sysctl of the config wrote
    there."""
    bundle.config["linux"]["sysctl"] = {"kernel.shm_rmid_forced": "1"}
    done = cli.run(
        bundle.sh("cat /proc/sys/kernel/shm_rmid_forced; echo 0 > /proc/sys/kernel/shm_rmid_forced"), code=1
    )
    assert done.stdout == "1\n"
    assert "Read-only file system" in done.stderr


def test_the_same_path_twice(cli: Cli, bundle: TestBundle) -> None:
    """A path that is listed again is masked or made read-only once; one that only looks like it is another's, and still
    masked."""
    fill(bundle)
    linux = bundle.config["linux"]
    linux["maskedPaths"] = ["/x/file", "/x/dir", "/x/file", "/x/dir"]
    linux["readonlyPaths"] = ["/proc/sys", "/proc/bus", "/proc/sys"]
    found = [Mount(line).point for line in cli.run(bundle.args("cat", "/proc/self/mountinfo")).stdout.splitlines()]
    assert [found.count(path) for path in ("/x/file", "/x/dir", "/proc/sys", "/proc/bus")] == [1, 1, 1, 1]

    (bundle.rootfs / "link").symlink_to("x/dir")
    linux["maskedPaths"] = ["/x/dir/inner/", "/x/dir/inner", "/file", "/link/../file"]
    assert cli.run(bundle.sh("cat /x/file /x/dir/inner")).stdout == ""


def test_mask_wins_over_readonly(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#masked-paths: a path in both lists is masked; flags of its mount are kept."""
    fill(bundle)
    bundle.config["mounts"].append(
        {"destination": "/vol", "source": str(bundle.rootfs / "x"), "options": ["bind", "nosuid", "noexec"]}
    )
    bundle.config["linux"]["readonlyPaths"] = ["/x/file", "/vol"]
    bundle.config["linux"]["maskedPaths"] = ["/x/file"]
    done = cli.run(bundle.sh("cat /x/file; cat /proc/self/mountinfo"))
    assert "secret" not in done.stdout
    assert {"ro", "nosuid", "noexec"} <= mounts(done.stdout)["/vol"].options


def test_image_is_untouched(cli: Cli, bundle: TestBundle, image: Path) -> None:
    """Nothing is made in the image but mount points: what it has already serves."""
    cli.run(bundle)
    made = {str(p.relative_to(bundle.rootfs)) for p in bundle.rootfs.rglob("*")}
    assert made == {str(p.relative_to(image)) for p in image.rglob("*")}


@pytest.mark.parametrize("userns", [False, True])
def test_no_pivot_leaves_no_view_of_the_host(cli: Cli, bundle: TestBundle, tmp_path: Path, userns: bool) -> None:
    """--no-pivot: what is mounted on the host stays below the root. While a procfs or sysfs among it is whole, the
    kernel lets the program mount one of its own in a user namespace, without what is masked: so none is left, nor of
    those that are mounted twice or elsewhere, with a blank in their name."""
    places = [tmp_path / name for name in ("a", "b c", "sys")]
    for place in places:
        place.mkdir()
    stack = 'mount -t proc p "$1" && mount -t proc p "$2" && mount -t sysfs s "$3" && mount -t proc p /proc && '
    stack += 'shift 3 && exec "$@"'
    process = bundle.config["process"]
    proc, sys = "unshare -mrpf $b mount -t proc p /proc", "unshare -mrn $b mount -t sysfs s /sys"
    process["args"] = ["sh", "-c", f"b=/bin/busybox; $b {proc} || echo no; $b {sys} || echo no"]
    for name in ("bounding", "permitted", "effective"):
        process["capabilities"][name] += ["CAP_SETFCAP"]
    if userns:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    words = cli.command("run", "--no-pivot", "--bundle", str(bundle.save()), fresh_id())
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", stack, "sh", *map(str, places), *words],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    # in a user namespace they can only be covered, and the kernel takes such a sysfs for whole (with runc, too)
    assert done.stdout.startswith("no\n" if userns else "no\nno\n"), done.stdout
