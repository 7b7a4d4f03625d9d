"""The onnx package's backend interface over `runtime.compile`, for its conformance suite and tools built on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend.base import Backend, BackendRep

from compiler import dtypes
from compiler.errors import TargetError
from compiler.frontends.onnx_types import type_proto
from compiler.types import OptionalType, SequenceType, TensorType, ValueType, of_array


class PreparedModel(BackendRep):
    """A compiled model behind the interface's `run`."""

    def __init__(self, program: Any) -> None:
        self.program = program

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs for `inputs`: arrays in the model's input order, a dict by input name, or one array."""
        if isinstance(inputs, Mapping):
            return tuple(self.program.run(dict(inputs)).values())
        return tuple(self.program(*(inputs if isinstance(inputs, (list, tuple)) else (inputs,))))


class NativeBackend(Backend):
    """ONNX models on compiled kernels."""

    name = "native"

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `device` is this processor."""
        return device.split(":")[0] == "CPU"

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> PreparedModel:
        """Compile a model. Raises TargetError for a device that is not the CPU, else what `runtime.compile` raises."""
        from runtime.api import compile

        if not cls.supports_device(device):
            raise TargetError(f"{cls.__name__}: device {device!r} is not supported; expected 'CPU'")
        return PreparedModel(compile(model, backend=cls.name))

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node on `inputs`, of the newest opset or of `opset_version`."""
        version = kwargs.get("opset_version", onnx.defs.onnx_opset_version())
        return cls.prepare(_node_model(node, list(inputs), version), device).run(list(inputs))


class ReferenceBackend(NativeBackend):
    """ONNX models in NumPy."""

    name = "reference"


def _node_model(node: onnx.NodeProto, inputs: Sequence[Any], version: int) -> onnx.ModelProto:
    given = [name for name in node.input if name]
    infos = [helper.make_value_info(name, type_proto(_type_of(x))) for name, x in zip(given, inputs, strict=True)]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    versions = {"": version}
    if node.domain:
        versions[node.domain] = onnx.defs.onnx_ml_opset_version() if node.domain == "ai.onnx.ml" else 1
    graph = helper.make_graph([node], "node", infos, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*entry) for entry in versions.items()])


def _type_of(value: Any) -> ValueType:
    if value is None:
        return OptionalType(TensorType(dtypes.float32, None))
    if isinstance(value, list):
        return SequenceType(_type_of(value[0]) if value else TensorType(dtypes.float32, None))
    return of_array(np.asarray(value))
