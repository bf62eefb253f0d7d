"""The process: config.md#process with its user, capabilities, limits and program."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id

ALL = (1 << (int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1)) - 1
CHOWN, KILL, SETUID, BIND, RAW, AUDIT = (1 << n for n in (0, 5, 7, 10, 13, 29))
BIT = {
    "CAP_CHOWN": CHOWN, "CAP_KILL": KILL, "CAP_SETUID": SETUID, "CAP_NET_BIND_SERVICE": BIND,
    "CAP_NET_RAW": RAW, "CAP_AUDIT_WRITE": AUDIT,
}  # fmt: skip


def own_capabilities() -> int:
    return int(Path("/proc/self/status").read_text().partition("CapPrm:")[2].split()[0], 16)


may_raise_limits = pytest.mark.skipif(
    not own_capabilities() >> 24 & 1, reason="CapPrm of the test's process lacks CAP_SYS_RESOURCE"
)


def status(cli: Cli, bundle: TestBundle, *fields: str) -> dict[str, str]:
    """Fields of the program's /proc/self/status."""
    lines = cli.run(bundle.args("cat", "/proc/self/status")).stdout.splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return {name: found[name].strip() for name in fields}


def refusal(cli: Cli, bundle: TestBundle) -> str:
    """The last line of stderr of a container that can't be created; engines keep only that."""
    name = fresh_id()
    done = cli("create", "--bundle", str(bundle.save()), name, code=1)
    assert cli("state", name, code=1).stderr
    return str(done.stderr.splitlines()[-1])


# --- config.md#posix-platform-user ---


def test_user(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user: all four ids of either kind, and exactly the additional groups."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [5, 6, 70000]}
    found = status(cli, bundle, "Uid", "Gid", "Groups")
    assert found["Uid"].split() == ["1000"] * 4
    assert found["Gid"].split() == ["1001"] * 4
    assert sorted(map(int, found["Groups"].split())) == [5, 6, 70000]


def test_many_groups(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user, additionalGids: as many as the kernel takes."""
    bundle.config["process"]["user"]["additionalGids"] = list(range(1, 65537))
    assert status(cli, bundle, "Groups")["Groups"].split() == [str(gid) for gid in range(1, 65537)]


def test_no_groups(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user: the caller's groups are not inherited, for root neither."""
    name = fresh_id()
    bundle.args("cat", "/proc/self/status").save()
    done = subprocess.run(
        cli.command("run", "--bundle", str(bundle.path), name),
        capture_output=True, text=True, stdin=subprocess.DEVNULL, extra_groups=[4, 27], timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.partition("Groups:")[2].splitlines()[0].strip() == ""


def test_largest_ids(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user: ids up to 4294967294."""
    bundle.config["process"]["user"] = {"uid": 4294967294, "gid": 4294967294, "additionalGids": [4294967294]}
    assert status(cli, bundle, "Uid", "Groups") == {
        "Uid": "\t".join(["4294967294"] * 4),
        "Groups": "4294967294",
    }


@pytest.mark.parametrize(("umask", "mode"), [(0, 0o666), (0o22, 0o644), (0o77, 0o600), (0o777, 0)])
def test_umask(cli: Cli, bundle: TestBundle, umask: int, mode: int) -> None:
    """config.md#posix-platform-user, umask: that of the program, not of what the runtime makes."""
    bundle.config["process"]["user"]["umask"] = umask
    bundle.config["process"]["cwd"] = "/made/for/cwd"
    done = cli.run(bundle.sh("umask; touch /tmp/f"))
    assert int(done.stdout, 8) == umask
    assert (bundle.rootfs / "tmp/f").stat().st_mode & 0o777 == mode
    assert (bundle.rootfs / "made/for/cwd").stat().st_mode & 0o777 == 0o755


def test_umask_unset(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-platform-user, umask: unless it is set, it is the caller's."""
    done = cli.run(bundle.sh("umask"), preexec_fn=lambda: os.umask(0o037))
    assert int(done.stdout, 8) == 0o037


# --- config.md#process: cwd, env, args ---


def test_cwd(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, cwd: the program starts there; made if missing, found behind links of the image."""
    for cwd, expected in (
        ("/tmp", "/tmp"),
        ("/new/dir", "/new/dir"),
        ("/link", "/home/user"),
        ("/a/../tmp/", "/tmp"),
    ):
        if not os.path.lexists(bundle.rootfs / "link"):
            (bundle.rootfs / "link").symlink_to("/home/user")
            (bundle.rootfs / "a").mkdir()
        bundle.config["process"]["cwd"] = cwd
        assert cli.run(bundle.sh("pwd -P")).stdout.strip() == expected


def test_cwd_behind_dangling_link(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, cwd: a link that leads out of the root, and to nothing, stays inside."""
    (bundle.rootfs / "out").symlink_to("../../../../made-by-cwd")
    bundle.config["process"]["cwd"] = "/out/sub"
    assert cli.run(bundle.sh("pwd -P")).stdout == "/made-by-cwd/sub\n"
    assert not os.path.lexists("/made-by-cwd")


def test_cwd_of_user_only(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, cwd: a directory that the user may enter by its own rights alone, and one it may
    not."""
    home = bundle.rootfs / "home/user"
    os.chown(home, 1000, 1000)
    home.chmod(0o700)
    bundle.config["process"] |= {"user": {"uid": 1000, "gid": 1000}, "cwd": "/home/user"}
    assert cli.run(bundle.sh("pwd; touch f")).stdout == "/home/user\n"


@pytest.mark.parametrize(
    ("cwd", "words"),
    [
        ("/etc/passwd", "not a directory"),
        ("/etc/passwd/below", "not a directory"),
        ("relative", "an absolute path"),
        ("", "an absolute path"),
    ],
)
def test_bad_cwd(cli: Cli, bundle: TestBundle, cwd: str, words: str) -> None:
    """config.md#process, cwd: a file, or a relative path, is an error that names it."""
    bundle.config["process"]["cwd"] = cwd
    line = refusal(cli, bundle)
    assert "$.process.cwd" in line
    assert words in line


def test_env(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, env: what is given, in its order, and nothing of the caller's but HOME from the
    image's passwd file."""
    bundle.config["process"]["env"] = ["A=1", "PATH=/bin", "EMPTY=", "WITH=a=b", "UTF=é\n2"]
    done = cli.run(bundle.args("/bin/env"), env={"CALLER": "1", "LC_ALL": "C", "HOME": "/caller"})
    assert done.stdout == "A=1\nPATH=/bin\nEMPTY=\nWITH=a=b\nUTF=é\n2\nHOME=/root\n"


@pytest.mark.parametrize(
    ("uid", "env", "home"),
    [
        (0, [], "/root"),
        (1000, [], "/home/user"),
        (4321, [], "/"),
        (1000, ["HOME=/given"], "/given"),
        (1000, ["HOME="], "/home/user"),
        (1000, ["HOME=/given", "HOME="], "/home/user"),
        (1000, ["HOME=", "HOME=/given"], "/given"),
    ],
)
def test_home(cli: Cli, bundle: TestBundle, uid: int, env: list[str], home: str) -> None:
    """HOME is the user's home directory in the image, / for one without, and as given if that is not empty, which
    counts as not given, as with runc."""
    bundle.config["process"]["user"] = {"uid": uid, "gid": 0}
    bundle.config["process"]["env"] = ["PATH=/bin", *env]
    assert cli.run(bundle.sh('echo "[$HOME]"')).stdout == f"[{home}]\n"


def test_env_twice(cli: Cli, bundle: TestBundle) -> None:
    """Of a variable that is there twice the program has the last value, once, in the place of the first; so do those of
    exec, from its flags and from its file."""
    bundle.config["process"]["env"] = ["A=1", "PATH=/none", "B=1", "A=2", "PATH=/bin", "A=", "AB=1", "A=3=4"]
    wanted = "A=3=4\nPATH=/bin\nB=1\nAB=1\n"
    assert cli.run(bundle.args("env")).stdout == f"{wanted}HOME=/root\n"
    name = cli.start(bundle.args("sleep", "1000"))
    done = cli("exec", "--env", "B=2", "--env", "HOME=/x", "--env", "B=3", "--env", "HOME=", name, "env")
    assert done.stdout == f"{wanted.replace('B=1', 'B=3', 1)}HOME=/root\n"
    process = {"args": ["env"], "cwd": "/", "env": bundle.config["process"]["env"]}
    done = cli("exec", "--process", "/dev/stdin", name, input=json.dumps(process))
    assert done.stdout == f"{wanted}HOME=/root\n"
    cli("delete", "--force", name)


def test_home_of_odd_passwd(cli: Cli, bundle: TestBundle) -> None:
    """A passwd file that is missing or damaged is no error; HOME is / then."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 0}
    for content in (b"", b"\0\0:::\nuser:x:1000\n:x:1000:\n" + b"x" * 9000 + b"\n", None):
        path = bundle.rootfs / "etc/passwd"
        path.write_bytes(content) if content is not None else path.unlink()
        assert cli.run(bundle.sh("echo $HOME")).stdout == "/\n"


def test_args(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, args: passed as they are: empty ones, blanks, line ends, and a $ that no one
    expands."""
    words = ["", " ", "two words", "$HOME", "a\nb", "'", '"', "é", "-n"]
    bundle.args("sh", "-c", 'for a; do printf "[%s]" "$a"; done', *words)
    assert cli.run(bundle).stdout == "".join(f"[{w}]" for w in words[1:])


def test_many_args(cli: Cli, bundle: TestBundle) -> None:
    """config.md#process, args and env: thousands of them."""
    bundle.config["process"]["env"] += [f"V{n}={'x' * 50}" for n in range(3000)]
    done = cli.run(bundle.args("sh", "-c", "echo $#; env | wc -l", *map(str, range(5000))))
    assert done.stdout.split() == ["4999", "3004"]  # with PATH, HOME, and the PWD and SHLVL of the shell


@pytest.mark.parametrize(
    ("path", "program", "output"),
    [
        ("/nowhere:/opt/tools:/bin", "tool", "opt\n"),
        ("/bin:/opt/tools", "tool", "opt\n"),
        ("", "tool2", "bin\n"),
        (None, "tool2", "bin\n"),
        ("/opt/tools", "/bin/tool2", "bin\n"),
        ("/etc:/opt/tools", "tool", "opt\n"),
        (":/nowhere", "tool3", "cwd\n"),
        ("/nowhere", "./tool3", "cwd\n"),
    ],
)
def test_path_lookup(cli: Cli, bundle: TestBundle, path: str | None, program: str, output: str) -> None:
    """config.md#process, args: the program is found by the container's PATH in the container, as execvp(3)
    does it: an entry that is missing, or where the file can't be run, is passed over."""
    places = {"opt/tools/tool": "opt", "bin/tool2": "bin", "srv/tool3": "cwd"}
    for name, word in places.items():
        file = bundle.rootfs / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\necho {word}\n")
        file.chmod(0o755)
    (bundle.rootfs / "etc/tool").write_text("not executable")
    bundle.config["process"]["env"] = [f"PATH={path}"] if path is not None else []
    bundle.config["process"]["cwd"] = "/srv"
    assert cli.run(bundle.args(program)).stdout == output


# --- what is wrong with the program, said at create ---


def test_missing_program(cli: Cli, bundle: TestBundle) -> None:
    """A program that is on no directory of PATH: the phrase that engines look for, at create already."""
    line = refusal(cli, bundle.args("no-such-program"))
    assert 'exec: "no-such-program": executable file not found in $PATH' in line
    assert "$.process.args" in line


def test_missing_file(cli: Cli, bundle: TestBundle) -> None:
    """A program given by a path that is not there."""
    assert refusal(cli, bundle.args("/bin/nothing")).endswith("stat /bin/nothing: no such file or directory")


def test_permission_denied(cli: Cli, bundle: TestBundle) -> None:
    """A file without execute permission, by path and by PATH; and one that only root may run, for a user."""
    (bundle.rootfs / "bin/plain").write_text("#!/bin/sh\n")
    (bundle.rootfs / "bin/plain").chmod(0o644)
    assert refusal(cli, bundle.args("/bin/plain")).endswith('exec: "/bin/plain": permission denied')
    assert refusal(cli, bundle.args("plain")).endswith('exec: "plain": permission denied')
    (bundle.rootfs / "bin/plain").chmod(0o700)
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    assert refusal(cli, bundle.args("plain")).endswith("permission denied")


def test_directory_as_program(cli: Cli, bundle: TestBundle) -> None:
    """A directory is no program; on PATH it is passed over."""
    assert refusal(cli, bundle.args("/bin")).endswith('exec: "/bin": is a directory: permission denied')
    (bundle.rootfs / "bin/dir").mkdir()
    assert refusal(cli, bundle.args("dir")).endswith("executable file not found in $PATH")


@pytest.mark.parametrize(
    ("line", "missing"),
    [
        ("#!/bin/nothing", "/bin/nothing"),
        ("#! /usr/bin/python3 -I", "/usr/bin/python3"),
        ("#!/bin/sh\r", "/bin/sh\\r"),
    ],
)
def test_missing_interpreter(cli: Cli, bundle: TestBundle, line: str, missing: str) -> None:
    """A script whose #! interpreter is missing: it is that which is named, with a carriage return made
    visible."""
    (bundle.rootfs / "bin/script").write_bytes(f"{line}\necho\n".encode())
    (bundle.rootfs / "bin/script").chmod(0o755)
    text = refusal(cli, bundle.args("script"))
    assert (
        f'exec: "/bin/script": the interpreter of its #! line, {missing}: no such file or directory' in text
    )


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
def test_missing_loader(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A dynamic program whose ELF loader is missing in the image: it is the loader which is named."""
    (tmp_path / "p.c").write_text("int main(void) { return 0; }\n")
    subprocess.run(
        [
            "gcc",
            "-o",
            bundle.rootfs / "bin/dynamic",
            tmp_path / "p.c",
            "-Wl,--dynamic-linker=/lib/ld-absent.so.1",
        ],
        check=True,
    )
    text = refusal(cli, bundle.args("dynamic"))
    assert 'exec: "/bin/dynamic": its ELF loader, /lib/ld-absent.so.1: no such file or directory' in text


@pytest.mark.parametrize("content", [b"neither\n", b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + b"\xff" * 100])
def test_exec_format(cli: Cli, bundle: TestBundle, content: bytes) -> None:
    """A file that is no program: start says so, and the container is stopped."""
    (bundle.rootfs / "bin/text").write_bytes(content)
    (bundle.rootfs / "bin/text").chmod(0o755)
    name = cli.create(bundle.args("text"))
    done = cli("start", name, code=1)
    assert done.stderr.splitlines()[-1].endswith('exec: "/bin/text": exec format error')
    assert "$.process.args" in done.stderr
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_gone_before_start(cli: Cli, bundle: TestBundle) -> None:
    """A program that was there at create and is gone at start: start says so."""
    (bundle.rootfs / "bin/brief").write_text("#!/bin/sh\n")
    (bundle.rootfs / "bin/brief").chmod(0o755)
    name = cli.create(bundle.args("brief"))
    (bundle.rootfs / "bin/brief").unlink()
    done = cli("start", name, code=1)
    assert done.stderr.splitlines()[-1].endswith('exec: "/bin/brief": no such file or directory')
    cli("delete", "--force", name)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"args": []}, "$.process.args"),
        ({"args": None}, "$.process.args"),
        ({"args": [1]}, "$.process.args[0]"),
        ({"args": [""]}, "$.process.args[0]"),
        ({"env": ["NOVALUE"]}, "$.process.env[0]"),
        ({"env": ["=x"]}, "$.process.env[0]"),
        ({"user": {"uid": -1, "gid": 0}}, "$.process.user.uid"),
        ({"user": {"uid": 4294967295, "gid": 0}}, "$.process.user.uid"),
        ({"user": {"uid": 0, "gid": 0, "umask": 0o1000}}, "$.process.user.umask"),
        ({"oomScoreAdj": 1001}, "$.process.oomScoreAdj"),
        ({"rlimits": [{"type": "RLIMIT_X", "soft": 1, "hard": 1}]}, "$.process.rlimits[0].type"),
        ({"rlimits": [{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]}, "$.process.rlimits[0].soft"),
    ],
)
def test_bad_process(cli: Cli, bundle: TestBundle, change: dict[str, Any], where: str) -> None:
    """config.md#process: what is wrong, or not implemented, is refused by its config path."""
    bundle.config["process"] |= change
    assert where in refusal(cli, bundle)


# --- config.md#linux-process: capabilities, noNewPrivileges ---


def capabilities(bundle: TestBundle, **sets: list[str]) -> None:
    bundle.config["process"]["capabilities"] = sets


def seen(cli: Cli, bundle: TestBundle) -> dict[str, int]:
    fields = status(cli, bundle, "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    return {name[3:]: int(value, 16) for name, value in fields.items()}


def test_root_capabilities(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, capabilities: the five sets of a root program; the inheritable one is empty
    unless asked for (CVE-2022-29162)."""
    names = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW"]
    capabilities(bundle, bounding=names, effective=names, permitted=names)
    mask = CHOWN | KILL | RAW
    assert seen(cli, bundle) == {"Inh": 0, "Prm": mask, "Eff": mask, "Bnd": mask, "Amb": 0}


def test_user_capabilities(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, capabilities: another user keeps, over the exec, what is ambient."""
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    both = ["CAP_NET_RAW", "CAP_KILL"]
    capabilities(
        bundle,
        bounding=[*both, "CAP_CHOWN"],
        effective=both,
        permitted=both,
        inheritable=both,
        ambient=["CAP_NET_RAW"],
    )
    assert seen(cli, bundle) == {
        "Inh": RAW | KILL,
        "Prm": RAW,
        "Eff": RAW,
        "Bnd": RAW | KILL | CHOWN,
        "Amb": RAW,
    }


def test_no_capabilities(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, capabilities: without any, there are none, for root as well."""
    bundle.config["process"].pop("capabilities")
    assert seen(cli, bundle) == {"Inh": 0, "Prm": 0, "Eff": 0, "Bnd": 0, "Amb": 0}
    capabilities(bundle)
    assert seen(cli, bundle)["Bnd"] == 0


def test_all_capabilities(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, capabilities: every one that the caller has, by its name."""
    from ocipy.plan.flags import CAPABILITIES

    held = own_capabilities()
    names = [name for number, name in enumerate(CAPABILITIES) if held >> number & 1]
    assert len(CAPABILITIES) >= ALL.bit_length()
    capabilities(bundle, bounding=names, effective=names, permitted=names, inheritable=names)
    found = seen(cli, bundle)
    assert found == {"Inh": held, "Prm": held, "Eff": held, "Bnd": held, "Amb": 0}


@pytest.mark.spec("config#linux-process-1", "config#linux-process-2")
@pytest.mark.parametrize("user", [False, True])
def test_capability_not_held(cli: Cli, bundle: TestBundle, user: bool) -> None:
    """config.md#linux-process, capabilities: one that the caller does not have can't be given: a warning, and the
    program has the others. In a user namespace of its own the container has all."""
    names = ["CAP_CHOWN", "CAP_NET_RAW", "CAP_KILL"]
    capabilities(bundle, bounding=names, effective=names, permitted=names, inheritable=names, ambient=names)
    if user:
        bundle.config["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    words = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    bundle.args("grep", "Cap", "/proc/self/status")
    done = subprocess.run(
        [*words, *cli.command("run", "--bundle", str(bundle.save()), fresh_id())],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {int(word, 16) for word in done.stdout.split()[1::2]} == {CHOWN | KILL | (RAW if user else 0)}
    if user:
        assert done.stderr == ""
    else:
        assert done.stderr.startswith("ocipy: warning: $.process.capabilities: CAP_NET_RAW: not granted")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.spec("config#linux-process-1", "config#linux-process-2")
def test_unknown_capability(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, capabilities: a name that is none is a warning, and has no effect."""
    capabilities(bundle, bounding=["CAP_FLY", "CAP_CHOWN"])
    assert seen(cli, bundle)["Bnd"] == CHOWN
    warning = cli.run(bundle).stderr
    assert "warning" in warning
    assert "CAP_FLY" in warning


@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
@pytest.mark.parametrize("given", [True, False])
def test_no_new_privileges(cli: Cli, bundle: TestBundle, tmp_path: Path, given: bool) -> None:
    """config.md#linux-process, noNewPrivileges: as given, and then a set-user-id program changes nothing."""
    bundle.config["process"]["noNewPrivileges"] = given
    assert status(cli, bundle, "NoNewPrivs") == {"NoNewPrivs": str(int(given))}
    (tmp_path / "p.c").write_text(
        '#include <stdio.h>\n#include <unistd.h>\nint main(void) { printf("%d\\n", (int)geteuid()); }\n'
    )
    subprocess.run(["gcc", "-static", "-o", bundle.rootfs / "bin/euid", tmp_path / "p.c"], check=True)
    (bundle.rootfs / "bin/euid").chmod(0o4755)
    bundle.config["process"]["user"] = {"uid": 1000, "gid": 1000}
    assert cli.run(bundle.args("euid")).stdout == ("1000\n" if given else "0\n")


# --- config.md#posix-process, #linux-process: limits and scheduling ---


@pytest.mark.spec("config#posix-process-3", "config#posix-process-5", "config#posix-process-7")
def test_rlimits(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-process, rlimits: soft and hard, of many kinds, and no limit as the largest number."""
    unlimited = 2**64 - 1
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    limits = {
        "RLIMIT_NOFILE": (100, 200, "Max open files"),
        "RLIMIT_FSIZE": (1 << 30, 1 << 31, "Max file size"),
        "RLIMIT_STACK": (4 << 20, 8 << 20, "Max stack size"),
        "RLIMIT_NICE": (0, 0, "Max nice priority"),
        "RLIMIT_SIGPENDING": (50, 60, "Max pending signals"),
        "RLIMIT_MEMLOCK": (4096, 8192, "Max locked memory"),
        "RLIMIT_RTTIME": (10**6, 10**6, "Max realtime timeout"),
    }
    if hard == resource.RLIM_INFINITY:
        limits["RLIMIT_CORE"] = (0, unlimited, "Max core file size")
    bundle.config["process"]["rlimits"] = [
        {"type": name, "soft": soft, "hard": hard} for name, (soft, hard, _) in limits.items()
    ]
    found = cli.run(bundle.args("cat", "/proc/self/limits")).stdout
    for soft, hard, title in limits.values():
        words = found.partition(title)[2].split()[:2]
        assert words == [str(v) if v < unlimited else "unlimited" for v in (soft, hard)], title


@pytest.mark.parametrize(("soft", "hard"), [(0, 0), (3, 3), (3, 5000)])
def test_few_open_files(cli: Cli, bundle: TestBundle, soft: int, hard: int) -> None:
    """config.md#posix-process, rlimits: a number of open files that leaves the program its standard streams, or nothing
    that it could open, for an exec as well; and files of no size. Hooks are spared."""
    bundle.config["process"]["rlimits"] = [
        {"type": "RLIMIT_FSIZE", "soft": 0, "hard": 0}, {"type": "RLIMIT_NOFILE", "soft": soft, "hard": hard},
    ]  # fmt: skip
    bundle.config["hooks"] = {"startContainer": [{"path": "/bin/cat", "args": ["cat", "/etc/passwd"]}]}
    script = "ulimit -Sn; ulimit -Hn"
    assert cli.run(bundle.sh(f"{script}; ulimit -f")).stdout == f"{soft}\n{hard}\n0\n"
    name = cli.start(bundle.args("sleep", "1000"))
    assert cli("exec", name, "sh", "-c", script).stdout == f"{soft}\n{hard}\n"


def test_rlimits_inherited(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-process, rlimits: the others are the caller's, untouched."""
    own = Path("/proc/self/limits").read_text().splitlines()
    found = cli.run(bundle.args("cat", "/proc/self/limits")).stdout.splitlines()
    assert [line.split() for line in found] == [line.split() for line in own]


def test_rlimit_refused(cli: Cli, bundle: TestBundle) -> None:
    """config.md#posix-process, rlimits: one that may not be raised is an error by config path, with
    advice."""
    bundle.config["process"]["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 100}]
    bundle.save()
    words = ["setpriv", "--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]
    done = subprocess.run(
        [*words, *cli.command("run", "--bundle", str(bundle.path), fresh_id())],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99)),
    )  # fmt: skip
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert "$.process.rlimits[0]" in line
    assert "raising a hard limit takes CAP_SYS_RESOURCE" in line


@pytest.mark.spec("config#linux-process-3", "config#linux-process-4")
def test_oom_score_adj(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, oomScoreAdj: as given; the caller's unless given."""
    own = Path("/proc/self/oom_score_adj").read_text().strip()
    assert cli.run(bundle.args("cat", "/proc/self/oom_score_adj")).stdout.strip() == own
    for score in (321, int(own)):
        bundle.config["process"]["oomScoreAdj"] = score
        assert cli.run(bundle.args("cat", "/proc/self/oom_score_adj")).stdout.strip() == str(score)


@may_raise_limits
def test_oom_score_lowered(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, oomScoreAdj: lowered, with the privilege that takes."""
    bundle.config["process"]["oomScoreAdj"] = -500
    assert cli.run(bundle.args("cat", "/proc/self/oom_score_adj")).stdout == "-500\n"


def test_oom_score_in_user_namespace(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, oomScoreAdj: in a user namespace as well, set by the caller's right."""
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 0, "size": 65536}]
    bundle.config["process"]["oomScoreAdj"] = 123
    assert cli.run(bundle.args("cat", "/proc/self/oom_score_adj")).stdout == "123\n"


def test_many_arguments(cli: Cli, bundle: TestBundle) -> None:
    """config.md#linux-process, args, env: as many as the kernel takes, a hundred thousand and more."""
    bundle.config["process"]["env"] += [f"V{number}=" for number in range(20_000)]
    bundle.args("sh", "-c", 'echo $# "[$V19999]" $HOME', "sh", *["x"] * 120_000)
    assert cli.run(bundle).stdout == "120000 [] /root\n"


# --- descriptors and signals ---


def test_descriptors(cli: Cli, bundle: TestBundle) -> None:
    """Nothing of the runtime's, and nothing that leaked into it, is open in the program but 0, 1 and 2
    (CVE-2024-21626)."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    try:
        done = cli.run(bundle.sh("ls -l /proc/$$/fd"), close_fds=False)
    finally:
        os.close(read)
        os.close(write)
    assert [line.split()[8] for line in done.stdout.splitlines() if "->" in line] == ["0", "1", "2"]


def test_descriptors_of_exec(cli: Cli, bundle: TestBundle) -> None:
    """The same holds for what exec runs."""
    name = cli.start(bundle.args("sleep", "1000"))
    read, write = os.pipe()
    os.set_inheritable(read, True)
    done = cli("exec", name, "sh", "-c", "ls -l /proc/$$/fd", close_fds=False)
    os.close(read)
    os.close(write)
    cli("delete", "--force", name)
    assert [line.split()[8] for line in done.stdout.splitlines() if "->" in line] == ["0", "1", "2"]


def test_preserve_fds(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """--preserve-fds N: descriptors 3 to 2+N go to the program, by the same numbers, and no others."""
    (tmp_path / "three").write_text("3\n")
    (tmp_path / "four").write_text("4\n")
    script = f'exec "$@" 3<{tmp_path}/three 4<{tmp_path}/four 5<{tmp_path}/four'
    bundle.sh("cat <&3; cat <&4; (cat <&5) 2>/dev/null || echo closed")
    words = cli.command("run", "--preserve-fds", "2", "--bundle", str(bundle.save()), fresh_id())
    done = subprocess.run(
        ["bash", "-c", script, "sh", *words],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3\n4\nclosed\n"


def test_preserve_many_fds(cli: Cli, bundle: TestBundle) -> None:
    """--preserve-fds N: hundreds of them as well."""
    keep = "import os, sys; [os.dup2(0, n) for n in range(3, 403)]; os.execv(sys.argv[1], sys.argv[1:])"
    path = str(bundle.sh("ls /proc/self/fd").save())
    words = cli.command("run", "--preserve-fds", "400", "--bundle", path, fresh_id())
    done = subprocess.run(
        [sys.executable, "-c", keep, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert {int(n) for n in done.stdout.split()} - {403} == set(range(403))  # 403: the directory that ls reads


def test_preserve_missing_fds(cli: Cli, bundle: TestBundle) -> None:
    """--preserve-fds of what is not open is refused; the runtime's own descriptors are not taken for it."""
    for count in ("1", "2", "3", "9"):
        done = cli.run(bundle, "--preserve-fds", count, code=1)
        assert "--preserve-fds: descriptor" in done.stderr


def test_signals(cli: Cli, bundle: TestBundle) -> None:
    """The program starts with no signal blocked and none ignored, whatever the caller and the interpreter
    have."""
    import signal

    def spoil() -> None:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in range(signal.SIGRTMIN, signal.SIGRTMAX + 1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])

    done = cli.run(bundle.args("cat", "/proc/self/status"), preexec_fn=spoil)
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines())
    assert [fields[name] for name in ("SigBlk", "SigIgn")] == ["0" * 16] * 2
