"""A bundle: a directory with config.json and, usually, the root file system (bundle.md)."""

from __future__ import annotations

from ocipy.errors import ConfigError
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
        return validate_bundle(self.path)


def validate_bundle(bundle_dir: str) -> list[Fault]:
    """Every fault of a bundle: of reading its config.json, of the config, and a missing root filesystem."""
    from ocipy.config.fault import Fault, shown
    from ocipy.config.load import read
    from ocipy.config.validate import faults

    try:
        config, _ = read(bundle_dir)
    except ConfigError as error:
        found = f"an error: {str(error).removeprefix('$: ')}"
        return [Fault("$", found, "config.json, a file of UTF-8 JSON", "bundle.md#container-format")]
    listed = faults(config)
    if not any(fault.config_path in ("$", "$.root", "$.root.path") for fault in listed):
        root = os.join(bundle_dir, config["root"]["path"])
        if not _is_directory(root):
            listed.append(Fault("$.root.path", shown(root), "an existing directory", "config.md#root"))
    return listed


def _is_directory(path: str) -> bool:
    try:
        return os.stat(path).st_mode & 0o170000 == 0o040000
    except (OSError, ValueError):  # a name that is too long, say
        return False
