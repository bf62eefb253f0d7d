"""kill and delete of several containers at once, by a regular expression (``--regex``)."""

from __future__ import annotations

from collections.abc import Callable

from conftest import Cli, TestBundle, fresh_id


def test_kill_and_delete(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """Those that match are signalled and removed, and no others; as with grep a part of the id is enough."""
    base = fresh_id()
    names = [f"{base}-{end}" for end in ("web.1", "web.2", "db")]
    for name in names:
        cli.create(make_bundle().args("sleep", "100"), name=name)
        cli("start", name)
    cli("kill", "--regex", r"web\.[0-9]$", "KILL")
    for name in names[:2]:
        cli.wait_for(name, "stopped")
    assert cli.state(names[2])["status"] == "running"
    cli("delete", "--regex", f"^{base}-web")
    assert cli("list", "--quiet").stdout.split() == [names[2]]
    cli("delete", "--force", "--regex", ".")
    assert cli("list", "--quiet").stdout == ""


def test_one_fails(cli: Cli, make_bundle: Callable[[], TestBundle]) -> None:
    """The others have their turn; the error names the one, and the exit status says that there was one."""
    base = fresh_id()
    for end in "a", "b", "c":
        cli.create(make_bundle().args("sleep", "100"), name=f"{base}-{end}")
    cli("start", f"{base}-b")
    done = cli("delete", "--regex", base, code=1)
    assert [line for line in done.stderr.splitlines() if "ocipy: " in line] == [done.stderr.strip()]
    assert f"{base}-b" in done.stderr
    assert cli("list", "--quiet").stdout.split() == [f"{base}-b"]


def test_no_match(cli: Cli, bundle: TestBundle) -> None:
    """None that matches is no error, as it is none for grep's reader."""
    name = cli.create(bundle)
    cli("kill", "--regex", "^nobody$", "KILL")
    assert cli.state(name)["status"] == "created"


def test_bad_expression(cli: Cli) -> None:
    for command in "kill", "delete":
        done = cli(command, "--regex", "a(", code=1)
        assert done.stderr.startswith("ocipy: --regex: 'a(': ")
