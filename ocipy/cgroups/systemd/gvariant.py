"""GVariant text, as in ``org.systemd.property.*`` annotations, to a D-Bus signature and value. Pure.

The format is GLib's ("GVariant Text Format"): ``'text'``, ``true``, ``-7``, ``2.5``, ``['a', 'b']``, ``('a', 1)``, with
the type in front where it can't be told or is another: ``uint64 5``, ``@as []``. Of it, what a property of a unit can
be: none is a dictionary, a variant or ``nothing``.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INTEGERS = {
    "y": (0, 2**8 - 1), "n": (-(2**15), 2**15 - 1), "q": (0, 2**16 - 1), "i": (-(2**31), 2**31 - 1),
    "u": (0, 2**32 - 1), "x": (-(2**63), 2**63 - 1), "t": (0, 2**64 - 1),
}  # fmt: skip
KEYWORDS = {
    "boolean": "b", "byte": "y", "int16": "n", "uint16": "q", "int32": "i", "uint32": "u", "int64": "x",
    "uint64": "t", "double": "d", "string": "s", "objectpath": "o", "signature": "g",
}  # fmt: skip
DEPTH = 32  # of containers, as D-Bus limits it
_WORD = re.compile(r"[a-z][a-z0-9]*")
_INTEGER = re.compile(r"[+-]?(0[xX][0-9a-fA-F]+|[0-9]+)(?![0-9a-zA-Z.])")
_DOUBLE = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?(?![0-9a-zA-Z.])")
_QUOTED = re.compile(r"""(['"])((?:\\.|(?!\1)[^\\])*)\1""", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", re.DOTALL)
_ESCAPED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def parse(text: str) -> tuple[str, Any]:
    """The signature of a value's text, and the value.

    Raises:
        ValueError: the text is none; says what is wrong and where.
    """
    reader = _Reader(text)
    found = reader.value("", DEPTH)
    if reader.peek():
        raise reader.wrong("something follows the value")
    return found


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def wrong(self, what: str) -> ValueError:
        return ValueError(f"{what} (character {self.at + 1})")

    def peek(self) -> str:
        """The next character that is no space; "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found:
            self.at = found.end()
        return found

    def value(self, wanted: str, depth: int) -> tuple[str, Any]:
        """A value; of the type ``wanted``, unless that is "": then of the type that it says or looks like."""
        if depth < 0:
            raise self.wrong("too deeply nested")
        start = self.peek()
        if start == "@":
            self.at += 1
            kind = self.type(DEPTH)
            return self.typed(kind, self.value(kind, depth - 1)[1], wanted)
        if start == "[":
            return self._array(wanted, depth)
        if start == "(":
            return self._tuple(wanted, depth)
        if start and start in "'\"":
            return self._string(wanted)
        if start and start in "+-.0123456789":
            return self._number(wanted)
        found = self.match(_WORD)
        word = found.group() if found else ""
        if word in ("true", "false"):
            return self.typed("b", word == "true", wanted)
        if word in KEYWORDS:
            return self.typed(KEYWORDS[word], self.value(KEYWORDS[word], depth - 1)[1], wanted)
        raise self.wrong(f"no value: {word}" if word else "no value")

    def typed(self, kind: str, value: Any, wanted: str) -> tuple[str, Any]:
        if wanted and kind != wanted:
            raise self.wrong(f"a value of type {kind!r} where one of type {wanted!r} belongs")
        return kind, value

    def type(self, depth: int) -> str:
        """One complete type (D-Bus specification, "Type System")."""
        letter = self.text[self.at : self.at + 1]
        if depth < 0 or not letter or letter not in "bynqiuxtdsoga(":
            raise self.wrong("no type")
        self.at += 1
        if letter == "a":
            return "a" + self.type(depth - 1)
        if letter == "(":
            while not self.text.startswith(")", self.at):
                letter += self.type(depth - 1)
            self.at += 1
            return letter + ")"
        return letter

    def _goes_on(self, end: str, first: bool) -> bool:
        """Whether a container has another value; steps over the comma, or the end."""
        if self.peek() == end:
            self.at += 1
            return False
        if not first:
            if self.peek() != ",":
                raise self.wrong(f"',' or {end!r} is missing")
            self.at += 1
        return True

    def _array(self, wanted: str, depth: int) -> tuple[str, Any]:
        self.at += 1
        kind = wanted[1:] if wanted[:1] == "a" else ""
        values: list[Any] = []
        while self._goes_on("]", not values):
            kind, value = self.value(kind, depth - 1)
            values.append(value)
        if not kind:
            raise self.wrong("the type of an empty array has to be written out, as in @as []")
        return self.typed("a" + kind, values, wanted)

    def _tuple(self, wanted: str, depth: int) -> tuple[str, Any]:
        self.at += 1
        kinds = _members(wanted) if wanted[:1] == "(" else []
        found: list[tuple[str, Any]] = []
        while self._goes_on(")", not found):
            found.append(self.value(kinds[len(found)] if len(found) < len(kinds) else "", depth - 1))
        if not found:
            raise self.wrong("an empty tuple")
        return self.typed(f"({''.join(kind for kind, _ in found)})", tuple(value for _, value in found), wanted)

    def _string(self, wanted: str) -> tuple[str, Any]:
        quoted = self.match(_QUOTED)
        if not quoted:
            raise self.wrong("the end of this text is missing")
        try:
            text = _ESCAPE.sub(_character, quoted.group(2))
            text.encode()  # no half of a surrogate pair
        except (ValueError, OverflowError):
            raise self.wrong("an escape that is no character") from None
        if "\0" in text:
            raise self.wrong("NUL in a text")
        return self.typed(wanted if wanted in ("o", "g") else "s", text, wanted)

    def _number(self, wanted: str) -> tuple[str, Any]:
        found = None if wanted == "d" else self.match(_INTEGER)
        if not found:
            found = self.match(_DOUBLE)
            if not found:
                raise self.wrong("no number")
            return self.typed("d", float(found.group()), wanted)
        kind = wanted or "i"
        if kind not in INTEGERS:
            raise self.wrong(f"a number where a value of type {kind!r} belongs")
        octal = found.group(1)[0] == "0" and found.group(1).isdigit()
        try:
            value = int(found.group(), 8 if octal else 0)
        except ValueError:
            raise self.wrong(f"no number: {found.group()}") from None
        low, high = INTEGERS[kind]
        if not low <= value <= high:
            raise self.wrong(f"{value} does not fit type {kind!r}")
        return kind, value


def _character(found: re.Match[str]) -> str:
    word = found.group(1)
    return chr(int(word[1:], 16)) if len(word) > 1 else _ESCAPED.get(word, word)


def _members(kind: str) -> list[str]:
    """The types in a tuple's."""
    reader = _Reader(kind)
    reader.at = 1
    found = []
    while reader.peek() != ")":
        found.append(reader.type(DEPTH))
    return found
