#!/usr/bin/env python3
"""Writes ``docs/conformance.md``: every requirement of the runtime-spec and the tests that cover it.

With the directory of a checkout of the specification: compares it with the requirements that are registered, by
counting its keywords (MUST, SHOULD, ...) in each section.

The requirements are ``spec-tests/requirements/*.toml``, a file for each document of the specification. A test says
what it covers by ``@pytest.mark.spec("config-linux#devices-1")``; the markers are read from the source.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "spec-tests"
DOCUMENT = ROOT / "docs" / "conformance.md"
VERSION = "v1.3.0"
#: the documents that state requirements for Linux, in the order of the specification
DOCUMENTS = "spec glossary bundle runtime runtime-linux config config-linux features features-linux".split()
#: what the keywords of RFC 2119 demand, from strict to lenient; a small "must" is meant as the large one
BINDING = ("MUST NOT", "MUST", "SHALL NOT", "SHALL", "REQUIRED", "must")
ADVICE = ("SHOULD NOT", "SHOULD", "NOT RECOMMENDED", "RECOMMENDED")


class Requirement(NamedTuple):
    """One requirement.

    Attributes:
        id: document, section and number: ``config-linux#devices-1``.
        section: heading of its section.
        keywords: the keywords that state it in the specification, and how often.
        subject: ``runtime``, ``config`` (what its author must do, and ocipy checks), or ``none`` (no test can
            tell: other platforms, and what only people do).
        statement: what it says, in our words.
    """

    id: str
    section: str
    keywords: dict[str, int]
    subject: str
    statement: str

    @property
    def binding(self) -> bool:
        return any(word in BINDING for word in self.keywords)

    @property
    def level(self) -> str:
        return next(word for word in (*BINDING, *ADVICE) if word in self.keywords).upper()


def requirements(directory: Path = TESTS / "requirements") -> Iterator[Requirement]:
    """The registry, in the order of the specification. Raises ValueError for an entry that is none."""
    files = {file.stem for file in directory.glob("*.toml")}
    if files != set(DOCUMENTS):
        raise ValueError(f"{directory}: files for {sorted(files ^ set(DOCUMENTS))} are missing or too many")
    for document in DOCUMENTS:
        for slug, section in tomllib.loads((directory / f"{document}.toml").read_text(encoding="utf-8")).items():
            for number, entry in section.items():
                if number == "title":
                    continue
                name = f"{document}#{slug}-{number}"
                words, subject, statement = entry
                keywords: dict[str, int] = {}
                for item in words.split(", "):
                    word, _, times = item.partition(" x")
                    keywords[word] = int(times or 1)
                if subject not in ("runtime", "config", "none") or keywords.keys() - {*BINDING, *ADVICE}:
                    raise ValueError(f"{name}: {words}, {subject}")
                yield Requirement(name, section["title"], keywords, subject, statement)


def markers(directory: Path = TESTS) -> dict[str, list[str]]:
    """Ids, and the tests that name them in a ``spec`` marker; a test is ``test_devices.py::test_configured``.

    Raises ValueError for a marker that is not one of a test, or has something else than strings.
    """
    found: dict[str, list[str]] = {}
    for file in sorted(directory.glob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        every = {node for node in ast.walk(tree) if _is_marker(node)}
        for test in ast.walk(tree):
            if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
                for decorator in test.decorator_list:
                    for node in [node for node in ast.walk(decorator) if node in every]:
                        every.discard(node)
                        for name in _ids(file, node):
                            tests = found.setdefault(name, [])
                            label = f"{file.name}::{test.name}"
                            tests += [label] if label not in tests else []
        if every:
            lines = sorted(node.lineno for node in every if isinstance(node, ast.Call))
            raise ValueError(f"{file}: spec markers that decorate no test, in lines {lines}")
    return found


def _is_marker(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.spec"


def _ids(file: Path, node: ast.AST) -> Iterator[str]:
    assert isinstance(node, ast.Call)
    for argument in node.args:
        if not (isinstance(argument, ast.Constant) and isinstance(argument.value, str)):
            raise ValueError(f"{file}:{node.lineno}: the ids of a spec marker are strings")
        yield argument.value


HEADER = f"""# Conformance

Generated by `tools/make_conformance.py`; not to be edited. The requirements of
[runtime-spec {VERSION}](https://github.com/opencontainers/runtime-spec/tree/{VERSION}) that concern Linux, in our words
(the section has the specification's), and the tests in `spec-tests/` that cover each. What asks something of a
config's author is tested by a config that breaks it, which ocipy refuses. {{binding}} requirements are binding, and a
test of the project fails if one of them has no test; {{advice}} are advice. {{none}} more concern other platforms, or
what only people can do; they are listed at the end.
"""


def render(registry: list[Requirement], tests: dict[str, list[str]]) -> str:
    """The text of docs/conformance.md."""
    ours = [entry for entry in registry if entry.subject != "none"]
    others = [entry for entry in registry if entry.subject == "none"]
    binding = sum(entry.binding for entry in ours)
    lines = [HEADER.format(binding=binding, advice=len(ours) - binding, none=len(others))]
    document = section = ""
    for entry in ours:
        name = entry.id.partition("#")[0]
        if name != document:
            document = name
            lines.append(f"\n## {document}.md\n")
        if (name, entry.section) != section:
            section = (name, entry.section)
            lines.append(f"\n### [{entry.section}]({link(entry)})\n\n| | level | | tests |\n|---|---|---|---|\n")
        covered = "<br>".join(f"[{test}](../spec-tests/{test.partition(':')[0]})" for test in tests.get(entry.id, []))
        short = entry.id.partition("#")[2]
        lines.append(f"| {short} | {entry.level} | {entry.statement} | {covered or '**none**'} |\n")
    lines.append("\n## Without a test\n\n| | level | |\n|---|---|---|\n")
    for entry in others:
        lines.append(f"| [{entry.id}]({link(entry)}) | {entry.level} | {entry.statement} |\n")
    return "".join(lines)


def link(entry: Requirement) -> str:
    document, _, rest = entry.id.partition("#")
    return f"https://github.com/opencontainers/runtime-spec/blob/{VERSION}/{document}.md#{rest.rpartition('-')[0]}"


def write() -> Path:
    """Write docs/conformance.md, and say where it is."""
    DOCUMENT.write_text(render(list(requirements()), markers()), encoding="utf-8")
    return DOCUMENT


# --- completeness: the registry beside the specification's text ---

_KEYWORD = re.compile(
    r"\b(MUST NOT|MUST|SHALL NOT|SHALL|REQUIRED|SHOULD NOT|SHOULD|NOT RECOMMENDED|RECOMMENDED|must)\b"
)


def keywords_of(text: str) -> dict[str, dict[str, int]]:
    """How often each keyword is used in each section (by the anchor that its heading has on the web) of a document.

    Examples count to the section before them; sections without keywords are left out.
    """
    found: dict[str, dict[str, int]] = {}
    slug = ""
    for line in text.splitlines():
        heading = re.match(r"#+ +(?:<a [^>]*>)? *(.*)", line)
        if heading and not heading[1].startswith("Example"):
            slug = re.sub(r"[^a-z0-9 -]", "", heading[1].strip().lower()).replace(" ", "-")
        for word in _KEYWORD.findall(line):
            counts = found.setdefault(slug, {})
            counts[word] = counts.get(word, 0) + 1
    return found


def differences(specification: Path) -> Iterator[str]:
    """What a checkout of the specification states that the registry doesn't account for, and the reverse."""
    registry: dict[str, dict[str, int]] = {}
    for entry in requirements():
        counts = registry.setdefault(entry.id.rpartition("-")[0], {})
        for word, times in entry.keywords.items():
            counts[word] = counts.get(word, 0) + times
    for document in DOCUMENTS:
        text = (specification / f"{document}.md").read_text(encoding="utf-8")
        there = {f"{document}#{slug}": counts for slug, counts in keywords_of(text).items()}
        here = {name: counts for name, counts in registry.items() if name.startswith(f"{document}#")}
        for name in sorted(there.keys() | here.keys()):
            stated, known = there.get(name, {}), here.get(name, {})
            for word in sorted(stated.keys() | known.keys()):
                if stated.get(word, 0) != known.get(word, 0):
                    yield f"{name}: {word} is there {stated.get(word, 0)} times, registered {known.get(word, 0)}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        missed = list(differences(Path(sys.argv[1])))
        print("\n".join(missed) or f"every keyword of {sys.argv[1]} is accounted for")
        sys.exit(bool(missed))
    print(write())
