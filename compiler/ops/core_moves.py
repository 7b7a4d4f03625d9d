"""Core ops that move data: one copy or gather each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dims, views
from compiler.dims import Size
from compiler.expr import arg, const
from compiler.ir import Node
from compiler.kernels import MoveSpec
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.core_gather import emit_take_elements
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("concat", attrs={"axis": REQUIRED}, tracks_values=True)
class Concat:
    """Tensors joined along an axis."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(*range(len(call.inputs)))
        shapes = [call.tensor(i).shape for i in range(len(call.inputs))]
        first = next((shape for shape in shapes if shape is not None), None)
        if first is None or any(shape is None for shape in shapes):
            return [TensorType(dtype, None if first is None else tuple(call.fresh() for _ in first))]
        axis = call.axis(call.attrs["axis"], len(first))
        result = list(first)
        for i, shape in enumerate(shapes[1:], start=1):
            if len(shape) != len(first):
                call.shape_error(f"operand {i} has rank {len(shape)}, operand 0 has {len(first)}")
            for a, size in enumerate(shape):
                same = None if a == axis else call.same_size(result[a], size, f"axis {a} of operand {i}")
                result[a] = result[a] + size if same is None else same
        return [TensorType(dtype, tuple(result))]

    def reference(*arrays: np.ndarray, axis: int) -> np.ndarray:
        return np.concatenate(arrays, axis=axis)

    def lower(node: Node, low: Lowering) -> None:
        out = low.allocate(node.output)
        axis = node.attrs["axis"] % len(out.shape)
        start: Size = 0
        for value in node.inputs:
            low.copy(low.view(value), box(out, axis, start, value.type.shape[axis]))
            start = start + value.type.shape[axis]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        a, b = rng.standard_normal((2, 3)).astype(np.float32), rng.standard_normal((2, 1)).astype(np.float32)
        yield Sample((a, b), {"axis": -1})


def box(view: views.View, axis: int, start: Size, size: Size) -> views.View:
    """The part of `view` from `start`, `size` long, along one axis."""
    rank = len(view.shape)
    starts: list[Size] = [0] * rank
    sizes = list(view.shape)
    starts[axis], sizes[axis] = start, size
    return views.slice(view, starts, sizes, [1] * rank)


def padded_shape(call: Call, shape: Sequence[Size], before: Sequence[Size], after: Sequence[Size]) -> tuple[Size, ...]:
    """The shape with so many elements added (negative: removed) on both sides. Raises ShapeError where more is removed
    than there is."""
    for size, b, a in zip(shape, before, after, strict=True):
        kept = size + dims.minimum(b, 0) + dims.minimum(a, 0)
        if isinstance(kept, int) and kept < 0:
            call.shape_error(f"before {tuple(before)} and after {tuple(after)} remove more than there is of {shape}")
    return tuple(size + b + a for size, b, a in zip(shape, before, after, strict=True))


@op("pad", attrs={"before": REQUIRED, "after": REQUIRED, "mode": "constant"})
class Pad:
    """x with elements added (or, negative, removed) on both sides of each axis.

    mode: constant (operand 1, a scalar, or zero), edge, reflect, wrap.
    """

    def infer(call: Call) -> list[TensorType]:
        x, before, after = call.tensor(0), call.attrs["before"], call.attrs["after"]
        if x.shape is None or not len(before) == len(after) == len(x.shape):
            call.shape_error(f"before {before} and after {after} do not fit {x}")
        return [TensorType(x.dtype, padded_shape(call, x.shape, before, after))]

    def reference(
        x: np.ndarray, fill: np.ndarray | None = None, *, before: Sequence[int], after: Sequence[int], mode: str
    ) -> np.ndarray:
        cropped = x[tuple(np.s_[max(-b, 0) : n - max(-a, 0)] for b, a, n in zip(before, after, x.shape, strict=True))]
        widths = [(max(b, 0), max(a, 0)) for b, a in zip(before, after, strict=True)]
        if mode == "constant":
            value = np.zeros((), x.dtype) if fill is None else np.asarray(fill, x.dtype).reshape(())
            return np.pad(cropped, widths, constant_values=value)
        return np.pad(cropped, widths, mode=mode)  # type: ignore[call-overload]

    def decompose(b: Any, node: Node) -> Any:
        if node.attrs["mode"] == "constant":
            return None
        from compiler.ops.padding_index import padding_index  # which is made of ops declared after this file

        x = node.inputs[0]
        sides = zip(node.attrs["before"], node.attrs["after"], x.type.shape, strict=True)
        for axis, (before, after, size) in enumerate(sides):
            if (before, after) == (0, 0):
                continue
            positions = padding_index(b, node.attrs["mode"], size, before, after)
            x = b.emit("take", x, positions, axis=axis)
        return x

    def lower(node: Node, low: Lowering) -> None:
        x, out = low.view(node.inputs[0]), low.allocate(node.output)
        filled = node.inputs[1] if len(node.inputs) > 1 else None
        if filled is None:
            low.map((const(0, out.dtype),), [], [out])
        else:
            scalar = views.reshape(low.view(filled), ()) or low.view(filled)
            low.map((arg(0, out.dtype),), [views.broadcast(scalar, out.shape)], [out])
        inner_x, inner_out = x, out
        for axis, (before, after) in enumerate(zip(node.attrs["before"], node.attrs["after"], strict=True)):
            crop_before, crop_after = dims.maximum(0 - before, 0), dims.maximum(0 - after, 0)
            size = x.shape[axis] - crop_before - crop_after
            inner_x = box(inner_x, axis, crop_before, size)
            inner_out = box(inner_out, axis, dims.maximum(before, 0), size)
        low.copy(inner_x, inner_out)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((3, 4)).astype(np.float32)
        fill = np.array(2.5, np.float32)
        yield Sample((x, fill), {"before": (1, -1), "after": (0, 2), "mode": "constant"})
        for mode in ("edge", "reflect", "wrap"):
            yield Sample((x,), {"before": (1, 2), "after": (2, 0), "mode": mode}, name=mode)


@op("take", attrs={"axis": 0}, tracks_values=True)
class Take:
    """Slices of data picked along an axis by an index tensor of any rank; negative indices count from the end."""

    def infer(call: Call) -> list[TensorType]:
        data, index = call.tensor(0), call.tensor(1)
        if not index.dtype.is_integer:
            call.dtype_error(f"the index is {index.dtype}; expected int32 or int64")
        if data.shape is None or index.shape is None:
            return [TensorType(data.dtype, None)]
        axis = call.axis(call.attrs["axis"], len(data.shape))
        return [TensorType(data.dtype, data.shape[:axis] + index.shape + data.shape[axis + 1 :])]

    def reference(data: np.ndarray, index: np.ndarray, *, axis: int) -> np.ndarray:
        return np.take(data, np.asarray(index, np.int64), axis=axis)

    def lower(node: Node, low: Lowering) -> None:
        source, index = (low.dense(low.view(value)) for value in node.inputs)
        axis = node.attrs["axis"] % len(source.shape)
        positions = low.reshaped(index, (dims.product(index.shape),))
        outer, inner = dims.product(source.shape[:axis]), dims.product(source.shape[axis + 1 :])
        target = low.allocate(node.output)
        if any(size == 0 for size in target.shape):
            return
        flat = low.reshaped(source, (outer, source.shape[axis], inner))
        result = low.reshaped(target, (outer, positions.shape[0], inner))
        if inner == 1:  # single elements: a row of each would cost more than the element
            lone = replace(positions, shape=(*result.shape[:2], 1), strides=(0, positions.strides[0], 0))
            emit_take_elements(low, flat, lone, result)
            return
        spec = MoveSpec("take", flat.dtype.bytes, 3, positions.dtype, ("unit", "unit"), ("unit",))
        low.call(spec, [flat, positions], [result])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data = rng.standard_normal((4, 5, 3)).astype(np.float32)
        yield Sample((data, np.array([[0, -1], [2, 4]])), {"axis": 1})
        yield Sample((data, np.array(2, np.int32)), {"axis": 0}, name="scalar")
        yield Sample((data[..., 0].copy(), np.array([3, -5, 0, 0])), {"axis": 1}, name="elements")
        yield Sample((data[0, :, 0].copy(), np.array([[3, -5], [0, 2]], np.int32)), name="table")
