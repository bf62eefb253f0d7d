"""The seccomp agent, which answers for the calls that a profile notifies of (config-linux.md#seccomp).

`start` and `exec` connect to it, on the host's side and before anything runs. The helper loads the filter as the last
thing before its exec and sends them the listener, and they send that on with the container process state.
"""

from __future__ import annotations

from ocipy._native import lib
from ocipy.errors import ConfigError, LaunchError
from ocipy.kernel import json, os
from ocipy.launch.protocol import HOOKED, LISTENER, Channel, Message, check
from ocipy.version import SPEC_VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PATH = "$.linux.seccomp.listenerPath"


def wanted(seccomp: dict[str, Any]) -> dict[str, str]:
    """What is to be kept of ``linux.seccomp`` for :class:`Agent`."""
    return {name: seccomp[name] for name in ("listenerPath", "listenerMetadata") if seccomp.get(name)}


def look(seccomp: dict[str, Any]) -> None:
    """Look whether there is a socket for the agent; without a connection, which is made once for each process.

    Raises:
        ConfigError: there is none.
    """
    path = seccomp["listenerPath"]
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise ConfigError(f"seccomp agent {path}", config_path=PATH, syscall="stat", errno=error.errno or 0) from None
    if mode & 0o170000 != 0o140000:
        raise ConfigError(f"seccomp agent {path} is not a socket", config_path=PATH)


class Agent:
    """A connection to the agent, for one process.

    Args:
        seccomp: as :func:`wanted` has it.

    Raises:
        LaunchError: nobody listens there.
    """

    def __init__(self, seccomp: dict[str, str]) -> None:
        self._seccomp = seccomp
        self._connect()

    def _connect(self) -> None:
        self._fd = lib.ocipy_unix_connect(self._seccomp["listenerPath"].encode())
        if self._fd < 0:
            raise self._error("can't connect to the seccomp agent", "connect", -self._fd)

    def close(self) -> None:
        """Close the connection."""
        fd, self._fd = self._fd, -1
        os.shut(fd)

    def serve(self, channel: Channel, pid: int, state: dict[str, Any], hooks: int = 0) -> Message | None:
        """Send the listener, which comes next on the channel, to the agent. Those of startContainer hooks come before.

        Args:
            channel: to the helper.
            pid: of the process that loads the filter.
            state: of its container.
            hooks: how many startContainer hooks load it before, each with a listener of its own.

        Returns:
            The helper's next message, an error if it is one; None when the program runs.

        Raises:
            LaunchError: the helper could not send it, or it could not be sent to the agent.
        """
        served = 0
        while (message := channel.receive()) is not None and message.type in (LISTENER, HOOKED):
            if message.type == LISTENER:
                self._serve(message, pid, state)  # the exec itself may wait for the agent's answer
                served += 1
        if message is None and served <= hooks:
            raise LaunchError(
                "the process ended before the seccomp agent could be given its listener",
                config_path="$.linux.seccomp", code="seccomp-agent", hint="the profile must let sendmsg through",
            )  # fmt: skip
        return message

    def _serve(self, message: Message, pid: int, state: dict[str, Any]) -> None:
        """Send one listener, on a connection of its own."""
        if message.fd < 0:
            raise self._error("can't take the listener for the seccomp agent", "recvmsg", -message.fd)
        document = {"ociVersion": SPEC_VERSION, "fds": ["seccompFd"], "pid": pid}
        if "listenerMetadata" in self._seccomp:
            document["metadata"] = self._seccomp["listenerMetadata"]
        try:
            if self._fd < 0:
                self._connect()
            self._send(json.encode(document | {"state": state}), message.fd)
        except OSError as error:
            raise self._error("can't send the listener to the seccomp agent", "sendmsg", error.errno or 0) from None
        finally:
            os.shut(message.fd)
            self.close()  # "it MUST be closed after sending a seccomp state"

    def _send(self, data: bytes, listener: int) -> None:
        data = data[check(lib.ocipy_send_fd(self._fd, data, len(data), listener), "sendmsg") :]
        while data:
            data = data[check(lib.ocipy_send(self._fd, data, len(data)), "sendmsg") :]

    def _error(self, words: str, syscall: str, errno: int) -> LaunchError:
        return LaunchError(
            f"{words} {self._seccomp['listenerPath']}", config_path=PATH, code="seccomp-agent", syscall=syscall,
            errno=errno,
        )  # fmt: skip
