"""A room for one run of tests: a changed copy of the tree, built, on a machine that looks like this one.

A change can make ocipy remove the wrong files, own the host's devices or kill every process. So the room has namespaces
of its own (mount, pid, uts, ipc), and an overlay over the root file system, as the guests of tools/guest-run.sh have:
what is written vanishes, and its end ends every process. Cgroups, sysctls and the network are the host's. Paths hold,
since the changed copy stands in the place of the tree. Several may run side by side, and beside the ordinary tests.

``python -m mutants.room FILE PID``, in the new namespaces: FILE has a job (run.py), and PID is a number that no other
test run has as its pid, for the tests name what they make by it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

#: a test that takes longer hangs: they have limits of a minute themselves
SILENCE = 150
#: the exit status if the tests were killed, took too long, or could not be built; pytest's own end at 5
KILLED, TIMEOUT, BROKEN = 97, 98, 99
MNT_DETACH = 2
#: how to enter one
COMMAND = (
    "sh", "-c", 'exec "$@" $$', "sh", "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--propagation", "private", "--uts", "--ipc", "--pid", "--fork",
    "--kill-child",
)  # fmt: skip


def mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


def overlay(lower: str, scratch: Path, point: Path) -> None:
    for kind in "upper", "work":
        Path(f"{scratch}-{kind}").mkdir(mode=0o755)
    point.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={lower},upperdir={scratch}-upper,workdir={scratch}-work"
    mount("-t", "overlay", "-o", options, "overlay", str(point))


def furnish(tree: str, base: str, scratch: Path) -> None:
    """The mounts, and the root of this process.

    Args:
        tree: where the copy of the tree is to be.
        base: an unchanged copy.
        scratch: an empty directory beside it.
    """
    root, work = scratch / "root", str(scratch.parent)
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(scratch))
    overlay("/", scratch / "host", root)
    own = tuple(f"{name}/" for name in ("/proc", "/sys", "/dev", "/tmp", "/var/tmp", "/run"))
    for point in sorted(set(points) - {"/"}):  # other file systems of the host, files of a container engine
        if not f"{point}/".startswith(own) and os.access(point, os.F_OK) and os.access(f"{root}{point}", os.F_OK):
            mount("-o", "bind,ro", point, f"{root}{point}")
    mount("-t", "proc", "proc", f"{root}/proc")
    mount("--rbind", "/sys", f"{root}/sys")
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", f"{root}/dev")
    subprocess.run(["cp", "-a", "-x", "/dev/.", f"{root}/dev"], check=True)
    for name, mode in ("/dev/shm", 1777), ("/tmp", 1777), ("/var/tmp", 1777), ("/run", 755):
        Path(f"{root}{name}").mkdir(exist_ok=True)
        mount("-t", "tmpfs", "-o", f"mode={mode}", "tmpfs", f"{root}{name}")
    mount("--bind", "/dev/pts", f"{root}/dev/pts")
    Path(f"{root}/dev/mqueue").mkdir(exist_ok=True)
    mount("-t", "mqueue", "mqueue", f"{root}/dev/mqueue")
    for name in "/run/lock", "/run/systemd", "/run/dbus":
        if os.path.isdir(name):
            Path(f"{root}{name}").mkdir(exist_ok=True)
            mount("--bind", name, f"{root}{name}")
    overlay(base, scratch / "tree", Path(f"{root}{tree}"))
    Path(f"{root}{work}").mkdir(mode=0o755, parents=True, exist_ok=True)
    mount("--bind", work, f"{root}{work}")
    os.chdir(root)
    subprocess.run(["pivot_root", ".", "."], check=True)
    ctypes.CDLL(None).umount2(b".", MNT_DETACH)
    os.chdir(tree)


def build(tree: Path, files: dict[str, str], log: Any) -> None:
    """Write changed files into the tree and install them. Raises CalledProcessError."""
    python = tree / ".venv/bin/python"
    site = next(tree.glob(".venv/lib/python*/site-packages"))
    for path, text in files.items():
        for root in (tree, site) if path.endswith(".py") else (tree,):
            (root / path).write_text(text)

    def run(*words: str) -> None:
        subprocess.run([str(python), *words], cwd=tree, check=True, stdout=log, stderr=log)

    launcher = {"native/launcher/launcher.c", "native/launcher/fast_path.c", "native/launcher/embed.c"}
    native = {path for path in files if path.endswith(".c")}
    if native - launcher:
        run("setup.py", "-q", "build_ext", "--build-lib", str(site), "--build-temp", "build/mutant", "--force")
    if native & launcher:
        run("setup.py", "-q", "build_scripts", "--build-dir", str(tree / ".venv/bin"), "--force")
    if any(path.endswith(".py") for path in files):
        run("tools/make_pack.py", str(site / "ocipy"))


def clear(pid: int) -> None:
    """End all that is left of the tests, and remove their cgroups: a change may well keep them from it."""
    names = [f"{prefix}-{pid}" for prefix in ("ocipytest", "ocipy-test")]
    found = [
        directory for directory, _, _ in os.walk("/sys/fs/cgroup")
        if any(part == name or part.startswith(f"{name}-") for part in directory.split("/") for name in names)
    ]  # fmt: skip
    for directory in found:
        for file, state in ("freezer.state", "THAWED"), ("cgroup.freeze", "0"):
            with contextlib.suppress(OSError):
                Path(directory, file).write_text(state)
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)  # of this pid namespace
    deadline = time.monotonic() + 10
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                time.sleep(0.02)
    for directory in reversed(found):
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def watch(command: list[str], out: Path, log: Any, seconds: float, pid: int) -> int:
    """Run the tests; their exit status, or TIMEOUT if no test ends for long, or not all do in time."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MAKE", "TMP"))}
    with contextlib.suppress(OSError):  # of a kernel that is made to restore checkpoints
        Path("/proc/sys/kernel/ns_last_pid").write_text(f"{pid - 1}")
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
    )
    end, heard, size = time.monotonic() + seconds, time.monotonic(), 0
    try:
        while time.monotonic() < min(end, heard + SILENCE):
            time.sleep(0.05)
            if out.stat().st_size != size:
                heard, size = time.monotonic(), out.stat().st_size
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid == process.pid:
                    return process.wait()
                os.waitpid(found.si_pid, 0)  # an orphan: this is process 1
        return TIMEOUT
    finally:
        clear(process.pid)


def main(file: Path, pid: int) -> int:
    job = json.loads(file.read_text())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tree, out = Path(job["tree"]), Path(job["out"])
    out.touch()
    plugin = Path(__file__).with_name("asked.py").read_text()
    scratch = file.with_suffix(".room")
    scratch.mkdir()
    with open(job["log"], "ab", buffering=0) as log:
        furnish(job["tree"], job["base"], scratch)
        try:
            build(tree, job["files"], log)
        except subprocess.CalledProcessError:
            return BROKEN
        script = file.with_suffix(".py")
        script.write_text(plugin)
        status = watch([f"{tree}/.venv/bin/python", str(script), str(file)], out, log, job["seconds"], pid)
        return status if status >= 0 else KILLED


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
