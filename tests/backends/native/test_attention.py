"""Fused attention against the reference's emulate mode, bit for bit, and against a plain softmax in float64."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.attention import select
from backends.native.causal import reach
from backends.native.target import Target
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.expr import Expr, apply, arg, cast, const, index
from compiler.kernels import AttentionSpec, KernelCall
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class, view_of

F32 = dtypes.float32


def run_attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    score: Expr,
    operands: tuple[np.ndarray, ...] = (),
    *,
    target: Target | None = None,
    threads: int = 1,
    emulate: bool = False,
) -> np.ndarray:
    """The result for operands broadcast to [batch.., L, S]; canaries checked. Or what the reference emulates."""
    dtype = dtypes.from_numpy(q.dtype)
    shape = (*q.shape[:-1], v.shape[-1])
    extra = [np.broadcast_to(o, (*q.shape[:-1], k.shape[-2])) for o in operands]
    spec = AttentionSpec(
        dtype,
        dtype,
        q.ndim - 2,
        score,
        tuple(dtypes.from_numpy(o.dtype) for o in extra),
        tuple(map(stride_class, extra)),
    )
    out, memory = guarded(shape, q.dtype)
    reads = [q, k, v, *extra]
    if emulate:
        views = tuple(view_of(array, str(i)) for i, array in enumerate((*reads, out)))
        run_call(KernelCall(spec, views[:-1], views[-1:]), reads, [out], int, "emulate")
        return out
    assert run(select, spec, reads, [out], target=target, threads=threads) == 0
    assert_guards(memory)
    return out


def heads(
    rng: np.random.Generator, batch: int, count: int, rows: int, size: int, dtype: type = np.float32
) -> np.ndarray:
    """[batch, count, rows, size] as a model has it: heads split from [batch, rows, count * size]."""
    return rng.standard_normal((batch, rows, count, size)).astype(dtype).transpose(0, 2, 1, 3)


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, bias: np.ndarray | float = 0.0) -> np.ndarray:
    scores = q.astype(np.float64) @ k.astype(np.float64).swapaxes(-1, -2) * scale + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v.astype(np.float64)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_bit_for_bit(rng: np.random.Generator, name: str, target: Target) -> None:
    dtype = dtypes.named(name)
    for queries, keys, size, values in [
        (1, 1, 1, 1),
        (1, 40, 8, 64),
        (3, 17, 5, 7),
        (5, 20, 8, 32),
        (9, 33, 16, 16),
        (17, 70, 8, 33),
    ]:
        q, k, v = (heads(rng, 1, 2, n, e, dtype.numpy) for n, e in ((queries, size), (keys, size), (keys, values)))
        score = arg(0, dtype) * 0.3
        found = run_attention(q, k, v, score, target=target)
        assert_same(found, run_attention(q, k, v, score, emulate=True))


@pytest.mark.parametrize("queries, keys, size, values", [(128, 128, 64, 64), (197, 197, 64, 64), (5, 300, 80, 40)])
def test_against_float64(rng: np.random.Generator, queries: int, keys: int, size: int, values: int) -> None:
    q, k, v = heads(rng, 2, 3, queries, size), heads(rng, 2, 3, keys, size), heads(rng, 2, 3, keys, values)
    bias = np.where(rng.random((2, 1, 1, keys)) < 0.2, np.float32(-1e9), np.float32(0))
    found = run_attention(q, k, v, arg(0, F32) * 0.125 + arg(1, F32), (bias,))
    assert np.allclose(found, exact(q, k, v, 0.125, bias), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_causal(rng: np.random.Generator, target: Target) -> None:
    q, k, v = (heads(rng, 1, 2, 21, 8) for _ in range(3))
    allowed = apply("le", index(1), index(0))
    score = apply("select", allowed, arg(0, F32) * 0.5, const(-np.inf, F32))
    found = run_attention(q, k, v, score, target=target)
    assert_same(found, run_attention(q, k, v, score, emulate=True))
    assert_same(found[:, :, 0], v[:, :, 0])


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_masks_of_every_broadcast(rng: np.random.Generator, target: Target) -> None:
    q, k, v = heads(rng, 2, 2, 9, 8), heads(rng, 2, 2, 19, 8), heads(rng, 2, 2, 19, 8)
    flag = rng.random((2, 1, 9, 19)) < 0.7
    flag[1, 0, 4] = False  # a row that sees nothing
    row = rng.standard_normal((2, 1, 9, 1)).astype(np.float32)
    transposed = rng.standard_normal((2, 2, 19, 9)).astype(np.float32).swapaxes(2, 3)
    seen = apply("select", arg(1, dtypes.boolean), arg(0, F32) * arg(2, F32) + arg(3, F32), const(-np.inf, F32))
    operands = (flag, row, transposed)
    found = run_attention(q, k, v, seen, operands, target=target)
    assert_same(found, run_attention(q, k, v, seen, operands, emulate=True))
    assert (found[1, :, 4] == 0).all()


def test_nan_and_infinity_reach_their_rows_only(rng: np.random.Generator) -> None:
    q, k, v = (heads(rng, 1, 1, 6, 4) for _ in range(3))
    bias = np.zeros((6, 6), np.float32)
    bias[2, 3], bias[4, 1] = np.nan, np.inf
    score = arg(0, F32) + arg(1, F32)
    found = run_attention(q, k, v, score, (bias,))
    assert_same(found, run_attention(q, k, v, score, (bias,), emulate=True))
    assert np.isnan(found[0, 0]).any(-1).tolist() == [False, False, True, False, True, False]


def test_no_keys_gives_zeros(rng: np.random.Generator) -> None:
    q, k = heads(rng, 1, 2, 5, 4), np.zeros((1, 2, 0, 4), np.float32)
    assert (run_attention(q, k, k, arg(0, F32)) == 0).all()


def test_no_batch(rng: np.random.Generator) -> None:
    q, k, v = (rng.standard_normal((n, 8)).astype(np.float32) for n in (3, 5, 5))
    found = run_attention(q, k, v, arg(0, F32))
    assert_same(found, run_attention(q, k, v, arg(0, F32), emulate=True))


def test_long_rows_take_smaller_blocks(rng: np.random.Generator) -> None:
    q, k, v = heads(rng, 1, 1, 40, 4), heads(rng, 1, 1, 20_000, 4), heads(rng, 1, 1, 20_000, 4)
    assert np.allclose(run_attention(q, k, v, arg(0, F32)), exact(q, k, v, 1.0), rtol=1e-4, atol=1e-5)


def test_chunks_do_not_show(rng: np.random.Generator) -> None:
    for batch, count, rows in [(1, 1, 300), (2, 12, 33), (1, 5, 130)]:
        q, k, v = (heads(rng, batch, count, rows, 16) for _ in range(3))
        score = cast(arg(0, F32), F32) * 0.25
        one, two, many = (run_attention(q, k, v, score, threads=threads) for threads in (1, 2, 7))
        assert_same(one, two)
        assert_same(one, many)


@pytest.mark.parametrize("queries", [1, 5, 70])
def test_keys_and_values_shared_by_neighbours(rng: np.random.Generator, queries: int) -> None:
    q, k, v = (rng.standard_normal((2, 3, 4, n, 16)).astype(np.float32) for n in (queries, 37, 37))
    score, shape = arg(0, F32) * 0.25, (2, 3, 4, 37, 16)
    alike = [np.broadcast_to(x[:, :, :1], shape) for x in (k, v)]
    # All of both, only keys, only values, keys and values by different axes.
    for keys, values in (alike, (alike[0], v), (k, alike[1]), (alike[0], np.broadcast_to(v[:, :1], shape))):
        expected = run_attention(q, np.ascontiguousarray(keys), np.ascontiguousarray(values), score)
        for threads in (1, 2, 7):
            assert_same(run_attention(q, keys, values, score, threads=threads), expected)


def test_a_rows_result_does_not_depend_on_its_batch(rng: np.random.Generator) -> None:
    q, k, v = (heads(rng, 8, 2, 24, 16) for _ in range(3))
    batch = run_attention(q, k, v, arg(0, F32) * 0.25)
    for i in range(8):
        assert_same(run_attention(q[i : i + 1], k[i : i + 1], v[i : i + 1], arg(0, F32) * 0.25)[0], batch[i])


def test_reach() -> None:
    i, j, x, never = index(0), index(1), arg(0, F32), const(-np.inf, F32)

    def masked(condition: Expr) -> int | None:
        return reach(apply("select", condition, x, never))

    assert masked(apply("le", j, i)) == 0
    assert masked(apply("lt", j, i)) == -1
    assert masked(apply("ge", i + 3, j)) == 3
    assert masked(apply("gt", i - 1, j + 1)) == -3
    window = apply("and", apply("ge", j, i - 9), apply("le", j, i + 2))
    assert masked(window) == 2
    assert reach(apply("select", apply("le", j, i), apply("select", window, x, never), never)) == 0
    assert masked(apply("ge", j, i)) is None
    assert masked(apply("le", j + j, i)) is None
    assert reach(apply("select", apply("le", j, i), x, const(-1e9, F32))) is None


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("shift", [-70, -1, 0, 5, 80])
def test_causal_skips_nothing_that_counts(rng: np.random.Generator, shift: int, target: Target) -> None:
    q, k, v = heads(rng, 1, 1, 140, 4), heads(rng, 1, 1, 150, 4), heads(rng, 1, 1, 150, 4)
    score = apply("select", apply("le", index(1), index(0) + shift), arg(0, F32), const(-np.inf, F32))
    found = run_attention(q, k, v, score, target=target, threads=2 if shift else 5)
    assert_same(found, run_attention(q, k, v, score, emulate=True))
