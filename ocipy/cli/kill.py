"""ocipy kill."""

from __future__ import annotations

from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.container import stop
from ocipy.container.record import Record
from ocipy.errors import StateError, UsageError
from ocipy.state import Store

COMMAND = Command(
    "kill",
    "Send a signal (default: SIGTERM) to a container's init process",
    "ID [SIGNAL]",
    (
        Flag("all a", "signal every process of the container"),
        Flag("regex r", "ID is a regular expression: signal every container that it is found in"),
    ),
)


def run(context: Context) -> int:
    rest = context.args.rest
    signal = number(rest[1]) if len(rest) > 1 else 15

    def kill(name: str) -> None:
        with Store(context.root).open(name) as entry:
            try:
                stop.kill(Record.load(entry), signal, everyone=context.args.all)
            except StateError as error:
                if not context.args.all or error.code != "not-running":  # all of none are signalled, as runc has it
                    raise

    if context.args.regex:
        from ocipy.cli.regex import each_matching

        return each_matching(context, kill)
    kill(rest[0])
    return 0


def number(text: str) -> int:
    """A signal by number or name, with or without SIG.

    Raises:
        UsageError: there is none.
    """
    import _signal

    if text.isascii() and text.isdigit():
        value = int(text)
        if value < _signal.NSIG:  # 0 only asks whether it runs
            return value
    else:
        name = text.upper()
        found = getattr(_signal, name if name.startswith("SIG") else f"SIG{name}", None)
        if found is not None and not name.startswith(("SIG_", "_")):
            return int(found)
    raise UsageError(f"unknown signal {text!r}")
