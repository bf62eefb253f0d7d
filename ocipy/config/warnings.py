"""What is accepted but worth a warning (runtime.md#warnings), as ``ocipy validate`` shows it."""

from __future__ import annotations

from ocipy.config._table import CONFIG
from ocipy.config.fault import Fault
from ocipy.config.names import CAPABILITIES, CAPABILITY_SETS
from ocipy.config.tolerated import null_rows, without_nulls
from ocipy.config.tolerated import rows as unusual_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.config.fault import Row


def notices(config: dict[str, Any]) -> list[Fault]:
    """What a config without faults, as it was read, still has against it: deprecated, ignored or unusual values."""
    out: list[Row] = null_rows(config, CONFIG)
    config = without_nulls(config, CONFIG)
    for name, capabilities in config.get("process", {}).get("capabilities", {}).items():
        if name not in CAPABILITY_SETS:
            continue
        for index, capability in enumerate(capabilities):
            if capability not in CAPABILITIES:
                path = f"$.process.capabilities.{name}[{index}]"
                out.append(
                    (path, capability, "a capability of capabilities(7); this one is ignored",
                     "config.md#linux-process")
                )  # fmt: skip
    for index, mount in enumerate(config.get("mounts", ())):
        if mount["destination"][:1] != "/":
            out.append(
                (f"$.mounts[{index}].destination", mount["destination"],
                 "an absolute path; relative to / is deprecated", "config.md#mounts")
            )  # fmt: skip
    out += unusual_rows(config)
    return [Fault.of(row) for row in out]
