"""Integer chains that depend on sizes alone vanish while the graph is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from backends.reference.interpreter import run
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.frontends.onnx_node import OnnxNode
from compiler.ir import Value
from compiler.op import ONNX_ROWS, lookup
from compiler.ops.slicing import slice_axis
from compiler.passes.decompose import decompose
from compiler.types import TensorType

BATCH, SEQ = dims.symbol("batch"), dims.symbol("seq")


@pytest.fixture
def b() -> Builder:
    return Builder()


@pytest.fixture
def shape(b: Builder) -> Value:
    """The shape [batch, seq, 8] of an input."""
    return b.emit("shape_of", b.input("x", TensorType(dtypes.float32, (BATCH, SEQ, 8))))


def pick(b: Builder, shape: Value, axis: int) -> Value:
    return b.emit("take", shape, integer(b, axis), axis=0)


def integer(b: Builder, number: int) -> Value:
    return b.constant(np.int64(number))


def known(b: Builder, value: Value) -> list[Any] | Any:
    contents = b.contents(value)
    assert contents is not None, f"the contents of {value} are lost"
    return contents.tolist()


def test_an_exporters_reshape_chain_gives_a_symbolic_shape(b: Builder, shape: Value) -> None:
    axes = b.constant(np.array([0]))
    parts = [b.emit("unsqueeze", pick(b, shape, axis), axes) for axis in (0, 1)]
    wanted = b.emit("concat", *parts, b.constant(np.array([2])), b.constant(np.array([-1])), axis=0)
    assert b.emit("onnx_reshape", b.inputs[0], wanted).type == TensorType(dtypes.float32, (BATCH, SEQ, 2, 4))


def times_six(b: Builder, s: Value) -> Value:
    return b.emit("mul", pick(b, s, 1), integer(b, 6))


def without_minus_one(b: Builder, s: Value) -> Value:
    return b.emit("where", b.emit("equal", s, integer(b, -1)), integer(b, 1), s)


def part(b: Builder, s: Value, *bounds: int) -> Value:
    """s sliced by one-element operands: start, end, axis, step."""
    return b.emit("onnx_slice", s, *(b.constant(np.array([n])) for n in bounds))


CHAINS: dict[str, tuple[Callable[[Builder, Value], Value], Any]] = {
    "add": (lambda b, s: b.emit("add", pick(b, s, 1), integer(b, 1)), SEQ + 1),
    "sub": (lambda b, s: b.emit("sub", pick(b, s, 1), pick(b, s, 1)), 0),
    "mul": (lambda b, s: b.emit("mul", pick(b, s, 0), pick(b, s, 1)), BATCH * SEQ),
    "div": (lambda b, s: b.emit("div", times_six(b, s), integer(b, 3)), SEQ * 2),
    "mod": (lambda b, s: b.emit("mod", times_six(b, s), integer(b, 3)), 0),
    "max": (lambda b, s: b.emit("max", pick(b, s, 1), integer(b, 0)), SEQ),
    "min": (lambda b, s: b.emit("min", pick(b, s, 1), integer(b, 5)), dims.minimum(SEQ, 5)),
    "neg": (lambda b, s: b.emit("neg", pick(b, s, 1)), SEQ * -1),
    "abs": (lambda b, s: b.emit("abs", pick(b, s, 1)), SEQ),
    "cast": (lambda b, s: b.emit("cast", pick(b, s, 1), to=dtypes.int32), SEQ),
    "clip": (lambda b, s: b.emit("clip", pick(b, s, 1), integer(b, -1)), SEQ),
    "equal": (lambda b, s: b.emit("equal", pick(b, s, 1), integer(b, -1)), False),
    "less": (lambda b, s: b.emit("less", pick(b, s, 1), integer(b, 0)), False),
    "where": (without_minus_one, [BATCH, SEQ, 8]),
    "slice": (lambda b, s: part(b, s, -1, -4, 0, -1), [8, SEQ, BATCH]),
    "squeeze": (lambda b, s: b.emit("squeeze", part(b, s, 1, 2)), SEQ),
    "tile": (lambda b, s: b.emit("tile", s, b.constant(np.array([2]))), [BATCH, SEQ, 8, BATCH, SEQ, 8]),
    "range": (lambda b, s: b.emit("range", pick(b, s, 2), integer(b, 2), integer(b, -3)), [8, 5]),
    "fill": (lambda b, s: b.emit("constant_of_shape", b.emit("shape_of", s), value=np.array([7])), [7, 7, 7]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_contents_follow(b: Builder, shape: Value, name: str) -> None:
    build, expected = CHAINS[name]
    assert known(b, build(b, shape)) == expected


@pytest.mark.parametrize(
    ("name", "other"), [("less", 5), ("equal", 5), ("greater_or_equal", 1)], ids=["less", "equal", "greater_or_equal"]
)
def test_what_symbols_do_not_decide_is_unknown(b: Builder, shape: Value, name: str, other: int) -> None:
    assert b.contents(b.emit(name, pick(b, shape, 1), integer(b, other))) is None


def test_a_range_as_long_as_a_size_has_that_size(b: Builder, shape: Value) -> None:
    one, zero = integer(b, 1), integer(b, 0)
    assert b.emit("range", zero, pick(b, shape, 1), one).type.shape == (SEQ,)  # type: ignore[union-attr]


SLICES: list[tuple[Size, Size, int, tuple[Size, Size]]] = [
    (0, 2**63 - 1, 1, (0, SEQ)),
    (1, 2**31 - 1, 1, (1, dims.maximum(SEQ - 1, 0))),
    (-1, 2**63 - 1, 1, (dims.maximum(SEQ - 1, 0), dims.minimum(1, SEQ))),
    (0, -1, 1, (0, dims.maximum(SEQ - 1, 0))),
    (0, SEQ, 1, (0, SEQ)),
    (BATCH, BATCH + SEQ, 1, (BATCH, dims.maximum(SEQ - BATCH, 0))),
    (-1, -(2**63), -1, (SEQ - 1, SEQ)),
    (0, 2**63 - 1, 2, (0, dims.ceil_div(SEQ, 2))),
]


@pytest.mark.parametrize(("start", "end", "step", "expected"), SLICES, ids=[f"{s}:{e}:{p}" for s, e, p, _ in SLICES])
def test_slices_of_symbolic_axes(start: Size, end: Size, step: int, expected: tuple[Size, Size]) -> None:
    found = slice_axis(start, end, step, SEQ)
    for seq in (0, 1, 2, 5):
        for batch in (0, 1, 7):
            sizes = {"seq": seq, "batch": batch}
            low, length = (dims.evaluate(n, sizes) for n in found)
            bounds = (dims.evaluate(start, sizes), dims.evaluate(end, sizes), step)
            assert [low + step * i for i in range(length)] == list(range(seq))[slice(*bounds)]
    assert found == expected


def test_shape_rows_ask_for_parts() -> None:
    b = Builder()
    x = b.input("x", TensorType(dtypes.float32, (BATCH, SEQ, 8)))
    lookup("map")
    row = ONNX_ROWS["", "Shape"][1]
    for start, end, expected in ((0, None, [BATCH, SEQ, 8]), (1, None, [SEQ, 8]), (-2, -1, [SEQ]), (2, 1, [])):
        attrs = {"start": start} if end is None else {"start": start, "end": end}
        value = row.build(b, OnnxNode("Shape", "", (x,), ("y",), attrs, 25))  # type: ignore[misc]
        assert known(b, value) == expected
    size = ONNX_ROWS["", "Size"][1].build(b, OnnxNode("Size", "", (x,), ("y",), {}, 25))  # type: ignore[misc]
    assert known(b, size) == BATCH * SEQ * 8


def test_chains_are_followed_while_they_are_decomposed() -> None:
    b = Builder()
    shape = b.emit("shape_of", b.input("x", TensorType(dtypes.float32, (BATCH, SEQ, 8))))
    limit = b.emit("clip", b.emit("add", pick(b, shape, 1), integer(b, 2)), integer(b, 0))
    graph = decompose(b.finish([b.emit("range", integer(b, 0), limit, integer(b, 1))]))
    assert graph.outputs[0].type.shape == (SEQ + 2,)  # type: ignore[union-attr]
    assert all(lookup(node.op).lower is not None for node in graph.nodes), str(graph)
    np.testing.assert_array_equal(run(graph, [np.zeros((1, 3, 8), np.float32)])[0], np.arange(5))


def test_division_towards_zero_of_sizes_whose_sign_is_open(b: Builder, shape: Value) -> None:
    less = b.emit("sub", pick(b, shape, 1), integer(b, 3))
    for divisor in (1, 2, 5):
        quotient = known(b, b.emit("div", less, integer(b, divisor)))
        assert [dims.evaluate(quotient, {"seq": n}) for n in range(13)] == [int((n - 3) / divisor) for n in range(13)]
    assert known(b, b.emit("div", pick(b, shape, 1), integer(b, 2))) == SEQ // 2


def test_a_division_by_a_size_that_may_be_negative_is_left_to_run(b: Builder, shape: Value) -> None:
    divisor = b.emit("sub", pick(b, shape, 0), integer(b, 3))
    assert b.contents(b.emit("div", pick(b, shape, 1), divisor)) is None
