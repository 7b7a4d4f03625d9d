"""The products of a recurrence's step: a few rows of a carried vector against panels with all gates side by side.

A panel holds one register of columns of every gate, so that the sums of an element's gates are there together. Few rows
take several panels at once, to have chains enough for the latency of a multiply-add; many take one, and hold it in
registers for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.frame import move
from backends.native.gemv import CHAINS
from backends.native.kernel import I64, POINTER
from backends.native.loops import Values, counted_loop
from backends.native.memory import aligned_zeros
from backends.native.units import MatrixUnit
from compiler.dims import Size

MOST_ROWS = 8  # of a product: each needs an address register


@dataclass(frozen=True)
class ProductShape:
    """What shapes the code of a phase's products: `gates`, `group`: panels walked together, `rows`: (row count, panels
    at once) of the products there are, from the most rows down to 1; `packed`: whether the matrix was packed ahead."""

    gates: int
    group: int
    rows: tuple[tuple[int, int], ...]
    packed: bool

    @staticmethod
    def of(unit: MatrixUnit, gates: int, columns: Size, batch: Size, packed: bool) -> ProductShape:
        """For `gates` blocks of `columns` columns and at most `batch` rows."""

        def fits(rows: int, panels: int) -> bool:
            # Sums, and (a single row takes them from memory) the columns; one register for the element of a.
            wide = gates * panels
            return rows * wide + (wide if rows > 1 else 0) + 1 <= registers_of(unit)

        group = max(p for p in range(1, CHAINS + 1) if p == 1 or (fits(1, p) and (p - 1) * gates < CHAINS))
        if isinstance(columns, int):
            panels = max(1, -(-columns // unit.n))
            costs = {g: (-(-panels // g) * max(g * gates, CHAINS), -(-panels // g) * g) for g in range(1, group + 1)}
            group = min(costs, key=lambda g: costs[g])
        most = max(r for r in range(1, MOST_ROWS + 1) if r == 1 or fits(r, 1))
        counts = range(min(most, max(batch, 1)) if isinstance(batch, int) else most, 0, -1)
        together = [max(p for p in range(1, group + 1) if p == 1 or (group % p == 0 and fits(r, p))) for r in counts]
        return ProductShape(gates, group, tuple(zip(counts, together, strict=True)), packed)

    def panels(self, unit: MatrixUnit, columns: int) -> int:
        """Panels of a matrix: a multiple of the group."""
        return -(-columns // (unit.n * self.group)) * self.group


def registers_of(unit: MatrixUnit) -> int:
    """Vector registers of a unit's machine: the power of two that holds its largest grid, a row of B and one of A."""
    needed = max(grid.rows * grid.columns + grid.columns + 1 for grid in unit.grids)
    return 1 << (needed - 1).bit_length()


def pack_matrix(array: np.ndarray, lanes: int, panels: int) -> np.ndarray:
    """[D, K, gates, N] as [D, panels, K, gates, lanes], zero padded."""
    directions, depth, gates, columns = array.shape
    wide = np.zeros((directions, depth, gates, panels * lanes), array.dtype)
    wide[..., :columns] = array
    packed = aligned_zeros((directions, panels, depth, gates, lanes), array.dtype)
    packed[...] = wide.reshape(directions, depth, gates, panels, lanes).transpose(0, 3, 1, 2, 4)
    return packed


@dataclass(frozen=True)
class Matrix:
    """One direction's matrix while running: where its panels begin, bytes from panel to panel and (not packed ahead)
    from gate to gate, K, and how many panels there are."""

    base: ir.Value
    panel: ir.Value
    gate: ir.Value
    depth: ir.Value
    panels: ir.Value


@dataclass(frozen=True)
class Sums:
    """Where sums go: row r, gate g, column n at base + r * row + g * gate + n elements; strides in bytes."""

    base: ir.Value
    row: ir.Value
    gate: ir.Value


class Products:
    """The products of one phase: `emit` multiplies all rows with all panels."""

    def __init__(self, module: ir.Module, name: str, unit: MatrixUnit, shape: ProductShape) -> None:
        self.unit, self.shape = unit, shape
        self.functions = {
            rows: self._define(module, f"{name}_{rows}x{panels}", rows, panels) for rows, panels in shape.rows
        }

    def _define(self, module: ir.Module, name: str, rows: int, panels: int) -> ir.Function:
        """void name(a, a row bytes, b, b panel bytes, b gate bytes, depth, out, out row bytes, out gate bytes): one
        fma chain an element over ascending depth, from zero."""
        unit, gates = self.unit, self.shape.gates
        kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, POINTER, I64, I64, I64, POINTER, I64, I64])
        function = ir.Function(module, kind, name)
        function.linkage = "internal"
        function.attributes.add("nounwind")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        a, a_row, b, b_panel, b_gate, depth, out, out_row, out_gate = function.args
        register = unit.n * unit.b.bytes
        lines = []  # where the columns of every panel and gate begin
        for p in range(panels):
            panel = move(builder, b, builder.mul(b_panel, I64(p)))
            step = I64(register) if self.shape.packed else b_gate
            lines += [move(builder, panel, builder.mul(step, I64(g))) for g in range(gates)]
        starts = [move(builder, a, builder.mul(a_row, I64(r))) for r in range(rows)]
        k_bytes = I64(register * gates if self.shape.packed else register)

        def step_of_k(k: ir.Value, carried: Values) -> Values:
            at, *sums = carried
            vectors = [unit.load_b(builder, move(builder, line, at), k_bytes) for line in lines]
            offset = builder.mul(k, I64(unit.a.bytes))
            after = []
            for r, start in enumerate(starts):
                element = unit.load_a(builder, move(builder, start, offset), a_row)
                after += [unit.mma(builder, sums[r * len(lines) + j], element, v) for j, v in enumerate(vectors)]
            return [builder.add(at, k_bytes), *after]

        zeros = [unit.zero(builder, number) for number in range(rows * len(lines))]
        sums = counted_loop(builder, I64(0), depth, I64(1), [I64(0), *zeros], step_of_k)[1:]
        for number, total in enumerate(sums):
            r, j = divmod(number, len(lines))
            p, g = divmod(j, gates)
            address = move(builder, out, builder.mul(out_row, I64(r)))
            address = move(builder, address, builder.mul(out_gate, I64(g)))
            address = move(builder, address, I64(p * unit.n * unit.acc.bytes))
            builder.store(total, builder.bitcast(address, total.type.as_pointer()), align=unit.acc.bytes)
        builder.ret_void()
        return function

    def emit(
        self, builder: ir.IRBuilder, a: ir.Value, a_row: ir.Value, rows: ir.Value, matrix: Matrix, out: Sums
    ) -> None:
        """Rows at `a`, `a_row` bytes apart, times the matrix."""
        shape, column = self.shape, I64(self.unit.n * self.unit.acc.bytes)
        most = I64(shape.rows[0][0])
        rest = builder.urem(rows, most)
        full = builder.sub(rows, rest)

        def multiply(count: int, together: int, row: ir.Value, first: ir.Value) -> None:
            source = move(builder, a, builder.mul(row, a_row))
            target = move(builder, out.base, builder.mul(row, out.row))
            for p in range(0, shape.group, together):
                panel = builder.add(first, I64(p))
                b = move(builder, matrix.base, builder.mul(panel, matrix.panel))
                place = move(builder, target, builder.mul(panel, column))
                arguments = [source, a_row, b, matrix.panel, matrix.gate, matrix.depth, place, out.row, out.gate]
                builder.call(self.functions[count], arguments)

        def group(first: ir.Value, _: Values) -> Values:
            def block(row: ir.Value, _: Values) -> Values:
                multiply(*shape.rows[0], row, first)
                return []

            counted_loop(builder, I64(0), full, most, [], block)
            for count, together in shape.rows[1:]:
                with builder.if_then(builder.icmp_signed("==", rest, I64(count))):
                    multiply(count, together, full, first)
            return []

        counted_loop(builder, I64(0), matrix.panels, I64(shape.group), [], group)
