"""Reductions along the vectorised axis: each row's elements spread over the 64 canonical lanes, then the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from llvmlite import ir

from backends.native.access import unroll
from backends.native.accumulate import accumulator
from backends.native.emitter import ExprEmitter
from backends.native.hoist import Hoisted
from backends.native.kernel import I32, I64
from backends.native.loops import Values, counted_loop, round_down, when
from backends.native.reduce_emission import ReduceEmission
from backends.native.reduce_plan import Pass, ReducePlan
from backends.native.vectors import index_vector, splat, tail_mask
from compiler.canonical import LANES
from compiler.expr import Expr
from compiler.kernels import BROADCAST

Consume = Callable[[Values, Values, ir.Value, ir.Value, ir.Value | None], None]  # values, offsets, i, flat, mask


def emit(plan: ReducePlan, module: ir.Module, name: str) -> None:
    """Define kernel `name`."""
    _RowEmission(plan, module, name).emit_rows()


class _RowEmission(ReduceEmission):
    """Inside a row `i` counts along the last reduced axis, `flat` along all reduced axes."""

    def row(self, indices: Values, offsets: Values) -> None:
        self.indices, self.offsets = indices, offsets
        self.stats: dict[int, ir.Value] = {}
        for step in self.plan.passes:
            if step.take:
                self._accumulate(step)
            else:
                self._evaluate(step.roots, self._keeper(step))
        if self.plan.element_outputs:
            self._evaluate(self.plan.element_outputs, self._write)
        self._write_row_outputs()

    def _write_row_outputs(self) -> None:
        leaf = self._leaves(self.indices, self.offsets, I64(0), I64(0), 1, None)
        emitter = ExprEmitter(self.builder, 1, leaf)
        for number, root in enumerate(self.spec.row_outputs, len(self.plan.element_outputs)):
            offset = self.offsets[len(self.spec.inputs) + number]
            self.writes[number].store(self.builder, emitter.emit(root), offset, I64(0))

    def _leaves(
        self, indices: Values, offsets: Values, i: ir.Value, flat: ir.Value, lanes: int, mask: ir.Value | None
    ) -> Callable[[Expr], ir.Value]:
        def leaf(node: Expr) -> ir.Value:
            if node.op == "arg":
                return self.operands[node.value].load(self.builder, offsets[node.value], i, lanes, mask)
            if node.op == "index":
                return indices[node.value] if node.value < len(indices) else index_vector(self.builder, i, lanes)
            if node.op == "stat":
                return self.stats[node.value]
            return self.load_kept(node, flat, lanes) if node.op == "kept" else self.extent_value(node)

        return leaf

    def _hoist(self, roots: Sequence[Expr], indices: Values, offsets: Values) -> _Elements:
        def same_in_an_inner_row(leaf: Expr) -> bool:
            if leaf.op == "index":
                return leaf.value < len(indices)
            return leaf.op in ("stat", "extent") or (leaf.op == "arg" and self.spec.in_classes[leaf.value] == BROADCAST)

        return _Elements(self, Hoisted(roots, same_in_an_inner_row), indices, offsets)

    def _evaluate(self, roots: Sequence[Expr], consume: Consume) -> None:
        """Compute `roots` at every element of the row and hand them to `consume`."""
        if self.spec.reduced == 1:
            self._inner_row(roots, self.indices, self.offsets, I64(0), consume)
            return
        builder, reduced = self.builder, self.reduced

        def inner_row(flat: ir.Value, state: Values) -> Values:
            moved = [builder.add(a, b) for a, b in zip(self.offsets, reduced.offsets(state), strict=True)]
            self._inner_row(roots, self.indices + reduced.indices(state), moved, flat, consume)
            return reduced.next(state)

        counted_loop(builder, I64(0), self.length, self.extent, reduced.start(), inner_row)

    def _inner_row(
        self, roots: Sequence[Expr], indices: Values, offsets: Values, start: ir.Value, consume: Consume
    ) -> None:
        builder, lanes = self.builder, self.lanes
        elements = self._hoist(roots, indices, offsets)
        block = lanes * unroll(elements.roots)
        full = round_down(builder, self.extent, block)

        def several(i: ir.Value, _: Values) -> Values:
            at = [builder.add(i, I64(step)) for step in range(0, block, lanes)]
            flats = [builder.add(start, position) for position in at]
            results = [elements.at(position, flat, None) for position, flat in zip(at, flats, strict=True)]
            for result, position, flat in zip(results, at, flats, strict=True):
                consume(result, offsets, position, flat, None)
            return []

        def masked(i: ir.Value, _: Values) -> Values:
            mask = tail_mask(builder, builder.sub(self.extent, i), lanes)
            flat = builder.add(start, i)
            consume(elements.at(i, flat, mask), offsets, i, flat, mask)
            return []

        counted_loop(builder, I64(0), full, I64(block), [], several)
        counted_loop(builder, full, self.extent, I64(lanes), [], masked)

    def _keeper(self, step: Pass) -> Consume:
        def keep(values: Values, offsets: Values, i: ir.Value, flat: ir.Value, mask: ir.Value | None) -> None:
            for stage, value in zip(step.stages, values, strict=True):
                if stage in step.store:
                    self.store_kept(stage, value, flat)

        return keep

    def _write(self, values: Values, offsets: Values, i: ir.Value, flat: ir.Value, mask: ir.Value | None) -> None:
        for number, value in enumerate(values):
            self.writes[number].store(self.builder, value, offsets[len(self.spec.inputs) + number], i, mask)

    def _accumulate(self, step: Pass) -> None:
        """The statistics of the stages of `step`, over the flattened row."""
        builder, lanes, count = self.builder, self.lanes, LANES // self.lanes
        elements = self._hoist(step.roots, self.indices, self.offsets)
        keep = self._keeper(step)
        stages = [accumulator(self.plan.stages[stage]) for stage in step.stages]
        starts = [[stage.start(lanes, I32) for stage in stages] for _ in range(count)]
        widths = [len(state) for state in starts[0]]

        def take(states: list[Values], i: ir.Value, mask: ir.Value | None) -> list[Values]:
            values = elements.at(i, i, mask)
            keep(values, self.offsets, i, i, mask)
            block_number = splat(builder, builder.trunc(builder.lshr(i, I64(LANES.bit_length() - 1)), I32), lanes)
            return [
                stage.take(builder, state, value, block_number, mask)
                for stage, state, value in zip(stages, states, values, strict=True)
            ]

        def block(i: ir.Value, carried: Values) -> Values:
            vectors = _split(carried, widths * count)
            taken = []
            for v in range(count):
                states = vectors[v * len(stages) : (v + 1) * len(stages)]
                taken += take(states, builder.add(i, I64(v * lanes)), None)
            return list(chain.from_iterable(taken))

        full = round_down(builder, self.length, LANES)
        initial = list(chain.from_iterable(chain.from_iterable(starts)))
        vectors = _split(counted_loop(builder, I64(0), full, I64(LANES), initial, block), widths * count)
        ends: list[list[Values]] = []
        for v in range(count):
            states = vectors[v * len(stages) : (v + 1) * len(stages)]
            i = builder.add(full, I64(v * lanes))

            def tail(states: list[Values] = states, i: ir.Value = i) -> Values:
                mask = tail_mask(builder, builder.sub(self.length, i), lanes)
                return list(chain.from_iterable(take(states, i, mask)))

            inside = builder.icmp_signed("<", i, self.length)
            ends.append(_split(when(builder, inside, tail, list(chain.from_iterable(states))), widths))
        for number, (index, stage) in enumerate(zip(step.stages, stages, strict=True)):
            lanes_of_stage = [stage.number(builder, states[number], v * lanes) for v, states in enumerate(ends)]
            self.stats[index] = stage.result(stage.tree(builder, lanes_of_stage))


class _Elements:
    """Expressions of an inner row: what does not change in it is computed where this is made, the rest by `at`."""

    def __init__(self, emission: _RowEmission, hoisted: Hoisted, indices: Values, offsets: Values) -> None:
        self.emission, self.indices, self.offsets, self.roots = emission, indices, offsets, hoisted.roots
        leaf = emission._leaves(indices, offsets, I64(0), I64(0), 1, None)
        self.fixed = hoisted.emit(emission.builder, emission.lanes, leaf)

    def at(self, i: ir.Value, flat: ir.Value, mask: ir.Value | None) -> Values:
        """The values of a vector of elements."""
        lanes = self.emission.lanes
        leaves = self.emission._leaves(self.indices, self.offsets, i, flat, lanes, mask)

        def leaf(node: Expr) -> ir.Value:
            return self.fixed[node.value] if node.op == "arg" and node.value in self.fixed else leaves(node)

        emitter = ExprEmitter(self.emission.builder, lanes, leaf)
        return [emitter.emit(root) for root in self.roots]


def _split(values: Values, widths: Sequence[int]) -> list[Values]:
    rest = iter(values)
    return [[next(rest) for _ in range(width)] for width in widths]
