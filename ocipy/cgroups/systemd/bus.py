"""Calls to systemd over D-Bus, by jeepney. Loaded by the systemd driver alone."""

from __future__ import annotations

import socket
from collections import deque
from time import monotonic

from ocipy.errors import CgroupError, Unsupported
from ocipy.kernel import os

try:
    from jeepney import DBusAddress, HeaderFields, MatchRule, MessageType, message_bus, new_method_call
    from jeepney.bus import get_bus
    from jeepney.io.blocking import DBusConnection
    from jeepney.wrappers import DBusErrorResponse
except ImportError as missing:
    raise Unsupported(
        "--systemd-cgroup needs the Python package jeepney, to talk with systemd", code="systemd-missing",
        phase="cgroup", hint="pip install jeepney; ocipy's extra 'systemd' has it",
    ) from missing  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ocipy.cgroups.systemd.unit import Property

SECONDS = 30.0  # for an answer, and for a job
SYSTEMD, PATH, MANAGER = "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"
_AUTH_BYTES = 1024


class Refused(CgroupError):
    """systemd's answer is an error; ``name`` is its D-Bus name."""

    code = "systemd-refused"
    name = ""


class _Connection(DBusConnection):  # type: ignore[misc]  # jeepney has no types
    """No receive without an end, and so no Hello: jeepney gives that none."""

    def receive(self, *, timeout: float | None = None) -> Any:
        return super().receive(timeout=SECONDS if timeout is None else timeout)


class Bus:
    """A connection to the bus on which systemd is; a context manager. All of it raises CgroupError."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._subscribed = False  # to the jobs of a unit; a connection is used for one
        self._manager = DBusAddress(PATH, SYSTEMD, MANAGER)
        try:
            target = get_bus(where)
        except (ValueError, RuntimeError, KeyError):
            raise self._error("is none that can be connected to: unix:path=… or unix:abstract=…") from None
        channel = socket.socket(socket.AF_UNIX)
        try:
            channel.settimeout(SECONDS)
            channel.connect(target)
            _authenticate(channel)
            self._connection = _Connection(channel)
        except TimeoutError:
            channel.close()
            raise self._stalled("the connection") from None
        except OSError as error:
            channel.close()
            raise self._error("can't be connected to", error) from None
        except DBusErrorResponse as error:
            channel.close()
            raise self._error(f"refuses the connection: {error}") from None

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _error(self, what: str, error: OSError | None = None) -> CgroupError:
        number = (error.errno or 0) if error else 0
        words = f": {error}" if error and not number else ""
        return CgroupError(
            f"--systemd-cgroup: the bus at {self.where} {what}{words}", code="systemd-bus", errno=number
        )

    def _stalled(self, call: str) -> CgroupError:
        return CgroupError(
            f"--systemd-cgroup: the bus at {self.where} did not answer {call} within {SECONDS:g} s",
            code="systemd-timeout", hint="does systemctl answer?",
        )  # fmt: skip

    def _ask(self, message: Any, call: str) -> Any:
        """Send a call and wait for the answer, a message."""
        try:
            answer = self._connection.send_and_get_reply(message, timeout=SECONDS)
        except TimeoutError:
            raise self._stalled(call) from None
        except OSError as error:
            raise self._error(f"broke off at {call}", error) from None
        if answer.header.message_type != MessageType.error:
            return answer
        name = answer.header.fields.get(HeaderFields.error_name, "")
        words = answer.body[0] if answer.body and isinstance(answer.body[0], str) else name
        refused = Refused(f"systemd refused {call}: {words}")
        refused.name = name
        raise refused

    def call(self, method: str, unit: str, signature: str, *rest: Any) -> Any:
        """Call a method of the manager that takes a unit first. Returns the answer, a message.

        Raises:
            Refused: systemd's answer is an error.
        """
        message = new_method_call(self._manager, method, f"s{signature}", (unit, *rest))
        return self._ask(message, f"{MANAGER}.{method}({unit})")

    def property(self, name: str) -> str:
        """A property of the manager, a string."""
        target = DBusAddress(PATH, SYSTEMD, "org.freedesktop.DBus.Properties")
        answer = self._ask(new_method_call(target, "Get", "ss", (MANAGER, name)), f"{MANAGER}.{name}")
        return str(answer.body[0][1])

    def _job(self, unit: str, method: str, signature: str, *rest: Any) -> str:
        """Call a method that makes a job, and wait for its end. Returns its result: ``done``, ``failed`` …"""
        rule = MatchRule(type="signal", interface=MANAGER, member="JobRemoved", path=PATH)
        rule.add_arg_condition(2, unit)
        if not self._subscribed:
            self._ask(message_bus.AddMatch(rule), "org.freedesktop.DBus.AddMatch")
            # without it, systemd tells nobody of jobs
            self._ask(new_method_call(self._manager, "Subscribe"), f"{MANAGER}.Subscribe")
            self._subscribed = True
        queue: deque[Any] = deque()
        with self._connection.filter(rule, queue=queue):
            answer = self.call(method, unit, signature, *rest)
            sender = answer.header.fields[HeaderFields.sender]
            deadline = monotonic() + SECONDS
            while True:
                try:
                    signal = self._connection.recv_until_filtered(queue, timeout=max(0.0, deadline - monotonic()))
                except TimeoutError:
                    raise self._stalled(f"the end of the job of {MANAGER}.{method}({unit})") from None
                except OSError as error:
                    raise self._error(f"broke off at the job of {MANAGER}.{method}({unit})", error) from None
                # anyone may send a signal of that name
                if signal.header.fields[HeaderFields.sender] == sender and signal.body[1] == answer.body[0]:
                    return str(signal.body[3])

    def start(self, unit: str, properties: list[Property]) -> None:
        """Start a transient unit, and wait until it is.

        Raises:
            CgroupError: one of that name exists (``code`` is ``cgroup-in-use``), systemd refuses to make one
                (``systemd-unit``), or it could not be started; the config path is that of the property that systemd
                speaks of.
        """
        given = [(name, value) for name, value, _ in properties]
        try:
            try:
                result = self._job(unit, "StartTransientUnit", "sa(sv)a(sa(sv))", "replace", given, [])
            except Refused as refused:
                if not refused.name.endswith(".UnitExists"):
                    raise
                self.reset(unit)  # one that failed is kept until somebody does
                result = self._job(unit, "StartTransientUnit", "sa(sv)a(sa(sv))", "replace", given, [])
        except Refused as refused:
            if refused.name.endswith(".UnitExists"):
                raise CgroupError(
                    f"systemd has a unit {unit} already", code="cgroup-in-use", config_path="$.linux.cgroupsPath"
                ) from None
            refused.code = "systemd-unit"
            raise blamed(refused, properties) from None
        if result != "done":
            self.reset(unit)
            raise CgroupError(f"systemd could not start {unit}: the job's result is {result!r}", code="systemd-job")

    def stop(self, unit: str) -> None:
        """Stop a unit, if there is one, wait until it is, and let systemd forget it."""
        try:
            result = self._job(unit, "StopUnit", "s", "replace")
        except Refused as refused:
            if not refused.name.endswith(".NoSuchUnit"):
                raise
            result = "done"
        self.reset(unit)
        if result != "done":
            raise CgroupError(f"systemd could not stop {unit}: the job's result is {result!r}", code="systemd-job")

    def reset(self, unit: str) -> None:
        """Let systemd forget that a unit failed. That there is none is fine."""
        try:
            self.call("ResetFailedUnit", unit, "")
        except Refused:
            pass

    def change(self, unit: str, properties: list[Property]) -> None:
        """Set properties of a unit until it is stopped."""
        try:
            self.call("SetUnitProperties", unit, "ba(sv)", True, [(name, value) for name, value, _ in properties])
        except Refused as refused:
            raise blamed(refused, properties) from None

    def attach(self, unit: str, pid: int) -> None:
        """Move a process into a unit's cgroup: systemd may where the caller may not."""
        self.call("AttachProcessesToUnit", unit, "sau", "/", [pid])


def blamed(refused: Refused, properties: list[Property]) -> Refused:
    """The error with the config path of the property that it names. Of a value that has another type than the property
    systemd names nothing; that can only be one of an annotation."""
    words = refused.message.replace(",", " ").replace("=", " ").split()
    refused.config_path = next((path for name, _, path in properties if name in words), "")
    if not refused.config_path:
        annotated = list(dict.fromkeys(path for _, _, path in properties if path.startswith("$.annotations")))
        refused.config_path = annotated[0] if len(annotated) == 1 else ""
        if annotated:
            refused.hint = f"has it the type of the property? {', '.join(annotated)}"
    return refused


def _authenticate(channel: socket.socket) -> None:
    """The D-Bus handshake. We leave it to the bus to see who we are: in a user namespace, the uid that we know is
    another (jeepney's own handshake states it). Raises OSError."""
    channel.sendall(b"\0AUTH EXTERNAL\r\nDATA\r\n")
    answer = b""
    while b"\r\nOK " not in answer or not answer.endswith(b"\r\n"):
        part = channel.recv(_AUTH_BYTES)
        answer += part
        if not part or b"REJECTED" in answer or b"ERROR" in answer or len(answer) > _AUTH_BYTES:
            raise PermissionError(13, os.strerror(13))
    channel.sendall(b"BEGIN\r\n")
