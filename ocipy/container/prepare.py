"""What create decides before anything is made: the options, the config, the cgroup's place, the plan."""

from __future__ import annotations

from ocipy import cgroups, host, plan
from ocipy.config.load import load, verify
from ocipy.config.names import CAPABILITIES, CAPABILITY_SETS
from ocipy.errors import ConfigError
from ocipy.kernel import os
from ocipy.launch.id_maps import check_programs
from ocipy.plan.flags import NOSYMFOLLOW
from ocipy.plan.ops import bind_attr
from ocipy.store import check_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ocipy.cgroups.base import Cgroup
    from ocipy.cgroups.resctrl_groups import Rdt


class CreateOptions:
    """How to create, besides what the config says; all of it optional.

    Attributes:
        console_fd: connected stream socket that gets the pty's master, or -1.
        pid_file: path to write the init process's pid to.
        pidfd_socket: connected stream socket that gets a pidfd of the init process, or -1.
        stdio: descriptors for standard input, output and error.
        preserve_fds: descriptors that the program gets as 3, 4, ….
        listen_fds: how many of the first ``preserve_fds`` are sockets that systemd opened (sd_listen_fds(3)).
        listen_names: the names of these, ``LISTEN_FDNAMES``.
        notify: give the container a socket for sd_notify(3); `start` then passes on what it says.
        resctrl: directory of the resctrl file system; found in mountinfo unless given.
        no_pivot: move the root over ``/`` instead of pivoting (a host on an initramfs).
        no_new_keyring: keep the caller's session keyring.
        cgroup_manager: who makes the cgroup: ``cgroupfs`` (ocipy does); ``systemd``, with ``linux.cgroupsPath``
            ``slice:prefix:name``; ``disabled``: nobody, and the container stays in the caller's.
        fault: index of a plan operation that must fail (fault injection), or -1.
        timings: measure each operation.
        rootless: whether the container may do without a cgroup for lack of permission, if its config names none and
            sets no limit; None: unless the caller is the host's root.
        warn: gets what is ignored in the config, one line each (runtime.md#warnings).
        inform: gets what is done as the config says, but may not be expected.
    """

    __slots__ = (
        "cgroup_manager", "console_fd", "fault", "inform", "listen_fds", "listen_names", "no_new_keyring", "no_pivot",
        "notify", "pid_file", "pidfd_socket", "preserve_fds", "resctrl", "rootless", "stdio", "timings", "warn",
    )  # fmt: skip

    def __init__(
        self,
        *,
        console_fd: int = -1,
        pid_file: str = "",
        pidfd_socket: int = -1,
        stdio: tuple[int, int, int] = (0, 1, 2),
        preserve_fds: tuple[int, ...] = (),
        listen_fds: int = 0,
        listen_names: str = "",
        notify: bool = False,
        resctrl: str = "",
        no_pivot: bool = False,
        no_new_keyring: bool = False,
        cgroup_manager: str = "cgroupfs",
        fault: int = -1,
        timings: bool = False,
        rootless: bool | None = None,
        warn: Callable[[str], None] | None = None,
        inform: Callable[[str], None] | None = None,
    ) -> None:
        self.console_fd = console_fd
        self.pid_file = pid_file
        self.pidfd_socket = pidfd_socket
        self.stdio = stdio
        self.preserve_fds = preserve_fds
        self.listen_fds = listen_fds
        self.listen_names = listen_names
        self.notify = notify
        self.resctrl = resctrl
        self.no_pivot = no_pivot
        self.no_new_keyring = no_new_keyring
        self.cgroup_manager = cgroup_manager
        self.fault = fault
        self.timings = timings
        self.rootless = rootless
        self.warn = warn
        self.inform = inform


def prepare(
    container_id: str,
    bundle: str,
    more: dict[str, Any],
    *,
    spec: dict[str, Any] | None = None,
    rootless: bool | None = None,
    cgroup_manager: str = "cgroupfs",
    resctrl: str = "",
) -> tuple[dict[str, Any], Cgroup, plan.Plan, Rdt | None]:
    """Everything that can be decided before anything is made: config, cgroup paths, plan and groups of resctrl.

    Args:
        more: members of :class:`ocipy.plan.Options` that the caller has chosen.
        spec: the config, in place of the bundle's config.json.
        rootless, cgroup_manager, resctrl: see :class:`CreateOptions`.

    Raises:
        ConfigError, Unsupported, StateError (a malformed id), CgroupError.
    """
    check_id(container_id)
    spec = load(bundle) if spec is None else verify(spec)
    _check_root(os.clean(os.join(bundle, spec["root"]["path"])))
    facts = host.facts()
    linux = spec.get("linux") or {}
    cgroup = _place_cgroup(spec, container_id, facts, rootless, cgroup_manager)
    compiled = plan.compile(
        spec, facts,
        plan.Options(bundle, container_id, cgroup.paths, **more),
    )
    if facts.euid:
        check_programs(linux)
    rdt = None
    if (wanted := linux.get("intelRdt")) is not None:
        from ocipy.cgroups import resctrl_groups

        rdt = resctrl_groups.place(wanted, container_id, resctrl)
    return spec, cgroup, compiled, rdt


def _place_cgroup(
    spec: dict[str, Any], container_id: str, facts: host.Host, rootless: bool | None, manager: str
) -> Cgroup:
    linux = spec.get("linux") or {}
    path = linux.get("cgroupsPath")
    if manager == "systemd":
        from ocipy.cgroups.systemd.driver import place

        return place(path, container_id, spec.get("annotations") or {}, facts)
    if manager == "disabled":
        for name in ("cgroupsPath", "resources"):
            if linux.get(name):
                raise ConfigError(
                    f"{name} is set, and the container gets no cgroup: --cgroup-manager disabled",
                    config_path=f"$.linux.{name}",
                )  # fmt: skip
        cgroup = cgroups.select("", container_id, facts.cgroups, rootless=True)
        cgroup.paths.clear()
        return cgroup
    rootless = facts.rootless if rootless is None else rootless
    cgroup = cgroups.select(path, container_id, facts.cgroups, rootless=rootless)
    if cgroup.optional:
        from ocipy.cgroups.rootless import settle

        settle(cgroup, facts.cgroups)
    return cgroup


def _check_root(path: str) -> None:
    """The root file system: a directory, and itself no symbolic link (who may change a link could point it
    anywhere between this check and the mount)."""
    try:
        mode = os.lstat(path).st_mode
    except OSError as error:
        raise ConfigError(
            f"rootfs {path}", config_path="$.root.path", syscall="lstat", errno=error.errno or 0
        ) from None
    if mode & 0o170000 == 0o120000:
        raise ConfigError(f"rootfs {path} is a symbolic link", config_path="$.root.path")
    if mode & 0o170000 != 0o040000:
        raise ConfigError(f"rootfs {path} is not a directory", config_path="$.root.path")


def check_console(compiled: plan.Plan, options: CreateOptions) -> None:
    """A terminal takes a console socket, and the other way round. Raises ConfigError."""
    if "console" in compiled.given and options.console_fd < 0:
        raise ConfigError(
            "a terminal needs a console socket", config_path="$.process.terminal", code="console-socket",
            hint="--console-socket, or run without --detach",
        )  # fmt: skip
    if "console" not in compiled.given and options.console_fd >= 0:
        raise ConfigError(
            "a console socket, and process.terminal is not true", config_path="$.process.terminal",
            code="console-socket",
        )  # fmt: skip


def tell(spec: dict[str, Any], compiled: plan.Plan, options: CreateOptions) -> None:
    """Tell of what is ignored: capabilities that don't exist (config.md#linux-process), and what the plan has found.
    Tell of what the flags of bind mounts cost, too."""
    if options.inform is not None:
        for op in compiled.ops:
            if op.kind is bind_attr and _may_lose(*op.values[3:]):  # type: ignore[arg-type]
                from ocipy.container.lost_flags import notice as unnamed

                if text := unnamed(op.path, str(op.values[4]), int(op.values[3])):  # type: ignore[arg-type]
                    options.inform(text)
    if (warn := options.warn) is None:
        return
    for notice in compiled.notices:
        warn(notice)
    sets = (spec.get("process") or {}).get("capabilities") or {}
    if set().union(*(sets.get(name) or () for name in CAPABILITY_SETS)).difference(CAPABILITIES):
        from ocipy.config.warnings import notices

        for fault in notices(spec):
            warn(fault.text)


def _may_lose(unnamed: int, source: str) -> bool:
    """Whether the mount of a source has flags that its bind mount will not have. ST_* of statvfs(3) and MOUNT_ATTR_*
    are the same, but for nosymfollow."""
    try:
        found = os.statvfs(source).f_flag if unnamed else 0
    except OSError:
        return False  # that is for the mount to say
    return bool(found & unnamed & 0xF or (found & 0x2000 and unnamed & NOSYMFOLLOW))
