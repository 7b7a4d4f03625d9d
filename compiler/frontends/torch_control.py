"""Higher-order operators of an exported program: their bodies become graphs of If, Loop and Scan, or are inlined."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from compiler.dims import Dim, Size
from compiler.frontends.aten.base import AtenBuilder, shape_of, tensor_type
from compiler.frontends.aten.numbers import Number, as_tensor, from_tensor
from compiler.frontends.onnx_node import OnnxNode, Subgraph
from compiler.frontends.torch_flex import flex_attention
from compiler.ir import Graph, Value
from compiler.op import lookup
from compiler.ops.bodies import formal_type
from compiler.types import TensorType, ValueType

if TYPE_CHECKING:
    from torch import fx

    from compiler.frontends.torch_nodes import Frame

Run = Callable[["Frame", Sequence[Any]], list[Any]]
_OPSET = 21  # of the ONNX operators whose rows build If, Loop and Scan


class BodyRefused(Exception):
    """A body of control flow could not be imported; what it needs is in `Frame.refused` already."""


@dataclass(frozen=True)
class _Formal:
    """How a value gets into a body. type: of the tensor that carries it, None for a constant, which the body has of its
    own. kind: "tensor", "number" (the tensor is a Python number), "size" (the tensor's first extent is one), or
    "parameter" (`constant` is its name and array)."""

    type: ValueType | None
    tensor: Value | None = None
    kind: str = "tensor"
    constant: Any = None


def _subgraph(
    frame: Frame, place: str, run: Run, own: Sequence[_Formal], others: Sequence[Any], results: int, nodes: int
) -> Subgraph:
    """A body as rows of control flow want it: its inputs are `own`, then what `others` (values outside) need."""
    captured = [_captured(frame.b, value) for value in others]
    outside = [formal.tensor for formal in captured if formal.tensor is not None]

    def build(types: Sequence[ValueType]) -> Graph:
        b, own_sizes = AtenBuilder(), dict[Size, Size]()
        actual = iter([*types, *(value.type for value in outside)])
        values = [_enter(b, formal, actual, own_sizes) for formal in (*own, *captured)]
        inner = frame.inner(frame.module, b, inside=place)
        with b.at(place):
            return inner.finish([as_tensor(b, value) for value in run(inner, values)])

    def inline(values: Sequence[Value]) -> tuple[Value, ...]:
        formals = _like(frame.b, values, [formal.kind for formal in own])
        inner = frame.inner(frame.module, inside=place)
        return tuple(as_tensor(frame.b, value) for value in run(inner, [*formals, *others]))

    return Subgraph(None, (None,) * len(own), results, tuple(outside), build, inline, nodes)


def _captured(b: AtenBuilder, value: Any) -> _Formal:
    if isinstance(value, Number):
        return _Formal(tensor_type(value.value()), value.value(), "number")
    if isinstance(value, Dim):
        # A tensor without elements carries the size in, so that sizes inside can be computed from it.
        carrier = b.emit("expand", b.constant(np.empty((1, 0), bool)), b.sizes((value, 0)))
        return _Formal(carrier.type, carrier, "size")
    if not isinstance(value, Value):
        return _Formal(None, constant=value)
    if value.name in b.constants:
        return _Formal(None, kind="parameter", constant=(value.name, b.constants[value.name]))
    return _Formal(value.type, value)


def _enter(b: AtenBuilder, formal: _Formal, types: Iterator[ValueType], own_sizes: dict[Size, Size]) -> Any:
    if formal.type is None:
        return b.parameter(*formal.constant) if formal.kind == "parameter" else formal.constant
    value = b.input("operand", formal_type(next(types), b, own_sizes))
    if formal.kind == "number":
        return from_tensor(b, value, signed=True)
    return shape_of(value)[0] if formal.kind == "size" else value


def _carried(b: AtenBuilder, value: Any) -> _Formal:
    """A value that changes from round to round: a tensor, or a Python number as one."""
    tensor = as_tensor(b, value)
    return _Formal(tensor.type, tensor, "tensor" if isinstance(value, Value) else "number")


def _build(
    frame: Frame, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any], results: int
) -> list[Value]:
    """The values of a control flow op, built by the row of its ONNX operator."""
    (row,) = lookup(op).onnx
    assert row.build is not None
    node = OnnxNode(row.op_type, "", tuple(inputs), (op,) * results, attrs, _OPSET)
    return list(row.build(frame.b, node))


def _like(b: AtenBuilder, results: Sequence[Value], kinds: Sequence[str]) -> list[Any]:
    """Results as the exported program has them: those that are Python numbers there as numbers."""
    return [from_tensor(b, value, signed=True) if kind == "number" else value
            for value, kind in zip(results, kinds, strict=True)]  # fmt: skip


def _result_kinds(module: fx.GraphModule) -> list[str]:
    """What each result of a body is in the exported program: a tensor or a number."""
    (output,) = (node for node in module.graph.nodes if node.op == "output")
    results = output.args[0] if isinstance(output.args[0], (list, tuple)) else [output.args[0]]
    metas = [getattr(result, "meta", {}).get("val", result) for result in results]
    return ["tensor" if hasattr(meta, "dtype") else "number" for meta in metas]


def _cond(
    frame: Frame, place: str, condition: Any, yes: fx.GraphModule, no: fx.GraphModule, operands: Sequence[Any] = ()
) -> Any:
    if isinstance(condition, bool):
        return frame.inner(yes if condition else no).run(operands)
    kinds = _result_kinds(yes)
    branches = {
        name: _subgraph(frame, place, _module(module), (), operands, len(kinds), _calls(module))
        for name, module in (("then_branch", yes), ("else_branch", no))
    }
    _note_refusals(branches.values())
    results = _build(frame, "if", [as_tensor(frame.b, condition)], branches, len(kinds))
    return _like(frame.b, results, kinds)


def _note_refusals(bodies: Iterable[Subgraph]) -> None:
    """Raise BodyRefused once what every body lacks is noted, not after the first that lacks something."""
    refused = None
    for body in bodies:
        try:
            body.build(())
        except BodyRefused as error:
            refused = error
    if refused is not None:
        raise refused


def _calls(module: fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in module.graph.nodes)


def _module(module: fx.GraphModule) -> Run:
    return lambda frame, values: frame.inner(module).run(values)


def _while_loop(
    frame: Frame,
    place: str,
    condition: fx.GraphModule,
    body: fx.GraphModule,
    carried: Sequence[Any],
    others: Sequence[Any],
) -> Any:
    count = len(carried)
    formals = [_carried(frame.b, value) for value in carried]

    def run(inner: Frame, values: Sequence[Any]) -> list[Any]:
        state, captured = values[2 : 2 + count], values[2 + count :]  # before them: the round, the condition
        state = inner.inner(body).run([*state, *captured])
        return [*inner.inner(condition).run([*state, *captured]), *state]

    first = frame.inner(condition).run([*carried, *others])
    own = [_Formal(TensorType(dtypes.int64, ())), _Formal(TensorType(dtypes.boolean, ())), *formals]
    subgraph = _subgraph(frame, place, run, own, others, 1 + count, _calls(condition) + _calls(body))
    inputs = [None, as_tensor(frame.b, first[0]), *(formal.tensor for formal in formals)]
    return _like(frame.b, _build(frame, "loop", inputs, {"body": subgraph}, count), [f.kind for f in formals])


def _scan(
    frame: Frame,
    place: str,
    body: fx.GraphModule,
    states: Sequence[Any],
    sequences: Sequence[Value],
    others: Sequence[Any],
) -> Any:
    formals = [_carried(frame.b, value) for value in states]
    own = [*formals, *(_Formal(value.type) for value in sequences)]
    results = len(_result_kinds(body))
    subgraph = _subgraph(frame, place, _module(body), own, others, results, _calls(body))
    inputs = [*(formal.tensor for formal in formals), *sequences]
    found = _build(frame, "scan", inputs, {"body": subgraph, "num_scan_inputs": len(sequences)}, results)
    return _like(frame.b, found, [*(f.kind for f in formals), *["tensor"] * (results - len(formals))])


def _map(frame: Frame, place: str, body: fx.GraphModule, sequences: Sequence[Value], others: Sequence[Any]) -> Any:
    return _scan(frame, place, body, (), sequences, others)


def _inlined(module_at: int) -> Callable[..., Any]:
    """A row for a wrapper that changes no value: its body takes the call's place."""

    def row(frame: Frame, place: str, *args: Any) -> Any:
        return frame.inner(args[module_at]).run(args[module_at + 1 :])

    return row


def _checkpoint(frame: Frame, place: str, module: fx.GraphModule, *args: Any, **settings: Any) -> Any:
    return frame.inner(module).run(args)


def _invoke_subgraph(frame: Frame, place: str, module: fx.GraphModule, identifier: str, *args: Any) -> Any:
    return frame.inner(module).run(args)


CONTROL_ROWS: Mapping[str, Callable[..., Any]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "scan": _scan,
    "map_impl": _map,
    "wrap_with_set_grad_enabled": _inlined(1),
    "wrap_with_autocast": _inlined(4),
    "tag_activation_checkpoint": _checkpoint,
    "invoke_subgraph": _invoke_subgraph,
    "flex_attention": flex_attention,
}
