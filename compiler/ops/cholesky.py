"""Cholesky factors of small matrices, column by column."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler.builder import Builder
from compiler.expr import apply, arg, cast
from compiler.ir import Node, Value
from compiler.op import Call, Sample, op
from compiler.ops.elementwise import emit_map, operand, wide
from compiler.ops.elimination import TOO_LARGE, is_small, part, square
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType


@op("cholesky", host_reason=TOO_LARGE)
class Cholesky:
    """The lower triangular L [.., n, n] with L L' = x; only the lower triangle of x is read. NaN from the column on
    that shows x is not positive definite."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(call.tensor(0).dtype, square(call))]

    def reference(x: np.ndarray) -> np.ndarray:
        rows = x.astype(np.float64)
        result = np.zeros_like(rows)
        with np.errstate(all="ignore"):
            for k in range(x.shape[-1]):
                left = rows[..., k:, k] - np.sum(result[..., k:, :k] * result[..., k : k + 1, :k], axis=-1)
                result[..., k:, k] = left / np.sqrt(left[..., :1])
        return round_to(result, x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        (x,) = node.inputs
        if not is_small(x):
            return None
        shape = known_shape(x)
        dtype = wide(x.type.dtype)
        rows = emit_map(b, operand(0, x), x) if dtype != x.type.dtype else x
        columns = []
        for k in range(shape[-1]):  # type: ignore[arg-type]
            column = part(b, rows, -1, 0, 1)
            column = emit_map(b, arg(0, dtype) / apply("sqrt", arg(1, dtype)), column, part(b, column, -2, 0, 1))
            before = (*[0] * (len(shape) - 2), k, 0)
            padded = b.emit("pad", column, None, before=before, after=(0,) * len(shape), mode="constant")
            columns.append(padded if k else column)
            below = part(b, column, -2, 1)
            turned = b.emit("transpose", below, perm=(*range(len(shape) - 2), len(shape) - 1, len(shape) - 2))
            rest = part(b, part(b, rows, -2, 1), -1, 1)
            rows = emit_map(b, arg(0, dtype) - arg(1, dtype) * arg(2, dtype), rest, below, turned)
        whole = b.emit("concat", *columns, axis=-1) if len(columns) > 1 else columns[0]
        return whole if dtype == x.type.dtype else emit_map(b, cast(arg(0, dtype), x.type.dtype), whole)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for n in (1, 2, 3, 9):
            root = rng.standard_normal((6, n, n)) + (n + 3) * np.eye(n)
            yield Sample(((root @ root.swapaxes(1, 2)).astype(np.float32),), tolerance=16, name=f"{n}")
            yield Sample((root @ root.swapaxes(1, 2),), tolerance=32, name=f"{n} float64")
        yield Sample((np.array([[1, 2, 3], [2, 1, 0], [3, 0, 9]], np.float32),), name="not definite")
        yield Sample((np.array([[4, 9], [2, 10]], np.float16),), name="float16, not symmetric")
