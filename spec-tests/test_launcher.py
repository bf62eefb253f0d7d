"""The installed executable: which interpreter and package it runs, and that nothing inherited changes it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import OCIPY

SOURCES = [str(Path(__file__).parent.parent / "native/launcher" / name) for name in ("launcher.c", "fast_path.c")]
PYVER = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
SITE = f"lib/python{PYVER}/site-packages"
SITES = [SITE, f"lib/python{PYVER}/dist-packages", f"local/lib/python{PYVER}/dist-packages",
         "lib/python3/dist-packages"]  # fmt: skip
DEBIAN = "/usr/lib/python3/dist-packages"

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")

MAIN = """
def main():
    import json, os, signal, sys
    json.dump({
        "file": __file__, "argv": [os.fsencode(a).hex() for a in sys.argv], "path": sys.path,
        "flags": {n: getattr(sys.flags, n) for n in (
            "isolated", "no_site", "no_user_site", "ignore_environment", "safe_path", "utf8_mode", "inspect",
            "verbose", "optimize")},
        "modules": sorted(sys.modules), "environ": dict(os.environ), "cwd": os.getcwd(),
        "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])), "fds": os.listdir("/proc/self/fd"),
        "executable": sys.executable,
        "cmdline": open("/proc/self/cmdline", errors="replace").read().split("\\0"),
    }, sys.stdout)
    return 7
"""


def package(site: Path, main: str = MAIN) -> None:
    (site / "ocipy" / "cli").mkdir(parents=True)
    (site / "ocipy" / "__init__.py").touch()
    (site / "ocipy" / "cli" / "__init__.py").touch()
    (site / "ocipy" / "cli" / "main.py").write_text(main)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    where = tmp_path_factory.mktemp("launcher")

    def build(**defines: str) -> Path:
        defines = {"OCIPY_PYTHON": PYTHON, "OCIPY_PYVER": PYVER, **defines}
        out = where / f"launcher-{abs(hash(tuple(defines.items())))}"
        if not out.exists():
            subprocess.run(
                ["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-D_FORTIFY_SOURCE=2",
                 "-fstack-protector-strong", *(f'-D{k}="{v}"' for k, v in defines.items()),
                 *SOURCES, "-o", str(out)],
                check=True,
            )  # fmt: skip
        return out

    return build


@pytest.fixture
def prefix(tmp_path: Path, build: Callable[..., Path]) -> Path:
    """A prefix with bin/ocipy, and no package yet."""
    where = tmp_path / "prefix"
    (where / "bin").mkdir(parents=True)
    shutil.copy(build(), where / "bin" / "ocipy")
    return where


def start(prefix: Path, *args: str | bytes, **more: Any) -> dict[str, Any]:
    exe = str(prefix / "bin" / "ocipy")
    done = subprocess.run([more.pop("argv0", exe), *args], executable=exe, capture_output=True, **more)
    assert (done.returncode, done.stderr) == (7, b"")
    found: dict[str, Any] = json.loads(done.stdout)
    found["argv"] = [bytes.fromhex(a) for a in found["argv"]]
    return found


def failure(prefix: Path) -> str:
    done = subprocess.run([prefix / "bin" / "ocipy"], capture_output=True, text=True)
    assert done.returncode == 127
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_isolated(prefix: Path) -> None:
    package(prefix / SITE)
    found = start(prefix)
    assert found["flags"] == {
        "isolated": 1, "no_site": 1, "no_user_site": 1, "ignore_environment": 1, "safe_path": True,
        "utf8_mode": 1, "inspect": 0, "verbose": 0, "optimize": 0,
    }  # fmt: skip
    assert not {"site", "sitecustomize", "usercustomize"} & set(found["modules"])
    assert os.path.realpath(found["executable"]) == PYTHON
    expected = [str(prefix / SITE)]
    if PYTHON.startswith("/usr/") and os.path.isdir(DEBIAN):
        expected.append(DEBIAN)
    assert found["path"][-len(expected) :] == expected
    assert found["path"][0] not in ("", os.getcwd())


def test_arguments_are_not_the_interpreters(prefix: Path) -> None:
    package(prefix / SITE)
    args = [b"-V", b"--help", b"-c", b"", b"a b", b"\xff\xfe", "ü".encode(), b"-X", b"--"]
    found = start(prefix, *args, argv0="some name")
    assert found["argv"] == [b"some name", *args]
    assert found["cmdline"][-len(args) - 2] == "some name"  # what ps shows
    assert start(prefix, argv0="")["argv"] == [b"ocipy"]


def test_site_directories_in_order(prefix: Path) -> None:
    for site in reversed(SITES):
        package(prefix / site)
        assert start(prefix)["file"] == str(prefix / site / "ocipy/cli/main.py")


def test_default_site_comes_last(prefix: Path, tmp_path: Path, build: Callable[..., Path]) -> None:
    default = tmp_path / "default"
    package(default)
    shutil.copy(build(OCIPY_SITE=str(default)), prefix / "bin" / "ocipy")
    assert start(prefix)["file"].startswith(str(default))
    package(prefix / SITES[-1])
    assert start(prefix)["file"].startswith(str(prefix))


def test_another_module(prefix: Path, build: Callable[..., Path]) -> None:
    package(prefix / SITE)
    (prefix / SITE / "ocipy" / "shim.py").write_text("def main(): return 5\n")
    shutil.copy(build(OCIPY_MODULE="ocipy.shim"), prefix / "bin" / "ocipy")
    assert subprocess.run([prefix / "bin" / "ocipy"]).returncode == 5


def test_interpreter_beside_it(prefix: Path) -> None:
    package(prefix / SITE)
    beside = prefix / "bin" / f"python{PYVER}"
    beside.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@"\n')
    assert os.path.realpath(start(prefix)["executable"]) == PYTHON  # it can't be executed
    beside.chmod(0o755)
    done = subprocess.run([prefix / "bin" / "ocipy", "state", "x"], capture_output=True, text=True)
    words = done.stdout.split("|")
    assert words[:6] == [str(beside), "-I", "-S", "-X", "utf8", "-c"]
    assert words[7:] == [str(prefix / SITE), str(prefix / "bin" / "ocipy"), "state", "x", ""]


def test_environment_has_no_influence(prefix: Path, tmp_path: Path) -> None:
    package(prefix / SITE)
    evil = tmp_path / "evil"
    package(evil, "raise SystemExit('evil')")
    (evil / "json.py").write_text("raise SystemExit('evil json')")
    for name in ("sitecustomize.py", "usercustomize.py", "startup.py"):
        (evil / name).write_text("raise SystemExit('evil customize')")
    user = evil / ".local" / "lib" / f"python{PYVER}" / "site-packages"
    user.mkdir(parents=True)
    (user / "usercustomize.py").write_text("raise SystemExit('evil user')")
    (user / "evil.pth").write_text("import os; os._exit(99)\n")
    for name in ("python3", f"python{PYVER}"):
        (evil / name).write_text("#!/bin/sh\nexit 98\n")
        (evil / name).chmod(0o755)
    (evil / "pyvenv.cfg").write_text(f"home = {evil}\n")
    plain = start(prefix, cwd=evil)
    environ = {
        "PYTHONPATH": str(evil), "PYTHONHOME": str(evil), "PYTHONSTARTUP": str(evil / "startup.py"),
        "PYTHONUSERBASE": str(evil / ".local"), "PYTHONINSPECT": "1", "PYTHONVERBOSE": "1",
        "PYTHONOPTIMIZE": "2", "PYTHONPLATLIBDIR": "evil", "PYTHONUTF8": "0",
        "PYTHONWARNINGS": "error", "HOME": str(evil), "PATH": f"{evil}:/usr/bin:/bin", "LC_ALL": "C",
    }  # fmt: skip
    followed = dict.fromkeys(("PYTHONEXECUTABLE", "__PYVENV_LAUNCHER__"), str(evil / "python3"))  # by -I too
    found = start(prefix, cwd=evil, env=environ | followed, argv0=str(evil / "bin" / "ocipy"))
    assert found["environ"] == environ
    for same in ("file", "path", "flags", "executable", "modules"):
        assert found[same] == plain[same]


@pytest.mark.parametrize("environ", [{}, {"LANG": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LC_ALL": "C", "A": "ü"}])
def test_environment_is_passed_on(prefix: Path, environ: dict[str, str]) -> None:
    package(prefix / SITE)
    assert start(prefix, env=environ)["environ"] == environ


def test_descriptors_directory_and_signal_mask_are_passed_on(prefix: Path, tmp_path: Path) -> None:
    package(prefix / SITE)
    fd = os.open(tmp_path, os.O_RDONLY)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        found = start(prefix, cwd=tmp_path, pass_fds=[fd])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.close(fd)
    assert str(fd) in found["fds"]
    assert len(found["fds"]) == 5  # 0, 1, 2, that one, and the listing
    assert found["cwd"] == str(tmp_path)
    assert signal.SIGUSR1 in found["mask"]


def test_symbolic_links_are_followed(prefix: Path, tmp_path: Path) -> None:
    package(prefix / SITE)
    link = tmp_path / "ocipy"
    link.symlink_to(prefix / "bin" / "ocipy")
    done = subprocess.run([link], stdout=subprocess.PIPE)
    assert json.loads(done.stdout)["file"].startswith(str(prefix))


def test_no_package(prefix: Path) -> None:
    """It says which executable that is, each place where it looked, and what to do; in the last line."""
    line = failure(prefix)
    where = ", ".join(f"{prefix}/{site}" for site in SITES)
    assert line.endswith(
        f": there is no Python package to {prefix}/bin/ocipy, which may be a copy of the installed executable (looked"
        f" for ocipy in {where}): make it a symbolic link to that one, or install ocipy here with pip\n"
    )



def test_copied(tmp_path: Path) -> None:
    """The installed executable, copied to another directory, says so of itself; a symbolic link works."""
    (tmp_path / "copy/bin").mkdir(parents=True)
    copy, link = tmp_path / "copy/bin/runc", tmp_path / "runc"
    shutil.copy(OCIPY, copy)
    done = subprocess.run([copy, "--version"], capture_output=True, text=True)
    assert done.returncode == 127
    [line] = done.stderr.splitlines()
    assert line.startswith(f"{copy}: there is no Python package to {copy}, which may be a copy of the installed")
    assert f"(looked for ocipy in {tmp_path}/copy/{SITE}," in line
    link.symlink_to(OCIPY)
    done = subprocess.run([link, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_interpreter(prefix: Path, build: Callable[..., Path]) -> None:
    package(prefix / SITE)
    shutil.copy(build(OCIPY_PYTHON="/no/python"), prefix / "bin" / "ocipy")
    assert "cannot execute /no/python: No such file or directory" in failure(prefix)


@pytest.mark.parametrize("length", [4000, 5000])
def test_too_deep_a_prefix(tmp_path: Path, build: Callable[..., Path], length: int) -> None:
    """At 4000 bytes /proc/self/exe can be read and what is below the prefix not be named; at 5000 neither."""
    top = tmp_path / "deep"
    top.mkdir()
    fd = os.open(top, os.O_PATH)
    depth = len(str(top))
    try:
        while depth < length:
            name = "d" * min(200, max(1, length - depth - 1))
            os.mkdir(name, dir_fd=fd)
            below = os.open(name, os.O_PATH, dir_fd=fd)
            os.close(fd)
            fd, depth = below, depth + len(name) + 1
        os.mkdir("bin", dir_fd=fd)
        out = os.open("bin/ocipy", os.O_WRONLY | os.O_CREAT, 0o755, dir_fd=fd)
        with open(out, "wb") as file:
            file.write(build(OCIPY_PYTHON="/no/python").read_bytes())
        exe = f"/proc/self/fd/{fd}/bin/ocipy"
        done = subprocess.run([exe], pass_fds=[fd], capture_output=True, text=True)
    finally:
        os.close(fd)
        subprocess.run(["rm", "-rf", "--one-file-system", top], check=True)
    assert done.returncode == 127
    assert ("looked for" if length == 4000 else "/proc/self/exe") in done.stderr
