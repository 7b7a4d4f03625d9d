"""Arithmetic on Python numbers in an exported graph: on sizes it is done while importing and leaves no node."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.expr import Expr, apply, cast, select
from compiler.frontends.aten.base import AtenBuilder, axis_of, shape_of, tensor_type
from compiler.frontends.aten.numbers import AnyNumber, Number, assert_scalar, compared, computed, is_size
from compiler.frontends.aten.pointwise import floor_divide, remainder
from compiler.ir import Value

Row = Callable[..., Any]


def _size(b: AtenBuilder, x: Value, axis: int) -> Size:
    return shape_of(x)[axis_of(axis, tensor_type(x).rank)]


def _stride(b: AtenBuilder, x: Value, axis: int) -> Size:
    # Tensors count as row-major: what reads a stride (as_strided) is given row-major memory.
    return dims.product(shape_of(x)[axis_of(axis, tensor_type(x).rank) + 1 :])


def _is_float(number: AnyNumber) -> bool:
    return isinstance(number, float) or (isinstance(number, Number) and number.dtype.is_float)


def _arithmetic(fn: Callable[..., Any], build: Callable[..., Expr]) -> Row:
    """A row for a function of whole numbers that gives a whole number, and of floats that gives a float."""

    def row(b: AtenBuilder, *numbers: AnyNumber) -> Any:
        floats = any(_is_float(number) for number in numbers)
        if not any(isinstance(number, Number) for number in numbers) and not (
            floats and any(isinstance(number, dims.Dim) for number in numbers)
        ):
            return fn(*numbers)
        dtype = dtypes.float64 if floats else dtypes.int64
        return computed(b, numbers, build, dtype, dtype, None if floats else fn)

    return row


def _float_function(fn: Callable[..., float], build: Callable[..., Expr]) -> Row:
    def row(b: AtenBuilder, *numbers: AnyNumber) -> Any:
        if all(isinstance(number, (int, float)) for number in numbers):
            return fn(*numbers)
        return computed(b, numbers, build, dtypes.float64, dtypes.float64)

    return row


def _to_whole(fn: Callable[[Any], int], rounding: str) -> Row:
    """A row for a function from a float to a whole number."""

    def row(b: AtenBuilder, number: AnyNumber) -> Any:
        if not isinstance(number, Number):
            return number if is_size(number) else fn(number)
        if not number.dtype.is_float:
            return number
        from compiler.frontends.aten.numbers import from_tensor

        whole = computed(b, (number,), lambda e: apply(rounding, e), dtypes.float64, dtypes.int64)
        return from_tensor(b, whole.value(), signed=True)

    return row


def _power(b: AtenBuilder, base: AnyNumber, exponent: AnyNumber) -> Any:
    if is_size(base) and isinstance(exponent, int) and exponent >= 0:
        return dims.product([base] * exponent)  # type: ignore[list-item]
    return _float_function(pow, lambda x, y: apply("pow", x, y))(b, base, exponent)


def _compare(fn: str) -> Row:
    decide = getattr(operator, fn)
    if fn in ("eq", "ne"):  # of sizes, == asks whether they are the same expression

        def decide(x: Any, y: Any) -> bool:
            same = dims.equal(x, y) if is_size(x) and is_size(y) else x == y
            return same == (fn == "eq")

    return lambda b, x, y: compared(b, fn, decide, x, y)


def _not(b: AtenBuilder, answer: Any) -> Any:
    if not isinstance(answer, Number):
        return not answer
    opposite = computed(b, (answer,), lambda e: apply("not", e), dtypes.boolean, dtypes.boolean)
    if answer.comparison is not None:
        fn, x, y = answer.comparison
        opposite.comparison = ({"eq": "ne", "ne": "eq", "lt": "ge", "ge": "lt", "le": "gt", "gt": "le"}[fn], x, y)
    return opposite


def _logical(fn: str, decide: Callable[[bool, bool], bool]) -> Row:
    def row(b: AtenBuilder, x: Any, y: Any) -> Any:
        if not isinstance(x, Number) and not isinstance(y, Number):
            return decide(x, y)
        return computed(b, (x, y), lambda p, q: apply(fn, p, q), dtypes.boolean, dtypes.boolean)

    return row


def _choose(b: AtenBuilder, condition: Any, yes: AnyNumber, no: AnyNumber) -> Any:
    if not isinstance(condition, Number):
        return yes if condition else no
    dtype = dtypes.float64 if _is_float(yes) or _is_float(no) else dtypes.int64
    return computed(b, (condition, yes, no), lambda c, p, q: select(cast(c, dtypes.boolean), p, q), dtype, dtype)


def _ignore(b: AtenBuilder, *arguments: Any, **keywords: Any) -> None:
    return None


_sqrt = _float_function(math.sqrt, lambda x: apply("sqrt", x))

SIZE_ROWS: Mapping[str, Row] = {
    "aten.sym_size.int": _size,
    "aten.sym_stride.int": _stride,
    "aten.sym_storage_offset.default": lambda b, x: 0,
    "aten.sym_numel.default": lambda b, x: tensor_type(x).elements,
    "aten.sym_is_contiguous.default": lambda b, x: True,
    "add": _arithmetic(operator.add, lambda x, y: x + y),
    "sub": _arithmetic(operator.sub, lambda x, y: x - y),
    "mul": _arithmetic(operator.mul, lambda x, y: x * y),
    "neg": _arithmetic(operator.neg, lambda x: -x),
    "floordiv": _arithmetic(operator.floordiv, floor_divide),
    "mod": _arithmetic(operator.mod, remainder),
    "truediv": _float_function(operator.truediv, lambda x, y: x / y),
    "pow": _power,
    "sym_max": _arithmetic(lambda x, y: dims.maximum(x, y) if is_size(x) and is_size(y) else max(x, y),
                           lambda x, y: apply("max", x, y)),
    "sym_min": _arithmetic(lambda x, y: dims.minimum(x, y) if is_size(x) and is_size(y) else min(x, y),
                           lambda x, y: apply("min", x, y)),
    "sym_float": _float_function(float, lambda x: x),
    "sym_sqrt": _sqrt,
    "_sym_sqrt": _sqrt,
    "sym_int": _to_whole(int, "trunc"),
    "trunc": _to_whole(math.trunc, "trunc"),
    "floor": _to_whole(math.floor, "floor"),
    "ceil": _to_whole(math.ceil, "ceil"),
    "round": _to_whole(round, "rint"),
    **{name: _compare(name) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "sym_not": _not,
    "not_": _not,
    "and_": _logical("and", operator.and_),
    "or_": _logical("or", operator.or_),
    "sym_ite": _choose,
    "aten._assert_scalar.default": assert_scalar,
    "aten._assert_async.default": _ignore,
    "aten._assert_async.msg": _ignore,
    "aten._assert_tensor_metadata.default": _ignore,
    "aten.sym_constrain_range.default": _ignore,
    "aten.sym_constrain_range_for_size.default": _ignore,
}  # fmt: skip
