"""checkpoint: a running container's processes written to image files, by CRIU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import EBADF
from fcntl import F_GETFL, fcntl
from functools import partial

from ocipy import host
from ocipy.checkpoint import criu, external_resources
from ocipy.errors import StateError, UsageError
from ocipy.kernel import json
from ocipy.kernel import os as _os
from ocipy.kernel.proc import start_time
from ocipy.launch.protocol import launch
from ocipy.plan import criu as plans
from ocipy.store.record import PAUSED, RUNNING, Record

LOG = "dump.log"
NEW_NETWORK = 0x40000000  # CLONE_NEWNET


@dataclass(kw_only=True)
class CheckpointOptions(criu.CriuOptions):
    """How to checkpoint.

    Attributes:
        parent_path: the images of an earlier pre-dump, relative to ``image_path``.
        leave_running: let the container go on.
        pre_dump: write memory only, and let the container go on.
        tcp_skip_in_flight: leave out TCP connections that are not established yet.
        link_remap: link files that are open and unlinked back while they are dumped.
        page_server: host and port where memory goes; with ``lazy_pages``, where it is offered.
        status_fd: gets a zero byte once memory is offered; -1: none.
    """

    parent_path: str = ""
    leave_running: bool = False
    pre_dump: bool = False
    tcp_skip_in_flight: bool = False
    link_remap: bool = False
    page_server: tuple[str, int] | None = None
    status_fd: int = -1


def checkpoint(record: Record, options: CheckpointOptions) -> None:
    """Write a container's processes to image files. They are gone then, unless told to go on; what the state
    directory has of the container is left alone.

    Args:
        record: locked.
        options: see :class:`CheckpointOptions`.

    Raises:
        StateError: the container is neither running nor paused.
        Unsupported: CRIU is missing, too old, or finds something missing in this kernel.
        UsageError: a directory or descriptor can't be used.
        Error: CRIU could not do it; the container goes on.
    """
    if (status := record.status()) not in (RUNNING, PAUSED):
        raise StateError(
            f"container {record.entry.id!r} cannot be checkpointed in {status} state", code="not-running"
        )  # fmt: skip
    _check(options)
    path, env = criu.find()
    start = partial(launch, plans.serve(path, env), given={})
    features = [criu.MEM_TRACK] * options.pre_dump + [criu.LAZY_PAGES] * options.lazy_pages
    criu.require(start, *features)
    images = criu.directory(options.image_path, "--image-path", make=True)
    try:
        _check_parent(options, images)
        work = criu.directory(options.log_dir, "--work-path", make=True)
        try:
            serve = partial(launch, plans.serve(path, env, dies=options.lazy_pages), given={})
            _dump(record, options, images, work, criu.Criu(serve))
        finally:
            os.close(work)
    finally:
        os.close(images)


def _check(options: CheckpointOptions) -> None:
    if options.status_fd >= 0:
        _check_status(options)
    if options.lazy_pages and not options.page_server:
        raise UsageError("--lazy-pages: takes --page-server too, the address at which the memory is to be had")


def _check_status(options: CheckpointOptions) -> None:
    if not options.lazy_pages:
        raise UsageError("--status-fd: only with --lazy-pages")
    try:
        writable = fcntl(options.status_fd, F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    except OSError:
        raise UsageError(f"--status-fd {options.status_fd}", errno=EBADF) from None
    if not writable:
        raise UsageError(f"--status-fd {options.status_fd}: not writable")


def _check_parent(options: CheckpointOptions, images: int) -> None:
    if options.parent_path.startswith("/"):
        raise UsageError("--parent-path must be relative to --image-path")
    if options.parent_path:
        try:
            os.close(os.open(options.parent_path, os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=images))
        except OSError as error:
            raise UsageError(f"--parent-path {options.parent_path}", errno=error.errno or 0) from None


def _dump(record: Record, options: CheckpointOptions, images: int, work: int, process: criu.Criu) -> None:
    config = record.config()
    given = options.request(images, work, LOG, record.data["annotations"])
    given |= {"pid": record.pid, "root": record.data["rootfs"], "empty_ns": NEW_NETWORK}
    streams, outside = external_resources.streams(record.pid)
    given["external"] = outside + external_resources.namespaces_to_dump(config, record.pid)
    if freezer := _freezer(record):
        given["freeze_cgroup"] = freezer
    if options.page_server:
        given["ps"] = criu.pair(*options.page_server)
    if options.parent_path or options.pre_dump:
        given["track_mem"] = 1
    if options.parent_path:
        given["parent_img"] = options.parent_path
    if not options.pre_dump:
        found = external_resources.bound(
            config, record.data["bundle"], f"/proc/{record.pid}/root", host.cgroups(), record.data["cgroup"]["paths"]
        )
        given["ext_mnt"] = external_resources.to_dump(config, found, record.pid)

    def complete() -> None:
        if not options.pre_dump:
            _os.replace_file(criu.DESCRIPTORS, json.dumps(streams).encode(), dir_fd=images)

    def notify(step: str, _pid: int, _fds: list[int]) -> None:
        if step == "status-ready":
            complete()  # but for the memory, which CRIU goes on to offer
            if options.status_fd >= 0:
                os.write(options.status_fd, b"\0")
                os.close(options.status_fd)

    try:
        if not options.pre_dump:
            _forget(options.image_path, images)
        record.entry.note("criu", process.launched.pid, start_time(process.launched.pid))
        process.ask(criu.PRE_DUMP if options.pre_dump else criu.DUMP, criu.options(given), notify)
    except criu.Refused as refused:
        raise refused.error(
            f"checkpoint container {record.entry.id!r}", f"{options.log_dir}/{LOG}", "checkpoint"
        ) from None  # fmt: skip
    finally:
        record.entry.forget()
        process.close()  # after a pre-dump it would wait for the dump
    complete()


def _forget(path: str, images: int) -> None:
    """Remove the mark of an earlier checkpoint: what is there from now on is not whole. Raises UsageError."""
    try:
        os.unlink(criu.DESCRIPTORS, dir_fd=images)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"--image-path: {path}/{criu.DESCRIPTORS}", errno=error.errno or 0) from None


def _freezer(record: Record) -> str:
    """The cgroup directory by which CRIU can stop all processes at once."""
    paths: dict[str, str] = record.data["cgroup"]["paths"]
    return paths.get("", "") if list(paths) == [""] else paths.get("freezer", "")  # v2, where there is no other
