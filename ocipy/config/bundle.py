"""A bundle: a directory with config.json and, usually, the root file system (bundle.md)."""

from __future__ import annotations

from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.fault import Fault


class Bundle:
    """A bundle directory.

    Args:
        path: the directory; relative to the working directory now, not later.
    """

    def __init__(self, path: str = ".") -> None:
        self.path = os.absolute(path)

    @property
    def spec(self) -> dict[str, Any]:
        """The content of config.json, valid.

        Raises:
            ConfigError: it can't be read, or is not valid (the first fault).
        """
        from ocipy.config.load import load

        return load(self.path)

    def validate(self) -> list[Fault]:
        """All faults of config.json; empty if `create` would take it."""
        from ocipy.config.validate import validate_bundle

        return validate_bundle(self.path)
