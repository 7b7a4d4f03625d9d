"""AVX-VNNI: fours of bytes in registers of 32 bytes, on machines without AVX-512."""

from __future__ import annotations

from backends.native.units.avx2 import GRIDS
from backends.native.units.dot import byte_dot_units

UNITS = byte_dot_units("avx_vnni", ("avx2", "avxvnni"), 32, GRIDS, "llvm.x86.avx512.vpdpbusd.256")
