"""Products with B stored as codes, forced on every unit of floats: the bits of the dequantized product whatever codes,
groups, zero points, rows, cuts and threads; nothing beside operands is read or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.target import host
from backends.native.units import MatrixUnit
from compiler import dtypes
from compiler.dims import symbol
from compiler.dtypes import DType
from compiler.expr import arg
from compiler.kernels import UNIT, GemmSpec, KernelCall
from compiler.ops.core_blocks import CODES, dequantized
from tests.backends.native import harness
from tests.backends.native.forced import FAMILIES, defined, draw, finished, name_of, use
from tests.backends.native.harness import assert_same
from tests.backends.native.pages import at_page_end, at_page_start

UNITS = [unit for unit in FAMILIES if unit.a.is_float and unit.a.bits <= 32]
WIDEST = [unit for unit in UNITS if unit.isa != "generic"]
RNG = np.random.default_rng(20261129)

SIZES = [(1, 1, 1), (1, 200, 37), (2, 96, 64), (3, 53, 33), (4, 50, 130), (5, 17, 3), (8, 96, 48), (20, 130, 70)]


def coded(k: int, n: int, group: int, codes: DType, zeros: DType | None) -> tuple[np.ndarray, ...]:
    """Random codes [K, N], scales and, if asked for, zero points."""

    def whole(shape: tuple[int, int], kind: DType) -> np.ndarray:
        if kind.is_float:
            return RNG.uniform(-3, 3, shape).astype(kind.numpy)
        low = -(1 << kind.bits - 1) if kind.kind == "int" else 0
        return RNG.integers(low, low + (1 << kind.bits), shape).astype(kind.numpy)

    groups = -(-k // group), n
    scales = RNG.uniform(-0.1, 0.1, groups).astype(np.float32)
    return (whole((k, n), codes), scales, *([] if zeros is None else [whole(groups, zeros)]))


def spec_of(unit: MatrixUnit, codes: DType, zeros: DType | None, finishes: bool = False, batch: int = 0) -> GemmSpec:
    """With an epilogue of a column's and an element's operand, or none."""
    acc = unit.acc
    epilogue = ((arg(0, acc) + arg(1, acc)) * arg(2, acc),) if finishes else ()
    kinds, classes = ((acc, acc), (UNIT, UNIT)) if finishes else ((), ())
    spec = GemmSpec(unit.a, unit.b, acc, batch, "row", "row", True, epilogue, kinds, classes, (UNIT,))
    return replace(spec, codes=codes, zeros=zeros)


def multiply(
    spec: GemmSpec,
    a: np.ndarray,
    weights: Sequence[np.ndarray],
    group: int,
    operands: Sequence[np.ndarray] = (),
    known: bool = False,
    threads: int = 1,
    place: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Run the product, by a kernel that knows M and N if asked to; `place` puts everything where it shall lie."""
    codes, *parameters = weights
    shape = (*a.shape[:-1], codes.shape[1])
    out, guards = harness.guarded(shape, spec.acc.numpy, None)
    out = place(out) if place else out
    extras = [np.broadcast_to(o, shape) for o in operands]
    arrays = [place(a) if place else a, codes, *extras, *parameters, out]
    views = [harness.view_of(array, f"b{i}") for i, array in enumerate(arrays)]
    call = KernelCall(spec, tuple(views[:-1]), (views[-1],), (group,))
    unknown = (*shape[:-2], symbol("m"), symbol("n"))
    asked = call if known else replace(call, writes=(replace(views[-1], shape=unknown),))
    kernel = _kernel(gemm.select(asked, host()))
    for read in kernel.packed_reads(call):
        panels = kernel.pack(call, read, arrays[read])
        arrays[read] = place(panels) if place else panels
    planned = kernel.arguments(call, int, threads)
    memory = {view.buffer: array for view, array in zip(views, arrays, strict=True)}
    assert harness.execute(kernel, host(), planned, memory) == 0
    harness.assert_guards(guards)
    return out


@cache
def _kernel(kernel: gemm.GemmKernel) -> gemm.GemmKernel:
    return kernel


def expected(unit: MatrixUnit, a: np.ndarray, weights: Sequence[np.ndarray], group: int) -> np.ndarray:
    codes, scales, zeros = (*weights, None)[:3]
    return defined(unit, a, dequantized(codes, scales, zeros, group, unit.b))


def number(unit: MatrixUnit) -> int:
    return UNITS.index(unit)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_sizes_codes_and_zero_points(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every unit meets codes of 4 and of 8 bits, one with zero points; signs and kinds go round."""
    use(monkeypatch, unit)
    turn = number(unit)
    small, large = CODES[turn % 2], CODES[2 + turn // 2 % 2]
    pairs = [(small, None), (large, large)] if turn % 2 else [(small, small), (large, None)]
    for codes, zeros in pairs:
        spec = spec_of(unit, codes, zeros)
        for m, n, k in SIZES:
            for group in (16, 32, k):
                a, weights = draw((m, k), unit.a), coded(k, n, group, codes, zeros)
                assert_same(multiply(spec, a, weights, group), expected(unit, a, weights, group))


@pytest.mark.parametrize("unit", WIDEST, ids=name_of)
def test_epilogues_float_zero_points_and_many_rows(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    codes = CODES[number(unit) % 4]
    spec = spec_of(unit, codes, dtypes.float32, finishes=True)
    for m in (*range(1, 21), 70):
        n, k = 101, 47
        a, weights = draw((m, k), unit.a), coded(k, n, 16, codes, dtypes.float32)
        operands = [draw((n,), unit.acc), draw((m, n), unit.acc)]
        wanted = finished(spec.epilogue, expected(unit, a, weights, 16), operands)[0]
        assert_same(multiply(spec, a, weights, 16, operands), wanted)


@pytest.mark.parametrize("unit", WIDEST, ids=name_of)
def test_cuts_and_threads(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """K blocks that begin inside groups, panels kept for later blocks of rows or decoded again, items of few rows."""
    use(monkeypatch, unit)
    codes = CODES[number(unit) % 4]
    spec = spec_of(unit, codes, codes)
    m, n, k, group = 37, 150, 200, 64
    a, weights = draw((m, k), unit.a), coded(k, n, group, codes, codes)
    wanted = expected(unit, a, weights, group)
    for cut in (
        Blocking(64, 192, 16, 48, 1, True, True),
        Blocking(64, 192, 64, 16, 1, True, False),
        Blocking(8, 48, 8, 200, 2, True, False),
        Blocking(2, 192, 2, 96, 1, True, False),
    ):
        with monkeypatch.context() as context:
            context.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
            assert_same(multiply(spec, a, weights, group, threads=2), wanted)


@pytest.mark.parametrize("unit", WIDEST, ids=name_of)
def test_nothing_beside_the_operands_is_touched(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for codes, zeros in ((CODES[number(unit) % 4], None), (CODES[(number(unit) + 2) % 4], dtypes.float32)):
        spec = spec_of(unit, codes, zeros)
        for m, n, k in ((1, 97, 37), (4, 96, 63), (9, 5, 16), (1, 1, 1)):
            a, weights = draw((m, k), unit.a), coded(k, n, 16, codes, zeros)
            wanted = expected(unit, a, weights, 16)
            for place in (at_page_end, at_page_start):
                assert_same(multiply(spec, a, weights, 16, place=place), wanted)


@pytest.mark.parametrize("unit", [unit for unit in WIDEST if unit.a != dtypes.float16], ids=name_of)
def test_chains_end_as_those_of_other_products(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    codes = CODES[number(unit) % 2]
    spec = spec_of(unit, codes, None)
    for m in (1, 6):
        a, weights = draw((m, 8192 + 40), unit.a), coded(8192 + 40, 49, 128, codes, None)
        assert_same(multiply(spec, a, weights, 128), expected(unit, a, weights, 128))


def test_batches_share_the_weight() -> None:
    unit = WIDEST[0]
    codes = dtypes.int4
    spec = spec_of(unit, codes, None, batch=1)
    a, weights = draw((3, 6, 40), unit.a), coded(40, 60, 16, codes, None)
    whole = np.empty((3, 9, 40), a.dtype)
    whole[:, :6] = a
    found = multiply(spec, whole[:, :6], weights, 16)
    for part, rows in zip(found, a, strict=True):
        assert_same(part, multiply(spec_of(unit, codes, None), rows, weights, 16, known=True))


def test_special_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite, NaN, denormal and negative scales give what dequantizing gives, in both paths."""
    for unit in (unit for unit in WIDEST if unit.a == dtypes.float32):
        use(monkeypatch, unit)
        spec = spec_of(unit, dtypes.int4, None)
        codes, scales = coded(37, 60, 16, dtypes.int4, None)
        scales[:, :5] = np.array([np.inf, np.nan, 1e-40, -3.0, 3e38], np.float32)
        for m in (1, 7):
            a = draw((m, 37), unit.a)
            assert_same(multiply(spec, a, (codes, scales), 16), expected(unit, a, (codes, scales), 16))
