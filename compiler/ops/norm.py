"""Layer and RMS normalization, as one core `reduce` each.

The variance is taken in a second pass over the row, of the differences from the mean: no cancellation.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import Expr, apply, cast, extent, kept, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, f32, operand
from compiler.ops.onnx_types import onnx_dtype
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType

EPSILON = f32(1e-5)


def moments(x: Expr) -> tuple[tuple[Stage, ...], Expr, Expr]:
    """Stages that keep x as kept(0), the mean, and the variance (of the population)."""
    count = extent(x.dtype)
    mean = stat(0, x.dtype) / count
    difference = kept(0, x.dtype) - mean
    return (Stage("sum", x, keep=True), Stage("sum", difference * difference)), mean, stat(1, x.dtype) / count


def array_moments(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    mean = np.mean(x, axis=axes, keepdims=True)
    return mean, np.mean((x - mean) ** 2, axis=axes, keepdims=True)


def scaled(x: Expr, scale: Expr | None, bias: Expr | None) -> Expr:
    """x * scale + bias, either missing."""
    x = x if scale is None else x * scale
    return x if bias is None else x + bias


def trailing_axes(axis: int, rank: int) -> tuple[int, ...]:
    """The axes from `axis` on."""
    return tuple(range(axis % rank, rank))


def _check_row(call: Call) -> TensorType:
    x = call.tensor(0)
    check_kind(call, x.dtype, FLOAT)
    if x.shape is not None:
        axis = call.axis(call.attrs["axis"], len(x.shape))
        for i in (1, 2):
            found = call.optional(i)
            if found is not None and found.shape is not None:
                call.broadcast(x.shape[axis:], found.shape)
    return x


@op(
    "layer_norm",
    onnx=OnnxRow("LayerNormalization", {"axis": -1, "epsilon": EPSILON, "stash_type": 1}),
    attrs={"axis": -1, "epsilon": EPSILON, "stash_type": 1},
)
class LayerNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias over the axes from `axis` on; also the mean and 1 / sqrt."""

    def infer(call: Call) -> list[TensorType]:
        x = _check_row(call)
        row = None
        if x.shape is not None:
            axis = call.axis(call.attrs["axis"], len(x.shape))
            row = (*x.shape[:axis], *[1] * (len(x.shape) - axis))
        stash = TensorType(onnx_dtype(call.attrs["stash_type"]), row)
        return [x, stash, stash][: call.outputs]

    def reference(
        x: np.ndarray,
        scale: np.ndarray | None = None,
        bias: np.ndarray | None = None,
        *,
        axis: int,
        epsilon: float,
        stash_type: int,
    ) -> tuple[np.ndarray, ...]:
        exact = x.astype(np.float64)
        mean, variance = array_moments(exact, trailing_axes(axis, x.ndim))
        inverse = 1 / np.sqrt(variance + epsilon)
        result = (exact - mean) * inverse
        result = result if scale is None else result * scale.astype(np.float64)
        result = result if bias is None else result + bias.astype(np.float64)
        stash = onnx_dtype(stash_type).numpy
        return round_to(result, x.dtype), round_to(mean, stash), round_to(inverse, stash)

    def decompose(b: Builder, node: Node) -> tuple[Value | None, ...]:
        x, scale, bias = (*node.inputs, None, None)[:3]
        given = [v for v in (x, scale, bias) if v is not None]
        stages, mean, variance = moments(operand(0, x))
        inverse = 1.0 / apply("sqrt", variance + node.attrs["epsilon"])
        normal = (kept(0, mean.dtype) - mean) * inverse
        factors = [None if v is None else cast(operand(given.index(v), v), mean.dtype) for v in (scale, bias)]
        stash = onnx_dtype(node.attrs["stash_type"])
        rows = [cast(e, stash) for e, v in zip((mean, inverse), node.outputs[1:], strict=False) if v.name]
        results = b.emit_many(
            "reduce",
            given,
            {
                "axes": trailing_axes(node.attrs["axis"], len(known_shape(x))),
                "stages": stages,
                "elements": (cast(scaled(normal, *factors), x.type.dtype),),
                "rows": tuple(rows),
            },
            ["layer_norm", *["statistic"] * len(rows)],
        )
        rest = iter(results[1:])
        return (results[0], *(next(rest) if v.name else None for v in node.outputs[1:]))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x, scale, bias = rng.normal(3, 2, (2, 5, 12)), rng.standard_normal(12), rng.standard_normal(12)
        for dtype in (np.float32, np.float64, dtypes.bfloat16.numpy):
            yield Sample((x.astype(dtype), scale.astype(dtype), bias.astype(dtype)), tolerance=32, name=str(dtype))
        single = x.astype(np.float32)
        yield Sample((single, scale.astype(np.float32)), {"epsilon": 0.1}, 32, "no bias")
        two = rng.standard_normal((5, 12)).astype(np.float32)
        yield Sample((single, two, two), {"axis": 1}, 32, "two axes")


@op(
    "rms_norm",
    onnx=OnnxRow("RMSNormalization", {"axis": -1, "epsilon": EPSILON, "stash_type": 1}),
    attrs={"axis": -1, "epsilon": EPSILON, "stash_type": 1},
)
class RmsNorm:
    """x / sqrt(mean(x * x) + epsilon) * scale over the axes from `axis` on."""

    def infer(call: Call) -> list[TensorType]:
        return [_check_row(call)]

    def reference(
        x: np.ndarray, scale: np.ndarray | None = None, *, axis: int, epsilon: float, stash_type: int
    ) -> np.ndarray:
        exact = x.astype(np.float64)
        mean = np.mean(exact * exact, axis=trailing_axes(axis, x.ndim), keepdims=True)
        result = exact / np.sqrt(mean + epsilon)
        return round_to(result if scale is None else result * scale.astype(np.float64), x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, scale = (*node.inputs, None)[:2]
        value = operand(0, x)
        mean = stat(0, value.dtype) / extent(value.dtype)
        factor = 1.0 / apply("sqrt", mean + node.attrs["epsilon"])
        weight = None if scale is None else cast(operand(1, scale), value.dtype)
        return b.emit(
            "reduce",
            *(v for v in (x, scale) if v is not None),
            hint="rms_norm",
            axes=trailing_axes(node.attrs["axis"], len(known_shape(x))),
            stages=(Stage("sum", value * value),),
            elements=(cast(scaled(value * factor, weight, None), x.type.dtype),),
        )

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x, scale = rng.standard_normal((2, 5, 12)), rng.standard_normal(12)
        for dtype in (np.float32, np.float64, np.float16):
            yield Sample((x.astype(dtype), scale.astype(dtype)), tolerance=16, name=np.dtype(dtype).name)
