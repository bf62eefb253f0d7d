"""ocipy create."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Command
from ocipy.config.bundle import Bundle
from ocipy.container.create import create
from ocipy.container.prepare import CreateOptions
from ocipy.kernel import os
from ocipy.store import Store

COMMAND = Command(
    "create",
    "Create a container; its program waits for start",
    "ID",
    (
        common.BUNDLE, common.CONSOLE_SOCKET, common.PIDFD_SOCKET, common.PID_FILE, common.PRESERVE_FDS,
        common.NO_PIVOT, common.NO_NEW_KEYRING,
    ),
)  # fmt: skip


def run(context: Context) -> int:
    args = context.args
    create(Store(context.root), args.rest[0], Bundle(args.bundle or ".").path, options(context))
    return 0


def options(context: Context) -> CreateOptions:
    """The flags that create and run share."""
    args = context.args
    return CreateOptions(
        console_fd=common.connect("--console-socket", args.console_socket),
        pidfd_socket=common.connect("--pidfd-socket", args.pidfd_socket),
        pid_file=common.absolute(args.pid_file),
        preserve_fds=common.preserved(args),
        listen_fds=common.listening(),
        listen_names=os.getenv("LISTEN_FDNAMES"),
        notify=bool(os.getenv("NOTIFY_SOCKET")),
        no_pivot=args.no_pivot,
        no_new_keyring=args.no_new_keyring,
        rootless=context.rootless,
        cgroup_manager=context.cgroup_manager,
        warn=context.warn,
        inform=context.inform,
    )
