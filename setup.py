"""Builds what is native: two cffi extensions, the static init helper, and the launcher that is ``ocipy``.

Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
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
LDFLAGS = ["-static", "-Wl,--gc-sections", "-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack", "-s"]


def compile_static(sources: list[Path], target: Path, *defines: str) -> None:
    """Compile a static program: it must run in any mount namespace, with no loader and no libraries."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [CC, *CFLAGS, *defines, "-o", str(target), *map(str, sources), *LDFLAGS]
    print(" ".join(command))
    subprocess.run(command, check=True)


class BuildPy(build_py):
    """Also generates the table of the fast validator from the JSON Schemas, and the pack of all modules."""

    def run(self) -> None:
        super().run()
        package = Path(self.build_lib) / "ocipy"
        runpy.run_path(str(HERE / "tools/make_schema_table.py"))["write"](package / "spec")
        runpy.run_path(str(HERE / "tools/make_pack.py"))["write"](package)


class BuildExt(build_ext):
    """Also compiles the init helper into the package."""

    def run(self) -> None:
        super().run()
        package = HERE / "ocipy" if self.inplace else Path(self.build_lib) / "ocipy"
        compile_static(sorted((HERE / "native/init").glob("*.c")), package / "_init")


class BuildScripts(build_scripts):
    """The executable is a compiled launcher, not a script: it starts the interpreter isolated, at once."""

    def run(self) -> None:
        compile_static(
            [HERE / "native/launcher.c"],
            Path(self.build_dir) / "ocipy",
            f'-DOCIPY_PYTHON="{os.path.realpath(sys.executable)}"',
            f'-DOCIPY_PYVER="{sys.version_info.major}.{sys.version_info.minor}"',
            '-DOCIPY_MODULE="ocipy.boot"',
        )

    def get_outputs(self) -> list[str]:
        return [str(Path(self.build_dir) / "ocipy")]


setup(
    cffi_modules=["native/build_native.py:ffi", "native/build_seccomp.py:ffi"],
    cmdclass={"build_py": BuildPy, "build_ext": BuildExt, "build_scripts": BuildScripts},
    scripts=["native/launcher.c"],  # names the source, so that build_scripts runs
)
