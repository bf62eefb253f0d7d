"""Scheduling of the program: config.md#linux-process (scheduler, ioPriority), config-linux.md#personality; for the
container's first process and for what exec runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id

MS = 1_000_000
DEADLINE = {"policy": "SCHED_DEADLINE", "runtime": 5 * MS, "deadline": 10 * MS, "period": 20 * MS}


def chrt(*words: str) -> str:
    """The reason why chrt(1) can't run a program with a policy here, in a word or two; "" if it can."""
    if not shutil.which("chrt"):
        return "chrt is not installed"
    done = subprocess.run(["chrt", *words, "true"], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip()


NO_REALTIME = chrt("--fifo", "1")
NO_DEADLINE = chrt("--deadline", *("-T 5000000 -D 10000000 -P 20000000").split(), "0")
needs_realtime = pytest.mark.skipif(bool(NO_REALTIME), reason=NO_REALTIME)
needs_deadline = pytest.mark.skipif(bool(NO_DEADLINE), reason=NO_DEADLINE)


def give_realtime(bundle: TestBundle) -> None:
    """Time for real-time policies, of which a new cgroup v1 has none (CONFIG_RT_GROUP_SCHED)."""
    if any(Path("/sys/fs/cgroup").glob("cpu*/cpu.rt_runtime_us")):
        bundle.config["linux"]["resources"] = {"cpu": {"realtimeRuntime": 1000, "realtimePeriod": 1000000}}


def scheduling(pid: int) -> tuple[str, int, int, str]:
    """Policy (with SCHED_RESET_ON_FORK), static priority, nice value, and deadline parameters of a process."""
    done = subprocess.run(["chrt", "-p", str(pid)], capture_output=True, text=True, check=True)
    values = [line.rpartition(": ")[2] for line in done.stdout.splitlines() if "runtime" not in line or "/" in line]
    nice = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[16])
    parameters = next((v for v in values if v.count("/") == 2), "")
    return values[0], int(values[1]), nice, parameters


@pytest.fixture
def scheduled(cli: Cli, bundle: TestBundle) -> Callable[..., tuple[str, int, int, str]]:
    """Runs the bundle's container with a scheduler, and looks at it."""

    def run(scheduler: dict[str, Any], **options: Any) -> tuple[str, int, int, str]:
        bundle.config["process"]["scheduler"] = scheduler
        name = cli.start(bundle.args("sleep", "1000"))
        found = scheduling(cli.state(name)["pid"])
        cli("delete", "--force", name)
        return found

    return run


@pytest.mark.spec("config#linux-process-6")
@pytest.mark.parametrize(
    ("scheduler", "policy", "nice"),
    [
        ({"policy": "SCHED_OTHER", "nice": 19}, "SCHED_OTHER", 19),
        ({"policy": "SCHED_OTHER", "nice": -7}, "SCHED_OTHER", -7),
        ({"policy": "SCHED_BATCH", "nice": 7}, "SCHED_BATCH", 7),
        ({"policy": "SCHED_BATCH"}, "SCHED_BATCH", 0),
        ({"policy": "SCHED_IDLE"}, "SCHED_IDLE", 0),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, "SCHED_OTHER|SCHED_RESET_ON_FORK", 0),
        ({"policy": "SCHED_BATCH", "flags": ["SCHED_FLAG_KEEP_POLICY"]}, "SCHED_OTHER", 0),
        ({"policy": "SCHED_OTHER", "nice": 5, "flags": ["SCHED_FLAG_KEEP_PARAMS"]}, "SCHED_OTHER", 0),
    ],
)
def test_ordinary(scheduled: Callable[..., Any], scheduler: dict[str, Any], policy: str, nice: int) -> None:
    """config.md#linux-process, scheduler: the policies without a priority, their nice value and flags."""
    assert scheduled(scheduler) == (policy, 0, nice, "")


@needs_realtime
@pytest.mark.parametrize(
    ("scheduler", "policy", "priority"),
    [
        ({"policy": "SCHED_FIFO", "priority": 11}, "SCHED_FIFO", 11),
        ({"policy": "SCHED_FIFO", "priority": 99, "nice": 3}, "SCHED_FIFO", 99),
        ({"policy": "SCHED_RR", "priority": 3, "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
         "SCHED_RR|SCHED_RESET_ON_FORK", 3),
    ],
)  # fmt: skip
def test_realtime(
    bundle: TestBundle, scheduled: Callable[..., Any], scheduler: dict[str, Any], policy: str, priority: int
) -> None:
    """config.md#linux-process, scheduler: real-time policies, though the program may not change them itself."""
    give_realtime(bundle)
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    assert scheduled(scheduler)[:2] == (policy, priority)


@needs_deadline
@pytest.mark.spec("config#linux-process-6")
@pytest.mark.parametrize("flags", [[], ["SCHED_FLAG_RESET_ON_FORK"], ["SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN"]])
def test_deadline(bundle: TestBundle, scheduled: Callable[..., Any], flags: list[str]) -> None:
    """config.md#linux-process, scheduler: SCHED_DEADLINE with its parameters in nanoseconds, set while there still is
    the capability for it; a period of 0, which it is if not set, is
    the deadline."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    policy = "SCHED_DEADLINE" + "|SCHED_RESET_ON_FORK" * ("SCHED_FLAG_RESET_ON_FORK" in flags)
    assert scheduled(DEADLINE | {"flags": flags}) == (policy, 0, 0, "5000000/10000000/20000000")
    short = {name: value for name, value in DEADLINE.items() if name != "period"}
    assert scheduled(short | {"flags": flags})[3] == "5000000/10000000/10000000"


@needs_deadline
def test_deadline_and_hooks(cli: Cli, bundle: TestBundle) -> None:
    """sched(7): a SCHED_DEADLINE process can't fork, so it has no startContainer hooks, but with the flag."""
    (bundle.rootfs / "hook").write_text("#!/bin/sh\necho ran > /ran\n")
    (bundle.rootfs / "hook").chmod(0o755)
    bundle.config["hooks"] = {"startContainer": [{"path": "/hook"}]}
    bundle.config["process"]["scheduler"] = DEADLINE
    assert "$.process.scheduler.flags: the kernel lets no SCHED_DEADLINE" in cli.run(bundle, code=1).stderr
    bundle.config["process"]["scheduler"] = DEADLINE | {"flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    cli.run(bundle)
    assert (bundle.rootfs / "ran").read_text() == "ran\n"


@pytest.mark.spec("config#linux-process-6")
def test_nice_of_the_caller(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, scheduler, nice: 0 if not set, whatever the caller's; which is that of a program without
    a scheduler."""
    nice = ["awk", "{print $19}", "/proc/self/stat"]
    shutil.copy(bundle.rootfs / "bin/busybox", bundle.rootfs / "bin/awk")
    assert cli.run(bundle.args(*nice), preexec_fn=lambda: os.nice(4)).stdout == "4\n"
    bundle.config["process"]["scheduler"] = {"policy": "SCHED_OTHER"}
    assert cli.run(bundle.args(*nice), preexec_fn=lambda: os.nice(4)).stdout == "0\n"


@pytest.mark.parametrize(
    "scheduler",
    [
        {"policy": "SCHED_ISO"},  # reserved, never implemented
        DEADLINE | {"runtime": 1024, "deadline": 2**63 - 1, "period": 2**63 - 1},  # a period above the kernel's limit
    ],
)
def test_refused_by_the_kernel(cli: Cli, bundle: TestBundle, scheduler: dict[str, Any]) -> None:
    """What the kernel has no scheduler for is an error of create with the config path."""
    bundle.config["process"]["scheduler"] = scheduler
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert line.startswith("ocipy: $.process.scheduler: can't set scheduling policy")
    assert "sched_setattr: invalid argument" in line


@pytest.mark.parametrize("flag", ["SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"])
def test_utilization_clamps(cli: Cli, bundle: TestBundle, flag: str) -> None:
    """The flags whose values the config does not have: as the kernel has it, with 0 or not at all."""
    bundle.config["process"]["scheduler"] = {"policy": "SCHED_OTHER", "flags": [flag]}
    done = cli.run(bundle, code=None)
    if Path("/proc/sys/kernel/sched_util_clamp_min").exists():  # CONFIG_UCLAMP_TASK
        assert done.returncode == 0
    else:
        assert "$.process.scheduler: " in done.stderr
        assert "operation not supported" in done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scheduler", {"policy": "SCHED_OTHER", "nice": -5}),
        ("ioPriority", {"class": "IOPRIO_CLASS_RT", "priority": 0}),  # which CAP_SYS_ADMIN would do for, too
    ],
)
@pytest.mark.parametrize("user", [False, True])
def test_unprivileged(cli: Cli, bundle: TestBundle, name: str, value: dict[str, Any], user: bool) -> None:
    """What the caller may not give, who is here in a user namespace: an error with the config path; also if the
    container has a user namespace of its own."""
    bundle.config["process"][name] = value
    bundle.config["mounts"] = []
    bundle.config["linux"] = {"namespaces": [{"type": kind} for kind in ("pid", "mount", "uts")]}
    if user:
        in_user_namespace(bundle, 0, 1)
    command = cli.command("run", "--bundle", str(bundle.save()), fresh_id())
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", *command], capture_output=True, text=True, stdin=subprocess.DEVNULL,
        timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert f"$.process.{name}: can't set" in line
    assert "operation not permitted" in line or "permission denied" in line


@pytest.mark.parametrize(
    ("words", "host_id"),
    [
        (["unshare", "--user", "--map-root-user"], 0),
        (["setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice"], 100000),
    ],
)
def test_without_the_capability(cli: Cli, open_bundle: TestBundle, words: list[str], host_id: int) -> None:
    """What takes no capability is had in a user namespace also if the caller does not have it."""
    bundle = open_bundle
    bundle.config["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH"}, "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6}
    }  # fmt: skip
    bundle.config["mounts"] = bundle.config["mounts"][:2]
    bundle.config["linux"] = {"namespaces": [{"type": kind} for kind in ("pid", "mount", "uts")]}
    in_user_namespace(bundle, host_id, 1)
    command = cli.command("run", "--bundle", str(bundle.args("cat", "/proc/self/stat").save()), fresh_id())
    done = subprocess.run([*words, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rpartition(")")[2].split()[38] == "3"  # SCHED_BATCH


def in_user_namespace(bundle: TestBundle, host_id: int, size: int) -> None:
    """Give the container a user namespace."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for kind in ("uidMappings", "gidMappings"):
        bundle.config["linux"][kind] = [{"containerID": 0, "hostID": host_id, "size": size}]


@pytest.mark.parametrize(
    ("scheduler", "found"),
    [
        ({"policy": "SCHED_OTHER", "nice": -5}, ("SCHED_OTHER", 0, -5, "")),
        pytest.param({"policy": "SCHED_RR", "priority": 7}, ("SCHED_RR", 7, 0, ""), marks=needs_realtime),
        pytest.param(DEADLINE, ("SCHED_DEADLINE", 0, 0, "5000000/10000000/20000000"), marks=needs_deadline),
    ],
)
def test_user_namespace(
    cli: Cli, open_bundle: TestBundle, tmp_path: Path, scheduler: dict[str, Any], found: tuple[Any, ...]
) -> None:
    """In a user namespace of its own no process may give itself these; the runtime, who may, does it. For what exec
    runs as well."""
    give_realtime(open_bundle)
    in_user_namespace(open_bundle, 100000, 65536)
    wanted = {"scheduler": scheduler, "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 3}}
    open_bundle.config["process"] |= wanted
    name = cli.start(open_bundle.args("sleep", "1000"))
    pids = [cli.state(name)["pid"]]
    cli.detach("exec", "--detach", "--pid-file", str(tmp_path / "pid"), name, "sleep", "1000")
    pids.append(int((tmp_path / "pid").read_text()))
    for pid in pids:
        assert "100000" in Path(f"/proc/{pid}/uid_map").read_text()
        assert scheduling(pid) == found
        done = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "realtime: prio 3"
    cli("delete", "--force", name)


@needs_deadline
def test_deadline_takes_all_cpus(cli: Cli, bundle: TestBundle) -> None:
    """sched_setattr(2): SCHED_DEADLINE for a process that may not use all CPUs is refused; the error says so. Whatever
    the caller itself was confined to."""
    if os.cpu_count() == 1:
        pytest.skip("there is one CPU")
    bundle.config["process"]["scheduler"] = DEADLINE
    done = cli.run(bundle, preexec_fn=lambda: os.sched_setaffinity(0, {0}))
    assert done.stderr == ""
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "0"}}
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert line.startswith("ocipy: $.process.scheduler: ")
    assert "process scheduler can't be used together with AllowedCPUs" in line  # runc's words
    assert "$.linux.resources.cpu.cpus" in line


@pytest.mark.parametrize(
    ("priority", "words"),
    [
        ({"class": "IOPRIO_CLASS_RT", "priority": 0}, "realtime: prio 0"),
        ({"class": "IOPRIO_CLASS_BE", "priority": 6}, "best-effort: prio 6"),
        ({"class": "IOPRIO_CLASS_BE", "priority": 0}, "best-effort: prio 0"),
        ({"class": "IOPRIO_CLASS_IDLE", "priority": 7}, "idle"),
    ],
)
def test_io_priority(cli: Cli, bundle: TestBundle, priority: dict[str, Any], words: str) -> None:
    """config.md#linux-process, ioPriority: class and level, of the process, which leads its process group."""
    bundle.config["process"]["ioPriority"] = priority
    name = cli.start(bundle.args("sleep", "1000"))
    pid = cli.state(name)["pid"]
    assert os.getpgid(pid) == pid
    done = subprocess.run(["ionice", "-p", str(pid)], capture_output=True, text=True, check=True)
    cli("delete", "--force", name)
    assert done.stdout.strip() == words


def machine(*words: str) -> str:
    """What uname(2) says of the machine; not every architecture has another word for 32 bits."""
    return subprocess.run([*words, "uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(("domain", "value"), [("LINUX", 0), ("LINUX32", 8)])
def test_personality(cli: Cli, bundle: TestBundle, domain: str, value: int) -> None:
    """config-linux.md#personality: the execution domain of the program and of what exec runs, whatever the caller's;
    without one it is the caller's."""
    shutil.copy(bundle.rootfs / "bin/busybox", bundle.rootfs / "bin/uname")
    script = "cat /proc/self/personality; uname -m"

    def run(*words: str) -> list[str]:
        done = subprocess.run(
            ["setarch", "-R", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.split()

    path = str(bundle.sh(script).save())
    assert run(*cli.command("run", "--bundle", path, fresh_id())) == ["00040000", machine()]
    expected = [f"{value:08x}", machine("setarch", "linux32") if value else machine()]
    bundle.config["linux"]["personality"] = {"domain": domain}
    bundle.save()
    assert run(*cli.command("run", "--bundle", path, fresh_id())) == expected
    name = cli.start(bundle.args("sleep", "1000"))
    assert run(*cli.command("exec", name, "sh", "-c", script)) == expected
    cli("delete", "--force", name)


def test_exec(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """What exec runs has the container's scheduler and I/O priority, unless its process file has its own."""
    shutil.copy(bundle.rootfs / "bin/busybox", bundle.rootfs / "bin/ionice")
    bundle.config["process"] |= {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 3},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 2},
    }
    name = cli.start(bundle.args("sleep", "1000"))
    script = "set -- $(sed 's/.*) //' /proc/self/stat); echo ${17} ${39}; ionice -p $$"
    shutil.copy(bundle.rootfs / "bin/busybox", bundle.rootfs / "bin/sed")
    shell = ["sh", "-c", script]
    assert cli("exec", name, *shell).stdout.split() == ["3", "3", "best-effort:", "prio", "2"]
    process: dict[str, Any] = {"args": shell, "cwd": "/", "env": ["PATH=/bin"]}
    file = tmp_path / "process.json"
    file.write_text(json.dumps(process))
    assert cli("exec", "--process", str(file), name).stdout.split() == ["3", "3", "best-effort:", "prio", "2"]
    process |= {"scheduler": {"policy": "SCHED_OTHER"}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}
    file.write_text(json.dumps(process))
    assert cli("exec", "--process", str(file), name).stdout.split()[:3] == ["0", "0", "idle"]
    cli("delete", "--force", name)
