"""Python numbers of an exported program that are not plain sizes: what `.item()` answers, and arithmetic on it.

A size becomes a Size while importing and leaves no node. Other numbers are either a 0-d tensor or, where a shape needs
one, a size that a Host step decides; `Number` makes whichever is asked for, when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from compiler import dims, dtypes
from compiler.dims import Dim, Size, Undecided
from compiler.dtypes import DType
from compiler.errors import ModelError
from compiler.expr import Expr, apply, const, select
from compiler.frontends.aten.base import AtenBuilder, Operand, pointwise, to_tensor, unsupported
from compiler.ir import Value


class Number:
    """An int (int64), float (float64) or bool that a tensor's contents decide.

    value: makes it as a 0-d tensor; size: makes it as a size (None: it is no whole number). operands: the numbers it is
    computed from. comparison: (fn, left, right) where it is the answer of one. signed: it may be below zero.
    """

    def __init__(
        self,
        dtype: DType,
        value: Callable[[], Value],
        size: Callable[[], Size] | None = None,
        operands: tuple[Any, ...] = (),
        comparison: tuple[str, Any, Any] | None = None,
        signed: bool = True,
    ) -> None:
        self.dtype, self.comparison, self.signed = dtype, comparison, signed
        self._make_value, self._make_size, self._operands = value, size, operands
        self._value: Value | None = None
        self._size: Size | None = None

    def value(self) -> Value:
        """The number as a 0-d tensor of `dtype`."""
        if self._value is None:
            self._value = self._make_value()
        return self._value

    def size(self, b: AtenBuilder) -> Size:
        """The number as a size. Raises UnsupportedOp for a float."""
        if self._make_size is None:
            raise unsupported(b, f"a {self.dtype} computed by the model is used as a size; expected an integer")
        if self._size is None:
            self._size = self._make_size()
        return self._size

    @property
    def decides_sizes(self) -> bool:
        """Whether it is a size by now, so that asking for one adds no Host step."""
        if self._size is not None:
            return True
        return bool(self._operands) and all(decides_sizes(operand) for operand in self._operands)


Plain = int | float | bool | Dim
AnyNumber = Plain | Number


def decides_sizes(number: AnyNumber) -> bool:
    """Whether a number is a size, or a Number that has become one."""
    return number.decides_sizes if isinstance(number, Number) else is_size(number)


def is_size(number: object) -> bool:
    """Whether a number is a plain size."""
    return isinstance(number, (int, Dim))


def as_size(b: AtenBuilder, number: AnyNumber) -> Any:
    """A number where a size is expected."""
    return number.size(b) if isinstance(number, Number) else number


def as_operand(number: AnyNumber) -> Operand:
    """A number where an operand of arithmetic is expected."""
    return number.value() if isinstance(number, Number) else number


def as_tensor(b: AtenBuilder, number: AnyNumber | Value) -> Value:
    """A number as a 0-d tensor: int64, float64 or bool. Tensors as they are."""
    if isinstance(number, Number):
        return number.value()
    if isinstance(number, float):
        return to_tensor(b, number, dtypes.float64)
    return to_tensor(b, number)


def from_tensor(b: AtenBuilder, tensor: Value, signed: bool) -> AnyNumber:
    """A 0-d tensor as a number. signed: it may be below zero, which a size of its own cannot be."""
    contents = b.contents(tensor)
    if contents is not None and contents.size == 1:
        held = contents.reshape(-1)[0]
        return held if isinstance(held, Dim) else held.item()

    def size() -> Size:
        extents = b.emit("number_as_size", tensor, signed=signed).type.shape  # type: ignore[union-attr]
        assert extents is not None
        return extents[0] - extents[1] if signed else extents[0]

    dtype = number_type(tensor.type.dtype)  # type: ignore[union-attr]
    value = tensor
    whole = dtype == dtypes.int64
    return Number(dtype, lambda: _converted(b, value, dtype), size if whole else None, signed=signed)


def slice_bound(b: AtenBuilder, bound: AnyNumber, extent: Size) -> Size:
    """A bound of a slice as a size; one below zero that data decides is counted from the front, within the axis."""
    if not isinstance(bound, Number) or not bound.signed:
        return as_size(b, bound)

    def build(position: Expr, extent: Expr) -> Expr:
        zero = const(0, dtypes.int64)
        front = select(apply("lt", position, zero), position + extent, position)
        return apply("max", apply("min", front, extent), zero)

    clamped = pointwise(b, (bound.value(), extent), build, dtypes.int64, dtypes.int64)
    return as_size(b, from_tensor(b, clamped, signed=False))


def number_type(dtype: DType) -> DType:
    """What Python has for an element of a tensor: bool, int or float."""
    if dtype == dtypes.boolean:
        return dtype
    return dtypes.float64 if dtype.is_float else dtypes.int64


def _converted(b: AtenBuilder, tensor: Value, dtype: DType) -> Value:
    return pointwise(b, (tensor,), lambda e: e, dtype, dtype)


def computed(
    b: AtenBuilder,
    operands: tuple[AnyNumber, ...],
    build: Callable[..., Expr],
    dtype: DType,
    result: DType,
    size: Callable[..., Size] | None = None,
) -> Number:
    """A number from others: by an expression over them in `dtype`, and where it is a size by `size` of them."""
    return Number(
        result,
        lambda: pointwise(b, [as_operand(number) for number in operands], build, dtype, result),
        (lambda: size(*(as_size(b, number) for number in operands))) if size is not None else None,
        operands,
    )


@dataclass(frozen=True)
class Assertion:
    """A comparison the exported program asserts, at `place`."""

    comparison: tuple[str, AnyNumber, AnyNumber]
    place: str


def assert_scalar(b: AtenBuilder, condition: object, message: str = "", *ignored: object) -> None:
    """An assertion about numbers. Raises ModelError where it can be seen to fail."""
    if condition is False:
        raise ModelError(f"{b.place}: the exported program asserts what never holds: {message}")
    if isinstance(condition, Number) and condition.comparison is not None:
        b.assertions.append(Assertion(condition.comparison, b.place))


def guard_assertions(b: AtenBuilder) -> None:
    """Turn what was asserted about sizes that data decides into guards, which a run checks before it uses them.

    Assertions about sizes of inputs are the front end's `ranges`; one about a number that is no size is left out.
    """
    invented = frozenset(b.invented)
    for assertion in b.assertions:
        fn, *numbers = assertion.comparison
        if not all(decides_sizes(number) for number in numbers):
            continue
        with b.at(assertion.place):
            left, right = (as_size(b, number) for number in numbers)
            if dims.names_in((left, right)) & invented:
                equal = _EQUALITIES[fn](left, right)
                if equal[0] != equal[1]:
                    b.add_guard(*equal, asserted=True)


# A comparison of integers as an equality of sizes.
_EQUALITIES: dict[str, Callable[[Size, Size], tuple[Size, Size]]] = {
    "eq": lambda a, b: (a, b),
    "ne": lambda a, b: (dims.maximum((a - b) * (a - b), 1), (a - b) * (a - b)),
    "le": lambda a, b: (dims.maximum(a, b), b),
    "lt": lambda a, b: (dims.maximum(a + 1, b), b),
    "ge": lambda a, b: (dims.maximum(a, b), a),
    "gt": lambda a, b: (dims.maximum(a, b + 1), a),
}


def compared(b: AtenBuilder, fn: str, decide: Callable[[Any, Any], bool], x: AnyNumber, y: AnyNumber) -> bool | Number:
    """The answer of a comparison: known, or a Number."""
    if not isinstance(x, Number) and not isinstance(y, Number):
        try:
            return decide(x, y)
        except Undecided:
            pass
    floats = any(isinstance(n, float) or (isinstance(n, Number) and n.dtype.is_float) for n in (x, y))
    dtype = dtypes.float64 if floats else dtypes.int64
    answer = computed(b, (x, y), lambda p, q: apply(fn, p, q), dtype, dtypes.boolean)
    if not floats:
        answer.comparison = (fn, x, y)
    return answer
