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
    (
        Flag("force f", "kill it first if it runs; no error if there is none"),
        Flag("regex r", "ID is a regular expression: remove every container that it is found in"),
    ),
)


def run(context: Context) -> int:
    force = context.args.force

    def delete(name: str) -> None:
        try:
            record = common.locked(context.root, name)
        except StateError as error:
            if force and error.code == "container-not-found":
                return
            raise
        with record.entry:
            for warning in stop.delete(record, force=force):
                context.warn(warning)

    if context.args.regex:
        from ocipy.cli.regex import each_matching

        return each_matching(context, delete)
    delete(context.args.rest[0])
    return 0
