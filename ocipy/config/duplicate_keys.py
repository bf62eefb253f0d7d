"""Where in a JSON text a key stands for the second time (the parser does not say)."""

from __future__ import annotations

from _json import scanstring

from ocipy.config.fault import below, shown


def duplicate_key(text: str) -> str:
    """The first key that its object already has, in words with its place; "" if there is none.

    The text must be JSON but for such keys.
    """
    paths: list[str] = []  # of each open container
    keys: list[set[str] | None] = []  # of each open container, None for an array
    members: list[str | int] = []  # the latest member of each
    at = 0
    while at < len(text):
        character = text[at]
        if character in "{[":
            paths.append(below(paths[-1], members[-1]) if paths else "$")
            keys.append(set() if character == "{" else None)
            members.append("" if character == "{" else 0)
        elif character in "}]":
            paths.pop()
            keys.pop()
            members.pop()
        elif character == ",":
            latest = members[-1]
            members[-1] = latest + 1 if isinstance(latest, int) else ""
        elif character == '"':
            found, end = scanstring(text, at + 1, True)
            seen = keys[-1] if keys else None
            if seen is not None and members[-1] == "" and _is_key(text, end):
                if found in seen:
                    line = text.count("\n", 0, at) + 1
                    column = at - text.rfind("\n", 0, at)
                    return f"duplicate key {shown(found)} in {paths[-1]} at line {line} column {column}"
                seen.add(found)
                members[-1] = found
            at = end
            continue
        at += 1
    return ""


def _is_key(text: str, end: int) -> bool:
    while text[end : end + 1] in (" ", "\t", "\r", "\n"):
        end += 1
    return text[end : end + 1] == ":"
