"""Where the elements of a resized axis come from: its extent, its scale, and in NumPy the taps of every position.

The meaning of each attribute is that of ONNX Resize.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dims
from compiler.dims import Size
from compiler.ir import Value
from compiler.ops.extents import larger, smaller

RADIUS = {"linear": 1, "cubic": 2}  # how far a kernel reaches, in elements
CHOICES = {
    "mode": ("nearest", "linear", "cubic"),
    "nearest_mode": ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"),
    "keep_aspect_ratio_policy": ("stretch", "not_larger", "not_smaller"),
    "coordinate_transformation_mode": (
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric", "tf_crop_and_resize",
        "tf_half_pixel_for_nn",  # of opsets 11 and 12 only
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """The smallest (or greatest) of some fractions of sizes."""

    fractions: tuple[tuple[Size, Size], ...]
    smallest: bool = True

    def number(self) -> float | None:
        """The scale where all sizes are numbers."""
        if not all(dims.is_static(pair) for pair in self.fractions):
            return None
        return (min if self.smallest else max)(a / b for a, b in self.fractions)  # type: ignore[operator]


@dataclass(frozen=True)
class Axis:
    """One axis: its extent before and after, and the scale positions are computed with (a 0-d Value: it is computed in
    the graph). zeros: float64, as many as the result has, where nothing but that vector tells how many these are."""

    size: Size
    out: Size
    scale: float | Scale | Value
    zeros: Value | None = None

    def number(self) -> float | None:
        """The scale as a number, if it is one."""
        if isinstance(self.scale, Value):
            return None
        return self.scale.number() if isinstance(self.scale, Scale) else self.scale

    def is_kept(self, attrs: Mapping[str, Any]) -> bool:
        """Whether nothing changes along the axis (region of interest aside)."""
        if self.out != self.size:
            return False
        stretched = isinstance(self.scale, Scale) and self.scale.fractions == ((self.out, self.size),)
        return stretched or self.scale == 1.0 or attrs["float32_nearest"]

    def reach(self, mode: str) -> Size:
        """How many elements to either side an antialiasing kernel touches: it widens where the axis shrinks."""
        radius = RADIUS[mode]
        assert not isinstance(self.scale, Value), "the number of taps cannot come from data"
        if not isinstance(self.scale, Scale):
            return max(radius, math.ceil(radius / self.scale))
        counts = [(radius * size + out - 1) // out for out, size in self.scale.fractions]
        widest = counts[0]
        for count in counts[1:]:
            widest = (larger if self.scale.smallest else smaller)(widest, count)
        return larger(widest, radius)


def resized_axes(
    shape: Sequence[Size], scales: Sequence[float] | None, sizes: Sequence[Size] | None, attrs: Mapping[str, Any]
) -> list[Axis]:
    """Every axis of a tensor. Where both are given, `sizes` decide extents and `scales` positions."""
    chosen = [a % len(shape) for a in attrs["axes"]] if attrs["axes"] else list(range(len(shape)))
    result = [Axis(size, size, 1.0) for size in shape]
    policy = attrs["keep_aspect_ratio_policy"]
    if scales is not None:
        outs = [_scaled(shape[a], scale) for a, scale in zip(chosen, scales, strict=True)] if sizes is None else sizes
        for axis, out, scale in zip(chosen, outs, scales, strict=True):
            result[axis] = Axis(shape[axis], out, scale)
        return result
    assert sizes is not None
    fractions = tuple((size, shape[a]) for a, size in zip(chosen, sizes, strict=True))
    common = Scale(fractions, policy == "not_larger")
    for axis, fraction in zip(chosen, fractions, strict=True):
        if policy == "stretch":
            result[axis] = Axis(shape[axis], fraction[0], Scale((fraction,)))
        else:
            result[axis] = Axis(shape[axis], _kept_aspect(shape[axis], common), common)
    return result


def _scaled(size: Size, scale: float) -> Size:
    """floor(size * scale): a float is a fraction of integers."""
    numerator, denominator = float(scale).as_integer_ratio()
    return size * numerator // denominator


def _kept_aspect(size: Size, scale: Scale) -> Size:
    """size * scale rounded to the nearest integer, halves up."""
    outs = [(2 * size * a + b) // (2 * b) for a, b in scale.fractions]
    result = outs[0]
    for out in outs[1:]:
        result = (smaller if scale.smallest else larger)(result, out)
    return result


def positions(axis: Axis, mode: str, roi: tuple[float, float] | None = None) -> np.ndarray:
    """Where each output position lies on the input axis (coordinate_transformation_mode), float64."""
    size, out, scale = _numbers(axis)
    x = np.arange(out, dtype=np.float64)
    length = scale * size  # of the result before it was rounded down
    if mode == "tf_crop_and_resize":
        assert roi is not None
        first, last = roi
        if length == 1:
            return np.full(out, (first + last) / 2 * (size - 1))
        return first * (size - 1) + x * (last - first) * (size - 1) / (length - 1)
    if mode == "align_corners":
        return x * (size - 1) / (length - 1) if length != 1 else np.zeros(out)
    if mode == "asymmetric":
        return x / scale
    if mode == "tf_half_pixel_for_nn":
        return (x + 0.5) / scale
    if mode == "pytorch_half_pixel" and out == 1:
        return np.zeros(1)
    middle = (x + 0.5) / scale - 0.5
    if mode == "half_pixel_symmetric":
        return middle + size / 2 * (1 - out / length)
    return middle


def taps(
    axis: Axis, attrs: Mapping[str, Any], roi: tuple[float, float] | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """What each position is made of: places int64 [taps, out], and weights [taps, out] or None for one tap of 1."""
    size, out, scale = _numbers(axis)
    x = positions(axis, attrs["coordinate_transformation_mode"], roi)
    last = size - 1
    if attrs["mode"] == "nearest":
        place = _float32_nearest(axis, attrs) if attrs["float32_nearest"] else _nearest(x, attrs["nearest_mode"])
        return np.clip(place, 0, last).astype(np.int64).reshape(1, out), None
    shrink = min(scale, 1.0) if attrs["antialias"] else 1.0
    reach = axis.reach(attrs["mode"]) if attrs["antialias"] else RADIUS[attrs["mode"]]
    assert isinstance(reach, int)
    places = np.floor(x) + np.arange(1 - reach, reach + 1)[:, None]
    distance = np.abs(places - x) * shrink
    weights = np.maximum(1 - distance, 0) if attrs["mode"] == "linear" else _cubic(distance, attrs["cubic_coeff_a"])
    if attrs["exclude_outside"]:
        weights = np.where((places >= 0) & (places <= last), weights, 0.0)
    if attrs["antialias"] or attrs["exclude_outside"]:
        total = weights.sum(axis=0)
        weights = weights / np.where(total == 0, 1.0, total)
    return np.clip(places, 0, last).astype(np.int64), weights


def _numbers(axis: Axis) -> tuple[int, int, float]:
    scale = axis.number()
    assert isinstance(axis.size, int) and isinstance(axis.out, int) and scale is not None
    return axis.size, axis.out, scale


def _nearest(x: np.ndarray, mode: str) -> np.ndarray:
    rounded = {
        "round_prefer_floor": lambda: np.ceil(x - 0.5),
        "round_prefer_ceil": lambda: np.floor(x + 0.5),
        "floor": lambda: np.floor(x),
        "ceil": lambda: np.ceil(x),
    }
    return rounded[mode]()


def _float32_nearest(axis: Axis, attrs: Mapping[str, Any]) -> np.ndarray:
    """As torch has it: the product with a reciprocal scale, all in float32, rounded down."""
    size, out, scale = _numbers(axis)
    step = np.float32(size) / np.float32(out) if isinstance(axis.scale, Scale) else np.float32(1 / scale)
    middle = np.float32(0.5 if attrs["coordinate_transformation_mode"] == "half_pixel" else 0)
    return np.floor((np.arange(out, dtype=np.float32) + middle) * step)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981)."""
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
