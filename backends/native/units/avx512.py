"""AVX-512 for FP32 and FP64: 32 registers of 64 bytes.

8 x 3 and 8 x 2 accumulators both reach 97 to 98% of peak reading A in place (measured on Zen 5); 14 x 2 reaches it
only on packed A, for lack of registers for 14 row addresses, and 8 divides the usual M.
"""

from __future__ import annotations

from backends.native.units.base import Grid
from backends.native.units.vector import vector_units

UNITS = vector_units("avx512", "x86_64", ("avx512f",), 64, (Grid(8, 3), Grid(8, 2), Grid(8, 1)))
