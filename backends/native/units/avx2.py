"""AVX2 with FMA: 16 registers of 32 bytes, 12 of them accumulators. FP32, FP64 and, widened to them, 16-bit floats;
bytes as pairs of words (the instruction for bytes themselves saturates)."""

from __future__ import annotations

from backends.native.units.base import Grid
from backends.native.units.dot import word_dot_units
from backends.native.units.vector import BYTES, vector_units

GRIDS = (Grid(4, 3), Grid(4, 2), Grid(4, 1))
REQUIRES = ("avx2", "fma", "f16c")
UNITS = (
    *word_dot_units("avx2", REQUIRES, 32, (Grid(4, 2), Grid(4, 1)), "llvm.x86.avx2.pmadd.wd"),
    *(unit for unit in vector_units("avx2", "x86_64", REQUIRES, 32, GRIDS) if unit.a not in BYTES),
)
