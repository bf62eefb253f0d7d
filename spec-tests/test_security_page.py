"""SECURITY.md: the tests that it names beside the defences exist."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent


def test_named_tests_exist() -> None:
    """Each is `file::test`, or a further `test` of the same file."""
    text = (HERE.parent / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in text[text.index("## Defences") :].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 15
    for row in rows:
        source, named = "", re.findall(r"`(?:(test_\w+\.py)::)?(test_\w+)`", row)
        assert named, row
        for file, name in named:
            source = (HERE / file).read_text(encoding="utf-8") if file else source
            assert f"\ndef {name}(" in source, f"{file}::{name}"
