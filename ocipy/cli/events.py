"""ocipy events."""

from __future__ import annotations

from select import POLLIN, poll
from time import monotonic

from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command, Flag
from ocipy.errors import UsageError
from ocipy.kernel import json
from ocipy.store import Store
from ocipy.store.record import Record, not_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9, "": 1.0}
_LONGEST = (1 << 31) - 1  # milliseconds, for poll


def seconds(text: str) -> float:
    """A duration such as 5s, 500ms, 1m30s (Go's ParseDuration) or 2 (seconds). Raises ValueError."""
    total = 0.0
    while text:
        digits = text[: len(text) - len(text.lstrip("0123456789."))]
        text = text[len(digits) :]
        letters = text[: len(text) - len(text.lstrip("hmsuµμn"))]
        text = text[len(letters) :]
        total += float(digits) * _UNITS.get(letters, float("nan"))
    if not total > 0:
        raise ValueError
    return total


COMMAND = Command(
    "events",
    "Print usage and out-of-memory events of a container as JSON lines",
    "ID",
    (
        Flag("stats", "print the usage once and end"),
        Flag("interval", "time between two lines (default: 5s)", "DURATION", kind=seconds),
    ),
)


def run(context: Context) -> int:
    name, args = context.args.rest[0], context.args
    if args.stats and args.interval is not None:
        raise UsageError("events: --stats and --interval exclude each other")
    with Store(context.root).open(name) as entry:
        record = Record.load(entry)
        cgroup = record.cgroup()
        if cgroup is None or not record.alive():
            raise not_running(record)
        if args.stats:
            _print("stats", name, record.stats())
            return 0
        _follow(record, name, args.interval or 5.0)
    return 0


def _follow(record: Record, name: str, interval: float) -> None:
    """Print usage at every interval and each kill for lack of memory, until the container has ended."""
    cgroup = record.cgroup()
    assert cgroup is not None
    pidfd = record.pidfd()
    if pidfd < 0:
        raise not_running(record)
    with cgroup.oom_watch() as oom:
        watch = poll()
        watch.register(pidfd, POLLIN)
        watch.register(oom.fileno(), oom.events)
        due = monotonic() + interval
        while True:
            ready = dict(watch.poll(min(max(0.0, due - monotonic()) * 1000, _LONGEST)))
            # the kernel delays notifications: the end of an init that was killed comes before that of its kill
            if oom.fileno() in ready or pidfd in ready:
                for _ in range(oom.check()):
                    _print("oom", name, None)
            if pidfd in ready:
                return
            if monotonic() >= due:
                _print("stats", name, record.stats())
                due = monotonic() + interval


def _print(kind: str, name: str, data: dict[str, Any] | None) -> None:
    event: dict[str, Any] = {"type": kind, "id": name}
    if data is not None:
        event["data"] = data | {"intel_rdt": data.get("intel_rdt", {}), "network_interfaces": None}  # as runc has it
    put(json.dumps(event) + "\n")
