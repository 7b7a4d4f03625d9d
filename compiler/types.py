"""Types of values: tensors with symbolic shapes, and ONNX's sequence and optional containers of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.dtypes import DType


@dataclass(frozen=True)
class TensorType:
    """A tensor's element type and shape; `shape` is None where even the rank is unknown."""

    dtype: DType
    shape: tuple[Size, ...] | None

    @property
    def rank(self) -> int:
        """Number of axes. The rank must be known."""
        assert self.shape is not None, "rank asked of a tensor of unknown rank"
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every extent is a number."""
        return self.shape is not None and dims.is_static(self.shape)

    @property
    def elements(self) -> Size:
        """Number of elements. The rank must be known."""
        assert self.shape is not None, "size asked of a tensor of unknown rank"
        return dims.product(self.shape)

    def __str__(self) -> str:
        inner = "*unknown rank*" if self.shape is None else ", ".join(str(size) for size in self.shape)
        return f"{self.dtype}[{inner}]"


@dataclass(frozen=True)
class SequenceType:
    """A list of values of one type (ONNX sequence); lives only in Host steps."""

    element: ValueType | None

    def __str__(self) -> str:
        return f"sequence({self.element})"


@dataclass(frozen=True)
class OptionalType:
    """A value or nothing (ONNX optional); lives only in Host steps."""

    element: ValueType | None

    def __str__(self) -> str:
        return f"optional({self.element})"


ValueType = TensorType | SequenceType | OptionalType


def of_array(array: np.ndarray) -> TensorType:
    """The type of a NumPy array."""
    return TensorType(dtypes.from_numpy(array.dtype), tuple(array.shape))


def contiguous_strides(shape: Sequence[Size]) -> tuple[Size, ...]:
    """Row-major strides in elements of a dense tensor of `shape`."""
    strides: list[Size] = []
    step: Size = 1
    for size in reversed(shape):
        strides.append(step)
        step = step * size
    return tuple(reversed(strides))
