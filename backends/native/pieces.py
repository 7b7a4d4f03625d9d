"""FP32 as three bfloat16 pieces: x = x0 + x1 + x2, each what is left rounded to nearest even, 8 of 24 bits each.

The sum is exact for every finite x but for what is left below 2^-126: denormals count as 0, as they do where bfloat16
is multiplied. Nothing is rounded beyond the largest bfloat16, so x0 of a finite x is finite; an infinity has an
infinite x1 and a NaN in x2, a NaN has NaNs in both.

In memory 32 elements, a *run*, are 32 first pieces, 32 second and 32 third ones: 6 bytes an element, and whatever is
linear in elements stays linear in bytes, run by run.

Henry, Tang and Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype for Higher-Precision Computations",
arXiv:1904.06376.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from llvmlite import ir

from backends.native.conversions import round_register
from backends.native.frame import move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import Values, counted_loop, smaller
from backends.native.memory import aligned_zeros
from backends.native.pack import PanelPacker
from backends.native.vectors import (
    I32,
    constant,
    from_storage,
    llvm_type,
    load_vector,
    register_type,
    store_vector,
    tail_mask,
    to_storage,
)
from compiler import dtypes
from compiler.dtypes import DType

COUNT, RUN = 3, 32  # pieces of an element, elements of a run
PIECE_BYTES = RUN * dtypes.bfloat16.bytes  # of one piece of a run
LARGEST = float.fromhex("0x1.fep127")  # bfloat16
SIGN = 0x8000_0000

Narrow = Callable[[ir.IRBuilder, ir.Value], ir.Value]  # FP32 elements as bfloat16, as memory holds them


class PiecesType(DType):
    """An element as its pieces."""

    @cached_property
    def numpy(self) -> np.dtype:
        return np.dtype((np.void, COUNT * dtypes.bfloat16.bytes))


PIECES = PiecesType("bf16x3", "float", 48)


def pieces_of(x: np.ndarray) -> tuple[np.ndarray, ...]:
    """The pieces of float32 elements, as float32 in the shape of `x`."""
    first = np.where(x < np.float32(LARGEST), x, np.float32(LARGEST))
    rest, found = np.where(first > np.float32(-LARGEST), first, np.float32(-LARGEST)), []
    with np.errstate(invalid="ignore"):
        for _ in range(COUNT):
            rest = np.where(np.abs(rest) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), rest), rest)
            found.append(rest.astype(dtypes.bfloat16.numpy).astype(np.float32))
            x = x - found[-1]
            rest = x
    return tuple(found)


def split_panels(panels: np.ndarray) -> np.ndarray:
    """Packed panels [..., K/D, W, D] of float32 (C-contiguous, W * D whole runs) as [..., K/D, runs, 3, 32] of
    bfloat16."""
    *outer, width, depth = panels.shape
    runs = panels.reshape(*outer, width * depth // RUN, RUN)
    split = aligned_zeros((*runs.shape[:-1], COUNT, RUN), dtypes.bfloat16.numpy)
    for number, piece in enumerate(pieces_of(runs)):
        split[..., number, :] = piece
    return split


def rounded(builder: ir.IRBuilder, elements: ir.Value) -> ir.Value:
    """FP32 elements rounded to bfloat16, denormals to 0, where no instruction does that."""
    integer = ir.VectorType(I32, RUN)
    bits = builder.bitcast(elements, integer)
    magnitude = builder.and_(bits, constant(integer, SIGN - 1))
    small = builder.icmp_unsigned("<", magnitude, constant(integer, 0x0080_0000))
    flushed = builder.select(small, builder.and_(bits, constant(integer, SIGN)), bits)
    piece = round_register(builder, builder.bitcast(flushed, elements.type), dtypes.bfloat16)
    return to_storage(builder, piece, dtypes.bfloat16)


def store_run(builder: ir.IRBuilder, elements: ir.Value, target: ir.Value, narrow: Narrow) -> None:
    """32 elements, in registers as FP32, to the i8* `target` as a run of pieces."""
    low, high = (constant(elements.type, sign * LARGEST) for sign in (-1, 1))
    rest = builder.select(builder.fcmp_ordered("<", elements, high), elements, high)
    rest = builder.select(builder.fcmp_ordered(">", rest, low), rest, low)
    for number in range(COUNT):
        stored = narrow(builder, rest)
        address = builder.bitcast(move(builder, target, I64(number * PIECE_BYTES)), stored.type.as_pointer())
        builder.store(stored, address, align=dtypes.bfloat16.bytes)
        if number + 1 < COUNT:
            elements = rest = builder.fsub(elements, from_storage(builder, stored, dtypes.bfloat16))


def define_row_splitter(module: ir.Module, name: str, narrow: Narrow) -> ir.Function:
    """void name(rows, row stride, k stride, count, k, target, pitch): rows of FP32 into rows of pieces `pitch` bytes
    apart, whole runs with zeros behind the last element; strides in bytes."""
    function, builder = define_helper(module, name, [POINTER, I64, I64, I64, I64, POINTER, I64])
    rows, stride, k_stride, count, k, target, pitch = function.args
    kind, size = dtypes.float32, dtypes.float32.bytes
    rest = builder.urem(k, I64(RUN))
    whole, mask = builder.sub(k, rest), tail_mask(builder, rest, RUN)
    held = builder.alloca(register_type(kind, RUN))  # a run whose elements lie apart
    elements = builder.bitcast(held, llvm_type(kind).as_pointer())

    def store(values: ir.Value, to: ir.Value, i: ir.Value) -> Values:
        run_bytes = I64(RUN * PIECES.bytes)
        store_run(builder, values, move(builder, to, builder.mul(builder.udiv(i, I64(RUN)), run_bytes)), narrow)
        return []

    def dense(source: ir.Value, to: ir.Value) -> None:
        def run(i: ir.Value, mask: ir.Value | None) -> Values:
            at = builder.bitcast(move(builder, source, builder.mul(i, I64(size))), elements.type)
            return store(load_vector(builder, at, kind, RUN, mask), to, i)

        counted_loop(builder, I64(0), whole, I64(RUN), [], lambda i, _: run(i, None))
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            run(whole, mask)

    def apart(source: ir.Value, to: ir.Value) -> None:
        def run(i: ir.Value, _: Values) -> Values:
            builder.store(constant(register_type(kind, RUN), 0), held)

            def element(lane: ir.Value, _: Values) -> Values:
                at = move(builder, source, builder.mul(builder.add(i, lane), k_stride))
                value = load_vector(builder, builder.bitcast(at, elements.type), kind, 1)
                store_vector(builder, value, builder.gep(elements, [lane]), kind)
                return []

            counted_loop(builder, I64(0), smaller(builder, I64(RUN), builder.sub(k, i)), I64(1), [], element)
            return store(builder.load(held), to, i)

        counted_loop(builder, I64(0), k, I64(RUN), [], run)

    def one(i: ir.Value, _: Values) -> Values:
        source, to = move(builder, rows, builder.mul(i, stride)), move(builder, target, builder.mul(i, pitch))
        with builder.if_else(builder.icmp_signed("==", k_stride, I64(size))) as (yes, no):
            with yes:
                dense(source, to)
            with no:
                apart(source, to)
        return []

    counted_loop(builder, I64(0), count, I64(1), [], one)
    builder.ret_void()
    return function


class PiecesPacker(PanelPacker):
    """Packs FP32 into panels of pieces: what a vector of groups holds is a run."""

    def __init__(self, narrow: Narrow, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.narrow = narrow

    def elements(self) -> None:
        """No unit stride: run by run, filled element by element in registers' memory."""
        builder, kind = self.builder, register_type(self.dtype, RUN)
        held = builder.alloca(kind)
        lanes = builder.bitcast(held, self._typed(self.panel).type)

        def group(number: ir.Value, _: Values) -> Values:
            first = builder.mul(number, I64(self.depth))

            def run(x: ir.Value, _: Values) -> Values:
                builder.store(constant(kind, 0), held)

                def column(lane: ir.Value, _: Values) -> Values:
                    def element(d: ir.Value, _: Values) -> Values:
                        at = self._typed(self._address(builder.add(x, lane), builder.add(first, d)))
                        to = builder.gep(lanes, [builder.add(builder.mul(lane, I64(self.depth)), d)])
                        builder.store(builder.load(at, align=self.dtype.bytes), to)
                        return []

                    deep = smaller(builder, I64(self.depth), builder.sub(self.ks, first))
                    counted_loop(builder, I64(0), deep, I64(1), [], element)
                    return []

                wide = smaller(builder, I64(self.lanes), builder.sub(self.xs, x))
                counted_loop(builder, I64(0), wide, I64(1), [], column)
                self._store(builder.load(held), number, x)
                return []

            counted_loop(builder, I64(0), I64(self.width), I64(self.lanes), [], run)
            return []

        counted_loop(builder, I64(0), self._groups(self.whole), I64(1), [], group)

    def _store(self, groups: ir.Value, group: ir.Value, x: ir.Value) -> None:
        builder, element = self.builder, self.depth * PIECES.bytes
        offset = builder.add(builder.mul(group, I64(self.width * element)), builder.mul(x, I64(element)))
        elements = builder.bitcast(groups, register_type(self.dtype, RUN))
        store_run(builder, elements, move(builder, self.panel, offset), self.narrow)
