"""What becomes of the flags that the source of a bind mount has: the rule of runc and crun, and the warning of what is
lost by it."""

from __future__ import annotations

import ctypes
import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id, mounts
from unprivileged import (
    User,
    box_fixture,  # noqa: F401
    user_fixture,  # noqa: F401
)

Source = Callable[..., Path]


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Source]:
    """Makes directories of the host, each a mount with the flags that it is given."""
    made: list[Path] = []

    def make(flags: str, point: Path | None = None) -> Path:
        point = point or tmp_path / f"source{len(made)}"
        point.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "source", point], check=True)
        made.append(point)
        subprocess.run(["mount", "-o", f"remount,bind,{flags}", point], check=True)
        return point

    yield make
    for point in reversed(made):
        subprocess.run(["umount", point], check=True)


def add(bundle: TestBundle, to: str, source: Path, *options: str) -> str:
    """Append a bind mount; returns its config path."""
    bundle.config["mounts"].append({"destination": to, "source": str(source), "options": ["bind", *options]})
    return f"$.mounts[{len(bundle.config['mounts']) - 1}]"


def show(bundle: TestBundle) -> TestBundle:
    return bundle.args("cat", "/proc/self/mountinfo")


ALL = "ro,nosuid,nodev,noexec,noatime,nodiratime,nosymfollow"
KEPT = set(ALL.split(","))
OF_TIMES = {"noatime", "nodiratime"}
#: options of a bind mount from a source with all the flags -> what it has. runc 1.5 and crun 1.8 agree on most. But
#: crun leaves nothing where no option counts; and in both a word that takes an access time back (the last three)
#: changes nothing.
RULE = {
    "ro": {"ro"} | OF_TIMES,
    "rw": {"rw"} | OF_TIMES,
    "nosuid": {"rw", "nosuid"} | OF_TIMES,
    "suid": {"rw"} | OF_TIMES,
    "nodev": {"rw", "nodev"} | OF_TIMES,
    "dev": {"rw"} | OF_TIMES,
    "noexec": {"rw", "noexec"} | OF_TIMES,
    "exec": {"rw"} | OF_TIMES,
    "nosymfollow": {"rw", "nosymfollow"} | OF_TIMES,
    "symfollow": {"rw"} | OF_TIMES,
    "ro,nosuid": {"ro", "nosuid"} | OF_TIMES,
    "noatime": {"rw", "noatime"},
    "relatime": {"rw", "relatime"},
    "strictatime": {"rw"},
    "nodiratime": {"rw", "nodiratime", "relatime"},
    "ro,relatime": {"ro", "relatime"},
    "noexec,rro": {"ro", "noexec"} | OF_TIMES,
    "sync": {"rw"} | OF_TIMES,
    "async": {"rw"} | OF_TIMES,
    "silent": {"rw"} | OF_TIMES,
    "": KEPT,
    "defaults": KEPT,
    "rslave": KEPT,
    "rro": KEPT,
    "size=1m": KEPT,
    "atime": {"rw", "relatime", "nodiratime"},
    "diratime": {"rw", "noatime"},
    "norelatime": {"rw", "nodiratime"},
}


def test_rule(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """A bind mount with an option that sets or clears a flag has the flags that are named and no others; one without
    has those of its source. The access time stays unless one is set. Options for all that is below don't count."""
    top = source(ALL)
    for number, options in enumerate(RULE):
        add(bundle, f"/m/{number}", top, *filter(None, options.split(",")))
    found = mounts(cli.run(show(bundle)).stdout)
    assert {options: found[f"/m/{number}"].options for number, options in enumerate(RULE)} == RULE


def test_only_the_top(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """What is mounted below a source keeps its flags, and gets those of recursive options alone."""
    top = source("nosuid")
    source("noexec,nodev", top / "below")
    add(bundle, "/m", top, "rbind", "ro")
    add(bundle, "/r", top, "rbind", "ro", "rnosuid")
    found = {point: mount.options for point, mount in mounts(cli.run(show(bundle)).stdout).items()}
    assert found["/m"] == {"ro", "relatime"}
    assert found["/m/below"] == {"rw", "noexec", "nodev", "relatime"}
    assert found["/r"] == {"ro", "nosuid", "relatime"}
    assert found["/r/below"] == {"rw", "noexec", "nodev", "nosuid", "relatime"}


def test_programs_of_a_volume(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """A volume ``X:Y:ro`` from a noexec file system runs programs; X:Y does not, nor one whose options say noexec."""
    top = source("noexec")
    (top / "program").write_text("#!/bin/sh\necho ran\n")
    (top / "program").chmod(0o755)
    add(bundle, "/ro", top, "rprivate", "ro")
    add(bundle, "/plain", top, "rprivate")
    add(bundle, "/named", top, "ro", "noexec")
    done = cli.run(bundle.sh("/ro/program; /plain/program; /named/program"), code=126)
    assert done.stdout == "ran\n"
    assert done.stderr.count("Permission denied") == 2


def test_id_mapped(cli: Cli, bundle: TestBundle, ext4: Callable[[Path], Path], tmp_path: Path) -> None:
    """The same for a mount whose ids are mapped."""
    volume = ext4(tmp_path / "volume")
    subprocess.run(["mount", "-o", "remount,bind,noexec,nosuid", volume], check=True)
    maps = [{"containerID": 0, "hostID": 100000, "size": 1000}]
    add(bundle, "/m", volume, "nodev")
    bundle.config["mounts"][-1] |= {"uidMappings": maps, "gidMappings": maps}
    found = mounts(cli.run(show(bundle)).stdout)["/m"].options
    assert {"nodev"} == found & KEPT


def test_later_changes_keep_it(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """A read-only path, a remount and a read-only root leave all other flags as they are."""
    source("nosuid,nodev,noatime", bundle.path / "again")
    subprocess.run(["cp", "-a", bundle.rootfs, bundle.path / "again/rootfs"], check=True)
    top = source("rw")
    (top / "below").mkdir()
    add(bundle, "/m", top, "nosuid", "noexec", "noatime")
    add(bundle, "/again", top, "nosuid", "noexec", "noatime")
    bundle.config["mounts"].append({"destination": "/again", "options": ["remount", "bind", "ro"]})
    bundle.config["linux"]["readonlyPaths"] += ["/m/below"]
    bundle.config["root"] = {"path": "again/rootfs", "readonly": True}
    found = {point: mount.options for point, mount in mounts(cli.run(show(bundle)).stdout).items()}
    assert found["/"] == {"ro", "nosuid", "nodev", "noatime"}
    assert found["/m/below"] == found["/again"] == {"ro", "nosuid", "noexec", "noatime"}
    assert found["/m"] == {"rw", "nosuid", "noexec", "noatime"}


# --- kernels before 5.12 ---


def without(number: int) -> None:
    """A kernel that does not have a system call, for this process and what it starts."""
    insns = (ctypes.c_uint64 * 4)(0x20, 0, 0, 0)  # load the number
    insns[1] = 0x15 | 1 << 24 | number << 32  # the next one, unless it is another
    insns[2] = 0x06 | (0x50000 | errno.ENOSYS) << 32
    insns[3] = 0x06 | 0x7FFF0000 << 32

    class Program(ctypes.Structure):
        _fields_ = (("size", ctypes.c_ushort), ("insns", ctypes.c_void_p))

    program = Program(4, ctypes.addressof(insns))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(program), 0, 0):  # PR_SET_SECCOMP
        raise OSError(ctypes.get_errno(), "prctl")


MOUNT_SETATTR = 442


def test_by_the_old_call(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """mount(2) alone does the same, but for what it can't: what is recursive."""
    top = source(ALL)
    rule = {options: flags for options, flags in RULE.items() if "rro" not in options and options != "rslave"}
    for number, options in enumerate(rule):
        add(bundle, f"/m/{number}", top, *filter(None, options.split(",")))
    done = cli.run(show(bundle), preexec_fn=lambda: without(MOUNT_SETATTR))
    found = mounts(done.stdout)
    assert {options: found[f"/m/{number}"].options for number, options in enumerate(rule)} == rule


def test_later_changes_by_the_old_call(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """mount(2) sets exactly what it is given: what was there before is given again."""
    source("nosuid,nodev,noatime", bundle.path / "again")
    subprocess.run(["cp", "-a", bundle.rootfs, bundle.path / "again/rootfs"], check=True)
    top = source("rw")
    (top / "below").mkdir()
    add(bundle, "/m", top, "nosuid", "noexec", "strictatime")
    add(bundle, "/again", top, "nosuid", "noexec", "noatime")
    bundle.config["mounts"].append({"destination": "/again", "options": ["remount", "bind", "ro", "exec"]})
    bundle.config["linux"]["readonlyPaths"] += ["/m/below"]
    bundle.config["root"] = {"path": "again/rootfs", "readonly": True}
    done = cli.run(show(bundle), preexec_fn=lambda: without(MOUNT_SETATTR))
    found = {point: mount.options for point, mount in mounts(done.stdout).items()}
    assert found["/"] == {"ro", "nosuid", "nodev", "noatime"}
    assert found["/m/below"] == {"ro", "nosuid", "noexec"}
    assert found["/again"] == {"ro", "nosuid", "noatime"}


# --- user namespaces ---


def user_namespace(bundle: TestBundle) -> None:
    maps = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    bundle.config["linux"] |= {"uidMappings": maps, "gidMappings": maps}


def of_the_caller(bundle: TestBundle) -> None:
    """Take the user namespace out of a config: the container is in the caller's."""
    linux = bundle.config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != "user"]
    for name in ("uidMappings", "gidMappings"):
        linux.pop(name, None)


def test_kept_in_a_user_namespace(cli: Cli, open_bundle: TestBundle, source: Source) -> None:
    """In a user namespace of the container's the source's flags stay, as the kernel has it for what comes along into
    one, and nobody is told of a loss; what is named is done."""
    top = source(ALL)
    user_namespace(open_bundle)
    for number, options in enumerate(("ro", "nodev", "exec")):
        add(open_bundle, f"/m/{number}", top, "rbind", options)
    done = cli.run(show(open_bundle))
    found = mounts(done.stdout)
    assert [found[f"/m/{number}"].options for number in range(3)] == [KEPT, KEPT, KEPT - {"noexec"}]
    assert "does not hold" not in done.stderr


def test_locked(user: User, box: TestBundle, source: Source) -> None:
    """What the kernel locks stays: for a user without privilege, and for the root of a user namespace, whose containers
    have none of their own. A flag that is to be cleared there and can't be is an error."""
    top = source(ALL, user.home / "source")
    add(box, "/m", top, "rbind", "nodev")
    assert mounts(user.run(show(box)).stdout)["/m"].options == KEPT

    user.wrap = "unshare --user --map-root-user --mount"
    of_the_caller(box)
    done = user.run(show(box))
    assert mounts(done.stdout)["/m"].options == KEPT
    assert "does not hold" not in done.stderr
    box.config["mounts"][-1]["options"] = ["rbind", "exec"]
    line = user.run(box, code=1).stderr.splitlines()[-1]
    assert "no longer noexec" in line
    assert "operation not permitted" in line
    assert "in a user namespace an attribute that the source came with can't be taken off" in line


def test_not_locked_in_a_user_namespace(user: User, box: TestBundle) -> None:
    """What was mounted in the user namespace that ocipy runs in is not locked there: the rule holds."""
    (user.home / "source").mkdir()
    user.wrap = "unshare --user --map-root-user --mount sh -c 'mount -t tmpfs -o noexec s source && exec \"$@\"' sh"
    add(box, "/m", user.home / "source", "rbind", "nodev")
    of_the_caller(box)
    assert mounts(user.run(show(box)).stdout)["/m"].options == {"rw", "nodev", "relatime"}


# --- warnings ---


def warned(cli: Cli, bundle: TestBundle, tmp_path: Path) -> list[str]:
    """Run a bundle; returns what its log tells."""
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    name = fresh_id()
    cli("--log", str(log), "--log-format", "json", "run", "--bundle", str(bundle.save()), name)
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [line["msg"] for line in lines if line["level"] == "info"]


@pytest.mark.parametrize(
    ("flags", "options", "lost"),
    [
        ("nosuid", ["ro"], "nosuid"),
        (ALL, ["rw"], "nosuid,nodev,noexec,nosymfollow"),
        (ALL, ["nosuid", "nodev"], "ro,noexec,nosymfollow"),
        ("nosymfollow", ["ro"], "nosymfollow"),
        ("nosuid", [], ""),
        ("nosuid", ["rprivate", "rro"], ""),
        ("nosuid", ["ro", "nosuid"], ""),
        ("noexec", ["exec"], ""),
        ("noatime", ["ro"], ""),
        ("rw", ["ro"], ""),
    ],
)
def test_warning(
    cli: Cli, bundle: TestBundle, source: Source, tmp_path: Path, flags: str, options: list[str], lost: str
) -> None:
    """The log tells of each flag of the source that does not hold in the container, if the config does not ask for
    that."""
    top = source(flags)
    where = add(bundle, "/m", top, *options)
    words = f"{where}.options: {lost} of the mount of {top} does not hold in the container: a bind mount with an option"
    found = warned(cli, bundle, tmp_path)
    assert [line.startswith(words) for line in found] == [True] * bool(lost), found


def test_without_a_log(cli: Cli, bundle: TestBundle, source: Source) -> None:
    """Standard error may be the container's: nothing is written there, unless --debug or --log-level asks."""
    add(bundle, "/m", source("nosuid"), "ro")
    assert cli.run(bundle.args("true")).stderr == ""
    done = cli("--log-level", "info", "run", "--bundle", str(bundle.path), fresh_id())
    assert "nosuid of the mount of" in done.stderr


def test_readonly_file_system(cli: Cli, bundle: TestBundle, tmp_path: Path, source: Source) -> None:
    """It stays read-only whatever the mount is: nothing is lost."""
    top = source("rw")
    subprocess.run(["mount", "-o", "remount,ro", top], check=True)
    subprocess.run(["mount", "-o", "remount,bind,rw", top], check=True)
    add(bundle, "/m", top, "nosuid")
    assert warned(cli, bundle, tmp_path) == []


def test_explain(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """`explain` says what is done."""
    add(bundle, "/m", tmp_path, "ro")
    lines = cli("explain", str(bundle.save())).stdout
    assert "make it ro, and nothing else of what its source's mount is" in lines


def test_missing_source(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A source that is not there is the mount's error."""
    where = add(bundle, "/m", tmp_path / "none", "ro")
    line: Any = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert line.startswith(f"ocipy: {where}.source: can't take")
