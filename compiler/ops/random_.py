"""Random numbers. Each run draws anew unless a seed is given; ONNX does not say with which generator."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.ir import Value
from compiler.op import REQUIRED, Call, OnnxRow, op
from compiler.ops.elementwise import FLOAT, check_kind
from compiler.ops.onnx_types import onnx_dtype, onnx_row
from compiler.ops.rounding import round_to
from compiler.ops.shape import listed, unknown_shape, vector_length
from compiler.types import TensorType

_HOST = "it draws random numbers"


def generator(seed: float | None) -> np.random.Generator:
    """A generator with a seed of any float, or an unpredictable one."""
    return np.random.default_rng(None if seed is None else int(np.float32(seed).view(np.uint32)))


def _drawn(call: Call) -> list[TensorType]:
    shape, dtype = call.value(0), call.attrs["dtype"]
    check_kind(call, dtype, FLOAT)
    wanted = unknown_shape(call, vector_length(call, 0)) if shape is None else tuple(listed(shape))
    return [TensorType(dtype, wanted)]


@op(
    "random_normal",
    attrs={"dtype": dtypes.float32, "mean": 0.0, "scale": 1.0, "seed": None},
    value_operands=(0,),
    host_reason=_HOST,
)
class RandomNormal:
    """Numbers of the normal distribution with a mean and a standard deviation, in the shape of operand 0."""

    infer = _drawn

    def reference(shape: np.ndarray, *, dtype: DType, mean: float, scale: float, seed: float | None) -> np.ndarray:
        return round_to(generator(seed).normal(mean, scale, tuple(shape)), dtype.numpy)


@op(
    "random_uniform",
    attrs={"dtype": dtypes.float32, "high": 1.0, "low": 0.0, "seed": None},
    value_operands=(0,),
    host_reason=_HOST,
)
class RandomUniform:
    """Numbers spread evenly over low..high, in the shape of operand 0."""

    infer = _drawn

    def reference(shape: np.ndarray, *, dtype: DType, high: float, low: float, seed: float | None) -> np.ndarray:
        return round_to(generator(seed).uniform(low, high, tuple(shape)), dtype.numpy)


def _declare_rows(name: str, onnx: str, first: str, second: str, defaults: tuple[float, float]) -> None:
    numbers = dict(zip((first, second), defaults, strict=True))

    def build(b: Builder, node: Any) -> Value:
        like = node.input(0)
        shape = b.sizes(tuple(node.attrs["shape"])) if like is None else b.emit("shape_of", like)
        number = node.attr("dtype")
        dtype = onnx_dtype(number) if number is not None else dtypes.float32 if like is None else like.type.dtype
        given = {key: node.attr(key, default) for key, default in numbers.items()}
        return b.emit(name, shape, dtype=dtype, seed=node.attr("seed"), **given)

    for suffix, own in (("", {"shape": REQUIRED, "dtype": 1}), ("Like", {"dtype": None})):
        onnx_row(name, OnnxRow(f"{onnx}{suffix}", {**own, **numbers, "seed": None}, build=build))


_declare_rows("random_normal", "RandomNormal", "mean", "scale", (0.0, 1.0))
_declare_rows("random_uniform", "RandomUniform", "low", "high", (0.0, 1.0))


def _build_bernoulli(b: Builder, node: Any) -> Value:
    x, number = node.required(0), node.attr("dtype")
    return b.emit("bernoulli", x, dtype=x.type.dtype if number is None else onnx_dtype(number), seed=node.attr("seed"))


@op(
    "bernoulli",
    onnx=OnnxRow("Bernoulli", {"dtype": None, "seed": None}, build=_build_bernoulli),
    attrs={"dtype": dtypes.float32, "seed": None},
    host_reason=_HOST,
)
class Bernoulli:
    """1 with the probability an element of x gives, else 0."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(call.attrs["dtype"], call.tensor(0).shape)]

    def reference(x: np.ndarray, *, dtype: DType, seed: float | None) -> np.ndarray:
        return (generator(seed).random(x.shape) < x.astype(np.float64)).astype(dtype.numpy)


def _build_multinomial(b: Builder, node: Any) -> Value:
    attrs = {"sample_size": node.attr("sample_size", 1), "seed": node.attr("seed")}
    return b.emit("multinomial", node.required(0), dtype=onnx_dtype(node.attr("dtype", 6)), **attrs)


@op(
    "multinomial",
    onnx=OnnxRow("Multinomial", {"dtype": 6, "sample_size": 1, "seed": None}, build=_build_multinomial),
    attrs={"dtype": dtypes.int32, "sample_size": 1, "seed": None},
    host_reason=_HOST,
)
class Multinomial:
    """Class numbers [N, sample_size] drawn by the unnormalized log-probabilities [N, classes]."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        if x.shape is not None and len(x.shape) != 2:
            call.shape_error(f"found {x}; expected [batch, classes]")
        return [TensorType(call.attrs["dtype"], None if x.shape is None else (x.shape[0], call.attrs["sample_size"]))]

    def reference(x: np.ndarray, *, dtype: DType, sample_size: int, seed: float | None) -> np.ndarray:
        weights = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True).astype(np.float64))
        steps = np.cumsum(weights, axis=1)
        drawn = generator(seed).random((x.shape[0], sample_size, 1)) * steps[:, None, -1:]
        return (drawn >= steps[:, None, :]).sum(axis=2).astype(dtype.numpy)
