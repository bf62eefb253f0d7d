"""What can be changed in a C file."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import tree_sitter_c
from tree_sitter import Language, Node, Parser

from .change import Change

OPPOSITE = {
    "&&": "||", "||": "&&", "==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+",
    "&": "|",
}  # fmt: skip
CONDITIONS = {"if_statement", "while_statement", "do_statement", "for_statement", "conditional_expression"}
#: no code, or code that could not be understood
NO_CODE = {"preproc_include", "preproc_def", "preproc_function_def", "ERROR", "comment", "string_literal"}
ERRNO = re.compile(r"E[A-Z0-9]{2,}")
NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|\d+)([uUlL]*)")
#: as setup.py and native/ext/build_native.py have them, for all files
FLAGS = [
    "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2",
    "-fno-strict-aliasing", '-DOCIPY_PYTHON="/python"', '-DOCIPY_PYVER="3"', "-DOCIPY_EMBED", "-DOCIPY_MAGIC=1u",
    f"-I{sysconfig.get_path('include')}", f"-I{sysconfig.get_path('platinclude')}", "-I.", "-o", "-",
]  # fmt: skip


def parse(source: bytes) -> Node:
    return Parser(Language(tree_sitter_c.language())).parse(source).root_node


def walk(node: Node) -> Iterator[Node]:
    """All nodes that are code, from outside to inside."""
    if node.type not in NO_CODE:
        yield node
        for child in node.children:
            yield from walk(child)


class Finder:
    """Collects the changes of a file."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.found: list[Change] = []

    def text(self, node: Node) -> str:
        return self.source[node.start_byte : node.end_byte].decode()

    def add(self, start: int, end: int, new: str, what: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Change(self.path, line, start, end, new.encode(), what))

    def replace(self, node: Node, new: str, what: str) -> None:
        self.add(node.start_byte, node.end_byte, new, what)

    def visit(self, node: Node) -> None:
        if node.type in CONDITIONS:
            condition = node.child_by_field_name("condition")
            if condition:
                self.replace(condition, f"(!({self.text(condition)}))", "condition inverted")
        visit = getattr(self, f"visit_{node.type}", None)
        if visit:
            visit(node)

    def visit_binary_expression(self, node: Node) -> None:
        left, operator, right = (node.child_by_field_name(name) for name in ("left", "operator", "right"))
        if not (left and operator and right):
            return
        if operator.type == "|":
            self.replace(node, self.text(left), f"{self.text(right)} dropped")
            if left.type != "binary_expression":
                self.replace(node, self.text(right), f"{self.text(left)} dropped")
        elif operator.type in OPPOSITE:
            self.replace(operator, OPPOSITE[operator.type], f"{operator.type} → {OPPOSITE[operator.type]}")

    def visit_assignment_expression(self, node: Node) -> None:
        operator = node.child_by_field_name("operator")
        new = {"|=": "=", "+=": "-=", "-=": "+="}.get(operator.type if operator else "")
        if operator and new:
            self.replace(operator, new, f"{operator.type} → {new}")

    def visit_unary_expression(self, node: Node) -> None:
        argument = node.child_by_field_name("argument")
        if argument and self.text(node).startswith("!"):
            self.replace(node, f"!!({self.text(argument)})", "! dropped")

    def visit_number_literal(self, node: Node) -> None:
        match = NUMBER.fullmatch(self.text(node))
        if not match:
            return
        digits, suffix = match.groups()
        hexadecimal, octal = digits[:2].lower() == "0x", digits[0] == "0" and digits != "0"
        value = int(digits, 16 if hexadecimal else 8 if octal else 10)
        for other in (value + 1, value - 1) if value else (1,):
            new = (f"{other:#x}" if hexadecimal else f"0{other:o}" if octal else str(other)) + suffix
            self.replace(node, new, f"{match[0]} → {new}")

    def visit_identifier(self, node: Node) -> None:
        if ERRNO.fullmatch(self.text(node)) and self.text(node) not in ("EOF", "EXDEV"):
            self.replace(node, "18", f"{self.text(node)} → EXDEV")

    def visit_argument_list(self, node: Node) -> None:
        arguments = [child for child in node.named_children if child.type != "comment"]
        for left, right in pairwise(arguments):
            if self.text(left) != self.text(right):
                between = self.source[left.end_byte : right.start_byte].decode()
                new = self.text(right) + between + self.text(left)
                self.add(left.start_byte, right.end_byte, new, "arguments swapped")

    def visit_expression_statement(self, node: Node) -> None:
        self.replace(node, "{}", "statement dropped")
        self.early(node)

    def visit_break_statement(self, node: Node) -> None:
        self.replace(node, "{}", "statement dropped")

    visit_continue_statement = visit_goto_statement = visit_break_statement

    def visit_declaration(self, node: Node) -> None:
        self.early(node)

    def visit_return_statement(self, node: Node) -> None:
        if node.named_children:
            self.replace(node, "return 0;", "returns 0")

    def early(self, node: Node) -> None:
        """Only in a block: a statement of an ``if`` would be moved out of it. One of the two compiles."""
        if node.parent and node.parent.type in ("compound_statement", "case_statement"):
            for statement in "return; ", "return 0; ":
                self.add(node.start_byte, node.start_byte, statement, "early return")


def changes(path: str, source: bytes) -> list[Change]:
    """Every change that is known for a file."""
    finder = Finder(path, source)
    for node in walk(parse(source)):
        finder.visit(node)
    return finder.found


def compiled(path: str, source: bytes, tree: Path) -> bytes | None:
    """The assembly of a file of a tree; None if it does not compile without a warning."""
    where = str((tree / path).parent)
    done = subprocess.run(
        ["gcc", "-S", "-x", "c", *FLAGS, f"-I{where}" if "seccomp" not in path else "-I.", "-"],
        input=source, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else None
