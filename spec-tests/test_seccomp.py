"""System call filters in containers: config-linux.md#seccomp. (test_seccomp_compile.py has the compiler
alone.)"""

from __future__ import annotations

import ctypes
import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle

from ocipy.plan.seccomp import compile_filter

MKDIR = ["mkdir", "mkdirat"]
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")


def profile(bundle: TestBundle, *rules: dict[str, Any], default: str = "SCMP_ACT_ALLOW", **more: Any) -> None:
    bundle.config["linux"]["seccomp"] = {"defaultAction": default, "syscalls": list(rules), **more}


def rule(action: str, *names: str, **more: Any) -> dict[str, Any]:
    return {"names": list(names), "action": action, **more}


def compile_c(bundle: TestBundle, tmp_path: Path, source: str, *flags: str) -> str:
    """Compile a static program into the image; returns its path there."""
    (tmp_path / "p.c").write_text(source)
    subprocess.run(
        ["gcc", "-static", "-O1", *flags, "-o", bundle.rootfs / "bin/p", tmp_path / "p.c"], check=True
    )
    return "/bin/p"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "Operation not permitted"),
        ({"errnoRet": 28}, "No space left on device"),
        ({"errnoRet": 38}, "Function not implemented"),
    ],
)
def test_errno(cli: Cli, bundle: TestBundle, more: dict[str, Any], words: str) -> None:
    """config-linux.md#seccomp, SCMP_ACT_ERRNO: the call fails with errnoRet, EPERM unless given; others
    work."""
    profile(bundle, rule("SCMP_ACT_ERRNO", *MKDIR, **more))
    done = cli.run(bundle.sh("mkdir /tmp/x; touch /tmp/y && echo ok; grep Seccomp: /proc/self/status"))
    assert words in done.stderr
    assert done.stdout.split() == ["ok", "Seccomp:", "2"]
    assert not (bundle.rootfs / "tmp/x").exists()


@pytest.mark.parametrize(
    "action", ["SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"]
)
def test_kill(cli: Cli, bundle: TestBundle, action: str) -> None:
    """config-linux.md#seccomp: actions that end the process, by SIGSYS; for a run in the foreground that is
    exit status 128 + 31."""
    profile(bundle, rule(action, *MKDIR))
    cli.run(bundle.args("mkdir", "/tmp/x"), code=159)
    assert not (bundle.rootfs / "tmp/x").exists()


def test_other_actions(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#seccomp: SCMP_ACT_LOG lets the call through, SCMP_ACT_TRACE without a tracer answers
    ENOSYS."""
    profile(bundle, rule("SCMP_ACT_LOG", *MKDIR), rule("SCMP_ACT_TRACE", "unlink", "unlinkat", errnoRet=3))
    done = cli.run(bundle.sh("mkdir /tmp/x && echo made; touch /tmp/f; rm /tmp/f"), code=1)
    assert done.stdout == "made\n"
    assert "Function not implemented" in done.stderr


@pytest.mark.parametrize(
    ("args", "denied"),
    [
        ([{"index": 1, "value": 10, "op": "SCMP_CMP_EQ"}], {10}),
        ([{"index": 1, "value": 10, "op": "SCMP_CMP_NE"}], {12, 18, 28}),
        ([{"index": 1, "value": 12, "op": "SCMP_CMP_GE"}], {12, 18, 28}),
        ([{"index": 1, "value": 12, "op": "SCMP_CMP_GT"}], {18, 28}),
        ([{"index": 1, "value": 12, "op": "SCMP_CMP_LT"}], {10}),
        ([{"index": 1, "value": 12, "op": "SCMP_CMP_LE"}], {10, 12}),
        ([{"index": 1, "value": 16, "valueTwo": 16, "op": "SCMP_CMP_MASKED_EQ"}], {18, 28}),
        (
            [
                {"index": 1, "value": 11, "op": "SCMP_CMP_GT"},
                {"index": 0, "value": 1, "op": "SCMP_CMP_EQ"},
            ],
            {12, 18, 28},
        ),
        (
            [
                {"index": 0, "value": 7777, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 10, "op": "SCMP_CMP_EQ"},
            ],
            set(),
        ),
    ],
)
def test_arguments(cli: Cli, bundle: TestBundle, args: list[dict[str, Any]], denied: set[int]) -> None:
    """config-linux.md#seccomp, args: every comparison, and several that must hold together; tried with
    signals that process 1 sends itself and does not mind."""
    profile(bundle, rule("SCMP_ACT_ERRNO", "kill", args=args))
    script = "".join(f"kill -{n} 1 2>/dev/null || echo {n};" for n in (10, 12, 18, 28))
    assert set(map(int, cli.run(bundle.sh(script)).stdout.split())) == denied


@needs_gcc
@pytest.mark.parametrize("no_new_privs", [True, False])
def test_allow_list_needs_only_exec(cli: Cli, bundle: TestBundle, tmp_path: Path, no_new_privs: bool) -> None:
    """config-linux.md#seccomp: the filter is loaded last: a profile that kills for all but the exec and
    what the program itself calls is enough."""
    bundle.config["process"]["noNewPrivileges"] = no_new_privs
    source = """
        #include <sys/syscall.h>
        #include <unistd.h>
        void _start(void) { syscall(SYS_write, 1, "ok\\n", 3); syscall(SYS_exit, 0); }
    """
    profile(bundle, rule("SCMP_ACT_ALLOW", "execve", "write", "exit"), default="SCMP_ACT_KILL_PROCESS")
    done = cli.run(bundle.args(compile_c(bundle, tmp_path, source, "-nostartfiles")))
    assert done.stdout == "ok\n"


@needs_gcc
def test_unknown_calls(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config-linux.md#seccomp: under an allow list, a call newer than all that the profile knows answers
    ENOSYS, so that programs fall back, and one that is left out EPERM."""
    source = """
        #include <errno.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            int unknown = syscall(4000) < 0 ? errno : 0;
            int left_out = syscall(SYS_sethostname, "", 0) < 0 ? errno : 0;
            printf("%d %d\\n", unknown, left_out);
            return 0;
        }
    """
    allowed = [
        "execve", "write", "exit_group", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq",
        "prlimit64", "readlinkat", "readlink", "getrandom", "mprotect", "newfstatat", "fstat", "ioctl",
        "clone3", "openat2", "faccessat2", "close_range", "mmap",
    ]  # fmt: skip
    profile(bundle, rule("SCMP_ACT_ALLOW", *allowed), default="SCMP_ACT_ERRNO", defaultErrnoRet=1)
    assert cli.run(bundle.args(compile_c(bundle, tmp_path, source))).stdout == "38 1\n"


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize("no_new_privs", [True, False])
@pytest.mark.parametrize("userns", [True, False])
def test_privileges(cli: Cli, bundle: TestBundle, uid: int, no_new_privs: bool, userns: bool) -> None:
    """config-linux.md#seccomp: with and without noNewPrivileges, for root and for others, who could not
    load a filter themselves; and the privilege that it took is not left to the program."""
    if userns:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["process"] |= {"noNewPrivileges": no_new_privs, "user": {"uid": uid, "gid": uid}}
    profile(bundle, rule("SCMP_ACT_ERRNO", *MKDIR))
    done = cli.run(bundle.sh("mkdir /tmp/x; cat /proc/self/status"))
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    assert "Operation not permitted" in done.stderr
    assert (fields["Seccomp"], fields["NoNewPrivs"]) == ("2", str(int(no_new_privs)))
    expected = (1 << 5 | 1 << 10 | 1 << 29) if uid == 0 else 0
    assert [int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")] == [
        expected,
        expected,
        0,
        0,
    ]


def test_exec(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#seccomp: the filter holds for what exec runs as well."""
    profile(bundle, rule("SCMP_ACT_ERRNO", *MKDIR))
    name = cli.start(bundle.args("sleep", "1000"))
    done = cli("exec", name, "sh", "-c", "grep Seccomp: /proc/self/status; mkdir /tmp/x", code=1)
    cli("delete", "--force", name)
    assert done.stdout.split() == ["Seccomp:", "2"]
    assert "Operation not permitted" in done.stderr


def test_hooks_of_create_are_not_filtered(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#seccomp: the filter is for what runs as the container does: its program and startContainer
    hooks. A createContainer hook, which is to make the container, is not confined by it."""
    profile(bundle, rule("SCMP_ACT_KILL_PROCESS", *MKDIR))
    made = bundle.rootfs / "tmp/by-hook"
    bundle.config["hooks"] = {"createContainer": [{"path": "/bin/mkdir", "args": ["mkdir", str(made)]}]}
    cli.run(bundle)
    assert made.is_dir()


@pytest.mark.parametrize(
    "flags",
    [
        ["SECCOMP_FILTER_FLAG_LOG"],
        ["SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        ["SECCOMP_FILTER_FLAG_TSYNC"],
        ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
    ],
)
def test_flags(cli: Cli, bundle: TestBundle, flags: list[str]) -> None:
    """config-linux.md#seccomp, flags: each is taken by the kernel."""
    profile(bundle, rule("SCMP_ACT_ERRNO", *MKDIR), flags=flags)
    done = cli.run(bundle.sh("mkdir /tmp/x; echo ran"))
    assert done.stdout == "ran\n"
    assert "Operation not permitted" in done.stderr


def test_speculation(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#seccomp, flags: with SPEC_ALLOW the kernel does not turn on its mitigation for the
    program; compared with a program without a filter."""
    look = bundle.sh("grep Speculation_Store_Bypass /proc/self/status || true")
    plain = cli.run(look).stdout
    profile(bundle, rule("SCMP_ACT_ERRNO", *MKDIR), flags=["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])
    assert cli.run(look).stdout == plain


def test_architectures(cli: Cli, bundle: TestBundle) -> None:
    """config-linux.md#seccomp, architectures: several at once; names that an architecture lacks, or nobody
    has, are passed over."""
    profile(
        bundle, rule("SCMP_ACT_ERRNO", *MKDIR, "no_such_call_at_all", "socketcall", "s390_pci_mmio_read"),
        architectures=["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"],
    )  # fmt: skip
    assert "Operation not permitted" in cli.run(bundle.args("mkdir", "/tmp/x"), code=1).stderr


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"defaultAction": "SCMP_ACT_MAYBE"}, "$.linux.seccomp.defaultAction"),
        ({"syscalls": [rule("SCMP_ACT_NO", "mkdir")]}, "$.linux.seccomp.syscalls[0].action"),
        ({"syscalls": [rule("SCMP_ACT_ALLOW")]}, "$.linux.seccomp.syscalls[0].names"),
        ({"architectures": ["SCMP_ARCH_PDP11"]}, "$.linux.seccomp.architectures[0]"),
        ({"flags": ["SECCOMP_FILTER_FLAG_FAST"]}, "$.linux.seccomp.flags[0]"),
        (
            {
                "syscalls": [
                    rule("SCMP_ACT_ALLOW", "kill", args=[{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}])
                ]
            },
            "$.linux.seccomp.syscalls[0].args[0].index",
        ),
        (
            {"syscalls": [rule("SCMP_ACT_ALLOW", "kill", args=[{"index": 0, "value": 1, "op": "SCMP_CMP"}])]},
            "$.linux.seccomp.syscalls[0].args[0].op",
        ),
        ({"syscalls": [rule("SCMP_ACT_NOTIFY", "mkdir")]}, "$.linux.seccomp"),
    ],
)
def test_refused(cli: Cli, bundle: TestBundle, change: dict[str, Any], where: str) -> None:
    """config-linux.md#seccomp: an unknown action, architecture, flag or comparison is refused by its path,
    and so is what is not implemented."""
    profile(bundle)
    bundle.config["linux"]["seccomp"] |= change
    assert where in cli.run(bundle, code=1).stderr


# --- kernels without filters, or as good as ---


def forbid(errno_ret: int) -> Callable[[], None]:
    """A function that makes seccomp(2) fail in this process and those that it starts."""
    rules = [rule("SCMP_ACT_ERRNO", "seccomp", errnoRet=errno_ret)]
    program = compile_filter({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}).program
    code = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))

    def load(keep: Any = code) -> None:
        assert ctypes.CDLL(None).prctl(22, 2, ctypes.byref(fprog), 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER

    return load


@pytest.mark.parametrize("errno_ret", [38, 1])
def test_no_filters_to_be_had(cli: Cli, bundle: TestBundle, errno_ret: int) -> None:
    """config-linux.md#seccomp: where the kernel has no filters, or an outer one forbids seccomp(2), a profile is
    refused by its path before anything is made, `features` tells of no flags, and one without a profile runs."""
    load = forbid(errno_ret)
    assert cli.run(bundle.args("echo", "ran"), preexec_fn=load).stdout == "ran\n"
    told = json.loads(cli("features", preexec_fn=load).stdout)["linux"]["seccomp"]
    assert told["supportedFlags"] == []
    assert told["knownFlags"]
    profile(bundle, rule("SCMP_ACT_ERRNO", *MKDIR))
    said = cli.run(bundle, code=1, preexec_fn=load).stderr
    assert said.startswith("ocipy: $.linux.seccomp: the kernel has no seccomp filters: seccomp: ")
    assert "an outer filter forbids the call" in said
