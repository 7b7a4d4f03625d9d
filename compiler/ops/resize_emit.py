"""Resized axes in the graph: taps computed from symbolic sizes or a region of interest that is data, and how taps are
applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, index, kept, select, stat
from compiler.ir import Value
from compiler.kernels import Stage
from compiler.ops.elementwise import emit_map, operand, wide
from compiler.ops.resize_taps import RADIUS, Axis, Scale
from compiler.ops.sampling import NARROW, Positions, Taps, clip, cubic_weight, linear_weight
from compiler.ops.shape import known_shape

FEW_TAPS = 4  # so many slices of single elements are picked one by one and added by one map


class AxisPositions(Positions):
    """The sizes, scale and region of interest of one axis as expressions."""

    def __init__(self, b: Builder, axis: Axis, roi: tuple[Value, Value] | None) -> None:
        super().__init__(b)
        self._zero = self.real(axis.zeros) if axis.zeros is not None else None
        self.size_, self.out = self.length(axis.size), self.length(axis.out)
        if isinstance(axis.scale, Scale):
            fractions = [self.length(a) / self.length(b) for a, b in axis.scale.fractions]
            choose = "min" if axis.scale.smallest else "max"
            self.scale = reduce(lambda x, y: apply(choose, x, y), fractions)
        elif isinstance(axis.scale, Value):
            self.scale = self.real(axis.scale)
        else:
            self.scale = const(axis.scale, dtypes.float64)
        self.roi = tuple(self.real(end) for end in roi) if roi else None

    def output(self, axis: int) -> Expr:
        """The output position, which lies along `axis` of the index space."""
        position = cast(index(axis), dtypes.float64)
        return position if self._zero is None else position + self._zero

    def at(self, x: Expr, mode: str) -> Expr:
        """Where output position `x` lies on the input axis (see resize_taps.positions)."""
        size, scale = self.size_, self.scale
        length, zero = scale * size, const(0, x.dtype)
        single = apply("eq", length, const(1, x.dtype))
        if mode == "tf_crop_and_resize":
            assert self.roi is not None
            first, last = self.roi
            spread = first * (size - 1) + x * (last - first) * (size - 1) / (length - 1)
            return select(single, (first + last) * 0.5 * (size - 1), spread)
        if mode == "align_corners":
            return select(single, zero, x * (size - 1) / (length - 1))
        if mode == "asymmetric":
            return x / scale
        if mode == "tf_half_pixel_for_nn":
            return (x + 0.5) / scale
        middle = (x + 0.5) / scale - 0.5
        if mode == "pytorch_half_pixel":
            return select(apply("eq", self.out, const(1, x.dtype)), zero, middle)
        if mode == "half_pixel_symmetric":
            return middle + size * 0.5 * (1 - self.out / length)
        return middle


def emit_taps(
    b: Builder, axis: Axis, attrs: Mapping[str, Any], dtype: DType, roi: tuple[Value, Value] | None = None
) -> Taps:
    """resize_taps.taps as nodes; `roi`: 0-d values of where the axis starts and ends. dtype: of the weights."""
    sizes = AxisPositions(b, axis, roi)
    zero, last = const(0, dtypes.float64), sizes.size_ - 1
    x = sizes.at(sizes.output(1), attrs["coordinate_transformation_mode"])
    if attrs["mode"] == "nearest":
        place = _float32_nearest(sizes, axis, attrs) if attrs["float32_nearest"] else _nearest(x, attrs["nearest_mode"])
        outputs: tuple[Expr, ...] = (cast(clip(place, 0, last), dtypes.int64),)
        shape: tuple[Size, ...] = (1, axis.out)
        return Taps(b.emit("map", *sizes.values, hint="places", outputs=outputs, shape=shape), None)
    reach = axis.reach(attrs["mode"]) if attrs["antialias"] else RADIUS[attrs["mode"]]
    place = apply("floor", x) + cast(index(0), dtypes.float64) + (1 - sizes.length(reach))
    distance = apply("abs", place - x)
    if attrs["antialias"]:
        distance = distance * apply("min", sizes.scale, const(1, dtypes.float64))
    linear = attrs["mode"] == "linear"
    weight = linear_weight(distance) if linear else cubic_weight(distance, attrs["cubic_coeff_a"])
    if attrs["exclude_outside"]:
        inside = apply("and", apply("ge", place, zero), apply("le", place, last))
        weight = select(inside, weight, zero)
    shape = (2 * reach, axis.out)
    normal = not (attrs["antialias"] or attrs["exclude_outside"])
    outputs = (cast(clip(place, 0, last), dtypes.int64), cast(weight, dtype) if normal else weight)
    attributes = {"outputs": outputs, "shape": shape}
    places, weights = b.emit_many("map", sizes.values, attributes, ("places", "weights"))
    return Taps(places, weights if normal else _normalised(b, weights, dtype))


def _normalised(b: Builder, weights: Value, dtype: DType) -> Value:
    """Weights over their sum along axis 0; of no sum as they are."""
    total = stat(0, dtypes.float64)
    whole = select(apply("eq", total, const(0, dtypes.float64)), const(1, dtypes.float64), total)
    stages = (Stage("sum", arg(0, dtypes.float64), keep=True),)
    share = cast(kept(0, dtypes.float64) / whole, dtype)
    return b.emit("reduce", weights, hint="weights", axes=(0,), stages=stages, elements=(share,))


def _nearest(x: Expr, mode: str) -> Expr:
    rounded = {
        "round_prefer_floor": lambda: apply("ceil", x - 0.5),
        "round_prefer_ceil": lambda: apply("floor", x + 0.5),
        "floor": lambda: apply("floor", x),
        "ceil": lambda: apply("ceil", x),
    }
    return rounded[mode]()


def _float32_nearest(sizes: AxisPositions, axis: Axis, attrs: Mapping[str, Any]) -> Expr:
    if isinstance(axis.scale, Scale):
        step = cast(sizes.size_, dtypes.float32) / cast(sizes.out, dtypes.float32)
    else:
        step = cast(1 / sizes.scale, dtypes.float32)
    middle = 0.5 if attrs["coordinate_transformation_mode"] == "half_pixel" else 0.0
    return cast(apply("floor", (cast(index(1), dtypes.float32) + middle) * step), dtypes.float64)


def element_of(b: Builder, vector: Value, number: int) -> Value:
    """One element of a vector, 0-d."""
    one = b.emit("slice", vector, starts=(number,), sizes=(1,), steps=(1,))
    return b.emit("reshape", one, b.sizes(()))


def constant_taps(b: Builder, places: np.ndarray, weights: np.ndarray | None, dtype: DType) -> Taps:
    """Taps known while compiling."""
    return Taps(b.constant(places, "places"), None if weights is None else b.constant(weights, "weights", dtype))


def apply_taps(b: Builder, x: Value, axis: int, taps: Taps) -> Value:
    """Along an axis, the weighted sums of the slices picked at the taps' places [taps, out]."""
    count, out = known_shape(taps.places)
    shape = known_shape(x)
    outer, behind = dims.product(shape[:axis]), dims.product(shape[axis + 1 :])
    if taps.weights is None:
        return b.emit("take", x, b.emit("reshape", taps.places, b.sizes((out,))), axis=axis, hint="resize")
    if not isinstance(behind, int) or behind >= NARROW:
        data = b.emit("reshape", x, b.sizes((outer, shape[axis], behind)))
        lists = [b.emit("reshape", value, b.sizes((count, 1, out))) for value in (taps.places, taps.weights)]
        found = b.emit("weighted_take", data, *lists, hint="resize")
        return b.emit("reshape", found, b.sizes((*shape[:axis], out, *shape[axis + 1 :])))
    after = [1] * (len(shape) - axis - 1)
    dtype, inner = x.type.dtype, wide(x.type.dtype)
    if isinstance(count, int) and count <= FEW_TAPS:
        picked = [b.emit("take", x, _row(b, taps.places, i, ()), axis=axis, hint="slices") for i in range(count)]
        weights = [_row(b, taps.weights, i, after) for i in range(count)]
        products = [operand(i, picked[i]) * operand(count + i, weights[i]) for i in range(count)]
        total = reduce(lambda a, b: a + b, products)
        return emit_map(b, cast(total, dtype), *picked, *weights, hint="resize")
    slices = b.emit("take", x, taps.places, axis=axis, hint="slices")
    spread = b.emit("reshape", taps.weights, b.sizes((count, out, *after)))
    stages = (Stage("sum", operand(0, slices) * operand(1, spread)),)
    rows = (cast(stat(0, inner), dtype),)
    return b.emit("reduce", slices, spread, hint="resize", axes=(axis,), keepdims=False, stages=stages, rows=rows)


def _row(b: Builder, table: Value, number: int, after: Sequence[int]) -> Value:
    """Row `number` of a matrix with axes of size 1 behind."""
    out = known_shape(table)[1]
    row = b.emit("slice", table, starts=(number, 0), sizes=(1, out), steps=(1, 1))
    return b.emit("reshape", row, b.sizes((out, *after)))


def outside_region(b: Builder, x: Value, axis: int, resized: Axis, roi: tuple[Value, Value], fill: float) -> Value:
    """x with `fill` where a position of tf_crop_and_resize lies outside the input axis."""
    sizes = AxisPositions(b, resized, roi)
    position = sizes.at(sizes.output(0), "tf_crop_and_resize")
    below = apply("lt", position, const(0, dtypes.float64))
    outside = apply("or", below, apply("gt", position, sizes.size_ - 1))
    mask = b.emit("map", *sizes.values, hint="outside", outputs=(outside,), shape=(resized.out,))
    after = [1] * (len(known_shape(x)) - axis - 1)
    mask = b.emit("reshape", mask, b.sizes((resized.out, *after)))
    here = arg(1, x.type.dtype)
    return emit_map(b, select(arg(0, dtypes.boolean), const(fill, here.dtype), here), mask, x, hint="outside")


def repeat(b: Builder, x: Value, counts: Sequence[int]) -> Value:
    """Each element `counts[axis]` times in a row along every axis: one copy."""
    shape = known_shape(x)
    pairs = list(zip(shape, counts, strict=True))
    apart = [size for pair in pairs for size in ((pair[0], 1) if pair[1] > 1 else pair[:1])]
    spread = [size for pair in pairs for size in (pair if pair[1] > 1 else pair[:1])]
    x = b.emit("expand", b.emit("reshape", x, b.sizes(apart)), b.sizes(spread))
    return b.emit("reshape", x, b.sizes([dims.product(pair) for pair in pairs]), hint="resize")
