"""Arm's units under emulation: products of every form, epilogues, zero points, windows, special values, each with the
bits of the unit's meaning, and so with those of this machine's units; and some maps and reductions."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.target import named
from backends.native.units import MatrixUnit, neon
from compiler import dtypes
from compiler.evaluate import evaluate
from compiler.expr import COMPOSITES, apply, arg, stat
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec
from tests.backends.native.forced import (
    FRESH,
    PACKED,
    SCATTERED,
    TRANSPOSED,
    Form,
    defined,
    draw,
    finished,
    use,
    zero_points,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply
from tests.backends.native.test_gemm_epilogues import parts
from tests.backends.native.test_gemm_special_values import special
from tests.backends.native.test_map import run_map
from tests.backends.native.test_reduce import layer_norm, run_reduce, samples, softmax
from tests.emulation.aarch64 import Processor

TARGET = named("armv8.6")
SHAPES = (
    (1, 1, 1),
    (3, 5, 7),
    (9, 25, 17),
    (16, 24, 32),
    (2, 13, 40),
    (17, 50, 64),
    (33, 12, 3),
    (4, 4, 0),
    (5, 98, 33),
)
FORMS = (FRESH, PACKED, TRANSPOSED, SCATTERED)
BYTE_UNITS = [unit for unit in neon.UNITS if unit.a.bytes == 1]
DEALT = [(unit, FORMS[number % 4]) for number, unit in enumerate(neon.UNITS)]
REST = [(unit, form) for unit in neon.UNITS for form in FORMS if (unit, form) not in DEALT]
# One of every kind: tiles, fours, pairs, single elements, wider, narrower.
KINDS = [unit for unit in neon.UNITS if unit.name in {
    "i8mm_int8_uint8", "dotprod_uint8", "bf16_bfloat16", "neon_float32", "neon_float64", "neon_float16", "neon_bfloat16"
}]  # fmt: skip


def name_of(value: object) -> str:
    return value.name if isinstance(value, MatrixUnit) else str(value)


def products(unit: MatrixUnit, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all shapes, by one kernel."""
    use(monkeypatch, unit)
    for m, n, k in SHAPES:
        a, b, operands = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b), form.operands(unit, m, n)
        found = form.run(unit, a, b, operands, target=TARGET, threads=2)
        for value, expected in zip(found, form.expected(unit, a, b, operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize(("unit", "form"), DEALT, ids=name_of)
def test_products(unit: MatrixUnit, form: Form, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    products(unit, form, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "form"), REST, ids=name_of)
def test_products_of_every_form(
    unit: MatrixUnit, form: Form, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    products(unit, form, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("unit", KINDS, ids=name_of)
def test_the_bits_of_this_machines_unit(
    unit: MatrixUnit, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever that is; normal numbers, for some flush others. Sizes are known, so that tails are code."""
    a, b = draw((21, 45), unit.a), draw((45, 43), unit.b)
    here = multiply(a, b, constant=True)[0]
    request.getfixturevalue("aarch64")
    use(monkeypatch, unit)
    assert_same(multiply(a, b, constant=True, target=TARGET)[0], here)


@pytest.mark.parametrize("unit", KINDS, ids=name_of)
def test_epilogues(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts on a tile: bias, residual, activations, requantised bytes, every type."""
    use(monkeypatch, unit)
    outputs = parts(unit)
    real = unit.acc if unit.acc.is_float else dtypes.float32
    kinds, classes = (unit.acc,) * 3 + (real,), (UNIT, BROADCAST, UNIT, UNIT)
    outs = (GENERAL, *(UNIT,) * (len(outputs) - 1))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, outputs, kinds, classes, outs)
    orders = [(1, 0), *[None] * (len(outputs) - 1)]
    for m, n, k in ((1, unit.n - 1, 3), (5, 2 * unit.n + 1, 2 * unit.k + 1)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = [draw((n,), unit.acc), draw((m, 1), unit.acc), draw((m, n), unit.acc), draw((n,), real)]
        options = {"operands": operands, "epilogue": outputs, "constant": True, "symbolic": True, "depth_known": False}
        found = multiply(a, b, spec=spec, out_orders=orders, target=TARGET, **options)
        for value, expected in zip(found, finished(outputs, defined(unit, a, b), operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("unit", KINDS, ids=name_of)
def test_blocks_of_k_resume(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From tiles that earlier ones left."""
    use(monkeypatch, unit)
    cut = Blocking(16, 96, 8, 16, 1, True, True)
    monkeypatch.setattr(gemm, "blocking", lambda *_: cut)
    for m, n, k in ((9, 25, 50), (17, 30, 48)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = PACKED.neutral(unit, m, n)
        assert_same(PACKED.run(unit, a, b, operands, target=TARGET)[0], defined(unit, a, b))


@pytest.mark.slow
@pytest.mark.parametrize("unit", BYTE_UNITS, ids=name_of)
def test_zero_points_from_sums(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    constant = BYTE_UNITS.index(unit) % 2 == 0
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    spec = GemmSpec(*kinds, unit.acc, 0, "row", "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
    for m, n, k in SHAPES[1:6]:
        a, b, za, zb = draw((m, k), unit.a), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
        options = {"operands": [za, zb], "epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True}
        expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
        assert_same(multiply(a, b, depth_known=False, target=TARGET, **options)[0], expected)


@pytest.mark.slow
@pytest.mark.parametrize("unit", KINDS, ids=name_of)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered rows, and rows left where they are."""
    use(monkeypatch, unit)
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    padded = np.zeros((2, 8, 7, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), params=params, target=TARGET)[0]
    assert_same(found, defined(unit, columns, b))


@pytest.mark.slow
@pytest.mark.parametrize("unit", [unit for unit in KINDS if unit.acc.is_float], ids=name_of)
def test_special_values(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for share in (0.02, 0.3):
        a, b = special((9, 7), unit.a, share), special((7, 2 * unit.n + 1), unit.b, share)
        operands = PACKED.neutral(unit, 9, 2 * unit.n + 1)
        expected = PACKED.expected(unit, a, b, operands)[0]
        assert_same(PACKED.run(unit, a, b, operands, target=TARGET)[0], expected)


def test_pairs_keep_denormals(aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = np.float32(2.0**-130)
    a = np.array([[tiny, 1, 2.0**-70, tiny]], ml_dtypes.bfloat16)
    b = np.array([[1], [tiny], [2.0**-64], [2.0**8]], ml_dtypes.bfloat16)
    for unit in (unit for unit in neon.UNITS if unit.a == dtypes.bfloat16):
        use(monkeypatch, unit)
        expected = np.float32([[2 * tiny + np.float32(2.0**-134) + np.float32(2.0**-122)]])
        assert expected[0, 0] > 0
        assert_same(multiply(a, b, constant=True, target=TARGET)[0], expected)


def test_every_function(aarch64: Processor, rng: np.random.Generator) -> None:
    x = np.concatenate([rng.standard_normal(90) * 8, np.exp(rng.standard_normal(17) * 30)]).astype(np.float32)
    for name, count in COMPOSITES.items():
        expr = apply(name, *(arg(i, dtypes.float32) for i in range(count)))
        operands = [x, x[::-1]][:count]
        (expected,) = evaluate([expr], lambda leaf, given=operands: given[leaf.value], "emulate")
        assert_same(run_map((expr,), operands, x.shape, target=TARGET)[0], expected)


@pytest.mark.parametrize("order", ["row", "column"])
def test_reductions_have_the_bits_of_this_machine(
    order: str, rng: np.random.Generator, request: pytest.FixtureRequest
) -> None:
    x, gamma = samples(rng, (2, 7, 129), np.dtype(np.float32)), samples(rng, (129,), np.dtype(np.float32))
    score = arg(0, dtypes.float32)
    norms = layer_norm(score, arg(1, dtypes.float32), arg(1, dtypes.float32))
    smooth = softmax(score)

    def both(target: object) -> list[np.ndarray]:
        options = {"order": order, "target": target}
        normed = run_reduce(norms[0], [x, gamma], 1, elements=norms[1], rows=norms[2], **options)
        return normed + run_reduce(smooth[0], [x], 1, elements=smooth[1], rows=(stat(1, dtypes.float32),), **options)

    here = both(None)
    request.getfixturevalue("aarch64")
    for machine in (TARGET, replace(TARGET, features=frozenset({"neon"}))):
        for found, expected in zip(both(machine), here, strict=True):
            assert_same(found, expected)
