"""ocipy run: create, start and, in the foreground, wait and delete."""

from __future__ import annotations

from ocipy.cli import common, create
from ocipy.cli.main import Context
from ocipy.cli.parser import Args, Command, Flag
from ocipy.config.bundle import Bundle
from ocipy.config.load import read
from ocipy.console import foreground
from ocipy.container.create import create as create_container
from ocipy.container.create import remove_pid_file
from ocipy.container.delete import delete
from ocipy.container.start import start
from ocipy.errors import Error, UsageError
from ocipy.kernel import os
from ocipy.launch.protocol import Launched
from ocipy.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.console.terminal import Console
    from ocipy.container.prepare import CreateOptions

DETACH = Flag("detach d", "return when the program runs")
NO_SUBREAPER = Flag("no-subreaper", "do not reap orphans of the container")
COMMAND = Command(
    "run",
    "Create and start a container; without --detach wait for it, and delete it",
    "ID [COMMAND...]",
    (
        *create.COMMAND.flags, DETACH, NO_SUBREAPER,
        Flag("rootfs", "without a bundle: run COMMAND (default: sh) in this root, by the default config", "DIR"),
        Flag("keep", "do not delete the container when it has ended"),
        Flag("timings", "print how long each operation took, to stderr"),
    ),
    passes_with="rootfs",
)


def run(context: Context) -> int:
    args = context.args
    spec = _default_spec(args)
    options = create.options(context)
    options.timings = args.timings
    bundle = Bundle(os.join(args.rootfs, "..") if spec else args.bundle or ".")
    console = None if args.detach else stay(context, options, bundle, spec)
    record, launched = create_container(Store(context.root), args.rest[0], bundle.path, options, spec)
    if args.timings:
        _print_timings(launched)
    notify = None
    try:
        notify = common.notify_socket(record)
        master = console.master() if console else -1  # before the start: it has the window's size by then
        start(record, launched.plan)
    except BaseException:
        if options.pid_file:
            remove_pid_file(options.pid_file)
        if os.exists(record.entry.path):  # a failed hook has it deleted already
            delete(record, force=True)
        raise
    if args.detach:
        if notify:
            notify.forward(launched.pidfd, launched.pid)
        return 0
    if notify:
        from _thread import start_new_thread

        start_new_thread(notify.forward, (launched.pidfd, os.getpid()))
    record.entry.close()  # the lock: other commands may change the container while it runs
    code = foreground.attend(launched.pid, launched.pidfd, master)
    if not args.keep:
        remove(context)
    return code


def _default_spec(args: Args) -> dict[str, Any] | None:
    """The config for --rootfs; None without it."""
    if not args.rootfs:
        if len(args.rest) > 1:
            raise UsageError(f"run: too many arguments: {args.rest[1]!r}", hint="a command goes with --rootfs")
        return None
    if args.bundle:
        raise UsageError("run: --rootfs and --bundle exclude each other")
    from ocipy import host
    from ocipy.config.defaults import spec

    config = spec(host.facts().rootless)
    config["root"]["path"] = common.absolute(args.rootfs)
    config["process"]["terminal"] = os.isatty(0) and not args.detach
    config["process"]["args"] = args.rest[1:] or ["sh"]
    return config


def stay(
    context: Context, options: CreateOptions, bundle: Bundle, spec: dict[str, Any] | None = None
) -> Console | None:
    """Ready this process to stay with the container: its terminal, if the config asks for one, its orphans, and
    the signals that are to be passed on.

    Raises:
        UsageError: a console socket was given.
    """
    console = None
    if options.console_fd >= 0:
        raise UsageError("--console-socket: only with --detach; in the foreground the terminal is the caller's")
    if _wants_terminal(bundle, spec):
        from ocipy.console.terminal import Console

        console = Console()
        options.console_fd = console.theirs
    if not context.args.no_subreaper:
        foreground.become_subreaper()
    foreground.hold_signals()
    return console


def remove(context: Context) -> None:
    """Remove what has ended. What goes wrong is told, but the exit status is the program's."""
    try:
        for warning in delete(common.locked(context.root, context.args.rest[0]), force=True):
            context.warn(warning)
    except Error as error:
        if error.code != "container-not-found":  # somebody else was faster
            context.warn(str(error))


def _wants_terminal(bundle: Bundle, spec: dict[str, Any] | None) -> bool:
    """Whether the config asks for a terminal. Not judged here: create will do that."""
    try:
        return (spec or read(bundle.path)[0])["process"]["terminal"] is True
    except (Error, KeyError, TypeError):
        return False


def _print_timings(launched: Launched) -> None:
    import sys

    from ocipy.cli.log import printable
    from ocipy.plan.describe import describe

    for op, microseconds in zip(launched.plan.ops, launched.timings, strict=False):
        sys.stderr.write(f"{microseconds:8} us  {printable(describe(op))}\n")
