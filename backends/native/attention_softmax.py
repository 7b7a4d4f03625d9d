"""Rows of attention scores in scratch: the score expression with the row's maximum, then the weights with their sum.

A row ends in padding to a whole vector, where scores are -inf and weights 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from backends.native.access import Operand, unroll
from backends.native.accumulate import Accumulator, padded_total, part
from backends.native.emitter import ExprEmitter
from backends.native.hoist import Hoisted
from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, round_down
from backends.native.vectors import (
    constant,
    index_vector,
    lanes_of,
    load_vector,
    register_type,
    splat,
    store_vector,
    tail_mask,
)
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg
from compiler.kernels import BROADCAST, AttentionSpec


def score_row(
    builder: ir.IRBuilder,
    spec: AttentionSpec,
    lanes: int,
    row: ir.Value,
    query: ir.Value,
    keys: ir.Value,
    operands: Sequence[tuple[Operand, ir.Value]],
) -> ir.Value:
    """Replace the dots at `row` (of `keys` elements) by their scores; the maximum. `operands`: the score's, each with
    the byte offset of its row. A NaN may be passed over in the maximum: it reaches the sum of the weights."""

    def leaf(node: Expr, i: ir.Value, width: int, mask: ir.Value | None) -> ir.Value:
        if node.op == "index":
            return query if node.value == 0 else index_vector(builder, i, width)
        if node.value in fixed:
            return fixed[node.value]
        if node.value == 0:
            return load_vector(builder, builder.gep(row, [i]), spec.acc, width)
        operand, offset = operands[node.value - 1]
        return operand.load(builder, offset, i, width, mask)

    def same_in_a_row(node: Expr) -> bool:
        if node.op == "index":
            return bool(node.value == 0)
        return bool(node.value > 0 and spec.score_classes[node.value - 1] == BROADCAST)

    fixed: dict[int, ir.Value] = {}
    hoisted = Hoisted((spec.score,), same_in_a_row)
    fixed = hoisted.emit(builder, lanes, lambda node: leaf(node, I64(0), 1, None))
    lowest = constant(register_type(spec.acc, lanes), float("-inf"))

    def score(i: ir.Value, top: ir.Value, mask: ir.Value | None) -> ir.Value:
        emitter = ExprEmitter(builder, lanes, lambda node: leaf(node, i, lanes, mask))
        value = emitter.emit(hoisted.roots[0])
        if mask is not None:
            value = builder.select(mask, value, lowest)
        store_vector(builder, value, builder.gep(row, [i]), spec.acc)
        return _larger(builder, top, value)

    several = unroll(hoisted.roots)
    full = round_down(builder, keys, lanes * several)

    def block(i: ir.Value, tops: Values) -> Values:
        return [score(builder.add(i, I64(v * lanes)), top, None) for v, top in enumerate(tops)]

    def masked(i: ir.Value, tops: Values) -> Values:
        return [score(i, tops[0], tail_mask(builder, builder.sub(keys, i), lanes)), *tops[1:]]

    tops = counted_loop(builder, I64(0), full, I64(lanes * several), [lowest] * several, block)
    return _largest(builder, counted_loop(builder, full, keys, I64(lanes), tops, masked))


def weigh_row(builder: ir.IRBuilder, acc: DType, lanes: int, row: ir.Value, top: ir.Value, keys: ir.Value) -> ir.Value:
    """Replace the scores at `row` by exp(score - top), or exp(score) if `top` is -inf; their sum in canonical order."""
    lowest = constant(top.type, float("-inf"))
    base = builder.select(builder.fcmp_ordered("==", top, lowest), constant(top.type, 0), top)
    leaves = {1: splat(builder, base, lanes)}
    weight = apply("exp", arg(0, acc) - arg(1, acc))

    def weights(i: ir.Value, _: Values) -> Values:
        leaves[0] = load_vector(builder, builder.gep(row, [i]), acc, lanes)
        value = ExprEmitter(builder, lanes, lambda node: leaves[node.value]).emit(weight)
        store_vector(builder, value, builder.gep(row, [i]), acc)
        return []

    counted_loop(builder, I64(0), keys, I64(lanes), [], weights)

    def load(i: ir.Value) -> ir.Value:
        return load_vector(builder, builder.gep(row, [i]), acc, lanes)

    return padded_total(builder, Accumulator("sum", acc), load, keys, lanes)


def _largest(builder: ir.IRBuilder, vectors: Values) -> ir.Value:
    top = vectors[0]
    for other in vectors[1:]:
        top = _larger(builder, top, other)
    while (width := lanes_of(top)) > 1:
        top = _larger(builder, part(builder, top, 0, width // 2), part(builder, top, width // 2, width // 2))
    return top


def _larger(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.fcmp_ordered(">", b, a), b, a)
