"""The walk over an ONNX model: every node through its table row, its function, or the generic Host step.

A node is looked up in this order: model-local function, row (after the row's upgrades), the function its schema
is defined by, the onnx package's reference operator. What is special about an operator stands in its row.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.dims import Dim, Size, Undecided
from compiler.errors import ModelError, SansuanError, UnsupportedOp
from compiler.frontends.onnx_attributes import read_attributes
from compiler.frontends.onnx_model import OnnxModel, domain_name
from compiler.frontends.onnx_node import OnnxNode, Subgraph
from compiler.frontends.onnx_order import (
    free_names,
    node_label,
    sorted_nodes,
    subgraphs,
    wanted_names,
)
from compiler.frontends.onnx_schemas import attribute_defaults, check_node, find_schema, function_body, function_opsets
from compiler.frontends.onnx_tensors import sparse_array, tensor_array
from compiler.frontends.onnx_types import SizeNames, value_type
from compiler.ir import Graph, Value
from compiler.op import ONNX_ROWS, REQUIRED, OnnxRow, Op, lookup
from compiler.ops.bodies import formal_type
from compiler.types import TensorType, ValueType

Scope = ChainMap[str, Value]


@dataclass(frozen=True, eq=False)
class Frame:
    """Where nodes are being imported: one graph, inlined body or function.

    scope: values by ONNX name. opsets: version by domain. bound: attributes of the function call being expanded.
    wanted: names somebody reads. calls: the model-local functions being expanded, outermost first. label: the main
    graph's node all this stands for, None in the main graph.
    """

    model: OnnxModel
    builder: Builder
    scope: Scope
    opsets: Mapping[str, int]
    wanted: set[str]
    bound: Mapping[str, Any] = field(default_factory=dict)
    calls: tuple[tuple[str, str, str], ...] = ()
    label: str | None = None

    @property
    def place(self) -> str:
        """Prefix of messages about this frame's nodes."""
        return f"{self.label}/" if self.label else ""


def add_initializers(frame: Frame, graph: Any, payloads: Mapping[int, memoryview]) -> None:
    """Constants of a GraphProto into the frame's scope. payloads: raw bytes kept out of the proto, by position."""
    found = [
        (tensor.name, tensor_array(tensor, frame.model.files, f"{frame.place}graph", payloads.get(i)))
        for i, tensor in enumerate(graph.initializer)
    ]
    found += [
        (sparse.values.name, sparse_array(sparse, frame.model.files, f"{frame.place}graph"))
        for sparse in graph.sparse_initializer
    ]
    for name, array in found:
        define(frame, name, frame.builder.constant(array, hint=name), "initializer")


def define(frame: Frame, name: str, value: Value, what: str) -> None:
    """Bind a name of this frame. Raises ModelError where it is bound already."""
    if not name or not isinstance(name, str) or name in frame.scope.maps[0]:
        raise ModelError(
            f"{frame.place}graph: {what} {name!r} is defined twice or no name at all; expected every name once: "
            "export the model again"
        )
    frame.scope[name] = value


def import_nodes(frame: Frame, nodes: Sequence[Any], labels: Mapping[int, str] | None = None) -> None:
    """Every node, in an order where names are defined before use. labels: the main graph's names for its nodes."""
    local, outer = frame.scope.maps[0], frame.scope
    for index, proto in sorted_nodes(nodes, local, outer, frame.place):
        if labels is not None:
            with frame.builder.at(labels[index]):
                _import_node(replace(frame, label=labels[index]), proto, labels[index])
            continue
        label = f"{frame.place}{node_label(proto, index)}"
        try:
            _import_node(frame, proto, label)
        except SansuanError as error:
            error.add_note(f"inside node {label}")
            raise


def _import_node(frame: Frame, proto: Any, place: str) -> None:
    domain = domain_name(proto.domain)
    captured = _captured(frame, proto)
    attrs = read_attributes(
        proto.attribute, frame.model.files, place, frame.bound, lambda body: _subgraph(frame, body, captured)
    )
    inputs = [frame.scope[name] if name else None for name in proto.input]
    while inputs and inputs[-1] is None:
        inputs.pop()
    outputs = tuple(name if name in frame.wanted else "" for name in proto.output)
    node = OnnxNode(proto.op_type, domain, tuple(inputs), outputs, attrs, frame.opsets[domain])
    try:
        values = _convert(frame, node, proto.overload, place)
    except SansuanError:
        raise
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"{place}: {node.op_type} of opset {node.version}: inputs and attributes do not fit the operator "
            f"({type(error).__name__}: {error}); check the model with onnx.checker"
        ) from error
    for name, value in zip(proto.output, values, strict=False):
        if name and value is not None:
            frame.scope[name] = value
    missing = [name for name in outputs if name and name not in frame.scope.maps[0]]
    if missing:
        raise ModelError(f"{place}: {proto.op_type} of opset {node.version} has no output for {missing[0]!r}")


def _convert(frame: Frame, node: OnnxNode, overload: str, place: str) -> Sequence[Value | None]:
    """The values of a node's outputs."""
    key = (node.domain, node.op_type, overload)
    function = frame.model.functions.get(key)
    if function is not None:
        if key in frame.calls:
            raise ModelError(f"{place}: function {node.op_type} calls itself; expected functions without recursion")
        defaults = read_attributes(function.attribute_proto, frame.model.files, place, {}, _no_subgraph)
        return _expand(replace(frame, calls=(*frame.calls, key)), function, node, defaults, ())
    schema = find_schema(node.op_type, node.domain, node.version)
    if schema is not None:
        check_node(node, schema, place)
    lookup("onnx_host")  # fills the registry
    row = ONNX_ROWS.get((node.domain, node.op_type))
    if row is not None and _typed_enough(node):
        try:
            results = _by_row(frame.builder, node, *row, place)
        except Undecided:
            results = NotImplemented
        if results is not NotImplemented:
            return (results,) if isinstance(results, Value) else tuple(results)
    if schema is None:
        types = ", ".join(str(value.type) for value in node.inputs if value is not None)
        raise UnsupportedOp(
            f"{place}: {node.domain or 'ai.onnx'}:{node.op_type} on {types}; expected sizes that decide how it "
            "computes to be numbers: give the inputs shapes"
        )
    body = function_body(node, schema) if _typed_enough(node) else None
    if body is not None:
        return _expand(frame, body, node, attribute_defaults(schema), frame.scope.maps)
    return frame.builder.emit_many(
        "onnx_host",
        node.inputs,
        {
            "op_type": node.op_type,
            "domain": node.domain,
            "version": node.version,
            "attributes": tuple(sorted(node.attrs.items())),
            "outputs": len(node.outputs),
        },
        names=node.outputs,
    )


def _typed_enough(node: OnnxNode) -> bool:
    """Rows work on tensors of known rank; control flow passes anything through."""
    if any(isinstance(value, Subgraph) for value in node.attrs.values()):
        return True
    types = [value.type for value in node.inputs if value is not None]
    return all(isinstance(type, TensorType) and type.shape is not None for type in types)


def _by_row(b: Builder, node: OnnxNode, entry: Op, row: OnnxRow, place: str) -> Any:
    for since, upgrade in row.upgrades:
        if since > node.version:
            node = upgrade(b, node)
    node = replace(node, attrs={**{k: v for k, v in row.attrs.items() if v is not REQUIRED}, **node.attrs})
    missing = [name for name, default in row.attrs.items() if default is REQUIRED and name not in node.attrs]
    if missing:
        raise ModelError(f"{place}: {node.op_type}: attribute {missing[0]!r} is missing; the operator requires it")
    if row.build is not None:
        return row.build(b, node)
    unknown = [name for name in node.attrs if name not in row.attrs]
    if unknown:
        raise ModelError(
            f"{place}: {node.op_type}: unknown attribute {unknown[0]!r}; expected {', '.join(row.attrs) or 'none'}"
        )
    return b.emit_many(entry.name, node.inputs, node.attrs, names=node.outputs)


def _expand(
    frame: Frame, function: Any, node: OnnxNode, defaults: Mapping[str, Any], outer: Sequence[Any]
) -> tuple[Value | None, ...]:
    """A function's body in place of its call. defaults: of the function's attributes. outer: scopes the body may read
    besides its inputs (a schema's function copies subgraphs of the node into its body, with what they capture)."""
    inputs = dict(zip(function.input, node.inputs, strict=False))
    inner = replace(
        frame,
        scope=ChainMap({name: value for name, value in inputs.items() if value is not None}, *outer),
        opsets=function_opsets(function, frame.opsets),
        wanted=wanted_names([function]),
        bound={**defaults, **node.attrs},
    )
    omitted = set(function.input) - set(inner.scope.maps[0])
    nodes = [_without(proto, omitted) for proto in function.node] if omitted else function.node
    import_nodes(inner, nodes)
    return tuple(inner.scope.get(name) for name in function.output)


def _without(proto: Any, omitted: set[str]) -> Any:
    """A body's node with the inputs the caller omitted left out."""
    if not omitted.intersection(proto.input):
        return proto
    kept = type(proto)()
    kept.CopyFrom(proto)
    kept.input[:] = ["" if name in omitted else name for name in proto.input]
    return kept


def _captured(frame: Frame, proto: Any) -> dict[str, Value]:
    """What the node's subgraphs read from around them, by name."""
    names = dict.fromkeys(name for body in subgraphs(proto) for name in free_names(body))
    return {name: frame.scope[name] for name in names}


def _no_subgraph(body: Any) -> Any:
    raise ModelError(f"graph {body.name!r} as the default of an attribute; expected a plain value")


def _subgraph(frame: Frame, body: Any, captured: Mapping[str, Value]) -> Subgraph:
    """A graph attribute, to be imported when the node's row asks."""
    throwaway = SizeNames(Builder())
    declared = tuple(
        value_type(formal.type, throwaway, frame.place) if formal.type.WhichOneof("value") else None
        for formal in body.input
    )
    contents = {name: frame.builder.contents(value) for name, value in captured.items()}
    fixed = {name: array for name, array in contents.items() if array is not None and not _is_symbolic(array)}
    free = {name: value for name, value in captured.items() if name not in fixed}

    def build(types: Sequence[ValueType]) -> Graph:
        builder = Builder()
        inner = replace(frame, builder=builder, scope=ChainMap({}), wanted=wanted_names([body]))
        own_sizes: dict[Size, Size] = {}
        names = [formal.name for formal in body.input] + list(free)
        outer_types = [*types, *(value.type for value in free.values())]
        for name, type in zip(names, outer_types, strict=True):
            define(inner, name, builder.input(name, formal_type(type, builder, own_sizes)), "input")
        for name, array in fixed.items():
            define(inner, name, builder.constant(array, hint=name), "input")
        return builder.finish(_import_body(inner, body, frame.label))

    def inline(values: Sequence[Value]) -> tuple[Value, ...]:
        named = {formal.name: value for formal, value in zip(body.input, values, strict=True)}
        inner = replace(frame, scope=frame.scope.new_child(named), wanted=frame.wanted | wanted_names([body]))
        return tuple(_import_body(inner, body, frame.label))

    return Subgraph(body, declared, len(body.output), tuple(free.values()), build, inline, len(body.node))


def _import_body(frame: Frame, body: Any, label: str | None) -> list[Value]:
    with frame.builder.at(*([label] if label else [])):
        add_initializers(frame, body, {})
        import_nodes(frame, body.node)
    return [frame.scope[value.name] for value in body.output]


def _is_symbolic(array: np.ndarray) -> bool:
    return array.dtype == object and any(isinstance(item, Dim) for item in array.flat)
