"""The state directory: one directory per container below the root, safe against a SIGKILL at any instant.

``<root>/<id>/`` holds ``state.json`` (written whole, then renamed into place), ``config.json`` (the config as
it was judged by create) and, until the container is started, ``start.sock``. Whoever changes a container holds
a lock on its directory; whoever only looks needs none. What is about to be made is recorded before it is made.
"""

from __future__ import annotations

from errno import EEXIST, ENOENT, ENOTDIR
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from ocipy.errors import StateError
from ocipy.kernel import json, os
from ocipy.store import shape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_ROOT = "/run/ocipy"
STATE, CONFIG, SOCKET = "state.json", "config.json", "start.sock"
BUSY = "busy"  # what the holder of the lock waits for
#: what may be in the directory of a container without a state
_REMAINS = frozenset((STATE + ".new", CONFIG, SOCKET, "brief", "notify", "answer", BUSY))
_LARGEST = 32 << 20  # bytes of a file: twice the largest config, since what is written may be longer than what was read
_ID_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")


def default_root() -> str:
    """``/run/ocipy``; for a user other than the host's root below XDG_RUNTIME_DIR, where that is set (runc's rule).
    One that is relative is to be ignored (XDG base directories)."""
    runtime = os.getenv("XDG_RUNTIME_DIR") or ""
    return os.clean(f"{runtime}/ocipy") if runtime.startswith("/") and _own_runtime() else DEFAULT_ROOT


def _own_runtime() -> bool:
    """Whether XDG_RUNTIME_DIR is the caller's. Root of a user namespace may be a user who began one (rootless
    engines) or root of a nested container, who says so in USER."""
    if os.geteuid():
        return True
    from ocipy import host

    return host.in_userns() and os.getenv("USER") != "root"


def check_id(container_id: str) -> str:
    """A well-formed container id.

    Raises:
        StateError: empty, ``.`` or ``..``, or letters outside of ``[A-Za-z0-9_+.-]``.
    """
    if container_id in ("", ".", "..") or len(container_id) > 255 or set(container_id) - _ID_LETTERS:
        raise StateError(
            f"invalid id format {container_id!r}", code="container-id-invalid",
            hint="1 to 255 of the letters A-Z a-z 0-9 _ + . -",
        )  # fmt: skip
    return container_id


class Entry:
    """The state directory of one container, held open. Close it, or use it as a context manager."""

    def __init__(self, root: str, container_id: str, fd: int) -> None:
        self.path = f"{root}/{container_id}"
        self.id = container_id
        self.fd = fd
        self._mine = False

    def __enter__(self) -> Entry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the directory, and the lock with it."""
        fd, self.fd = self.fd, -1
        os.shut(fd)

    def lock(self, *, wait: bool = True) -> bool:
        """Wait until this is the only process that changes the container.

        Args:
            wait: else another that does is no reason to wait.

        Returns:
            Whether this is it.

        Raises:
            StateError: the container was deleted meanwhile.
        """
        try:
            flock(self.fd, LOCK_EX if wait else LOCK_EX | LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise unusable(self.path, "flock", error) from None
        self._mine = True
        try:
            here = os.stat(self.path)
            same = os.fstat(self.fd).st_ino == here.st_ino
        except FileNotFoundError:
            same = False
        if not same:
            raise missing(self.id)
        return True

    def note(self, what: str, pid: int, started: int) -> None:
        """Let others know what the holder of the lock waits for now: `delete --force` ends it.

        Args:
            what: the kind of a hook, or ``criu``.
            pid: the process.
            started: its start time.
        """
        try:
            os.write_file(BUSY, f"{pid} {started} {what}".encode(), dir_fd=self.fd)
        except OSError:
            pass  # nobody but a forced delete needs it

    def noted(self) -> tuple[int, int, str] | None:
        """What :meth:`note` has: pid, start time and what it is; None: nothing."""
        try:
            words = os.read_bytes(BUSY, 4096, dir_fd=self.fd).decode(errors="replace").split(" ")
        except OSError:
            return None
        if len(words) != 3 or not (words[0] + words[1]).isdecimal():
            return None
        return int(words[0]), int(words[1]), words[2]

    def forget(self) -> None:
        """Take back :meth:`note`."""
        try:
            os.unlink(BUSY, dir_fd=self.fd)
        except OSError:
            pass

    def locked(self) -> bool:
        """Whether another process is changing the container now."""
        if self._mine:
            return False
        fd = os.open(".", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            flock(fd, LOCK_SH | LOCK_NB)  # shared: two who look at the same time don't see each other
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def read(self) -> dict[str, Any]:
        """The recorded state; empty if the creator died before it wrote any.

        Raises:
            StateError: the file is damaged, or another runtime's; or the directory is no container's at all.
        """
        try:
            state = self.parse(STATE)
        except FileNotFoundError:
            self._check_own(_REMAINS)
            return {}
        if "init_process_pid" in state:  # whose containers may be running
            raise StateError(f"{self.path}/{STATE} was written by runc, not by ocipy", code="state-foreign")
        if fault := shape.wrong(state, self.id):
            raise self.damaged(STATE, fault)
        return state

    def parse(self, name: str) -> dict[str, Any]:
        """The JSON object in a file.

        Raises:
            FileNotFoundError: there is no such file.
            StateError: it can't be read, or is damaged.
        """
        try:
            value = json.loads(os.read_regular(name, _LARGEST, dir_fd=self.fd))
        except FileNotFoundError:
            raise
        except OSError as error:
            raise unusable(f"{self.path}/{name}", "read", error) from None
        except ValueError as error:  # JSONError, too
            raise self.damaged(name, str(error)) from None
        if type(value) is not dict:
            raise self.damaged(name, "it is not an object")
        return value

    def damaged(self, name: str, what: str) -> StateError:
        """The error for a file that is not as it was written."""
        return StateError(
            f"{self.path}/{name} is damaged: {what}", code="state-damaged",
            hint=f"ocipy delete --force {self.id} removes what is left of the container" if name == STATE else "",
        )  # fmt: skip

    def remains(self) -> dict[str, Any]:
        """What a damaged state still says for sure (:func:`ocipy.store.shape.remains`).

        Raises:
            StateError: there is something in the directory that is no container's.
        """
        self._check_own(_REMAINS | {STATE})
        try:
            return shape.remains(self.parse(STATE), self.id)
        except (FileNotFoundError, StateError):
            return shape.remains(None, self.id)

    def _check_own(self, known: frozenset[str]) -> None:
        """Refuse a directory without a sound state that has anything in it which a killed create or delete can't have
        left: with the wrong ``--root``, delete would empty it.

        Raises:
            StateError: there is such a thing.
        """
        for name in os.listdir(self.fd):
            if name not in known:
                raise StateError(
                    f"container {self.id!r} does not exist: {self.path} is something else: it has {name!r} in it",
                    code="state-foreign", hint="is --root right?",
                )  # fmt: skip

    def write(self, state: dict[str, Any]) -> None:
        """Replace the recorded state. Raises StateError: it can't be written, and the former one is still there."""
        self.keep(STATE + ".new", json.encode(state))
        try:
            os.rename(STATE + ".new", STATE, src_dir_fd=self.fd, dst_dir_fd=self.fd)
        except OSError as error:
            raise unusable(self.path, "rename", error) from None

    def keep(self, name: str, data: bytes) -> None:
        """Write a file. Raises StateError."""
        try:
            os.write_file(name, data, dir_fd=self.fd)
        except OSError as error:
            raise unusable(self.path, "write", error) from None

    def remove(self) -> None:
        """Remove the directory with what is in it. The state goes last: until then `delete` can come back."""
        try:
            for name in sorted(os.listdir(self.fd), key=lambda name: name == STATE):
                self._drop(name)
            os.rmdir(self.path)
        except OSError as error:
            try:
                os.rmdir(self.path)  # there may be nothing in it, and no descriptor left to see that by
            except OSError:
                raise unusable(self.path, getattr(error, "syscall", "unlink"), error) from None

    def _drop(self, name: str) -> None:
        """Remove a file, or a directory with what is in it. No symbolic link is followed."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except (IsADirectoryError, PermissionError):  # the latter: it is immutable
            if os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_mode & 0o170000 != 0o040000:
                raise
            from ocipy.store.clear import clear

            self._check_mounts()
            clear(name, self.fd)

    def _check_mounts(self) -> None:
        """Refuse to empty a directory in which something is mounted: it would be emptied as well. Raises StateError."""
        own = os.readlink(f"/proc/self/fd/{self.fd}")
        for line in os.lines(os.read_text("/proc/self/mountinfo")):
            point = os.mount_name(line.split(" ")[4])
            if point.startswith(own + "/"):
                raise StateError(
                    f"can't remove {self.path}: something is mounted on {point}", code="state-root", hint="umount it"
                )


class Store:
    """The containers below one root directory (``--root``).

    Raises:
        StateError: the root is ``/``, whose directories are no containers.
    """

    def __init__(self, root: str = "") -> None:
        self.root = os.absolute(root) if root else default_root()
        if self.root == "/":
            raise StateError("/ can't be the state directory", code="state-root", hint="--root chooses another")
        # in XDG_RUNTIME_DIR, what is to outlive a periodic clean-up is marked by the sticky bit (XDG base directories)
        self._mode = 0o700 if root or self.root == DEFAULT_ROOT else 0o1700

    def create(self, container_id: str) -> Entry:
        """Make the directory of a new container, locked.

        Raises:
            StateError: a malformed id, or one that is in use; the directory can't be made.
        """
        check_id(container_id)
        self._make_root()
        path = f"{self.root}/{container_id}"
        try:
            os.mkdir(path, 0o700)
        except OSError as error:
            if error.errno != EEXIST:
                raise unusable(path, "mkdir", error) from None
            raise StateError(
                f"container with id {container_id!r} exists: container with given ID already exists",
                code="container-exists", hint=f"ocipy delete {container_id}",
            ) from None  # fmt: skip
        entry = None
        try:
            entry = self.open(container_id)
            entry.lock()
        except BaseException:
            if entry is not None:
                entry.close()
            try:
                os.rmdir(path)  # empty as yet, if it is still ours
            except OSError:
                pass
            raise
        return entry

    def open(self, container_id: str) -> Entry:
        """The directory of an existing container, not locked.

        Raises:
            StateError: a malformed id, no such container, or one that may not be looked at.
        """
        check_id(container_id)
        path = f"{self.root}/{container_id}"
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (ENOENT, ENOTDIR):
                raise missing(container_id) from None
            raise unusable(path, "open", error) from None
        return Entry(self.root, container_id, fd)

    def ids(self) -> list[str]:
        """The ids of all containers, sorted."""
        try:
            return sorted(name for name in os.listdir(self.root) if not set(name) - _ID_LETTERS)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise unusable(self.root, "open", error) from None

    def _make_root(self) -> None:
        done = ""
        for part in self.root.split("/")[1:]:
            done += f"/{part}"
            try:
                os.mkdir(done, self._mode if done == self.root else 0o755)
            except FileExistsError:
                continue
            except OSError as error:
                raise unusable(done, "mkdir", error) from None


def unusable(path: str, syscall: str, error: OSError) -> StateError:
    """The error for a state directory that can't be made, opened or read."""
    hint = "--root chooses another"
    runtime = os.getenv("XDG_RUNTIME_DIR") or ""
    if path.startswith(DEFAULT_ROOT) and os.geteuid() and not runtime.startswith("/"):
        hint = f"XDG_RUNTIME_DIR is {'no absolute path' if runtime else 'not set'}; {hint}"
    return StateError(
        f"can't use the state directory {path}", code="state-root", syscall=syscall, errno=error.errno or 0,
        hint=hint,
    )  # fmt: skip


def missing(container_id: str) -> StateError:
    """The error for an id that no container has."""
    return StateError(f"container {container_id!r} does not exist", code="container-not-found")
