"""Complex values within an exported program: pairs of real tensors, and the ATen calls that make or read them.

No kernel knows complex elements. A call with a complex operand or result goes through COMPLEX_ROWS instead of ROWS;
what only moves elements, or is linear in them, is done to each part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, select
from compiler.frontends.aten.base import (
    AtenBuilder,
    Row,
    aten,
    convert,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    unsupported,
)
from compiler.ir import Value


@dataclass(frozen=True, eq=False)
class Complex:
    """A complex tensor: real and imaginary part, of one shape and type."""

    re: Value
    im: Value


Part = Value | int | float | complex | bool
Pair = tuple[Expr, Expr | None]  # None: a real number
COMPLEX_ROWS: dict[str, Row] = {}


def on_complex(*names: str) -> Callable[[Row], Row]:
    """Enter a row for calls with complex operands or results."""

    def enter(row: Row) -> Row:
        for name in names:
            assert name not in COMPLEX_ROWS, f"two rows claim {name} of complex values"
            COMPLEX_ROWS[name] = row
        return row

    return enter


def only_complex(*names: str) -> Callable[[Row], Row]:
    """Enter a row for calls that are about complex values, whatever their operands."""
    return lambda row: aten(*names)(on_complex(*names)(row))


def is_complex(b: AtenBuilder, args: Any) -> bool:
    """Whether a call reads complex values or its result is one."""
    if any(dtype is not None and dtype.kind == "complex" for dtype in b.dtypes):
        return True
    return _any_complex(args)


def _any_complex(item: Any) -> bool:
    if isinstance(item, (list, tuple)):
        return any(_any_complex(part) for part in item)
    return isinstance(item, Complex)


def call_on_complex(b: AtenBuilder, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The result of a call for which `is_complex` holds. Raises UnsupportedOp where no row covers it."""
    row = COMPLEX_ROWS.get(name)
    if row is None:
        raise unsupported(b, f"{name} of complex values; compute on torch.view_as_real of them")
    b.dtypes = tuple(real_type(dtype) for dtype in b.dtypes)
    return row(b, *args, **kwargs)


def real_type(dtype: DType | None) -> DType | None:
    """The type of the parts of a complex type; any other type as it is."""
    return {dtypes.complex64: dtypes.float32, dtypes.complex128: dtypes.float64}.get(dtype, dtype)  # type: ignore[arg-type]


def split(b: Builder, pairs: Value) -> Complex:
    """The complex tensor whose parts lie along the last axis of `pairs`."""
    *shape, _ = shape_of(pairs)
    last = len(shape)
    re, im = (reshape(b, slice_axis(b, pairs, last, part, 1), shape) for part in (0, 1))
    return Complex(re, im)


def joined(b: Builder, x: Complex) -> Value:
    """The parts along a new last axis."""
    columns = [reshape(b, part, [*shape_of(part), 1]) for part in (x.re, x.im)]
    return b.emit("concat", *columns, axis=-1)


def to_complex(b: AtenBuilder, x: Part | Complex) -> Complex:
    """A real tensor or a number as a complex tensor of `b.dtype` parts."""
    if isinstance(x, Complex):
        return Complex(convert(b, x.re, b.dtype), convert(b, x.im, b.dtype))
    if isinstance(x, Value):
        zero = b.constant(np.zeros((), b.dtype.numpy))
        return Complex(convert(b, x, b.dtype), b.emit("expand", zero, b.sizes(shape_of(x))))
    number = complex(x)
    return Complex(*(b.constant(np.asarray(part, b.dtype.numpy)) for part in (number.real, number.imag)))


def elementwise(b: AtenBuilder, operands: Sequence[Part | Complex], build: Callable[..., Any]) -> Any:
    """One map of operands given to `build` as pairs of expressions of type `b.dtype`; it answers with a pair for a
    complex result, with one expression for a real one."""
    values: list[Value] = []

    def read(value: Value) -> Expr:
        values.append(value)
        return cast(arg(len(values) - 1, tensor_type(value).dtype), b.dtype)

    pairs: list[Pair] = []
    for operand in operands:
        if isinstance(operand, Complex):
            pairs.append((read(operand.re), read(operand.im)))
        elif isinstance(operand, Value):
            pairs.append((read(operand), None))
        else:
            number = complex(operand)
            im = const(number.imag, b.dtype) if isinstance(operand, complex) else None
            pairs.append((const(number.real, b.dtype), im))
    result = build(*pairs)
    if isinstance(result, Expr):
        return b.emit("map", *values, outputs=(result,))
    zero = const(0, b.dtype)
    outputs = tuple(zero if part is None else part for part in result)
    return Complex(*b.emit_many("map", values, {"outputs": outputs}, ("re", "im")))


def times(x: Pair, y: Pair) -> Pair:
    """The product of two pairs."""
    (a, b), (c, d) = x, y
    if b is None or d is None:
        return a * c, b * c if b is not None else a * d if d is not None else None
    return a * c - b * d, a * d + b * c


def _over(x: Pair, y: Pair) -> Pair:
    """x / y, the divisor scaled so that its square neither over- nor underflows."""
    (a, b), (c, d) = x, y
    if d is None:
        return a / c, None if b is None else b / c
    scale = apply("max", apply("abs", c), apply("abs", d))
    c, d = c / scale, d / scale
    total = c * c + d * d
    upper = times((a, b), (c, -d))
    return upper[0] / total / scale, (upper[1] or const(0, a.dtype)) / total / scale


def magnitude(x: Pair) -> Expr:
    """|x| without over- or underflow of the squares."""
    a, b = x
    if b is None:
        return apply("abs", a)
    a, b = apply("abs", a), apply("abs", b)
    large, small = apply("max", a, b), apply("min", a, b)
    ratio = small / large
    scaled = large * apply("sqrt", ratio * ratio + 1.0)
    infinite = const(math.inf, a.dtype)
    plain = apply("or", apply("eq", large, const(0, a.dtype)), apply("eq", large, infinite))
    return select(plain, large, scaled)


def _angle(x: Pair) -> Expr:
    return apply("atan2", x[1] or const(0, x[0].dtype), x[0])


@only_complex("aten.view_as_complex.default")
def _view_as_complex(b: AtenBuilder, x: Value) -> Complex:
    return split(b, x)


@only_complex("aten.view_as_real.default")
def _view_as_real(b: AtenBuilder, x: Complex) -> Value:
    return joined(b, x)


@only_complex("aten.real.default")
def _real(b: AtenBuilder, x: Value | Complex) -> Value:
    return x.re if isinstance(x, Complex) else x


@only_complex("aten.imag.default")
def _imag(b: AtenBuilder, x: Complex) -> Value:
    return x.im


@only_complex("aten.complex.default")
def _complex(b: AtenBuilder, re: Value, im: Value) -> Complex:
    return elementwise(b, (re, im), lambda x, y: (x[0], y[0]))


@only_complex("aten.polar.default")
def _polar(b: AtenBuilder, length: Value, angle: Value) -> Complex:
    return elementwise(b, (length, angle), lambda r, t: (r[0] * apply("cos", t[0]), r[0] * apply("sin", t[0])))


@only_complex("aten._conj.default", "aten.conj.default", "aten._conj_physical.default", "aten.conj_physical.default")
def _conjugate(b: AtenBuilder, x: Value | Complex) -> Value | Complex:
    if isinstance(x, Value):
        return x
    return Complex(x.re, elementwise(b, (x.im,), lambda p: -p[0]))


@on_complex("aten.abs.default")
def _abs(b: AtenBuilder, x: Complex) -> Value:
    return elementwise(b, (x,), magnitude)  # type: ignore[no-any-return]


@only_complex("aten.angle.default")
def _angle_of(b: AtenBuilder, x: Value | Complex) -> Value:
    return elementwise(b, (x,), _angle)  # type: ignore[no-any-return]


@on_complex("aten.mul.Tensor", "aten.mul.Scalar")
def _mul(b: AtenBuilder, x: Part | Complex, y: Part | Complex) -> Complex:
    return elementwise(b, (x, y), times)


@on_complex("aten.div.Tensor", "aten.div.Scalar")
def _div(b: AtenBuilder, x: Part | Complex, y: Part | Complex) -> Complex:
    return elementwise(b, (x, y), _over)


@on_complex("aten.reciprocal.default")
def _reciprocal(b: AtenBuilder, x: Complex) -> Complex:
    return elementwise(b, (1.0, x), _over)


@on_complex("aten.add.Tensor", "aten.add.Scalar")
def _add(b: AtenBuilder, x: Part | Complex, y: Part | Complex, alpha: complex = 1) -> Complex:
    def build(p: Pair, q: Pair, factor: Pair) -> Pair:
        q = q if alpha == 1 else times(q, factor)
        return p[0] + q[0], q[1] if p[1] is None else p[1] if q[1] is None else p[1] + q[1]

    return elementwise(b, (x, y, alpha), build)


@on_complex("aten.sub.Tensor", "aten.sub.Scalar")
def _sub(b: AtenBuilder, x: Part | Complex, y: Part | Complex, alpha: complex = 1) -> Complex:
    return _add(b, x, y, -alpha)


@on_complex("aten.exp.default")
def _exp(b: AtenBuilder, x: Complex) -> Complex:
    def build(p: Pair) -> Pair:
        size, angle = apply("exp", p[0]), p[1] or const(0, p[0].dtype)
        return size * apply("cos", angle), size * apply("sin", angle)

    return elementwise(b, (x,), build)


@on_complex("aten.log.default")
def _log(b: AtenBuilder, x: Complex) -> Complex:
    return elementwise(b, (x,), lambda p: (apply("log", magnitude(p)), _angle(p)))


@on_complex("aten.pow.Tensor_Scalar")
def _power(b: AtenBuilder, x: Complex, exponent: float) -> Complex:
    """Whole powers up to 8 by multiplication, others by length and angle."""

    def build(p: Pair) -> Pair:
        if exponent in range(1, 9):
            result = p
            for _ in range(int(exponent) - 1):
                result = times(result, p)
            return result
        length, angle = apply("pow", magnitude(p), const(exponent, b.dtype)), _angle(p) * exponent
        return length * apply("cos", angle), length * apply("sin", angle)

    return elementwise(b, (x,), build)


@on_complex("aten.sgn.default")
def _sgn(b: AtenBuilder, x: Complex) -> Complex:
    def build(p: Pair) -> Pair:
        length = magnitude(p)
        zero = apply("eq", length, const(0, b.dtype))
        return tuple(select(zero, const(0, b.dtype), part / length) for part in p)  # type: ignore[operator,return-value]

    return elementwise(b, (x,), build)
