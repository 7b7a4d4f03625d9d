"""Repeated heads of keys and values: the same results, and nothing repeated in memory."""

from __future__ import annotations

import numpy as np
import pytest

from backends.reference.interpreter import run
from compiler import dtypes, kernels
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import apply, arg, const, index, select
from compiler.ir import Graph, Value
from compiler.lowering.products import accumulator
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dce import dce
from compiler.passes.fuse import fuse
from compiler.passes.grouped_heads import group_heads
from compiler.passes.lower import lower
from compiler.passes.verify import verify
from compiler.types import TensorType

F32 = dtypes.float32
RNG = np.random.default_rng(8)
BATCH, QUERIES, KEYS = 2, 5, 7
DOT = arg(0, accumulator(F32))
CAUSAL = select(apply("le", index(3), index(2) + 2), DOT * 0.5, const(-np.inf, F32))


def repeat(b: Builder, x: Value, times: Size) -> Value:
    """[B, H, S, E] as [B, H * times, S, E], each head `times` times in a row."""
    batch, heads, length, size = x.type.shape
    once = b.emit("reshape", x, b.sizes((batch, heads, 1, length, size)))
    wide = b.emit("expand", once, b.sizes((batch, heads, times, length, size)))
    return b.emit("reshape", wide, b.sizes((batch, heads * times, length, size)))


def graph_of(kind: str, symbolic: bool) -> tuple[Graph, list[np.ndarray]]:
    """Six query heads over two heads of keys and values (three over one with "one")."""
    b = Builder()
    groups = 1 if kind == "one" else 2
    batch, queries, keys = (b.claim_symbol(n) for n in "blk") if symbolic else (BATCH, QUERIES, KEYS)
    q = b.input("q", TensorType(F32, (batch, 3 * groups, queries, 8)))
    k, v = (b.input(n, TensorType(F32, (batch, groups, keys, e))) for n, e in (("k", 8), ("v", 4)))
    mask = b.input("mask", TensorType(F32, (batch, 1, queries, keys)))
    heads = b.input("heads", TensorType(F32, (3 * groups, 1, 1)))
    wide_k, wide_v = (repeat(b, x, 3) for x in (k, v))
    if kind == "matmuls":
        dots = b.emit("matmul", q, b.emit("transpose", wide_k, perm=(0, 1, 3, 2)))
        shifted = b.emit("map", dots, mask, heads, outputs=(arg(0, F32) * 0.5 + arg(1, F32) * arg(2, F32),))
        result = b.emit("matmul", shifted, wide_v)
    elif kind == "keys":
        result = b.emit("attention", q, wide_k, b.emit("matmul", wide_k, b.constant(np.eye(8, dtype=np.float32))),
                        score=CAUSAL)  # fmt: skip
    else:
        score = CAUSAL + arg(1, F32) * arg(2, F32)
        result = b.emit("attention", q, wide_k, wide_v, mask, heads, score=score)
    inputs = [RNG.standard_normal(s).astype(np.float32) for s in (
        (BATCH, 3 * groups, QUERIES, 8), (BATCH, groups, KEYS, 8), (BATCH, groups, KEYS, 4), (BATCH, 1, QUERIES, KEYS),
        (3 * groups, 1, 1),
    )]  # fmt: skip
    return b.finish([result]), inputs


@pytest.mark.parametrize("symbolic", [False, True])
@pytest.mark.parametrize("kind", ["attention", "one", "matmuls", "keys"])
def test_results_are_the_same_and_nothing_is_repeated(kind: str, symbolic: bool) -> None:
    graph, inputs = graph_of(kind, symbolic)
    plain = fuse(canonicalize(graph))
    grouped = dce(verify(group_heads(plain)))
    expected = run(graph, inputs)[0]
    assert np.allclose(run(grouped, inputs)[0], expected, rtol=1e-6, atol=1e-6)
    assert grouped.outputs[0].type == graph.outputs[0].type
    assert "expand" in [node.op for node in plain.nodes]
    # A single head may be read several times through a stride of 0; of several, views can only be copied.
    assert kind == "one" or any(repeats(call) for call in lower(plain).calls)
    assert not any(repeats(call) for call in lower(grouped).calls)


def repeats(call: kernels.KernelCall | kernels.HostCall) -> bool:
    """Whether a call copies something several times."""
    if not isinstance(call, kernels.KernelCall) or not isinstance(call.spec, kernels.MoveSpec):
        return False
    return any(
        stride == 0 and size != 1 for size, stride in zip(call.reads[0].shape, call.reads[0].strides, strict=True)
    )


def test_what_is_no_repeated_head_stays() -> None:
    b = Builder()
    q = b.input("q", TensorType(F32, (2, 6, 5, 8)))
    k = b.input("k", TensorType(F32, (2, 3, 5, 8)))
    # Repeated as a whole, not head by head.
    wide = b.emit("expand", b.emit("reshape", k, b.sizes((2, 1, 3, 5, 8))), b.sizes((2, 2, 3, 5, 8)))
    k = b.emit("reshape", wide, b.sizes((2, 6, 5, 8)))
    graph = b.finish([b.emit("attention", q, k, k, score=DOT * 1.0)])
    assert [node.op for node in group_heads(graph).nodes] == [node.op for node in graph.nodes]
