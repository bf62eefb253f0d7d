"""What the launcher needs to run start, state, kill and delete without an interpreter: the other half of
``native/launcher/fast_path.c``.

Written beside ``state.json``, whose inode, size and time it carries: one that was written for another is ignored. Its
fields are NUL-terminated: the stamp, pid, start time, the file that says "1" if the cgroup is frozen, up to two that
say whether it is held, "1" if `start` may be done in this way, "1" if `kill` may send SIGKILL in this way, the text of
`state` up to the status, from there to the pid, and the rest, "1" if `delete` may be done in this way, and the cgroup's
directories.
"""

from __future__ import annotations

from ocipy.kernel import json, os
from ocipy.store import STATE
from ocipy.store.record import CREATED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.cgroups.base import Cgroup

BRIEF = "brief"
_VERSION = 2
_MOST = 60_000  # bytes: the launcher's buffer is small


def write(record: Record, cgroup: Cgroup) -> None:
    """Write it for a record that was just saved; nothing is written where it would be too long."""
    data = record.data
    hooks = data["hooks"]
    plain = not data.get("seccomp_agent") and "startContainer" not in hooks and "poststart" not in hooks
    removable = data["cgroup"]["driver"] != "systemd" and "intel_rdt" not in data and "poststop" not in hooks
    text = json.dumps(record.state(CREATED), 2) + "\n"
    # a string has no line break in it, and what is nested is indented further: so there is one such place
    head, _, tail = text.partition(f'\n  "pid": {record.pid},\n  "status": "{CREATED}",\n')
    state = os.stat(STATE, dir_fd=record.entry.fd)
    seconds, fraction = divmod(state.st_mtime_ns, 1_000_000_000)
    fields = [
        f"{_VERSION} {state.st_ino} {state.st_size} {seconds}.{fraction:09}", str(record.pid), str(data["start_time"]),
        cgroup.frozen_file(), *[*cgroup.held_files(), "", ""][:2], "1" if plain else "",
        "" if data.get("shared_pids") else "1",
        f'{head}\n  "pid": ', ',\n  "status": "', f'",\n{tail}',
        "1" if removable else "", *dict.fromkeys(cgroup.paths.values()),
    ]  # fmt: skip
    raw = "".join(f"{field}\0" for field in fields).encode(errors="surrogateescape")
    if len(raw) < _MOST:
        record.entry.keep(BRIEF, raw)
