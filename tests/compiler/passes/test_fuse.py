"""What fusion must not do, and what it must: graphs where a rule that looks right would be wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import ReferenceExecutable
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, index, kept, select, stat, walk
from compiler.ir import Graph, Node, Value
from compiler.kernels import Stage
from compiler.passes.fuse_rules import MAX_EXPRESSIONS
from compiler.passes.lower import lower
from compiler.pipeline import optimize
from compiler.types import TensorType
from tests.compiler.test_random_graphs import Settings, same_bits

F32 = dtypes.float32
X, Y = arg(0, F32), arg(1, F32)
SUM = {"stages": (Stage("sum", X),), "rows": (stat(0, F32),)}


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes]


def only(graph: Graph, op: str) -> Node:
    (node,) = [node for node in graph.nodes if node.op == op]
    return node


def agree(graph: Graph, *arrays: np.ndarray) -> Graph:
    """The optimized graph, which gives what the graph does, in NumPy and natively."""
    with np.errstate(all="ignore"):
        expected = ReferenceExecutable(graph).run(arrays)
    fused = optimize(graph)
    lowered = lower(fused)
    emulated = EmulatedExecutable(lowered, "emulate").run(arrays)
    for got, want in zip(emulated, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=4e-6, atol=4e-6)
    for got, want in zip(Executable(lowered, host(), Settings()).run(arrays), emulated, strict=True):
        assert same_bits(got, want)
    return fused


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_a_row_without_its_axis_broadcasts_along_another() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (5, 5)))
    total = b.emit("reduce", x, axes=(1,), keepdims=False, **SUM)
    fused = agree(b.finish([b.emit("map", x, total, outputs=(X - Y,))]), draw(5, 5))
    assert ops(fused) == ["reduce", "map"]


def test_a_costly_map_with_two_readers_is_computed_once() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 6)))
    y = b.emit("map", x, outputs=(apply("exp", X),))
    sums = [b.emit("reduce", y, axes=(axis,), **SUM) for axis in (0, 1)]
    assert ops(agree(b.finish(sums), draw(4, 6))).count("map") == 1


def test_a_costly_map_is_not_repeated_by_broadcasting() -> None:
    b = Builder()
    row, x = b.input("row", TensorType(F32, (6,))), b.input("x", TensorType(F32, (4, 6)))
    y = b.emit("map", b.emit("map", row, outputs=(apply("exp", X),)), x, outputs=(X + Y,))
    assert ops(agree(b.finish([y]), draw(6), draw(4, 6))) == ["map", "map"]


def test_a_reader_before_the_consumer_keeps_the_order() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 4)))
    total = b.emit("reduce", x, axes=(1,), **SUM)
    product = b.emit("matmul", x, b.emit("expand", total, b.sizes((4, 4))))
    agree(b.finish([b.emit("map", product, total, x, outputs=(X + Y * arg(2, F32),))]), draw(4, 4))


def test_a_product_that_is_a_result_keeps_its_value() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (4, 4)))
    product = b.emit("matmul", x, x)
    fused = agree(b.finish([product, b.emit("map", product, outputs=(-X,))]), draw(4, 4))
    assert ops(fused) == ["matmul", "map"]


def test_an_epilogue_may_change_the_type() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 4)))
    product = b.emit("matmul", x, b.constant(np.ones((4, 5), np.float32)))
    exprs = (apply("gt", X, const(0.0, F32)), cast(X, dtypes.float64), X + 1.0)
    fused = agree(b.finish(b.emit_many("map", [product], {"outputs": exprs}, "pqr")), draw(3, 4))
    assert ops(fused) == ["matmul"]
    assert [v.type.dtype for v in fused.outputs] == [dtypes.boolean, dtypes.float64, F32]


def test_results_nobody_reads_are_not_computed() -> None:
    b = Builder()
    x = b.input("x", TensorType(F32, (3, 4)))
    _, wanted, _ = b.emit_many("map", [x], {"outputs": (-X, X + 1.0, apply("exp", X))}, "pqr")
    stages = (Stage("max", X), Stage("sum", X - stat(0, F32)))
    attrs = {"axes": (1,), "stages": stages, "elements": (X * 2.0,), "rows": (stat(0, F32), stat(1, F32))}
    _, _, total = b.emit_many("reduce", [x], attrs, "est")
    fused = agree(b.finish([wanted, total]), draw(3, 4))
    assert only(fused, "map").attrs["outputs"] == (X + 1.0,)
    assert only(fused, "reduce").attrs["rows"] == (stat(1, F32),) and not only(fused, "reduce").attrs["elements"]


def attention(
    score: Callable[[Expr], Expr] = lambda dot: dot,
    *,
    dtype: DType = F32,
    shared: bool = False,
    safe: bool = False,
    scale: float | None = None,
    values: bool = False,
    keys: dims.Size = 6,
) -> Graph:
    """softmax(score(q k^T)) v; `shared` makes q and k one, `values` takes the weights for v as well."""
    b = Builder()
    queries: dims.Size = keys if shared or values else 4
    x = arg(0, dtype)
    q = b.input("q", TensorType(dtype, (2, queries, 8)))
    k = q if shared else b.input("k", TensorType(dtype, (2, keys, 8)))
    v = b.input("v", TensorType(dtype, (2, keys, 5)))
    if isinstance(keys, dims.Dim):
        b.claim_symbol(str(keys))
    if scale is not None:
        with b.at("scale"):
            q, k = (
                (b.emit("map", y, outputs=(x * scale,)) for y in (q, k))
                if not shared
                else [b.emit("map", q, outputs=(x * scale,))] * 2
            )
    with b.at("transpose"):
        k = b.emit("transpose", k, perm=(0, 2, 1))
    scores = b.emit("map", b.emit("matmul", q, k), outputs=(score(x),))
    shifted = apply("exp", x - stat(0, dtype))
    weight = kept(1, dtype) / stat(1, dtype)
    if safe:
        weight = select(apply("ne", weight, weight), const(0.0, dtype), weight)
    stages = (Stage("max", x), Stage("sum", shifted, keep=True))
    weights = b.emit("reduce", scores, axes=(2,), stages=stages, elements=(weight,))
    return b.finish([b.emit("matmul", weights, weights if values else v)])


def heads(queries: int = 4, keys: int = 6, dtype: DType = F32) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal((2, n, e)).astype(dtype.numpy) for n, e in ((queries, 8), (keys, 8), (keys, 5))]


def hidden_rows(dot: Expr) -> Expr:
    """The first two queries see no key at all."""
    return select(apply("lt", index(2), index(1) - 1), dot, const(-math.inf, dot.dtype))


def test_softmax_of_hidden_rows_is_nan() -> None:
    fused = agree(attention(hidden_rows), *heads())
    assert only(fused, "attention").attrs["zero_rows"] == "none"


@pytest.mark.parametrize("bad", [0.0, math.nan, math.inf])
def test_safe_softmax_of_hidden_rows_is_zero(bad: float) -> None:
    q, k, v = heads()
    q[0, 3, 0] = bad
    fused = agree(attention(hidden_rows, safe=True), q, k, v)
    assert only(fused, "attention").attrs["zero_rows"] == "undefined"


def test_attention_to_no_keys_is_zero() -> None:
    fused = agree(attention(keys=dims.symbol("keys")), *heads(keys=0))
    assert only(fused, "attention")


def test_scales_of_queries_and_keys_move_into_the_score() -> None:
    fused = agree(attention(scale=0.5), *heads())
    node = only(fused, "attention")
    assert ops(fused) == ["attention"] and node.attrs["score"] is X * 0.25
    assert {"scale", "transpose"} <= set(node.where)


def test_scales_survive_in_half_precision() -> None:
    arrays = heads(dtype=dtypes.float16)
    graph = attention(scale=0.25, dtype=dtypes.float16)
    expected = ReferenceExecutable(graph).run(arrays)[0].astype(np.float64)
    fused = optimize(graph)
    assert only(fused, "attention")
    found = Executable(lower(fused), host(), Settings()).run(arrays)[0].astype(np.float64)
    np.testing.assert_allclose(found, expected, atol=4e-3)


@pytest.mark.parametrize("scale", [None, 0.5])
def test_queries_that_are_the_keys(scale: float | None) -> None:
    q, _, v = heads(6, 6)
    fused = agree(attention(shared=True, scale=scale), q, v)
    assert only(fused, "attention")


def test_weights_times_themselves() -> None:
    q, k, _ = heads(6, 6)
    graph = attention(values=True)
    agree(graph, q, k, np.zeros((2, 6, 5), np.float32))


def test_a_position_along_the_batch_is_no_attention() -> None:
    fused = agree(attention(lambda dot: dot + cast(index(0), F32)), *heads())
    assert "attention" not in ops(fused)


def test_two_attentions_may_share_their_keys() -> None:
    b = Builder()
    k, v = b.input("k", TensorType(F32, (8, 6))), b.input("v", TensorType(F32, (6, 5)))

    def head(q: Value) -> Value:
        return b.emit("matmul", b.emit("softmax", b.emit("matmul", q, k), axes=(-1,)), v)

    results = [head(b.input("q", TensorType(F32, (4, 8)))) for _ in range(2)]
    fused = agree(b.finish(results), draw(8, 6), draw(6, 5), draw(4, 8), draw(4, 8) + 1)
    assert ops(fused).count("attention") == 2


@pytest.mark.parametrize(("values", "fuses"), [(F32, True), (dtypes.float64, False)])
def test_attention_whose_softmax_is_wider_than_its_product(values: DType, fuses: bool) -> None:
    b = Builder()
    q, k = (b.input(name, TensorType(dtypes.float16, (2, 5, 4))) for name in "qk")
    v = b.input("v", TensorType(values, (2, 5, 3)))
    product = b.emit("matmul", q, b.emit("transpose", k, perm=(0, 2, 1)))
    scores = b.emit("map", product, outputs=(cast(arg(0, dtypes.float16), values),))
    graph = b.finish([b.emit("matmul", b.emit("softmax", scores), v)])
    fused = agree(graph, *[np.rint(draw(2, 5, 4)).astype(np.float16)] * 2, draw(2, 5, 3).astype(values.numpy))
    assert ("attention" in ops(fused)) == fuses


def test_a_chain_of_any_length_makes_kernels_of_bounded_length() -> None:
    b = Builder()
    value = b.input("x", TensorType(F32, (3,)))
    for _ in range(2 * MAX_EXPRESSIONS):
        value = b.emit("map", value, outputs=(X + 1.0,))
    fused = agree(b.finish([value]), np.float32([-1, 0, 2]))
    lengths = [len(list(walk(node.attrs["outputs"]))) for node in fused.nodes]
    assert len(lengths) > 1
    assert max(lengths) <= MAX_EXPRESSIONS + 2
