"""Convolution without copying: a table of row addresses, one for each output position and kernel position.

The micro-kernel runs over the channels of one kernel position after the other and takes its rows from the table
(Dukhan, "The Indirect Convolution Algorithm", 2019). Positions in the padding point at a row of zeros. Worth it when
the channels are many; with few the gatherer makes longer rows.

Layout: [rows / height][kernel positions][height] addresses.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.frame import move
from backends.native.gather import WindowWalk
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import counted_loop
from backends.native.vectors import I1

ADDRESS = 8  # bytes


def define_row_table(module: ir.Module, name: str, spatial: int, height: int) -> ir.Function:
    """void name(window words, input, first row, rows, zeros, table)."""
    function, builder = define_helper(module, name, [I64.as_pointer(), POINTER, I64, I64, POINTER, POINTER])
    _RowTable(builder, function, spatial, height).emit()
    builder.ret_void()
    return function


class _RowTable(WindowWalk):
    """The body of a table's maker."""

    def __init__(self, builder: ir.IRBuilder, function: ir.Function, spatial: int, height: int) -> None:
        words, image, self.first, self.rows, self.zeros, self.table = function.args
        super().__init__(builder, words, image, spatial)
        self.height = height

    def emit(self) -> None:
        """The addresses of every row."""
        builder = self.builder
        positions: ir.Value = I64(1)
        for extent in self.axis["kernel"]:
            positions = builder.mul(positions, extent)
        block_bytes = builder.mul(positions, I64(self.height * ADDRESS))

        def one_row(r: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            block = builder.mul(builder.udiv(r, I64(self.height)), block_bytes)
            within = builder.mul(builder.urem(r, I64(self.height)), I64(ADDRESS))
            corner, source = self.corner(state)
            self._positions(0, corner, source, I1(1), move(builder, self.table, builder.add(block, within)))
            return self.walk.next(state)

        counted_loop(builder, I64(0), self.rows, I64(1), self.walk.at(self.first), one_row)

    def _positions(
        self, axis: int, corner: list[ir.Value], source: ir.Value, inside: ir.Value, entry: ir.Value
    ) -> ir.Value:
        """Kernel positions from `axis` inwards; the place of the entry after them."""
        builder = self.builder
        if axis == self.spatial:
            address = builder.select(inside, source, self.zeros)
            builder.store(address, builder.bitcast(entry, POINTER.as_pointer()))
            return move(builder, entry, I64(self.height * ADDRESS))

        def one(position: ir.Value, carried: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(corner[axis], builder.mul(position, self.axis["dilation"][axis]))
            # One unsigned comparison: negative coordinates are huge.
            within = builder.and_(inside, builder.icmp_unsigned("<", at, self.axis["input"][axis]))
            line = move(builder, source, builder.mul(at, self.strides[axis + 1]))
            return [self._positions(axis + 1, corner, line, within, carried[0])]

        return counted_loop(builder, I64(0), self.axis["kernel"][axis], I64(1), [entry], one)[0]
