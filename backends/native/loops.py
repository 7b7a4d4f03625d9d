"""Control flow and chunking shared by the code generators that are no matrix products.

Bodies are Python callables that emit into the current block; loop-carried values are passed to them and returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from llvmlite import ir

from backends.native.kernel import I64
from compiler.dims import Size
from compiler.kernels import View

Values = list[ir.Value]

CHUNK_NS = 2500.0  # below this a chunk costs more in claiming and cache traffic than a second thread gains
CHUNKS_PER_THREAD = 4


def counted_loop(
    builder: ir.IRBuilder,
    start: ir.Value,
    stop: ir.Value,
    step: ir.Value,
    initial: Sequence[ir.Value],
    body: Callable[[ir.Value, Values], Sequence[ir.Value]],
) -> Values:
    """`for i in range(start, stop, step): carried = body(i, carried)` over i64; returns the last carried values."""
    before = builder.block
    inside, after = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.cbranch(builder.icmp_signed("<", start, stop), inside, after)
    builder.position_at_end(inside)
    i = builder.phi(I64)
    i.add_incoming(start, before)
    carried = [builder.phi(value.type) for value in initial]
    for phi, value in zip(carried, initial, strict=True):
        phi.add_incoming(value, before)
    results = list(body(i, list(carried)))
    following = builder.add(i, step)
    latch = builder.block
    builder.cbranch(builder.icmp_signed("<", following, stop), inside, after)
    i.add_incoming(following, latch)
    for phi, value in zip(carried, results, strict=True):
        phi.add_incoming(value, latch)
    builder.position_at_end(after)
    return _merge(builder, [(initial, before), (results, latch)])


def when(
    builder: ir.IRBuilder,
    condition: ir.Value,
    then: Callable[[], Sequence[ir.Value]],
    otherwise: Sequence[ir.Value] | Callable[[], Sequence[ir.Value]],
) -> Values:
    """`then() if condition else otherwise`, with a branch."""
    before = builder.block
    yes, after = builder.append_basic_block("then"), builder.append_basic_block("end")
    no = builder.append_basic_block("else") if callable(otherwise) else after
    builder.cbranch(condition, yes, no)
    builder.position_at_end(yes)
    first = list(then())
    yes_end = builder.block
    builder.branch(after)
    if callable(otherwise):
        builder.position_at_end(no)
        second = list(otherwise())
        before = builder.block
        builder.branch(after)
    else:
        second = list(otherwise)
    builder.position_at_end(after)
    return _merge(builder, [(first, yes_end), (second, before)])


def _merge(builder: ir.IRBuilder, sources: Sequence[tuple[Sequence[ir.Value], ir.Block]]) -> Values:
    merged = []
    for column in zip(*(values for values, _ in sources), strict=True):
        phi = builder.phi(column[0].type)
        for value, (_, block) in zip(column, sources, strict=True):
            phi.add_incoming(value, block)
        merged.append(phi)
    return merged


def smaller(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """min(a, b) of signed integers."""
    return builder.select(builder.icmp_signed("<", a, b), a, b)


def round_down(builder: ir.IRBuilder, value: ir.Value, multiple: int) -> ir.Value:
    """`value` (not negative) rounded down to a multiple of a power of two."""
    return builder.and_(value, I64(-multiple))


def chunk_range(
    builder: ir.IRBuilder, chunk: ir.Value, per_chunk: ir.Value, total: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """[start, stop) of `total` positions that `chunk` covers."""
    start = builder.mul(chunk, per_chunk)
    return start, smaller(builder, builder.add(start, per_chunk), total)


class Odometer:
    """Walks an n-d index space in row order with one byte offset per operand; its state is a list of i64 values
    (the indices of the axes, then the offsets) for loops to carry. Divides only in `at`.

    extents[axis] and strides[operand][axis] are i64 values; strides in bytes.
    """

    def __init__(self, builder: ir.IRBuilder, extents: Sequence[ir.Value], strides: Sequence[Sequence[ir.Value]]):
        self.builder, self.extents, self.strides = builder, list(extents), [list(row) for row in strides]
        self.rank = len(self.extents)
        self._steps = [self._carry_steps(row) for row in self.strides]

    def _carry_steps(self, strides: Values) -> Values:
        # steps[a]: how the offset moves when axis a advances and every later axis returns to 0
        builder, steps = self.builder, []
        back: ir.Value = I64(0)
        for axis in reversed(range(self.rank)):
            steps.append(builder.sub(strides[axis], back))
            if axis:
                last = builder.sub(self.extents[axis], I64(1))
                back = builder.add(back, builder.mul(last, strides[axis]))
        return steps[::-1]

    def at(self, flat: ir.Value) -> Values:
        """The state at flattened position `flat`."""
        builder, indices = self.builder, []
        for axis in reversed(range(self.rank)):
            if axis:
                extent = self.extents[axis]
                divisor = builder.select(builder.icmp_signed("==", extent, I64(0)), I64(1), extent)
                indices.append(builder.urem(flat, divisor))
                flat = builder.udiv(flat, divisor)
            else:
                indices.append(flat)
        indices.reverse()
        offsets = []
        for strides in self.strides:
            offset: ir.Value = I64(0)
            for position, stride in zip(indices, strides, strict=True):
                offset = builder.add(offset, builder.mul(position, stride))
            offsets.append(offset)
        return indices + offsets

    def start(self) -> Values:
        """The state at position 0."""
        return [I64(0)] * (self.rank + len(self.strides))

    def next(self, state: Values) -> Values:
        """The state one position on."""
        builder = self.builder
        if not self.rank:
            return state
        indices, offsets = self.indices(state), self.offsets(state)
        steps = [row[0] for row in self._steps]
        moved: Values = []
        carry: ir.Value | None = None
        wraps = []
        for axis in reversed(range(self.rank)):
            advanced = builder.add(indices[axis], I64(1))
            wraps.append(builder.icmp_signed("==", advanced, self.extents[axis]) if axis else None)
            after = builder.select(wraps[-1], I64(0), advanced) if axis else advanced
            moved.append(after if carry is None else builder.select(carry, after, indices[axis]))
            if axis:
                carry = wraps[-1] if carry is None else builder.and_(carry, wraps[-1])
        for axis, wrap in zip(range(1, self.rank), reversed(wraps[:-1]), strict=True):
            steps = [builder.select(wrap, step, row[axis]) for step, row in zip(steps, self._steps, strict=True)]
        return moved[::-1] + [builder.add(offset, step) for offset, step in zip(offsets, steps, strict=True)]

    def indices(self, state: Values) -> Values:
        """The position on each axis."""
        return state[: self.rank]

    def offsets(self, state: Values) -> Values:
        """The byte offset of each operand."""
        return state[self.rank :]


def byte_strides(view: View, axes: Sequence[int], size: Callable[[Size], int]) -> list[int]:
    """The view's strides on `axes`, in bytes."""
    return [size(view.strides[axis]) * view.dtype.bytes for axis in axes]


def rows_per_chunk(rows: int, row_ns: float, threads: int) -> int:
    """How many of `rows` equal pieces of work, each about `row_ns`, one chunk takes."""
    chunks = min(rows, int(rows * row_ns / CHUNK_NS), threads * CHUNKS_PER_THREAD)
    return -(-rows // chunks) if chunks > 1 else max(rows, 1)


def row_pieces(length: int, rows: int, row_ns: float, threads: int, shortest: int, grain: int = 1) -> tuple[int, int]:
    """How many pieces rows of `length` elements are cut into where there are too few of them to share out whole, and
    the elements of a piece: about `shortest` at least, a multiple of `grain`."""
    wanted = min(int(rows * row_ns / CHUNK_NS), threads * CHUNKS_PER_THREAD)
    pieces = min(-(-wanted // max(rows, 1)), length // shortest) if rows < wanted else 1
    if pieces <= 1:
        return 1, length
    piece = -(-length // (pieces * grain)) * grain
    return -(-length // piece), piece


def product(sizes: Sequence[int]) -> int:
    """The number of positions of an index space (1 for rank 0)."""
    return prod(sizes)
