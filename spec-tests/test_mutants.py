"""tools/mutants: what it changes is code, and it is a fair sample."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TREE = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not (TREE / "tools/mutants").is_dir(), reason="an installed package has no tools")
pytest.importorskip("tree_sitter_c", reason="tree-sitter-c is not installed (make test installs it)")
sys.path.append(str(TREE / "tools"))
try:
    from mutants import c, change, python, reach, run, sample
    from mutants.__main__ import table
finally:
    sys.path.remove(str(TREE / "tools"))

PYTHON = b'''"""Text."""
import errno, os
from contextlib import suppress

def ends(fd: int | None, way: str) -> bool:
    """Text, if a and b."""
    try:
        if fd is not None and way:
            os.open(way, os.O_RDONLY | os.O_NOFOLLOW, 0o755)
            os.close(fd)
        else:
            raise OSError(errno.EPERM, way)
    except (OSError, ValueError):
        return False
    with suppress(FileNotFoundError):
        os.unlink(way)
    return True
'''
C = b"""#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#define TWO 2
int ends(int fd, const char *way); /* if (a && b) */
int ends(int fd, const char *way) {
    int other = open(way, O_RDONLY | O_NOFOLLOW, 0755);
    if (fd >= 0 && other > TWO) close(fd);
    else return -EPERM;
    do fd = dup2(other, fd);
    while (fd < 0 && errno == EINTR);
    switch (fd) {
    case 1: return 3;
    default: break;
    }
    return 1;
}
"""


def test_changes_of_python() -> None:
    found = python.changes("a.py", PYTHON)
    assert {one.new.decode().strip() for one in found} >= {
        "(not (fd is not None and way))", "or", "is", "os.O_RDONLY", "0o756", "0o754", "pass", "return;", "18",
        "(ValueError, )", "(OSError, )", "True", "False", "return None", "", "way, errno.EPERM",
    }  # fmt: skip
    assert {one.line for one in found} == {8, 9, 10, 12, 13, 14, 15, 16, 17}, "texts and types are none"
    assert all(python.compiled("a.py", one.apply(PYTHON)) for one in found)
    drop = next(one for one in found if one.line == 10 and one.new == b"pass")
    assert drop.diff(PYTHON) == "-            os.close(fd)\n+            pass"


def test_changes_of_c(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_bytes(C)
    found = c.changes("a.c", C)
    assert {one.new.decode().strip() for one in found} >= {
        "(!((fd >= 0 && other > TWO)))", "||", ">", ">=", "O_RDONLY", "O_NOFOLLOW", "0756", "0754", "{}", "18",
        "return 0;", "fd, other", "!=",
    }  # fmt: skip
    assert {one.line for one in found} == {7, 8, 9, 10, 11, 13, 14, 16}, "comments and directives are none"
    good = [one for one in found if c.compiled("a.c", one.apply(C), tmp_path)]
    assert len(good) > len(found) * 2 // 3


def test_an_equivalent_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.c").write_bytes(C)
    (tmp_path / "a.py").write_bytes(PYTHON)
    original = sample.Original(tmp_path)
    place = C.index(b"O_RDONLY | ")
    nothing = change.Change("a.c", 7, place, place + len(b"O_RDONLY | "), b"", "a flag that is 0")
    assert not original.counts(nothing)
    assert original.counts(nothing._replace(end=nothing.end + len(b"O_NOFOLLOW"), new=b"O_RDONLY"))
    place = PYTHON.index(b"is not None")
    same = change.Change("a.py", 8, place - 3, place + len(b"is not None"), b"not (fd is None)", "the same")
    assert not original.counts(same)
    assert original.counts(same._replace(new=b"fd is None"))
    assert not original.counts(same._replace(new=b"fd is is")), "it does not compile"


def test_sample() -> None:
    areas = list(change.AREAS)
    first = sample.sample(TREE, "a seed", 10, areas)
    assert [area for area, _ in first] == areas, "all areas have as many"
    original = sample.Original(TREE)
    assert all(original.counts(one) for _, one in first if one.path.endswith(".py"))
    again = sample.sample(TREE, "a seed", 8, ["state", "seccomp"])
    assert again == sample.sample(TREE, "a seed", 8, ["state", "seccomp"])
    assert again != sample.sample(TREE, "another", 8, ["state", "seccomp"])
    assert [area for area, _ in again] == ["state"] * 4 + ["seccomp"] * 4
    assert len({(one.path, one.line) for _, one in again}) == 8, "different lines"


def test_every_file_has_an_area() -> None:
    of_areas = {path for paths in change.files(TREE).values() for path in paths}
    every = [*TREE.glob("ocipy/**/*.py"), *TREE.glob("native/*/*.c")]
    names = {str(file.relative_to(TREE)) for file in every if file.name not in ("_native.c", "_seccomp.c")}
    assert names - of_areas - change.LEFT_OUT - {"native/ext/build_native.py", "ocipy/__init__.py"} == set()
    for area in change.AREAS.values():
        assert [name for name in area.tests.split() if not (TREE / f"spec-tests/test_{name}.py").exists()] == []


def test_the_recording_build_knows_the_statement(tmp_path: Path) -> None:
    (tmp_path / "ocipy/store").mkdir(parents=True)
    (tmp_path / "native/init").mkdir(parents=True)
    (tmp_path / "ocipy/store/a.py").write_bytes(PYTHON)
    (tmp_path / "native/init/a.c").write_bytes(C)
    made = reach.Recording(tmp_path, "/map")
    first, spans = made.statements["ocipy/store/a.py"]
    assert f"_reach({first})" in made.files["ocipy/store/a.py"]
    assert (tmp_path / "a.c").write_text(made.files["native/init/a.c"])
    assert c.compiled("a.c", made.files["native/init/a.c"].encode(), tmp_path), "the recording text compiles"
    close = PYTHON.index(b"os.close(fd)")
    number = first + [span[0] for span in spans].index(close)
    hits, none = bytes(i == number for i in range(made.size)), bytes(made.size)
    entries = [
        {"of": "t.py::one", "hits": reach.packed(hits)}, {"of": "t.py::two", "hits": reach.packed(none)},
        {"test": "t.py::one", "seconds": 2, "outcome": "passed"},
        {"test": "t.py::two", "seconds": 1, "outcome": "failed"},
    ]  # fmt: skip
    reach.save(tmp_path / "cache", made, entries)
    known = reach.load(tmp_path / "cache")
    drops = {one.line: one for one in python.changes("ocipy/store/a.py", PYTHON) if one.new == b"pass"}
    assert known.tests(drops[10]) == ["t.py::one"]
    assert known.tests(drops[16]) == []
    assert known.failed == {"t.py::two"}
    outside = drops[10]._replace(start=0)
    assert known.tests(outside) == ["t.py::one"], "all that reach the file"
    assert known.tests(outside._replace(path="unknown.py")) == ["t.py::two", "t.py::one"], "the quickest first"


def test_table() -> None:
    one = change.Change("a.py", 1, 0, 0, b"", "")
    results = [
        ("plan", one, run.Verdict(kind, "", 1, 1.0))
        for kind in ("noticed", "timeout", "survived", "unreached", "broken", "unknown")
    ]
    lines = [line.split() for line in table(results).splitlines()]
    assert lines[1:] == [[name, "4", "2", "1", "2", "50%"] for name in ("plan", "all")]
