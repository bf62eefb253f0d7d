"""When the source of a bind mount is looked up: at its turn, so that earlier mounts count, with a user namespace as
without."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, TestBundle

ROOTS = ["none", "host", "shifted"]


@pytest.fixture(params=ROOTS)
def box(request: pytest.FixtureRequest, open_bundle: TestBundle) -> TestBundle:
    """A bundle without a user namespace, and with one whose root is the host's or nobody there. The host has a
    directory that only its root may enter."""
    if request.param != "none":
        first = 100000 if request.param == "shifted" else 0
        open_bundle.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            open_bundle.config["linux"][name] = [{"containerID": 0, "hostID": first, "size": 65536}]
    for name in ("vol", "vol2", "new/x", "m"):  # mount points: not everybody can make them
        (open_bundle.rootfs / name).mkdir(parents=True)
    (open_bundle.rootfs / "f").touch()
    (open_bundle.rootfs / "vol/both").write_text("image")
    host = open_bundle.path / "host"
    host.mkdir()
    (host / "only").write_text("host")
    (host / "both").write_text("host")
    (open_bundle.path / "closed").mkdir(mode=0o700)
    host.rename(open_bundle.path / "closed/host")
    (open_bundle.path / "link").symlink_to(open_bundle.rootfs)
    return open_bundle


def add(bundle: TestBundle, to: str, source: Path | str, *options: str) -> str:
    options = options or ("rbind",)
    bundle.config["mounts"].append({"destination": to, "source": str(bundle.path / source), "options": list(options)})
    return f"$.mounts[{len(bundle.config['mounts']) - 1}]"


@pytest.mark.parametrize("way", ["rootfs", "link", "rootfs/../link"])
@pytest.mark.parametrize("option", ["bind", "rbind"])
def test_of_an_earlier_mount(cli: Cli, box: TestBundle, way: str, option: str) -> None:
    """What an earlier mount has brought into the root, and what it has covered there; by whatever path."""
    add(box, "/vol", "closed/host")
    add(box, "/f", f"{way}/vol/only", option)
    add(box, "/m", f"{way}/vol", option)
    assert cli.run(box.sh("cat /f /m/both /m/only")).stdout == "hosthosthost"


def test_below_an_earlier_mount(cli: Cli, box: TestBundle) -> None:
    """What is mounted below a directory of the root goes with it."""
    add(box, "/new/x", "closed/host")
    add(box, "/m", "rootfs/new")
    assert cli.run(box.sh("cat /m/x/only")).stdout == "host"


def test_of_a_new_file_system(cli: Cli, box: TestBundle) -> None:
    """Mount points that are made in a tmpfs can be a source as well."""
    box.config["mounts"].append({"destination": "/vol", "type": "tmpfs", "source": "t", "options": ["mode=755"]})
    add(box, "/vol/made/x", "closed/host")
    add(box, "/m", "rootfs/vol/made")
    assert cli.run(box.sh("cat /m/x/only; test -e /vol/both || echo covered")).stdout == "hostcovered\n"


def test_tree_of_mounts(cli: Cli, box: TestBundle) -> None:
    """Parts of a tree of mounts that are bound into it, and the whole of it elsewhere."""
    for name in "abc":
        (box.path / f"closed/{name}/x/y/z").mkdir(parents=True)
        (box.path / f"closed/{name}/x/y/z/file").write_text(name)
    add(box, "/vol", "closed/a/x")
    add(box, "/vol/y", "closed/b/x/y")
    add(box, "/vol2", "rootfs/vol/y")
    add(box, "/vol2/z", "closed/c/x/y/z")
    add(box, "/vol/y/z", "rootfs/vol2/z")
    add(box, "/m", "rootfs/vol")
    assert cli.run(box.sh("cat /m/y/z/file /vol2/z/file /vol/y/z/file")).stdout == "ccc"


def test_of_a_later_mount(cli: Cli, box: TestBundle) -> None:
    """What a later mount brings is not there yet."""
    where = add(box, "/f", "rootfs/vol/only")
    add(box, "/vol", "closed/host")
    line = cli.run(box, code=1).stderr.splitlines()[-1]
    assert line.startswith(f"ocipy: {where}.source: can't take {box.rootfs}/vol/only")
    assert line.endswith(": open_tree: no such file or directory")


def test_out_of_the_root(cli: Cli, box: TestBundle) -> None:
    """A path into the root that a link leads out of again is the host's."""
    add(box, "/vol", "closed/host")
    (box.path / "closed/host/out").symlink_to(box.path / "outside")
    (box.path / "outside").write_text("outside")
    add(box, "/f", "rootfs/vol/out")
    assert cli.run(box.sh("cat /f")).stdout == "outside"


def test_source_is_a_link(cli: Cli, box: TestBundle) -> None:
    """src-nofollow takes a link of an earlier mount itself."""
    add(box, "/vol", "closed/host")
    (box.path / "closed/host/link").symlink_to("only")
    os.symlink("gone", box.rootfs / "there")
    add(box, "/there", "rootfs/vol/link", "bind", "src-nofollow", "dest-nofollow")
    assert cli.run(box.sh("readlink /there")).stdout == "only\n"


# --- with ids of their own ---

OTHER = [{"containerID": 0, "hostID": 300000, "size": 65536}]


@pytest.fixture
def disk(box: TestBundle, ext4: Callable[[Path], Path]) -> Path:
    """A file system whose ids can be mapped, with a file of a user's."""
    disk = ext4(box.path / "disk")
    disk.chmod(0o755)
    (disk / "below").mkdir()
    (disk / "below/file").write_text("disk")
    os.chown(disk / "below/file", 5, 6)
    return disk


@pytest.mark.parametrize("option", ["idmap", "ridmap"])
def test_mapped(cli: Cli, box: TestBundle, disk: Path, option: str) -> None:
    """A source that an earlier mount has brought is mapped like any other, at its turn."""
    add(box, "/vol", disk)
    add(box, "/m", "rootfs/vol/below", "rbind", option)
    add(box, "/vol2", disk / "below", "rbind", option)
    for mount in box.config["mounts"][-2:]:
        mount |= {"uidMappings": OTHER, "gidMappings": OTHER}
    done = cli.run(box.sh("cat /m/file; for f in /m/file /vol2/file; do stat -c ' %u %g' $f; done"))
    ours = box.config["linux"].get("uidMappings")
    seen = "300005 300006" if not ours else "65534 65534"  # 300005 is nobody in either user namespace
    assert done.stdout.splitlines() == [f"disk {seen}", f" {seen}"]


def test_mapped_like_the_container(cli: Cli, box: TestBundle, disk: Path) -> None:
    """With the container's own maps, ids are the file's own."""
    if not box.config["linux"].get("uidMappings"):
        pytest.skip("this case is for user namespaces")
    add(box, "/vol", disk)
    add(box, "/m", "rootfs/vol/below", "rbind", "idmap")
    assert cli.run(box.sh("stat -c '%u %g' /m/file")).stdout == "5 6\n"


def test_not_mappable(cli: Cli, box: TestBundle) -> None:
    """What can't be mapped is an error with the place in the config, at its turn as well."""
    box.config["mounts"].append({"destination": "/vol", "type": "proc", "source": "proc"})
    where = add(box, "/m", "rootfs/vol/sys", "rbind", "idmap")
    box.config["mounts"][-1] |= {"uidMappings": OTHER, "gidMappings": OTHER}
    line = cli.run(box, code=1).stderr.splitlines()[-1]
    assert line.startswith(f"ocipy: {where}")
    assert "can't map the ids of" in line
    assert "mount_setattr: invalid argument (this kernel can't map" in line
