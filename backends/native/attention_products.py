"""The one matrix product attention needs twice: rows of A in place against a panel of B, into a tile."""

from __future__ import annotations

from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I64, POINTER
from backends.native.loops import Values, counted_loop, smaller
from backends.native.units import MatrixUnit


def define_product(module: ir.Module, name: str, unit: MatrixUnit, rows: int, columns: int) -> ir.Function:
    """void name(a, a row bytes, valid rows, b, b row bytes, depth, out, out row bytes): a tile of `rows` x
    `columns * unit.n`.

    Each is one fma chain over ascending depth, from zero. A's elements lie side by side; rows beyond the valid ones
    repeat the last. Every row of the tile at `out` is written.
    """
    kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, POINTER, I64, I64, POINTER, I64])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    a, a_row, valid, b, b_row, depth, out, out_row = function.args
    last = builder.sub(valid, I64(1))
    starts = [move(builder, a, builder.mul(smaller(builder, I64(i), last), a_row)) for i in range(rows)]

    def step(k: ir.Value, sums: Values) -> Values:
        line = move(builder, b, builder.mul(k, b_row))
        vectors = [
            unit.load_b(builder, move(builder, line, I64(j * unit.n * unit.b.bytes)), b_row) for j in range(columns)
        ]
        offset = builder.mul(k, I64(unit.a.bytes))
        after = []
        for i, start in enumerate(starts):
            element = unit.load_a(builder, move(builder, start, offset), a_row)
            after += [unit.mma(builder, sums[i * columns + j], element, vectors[j]) for j in range(columns)]
        return after

    zeros = [unit.zero(builder, number) for number in range(rows * columns)]
    sums = counted_loop(builder, I64(0), depth, I64(1), zeros, step)
    for number, total in enumerate(sums):
        row, column = divmod(number, columns)
        address = move(builder, out, builder.mul(out_row, I64(row)))
        address = move(builder, address, I64(column * unit.n * unit.acc.bytes))
        builder.store(total, builder.bitcast(address, total.type.as_pointer()), align=unit.acc.bytes)
    builder.ret_void()
    return function
