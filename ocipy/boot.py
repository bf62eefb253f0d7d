"""Starts the installed command with its modules taken from one file.

Some forty small modules are on the path of a command that an engine calls. Found, opened and read one by one
they cost two milliseconds, as much as the kernel's work for the container; ``_pack.bin`` has the code of all of
them, without docstrings. It is made when the package is built, for the interpreter that builds it (see
``tools/make_pack.py``); where it is missing, or for another interpreter, the modules are imported as usual.
"""

from __future__ import annotations

import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER
from gc import disable
from marshal import loads

from ocipy import _os as os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any


class _Pack:
    """A finder and loader of the packed modules."""

    def __init__(self, directory: str, codes: dict[str, tuple[bool, bytes]]) -> None:
        self.directory = directory
        self.codes = codes

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:
        found = self.codes.get(name)
        if found is None:
            return None
        place = f"{self.directory}/{name.replace('.', '/')}"
        spec = ModuleSpec(name, self, origin=f"{place}/__init__.py" if found[0] else f"{place}.py", is_package=found[0])  # type: ignore[arg-type]
        spec.has_location = True
        if found[0]:
            spec.submodule_search_locations = [place]
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        code: CodeType = loads(self.codes[module.__name__][1])
        exec(code, module.__dict__)


def install() -> None:
    """Take the modules from the pack, if it fits."""
    package = os.dirname(__file__)
    try:
        data = os.read_bytes(f"{package}/_pack.bin")
    except OSError:
        return
    if data.startswith(MAGIC_NUMBER):
        sys.meta_path.insert(0, _Pack(os.dirname(package), loads(data[len(MAGIC_NUMBER) :])))  # type: ignore[arg-type]


def main() -> None:
    """Run the command line."""
    disable()  # a collection would find nothing in a process that lives for milliseconds
    install()
    from ocipy.cli.main import main

    main()
