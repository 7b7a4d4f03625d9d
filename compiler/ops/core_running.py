"""The core op of running sums and products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from compiler import dtypes, views
from compiler.dtypes import DType
from compiler.expr import apply, arg, cast
from compiler.ir import Node
from compiler.lowering.axes import stride_class
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.elementwise import in_float64
from compiler.running import RunningSpec
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

FUNCTIONS = {"sum": (np.add, "add", 0), "prod": (np.multiply, "mul", 1)}  # fn: on arrays, in expressions, of nothing


def running(x: np.ndarray, axis: int, fn: str, exclusive: bool, reverse: bool) -> np.ndarray:
    """What precedes each element along an axis reduced with it (without it: `exclusive`); `reverse`: what follows."""
    ufunc, _, neutral = FUNCTIONS[fn]

    def run(a: np.ndarray) -> np.ndarray:
        a = np.flip(a, axis) if reverse else a
        if exclusive:
            a = np.delete(np.insert(a, 0, neutral, axis=axis), -1, axis=axis)
        total = ufunc.accumulate(a, axis=axis, dtype=a.dtype)
        return np.flip(total, axis) if reverse else total

    return in_float64(run, (x,), {}, x.dtype)


def state_type(dtype: DType) -> DType:
    """What a running reduction is carried in: a rounding error stays in all that follows, and a wider addition takes no
    longer where each waits for the one before."""
    if not dtype.is_float:
        return dtype
    return dtypes.float32 if dtype.bits < 32 else dtypes.float64


@op("running", attrs={"fn": REQUIRED, "exclusive": False, "reverse": False})
class Running:
    """y[o, i, r] = x[o, :i+1, r] reduced by `fn` (sum, prod) for x [O, I, R]; `exclusive` without x[o, i, r] itself,
    `reverse` from the end. Float32 is carried in float64, narrower floats in float32, each result rounded once more."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        if x.shape is None or len(x.shape) != 3:
            call.shape_error(f"found {x}; expected [O, I, R]")
        return [x]

    def reference(x: np.ndarray, *, fn: str, exclusive: bool, reverse: bool) -> np.ndarray:
        return running(x, 1, fn, exclusive, reverse)

    def lower(node: Node, low: Lowering) -> None:
        x, out = low.view(node.inputs[0]), low.allocate(node.output)  # type: ignore[arg-type]
        if any(size == 0 for size in out.shape):
            return
        if node.attrs["reverse"]:
            last = (0, out.shape[1] - 1, 0)
            x, out = (views.slice(view, last, view.shape, (1, -1, 1)) for view in (x, out))
        _, combine, start = FUNCTIONS[node.attrs["fn"]]
        state = state_type(x.dtype)
        spec = RunningSpec(
            combine=apply(combine, arg(0, state), cast(arg(1, x.dtype), state)),
            result=cast(arg(0, state), x.dtype),
            start=start,
            exclusive=bool(node.attrs["exclusive"]),
            lone=out.shape[2] == 1,
            element=x.dtype,
            in_classes=(stride_class(x.strides[2], x.shape[2]),),
            out_classes=(stride_class(out.strides[2], out.shape[2]),),
        )
        low.call(spec, [x], [out])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def near_one(*shape: int) -> np.ndarray:
            return rng.uniform(0.5, 1.5, shape)

        for fn in FUNCTIONS:
            for dtype in (np.float32, np.float64, np.float16, np.int64, np.int8):
                x = (near_one(2, 9, 5) * 2).astype(dtype)
                yield Sample((x,), {"fn": fn}, 2, f"{fn}-{np.dtype(dtype).name}")
        for flags in ({"exclusive": True}, {"reverse": True}, {"exclusive": True, "reverse": True}):
            name = " ".join(flags)
            yield Sample((near_one(3, 17, 1).astype(np.float32),), {"fn": "sum", **flags}, 2, f"lone {name}")
            yield Sample((near_one(1, 6, 130).astype(np.float32),), {"fn": "prod", **flags}, 2, f"wide {name}")
        yield Sample((near_one(2, 0, 3).astype(np.float32),), {"fn": "sum"}, name="nothing")
