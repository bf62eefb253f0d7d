"""What can be changed in a Python file."""

from __future__ import annotations

import ast
import marshal
import re
from types import CodeType

from .change import Change

OPPOSITE = {
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"), ast.Is: ("is", "is not"), ast.IsNot: (r"is\s+not", "is"), ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"), ast.And: ("and", "or"), ast.Or: ("or", "and"), ast.Add: (r"\+", "-"),
    ast.Sub: ("-", "+"), ast.BitAnd: ("&", "|"),
}  # fmt: skip
#: calls that only tell somebody something
TELLING = {"debug", "info", "warning", "warn", "log", "print", "notice"}
ERRNO = re.compile(r"E[A-Z0-9]{2,}")


def called(node: ast.expr) -> str:
    """The last name of what is called."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


class Finder(ast.NodeVisitor):
    """Collects the changes of a file."""

    def __init__(self, path: str, source: bytes) -> None:
        self.path = path
        self.source = source
        self.starts = [0]
        for line in source.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.found: list[Change] = []

    def span(self, node: ast.expr | ast.stmt | ast.keyword) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.starts[node.lineno - 1] + node.col_offset,
            self.starts[node.end_lineno - 1] + node.end_col_offset,
        )

    def text(self, node: ast.expr | ast.stmt) -> bytes:
        return self.source[slice(*self.span(node))]

    def add(self, start: int, end: int, new: bytes, what: str) -> None:
        line = self.source.count(b"\n", 0, start) + 1
        self.found.append(Change(self.path, line, start, end, new, what))

    def replace(self, node: ast.expr | ast.stmt, new: bytes, what: str) -> None:
        self.add(*self.span(node), new, what)

    def operator(self, left: ast.expr, right: ast.expr, operator: ast.AST) -> None:
        """An operator between two operands becomes its opposite."""
        pattern, new = OPPOSITE.get(type(operator), ("", ""))
        start, end = self.span(left)[1], self.span(right)[0]
        word = rf"\b{pattern}\b" if pattern[:1].isalpha() else pattern
        match = re.search(word.encode(), self.source[start:end]) if pattern else None
        if match:
            what = f"{match[0].decode()} → {new}"
            self.add(start + match.start(), start + match.end(), new.encode(), what)

    def negate(self, test: ast.expr) -> None:
        self.replace(test, b"(not (" + self.text(test) + b"))", "condition inverted")

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return
        self.negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.negate(node.test)
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.negate(test)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.replace(node, b"bool(" + self.text(node.operand) + b")", "not dropped")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self.operator(left, right, node.op)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        operands = [node.left, *node.comparators]
        for left, operator, right in zip(operands, node.ops, operands[1:], strict=False):
            self.operator(left, right, operator)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.BitOr):
            self.replace(node, self.text(node.left), f"{self.text(node.right).decode()} dropped")
            if not (isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.BitOr)):
                self.replace(node, self.text(node.right), f"{self.text(node.left).decode()} dropped")
        elif not any(isinstance(side, ast.JoinedStr | ast.List | ast.Tuple) for side in (node.left, node.right)):
            self.operator(node.left, node.right, node.op)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        value, text = node.value, self.text(node)
        if isinstance(value, bool):
            self.replace(node, str(not value).encode(), f"{value} → {not value}")
        elif type(value) is int:
            style = {b"0o": oct, b"0x": hex}.get(text[:2].lower(), str)
            for other in (value + 1, value - 1) if value else (1,):
                self.replace(node, style(other).encode(), f"{text.decode()} → {style(other)}")

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        pass  # until Python 3.12 what is in one has no place of its own

    def visit_Call(self, node: ast.Call) -> None:
        name = called(node.func)
        if name in TELLING:
            return
        if name == "suppress":
            for i, gone in enumerate(node.args):
                rest = b", ".join(self.text(arg) for j, arg in enumerate(node.args) if j != i)
                start, end = self.span(node.args[0])[0], self.span(node.args[-1])[1]
                self.add(start, end, rest, f"{self.text(gone).decode()} no longer suppressed")
        else:
            self.swap(node)
        last = max((self.span(arg)[1] for arg in node.args), default=-1)
        for keyword in node.keywords:
            start, end = self.span(keyword)
            if keyword.arg not in (None, "hint") and last > 0 and start > last:  # a hint is only a text
                self.add(last, end, b"", f"{keyword.arg}= dropped")
            last = end
        self.generic_visit(node)

    def swap(self, node: ast.Call) -> None:
        for left, right in zip(node.args, node.args[1:], strict=False):
            one, other = self.text(left), self.text(right)
            if one == other or isinstance(left, ast.Starred) or isinstance(right, ast.Starred):
                continue
            start, end = self.span(left)[0], self.span(right)[1]
            between = self.source[self.span(left)[1] : self.span(right)[0]]
            self.add(start, end, other + between + one, "arguments swapped")

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if ERRNO.fullmatch(node.attr) and isinstance(node.value, ast.Name) and node.value.id == "errno":
            self.replace(node, b"18", f"{node.attr} → EXDEV")
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if ERRNO.fullmatch(node.id) and isinstance(node.ctx, ast.Load):
            self.replace(node, b"18", f"{node.id} → EXDEV")

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if isinstance(node.type, ast.Tuple):
            for i, gone in enumerate(node.type.elts):
                rest = b"".join(self.text(kind) + b", " for j, kind in enumerate(node.type.elts) if j != i)
                self.replace(node.type, b"(" + rest + b")", f"{self.text(gone).decode()} no longer caught")
        elif node.type:
            self.replace(node.type, b"()", f"{self.text(node.type).decode()} no longer caught")
        for statement in node.body:  # not the type: what is in it is no flag
            self.visit(statement)

    def visit_Return(self, node: ast.Return) -> None:
        if node.value and not (isinstance(node.value, ast.Constant) and node.value.value is None):
            self.replace(node, b"return None", "returns None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Call) and called(node.value.func) not in TELLING:
            self.drop(node)
            self.early(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        if all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets):
            self.drop(node)
        self.early(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.drop(node)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value:  # not the annotation
            self.visit(node.value)

    def visit_arg(self, node: ast.arg) -> None:
        pass  # the annotation

    def function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, node.args, *node.body):  # not what it is said to return
            self.visit(part)

    visit_FunctionDef = visit_AsyncFunctionDef = function

    def drop(self, node: ast.stmt) -> None:
        self.replace(node, b"pass", "statement dropped")

    def visit_Raise(self, node: ast.Raise) -> None:
        self.drop(node)
        self.generic_visit(node)

    def visit_Delete(self, node: ast.Delete) -> None:
        self.drop(node)

    def visit_Break(self, node: ast.Break) -> None:
        self.drop(node)

    def visit_Continue(self, node: ast.Continue) -> None:
        self.drop(node)

    def early(self, node: ast.stmt) -> None:
        start, _ = self.span(node)
        if node.col_offset > 0:  # outside of functions it does not compile
            self.add(start, start, b"return; ", "early return")


def changes(path: str, source: bytes) -> list[Change]:
    """Every change that is known for a file."""
    finder = Finder(path, source)
    finder.visit(ast.parse(source))
    return finder.found


def _stripped(code: CodeType) -> CodeType:
    consts = tuple(_stripped(const) if isinstance(const, CodeType) else const for const in code.co_consts)
    return code.replace(co_linetable=b"", co_firstlineno=1, co_consts=consts)


def compiled(path: str, source: bytes) -> bytes | None:
    """What a file is compiled to, without line numbers and docstrings; None if it does not compile."""
    try:
        return marshal.dumps(_stripped(compile(source, path, "exec", dont_inherit=True, optimize=2)))
    except (SyntaxError, ValueError):
        return None
