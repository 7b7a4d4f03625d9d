"""AVX-512 BF16: pairs of bfloat16 in registers of 64 bytes."""

from __future__ import annotations

from backends.native.units.avx512 import GRIDS
from backends.native.units.dot import bfloat_dot_unit

PRODUCT = "llvm.x86.avx512bf16.dpbf16ps.512"
NARROWING = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
UNITS = (bfloat_dot_unit("avx512_bf16", ("avx512f", "avx512bf16"), 64, GRIDS, PRODUCT, NARROWING),)
