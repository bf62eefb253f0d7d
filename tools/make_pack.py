"""Writes ``_pack.bin`` into a built package: the code of its modules in one file, for ``ocipy/boot.py``."""

from __future__ import annotations

import importlib.util
import marshal
import sys
from pathlib import Path

#: loaded before the pack is
LEFT_OUT = {"ocipy", "ocipy._os", "ocipy.boot"}
#: not on the path of a command that an engine calls: reading them each time would cost more than it saves
COLD = {
    "ocipy.cgroups": {"devices", "explain", "oom", "stats"},
    "ocipy.cli": {"events", "explain", "list", "ps", "spec", "update", "validate"},
    "ocipy.container": {"terminal", "update"},
    "ocipy.spec": {"defaults", "notices", "place", "text", "usual", "validate"},
}


def write(package: Path) -> None:
    """Pack the modules of a package directory (``…/ocipy``) for the running interpreter."""
    codes = {}
    for file in sorted(package.rglob("*.py")):
        parts = file.relative_to(package.parent).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        parent, _, last = name.rpartition(".")
        if name in LEFT_OUT or last in COLD.get(parent, ()):
            continue
        code = compile(file.read_bytes(), str(Path(*parts[:-1], file.name)), "exec", dont_inherit=True, optimize=2)
        codes[name] = (is_package, marshal.dumps(code))
    (package / "_pack.bin").write_bytes(importlib.util.MAGIC_NUMBER + marshal.dumps(codes))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
