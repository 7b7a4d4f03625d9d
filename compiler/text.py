"""The stable text form of graphs and lowered programs: for people, golden tests and diffs."""

from __future__ import annotations

from typing import Any

import numpy as np

from compiler.ir import Graph, Node, Value
from compiler.kernels import HostCall, KernelCall, Lowered, View
from compiler.types import of_array

_SHOWN_ELEMENTS = 8  # constants up to this many elements are printed by value


def format_graph(graph: Graph) -> str:
    """One line a node, in order; constants first."""
    lines = [f"graph({', '.join(_typed(value) for value in graph.inputs)}):"]
    for name, array in graph.constants.items():
        lines.append(f"  const {name}: {of_array(array)}{_contents(array)}")
    lines += [f"  {_format_node(node)}" for node in graph.nodes]
    lines.append(f"  return {', '.join(value.name for value in graph.outputs)}")
    lines += [f"  guard {guard.left} == {guard.right}" for guard in graph.guards]
    return "\n".join(lines)


def format_lowered(program: Lowered) -> str:
    """One line a call, in order, views with their symbolic strides."""
    lines = [f"program({', '.join(_typed(value) for value in program.inputs)}):"]
    for call in program.calls:
        lines.append(f"  {_format_call(call)}")
    lines.append(f"  return {', '.join(_format_view(view) for _, view in program.outputs)}")
    return "\n".join(lines)


def _typed(value: Value) -> str:
    return f"{value.name}: {value.type}"


def _format_node(node: Node) -> str:
    outputs = ", ".join(_typed(value) if value.name else "_" for value in node.outputs)
    inputs = ", ".join(value.name if value is not None else "_" for value in node.inputs)
    attrs = ", ".join(f"{key}={_attribute(value)}" for key, value in sorted(node.attrs.items()))
    where = f"  # {', '.join(node.where)}" if node.where else ""
    return f"{outputs} = {node.op}({inputs}){' {' + attrs + '}' if attrs else ''}{where}"


def _attribute(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{of_array(value)}{_contents(value)}"
    if isinstance(value, Graph):
        return "{" + format_graph(value).replace("\n", " ; ") + "}"
    if isinstance(value, tuple):
        return "(" + ", ".join(_attribute(item) for item in value) + ")"
    return str(value)


def _contents(array: np.ndarray) -> str:
    return f" = {array.tolist()}" if array.size <= _SHOWN_ELEMENTS else ""


def _format_call(call: KernelCall | HostCall) -> str:
    if isinstance(call, HostCall):
        reads = ", ".join(_format_view(view) if view else "_" for view in call.reads)
        return f"{', '.join(call.writes)} = host {call.node.op}({reads})  # {', '.join(call.where)}: {call.reason}"
    writes = ", ".join(_format_view(view) for view in call.writes)
    reads = ", ".join(_format_view(view) for view in call.reads)
    params = f" params={call.params}" if call.params else ""
    return f"{writes} = {call.spec}({reads}){params}  # {', '.join(call.where)}"


def _format_view(view: View) -> str:
    shape = "x".join(str(size) for size in view.shape)
    strides = ",".join(str(stride) for stride in view.strides)
    offset = f"+{view.offset}" if view.offset != 0 else ""
    return f"{view.buffer}[{shape}|{strides}{offset}]"
