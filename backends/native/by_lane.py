"""Masked gathers and scatters as loops over lanes, through memory: for modes of a machine that have no instructions for
them, where LLVM takes them apart wrongly (22.1, streaming mode: of a mask of 16 lanes it reads eight)."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

ATTRIBUTE = '"gathers-by-lane"'  # of functions in which it is to be done so
I1, I8, I64 = (ir.IntType(bits) for bits in (1, 8, 64))


def gather(
    builder: ir.IRBuilder, pointer: ir.Value, stride: ir.Value, element: ir.Type, align: int, mask: ir.Value
) -> ir.Value:
    """Elements of type `element`, `stride` (i64, in elements) apart from `pointer` on; 0 in lanes that are off."""
    kind = ir.VectorType(element, mask.type.count)
    place, lane = _in_memory(builder, ir.Constant(kind, None))

    def take(i: ir.Value) -> None:
        source = builder.gep(_typed(builder, pointer, element), [builder.mul(i, stride)])
        builder.store(builder.load(source, align=align), lane(i), align=align)

    _each_lane(builder, mask, take)
    return builder.load(place, align=1)


def scatter(
    builder: ir.IRBuilder, stored: ir.Value, pointer: ir.Value, stride: ir.Value, align: int, mask: ir.Value
) -> None:
    """Lanes that are on to places `stride` (i64, in elements) apart from `pointer` on."""
    _, lane = _in_memory(builder, stored)

    def put(i: ir.Value) -> None:
        target = builder.gep(_typed(builder, pointer, stored.type.element), [builder.mul(i, stride)])
        builder.store(builder.load(lane(i), align=align), target, align=align)

    _each_lane(builder, mask, put)


def _typed(builder: ir.IRBuilder, pointer: ir.Value, element: ir.Type) -> ir.Value:
    return builder.bitcast(pointer, element.as_pointer())


def _in_memory(builder: ir.IRBuilder, vector: ir.Value) -> tuple[ir.Value, Callable[[ir.Value], ir.Value]]:
    """Where on the stack a vector has been put, and where a lane of it is."""
    with builder.goto_entry_block():
        place = builder.alloca(vector.type)
    builder.store(vector, place, align=1)
    first = _typed(builder, place, vector.type.element)
    return place, lambda i: builder.gep(first, [i])


def _each_lane(builder: ir.IRBuilder, mask: ir.Value, body: Callable[[ir.Value], None]) -> None:
    _, flag = _in_memory(builder, builder.zext(mask, ir.VectorType(I8, mask.type.count)))
    before = builder.block
    check, on, off, after = (builder.append_basic_block(name) for name in ("lane", "on", "off", "lanes_done"))
    builder.branch(check)
    builder.position_at_end(check)
    i = builder.phi(I64)
    i.add_incoming(I64(0), before)
    builder.cbranch(builder.trunc(builder.load(flag(i), align=1), I1), on, off)
    builder.position_at_end(on)
    body(i)
    builder.branch(off)
    builder.position_at_end(off)
    following = builder.add(i, I64(1))
    i.add_incoming(following, off)
    builder.cbranch(builder.icmp_unsigned("<", following, I64(mask.type.count)), check, after)
    builder.position_at_end(after)
