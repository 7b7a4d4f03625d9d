"""runtime.matmul against NumPy in higher precision: shapes, layouts, types, `out`, threads."""

from __future__ import annotations

import threading
from zlib import crc32

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import runtime
from runtime import product
from runtime.product_layout import readable
from tests.backends.native.pages import at_page_end
from tests.runtime.products import FLOATS, INTEGERS, LAYOUTS, check, lay, numbers

Shapes = tuple[tuple[int, ...], tuple[int, ...]]
SIZES = st.sampled_from([0, 1, 2, 3, 5, 8, 17, 49])


@st.composite
def shapes(draw: st.DrawFn) -> Shapes:
    """Shapes that go together: 1-d operands, batch axes that broadcast."""
    m, k, n = draw(SIZES), draw(SIZES), draw(SIZES)
    batch = draw(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3))

    def some() -> tuple[int, ...]:
        kept = batch[draw(st.integers(0, len(batch))) :]
        return tuple(1 if draw(st.booleans()) else size for size in kept)

    a = (*some(), m, k) if draw(st.integers(0, 4)) else (k,)
    b = (*some(), k, n) if draw(st.integers(0, 4)) else (k,)
    return a, b


@settings(deadline=None, max_examples=200)
@given(shapes(), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.sampled_from(FLOATS + INTEGERS))
@example(((2, 3, 17, 5), (2, 1, 5, 8)), "reversed", "broadcast", "float32")
@example(((3, 1, 8), (8, 1)), "rows", "columns", "float64")
@example(((8,), (8,)), "rows", "columns", "bfloat16")
def test_any_shapes_layouts_and_types(both: Shapes, a_layout: str, b_layout: str, dtype: str) -> None:
    rng = np.random.default_rng(crc32(repr((both, a_layout, b_layout, dtype)).encode()))
    a, b = lay(numbers(rng, both[0], dtype), a_layout), lay(numbers(rng, both[1], dtype), b_layout)
    before = a.tobytes(), b.tobytes()
    first = check(a, b)
    again = runtime.matmul(a, b)  # where all is read in place, this is the builtin
    assert type(again) is type(first)
    assert isinstance(first, np.ndarray) == (first.ndim > 0)  # a scalar where there is no axis
    assert again.tobytes() == first.tobytes()
    assert (a.tobytes(), b.tobytes()) == before


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_larger_than_blocks(rng: np.random.Generator, dtype: str, layout: str) -> None:
    check(lay(numbers(rng, (130, 300), dtype), layout), lay(numbers(rng, (300, 190), dtype), layout))


X, Y = np.random.default_rng(1).standard_normal((2, 9, 40, 60))
ROW = np.broadcast_to(X[0, 0], (50, 60))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (X[0, :, :20], Y[0, :20]), (X[:, ::2, :20], Y[0, :20]), (X[::-1, 3::-1, 5:20], Y[:, :15, 30:]),
        (X.swapaxes(1, 2)[:, :, :30], Y[:, 5:35, :7]), (X[0, :, 3], Y[0]), (X[0, :, 3], Y[0, :, 7]),
        (X[::2, :, :40], np.broadcast_to(Y[0, :, :20], (5, 40, 20))), (ROW, Y[0].T), (ROW, Y.swapaxes(1, 2)[3]),
        (np.broadcast_to(X[0, 0, :40], (9, 3, 40)), np.broadcast_to(Y[0], (9, 40, 60))), (X[0], Y[0, 3]),
        (X[1:, :1, :30], Y[0, 10:, :]),
    ],
)  # fmt: skip
def test_strided_operands_are_read_in_place(a: np.ndarray, b: np.ndarray) -> None:
    left, right = readable(a, b)
    assert left is a
    assert right is b
    check(a, b)
    assert stays_native(a, b)


def stays_native(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> bool:
    """Whether a product made before does not come to Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_matmul", lambda *arguments: "python")
        return not isinstance(runtime.matmul(a, b, out=out), str)


def test_repeated_calls_stay_native(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 24, 24)).astype(np.float32)
    cases = [(a, b), (a.T, b), (a, b.T), (a.T, b.T), (a.astype(float), b.astype(float)), (a[:, :8], b[:8]), (a[0], b)]
    results = [check(*case) for case in cases]
    assert all(stays_native(*case) for case in cases)
    for case, result in zip(cases, results, strict=True):
        fresh = runtime.matmul(*case)
        assert fresh.tobytes() == result.tobytes()
        assert fresh.flags.owndata
        assert fresh.flags.writeable


def test_other_operands_of_known_shapes(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal((2, 6, 6))
    check(a, b)
    for other in (a.astype(np.float32), a[::-1, ::-1], a.astype(">f8"), np.asfortranarray(a)):
        check(other, b.astype(other.dtype))
    assert np.array_equal(runtime.matmul(a.tolist(), b), runtime.matmul(a, b))
    for subclass in (np.matrix(a), np.ma.array(a)):
        assert type(runtime.matmul(subclass, b)) is np.ndarray
        assert np.array_equal(runtime.matmul(subclass, b), runtime.matmul(a, b))
    with pytest.raises(runtime.DtypeError):
        runtime.matmul(a > 0, b)


def test_lists_are_arrays() -> None:
    assert np.array_equal(runtime.matmul([[1, 2], [3, 4]], [5, 6]), [17, 39])
    assert runtime.matmul([1.0, 2.0], [3.0, 4.0]) == 11.0


def test_two_vectors_give_a_scalar(rng: np.random.Generator) -> None:
    x = rng.standard_normal(7).astype(np.float32)
    for _ in range(3):
        assert type(runtime.matmul(x, x)) is np.float32
    out = np.empty((), np.float32)
    for _ in range(3):
        assert runtime.matmul(x, x, out=out) is out
    assert out == runtime.matmul(x, x)


@pytest.mark.parametrize("precision", ["fp64", "fp32"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_precision(rng: np.random.Generator, precision: str, dtype: str) -> None:
    a, b = numbers(rng, (3, 20, 30), dtype), numbers(rng, (30, 40), dtype)
    kind = {"fp64": np.float64, "fp32": np.float32}[precision]
    expected = check(a.astype(kind), b.astype(kind)).astype(a.dtype)
    for x, y in ((a, b), (lay(a, "padded"), lay(b, "transposed"))):
        found = runtime.matmul(x, y, precision=precision)
        assert found.dtype == a.dtype
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("layout", ["dense", "padded", "transposed"])
def test_bits_do_not_depend_on_threads(rng: np.random.Generator, dtype: str, layout: str) -> None:
    for a_shape, b_shape in (
        ((150, 210), (210, 170)),
        ((3, 70, 90), (3, 90, 80)),
        ((400, 500), (500,)),
        ((300,), (300, 999)),
    ):
        a, b = lay(numbers(rng, a_shape, dtype), layout), lay(numbers(rng, b_shape, dtype), layout)
        one = check(a, b, threads=1)
        for threads in (2, 3, 2):
            assert runtime.matmul(a, b, threads=threads).tobytes() == one.tobytes()


def test_many_python_threads(rng: np.random.Generator) -> None:
    cases = [
        (rng.standard_normal((m, k)), rng.standard_normal((k, n)))
        for m in (1, 7, 300) for k in (1, 30, 300) for n in (1, 9, 300)
    ]  # fmt: skip
    expected = [a @ b for a, b in cases]
    wrong: list[object] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, len(cases), 120):
            out = np.empty(expected[i].shape) if seed % 2 else None
            if not np.allclose(runtime.matmul(*cases[i], out=out), expected[i]):
                wrong.append(cases[i])

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_more_shapes_than_are_remembered(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(product, "_known", product.Recent(4))
    for _ in range(2):
        for size in range(1, 30):
            check(rng.standard_normal((size, 3)), rng.standard_normal((3, 2)))
            assert len(product._known) <= 8


def test_without_the_builtin(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(product, "entry", lambda *_: None)
    monkeypatch.setattr(product, "_known", product.Recent(4))
    a, b = rng.standard_normal((2, 5, 5))
    for _ in range(2):
        check(a, b)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("layout", ["dense", "slice", "transposed", "reversed"])
def test_nothing_behind_the_operands_is_read(rng: np.random.Generator, dtype: str, layout: str) -> None:
    a, b = numbers(rng, (13, 23), dtype), numbers(rng, (23, 37), dtype)
    expected, (x, y) = check(a, b), (up_to_the_end(z, layout) for z in (a, b))
    assert all(read is given for read, given in zip(readable(x, y), (x, y), strict=True))
    for _ in range(2):
        assert runtime.matmul(x, y).tobytes() == expected.tobytes()
        check(x[:1], y)
        check(x, y[:, 0])


def up_to_the_end(x: np.ndarray, layout: str) -> np.ndarray:
    """A copy of `x` behind which, or behind whose rows, is memory nobody may read."""
    if layout == "slice":
        return at_page_end(np.pad(x, ((0, 0), (5, 0))))[:, 5:]
    if layout == "transposed":
        return at_page_end(np.ascontiguousarray(x.T)).T
    return at_page_end(np.ascontiguousarray(x[::-1]))[::-1] if layout == "reversed" else at_page_end(x)
