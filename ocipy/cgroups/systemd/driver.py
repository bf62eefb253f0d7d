"""The drivers that let systemd make the cgroup (``--systemd-cgroup``): the container is a transient scope.

A scope can't be without a process, so the order of a create is another than cgroupfs has: the process is launched
first and waits, and :meth:`SystemdCgroup.adopt` has systemd make the scope around it. From then on this is the driver
for cgroupfs, but that systemd is told of limits, and that it is systemd that ends the unit.
"""

from __future__ import annotations

from errno import EACCES, EPERM

from ocipy.cgroups import fs
from ocipy.cgroups.base import WHERE, Cgroup
from ocipy.cgroups.v1.driver import LegacyCgroup
from ocipy.cgroups.v2.driver import UnifiedCgroup
from ocipy.errors import CgroupError, Unsupported
from ocipy.kernel import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.systemd.bus import Bus
    from ocipy.cgroups.systemd.unit import Property
    from ocipy.host import Host

RUNNING = "/run/systemd/system"  # there while systemd is the init: sd_booted(3)
SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"


class SystemdCgroup(Cgroup):
    """What the drivers for v1 and v2 have in common, before the cgroupfs driver in the order of bases.

    Attributes:
        unit: what is recorded besides the paths: ``name``, ``slice``, ``id`` of the container, ``bus`` (its address),
            ``user`` (whether that is a user's), ``version`` of systemd.
    """

    driver = "systemd"
    needs_process = True
    legacy = False

    def __init__(self, paths: dict[str, str], unit: dict[str, Any]) -> None:
        super().__init__(paths)
        self.unit = unit
        self._annotated: list[Property] | None = None  # None: the unit is started already

    def record(self) -> dict[str, Any]:
        return super().record() | {"unit": self.unit, "legacy": self.legacy}

    def _bus(self) -> Bus:
        from ocipy.cgroups.systemd.bus import Bus

        return Bus(self.unit["bus"])

    def adopt(self, pid: int, resources: dict[str, Any]) -> None:
        from ocipy.cgroups.systemd import unit

        name, version = self.unit["name"], self.unit["version"]
        properties = unit.begun(name, self.unit["slice"], pid, self.unit["id"], self.legacy)
        properties += self._annotated or []
        properties += unit.oom_policy(resources, version, WHERE)
        absent = {directory for directory in self.paths.values() if not os.exists(directory)}
        with self._bus() as bus:
            bus.start(name, properties)
            self.made |= absent
            self._annotated = None
            scope = name.endswith(".scope")
            if scope and not self._holds(pid):
                raise CgroupError(
                    f"systemd did not put process {pid} into {next(iter(self.paths.values()))}",
                    hint="is this systemd the one that manages the cgroups here?",
                )  # fmt: skip
            self.create()  # enables what systemd does not manage; on v1, makes the directories for it
            if self.legacy or not scope:
                self.add(pid)

    def _holds(self, pid: int) -> bool:
        """Whether a process is in a directory of ours."""
        return any(pid in fs.processes(directory) for directory in self.paths.values())

    def _devices(self, resources: dict[str, Any], where: str) -> list[Property]:
        if self.unit["user"]:
            return []  # a user's manager can't limit devices, and the user can't make any
        from ocipy.cgroups.systemd import unit

        return unit.devices(resources.get("devices") or [], self.legacy, f"{where}.devices")

    def apply(self, resources: dict[str, Any], *, update: bool = False, where: str = WHERE) -> None:
        from ocipy.cgroups.systemd import unit

        with self._bus() as bus:  # first: nothing changes if there is none
            resources = unit.rounded(resources, self._read)
            super().apply(resources, update=update, where=where)
            properties = unit.limits(resources, self._read, self.unit["version"], self.legacy, where)
            devices = [] if update and "devices" not in resources else self._devices(resources, where)
            if not properties and not devices:
                return
            # systemd denies all devices for a moment when it changes their rules on v1
            freeze = update and bool(devices) and self.legacy and "freezer" in self.paths and not self.frozen()
            if freeze:
                self.freeze(True)
            try:
                bus.change(self.unit["name"], properties + devices)
                if devices:  # systemd has put its own in place of ours, or beside them
                    super().apply({"devices": resources.get("devices") or []}, update=True, where=where)
            finally:
                if freeze:
                    self.freeze(False)

    def _read(self, name: str) -> str:
        """A file of the cgroup; "" if there is none."""
        controller = name.partition(".")[0]
        directory = self.paths.get("") if not self.legacy else self.paths.get(controller)
        try:
            return os.read_text(f"{directory}/{name}") if directory else ""
        except OSError:
            return ""

    def joining(self) -> tuple[int, list[str]]:
        return super().joining() if self._annotated is None else (-1, [])

    def add(self, pid: int, init: int = 0) -> None:
        try:
            super().add(pid, init)
        except CgroupError as error:
            if error.errno not in (EACCES, EPERM):
                raise
            with self._bus() as bus:  # to move a process of another session takes systemd
                bus.attach(self.unit["name"], pid)

    def delete(self) -> None:
        if os.exists(RUNNING):  # else there are no units any more
            with self._bus() as bus:
                bus.stop(self.unit["name"])
        super().delete()


class UnifiedSystemdCgroup(SystemdCgroup, UnifiedCgroup):
    """A unit in the cgroup2 hierarchy."""


class LegacySystemdCgroup(SystemdCgroup, LegacyCgroup):
    """A unit in the v1 hierarchies: systemd makes its directory in those that it manages, we in the others."""

    legacy = True


def load(record: dict[str, Any]) -> SystemdCgroup:
    """The driver for what :meth:`SystemdCgroup.record` returned."""
    kind = LegacySystemdCgroup if record["legacy"] else UnifiedSystemdCgroup
    return kind(record["paths"], record["unit"])


def place(
    cgroups_path: str | None, container_id: str, annotations: dict[str, str], host: Host
) -> SystemdCgroup:
    """The driver for a new container: asks systemd where its cgroups are, makes nothing.

    Args:
        cgroups_path: ``linux.cgroupsPath``: ``slice:prefix:name``.
        container_id: a checked id.
        annotations: the config's: some are properties of the unit.
        host: facts of the host; for another caller than its root, it is the user's systemd.

    Raises:
        ConfigError: the path or an annotation is malformed.
        Unsupported: there is no systemd here, no bus, or no jeepney.
        CgroupError: the bus or systemd does not answer.
    """
    from ocipy.cgroups.systemd import unit

    user = host.rootless
    group, name = unit.place(cgroups_path, container_id, user)
    below = unit.directory(group, name)
    properties = unit.annotated(annotations)
    facts = host.cgroups
    if user and facts.mode != "v2":
        raise Unsupported("--systemd-cgroup: a user's systemd can manage cgroup v2 only", phase="cgroup")
    where = _address(user)
    from ocipy.cgroups.systemd.bus import Bus

    with Bus(where) as bus:
        below = os.clean(f"/{bus.property('ControlGroup')}{below}")
        version = unit.version(bus.property("Version"))
    recorded = {
        "name": name, "slice": group, "id": container_id, "bus": where, "user": user, "version": version
    }  # fmt: skip
    made: SystemdCgroup
    if facts.mode == "v2":
        made = UnifiedSystemdCgroup({"": facts.hierarchies[0].mountpoint + below}, recorded)
    else:
        made = LegacySystemdCgroup(LegacyCgroup.place(below, facts).paths, recorded)
    made._annotated = properties
    return made


def _address(user: bool) -> str:
    """The address of the system's or the user's bus.

    Raises:
        Unsupported: systemd is not running, or the user has no bus.
    """
    if not os.exists(RUNNING):
        raise Unsupported(
            f"--systemd-cgroup: systemd is not running here ({RUNNING} does not exist)", code="systemd-missing",
            phase="cgroup", hint="without the flag, ocipy makes the cgroups itself",
        )  # fmt: skip
    if not user:
        return os.getenv("DBUS_SYSTEM_BUS_ADDRESS") or SYSTEM_BUS
    runtime = os.getenv("XDG_RUNTIME_DIR")
    found = os.getenv("DBUS_SESSION_BUS_ADDRESS")
    if not found and runtime and os.exists(f"{runtime}/bus"):
        found = f"unix:path={runtime}/bus"
    if not found:
        raise Unsupported(
            "--systemd-cgroup: this user has no bus: DBUS_SESSION_BUS_ADDRESS is not set, and there is no bus in "
            "XDG_RUNTIME_DIR", code="systemd-missing", phase="cgroup", hint="is dbus-user-session installed?",
        )  # fmt: skip
    return found
