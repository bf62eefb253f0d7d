"""Hooks: config.md#posix-platform-hooks, and their place in runtime.md#lifecycle."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, end, fresh_id, mounts, processes_left, until

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
RUNTIME = ("prestart", "createRuntime", "poststart", "poststop")  # in the runtime's namespaces
CONTAINER = ("createContainer", "startContainer")  # in the container's


class Log:
    """A directory that hooks write to, by the same path on the host and in the container."""

    def __init__(self, path: Path, bundle: TestBundle) -> None:
        self.path = path
        path.mkdir()
        self.bundle = bundle
        bundle.config["mounts"].append({"destination": str(path), "source": str(path), "options": ["rbind"]})
        bundle.config["process"]["user"]["umask"] = 0o22

    def hook(self, kind: str, script: str, **more: Any) -> None:
        """Add a hook that runs a shell script in the log directory; /bin/sh is on the host and in the
        image."""
        entry = {
            "path": "/bin/sh",
            "args": ["sh", "-c", f"cd {self.path}; {script}"],
            "env": ["PATH=/usr/bin:/bin", f"KIND={kind}"],
        }
        self.bundle.config.setdefault("hooks", {}).setdefault(kind, []).append(entry | more)

    def read(self, name: str) -> str:
        return (self.path / name).read_text()

    def exists(self, name: str) -> bool:
        return (self.path / name).exists()


@pytest.fixture
def log(tmp_path: Path, bundle: TestBundle) -> Log:
    return Log(tmp_path / "log", bundle)


def last_line(text: str) -> str:
    return text.splitlines()[-1]


@pytest.mark.spec(
    "runtime#lifecycle-5", "runtime#lifecycle-7", "runtime#lifecycle-9", "runtime#lifecycle-11",
    "runtime#lifecycle-14", "runtime#lifecycle-17", "config#posix-platform-hooks-19", "config#prestart-2",
    "config#createcontainer-hooks-2", "config#startcontainer-hooks-1",
)  # fmt: skip
def test_order(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """runtime.md#lifecycle: each kind at its time, those of a kind in the listed order: three kinds at
    create, one before the program, one after it was started, one after the container was removed."""
    for kind in KINDS:
        for number in (1, 2):
            log.hook(kind, f"echo {kind} {number} >> order")
    bundle.sh(f"echo program >> {log.path}/order; exec sleep 1000")
    name = cli.create(bundle)
    created = ["prestart", "createRuntime", "createContainer"]
    assert log.read("order").splitlines() == [f"{k} {n}" for k in created for n in (1, 2)]
    cli("start", name)
    until(lambda: "program" in log.read("order"))
    lines = log.read("order").splitlines()
    assert lines[6:8] == ["startContainer 1", "startContainer 2"]
    assert sorted(lines[8:]) == ["poststart 1", "poststart 2", "program"]
    cli("kill", name, "KILL")
    cli.wait_for(name, "stopped")
    assert "poststop" not in log.read("order")
    cli("delete", name)
    assert log.read("order").splitlines()[11:] == ["poststop 1", "poststop 2"]


def test_order_of_run(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """runtime.md#lifecycle: the same for a run in the foreground, which deletes the container itself."""
    for kind in KINDS:
        log.hook(kind, f"echo {kind} >> order")
    cli.run(bundle)
    assert sorted(log.read("order").splitlines()) == sorted(KINDS)
    assert log.read("order").splitlines()[-1] == "poststop"


@pytest.mark.spec(
    "config#posix-platform-hooks-5", "config#posix-platform-hooks-10", "config#posix-platform-hooks-12",
    "config#posix-platform-hooks-14", "config#posix-platform-hooks-16", "config#posix-platform-hooks-18",
    "config#prestart-4", "config#createruntime-hooks-3", "config#createcontainer-hooks-4",
    "config#startcontainer-hooks-3", "config#poststart-3", "config#poststop-3",
)  # fmt: skip
def test_namespaces(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """config.md#posix-platform-hooks: createContainer and startContainer hooks run in the container's
    namespaces, the first with the host's tree still in view and the second in the container's root; all
    others run in the runtime's."""
    files = ("mnt", "pid", "net", "uts", "ipc")
    for kind in KINDS:
        look = "; ".join(f"readlink /proc/self/ns/{f}" for f in files)
        log.hook(kind, f"mount -t proc proc /proc 2>/dev/null; ({look}) > {kind}; ls -di / > {kind}.root")
    for name in ("bounding", "effective", "permitted"):
        bundle.config["process"]["capabilities"][name].append("CAP_SYS_ADMIN")
    for kind in RUNTIME:  # nor may one of these mount on the host
        bundle.config["hooks"][kind][0]["args"][2] = bundle.config["hooks"][kind][0]["args"][2].partition(
            "; "
        )[0] + (f"; ({look}) > {kind}; ls -di / > {kind}.root")
    name = cli.start(bundle.args("sleep", "1000"))
    pid = cli.state(name)["pid"]
    inside = [os.readlink(f"/proc/{pid}/ns/{f}") for f in files]
    cli("delete", "--force", name)
    outside = [os.readlink(f"/proc/self/ns/{f}") for f in files]
    for kind in RUNTIME:
        assert log.read(kind).splitlines() == outside, kind
    for kind in CONTAINER:
        assert log.read(kind).splitlines() == inside, kind
    roots = {kind: log.read(f"{kind}.root").split()[0] for kind in KINDS}
    assert roots["startContainer"] == str(bundle.rootfs.stat().st_ino)
    assert {roots[k] for k in KINDS if k != "startContainer"} == {str(os.stat("/").st_ino)}


@pytest.mark.spec("config#posix-platform-hooks-20", "config#poststart-1")
@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("prestart", "creating"),
        ("createRuntime", "creating"),
        ("createContainer", "creating"),
        ("startContainer", "created"),
        ("poststart", "running"),
        ("poststop", "stopped"),
    ],
)
def test_state(cli: Cli, bundle: TestBundle, log: Log, kind: str, status: str) -> None:
    """config.md#posix-platform-hooks: the state of the container goes to the standard input of each hook: id,
    status, pid, bundle, version and annotations."""
    log.hook(kind, "cat > state")
    bundle.config["annotations"] = {"org.example.key": "välue\n"}
    name = cli.start(bundle.args("sleep", "1000"))
    pid = cli.state(name)["pid"]
    cli("delete", "--force", name)
    state = json.loads(log.read("state"))
    assert state.pop("pid", None) == (pid if kind != "poststop" else None)
    assert state == {
        "ociVersion": cli_version(cli), "id": name, "status": status, "bundle": str(bundle.path),
        "annotations": {"org.example.key": "välue\n"},
    }  # fmt: skip


def cli_version(cli: Cli) -> str:
    return cli("--version").stdout.partition("spec: ")[2].split()[0]


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_args(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """config.md#posix-platform-hooks: args as they are, the first being argv[0]."""
    script = f'head -c 3 /proc/self/cmdline > {log.path}/first; printf "[%s]" "$0" "$@" > {log.path}/args'
    log.hook(kind, "", args=["sh", "-c", script, "zero", "", "two words", "$HOME"])
    cli.run(bundle)
    assert log.read("args") == "[zero][][two words][$HOME]"


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_env(cli: Cli, bundle: TestBundle, kind: str) -> None:
    """config.md#posix-platform-hooks: the environment is what env gives and no more."""
    hook = {
        "path": "/bin/cat",
        "args": ["cat", "/proc/self/environ", "/no/file"],
        "env": ["A=1", "EMPTY=", "B=x=y"],
    }
    bundle.config["hooks"] = {kind: [hook]}
    done = cli.run(bundle, env={"CALLER": "1", "PATH": "/usr/bin"}, code=1)
    found = done.stderr.partition("exited with status 1: ")[2].partition("cat:")[0]
    assert found.split() == ["A=1", "EMPTY=", "B=x=y"]


def test_directory_inside(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """createContainer hooks run in the container's root, which is still one of the host's directories, as with runc and
    crun; startContainer ones where the program will."""
    (bundle.rootfs / "in-root").touch()
    (bundle.rootfs / "srv").mkdir()
    bundle.config["process"]["cwd"] = "/srv"
    for kind in CONTAINER:
        log.hook(kind, "", args=["sh", "-c", f"pwd > {log.path}/{kind}; test {kind[0]} = s || cat in-root"])
    cli.run(bundle)
    assert log.read("createContainer").strip() == str(bundle.rootfs)
    assert log.read("startContainer").strip() == "/srv"


@pytest.mark.parametrize("null", [False, True])
def test_no_env(cli: Cli, bundle: TestBundle, log: Log, null: bool) -> None:
    """Without env, a hook in the runtime's namespaces has the environment of the command that runs it, and one in the
    container's that of the program, as with runc and crun; a duplicate counts once, as for the program."""
    bundle.config["process"]["env"] = ["OWN=0", "PATH=/bin:/usr/bin", "OWN=1"]
    for kind in KINDS:
        log.hook(kind, f"env | grep -v -e ^PWD= -e ^OLDPWD= -e ^SHLVL= -e ^_= > {kind}")  # the shell's own
        if null:
            bundle.config["hooks"][kind][0]["env"] = None
        else:
            del bundle.config["hooks"][kind][0]["env"]
    name = fresh_id()
    bundle.args("sleep", "1000").save()
    path = {"PATH": "/usr/bin:/bin"}
    null_io = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    words = cli.command("create", "--bundle", str(bundle.path), name)
    subprocess.run(words, env=path | {"BY": "create"}, check=True, timeout=60, **null_io)
    cli("start", name, env=path | {"BY": "start"})
    cli("delete", "--force", name, env=path | {"BY": "delete"})
    for kind, by in zip(RUNTIME, ("create", "create", "start", "delete"), strict=True):
        assert sorted(log.read(kind).splitlines()) == [f"BY={by}", "PATH=/usr/bin:/bin"], kind
    own = ["OWN=1", "PATH=/bin:/usr/bin"]
    assert sorted(log.read("createContainer").splitlines()) == own
    assert sorted(log.read("startContainer").splitlines()) == ["HOME=/root", *own]


def test_directory(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Hooks work in the bundle, whatever the directory of the command is; those of the container in its root."""
    out = tmp_path / "out"
    out.mkdir()
    bundle.config["mounts"].append({"destination": str(out), "source": str(out), "options": ["rbind"]})
    for kind in KINDS:
        script = f"/bin/pwd >{out}/{kind}"
        bundle.config.setdefault("hooks", {})[kind] = [{"path": "/bin/sh", "args": ["sh", "-c", script]}]
    name = cli.create(bundle)
    cli("start", name, cwd="/")
    cli("delete", "--force", name, cwd="/")
    found = {kind: (out / kind).read_text().strip() for kind in KINDS}
    roots = {"createContainer": str(bundle.rootfs), "startContainer": "/"}
    assert found == dict.fromkeys(KINDS, str(bundle.path)) | roots


def test_directory_that_is_gone(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A bundle that was removed does not keep the poststop hooks from running."""
    script = f"/bin/pwd >{tmp_path}/out"
    bundle.config["hooks"] = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    name = cli.start(bundle.args("sleep", "1000"))
    bundle.path.rename(tmp_path / "moved")
    cli("delete", "--force", name, cwd="/")
    assert (tmp_path / "out").read_text() == "/\n"


@pytest.mark.parametrize("kind", KINDS)
def test_empty_env(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """An env without entries is an environment without variables."""
    bundle.config["process"]["env"].append("OWN=1")
    log.hook(kind, 'echo "[$CALLER$OWN]" > out', env=[])
    cli.run(bundle, env={"CALLER": "1", "PATH": "/usr/bin"})
    assert log.read("out") == "[]\n"


@pytest.mark.spec(
    "config#posix-platform-hooks-4", "config#posix-platform-hooks-9", "config#posix-platform-hooks-11",
    "config#posix-platform-hooks-13", "config#posix-platform-hooks-15", "config#posix-platform-hooks-17",
    "config#prestart-3", "config#createruntime-hooks-2", "config#createcontainer-hooks-3",
    "config#startcontainer-hooks-2", "config#poststart-2", "config#poststop-2",
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_path_alone(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """config.md#posix-platform-hooks: a path is one of the host, but for startContainer, where it is the
    container's; without args it is argv[0]."""
    tool = (bundle.rootfs if kind == "startContainer" else log.path.parent) / "tool"
    tool.write_text(f"#!/bin/sh\necho $0 $# > {log.path}/out\n")
    tool.chmod(0o755)
    path = "/tool" if kind == "startContainer" else str(tool)
    bundle.config["hooks"] = {kind: [{"path": path}]}
    cli.run(bundle)
    assert log.read("out") == f"{path} 0\n"


def test_descriptors(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """Hooks get standard input, output and error, and none of the runtime's descriptors."""
    for kind in KINDS:
        log.hook(kind, f"exec ls -l /proc/self/fd > {kind}")
    read, write = os.pipe()
    os.set_inheritable(read, True)
    cli.run(bundle, close_fds=False)
    os.close(read)
    os.close(write)
    for kind in KINDS:
        lines = [line.split() for line in log.read(kind).splitlines() if "->" in line]
        found = {line[line.index("->") - 1] for line in lines}
        assert found - {"3"} == {"0", "1", "2"}, kind  # 3 is the directory that ls reads


def test_words_of_a_chatty_hook(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """Of what a hook that fails has written, the first 2048 bytes are in the error, and no more."""
    log.hook("createRuntime", "printf %0100000d 7; exit 3")
    error = last_line(cli.run(bundle, code=1).stderr)
    assert f"exited with status 3: {'0' * 2048}" in error
    assert len(error) < 2500


def test_deaf_and_chatty(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """A hook that does not read the state, or writes more than a pipe holds, neither fails nor hangs."""
    for kind in KINDS:
        log.hook(kind, "head -c 300000 /dev/zero; exec 0<&-")
    bundle.config["annotations"] = {f"org.example.{n}": "x" * 100 for n in range(500)}
    cli.run(bundle)


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_background(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """A hook that leaves a process behind, which keeps its output open, is not waited for beyond its own
    end."""
    log.hook(kind, "sleep 1000 & echo $! > pid")
    name = cli.start(bundle.args("sleep", "1000"))
    cli("delete", "--force", name)
    if kind == "createRuntime":
        end(int(log.read("pid")))
    until(lambda: not processes_left(bundle.path))


@pytest.mark.parametrize("hooks", [True, False])
def test_large_state(cli: Cli, bundle: TestBundle, log: Log, hooks: bool) -> None:
    """config.md#annotations: hundreds of kilobytes of annotations, more than a message holds at once, get to every
    hook whole."""
    bundle.config["annotations"] = {f"org.example.{n}": "x" * 1000 for n in range(500)}
    for kind in KINDS if hooks else ():
        log.hook(kind, f"cat > {kind}")
    cli.run(bundle)
    for kind in KINDS if hooks else ():
        assert json.loads(log.read(kind))["annotations"] == bundle.config["annotations"], kind


@pytest.mark.parametrize("kind", ["", "startContainer", "poststart"])
def test_more_state_than_the_helper_takes(cli: Cli, bundle: TestBundle, kind: str) -> None:
    """More than a megabyte of annotations: a refusal if a hook of the container's is to read them, and otherwise
    nobody's trouble."""
    bundle.config["annotations"] = {"org.example": "x" * (1 << 20)}
    if kind:
        bundle.config["hooks"] = {kind: [{"path": "/bin/true"}]}
    done = cli.run(bundle.args("echo", "ran"), code=None)
    if kind == "startContainer":
        assert "$.hooks" in done.stderr
        assert "annotations" in done.stderr
    assert (done.returncode, done.stdout) == ((1, "") if kind == "startContainer" else (0, "ran\n"))


@pytest.mark.spec("config#prestart-1", "config#createruntime-hooks-1")
@pytest.mark.parametrize("kind", ["prestart", "createRuntime"])
def test_before_pivot_root(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """config.md#prestart, #createruntime-hooks: the container's namespaces and mounts are made, and its root is
    still the host's."""
    pid = "pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/')"
    look = "readlink ns/uts > $OLDPWD/ns; cat mountinfo > $OLDPWD/table; ls -di root/ > $OLDPWD/root"
    log.hook(kind, f"{pid}; cd /proc/$pid; {look}")
    name = cli.start(bundle.args("sleep", "1000"))
    inside = os.readlink(f"/proc/{cli.state(name)['pid']}/ns/uts")
    cli("delete", "--force", name)
    assert log.read("ns").strip() == inside
    found = mounts(log.read("table"))
    assert found[f"{bundle.rootfs}/proc"].type == "proc"
    assert found[f"{bundle.rootfs}/dev/shm"].type == "tmpfs"
    assert log.read("root").split()[0] == str(os.stat("/").st_ino)


@pytest.mark.spec("config#createcontainer-hooks-1")
def test_before_pivot_root_inside(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """config.md#createcontainer-hooks: the same, seen from within the mount namespace, during create."""
    log.hook("createContainer", "cat /proc/self/mountinfo > table; ls -di / > root")
    name = cli.create(bundle)
    found = mounts(log.read("table"))
    assert found[f"{bundle.rootfs}/dev/shm"].type == "tmpfs"
    assert log.read("root").split()[0] == str(os.stat("/").st_ino)
    cli("delete", name)


@pytest.mark.spec("config#poststop-1", "runtime#lifecycle-16")
def test_poststop_after_all_is_gone(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """config.md#poststop: when the hook runs, the process and the cgroups are gone; delete waits for it."""
    log.hook("poststop", "ls -d $(cat paths) > left 2>/dev/null; sleep 0.2; echo done > after")
    name = cli.start(bundle.args("sleep", "1000"))
    record = json.loads((cli.root / name / "state.json").read_text())
    paths = [*record["cgroup"]["paths"].values(), f"/proc/{record['pid']}/root/bin"]  # a zombie has no root
    assert all(Path(path).exists() for path in paths)
    (log.path / "paths").write_text("\n".join(paths))
    cli("delete", "--force", name)
    assert log.read("left") == ""
    assert log.exists("after")


# --- failures ---


@pytest.mark.spec("runtime#lifecycle-6", "runtime#lifecycle-8", "runtime#lifecycle-10", "runtime#errors-1")
@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_failure_at_create(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """runtime.md#lifecycle: a hook that fails at create fails that, with what it wrote and its config path
    in the error; hooks after it don't run, the container is gone, and the poststop hooks run."""
    log.hook(kind, "echo fine > first")
    log.hook(kind, "echo said; echo why >&2; exit 3")
    log.hook(kind, "echo never > third")
    log.hook("startContainer", "echo never > start")
    log.hook("poststop", "cat > poststop")
    name = fresh_id()
    pid_file = log.path / "pid"
    done = cli("create", "--pid-file", str(pid_file), "--bundle", str(bundle.save()), name, code=1)
    line = last_line(done.stderr)
    assert f"$.hooks.{kind}[1]" in line
    assert "hook /bin/sh exited with status 3: said" in line
    assert "why" in line
    assert [log.exists(name) for name in ("first", "third", "start")] == [True, False, False]
    assert json.loads(log.read("poststop"))["status"] == "stopped"
    assert not pid_file.exists()
    assert "does not exist" in cli("state", name, code=1).stderr


@pytest.mark.spec("runtime#lifecycle-12")
def test_failure_at_start(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """runtime.md#lifecycle: a startContainer hook that fails fails start; the program never runs, and the
    container is stopped and removed, poststop hooks included."""
    log.hook("startContainer", "echo why >&2; exit 3")
    log.hook("poststart", "echo never > poststart")
    log.hook("poststop", "echo > poststop")
    name = cli.create(bundle.sh(f"echo never > {log.path}/program"))
    done = cli("start", name, code=1)
    assert last_line(done.stderr).endswith(
        "$.hooks.startContainer[0]: hook /bin/sh exited with status 3: why"
    )
    assert [log.exists(name) for name in ("poststart", "program")] == [False, False]
    assert log.exists("poststop")
    assert "does not exist" in cli("state", name, code=1).stderr


@pytest.mark.parametrize("number", [0, 1], ids=["first", "last"])
def test_killed_in_a_hook(cli: Cli, bundle: TestBundle, log: Log, number: int) -> None:
    """A container that is killed while a startContainer hook runs was never started, and start says so; it is stopped
    then, as any that was killed."""
    hooks = [{"path": "/bin/true"}, {"path": "/bin/true"}]
    hooks[number] |= {"path": "/bin/sh", "args": ["sh", "-c", "echo > /dev/shm/here; sleep 1000"]}  # type: ignore[dict-item]
    bundle.config["hooks"] = {"startContainer": hooks}
    log.hook("poststart", "echo never > poststart")
    name = cli.create(bundle.sh(f"echo never > {log.path}/program"))
    here = Path(f"/proc/{cli.state(name)['pid']}/root/dev/shm/here")
    with subprocess.Popen(cli.command("start", name), stderr=subprocess.PIPE, text=True) as starting:
        until(here.exists)
        cli("kill", name, "KILL")
        said = starting.communicate(timeout=60)[1]
    assert starting.returncode == 1, said
    assert "$.hooks.startContainer" in last_line(said)
    assert "killed while its startContainer hooks ran" in last_line(said)
    assert [log.exists(name) for name in ("poststart", "program")] == [False, False]
    assert cli.state(name)["status"] == "stopped"
    cli("delete", name)


@pytest.mark.spec("runtime#lifecycle-15")
def test_failure_after_start(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """runtime.md#lifecycle: a poststart hook that fails fails start, and stops and removes the container."""
    log.hook("poststart", "echo why; exit 4")
    log.hook("poststop", "echo > poststop")
    name = cli.create(bundle.args("sleep", "1000"))
    done = cli("start", name, code=1)
    assert last_line(done.stderr).endswith("$.hooks.poststart[0]: hook /bin/sh exited with status 4: why")
    assert log.exists("poststop")
    assert "does not exist" in cli("state", name, code=1).stderr


@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_failure_in_run(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """runtime.md#lifecycle: a run whose start fails leaves nothing, and runs the poststop hooks."""
    log.hook(kind, "exit 5")
    log.hook("poststop", "echo > poststop")
    done = cli.run(bundle.args("sleep", "1000"), code=1)
    assert f"$.hooks.{kind}[0]" in last_line(done.stderr)
    assert log.exists("poststop")


@pytest.mark.spec("runtime#lifecycle-18", "runtime#warnings-1")
def test_failure_after_stop(cli: Cli, bundle: TestBundle, log: Log) -> None:
    """runtime.md#lifecycle: a poststop hook that fails is a warning; the others run and the container is
    gone."""
    log.hook("poststop", "echo why; exit 6")
    log.hook("poststop", "echo > second")
    name = cli.start(bundle)
    cli.wait_for(name, "stopped")
    done = cli("delete", name)
    assert "warning: $.hooks.poststop[0]: hook /bin/sh exited with status 6: why" in done.stderr
    assert log.exists("second")
    cli("state", name, code=1)


@pytest.mark.parametrize(
    "kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"]
)
def test_missing(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """A hook whose file is missing, or is none that can be run, is an error that names both."""
    (log.path / "plain").write_text("")
    for path, words in (
        ("/no/such/hook", "no such file or directory"),
        (f"{log.path}/plain", "permission denied"),
    ):
        bundle.config["hooks"] = {kind: [{"path": path}]}
        line = last_line(cli.run(bundle, code=1).stderr)
        assert f"$.hooks.{kind}[0]" in line
        assert path in line
        assert words in line


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "startContainer"])
def test_killed(cli: Cli, bundle: TestBundle, log: Log, kind: str) -> None:
    """A hook that a signal ends."""
    log.hook(kind, "echo last words; kill -9 $$")
    line = last_line(cli.run(bundle, code=1).stderr)
    assert line.endswith(f"$.hooks.{kind}[0]: hook /bin/sh was killed by signal 9: last words")


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
@pytest.mark.parametrize(
    "script", ["echo first; sleep 1000 & echo $! > child; wait", "while :; do echo more; done"]
)
def test_timeout(cli: Cli, bundle: TestBundle, log: Log, kind: str, script: str) -> None:
    """config.md#posix-platform-hooks, timeout: after its seconds the hook is ended, with what it started,
    though it never stops writing; an error that says so."""
    log.hook(kind, script, timeout=1)
    line = last_line(cli.run(bundle, code=1).stderr)
    assert f"$.hooks.{kind}[0]" in line
    assert "hook /bin/sh did not end within 1 s" in line
    assert ("first" if "first" in script else "more") in line
    if kind == "createRuntime" and log.exists("child"):
        until(lambda: not alive(int(log.read("child"))))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("seconds", [100, 2**31, 2**32 + 1, 10**400])
def test_timeout_kept(cli: Cli, bundle: TestBundle, log: Log, seconds: int) -> None:
    """config.md#posix-platform-hooks, timeout: a hook that ends in time is not disturbed by it, however long that
    time is."""
    for kind in KINDS:
        log.hook(kind, "exit 0", timeout=seconds)
    assert cli.run(bundle).stderr == ""


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ({"path": "relative"}, "[0].path"),
        ({}, "[0].path"),
        ({"path": "/bin/true", "timeout": 0}, "[0].timeout"),
        ({"path": "/bin/true", "args": "x"}, "[0].args"),
        ({"path": "/bin/true", "env": [1]}, "[0].env[0]"),
        ({"path": "/bin/true", "args": [""]}, "[0].args[0]"),
        ({"path": "/bin/true", "env": ["A=1", "B"]}, "[0].env[1]"),
        ({"path": "/bin/true", "env": ["=1"]}, "[0].env[0]"),
    ],
)
@pytest.mark.parametrize("kind", ["createRuntime", "poststop"])
def test_bad_entries(cli: Cli, bundle: TestBundle, kind: str, hook: dict[str, Any], where: str) -> None:
    """config.md#posix-platform-hooks: what is wrong in an entry is refused by its path, before anything
    runs."""
    bundle.config["hooks"] = {kind: [hook]}
    assert f"$.hooks.{kind}{where}" in cli.run(bundle, code=1).stderr


def test_network_set_up_by_hook(
    cli: Cli, bundle: TestBundle, log: Log, make_veth: Callable[[str], str]
) -> None:
    """runtime.md#lifecycle: createRuntime hooks run when the namespaces are made, so that they can give the
    container a network by its pid."""
    link = make_veth("x")
    script = f"pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); ip link set {link} netns $pid"
    log.hook("createRuntime", script, env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
    done = cli.run(bundle.sh("cd /sys/class/net; echo *"))
    assert link in done.stdout.split()


@pytest.fixture
def make_veth(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Makes a pair of network devices; the first's name. It goes with the container's network namespace."""
    import subprocess

    def make(tag: str) -> str:
        name = f"oc{os.getpid() % 100000}{tag}"
        words = ["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"]
        try:
            subprocess.run(words, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"{' '.join(words)}: {getattr(error, 'stderr', error)}")
        request.addfinalizer(lambda: subprocess.run(["ip", "link", "del", f"{name}p"], capture_output=True))
        return name

    return make
