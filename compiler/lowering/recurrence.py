"""Recurrent layers onto kernel calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler import dims, views
from compiler.ir import Node
from compiler.kernels import View
from compiler.lowering.products import matrix_axis
from compiler.recurrence import RecurrenceSpec

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


def lower_recurrence(node: Node, low: Lowering) -> None:
    """One call. State 0 of all steps lies as x does, so that rows [T * B] or [B * T] of the next product are a view."""
    phases, states = node.attrs["phases"], node.attrs["states"]
    given = [low.view(value) if value is not None else None for value in node.inputs]
    given += [None] * (2 + len(phases) + states - len(given))
    x, lengths, *rest = given
    assert x is not None
    matrices, first, parameters = rest[: len(phases)], rest[len(phases) :][:states], rest[len(phases) + states :]
    first = [None if view is None or _is_zero(view, low) else view for view in first]
    x = low.with_unit_axis(x, -1)
    order = [axis for axis in views.memory_order(x) if axis < 3]
    outs = [low.allocate(node.outputs[0], [*order, 3]), *(low.allocate(value) for value in node.outputs[1:])]
    if all(0 in out.shape for out in outs):
        return
    columns = []
    for matrix in matrices:
        assert matrix is not None
        constant = low.is_weight(matrix) and dims.is_static(matrix.shape)
        columns.append("constant" if constant else matrix_axis(views.transpose(matrix, (0, 2, 1, 3))))
    spec = RecurrenceSpec(
        dtype=x.dtype,
        states=states,
        blocks=node.attrs["blocks"],
        parameters=len(parameters),
        phases=phases,
        matrices=tuple(columns),
        initial=tuple(view is not None for view in first),
        lengths=lengths.dtype if lengths is not None else None,
    )
    rows = [low.with_unit_axis(view, -1) for view in (*first, *parameters) if view is not None]
    reads = [x, *([lengths] if lengths is not None else []), *matrices, *rows]
    low.call(spec, reads, outs, tuple(int(flag) for flag in node.attrs["backward"]))


def _is_zero(view: View, low: Lowering) -> bool:
    """Whether a view repeats the constant zero, as torch's layers write a missing first state."""
    return low.is_weight(view) and not any(view.strides) and not low.weights[view.buffer].any()
