"""A small change of a file's text, and the areas that the changes are spread over."""

from __future__ import annotations

import difflib
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple


class Change(NamedTuple):
    """One edit, in bytes of the file.

    Attributes:
        path: the file, relative to the tree.
        line: the line that it is on, from 1.
        start: where the replaced bytes begin.
        end: where they end.
        new: what stands there instead.
        what: the change in words.
    """

    path: str
    line: int
    start: int
    end: int
    new: bytes
    what: str

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.new + source[self.end :]

    def diff(self, source: bytes) -> str:
        """The changed lines."""
        before, after = (text.decode().splitlines() for text in (source, self.apply(source)))
        lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))
        return "\n".join(line for line in lines[2:] if not line.startswith("@@"))


class Area(NamedTuple):
    """A part of the code: its files, and the test files that are asked where it is not known what reaches a line."""

    files: str
    tests: str


#: the first one that has a file is the file's
AREAS = {
    "fast path": Area("native/launcher/*.c ocipy/faststart/*", "brief boot launcher lifecycle"),
    "cli": Area(
        "ocipy/cli/* ocipy/errors.py ocipy/plan/features.py", "cli cli_docs log features exec update_flags lifecycle"
    ),
    "config": Area("ocipy/config/* ocipy/kernel/json.py", "validate validate_rules schema_verdict refused odd_names"),
    "cgroups": Area("ocipy/cgroups/*", "cgroups_v1 cgroup_values resources_v1 systemd_unit cgroup_manager"),
    "container": Area(
        "ocipy/container/* ocipy/api.py ocipy/attach/* ocipy/checkpoint/* ocipy/console/* ocipy/launch/*",
        "library lifecycle hooks exec create damaged_state",
    ),
    "state": Area("ocipy/store/*", "damaged_state lifecycle planted_files notify_directory forced_delete"),
    "seccomp": Area(
        "ocipy/plan/seccomp.py native/ext/seccomp.c", "seccomp_compile seccomp seccomp_kernel seccomp_notify"
    ),
    "plan": Area("ocipy/plan/* ocipy/host.py", "plan mounts mount_options process namespaces devices"),
    "init": Area("native/init/*.c", "mounts rootfs create process devices namespaces attacks faults"),
    "extension": Area("native/ext/native.c ocipy/kernel/*", "create exec library safety faults lifecycle"),
}
#: generated, or nothing but a number
LEFT_OUT = {"ocipy/version.py", "ocipy/config/_table.py"}


def files(tree: Path) -> dict[str, list[str]]:
    """The files of each area."""
    found: dict[str, list[str]] = {name: [] for name in AREAS}
    every = [*tree.glob("ocipy/**/*.py"), *tree.glob("native/*/*.c")]
    for path in sorted(str(file.relative_to(tree)) for file in every):
        for name, area in AREAS.items():
            if path not in LEFT_OUT and any(fnmatch(path, pattern) for pattern in area.files.split()):
                found[name].append(path)
                break
    return found
