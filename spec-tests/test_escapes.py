"""What reaches a terminal or a log by way of ocipy has nothing in it that a terminal obeys."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from conftest import Cli, TestBundle, fresh_id

#: of C0, DEL, of C1 (as UTF-8), letters that turn the direction of writing, and the end of a line that is none
EVIL = "\x1b]0;owned\x07\r\b\x7f\x9b2J\u202e\u2066\u2028"
SAFE = r"\x1b]0;owned\x07\r\x08\x7f\x9b2J\u202e\u2066\u2028"


def fine(text: str) -> bool:
    """Whether a terminal shows all of it as it is."""
    return all(letter.isprintable() or letter in "\n\t" for letter in text)


def failing(cli: Cli, bundle: TestBundle, what: str, *flags: str) -> str:
    """The words of a create that fails, with the letters in what it has to say."""
    if what == "image":  # a path that is looked up in it
        bundle.args("/missing" + EVIL)
    elif what == "config":
        mount = {"destination": "/x", "type": "bind", "source": "/no" + EVIL, "options": ["bind"]}
        bundle.config["mounts"].append(mount)
    elif what == "property":
        bundle.config["linux"]["sysctl"] = {EVIL: "1"}
    else:
        script = bundle.path / "hook"
        script.write_text(f"#!/bin/sh\nprintf '%s\\n' 'first\x1b[1m' '{EVIL}\tlast'\nexit 3\n")
        script.chmod(0o755)
        bundle.config["hooks"] = {what: [{"path": str(script)}]}
    return str(cli(*flags, "run", "--bundle", str(bundle.save()), fresh_id(), code=1).stderr)


@pytest.mark.parametrize("what", ["image", "config", "property", "createRuntime"])
def test_errors(cli: Cli, bundle: TestBundle, what: str) -> None:
    """Text of an image, of a config or of a hook in an error."""
    said = failing(cli, bundle, what)
    assert fine(said), ascii(said)
    assert SAFE in said or what == "property"  # of which the config path is written as JSON would
    if what == "createRuntime":  # the lines of its output are told apart as before
        assert said.endswith(r"first\x1b[1m | " + SAFE + "\tlast\n")


def test_notes_and_warnings(cli: Cli, bundle: TestBundle) -> None:
    """Text of a poststop hook, which is a note if the create fails, and a warning if the container is deleted."""
    script = bundle.path / "hook"
    script.write_text(f"#!/bin/sh\nprintf '%s\\n' '{EVIL}.'\nexit 3\n")
    script.chmod(0o755)
    bundle.config["hooks"] = {"poststop": [{"path": str(script)}], "createRuntime": [{"path": "/bin/false"}]}
    said = cli.run(bundle, code=1).stderr
    assert fine(said), ascii(said)
    assert SAFE in said.splitlines()[0]
    del bundle.config["hooks"]["createRuntime"]
    said = cli.run(bundle, code=0).stderr
    assert fine(said), ascii(said)
    assert f"warning: $.hooks.poststop[0]: hook {script} exited with status 3: {SAFE}" in said


@pytest.mark.parametrize("form", ["text", "json"])
def test_logs(cli: Cli, bundle: TestBundle, tmp_path: Path, form: str) -> None:
    """In the text log they are escaped, too; in that of JSON it is text like any other, but nothing that a terminal
    obeys if somebody looks at it."""
    log = tmp_path / "log"
    failing(cli, bundle, "config", "--log", str(log), "--log-format", form)
    text = log.read_text()
    assert fine(text), ascii(text)
    if form == "json":
        assert SAFE in json.loads(text)["msg"]


def test_bytes_that_are_no_text(cli: Cli, tmp_path: Path) -> None:
    """Words of the command line that are not UTF-8 are told of, in a log as well."""
    log = tmp_path / "log"
    path = os.fsdecode(b"/no\x9b\xff")
    for form in "text", "json":
        said = cli("--log", str(log), "--log-format", form, "create", "-b", path, "x", code=1)
        assert r"/no\udc9b\udcff" in said.stderr
    lines = log.read_text().splitlines()
    assert len(lines) == 2
    assert "udc9b" in lines[0]
    assert "udc9b" in json.loads(lines[1])["msg"]


def test_a_bad_flag(cli: Cli) -> None:
    """The words of the command line are others' as well."""
    said = cli("state", f"--{EVIL}", "x", code=1).stderr
    assert fine(said), ascii(said)


def test_validate(cli: Cli, bundle: TestBundle) -> None:
    """The faults that validate lists, on standard output."""
    bundle.config[EVIL] = 1
    bundle.config["mounts"].append({"destination": EVIL, "type": 7})
    done = cli("validate", "--bundle", str(bundle.save()), code=None)
    assert fine(done.stdout + done.stderr), ascii(done.stdout + done.stderr)
