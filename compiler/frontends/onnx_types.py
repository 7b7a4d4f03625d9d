"""ONNX type descriptions to value types and back. Named dimensions become symbols."""

from __future__ import annotations

import keyword
import re
from typing import Any, Protocol

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.dtypes import DType
from compiler.errors import ModelError
from compiler.types import OptionalType, SequenceType, TensorType, ValueType

_RESERVED = {"min", "max"}  # functions in the text of a size


def dtype_of(elem_type: int, place: str) -> DType:
    """The element type of a TensorProto.DataType number. Raises ModelError for a number that is none."""
    from onnx import helper

    try:
        return dtypes.from_numpy(helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        raise ModelError(f"{place}: unknown ONNX element type number {elem_type}; export the model again") from None


def elem_type_of(dtype: DType) -> int:
    """The TensorProto.DataType number of an element type."""
    from onnx import TensorProto, helper

    return int(TensorProto.STRING if dtype is dtypes.string else helper.np_dtype_to_tensor_dtype(dtype.numpy))


class Sizes(Protocol):
    """Where the sizes of a type come from."""

    def symbol(self, dim_param: str) -> Size:
        """The size a dim_param stands for."""

    def fresh(self) -> Size:
        """A size nothing is known about."""


class SizeNames:
    """Symbols for dim_param names: one symbol a name in the whole model, spelled as an identifier."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._symbols: dict[str, Dim] = {}

    def symbol(self, dim_param: str) -> Dim:
        """The symbol of a named dimension; another spelling than the model's is kept in the graph's size_names."""
        if dim_param not in self._symbols:
            self._symbols[dim_param] = created = self._builder.symbol(_identifier(dim_param))
            if str(created) != dim_param:
                self._builder.size_names[str(created)] = dim_param
        return self._symbols[dim_param]

    def fresh(self) -> Dim:
        """A symbol for a dimension the model says nothing about."""
        return self._builder.symbol()


def value_type(proto: Any, names: Sizes, place: str) -> ValueType:
    """The type a TypeProto describes. Raises ModelError for none at all and for kinds no runtime value has."""
    kind = proto.WhichOneof("value")
    if kind == "tensor_type" or kind == "sparse_tensor_type":
        tensor = getattr(proto, kind)
        shape = tuple(_size(dim, names) for dim in tensor.shape.dim) if tensor.HasField("shape") else None
        return TensorType(dtype_of(tensor.elem_type, place), shape)
    if kind == "sequence_type":
        return SequenceType(_element(proto.sequence_type.elem_type, names, place))
    if kind == "optional_type":
        return OptionalType(_element(proto.optional_type.elem_type, names, place))
    raise ModelError(f"{place}: expected the type of a tensor, sequence or optional, found {kind or 'nothing'}")


def type_proto(type: ValueType) -> Any:
    """The TypeProto of a value type; a symbolic size is written as a dim_param of its text."""
    from onnx import TypeProto

    proto = TypeProto()
    if isinstance(type, TensorType):
        proto.tensor_type.elem_type = elem_type_of(type.dtype)
        if type.shape is not None:
            proto.tensor_type.shape.SetInParent()
            for size in type.shape:
                dim = proto.tensor_type.shape.dim.add()
                if isinstance(size, int):
                    dim.dim_value = size
                else:
                    dim.dim_param = str(size)
        return proto
    outer = proto.sequence_type if isinstance(type, SequenceType) else proto.optional_type
    outer.SetInParent()
    if type.element is not None:
        outer.elem_type.CopyFrom(type_proto(type.element))
    return proto


def _element(proto: Any, names: Sizes, place: str) -> ValueType | None:
    return value_type(proto, names, place) if proto.WhichOneof("value") not in (None, "map_type") else None


def _size(dim: Any, names: Sizes) -> Size:
    kind = dim.WhichOneof("value")
    if kind == "dim_value" and dim.dim_value >= 0:
        return int(dim.dim_value)
    if kind == "dim_param" and dim.dim_param and isinstance(dim.dim_param, str):
        return names.symbol(dim.dim_param)
    return names.fresh()


def _identifier(text: str) -> str:
    name = re.sub(r"\W", "_", text)
    if not name.isidentifier():
        name = f"d_{name}"
    return f"{name}_" if keyword.iskeyword(name) or name in _RESERVED else name
