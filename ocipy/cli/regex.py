"""kill and delete of all containers whose ids match a regular expression (``--regex``, as crun has it)."""

from __future__ import annotations

import re

from ocipy.cli.main import Context
from ocipy.errors import Error, UsageError
from ocipy.store import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def each_matching(context: Context, act: Callable[[str], None]) -> int:
    """Act on every container in whose id the first argument, a regular expression, is found.

    One that fails doesn't keep the others from their turn; it is told of, and the exit status says so.

    Raises:
        UsageError: it is no regular expression.
    """
    text = context.args.rest[0]
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"--regex: {text!r}: {error}") from None
    failed = 0
    for name in filter(pattern.search, Store(context.root).ids()):
        try:
            act(name)
        except Error as error:
            failed = 1
            context.error(error)
    return failed
