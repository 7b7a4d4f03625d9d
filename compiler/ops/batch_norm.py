"""BatchNormalization and LRN: normalizations across channels that become maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import apply, cast, const
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, f32, in_float64, operand, wide
from compiler.ops.norm import EPSILON, array_moments, moments
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ATTRS = {"epsilon": EPSILON, "momentum": f32(0.9), "training_mode": 0}


def _build(b: Builder, node: Any) -> Any:
    attrs = {key: value for key, value in node.attrs.items() if key in _ATTRS}
    if node.version < 14:  # `is_test`, `spatial` and extra outputs of older opsets only matter while training
        attrs["training_mode"] = 0
    outputs = node.outputs[: 3 if attrs.get("training_mode") else 1]
    return b.emit_many("batch_norm", node.inputs, attrs, outputs)


@op("batch_norm", onnx=OnnxRow("BatchNormalization", _ATTRS, build=_build), attrs=_ATTRS)
class BatchNorm:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, per channel of x [N, C, ...].

    Operands x, scale, bias, mean, variance. With training_mode mean and variance are the batch's own; outputs 1 and 2
    are then the running ones.
    """

    def infer(call: Call) -> list[TensorType]:
        x, mean, variance = call.tensor(0), call.tensor(3), call.tensor(4)
        check_kind(call, x.dtype, FLOAT)
        for i in range(1, 5):
            shape = call.tensor(i).shape
            if x.shape is not None and len(x.shape) > 1 and shape is not None:
                call.same_size(x.shape[1], shape[0], f"number of channels (of x, of operand {i})")
        return [x, mean, variance][: call.outputs]

    def reference(
        x: np.ndarray,
        scale: np.ndarray,
        bias: np.ndarray,
        mean: np.ndarray,
        variance: np.ndarray,
        *,
        epsilon: float,
        momentum: float,
        training_mode: int,
    ) -> tuple[np.ndarray, ...]:
        exact, column = x.astype(np.float64), (-1, *[1] * (x.ndim - 2))
        statistics = [a.astype(np.float64) for a in (mean, variance)]
        running: tuple[np.ndarray, ...] = ()
        if training_mode:
            axes = (0, *range(2, x.ndim))
            batch = [a.reshape(-1) for a in array_moments(exact, axes)]
            running = tuple(old * momentum + new * (1 - momentum) for old, new in zip(statistics, batch, strict=True))
            statistics = batch
        centre, spread = (a.reshape(column) for a in statistics)
        factor = scale.astype(np.float64).reshape(column) / np.sqrt(spread + epsilon)
        result = (exact - centre) * factor + bias.astype(np.float64).reshape(column)
        return round_to(result, x.dtype), *(round_to(a, mean.dtype) for a in running)

    def decompose(b: Builder, node: Node) -> tuple[Value | None, ...]:
        x, scale, bias, mean, variance = node.inputs
        rest: tuple[Value | None, ...] = (None,) * (len(node.outputs) - 1)
        if node.attrs["training_mode"]:
            running, momentum = (mean, variance), node.attrs["momentum"]
            mean, variance = _batch_statistics(b, x)
            rest = tuple(
                _blend(b, old, new, momentum) if i < len(node.outputs) and node.outputs[i].name else None
                for i, old, new in zip((1, 2), running, (mean, variance), strict=True)
            )[: len(rest)]
        factor, shift = scale_and_shift(b, x.type.dtype, (scale, bias, mean, variance), node.attrs["epsilon"])
        rank = len(known_shape(x))
        columns = [b.emit("reshape", v, b.sizes((-1, *[1] * (rank - 2)))) for v in (factor, shift)]
        value, by, plus = (operand(i, v) for i, v in enumerate((x, *columns)))
        return emit_map(b, cast(value * by + plus, x.type.dtype), x, *columns, hint="batch_norm"), *rest

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 4, 5))
        scale, bias, mean = (rng.standard_normal(3) for _ in range(3))
        variance = rng.uniform(0.5, 2, 3)
        for dtype in (np.float32, np.float64, np.float16):
            arrays = tuple(a.astype(dtype) for a in (x, scale, bias, mean, variance))
            yield Sample(arrays, tolerance=16, name=np.dtype(dtype).name)
        arrays = tuple(a.astype(np.float32) for a in (x, scale, bias, mean, variance))
        yield Sample((x[..., 0, 0].astype(np.float32), *arrays[1:]), {"epsilon": 0.1}, 16, "matrix")
        yield Sample(arrays, {"training_mode": 1}, 32, "training")


def scale_and_shift(
    b: Builder, dtype: DType, parameters: tuple[Value | None, ...], epsilon: float
) -> tuple[Value, Value]:
    """Per-channel factor and summand in the type to compute `dtype` in; from scale, bias, mean, variance.

    They are computed in float64: normally they are constants and cost nothing at run time.
    """
    scale, bias, mean, variance = (cast(operand(i, v), dtypes.float64) for i, v in enumerate(parameters))
    factor = scale / apply("sqrt", variance + epsilon)
    shift = bias - mean * factor
    outputs = tuple(cast(e, wide(dtype)) for e in (factor, shift))
    return b.emit_many("map", parameters, {"outputs": outputs, "shape": None}, ("factor", "shift"))  # type: ignore[return-value]


def _batch_statistics(b: Builder, x: Value) -> tuple[Value, Value]:
    stages, mean, variance = moments(operand(0, x))
    axes = (0, *range(2, len(known_shape(x))))
    attrs = {"axes": axes, "keepdims": False, "stages": stages, "rows": (mean, variance)}
    return b.emit_many("reduce", (x,), attrs, ("mean", "variance"))  # type: ignore[return-value]


def _blend(b: Builder, old: Value | None, new: Value, momentum: float) -> Value:
    before, now = operand(0, old), operand(1, new)
    blended = cast(before, now.dtype) * momentum + now * (1 - momentum)
    return emit_map(b, cast(blended, old.type.dtype), old, new, hint="running")


@op(
    "lrn",
    onnx=OnnxRow("LRN", {"alpha": f32(1e-4), "beta": 0.75, "bias": 1.0, "size": REQUIRED}),
    attrs={"alpha": f32(1e-4), "beta": 0.75, "bias": 1.0, "size": REQUIRED},
)
class Lrn:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""

    def infer(call: Call) -> list[TensorType]:
        check_kind(call, call.tensor(0).dtype, FLOAT)
        return [call.tensor(0)]

    def reference(x: np.ndarray, *, alpha: float, beta: float, bias: float, size: int) -> np.ndarray:
        before = (size - 1) // 2

        def run(a: np.ndarray) -> np.ndarray:
            widths = [(before, size - 1 - before) if axis == 1 else (0, 0) for axis in range(a.ndim)]
            squares = np.lib.stride_tricks.sliding_window_view(np.pad(a * a, widths), size, axis=1).sum(axis=-1)
            return a / (bias + alpha / size * squares) ** beta

        return in_float64(run, (x,), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, size = node.inputs[0], node.attrs["size"]
        shape = known_shape(x)
        sides = [(size - 1) // 2, size - 1 - (size - 1) // 2]
        before, after = (tuple(side if a == 1 else 0 for a in range(len(shape))) for side in sides)
        padded = b.emit("pad", x, None, before=before, after=after, mode="constant")
        starts = [tuple(i if a == 1 else 0 for a in range(len(shape))) for i in range(size)]
        steps = (1,) * len(shape)
        parts = [b.emit("slice", padded, starts=start, sizes=shape, steps=steps) for start in starts]
        value, total = operand(0, x), const(0, operand(0, x).dtype)
        for i, part in enumerate(parts, start=1):
            total = total + operand(i, part) * operand(i, part)
        scale = total * (node.attrs["alpha"] / size) + node.attrs["bias"]
        element = value / apply("pow", scale, const(node.attrs["beta"], scale.dtype))
        return emit_map(b, cast(element, x.type.dtype), x, *parts, hint="lrn")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 7, 3, 4)).astype(np.float32)
        for size in (1, 3, 4, 5):
            yield Sample((x,), {"size": size, "alpha": 0.1}, 8, f"size {size}")
