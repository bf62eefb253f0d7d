"""ocipy features."""

from __future__ import annotations

from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command
from ocipy.kernel import json

COMMAND = Command("features", "Print what is implemented, as JSON (the features structure of the runtime-spec)")


def run(context: Context) -> int:
    from ocipy.plan.features import document

    put(json.dumps(document(), 4) + "\n")
    return 0
