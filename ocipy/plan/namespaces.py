"""Namespaces: which to join, which to make, in which order (config-linux.md#namespaces)."""

from __future__ import annotations

from ocipy.errors import Unsupported
from ocipy.plan import ops
from ocipy.plan.flags import NAMESPACE_FILES, NAMESPACES
from ocipy.plan.rootfs import sysctl_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocipy.plan.builder import Builder

USER, PID, TIME, CGROUP, MOUNT = (NAMESPACES[n] for n in ("user", "pid", "time", "cgroup", "mount"))
WHERE = "$.linux.namespaces"


def collect(b: Builder) -> None:
    """Sort the configured namespaces into new and joined ones.

    Raises:
        Unsupported: there is no mount namespace among them; or no user namespace, without root.
    """
    for ns in b.linux.get("namespaces") or ():
        flag = NAMESPACES[ns["type"]]
        if ns.get("path"):
            b.joined[flag] = ns["path"]
        else:
            b.new |= flag
    if b.host.euid and not b.userns:
        raise Unsupported(
            f"uid {b.host.euid} can run a container only in a user namespace", config_path=WHERE, code="rootless",
            hint="`ocipy spec --rootless` writes a config that has one",
        )
    if not b.has("mount"):
        # Inherited, as config-linux.md#namespaces has it, it would be the host's own tree that is mounted
        # upon, and the host's root that is pivoted.
        raise Unsupported("a container without a mount namespace is not implemented", config_path=WHERE)


def open_joined(b: Builder) -> dict[int, int]:
    """Emit the opening of the namespaces to join, before any is left. Returns the slot per CLONE_NEW* flag."""
    slots = {}
    for index, ns in enumerate(b.linux.get("namespaces") or ()):
        if ns.get("path"):
            flag = NAMESPACES[ns["type"]]
            slots[flag] = b.slot()
            other = f"/proc/self/ns/{NAMESPACE_FILES[ns['type']]}" if _changes(b, ns["type"]) else ""
            b.add(ops.open_ns(f"{WHERE}[{index}].path", slots[flag], ns["path"], flag, other))
    return slots


def enter(b: Builder, slots: dict[int, int]) -> int:
    """Emit everything up to where the process is in all its namespaces but the cgroup's.

    Args:
        slots: as :func:`open_joined` returned them.

    Returns:
        The CLONE_NEW* flags that the first process can be cloned with.
    """
    if b.userns or {MOUNT, CGROUP} & b.joined.keys():
        _join_cgroup(b)  # the cgroup files can be written only as long as we are on the host's side of these
    if slots:
        # what is already in there could trace us from now on
        b.add(ops.dumpable("", 0))
        b.add(ops.setns(WHERE, [(slot, flag) for flag, slot in slots.items()]))
    new = b.new & ~CGROUP  # that one must be made after the process is in its cgroup
    if new & USER:
        b.add(ops.unshare(WHERE, USER))
        b.add(ops.sync("$.linux.uidMappings", ops.SYNC_MAPS))
    if b.userns:
        own_ids(b)
    b.forks = b.userns or PID in b.joined or bool(new & TIME)
    # A clone into a new pid namespace saves the fork, where nothing needs to be joined or mapped before.
    cloned = 0 if b.forks else new & PID
    new &= ~(USER | cloned)
    if new:
        b.add(ops.unshare(WHERE, new))
    if new & TIME:
        _time_offsets(b)
    if b.forks:
        b.add(ops.fork(WHERE))
    b.add(ops.setsid(""))
    if new & NAMESPACES["network"]:
        b.add(ops.loopback(WHERE))
    return cloned


def _changes(b: Builder, kind: str) -> bool:
    """Whether the config changes something of a joined namespace: it must not be the runtime's own then."""
    if kind == "mount":  # always: the root is pivoted there
        return True
    sysctls = [sysctl_file(key) for key in b.linux.get("sysctl") or ()]
    if kind == "network":
        return bool(b.linux.get("netDevices")) or any(file.startswith("sys/net/") for file in sysctls)
    if kind == "ipc":
        return any(file.startswith(("sys/kernel/", "sys/fs/")) for file in sysctls)
    if kind == "uts":
        return bool(b.spec.get("hostname") or b.spec.get("domainname")) or "sys/kernel/domainname" in sysctls
    return False


def own_ids(b: Builder) -> None:
    """Emit becoming someone who exists in the container's user namespace, just entered: its root, or the user of the
    process where root isn't mapped."""
    user = b.process.get("user") or {}
    ids = [0 if b.maps(kind, 0) else user.get(kind, 0) for kind in ("uid", "gid")]
    b.add(ops.root_ids("$.linux.uidMappings", may_set_groups(b), *ids))


def may_set_groups(b: Builder) -> bool:
    """Whether setgroups(2) is allowed in the container's user namespace."""
    if b.host.euid == 0 or not b.userns:
        return b.host.set_groups
    # A process without privilege may map its own gid only after it has given up setgroups(2) for good
    # (user_namespaces(7)); the launching side writes "deny" then.
    maps = b.linux.get("gidMappings") or ()
    return bool(maps) and not own_id(maps, b.host.egid)


def own_id(maps: Sequence[dict[str, int]], own: int) -> bool:
    """Whether a map has one's own id and nothing else: it may be written without privilege."""
    return len(maps) == 1 and maps[0]["size"] == 1 and maps[0]["hostID"] == own


def _time_offsets(b: Builder) -> None:
    offsets = b.linux.get("timeOffsets") or {}
    lines = [
        f"{clock} {value.get('secs', 0)} {value.get('nanosecs', 0)}\n" for clock, value in offsets.items()
    ]
    if lines:
        where = "$.linux.timeOffsets"
        if b.userns:
            # opened early: a change of uid makes us undumpable, and such a process's files are the host's root's
            slot = b.slot()
            b.early.append(ops.proc_open(where, slot, "self/timens_offsets"))
            b.add(ops.put(where, slot, "".join(lines)))
        else:
            b.add(ops.proc_write(where, "self/timens_offsets", "".join(lines)))


def cgroup(b: Builder) -> None:
    """Emit the cgroup membership, if it is not there yet, and the cgroup namespace that is rooted in it."""
    if not b.in_cgroup:
        _join_cgroup(b)
    if b.new & CGROUP:
        b.add(ops.unshare(WHERE, CGROUP))


def _join_cgroup(b: Builder) -> None:
    b.add(ops.sync("$.linux.cgroupsPath", ops.SYNC_CGROUP))
    b.in_cgroup = True


def names(b: Builder) -> None:
    """Emit host and domain name."""
    if b.spec.get("hostname"):
        b.add(ops.hostname("$.hostname", b.spec["hostname"]))
    if b.spec.get("domainname"):
        b.add(ops.domainname("$.domainname", b.spec["domainname"]))
