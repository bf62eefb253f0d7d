"""Builds ``ocipy._native``, the cffi extension of the launch path (API mode, out of line)."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HARDENING = [
    "-O2", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2",
    "-fno-strict-aliasing",
]  # fmt: skip


def declarations(header: Path) -> str:
    """A header's text without its preprocessor lines, which cffi does not take."""
    return "\n".join(line for line in header.read_text().splitlines() if not line.startswith("#"))


ffi = FFI()
ffi.cdef(declarations(HERE / "native.h"))
ffi.set_source(
    "ocipy._native",
    '#include "native.h"\n',
    sources=["native/ext/native.c"],
    include_dirs=["native/ext"],
    extra_compile_args=[*HARDENING, "-Wno-error=sign-conversion"],
    extra_link_args=["-Wl,-z,relro,-z,now"],
)
