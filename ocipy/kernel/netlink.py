"""The little of rtnetlink(7) that moving a network device takes.

Not pyroute2, which has all of it: importing that loads 380 modules, for a fifth of a second and 20 MB, and its
synchronous calls fail in a thread that runs an asyncio event loop, as a caller of the library may.
"""

from __future__ import annotations

from _socket import AF_NETLINK, SOCK_CLOEXEC, SOCK_RAW, socket
from _struct import pack, unpack_from
from errno import ENODEV

RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
IFLA_ADDRESS, IFLA_IFNAME, IFLA_NET_NS_FD = 1, 3, 28
IFF_UP = 1
CREATE = 0x400  # NLM_F_CREATE

_REQUEST, _ACK, _DUMP, _DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_HEADER, _LINK = "=IHHII", "=BxHiII"  # nlmsghdr; ifinfomsg
_SIOCGSKNS = 0x894C


def attribute(kind: int, value: bytes) -> bytes:
    """An attribute, padded."""
    return pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes of a message, by kind."""
    found = {}
    at = 0
    while at + 4 <= len(data):
        size, kind = unpack_from("=HH", data, at)
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += max(size, 4) + 3 & ~3
    return found


class Link:
    """A network device: ``index``, ``flags`` (IFF_*), ``name``, and ``address`` of its hardware."""

    __slots__ = ("address", "flags", "index", "name")

    def __init__(self, message: bytes) -> None:
        _, _, self.index, self.flags, _ = unpack_from(_LINK, message)
        found = attributes(message[16:])
        self.name = found[IFLA_IFNAME].rstrip(b"\0").decode(errors="surrogateescape")
        self.address = found.get(IFLA_ADDRESS, b"")


class Netlink:
    """A netlink socket; of the calling thread's network namespace, or one that was made in another.

    What the kernel refuses is an OSError, whose ``strerror`` is what the kernel says of it beyond the number, or "".
    """

    def __init__(self, fd: int = -1) -> None:
        self._socket = socket(fileno=fd) if fd >= 0 else socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, 0)
        self._socket.setblocking(True)  # whatever the program has made the default
        for option in (_CAP_ACK, _EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def namespace(self) -> int:
        """A descriptor of the network namespace that the socket is of, for the caller to close."""
        from fcntl import ioctl

        return ioctl(self._socket.fileno(), _SIOCGSKNS)

    def request(self, type: int, body: bytes, flags: int = 0) -> list[bytes]:
        """Send a request; the messages that answer it, without their headers."""
        self._sequence += 1
        header = pack(_HEADER, 16 + len(body), type, _REQUEST | _ACK | flags, self._sequence, 0)
        # With an address (the kernel's) it is the sender's capabilities that count; without, also those of who made the
        # socket, and in a user namespace that one has none on the host.
        self._socket.sendto(header + body, (0, 0))
        answers: list[bytes] = []
        changed = False
        while True:
            data = self._socket.recv(1 << 16)
            at = 0
            while at < len(data):
                size, kind, marks, sequence, _ = unpack_from(_HEADER, data, at)
                message = data[at + 16 : at + size]
                at += size + 3 & ~3
                if sequence != self._sequence:
                    continue
                if kind in (_ERROR, _DONE):
                    _check(message, 20 if kind == _ERROR else 4)
                    return self.request(type, body, flags) if changed else answers
                changed = changed or bool(marks & _DUMP_INTR)  # what was listed changed meanwhile
                answers.append(message)

    def dump(self, type: int) -> list[bytes]:
        """All objects of a type (RTM_GET*)."""
        return self.request(type, bytes(4), _DUMP)

    def links(self) -> list[Link]:
        """All network devices."""
        return [Link(message) for message in self.dump(RTM_GETLINK)]

    def link(self, name: str) -> Link | None:
        """The network device of a name (not of an alternative name), or None."""
        try:
            answers = self.request(RTM_GETLINK, pack(_LINK, 0, 0, 0, 0, 0) + _name(name))
        except OSError as error:
            if error.errno == ENODEV:
                return None
            raise
        found = Link(answers[0])
        return found if found.name == name else None

    def move(self, index: int, name: str, namespace: int) -> None:
        """Move a network device to another network namespace, where it gets a name."""
        where = attribute(IFLA_NET_NS_FD, pack("=I", namespace))
        self.request(RTM_NEWLINK, pack(_LINK, 0, 0, index, 0, 0) + _name(name) + where)


def up(index: int) -> bytes:
    """The request (RTM_NEWLINK) to set a network device up."""
    return pack(_LINK, 0, 0, index, IFF_UP, IFF_UP)


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, name.encode(errors="surrogateescape") + b"\0")


def _check(message: bytes, head: int) -> None:
    """Raise OSError if an NLMSG_ERROR or NLMSG_DONE message says so."""
    code = -unpack_from("=i", message)[0] if len(message) >= 4 else 0
    if code:
        words = attributes(message[head:]).get(1, b"")  # NLMSGERR_ATTR_MSG
        raise OSError(code, words.rstrip(b"\0").decode(errors="replace"))
