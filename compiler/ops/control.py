"""Control flow: if and loop. Bodies are graphs in attributes; what they read from around them is an operand.

A body's inputs are its formal inputs, then one for each captured value; its sizes are symbols its own inputs bind.
Where an op is run, its reference gets each body as a callable from a list of values to a tuple of values, so whoever
runs the op decides how bodies run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.errors import ModelError
from compiler.frontends.onnx_node import OnnxNode
from compiler.ir import Graph, Value
from compiler.op import REQUIRED, Call, OnnxRow, op
from compiler.ops.bodies import (
    HOST,
    Body,
    carried_type,
    empty_rows,
    merge,
    operand_types,
    outward,
    stable_body,
    varying_inputs,
    with_axis,
)
from compiler.types import TensorType, ValueType

Rows = tuple[tuple[DType, tuple[int, ...]], ...]


def _build_if(b: Builder, node: OnnxNode) -> Sequence[Value]:
    condition = node.required(0)
    then_branch, else_branch = node.attrs["then_branch"], node.attrs["else_branch"]
    if not then_branch.outputs == else_branch.outputs == len(node.outputs):
        raise ModelError(
            f"{b.place}: If has {len(node.outputs)} outputs, its branches {then_branch.outputs} and "
            f"{else_branch.outputs}; expected the same number"
        )
    known = b.contents(condition)
    if known is not None and known.dtype == bool and known.size == 1:
        return (then_branch if known.item() else else_branch).inline(())
    attrs = {"then_branch": then_branch.build(()), "else_branch": else_branch.build(())}
    return b.emit_many("if", [condition, *then_branch.captured], attrs, names=node.outputs)


@op(
    "if",
    onnx=OnnxRow("If", {"then_branch": REQUIRED, "else_branch": REQUIRED}, build=_build_if),
    attrs={"then_branch": REQUIRED, "else_branch": REQUIRED},
    host_reason=HOST,
)
class If:
    """One of two bodies by a boolean scalar. Operands: condition, captured values (inputs of both bodies)."""

    def infer(call: Call) -> Sequence[ValueType]:
        captured = operand_types(call, 1)
        branches = [call.attrs["then_branch"], call.attrs["else_branch"]]
        types = [[outward(value.type, graph, captured, call.fresh) for value in graph.outputs] for graph in branches]
        return [merge(ours, theirs, call) for ours, theirs in zip(*types, strict=True)]

    def reference(condition: Any, *captured: Any, then_branch: Body, else_branch: Body) -> tuple[Any, ...]:
        return (then_branch if np.asarray(condition).item() else else_branch)(captured)


def _build_loop(b: Builder, node: OnnxNode) -> Sequence[Value]:
    body, carried = node.attrs["body"], len(node.inputs[2:])
    rows = body.outputs - 1 - carried
    if len(body.declared) != 2 + carried or rows < 0 or len(node.outputs) > carried + rows:
        raise ModelError(
            f"{b.place}: Loop carries {carried} values and has {len(node.outputs)} outputs, its body has "
            f"{len(body.declared)} inputs and {body.outputs} outputs; expected 2 more inputs than carried values, and "
            "1 more output than the loop"
        )
    types = [
        TensorType(dtypes.int64, ()),
        TensorType(dtypes.boolean, ()),
        *(node.required(i).type for i in range(2, 2 + carried)),
    ]
    places = {2 + i: 1 + i for i in range(carried)}
    graph = stable_body(b, body, types, places)
    actual = [*types, *(value.type for value in body.captured)]
    empty = empty_rows(graph, actual, places, 1 + carried)
    inputs = [*node.inputs, *(None,) * (2 - len(node.inputs)), *body.captured]
    attrs = {"body": graph, "carried": carried, "empty": empty}
    return b.emit_many("loop", inputs, attrs, names=node.outputs)


@op(
    "loop",
    onnx=OnnxRow("Loop", {"body": REQUIRED}, build=_build_loop),
    attrs={"body": REQUIRED, "carried": REQUIRED, "empty": ()},
    host_reason=HOST,
)
class Loop:
    """Rounds of a body while a condition holds. Operands: most rounds or None, condition or None, carried values,
    captured values. Body: (round, condition, carried.., captured..) -> (condition, carried.., rows..). Outputs: the
    last carried values, then the rows of all rounds stacked. empty: element type and shape of a row, for no rounds."""

    def infer(call: Call) -> Sequence[ValueType]:
        body, count = call.attrs["body"], call.attrs["carried"]
        carried = {2 + i: 1 + i for i in range(count)}
        actual = [value.type for value in body.inputs[:2]] + operand_types(call, 2)
        types: list[ValueType] = [
            carried_type(body.inputs[i].type, body.outputs[result].type, actual[i], call)
            for i, result in carried.items()
        ]
        varying = varying_inputs(body, carried)
        rounds = _rounds(call, body)
        for value in body.outputs[1 + count :]:
            row = outward(value.type, body, actual, call.fresh, varying)
            types.append(with_axis(row, 0, rounds))
        return types

    def reference(*operands: Any, body: Body, carried: int, empty: Rows) -> tuple[Any, ...]:
        most, condition = (*operands[:2], None, None)[:2]
        most = None if most is None else int(np.asarray(most).item())
        going = condition is None or bool(np.asarray(condition).item())
        state, captured = tuple(operands[2 : 2 + carried]), operands[2 + carried :]
        stacks: list[list[np.ndarray]] = [[] for _ in empty]
        number = 0
        while going and (most is None or number < most):
            results = body([np.array(number, np.int64), np.array(going), *state, *captured])
            going, state = bool(np.asarray(results[0]).item()), tuple(results[1 : 1 + carried])
            for stack, row in zip(stacks, results[1 + carried :], strict=True):
                stack.append(row)
            number += 1
        return (*state, *(stacked(stack, row) for stack, row in zip(stacks, empty, strict=True)))


def stacked(rows: list[np.ndarray], empty: tuple[DType, tuple[int, ...]]) -> np.ndarray:
    """Rows of all rounds along a new first axis."""
    return np.stack(rows) if rows else np.zeros((0, *empty[1]), empty[0].numpy)


def _rounds(call: Call, body: Graph) -> Size:
    """How many rounds there will be, where the count decides alone."""
    most, condition = call.value(0), call.value(1)
    always = (len(call.inputs) < 2 or call.inputs[1] is None) or (condition is not None and bool(condition.item()))
    if most is None or not always or not _stays_true(body):
        return call.fresh()
    return dims.maximum(0, most.item())


def _stays_true(body: Graph) -> bool:
    """Whether the body gives its condition on as it came, or as a constant true."""
    name, producers = body.outputs[0].name, body.producers()
    while name in producers and producers[name].op == "identity":
        name = producers[name].inputs[0].name  # type: ignore[union-attr]
    return name == body.inputs[1].name or (name in body.constants and bool(body.constants[name].all()))
