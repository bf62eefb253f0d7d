"""Writes ``_pack.bin`` into a built package: the code of its modules in one file.

The layout is what ``native/launcher/embed.c`` and ``ocipy/faststart/boot.py`` read: the interpreter's magic number,
the size of the code of ``boot`` (32 bits) and that code, the size of an index and the index, and the code of the
modules.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import marshal
import sys
import sysconfig
from pathlib import Path
from types import CodeType

#: not on the path of a command that an engine calls: reading them each time would cost more than it saves
COLD = {
    "ocipy": {"attach", "checkpoint"},
    "ocipy.attach": {"net_devices", "seccomp_agent"},
    "ocipy.cgroups": {"oom", "refusals", "resctrl_groups", "stats", "systemd"},
    "ocipy.cgroups.systemd": {"bus", "gvariant", "unit"},
    "ocipy.cgroups.v2": {"devices"},
    "ocipy.checkpoint": {"checkpoint", "criu", "external_resources", "restore"},
    "ocipy.cli": {"checkpoint", "events", "explain", "features", "list", "log", "ps", "regex", "restore", "spec",
                  "update", "validate"},
    "ocipy.config": {"defaults", "duplicate_keys", "tolerated", "validate", "warnings"},
    "ocipy.console": {"pidfd_socket", "sd_notify", "terminal"},
    "ocipy.container": {"processes", "update"},
    "ocipy.faststart": {"boot"},
    "ocipy.kernel": {"netlink"},
    "ocipy.launch": {"failure_hints", "user_namespaces"},
    "ocipy.plan": {"criu", "describe", "features"},
}


#: of the standard library: the first text that can't be decoded looks its codec up, and the codecs can't be
#: imported from files before the interpreter is completed, which takes codecs
CODECS = ("encodings/__init__.py", "encodings/aliases.py", "encodings/utf_8.py")


def _stripped(code: CodeType) -> CodeType:
    """Code without line numbers: a fifth of what there is to read. ``--debug`` does without the pack."""
    consts = tuple(_stripped(const) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_linetable=b"", co_consts=consts)


def _compiled(file: Path, root: Path) -> bytes:
    tree = ast.parse(file.read_bytes())
    # the statement would import a module of the standard library; the flag says the same
    tree.body = [n for n in tree.body if not (isinstance(n, ast.ImportFrom) and n.module == "__future__")]
    if file.name == "boot.py":
        places = sysconfig.get_path("stdlib"), sysconfig.get_config_var("DESTSHARED")
        tree.body += ast.parse(f"STDLIB, DYNLOAD = {places!r}").body
    flags = __future__.annotations.compiler_flag
    name = str(file.relative_to(root))
    return marshal.dumps(_stripped(compile(tree, name, "exec", flags=flags, dont_inherit=True, optimize=2)))


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, sys.byteorder) + data


def write(package: Path) -> None:
    """Pack the modules of a package directory (``…/ocipy``) for the running interpreter."""
    index: dict[str, tuple[bool, int, int]] = {}
    body = b""
    library = Path(sysconfig.get_path("stdlib"))
    files = [(file, package.parent) for file in sorted(package.rglob("*.py"))]
    files += [(library / name, library) for name in CODECS]
    for file, root in files:
        parts = file.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        parent, _, last = name.rpartition(".")
        if last in COLD.get(parent, ()):
            continue
        code = _compiled(file, root)
        index[name] = (is_package, len(body), len(code))
        body += code
    boot = _compiled(package / "faststart/boot.py", package.parent)
    head = importlib.util.MAGIC_NUMBER + _sized(boot) + _sized(marshal.dumps(index))
    (package / "_pack.bin").write_bytes(head + body)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
