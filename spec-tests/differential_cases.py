"""The command lines of test_differential.py: for each case how the config is changed, and lines.

``{id}``, ``{bundle}`` and ``{dir}`` stand for the container's id, its bundle and a directory; ``\\s`` for a space in a
word; what follows `` < `` is standard input. ``!`` is a line for the shell, ``?status`` waits for a status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Config = dict[str, Any]
Case = tuple[Callable[[Config], None], *tuple[str, ...]]


def args(*words: str) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config["process"]["args"] = list(words)

    return change


def sh(script: str) -> Callable[[Config], None]:
    return args("sh", "-c", script)


def with_(path: str, value: Any, *words: str) -> Callable[[Config], None]:
    """A value at a place of the config (``process.user.uid``)."""

    def change(config: Config) -> None:
        node = config
        *above, last = path.split(".")
        for key in above:
            node = node.setdefault(key, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
        if words:
            config["process"]["args"] = list(words)

    return change


def both(*changes: Callable[[Config], None]) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        for one in changes:
            one(config)

    return change


SLEEP = args("sleep", "1000")
TRUE = args("true")
CREATE, START = "create --bundle {bundle} {id}", "start {id}"
UP = (CREATE, START)
RUN = "run --bundle {bundle} {id}"

COMMANDS: dict[str, Case] = {
    # --- the command line itself ---
    "nothing": (TRUE, ""),
    "help": (TRUE, "help"),
    "help of a command": (TRUE, "run --help"),
    "version": (TRUE, "--version"),
    "unknown command": (TRUE, "frobnicate"),
    "unknown flag": (TRUE, "run --frobnicate {id}"),
    "unknown global flag": (TRUE, "--frobnicate list"),
    "flag without a value": (TRUE, "create {id} --bundle"),
    "too many arguments": (TRUE, "state {id} {id}"),
    "no id": (TRUE, "create --bundle {bundle}", "start", "state", "kill", "delete", "pause", "resume", "exec", "ps"),
    "bad log format": (TRUE, "--log-format yaml list"),
    "log to nowhere": (TRUE, "--log {dir}/none/log list"),
    "log file": (TRUE, "--log {dir}/log --log-format json state {id}"),
    # --- create, start, state, kill, delete ---
    "life": (SLEEP, *UP, "state {id}", "kill {id} KILL", "?stopped", "state {id}", "delete {id}", "state {id}"),
    "default bundle": (TRUE, "create {id}", "delete {id}"),
    "same id": (SLEEP, CREATE, CREATE),
    "bad ids": (TRUE, "create --bundle {bundle} a/b", "create --bundle {bundle} ..", "create --bundle {bundle} a~b"),
    "no bundle": (TRUE, "create --bundle {dir}/none {id}"),
    "no config": (TRUE, "!rm {bundle}/config.json", "create --bundle {bundle} {id}"),
    "config is no JSON": (TRUE, "!echo [ >{bundle}/config.json", "create --bundle {bundle} {id}"),
    "pid file": (SLEEP, "create --bundle {bundle} --pid-file {dir}/pid {id}"),
    "pid file nowhere": (SLEEP, "create --bundle {bundle} --pid-file {dir}/none/pid {id}"),
    "start twice": (SLEEP, *UP, START),
    "start of a stopped one": (TRUE, *UP, "?stopped", START),
    "start of none": (TRUE, START),
    "state of none": (TRUE, "state {id}"),
    "state with annotations": (with_("annotations", {"a.b": "c"}), CREATE, "state {id}"),
    "kill of a created one": (SLEEP, CREATE, "kill {id} KILL", "?stopped"),
    "kill by name": (SLEEP, *UP, "kill {id} SIGKILL", "?stopped"),
    "kill by number": (SLEEP, *UP, "kill {id} 9", "?stopped"),
    "kill of all": (SLEEP, *UP, "kill --all {id} KILL", "?stopped"),
    "kill of all, short": (SLEEP, *UP, "kill -a {id} KILL", "?stopped"),
    "kill of a stopped one": (TRUE, *UP, "?stopped", "kill {id} KILL"),
    "kill of all of a stopped one": (TRUE, *UP, "?stopped", "kill --all {id} KILL"),
    "kill of none": (TRUE, "kill {id} KILL"),
    "unknown signal": (SLEEP, *UP, "kill {id} FROB", "kill {id} 0x9", "kill {id} 65"),
    "signal in small letters": (SLEEP, *UP, "kill {id} kill", "?stopped"),
    "delete of a running one": (SLEEP, *UP, "delete {id}"),
    "delete of a created one": (SLEEP, CREATE, "delete {id}"),
    "delete by force": (SLEEP, *UP, "delete --force {id}"),
    "delete by force, short": (SLEEP, *UP, "delete -f {id}"),
    "delete of none": (TRUE, "delete {id}"),
    "delete of none by force": (TRUE, "delete --force {id}"),
    # --- run ---
    "run": (sh("echo hello; echo oops >&2; exit 3"), "run --bundle {bundle} {id}"),
    "run of success": (TRUE, "run --bundle {bundle} {id}", "state {id}"),
    "run ended by a signal": (sh("kill -9 $$"), "run --bundle {bundle} {id}"),
    "run ended by a caught signal": (sh("trap 'exit 7' TERM; kill $$"), "run --bundle {bundle} {id}"),
    "run detached": (SLEEP, "run --detach --bundle {bundle} --pid-file {dir}/pid {id}", "state {id}"),
    "run detached, short": (SLEEP, "run -d -b {bundle} {id}"),
    "run and keep": (TRUE, "run --keep --bundle {bundle} {id}", "delete {id}"),
    "run with input": (args("cat"), "run --bundle {bundle} {id} < some words"),
    "run of nothing": (args("/nonexistent"), "run --bundle {bundle} {id}"),
    "run of a directory": (args("/etc"), "run --bundle {bundle} {id}"),
    "run of a name not in PATH": (args("nonsense"), "run --bundle {bundle} {id}"),
    "run of what may not be executed": (args("/etc/passwd"), "run --bundle {bundle} {id}"),
    "run of what has no format": (args("/etc/x"), "!echo x >{bundle}/rootfs/etc/x && chmod +x {bundle}/rootfs/etc/x",
                                  "run --bundle {bundle} {id}"),
    "create of a name not in PATH": (args("nonsense"), CREATE),
    "run with a working directory": (with_("process.cwd", "/tmp", "pwd"), "run --bundle {bundle} {id}"),
    "run in a new working directory": (with_("process.cwd", "/new/one", "pwd"), "run --bundle {bundle} {id}"),
    "run as a user": (with_("process.user", {"uid": 1000, "gid": 1000, "additionalGids": [7]}, "id"),
                      "run --bundle {bundle} {id}"),
    "run preserving": (sh("ls /proc/self/fd | wc -l"), "run --preserve-fds 0 --bundle {bundle} {id}"),
    "run preserving what is not open": (TRUE, "run --preserve-fds 2 --bundle {bundle} {id}"),
    "environment": (args("env"), "run --bundle {bundle} {id}"),
    "host name": (args("hostname"), "run --bundle {bundle} {id}"),
    "devices": (sh("ls /dev"), "run --bundle {bundle} {id}"),
    "capabilities": (sh("grep Cap /proc/self/status"), "run --bundle {bundle} {id}"),
    "limits": (sh("ulimit -a"), "run --bundle {bundle} {id}"),
    "masked and read-only": (sh("cat /proc/kcore | wc -c; touch /proc/sys/x; ls /proc/scsi | wc -l"),
                             "run --bundle {bundle} {id}"),
    "mount options": (sh("grep -E ' /(dev|proc|sys|dev/pts|dev/shm) ' /proc/mounts | cut -d' ' -f2,3"),
                      "run --bundle {bundle} {id}"),
    "read-only root": (with_("root.readonly", True, "touch", "/x"), "run --bundle {bundle} {id}"),
    "umask": (sh("umask"), "run --bundle {bundle} {id}"),
    "no new privileges": (sh("grep NoNew /proc/self/status"), "run --bundle {bundle} {id}"),
    "terminal without a socket": (with_("process.terminal", True), CREATE),
    "a socket without a terminal": (TRUE, "create --console-socket {dir}/none --bundle {bundle} {id}"),
    # --- bad configs ---
    "no args": (with_("process.args", []), CREATE),
    "no cwd": (with_("process.cwd", ""), CREATE),
    "relative cwd": (with_("process.cwd", "tmp"), CREATE),
    "no root": (with_("root", None), CREATE),
    "no such root": (with_("root.path", "none"), CREATE),
    "bad version": (with_("ociVersion", "nonsense"), CREATE),
    "unknown namespace": (with_("linux.namespaces", [{"type": "frob"}, {"type": "mount"}]), CREATE),
    "no such namespace file": (with_("linux.namespaces", [{"type": "mount"}, {"type": "network", "path": "/none"}]),
                               CREATE),
    "host name without a namespace": (with_("linux.namespaces", [{"type": "mount"}, {"type": "pid"}]), CREATE),
    "bad sysctl": (with_("linux.sysctl", {"kernel.nonsense": "1"}), CREATE),
    "bad propagation": (with_("linux.rootfsPropagation", "sideways"), CREATE),
    "bad rlimit": (with_("process.rlimits", [{"type": "RLIMIT_FROB", "soft": 1, "hard": 1}]), CREATE),
    "bad mount source": (with_("mounts", [{"destination": "/x", "source": "/none", "options": ["bind"]}]), CREATE),
    "hook fails": (with_("hooks", {"createRuntime": [{"path": "/bin/false"}]}), CREATE, "state {id}"),
    "hook is missing": (with_("hooks", {"prestart": [{"path": "/none"}]}), CREATE, "state {id}"),
    "hook fails after the start": (with_("hooks", {"poststart": [{"path": "/bin/false"}]}, "sleep", "9"),
                                   CREATE, START, "state {id}"),
    # --- exec ---
    "exec": (SLEEP, *UP, "exec {id} echo hello", "exec {id} sh -c exit\\s5", "exec {id} sh -c kill\\s-9\\s$$"),
    "exec of nothing": (SLEEP, *UP, "exec {id} /nonexistent", "exec {id} nonsense", "exec {id}"),
    "exec in none": (TRUE, "exec {id} true"),
    "exec in a stopped one": (TRUE, *UP, "?stopped", "exec {id} true"),
    "exec in a paused one": (SLEEP, *UP, "pause {id}", "exec {id} true", "resume {id}"),
    "exec with flags": (SLEEP, *UP, "exec --cwd /tmp {id} pwd", "exec --env A=1 --env B=2 {id} env",
                        "exec --user 1000:1000 {id} id", "exec -u 7 {id} id", "exec --additional-gids 5 {id} id"),
    "exec with a bad user": (SLEEP, *UP, "exec --user root {id} id", "exec --user 1:x {id} id"),
    "exec detached": (SLEEP, *UP, "exec --detach --pid-file {dir}/pid {id} sleep 100"),
    "exec with a capability": (SLEEP, *UP, "exec --cap CAP_SYS_TIME {id} grep CapBnd /proc/self/status",
                               "exec --cap CAP_FROB {id} true"),
    "exec by file": (SLEEP, *UP, '!printf %s \'{{"args":["pwd"],"cwd":"/etc","user":{{"uid":0,"gid":0}}}}\' >{dir}/p',
                     "exec --process {dir}/p {id}", "exec --process {dir}/none {id}"),
    "exec with input": (SLEEP, *UP, "exec {id} cat < words"),
    # --- list, ps, pause, resume, update, events, spec ---
    "list": (SLEEP, "list", "list --quiet", "list --format json", CREATE, "list", "list -q", "list -f json",
             "list --format frob"),
    "ps": (SLEEP, *UP, "ps {id}", "ps --format json {id}", "ps {id} -o pid,comm", "ps --format frob {id}"),
    "pause and resume": (SLEEP, *UP, "pause {id}", "pause {id}", "resume {id}", "resume {id}"),
    "pause of a created one": (SLEEP, CREATE, "pause {id}", "resume {id}"),
    "pause of a stopped one": (TRUE, *UP, "?stopped", "pause {id}", "resume {id}"),
    "kill of a paused one": (SLEEP, *UP, "pause {id}", "kill {id} KILL", "?stopped"),
    "delete of a paused one": (SLEEP, *UP, "pause {id}", "delete {id}", "delete --force {id}"),
    "update": (SLEEP, *UP, "update --pids-limit 50 {id}", "update --memory 64m {id}", "update --memory x {id}",
               'update --resources - {id} < {{"pids":{{"limit":40}}}}', "update --resources {dir}/none {id}"),
    "update without a limit": (SLEEP, *UP, "update {id}"),
    "update of none": (TRUE, "update --pids-limit 50 {id}"),
    "events": (SLEEP, *UP, "events --stats {id}"),
    "events of a stopped one": (TRUE, *UP, "?stopped", "events --stats {id}"),
    "spec": (TRUE, "!mkdir {dir}/new", "spec --bundle {dir}/new", "spec --bundle {dir}/new"),
    "spec for the unprivileged": (TRUE, "!mkdir {dir}/new", "spec --rootless --bundle {dir}/new"),
    "features": (TRUE, "features"),
}  # fmt: skip
