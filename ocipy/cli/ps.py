"""ocipy ps."""

from __future__ import annotations

from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command, Flag
from ocipy.container.processes import members
from ocipy.errors import Error
from ocipy.kernel import json, os
from ocipy.store import Store
from ocipy.store.record import Record

COMMAND = Command(
    "ps",
    "List a container's processes, with the host's ps(1) and its options (default: -ef)",
    "ID [OPTIONS...]",
    (Flag("format f", "table (default) or json (the pids)", "FORMAT", choices=("table", "json")),),
    passes=True,
)


def run(context: Context) -> int:
    rest = context.args.rest
    with Store(context.root).open(rest[0]) as entry:
        record = Record.load(entry)
        pids = members(record)
    if context.args.format == "json":
        put(json.dumps(pids) + "\n")
        return 0
    import subprocess

    try:
        done = subprocess.run(["ps", *(rest[1:] or ["-ef"])], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Error("ps is not installed", code="ps-missing", hint="--format json needs none") from None
    if done.returncode:
        raise Error(f"ps: {done.stderr.strip()}", code="ps-failed")
    lines = os.lines(done.stdout)
    titles = lines[0].split()
    if "PID" not in titles:
        raise Error("the ps options leave out the PID column", code="ps-no-pid")
    column = titles.index("PID")
    kept = []
    for line in lines[1:]:
        word = "".join(line.split()[column : column + 1])
        if line and not word.isdigit():  # a word more or less before it, as those of a command line
            raise Error(f"there is no pid where ps should have one: {line!r}", code="ps-no-pid",
                        hint="the PID column must come before those that can have spaces in them")  # fmt: skip
        if line and int(word) in pids:
            kept.append(line)
    put("\n".join([lines[0], *kept]) + "\n")
    return 0
