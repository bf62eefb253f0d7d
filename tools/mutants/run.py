"""Runs of the tests in rooms, on changed copies of the tree."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from .change import AREAS, Change
from .reach import Reach, Recording, save
from .room import COMMAND, KILLED, TIMEOUT

#: kinds of verdicts
NOTICED, MISSED = ("noticed", "timeout"), ("survived", "unreached")


class Verdict(NamedTuple):
    """What became of a change.

    Attributes:
        kind: ``noticed``, ``timeout`` (noticed as well), ``survived``, ``unreached`` (by any test), ``unknown`` (there
            was no time to tell) or ``broken`` (it could not be built or run: does not count).
        by: the test that noticed.
        tests: how many tests ran.
        seconds: how long it took.
    """

    kind: str
    by: str
    tests: int
    seconds: float


class Trials:
    """A copy of the tree as it is now, and trials of changes on it. To be closed.

    Args:
        tree: the tree, with what ``make test`` has installed.
    """

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self.work = Path(tempfile.mkdtemp(prefix="ocipy-mutants-", dir="/var/tmp"))
        self.work.chmod(0o755)  # tests with another user write to the map
        self.reach: Reach | None = None
        #: tests that fail, or not, without any change
        self.bad: set[str] = set()
        self.good: set[str] = set()
        self._numbers = itertools.count(1)
        # without what no test may depend on
        leave = shutil.ignore_patterns(".git", "build", "*.egg-info", ".pytest_cache", ".mypy_cache", ".ruff_cache")
        shutil.copytree(tree, self.work / "base", symlinks=True, ignore=leave)

    def close(self) -> None:
        subprocess.run(["rm", "-rf", "--one-file-system", str(self.work)], check=True)

    def run(
        self, files: dict[str, str], words: list[str], tests: list[str] | None, seconds: float, map: str = ""
    ) -> tuple[int, list[dict[str, Any]], str]:
        """Run tests in a new room: the exit status, what the plugin wrote, the end of what pytest said."""
        name = self.work / f"job-{next(self._numbers)}"
        words = [*words, "-q", "-p", "no:cacheprovider", "--tb=short", "--hypothesis-seed=0"]
        job: dict[str, Any] = {
            "tree": str(self.tree), "base": str(self.work / "base"), "files": files, "words": words, "tests": tests,
            "leave": sorted(self.bad), "out": f"{name}.out", "log": f"{name}.log", "map": map, "seconds": seconds,
        }  # fmt: skip
        file = Path(f"{name}.json")
        file.write_text(json.dumps(job))
        environment = os.environ | {"PYTHONPATH": str(self.work / "base/tools")}
        status = subprocess.run([*COMMAND, sys.executable, "-m", "mutants.room", str(file)], env=environment).returncode
        out = Path(job["out"])
        # whole lines: the tests may have been killed while one was written
        lines = [line for line in out.read_text().splitlines(keepends=True) if line[-1] == "\n"] if out.exists() else []
        log = Path(job["log"]).read_text(errors="replace") if Path(job["log"]).exists() else ""
        return status, [json.loads(line) for line in lines], log

    def record(self, cache: Path, words: list[str]) -> None:
        """Let the whole suite run on the recording build, and keep what it reached."""
        where = self.work / "reach.map"
        recording = Recording(self.tree, str(where))
        where.write_bytes(bytes(recording.size))
        where.chmod(0o666)
        status, entries, log = self.run(recording.files, words, None, 3600, str(where))
        if status not in (0, 1):
            raise SystemExit(f"{log}\nthe tests did not run on the recording build (status {status})")
        save(cache, recording, entries)

    def stands(self, test: str) -> bool:
        """Whether a test passes on the tree as it is. Those that did when the reach was recorded do."""
        known = self.reach and test in self.reach.seconds and test not in self.reach.failed
        if known or test in self.good:
            return True
        if test not in self.bad:
            status, *_ = self.run({}, [test.partition("::")[0]], [test], 300)
            (self.good if status == 0 else self.bad).add(test)
        return test in self.good

    def chosen(self, area: str, change: Change) -> tuple[list[str], list[str] | None]:
        """Test files and tests to run on a change."""
        if self.reach is None:
            files = [f"spec-tests/test_{name}.py" for name in AREAS[area].tests.split()]
            return [file for file in files if (self.tree / file).exists()], None
        tests = [test for test in self.reach.tests(change) if test not in self.bad]
        return sorted({test.partition("::")[0] for test in tests}), tests

    def trial(self, area: str, change: Change, whole: bool, budget: float) -> Verdict:
        """What the tests say of a change.

        Args:
            area: its area.
            change: the change.
            whole: if those that reach it do not notice, run all the others.
            budget: seconds that it may take; 0: without an end.
        """
        began = time.monotonic()
        words, tests = self.chosen(area, change)
        verdict = Verdict("unreached", "", 0, 0)
        if tests != []:
            verdict = self.asked(change, words, tests, budget)
        if whole and self.reach and verdict.kind in MISSED:
            others = [test for test in self.reach.seconds if test not in (tests or ())]
            then = self.asked(change, ["spec-tests"], others, budget)
            verdict = then._replace(tests=verdict.tests + then.tests)
        return verdict._replace(seconds=time.monotonic() - began)

    def asked(self, change: Change, words: list[str], tests: list[str] | None, budget: float) -> Verdict:
        """What some tests say of a change; one that fails without it as well is not heard."""
        text = change.apply((self.work / "base" / change.path).read_bytes()).decode()
        end = time.monotonic() + (budget or 3600)
        for _ in range(20):
            left = max(end - time.monotonic(), 1)
            status, entries, log = self.run({change.path: text}, ["-x", *words], tests, left)
            failed = [entry["test"] for entry in entries if entry.get("outcome") == "failed"]
            if failed and not self.stands(failed[0]):
                continue
            ran = len(entries)
            if failed:
                return Verdict("noticed", failed[0], ran, 0)
            if status == 0:
                return Verdict("survived", "", ran, 0)
            if status == TIMEOUT:
                return Verdict("unknown" if budget and time.monotonic() > end else "timeout", "", ran, 0)
            if status == KILLED:
                return Verdict("noticed", "(it kills the tests)", ran, 0)
            unimported = [entry["unimported"] for entry in entries if "unimported" in entry]
            if unimported:
                return Verdict("noticed", f"{unimported[0]} (its imports)", ran, 0)
            return Verdict("broken", f"status {status}\n{log[-1000:]}", ran, 0)
        return Verdict("broken", "the tests fail without the change as well", 0, 0)
