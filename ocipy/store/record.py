"""What is kept of a container between commands, and what can be told from it (runtime.md#state)."""

from __future__ import annotations

from errno import EAGAIN, EINVAL, ESRCH
from time import gmtime, strftime

from ocipy import cgroups, host
from ocipy.errors import ConfigError, Error, StateError
from ocipy.kernel import json, os
from ocipy.kernel.proc import start_time
from ocipy.store import CONFIG, SOCKET, STATE, Entry
from ocipy.version import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.base import Cgroup
    from ocipy.cgroups.resctrl_groups import Rdt
    from ocipy.store import Store

CREATING, CREATED, RUNNING, STOPPED, PAUSED = "creating", "created", "running", "stopped", "paused"


class Record:
    """The recorded state of one container, over its :class:`Entry`."""

    def __init__(self, entry: Entry, data: dict[str, Any]) -> None:
        self.entry = entry
        self.data = data

    @classmethod
    def new(cls, entry: Entry, bundle: str, spec: dict[str, Any], cgroup: Cgroup) -> Record:
        """The record of a container that is about to be created."""
        process, linux = spec.get("process") or {}, spec.get("linux") or {}
        root = os.clean(os.join(bundle, spec["root"]["path"]))
        data = {
            "id": entry.id,
            "bundle": bundle,
            "rootfs": root,
            "annotations": spec.get("annotations") or {},
            "pid": 0,
            "start_time": 0,
            "created": strftime("%Y-%m-%dT%H:%M:%SZ", gmtime()),
            "owner": os.geteuid(),
            "terminal": bool(process.get("terminal")),
            "hooks": {k: v for k, v in (spec.get("hooks") or {}).items() if v and k in _LATER_HOOKS},
            "cgroup": cgroup.record(),
        }
        if not any(ns["type"] == "pid" and not ns.get("path") for ns in linux.get("namespaces") or ()):
            data["shared_pids"] = True
        return cls(entry, data)

    @classmethod
    def load(cls, entry: Entry, *, doomed: bool = False) -> Record:
        """The record as it is on disk.

        Args:
            doomed: all that is in its cgroup is to be killed.

        Raises:
            StateError: it is damaged.
        """
        data = entry.read()
        if "cgroup" in data and (fault := stray(data["cgroup"]["paths"], own=doomed)):
            raise entry.damaged(STATE, fault)
        return cls(entry, data)

    @classmethod
    def locked(cls, store: Store, container_id: str) -> Record:
        """A container's record, with its lock held until the entry is closed or the process ends.

        Raises:
            StateError: there is no such container, or its record is damaged.
        """
        entry = store.open(container_id)
        try:
            entry.lock()
            return cls.load(entry)
        except BaseException:
            entry.close()
            raise

    def save(self) -> None:
        """Write the record."""
        self.entry.write(self.data)

    @property
    def pid(self) -> int:
        """The recorded pid of the init process; 0 before it was recorded."""
        return int(self.data.get("pid", 0))

    def alive(self) -> bool:
        """Whether the recorded process is there: the same process, not a later one with its pid."""
        return self.pid > 0 and start_time(self.pid) == self.data["start_time"]

    def pidfd(self) -> int:
        """A pidfd of the recorded process, for the caller to close; -1 if that is gone."""
        if not self.pid:
            return -1
        try:
            pidfd: int = os.pidfd_open(self.pid, 0)
        except OSError as error:
            # EINVAL: the number lives on as that of a session, of processes that outlived the init
            if error.errno in (ESRCH, EINVAL):
                return -1
            raise
        if self.alive():  # asked after the open: from now on the pidfd can't be another process
            return pidfd
        os.close(pidfd)
        return -1

    def cgroup(self) -> Cgroup | None:
        """The container's cgroup; None if the creator died before it recorded one."""
        return cgroups.load(self.data["cgroup"]) if "cgroup" in self.data else None

    def rdt(self) -> Rdt | None:
        """The container's groups of resctrl, if it has any."""
        if "intel_rdt" not in self.data:
            return None
        from ocipy.cgroups import resctrl_groups  # rare

        return resctrl_groups.load(self.data["intel_rdt"])

    def stats(self) -> dict[str, Any]:
        """Usage now, in the shape of the ``data`` of runc's ``events --stats``.

        Raises:
            StateError: the container is stopped.
            CgroupError: a file can't be read.
        """
        cgroup = self.cgroup()
        if cgroup is None or not self.alive():
            raise not_running(self)
        found = cgroup.stats()
        if (rdt := self.rdt()) is not None:
            found["intel_rdt"] = rdt.stats()
        return found

    def config(self) -> dict[str, Any]:
        """The config that the container was created from.

        Raises:
            StateError: it is gone from the state directory, or damaged.
        """
        from ocipy.config.load import verify  # exec and checkpoint; the rest has no use for it

        try:
            config = verify(self.entry.parse(CONFIG))
        except FileNotFoundError:
            raise self.entry.damaged(CONFIG, "it is missing") from None
        except ConfigError as error:
            raise self.entry.damaged(CONFIG, str(error)) from None
        return config

    def waiting(self) -> bool:
        """Whether the process waits for `start`: it listens until then. One who connects and leaves is
        forgotten by it, so asking has no effect."""
        from ocipy._native import lib

        fd = lib.ocipy_connect(self.entry.fd, SOCKET.encode())
        if fd < 0:
            return bool(fd == -EAGAIN)  # it listens, but was stopped by a signal
        os.close(fd)
        return True

    def status(self) -> str:
        """The status now (runtime.md#state): creating, created, running, paused or stopped.

        A container that was paused before its start is paused, not created: it can't be started then.
        """
        if not self.pid:
            return CREATING if self.entry.locked() else STOPPED
        if not self.alive():
            return STOPPED
        if (cgroup := self.cgroup()) is not None and cgroup.frozen():
            return PAUSED
        return CREATED if self.waiting() else RUNNING

    def state(self, status: str) -> dict[str, Any]:
        """The state document of runtime.md#state, with runc's additions (rootfs, created, owner), in its order."""
        annotations = self.data.get("annotations")
        return {
            "ociVersion": SPEC_VERSION,
            "id": self.entry.id,
            "pid": self.pid if status != STOPPED else 0,
            "status": status,
            "bundle": self.data.get("bundle", ""),
            "rootfs": self.data.get("rootfs", ""),
            "created": self.data.get("created", ""),
            **({"annotations": {key: annotations[key] for key in sorted(annotations)}} if annotations else {}),
            "owner": "",
        }

    def hook_state(self, status: str, pid: int = 0) -> bytes:
        """The state document that hooks get on standard input."""
        return json.encode(self.spec_state(status, pid))

    def spec_state(self, status: str, pid: int = 0) -> dict[str, Any]:
        """The state document of runtime.md#state and nothing else. ``pid`` is the first process's, if it is not
        recorded yet."""
        document: dict[str, Any] = {
            "ociVersion": SPEC_VERSION,
            "id": self.entry.id,
            "status": status,
            "bundle": self.data["bundle"],
        }
        if status != STOPPED:
            document["pid"] = pid or self.pid
        if self.data.get("annotations"):
            document["annotations"] = self.data["annotations"]
        return document


def not_running(record: Record) -> StateError:
    """The error for an operation on a container whose init is gone."""
    return StateError(f"container not running: {record.entry.id!r} is {STOPPED}", code="not-running")


def stray(paths: dict[str, str], *, own: bool) -> str:
    """What is wrong with where recorded cgroups are, in words; "" if nothing is.

    One must be below the root of a hierarchy; or be gone, with the mount perhaps. ``own``: and this process must not be
    in it.
    """
    try:
        found = host.cgroups().hierarchies
    except Error:  # none is mounted here
        found = []
    mounts = tuple(f"{hierarchy.mountpoint}/" for hierarchy in found)
    for path in set(paths.values()):
        if not path.startswith(mounts) and os.exists(path) and not path.startswith(_cgroup_mounts()):
            return f"cgroup.paths: {path} is not below a mounted cgroup hierarchy"
        if own:
            for hierarchy in found:
                if f"{hierarchy.directory()}/".startswith(f"{path}/"):
                    return f"cgroup.paths: this process is in {path}"
    return ""


def _cgroup_mounts() -> tuple[str, ...]:
    """Where a cgroup hierarchy is mounted now, each with a slash at its end; also those mounted twice."""
    lines = os.lines(os.read_text("/proc/self/mountinfo"))
    return tuple(line.split(" ")[4] + "/" for line in lines if " - cgroup" in line)


_LATER_HOOKS = ("startContainer", "poststart", "poststop")
