"""Scales and sizes computed in the graph: from sizes by float arithmetic, as exporters write them, or from data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.ir import Value
from compiler.op import Call, Sample, op
from compiler.ops.resize_emit import element_of
from compiler.ops.resize_taps import Axis, Scale, resized_axes
from compiler.ops.shape import listed, vector_length
from compiler.types import TensorType


@op("scaled_sizes", tracks_values=True, host_reason="scales that come from data decide the sizes of a result")
class ScaledSizes:
    """Sizes (int64 [k]) times scales ([k], floats), rounded down."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(dtypes.int64, (vector_length(call, 0) or call.fresh(),))]

    def reference(sizes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        return np.floor(sizes.astype(np.float64) * scales.astype(np.float64)).astype(np.int64)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((np.array([7, 10, 3]), np.array([0.5, 1.5, 2], np.float32)))


def measured_axes(
    b: Builder, shape: Sequence[Size], scales: Value | None, sizes: Value | None, attrs: Mapping[str, Any]
) -> list[Axis] | None:
    """Every axis of a tensor resized by `scales`, or to `sizes`, whose contents are not known; None where it takes more
    than these.

    Where some of them are known (of batch and channels they are nearly always), only the others are left to be found.
    """
    given = scales if scales is not None else sizes
    chosen = [a % len(shape) for a in attrs["axes"]] if attrs["axes"] else list(range(len(shape)))
    parts = _known_parts(b, given, len(chosen)) if given is not None else None
    by_scale = scales is not None
    if given is None or parts is None or (by_scale and attrs["antialias"]):
        return None
    if not by_scale and attrs["keep_aspect_ratio_policy"] != "stretch":
        return None
    axes = [Axis(size, size, 1.0) for size in shape]
    for number, (axis, part) in enumerate(zip(chosen, parts, strict=True)):
        alone = {**attrs, "axes": (axis,)}
        if part is None:
            axes[axis] = _measured(b, shape[axis], given, number, by_scale)
        elif by_scale:
            axes[axis] = resized_axes(shape, [float(part)], None, alone)[axis]
        else:
            axes[axis] = resized_axes(shape, None, [part], alone)[axis]
    return axes


def _measured(b: Builder, size: Size, given: Value, number: int, by_scale: bool) -> Axis:
    length = b.emit("slice", given, starts=(number,), sizes=(1,), steps=(1,))
    if by_scale:
        length = b.emit("scaled_sizes", b.sizes((size,)), length)
    zeros = b.emit("expand", b.constant(np.float64(0)), length, hint="zeros")
    out = zeros.type.shape[0]  # type: ignore[union-attr,index]
    return Axis(size, out, element_of(b, given, number) if by_scale else Scale(((out, size),)), zeros)


def _known_parts(b: Builder, vector: Value, count: int) -> list[Any] | None:
    """What is known of each element of a vector of `count`, which may be joined from several, None for an element of
    which nothing is; None for all if the vector is not of that length."""
    if not isinstance(vector.type, TensorType) or vector.type.shape != (count,):
        return None
    joined = next((node for node in reversed(b.nodes) if vector in node.outputs and node.op == "concat"), None)
    result: list[Any] = []
    for part in joined.inputs if joined is not None else (vector,):
        assert part is not None and isinstance(part.type, TensorType) and part.type.shape is not None
        (length,) = part.type.shape
        contents = b.contents(part)
        if contents is not None:
            result += list(contents) if contents.dtype.kind == "f" else listed(contents)
        elif isinstance(length, int):
            result += [None] * length
    return result if len(result) == count else [None] * count
