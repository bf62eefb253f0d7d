"""ocipy run: create, start and, in the foreground, wait and delete."""

from __future__ import annotations

from ocipy.cli import common, create
from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.container import foreground, stop
from ocipy.container.bundle import Bundle
from ocipy.container.channel import Launched
from ocipy.container.create import create as create_container
from ocipy.container.record import Record
from ocipy.container.start import start
from ocipy.errors import UsageError
from ocipy.state import Store

COMMAND = Command(
    "run",
    "Create and start a container; without --detach wait for it, and delete it",
    "ID",
    (
        *create.COMMAND.flags,
        Flag("detach d", "return when the program runs"),
        Flag("keep", "do not delete the container when it has ended"),
        Flag("no-subreaper", "do not reap orphans of the container"),
        Flag("timings", "print how long each operation took, to stderr"),
    ),
)


def run(context: Context) -> int:
    args = context.args
    options = create.options(args)
    options.timings = args.timings
    bundle = Bundle(args.bundle or ".")
    console = None
    if not args.detach:
        if options.console_fd >= 0:
            raise UsageError("--console-socket: only with --detach; in the foreground the terminal is the caller's")
        if _wants_terminal(bundle):
            from ocipy.container.terminal import Console

            console = Console()
            options.console_fd = console.theirs
        if not args.no_subreaper:
            foreground.become_subreaper()
    record, launched = create_container(Store(context.root), args.rest[0], bundle.path, options)
    if args.timings:
        _print_timings(launched)
    try:
        start(record, launched.plan)
    except BaseException:
        stop.delete(record, force=True)
        raise
    if args.detach:
        return 0
    _unlock(record)
    code = foreground.attend(launched.pid, launched.pidfd, console.master() if console else -1)
    if not args.keep:
        record = common.locked(context.root, args.rest[0])
        for warning in stop.delete(record, force=True):
            context.warn(warning)
    return code


def _unlock(record: Record) -> None:
    """Let other commands change the container while it runs."""
    record.entry.close()


def _wants_terminal(bundle: Bundle) -> bool:
    """Whether the config asks for a terminal. Read before it is validated: create will do that."""
    from ocipy import _json as json
    from ocipy import _os as os

    try:
        config = json.loads(os.read_bytes(f"{bundle.path}/config.json"))
        return config["process"]["terminal"] is True
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _print_timings(launched: Launched) -> None:
    import sys

    for op, microseconds in zip(launched.plan.ops, launched.timings, strict=False):
        sys.stderr.write(f"{microseconds:8} us  {op.describe()}\n")
