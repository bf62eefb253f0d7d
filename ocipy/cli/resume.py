"""ocipy resume."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Command
from ocipy.container.pause import freeze

COMMAND = Command("resume", "Thaw a paused container", "ID")


def run(context: Context) -> int:
    freeze(common.locked(context.root, context.args.rest[0]), False)
    return 0
