"""Reductions against compiler/canonical.py bit for bit, and against NumPy; sizes, types, strides, stages, chunking."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.reduce import select
from backends.native.target import Target, host
from compiler import dtypes
from compiler.canonical import canonical_reduce, canonical_sum
from compiler.expr import Expr, apply, arg, cast, const, extent, index, kept, stat
from compiler.kernels import ReduceSpec, Stage
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class

SIZES = (0, 1, 2, 7, 16, 17, 63, 64, 65, 127, 128, 200, 1009)
ORDERS = ("row", "column")


def run_reduce(
    stages: list[Stage],
    reads: list[np.ndarray],
    reduced: int,
    *,
    elements: tuple[Expr, ...] = (),
    rows: tuple[Expr, ...] = (),
    order: str = "row",
    target: Target | None = None,
    threads: int = 1,
) -> list[np.ndarray]:
    """The outputs of a reduction over the last `reduced` axes of reads broadcast together; canaries checked."""
    shape = np.broadcast_shapes(*(read.shape for read in reads))
    reads = [np.broadcast_to(read, shape) for read in reads]
    outer = len(shape) - reduced
    made = [guarded(shape, root.dtype.numpy) for root in elements]
    made += [guarded(shape[:outer], root.dtype.numpy) for root in rows]
    flat = [array for array, _ in made]
    writes = flat[: len(elements)]
    writes += [
        np.lib.stride_tricks.as_strided(row, shape, row.strides + (0,) * reduced) for row in flat[len(elements) :]
    ]
    axis = -1 if order == "row" else outer - 1
    spec = ReduceSpec(
        tuple(dtypes.from_numpy(read.dtype) for read in reads),
        tuple(stages),
        elements,
        rows,
        outer,
        reduced,
        order,
        tuple(stride_class(read, axis) for read in reads),
        tuple(stride_class(write, axis) for write in writes),
    )
    assert run(select, spec, reads, writes, target=target, threads=threads) == 0
    for _, memory in made:
        assert_guards(memory)
    return flat


def samples(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
    return (rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 4, shape)).astype(dtype)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_sums_are_canonical(rng: np.random.Generator, name: str, order: str, target: Target) -> None:
    dtype = dtypes.named(name)
    for size in SIZES:
        a = samples(rng, (3, 5, size), dtype.numpy)
        stages = [Stage("sum", arg(0, dtype))]
        (found,) = run_reduce(stages, [a], 1, rows=(stat(0, dtype),), order=order, target=target)
        assert_same(found, canonical_reduce("sum", a, order=order))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("order", ORDERS)
def test_every_function(rng: np.random.Generator, order: str, target: Target) -> None:
    for fn in ("prod", "max", "min", "argmax", "argmin"):
        for size in (1, 7, 64, 130):
            a = samples(rng, (2, 9, size), np.dtype(np.float32))
            a[0, 3, size // 2] = np.nan
            a[1, :, -1] = a[1, :, 0]
            kind = dtypes.int64 if fn.startswith("arg") else dtypes.float32
            stages = [Stage(fn, arg(0, dtypes.float32))]
            (found,) = run_reduce(stages, [a], 1, rows=(stat(0, kind),), order=order, target=target)
            assert_same(found, canonical_reduce(fn, a, order=order))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "name", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float64", "float16"]
)
def test_every_type(rng: np.random.Generator, name: str, order: str) -> None:
    dtype = dtypes.named(name)
    a = samples(rng, (4, 6, 77), dtype.numpy)
    if name == "float16":
        a = np.clip(a, -100, 100)
    fns = ("sum", "max", "min", "argmax", "argmin")
    stages = [Stage(fn, arg(0, dtype)) for fn in fns]
    rows = tuple(stat(i, dtypes.int64 if fn.startswith("arg") else dtype) for i, fn in enumerate(fns))
    for fn, found in zip(fns, run_reduce(stages, [a], 1, rows=rows, order=order), strict=True):
        assert_same(found, canonical_reduce(fn, a, order=order))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("order", ORDERS)
def test_any_and_all(rng: np.random.Generator, order: str, target: Target) -> None:
    a = rng.random((3, 20, 70)) < 0.02
    b = rng.random((3, 20, 70)) < 0.98
    stages = [Stage("any", arg(0, dtypes.boolean)), Stage("all", arg(1, dtypes.boolean))]
    rows = (stat(0, dtypes.boolean), stat(1, dtypes.boolean))
    found = run_reduce(stages, [a, b], 1, rows=rows, order=order, target=target)
    assert_same(found[0], a.any(-1))
    assert_same(found[1], b.all(-1))


@pytest.mark.parametrize("order", ORDERS)
def test_empty_rows_give_identities(order: str) -> None:
    a, b = np.zeros((2, 3, 0), np.float32), np.zeros((2, 3, 0), np.int16)
    fns = ("sum", "prod", "max", "min")
    for array, dtype in ((a, dtypes.float32), (b, dtypes.int16)):
        rows = tuple(stat(i, dtype) for i in range(4))
        found = run_reduce([Stage(fn, arg(0, dtype)) for fn in fns], [array], 1, rows=rows, order=order)
        for fn, result in zip(fns, found, strict=True):
            assert_same(result, canonical_reduce(fn, array))


@pytest.mark.parametrize("order", ORDERS)
def test_infinities_and_ties(order: str) -> None:
    a = np.full((3, 4, 70), -np.inf, np.float32)
    a[1, :, 5:] = 3.0
    a[2, 0, 69] = np.inf
    stages = [Stage("argmax", arg(0, dtypes.float32)), Stage("argmin", arg(0, dtypes.float32))]
    found = run_reduce(stages, [a], 1, rows=(stat(0, dtypes.int64), stat(1, dtypes.int64)), order=order)
    assert_same(found[0], a.argmax(-1))
    assert_same(found[1], a.argmin(-1))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(3, 4, 5, 7), (2, 3, 1, 70), (2, 2, 9, 64), (1, 5, 4, 130), (2, 3, 0, 5)])
def test_several_reduced_axes(rng: np.random.Generator, shape: tuple[int, ...], order: str) -> None:
    a = np.swapaxes(samples(rng, (shape[0], shape[2], shape[1], shape[3]), np.dtype(np.float32)), 1, 2)
    stages = [Stage("sum", arg(0, dtypes.float32)), Stage("argmax", arg(0, dtypes.float32) * 2.0)]
    rows = (stat(0, dtypes.float32), stat(1, dtypes.int64))
    for target in TARGETS:
        found = run_reduce(stages, [a], 2, rows=rows, order=order, target=target)
        assert_same(found[0], canonical_reduce("sum", a, (2, 3), order))
        assert_same(found[1], canonical_reduce("argmax", a * np.float32(2), (2, 3), order))


@pytest.mark.parametrize("order", ORDERS)
def test_strides(rng: np.random.Generator, order: str) -> None:
    a = samples(rng, (90, 4, 3), np.dtype(np.float32)).transpose(2, 1, 0)
    b = samples(rng, (3, 4, 90), np.dtype(np.float32))[:, ::-1, ::-1]
    c = samples(rng, (4, 1), np.dtype(np.float32))
    root = arg(0, dtypes.float32) * arg(1, dtypes.float32) + arg(2, dtypes.float32)
    (found,) = run_reduce([Stage("sum", root)], [a, b, c], 1, rows=(stat(0, dtypes.float32),), order=order)
    assert_same(found, canonical_reduce("sum", a * b + c, order=order))


def layer_norm(x: Expr, gamma: Expr, beta: Expr) -> tuple[list[Stage], tuple[Expr, ...], tuple[Expr, ...]]:
    dtype = x.dtype
    mean = stat(0, dtype) / extent(dtype)
    centred = kept(0, dtype) - mean
    stages = [Stage("sum", x, keep=True), Stage("sum", centred * centred)]
    deviation = apply("sqrt", stat(1, dtype) / extent(dtype) + 1e-5)
    return stages, (centred / deviation * gamma + beta,), (mean, deviation)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("size", [1, 49, 64, 384])
def test_layer_norm(rng: np.random.Generator, size: int, residual: bool, order: str, target: Target) -> None:
    f32 = np.dtype(np.float32)
    x, r = samples(rng, (2, 7, size), f32), samples(rng, (2, 7, size), f32)
    gamma, beta = samples(rng, (size,), f32), samples(rng, (size,), f32)
    a = [arg(i, dtypes.float32) for i in range(4)]
    stages, elements, rows = layer_norm(a[0] + a[3] if residual else a[0], a[1], a[2])
    reads = [x, gamma, beta, r] if residual else [x, gamma, beta]
    found = run_reduce(stages, reads, 1, elements=elements, rows=rows, order=order, target=target)
    row = x + r if residual else x
    mean = canonical_reduce("sum", row, order=order)[..., None] / np.float32(size)
    centred = row - mean
    deviation = np.sqrt(
        canonical_reduce("sum", centred * centred, order=order)[..., None] / np.float32(size) + np.float32(1e-5)
    )
    assert_same(found[0], centred / deviation * gamma + beta)
    assert_same(found[1], mean[..., 0])
    assert_same(found[2], deviation[..., 0])


def softmax(score: Expr) -> tuple[list[Stage], tuple[Expr, ...]]:
    dtype = score.dtype
    stages = [Stage("max", score), Stage("sum", apply("exp", score - stat(0, dtype)), keep=True)]
    return stages, (kept(1, dtype) / stat(1, dtype),)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_softmax(rng: np.random.Generator, name: str, order: str) -> None:
    dtype = dtypes.named(name)
    for size in (1, 10, 64, 129):
        x = samples(rng, (3, 5, size), dtype.numpy)
        stages, elements = softmax(arg(0, dtype))
        results = [run_reduce(stages, [x], 1, elements=elements, order=order, target=t)[0] for t in TARGETS]
        wide = x.astype(np.longdouble)
        exact = np.exp(wide - wide.max(-1, keepdims=True))
        exact /= exact.sum(-1, keepdims=True)
        assert np.allclose(results[0], exact.astype(dtype.numpy), rtol=100 * np.finfo(dtype.numpy).eps, atol=1e-30)
        for other in results[1:]:
            assert_same(other, results[0])


def test_positions_and_masks_in_a_row(rng: np.random.Generator) -> None:
    x = samples(rng, (4, 33, 33), np.dtype(np.float32))
    score = apply("select", apply("le", index(2), index(1)), arg(0, dtypes.float32), const(-np.inf, dtypes.float32))
    (found,) = run_reduce([Stage("max", score)], [x], 1, rows=(stat(0, dtypes.float32),))
    assert_same(found, np.where(np.tri(33, dtype=bool), x, np.float32(-np.inf)).max(-1))


def test_accumulating_wider_than_the_input(rng: np.random.Generator) -> None:
    x = samples(rng, (5, 300), np.dtype(np.int8))
    stages = [
        Stage("sum", cast(arg(0, dtypes.int8), dtypes.int64)),
        Stage("sum", cast(arg(0, dtypes.int8), dtypes.float64)),
    ]
    found = run_reduce(stages, [x], 1, rows=(stat(0, dtypes.int64), cast(stat(1, dtypes.float64), dtypes.float32)))
    assert_same(found[0], x.astype(np.int64).sum(-1))
    assert_same(found[1], canonical_sum(x.astype(np.float64)).astype(np.float32))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shape", [(2000, 65), (40, 3001), (30_000, 4), (1, 33_000)])
def test_chunks_do_not_show(rng: np.random.Generator, shape: tuple[int, int], order: str) -> None:
    x = samples(rng, shape, np.dtype(np.float32))
    a = arg(0, dtypes.float32)
    stages, elements, rows = layer_norm(a, a, a)
    one, many = (
        run_reduce(stages, [x], 1, elements=elements, rows=rows, order=order, threads=threads) for threads in (1, 5)
    )
    for first, second in zip(one, many, strict=True):
        assert_same(first, second)


def test_no_outer_axis(rng: np.random.Generator) -> None:
    x = samples(rng, (777,), np.dtype(np.float64))
    for order in ORDERS:
        (found,) = run_reduce(
            [Stage("sum", arg(0, dtypes.float64))], [x], 1, rows=(stat(0, dtypes.float64),), order=order
        )
        assert_same(found[()], canonical_sum(x)[()])


def test_a_rows_result_does_not_depend_on_its_batch(rng: np.random.Generator) -> None:
    x = samples(rng, (8, 384), np.dtype(np.float32))
    a = arg(0, dtypes.float32)
    stages, elements, _ = layer_norm(a, a, a)
    (batch,) = run_reduce(stages, [x], 1, elements=elements, target=host())
    for row in range(8):
        (alone,) = run_reduce(stages, [x[row : row + 1]], 1, elements=elements)
        assert_same(alone[0], batch[row])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_long_expressions_go_piece_by_piece(rng: np.random.Generator, target: Target) -> None:
    x = samples(rng, (2, 2500), np.dtype(np.float32))
    y = samples(rng, (2, 2500), np.dtype(np.float32))
    a, b = arg(0, dtypes.float32), arg(1, dtypes.float32)
    long = kept(0, dtypes.float32) - stat(0, dtypes.float32)
    for _ in range(20):
        long = long * 0.5 + b
    stages = [Stage("max", a * b, keep=True), Stage("sum", long)]
    found = run_reduce(stages, [x, y], 1, rows=(stat(1, dtypes.float32),), target=target)
    expected = x * y - canonical_reduce("max", x * y)[:, None]
    for _ in range(20):
        expected = expected * np.float32(0.5) + y
    assert_same(found[0], canonical_sum(expected))


def test_several_reduced_axes_with_element_outputs(rng: np.random.Generator) -> None:
    x = samples(rng, (3, 6, 5, 7), np.dtype(np.float32)).transpose(1, 2, 0, 3)
    a = arg(0, dtypes.float32)
    stages, elements, rows = layer_norm(a + 1.0, a, a)
    found = run_reduce(stages, [x], 2, elements=elements, rows=rows)
    flat = np.ascontiguousarray(x).reshape(6, 5, 21)
    wanted = run_reduce(stages, [flat], 1, elements=elements, rows=rows)
    assert_same(found[0].reshape(flat.shape), wanted[0])
    for first, second in zip(found[1:], wanted[1:], strict=True):
        assert_same(first, second)
