"""ocipy start."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Command
from ocipy.container.start import start

COMMAND = Command("start", "Run the program of a created container", "ID")


def run(context: Context) -> int:
    record = common.locked(context.root, context.args.rest[0])
    notify = common.notify_socket(record)
    start(record)
    if notify:
        pidfd, pid = record.pidfd(), record.pid
        record.entry.close()  # the lock: it may take its time to get ready
        if pidfd >= 0:
            notify.forward(pidfd, pid)
    return 0
