"""Packing into panels: [X, K] becomes [X/W, K/D, W, D], zero padded. In NumPy for weights, natively for what comes
fresh. X is N for B and M for A; W and D are all a packer has to know of a unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np
from llvmlite import ir

from backends.native.frame import move
from backends.native.interleave import by_shifts, by_zips, transpose
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import counted_loop, smaller
from backends.native.memory import aligned_zeros
from backends.native.prefetch import CACHE_LINE, prefetch_line
from backends.native.vectors import constant, llvm_type, load_vector, splat, tail_mask
from compiler.dtypes import DType, named

FURTHER = 512  # bytes to prefetch ahead along K where that is dense


def pack_panels(array: np.ndarray, width: int, depth: int, multiple: int = 1) -> np.ndarray:
    """[..., X, K] as [..., X/W, K/D, W, D] (X and K rounded up, K also to `multiple`, a number of D), C-contiguous."""
    *outer, x, k = array.shape
    panels, blocks = -(-x // width), _blocks(k, depth, multiple)
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
                place(packed[..., panel, deep : deep + 1, :count, :shallow], array[..., rows, deep * depth :])
    return packed


def _blocks(k: int, depth: int, multiple: int) -> int:
    """Blocks of D in a panel."""
    whole = max(depth, multiple)
    return -(-k // whole) * (whole // depth)


@dataclass(frozen=True)
class Panel:
    """A panel's element type, (W, D), the vector lanes to pack it with, what K is rounded up to if that is more than D:
    a number of D, and the bytes of registers whose halves one instruction interleaves, 0 where that takes more."""

    dtype: DType
    width: int
    depth: int
    lanes: int
    multiple: int = 1
    zips: int = 0

    @property
    def bytes(self) -> int:
        """Bytes of one block of D along K."""
        return self.width * self.depth * self.dtype.bytes


def define_panel_packer(
    module: ir.Module,
    name: str,
    panel: Panel,
    axis: str,
    expects: bool = False,
    packing: Callable[..., PanelPacker] | None = None,
) -> ir.Function:
    """void name(source, x stride, k stride, xs, ks, panel): packs one panel. With `expects` the function takes one more
    number: what lies so many bytes behind whole rows of the source is prefetched. packing: of another element type in
    the panel.

    `axis` says which side of the source has unit stride: "x", "k" or "" (neither). Strides in bytes; xs <= width.
    What lies beyond xs and ks is zero, and nothing outside the xs * ks elements is read.
    """
    function, builder = define_helper(module, name, [POINTER, I64, I64, I64, I64, POINTER, *([I64] if expects else [])])
    packer = (packing or PanelPacker)(builder, panel, *function.args)
    lanes = packer.lanes
    vectors = panel.width % lanes == 0 and (axis == "x" or lanes & (lanes - 1) == 0)
    {"x": packer.rows, "k": packer.transposed, "": packer.elements}[axis if vectors else ""]()
    if vectors and panel.multiple > panel.depth:
        packer.pad(panel.multiple)
    builder.ret_void()
    return function


class PanelPacker:
    """The bodies of panel packers, at a builder's position. D neighbours along K, a *group*, move as one integer."""

    def __init__(self, builder: ir.IRBuilder, panel: Panel, *arguments: ir.Value) -> None:
        self.builder, self.dtype, self.width, self.depth = builder, panel.dtype, panel.width, panel.depth
        self.bits = named(f"uint{8 * panel.dtype.bytes}")
        self.lanes, self.whole = min(panel.lanes, panel.width), max(panel.depth, panel.multiple)
        # A register of elements, or as much of one as there is in a panel a whole number of times.
        self.zips = panel.zips if panel.depth > 1 and panel.depth & (panel.depth - 1) == 0 else 0
        self.row_lanes = gcd(panel.zips // panel.dtype.bytes, panel.width) if self.zips else self.lanes
        self.source, self.x_stride, self.k_stride, self.xs, self.ks, self.panel, *ahead = arguments
        self.ahead = ahead[0] if ahead else None
        self.group = ir.IntType(8 * panel.depth * panel.dtype.bytes)
        self.group_bytes, self.row_bytes = panel.depth * panel.dtype.bytes, I64(panel.bytes)

    def rows(self) -> None:
        """x has unit stride: a row of vectors for each k, D of them interleaved."""
        builder, depth = self.builder, self.depth
        starts, lanes = range(0, self.width, self.row_lanes), self.row_lanes
        masks = [tail_mask(builder, self._above_zero(builder.sub(self.xs, I64(x))), lanes) for x in starts]
        rest = builder.urem(self.ks, I64(depth))
        whole = builder.sub(self.ks, rest)

        def copy(masked: bool) -> None:
            def one(k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                if self.ahead is not None and not masked:
                    self._expect_rows(k, self.ahead)
                for x, mask in zip(starts, masks, strict=True):
                    loaded = [self._row_of_x(x, builder.add(k, I64(d)), mask if masked else None) for d in range(depth)]
                    self._store(self._interleaved(loaded), self._group_of(k), I64(x))
                return []

            counted_loop(builder, I64(0), whole, I64(depth), [], one)

        with builder.if_else(builder.icmp_signed("==", self.xs, I64(self.width))) as (full, partial):
            with full:
                copy(False)
            with partial:
                copy(True)
        if depth == 1:
            return
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            for x, mask in zip(starts, masks, strict=True):
                loaded = []
                for d in range(depth):
                    there = splat(builder, builder.icmp_signed(">", rest, I64(d)), lanes)
                    loaded.append(self._row_of_x(x, builder.add(whole, I64(d)), builder.and_(mask, there)))
                self._store(self._interleaved(loaded), self._group_of(whole), I64(x))

    def _expect_rows(self, k: ir.Value, ahead: ir.Value) -> None:
        """Prefetch behind a group of rows from k on."""
        builder = self.builder
        for d in range(self.depth):
            row = self._address(I64(0), builder.add(k, I64(d)))
            for line in range(0, self.width * self.dtype.bytes, CACHE_LINE):
                prefetch_line(builder, move(builder, row, builder.add(ahead, I64(line))))

    def _interleaved(self, rows: Sequence[ir.Value]) -> ir.Value:
        """Rows of a group as one vector of groups."""
        if self.zips:
            return by_zips(self.builder, rows, self.group, self.zips)
        return by_shifts(self.builder, rows, self.group)

    def transposed(self) -> None:
        """k has unit stride: square blocks of groups are transposed in registers."""
        builder, lanes = self.builder, self.lanes
        rest = builder.urem(self.ks, I64(lanes * self.depth))
        whole = builder.sub(self.ks, rest)
        mask = tail_mask(builder, rest, lanes * self.depth)

        def block(k: ir.Value, mask: ir.Value | None, full: bool = False) -> list[ir.Value]:
            def square(start: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                rows = [self._row_of_k(builder.add(start, I64(lane)), k, mask, full) for lane in range(lanes)]
                for lane, column in enumerate(transpose(builder, rows)):
                    if mask is None:
                        self._store(column, builder.add(self._group_of(k), I64(lane)), start)
                        continue
                    with builder.if_then(builder.icmp_signed(">", rest, I64(lane * self.depth))):
                        self._store(column, builder.add(self._group_of(k), I64(lane)), start)
                return []

            counted_loop(builder, I64(0), I64(self.width), I64(lanes), [], square)
            return []

        step = I64(lanes * self.depth)
        with builder.if_else(builder.icmp_signed("==", self.xs, I64(self.width))) as (full, partial):
            with full:
                counted_loop(builder, I64(0), whole, step, [], lambda k, _: block(k, None, True))
            with partial:
                counted_loop(builder, I64(0), whole, step, [], lambda k, _: block(k, None))
        with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
            block(whole, mask)

    def elements(self) -> None:
        """No unit stride: cleared, then filled element by element."""
        builder, element = self.builder, I64(self.dtype.bytes)
        block = I64(self.width * self.depth)
        zero = constant(llvm_type(self.bits), 0)

        def clear(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            builder.store(zero, self._typed(move(builder, self.panel, builder.mul(i, element))))
            return []

        def one(k: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            row = builder.mul(self._group_of(k), block)
            row = builder.add(row, builder.urem(k, I64(self.depth)))

            def copy(x: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
                offset = builder.mul(builder.add(row, builder.mul(x, I64(self.depth))), element)
                value = builder.load(self._typed(self._address(x, k)), align=self.dtype.bytes)
                builder.store(value, self._typed(move(builder, self.panel, offset)))
                return []

            counted_loop(builder, I64(0), self.xs, I64(1), [], copy)
            return []

        counted_loop(builder, I64(0), builder.mul(self._groups(self.whole), block), I64(1), [], clear)
        counted_loop(builder, I64(0), self.ks, I64(1), [], one)

    def pad(self, multiple: int) -> None:
        """Clear what lies between the last group and K rounded up."""
        builder = self.builder
        zeros = constant(ir.VectorType(self.group, self.lanes), 0)

        def group(number: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            for x in range(0, self.width, self.lanes):
                self._store(zeros, number, I64(x))
            return []

        counted_loop(builder, self._groups(self.depth), self._groups(multiple), I64(1), [], group)

    def _groups(self, multiple: int) -> ir.Value:
        """Groups along K rounded up to `multiple`."""
        builder = self.builder
        if multiple == self.depth:
            return self._group_of(builder.add(self.ks, I64(multiple - 1)))
        wholes = builder.udiv(builder.add(self.ks, I64(multiple - 1)), I64(multiple))
        return builder.mul(wholes, I64(multiple // self.depth))

    def _group_of(self, k: ir.Value) -> ir.Value:
        return self.builder.udiv(k, I64(self.depth))

    def _row_of_x(self, x: int, k: ir.Value, mask: ir.Value | None) -> ir.Value:
        source = move(self.builder, self.source, self.builder.mul(k, self.k_stride))
        address = self._typed(move(self.builder, source, I64(x * self.dtype.bytes)))
        return load_vector(self.builder, address, self.bits, self.row_lanes, mask)

    def _row_of_k(self, x: ir.Value, k: ir.Value, mask: ir.Value | None, full: bool) -> ir.Value:
        builder, kind = self.builder, ir.VectorType(self.group, self.lanes)
        if full:
            address = self._address(x, k)
            if self.ahead is not None:
                prefetch_line(builder, move(builder, address, I64(FURTHER)))
            elements = load_vector(builder, self._typed(address), self.bits, self.lanes * self.depth, mask)
            return builder.bitcast(elements, kind)
        # Rows beyond xs read the last row there is, and count as zero.
        inside = builder.icmp_signed("<", x, self.xs)
        address = self._address(smaller(builder, x, builder.sub(self.xs, I64(1))), k)
        loaded = load_vector(builder, self._typed(address), self.bits, self.lanes * self.depth, mask)
        return builder.select(inside, builder.bitcast(loaded, kind), constant(kind, 0))

    def _address(self, x: ir.Value, k: ir.Value) -> ir.Value:
        builder = self.builder
        return move(builder, self.source, builder.add(builder.mul(x, self.x_stride), builder.mul(k, self.k_stride)))

    def _store(self, groups: ir.Value, group: ir.Value, x: ir.Value) -> None:
        builder = self.builder
        offset = builder.add(builder.mul(group, self.row_bytes), builder.mul(x, I64(self.group_bytes)))
        address = builder.bitcast(move(builder, self.panel, offset), groups.type.as_pointer())
        builder.store(groups, address, align=self.dtype.bytes)

    def _typed(self, pointer: ir.Value) -> ir.Value:
        return self.builder.bitcast(pointer, llvm_type(self.bits).as_pointer())

    def _above_zero(self, value: ir.Value) -> ir.Value:
        return self.builder.select(self.builder.icmp_signed(">", value, I64(0)), value, I64(0))
