"""One ONNX node as table rows see it: plain Python attributes, inputs already values of the graph being built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from compiler.errors import ModelError
from compiler.ir import Graph, Value


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A subgraph attribute (If, Loop, Scan). `graph.inputs` are the formal inputs followed by one input for each of
    `captured`, the values of the outer graph that the body reads."""

    graph: Graph
    captured: tuple[Value, ...]


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """An ONNX node being imported.

    inputs: None for an omitted optional one; trailing omitted ones are stripped. outputs: wanted names, '' for one
    nobody asked for. attrs: int, float, str, tuples of these, NumPy arrays (tensors), Subgraph; only those the
    model gives (defaults come from the op's row). version: the opset the model imports for `domain`.

    Rows of `compiler.op.OnnxRow` work on it: `build(b, node)` answers with a Value or a sequence of Values, one for
    each output (None for one nobody reads); an upgrade `f(b, node)` answers with a node of the newer form.
    """

    op_type: str
    domain: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    version: int = 1

    def input(self, i: int) -> Value | None:
        """Input i, None where it is omitted."""
        return self.inputs[i] if i < len(self.inputs) else None

    def required(self, i: int) -> Value:
        """Input i. Raises ModelError where it is omitted."""
        value = self.input(i)
        if value is None:
            raise ModelError(f"{self.op_type}: input {i} is missing; the operator requires it")
        return value

    def attr(self, name: str, default: Any = None) -> Any:
        """Attribute `name`, else `default`."""
        return self.attrs.get(name, default)
