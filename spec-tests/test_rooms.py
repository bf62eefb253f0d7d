"""docs/architecture.md, Rooms: which files import and include which. For Python `make lint` holds the order of the
rooms; this holds what it does not see: the C side, single files, and what stands outside of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
NATIVE = TOP / "native"
#: room -> what it may include besides its own files
INCLUDES = {"init": {"protocol.h"}, "launcher": {"protocol.h"}, "ext": set()}
#: what is built on the library: each imports its public API, `from ocipy import …`, and itself
OUTSIDE = ("conformance", "ocipy/sandbox", "ocipy/shim")

Graph = dict[str, set[str]]


def circle(graph: Graph) -> list[str]:
    """The files of circles, and those between two: what is left when all are taken out that depend on nothing that is
    left, or that nothing left depends on."""
    left = dict(graph)
    while ends := left.keys() - {name for name in left if left[name] & left.keys()} | (
        left.keys() - {target for targets in left.values() for target in targets}
    ):
        for name in ends:
            del left[name]
    return sorted(left)


def included(root: Path) -> Graph:
    """The files of C, and which of them each includes; one that is not there stands for itself."""
    graph: Graph = {}
    for file in sorted([*root.rglob("*.c"), *root.rglob("*.h")]):
        found = re.findall(r'^\s*#\s*include\s+"([^"]+)"', file.read_text(), re.MULTILINE)
        graph[str(file.relative_to(root))] = {
            str((file.parent / name).resolve().relative_to(root.resolve())) for name in found
        }
    return graph


def imported(root: Path) -> Graph:
    """The modules of the package and of the conformance kit, and what each imports, anywhere in it and also for types
    only."""
    modules = {
        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file
        for folder in ("ocipy", "conformance")
        for file in sorted((root / folder).rglob("*.py"))
    }
    graph: Graph = {}
    for name, file in modules.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert not node.level, f"{file}: a relative import"
                inside = [f"{node.module}.{alias.name}" for alias in node.names]
                found.update(one if one in modules else str(node.module) for one in inside)
        graph[name] = found - {name}
    return graph


def test_no_file_of_c_includes_in_a_circle() -> None:
    graph = included(NATIVE)
    assert {target for targets in graph.values() for target in targets} <= graph.keys()
    assert circle(graph) == []


def test_rooms_of_c() -> None:
    """The init helper, the launcher and the extensions are programs of their own, with the protocol between them."""
    seen = set()
    for file, targets in included(NATIVE).items():
        room = file.partition("/")[0] if "/" in file else ""
        seen.add(room)
        beyond = {target for target in targets if not room or not target.startswith(f"{room}/")}
        assert beyond <= INCLUDES.get(room, set()), file
    assert seen == {"", *INCLUDES}


def test_no_module_imports_in_a_circle() -> None:
    """Late imports and imports for types count; a package counts as the file that it is (its ``__init__``)."""
    graph = imported(TOP)
    inside = {name: targets for name, targets in graph.items() if name.partition(".")[0] == "ocipy"}
    assert len(inside) > 100
    assert circle(inside) == []


def of_the_inside(root: Path, folder: str) -> list[str]:
    """What the files of a folder import of ocipy's inside."""
    own = folder.replace("/", ".")
    return sorted(
        f"{name}: {target}"
        for name, targets in imported(root).items()
        for target in targets
        if f"{name}.".startswith(f"{own}.") and target.startswith("ocipy.") and not f"{target}.".startswith(f"{own}.")
    )


@pytest.mark.parametrize("folder", OUTSIDE)
def test_public_api_only(folder: str) -> None:
    """Not all of these are there yet."""
    assert of_the_inside(TOP, folder) == []


def test_the_page_names_files_that_exist() -> None:
    """docs/architecture.md: all rooms and modules that it names are there, and 20 questions have an answer."""
    text = (TOP / "docs/architecture.md").read_text()
    named = re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.\w+)?)`", text)
    assert len(named) > 80
    assert [name for name in named if not (TOP / name).exists() and not (TOP / "ocipy" / name).exists()] == []
    rooms = {f"ocipy/{file.name}/" for file in (TOP / "ocipy").iterdir() if (file / "__init__.py").exists()}
    assert rooms <= {name if name.startswith("ocipy/") else f"ocipy/{name}" for name in named}
    assert text.partition("## Where is what")[2].partition("Three walks")[0].count("? |") == 20


def test_the_checks_can_fail(tmp_path: Path) -> None:
    """Circles of two and of three files, and an import of the inside, are found."""
    for name, text in {
        "init/a.c": '#include "a.h"\n', "init/a.h": '# include "../b.h"\n', "b.h": '#include "init/a.h"\n',
        "ocipy/__init__.py": "", "ocipy/store.py": "if TYPE_CHECKING:\n    from ocipy.shim.io import X\n",
        "ocipy/shim/__init__.py": "from ocipy import Container\n",
        "ocipy/shim/io.py": "from ocipy.shim import late\n",
        "ocipy/shim/late.py": "def f():\n    from ocipy.store import Store\n",
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert circle(included(tmp_path)) == ["b.h", "init/a.h"]
    assert circle(imported(tmp_path)) == ["ocipy.shim.io", "ocipy.shim.late", "ocipy.store"]
    assert of_the_inside(tmp_path, "ocipy/shim") == ["ocipy.shim.late: ocipy.store"]
