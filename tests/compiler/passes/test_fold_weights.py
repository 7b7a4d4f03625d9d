"""Which dequantized weights products read as codes, and that no bit of a result depends on it."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest

from backends.reference.emulator import EmulatedExecutable
from compiler import dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import arg, cast
from compiler.ir import Graph, Value
from compiler.passes.fold_weights import fold_weights
from compiler.pipeline import lower_graph
from compiler.types import TensorType

RNG = np.random.default_rng(32)
K, N = 64, 10


def codes_of(kind: type, *shape: int) -> np.ndarray:
    return RNG.integers(0, 8 if np.dtype(kind).kind == "V" else 100, shape).astype(kind)


def graph_of(build: Callable[[Builder, Value], Value], dtype: DType = dtypes.float32) -> Graph:
    b = Builder()
    return b.finish([build(b, b.input("x", TensorType(dtype, (3, K))))])


def dequantized(b: Builder, array: np.ndarray, scale: np.ndarray, zero: np.ndarray | None = None, **how: int) -> Value:
    inputs = [b.constant(array), b.constant(scale), *([] if zero is None else [b.constant(zero)])]
    return b.emit("dequantize_linear", *inputs, **how)


def blocks(array: np.ndarray, axis: int, block: int, zeros: bool) -> tuple[np.ndarray, np.ndarray | None]:
    shape = list(array.shape)
    shape[axis] = -(-shape[axis] // block)
    scale = RNG.uniform(0.01, 0.1, shape).astype(np.float32)
    return scale, codes_of(array.dtype.type, *shape) if zeros else None


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def _codes(call: object) -> object:
    return getattr(getattr(call, "spec", None), "codes", None)


def check(graph: Graph) -> Graph:
    """Folded, with the bits it has when the weight is a float constant."""
    folded = fold_weights(graph)
    assert "block_matmul" in ops(folded) and "dequantize_linear" not in ops(folded), ops(folded)
    x = RNG.standard_normal((3, K)).astype(graph.inputs[0].type.dtype.numpy)  # type: ignore[union-attr]
    assert any(_codes(call) for call in lower_graph(graph).calls)
    found = EmulatedExecutable(lower_graph(graph), "emulate").run([x])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compiler.passes.fold_weights.has_kernel", lambda *_: False)
        lowered = lower_graph(graph)
        assert not any(_codes(call) for call in lowered.calls)
        wanted = EmulatedExecutable(lowered, "emulate").run([x])
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return folded


@pytest.mark.parametrize("kind", [ml_dtypes.int4, ml_dtypes.uint4, np.int8, np.uint8])
@pytest.mark.parametrize("zeros", [False, True])
def test_blocks_along_k(kind: type, zeros: bool) -> None:
    array = codes_of(kind, K, N)
    scale, zero = blocks(array, 0, 32, zeros)
    check(graph_of(lambda b, x: b.emit("matmul", x, dequantized(b, array, scale, zero, axis=0, block_size=32))))
    turned = np.ascontiguousarray(array.T)
    scale, zero = blocks(turned, 1, 16, zeros)

    def transposed(b: Builder, x: Value) -> Value:
        w = dequantized(b, turned, scale, zero, axis=-1, block_size=16)
        return b.emit("matmul", x, b.emit("transpose", w, perm=(1, 0)))

    check(graph_of(transposed))
    gemm = graph_of(
        lambda b, x: b.emit(
            "gemm", x, dequantized(b, turned, scale, zero, axis=1, block_size=16), b.constant(np.ones(N, np.float32)),
            transB=1,
        )
    )  # fmt: skip
    check(gemm)


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16, dtypes.float16])
def test_a_scale_a_column_and_one_for_all(dtype: DType) -> None:
    array = codes_of(np.int8, K, N)
    column = RNG.uniform(0.01, 0.1, N).astype(dtype.numpy)
    for scale, zero in ((column, codes_of(np.int8, N)), (column[:1].reshape(()), None)):
        check(graph_of(lambda b, x, s=scale, z=zero: b.emit("matmul", x, dequantized(b, array, s, z, axis=1)), dtype))


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16])
def test_layers_with_factors_and_epilogues(dtype: DType) -> None:
    """Gemm rounds once, after the addition; a linear layer of torch is a product with an epilogue."""
    array, scale = codes_of(np.int8, N, K), RNG.uniform(0.01, 0.1, N).astype(dtype.numpy)
    bias = RNG.standard_normal(N).astype(dtype.numpy)

    def gemm(b: Builder, x: Value) -> Value:
        w = dequantized(b, array, scale, axis=0)
        return b.emit("gemm", x, w, b.constant(bias), transB=1, alpha=0.5, beta=2.0)

    def linear(b: Builder, x: Value) -> Value:
        w = b.emit("transpose", dequantized(b, array, scale, axis=0), perm=(1, 0))
        acc = dtypes.float32
        value = cast(arg(0, acc) + cast(arg(1, dtype), acc), dtype)
        return b.emit("matmul", x, w, b.constant(bias), epilogue=(value,))

    for build in (gemm, linear):
        check(graph_of(build, dtype))


@pytest.mark.parametrize(("kind", "low", "narrow"), [(np.int8, -8, ml_dtypes.int4), (np.uint8, 0, ml_dtypes.uint4)])
def test_bytes_of_codes_of_4_bits_are_such_codes(kind: type, low: int, narrow: type) -> None:
    array, scale = RNG.integers(low, low + 16, (K, N)).astype(kind), RNG.uniform(0.01, 0.1, (2, N)).astype(np.float32)
    for zero, stored in ((low + 15, narrow), (low + 16, kind)):
        zeros = np.full((2, N), zero, kind)
        folded = check(
            graph_of(lambda b, x, z=zeros: b.emit("matmul", x, dequantized(b, array, scale, z, axis=0, block_size=32)))
        )
        _, codes, _, shift = next(node.inputs for node in folded.nodes if node.op == "block_matmul")
        assert codes.type.dtype == shift.type.dtype == dtypes.from_numpy(np.dtype(stored))  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16, dtypes.float16])
@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_bytes_that_are_only_converted(kind: type, dtype: DType) -> None:
    limits = np.iinfo(kind)
    array = RNG.integers(limits.min, limits.max, (N, K), endpoint=True).astype(kind)
    expr = cast(arg(0, dtypes.from_numpy(np.dtype(kind))), dtype)

    def before(b: Builder, x: Value) -> Value:
        turned = b.emit("transpose", b.constant(array), perm=(1, 0))
        return b.emit("matmul", x, b.emit("map", turned, outputs=(expr,)))

    def behind(b: Builder, x: Value) -> Value:
        return b.emit("matmul", x, b.emit("transpose", b.emit("map", b.constant(array), outputs=(expr,)), perm=(1, 0)))

    for build in (before, behind):
        check(graph_of(build, dtype))


def test_what_follows_becomes_the_epilogue() -> None:
    array, scale = codes_of(np.int8, K, N), RNG.uniform(0.01, 0.1, (2, N)).astype(np.float32)

    def layer(b: Builder, x: Value) -> Value:
        product = b.emit("matmul", x, dequantized(b, array, scale, axis=0, block_size=32))
        return b.emit("relu", b.emit("add", product, b.constant(np.ones(N, np.float32))))

    graph = graph_of(layer)
    check(graph)
    assert len(lower_graph(graph).calls) == 1


def test_large_parameters_may_be_views() -> None:
    """Which no pass before this one folds."""
    k, n = 4096, 512
    array, scale = codes_of(ml_dtypes.int4, k, n), RNG.uniform(0.01, 0.1, (n, k // 16, 1)).astype(np.float32)

    b = Builder()
    x = b.input("x", TensorType(dtypes.float32, (2, k)))
    rows = b.emit("transpose", b.emit("reshape", b.constant(scale), b.sizes((n, k // 16))), perm=(1, 0))
    w = b.emit("dequantize_linear", b.constant(array), rows, axis=0, block_size=16)
    folded = fold_weights(b.finish([b.emit("matmul", x, w)]))
    (node,) = folded.nodes
    assert node.op == "block_matmul" and node.inputs[2] is not None
    np.testing.assert_array_equal(folded.constants[node.inputs[2].name], scale[:, :, 0].T)


def test_products_of_one_weight_share_it() -> None:
    array = codes_of(np.int8, K, N)
    scale, _ = blocks(array, 0, 32, False)

    def two(b: Builder, x: Value) -> Value:
        w = dequantized(b, array, scale, axis=0, block_size=32)
        return b.emit("concat", b.emit("matmul", x, w), b.emit("matmul", b.emit("relu", x), w), axis=0)

    folded = check(graph_of(two))
    products = [node for node in folded.nodes if node.op == "block_matmul"]
    assert len(products) == 2 and products[0].inputs[1:] == products[1].inputs[1:]


def test_what_kernels_do_not_read_stays() -> None:
    array = codes_of(np.int8, K, N)
    for axis, block in ((0, 12), (1, 5)):
        scale, _ = blocks(array, axis, block, False)
        graph = graph_of(
            lambda b, x, a=axis, n=block, s=scale: b.emit("matmul", x, dequantized(b, array, s, axis=a, block_size=n))
        )
        assert ops(fold_weights(graph)) == ["dequantize_linear", "matmul"]
    row = RNG.uniform(0.01, 0.1, K).astype(np.float32)
    graph = graph_of(lambda b, x: b.emit("matmul", x, dequantized(b, array, row, axis=0)))
    assert ops(fold_weights(graph)) == ["dequantize_linear", "matmul"]
    whole = codes_of(np.int32, K, N)
    graph = graph_of(lambda b, x: b.emit("matmul", x, dequantized(b, whole, row[:1], axis=0)))
    assert ops(fold_weights(graph)) == ["dequantize_linear", "matmul"]
