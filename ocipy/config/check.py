"""The schema's verdict on config.json, without jsonschema.

jsonschema takes 134 ms to import; every create would pay it for configs that are nearly always right.
``_table`` holds the same schema as plain data (``tools/make_schema_table.py`` writes it from
``schemas/*.json``); walking it takes a fraction of a millisecond. It only says yes or no: what is wrong
is for :mod:`ocipy.config.validate` to find out.
"""

from __future__ import annotations

from ocipy.config._table import CONFIG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Node = tuple[Any, ...]

PROCESS: Node = CONFIG[1]["process"]
LINUX: Node = CONFIG[1]["linux"]
RESOURCES: Node = LINUX[1]["resources"]
_STRING = frozenset((str,))


def check(config: object) -> bool:
    """Whether a parsed config.json satisfies the JSON Schema.

    Only the types that the JSON parser makes count: a ``str`` or ``int`` subclass is a no, on which
    :func:`ocipy.config.load.verify` asks jsonschema.
    """
    return _fits(CONFIG, config)


def check_process(process: object) -> bool:
    """Whether a parsed ``process`` object (the file of ``exec --process``) satisfies its schema."""
    return _fits(PROCESS, process)


def unknown(node: Node, value: Any, where: str) -> list[str]:
    """The paths of properties that the schema does not have, in an object or a list below ``where``."""
    if node[0] == 3 and type(value) is list:
        return [path for i, item in enumerate(value) for path in unknown(node[1], item, f"{where}[{i}]")]
    if node[0] != 1 or type(value) is not dict:
        return []
    found = []
    _, properties, _, other = node
    for name, member in value.items():
        inner = properties.get(name, other)
        found += [f"{where}.{name}"] if inner is None else unknown(inner, member, f"{where}.{name}")
    return found


def _fits(node: Node, value: Any) -> bool:
    kind = node[0]
    if kind == 1:
        return type(value) is dict and _object(node, value)
    if kind == 0:
        return type(value) is str
    if kind == 2:  # one pass in C: a seccomp profile has hundreds of names
        return type(value) is list and len(value) >= node[1] and _STRING.issuperset(map(type, value))
    if kind == 3:
        if type(value) is not list or len(value) < node[2]:
            return False
        item = node[1]
        for element in value:  # noqa: SIM110 - a generator would cost a frame for each array
            if not _fits(item, element):
                return False
        return True
    if kind == 4:  # exactly int: True is an int to Python, and 1.0 is not one to other readers
        return (
            type(value) is int
            and (node[1] is None or value >= node[1])
            and (node[2] is None or value <= node[2])
        )
    if kind == 5:
        return type(value) is bool
    if kind == 6:
        return type(value) is str and value in node[1]
    if kind == 7:
        if type(value) is not dict:
            return False
        if _STRING.issuperset(map(type, value.values())):
            return True
        # The schema's pattern "." asks for one character that is not a line feed in the key.
        return all(type(text) is str or not key.strip("\n") for key, text in value.items())
    return type(value) is str and _matches(node, value)


def _object(node: Node, value: dict[str, Any]) -> bool:
    _, properties, required, other = node
    for name in required:
        if name not in value:
            return False
    for name, member in value.items():
        inner = properties.get(name, other)
        if inner is not None and not _fits(inner, member):
            return False
    return True


def _matches(node: Node, text: str) -> bool:
    """Whether the pattern matches, by Python's rules: ``$`` also stands before a final line feed."""
    if not text.startswith(node[1]):
        return False
    at = len(node[1])
    for characters, negated, least, greedy in node[2]:
        start = at
        while at < len(text) and (text[at] in characters) != negated and (greedy or at == start):
            at += 1
        if at - start < least:
            return False
    return at == len(text) or text[at:] == "\n"
