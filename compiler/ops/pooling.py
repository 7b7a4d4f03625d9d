"""ONNX pools and Conv: padding rules resolved, then the core `pool` and `conv`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import ModelError
from compiler.expr import Expr, apply, cast, const, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, in_float64, operand
from compiler.ops.onnx_types import onnx_row
from compiler.ops.reduction import emit_reduce
from compiler.ops.shape import known_shape
from compiler.types import TensorType


def window(node: Any, sizes: Sequence[Size], kernel: Sequence[int]) -> dict[str, tuple[Size, ...]]:
    """strides, dilations and pads of an ONNX windowed node, `auto_pad` resolved.

    SAME_UPPER/SAME_LOWER: as much padding as makes the output ceil(size / stride), the odd one at the end/begin.
    """
    rank = len(sizes)
    strides = tuple(node.attr("strides") or (1,) * rank)
    dilations = tuple(node.attr("dilations") or (1,) * rank)
    mode = node.attr("auto_pad", "NOTSET")
    pads = tuple(node.attr("pads") or (0,) * 2 * rank)
    if mode == "VALID":
        pads = (0,) * 2 * rank
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same(*each) for each in zip(sizes, kernel, strides, dilations, strict=True)]
        small, large = [t // 2 for t in totals], [t - t // 2 for t in totals]
        pads = (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
    return {"strides": strides, "dilations": dilations, "pads": pads}


def _same(size: Size, kernel: int, stride: int, dilation: int) -> Size:
    reach = (kernel - 1) * dilation + 1
    return reach - 1 if stride == 1 else dims.maximum((size - 1) // stride * stride + reach - size, 0)


def _pool_attributes(b: Builder, node: Any) -> tuple[Value, dict[str, Any]]:
    x, kernel = node.required(0), tuple(node.attrs["kernel_shape"])
    attrs: dict[str, Any] = window(node, known_shape(x)[2:], kernel)
    return x, {**attrs, "kernel": kernel, "ceil_mode": bool(node.attr("ceil_mode", 0))}


def _build_max_pool(b: Builder, node: Any) -> tuple[Value | None, ...]:
    x, attrs = _pool_attributes(b, node)
    pooled = b.emit("pool", x, fn="max", hint="max_pool", **attrs)
    if len(node.outputs) < 2 or not node.outputs[1]:
        return (pooled, None)
    column_major = bool(node.attr("storage_order", 0))
    return pooled, b.emit("max_pool_places", x, column_major=column_major, whole=True, **attrs)


def _build_average_pool(b: Builder, node: Any) -> Value:
    x, attrs = _pool_attributes(b, node)
    padded = bool(node.attr("count_include_pad", 0))
    return b.emit("pool", x, fn="mean", hint="average_pool", count_include_pad=padded, **attrs)


def _build_lp_pool(b: Builder, node: Any) -> Value:
    x, attrs = _pool_attributes(b, node)
    dtype, p = x.type.dtype, node.attr("p", 2)
    powers = emit_map(b, cast(power(operand(0, x), p), dtype), x, hint="powers")
    total = b.emit("pool", powers, fn="sum", hint="lp_pool", **attrs)
    return emit_map(b, cast(root(operand(0, total), p), dtype), total, hint="lp_pool")


def power(x: Expr, p: int) -> Expr:
    """|x| to the power p."""
    size = apply("abs", x)
    return size if p == 1 else x * x if p == 2 else apply("pow", size, const(p, x.dtype))


def root(x: Expr, p: int) -> Expr:
    """The p-th root of x, not negative."""
    return x if p == 1 else apply("sqrt", x) if p == 2 else apply("pow", x, const(1 / p, x.dtype))


def build_conv(b: Builder, node: Any, *extra: Value, **more: Any) -> Value:
    """The core conv of an ONNX node with Conv's attributes over x, w and, where there is one, a bias; `extra` and
    `more` are the epilogue's operands and other attributes of the core op."""
    x, w = node.required(0), node.required(1)
    kernel: Any = node.attr("kernel_shape") or known_shape(w)[2:]
    if not dims.is_static(kernel):
        raise ModelError(f"{b.place}: Conv's kernel has sizes {kernel}; expected numbers: give kernel_shape")
    attrs: dict[str, Any] = dict(window(node, known_shape(x)[2:], kernel))
    return b.emit("conv", x, w, node.input(2), *extra, group=node.attr("group", 1), **attrs, **more)


onnx_row("pool", OnnxRow("MaxPool", build=_build_max_pool))
onnx_row("pool", OnnxRow("AveragePool", build=_build_average_pool))
onnx_row("pool", OnnxRow("LpPool", build=_build_lp_pool))
onnx_row("conv", OnnxRow("Conv", build=build_conv))


def _declare_global(name: str, onnx: str, reduction: str, array: Callable[..., np.ndarray]) -> None:
    @op(name, onnx=onnx)
    class GlobalPool:
        """All spatial positions of x [N, C, ...] pooled to one."""

        def infer(call: Call) -> list[TensorType]:
            x = call.tensor(0)
            check_kind(call, x.dtype, FLOAT)
            return [TensorType(x.dtype, None if x.shape is None else (*x.shape[:2], *[1] * (len(x.shape) - 2)))]

        def reference(x: np.ndarray) -> np.ndarray:
            return in_float64(lambda a: array(a, axis=tuple(range(2, x.ndim)), keepdims=True), (x,), {}, x.dtype)

        def decompose(b: Builder, node: Node) -> Value:
            axes = np.arange(2, len(known_shape(node.inputs[0])))
            return b.emit(reduction, node.inputs[0], b.constant(axes), hint=name)

        def samples(rng: np.random.Generator) -> Iterator[Sample]:
            for dtype in (np.float32, np.float64):
                yield Sample((rng.standard_normal((2, 3, 5, 7)).astype(dtype),), tolerance=8, name=np.dtype(dtype).name)


_declare_global("global_average_pool", "GlobalAveragePool", "reduce_mean", np.mean)
_declare_global("global_max_pool", "GlobalMaxPool", "reduce_max", np.max)


@op("global_lp_pool", onnx=OnnxRow("GlobalLpPool", {"p": 2}), attrs={"p": 2})
class GlobalLpPool:
    """The p-norm of all spatial positions of x [N, C, ...]."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        check_kind(call, x.dtype, FLOAT)
        return [TensorType(x.dtype, None if x.shape is None else (*x.shape[:2], *[1] * (len(x.shape) - 2)))]

    def reference(x: np.ndarray, *, p: int) -> np.ndarray:
        def run(a: np.ndarray) -> np.ndarray:
            return np.sum(np.abs(a) ** p, axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)

        return in_float64(run, (x,), {}, x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, p = node.inputs[0], node.attrs["p"]
        stages, total = ((Stage("sum", power(operand(0, x), p)),), stat(0, operand(0, x).dtype))
        axes = tuple(range(2, len(known_shape(x))))
        return emit_reduce(b, x, axes, True, (stages, cast(root(total, p), x.type.dtype)), "global_lp_pool")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for p in (1, 2, 3):
            yield Sample((rng.standard_normal((2, 3, 5, 4)).astype(np.float32),), {"p": p}, 16, f"p{p}")
