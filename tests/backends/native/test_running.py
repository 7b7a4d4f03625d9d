"""Running reductions against the emulated ones and NumPy: types, strides, sizes past vectors, every split."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.running import PIECE, select
from backends.native.target import Target, host
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.expr import apply, arg, cast
from compiler.kernels import KernelCall
from compiler.ops.core_running import FUNCTIONS, state_type
from compiler.running import RunningSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, stride_class, view_of


def assert_runs(
    x: np.ndarray,
    fn: str = "sum",
    exclusive: bool = False,
    *,
    target: Target | None = None,
    threads: int = 1,
    order: tuple[int, ...] = (0, 1, 2),
) -> np.ndarray:
    """The native result over the middle axis, which has the emulated bits."""
    dtype = dtypes.from_numpy(x.dtype)
    state = state_type(dtype)
    write, memory = guarded(x.shape, x.dtype, order)
    _, combine, start = FUNCTIONS[fn]
    spec = RunningSpec(
        apply(combine, arg(0, state), cast(arg(1, dtype), state)),
        cast(arg(0, state), dtype),
        start,
        exclusive,
        x.shape[2] == 1,
        dtype,
        (stride_class(x),),
        (stride_class(write),),
    )
    assert run(select, spec, [x], [write], target=target or host(), threads=threads) == 0
    assert_guards(memory)
    expected = np.zeros(x.shape, x.dtype)
    run_call(KernelCall(spec, (view_of(x, "x"),), (view_of(write, "y"),)), [x], [expected], int, "emulate")
    assert_same(np.ascontiguousarray(write), expected)
    return write


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("fn", FUNCTIONS)
@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "int8", "uint16", "int32", "int64", "uint64"])
def test_types_and_sizes(rng: np.random.Generator, name: str, fn: str, target: Target) -> None:
    dtype = dtypes.named(name).numpy
    for shape in ((1, 1, 1), (3, 9, 1), (2, 0, 5), (1, 17, 15), (2, 4, 64), (2, 3, 2 * PIECE + 77)):
        x = (rng.standard_normal(shape) * 2).astype(dtype)
        for exclusive in (False, True):
            assert_runs(x, fn, exclusive, target=target)


def test_float16(rng: np.random.Generator) -> None:
    for shape in ((3, 9, 1), (2, 4, 71)):
        assert_runs(rng.standard_normal(shape).astype(np.float16))


def test_strides_of_either_sign(rng: np.random.Generator) -> None:
    x = rng.standard_normal((40, 30, 7)).astype(np.float32)
    for view in (x.T, x[:, ::-1], x[::-2, 1::3, ::-2], np.broadcast_to(x[:, :, :1], x.shape), x[:, :, 3:4]):
        for order in ((0, 1, 2), (2, 1, 0), (0, 2, 1)):
            assert_runs(view, order=order)


def test_long_rows_are_as_good_as_double_precision(rng: np.random.Generator) -> None:
    x = rng.random((1, 100_000, 1)).astype(np.float32)
    found = assert_runs(x)
    assert_same(found, np.cumsum(x.astype(np.float64), axis=1).astype(np.float32))


@pytest.mark.parametrize("shape", [(500, 40, 1), (3, 50, 2000), (40, 30, 20)])
def test_splits_do_not_show(rng: np.random.Generator, shape: tuple[int, int, int]) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    assert_same(assert_runs(x, threads=1), assert_runs(x, threads=6))
