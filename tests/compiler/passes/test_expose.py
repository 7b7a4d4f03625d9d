"""Exposed, isolated and disturbed graphs, on graphs built here."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.reference.interpreter import run
from compiler import dtypes
from compiler.builder import Builder
from compiler.ir import Graph, ImportedNode
from compiler.passes.expose import expose, imported_of, isolate, with_noise
from compiler.passes.specialize import specialize
from compiler.passes.verify import verify
from compiler.types import TensorType

X = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)


def small() -> Graph:
    """Three imported nodes: `scale` of two graph nodes, `fold` that reshapes by computed sizes, `sum`."""
    b = Builder()
    x = b.input("x", TensorType(dtypes.float32, (b.claim_symbol("n"), 6)))
    weight = b.constant(np.full((6,), 2, np.float32), "weight")
    b.imported += [ImportedNode(name, "Op") for name in ("scale", "sizes", "fold", "sum")]
    with b.at("scale"):
        inner = b.emit("mul", x, weight, hint="inner")
        scaled = b.emit("neg", inner, hint="scaled")
    with b.at("sizes"):
        shape = b.emit("concat", b.emit("shape_of", scaled), b.constant(np.array([1])), axis=0, hint="shape")
    with b.at("fold"):
        folded = b.emit("reshape", scaled, shape, hint="folded")
    with b.at("sum"):
        total = b.emit("add", folded, folded, hint="total")
    return b.finish([total])


def opened() -> tuple[Graph, dict[str, Any]]:
    graph = specialize(expose(small()), [X.shape])
    observed = dict(zip((value.name for value in graph.outputs), run(graph, [X]), strict=True))
    return graph, {"x": X, **observed}


def test_boundary_values_are_outputs_once_and_in_order() -> None:
    graph = expose(small())
    assert [value.name for value in graph.outputs] == ["scaled", "shape", "folded", "total"]
    assert next(value.name for value in expose(small(), ["inner"]).outputs) == "inner"
    assert graph.output_names == ()


def test_exposing_changes_no_result() -> None:
    (expected,) = run(small(), [X])
    assert np.array_equal(run(expose(small()), [X])[-1], expected)


def test_isolated_nodes_read_only_what_they_are_fed() -> None:
    graph, observed = opened()
    isolated = isolate(graph, observed)
    verify(isolated.graph)
    assert isolated.left_out == {}
    fed = {name: np.asarray(observed[name]) for name in isolated.fed}
    fed["folded"] = fed["folded"] + 1  # nobody but `sum` sees that
    results = dict(zip(isolated.results, run(isolated.graph, [fed[name] for name in isolated.fed]), strict=True))
    for name in ("scaled", "shape", "folded"):
        assert np.array_equal(results[name], observed[name])
    assert np.array_equal(results["total"], observed["total"] + 2)
    reads = {value.name for node in isolated.graph.nodes for value in node.inputs if value is not None}
    assert not reads & {value.name for value in isolated.graph.outputs}


def test_graph_nodes_of_one_imported_node_stay_together() -> None:
    graph, observed = opened()
    isolated = isolate(graph, observed, {"scale"})
    assert {imported_of(node) for node in isolated.graph.nodes} == {"scale"}
    assert (isolated.fed, isolated.results) == (("x",), ("scaled",))
    assert len(isolated.graph.nodes) == 2


def test_contents_that_decide_shapes_become_constants() -> None:
    graph, observed = opened()
    isolated = isolate(graph, observed)
    assert set(isolated.baked) == {"shape"} and np.array_equal(isolated.baked["shape"], [2, 6, 1])
    assert "shape" not in isolated.fed
    assert all(value.type.is_static for value in isolated.graph.outputs)


def test_values_that_are_no_tensors_join_their_nodes() -> None:
    onnx = pytest.importorskip("onnx")
    from compiler.frontends.onnx import load

    node = onnx.helper.make_node
    nodes = [
        node("Exp", ["x"], ["a"], name="exp"),
        node("SplitToSequence", ["a"], ["s"], name="split", axis=0),
        node("SequenceAt", ["s", "i"], ["b"], name="at"),
        node("Sqrt", ["b"], ["y"], name="sqrt"),
    ]
    made = onnx.helper.make_graph(
        nodes,
        "sequence",
        [onnx.helper.make_tensor_value_info("x", 1, [4, 6])],
        [onnx.helper.make_tensor_value_info("y", 1, [1, 6])],
        [onnx.numpy_helper.from_array(np.array(2), "i")],
    )
    graph = expose(load(onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9)))
    x = np.ones((4, 6), np.float32)
    observed = {"x": x, **dict(zip((value.name for value in graph.outputs), run(graph, [x]), strict=True))}
    isolated = isolate(graph, observed, {"at"})
    assert {imported_of(node) for node in isolated.graph.nodes} == {"split", "at"}
    assert len(isolated.results) == 1
    assert np.array_equal(run(isolated.graph, [observed[name] for name in isolated.fed])[0], np.full((1, 6), np.e, "f"))


def test_noise_is_inherited() -> None:
    graph, observed = opened()
    noisy, places = with_noise(graph)
    verify(noisy)
    names = [graph.outputs[place].name for place in places]
    assert names == ["scaled", "folded", "total"]  # sizes are no rounded numbers
    noise = [np.full(np.shape(observed[name]), 0.5, np.float32) for name in names]
    results = dict(zip((value.name for value in graph.outputs), run(noisy, [X, *noise]), strict=True))
    assert np.allclose(results["scaled"], observed["scaled"] + 0.5)
    assert np.allclose(results["folded"], observed["folded"] + 1)
    assert np.allclose(results["total"], observed["total"] + 2.5)


@pytest.mark.parametrize(("dtype", "values"), [(dtypes.uint8, [0, 7, 255]), (dtypes.int8, [-128, 7, 127])])
def test_noise_on_codes_stays_in_their_range(dtype: dtypes.DType, values: list[int]) -> None:
    b = Builder()
    x = b.input("x", TensorType(dtype, (3,)))
    with b.at("move"):
        y = b.emit("transpose", x, perm=(0,), hint="y")
    noisy, places = with_noise(expose(b.finish([y])))
    assert places == (0,)
    array = np.array(values, dtype.numpy)
    for step in (1, -1):
        (result,) = run(noisy, [array, np.array([step] * 3).astype(dtype.numpy)])
        assert result.tolist() == [min(max(value + step, values[0]), values[-1]) for value in values]
