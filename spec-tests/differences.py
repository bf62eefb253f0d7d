"""Where ocipy differs from a peer in a case of test_differential.py, and why.

``python spec-tests/differences.py`` prints the table of docs/differences.md.
"""

from __future__ import annotations

RUNC, LATER, CRUN = "runc 1.1", "runc 1.5", "crun"
BOTH, ALL = (RUNC, LATER), (RUNC, LATER, CRUN)

#: reason, peers, cases
_ROWS: list[tuple[str, tuple[str, ...], list[str]]] = [
    # --- from runc and crun ---
    (
        "A value that the spec forbids is refused. They ignore it, or a part of it",
        ALL,
        [
            'process.rlimits: [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]',
            'annotations: {"": "x"}',
            'linux.resources.devices: [{"access": "rwm"}]',
            'process.ioPriority: {"class": "IOPRIO_CLASS_IDLE"}',
            "process.consoleSize: {}",
            'linux.maskedPaths: ["etc/passwd"]',
            'linux.maskedPaths: ["/"]',
            'linux.readonlyPaths: ["home"]',
            "config.json: a comment",
            "config.json: a property twice",
            "config.json: a surrogate",
        ],
    ),
    (
        "The same",
        (RUNC, CRUN),
        [
            'process.ioPriority: {"class": "IOPRIO_CLASS_FROB", "priority": 1}',
            'process.scheduler: {"policy": "SCHED_FROB"}',
            "linux.intelRdt: {}",
        ],
    ),
    (
        "The same",
        BOTH,
        [
            "bad version",
            'ociVersion: "2.0.0"',
            'ociVersion: ""',
            "null: ociVersion",
            'linux.devices: [{"path": "dev/x", "type": "c", "major": 1, "minor": 3}]',
            'linux.devices: [{"type": "c", "major": 1, "minor": 3}]',
            "linux.seccomp: {}",
            'linux.resources.blockIO: {"weight": 5}',
            'linux.resources.devices: [{"allow": true, "type": "c", "access": "frob"}]',
            "config.json: words behind the object",
            "config.json: a second object",
            "config.json: bytes that are no UTF-8",
        ],
    ),
    (
        "What would have no effect is refused: there is no such namespace, or the kernel can't do it",
        ALL,
        [
            'linux.uidMappings: [{"containerID": 0, "hostID": 0, "size": 0}]',
            'linux.resources: {"memory": {"kernel": 67108864}}',
            'linux.sysctl: {"net.ipv4.ip_forward": ""}',
            "update without a limit",
        ],
    ),
    ("The same", (RUNC, CRUN), ['linux.timeOffsets: {"monotonic": {"secs": 5}}']),
    (
        "The same",
        (RUNC,),
        [
            'linux.personality: {"domain": "FROB"}',
            "linux.personality: {}",
            f'domainname: "{"d" * 65}"',
            "bind mount of type bind with bind,idmap",
        ],
    ),
    (
        "Without PATH the executable is looked up where execvp(3) does, in /bin and /usr/bin. They find nothing then",
        ALL,
        [
            "process.env: []",
            'process.env: ["A=1", "A=2"]',
            'process.env: ["A=1", "B=2", "A=3"]',
            'process.env: ["A="]',
            'process.env: ["PATH="]',
            "null: process.env",
        ],
    ),
    ("The same", BOTH, ["exec by file"]),
    (
        "A descriptor to preserve that is not open is refused. They give the program what happens to have that number",
        ALL,
        [
            "run preserving what is not open",
        ],
    ),
    (
        "A capability that does not exist is refused on the command line. They run the program without it",
        ALL,
        [
            "exec with a capability",
        ],
    ),
    (
        "A poststart hook that fails ends the container (runtime.md#lifecycle). runc 1.1 runs it in `create`, and crun goes on",
        ALL,
        ["hook fails after the start"],
    ),
    (
        "`list --format json` without containers is `[]`. runc 1.1 prints `null`, runc 1.5 refuses a root that is not there, "
        "and the table of crun has other columns",
        ALL,
        ["list"],
    ),
    (
        "Statistics that are 0 are printed too. runc leaves them out, and crun of Debian 12 has no such command",
        ALL,
        ["events"],
    ),
    (
        "The structure of runtime-spec 1.3, without runc's own annotations. crun of Debian 12 has no such command",
        ALL,
        [
            "features",
        ],
    ),
    ("A mount of type bind is a bind mount, without the option as well", ALL, ["bind mount of type bind with ro"]),
    (
        "A read-only cgroup mount on cgroup v1 is read-only itself, not only what is mounted in it",
        ALL,
        [
            "cgroup on /sys/fs/cgroup with ro",
        ],
    ),
    (
        "These work, and fail with them",
        ALL,
        [
            'linux.rootfsPropagation: "runbindable"',
            'linux.maskedPaths: ["/etc/passwd/x"]',
            "null: mounts",
        ],
    ),
    # --- from runc ---
    (
        "runc prints the command's help on standard output. Programs read what is printed there: ours is the error alone",
        BOTH,
        ["unknown flag", "unknown global flag", "flag without a value", "too many arguments", "no id"],
    ),
    (
        "The names of properties have one spelling, as in the schema. Go takes any mixture of capitals",
        BOTH,
        [
            "config.json: a name in capitals",
        ],
    ),
    (
        "These work, and fail with runc or have no effect there",
        BOTH,
        [
            "tmpfs at /x with defaults",
            "tmpfs at /x with rro",
            'linux.devices: [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438}]',
        ],
    ),
    (
        "These came after runc 1.1, or are broken in it",
        (RUNC,),
        [
            'process.user: {"uid": 0, "gid": 0, "additionalGids": [1, 2, 2]}',
            'process.user: {"uid": 4294967294, "gid": 4294967294}',
            'domainname: "d.example"',
            "namespaces without pid",
            'linux.rootfsPropagation: "shared"',
            'linux.rootfsPropagation: "rshared"',
            'linux.rootfsPropagation: "unbindable"',
            'linux.personality: {"domain": "LINUX32"}',
            'linux.seccomp: {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}',
        ],
    ),
    (
        "These came after runc 1.1 and the crun of Debian 12",
        (RUNC, CRUN),
        [
            'process.scheduler: {"policy": "SCHED_BATCH", "nice": 5}',
            'process.scheduler: {"policy": "SCHED_IDLE"}',
            "namespaces without ipc",
            "namespaces without network",
            "all namespaces",
        ],
    ),
    (
        "/proc/mounts shows the mode of a tmpfs that comes from the covered directory, as with runc 1.5",
        (RUNC, CRUN),
        [
            "tmpfs on /sys/fs with nothing",
            "tmpfs on /dev with nothing",
        ],
    ),
    (
        "Without `capabilities` there are none. With runc 1.5 the program has all that runc has",
        (LATER,),
        [
            "process.capabilities: null",
        ],
    ),
    (
        "An option without effect on a bind mount is accepted, as by runc 1.1 and crun",
        (LATER,),
        [
            "bind mount of type bind with bind,size=1m",
            "bind mount of type bind with bind,frob",
            "bind mount of type bind with bind,defaults",
            "bind mount of type bind with bind,copy-symlink",
        ],
    ),
    (
        "A device in the place of /dev/null is as the config has it, as with runc 1.1 and crun",
        (LATER,),
        [
            'linux.devices: [{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}]',
        ],
    ),
    (
        "`env: []` is an empty environment, as with runc 1.1 and crun",
        (LATER,),
        [
            "startContainer hook with an empty environment",
        ],
    ),
    (
        "A createContainer hook without `env` has the program's environment, as with runc 1.1. With runc 1.5 it has none, with "
        "crun the runtime's",
        (LATER, CRUN),
        ["createContainer hook that writes its environment"],
    ),
    (
        "The limit of open files that the config sets does not hinder the runtime itself, as with runc 1.1",
        (LATER, CRUN),
        [
            'process.rlimits: [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_NOFILE", "soft": 9, "hard": 9}]',
        ],
    ),
    # --- from crun, where ocipy does as runc ---
    (
        "Command lines are runc's, which engines use; crun has its own",
        (CRUN,),
        [
            "nothing",
            "help",
            "bad ids",
            "unknown signal",
            "signal in small letters",
            "run and keep",
            "exec with flags",
            "ps",
            "pause and resume",
            "pause of a created one",
            "kill of a paused one",
            "update",
        ],
    ),
    (
        "Values of a wrong type or out of range are refused, as by runc. crun ignores them, or takes what it can",
        (CRUN,),
        [
            "relative cwd",
            "bad propagation",
            'process.args: "true"',
            'process.user.uid: "0"',
            'process.user.gid: "0"',
            "process.user.additionalGids: 5",
            'process.user.umask: "022"',
            'process.oomScoreAdj: "5"',
            'process.capabilities.bounding: "CAP_KILL"',
            "process.capabilities.bounding: [5]",
            'process.noNewPrivileges: "true"',
            "process.noNewPrivileges: 1",
            'process.terminal: "no"',
            'root.readonly: "yes"',
            "hostname: 5",
            "domainname: 5",
            'mounts: [{"destination": "/x", "type": "tmpfs", "options": "ro"}]',
            "hooks: []",
            "hooks.prestart: {}",
            "annotations: []",
            "linux.devices: {}",
            'linux.devices: [{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}]',
            "linux.cgroupsPath: 5",
            'linux.sysctl: ["a"]',
            "linux.seccomp: []",
            'linux.seccomp: {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FROB"]}',
            'linux.maskedPaths: "/x"',
            "linux.maskedPaths: [5]",
            'linux.readonlyPaths: "/x"',
            "linux.readonlyPaths: [5]",
            "linux.rootfsPropagation: 5",
            'linux.resources.memory: {"limit": "64m"}',
            "linux.resources.memory: []",
            'linux.resources.memory: {"swappiness": 101}',
            'linux.resources.cpu: {"shares": -1}',
            'linux.resources.pids: {"limit": "5"}',
            "linux.resources.hugepageLimits: {}",
            "linux.resources.devices: {}",
            'linux.resources.devices: [{"allow": "yes"}]',
            'linux.intelRdt: {"closID": "no/such"}',
            "config.json: true for a number",
            'process.capabilities: {"bounding": ["cap_kill"]}',
            "null: process.args",
            'process.selinuxLabel: ""',
            'process.apparmorProfile: ""',
        ],
    ),
    (
        "Mounts are as with runc; crun has other flags or modes there, or fails",
        (CRUN,),
        [
            "devices",
            "tmpfs at /x/y/z with nothing",
            "tmpfs at /x with ro,rw",
            "tmpfs at /x with nosymfollow",
            "tmpfs at /x with iversion",
            "tmpfs at /x with silent",
            "bind mount of type bind with bind,nosymfollow",
            "bind mount on a dangling link",
            "bind mount on /proc/sys",
            "bind mount on /proc",
            "sysfs on /x with nothing",
            "tmpfs on /proc with nothing",
            "cgroup on /sys/fs/cgroup with nothing",
            "cgroup on /x with nothing",
            'linux.readonlyPaths: ["/"]',
        ],
    ),
    (
        "Limits and cgroup paths are taken as by runc",
        (CRUN,),
        [
            'linux.cgroupsPath: ""',
            'linux.resources: {"memory": {"limit": 0}}',
            'linux.resources: {"cpu": {"shares": 1}}',
            'linux.resources: {"cpu": {"quota": -1}}',
            'linux.resources: {"pids": {"limit": -1}}',
            'linux.resources: {"blockIO": {"weight": 500}}',
        ],
    ),
    (
        "An empty HOME is replaced, a createContainer hook works in the root's directory, and a poststart hook that fails is a "
        "failure, as with runc",
        (CRUN,),
        [
            'process.env: ["PATH=/bin", "HOME="]',
            "createContainer hook with an environment",
            "poststart hook that fails",
            "poststart hook that is missing",
        ],
    ),
]

#: case -> peers that do it another way
DIFFERENCES: dict[str, set[str]] = {}
for _, _peers, _cases in _ROWS:
    for _case in _cases:
        DIFFERENCES.setdefault(_case, set()).update(_peers)


def table() -> str:
    """The table of docs/differences.md: a line for each reason."""
    lines, last = ["| what, and why | other than | cases |", "|---|---|---|"], ""
    for reason, peers, cases in _ROWS:
        last = last if reason == "The same" else reason
        lines.append(f"| {last} | {', '.join(peers)} | {', '.join(f'`{case}`' for case in cases)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
