"""Pools and depthwise convolution against a plain NumPy loop, bit for bit."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest

from backends.native.target import Target
from backends.native.window import select, whole_windows
from compiler import dtypes
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast
from compiler.kernels import WindowSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class

Geometry = tuple[tuple[int, ...], ...]  # kernel, strides, dilations, pads before, pads after


def out_shape(spatial: tuple[int, ...], geometry: Geometry) -> tuple[int, ...]:
    return tuple(
        (n + before + after - d * (k - 1) - 1) // s + 1
        for n, k, s, d, before, after in zip(spatial, *geometry, strict=True)
    )


def fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c of float32, rounded once: exact in float64 up to a double rounding the samples avoid."""
    return (a.astype(np.float64) * b + c).astype(a.dtype)


def expected(
    fn: str, x: np.ndarray, w: np.ndarray | None, geometry: Geometry, acc: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """The accumulators and the counts of visited positions."""
    kernel, stride, dilation, pad, _ = geometry
    spatial = x.shape[1:-1]
    shape = out_shape(spatial, geometry)
    start = 0 if fn != "max" else -np.inf if acc.kind == "f" else np.iinfo(acc).min
    total = np.full((x.shape[0], *shape, x.shape[-1]), start, acc)
    count = np.zeros(shape, np.int64)
    for o in itertools.product(*map(range, shape)):
        for k in itertools.product(*map(range, kernel)):
            at = tuple(i * s - p + j * d for i, s, p, j, d in zip(o, stride, pad, k, dilation, strict=True))
            if not all(0 <= a < n for a, n in zip(at, spatial, strict=True)):
                continue
            count[o] += 1
            here, value = (slice(None), *o), x[(slice(None), *at)].astype(acc)
            if fn == "max":
                total[here] = np.where((value > total[here]) | (value != value), value, total[here])
            elif fn == "sum":
                total[here] += value
            else:
                assert w is not None
                factor = w[k].astype(acc)
                total[here] = fma(value, factor, total[here]) if acc.kind == "f" else value * factor + total[here]
    return total, count


def run_window(
    fn: str,
    x: np.ndarray,
    geometry: Geometry,
    *,
    w: np.ndarray | None = None,
    epilogue: tuple[Expr, ...] = (),
    operands: tuple[np.ndarray, ...] = (),
    acc: DType | None = None,
    target: Target | None = None,
    threads: int = 1,
) -> list[np.ndarray]:
    dtype = dtypes.from_numpy(x.dtype)
    acc = acc or dtype
    epilogue = epilogue or (arg(0, acc),)
    shape = (x.shape[0], *out_shape(x.shape[1:-1], geometry), x.shape[-1])
    made = [guarded(shape, root.dtype.numpy) for root in epilogue]
    writes = [array for array, _ in made]
    extra = [np.broadcast_to(o, shape) for o in operands]
    reads = [x, *([w] if w is not None else []), *extra]
    spec = WindowSpec(
        fn, dtype, acc, x.ndim - 2, epilogue, tuple(dtypes.from_numpy(o.dtype) for o in operands),
        tuple(map(stride_class, reads)), tuple(map(stride_class, writes)),
    )  # fmt: skip
    params = [*shape[1:-1], *geometry[0], *geometry[1], *geometry[2], *geometry[3], *x.shape[1:-1]]
    assert run(select, spec, reads, writes, target=target, threads=threads, params=params) == 0
    for _, memory in made:
        assert_guards(memory)
    return writes


GEOMETRIES: list[tuple[tuple[int, ...], Geometry]] = [
    ((13,), ((3,), (1,), (1,), (1,), (1,))),
    ((9, 11), ((3, 3), (2, 2), (1, 1), (1, 1), (1, 1))),
    ((9, 11), ((2, 3), (1, 2), (2, 1), (0, 2), (1, 0))),
    ((5, 5), ((5, 5), (1, 1), (1, 1), (4, 4), (4, 4))),
    ((4, 6), ((3, 3), (1, 1), (3, 3), (3, 3), (3, 3))),
    ((3, 4, 5), ((2, 2, 2), (1, 2, 1), (1, 1, 2), (1, 0, 1), (0, 1, 1))),
    ((8, 8), ((1, 1), (3, 3), (1, 1), (0, 0), (0, 0))),
    ((2, 2), ((1, 1), (1, 1), (1, 1), (3, 3), (3, 3))),
]


def samples(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """float32 with few mantissa bits, so that a product and a sum in float64 are exact."""
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16).astype(np.float32)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("fn", ["max", "sum", "dot"])
def test_geometries(rng: np.random.Generator, fn: str, target: Target) -> None:
    for spatial, geometry in GEOMETRIES:
        for channels in (1, 16, 19):
            x = samples(rng, (2, *spatial, channels))
            w = samples(rng, (*geometry[0], channels)) if fn == "dot" else None
            (found,) = run_window(fn, x, geometry, w=w, target=target)
            assert_same(found, expected(fn, x, w, geometry, x.dtype)[0])


@pytest.mark.parametrize("name", ["float64", "int8", "uint8", "int32"])
def test_types(rng: np.random.Generator, name: str) -> None:
    x = rng.integers(0, 100, (1, 7, 7, 70)).astype(name)
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    (found,) = run_window("max", x, geometry)
    assert_same(found, expected("max", x, None, geometry, x.dtype)[0])
    w = rng.integers(0, 100, (3, 3, 70)).astype(name)
    acc = dtypes.int32 if x.dtype.kind in "iu" else dtypes.float64
    (found,) = run_window("dot", x, geometry, w=w, acc=acc)
    assert_same(found, expected("dot", x, w, geometry, acc.numpy)[0])


def test_max_propagates_nan(rng: np.random.Generator) -> None:
    x = samples(rng, (1, 6, 6, 20))
    x[0, 2, 3, 5] = np.nan
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    (found,) = run_window("max", x, geometry)
    assert_same(found, expected("max", x, None, geometry, x.dtype)[0])
    assert np.isnan(found[0, 1:4, 2:5, 5]).all() and np.isnan(found).sum() == 9


def test_epilogue_with_count_and_operands(rng: np.random.Generator) -> None:
    x, bias = samples(rng, (2, 6, 7, 21)), samples(rng, (21,))
    geometry = ((3, 2), (1, 1), (1, 1), (1, 1), (1, 0))
    total, count = expected("sum", x, None, geometry, x.dtype)
    residual = samples(rng, total.shape)
    f32 = [arg(i, dtypes.float32) for i in range(4)]
    mean = f32[0] / f32[1]
    outputs = (apply("max", mean + f32[2], f32[3]), cast(mean, dtypes.float64))
    found = run_window("sum", x, geometry, epilogue=outputs, operands=(bias, residual))
    average = total / count[..., None].astype(np.float32)
    assert_same(found[0], np.maximum(average + bias, residual))
    assert_same(found[1], average.astype(np.float64))


def test_strided_input(rng: np.random.Generator) -> None:
    geometry = ((3, 3), (2, 1), (1, 1), (1, 1), (1, 1))
    for x in (samples(rng, (2, 18, 9, 40)).transpose(0, 2, 1, 3), samples(rng, (2, 18, 9, 7)).transpose(0, 3, 2, 1)):
        (found,) = run_window("sum", x, geometry)
        assert_same(found, expected("sum", x, None, geometry, x.dtype)[0])


def test_chunks_do_not_show(rng: np.random.Generator) -> None:
    x, w = samples(rng, (3, 40, 30, 33)), samples(rng, (3, 3, 33))
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1), (1, 1))
    one, many = (run_window("dot", x, geometry, w=w, threads=threads)[0] for threads in (1, 5))
    assert_same(one, many)


def test_whole_windows() -> None:
    for out, kernel, stride, dilation, pad, extent in [(10, 3, 1, 1, 1, 10), (5, 3, 2, 1, 1, 10), (4, 5, 1, 2, 4, 4)]:
        inside = [
            o for o in range(out)
            if o * stride - pad >= 0 and o * stride - pad + (kernel - 1) * dilation < extent
        ]  # fmt: skip
        first, last = whole_windows(out, kernel, stride, dilation, pad, extent)
        assert list(range(first, last)) == inside
