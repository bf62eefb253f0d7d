"""The process: identity, limits, privileges, and the program (config.md#process)."""

from __future__ import annotations

from _struct import pack

from ocipy.config.names import CAPABILITIES, CAPABILITY_SETS, RLIMITS
from ocipy.errors import ConfigError, Unsupported
from ocipy.plan import flags, ops
from ocipy.plan.namespaces import may_set_groups

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.plan.builder import Builder
    from ocipy.plan.ops import Op
    from ocipy.plan.seccomp import Filter

SECCOMP = "$.linux.seccomp"
PASSES = ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG")
#: system calls of the helper between its last operations and the exec, and the exec itself
STILL_CALLED = frozenset((
    "accept4", "capget", "capset", "close", "close_range", "dup3", "execve", "exit_group", "prctl", "prlimit64",
    "recvmsg", "rt_sigaction", "sendmsg",
))  # fmt: skip
IOPRIO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4,
    "SCHED_FLAG_KEEP_POLICY": 8, "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
#: limits that would be in the way of the helper and its hooks -> what is enough for them: descriptors, and bytes of a
#: container's state in a file
ENOUGH = {RLIMITS.index("RLIMIT_NOFILE"): 64, RLIMITS.index("RLIMIT_FSIZE"): 1 << 20}
PERSONALITIES = {"LINUX": 0, "LINUX32": 8}
MEMORY_POLICIES = {
    "MPOL_DEFAULT": 0, "MPOL_PREFERRED": 1, "MPOL_BIND": 2, "MPOL_INTERLEAVE": 3, "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5, "MPOL_WEIGHTED_INTERLEAVE": 6,
}  # fmt: skip
MEMORY_POLICY_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15, "MPOL_F_RELATIVE_NODES": 1 << 14, "MPOL_F_NUMA_BALANCING": 1 << 13,
}  # fmt: skip


def early(b: Builder) -> None:
    """Emit what must be written while the host's /proc is the one in sight, and as the host's root."""
    score = b.process.get("oomScoreAdj")
    if score is not None:
        b.add(ops.proc_write("$.process.oomScoreAdj", "self/oom_score_adj", str(score)))


def labels(b: Builder) -> None:
    """Emit the labels that the exec is to change to, as long as the host's /proc is in sight. Children inherit them:
    a startContainer hook runs under them as well, as it does with runc."""
    profile = b.process.get("apparmorProfile")
    if profile:  # the directory is there since Linux 5.8
        b.add(ops.proc_write("$.process.apparmorProfile", "self/attr/apparmor/exec", f"exec {profile}"))
    label = b.process.get("selinuxLabel")
    if label:
        b.add(ops.proc_write("$.process.selinuxLabel", "self/attr/exec", label))


def keyring(b: Builder) -> None:
    """Emit the session keyring, with the label of those who are to use it."""
    if b.options.no_new_keyring:
        return
    label = b.process.get("selinuxLabel")
    if label:  # until the exec, which resets it
        b.add(ops.proc_write("$.process.selinuxLabel", "self/attr/keycreate", label))
    b.add(ops.keyring("", f"_ses.{b.options.container_id}"))


def attributes(b: Builder) -> None:
    """Emit everything from stdio to capabilities, in the order in which each still may be set."""
    process = b.process
    b.add(ops.stdio("$.process.terminal") if process.get("terminal") else ops.null_stdio(""))
    for index, limit in enumerate(process.get("rlimits") or ()):
        where, number = f"$.process.rlimits[{index}]", RLIMITS.index(limit["type"])
        soft, hard = limit["soft"], limit["hard"]
        if soft < ENOUGH.get(number, 0):
            b.limits.append(ops.rlimit(where, number, soft, hard))
            if hard < ENOUGH[number]:
                continue
            soft = hard  # raising it takes a capability: now
        b.add(ops.rlimit(where, number, soft, hard))
    _scheduling(b)
    _memory_policy(b)
    personality = b.linux.get("personality")
    if personality:
        b.add(ops.personality("$.linux.personality", PERSONALITIES[personality["domain"]]))
    user = process.get("user") or {}
    if user.get("umask") is not None:
        b.add(ops.umask("$.process.user.umask", user["umask"]))
    if lacking := _lacking_capabilities(b.spec, b.host.capabilities):
        names = ", ".join(_names(lacking))
        b.notices.append(f"$.process.capabilities: {names}: not granted, as the caller does not have it")
    sets = _capability_sets(process)
    granted = _granted(b)
    if barren := sets.get("ambient", 0) & ~granted["ambient"] & ~lacking:
        where = "$.process.capabilities.ambient: can't raise ambient capability"  # words of runc's
        b.notices += [f"{where} {name}: it is not both permitted and inheritable" for name in _names(barren)]
    b.add(ops.bounding("$.process.capabilities.bounding", granted.get("bounding", 0)))
    cwd = process["cwd"]
    b.add(ops.cwd("$.process.cwd", cwd, 1))
    groups = user.get("additionalGids") or []
    _check_ids(b, user)
    b.add(
        ops.user(
            "$.process.user", user.get("uid", 0), user.get("gid", 0), pack(f"={len(groups)}I", *groups),
            may_set_groups(b),
        )
    )  # fmt: skip
    b.add(ops.cwd("$.process.cwd", cwd, 0))
    no_new_privs = bool(process.get("noNewPrivileges"))
    if no_new_privs:
        b.add(ops.no_new_privs("$.process.noNewPrivileges"))
    # Without no_new_privs a filter takes CAP_SYS_ADMIN to load, and that comes last, or nearly so.
    b.add(_caps(b, 1 << flags.CAP_SYS_ADMIN if b.linux.get("seccomp") and not no_new_privs else 0))
    has_home = any(entry.startswith("HOME=") for entry in environment(process))
    home_uid = ops.NO_UID if has_home else user.get("uid", 0)
    b.add(ops.lookup("$.process.args[0]", process["args"][0], _search_path(process), home_uid))


def _granted(b: Builder) -> dict[str, int]:
    """The capability sets that the process gets, as bits."""
    lacking = _lacking_capabilities(b.spec, b.host.capabilities)
    sets = {name: mask & ~lacking for name, mask in _capability_sets(b.process).items()}
    # The kernel keeps the ambient set within permitted and inheritable (capabilities(7)), and `runc spec` has
    # always written ambient ones that are not inheritable: a warning, as with runc.
    sets["ambient"] = sets.get("ambient", 0) & sets.get("permitted", 0) & sets.get("inheritable", 0)
    return sets


def _caps(b: Builder, held: int) -> Op:
    """The operation that sets the capabilities; ``held`` are those to be kept besides."""
    sets = _granted(b)
    wanted = (sets.get(name, 0) for name in ("effective", "permitted", "inheritable", "ambient"))
    return ops.caps("$.process.capabilities", *wanted, held)


def _scheduling(b: Builder) -> None:
    wanted = scheduling(b.process)
    able = b.host.capabilities >> flags.CAP_SYS_NICE & 1 and not b.host.in_userns
    if wanted and b.takes_early and able:
        # In a user namespace no capability counts for this: the creator does it, from outside
        # (:mod:`ocipy.launch.scheduling`), when there will be no more fork, which would reset it. A creator who
        # can't change another user's process leaves it to the process, which may do some without a capability.
        wanted = [ops.sync(wanted[0].path, ops.SYNC_SCHEDULING)]
    for op in wanted:
        b.add(op)


def scheduling(process: dict[str, Any]) -> list[Op]:
    """The operations for a process's scheduler and I/O priority."""
    found = []
    scheduler = process.get("scheduler")
    if scheduler:
        bits = sum(SCHED_FLAGS[name] for name in scheduler.get("flags") or ())
        found.append(
            ops.scheduler(
                "$.process.scheduler", POLICIES[scheduler["policy"]], scheduler.get("nice", 0) & 0xFFFFFFFF,
                scheduler.get("priority", 0), bits, scheduler.get("runtime", 0), scheduler.get("deadline", 0),
                scheduler.get("period", 0),
            )
        )  # fmt: skip
    priority = process.get("ioPriority")
    if priority:
        value = IOPRIO_CLASSES[priority["class"]] << 13 | priority.get("priority", 0)
        found.append(ops.ioprio("$.process.ioPriority", value))
    return found


def startable(b: Builder) -> None:
    """Refuse what can't be done between `create` and `start`.

    Raises:
        Unsupported: startContainer hooks, of a process that may not fork.
    """
    scheduler = b.process.get("scheduler") or {}
    if (
        scheduler.get("policy") == "SCHED_DEADLINE"
        and "SCHED_FLAG_RESET_ON_FORK" not in (scheduler.get("flags") or ())
        and (b.spec.get("hooks") or {}).get("startContainer")
    ):
        raise Unsupported(
            "the kernel lets no SCHED_DEADLINE process fork, and so it can't run startContainer hooks",
            config_path="$.process.scheduler.flags", hint="add SCHED_FLAG_RESET_ON_FORK",
        )  # fmt: skip


def _memory_policy(b: Builder) -> None:
    policy = b.linux.get("memoryPolicy")
    if not policy:
        return
    where = "$.linux.memoryPolicy"
    known = b.host.memory_nodes()
    if not known:
        raise Unsupported("this kernel has no NUMA memory policies", config_path=where)
    mode = MEMORY_POLICIES[policy["mode"]]
    for name in policy.get("flags") or ():
        mode |= MEMORY_POLICY_FLAGS[name]
    # relative nodes are counted among those of the cpuset, round and round: any number will do
    relative = mode & MEMORY_POLICY_FLAGS["MPOL_F_RELATIVE_NODES"]
    nodes = _units(policy.get("nodes") or "", "" if relative else known, "memory node", f"{where}.nodes")
    b.add(ops.mempolicy(where, mode, nodes))


def affinity(b: Builder, name: str) -> Op | None:
    """The operation for the CPUs of ``execCPUAffinity``, ``initial`` or ``final``; None if there are none.

    Raises:
        ConfigError: the host has no such CPU.
    """
    cpus = (b.process.get("execCPUAffinity") or {}).get(name)
    if not cpus:
        return None
    where = f"$.process.execCPUAffinity.{name}"
    return ops.affinity(where, _units(cpus, b.host.cpus(), "CPU", where))


def _units(text: str, known: str, what: str, where: str) -> bytes:
    """A list such as ``0-3,7`` as bits, in whole words of the kernel's.

    Raises:
        ConfigError: there is one that is not known (for ``known`` that is not empty).
    """
    bits = _bits(text)
    missing = bits & ~_bits(known) if known else 0
    if missing:
        raise ConfigError(f"{what} {missing.bit_length() - 1} is not among this host's: {known}", config_path=where)
    words = range((bits.bit_length() + 63) // 64)
    return b"".join([pack("=Q", bits >> 64 * n & (1 << 64) - 1) for n in words])


def _bits(text: str) -> int:
    from ocipy.config.rules_rare import number_list  # has judged the list before

    bits = 0
    for first, last in number_list(text) or ():
        bits |= (1 << last + 1) - (1 << first)
    return bits


def _check_ids(b: Builder, user: dict[str, Any]) -> None:
    """Refuse ids of the process that don't exist in the container's user namespace."""
    where = "$.process.user"
    wanted = [("uid", user.get("uid", 0), f"{where}.uid"), ("gid", user.get("gid", 0), f"{where}.gid")]
    more = user.get("additionalGids") or ()
    wanted += [("gid", gid, f"{where}.additionalGids[{i}]") for i, gid in enumerate(more)]
    for kind, number, path in wanted if b.userns else ():
        if not b.maps(kind, number):
            raise ConfigError(
                f"{kind} {number} isn't mapped in the container's user namespace", config_path=path,
                hint=f"$.linux.{kind}Mappings",
            )
    if more and not may_set_groups(b):
        raise ConfigError(
            "no additional gids can be had here: without privilege a single gid is mapped only if setgroups is denied",
            config_path=f"{where}.additionalGids", hint="map a range of /etc/subgid",
        )


def _lacking_capabilities(spec: dict[str, Any], held: int) -> int:
    """What a config asks for and can't be granted, as bits: left out, with a warning of `create`.

    In a user namespace of its own the container has every capability to begin with.
    """
    if any(entry["type"] == "user" for entry in (spec.get("linux") or {}).get("namespaces") or ()):
        return 0
    asked = 0
    for mask in _capability_sets(spec.get("process") or {}).values():
        asked |= mask
    return asked & ~held


def _capability_sets(process: dict[str, Any]) -> dict[str, int]:
    """The capability sets of a process, as bits; other members of ``capabilities`` are none of them."""
    found = process.get("capabilities") or {}
    return {name: _mask(found[name]) for name in CAPABILITY_SETS if found.get(name)}


def _names(mask: int) -> list[str]:
    return [name for number, name in enumerate(CAPABILITIES) if mask >> number & 1]


def _mask(names: list[str]) -> int:
    """A capability set as bits. `create` has warned of names that are none (config.md#linux-process)."""
    mask = 0
    for name in names:
        if name in CAPABILITIES:
            mask |= 1 << CAPABILITIES.index(name)
    return mask


def _search_path(process: dict[str, Any]) -> str:
    path = ""
    for entry in process.get("env") or ():
        if entry.startswith("PATH="):
            path = entry[5:]
    return path


def limits(b: Builder) -> None:
    """Emit the limits that are too small for the helper and for hooks, when only the exec is left."""
    for op in b.limits:
        b.add(op)


def seccomp(b: Builder) -> None:
    """Emit the system call filter: the very last thing before the exec, so that the profile need not allow
    anything but that."""
    if compiled := _filter(b):
        b.notifies = compiled.notify
        b.add(ops.seccomp(SECCOMP, compiled.flags, compiled.program))


def hook_filter(b: Builder) -> None:
    """Emit the system call filter of the startContainer hooks: they run as what the program is confined to."""
    if compiled := _filter(b):
        b.add(ops.hook_filter(SECCOMP, compiled.flags, compiled.program))


def early_seccomp(b: Builder) -> bool:
    """Emit the system call filter before the wait for `start`, where that spares us to hold CAP_SYS_ADMIN so long:
    without no_new_privs, and if the profile lets everything through that is still to be done.

    Returns:
        Whether it did.
    """
    profile = b.linux.get("seccomp")
    if not profile or b.process.get("noNewPrivileges") or (b.spec.get("hooks") or {}).get("startContainer"):
        return False
    if not _lets_through(profile, STILL_CALLED):
        return False
    seccomp(b)
    b.add(_caps(b, 0))
    return True


def _filter(b: Builder) -> Filter | None:
    profile = b.linux.get("seccomp")
    if not profile:
        return None
    from ocipy.plan.seccomp import compile_filter  # libseccomp is loaded only for who uses it

    return compile_filter(profile)


def _lets_through(profile: dict[str, Any], calls: frozenset[str]) -> bool:
    """Whether a seccomp profile allows system calls whatever their arguments, as far as its rules say so plainly."""
    allowed = set(calls) if profile["defaultAction"] in PASSES else set()
    for rule in profile.get("syscalls") or ():
        if rule["action"] == "SCMP_ACT_NOTIFY":
            return False  # `start` is to give the agent its listener
        if calls.isdisjoint(rule["names"]):
            continue
        if rule["action"] not in PASSES:
            return False
        if not rule.get("args"):
            allowed.update(rule["names"])
    return calls <= allowed


def environment(process: dict[str, Any], more: list[str] | None = None) -> list[str]:
    """The environment of a process, as runc and crun have it: of a variable that is there twice the last value holds,
    in the place of the first; and, as runc has it, an empty HOME is none (the helper then adds that of passwd).

    Args:
        process: as config.json has it.
        more: what is added to ``env``.
    """
    found = once([*(process.get("env") or ()), *(more or ())])
    return [entry for entry in found if entry != "HOME="]


def once(env: list[str]) -> list[str]:
    """An environment without the values that later ones replace."""
    return list({entry.partition("=")[0]: entry for entry in env}.values())


def run(b: Builder) -> None:
    """Emit the exec."""
    env = environment(b.process, b.options.env)
    b.add(ops.exec("$.process.args", list(b.process["args"]), env, b.options.listen_pid))


#: properties that take a security module: where they stand, the module and its name
LSM_PROPERTIES = (
    ("process", "apparmorProfile", "apparmor", "AppArmor"), ("process", "selinuxLabel", "selinux", "SELinux"),
    ("linux", "mountLabel", "selinux", "SELinux"),
)  # fmt: skip


def refuse(b: Builder) -> None:
    """Refuse what the config asks for and this host does not have.

    Raises:
        Unsupported: with the property's config path.
    """
    for at, name, module, words in LSM_PROPERTIES:
        if getattr(b, at).get(name) and module not in b.host.lsms:
            raise Unsupported(
                f"{name} is set, and {words} is not enabled on this host", config_path=f"$.{at}.{name}"
            )
