"""config.md#process apparmorProfile and selinuxLabel, config-linux.md#mount-label: labels, and hosts without them.

AppArmor is tried with real profiles where the kernel has it, as that of `make test-v2`. Neither has SELinux: what
is asked of it is looked at in the plan; that it is asked, by the errors of a kernel that is believed to have it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BASE, Cli, TestBundle, fresh_id, nothing_left
from test_plan import V1, V2, find, host, names

from ocipy import Container, Error, plan
from ocipy import host as ocipy_host
from ocipy.plan import ops

ENABLED = ocipy_host.facts().lsms
apparmor = pytest.mark.skipif(
    "apparmor" not in ENABLED, reason="no Y in /sys/module/apparmor/parameters/enabled: no AppArmor in this kernel"
)
LABEL = "system_u:system_r:container_t:s0:c124,c675"
MOUNT_LABEL = "system_u:object_r:container_file_t:s0:c124,c675"


def refused(cli: Cli, bundle: TestBundle, where: str, words: str, tmp_path: Path) -> None:
    """create fails with a config path and words, and leaves nothing."""
    error = cli("create", "--bundle", str(bundle.save()), fresh_id(), code=1).stderr.splitlines()[-1]
    assert where in error
    assert words in error
    assert nothing_left(tmp_path) == []


# --- hosts that lack the module ---


@pytest.mark.parametrize(
    ("section", "name", "module"),
    [
        ("process", "apparmorProfile", "AppArmor"),
        ("process", "selinuxLabel", "SELinux"),
        ("linux", "mountLabel", "SELinux"),
    ],
)
def test_not_enabled(
    cli: Cli, bundle: TestBundle, tmp_path: Path, section: str, name: str, module: str
) -> None:
    """What is asked for and not there is an error (runtime.md#errors), of create and of exec; an empty label asks for
    nothing."""
    if module.lower() in ENABLED:
        pytest.skip(f"ocipy.host.facts().lsms: {module} is enabled")
    bundle.config[section][name] = ""
    container = cli.start(bundle.args("sleep", "60"))
    if section == "process":
        process = bundle.path / "process.json"
        process.write_text(json.dumps(bundle.config["process"] | {name: "label", "args": ["true"]}))
        flag = {"AppArmor": "--apparmor", "SELinux": "--process-label"}[module]
        for words in (("--process", str(process), container), (flag, "label", container, "true")):
            error = cli("exec", *words, code=255).stderr
            assert f"$.process.{name}" in error
            assert f"{module} is not enabled on this host" in error
    cli("delete", "--force", container)
    bundle.config[section][name] = "label"
    refused(cli, bundle, f"$.{section}.{name}", f"{module} is not enabled on this host", tmp_path)


# --- AppArmor ---

PROFILE = """
profile {name} flags=(attach_disconnected) {{
  file,
  capability,
  mount,
  signal,
  ptrace,
  deny /forbidden rwkl,
}}
"""


def apparmor_parser(*words: str, text: str) -> None:
    """Run the parser; in a mount namespace, in which securityfs may be mounted for it."""
    mounted = "mountpoint -q /sys/kernel/security || mount -t securityfs securityfs /sys/kernel/security"
    script = f'{mounted} && apparmor_parser "$@"'
    subprocess.run(["unshare", "-m", "sh", "-ec", script, "sh", *words], input=text, text=True, check=True, timeout=60)


@pytest.fixture
def profile(cli: Cli) -> Iterator[str]:
    """A profile that is loaded: all is allowed but a file. It goes before the containers do."""
    name = f"{fresh_id()}-profile"
    text = PROFILE.format(name=name)
    apparmor_parser("--skip-cache", "--replace", text=text)
    yield name
    apparmor_parser("--remove", text=text)


def confinement(cli: Cli, name: str, flags: tuple[str, ...] = ()) -> list[str]:
    """What an exec reads of its own profile and of the file that the profile forbids."""
    return cli("exec", *flags, name, "sh", "-c", CONFINED).stdout.splitlines()


CONFINED = "cat /proc/self/attr/apparmor/current; cat /forbidden 2>&1; true"
DENIED = "cat: can't open '/forbidden': Permission denied"


@apparmor
@pytest.mark.parametrize("user", [0, 1000])
@pytest.mark.parametrize("no_new_privs", [True, False])
def test_apparmor(cli: Cli, bundle: TestBundle, profile: str, user: int, no_new_privs: bool) -> None:
    """The program and what is executed beside it are confined; whatever their user, with and without
    no_new_privs."""
    (bundle.rootfs / "forbidden").write_text("secret\n")
    bundle.config["process"] |= {"apparmorProfile": profile, "noNewPrivileges": no_new_privs}
    bundle.config["process"]["user"] = {"uid": user, "gid": user}
    confined = [f"{profile} (enforce)", DENIED]
    assert cli.run(bundle.sh(CONFINED)).stdout.splitlines() == confined
    name = cli.start(bundle.args("sleep", "60"))
    assert confinement(cli, name) == confined
    assert confinement(cli, name, ("--apparmor", "unconfined")) == ["unconfined", "secret"]
    cli("delete", "--force", name)
    del bundle.config["process"]["apparmorProfile"]
    name = cli.start(bundle)
    assert confinement(cli, name) == ["unconfined", "secret"]
    assert confinement(cli, name, ("--apparmor", profile)) == confined


@apparmor
def test_apparmor_without_proc(cli: Cli, bundle: TestBundle, profile: str) -> None:
    """The label is written through the host's procfs, whatever the container has at /proc (CVE-2019-16884)."""
    bundle.config["process"]["apparmorProfile"] = profile
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["destination"] != "/proc"]
    (bundle.rootfs / "proc/self/attr/apparmor").mkdir(parents=True)
    (bundle.rootfs / "proc/self/attr/apparmor/exec").touch()
    bundle.config["linux"] |= {"maskedPaths": [], "readonlyPaths": []}
    bundle.config["linux"]["namespaces"].append({"type": "user"})
    for name in ("uidMappings", "gidMappings"):
        bundle.config["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    for path in (bundle.path, *bundle.rootfs.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    for parent in bundle.path.parents:
        if parent.name.startswith(("pytest-", "test_")):
            parent.chmod(0o755)  # root of the user namespace has to pass
    container = cli.start(bundle.args("sleep", "60"))
    pid_file = bundle.path / "pid"
    cli("exec", "--detach", "--pid-file", str(pid_file), container, "sh", "-c", "exec sleep 60 >/dev/null 2>&1")
    for pid in (cli.state(container)["pid"], int(pid_file.read_text())):
        assert Path(f"/proc/{pid}/attr/apparmor/current").read_text() == f"{profile} (enforce)\n"
    assert (bundle.rootfs / "proc/self/attr/apparmor/exec").read_text() == ""


@apparmor
def test_apparmor_and_hooks(cli: Cli, bundle: TestBundle, profile: str) -> None:
    """createContainer hooks run before the label is set, startContainer hooks after, as with runc."""
    bundle.config["process"]["apparmorProfile"] = profile
    hook = {"path": "/bin/sh", "args": ["sh", "-c", f"cat /proc/self/attr/apparmor/current >> {bundle.path}/hook"]}
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "cat /proc/self/attr/apparmor/current >> /hook"]}
    bundle.config["hooks"] = {"createContainer": [hook], "startContainer": [inside]}
    assert cli.run(bundle.args("cat", "/hook")).stdout == f"{profile} (enforce)\n"
    assert (bundle.path / "hook").read_text() == "unconfined\n"


@apparmor
def test_apparmor_profile_not_loaded(cli: Cli, bundle: TestBundle, tmp_path: Path) -> None:
    """A profile that isn't loaded is an error with its name and the config path."""
    bundle.config["process"]["apparmorProfile"] = "no-such-profile"
    refused(cli, bundle, "$.process.apparmorProfile", "no-such-profile", tmp_path)
    refused(cli, bundle, "$.process.apparmorProfile", "no profile of that name is loaded", tmp_path)
    del bundle.config["process"]["apparmorProfile"]
    name = cli.start(bundle.args("sleep", "60"))
    error = cli("exec", "--apparmor", "no-such-profile", name, "true", code=255).stderr
    assert "$.process.apparmorProfile" in error
    assert "no profile of that name is loaded" in error


# --- SELinux: the plan ---


@pytest.fixture
def labelled() -> dict[str, Any]:
    """A config with both labels."""
    config = copy.deepcopy(BASE)
    config["process"]["selinuxLabel"] = LABEL
    config["linux"]["mountLabel"] = MOUNT_LABEL
    return config


def compiled(config: dict[str, Any], cgroups: Any = V2) -> plan.Plan:
    return plan.compile(config, host(cgroups, lsms=("selinux",)), plan.Options("/bundle", "c"))


def test_process_label(labelled: dict[str, Any]) -> None:
    """process.selinuxLabel: for the session keyring and for the exec, as long as the host's /proc is in sight."""
    made = compiled(labelled)
    writes = [("self/attr/keycreate", LABEL), ("self/attr/exec", LABEL)]
    assert find(made, "proc_write") == writes
    assert {op.path for op in made.ops if op.name == "proc_write"} == {"$.process.selinuxLabel"}
    found = names(made)
    assert found[found.index("keyring") - 1] == "proc_write"
    assert found[found.index("pivot_root") - 1] == "proc_write"
    assert find(plan.compile(
        labelled, host(lsms=("selinux",)), plan.Options("/bundle", "c", no_new_keyring=True)
    ), "proc_write") == writes[1:]  # fmt: skip


@pytest.mark.parametrize("module", ["apparmor", "selinux"])
def test_exec_label(module: str) -> None:
    """An exec's label is set before the container's /proc comes in sight."""
    config = copy.deepcopy(BASE)
    config["process"] |= {"apparmorProfile": "p"} if module == "apparmor" else {"selinuxLabel": LABEL}
    made = plan.compile_exec(config, host(lsms=(module,)), plan.Options("/bundle", "c"), 0x20000000)
    file, text = ("self/attr/apparmor/exec", "exec p") if module == "apparmor" else ("self/attr/exec", LABEL)
    found = names(made)
    assert made.ops[0].values == (file, text)
    assert found.index("setns_pidfd") > 0


def test_mount_label(labelled: dict[str, Any]) -> None:
    """linux.mountLabel: a context= option for the file systems that runc gives it to, a queue's root is labelled, and
    proc, sysfs and cgroup are left to the kernel."""
    labelled["mounts"] += [
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
        {"destination": "/sys/fs/cgroup", "type": "cgroup"},
        {"destination": "/bind", "source": "/srv", "options": ["bind"]},
        {"destination": "/old", "type": "ext4", "source": "/dev/x", "options": ["iversion", "noload"]},
    ]
    for cgroups, extra in ((V2, []), (V1, ["tmpfs"])):
        made = compiled(labelled, cgroups)
        new = [(values[1], values[3]) for values in find(made, "new_fs")]
        with_label = [kind for kind, options in new if f"context={MOUNT_LABEL}" in options]
        assert with_label == ["tmpfs", "devpts", "tmpfs", *extra]
        assert not any("context" in option for kind, options in new if kind not in with_label for option in options)
        assert [values[2:] for values in find(made, "file_label")] == [("/dev/mqueue", MOUNT_LABEL)]
        assert [values[4] for values in find(made, "legacy_mount")] == [f'noload,context="{MOUNT_LABEL}"']
        assert {values[3] for values in find(made, "mask")} == {MOUNT_LABEL}
    labelled["linux"]["mountLabel"] = "u:r:t:" + "s" * 250  # more than fsconfig(2) takes
    assert [values[1] for values in find(compiled(labelled), "legacy_mount")] == ["tmpfs", "devpts", "tmpfs", "ext4"]


# --- SELinux: the operations, on a kernel that answers that it has none ---

selinux_off = pytest.mark.skipif("selinux" in ENABLED, reason="/proc/filesystems has selinuxfs: SELinux is enabled")


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host is believed to have SELinux."""
    facts = ocipy_host.facts()
    facts._lsms = frozenset(("selinux",))
    monkeypatch.setattr(ocipy_host, "facts", lambda: facts)


def failure(bundle: TestBundle, tmp_path: Path) -> Error:
    with pytest.raises(Error) as caught:
        Container.create(fresh_id(), str(bundle.save()), root=str(tmp_path / "state"))
    assert nothing_left(tmp_path) == []
    return caught.value


@selinux_off
@pytest.mark.usefixtures("believed")
def test_labels_reach_the_kernel(bundle: TestBundle, tmp_path: Path) -> None:
    """Each label is handed to the kernel; its refusal has the config path, and nothing is left."""
    bundle.config["process"]["selinuxLabel"] = LABEL
    error = failure(bundle, tmp_path)
    assert (error.config_path, error.syscall) == ("$.process.selinuxLabel", "write")
    assert LABEL in str(error)
    del bundle.config["process"]["selinuxLabel"]
    bundle.config["linux"]["mountLabel"] = MOUNT_LABEL
    error = failure(bundle, tmp_path)  # of the tmpfs on /dev
    assert (error.config_path, error.syscall) == ("$.mounts[1]", "fsconfig")
    assert "context" in str(error)
    bundle.config["mounts"] = [m for m in bundle.config["mounts"] if m["type"] in ("proc", "sysfs")]
    (bundle.rootfs / "masked").mkdir()
    bundle.config["linux"]["maskedPaths"] = ["/masked"]
    error = failure(bundle, tmp_path)
    assert (error.config_path, error.syscall) == ("$.linux.maskedPaths[0]", "fsconfig")
    bundle.config["linux"]["maskedPaths"] = []
    bundle.config["mounts"].append({"destination": "/q", "type": "mqueue", "source": "mqueue"})
    error = failure(bundle, tmp_path)
    assert (error.config_path, error.syscall) == ("$.linux.mountLabel", "setxattr")


@selinux_off
def test_file_label(bundle: TestBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operation that labels a message queue, on a tmpfs, which takes the attribute without SELinux."""
    original = plan.compile

    def with_label(*args: Any) -> plan.Plan:
        made = original(*args)
        place = max(index for index, op in enumerate(made.ops) if op.name == "attach")
        made.ops.insert(place + 1, ops.file_label("$.linux.mountLabel", ops.NO_SLOT, 0, "/dev", MOUNT_LABEL))
        return made

    monkeypatch.setattr(plan, "compile", with_label)
    bundle.args("sleep", "60").save()
    with Container.create(fresh_id(), str(bundle.path), root=str(tmp_path / "state")) as container:
        assert container.init is not None
        found = os.getxattr(f"/proc/{container.init.pid}/root/dev", "security.selinux")
        assert found == MOUNT_LABEL.encode()
    assert nothing_left(tmp_path) == []
