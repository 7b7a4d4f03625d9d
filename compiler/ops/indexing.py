"""GatherElements and GatherND as one core take of flattened data; the places indices name in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, bitcast, cast, const, index, select
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
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


NOWHERE = 1 << 62  # a place beyond any data: kernels report it


def from_front(place: Expr, extent: Expr) -> tuple[Expr, Expr]:
    """A position counted from the front (from the end where negative), and whether there is such a position."""
    front = select(apply("lt", place, const(0, dtypes.int64)), place + extent, place)
    return front, apply("lt", bitcast(front, dtypes.uint64), bitcast(extent, dtypes.uint64))


def somewhere(place: Expr, valid: Expr | None) -> Expr:
    """A flat place where it is `valid` (None: always), else NOWHERE."""
    return place if valid is None else select(valid, place, const(NOWHERE, dtypes.int64))


def take_flat(
    b: Builder, data: Value, place: Expr, operands: Operands, shape: Sequence[Size], inner: Sequence[Size], hint: str
) -> Value:
    """Rows of shape `inner` of `data`, at the row numbers `place` computes over the index space `shape`."""
    leading = known_shape(data)[: len(known_shape(data)) - len(inner)]
    rows = b.emit("reshape", data, b.sizes((dims.product(leading), *inner)))
    places = b.emit("map", *operands.values, hint="place", outputs=(place,), shape=tuple(shape))
    return b.emit("take", rows, places, axis=0, hint=hint)


def element_place(operands: Operands, data: Value, places: Value, axis: int) -> Expr:
    """The flat place of data[i, places[i, j, k], k] (axis 1) over the index space of `places`."""
    shape = known_shape(data)
    row, valid = from_front(operands.tensor(places), operands.size(shape[axis]))
    total = const(0, dtypes.int64)
    for a, stride in enumerate(contiguous_strides(shape)):
        total = total + (row if a == axis % len(shape) else index(a)) * operands.size(stride)
    return somewhere(total, valid)


def nd_place(b: Builder, operands: Operands, indexed: Sequence[Size], places: Value, batch: int) -> Expr:
    """The flat place, in axes of sizes `indexed`, of the positions in the last axis of `places`, over its other axes;
    the first `batch` axes are shared."""
    *outer, _ = known_shape(places)
    total, valid = const(0, dtypes.int64), None
    for a, (size, stride) in enumerate(zip(indexed, contiguous_strides(tuple(indexed)), strict=True)):
        if a < batch:
            place = index(a)
        else:
            starts = (*[0] * len(outer), a - batch)
            column = b.emit("slice", places, starts=starts, sizes=(*outer, 1), steps=(1,) * len(starts))
            column = b.emit("reshape", column, b.sizes(outer))
            place, inside = from_front(operands.tensor(column), operands.size(size))
            valid = inside if valid is None else apply("and", valid, inside)
        total = total + place * operands.size(stride)
    return somewhere(total, valid)


def spans(whole: Sequence[Size], shape: Sequence[Size], axis: int) -> bool:
    """Whether places of a `shape` index every element of data of shape `whole` but along `axis`."""
    others = [a for a in range(len(whole)) if a != axis]
    return bool(whole) and all(whole[a] == shape[a] for a in others)


@op(
    "gather_elements",
    onnx=OnnxRow("GatherElements", {"axis": 0}),
    attrs={"axis": 0},
    host_reason="strings never reach a kernel",
)
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
        return data[element_index(data, places, axis)]

    def decompose(b: Builder, node: Node) -> Value | None:
        data, places = node.inputs
        if data.type.dtype.kind == "string":
            return None
        whole, shape = known_shape(data), known_shape(places)
        axis = node.attrs["axis"] % max(len(whole), 1)
        if spans(whole, shape, axis):
            outer, inner = dims.product(whole[:axis]), dims.product(whole[axis + 1 :])
            table, at = (b.emit("reshape", v, b.sizes((outer, known_shape(v)[axis], inner))) for v in (data, places))
            taken = b.emit("take_elements", table, at, hint="gather_elements")
            return b.emit("reshape", taken, b.sizes(shape))
        operands = Operands(b)
        place = element_place(operands, data, places, axis)
        return take_flat(b, data, place, operands, shape, (), "gather_elements")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data = rng.standard_normal((3, 4, 5)).astype(np.float32)
        for axis, size in ((0, 3), (1, 4), (-1, 5)):
            places = rng.integers(-size, size, (2, 3, 4))
            yield Sample((data, places), {"axis": axis}, name=str(axis))
        yield Sample((data, rng.integers(-4, 4, (3, 6, 5))), {"axis": 1}, name="spanning")
        yield Sample((data, rng.integers(-5, 5, (3, 4, 2))), {"axis": 2}, name="spanning the last")
        yield Sample((data, np.zeros((3, 0, 5), np.int32)), {"axis": 1}, name="empty")


def element_index(data: np.ndarray, places: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """NumPy indices of data[i, places[i, j, k], k] (axis 1)."""
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
