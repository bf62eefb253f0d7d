"""ocipy restore."""

from __future__ import annotations

from ocipy.checkpoint.restore import RestoreOptions, restore
from ocipy.cli import common
from ocipy.cli.checkpoint import SHARED, shared
from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.cli.run import DETACH, NO_SUBREAPER, remove, stay
from ocipy.config.bundle import Bundle
from ocipy.console import foreground
from ocipy.container.prepare import CreateOptions
from ocipy.errors import Unsupported
from ocipy.store import Store

COMMAND = Command(
    "restore",
    "Continue a container from a checkpoint; without --detach wait for it, and delete it",
    "ID",
    (
        *SHARED, common.BUNDLE, common.CONSOLE_SOCKET, common.PID_FILE, common.NO_PIVOT, DETACH, NO_SUBREAPER,
        Flag("lsm-profile", "confine it by this profile instead", "TYPE:NAME"),
        Flag("lsm-mount-context", "SELinux context of its mounts instead", "CONTEXT"),
    ),
)  # fmt: skip


def run(context: Context) -> int:
    args = context.args
    if args.no_pivot:
        raise Unsupported("--no-pivot: CRIU enters the root file system its own way, by pivot_root")
    create = CreateOptions(
        console_fd=common.connect("--console-socket", args.console_socket),
        pid_file=common.absolute(args.pid_file),
        cgroup_manager=context.cgroup_manager,
        warn=context.warn,
        inform=context.inform,
    )
    options = RestoreOptions(
        **shared(args),
        lsm_profile=args.lsm_profile or "",
        lsm_mount_context=args.lsm_mount_context or "",
        create=create,
    )
    bundle = Bundle(args.bundle or ".")
    console = None if args.detach else stay(context, create, bundle)
    record, launched = restore(Store(context.root), args.rest[0], bundle.path, options)
    if args.detach:
        return 0
    master = console.master() if console else -1
    record.entry.close()
    code = foreground.attend(launched.pid, launched.pidfd, master)
    remove(context)
    return code
