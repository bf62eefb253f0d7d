"""Scheduler and I/O priority of a process in a user namespace, set from outside.

The kernel asks for capabilities of the first user namespace here, which nobody in another one has: the process can't
set its own real-time policy, a lower nice value or a real-time I/O class, but its creator can.
"""

from __future__ import annotations

from _struct import pack

from ocipy.errors import LaunchError
from ocipy.launch.failure_hints import hint
from ocipy.plan.describe import describe
from ocipy.plan.process import scheduling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SIZE = 56  # bytes of struct sched_attr with the utilization clamps, which the config has no values for


def schedule(pid: int, process: dict[str, Any]) -> None:
    """Do what :func:`ocipy.plan.process.scheduling` has for a process, to one that waits.

    Raises:
        LaunchError: the kernel refuses it, with the config path.
    """
    from ocipy._native import ffi, lib

    for op in scheduling(process):
        if op.name == "scheduler":
            policy, nice, priority, flags, *times = op.values
            attributes = bytearray(pack("=IIQIIQQQII", SIZE, policy, flags, nice, priority, *times, 0, 0))
            syscall, status = "sched_setattr", lib.ocipy_sched_setattr(pid, ffi.from_buffer(attributes))
        else:
            syscall, status = "ioprio_set", lib.ocipy_ioprio_set(pid, op.values[0])
        if status < 0:
            raise LaunchError(
                f"can't {describe(op)}", syscall=syscall, errno=-status, config_path=op.path, code="launch",
                hint=hint(op, -status),
            )  # fmt: skip
