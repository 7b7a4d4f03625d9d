"""Col2Im: overlapping blocks summed into an image, as one scatter whose places follow from sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import apply, const, index, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.core_pool import pool_sizes
from compiler.ops.elementwise import in_float64
from compiler.ops.indexing import Operands
from compiler.ops.scatter import combines
from compiler.ops.shape import known_shape, listed, unknown_shape, vector_length
from compiler.types import TensorType, contiguous_strides

_ATTRS = {"dilations": None, "pads": None, "strides": None}


@op(
    "col2im",
    onnx=OnnxRow("Col2Im", _ATTRS),
    attrs=_ATTRS,
    value_operands=(1, 2),
    host_reason="the sizes are computed in the graph, or no kernel adds elements of this type",
)
class Col2Im:
    """x [N, C * block elements, blocks] -> [N, C, image..] for the sizes of an image (operand 1) and of a block
    (operand 2): each block added where a window with these attributes took it from, what lies in padding left out.

    Sums go in the order of block elements, then blocks, each rounded to the element type.
    """

    def infer(call: Call) -> list[TensorType]:
        x, image, block = call.tensor(0), call.value(1), call.value(2)
        if x.shape is None:
            return [x]
        if len(x.shape) != 3:
            call.shape_error(f"found {x}; expected [N, C * block elements, blocks]")
        channels: Size = call.fresh() if block is None else x.shape[1] // dims.product(listed(block))
        if block is not None:
            call.same_size(x.shape[1], channels * dims.product(listed(block)), "axis 1 (of x, of whole blocks)")
        count = vector_length(call, 1)
        if image is None or block is None:
            sizes = unknown_shape(call, count) if image is None else tuple(listed(image))
            return [TensorType(x.dtype, None if sizes is None else (x.shape[0], channels, *sizes))]
        blocks = dims.product(_geometry(listed(image), listed(block), call.attrs)[0])
        call.same_size(x.shape[2], blocks, "the number of blocks (of x, in the image)")
        return [TensorType(x.dtype, (x.shape[0], channels, *listed(image)))]

    def reference(x: np.ndarray, image: np.ndarray, block: np.ndarray, **attrs: Any) -> np.ndarray:
        sizes, kernel = listed(image), listed(block)
        out, strides, dilations, pads = _geometry(sizes, kernel, attrs)

        def add(columns: np.ndarray) -> np.ndarray:
            parts = columns.reshape(x.shape[0], -1, *kernel, *out)
            reach = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(out, strides, kernel, dilations, strict=True)]
            total = np.zeros((*parts.shape[:2], *(max(r, n + p) for r, n, p in zip(reach, sizes, pads, strict=False))))
            for at in np.ndindex(*kernel):  # type: ignore[arg-type]
                steps = zip(at, out, strides, dilations, strict=True)
                where = tuple(np.s_[k * d : k * d + (n - 1) * s + 1 : s] for k, n, s, d in steps)
                total[(slice(None), slice(None), *where)] += parts[(slice(None), slice(None), *at)]
            return total[(slice(None), slice(None), *(np.s_[p : p + n] for p, n in zip(pads, sizes, strict=False)))]

        return in_float64(add, (x,), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, *known = node.inputs
        contents = [b.contents(value) for value in known]
        if any(c is None for c in contents) or not combines(x.type.dtype, "add"):
            return None
        image, block = (listed(c) for c in contents)  # type: ignore[arg-type]
        return add_blocks(b, x, image, block, node.attrs)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def blocks(count: int, length: int, dtype: Any = np.float32) -> np.ndarray:
            return rng.standard_normal((2, count, length)).astype(dtype)

        yield Sample((blocks(3 * 4, 9), np.array([6, 6]), np.array([2, 2])), {"strides": (2, 2)}, 8, "apart")
        yield Sample((blocks(6, 16, np.float64), np.array([5, 5]), np.array([2, 3])), {"pads": (0, 1, 0, 0)}, 8, "pads")
        attrs = {"dilations": (2, 1), "strides": (1, 2), "pads": (1, 1, 0, 2)}
        yield Sample((blocks(9, 16), np.array([7, 7]), np.array([3, 3])), attrs, 16, "dilated")
        yield Sample((blocks(3, 5), np.array([7]), np.array([3])), {}, 8, "line")


def add_blocks(b: Builder, x: Value, image: Sequence[Size], block: Sequence[Size], attrs: Any) -> Value:
    """Col2Im of x for known sizes."""
    out, strides, dilations, pads = _geometry(image, block, attrs)
    batch, joined, _ = known_shape(x)
    channels = joined // dims.product(block)
    total, rank = dims.product(image), len(image)
    operands = Operands(b)
    place, inside = const(0, dtypes.int64), const(True, dtypes.boolean)
    for a, step in enumerate(contiguous_strides(tuple(image))):
        at = index(a) * dilations[a] + index(rank + a) * strides[a] - pads[a]
        place = place + at * operands.size(step)
        here = apply("and", apply("ge", at, const(0, dtypes.int64)), apply("lt", at, operands.size(image[a])))
        inside = apply("and", inside, here)
    padded = any(pads)
    if padded:  # one more place takes what lies in padding
        place = select(inside, place, operands.size(total))
    places = b.emit("map", *operands.values, outputs=(place,), shape=(*block, *out), hint="place")
    outer, count, extent = batch * channels, dims.product((*block, *out)), total + 1 if padded else total
    table = b.emit("map", outputs=(const(0, x.type.dtype),), shape=(outer, extent, 1), hint="zeros")
    at_all = b.emit("expand", b.emit("reshape", places, b.sizes((1, count, 1))), b.sizes((outer, count, 1)))
    rows = b.emit("reshape", x, b.sizes((outer, count, 1)))
    summed = b.emit("scatter", table, at_all, rows, reduction="add", hint="col2im")
    if padded:
        summed = b.emit("slice", summed, starts=(0, 0, 0), sizes=(outer, total, 1), steps=(1, 1, 1))
    return b.emit("reshape", summed, b.sizes((batch, channels, *image)))


def _geometry(
    image: Sequence[Size], block: Sequence[Size], attrs: Any
) -> tuple[list[Any], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Blocks along each axis, strides, dilations and pads (begins, then ends)."""
    rank = len(image)
    strides, dilations = (tuple(attrs[name] or (1,) * rank) for name in ("strides", "dilations"))
    pads = tuple(attrs["pads"] or (0,) * 2 * rank)
    return pool_sizes(image, block, strides, dilations, pads, False), strides, dilations, pads  # type: ignore[arg-type]
