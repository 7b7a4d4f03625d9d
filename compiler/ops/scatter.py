"""ScatterElements and ScatterND as one core scatter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler import dims, kernels
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.core_scatter import combine_at
from compiler.ops.indexing import Operands, element_index, element_place, nd_place, spans
from compiler.ops.shape import known_shape
from compiler.types import TensorType


def combines(dtype: DType, reduction: str) -> bool:
    """Whether kernels scatter elements of a type."""
    return dtype.kind != "string" and (reduction == "none" or kernels.computes(dtype))


def scatter_flat(
    b: Builder,
    data: Value,
    place: Expr,
    operands: Operands,
    shape: Sequence[Size],
    updates: Value,
    reduction: str,
    hint: str,
) -> Value:
    """`data` with updates[p] combined into the row numbers `place` computes over the index space `shape`; what axes
    updates has beyond those are a row."""
    places = b.emit("map", *operands.values, hint="place", outputs=(place,), shape=tuple(shape))
    trailing = len(known_shape(updates)) - len(shape)
    indexed = len(known_shape(data)) - trailing
    return scatter_rows(b, data, places, updates, indexed, reduction, hint)


def scatter_rows(
    b: Builder, data: Value, places: Value, updates: Value, indexed: int, reduction: str, hint: str
) -> Value:
    """`data` with rows combined into the places [any shape] of its first `indexed` axes joined; updates has the axes of
    `places`, then those of a row."""
    whole, wanted = known_shape(data), known_shape(places)
    count, length = dims.product(wanted), dims.product(whole[indexed:])
    table = b.emit("reshape", data, b.sizes((1, dims.product(whole[:indexed]), length)))
    at = b.emit("expand", b.emit("reshape", places, b.sizes((1, count, 1))), b.sizes((1, count, length)))
    rows = b.emit("reshape", updates, b.sizes((1, count, length)))
    filled = b.emit("scatter", table, at, rows, reduction=reduction, hint=hint)
    return b.emit("reshape", filled, b.sizes(whole))


def scatter_along(
    b: Builder, data: Value, places: Value, updates: Value, axis: int, reduction: str, hint: str
) -> Value:
    """data[i, places[i, j, k], k] combined with updates[i, j, k] for axis 1. Where `places` spans data on the other
    axes they stay axes of the scatter, else it works on flat data."""
    whole, shape = known_shape(data), known_shape(places)
    axis %= max(len(whole), 1)
    if not spans(whole, shape, axis):
        operands = Operands(b)
        place = element_place(operands, data, places, axis)
        return scatter_flat(b, data, place, operands, shape, updates, reduction, hint)
    outer, inner = dims.product(whole[:axis]), dims.product(whole[axis + 1 :])
    table, at, rows = (
        b.emit("reshape", value, b.sizes((outer, known_shape(value)[axis], inner))) for value in (data, places, updates)
    )
    filled = b.emit("scatter", table, at, rows, reduction=reduction, hint=hint)
    return b.emit("reshape", filled, b.sizes(whole))


_REDUCTIONS = ("add", "mul", "max", "min")


@op(
    "scatter_elements",
    onnx=(OnnxRow("ScatterElements", {"axis": 0, "reduction": "none"}), OnnxRow("Scatter", {"axis": 0})),
    attrs={"axis": 0, "reduction": "none"},
    host_reason="no kernel combines elements of this type",
)
class ScatterElements:
    """data with data[i, index[i, j, k], k] = updates[i, j, k] for axis 1, or combined by `reduction`; of equal places
    the last stays, combinations go in row-major order of updates, each rounded to the element type."""

    def infer(call: Call) -> list[TensorType]:
        call.same_dtype(0, 2)
        if call.tensor(1).shape is not None:
            call.same_shape(call.tensor(2).shape, call.tensor(1).shape, "the updates")
        return [call.tensor(0)]

    def reference(
        data: np.ndarray, places: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str
    ) -> np.ndarray:
        return combine_at(data, tuple(np.broadcast_arrays(*element_index(data, places, axis))), updates, reduction)

    def decompose(b: Builder, node: Node) -> Value | None:
        data, places, updates = node.inputs
        axis, reduction = node.attrs["axis"], node.attrs["reduction"]
        if not combines(data.type.dtype, reduction):
            return None
        return scatter_along(b, data, places, updates, axis, reduction, "scatter_elements")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data, updates = (rng.standard_normal(s).astype(np.float32) for s in ((3, 5), (2, 5)))
        places = np.array([[0, 1, -1, 0, 2], [1, 0, 0, 2, 1]])
        yield Sample((data, places, updates), {"axis": 0})
        yield Sample((data, places[:, :3], updates[:, :3].copy()), {"axis": 1}, name="part")
        yield Sample((data, places[:0], updates[:0]), {"axis": 0}, name="nothing")
        cube, updates = (rng.standard_normal(s).astype(np.float32) for s in ((3, 4, 5), (3, 7, 5)))
        for reduction in _REDUCTIONS:
            attrs = {"axis": 1, "reduction": reduction}
            yield Sample((cube, rng.integers(-4, 4, updates.shape), updates), attrs, 8, reduction)
        part = rng.integers(0, 5, (2, 3, 9)), rng.standard_normal((2, 3, 9)).astype(np.float32)
        yield Sample((cube, *part), {"axis": -1, "reduction": "add"}, 8, "part of add")


@op(
    "scatter_nd",
    onnx=OnnxRow("ScatterND", {"reduction": "none"}),
    attrs={"reduction": "none"},
    host_reason="how many axes are indexed is not fixed, or no kernel combines elements of this type",
)
class ScatterNd:
    """data with slices put at, or combined by `reduction` into, the positions in the last axis of operand 1; in order,
    each step rounded to the element type."""

    def infer(call: Call) -> list[TensorType]:
        call.same_dtype(0, 2)
        data, places = call.tensor(0).shape, call.tensor(1).shape
        if data is not None and places and isinstance(places[-1], int):
            call.same_shape(call.tensor(2).shape, (*places[:-1], *data[places[-1] :]), "the updates")
        return [call.tensor(0)]

    def reference(data: np.ndarray, places: np.ndarray, updates: np.ndarray, *, reduction: str) -> np.ndarray:
        return combine_at(data, tuple(np.moveaxis(places, -1, 0)), updates, reduction)

    def decompose(b: Builder, node: Node) -> Value | None:
        data, places, updates = node.inputs
        *outer, depth = known_shape(places)
        reduction = node.attrs["reduction"]
        if not isinstance(depth, int) or not combines(data.type.dtype, reduction):
            return None
        operands = Operands(b)
        place = nd_place(b, operands, known_shape(data)[:depth], places, 0)
        return scatter_flat(b, data, place, operands, outer, updates, reduction, "scatter_nd")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data, updates = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (3, 3)))
        yield Sample((data, np.array([[0], [2], [-1]]), updates), name="rows")
        yield Sample((data, np.array([[0, 1], [-1, -1], [0, 1]]), updates[0].copy()), name="elements")
        for reduction in _REDUCTIONS:
            yield Sample((data, np.array([[1], [2], [1]]), updates), {"reduction": reduction}, 8, reduction)
        doubles, halves = data.astype(np.float64), data.astype(np.float16)
        pairs = np.array([[0, 1], [-1, -1], [0, 1]])
        yield Sample((doubles, pairs, doubles[0]), {"reduction": "add"}, 8, "add of elements")
        yield Sample((halves, np.array([[1], [-1]]), halves[:2].copy()), {"reduction": "mul"}, 8, "mul of float16")
