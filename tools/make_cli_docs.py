#!/usr/bin/env python3
"""Writes what is made of the command line's definition (``COMMAND`` of each ``ocipy/cli/*.py``):

- ``docs/commands.md``: every command and flag, and the tests that use it;
- ``docs/man/*.8``: man pages;
- ``docs/completion/*``: completion for bash, zsh and fish.

Needs the installed package. A test (spec-tests/test_cli_docs.py) holds these files to the definition.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from ocipy.cli import main
from ocipy.cli.parser import Command, Flag, usage
from ocipy.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "spec-tests"
SHOWN = 3  # tests for a flag, at most

COMMANDS: dict[str, Command] = {
    name: __import__(f"ocipy.cli.{name}", fromlist=["COMMAND"]).COMMAND for name in main.COMMANDS
}


# --- the tests of a flag ---


class Tests:
    """Which test uses which words: string constants in it, in what decorates it, and in the helpers and constants
    of its file that it uses. A command line written as one string (for a shell) counts by its long flags;
    ``cli.create(…)``, ``dump.restore(…)`` and the like are the command."""

    def __init__(self, directory: Path) -> None:
        self.words: dict[str, set[str]] = {}
        for file in sorted(set(directory.glob("test_*.py")) - {directory / "test_cli_docs.py"}):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            known: dict[str, ast.stmt] = {}
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef):
                    known[node.name] = node
            for node in tree.body:
                if isinstance(node, ast.Assign | ast.AnnAssign):
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    known |= {target.id: node for target in targets if isinstance(target, ast.Name)}
            for name in known:
                if name.startswith("test_"):
                    self.words[f"{file.name}::{name}"] = self._used(name, known, set())

    def _used(self, name: str, known: dict[str, ast.stmt], seen: set[str]) -> set[str]:
        seen.add(name)
        found = set()
        parts: list[ast.AST] = [known[name]]
        if isinstance(function := known[name], ast.FunctionDef):  # without its docstring
            parts = [*function.body[bool(ast.get_docstring(function)) :], *function.decorator_list]
        for node in (inner for part in parts for inner in ast.walk(part)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
                words = node.value.split()
                found |= {word.partition("=")[0] for word in words if word.startswith("--")}
                found |= set(words[:2]) if len(words) > 1 and "--" in node.value else set()
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                found |= {node.attr} if node.value.id in ("cli", "dump") else set()
            elif isinstance(node, ast.Name) and node.id in known.keys() - seen:
                found |= self._used(node.id, known, seen)
        return found

    def of(self, command: str, flag: Flag | None = None) -> list[str]:
        """The tests that use a command ("" for any), or a flag of it; those that are called after it first."""
        wanted = {f"-{name}" if len(name) == 1 else f"--{name}" for name in flag.names} if flag else set()
        found = [
            test
            for test, words in self.words.items()
            if (not command or command in words) and (not flag or wanted & words)
        ]
        label = flag.key if flag else command
        return sorted(found, key=lambda test: label not in test)


# --- the table ---


def name_of(flag: Flag) -> str:
    """A flag as one types it, the long name first."""
    names = ", ".join(f"-{name}" if len(name) == 1 else f"--{name}" for name in flag.names)
    return f"{names} {flag.value}" if flag.value else names


def table() -> str:
    """``docs/commands.md``."""
    tests = Tests(TESTS)
    lines = [
        "# Commands and flags",
        "",
        "Made by `tools/make_cli_docs.py` from the definitions in `ocipy/cli/`, with tests that use each flag.",
    ]
    for command in (main.GLOBAL, *COMMANDS.values()):
        lines += ["", f"## {command.name or 'Every command'}", ""]
        where = "Before the command's name, or among its flags."
        lines += [f"{command.summary}: `{usage(command)}`" if command.name else where, ""]
        rows = [("", tests.of(command.name, None))] if command.name else []
        lines += ["| flag | what it does | tests |", "|---|---|---|"]
        for text, found in rows:
            lines.append(f"| {text} | | {shown(found)} |")
        for flag in command.flags:
            text = f"`{name_of(flag)}`".replace("|", "\\|")
            lines.append(f"| {text} | {flag.help} | {shown(tests.of(command.name, flag))} |")
    return "\n".join(lines) + "\n"


def shown(tests: list[str]) -> str:
    """A few tests, for the table."""
    return ", ".join(f"`{test.removeprefix('test_').replace('.py::test_', ': ')}`" for test in tests[:SHOWN])


# --- man pages ---


def roff(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")


def man_page(command: Command) -> str:
    """One man page."""
    name = f"ocipy-{command.name}" if command.name else "ocipy"
    first, rest = command.summary[0], command.summary[1:]
    summary = command.summary if rest[0].isupper() else first.lower() + rest
    lines = [
        f'.TH {name.upper().replace("-", chr(92) + "-")} 8 "" "ocipy {VERSION}" "System Administration"',
        ".SH NAME",
        f"{roff(name)} \\- {roff(summary)}",
        ".SH SYNOPSIS",
        f".B {roff(usage(command))}",
    ]
    if command.flags:
        lines.append(".SH OPTIONS")
    for flag in command.flags:
        names = ", ".join(f"\\fB{roff(('-' if len(n) == 1 else '--') + n)}\\fR" for n in flag.names)
        lines += [".TP", f"{names} \\fI{roff(flag.value)}\\fR" if flag.value else names, roff(flag.help)]
    if command.name:
        lines += [".SH SEE ALSO", ".BR ocipy (8)"]
    else:
        lines.append(".SH COMMANDS")
        for other in COMMANDS.values():
            lines += [".TP", f".BR ocipy\\-{roff(other.name)} (8)", roff(other.summary)]
        lines += [
            ".SH EXIT STATUS",
            roff(
                "0 on success, 1 on failure. run and exec, in the foreground, exit as the program did: 128 + n if "
                "signal n ended it; a failed exec exits with 255. The last line of standard error is the cause."
            ),
        ]
    return "\n".join(lines) + "\n"


# --- completion ---

#: what completes a value or an argument: by the word that stands for it in the help
FILES = {"FILE", "DIR", "PATH", "BUNDLE"}


def typed(flag: Flag) -> list[str]:
    return [f"-{name}" if len(name) == 1 else f"--{name}" for name in flag.names]


def case(patterns: list[str], action: str) -> str:
    return f"    {'|'.join(patterns)}) {action} ;;"


def values_of(flag: Flag, files: str, words: str) -> str:
    """The completion of a flag's value: one of its choices, a file, or nothing."""
    if flag.choices:
        return words.format(" ".join(flag.choices))
    return files if flag.value in FILES else words.format("")


def bash() -> str:
    """Completion for bash."""
    words, files = 'COMPREPLY=($(compgen -W "{}" -- "$cur"))', 'COMPREPLY=($(compgen -f -- "$cur"))'
    lines = [
        "# bash completion for ocipy; made by tools/make_cli_docs.py",
        "_ocipy() {",
        "  local words=() command= global=() cur prev last i",
        "  # bash parts --flag=value into three words",
        '  for i in "${COMP_WORDS[@]:0:COMP_CWORD}"; do [[ $i == = ]] || words+=("$i"); done',
        '  cur="${COMP_WORDS[COMP_CWORD]#=}" last=${#words[@]} prev="${words[@]: -1}"',
        "  for ((i = 1; i < last; i++)); do",
        '    case "${words[i]}" in',
        case([w for f in main.GLOBAL.flags if f.value for w in typed(f)],
             'global+=("${words[i]}" "${words[i+1]}"); ((i++))'),
        case(["-*"], 'global+=("${words[i]}")'),
        case(["*"], 'command="${words[i]}"; break'),
        "    esac",
        "  done",
        '  case "$command $prev" in',
    ]  # fmt: skip
    for command in (main.GLOBAL, *COMMANDS.values()):
        for flag in command.flags:
            if flag.value:
                patterns = [f'"{command.name} {word}"' for word in typed(flag)]
                lines.append(case(patterns, values_of(flag, files, words) + "; return"))
    lines += ["  esac", '  case "$command" in']
    for command in (main.GLOBAL, *COMMANDS.values()):
        flags = " ".join(word for flag in command.flags for word in typed(flag))
        if not command.name:
            more = " ".join(COMMANDS)
        elif command.args.lstrip("[").startswith("ID"):
            more = '$(ocipy "${global[@]}" list --quiet 2>/dev/null)'
        else:
            more = ""
        action = words.format(f"{flags} {more}".strip())
        if command.args.startswith("[BUNDLE"):
            action += '; COMPREPLY+=($(compgen -d -- "$cur"))'
        lines.append(case([f'"{command.name}"'], action))
    lines.append(case(["help"], words.format(" ".join(COMMANDS))))
    lines += ["  esac", "}", "complete -F _ocipy ocipy"]
    return "\n".join(lines) + "\n"


def fish() -> str:
    """Completion for fish."""

    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = ["# fish completion for ocipy; made by tools/make_cli_docs.py", "complete -c ocipy -f"]
    for command in (main.GLOBAL, *COMMANDS.values()):
        condition = f"-n '__fish_seen_subcommand_from {command.name}'" if command.name else "-n __fish_use_subcommand"
        if command.name:
            lines.append(f"complete -c ocipy -n __fish_use_subcommand -a {command.name} -d {quoted(command.summary)}")
        if command.name and command.args.lstrip("[").startswith("ID"):
            lines.append(f"complete -c ocipy {condition} -a '(ocipy list --quiet 2>/dev/null)'")
        if command.args.startswith("[BUNDLE"):
            lines.append(f"complete -c ocipy {condition} -a '(__fish_complete_directories)'")
        for flag in command.flags:
            names = " ".join(f"-s {name}" if len(name) == 1 else f"-l {name}" for name in flag.names)
            value = ""
            if flag.value:
                value = " -r -F" if flag.value in FILES else " -x"
            if flag.choices:
                value = f" -x -a {quoted(' '.join(flag.choices))}"
            lines.append(f"complete -c ocipy {condition} {names}{value} -d {quoted(flag.help)}")
    return "\n".join(lines) + "\n"


def zsh() -> str:
    """Completion for zsh."""

    def quoted(text: str) -> str:
        return text.replace("'", "'\\''").replace("[", "(").replace("]", ")").replace(":", "\\:")

    def specs(command: Command) -> list[str]:
        found = []
        for flag in command.flags:
            value = ""
            if flag.value:
                what = f"({' '.join(flag.choices)})" if flag.choices else "_files" if flag.value in FILES else " "
                value = f":{quoted(flag.value)}:{what}"
            star = "*" if flag.many else ""
            found += [f"'{star}{word}[{quoted(flag.help)}]{value}'" for word in typed(flag)]
        return found

    lines = [
        "#compdef ocipy", "# zsh completion for ocipy; made by tools/make_cli_docs.py", "",
        "_ocipy_ids() {", "  compadd -- $(ocipy list --quiet 2>/dev/null)", "}", "",
        "_ocipy() {", "  local state line", "  _arguments -C \\",
    ]  # fmt: skip
    lines += [f"    {spec} \\" for spec in specs(main.GLOBAL)]
    lines += ["    '1:command:->command' '*::argument:->argument'", "  case $state in", "  command)"]
    lines.append("    local -a commands=(")
    lines += [f"      '{command.name}:{quoted(command.summary)}'" for command in COMMANDS.values()]
    lines += ["    )", "    _describe command commands ;;", "  argument)", "    case $line[1] in"]
    for command in COMMANDS.values():
        rest = []
        if command.args.lstrip("[").startswith("ID"):
            rest = ["'1:container:_ocipy_ids'"]
        elif command.args.startswith("[BUNDLE"):
            rest = ["'1:bundle:_files -/'"]
        lines.append(f"    {command.name}) _arguments {' '.join([*specs(command), *rest])} ;;")
    lines += ["    esac ;;", "  esac", "}", "", '_ocipy "$@"']
    return "\n".join(lines) + "\n"


def files() -> dict[Path, str]:
    """Every generated file, by its path, with its content."""
    docs = ROOT / "docs"
    made = {docs / "commands.md": table()}
    for command in (main.GLOBAL, *COMMANDS.values()):
        made[docs / "man" / f"ocipy{f'-{command.name}' if command.name else ''}.8"] = man_page(command)
    made[docs / "completion" / "ocipy.bash"] = bash()
    made[docs / "completion" / "_ocipy"] = zsh()
    made[docs / "completion" / "ocipy.fish"] = fish()
    return made


if __name__ == "__main__":
    for path, text in files().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    print(f"{len(files())} files", file=sys.stderr)
