"""Element types: one frozen record each, with its NumPy storage type.

Types NumPy lacks (bfloat16, float8, int4) are ml_dtypes' scalars; one element per storage byte for the
sub-byte integers. `string` is a NumPy object array and never reaches a kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import ml_dtypes
import numpy as np

from compiler.errors import DtypeError


@dataclass(frozen=True, repr=False)
class DType:
    """An element type. `kind` is one of float, int, uint, bool, complex, string; `bits` its logical width."""

    name: str
    kind: str
    bits: int

    @cached_property
    def numpy(self) -> np.dtype:
        """The NumPy dtype of one stored element."""
        if self.kind == "string":
            return np.dtype(object)
        return np.dtype(getattr(ml_dtypes, self.name, None) or self.name)

    @property
    def bytes(self) -> int:
        """Bytes one element takes in memory (sub-byte types take a whole byte each)."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    def __str__(self) -> str:
        return self.name

    __repr__ = __str__

    def __hash__(self) -> int:
        return hash(self.name)


float64 = DType("float64", "float", 64)
float32 = DType("float32", "float", 32)
float16 = DType("float16", "float", 16)
bfloat16 = DType("bfloat16", "float", 16)
float8_e4m3fn = DType("float8_e4m3fn", "float", 8)
float8_e4m3fnuz = DType("float8_e4m3fnuz", "float", 8)
float8_e5m2 = DType("float8_e5m2", "float", 8)
float8_e5m2fnuz = DType("float8_e5m2fnuz", "float", 8)
float8_e8m0fnu = DType("float8_e8m0fnu", "float", 8)
float6_e2m3fn = DType("float6_e2m3fn", "float", 6)
float6_e3m2fn = DType("float6_e3m2fn", "float", 6)
float4_e2m1fn = DType("float4_e2m1fn", "float", 4)
int64 = DType("int64", "int", 64)
int32 = DType("int32", "int", 32)
int16 = DType("int16", "int", 16)
int8 = DType("int8", "int", 8)
int4 = DType("int4", "int", 4)
int2 = DType("int2", "int", 2)
uint64 = DType("uint64", "uint", 64)
uint32 = DType("uint32", "uint", 32)
uint16 = DType("uint16", "uint", 16)
uint8 = DType("uint8", "uint", 8)
uint4 = DType("uint4", "uint", 4)
uint2 = DType("uint2", "uint", 2)
boolean = DType("bool", "bool", 8)
complex64 = DType("complex64", "complex", 64)
complex128 = DType("complex128", "complex", 128)
string = DType("string", "string", 64)

ALL = (
    float64, float32, float16, bfloat16,
    float8_e4m3fn, float8_e4m3fnuz, float8_e5m2, float8_e5m2fnuz, float8_e8m0fnu,
    float6_e2m3fn, float6_e3m2fn, float4_e2m1fn,
    int64, int32, int16, int8, int4, int2,
    uint64, uint32, uint16, uint8, uint4, uint2,
    boolean, complex64, complex128, string,
)  # fmt: skip
_BY_NAME = {dtype.name: dtype for dtype in ALL}


def named(name: str) -> DType:
    """The element type called `name` (as in `str(dtype)`). Raises DtypeError for any other word."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise DtypeError(f"unknown element type {name!r}; expected one of {', '.join(_BY_NAME)}") from None


@lru_cache(maxsize=256)
def from_numpy(dtype: np.dtype) -> DType:
    """The element type stored by a NumPy dtype, of either byte order. Raises DtypeError if there is none."""
    if dtype.kind in "OSUT":
        return string
    found = _BY_NAME.get(dtype.name)
    if found is None:
        raise DtypeError(f"no element type stores NumPy's {dtype}; expected one of {', '.join(_BY_NAME)}")
    return found
