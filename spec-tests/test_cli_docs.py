"""What is made of the command line's definition: the table of flags, man pages, completion."""

from __future__ import annotations

import runpy
import subprocess
from pathlib import Path

import pytest
from conftest import Cli

from ocipy.cli import main

MADE = runpy.run_path(str(Path(__file__).parent.parent / "tools" / "make_cli_docs.py"))
FILES: dict[Path, str] = MADE["files"]()
TESTS = MADE["Tests"](Path(__file__).parent)
COMPLETION = next(path for path in FILES if path.name == "ocipy.bash")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_up_to_date(path: Path) -> None:
    """The file is what tools/make_cli_docs.py writes."""
    assert path.read_text(encoding="utf-8") == FILES[path], "run `make docs`"


def test_nothing_stale() -> None:
    """No page of a command that is gone."""
    for directory in {path.parent for path in FILES if path.parent.name in ("man", "completion")}:
        assert set(directory.iterdir()) <= FILES.keys()


@pytest.mark.parametrize("name", ["", *main.COMMANDS])
def test_every_flag_is_tested(name: str) -> None:
    """Each flag of each command, and the command itself, is used by a test."""
    command = MADE["COMMANDS"][name] if name else main.GLOBAL
    assert not name or TESTS.of(name)
    assert [flag.names[0] for flag in command.flags if not TESTS.of(name, flag)] == []


def test_every_flag_is_completed() -> None:
    """Each completion has each command and each of its flags."""
    for path, text in FILES.items():
        if path.parent.name != "completion":
            continue
        for command in (main.GLOBAL, *MADE["COMMANDS"].values()):
            lines = [line for line in text.splitlines() if command.name in line]
            for flag in command.flags:
                wanted = f"-l {flag.names[0]}" if path.suffix == ".fish" else f"--{flag.names[0]}"
                assert any(wanted in line for line in lines), (path.name, command.name, wanted)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cr"], {"create"}),
        (["--log-format", ""], {"json", "text"}),
        (["--debug", "create", "--pidf"], {"--pidfd-socket"}),
        (["list", "--format", "j"], {"json"}),
        (["--log", "/x", "pause", "box"], {"box-one", "box-two"}),
        (["--log", "=", "/x", "pause", "box"], {"box-one", "box-two"}),
        (["--log-format", "=", "j"], {"json"}),
        (["--log-format", "="], {"json", "text"}),
        (["help", "cr"], {"create"}),
        (["create", "--bundle", "/proc/self/stat"], {"/proc/self/stat", "/proc/self/statm", "/proc/self/status"}),
    ],
)
def test_bash(cli: Cli, tmp_path: Path, words: list[str], expected: set[str]) -> None:
    """bash offers commands, flags, choices, files, and the ids of the containers below the root that was given;
    also where it has parted words at an equals sign."""
    for name in "box-one", "box-two", "other":
        (cli.root / name).mkdir(parents=True)  # as one whose creator was killed is
    line = ["ocipy", "--root", str(cli.root), *words]
    quoted = " ".join(f"'{word}'" for word in line)
    script = (
        f"PATH={tmp_path}:$PATH; . '{COMPLETION}'; COMP_WORDS=({quoted}); COMP_CWORD={len(line) - 1}; _ocipy; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    (tmp_path / "ocipy").symlink_to(cli.command()[0])
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected, done.stderr
