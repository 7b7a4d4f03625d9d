"""The tile units through the whole GEMM engine, executed instruction by instruction by the trap: their bits are those
of `emulate`, their products as many as the shape needs, and no tile comes from outside operands, panels and scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from backends.native import gemm
from backends.native import target as machine_target
from backends.native.blocking import Blocking
from backends.native.target import Target, host
from backends.native.units import MatrixUnit, amx_bf16x3
from backends.native.units import amx as tiles
from bench.peak import PeakLoop
from compiler.canonical import PRODUCT_CHUNK
from compiler.dtypes import uint8
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec
from tests.backends.native import harness
from tests.backends.native.forced import Form, defined, draw, finished, use, zero_points
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply
from tests.backends.native.test_gemm_epilogues import parts
from tests.emulation.amx import Emulator

FEATURES = frozenset(feature for unit in tiles.UNITS for feature in unit.requires)
BF16, FP16, *INT8 = tiles.UNITS
(SPLIT,) = amx_bf16x3.UNITS
EVERY = (*tiles.UNITS, SPLIT)
PRODUCTS = {BF16.name: "TDPBF16PS", FP16.name: "TDPFP16PS", SPLIT.name: "TDPBF16PS"} | {
    unit.name: f"TDPB{'SU'[unit.a == uint8]}{'SU'[unit.b == uint8]}D" for unit in INT8
}
PLAIN, FRESH = Form("row", "row", constant=True), Form("row", "row", epilogue="direct")
LAYOUTS = (
    FRESH, Form("row", "row", constant=True, epilogue="direct"),
    Form("column", "column", epilogue="tile"), Form("general", "general"),
)  # fmt: skip

Product = Callable[..., tuple[np.ndarray, ...]]

every_unit = pytest.mark.parametrize("unit", EVERY, ids=lambda unit: unit.name)
one_each = pytest.mark.parametrize("unit", (BF16, FP16, SPLIT, INT8[1]), ids=lambda unit: unit.name)
of_bytes = pytest.mark.parametrize("unit", INT8, ids=lambda unit: unit.name)


@pytest.fixture
def machine(amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> Target:
    """This machine with tiles, that may come from its scratch memory."""

    def scratch(size: int) -> np.ndarray:
        memory = np.full(size, 0xFF, np.uint8)
        amx.ranges.add(memory, writable=True)
        return memory

    with_tiles = replace(host(), features=host().features | FEATURES)
    monkeypatch.setattr(machine_target, "host", lambda: with_tiles)
    monkeypatch.setattr(harness, "poisoned", scratch)
    return with_tiles


@pytest.fixture
def product(machine: Target, amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> Product:
    """A form's product, or any that `multiply` makes, on a unit, checked for tiles from elsewhere and, of one matrix or
    a batch, for the number of products."""

    def run(unit: MatrixUnit, a: np.ndarray, b: np.ndarray, form: Form | None = None, operands=(), **how):
        use(monkeypatch, unit)
        amx.reset()
        amx.ranges.clear()
        amx.ranges.add(a)
        if not (form.constant if form else how.get("constant")):
            amx.ranges.add(b)

        def place(array: np.ndarray) -> np.ndarray:
            amx.ranges.add(array)
            return array

        how |= {"target": machine, "place": place}
        found = form.run(unit, a, b, operands, **how) if form else multiply(a, b, operands=operands, **how)
        counts, name = amx.counters(), PRODUCTS[unit.name]
        if form:
            assert counts[name] == int(np.prod(b.shape[:-2])) * needed(unit, a.shape[-2], b.shape[-1], a.shape[-1])
        assert sum(counts[other] for other in {*PRODUCTS.values()}) == counts[name]
        assert amx.violations() == []
        assert amx.configured_threads == 0
        return found

    return run


def needed(unit: MatrixUnit, m: int, n: int, k: int) -> int:
    """Products of tiles, six of pieces each where operands are split."""
    return -(-m // unit.m) * -(-n // unit.n) * -(-k // unit.k) * (6 if unit.splits else 1)


def shares(extent: int, size: int) -> list[int]:
    """`extent` in parts of `size`, in tiles."""
    return [-(-min(size, extent - start) // 16) for start in range(0, extent, size)]


@every_unit
def test_every_tail_and_every_pair_of_signs(unit: MatrixUnit, product: Product) -> None:
    for m in (1, 5, 16, 17, 31, 32, 33, 50):
        for n, k in ((33, unit.k + 1), (1, 1), (16, unit.k), (32, 2 * unit.k), (65, 3 * unit.k - 1)):
            a, b = draw((m, k), unit.a), draw((k, n), unit.b)
            assert_same(product(unit, a, b, PLAIN)[0], defined(unit, a, b))
    nothing = draw((20, 0), unit.a), draw((0, 20), unit.b)
    assert_same(product(unit, *nothing, PLAIN)[0], np.zeros((20, 20), unit.acc.numpy))


@one_each
def test_known_extents_take_the_widest_grids(unit: MatrixUnit, product: Product, amx: Emulator) -> None:
    """18 rows behind a multiple of 32 are a grid of two rows of tiles, the second with 2 rows: a step loads as many
    tiles as a grid has rows and columns, of pieces the first ones of A twice."""
    k, of_a, of_b = 2 * unit.k, (4 if unit.splits else 1), (3 if unit.splits else 1)
    for m, n in ((50, 48), (18, 16), (16, 40), (3, 5)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        assert_same(product(unit, a, b, constant=True)[0], defined(unit, a, b))
        counts = amx.counters()
        assert counts[PRODUCTS[unit.name]] == needed(unit, m, n, k)
        width = 32 if n > 16 else 16
        assert counts["TILELOADD"] == sum(
            2 * (of_a * rows + of_b * columns) for rows in shares(m, 32) for columns in shares(n, width)
        )


@one_each
@pytest.mark.parametrize("form", LAYOUTS, ids=str)
def test_layouts_and_epilogues(form: Form, unit: MatrixUnit, product: Product) -> None:
    for m, n, k in ((17, 33, unit.k + 3), (34, 16, 2 * unit.k)):
        a, b = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b)
        operands = form.operands(unit, m, n)
        every = product(unit, a, b, form, operands, threads=2)
        for found, expected in zip(every, form.expected(unit, a, b, operands), strict=True):
            assert_same(found, expected)


@one_each
def test_all_parts_of_an_epilogue(unit: MatrixUnit, product: Product) -> None:
    """Biases, residual, activations, requantised bytes and casts, the first of many outputs transposed."""
    outputs, m, n, k = parts(unit), 19, 40, unit.k + 5
    real = outputs[1].dtype
    kinds, classes = (unit.acc,) * 3 + (real,), (UNIT, BROADCAST, UNIT, UNIT)
    outs = (GENERAL, *(UNIT,) * (len(outputs) - 1))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, outputs, kinds, classes, outs)
    a, b = draw((m, k), unit.a), draw((k, n), unit.b)
    operands = [draw((n,), unit.acc), draw((m, 1), unit.acc), draw((m, n), unit.acc), draw((n,), real)]
    orders = [(1, 0), *[None] * (len(outputs) - 1)]
    every = product(unit, a, b, None, operands, epilogue=outputs, constant=True, spec=spec, out_orders=orders)
    for found, expected in zip(every, finished(outputs, defined(unit, a, b), operands), strict=True):
        assert_same(found, expected)


@one_each
@pytest.mark.parametrize("form", [PLAIN, FRESH], ids=str)
def test_cuts_do_not_show(form: Form, unit: MatrixUnit, product: Product, monkeypatch: pytest.MonkeyPatch) -> None:
    """K blocks resume from stored tiles; row blocks, items and threads part the tails."""
    m, n, k = 83, 70, 3 * unit.k + 2
    a, b, operands = draw((m, k), unit.a), draw((k, n), unit.b), form.operands(unit, m, n)
    expected = form.expected(unit, a, b, operands)[0]
    fresh = not form.constant
    for cut in (
        Blocking(96, 96, 32, unit.k, 1, fresh, fresh),
        Blocking(64, 32, 64, 2 * unit.k, 2, fresh, False),
        Blocking(32, 64, 32, k, 1, fresh, False),
    ):
        monkeypatch.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
        assert_same(product(unit, a, b, form, operands)[0], expected)


@pytest.mark.parametrize("unit", [BF16, FP16], ids=lambda unit: unit.name)
def test_chains_end_after_their_chunk(unit: MatrixUnit, product: Product) -> None:
    """And their sums are added up in scratch, also those of tiles with few rows."""
    k = PRODUCT_CHUNK + unit.k + 1
    a, b = draw((18, k), unit.a), draw((k, 20), unit.b)
    assert_same(product(unit, a, b, FRESH, FRESH.neutral(unit, 18, 20))[0], defined(unit, a, b))


@one_each
def test_batches(unit: MatrixUnit, product: Product) -> None:
    a, b = draw((3, 18, 40), unit.a), draw((3, 40, 17), unit.b)
    found = product(unit, a, b, PLAIN)[0]
    for index in range(3):
        assert_same(found[index], defined(unit, a[index], b[index]))


@of_bytes
@pytest.mark.parametrize("constant", [False, True])
def test_zero_points_from_sums(unit: MatrixUnit, constant: bool, product: Product) -> None:
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    spec = GemmSpec(*kinds, unit.acc, 0, "row", "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
    options = {"epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True, "depth_known": False}
    for m, n, k in ((20, 45, 70), (6, 16, 64)):
        a, b, za, zb = draw((m, k), unit.a), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
        expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
        assert_same(product(unit, a, b, None, [za, zb], **options)[0], expected)


@one_each
@pytest.mark.parametrize("channels", [3, 20, 64])
def test_windows_are_gathered(unit: MatrixUnit, channels: int, product: Product) -> None:
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    padded = np.zeros((2, 8, 7, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    found = product(unit, x, b, constant=True, window=2, shape=(60, 21), params=params)[0]
    assert_same(found, defined(unit, columns, b))


@one_each
@pytest.mark.parametrize("constant", [False, True])
def test_groups_of_rows(unit: MatrixUnit, constant: bool, product: Product) -> None:
    a, b = draw((61, 40), unit.a), draw((5, 40, 33), unit.b)
    for ends in ((8, 8, 41, 44, 61), (0, 0, 17, 17, 50)):
        expected = np.zeros((61, 33), unit.acc.numpy)
        for matrix, start, stop in zip(b, (0, *ends), ends, strict=False):
            expected[start:stop] = defined(unit, a[start:stop], matrix)
        assert_same(product(unit, a, b, constant=constant, ends=np.array(ends), threads=2)[0], expected)


@pytest.mark.parametrize("unit", [BF16, FP16], ids=lambda unit: unit.name)
def test_denormals_infinities_and_nans(unit: MatrixUnit, product: Product) -> None:
    """BF16 denormals count as 0, FP16 ones do not, those of FP32 nowhere; padding meets neither infinities nor NaNs."""
    kind = unit.a.numpy
    tiny, least = ml_dtypes.finfo(kind).tiny, ml_dtypes.finfo(kind).smallest_subnormal
    values = np.array([0, -0.0, 1, tiny, least, -least, np.inf, -np.inf, np.nan, 3e-4], kind)
    chances = np.array([6, 4, 8, 3, 3, 3, 0.1, 0.1, 0.1, 4])
    rng = np.random.default_rng(11)
    a, b = (rng.choice(values, shape, p=chances / chances.sum()) for shape in ((21, unit.k + 6), (unit.k + 6, 19)))
    expected = defined(unit, a, b)
    assert np.isnan(expected).any() and np.isfinite(expected).any()
    assert_same(product(unit, a, b, PLAIN)[0], expected)
    small = np.full((5, 4), 2.0**-63 if unit is BF16 else tiny, kind)  # products are denormals of FP32 in bfloat16
    assert_same(product(unit, small, small.T, PLAIN)[0], defined(unit, small, small.T))


@every_unit
def test_the_peak_loop_multiplies_in_every_step(unit: MatrixUnit, machine: Target, amx: Emulator) -> None:
    loop = PeakLoop(unit, machine)
    amx.ranges.clear()
    amx.reset()
    loop(7)
    assert amx.counters()[PRODUCTS[unit.name]] == 7 * loop.products * (6 if unit.splits else 1)
    assert loop.products == 4
    assert amx.configured_threads == 0
