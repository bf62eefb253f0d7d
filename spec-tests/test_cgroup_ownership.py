"""config-linux.md#cgroup-ownership: whose the container's cgroup is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle

from ocipy import host

V2 = host.cgroups().mode == "v2"
needs_v2 = pytest.mark.skipif(not V2, reason=f"cgroup {host.cgroups().mode}, not v2")
ROOT, USER = 100000, 101000


def configure(bundle: TestBundle, *, userns: bool = True, **mount: Any) -> None:
    """A cgroup namespace, and the cgroup file system mounted to be written to."""
    linux = bundle.config["linux"]
    linux["namespaces"].append({"type": "cgroup"})
    if userns:
        linux["namespaces"].append({"type": "user"})
        linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": ROOT, "size": 65536}]
        bundle.path.chmod(0o755)
        for parent in bundle.path.parents[:3]:
            parent.chmod(0o755)
    bundle.config["mounts"].append(
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid"]} | mount
    )


def owners(cli: Cli, bundle: TestBundle) -> dict[str, int]:
    """The owner of the cgroup2 directory (or of any v1 one) of a container with this config, and of its files."""
    name = cli.create(bundle.args("sleep", "60"))
    lines = Path(f"/proc/{cli.state(name)['pid']}/cgroup").read_text().splitlines()
    found = {}
    for hierarchy in host.cgroups().hierarchies:
        key = hierarchy.controllers[0] if hierarchy.controllers else ""
        path = next(line.split(":", 2)[2] for line in lines if key in line.split(":")[1].split(","))
        directory = Path(hierarchy.mountpoint + path)
        for file in (directory, *directory.iterdir()):
            found[f"{key}/{file.name if file != directory else ''}"] = file.stat().st_uid
    cli("delete", "--force", name)
    return found


@pytest.mark.spec("config-linux#cgroup-ownership-3", "config-linux#cgroup-ownership-4")
@needs_v2
@pytest.mark.parametrize(
    ("uid", "userns", "owner"), [(0, True, ROOT), (1000, True, USER), (0, False, 0), (1000, False, 1000)]
)
def test_owner(cli: Cli, bundle: TestBundle, uid: int, userns: bool, owner: int) -> None:
    """The directory, and the files that the kernel lists, belong to the host's uid of process.user.uid."""
    configure(bundle, userns=userns)
    bundle.config["process"]["user"]["uid"] = uid
    delegated = {f"/{name}" for name in Path("/sys/kernel/cgroup/delegate").read_text().split()} | {"/"}
    found = owners(cli, bundle)
    assert len(found) > len(delegated)
    assert {"/", "/cgroup.procs", "/cgroup.subtree_control", "/cgroup.threads"} <= delegated
    assert found == {name: owner if name in delegated else 0 for name in found}


@pytest.mark.spec(
    "config-linux#cgroup-ownership-1", "config-linux#cgroup-ownership-2", "config-linux#cgroup-ownership-3"
)
@pytest.mark.parametrize(
    ("change", "mount"),
    [
        ("", {"options": ["ro"]}),
        ("", {"source": "none"}),
        ("", {"destination": "/tmp"}),
        ("no mount", {}),
        ("no namespace", {}),
        *(() if V2 else [("", {})]),
    ],
)
def test_the_owner_stays(cli: Cli, bundle: TestBundle, change: str, mount: dict[str, Any]) -> None:
    """Without such a mount, or a new cgroup namespace, it does not change; on v1 it never does."""
    configure(bundle, **mount)
    if change == "no mount":
        bundle.config["mounts"].pop()
    elif change == "no namespace":
        bundle.config["linux"]["namespaces"].remove({"type": "cgroup"})
    assert set(owners(cli, bundle).values()) == {0}


@needs_v2
def test_the_containers_root_makes_a_cgroup(cli: Cli, bundle: TestBundle) -> None:
    """It makes cgroups in its own and puts processes there, as a container's systemd does; its own limits are not
    its to change."""
    configure(bundle)
    bundle.config["linux"]["resources"] = {"pids": {"limit": 50}}
    done = cli.run(
        bundle.sh(
            "cd /sys/fs/cgroup && mkdir sub && echo 0 > sub/cgroup.procs && cat /proc/self/cgroup"
            " && echo +pids > cgroup.subtree_control && echo 20 > sub/pids.max && cat sub/pids.max"
            " && ! (echo max > pids.max) 2>/dev/null && cat pids.max"
        )
    )
    assert done.stdout.split() == ["0::/sub", "20", "50"]
