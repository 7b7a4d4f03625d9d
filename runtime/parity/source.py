"""A model with inputs, opened for looking at its nodes: the exposed graph, and whose values they are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler.builder import TRACKED_ELEMENTS
from compiler.ir import Graph, ImportedNode, Value
from compiler.passes.expose import expose, imported_of
from compiler.passes.specialize import specialize
from compiler.types import TensorType
from runtime import importing
from runtime.binding import in_order, spec_of, to_array
from runtime.importing import Imported


@dataclass(frozen=True, eq=False)
class Source:
    """A model and one set of inputs.

    exposed: its graph for exactly these input shapes, every boundary value an output. arrays: the inputs in order.
    nodes: the imported nodes in an order where operands come first. values: for each, the names of its exposed values.
    keys: what the model's own framework calls an exposed value: an ONNX name, or (fx node, place in its results).
    outputs: for each output of the model its name and the exposed value that holds it, '' where that is no node's.
    proto: the ModelProto, of an ONNX model.
    """

    model: Any
    loaded: Imported
    exposed: Graph
    arrays: tuple[Any, ...]
    nodes: tuple[ImportedNode, ...]
    values: Mapping[str, tuple[str, ...]]
    keys: Mapping[str, Any]
    outputs: tuple[tuple[str, str], ...]
    notes: Mapping[str, str]
    proto: Any = None

    @property
    def input_names(self) -> tuple[str, ...]:
        """The graph inputs."""
        return tuple(value.name for value in self.exposed.inputs)


def open_source(model: Any, inputs: Any) -> Source:
    """A model and its inputs: of an ONNX model (path, bytes, ModelProto) a mapping by name, a sequence in order or one
    array; of a torch module or ExportedProgram a tuple of positional inputs, a dict of named ones, or a pair of both.

    Raises what runtime.compile raises, and ModelError for inputs that do not fit."""
    loaded = importing.load(model, inputs)
    return _open_onnx(model, inputs, loaded) if loaded.structure is None else _open_torch(model, inputs, loaded)


def _open_onnx(model: Any, inputs: Any, loaded: Imported) -> Source:
    from compiler.frontends.onnx import load_named
    from compiler.frontends.onnx_model import read_model

    arrays = _arrays(loaded.graph, inputs)
    deciding = {name: arrays[number] for number, name in loaded.deciding.items()}
    known = {name: array for name, array in deciding.items() if array.size <= TRACKED_ELEMENTS}
    graph, names = load_named(model, known)
    proto = read_model(model).proto
    keys: dict[str, Any] = {}
    for node in proto.graph.node:
        for output in node.output:
            if output in names:
                keys.setdefault(names[output].name, output)
    return _source(model, loaded, graph, arrays, keys, proto=proto)


def _open_torch(model: Any, inputs: Any, loaded: Imported) -> Source:
    from compiler.frontends.torch import split_inputs

    imported = loaded.structure
    assert imported is not None
    positional, named = split_inputs(inputs)
    arrays = _arrays(imported.graph, imported.flatten(positional, named))
    keys: dict[str, Any] = {}
    for name, value in imported.known.items():
        results = value if isinstance(value, list | tuple) else [value]
        for place, result in enumerate(results):
            if isinstance(result, Value):
                keys.setdefault(result.name, (name, place if isinstance(value, list | tuple) else None))
    return _source(model, loaded, imported.graph, arrays, keys)


def _arrays(graph: Graph, inputs: Any) -> tuple[Any, ...]:
    specs = [spec_of(value, value.name, graph.size_names) for value in graph.inputs]
    if isinstance(inputs, Mapping):
        ordered = in_order(specs, (), inputs)
    else:
        single = not isinstance(inputs, list | tuple)
        ordered = in_order(specs, [inputs] if single else inputs, {})
    return tuple(to_array(value, spec) for value, spec in zip(ordered, specs, strict=True))


def _source(
    model: Any, loaded: Imported, graph: Graph, arrays: Sequence[Any], keys: Mapping[str, Any], **origin: Any
) -> Source:
    open_graph = expose(graph, keys.keys())
    exposed = specialize(open_graph, [np.shape(array) for array in arrays])
    renamed = {old.name: new.name for old, new in zip(open_graph.outputs, exposed.outputs, strict=True)}
    owner = {value.name: imported_of(node) for node in exposed.nodes for value in node.outputs}
    values: dict[str, tuple[str, ...]] = {}
    for value in exposed.outputs:
        if isinstance(value.type, TensorType):
            values[owner[value.name]] = (*values.get(owner[value.name], ()), value.name)
    order = {name: place for place, name in enumerate(dict.fromkeys(imported_of(node) for node in exposed.nodes))}
    last = {node.name: place for place, node in enumerate(graph.imported)}
    known = {node.name: node for node in graph.imported}
    nodes = sorted(known.values(), key=lambda node: (order.get(node.name, len(order)), last[node.name]))
    around = [ImportedNode(name, "output") for name in values if name not in known]
    names = graph.output_names or tuple(value.name for value in graph.outputs)
    outputs = tuple((name, renamed.get(value.name, "")) for name, value in zip(names, graph.outputs, strict=True))
    own_keys = {renamed[name]: key for name, key in keys.items() if name in renamed}
    return Source(
        model, loaded, replace(exposed, output_names=()), tuple(arrays), (*nodes, *around), values, own_keys, outputs,
        graph.notes, **origin,
    )  # fmt: skip
