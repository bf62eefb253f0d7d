"""Runs a command in the interpreter that is embedded in the launcher (``native/launcher/embed.c``).

Only the core of the interpreter is initialized: there are its built-in modules, and no ``sys.path``, no ``open``, no
text streams. Some forty small modules are on the path of a command that an engine calls; found, opened and read
one by one they would cost as much as the kernel's work for the container. ``_pack.bin`` has the code of all of them,
stripped of docstrings and line numbers, with the code of this module at its head (``tools/make_pack.py``). Whatever
else is imported completes the initialization first, and then comes from files as usual.
"""

from __future__ import annotations

import posix
import sys
from _frozen_importlib import ModuleSpec
from _imp import create_dynamic, exec_dynamic, extension_suffixes
from gc import disable
from marshal import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, ModuleType
    from typing import Any


class Pack:
    """A finder and loader of the packed modules.

    Args:
        site: the directory that the package is in.
        fd: the pack.
    """

    def __init__(self, site: str, fd: int) -> None:
        self.site = site
        self.fd = fd
        boot = int.from_bytes(posix.pread(fd, 4, 4), sys.byteorder)
        size = int.from_bytes(posix.pread(fd, 4, 8 + boot), sys.byteorder)
        self.base = 12 + boot + size
        #: name -> (is a package, offset, size)
        self.index: dict[str, tuple[bool, int, int]] = loads(posix.pread(fd, size, 12 + boot))

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        found = self.index.get(name)
        if found is None:
            return None
        place = f"{self.site if name.startswith('ocipy') else STDLIB}/{name.replace('.', '/')}"
        if not found[0]:
            return ModuleSpec(name, self, origin=f"{place}.py")  # type: ignore[arg-type]
        spec = ModuleSpec(name, self, origin=f"{place}/__init__.py", is_package=True)  # type: ignore[arg-type]
        spec.submodule_search_locations = [place]  # for what is not in the pack
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        _, offset, size = self.index[module.__name__]
        code: CodeType = loads(posix.pread(self.fd, size, self.base + offset))
        module.__file__ = module.__spec__.origin
        exec(code, module.__dict__)


class Extensions:
    """A finder and loader of the few extension modules on that path: the package's, cffi's and the library's."""

    NAMES = frozenset(("_cffi_backend", "_json", "fcntl", "ocipy._native", "ocipy._seccomp", "select", "_struct"))

    def __init__(self, directories: list[str]) -> None:
        self.directories = directories
        self.suffixes = extension_suffixes()

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name in self.NAMES:
            for directory in self.directories:
                for suffix in self.suffixes:
                    file = f"{directory}/{name.replace('.', '/')}{suffix}"
                    try:
                        posix.stat(file)
                    except OSError:
                        continue
                    return ModuleSpec(name, self, origin=file)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> Any:
        return create_dynamic(spec)

    def exec_module(self, module: ModuleType) -> None:
        exec_dynamic(module)


class Rest:
    """The finder of all else: it completes the interpreter, whose own finders are then asked next."""

    def __init__(self, sites: list[str], argv: list[str]) -> None:
        self.sites = sites
        self.argv = argv

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if self.sites:
            import _ocipy_launcher

            sites, self.sites = self.sites, []
            _ocipy_launcher.complete()
            sys.path += sites
            sys.argv = self.argv


class Stream:
    """Standard output or error until there are text streams; unbuffered."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def write(self, text: str) -> int:
        data = text.encode(errors="surrogateescape")
        while data:
            data = data[posix.write(self.fd, data) :]
        return len(text)

    def flush(self) -> None:
        pass


def main(module: str, site: str, more: str, argv: list[str], fd: int) -> None:
    """Run the ``main`` of a module.

    Args:
        module: its name.
        site: the directory that the package is in.
        more: another directory with packages, or "".
        argv: the command line.
        fd: the pack.
    """
    disable()  # a collection would find nothing in a process that lives for milliseconds
    sites = [site, more] if more else [site]
    sys.argv = argv
    sys.stdout, sys.stderr = Stream(1), Stream(2)
    finders = [Pack(site, fd), Extensions([*sites, DYNLOAD]), Rest(sites, argv)]
    sys.meta_path[:] = [*sys.meta_path, *finders]  # type: ignore[list-item]
    __import__(module)
    sys.exit(sys.modules[module].main())


#: where the standard library and its extension modules are; set by tools/make_pack.py
STDLIB, DYNLOAD = "", ""
