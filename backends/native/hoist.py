"""Moves what does not change in a loop in front of it: maximal subexpressions of invariant leaves become placeholder
arguments, computed once. Code generators do this themselves because the passes kernels are compiled with are light."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from backends.native.emitter import ExprEmitter
from backends.native.vectors import splat
from compiler import mathlib
from compiler.expr import LEAVES, Expr, arg, walk

FIRST_PLACEHOLDER = 1 << 20


class Hoisted:
    """Expressions split into `roots` (with placeholders) and the invariant expressions the placeholders stand for.

    `invariant` says of a leaf other than const whether it is the same in every iteration.
    """

    def __init__(self, roots: Sequence[Expr], invariant: Callable[[Expr], bool]) -> None:
        expanded = tuple(mathlib.expand(root) for root in roots)
        fixed: dict[Expr, bool] = {}
        rebuilt: dict[Expr, Expr] = {}
        self.invariants: list[Expr] = []
        for node in walk(expanded):
            leaf = node.op in LEAVES
            fixed[node] = (node.op == "const" or invariant(node)) if leaf else all(fixed[a] for a in node.args)
            if not leaf and not fixed[node]:
                args = tuple(self._placeholder(a) if fixed[a] else rebuilt[a] for a in node.args)
                rebuilt[node] = Expr(node.op, node.dtype, args, node.value)
            else:
                rebuilt[node] = node
        self.roots = [self._placeholder(root) if fixed[root] else rebuilt[root] for root in expanded]

    def _placeholder(self, node: Expr) -> Expr:
        if node.op == "const":
            return node
        if node not in self.invariants:
            self.invariants.append(node)
        return arg(FIRST_PLACEHOLDER + self.invariants.index(node), node.dtype)

    def emit(
        self, builder: ir.IRBuilder, lanes: int, leaf: Callable[[Expr], ir.Value], width: int = 1
    ) -> dict[int, ir.Value]:
        """Compute the invariants here, `width` lanes wide, as values of `lanes` lanes by placeholder number."""
        emitter = ExprEmitter(builder, width, leaf)
        values = [emitter.emit(node) for node in self.invariants]
        if width != lanes:
            values = [splat(builder, value, lanes) for value in values]
        return {FIRST_PLACEHOLDER + number: value for number, value in enumerate(values)}
