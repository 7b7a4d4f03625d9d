"""Maps and reductions of random shapes, layouts and expressions against the reference's emulate mode, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native import map as native_map
from backends.native import reduce as native_reduce
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.expr import Expr, apply, arg, cast, const, extent, index, kept, stat
from compiler.kernels import KernelCall, MapSpec, ReduceSpec, Stage
from tests.backends.native.harness import (
    TARGETS,
    Selector,
    assert_guards,
    assert_same,
    guarded,
    run,
    stride_class,
    view_of,
)

F32, F64, I64, I8 = dtypes.float32, dtypes.float64, dtypes.int64, dtypes.int8
EXTENTS = (1, 2, 3, 5, 8, 17, 33, 70)


def layout(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Random elements of `shape`, in random axis order, some axes repeated, reversed or strided."""
    repeated = rng.random(len(shape)) < 0.2
    steps = rng.choice([1, 1, 1, 2, -1], len(shape))
    base = [1 if r else n * abs(int(s)) for n, r, s in zip(shape, repeated, steps, strict=True)]
    order = rng.permutation(len(shape)) if rng.random() < 0.5 else np.arange(len(shape))
    memory = rng.integers(-20, 20, [base[axis] for axis in order]).astype(dtype)
    if dtype.kind == "f":
        memory = memory * dtype.type(0.37)
    array = memory.transpose(np.argsort(order))
    array = array[tuple(slice(None) if r else slice(None, None, int(s)) for r, s in zip(repeated, steps, strict=True))]
    return np.broadcast_to(array, shape)


def assert_equals_reference(
    selector: Selector, spec: MapSpec | ReduceSpec, reads: list[np.ndarray], writes: list[np.ndarray], threads: int
) -> None:
    """Both run into `writes`; what comes first must come again; sometimes on the narrowest vectors too."""
    views = [view_of(array, str(i)) for i, array in enumerate((*reads, *writes))]
    run_call(KernelCall(spec, tuple(views[: len(reads)]), tuple(views[len(reads) :])), reads, writes, int, "emulate")
    expected = [write.copy() for write in writes]
    for target in (TARGETS[0], TARGETS[-1]) if threads == 4 else TARGETS[:1]:
        for write in writes:
            if all(write.strides):
                write[...] = 0
        assert run(selector, spec, reads, writes, target=target, threads=threads) == 0
        for write, wanted in zip(writes, expected, strict=True):
            assert_same(write, wanted)


MAPS: list[tuple[Expr, ...]] = [
    (arg(0, F32) * arg(1, F32) + 1.5, apply("max", arg(0, F32), arg(1, F32))),
    (cast(arg(0, F64), F32), cast(arg(1, I8), I64) + index(1)),
    (apply("exp", arg(0, F32)), cast(arg(1, I8), F32) * cast(index(0), F32)),
    (apply("select", apply("lt", arg(0, I64), const(3, I64)), arg(1, I64), arg(0, I64) * 3),),
    (apply("gt", arg(0, F32), arg(1, F32)),),
]


@pytest.mark.parametrize("seed", (0, 3))
@pytest.mark.parametrize("outputs", MAPS, ids=range(len(MAPS)))
def test_maps(outputs: tuple[Expr, ...], seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.choice(EXTENTS, rng.integers(2, 5)))
    types = {node.value: node.dtype for root in outputs for node in _leaves(root)}
    reads = [layout(rng, shape, types[i].numpy) for i in sorted(types)]
    order = tuple(int(axis) for axis in rng.permutation(len(shape))) if seed % 2 else None
    made = [guarded(shape, root.dtype.numpy, order) for root in outputs]
    writes = [array for array, _ in made]
    spec = MapSpec(
        outputs, tuple(types[i] for i in sorted(types)), len(shape),
        tuple(map(stride_class, reads)), tuple(map(stride_class, writes)),
    )  # fmt: skip
    assert_equals_reference(native_map.select, spec, reads, writes, 1 + seed)
    for _, memory in made:
        assert_guards(memory)


def _leaves(root: Expr) -> list[Expr]:
    return [root] if root.op == "arg" else [leaf for a in root.args for leaf in _leaves(a)]


X, Y = arg(0, F32), arg(1, F32)
MEAN = stat(0, F32) / extent(F32)
REDUCTIONS: list[tuple[tuple[Stage, ...], tuple[Expr, ...], tuple[Expr, ...]]] = [
    (
        (Stage("sum", X + Y, keep=True), Stage("sum", (kept(0, F32) - MEAN) * (kept(0, F32) - MEAN))),
        ((kept(0, F32) - MEAN) / apply("sqrt", stat(1, F32) / extent(F32) + 1e-5) * Y,),
        (MEAN,),
    ),
    (
        (Stage("max", X * Y), Stage("sum", apply("exp", X * Y - stat(0, F32)), keep=True)),
        (kept(1, F32) / stat(1, F32), kept(1, F32)),
        (),
    ),
    (
        (
            Stage("argmax", X),
            Stage("min", Y, keep=True),
            Stage("prod", kept(1, F32) * 0.01),
            Stage("any", apply("gt", X, Y)),
        ),
        (apply("select", stat(3, dtypes.boolean), kept(1, F32), X + cast(index(1), F32)),),
        (stat(0, I64), stat(2, F32), stat(3, dtypes.boolean)),
    ),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("stages, elements, rows", REDUCTIONS, ids=["norm", "softmax", "mixed"])
def test_reductions(
    stages: tuple[Stage, ...], elements: tuple[Expr, ...], rows: tuple[Expr, ...], order: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    outer, reduced = [(1, 1), (2, 1), (1, 2), (2, 2)][seed]
    shape = tuple(int(n) for n in rng.choice(EXTENTS[:-1], outer + reduced))
    reads = [layout(rng, shape, np.dtype(np.float32)) for _ in range(2)]
    made = [guarded(shape, root.dtype.numpy) for root in elements]
    made += [guarded(shape[:outer], root.dtype.numpy) for root in rows]
    writes = [array for array, _ in made[: len(elements)]]
    for row, _ in made[len(elements) :]:
        writes.append(np.lib.stride_tricks.as_strided(row, shape, row.strides + (0,) * reduced))
    axis = -1 if order == "row" else outer - 1
    spec = ReduceSpec(
        (F32, F32), stages, elements, rows, outer, reduced, order,
        tuple(stride_class(read, axis) for read in reads), tuple(stride_class(write, axis) for write in writes),
    )  # fmt: skip
    assert_equals_reference(native_reduce.select, spec, reads, writes, 1 + seed)
    for _, memory in made:
        assert_guards(memory)
