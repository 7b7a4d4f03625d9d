"""ONNX Pad and Tile: operands whose contents are known become attributes of core ops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import apply, const, index
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.binary import floor_mod
from compiler.ops.core_moves import padded_shape
from compiler.ops.extents import larger
from compiler.ops.indexing import Operands
from compiler.ops.onnx_types import attribute_to_input
from compiler.ops.shape import known_shape, listed, unknown_shape, vector_length
from compiler.types import TensorType


def _upgrade_pad(b: Builder, node: Any) -> Any:
    node = attribute_to_input("pads", 1)(b, attribute_to_input("paddings", 1)(b, node))
    value = b.constant(np.array(node.attr("value", 0.0)), dtype=node.required(0).type.dtype)
    return replace(node, inputs=(*node.inputs[:2], value)).with_attrs(value=None)


def resolve_pads(rank: int, pads: np.ndarray, axes: np.ndarray | None) -> tuple[tuple[Size, ...], tuple[Size, ...]]:
    """What to add before and after each of `rank` axes."""
    values = listed(pads)
    chosen = range(rank) if axes is None else [int(a) % rank for a in axes]
    before: list[Size] = [0] * rank
    after: list[Size] = [0] * rank
    for i, axis in enumerate(chosen):
        before[axis], after[axis] = values[i], values[len(values) // 2 + i]
    return tuple(before), tuple(after)


@op(
    "onnx_pad",
    onnx=OnnxRow("Pad", {"mode": "constant"}, upgrades=((11, _upgrade_pad),)),
    attrs={"mode": "constant"},
    value_operands=(1, 3),
    host_reason="the padding is computed in the graph",
)
class OnnxPad:
    """x with elements added or (negative) removed: operands x, pads (begins.., ends..), fill value, axes."""

    def infer(call: Call) -> list[TensorType]:
        x, pads, axes = call.tensor(0), call.value(1), call.value(3)
        if x.shape is None:
            return [x]
        if pads is None or (call.optional(3) is not None and axes is None):
            return [TensorType(x.dtype, unknown_shape(call, len(x.shape)))]
        before, after = resolve_pads(len(x.shape), pads, axes)
        return [TensorType(x.dtype, padded_shape(call, x.shape, before, after))]

    def reference(
        x: np.ndarray, pads: np.ndarray, fill: np.ndarray | None = None, axes: np.ndarray | None = None, *, mode: str
    ) -> np.ndarray:
        before, after = resolve_pads(x.ndim, pads, axes)
        sides = list(zip(before, after, x.shape, strict=True))
        cropped = x[tuple(np.s_[max(-b, 0) : n - max(-a, 0)] for b, a, n in sides)]  # type: ignore[operator,type-var]
        widths = [(max(b, 0), max(a, 0)) for b, a, _ in sides]  # type: ignore[type-var]
        if mode == "constant":
            value = np.zeros((), x.dtype) if fill is None else fill.reshape(()).astype(x.dtype)
            return np.pad(cropped, widths, constant_values=value)  # type: ignore[arg-type]
        return np.pad(cropped, widths, mode=mode)  # type: ignore[call-overload]

    def decompose(b: Builder, node: Node) -> Value | None:
        x, pads, fill, axes = (*node.inputs, None, None)[:4]
        if x.type.shape is None or b.contents(pads) is None or (axes is not None and b.contents(axes) is None):
            return None
        before, after = resolve_pads(len(x.type.shape), b.contents(pads), b.contents(axes))
        mode, static = node.attrs["mode"], dims.is_static((*x.type.shape, *before, *after))
        if mode == "constant" or static:
            return b.emit("pad", x, fill, before=before, after=after, mode=mode)
        for axis, (lead, trail) in enumerate(zip(before, after, strict=True)):
            if (lead, trail) != (0, 0):
                x = mirror(b, x, axis, lead, trail, mode)
        return x

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((3, 4)).astype(np.float32)
        fill = np.array(1.5, np.float32)
        yield Sample((x, np.array([1, 0, 2, 3]), fill), name="constant")
        yield Sample((x, np.array([1, -1, -1, 0])), name="crop")
        yield Sample((x, np.array([2, 1]), fill, np.array([-1])), name="axes")
        for mode in ("edge", "reflect", "wrap"):
            yield Sample((x, np.array([1, 2, -1, 5])), {"mode": mode}, name=mode)


def mirror(b: Builder, x: Value, axis: int, before: Size, after: Size, mode: str) -> Value:
    """x with repetitions of itself on both sides of one axis, of any size above zero; negative amounts crop."""
    shape = known_shape(x)
    crop = larger(-1 * before, 0), larger(-1 * after, 0)
    if crop != (0, 0):
        starts = tuple(crop[0] if a == axis else 0 for a in range(len(shape)))
        shape = tuple(size - crop[0] - crop[1] if a == axis else size for a, size in enumerate(shape))
        x = b.emit("slice", x, starts=starts, sizes=shape, steps=(1,) * len(shape))
    before, after = larger(before, 0), larger(after, 0)
    operands = Operands(b)
    size, place = operands.size(shape[axis]), index(0) - operands.size(before)
    if mode == "edge":
        place = apply("max", apply("min", place, size - 1), const(0, dtypes.int64))
    elif mode == "wrap":
        place = floor_mod(place, size)
    else:
        period = (size - 1) * 2
        place = floor_mod(place, period)
        place = apply("min", place, period - place)
    total = shape[axis] + before + after
    places = b.emit("map", *operands.values, hint="place", outputs=(place,), shape=(total,))
    return b.emit("take", x, places, axis=axis, hint="mirrored")


@op(
    "tile",
    onnx="Tile",
    value_operands=(1,),
    tracks_values=True,
    host_reason="the repeats are computed in the graph",
)
class Tile:
    """x repeated along each axis as often as operand 1 says."""

    def infer(call: Call) -> list[TensorType]:
        x, repeats = call.tensor(0), call.value(1)
        if x.shape is None or repeats is None:
            rank = vector_length(call, 1) if x.shape is None else len(x.shape)
            return [TensorType(x.dtype, unknown_shape(call, rank))]
        if repeats.size != len(x.shape):
            call.shape_error(f"{repeats.size} repeats for a tensor of rank {len(x.shape)}; give one an axis")
        return [TensorType(x.dtype, tuple(n * r for n, r in zip(x.shape, listed(repeats), strict=True)))]

    def reference(x: np.ndarray, repeats: np.ndarray) -> np.ndarray:
        return np.tile(x, tuple(int(r) for r in repeats))

    def decompose(b: Builder, node: Node) -> Value | None:
        x, repeats = node.inputs
        if x.type.shape is None or b.contents(repeats) is None:
            return None
        apart: list[Size] = []
        spread: list[Size] = []
        for size, count in zip(x.type.shape, listed(b.contents(repeats)), strict=True):
            apart += [size] if count == 1 else [1, size]
            spread += [size] if count == 1 else [count, size]
        expanded = b.emit("expand", b.emit("reshape", x, b.sizes(apart)), b.sizes(spread))
        return b.emit("reshape", expanded, b.sizes(known_shape(node.output)), hint="tile")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3)).astype(np.float32)
        for repeats in ((1, 2), (3, 1), (2, 2), (0, 2)):
            yield Sample((x, np.array(repeats)), name=str(repeats))
