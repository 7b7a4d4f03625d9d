"""Running imported torch modules on the reference interpreter, and comparing them with torch itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from backends.reference.interpreter import run
from compiler.frontends.torch import ImportedTorch, load
from compiler.frontends.torch_tensors import array_of

# Largest difference from torch's own result, relative to 1 + its size. torch adds in its own order.
TOLERANCE = {
    torch.float64: 1e-13,
    torch.float32: 4e-6,
    torch.complex64: 4e-6,
    torch.bfloat16: 1e-2,
    torch.float16: 2e-3,
}


class Each(torch.nn.Module):
    """Several functions of the same tensors, their results by name: one export tests them all."""

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, *tensors: torch.Tensor) -> dict[str, Any]:
        return {name: function(*tensors) for name, function in self.functions.items()}


def call(imported: ImportedTorch, *args: Any, **kwargs: Any) -> Any:
    """The module's answer, computed by the reference interpreter."""
    inputs = imported.flatten(args, kwargs)
    outputs = run(imported.graph, [array_of(tensor, "input") for tensor in inputs])
    return imported.unflatten([to_torch(array) for array in outputs], inputs)


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A tensor with the array's elements."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.astype(np.float32)).bfloat16()
    return torch.from_numpy(np.array(array))


def assert_close(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Same type and shape, and within TOLERANCE."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape), name
    if not expected.numel():
        return
    wide = torch.complex128 if expected.is_complex() else torch.float64
    difference = (found.to(wide) - expected.to(wide)).abs() / (1 + expected.to(wide).abs())
    same = torch.isnan(found.to(wide)) & torch.isnan(expected.to(wide)) | (found == expected)
    worst = torch.where(same, 0.0, difference).max().item()
    assert worst <= TOLERANCE.get(expected.dtype, 0), f"{name}: off by {worst}"


def check_each(functions: Mapping[str, Callable[..., Any]], tensors: Sequence[torch.Tensor]) -> None:
    """Import all functions at once and compare each result with torch's."""
    module = Each(functions)
    found = call(load(module, tuple(tensors)), *tensors)
    expected = module(*tensors)
    for name in functions:
        assert_close(found[name], expected[name], name)
