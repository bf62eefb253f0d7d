"""Talking with CRIU: ``criu swrk`` takes requests over a socket, as protobuf messages (its images/rpc.proto).

The messages are few and flat, so they are written and read here; the numbers are those of CRIU's protocol,
which never change.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from ocipy.errors import ConfigError, Error, Unsupported, UsageError
from ocipy.kernel import json
from ocipy.launch.protocol import ACK, ERROR, Launched, failure
from ocipy.plan.ops import SYNC_CGROUP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: a varint; text; a message or bytes; or several of these
Value = int | str | bytes | Sequence[str | bytes]
Notify = Callable[[str, int, list[int]], None]

#: kinds of a request
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
#: the fields of a request's options
OPTION = {
    "images_dir_fd": 1, "pid": 2, "leave_running": 3, "ext_unix_sk": 4, "tcp_established": 5, "evasive_devices": 6,
    "shell_job": 7, "file_locks": 8, "log_level": 9, "log_file": 10, "ps": 11, "notify_scripts": 12, "root": 13,
    "parent_img": 14, "track_mem": 15, "auto_dedup": 16, "work_dir_fd": 17, "link_remap": 18, "ext_mnt": 23,
    "manage_cgroups": 24, "cg_root": 25, "rst_sibling": 26, "inherit_fd": 27, "manage_cgroups_mode": 34,
    "external": 37, "empty_ns": 38, "join_ns": 39, "freeze_cgroup": 44, "tcp_skip_in_flight": 46, "lazy_pages": 48,
    "orphan_pts_master": 50, "config_file": 51, "lsm_profile": 53, "lsm_mount_context": 63,
}  # fmt: skip
#: what CRIU is asked whether it and the kernel have it
MEM_TRACK, LAZY_PAGES = 1, 2
#: --manage-cgroups-mode; "" is CRIU's default, soft
CGROUP_MODES = {"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}
#: 3.16: the first whose --lsm-profile works; all else that is used here is older
LEAST = 31600
DESCRIPTORS = "descriptors.json"  # in an image directory, written last: what CRIU's files don't tell
CONFIG_FILES = ("/etc/criu/ocipy.conf", "/etc/criu/runc.conf")
QUOTED = 4  # the last lines of CRIU's log that go into an error: it goes on from what is not decisive
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(kw_only=True)
class CriuOptions:
    """What checkpoint and restore have in common.

    Attributes:
        image_path: absolute path of the directory of the images.
        work_path: that of the log and other work files; the directory of the images unless given.
        tcp_established: handle open TCP connections.
        ext_unix_sk: allow unix sockets that are connected to outside of the container.
        shell_job: handle a terminal that is the caller's own.
        file_locks: handle file locks.
        auto_dedup: drop from the parent images what newer ones replace.
        lazy_pages: move memory on demand (userfaultfd).
        cgroups_mode: ignore, soft, full or strict; "" is CRIU's default, soft.
    """

    image_path: str
    work_path: str = ""
    tcp_established: bool = False
    ext_unix_sk: bool = False
    shell_job: bool = False
    file_locks: bool = False
    auto_dedup: bool = False
    lazy_pages: bool = False
    cgroups_mode: str = ""

    def request(self, images: int, work: int, log: str, annotations: dict[str, str]) -> dict[str, Value]:
        """The options that CRIU is given.

        Raises:
            ConfigError: the annotation org.criu.config names no file.
        """
        request: dict[str, Value] = {
            field.name: 1 for field in fields(self) if field.name in OPTION and getattr(self, field.name) is True
        }
        request |= {
            "images_dir_fd": images, "work_dir_fd": work, "log_level": 4, "log_file": log, "notify_scripts": 1,
            "manage_cgroups": 1, "manage_cgroups_mode": CGROUP_MODES[self.cgroups_mode], "orphan_pts_master": 1,
        }  # fmt: skip
        if file := _config_file(annotations):
            request["config_file"] = file
        return request

    @property
    def log_dir(self) -> str:
        """Where CRIU's log goes."""
        return self.work_path or self.image_path


def _config_file(annotations: dict[str, str]) -> str:
    """A file of options that have the last word: of the annotation org.criu.config (empty: none), or of CRIU's
    configuration for this runtime."""
    named = annotations.get("org.criu.config")
    if named is None:
        return next((path for path in CONFIG_FILES if os.path.exists(path)), "")
    if named and not os.path.isfile(named):
        raise ConfigError(f"no such file: {named}", config_path='$.annotations["org.criu.config"]')
    return named


def find() -> tuple[str, list[str]]:
    """CRIU's executable and the environment for it.

    Raises:
        Unsupported: it is not installed; or this process is not root.
    """
    if os.geteuid():
        raise Unsupported("checkpoint and restore take root: CRIU can't do it without", code="criu-root")
    dirs = os.environ.get("PATH") or PATH
    path = shutil.which("criu", path=dirs)
    if path is None:
        raise Unsupported("criu is not installed: it is not in $PATH", code="criu-missing",
                          hint="the package is called criu")  # fmt: skip
    return os.path.abspath(path), [f"PATH={dirs}"]  # for iptables, ip and tar, which it runs


def directory(path: str, flag: str, *, make: bool) -> int:
    """A directory of images or of work files, open; the caller closes it.

    Raises:
        UsageError: it can't be made or opened.
    """
    try:
        if make and not os.path.exists(path):
            os.makedirs(path, 0o700, exist_ok=True)
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UsageError(f"{flag} {path}", errno=error.errno or 0) from None


def directory_of(pid: int, path: str, flag: str) -> int:
    """A directory as the mount namespace of a process has it, whose mounts are those of this one and a few more: CRIU
    mounts below the directory of work files, which only a mount of its own namespace lets it. The caller closes it.

    A path through /proc/PID/root leaves that namespace at the first absolute link, and containerd's bundles have one.
    So links are followed here, and the way without them there must end in the same directory.

    Raises:
        UsageError: it can't be opened, or the process sees another one there.
    """
    here = directory(path, flag, make=False)
    try:
        plain = os.readlink(f"/proc/self/fd/{here}")
        there = directory(f"/proc/{pid}/root{plain}", flag, make=False) if plain.startswith("/") else -1
        if there >= 0 and os.path.sameopenfile(here, there):
            return there
        if there >= 0:
            os.close(there)
        raise UsageError(f"{flag} {path}: CRIU does not see this directory")
    finally:
        os.close(here)


class Criu:
    """A ``criu swrk`` process.

    Args:
        launch: starts the plan that becomes it, with the standard streams and descriptors given.
        sync: the answer to the plan's `Sync`.
        stdio: what it gets as its standard streams; None: nothing, its words on stderr kept for errors.
        fds: descriptors that it gets as 4, 5, ….

    Raises:
        LaunchError: it could not be started.
    """

    def __init__(
        self,
        launch: Callable[..., Launched],
        sync: Callable[[Launched], bytes] | None = None,
        stdio: tuple[int, int, int] | None = None,
        fds: Sequence[int] = (),
    ) -> None:
        self._words = os.memfd_create("criu-stderr", os.MFD_CLOEXEC)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.launched = launch(stdio=stdio or (null, self._words, self._words), preserve=(theirs.fileno(), *fds))
        except BaseException:
            self._close()
            raise
        finally:
            theirs.close()
            os.close(null)
        try:
            self._until_it_runs(sync)
        except BaseException:
            self.close()
            raise

    def _until_it_runs(self, sync: Callable[[Launched], bytes] | None) -> None:
        launched = self.launched
        launched.until_ready(lambda kind, fd: sync(launched) if sync and kind == SYNC_CGROUP else b"")
        launched.channel.send(ACK)
        answer = launched.channel.receive()  # the end of the channel, unless the exec failed
        if answer is not None and answer.type == ERROR:
            raise failure(launched.plan, answer)

    def ask(self, kind: int, more: dict[int, Value], notify: Notify | None = None) -> dict[int, int | bytes]:
        """Make a request, and serve notifications until it is answered.

        Args:
            kind: DUMP, RESTORE, ….
            more: further fields of the request.
            notify: is called for each step that CRIU tells of, with its name, a pid or 0, and descriptors, which
                are closed afterwards.

        Returns:
            The answer.

        Raises:
            Refused: CRIU could not do it. What ``notify`` raised is raised instead, after CRIU has cleaned up.
        """
        self._send(encode({1: kind, **more}))
        trouble: BaseException | None = None
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, 1 << 20, 4)
            except ConnectionResetError:
                data, fds = b"", []
            answer = decode(data)
            if answer.get(1) != NOTIFY or not data:
                break
            step = decode(_bytes(answer[5]))
            try:
                if notify is not None and trouble is None:
                    notify(_bytes(step[1]).decode(), _int(step.get(2, 0)), fds)
            except BaseException as error:  # CRIU must hear of it in any case: it has a half-made container in hand
                trouble = error
            finally:
                for fd in fds:
                    os.close(fd)
            self._send(encode({1: NOTIFY, 3: int(trouble is None)}))
        if trouble is not None:
            raise trouble
        if not answer.get(2):
            words = _bytes(answer.get(9, b"")).decode(errors="replace")
            said = words or self._spoken() or ("" if data else "it ended without a word")
            raise Refused(said, _int(answer.get(7, 0)))
        return answer

    def _send(self, data: bytes) -> None:
        try:
            self.socket.send(data)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the end of the connection, which comes next, says more

    def _spoken(self) -> str:
        """What it wrote to stderr."""
        return os.pread(self._words, 4096, 0).decode(errors="replace").strip()

    def _close(self) -> None:
        self.socket.close()
        os.close(self._words)

    def finish(self) -> None:
        """Let it end by itself, as it does when the connection is closed."""
        self._close()
        self.launched.channel.close()
        self.launched.reap()
        self.launched.close()

    def close(self) -> None:
        """End it."""
        self._close()
        self.launched.kill()


class Refused(Exception):
    """CRIU's own words for why not, perhaps none, and its error number."""

    def __init__(self, words: str, number: int) -> None:
        super().__init__(words)
        self.words = words
        self.number = number

    def error(self, what: str, log: str, phase: str) -> Error:
        """The error for users: the decisive lines of the log, and where all of it is."""
        try:
            with open(log, errors="replace") as file:
                lines = [text for line in file if (text := _decisive(line))]
        except OSError:
            lines = []
        said = "\n".join(lines[-QUOTED:]) or self.words or f"it says {os.strerror(self.number).lower()}"
        where = f" (its log: {log})" if os.path.exists(log) else ""
        return Error(f"CRIU could not {what}: {said}{where}", code="criu", phase=phase)


def _decisive(line: str) -> str:
    """What a line of the log says of a failure; "" if nothing."""
    if (at := line.find("Error (")) >= 0 and "ing FAILED" not in line:  # that goes without saying
        return line[at:].strip()
    if (at := line.find("Can't connect to server ")) >= 0:  # for CRIU that is no error but an information
        return line[at:].strip()
    return ""


def require(launch: Callable[..., Launched], *features: int) -> None:
    """Check CRIU's version, and that it and this kernel have what is needed.

    Raises:
        Unsupported: they have not.
    """
    found = decode(_bytes(_ask_once(launch, VERSION, {})[10]))
    version = _int(found[1]), _int(found[2]), _int(found.get(4, 0))
    if version[0] * 10000 + version[1] * 100 + version[2] < LEAST:
        raise Unsupported(
            "criu {}.{}.{} is too old: 3.16 or later is needed".format(*version), code="criu-too-old"
        )  # fmt: skip
    if features:
        have = decode(_bytes(_ask_once(launch, FEATURE_CHECK, {5: encode(dict.fromkeys(features, 1))})[8]))
        words = {MEM_TRACK: "dirty memory tracking", LAZY_PAGES: "userfaultfd (lazy pages)"}
        for feature in features:
            if not have.get(feature):
                raise Unsupported(f"CRIU finds no {words[feature]} in this kernel", code="criu-feature",
                                  hint="criu check --all says more")  # fmt: skip


def _ask_once(launch: Callable[..., Launched], kind: int, more: dict[int, Value]) -> dict[int, int | bytes]:
    criu = Criu(launch)
    try:
        return criu.ask(kind, more)
    except Refused as refused:
        why = f": {refused.words}" if refused.words else ""  # asked for features it often has none
        raise Unsupported(f"CRIU does not work here{why}", code="criu-check", hint="criu check says more") from None
    finally:
        criu.close()


def options(given: dict[str, Value]) -> dict[int, Value]:
    """A request's field with the options."""
    return {2: encode({OPTION[name]: value for name, value in given.items()})}


def pair(first: str, second: str | int) -> bytes:
    """A message of two fields: a key and its value."""
    return encode({1: first, 2: second})


def encode(message: dict[int, Value]) -> bytes:
    """A protobuf message: field numbers with their values; of a list, each."""
    out = b""
    for number, value in message.items():
        for one in value if isinstance(value, list | tuple) else (value,):
            if isinstance(one, int):
                out += _varint(number << 3) + _varint(one)
            else:
                raw = one.encode(errors="surrogateescape") if isinstance(one, str) else bytes(one)
                out += _varint(number << 3 | 2) + _varint(len(raw)) + raw
    return out


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def decode(data: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message: varints as numbers, all else as bytes; of a repeated one, the last."""
    found: dict[int, int | bytes] = {}
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = varint()
        size = varint()
        if key & 7 == 2:
            found[key >> 3] = data[at : at + size]
            at += size
        else:
            found[key >> 3] = size
    return found


def _int(value: int | bytes) -> int:
    assert isinstance(value, int)
    return value


def _bytes(value: int | bytes) -> bytes:
    assert isinstance(value, bytes)
    return value


def read_descriptors(image_path: str) -> list[str]:
    """Where the standard streams of a checkpointed container led.

    Raises:
        UsageError: the directory holds no complete checkpoint.
    """
    path = os.path.join(image_path, DESCRIPTORS)
    try:
        with open(path, "rb") as file:
            found: Any = json.loads(file.read())
    except FileNotFoundError:
        raise UsageError(f"{image_path} holds no complete checkpoint: there is no {DESCRIPTORS}",
                         code="no-checkpoint", hint="a pre-dump alone can't be restored") from None  # fmt: skip
    except (OSError, json.JSONError) as error:
        raise UsageError(f"{path}: {error}", code="no-checkpoint") from None
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise UsageError(f"{path} is not a list of strings", code="no-checkpoint")
    return found
