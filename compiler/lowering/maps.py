"""Maps and reductions onto kernel calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler import views
from compiler.dims import Size
from compiler.expr import Expr, arg, arguments, transform
from compiler.ir import Node
from compiler.kernels import MapSpec, ReduceSpec, Stage, View
from compiler.lowering.axes import collapse, indexed_axes, move_indexes

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


def emit_map(low: Lowering, outputs: Sequence[Expr], reads: Sequence[View], writes: Sequence[View]) -> None:
    """One map call. All views have the same shape; operands nobody reads are dropped, equal ones read once."""
    if any(size == 0 for size in writes[0].shape):
        return
    outputs, reads = share_operands(outputs, reads)
    space = collapse([*writes, *reads], views.memory_order(writes[0]), indexed_axes(outputs))
    count = len(writes)
    spec = MapSpec(
        outputs=tuple(move_indexes(e, space.position) for e in outputs),
        inputs=tuple(view.dtype for view in reads),
        rank=len(space.extents),
        in_classes=tuple(space.inner_class(count + i) for i in range(len(reads))),
        out_classes=tuple(space.inner_class(i) for i in range(count)),
    )
    low.call(
        spec,
        [space.view(count + i, view) for i, view in enumerate(reads)],
        [space.view(i, view) for i, view in enumerate(writes)],
    )


def share_operands(exprs: Sequence[Expr], reads: Sequence[View]) -> tuple[tuple[Expr, ...], list[View]]:
    """Expressions renumbered so that each distinct view that is read appears once."""
    kept: list[View] = []
    numbers: dict[int, int] = {}
    for number in arguments(tuple(exprs)):
        if reads[number] not in kept:
            kept.append(reads[number])
        numbers[number] = kept.index(reads[number])
    return tuple(transform(e, lambda n: arg(numbers[n.value], n.dtype) if n.op == "arg" else None) for e in exprs), kept


def lower_reduce(node: Node, low: Lowering) -> None:
    """A row program: outer axes then reduced axes, each group ordered by the main operand's memory layout."""
    attrs = node.attrs
    stages, elements, rows = attrs["stages"], attrs["elements"], attrs["rows"]
    full = low.broadcast_shape(node.inputs)
    axes = tuple(a % len(full) for a in attrs["axes"]) if full else ()
    reads = [low.broadcast_view(v, full) for v in node.inputs]
    order = low.layout_of(node.inputs, full)
    exprs, reads = share_operands([*(s.expr for s in stages), *elements, *rows], reads)
    stages = [replace(s, expr=e) for s, e in zip(stages, exprs, strict=False)]
    elements = exprs[len(stages) : len(stages) + len(elements)]
    rows = exprs[len(stages) + len(elements) :]

    writes = [low.allocate(value, order) for value in node.outputs[: len(elements)]]
    for value in node.outputs[len(elements) :]:
        writes.append(_row_view(low, value, order, axes, attrs["keepdims"], full))
    outer = [a for a in order if a not in axes]
    reduced = [a for a in order if a in axes]
    if any(s.fn.startswith("arg") for s in stages):
        reduced.sort()  # positions are counted in logical order
    emit_reduce(low, stages, elements, rows, reads, writes, outer, reduced)


def _row_view(
    low: Lowering, value: object, order: Sequence[int], axes: Sequence[int], keepdims: bool, full: Sequence[Size]
) -> View:
    """The output of a row expression as a view of the full space, repeated along the reduced axes."""
    if keepdims:
        view = low.allocate(value, order)
    else:
        left = [a for a in range(len(full)) if a not in axes]
        view = low.allocate(value, [left.index(a) for a in order if a not in axes])
        strides = iter(view.strides)
        view = replace(view, strides=tuple(0 if a in axes else next(strides) for a in range(len(full))))
    strides_full = tuple(0 if a in axes else s for a, s in enumerate(view.strides))
    return replace(view, shape=tuple(full), strides=strides_full)


def emit_reduce(
    low: Lowering,
    stages: Sequence[Stage],
    elements: Sequence[Expr],
    rows: Sequence[Expr],
    reads: Sequence[View],
    writes: Sequence[View],
    outer: Sequence[int],
    reduced: Sequence[int],
) -> None:
    """One reduce call. All views have the full shape; `outer` and `reduced` list its axes in the order to walk them."""
    operands = [*writes, *reads]
    if any(size == 0 for axis, size in enumerate(operands[0].shape) if axis in outer):
        return
    used = indexed_axes([*(s.expr for s in stages), *elements, *rows])
    outside, inside = collapse(operands, outer, used), collapse(operands, reduced, used)
    position = {**outside.position, **{a: len(outside.extents) + p for a, p in inside.position.items()}}

    def moved(expr: Expr) -> Expr:
        return move_indexes(expr, position)

    # The main operand decides which axis is contiguous; without operands the first output does.
    main = max(range(len(operands)), key=lambda i: (i >= len(writes), _steps(operands[i]), -i))
    column = inside.strides[main][-1] != 1 and outside.strides[main][-1] == 1 and outside.extents[-1] != 1
    vector = outside if column else inside
    classes = [vector.inner_class(i) for i in range(len(operands))]
    spec = ReduceSpec(
        inputs=tuple(view.dtype for view in reads),
        stages=tuple(replace(s, expr=moved(s.expr)) for s in stages),
        element_outputs=tuple(moved(e) for e in elements),
        row_outputs=tuple(moved(e) for e in rows),
        outer=len(outside.extents),
        reduced=len(inside.extents),
        vector_axis="column" if column else "row",
        in_classes=tuple(classes[len(writes) :]),
        out_classes=tuple(classes[: len(writes)]),
    )
    extents = (*outside.extents, *inside.extents)
    final = [
        View(v.buffer, v.dtype, extents, (*outside.strides[i], *inside.strides[i]), v.offset)
        for i, v in enumerate(operands)
    ]
    low.call(spec, final[len(writes) :], final[: len(writes)])


def _steps(view: View) -> int:
    """How many axes a view really walks along: a measure of how much of the space it covers."""
    return sum(stride != 0 for stride in view.strides)
