"""A create that is refused leaves a cgroup alone that was there before it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, cgroups_left, fresh_id

from ocipy import Container, cgroups, host
from ocipy.cgroups.base import Cgroup
from ocipy.errors import CgroupError
from ocipy.store.record import Record


@pytest.fixture(name="found")
def found_fixture(bundle: TestBundle) -> Iterator[Cgroup]:
    """A cgroup that somebody else has made, with a setting; the bundle's container is to go there."""
    path = f"/{fresh_id()}"
    bundle.config["linux"]["cgroupsPath"] = path
    made = cgroups.select(path, "id")
    made.create()
    setting(made).write_text("77")
    yield made
    made.delete()


def setting(cgroup: Cgroup) -> Path:
    return Path(cgroup.paths.get("pids") or cgroup.paths[""], "pids.max")


def missing_source(bundle: TestBundle) -> None:
    bundle.config["mounts"].append({"destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"]})


def refused_limit(bundle: TestBundle) -> None:
    bundle.config["linux"]["resources"] = {"cpu": {"cpus": "100000"}}


def failing_hook(bundle: TestBundle) -> None:
    bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}


def nothing_to_run(bundle: TestBundle) -> None:
    bundle.args("/missing")


REASONS = [missing_source, refused_limit, failing_hook, nothing_to_run]


def refused(cli: Cli, bundle: TestBundle) -> str:
    name = fresh_id()
    said = cli("create", "--bundle", str(bundle.save()), name, code=1).stderr
    assert "is left" not in said
    assert not (cli.root / name).exists()
    return str(said)


@pytest.mark.parametrize("reason", REASONS)
def test_it_stays(cli: Cli, bundle: TestBundle, found: Cgroup, reason: Callable[[TestBundle], None]) -> None:
    """Whatever the reason, in each hierarchy, with what nobody asked to change; and it can be used then."""
    reason(bundle)
    refused(cli, bundle)
    assert all(Path(directory).exists() for directory in found.paths.values())
    assert setting(found).read_text() == "77\n"
    assert found.pids() == []
    bundle.config.pop("hooks", None)
    bundle.config["linux"].pop("resources", None)
    bundle.config["mounts"] = [mount for mount in bundle.config["mounts"] if mount["destination"] != "/x"]
    name = cli.create(bundle.args("sleep", "1000"))
    assert found.pids() == [cli.state(name)["pid"]]
    cli("delete", "--force", name)
    assert not found.exists()  # a container's cgroup goes with it, as with runc (docs/conformance.md)


@pytest.mark.parametrize("reason", REASONS)
def test_what_is_below_it_stays(
    cli: Cli, bundle: TestBundle, found: Cgroup, reason: Callable[[TestBundle], None]
) -> None:
    below = found.below({"": "below"})
    below.create()
    reason(bundle)
    refused(cli, bundle)
    assert all(Path(directory).exists() for directory in below.paths.values())


@pytest.mark.skipif(host.cgroups().mode == "v2", reason="there is one hierarchy")
@pytest.mark.parametrize("reason", REASONS)
def test_one_hierarchy(cli: Cli, bundle: TestBundle, reason: Callable[[TestBundle], None]) -> None:
    """One that was there in one hierarchy stays there; in the others, it is removed again."""
    name = fresh_id()
    bundle.config["linux"]["cgroupsPath"] = f"/{name}"
    made = Path(cgroups.select(f"/{name}", "id").paths["pids"])
    made.mkdir()
    reason(bundle)
    try:
        refused(cli, bundle)
        assert [path for path in cgroups_left() if path.endswith(f"/{name}")] == [str(made)]
    finally:
        made.rmdir()


@pytest.mark.parametrize("reason", REASONS)
def test_a_new_one_goes(cli: Cli, bundle: TestBundle, reason: Callable[[TestBundle], None]) -> None:
    reason(bundle)
    refused(cli, bundle)
    assert cgroups_left() == []


def test_a_frozen_one_stays_frozen(cli: Cli, bundle: TestBundle, found: Cgroup) -> None:
    """It is refused, since its first process would do nothing, and nobody has asked for it to be thawed."""
    found.freeze(True)
    assert "unexpectedly frozen" in refused(cli, bundle)
    assert found.frozen()
    found.freeze(False)


def test_one_in_use(cli: Cli, bundle: TestBundle, found: Cgroup) -> None:
    """Its processes stay as well."""
    other = subprocess.Popen(["sleep", "1000"])
    try:
        found.add(other.pid)
        assert "is not empty" in refused(cli, bundle)
        assert found.pids() == [other.pid]
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_one_in_use_is_not_recorded(tmp_path: Path, bundle: TestBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record of it, left by a create that is killed at once, would have `delete --force` kill what is in there."""
    bundle.config["linux"]["cgroupsPath"] = path = f"/{fresh_id()}"
    cgroup = cgroups.select(path, "id")
    cgroup.create()
    other = subprocess.Popen(["sleep", "1000"])
    saved: list[Record] = []
    try:
        cgroup.add(other.pid)
        monkeypatch.setattr(Record, "save", saved.append)
        with pytest.raises(CgroupError):
            Container.create(fresh_id(), str(bundle.save()), root=str(tmp_path / "state"))
        assert saved == []
    finally:
        other.kill()
        other.wait()
        cgroup.delete()


def test_undo_removes_only_what_was_made() -> None:
    """The driver alone. The record then names nothing any more that `delete` would remove."""
    path = f"/{fresh_id()}"
    first = cgroups.select(path, "id")
    first.create()
    second = cgroups.select(path, "id")
    second.create()
    record = second.record()
    second.undo()
    assert record["paths"] == {}
    assert first.exists()
    busy = subprocess.Popen(["sleep", "1000"])
    try:
        (below := first.below({"": "below"})).create()
        below.add(busy.pid)
        directories = list(first.paths.values())
        first.undo()
    finally:
        busy.kill()
        busy.wait()
    assert not any(Path(directory).exists() for directory in directories)
