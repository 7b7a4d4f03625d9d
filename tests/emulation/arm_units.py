"""What Arm's vector units are asked under emulation, whatever their length: products of every form, epilogues, blocks
of K, zero points, windows, special values, each with the bits of the unit's meaning; and maps and reductions."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.target import Target
from backends.native.units import MatrixUnit
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
Shapes = tuple[tuple[int, int, int], ...]
FORMS = (FRESH, PACKED, TRANSPOSED, SCATTERED)


def name_of(value: object) -> str:
    """For pytest."""
    return f"{value.name}x{value.n}" if isinstance(value, MatrixUnit) else str(value)


def products(
    unit: MatrixUnit, form: Form, target: Target, monkeypatch: pytest.MonkeyPatch, shapes: Shapes = SHAPES
) -> None:
    """Of all shapes, by one kernel."""
    use(monkeypatch, unit)
    for m, n, k in shapes:
        a, b, operands = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b), form.operands(unit, m, n)
        found = form.run(unit, a, b, operands, target=target, threads=2)
        for value, expected in zip(found, form.expected(unit, a, b, operands), strict=True):
            assert_same(value, expected)


def epilogues(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch, rows: int = 5, wide: int = 2) -> None:
    """All parts on a tile `wide` times the unit: bias, residual, activations, requantised bytes, every type."""
    use(monkeypatch, unit)
    outputs = parts(unit)
    real = unit.acc if unit.acc.is_float else dtypes.float32
    kinds, classes = (unit.acc,) * 3 + (real,), (UNIT, BROADCAST, UNIT, UNIT)
    outs = (GENERAL, *(UNIT,) * (len(outputs) - 1))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, outputs, kinds, classes, outs)
    orders = [(1, 0), *[None] * (len(outputs) - 1)]
    for m, n, k in ((1, unit.n - 1, 3), (rows, wide * unit.n + 1, 2 * unit.k + 1)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = [draw((n,), unit.acc), draw((m, 1), unit.acc), draw((m, n), unit.acc), draw((n,), real)]
        options = {"operands": operands, "epilogue": outputs, "constant": True, "symbolic": True, "depth_known": False}
        found = multiply(a, b, spec=spec, out_orders=orders, target=target, **options)
        for value, expected in zip(found, finished(outputs, defined(unit, a, b), operands), strict=True):
            assert_same(value, expected)


def blocks_of_k(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Resumed from tiles that earlier ones left."""
    use(monkeypatch, unit)
    width = unit.panels(unit.grids[0])[1][0]
    for by_slabs, (m, n, k) in ((False, (9, 25, 50)), (True, (17, 30, 48))):
        cut = Blocking(16, 8 * width, 8, 16, 1, True, True, by_slabs)
        monkeypatch.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = PACKED.neutral(unit, m, n)
        assert_same(PACKED.run(unit, a, b, operands, target=target)[0], defined(unit, a, b))


def zero_points_from_sums(
    unit: MatrixUnit, constant: bool, target: Target, monkeypatch: pytest.MonkeyPatch, shapes: Shapes = SHAPES
) -> None:
    """Of bytes, B constant or not, then with the columns of A dense."""
    use(monkeypatch, unit)
    epilogue, kinds, axis = zero_points(unit), (unit.a, unit.b), "row" if constant else "column"
    spec = GemmSpec(*kinds, unit.acc, 0, axis, "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
    for m, n, k in shapes[1:6]:
        a, b, za, zb = draw((m, k), unit.a, axis), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
        options = {"operands": [za, zb], "epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True}
        expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
        assert_same(multiply(a, b, depth_known=False, target=target, **options)[0], expected)


def windows(unit: MatrixUnit, channels: int, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered rows, and rows left where they are."""
    use(monkeypatch, unit)
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    padded = np.zeros((2, 8, 7, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), params=params, target=target)[0]
    assert_same(found, defined(unit, columns, b))


def special_values(unit: MatrixUnit, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinities, NaNs, zeros of both signs, denormals, the largest numbers."""
    use(monkeypatch, unit)
    for share in (0.02, 0.3):
        a, b = special((9, 7), unit.a, share), special((7, 2 * unit.n + 1), unit.b, share)
        operands = PACKED.neutral(unit, 9, 2 * unit.n + 1)
        expected = PACKED.expected(unit, a, b, operands)[0]
        assert_same(PACKED.run(unit, a, b, operands, target=target)[0], expected)


def every_function(target: Target, rng: np.random.Generator) -> None:
    """Maps, one a function."""
    x = np.concatenate([rng.standard_normal(90) * 8, np.exp(rng.standard_normal(17) * 30)]).astype(np.float32)
    for name, count in COMPOSITES.items():
        expr = apply(name, *(arg(i, dtypes.float32) for i in range(count)))
        operands = [x, x[::-1]][:count]
        (expected,) = evaluate([expr], lambda leaf, given=operands: given[leaf.value], "emulate")
        assert_same(run_map((expr,), operands, x.shape, target=target)[0], expected)


def reductions(order: str, target: Target | None, x: np.ndarray, gamma: np.ndarray) -> list[np.ndarray]:
    """A layer norm and a softmax of x [2, 7, n]."""
    score = arg(0, dtypes.float32)
    norms = layer_norm(score, arg(1, dtypes.float32), arg(1, dtypes.float32))
    smooth = softmax(score)
    options = {"order": order, "target": target}
    normed = run_reduce(norms[0], [x, gamma], 1, elements=norms[1], rows=norms[2], **options)
    return normed + run_reduce(smooth[0], [x], 1, elements=smooth[1], rows=(stat(1, dtypes.float32),), **options)


def rows_to_reduce(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and a factor for each of their elements."""
    return samples(rng, (2, 7, 129), np.dtype(np.float32)), samples(rng, (129,), np.dtype(np.float32))
