"""ocipy exec."""

from __future__ import annotations

from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Args, Command, Flag
from ocipy.config.names import CAPABILITIES
from ocipy.console import foreground
from ocipy.container.create import remove_pid_file
from ocipy.container.exec import exec_process, process_of
from ocipy.errors import CgroupError, UsageError
from ocipy.kernel import os
from ocipy.store import Store
from ocipy.store.record import Record, not_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.base import Cgroup

COMMAND = Command(
    "exec",
    "Run a further process in a container",
    "ID [COMMAND...]",
    (
        Flag("process p", "file with the process, as in config.json", "FILE"),
        Flag("cwd", "working directory in the container", "DIR"),
        Flag("env e", "set a variable (repeatable)", "NAME=VALUE", many=True),
        Flag("user u", "user and group, as UID[:GID]", "UID[:GID]"),
        Flag("tty t", "give it a terminal"),
        Flag("detach d", "return when it runs"),
        common.CONSOLE_SOCKET,
        common.PIDFD_SOCKET,
        common.PID_FILE,
        common.PRESERVE_FDS,
        Flag("additional-gids g", "a further group (repeatable)", "GID", many=True, kind=int),
        Flag("cap c", "a capability to add to its sets (repeatable)", "CAP", many=True),
        Flag("no-new-privs", "set no_new_privs"),
        Flag("cgroup", "run it in a cgroup below the container's (repeatable on v1)", "[CTRL[,CTRL]:]PATH", many=True),
        Flag("ignore-paused", "in a paused container wait until it is resumed"),
        Flag("apparmor", "AppArmor profile", "PROFILE"),
        Flag("process-label", "SELinux label", "LABEL"),
    ),
    passes=True,
)


def run(context: Context) -> int:
    args = context.args
    entry = Store(context.root).open(args.rest[0])
    record = Record.load(entry)
    process = _process(args, record)
    console = None
    cgroup = _below(record, args.cgroup) if args.cgroup else None
    fd = common.connect("--console-socket", args.console_socket)
    if fd >= 0 and not args.detach:
        raise UsageError("--console-socket: only with --detach; in the foreground the terminal is the caller's")
    if process.get("terminal") and fd < 0 and not args.detach:
        from ocipy.console.terminal import Console, window

        console = Console()
        fd = console.theirs
        width, height = window()
        process.setdefault("consoleSize", {"width": width, "height": height})
    if not args.detach:
        foreground.become_subreaper()
        foreground.hold_signals()
    launched = exec_process(
        record, process, preserve_fds=common.preserved(args), console_fd=fd,
        pid_file=common.absolute(args.pid_file),
        listen_fds=common.listening(), listen_names=os.getenv("LISTEN_FDNAMES"),
        pidfd_socket=common.connect("--pidfd-socket", args.pidfd_socket), cgroup=cgroup,
        ignore_paused=args.ignore_paused, warn=context.warn,
        made=console.master if console else None,
    )  # fmt: skip
    if args.detach:
        return 0
    try:
        return foreground.attend(launched.pid, launched.pidfd, console.taken if console else -1)
    except BaseException:  # we can't stay with it, and say that it failed: then it must not go on
        launched.kill()
        if args.pid_file:
            remove_pid_file(common.absolute(args.pid_file))
        raise


def _process(args: Args, record: Record) -> dict[str, Any]:
    if args.process:
        if len(args.rest) > 1:
            raise UsageError("exec: a command and --process exclude each other")
        for name in ("cwd", "env", "user", "additional-gids", "cap", "no-new-privs", "apparmor", "process-label"):
            if name.replace("-", "_") in args.given:
                raise UsageError(f"exec: --{name} and --process exclude each other: the file says all")
        process = common.read_object("--process", args.process)
        if args.tty and not process.get("terminal"):
            raise UsageError(f"exec: --tty, and the process in {args.process} has no terminal")
        return process
    if len(args.rest) < 2:
        raise UsageError("exec: COMMAND is missing: give one, or --process")
    if args.cwd is not None and not args.cwd.startswith("/"):
        raise UsageError(f"--cwd: {args.cwd!r} is not an absolute path")
    for entry in args.env:
        if entry.find("=") < 1:
            raise UsageError(f"--env: {entry!r} is not NAME=VALUE")
    for gid in args.additional_gids:
        if not 0 <= gid < 0xFFFFFFFF:
            raise UsageError(f"--additional-gids: {gid} is not a group id, 0 to 4294967294")
    config = record.config()
    process = process_of(
        config, args=args.rest[1:], cwd=args.cwd, env=args.env or None, terminal=bool(args.tty),
        noNewPrivileges=args.no_new_privs if "no_new_privs" in args.given else None, apparmorProfile=args.apparmor,
        selinuxLabel=args.process_label,
    )  # fmt: skip
    user = {"uid": 0, "gid": 0} | (process.get("user") or {})
    if args.user is not None:
        user = parse_user(args.user, user)
    if args.additional_gids:
        user["additionalGids"] = [*(user.get("additionalGids") or []), *args.additional_gids]
    process["user"] = user
    if args.cap:
        for name in args.cap:
            if name not in CAPABILITIES:
                raise UsageError(f"--cap: there is no capability {name!r}")
        sets = dict(process.get("capabilities") or {})
        for name in ("bounding", "effective", "permitted"):
            sets[name] = sorted({*sets.get(name, ()), *args.cap})
        # for another user than root: only what is ambient outlives the exec. It can be if it is inheritable as well
        inheritable = [name for name in args.cap if name in sets.get("inheritable", ())]
        sets["ambient"] = sorted({*sets.get("ambient", ()), *inheritable})
        process["capabilities"] = sets
    return process


def _below(record: Record, words: list[str]) -> Cgroup:
    """The cgroup of --cgroup: a path below the container's, on v1 for each controller.

    Raises:
        UsageError: a word of another form, or a controller named twice.
        CgroupError: there is no such controller, or the path leads out.
        Unsupported: the container has no cgroup of its own.
    """
    sub: dict[str, str] = {}
    for word in words:
        controllers, colon, path = word.rpartition(":")
        if not colon and len(words) > 1:
            raise UsageError(f"--cgroup: {word!r} names no controller, and there is more than one")
        for controller in controllers.split(","):
            if colon and not controller:
                raise UsageError(f"--cgroup: {word!r} names no controller")
            if controller in sub:
                raise UsageError(f"--cgroup: {word!r} names {controller} twice")
            sub[controller] = path
    own = record.cgroup()
    if own is None:
        raise not_running(record)
    try:
        cgroup = own.below(sub)
    except CgroupError as error:
        raise UsageError(f"--cgroup: {error.message}") from None
    if not own.paths and any(path.strip("/") for path in sub.values()):
        from ocipy.cgroups.refusals import no_cgroup

        raise no_cgroup("have one below (--cgroup)")
    for directory in set(cgroup.paths.values()):
        if not os.exists(directory):
            raise UsageError(f"--cgroup: {directory} does not exist")
    return cgroup


def parse_user(text: str, user: dict[str, Any]) -> dict[str, Any]:
    """UID[:GID]: decimal numbers and nothing else. (A runtime that took "1000:" or "0x0" for something has
    run programs as root: CVE-2026-30892.)

    Raises:
        UsageError: the text is anything else.
    """
    uid, colon, gid = text.partition(":")
    for part in (uid, *([gid] if colon else [])):
        if not (part.isascii() and part.isdigit()) or int(part) > 0xFFFFFFFE:
            raise UsageError(f"--user: {text!r} is not UID[:GID] in decimal")
    changed = user | {"uid": int(uid)}
    return changed | {"gid": int(gid)} if colon else changed
