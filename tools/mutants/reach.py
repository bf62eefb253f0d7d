"""Which tests reach which statement.

A copy of the code is built in which every statement of a function first sets a byte of its own in a file, and the tests
run against it. Neither coverage.py nor gcov would do: the command starts an interpreter that is isolated and not
complete, thousands of times, and the init helper can't write a file from inside a container. The byte is set in shared
memory that the helper has mapped before (C), or by pwrite(2) once for each process and test (Python).
"""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import zlib
from itertools import accumulate
from pathlib import Path
from typing import Any

from . import c
from .change import Change, files

#: where a statement begins and ends, in bytes of the file
Span = tuple[int, int]

#: set by the interpreter's core alone, before there is a package to import from
NOT_PYTHON = {"ocipy/faststart/boot.py"}
GENERATED = {"_table.py", "_native.c", "_seccomp.c"}
RECORDER = '''
from posix import O_CLOEXEC, O_WRONLY, close, open, pwrite

seen = set()


def hit(number):
    if number not in seen:
        seen.add(number)
        try:
            fd = open({path!r}, O_WRONLY | O_CLOEXEC)
        except OSError:
            return
        try:
            pwrite(fd, b"\\1", number)
        except OSError:
            pass
        close(fd)
'''
HEAD = """
__attribute__((visibility("hidden"))) extern unsigned char reach_none[{size}], *reach_map;
#define REACH(n) (reach_map[n] = 1)
#line 1
"""
TAIL = """
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
__attribute__((weak, visibility("hidden"))) unsigned char reach_none[{size}], *reach_map = reach_none;
__attribute__((constructor)) static void reach_start(void) {{
    int fd = reach_map == reach_none ? open("{path}", O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0) return;
    void *map = mmap(0, {size}, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map != MAP_FAILED) reach_map = map;
    close(fd);
}}
"""


class Statement(ast.NodeTransformer):
    """Lets each statement of functions begin with a call."""

    def __init__(self, source: bytes, first: int) -> None:
        self.first = first
        self.spans: list[Span] = []
        self.starts = [0, *accumulate(len(line) for line in source.splitlines(keepends=True))]
        self.inside = False

    def block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        new: list[ast.stmt] = []
        for statement in body:
            text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not text and not isinstance(statement, ast.Global | ast.Nonlocal):
                new += ast.parse(f"_reach({self.first + len(self.spans)})").body
                end = self.starts[(statement.end_lineno or 0) - 1] + (statement.end_col_offset or 0)
                self.spans.append((self.starts[statement.lineno - 1] + statement.col_offset, end))
            new.append(self.visit(statement))
        return new

    def generic_visit(self, node: ast.AST) -> ast.AST:
        before = self.inside
        self.inside = (before or isinstance(node, ast.FunctionDef)) and not isinstance(node, ast.ClassDef)
        for name, value in ast.iter_fields(node):
            if self.inside and name in ("body", "orelse", "finalbody") and isinstance(value, list):
                setattr(node, name, self.block(value))
            else:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)
        self.inside = before
        return node


def python(source: bytes, first: int) -> tuple[bytes, list[Span]]:
    """The text of a Python file that records, and where its statements are."""
    tree = ast.parse(source)
    statements = Statement(source, first)
    statements.visit(tree)
    place = 0  # behind the docstring, and what has to be first
    for i, node in enumerate(tree.body[:3], 1):
        if isinstance(node, ast.Expr) or (isinstance(node, ast.ImportFrom) and node.module == "__future__"):
            place = i
    tree.body[place:place] = ast.parse("from ocipy._reach import hit as _reach").body
    return ast.unparse(ast.fix_missing_locations(tree)).encode(), statements.spans


def native(source: bytes, first: int) -> tuple[bytes, list[Span]]:
    """The same of a C file, without what it needs around it."""
    edits: list[tuple[int, bytes]] = []
    spans: list[Span] = []
    blocks = ("compound_statement", "case_statement", "labeled_statement")
    for node in c.walk(c.parse(source)):
        parent = node.parent
        if not parent or not (node.type.endswith("_statement") or node.type == "declaration"):
            continue
        if node.type in blocks:
            continue
        field = next((parent.field_name_for_child(i) for i, n in enumerate(parent.children) if n == node), None)
        call = f"REACH({first + len(spans)}); ".encode()
        if parent.type in blocks and field != "value":
            edits.append((node.start_byte, call))
        elif parent.type == "else_clause" or field in ("consequence", "body"):
            edits += [(node.start_byte, b"{ " + call), (node.end_byte, b" }")]
        else:
            continue  # the declaration in the head of a loop
        spans.append((node.start_byte, node.end_byte))
    return insert(source, edits), spans


def insert(source: bytes, edits: list[tuple[int, bytes]]) -> bytes:
    parts, last = [], 0
    for place, text in sorted(edits, key=lambda edit: edit[0]):
        parts += [source[last:place], text]
        last = place
    return b"".join([*parts, source[last:]])


class Recording:
    """The files that record.

    Attributes:
        files: the texts.
        size: how many statements there are.
        statements: path → the number of its first statement, and where all of them are.
    """

    def __init__(self, tree: Path, where: str) -> None:
        self.statements: dict[str, tuple[int, list[Span]]] = {}
        texts: dict[str, bytes] = {}
        self.size = 1
        for path in (path for paths in files(tree).values() for path in paths if path not in NOT_PYTHON):
            source = (tree / path).read_bytes()
            text, spans = (python if path.endswith(".py") else native)(source, self.size)
            self.statements[path] = self.size, spans
            self.size += len(spans)
            texts[path] = text
        self.files = {path: text.decode() for path, text in texts.items()}
        for path in texts:
            if path.endswith(".c"):
                parts = HEAD.format(size=self.size), self.files[path], TAIL.format(size=self.size, path=where)
                self.files[path] = "".join(parts)
        self.files["ocipy/_reach.py"] = RECORDER.format(path=where)


class Reach:
    """What the tests reached.

    Attributes:
        seconds: test → how long it took.
        failed: the tests that did not pass.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.statements: dict[str, tuple[int, list[Span]]] = data["statements"]
        self.seconds: dict[str, float] = {}
        self.failed: set[str] = set()
        self._hits: dict[str, bytes] = {}  # of tests, and of test files while they are imported and share fixtures
        for entry in data["entries"]:
            if "hits" in entry:
                hits = zlib.decompress(base64.b64decode(entry["hits"]))
                known = self._hits.get(entry["of"], bytes(len(hits)))
                self._hits[entry["of"]] = bytes(a | b for a, b in zip(known, hits, strict=True))
            elif "test" in entry:
                self.seconds[entry["test"]] = entry["seconds"]
                if entry["outcome"] == "failed":
                    self.failed.add(entry["test"])

    def numbers(self, change: Change) -> range:
        """The statement that a change is in; all of the file's if it is in no function."""
        first, spans = self.statements.get(change.path, (0, []))
        around = [(end - start, i) for i, (start, end) in enumerate(spans) if start <= change.start < end]
        if not around:
            return range(first, first + len(spans))
        number = first + min(around)[1]
        return range(number, number + 1)

    def tests(self, change: Change) -> list[str]:
        """The tests that reach a change, the quickest first."""
        numbers = self.numbers(change)
        if not numbers:  # nothing is recorded of the file
            found = set(self.seconds)
        else:
            owners = {of for of, hits in self._hits.items() if any(hits[n] for n in numbers)}
            found = {test for test in self.seconds if test in owners or test.partition("::")[0] in owners}
        return sorted(found, key=lambda test: self.seconds[test])


def key(tree: Path) -> str:
    """A hash of all that a recording depends on."""
    digest = hashlib.sha256()
    folders = ("ocipy/**/*", "native/**/*", "spec-tests/**/*", "examples/**/*", "tools/*.py", "tools/mutants/reach.py")
    for file in sorted({file for folder in folders for file in tree.glob(folder)} | {tree / "setup.py"}):
        if file.suffix in (".py", ".c", ".h", ".json", ".toml") and file.name not in GENERATED:
            digest.update(f"{file.relative_to(tree)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        digest.update(b"v2")  # other code is reached there
    return digest.hexdigest()[:16]


def packed(hits: bytes) -> str:
    """A byte for each statement, as it stands in an entry."""
    return base64.b64encode(zlib.compress(hits)).decode()


def load(file: Path) -> Reach:
    return Reach(json.loads(zlib.decompress(file.read_bytes())))


def save(file: Path, recording: Recording, entries: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.write_bytes(zlib.compress(json.dumps({"statements": recording.statements, "entries": entries}).encode()))
    temporary.rename(file)
