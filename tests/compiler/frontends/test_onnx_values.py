"""Which inputs join the key of a program."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

from compiler.frontends.onnx_values import deciding_inputs


def model(nodes: list[Any], *names: str, functions: tuple[Any, ...] = ()) -> Any:
    infos = [helper.make_tensor_value_info(name, TensorProto.INT64, None) for name in (*names, "y")]
    graph = helper.make_graph(nodes, "g", infos[:-1], infos[-1:])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions)


def test_a_chain_of_integers_is_followed() -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Reshape", ["x", "s"], ["y"])]
    assert deciding_inputs(model(nodes, "x", "a", "b")) == ("a", "b")


def test_the_contents_behind_a_shape_or_a_type_decide_nothing() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("CastLike", ["n", "x"], ["m"]),
        helper.make_node("Concat", ["shape", "m"], ["s"], axis=0),
        helper.make_node("Expand", ["x", "s"], ["y"]),
    ]
    assert deciding_inputs(model(nodes, "x", "n")) == ("n",)


def test_inside_a_models_own_function() -> None:
    body = [helper.make_node("Reshape", ["data", "to"], ["out"])]
    own = helper.make_function("own", "F", ["data", "to"], ["out"], body, [helper.make_opsetid("", 20)])
    call = helper.make_node("F", ["x", "s"], ["y"], domain="own")
    assert deciding_inputs(model([call], "x", "s", functions=(own,))) == ("s",)


def test_inside_a_schemas_function() -> None:
    assert deciding_inputs(model([helper.make_node("AffineGrid", ["x", "size"], ["y"])], "x", "size")) == ("size",)


def test_a_condition_and_what_its_branches_give_on() -> None:
    branches = {
        key: helper.make_graph(
            [helper.make_node("Identity", [name], [f"{name}_out"])],
            key,
            [],
            [helper.make_tensor_value_info(f"{name}_out", TensorProto.INT64, None)],
        )
        for key, name in (("then_branch", "a"), ("else_branch", "b"))
    }
    nodes = [helper.make_node("If", ["c"], ["s"], **branches), helper.make_node("Reshape", ["x", "s"], ["y"])]
    assert deciding_inputs(model(nodes, "x", "a", "b", "c")) == ("a", "b", "c")


def test_what_a_host_step_finds_in_an_input_is_data() -> None:
    nodes = [
        helper.make_node("Equal", ["x", "end"], ["ends"]),
        helper.make_node("NonZero", ["ends"], ["places"]),
        helper.make_node("Slice", ["x", "places", "stop"], ["y"]),
    ]
    assert deciding_inputs(model(nodes, "x", "end", "stop")) == ("stop",)
