"""GatherElements and GatherND as one core take of flattened data; ScatterElements and ScatterND."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, cast, const, index, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType, contiguous_strides


class Operands:
    """The operands of a map being built: tensors as they come, symbolic sizes as scalars."""

    def __init__(self, b: Builder) -> None:
        self.values: list[Value] = []
        self._b = b

    def tensor(self, value: Value) -> Expr:
        """The element of a tensor, integers as int64."""
        self.values.append(value)
        return cast(arg(len(self.values) - 1, value.type.dtype), dtypes.int64)

    def size(self, size: Size) -> Expr:
        """A size as int64: a constant if it is a number."""
        if isinstance(size, int):
            return const(size, dtypes.int64)
        return self.tensor(self._b.emit("reshape", self._b.sizes((size,)), self._b.sizes(())))


def from_front(place: Expr, extent: Expr) -> Expr:
    """A position counted from the end where negative, counted from the front."""
    return select(apply("lt", place, const(0, dtypes.int64)), place + extent, place)


def take_flat(
    b: Builder, data: Value, place: Expr, operands: Operands, shape: Sequence[Size], inner: Sequence[Size], hint: str
) -> Value:
    """Rows of shape `inner` of `data`, at the row numbers `place` computes over the index space `shape`."""
    rows = b.emit("reshape", data, b.sizes((-1, *inner)))
    places = b.emit("map", *operands.values, hint="place", outputs=(place,), shape=tuple(shape))
    return b.emit("take", rows, places, axis=0, hint=hint)


def put_flat(
    b: Builder, data: Value, place: Expr, operands: Operands, shape: Sequence[Size], updates: Value, hint: str
) -> Value:
    """`data` with updates[p] put at the row numbers `place` computes over the index space `shape`; what axes updates
    has beyond those are a row."""
    places = b.emit("map", *operands.values, hint="place", outputs=(place,), shape=tuple(shape))
    count, length = dims.product(shape), dims.product(known_shape(updates)[len(shape) :])
    extent = dims.product(known_shape(data)[: rows_rank(data, updates, len(shape))])
    table = b.emit("reshape", data, b.sizes((extent, length)))
    rows = b.emit("reshape", updates, b.sizes((count, length)))
    filled = b.emit("put", table, b.emit("reshape", places, b.sizes((count,))), rows, hint=hint)
    return b.emit("reshape", filled, b.sizes(known_shape(data)))


def rows_rank(data: Value, updates: Value, outer: int) -> int:
    """How many axes of data are indexed, if updates has `outer` axes before those of a row."""
    return len(known_shape(data)) - (len(known_shape(updates)) - outer)


def element_place(operands: Operands, data: Value, places: Value, axis: int) -> Expr:
    """The flat place of data[i, places[i, j, k], k] (axis 1) over the index space of `places`."""
    shape = known_shape(data)
    row = from_front(operands.tensor(places), operands.size(shape[axis]))
    total = const(0, dtypes.int64)
    for a, stride in enumerate(contiguous_strides(shape)):
        total = total + (row if a == axis % len(shape) else index(a)) * operands.size(stride)
    return total


def nd_place(b: Builder, operands: Operands, indexed: Sequence[Size], places: Value, batch: int) -> Expr:
    """The flat place, in axes of sizes `indexed`, of the positions in the last axis of `places`, over its other axes;
    the first `batch` axes are shared."""
    *outer, _ = known_shape(places)
    total = const(0, dtypes.int64)
    for a, (size, stride) in enumerate(zip(indexed, contiguous_strides(tuple(indexed)), strict=True)):
        if a < batch:
            place = index(a)
        else:
            starts = (*[0] * len(outer), a - batch)
            column = b.emit("slice", places, starts=starts, sizes=(*outer, 1), steps=(1,) * len(starts))
            column = b.emit("reshape", column, b.sizes(outer))
            place = from_front(operands.tensor(column), operands.size(size))
        total = total + place * operands.size(stride)
    return total


@op("gather_elements", onnx=OnnxRow("GatherElements", {"axis": 0}), attrs={"axis": 0})
class GatherElements:
    """out[i, j, k] = data[i, index[i, j, k], k] for axis 1; data and index have the same rank."""

    def infer(call: Call) -> list[TensorType]:
        data, places = call.tensor(0), call.tensor(1)
        if data.shape is not None and places.shape is not None:
            call.axis(call.attrs["axis"], len(data.shape))
            if len(data.shape) != len(places.shape):
                call.shape_error(f"data has rank {len(data.shape)}, the index {len(places.shape)}; expected the same")
        return [TensorType(data.dtype, places.shape)]

    def reference(data: np.ndarray, places: np.ndarray, *, axis: int) -> np.ndarray:
        return data[_element_index(data, places, axis)]

    def decompose(b: Builder, node: Node) -> Value:
        data, places = node.inputs
        operands = Operands(b)
        place = element_place(operands, data, places, node.attrs["axis"])
        return take_flat(b, data, place, operands, known_shape(places), (), "gather_elements")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data = rng.standard_normal((3, 4, 5)).astype(np.float32)
        for axis, size in ((0, 3), (1, 4), (-1, 5)):
            places = rng.integers(-size, size, (2, 3, 4))
            yield Sample((data, places), {"axis": axis}, name=str(axis))
        yield Sample((data, np.zeros((3, 0, 5), np.int32)), {"axis": 1}, name="empty")


def _element_index(data: np.ndarray, places: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    grid: list[np.ndarray] = list(np.indices(places.shape, sparse=True))
    grid[axis] = np.where(places < 0, places + data.shape[axis], places)
    return tuple(grid)


@op(
    "gather_nd",
    onnx=OnnxRow("GatherND", {"batch_dims": 0}),
    attrs={"batch_dims": 0},
    host_reason="how many axes are indexed is not fixed",
)
class GatherNd:
    """Slices of data at the positions in the last axis of operand 1, after `batch_dims` shared leading axes."""

    def infer(call: Call) -> list[TensorType]:
        data, places = call.tensor(0), call.tensor(1)
        if data.shape is None or places.shape is None:
            return [TensorType(data.dtype, None)]
        depth, batch = places.shape[-1], call.attrs["batch_dims"]
        if not isinstance(depth, int):
            return [TensorType(data.dtype, None)]
        if batch + depth > len(data.shape):
            call.shape_error(f"positions of {depth} axes after {batch} batch axes for {data}; it has too few axes")
        return [TensorType(data.dtype, (*places.shape[:-1], *data.shape[batch + depth :]))]

    def reference(data: np.ndarray, places: np.ndarray, *, batch_dims: int) -> np.ndarray:
        grid = np.indices(places.shape[:-1], sparse=True)[:batch_dims]
        return data[(*grid, *np.moveaxis(places, -1, 0))]

    def decompose(b: Builder, node: Node) -> Value | None:
        data, places = node.inputs
        shape, batch = known_shape(data), node.attrs["batch_dims"]
        *outer, depth = known_shape(places)
        if not isinstance(depth, int):
            return None
        operands = Operands(b)
        place = nd_place(b, operands, shape[: batch + depth], places, batch)
        return take_flat(b, data, place, operands, outer, shape[batch + depth :], "gather_nd")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data = rng.standard_normal((3, 4, 5)).astype(np.float32)
        yield Sample((data, np.array([[0, 1], [2, -1]])), name="pairs")
        yield Sample((data, np.array([[[1], [-3]]])), name="rows")
        yield Sample((data, np.array([2, 3, 4])), name="one element")
        yield Sample((data, rng.integers(-4, 4, (3, 2, 1))), {"batch_dims": 1}, name="batch")


_REDUCTIONS = {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
_NO_SCATTER = "no kernel combines what is scattered to one place"


def scatter(data: np.ndarray, places: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    """data with updates put at, or combined into, the places; in order, floats rounded once at the end."""
    if reduction == "none":
        result = data.copy()
        result[places] = updates
        return result
    real = dtypes.from_numpy(data.dtype).is_float
    wide, new = (a.astype(np.float64 if real else a.dtype) for a in (data, updates))
    _REDUCTIONS[reduction].at(wide, places, new)
    return round_to(wide, data.dtype) if real else wide


def _infer_scatter(call: Call) -> list[TensorType]:
    call.same_dtype(0, 2)
    return [call.tensor(0)]


@op(
    "scatter_elements",
    onnx=(OnnxRow("ScatterElements", {"axis": 0, "reduction": "none"}), OnnxRow("Scatter", {"axis": 0})),
    attrs={"axis": 0, "reduction": "none"},
    host_reason=_NO_SCATTER,
)
class ScatterElements:
    """data with data[i, index[i, j, k], k] = updates[i, j, k] for axis 1, or combined by `reduction`."""

    infer = _infer_scatter

    def reference(
        data: np.ndarray, places: np.ndarray, updates: np.ndarray, *, axis: int, reduction: str
    ) -> np.ndarray:
        return scatter(data, np.broadcast_arrays(*_element_index(data, places, axis)), updates, reduction)

    def decompose(b: Builder, node: Node) -> Value | None:
        data, places, updates = node.inputs
        if node.attrs["reduction"] != "none":
            return None
        operands = Operands(b)
        place = element_place(operands, data, places, node.attrs["axis"])
        return put_flat(b, data, place, operands, known_shape(places), updates, "scatter_elements")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data, updates = (rng.standard_normal(s).astype(np.float32) for s in ((3, 5), (2, 5)))
        places = np.array([[0, 1, -1, 0, 2], [1, 0, 0, 2, 1]])
        yield Sample((data, places, updates), {"axis": 0})
        yield Sample((data, places[:, :3], updates[:, :3].copy()), {"axis": 1}, name="part")
        yield Sample((data, places[:0], updates[:0]), {"axis": 0}, name="nothing")


@op(
    "scatter_nd",
    onnx=OnnxRow("ScatterND", {"reduction": "none"}),
    attrs={"reduction": "none"},
    host_reason=_NO_SCATTER,
)
class ScatterNd:
    """data with slices put at, or combined by `reduction` into, the positions in the last axis of operand 1."""

    infer = _infer_scatter

    def reference(data: np.ndarray, places: np.ndarray, updates: np.ndarray, *, reduction: str) -> np.ndarray:
        return scatter(data, tuple(np.moveaxis(places, -1, 0)), updates, reduction)

    def decompose(b: Builder, node: Node) -> Value | None:
        data, places, updates = node.inputs
        *outer, depth = known_shape(places)
        if node.attrs["reduction"] != "none" or not isinstance(depth, int):
            return None
        operands = Operands(b)
        place = nd_place(b, operands, known_shape(data)[:depth], places, 0)
        return put_flat(b, data, place, operands, outer, updates, "scatter_nd")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data, updates = (rng.standard_normal(s).astype(np.float32) for s in ((4, 3), (3, 3)))
        yield Sample((data, np.array([[0], [2], [-1]]), updates), name="rows")
        yield Sample((data, np.array([[0, 1], [-1, -1], [0, 1]]), updates[0].copy()), name="elements")
