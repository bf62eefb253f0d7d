"""What ``make demo`` runs: a bundle made from the machine's busybox, and a container in it.

Shows from the inside the container's own host name, its pid 1 and its memory limit, and from the outside its
exit code.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SCRIPT = """\
echo "host name:     $(hostname)"
echo "pid 1:         $(cat /proc/1/comm), and this shell's pid is $$"
for file in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
    [ -r "$file" ] && echo "memory limit:  $(($(cat "$file") >> 20)) MiB"
done
exit 7
"""


def make_bundle(path: Path) -> None:
    """A bundle with a root file system of one static busybox."""
    busybox = shutil.which("busybox")
    if busybox is None:
        sys.exit("demo: busybox is not installed (Debian: busybox-static)")
    root = path / "rootfs"
    for name in ("bin", "dev", "proc", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in ("sh", "hostname", "cat"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "demo.sh").write_text(SCRIPT)


def configure(path: Path, ocipy: str) -> None:
    """Start from the default config, as a user would, and change what the demo wants to show."""
    subprocess.run([ocipy, "spec", "--bundle", str(path)], check=True)
    file = path / "config.json"
    config = json.loads(file.read_text())
    config["process"]["terminal"] = False
    config["process"]["args"] = ["sh", "/demo.sh"]
    config["hostname"] = "ocipy-demo"
    config["linux"]["resources"]["memory"] = {"limit": 64 << 20}
    if {"type": "cgroup"} not in config["linux"]["namespaces"]:
        config["linux"]["namespaces"].append({"type": "cgroup"})
    file.write_text(json.dumps(config, indent=2))


def main() -> int:
    ocipy = str(Path(sys.executable).parent / "ocipy")
    with tempfile.TemporaryDirectory(prefix="ocipy-demo-") as directory:
        path = Path(directory)
        make_bundle(path)
        configure(path, ocipy)
        print(f"$ ocipy run --bundle {path} demo", flush=True)
        done = subprocess.run([ocipy, "run", "--bundle", str(path), f"demo-{path.name[-8:]}"], check=False)
        print(f"exit code:     {done.returncode}")
        print(f"$ ocipy explain {path} | tail -n 8", flush=True)
        plan = subprocess.run([ocipy, "explain", str(path)], check=True, capture_output=True, text=True)
        print("\n".join(plan.stdout.splitlines()[-8:]))
    return 0 if done.returncode == 7 else 1


if __name__ == "__main__":
    sys.exit(main())
