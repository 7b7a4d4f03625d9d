"""Node attributes between ONNX's records and plain Python values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.errors import ModelError
from compiler.frontends.onnx_external import ExternalFiles
from compiler.frontends.onnx_node import Subgraph
from compiler.frontends.onnx_tensors import sparse_array, tensor_array
from compiler.frontends.onnx_types import SizeNames, type_proto, value_type
from compiler.types import OptionalType, SequenceType, TensorType

_FIELD_OF = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs",
             11: "sparse_tensor", 12: "sparse_tensors", 13: "tp", 14: "type_protos"}  # fmt: skip


def read_attributes(
    attributes: Sequence[Any],
    files: ExternalFiles,
    place: str,
    bound: Mapping[str, Any],
    subgraph: Callable[[Any], Any],
) -> dict[str, Any]:
    """Attribute values by name. `bound`: the attributes of the call being expanded, for attributes that refer to
    them (left out where the call has none). `subgraph` makes the value of a graph attribute."""
    values: dict[str, Any] = {}
    for attribute in attributes:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name in bound:
                values[attribute.name] = bound[attribute.ref_attr_name]
            continue
        if attribute.name in values:
            raise ModelError(f"{place}: attribute {attribute.name!r} is given twice; export the model again")
        values[attribute.name] = _value(attribute, files, place, subgraph)
    return values


def _value(attribute: Any, files: ExternalFiles, place: str, subgraph: Callable[[Any], Any]) -> Any:
    name = _FIELD_OF.get(attribute.type) or _set_field(attribute, place)
    found = getattr(attribute, name)
    place = f"{place}: attribute {attribute.name!r}"
    if name in ("f", "i"):
        return found
    if name == "s":
        return _text(found, place)
    if name in ("floats", "ints"):
        return tuple(found)
    if name == "strings":
        return tuple(_text(item, place) for item in found)
    if name == "t":
        return tensor_array(found, files, place)
    if name == "sparse_tensor":
        return sparse_array(found, files, place)
    if name == "g":
        return subgraph(found)
    if name == "tp":
        return value_type(found, SizeNames(Builder()), place)
    raise ModelError(f"{place}: of kind {name}, which no operator has; export the model again")


def _set_field(attribute: Any, place: str) -> str:
    """The one field in use, for files from before attributes carried their kind."""
    used = [name for name in _FIELD_OF.values() if name in {field.name for field, _ in attribute.ListFields()}]
    if len(used) != 1:
        raise ModelError(f"{place}: attribute {attribute.name!r} has no kind and {len(used)} values; expected one")
    return used[0]


def _text(item: bytes, place: str) -> str:
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{place}: a string that is not UTF-8; export the model again") from None


_CLASSES: dict[str, tuple[type, ...]] = {
    "FLOAT": (float,),
    "INT": (int,),
    "STRING": (str,),
    "TENSOR": (np.ndarray,),
    "SPARSE_TENSOR": (np.ndarray,),
    "GRAPH": (Subgraph,),
    "TYPE_PROTO": (TensorType, SequenceType, OptionalType),
}


def is_of_kind(value: Any, kind: str) -> bool:
    """Whether an attribute's value is of a schema's kind: FLOAT, INTS, ..."""
    if isinstance(value, tuple):
        return kind.endswith("S") and all(is_of_kind(item, kind.removesuffix("S")) for item in value)
    return isinstance(value, _CLASSES.get(kind, ()))


def node_proto(
    op_type: str, domain: str, attrs: Mapping[str, Any], inputs: Sequence[str], outputs: Sequence[str], schema: Any
) -> Any:
    """A NodeProto with these attribute values; the schema tells the kind of empty lists."""
    from onnx import NodeProto, helper, numpy_helper

    node = NodeProto(op_type=op_type, domain=domain, input=inputs, output=outputs)
    for name, value in attrs.items():
        if isinstance(value, np.ndarray):
            value = numpy_helper.from_array(value)
        elif isinstance(value, (TensorType, SequenceType, OptionalType)):
            value = type_proto(value)
        elif isinstance(value, Subgraph):
            value = value.proto
        kind = schema.attributes[name].type.value if name in schema.attributes else None
        node.attribute.append(helper.make_attribute(name, value, attr_type=kind))
    return node
