"""ocipy explain."""

from __future__ import annotations

from ocipy.cli.log import printable
from ocipy.cli.main import Context, put
from ocipy.cli.parser import Command, Flag
from ocipy.config.bundle import Bundle
from ocipy.container.prepare import prepare

COMMAND = Command(
    "explain",
    "Print what create and start would do: every operation with its config path",
    "[BUNDLE]",
    (Flag("id", "the container's id (default: explain)", "ID"),),
)


def run(context: Context) -> int:
    args = context.args
    bundle = Bundle(args.rest[0] if args.rest else ".")
    _, cgroup, plan, rdt = prepare(
        args.id or "explain", bundle.path, {}, rootless=context.rootless, cgroup_manager=context.cgroup_manager
    )
    lines = [("cgroup", f"make {path}", "$.linux.cgroupsPath") for path in cgroup.paths.values()]
    lines += [("resctrl", words, path) for words, path in (rdt.explain() if rdt is not None else ())]
    lines += plan.lines()
    width = max(len(name) for name, _, _ in lines)
    for name, words, path in lines:
        put(printable(f"{name:{width}}  {words}{f'  [{path}]' if path else ''}") + "\n")
    return 0
