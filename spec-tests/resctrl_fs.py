"""A file system that behaves like resctrl, for machines without that hardware: FUSE, spoken over /dev/fuse.

    python resctrl_fs.py DIRECTORY JOURNAL

mounts it and serves until it is killed. What the kernel's does for a runtime is done here too: mkdir makes a class with
its files, or has no CLOSID left; schemata are parsed, refused with EINVAL and a reason in ``info/last_cmd_status``, and
bandwidths rounded up; a task is in one class and one monitoring group; rmdir takes a class with all that is in it. Each
accepted change becomes a line of the journal.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Callable
from errno import EEXIST, EINVAL, ENOENT, ENOSPC, ENOSYS, EPERM, ESRCH
from typing import Any

CBM, MIN_BW, STEP, CLOSIDS = 0xFFF, 10, 10, 4
(LOOKUP, FORGET, GETATTR, SETATTR, MKDIR, RMDIR, OPEN, READ, WRITE, STATFS, RELEASE, FLUSH, INIT, OPENDIR, READDIR,
 RELEASEDIR, INTERRUPT, BATCH_FORGET) = (
    1, 2, 3, 4, 9, 11, 14, 15, 16, 17, 18, 25, 26, 27, 28, 29, 36, 42,
)  # fmt: skip


class Refused(Exception):
    """An error number, and what goes into last_cmd_status."""

    def __init__(self, number: int, status: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.status = status


class Node:
    """A directory, or a file with what reads and writes it."""

    def __init__(
        self, read: Callable[[], str] | None = None, write: Callable[[str], None] | None = None
    ) -> None:
        self.read = read
        self.write = write
        self.children: dict[str, Node] = {}
        self.make: Callable[[str], Node] | None = None  # mkdir in it
        self.gone: Callable[[], None] | None = None  # rmdir of it

    @property
    def mode(self) -> int:
        return 0o040755 if self.read is None else 0o100644


def directory(**children: Node | str) -> Node:
    node = Node()
    for name, child in children.items():
        node.children[name] = child if isinstance(child, Node) else Node(lambda text=f"{child}\n": text)  # type: ignore[misc]
    return node


class Group:
    """A class of service, or (with a parent) a group that only monitors."""

    def __init__(self, fs: Resctrl, path: str, parent: Group | None = None) -> None:
        self.fs, self.path, self.parent = fs, path, parent
        self.tasks: set[int] = set()
        self.schemata = {"MB": {0: 100, 1: 100}, "L3": {0: CBM, 1: CBM}}
        self.monitors: dict[str, Group] = {}
        data = directory(llc_occupancy="4096", mbm_total_bytes="20", mbm_local_bytes="10")
        self.node = directory(
            tasks=Node(lambda: "".join(f"{t}\n" for t in sorted(self.tasks)), self.add),
            mon_data=directory(mon_L3_00=data, mon_L3_01=directory(llc_occupancy="Unavailable")),
        )
        if parent is None:
            self.node.children["schemata"] = Node(self.show, self.set)
            self.node.children["mon_groups"] = groups = directory()
            groups.make = self.monitor

    def show(self) -> str:
        lines = []
        for name, values in self.schemata.items():
            form = "d" if name == "MB" else "x"
            lines.append(f"{name:>6}:" + ";".join(f"{d}={v:{form}}" for d, v in values.items()) + "\n")
        return "".join(lines)

    def set(self, text: str) -> None:
        if not text.endswith("\n"):
            raise Refused(EINVAL)
        new: dict[tuple[str, int], int] = {}
        for line in text.splitlines():
            name, colon, values = line.strip().partition(":")
            if not colon:
                raise Refused(EINVAL, "Missing ':'")
            if name not in self.schemata:
                raise Refused(EINVAL, f"Unknown or unsupported resource name '{name}'")
            for pair in values.split(";"):
                domain, equals, value = pair.partition("=")
                if not equals or not domain.strip().isdigit() or int(domain) not in self.schemata[name]:
                    raise Refused(EINVAL, "Missing '=' or non-numeric domain")
                if (name, int(domain)) in new:
                    raise Refused(EINVAL, f"Duplicate domain {int(domain)}")
                new[name, int(domain)] = self.value(name, value)
        for (name, number), amount in new.items():
            self.schemata[name][number] = amount
        self.fs.log(f"write {self.path}/schemata {text.strip()}")

    @staticmethod
    def value(name: str, text: str) -> int:
        try:
            value = int(text, 10 if name == "MB" else 16)
        except ValueError:
            raise Refused(EINVAL, f"Non-hex character in the mask {text}") from None
        if name == "MB":
            if not MIN_BW <= value <= 100:
                raise Refused(EINVAL, f"MB value {value} out of range [{MIN_BW},100]")
            return -(-value // STEP) * STEP
        low = value & -value
        if not value or value > CBM or (value + low) & value:
            raise Refused(EINVAL, f"The mask {text} has non-consecutive 1-bits")
        return value

    def add(self, text: str) -> None:
        task = int(text)
        if not os.path.exists(f"/proc/{task}"):
            raise Refused(ESRCH, f"No task {task}")
        if self.parent is not None:
            family = [self.parent, *self.parent.monitors.values()]
            if not any(task in group.tasks for group in family):
                raise Refused(EINVAL, "Can't move task to different control group")
        for clos in self.fs.classes.values():
            for group in (clos, *clos.monitors.values()):
                group.tasks.discard(task)
        self.tasks.add(task)
        self.fs.log(f"write {self.path}/tasks {task}")

    def monitor(self, name: str) -> Node:
        if len(self.monitors) >= 2:
            raise Refused(ENOSPC, "Out of RMIDs")
        made = self.monitors[name] = Group(self.fs, f"{self.path}/mon_groups/{name}", self)
        made.node.gone = lambda: self.fs.unmake(self.monitors, name)
        return made.node


class Resctrl:
    """The tree, and the protocol that shows it."""

    def __init__(self, journal: str) -> None:
        self.journal = journal
        self.status = "ok"
        default = Group(self, ".")
        self.classes = {".": default}
        self.root = default.node
        self.root.make = self.clos
        self.root.children["info"] = directory(
            L3=directory(cbm_mask=f"{CBM:x}", min_cbm_bits="1", num_closids=str(CLOSIDS)),
            MB=directory(bandwidth_gran=str(STEP), delay_linear="1", min_bandwidth=str(MIN_BW), num_closids="4"),
            L3_MON=directory(
                mon_features="llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\nnew_feature", num_rmids="4"
            ),
            last_cmd_status=Node(lambda: f"{self.status}\n"),
        )
        self.nodes = {1: self.root}
        self.numbers = {id(self.root): 1}

    def log(self, line: str) -> None:
        with open(self.journal, "a") as file:
            file.write(line + "\n")

    def clos(self, name: str) -> Node:
        if len(self.classes) >= CLOSIDS:
            raise Refused(ENOSPC, "Out of CLOSIDs")
        made = self.classes[name] = Group(self, name)
        made.node.gone = lambda: self.unmake(self.classes, name)
        return made.node

    def unmake(self, groups: dict[str, Group], name: str) -> None:
        self.log(f"rmdir {groups.pop(name).path}")

    # the protocol (linux/fuse.h)

    def number(self, node: Node) -> int:
        """The inode number of a node."""
        if id(node) not in self.numbers:
            self.numbers[id(node)] = len(self.nodes) + 1
            self.nodes[len(self.nodes) + 1] = node  # for ever: an id must not be used again
        return self.numbers[id(node)]

    def attributes(self, node: Node) -> bytes:
        return struct.pack("<6Q10I", self.number(node), 0, 0, 0, 0, 0, 0, 0, 0, node.mode, 1, 0, 0, 0, 4096, 0)

    def entry(self, node: Node) -> bytes:
        return struct.pack("<4Q2I", self.number(node), 0, 0, 0, 0, 0) + self.attributes(node)

    def answer(self, opcode: int, node: Node, body: bytes) -> bytes:
        """The answer to a request. Raises Refused."""
        name = body.partition(b"\0")[0].decode(errors="replace")
        if opcode == INIT:
            return struct.pack("<4I2HI", 7, 31, 0, 0, 1, 1, 4096) + bytes(40)
        if opcode == LOOKUP:
            if name not in node.children:
                raise Refused(ENOENT)
            return self.entry(node.children[name])
        if opcode in (GETATTR, SETATTR):
            return struct.pack("<Q2I", 0, 0, 0) + self.attributes(node)
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<Q2I", 0, 1, 0)  # FOPEN_DIRECT_IO: sizes say nothing
        if opcode == READ and node.read:
            offset, size = struct.unpack_from("<QI", body, 8)
            return node.read().encode()[offset : offset + size]
        if opcode == READDIR:
            return self.listing(node, *struct.unpack_from("<QI", body, 8))
        if opcode in (MKDIR, RMDIR, WRITE):
            self.status = "ok"
            return self.change(opcode, node, body, name)
        if opcode == STATFS:
            return bytes(80)
        if opcode in (RELEASE, RELEASEDIR, FLUSH):
            return b""
        raise Refused(ENOSYS)

    def change(self, opcode: int, node: Node, body: bytes, name: str) -> bytes:
        if opcode == WRITE:
            size = struct.unpack_from("<I", body, 16)[0]
            if node.write is None:
                raise Refused(EPERM)
            node.write(body[40 : 40 + size].decode())
            return struct.pack("<2I", size, 0)
        if opcode == MKDIR:
            name = body[8:].partition(b"\0")[0].decode()
            if name in node.children:
                raise Refused(EEXIST)
            if node.make is None:
                raise Refused(EPERM)
            node.children[name] = made = node.make(name)
            self.log(f"mkdir {self.path_of(name)}")
            return self.entry(made)
        if node.children[name].gone is None:
            raise Refused(EPERM)
        node.children.pop(name).gone()  # type: ignore[misc]
        return b""

    def path_of(self, name: str) -> str:
        monitors = (g.path for clos in self.classes.values() for g in clos.monitors.values())
        return next((path for path in monitors if path.endswith(f"mon_groups/{name}")), name)

    def listing(self, node: Node, offset: int, size: int) -> bytes:
        found = b""
        for index, (name, child) in list(enumerate(node.children.items(), 1))[offset:]:
            text = name.encode()
            one = struct.pack("<2Q2I", self.number(child), index, len(text), child.mode >> 12) + text
            one += bytes(-len(one) % 8)
            if len(found) + len(one) > size:
                break
            found += one
        return found

    def serve(self, fd: int) -> None:
        """Answer requests until the file system is unmounted."""
        while True:
            try:
                request = os.read(fd, 1 << 17)
            except OSError:
                return
            _, opcode, unique, number = struct.unpack_from("<2I2Q", request)
            if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            error, body = 0, b""
            try:
                body = self.answer(opcode, self.nodes.get(number, self.root), request[40:])
            except Refused as refused:
                error = refused.number
                self.status = refused.status or self.status
            os.write(fd, struct.pack("<IiQ", 16 + len(body), -error, unique) + body)


def main(place: str, journal: str) -> None:
    """Mount on a directory, and serve."""
    fd = os.open("/dev/fuse", os.O_RDWR)
    libc: Any = ctypes.CDLL(None, use_errno=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0".encode()
    if libc.mount(b"resctrl", place.encode(), b"fuse", 0, options):
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    Resctrl(journal).serve(fd)


if __name__ == "__main__":
    main(*sys.argv[1:])
