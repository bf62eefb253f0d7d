"""Every fault of a document, by jsonschema and by the rules.

jsonschema is imported here and nowhere else, and this module only once a config is known to be wrong or
on request (``ocipy validate``).
"""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped,unused-ignore]
import referencing
import referencing.jsonschema

from ocipy.config import rules, strings
from ocipy.config._table import CONFIG
from ocipy.config.check import PROCESS
from ocipy.config.fault import Fault, below, shown
from ocipy.config.tolerated import usual_form, without_nulls

SCHEMAS = Path(__file__).parent / "schemas"
#: Kinds of documents, and where their schema is.
KINDS = {
    "config": "config.schema.json",
    "state": "state.schema.json",
    "features": "features.schema.json",
    "process": "config.schema.json#/$defs/process",
}
Schema = dict[str, Any]
Place = list[str | int]

#: What may replace a wrong entry of an array, so that the rules can read the entries after it.
STAND_INS = {"object": {}, "integer": 0, "string": "/="}


def faults(config: Any) -> list[Fault]:
    """Every fault of a config.json, the schema's first; none means that ``create`` takes it."""
    return _all_faults("config", usual_form(without_nulls(config, CONFIG)))


def process_faults(process: Any) -> list[Fault]:
    """Every fault of a ``process`` object (the file of ``exec --process``)."""
    return _all_faults("process", without_nulls(process, PROCESS))


def validate_document(kind: str, value: Any) -> list[Fault]:
    """Every fault of a document by its schema alone, which judges exactly as the official one does.

    Args:
        kind: ``config``, ``state``, ``features`` or ``process``.
        value: the parsed document.
    """
    return [fault for _, fault in _schema_faults(kind, value)]


def schema_accepts(kind: str, value: Any) -> bool:
    """Whether a document satisfies its schema."""
    accepted: bool = validator(kind).is_valid(value)
    return accepted


@cache
def document(name: str) -> Schema:
    """A schema file, without ``$schema``: jsonschema would leave our type checker for the draft's own."""
    found: Schema = json.loads((SCHEMAS / name).read_text(encoding="utf-8"))
    del found["$schema"]
    return found


def resolve(reference: str, base: str) -> tuple[Schema, str]:
    """The schema that a ``$ref`` in the file ``base`` names, and the file that it is in."""
    name, _, pointer = reference.partition("#")
    schema = document(name or base)
    for step in pointer.split("/")[1:]:
        schema = schema[step]
    return schema, name or base


@cache
def validator(kind: str) -> Any:
    """The jsonschema validator of a kind of document."""
    # JSON Schema takes 1.0 for an integer; readers of config.json in Go do not, nor did draft-04.
    strict = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _, value: isinstance(value, int) and not isinstance(value, bool)
    )
    extend: Any = jsonschema.validators.extend
    judge = extend(jsonschema.Draft202012Validator, type_checker=strict)
    registry: Any = referencing.Registry().with_resources(
        (path.name, referencing.jsonschema.DRAFT202012.create_resource(document(path.name)))
        for path in SCHEMAS.glob("*.json")
    )
    return judge({"$ref": KINDS[kind]}, registry=registry)


def _all_faults(kind: str, value: Any) -> list[Fault]:
    wrong = _schema_faults(kind, value)
    found = [fault for _, fault in wrong]
    if not isinstance(value, dict):
        return found
    paths = [fault.config_path for fault in found]
    sound = _without(kind, value, wrong) if wrong else value
    if kind == "config":
        known = not any(_within("$.linux.namespaces", path) or path == "$.linux" for path in paths)
        rest = rules.faults(sound, namespaces_known=known) + _text_faults(strings.rows(sound))
    else:
        rest = rules.process_faults(sound) + _text_faults(strings.rows(sound, "$", PROCESS))
    # Of a property that was taken out because it is wrong, nothing more is said.
    return found + [fault for fault in rest if not any(_within(path, fault.config_path) for path in paths)]


def _text_faults(rows: list[Any]) -> list[Fault]:
    return [Fault.of(row) for row in rows]


def _within(outer: str, path: str) -> bool:
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))


def _schema_faults(kind: str, value: Any) -> list[tuple[Place, Fault]]:
    found: dict[str, tuple[Place, Fault]] = {}
    for error in validator(kind).iter_errors(value):
        for place, instance in _leaves(error):
            path = "$"
            for step in place:
                path = below(path, step)
            schema, section = _descend(kind, place)
            shown_value = "nothing" if instance is MISSING else shown(instance)
            found.setdefault(path, (place, Fault(path, shown_value, _allowed(schema), section)))
    return [found[path] for path in sorted(found, key=lambda path: _order(value, found[path][0]))]


MISSING = object()


def _leaves(error: Any) -> list[tuple[Place, Any]]:
    """The values at fault: of alternatives (anyOf, oneOf), those of the one that got furthest."""
    if error.context:
        branches: dict[Any, list[Any]] = {}
        for inner in error.context:
            branches.setdefault(inner.relative_schema_path[0], []).append(inner)
        best = max(branches.values(), key=lambda inner: max(len(e.absolute_path) for e in inner))
        return [leaf for inner in best for leaf in _leaves(inner)]
    place = list(error.absolute_path)
    if error.validator == "required":
        return [([*place, name], MISSING) for name in error.validator_value if name not in error.instance]
    return [(place, error.instance)]


def _order(value: Any, place: Place) -> list[int]:
    """The position of a place in the document; what is missing comes after what is there."""
    order = []
    for step in place:
        if isinstance(value, dict):
            keys = list(value)
            order.append(keys.index(step) if step in value else len(keys))
            value = value.get(step)
        else:
            order.append(int(step))
            value = value[int(step)] if isinstance(value, list) else None
    return order


def _descend(kind: str, place: Place) -> tuple[Schema, str]:
    """The schema for a place in a document, and the section of the specification about it."""
    name, _, _ = KINDS[kind].partition("#")
    schema, base = resolve(KINDS[kind], name)
    section = schema.get("x-spec", "config.md#process")
    for step in place:
        while "$ref" in schema:
            schema, base = resolve(schema["$ref"], base)
        if isinstance(step, int):
            schema = schema["items"]
        elif step in schema.get("properties", ()):
            schema = schema["properties"][step]
        else:
            schema = schema.get("additionalProperties") or schema["patternProperties"]["."]
        section = schema.get("x-spec", section)
    while "$ref" in schema:
        schema, base = resolve(schema["$ref"], base)
        section = schema.get("x-spec", section)
    return schema, section


def _allowed(schema: Schema) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"]) if len(schema["enum"]) > 1 else str(schema["enum"][0])
    if "x-allowed" in schema:
        return str(schema["x-allowed"])
    kind = schema["type"]
    if kind == "integer" and "maximum" in schema:
        return f"an integer from {schema['minimum']} to {schema['maximum']}"
    if kind == "integer" and "minimum" in schema:
        return f"an integer of at least {schema['minimum']}"
    if kind == "array":
        what = {"string": "strings", "object": "objects", "integer": "integers"}
        of = schema["items"].get("type")
        least = f", at least {schema['minItems']}" if schema.get("minItems") else ""
        return (f"an array of {what[of]}" if of in what else "an array") + least
    words = {"object": "an object", "string": "a string", "boolean": "true or false", "integer": "an integer"}
    return words[kind]


def _without(kind: str, value: dict[str, Any], wrong: list[tuple[Place, Fault]]) -> dict[str, Any]:
    """A copy of a document without its wrong values, so that the rules find the right types."""
    sound = copy.deepcopy(value)
    for place, _ in sorted(wrong, key=lambda pair: len(pair[0]), reverse=True):
        within: Any = sound
        for step in place[:-1]:
            within = within[step]
        last = place[-1]
        if isinstance(within, list):
            within[int(last)] = copy.deepcopy(STAND_INS[_descend(kind, place)[0]["type"]])
        else:
            within.pop(last, None)
    return sound
