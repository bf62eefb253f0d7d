"""start: release the waiting process (runtime.md#start)."""

from __future__ import annotations

from errno import EAGAIN
from time import sleep

from ocipy._native import lib
from ocipy.container.kill import held, kill_init
from ocipy.errors import Error, LaunchError, StateError
from ocipy.kernel import os
from ocipy.launch.protocol import ERROR, HEADER_SIZE, HOOKED, START, Channel, Message, failure
from ocipy.store import SOCKET
from ocipy.store.record import CREATED, RUNNING, STOPPED, Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ocipy.plan import Plan

ANSWER_TRIES = 1000  # ten milliseconds apart
ANSWER = "answer"  # the file in which the launcher leaves it to us to explain one (native/launcher/fast_path.c)


def start(record: Record, compiled: Plan | None = None) -> None:
    """Run the user's program in a created container; returns when it runs.

    Args:
        record: locked.
        compiled: the plan, if this process has it, for the config path in errors.

    Raises:
        StateError: the status is another than created.
        LaunchError: the exec failed, and the container is stopped; or a startContainer or poststart hook did,
            and it is deleted (runtime.md#lifecycle).
    """
    answer = _left(record) or _release(record)
    if answer is not None and answer.type == ERROR:
        note = ""
        if compiled is None:
            try:
                compiled = _recompile(record)
            except Error as damage:  # the config is damaged: what failed can be told, but not its place there
                note = str(damage)
        error = failure(compiled, answer)
        if note:
            error.add_note(note)
        if error.code == "hook-failed":
            _destroy(record, error)
        else:
            kill_init(record)  # it is about to end; who reads this error may count on "stopped"
        raise error
    try:
        os.unlink(SOCKET, dir_fd=record.entry.fd)
    except FileNotFoundError:
        pass
    if hooks := (record.data.get("hooks") or {}).get("poststart"):
        from ocipy.launch.hooks import run_hooks

        try:
            run_hooks("poststart", hooks, record.hook_state(RUNNING), record.data["bundle"], record.entry)
        except LaunchError as error:
            _destroy(record, error)
            raise


def _left(record: Record) -> Message | None:
    """The answer that the launcher got."""
    try:
        raw = os.read_regular(ANSWER, 1 << 20, dir_fd=record.entry.fd)
        os.unlink(ANSWER, dir_fd=record.entry.fd)
    except FileNotFoundError:
        return None
    except ValueError:  # it is no file: none of ours
        return None
    return Message.decode(raw) if len(raw) >= HEADER_SIZE else None


def _release(record: Record) -> Message | None:
    """Tell the waiting process to go on. Returns its answer: None if it has become the program."""
    frozen = (cgroup := record.cgroup()) is not None and cgroup.held()
    if frozen and record.alive() and cgroup is not None and not cgroup.frozen():
        raise held(record)
    fd = _connect(record) if record.alive() and not frozen else -1
    if fd < 0:
        raise _not_created(record)
    channel = Channel(fd)
    agent = None
    try:
        if wanted := record.data.get("seccomp_agent"):
            from ocipy.attach.seccomp_agent import Agent

            agent = Agent(wanted)  # one that isn't there leaves the container as it is
        # the hooks' input, which may be longer than the helper takes: with hooks, create has sent as much already
        reads = (record.data.get("hooks") or {}).get("startContainer")
        channel.send(START, record.hook_state(CREATED) if reads else b"")
        if agent is not None:
            return agent.serve(channel, record.pid, record.spec_state(CREATED), len(reads or ()))
        answer = channel.receive()
        if reads and answer is None:  # the end of the channel: the exec, but only after the hooks
            kill_init(record)  # it is about to end
            raise LaunchError(
                "the container was killed while its startContainer hooks ran: the program was not started",
                config_path="$.hooks.startContainer", code="launch-died",
            )  # fmt: skip
        return channel.receive() if answer is not None and answer.type == HOOKED else answer
    except BrokenPipeError:  # it ended just now
        raise _not_created(record) from None
    except LaunchError:
        if agent is not None:
            kill_init(record)
        raise
    finally:
        channel.close()
        if agent is not None:
            agent.close()


def _connect(record: Record) -> int:
    """A connection to the waiting process, or a negative errno. One that was stopped by a signal has a full queue of
    `state` calls to look through when it goes on."""
    for _ in range(ANSWER_TRIES):
        fd = int(lib.ocipy_connect(record.entry.fd, SOCKET.encode()))
        if fd != -EAGAIN or not record.alive():
            return fd
        sleep(0.01)
    raise StateError(
        f"container {record.entry.id!r} does not answer", code="not-answering",
        hint=f"is its process {record.pid} stopped by a signal?",
    )  # fmt: skip


def _destroy(record: Record, error: LaunchError) -> None:
    """What a failed hook of start entails: steps 12 and 13 of runtime.md#lifecycle, at once."""
    try:
        from ocipy.container.delete import delete

        for failed in delete(record, force=True):
            error.add_note(failed)
    except (Error, OSError) as second:
        error.add_note(f"and the container is left: {second}")


_NOT_CREATED = {
    STOPPED: "cannot start a container that has stopped",
    RUNNING: "cannot start an already running container",
}


def _not_created(record: Record) -> StateError:
    status = record.status()
    words = _NOT_CREATED.get(status, f"cannot start a container in the {status} state")
    return StateError(f"{words}: {record.entry.id!r}", code="not-created")


def _recompile(record: Record) -> Plan:
    """The plan again, from the recorded config: an error of the helper names an operation by its index."""
    from ocipy import host, plan

    options = plan.Options(record.data["bundle"], record.entry.id, record.data["cgroup"]["paths"],
                           **record.data.get("plan_options", {}))  # fmt: skip
    return plan.compile(record.config(), host.facts(), options)
