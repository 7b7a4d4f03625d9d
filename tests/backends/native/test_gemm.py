"""GEMM kernels on this machine: layouts, batches, windows, epilogues, edges; bits that do not depend on the split."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from backends.native import gemm, gemm_shape
from backends.native.blocking import Blocking
from backends.native.target import host, named
from compiler.canonical import PRODUCT_CHUNK
from compiler.dtypes import float32, float64, from_numpy
from compiler.expr import apply, arg, cast, const
from compiler.kernels import GemmSpec, KernelCall, View
from tests.backends.native.harness import assert_same
from tests.backends.native.pages import at_page_end
from tests.backends.native.products import accumulator, multiply

KINDS = (np.float32, np.float64)
EDGES = (1, 2, 3, 5, 7, 8, 9, 17, 31)
RNG = np.random.default_rng(20261120)


def random(shape: Sequence[int], kind: type, layout: str = "row") -> np.ndarray:
    """Random normal values, the last two axes laid out as asked."""
    if layout == "general":
        doubled = [*shape[:-1], 2 * shape[-1]]
        return RNG.standard_normal(doubled).astype(kind)[..., ::2]
    values = RNG.standard_normal(shape).astype(kind)
    return values if layout == "row" else np.ascontiguousarray(values.swapaxes(-1, -2)).swapaxes(-1, -2)


def assert_close(found: np.ndarray, expected: np.ndarray, k: int) -> None:
    """Within the error bound of a product over k of values of order one."""
    assert found.shape == expected.shape
    bound = 8 * np.finfo(found.dtype).eps * (k + 4) ** 0.5 * 4
    assert np.all(np.abs(found - expected) <= bound * (1 + np.abs(expected)))


def exact_chain(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The defined result: one chain of fused multiply-adds an element, over ascending k."""
    kind = from_numpy(a.dtype)
    unit, _ = gemm.select_unit(host(), kind, kind, kind)
    acc = np.zeros((a.shape[0], b.shape[1]), a.dtype)
    for k in range(a.shape[1]):
        acc = unit.emulate(acc, a[:, k : k + 1], b[k : k + 1])
    return acc


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n", "k"), [(1, 10, 33), (3, 40, 9), (13, 21, 20)])
def test_every_element_is_one_chain_over_ascending_k(kind: type, m: int, n: int, k: int) -> None:
    a, b = random((m, k), kind), random((k, n), kind)
    for constant in (False, True):
        assert_same(multiply(a, b, constant=constant)[0], exact_chain(a, b))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("constant", [False, True])
def test_edge_sizes_with_symbolic_extents(kind: type, constant: bool) -> None:
    for m, n, k in itertools.product(EDGES, (1, 7, 16, 17, 33, 100), (1, 3, 17)):
        a, b = random((m, k), kind), random((k, n), kind)
        assert_close(multiply(a, b, constant=constant, symbolic=True)[0], a.astype(np.float64) @ b, k)


@pytest.mark.parametrize(("m", "n", "k"), [(49, 64, 5), (8, 48, 12), (6, 200, 3), (2, 300, 64), (1, 515, 40)])
def test_known_extents(m: int, n: int, k: int) -> None:
    a, b = random((m, k), np.float32), random((k, n), np.float32)
    for constant in (False, True):
        known = multiply(a, b, constant=constant)[0]
        assert_close(known, a.astype(np.float64) @ b, k)
        assert_same(known, multiply(a, b, constant=constant, symbolic=True)[0])


@pytest.mark.parametrize("a_layout", ["row", "column", "general"])
@pytest.mark.parametrize("b_layout", ["row", "column", "general"])
@pytest.mark.parametrize("m", [3, 45])
def test_layouts(a_layout: str, b_layout: str, m: int) -> None:
    a, b = random((m, 37), np.float32, a_layout), random((37, 50), np.float32, b_layout)
    fresh = multiply(a, b)[0]
    assert_close(fresh, a.astype(np.float64) @ b, 37)
    assert_same(multiply(a, b, constant=True)[0], fresh)


@pytest.mark.parametrize("constant", [False, True])
def test_empty_extents(constant: bool) -> None:
    for m, n in ((0, 5), (4, 0), (0, 0)):
        assert multiply(random((m, 3), np.float32), random((3, n), np.float32), constant=constant)[0].shape == (m, n)
    bias = random((6,), np.float32)
    value = accumulator(np.float32) + arg(1, float32)
    nothing = multiply(
        random((5, 0), np.float32), random((0, 6), np.float32), operands=[bias], epilogue=(value,), constant=constant
    )[0]
    assert_same(nothing, np.broadcast_to(bias, (5, 6)) + np.float32(0))


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize(
    ("a_batch", "b_batch"), [((3,), (3,)), ((4,), (1,)), ((1,), (4,)), ((2, 3), (2, 1)), ((1, 3), (2, 1)), ((0,), (1,))]
)
def test_batches_broadcast(a_batch: tuple[int, ...], b_batch: tuple[int, ...], constant: bool) -> None:
    a, b = random((*a_batch, 9, 11), np.float32), random((*b_batch, 11, 19), np.float32)
    for threads in (1, 2):
        assert_close(multiply(a, b, constant=constant, threads=threads)[0], a.astype(np.float64) @ b, 11)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_few_rows_after_a_packed_last_panel(m: int) -> None:
    a, b = random((3, m, 37), np.float32), random((3, 37, 200), np.float32)
    found = multiply(a, b)[0]
    for i in range(3):
        assert_same(found[i], multiply(a[i], b[i])[0])


def test_a_short_epilogue_reads_and_writes_every_stride_class() -> None:
    m, n, k = 21, 70, 8
    a, b = random((m, k), np.float32), random((k, n), np.float32)
    operands = {
        "row": random((n,), np.float32), "column": random((m, 1), np.float32), "scalar": random((1, 1), np.float32),
        "full": random((m, n), np.float32), "transposed": random((m, n), np.float32, "column"),
    }  # fmt: skip
    value = accumulator(np.float32) + arg(1, float32)
    product = multiply(a, b)[0]
    for name, operand in operands.items():
        for order in ((0, 1), (1, 0)):
            for constant in (False, True):
                found = multiply(a, b, operands=[operand], epilogue=(value,), constant=constant, out_order=order)[0]
                assert_same(np.ascontiguousarray(found), product + operand), name


@pytest.mark.parametrize("m", [2, 19])
def test_a_long_epilogue_with_two_outputs_of_two_types(m: int) -> None:
    n, k = 53, 30
    a, b, bias, residual = (random(s, np.float32) for s in ((m, k), (k, n), (n,), (m, n)))
    x = accumulator(np.float32) + arg(1, float32)
    y = x
    for factor in (0.5, 0.25, 0.125, 2.0, 1.5):
        y = apply("max", y * const(factor, float32), x) - arg(2, float32)
    outputs = (y, cast(x, float64), apply("gt", x, const(0.0, float32)))
    found = multiply(a, b, operands=[bias, residual], epilogue=outputs, constant=True)
    expected = multiply(a, b)[0] + bias
    wanted = expected
    for factor in (0.5, 0.25, 0.125, 2.0, 1.5):
        wanted = np.maximum(wanted * np.float32(factor), expected) - residual
    assert_same(found[0], wanted)
    assert_same(found[1], expected.astype(np.float64))
    assert_same(found[2], expected > 0)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("layout", ["row", "column"])
def test_nothing_beyond_the_operands_is_read(constant: bool, layout: str) -> None:
    value = accumulator(np.float32) + arg(1, float32)
    for m, n, k in ((1, 1, 1), (3, 130, 7), (9, 33, 5), (45, 97, 19)):
        a, b, bias = (at_page_end(random(shape, np.float32)) for shape in ((m, k), (k, n), (n,)))
        if layout == "column":
            a, b = (at_page_end(np.ascontiguousarray(x.T)).T for x in (a, b))
        found = multiply(a, b, operands=[bias], epilogue=(value,), constant=constant, symbolic=True)[0]
        assert_close(found, a.astype(np.float64) @ b + bias, k)


def test_kernels_are_named_by_unit_grid_and_what_shapes_them() -> None:
    def name(m: int, n: int, k: int, **changes: object) -> str:
        call = call_of(m, n, k)
        return gemm.select(replace(call, spec=replace(call.spec, **changes)), named("x86-64-v4")).name

    start = "gemm_float32_float32_float32_avx512_"
    assert name(128, 768, 768).startswith(start + "8x48_")
    assert name(128, 64, 768).startswith(start + "8x32_") and name(128, 10, 768).startswith(start + "8x16_")
    assert name(128, 768, 768) == name(256, 3072, 3072)
    assert name(128, 768, 768) != name(128, 768, 768, constant_b=False)
    assert name(128, 768, 768) == name(128, 768, 768, b_axis="column")
    assert gemm.select(call_of(128, 768, 768), named("x86-64-v3")).unit == "avx2_float32"


def call_of(m: int, n: int, k: int) -> KernelCall:
    """A plain product with a weight."""
    spec = GemmSpec(float32, float32, float32, 0, "row", "row", True, (), (), (), ("unit",))
    a, b, c = (
        View(name, float32, shape, (shape[1], 1)) for name, shape in zip("abc", ((m, k), (k, n), (m, n)), strict=True)
    )
    return KernelCall(spec, (a, b), (c,))


def test_an_output_may_overwrite_the_operand_it_adds() -> None:
    a, b, c = (random(s, np.float32) for s in ((20, 6), (6, 40), (20, 40)))
    value = accumulator(np.float32) + arg(1, float32)
    expected = multiply(a, b, operands=[c], epilogue=(value,))[0]
    assert_same(expected, multiply(a, b)[0] + c)


def conv_by_definition(x: np.ndarray, w: np.ndarray, window: Sequence[Sequence[int]]) -> np.ndarray:
    """x [N, spatial.., C], w [kernel.., C, O]; window: per axis output, kernel, stride, dilation, pad, input."""
    spatial = w.ndim - 2
    out, kernel, stride, dilation, pad, size = (tuple(axis[i] for axis in window) for i in range(6))
    result = np.zeros((x.shape[0], *out, w.shape[-1]))
    for o in itertools.product(*map(range, out)):
        for p in itertools.product(*map(range, kernel)):
            at = [o[i] * stride[i] + p[i] * dilation[i] - pad[i] for i in range(spatial)]
            if all(0 <= at[i] < size[i] for i in range(spatial)):
                result[(slice(None), *o)] += x[(slice(None), *at)].astype(np.float64) @ w[p]
    return result.reshape(-1, w.shape[-1])


# Per axis: kernel, stride, dilation, pad before, pad after, input.
WINDOWS = {
    "same": [(3, 1, 1, 1, 1, 6), (3, 1, 1, 1, 1, 5)],
    "strided": [(3, 2, 1, 1, 1, 9), (3, 2, 1, 1, 0, 8)],
    "dilated": [(3, 1, 2, 2, 2, 7), (2, 1, 3, 1, 2, 8)],
    "one by one": [(1, 1, 1, 0, 0, 4), (1, 1, 1, 0, 0, 5)],
    "one by one, strided": [(1, 2, 1, 0, 0, 5), (1, 2, 1, 0, 0, 6)],
    "asymmetric": [(2, 1, 1, 0, 1, 5), (4, 3, 1, 3, 0, 7)],
    "all padding": [(1, 1, 1, 2, 2, 1), (1, 1, 1, 3, 3, 1)],
    "one axis": [(5, 2, 1, 2, 2, 12)],
    "three axes": [(2, 1, 1, 0, 0, 3), (3, 1, 1, 1, 1, 4), (2, 2, 1, 1, 0, 4)],
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("channels", [3, 21, 33, 48])
@pytest.mark.parametrize("dense", [True, False])
def test_windows(name: str, channels: int, dense: bool) -> None:
    axes = WINDOWS[name]
    window = [((i + b + e - d * (k - 1) - 1) // s + 1, k, s, d, b, i) for k, s, d, b, e, i in axes]
    sizes = [axis[5] for axis in window]
    x = random((2, *sizes, channels * (1 if dense else 2)), np.float32)[..., :channels]
    x = at_page_end(x) if dense else x
    w = random((*(axis[1] for axis in window), channels, 20), np.float32)
    b = w.reshape(-1, 20)
    params = [axis[i] for i in range(6) for axis in window]
    shape = (2 * int(np.prod([axis[0] for axis in window])), 20)
    options = {"constant": True, "window": len(axes), "params": params, "shape": shape}
    found = multiply(x, b, **options)[0]
    assert_close(found, conv_by_definition(x, w, window), b.shape[0])
    assert_same(multiply(x, b, threads=3, **options)[0], found)
    assert_same(multiply(x, b, symbolic=True, **options)[0], found)
    assert_same(multiply(x, b, **(options | {"constant": False}))[0], found)


def test_a_grouped_window_is_a_batch() -> None:
    x = random((2, 6, 6, 8), np.float32)
    grouped = np.moveaxis(x.reshape(2, 6, 6, 2, 4), 3, 0)
    w = random((2, 3, 3, 4, 5), np.float32)
    params = [value for value in (6, 3, 1, 1, 1, 6) for _ in range(2)]
    found = multiply(
        grouped, w.reshape(2, 36, 5), constant=True, window=2, params=params, shape=(2, 72, 5), out_order=(1, 0, 2)
    )[0]
    for group in range(2):
        expected = conv_by_definition(grouped[group], w[group], [(6, 3, 1, 1, 1, 6)] * 2)
        assert_close(found[group], expected, 36)


def _cuts() -> list[Blocking]:
    return [
        Blocking(8, 48, 8, 1000, 1, True, False), Blocking(64, 96, 16, 7, 2, True, True),
        Blocking(16, 144, 16, 16, 100, False, False), Blocking(1000, 1008, 8, 64, 1, False, False),
        Blocking(1000, 1008, 24, 33, 1, True, True), Blocking(1000, 1008, 24, 33, 1, True, False),
        Blocking(32, 1008, 24, 16, 1, True, True, True),
    ]  # fmt: skip


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_cut(kind: type, constant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, residual = random((45, 65), kind), random((65, 200), kind), random((45, 200), kind)
    value = accumulator(kind) * arg(1, from_numpy(np.dtype(kind)))

    def run() -> np.ndarray:
        return multiply(a, b, operands=[residual], epilogue=(value,), constant=constant, symbolic=True)[0]

    expected = run()
    for threads in (2, 3, 8):
        again = multiply(a, b, operands=[residual], epilogue=(value,), constant=constant, threads=threads)[0]
        assert_same(again, expected)
    for cut in _cuts():
        width = gemm.select_unit(host(), *[from_numpy(np.dtype(kind))] * 3)[0].grid(symbolic_n()).columns
        unit = gemm.select_unit(host(), *[from_numpy(np.dtype(kind))] * 3)[0]
        panel = width * unit.n
        whole = replace(cut, item_columns=-(-cut.item_columns // panel) * panel)
        monkeypatch.setattr(gemm, "blocking", lambda *_, whole=whole: whole)
        assert_same(run(), expected)
        monkeypatch.undo()


def symbolic_n() -> object:
    """A size that is not known."""
    from compiler.dims import symbol

    return symbol("n")


def test_a_row_has_the_same_bits_alone_and_in_a_batch() -> None:
    a, b = random((40, 70), np.float32), random((70, 130), np.float32)
    together = multiply(a, b, constant=True)[0]
    for rows in (1, 2, 3, 5, 8):
        assert_same(multiply(a[:rows], b, constant=True)[0], together[:rows])
        assert_same(multiply(a[:rows], b)[0], together[:rows])


@pytest.mark.parametrize("kind", KINDS)
def test_other_units_give_the_same_bits(kind: type) -> None:
    others = [named(name) for name in ("host-avx2", "generic") if name in named_here()]
    for m, n, k in ((1, 70, 20), (3, 33, 9), (21, 50, 40)):
        a, b, bias = random((m, k), kind), random((k, n), kind), random((n,), kind)
        value = accumulator(kind) + arg(1, from_numpy(np.dtype(kind)))
        for constant in (False, True):
            expected = multiply(a, b, operands=[bias], epilogue=(value,), constant=constant)[0]
            for target in others:
                found = multiply(a, b, operands=[bias], epilogue=(value,), constant=constant, target=target)[0]
                assert_same(found, expected)


def named_here() -> tuple[str, ...]:
    """Names of the targets this machine can run."""
    from backends.native import target

    return tuple(name for name in target.names() if target.named(name).runs_here)


def test_a_large_transposed_a_is_packed() -> None:
    call = call_of(1200, 512, 300)
    a = View("a", float32, (1200, 300), (1, 1200))
    swapped = replace(call, spec=replace(call.spec, a_axis="column"), reads=(a, call.reads[1]))
    assert gemm.select(swapped, replace(host(), l2=1 << 20)).shape.packs_a
    assert not gemm.select(swapped, replace(host(), l2=4 << 20)).shape.packs_a
    assert not gemm.select(call, replace(host(), l2=1 << 20)).shape.packs_a


@pytest.mark.parametrize("layout", ["column", "general"])
def test_packed_a_gives_the_same_bits(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random((45, 37), np.float32, layout), random((37, 90), np.float32)
    expected = multiply(a, b, constant=True)[0]
    for module in (gemm, gemm_shape):
        monkeypatch.setattr(module, "deserves_packing", lambda *_: True)
    assert_same(multiply(a, b, constant=True)[0], expected)
    assert_same(multiply(a, b, threads=2)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 3, 11])
def test_long_chains_are_sums_of_chunks(kind: type, m: int) -> None:
    n, k = 70, 2 * PRODUCT_CHUNK + 37
    a, b = random((m, k), kind), random((k, n), kind)
    starts = range(0, k, PRODUCT_CHUNK)
    parts = [multiply(a[:, s : s + PRODUCT_CHUNK], b[s : s + PRODUCT_CHUNK])[0] for s in starts]
    expected = (parts[0] + parts[1]) + parts[2]
    for constant, symbolic in itertools.product((False, True), (False, True)):
        assert_same(multiply(a, b, constant=constant, symbolic=symbolic)[0], expected)
    value = accumulator(kind) * 2.0 + 1.0
    doubled = multiply(a, b, epilogue=(value,), constant=True)[0]
    assert_same(doubled, expected * kind(2) + kind(1))


def test_a_long_window_is_a_sum_of_chunks() -> None:
    x, b = random((1, 3, 3, 1000), np.float32), random((9000, 20), np.float32)
    found = multiply(x, b, constant=True, window=2, params=[1, 1, 3, 3, 1, 1, 1, 1, 0, 0, 3, 3], shape=(1, 20))[0]
    assert_same(found, multiply(x.reshape(1, 9000), b)[0])


def test_micro_kernels_share_the_prefetching_of_a_panel() -> None:
    found = [gemm.select(call_of(m, 768, 64), host()).shape.readers for m in (1, 8, 9, 16, 24, 128)]
    assert found == [1, 1, 2, 2, 3, 3]
