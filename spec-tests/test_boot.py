"""The installed executable with its interpreter embedded: modules from the pack, all else as with an ordinary one.

The executable under test is the installed one, copied to a prefix with a package of the test's own.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_launcher import MAIN, PYTHON, SITE, package

TOP = Path(__file__).parent.parent
INSTALLED = Path(sys.executable).parent / "ocipy"

#: what the core alone has to do with
CORE = """
import sys
def main():
    sys.stdout.write("core\\n" if "encodings" not in sys.modules else "complete\\n")
    sys.stderr.write("é\\n")
    return 3
"""


def embedded() -> bool:
    """Whether the installed executable has an interpreter in it: its build says so by its size."""
    return b"_ocipy_launcher" in INSTALLED.read_bytes()


pytestmark = pytest.mark.skipif(
    not INSTALLED.exists() or not embedded(),
    reason=f"{INSTALLED} has no embedded interpreter: the one that built it has no static library",
)


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    where = tmp_path / "prefix"
    (where / "bin").mkdir(parents=True)
    shutil.copy(INSTALLED, where / "bin" / "ocipy")
    return where


def pack(prefix: Path, main: str) -> Path:
    """A package and its pack; the file of the main module is then made useless, to tell the two apart."""
    package(prefix / SITE, main)
    (prefix / SITE / "ocipy/faststart").mkdir()
    (prefix / SITE / "ocipy/faststart/boot.py").write_text((TOP / "ocipy/faststart/boot.py").read_text())
    runpy.run_path(str(TOP / "tools" / "make_pack.py"))["write"](prefix / SITE / "ocipy")
    (prefix / SITE / "ocipy" / "cli" / "main.py").write_text("def main():\n    print('from the file')\n")
    return prefix / SITE / "ocipy" / "_pack.bin"


def run(prefix: Path, *args: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([prefix / "bin" / "ocipy", *args], capture_output=True, text=True, timeout=30, **more)


def test_core_is_enough(prefix: Path) -> None:
    """A command that imports nothing but packed and built-in modules runs before encodings are imported."""
    pack(prefix, CORE)
    done = run(prefix)
    assert (done.returncode, done.stdout, done.stderr) == (3, "core\n", "é\n")


def test_other_imports_complete_the_interpreter(prefix: Path) -> None:
    """After the first import from elsewhere it is the interpreter that -I -S -X utf8 starts."""
    pack(prefix, MAIN)
    done = run(prefix, "a", "é", "--flag")
    assert done.returncode == 7
    found = json.loads(done.stdout)
    assert found["flags"] == {
        "isolated": 1, "no_site": 1, "no_user_site": 1, "ignore_environment": 1, "safe_path": True,
        "utf8_mode": 1, "inspect": 0, "verbose": 0, "optimize": 0,
    }  # fmt: skip
    assert [bytes.fromhex(a).decode() for a in found["argv"]][1:] == ["a", "é", "--flag"]
    assert str(prefix / SITE) in found["path"]
    assert not [entry for entry in found["path"] if entry in ("", os.getcwd())]
    (prefix / SITE / "ocipy/cli/main.py").write_text(MAIN)
    assert found["path"] == json.loads(run(prefix, "--debug").stdout)["path"]  # Debian's own packages are in it as well
    assert not {"site", "sitecustomize", "usercustomize"} & set(found["modules"])
    assert os.path.realpath(found["executable"]) == PYTHON


def test_codecs_before_the_interpreter_is_complete(prefix: Path) -> None:
    """A text that can't be decoded looks a codec up: in the core, and the interpreter is completed after that."""
    pack(prefix, """
import sys
def main():
    try:
        b"\\xff".decode("utf-8")
    except UnicodeDecodeError as error:
        sys.stdout.write(f"{error.start}\\n")
    import json, encodings.latin_1
    print(json.dumps("é".encode("latin-1").decode("latin-1"), ensure_ascii=False))
    return 0
""")
    done = run(prefix)
    assert (done.returncode, done.stdout, done.stderr) == (0, '0\n"é"\n', "")


def test_environment_has_no_influence(prefix: Path, tmp_path: Path) -> None:
    """Not a PYTHON* variable, nor the module of a directory that one names, nor the working directory."""
    pack(prefix, MAIN)
    evil = tmp_path / "evil"
    evil.mkdir()
    for name in ("json", "sitecustomize", "usercustomize", "encodings", "os"):
        (evil / f"{name}.py").write_text("raise SystemExit('evil')")
    plain = json.loads(run(prefix).stdout)
    environ = os.environ | {
        "PYTHONPATH": str(evil), "PYTHONHOME": str(evil), "PYTHONSTARTUP": str(evil / "os.py"), "PYTHONVERBOSE": "1",
        "PYTHONINSPECT": "1", "PYTHONEXECUTABLE": str(evil / "python3"), "__PYVENV_LAUNCHER__": str(evil / "python3"),
        "PYTHONPLATLIBDIR": str(evil), "PYTHONUSERBASE": str(evil),
    }  # fmt: skip
    found = json.loads(run(prefix, env=environ, cwd=evil).stdout)
    for same in ("file", "path", "flags", "executable", "modules"):
        assert found[same] == plain[same]


@pytest.mark.parametrize("damage", ["magic", "short", "empty", "missing", "debug"])
def test_without_a_fitting_pack_the_files_are_imported(prefix: Path, damage: str) -> None:
    """A pack for another interpreter, a damaged one, none; and --debug, whose tracebacks need line numbers."""
    file = pack(prefix, CORE)
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage != "debug":
        file.write_bytes({"magic": b"\0\0\r\n" + data[4:], "short": data[:6], "empty": b""}[damage])
    done = run(prefix, *(["--debug"] if damage == "debug" else []))
    assert done.stdout == "from the file\n"


def test_interrupt_is_an_exception(prefix: Path) -> None:
    """SIGINT raises KeyboardInterrupt in the core as well, so that what was begun can be undone."""
    pack(prefix, """
import sys
from time import sleep
def main():
    try:
        sys.stdout.write("ready\\n")
        sleep(60)
    except KeyboardInterrupt:
        sys.stdout.write("undone\\n")
        return 130
""")
    ours = signal.signal(signal.SIGINT, signal.SIG_DFL)  # what runs in the background may have inherited it ignored
    process = subprocess.Popen([prefix / "bin" / "ocipy"], stdout=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, ours)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.read() == "undone\n"
    assert process.wait(30) == 130
    process.stdout.close()


def test_error_has_a_traceback(prefix: Path) -> None:
    """What nothing catches is reported, and the exit status says so."""
    pack(prefix, "def main():\n    raise RuntimeError('broken')\n")
    done = run(prefix)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: broken"
