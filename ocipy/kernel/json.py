"""JSON by the C scanner and encoder alone (see ``os.py`` for why).

``import json`` takes 4 ms, mostly for :mod:`re`; the C parts of it take 0.3. Objects with a duplicate
key are refused: RFC 8259 leaves their meaning open, and two readers of one config.json must not differ.
"""

from __future__ import annotations

from _json import encode_basestring, encode_basestring_ascii, make_encoder, make_scanner

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


DEPTH = 100  # levels of arrays and objects: what recurses over a value later has room for as many


class JSONError(ValueError):
    """The text is not JSON; the message says where."""


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise JSONError(f"duplicate key {encode_basestring(key)}")
            seen.add(key)
    return found


def _constant(name: str) -> Any:
    raise JSONError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if value - value:  # infinite, and so no number that could be written again
        raise JSONError(f"the number {text} is out of range")
    return value


class _Context:
    """What the C scanner asks of its decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_pairs)
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)
    memo: dict[str, str] = {}


_scan = make_scanner(_Context())  # type: ignore[arg-type]  # the stub asks for more than the scanner does


def loads(data: bytes | str) -> Any:
    """Parse one JSON text (UTF-8 if bytes).

    Raises:
        JSONError: not UTF-8, not JSON, a duplicate key, something after the value, or nested too deeply.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONError(f"not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from None
    start = len(text) - len(text.lstrip(" \t\n\r"))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise JSONError(f"expected a value at {_place(text, stop.value)}") from None
    except RecursionError:
        raise JSONError("nested too deeply") from None
    except SystemError:  # CPython 3.11 has no other exception to raise while json.decoder is not imported
        raise _worded(text, start) from None
    except JSONError:
        raise
    except ValueError as error:
        raise JSONError(_plain(error)) from None
    rest = text[end:].lstrip(" \t\n\r")
    if rest:
        raise JSONError(f"more text after the value at {_place(text, len(text) - len(rest))}")
    if text.count("[") + text.count("{") > DEPTH:
        _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for outer in level if type(outer) is dict or type(outer) is list
            for inner in (outer.values() if type(outer) is dict else outer)
        ]  # fmt: skip
        if not level:
            return
    raise JSONError("nested too deeply")


def _plain(error: Exception) -> str:
    """What the scanner says, in words that have nothing to do with Python."""
    text = str(error).lower()
    return "a number of too many digits" if "sys.set_int_max_str_digits" in text else text


def _worded(text: str, start: int) -> JSONError:
    """What the C scanner has against a text, once it finds the exception that it wants to raise."""
    import json.decoder  # noqa: F401

    try:
        _scan(text, start)
    except (RecursionError, SystemError):
        return JSONError("nested too deeply")
    except (StopIteration, ValueError) as error:
        return JSONError(_plain(error))
    return JSONError("not JSON")


def _place(text: str, index: int) -> str:
    line = text.count("\n", 0, index) + 1
    return f"line {line} column {index - text.rfind(chr(10), 0, index)}"


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no JSON form")


def dumps(value: Any, indent: int = 0) -> str:
    """The JSON text of plain data: compact, or indented by so many spaces."""
    if indent:
        return _pretty(value, indent, "\n")
    return "".join(
        make_encoder({}, _unknown, encode_basestring, None, ":", ",", False, False, False)(value, 0)
    )


def escape(letter: str) -> str:
    """How a letter can be written in a JSON string by ASCII letters alone."""
    return encode_basestring_ascii(letter)[1:-1]


def encode(value: Any) -> bytes:
    """The compact JSON text of plain data as UTF-8. What has no UTF-8 form, half of a surrogate pair or a byte of a
    path in another encoding, is written as JSON's escape for it, and comes back the same."""
    return dumps(value).encode(errors="backslashreplace")


def _pretty(value: Any, indent: int, line: str) -> str:
    inner = line + " " * indent
    if isinstance(value, dict) and value:
        items = (f"{encode_basestring(k)}: {_pretty(v, indent, inner)}" for k, v in value.items())
        return "{" + inner + ("," + inner).join(items) + line + "}"
    if isinstance(value, (list, tuple)) and value:
        return "[" + inner + ("," + inner).join(_pretty(v, indent, inner) for v in value) + line + "]"
    return dumps(value)
