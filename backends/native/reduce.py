"""Row reductions: statistics of rows in one or several stages, then element and row outputs.

`ReduceKernel` plans arguments and scratch; reduce_row and reduce_column emit the two loop orders. The order in which
elements meet an accumulator is compiler/canonical.py's. A chunk is a range of rows (and of columns), so results do not
depend on the split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from llvmlite import ir

from backends.native import reduce_column, reduce_row
from backends.native.access import kernel_name, operand_words, vector_lanes, vector_ns
from backends.native.kernel import Arguments, VectorKernel
from backends.native.loops import byte_strides, product, row_pieces, rows_per_chunk
from backends.native.reduce_plan import PIECE, ReducePlan, plan
from backends.native.target import Target
from compiler.canonical import LANES
from compiler.dims import Size
from compiler.kernels import KernelCall, ReduceSpec

ALIGNMENT = 64


@dataclass(frozen=True)
class ReduceKernel(VectorKernel):
    """The NativeKernel of a ReduceSpec."""

    spec: ReduceSpec

    @cached_property
    def plan(self) -> ReducePlan:
        """The passes over a row."""
        spec = self.spec
        # Row outputs do not count: they are computed once a row.
        roots = (*(stage.expr for stage in spec.stages), *spec.element_outputs)
        dtypes = (*spec.inputs, *(root.dtype for root in spec.element_outputs))
        return plan(spec, min(LANES, vector_lanes(roots, dtypes, self.target)))

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        emit = reduce_row.emit if self.spec.vector_axis == "row" else reduce_column.emit
        emit(self.plan, module, self.name)

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: operands; row length, rows, rows a chunk, vectorised extent; for columns the pieces they are cut into
        and the length of one; offsets of stored elements in scratch; extents and byte strides of the other axes (outer,
        then reduced)."""
        spec, views = self.spec, (*call.reads, *call.writes)
        shape = [size(extent) for extent in max((view.shape for view in views), key=len)]
        row = spec.vector_axis == "row"
        vector_axis = len(shape) - 1 if row else spec.outer - 1
        outer = [axis for axis in range(spec.outer) if axis != vector_axis]
        reduced = [axis for axis in range(spec.outer, len(shape)) if axis != vector_axis]
        length = product(shape[spec.outer :])
        rows = product([shape[axis] for axis in outer])
        columns = 1 if row else shape[vector_axis]

        row_ns = self._row_ns(length, columns, len(views))
        block = self.plan.lanes * self.plan.unroll
        pieces, piece = (1, columns) if row else row_pieces(columns, rows, row_ns, threads, block, block)
        per_chunk = rows_per_chunk(rows, row_ns / pieces, -(-threads // pieces))
        offsets, scratch = self._scratch(length)

        words = operand_words(views, (*spec.in_classes, *spec.out_classes), size, vector_axis)
        words += [length, rows, per_chunk, shape[vector_axis]]
        if not row:
            words += [pieces, piece]
        words += offsets
        for axes in (outer, reduced):
            words += [shape[axis] for axis in axes]
            for view in views:
                words += byte_strides(view, axes, size)
        return Arguments(tuple(words), max(1, pieces * -(-rows // per_chunk)), scratch)

    def _row_ns(self, length: int, columns: int, operands: int) -> float:
        roots = (*(stage.expr for stage in self.spec.stages), *self.spec.element_outputs)
        vectors = length * columns / self.plan.lanes
        return 10.0 + vectors * (vector_ns(roots, operands) + 0.1 * len(self.spec.stages))

    def _scratch(self, length: int) -> tuple[list[int], int]:
        # Where each kept stage's elements of one row (or block of columns) lie, and how many bytes all take.
        width = self.plan.lanes * self.plan.unroll
        offsets, end = [], 0
        for stage in self.plan.stored:
            offsets.append(end)
            stored = min(length, PIECE) if stage in self.plan.pieces else length
            # Vectors are stored whole, so the last one may reach beyond the row.
            elements = stored + LANES if self.spec.vector_axis == "row" else length * width
            dtype = self.plan.stages[stage].expr.dtype
            end += -(-elements * dtype.bytes // ALIGNMENT) * ALIGNMENT
        return offsets, end


def select(call: KernelCall, target: Target) -> ReduceKernel:
    """The kernel for a ReduceSpec call."""
    assert isinstance(call.spec, ReduceSpec)
    spec = call.spec
    if spec.vector_axis == "column" and spec.outer == 0:
        spec = replace(spec, vector_axis="row")
    return ReduceKernel(spec, target, kernel_name("reduce", spec, target))
