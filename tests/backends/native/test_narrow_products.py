"""Products of 8- and 16-bit operands on every unit this machine can run, forced one by one: layouts, sizes, K blocks,
sums for zero points, windows; s32 exact, floats as the unit's meaning says."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest

from backends.native import gemm, units
from backends.native.blocking import Blocking
from backends.native.target import host
from backends.native.units import MatrixUnit, generic
from compiler import canonical, dtypes
from compiler.expr import Expr, arg, cast, stat
from compiler.mathlib.exact import fma32
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply

RNG = np.random.default_rng(20261128)
ALL = (*units.ORDERED, *generic.units(host().vector), *generic.units(16))
RUN_HERE = [unit for unit in ALL if unit.acc != unit.a and not unit.missing(host())]
OF_BYTES = [unit for unit in RUN_HERE if unit.acc.is_integer]
LAYOUTS = ("row", "column", "general")
KNOWN = [(1, 200, 37), (9, 33, 6)]  # a kernel each
SIZES = [
    (1, 1, 1),
    (1, 200, 37),
    (2, 5, 3),
    (7, 48, 64),
    (9, 33, 5),
    (8, 96, 8),
    (21, 50, 131),
    (3, 17, 0),
    (50, 130, 66),
]


def name_of(unit: MatrixUnit) -> str:
    return f"{unit.name}x{unit.n}"


def draw(shape: Sequence[int], dtype: dtypes.DType, layout: str = "row") -> np.ndarray:
    """Random elements, of an integer's whole range or of order one, the last two axes laid out as asked."""
    if layout == "general":
        return draw((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        values = RNG.integers(limits.min, limits.max + 1, shape).astype(dtype.numpy)
    else:
        values = RNG.standard_normal(shape).astype(dtype.numpy)
    return values if layout == "row" else np.ascontiguousarray(values.swapaxes(-1, -2)).swapaxes(-1, -2)


def product(unit: MatrixUnit, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The defined result: exact in 32 bits, or one chain in FP32 (no denormals here)."""
    if unit.acc.is_integer:
        return a.astype(np.int32) @ b.astype(np.int32)
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    a, b = a.astype(np.float32), b.astype(np.float32)
    for k in canonical.product_order(unit.a, a.shape[1]):
        total = fma32(*np.broadcast_arrays(a[:, k, None], b[k], total))
    return total


def use(monkeypatch: pytest.MonkeyPatch, unit: MatrixUnit) -> None:
    """Let the engine take this unit."""
    monkeypatch.setattr(gemm, "select_unit", lambda *_: (unit, ""))


@pytest.mark.parametrize("unit", RUN_HERE, ids=name_of)
def test_sizes_layouts_and_forms(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for m, n, k in SIZES:
        for a_layout, b_layout in zip(LAYOUTS, (*LAYOUTS[1:], LAYOUTS[0]), strict=True):
            a, b = draw((m, k), unit.a, a_layout), draw((k, n), unit.b, b_layout)
            expected = product(unit, a, b)
            for constant in (False, True):
                assert_same(multiply(a, b, constant=constant, symbolic=True)[0], expected)
    for m, n, k in KNOWN:
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        for constant in (False, True):
            assert_same(multiply(a, b, constant=constant)[0], product(unit, a, b))


@pytest.mark.parametrize("unit", RUN_HERE, ids=name_of)
@pytest.mark.parametrize("constant", [False, True])
def test_no_cut_changes_a_bit(unit: MatrixUnit, constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    a, b = draw((37, 75), unit.a), draw((75, 131), unit.b)
    expected = product(unit, a, b)
    height, width = unit.grids[0].rows * unit.m, unit.grid(131).columns * unit.n
    for rows, columns, depth, keeps in ((1, 1, 8, True), (2, 2, 76, True), (5, 3, 24, True), (9, 9, 75, False)):
        cut = Blocking(rows * height, columns * width, height, depth, 1, True, keeps)
        if not keeps:
            cut = Blocking(64, columns * width, 64, depth, 2, True, False)
        monkeypatch.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
        assert_same(multiply(a, b, constant=constant)[0], expected)


@pytest.mark.parametrize("unit", RUN_HERE, ids=name_of)
def test_batches_broadcast(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for a_batch, b_batch in (((3,), (3,)), ((4,), (1,)), ((2, 3), (2, 1))):
        a, b = draw((*a_batch, 9, 11), unit.a), draw((*b_batch, 11, 19), unit.b)
        shape = np.broadcast_shapes(a_batch, b_batch)
        pairs = np.broadcast_to(a, (*shape, 9, 11)), np.broadcast_to(b, (*shape, 11, 19))
        expected = np.stack([product(unit, *(x[at] for x in pairs)) for at in np.ndindex(*shape)])
        for constant, threads in itertools.product((False, True), (1, 2)):
            found = multiply(a, b, constant=constant, threads=threads)[0]
            assert_same(found, expected.reshape(*shape, 9, 19))


def zero_point_epilogue(unit: MatrixUnit) -> tuple[Expr, ...]:
    """The product of operands less their zero points (operands 1 and 2), from the plain product."""
    acc = unit.acc
    za, zb = cast(arg(1, unit.a), acc), cast(arg(2, unit.b), acc)
    depth = Expr("extent", acc)
    return (arg(0, acc) - za * stat(1, acc) - zb * stat(0, acc) + depth * za * zb,)


@pytest.mark.parametrize("unit", OF_BYTES, ids=name_of)
@pytest.mark.parametrize("per", ["tensor", "row and column"])
def test_zero_points_from_sums(unit: MatrixUnit, per: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for m, n, k in SIZES:
        for a_layout, b_layout in (("row", "row"), ("column", "column")):
            a, b = draw((m, k), unit.a, a_layout), draw((k, n), unit.b, b_layout)
            za = draw((m, 1) if per != "tensor" else (1, 1), unit.a)
            zb = draw((1, n) if per != "tensor" else (1, 1), unit.b)
            expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
            options = {"operands": [za, zb], "epilogue": zero_point_epilogue(unit)}
            for constant in (False, True):
                assert_same(multiply(a, b, constant=constant, symbolic=True, **options)[0], expected)


@pytest.mark.parametrize("unit", OF_BYTES, ids=name_of)
@pytest.mark.parametrize("constant", [False, True])
def test_sums_over_blocks_of_k(unit: MatrixUnit, constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    a, b, za, zb = draw((19, 70), unit.a), draw((70, 90), unit.b), draw((19, 1), unit.a), draw((1, 90), unit.b)
    expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
    cut = Blocking(16, 96, 8, 24, 1, True, True)
    monkeypatch.setattr(gemm, "blocking", lambda *_: cut)
    found = multiply(a, b, operands=[za, zb], epilogue=zero_point_epilogue(unit), constant=constant)[0]
    assert_same(found, expected)


@pytest.mark.parametrize("unit", RUN_HERE, ids=name_of)
@pytest.mark.parametrize("channels", [3, 16, 20])
def test_windows(unit: MatrixUnit, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    operands, epilogue, fill = [], (), 0
    pad = np.zeros((), x.dtype)
    if unit.acc.is_integer:
        pad = draw((1, 1), unit.a)
        operands, epilogue, fill = [pad, draw((1, 21), unit.b)], zero_point_epilogue(unit), 1
    padded = np.full((2, 8, 7, channels), pad.reshape(()), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    if unit.acc.is_integer:
        expected = (columns.astype(np.int32) - operands[0]) @ (b.astype(np.int32) - operands[1])
    else:
        expected = product(unit, columns, b)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    options = {"operands": operands, "epilogue": epilogue, "fill": fill, "params": params}
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), **options)[0]
    assert_same(found, expected)


def test_denormals_of_pairs_are_taken_and_given_as_the_unit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = np.float32(2.0**-130)
    for unit in RUN_HERE:
        if unit.a != dtypes.bfloat16:
            continue
        use(monkeypatch, unit)
        a = np.array([[tiny, 1, 2.0**-70, tiny]], ml_dtypes.bfloat16)
        b = np.array([[1], [tiny], [2.0**-64], [2.0**8]], ml_dtypes.bfloat16)
        expected = np.zeros((1, 1), np.float32)
        for k in (0, 2):
            expected = unit.emulate(expected, a[:, k : k + 2], b[k : k + 2])
        assert_same(multiply(a, b, constant=True)[0], expected)
