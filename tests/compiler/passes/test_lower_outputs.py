"""Where results lie: every result has memory of its own, whatever it is in the graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import ReferenceExecutable
from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg
from compiler.ir import Value
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from tests.compiler.test_random_graphs import Settings

F32 = dtypes.float32
X = arg(0, F32)


def double(b: Builder, x: Value) -> Value:
    return b.emit("map", x, outputs=(X * 2.0,))


def two_shapes(b: Builder, x: Value) -> Sequence[Value]:
    y = double(b, x)
    return [y, b.emit("reshape", y, b.sizes((12,))), b.emit("transpose", y, perm=(1, 0))]


def parts(b: Builder, x: Value) -> Sequence[Value]:
    y = double(b, x)
    rows = [b.emit("slice", y, starts=(at, 0), sizes=(2, 4), steps=(1, 1)) for at in (0, 1)]
    return [*rows, b.emit("slice", y, starts=(2, 3), sizes=(3, 4), steps=(-1, -1))]


def spread(b: Builder, x: Value) -> Sequence[Value]:
    row = b.emit("slice", double(b, x), starts=(1, 0), sizes=(1, 4), steps=(1, 1))
    return [b.emit("expand", row, b.sizes((3, 4)))]


def constant(b: Builder, x: Value) -> Sequence[Value]:
    w = b.constant(np.arange(6, dtype=np.float32).reshape(2, 3), "w")
    return [w, w, b.emit("transpose", w, perm=(1, 0)), x]


def computed_sizes(b: Builder, x: Value) -> Sequence[Value]:
    shape = b.emit("shape_of", x)
    return [shape, shape, b.emit("map", shape, outputs=(arg(0, dtypes.int64) * 2,))]


def nothing(b: Builder, x: Value) -> Sequence[Value]:
    empty = b.emit("slice", x, starts=(0, 0), sizes=(0, 4), steps=(1, 1))
    return [empty, double(b, empty), b.emit("transpose", empty, perm=(1, 0))]


def on_the_host(b: Builder, x: Value) -> Sequence[Value]:
    y = b.emit("eye_like", double(b, x))
    return [y, y, b.emit("reshape", y, b.sizes((12,))), double(b, y)]


CASES: dict[str, Callable[[Builder, Value], Sequence[Value]]] = {
    "inputs": lambda b, x: [x, x, b.emit("reshape", x, b.sizes((4, 3)))],
    "twice": lambda b, x: [double(b, x)] * 2,
    "read_later": lambda b, x: [y := double(b, x), double(b, y)],
    "two_shapes": two_shapes,
    "parts": parts,
    "spread": spread,
    "constant": constant,
    "sizes": computed_sizes,
    "nothing": nothing,
    "host": on_the_host,
}


@pytest.mark.parametrize("name", CASES)
def test_results(name: str) -> None:
    b = Builder()
    graph = b.finish(list(CASES[name](b, b.input("x", TensorType(F32, (3, 4))))))
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = ReferenceExecutable(graph).run([array])
    lowered = lower_graph(graph)
    executable = Executable(lowered, host(), Settings())
    runs = [EmulatedExecutable(lowered).run([array]), executable.run([array]), executable.run([array])]
    for found in runs:
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == want.dtype and got.flags.c_contiguous
            np.testing.assert_array_equal(got, want)
    every = [array, *runs[1], *runs[2]]
    for i, one in enumerate(every):
        assert not any(np.shares_memory(one, other) for other in every[:i])
