"""Resizing: along one axis after another, weighted sums of picked slices; whole-number nearest repeats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import apply, cast
from compiler.ir import Node, Value
from compiler.op import Call, Sample, op
from compiler.ops.elementwise import emit_map, operand, wide
from compiler.ops.resize_emit import apply_taps, constant_taps, element_of, emit_taps, outside_region, repeat
from compiler.ops.resize_measured import measured_axes
from compiler.ops.resize_taps import CHOICES, Axis, Scale, positions, resized_axes, taps
from compiler.ops.rounding import round_to
from compiler.ops.sampling import NARROW
from compiler.ops.shape import known_shape, listed, unknown_shape
from compiler.types import TensorType

ONNX_ATTRS = {
    "antialias": 0,
    "axes": None,
    "coordinate_transformation_mode": "half_pixel",
    "cubic_coeff_a": -0.75,
    "exclude_outside": 0,
    "extrapolation_value": 0.0,
    "keep_aspect_ratio_policy": "stretch",
    "mode": "nearest",
    "nearest_mode": "round_prefer_floor",
}
_ATTRS = {**ONNX_ATTRS, "float32_nearest": False}
REGION = "tf_crop_and_resize"


def _plain(contents: np.ndarray | None) -> Any:
    return listed(contents) if contents is not None and contents.size else None


def _plain_floats(contents: np.ndarray | None) -> list[float] | None:
    return [float(c) for c in contents.reshape(-1)] if contents is not None and contents.size else None


def _places_of_region(shape: tuple[Any, ...], attrs: Mapping[str, Any]) -> list[tuple[int, int] | None]:
    """For each axis where its start and end stand in roi, None for one that roi does not mention."""
    chosen = [a % len(shape) for a in attrs["axes"]] if attrs["axes"] else list(range(len(shape)))
    count = len(chosen)
    return [(chosen.index(a), count + chosen.index(a)) if a in chosen else None for a in range(len(shape))]


@op(
    "resize",
    attrs=_ATTRS,
    value_operands=(2, 3),
    host_reason="sizes or scales that come from data, or an element type nothing is computed in",
)
class Resize:
    """x resampled along each axis: operands x, roi (read by tf_crop_and_resize only), scales or none, sizes or none.

    Where both are given, sizes decide the result's shape and scales the positions (as in torch). float32_nearest:
    nearest positions are products in float32 rounded down, as torch computes them. Integers round to the nearest
    and saturate.
    """

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        for name, allowed in CHOICES.items():
            if call.attrs[name] not in allowed:
                call.shape_error(f"{name} is {call.attrs[name]!r}; expected one of {', '.join(allowed)}")
        scales, sizes = _plain_floats(call.value(2)), _plain(call.value(3))
        if x.shape is None or (scales is None and sizes is None):
            return [TensorType(x.dtype, unknown_shape(call, None if x.shape is None else len(x.shape)))]
        if call.attrs["coordinate_transformation_mode"] == REGION and call.optional(1) is None:
            call.shape_error("tf_crop_and_resize without a region; expected the start and end of every axis as roi")
        count = len(call.attrs["axes"] or x.shape)
        for name, given in (("scales", scales), ("sizes", sizes)):
            if given is not None and len(given) != count:
                call.shape_error(f"{len(given)} {name} for {count} axes; expected one each")
        axes = resized_axes(x.shape, scales, sizes, call.attrs)
        for number, axis in enumerate(axes):
            if axis.size == 0 and isinstance(axis.out, int) and axis.out > 0:
                call.shape_error(f"axis {number} is empty and cannot be resized to {axis.out} elements")
        return [TensorType(x.dtype, tuple(axis.out for axis in axes))]

    def reference(
        x: np.ndarray,
        roi: np.ndarray | None = None,
        scales: np.ndarray | None = None,
        sizes: np.ndarray | None = None,
        **attrs: Any,
    ) -> np.ndarray:
        result = x if attrs["mode"] == "nearest" else x.astype(np.float64)
        axes = resized_axes(x.shape, _plain_floats(scales), _plain(sizes), attrs)
        region = _places_of_region(x.shape, attrs) if roi is not None else [None] * x.ndim
        for number, (axis, ends) in enumerate(zip(axes, region, strict=True)):
            part = (float(roi[ends[0]]), float(roi[ends[1]])) if roi is not None and ends else None
            if axis.is_kept(attrs) and part in (None, (0.0, 1.0)):
                continue
            if axis.out == 0:
                result = np.take(result, np.zeros(0, np.int64), axis=number)
                continue
            places, weights = taps(axis, attrs, part)
            column = [-1 if a == number else 1 for a in range(x.ndim)]
            if weights is None:
                result = np.take(result, places[0], axis=number)
            else:
                pairs = zip(places, weights, strict=True)
                result = np.sum([np.take(result, p, axis=number) * w.reshape(column) for p, w in pairs], axis=0)
            if part is not None:
                at = positions(axis, REGION, part)
                outside = (at < 0) | (at > axis.size - 1)
                result = np.where(outside.reshape(column), attrs["extrapolation_value"], result)
        if result.dtype == x.dtype:
            return result
        if dtypes.from_numpy(x.dtype).is_float:
            return round_to(result, x.dtype)
        limits = np.iinfo(x.dtype)
        return np.clip(np.rint(result), limits.min, limits.max).astype(x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, roi, scales, sizes = (*node.inputs, None, None, None)[:4]
        attrs, shape, dtype = node.attrs, known_shape(x), x.type.dtype
        known = _plain_floats(b.contents(scales)), _plain(b.contents(sizes))
        inner = dtype if attrs["mode"] == "nearest" else _inner_type(dtype)
        if inner is None:
            return None
        axes = (
            measured_axes(b, shape, scales, sizes, attrs)
            if known == (None, None)
            else resized_axes(shape, *known, attrs)
        )
        if axes is None:
            return None
        region = _regions(b, roi, shape, attrs)
        changed = [(i, axis) for i, axis in enumerate(axes) if not axis.is_kept(attrs) or region[i] is not None]
        if inner != dtype:
            x = emit_map(b, cast(operand(0, x), inner), x, hint="widened")
        last = _channels_last(x, changed)
        if last:
            x = b.emit("transpose", x, perm=last)
        counts = [1] * len(shape)
        for number, axis in changed:
            at = last.index(number) if last else number
            rows = at < len(shape) - 1 and region[number] is None  # single elements are picked, not copied as rows
            counts[at] = _repeats(axis, attrs) if rows else 1
            if counts[at] == 1:
                x = _resample(b, x, at, axis, attrs, region[number])
        if max(counts, default=1) > 1:
            x = repeat(b, x, counts)
        if last:
            x = b.emit("transpose", x, perm=[last.index(a) for a in range(len(last))])
        if inner == dtype:
            return x
        total = operand(0, x)
        return emit_map(b, cast(apply("rint", total) if dtype.is_integer else total, dtype), x, hint="resize")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield from _samples(rng)


def _inner_type(dtype: DType) -> DType | None:
    """What sums of elements are computed in."""
    if dtype.is_float:
        return wide(dtype)
    if not dtype.is_integer:
        return None
    return dtypes.float32 if dtype.bits <= 16 else dtypes.float64


def _regions(
    b: Builder, roi: Value | None, shape: tuple[Any, ...], attrs: Mapping[str, Any]
) -> list[tuple[Value, Value] | None]:
    """For each axis the 0-d start and end of its region; None where that is the whole axis."""
    if roi is None:
        return [None] * len(shape)
    contents = b.contents(roi)
    found: list[tuple[Value, Value] | None] = []
    for ends in _places_of_region(shape, attrs):
        whole = ends is None or (contents is not None and [float(contents[e]) for e in ends] == [0.0, 1.0])
        found.append(None if whole or ends is None else (element_of(b, roi, ends[0]), element_of(b, roi, ends[1])))
    return found


def _channels_last(x: Value, changed: list[tuple[int, Axis]]) -> list[int]:
    """The order of axes that puts channels last, where they stay and are many: whole rows of them move at once, which
    is also how convolutions leave them in memory. Else no order."""
    rank = len(known_shape(x))
    if rank < 3 or any(number < 2 for number, _ in changed) or not changed:
        return []
    channels = known_shape(x)[1]
    return [] if isinstance(channels, int) and channels < NARROW else [0, *range(2, rank), 1]


def _repeats(axis: Axis, attrs: Mapping[str, Any]) -> int:
    """How often each element stands in the result, one after the other; 1 where it is not that."""
    factor = dims.divide_exactly(axis.out, axis.size)
    if attrs["mode"] != "nearest" or not isinstance(factor, int) or factor < 1:
        return 1
    at, rounding = attrs["coordinate_transformation_mode"], attrs["nearest_mode"]
    whole = {
        "asymmetric": rounding == "floor" or (rounding == "round_prefer_floor" and factor == 2),
        "half_pixel": rounding.startswith("round"),
        "tf_half_pixel_for_nn": rounding == "floor",
    }
    if not whole.get(at, False):
        return 1
    return factor if isinstance(axis.scale, Scale) or axis.scale == factor else 1


def _resample(
    b: Builder, x: Value, at: int, axis: Axis, attrs: Mapping[str, Any], region: tuple[Value, Value] | None
) -> Value:
    dtype = x.type.dtype if x.type.dtype.is_float else dtypes.float32
    if region is None and dims.is_static((axis.size, axis.out)) and axis.number() is not None and axis.size:
        return apply_taps(b, x, at, constant_taps(b, *taps(axis, attrs), dtype))
    x = apply_taps(b, x, at, emit_taps(b, axis, attrs, dtype, region))
    return x if region is None else outside_region(b, x, at, axis, region, attrs["extrapolation_value"])


def _samples(rng: np.random.Generator) -> Iterator[Sample]:
    x = rng.standard_normal((1, 2, 4, 5)).astype(np.float32)

    def by(*scales: float) -> np.ndarray:
        return np.array((1, 1, *scales), np.float32)

    def to(*sizes: int) -> np.ndarray:
        return np.array((1, 2, *sizes))

    yield Sample((x, None, by(2, 3)), name="repeat")
    yield Sample((x, None, by(1.5, 0.6)), {"nearest_mode": "ceil"}, name="nearest")
    plane = {"axes": (2, 3)}
    yield Sample((x, None, None, np.array([8, 10])), {"mode": "linear", **plane}, 8, "linear sizes")
    for mode in ("align_corners", "asymmetric", "half_pixel_symmetric", "pytorch_half_pixel"):
        coordinates = {"coordinate_transformation_mode": mode}
        yield Sample((x, None, by(1.7, 0.25)), {"mode": "linear", **coordinates}, 8, f"linear {mode}")
        yield Sample((x, None, None, to(1, 7)), {"mode": "cubic", **coordinates}, 32, f"cubic {mode}")
    yield Sample((x, None, by(1.5, 2)), {"mode": "cubic", "exclude_outside": 1}, 16, "cubic")
    for policy in ("not_larger", "not_smaller"):
        wide_plane = {**plane, "keep_aspect_ratio_policy": policy, "mode": "linear"}
        yield Sample((x, None, None, np.array([9, 9])), wide_plane, 8, policy.replace("_", " "))
    for mode, sizes in (("linear", (2, 11)), ("cubic", (3, 2))):
        for outside in (0, 1):
            smooth = {"mode": mode, "antialias": 1, "exclude_outside": outside}
            yield Sample((x, None, None, to(*sizes)), smooth, 16, f"antialias {mode} {outside}")
    yield Sample((x, None, by(0.4, 0.7)), {"mode": "linear", "antialias": 1}, 16, "antialias scales")
    region = np.array([0, 0, 0.1, -0.2, 1, 1, 0.9, 1.3], np.float32)
    for mode in ("nearest", "linear"):
        crop = {"mode": mode, "coordinate_transformation_mode": REGION, "extrapolation_value": 7.5}
        yield Sample((x, region, None, to(1, 6)), crop, 16, f"region {mode}")
    crop = {"mode": "cubic", "coordinate_transformation_mode": REGION, "axes": (3, 1)}
    yield Sample((x, region[[3, 1, 7, 5]], None, np.array([4, 2])), crop, 32, "region axes")
    for at, rounding, factor in (
        ("tf_half_pixel_for_nn", "floor", 3),
        ("asymmetric", "round_prefer_floor", 2),
        ("asymmetric", "round_prefer_floor", 3),
        ("half_pixel", "round_prefer_ceil", 4),
        ("half_pixel", "floor", 3),
    ):
        whole = {"coordinate_transformation_mode": at, "nearest_mode": rounding}
        yield Sample((x, None, by(factor, factor)), whole, name=f"{at} {rounding} {factor}")
    many = rng.standard_normal((2, 17, 3, 4))
    yield Sample((many, None, None, np.array([2, 17, 7, 4])), {"mode": "linear"}, 8, "channels")
    yield Sample((many, None, by(2, 2)), name="channels repeat")
    images = rng.integers(0, 256, (1, 3, 6, 5)).astype(np.uint8)
    yield Sample((images, None, by(1.3, 0.5)), {"mode": "cubic"}, name="bytes")
    yield Sample((x.astype(np.float16), None, by(1.3, 0.5)), {"mode": "linear", "antialias": 1}, 2, "half")
    for name in ("asymmetric", "half_pixel"):
        torch = {"coordinate_transformation_mode": name, "nearest_mode": "floor", "float32_nearest": True}
        yield Sample((x, None, None, to(7, 3)), torch, name=f"float32 {name}")
        yield Sample((x, None, by(1.9, 0.7), to(7, 3)), torch, name=f"float32 {name} by")
    yield Sample((x, None, None, to(0, 3)), {"mode": "linear"}, name="nothing")
