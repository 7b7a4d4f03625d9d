"""ATen calls that make tensors from sizes and scalars, and the triangles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler import dims, dtypes
from compiler.dims import Dim, Size
from compiler.expr import Expr, apply, cast, const, index, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    Scalar,
    aten,
    convert,
    pointwise,
    shape_of,
    tensor_type,
    to_tensor,
    unsupported,
)
from compiler.frontends.aten.numbers import AnyNumber, as_size
from compiler.ir import Value


@aten("aten.arange.start_step", numbers=True)
def _arange(b: AtenBuilder, start: AnyNumber, end: AnyNumber, step: AnyNumber = 1, **ignored: object) -> Value:
    return _range(b, *(as_size(b, number) for number in (start, end, step)))


def _range(b: AtenBuilder, start: Scalar, end: Scalar, step: Scalar) -> Value:
    wide = dtypes.float64 if b.dtype.is_float else dtypes.int64
    count: Size
    if isinstance(start, Dim) or isinstance(end, Dim) or isinstance(step, Dim):
        count = dims.maximum(-((start - end) // step), 0)  # type: ignore[operator,arg-type]
        if isinstance(start, Dim) or isinstance(step, Dim):
            line = b.emit("map", outputs=(cast(index(0), wide),), shape=(count,))
            return pointwise(b, (line, start, step), lambda i, first, stride: first + i * stride, wide)
    else:
        # torch counts the steps in double precision and computes each element as start + i * step.
        count = max(int(np.ceil((end - start) / step)), 0)
        if count <= _LARGEST_CONSTANT:
            return b.constant((start + np.arange(count) * step).astype(b.dtype.numpy), "arange")
    place = cast(index(0), wide)
    place = place if step == 1 else place * step
    return b.emit("map", outputs=(cast(place if start == 0 else place + start, b.dtype),), shape=(count,))


@aten("aten.arange.default", numbers=True)
def _arange_end(b: AtenBuilder, end: AnyNumber, **ignored: object) -> Value:
    return _arange(b, 0, end)


@aten("aten.arange.start", numbers=True)
def _arange_start(b: AtenBuilder, start: AnyNumber, end: AnyNumber, **ignored: object) -> Value:
    return _arange(b, start, end)


_LARGEST_CONSTANT = 65536  # longer ranges are computed where they are used


@aten("aten.full.default", "aten.new_full.default")
def _full(b: AtenBuilder, *arguments: object, **ignored: object) -> Value:
    shape, value = arguments[-2:]
    return _filled(b, shape, value)  # type: ignore[arg-type]


@aten("aten.zeros.default", "aten.empty.memory_format", "aten.new_zeros.default", "aten.new_empty.default")
def _zeros(b: AtenBuilder, *arguments: object, **ignored: object) -> Value:
    return _filled(b, arguments[-1], 0)  # type: ignore[arg-type]


@aten("aten.ones.default", "aten.new_ones.default")
def _ones(b: AtenBuilder, *arguments: object, **ignored: object) -> Value:
    return _filled(b, arguments[-1], 1)  # type: ignore[arg-type]


@aten("aten.full_like.default", "aten.fill.Scalar", "aten.fill.Tensor")
def _full_like(b: AtenBuilder, x: Value, value: Value | Scalar, **ignored: object) -> Value:
    return _filled(b, shape_of(x), value)


@aten("aten.zeros_like.default", "aten.empty_like.default")
def _zeros_like(b: AtenBuilder, x: Value, **ignored: object) -> Value:
    return _filled(b, shape_of(x), 0)


@aten("aten.ones_like.default")
def _ones_like(b: AtenBuilder, x: Value, **ignored: object) -> Value:
    return _filled(b, shape_of(x), 1)


@aten("aten.empty_strided.default", "aten.empty_permuted.default")
def _empty(b: AtenBuilder, shape: Sequence[Size], *ignored: object, **more: object) -> Value:
    return _filled(b, shape, 0)


@aten("aten.scalar_tensor.default")
def _scalar_tensor(b: AtenBuilder, value: Scalar, **ignored: object) -> Value:
    return to_tensor(b, value, b.dtype)


def _filled(b: AtenBuilder, shape: Sequence[Size], value: Value | Scalar) -> Value:
    scalar = to_tensor(b, value, b.dtype)
    return b.emit("expand", scalar, b.sizes(tuple(shape))) if shape else scalar


@aten("aten.copy.default")
def _copy(b: AtenBuilder, x: Value, source: Value, non_blocking: bool = False) -> Value:
    converted = convert(b, source, b.dtype)
    return converted if shape_of(x) == shape_of(source) else b.emit("expand", converted, b.sizes(shape_of(x)))


@aten("aten.eye.default", "aten.eye.m")
def _eye(b: AtenBuilder, rows: Size, columns: Size | None = None, **ignored: object) -> Value:
    diagonal = cast(apply("eq", index(0), index(1)), b.dtype)
    return b.emit("map", outputs=(diagonal,), shape=(rows, rows if columns is None else columns))


@aten("aten.triu.default")
def _triu(b: AtenBuilder, x: Value, diagonal: int = 0) -> Value:
    return _triangle(b, x, "ge", diagonal)


@aten("aten.tril.default")
def _tril(b: AtenBuilder, x: Value, diagonal: int = 0) -> Value:
    return _triangle(b, x, "le", diagonal)


def _triangle(b: AtenBuilder, x: Value, keeps: str, diagonal: int) -> Value:
    rank = tensor_type(x).rank

    def build(e: Expr) -> Expr:
        offset = index(rank - 1) - index(rank - 2)
        return select(apply(keeps, offset, const(diagonal, dtypes.int64)), e, const(0, e.dtype))

    return pointwise(b, (x,), build, b.dtype)


@aten("aten.dropout.default", "aten.feature_dropout.default", "aten.alpha_dropout.default")
def _dropout(b: AtenBuilder, x: Value, p: float, train: bool) -> Value:
    if train and p:
        raise unsupported(b, f"dropout of {p} in training mode; call model.eval() first")
    return x
