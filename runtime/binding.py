"""What a caller passes to a program, checked and turned into arrays that kernels can read in place."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.errors import DtypeError, ModelError, ShapeError
from compiler.frontends.torch_tensors import array_of
from compiler.ir import Value
from compiler.types import TensorType


@dataclass(frozen=True)
class Spec:
    """An input or output of a program. `shape` has numbers, and names where a size may vary from call to call; None
    where not even the rank is fixed. `dtype` is None, and `type` says more, for what is no tensor. `limits`: axes whose
    size must lie in a range, each with the least and the greatest (None: any) size."""

    name: str
    dtype: np.dtype | None
    shape: tuple[int | str, ...] | None
    type: str
    limits: tuple[tuple[int, int, int | None], ...] = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.type}"


def spec_of(
    value: Value, name: str, size_names: Mapping[str, str], ranges: Mapping[str, tuple[int, int | None]] | None = None
) -> Spec:
    """The spec of a graph's input or output, which the user calls `name`. ranges: least and greatest of named sizes."""
    type = value.type
    if not isinstance(type, TensorType):
        return Spec(name, None, None, str(type))
    if type.shape is None:
        return Spec(name, type.dtype.numpy, None, str(type))
    shape = tuple(size if isinstance(size, int) else size_names.get(str(size), str(size)) for size in type.shape)
    named = ((axis, str(size)) for axis, size in enumerate(type.shape))
    limits = tuple((axis, *ranges[size]) for axis, size in named if ranges and size in ranges)
    return Spec(name, type.dtype.numpy, shape, f"{type.dtype}[{', '.join(map(str, shape))}]", limits)


def in_order(specs: Sequence[Spec], positional: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
    """One value for each input. Raises ModelError for values too many, missing, given twice, or of unknown name."""
    expected = ", ".join(spec.name for spec in specs) or "none"
    if len(positional) > len(specs):
        raise ModelError(f"{len(positional)} inputs given, expected at most {len(specs)}: {expected}")
    names = [spec.name for spec in specs]
    for name in named:
        if name not in names:
            raise ModelError(f"no input is called {name!r}; expected {expected}")
        if name in names[: len(positional)]:
            raise ModelError(f"input {name!r} is given twice, by position and by name")
    missing = [name for name in names[len(positional) :] if name not in named]
    if missing:
        raise ModelError(f"input {', '.join(map(repr, missing))} is missing; expected {expected}")
    return [*positional, *(named[name] for name in names[len(positional) :])]


def to_array(value: Any, spec: Spec, hint: str = "") -> Any:
    """An input as a C-contiguous, aligned array in native byte order; the same memory where it is one already.

    torch tensors share memory (detached; lazily negated or conjugated views are resolved). Raises DtypeError for
    another element type, ShapeError for another rank or fixed size (`hint` says what to do about that one).
    """
    if spec.dtype is None:  # a sequence or optional, for Host steps
        return value
    array = _as_numpy(value, spec)
    if array.dtype != spec.dtype:
        array = _native(array, spec)
    if spec.shape is not None:
        _check_shape(array.shape, spec, hint)
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy(order="C")


def _as_numpy(value: Any, spec: Spec) -> np.ndarray:
    if type(value) is np.ndarray:
        return value
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        try:  # the common case, at a tenth of the cost; it refuses whatever is not plain memory
            return value.numpy()
        except (RuntimeError, TypeError):
            return array_of(value, f"input {spec.name!r}")
    if value is None:
        raise ModelError(f"input {spec.name!r} is None, expected {spec.type}")
    return np.asarray(value)


def _native(array: np.ndarray, spec: Spec) -> np.ndarray:
    """An array whose dtype is not the very one wanted: of another byte order, strings, or wrong."""
    if spec.dtype == object and array.dtype.kind in "SUT":
        return array.astype(object)
    swapped = array.dtype.newbyteorder("=")
    if swapped == spec.dtype:
        return array.astype(swapped)
    raise DtypeError(
        f"input {spec.name!r}: found {_name(array.dtype)}, expected {spec.type}; convert it with .astype({spec.dtype})"
    )


def _name(dtype: np.dtype) -> str:
    if dtype.hasobject:
        return "Python objects"
    try:
        return dtypes.from_numpy(dtype).name
    except DtypeError:
        return str(dtype)


def _check_shape(shape: tuple[int, ...], spec: Spec, hint: str) -> None:
    assert spec.shape is not None
    if len(shape) != len(spec.shape):
        raise ShapeError(
            f"input {spec.name!r}: found shape {list(shape)} of rank {len(shape)}, expected {spec.type} of rank "
            f"{len(spec.shape)}"
        )
    for axis, (found, expected) in enumerate(zip(shape, spec.shape, strict=True)):
        if isinstance(expected, int) and found != expected:
            advice = f"; {hint}" if hint else ""
            raise ShapeError(f"input {spec.name!r}: axis {axis} is {found}, expected {expected} ({spec.type}){advice}")
    for axis, low, high in spec.limits:
        if shape[axis] < low or (high is not None and shape[axis] > high):
            within = f"at least {low}" if high is None else f"{low} to {high}"
            raise ShapeError(
                f"input {spec.name!r}: axis {axis} ({spec.shape[axis]}) is {shape[axis]}, expected {within}: its Dim "
                "or the module itself allows no other size"
            )


def to_torch(array: Any) -> Any:
    """A fresh array as a torch tensor over the same memory (what is no array as it is)."""
    import torch

    if not isinstance(array, np.ndarray):
        return array
    if array.dtype.isbuiltin == 1:
        return torch.from_numpy(array)
    carrier = np.dtype(f"u{array.dtype.itemsize}")
    return torch.from_numpy(array.view(carrier)).view(getattr(torch, array.dtype.name))
