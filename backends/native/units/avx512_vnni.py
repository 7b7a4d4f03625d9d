"""AVX-512 VNNI: fours of bytes in registers of 64 bytes."""

from __future__ import annotations

from backends.native.units.avx512 import GRIDS
from backends.native.units.dot import byte_dot_units

UNITS = byte_dot_units("avx512_vnni", ("avx512f", "avx512vnni"), 64, GRIDS, "llvm.x86.avx512.vpdpbusd.512")
