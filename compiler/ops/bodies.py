"""Bodies of control flow: their types in the sizes of the graph around them, and in a form that holds every round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.dtypes import DType
from compiler.frontends.onnx_node import Subgraph
from compiler.ir import Graph
from compiler.op import Call
from compiler.types import OptionalType, SequenceType, TensorType, ValueType

Body = Callable[[Sequence[Any]], tuple[Any, ...]]
HOST = "control flow: the body is a program of its own, called from Python"


def outward(
    type: ValueType,
    body: Graph,
    actual: Sequence[ValueType],
    fresh: Callable[[], Size],
    varying: Sequence[int] = (),
) -> ValueType:
    """A body output's type in the sizes of the graph outside, the body's inputs having the types `actual`. What
    depends on sizes the body made, or on inputs whose position is in `varying`, is what `fresh` gives."""
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    bound: dict[str, Size] = {}
    for position, (formal, outer) in enumerate(zip(body.inputs, actual, strict=False)):
        if isinstance(formal.type, TensorType) and isinstance(outer, TensorType) and position not in varying:
            for inner_size, size in zip(formal.type.shape or (), outer.shape or (), strict=False):
                if isinstance(inner_size, Dim) and inner_size.is_symbol:
                    bound[str(inner_size)] = size
    return TensorType(type.dtype, tuple(_outward_size(size, bound, fresh) for size in type.shape))


def _outward_size(size: Size, bound: Mapping[str, Size], fresh: Callable[[], Size]) -> Size:
    if isinstance(size, int):
        return size
    try:
        return size.evaluate(cast(Mapping[str, int], bound))  # evaluation works on symbols too
    except (KeyError, NameError, dims.Undecided):
        return fresh()


def merge(a: ValueType, b: ValueType, call: Call) -> ValueType:
    """A type that holds both: sizes that differ become fresh, ranks that differ make the rank unknown."""
    if isinstance(a, OptionalType) or isinstance(b, OptionalType):
        inner = [t.element if isinstance(t, OptionalType) else t for t in (a, b)]
        known = [t for t in inner if t is not None]
        return OptionalType(merge(known[0], known[-1], call) if known else None)
    if isinstance(a, SequenceType) and isinstance(b, SequenceType):
        if a.element is None or b.element is None:
            return SequenceType(a.element or b.element)
        return SequenceType(merge(a.element, b.element, call))
    if not isinstance(a, TensorType) or not isinstance(b, TensorType) or a.dtype != b.dtype:
        call.dtype_error(f"the same output is {a} on one path and {b} on another; cast one of them")
    if a.shape is None or b.shape is None or len(a.shape) != len(b.shape):
        return TensorType(a.dtype, None)
    return TensorType(a.dtype, tuple(x if x == y else call.fresh() for x, y in zip(a.shape, b.shape, strict=True)))


def operand_types(call: Call, first: int) -> list[ValueType]:
    """Types of the operands from `first` on."""
    return [type for type in call.inputs[first:] if type is not None]


def formal_type(type: ValueType, builder: Builder, own_sizes: dict[Size, Size]) -> ValueType:
    """A body input's type with every size a number or a symbol this input binds: `own_sizes` maps sizes of the graph
    outside to the body's own symbols."""
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    for size in type.shape:
        if isinstance(size, Dim) and size not in own_sizes:
            own_sizes[size] = builder.claim_symbol(str(size)) if size.is_symbol else builder.symbol("s0")
    return TensorType(type.dtype, tuple(own_sizes.get(size, size) for size in type.shape))


def stable_body(b: Builder, body: Subgraph, types: Sequence[ValueType], carried: Mapping[int, int]) -> Graph:
    """The body built for input types that hold in every round. carried: position of the input -> position of the
    output that is its next value. A size that changes from round to round becomes a symbol of its own."""
    types = list(types)
    opened: set[tuple[int, int]] = set()
    while True:
        graph = body.build(types)
        before = list(types)
        for position, result in carried.items():
            types[position] = _widen(b, position, graph.inputs[position].type, graph.outputs[result].type,
                                     types[position], opened)  # fmt: skip
        if types == before:
            return graph


def _widen(
    b: Builder, position: int, formal: ValueType, result: ValueType, outer: ValueType, opened: set[tuple[int, int]]
) -> ValueType:
    if formal == result:
        return outer
    if not isinstance(outer, TensorType):
        return _loosest(outer)
    if outer.shape is None:
        return outer
    if not isinstance(result, TensorType) or result.shape is None or len(result.shape) != len(outer.shape):
        return replace(outer, shape=None)
    shape = list(outer.shape)
    for axis, (ours, theirs) in enumerate(zip(formal.shape, result.shape, strict=True)):  # type: ignore[union-attr]
        if ours != theirs and (position, axis) not in opened:
            opened.add((position, axis))
            shape[axis] = b.symbol()
    return replace(outer, shape=tuple(shape))


def _loosest(type: ValueType | None) -> Any:
    """A container's type with nothing said about the shapes in it."""
    if isinstance(type, TensorType):
        return replace(type, shape=None)
    return replace(type, element=_loosest(type.element)) if type is not None else None


def carried_type(formal: ValueType, result: ValueType, initial: ValueType, call: Call) -> ValueType:
    """The type of a carried value after any number of rounds: sizes every round keeps are those of `initial`."""
    if not isinstance(initial, TensorType):
        return formal
    if not isinstance(formal, TensorType) or formal.shape is None or initial.shape is None:
        return replace(initial, shape=None)
    if not isinstance(result, TensorType) or result.shape is None or len(result.shape) != len(formal.shape):
        return replace(initial, shape=None)
    kept = zip(formal.shape, result.shape, initial.shape, strict=True)
    return replace(initial, shape=tuple(size if ours == theirs else call.fresh() for ours, theirs, size in kept))


def with_axis(type: ValueType, axis: int, size: Size) -> ValueType:
    """A tensor's type with an axis put in; anything else, or a tensor of unknown rank, as it is."""
    if not isinstance(type, TensorType) or type.shape is None:
        return type
    shape = list(type.shape)
    shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, size)
    return replace(type, shape=tuple(shape))


def varying_inputs(body: Graph, carried: Mapping[int, int]) -> tuple[int, ...]:
    """Positions of carried inputs some size of which changes from round to round."""
    return tuple(i for i, result in carried.items() if body.inputs[i].type != body.outputs[result].type)


def empty_rows(
    body: Graph, actual: Sequence[ValueType], carried: Mapping[int, int], first: int
) -> tuple[tuple[DType, tuple[Size, ...]], ...]:
    """Element type and shape of one row of each scan output, from output `first` on; 0 for sizes only rounds tell."""
    varying = varying_inputs(body, carried)
    rows = []
    for value in body.outputs[first:]:
        type = outward(value.type, body, actual, lambda: 0, varying)
        assert isinstance(type, TensorType), "a scan output is a tensor"
        rows.append((type.dtype, type.shape or ()))
    return tuple(rows)
