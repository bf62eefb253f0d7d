"""The entry point: global flags, dispatch, and how errors reach the user.

The last line on stderr is the root cause, since engines keep only that; with ``--log`` it goes to the log as
well, as JSON with all its fields if ``--log-format json``.
"""

from __future__ import annotations

import sys
from _signal import SIG_DFL, SIGCHLD, SIGPIPE, signal

from ocipy.cli.parser import Args, Command, Flag, describe, parse, tristate
from ocipy.errors import Error, UsageError, translated
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMANDS = (
    "create", "start", "state", "kill", "delete", "run", "exec", "list", "ps", "pause", "resume", "update",
    "events", "checkpoint", "restore", "features", "spec", "validate", "explain",
)  # fmt: skip

GLOBAL = Command(
    "",
    "OCI container runtime",
    "COMMAND [ARGS...]",
    (
        Flag("root", "directory of the containers' state", "DIR"),
        Flag("log", "file to append log entries to, or journald:NAME or syslog:NAME", "FILE"),
        Flag("log-format", "form of the log entries: text or json", "FORMAT", choices=("text", "json")),
        Flag("log-level", "least level to log: debug, info (default), warning or error", "LEVEL",
             choices=("debug", "info", "warning", "error")),
        Flag("debug", "log more (--log-level debug), and show tracebacks"),
        Flag("rootless", "do without a cgroup that can't be made: true, false, auto (default)", "BOOL", kind=tristate),
        Flag("systemd-cgroup", "let systemd make the cgroup of a new container"),
        Flag("cgroup-manager", "who makes it: cgroupfs (default), systemd, or disabled: nobody", "MANAGER",
             choices=("cgroupfs", "systemd", "disabled")),
        Flag("help h", "show this text, or a command's"),
        Flag("version v", "show the versions"),
    ),
)

#: global flags that may also stand among those of a command, as runc 1.5 has it
ANYWHERE = tuple(flag for flag in GLOBAL.flags if flag.names[0] not in ("help", "version"))

#: exit statuses as runc has them; that of a failed exec is told from the program's own
EXEC_FAILED, NO_SUCH_COMMAND = 255, 3


class Context:
    """What every command is given: its own arguments and the global ones."""

    __slots__ = ("args", "cgroup_manager", "globals", "root", "rootless")

    def __init__(self, args: Args, options: Args) -> None:
        self.args = args
        self.globals = options
        self.root: str = options.root or ""
        self.rootless: bool | None = options.rootless
        self.cgroup_manager: str = options.cgroup_manager or ("systemd" if options.systemd_cgroup else "cgroupfs")

    def warn(self, text: str) -> None:
        """Log a warning."""
        _log(self.globals, "warning", text, {})

    def inform(self, text: str) -> None:
        """Write to the log, if there is one: standard error may be the container's, whose output this would disturb."""
        if self.globals.log or self.globals.debug or self.globals.log_level:
            _log(self.globals, "info", text, {})

    def error(self, error: Error) -> None:
        """Tell of an error that does not end the command."""
        _report(self.globals, error)


def put(text: str) -> None:
    """Write a text to standard output, at once. If nobody reads it any more, end as other programs do, by SIGPIPE.

    Raises:
        Error: it could not be written, or not all of it.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except UnicodeEncodeError:  # half of a surrogate pair, or a path in another encoding
        put(text.encode(errors="backslashreplace").decode())
    except BrokenPipeError:
        signal(SIGPIPE, SIG_DFL)
        os.kill(os.getpid(), SIGPIPE)
        raise
    except OSError as error:
        raise Error("standard output", code="output", syscall="write", errno=error.errno or 0) from None


def main(argv: list[str] | None = None) -> None:
    """Run a command line and exit with its status."""
    _ready_process()
    code = run(sys.argv[1:] if argv is None else argv)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 1
    os._exit(code)  # nothing is left to tear down, and the interpreter's own end takes a millisecond


def _ready_process() -> None:
    """Undo what whoever started us may have left us with, and would go wrong later."""
    signal(SIGCHLD, SIG_DFL)  # ignored, the kernel would reap our children, and their status be lost
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:  # closed, whatever is opened next would become the container's standard input, say
            os.open("/dev/null", os.O_RDWR)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed
            setattr(sys, name, open(1 if name == "stdout" else 2, "w", closefd=False))


def run(argv: list[str]) -> int:
    """Run a command line.

    Returns:
        The exit status.
    """
    options: Args | None = None
    failed = 1
    try:
        options = parse(GLOBAL, argv, stop_at_first=True)
        if options.version:
            return _version()
        words = options.rest
        if words[:1] in (["help"], ["h"]):
            words = [words[1], "--help"] if len(words) > 1 else []
        if options.help or not words:
            put(_help())
            return 0
        _open_log(options)
        name = words[0]
        if name not in COMMANDS:
            failed = NO_SUCH_COMMAND
            raise UsageError(f"no such command: {name!r}", hint="ocipy help lists them")
        module = _load(name)
        args = parse(module.COMMAND, words[1:], common=ANYWHERE)
        if args.help:
            put(describe(module.COMMAND))
            return 0
        for key, value in args.common.items():
            setattr(options, key, value)
        if "log" in args.common:
            _open_log(options)
        if options.debug or options.log_level == "debug":
            _log(options, "debug", f"arguments: {' '.join(words)}", {})
        if options.systemd_cgroup and options.cgroup_manager not in (None, "systemd"):
            raise UsageError("--systemd-cgroup and --cgroup-manager contradict each other")
        failed = EXEC_FAILED if name == "exec" else 1
        return int(module.run(Context(args, options)))
    except Error as error:
        _report(options, error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if options is not None and options.debug:
            raise
        name = " ".join(options.rest[:1]) if options is not None else ""
        if isinstance(error, (OSError, MemoryError)):  # of the machine: a full disk, no descriptors …
            _report(options, translated(error, name))
        else:
            _report(options, Error(f"internal error in {name}", phase=name, hint="--debug shows where"))
    return failed


def _load(name: str) -> Any:
    return __import__(f"ocipy.cli.{name}", fromlist=["COMMAND"])


def _report(options: Args | None, error: Error) -> None:
    from ocipy.cli.log import printable

    text = " | ".join(str(error).strip().split("\n"))  # of a hook's output, say: the last line is to have all
    for note in getattr(error, "__notes__", ()):
        sys.stderr.write(f"ocipy: {printable(note)}\n")
    if options is not None:
        _log(options, "error", text, error.fields())
    sys.stderr.write(f"ocipy: {printable(text)}\n")


def _open_log(options: Args) -> None:
    """Open the log file, as soon as that: one that can't be written is not to be found out in an emergency.

    Raises:
        UsageError: it can't be opened.
    """
    options.log_fd = -1
    if options.log and not options.log.startswith(("journald:", "syslog:")):
        try:
            options.log_fd = os.open(options.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            path, options.log = options.log, None
            raise UsageError(f"--log {path}", syscall="open", errno=error.errno or 0) from None


def _log(options: Args, level: str, text: str, fields: dict[str, str]) -> None:
    from ocipy.cli.log import printable, write

    try:
        write(options, level, text, fields)
    except (Error, OSError) as failure:
        sys.stderr.write(f"ocipy: {printable(str(failure))}\n")


def _version() -> int:
    from ocipy.version import SPEC_VERSION, VERSION

    put(f"ocipy version {VERSION}\nspec: {SPEC_VERSION}\n")
    return 0


def _help() -> str:
    lines = [describe(GLOBAL), "Commands:"]
    lines += [f"  {name:12} {_load(name).COMMAND.summary}" for name in COMMANDS]
    return "\n".join(lines) + "\n"
