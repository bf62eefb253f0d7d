"""What the commands that an engine calls import: C modules and ocipy's own, and of those only what they need.

Each of them starts an interpreter, so every module is paid for at every call. This pins the set.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id

#: in the interpreter before any of our code, under -I -S -X utf8
START = {
    "__main__", "_abc", "_codecs", "_frozen_importlib", "_frozen_importlib_external", "_imp", "_io", "_signal",
    "_thread", "_warnings", "_weakref", "abc", "builtins", "codecs", "encodings", "encodings.aliases",
    "encodings.utf_8", "io", "marshal", "posix", "sys", "time", "zipimport",
}  # fmt: skip
#: C modules that ours use (and __future__, which is gone from the pack)
C_MODULES = {"__future__", "_cffi_backend", "_json", "_struct", "errno", "fcntl", "select"}

_BASE = {
    "ocipy", "ocipy._native", "ocipy._native.lib", "ocipy.cgroups", "ocipy.cgroups.base", "ocipy.cgroups.fs",
    "ocipy.cli", "ocipy.cli.main", "ocipy.cli.parser", "ocipy.config", "ocipy.container", "ocipy.errors",
    "ocipy.host", "ocipy.kernel", "ocipy.kernel.json", "ocipy.kernel.os", "ocipy.kernel.proc", "ocipy.store",
    "ocipy.store.record", "ocipy.store.shape", "ocipy.version",
}  # fmt: skip
_LAUNCH = {
    "ocipy.container.create", "ocipy.container.prepare", "ocipy.faststart", "ocipy.faststart.fast_path", "ocipy.launch",
    "ocipy.launch.cgroup_join", "ocipy.launch.hooks", "ocipy.launch.id_maps", "ocipy.launch.protocol", "ocipy.plan",
    "ocipy.plan.builder", "ocipy.plan.devices",
    "ocipy.plan.flags",
    "ocipy.plan.mounts", "ocipy.plan.namespaces", "ocipy.plan.ops", "ocipy.plan.process", "ocipy.plan.rootfs",
    "ocipy.config._table", "ocipy.config.check", "ocipy.config.load", "ocipy.config.rules", "ocipy.config.rules_linux",
}  # fmt: skip
_LIMITS = {"ocipy.cgroups.convert", "ocipy.cgroups.device_rules", "ocipy.cgroups.location"}
#: for configs that have what they check
_RARE = {"ocipy.config.names", "ocipy.config.rules_rare"}
#: the driver of either hierarchy; device rules are a program on v2
_DRIVERS = {
    "ocipy.cgroups.v1", "ocipy.cgroups.v2",
    "ocipy.cgroups.v1.driver", "ocipy.cgroups.v1.resources", "ocipy.cgroups.v2.driver", "ocipy.cgroups.v2.resources",
    "ocipy.cgroups.v2.devices",
}  # fmt: skip
_KILL = {"ocipy.container.kill"}
_DELETE = {"ocipy.container.delete", *_KILL}
_START = {
    "ocipy.container.start", "ocipy.launch", "ocipy.launch.protocol", "ocipy.plan",
    *(n for n in _LAUNCH if ".plan" in n),
}  # fmt: skip

BUDGET = {
    "state": {"ocipy.cli.state"},
    "kill": {"ocipy.cli.kill", *_KILL},
    "delete": {"ocipy.cli.delete", *_DELETE},
    "start": {"ocipy.cli.common", "ocipy.cli.start", *_KILL, *_START},
    "create": {"ocipy.cli.common", "ocipy.cli.create", "ocipy.config.bundle", *_LAUNCH, *_LIMITS},
    "run": {
        "ocipy.cli.common", "ocipy.cli.create", "ocipy.cli.run", "ocipy.config.bundle",
        "ocipy.console", "ocipy.console.foreground", "ocipy.container.start", *_LAUNCH, *_LIMITS, *_DELETE,
    },
    "exec": {
        "ocipy.cli.common", "ocipy.cli.exec", "ocipy.container.exec", "ocipy.console", "ocipy.console.foreground",
        "ocipy.config.fault", "ocipy.config.strings", *_LAUNCH, *_KILL,
    },
}  # fmt: skip

PROBE = """
import sys
sys.path.append({site!r})
from ocipy.cli.main import run
code = run({argv!r})
import posix
posix.write({fd}, repr((code, sorted(sys.modules))).encode())
posix._exit(0)
"""


def imported(argv: list[str], tmp_path: Path) -> set[str]:
    """The modules that a command line has imported when it is done."""
    import ocipy

    assert ocipy.__file__ is not None
    out = tmp_path / "modules"
    with out.open("wb") as file:
        code = PROBE.format(site=str(Path(ocipy.__file__).parent.parent), argv=argv, fd=file.fileno())
        subprocess.run(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", code], check=True, pass_fds=[file.fileno()],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
    status, modules = eval(out.read_text())
    assert status == 0, argv
    return set(modules)


@pytest.fixture
def command_lines(cli: Cli, bundle: TestBundle) -> dict[str, list[str]]:
    """One command line per command, in an order that works."""
    name, other = fresh_id(), fresh_id()
    where = ["--bundle", str(bundle.args("sleep", "60").save())]
    root = ["--root", str(cli.root)]
    process = bundle.path / "process.json"
    process.write_text(json.dumps(bundle.config["process"] | {"args": ["true"]}))
    (bundle.path / "true").mkdir()
    short = bundle.path / "true" / "config.json"
    changes = {"root": {"path": str(bundle.rootfs)}, "process": json.loads(process.read_text())}
    short.write_text(json.dumps(bundle.config | changes))
    return {
        "create": [*root, "create", *where, name],
        "start": [*root, "start", name],
        "state": [*root, "state", name],
        "exec": [*root, "exec", "--process", str(process), name],
        "kill": [*root, "kill", name, "KILL"],
        "delete": [*root, "delete", "--force", name],
        "run": [*root, "run", "--bundle", str(short.parent), other],
    }


def test_budget(command_lines: dict[str, list[str]], tmp_path: Path) -> None:
    """create, start, state, exec, kill, delete and run import no module beyond their budget."""
    beyond = {}
    for name, argv in command_lines.items():
        found = imported(argv, tmp_path)
        extra = found - START - C_MODULES - _BASE - _DRIVERS - _RARE - BUDGET[name]
        if extra:
            beyond[name] = sorted(extra)
    assert beyond == {}


def test_budget_is_not_too_wide(command_lines: dict[str, list[str]], tmp_path: Path) -> None:
    """Nothing stands in a command's budget that it does not import (but for the drivers)."""
    unused = {}
    for name, argv in command_lines.items():
        left = BUDGET[name] - imported(argv, tmp_path)
        if left:
            unused[name] = sorted(left)
    assert unused == {}
