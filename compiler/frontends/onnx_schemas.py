"""What the onnx package declares of an operator: its schema, the checks it allows, and the function it stands for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from compiler.errors import ModelError, UnsupportedOp
from compiler.frontends.onnx_attributes import is_of_kind, node_proto
from compiler.frontends.onnx_model import OnnxModel, domain_name, opset_versions
from compiler.frontends.onnx_node import OnnxNode
from compiler.frontends.onnx_order import node_label, subgraphs
from compiler.frontends.onnx_types import type_proto
from compiler.op import ONNX_ROWS, lookup


def find_schema(op_type: str, domain: str, version: int) -> Any:
    """The OpSchema in force at an opset version, None if there is none."""
    from onnx import defs

    try:
        return defs.get_schema(op_type, version, domain)
    except defs.SchemaError:
        return None


def check_node(node: OnnxNode, schema: Any, place: str) -> None:
    """Raise ModelError where the number of inputs or the attributes are not what the operator's schema declares."""
    what = f"{place}: {node.op_type} of opset {node.version}"
    least, most = schema.min_input, schema.max_input
    if not least <= len(node.inputs) <= most:
        raise ModelError(f"{what}: {len(node.inputs)} inputs; expected {least} to {most}: check the opset import")
    unknown = [name for name in node.attrs if name not in schema.attributes]
    if unknown:
        known = ", ".join(schema.attributes) or "none"
        raise ModelError(f"{what}: unknown attribute {unknown[0]!r}; expected {known}: check the opset import")
    for name, declared in schema.attributes.items():
        if declared.required and name not in node.attrs:
            raise ModelError(f"{what}: attribute {name!r} is missing; the operator requires it")
        if name in node.attrs and not is_of_kind(node.attrs[name], declared.type.name):
            raise ModelError(f"{what}: attribute {name!r} is {node.attrs[name]!r:.80}; expected {declared.type.name}")


def attribute_defaults(schema: Any) -> dict[str, Any]:
    """The values of attributes a node leaves out, where the schema has one."""
    from onnx import helper

    found = {}
    for name, declared in schema.attributes.items():
        if declared.default_value.name:
            value = helper.get_attribute_value(declared.default_value)
            value = value.decode() if isinstance(value, bytes) else value
            found[name] = tuple(value) if isinstance(value, list) else value
    return found


def function_body(node: OnnxNode, schema: Any) -> Any:
    """The FunctionProto the operator is defined by at the node's opset, None where it is a primitive."""
    from onnx import FunctionProto

    function = FunctionProto()
    plain = [version for version in schema.function_opset_versions if version <= node.version]
    if plain:
        function.ParseFromString(schema.get_function_with_opset_version(max(plain)))
        return function
    dependent = [version for version in schema.context_dependent_function_opset_versions if version <= node.version]
    if not dependent:
        return None
    names = [f"i{i}" if value is not None else "" for i, value in enumerate(node.inputs)]
    outputs = [name or f"o{i}" if i < schema.min_output else name for i, name in enumerate(node.outputs)]
    proto = node_proto(node.op_type, node.domain, node.attrs, names, outputs, schema)
    types = [type_proto(value.type).SerializeToString() if value is not None else b"" for value in node.inputs]
    body = schema.get_context_dependent_function_with_opset_version(max(dependent), proto.SerializeToString(), types)
    function.ParseFromString(body)
    return function if function.node else None


def refuse_unsupported(model: OnnxModel) -> None:
    """Raise UnsupportedOp naming every node of the model that no row, function or reference operator covers."""
    found: dict[str, list[str]] = {}
    for node, label, opsets in _all_nodes(model):
        domain = domain_name(node.domain)
        if domain not in opsets:
            raise ModelError(
                f"{label}: domain {node.domain!r} is not in the model's opset_import; export the model again"
            )
        if not is_supported(node.op_type, domain, opsets[domain], node.overload, model.functions):
            found.setdefault(f"{domain or 'ai.onnx'}:{node.op_type} (opset {opsets[domain]})", []).append(label)
    if found:
        listed = "\n".join(f"  {name}: {', '.join(places)}" for name, places in found.items())
        raise UnsupportedOp(
            f"the model has {len(found)} operators known neither here nor to the onnx package:\n{listed}\n"
            "expected operators of a standard domain, or model-local functions that define them"
        )


def is_supported(
    op_type: str, domain: str, version: int, overload: str, functions: Mapping[tuple[str, str, str], Any]
) -> bool:
    """Whether some way of importing the operator exists."""
    from compiler.ops.onnx_host import has_reference

    lookup("onnx_host")  # fills the registry
    if (domain, op_type, overload) in functions or (domain, op_type) in ONNX_ROWS:
        return True
    schema = find_schema(op_type, domain, version)
    if schema is None:
        return False
    return schema.has_function or schema.has_context_dependent_function or has_reference(op_type, domain, version)


def _all_nodes(model: OnnxModel) -> Iterator[tuple[Any, str, Mapping[str, int]]]:
    """(node, label, opsets) of the main graph, of every subgraph and of every model-local function."""
    yield from _nested(model.proto.graph.node, "", model.opsets)
    for function in model.proto.functions:
        place = f"function {function.name}: "
        yield from _nested(function.node, place, function_opsets(function, model.opsets))


def _nested(nodes: Any, place: str, opsets: Mapping[str, int]) -> Iterator[tuple[Any, str, Mapping[str, int]]]:
    for index, node in enumerate(nodes):
        label = f"{place}{node_label(node, index)}"
        names = (node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute))
        if not node.op_type or not all(isinstance(name, str) for name in names):  # protobuf gives bad UTF-8 as bytes
            raise ModelError(f"{label}: no operator, or a name that is not UTF-8; export the model again")
        yield node, label, opsets
        for graph in subgraphs(node):
            yield from _nested(graph.node, f"{label}/", opsets)


def function_opsets(function: Any, outer: Mapping[str, int]) -> Mapping[str, int]:
    """Opset versions inside a function: its own imports, else those around it."""
    return {**outer, **opset_versions(function.opset_import, f"function {function.name}")}
