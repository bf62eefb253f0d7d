"""A user without privilege for tests: an uid with a name and ranges of /etc/subuid and /etc/subgid, none of which
the machine gets to know of. Its commands run in a private mount namespace that has copies of these files."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, Cli, TestBundle, _numbers, nothing_left

UID, GID, NAME = 10001, 10002, "ocipyuser"
SUBIDS = (200000, 65536)
FILES = ("passwd", "group", "subuid", "subgid")

#: $1: the user's directory; then the command. setpriv is a copy: a test may hide /usr/bin
ENTER = """
for file in passwd group subuid subgid; do mount --bind "$1/etc/$file" "/etc/$file" || exit 99; done
for directory in {cgroups}; do echo $$ > "$directory/cgroup.procs" || exit 99; done
{prepare}
export XDG_RUNTIME_DIR="$1/run" HOME="$1" USER={name}
{environment}
cd "$1"
run="$1/setpriv --reuid {uid} --regid {gid} --clear-groups --inh-caps=-all"
shift
exec $run {wrap} "$@"
"""


class User(Cli):
    """The command line as the user runs it, without ``--root``.

    Attributes:
        home: the user's directory; tests may make bundles in it.
        prepare: shell commands that run before, as root, in the private mount namespace.
        environment: shell commands that change the environment.
        wrap: words before the command (``unshare -Ur``).
        cgroups: directories to start the command in.
    """

    def __init__(self, home: Path) -> None:
        super().__init__(home / "run" / "ocipy")
        self.home = home
        self.prepare = self.environment = self.wrap = ""
        self.cgroups: list[Path] = []

    def enter(self, *words: str) -> list[str]:
        """The words of a command for it to be run as the user."""
        script = ENTER.format(
            cgroups=" ".join(map(str, self.cgroups)), prepare=self.prepare, name=NAME, uid=UID, gid=GID,
            environment=self.environment, wrap=self.wrap,
        )  # fmt: skip
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", str(self.home), *words]

    def command(self, *words: str) -> list[str]:
        return self.enter(OCIPY, *words)

    def owns(self, path: Path) -> Path:
        """Give a tree to the user."""
        subprocess.run(["chown", "-hR", f"{UID}:{GID}", str(path)], check=True)
        return path

    def bundle(self, image: Path) -> TestBundle:
        """A bundle with the config that ``ocipy spec --rootless`` writes for the user, but without a terminal."""
        made = TestBundle(self.home / f"bundle{next(_numbers)}", image)
        self.owns(made.path)
        self("spec", "--rootless", "--bundle", str(made.path))
        made.config = json.loads((made.path / "config.json").read_text())
        made.config["process"]["terminal"] = False
        return made

    def error(self, bundle: TestBundle) -> str:
        """The last line of a run that must fail, and leave nothing."""
        line: str = self.run(bundle, code=1).stderr.splitlines()[-1]
        left = list(self.root.iterdir()) if self.root.exists() else []
        assert left == []
        return line


def id_map(*rows: tuple[int, int, int]) -> list[dict[str, int]]:
    """Mappings from (id in the container, id on the host, how many)."""
    return [{"containerID": inside, "hostID": outside, "size": size} for inside, outside, size in rows]


def map_ids(bundle: TestBundle, uids: list[dict[str, int]], gids: list[dict[str, int]]) -> TestBundle:
    """Set the id maps of a config."""
    bundle.config["linux"].update(uidMappings=uids, gidMappings=gids)
    return bundle


def ranges(bundle: TestBundle) -> TestBundle:
    """Map root to the user, and ids from 1 on to the user's ranges."""
    start, count = SUBIDS
    return map_ids(
        bundle, id_map((0, UID, 1), (1, start, count)), id_map((0, GID, 1), (1, start, count))
    )


@contextmanager
def unprivileged() -> Iterator[User]:
    """A user with a directory that it gets to; at the end nothing may be left of its containers."""
    assert os.stat(OCIPY).st_mode & stat.S_IXOTH, f"{OCIPY} is not executable for others"
    for parent in Path(OCIPY).resolve().parents:
        assert parent.stat().st_mode & stat.S_IXOTH, f"another user, as whom {OCIPY} is run, may not enter {parent}"
    home = Path(tempfile.mkdtemp(prefix="ocipytest-", dir="/tmp"))
    try:
        home.chmod(0o755)
        (home / "etc").mkdir()
        lines = {
            "passwd": f"{NAME}:x:{UID}:{GID}::{home}:/bin/sh\n", "group": f"{NAME}:x:{GID}:\n",
            "subuid": f"{NAME}:{SUBIDS[0]}:{SUBIDS[1]}\n", "subgid": f"{NAME}:{SUBIDS[0]}:{SUBIDS[1]}\n",
        }  # fmt: skip
        for name, line in lines.items():
            (home / "etc" / name).write_text((Path("/etc") / name).read_text() + line)
        setpriv = shutil.which("setpriv")
        assert setpriv
        shutil.copy(setpriv, home / "setpriv")
        user = User(home)
        (home / "run").mkdir(mode=0o700)
        user.owns(home / "run")
        yield user
        user.prepare = user.environment = user.wrap = ""
        for name in sorted(os.listdir(user.root)) if user.root.exists() else []:
            user("delete", "--force", name)
        assert nothing_left(home) == []
        assert not user.root.exists() or os.listdir(user.root) == []
    finally:
        subprocess.run(["rm", "-rf", "--one-file-system", str(home)], check=True)


def last(done: subprocess.CompletedProcess[str]) -> str:
    """The last line of stderr: the root cause."""
    return done.stderr.splitlines()[-1]


def config_of(bundle: TestBundle) -> dict[str, dict[str, Any]]:
    """The mounts of a config by destination, to be changed."""
    return {mount["destination"]: mount for mount in bundle.config["mounts"]}


@pytest.fixture(name="user")
def user_fixture() -> Iterator[User]:
    """A user, for a test."""
    with unprivileged() as one:
        yield one


@pytest.fixture(name="box")
def box_fixture(user: User, image: Path) -> TestBundle:
    """A bundle of the user's."""
    return user.bundle(image)
