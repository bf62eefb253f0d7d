"""exec: a further process in a running container."""

from __future__ import annotations

from errno import ENOMEM, ESRCH
from select import POLLIN, poll

from ocipy import host, plan
from ocipy.config.load import verify_process
from ocipy.container.create import listen_env, remove_pid_file, write_pid_file
from ocipy.container.kill import held
from ocipy.errors import CgroupError, ConfigError, Error, LaunchError, StateError
from ocipy.kernel import os
from ocipy.launch.cgroup_join import Join
from ocipy.launch.protocol import ACK, ERROR, Launched, failure
from ocipy.plan.flags import NAMESPACE_FILES, NAMESPACES
from ocipy.plan.ops import SYNC_SCHEDULING
from ocipy.store.record import CREATED, PAUSED, RUNNING, Record, not_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.cgroups.base import Cgroup


#: what holds for a process that does not say otherwise: the container's own. So a process file that leaves out the
#: profile, say, is confined as the container is
INHERITED = (
    "scheduler", "ioPriority", "execCPUAffinity", "capabilities", "rlimits", "apparmorProfile", "selinuxLabel",
)  # fmt: skip


def process_of(config: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The process to run: the container's own with some members replaced. ``env`` is added to the
    container's, later entries winning; a value of None leaves the container's as it is."""
    process = dict(config.get("process") or {})
    for name, value in changes.items():
        if value is None:
            continue
        if name == "env":
            value = [*(process.get("env") or ()), *value]
        process[name] = value
    return process


def exec_process(
    record: Record,
    process: dict[str, Any],
    *,
    stdio: tuple[int, int, int] = (0, 1, 2),
    preserve_fds: tuple[int, ...] = (),
    console_fd: int = -1,
    pid_file: str = "",
    pidfd_socket: int = -1,
    listen_fds: int = 0,
    listen_names: str = "",
    cgroup: Cgroup | None = None,
    ignore_paused: bool = False,
    warn: Callable[[str], None] | None = None,
    made: Callable[[], object] | None = None,
) -> Launched:
    """Run a process in a container's namespaces and cgroup; returns when it runs.

    Args:
        record: of a created or running container.
        process: as ``process`` of config.json; it has those of the container's that are in :data:`INHERITED` and
            that it leaves out, or has as "" or [].
        stdio, preserve_fds, console_fd, pid_file, pidfd_socket, listen_fds, listen_names: as for create.
        cgroup: to run it in, instead of the container's own.
        ignore_paused: a paused container is no error: the process runs when it is resumed, and this waits for that.
        warn: gets what can't be had of the process and is left out, one line each (runtime.md#warnings).
        made: is called when its terminal has been sent, before the program runs.

    Raises:
        StateError: the container is not running, or is paused.
        ConfigError: the process is not valid.
        LaunchError: it could not be run.
    """
    status = record.status()
    if status == PAUSED and not ignore_paused:
        raise StateError(
            f"cannot exec in a paused container: {record.entry.id!r}", code="paused",
            hint="resume it, or use --ignore-paused",
        )  # fmt: skip
    if not ignore_paused and (below := record.cgroup()) is not None and below.held():
        raise held(record)
    if status not in (RUNNING, CREATED, PAUSED):
        raise StateError(f"cannot exec in a stopped container: container not running: {record.entry.id!r} is {status}",
                         code="not-running")  # fmt: skip
    process = verify_process(process)
    config = record.config()
    own = config.get("process") or {}
    kept = {name: own[name] for name in INHERITED if own.get(name) and process.get(name, "") in ("", [])}
    config["process"] = process = process | kept
    pidfd = record.pidfd()
    if pidfd < 0:
        raise not_running(record)
    agent = None
    try:
        created = record.data.get("plan_options", {})
        options = plan.Options(
            record.data["bundle"], record.entry.id, no_new_keyring=created.get("no_new_keyring", False),
            listen_pid=listen_fds > 0, env=listen_env(listen_fds, listen_names) if listen_fds else None,
        )  # fmt: skip
        compiled = plan.compile_exec(config, host.facts(), options, _differing(record.pid))
        if warn is not None:
            for notice in compiled.notices:
                warn(notice)
        if "console" in compiled.given and console_fd < 0:
            raise ConfigError("a terminal needs a console socket", code="console-socket", hint="--console-socket")
        if "console" not in compiled.given and console_fd >= 0:
            raise ConfigError("a console socket, and the process has no terminal", code="console-socket", hint="--tty")
        if compiled.notifies:
            from ocipy.attach.seccomp_agent import Agent, wanted

            agent = Agent(wanted(config["linux"]["seccomp"]))
        initial = (process.get("execCPUAffinity") or {}).get("initial")
        join = _join(record, cgroup, bool(initial))
        launched = join.launch(
            compiled, given={"pidfd": pidfd, "console": console_fd}, stdio=stdio, preserve=preserve_fds
        )
        written = False
        try:
            launched.until_ready(lambda kind, fd: _sync(kind, join, launched, process))
            if made is not None:
                made()
            if pid_file:
                write_pid_file(pid_file, launched.pid)
                written = True
            if pidfd_socket >= 0:
                from ocipy.console.pidfd_socket import send_pidfd

                send_pidfd(pidfd_socket, launched.pidfd, "setns")
            try:
                launched.channel.send(ACK)
            except BrokenPipeError:
                raise launched.died() from None
            channel = launched.channel
            answer = (
                agent.serve(channel, launched.pid, record.spec_state(status)) if agent else channel.receive()
            )
            if answer is not None and answer.type == ERROR:
                raise failure(compiled, answer)
            launched.channel.close()
        except BaseException as error:
            launched.kill()
            if written:
                remove_pid_file(pid_file)
            if isinstance(error, (LaunchError, CgroupError)) and _ended(pidfd, error):
                raise not_running(record) from None
            raise
        return launched
    finally:
        os.shut(pidfd)  # an error here would report a process that runs as one that failed
        if agent is not None:
            agent.close()


def _ended(pidfd: int, error: Error) -> bool:
    """Whether the container has ended under our hands, which explains the error. An init that ends takes the others of
    its pid namespace with it (SIGKILL, or ESRCH and ENOMEM for who was about to enter), and is gone after them."""
    watch = poll()
    watch.register(pidfd, POLLIN)
    return bool(watch.poll(200 if error.code == "launch-died" or error.errno in (ESRCH, ENOMEM) else 0))


def _sync(kind: int, join: Join, launched: Launched, process: dict[str, Any]) -> bytes:
    """The launching side's part of a `Sync`."""
    if kind == SYNC_SCHEDULING:
        from ocipy.launch.scheduling import schedule

        schedule(launched.pid, process)
        return b""
    return join.finish(launched)


def _join(record: Record, cgroup: Cgroup | None, late: bool) -> Join:
    """The way into the cgroup: the given one, or the container's, or where its init has gone; and into resctrl."""
    rdt = record.rdt()
    if rdt is not None and not rdt.exists():
        rdt = None  # a class that was removed under the container has left it in the default one
    if cgroup is not None:
        return Join(cgroup, rdt=rdt, late=late)
    own = record.cgroup()
    assert own is not None  # recorded before anything was launched
    return Join(own, record.pid, rdt=rdt, late=late)


def _differing(pid: int) -> int:
    """The namespaces of a process that are not the caller's: joining one's own user namespace is refused."""
    kinds = 0
    for name, flag in NAMESPACES.items():
        file = NAMESPACE_FILES[name]
        try:
            if os.readlink(f"/proc/{pid}/ns/{file}") != os.readlink(f"/proc/self/ns/{file}"):
                kinds |= flag
        except FileNotFoundError:
            continue  # a kernel without time or cgroup namespaces
    return kinds
