"""ocipy beside runc and crun, side by side in one run: medians and ratios.

Command lines are timed by hyperfine (no shell), the library in this process. The peers share the bundle. The
machine may be noisy: what counts is the ratio within one run.
"""

from __future__ import annotations

import argparse
import atexit
import ctypes
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ocipy import Container

OCIPY = str(Path(sys.executable).parent / "ocipy")
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 1 << 18


def private_mounts() -> None:
    """A mount namespace of our own, with the v1 hugetlb hierarchy that Debian's crun wants on a hybrid host."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        sys.exit(f"bench: unshare: {os.strerror(ctypes.get_errno())} (it needs root)")
    hugetlb = Path("/sys/fs/cgroup/hugetlb")
    if Path("/sys/fs/cgroup/unified").exists() and not hugetlb.is_mount():
        made = not hugetlb.exists()
        hugetlb.mkdir(exist_ok=True)
        if libc.mount(b"hugetlb", b"/sys/fs/cgroup/hugetlb", b"cgroup", 0, b"hugetlb") == 0 and made:
            # the mount is ours alone, the directory is everybody's
            atexit.register(lambda: (libc.umount2(b"/sys/fs/cgroup/hugetlb", 2), hugetlb.rmdir()))


def make_bundle(path: Path, *, seccomp: bool) -> None:
    """A bundle that runs ``/bin/true`` with the default config."""
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("bench: busybox is not installed")
    for name in ("bin", "dev", "proc", "sys"):
        (path / "rootfs" / name).mkdir(parents=True)
    shutil.copy(busybox, path / "rootfs/bin/busybox")
    for name in ("true", "sh", "sleep"):
        (path / "rootfs/bin" / name).symlink_to("busybox")
    subprocess.run([OCIPY, "spec", "--bundle", str(path)], check=True)
    file = path / "config.json"
    config = json.loads(file.read_text())
    config["ociVersion"] = "1.0.2"  # what the oldest peer takes
    config["process"]["terminal"] = False
    config["process"]["args"] = ["/bin/true"]
    if seccomp:
        # denies a few calls by number and arguments; an allow-list would have to know what each runtime calls
        # between loading it and the exec
        rules = [{"names": ["keyctl", "add_key", "request_key", "bpf", "userfaultfd"], "action": "SCMP_ACT_ERRNO"}]
        masked = {"index": 0, "value": 0x7E020000, "valueTwo": 0x7E020000, "op": "SCMP_CMP_MASKED_EQ"}
        rules.append({"names": ["unshare"], "action": "SCMP_ACT_ERRNO", "args": [masked]})
        config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    file.write_text(json.dumps(config))


def hyperfine(commands: dict[str, str], runs: int, shell: bool = False) -> dict[str, float]:
    """Median milliseconds per named command, all timed in one invocation."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        how = ["--shell", "/bin/sh"] if shell else ["-N"]
        subprocess.run(
            ["hyperfine", *how, "--warmup", "5", "--runs", str(runs), "--export-json", out.name, *commands.values()],
            check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        results = json.loads(Path(out.name).read_text())["results"]
    return {name: row["median"] * 1000 for name, row in zip(commands, results, strict=True)}


def median(action: Callable[[], None], runs: int) -> float:
    """Median milliseconds of a Python call."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def report(title: str, times: dict[str, float]) -> None:
    """Print a table: median and the ratio to each peer."""
    peers = [name for name in times if name in ("runc", "crun", "youki")]
    print(f"\n{title}")
    for name, value in times.items():
        ratios = "".join(f"   {value / times[p]:5.2f} x {p}" for p in peers if p != name)
        print(f"  {name:22} {value:7.2f} ms{ratios}")


def run(path: Path, peers: dict[str, str], runs: int) -> None:
    """The measurements of one bundle."""
    foreground = {name: f"{binary} run --bundle {path} bench-{name}" for name, binary in peers.items()}
    report("run (foreground, /bin/true)", hyperfine(foreground, runs))

    def cycle(binary: str, name: str) -> str:
        steps = (f"create --bundle {path} {name}", f"start {name}", f"delete --force {name}")
        return " && ".join(f"{binary} {step} </dev/null >/dev/null 2>&1" for step in steps)

    report("create + start + delete, three processes (and a shell)",
           hyperfine({n: cycle(b, f"bench-{n}") for n, b in peers.items()}, runs, shell=True))  # fmt: skip
    for name, binary in peers.items():
        subprocess.run([binary, "create", "--bundle", str(path), f"bench-{name}"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)  # fmt: skip
    for command, more in ("state", ""), ("kill", " 0"):
        report(command, hyperfine({n: f"{b} {command} bench-{n}{more}" for n, b in peers.items()}, runs))
    for name, binary in peers.items():
        subprocess.run([binary, "delete", "--force", f"bench-{name}"], check=True)
    library = {}
    library["library, whole life"] = median(lambda: _life(path), runs)
    report("in-process library: create, start, wait, delete", library)


def _life(path: Path) -> None:
    with Container.run("bench-library", str(path)) as container:
        container.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100, help="runs of each command (default 100)")
    runs = parser.parse_args().runs
    private_mounts()
    peers = {"ocipy": OCIPY}
    peers |= {name: found for name in ("runc", "crun", "youki") if (found := shutil.which(name))}
    for name, binary in peers.items():
        version = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout
        print(f"{name:6} {version.splitlines()[0]}")
    with tempfile.TemporaryDirectory(prefix="ocipy-bench-") as directory:
        for title, seccomp in (("default config", False), ("with a seccomp profile", True)):
            path = Path(directory) / title.replace(" ", "-")
            path.mkdir()
            make_bundle(path, seccomp=seccomp)
            print(f"\n== {title}")
            run(path, peers, runs)


if __name__ == "__main__":
    main()
