"""Builds ``ocipy._seccomp``, the cffi extension (API mode, out of line) that asks libseccomp.

It is apart from ``ocipy._native`` so that only a config with ``linux.seccomp`` loads libseccomp.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # cffi runs this file by its path
from build_native import HARDENING, declarations  # noqa: E402


def pkg_config(option: str, default: list[str]) -> list[str]:
    """What pkg-config says of libseccomp; where it can't, the compiler's own search path has to do."""
    try:
        done = subprocess.run(
            ["pkg-config", option, "libseccomp >= 2.5"], stdout=subprocess.PIPE, check=True, text=True
        )
    except (OSError, subprocess.CalledProcessError):
        return default
    return shlex.split(done.stdout)


ffi = FFI()
ffi.cdef(declarations(HERE / "seccomp.h"))
ffi.set_source(
    "ocipy._seccomp",
    '#include "native/ext/seccomp.h"\n',
    sources=["native/ext/seccomp.c"],
    include_dirs=["."],  # not "native/ext": <seccomp.h> has to stay libseccomp's
    extra_compile_args=[*HARDENING, "-Wno-error=sign-conversion", *pkg_config("--cflags", [])],
    extra_link_args=["-Wl,-z,relro,-z,now", *pkg_config("--libs", ["-lseccomp"])],
)
