"""Versions."""

from __future__ import annotations

#: of ocipy
VERSION = "0.1.0"
#: of the OCI runtime specification that it implements
SPEC_VERSION = "1.3.0"
#: the oldest ociVersion that is accepted (validation takes every 1.x.y)
SPEC_MINIMUM = "1.0.0"
