"""Expressions to LLVM IR: one vector (or scalar) value per Expr node, with the semantics of compiler/expr.py.

Composites are expanded by compiler.mathlib first, so only primitives are emitted here. Nothing calls a library.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir

from backends.native.conversions import emit_bitcast, emit_cast, round_register
from backends.native.remainder import float_remainder
from backends.native.vectors import (
    DOUBLE,
    FLOAT,
    any_lane,
    constant,
    intrinsic,
    lanes_of,
    register_type,
    splat,
    widen,
    wrap_narrow,
)
from compiler import mathlib
from compiler.dtypes import DType
from compiler.expr import LEAVES, Expr

_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_ROUND = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "rint"}


class ExprEmitter:
    """Emits expressions at a builder's position, each distinct node once.

    `leaf` gives the value of arg, index, stat, kept and extent leaves: a register vector of `lanes` elements, or a
    scalar, which is splatted. One emitter serves one straight-line region: what it has emitted must dominate what
    it will emit, so a loop body needs an emitter of its own. Emitting may open basic blocks (`unlikely`, float `rem`):
    afterwards the builder stands at the end of the last one.
    """

    def __init__(self, builder: ir.IRBuilder, lanes: int, leaf: Callable[[Expr], ir.Value]) -> None:
        self.builder, self.lanes, self.leaf = builder, lanes, leaf
        self._done: dict[Expr, ir.Value] = {}

    def emit(self, expr: Expr) -> ir.Value:
        """The value of `expr`: a vector of `lanes` register elements, or a scalar for one lane."""
        return self._emit(mathlib.expand(expr))

    def _emit(self, root: Expr) -> ir.Value:
        stack = [root]
        while stack:
            node = stack[-1]
            if node in self._done:
                stack.pop()
                continue
            # The rare side of an `unlikely` is emitted inside its branch.
            needed = (node.args[0], node.args[2]) if node.op == "unlikely" else node.args
            missing = [a for a in needed if a not in self._done]
            if missing:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            self._done[node] = self._node(node)
        return self._done[root]

    def _node(self, node: Expr) -> ir.Value:
        if node.op == "const":
            value = _rounded(node.value, node.dtype) if node.dtype.is_float else int(node.value)
            return constant(register_type(node.dtype, self.lanes), value)
        if node.op in LEAVES:
            value = self.leaf(node)
            return value if lanes_of(value) == self.lanes else splat(self.builder, value, self.lanes)
        if node.op == "unlikely":
            return self._unlikely(node)
        operands = [self._done[a] for a in node.args]
        source = node.args[0].dtype
        if node.op == "cast":
            return emit_cast(self.builder, operands[0], source, node.dtype)
        if node.op == "bitcast":
            return emit_bitcast(self.builder, operands[0], source, node.dtype)
        if node.op == "select":
            return self.builder.select(*operands)
        if source.is_float:
            return self._float(node, operands)
        return self._integer(node, operands)

    def _unlikely(self, node: Expr) -> ir.Value:
        condition, rare, common = node.args
        outside = dict(self._done)
        start = self.builder.block
        with self.builder.if_then(any_lane(self.builder, self._done[condition]), likely=False):
            mixed = self.builder.select(self._done[condition], self._emit(rare), self._done[common])
            inside = self.builder.block
        self._done = outside
        merged = self.builder.phi(mixed.type)
        merged.add_incoming(self._done[common], start)
        merged.add_incoming(mixed, inside)
        return merged

    def _float(self, node: Expr, operands: list[ir.Value]) -> ir.Value:
        builder, op, dtype = self.builder, node.op, node.args[0].dtype
        kind = operands[0].type
        if op in _COMPARE:
            compare = builder.fcmp_unordered if op == "ne" else builder.fcmp_ordered
            return compare(_COMPARE[op], *operands)
        if op in ("min", "max"):
            return self._extremum(node, operands)
        if op == "rem":
            return round_register(builder, float_remainder(builder, *operands), dtype)
        if op in _ROUND:
            return intrinsic(builder, _ROUND[op], kind, operands, [kind])
        if op == "abs":
            return intrinsic(builder, "fabs", kind, operands, [kind])
        if op == "neg":
            return builder.fneg(operands[0])
        if op == "copysign":
            return intrinsic(builder, "copysign", kind, operands, [kind])
        if op in ("fma", "sqrt"):
            return round_register(builder, intrinsic(builder, op, kind, operands, [kind]), dtype)
        arithmetic = {"add": builder.fadd, "sub": builder.fsub, "mul": builder.fmul, "div": builder.fdiv}
        return round_register(builder, arithmetic[op](*operands), dtype)

    def _extremum(self, node: Expr, operands: list[ir.Value]) -> ir.Value:
        # min(a, b) is b where b < a or b is NaN, else a: one instruction on most machines when b is a constant.
        a, b = operands
        builder = self.builder
        better = builder.select(builder.fcmp_ordered("<" if node.op == "min" else ">", b, a), b, a)
        constant_b = node.args[1].op == "const" and node.args[1].value == node.args[1].value
        return better if constant_b else builder.select(builder.fcmp_unordered("uno", b, b), b, better)

    def _integer(self, node: Expr, operands: list[ir.Value]) -> ir.Value:
        builder, op, dtype = self.builder, node.op, node.args[0].dtype
        signed = dtype.kind == "int"
        compare = builder.icmp_signed if signed else builder.icmp_unsigned
        if op in _COMPARE:
            return compare(_COMPARE[op], *operands)
        if op in ("min", "max"):
            return builder.select(
                compare("<" if op == "min" else ">", operands[1], operands[0]), operands[1], operands[0]
            )
        if op in ("div", "rem"):
            return wrap_narrow(builder, self._divide(op, operands, dtype), dtype)
        if op in ("shl", "shr"):
            return wrap_narrow(builder, self._shift(node, operands), dtype)
        if op == "abs":
            negative = builder.neg(operands[0])
            flip = compare("<", operands[0], constant(operands[0].type, 0))
            return wrap_narrow(builder, builder.select(flip, negative, operands[0]), dtype)
        if op == "fma":
            return wrap_narrow(builder, builder.add(builder.mul(operands[0], operands[1]), operands[2]), dtype)
        table = {
            "add": builder.add, "sub": builder.sub, "mul": builder.mul, "neg": builder.neg,
            "and": builder.and_, "or": builder.or_, "xor": builder.xor, "not": builder.not_,
        }  # fmt: skip
        return wrap_narrow(builder, table[op](*operands), dtype)

    def _divide(self, op: str, operands: list[ir.Value], dtype: DType) -> ir.Value:
        builder, (a, b), kind = self.builder, operands, operands[0].type
        zero, one = constant(kind, 0), constant(kind, 1)
        signed = dtype.kind == "int"
        by_zero = builder.icmp_unsigned("==", b, zero)
        if dtype.bits <= 32:
            # Exact: the quotient's distance to the next integer exceeds the rounding error of the wider float.
            wide = widen(DOUBLE if dtype.bits > 16 else FLOAT, self.lanes)
            to_float, to_int = (builder.sitofp, "fptosi.sat") if signed else (builder.uitofp, "fptoui.sat")
            ratio = builder.fdiv(to_float(a, wide), to_float(builder.select(by_zero, one, b), wide))
            quotient = intrinsic(builder, to_int, kind, [ratio], [kind, wide])
            if signed:
                minus_one = builder.icmp_unsigned("==", b, constant(kind, -1))
                quotient = builder.select(minus_one, builder.neg(a), quotient)
        else:
            trap = builder.or_(by_zero, builder.icmp_unsigned("==", b, constant(kind, -1))) if signed else by_zero
            quotient = (builder.sdiv if signed else builder.udiv)(a, builder.select(trap, one, b))
            if signed:
                quotient = builder.select(trap, builder.neg(a), quotient)
        quotient = builder.select(by_zero, zero, quotient)
        if op == "div":
            return quotient
        return builder.select(by_zero, zero, builder.sub(a, builder.mul(quotient, b)))

    def _shift(self, node: Expr, operands: list[ir.Value]) -> ir.Value:
        builder, (x, count), dtype = self.builder, operands, node.dtype
        shift = builder.shl if node.op == "shl" else builder.ashr if dtype.kind == "int" else builder.lshr
        if node.args[1].op == "const" and 0 <= node.args[1].value < dtype.bits:
            return shift(x, count)
        inside = builder.icmp_unsigned("<", count, constant(x.type, dtype.bits))
        if node.op == "shr" and dtype.kind == "int":
            return shift(x, builder.select(inside, count, constant(x.type, dtype.bits - 1)))
        return builder.select(inside, shift(x, count), constant(x.type, 0))


def _rounded(value: float, dtype: DType) -> float:
    """A float constant rounded once to `dtype`."""
    with np.errstate(over="ignore"):
        return float(np.asarray(value, np.float64).astype(dtype.numpy))
