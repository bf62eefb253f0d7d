"""ocipy delete."""

from __future__ import annotations

from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.container.delete import remove
from ocipy.errors import StateError
from ocipy.store import Store

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
            with Store(context.root).open(name) as entry:
                for warning in remove(entry, force=force):
                    context.warn(warning)
        except StateError as error:
            if not force or error.code != "container-not-found":
                raise

    if context.args.regex:
        from ocipy.cli.regex import each_matching

        return each_matching(context, delete)
    delete(context.args.rest[0])
    return 0
