"""The configs of test_differential.py: each value at a place of the config, and the lines that show what comes of it.

A config that ought to run runs a program that prints what the property did; one that ought not is only created.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from differential_cases import CREATE, RUN, TRUE, Case, Config, both, sh, with_

Change = Callable[[Config], None]
#: what is printed of a process
STATUS = "grep -E '^(Cap|NoNew|Seccomp:|Uid|Gid|Groups)' /proc/self/status; umask; pwd; id -u"


def cases() -> dict[str, Case]:
    """All of them by name; two of one name would hide one."""
    found: dict[str, Case] = {}
    for name, case in (*refused(), *texts(), *processes(), *mounts(), *linux(), *hooks(), *nulls()):
        assert name not in found, name
        found[name] = case
    return found


def created(path: str, *values: Any) -> Iterator[tuple[str, Case]]:
    """A container of each of the values at a place is created."""
    for value in values:
        yield f"{path}: {short(value)}", (with_(path, value), CREATE)


def ran(path: str, script: str, *values: Any) -> Iterator[tuple[str, Case]]:
    """A container of each of the values at a place runs a script."""
    for value in values:
        yield f"{path}: {short(value)}", (both(sh(script), with_(path, value)), RUN)


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False).replace("|", "/").replace("`", "'")
    return text if len(text) <= 100 else f"{text[:45]}…{text[-45:]} ({len(text)} letters)"


def refused() -> Iterator[tuple[str, Case]]:
    """Values of a wrong type, out of range, or without a sense."""
    yield from created("ociVersion", "1.0.0-rc5", "2.0.0", "", 1)
    yield from created("process.args", "true", [1], [""])
    yield from created("process.cwd", 5)
    yield from created("process.env", "A=1", [1])
    yield from created("process.user.uid", -1, 4294967296, "0", 1.5)
    yield from created("process.user.gid", -1, 4294967296, "0")
    yield from created("process.user.additionalGids", [-1], 5)
    yield from created("process.user.umask", -1, "022")
    yield from created("process.oomScoreAdj", 1001, "5")
    yield from created("process.capabilities.bounding", "CAP_KILL", [5])
    yield from created("process.noNewPrivileges", "true", 1)
    yield from created("process.terminal", "no")
    yield from created(
        "process.rlimits",
        [{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}],
        [{"type": "nofile"}],
        [{"type": "RLIMIT_CORE", "soft": -1, "hard": 1}],
    )
    yield from created("process.rlimits", [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}] * 2)
    yield from created("process.selinuxLabel", "system_u:system_r:x_t:s0")
    yield from created("process.apparmorProfile", "no-such-profile")
    yield from created("process.ioPriority", {"class": "IOPRIO_CLASS_FROB", "priority": 1})
    yield from created("root", {"path": ""}, "rootfs", {"path": "config.json"})
    yield from created("root.readonly", "yes")
    yield from created("hostname", "h" * 65, 5)
    yield from created("domainname", "d" * 65, 5)
    yield from created(
        "mounts",
        {},
        [5],
        [{"type": "tmpfs"}],
        [{"destination": "/x", "type": "frobfs"}],
        [{"destination": "/x", "type": "tmpfs", "options": "ro"}],
        [{"destination": "/x", "type": "tmpfs", "options": ["size=frob"]}],
        [{"destination": "/x", "type": "tmpfs", "options": ["frob"]}],
        [{"destination": "/x", "type": "ext4", "source": "/none"}],
        [{"destination": "/x", "source": "/none", "options": ["rbind", "ro"]}],
    )
    yield from created("hooks", [], {"frob": [{"path": "/bin/true"}]})
    yield from created(
        "hooks.prestart",
        {},
        [{}],
        [{"path": "bin/true"}],
    )
    yield from created("annotations", {"a": 1}, {"": "x"}, [], {"a": ""})
    yield from created(
        "linux.namespaces",
        [],
        {},
        [{"type": "mount"}, {"type": "mount"}],
        [{"type": ""}],
        [{"path": "/x"}],
        [{"type": "mount"}, {"type": "pid", "path": "/proc/self/ns/net"}],
        [{"type": "mount"}, {"type": "ipc", "path": "proc/self/ns/ipc"}],
        [{"type": "mount"}, {"type": "user"}],
    )
    yield from created(
        "linux.uidMappings", [{"containerID": 0, "hostID": 0, "size": 0}], [{"containerID": -1, "hostID": 0, "size": 1}]
    )
    yield from created(
        "linux.devices",
        {},
        [{"path": "/dev/x", "type": "z", "major": 1, "minor": 3}],
        [{"path": "dev/x", "type": "c", "major": 1, "minor": 3}],
        [{"type": "c", "major": 1, "minor": 3}],
        [{"path": "/dev/x", "type": "c", "major": -1, "minor": 3}],
    )
    yield from created("linux.cgroupsPath", 5)
    yield from created(
        "linux.sysctl",
        {"net.ipv4.frob": "1"},
        {"kernel.hostname": "x"},
        {"vm.swappiness": "1"},
        {"net.ipv4.ip_forward": 1},
        ["a"],
        {"kernel.shmmax": "x"},
    )
    yield from created(
        "linux.seccomp",
        {},
        {"defaultAction": "SCMP_ACT_FROB"},
        [],
        {"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_FROB"]},
        {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["kill"]}]},
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_FROB"]},
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 7, "value": 1, "op": "SCMP_CMP_EQ"}]}
            ],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [
                {
                    "names": ["kill"],
                    "action": "SCMP_ACT_ERRNO",
                    "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_FROB"}],
                }
            ],
        },
    )
    yield from created("linux.maskedPaths", "/x", [5])
    yield from created("linux.readonlyPaths", "/x", [5])
    yield from created("linux.rootfsPropagation", 5)
    yield from created("linux.personality", {"domain": "FROB"}, {})
    yield from created("linux.timeOffsets", {"monotonic": {"secs": 5}})
    yield from created(
        "linux.resources.memory",
        {"limit": "64m"},
        {"limit": 1},
        {"limit": 67108864, "swap": 1},
        [],
        {"swappiness": 101},
    )
    yield from created(
        "linux.resources.cpu",
        {"cpus": "99"},
        {"cpus": "x"},
        {"shares": -1},
        {"mems": "7"},
        {"quota": 1},
        {"period": 1},
        {"quota": 50000, "period": 1000001},
    )
    yield from created("linux.resources.pids", {"limit": "5"})
    yield from created("linux.resources.blockIO", {"weight": 70000}, {"weight": 5})
    yield from created("linux.resources.hugepageLimits", [{"pageSize": "3MB", "limit": 1}], {})
    yield from created(
        "linux.resources.devices",
        [{"access": "rwm"}],
        {},
        [{"allow": "yes"}],
        [{"allow": True, "type": "z", "access": "r"}],
        [{"allow": True, "type": "c", "access": "frob"}],
    )
    yield from created("linux.intelRdt", {"closID": "no/such"})
    yield from created("linux", [], 5)
    yield from created("process", [], 5)


def texts() -> Iterator[tuple[str, Case]]:
    """config.json itself, changed as text."""
    file = "{bundle}/config.json"
    for name, script in {
        "an empty file": f": >{file}",
        "a list": f"echo [] >{file}",
        "an empty object": f"echo {{{{}}}} >{file}",
        "words behind the object": f"echo x >>{file}",
        "a second object": f"echo {{{{}}}} >>{file}",
        "a comment": f"echo '// x' >>{file}",
        "a comma at the end": f"sed -i 's/.$/,}}}}/' {file}",
        "a byte order mark": f"printf '\\357\\273\\277' >{{dir}}/new && cat {file} >>{{dir}}/new && cp {{dir}}/new {file}",
        "an unknown property": f"sed -i 's/^./{{{{\"frob\": 1,/' {file}",
        "a property twice": f'sed -i \'s/^./{{{{"hostname": "first",/\' {file}',
        "a name in capitals": f'sed -i \'s/"hostname"/"HostName"/\' {file}',
        "white space around": f"(echo; cat {file}; echo; echo) >{{dir}}/new && cp {{dir}}/new {file}",
        "a half of it": f"head -c 200 {file} >{{dir}}/new && cp {{dir}}/new {file}",
        "a directory": f"rm {file} && mkdir {file}",
        "a link": f"mv {file} {{dir}}/real && ln -s {{dir}}/real {file}",
        "a surrogate": f'sed -i \'s/"hostname": "box"/"hostname": "\\\\ud800"/\' {file}',
        "bytes that are no UTF-8": f'sed -i \'s/"hostname": "box"/"hostname": "\\xff"/\' {file}',
        "1e3 as a number": f'sed -i \'s/"uid": 0/"uid": 1e3/\' {file}',
        "1.0 as a number": f'sed -i \'s/"uid": 0/"uid": 1.0/\' {file}',
        "true for a number": f'sed -i \'s/"uid": 0/"uid": true/\' {file}',
        "NaN": f'sed -i \'s/"uid": 0/"uid": NaN/\' {file}',
    }.items():
        yield f"config.json: {name}", (sh("hostname; id -u"), "!" + script, RUN)


def processes() -> Iterator[tuple[str, Case]]:
    yield from ran(
        "process.env",
        "env",
        [],
        ["A=1", "A=2"],
        ["A=1", "B=2", "A=3"],
        ["A="],
        ["=x"],
        ["NOEQUALS"],
        ["PATH=/bin", "HOME="],
        ["HOME=/x", "PATH=/bin"],
        ["PATH="],
        ["PATH=/none:/bin"],
        ["PATH=:/bin"],
        ["PATH=/bin", "A=ä=b"],
        ["PATH=/bin", "A=1\n2"],
    )
    yield from ran(
        "process.user",
        STATUS,
        {},
        {"uid": 1000},
        {"gid": 5},
        {"uid": 1000, "gid": 1000},
        {"uid": 7, "gid": 7, "umask": 63},
        {"uid": 0, "gid": 0, "additionalGids": [1, 2, 2]},
        {"uid": 0, "gid": 0, "additionalGids": [0]},
        {"uid": 4294967294, "gid": 4294967294},
        {"username": "user"},
        {"uid": 1000, "username": "user"},
        {"uid": 0, "gid": 0, "umask": 511},
    )
    yield from ran("process.cwd", "pwd", "/tmp/", "/../tmp", "/etc/passwd", "/home/user", "/link")
    yield from ran("process.umask", "umask", 18)
    yield from ran("process.oomScoreAdj", "cat /proc/self/oom_score_adj", 1000, 500, 0)
    yield from ran("process.noNewPrivileges", STATUS, False, True, None)
    yield from ran(
        "process.capabilities",
        STATUS,
        None,
        {},
        {"bounding": ["CAP_KILL"]},
        {"effective": ["CAP_KILL"]},
        {"permitted": ["CAP_KILL"]},
        {"ambient": ["CAP_KILL"]},
        {"inheritable": ["CAP_KILL"]},
        {"bounding": ["CAP_KILL", "CAP_FROB"]},
        {"bounding": ["cap_kill"]},
        {"bounding": ["KILL"]},
    )
    every = {key: ["CAP_KILL", "CAP_CHOWN"] for key in ("bounding", "effective", "permitted", "inheritable", "ambient")}
    for uid in (0, 1000):
        user = with_("process.user", {"uid": uid, "gid": uid})
        for left_out in ("", *every):
            sets = {name: caps for name, caps in every.items() if name != left_out}
            yield (
                f"all capability sets but {left_out or 'none'} as {uid}",
                (both(sh(STATUS), user, with_("process.capabilities", sets)), RUN),
            )
    yield from ran(
        "process.rlimits",
        "ulimit -n; ulimit -Hn; ulimit -c",
        [{"type": "RLIMIT_NOFILE", "soft": 64, "hard": 128}],
        [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}, {"type": "RLIMIT_NOFILE", "soft": 9, "hard": 9}],
        [],
    )
    yield from programs(
        ["echo", ""],
        ["echo", "a b", "ä"],
        ["/bin/echo", "x"],
        ["bin/echo", "x"],
        ["./bin/echo", "x"],
        ["sh", "-c", "echo $0 $#", "a", "b"],
        ["/bin/"],
        ["."],
        [".."],
        ["/link"],
        ["/etc/script"],
        ["/etc/nothing"],
        ["/etc/wrong"],
    )
    yield from ran(
        "process.scheduler",
        "grep -E 'policy|prio' /proc/self/sched",
        {"policy": "SCHED_OTHER"},
        {"policy": "SCHED_BATCH", "nice": 5},
        {"policy": "SCHED_IDLE"},
        {"policy": "SCHED_FROB"},
    )
    yield from ran(
        "process.ioPriority", "true", {"class": "IOPRIO_CLASS_BE", "priority": 3}, {"class": "IOPRIO_CLASS_IDLE"}
    )
    yield from ran("hostname", "hostname", "", "a", "A_b.c", "h" * 64, "a b", None)
    yield from ran("domainname", "cat /proc/sys/kernel/domainname", "d.example", "")
    yield from ran(
        "root",
        "touch /x; ls /",
        {"path": "rootfs", "readonly": True},
        {"path": "./rootfs"},
        {"path": "rootfs/"},
        {"path": "../bundle/rootfs"},
        {"path": "rootfs/home/.."},
        {"path": "rootfs", "readonly": False},
    )
    yield from ran("process.personality", "uname -m", {"domain": "LINUX32"})
    yield from ran("annotations", "true", {"org.example.x": "y"}, {})


def programs(*args: list[str]) -> Iterator[tuple[str, Case]]:
    for words in args:
        yield f"process.args: {short(words)}", (with_("process.args", words), RUN)


def mounts() -> Iterator[tuple[str, Case]]:
    show = "grep -E ' /(x|tmp|home)' /proc/mounts | cut -d' ' -f2-4 | sed 's/inode64,\\?//'; stat -c '%A %u %g' /x"
    for options in (
        [],
        ["ro"],
        ["ro", "rw"],
        ["rw", "ro"],
        ["nosuid", "noexec", "nodev"],
        ["suid", "exec", "dev"],
        ["noatime"],
        ["relatime"],
        ["strictatime"],
        ["nodiratime"],
        ["sync"],
        ["dirsync"],
        ["mode=700"],
        ["mode=0700"],
        ["mode=1777"],
        ["size=1m"],
        ["size=10%"],
        ["nr_inodes=100"],
        ["uid=5", "gid=6"],
        ["size=65536k", "mode=755"],
        ["defaults"],
        ["tmpcopyup"],
        ["private"],
        ["rslave"],
        ["shared"],
        ["unbindable"],
        ["nosymfollow"],
        ["lazytime"],
        ["iversion"],
        ["silent"],
        ["mand"],
        ["remount"],
        ["rro"],
    ):
        for path, more in (("/x", []),) if options else (("/x", []), ("/x/y/z", []), ("/link/x", [])):
            mount = {"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options + more}
            yield f"tmpfs at {path} with {','.join(options) or 'nothing'}", (both(sh(show), mounted(mount)), RUN)
    for options in (
        ["bind"],
        ["rbind"],
        ["bind", "ro"],
        ["rbind", "ro"],
        ["rbind", "rro"],
        ["bind", "nosuid"],
        ["bind", "noexec", "nodev"],
        ["bind", "rw"],
        ["bind", "exec"],
        ["bind", "rprivate"],
        ["bind", "rslave"],
        ["bind", "rshared"],
        ["bind", "unbindable"],
        ["bind", "noatime"],
        ["bind", "nodiratime"],
        ["bind", "relatime"],
        ["bind", "strictatime"],
        ["bind", "size=1m"],
        ["bind", "frob"],
        ["ro"],
        ["bind", "sync"],
        ["bind", "nosymfollow"],
        ["bind", "defaults"],
        ["rbind", "bind"],
        ["bind", "rnosuid"],
        ["rbind", "rnoexec"],
        ["bind", "idmap"],
        ["bind", "copy-symlink"],
    ):
        mount = {"destination": "/x", "source": "{dir}/v", "options": options}
        for type_ in ("bind", "none", None) if options == ["bind"] else ("bind",):
            one = mount if type_ is None else mount | {"type": type_}
            yield (
                f"bind mount of type {'none given' if type_ is None else type_} with {','.join(options)}",
                (both(sh(show + "; ls /x"), mounted(one)), "!mkdir {dir}/v && touch {dir}/v/file", RUN),
            )
    for name, mount in {
        "of a file on nothing": {"source": "{dir}/f", "destination": "/new/file"},
        "of a file on a directory": {"source": "{dir}/f", "destination": "/tmp"},
        "of a directory on a file": {"source": "{dir}/v", "destination": "/etc/passwd"},
        "on a link to a directory": {"source": "{dir}/v", "destination": "/link"},
        "on a link that leads out": {"source": "{dir}/v", "destination": "/out/x"},
        "on a dangling link": {"source": "{dir}/v", "destination": "/dangling"},
        "with a relative destination": {"source": "{dir}/v", "destination": "x"},
        "with a relative source": {"source": "rootfs/tmp", "destination": "/x"},
        "on the root": {"source": "{dir}/v", "destination": "/"},
        "below /proc": {"source": "{dir}/f", "destination": "/proc/cpuinfo"},
        "on /proc/sys": {"source": "{dir}/v", "destination": "/proc/sys"},
        "on /proc": {"source": "{dir}/v", "destination": "/proc"},
        "below /sys": {"source": "{dir}/v", "destination": "/sys/kernel"},
        "with dots": {"source": "{dir}/v", "destination": "/tmp/../x"},
        "of a link": {"source": "{dir}/l", "destination": "/x"},
        "of a device": {"source": "/dev/null", "destination": "/x/null"},
    }.items():
        yield (
            f"bind mount {name}",
            (
                both(
                    sh("ls -d /x /new/file /tmp/file /home/file /proc/sys/file; wc -c </etc/passwd"),
                    mounted({"type": "bind", "options": ["bind"]} | mount),
                ),
                "!mkdir {dir}/v && touch {dir}/v/file {dir}/f && ln -s v {dir}/l",
                RUN,
            ),
        )
    for type_, path, options in (
        ("proc", "/x", []),
        ("proc", "/x", ["ro"]),
        ("proc", "/x", ["hidepid=2"]),
        ("proc", "/x", ["frob"]),
        ("sysfs", "/x", []),
        ("mqueue", "/dev/mqueue", ["nosuid"]),
        ("mqueue", "/x", []),
        ("devpts", "/x", ["newinstance"]),
        ("devpts", "/x", ["mode=620"]),
        ("tmpfs", "/proc/x", []),
        ("tmpfs", "/proc", []),
        ("tmpfs", "/sys/fs", []),
        ("tmpfs", "/", []),
        ("tmpfs", "/dev", []),
        ("ramfs", "/x", []),
        ("ramfs", "/x", ["mode=700"]),
        ("overlay", "/x", ["lowerdir=/bin:/etc"]),
        ("overlay", "/x", []),
        ("cgroup", "/sys/fs/cgroup", ["ro"]),
        ("cgroup", "/sys/fs/cgroup", []),
        ("cgroup", "/x", []),
        ("securityfs", "/x", []),
    ):
        mount = {"destination": path, "type": type_, "source": type_, "options": options}
        look = f"grep -E ' {path}' /proc/mounts | grep -v ' /proc/[a-z]' | cut -d' ' -f2-4 | sed 's/inode64,\\?//' | sort; ls -d {path}"
        yield f"{type_} on {path} with {','.join(options) or 'nothing'}", (both(sh(look), mounted(mount)), RUN)


def mounted(mount: dict[str, Any]) -> Change:
    """One more mount, at the end; its paths are filled in by the test."""
    return lambda config: config["mounts"].append(mount)


def linux() -> Iterator[tuple[str, Case]]:
    look = "ls -ln /dev | sed 's/ [A-Z].* / /' | grep -E ' (x|y|null|d)$'; ls -ln /dev/d /y | grep -v total | sed 's/ [A-Z].* / /'"
    yield from ran(
        "linux.devices",
        look,
        [],
        [{"path": "/dev/x", "type": "c", "major": 1, "minor": 3}],
        [{"path": "/dev/x", "type": "u", "major": 1, "minor": 3, "fileMode": 438, "uid": 5, "gid": 6}],
        [{"path": "/dev/x", "type": "b", "major": 7, "minor": 0, "fileMode": 0}],
        [{"path": "/dev/x", "type": "p", "fileMode": 420}],
        [{"path": "/dev/d/x", "type": "c", "major": 1, "minor": 3}],
        [{"path": "/y", "type": "c", "major": 1, "minor": 3}],
        [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 438}],
        [{"path": "/dev/null", "type": "c", "major": 1, "minor": 5}],
        [
            {"path": "/dev/x", "type": "c", "major": 1, "minor": 3},
            {"path": "/dev/x", "type": "c", "major": 1, "minor": 3},
        ],
    )
    kinds = ("pid", "ipc", "uts", "mount", "network", "cgroup", "time")
    for left_out in ("pid", "ipc", "network"):
        some = [{"type": k} for k in kinds if k != left_out]
        yield (
            f"namespaces without {left_out}",
            (both(sh("echo $$ | wc -c; hostname"), with_("linux.namespaces", some)), RUN),
        )
    whole = [{"type": k} for k in kinds]
    yield "all namespaces", (both(sh("cat /proc/self/cgroup | wc -l; hostname"), with_("linux.namespaces", whole)), RUN)
    for name, maps in {
        "of all ids": [{"containerID": 0, "hostID": 0, "size": 4294967295}],
        "that overlap": [{"containerID": 0, "hostID": 1, "size": 10}, {"containerID": 5, "hostID": 100, "size": 10}],
        "without 0": [{"containerID": 5, "hostID": 5, "size": 10}],
    }.items():
        change = both(
            sh("cat /proc/self/uid_map /proc/self/gid_map; id -u; ls -ldn / /dev/null | cut -c1-30"),
            with_("linux.namespaces", [*({"type": k} for k in kinds[:5]), {"type": "user"}]),
            with_("linux.uidMappings", maps),
            with_("linux.gidMappings", maps),
        )
        yield (
            f"user namespace {name}",
            (change, "!chown -h 100000:100000 {bundle}/rootfs && chmod 755 {dir} {dir}/..", RUN),
        )
    for value in ("private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"):
        yield from ran(
            "linux.rootfsPropagation", "grep ' / ' /proc/self/mountinfo | grep -oE 'shared|master|unbindable'", value
        )
    yield from ran(
        "linux.maskedPaths",
        "cat /etc/passwd | wc -c; ls /home | wc -l",
        [],
        ["/etc/passwd"],
        ["/home"],
        ["/none"],
        ["/etc/passwd", "/etc/passwd"],
        ["/home", "/home/"],
        ["etc/passwd"],
        ["/etc/../etc/passwd"],
        ["/link"],
        ["/"],
        ["/home/user", "/home"],
        ["/etc/passwd/x"],
    )
    yield from ran(
        "linux.readonlyPaths",
        "touch /home/x; touch /etc/passwd",
        [],
        ["/home"],
        ["/etc/passwd"],
        ["/none"],
        ["/home", "/home"],
        ["home"],
        ["/link"],
        ["/"],
        ["/home/user/.."],
    )
    yield from ran(
        "linux.sysctl",
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni /proc/sys/fs/mqueue/msg_max",
        {"net.ipv4.ip_forward": "1"},
        {"net/ipv4/ip_forward": "1"},
        {"kernel.shmmni": "100"},
        {"kernel.domainname": "x"},
        {"fs.mqueue.msg_max": "20"},
        {"net.ipv4.ip_forward": ""},
        {"kernel.msgmax": " 9000 "},
        {},
    )
    yield from ran(
        "linux.seccomp",
        "mkdir /tmp/d; chmod 700 /tmp; kill -0 1; echo $?; " + STATUS,
        {"defaultAction": "SCMP_ACT_ALLOW"},
        *(
            {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action}]}
            for action in ("SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS")
        ),
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}],
        },
        {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],
            "syscalls": [
                {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]}
            ],
        },
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]},
    )
    yield from ran("linux.personality", "uname -m", {"domain": "LINUX"}, {"domain": "LINUX32"})
    yield from ran("linux.cgroupsPath", "wc -l </proc/self/cgroup", "/{id}-x", "{id}-x", "/{id}-x/", "")
    yield from ran(
        "linux.resources",
        "true",
        {},
        {"memory": {"limit": 67108864}},
        {"memory": {"limit": -1}},
        {"memory": {"limit": 67108864, "swap": 67108864}},
        {"memory": {"limit": 67108864, "swap": -1}},
        {"memory": {"limit": 67108864, "reservation": 33554432}},
        {"memory": {"limit": 0}},
        {"memory": {"swappiness": 10}},
        {"memory": {"disableOOMKiller": False}},
        {"memory": {"kernel": 67108864}},
        {"cpu": {"shares": 512}},
        {"cpu": {"shares": 0}},
        {"cpu": {"shares": 1}},
        {"cpu": {"quota": 50000, "period": 100000}},
        {"cpu": {"quota": -1}},
        {"cpu": {"quota": 0, "period": 0}},
        {"cpu": {"cpus": "0"}},
        {"cpu": {"cpus": "0-1", "mems": "0"}},
        {"cpu": {"cpus": ""}},
        {"pids": {"limit": 100}},
        {"pids": {"limit": 0}},
        {"pids": {"limit": -1}},
        {"pids": {}},
        {"blockIO": {}},
        {"blockIO": {"weight": 500}},
        {"hugepageLimits": []},
        {"network": {"classID": 5}},
        {"unified": {}},
        {"unified": {"memory.high": "1000000"}},
        {"devices": []},
        {"devices": [{"allow": False, "access": "rwm"}]},
        {"devices": [{"allow": True, "type": "c", "major": 10, "minor": 200, "access": "rwm"}]},
        {"devices": [{"allow": True, "type": "a", "access": "rwm"}]},
        {"rdma": {}},
    )


def hooks() -> Iterator[tuple[str, Case]]:
    shows = sh("cat /tmp/env")
    shell, write = "/bin/sh", "(pwd; env | grep -v -E '^(PWD|SHLVL|OLDPWD|_.*)=' | sort) >FILE"
    for kind in ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"):
        table: dict[str, dict[str, Any]] = {
            "that fails": {"path": shell, "args": ["sh", "-c", "exit 3"]},
            "that is missing": {"path": "/no/such/hook"},
            "that writes its environment": {"path": shell, "args": ["sh", "-c", write]},
            "with an environment": {"path": shell, "args": ["sh", "-c", write], "env": ["A=1", "A=2"]},
            "that prints": {"path": shell, "args": ["sh", "-c", "echo out; echo err >&2"]},
        }
        if kind == "poststart":
            del table["that prints"]  # the program may have ended: whose output comes first is up to chance
        if kind in ("createRuntime", "startContainer", "poststop"):
            table["with an empty environment"] = {"path": shell, "args": ["sh", "-c", write], "env": []}
            table["without arguments"] = {"path": shell, "args": []}
            table["that hangs"] = {"path": shell, "args": ["sh", "-c", "sleep 20"], "timeout": 1}
        file = "/tmp/env" if kind == "startContainer" else "{bundle}/rootfs/tmp/env"
        for name, hook in table.items():
            filled = json.loads(json.dumps(hook).replace("FILE", file))
            yield (
                f"{kind} hook {name}",
                (
                    both(shows if kind not in ("poststart", "poststop") else TRUE, with_(f"hooks.{kind}", [filled])),
                    RUN,
                    "!cat {bundle}/rootfs/tmp/env || :",
                    "state {id}",
                ),
            )


def nulls() -> Iterator[tuple[str, Case]]:
    """An optional property that is null, or empty."""
    for path in (
        "process.user",
        "process.env",
        "process.capabilities",
        "process.rlimits",
        "process.terminal",
        "process.noNewPrivileges",
        "process.oomScoreAdj",
        "process.apparmorProfile",
        "process.selinuxLabel",
        "process.consoleSize",
        "process.scheduler",
        "process.ioPriority",
        "hostname",
        "domainname",
        "mounts",
        "hooks",
        "annotations",
        "root.readonly",
        "linux",
        "linux.namespaces",
        "linux.devices",
        "linux.cgroupsPath",
        "linux.resources",
        "linux.resources.memory",
        "linux.resources.cpu",
        "linux.resources.devices",
        "linux.rootfsPropagation",
        "linux.seccomp",
        "linux.sysctl",
        "linux.maskedPaths",
        "linux.readonlyPaths",
        "linux.mountLabel",
        "linux.intelRdt",
        "linux.personality",
        "linux.uidMappings",
        "linux.timeOffsets",
        "hooks.prestart",
        "process.args",
        "process.cwd",
        "root",
        "root.path",
        "process",
        "ociVersion",
    ):
        yield f"null: {path}", (null(path), CREATE)
    for path, value in (
        ("linux.rootfsPropagation", ""),
        ("linux.mountLabel", ""),
        ("process.selinuxLabel", ""),
        ("process.apparmorProfile", ""),
        ("hooks", {}),
        ("hooks.prestart", []),
        ("process.consoleSize", {}),
        ("linux.intelRdt", {}),
    ):
        yield from created(path, value)


def null(path: str) -> Change:
    def change(config: Config) -> None:
        node = config
        *above, last = path.split(".")
        for key in above:
            node = node.setdefault(key, {})
        node[last] = None

    return change
