"""Reductions across the vectorised axis: rows lie side by side, one lane each, and take their elements in row order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from llvmlite import ir

from backends.native.accumulate import accumulator
from backends.native.emitter import ExprEmitter
from backends.native.hoist import Hoisted
from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, round_down
from backends.native.reduce_emission import ReduceEmission
from backends.native.reduce_plan import Pass, ReducePlan
from backends.native.vectors import index_vector, splat, tail_mask
from compiler.expr import Expr


def emit(plan: ReducePlan, module: ir.Module, name: str) -> None:
    """Define kernel `name`."""
    _ColumnEmission(plan, module, name).emit_rows()


class _ColumnEmission(ReduceEmission):
    """A block is `vectors` vectors of columns; `flat` counts along the reduced axes."""

    def row(self, indices: Values, offsets: Values) -> None:
        builder, lanes = self.builder, self.lanes
        block = lanes * self.plan.unroll
        full = builder.add(self.start, round_down(builder, builder.sub(self.stop, self.start), block))

        def several(column: ir.Value, _: Values) -> Values:
            columns = [builder.add(column, I64(step)) for step in range(0, block, lanes)]
            _Block(self, indices, offsets, columns, None).emit()
            return []

        def masked(column: ir.Value, _: Values) -> Values:
            mask = tail_mask(builder, builder.sub(self.stop, column), lanes)
            _Block(self, indices, offsets, [column], mask).emit()
            return []

        counted_loop(builder, self.start, full, I64(block), [], several)
        counted_loop(builder, full, self.stop, I64(lanes), [], masked)


class _Block:
    """One block of columns through all passes."""

    def __init__(
        self, emission: _ColumnEmission, indices: Values, offsets: Values, columns: Values, mask: ir.Value | None
    ) -> None:
        self.emission, self.plan, self.builder, self.lanes = emission, emission.plan, emission.builder, emission.lanes
        self.indices, self.offsets, self.columns, self.mask = indices, offsets, columns, mask
        self.stats: list[dict[int, ir.Value]] = [{} for _ in columns]

    def emit(self) -> None:
        """The statistics, then the outputs."""
        for step in self.plan.passes:
            self._accumulate(step)
        if self.plan.element_outputs:
            self._write_elements()
        first = len(self.plan.element_outputs)
        for vector in range(len(self.columns)):
            emitter = ExprEmitter(self.builder, self.lanes, self._leaves(vector, self.offsets, [], I64(0)))
            for number, root in enumerate(self.emission.spec.row_outputs, first):
                self._store(number, emitter.emit(root), vector, self.offsets)

    def _leaves(self, vector: int, offsets: Values, reduced: Values, flat: ir.Value) -> Callable[[Expr], ir.Value]:
        emission, builder, lanes, column = self.emission, self.builder, self.lanes, self.columns[vector]

        def leaf(node: Expr) -> ir.Value:
            if node.op == "arg":
                return emission.operands[node.value].load(builder, offsets[node.value], column, lanes, self.mask)
            if node.op == "index":
                if node.value == emission.spec.outer - 1:
                    return index_vector(builder, column, lanes)
                return [*self.indices, column, *reduced][node.value]
            if node.op == "stat":
                return self.stats[vector][node.value]
            if node.op == "kept":
                return emission.load_kept(node, self._kept_position(flat, vector), lanes)
            return emission.extent_value(node)

        return leaf

    def _kept_position(self, flat: ir.Value, vector: int) -> ir.Value:
        row = self.builder.mul(flat, I64(self.lanes * len(self.columns)))
        return self.builder.add(row, I64(vector * self.lanes))

    def _walk(
        self, roots: Sequence[Expr], initial: Values, body: Callable[[list[Values], Values, ir.Value, Values], Values]
    ) -> Values:
        """Loop over the reduced positions with `body(values by vector, offsets, flat, carried)`."""
        emission, builder, reduced = self.emission, self.builder, self.emission.reduced
        hoisted = Hoisted(roots, lambda leaf: leaf.op in ("stat", "extent"))
        vectors = range(len(self.columns))
        fixed = [
            hoisted.emit(builder, self.lanes, self._leaves(v, self.offsets, [], I64(0)), self.lanes) for v in vectors
        ]
        width = len(reduced.start())

        def values(vector: int, offsets: Values, indices: Values, flat: ir.Value) -> Values:
            leaves = self._leaves(vector, offsets, indices, flat)

            def leaf(node: Expr) -> ir.Value:
                return fixed[vector][node.value] if node.op == "arg" and node.value in fixed[vector] else leaves(node)

            emitter = ExprEmitter(builder, self.lanes, leaf)
            return [emitter.emit(root) for root in hoisted.roots]

        def position(flat: ir.Value, carried: Values) -> Values:
            state = carried[:width]
            offsets = [builder.add(a, b) for a, b in zip(self.offsets, reduced.offsets(state), strict=True)]
            by_vector = [values(vector, offsets, reduced.indices(state), flat) for vector in vectors]
            return reduced.next(state) + body(by_vector, offsets, flat, carried[width:])

        done = counted_loop(builder, I64(0), emission.length, I64(1), reduced.start() + initial, position)
        return done[width:]

    def _accumulate(self, step: Pass) -> None:
        builder = self.builder
        stages = [accumulator(self.plan.stages[stage]) for stage in step.stages]
        starts = [stage.start(self.lanes) for _ in self.columns for stage in stages]

        def body(by_vector: list[Values], _: Values, flat: ir.Value, carried: Values) -> Values:
            states = iter(_split(carried, starts))
            position = splat(builder, flat, self.lanes)
            taken = []
            for vector, values in enumerate(by_vector):
                for number, stage, value in zip(step.stages, stages, values, strict=True):
                    if number in step.store:
                        self.emission.store_kept(number, value, self._kept_position(flat, vector))
                    taken += stage.take(builder, next(states), value, position, None)
            return taken

        ends = iter(_split(self._walk(step.roots, list(chain.from_iterable(starts)), body), starts))
        for stats in self.stats:
            for number, stage in zip(step.stages, stages, strict=True):
                stats[number] = stage.result(next(ends))

    def _write_elements(self) -> None:
        def body(by_vector: list[Values], offsets: Values, _: ir.Value, __: Values) -> Values:
            for vector, values in enumerate(by_vector):
                for number, value in enumerate(values):
                    self._store(number, value, vector, offsets)
            return []

        self._walk(self.plan.element_outputs, [], body)

    def _store(self, number: int, value: ir.Value, vector: int, offsets: Values) -> None:
        offset = offsets[len(self.emission.spec.inputs) + number]
        self.emission.writes[number].store(self.builder, value, offset, self.columns[vector], self.mask)


def _split(values: Values, like: Sequence[Values]) -> list[Values]:
    rest = iter(values)
    return [[next(rest) for _ in group] for group in like]
