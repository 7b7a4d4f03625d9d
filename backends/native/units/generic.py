"""Any machine LLVM knows: registers as wide as the target says, few accumulators. Where the hardware has no fused
multiply-add, LLVM calls the C library's: slow, and the same bits."""

from __future__ import annotations

from functools import lru_cache

from backends.native.units.base import Grid, MatrixUnit
from backends.native.units.vector import vector_units


@lru_cache(maxsize=8)
def units(vector: int) -> tuple[MatrixUnit, ...]:
    """The FP32 and FP64 units for registers of `vector` bytes (at least one FP64 pair)."""
    return vector_units("generic", "", (), max(vector, 16), (Grid(4, 2), Grid(4, 1)))
