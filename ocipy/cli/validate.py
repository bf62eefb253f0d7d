"""ocipy validate."""

from __future__ import annotations

import sys

from ocipy.cli.log import printable
from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command
from ocipy.config.bundle import Bundle

COMMAND = Command("validate", "List all faults of a bundle's config.json", "[BUNDLE]")


def run(context: Context) -> int:
    bundle = Bundle(context.args.rest[0] if context.args.rest else ".")
    faults = bundle.validate()
    if not faults:
        from ocipy.config.load import read
        from ocipy.config.warnings import notices

        for notice in notices(read(bundle.path)[0]):
            context.warn(notice.text)
    for fault in faults:
        put(f"{printable(fault.text)}\n")
    if faults:
        where = printable(f"{bundle.path}/config.json")
        sys.stderr.write(f"ocipy: {where} has {len(faults)} fault{'s' * (len(faults) > 1)}\n")
    return 1 if faults else 0
