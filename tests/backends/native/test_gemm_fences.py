"""Nothing outside is touched: every operand and result of a product flush against an inaccessible page, once with its
last byte and once with its first, on every unit this machine runs. The products run in a child; a crash is a failure
that names its case."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest

from backends.native import gemm, pack, units
from backends.native.blocking import Blocking
from backends.native.kernel import I64
from backends.native.target import host
from backends.native.units import MatrixUnit
from compiler.dtypes import float32
from compiler.expr import arg, cast
from compiler.kernels import BROADCAST, UNIT, GemmSpec
from tests.backends.native.children import Note, fate
from tests.backends.native.forced import (
    DIRECT,
    FAMILIES,
    FRESH,
    OF_BYTES,
    PACKED,
    SPECIFIC,
    Form,
    defined,
    draw,
    finished,
    forms,
    name_of,
    use,
    zero_points,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.pages import at_page_end, at_page_start
from tests.backends.native.products import multiply

Place = Callable[[np.ndarray], np.ndarray]


def sizes(unit: MatrixUnit) -> list[tuple[int, int, int]]:
    """Odd M, N and K: around the unit's width and depth, around a panel, and where few rows meet many panels."""
    n, k, panel = unit.n, unit.k, unit.grids[0].columns * unit.n
    return [
        (1, 1, 1), (2, n - 1, 3), (3, n + 1, 2 * k + 1), (9, panel + 1, k + 1), (1, 8 * n + panel + 1, 5),
        (9, 2 * panel - 1, 13), (17, panel, 4 * k),
    ]  # fmt: skip


def in_blocks(unit: MatrixUnit) -> Blocking:
    """Items of several row blocks, panels and K blocks."""
    height, panel = unit.grids[0].rows * unit.m, unit.grids[0].columns * unit.n
    return Blocking(2 * height, 2 * panel, height, 2 * unit.k, 1, True, True)


def hold(arrays: Sequence[np.ndarray], run: Callable[..., tuple[np.ndarray, ...]]) -> Callable[[Note], None]:
    """Run with every array at the end of a page, then at the start of one, against what it gives without fences."""
    wanted = run(*arrays)

    def body(note: Note) -> None:
        for place in (at_page_end, at_page_start):
            note(f"{place.__name__}: {[(x.shape, x.strides) for x in arrays]}")
            for found, expected in zip(run(*map(place, arrays), place=place), wanted, strict=True):
                assert_same(found, expected)

    return body


def check(body: Callable[[Note], None]) -> None:
    """`body` in a child."""
    what = fate(body)
    assert not what, what


@pytest.mark.slow
@pytest.mark.parametrize("unit", FAMILIES, ids=name_of)
def test_products_of_all_layouts(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []
    for form, forced in forms(unit):

        def run(
            a: np.ndarray, b: np.ndarray, *operands: np.ndarray, form: Form = form, forced: MatrixUnit = forced, **how
        ) -> tuple[np.ndarray, ...]:
            use(monkeypatch, forced)
            return form.run(forced, a, b, operands, **how)

        for m, n, k in sizes(unit):
            arrays = [draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b), *form.operands(unit, m, n)]
            for found, expected in zip(run(*arrays), form.expected(unit, *arrays[:2], arrays[2:]), strict=True):
                assert_same(found, expected)
            bodies.append((form, hold(arrays, run)))

    def body(note: Note) -> None:
        for form, each in bodies:
            each(lambda what, form=form: note(f"{form}: {what}"))
        cut = in_blocks(unit)
        monkeypatch.setattr(gemm, "blocking", lambda *_: cut)
        monkeypatch.setattr(gemm, "deserves_packing", lambda *_: True)  # A too, where there is code for it
        for form, each in bodies:
            each(lambda what, form=form: note(f"{form} in blocks: {what}"))

    check(body)


@pytest.mark.parametrize("unit", [unit for unit in DIRECT if not unit.compensation], ids=name_of)
def test_slabs_of_k_outermost(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    monkeypatch.setattr(gemm, "slab_rows", lambda *_: 2 * unit.k)
    panel = unit.grids[0].columns * unit.n

    def run(*arrays: np.ndarray, **how: object) -> tuple[np.ndarray, ...]:
        return FRESH.run(unit, *arrays[:2], arrays[2:], **how)

    for m, n, k in ((1, 3 * panel + 1, 6 * unit.k + 1), (3, panel, 5 * unit.k), (unit.grids[0].rows, panel + 1, 9)):
        arrays = [draw((m, k), unit.a), draw((k, n), unit.b), *FRESH.operands(unit, m, n)]
        for found, expected in zip(run(*arrays), FRESH.expected(unit, *arrays[:2], arrays[2:]), strict=True):
            assert_same(found, expected)
        check(hold(arrays, run))


@pytest.mark.parametrize("unit", SPECIFIC, ids=name_of)
def test_batches(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    form = Form("row", "row", constant=SPECIFIC.index(unit) % 2 == 0)
    a, b = draw((3, 9, 7), unit.a), draw((3, 7, unit.n + 1), unit.b)
    b = b[:1] if form.constant else b

    def run(a: np.ndarray, b: np.ndarray, **how: object):
        return form.run(unit, a, b, (), **how)

    for number, matrix in enumerate(run(a, b)[0]):
        assert_same(matrix, form.expected(unit, a[number], b[min(number, len(b) - 1)], ())[0])
    check(hold([a, b], run))


@pytest.mark.parametrize("unit", OF_BYTES, ids=name_of)
@pytest.mark.parametrize("constant", [False, True])
def test_zero_points(unit: MatrixUnit, constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    spec = GemmSpec(*kinds, unit.acc, 0, "row", "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
    bodies = []
    for m, n, k in sizes(unit):
        arrays = [draw(shape, kind) for shape, kind in zip(((m, k), (k, n), (m, 1), (n,)), kinds * 2, strict=True)]

        def run(a: np.ndarray, b: np.ndarray, *operands: np.ndarray, **how: object):
            options = {"spec": spec, "symbolic": True, "depth_known": False, "constant": constant}
            return multiply(a, b, operands=operands, epilogue=epilogue, **options, **how)

        a, b, za, zb = (x.astype(np.int32) for x in arrays)
        assert_same(run(*arrays)[0], (a - za) @ (b - zb))
        bodies.append(hold(arrays, run))
    check(lambda note: [body(note) for body in bodies])


@pytest.mark.parametrize("unit", SPECIFIC, ids=name_of)
@pytest.mark.parametrize("channels", [3, 16])
def test_windows(unit: MatrixUnit, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered with few channels, with many through a table where the unit reads A as it is."""
    use(monkeypatch, unit)
    if channels > 3 and unit.left != unit.a:
        return
    n = unit.n + 1
    x, b = draw((1, 4, 5, channels), unit.a), draw((9 * channels, n), unit.b)
    x = np.ascontiguousarray(x)
    filler = [draw((1, 1), unit.a)] if unit.a.bytes == 1 else []
    epilogue = (arg(0, unit.acc) + cast(arg(1, unit.a), unit.acc),) if filler else ()
    padded = np.full((1, 6, 7, channels), filler[0] if filler else 0, x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 4, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(20, -1)
    options = {"window": 2, "params": [4, 5, 3, 3, 1, 1, 1, 1, 1, 1, 4, 5], "shape": (20, n), "epilogue": epilogue}

    def run(x: np.ndarray, b: np.ndarray, *operands: np.ndarray, **how: object):
        return multiply(x, b, operands=operands, constant=True, fill=len(operands), **options, **how)

    expected = finished(epilogue, defined(unit, columns, b), filler)
    assert_same(run(x, b, *filler)[0], expected[0])
    check(hold([x, b, *filler], run))


@pytest.mark.parametrize("unit", SPECIFIC, ids=name_of)
def test_groups(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    constant, n = SPECIFIC.index(unit) % 2 == 1, unit.n + 1
    index = (np.int32, np.int64)[SPECIFIC.index(unit) // 2 % 2]
    a, b, ends = draw((13, 7), unit.a), draw((3, 7, n), unit.b), np.array([3, 3, 12], index)

    def run(a: np.ndarray, b: np.ndarray, ends: np.ndarray, **how: object):
        return multiply(a, b, ends=ends, constant=constant, **how)

    expected = np.zeros((13, n), unit.acc.numpy)
    expected[:3], expected[3:12] = defined(unit, a[:3], b[0]), defined(unit, a[3:12], b[2])
    assert_same(run(a, b, ends)[0], expected)
    check(hold([a, b, ends], run))


@pytest.mark.parametrize("form", [FRESH, PACKED], ids=str)
@pytest.mark.parametrize("fence", [at_page_end, at_page_start])
def test_one_byte_further_is_caught(form: Form, fence: Callable[..., np.ndarray]) -> None:
    """Each array in turn lies one byte too far: the kernel, which reads or writes all of it, must die."""
    unit = units.select(host(), float32, float32, float32)[0]
    n = unit.grids[0].columns * unit.n  # what lies beyond the columns in a panel is not always read
    arrays = [draw((9, 7), unit.a), draw((7, n), unit.b), *form.operands(unit, 9, n)]
    form.run(unit, *arrays[:2], arrays[2:])

    output, weights = len(arrays), len(arrays) + 1  # in the order in which they are placed
    for culprit in (0, 2, 3, 4, output, weights if form.constant else 1):

        def body(note: Note, culprit: int = culprit) -> None:
            a, b, *operands = (fence(array, beyond=int(i == culprit)) for i, array in enumerate(arrays))
            placed = count(output)
            note("the kernel")
            form.run(unit, a, b, operands, place=lambda array: fence(array, beyond=int(next(placed) == culprit)))

        assert fate(body) == "SIGSEGV in the kernel", culprit


def test_a_kernel_that_reads_whole_vectors_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A packer without its mask; compiled in the child, so that nobody else meets the kernel."""
    mask = pack.tail_mask
    a, b = (at_page_end(np.ones(shape, np.float32)) for shape in ((3, 5), (5, 7)))
    epilogue = (arg(0, float32) * 12345.0,)

    def body(note: Note) -> None:
        monkeypatch.setattr(pack, "tail_mask", lambda builder, _, lanes: mask(builder, I64(lanes), lanes))
        note("the kernel")
        multiply(a, b, epilogue=epilogue)

    assert fate(body) == "SIGSEGV in the kernel"
    assert_same(multiply(a, b, epilogue=epilogue)[0], np.full((3, 7), 5 * 12345, np.float32))


def test_a_child_says_what_became_of_it() -> None:
    def fails(note: Note) -> None:
        raise ValueError("as expected")

    assert fate(lambda note: note("fine")) == ""
    assert fate(fails).endswith("ValueError: as expected\n")


@pytest.mark.parametrize("fence", [at_page_end, at_page_start])
def test_slices_are_flush_with_their_last_element_and_their_first(fence: Callable[..., np.ndarray]) -> None:
    whole = np.arange(60, dtype=np.float32).reshape(6, 10)
    for view in (whole, whole[:, :7], whole[::2, 1::3], whole[:, :7].T, whole[::-1, ::-2], whole[:1, :1], whole[:0]):
        copy = fence(view)
        assert copy.strides == view.strides and np.array_equal(copy, view)
        if view.size:
            low, high = np.lib.array_utils.byte_bounds(copy)
            edge = high if fence is at_page_end else low
            assert edge % mmap.PAGESIZE == 0
