"""ocipy list."""

from __future__ import annotations

from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command, Flag
from ocipy.errors import Error, translated
from ocipy.kernel import json
from ocipy.store import Store
from ocipy.store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

COMMAND = Command(
    "list",
    "List the containers below the root",
    "",
    (
        Flag("format f", "table (default) or json", "FORMAT", choices=("table", "json")),
        Flag("quiet q", "print ids only"),
    ),
)


def run(context: Context) -> int:
    store = Store(context.root)
    found = []
    for name in store.ids():
        try:
            with store.open(name) as entry:
                record = Record.load(entry)
                found.append(_row(record))
        except (Error, OSError) as error:  # one that can't be looked at does not hide the others
            if isinstance(error, OSError):
                error = translated(error, f"list {name}")
            if error.code != "container-not-found":  # deleted meanwhile
                context.warn(str(error))
    if context.args.quiet:
        lines = [row["id"] for row in found]
    elif context.args.format == "json":
        lines = [json.dumps(found)]
    else:
        titles = {name: name.upper() for name in ("id", "pid", "status", "bundle", "created", "owner")}
        lines = table([titles, *found])
    put("".join(f"{line}\n" for line in lines))
    return 0


def _row(record: Record) -> dict[str, Any]:
    row = record.state(record.status())
    uid = record.data.get("owner", 0)
    try:
        import pwd

        row["owner"] = pwd.getpwuid(uid).pw_name
    except KeyError:
        row["owner"] = f"#{uid}"
    return row


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Rows with aligned columns, those of the first row."""
    columns = list(rows[0])
    widths = [max(len(str(row[column])) for row in rows) for column in columns]
    return [
        "   ".join(str(row[c]).ljust(w) for c, w in zip(columns, widths, strict=True)).rstrip() for row in rows
    ]
