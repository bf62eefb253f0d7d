"""The error model: one exception, with fields a program can act on.

Every failure that ocipy reports is an :class:`Error`. The message is one line that names the root
cause; the fields say the same to a program. Engines parse a few phrases out of the message (runc's
``does not exist``, ``executable file not found in $PATH`` …): those are kept to the letter.
"""

from __future__ import annotations

from errno import ENOMEM, errorcode
from posix import strerror

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


class Error(Exception):
    """Any failure of ocipy.

    Attributes:
        code: stable identifier of the kind of failure, kebab-case (``container-not-found``).
        phase: what was being done (``load``, ``validate``, ``cgroup``, ``launch``, ``start`` …).
        config_path: where in config.json the cause lies (``$.mounts[3].source``), or "".
        syscall: the system call that failed, or "".
        errno: its error number, or 0.
        hint: one sentence of advice, or "".
        explained: the message says already what ``errno`` stands for.
    """

    code = "internal"
    phase = ""

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        phase: str = "",
        config_path: str = "",
        syscall: str = "",
        errno: int = 0,
        hint: str = "",
        explained: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        if code:
            self.code = code
        if phase:
            self.phase = phase
        self.config_path = config_path
        self.syscall = syscall
        self.errno = errno
        self.hint = hint
        self.explained = explained

    def __str__(self) -> str:
        text = self.message
        if self.config_path and self.config_path not in text:
            text = f"{self.config_path}: {text}"
        if self.syscall:
            text = f"{text}: {self.syscall}"
        if self.errno and not self.explained:
            text = f"{text}: {strerror(self.errno).lower()}"
        if self.hint:
            text = f"{text} ({self.hint})"
        return text

    def fields(self) -> dict[str, str]:
        """The fields that are set, for ``--log-format json``."""
        found = {
            "code": self.code,
            "phase": self.phase,
            "config_path": self.config_path,
            "syscall": self.syscall,
            "errno": errorcode.get(self.errno, str(self.errno)) if self.errno else "",
            "hint": self.hint,
        }
        return {name: value for name, value in found.items() if value}


def translated(error: OSError | MemoryError, doing: str) -> Error:
    """The error for what a system call refused where nobody expected it: no space, no descriptors, a broken disk.

    Args:
        error: with the ``syscall`` that :mod:`ocipy.kernel.os` has put there.
        doing: what was being done, in a word: the phase.
    """
    if isinstance(error, MemoryError):
        return Error(f"{doing} failed", code="system", phase=doing, errno=ENOMEM)
    where = "".join(f": {path}" for path in (error.filename, error.filename2) if isinstance(path, str))
    if not error.errno:
        where += f": {error}"
    return Error(
        f"{doing} failed{where}", code="system", phase=doing, syscall=getattr(error, "syscall", ""),
        errno=error.errno or 0,
    )  # fmt: skip


def verb(doing: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function that the library offers: whatever fails in it comes out as :class:`Error`.

    One boundary rather than a ``try`` around each system call: those that can be explained are explained where they
    are made, and any other at least says what was done, by which call, and why that failed.
    """

    def mark(act: Callable[P, R]) -> Callable[P, R]:
        def call(*args: P.args, **options: P.kwargs) -> R:
            try:
                return act(*args, **options)
            except (OSError, MemoryError) as error:
                raise _with_notes(translated(error, doing), error) from error

        call.__name__, call.__qualname__, call.__doc__ = act.__name__, act.__qualname__, act.__doc__
        call.__wrapped__ = act  # type: ignore[attr-defined]  # for inspect and help()
        return call

    return mark


def _with_notes(made: Error, error: BaseException) -> Error:
    for note in getattr(error, "__notes__", ()):
        made.add_note(note)
    return made


class UsageError(Error):
    """The command line, or an argument of a call, is wrong: an unknown command or flag, or a bad value."""

    code = "usage"
    phase = "usage"


class ConfigError(Error):
    """config.json, or what it points to, is wrong."""

    code = "config-invalid"
    phase = "validate"


class Unsupported(Error):
    """The configuration asks for something that this host, or ocipy, does not have."""

    code = "unsupported"
    phase = "compile"


class StateError(Error):
    """The container's status does not allow the operation, or there is no such container."""

    code = "container-state"
    phase = "state"


class CgroupError(Error):
    """A control group could not be made, joined, limited, read or removed."""

    code = "cgroup"
    phase = "cgroup"


class LaunchError(Error):
    """The container's first process, or an exec, could not be brought up."""

    code = "launch"
    phase = "launch"
