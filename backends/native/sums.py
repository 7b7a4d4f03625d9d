"""Sums of the rows of A and the columns of B beside a product: what zero points are corrected with.

Columns are summed from packed panels, by the unit itself, as the product with a row of ones; rows where they lie.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.conversions import emit_cast
from backends.native.frame import move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import Values, counted_loop
from backends.native.units import Grid, MatrixUnit
from backends.native.vectors import constant, intrinsic, llvm_type, load_vector, tail_mask, widen
from compiler.expr import Expr, walk
from compiler.kernels import GemmSpec

ROW, COLUMN = 0, 1  # stat numbers in epilogues


def wanted(epilogue: tuple[Expr, ...]) -> tuple[int, ...]:
    """Which sums expressions read."""
    return tuple(sorted({node.value for node in walk(epilogue) if node.op == "stat"}))


def needs_column_sums(spec: GemmSpec, unit: MatrixUnit) -> bool:
    """Whether columns of B are summed: for the epilogue or for the unit."""
    return bool(unit.compensation) or COLUMN in wanted(spec.epilogue)


def define_column_sums(module: ir.Module, name: str, unit: MatrixUnit, width: int) -> ir.Function:
    """void name(panel, depth, sums): the sums over `depth` rows of a packed panel's columns."""
    function, builder = define_helper(module, name, [POINTER, I64, POINTER], unit.switching)
    panel, depth, sums = function.args
    if unit.mode:
        unit.enter(builder)
    deep = unit.panels(Grid(1, width // unit.n))[1][1]
    group = width * deep * unit.b.bytes
    columns = range(0, width, unit.n)

    def step(_: ir.Value, carried: Values) -> Values:
        at, *accs = carried
        offsets = [I64(column * deep * unit.b.bytes) for column in columns]
        loaded = [unit.load_b(builder, move(builder, at, o), I64(group), j) for j, o in enumerate(offsets)]
        pairs = zip(accs or zeros, loaded, strict=True)
        total = [unit.mma(builder, acc, unit.ones(builder), b) for acc, b in pairs]
        return [move(builder, at, I64(group * (unit.k // deep))), *(total if accs else [])]

    zeros = [unit.zero(builder, number) for number, _ in enumerate(columns)]
    carried = [panel, *([] if unit.acc_type is None else zeros)]
    totals = counted_loop(builder, I64(0), depth, I64(unit.k), carried, step)[1:] or zeros
    for column, total in zip(columns, totals, strict=True):
        value = unit.row(builder, total, 0)
        address = move(builder, sums, I64(column * unit.acc.bytes))
        builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=unit.acc.bytes)
    if unit.mode:
        unit.leave(builder)
    builder.ret_void()
    return function


def define_row_sums(module: ir.Module, name: str, unit: MatrixUnit) -> ir.Function:
    """void name(rows, row stride in bytes, count, k, sums): the sums of rows whose k elements of the type `unit.left`
    lie side by side; of moved elements, what they lack is added."""
    function, builder = define_helper(module, name, [POINTER, I64, I64, I64, POINTER])
    rows, stride, count, k, sums = function.args
    lanes, source, acc = unit.n, unit.left, unit.acc
    mask = tail_mask(builder, builder.urem(k, I64(lanes)), lanes)
    whole = builder.sub(k, builder.urem(k, I64(lanes)))

    def loaded(row: ir.Value, i: ir.Value, mask: ir.Value | None) -> ir.Value:
        address = move(builder, row, builder.mul(i, I64(source.bytes)))
        typed = builder.bitcast(address, llvm_type(source).as_pointer())
        return emit_cast(builder, load_vector(builder, typed, source, lanes, mask), source, acc)

    lacking = builder.mul(k, I64(unit.compensation))
    lacking = lacking if lacking.type == llvm_type(acc) else builder.trunc(lacking, llvm_type(acc))

    def one(i: ir.Value, _: Values) -> Values:
        row = move(builder, rows, builder.mul(i, stride))
        zero = constant(widen(llvm_type(acc), lanes), 0)
        total = counted_loop(
            builder, I64(0), whole, I64(lanes), [zero], lambda j, c: [builder.add(c[0], loaded(row, j, None))]
        )[0]
        total = builder.add(total, loaded(row, whole, mask))
        value = intrinsic(builder, "vector.reduce.add", llvm_type(acc), [total], [total.type])
        value = builder.add(value, lacking)
        address = move(builder, sums, builder.mul(i, I64(acc.bytes)))
        builder.store(value, builder.bitcast(address, value.type.as_pointer()), align=acc.bytes)
        return []

    counted_loop(builder, I64(0), count, I64(1), [], one)
    builder.ret_void()
    return function
