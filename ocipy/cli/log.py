"""Log entries: to a file, the journal, syslog, or standard error. Loaded when there is one to write."""

from __future__ import annotations

import sys
from time import gmtime, strftime

from ocipy.errors import UsageError
from ocipy.kernel import json, os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cli.parser import Args

LEVELS = ("debug", "info", "warning", "error")
#: by level, as syslog(3) has them
PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}
JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
_LOG_USER = 1 << 3


def enabled(options: Args, level: str) -> bool:
    """Whether entries of a level are wanted (``--log-level``, ``--debug``)."""
    least = options.log_level or ("debug" if options.debug else "info")
    return LEVELS.index(level) >= LEVELS.index(least)


def printable(text: str) -> str:
    """A text with everything written out that a terminal would obey rather than show: control characters but for tab
    and newline, and what turns the direction of writing. It may come from an image, a config or a hook."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else ascii(letter)[1:-1] for letter in text)


def write(options: Args, level: str, text: str, fields: dict[str, str]) -> None:
    """Write an entry to where ``--log`` says, or to standard error; an error's line there is not ours.

    Raises:
        UsageError: it can't be written.
    """
    if not enabled(options, level):
        return
    text = printable(text)
    kind, colon, name = (options.log or "").partition(":")
    if not options.log:
        if level != "error":
            sys.stderr.write(f"ocipy: {level}: {text}\n")
    elif colon and kind == "journald":
        _datagram(options.log, JOURNAL, _journal_entry(name, level, text, fields))
    elif colon and kind == "syslog":
        line = f"<{_LOG_USER | PRIORITIES[level]}>{name or 'ocipy'}[{os.getpid()}]: {text}"
        _datagram(options.log, SYSLOG, line.encode(errors="surrogateescape"))
    else:
        os.write(options.log_fd, f"{_line(options.log_format, level, text, fields)}\n".encode())


def _line(form: str | None, level: str, text: str, fields: dict[str, str]) -> str:
    stamp = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime())
    if form == "json":
        return _escaped(json.dumps({"level": level, "msg": text, "time": stamp} | fields))
    words = "".join(f" {key}={json.dumps(value)}" for key, value in fields.items())
    return _escaped(f"time={json.dumps(stamp)} level={level} msg={json.dumps(text)}{words}")


def _escaped(line: str) -> str:
    """The strings of JSON in a line, as they are but with nothing that a terminal obeys."""
    return line if line.isprintable() else "".join(c if c.isprintable() else json.escape(c) for c in line)


def _journal_entry(name: str, level: str, text: str, fields: dict[str, str]) -> bytes:
    """An entry in the journal's native protocol: a line for each field (none has a line break in it)."""
    entry = {"MESSAGE": text, "PRIORITY": str(PRIORITIES[level]), "SYSLOG_IDENTIFIER": name or "ocipy"}
    entry |= {f"OCIPY_{key.upper()}": value for key, value in fields.items()}
    lines = (f"{key}={value}".replace("\n", " ") for key, value in entry.items())
    return "".join(f"{line}\n" for line in lines).encode(errors="surrogateescape")


def _datagram(flag: str, path: str, data: bytes) -> None:
    from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_DGRAM, socket

    sender = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC)
    try:
        sender.sendto(data, path)
    except OSError as error:
        raise UsageError(f"--log {flag}: {path}", syscall="sendto", errno=error.errno or 0) from None
    finally:
        sender.close()
