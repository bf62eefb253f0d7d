"""The root file system: bound, entered, made read-only, masked (config.md#root, config-linux.md)."""

from __future__ import annotations

from ocipy.kernel import os
from ocipy.plan import flags, ops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from ocipy.plan.builder import Builder


def bind(b: Builder) -> None:
    """Emit the binding of the root, cut off from the host as ``rootfsPropagation`` says."""
    propagation = flags.PROPAGATION[b.linux.get("rootfsPropagation") or "rslave"]
    if propagation & flags.MS_UNBINDABLE:
        # what is unbindable could not become the root, nor the source of any bind mount; the root gets to be
        # it in the end
        propagation ^= flags.MS_UNBINDABLE | flags.MS_PRIVATE
    b.add(ops.propagation("$.linux.rootfsPropagation", "/", propagation))
    b.add(ops.bind_root("$.root.path", os.clean(os.join(b.options.bundle, b.spec["root"]["path"]))))


def cover(b: Builder) -> None:
    """Emit read-only and masked paths."""
    if b.takes_early and b.linux.get("maskedPaths"):
        b.early.append(ops.mask_device("$.linux.maskedPaths"))  # no node can be made in the container's user namespace
    for index, path in _once(b.linux.get("readonlyPaths") or ()):
        if os.clean(path) != "/":  # see `change`
            b.add(ops.readonly(f"$.linux.readonlyPaths[{index}]", *b.place(path)))
    for index, path in _once(b.linux.get("maskedPaths") or ()):
        b.add(ops.mask(f"$.linux.maskedPaths[{index}]", *b.place(path), b.linux.get("mountLabel") or ""))


def _once(paths: Sequence[str]) -> list[tuple[int, str]]:
    """Paths with the index of each, without those that were there before. Only the very same ones: what looks alike may
    lead elsewhere (``link/../file``) or nowhere (``file/``), and a path must not stay open for that."""
    first: dict[str, int] = {}
    for index, path in enumerate(paths):
        first.setdefault(path, index)
    return [(index, path) for path, index in first.items()]


def change(b: Builder) -> None:
    """Emit the change of root, and what could not be said before it."""
    for op in b.late:
        b.add(op)
    b.add(ops.move_root("$.root.path") if b.options.no_pivot else ops.pivot_root("$.root.path"))
    propagation = flags.PROPAGATION.get(b.linux.get("rootfsPropagation") or "", 0)
    where = "$.root.readonly" if b.spec["root"].get("readonly") else ""
    for index, path in enumerate(b.linux.get("readonlyPaths") or ()):
        if not where and os.clean(path) == "/":
            where = f"$.linux.readonlyPaths[{index}]"
    if where or propagation:
        b.add(ops.root_attr(where or "$.linux.rootfsPropagation", flags.RDONLY if where else 0, propagation))


def sysctl(b: Builder) -> None:
    """Emit the kernel parameters."""
    for key, value in (b.linux.get("sysctl") or {}).items():
        # a write of nothing would change nothing: a line that is empty, as sysctl(8) writes it
        b.add(ops.proc_write(f'$.linux.sysctl["{key}"]', sysctl_file(key), value or "\n"))


def sysctl_file(key: str) -> str:
    """The file below /proc of a kernel parameter: the very path that the rules have judged."""
    from ocipy.config.rules_linux import sysctl_path  # `start` has no use for the rules

    return f"sys/{sysctl_path(key)}"
