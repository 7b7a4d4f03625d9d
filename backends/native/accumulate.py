"""Accumulators of reductions in registers: how a stage starts, takes an element and joins two partial results.

compiler/canonical.py says in which order they are used. A state is a list of vectors: the value, and for argmax and
argmin an index.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.emitter import ExprEmitter
from backends.native.loops import Values, counted_loop, round_down, when
from backends.native.vectors import I32, I64, constant, iota, lanes_of, register_type, widen
from compiler import dtypes
from compiler.canonical import LANES, identity
from compiler.dtypes import DType
from compiler.expr import apply, arg
from compiler.kernels import Stage

_OPS = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


@dataclass(frozen=True)
class Accumulator:
    """One stage's accumulator: `fn` over elements of `dtype`."""

    fn: str
    dtype: DType

    @property
    def indexed(self) -> bool:
        """Whether the state carries an index."""
        return self.fn in ("argmax", "argmin")

    @property
    def identity(self) -> float:
        """What an empty row gives, in the element type."""
        if self.dtype.is_integer and self.fn in ("max", "min", "argmax", "argmin"):
            bits, signed = self.dtype.bits, self.dtype.kind == "int"
            least, most = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
            return least if self.fn.endswith("max") else most
        return identity(self.fn, np.dtype(bool if self.dtype.kind == "bool" else float))

    def start(self, lanes: int, counter: ir.IntType = I64) -> list[ir.Value]:
        """No element taken; an index of type `counter` starts at 0, right if nothing beats the identity."""
        value = constant(register_type(self.dtype, lanes), self.identity)
        return [value, constant(widen(counter, lanes), 0)] if self.indexed else [value]

    def take(
        self,
        builder: ir.IRBuilder,
        state: Sequence[ir.Value],
        element: ir.Value,
        position: ir.Value | None,
        mask: ir.Value | None,
    ) -> list[ir.Value]:
        """`state` after `element` (at index `position` where indexed) in the lanes of `mask`."""
        if not self.indexed:
            if mask is not None:
                element = builder.select(mask, element, constant(element.type, self.identity))
            return [self._join(builder, state[0], element)]
        better = self._beats(builder, element, state[0])
        if mask is not None:
            better = builder.and_(better, mask)
        return [builder.select(better, element, state[0]), builder.select(better, position, state[1])]

    def number(self, builder: ir.IRBuilder, state: Sequence[ir.Value], first: int) -> list[ir.Value]:
        """A state whose index counts blocks of LANES, in lanes `first` on of the block, with i64 positions instead."""
        if not self.indexed:
            return list(state)
        kind = widen(I64, lanes_of(state[1]))
        start = builder.mul(builder.zext(state[1], kind), constant(kind, LANES))
        return [state[0], builder.add(start, builder.add(iota(kind), constant(kind, first)))]

    def tree(self, builder: ir.IRBuilder, states: Sequence[Sequence[ir.Value]]) -> list[ir.Value]:
        """The lanes of all states joined into scalars: vectors v and v + half, then lanes l and l + half."""
        states = [list(state) for state in states]
        while len(states) > 1:
            half = len(states) // 2
            states = [self._combine(builder, states[v], states[v + half]) for v in range(half)]
        state = list(states[0])
        while (lanes := lanes_of(state[0])) > 1:
            low, high = ([part(builder, v, start, lanes // 2) for v in state] for start in (0, lanes // 2))
            state = self._combine(builder, low, high)
        return state

    def result(self, state: Sequence[ir.Value]) -> ir.Value:
        """The statistic: the value, or the index."""
        return state[-1]

    @property
    def result_dtype(self) -> DType:
        """The statistic's type."""
        return dtypes.int64 if self.indexed else self.dtype

    def _join(self, builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
        leaves = [a, b]
        emitter = ExprEmitter(builder, lanes_of(a), lambda node: leaves[node.value])
        return emitter.emit(apply(_OPS[self.fn], arg(0, self.dtype), arg(1, self.dtype)))

    def _combine(self, builder: ir.IRBuilder, a: Sequence[ir.Value], b: Sequence[ir.Value]) -> list[ir.Value]:
        if not self.indexed:
            return [self._join(builder, a[0], b[0])]
        equal = builder.not_(builder.or_(self._beats(builder, a[0], b[0]), self._beats(builder, b[0], a[0])))
        earlier = builder.and_(equal, builder.icmp_signed("<", b[1], a[1]))
        better = builder.or_(self._beats(builder, b[0], a[0]), earlier)
        return [builder.select(better, y, x) for x, y in zip(a, b, strict=True)]

    def _beats(self, builder: ir.IRBuilder, new: ir.Value, old: ir.Value) -> ir.Value:
        relation = ">" if self.fn == "argmax" else "<"
        if self.dtype.is_float:
            # Greater, or the first NaN: nothing beats a NaN.
            return builder.and_(builder.fcmp_unordered(relation, new, old), builder.fcmp_ordered("ord", old, old))
        compare = builder.icmp_signed if self.dtype.kind == "int" else builder.icmp_unsigned
        return compare(relation, new, old)


def accumulator(stage: Stage) -> Accumulator:
    """The accumulator of a stage."""
    return Accumulator(stage.fn, stage.expr.dtype)


def padded_total(
    builder: ir.IRBuilder,
    stage: Accumulator,
    load: Callable[[ir.Value], ir.Value],
    length: ir.Value,
    lanes: int,
) -> ir.Value:
    """The canonical result over elements 0 to `length` that `load(i)` gives in vectors of `lanes`; elements beyond the
    last, up to a whole vector, must be the identity."""
    count = LANES // lanes
    full = round_down(builder, length, LANES)

    def block(i: ir.Value, values: Values) -> Values:
        loaded = [load(builder.add(i, I64(v * lanes))) for v in range(count)]
        return [stage.take(builder, [old], new, None, None)[0] for old, new in zip(values, loaded, strict=True)]

    values = counted_loop(builder, I64(0), full, I64(LANES), stage.start(lanes) * count, block)
    ends: list[Values] = []
    for v, value in enumerate(values):
        i = builder.add(full, I64(v * lanes))

        def tail(value: ir.Value = value, i: ir.Value = i) -> Values:
            return stage.take(builder, [value], load(i), None, None)

        ends.append(when(builder, builder.icmp_signed("<", i, length), tail, [value]))
    return stage.result(stage.tree(builder, ends))


def part(builder: ir.IRBuilder, value: ir.Value, start: int, count: int) -> ir.Value:
    """`count` lanes of a vector from `start` on; a scalar for one."""
    if count == 1:
        return builder.extract_element(value, I32(start))
    picks = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), picks)
