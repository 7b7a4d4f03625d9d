"""Gemm: transposes and one core matmul."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops.elementwise import NUMBER, check_kind, emit_map, in_float64, operand, wide
from compiler.ops.onnx_types import without
from compiler.types import TensorType

_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


@op("gemm", onnx=OnnxRow("Gemm", _GEMM, upgrades=((7, without("broadcast")),)), attrs=_GEMM)
class Gemm:
    """alpha * a @ b + beta * c, a and b transposed where asked; c, if given, broadcasts to the product."""

    def infer(call: Call) -> list[TensorType]:
        a, b = call.tensor(0), call.tensor(1)
        dtype = call.same_dtype(*range(len(call.inputs)))
        check_kind(call, dtype, NUMBER)
        if a.shape is None or b.shape is None:
            return [TensorType(dtype, (call.fresh(), call.fresh()))]
        if len(a.shape) != 2 or len(b.shape) != 2:
            call.shape_error(f"a is {a}, b is {b}; expected two matrices")
        rows, inner = reversed(a.shape) if call.attrs["transA"] else a.shape
        inner_b, columns = reversed(b.shape) if call.attrs["transB"] else b.shape
        call.same_size(inner, inner_b, "K (columns of a, rows of b; check transA and transB)")
        c = call.optional(2)
        if c is not None and c.shape is not None:
            call.broadcast((rows, columns), c.shape)
        return [TensorType(dtype, (rows, columns))]

    def reference(
        a: np.ndarray,
        b: np.ndarray,
        c: np.ndarray | None = None,
        *,
        alpha: float,
        beta: float,
        transA: int,
        transB: int,
    ) -> np.ndarray:
        def run(a: np.ndarray, b: np.ndarray, *c: np.ndarray) -> np.ndarray:
            product = (a.T if transA else a) @ (b.T if transB else b)
            product = product if alpha == 1 else product * alpha
            return product if not c else product + (c[0] if beta == 1 else c[0] * beta)

        return in_float64(run, (a, b) if c is None else (a, b, c), {}, a.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        left, right, c = (*node.inputs, None)[:3]
        left = b.emit("transpose", left, perm=(1, 0)) if node.attrs["transA"] else left
        right = b.emit("transpose", right, perm=(1, 0)) if node.attrs["transB"] else right
        alpha, beta, dtype = node.attrs["alpha"], node.attrs["beta"], left.type.dtype
        if c is None and alpha == 1:
            return b.emit("matmul", left, right)
        summed = wide(dtype)  # 16-bit floats are rounded once, after the addition
        product = b.emit("matmul", left, right, epilogue=() if summed == dtype else (arg(0, summed),))
        result = arg(0, summed)
        result = result if alpha == 1 else _times(result, alpha)
        if c is not None:
            summand = operand(1, c)
            result = result + (summand if beta == 1 else _times(summand, beta))
        return emit_map(b, cast(result, dtype), product, *([] if c is None else [c]), hint="gemm")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        a, b, c = (rng.standard_normal(s) for s in ((3, 5), (5, 4), (4,)))
        for dtype in (np.float32, np.float64):
            yield Sample(tuple(x.astype(dtype) for x in (a, b, c)), tolerance=16, name=np.dtype(dtype).name)
        turned = tuple(np.ascontiguousarray(x).astype(np.float32) for x in (a.T, b.T))
        yield Sample(turned, {"transA": 1, "transB": 1}, 16, "transposed")
        scaled = {"alpha": 0.5, "beta": -2.0}
        yield Sample((*(x.astype(np.float32) for x in (a, b)), np.ones((3, 1), np.float32)), scaled, 16, "scaled")
        whole = tuple(rng.integers(-5, 5, s) for s in ((2, 3), (3, 2), (1,)))
        yield Sample(whole, name="int64")


def _times(x: Any, factor: float) -> Any:
    if x.dtype.is_float:
        return x * factor
    return cast(cast(x, dtypes.float64) * factor, x.dtype)
