"""Max pooling over regions of interest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, cast, const, index, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map, wide
from compiler.ops.sampling import Positions, clip
from compiler.ops.shape import known_shape
from compiler.types import TensorType, ValueType

_ATTRS = {"pooled_shape": REQUIRED, "spatial_scale": 1.0}


@op("max_roi_pool", onnx=OnnxRow("MaxRoiPool", _ATTRS), attrs=_ATTRS)
class MaxRoiPool:
    """The maxima of a grid of windows in each region. x [N,C,H,W], rois [R,5] (image, x1, y1, x2, y2; ends included, in
    units of 1/spatial_scale) -> [R,C,*pooled_shape]; 0 for a window outside the image. As Fast R-CNN defines it
    (Girshick 2015)."""

    def infer(call: Call) -> Sequence[ValueType]:
        x, rois = call.tensor(0), call.tensor(1)
        call.same_dtype(0, 1)
        if x.rank != 4 or rois.rank != 2 or len(call.attrs["pooled_shape"]) != 2:
            call.shape_error(f"found {x} and {rois}; expected [N, C, H, W], [R, 5] and a pooled shape of two sizes")
        return [TensorType(x.dtype, (rois.shape[0], x.shape[1], *call.attrs["pooled_shape"]))]  # type: ignore[index]

    def reference(
        x: np.ndarray, rois: np.ndarray, *, pooled_shape: tuple[int, int], spatial_scale: float
    ) -> np.ndarray:
        result = np.zeros((len(rois), x.shape[1], *pooled_shape), x.dtype)
        inner = np.result_type(x.dtype, np.float32)
        for region, (image, *corners) in zip(result, rois, strict=True):
            left, top, right, bottom = np.floor(np.array(corners, inner) * inner.type(spatial_scale) + inner.type(0.5))
            rows = _windows(top, bottom, pooled_shape[0], x.shape[2])
            columns = _windows(left, right, pooled_shape[1], x.shape[3])
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    window = x[int(image), :, row, column]
                    if window.size:
                        region[:, i, j] = window.max(axis=(1, 2))
        return result

    def decompose(b: Builder, node: Node) -> Value:
        x, rois = node.inputs
        n, c, height, width = known_shape(x)
        count, (down, across) = known_shape(rois)[0], node.attrs["pooled_shape"]
        image = b.emit("reshape", _column(b, rois, 0), b.sizes((count, 1, 1, 1, 1)))
        rows = _windows_of(b, node, 1, height, (count, down, 1, height, 1), image)
        columns = _windows_of(b, node, 0, width, (count, 1, across, width, 1))
        table = b.emit("reshape", b.emit("transpose", x, perm=(0, 2, 3, 1)), b.sizes((n, height, width * c)))
        tallest = _masked_max(b, table, rows, (2, 3))  # [R, down, W * C]
        tallest = b.emit("reshape", tallest, b.sizes((count, down, 1, width, c)))
        largest = _masked_max(b, tallest, columns, (3,))  # [R, down, across, C]
        some = [
            _masked_any(b, rows, (2, 3, 4), (count, down, 1, 1)),
            _masked_any(b, columns, (3, 4), (count, 1, across, 1)),
        ]
        found = arg(2, x.type.dtype)
        filled = apply("and", arg(0, dtypes.boolean), arg(1, dtypes.boolean))
        pooled = emit_map(b, select(filled, found, const(0, found.dtype)), *some, largest, hint="max_roi_pool")
        return b.emit("transpose", pooled, perm=(0, 3, 1, 2))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.normal(size=(2, 3, 8, 9)).astype(np.float32)
        rois = np.array([[0, 0, 0, 8, 7], [1, 2.4, 1, 6.6, 5], [1, 7, 7, 20, 20]], np.float32)
        yield Sample((x, rois), {"pooled_shape": (2, 3), "spatial_scale": 1.0}, name="whole")
        yield Sample((x, rois), {"pooled_shape": (1, 1), "spatial_scale": 0.5}, name="scaled")
        many = rng.normal(size=(1, 17, 5, 4))
        yield Sample((many, rois[:1].astype(np.float64)), {"pooled_shape": (3, 2)}, name="channels")
        yield Sample((many, rois[:0].astype(np.float64)), {"pooled_shape": (3, 2)}, name="nothing")


def _windows(first: float, last: float, count: int, size: int) -> list[slice]:
    """`count` windows that cover first..last, cut off at the image's edge."""
    step = max(last - first + 1, 1) / count
    bounds = [(np.floor(i * step) + first, np.ceil((i + 1) * step) + first) for i in range(count)]
    return [slice(*(int(np.clip(edge, 0, size)) for edge in pair)) for pair in bounds]


def _column(b: Builder, rois: Value, number: int) -> Value:
    """One number of each region: [R, 1]."""
    return b.emit("slice", rois, starts=(0, number), sizes=(known_shape(rois)[0], 1), steps=(1, 1))


def _windows_of(
    b: Builder, node: Node, axis: int, size: Size, space: Sequence[Size], image: Value | None = None
) -> Value:
    """Which places of an axis (0: columns, 1: rows) lie in which window: bool [R, rows, columns, size, 1] with 1 for
    the other windows; with `image` (of each region) [R, rows, N, size, 1], and only in that image."""
    x, rois = node.inputs
    inner, operands = wide(x.type.dtype), Positions(b)
    corners = [_corner(b, operands, rois, number, node) for number in (1 + axis, 3 + axis)]
    window = cast(index(1 if axis else 2), inner)
    count = node.attrs["pooled_shape"][1 - axis]
    step = apply("max", corners[1] - corners[0] + 1, const(1, inner)) / count
    length = cast(operands.size(size), inner)
    start = clip(apply("floor", window * step) + corners[0], 0, length)
    stop = clip(apply("ceil", (window + 1) * step) + corners[0], 0, length)
    place = cast(index(3), inner)
    inside = apply("and", apply("ge", place, start), apply("lt", place, stop))
    if image is not None:
        space = (*space[:2], known_shape(x)[0], *space[3:])
        inside = apply("and", inside, apply("eq", operands.tensor(image), index(2)))
    return b.emit("map", *operands.values, hint="windows", outputs=(inside,), shape=tuple(space))


def _corner(b: Builder, operands: Positions, rois: Value, number: int, node: Node) -> Expr:
    column = b.emit("reshape", _column(b, rois, number), b.sizes((known_shape(rois)[0], 1, 1, 1, 1)))
    operands.values.append(column)
    corner = arg(len(operands.values) - 1, column.type.dtype)
    inner = wide(column.type.dtype)
    return apply("floor", cast(corner, inner) * const(node.attrs["spatial_scale"], inner) + 0.5)


def _masked_max(b: Builder, x: Value, mask: Value, axes: tuple[int, ...]) -> Value:
    """The maxima of x where the mask holds, along axes; -inf where it never does."""
    here = arg(0, x.type.dtype)
    stages = (Stage("max", select(arg(1, dtypes.boolean), here, const(float("-inf"), here.dtype))),)
    rows = (stat(0, here.dtype),)
    return b.emit("reduce", x, mask, hint="maxima", axes=axes, keepdims=False, stages=stages, rows=rows)


def _masked_any(b: Builder, mask: Value, axes: tuple[int, ...], shape: Sequence[Size]) -> Value:
    stages = (Stage("any", arg(0, dtypes.boolean)),)
    rows = (stat(0, dtypes.boolean),)
    found = b.emit("reduce", mask, hint="filled", axes=axes, keepdims=True, stages=stages, rows=rows)
    return b.emit("reshape", found, b.sizes(shape))
