"""The command line: runc's flags, grammar, output and exit statuses."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import OCIPY, Cli, TestBundle, fresh_id, until

from ocipy.cli.events import seconds
from ocipy.cli.kill import number as signal_number
from ocipy.cli.main import ANYWHERE, COMMANDS, GLOBAL
from ocipy.cli.parser import Command, Flag, describe, parse
from ocipy.errors import UsageError

SLEEP = ("sleep", "1000")
TOY = Command(
    "toy",
    "Play",
    "ID [MORE]",
    (
        Flag("switch s", "a switch"),
        Flag("word w", "a word", "WORD"),
        Flag("number n", "a number", "N", kind=int),
        Flag("each e", "repeatable", "X", many=True),
        Flag("pick", "one of two", "P", choices=("a", "b")),
    ),
)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("x", {"rest": ["x"], "switch": False, "word": None, "number": None, "each": []}),
        ("--switch x", {"switch": True}),
        ("-switch x", {"switch": True}),
        ("-s x", {"switch": True}),
        ("x -s", {"rest": ["x"], "switch": True}),
        ("--switch=true x", {"switch": True}),
        ("--switch=false x", {"switch": False, "given": {"switch"}}),
        ("--switch=T x", {"switch": True}),
        ("-s=0 x", {"switch": False}),
        ("--word a x", {"word": "a"}),
        ("--word=a x", {"word": "a"}),
        ("-word a x", {"word": "a"}),
        ("-w=a x", {"word": "a"}),
        ("x y --word a", {"rest": ["x", "y"], "word": "a"}),
        ("--word a=b x", {"word": "a=b"}),
        ("--word= x", {"word": ""}),
        ("--word --switch x", {"word": "--switch", "switch": False}),
        ("--number -5 x", {"number": -5}),
        ("-e 1 --each 2 -e=3 x", {"each": ["1", "2", "3"]}),
        ("--word a --word b x", {"word": "b"}),
        ("-- --switch", {"rest": ["--switch"], "switch": False}),
        ("-", {"rest": ["-"]}),
        ("x -- -y", {"rest": ["x", "-y"]}),
        ("--root r x -s --log=f --debug=f", {"switch": True, "common": {"root": "r", "log": "f", "debug": False}}),
        ("--pick b x", {"pick": "b"}),
        ("-h", {"help": True}),
        ("x --help", {"help": True}),
    ],
)
def test_grammar(words: str, expected: dict[str, object]) -> None:
    """Flags with one dash or two, before and after positional arguments, values after = or as the next word; global
    ones among them."""
    args = parse(TOY, words.split(), common=ANYWHERE)
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "ID is missing"),
        ("a b c", "too many arguments: 'c'"),
        ("--nonsense a", "flag provided but not defined: --nonsense"),
        ("-x a", "flag provided but not defined: -x"),
        ("a --nonsense=1", "flag provided but not defined: --nonsense"),
        ("a --word", "flag needs an argument: --word"),
        ("--number x a", "'x' is not a valid N"),
        ("--pick c a", "'c' is none of a, b"),
        ("--switch=maybe a", "neither true nor false"),
        ("--root r a", "flag provided but not defined: --root"),
    ],
)
def test_grammar_refuses(words: str, message: str) -> None:
    """What is not defined is refused, not ignored."""
    with pytest.raises(UsageError, match=re.escape(message)):
        parse(TOY, words.split())


def test_passing_commands() -> None:
    """Of a command that passes words on, those after the first positional argument are not ours, but a -- there."""
    passing = Command("toy", "Play", "ID [COMMAND...]", (Flag("switch s", "a switch"),), passes=True)
    args = parse(passing, ["-s", "id", "ls", "-s", "--all", "--", "x"])
    assert (args.switch, args.rest) == (True, ["id", "ls", "-s", "--all", "--", "x"])
    assert parse(passing, ["id", "-s"]).rest == ["id", "-s"]
    assert parse(passing, ["id", "--", "ls", "--", "-s"]).rest == ["id", "ls", "--", "-s"]


def test_help(cli: Cli) -> None:
    """Every command has a help text by -h, --help and `help COMMAND`, with all its flags; the global one lists all."""
    everything = cli("--help").stdout
    assert everything == cli("-h").stdout == cli().stdout == cli("help").stdout
    for flag in GLOBAL.flags:
        assert f"--{flag.names[0]}" in everything
    for name in COMMANDS:
        assert f"\n  {name} " in everything
        text = cli(name, "--help").stdout
        assert text == cli(name, "-h").stdout == cli("help", name).stdout == cli("h", name).stdout
        assert f"Usage: ocipy {name}" in text
        module = __import__(f"ocipy.cli.{name}", fromlist=["COMMAND"])
        assert text == describe(module.COMMAND)
        head, _, listed = text.partition("\nFlags:\n")
        assert "  -" not in head
        for flag in module.COMMAND.flags:
            assert f"--{flag.names[0]}" in listed
        assert "flag provided but not defined: --nonsense" in cli(name, "--nonsense", code=None).stderr
    assert not cli.root.exists()


def test_runcs_flags() -> None:
    """The flags that engines give to runc's commands are there, under runc's names."""
    expected = {
        "create": "bundle b console-socket pidfd-socket pid-file preserve-fds no-pivot no-new-keyring",
        "run": "bundle b console-socket pidfd-socket pid-file preserve-fds no-pivot no-new-keyring detach d keep "
        "no-subreaper",
        "exec": "console-socket pidfd-socket cwd env e tty t user u additional-gids g process p detach d pid-file "
        "no-new-privs cap c preserve-fds cgroup ignore-paused",
        "delete": "force f",
        "kill": "all a",
        "list": "format f quiet q",
        "ps": "format f",
        "events": "interval stats",
        "spec": "bundle b rootless",
        "update": "resources r blkio-weight cpu-period cpu-quota cpu-burst cpu-share cpu-rt-period cpu-rt-runtime "
        "cpu-idle cpuset-cpus cpuset-mems memory memory-reservation memory-swap pids-limit",
    }
    for name, flags in expected.items():
        module = __import__(f"ocipy.cli.{name}", fromlist=["COMMAND"])
        have = {flag for one in module.COMMAND.flags for flag in one.names}
        assert set(flags.split()) - have == set(), name


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5s", 5), ("500ms", 0.5), ("1m30s", 90), ("1h1m1s1ms", 3661.001), (".5s", 0.5), ("2", 2), ("100us", 1e-4),
        ("1µs", 1e-6), ("1ns", 1e-9), ("9" * 400 + "h", float("inf")), ("0s", 0), ("-1s", 0), ("1d", 0), ("1.2.3s", 0),
        ("s", 0), ("", 0),
    ],
)  # fmt: skip
def test_durations(text: str, value: float) -> None:
    """--interval takes Go's durations; none that is not longer than 0."""
    if value:
        assert seconds(text) == pytest.approx(value)
        return
    with pytest.raises(ValueError):
        seconds(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("15", 15), ("TERM", 15), ("term", 15), ("SIGTERM", 15), ("0", 0), ("64", 64), ("65", -1), ("-1", -1), ("", -1),
        ("SIGRTMIN", 34), ("SIGRTMIN+3", 37), ("rtmin+3", 37), ("RTMAX-1", 63), ("RTMIN+31", -1), ("RTMAX-31", -1),
        ("RTMIN-1", -1), ("RTMIN+", -1), ("TERM+1", -1), ("SIGSIGTERM", -1), ("SIG_BLOCK", -1), ("_BLOCK", -1),
        ("SIG15", -1), ("RTMIN+٣", -1),
    ],
)  # fmt: skip
def test_signals(text: str, value: int) -> None:
    """kill takes a signal by number or name, real-time ones from either end; no other words."""
    if value >= 0:
        assert signal_number(text) == value
        return
    with pytest.raises(UsageError, match="unknown signal"):
        signal_number(text)


def test_output_that_is_lost(cli: Cli, bundle: TestBundle) -> None:
    """What can't be printed is an error that says so; where nobody reads any more, the end is SIGPIPE's."""
    name = cli.start(bundle.args(*SLEEP))
    path = str(bundle.path)
    with open("/dev/full", "w") as full:
        for words in (
            ("state", name), ("list",), ("ps", "-f", "json", name), ("events", "--stats", name), ("features",),
            ("explain", path), ("--version",), ("help",), ("state", "--help"),
        ):  # fmt: skip
            done = subprocess.run(cli.command(*words), stdout=full, stderr=subprocess.PIPE, text=True)
            assert done.returncode == 1
            assert done.stderr == "ocipy: standard output: write: no space left on device\n", words
            reader, writer = os.pipe()
            os.close(reader)
            done = subprocess.run(cli.command(*words), stdout=writer, stderr=subprocess.PIPE, text=True)
            os.close(writer)
            assert (done.returncode, done.stderr) == (-signal.SIGPIPE, ""), words
    cli("delete", "--force", name)


@pytest.mark.spec("runtime#query-state-1", "runtime#create-1", "runtime#start-1", "runtime#kill-1", "runtime#delete-1")
def test_usage_errors(cli: Cli) -> None:
    """Wrong usage: exit status 1 (3 without such a command, 255 for exec), one line on stderr, none on stdout."""
    for words, code in (
        (("nonsense",), 3),
        (("--nonsense", "list"), 1),
        (("--root",), 1),
        (("--log-format", "xml", "list"), 1),
        (("state",), 1),
        (("state", "a", "b"), 1),
        (("start",), 1),
        (("kill",), 1),
        (("delete",), 1),
        (("create",), 1),
        (("list", "--format", "yaml"), 1),
        (("events", "--interval", "0", "x"), 1),
        (("events", "--interval", "5x", "x"), 1),
        (("events", "--interval", "1s", "--stats", "x"), 1),
        (("update", "x"), 1),
        (("update", "--memory", "lots", "x"), 1),
        (("exec",), 1),
        (("exec", "--user", "0", "x"), 255),
    ):
        done = cli(*words, code=code)
        assert done.stdout == "", words
        assert len(done.stderr.splitlines()) == 1, words
        assert done.stderr.startswith("ocipy: "), words


def test_exit_statuses_as_runc(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Where a command fails, runc's exit status and ocipy's are the same."""
    runc = shutil.which("runc")
    if not runc:
        pytest.skip("runc is not installed")
    bundle.args("/missing").save()
    empty = tmp_path / "empty"
    empty.mkdir()
    for words in (
        ("state", "nobody"),
        ("start", "nobody"),
        ("kill", "nobody"),
        ("delete", "nobody"),
        ("delete", "--force", "nobody"),
        ("exec", "nobody", "true"),
        ("pause", "nobody"),
        ("ps", "nobody"),
        ("create", "--bundle", str(empty), "somebody"),
        ("run", "--bundle", str(empty), "somebody"),
        ("run", "--bundle", str(bundle.path), "a/b"),
        ("state", "--nonsense", "nobody"),
        ("list",),
    ):
        theirs = subprocess.run(
            [runc, "--root", str(tmp_path / "runc"), *words], capture_output=True, stdin=subprocess.DEVNULL, timeout=60
        )
        ours = cli(*words, code=None)
        assert ours.returncode == theirs.returncode, (words, theirs.stderr, ours.stderr)


def test_version(cli: Cli) -> None:
    """--version names the version of ocipy and of the runtime specification; engines parse its form."""
    for flag in "--version", "-v", "-version":
        lines = cli(flag).stdout.splitlines()
        assert re.fullmatch(r"ocipy version \d+\.\d+\.\d+\S*", lines[0])
        assert re.fullmatch(r"spec: 1\.\d+\.\d+", lines[1])


def test_global_flags(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Global flags stand before the command in every form; relative paths are those of the working directory."""
    bundle.args(*SLEEP).save()
    name = fresh_id()
    words = [OCIPY, "-root=here", "--log", "log", "--log-format=json", "--debug", "create", name]
    done = subprocess.run(
        words, cwd=bundle.path, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    assert done.returncode == 0
    here = Cli(bundle.path / "here")
    assert here.state(name)["bundle"] == str(bundle.path)
    subprocess.run([OCIPY, "--root", "here", "--log=log", "start", "nobody"], cwd=bundle.path, capture_output=True)
    assert "does not exist" in (bundle.path / "log").read_text()
    words = [OCIPY, "--log", "first", "state", "--root", "here", "nobody", "--log=last", "--log-format", "json"]
    subprocess.run(words, cwd=bundle.path, capture_output=True)
    assert "does not exist" in json.loads((bundle.path / "last").read_text())["msg"]
    assert (bundle.path / "first").read_text() == ""
    words = [OCIPY, "delete", "--log=/none/log", "--root=here", name]
    done = subprocess.run(words, cwd=bundle.path, capture_output=True, text=True)
    assert done.stderr == "ocipy: --log /none/log: open: no such file or directory\n"
    assert subprocess.run([OCIPY, "delete", "--root=here", name], cwd=bundle.path).returncode == 0


def test_removed_working_directory(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """Where the working directory is gone, absolute paths are enough; relative ones are told of."""
    path = bundle.args("true").save()

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "gone").mkdir()
        script = f'cd {tmp_path}/gone; rmdir {tmp_path}/gone; exec "$@"'
        return subprocess.run(["sh", "-c", script, "sh", OCIPY, *words], capture_output=True, text=True)

    root, name = str(cli.root), fresh_id()
    for words in ("run", "--bundle", str(path), name), ("list",), ("delete", "-f", name):
        done = there("--root", root, *words)
        assert (done.returncode, done.stderr) == (0, ""), words
    for words in ("--root", "here", "list"), ("--root", root, "create", name), ("spec",):
        done = there(*words)
        assert done.returncode == 1
        assert "is a relative path, and there is no working directory: getcwd: no such file" in done.stderr


def test_debug(cli: Cli, bundle: TestBundle) -> None:
    """--debug changes nothing about what a user did wrong: the last line says that, and no traceback."""
    done = cli("--debug", "state", "nobody", code=1)
    assert done.stderr.splitlines() == [
        "ocipy: debug: arguments: state nobody", "ocipy: container 'nobody' does not exist",
    ]  # fmt: skip


def test_default_root() -> None:
    """Without --root the state is below /run/ocipy."""
    done = subprocess.run([OCIPY, "state", "ocipytest-nobody"], capture_output=True, text=True)
    assert done.returncode == 1
    from ocipy.store import default_root

    assert default_root() == "/run/ocipy"


def test_list(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """list: a table, ids, or JSON with runc's fields; empty without containers and without a root directory."""
    assert cli("list").stdout == "ID   PID   STATUS   BUNDLE   CREATED   OWNER\n"
    assert cli("list", "-q").stdout == ""
    assert json.loads(cli("list", "--format", "json").stdout) == []
    assert not cli.root.exists()
    running, created = make_bundle().args(*SLEEP), make_bundle().args(*SLEEP)
    running.config["annotations"] = {"a": "b"}
    first, second = cli.start(running), cli.create(created)
    (cli.root / "not a container").touch()
    rows = json.loads(cli("list", "-f", "json").stdout)
    assert [row["id"] for row in rows] == sorted([first, second])
    row = next(row for row in rows if row["id"] == first)
    assert set(row) >= {"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner", "annotations"}
    assert (row["status"], row["owner"], row["bundle"]) == ("running", "root", str(running.path))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", row["created"])
    table = cli("list").stdout.splitlines()
    assert table[0].split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert {line.split()[2] for line in table[1:]} == {"running", "created"}
    assert re.match("running|created", table[1][table[0].index("STATUS") :])
    assert cli("list", "--quiet").stdout.split() == sorted([first, second])
    (cli.root / "not a container").unlink()
    for name in first, second:
        cli("delete", "--force", name)


def test_state(cli: Cli, bundle: TestBundle) -> None:
    """state: indented JSON with the members that engines read."""
    name = cli.start(bundle.args(*SLEEP))
    text = cli("state", name).stdout
    assert text.startswith('{\n  "ociVersion": ')
    state = json.loads(text)
    assert {"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"} <= set(state)
    cli("delete", "--force", name)


def test_ps(cli: Cli, bundle: TestBundle) -> None:
    """ps: the container's processes by the host's ps(1), whatever options it is given, or their pids as JSON."""
    name = cli.start(bundle.sh("sleep 1001 & sleep 1002 & wait"))
    until(lambda: len(json.loads(cli("ps", "--format", "json", name).stdout)) == 3)
    pids = json.loads(cli("ps", "-f", "json", name).stdout)
    assert cli.state(name)["pid"] in pids
    probe = subprocess.run(["ps", "-ef"], capture_output=True, text=True)
    if probe.returncode:
        assert probe.stderr.strip() in cli("ps", name, code=1).stderr
        pytest.skip(f"ps(1) does not work on this kernel: {probe.stderr.strip()}")
    lines = cli("ps", name).stdout.splitlines()
    assert "PID" in lines[0]
    assert len(lines) == 4
    assert sum("sleep 100" in line for line in lines) >= 2
    lines = cli("ps", name, "-eo", "pid,comm").stdout.splitlines()
    assert lines[0].split() == ["PID", "COMMAND"]
    assert sorted(int(line.split()[0]) for line in lines[1:]) == sorted(pids)
    assert "PID column" in cli("ps", name, "-eo", "comm", code=1).stderr
    assert "no pid where ps should have one" in cli("ps", name, "-eo", "args,pid", code=1).stderr
    assert "ps: " in cli("ps", name, "--nonsense", code=1).stderr
    cli("delete", "--force", name)


def test_ps_of_a_stopped_one(cli: Cli, bundle: TestBundle) -> None:
    """ps of a container that has ended: the titles and nothing else, or an empty array; that is no error."""
    name = cli.start(bundle.args("true"))
    cli.wait_for(name, "stopped")
    until(lambda: cli("ps", "--format", "json", name).stdout == "[]\n")  # on v1 its zombie is in the cgroup a while
    if subprocess.run(["ps", "-ef"], capture_output=True).returncode == 0:
        (titles,) = cli("ps", name).stdout.splitlines()
        assert "PID" in titles.split()
    cli("delete", name)


def test_pause_and_resume(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """pause stops every process of the container until resume."""
    bundle.config["mounts"].append(
        {"destination": "/out", "type": "bind", "source": str(tmp_path), "options": ["bind", "rw"]}
    )
    name = cli.start(bundle.sh("(while :; do echo >> /out/beat; sleep 0.01; done) & wait"))
    beat = tmp_path / "beat"
    until(lambda: beat.exists() and beat.stat().st_size > 3)
    cli("pause", name)
    size = beat.stat().st_size
    assert cli.state(name)["status"] == "paused"
    assert "cannot exec in a paused container" in cli("exec", name, "true", code=255).stderr
    assert beat.stat().st_size == size
    cli("resume", name)
    assert cli.state(name)["status"] == "running"
    until(lambda: beat.stat().st_size > size)
    cli("delete", "--force", name)


def test_spec(cli: Cli, tmp_path: Path, image: Path) -> None:
    """spec writes a config.json that validate accepts and that runs; it replaces none."""
    for flags in (), ("--rootless",):
        bundle = tmp_path / f"spec{len(flags)}"
        bundle.mkdir()
        cli("spec", "--bundle", str(bundle), *flags)
        config = json.loads((bundle / "config.json").read_text())
        assert config["ociVersion"].startswith("1.")
        assert ("uidMappings" in config["linux"]) == bool(flags)
        assert "file exists" in cli("spec", "-b", str(bundle), code=1).stderr
        assert "$.root.path" in cli("validate", str(bundle), code=1).stdout
        shutil.copytree(image, bundle / "rootfs", symlinks=True)
        assert cli("validate", str(bundle)).stdout == ""
        if not flags:
            config["process"] |= {"terminal": False, "args": ["sh", "-c", "hostname; exit 6"]}
            (bundle / "config.json").write_text(json.dumps(config))
            assert cli("run", "-b", str(bundle), fresh_id(), code=6).stdout == f"{config['hostname']}\n"
    (tmp_path / "here").mkdir()
    subprocess.run([OCIPY, "spec"], cwd=tmp_path / "here", check=True)
    assert (tmp_path / "here/config.json").exists()
    assert "no such file or directory" in cli("spec", "-b", str(tmp_path / "missing"), code=1).stderr


def test_validate(cli: Cli, bundle: TestBundle) -> None:
    """validate lists all faults, one a line, with path, what was found, what is allowed, and the section."""
    path = str(bundle.save())
    done = cli("validate", path)
    assert (done.stdout, done.stderr) == ("", "")
    bundle.config["process"]["cwd"] = "tmp"
    bundle.config["linux"]["namespaces"].append({"type": "nonsense"})
    bundle.save()
    done = cli("validate", path, code=1)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(re.search(r"^\$\.\S+: found .+, allowed: .+ \(.+\.md#.+\)$", line) for line in lines)
    assert {line.partition(":")[0] for line in lines} == {"$.process.cwd", "$.linux.namespaces[5].type"}
    assert done.stderr.splitlines()[-1] == f"ocipy: {path}/config.json has 2 faults"
    done = subprocess.run([OCIPY, "validate"], cwd=path, capture_output=True, text=True)
    assert done.stdout.splitlines() == lines


@pytest.mark.spec("runtime#warnings-1", "config#linux-process-1")
def test_warnings(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """config.md#linux-process: a capability that does not exist is ignored with a warning, on stderr or in the log."""
    bundle.config["process"]["capabilities"]["bounding"].append("CAP_NONSENSE")
    place = "$.process.capabilities.bounding[3]"
    done = cli("validate", str(bundle.save()))
    assert done.stdout == ""
    assert done.stderr.startswith(f"ocipy: warning: {place}")
    done = cli.run(bundle.sh("grep CapBnd /proc/self/status"))
    assert done.stderr.startswith(f"ocipy: warning: {place}")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == "CapBnd:\t0000000020000420\n"
    log = tmp_path / "log"
    cli("--log", str(log), "--log-format", "json", "run", "-b", str(bundle.path), fresh_id())
    [entry] = [json.loads(line) for line in log.read_text().splitlines()]
    assert entry["level"] == "warning"
    assert place in entry["msg"]


def test_explain(cli: Cli, bundle: TestBundle) -> None:
    """explain prints the operations one a line with their config path, and makes nothing."""
    bundle.config["linux"]["resources"] = {"pids": {"limit": 10}}
    bundle.args("true")
    lines = cli("explain", "--id", "box", str(bundle.save())).stdout.splitlines()
    assert any("/box" in line for line in lines if line.startswith("cgroup"))
    text = "\n".join(lines)
    for path in (
        "$.linux.namespaces", "$.root.path", "$.mounts[0]", "$.hostname", "$.linux.maskedPaths[0]", "$.process.user",
        "$.process.capabilities", "$.process.args", "$.linux.cgroupsPath",
    ):  # fmt: skip
        assert f"[{path}" in text, path
    assert lines[-1].split()[0] == "exec"
    assert "wait_start" in text
    assert not cli.root.exists()
    bundle.config["process"]["cwd"] = "relative"
    assert "$.process.cwd" in cli("explain", str(bundle.save()), code=1).stderr


def test_exit_status_of_the_program(cli: Cli, bundle: TestBundle) -> None:
    """run exits as the program does: its status, or 128 and the number of the signal that ended it."""
    for code in (0, 1, 42, 255):
        cli.run(bundle.sh(f"exit {code}"), code=code)
    bundle.config["linux"]["namespaces"] = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"]
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV):
        cli.run(bundle.sh(f"kill -{int(number)} $$"), code=128 + number)


def test_run_keep_and_detach(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """run deletes the container unless --keep; with --detach it returns at once, the pid file written."""
    name = fresh_id()
    path = str(bundle.sh("exit 3").save())
    cli("run", "-b", path, name, code=3)
    assert "does not exist" in cli("state", name, code=1).stderr
    cli("run", "--keep", "-b", path, name, code=3)
    assert cli.state(name)["status"] == "stopped"
    cli("delete", name)
    bundle.args(*SLEEP).save()
    with open(os.devnull, "w") as null:
        words = cli.command("run", "-d", "--pid-file", str(tmp_path / "pid"), "-b", path, name)
        assert subprocess.run(words, stdin=null, stdout=null, stderr=null).returncode == 0
    assert cli.state(name)["status"] == "running"
    assert (tmp_path / "pid").read_text() == str(cli.state(name)["pid"])
    cli("delete", "-f", name)


def test_run_streams(cli: Cli, bundle: TestBundle) -> None:
    """In the foreground the program has the caller's standard streams."""
    done = cli.run(bundle.sh("cat; echo words >&2"), input="ünd\n")
    assert done.stdout == "ünd\n"
    assert done.stderr == "words\n"


def test_run_reaps_orphans(cli: Cli, bundle: TestBundle) -> None:
    """Processes that outlive the init of a container without a pid namespace end with it."""
    bundle.config["linux"]["namespaces"] = [n for n in bundle.config["linux"]["namespaces"] if n["type"] != "pid"]
    for flags in (), ("--no-subreaper",):
        cli.run(bundle.sh("sleep 1003 </dev/null >/dev/null 2>&1 & exit 4"), *flags, code=4)


def test_timings(cli: Cli, bundle: TestBundle) -> None:
    """--timings tells each operation of create and how long it took."""
    done = cli.run(bundle.sh("exit 0"), "--timings")
    lines = done.stderr.splitlines()
    assert len(lines) > 20
    assert all(re.match(r" *\d+ us  \S", line) for line in lines)


def test_preserve_fds(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """--preserve-fds passes descriptors from 3 on, and no others."""
    bundle.sh("ls /proc/self/fd | tr '\\n' ' '; cat <&4")
    readers = []
    for words in "three", "four", "five":
        (tmp_path / words).write_text(words + "\n")
        readers.append(open(tmp_path / words))
    base = " ".join(cli.command("run", "--preserve-fds", "2", "-b", str(bundle.save()), fresh_id()))
    script = f"exec 3<{tmp_path}/three 4<{tmp_path}/four 5<{tmp_path}/five; exec {base}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    for reader in readers:
        reader.close()
    assert done.stdout == "0 1 2 3 4 5 four\n"  # 5 is the directory that ls reads
    done = cli("run", "--preserve-fds", "99999999999", "-b", str(bundle.path), fresh_id(), code=1)
    assert re.fullmatch(r"ocipy: --preserve-fds: descriptor \d+ is not open\n", done.stderr)


def test_environment_has_no_say(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """No PYTHON* variable, no file in the working directory and no .pth file reaches the command."""
    (tmp_path / "posix.py").write_text("raise SystemExit('hijacked')")
    (tmp_path / "ocipy.py").write_text("raise SystemExit('hijacked')")
    env = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONHOME": "/nonexistent", "PYTHONSTARTUP": "/dev/null"}
    done = subprocess.run(cli.command("list", "-q"), env=env, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    bundle.sh("env")
    done = subprocess.run(
        cli.command("run", "-b", str(bundle.save()), fresh_id()), env={"SECRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "SECRET" not in done.stdout
