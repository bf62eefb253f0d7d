"""The same command lines and configs through ocipy, runc and crun: exit status, output, and what is there after.

Every difference is a defect, or has its reason in docs/differences.md under the name of its case. What is compared of
standard output is the text, where it comes from the container, and otherwise the shape: columns, keys, types. The
words of errors are not compared; that there are some is. The peers are those of Debian 12, and with
``OCIPY_LATER_RUNC=PROGRAM`` a runc 1.5 as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, TestBundle, cgroups_left, end, fresh_id, nothing_left, until
from differences import CRUN, DIFFERENCES, LATER, RUNC, table
from differential_cases import COMMANDS
from differential_configs import cases

CASES = COMMANDS | cases()
DOCUMENT = Path(__file__).parent.parent / "docs" / "differences.md"


@pytest.fixture(scope="session")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[str]]]:
    """The commands of the peers by name."""
    runc, crun, later = shutil.which("runc"), shutil.which("crun"), os.environ.get("OCIPY_LATER_RUNC")
    assert runc, "runc is not installed (make test installs it)"
    assert crun, "crun is not installed (make test installs it)"
    with crun_host(tmp_path_factory.mktemp("cgroups")) as prefix:
        yield {RUNC: [runc], CRUN: [*prefix, crun]} | ({LATER: [later]} if later else {})


@contextlib.contextmanager
def crun_host(place: Path) -> Iterator[list[str]]:
    """What to put in front of crun. It refuses a hybrid hierarchy whose cgroup2 has a controller: it runs in a mount
    namespace where there is no cgroup2, on the v1 hierarchies alone."""
    v2 = Path("/sys/fs/cgroup/unified")
    if not v2.is_dir():
        yield []
        return
    # a tmpfs of its own, since crun makes plain directories in the place of controllers that are not mounted
    script = f"""
        mount -t tmpfs -o mode=755 tmpfs {place}
        for controller in {v2.parent}/*; do
            [ -d $controller ] && [ $controller != {v2} ] && mountpoint -q $controller || continue
            mkdir {place}/${{controller##*/}}
            mount --bind $controller {place}/${{controller##*/}}
        done
        mount --rbind {place} {v2.parent}
        echo
        exec sleep 100000"""
    with subprocess.Popen(["unshare", "-m", "sh", "-ec", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline(), f"could not make a {v2.parent} without {v2}"
        inside = f"nsenter --mount=/proc/{holder.pid}/ns/mnt"
        yield ["sh", "-c", f'exec {inside} sh -c \'cd "$0" && exec "$@"\' "$PWD" "$@"', "crun"]
        holder.kill()


def furnish(rootfs: Path) -> None:
    """What the cases need in the image besides."""
    for name, target in {"link": "/tmp", "dangling": "/nowhere", "out": "/../../../../home"}.items():
        (rootfs / name).symlink_to(target)
    for name, text in {"script": "echo a script\n", "nothing": "#!/no/such/interpreter\n", "wrong": "\x7fELF"}.items():
        (rootfs / "etc" / name).write_text(text)
        (rootfs / "etc" / name).chmod(0o755)


class Side:
    """One of those compared, with a state root, a directory and a bundle of its own."""

    def __init__(self, command: list[str], place: Path, image: Path) -> None:
        place.mkdir()
        self.place = place
        self.bundle = TestBundle(place / "bundle", image)
        furnish(self.bundle.rootfs)
        self.bundle.config["root"]["readonly"] = False
        self.bundle.config["ociVersion"] = "1.0.2"  # the crun of Debian 12 knows no later one
        self.id = fresh_id()
        self.base = [*command, "--root", str(place / "state")]
        self.words = {"id": self.id, "bundle": str(self.bundle.path), "dir": str(place), "other": self.id + "-other"}
        self.last_words = ""

    def save(self) -> None:
        """Write config.json, with the words filled in."""
        text = json.dumps(self.bundle.config)
        for word, value in self.words.items():
            text = text.replace(f"{{{word}}}", value)
        (self.bundle.path / "config.json").write_text(text)

    def run(self, line: str) -> dict[str, Any]:
        """Run one command line of a case and say what came of it."""
        if line.startswith("!"):  # of the shell, to prepare something
            script = line[1:].format(**self.words)
            done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True, cwd=self.place)
            return {"file": self.neutral(done.stdout)} if done.stdout else {}
        here = self.place if "{bundle}" in line else self.bundle.path
        line, _, given = line.partition(" < ")
        words = [word.replace("\\s", " ") for word in line.format(**self.words).split(" ") if word]
        with (self.place / "out").open("w+") as out, (self.place / "err").open("w+") as err:
            done = subprocess.run(
                [*self.base, *words], stdout=out, stderr=err, text=True, timeout=60, cwd=here,
                input=given.format(**self.words) if given else "", env={"PATH": os.environ["PATH"]},
            )  # fmt: skip
            out.seek(0)
            err.seek(0)
            result = {"status": done.returncode, "stdout": self.shape(words, out.read())}
            words_of_failure = err.read().strip()
        if done.returncode and not self.quiet(words):
            result["says why"] = bool(words_of_failure)
        self.last_words = words_of_failure
        effects = self.effects()
        if words and words[0] in ("start", "kill"):  # how far the program is by now is up to chance
            effects["containers"] = dict.fromkeys(effects["containers"])
        return result | effects

    def quiet(self, words: list[str]) -> bool:
        """Whether the exit status is the program's own."""
        return words[:1] in (["run"], ["exec"])

    def neutral(self, text: str) -> str:
        return text.replace(str(self.place), "DIR").replace(self.id, "ID")

    def shape(self, words: list[str], text: str) -> Any:
        """What is compared of an output."""
        text = self.neutral(text)
        try:
            return shape_of(json.loads(text))
        except ValueError:
            pass
        if words and words[0] in ("list", "ps"):  # a table: its columns, and how many rows
            rows = text.splitlines()
            return [rows[0].split() if rows else [], len(rows)]
        if {"--help", "-h", "help", "--version", "-v"} & set(words) or not words:
            return bool(text)
        return text

    def effects(self) -> dict[str, Any]:
        """Which containers there are, in which status; and which files were written beside the bundle."""
        state = self.place / "state"
        found = {}
        for name in sorted(os.listdir(state)) if state.exists() else []:
            done = subprocess.run([*self.base, "state", name], capture_output=True, text=True)
            if done.returncode == 0:
                found[name.replace(self.id, "ID")] = json.loads(done.stdout)["status"]
        files = sorted(p.name for p in self.place.iterdir() if p.name not in ("state", "out", "err", "bundle"))
        return {"containers": found, "files": files}

    def settle(self, status: str) -> dict[str, Any]:
        """Wait until the container has a status: what a program does takes its time."""

        def reached() -> bool:
            done = subprocess.run([*self.base, "state", self.id], capture_output=True, text=True)
            return done.returncode == 0 and bool(json.loads(done.stdout)["status"] == status)

        with contextlib.suppress(AssertionError):
            until(reached, 10)
            return {}
        return {"never": status}

    def clean(self) -> None:
        state = self.place / "state"
        for name in os.listdir(state) if state.exists() else []:
            subprocess.run([*self.base, "delete", "--force", name], capture_output=True)


def without_exit_codes(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What is compared with crun: it has other codes for failures of its own, and a property more in the state."""
    plain = []
    for result in results:
        text = result.get("stdout")
        if isinstance(text, dict):
            text = {key: value for key, value in text.items() if key != "systemd-scope"}
        code = "failed" if result.get("status") and text in ("", [[], 0]) else result.get("status")
        plain.append(result | {"status": code, "stdout": text})
    return plain


def sweep() -> None:
    """Remove the cgroups that a peer has left behind after a refusal."""
    for top in cgroups_left():
        for cgroup, _, _ in os.walk(top, topdown=False):
            processes = Path(cgroup, "cgroup.procs")
            for pid in processes.read_text().split():
                end(int(pid))
            until(lambda: not processes.read_text())  # noqa: B023
            os.rmdir(cgroup)


def shape_of(value: Any, key: str = "") -> Any:
    """The keys and types of a JSON value; the value itself of those that say what happened."""
    if isinstance(value, dict):
        return {k: shape_of(v, k) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return value if key in ("status", "id", "annotations") else type(value).__name__


def outcome(command: list[str], name: str, place: Path, image: Path) -> tuple[list[dict[str, Any]], str]:
    change, *lines = CASES[name]
    side = Side(command, place, image)
    change(side.bundle.config)
    side.save()
    results = []
    try:
        for line in lines:
            results.append(side.settle(line[1:]) if line.startswith("?") else side.run(line))
    finally:
        side.clean()
    if command == [OCIPY]:  # the cgroups of the others, which run meanwhile, don't count
        own = re.compile(re.escape(side.id) + r"(\D|$)")
        assert [it for it in nothing_left(place) if own.search(it) or not it.startswith("/sys/fs/cgroup/")] == []
    return [result for result in results if result], side.last_words


@pytest.mark.parametrize("name", CASES)
def test_same_as_the_peers(name: str, tmp_path: Path, image: Path, peers: dict[str, list[str]]) -> None:
    """Once more where the list is wrong: on a busy machine a peer may lose a race with what it has started."""
    for attempt in "first", "second":
        (tmp_path / attempt).mkdir()
        if not (words := compared(name, tmp_path / attempt, image, peers)):
            return
    pytest.fail(words)


def compared(name: str, place: Path, image: Path, peers: dict[str, list[str]]) -> str:
    """Run a case on all. Returns what came of it if that is not as the list of differences has it, or ""."""
    commands = {"ocipy": [OCIPY], **peers}
    with ThreadPoolExecutor(len(commands)) as pool:
        waiting = {
            who: pool.submit(outcome, command, name, place / who.replace(" ", "-"), image)
            for who, command in commands.items()
        }
        done = {who: future.result() for who, future in waiting.items()}
    sweep()
    differ = set()
    for who in peers:
        ours, theirs = done["ocipy"][0], done[who][0]
        if who == CRUN:
            ours, theirs = without_exit_codes(ours), without_exit_codes(theirs)
        if ours != theirs:
            differ.add(who)
    wrong = differ ^ (DIFFERENCES.get(name, set()) & set(peers))
    rows = [f"{who}: {results} {words}" for who, (results, words) in done.items()]
    return "\n".join([f"the list is wrong of {', '.join(sorted(wrong))}", *rows]) if wrong else ""


def test_differences_have_reasons() -> None:
    """docs/differences.md has the table; every line of it is of cases that there are."""
    assert table() in DOCUMENT.read_text(encoding="utf-8"), "python spec-tests/differences.py prints it"
    assert set(DIFFERENCES) <= set(CASES)


def test_enough_cases() -> None:
    """Four hundred of them, good and bad."""
    assert len(CASES) >= 400
    assert sys.platform == "linux"
