"""torch tensors as NumPy arrays over the same memory, and torch's element types as this package's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.errors import DtypeError, ModelError, ShapeError

if TYPE_CHECKING:
    import torch

_CARRIERS = {1: "uint8", 2: "uint16"}  # what a float type NumPy lacks is read as


def dtype_of(dtype: torch.dtype) -> DType:
    """The element type of a torch dtype. Raises DtypeError where there is none (quantized types)."""
    name = str(dtype).removeprefix("torch.")
    try:
        return dtypes.named(name)
    except DtypeError:
        raise DtypeError(f"torch's {dtype} has no counterpart here; expected one of {_names()}") from None


def array_of(tensor: torch.Tensor, place: str) -> np.ndarray:
    """The tensor's elements without a copy, for a strided tensor in CPU memory. `place` names it in errors.

    bfloat16 and float8 come as ml_dtypes' types, complex elements as their parts along a new last axis. Raises
    ModelError for sparse tensors and other devices.
    """
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ModelError(
            f"{place}: found a {tensor.layout} tensor on {tensor.device}; expected torch.strided on cpu; "
            "call .to_dense() or .cpu() first"
        )
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    dtype = dtype_of(plain.dtype)
    if dtype.numpy.name == dtype.name and dtype.numpy.isbuiltin == 1:
        return plain.numpy()
    return plain.view(getattr(torch, _CARRIERS[dtype.bytes])).numpy().view(dtype.numpy)


def complex_view(parts: torch.Tensor) -> torch.Tensor:
    """The complex tensor whose parts lie along the last axis; it shares memory."""
    import torch

    return torch.view_as_complex(parts)


def parts_of(tensor: Any, place: str) -> torch.Tensor:
    """A complex tensor's parts along a new last axis, sharing memory. Raises DtypeError where it is not complex."""
    import torch

    tensor = torch.as_tensor(tensor)
    if not tensor.is_complex():
        raise DtypeError(f"{place}: found {tensor.dtype}, expected a complex tensor; convert it with .to(torch.cfloat)")
    return torch.view_as_real(tensor.detach().resolve_conj())


def size_of(expression: Any, symbols: dict[Any, Any]) -> Size:
    """A sympy integer expression over `symbols` (sympy symbol -> Size) as a Size. Raises ShapeError for functions
    other than sums, products and whole powers."""
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        return symbols[expression]
    parts = [size_of(part, symbols) for part in expression.args]
    if expression.is_Add:
        return sum(parts[1:], parts[0])
    if expression.is_Mul or (expression.is_Pow and isinstance(parts[1], int) and parts[1] > 0):
        factors = [parts[0]] * parts[1] if expression.is_Pow else parts  # type: ignore[operator]
        total: Size = 1
        for factor in factors:
            total = total * factor
        return total
    raise ShapeError(f"an input's size is {expression}; expected a polynomial of the named dims of dynamic_shapes")


def _names() -> str:
    return ", ".join(dtype.name for dtype in dtypes.ALL)
