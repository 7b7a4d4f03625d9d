"""GridSample: an image sampled where a grid of positions says."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, const, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import wide
from compiler.ops.rounding import round_to
from compiler.ops.sampling import Positions, Taps, clip, combine, place_taps, reflect
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ONNX_ATTRS = {"align_corners": 0, "mode": "linear", "padding_mode": "zeros"}
_ATTRS = {**_ONNX_ATTRS, "clamped": True}
_MODES = ("nearest", "linear", "cubic")
_PADDINGS = ("zeros", "border", "reflection")


def _old_names(b: Builder, node: Any) -> Any:
    mode = node.attr("mode", "bilinear")
    return node.with_attrs(mode={"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


@op(
    "grid_sample",
    onnx=OnnxRow("GridSample", _ONNX_ATTRS, upgrades=((20, _old_names),)),
    attrs=_ATTRS,
    host_reason="integers are only sampled at the nearest place",
)
class GridSample:
    """x [N,C,S1..Sd] at the positions grid [N,O1..Od,d] (-1..1, last axis first) -> [N,C,O1..Od].

    align_corners: whether -1 and 1 are the middles of the outermost elements, or their outer edges. clamped: whether a
    cubic position outside the edges with border padding is clamped before its taps are taken (ONNX), or only they are
    (torch). Cubic is Keys' kernel with a = -0.75.
    """

    def infer(call: Call) -> list[TensorType]:
        x, grid, attrs = call.tensor(0), call.tensor(1), call.attrs
        if attrs["mode"] not in _MODES or attrs["padding_mode"] not in _PADDINGS:
            call.shape_error(
                f"mode {attrs['mode']!r} with padding_mode {attrs['padding_mode']!r}; expected one of {_MODES} and one "
                f"of {_PADDINGS}"
            )
        if not grid.dtype.is_float:
            call.dtype_error(f"the grid is {grid.dtype}; expected a float type")
        if x.shape is None or grid.shape is None:
            return [TensorType(x.dtype, x.shape and tuple(call.fresh() for _ in x.shape))]
        if len(x.shape) < 3 or len(grid.shape) != len(x.shape):
            call.shape_error(f"found x {x} and grid {grid}; expected [N, C, S1..Sd] and [N, O1..Od, d]")
        call.same_size(grid.shape[-1], len(x.shape) - 2, "the number of coordinates (of grid, of axes of x)")
        batch = call.same_size(x.shape[0], grid.shape[0], "the batch size (of x, of grid)")
        return [TensorType(x.dtype, (batch, x.shape[1], *grid.shape[1:-1]))]

    def reference(x: np.ndarray, grid: np.ndarray, **attrs: Any) -> np.ndarray:
        sizes = x.shape[2:]
        rank = len(sizes)
        axes = []
        for a, size in enumerate(sizes):
            axes.append(_taps(grid[..., rank - 1 - a].astype(np.float64), size, **attrs))
        batch = np.arange(x.shape[0]).reshape(-1, *[1] * rank)
        channels_last = np.moveaxis(x, 1, -1)
        if attrs["mode"] == "nearest":
            places, weights = zip(*(axis[0] for axis in axes), strict=True)
            found = channels_last[(batch, *places)]
            inside = np.prod(weights, axis=0)[..., None] != 0
            return np.moveaxis(np.where(inside, found, np.zeros((), x.dtype)), -1, 1)
        total = np.zeros((*grid.shape[:-1], x.shape[1]))
        for taps in itertools.product(*axes):
            places, weights = zip(*taps, strict=True)
            weight = np.prod(weights, axis=0)[..., None]
            found = channels_last[(batch, *places)].astype(np.float64)
            total += np.where(weight == 0, 0, found) * weight
        total = np.moveaxis(total, -1, 1)
        return round_to(total, x.dtype) if dtypes.from_numpy(x.dtype).is_float else total.astype(x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, grid = node.inputs
        attrs, dtype = node.attrs, x.type.dtype
        if attrs["mode"] != "nearest" and not dtype.is_float:
            return None
        n, c, *sizes = known_shape(x)
        out = known_shape(grid)[1:-1]
        area, rank = dims.product(sizes), len(sizes)
        space = (n, *out)
        axes = [_emit_taps(b, _column(b, grid, rank - 1 - a), space, sizes[a], node) for a in range(rank)]
        strides = [dims.product(sizes[a + 1 :]) for a in range(rank)]
        rows = b.emit("transpose", x, perm=(0, *range(2, rank + 2), 1))
        rows = b.emit("reshape", rows, b.sizes((n * area, c)))
        found = combine(b, rows, axes, strides, space, ((0, area),), hint="grid_sample")
        return b.emit("transpose", found, perm=(0, rank + 1, *range(1, rank + 1)))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 5, 4)).astype(np.float32)
        grid = rng.uniform(-1.4, 1.4, (2, 3, 7, 2)).astype(np.float32)
        for mode, padding, corners in itertools.product(_MODES, _PADDINGS, (0, 1)):
            attrs = {"mode": mode, "padding_mode": padding, "align_corners": corners}
            yield Sample((x, grid), attrs, 16, f"{mode} {padding} {corners}")
        wide_x = rng.standard_normal((2, 17, 3, 6))
        torch_cubic = {"mode": "cubic", "padding_mode": "border", "clamped": False}
        yield Sample((wide_x, grid.astype(np.float64)), torch_cubic, 64, "channels")
        volume = rng.standard_normal((1, 2, 3, 4, 1)).astype(np.float32)
        for mode, padding in (("linear", "zeros"), ("nearest", "reflection")):
            positions = rng.uniform(-3, 3, (1, 2, 1, 3, 3)).astype(np.float32)
            yield Sample((volume, positions), {"mode": mode, "padding_mode": padding}, 16, f"volume {mode}")
        yield Sample((x[:, :, 0], grid[:, 0, :, :1]), {"padding_mode": "reflection"}, 16, "line")
        yield Sample(((x * 9).astype(np.int32), grid), {"mode": "nearest"}, name="integers")
        yield Sample((x.astype(np.float16), grid), {}, 8, "half")
        yield Sample((x, grid[:, :0]), {}, name="nothing")
        outside = np.where(np.abs(grid) > 0.9, np.float32(1e30), grid)
        yield Sample((np.where(x > 1, np.float32(np.inf), x), outside), {"align_corners": 1}, 16, "far")


def _column(b: Builder, grid: Value, number: int) -> Value:
    """Coordinate `number` of every position."""
    *outer, _ = known_shape(grid)
    starts = (*[0] * len(outer), number)
    column = b.emit("slice", grid, starts=starts, sizes=(*outer, 1), steps=(1,) * len(starts))
    return b.emit("reshape", column, b.sizes(outer))


def _emit_taps(b: Builder, coordinate: Value, space: Sequence[Size], size: Size, node: Node) -> Taps:
    attrs, operands = node.attrs, Positions(b)
    x = operands.real(coordinate) + 1
    length = operands.length(size)
    zero = const(0, x.dtype)
    aligned, padding = attrs["align_corners"], attrs["padding_mode"]
    position = x * 0.5 * (length - 1) if aligned else (x * length - 1) * 0.5
    low, high = (zero, length - 1) if aligned else (zero - 0.5, length - 0.5)
    if attrs["mode"] == "nearest":
        position = apply("rint", position)
    if padding == "border" and attrs["clamped"] and attrs["mode"] == "cubic":
        outside = apply("or", apply("lt", position, low), apply("gt", position, high))
        position = select(outside, clip(position, 0, length - 1), position)
    elif padding == "border" and attrs["mode"] != "cubic":
        position = clip(position, 0, length - 1)
    elif padding == "reflection":
        position = _reflect_outside(position, low, high)
    dtype = wide(node.inputs[0].type.dtype) if node.inputs[0].type.dtype.is_float else dtypes.float32
    return place_taps(b, position, operands, space, size, attrs["mode"], padding, dtype, (low, high))


def _reflect_outside(x: Expr, low: Expr, high: Expr) -> Expr:
    outside = apply("or", apply("lt", x, low), apply("gt", x, high))
    return select(outside, reflect(x, low, high), x)


def _taps(coordinate: np.ndarray, size: int, *, align_corners: int, mode: str, padding_mode: str, clamped: bool) -> Any:
    """(places, weights) of each tap along one axis."""
    low, high = (0.0, size - 1.0) if align_corners else (-0.5, size - 0.5)
    x = (coordinate + 1) / 2 * (size - 1) if align_corners else ((coordinate + 1) * size - 1) / 2
    x = np.rint(x) if mode == "nearest" else x
    outside = (x < low) | (x > high)
    if padding_mode == "reflection":
        x = np.where(outside, _mirror(x, low, high), x)
    if padding_mode == "border" and (clamped or mode != "cubic"):
        x = np.where(outside, np.clip(x, 0, size - 1), x)
    floor = np.floor(x)
    kernels = {"nearest": (0,), "linear": (0, 1), "cubic": (-1, 0, 1, 2)}
    found = []
    for offset in kernels[mode]:
        place = np.rint(x) if mode == "nearest" else floor + offset
        distance = np.abs(x - place)
        weight = {
            "nearest": lambda d: np.ones(d.shape),
            "linear": lambda d: 1 - d,
            "cubic": lambda d: np.where(d <= 1, 1.25 * d**3 - 2.25 * d**2 + 1, -0.75 * (d**3 - 5 * d**2 + 8 * d - 4)),
        }[mode](distance)
        if padding_mode == "zeros":
            weight = np.where((place >= 0) & (place <= size - 1), weight, 0.0)
        if padding_mode == "reflection":
            place = _mirror(place, low, high)
        found.append((np.clip(place, 0, size - 1).astype(np.int64), weight))
    return found


def _mirror(x: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low
    if span <= 0:
        return np.full(x.shape, low)
    phase = np.mod(x - low, 2 * span)
    return low + np.minimum(phase, 2 * span - phase)
