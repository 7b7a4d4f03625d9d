"""One ONNX node as table rows see it: plain Python attributes, inputs already values of the graph being built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from compiler.errors import ModelError
from compiler.ir import Graph, Value
from compiler.types import ValueType


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A subgraph attribute (If, Loop, Scan), imported only when its row asks, and as often as it asks.

    declared: the types the model gives the formal inputs (None for one it leaves open). outputs: how many there are.
    captured: the values of the outer graph read by any subgraph of the node, constants left out. `build(types)` is the
    body as a graph of its own: its inputs are the formal ones with these types, then one for each of `captured`; its
    sizes are symbols its own inputs bind. `inline(values)` emits the body into the outer graph. proto: the GraphProto,
    None for a body that is none. nodes: how many it has.
    """

    proto: Any
    declared: tuple[ValueType | None, ...]
    outputs: int
    captured: tuple[Value, ...]
    build: Callable[[Sequence[ValueType]], Graph]
    inline: Callable[[Sequence[Value]], tuple[Value, ...]]
    nodes: int


@dataclass(frozen=True, eq=False)
class OnnxNode:
    """An ONNX node being imported.

    inputs: None for an omitted optional one; trailing omitted ones are stripped. outputs: names as hints, '' for one
    nobody reads. attrs: int, float, str, tuples of these, NumPy arrays (tensors), types, Subgraph; those the
    model gives, over the defaults of the op's row. version: the opset the model imports for `domain`.

    Rows of `compiler.op.OnnxRow` work on it: `build(b, node)` answers with a Value or a sequence of Values, one for
    each output (None for one nobody reads), or with NotImplemented where the row does not cover this node (it is then
    expanded through its schema's function, or becomes a Host step). An upgrade `f(b, node)` answers with a node of the
    newer form.
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

    def with_attrs(self, **attrs: Any) -> OnnxNode:
        """This node with attributes set; one set to None is dropped."""
        merged = {**self.attrs, **attrs}
        return replace(self, attrs={name: value for name, value in merged.items() if value is not None})
