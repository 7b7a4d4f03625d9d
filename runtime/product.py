"""runtime.matmul: the matrix engine for plain arrays."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from backends.native.executable import Executable
from backends.native.target import host
from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.errors import DtypeError, ShapeError
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options

_PRODUCTS = {dtypes.float64, dtypes.float32}
_PRECISIONS = {"fp64": dtypes.float64, "fp32": dtypes.float32}


def matmul(a: Any, b: Any, *, out: Any = None, precision: str | None = None, threads: int | None = None) -> Any:
    """a [.., M, K] @ b [.., K, N] as NumPy's matmul, batch axes broadcast: float64 gives float64, float32 float32.

    a, b: NumPy arrays or torch tensors of one element type; the answer is of the same kind. Row-major and transposed
    operands are read in place, others are copied first. out: array of the result's shape and type to fill, also
    returned. precision: "fp64" or "fp32" to compute in that type (the result keeps the operands' type). threads: as
    in runtime.compile. Raises DtypeError for other or differing types, ShapeError where shapes do not fit.
    """
    if _is_torch(a) or _is_torch(b):
        return _torch_matmul(a, b, out, precision, threads)
    result = _multiply(np.asarray(a), np.asarray(b), precision, Options.resolve(threads))
    if out is None:
        return result
    if out.shape != result.shape:
        raise ShapeError(f"matmul: out has shape {out.shape}, expected {result.shape}")
    if out.dtype != result.dtype:
        raise DtypeError(f"matmul: out is {out.dtype}, expected {result.dtype}")
    np.copyto(out, result)
    return out


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _torch_matmul(a: Any, b: Any, out: Any, precision: str | None, threads: int | None) -> Any:
    import torch

    for name, x in (("a", a), ("b", b)):
        if not _is_torch(x):
            raise DtypeError(f"matmul: {name} is {type(x).__name__}, expected a torch tensor as the other operand is")
    arrays = [x.detach().resolve_conj().resolve_neg().numpy() for x in (a, b)]
    target = None if out is None else out.detach().numpy()
    result = matmul(*arrays, out=target, precision=precision, threads=threads)
    return out if out is not None else torch.from_numpy(result)


def _multiply(a: np.ndarray, b: np.ndarray, precision: str | None, options: Options) -> np.ndarray:
    dtype = _check(a, b, precision)
    rows, columns = a.ndim > 1, b.ndim > 1
    a = a if rows else a[None, :]
    b = b if columns else b[:, None]
    if a.shape[-1] != b.shape[-2]:
        raise ShapeError(f"matmul: K differs, {a.shape[-1]} (columns of a) against {b.shape[-2]} (rows of b)")
    try:
        np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ShapeError(f"matmul: batch axes {a.shape[:-2]} and {b.shape[:-2]} do not broadcast") from None
    (a, a_swapped), (b, b_swapped) = _readable(a), _readable(b)
    program = _program(
        dtype, _PRECISIONS.get(precision or "", dtype), _pattern(a), _pattern(b), a_swapped, b_swapped, options
    )
    (result,) = program.run([a, b])
    if not rows:
        result = result[..., 0, :]
    return result if columns else result[..., 0]


def _check(a: np.ndarray, b: np.ndarray, precision: str | None) -> DType:
    if a.dtype != b.dtype:
        raise DtypeError(f"matmul: a is {a.dtype}, b is {b.dtype}; convert one of them")
    if a.ndim == 0 or b.ndim == 0:
        raise ShapeError(f"matmul: operands have shapes {a.shape} and {b.shape}; expected at least one axis each")
    if precision is not None and precision not in _PRECISIONS:
        raise DtypeError(
            f"matmul: precision {precision!r} does not exist yet; expected one of {', '.join(_PRECISIONS)}"
        )
    dtype = dtypes.from_numpy(a.dtype)
    if dtype not in _PRODUCTS:
        raise DtypeError(f"matmul: products of {dtype} do not exist yet; expected float64 or float32")
    return dtype


def _readable(x: np.ndarray) -> tuple[np.ndarray, bool]:
    """A C-contiguous native array holding `x`, and whether its last two axes are swapped."""
    x = x if x.dtype.isnative else x.astype(x.dtype.newbyteorder("="))
    if x.flags.c_contiguous and x.flags.aligned:
        return x, False
    swapped = x.swapaxes(-1, -2)
    if swapped.flags.c_contiguous and swapped.flags.aligned:
        return swapped, True
    return np.ascontiguousarray(x), False


def _pattern(x: np.ndarray) -> tuple[bool, ...]:
    """Which batch axes broadcast (have extent 1)."""
    return tuple(size == 1 for size in x.shape[:-2])


@lru_cache(maxsize=256)
def _program(
    dtype: DType,
    compute: DType,
    a_pattern: tuple[bool, ...],
    b_pattern: tuple[bool, ...],
    a_swapped: bool,
    b_swapped: bool,
    options: Options,
) -> Executable:
    """The compiled product for one combination of types and layouts, any sizes."""
    b = Builder()
    m, k, n = (b.claim_symbol(name) for name in "mkn")

    def operand(name: str, pattern: tuple[bool, ...], rows: Size, columns: Size, swapped: bool) -> Any:
        batch = [1 if one else b.claim_symbol(f"batch{len(pattern) - i}") for i, one in enumerate(pattern)]
        stored = (columns, rows) if swapped else (rows, columns)
        value = b.input(name, TensorType(dtype, (*batch, *stored)))
        if not swapped:
            return value
        rank = len(batch)
        return b.emit("transpose", value, perm=(*range(rank), rank + 1, rank))

    product = b.emit("matmul", operand("a", a_pattern, m, k, a_swapped), operand("b", b_pattern, k, n, b_swapped))
    graph = b.finish([product])
    name = {dtype: tag for tag, dtype in _PRECISIONS.items()}[compute]
    lowered = lower_graph(graph, None if compute == dtype else name)
    return Executable(lowered, host(), options)
