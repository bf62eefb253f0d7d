"""Loading a bundle's config.json, and refusing it when anything about it is wrong.

A good config costs a read, the C parser, ``check`` and ``rules``. Only for one that is refused is
jsonschema imported, to say what is wrong.
"""

from __future__ import annotations

from errno import ENOENT

from ocipy.config import rules
from ocipy.config._table import CONFIG
from ocipy.config.check import PROCESS, check, check_process
from ocipy.errors import ConfigError
from ocipy.kernel import json, os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.check import Node
    from ocipy.config.fault import Fault

CONFIG_JSON = "config.json"
LARGEST = 16 << 20  # bytes; a config with a large seccomp profile has some 100 KiB
S_IFMT, S_IFREG = 0o170000, 0o100000


def load(bundle_dir: str) -> dict[str, Any]:
    """The configuration of a bundle, known to satisfy the schema and the rules (config.md).

    Raises:
        ConfigError: config.json can't be read, is not JSON (``config_path`` is ``$``), or has a fault
            (``config_path`` is the first one's).
    """
    config, escapes = read(bundle_dir)
    return verify(config, bundle_dir, escapes=escapes)


def read(bundle_dir: str) -> tuple[Any, bool]:
    """Parse a bundle's config.json, unjudged.

    Returns:
        The value, and whether a string in it may hold what JSON can only write as an escape: a NUL or
        half a surrogate pair.

    Raises:
        ConfigError: the file can't be read or is not JSON.
    """
    data = _content(os.join(bundle_dir, CONFIG_JSON), bundle_dir)
    try:
        value = json.loads(data)
    except json.JSONError as error:
        raise ConfigError(
            f"{CONFIG_JSON} is not acceptable JSON: {_placed(data, str(error))}",
            code="config-json", phase="load", config_path="$",
        ) from None  # fmt: skip
    return value, b"\\u0000" in data or b"\\ud" in data or b"\\uD" in data


def verify(config: Any, bundle_dir: str = "", *, escapes: bool = True) -> dict[str, Any]:
    """Refuse a configuration that breaks the schema or a rule; ``create`` and ``validate`` agree on it.

    Args:
        config: the parsed config.json.
        bundle_dir: the bundle, for the advice in the message.
        escapes: whether strings may hold a NUL or half a surrogate pair (see :func:`read`).

    Returns:
        The config as it holds: without properties that are null (see ``tolerated``).

    Raises:
        ConfigError: for the first fault; the message says how many more there are.
    """
    form = given = config
    if not check(config):
        from ocipy.config.tolerated import usual_form, without_nulls

        config = without_nulls(config, CONFIG)
        form = usual_form(config)
        if form is given or not check(form):
            from ocipy.config.validate import faults

            found = faults(config)
            if found:
                _refuse(found, bundle_dir)
    broken = rules.faults(form)
    if escapes:
        broken += _text_faults(form, CONFIG)
    if broken:
        _refuse(broken, bundle_dir)
    valid: dict[str, Any] = config
    return valid


def verify_process(process: Any) -> dict[str, Any]:
    """Refuse a ``process`` object that breaks the schema or a rule (the file of ``exec --process``).

    Returns:
        The process as it holds: without properties that are null.

    Raises:
        ConfigError: for the first fault, with a path below ``$``.
    """
    if not check_process(process):
        from ocipy.config.tolerated import without_nulls

        process = without_nulls(process, PROCESS)
        if not check_process(process):
            from ocipy.config.validate import process_faults

            found = process_faults(process)
            if found:
                _refuse(found, "")
    found = rules.process_faults(process) + _text_faults(process, PROCESS)
    if found:
        _refuse(found, "")
    valid: dict[str, Any] = process
    return valid


def verify_linux(linux: Any) -> dict[str, Any]:
    """Refuse parts of a ``linux`` object that break the schema or a rule (``update``).

    Returns:
        The parts as they hold: without properties that are null.

    Raises:
        ConfigError: for the first fault, with a path below ``$.linux``.
    """
    # The least config around it: what the container's own config says of other things is not in question.
    config = verify(
        {
            "ociVersion": "1.0.0",
            "root": {"path": "rootfs"},
            "process": {"cwd": "/", "args": ["sh"]},
            "linux": linux,
        }
    )
    valid: dict[str, Any] = config["linux"]
    return valid


def _text_faults(value: dict[str, Any], node: Node) -> list[Fault]:
    from ocipy.config import strings
    from ocipy.config.fault import Fault

    return [Fault.of(row) for row in strings.rows(value, "$", node)]


def _refuse(found: list[Fault], bundle_dir: str) -> None:
    first = found[0]
    message = first.message
    if len(found) > 1:
        more = f"{len(found) - 1} more fault" + "s" * (len(found) > 2)
        message += f"; {more}" + f": `ocipy validate {bundle_dir}` lists all" * bool(bundle_dir)
    raise ConfigError(message, config_path=first.config_path)


def _content(path: str, bundle_dir: str) -> bytes:
    try:
        # O_NONBLOCK: opening a FIFO that has no writer would never return.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        hint = ""
        if error.errno == ENOENT and not os.exists(bundle_dir or "."):
            hint = "the bundle directory does not exist"
        raise ConfigError(
            f"cannot open {path}", code="config-unreadable", phase="load", errno=error.errno or 0, hint=hint
        ) from None
    except ValueError:
        raise ConfigError(
            "the bundle's path has a NUL byte", code="config-unreadable", phase="load"
        ) from None
    try:
        status = os.fstat(fd)
        if status.st_mode & S_IFMT != S_IFREG:
            raise ConfigError(f"{path} is not a regular file", code="config-unreadable", phase="load")
        parts, size = [], 0
        while size <= LARGEST and (data := os.read(fd, 1 << 20)):
            parts.append(data)
            size += len(data)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}", code="config-unreadable", phase="load", errno=error.errno or 0
        ) from None
    finally:
        os.close(fd)
    if size > LARGEST:
        raise ConfigError(
            f"{path} is larger than {LARGEST >> 20} MiB", code="config-unreadable", phase="load"
        )
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _placed(data: bytes, message: str) -> str:
    """The parser's message, with the place where it has none (a duplicate key)."""
    if not message.startswith("duplicate key"):
        return message
    from ocipy.config.duplicate_keys import duplicate_key

    return duplicate_key(data.decode("utf-8")) or message
