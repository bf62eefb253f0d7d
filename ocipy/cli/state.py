"""ocipy state."""

from __future__ import annotations

from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command
from ocipy.kernel import json
from ocipy.store import Store
from ocipy.store.record import Record

COMMAND = Command("state", "Print the state of a container as JSON", "ID")


def run(context: Context) -> int:
    with Store(context.root).open(context.args.rest[0]) as entry:
        record = Record.load(entry)
        put(json.dumps(record.state(record.status()), 2) + "\n")
    return 0
