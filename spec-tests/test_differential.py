"""The same command lines through runc and through ocipy: exit status, what is printed, and what is there after.

Every difference is a defect, or has its reason in docs/differences.md under the name of its case. What is compared of
standard output is the text, where it comes from the container, and otherwise the shape: columns, keys, types. The
words of errors are not compared; that there are some is.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, TestBundle, fresh_id, nothing_left, until
from differential_cases import CASES, DIFFERENCES

RUNC = shutil.which("runc") or ""
DOCUMENT = Path(__file__).parent.parent / "docs" / "differences.md"


class Side:
    """One of the two, with a state root, a directory and a bundle of its own."""

    def __init__(self, command: str, place: Path, image: Path) -> None:
        place.mkdir()
        self.place = place
        self.bundle = TestBundle(place / "bundle", image)
        self.bundle.config["root"]["readonly"] = False
        self.id = fresh_id()
        self.base = [command, "--root", str(place / "state")]
        self.words = {"id": self.id, "bundle": str(self.bundle.path), "dir": str(place), "other": self.id + "-other"}

    def run(self, line: str) -> dict[str, Any]:
        """Run one command line of a case and say what came of it."""
        if line.startswith("!"):  # of the shell, to prepare something
            script = line[1:].format(**self.words)
            subprocess.run(["sh", "-c", script], check=True, cwd=self.place, stdin=subprocess.DEVNULL)
            return {}
        line, _, given = line.partition(" < ")
        words = [word.replace("\\s", " ") for word in line.format(**self.words).split(" ") if word]
        with (self.place / "out").open("w+") as out, (self.place / "err").open("w+") as err:
            done = subprocess.run(
                [*self.base, *words], stdout=out, stderr=err, text=True, timeout=60, cwd=self.bundle.path,
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

    def shape(self, words: list[str], text: str) -> Any:
        """What is compared of an output."""
        text = text.replace(str(self.place), "DIR").replace(self.id, "ID")
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

    def settle(self, status: str) -> None:
        """Wait until the container has a status: what a program does takes its time."""

        def reached() -> bool:
            done = subprocess.run([*self.base, "state", self.id], capture_output=True, text=True)
            return done.returncode == 0 and bool(json.loads(done.stdout)["status"] == status)

        until(reached)

    def clean(self) -> None:
        state = self.place / "state"
        for name in os.listdir(state) if state.exists() else []:
            subprocess.run([*self.base, "delete", "--force", name], capture_output=True)


def shape_of(value: Any, key: str = "") -> Any:
    """The keys and types of a JSON value; the value itself of those that say what happened."""
    if isinstance(value, dict):
        return {k: shape_of(v, k) for k, v in sorted(value.items())}
    if isinstance(value, list):
        return [shape_of(value[0])] if value else []
    return value if key in ("status", "id", "annotations") else type(value).__name__


def outcome(command: str, name: str, place: Path, image: Path) -> tuple[list[dict[str, Any]], str]:
    change, *lines = CASES[name]
    side = Side(command, place, image)
    change(side.bundle.config)
    side.bundle.save()
    results = []
    try:
        for line in lines:
            if line.startswith("?"):
                side.settle(line[1:])
            else:
                results.append(side.run(line))
    finally:
        side.clean()
    assert nothing_left(place) == []
    return [result for result in results if result], side.last_words


@pytest.mark.parametrize("name", CASES)
def test_same_as_runc(name: str, tmp_path: Path, image: Path) -> None:
    theirs, their_words = outcome(RUNC, name, tmp_path / "runc", image)
    ours, our_words = outcome(OCIPY, name, tmp_path / "ocipy", image)
    if name in DIFFERENCES:
        assert ours != theirs, "there is no difference any more: take it off the list"
        return
    assert ours == theirs, f"runc: {their_words}\nocipy: {our_words}"


def test_differences_have_reasons() -> None:
    """docs/differences.md has each difference with its reason, and no other."""
    text = DOCUMENT.read_text(encoding="utf-8")
    written = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))
    assert written == DIFFERENCES
    assert set(DIFFERENCES) <= set(CASES)


def test_enough_command_lines() -> None:
    """About a hundred of them, good and bad."""
    assert sum(not line.startswith(("!", "?")) for _, *lines in CASES.values() for line in lines) >= 100
    assert RUNC, "runc is not installed (make test installs it)"
    assert sys.platform == "linux"
