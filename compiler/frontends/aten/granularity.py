"""Which elements of a tensor share a scale and a zero point, put the way the ops quantize_linear and
dequantize_linear take it: all of them, those of one index along an axis, or blocks along one axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.dims import Size
from compiler.frontends.aten.base import AtenBuilder, reshape, shape_of, unsupported
from compiler.ir import Value


@dataclass(frozen=True)
class Granularity:
    """axis, block_size: the ops' attributes. apart, repeated, shape: a scale is reshaped to `apart`, expanded to
    `repeated` and reshaped to `shape`, which is what the ops take; all are () where one number is all."""

    axis: int = 0
    block_size: int = 0
    apart: tuple[Size, ...] = ()
    repeated: tuple[Size, ...] = ()
    shape: tuple[Size, ...] = ()

    def lay_out(self, b: AtenBuilder, parameter: Value) -> Value:
        """A scale or zero point in the shape the ops take."""
        laid = reshape(b, parameter, self.apart)
        if self.repeated != self.apart:
            laid = b.emit("expand", laid, b.sizes(self.repeated))
        return reshape(b, laid, self.shape)


WHOLE = Granularity()


def along(b: AtenBuilder, x: Value, axis: int) -> Granularity:
    """A number for each index along one axis of x."""
    axis %= len(shape_of(x))
    size = (shape_of(x)[axis],)
    return Granularity(axis, 0, size, size, size)


def in_rows(b: AtenBuilder, x: Value) -> Granularity:
    """A number for each row along the last axis of x."""
    shape = shape_of(x)
    return in_blocks(b, x, (*[1] * (len(shape) - 1), shape[-1]))


def in_blocks(b: AtenBuilder, x: Value, blocks: Sequence[Size]) -> Granularity:
    """A number for each block of x of extents `blocks`, which divide the sizes of x. Raises UnsupportedOp for a block
    whose extent along the last axis it does not cover one by one varies."""
    sizes = shape_of(x)
    counts = [_count(size, block) for size, block in zip(sizes, blocks, strict=True)]
    many = [axis for axis, count in enumerate(counts) if count != 1]
    if not many:
        return WHOLE
    if len(many) == 1 and counts[many[0]] == sizes[many[0]]:
        return along(b, x, many[0])
    parted = [axis for axis, count in enumerate(counts) if count != sizes[axis]] or [len(sizes) - 1]
    axis = parted[-1]
    block = 1 if counts[axis] == sizes[axis] else blocks[axis]
    if not isinstance(block, int):
        raise unsupported(
            b, f"blocks of {tuple(blocks)} elements share a scale; expected a fixed size along axis {axis}"
        )
    apart: list[Size] = []
    repeated: list[Size] = []
    for i in range(len(sizes)):  # the ops part one axis: along the others each number is repeated
        repeats = i in parted[:-1]
        apart += [counts[i], 1] if repeats else [counts[i]]
        repeated += [counts[i], blocks[i]] if repeats else [counts[i]]
    shape = tuple(count if i == axis else size for i, (size, count) in enumerate(zip(sizes, counts, strict=True)))
    return Granularity(axis, block, tuple(apart), tuple(repeated), shape)


def _count(size: Size, block: Size) -> Size:
    if block == size:
        return 1
    return size if block == 1 else size // block
