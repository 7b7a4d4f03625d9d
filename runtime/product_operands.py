"""What runtime.matmul accepts: element types, shapes, arrays to fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.errors import DtypeError, ShapeError

_OF_ONE_TYPE = (
    dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16,
    dtypes.int32, dtypes.int64, dtypes.uint32, dtypes.uint64,
)  # fmt: skip
BYTES = (dtypes.int8, dtypes.uint8)
RESULTS = {
    **{(dtype, dtype): dtype for dtype in _OF_ONE_TYPE},
    **{(a, b): dtypes.int32 for a in BYTES for b in BYTES},
}
PRECISIONS = {"fp64": dtypes.float64, "fp32": dtypes.float32}


@dataclass(frozen=True)
class ProductTypes:
    """Element types of the operands and the result, and the one the operands are converted to first (None: neither)."""

    a: DType
    b: DType
    result: DType
    compute: DType | None


def product_types(a: np.dtype, b: np.dtype, precision: str | None) -> ProductTypes:
    """The types of a product. Raises DtypeError."""
    if precision is not None and (not isinstance(precision, str) or precision not in PRECISIONS):
        raise DtypeError(f"matmul: precision {precision!r} is none of {', '.join(PRECISIONS)}; None keeps the type")
    return _types(a, b, precision)


@lru_cache(maxsize=256)
def _types(a: np.dtype, b: np.dtype, precision: str | None) -> ProductTypes:
    left, right = _element("a", a), _element("b", b)
    result = RESULTS.get((left, right))
    if result is None:
        raise DtypeError(f"matmul: a is {left}, b is {right}; {_advice(left, right)}")
    if precision is None:
        return ProductTypes(left, right, result, None)
    if not result.is_float:
        raise DtypeError(f"matmul: precision {precision!r} with {left} operands; it is for floats: use None")
    compute = PRECISIONS[precision]
    return ProductTypes(left, right, result, None if compute == result else compute)


def _element(name: str, dtype: np.dtype) -> DType:
    try:
        found: DType | None = dtypes.from_numpy(dtype)
    except DtypeError:
        found = None
    if found is None or not any(found in pair for pair in RESULTS):
        wider = {"b": "uint8", "i": "int32", "u": "uint32"}.get(dtype.kind, "float32")
        raise DtypeError(
            f"matmul: {name} is {dtype}, expected one of {', '.join(map(str, (*_OF_ONE_TYPE, *BYTES)))}; convert it, "
            f"for example with .astype({wider!r})"
        )
    return found


def _advice(a: DType, b: DType) -> str:
    wider = a if a.bits >= b.bits else b
    return f"expected one type (or int8 and uint8); convert one of them, for example with .astype({wider.name!r})"


@lru_cache(maxsize=1024)
def result_shape(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a product. Raises ShapeError."""
    if not a or not b:
        raise ShapeError(f"matmul: operands have shapes {a} and {b}; expected at least one axis each: use * to scale")
    axis = -2 if len(b) > 1 else 0
    if a[-1] != b[axis]:
        raise ShapeError(
            f"matmul: K differs, {a[-1]} (last axis of a, shape {a}) against {b[axis]} (axis {axis} of b, shape "
            f"{b}); transpose or slice one of them"
        )
    try:
        batch = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        raise ShapeError(
            f"matmul: batch axes {a[:-2]} of a and {b[:-2]} of b do not broadcast; expected equal sizes "
            "or 1, counted from the last"
        ) from None
    return (*batch, *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def check_out(out: Any, shape: tuple[int, ...], dtype: DType) -> None:
    """Raises DtypeError, ShapeError or ValueError where `out` cannot take a result of that shape and type."""
    if not isinstance(out, np.ndarray):
        raise DtypeError(f"matmul: out is {type(out).__name__}, expected a NumPy array as the operands are")
    if out.shape != shape:
        raise ShapeError(f"matmul: out has shape {out.shape}, expected {shape}; allocate it with numpy.empty")
    if out.dtype != dtype.numpy:
        raise DtypeError(f"matmul: out is {out.dtype}, expected {dtype}; allocate it with that dtype")
    if not out.flags.writeable:
        raise ValueError("matmul: out is read-only, expected a writeable array; set out.flags.writeable or copy it")


def can_fill(out: np.ndarray, operands: Sequence[np.ndarray]) -> bool:
    """Whether a product of these operands can be written where `out` lies."""
    flags = out.flags
    return flags.c_contiguous and flags.aligned and not any(np.may_share_memory(out, x) for x in operands)
