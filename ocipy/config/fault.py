"""One fault of a document: where, what was found, what is allowed, and which section says so."""

from __future__ import annotations

from ocipy.kernel import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    #: A fault before it is worded: config path, the value found (None: nothing is there), what is
    #: allowed, section of the specification.
    Row = tuple[str, Any, str, str]
    #: The path of the namespace of each type, "" for a new one.
    Namespaces = dict[Any, str]

SHOWN = 60
#: What JSON may leave as it is but a terminal line may not: C1 controls and the Unicode line ends.
_ESCAPES = {code: f"\\u{code:04x}" for code in (*range(0x7F, 0xA0), 0x2028, 0x2029)}


class Fault:
    """One fault.

    Attributes:
        config_path: ``$.mounts[3].source``; a key that is not a plain name is quoted:
            ``$.linux.sysctl["net.core.somaxconn"]``.
        found: the value there as JSON text, shortened, or ``nothing``.
        allowed: what may stand there.
        section: the section of runtime-spec that says so (``config.md#mounts``).
    """

    __slots__ = ("allowed", "config_path", "found", "section")

    def __init__(self, config_path: str, found: str, allowed: str, section: str) -> None:
        self.config_path = config_path
        self.found = found
        self.allowed = allowed
        self.section = section

    @classmethod
    def of(cls, row: Row) -> Fault:
        """A fault from what a rule reports."""
        path, value, allowed, section = row
        return cls(path, "nothing" if value is None else shown(value), allowed, section)

    @property
    def text(self) -> str:
        """The fault as one line."""
        return f"{self.config_path}: {self.message}"

    @property
    def message(self) -> str:
        """The line without the path."""
        return f"found {self.found}, allowed: {self.allowed} ({self.section})"

    def fields(self) -> dict[str, str]:
        """The fault as plain data."""
        return {name: getattr(self, name) for name in ("config_path", "found", "allowed", "section")}

    def __repr__(self) -> str:
        return f"Fault({self.text!r})"


def shown(value: Any) -> str:
    """A value as one short line of JSON."""
    text = quoted(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def quoted(value: Any) -> str:
    """A value as one line of JSON that a terminal takes for nothing but text."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text.translate(_ESCAPES).encode("utf-8", "backslashreplace").decode()


def below(path: str, key: str | int) -> str:
    """The config path of a member of what a config path names."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if key.isascii() and key.replace("_", "a").isalnum():
        return f"{path}.{key}"
    return f"{path}[{quoted(key)}]"
