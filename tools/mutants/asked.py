"""A plugin of pytest: runs the tests that are asked for in their order, and writes what became of them.

It is loaded in the room (room.py), with nothing else of this package.
"""

from __future__ import annotations

import base64
import json
import mmap
import sys
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


class Asked:
    """The plugin.

    Args:
        tests: the ids to run, in this order; None for all.
        leave: ids that are left out.
        out: the file to append a line of JSON for each test to.
        map: the file with a byte for each statement, or "".
    """

    def __init__(self, tests: list[str] | None, leave: list[str], out: str, map: str) -> None:
        self.tests = tests
        self.leave = set(leave)
        self.out = open(out, "a", buffering=1)
        self.map: mmap.mmap | None = None
        self.seconds = 0.0
        self.outcome = "passed"
        if map:
            with Path(map).open("r+b") as file:
                self.map = mmap.mmap(file.fileno(), 0)

    def write(self, **entry: Any) -> None:
        self.out.write(json.dumps(entry) + "\n")

    @contextmanager
    def recorded(self, of: str) -> Iterator[None]:
        """What is reached meanwhile is written down as that of a test or test file."""
        self.take("")
        yield
        self.take(of)

    def take(self, of: str) -> None:
        if self.map is None:
            return
        hits = bytes(self.map)
        self.map[:] = bytes(len(hits))
        recorder = sys.modules.get("ocipy._reach")
        if recorder:
            recorder.seen.clear()
        if of and any(hits):
            self.write(of=of, hits=base64.b64encode(zlib.compress(hits)).decode())

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        order = {test: i for i, test in enumerate(self.tests)} if self.tests is not None else None
        kept = [
            item for item in items if item.nodeid not in self.leave and (order is None or item.nodeid in order)
        ]
        if order is not None:
            kept.sort(key=lambda item: order[item.nodeid])
        items[:] = kept

    @pytest.hookimpl(hookwrapper=True)
    def pytest_make_collect_report(self, collector: pytest.Collector) -> Generator[None]:
        with self.recorded(collector.nodeid):
            yield

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.write(unimported=report.nodeid)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Generator[None]:
        if fixturedef.scope in ("module", "class"):
            self.take(self.test)
            with self.recorded(request.node.nodeid.partition("::")[0]):
                yield
        else:
            yield

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None]:
        self.test, self.seconds, self.outcome = item.nodeid, 0.0, "passed"
        with self.recorded(item.nodeid):
            yield
        self.write(test=item.nodeid, seconds=round(self.seconds, 3), outcome=self.outcome)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds += report.duration
        if report.failed:
            self.outcome = "failed"
        elif report.skipped and self.outcome == "passed":
            self.outcome = "skipped"


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    # as for `python -m pytest`: the current directory, and not this one
    sys.path[0] = ""
    plugin = Asked(settings["tests"], settings["leave"], settings["out"], settings["map"])
    sys.exit(pytest.main(settings["words"], plugins=[plugin]))
