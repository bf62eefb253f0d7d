"""A bundle for the examples: the machine's busybox and the default config."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ocipy import Bundle
from ocipy.config.defaults import spec


@contextmanager
def bundle(*args: str, **resources: Any) -> Iterator[Bundle]:
    """A temporary bundle that runs busybox with these arguments, under ``linux.resources`` with these members."""
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("busybox is not installed (Debian: busybox-static)")
    with TemporaryDirectory(prefix="ocipy-example-") as directory:
        root = Path(directory) / "rootfs"
        for name in ("bin", "dev", "proc", "sys"):
            (root / name).mkdir(parents=True)
        shutil.copy(busybox, root / "bin" / "busybox")
        (root / "bin" / "sh").symlink_to("busybox")
        config = spec()
        config["process"] |= {"terminal": False, "args": ["busybox", *args]}
        config["linux"]["resources"] |= resources
        (Path(directory) / "config.json").write_text(json.dumps(config))
        yield Bundle(directory)
