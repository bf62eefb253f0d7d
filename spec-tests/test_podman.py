"""ocipy under Podman, whose conmon calls it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import until
from criu_tools import criu as criu  # a fixture
from engines import (
    IMAGE,
    Podman,
    Terminal,
    podman_engine_fixture,  # noqa: F401
    podman_fixture,  # noqa: F401
)

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
LOOP = ("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")


def test_run(podman: Podman) -> None:
    """run --rm: output, exit status, user, capabilities, read-only root, Podman's seccomp profile."""
    done = podman.run("sh", "-c", "echo $$; echo err >&2; exit 7", flags=["--rm"], code=7)
    assert (done.stdout, done.stderr) == ("1\n", "err\n")
    script = "id -u; touch /x; grep -E 'CapEff|Seccomp:' /proc/self/status; hostname"
    flags = ["--rm", "--read-only", "--user", "1000", "--cap-add", "SYS_PTRACE", "--hostname", "box"]
    done = podman.run("sh", "-c", script, flags=flags)
    assert done.stdout == "1000\nCapEff:\t0000000000080000\nSeccomp:\t2\nbox\n"
    assert "Read-only file system" in done.stderr


def test_missing_program(podman: Podman) -> None:
    """Podman reads the error's words: 127 for a program that is not there, 126 for one that can't be run."""
    done = podman.run("nosuch", flags=["--rm"], code=127)
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stderr
    done = podman.run("/etc/passwd", flags=["--rm"], code=126)
    assert 'exec: "/etc/passwd": permission denied' in done.stderr
    podman.run("/etc", flags=["--rm"], code=126)
    name = podman.run(*LOOP, flags=["--detach"]).stdout.strip()
    podman("exec", name, "/etc", code=126)
    podman("rm", "--force", "--time", "0", name)


@pytest.mark.parametrize(
    ("content", "codes"), [("#!/no/such\n", (127, 127)), ("neither a script nor ELF", (126, 255))]
)
def test_program_that_fails(podman: Podman, content: str, codes: tuple[int, int]) -> None:
    """The other rows of the table in docs/errors.md: Podman's exit statuses of run and exec, and its container was
    never started."""
    program = podman.home / "program"
    program.write_text(content)
    program.chmod(0o755)
    flags = ["--detach", "--volume", f"{program}:/program"]
    podman.run("/program", flags=[*flags, "--name", "never"], code=codes[0])
    assert podman("inspect", "--format", "{{.State.StartedAt}}", "never").stdout.startswith("0001-01-01")
    name = podman.run(*LOOP, flags=flags).stdout.strip()
    podman("exec", name, "/program", code=codes[1])
    podman("rm", "--force", "--time", "0", "never", name)


def test_life(podman: Podman) -> None:
    """run --detach, exec, pause, update, kill, wait, rm."""
    name = podman.run(*LOOP, flags=["--detach", "--memory", "64m"]).stdout.strip()
    file = "memory.max" if UNIFIED else "memory.limit_in_bytes"
    limits = [path / file for path in podman.cgroups() if (path / file).exists() and name in path.name]
    assert [path.read_text() for path in limits] == ["67108864\n"]
    assert podman("exec", name, "sh", "-c", "echo in; exit 5", code=5).stdout == "in\n"
    podman("exec", name, "nosuch", code=127)
    podman("pause", name)
    assert podman("inspect", "--format", "{{.State.Status}}", name).stdout == "paused\n"
    podman("unpause", name)
    podman("update", "--memory", "32m", name)
    assert [path.read_text() for path in limits] == ["33554432\n"]
    podman("kill", "--signal", "TERM", name)
    assert podman("wait", name).stdout == "9\n"
    podman("rm", name)


def test_forced_removal(podman: Podman) -> None:
    """``podman rm --force`` of a running container."""
    name = podman.run("sh", "-c", "sleep 1000 & sleep 1000", flags=["--detach"]).stdout.strip()
    podman("rm", "--force", "--time", "0", name)


def test_terminal(podman: Podman) -> None:
    """``podman run --interactive --tty``: conmon is the other end of the console socket."""
    script = "tty; read x; echo got $x; stty size; read x; exit 6"
    words = podman.command(*podman.flags(["--rm", "--interactive", "--tty"]), IMAGE, "sh", "-c", script)
    terminal = Terminal(words, (40, 50), podman.env)
    try:
        terminal.until("/dev/pts/0")
        terminal.type("hello\n")
        terminal.until("got hello")
        terminal.until("40 50")
        terminal.type("end\n")
    finally:
        code = terminal.end()
    assert code == 6


def test_logs_stats_and_stop(podman: Podman) -> None:
    """logs, top, stats, stop and rm: what an operator does all day."""
    script = "echo up; echo oops >&2; trap 'echo bye; exit 4' TERM; while :; do sleep 0.05; done"
    name = podman.run("sh", "-c", script, flags=["--detach", "--memory", "64m", "--pids-limit", "50"]).stdout.strip()
    until(lambda: "oops" in podman("logs", name).stderr)
    assert podman("logs", name).stdout == "up\n"
    assert "sh -c" in podman("top", name, "args").stdout
    stats = json.loads(podman("stats", "--no-stream", "--format", "json", name).stdout)
    assert stats[0]["id"] == name[:12]
    assert "67.11MB" in stats[0]["mem_usage"]
    assert int(stats[0]["pids"]) >= 1
    podman("stop", name)
    assert podman("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", name).stdout == "exited 4\n"
    assert podman("logs", name).stdout == "up\nbye\n"
    podman("start", name)  # the same container once more
    assert podman("inspect", "--format", "{{.State.Status}}", name).stdout == "running\n"
    podman("stop", "--time", "0", name)
    podman("rm", name)


def test_exec_session(podman: Podman) -> None:
    """exec with a user, a directory, variables and a terminal; and detached."""
    name = podman.run(*LOOP, flags=["--detach"]).stdout.strip()
    flags = ["--user", "1000", "--workdir", "/tmp", "--env", "A=b"]
    done = podman("exec", *flags, name, "sh", "-c", "id -u; pwd; echo $A")
    assert done.stdout == "1000\n/tmp\nb\n"
    words = podman.command("exec", "--interactive", "--tty", name, "sh", "-c", "tty; read x")
    terminal = Terminal(words, (30, 60), podman.env)
    try:
        terminal.until("/dev/pts/")
        terminal.type("\n")
    finally:
        assert terminal.end() == 0
    podman("exec", "--detach", name, "sleep", "1000")
    until(lambda: "sleep 1000" in podman("top", name, "args").stdout)
    podman("rm", "--force", "--time", "0", name)


@pytest.mark.parametrize("linked", [False, True])
def test_checkpoint_and_restore(podman: Podman, criu: str, linked: bool) -> None:
    """podman container checkpoint and restore, also from a storage that is reached by an absolute link: the program
    goes on where it was."""
    podman.find(criu)
    root = podman.home / "root"
    if linked:
        os.rename(root, podman.home / "elsewhere")
        root.symlink_to(podman.home / "elsewhere")
    try:
        script = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done"
        name = podman.run("sh", "-c", script, flags=["--detach"]).stdout.strip()
        podman("exec", name, "sh", "-c", "until test -s /tmp/count; do sleep 0.05; done; echo mark > /tmp/mark")
        podman("container", "checkpoint", "--keep", name)
        podman("container", "restore", "--keep", name)
        words = 'a=$(cat /tmp/count); until test "$(cat /tmp/count)" -gt $((a+1)); do sleep 0.05; done; cat /tmp/mark'
        assert podman("exec", name, "sh", "-c", words).stdout == "mark\n"
        podman("rm", "--force", "--time", "0", name)
    finally:
        if linked:
            root.unlink()
            os.rename(podman.home / "elsewhere", root)
