"""ocipy in place of runc under a real containerd: its stock runc shim calls the installed command.

The shim calls ``ocipy --root DIR --log FILE --log-format json`` with ``create --bundle --pid-file
[--console-socket]``, ``start``, ``exec --process FILE --detach --pid-file [--console-socket]``,
``kill [--all]``, ``pause``, ``resume``, ``ps --format json``, ``delete [--force]``: all used below.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import OCIPY, TestBundle, fresh_id, until
from criu_tools import criu as criu  # a fixture
from engines import (
    IMAGE,
    USER_IMAGE,
    Containerd,
    Ctr,
    Terminal,
    containerd_fixture,  # noqa: F401
    ctr_fixture,  # noqa: F401
)

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()
LOOP = ("sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
NAMESPACES = ("pid", "ipc", "uts", "mnt", "net")
#: what keeps a kernel from some of the tests
SWITCHES = {
    "seccomp": "/proc/sys/kernel/seccomp/actions_avail",
    "user namespaces": "/proc/self/ns/user",
}


def needs(what: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not Path(SWITCHES[what]).exists(), reason=f"no {what}: no {SWITCHES[what]}")


def facts(text: str) -> dict[str, str]:
    """Lines of ``name: value``."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def limit(daemon: Containerd, name: str, controller: str, file: str) -> str:
    """A file of a container's cgroup."""
    found = [path / file for path in daemon.cgroups() if path.name == name and (path / file).exists()]
    if not UNIFIED:
        found = [path for path in found if controller in path.parts[-4].split(",")]
    assert len(found) == 1, found
    return found[0].read_text().strip()


# --- ctr run ---


def test_exit_status_and_output(ctr: Ctr) -> None:
    """runtime.md#lifecycle: the program's exit status and output reach the caller, and it is process 1."""
    done = ctr.sh("echo $$; echo err >&2; exit 7", code=7)
    assert (done.stdout, done.stderr) == ("1\n", "err\n")
    assert ctr.sh("exit 4", "--null-io", code=4).stdout == ""


def test_replaces_runc_by_name(ctr: Ctr) -> None:
    """A link named ``runc`` in containerd's PATH is enough: no option names the runtime. (ctr 1.6 forgets
    --runc-binary with --no-pivot, which is how that flag is tested.)"""
    name = fresh_id()
    done = ctr("run", "--rm", "--no-pivot", IMAGE, name, "sh", "-c", "ls -d /proc/1 /bin; exit 5", code=5)
    assert done.stdout == "/bin\n/proc/1\n"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("nosuch", 'exec: "nosuch": executable file not found in $PATH'),
        ("/no/such", 'exec: "/no/such": stat /no/such: no such file or directory'),
        ("/etc/passwd", 'exec: "/etc/passwd": permission denied'),
        ("/etc", 'exec: "/etc": is a directory: permission denied'),
    ],
)
def test_missing_program(ctr: Ctr, program: str, words: str) -> None:
    """runtime.md#create: what engines and their users look for in the error of a program that is not there:
    the shim takes it from the log, which is JSON."""
    done = ctr.run(program, code=1)
    assert "OCI runtime create failed" in done.stderr
    assert words in done.stderr


def test_warnings(ctr: Ctr, containerd: Containerd) -> None:
    """A capability that is left out: containerd shows nothing, the warning is in the log of the bundle, and not in what
    the container writes."""
    name = fresh_id()
    flags = ["--detach", "--cap-add", "CAP_NOSUCH", "--log-uri", f"file://{containerd.home}/written"]
    done = ctr(*ctr.flags(flags, ["sh", "-c", "echo mine; sleep 1000"], name))
    assert done.stdout + done.stderr == ""
    (log,) = containerd.home.glob(f"state/io.containerd.runtime.v2.task/*/{name}/log.json")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    assert {entry["level"] for entry in entries} == {"warning"}
    assert all("CAP_NOSUCH" in entry["msg"] for entry in entries)
    written = containerd.home / "written"
    until(lambda: written.exists() and written.read_text())
    assert written.read_text() == "mine\n"
    written.unlink()
    ctr.kill(name)


def test_failing_start(ctr: Ctr, containerd: Containerd) -> None:
    """runtime.md#start: a failed exec is an error of start, told by containerd; nothing remains."""
    program = containerd.home / "program"
    program.write_text("neither a script nor ELF")
    program.chmod(0o755)
    mount = f"type=bind,src={program},dst=/program,options=rbind:ro"
    done = ctr.run("/program", flags=["--mount", mount], code=1)
    assert "OCI runtime start failed" in done.stderr
    assert 'exec: "/program": exec format error' in done.stderr


def test_isolation(ctr: Ctr, containerd: Containerd) -> None:
    """config-linux.md: namespaces of its own, masked and read-only paths, the devices, and no inherited
    descriptors."""
    script = "".join(f"echo {name}: $(readlink /proc/self/ns/{name});" for name in NAMESPACES) + (
        "echo timer: $(wc -c < /proc/timer_list); echo sys: $( (echo 1 > /proc/sys/vm/drop_caches) 2>&1 );"
        "echo fds: $(ls /proc/self/fd | wc -l); echo null: $(stat -c %t:%T:%a /dev/null);"
        "echo lo: $(ip link show lo | grep -c UP); echo caps: $(grep CapEff /proc/self/status);"
        "echo privs: $(grep NoNewPrivs /proc/self/status); echo limit: $(ulimit -n)"
    )
    found = facts(ctr.sh(script).stdout)
    for name in NAMESPACES:
        assert found[name] != os.readlink(f"/proc/{containerd.anchor.pid}/ns/{name}")
    assert found["timer"] == "0"
    assert "Read-only file system" in found["sys"]
    assert found["fds"] == "4"  # 0, 1, 2, and the directory itself
    assert found["null"] == "1:3:666"
    assert found["lo"] == "1"
    assert (found["caps"], found["privs"]) == ("CapEff: 00000000a80425fb", "NoNewPrivs: 1")
    assert found["limit"] == "1024"


def test_namespaces_of_others(ctr: Ctr, containerd: Containerd) -> None:
    """--net-host and --with-ns: a namespace left out of the config is the engine's, one with a path is joined
    (config-linux.md#namespaces). --net-host binds the host's resolv.conf and hosts."""
    mine = {name: os.readlink(f"/proc/{containerd.anchor.pid}/ns/{name}") for name in ("net", "ipc")}
    script = (
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; grep -c -e resolv.conf -e hosts /proc/mounts"
    )
    net, ipc, binds = ctr.sh(script, "--net-host").stdout.split()
    assert (net, binds) == (mine["net"], "2")
    assert ipc != mine["ipc"]
    name = ctr.start(*LOOP)
    pid = ctr.tasks()[name][0]
    net, ipc, _ = ctr.sh(f"{script}; true", "--with-ns", f"ipc:/proc/{pid}/ns/ipc").stdout.split()
    assert ipc == os.readlink(f"/proc/{pid}/ns/ipc")
    assert net not in (mine["net"], os.readlink(f"/proc/{pid}/ns/net"))
    ctr.kill(name)


def test_limits(ctr: Ctr, containerd: Containerd) -> None:
    """config-linux.md#control-groups: --memory-limit, --cpus and --cpu-shares are in the container's cgroup,
    as is --cpu-quota with --cpu-period."""
    name = ctr.start(*LOOP, flags=["--memory-limit", "67108864", "--cpus", "0.5", "--cpu-shares", "512"])
    other = ctr.start(*LOOP, flags=["--cpu-quota", "20000", "--cpu-period", "50000"])
    if UNIFIED:
        assert limit(containerd, name, "memory", "memory.max") == "67108864"
        assert limit(containerd, name, "cpu", "cpu.max") == "50000 100000"
        assert limit(containerd, name, "cpu", "cpu.weight") == "59"
        assert limit(containerd, other, "cpu", "cpu.max") == "20000 50000"
    else:
        assert limit(containerd, name, "memory", "memory.limit_in_bytes") == "67108864"
        assert limit(containerd, name, "cpu", "cpu.cfs_quota_us") == "50000"
        assert limit(containerd, name, "cpu", "cpu.cfs_period_us") == "100000"
        assert limit(containerd, name, "cpu", "cpu.shares") == "512"
        assert limit(containerd, other, "cpu", "cpu.cfs_quota_us") == "20000"
        assert limit(containerd, other, "cpu", "cpu.cfs_period_us") == "50000"
    ctr.kill(name, other)


def test_out_of_memory(ctr: Ctr) -> None:
    """A program that wants more than its memory limit is killed, and containerd says 137."""
    ctr.sh("exec dd if=/dev/zero of=/dev/null bs=256M count=1", "--memory-limit", "33554432", code=137)


def test_cgroup_path(ctr: Ctr, containerd: Containerd) -> None:
    """--cgroup: the path as given, or, where it is empty, one of the runtime's choice that has the id
    (config-linux.md#cgroups-path). Both are gone afterwards, but not a parent of the path."""
    name = ctr.start(*LOOP, flags=["--cgroup", f"/{containerd.namespace}/deep/er"])
    pid = ctr.tasks()[name][0]
    paths = {line.rpartition(":")[2].strip() for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}
    assert f"/{containerd.namespace}/deep/er" in paths
    ctr.kill(name)
    parents = [path for path in containerd.cgroups() if path.name == "deep"]
    assert parents
    for path in parents:
        path.rmdir()
    name = ctr.start(*LOOP, flags=["--cgroup", ""])
    pid = ctr.tasks()[name][0]
    assert f"/{name}\n" in Path(f"/proc/{pid}/cgroup").read_text()
    ctr.kill(name)


def test_file_system(ctr: Ctr, containerd: Containerd) -> None:
    """--read-only and --mount: config.md#root readonly, #mounts. A source that is not there is an error with
    its path, and nothing remains."""
    source = containerd.home / "source"
    source.mkdir()
    (source / "file").write_text("content")
    bind = f"type=bind,src={source},dst="
    done = ctr.sh(
        "touch /x; cat /ro/file; touch /ro/y; touch /rw/y;"
        "grep -c ' /new/tmp tmpfs rw,nosuid.*size=1024k' /proc/mounts",
        "--read-only", "--mount", f"{bind}/ro,options=rbind:ro", "--mount", f"{bind}/rw,options=rbind:rw",
        "--mount", "type=tmpfs,src=tmpfs,dst=/new/tmp,options=nosuid:size=1m",
    )  # fmt: skip
    assert done.stdout == "content1\n"
    assert done.stderr == "touch: /x: Read-only file system\ntouch: /ro/y: Read-only file system\n"
    assert (source / "y").exists()
    done = ctr.sh("true", "--mount", f"type=bind,src={source}/none,dst=/x,options=rbind:ro", code=1)
    assert f"{source}/none" in done.stderr
    assert "no such file or directory" in done.stderr


def test_rootfs(ctr: Ctr, bundle: TestBundle) -> None:
    """--rootfs: a directory of the user's own is the root; not managed by containerd."""
    name = fresh_id()
    words = ctr.flags(
        ["--rm", "--rootfs"], ["/bin/sh", "-c", "echo x > /tmp/here; exit 3"], name, str(bundle.rootfs)
    )
    ctr(*words, code=3)
    assert (bundle.rootfs / "tmp/here").read_text() == "x\n"


def test_process(ctr: Ctr) -> None:
    """config.md#process: cwd (made where it is missing), env, HOME of the user, capabilities."""
    done = ctr.sh(
        "pwd; echo $A-$B-$HOME; grep -E 'CapEff|NoNew' /proc/self/status", "--cwd", "/new/dir",
        "--env", "A=1 2", "--env", "B=", "--allow-new-privs",
        "--cap-add", "CAP_SYS_PTRACE", "--cap-drop", "CAP_CHOWN",
    )  # fmt: skip
    assert done.stdout == "/new/dir\n1 2--/root\nCapEff:\t00000000a80c25fa\nNoNewPrivs:\t0\n"


def test_image_user(ctr: Ctr) -> None:
    """The image's user, working directory and entrypoint; its groups are the additionalGids."""
    assert ctr.run(image=USER_IMAGE).stdout == "uid=1000(user) gid=1000(user) groups=1000(user),2000(extra)\n"
    done = ctr.run("sh", "-c", "pwd; echo $HOME; grep CapEff /proc/self/status", image=USER_IMAGE)
    assert done.stdout == "/home/user\n/home/user\nCapEff:\t0000000000000000\n"


def test_privileged(ctr: Ctr) -> None:
    """--privileged: every capability that the engine has, the host's devices, /sys and /proc/sys writable, no
    masked paths."""
    done = ctr.sh(
        "grep CapEff /proc/self/status; mount -t tmpfs t /tmp && echo mounted;"
        "grep -c ' /sys sysfs rw' /proc/mounts; grep -c -e /proc/sys -e timer_list /proc/mounts;"
        "ls /dev | wc -l",
        "--privileged",
    )
    caps, mounted, sys, masks, devices = done.stdout.splitlines()
    mine = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")
    )
    assert (caps, mounted, sys, masks) == (mine, "mounted", "1", "0")
    assert int(devices) > 20


def test_device(ctr: Ctr, containerd: Containerd) -> None:
    """--device: the node is there, and the device cgroup lets it be opened (ENXIO: no driver has it), which
    it does not for one that the container makes itself (EPERM)."""
    node = containerd.home / "node"
    os.mknod(node, 0o600 | stat.S_IFCHR, os.makedev(240, 99))
    script = f"stat -c %t:%T {node}; cat {node}; mknod /tmp/other c 240 98; cat /tmp/other"
    done = ctr.sh(script, "--device", str(node), code=1)
    assert done.stdout == "f0:63\n"
    assert done.stderr.splitlines() == [
        f"cat: can't open '{node}': No such device or address",
        "cat: can't open '/tmp/other': Operation not permitted",
    ]


@needs("seccomp")
def test_seccomp(ctr: Ctr, containerd: Containerd) -> None:
    """--seccomp: containerd's default profile, and one from a file (config-linux.md#seccomp)."""
    done = ctr.sh("grep Seccomp: /proc/self/status; busybox unshare -m true", "--seccomp", code=1)
    assert done.stdout == "Seccomp:\t2\n"
    assert "Operation not permitted" in done.stderr
    profile = containerd.home / "seccomp.json"
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    done = ctr.sh("mkdir /x", "--seccomp", "--seccomp-profile", str(profile), code=1)
    assert done.stderr == "mkdir: can't create directory '/x': No space left on device\n"


@needs("user namespaces")
def test_user_namespace(ctr: Ctr) -> None:
    """--uidmap and --gidmap: root is another user outside (config-linux.md#user-namespaces), to whom the
    snapshotter has given the image."""
    done = ctr.sh(
        "id -u; grep -c ' 100000 *65536' /proc/self/uid_map; touch /x && stat -c %u:%g /x /bin/busybox",
        "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536",
    )  # fmt: skip
    assert done.stdout.split() == ["0", "1", "0:0", "0:0"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        # not enabled on this host, or no such profile
        (("--apparmor-profile", "nosuch"), "$.process.apparmorProfile"),
        (
            ("--runc-systemd-cgroup", "--cgroup", "machine.slice:ocipy:nosuch"),
            "--systemd-cgroup: systemd is not running here",
        ),
        (("--rdt-class", "nosuch"), "intelRdt"),
    ],
)
def test_refused(ctr: Ctr, flags: tuple[str, ...], words: str) -> None:
    """runtime.md#errors: what can't be had is refused by its name, and not ignored."""
    done = ctr.sh("true", *flags, code=1)
    assert "OCI runtime create failed" in done.stderr
    assert words in done.stderr


# --- interactive ---


def test_terminal(ctr: Ctr) -> None:
    """run --tty: config.md#process terminal, through the shim's console socket; typing, window size, ^C."""
    script = (
        "tty; echo ready; read x; echo got $x; until [ \"$(stty size 2>&1)\" = '40 50' ]; do sleep 0.1; done;"
        "echo sized; trap 'stop=1' INT; echo trap; while [ -z $stop ]; do sleep 0.05; done;"
        "echo int; read x; exit 6"  # the kernel may drop what the session's leader writes just before its end
    )
    words = ctr.flags(["--rm", "--tty"], ["sh", "-c", script], fresh_id())
    terminal = Terminal(ctr.command(*words))

    def resize() -> None:  # more than once: ctr forgets what came before it had started the task
        terminal.resize(39, 50)
        terminal.resize(40, 50)

    try:
        terminal.until("ready")
        terminal.type("hello\n")
        terminal.until("got hello")
        terminal.until("sized", meanwhile=resize)
        terminal.until("trap")
        terminal.type("\x03")
        terminal.until("int")
        terminal.type("end\n")
    finally:
        code = terminal.end()
    assert code == 6
    assert terminal.seen.split()[0] == "/dev/pts/0"


def test_terminal_of_exec(ctr: Ctr) -> None:
    """exec --tty: a terminal of its own, in the container's devpts."""
    name = ctr.start(*LOOP)
    script = "tty; read x; echo got $x; read x; test -t 0 -a -t 1 -a -t 2; exit 1$?"
    terminal = Terminal(ctr.command("task", "exec", "--tty", "--exec-id", "x", name, "sh", "-c", script))
    try:
        terminal.until("/dev/pts/0")
        terminal.type("hello\n")
        terminal.until("got hello")
        terminal.type("end\n")
    finally:
        code = terminal.end()
    assert code == 10
    ctr.kill(name)


def test_standard_input(ctr: Ctr) -> None:
    """Without a terminal: what is written reaches the program, and so does the end."""
    words = ctr.command(*ctr.flags(["--rm"], ["sh", "-c", "echo ready; cat; exit 3"], fresh_id()))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write("hello\n")
        process.stdin.flush()
        assert process.stdout.readline() == "hello\n"
        process.stdin.close()
        assert process.wait(60) == 3


# --- detached: ctr task ---


def test_life_of_a_task(ctr: Ctr, containerd: Containerd) -> None:
    """run --detach, then each verb of ``ctr task``: ls, ps, pause, resume, kill, delete, with what is refused
    in each state (runtime.md#lifecycle)."""
    pid_file = containerd.home / "pid"
    name = ctr.start(*LOOP, flags=["--pid-file", str(pid_file)])
    pid, status = ctr.tasks()[name]
    assert status == "RUNNING"
    assert int(pid_file.read_text()) == pid
    assert str(pid) in ctr("task", "ps", name).stdout.split()
    assert "must be stopped" in ctr("task", "delete", name, code=1).stderr

    ctr("task", "pause", name)
    assert ctr.status(name) == "PAUSED"
    ctr.exec(name, "true", code=1)
    ctr("task", "resume", name)
    assert ctr.status(name) == "RUNNING"
    ctr.exec(name, "true")

    ctr("task", "kill", "--all", "--signal", "SIGWINCH", name)
    ctr("task", "kill", name)
    ctr.wait_for(name, "STOPPED")
    assert "process already finished" in ctr("task", "kill", name, code=1).stderr
    assert "exit code 9" in ctr("task", "delete", name).stderr
    assert name not in ctr.tasks()
    ctr("container", "rm", name)


def test_metrics(ctr: Ctr) -> None:
    """``ctr task metrics``: containerd reads them from the container's cgroup."""
    name = ctr.start(*LOOP, flags=["--memory-limit", "67108864"])
    pid = ctr.tasks()[name][0]
    mounted = Path(f"/proc/{ctr.daemon.anchor.pid}/mountinfo").read_text()
    lines = [line.split(":") for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    missing = [names for _, names, _ in lines if names and names.split(",")[0] not in mounted]
    done = ctr("task", "metrics", "--format", "json", name, code=None)
    ctr.kill(name)
    if missing:  # containerd wants all that /proc/PID/cgroup names
        pytest.skip(f"the kernel has v1 hierarchies that are not mounted: {missing}")
    data = json.loads(done.stdout)
    assert data["pids"]["current"] >= 1
    assert (data["memory"]["usage_limit"] if UNIFIED else data["memory"]["usage"]["limit"]) == 67108864


def test_exec(ctr: Ctr, containerd: Containerd) -> None:
    """``ctr task exec``: exit status, output, user, working directory; the namespaces and the cgroup are the
    container's. Errors are worded as at create."""
    name = ctr.start(*LOOP)
    pid = ctr.tasks()[name][0]
    script = "".join(f"echo {kind}: $(readlink /proc/self/ns/{kind});" for kind in NAMESPACES)
    done = ctr.exec(name, "sh", "-c", script + "echo err >&2; exit 6", code=6)
    assert facts(done.stdout) == {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES}
    assert done.stderr == "err\n"
    script = (
        "id -u; id -g; pwd; cat /proc/self/cgroup /proc/1/cgroup; grep -E 'CapEff|NoNew' /proc/self/status"
    )
    done = ctr.exec(name, "sh", "-c", script, flags=["--user", "1000:2000", "--cwd", "/tmp"])
    uid, gid, cwd, *lines, caps, privs = done.stdout.splitlines()
    assert (uid, gid, cwd) == ("1000", "2000", "/tmp")
    assert (caps, privs) == ("CapEff:\t0000000000000000", "NoNewPrivs:\t1")
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]

    done = ctr.exec(name, "nosuch", code=1)
    assert "OCI runtime exec failed" in done.stderr
    assert 'exec: "nosuch": executable file not found in $PATH' in done.stderr
    done = ctr.exec(name, "true", flags=["--cwd", "/no/such"], code=1)
    assert "/no/such" in done.stderr
    assert "no such file or directory" in done.stderr
    assert ctr.status(name) == "RUNNING"
    ctr.kill(name)


def test_detached_exec(ctr: Ctr) -> None:
    """exec --detach: containerd knows the process by its exec id, and kills it; the container goes on."""
    name = ctr.start(*LOOP)
    ctr("task", "exec", "--detach", "--exec-id", "side", name, "sleep", "1000")
    assert "ExecID:side" in ctr("task", "ps", name).stdout
    ctr("task", "kill", "--exec-id", "side", "--signal", "SIGKILL", name)
    until(lambda: "ExecID:side" not in ctr("task", "ps", name).stdout)
    assert ctr.status(name) == "RUNNING"
    ctr.kill(name)


def test_operator_sees_containers(ctr: Ctr, containerd: Containerd) -> None:
    """``ocipy --root /run/containerd/runc/NAMESPACE`` is how an operator looks at containerd's containers;
    the annotations are in the state (runtime.md#state)."""
    name = ctr.start(*LOOP, flags=["--annotation", "org.example.key=value"])
    root = f"/run/containerd/runc/{containerd.namespace}"

    def ocipy(*words: str) -> str:
        command = containerd.enter(OCIPY, "--root", root, *words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    state = json.loads(ocipy("state", name))
    assert (state["status"], state["pid"]) == ("running", ctr.tasks()[name][0])
    assert state["annotations"] == {"org.example.key": "value"}
    assert state["bundle"].endswith(f"/{containerd.namespace}/{name}")
    assert name in ocipy("list")
    assert state["pid"] in json.loads(ocipy("ps", "--format", "json", name))
    assert json.loads(ocipy("events", "--stats", name))["data"]["pids"]["current"] >= 1
    ctr.kill(name)


# --- storms, and what dies at the wrong moment ---


def test_parallel_containers(ctr: Ctr, containerd: Containerd) -> None:
    """Eight containers at once, each with its own exit status and output (in a file: a busy ctr can miss what
    a short-lived container writes, whatever the runtime)."""
    out = containerd.home / "out"
    out.mkdir()
    flags = ["--rm", "--mount", f"type=bind,src={out},dst=/out,options=rbind:rw"]
    running = []
    for number in range(8):
        script = f"echo {number} > /out/{number}; exit {10 + number}"
        words = ctr.command(*ctr.flags(flags, ["sh", "-c", script], fresh_id()))
        running.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True))
    errors = [process.communicate(timeout=120)[1] for process in running]
    assert errors == [""] * 8
    assert [process.returncode for process in running] == [*range(10, 18)]
    assert [(out / str(number)).read_text() for number in range(8)] == [f"{number}\n" for number in range(8)]


def test_kill_storm(ctr: Ctr) -> None:
    """Eight tasks, some of them paused, killed at once: all of them end with 137, and nothing is left."""
    script = "sleep 1000 & sleep 1000 & wait"
    names = [ctr.start("sh", "-c", script) for _ in range(8)]
    for name in names[:3]:
        ctr("task", "pause", name)
    killers = [
        subprocess.Popen(
            ctr.command("task", "kill", "--signal", "SIGKILL", *(["--all"] if number % 2 else []), name),
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for number, name in enumerate(names)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in killers]
    assert errors == [""] * 8
    assert [process.returncode for process in killers] == [0] * 8
    for name in names:
        ctr.wait_for(name, "STOPPED")
        assert "exit code 137" in ctr("task", "delete", name).stderr
        ctr("container", "rm", name)


@pytest.mark.parametrize("paused", [False, True])
def test_forced_delete(ctr: Ctr, paused: bool) -> None:
    """``ctr task rm --force`` of a running and of a paused container."""
    name = ctr.start("sh", "-c", "sleep 1000 & sleep 1000")
    if paused:
        ctr("task", "pause", name)
    assert "exit code 137" in ctr("task", "rm", "--force", name).stderr
    ctr("container", "rm", name)


def test_client_dies(ctr: Ctr) -> None:
    """A ctr that is killed leaves its container running, to be killed by another."""
    name = fresh_id()
    words = ctr.command(*ctr.flags([], ["sh", "-c", "echo ready; while :; do sleep 0.05; done"], name))
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "ready\n"
        client.kill()
    assert ctr.status(name) == "RUNNING"
    ctr.kill(name)


@pytest.mark.parametrize("prepare", ["run", "pause"])
def test_shim_dies(ctr: Ctr, containerd: Containerd, prepare: str) -> None:
    """The shim is killed: containerd has the runtime kill and delete the container (``delete --force``),
    running or paused, and all of it goes."""
    name = ctr.start("sh", "-c", "sleep 1000 & sleep 1000")
    pid = ctr.tasks()[name][0]
    if prepare == "pause":
        ctr("task", "pause", name)
    shim = next(pid for pid, words in containerd.processes().items() if f"-id {name} " in words)
    os.kill(shim, signal.SIGKILL)
    until(lambda: name not in ctr.tasks(), 60, "containerd does not notice")
    until(lambda: not Path(f"/proc/{pid}").exists(), 60, "the container's process is left")
    ctr("container", "rm", name)


# --- checkpoint and restore ---


def test_live_restore(ctr: Ctr, containerd: Containerd, criu: str) -> None:
    """ctr c checkpoint --task, c restore --live: the shim names the bundle's directory `work` to restore, which is a
    link to containerd's root. The container's program goes on where it was."""
    containerd.find(criu)
    script = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done"
    name, other = ctr.start("sh", "-c", script, flags=["--null-io"]), fresh_id()
    image = f"docker.io/ocipy-test/{name}:checkpoint"
    ctr.exec(name, "sh", "-c", "until test -s /tmp/count; do sleep 0.05; done; echo mark > /tmp/mark")
    ctr("container", "checkpoint", "--image", "--rw", "--task", name, image)
    ctr.kill(name)
    try:
        ctr("container", "restore", "--rw", "--live", other, image)
        words = 'a=$(cat /tmp/count); until test "$(cat /tmp/count)" -gt $((a+1)); do sleep 0.05; done; cat /tmp/mark'
        assert ctr.exec(other, "sh", "-c", words).stdout == "mark\n"
        ctr.kill(other)
    finally:
        ctr("images", "rm", image)
        for path in (containerd.home / "tmp").glob("ctrd-checkpoint*"):  # containerd leaves them there
            shutil.rmtree(path)
