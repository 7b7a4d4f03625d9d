"""Core ops that move single rows to computed places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compiler.ir import Node
from compiler.kernels import MoveSpec
from compiler.op import Call, Sample, op
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op("put")
class Put:
    """data [A, R] with rows [I, R] put at the places [I] (from the end where negative); of equal places the last
    stays."""

    def infer(call: Call) -> list[TensorType]:
        data, places, rows = (call.tensor(i) for i in range(3))
        call.same_dtype(0, 2)
        if not places.dtype.is_integer:
            call.dtype_error(f"the places are {places.dtype}; expected int32 or int64")
        ranks = tuple(len(t.shape) if t.shape is not None else None for t in (data, places, rows))
        if ranks != (2, 1, 2):
            call.shape_error(f"data {data}, places {places} and rows {rows}; expected [A, R], [I] and [I, R]")
        call.same_size(places.shape[0], rows.shape[0], "the number of rows")  # type: ignore[index]
        call.same_size(data.shape[1], rows.shape[1], "the length of a row")  # type: ignore[index]
        return [data]

    def reference(data: np.ndarray, places: np.ndarray, rows: np.ndarray) -> np.ndarray:
        result = data.copy()
        result[places] = rows
        return result

    def lower(node: Node, low: Lowering) -> None:
        data, places, rows = (low.view(value) for value in node.inputs)  # type: ignore[arg-type]
        out = low.allocate(node.output)
        low.copy(data, out)
        if any(size == 0 for size in (*rows.shape, *out.shape)):
            return
        # Along a row the place repeats, so a row is put as elements under one index of stride 0.
        index = replace(places, shape=(1, *rows.shape), strides=(0, places.strides[0], 0))
        lone, table = (replace(v, shape=(1, *v.shape), strides=(0, *v.strides)) for v in (rows, out))
        spec = MoveSpec("put_elements", out.dtype.bytes, 3, places.dtype, ("general", "unit"), ("unit",))
        low.call(spec, [lone, index], [table])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        data, rows = rng.standard_normal((7, 3)).astype(np.float32), rng.standard_normal((4, 3)).astype(np.float32)
        yield Sample((data, np.array([0, -1, 3, 0]), rows))
        yield Sample((data.astype(np.float64), np.array([6, 5, 6, -7], np.int32), rows.astype(np.float64)), name="f64")
        yield Sample((data, np.zeros(0, np.int64), rows[:0]), name="nothing")
        yield Sample((data[:, :1].astype(np.int8), np.array([2, 2, 2, 1]), rows[:, :1].astype(np.int8)), name="bytes")
