"""Which changes are tried: the same for the same code, seed and size."""

from __future__ import annotations

import random
from collections import defaultdict
from itertools import islice
from pathlib import Path

from . import c, python
from .change import Change, files


def changes(path: str, source: bytes) -> list[Change]:
    """Every change that is known for a file of either language."""
    return python.changes(path, source) if path.endswith(".py") else c.changes(path, source)


def compiled(path: str, source: bytes, tree: Path) -> bytes | None:
    """What a file becomes; None if the compiler refuses it."""
    return python.compiled(path, source) if path.endswith(".py") else c.compiled(path, source, tree)


class Original:
    """The files of a tree as they are, and what they are compiled to."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        self._compiled: dict[str, bytes | None] = {}

    def source(self, path: str) -> bytes:
        return (self.tree / path).read_bytes()

    def counts(self, change: Change) -> bool:
        """Whether a change compiles, and to something else than the original."""
        source = self.source(change.path)
        if change.path not in self._compiled:
            self._compiled[change.path] = compiled(change.path, source, self.tree)
            assert self._compiled[change.path] is not None, f"{change.path} does not compile"
        after = compiled(change.path, change.apply(source), self.tree)
        return after is not None and after != self._compiled[change.path]


def pick(original: Original, paths: list[str], count: int, choice: random.Random) -> list[Change]:
    """Changes of different lines of some files."""
    lines: dict[tuple[str, int], list[Change]] = defaultdict(list)
    for path in paths:
        for change in changes(path, original.source(path)):
            lines[path, change.line].append(change)
    places = sorted(lines)
    choice.shuffle(places)
    picked: list[Change] = []
    for place in places:
        if len(picked) == count:
            break
        of_line = sorted(lines[place])
        choice.shuffle(of_line)
        # always possible and mostly noticed: not more of them than of other kinds
        of_line.sort(key=lambda change: change.what == "early return" and choice.random() < 0.8)
        picked += islice(filter(original.counts, of_line), 1)
    return picked


def sample(tree: Path, seed: str, size: int, areas: list[str]) -> list[tuple[str, Change]]:
    """Changes with their areas, as many of each area."""
    original, paths = Original(tree), files(tree)
    order = sorted(areas)
    random.Random(seed).shuffle(order)  # whose turn it is if they can't all have as many
    found = []
    for place, area in enumerate(order):
        count = size // len(order) + (place < size % len(order))
        picked = pick(original, paths[area], count, random.Random(f"{seed} {area}"))
        found += [(area, change) for change in picked]
    return sorted(found, key=lambda one: (list(paths).index(one[0]), one[1]))
