"""Bodies of If, Loop and Scan as native programs: right under changing sizes, in bounded memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper

import runtime
from backends.native.executable import Executable, Statistics
from backends.native.subprograms import IN_NUMPY, SPECIALIZED
from backends.native.target import host
from backends.reference.interpreter import run
from compiler.errors import SansuanError
from compiler.frontends.onnx import load
from compiler.pipeline import lower_graph
from runtime.options import Options
from tests.compiler.ops.test_control import BOOL, INT64, body, branches, info, loop_body, model

WEIGHT = numpy_helper.from_array(np.float32([[9, 8]]), "w")


class Case:
    """A model run natively and by the interpreter, call after call."""

    def __init__(self, proto: Any) -> None:
        self.graph = load(proto)
        self.executable = Executable(lower_graph(self.graph), host(), Options.resolve(1))

    def check(self, *arrays: Any) -> list[np.ndarray]:
        given = [np.asarray(array) for array in arrays]
        before = [array.copy() for array in given]
        found = self.executable.run(given)
        for a, b in zip(found, run(self.graph, before), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        for array, copy in zip(given, before, strict=True):
            np.testing.assert_array_equal(array, copy)
        memory = [array for array in (*found, *given) if array.size]
        assert not any(np.may_share_memory(a, b) for i, a in enumerate(memory) for b in memory[:i])
        return found

    @property
    def statistics(self) -> Statistics:
        return self.executable.statistics()

    def kernels(self) -> list[str]:
        """Kernels that have run."""
        return [row.kernel for row in self.executable.rows() if row.runs and row.unit != "host"]


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def loop(body: Any, outputs: list[str], shape: list[Any], initializers: Any = ()) -> Any:
    """A model over `most` rounds and `x`."""
    node = helper.make_node("Loop", ["most", "", "x"], outputs, body=body, name="the_loop")
    return model([node], [info("most", [], INT64), info("x", shape)], outputs, initializers)


def growing(rows: str = "n") -> Any:
    """s = concat(s, x) in each round."""
    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Concat", ["s", "x"], [rows], axis=0),
        helper.make_node("MatMul", [rows, "w"], ["n2"]),
    ]
    inner = body(nodes, [info("i", [], INT64), info("go", [], BOOL), info("s", None)], ["go_on", "n2"])
    return loop(inner, ["y"], ["n", 2], [numpy_helper.from_array(np.float32([[0.5, 0.1], [0.2, 0.3]]), "w")])


def test_branches_of_different_shapes_run_natively() -> None:
    node = helper.make_node("If", ["c"], ["y"], **branches())
    case = Case(model([node], [info("c", [], BOOL), info("x", ["n", 2])], ["y"], [WEIGHT]))
    for rows in (0, 1, 3, 1):
        for condition in (True, False):
            case.check(condition, floats(rows, 2))
    assert len(case.kernels()) >= 2
    assert case.statistics.kernels >= 2


@pytest.mark.parametrize("rounds", [0, 1, 7])
@pytest.mark.parametrize("size", [0, 1, 17])
def test_loop_rows(rounds: int, size: int) -> None:
    case = Case(loop(loop_body(helper.make_node("Add", ["s", "x"], ["n"])), ["y", "rows"], ["n"]))
    for _ in range(2):
        case.check(np.int64(rounds), floats(size))
    counted = [row for row in case.executable.rows() if row.kernel.startswith("map")]
    if size:
        assert counted and sum(row.runs for row in counted) == 2 * rounds


def test_a_value_that_grows_from_round_to_round() -> None:
    case = Case(growing())
    for rounds, rows in ((0, 3), (4, 2), (3, 0), (9, 1)):
        case.check(np.int64(rounds), floats(rows, 2))
    assert any(kernel.startswith("gemm") or "gemv" in kernel for kernel in case.kernels())
    compiled = case.statistics.kernels_compiled
    case.check(np.int64(30), floats(5, 2))
    assert case.statistics.kernels_compiled == compiled, "a new size compiled something"


def test_plans_of_bodies_stay_bounded_over_thousands_of_calls() -> None:
    case = Case(loop(loop_body(helper.make_node("Add", ["s", "x"], ["n"])), ["y", "rows"], ["n"]))
    rng = np.random.default_rng(3)
    for size in rng.integers(0, 300, 2000):
        (y, rows) = case.executable.run([np.array(2), np.ones(size, np.float32)])
        assert y.shape == (size,) and rows.shape == (2, size) and (y == 3).all()
    statistics = case.statistics
    assert statistics.planned > statistics.plans
    assert statistics.plans <= 2 * Options.resolve(1).plans


def test_broadcasts_that_the_general_body_excludes() -> None:
    """`s` starts as [1] or [n]: sizes taken to be equal while compiling are not."""
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["s", "x"], ["n"])]
    inner = body(nodes, [info("i", [], INT64), info("go", [], BOOL), info("s", ["k"])], ["go_on", "n"])
    node = helper.make_node("Loop", ["most", "", "s0"], ["y"], body=inner)
    proto = model([node], [info("most", [], INT64), info("s0", ["m"]), info("x", ["n"])], ["y"])
    executable = Executable(lower_graph(load(proto)), host(), Options.resolve(1))
    for size in range(1, 3 * SPECIALIZED):
        for start in (1, size):
            (y,) = executable.run([np.array(3), np.ones(start, np.float32), np.ones(size, np.float32)])
            np.testing.assert_array_equal(y, np.full(size, 4, np.float32))
    assert executable.cuts is not None
    assert len(list(executable.cuts.body_programs())) <= 1 + SPECIALIZED
    with pytest.raises(SansuanError):
        executable.run([np.array(3), np.ones(2, np.float32), np.ones(3, np.float32)])


def test_nested_bodies() -> None:
    inner_if = helper.make_node(
        "If",
        ["go"],
        ["n"],
        then_branch=body([helper.make_node("Add", ["s", "w"], ["t"])], [], ["t"]),
        else_branch=body([helper.make_node("Sub", ["s", "x"], ["e"])], [], ["e"]),
    )
    case = Case(loop(loop_body(inner_if), ["y", "rows"], ["n", 2], [WEIGHT]))
    for rounds, rows in ((2, 3), (0, 3), (5, 1)):
        case.check(np.int64(rounds), floats(rows, 2))
    assert any(kernel.startswith("map") for kernel in case.kernels())


@pytest.mark.parametrize("axis", [0, 1])
def test_scan(axis: int) -> None:
    nodes = [helper.make_node("Add", ["state", "slice"], ["n"]), helper.make_node("Mul", ["n", "scale"], ["row"])]
    inner = body(nodes, [info("state", ["m"]), info("slice", ["m"])], ["n", "row"])
    node = helper.make_node("Scan", ["s", "x"], ["y", "rows"], body=inner, num_scan_inputs=1,
                            scan_input_axes=[axis], scan_output_axes=[-1], scan_output_directions=[1])  # fmt: skip
    shape = ["t", "m"] if axis == 0 else ["m", "t"]
    case = Case(model([node], [info("s", ["m"]), info("x", shape), info("scale", [])], ["y", "rows"]))
    for length, width in ((0, 3), (1, 3), (5, 4), (2, 1)):
        x = floats(length, width)
        case.check(floats(width), np.ascontiguousarray(x if axis == 0 else x.T), np.float32(2))
    assert any(kernel.startswith("map") for kernel in case.kernels())


def test_scan_over_scalars() -> None:
    inner = body([helper.make_node("Add", ["state", "slice"], ["n"])], [info("state", []), info("slice", [])], ["n"])
    node = helper.make_node("Scan", ["s", "x"], ["y"], body=inner, num_scan_inputs=1)
    Case(model([node], [info("s", []), info("x", ["t"])], ["y"])).check(np.float32(1), floats(5))


def test_values_handed_on_are_neither_copied_nor_shared() -> None:
    """The body swaps nothing but names: one result twice, an input, and a weight."""
    nodes = [
        helper.make_node("Identity", ["go"], ["go_on"]),
        helper.make_node("Identity", ["a"], ["a2"]),
        helper.make_node("Identity", ["a"], ["b2"]),
        helper.make_node("Identity", ["w"], ["c2"]),
    ]
    formal = [info("i", [], INT64), info("go", [], BOOL), info("a", None), info("b", None), info("c", None)]
    inner = body(nodes, formal, ["go_on", "a2", "b2", "c2"])
    neg = helper.make_node("Neg", ["x"], ["minus"])
    node = helper.make_node("Loop", ["most", "", "minus", "minus", "x"], ["p", "q", "r"], body=inner)
    case = Case(model([neg, node], [info("most", [], INT64), info("x", [1, 2])], ["p", "q", "r"], [WEIGHT]))
    for rounds in (0, 1, 3):
        case.check(np.int64(rounds), floats(1, 2))[2][:] = 0
    _, _, weight = case.check(np.int64(1), floats(1, 2))
    np.testing.assert_array_equal(weight, [[9, 8]])


def test_a_body_without_kernels_says_so() -> None:
    nodes = [helper.make_node("SequenceEmpty", [], ["t"])]
    other = [helper.make_node("SequenceConstruct", ["x"], ["e"])]
    value = helper.make_tensor_sequence_value_info("t", 1, None)
    result = helper.make_tensor_sequence_value_info("e", 1, None)
    node = helper.make_node(
        "If",
        ["c"],
        ["items"],
        then_branch=helper.make_graph(nodes, "then", [], [value]),
        else_branch=helper.make_graph(other, "else", [], [result]),
    )
    length = helper.make_node("SequenceLength", ["items"], ["y"])
    executable = Executable(
        lower_graph(load(model([node, length], [info("c", [], BOOL), info("x", ["n"])], ["y"]))),
        host(),
        Options.resolve(1),
    )
    assert executable.run([np.array(True), np.ones(3, np.float32)])[0] == 0
    assert executable.run([np.array(False), np.ones(3, np.float32)])[0] == 1
    assert any(IN_NUMPY in row.reason for row in executable.rows())


def test_the_ledger_shows_the_kernels_of_a_body() -> None:
    program = runtime.compile(growing().SerializeToString(), threads=1)
    program(np.array(3), floats(2, 2))
    (row,) = [row for row in program.ledger() if row.node == "the_loop"]
    assert row.unit == "host" and "control flow" in row.reason
    assert row.runs == 1 and "gemm" in row.kernel


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_bodies_compute_in_the_precision_asked_for(backend: str) -> None:
    program = runtime.compile(growing().SerializeToString(), threads=1, precision="fp64", backend=backend)
    x, weight = floats(2, 2), np.float32([[0.5, 0.1], [0.2, 0.3]]).astype(np.float64)
    state = x.astype(np.float64)
    for _ in range(3):
        state = np.concatenate([state, x]) @ weight
    (found,) = program(np.array(3), x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, state, rtol=1e-14)


def test_runs_from_several_threads() -> None:
    case = Case(growing())
    calls = [(np.array(rounds), floats(rows, 2)) for rounds in (0, 2, 5) for rows in (0, 1, 3)] * 4
    expected = [run(case.graph, call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(case.executable.run, calls), expected, strict=True):
            np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-6)
