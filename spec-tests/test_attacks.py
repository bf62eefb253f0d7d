"""What a hostile container, or somebody who shares its root file system, tries: each of these worked once, here or in
another runtime. SECURITY.md lists them. Races have a deterministic form where there is one; OCIPY_STORM=SECONDS runs
the others for so long."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY, Cli, TestBundle, fresh_id, until

from ocipy import Container, host
from ocipy.launch.protocol import ERROR, launch
from ocipy.plan import Options, Plan, flags, ops
from ocipy.plan import compile as compile_plan

RENAME_EXCHANGE = 2
SECONDS = float(os.environ.get("OCIPY_STORM") or 0)
ROUNDS = 24
ALL_CAPS = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_SYS_ADMIN", "CAP_MKNOD", "CAP_SETFCAP"]
#: what Docker's profile lets through and the helper needs, among much else
ALLOWED = (
    "accept4 arch_prctl brk capget capset chdir clock_nanosleep close close_range dup2 dup3 execve exit exit_group"
    " fcntl fork fstat futex getcwd geteuid getegid getgid getpid getppid getuid ioctl lseek mmap mprotect munmap"
    " nanosleep newfstatat open openat poll prctl prlimit64 read readlink recvmsg restart_syscall rseq rt_sigaction"
    " rt_sigprocmask rt_sigreturn sendmsg set_robust_list set_tid_address setpgid stat lstat uname vfork wait4 write"
).split()


def facts(path: str) -> tuple[int, int, int, int]:
    """What chmod, chown and touch change."""
    found = os.stat(path)
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, found.st_mtime_ns


@pytest.fixture
def host_null() -> Iterator[None]:
    """Fails if a test changes the host's /dev/null, and puts it back."""
    before = facts("/dev/null")
    yield
    after = facts("/dev/null")
    if after != before:
        os.chmod("/dev/null", before[0])
        os.chown("/dev/null", before[1], before[2])
    assert after == before


def capable(bundle: TestBundle, *names: str) -> None:
    """Give the program these capabilities and no others."""
    bundle.config["process"]["capabilities"] = {kind: list(names) for kind in ("bounding", "effective", "permitted")}


def identity(bundle: TestBundle) -> None:
    """A user namespace in which root is the host's."""
    maps = [{"containerID": 0, "hostID": 0, "size": 65536}]
    linux = bundle.config["linux"]
    linux["namespaces"].append({"type": "user"})
    linux.update(uidMappings=maps, gidMappings=maps)


def filtered(bundle: TestBundle, **rules: str) -> None:
    """A profile that denies all but what is plainly allowed, without no_new_privs."""
    bundle.config["process"]["noNewPrivileges"] = False
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{"names": ALLOWED, "action": "SCMP_ACT_ALLOW"}],
    }


CHANGE = "chmod 0604 {0}; chown 12:34 {0}; touch {0}"


@pytest.mark.usefixtures("host_null")
@pytest.mark.parametrize("names", [(), ALL_CAPS], ids=["no-capability", "capable"])
@pytest.mark.parametrize("user_namespace", [False, True])
def test_mask_is_not_the_hosts(cli: Cli, bundle: TestBundle, names: list[str], user_namespace: bool) -> None:
    """The node that masks a file is the container's own, also for who may remount it."""
    capable(bundle, *names)
    if user_namespace:
        identity(bundle)
    remount = "mount -o remount,bind,rw /proc/keys 2>/dev/null;" if names else ""
    out = cli.run(bundle.sh(f"{remount} {CHANGE.format('/proc/keys')}; cat /proc/keys; echo x >/proc/keys; echo done"))
    assert out.stdout == "done\n"


@pytest.mark.usefixtures("host_null")
@pytest.mark.parametrize("user_namespace", [False, True])
def test_stdio_is_not_the_hosts(cli: Cli, bundle: TestBundle, user_namespace: bool) -> None:
    """Standard input, output and error that are the host's /dev/null become the container's; for an exec as well."""
    capable(bundle, *ALL_CAPS)
    if user_namespace:
        identity(bundle)
    script = "; ".join(CHANGE.format(f"/proc/self/fd/{fd}") for fd in range(3))
    name = cli.create(bundle.sh(f"{script}; touch /ran; sleep 60"))
    cli("start", name)
    until((bundle.rootfs / "ran").exists)
    cli.detach("exec", name, "sh", "-c", f"{script}; readlink /proc/self/fd/0 >/exec-ran")
    assert (bundle.rootfs / "exec-ran").read_text() == "/dev/null\n"


@pytest.mark.usefixtures("host_null")
def test_stdio_without_a_null_device(cli: Cli, bundle: TestBundle) -> None:
    """A container that has put something else at its /dev/null gets a device that nobody else has."""
    capable(bundle, *ALL_CAPS)
    name = cli.start(bundle.sh("rm /dev/null; mknod /dev/null p; touch /ready; sleep 60"))
    until((bundle.rootfs / "ready").exists)
    script = f"{CHANGE.format('/proc/self/fd/0')}; cat >/read; stat -L -c %t:%T /proc/self/fd/0 >/exec-ran"
    cli.detach("exec", name, "sh", "-c", script)
    assert (bundle.rootfs / "exec-ran").read_text() == "1:3\n"
    assert (bundle.rootfs / "read").read_text() == ""


def test_device_on_stdio_stays_whose_it_is(cli: Cli, bundle: TestBundle) -> None:
    """Standard input is given to the program's uid, so that it can be reopened by its path; a device of the host's is
    not."""
    before = facts("/dev/zero")
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    try:
        with open("/dev/zero", "rb") as device:
            assert cli.run(bundle.sh("head -c 3 | wc -c"), stdin=device).stdout == "3\n"
        assert facts("/dev/zero") == before
    finally:
        os.chown("/dev/zero", before[1], before[2])


@pytest.mark.usefixtures("host_null")
def test_devices_are_not_the_hosts(cli: Cli, bundle: TestBundle) -> None:
    """Where no node can be made, in a user namespace, the container gets nodes like the host's, not the host's."""
    before = {path: facts(path) for path in ("/dev/zero", "/dev/full", "/dev/tty")}
    capable(bundle, *ALL_CAPS)
    identity(bundle)
    try:
        script = "; ".join(CHANGE.format(path) for path in ("/dev/null", *before))
        out = cli.run(bundle.sh(f"{script}; stat -c '%a %t:%T' /dev/zero; head -c 2 /dev/zero | wc -c")).stdout
        assert out.split() == ["604", "1:5", "2"]
        assert {path: facts(path) for path in before} == before
    finally:
        for path, (mode, uid, gid, _) in before.items():
            os.chmod(path, mode)
            os.chown(path, uid, gid)


def renaming(bundle: TestBundle, tmp_path: Path, *names: str) -> None:
    """A hook that renames directories of the root file system away, between the mounts and what is done to them; on the
    host, where nothing is mounted on them."""
    script = tmp_path / "rename.sh"
    moves = "; ".join(f"mv {bundle.rootfs}/{name} {bundle.rootfs}/moved-{name}" for name in names)
    script.write_text(f"#!/bin/sh\n{moves}\n")
    script.chmod(0o755)
    bundle.config["hooks"] = {"createRuntime": [{"path": str(script)}]}


def test_proc_renamed_away(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Masks and read-only paths are of the procfs and sysfs that were mounted, wherever those are by then."""
    renaming(bundle, tmp_path, "proc", "sys")
    script = """
        cat /moved-proc/keys | wc -c
        echo core >/moved-proc/sys/kernel/core_pattern && echo WRITTEN
        ls /moved-sys/firmware | wc -l
        ls -A / | grep -c moved
    """
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    try:
        assert cli.run(bundle.sh(script)).stdout.split() == ["0", "0", "2"]
    finally:
        Path("/proc/sys/kernel/core_pattern").write_text(before)


def test_read_only_mount_renamed_away(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A tmpfs becomes read-only when all is in it: that very one. A remount is of the mount that the config made."""
    (bundle.rootfs / "t").mkdir()
    (bundle.rootfs / "r").mkdir()
    bundle.config["mounts"] += [
        {"destination": "/t", "type": "tmpfs", "source": "t", "options": ["ro"]},
        {"destination": "/r", "type": "tmpfs", "source": "r"},
        {"destination": "/r", "options": ["remount", "bind", "ro"]},
    ]
    renaming(bundle, tmp_path, "t", "r")
    out = cli.run(bundle.sh("grep moved- /proc/mounts")).stdout.splitlines()
    assert [line.split()[1:4:2] for line in out] == [
        ["/moved-t", "ro,relatime,mode=755"], ["/moved-r", "ro,relatime,mode=755"],
    ]  # fmt: skip


@contextmanager
def racing(act: Callable[[], None]) -> Iterator[None]:
    """Do something again and again beside the test."""
    done = threading.Event()

    def loop() -> None:
        while not done.is_set():
            act()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def rounds() -> Iterator[int]:
    """Numbers: a bounded number of them, or for OCIPY_STORM seconds."""
    end, number = time.monotonic() + SECONDS, 0
    while number < ROUNDS or time.monotonic() < end:
        yield number
        number += 1


LIBC = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    LIBC.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), RENAME_EXCHANGE)


def test_proc_racing(cli: Cli, bundle: TestBundle) -> None:
    """The same as a race: somebody exchanges /proc and another directory all the time."""
    (bundle.rootfs / "other").mkdir()
    script = """
        for d in /proc /other; do
            test -e $d/self/stat || continue
            echo core 2>/dev/null >$d/sys/kernel/core_pattern && echo WRITTEN
            test -z "$(cat $d/keys)" || echo READ
        done
    """
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    bundle.sh(script).save()
    try:
        with racing(lambda: exchange(bundle.rootfs / "proc", bundle.rootfs / "other")):
            for _ in rounds():
                done = cli("run", "--bundle", str(bundle.path), fresh_id(), code=None)
                assert done.stdout == ""  # it may be refused, but nothing gets through
    finally:
        Path("/proc/sys/kernel/core_pattern").write_text(before)


def test_copy_up_racing(cli: Cli, bundle: TestBundle) -> None:
    """tmpcopyup copies files and nothing else: a device that is exchanged for one is not read."""
    data = bundle.rootfs / "data"
    data.mkdir()
    (data / "file").write_text("plain")
    node = bundle.rootfs / "node"
    os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(1, 5))
    bundle.config["mounts"].append(
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup", "size=64k"]}
    )
    bundle.sh("if test -e /data/file; then cat /data/file; fi").save()
    with racing(lambda: exchange(data / "file", node)):
        for _ in rounds():
            assert cli("run", "--bundle", str(bundle.path), fresh_id()).stdout in ("plain", "")


def test_copy_up_is_charged(cli: Cli, bundle: TestBundle) -> None:
    """The container is in its cgroup before the first mount: what tmpcopyup copies is its own memory."""
    data = bundle.rootfs / "data"
    data.mkdir()
    with (data / "file").open("wb") as file:
        file.write(b"x" * (64 << 20))
    bundle.config["mounts"].append(
        {"destination": "/data", "type": "tmpfs", "source": "t", "options": ["tmpcopyup"]}
    )
    bundle.config["linux"]["resources"] = {"memory": {"limit": 16 << 20}}
    error = cli.run(bundle, code=1).stderr
    assert "killed by signal 9" in error or "cannot allocate memory" in error
    assert "memory" in error


def test_start_container_hook_is_filtered(cli: Cli, bundle: TestBundle) -> None:
    """A startContainer hook is confined as the program is; what the helper does between the two need not be allowed."""
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95},
            {"names": ["memfd_create", "pidfd_send_signal", "waitid"], "action": "SCMP_ACT_KILL_PROCESS"},
        ],
    }
    script = "mkdir /made 2>/hook-says; grep Seccomp: /proc/self/status >>/hook-says"
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    for no_new_privs in (True, False):
        bundle.config["process"]["noNewPrivileges"] = no_new_privs
        assert cli.run(bundle.sh("cat /hook-says")).stdout.split("\n")[-2] == "Seccomp:\t2"
        assert not (bundle.rootfs / "made").exists()


def test_waiting_without_privilege(cli: Cli, bundle: TestBundle) -> None:
    """Without no_new_privs a filter takes CAP_SYS_ADMIN to load. Where the profile allows what is left to do, it is
    loaded before the wait for start, and the capability is gone."""
    filtered(bundle)
    name = cli.create(bundle.sh("echo ran >/out"))
    status = Path(f"/proc/{cli.state(name)['pid']}/status").read_text()
    fields = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("Cap", "Seccomp:")))
    assert fields["Seccomp"] == "2"
    assert not (int(fields["CapPrm"], 16) | int(fields["CapEff"], 16)) & 1 << 21
    cli("start", name)
    until((bundle.rootfs / "out").exists)
    cli.wait_for(name, "stopped")


def test_waiting_with_a_strict_profile(cli: Cli, bundle: TestBundle) -> None:
    """A profile that denies what the helper still has to do is loaded last, as before."""
    filtered(bundle)
    bundle.config["linux"]["seccomp"]["syscalls"][0]["names"] = [name for name in ALLOWED if name != "accept4"]
    name = cli.create(bundle.sh("grep Seccomp: /proc/self/status >/out"))
    cli("start", name)
    until(lambda: (bundle.rootfs / "out").exists() and (bundle.rootfs / "out").read_text())
    assert (bundle.rootfs / "out").read_text() == "Seccomp:\t2\n"


ACL = bytes.fromhex("02000000" "01000000ffffffff" "04000000ffffffff" "20000000ffffffff")  # nobody may do anything


def spoil(pid: int) -> None:
    """What a container can do to the helper that it waits in, through /proc/PID/exe."""
    fd = os.open(f"/proc/{pid}/exe", os.O_RDONLY)
    try:
        for act in (
            lambda: os.fchown(fd, 12, 34), lambda: os.setxattr(fd, "system.posix_acl_access", ACL),
            lambda: os.fchmod(fd, 0),
        ):  # fmt: skip
            try:
                act()
            except OSError:
                continue
    finally:
        os.close(fd)


def test_helper_spoilt(tmp_path: Path, bundle: TestBundle) -> None:
    """A container can't keep the program that embeds us from launching others."""
    for _ in range(3):
        with Container.create(fresh_id(), str(bundle.save()), root=str(tmp_path / "state")) as container:
            assert container.init is not None
            spoil(container.init.pid)
    with Container.run(fresh_id(), str(bundle.path), root=str(tmp_path / "state")) as container:
        assert container.wait(20) == 0


@pytest.mark.parametrize("value", [1, 2])
def test_memfd_noexec(cli: Cli, bundle: TestBundle, value: int) -> None:
    """Where the kernel lets nothing in a memfd be executed (vm.memfd_noexec, of a pid namespace), we run from
    elsewhere, and that is not writable either."""
    sysctl = Path("/proc/sys/vm/memfd_noexec")
    if not sysctl.exists():
        pytest.skip(f"this kernel has no {sysctl}")
    bundle.sh("dd if=/dev/zero of=/proc/1/exe conv=notrunc count=1 2>/dev/null || echo unwritable").save()
    words = " ".join(cli.command("run", "--bundle", str(bundle.path), fresh_id()))
    script = f"mount -t proc proc /proc && echo {value} >{sysctl} && exec {words}"
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "sh", "-c", script], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("unwritable\n", "")


@pytest.mark.parametrize("target", ["/", "..", "loop/.."])
def test_volume_on_the_root(cli: Cli, bundle: TestBundle, target: str) -> None:
    """An image can't have a volume land on the root itself, by a link."""
    (bundle.rootfs / "data").symlink_to(target)
    (bundle.rootfs / "loop").mkdir()
    (bundle.path / "volume").mkdir()
    bundle.config["mounts"].append({"destination": "/data", "source": "volume", "options": ["bind"]})
    error = cli.run(bundle, code=1).stderr
    assert "$.mounts[5]" in error
    assert "/data leads to the root itself" in error


def test_program_by_a_descriptor_of_ours(cli: Cli, bundle: TestBundle) -> None:
    """While the working directory and the program are looked up, no descriptor of ours leads to the host's files."""
    for fd in range(3, 24):
        bundle.args(f"/proc/self/fd/{fd}/self/exe")
        error = cli.run(bundle, code=1).stderr
        assert "no such file or directory" in error or "not a directory" in error
        bundle.args("true").config["process"]["cwd"] = f"/proc/self/fd/{fd}/self"
        assert cli.run(bundle, code=1).stderr
        bundle.config["process"]["cwd"] = "/"


def test_passwd_by_a_descriptor_of_ours(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Nor when HOME is looked up: an image's /etc/passwd may be a link through /proc/self/fd to a file of the host."""
    secret = tmp_path / "secret"
    secret.write_text("x:x:0:0:x:/secret:x\n")
    secret.chmod(0o600)
    bundle.config["process"]["oomScoreAdj"] = 500
    for fd in range(3, 16):
        passwd = bundle.rootfs / "etc/passwd"
        passwd.unlink()
        passwd.symlink_to(f"/proc/self/fd/{fd}/..{secret}")
        assert cli.run(bundle.sh("echo $HOME")).stdout == "/\n"


def test_nothing_open_with_the_programs_rights(cli: Cli, bundle: TestBundle) -> None:
    """From when the helper has no more rights than the program, others of a shared pid namespace may look into its
    descriptors: none of them leads to files."""
    bundle.config["process"]["oomScoreAdj"] = 500
    name = cli.create(bundle.args("sleep", "60"))
    fds = Path(f"/proc/{cli.state(name)['pid']}/fd")
    links = [os.readlink(path) for path in fds.iterdir() if int(path.name) > 2]
    assert links
    assert [link for link in links if link.startswith("/")] == []
    steps = [op.name for op in plan_of(bundle) if op.name in ("cwd", "user", "caps", "lookup")]
    assert steps[0] == "cwd"  # which closes them, first of these


def plan_of(bundle: TestBundle) -> list[ops.Op]:
    """The operations that a bundle compiles to on this host."""
    return compile_plan(bundle.config, host.facts(), Options(str(bundle.path), "c")).ops


def test_root_swapped_for_a_link(tmp_path: Path) -> None:
    """The root file system that was checked can't be a link by the time it is bound."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    steps = [
        ops.unshare("", flags.NAMESPACES["mount"]), ops.propagation("", "/", flags.MS_SLAVE | flags.MS_REC),
        ops.bind_root("$.root.path", str(tmp_path / "link")),
    ]  # fmt: skip
    null = os.open("/dev/null", os.O_RDWR)
    launched = launch(Plan(steps, [], 0, False), given={}, stdio=(null, null, null))
    try:
        message = launched.channel.receive()
        assert message is not None
        assert (message.type, message.op) == (ERROR, 2)
    finally:
        launched.kill()
        os.close(null)


CHROOTED = """
import os, sys
from ocipy.launch.protocol import helper, launch
from ocipy.plan import Plan, flags, ops
steps = [ops.unshare("", flags.NAMESPACES["mount"]), ops.bind_root("$.root.path", "/a/b")]
null = os.open("/dev/null", os.O_RDWR)
os.close(helper())
os.chroot(sys.argv[1])
launched = launch(Plan(steps, [], 0, False), given={}, stdio=(null, null, null))
try:
    message = launched.channel.receive()
    print(message.type, message.op, message.value, message.text)
finally:
    launched.kill()
"""


def test_root_that_is_no_mount_point(tmp_path: Path) -> None:
    """Where ``/`` itself is no mount point, the search upwards for the mount that the root file system is in ends
    there, and says so."""
    (tmp_path / "top/a/b").mkdir(parents=True)
    words = [sys.executable, "-I", "-c", CHROOTED, str(tmp_path / "top")]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30)
    assert done.stdout == f"{ERROR} 1 22 {b'mount(MS_SLAVE)' + bytes(1)!r}\n", done.stderr


def test_plan_is_sealed(tmp_path: Path) -> None:
    """The plan can't be changed while it is executed."""
    steps = [ops.proc_write("", "self/comm", "a"), ops.sync("", ops.SYNC_HOOKS)]
    null = os.open("/dev/null", os.O_RDWR)
    launched = launch(Plan(steps, [], 0, False), given={}, stdio=(null, null, null))
    try:
        launched.channel.receive()
        plan = next(
            path for path in Path(f"/proc/{launched.pid}/fd").iterdir() if "ocipy-plan" in os.readlink(path)
        )
        fd = os.open(plan, os.O_RDWR)
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        os.close(fd)
    finally:
        launched.kill()
        os.close(null)


def test_installed_helper_is_untouched(tmp_path: Path, bundle: TestBundle) -> None:
    """Nothing of the above reaches the installed file."""
    found: Any = next(Path(OCIPY).parent.parent.rglob("ocipy/_init"))
    before = facts(str(found))
    with Container.create(fresh_id(), str(bundle.save()), root=str(tmp_path / "state")) as container:
        assert container.init is not None
        spoil(container.init.pid)
    assert facts(str(found)) == before
