"""create: everything but the exec of the user's program (runtime.md#create)."""

from __future__ import annotations

from ocipy import plan
from ocipy._native import lib
from ocipy.container.prepare import CreateOptions, check_console, prepare, tell
from ocipy.errors import CgroupError, Error, LaunchError, StateError, translated
from ocipy.faststart import fast_path
from ocipy.kernel import json, os
from ocipy.kernel.proc import start_time
from ocipy.launch import hooks
from ocipy.launch.cgroup_join import Join
from ocipy.launch.id_maps import check_joined, host_id, write_maps
from ocipy.launch.protocol import ACK, Launched, check, check_open
from ocipy.plan.devices import is_bind
from ocipy.plan.flags import AT_RECURSIVE
from ocipy.plan.ops import (
    SYNC_CGROUP,
    SYNC_DEVICES,
    SYNC_HOOKS,
    SYNC_IDMAP,
    SYNC_MAPS,
    SYNC_RIDMAP,
    SYNC_SCHEDULING,
    SYNC_USERNS,
)
from ocipy.store import CONFIG, SOCKET, Store, unusable
from ocipy.store.record import CREATING, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.attach.net_devices import NetDevices
    from ocipy.cgroups.base import Cgroup
    from ocipy.cgroups.resctrl_groups import Rdt


def _cgroup_owner(spec: dict[str, Any]) -> int | None:
    """The host's uid of the program, if its cgroup is to be its own: it is the root of a new cgroup namespace and
    mounted there to be written to (config-linux.md#cgroup-ownership)."""
    linux = spec.get("linux") or {}
    if not any(ns["type"] == "cgroup" and not ns.get("path") for ns in linux.get("namespaces") or ()):
        return None
    for mount in spec.get("mounts") or ():
        if mount.get("source") == "cgroup" and os.clean(mount["destination"]) == "/sys/fs/cgroup":
            if "ro" in (mount.get("options") or ()):
                continue
            uid = ((spec.get("process") or {}).get("user") or {}).get("uid", 0)
            namespaces = {ns["type"]: ns.get("path") for ns in linux["namespaces"]}
            return host_id(linux.get("uidMappings") or [], uid) if "user" in namespaces else uid
    return None


def create(
    store: Store, container_id: str, bundle: str, options: CreateOptions, spec: dict[str, Any] | None = None
) -> tuple[Record, Launched]:
    """Create a container.

    Args:
        store: where its state goes.
        container_id: letters of ``[A-Za-z0-9_+.-]``.
        bundle: absolute path of the bundle directory.
        options: see :class:`CreateOptions`.
        spec: the config, in place of the bundle's config.json.

    Returns:
        The record, locked, and the launched process. Close the record's entry to release the lock.

    Raises:
        Error: nothing of the container is left behind then.
    """
    check_open(*options.stdio, *options.preserve_fds)
    more: dict[str, Any] = {"no_pivot": bool(options.no_pivot), "no_new_keyring": bool(options.no_new_keyring)}
    if options.listen_fds:
        more |= {"env": listen_env(options.listen_fds, options.listen_names), "listen_pid": True}
    if options.notify:
        from ocipy.console.sd_notify import DIRECTORY, ENV

        more["env"] = [*more.get("env", ()), ENV]
        more["notify_dir"] = f"{store.root}/{container_id}/{DIRECTORY}"
    spec, cgroup, compiled, rdt = prepare(
        container_id, bundle, more, spec=spec, rootless=options.rootless, cgroup_manager=options.cgroup_manager,
        resctrl=options.resctrl,
    )
    tell(spec, compiled, options)
    check_console(compiled, options)
    if compiled.notifies:
        from ocipy.attach import seccomp_agent

        seccomp_agent.look(spec["linux"]["seccomp"])
    entry = store.create(container_id)
    record = Record.new(entry, bundle, spec, cgroup)
    if compiled.notifies:
        record.data["seccomp_agent"] = seccomp_agent.wanted(spec["linux"]["seccomp"])
    record.data["plan_options"] = more
    if rdt is not None:
        record.data["intel_rdt"] = rdt.record()
    build = _Build(record, spec, cgroup, compiled, options, rdt)
    try:
        build.refuse_used_cgroup()
        record.save()  # the intent: whatever follows can be found and removed by `delete`
        # as it was judged: the file itself may be another by now
        entry.keep(CONFIG, json.encode(spec))
        if options.notify:
            os.mkdir(more["notify_dir"], 0o755)
        launched = build.run()
    except BaseException as error:
        build.undo(error)
        raise
    return record, launched


def _mounts_disks(spec: dict[str, Any]) -> bool:
    return any(
        (mount.get("source") or "").startswith("/dev/") and not is_bind(mount) for mount in spec.get("mounts") or ()
    )


def listen_env(count: int, names: str) -> list[str]:
    """The variables that tell a program of the sockets that it inherits (sd_listen_fds(3)), but for its pid."""
    return [f"LISTEN_FDS={count}", *([f"LISTEN_FDNAMES={names}"] if names else [])]


class _Build:
    """One creation under way: what was made so far, to be unmade if it fails."""

    def __init__(
        self, record: Record, spec: dict[str, Any], cgroup: Cgroup, compiled: plan.Plan, options: CreateOptions,
        rdt: Rdt | None,
    ) -> None:  # fmt: skip
        self.record = record
        self.spec = spec
        self.linux: dict[str, Any] = spec.get("linux") or {}
        self.cgroup = cgroup
        self.rdt = rdt
        self.plan = compiled
        self.options = options
        self.devices: NetDevices | None = None
        self.launched: Launched | None = None
        self.own_cgroup = False
        self.own_rdt = False
        self.late_limits = False
        self.hooks_ran = False
        self.pid_file = False
        self.userns = -1  # of a mount whose ids we are to map

    def run(self) -> Launched:
        if configured := self.linux.get("netDevices"):
            from ocipy.attach.net_devices import NetDevices  # few containers have any

            self.devices = NetDevices(configured)
        # A disk that the helper mounts need not be one that the program may open.
        self.late_limits = _mounts_disks(self.spec)
        if not self.cgroup.needs_process:
            self.own_cgroup = True
            self.cgroup.create()
            if self.cgroup.held():  # we would wait for the first process without an end
                raise CgroupError(
                    "container's cgroup unexpectedly frozen", config_path="$.linux.cgroupsPath", code="cgroup-frozen",
                    hint="itself, or one that it is below",
                )
        if self.rdt is not None:
            self.own_rdt = True
            self.rdt.make()
            self.record.data["intel_rdt"] = self.rdt.record()
        join = Join(self.cgroup, rdt=self.rdt)
        launched = self.launched = self._launch(join)
        if not self.cgroup.needs_process:
            self._furnish()  # while the helper is at work already
        try:
            launched.until_ready(lambda kind, fd: self._sync(kind, fd, join))
        finally:
            os.shut(self.userns)
        check_joined(launched.pid, self.linux)
        if self.late_limits:
            self._limit()
        self._finish(launched)
        if self.devices:
            self.devices.close()
        return launched

    def refuse_used_cgroup(self) -> None:
        """Refuse a cgroup that others are in. Before it is recorded: `delete --force` kills what is in there."""
        if self.cgroup.exists() and (pids := self.cgroup.pids()):
            raise CgroupError(
                f"container's cgroup is not empty: {len(pids)} process(es) found",
                config_path="$.linux.cgroupsPath", code="cgroup-in-use",
            )  # fmt: skip

    def _launch(self, join: Join) -> Launched:
        options = self.options
        entry = self.record.entry
        try:
            own = {"listen": check(lib.ocipy_listen(entry.fd, SOCKET.encode()), "bind")}
        except OSError as error:
            raise unusable(entry.path, "bind", error) from None
        try:
            for name, (maps, where) in self.plan.id_maps.items():
                from ocipy.launch.user_namespaces import user_namespace  # for id-mapped mounts only

                own[name] = user_namespace(maps, where, options.stdio)
            return join.launch(
                self.plan, given=own | {"console": options.console_fd}, stdio=options.stdio,
                preserve=options.preserve_fds, fault=options.fault if options.fault >= 0 else plan.NO_FAULT,
                timings=options.timings,
            )  # fmt: skip
        finally:
            os.shut(*own.values())

    def _sync(self, kind: int, fd: int, join: Join) -> bytes:
        assert self.launched is not None
        if kind == SYNC_MAPS:
            write_maps(self.launched.pid, self.linux)
        elif kind == SYNC_CGROUP:
            if self.cgroup.needs_process:
                self._adopt(self.launched.pid)
            return join.finish(self.launched)
        elif kind == SYNC_SCHEDULING:
            from ocipy.launch.scheduling import schedule

            schedule(self.launched.pid, self.spec["process"])
        elif kind == SYNC_DEVICES:
            assert self.devices is not None
            self.devices.move(fd)
        elif kind == SYNC_USERNS:
            os.shut(self.userns)
            self.userns = fd
        elif kind in (SYNC_IDMAP, SYNC_RIDMAP):
            error = -lib.ocipy_idmap(fd, self.userns, AT_RECURSIVE if kind == SYNC_RIDMAP else 0)
            os.shut(fd)
            return str(error).encode() if error else b""
        elif kind == SYNC_HOOKS:
            state = self.record.hook_state(CREATING, self.launched.pid)
            configured = self.spec.get("hooks") or {}
            self.hooks_ran = True
            for name in "prestart", "createRuntime":
                hooks.run_hooks(
                    name, configured.get(name) or [], state, self.record.data["bundle"], self.record.entry
                )
            if configured.get("createContainer"):  # the helper runs them, and is not recorded yet
                self.record.entry.note("createContainer", self.launched.pid, start_time(self.launched.pid))
            return state
        return b""

    def _furnish(self) -> None:
        """Give the new cgroup its limits, unless it is too early, and its owner."""
        if not self.late_limits:
            self._limit()
        if (owner := _cgroup_owner(self.spec)) is not None:
            self.cgroup.delegate(owner)

    def _limit(self) -> None:
        self.cgroup.apply(self.linux.get("resources") or {})

    def _adopt(self, pid: int) -> None:
        """Have the cgroup made around the waiting process."""
        self.own_cgroup = True
        try:
            self.cgroup.adopt(pid, self.linux.get("resources") or {})
        except CgroupError as error:
            self.own_cgroup = error.code not in ("cgroup-in-use", "systemd-unit")  # else there is none of ours
            raise
        self._furnish()

    def _finish(self, launched: Launched) -> None:
        """Record the process, then let it wait for start: killed in between, we leave it to die."""
        started = start_time(launched.pid)
        if not started:
            raise LaunchError("the container's first process died", code="launch-died")
        self.record.data.update(pid=launched.pid, start_time=started)
        self.record.save()
        if (self.spec.get("hooks") or {}).get("createContainer"):
            self.record.entry.forget()
        fast_path.write(self.record, self.cgroup)
        if self.options.pid_file:
            write_pid_file(self.options.pid_file, launched.pid)
            self.pid_file = True
        if self.options.pidfd_socket >= 0:
            from ocipy.console.pidfd_socket import send_pidfd

            send_pidfd(self.options.pidfd_socket, launched.pidfd, "standard")
        try:
            launched.channel.send(ACK)
        except BrokenPipeError:
            raise launched.died() from None
        launched.channel.close()

    def undo(self, error: BaseException) -> None:
        """Unmake everything, in the reverse order, each step whatever became of the others."""
        if self.launched is not None:
            try:
                self.launched.kill()
            except OSError as second:
                error.add_note(f"and the process may be left: {translated(second, 'kill')}")
        if self.devices:
            for failed in self.devices.restore():
                error.add_note(failed)
            self.devices.close()
        try:
            if self.own_cgroup:
                self.cgroup.undo()
            if self.rdt is not None and self.own_rdt:
                self.rdt.remove(created=False)
        except (Error, OSError) as second:
            self._remember(error)
            self._keep(error, second)
            return
        if self.hooks_ran:
            # a failed createRuntime hook stops the container, whose poststop hooks are due (runtime.md#lifecycle)
            hooks.run_poststop(self.record, error)
        if self.pid_file:
            remove_pid_file(self.options.pid_file)
        try:
            self.record.entry.remove()
        except Error as second:
            self._keep(error, second)
            return
        self.record.entry.close()

    def _keep(self, error: BaseException, second: Error | OSError) -> None:
        """Leave the state directory, so that `delete` can try again, and say so."""
        if isinstance(second, OSError):
            second = translated(second, "undo")
        error.add_note(f"and something is left: {second}; ocipy delete --force {self.record.entry.id} tries again")
        self.record.entry.close()

    def _remember(self, error: BaseException) -> None:
        """Have the record name only what is left of what this create has made: `delete` removes all that it names."""
        try:
            self.record.save()
        except StateError as third:
            error.add_note(str(third))


def write_pid_file(path: str, pid: int) -> None:
    """Write a pid file at once whole: engines watch for it.

    Raises:
        StateError: it can't be written.
    """
    try:
        special = os.stat(path).st_mode & 0o170000 not in (0o100000, 0o040000)
    except OSError:
        special = False  # mostly there is none yet
    if special:
        raise StateError(f"can't write the pid file {path}: it is not a regular file", code="pid-file")
    try:
        os.replace_file(path, str(pid).encode(), 0o644)
    except OSError as error:
        raise StateError(
            f"can't write the pid file {path}", code="pid-file", syscall="open", errno=error.errno or 0
        ) from None


def remove_pid_file(path: str) -> None:
    """Remove a pid file, of a process that did not come to run."""
    try:
        os.unlink(path)
    except OSError:
        pass
