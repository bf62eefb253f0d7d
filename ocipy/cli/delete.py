"""ocipy delete."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.container import stop
from ocipy.errors import StateError

COMMAND = Command(
    "delete",
    "Remove a container that is stopped",
    "ID",
    (Flag("force f", "kill it first if it runs; no error if there is none"),),
)


def run(context: Context) -> int:
    force = context.args.force
    try:
        record = common.locked(context.root, context.args.rest[0])
    except StateError as error:
        if force and error.code == "container-not-found":
            return 0
        raise
    for warning in stop.delete(record, force=force):
        context.warn(warning)
    return 0
