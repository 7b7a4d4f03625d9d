"""Rows of A copied into scratch as a unit reads them: widened to its type, K rounded up to its depth with zeros."""

from __future__ import annotations

from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import Values, counted_loop
from backends.native.units import MatrixUnit
from backends.native.vectors import llvm_type, load_vector, store_vector, tail_mask
from compiler.dtypes import DType


def define_row_copier(module: ir.Module, name: str, unit: MatrixUnit) -> ir.Function:
    """void name(rows, row stride, k stride, count, k, target, pitch): strides in bytes, rows of the target `pitch`
    bytes apart, which may be written up to one vector beyond its end."""
    function, builder = define_helper(module, name, [POINTER, I64, I64, I64, I64, POINTER, I64])
    rows, stride, k_stride, count, k, target, pitch = function.args
    lanes, (read, written) = unit.row_lanes, unit.row_types
    rest = builder.urem(k, I64(lanes))
    whole, mask = builder.sub(k, rest), tail_mask(builder, rest, lanes)

    def copy(source: ir.Value, to: ir.Value, i: ir.Value, lanes: int, mask: ir.Value | None) -> None:
        value = load_vector(builder, source, read, lanes, mask)
        place = _typed(builder, move(builder, to, builder.mul(i, I64(written.bytes))), written)
        store_vector(builder, unit.converted(builder, value), place, written)

    def dense(source: ir.Value, to: ir.Value) -> None:
        # Whole vectors: what they write beyond a row, the next row overwrites.
        def vector(i: ir.Value, mask: ir.Value | None) -> Values:
            at = move(builder, source, builder.mul(i, I64(read.bytes)))
            copy(_typed(builder, at, read), to, i, lanes, mask)
            return []

        counted_loop(builder, I64(0), whole, I64(lanes), [], lambda i, _: vector(i, None))
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            vector(whole, mask)

    def strided(source: ir.Value, to: ir.Value) -> None:
        def element(i: ir.Value, _: Values) -> Values:
            at = move(builder, source, builder.mul(i, k_stride))
            copy(_typed(builder, at, read), to, i, 1, None)
            return []

        def clear(i: ir.Value, _: Values) -> Values:
            place = move(builder, to, builder.mul(i, I64(written.bytes)))
            builder.store(ir.Constant(llvm_type(written), 0), _typed(builder, place, written))
            return []

        counted_loop(builder, I64(0), k, I64(1), [], element)
        counted_loop(builder, k, builder.udiv(pitch, I64(written.bytes)), I64(1), [], clear)

    def one(i: ir.Value, _: Values) -> Values:
        source, to = move(builder, rows, builder.mul(i, stride)), move(builder, target, builder.mul(i, pitch))
        is_dense = builder.icmp_signed("==", k_stride, I64(read.bytes))
        with builder.if_else(is_dense) as (yes, no):
            with yes:
                dense(source, to)
            with no:
                strided(source, to)
        return []

    counted_loop(builder, I64(0), count, I64(1), [], one)
    builder.ret_void()
    return function


def _typed(builder: ir.IRBuilder, pointer: ir.Value, dtype: DType) -> ir.Value:
    return builder.bitcast(pointer, llvm_type(dtype).as_pointer())
