"""Builds what is native: two cffi extensions, the static init helper, and the launcher that is ``ocipy``.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import os
import runpy
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

# after setuptools, which brings its distutils; it has no build_scripts of its own
from distutils.command.build_scripts import build_scripts  # isort: skip

HERE = Path(__file__).parent
CC = os.environ.get("CC", "gcc")
CFLAGS = [
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2",
    "-ffunction-sections", "-fdata-sections",
]  # fmt: skip
STATIC = ["-static", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack", "-s"]


def compile_program(sources: list[Path], target: Path, flags: list[str], libraries: list[str]) -> None:
    """Compile and link a program."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [CC, *CFLAGS, *flags, "-o", str(target), *map(str, sources), *libraries]
    print(" ".join(command))
    subprocess.run(command, check=True)


class BuildPy(build_py):
    """Also generates the table of the fast validator from the JSON Schemas, and the pack of all modules."""

    def run(self) -> None:
        package = Path(self.build_lib) / "ocipy"
        for file in package.rglob("*.py"):  # of an earlier build, and moved away since: it would go into the pack
            if not (HERE / "ocipy" / file.relative_to(package)).exists():
                file.unlink()
        super().run()
        runpy.run_path(str(HERE / "tools/make_schema_table.py"))["write"](package / "config")
        runpy.run_path(str(HERE / "tools/make_pack.py"))["write"](package)


class BuildExt(build_ext):
    """Also compiles the init helper into the package."""

    def run(self) -> None:
        super().run()
        package = HERE / "ocipy" if self.inplace else Path(self.build_lib) / "ocipy"
        # static: it must run in any mount namespace, with no loader and no libraries
        compile_program(sorted((HERE / "native/init").glob("*.c")), package / "_init", [], STATIC)


def embedding() -> tuple[list[str], list[str]]:
    """Compiler and linker arguments to put the interpreter into the launcher; empty if it has no static library,
    or is of a version whose start native/launcher/embed.c does not know."""
    variables = sysconfig.get_config_vars()
    library = Path(variables.get("LIBPL", "")) / variables.get("LIBRARY", "")
    if not library.is_file() or sys.version_info[:2] > (3, 12):
        return [], []
    words = " ".join(str(variables.get(name) or "") for name in ("LIBS", "SYSLIBS", "MODLIBS", "LINKFORSHARED"))
    # position-dependent, as the interpreter itself mostly is; dynamic, since it loads extension modules
    magic = int.from_bytes(importlib.util.MAGIC_NUMBER, sys.byteorder)
    return (
        ["-DOCIPY_EMBED", f"-DOCIPY_MAGIC={magic}u", f"-I{sysconfig.get_path('include')}"],
        ["-no-pie", str(library), *words.split(), "-Wl,--gc-sections", "-Wl,-z,relro,-z,now", "-s"],
    )


class BuildScripts(build_scripts):
    """The executable is a compiled launcher, not a script: it starts the interpreter isolated, at once."""

    def run(self) -> None:
        target = Path(self.build_dir) / "ocipy"
        defines = [
            f'-DOCIPY_PYTHON="{os.path.realpath(sys.executable)}"',
            f'-DOCIPY_PYVER="{sys.version_info.major}.{sys.version_info.minor}"',
        ]
        launcher = [HERE / "native/launcher/launcher.c", HERE / "native/launcher/fast_path.c"]
        more, libraries = embedding()
        if more:
            try:
                compile_program([*launcher, HERE / "native/launcher/embed.c"], target, [*defines, *more], libraries)
                return
            except subprocess.CalledProcessError:
                print("the interpreter can't be embedded: the launcher will execute it", file=sys.stderr)
        compile_program(launcher, target, defines, STATIC)

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_dir) / "ocipy")]


def data_files() -> list[tuple[str, list[str]]]:
    """Man pages and completion, to where man(1) and the shells look below a prefix."""
    return [
        ("share/man/man8", sorted(str(path.relative_to(HERE)) for path in HERE.glob("docs/man/*.8"))),
        ("share/bash-completion/completions", ["docs/completion/ocipy.bash"]),
        ("share/zsh/site-functions", ["docs/completion/_ocipy"]),
        ("share/fish/vendor_completions.d", ["docs/completion/ocipy.fish"]),
    ]


setup(
    data_files=data_files(),
    cffi_modules=["native/ext/build_native.py:ffi", "native/ext/build_seccomp.py:ffi"],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt, "build_scripts": BuildScripts},
    scripts=["native/launcher/launcher.c"],  # names the source, so that build_scripts runs
)
