"""restore: a container from the image files of a checkpoint, by CRIU."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass, field
from functools import partial

from ocipy import host, plan
from ocipy.cgroups.location import own_directory
from ocipy.checkpoint import criu, external_resources
from ocipy.container.create import _Build, write_pid_file
from ocipy.container.prepare import CreateOptions, check_console, prepare, tell
from ocipy.errors import LaunchError, Unsupported
from ocipy.kernel import json
from ocipy.kernel import os as _os
from ocipy.kernel.proc import start_time
from ocipy.launch import hooks
from ocipy.launch.cgroup_join import Join
from ocipy.launch.protocol import Channel, Launched, check_open, launch
from ocipy.plan import criu as plans
from ocipy.store import CONFIG, Store
from ocipy.store.record import CREATING, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LOG = "restore.log"
FIRST_FD = 4  # of CRIU's descriptors behind its standard streams and its socket
NEW_NETWORK = 0x40000000  # CLONE_NEWNET
#: limits that CRIU, while it works in the container's cgroup, may be too large for: set when it is done
LATE_LIMITS = ("memory", "pids", "unified")


@dataclass(kw_only=True)
class RestoreOptions(criu.CriuOptions):
    """How to restore.

    Attributes:
        lsm_profile: ``TYPE:NAME`` of the profile to restore into, in place of the former one.
        lsm_mount_context: SELinux context of the mounts, in place of the former one.
        create: terminal, standard streams and pid file, as for create; nothing else of it.
    """

    lsm_profile: str = ""
    lsm_mount_context: str = ""
    create: CreateOptions = field(default_factory=CreateOptions)


def restore(store: Store, container_id: str, bundle: str, options: RestoreOptions) -> tuple[Record, Launched]:
    """Restore a container.

    Args:
        store: where its state goes.
        container_id: as for create.
        bundle: absolute path of the bundle; its config must be the one that the container was created from, but
            for sources of mounts, paths of namespaces, limits and hooks.
        options: see :class:`RestoreOptions`.

    Returns:
        The record, locked, and the init process, which runs and is a child of this process. Close the record's
        entry to release the lock.

    Raises:
        Unsupported: CRIU is missing, too old, or finds something missing in this kernel.
        UsageError: the images are not those of a checkpoint.
        Error: nothing of the container is left behind then.
    """
    if (manager := options.create.cgroup_manager) != "cgroupfs":
        flag = "--systemd-cgroup" if manager == "systemd" else f"--cgroup-manager {manager}"
        raise Unsupported(f"{flag}: restore makes the cgroup itself", code="cgroup-manager")
    check_open(*options.create.stdio)
    serve = criu.find()
    spec, cgroup, compiled, rdt = prepare(container_id, bundle, {})
    tell(spec, compiled, options.create)
    check_console(compiled, options.create)
    external_resources.namespaces(spec)
    if (spec.get("linux") or {}).get("netDevices"):
        raise Unsupported(
            "network devices of the host don't move into a restored container", config_path="$.linux.netDevices",
            hint="leave it out, and move them by a createRuntime hook",
        )  # fmt: skip
    if rdt is not None:
        raise Unsupported("a restored container joins no resctrl class", config_path="$.linux.intelRdt")
    if options.lsm_mount_context and "selinux" not in host.facts().lsms:
        raise Unsupported("--lsm-mount-context: SELinux is not enabled on this host")  # CRIU would ignore it
    os.close(criu.directory(options.image_path, "--image-path", make=False))
    streams = criu.read_descriptors(options.image_path)
    criu.require(partial(launch, plans.serve(*serve), given={}), *[criu.LAZY_PAGES] * options.lazy_pages)
    os.close(criu.directory(options.log_dir, "--work-path", make=True))
    entry = store.create(container_id)
    record = Record.new(entry, bundle, spec, cgroup)
    build = _Restore(record, spec, cgroup, compiled, options.create, None)
    build.how, build.streams, build.serve = options, streams, serve
    try:
        build.refuse_used_cgroup()
        record.save()
        entry.keep(CONFIG, json.encode(spec))
        return record, build.run()
    except BaseException as error:
        build.undo(error)
        raise


class _Restore(_Build):
    """One restore under way.

    Attributes:
        how: what the caller asked for.
        streams: where the standard streams of the container led.
        serve: CRIU's executable and environment.
    """

    how: RestoreOptions
    streams: list[str]
    serve: tuple[str, list[str]]

    def run(self) -> Launched:
        self.own_cgroup = True
        self.cgroup.create()
        limits: dict[str, Any] = self.linux.get("resources") or {}
        self.cgroup.apply({name: value for name, value in limits.items() if name not in LATE_LIMITS})
        options = plan.Options(self.record.data["bundle"], self.record.entry.id, self.cgroup.paths)
        _run_plan(plans.mount_points(self.spec, host.facts(), options))
        given, fds = external_resources.namespaces_to_restore(self.spec, FIRST_FD)
        keys, streams = external_resources.streams_to_restore(self.streams, self.options.stdio, FIRST_FD + len(fds))
        given["inherit_fd"] += keys
        self._open_images()
        join = Join(self.cgroup)
        serve = plans.serve_restore(*self.serve, self.record.data["rootfs"], self.record.entry.path)
        try:
            process = criu.Criu(
                partial(join.launch, serve, given={}), join.finish, self.options.stdio, [*fds, *streams]
            )  # fmt: skip
        finally:
            for fd in fds:
                os.close(fd)
        self.launched = process.launched
        try:
            self._ask(process, given)
        except BaseException:
            process.close()
            raise
        process.finish()
        self.launched = Launched(self.plan, self.record.pid, self.record.pidfd(), Channel(-1))
        return self.launched

    def _open_images(self) -> None:
        """In a user namespace CRIU reads the images first as root, without the rights of root, and then as root of
        that. They hold the memory of processes, and CRIU makes them readable for all: the permissions of their
        directory protect them, so it is opened for the group of that root, and nobody else."""
        gid = next((m["hostID"] for m in self.linux.get("gidMappings") or () if m["containerID"] == 0), None)
        if gid is not None:
            os.chown(self.how.image_path, -1, gid)
            os.chmod(self.how.image_path, os.stat(self.how.image_path).st_mode & 0o7777 | 0o010)

    def _ask(self, process: criu.Criu, given: dict[str, list[bytes]]) -> None:
        pid = process.launched.pid
        images = criu.directory_of(pid, self.how.image_path, "--image-path")
        try:
            work = criu.directory_of(pid, self.how.log_dir, "--work-path" if self.how.work_path else "--image-path")
        except BaseException:
            os.close(images)
            raise
        try:
            process.ask(criu.RESTORE, criu.options(self._request(pid, images, work) | given), self._notify)
        except criu.Refused as refused:
            log = f"{self.how.log_dir}/{LOG}"
            raise refused.error(f"restore container {self.record.entry.id!r}", log, "restore") from None
        finally:
            os.close(images)
            os.close(work)

    def _request(self, pid: int, images: int, work: int) -> dict[str, criu.Value]:
        how, data = self.how, self.record.data
        request = how.request(images, work, LOG, data["annotations"])
        bound = external_resources.bound(self.spec, data["bundle"], data["rootfs"], host.cgroups(), self.cgroup.paths)
        request |= {
            "root": self.record.entry.path, "evasive_devices": 1, "rst_sibling": 1, "empty_ns": NEW_NETWORK,
            "ext_mnt": external_resources.to_restore(bound), "cg_root": external_resources.cgroup_roots(pid),
        }  # fmt: skip
        if how.lsm_profile:
            request["lsm_profile"] = how.lsm_profile
        if how.lsm_mount_context:
            request["lsm_mount_context"] = how.lsm_mount_context
        return request

    def _notify(self, step: str, pid: int, fds: list[int]) -> None:
        if step == "setup-namespaces":
            self._setup_namespaces(pid)
        elif step == "orphan-pts-master":
            if self.options.console_fd >= 0:
                with socket.socket(fileno=os.dup(self.options.console_fd)) as console:
                    socket.send_fds(console, [b"/dev/ptmx"], fds[:1])
        elif step == "post-restore":  # nothing runs yet
            self._leave()
            limits = self.linux.get("resources") or {}
            self.cgroup.apply({name: limits[name] for name in LATE_LIMITS if name in limits}, update=True)
            self._record(pid)
        elif step == "pre-resume" and self.how.lsm_profile:  # identities are restored, and all are stopped
            self._check_profile()

    def _check_profile(self) -> None:
        """CRIU leaves a process as it is that had no profile in the images."""
        wanted = self.how.lsm_profile.partition(":")[2]
        label = _os.read_text(f"/proc/{self.record.pid}/attr/current").rstrip("\0\n").removesuffix(" (enforce)")
        if label.removesuffix(" (complain)") != wanted:
            raise Unsupported(f"--lsm-profile {self.how.lsm_profile}: the process is {label!r}",
                              hint="CRIU sets a profile only in place of another one")  # fmt: skip

    def _leave(self) -> None:
        """Take CRIU out of the container's cgroup: it would count against the limits when the processes run."""
        assert self.launched is not None
        for hierarchy in host.cgroups().hierarchies:
            _os.write_text(f"{own_directory(hierarchy)}/cgroup.procs", str(self.launched.pid))

    def _setup_namespaces(self, pid: int) -> None:
        kinds = {ns["type"]: ns.get("path") for ns in self.linux.get("namespaces") or ()}
        if "network" in kinds and not kinds["network"]:
            pidfd = os.pidfd_open(pid)
            try:
                _run_plan(plans.network(self.linux.get("sysctl") or {}), pidfd=pidfd)
            finally:
                os.close(pidfd)
        configured = self.spec.get("hooks") or {}
        state = self.record.hook_state(CREATING, pid)
        self.hooks_ran = True
        for name in "prestart", "createRuntime":
            hooks.run_hooks(
                name, configured.get(name) or [], state, self.record.data["bundle"], self.record.entry
            )

    def _record(self, pid: int) -> None:
        if not (started := start_time(pid)):
            raise LaunchError("the container's first process died", code="launch-died")
        self.record.data.update(pid=pid, start_time=started)
        self.record.save()
        if self.options.pid_file:
            write_pid_file(self.options.pid_file, pid)
            self.pid_file = True


def _run_plan(compiled: plan.Plan, **given: int) -> None:
    """Have the helper execute a plan that ends in `ready`. Raises LaunchError."""
    launched = launch(compiled, given=given)
    try:
        launched.until_ready(lambda kind, fd: b"")
    finally:
        launched.kill()
