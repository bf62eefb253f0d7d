"""docs/conformance.md: every binding requirement of the runtime-spec has a test, and the page says which."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "make_conformance.py"
pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="an installed package has no tools")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_conformance", TOOL)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_binding_requirement_has_a_test(tool: ModuleType) -> None:
    tests = tool.markers()
    ours = [entry for entry in tool.requirements() if entry.binding and entry.subject != "none"]
    assert ours, "the registry is empty"
    assert [f"{entry.id}: {entry.statement}" for entry in ours if entry.id not in tests] == []


def test_markers_name_requirements(tool: ModuleType) -> None:
    known = {entry.id for entry in tool.requirements() if entry.subject != "none"}
    assert {name: tests for name, tests in tool.markers().items() if name not in known} == {}


def test_page_is_up_to_date(tool: ModuleType) -> None:
    wanted = tool.render(list(tool.requirements()), tool.markers())
    assert tool.DOCUMENT.read_text(encoding="utf-8") == wanted, "run tools/make_conformance.py"


def test_markers_are_read_from_the_source(tool: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "test_some.py"
    file.write_text(
        "@pytest.mark.spec('a#b-1', 'a#b-2')\n"
        "def test_one(): pass\n"
        "@pytest.mark.parametrize('x', [pytest.param(1, marks=pytest.mark.spec('a#b-3')), 2])\n"
        "@pytest.mark.spec('a#b-1')\n"
        "def test_two(x): pass\n"
    )
    one, two = "test_some.py::test_one", "test_some.py::test_two"
    assert tool.markers(tmp_path) == {"a#b-1": [one, two], "a#b-2": [one], "a#b-3": [two]}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pytestmark = pytest.mark.spec('a#b-1')", "decorate no test"),
        ("@pytest.mark.spec('a#b-1')\ndef helper(): pass", "decorate no test"),
        ("@pytest.mark.spec(*IDS)\ndef test_it(): pass", "are strings"),
    ],
)
def test_markers_that_would_be_missed(tool: ModuleType, tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "test_some.py").write_text(source)
    with pytest.raises(ValueError, match=words):
        tool.markers(tmp_path)


def test_keywords_are_counted(tool: ModuleType, tmp_path: Path) -> None:
    text = "# <a name='x' />Some Section\nIt MUST. It MUST NOT. (REQUIRED)\n### Example\nIt must.\n## Other\nA MAY.\n"
    assert tool.keywords_of(text) == {"some-section": {"MUST": 1, "MUST NOT": 1, "REQUIRED": 1, "must": 1}}
    for document in tool.DOCUMENTS:
        (tmp_path / f"{document}.md").write_text("")
    (tmp_path / "bundle.md").write_text("## Container Format\nREQUIRED MUST MUST MUST MUST\n## New\nSHOULD\n")
    found = [line for line in tool.differences(tmp_path) if line.startswith("bundle#")]
    assert found == [
        "bundle#container-format: MUST is there 4 times, registered 3",
        "bundle#new: SHOULD is there 1 times, registered 0",
    ]
