"""Why the kernel refused something of a cgroup, said as an error. Imported only then."""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENODEV, ENOENT, ENOTSUP, EPERM, EROFS

from ocipy import host
from ocipy.cgroups import fs
from ocipy.cgroups.location import own_directory
from ocipy.errors import CgroupError, ConfigError, Error, Unsupported
from ocipy.kernel import os

DELEGATION = "without root, the cgroup has to be delegated, as by systemd-run --user --scope -p Delegate=yes"


def privileged() -> bool:
    """Whether this is root outside of a user namespace; only that may touch device rules."""
    if os.geteuid():
        return False
    return not host.in_userns()


def no_controller(controller: str, config_path: str, known: bool) -> Error:
    """The error for a v1 resource whose controller has no directory.

    Args:
        known: the controller is mounted, but the container's directory could not be made.
    """
    if known:  # the words are runc's: engines show them
        return CgroupError(
            f"cannot set {controller} limit: container could not join or create cgroup",
            config_path=config_path, hint=_no_place(controller),
        )
    return Unsupported(
        f"the {controller} cgroup controller is not mounted", phase="cgroup", config_path=config_path,
        hint="/proc/cgroups says what the kernel has",
    )


def _no_place(controller: str) -> str:
    """Why a container has no cgroup of its own: where it would have to be made, and can't."""
    facts = host.cgroups()
    for hierarchy in facts.hierarchies:
        if controller in hierarchy.controllers or facts.mode == "v2":
            try:
                return f"uid {os.geteuid()} may not write to {own_directory(hierarchy)}; {DELEGATION}"
            except CgroupError as error:
                return str(error)
    return DELEGATION


def no_cgroup(what: str) -> Error:
    """The error for what takes a cgroup of the container's own, if it has none."""
    return Unsupported(
        f"the container has no cgroup of its own to {what}", code="no-cgroup", phase="cgroup", hint=DELEGATION
    )


def write_refused(directory: str, name: str, value: str, refusal: int, config_path: str) -> Error:
    """The error for a value that could not be written."""
    if refusal in (ENOENT, EACCES, EPERM) and not os.exists(f"{directory}/{name}"):
        return _missing(directory, name, config_path)
    hint = ""
    if refusal == EINVAL:
        hint = _why_invalid(directory, name)
    elif refusal == ENOTSUP and ".weight" in name:
        hint = "the device's I/O scheduler has no weights (/sys/block/*/queue/scheduler)"
    elif refusal == ENODEV:
        hint = "there is no such block device"
    elif refusal in (EPERM, EACCES):
        hint = DELEGATION if os.geteuid() else ""
    return CgroupError(
        f"can't write {value!r} to {directory}/{name}", config_path=config_path, syscall="write",
        errno=refusal, hint=hint,
    )


def _missing(directory: str, name: str, config_path: str) -> Error:
    if not os.exists(directory):
        return CgroupError(f"cgroup {directory} is gone", config_path=config_path, errno=ENOENT)
    try:
        enabled = os.read_text(f"{directory}/cgroup.controllers").split()
    except OSError:  # v1
        return Unsupported(f"this kernel has no {name}", phase="cgroup", config_path=config_path)
    controller, dot, _ = name.partition(".")
    if not dot:
        return ConfigError(
            f"{name!r} must have the form CONTROLLER.PARAMETER", phase="cgroup", config_path=config_path
        )
    if controller in enabled or controller == "cgroup":
        return Unsupported(f"this kernel has no {name}", phase="cgroup", config_path=config_path)
    return Unsupported(
        f"{name} can't be set: controller {controller!r} not available in {directory}",
        phase="cgroup", config_path=config_path, hint=_why_disabled(directory, controller),
    )


def _why_disabled(directory: str, controller: str) -> str:
    """Which ancestor does not hand a v2 controller down, and what keeps it from doing so."""
    kind = _text(directory, "cgroup.type")
    if "threaded" in kind and controller in ("memory", "io", "hugetlb", "rdma", "misc"):
        return f"{directory} is {kind}: only threaded controllers work there, and {controller} is not one"
    while os.exists(f"{os.dirname(directory)}/cgroup.controllers"):
        directory = os.dirname(directory)
        if controller in _text(directory, "cgroup.controllers").split():
            if _text(directory, "cgroup.procs") and os.exists(f"{directory}/cgroup.type"):
                return f"{directory} has processes of its own, so it can't enable controllers for those below"
            return f"{directory}/cgroup.subtree_control does not enable it"
    return f"{directory}/cgroup.controllers does not list it"


def _why_invalid(directory: str, name: str) -> str:
    parent = os.dirname(directory)
    if name.startswith("cpuset."):
        return f"the parent cgroup has {_text(parent, name) or _text(parent, name + '.effective')}"
    if name.startswith("cpu.rt_"):
        return f"the parent cgroup has {_text(parent, 'cpu.rt_runtime_us')} microseconds to share out"
    if name in ("cpu.shares", "cpu.weight") and _text(directory, "cpu.idle") == "1":
        return "cpu.idle is 1, and an idle cgroup has no shares: set it to 0 with them"
    if name.startswith(("cpu.cfs_", "cpu.max")):
        return "a quota must be at least 1000 microseconds, and no larger than the parent cgroup's"
    return ""


def _text(directory: str, name: str) -> str:
    try:
        return os.read_text(f"{directory}/{name}").strip()
    except OSError:
        return ""


def memory_busy(directory: str, value: str, usage: str, peak: str, config_path: str) -> Error:
    """The error for a v1 memory limit below what is used and can't be reclaimed."""
    return CgroupError(
        f"unable to set memory limit to {value} "
        f"(current usage: {_text(directory, usage)}, peak usage: {_text(directory, peak)})",
        config_path=config_path, errno=EBUSY,
    )


def join_refused(directory: str, pid: int, refusal: int) -> Error:
    """The error for a process that could not be moved."""
    hint = ""
    kind = _text(directory, "cgroup.type")
    if refusal == ENOTSUP:
        hint = f"{directory} is {kind!r}: a process can only enter a domain, or a threaded cgroup of its own"
    elif refusal == EBUSY:
        hint = "the cgroup has controllers enabled for cgroups below it, so it can't hold processes itself"
    elif refusal in (EACCES, EPERM, EROFS):
        hint = DELEGATION
    elif os.exists(f"{directory}/cpuset.cpus") and not kind:
        for name in ("cpuset.cpus", "cpuset.mems"):
            if not _text(directory, name):
                hint = f"{name} is empty"
    return CgroupError(
        f"can't add process {pid} to cgroup {directory}", syscall="write", errno=refusal, hint=hint
    )


def make_refused(error: OSError, directory: str) -> Error:
    """The error for a directory that could not be made."""
    hint = ""
    number = error.errno or 0
    if number in (EACCES, EPERM, EROFS):
        refuser = directory
        while not os.exists(refuser) and refuser != "/":
            refuser = os.dirname(refuser)
        hint = f"{refuser} refuses it"
        if os.geteuid():
            hint += f"; {DELEGATION}"
    return CgroupError(
        f"can't create cgroup {directory}", config_path="$.linux.cgroupsPath", syscall="mkdir",
        errno=number, hint=hint,
    )


def not_frozen(directory: str, seconds: float) -> Error:
    """The error for a cgroup that does not freeze: names the processes that hold out."""
    stuck = []
    for pid in fs.processes(directory):
        try:
            stat = os.read_text(f"/proc/{pid}/stat")
        except OSError:
            continue
        if stat.rpartition(")")[2].split()[0] == "D":
            stuck.append(pid)
    return CgroupError(
        f"unable to freeze {directory} within {seconds:g} s",
        hint=f"in uninterruptible sleep: {stuck}" if stuck else "",
    )
