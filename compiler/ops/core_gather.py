"""The core op that picks single elements at computed places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compiler.ir import Node
from compiler.kernels import MoveSpec, View
from compiler.lowering.axes import stride_class
from compiler.op import Call, Sample, op
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("take_elements")
class TakeElements:
    """out[o, i, r] = data[o, places[o, i, r], r] for data [O, A, R], places [O, I, R]; places count from the end where
    negative."""

    def infer(call: Call) -> list[TensorType]:
        data, places = call.tensor(0), call.tensor(1)
        if not places.dtype.is_integer:
            call.dtype_error(f"the places are {places.dtype}; expected int32 or int64")
        if any(t.shape is None or len(t.shape) != 3 for t in (data, places)):
            call.shape_error(f"data {data}, places {places}; expected [O, A, R] and [O, I, R]")
        for axis, what in ((0, "outer size"), (2, "length of a row")):
            call.same_size(data.shape[axis], places.shape[axis], f"the {what}")  # type: ignore[index]
        return [TensorType(data.dtype, places.shape)]

    def reference(data: np.ndarray, places: np.ndarray) -> np.ndarray:
        return np.take_along_axis(data, places.astype(np.int64), axis=1)

    def lower(node: Node, low: Lowering) -> None:
        data, places = (low.view(value) for value in node.inputs)  # type: ignore[arg-type]
        emit_take_elements(low, data, places, low.allocate(node.output))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data = rng.standard_normal((3, 4, 5)).astype(np.float32)
        yield Sample((data, rng.integers(-4, 4, (3, 7, 5))))
        yield Sample((data[:, :, :1].astype(np.float64), rng.integers(-4, 4, (3, 7, 1)).astype(np.int32)), name="lone")
        yield Sample(((data[:1] + 1j).astype(np.complex128), rng.integers(0, 4, (1, 2, 5))), name="complex128")
        yield Sample((data, np.zeros((3, 0, 5), np.int64)), name="nothing")


def emit_take_elements(low: Lowering, data: View, places: View, out: View) -> None:
    """One call: views of [O, A, R], [O, I, R], [O, I, R]."""
    if any(size == 0 for size in out.shape):
        return
    if out.shape[2] == 1:  # the long axis is walked innermost: data repeats along it
        outer, count, _ = out.shape
        places, out = (
            replace(v, shape=(outer, 1, count), strides=(v.strides[0], 0, v.strides[1])) for v in (places, out)
        )
        data = replace(data, shape=(outer, data.shape[1], count), strides=(*data.strides[:2], 0))
    data_class, place_class, out_class = (stride_class(v.strides[2], v.shape[2]) for v in (data, places, out))
    spec = MoveSpec("take_elements", data.dtype.bytes, 3, places.dtype, (data_class, place_class), (out_class,))
    low.call(spec, [data, places], [out])
