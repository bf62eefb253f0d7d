"""Tells of flags of a bind mount's source that do not hold in the container, as the config does not name them. Imported
only when there may be one."""

from __future__ import annotations

from ocipy.host import in_userns
from ocipy.kernel import os
from ocipy.plan import flags


def notice(where: str, source: str, unnamed: int) -> str:
    """The words for one bind mount; "" if nothing is lost.

    Args:
        where: its config path.
        source: its source.
        unnamed: the attributes that it does not take over.

    In a user namespace, the kernel keeps what came from outside: nobody can tell from here what that is.
    """
    words = set() if in_userns() else set(flags.attributes(unnamed & flags.OF_BINDS).split(","))
    lost = ",".join(word for word in _options(source) if word in words)
    return lost and (
        f"{where}.options: {lost} of the mount of {source} does not hold in the container: a bind mount with an option"
        " of its own has only what its options name"
    )


def _options(source: str) -> list[str]:
    """The flags of the mount that a path is in: of itself, without those of the file system."""
    try:
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return []  # that is for the mount to say
    try:
        info = os.read_text(f"/proc/self/fdinfo/{fd}")
        number = next(line.split()[1] for line in os.lines(info) if line.startswith("mnt_id:"))
        lines = (line.split() for line in os.lines(os.read_text("/proc/self/mountinfo")))
        return next((fields[5].split(",") for fields in lines if fields[0] == number), [])
    finally:
        os.shut(fd)
