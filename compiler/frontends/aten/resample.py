"""ATen resampling: interpolation in all modes, and sampling at a grid."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from compiler.dims import Size
from compiler.frontends.aten.base import ROWS, AtenBuilder, Row, aten, shape_of, unsupported
from compiler.ir import Value

Scales = Sequence[float | None]
_SMOOTH = {"antialias": 1, "exclude_outside": 1}

# ATen name without its rank -> the ranks it comes with, and attributes of resize. Whether corners align is an argument
# of those that have no nearest_mode.
_KINDS: Mapping[str, tuple[Sequence[str], Mapping[str, Any]]] = {
    "upsample_nearest": (
        ("1d", "2d", "3d"),
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "float32_nearest": True},
    ),
    "_upsample_nearest_exact": (
        ("1d", "2d", "3d"),
        {"coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil", "float32_nearest": True},
    ),
    "upsample_linear": (("1d",), {"mode": "linear"}),
    "upsample_bilinear": (("2d",), {"mode": "linear"}),
    "upsample_trilinear": (("3d",), {"mode": "linear"}),
    "upsample_bicubic": (("2d",), {"mode": "cubic"}),
    "_upsample_bilinear": (("2d_aa",), {"mode": "linear", **_SMOOTH}),
    "_upsample_bicubic": (("2d_aa",), {"mode": "cubic", "cubic_coeff_a": -0.5, **_SMOOTH}),
}


def _scaled(size: Size, scale: float) -> Size:
    """floor(size * scale); of a symbolic size with the decimal number the scale was written as."""
    if isinstance(size, int):
        return math.floor(size * scale)
    exact = Fraction(repr(scale))
    return size * exact.numerator // exact.denominator


def _resize(
    b: AtenBuilder, x: Value, sizes: Sequence[Size], scales: Scales, corners: bool, attrs: Mapping[str, Any]
) -> Value:
    lead, old = shape_of(x)[:2], list(shape_of(x)[2:])
    if corners and attrs.get("antialias"):
        # The middles stay where half pixels have them; only the scale is that of aligned corners.
        if not all(isinstance(n, int) for n in (*old, *sizes)):
            raise unsupported(b, f"antialias with align_corners from {old} to {list(sizes)}; fix these dims")
        pairs = zip(old, sizes, strict=True)
        scales = [(out - 1) / (size - 1) if size > 1 and out > 1 else math.inf for size, out in pairs]  # type: ignore[operator]
    elif corners:
        attrs, scales = {**attrs, "coordinate_transformation_mode": "align_corners"}, ()
    steps = [tuple(range(len(old)))]
    if not b.dtype.is_float and attrs.get("mode"):
        steps = [(axis,) for axis in reversed(steps[0])]  # torch rounds after each axis, the last one first
    for axes in steps:
        given = None
        if scales and all(scale is not None for scale in scales):
            chosen = [scale if axis in axes else 1.0 for axis, scale in enumerate(scales)]
            given = b.constant(np.array([1, 1, *chosen], np.float64), "scales")  # type: ignore[list-item]
        old = [sizes[axis] if axis in axes else size for axis, size in enumerate(old)]
        x = b.emit("resize", x, None, given, b.sizes((*lead, *old)), hint="interpolate", **attrs)
    return x


def _by_sizes(attrs: Mapping[str, Any], aligned: bool) -> Row:
    def row(b: AtenBuilder, x: Value, sizes: Sequence[Size], *rest: Any) -> Value:
        corners, scales = (rest[0], rest[1:]) if aligned else (False, rest)
        return _resize(b, x, sizes, scales, corners, attrs)

    return row


def _by_sizes_or_scales(attrs: Mapping[str, Any], aligned: bool) -> Row:
    def row(b: AtenBuilder, x: Value, sizes: Sequence[Size] | None, *rest: Any) -> Value:
        corners, factors = (rest[0], rest[1]) if aligned else (False, rest[0])
        if sizes is None:
            sizes = [_scaled(size, scale) for size, scale in zip(shape_of(x)[2:], factors, strict=True)]
        return _resize(b, x, sizes, factors or (), corners, attrs)

    return row


_OVERLOADS: Mapping[str, Callable[[Mapping[str, Any], bool], Row]] = {
    "default": _by_sizes,
    "vec": _by_sizes_or_scales,
}
for _name, (_ranks, _attrs) in _KINDS.items():
    for _rank in _ranks:
        for _overload, _make in _OVERLOADS.items():
            ROWS[f"aten.{_name}{_rank}.{_overload}"] = _make(_attrs, "nearest_mode" not in _attrs)


@aten("aten.grid_sampler.default", "aten.grid_sampler_2d.default", "aten.grid_sampler_3d.default")
def _grid_sampler(b: AtenBuilder, x: Value, grid: Value, mode: int, padding: int, corners: bool) -> Value:
    attrs: dict[str, Any] = {
        "mode": ("linear", "nearest", "cubic")[mode],
        "padding_mode": ("zeros", "border", "reflection")[padding],
        "align_corners": int(bool(corners)),
        "clamped": False,
    }
    return b.emit("grid_sample", x, grid, **attrs)
