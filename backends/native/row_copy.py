"""Moves one row of elements: whole vectors, one value repeated, element by element, or tiles transposed in registers.

Nothing is masked where a row holds a vector: the last vector overlaps the one before.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.copy_plan import CONTIGUOUS, REPEATED
from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, round_down, smaller, when
from backends.native.target import Target
from backends.native.vectors import I32, llvm_type, load_broadcast, load_vector, store_vector, tail_mask, widen
from compiler import dtypes

Value = Callable[[ir.Value, ir.Value | None], ir.Value]

LARGEST_TILE = 16  # more rows would not stay in registers
UNROLL = 4


class RowCopy:
    """Emits row moves of unsigned integers of `element` bytes (at most 8)."""

    def __init__(self, builder: ir.IRBuilder, element: int, target: Target) -> None:
        self.builder = builder
        self.dtype = dtypes.named(f"uint{8 * element}")
        self.lanes = target.vector // element
        self.tile = self.tile_of(element, target)

    @staticmethod
    def tile_of(element: int, target: Target) -> int:
        """Side of a transposed tile, in elements."""
        return min(target.vector // min(element, 8), LARGEST_TILE)

    def move(
        self,
        source: ir.Value,
        target: ir.Value,
        start: ir.Value,
        stop: ir.Value,
        mode: ir.Value,
        from_stride: ir.Value,
        to_stride: ir.Value,
    ) -> None:
        """Elements [start, stop) of the row at addresses `source` and `target` (i8*), strides in bytes."""
        builder = self.builder

        def vectors() -> Values:
            repeated = builder.icmp_signed("==", mode, I64(REPEATED))
            when(
                builder,
                repeated,
                lambda: self._repeat(source, target, start, stop),
                lambda: self._contiguous(source, target, start, stop),
            )
            return []

        def elements() -> Values:
            self._elementwise(source, target, start, stop, from_stride, to_stride)
            return []

        when(builder, builder.icmp_signed("<=", mode, I64(max(CONTIGUOUS, REPEATED))), vectors, elements)

    def _pointer(self, base: ir.Value, i: ir.Value) -> ir.Value:
        return self.builder.gep(self.builder.bitcast(base, llvm_type(self.dtype).as_pointer()), [i])

    def _contiguous(self, source: ir.Value, target: ir.Value, start: ir.Value, stop: ir.Value) -> Values:
        def move(i: ir.Value, mask: ir.Value | None) -> ir.Value:
            return load_vector(self.builder, self._pointer(source, i), self.dtype, self.lanes, mask)

        return self._vectors(move, target, start, stop)

    def _repeat(self, source: ir.Value, target: ir.Value, start: ir.Value, stop: ir.Value) -> Values:
        value = load_broadcast(self.builder, self._pointer(source, I64(0)), self.dtype, self.lanes)
        return self._vectors(lambda i, mask: value, target, start, stop)

    def _vectors(self, value: Value, target: ir.Value, start: ir.Value, stop: ir.Value) -> Values:
        # `value(i, mask)` gives the vector of elements from i on.
        builder, lanes, dtype = self.builder, self.lanes, self.dtype
        block = lanes * UNROLL
        full = builder.add(start, round_down(builder, builder.sub(stop, start), block))

        def several(i: ir.Value, _: Values) -> Values:
            at = [builder.add(i, I64(step)) for step in range(0, block, lanes)]
            for position, loaded in zip(at, [value(position, None) for position in at], strict=True):
                store_vector(builder, loaded, self._pointer(target, position), dtype)
            return []

        def rest(i: ir.Value, _: Values) -> Values:
            position = smaller(builder, i, builder.sub(stop, I64(lanes)))
            store_vector(builder, value(position, None), self._pointer(target, position), dtype)
            return []

        def short() -> Values:
            mask = tail_mask(builder, builder.sub(stop, start), lanes)
            store_vector(builder, value(start, mask), self._pointer(target, start), dtype, mask)
            return []

        def long() -> Values:
            counted_loop(builder, start, full, I64(block), [], several)
            counted_loop(builder, full, stop, I64(lanes), [], rest)
            return []

        return when(builder, builder.icmp_signed("<", builder.sub(stop, start), I64(lanes)), short, long)

    def _elementwise(
        self,
        source: ir.Value,
        target: ir.Value,
        start: ir.Value,
        stop: ir.Value,
        from_stride: ir.Value,
        to_stride: ir.Value,
    ) -> None:
        builder = self.builder
        full = builder.add(start, round_down(builder, builder.sub(stop, start), UNROLL))

        def addresses(i: ir.Value) -> tuple[ir.Value, ir.Value]:
            return tuple(  # type: ignore[return-value]
                self._pointer(builder.gep(base, [builder.mul(i, stride)]), I64(0))
                for base, stride in ((source, from_stride), (target, to_stride))
            )

        def some(count: int) -> None:
            def body(i: ir.Value, _: Values) -> Values:
                pairs = [addresses(builder.add(i, I64(step))) for step in range(count)]
                loaded = [load_vector(builder, begin, self.dtype, 1) for begin, _ in pairs]
                for value, (_, end) in zip(loaded, pairs, strict=True):
                    store_vector(builder, value, end, self.dtype)
                return []

            begin, end = (start, full) if count > 1 else (full, stop)
            counted_loop(builder, begin, end, I64(count), [], body)

        some(UNROLL)
        some(1)

    def transpose_strip(
        self,
        source: ir.Value,
        target: ir.Value,
        start: ir.Value,
        stop: ir.Value,
        from_stride: ir.Value,
        across: ir.Value,
    ) -> None:
        """`tile` rows of the target, elements [start, stop) of each: the source is contiguous across the rows and has
        byte stride `from_stride` along them, the target is contiguous along rows that lie `across` bytes apart.
        At least `tile` elements."""
        builder, tile = self.builder, self.tile

        def one(i: ir.Value, _: Values) -> Values:
            position = smaller(builder, i, builder.sub(stop, I64(tile)))
            vectors = []
            for step in range(tile):
                offset = builder.mul(builder.add(position, I64(step)), from_stride)
                address = self._pointer(builder.gep(source, [offset]), I64(0))
                vectors.append(load_vector(builder, address, self.dtype, tile))
            for row, vector in enumerate(transpose(builder, vectors)):
                address = self._pointer(builder.gep(target, [builder.mul(I64(row), across)]), position)
                store_vector(builder, vector, address, self.dtype)
            return []

        counted_loop(builder, start, stop, I64(tile), [], one)


def transpose(builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
    """A square of vectors transposed: in round d blocks of d x d change places across the diagonal."""
    size, rows = len(rows), list(rows)
    picks = widen(I32, size)
    distance = size // 2
    while distance:
        first = ir.Constant(picks, [lane if not lane & distance else size + lane - distance for lane in range(size)])
        second = ir.Constant(picks, [lane + distance if not lane & distance else size + lane for lane in range(size)])
        for i in range(size):
            if not i & distance:
                a, b = rows[i], rows[i + distance]
                rows[i] = builder.shuffle_vector(a, b, first)
                rows[i + distance] = builder.shuffle_vector(a, b, second)
        distance //= 2
    return rows
