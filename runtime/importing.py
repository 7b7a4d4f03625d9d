"""Models as graphs: which front end reads a model, and what is kept of it beside its graph."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import ModelError
from compiler.ir import Graph

if TYPE_CHECKING:
    from compiler.frontends.torch import ImportedTorch


@dataclass(frozen=True, eq=False)
class Imported:
    """A model's graph. structure: how a torch module nests its inputs and results, None for ONNX. deciding: inputs, by
    number, whose contents decide shapes; `knowing(contents)`: the graph with these known, by name."""

    graph: Graph
    structure: ImportedTorch | None
    deciding: Mapping[int, str]
    knowing: Callable[[Mapping[str, np.ndarray]], Graph]


def load(
    model: Any, example_inputs: Sequence[Any] | Mapping[str, Any] | None = None, dynamic_shapes: Any = None
) -> Imported:
    """Import a model; arguments and errors are those of runtime.compile."""
    if _is_torch(model):
        from compiler.frontends import torch

        structure = torch.load(model, example_inputs, dynamic_shapes)
        return Imported(structure.graph, structure, {}, lambda contents: structure.graph)
    if not isinstance(model, str | bytes | os.PathLike) and not hasattr(model, "SerializeToString"):
        raise ModelError(
            f"model is {type(model).__name__}; expected a path, bytes or ModelProto of an ONNX model, "
            "a torch.nn.Module or a torch.export.ExportedProgram"
        )
    from compiler.frontends import onnx
    from compiler.frontends.onnx_values import deciding_inputs

    graph = onnx.load(model)
    names = deciding_inputs(model)
    deciding = {i: value.name for i, value in enumerate(graph.inputs) if value.name in names} if names else {}
    return Imported(graph, None, deciding, lambda contents: onnx.load(model, contents))


def _is_torch(model: Any) -> bool:
    torch = sys.modules.get("torch")
    if torch is None:
        return False
    exported = sys.modules.get("torch.export")
    kinds = (torch.nn.Module, *((exported.ExportedProgram,) if exported is not None else ()))
    return isinstance(model, kinds)
