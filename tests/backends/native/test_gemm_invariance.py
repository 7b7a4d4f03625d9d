"""The bits of a product are those of its definition, whatever is chosen to compute it: threads, batches, cuts, K
blocks, grids, layouts, units."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.units import MatrixUnit
from compiler import dtypes
from tests.backends.native.forced import FAMILIES, RUN_HERE, SPECIFIC, Form, defined, draw, forms, name_of, use
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply

DRAWS = 6


def a_cut(unit: MatrixUnit, rng: np.random.Generator, m: int, k: int) -> Blocking:
    """Some legal cut: whole panels, K blocks of whole groups."""
    height, panel = unit.grids[0].rows * unit.m, unit.grids[0].columns * unit.n
    rows, columns, block = (int(x) for x in rng.integers(1, 4, 3))
    depth = int(rng.integers(1, 3)) * unit.k
    keeps = bool(rng.integers(2)) or depth < k
    # Panels are kept only while all of an item's rows go over them one block after the other.
    item_rows = rows * height
    return Blocking(
        item_rows, columns * panel, min(block * height, item_rows), depth, int(rng.integers(1, 4)), True, keeps,
        bool(rng.integers(2)),
    )  # fmt: skip


@pytest.mark.parametrize("unit", FAMILIES, ids=name_of)
def test_threads_cuts_grids_and_layouts(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(FAMILIES.index(unit))
    for _ in range(DRAWS):
        m, k = int(rng.integers(1, 40)), int(rng.integers(1, 7 * unit.k))
        n = int(rng.integers(1, 4 * unit.grids[0].columns * unit.n))
        a, b = draw((m, k), unit.a, rng=rng), draw((k, n), unit.b, rng=rng)
        expected = defined(unit, a, b)
        for form, forced in forms(unit):
            use(monkeypatch, forced)
            laid = laid_out(a, form.a), laid_out(b, form.b)
            operands, threads = form.neutral(unit, m, n), int(rng.integers(1, 5))
            assert_same(np.ascontiguousarray(form.run(forced, *laid, operands, threads=threads)[0]), expected)
            cut = a_cut(forced, rng, m, k)
            with monkeypatch.context() as context:
                context.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
                found = form.run(forced, *laid, operands, threads=threads)[0]
            assert_same(np.ascontiguousarray(found), expected)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same elements in another layout."""
    if layout == "row":
        return array
    if layout == "column":
        return np.pad(array.T, ((0, 0), (0, 3)))[:, : len(array)].T
    return np.repeat(np.pad(array, ((0, 0), (0, 3))), 2, axis=1)[:, : 2 * array.shape[1] : 2]


@pytest.mark.parametrize("unit", SPECIFIC, ids=name_of)
def test_batches(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    form = Form("row", "row", constant=SPECIFIC.index(unit) % 2 == 0)
    rng = np.random.default_rng(SPECIFIC.index(unit))
    for batch in (1, 2, 5):
        m, n, k = (int(rng.integers(1, most)) for most in (20, 3 * unit.n, 6 * unit.k))
        a, b = draw((batch, m, k), unit.a, rng=rng), draw((batch, k, n), unit.b, rng=rng)
        expected = np.stack([defined(unit, *pair) for pair in zip(a, b, strict=True)])
        for threads in (1, 2, 3, 4):
            assert_same(form.run(unit, a, b, (), threads=threads)[0], expected)


def types_of(unit: MatrixUnit) -> tuple[str, str]:
    return unit.a.name, unit.b.name


def sums_in_order(unit: MatrixUnit) -> bool:
    """Whether others give the same bits: of bytes all, of floats those in order; some tiles start chains anew."""
    return unit.a.bytes == 1 or (unit.a.is_float and unit.in_order)


SHARED_TYPES = [
    list(members) for _, members in groupby(sorted(filter(sums_in_order, RUN_HERE), key=types_of), types_of)
]


@pytest.mark.parametrize("members", SHARED_TYPES, ids=lambda members: "x".join(types_of(members[0])))
def test_units_agree(members: list[MatrixUnit], monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them with all others; in bfloat16 without denormals, which instructions for it take and give as 0."""
    a, b = draw((9, 23), members[0].a), draw((23, 37), members[0].b)
    found = {}
    for unit in members:
        use(monkeypatch, unit)
        found[name_of(unit)] = multiply(a, b, constant=True)[0]
    assert len(found) >= 4
    for result in found.values():
        assert_same(result, next(iter(found.values())))
    if members[0].a == dtypes.bfloat16:
        assert (np.abs(next(iter(found.values()))) > np.finfo(np.float32).tiny).all()
