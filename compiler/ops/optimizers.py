"""One step of the optimizers of ONNX's training domain: a tensor, its gradient and its states go through one map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import Expr, apply, arg, cast, const, select
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Op, Sample, register
from compiler.ops.elementwise import FLOAT, check_kind, f32
from compiler.ops.rounding import round_to
from compiler.types import TensorType

_DOMAIN = "ai.onnx.preview.training"
Attrs = Mapping[str, Any]


@dataclass(frozen=True)
class Optimizer:
    """expr, numpy: (rate, step number in float64, tensor, gradient, states.., attributes) -> (tensor, states..). Rate,
    tensors and states are of one float type."""

    name: str
    onnx: str
    states: int
    attrs: Attrs
    expr: Callable[..., tuple[Expr, ...]]
    numpy: Callable[..., tuple[np.ndarray, ...]]


def _momentum(r: Expr, t: Expr, x: Expr, g: Expr, v: Expr, a: Attrs) -> tuple[Expr, ...]:
    slope = x * a["norm_coefficient"] + g
    first = apply("gt", t, const(0, t.dtype))
    moved = v * a["alpha"] + select(first, slope * a["beta"], slope)
    step = moved if a["mode"] == "standard" else slope + moved * a["alpha"]
    return x - r * step, moved


def _momentum_array(r: Any, t: Any, x: Any, g: Any, v: Any, a: Attrs) -> tuple[np.ndarray, ...]:
    slope = a["norm_coefficient"] * x + g
    moved = a["alpha"] * v + (a["beta"] if t > 0 else 1) * slope
    return x - r * (moved if a["mode"] == "standard" else slope + a["alpha"] * moved), moved


def _adagrad(r: Expr, t: Expr, x: Expr, g: Expr, h: Expr, a: Attrs) -> tuple[Expr, ...]:
    rate = r / cast(t * a["decay_factor"] + 1.0, r.dtype)
    slope = x * a["norm_coefficient"] + g
    total = h + slope * slope
    return x - rate * slope / (apply("sqrt", total) + a["epsilon"]), total


def _adagrad_array(r: Any, t: Any, x: Any, g: Any, h: Any, a: Attrs) -> tuple[np.ndarray, ...]:
    slope = a["norm_coefficient"] * x + g
    total = h + slope * slope
    return x - r / (1 + t * a["decay_factor"]) * slope / (np.sqrt(total) + a["epsilon"]), total


def _adam(r: Expr, t: Expr, x: Expr, g: Expr, v: Expr, h: Expr, a: Attrs) -> tuple[Expr, ...]:
    slope = x * a["norm_coefficient"] + g
    first = v * a["alpha"] + slope * (1 - a["alpha"])
    second = h * a["beta"] + slope * slope * (1 - a["beta"])
    one = const(1, t.dtype)
    powers = [one - apply("pow", const(a[name], t.dtype), t) for name in ("beta", "alpha")]
    unbiased = select(apply("gt", t, const(0, t.dtype)), apply("sqrt", powers[0]) / powers[1], one)
    moved = x - r * cast(unbiased, r.dtype) * (first / (apply("sqrt", second) + a["epsilon"]))
    return moved * (1 - a["norm_coefficient_post"]), first, second


def _adam_array(r: Any, t: Any, x: Any, g: Any, v: Any, h: Any, a: Attrs) -> tuple[np.ndarray, ...]:
    slope = a["norm_coefficient"] * x + g
    first = a["alpha"] * v + (1 - a["alpha"]) * slope
    second = a["beta"] * h + (1 - a["beta"]) * slope * slope
    rate = r * np.sqrt(1 - a["beta"] ** t) / (1 - a["alpha"] ** t) if t > 0 else r
    moved = x - rate * first / (np.sqrt(second) + a["epsilon"])
    return (1 - a["norm_coefficient_post"]) * moved, first, second


TABLE = (
    Optimizer(
        "momentum", "Momentum", 1, dict.fromkeys(("alpha", "beta", "mode", "norm_coefficient"), REQUIRED),
        _momentum, _momentum_array,
    ),
    Optimizer(
        "adagrad", "Adagrad", 1, {"decay_factor": 0.0, "epsilon": f32(1e-6), "norm_coefficient": 0.0},
        _adagrad, _adagrad_array,
    ),
    Optimizer(
        "adam", "Adam", 2,
        {"alpha": f32(0.9), "beta": f32(0.999), "epsilon": f32(1e-6), "norm_coefficient": 0.0,
         "norm_coefficient_post": 0.0},
        _adam, _adam_array,
    ),
)  # fmt: skip


def declare(row: Optimizer) -> Op:
    """Register an optimizer: operands rate, step number, tensor, gradient, states; its ONNX row takes many tensors."""
    operands = 2 + row.states

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(*range(2, 2 + operands))
        check_kind(call, dtype, FLOAT)
        x = call.tensor(2)
        for i in range(3, 2 + operands):
            other = call.tensor(i).shape
            if x.shape is not None and other is not None and len(other) != len(x.shape):
                call.shape_error(f"operand {i} is {call.tensor(i)}, the tensor {x}; expected one shape")
            for ours, theirs in zip(x.shape or (), other or (), strict=False):
                call.same_size(ours, theirs, "size of the tensor and its gradient and states")
        return [x] * (1 + row.states)

    def reference(rate: np.ndarray, step: np.ndarray, *tensors: np.ndarray, **attrs: Any) -> tuple[np.ndarray, ...]:
        wide = [tensor.astype(np.float64) for tensor in tensors]
        with np.errstate(all="ignore"):
            results = row.numpy(float(rate.reshape(())), int(step.reshape(())), *wide, attrs)
        return tuple(round_to(result, tensors[0].dtype) for result in results)

    def decompose(b: Builder, node: Node) -> tuple[Value, ...]:
        scalars = [b.emit("reshape", value, b.sizes(())) for value in node.inputs[:2]]
        tensors = list(node.inputs[2:])
        dtype = tensors[0].type.dtype  # type: ignore[union-attr]
        rate, step = arg(0, scalars[0].type.dtype), arg(1, scalars[1].type.dtype)
        elements = (arg(2 + i, dtype) for i in range(operands))
        outputs = row.expr(cast(rate, dtype), cast(step, dtypes.float64), *elements, node.attrs)
        return b.emit_many("map", [*scalars, *tensors], {"outputs": outputs}, [v.name for v in node.outputs])

    def build(b: Builder, node: Any) -> list[Value]:
        count = (len(node.inputs) - 2) // operands
        groups = []
        for i in range(count):
            tensors = [node.required(2 + i + count * k) for k in range(operands)]
            names = [f"{row.name}{k}" for k in range(1 + row.states)]
            values = [node.required(0), node.required(1), *tensors]
            groups.append(b.emit_many(row.name, values, {name: node.attrs[name] for name in row.attrs}, names))
        return [value for column in zip(*groups, strict=True) for value in column]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        factors = {name: value for name, value in zip(row.attrs, (0.9, 0.75, 0.01, 0.001, 0.02), strict=False)}
        modes = ("standard", "nesterov") if "mode" in row.attrs else ("",)
        for mode in modes:
            attrs = {**factors, **({"mode": mode, "norm_coefficient": 0.01} if mode else {})}
            for step, dtype in ((0, np.float32), (3, np.float32), (2, np.float64)):
                tensors = [rng.uniform(0.1, 1, (3, 5)).astype(dtype) for _ in range(operands)]
                inputs = (np.array(0.1, dtype), np.array(step), *tensors)
                yield Sample(inputs, attrs, 8, f"{mode} step {step} {np.dtype(dtype)}")

    return register(
        Op(
            name=row.name,
            infer=infer,
            reference=reference,
            decompose=decompose,
            samples=samples,
            onnx=(OnnxRow(row.onnx, row.attrs, domain=_DOMAIN, build=build),),
            attrs=row.attrs,
            doc=f"One step of {row.onnx}: the new tensor and the new states.",
        )
    )


for _row in TABLE:
    declare(_row)
