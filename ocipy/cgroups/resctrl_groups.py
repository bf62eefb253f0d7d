"""linux.intelRdt: cache and memory bandwidth, by a group in the resctrl file system (config-linux.md#intelrdt).

A *class of service* is a directory of resctrl with ``schemata``, what its tasks may use, and ``tasks``; below its
``mon_groups`` are groups that only measure. A child begins in its parent's groups, so moving the first process
before it forks is enough. Imported only for containers that have it.
"""

from __future__ import annotations

from errno import EIO, ENOENT

from ocipy.cgroups.fs import put
from ocipy.errors import ConfigError, Error, Unsupported
from ocipy.kernel import os
from ocipy.kernel.proc import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

WHERE = "$.linux.intelRdt"
#: what is to become of the class's directory: the container's own goes with it; one that a closID asks for and that
#: this create makes goes only if the create fails; all else stays
OWN, FRESH, SHARED = "own", "fresh", "shared"
DECIMAL = ("MB", "SMBA")  # the other resources have bit masks
#: resource, our prefix, what is told of it
INFO = (
    ("L3", "l3_cache", ("cbm_mask", "min_cbm_bits", "num_closids")),
    ("MB", "mem_bw", ("bandwidth_gran", "delay_linear", "min_bandwidth", "num_closids")),
)
COUNTERS = (("mbm_stats", ("mbm_total_bytes", "mbm_local_bytes")), ("cmt_stats", ("llc_occupancy",)))


def find(mountinfo: str) -> str:
    """Where resctrl is mounted, by the text of ``/proc/self/mountinfo``; "" if it is not."""
    for line in os.lines(mountinfo):
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        if right.startswith("resctrl ") and fields[3] == "/":
            return os.mount_name(fields[4])
    return ""


def place(rdt: dict[str, Any], container_id: str, root: str = "") -> Rdt:
    """Decide a container's groups; touches nothing.

    Args:
        rdt: ``linux.intelRdt`` (validated).
        container_id: the name of the class without a ``closID``, and of the monitoring group.
        root: where resctrl is; found in mountinfo if not given.

    Raises:
        Unsupported: there is no resctrl, or it lacks what is asked for.
        ConfigError: a class that has to exist does not; one that exists has another schema; a monitoring group of
            this name is there already.
    """
    root = root or find(os.read_text("/proc/self/mountinfo"))
    if not root:
        here = "\tresctrl\n" in os.read_text("/proc/filesystems")
        raise Unsupported(
            "no resctrl file system is mounted", config_path=WHERE,
            hint="mount -t resctrl resctrl /sys/fs/resctrl" if here else "this kernel or CPU has none",
        )  # fmt: skip
    clos = rdt.get("closID") or ""
    group = root if clos == "/" else f"{root}/{clos or container_id}"
    found = Rdt(root, group, f"{group}/mon_groups/{container_id}" if rdt.get("enableMonitoring") else "")
    found.lines = lines(rdt, root)
    if not os.exists(group):
        if clos and not found.lines:
            raise ConfigError(
                f"there is no class {clos} in {root}, and no schema to make it with", config_path=f"{WHERE}.closID"
            )
        found.fate = FRESH if clos else OWN
    else:
        if not os.exists(f"{group}/tasks"):
            raise ConfigError(f"{group} is not a class of service", config_path=f"{WHERE}.closID" if clos else WHERE)
        if clos:
            found.compare()
    if found.monitor:
        where = f"{WHERE}.enableMonitoring"
        if not os.exists(f"{root}/info/L3_MON"):
            raise Unsupported("monitoring is not available here", config_path=where, hint=f"no {root}/info/L3_MON")
        if os.exists(found.monitor):
            raise _shared(found.monitor)
    return found


def load(record: dict[str, str]) -> Rdt:
    """The groups that :meth:`Rdt.record` returned, in a later process."""
    return Rdt(record["root"], record["group"], record["monitor"], record["fate"])


def lines(rdt: dict[str, Any], root: str) -> list[tuple[str, str]]:
    """The lines to write into ``schemata``, each with its config path, in the order that the spec has them.

    Raises:
        ConfigError: a line that is none.
        Unsupported: this machine has no such resource.
    """
    found = [(f"{WHERE}.{key}", rdt[key]) for key in ("l3CacheSchema", "memBwSchema") if rdt.get(key)]
    found += [(f"{WHERE}.schemata[{index}]", line) for index, line in enumerate(rdt.get("schemata") or ())]
    for path, line in found:
        name, colon, _ = line.partition(":")
        name = name.strip()
        if not colon or not name or "/" in name or "\n" in line:
            raise ConfigError(f"{line!r} is not of the form RESOURCE:ID=VALUE;ID=VALUE", config_path=path)
        if not os.exists(f"{root}/info/{name}"):
            raise Unsupported(f"resctrl has no resource {name} here", config_path=path, hint=f"no {root}/info/{name}")
    return found


def _shared(monitor: str) -> ConfigError:
    return ConfigError(
        f"the group {monitor} exists, and would not be the container's own", config_path=f"{WHERE}.enableMonitoring"
    )


class Rdt:
    """One container's groups in resctrl.

    Attributes:
        root: where resctrl is mounted.
        group: the directory of its class of service.
        monitor: the directory of its monitoring group; "" if it has none.
        fate: OWN, FRESH or SHARED, above.
        lines: config path and text of what is to be written to ``schemata``.
    """

    def __init__(self, root: str, group: str, monitor: str, fate: str = SHARED) -> None:
        self.root = root
        self.group = group
        self.monitor = monitor
        self.fate = fate
        self.lines: list[tuple[str, str]] = []

    def record(self) -> dict[str, str]:
        """What the state file keeps: to be saved before :meth:`make`."""
        return {"root": self.root, "group": self.group, "monitor": self.monitor, "fate": self.fate}

    def make(self) -> None:
        """Make the groups and write the schemata. Changes :attr:`fate` if another was faster to make the class.

        Raises:
            Error: the kernel refuses; `remove` what there is.
        """
        if self.fate != SHARED and not self._mkdir(self.group, WHERE):
            if self.fate == FRESH:
                self.compare()
            self.fate = SHARED
        self.write()
        if self.monitor and not self._mkdir(self.monitor, f"{WHERE}.enableMonitoring"):
            other, self.monitor = self.monitor, ""  # not ours to remove
            raise _shared(other)

    def _mkdir(self, directory: str, path: str) -> bool:
        """Make a group. Returns whether it is new. Raises Error."""
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._refused(f"can't make {directory}", "mkdir", error.errno, path) from None
        return True

    def compare(self) -> None:
        """Refuse a class that exists and whose schema is another. ``schemata`` are written to it all the same: the
        spec has only the other two compared.

        Raises:
            ConfigError: l3CacheSchema or memBwSchema does not match.
        """
        present = dict(_resources(self.group))
        for path, line in self.lines:
            if "schemata[" in path:
                continue
            name = line.partition(":")[0].strip()
            if not self._matches(name, line, present.get(name, "")):
                raise ConfigError(
                    f"the class {self.group} exists, with {present.get(name, 'no ' + name)}", config_path=path
                )

    def _matches(self, name: str, line: str, present: str) -> bool:
        """Whether all domains of a schema have these values; the kernel rounds bandwidths up."""
        try:
            wanted, now = _values(name, line), _values(name, present)
            step = int(os.read_text(f"{self.root}/info/{name}/bandwidth_gran")) if name in DECIMAL else 1
        except (ValueError, FileNotFoundError):
            return False
        return all(now.get(domain) in (value, -(-value // step) * step) for domain, value in wanted.items())

    def write(self) -> None:
        """Write :attr:`lines` to ``schemata``; where one is refused, those before it are taken back.

        One write(2) each: two lines for one resource are refused in a single write, and the later is to win.

        Raises:
            ConfigError: the kernel refuses a line.
        """
        before = "".join(f"{line}\n" for _, line in _resources(self.group)) if self.lines else ""
        for path, line in self.lines:
            refusal = put(self.group, "schemata", f"{line}\n")
            if refusal:
                error = self._refused(
                    f"can't write {line!r} to {self.group}/schemata", "write", refusal, path, ConfigError
                )
                put(self.group, "schemata", before)
                raise error

    def add(self, pid: int) -> None:
        """Move a thread into the groups. Raises Error."""
        for directory in (self.group, self.monitor):  # in this order: a class takes it out of others' groups
            if directory and (refusal := put(directory, "tasks", str(pid))):
                raise self._refused(f"can't write {pid} to {directory}/tasks", "write", refusal, WHERE)

    def add_all(self, pids: Callable[[], list[int]]) -> None:
        """Move all threads of running processes, in rounds until none is new. Raises Error."""
        done: set[str] = set()
        while new := set(_threads(pids())) - done:
            for thread in new:
                try:
                    self.add(int(thread.rpartition("/")[2]))
                except Error:
                    if os.exists(thread):  # else it has ended
                        raise
            done |= new

    def remove(self, *, created: bool) -> None:
        """Remove what is the container's own; fine if it is gone.

        Args:
            created: the create was completed. If it was not, a class that it made for a closID goes as well, unless
                someone else's task is in it.

        Raises:
            Error: the kernel refuses.
        """
        doomed = [self.monitor] if self.monitor else []
        tasks = _text(f"{self.group}/tasks").split()  # a zombie is among them until it is reaped
        if self.fate == OWN or (self.fate == FRESH and not created and not any(start_time(int(t)) for t in tasks)):
            doomed.append(self.group)
        for directory in doomed:
            try:
                os.rmdir(directory)
            except OSError as error:
                if error.errno != ENOENT:
                    raise self._refused(f"can't remove {directory}", "rmdir", error.errno, "") from None

    def exists(self) -> bool:
        """Whether the class is (still) there."""
        return os.exists(self.group)

    def _refused(
        self, message: str, syscall: str, number: int | None, path: str, kind: type[Error] = Error
    ) -> Error:
        """The error for what the kernel refused, with what it says itself of the last command."""
        status = _text(f"{self.root}/info/last_cmd_status")
        return kind(
            message, code="resctrl", phase="resctrl", config_path=path, syscall=syscall, errno=number or EIO,
            hint=status if status != "ok" else "",
        )  # fmt: skip

    def explain(self) -> list[tuple[str, str]]:
        """What :meth:`make` will do: words and config path."""
        found = [] if self.fate == SHARED else [(f"make {self.group}", WHERE)]
        found += [(f"write {line!r} to {self.group}/schemata", path) for path, line in self.lines]
        if self.monitor:
            found.append((f"make {self.monitor}", f"{WHERE}.enableMonitoring"))
        return [*found, (f"join {self.monitor or self.group}", WHERE)]

    def stats(self) -> dict[str, Any]:
        """``intel_rdt`` of runc's ``events --stats``: what the machine has, the class's schemata and, where the
        hardware counts, bytes per cache or memory domain (of the monitoring group, if there is one)."""
        own, default = dict(_resources(self.group)), dict(_resources(self.root))
        found: dict[str, Any] = {}
        for resource, prefix, names in INFO:
            if os.exists(directory := f"{self.root}/info/{resource}"):
                values = {name: _text(f"{directory}/{name}") for name in names}
                found[f"{prefix}_info"] = {k: v if k == "cbm_mask" else int(v) for k, v in values.items() if v}
                found[f"{prefix}_schema_root"] = default.get(resource, "")
                found[f"{prefix}_schema"] = own.get(resource, "")
        found["schemata"] = list(own.values())
        features = _text(f"{self.root}/info/L3_MON/mon_features").split()
        data = f"{self.monitor or self.group}/mon_data"
        domains = sorted(os.listdir(data)) if features and os.exists(data) else []
        for key, counters in COUNTERS:
            if known := [name for name in counters if name in features]:
                found[key] = [_counts(f"{data}/{domain}", known) for domain in domains]
        return found


def _counts(directory: str, names: list[str]) -> dict[str, int]:
    texts = {name: _text(f"{directory}/{name}") for name in names}
    return {name: int(text) for name, text in texts.items() if text.isdigit()}  # else "Unavailable", "Error"


def _resources(group: str) -> list[tuple[str, str]]:
    """The lines of a class's ``schemata``, each with the name of its resource."""
    lines = [line.strip() for line in os.lines(_text(f"{group}/schemata"))]
    return [(line.partition(":")[0], line) for line in lines]


def _values(name: str, line: str) -> dict[int, int]:
    """``L3:0=ff;1=c0`` as numbers. Raises ValueError."""
    pairs = (pair.partition("=") for pair in line.partition(":")[2].split(";"))
    return {int(domain): int(value, 10 if name in DECIMAL else 16) for domain, _, value in pairs}


def _threads(pids: list[int]) -> list[str]:
    """The directories of all threads of processes that have not ended yet."""
    found = []
    for pid in pids:
        try:
            found += [f"/proc/{pid}/task/{thread}" for thread in os.listdir(f"/proc/{pid}/task")]
        except FileNotFoundError:
            continue
    return found


def _text(path: str) -> str:
    try:
        return os.read_text(path).strip()
    except FileNotFoundError:
        return ""
