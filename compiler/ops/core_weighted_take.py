"""The core op that gathers rows and adds them up as it goes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast
from compiler.ir import Node
from compiler.kernels import WeightedTakeSpec
from compiler.op import Call, Sample, op
from compiler.ops.rounding import round_to
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

START = {"sum": 0.0, "max": float("-inf")}


def step(fn: str, dtype: DType, acc: DType) -> Expr:
    """The total after one more tap: arg 0 is the row's element, arg 1 the weight, arg 2 the total so far."""
    row, weight, total = cast(arg(0, dtype), acc), arg(1, acc), arg(2, acc)
    return apply("fma", row, weight, total) if fn == "sum" else apply("max", total, row * weight)


@op("weighted_take", attrs={"fn": "sum"})
class WeightedTake:
    """data [O, A, C], places and weights [T, O or 1, I] -> [O, I, C]: for each of the T taps, row places[t, o, i] of
    data[o] times its weight, added up (fn sum; a tap of weight 0 is not read) or the greatest taken (max).

    Weights are of the type sums are computed in: float64 for float64 data, else float32. Negative places count from
    the end.
    """

    def infer(call: Call) -> list[TensorType]:
        data, places, weights = (call.tensor(i) for i in range(3))
        acc = dtypes.float64 if data.dtype == dtypes.float64 else dtypes.float32
        if not data.dtype.is_float or weights.dtype != acc or not places.dtype.is_integer:
            call.dtype_error(
                f"data {data}, places {places}, weights {weights}; expected floats, integers and weights of {acc}"
            )
        if any(t.shape is None or len(t.shape) != 3 for t in (data, places, weights)):
            call.shape_error(f"data {data}, places {places}, weights {weights}; expected [O, A, C] and twice [T, O, I]")
        assert data.shape is not None and places.shape is not None and weights.shape is not None
        for axis, what in enumerate(("taps", "outer positions", "results")):
            call.same_size(places.shape[axis], weights.shape[axis], f"the number of {what} (of places, of weights)")
        if places.shape[1] != 1:
            call.same_size(data.shape[0], places.shape[1], "the number of outer positions (of data, of places)")
        return [TensorType(data.dtype, (data.shape[0], places.shape[2], data.shape[2]))]

    def reference(data: np.ndarray, places: np.ndarray, weights: np.ndarray, *, fn: str) -> np.ndarray:
        outer, count = data.shape[0], places.shape[2]
        if np.any((places < -data.shape[1]) | (places >= data.shape[1])):
            raise IndexError(f"a place is outside an axis of {data.shape[1]}")
        total = np.full((outer, count, data.shape[2]), START[fn])
        for place, weight in zip(places, weights.astype(np.float64)[..., None], strict=True):
            at = np.broadcast_to(place, (outer, count))[..., None]
            row = np.take_along_axis(data, np.where(at < 0, at + data.shape[1], at).astype(np.int64), 1)
            wide = row.astype(np.float64)
            total = total + np.where(weight == 0, 0, wide) * weight if fn == "sum" else np.maximum(total, wide * weight)
        return round_to(total, data.dtype)

    def lower(node: Node, low: Lowering) -> None:
        data, places, weights = (low.view(value) for value in node.inputs)  # type: ignore[arg-type]
        out = low.allocate(node.output)
        if any(size == 0 for size in out.shape):
            return
        data = low.with_unit_axis(data, 2)
        shape = (places.shape[0], out.shape[0], places.shape[2])
        spread = [
            replace(
                view,
                shape=shape,
                strides=(view.strides[0], 0 if view.shape[1] == 1 else view.strides[1], view.strides[2]),
            )
            for view in (places, weights)
        ]
        spec = WeightedTakeSpec(node.attrs["fn"], data.dtype, weights.dtype, places.dtype)
        low.call(spec, [data, *spread], [out])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for width, dtype in ((1, np.float32), (17, np.float32), (67, np.float64), (130, np.float32), (5, np.float16)):
            data = rng.standard_normal((2, 6, width)).astype(dtype)
            places = rng.integers(-6, 6, (3, 2, 4)).astype(np.int32 if width == 17 else np.int64)
            weights = rng.standard_normal(places.shape).astype(np.float64 if dtype == np.float64 else np.float32)
            weights[1, :, ::2] = 0
            for fn in START:
                yield Sample((data, places, weights), {"fn": fn}, 4, f"{fn} {width}")
            shared = (data, places[:, :1], weights[:, :1])
            yield Sample(shared, {}, 4, f"shared {width}")
        brain = rng.standard_normal((1, 4, 9)).astype(dtypes.bfloat16.numpy)
        one = np.array([[[0, 3, 2]]])
        yield Sample((brain, one, np.ones(one.shape, np.float32)), {}, name="bfloat16")
        infinite = np.full((1, 4, 3), np.inf, np.float32)
        yield Sample((infinite, one, np.zeros(one.shape, np.float32)), {}, name="unread")
        yield Sample((infinite, one[:, :, :0], np.zeros((1, 1, 0), np.float32)), {}, name="nothing")
