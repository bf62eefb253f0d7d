"""What an operation's errno most often means: advice for the error of a failed launch. Imported only then."""

from __future__ import annotations

from errno import EACCES, EDQUOT, EINVAL, ENODEV, ENOENT, ENOSPC, ENOSYS, EPERM

from ocipy.plan.flags import NAMESPACES
from ocipy.plan.ops import Op

_USERNS_OFF = (
    "user namespaces may be switched off for users: sysctl kernel.unprivileged_userns_clone, "
    "kernel.apparmor_restrict_unprivileged_userns"
)
_COVERED = "in a user namespace it takes {} of the container's own, and a host's {} of which nothing is covered"
_BELOW = "in a user namespace what is mounted below a source goes with it: the option rbind"
_LOCKED = "in a user namespace an attribute that the source came with can't be taken off"
_OF_NAMESPACES = {
    "proc": _COVERED.format("a pid namespace", "/proc"),
    "sysfs": _COVERED.format("a network namespace", "/sys"),
    "mqueue": "in a user namespace it takes an ipc namespace of the container's own",
}

_DEADLINE = 6  # SCHED_DEADLINE of linux/sched.h

_HINTS = {
    ("rlimit", EPERM): "raising a hard limit takes CAP_SYS_RESOURCE",
    ("scheduler", EPERM): "it takes CAP_SYS_NICE; real-time policies also real-time runtime in a cgroup of v1",
    ("scheduler", EINVAL): "a policy or flag that this kernel does not have?",
    ("mempolicy", EINVAL): "a mode or flag that this kernel does not have, or no node of the cgroup's cpuset?",
    ("affinity", EINVAL): "no CPU of the cgroup's cpuset?",
    ("user", EINVAL): "an id that is not mapped in the container's user namespace?",
    ("is_device", ENODEV): "in a user namespace no node can be made: the host's of the same path is bound",
    ("keyring", EDQUOT): "the user's keyrings are used up, /proc/key-users; --no-new-keyring makes none",
    ("open_tree", EINVAL): _BELOW,
    ("open_now", EINVAL): _BELOW,
    ("attach", EACCES): "the container's root, as the id maps have it, may not enter or change the rootfs there",
    ("idmap", EPERM): "its ids are mapped already, or its file system belongs to another user namespace",
    ("idmap", EINVAL): "this kernel can't map the ids of its file system, or of one mounted below it",
    ("idmap", ENOSYS): "id-mapped mounts take Linux 5.12",
    ("mount_attr", EPERM): _LOCKED,
    ("bind_attr", EPERM): _LOCKED,
}

_BY_PLACE = {
    ("$.process.oomScoreAdj", EACCES): "lowering oom_score_adj takes CAP_SYS_RESOURCE",
    ("$.process.apparmorProfile", ENOENT): "no profile of that name is loaded",
    ("$.process.selinuxLabel", EINVAL): "the loaded policy does not have this context",
    ("$.linux.mountLabel", EINVAL): "the loaded policy does not have this context",
}


def hint(op: Op, errno: int) -> str:
    """Advice on an operation that failed; "" if there is none."""
    if op.name == "unshare" and int(op.values[0]) & NAMESPACES["user"]:  # type: ignore[arg-type]
        if errno == ENOSPC:
            return "the limit is /proc/sys/user/max_user_namespaces"
        return _USERNS_OFF if errno in (EPERM, EACCES) else ""
    if op.name == "scheduler" and errno == EPERM and op.values[0] == _DEADLINE:
        # the words of runc's, which programs look for, are those after the colon
        return (
            "SCHED_DEADLINE takes CAP_SYS_NICE, and all CPUs, so none in $.linux.resources.cpu.cpus: "
            "process scheduler can't be used together with AllowedCPUs"
        )
    if op.name == "new_fs" and errno == EPERM:
        kind = str(op.values[1])
        return _OF_NAMESPACES.get(kind, f"{kind} may not be mountable in a user namespace")
    name = "idmap" if op.name == "idmap_now" else op.name
    return _HINTS.get((name, errno)) or _BY_PLACE.get((op.path, errno), "")
