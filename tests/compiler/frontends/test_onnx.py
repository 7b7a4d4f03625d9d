"""The ONNX front end on small models: names, sizes, order, defaults, functions, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.reference.interpreter import run
from compiler import dims
from compiler.errors import ModelError, SansuanError, ShapeError, UnsupportedOp
from compiler.frontends.onnx import load
from compiler.types import TensorType


def info(name: str, shape: Sequence[int | str | None] | None, elem: int = TensorProto.FLOAT) -> Any:
    return helper.make_tensor_value_info(name, elem, shape)


def model(nodes: Any, inputs: Any, outputs: Any, initializers: Any = (), opset: int = 21, **rest: Any) -> Any:
    functions, ir_version = rest.pop("functions", ()), rest.pop("ir_version", 10)
    domains = rest.pop("domains", {})
    graph = helper.make_graph(nodes, "g", inputs, outputs, initializers, **rest)
    imports = [helper.make_opsetid(*entry) for entry in {"": opset, **domains}.items()]
    return helper.make_model(graph, opset_imports=imports, functions=functions, ir_version=ir_version)


def relu(source: str = "x", target: str = "y", **rest: Any) -> Any:
    return helper.make_node("Relu", [source], [target], **rest)


X = np.array([[-1.0, 2.0, -3.0]], np.float32)


def test_path_bytes_and_proto_are_the_same(tmp_path: Path) -> None:
    proto = model([relu()], [info("x", [1, 3])], [info("y", None)])
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    texts = {str(load(given)) for given in (proto, proto.SerializeToString(), path, str(path))}
    assert len(texts) == 1


def test_every_node_is_listed_once_under_a_name_of_its_own() -> None:
    nodes = [relu("x", "a", name="same"), relu("a", "b", name="same"), relu("b", "y")]
    graph = load(model(nodes, [info("x", [3])], [info("y", None)]))
    assert [node.name for node in graph.imported] == ["same", "same_1", "Relu_2(y)"]
    assert [node.op for node in graph.imported] == ["Relu"] * 3
    assert [node.where for node in graph.nodes] == [("same",), ("same_1",), ("Relu_2(y)",)]


def test_named_dimensions_are_symbols_spelled_as_identifiers() -> None:
    shape = ["batch size", 3, "batch size", "lambda", None, "max", "4th"]
    graph = load(model([relu()], [info("x", shape)], [info("y", None)]))
    found = [str(size) for size in graph.inputs[0].type.shape]
    unknown = found.pop(4)
    assert found == ["batch_size", "3", "batch_size", "lambda_", "max_", "d_4th"]
    assert unknown.isidentifier() and unknown not in graph.size_names
    assert graph.size_names == {"batch_size": "batch size", "lambda_": "lambda", "max_": "max", "d_4th": "4th"}


def test_names_that_spell_alike_stay_different_sizes() -> None:
    graph = load(model([relu()], [info("x", ["a b", "a_b"])], [info("y", None)]))
    first, second = graph.inputs[0].type.shape
    assert first != second


def test_unknown_rank_stays_unknown_and_runs() -> None:
    graph = load(model([relu()], [info("x", None)], [info("y", None)]))
    assert graph.inputs[0].type.shape is None
    for shape in ((), (2,), (2, 0, 3)):
        assert run(graph, [np.full(shape, -1, np.float32)])[0].shape == shape


def test_given_types_and_contents_of_inputs() -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["y"])]
    proto = model(nodes, [info("x", None), info("s", [2], TensorProto.INT64)], [info("y", None)])
    given = {"x": TensorType(load(proto).inputs[0].type.dtype, (2, 6)), "s": np.array([3, -1])}
    graph = load(proto, known=given)
    assert graph.outputs[0].type.shape == (3, 4)
    assert [value.name for value in graph.inputs] == ["x", "s"]
    assert run(graph, [np.zeros((2, 6), np.float32), np.array([3, -1])])[0].shape == (3, 4)


def test_outputs_may_be_inputs_constants_and_the_same_value_twice() -> None:
    constant = numpy_helper.from_array(np.float32([7]), "c")
    nodes = [helper.make_node("Identity", ["x"], ["same"]), relu()]
    outputs = [info(name, None) for name in ("x", "c", "y", "y2", "same")]
    nodes.append(helper.make_node("Identity", ["y"], ["y2"]))
    graph = load(model(nodes, [info("x", [1, 3])], outputs, [constant]))
    assert graph.output_names == ("x", "c", "y", "y2", "same")
    x, c, y, y2, same = run(graph, [X])
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(c, [7])
    np.testing.assert_array_equal(y, np.maximum(X, 0))
    np.testing.assert_array_equal(y2, y)
    np.testing.assert_array_equal(same, X)


def test_initializers_among_the_inputs_are_constants() -> None:
    weight = numpy_helper.from_array(np.float32([[1, 2, 3]]), "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    proto = model(nodes, [info("x", [1, 3]), info("w", [1, 3])], [info("y", None)], [weight], opset=9, ir_version=3)
    graph = load(proto)
    assert [value.name for value in graph.inputs] == ["x"]
    np.testing.assert_array_equal(run(graph, [X])[0], X + np.float32([[1, 2, 3]]))


def test_nodes_in_any_order() -> None:
    nodes = [relu("b", "y"), relu("a", "b"), helper.make_node("Neg", ["x"], ["a"])]
    graph = load(model(nodes, [info("x", [1, 3])], [info("y", None)]))
    np.testing.assert_array_equal(run(graph, [X])[0], np.maximum(-X, 0))


def test_long_chains_do_not_recurse() -> None:
    count = 3000
    nodes = [relu(f"v{i + 1}", f"v{i}") for i in range(count)]
    assert len(load(model(nodes, [info(f"v{count}", [1])], [info("v0", None)])).nodes) == count


def test_sparse_initializers() -> None:
    values = numpy_helper.from_array(np.float32([5, 6]), "w")
    for indices in (np.array([1, 5]), np.array([[0, 1], [1, 2]])):
        sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "i"), [2, 3])
        nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
        graph = load(model(nodes, [info("x", [2, 3])], [info("y", None)], sparse_initializer=[sparse]))
        found = run(graph, [np.zeros((2, 3), np.float32)])[0]
        np.testing.assert_array_equal(found, [[0, 5, 0], [0, 0, 6]])


def test_attribute_defaults_and_upgrades_of_old_opsets() -> None:
    axes = helper.make_node("Unsqueeze", ["x"], ["y"], axes=[0, -1])
    graph = load(model([axes], [info("x", [1, 3])], [info("y", None)], opset=11))
    assert run(graph, [X])[0].shape == (1, 1, 3, 1)
    softmax = helper.make_node("Softmax", ["x"], ["y"])
    old = load(model([softmax], [info("x", [2, 2, 2])], [info("y", None)], opset=12))
    new = load(model([softmax], [info("x", [2, 2, 2])], [info("y", None)], opset=13))
    ones = np.ones((2, 2, 2), np.float32)
    assert run(old, [ones])[0][0, 0, 0] == np.float32(0.25)
    assert run(new, [ones])[0][0, 0, 0] == np.float32(0.5)


def local_function(name: str, nodes: Any, attributes: Any = (), defaults: Any = ()) -> Any:
    return helper.make_function(
        "mine", name, ["a", "b"], ["c"], nodes, [helper.make_opsetid("", 21)], attributes, defaults
    )


def test_model_local_functions_with_attributes_and_an_omitted_input() -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["n"])
    leaky.attribute.add(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="slope")
    nodes = [leaky, helper.make_node("Clip", ["n", "b"], ["c"])]
    function = local_function("Bent", nodes, (), [helper.make_attribute("slope", 0.5)])
    calls = [
        helper.make_node("Bent", ["x"], ["y"], domain="mine"),
        helper.make_node("Bent", ["x", "low"], ["z"], domain="mine", slope=0.25),
    ]
    low = numpy_helper.from_array(np.float32(-0.5), "low")
    outputs = [info("y", None), info("z", None)]
    graph = load(model(calls, [info("x", [1, 3])], outputs, [low], functions=[function], domains={"mine": 1}))
    assert {node.where for node in graph.nodes} == {("Bent_0(y)",), ("Bent_1(z)",)}
    y, z = run(graph, [X])
    np.testing.assert_array_equal(y, np.float32([[-0.5, 2, -1.5]]))
    np.testing.assert_array_equal(z, np.float32([[-0.25, 2, -0.5]]))


def test_a_function_that_calls_itself_is_refused() -> None:
    function = local_function("Loopy", [helper.make_node("Loopy", ["a", "b"], ["c"], domain="mine")])
    function.opset_import.append(helper.make_opsetid("mine", 1))
    call = helper.make_node("Loopy", ["x", "x"], ["y"], domain="mine")
    with pytest.raises(ModelError, match="calls itself"):
        load(model([call], [info("x", [1])], [info("y", None)], functions=[function], domains={"mine": 1}))


def test_all_unknown_operators_are_named_at_once() -> None:
    inner = helper.make_graph([helper.make_node("Inner", ["x"], ["i"], domain="ours")], "b", [], [info("i", None)])
    nodes = [
        helper.make_node("First", ["x"], ["a"], name="one", domain="ours"),
        helper.make_node("Nonsense", ["a"], ["b"], name="two"),
        helper.make_node("If", ["c"], ["y"], name="three", then_branch=inner, else_branch=inner),
    ]
    proto = model(nodes, [info("x", [1]), info("c", [], TensorProto.BOOL)], [info("y", None)], domains={"ours": 1})
    with pytest.raises(UnsupportedOp) as caught:
        load(proto)
    for expected in ("First", "one", "Nonsense", "two", "Inner", "three/"):
        assert expected in str(caught.value)


BAD_MODELS = {
    "empty": (b"", "no graph"),
    "no protobuf": (b"\xff" * 40, "no ONNX model"),
    "text": (b"hello, this is a README", "no ONNX model|no graph"),
    "truncated": (model([relu()], [info("x", [3])], [info("y", None)]).SerializeToString()[:-7], "no ONNX model"),
    "undefined name": (model([relu("nowhere")], [info("x", [3])], [info("y", None)]), "'nowhere', which nothing"),
    "undefined output": (model([relu()], [info("x", [3])], [info("z", None)]), "'z' is defined by nothing"),
    "cycle": (model([relu("b", "a"), relu("a", "b")], [info("x", [3])], [info("b", None)]), "cyclic"),
    "self cycle": (model([relu("a", "a")], [], [info("a", None)]), "cyclic"),
    "defined twice": (model([relu(), relu()], [info("x", [3])], [info("y", None)]), "'y', which is already"),
    "input twice": (model([relu()], [info("x", [3]), info("x", [3])], [info("y", None)]), "input 'x' is defined"),
    "output shadows input": (model([relu("x", "x")], [info("x", [3])], [info("x", None)]), "already defined"),
    "no opset": (helper.make_model(model([relu()], [], []).graph, opset_imports=[]), "opset"),
    "future opset": (model([relu()], [info("x", [3])], [info("y", None)], opset=999), "opset 999"),
    "domain not imported": (
        model([relu(domain="ours")], [info("x", [3])], [info("y", None)]),
        "'ours' is not in the model's opset_import",
    ),
    "unknown attribute": (model([relu(speed=3)], [info("x", [3])], [info("y", None)]), "unknown attribute 'speed'"),
    "attribute of another kind": (
        model([helper.make_node("Softmax", ["x"], ["y"], axis="last")], [info("x", [3])], [info("y", None)]),
        "attribute 'axis' is 'last'; expected INT",
    ),
    "missing attribute": (
        model([helper.make_node("Cast", ["x"], ["y"])], [info("x", [3])], [info("y", None)]),
        "attribute 'to' is missing",
    ),
    "too many inputs": (
        model([helper.make_node("Relu", ["x", "x"], ["y"])], [info("x", [3])], [info("y", None)]),
        "2 inputs; expected 1 to 1",
    ),
    "input without type": (model([relu()], [onnx.ValueInfoProto(name="x")], [info("y", None)]), "input 'x'"),
}
BAD_MODELS["no opset"][0].ClearField("opset_import")


@pytest.mark.parametrize("name", BAD_MODELS)
def test_malformed_models_are_refused(name: str) -> None:
    given, expected = BAD_MODELS[name]
    with pytest.raises(ModelError, match=expected):
        load(given)


@pytest.mark.parametrize("name", ["empty", "no protobuf", "truncated", "no opset", "future opset"])
def test_an_unreadable_file_is_named(name: str, tmp_path: Path) -> None:
    given = BAD_MODELS[name][0]
    path = tmp_path / "bad.onnx"
    path.write_bytes(given if isinstance(given, bytes) else given.SerializeToString())
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_missing_files_folders_and_other_objects_are_refused(tmp_path: Path) -> None:
    for given in (tmp_path / "none.onnx", tmp_path, 17, None):
        with pytest.raises(ModelError, match=re.escape(str(given)) if isinstance(given, Path) else None):
            load(given)


def test_errors_inside_a_body_say_where() -> None:
    bad = helper.make_node("MatMul", ["x", "w"], ["i"], name="inner")
    body = helper.make_graph([bad], "b", [], [info("i", None)])
    node = helper.make_node("If", ["c"], ["y"], name="outer", then_branch=body, else_branch=body)
    weight = numpy_helper.from_array(np.zeros((5, 2), np.float32), "w")
    inputs = [info("x", [1, 3]), info("c", [], TensorProto.BOOL)]
    with pytest.raises(ShapeError, match="outer") as caught:
        load(model([node], inputs, [info("y", None)], [weight]))
    assert any("outer/inner" in note for note in caught.value.__notes__)


def test_shape_chains_vanish_into_sizes() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["batch"]),
        helper.make_node("Concat", ["batch", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.array([0]), "zero"), numpy_helper.from_array(np.array([-1]), "rest")]
    graph = load(model(nodes, [info("x", ["n", 2, 3])], [info("y", None)], constants))
    assert graph.outputs[0].type.shape == (dims.symbol("n"), 6)


def test_large_initializers_are_not_copied_out_of_the_model() -> None:
    weight = np.arange(4096, dtype=np.float32)
    for pad in range(4):  # the payload's place in the file, aligned for one of four
        proto = model([helper.make_node("Add", ["x", "w"], ["y"])], [info("x", [4096])], [info("y", None)],
                      [numpy_helper.from_array(weight, "w")])  # fmt: skip
        proto.producer_name = "p" * (pad + 1)
        data = proto.SerializeToString()
        array = load(data).constants["w"]
        np.testing.assert_array_equal(array, weight)
        assert array.flags.aligned and not array.flags.writeable
        start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
        in_place = 0 <= array.__array_interface__["data"][0] - start < len(data)
        assert in_place == ((start + data.find(weight.tobytes())) % 4 == 0)


def test_mutated_models_raise_only_our_errors(rng: np.random.Generator) -> None:
    body = helper.make_graph([relu("x", "i")], "b", [], [info("i", None)])
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], strides=[2, 1]),
        helper.make_node("If", ["c"], ["b"], then_branch=body, else_branch=body),
        helper.make_node("Softmax", ["a"], ["y"], axis=-1),
    ]
    weight = numpy_helper.from_array(np.zeros((2, 3, 3, 3), np.float32), "w")
    inputs = [info("x", ["n", 3, 8, 8]), info("c", [], TensorProto.BOOL)]
    data = model(nodes, inputs, [info("y", None), info("b", None)], [weight]).SerializeToString()
    loaded = 0
    for _ in range(3000):
        mutated = bytearray(data)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            mutated[at] = rng.integers(0, 256)
        try:
            load(bytes(mutated))
            loaded += 1
        except SansuanError:
            continue
    assert loaded
