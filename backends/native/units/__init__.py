"""The matrix units, best first, and the choice among them."""

from __future__ import annotations

from backends.native.target import Target
from backends.native.units import (
    amx,
    amx_bf16x3,
    avx2,
    avx512,
    avx512_bf16,
    avx512_vnni,
    avx_vnni,
    generic,
    neon,
    sme,
    sme2,
    sve,
)
from backends.native.units.base import Grid, MatrixUnit
from compiler.dtypes import DType
from compiler.errors import DtypeError

__all__ = ["ORDERED", "Grid", "MatrixUnit", "known", "select"]

ORDERED: tuple[MatrixUnit, ...] = (
    *amx.UNITS,
    *amx_bf16x3.UNITS,
    *avx512_bf16.UNITS,
    *avx512_vnni.UNITS,
    *avx512.UNITS,
    *avx_vnni.UNITS,
    *avx2.UNITS,
    *neon.UNITS,
)


def known(target: Target) -> tuple[MatrixUnit, ...]:
    """Every unit, whether `target` runs it or not, best first; those of any vector length with the target's."""
    scalable = (*sme2.units(target.streaming), *sme.units(target.streaming), *sve.units(target.vector))
    return (*scalable, *ORDERED, *generic.units(target.vector))


def select(
    target: Target, a: DType, b: DType, acc: DType, tiles: bool = False, splits: int = 0
) -> tuple[MatrixUnit, str]:
    """The first unit that multiplies a by b into acc and runs on `target`, and why none of its architecture before it,
    nor one of any that splits operands ('' if it is the first for these types). `tiles`: whether one will do that is
    for many rows, its accumulators numbered tiles, or its order of sums its own; `splits`: into how many pieces one may
    split operands. Raises DtypeError where no unit knows the types."""
    lacking: list[str] = []
    for unit in known(target):
        if unit.architecture not in ("", target.architecture) and not unit.splits:
            continue
        if (unit.a, unit.b, unit.acc) == (a, b, acc) and unit.splits in (0, splits):
            missing = unit.missing(target)
            if not missing and (tiles or (unit.acc_type is not None and unit.in_order)):
                return unit, "; ".join(lacking)
            lacking.append(f"{unit.isa} needs {missing}" if missing else f"{unit.isa} is for tiles of {unit.m} rows")
    raise DtypeError(f"no matrix unit multiplies {a} by {b} into {acc}; cast both to float32 or float64")
