"""ocipy: an OCI container runtime as a Python library.

    from ocipy import Bundle, Container

    with Container.run("demo", Bundle("/path/to/bundle")) as container:
        status = container.wait()

Names are loaded when they are first used: the commands an engine calls import their own parts only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.api import Container as Container
    from ocipy.config.bundle import Bundle as Bundle
    from ocipy.errors import Error as Error
    from ocipy.version import VERSION as __version__

__all__ = ["Bundle", "Container", "Error", "__version__"]

_PLACES = {
    "Bundle": ("ocipy.config.bundle", "Bundle"),
    "Container": ("ocipy.api", "Container"),
    "Error": ("ocipy.errors", "Error"),
    "__version__": ("ocipy.version", "VERSION"),
}


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'ocipy' has no attribute {name!r}")
    return getattr(__import__(place[0], fromlist=[place[1]]), place[1])
