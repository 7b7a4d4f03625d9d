"""The expressions of a recurrence's step, row by row over sums, blocks of x, carried vectors and parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from backends.native.emitter import ExprEmitter
from backends.native.frame import move
from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop
from backends.native.vectors import constant, llvm_type, load_vector, register_type, store_vector, tail_mask
from compiler.dtypes import DType
from compiler.expr import Expr
from compiler.recurrence import Phase

TOGETHER = 2  # vectors side by side: the chains of a cell's functions are long

Body = Callable[[ir.Value, int, ir.Value | None], None]


@dataclass(frozen=True)
class Row:
    """Where one row's elements lie: an i8* for each block of x, vector, parameter and gate, and for y."""

    blocks: Sequence[ir.Value]
    vectors: Sequence[ir.Value]
    parameters: Sequence[ir.Value]
    sums: Sequence[ir.Value]
    y: ir.Value


class RowEmitter:
    """Emits work on rows of `dtype` in vectors of `lanes`. Scratch rows are padded to whole vectors, others are not."""

    def __init__(self, builder: ir.IRBuilder, dtype: DType, lanes: int) -> None:
        self.builder, self.dtype, self.lanes = builder, dtype, lanes

    def columns(self, count: ir.Value, together: int, body: Body) -> None:
        """body(column, lanes, mask) over `count` columns: `together` vectors at once, what is left one by one."""
        builder, wide = self.builder, self.lanes * together
        full = builder.sub(count, builder.urem(count, I64(wide)))

        def whole(column: ir.Value, _: Values) -> Values:
            body(column, wide, None)
            return []

        def rest(column: ir.Value, _: Values) -> Values:
            body(column, self.lanes, tail_mask(builder, builder.sub(count, column), self.lanes))
            return []

        counted_loop(builder, I64(0), full, I64(wide), [], whole)
        counted_loop(builder, full, count, I64(self.lanes), [], rest)

    def copy(self, source: ir.Value | None, target: ir.Value, count: ir.Value) -> None:
        """A row copied; without a source, zeros."""

        def body(column: ir.Value, lanes: int, mask: ir.Value | None) -> None:
            zeros = constant(register_type(self.dtype, lanes), 0)
            value = zeros if source is None else self._load(source, column, lanes, mask)
            store_vector(self.builder, value, self._at(target, column), self.dtype, mask)

        self.columns(count, 1, body)

    def cell(self, phase: Phase, row: Row, count: ir.Value) -> None:
        """The outputs of a phase for one row of `count` columns; y too where state 0 is among them."""
        places = [*row.blocks, *row.vectors, *row.parameters, *row.sums]
        in_scratch = [False] * len(row.blocks) + [True] * len(row.vectors) + [False] * len(row.parameters)
        in_scratch += [True] * len(row.sums)

        def body(column: ir.Value, lanes: int, mask: ir.Value | None) -> None:
            def leaf(node: Expr) -> ir.Value:
                return self._load(places[node.value], column, lanes, None if in_scratch[node.value] else mask)

            emitter = ExprEmitter(self.builder, lanes, leaf)
            values = [emitter.emit(expr) for expr in phase.outputs]
            for target, value in zip(phase.targets, values, strict=True):
                store_vector(self.builder, value, self._at(row.vectors[target], column), self.dtype)
                if target == 0:
                    store_vector(self.builder, value, self._at(row.y, column), self.dtype, mask)

        self.columns(count, TOGETHER, body)

    def _at(self, row: ir.Value, column: ir.Value) -> ir.Value:
        address = move(self.builder, row, self.builder.mul(column, I64(self.dtype.bytes)))
        return self.builder.bitcast(address, llvm_type(self.dtype).as_pointer())

    def _load(self, row: ir.Value, column: ir.Value, lanes: int, mask: ir.Value | None) -> ir.Value:
        return load_vector(self.builder, self._at(row, column), self.dtype, lanes, mask)
