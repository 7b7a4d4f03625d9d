"""Packing into panels: [X, K] becomes [X/W, K/D, W, D], zero padded. In NumPy for weights, natively for what comes
fresh. X is N for B and M for A; W and D are all a packer has to know of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I64, POINTER
from backends.native.loops import counted_loop, smaller
from backends.native.memory import aligned_zeros
from backends.native.vectors import I32, constant, llvm_type, load_vector, store_vector, tail_mask
from compiler.dtypes import DType


def pack_panels(array: np.ndarray, width: int, depth: int) -> np.ndarray:
    """[..., X, K] as [..., X/W, K/D, W, D] (X and K rounded up), C-contiguous."""
    *outer, x, k = array.shape
    panels, blocks = -(-x // width), -(-k // depth)
    packed = aligned_zeros((*outer, panels, blocks, width, depth), array.dtype)
    whole, rest = x // width, x % width
    deep, shallow = k // depth, k % depth

    def place(to: np.ndarray, source: np.ndarray) -> None:
        # to [..., P, B, w, D] from source [..., P * w, B * D]
        shape = (*outer, to.shape[-4], to.shape[-2], to.shape[-3], to.shape[-1])
        to[...] = np.swapaxes(source.reshape(shape), -3, -2)

    for rows, panel, count in (
        (slice(0, whole * width), slice(0, whole), width),
        (slice(whole * width, x), slice(whole, panels), rest),
    ):
        if count:
            place(packed[..., panel, :deep, :count, :], array[..., rows, : deep * depth])
            if shallow:
                place(packed[..., panel, deep:, :count, :shallow], array[..., rows, deep * depth :])
    return packed


@dataclass(frozen=True)
class Panel:
    """A panel's element type, (W, D), and the vector lanes to pack it with."""

    dtype: DType
    width: int
    depth: int
    lanes: int

    @property
    def bytes(self) -> int:
        """Bytes of one block of D along K."""
        return self.width * self.depth * self.dtype.bytes


def define_panel_packer(module: ir.Module, name: str, panel: Panel, axis: str) -> ir.Function:
    """void name(source, x stride, k stride, xs, ks, panel): packs one panel.

    `axis` says which side of the source has unit stride: "x", "k" or "" (neither). Strides in bytes; xs <= width.
    What lies beyond xs and ks is zero, and nothing outside the xs * ks elements is read.
    """
    kind = ir.FunctionType(ir.VoidType(), [POINTER, I64, I64, I64, I64, POINTER])
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    function.attributes.add("nounwind")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    packer = _PanelPacker(builder, panel, *function.args)
    vectors = panel.depth == 1 and panel.width % packer.lanes == 0
    {"x": packer.rows, "k": packer.transposed, "": packer.elements}[axis if vectors else ""]()
    builder.ret_void()
    return function


class _PanelPacker:
    """The bodies of panel packers, at a builder's position."""

    def __init__(self, builder: ir.IRBuilder, panel: Panel, *arguments: ir.Value) -> None:
        self.builder, self.dtype, self.width, self.depth = builder, panel.dtype, panel.width, panel.depth
        self.lanes = min(panel.lanes, panel.width)
        self.source, self.x_stride, self.k_stride, self.xs, self.ks, self.panel = arguments
        self.row_bytes = I64(panel.width * panel.dtype.bytes)

    def rows(self) -> None:
        """x has unit stride: copy a row of vectors for each k."""
        builder, lanes = self.builder, self.lanes
        starts = range(0, self.width, lanes)
        masks = [tail_mask(builder, self._above_zero(builder.sub(self.xs, I64(x))), lanes) for x in starts]

        def copy(masked: bool) -> None:
            def one(k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                source = move(builder, self.source, builder.mul(k, self.k_stride))
                for x, mask in zip(starts, masks, strict=True):
                    address = self._typed(move(builder, source, I64(x * self.dtype.bytes)))
                    self._store(load_vector(builder, address, self.dtype, lanes, mask if masked else None), k, I64(x))
                return []

            counted_loop(builder, I64(0), self.ks, I64(1), [], one)

        with builder.if_else(builder.icmp_signed("==", self.xs, I64(self.width))) as (whole, partial):
            with whole:
                copy(False)
            with partial:
                copy(True)

    def transposed(self) -> None:
        """k has unit stride: square blocks are transposed in registers, the rest of K element by element."""
        builder, lanes = self.builder, self.lanes
        whole = builder.and_(self.ks, I64(-lanes))

        def block(k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            def square(start: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                rows = [self._row_of_k(builder.add(start, I64(lane)), k) for lane in range(lanes)]
                for lane, column in enumerate(transpose(builder, rows)):
                    self._store(column, builder.add(k, I64(lane)), start)
                return []

            counted_loop(builder, I64(0), I64(self.width), I64(lanes), [], square)
            return []

        counted_loop(builder, I64(0), whole, I64(lanes), [], block)
        self._elements_from(whole)

    def elements(self) -> None:
        """No unit stride: element by element."""
        self._elements_from(I64(0))

    def _elements_from(self, start: ir.Value) -> None:
        # `start` is a multiple of the depth: blocks from there on are cleared, then filled.
        builder, element = self.builder, I64(self.dtype.bytes)
        block = I64(self.width * self.depth)
        zero = constant(llvm_type(self.dtype), 0)

        def clear(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            builder.store(zero, self._typed(move(builder, self.panel, builder.mul(i, element))))
            return []

        def one(k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            row = builder.mul(builder.udiv(k, I64(self.depth)), block)
            row = builder.add(row, builder.urem(k, I64(self.depth)))

            def copy(x: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                offset = builder.mul(builder.add(row, builder.mul(x, I64(self.depth))), element)
                value = builder.load(self._typed(self._address(x, k)))
                builder.store(value, self._typed(move(builder, self.panel, offset)))
                return []

            counted_loop(builder, I64(0), self.xs, I64(1), [], copy)
            return []

        blocks = builder.udiv(builder.add(self.ks, I64(self.depth - 1)), I64(self.depth))
        first = builder.mul(builder.udiv(start, I64(self.depth)), block)
        counted_loop(builder, first, builder.mul(blocks, block), I64(1), [], clear)
        counted_loop(builder, start, self.ks, I64(1), [], one)

    def _row_of_k(self, x: ir.Value, k: ir.Value) -> ir.Value:
        # Rows beyond xs read the last row there is, and count as zero.
        builder = self.builder
        inside = builder.icmp_signed("<", x, self.xs)
        address = self._address(smaller(builder, x, builder.sub(self.xs, I64(1))), k)
        loaded = load_vector(builder, self._typed(address), self.dtype, self.lanes)
        return builder.select(inside, loaded, constant(loaded.type, 0))

    def _address(self, x: ir.Value, k: ir.Value) -> ir.Value:
        builder = self.builder
        return move(builder, self.source, builder.add(builder.mul(x, self.x_stride), builder.mul(k, self.k_stride)))

    def _store(self, value: ir.Value, k: ir.Value, x: ir.Value) -> None:
        offset = self.builder.add(self.builder.mul(k, self.row_bytes), self.builder.mul(x, I64(self.dtype.bytes)))
        store_vector(self.builder, value, self._typed(move(self.builder, self.panel, offset)), self.dtype)

    def _typed(self, pointer: ir.Value) -> ir.Value:
        return self.builder.bitcast(pointer, llvm_type(self.dtype).as_pointer())

    def _above_zero(self, value: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed(">", value, I64(0)), value, I64(0))


def transpose(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a square matrix of vectors (a power of two): log2 rounds of swapping halves between row pairs."""
    lanes = len(rows)
    current, half = list(rows), lanes // 2
    while half:
        low = [i if not i & half else i - half + lanes for i in range(lanes)]
        high = [i + half if not i & half else i + lanes for i in range(lanes)]
        following = list(current)
        for i in range(lanes):
            if not i & half:
                pair = current[i], current[i + half]
                following[i] = builder.shuffle_vector(*pair, _shuffle(low))
                following[i + half] = builder.shuffle_vector(*pair, _shuffle(high))
        current, half = following, half // 2
    return current


def _shuffle(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))
