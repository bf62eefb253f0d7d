"""The library's face: a container as an object.

Methods may be called from several threads, and from several processes for the same container: each takes the
container's lock for as long as it changes something.
"""

from __future__ import annotations

from _signal import SIGTERM
from _struct import pack_into, unpack_from
from _thread import allocate_lock
from fcntl import ioctl
from select import POLLIN, poll

from ocipy.config.bundle import Bundle
from ocipy.container import kill, start
from ocipy.container.create import create
from ocipy.container.delete import delete, remove
from ocipy.container.prepare import CreateOptions
from ocipy.errors import StateError, verb
from ocipy.kernel import os
from ocipy.launch.protocol import Launched, check_open
from ocipy.store import Store
from ocipy.store.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.checkpoint.checkpoint import CheckpointOptions
    from ocipy.checkpoint.restore import RestoreOptions
    from ocipy.plan import Plan

CLD_EXITED = 1
PIDFD_INFO_EXIT = 1 << 3
PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info), in its first size


class Process:
    """A process that was started in a container.

    Attributes:
        pid: as this process's pid namespace has it.
        pidfd: for poll(2); owned by this object.
    """

    def __init__(self, pid: int, pidfd: int, *, child: bool = False) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._child = child
        self._code: int | None = None
        self._lock = allocate_lock()

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process ends.

        Args:
            timeout: seconds to wait at the most.

        Returns:
            Its exit status, 128 + n if signal n ended it. None for a process that is not a child of this one,
            whose status only its parent gets; and for a child where the embedding program ignores SIGCHLD, or
            was faster to wait for any child, unless the kernel keeps the status (from 6.15 on).

        Raises:
            TimeoutError: it still runs.
        """
        with self._lock:
            if self.pidfd < 0:
                return self._code
            pidfd = os.dup(self.pidfd)  # another thread may be through with it first, and close the first one
        try:
            watch = poll()
            watch.register(pidfd, POLLIN)
            if not watch.poll(None if timeout is None else max(0.0, timeout) * 1000):
                raise TimeoutError(f"process {self.pid} still runs")
            with self._lock:
                if self.pidfd >= 0:
                    self._code = self._reap(pidfd)
                    self._close()
        finally:
            os.shut(pidfd)
        return self._code

    def close(self) -> None:
        """Give up the pidfd; the process goes on."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        fd, self.pidfd = self.pidfd, -1
        os.shut(fd)

    def _reap(self, pidfd: int) -> int | None:
        try:
            info = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        except ChildProcessError:
            return _kept_status(pidfd) if self._child else None
        if info is None:
            return None
        return int(info.si_status) if info.si_code == CLD_EXITED else 128 + int(info.si_status)

    def __del__(self) -> None:
        self._close()  # without the lock: nobody else has this object any more


def _kept_status(pidfd: int) -> int | None:
    """The exit status that a pidfd keeps of a process that was reaped (Linux 6.15)."""
    request = bytearray(64)  # struct pidfd_info
    pack_into("=Q", request, 0, PIDFD_INFO_EXIT)
    try:
        ioctl(pidfd, PIDFD_GET_INFO, request)
    except OSError:
        return None
    if not unpack_from("=Q", request)[0] & PIDFD_INFO_EXIT:
        return None
    code = os.waitstatus_to_exitcode(unpack_from("=i", request, 60)[0])
    return code if code >= 0 else 128 - code


class Container:
    """One container. Make it by :meth:`create` or :meth:`run`, or find it by :meth:`load`.

    As a context manager it is killed and deleted at the end.

    Attributes:
        id: the container's id.
        init: its first process; None when it was loaded after that had ended.
        warnings: what went wrong in its deletion without stopping it (a poststop hook that failed).
        timings: microseconds per plan operation, if create was asked for them.
    """

    def __init__(self, store: Store, container_id: str, init: Process | None) -> None:
        self.id = container_id
        self.init = init
        self.timings: list[int] = []
        self.warnings: list[str] = []
        self._store = store
        self._plan: Plan | None = None

    @classmethod
    @verb("create")
    def create(
        cls, container_id: str, bundle: Bundle | str, *, root: str = "", options: CreateOptions | None = None
    ) -> Container:
        """Create a container: everything is set up, and the program waits for :meth:`start`.

        Args:
            container_id: letters of ``[A-Za-z0-9_+.-]``.
            bundle: the bundle, or its path.
            root: the state directory; ``/run/ocipy`` unless given.
            options: terminal, descriptors and more.

        Raises:
            Error: config, host or state do not allow it; nothing is left behind.
        """
        store = Store(root)
        path = bundle.path if isinstance(bundle, Bundle) else Bundle(bundle).path
        record, launched = create(store, container_id, path, options or CreateOptions())
        record.entry.close()
        container = cls(store, container_id, _process(launched))
        container.timings = launched.timings
        container._plan = launched.plan
        return container

    @classmethod
    @verb("run")
    def run(
        cls, container_id: str, bundle: Bundle | str, *, root: str = "", options: CreateOptions | None = None
    ) -> Container:
        """Create and start a container. Raises Error; nothing is left behind then."""
        container = cls.create(container_id, bundle, root=root, options=options)
        try:
            container.start()
        except BaseException:
            with container:  # that deletes it, if it is still there
                raise
        return container

    @classmethod
    @verb("load")
    def load(cls, container_id: str, *, root: str = "") -> Container:
        """Find an existing container.

        Raises:
            StateError: there is none with this id.
        """
        store = Store(root)
        with store.open(container_id) as entry:
            record = Record.load(entry)
            pidfd = record.pidfd()
            return cls(store, container_id, Process(record.pid, pidfd) if pidfd >= 0 else None)

    @classmethod
    @verb("restore")
    def restore(
        cls, container_id: str, bundle: Bundle | str, options: RestoreOptions, *, root: str = ""
    ) -> Container:
        """Continue a container from the images of a :meth:`checkpoint`, by CRIU.

        Args:
            container_id, bundle, root: as for :meth:`create`.
            options: where the images are, and more.

        Raises:
            Error: it can't be restored; nothing is left behind then.
        """
        from ocipy.checkpoint.restore import restore

        store = Store(root)
        path = bundle.path if isinstance(bundle, Bundle) else Bundle(bundle).path
        record, launched = restore(store, container_id, path, options)
        record.entry.close()
        return cls(store, container_id, _process(launched))

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.delete(force=True)
        except StateError as error:
            if error.code != "container-not-found":
                raise

    def _locked(self) -> Record:
        return Record.locked(self._store, self.id)

    @verb("start")
    def start(self) -> None:
        """Run the program.

        Raises:
            StateError: the status is another than created.
            LaunchError: it can't be run; or a hook failed, and the container is deleted then.
        """
        record = self._locked()
        with record.entry:
            start.start(record, self._plan)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the init process ends; see :meth:`Process.wait`."""
        return self.init.wait(timeout) if self.init is not None else None

    @verb("kill")
    def kill(self, signal: int = SIGTERM, *, everyone: bool = False) -> None:
        """Signal the init process, or every process; without a pid namespace of its own, SIGKILL is always for every
        process. Raises StateError: it is not running."""
        with self._store.open(self.id) as entry:
            kill.kill(Record.load(entry), signal, everyone=everyone)

    @verb("delete")
    def delete(self, *, force: bool = False) -> None:
        """Remove the container. Raises StateError: it is running, and ``force`` was not given."""
        try:
            with self._store.open(self.id) as entry:
                self.warnings += remove(entry, force=force)
        finally:
            self._reap_init()

    def _reap_init(self) -> None:
        """Our own child stays a zombie until it is waited for."""
        try:
            self.wait(0)
        except TimeoutError:
            pass

    @property
    @verb("state")
    def status(self) -> str:
        """creating, created, running, paused or stopped (runtime.md#state)."""
        with self._store.open(self.id) as entry:
            return Record.load(entry).status()

    @verb("state")
    def state(self) -> dict[str, Any]:
        """The state document (runtime.md#state)."""
        with self._store.open(self.id) as entry:
            record = Record.load(entry)
            return record.state(record.status())

    @verb("ps")
    def pids(self) -> list[int]:
        """The container's processes; none if it is stopped. Raises StateError: without a cgroup and a pid namespace
        they can't be told from others."""
        from ocipy.container.processes import members

        with self._store.open(self.id) as entry:
            return members(Record.load(entry))

    def pause(self) -> None:
        """Freeze every process. Raises StateError: it is not running."""
        self._freeze(True)

    def resume(self) -> None:
        """Thaw what pause froze. Raises StateError: it is not paused."""
        self._freeze(False)

    @verb("freeze")
    def _freeze(self, frozen: bool) -> None:
        from ocipy.container.pause import freeze

        record = self._locked()
        with record.entry:
            freeze(record, frozen)

    @verb("checkpoint")
    def checkpoint(self, options: CheckpointOptions) -> None:
        """Write the processes to files, by CRIU. The container is gone then, unless told to go on.

        Raises:
            StateError: it is not running.
            Error: it can't be checkpointed; it goes on then.
        """
        from ocipy.checkpoint.checkpoint import checkpoint

        record = self._locked()
        with record.entry:
            checkpoint(record, options)
            if not options.leave_running and not options.pre_dump:
                self.warnings += delete(record, force=True)

    @verb("exec")
    def exec(
        self,
        args: list[str] | None = None,
        *,
        process: dict[str, Any] | None = None,
        stdio: tuple[int, int, int] = (0, 1, 2),
        preserve_fds: tuple[int, ...] = (),
        console_fd: int = -1,
    ) -> Process:
        """Run a further process in the container.

        Args:
            args: its arguments, in place of those of config.json; all else as there.
            process: or the whole ``process`` object.
            stdio, preserve_fds, console_fd: as in :class:`CreateOptions`.

        Raises:
            StateError: the container is not running.
            ConfigError, LaunchError: the process is not valid or can't be run.
        """
        from ocipy.container.exec import exec_process, process_of

        check_open(*stdio, *preserve_fds)
        with self._store.open(self.id) as entry:
            record = Record.load(entry)
            whole = process or process_of(record.config(), args=args, terminal=console_fd >= 0)
            launched = exec_process(
                record, whole, stdio=stdio, preserve_fds=preserve_fds, console_fd=console_fd
            )
            return _process(launched)

    @verb("update")
    def update(
        self, resources: dict[str, Any], *, intel_rdt: dict[str, Any] | None = None, resctrl: str = ""
    ) -> None:
        """Change limits.

        Args:
            resources: ``linux.resources`` with only what is to change.
            intel_rdt: schemas of ``linux.intelRdt`` to write; a container that has no class gets one of its own.
            resctrl: as in :class:`CreateOptions`, for a container that has no class.

        Raises:
            StateError: it is stopped.
            Error: a value is wrong, or the kernel refuses it.
        """
        from ocipy.container.update import update

        record = self._locked()
        with record.entry:
            update(record, resources, intel_rdt, resctrl)

    @verb("events")
    def stats(self) -> dict[str, Any]:
        """Usage now, as the ``data`` of runc's ``events --stats``. Raises StateError: it is stopped."""
        with self._store.open(self.id) as entry:
            return Record.load(entry).stats()


def _process(launched: Launched) -> Process:
    process = Process(launched.pid, launched.pidfd, child=True)
    launched.pidfd = -1
    return process


