"""Reductions along the vectorised axis: each row's elements spread over the 64 canonical lanes, then the tree."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

from backends.native.access import unroll
from backends.native.accumulate import accumulator
from backends.native.emitter import ExprEmitter
from backends.native.hoist import Hoisted
from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, round_down, smaller, when
from backends.native.reduce_emission import ReduceEmission
from backends.native.reduce_lanes import CanonicalLanes, Element
from backends.native.reduce_plan import PIECE, Pass, ReducePlan, Walk
from backends.native.vectors import index_vector, tail_mask
from compiler.canonical import LANES
from compiler.expr import Expr, kept
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
            if step.walk is Walk.EVALUATE:
                self._evaluate(step.roots, self._keeper(step))
            else:
                self._accumulate(step)
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
        self, roots: Sequence[Expr], indices: Values, offsets: Values, flat: ir.Value, consume: Consume
    ) -> None:
        """The elements of an inner row, the first of which is element `flat` of the row."""
        elements = self._hoist(roots, indices, offsets)
        self._stretch(elements, I64(0), self.extent, flat, consume)

    def _stretch(self, elements: _Elements, first: ir.Value, last: ir.Value, flat: ir.Value, consume: Consume) -> None:
        """Elements [first, last) of an inner row, which begins at element `flat` of the row."""
        builder, lanes, offsets = self.builder, self.lanes, elements.offsets
        block = lanes * unroll(elements.roots)
        full = builder.add(first, round_down(builder, builder.sub(last, first), block))

        def several(i: ir.Value, _: Values) -> Values:
            at = [builder.add(i, I64(step)) for step in range(0, block, lanes)]
            flats = [builder.add(flat, position) for position in at]
            results = [elements.at(position, f, None) for position, f in zip(at, flats, strict=True)]
            for result, position, f in zip(results, at, flats, strict=True):
                consume(result, offsets, position, f, None)
            return []

        def masked(i: ir.Value, _: Values) -> Values:
            mask = tail_mask(builder, builder.sub(last, i), lanes)
            f = builder.add(flat, i)
            consume(elements.at(i, f, mask), offsets, i, f, mask)
            return []

        counted_loop(builder, first, full, I64(block), [], several)
        counted_loop(builder, full, last, I64(lanes), [], masked)

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
        """The statistics of the stages of `step`."""
        lanes = CanonicalLanes(self.builder, [accumulator(self.plan.stages[s]) for s in step.stages], self.lanes)
        walk = {Walk.FLAT: self._flat_row, Walk.INNER: self._inner_rows, Walk.PIECES: self._pieces}[step.walk]
        ends = walk(step, lanes)
        self.stats.update(zip(step.stages, lanes.results(ends), strict=True))

    def _flat_row(self, step: Pass, lanes: CanonicalLanes) -> Values:
        """A row whose elements are evenly spaced: whole blocks, then what is left."""
        builder = self.builder
        elements, keep = self._hoist(step.roots, self.indices, self.offsets), self._keeper(step)

        def element_of(block: ir.Value) -> Element:
            def element(start: int, mask: ir.Value | None) -> Values:
                i = builder.add(block, I64(start))
                values = elements.at(i, i, mask)
                keep(values, self.offsets, i, i, mask)
                return values

            return element

        full = round_down(builder, self.length, LANES)
        carried = counted_loop(
            builder, I64(0), full, I64(LANES), lanes.initial, lambda i, state: lanes.whole(state, i, element_of(i))
        )
        return lanes.partial(carried, full, element_of(full), I64(0), builder.sub(self.length, full))

    def _pieces(self, step: Pass, lanes: CanonicalLanes) -> Values:
        """Long expressions: a piece is evaluated into scratch and taken from there while it is in the cache."""
        builder, keep = self.builder, self._keeper(step)
        elements = self._hoist(step.roots, self.indices, self.offsets)
        leaves = [kept(stage, root.dtype) for stage, root in zip(step.stages, step.roots, strict=True)]

        def piece(first: ir.Value, carried: Values) -> Values:
            last = smaller(builder, builder.add(first, I64(PIECE)), self.length)

            def keep_from_first(
                values: Values, offsets: Values, i: ir.Value, flat: ir.Value, mask: ir.Value | None
            ) -> None:
                keep(values, offsets, i, builder.sub(flat, first), mask)

            self._stretch(elements, first, last, I64(0), keep_from_first)
            count = builder.sub(last, first)
            full = round_down(builder, count, LANES)

            def element_of(block: ir.Value) -> Element:
                def element(start: int, _: ir.Value | None) -> Values:
                    return [self.load_kept(leaf, builder.add(block, I64(start)), self.lanes) for leaf in leaves]

                return element

            def whole(i: ir.Value, state: Values) -> Values:
                return lanes.whole(state, builder.add(first, i), element_of(i))

            carried = counted_loop(builder, I64(0), full, I64(LANES), carried, whole)
            position = builder.add(first, full)
            return lanes.partial(carried, position, element_of(full), I64(0), builder.sub(count, full))

        return counted_loop(builder, I64(0), self.length, I64(PIECE), lanes.initial, piece)

    def _inner_rows(self, step: Pass, lanes: CanonicalLanes) -> Values:
        """Several reduced axes: the lanes run on from inner row to inner row, so a block may begin before one and end
        behind it."""
        builder, reduced = self.builder, self.reduced
        width = len(reduced.start())

        def inner_row(flat: ir.Value, carried: Values) -> Values:
            state = carried[:width]
            moved = [builder.add(a, b) for a, b in zip(self.offsets, reduced.offsets(state), strict=True)]
            elements = self._hoist(step.roots, self.indices + reduced.indices(state), moved)

            def block(i: ir.Value, states: Values) -> Values:
                rest, position = builder.sub(self.extent, i), builder.add(flat, i)

                def element(start: int, mask: ir.Value | None) -> Values:
                    return elements.at(builder.add(i, I64(start)), builder.add(position, I64(start)), mask)

                begun = builder.icmp_signed(">=", i, I64(0))
                first = builder.select(begun, I64(0), builder.neg(i))
                return when(
                    builder,
                    builder.and_(begun, builder.icmp_signed(">=", rest, I64(LANES))),
                    lambda: lanes.whole(states, position, element),
                    lambda: lanes.partial(states, position, element, first, rest),
                )

            before = builder.neg(builder.and_(flat, I64(LANES - 1)))
            ends = counted_loop(builder, before, self.extent, I64(LANES), carried[width:], block)
            return reduced.next(state) + ends

        initial = reduced.start() + lanes.initial
        return counted_loop(builder, I64(0), self.length, self.extent, initial, inner_row)[width:]


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
