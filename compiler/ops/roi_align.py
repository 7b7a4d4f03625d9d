"""RoiAlign: regions of interest sampled on a regular grid, bilinearly, and pooled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, index, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, wide
from compiler.ops.rounding import round_to
from compiler.ops.sampling import Positions, Taps, clip, combine, linear_weight
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ATTRS = {
    "coordinate_transformation_mode": "half_pixel",
    "mode": "avg",
    "output_height": 1,
    "output_width": 1,
    "sampling_ratio": 0,
    "spatial_scale": 1.0,
}
# As many samples are taken as a bin is long, so they lie more than half an element apart, and no more than 4 come
# within one element of another (outside too: up to 1 away from the edge counts as the edge); one more for rounding.
_NEAR = 5


def _whole_pixels(b: Builder, node: Any) -> Any:
    return node.with_attrs(coordinate_transformation_mode="output_half_pixel")


@op(
    "roi_align",
    onnx=OnnxRow("RoiAlign", _ATTRS, upgrades=((16, _whole_pixels),)),
    attrs=_ATTRS,
    host_reason="the maximum of a number of samples that comes from data (mode max, sampling_ratio 0)",
)
class RoiAlign:
    """x [N,C,H,W], rois [R,4] (x1, y1, x2, y2 in units of 1/spatial_scale), images int64 [R] -> [R,C,*output].

    Each region is divided into output_height x output_width bins, each bin sampled bilinearly at sampling_ratio
    positions an axis (0: one for each element it is long, rounded up), and averaged; mode max takes the greatest of all
    weighted neighbours of its samples, as ONNX has it. Samples further than 1 outside the image are 0. As Mask R-CNN
    defines it (He et al. 2017).
    """

    def infer(call: Call) -> list[TensorType]:
        x, rois, images, attrs = call.tensor(0), call.tensor(1), call.tensor(2), call.attrs
        check_kind(call, call.same_dtype(0, 1), FLOAT)
        if (x.rank, rois.rank, images.rank) != (4, 2, 1):
            call.shape_error(f"found {x}, rois {rois}, images {images}; expected [N, C, H, W], [R, 4] and [R]")
        if attrs["mode"] not in ("avg", "max"):
            call.shape_error(f"mode {attrs['mode']!r}; expected avg or max")
        call.same_size(rois.shape[1], 4, "the number of corners of a region")  # type: ignore[index]
        count = call.same_size(rois.shape[0], images.shape[0], "the number of regions (of rois, of images)")  # type: ignore[index]
        return [TensorType(x.dtype, (count, x.shape[1], attrs["output_height"], attrs["output_width"]))]  # type: ignore[index]

    def reference(x: np.ndarray, rois: np.ndarray, images: np.ndarray, **attrs: Any) -> np.ndarray:
        bins = (attrs["output_height"], attrs["output_width"])
        result = np.zeros((len(rois), x.shape[1], *bins))
        wide_x = x.astype(np.float64)
        for region, (left, top, right, bottom), image in zip(result, rois.astype(np.float64), images, strict=True):
            rows = _region_taps(top, bottom, bins[0], x.shape[2], attrs)
            columns = _region_taps(left, right, bins[1], x.shape[3], attrs)
            count = max(rows[0].shape[1] * columns[0].shape[1], 1)
            # [C, bins, samples, taps] of rows, then of columns
            picked = wide_x[image][:, rows[0][..., None, None, None], columns[0]]
            picked = picked * rows[1][..., None, None, None] * columns[1]
            if attrs["mode"] == "avg":
                region[:] = picked.sum(axis=(2, 3, 5, 6)) / count
            elif picked.size:
                region[:] = picked.max(axis=(2, 3, 5, 6))
        return round_to(result, x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        attrs = node.attrs
        if attrs["sampling_ratio"] > 0:
            return _sampled(b, node)
        return _weighted(b, node) if attrs["mode"] == "avg" else None

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 7, 9)).astype(np.float32)
        rois = np.array([[0, 0, 8, 6], [1.3, 0.4, 4.9, 5.2], [-3, -2, 3.5, 2], [6, 4, 30, 11], [4, 4, 4.2, 4.1]])
        rois = rois.astype(np.float32)
        images = np.array([0, 1, 1, 0, 1])
        bins = {"output_height": 2, "output_width": 3}
        for ratio in (0, 2):
            for coordinates in ("half_pixel", "output_half_pixel"):
                attrs = {**bins, "sampling_ratio": ratio, "coordinate_transformation_mode": coordinates}
                yield Sample((x, rois, images), attrs, 16, f"{ratio} {coordinates}")
        yield Sample((x, rois * 2, images), {**bins, "spatial_scale": 0.5}, 16, "scaled")
        yield Sample((x, rois, images), {**bins, "sampling_ratio": 3, "mode": "max"}, 16, "max")
        many = rng.standard_normal((1, 17, 1, 5))
        yield Sample((many, rois[:2].astype(np.float64), images[:1].repeat(2)), bins, 16, "channels")
        yield Sample((many, rois[:0].astype(np.float64), images[:0]), bins, name="nothing")
        half = (x.astype(np.float16), rois.astype(np.float16), images)
        yield Sample(half, {**bins, "sampling_ratio": 1}, 8, "half")


def _region_taps(first: float, last: float, bins: int, size: int, attrs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Places and weights [bins, samples, 2] of a region along an axis."""
    half = attrs["coordinate_transformation_mode"] == "half_pixel"
    start = first * attrs["spatial_scale"] - 0.5 * half
    length = last * attrs["spatial_scale"] - 0.5 * half - start
    step = (length if half else max(length, 1.0)) / bins
    count = attrs["sampling_ratio"] or max(int(np.ceil(step)), 0)
    x = start + step * (np.arange(bins)[:, None] + (np.arange(count) + 0.5) / max(count, 1))
    inside = (x >= -1) & (x <= size)
    x = np.clip(x, 0, size - 1)
    places = np.minimum(np.floor(x)[..., None] + (0, 1), size - 1)
    weights = np.stack([1 - (x - np.floor(x)), x - np.floor(x)], axis=-1) * inside[..., None]
    return places.astype(np.int64), weights


class _Region(Positions):
    """One axis of the regions as expressions over [.., R, ..]: where they start, and how long their bins are."""

    def __init__(self, b: Builder, node: Node, axis: int, shape: tuple[Size, ...]) -> None:
        super().__init__(b)
        rois, attrs = node.inputs[1], node.attrs
        assert rois is not None
        count = known_shape(rois)[0]
        ends = []
        for corner in (1 - axis, 3 - axis):  # x1, y1, x2, y2
            column = b.emit("slice", rois, starts=(0, corner), sizes=(count, 1), steps=(1, 1))
            ends.append(self.real(b.emit("reshape", column, b.sizes(shape))) * attrs["spatial_scale"])
        half = attrs["coordinate_transformation_mode"] == "half_pixel"
        self.start = ends[0] - 0.5 if half else ends[0]
        span = ends[1] - ends[0]
        span = span if half else apply("max", span, const(1, span.dtype))
        self.step = span / attrs[("output_height", "output_width")[axis]]


def _real(axis: int) -> Expr:
    return cast(index(axis), dtypes.float64)


def _sampled(b: Builder, node: Node) -> Value:
    """A fixed number of samples: 2 x 2 taps each."""
    x, rois, images = node.inputs
    attrs = node.attrs
    n, c, height, width = known_shape(x)
    count, ratio = known_shape(rois)[0], attrs["sampling_ratio"]
    space = (ratio, ratio, count, attrs["output_height"], attrs["output_width"])
    rows = b.emit("reshape", b.emit("transpose", x, perm=(0, 2, 3, 1)), b.sizes((n * height * width, c)))
    image = b.emit("reshape", images, b.sizes((1, 1, 1, count, 1, 1)))
    dtype = wide(x.type.dtype)
    axes = [
        Taps(image, None),
        _sample_taps(b, node, 0, height, (ratio, 1, count, space[3], 1), dtype),
        _sample_taps(b, node, 1, width, (1, ratio, count, 1, space[4]), dtype),
    ]
    fn: Any = "sum" if attrs["mode"] == "avg" else "max"
    divisor = ratio * ratio if fn == "sum" else 1
    strides = (height * width, width, 1)
    found = combine(b, rows, axes, strides, space, samples=2, fn=fn, divisor=divisor, hint="roi_align")
    return b.emit("transpose", found, perm=(0, 3, 1, 2))


def _sample_taps(b: Builder, node: Node, axis: int, size: Size, space: tuple[Size, ...], dtype: DType) -> Taps:
    """The two taps of every sample along an axis, over [2, *space]."""
    region = _Region(b, node, axis, (1, 1, 1, space[2], 1, 1))
    sample = (_real(1 + axis) + 0.5) / node.attrs["sampling_ratio"]
    position = region.start + region.step * (_real(4 + axis) + sample)
    length = region.length(size)
    weight, at = _inside(position, length)
    place = apply("floor", at) + _real(0)
    outputs = (
        cast(clip(place, 0, length - 1), dtypes.int64),
        cast(weight * linear_weight(apply("abs", at - place)), dtype),
    )
    attributes = {"outputs": outputs, "shape": (2, *space)}
    return Taps(*b.emit_many("map", region.values, attributes, ("places", "weights")))


def _inside(position: Expr, length: Expr) -> tuple[Expr, Expr]:
    """1, or 0 for a sample too far outside, and the position moved into the image."""
    zero, one = const(0, dtypes.float64), const(1, dtypes.float64)
    counts = apply("and", apply("ge", position, -one), apply("le", position, length))
    return select(counts, one, zero), clip(position, 0, length - 1)


def _weighted(b: Builder, node: Node) -> Value:
    """A number of samples that depends on the region: products with the weight each row, and each column, has in each
    bin. Rows of all images stand below one another; other images' rows weigh nothing."""
    x, _, images = node.inputs
    attrs = node.attrs
    n, c, height, width = known_shape(x)
    count = known_shape(images)[0]
    dtype = x.type.dtype
    down = _bin_weights(b, node, 0, height)  # [R, bins, H]
    across = _bin_weights(b, node, 1, width)  # [R, bins, W]
    if n != 1:
        down = _of_image(b, down, images, n)  # [R, bins, N * H]
    table = b.emit("reshape", b.emit("transpose", x, perm=(0, 2, 3, 1)), b.sizes((n * height, width * c)))
    flat = b.emit("reshape", down, b.sizes((count * attrs["output_height"], n * height)))
    rows = b.emit("matmul", flat, table, hint="roi_rows")
    rows = b.emit("reshape", rows, b.sizes((count, attrs["output_height"], width, c)))
    across = b.emit("reshape", across, b.sizes((count, 1, attrs["output_width"], width)))
    found = b.emit("matmul", across, rows, hint="roi_align")
    assert found.type.dtype == dtype
    return b.emit("transpose", found, perm=(0, 3, 1, 2))


def _bin_weights(b: Builder, node: Node, axis: int, size: Size) -> Value:
    """What each element along an axis counts in the mean of each bin: [R, bins, size], summed over the samples near
    it."""
    count = known_shape(node.inputs[1])[0]  # type: ignore[arg-type]
    bins = node.attrs[("output_height", "output_width")[axis]]
    region = _Region(b, node, axis, (count, 1, 1, 1))
    samples = apply("max", apply("ceil", region.step), const(1, dtypes.float64))
    some = apply("gt", region.step, const(0, dtypes.float64))
    length, place = region.length(size), _real(2)
    spacing = region.step / samples
    first = region.start + region.step * _real(1) + spacing * 0.5
    nearest = apply("ceil", (place - 1 - first) / spacing)  # the first sample within one element
    number = apply("max", nearest, const(0, dtypes.float64)) + _real(3)
    weight, at = _inside(first + number * spacing, length)
    weight = weight * linear_weight(apply("abs", at - place)) / samples
    taken = apply("and", some, apply("lt", number, samples))
    weight = select(taken, weight, const(0, dtypes.float64))
    shape = (count, bins, size, _NEAR)
    each = b.emit("map", *region.values, hint="weights", outputs=(weight,), shape=shape)
    total = (cast(stat(0, dtypes.float64), node.output.type.dtype),)
    stages = (Stage("sum", arg(0, dtypes.float64)),)
    return b.emit("reduce", each, hint="weights", axes=(3,), keepdims=False, stages=stages, rows=total)


def _of_image(b: Builder, weights: Value, images: Value, n: Size) -> Value:
    """Weights [R, bins, H] at the image of each region, 0 at the others: [R, bins, N * H]."""
    count, bins, height = known_shape(weights)
    apart = b.emit("reshape", weights, b.sizes((count, bins, 1, height)))
    image = b.emit("reshape", images, b.sizes((count, 1, 1, 1)))
    here = arg(0, weights.type.dtype)
    own = apply("eq", cast(arg(1, images.type.dtype), dtypes.int64), index(2))
    outputs = (select(own, here, const(0, here.dtype)),)
    shape = (count, bins, n, height)
    spread = b.emit("map", apart, image, hint="weights", outputs=outputs, shape=shape)
    return b.emit("reshape", spread, b.sizes((count, bins, dims.product((n, height)))))
