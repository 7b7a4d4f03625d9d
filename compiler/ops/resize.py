"""Resize and Upsample: along one axis after another, weighted sums of picked slices; whole-number nearest repeats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.expr import cast
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import emit_map, operand
from compiler.ops.onnx_types import onnx_row
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape, listed, unknown_shape
from compiler.types import TensorType

_ATTRS = {
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
Taps = list[tuple[np.ndarray, np.ndarray]]  # source positions and weights, one each an output position


def output_shape(
    shape: Sequence[Size], scales: Sequence[float] | None, sizes: Sequence[Size] | None, attrs: Mapping[str, Any]
) -> list[tuple[Size | None, float | None]]:
    """For each axis the output extent (None: not decided) and the scale (None: extent over extent)."""
    chosen = [a % len(shape) for a in attrs["axes"]] if attrs["axes"] else list(range(len(shape)))
    result: list[tuple[Size | None, float | None]] = [(size, 1.0) for size in shape]
    if scales is not None:
        for axis, scale in zip(chosen, scales, strict=True):
            result[axis] = (_scaled(shape[axis], scale), scale)
        return result
    assert sizes is not None
    if attrs["keep_aspect_ratio_policy"] == "stretch":
        for axis, size in zip(chosen, sizes, strict=True):
            result[axis] = (size, None)
        return result
    if not (dims.is_static(sizes) and dims.is_static([shape[a] for a in chosen])):
        for axis in chosen:
            result[axis] = (None, None)
        return result
    ratios: list[Any] = [size / shape[a] for a, size in zip(chosen, sizes, strict=True)]  # type: ignore[operator]
    best = (min if attrs["keep_aspect_ratio_policy"] == "not_larger" else max)(ratios)
    for axis in chosen:
        result[axis] = (math.floor(shape[axis] * best + 0.5), best)
    return result


def _scaled(size: Size, scale: float) -> Size | None:
    if isinstance(size, int):
        return math.floor(size * scale)
    if scale == int(scale):
        return size * int(scale)
    return size // round(1 / scale) if 1 / scale == round(1 / scale) else None


def positions(size: int, out: int, scale: float, mode: str) -> np.ndarray:
    """Where each output position lies on the input axis (ONNX Resize, coordinate_transformation_mode)."""
    x = np.arange(out, dtype=np.float64)
    length = scale * size  # of the result before it was rounded down
    if mode == "align_corners":
        return x * (size - 1) / (length - 1) if length != 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    middle = (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return middle + size / 2 * (1 - out / length)
    return middle


def _nearest(x: np.ndarray, mode: str) -> np.ndarray:
    rounded = {
        "round_prefer_floor": lambda: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda: np.floor(x + 0.5),
        "floor": lambda: np.floor(x),
        "ceil": lambda: np.ceil(x),
    }
    return rounded[mode]()


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))


def taps(size: int, out: int, scale: float | None, attrs: Mapping[str, Any]) -> Taps:
    """What each output position of one axis is made of."""
    x = positions(size, out, out / size if scale is None else scale, attrs["coordinate_transformation_mode"])
    last = size - 1
    if attrs["mode"] == "nearest":
        return [(np.clip(_nearest(x, attrs["nearest_mode"]), 0, last).astype(np.int64), np.ones(out))]
    base = np.floor(x).astype(np.int64)
    reach = (0, 1) if attrs["mode"] == "linear" else (-1, 0, 1, 2)
    places = [base + offset for offset in reach]
    if attrs["mode"] == "linear":
        weights = [1 - (x - base), x - base]
    else:
        weights = [_cubic(np.abs(x - place), attrs["cubic_coeff_a"]) for place in places]
    if attrs["exclude_outside"]:
        weights = [np.where((p >= 0) & (p <= last), w, 0.0) for p, w in zip(places, weights, strict=True)]
        total = sum(weights)
        weights = [w / total for w in weights]
    return [(np.clip(p, 0, last), w) for p, w in zip(places, weights, strict=True)]


def _column(weights: np.ndarray, axis: int, rank: int) -> np.ndarray:
    return weights.reshape([-1 if a == axis else 1 for a in range(rank)])


def _plain(contents: np.ndarray | None) -> Any:
    return listed(contents) if contents is not None and contents.size else None


def _plain_floats(contents: np.ndarray | None) -> list[float] | None:
    return [float(c) for c in contents.reshape(-1)] if contents is not None and contents.size else None


def _covered(attrs: Mapping[str, Any]) -> bool:
    """Whether the arithmetic here serves these attributes."""
    return not attrs["antialias"] and attrs["coordinate_transformation_mode"] != "tf_crop_and_resize"


def _build(b: Builder, node: Any) -> Any:
    attrs = {key: node.attr(key, default) for key, default in _ATTRS.items()}
    if not _covered(attrs):
        return NotImplemented
    inputs = (node.required(0), None, *node.inputs[2:4])
    return b.emit("resize", *inputs, **attrs)


def _legacy(node: Any) -> Any:
    """Opsets before 11: positions divided by the scale, nearest rounded down; no roi."""
    mode = "linear" if node.attr("mode", "nearest") in ("linear", "bilinear") else "nearest"
    return node.with_attrs(
        mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor", scales=None,
        height_scale=None, width_scale=None,
    )  # fmt: skip


def _upgrade_resize(b: Builder, node: Any) -> Any:
    return replace(_legacy(node), inputs=(node.inputs[0], None, node.inputs[1]))


def _build_upsample(b: Builder, node: Any) -> Any:
    scales = node.input(1)
    if scales is None:
        given = node.attr("scales") or (1.0, 1.0, node.attr("height_scale"), node.attr("width_scale"))
        scales = b.constant(np.array(given, np.float32))
    attrs = {key: value for key, value in _legacy(node).attrs.items() if key in _ATTRS}
    return b.emit("resize", node.required(0), None, scales, **attrs)


@op(
    "resize",
    onnx=OnnxRow("Resize", _ATTRS, build=_build, upgrades=((11, _upgrade_resize),)),
    attrs=_ATTRS,
    value_operands=(2, 3),
    host_reason="sizes or scales that are not fixed, with more than whole-number repetition",
)
class Resize:
    """x resampled along each axis: operands x, roi (unused), scales or none, sizes or none."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        scales, sizes = _plain_floats(call.value(2)), _plain(call.value(3))
        if x.shape is None or (scales is None and sizes is None):
            return [TensorType(x.dtype, unknown_shape(call, None if x.shape is None else len(x.shape)))]
        wanted = output_shape(x.shape, scales, sizes, call.attrs)
        return [TensorType(x.dtype, tuple(call.fresh() if size is None else size for size, _ in wanted))]

    def reference(
        x: np.ndarray,
        roi: np.ndarray | None = None,
        scales: np.ndarray | None = None,
        sizes: np.ndarray | None = None,
        **attrs: Any,
    ) -> np.ndarray:
        result = x if attrs["mode"] == "nearest" else x.astype(np.float64)
        for axis, (out, scale) in enumerate(output_shape(x.shape, _plain_floats(scales), _plain(sizes), attrs)):
            if out == x.shape[axis] and scale in (1.0, None):
                continue
            parts = taps(x.shape[axis], int(out), scale, attrs)  # type: ignore[arg-type]
            if attrs["mode"] == "nearest":
                result = np.take(result, parts[0][0], axis=axis)
            else:
                picked = [np.take(result, p, axis=axis) * _column(w, axis, x.ndim) for p, w in parts]
                result = np.sum(picked, axis=0)
        if result.dtype == x.dtype:
            return result
        return round_to(result, x.dtype) if x.dtype.kind not in "iu" else np.rint(result).astype(x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, _, scales, sizes = (*node.inputs, None, None, None)[:4]
        attrs, shape = node.attrs, known_shape(x)
        known = _plain_floats(b.contents(scales)), _plain(b.contents(sizes))
        if known == (None, None) or (attrs["mode"] != "nearest" and not x.type.dtype.is_float):
            return None
        plan = [_axis_plan(shape[a], *each, attrs) for a, each in enumerate(output_shape(shape, *known, attrs))]
        if any(step is None for step in plan):
            return None
        for axis, step in enumerate(plan):
            if isinstance(step, int):
                x = _repeat(b, x, axis, step) if step > 1 else x
            elif step is not None:
                x = _resample(b, x, axis, step)
        return x

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((1, 2, 4, 5)).astype(np.float32)

        def by(*scales: float) -> np.ndarray:
            return np.array((1, 1, *scales), np.float32)

        yield Sample((x, None, by(2, 3)), name="repeat")
        yield Sample((x, None, by(1.5, 0.6)), {"nearest_mode": "ceil"}, name="nearest")
        yield Sample((x, None, None, np.array([8, 10])), {"mode": "linear", "axes": (2, 3)}, 8, "linear sizes")
        for mode in ("align_corners", "asymmetric", "half_pixel_symmetric", "pytorch_half_pixel"):
            coordinates = {"coordinate_transformation_mode": mode}
            yield Sample((x, None, by(1.7, 0.25)), {"mode": "linear", **coordinates}, 8, f"linear {mode}")
        yield Sample((x, None, by(1.5, 2)), {"mode": "cubic", "exclude_outside": 1}, 16, "cubic")
        wide = {"axes": (2, 3), "keep_aspect_ratio_policy": "not_larger", "mode": "linear"}
        yield Sample((x, None, None, np.array([9, 9])), wide, 8, "not larger")


def _axis_plan(size: Size, out: Size | None, scale: float | None, attrs: Mapping[str, Any]) -> int | Taps | None:
    """How often to repeat each element, or the taps of each output position; None where sizes do not decide."""
    if out is None:
        return None
    if out == size and scale in (1.0, None):
        return 1
    factor = dims.divide_exactly(out, size) if scale is None or scale == int(scale) else None
    rounding = (attrs["coordinate_transformation_mode"], attrs["nearest_mode"])
    repeats = rounding == ("asymmetric", "floor") or (rounding[0] == "half_pixel" and rounding[1].startswith("round"))
    if attrs["mode"] == "nearest" and repeats and isinstance(factor, int) and factor > 0:
        return factor
    if isinstance(size, Dim) or isinstance(out, Dim) or size == 0:
        return None
    return taps(size, out, scale, attrs)


def _repeat(b: Builder, x: Value, axis: int, count: int) -> Value:
    """Each element along an axis `count` times in a row."""
    shape = known_shape(x)
    before, after = shape[: axis + 1], shape[axis + 1 :]
    apart = b.emit("reshape", x, b.sizes((*before, 1, *after)))
    spread = b.emit("expand", apart, b.sizes((*before, count, *after)))
    return b.emit("reshape", spread, b.sizes((*shape[:axis], shape[axis] * count, *after)))


def _resample(b: Builder, x: Value, axis: int, parts: Taps) -> Value:
    """The weighted sum of slices picked along an axis."""
    picked = [b.emit("take", x, b.constant(places), axis=axis) for places, _ in parts]
    if len(parts) == 1:
        return picked[0]
    rank, dtype = len(known_shape(x)), x.type.dtype
    inner = operand(0, x).dtype
    weights = [b.constant(_column(w, axis, rank), dtype=inner) for _, w in parts]
    values = [*picked, *weights]
    count = len(parts)
    total = operand(0, picked[0]) * operand(count, weights[0])
    for i in range(1, count):
        total = total + operand(i, picked[i]) * operand(count + i, weights[i])
    return emit_map(b, cast(total, dtype), *values, hint="resize")


onnx_row(
    "resize",
    OnnxRow(
        "Upsample",
        {"height_scale": None, "mode": "nearest", "scales": None, "width_scale": None},
        build=_build_upsample,
    ),
)
