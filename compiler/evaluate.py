"""Expressions evaluated by NumPy.

*truth* computes composites with double-precision functions, float32 and narrower rounded once. *emulate* expands them
with compiler.mathlib and computes each primitive as native code does, so that native results can be compared for
equality. Primitives mean the same in both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from compiler import dtypes, mathlib
from compiler.dtypes import DType
from compiler.expr import COMPOSITES, LEAVES, Expr, walk
from compiler.mathlib.exact import fma32, fma64, round_to_odd
from compiler.mathlib.reference import FUNCTIONS

Mode = Literal["truth", "emulate"]


def evaluate(exprs: Sequence[Expr], leaf: Callable[[Expr], np.ndarray], mode: Mode = "truth") -> tuple[np.ndarray, ...]:
    """The value of each expression; `leaf` gives the arrays of arg, index, stat, kept and extent leaves.

    Arrays have the expression's dtype and broadcast against each other as NumPy's do: an expression of constants
    alone gives a 0-d array.
    """
    roots = tuple(mathlib.expand(e) for e in exprs) if mode == "emulate" else tuple(exprs)
    values: dict[Expr, np.ndarray] = {}
    with np.errstate(all="ignore"):
        for node in walk(roots):
            if node.op == "const":
                value = _constant(node)
            elif node.op in LEAVES:
                value = np.asarray(leaf(node), node.dtype.numpy)
            else:
                value = _apply(node, [values[a] for a in node.args])
            assert value.dtype == node.dtype.numpy, f"{node.op} gave {value.dtype}, expected {node.dtype}"
            values[node] = value
    return tuple(values[root] for root in roots)


def convert(x: np.ndarray, source: DType, target: DType) -> np.ndarray:
    """A cast: floats round to nearest even, float to integer saturates with NaN as 0, integers wrap."""
    if source == target:
        return x
    if target.kind == "bool":
        return np.asarray(x != 0)
    if source.is_float and target.is_float:
        if source.bits == 64 and target.bits < 32:
            x = round_to_odd(x)
        return x.astype(target.numpy)
    if source.is_float:
        return _float_to_integer(x, target)
    if target.is_float:
        # Narrow floats round a float32, as hardware conversions do.
        return x.astype(np.float64 if target.bits == 64 else np.float32).astype(target.numpy)
    return x.astype(np.int64 if source.kind == "int" else np.uint64).astype(target.numpy)


def _constant(node: Expr) -> np.ndarray:
    if node.dtype.is_float:
        return convert(np.asarray(node.value, np.float64), dtypes.float64, node.dtype)
    if node.dtype.kind == "bool":
        return np.asarray(node.value)
    return np.asarray(node.value & 0xFFFF_FFFF_FFFF_FFFF, np.uint64).astype(node.dtype.numpy)


def _float_to_integer(x: np.ndarray, target: DType) -> np.ndarray:
    wide = x.astype(np.float64)
    low = -(2 ** (target.bits - 1)) if target.kind == "int" else 0
    high = 2 ** (target.bits - (target.kind == "int"))
    carrier = np.int64 if target.kind == "int" else np.uint64
    bottom, top = np.asarray(low, carrier), np.asarray(high - 1, carrier)
    inside = (wide > low) & (wide < high)
    whole = np.trunc(np.where(inside, wide, 0)).astype(carrier)
    saturated = np.where(wide >= high, top, np.where(wide <= low, bottom, whole))
    return saturated.astype(target.numpy)


def _apply(node: Expr, operands: list[np.ndarray]) -> np.ndarray:
    dtype = node.args[0].dtype
    if node.op in COMPOSITES:
        wide = FUNCTIONS[node.op](*(o.astype(np.float64) for o in operands))
        return convert(np.asarray(wide), dtypes.float64, dtype)
    if node.op == "cast":
        return convert(operands[0], dtype, node.dtype)
    if node.op == "bitcast":
        return np.ascontiguousarray(operands[0]).reshape(operands[0].shape).view(node.dtype.numpy)
    if node.op in ("select", "unlikely"):
        return np.where(*operands)
    if dtype.kind == "bool":
        return np.asarray(_BOOL[node.op](*operands))
    if dtype.is_float:
        carrier = np.dtype(np.float64 if dtype.bits == 64 else np.float32)
        table = _FLOAT
    else:
        carrier = np.dtype(f"{'i' if dtype.kind == 'int' else 'u'}{max(dtype.bits // 8, 1)}")
        table = _INTEGER
    widened = [o.astype(carrier, copy=False) for o in operands]
    if node.op in ("shl", "shr"):
        result = _shift(node.op, widened[0], widened[1], dtype)
    else:
        result = np.asarray(table[node.op](*widened))
    return result if result.dtype == np.bool_ else result.astype(node.dtype.numpy, copy=False)


def _minimum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((b < a) | (b != b), b, a)


def _maximum(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where((b > a) | (b != b), b, a)


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (fma32 if a.dtype == np.float32 else fma64)(a, b, c)


def _integer_divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    # From |a| and |b| as unsigned numbers: the most negative number divided by -1 then wraps by itself.
    unsigned = np.dtype(f"u{a.dtype.itemsize}")
    size_a, size_b = (np.where(v < 0, np.negative(v), v).view(unsigned) for v in (np.asarray(a), np.asarray(b)))
    quotient = np.where(size_b == 0, 0, size_a // np.where(size_b == 0, 1, size_b)).astype(unsigned).view(a.dtype)
    return np.where((a < 0) != (b < 0), np.negative(quotient), quotient)


def _integer_remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(b == 0, a.dtype.type(0), a - _integer_divide(a, b) * b)


def _shift(op: str, x: np.ndarray, count: np.ndarray, dtype: DType) -> np.ndarray:
    inside = (count >= 0) & (count < dtype.bits)
    safe = np.where(inside, count, dtype.bits - 1).astype(x.dtype)
    if op == "shl":
        return np.where(inside, np.left_shift(x, safe), x.dtype.type(0))
    shifted = np.right_shift(x, safe)
    return shifted if dtype.kind == "int" else np.where(inside, shifted, x.dtype.type(0))


_COMPARE: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
_BITS: dict[str, Callable[..., np.ndarray]] = {
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
}  # fmt: skip
_BOOL: dict[str, Callable[..., np.ndarray]] = {**_COMPARE, **_BITS, "min": np.logical_and, "max": np.logical_or}
_FLOAT: dict[str, Callable[..., np.ndarray]] = {
    **_COMPARE,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "rem": np.fmod,
    "neg": np.negative, "abs": np.abs, "sqrt": np.sqrt, "min": _minimum, "max": _maximum, "fma": _fma,
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "rint": np.rint, "copysign": np.copysign,
}  # fmt: skip
_INTEGER: dict[str, Callable[..., np.ndarray]] = {
    **_COMPARE, **_BITS,
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _integer_divide, "rem": _integer_remainder,
    "neg": np.negative, "abs": np.abs, "min": np.minimum, "max": np.maximum, "fma": lambda a, b, c: a * b + c,
}  # fmt: skip
