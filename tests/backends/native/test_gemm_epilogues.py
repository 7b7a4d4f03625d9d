"""Every part of an epilogue on every unit this machine runs, against the expressions evaluated on exact accumulators,
bit for bit: tiles of several outputs, and the short ones that micro-kernels finish in registers."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.units import MatrixUnit
from compiler import dtypes
from compiler.dtypes import bfloat16, boolean, float16, float32, float64, int8, int32, uint8
from compiler.expr import Expr, apply, arg, cast, const
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec
from tests.backends.native.forced import FAMILIES, SPECIFIC, defined, draw, finished, name_of, use
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply

# Tiles of the generic units differ from these in their number of lanes alone; test_gemm_fences.py has short ones.
TILES = [*SPECIFIC, *(unit for unit in FAMILIES if unit.isa == "generic" and unit.a == unit.acc and unit.n <= 4)]
CASTS = (float64, float32, float16, bfloat16, int8, uint8, int32, boolean)


def requantised(x: Expr, scale: Expr, zero_point: int, target: dtypes.DType) -> Expr:
    """round(x * scale) + zero point, saturating: as quantised products end."""
    limits = np.iinfo(target.numpy)
    moved = apply("rint", x * scale) + float(zero_point)
    return cast(apply("max", apply("min", moved, const(limits.max, x.dtype)), const(limits.min, x.dtype)), target)


def parts(unit: MatrixUnit) -> tuple[Expr, ...]:
    """Over operands: 1 bias per column, 2 per row, 3 residual, 4 scale per column. The first output is the value before
    the activation, transposed; then activations, requantised to bytes; then the accumulator in every type."""
    acc = unit.acc
    before = arg(0, acc) + arg(1, acc) + arg(2, acc) + arg(3, acc)
    real = before if acc.is_float else cast(before, float32)
    scale = arg(4, real.dtype)
    scaled = real * scale
    active = (apply("max", scaled, const(0, real.dtype)), scaled * apply("normcdf", scaled))
    bytes_ = (requantised(real, scale, 3, int8), requantised(real, scale, 128, uint8))
    return (before, *active, *bytes_, *(cast(arg(0, acc), target) for target in CASTS if target != acc))


@pytest.mark.parametrize("unit", TILES, ids=name_of)
def test_all_parts_on_one_tile(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    outputs = parts(unit)
    real = unit.acc if unit.acc.is_float else float32
    kinds, classes = (unit.acc,) * 3 + (real,), (UNIT, BROADCAST, UNIT, UNIT)
    outs = (GENERAL, *(UNIT,) * (len(outputs) - 1))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, outputs, kinds, classes, outs)
    orders = [(1, 0), *[None] * (len(outputs) - 1)]
    for m, n, k in ((1, unit.n - 1, 3), (3, unit.n + 1, 2 * unit.k + 1), (9, 2 * unit.n, 5)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = [draw((n,), unit.acc), draw((m, 1), unit.acc), draw((m, n), unit.acc), draw((n,), real)]
        assert operands[2].strides[0] > n * unit.acc.bytes
        options = {"operands": operands, "epilogue": outputs, "constant": True, "symbolic": True, "depth_known": False}
        found = multiply(a, b, spec=spec, out_orders=orders, **options)
        for value, expected in zip(found, finished(outputs, defined(unit, a, b), operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("unit", SPECIFIC, ids=name_of)
def test_casts_in_registers(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole tiles, finished by the micro-kernel: the accumulator in two more types, all eight dealt out to units."""
    use(monkeypatch, unit)
    first = SPECIFIC.index(unit)
    outputs = tuple(cast(arg(0, unit.acc), CASTS[(first + offset) % len(CASTS)]) for offset in (0, 3, 6))
    a, b = draw((8, 5), unit.a), draw((5, 2 * unit.n), unit.b)
    found = multiply(a, b, epilogue=outputs, constant=True)
    for value, expected in zip(found, finished(outputs, defined(unit, a, b), ()), strict=True):
        assert_same(value, expected)


@pytest.mark.parametrize("unit", SPECIFIC, ids=name_of)
@pytest.mark.parametrize(("target", "zero_point"), [(int8, 0), (uint8, 128)])
def test_requantising_takes_ties_to_even_and_saturates(
    unit: MatrixUnit, target: dtypes.DType, zero_point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halves of every integer around a byte's range, from exact accumulators."""
    if (SPECIFIC.index(unit) % 2 == 0) != (target == int8):
        return
    use(monkeypatch, unit)
    real = unit.acc if unit.acc.is_float else float32
    before = arg(0, unit.acc) + arg(1, unit.acc)
    x = before if unit.acc.is_float else cast(before, float32)
    outputs = (requantised(x, const(0.5, real), zero_point, target),)
    halves = np.arange(-600, 600).reshape(8, 150).astype(unit.acc.numpy)
    a, b = np.zeros((8, 3), unit.a.numpy), draw((3, 150), unit.b)
    found = multiply(a, b, operands=[halves], epilogue=outputs, constant=True)[0]
    signed = halves.astype(np.float64) if unit.acc.kind != "uint" else halves.astype(np.float32).astype(np.float64)
    limits = np.iinfo(target.numpy)
    expected = np.clip(np.round(signed / 2) + zero_point, limits.min, limits.max)
    assert_same(found, expected.astype(target.numpy))
    assert {limits.min, limits.max} <= set(found.reshape(-1).tolist()) or unit.acc.kind == "uint"
