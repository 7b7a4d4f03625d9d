"""The ONNX front end: a model file, its bytes or a ModelProto to a Graph."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.errors import ModelError
from compiler.frontends.onnx_import import Frame, Scope, add_initializers, define, import_nodes
from compiler.frontends.onnx_model import read_model
from compiler.frontends.onnx_order import initializer_names, node_label, wanted_names
from compiler.frontends.onnx_schemas import refuse_unsupported
from compiler.frontends.onnx_types import SizeNames, value_type
from compiler.ir import Graph, ImportedNode, Value
from compiler.types import TensorType, ValueType


def load(model: Any, known: Mapping[str, np.ndarray | TensorType] | None = None) -> Graph:
    """Import an ONNX model: a path, bytes or an onnx.ModelProto.

    Every node of the model's main graph is listed in `imported` and named by the `where` of what it became. Named
    dimensions are symbols, the same name the same symbol. An initializer is a constant, also where the file lists it
    among the inputs. known: types of inputs, or contents of inputs that decide shapes; an input whose contents are
    given stays an input nobody reads.
    Raises ModelError (malformed model), UnsupportedOp (all operators nothing covers), ShapeError, DtypeError.
    """
    return load_named(model, known)[0]


def load_named(
    model: Any, known: Mapping[str, np.ndarray | TensorType] | None = None
) -> tuple[Graph, Mapping[str, Value]]:
    """What `load` answers, and which value each name of the model's main graph stands for."""
    source = read_model(model)
    refuse_unsupported(source)
    graph = source.proto.graph
    builder = Builder()
    frame = Frame(source, builder, ChainMap({}), source.opsets, wanted_names([graph]))
    _add_inputs(frame, graph, known or {})
    add_initializers(frame, graph, source.payloads)
    labels = _labels(graph.node)
    builder.imported.extend(ImportedNode(labels[i], node.op_type) for i, node in enumerate(graph.node))
    import_nodes(frame, graph.node, labels)
    builder.output_names = tuple(output.name for output in graph.output)
    return builder.finish([_output(frame.scope, output.name) for output in graph.output]), frame.scope


def _add_inputs(frame: Frame, graph: Any, known: Mapping[str, np.ndarray | TensorType]) -> None:
    names = SizeNames(frame.builder)
    constants = set(initializer_names(graph))
    for formal in graph.input:
        if formal.name in constants:
            continue
        type: ValueType = value_type(formal.type, names, f"input {formal.name!r}")
        given = known.get(formal.name)
        if isinstance(given, TensorType):
            type = given
        value = frame.builder.input(formal.name, type)
        if isinstance(given, np.ndarray):
            value = frame.builder.constant(given, hint=formal.name)
        define(frame, formal.name, value, "input")


def _labels(nodes: Any) -> dict[int, str]:
    """A name for every node: its own, made unique."""
    labels: dict[int, str] = {}
    taken: set[str] = set()
    for index, node in enumerate(nodes):
        label = node_label(node, index)
        labels[index] = label if label not in taken else f"{label}_{index}"
        taken.add(labels[index])
    return labels


def _output(scope: Scope, name: str) -> Value:
    if name not in scope:
        raise ModelError(
            f"graph: output {name!r} is defined by nothing; expected an input, an initializer or the output of a node"
        )
    return scope[name]
