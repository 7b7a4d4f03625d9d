"""ATen pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler import dims
from compiler.expr import apply
from compiler.frontends.aten.base import (
    ROWS,
    AtenBuilder,
    Row,
    aten,
    pointwise,
    reshape,
    shape_of,
    tensor_type,
    transpose,
    unsupported,
)
from compiler.frontends.aten.reduce import extreme_and_index, mean
from compiler.ir import Value

Ints = Sequence[int]


def _per_axis(numbers: Ints | int, count: int) -> tuple[int, ...]:
    numbers = (numbers,) if isinstance(numbers, int) else tuple(numbers)
    return numbers * count if len(numbers) == 1 else numbers


def _pool(b: AtenBuilder, x: Value, op: str, spatial: int, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints,
          ceil_mode: bool, **attrs: Any) -> Value:  # fmt: skip
    kernel = _per_axis(kernel, spatial)
    strides = _per_axis(stride, spatial) if stride else kernel
    pads = _per_axis(padding, spatial)
    single = tensor_type(x).rank == spatial + 1
    pooled = b.emit(
        op,
        reshape(b, x, [1, *shape_of(x)]) if single else x,
        kernel=kernel,
        strides=strides,
        dilations=_per_axis(dilation, spatial),
        pads=pads + pads,
        ceil_mode=bool(ceil_mode),
        **attrs,
    )
    return reshape(b, pooled, shape_of(pooled)[1:]) if single else pooled


def _max_pool(spatial: int) -> Row:
    def row(
        b: AtenBuilder,
        x: Value,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = (0,),
        dilation: Ints = (1,),
        ceil_mode: bool = False,
    ) -> tuple[Value | None, ...]:
        window = (spatial, kernel, stride, padding, dilation, ceil_mode)
        return _pool(b, x, "pool", *window, fn="max"), _pool(b, x, "max_pool_places", *window)

    return row


def _max_pool_values(spatial: int) -> Row:
    row = _max_pool(spatial)
    return lambda *call: row(*call)[0]


def _avg_pool(spatial: int) -> Row:
    def row(
        b: AtenBuilder,
        x: Value,
        kernel: Ints,
        stride: Ints = (),
        padding: Ints = (0,),
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Value:
        fn = "mean" if divisor_override is None else "sum"
        padded = bool(count_include_pad)
        pooled = _pool(b, x, "pool", spatial, kernel, stride, padding, (1,), ceil_mode, fn=fn, count_include_pad=padded)
        return pooled if divisor_override is None else pointwise(b, (pooled,), lambda e: e / divisor_override)

    return row


for _spatial in (1, 2, 3):
    ROWS[f"aten.max_pool{_spatial}d_with_indices.default"] = _max_pool(_spatial)
    ROWS[f"aten.max_pool{_spatial}d.default"] = _max_pool_values(_spatial)
    ROWS[f"aten.avg_pool{_spatial}d.default"] = _avg_pool(_spatial)


ADAPTIVE = (
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"
)  # fmt: skip


@aten(*(f"aten.{name}.default" for name in ADAPTIVE))
def _adaptive_avg_pool(b: AtenBuilder, x: Value, sizes: Ints) -> Value:
    """Means over nearly equal parts: a product with a constant matrix of weights along each axis."""
    rank = tensor_type(x).rank
    if all(size == 1 for size in sizes):
        return mean(b, x, range(rank - len(sizes), rank), True)
    for i, size in enumerate(sizes):
        axis = rank - len(sizes) + i
        extent = shape_of(x)[axis]
        if not isinstance(extent, int):
            raise unsupported(b, f"adaptive pooling of a symbolic size {extent} to {size}; fix that dim")
        if extent != size:
            last = [*(a for a in range(rank) if a != axis), axis]
            matrix = b.constant(_averaging(extent, size).astype(b.dtype.numpy), "averaging")
            mixed = b.emit("matmul", transpose(b, x, last), matrix)
            x = transpose(b, mixed, [int(a) for a in np.argsort(last)])
    return x


def _averaging(extent: int, parts: int) -> np.ndarray:
    matrix = np.zeros((extent, parts))
    for i, (start, end) in enumerate(_parts(extent, parts)):
        matrix[start:end, i] = 1 / (end - start)
    return matrix


def _parts(extent: int, parts: int) -> list[tuple[int, int]]:
    # Part i covers floor(i * extent / parts) up to ceil((i + 1) * extent / parts), as torch defines it.
    return [(i * extent // parts, -(-(i + 1) * extent // parts)) for i in range(parts)]


@aten("aten.adaptive_max_pool2d.default", "aten.adaptive_max_pool3d.default")
def _adaptive_max_pool(b: AtenBuilder, x: Value, sizes: Ints) -> tuple[Value | None, ...]:
    """Maxima over nearly equal parts; where they lie only of equal ones."""
    rank, count = tensor_type(x).rank, len(sizes)
    outer, extents = shape_of(x)[:-count], shape_of(x)[-count:]
    if all(size == 1 for size in sizes):
        flat = reshape(b, x, [*outer, dims.product(extents)])
        largest, places = extreme_and_index(b, flat, rank - count, False, "max")
        return reshape(b, largest, [*outer, *sizes]), reshape(b, places, [*outer, *sizes])
    for extent, size in zip(extents, sizes, strict=True):
        if not isinstance(extent, int):
            raise unsupported(b, f"adaptive pooling of a symbolic size {extent} to {size}; fix that dim")
    if all(n % size == 0 for n, size in zip(extents, sizes, strict=True)):  # type: ignore[operator]
        window = (count, [int(n) // size for n, size in zip(extents, sizes, strict=True)], (), (0,), (1,), False)  # type: ignore[arg-type]
        return _pool(b, x, "pool", *window, fn="max"), _pool(b, x, "max_pool_places", *window)
    for axis, size in enumerate(sizes, start=rank - count):
        parts = _parts(int(shape_of(x)[axis]), size)  # type: ignore[arg-type]
        longest = max(end - start for start, end in parts)
        # Shorter parts repeat their last position: that changes no maximum.
        positions = np.array([[min(start + i, end - 1) for i in range(longest)] for start, end in parts])
        taken = b.emit("take", x, b.constant(positions, "parts"), axis=axis)
        x = b.emit("reduce_max", taken, b.constant(np.array([axis + 1])), keepdims=0)
    return x, None


@aten("aten.glu.default")
def _glu(b: AtenBuilder, x: Value, axis: int = -1) -> Value:
    shape = shape_of(x)
    axis = axis % len(shape)
    half = shape[axis] // 2
    starts = [[half * part if a == axis else 0 for a in range(len(shape))] for part in (0, 1)]
    sizes = tuple(half if a == axis else size for a, size in enumerate(shape))
    steps = (1,) * len(shape)
    kept, gate = (b.emit("slice", x, starts=tuple(start), sizes=sizes, steps=steps) for start in starts)
    return pointwise(b, (kept, gate), lambda e, g: e * apply("sigmoid", g))
