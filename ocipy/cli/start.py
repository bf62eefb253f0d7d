"""ocipy start."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Command
from ocipy.container.start import start

COMMAND = Command("start", "Run the program of a created container", "ID")


def run(context: Context) -> int:
    record = common.locked(context.root, context.args.rest[0])
    start(record)
    return 0
