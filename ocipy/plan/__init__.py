"""The plan: ``compile`` turns a config and the facts of a host into a flat list of operations.

Pure: no system calls, no files, no cgroup driver (seccomp profiles go through libseccomp, in memory).
One module per section of the spec; ``ops.py`` has the operations, ``native/init`` executes them.
"""

from __future__ import annotations

from ocipy.plan import devices, mounts, namespaces, ops, process, rootfs
from ocipy.plan.builder import NO_FAULT, Builder, Options, Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.host import Host

__all__ = ["NO_FAULT", "Options", "Plan", "compile", "compile_exec"]


def compile(spec: dict[str, Any], host: Host, options: Options) -> Plan:
    """Compile a validated config for a host.

    Args:
        spec: config.json, as :func:`ocipy.config.load` returned it.
        host: facts of the host (:func:`ocipy.host.facts`).
        options: what the caller of `create` chose.

    Returns:
        The plan of `create` and `start`: it waits for start in its middle.

    Raises:
        ConfigError: a combination that can't be had.
        Unsupported: a property that this host, or ocipy, does not have.
    """
    b = Builder(spec, host, options)
    process.refuse(b)
    process.startable(b)
    for name in ("initial", "final"):  # for execs; what could not be had is to be known now
        process.affinity(b, name)
    namespaces.collect(b)
    process.early(b)
    slots = namespaces.open_joined(b)
    entry = len(b.ops)
    clone_flags = namespaces.enter(b, slots)
    process.keyring(b)
    namespaces.names(b)
    namespaces.cgroup(b)  # before the mounts: what a tmpfs takes is the container's
    rootfs.bind(b)
    mounts.make(b)
    devices.make(b)
    b.add(ops.mkdir("$.process.cwd", b.process["cwd"], 0o755))
    devices.console(b)
    if b.linux.get("netDevices"):  # as late as can be, for hooks and sysctls that are about them
        b.add(ops.sync("$.linux.netDevices", ops.SYNC_DEVICES))
    hooks = spec.get("hooks") or {}
    if any(hooks.get(kind) for kind in ("prestart", "createRuntime", "createContainer", "startContainer")):
        b.add(ops.sync("$.hooks", ops.SYNC_HOOKS))
    if hooks.get("createContainer"):
        b.add(ops.to_root("$.hooks.createContainer"))
        _hooks(b, "createContainer")
    rootfs.cover(b)
    rootfs.sysctl(b)
    process.labels(b)
    rootfs.change(b)
    process.attributes(b)
    if host.euid and not b.joined:
        # For an exec before the start: the kernel lets the owner of the user namespace into a process that can be
        # dumped, which the change of uid has ended. Nobody is inside yet from whom it would have to be kept.
        b.add(ops.dumpable("", 1))
    loaded = process.early_seccomp(b)
    b.add(ops.ready("", 0))
    b.add(ops.wait_start("", b.give("listen")))
    if hooks.get("startContainer"):
        process.hook_filter(b)
    _hooks(b, "startContainer")
    process.limits(b)
    if not loaded:
        process.seccomp(b)
    process.run(b)
    if b.early and host.in_userns and namespaces.MOUNT not in b.joined:
        # the caller's mount namespace may be the host's: none whose mounts it may take
        b.early.insert(0, ops.unshare("", namespaces.MOUNT))
    b.ops[entry:entry] = b.early
    return b.plan(clone_flags)


def _hooks(b: Builder, kind: str) -> None:
    hooks = (b.spec.get("hooks") or {}).get(kind) or ()
    for index, hook in enumerate(hooks):
        args = list(hook.get("args") or [hook["path"]])
        where = f"$.hooks.{kind}[{index}]"
        timeout = min(hook.get("timeout") or 0, ops.TIMEOUT_MAX)
        env = hook.get("env")
        given = process.environment(b.process) if env is None else process.once(env)
        last = kind == "startContainer" and index == len(hooks) - 1
        b.add(ops.hook(where, hook["path"], args, given, timeout, env is None, last))


def compile_exec(spec: dict[str, Any], host: Host, options: Options, kinds: int) -> Plan:
    """Compile the plan of an exec: a further process in a running container.

    Args:
        spec: the container's config with ``process`` replaced by the process to run.
        host: facts of the host.
        options: as for :func:`compile`.
        kinds: CLONE_NEW* flags of the namespaces that differ from the caller's.

    Raises:
        ConfigError, Unsupported: as :func:`compile`.
    """
    b = Builder(spec, host, options)
    process.refuse(b)
    namespaces.collect(b)
    process.early(b)
    process.labels(b)
    user = kinds & namespaces.USER
    if initial := process.affinity(b, "initial"):
        b.add(initial)
    b.add(ops.sync("", ops.SYNC_CGROUP))  # before the join: the cgroup files are the host's
    if final := process.affinity(b, "final"):
        b.add(final)
    b.add(ops.dumpable("", 0))
    b.add(ops.setns_pidfd("", b.give("pidfd"), kinds))
    if user:
        namespaces.own_ids(b)
    b.forks = bool(kinds & (namespaces.PID | namespaces.TIME))
    if b.forks:
        b.add(ops.fork(""))
    b.add(ops.setsid(""))
    process.keyring(b)
    b.add(ops.open_root(""))
    if b.process.get("terminal"):
        size = b.process.get("consoleSize") or {}
        uid = (b.process.get("user") or {}).get("uid", 0)
        columns, rows = size.get("width", 0), size.get("height", 0)
        b.add(ops.console("$.process.terminal", b.give("console"), columns, rows, 0, uid))
    process.attributes(b)
    loaded = process.early_seccomp(b)
    b.add(ops.ready("", 1))
    process.limits(b)
    if not loaded:
        process.seccomp(b)
    process.run(b)
    return b.plan(0)
