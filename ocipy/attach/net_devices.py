"""Network devices that move from the host into the container (config-linux.md#network-devices)."""

from __future__ import annotations

from _socket import inet_ntop
from _struct import pack, unpack, unpack_from
from errno import EEXIST, ENODEV, EPERM

from ocipy.config.fault import below
from ocipy.errors import ConfigError, LaunchError
from ocipy.kernel import os
from ocipy.kernel.netlink import (
    CREATE,
    IFF_UP,
    RTM_GETADDR,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    Link,
    Netlink,
    attribute,
    attributes,
    up,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ADDRESS, _ROUTE = "=BBBBI", "=BBBBBBBBI"  # ifaddrmsg, rtmsg
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_FLAGS = 1, 2, 3, 8
_SECONDARY, _PERMANENT = 0x01, 0x80  # IFA_F_*; the first is "temporary" for IPv6
_KEPT = 0x712  # IFA_F_*: those that are asked for; the others the kernel finds
_AF_INET6, _RT_SCOPE_UNIVERSE = 10, 0
_RTA_OIF, _RTA_GATEWAY = 4, 5
_RTPROT_KERNEL, _RTM_F_CLONED = 2, 0x200
_RTNH_F_ASKED = 0x6  # pervasive, onlink; the others (dead, linkdown …) the kernel finds


class _Address:
    """An address of a network device, as the kernel listed it."""

    __slots__ = ("attributes", "family", "flags", "index", "prefix", "scope")

    def __init__(self, message: bytes) -> None:
        self.family, self.prefix, flags, self.scope, self.index = unpack_from(_ADDRESS, message)
        self.attributes = attributes(message[8:])
        self.flags: int = unpack("=I", self.attributes.pop(_IFA_FLAGS))[0] if _IFA_FLAGS in self.attributes else flags

    def kept(self) -> bool:
        """Whether it goes with the device into the container: permanent, and of global scope."""
        return bool(self.flags & _PERMANENT) and self.scope == _RT_SCOPE_UNIVERSE

    def temporary(self) -> bool:
        """Whether the kernel made it for privacy, and will again."""
        return self.family == _AF_INET6 and bool(self.flags & _SECONDARY)

    def message(self, index: int, old: str, new: str) -> bytes:
        """As a request to add it to a device, whose name is another now."""
        found = dict(self.attributes)
        label = found.get(_IFA_LABEL, b"")
        if label.startswith(old.encode()):  # `eth0`, or `eth0:1`
            label = new.encode() + label[len(old.encode()) :]
            found[_IFA_LABEL] = label if len(label) <= 16 else new.encode() + b"\0"
        found[_IFA_FLAGS] = pack("=I", self.flags & _KEPT)
        body = b"".join(attribute(kind, value) for kind, value in found.items())
        return pack(_ADDRESS, self.family, self.prefix, 0, self.scope, index) + body

    def __str__(self) -> str:
        raw = self.attributes.get(_IFA_LOCAL) or self.attributes.get(_IFA_ADDRESS, b"")
        return f"{inet_ntop(self.family, raw)}/{self.prefix}"


class _Device:
    """A device on its way.

    Attributes:
        name, target: its name on the host, and in the container (or a template with ``%d``).
        path: its config path.
        link: as it was found on the host.
        inside: as it is in the container, once it is known there.
        others: indexes of the devices that were there before it; None until it is about to move.
        addresses, routes: what it has on the host, and what the kernel takes from it when it moves.
    """

    def __init__(self, name: str, target: str) -> None:
        self.name = name
        self.target = target
        self.path = below("$.linux.netDevices", name)
        self.link: Link | None = None
        self.inside: Link | None = None
        self.others: set[int] | None = None
        self.addresses: list[_Address] = []
        self.routes: list[bytes] = []


class NetDevices:
    """The network devices of one container that is being created.

    Neither this process nor a thread of it enters the container's network namespace: the init helper hands out a
    netlink socket that it made there. The socket also keeps the namespace, and so its devices, from vanishing before
    `restore` has brought them back.
    """

    def __init__(self, configured: dict[str, Any]) -> None:
        """Look for the devices on the host.

        Raises:
            ConfigError: one is not there.
        """
        self._devices = [_Device(name, entry.get("name") or name) for name, entry in configured.items()]
        self._inside: Netlink | None = None
        self._host = Netlink()
        try:
            for device in self._devices:
                if self._host.link(device.name) is None:
                    raise ConfigError(
                        f"there is no network device {device.name}", config_path=device.path, code="net-device",
                    )  # fmt: skip
        except BaseException:
            self._host.close()
            raise

    def close(self) -> None:
        """Close the sockets. What has moved stays moved."""
        self._host.close()
        if self._inside is not None:
            self._inside.close()

    def move(self, fd: int) -> None:
        """Move all devices, with their addresses, and set them up.

        Args:
            fd: a netlink socket of the container's network namespace; it becomes ours.

        Raises:
            LaunchError: the kernel refused, or a name is in use there. `restore` brings back what has moved.
        """
        inside = self._inside = Netlink(fd)
        try:
            namespace = inside.namespace()
        except OSError as error:
            raise _refused("reach the container's network namespace", "$.linux.netDevices", error) from None
        try:
            for device in self._devices:
                try:
                    self._move(device, inside, namespace)
                except OSError as error:
                    raise _refused(f"move network device {device.name}", device.path, error) from None
        finally:
            os.close(namespace)

    def _move(self, device: _Device, inside: Netlink, namespace: int) -> None:
        # The kernel moves first and renames then, where the device's own name is free there: a name in use would be
        # found too late.
        if "%" not in device.target and inside.link(device.target):
            raise LaunchError(
                f"the container's network namespace has a device {device.target} already",
                config_path=device.path, code="net-device",
            )  # fmt: skip
        link = self._host.link(device.name)
        if link is None:
            raise LaunchError(f"network device {device.name} is gone", config_path=device.path, code="net-device")
        addresses = [_Address(message) for message in self._host.dump(RTM_GETADDR)]
        device.addresses = [a for a in addresses if a.index == link.index]
        device.routes = _routes(self._host.dump(RTM_GETROUTE), link.index)
        device.link = link
        device.others = {other.index for other in inside.links()}
        self._host.move(link.index, device.target, namespace)
        found = device.inside = _arrived(device, inside)
        if found is None:
            raise LaunchError(f"network device {device.name} did not arrive", config_path=device.path)
        for address in device.addresses:
            if address.kept():
                try:
                    inside.request(RTM_NEWADDR, address.message(found.index, device.name, found.name), CREATE)
                except OSError as error:
                    raise OSError(error.errno, f"address {address}{_said(error)}") from None
        inside.request(RTM_NEWLINK, up(found.index))

    def restore(self) -> list[str]:
        """Bring back what has moved, last first: by its name, its addresses, its routes, up if it was.

        The network namespace of a container that is not to be would take virtual devices with it.

        Returns:
            What failed, as text.
        """
        failed = []
        for device in reversed(self._devices):
            for error in self._restore(device):
                words = error.strerror or os.strerror(error.errno or 0).lower()
                failed.append(f"and network device {device.name} could not be brought back as it was: {words}")
        return failed

    def _restore(self, device: _Device) -> list[OSError]:
        inside, was = self._inside, device.link
        if inside is None or was is None or device.others is None:
            return []
        try:
            found = device.inside or _arrived(device, inside)
            if found is None:
                return []
            namespace = self._host.namespace()
            try:
                inside.move(found.index, device.name, namespace)
            finally:
                os.close(namespace)
            link = self._host.link(device.name)
        except OSError as error:
            return [error]
        if link is None:
            return [OSError(ENODEV, "it has vanished")]
        again = [
            (RTM_NEWADDR, address.message(link.index, device.name, device.name))
            for address in device.addresses
            if not address.temporary()
        ]
        if was.flags & IFF_UP:
            again.append((RTM_NEWLINK, up(link.index)))
            if link.index == was.index:  # as almost always: the number is kept where it is free
                again += [(RTM_NEWROUTE, route) for route in device.routes]
        failed = []
        for type, body in again:
            try:
                self._host.request(type, body, CREATE)
            except OSError as error:
                if error.errno != EEXIST:  # the kernel makes some of them itself
                    failed.append(error)
        return failed


def _refused(what: str, path: str, error: OSError) -> LaunchError:
    return LaunchError(
        f"can't {what}{_said(error)}", config_path=path, code="net-device", syscall="rtnetlink", errno=error.errno or 0,
        hint="it takes CAP_NET_ADMIN on both sides" if error.errno == EPERM else "",
    )  # fmt: skip


def _said(error: OSError) -> str:
    return f": {error.strerror}" if error.strerror else ""


def _arrived(device: _Device, inside: Netlink) -> Link | None:
    """The device in the container, by whatever name: one that was not there before, with the same hardware address."""
    assert device.link is not None
    assert device.others is not None
    for link in inside.links():
        if link.index not in device.others and link.address == device.link.address:
            return link
    return None


def _routes(messages: list[bytes], index: int) -> list[bytes]:
    """Of all routes those that lead over a device and are not of the kernel's making, as requests; gateways last."""
    found = []
    for message in messages:
        *head, flags = unpack_from(_ROUTE, message)
        values = attributes(message[12:])
        if values.get(_RTA_OIF) == pack("=I", index) and head[5] != _RTPROT_KERNEL and not flags & _RTM_F_CLONED:
            found.append((_RTA_GATEWAY in values, pack(_ROUTE, *head, flags & _RTNH_F_ASKED) + message[12:]))
    return [request for _, request in sorted(found, key=lambda pair: pair[0])]
