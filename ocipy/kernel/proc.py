"""What /proc says of a process."""

from __future__ import annotations

from ocipy.kernel import os


def start_time(pid: int) -> int:
    """When a process started, in clock ticks since boot; 0 if there is none or it is a zombie. With it, a
    recycled pid is told from the one that was recorded. A process whose first thread has ended looks like a zombie, but
    runs as long as others of its threads do."""
    try:
        fields = os.read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # the latter: it went while its file was open
        return 0
    return 0 if fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) < 2) else int(fields[19])
