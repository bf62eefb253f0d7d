"""config-linux.md#memory-policy: what get_mempolicy(2) says in the container."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import Cli, TestBundle, fresh_id

NODES = Path("/sys/devices/system/node/has_memory")
needs_numa = pytest.mark.skipif(not NODES.exists(), reason=f"no {NODES}: this kernel has no NUMA")
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
RELEASE = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2])
STATIC, RELATIVE, BALANCING = 1 << 15, 1 << 14, 1 << 13

PROGRAM = r"""
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>
int main(void) {
    unsigned long nodes[128] = {0};
    int mode = -1;
    if (syscall(SYS_get_mempolicy, &mode, nodes, 8192ul, NULL, 0ul) < 0) return 9;
    printf("%d %lu\n", mode, nodes[0]);
    return 0;
}
"""


@pytest.fixture
def box(bundle: TestBundle, tmp_path: Path) -> TestBundle:
    """A bundle whose program prints its memory policy, and its nodes as a number."""
    (tmp_path / "p.c").write_text(PROGRAM)
    subprocess.run(["gcc", "-static", "-o", bundle.rootfs / "bin/policy", tmp_path / "p.c"], check=True)
    return bundle.args("policy")


def policy(mode: str, nodes: str = "", *flags: str) -> dict[str, Any]:
    return {"mode": mode} | ({"nodes": nodes} if nodes else {}) | ({"flags": list(flags)} if flags else {})


@needs_numa
@needs_gcc
@pytest.mark.parametrize(
    ("configured", "mode", "nodes", "since"),
    [
        (policy("MPOL_DEFAULT"), 0, 0, (5, 10)),
        (policy("MPOL_PREFERRED", "0"), 1, 1, (5, 10)),
        (policy("MPOL_BIND", "0"), 2, 1, (5, 10)),
        (policy("MPOL_INTERLEAVE", "0"), 3, 1, (5, 10)),
        (policy("MPOL_LOCAL"), 4, 0, (5, 10)),
        (policy("MPOL_PREFERRED"), 4, 0, (5, 14)),  # without nodes it is the local one
        (policy("MPOL_PREFERRED_MANY", "0"), 5, 1, (5, 15)),
        (policy("MPOL_WEIGHTED_INTERLEAVE", "0"), 6, 1, (6, 9)),
        (policy("MPOL_BIND", "0", "MPOL_F_STATIC_NODES"), 2 | STATIC, 1, (5, 10)),
        (policy("MPOL_INTERLEAVE", "70", "MPOL_F_RELATIVE_NODES"), 3 | RELATIVE, None, (5, 10)),
        (policy("MPOL_BIND", "0,0-0", "MPOL_F_NUMA_BALANCING"), 2 | BALANCING, 1, (5, 12)),
        (policy("MPOL_BIND", "0", "MPOL_F_STATIC_NODES", "MPOL_F_NUMA_BALANCING"), 2 | STATIC | BALANCING, 1, (5, 12)),
    ],
)
def test_policy(
    cli: Cli, box: TestBundle, configured: dict[str, Any], mode: int, nodes: int | None, since: tuple[int, int]
) -> None:
    """Every mode and flag that the schema has, as the program finds it; one that this kernel is too old for is an
    error with the config path."""
    box.config["linux"]["memoryPolicy"] = configured
    if since > RELEASE:
        line = cli.run(box, code=1).stderr.splitlines()[-1]
        assert "$.linux.memoryPolicy: can't set memory policy" in line
        return
    found = [int(word) for word in cli.run(box).stdout.split()]
    assert found[0] == mode
    assert nodes is None or found[1] == nodes


@needs_numa
@needs_gcc
def test_unset(cli: Cli, box: TestBundle) -> None:
    """Without one, the program has the caller's."""
    assert cli.run(box).stdout == "0 0\n"


@needs_numa
@needs_gcc
def test_exec(cli: Cli, box: TestBundle) -> None:
    """It holds for what exec runs, too, and shows in numa_maps."""
    box.config["linux"]["memoryPolicy"] = policy("MPOL_BIND", "0")
    name = cli.start(box.args("sleep", "1000"))
    assert cli("exec", name, "policy").stdout == "2 1\n"
    assert " bind:0 " in Path(f"/proc/{cli.state(name)['pid']}/numa_maps").read_text()
    cli("delete", "--force", name)


@needs_numa
def test_missing_node(cli: Cli, bundle: TestBundle) -> None:
    """A node that the host does not have is an error with the config path, before anything is made; the kernel would
    leave it out without a word."""
    bundle.config["linux"]["memoryPolicy"] = policy("MPOL_BIND", "0,700-701")
    done = cli("create", "--bundle", str(bundle.save()), fresh_id(), code=1)
    known = NODES.read_text().strip()
    assert f"$.linux.memoryPolicy.nodes: memory node 701 is not among this host's: {known}" in done.stderr
    assert not cli.root.exists() or not list(cli.root.iterdir())


@needs_numa
def test_refused_by_the_kernel(cli: Cli, bundle: TestBundle) -> None:
    """A flag that does not go with the mode: the kernel's answer, with the config path."""
    bundle.config["linux"]["memoryPolicy"] = policy("MPOL_LOCAL", "", "MPOL_F_STATIC_NODES")
    line = cli.run(bundle, code=1).stderr.splitlines()[-1]
    assert "$.linux.memoryPolicy: can't set memory policy 0x8004: set_mempolicy: invalid argument" in line


@pytest.mark.skipif(NODES.exists(), reason=f"{NODES}: this kernel has NUMA")
def test_no_numa(cli: Cli, bundle: TestBundle) -> None:
    """A kernel without NUMA can't do it, not even the default one, and says so."""
    bundle.config["linux"]["memoryPolicy"] = policy("MPOL_DEFAULT")
    assert "$.linux.memoryPolicy: this kernel has no NUMA memory policies" in cli.run(bundle, code=1).stderr
