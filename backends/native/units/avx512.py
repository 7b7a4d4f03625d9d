"""AVX-512: 32 registers of 64 bytes. FP32, FP64 and, widened to them, everything else; bytes as pairs of words.

8 x 3 and 8 x 2 accumulators both reach 97 to 98% of peak reading A in place (measured on Zen 5); 14 x 2 reaches it
only on packed A, for lack of registers for 14 row addresses, and 8 divides the usual M.
"""

from __future__ import annotations

from backends.native.units.base import Grid
from backends.native.units.dot import word_dot_units
from backends.native.units.vector import vector_units

GRIDS = (Grid(8, 3), Grid(8, 2), Grid(8, 1))
UNITS = (
    *word_dot_units("avx512bw", ("avx512bw",), 64, (Grid(8, 2), Grid(8, 1)), "llvm.x86.avx512.pmaddw.d.512"),
    *vector_units("avx512", "x86_64", ("avx512f",), 64, GRIDS),
)
