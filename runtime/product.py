"""runtime.matmul: the matrix engine for plain arrays."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from backends.native.entry import Entry, entry
from compiler.errors import DtypeError, ShapeError
from compiler.frontends.torch_tensors import array_of
from runtime.binding import to_torch
from runtime.options import Options
from runtime.product_layout import readable
from runtime.product_operands import can_fill, check_out, product_types, result_shape
from runtime.product_program import ARENAS, ReadyProduct, plan_product
from runtime.recent import Recent

SHAPES = 512  # pairs of shapes whose calls stay native


def matmul(a: Any, b: Any, *, out: Any = None, precision: str | None = None, threads: int | None = None) -> Any:
    """a [.., M, K] @ b [.., K, N] as NumPy's matmul: batch axes broadcast, a 1-d operand is a row (a) or a column (b)
    whose axis the result lacks, and two of them give a scalar. Where K is 0 the result is zeros.

    a, b: NumPy arrays, or what numpy.asarray makes one of, or two torch tensors; the answer is of the same kind (a
    plain array for a subclass, a tensor without gradient). Element types: float64, float32, float16 and bfloat16 (of
    ml_dtypes or torch) give their own type, 16-bit types summed in float32; int32, int64, uint32 and uint64 their own,
    wrapping; int8 and uint8, also mixed, int32. All others have to be of one type.
    out: an array of the result's shape and type to fill, also returned. Written in place if C-contiguous, aligned and
    apart from a and b in memory, else copied to.
    precision: "fp64" or "fp32" computes products of floats in that type; the result keeps the operands' type.
    threads: the most to use; None: OMP_NUM_THREADS if set, else what affinity and the cgroup quota allow, as found at
    the first product. The bits of the result do not depend on it.

    Read in place: any strides, of either sign or 0, where one of the last two axes is contiguous (slices of rows,
    columns or batches, transposes, broadcasts). Copied first: neither axis contiguous, other byte order, unaligned.
    The first product of some types and layouts compiles a kernel, of some shapes makes a plan; what follows is a call.

    Raises DtypeError (types other than these or that do not go together, an unknown precision, an `out` of another
    type or kind), ShapeError (no axes, K or batch axes that do not fit, an `out` of another shape), ValueError
    (threads below 1, a read-only `out`), ModelError (a torch tensor that is sparse or on another device).
    """
    try:
        call = _known.young[a.shape, b.shape, precision, threads].call
    except (AttributeError, KeyError, TypeError):  # no array, new shapes, an unhashable option
        return _matmul(a, b, out, precision, threads)
    return call(a, b)[0] if out is None else call(a, b, out)[0]


def _matmul(a: Any, b: Any, out: Any, precision: str | None, threads: int | None) -> Any:
    """What `matmul` says, the long way. What kernels cannot read is copied so that they can, and looked up again."""
    if _is_torch(a) or _is_torch(b):
        return _torch_matmul(a, b, out, precision, threads)
    left, right = _array("a", a), _array("b", b)
    types, shape = product_types(left.dtype, right.dtype, precision), result_shape(left.shape, right.shape)
    options = _options(threads)
    if out is not None:
        check_out(out, shape, types.result)
    if 0 in shape or left.shape[-1] == 0:
        if out is None:
            return _answer(np.zeros(shape, types.result.numpy))
        out[...] = 0
        return out
    left, right = readable(left, right)
    if left is not a or right is not b:
        return matmul(left, right, out=out, precision=precision, threads=threads)
    ready = plan_product(left, right, types, options)
    in_place = out is not None and can_fill(out, (left, right))
    result = np.asarray(out) if in_place else np.empty(shape, types.result.numpy)
    ready.run(result)
    _remember((left.shape, right.shape, precision, threads), ready, result)
    if out is None:
        return _answer(result)
    if not in_place:
        np.copyto(out, result)
    return out


def _answer(result: np.ndarray) -> Any:
    """A scalar where there is no axis, as NumPy has it."""
    return result if result.ndim else result[()]


class _Known:
    """Calls of given shapes and options: `call(a, b)` or `call(a, b, out)` gives a tuple of the answer. It is a native
    builtin that knows a few types and layouts and leaves others to `_matmul`."""

    def __init__(self, made: Entry, scalar: bool) -> None:
        self.remember = made.remember
        self.call = _with_scalars(made.function) if scalar else made.function


def _with_scalars(builtin: Callable[..., tuple[Any, ...]]) -> Callable[..., tuple[Any, ...]]:
    """A builtin that answers with arrays without axes, answering with scalars where it fills no `out`."""

    def call(a: Any, b: Any, *out: Any) -> tuple[Any, ...]:
        (result,) = builtin(a, b, *out)
        return (result if out else _answer(result),)

    return call


_known: Recent[tuple[Any, ...], _Known] = Recent(SHAPES)
_remembering = threading.Lock()  # several entries may come to know one plan, which is described once


def _remember(key: tuple[Any, ...], ready: ReadyProduct, result: np.ndarray) -> None:
    """Serve calls like this one natively from now on."""
    precision, threads = key[2:]
    with _remembering:
        known = _known.get(key)
        if known is None:
            made = entry(
                lambda a, b, out=None: (_matmul(a, b, out, precision, threads),), ARENAS.main.address, ARENAS, True
            )
            if made is None:  # this interpreter's objects are not laid out as the builtin reads them
                return
            known = _Known(made, result.ndim == 0)
            _known.put(key, known)
        known.remember(ready.plan, ready.operands, [result])


def _array(name: str, x: Any) -> np.ndarray:
    try:
        return np.asarray(x)
    except ValueError as error:
        raise ShapeError(f"matmul: {name} is no array ({error}); expected rows of equal length") from error


@lru_cache(maxsize=64)
def _options(threads: int | None) -> Options:
    return Options.resolve(threads)


def _is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def _torch_matmul(a: Any, b: Any, out: Any, precision: str | None, threads: int | None) -> Any:
    left, right = _torch_array("a", a), _torch_array("b", b)
    if out is None:
        return to_torch(np.asarray(matmul(left, right, precision=precision, threads=threads)))
    target = _torch_array("out", out)
    matmul(left, right, out=target, precision=precision, threads=threads)
    if out.is_neg():  # then `target` is a copy
        out.detach().copy_(to_torch(target))
    return out


def _torch_array(name: str, x: Any) -> np.ndarray:
    if not _is_torch(x):
        raise DtypeError(
            f"matmul: {name} is {type(x).__name__}, expected a torch tensor as another operand is; convert it with "
            "torch.as_tensor"
        )
    if x.dtype is not sys.modules["torch"].bfloat16:  # which raises, at more than the price of all the rest
        try:  # the common case, at a fraction of the cost; it refuses whatever is not plain memory
            return x.numpy()
        except (RuntimeError, TypeError):
            pass
    if x.is_complex():
        raise DtypeError(f"matmul: {name} is {x.dtype}, expected a real type; multiply its parts")
    return array_of(x, f"matmul: {name}")
