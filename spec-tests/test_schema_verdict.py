"""The project's schemas judge as the official ones do, and ``check`` judges as the project's schemas do.

The official JSON Schemas of runtime-spec 1.3 (draft-04) are test data that lies beside the repository;
``OCIPY_OFFICIAL_SCHEMAS`` may name another directory of them. What needs them is skipped where they are not.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")

import ocipy.config  # noqa: E402

HERE = Path(__file__).resolve().parent
if importlib.util.find_spec("ocipy.config._table") is None:  # a source tree in which nothing was built yet
    runpy.run_path(str(HERE.parent / "tools" / "make_schema_table.py"))["write"](ocipy.config.__path__[0])

from ocipy.config import check, load, validate  # noqa: E402
from ocipy.errors import ConfigError  # noqa: E402

KINDS = ("config", "state", "features")
OFFICIAL = Path(
    os.environ.get("OCIPY_OFFICIAL_SCHEMAS")
    or HERE.parent.parent / "shared" / "runtime-spec"
)
needs_official = pytest.mark.skipif(
    not (OFFICIAL / "config-schema.json").is_file(), reason=f"no official schemas in {OFFICIAL}"
)
run = settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck), database=None)
run_few = settings(run, max_examples=400)


def official_validators() -> dict[str, Any]:
    """A draft-04 validator of the official schemas for each kind of document."""
    contents = {path.name: json.loads(path.read_text()) for path in OFFICIAL.glob("*.json")}
    registry = referencing.Registry().with_resources(
        (name, referencing.Resource(content, referencing.jsonschema.DRAFT4))
        for name, content in contents.items()
    )
    return {
        kind: jsonschema.Draft4Validator(contents[f"{kind}-schema.json"], registry=registry) for kind in KINDS
    }


OFFICIAL_VALIDATORS = official_validators() if (OFFICIAL / "config-schema.json").is_file() else {}


def instance(schema: dict[str, Any], base: str) -> Any:
    """A document with every property that a schema knows."""
    if "$ref" in schema:
        return instance(*validate.resolve(schema["$ref"], base))
    if "enum" in schema:
        return schema["enum"][0]
    if "pattern" in schema:
        examples = {
            "^RLIMIT_[A-Z]+$": "RLIMIT_CORE", "^[0-9, -]*$": "0-3,7", "^[cbup]$": "c",
            "^MB:[^\\n]*$": "MB:0=20", "^[1-9][0-9]*[KMG]B$": "64KB", "^CAP_[A-Z_]+$": "CAP_CHOWN",
        }  # fmt: skip
        return examples[schema["pattern"]]
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            made = {name: instance(child, base) for name, child in properties.items()}
            if "additionalProperties" in schema:
                made["eth0"] = instance(schema["additionalProperties"], base)
            if "patternProperties" in schema:
                made["com.example"] = "value"
            return made
        case "array":
            return [instance(schema["items"], base) for _ in range(2)]
        case "integer":
            return max(schema.get("minimum", 0), 0) + 1
        case "boolean":
            return True
        case "string":
            return "text"
    return None


def documents(kind: str) -> list[Any]:
    """What is mutated: the official examples of a kind, and a document with every property."""
    name = f"{kind}.schema.json"
    found = [instance(validate.document(name), name)]
    for path in sorted(OFFICIAL.glob(f"test/{kind}/*/*.json")):
        try:
            found.append(json.loads(path.read_text()))
        except ValueError:
            continue
    full = found[0]
    # Small documents first: they are judged faster and their mutations hit deeper properties as often.
    for section in list(full):
        if isinstance(full[section], dict):
            small = {key: full[key] for key in full if not isinstance(full[key], (dict, list))}
            found.append(small | {section: full[section]})
            if section == "linux":
                found += [small | {"linux": {key: full[section][key]}} for key in full[section]]
    return found


DOCUMENTS = {kind: documents(kind) for kind in KINDS}


def names(value: Any) -> set[str]:
    """Every property name in a document."""
    found: set[str] = set()
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(key, str):
            found.add(key)
        if isinstance(child, (dict, list)):
            found |= names(child)
    return found


NAMES = sorted(set().union(*(names(d) for d in DOCUMENTS["config"])))
EDGES = [
    edge + step
    for edge in (-(2**63), -(2**31), 0, 1, 100, 255, 511, 2**15, 2**16, 2**31, 2**32, 2**63, 2**64)
    for step in (-1, 0, 1)
]
VALUES: list[Any] = [
    None, True, False, 0.0, 1.0, 1.5, 1e300, *EDGES,
    "", "a", "text", "\n", "RLIMIT_CORE\n", "RLIMIT_", "RLIMIT_core", "RLIMIT_CORE2", "XRLIMIT_CORE",
    "1-2 ,3\n", "1;2", "MB:", "MB:x\n", "MB:x\ny", "mb:", "0KB", "10MB", "1KB\n", "1TB", "1kB", "01GB", "c\n",
    "cb", "x", "CAP_", "CAP_A\n", "CAP_a", "private", "rprivate", "SCMP_ACT_ALLOW", "pid", "network",
    "running", "paused", [], {}, [None], [1], ["a"], ["a", 1], [{}], [[]], {"": 1}, {"\n": 1}, {"\n\n": None},
    {"a": 1}, {"a": "b"}, {"\r": 1}, {" ": 1}, {"a": {}}, {"a": {"name": 1}}, {"type": "pid"},
    {"type": "p", "path": "/a"},
]  # fmt: skip


def containers(value: Any) -> list[tuple[Any, Any]]:
    """Every place in a document, as its container and the key or index in it."""
    found: list[tuple[Any, Any]] = []
    for key, child in value.items() if isinstance(value, dict) else enumerate(value):
        found.append((value, key))
        if isinstance(child, (dict, list)):
            found += containers(child)
    return found


def mutate(document: Any, rng: random.Random) -> Any:
    """A copy of a document that differs from it in one to three places."""
    made = copy.deepcopy(document)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = containers(made)
        if not places or rng.random() < 0.005:
            return copy.deepcopy(rng.choice(VALUES))
        within, key = rng.choice(places)
        value = within[key]
        kind = rng.randrange(8)
        if kind == 0:
            del within[key]
        elif kind == 1 and isinstance(within, dict):
            within[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 2 and isinstance(within, dict):
            within[rng.choice((str.lower, str.upper, lambda k: k + "\n"))(key)] = within.pop(key)
        elif kind == 3 and isinstance(within, list):
            within.insert(rng.randrange(len(within) + 1), copy.deepcopy(rng.choice([*within, *VALUES])))
        elif kind == 4 and isinstance(value, str):
            changed = (value + "\n", value.lower(), value[:-1], value[1:], value * 2, "\n" + value)
            within[key] = rng.choice(changed)
        elif kind == 4 and type(value) is int:
            numbers = (float(value), str(value), -value, value + 2**32, value + 2**64, bool(value))
            within[key] = rng.choice(numbers)
        elif kind == 5 and isinstance(value, dict):
            value[rng.choice(NAMES)] = copy.deepcopy(rng.choice(VALUES))
        elif kind == 6:
            within[key] = [value]
        else:
            within[key] = copy.deepcopy(rng.choice(VALUES))
    return made


def mutations(kind: str) -> st.SearchStrategy[Any]:
    """Mutated documents of a kind (seeded, because hypothesis draws each choice slowly)."""
    return st.builds(
        lambda index, seed: mutate(DOCUMENTS[kind][index], random.Random(seed)),
        st.integers(0, len(DOCUMENTS[kind]) - 1), st.integers(0, 2**64),
    )  # fmt: skip


def other_quirk(value: Any) -> bool:
    """Whether the official verdict on a ``vm`` section fails on a mistake of the official schema.

    Its ``irqs`` points to a definition that isn't there, and its ``iomems`` judges the first entry only.
    """
    hardware = value.get("vm") if isinstance(value, dict) else None
    hardware = hardware.get("hwConfig") if isinstance(hardware, dict) else None
    return isinstance(hardware, dict) and bool(hardware.get("irqs") or hardware.get("iomems"))


def agree(kind: str, value: Any) -> None:
    ours = not validate.validate_document(kind, value)
    assert ours == OFFICIAL_VALIDATORS[kind].is_valid(value)


EXAMPLES = sorted(OFFICIAL.glob("test/*/*/*.json"))


@needs_official
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: "-".join(path.parts[-3:]))
def test_official_examples(path: Path) -> None:
    kind, expected = path.parts[-3:-1]
    try:
        value = json.loads(path.read_text())
    except ValueError:
        assert expected == "bad"
        return
    assert OFFICIAL_VALIDATORS[kind].is_valid(value) == (expected == "good")
    assert (not validate.validate_document(kind, value)) == (expected == "good")
    if kind == "config":
        assert check.check(value) == (expected == "good")


@needs_official
@run
@given(mutations("config"))
def test_config_mutations(value: Any) -> None:
    if not other_quirk(value):
        agree("config", value)


@needs_official
@run_few
@given(mutations("state"))
def test_state_mutations(value: Any) -> None:
    agree("state", value)


@needs_official
@run_few
@given(mutations("features"))
def test_features_mutations(value: Any) -> None:
    agree("features", value)


@run
@given(mutations("config"))
def test_check_agrees_with_the_schema(value: Any) -> None:
    assert check.check(value) == validate.schema_accepts("config", value)


@run
@given(mutations("config"))
def test_verify_refuses_what_validate_lists(value: Any) -> None:
    faults = validate.faults(value)
    if faults:
        with pytest.raises(ConfigError) as caught:
            load.verify(value)
        assert caught.value.config_path == faults[0].config_path
    else:
        load.verify(value)
