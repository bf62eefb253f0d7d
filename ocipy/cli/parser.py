"""The command line's grammar: what a command and a flag are, and how arguments are read.

Every command module has one ``COMMAND`` of these; parsing, ``--help`` and whatever else is made from the
command line come from that definition alone. argparse would cost more than a container's launch.
"""

from __future__ import annotations

from ocipy.errors import UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Flag:
    """One flag.

    Args:
        names: without dashes, the first one is its name in :class:`Args` (dashes as underscores).
        help: one line.
        value: name of its value in the help; "" for a switch.
        many: may be repeated; the value is a list.
        kind: turns the text into the value; raises ValueError.
        choices: the allowed values.
    """

    __slots__ = ("choices", "help", "kind", "many", "names", "value")

    def __init__(
        self,
        names: str,
        help: str,
        value: str = "",
        *,
        many: bool = False,
        kind: Callable[[str], Any] = str,
        choices: tuple[str, ...] = (),
    ) -> None:
        self.names = names.split()
        self.help = help
        self.value = value
        self.many = many
        self.kind = kind
        self.choices = choices

    @property
    def key(self) -> str:
        """Its attribute in :class:`Args`."""
        return self.names[0].replace("-", "_")

    def read(self, text: str) -> Any:
        """The value of a text. Raises UsageError."""
        if self.choices and text not in self.choices:
            raise UsageError(f"--{self.names[0]}: {text!r} is none of {', '.join(self.choices)}")
        try:
            return self.kind(text)
        except ValueError:
            raise UsageError(f"--{self.names[0]}: {text!r} is not a valid {self.value}") from None


#: truth values, in the words that runc takes (Go's ParseBool)
_TRUTH = dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True)
_TRUTH |= dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False)


def tristate(text: str) -> bool | None:
    """A truth value; None for ``auto``. Raises ValueError."""
    if text not in _TRUTH and text.lower() not in ("", "auto"):
        raise ValueError
    return _TRUTH.get(text)


class Command:
    """One command.

    Args:
        name: as typed.
        summary: one line for the help.
        args: the positional arguments for the help: ``ID``, ``[ID]``, ``ID COMMAND...``.
        flags: what it takes.
        passes: everything from the second positional argument on belongs to another program (exec, ps).
        passes_with: the same, but only after this flag was given (run --rootfs).
    """

    __slots__ = ("args", "flags", "name", "passes", "passes_with", "summary")

    def __init__(
        self,
        name: str,
        summary: str,
        args: str = "",
        flags: tuple[Flag, ...] = (),
        *,
        passes: bool = False,
        passes_with: str = "",
    ) -> None:
        self.name = name
        self.summary = summary
        self.args = args
        self.flags = flags
        self.passes = passes
        self.passes_with = passes_with


class Args:
    """Parsed arguments: an attribute per flag, ``rest`` (the positional ones), ``given`` (the keys of the flags that
    there are, whatever their values), ``common`` (those of the flags that every command has), and ``help``: it was
    asked for."""

    def __init__(self, flags: tuple[Flag, ...]) -> None:
        self.rest: list[str] = []
        self.given: set[str] = set()
        self.common: dict[str, Any] = {}
        self.help = False
        for flag in flags:
            setattr(self, flag.key, [] if flag.many else (None if flag.value else False))

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...
        def __setattr__(self, name: str, value: Any) -> None: ...


def parse(
    command: Command, argv: list[str], *, stop_at_first: bool = False, common: tuple[Flag, ...] = ()
) -> Args:
    """Read a command's arguments.

    Flags may stand before and after positional arguments, with one dash or two, their value after ``=`` or as
    the next argument; ``--`` ends them. A command that passes arguments on has its flags before the first, after
    which a ``--`` may stand.

    Args:
        common: flags that may stand among the command's own, for :attr:`Args.common`.

    Raises:
        UsageError: an unknown flag, a missing or bad value, too few or too many positional arguments.
    """
    table = {name: flag for flags in (common, command.flags) for flag in flags for name in flag.names}
    args = Args(command.flags)
    index = 0
    while index < len(argv):
        word = argv[index]
        index += 1
        if word == "--":
            args.rest += argv[index:]
            break
        if not word.startswith("-") or word == "-":
            args.rest.append(word)
            passes = command.passes or (command.passes_with and getattr(args, command.passes_with))
            if stop_at_first or passes:
                skip = bool(passes) and argv[index : index + 1] == ["--"]
                args.rest += argv[index + skip :]
                break
            continue
        name, equals, text = word.lstrip("-").partition("=")
        flag = table.get(name)
        if flag is None and name in ("help", "h"):
            args.help = True
            return args
        if flag is None:
            where = f"{command.name}: " if command.name else ""
            raise UsageError(f"{where}flag provided but not defined: {word.partition('=')[0]}")
        value: Any
        if not flag.value:
            if equals and text not in _TRUTH:
                raise UsageError(f"--{name}: {text!r} is neither true nor false")
            value = _TRUTH[text] if equals else True
        else:
            if not equals:
                if index == len(argv):
                    raise UsageError(f"flag needs an argument: {word}")
                text = argv[index]
                index += 1
            value = flag.read(text)
        if flag not in command.flags:
            args.common[flag.key] = value
            continue
        args.given.add(flag.key)
        if flag.many:
            getattr(args, flag.key).append(value)
        else:
            setattr(args, flag.key, value)
    if not stop_at_first:
        _count(command, args.rest)
    return args


def _count(command: Command, rest: list[str]) -> None:
    words = command.args.split()
    least = sum(not word.startswith("[") for word in words)
    most = None if command.args.endswith(("...", "...]")) else len(words)
    if len(rest) < least:
        raise UsageError(f"{command.name}: {words[len(rest)]} is missing: usage: {usage(command)}")
    if most is not None and len(rest) > most:
        raise UsageError(f"{command.name}: too many arguments: {rest[most]!r}: usage: {usage(command)}")


def usage(command: Command) -> str:
    """The usage line."""
    return " ".join(filter(None, ("ocipy", command.name, "[flags]" if command.flags else "", command.args)))


def describe(command: Command) -> str:
    """The text of ``ocipy COMMAND --help``."""
    lines = [f"{command.summary}.", "", f"Usage: {usage(command)}"]
    if command.flags:
        lines += ["", "Flags:"]
    for flag in command.flags:
        names = ", ".join(f"-{n}" if len(n) == 1 else f"--{n}" for n in reversed(flag.names))
        value = f" {flag.value}" if flag.value else ""
        lines.append(f"  {names + value:32} {flag.help}")
    return "\n".join(lines) + "\n"


