"""Normalizations of whole images or channels: instance, group, mean-variance and Lp, as one core `reduce` each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.expr import apply, cast, const, kept, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, in_float64, operand
from compiler.ops.norm import EPSILON, array_moments, moments, scaled
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType


def normalize(
    b: Builder, x: Value, axes: Sequence[int], epsilon: float, scale: Value | None, bias: Value | None, hint: str
) -> Value:
    """x with mean 0 and variance 1 over `axes`, times scale plus bias (already shaped to broadcast)."""
    stages, mean, variance = moments(operand(0, x))
    normal = (kept(0, mean.dtype) - mean) * (1.0 / apply("sqrt", variance + epsilon))
    given = [x, *(v for v in (scale, bias) if v is not None)]
    factors = [None if v is None else cast(operand(given.index(v, 1), v), mean.dtype) for v in (scale, bias)]
    element = cast(scaled(normal, *factors), x.type.dtype)
    return b.emit("reduce", *given, hint=hint, axes=tuple(axes), stages=stages, elements=(element,))


def _normalized(x: np.ndarray, axes: tuple[int, ...], epsilon: float) -> np.ndarray:
    mean, variance = array_moments(x, axes)
    return (x - mean) / np.sqrt(variance + epsilon)


def _column(array: np.ndarray, rank: int) -> np.ndarray:
    return array.astype(np.float64).reshape(-1, *[1] * (rank - 2))


@op("instance_norm", onnx=OnnxRow("InstanceNormalization", {"epsilon": EPSILON}), attrs={"epsilon": EPSILON})
class InstanceNorm:
    """Each channel of each image of x [N, C, ...] normalized, times scale [C] plus bias [C]."""

    def infer(call: Call) -> list[TensorType]:
        check_kind(call, call.tensor(0).dtype, FLOAT)
        return [call.tensor(0)]

    def reference(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, epsilon: float) -> np.ndarray:
        normal = _normalized(x.astype(np.float64), tuple(range(2, x.ndim)), epsilon)
        return round_to(normal * _column(scale, x.ndim) + _column(bias, x.ndim), x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, scale, bias = node.inputs
        rank = len(known_shape(x))
        per_channel = [b.emit("reshape", v, b.sizes((-1, *[1] * (rank - 2)))) for v in (scale, bias)]
        return normalize(b, x, range(2, rank), node.attrs["epsilon"], per_channel[0], per_channel[1], "instance_norm")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x, c = rng.normal(1, 2, (2, 3, 4, 5)), rng.standard_normal(3)
        for dtype in (np.float32, np.float64):
            yield Sample((x.astype(dtype), c.astype(dtype), c.astype(dtype)), tolerance=32, name=np.dtype(dtype).name)
        yield Sample((x[..., 0].astype(np.float32), c.astype(np.float32), c.astype(np.float32)), tolerance=32)


def _upgrade_group_norm(b: Builder, node: Any) -> Any:
    groups, (_, channels, *_) = node.attrs["num_groups"], known_shape(node.required(0))
    spread = []
    for value in node.inputs[1:]:
        column = b.emit("reshape", value, b.sizes((groups, 1)))
        wide_column = b.emit("expand", column, b.sizes((groups, channels // groups)))
        spread.append(b.emit("reshape", wide_column, b.sizes((channels,))))
    return replace(node, inputs=(node.inputs[0], *spread))


_GROUP = {"num_groups": REQUIRED, "epsilon": EPSILON, "stash_type": 1}


@op("group_norm", onnx=OnnxRow("GroupNormalization", _GROUP, upgrades=((21, _upgrade_group_norm),)), attrs=_GROUP)
class GroupNorm:
    """Groups of channels of x [N, C, ...] normalized together, times scale [C] plus bias [C]."""

    def infer(call: Call) -> list[TensorType]:
        x, groups = call.tensor(0), call.attrs["num_groups"]
        check_kind(call, x.dtype, FLOAT)
        if x.shape is not None and isinstance(x.shape[1], int) and x.shape[1] % groups:
            call.shape_error(f"{x.shape[1]} channels do not divide into {groups} groups; check num_groups")
        return [x]

    def reference(
        x: np.ndarray, scale: np.ndarray, bias: np.ndarray, *, num_groups: int, epsilon: float, stash_type: int
    ) -> np.ndarray:
        normal = _normalized(x.astype(np.float64).reshape(x.shape[0], num_groups, -1), (2,), epsilon).reshape(x.shape)
        return round_to(normal * _column(scale, x.ndim) + _column(bias, x.ndim), x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, scale, bias = node.inputs
        n, channels, *rest = known_shape(x)
        groups = node.attrs["num_groups"]
        parted = b.emit("reshape", x, b.sizes((n, groups, channels // groups, *rest)))
        per_channel = [
            b.emit("reshape", v, b.sizes((groups, channels // groups, *[1] * len(rest)))) for v in (scale, bias)
        ]
        axes = range(2, 3 + len(rest))
        result = normalize(b, parted, axes, node.attrs["epsilon"], per_channel[0], per_channel[1], "group_norm")
        return b.emit("reshape", result, b.sizes(known_shape(x)))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x, c = rng.normal(1, 2, (2, 6, 4, 3)), rng.standard_normal(6)
        for dtype in (np.float32, np.float64):
            arrays = (x.astype(dtype), c.astype(dtype), c.astype(dtype))
            yield Sample(arrays, {"num_groups": 3}, 32, np.dtype(dtype).name)


@op(
    "mean_variance_norm",
    onnx=OnnxRow("MeanVarianceNormalization", {"axes": (0, 2, 3)}),
    attrs={"axes": (0, 2, 3)},
)
class MeanVarianceNorm:
    """(x - mean) / (standard deviation + 1e-9) over `axes`."""

    def infer(call: Call) -> list[TensorType]:
        check_kind(call, call.tensor(0).dtype, FLOAT)
        return [call.tensor(0)]

    def reference(x: np.ndarray, *, axes: Sequence[int]) -> np.ndarray:
        exact = x.astype(np.float64)
        mean, variance = array_moments(exact, tuple(axes))
        return round_to((exact - mean) / (np.sqrt(variance) + 1e-9), x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x = node.inputs[0]
        rank = len(known_shape(x))
        stages, mean, variance = moments(operand(0, x))
        element = (kept(0, mean.dtype) - mean) / (apply("sqrt", variance) + 1e-9)
        axes = tuple(sorted(a % rank for a in node.attrs["axes"]))
        return b.emit("reduce", x, hint="mvn", axes=axes, stages=stages, elements=(cast(element, x.type.dtype),))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.normal(1, 2, (2, 3, 4, 5)).astype(np.float32),), tolerance=32)


@op("lp_norm", onnx=OnnxRow("LpNormalization", {"axis": -1, "p": 2}), attrs={"axis": -1, "p": 2})
class LpNorm:
    """x over its 1- or 2-norm along an axis; a row of zeros stays zero."""

    def infer(call: Call) -> list[TensorType]:
        check_kind(call, call.tensor(0).dtype, FLOAT)
        return [call.tensor(0)]

    def reference(x: np.ndarray, *, axis: int, p: int) -> np.ndarray:
        def run(a: np.ndarray) -> np.ndarray:
            size = (
                np.sum(np.abs(a), axis=axis, keepdims=True) if p == 1 else np.linalg.norm(a, axis=axis, keepdims=True)
            )
            return np.where(size == 0, 0.0, a / size)

        return in_float64(run, (x,), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x = node.inputs[0]
        value, total = operand(0, x), stat(0, operand(0, x).dtype)
        term, size = (apply("abs", value), total) if node.attrs["p"] == 1 else (value * value, apply("sqrt", total))
        zero = const(0, value.dtype)
        element = cast(select(apply("eq", size, zero), zero, value / size), x.type.dtype)
        axes = (node.attrs["axis"] % len(known_shape(x)),)
        return b.emit("reduce", x, hint="lp_norm", axes=axes, stages=(Stage("sum", term),), elements=(element,))

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((3, 4, 5)).astype(np.float32)
        x[0, 1] = 0
        for p in (1, 2):
            yield Sample((x,), {"p": p}, 8, f"p{p}")
        yield Sample((x.astype(np.float64),), {"axis": 1}, 8, "axis")
