"""The generic Host step: an ONNX operator without a row of its own, run by the onnx package's reference operator."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import ModelError, ShapeError
from compiler.frontends.onnx_attributes import node_proto
from compiler.frontends.onnx_node import OnnxNode
from compiler.frontends.onnx_types import type_proto, value_type
from compiler.ir import Value
from compiler.op import REQUIRED, Call, OnnxRow, op
from compiler.ops.onnx_types import onnx_row
from compiler.types import TensorType, ValueType

_KNOWN_ELEMENTS = 4096  # contents up to this size take part in shape inference


@op(
    "onnx_host",
    attrs={"op_type": REQUIRED, "domain": "", "version": REQUIRED, "attributes": (), "outputs": 1},
    host_reason="no kernel for this ONNX operator; the onnx package's reference operator runs it",
)
class OnnxHost:
    """Any operator of a standard ONNX domain at opset `version`. attributes: ((name, value), ...). outputs: how many
    the node has."""

    def infer(call: Call) -> Sequence[ValueType]:
        from onnx import shape_inference

        sizes: dict[str, Size] = {}
        model = _one_node_model(**call.attrs, types=call.inputs, values=call.values, sizes=sizes)
        try:
            inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        except shape_inference.InferenceError as error:
            raise ShapeError(f"{call.place}: {call.attrs['op_type']}: {str(error).strip()}") from None
        names = _InferredSizes(sizes, call.fresh)
        return [
            value_type(output.type, names, call.place) if output.type.WhichOneof("value") else _type_by_schema(call, i)
            for i, output in enumerate(inferred.graph.output)
        ]

    def reference(*operands: Any, op_type: str, domain: str, version: int, attributes: tuple, outputs: int) -> tuple:
        node = _node(op_type, domain, version, attributes, len(operands) * (True,), outputs)
        run = _evaluator(node.SerializeToString(), domain, version)
        return tuple(_plain(result) for result in run(dict(zip(node.input, operands, strict=True))))


def _build_constant(b: Builder, node: OnnxNode) -> Value:
    given = [(name, value) for name, value in node.attrs.items() if value is not None]
    if len(given) != 1:
        raise ModelError(f"{b.place}: Constant with {len(given)} values; expected exactly one")
    name, value = given[0]
    types = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    dtype = object if name.startswith("value_string") else types.get(name)
    return b.constant(np.asarray(value, dtype), hint=node.outputs[0] or "const")


onnx_row("onnx_host", OnnxRow("Constant", build=_build_constant))


def has_reference(op_type: str, domain: str, version: int) -> bool:
    """Whether the onnx package can run the operator itself."""
    from onnx import reference
    from onnx.reference.ops import aionnx_preview_training, aionnxml, load_op

    loaders: dict[str, Callable[..., Any]] = {
        "": partial(load_op, evaluator_cls=reference.ReferenceEvaluator),
        "ai.onnx.ml": aionnxml.load_op,
        "ai.onnx.preview.training": aionnx_preview_training.load_op,
    }
    if domain not in loaders:
        return False
    try:
        loaders[domain](domain, op_type, version)
    except (NotImplementedError, RuntimeError, ValueError):
        return False
    return True


def _node(op_type: str, domain: str, version: int, attributes: tuple, given: Sequence[bool], outputs: int) -> Any:
    from onnx import defs

    inputs = [f"i{i}" if present else "" for i, present in enumerate(given)]
    schema = defs.get_schema(op_type, version, domain)
    return node_proto(op_type, domain, dict(attributes), inputs, [f"o{i}" for i in range(outputs)], schema)


def _model(node: Any, domain: str, version: int) -> Any:
    from onnx import ValueInfoProto, defs, helper

    graph = helper.make_graph([node], "node", [], [ValueInfoProto(name=name) for name in node.output])
    versions = {"": defs.onnx_opset_version(), domain: version}
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in versions.items()])


def _one_node_model(
    op_type: str,
    domain: str,
    version: int,
    attributes: tuple,
    outputs: int,
    types: Sequence[ValueType | None],
    values: Sequence[np.ndarray | None],
    sizes: dict[str, Size],
) -> Any:
    """The model shape inference works on; `sizes` receives the sizes its dim_params stand for."""
    from onnx import helper, numpy_helper

    node = _node(op_type, domain, version, attributes, [type is not None for type in types], outputs)
    model = _model(node, domain, version)
    for name, type, value in zip(node.input, types, values, strict=True):
        if type is None:
            continue
        model.graph.input.append(helper.make_value_info(name, type_proto(type)))
        if isinstance(type, TensorType):
            sizes.update({str(size): size for size in type.shape or ()})
        if value is not None and value.size <= _KNOWN_ELEMENTS and (value.dtype != object or _is_strings(type)):
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def _is_strings(type: ValueType) -> bool:
    return isinstance(type, TensorType) and type.dtype is dtypes.string


class _InferredSizes:
    """Sizes for the dim_params of an inferred type: those of the operands, else one fresh symbol a name."""

    def __init__(self, known: Mapping[str, Size], fresh: Callable[[], Size]) -> None:
        self._sizes = dict(known)
        self.fresh = fresh

    def symbol(self, dim_param: str) -> Size:
        if dim_param not in self._sizes:
            self._sizes[dim_param] = self.fresh()
        return self._sizes[dim_param]


def _type_by_schema(call: Call, index: int) -> ValueType:
    """The type of an output inference says nothing about: that of the input declared alike, or the only one allowed."""
    from onnx import defs

    schema = defs.get_schema(call.attrs["op_type"], call.attrs["version"], call.attrs["domain"])
    declared = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    for formal, type in zip(schema.inputs, call.inputs, strict=False):
        if formal.type_str == declared and type is not None:
            return TensorType(type.dtype, None) if isinstance(type, TensorType) else type
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}.get(declared, [declared])
    found = re.fullmatch(r"tensor\((\w+)\)", allowed[0])
    if len(allowed) != 1 or not found:
        raise ModelError(
            f"{call.place}: the element type of output {index} of {call.attrs['op_type']} cannot be told from its "
            "inputs; give the attributes that decide it"
        )
    names = {"float": dtypes.float32, "double": dtypes.float64}
    return TensorType(names.get(found[1]) or dtypes.named(found[1]), None)


@lru_cache(maxsize=512)
def _evaluator(node: bytes, domain: str, version: int) -> Callable[[dict[str, Any]], list[Any]]:
    """The reference operator of one node, ready to be called with its inputs by name."""
    from onnx import NodeProto, ValueInfoProto, reference

    proto = NodeProto()
    proto.ParseFromString(node)
    model = _model(proto, domain, version)
    model.graph.input.extend(ValueInfoProto(name=name) for name in proto.input)
    evaluator = reference.ReferenceEvaluator(model)
    return lambda feeds: list(evaluator.run(None, feeds))


def _plain(result: Any) -> Any:
    """A result as the graph holds it: arrays (strings as objects), lists of them, None for an empty optional."""
    if result is None:
        return None
    if isinstance(result, (list, tuple)):
        return [_plain(item) for item in result]
    array = np.asarray(result)
    return array.astype(object) if array.dtype.kind in "SU" else array
