"""Which products are shared out over K, and what they become."""

from __future__ import annotations

import numpy as np
import pytest

from backends.reference.emulator import EmulatedExecutable
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.canonical import PRODUCT_CHUNK
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import arg, cast, extent, stat
from compiler.ir import Graph
from compiler.kernels import GemmSpec, KernelCall, ReduceSpec
from compiler.lowering.split_k import FEW_TILES, TILE, Cut, cut_of
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from tests.backends.native.harness import assert_same

F32, I8, I32 = dtypes.float32, dtypes.int8, dtypes.int32
LONG = 2 * PRODUCT_CHUNK
RNG = np.random.default_rng(8192)


def product(m: Size, k: Size, n: Size, dtype: DType = F32, batch: tuple[Size, ...] = (), **attrs: object) -> Graph:
    b = Builder()
    for name in ("m", "k", "n"):
        b.claim_symbol(name)
    x, y = b.input("x", TensorType(dtype, (*batch, m, k))), b.input("y", TensorType(dtype, (*batch, k, n)))
    return b.finish([b.emit("matmul", x, y, **attrs)])


def calls_of(graph: Graph) -> list[KernelCall]:
    calls = lower_graph(graph).calls
    assert all(isinstance(call, KernelCall) for call in calls)
    return list(calls)  # type: ignore[arg-type]


def depths(graph: Graph) -> list[Size]:
    """K of every product; what adds them up comes last."""
    calls = calls_of(graph)
    if len(calls) > 1:
        assert isinstance(calls[-1].spec, ReduceSpec) and calls[-1].spec.vector_axis == "column"
    products = calls[:-1] if len(calls) > 1 else calls
    assert all(isinstance(call.spec, GemmSpec) for call in products)
    return [call.reads[1].shape[-2] for call in products]


def test_long_products_become_a_batch_and_the_rest() -> None:
    assert depths(product(4, LONG, 5)) == [PRODUCT_CHUNK]
    assert depths(product(4, LONG + 1, 5)) == [PRODUCT_CHUNK, 1]
    first, _, total = calls_of(product(4, 3 * PRODUCT_CHUNK + 7, 5, batch=(2,)))
    assert first.reads[0].shape == (3, 2, 4, PRODUCT_CHUNK) and first.spec.batch_rank == 2  # type: ignore[union-attr]
    assert total.reads[0].shape == (40, 4)


def test_others_stay_whole() -> None:
    k = dims.symbol("k")
    assert depths(product(4, PRODUCT_CHUNK + 1, 5)) == [PRODUCT_CHUNK + 1]  # the rest would wait for the one chunk
    assert depths(product(4, k, 5)) == [k]
    assert depths(product(dims.symbol("m"), LONG, 5)) == [LONG]
    assert depths(product(512, LONG, 512)) == [LONG]
    assert depths(product(64, LONG, 64, batch=(30,))) == [LONG]


def test_the_number_of_tiles_decides() -> None:
    rows, columns = TILE
    assert cut_of(1, rows, LONG + 3, FEW_TILES * columns) == Cut(2, 3)
    assert cut_of(1, rows, LONG + 3, FEW_TILES * columns + 1) is None
    assert cut_of(FEW_TILES, 1, LONG, 1) == Cut(2, 0)
    assert cut_of(FEW_TILES + 1, 1, LONG, 1) is None
    assert cut_of(1, 0, LONG, 1) is None


def test_integers_are_shared_out_unless_their_epilogue_wants_sums() -> None:
    assert depths(product(4, LONG, 5, I8, acc=I32)) == [PRODUCT_CHUNK]
    for leaf in (stat(0, I32), stat(1, I32), extent(I32)):
        assert depths(product(4, LONG, 5, I8, acc=I32, epilogue=(arg(0, I32) - leaf,))) == [LONG]
    graph = product(2, LONG + 5, 3, I8, acc=I32)
    x, y = (RNG.integers(-128, 128, shape, np.int8) for shape in ((2, LONG + 5), (LONG + 5, 3)))
    (found,) = EmulatedExecutable(lower_graph(graph)).run([x, y])
    np.testing.assert_array_equal(found, x.astype(np.int32) @ y.astype(np.int32))


@pytest.mark.parametrize("dtype", [F32, dtypes.bfloat16])
@pytest.mark.parametrize("k", [LONG, LONG + 1])
def test_no_bit_differs_from_the_whole_product(k: int, dtype: DType) -> None:
    epilogue = (cast(arg(0, F32), dtype) * 2.0,)
    x, y = (RNG.standard_normal(shape).astype(dtype.numpy) for shape in ((2, k), (k, 3)))
    found, expected = (
        EmulatedExecutable(lower_graph(product(2, depth, 3, dtype, epilogue=epilogue))).run([x, y])[0]
        for depth in (k, dims.symbol("k"))
    )
    assert_same(found, expected)


def test_a_sum_of_negative_zeros_stays_one() -> None:
    tiny = np.full((1, LONG), 1e-30, np.float32)
    results = [
        EmulatedExecutable(lower_graph(product(1, k, 1))).run([tiny, -tiny.T])[0] for k in (LONG, dims.symbol("k"))
    ]
    assert all(np.signbit(result).all() and not result.any() for result in results)
