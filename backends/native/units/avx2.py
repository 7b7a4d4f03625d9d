"""AVX2 with FMA for FP32 and FP64: 16 registers of 32 bytes, 12 of them accumulators."""

from __future__ import annotations

from backends.native.units.base import Grid
from backends.native.units.vector import vector_units

UNITS = vector_units("avx2", "x86_64", ("avx2", "fma"), 32, (Grid(4, 3), Grid(4, 2), Grid(4, 1)))
