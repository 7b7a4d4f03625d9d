"""The generic Host step, and the operators the onnx package has no reference for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, defs, helper

from backends.reference.interpreter import run
from compiler.errors import ModelError, ShapeError
from compiler.frontends.onnx import load
from compiler.frontends.onnx_schemas import is_supported

FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


def one_node(op_type: str, inputs: dict[str, tuple[int, Any]], outputs: Sequence[str], **attrs: Any) -> Any:
    """A model of one node, called with all its inputs."""
    domain = attrs.pop("domain", "")
    node = helper.make_node(op_type, list(inputs), outputs, domain=domain, **attrs)
    formals = [helper.make_tensor_value_info(name, elem, shape) for name, (elem, shape) in inputs.items()]
    graph = helper.make_graph([node], "g", formals, [onnx.ValueInfoProto(name=name) for name in outputs if name])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("ai.onnx.ml", 5)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def host(proto: Any) -> Any:
    """The one node of the graph, which must be the generic Host step."""
    graph = load(proto)
    assert [node.op for node in graph.nodes] == ["onnx_host"]
    return graph


def test_sizes_come_back_under_their_own_names() -> None:
    graph = host(one_node("StringConcat", {"x": (STRING, ["batch", "n"]), "y": (STRING, ["n"])}, ["z"]))
    assert str(graph.outputs[0].type) == "string[batch, n]"


def test_sizes_only_data_decides_are_fresh() -> None:
    graph = host(one_node("StringSplit", {"x": (STRING, ["n"])}, ["y", "count"], delimiter=","))
    values, count = graph.nodes[0].outputs
    assert str(values.type.shape[0]) == str(count.type.shape[0]) == "n"
    assert str(values.type.shape[1]) != "n"
    found = run(graph, [np.array(["a,b", "c"], object)])
    assert [array.tolist() for array in found] == [[["a", "b"], ["c", ""]], [2, 1]]


def test_unknown_rank_goes_in_and_out() -> None:
    graph = host(one_node("Exp", {"x": (FLOAT, None)}, ["y"]))
    assert graph.outputs[0].type.shape is None
    np.testing.assert_array_equal(run(graph, [np.zeros((2, 1), np.float32)])[0], np.ones((2, 1)))


def test_containers_pass_between_steps() -> None:
    nodes = [
        helper.make_node("SequenceConstruct", ["x", "y"], ["s"]),
        helper.make_node("ConcatFromSequence", ["s"], ["z"], axis=0),
        helper.make_node("SequenceLength", ["s"], ["n"]),
    ]
    formals = [helper.make_tensor_value_info(name, FLOAT, [size, 2]) for name, size in (("x", "a"), ("y", "b"))]
    graph = helper.make_graph(nodes, "g", formals, [onnx.ValueInfoProto(name=name) for name in "zns"])
    imported = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]))
    assert str(imported.outputs[2].type).startswith("sequence(float32[")
    z, n, s = run(imported, [np.ones((1, 2), np.float32), np.zeros((3, 2), np.float32)])
    assert z.shape == (4, 2) and n == 2 and [x.shape for x in s] == [(1, 2), (3, 2)]


def test_strings_are_object_arrays() -> None:
    graph = host(one_node("StringConcat", {"x": (STRING, ["n"]), "y": (STRING, [1])}, ["z"]))
    (found,) = run(graph, [np.array(["a", "b"], object), np.array(["!"], object)])
    assert found.dtype == object and found.tolist() == ["a!", "b!"]


def test_what_shape_inference_refuses_names_the_node() -> None:
    with pytest.raises(ShapeError, match="Det"):
        load(one_node("Det", {"x": (FLOAT, [2, 3])}, ["y"]))
    with pytest.raises(ModelError, match="unknown attribute"):
        load(one_node("Det", {"x": (FLOAT, [2, 2])}, ["y"], speed=1))


def test_every_operator_of_the_standard_domains_loads() -> None:
    missing = {
        schema.name
        for schema in defs.get_all_schemas()
        if not schema.deprecated and not is_supported(schema.name, schema.domain, schema.since_version, "", {})
    }
    assert missing == {"CastMap", "Gradient"}  # a map as input; a derivative of the graph


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.7])
def test_max_roi_pool_against_onnx_runtime(scale: float, rng: np.random.Generator) -> None:
    x = rng.normal(size=(2, 3, 8, 9)).astype(np.float32)
    rois = np.concatenate([rng.integers(0, 2, (7, 1)), rng.uniform(0, 9, (7, 4))], axis=1).astype(np.float32)
    rois[:, 3:] = np.maximum(rois[:, 3:], rois[:, 1:3])
    proto = one_node("MaxRoiPool", {"x": (FLOAT, x.shape), "r": (FLOAT, ["n", 5])}, ["y"],
                     pooled_shape=[3, 2], spatial_scale=scale)  # fmt: skip
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", FLOAT, None))
    expected = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x, "r": rois})[0]
    np.testing.assert_array_equal(run(load(proto), [x, rois])[0], expected)


def test_multinomial_draws_by_the_probabilities() -> None:
    weights = np.log(np.float32([[0.2, 0.8, 1e-30], [0.5, 0.25, 0.25]]))
    proto = one_node("Multinomial", {"x": (FLOAT, ["n", 3])}, ["y"], sample_size=4000, dtype=INT64, seed=3.0)
    first, second = (run(load(proto), [weights])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.dtype == np.int64 and first.shape == (2, 4000)
    shares = [np.bincount(row, minlength=3) / 4000 for row in first]
    np.testing.assert_allclose(shares, [[0.2, 0.8, 0], [0.5, 0.25, 0.25]], atol=0.03)


def test_zip_map() -> None:
    proto = one_node("ZipMap", {"x": (FLOAT, ["n", 2])}, ["y"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"])
    assert run(load(proto), [np.float32([[0.25, 0.75], [1, 0]])])[0] == [
        {"no": 0.25, "yes": 0.75},
        {"no": 1.0, "yes": 0.0},
    ]
