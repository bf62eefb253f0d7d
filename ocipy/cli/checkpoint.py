"""ocipy checkpoint."""

from __future__ import annotations

from ocipy.checkpoint.checkpoint import CheckpointOptions, checkpoint
from ocipy.checkpoint.criu import CGROUP_MODES
from ocipy.cli import common
from ocipy.cli.main import Context
from ocipy.cli.parser import Args, Command, Flag
from ocipy.container.delete import delete
from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: those that restore has as well
SHARED = (
    Flag("image-path", "directory of the image files (default: checkpoint)", "DIR"),
    Flag("work-path", "directory of the log and other work files (default: that of the images)", "DIR"),
    Flag("tcp-established", "handle open TCP connections"),
    Flag("ext-unix-sk", "allow unix sockets connected to outside of the container"),
    Flag("shell-job", "handle a terminal that is the caller's own"),
    Flag("lazy-pages", "move memory on demand (userfaultfd)"),
    Flag("file-locks", "handle file locks"),
    Flag("manage-cgroups-mode", "what CRIU does about cgroups", "MODE", choices=tuple(filter(None, CGROUP_MODES))),
    Flag("empty-ns", "leave out what is in this namespace: network, which always is", "TYPE", many=True,
         choices=("network",)),
    Flag("auto-dedup", "drop from the parent images what newer ones replace"),
)  # fmt: skip


def page_server(text: str) -> tuple[str, int]:
    """ADDRESS:PORT. Raises ValueError."""
    address, _, port = text.rpartition(":")
    number = int(port)
    if not address or not 0 < number < 65536:
        raise ValueError(text)
    return address.removeprefix("[").removesuffix("]"), number


COMMAND = Command(
    "checkpoint",
    "Write a container's processes to files, from which restore continues them",
    "ID",
    (
        *SHARED,
        Flag("parent-path", "the images of an earlier pre-dump, relative to --image-path", "DIR"),
        Flag("leave-running", "let the container go on"),
        Flag("pre-dump", "write memory only, and let the container go on"),
        Flag("tcp-skip-in-flight", "leave out TCP connections that are not established yet"),
        Flag("link-remap", "allow open files that are unlinked: link them back"),
        Flag("page-server", "send memory there; with --lazy-pages, offer it there", "ADDRESS:PORT",
             kind=page_server),
        Flag("status-fd", "descriptor that gets a zero byte once memory is offered", "FD", kind=int),
    ),
)  # fmt: skip


def shared(args: Args) -> dict[str, Any]:
    """The options of :data:`SHARED`."""
    return {
        "image_path": common.absolute(args.image_path or "checkpoint"),
        "work_path": common.absolute(args.work_path),
        "cgroups_mode": args.manage_cgroups_mode or "",
        "tcp_established": args.tcp_established,
        "ext_unix_sk": args.ext_unix_sk,
        "shell_job": args.shell_job,
        "lazy_pages": args.lazy_pages,
        "file_locks": args.file_locks,
        "auto_dedup": args.auto_dedup,
    }


def run(context: Context) -> int:
    args = context.args
    if args.status_fd is not None and args.status_fd < 0:
        raise UsageError(f"--status-fd: {args.status_fd} is negative")
    options = CheckpointOptions(
        **shared(args),
        parent_path=args.parent_path or "",
        leave_running=args.leave_running,
        pre_dump=args.pre_dump,
        tcp_skip_in_flight=args.tcp_skip_in_flight,
        link_remap=args.link_remap,
        page_server=args.page_server,
        status_fd=-1 if args.status_fd is None else args.status_fd,
    )
    record = common.locked(context.root, args.rest[0])
    checkpoint(record, options)
    if not options.leave_running and not options.pre_dump:
        for warning in delete(record, force=True):
            context.warn(warning)
    return 0
