"""The examples run, and say what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import nothing_left

EXAMPLES = Path(__file__).parent.parent / "examples"

PROMISES = {
    "demo.py": ["host name:     ocipy-demo", "and this shell's pid is 1", "memory limit:  64 MiB", "exit code:     7"],
    "run_and_wait.py": ["container: hello from ", "exit status: 7"],
    "limits_and_stats.py": ["of 64 MiB", "limit now 32 MiB", "status: paused", "processes: 1", "exec: 0"],
    "supervise.py": ["example-worker-3 ended 3 times, with [5, 5, 5]"],
}


def test_every_example_is_tested() -> None:
    assert {p.name for p in EXAMPLES.glob("[a-z]*.py")} == set(PROMISES)


@pytest.mark.parametrize("name", sorted(PROMISES))
def test_example(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    assert [words for words in PROMISES[name] if words not in done.stdout] == [], done.stdout
    assert nothing_left(tmp_path) == []
