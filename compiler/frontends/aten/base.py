"""What every row of the ATen table uses: the table itself, the builder rows write to, and torch's type rules.

A row is a function `(b, *arguments, **keywords) -> Value | tuple of Values`. Its arguments are those of the ATen
call with fx nodes replaced: a tensor is a Value, a symbolic integer a Size, a torch.dtype a DType; layouts, devices and
memory formats are gone. `b.dtype` is the element type torch itself gives the (first) result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.dtypes import DType
from compiler.errors import UnsupportedOp
from compiler.expr import Expr, arg, cast, const
from compiler.ir import Graph, Value
from compiler.types import TensorType, of_array

Scalar = int | float | bool | Dim
Operand = Value | Scalar
Row = Callable[..., Any]

ROWS: dict[str, Row] = {}
NUMBER_ROWS: set[str] = set()


def aten(*names: str, numbers: bool = False) -> Callable[[Row], Row]:
    """Enter a row under the names of its ATen overloads, as `str(node.target)` spells them. numbers: it takes each
    Number as it is, instead of as a size or a 0-d tensor as the operator's schema says."""

    def enter(row: Row) -> Row:
        for name in names:
            assert name not in ROWS, f"two rows claim {name}"
            ROWS[name] = row
            if numbers:
                NUMBER_ROWS.add(name)
        return row

    return enter


class AtenBuilder(Builder):
    """A Builder that knows what torch inferred for the call being imported.

    dtypes: element types of its results. signed: whether an integer it answers with may be below zero. row_major():
    whether all its tensors lie row-major from the start of their memory. assertions: numbers.Assertion so far. plainer:
    the numbers of a wide value, by its name, in the narrower type they were computed in.
    """

    def __init__(self, source: Graph | None = None) -> None:
        super().__init__(source)
        self.dtypes: tuple[DType | None, ...] = ()
        self.signed = True
        self.row_major: Callable[[], bool] = lambda: True
        self.assertions: list[Any] = []
        self.plainer: dict[str, Value] = {}

    def parameter(self, name: str, array: np.ndarray) -> Value:
        """A constant of that very name, never shared with an equal one: its contents may be replaced by `refresh`."""
        value = Value(self.unique(name), of_array(array))
        self.constants[value.name] = array
        return value

    @property
    def dtype(self) -> DType:
        """The element type of the call's first result, by torch's own inference."""
        assert self.dtypes and self.dtypes[0] is not None, f"{self.place}: torch gives this call no tensor"
        return self.dtypes[0]


def unsupported(b: Builder, text: str) -> UnsupportedOp:
    """The error for a form of an operator that no row covers."""
    return UnsupportedOp(f"{b.place}: {text}")


def tensor_type(value: Value) -> TensorType:
    """The type of a value that must be a tensor of known rank (all values of an exported program are)."""
    assert isinstance(value.type, TensorType) and value.type.shape is not None, f"{value.name} is {value.type}"
    return value.type


def shape_of(value: Value) -> tuple[Size, ...]:
    """The shape of a tensor."""
    shape = tensor_type(value).shape
    assert shape is not None
    return shape


def axis_of(axis: int, rank: int) -> int:
    """`axis` counted from the front; torch lets a 0-d tensor have one."""
    return axis % max(rank, 1)


def axes_of(axes: int | Sequence[int] | None, rank: int) -> tuple[int, ...]:
    """Axes counted from the front; None and no axes mean all of them."""
    if isinstance(axes, int):
        axes = (axes,)
    return tuple(sorted(axis_of(axis, rank) for axis in axes)) if axes and rank else tuple(range(rank))


def compute_type(dtype: DType) -> DType:
    """The type torch computes elementwise functions of `dtype` in: float32 for the narrow floats."""
    return dtypes.float32 if dtype.is_float and dtype.bits < 32 else dtype


def promote(*operands: Operand) -> DType:
    """The common type of operands by torch's rules (docs: tensor_attributes, "type promotion"): a wider category among
    0-d tensors and Python scalars wins over the tensors' type, a wider type in the same category does not."""
    groups: tuple[list[DType], list[DType], list[DType]] = ([], [], [])
    for operand in operands:
        if isinstance(operand, Value):
            kind = tensor_type(operand)
            groups[0 if kind.shape else 1].append(kind.dtype)
        else:
            groups[2].append(scalar_type(operand))
    result: DType | None = None
    for group in groups:
        for dtype in group[1:]:
            group[0] = _wider(group[0], dtype)
        if group and (result is None or _category(group[0]) > _category(result)):
            result = group[0]
    assert result is not None
    return result


def scalar_type(value: Scalar) -> DType:
    """The type torch gives a Python scalar."""
    if isinstance(value, bool):
        return dtypes.boolean
    return dtypes.float32 if isinstance(value, float) else dtypes.int64


def _category(dtype: DType) -> int:
    return {"bool": 0, "int": 1, "uint": 1, "float": 2, "complex": 3}[dtype.kind]


def _wider(a: DType, b: DType) -> DType:
    if _category(a) != _category(b):
        return a if _category(a) > _category(b) else b
    if a.is_float and b.is_float and a != b:
        return a if a.bits > b.bits else b if b.bits > a.bits else dtypes.float32
    return dtypes.from_numpy(np.promote_types(a.numpy, b.numpy)) if a != b else a


def to_tensor(b: Builder, operand: Operand, dtype: DType | None = None) -> Value:
    """An operand as a tensor, of element type `dtype` if given; scalars become 0-d."""
    if isinstance(operand, Dim):
        operand = b.emit("reshape", b.sizes((operand,)), b.sizes(()))
    elif not isinstance(operand, Value):
        return b.constant(np.asarray(operand, (dtype or scalar_type(operand)).numpy), "scalar")
    return convert(b, operand, dtype) if dtype else operand


def convert(b: Builder, value: Value, dtype: DType) -> Value:
    """A tensor in another element type; the value itself where it has that type."""
    held = tensor_type(value).dtype
    return value if held == dtype else b.emit("map", value, outputs=(cast(arg(0, held), dtype),))


def pointwise(
    b: AtenBuilder,
    operands: Sequence[Operand],
    build: Callable[..., Expr],
    compute: DType | None = None,
    result: DType | None = None,
    raw: int = 0,
) -> Value:
    """One map: `build` gets each operand as an Expr of type `compute` (torch's computing type of the result unless
    given), the first `raw` of them in their own; its result is converted to `result` (torch's own unless given)."""
    result = result or b.dtype
    compute = compute or compute_type(result)
    values: list[Value] = []
    exprs: list[Expr] = []
    for operand in operands:
        if isinstance(operand, Dim):
            operand = to_tensor(b, operand)
        if isinstance(operand, Value):
            element = arg(len(values), tensor_type(operand).dtype)
            exprs.append(element if len(exprs) < raw else cast(element, compute))
            values.append(operand)
        else:
            exprs.append(const(operand, compute))
    return b.emit("map", *values, outputs=(cast(build(*exprs), result),))


def reshape(b: Builder, value: Value, shape: Sequence[Size]) -> Value:
    """`value` under another shape; the value itself where it has that shape."""
    return value if tuple(shape) == shape_of(value) else b.emit("reshape", value, b.sizes(tuple(shape)))


def transpose(b: Builder, value: Value, perm: Sequence[int]) -> Value:
    """`value` with its axes permuted; the value itself where nothing moves."""
    return value if list(perm) == list(range(len(perm))) else b.emit("transpose", value, perm=tuple(perm))


def swap_last(b: Builder, value: Value) -> Value:
    """`value` with its last two axes exchanged."""
    rank = tensor_type(value).rank
    return transpose(b, value, (*range(rank - 2), rank - 1, rank - 2))


def slice_axis(b: Builder, value: Value, axis: int, start: Size, size: Size, step: int = 1) -> Value:
    """`size` elements from `start` in steps of `step` along one axis; the value itself where that is all of it."""
    shape = shape_of(value)
    if start == 0 and step == 1 and size == shape[axis]:
        return value
    here = range(len(shape))
    return b.emit(
        "slice",
        value,
        starts=tuple(start if a == axis else 0 for a in here),
        sizes=tuple(size if a == axis else shape[a] for a in here),
        steps=tuple(step if a == axis else 1 for a in here),
    )
