"""ocipy features."""

from __future__ import annotations

import sys

from ocipy import _json as json
from ocipy.cli.main import Context
from ocipy.cli.parser import Command

COMMAND = Command("features", "Print what is implemented, as JSON (the features structure of the runtime-spec)")


def run(context: Context) -> int:
    from ocipy.features import document

    sys.stdout.write(json.dumps(document(), 4) + "\n")
    return 0
