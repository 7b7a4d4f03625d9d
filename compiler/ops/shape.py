"""Ops that change or ask for a shape: they become core reshapes, and vanish where contents are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.errors import ModelError
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops import core_moves, core_shape  # noqa: F401 - their ops get ONNX rows here
from compiler.ops.onnx_types import attribute_to_input, onnx_row
from compiler.types import TensorType


def known_shape(value: Value) -> tuple[Size, ...]:
    """A tensor's shape. Raises ModelError where the rank is unknown."""
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None:
        raise ModelError(f"{value.name} has type {value.type}; expected a tensor of known rank: give the inputs shapes")
    return shape


def listed(contents: np.ndarray) -> list[Size]:
    """The elements of a tracked vector, each an int or a Dim."""
    return [size if isinstance(size, Dim) else int(size) for size in np.asarray(contents).reshape(-1)]


def as_reshape(b: Builder, node: Node) -> Value:
    """`node` as a core reshape to the shape its op inferred."""
    return b.emit("reshape", node.inputs[0], b.sizes(known_shape(node.output)), hint=node.op)


def unknown_shape(call: Call, rank: int | None) -> tuple[Size, ...] | None:
    """Fresh sizes for every axis; None where not even the rank is known."""
    return None if rank is None else tuple(call.fresh() for _ in range(rank))


def vector_length(call: Call, i: int) -> int | None:
    """The number of elements of vector operand i, if it is a number."""
    found = call.optional(i)
    if found is None or found.shape is None:
        return None
    length = dims.product(found.shape)
    return length if isinstance(length, int) else None


def _upgrade_reshape(b: Builder, node: Any) -> Any:
    return attribute_to_input("shape", 1)(b, node).with_attrs(consumed_inputs=None)


@op(
    "onnx_reshape",
    onnx=OnnxRow("Reshape", {"allowzero": 0}, upgrades=((5, _upgrade_reshape),)),
    attrs={"allowzero": 0},
    value_operands=(1,),
    tracks_values=True,
)
class OnnxReshape:
    """Reshape where 0 copies the size of x on that axis, unless `allowzero`, and one -1 is computed."""

    def infer(call: Call) -> list[TensorType]:
        x, contents = call.tensor(0), call.value(1)
        if contents is None:
            return [TensorType(x.dtype, unknown_shape(call, vector_length(call, 1)))]
        wanted = listed(contents)
        if not call.attrs["allowzero"] and x.shape is not None:
            wanted = copy_zeros(wanted, x.shape)
        return [TensorType(x.dtype, core_shape.resolve_reshape(call, x.shape, wanted))]

    def reference(x: np.ndarray, shape: np.ndarray, *, allowzero: int) -> np.ndarray:
        wanted: Any = [int(size) for size in shape]
        resolved: Any = wanted if allowzero else copy_zeros(wanted, x.shape)
        return np.reshape(x, resolved)

    def decompose(b: Builder, node: Node) -> Value:
        x, shape = node.inputs
        if b.contents(shape) is not None and x.type.shape is not None:
            return as_reshape(b, node)
        length = shape.type.shape[0]
        if not node.attrs["allowzero"] and isinstance(length, int) and x.type.shape is not None:
            old = b.sizes((*x.type.shape, *[1] * length)[:length])
            zero = b.emit("equal", shape, b.constant(np.int64(0)))
            shape = b.emit("where", zero, old, shape)
        return b.emit("reshape", x, shape)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 4)).astype(np.float32)
        for shape in ((0, -1), (6, 4), (0, 0, 2, 2), (-1,), (1, 24, 1)):
            yield Sample((x, np.array(shape)), name=str(shape))
        yield Sample((x[:0], np.array([3, 0])), {"allowzero": 1}, name="allowzero")


def copy_zeros(wanted: Sequence[Size], old: Sequence[Size]) -> list[Size]:
    """A wanted shape with each 0 replaced by the old size on that axis."""
    return [old[i] if size == 0 and i < len(old) else size for i, size in enumerate(wanted)]


@op(
    "squeeze",
    onnx=OnnxRow("Squeeze", upgrades=((13, attribute_to_input("axes", 1)),)),
    value_operands=(1,),
    tracks_values=True,
    host_reason="which axes to drop is computed in the graph",
)
class Squeeze:
    """Axes of size 1 removed: those in operand 1, or all of them."""

    def infer(call: Call) -> list[TensorType]:
        x, axes = call.tensor(0), call.value(1)
        if x.shape is None:
            return [x]
        if call.optional(1) is None:
            if not dims.is_static(x.shape):
                return [TensorType(x.dtype, None)]
            return [TensorType(x.dtype, tuple(size for size in x.shape if size != 1))]
        if axes is None:
            count = vector_length(call, 1)
            return [TensorType(x.dtype, unknown_shape(call, None if count is None else len(x.shape) - count))]
        gone = {call.axis(int(a), len(x.shape)) for a in axes.reshape(-1)}
        for axis in gone:
            call.same_size(x.shape[axis], 1, f"size of squeezed axis {axis}")
        return [TensorType(x.dtype, tuple(size for a, size in enumerate(x.shape) if a not in gone))]

    def reference(x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        return np.squeeze(x, None if axes is None else tuple(int(a) for a in axes.reshape(-1)))

    def decompose(b: Builder, node: Node) -> Value | None:
        shape = node.inputs[0].type.shape
        if shape is None:
            return None
        decided = b.contents(node.inputs[1]) is not None if len(node.inputs) > 1 else dims.is_static(shape)
        return as_reshape(b, node) if decided else None

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((1, 3, 1, 2)).astype(np.float32)
        yield Sample((x,))
        yield Sample((x, np.array([-2])), name="axis")
        yield Sample((x, np.array([0, 2])), name="axes")


@op(
    "unsqueeze",
    onnx=OnnxRow("Unsqueeze", upgrades=((13, attribute_to_input("axes", 1)),)),
    value_operands=(1,),
    tracks_values=True,
    host_reason="the axes are computed in the graph",
)
class Unsqueeze:
    """Axes of size 1 inserted where operand 1 says, counted in the result."""

    def infer(call: Call) -> list[TensorType]:
        x, axes = call.tensor(0), call.value(1)
        if x.shape is None:
            return [x]
        if axes is None:
            count = vector_length(call, 1)
            return [TensorType(x.dtype, unknown_shape(call, None if count is None else len(x.shape) + count))]
        rank = len(x.shape) + axes.size
        new = {call.axis(int(a), rank) for a in axes.reshape(-1)}
        if len(new) != axes.size:
            call.shape_error(f"axes {axes.tolist()} name one axis twice; expected distinct axes")
        rest = iter(x.shape)
        return [TensorType(x.dtype, tuple(1 if a in new else next(rest) for a in range(rank)))]

    def reference(x: np.ndarray, axes: np.ndarray) -> np.ndarray:
        return np.expand_dims(x, tuple(int(a) for a in axes.reshape(-1)))

    def decompose(b: Builder, node: Node) -> Value | None:
        x, axes = node.inputs
        return None if b.contents(axes) is None or x.type.shape is None else as_reshape(b, node)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((3, 2)).astype(np.float32)
        for axes in ((0,), (-1,), (2, 0), (1, -1)):
            yield Sample((x, np.array(axes)), name=str(axes))


@op("flatten", onnx="Flatten", attrs={"axis": 1}, tracks_values=True)
class Flatten:
    """A matrix: the axes before `axis` joined, and the rest joined."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        if x.shape is None:
            return [TensorType(x.dtype, unknown_shape(call, 2))]
        axis = call.attrs["axis"]
        at = len(x.shape) if axis == len(x.shape) else call.axis(axis, len(x.shape))
        return [TensorType(x.dtype, (dims.product(x.shape[:at]), dims.product(x.shape[at:])))]

    def reference(x: np.ndarray, *, axis: int) -> np.ndarray:
        at = axis + x.ndim if axis < 0 else axis
        return x.reshape(int(np.prod(x.shape[:at])), int(np.prod(x.shape[at:])))

    def decompose(b: Builder, node: Node) -> Value | None:
        return None if node.inputs[0].type.shape is None else as_reshape(b, node)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 4)).astype(np.float32)
        for axis in (0, 1, 2, 3, -1):
            yield Sample((x,), {"axis": axis}, name=str(axis))


def _build_shape(b: Builder, node: Any) -> Value:
    x, start, end = node.required(0), node.attr("start", 0), node.attr("end")
    whole = b.emit("shape_of", x)
    if not start and end is None:
        return whole
    first, last, _ = slice(start, end).indices(len(known_shape(x)))
    return b.emit("slice", whole, starts=(first,), sizes=(max(last - first, 0),), steps=(1,))


def _build_size(b: Builder, node: Any) -> Value:
    total = dims.product(known_shape(node.required(0)))
    if isinstance(total, int):
        return b.constant(np.int64(total), "size")
    return b.emit("reshape", b.sizes((total,)), b.sizes(()), hint="size")


def _build_transpose(b: Builder, node: Any) -> Value:
    x = node.required(0)
    perm = node.attr("perm") or tuple(reversed(range(len(known_shape(x)))))
    return b.emit("transpose", x, perm=tuple(perm))


def _build_concat(b: Builder, node: Any) -> Value:
    if len(node.inputs) == 1:
        return node.required(0)
    return b.emit("concat", *node.inputs, axis=node.attr("axis", 1))  # axis had a default before opset 4


onnx_row("shape_of", OnnxRow("Shape", build=_build_shape))
onnx_row("sizes", OnnxRow("Size", build=_build_size))
onnx_row("transpose", OnnxRow("Transpose", build=_build_transpose))
onnx_row("concat", OnnxRow("Concat", build=_build_concat))
onnx_row("expand", OnnxRow("Expand"))
onnx_row("take", OnnxRow("Gather", {"axis": 0}))
