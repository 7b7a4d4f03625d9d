"""The interpreter of graphs: order, sizes, memory, errors."""

from __future__ import annotations

import gc
import warnings
import weakref

import numpy as np
import pytest

from backends.reference.interpreter import ReferenceExecutable, run
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.errors import DtypeError, ShapeError
from compiler.types import TensorType

BATCH, WIDTH = dims.symbol("batch"), dims.symbol("width")
MATRIX = TensorType(dtypes.float32, (BATCH, WIDTH))


def array(*shape: int) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_attributes_with_sizes_are_evaluated_for_the_sizes_of_the_call() -> None:
    b = Builder()
    x = b.input("x", MATRIX)
    last = b.emit("slice", x, starts=(0, WIDTH - 1), sizes=(BATCH, 1), steps=(1, 1))
    flat = b.emit("reshape", last, b.sizes((BATCH,)))
    executable = ReferenceExecutable(b.finish([flat, b.sizes((BATCH * WIDTH, 7))]))
    for shape in ((2, 3), (5, 1), (1, 4)):
        values, sizes = executable.run([array(*shape)])
        np.testing.assert_array_equal(values, array(*shape)[:, -1])
        np.testing.assert_array_equal(sizes, [shape[0] * shape[1], 7])


def test_a_size_made_up_by_inference_is_bound_by_the_first_result_that_has_it() -> None:
    b = Builder()
    x, wanted = b.input("x", MATRIX), b.input("wanted", TensorType(dtypes.int64, (1,)))
    flat = b.emit("reshape", x, wanted)
    (size,) = flat.type.shape  # type: ignore[union-attr,misc]
    graph = b.finish([b.emit("add", flat, flat), b.sizes((size,))])
    doubled, sizes = run(graph, [array(2, 3), np.array([6])])
    np.testing.assert_array_equal(doubled, 2 * np.arange(6, dtype=np.float32))
    np.testing.assert_array_equal(sizes, [6])


def test_values_are_freed_after_their_last_reader() -> None:
    seen: list[weakref.ref[np.ndarray]] = []
    alive: list[int] = []

    def observe(name: str, value: np.ndarray) -> None:
        gc.collect()
        alive.append(sum(ref() is not None for ref in seen))
        if name != "x":
            seen.append(weakref.ref(value))

    b = Builder()
    value = b.input("x", MATRIX)
    for _ in range(6):
        value = b.emit("neg", value)
    ReferenceExecutable(b.finish([value]), observe).run([array(2, 2)])
    assert max(alive) == 1


def test_observers_see_inputs_and_every_result_by_name() -> None:
    seen: dict[str, np.ndarray] = {}
    b = Builder()
    x = b.input("x", MATRIX)
    y = b.emit("exp", b.emit("neg", x, hint="negated"), hint="result")
    ReferenceExecutable(b.finish([y]), seen.__setitem__).run([array(1, 2)])
    assert list(seen) == ["x", "negated", "result"]
    np.testing.assert_array_equal(seen["negated"], [[0, -1]])


def test_an_output_may_be_an_input_or_a_constant() -> None:
    b = Builder()
    x = b.input("x", MATRIX)
    graph = b.finish([x, b.constant(np.float32(2)), x])
    results = run(graph, [array(1, 1)])
    assert [result.tolist() for result in results] == [[[0]], 2, [[0]]]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ([array(2, 3).astype(np.float64)], DtypeError, "input x: found float64, expected float32"),
        ([array(6)], ShapeError, r"input x: found shape \(6,\)"),
        ([], ShapeError, "found 0 inputs, expected 1"),
    ],
    ids=["dtype", "rank", "count"],
)
def test_inputs_that_do_not_fit(given: list[np.ndarray], error: type[Exception], text: str) -> None:
    b = Builder()
    graph = b.finish([b.emit("neg", b.input("x", MATRIX))])
    with pytest.raises(error, match=text):
        run(graph, given)


def test_one_symbol_is_one_size() -> None:
    b = Builder()
    x, y = b.input("x", MATRIX), b.input("y", MATRIX)
    with pytest.raises(ShapeError, match=r"input y: found shape \(2, 4\)"):
        run(b.finish([b.emit("add", x, y)]), [array(2, 3), array(2, 4)])


def test_guards_are_checked() -> None:
    b = Builder()
    x, y = b.input("x", TensorType(dtypes.float32, (BATCH,))), b.input("y", TensorType(dtypes.float32, (WIDTH,)))
    graph = b.finish([b.emit("add", x, y)])
    np.testing.assert_array_equal(run(graph, [array(3), array(3)])[0], [0, 2, 4])
    with pytest.raises(ShapeError, match="batch is 3, width is 4"):
        run(graph, [array(3), array(4)])


def test_errors_name_the_node() -> None:
    b = Builder()
    x, index = b.input("x", MATRIX), b.input("i", TensorType(dtypes.int64, (1,)))
    with b.at("encoder/lookup"):
        picked = b.emit("take", x, index, axis=0)
    with pytest.raises(IndexError) as caught:
        run(b.finish([picked]), [array(2, 2), np.array([5])])
    assert caught.value.__notes__ == ["in node encoder/lookup (take)"]


def test_infinities_and_nans_are_results_without_warnings() -> None:
    b = Builder()
    x = b.input("x", MATRIX)
    graph = b.finish([b.emit("matmul", x, x)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (found,) = run(graph, [np.array([[np.inf, 1], [-np.inf, np.nan]], np.float32)])
    assert np.isnan(found).any()


def test_bodies_run_as_callables() -> None:
    scalar = TensorType(dtypes.float32, ())
    branches = []
    for name in ("neg", "exp"):
        body = Builder()
        branches.append(body.finish([body.emit(name, body.input("captured", scalar))]))
    b = Builder()
    condition, x = b.input("condition", TensorType(dtypes.boolean, ())), b.input("x", scalar)
    graph = b.finish([b.emit("if", condition, x, then_branch=branches[0], else_branch=branches[1])])
    assert run(graph, [np.array(True), np.float32(2)])[0] == -2
    assert run(graph, [np.array(False), np.float32(0)])[0] == 1
