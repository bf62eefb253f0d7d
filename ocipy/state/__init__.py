"""The state directory: one directory per container below the root, safe against a SIGKILL at any instant.

``<root>/<id>/`` holds ``state.json`` (written whole, then renamed into place), ``config.json`` (the config as
it was judged by create) and, until the container is started, ``start.sock``. Whoever changes a container holds
a lock on its directory; whoever only looks needs none. What is about to be made is recorded before it is made.
"""

from __future__ import annotations

from errno import EEXIST, ENOENT, ENOTDIR
from fcntl import LOCK_EX, LOCK_NB, LOCK_SH, flock

from ocipy import _json as json
from ocipy import _os as os
from ocipy.errors import StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_ROOT = "/run/ocipy"
STATE, CONFIG, SOCKET = "state.json", "config.json", "start.sock"
#: what may be in the directory of a container without a state
_REMAINS = frozenset((STATE + ".new", CONFIG, SOCKET, "brief", "notify"))
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


def _well_formed(state: object) -> bool:
    """Whether a recorded state has what the code counts on."""
    if not isinstance(state, dict) or not isinstance(state.get("cgroup", {}), dict):
        return False
    pid = state.get("pid")
    return isinstance(pid, int) and (pid == 0 or isinstance(state.get("start_time"), int))


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
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lock(self) -> None:
        """Wait until this is the only process that changes the container.

        Raises:
            StateError: the container was deleted meanwhile.
        """
        flock(self.fd, LOCK_EX)
        self._mine = True
        try:
            here = os.stat(self.path)
            same = os.fstat(self.fd).st_ino == here.st_ino
        except FileNotFoundError:
            same = False
        if not same:
            raise missing(self.id)

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
            raw = os.read_bytes(STATE, dir_fd=self.fd)
        except FileNotFoundError:
            self._check_own()
            return {}
        try:
            state = json.loads(raw)
        except json.JSONError as error:
            raise StateError(f"{self.path}/{STATE} is damaged: {error}", code="state-damaged") from None
        if isinstance(state, dict) and "init_process_pid" in state:  # whose containers may be running
            raise StateError(f"{self.path}/{STATE} was written by runc, not by ocipy", code="state-foreign")
        if not _well_formed(state):
            raise StateError(f"{self.path}/{STATE} is damaged: no state of a container", code="state-damaged")
        return dict(state)

    def _check_own(self) -> None:
        """Refuse a directory without a state that has anything in it which a killed create or delete can't have
        left: with the wrong ``--root``, delete would empty it.

        Raises:
            StateError: there is such a thing.
        """
        for name in os.listdir(self.fd):
            if name not in _REMAINS:
                raise StateError(
                    f"container {self.id!r} does not exist: {self.path} is something else: it has {name!r} in it",
                    code="state-foreign", hint="is --root right?",
                )  # fmt: skip

    def write(self, state: dict[str, Any]) -> None:
        """Replace the recorded state. Raises StateError: it can't be written, and the former one is still there."""
        self.keep(STATE + ".new", json.dumps(state).encode())
        os.rename(STATE + ".new", STATE, src_dir_fd=self.fd, dst_dir_fd=self.fd)

    def keep(self, name: str, data: bytes) -> None:
        """Write a file. Raises StateError."""
        try:
            os.write_file(name, data, dir_fd=self.fd)
        except OSError as error:
            raise unusable(self.path, "write", error) from None

    def remove(self) -> None:
        """Remove the directory with what is in it. The state goes last: until then `delete` can come back."""
        names = sorted(os.listdir(self.fd), key=lambda name: name == STATE)
        for name in names:
            try:
                os.unlink(name, dir_fd=self.fd)
            except IsADirectoryError:
                for inner in os.listdir(f"{self.path}/{name}"):
                    os.unlink(f"{self.path}/{name}/{inner}")
                os.rmdir(name, dir_fd=self.fd)
        os.rmdir(self.path)


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
        entry = self.open(container_id)
        try:
            entry.lock()
        except BaseException:
            entry.close()
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
