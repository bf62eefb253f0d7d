"""ocipy kill."""

from __future__ import annotations

from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.container.kill import kill as kill_container
from ocipy.errors import StateError, UsageError
from ocipy.store import Store
from ocipy.store.record import Record

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
                kill_container(Record.load(entry), signal, everyone=context.args.all)
            except StateError as error:
                if not context.args.all or error.code != "not-running":  # all of none are signalled, as runc has it
                    raise

    if context.args.regex:
        from ocipy.cli.regex import each_matching

        return each_matching(context, kill)
    kill(rest[0])
    return 0


def number(text: str) -> int:
    """A signal by number or name, with or without SIG; also as RTMIN+3 or RTMAX-1.

    Raises:
        UsageError: there is none.
    """
    import _signal

    if text.isascii() and text.isdigit():
        value = int(text)
        if value < _signal.NSIG:  # 0 only asks whether it runs
            return value
    else:
        name = text.upper().removeprefix("SIG")
        offset = 0
        if name[:6] in ("RTMIN+", "RTMAX-") and name[6:].isascii() and name[6:].isdigit():
            name, offset = name[:5], int(name[5:])
        found = getattr(_signal, f"SIG{name}", None)
        if found is not None and not name.startswith("_"):
            value = int(found) + offset
            if not offset or _signal.SIGRTMIN <= value <= _signal.SIGRTMAX:
                return value
    raise UsageError(f"unknown signal {text!r}")
