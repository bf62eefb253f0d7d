"""ocipy spec."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Command, Flag
from ocipy.errors import UsageError
from ocipy.kernel import json, os

COMMAND = Command(
    "spec",
    "Write a config.json to start from into a bundle",
    "",
    (common.BUNDLE, Flag("rootless", "for a user other than root")),
)


def run(context: Context) -> int:
    from ocipy.config.defaults import spec

    path = os.absolute(os.join(context.args.bundle or ".", "config.json"))
    text = json.dumps(spec(context.args.rootless), 4) + "\n"
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"can't write {path}", syscall="open", errno=error.errno or 0) from None
    os.write(fd, text.encode())
    os.close(fd)
    return 0
