"""Bad input: what is said, with which exit status, and that nothing is left behind (runtime.md#errors).

The ``cli`` fixture checks after each test that no cgroup, mount, process or state remains; here that is also checked
right after the command that failed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id, nothing_left

SLEEP = ("sleep", "1000")


class Refusal:
    """How a command failed: its last line on stderr, and the entry in the log."""

    def __init__(self, done: subprocess.CompletedProcess[str], log: Path) -> None:
        self.code = done.returncode
        self.stderr = done.stderr
        self.last = done.stderr.splitlines()[-1]
        entries = [json.loads(line) for line in log.read_text().splitlines()]
        self.entry: dict[str, str] = [e for e in entries if e["level"] == "error"][-1]


@pytest.fixture
def refused(cli: Cli, tmp_path: Path) -> Callable[..., Refusal]:
    """Runs a command that must fail, and checks what holds for every failure."""

    def run(*words: str, code: int = 1, **options: Any) -> Refusal:
        log = tmp_path / "log.json"
        log.unlink(missing_ok=True)
        done = cli("--log", str(log), "--log-format", "json", *words, code=code, **options)
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        refusal = Refusal(done, log)
        # engines keep the last line only: it is the root cause, and the log says the same
        assert refusal.last == f"ocipy: {refusal.entry['msg']}"
        assert refusal.entry["code"] not in ("", "internal"), refusal.entry
        assert refusal.entry["phase"]
        assert refusal.entry["time"]
        if "config_path" in refusal.entry:
            assert refusal.entry["config_path"] in refusal.last
        return refusal

    return run


@pytest.fixture
def refused_create(cli: Cli, refused: Callable[..., Refusal], tmp_path: Path) -> Callable[..., Refusal]:
    """Creates a bundle that must be refused, by create and by run, and checks that nothing is left."""

    def run(bundle: TestBundle | Path, *flags: str) -> Refusal:
        path = str(bundle.save() if isinstance(bundle, TestBundle) else bundle)
        name = fresh_id()
        first = refused("run", *flags, "--bundle", path, name)
        assert nothing_left(tmp_path) == []
        second = refused("create", *flags, "--bundle", path, name)
        assert nothing_left(tmp_path) == []
        assert first.entry | {"time": ""} == second.entry | {"time": ""}
        return second

    return run


RefusedCreate = Callable[..., Refusal]


@pytest.mark.spec("bundle#container-format-1")
def test_config_missing(refused_create: RefusedCreate, tmp_path: Path) -> None:
    """bundle.md: a bundle without config.json; a bundle that does not exist."""
    (tmp_path / "empty").mkdir()
    found = refused_create(tmp_path / "empty")
    assert f"{tmp_path}/empty/config.json" in found.last
    assert "no such file or directory" in found.last
    assert found.entry["code"] == "config-unreadable"
    assert found.entry["errno"] == "ENOENT"
    found = refused_create(tmp_path / "nowhere")
    assert "the bundle directory does not exist" in found.last


def test_config_unreadable(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """bundle.md: config.json that is a directory, a FIFO (which must not block), a loop of links, or too large."""
    config = bundle.save() / "config.json"

    def check(words: str) -> None:
        found = refused_create(bundle.path)
        assert words in found.last
        assert found.entry["code"] == "config-unreadable"
        assert found.entry["phase"] == "load"

    config.unlink()
    config.mkdir()
    check("not a regular file")
    config.rmdir()
    os.mkfifo(config)
    check("not a regular file")
    config.unlink()
    config.symlink_to("config.json")
    check("too many levels of symbolic links")
    config.unlink()
    with open(config, "wb") as file:
        file.truncate((16 << 20) + 1)
    check("larger than 16 MiB")


@pytest.mark.spec("glossary#json-1", "glossary#json-2")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected a value at line 1 column 1"),
        ("{", "line 1"),
        ('{"a": 1,}', "line 1"),
        ("{'a': 1}", "line 1"),
        ('{"ociVersion": "1.0.0"} x', "more text after the value"),
        ('{"ociVersion": "1.0.0", "ociVersion": "1.0.1"}', 'duplicate key "ociVersion"'),
        ('{"ociVersion": NaN}', "NaN"),
        ("\xff", "UTF-8"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["empty", "cut", "comma", "quotes", "trailing", "duplicate", "nan", "encoding", "deep"],
)
def test_not_json(refused_create: RefusedCreate, bundle: TestBundle, text: str, words: str) -> None:
    """config.md: a text that is not JSON, with where it ceases to be."""
    bundle.save()
    (bundle.path / "config.json").write_bytes(text.encode("latin-1"))
    found = refused_create(bundle.path)
    assert words in found.last
    assert found.entry["code"] == "config-json"
    assert found.entry["config_path"] == "$"


@pytest.mark.spec("config#valid-values-1")
@pytest.mark.parametrize(
    ("place", "value", "path"),
    [
        ((), [], "$"),
        (("process", "args"), "true", "$.process.args"),
        (("process", "args"), [], "$.process.args"),
        (("process", "cwd"), "relative", "$.process.cwd"),
        (("process", "user", "uid"), "0", "$.process.user.uid"),
        (("process", "env"), ["A=b", 1], "$.process.env[1]"),
        (("mounts",), {}, "$.mounts"),
        (("mounts", 1, "destination"), 7, "$.mounts[1].destination"),
        (("linux", "namespaces", 0, "type"), "pids", "$.linux.namespaces[0].type"),
        (("linux", "namespaces", 1, "type"), "pid", "$.linux.namespaces[1]"),
        (("linux", "resources"), {"memory": {"limit": "1G"}}, "$.linux.resources.memory.limit"),
        (("linux", "maskedPaths"), [None], "$.linux.maskedPaths[0]"),
        (("ociVersion",), 1.0, "$.ociVersion"),
        (("root", "path"), None, "$.root.path"),
    ],
)
def test_wrong_types(
    refused_create: RefusedCreate, cli: Cli, bundle: TestBundle, place: tuple[str | int, ...], value: Any, path: str
) -> None:
    """config.md: a value of the wrong type or kind is refused with its path, by create as by validate."""
    document: Any = {"": bundle.config}
    within, last = document, ""
    for step in place:
        within, last = within[last], step
    within[last] = value
    bundle.config = document[""]
    found = refused_create(bundle)
    assert found.entry["config_path"].startswith(path)
    assert found.entry["code"] == "config-invalid"
    listed = cli("validate", str(bundle.path), code=1)
    assert path in listed.stdout


def test_several_faults(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """The first fault is told, with how many more there are and how to see them."""
    bundle.config["process"]["cwd"] = 1
    bundle.config["root"] = {}
    found = refused_create(bundle)
    assert "1 more fault" in found.last
    assert f"ocipy validate {bundle.path}" in found.last


@pytest.mark.spec("config#root-7")
def test_rootfs_missing(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """config.md#root: a root file system that is not there, is a file, or is a symbolic link."""
    subprocess.run(["rm", "-rf", "--one-file-system", bundle.rootfs], check=True)
    found = refused_create(bundle)
    assert str(bundle.rootfs) in found.last
    assert found.last.endswith("no such file or directory")
    assert found.entry["config_path"] == "$.root.path"
    bundle.rootfs.touch()
    found = refused_create(bundle)
    assert "is not a directory" in found.last
    bundle.rootfs.unlink()
    bundle.rootfs.symlink_to("/")
    found = refused_create(bundle)
    assert "symbolic link" in found.last
    assert found.entry["config_path"] == "$.root.path"
    bundle.rootfs.unlink()
    bundle.rootfs.symlink_to("nowhere")
    assert "symbolic link" in refused_create(bundle).last


@pytest.mark.spec("runtime#create-2")
def test_id_exists(cli: Cli, refused: Callable[..., Refusal], bundle: TestBundle) -> None:
    """runtime.md#create: an id in use, and malformed ones."""
    name = cli.create(bundle.args(*SLEEP))
    for command in ("create", "run"):
        found = refused(command, "--bundle", str(bundle.path), name)
        assert "container with given ID already exists" in found.last
        assert name in found.last
        assert found.entry["code"] == "container-exists"
        found = refused(command, "--bundle", str(bundle.path), "../" + name)
        assert "invalid id format" in found.last
        assert found.entry["code"] == "container-id-invalid"
    cli("delete", name)


@pytest.mark.spec("runtime#query-state-2")
@pytest.mark.parametrize(
    "command",
    [
        ("start",), ("state",), ("kill",), ("delete",), ("exec", "ID", "true"), ("ps",), ("pause",), ("resume",),
        ("update", "--pids-limit", "10"), ("events", "--stats"),
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_no_such_container(refused: Callable[..., Refusal], command: tuple[str, ...]) -> None:
    """A command on an id that no container has says `does not exist`, which engines look for."""
    words = [word if word != "ID" else "nobody" for word in command]
    if "ID" not in command:
        words.append("nobody")
    found = refused(*words, code=255 if command[0] == "exec" else 1)
    assert "does not exist" in found.last
    assert found.entry["code"] == "container-not-found"


def test_unusable_state(cli: Cli, refused: Callable[..., Refusal]) -> None:
    """A state that runc wrote, or that is damaged: the code tells them apart, and only what is damaged is to be
    removed."""
    for name, text, code in (
        ("runcs", '{"id": "runcs", "init_process_pid": 1}', "state-foreign"),
        ("torn", '{"pid": ', "state-damaged"),
    ):
        (cli.root / name).mkdir(parents=True)
        (cli.root / name / "state.json").write_text(text)
        found = refused("state", name)
        assert found.entry["code"] == code
        hint = "ocipy delete --force torn removes what is left of the container"
        assert found.entry.get("hint", "") == (hint if name == "torn" else "")
    cli("delete", "--force", "torn")
    shutil.rmtree(cli.root / "runcs")


@pytest.mark.spec("config-linux#namespaces-5")
@pytest.mark.parametrize("kind", ["pid", "network", "ipc", "uts", "mount", "user", "cgroup"])
def test_unknown_namespace_path(refused_create: RefusedCreate, bundle: TestBundle, kind: str) -> None:
    """config-linux.md#namespaces: a path that is not there, is no namespace, or is one of another type."""
    others = [ns for ns in bundle.config["linux"]["namespaces"] if ns["type"] != kind]
    index = len(others)
    for path, words in (
        ("/proc/self/ns/missing", "no such file or directory"),
        ("/etc/passwd", "not a namespace file"),
        ("/proc/self/ns/pid" if kind != "pid" else "/proc/self/ns/uts", "another type"),
    ):
        bundle.config["linux"]["namespaces"] = [*others, {"type": kind, "path": path}]
        found = refused_create(bundle)
        assert found.entry["config_path"] == f"$.linux.namespaces[{index}].path"
        assert words in found.last


@pytest.mark.spec("runtime#lifecycle-2", "runtime#errors-1", "runtime#create-6")
def test_mount_source_missing(refused_create: RefusedCreate, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#mounts: a bind mount's source that is not there; a file system type that there is not."""
    index = len(bundle.config["mounts"])
    bundle.config["mounts"].append(
        {"destination": "/mnt", "type": "bind", "source": str(tmp_path / "missing"), "options": ["bind"]}
    )
    found = refused_create(bundle)
    assert found.entry["config_path"].startswith(f"$.mounts[{index}]")
    assert str(tmp_path / "missing") in found.last
    assert "no such file or directory" in found.last
    assert not (bundle.rootfs / "mnt").exists() or list((bundle.rootfs / "mnt").iterdir()) == []
    bundle.config["mounts"][index] = {"destination": "/mnt", "type": "nosuchfs", "source": "none"}
    found = refused_create(bundle)
    assert found.entry["config_path"].startswith(f"$.mounts[{index}]")
    assert "nosuchfs" in found.last
    bundle.config["mounts"][index] = {"destination": "/proc/sys", "type": "tmpfs", "source": "tmpfs"}
    assert refused_create(bundle).entry["config_path"].startswith(f"$.mounts[{index}]")


def test_seccomp_action(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """config-linux.md#seccomp: an action that is not one, as default or in a rule; an unknown architecture."""
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_NONSENSE"}
    found = refused_create(bundle)
    assert found.entry["config_path"] == "$.linux.seccomp.defaultAction"
    assert "SCMP_ACT_ALLOW" in found.last
    bundle.config["linux"]["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NONSENSE"}],
    }
    assert refused_create(bundle).entry["config_path"] == "$.linux.seccomp.syscalls[0].action"
    bundle.config["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_PDP11"]}
    assert refused_create(bundle).entry["config_path"].startswith("$.linux.seccomp.architectures")


@pytest.mark.spec("config-linux#cgroups-path-4")
@pytest.mark.parametrize("path", ["/../../escape", "a/../../b", "..", "/", "", "/./"])
def test_cgroup_path(refused_create: RefusedCreate, cli: Cli, bundle: TestBundle, path: str) -> None:
    """config-linux.md#cgroups-path: `..` is refused, and so is the root of a hierarchy."""
    bundle.config["linux"]["cgroupsPath"] = path
    if path == "":  # as good as absent
        cli.run(bundle)
        return
    found = refused_create(bundle)
    assert found.entry["config_path"] == "$.linux.cgroupsPath"


@pytest.mark.spec("config-linux#control-groups-1")
def test_cgroup_in_use(
    cli: Cli, refused_create: RefusedCreate, make_bundle: Callable[[], TestBundle], tmp_path: Path
) -> None:
    """A cgroup that has processes already is refused, and not touched: those are not the new container's."""
    first, second = make_bundle().args(*SLEEP), make_bundle().args(*SLEEP)
    path = f"/{fresh_id()}"
    for bundle in (first, second):
        bundle.config["linux"]["cgroupsPath"] = path
    name = cli.start(first)
    for command in ("create", "run"):
        done = cli(command, "--bundle", str(second.save()), fresh_id(), code=1)
        assert "container's cgroup is not empty" in done.stderr
        assert "$.linux.cgroupsPath" in done.stderr
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)


def test_executable_missing(refused_create: RefusedCreate, bundle: TestBundle, tmp_path: Path) -> None:
    """A program that can't be run is an error of create already, with the phrases that engines look for."""
    found = refused_create(bundle.args("nonsense", "-x"))
    assert 'exec: "nonsense": executable file not found in $PATH' in found.last
    assert found.entry["config_path"] == "$.process.args[0]"
    assert found.entry["code"] == "executable-not-found"
    found = refused_create(bundle.args("/bin/nonsense"))
    assert "/bin/nonsense" in found.last
    assert "no such file or directory" in found.last
    (bundle.rootfs / "bin/plain").write_text("#!/bin/sh\n")
    for name in ("/bin/plain", "plain"):
        found = refused_create(bundle.args(name))
        assert "permission denied" in found.last
        assert found.entry["code"] == "permission-denied"
    found = refused_create(bundle.args("/bin"))
    assert "is a directory" in found.last or "permission denied" in found.last
    (bundle.rootfs / "bin/script").write_text("#!/bin/interpreter -x\n")
    (bundle.rootfs / "bin/script").chmod(0o755)
    found = refused_create(bundle.args("script"))
    assert "/bin/interpreter" in found.last
    assert "no such file or directory" in found.last


def test_exec_format(cli: Cli, bundle: TestBundle) -> None:
    """A file that the kernel can't execute is found out by start, which says so; the container is stopped."""
    (bundle.rootfs / "bin/garbage").write_bytes(b"\x00\x01\x02\x03")
    (bundle.rootfs / "bin/garbage").chmod(0o755)
    name = cli.create(bundle.args("garbage"))
    done = cli("start", name, code=1)
    assert "exec format error" in done.stderr.splitlines()[-1]
    cli.wait_for(name, "stopped")
    cli("delete", name)
    assert "exec format error" in cli.run(bundle, code=1).stderr.splitlines()[-1]


def test_executable_removed_after_create(cli: Cli, bundle: TestBundle) -> None:
    """A program that vanishes between create and start is an error of start."""
    shutil.copy(bundle.rootfs / "bin/busybox", bundle.rootfs / "bin/program")
    name = cli.create(bundle.args("program"))
    (bundle.rootfs / "bin/program").unlink()
    done = cli("start", name, code=1)
    last = done.stderr.splitlines()[-1]
    assert "no such file or directory" in last
    assert "/bin/program" in last
    cli.wait_for(name, "stopped")
    cli("delete", name)


def test_cwd(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """config.md#process: a working directory that is a file."""
    for path in ("/etc/passwd", "/etc/passwd/below"):
        bundle.config["process"]["cwd"] = path
        found = refused_create(bundle)
        assert found.entry["config_path"] == "$.process.cwd"
        assert "not a directory" in found.last


@pytest.mark.spec("runtime#start-2", "runtime#kill-2", "runtime#delete-2")
def test_lifecycle_misuse(cli: Cli, refused: Callable[..., Refusal], bundle: TestBundle) -> None:
    """Start twice, delete a running container without force, kill a stopped one, exec in it."""
    name = cli.start(bundle.args(*SLEEP))
    found = refused("start", name)
    assert "cannot start an already running container" in found.last
    assert found.entry["code"] == "not-created"
    found = refused("delete", name)
    assert "not stopped: running" in found.last
    assert found.entry["code"] == "not-stopped"
    assert "--force" in found.entry["hint"]
    found = refused("resume", name)
    assert found.entry["code"] == "not-paused"
    assert "unknown signal 'NONSENSE'" in refused("kill", name, "NONSENSE").last
    assert "unknown signal '1000'" in refused("kill", name, "1000").last
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    found = refused("kill", name, "KILL")
    assert "container not running" in found.last
    assert found.entry["code"] == "not-running"
    found = refused("exec", name, "true", code=255)
    assert "container not running" in found.last
    for words in ("pause", name), ("events", name), ("update", "--pids-limit", "5", name):
        assert "not running" in refused(*words).last
    cli("delete", name)


def test_console_socket(cli: Cli, refused: Callable[..., Refusal], bundle: TestBundle, tmp_path: Path) -> None:
    """A terminal without a console socket, a socket without a terminal, one that is missing or that nobody
    listens on: refused before anything is made."""
    bundle.config["process"]["terminal"] = True
    path = str(bundle.save())
    found = refused("create", "-b", path, fresh_id())
    assert found.entry["code"] == "console-socket"
    assert found.entry["config_path"] == "$.process.terminal"
    refused("run", "--detach", "-b", path, fresh_id())
    missing = tmp_path / "missing.sock"
    found = refused("create", "-b", path, "--console-socket", str(missing), fresh_id())
    assert str(missing) in found.last
    assert "no such file or directory" in found.last
    closed = tmp_path / "closed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(closed))
    found = refused("create", "-b", path, "--console-socket", str(closed), fresh_id())
    assert "connection refused" in found.last
    found = refused("create", "-b", path, "--console-socket", "/tmp/" + "x" * 200, fresh_id())
    assert "name too long" in found.last
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "open.sock"))
        listener.listen()
        flags = ("--console-socket", str(tmp_path / "open.sock"))
        assert "--detach" in refused("run", "-b", path, *flags, fresh_id()).last
        bundle.config["process"]["terminal"] = False
        found = refused("create", "-b", str(bundle.save()), *flags, fresh_id())
        assert found.entry["code"] == "console-socket"
    assert nothing_left(tmp_path) == []


def test_preserve_fds(refused: Callable[..., Refusal], bundle: TestBundle) -> None:
    """--preserve-fds: descriptors that are not open, or a count that is none."""
    path = str(bundle.save())
    assert "descriptor 3 is not open" in refused("create", "-b", path, "--preserve-fds", "1", fresh_id()).last
    assert "descriptor 3 is not open" in refused("create", "-b", path, "--preserve-fds", str(1 << 40), fresh_id()).last
    assert "negative" in refused("create", "-b", path, "--preserve-fds", "-1", fresh_id()).last
    assert "'x'" in refused("create", "-b", path, "--preserve-fds", "x", fresh_id()).last


def test_root_unusable(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """--root where no directory can be: a file on the way."""
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file/below"):
        other = Cli(root)
        done = other("create", "-b", str(bundle.save()), fresh_id(), code=1)
        assert str(tmp_path / "file") in done.stderr
        assert "not a directory" in done.stderr
        assert "does not exist" in other("state", "x", code=1).stderr
    assert nothing_left(tmp_path) == []


def test_not_permitted(cli: Cli, bundle: TestBundle) -> None:
    """What belongs to root is not another user's to look at or to signal: said with the path that is refused."""
    name = cli.start(bundle.args(*SLEEP))
    try:
        probe = subprocess.run([*cli.command("--version")], user=65534, group=65534, extra_groups=[])
        usable = probe.returncode == 0
    except PermissionError:
        usable = False
    if usable:
        for words in ("state", name), ("kill", name, "KILL"), ("delete", "--force", name), ("list",):
            done = subprocess.run(
                cli.command(*words), user=65534, group=65534, extra_groups=[], capture_output=True, text=True
            )
            assert done.returncode == 1
            assert str(cli.root) in done.stderr
            assert done.stderr.endswith("permission denied (--root chooses another)\n")
    assert cli.state(name)["status"] == "running"
    cli("delete", "--force", name)
    if not usable:
        pytest.skip(f"uid 65534 may not execute {cli.command()[0]}")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_hook_fails(refused_create: RefusedCreate, bundle: TestBundle, tmp_path: Path, kind: str) -> None:
    """config.md#posix-platform-hooks: a hook of create that fails, can't be run, or takes too long: an error with
    its output, and the poststop hooks run (runtime.md#lifecycle, steps 3 to 5)."""
    after = {"path": "/bin/sh", "args": ["sh", "-c", f"echo after >> {tmp_path}/after"]}
    for hook, words in (
        ({"path": "/bin/sh", "args": ["sh", "-c", "echo no luck >&2; exit 4"]}, "status 4: no luck"),
        ({"path": "/bin/sh", "args": ["sh", "-c", "kill -9 $$"]}, "killed by signal 9"),
        ({"path": "/bin/sh", "args": ["sh", "-c", "echo slow; sleep 100"], "timeout": 1}, "within 1 s"),
        ({"path": "/missing/hook"}, "/missing/hook"),
    ):
        bundle.config["hooks"] = {kind: [hook], "poststop": [after]}
        found = refused_create(bundle)
        assert words in found.last
        assert found.entry["config_path"] == f"$.hooks.{kind}[0]"
        assert found.entry["code"] in ("hook-failed", "hook-timeout")
        assert (tmp_path / "after").read_text() == "after\n" * 2
        (tmp_path / "after").unlink()


def test_log_formats(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """--log gets the error as JSON with its fields, or as text, and what is there is kept; a log that can't be
    written is an error before anything is done."""
    log = tmp_path / "log"
    log.write_text("before\n")
    cli("--log", str(log), "--log-format=json", "state", "nobody", code=1)
    cli("--log", str(log), "--log-format=text", "state", "nobody", code=1)
    cli("--log", str(log), "state", "nobody", code=1)
    lines = log.read_text().splitlines()
    assert lines[0] == "before"
    entry = json.loads(lines[1])
    assert set(entry) == {"level", "msg", "time", "code", "phase"}
    assert entry["level"] == "error"
    assert entry["msg"] == "container 'nobody' does not exist"
    assert lines[2].startswith('time="')
    assert ' level=error msg="container ' in lines[2]
    assert 'code="container-not-found"' in lines[2]
    assert len(lines) == 4
    done = cli("--log", str(tmp_path / "none/log"), "create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    assert done.stderr == f"ocipy: --log {tmp_path}/none/log: open: no such file or directory\n"


@pytest.mark.spec("config#valid-values-1")
def test_unsupported(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """What a config asks for and is not there is an error, never ignored (config.md, `MUST generate an error`)."""
    for section, name, value in (
        ("linux", "mountLabel", "system_u:object_r:svirt_sandbox_file_t:s0:c715,c811"),
    ):
        bundle.config[section][name] = value
        found = refused_create(bundle)
        assert found.entry["config_path"].startswith(f"$.{section}.{name}")
        assert found.entry["code"] == "unsupported"
        del bundle.config[section][name]


@pytest.mark.spec("runtime#lifecycle-2", "runtime#errors-1", "runtime#create-6")
def test_limits_refused(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """A limit that the kernel refuses: the error has its path, and the cgroups are gone."""
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "4000-4095"}}
    found = refused_create(bundle)
    assert found.entry["config_path"].startswith("$.linux.resources.cpu")


def test_memory_too_small(refused_create: RefusedCreate, bundle: TestBundle) -> None:
    """A memory limit under which not even the helper runs: said so, and nothing is left."""
    bundle.config["linux"]["resources"] = {"memory": {"limit": 4096}}
    found = refused_create(bundle)
    assert "memory limit" in found.last


@pytest.mark.parametrize("room", ["size=4k", "size=8k", *(f"nr_inodes={n}" for n in range(2, 7))])
def test_full_state_directory(bundle: TestBundle, tmp_path: Path, room: str) -> None:
    """A disk that is full at whatever file of the state: the error names the directory and the cause, and nothing is
    left. (Two pages take the state and the config, and no more; six inodes all but the brief.)"""
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", str(tmp_path / "small")], check=True)
    try:
        done = Cli(tmp_path / "small/state").run(bundle.args("true"), code=1)
        line = done.stderr.splitlines()[-1]
        assert f"can't use the state directory {tmp_path}/small/state" in line
        assert "no space left on device" in line
        assert list((tmp_path / "small").glob("state/*")) == []
    finally:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)
    assert nothing_left(tmp_path) == []
