"""Strings that the kernel or a file could not take: with a NUL, or with half of a surrogate pair.

JSON can write both, as ``\\u0000`` and ``\\ud800``. A string for the kernel would end at the NUL, so that
what was checked and what is done differ; half a pair has no UTF-8 form. Only strings of known properties
count, since unknown ones are ignored. ``load`` looks here only when the text of config.json has such an
escape.
"""

from __future__ import annotations

from ocipy.config._table import CONFIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.fault import Row

    Node = tuple[Any, ...]

#: Strings that only ever go into JSON again.
NOT_FOR_THE_KERNEL = ("$.annotations", "$.linux.seccomp.listenerMetadata")


def rows(value: Any, path: str = "$", node: Node = CONFIG) -> list[Row]:
    """The strings at fault in a config that satisfies the schema."""
    out: list[Row] = []
    _walk(node, value, path, out)
    return out


def _walk(node: Node, value: Any, path: str, out: list[Row]) -> None:
    from ocipy.config.fault import below

    if type(value) is str:
        _string(value, value, path, out)
    elif type(value) is list:
        inner = node[1] if node[0] == 3 else (0,)
        for index, element in enumerate(value):
            _walk(inner, element, f"{path}[{index}]", out)
    elif type(value) is dict and node[0] == 7:
        for key, element in value.items():
            _string(key, element, below(path, key), out)
            _walk((0,), element, below(path, key), out)
    elif type(value) is dict and node[0] == 1:
        for key, element in value.items():
            inner = node[1].get(key)
            if inner is None and node[3] is not None:
                inner = node[3]
                _string(key, element, below(path, key), out)
            if inner is not None:
                _walk(inner, element, below(path, key), out)


def _string(text: str, value: Any, path: str, out: list[Row]) -> None:
    section = "config.md#valid-values"
    if "\0" in text and not path.startswith(NOT_FOR_THE_KERNEL):
        out.append((path, value, "a string without NUL", section))
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        out.append((path, value, "a string without half a surrogate pair", section))
