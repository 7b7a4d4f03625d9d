"""Expose and isolate: graphs that show what every imported node gives, in the whole model and by itself.

Both work on a graph as imported, whose nodes stand for one imported node each. A *boundary* value is one that an
imported node hands to another one, or to the user. Nodes of the graph that stand for the same imported node stay
connected; so do those that pass each other values that are no tensors, which no caller could feed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import TRACKED_ELEMENTS, Builder
from compiler.dtypes import DType
from compiler.errors import SansuanError
from compiler.expr import apply, arg, cast, const
from compiler.ir import Graph, Node, Value
from compiler.passes.specialize import substitute_sizes
from compiler.solve import solve
from compiler.types import TensorType, of_array

_NOISY_FLOATS = frozenset({dtypes.float64, dtypes.float32, dtypes.float16, dtypes.bfloat16})
_NOISY_CODES = {dtypes.int8: (-128, 127), dtypes.uint8: (0, 255)}


def expose(graph: Graph, also: Collection[str] = ()) -> Graph:
    """`graph` with every boundary value as its outputs, each once, in order of definition; values named in `also` are
    taken for boundaries too. What the user calls the outputs is lost: `output_names` is empty."""
    wanted = {value.name for value in graph.outputs} | set(also)
    group = {value.name: imported_of(node) for node in graph.nodes for value in node.outputs}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and group.get(value.name, imported_of(node)) != imported_of(node):
                wanted.add(value.name)
    outputs = [value for node in graph.nodes for value in node.outputs if value.name and value.name in wanted]
    return replace(graph, outputs=tuple(outputs), output_names=())


def imported_of(node: Node) -> str:
    """The imported node a node of an imported graph stands for, '' for what the front end added around it."""
    return node.where[0] if node.where else ""


@dataclass(frozen=True, eq=False)
class Isolated:
    """A graph in which imported nodes read nothing of each other.

    fed: for each input of `graph`, the name of the exposed graph's value it stands for. results: the same for each
    output. baked: names of values whose contents decide shapes and therefore are constants here. left_out: imported
    nodes that could not be taken out of their surroundings, with the reason.
    """

    graph: Graph
    fed: tuple[str, ...]
    results: tuple[str, ...]
    baked: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]


def isolate(graph: Graph, observed: Mapping[str, Any], only: Collection[str] | None = None) -> Isolated:
    """The imported nodes of `graph` (as `expose` gives it), each reading inputs of its own.

    observed: every boundary value and graph input of one run, by name: they give the inputs' types, and contents where
    those decide shapes. only: the imported nodes to take; None: all.
    """
    work = _Isolation(graph, observed)
    for nodes in _units(graph):
        names = {imported_of(node) for node in nodes}
        if only is None or names & set(only):
            work.add(nodes, " and ".join(sorted(names)))
    return work.finish()


def with_noise(graph: Graph) -> tuple[Graph, tuple[int, ...]]:
    """`graph` (as `expose` gives it) with a further input for each output it can disturb, which is added to that value
    before anything reads it: floats as they are, codes of 8 bits without leaving their range. Answers with the numbers
    of the outputs the further inputs belong to, in order."""
    builder = Builder(graph)
    places = {value.name: number for number, value in enumerate(graph.outputs)}
    renamed: dict[str, Value] = {}
    disturbed: list[int] = []
    for node in graph.nodes:
        builder.keep(node, [renamed.get(v.name, v) if v is not None else None for v in node.inputs])
        for value in node.outputs:
            if value.name in places and _can_be_noisy(value):
                noise = builder.input(f"{value.name}.noise", value.type)
                with builder.at(*node.where):
                    renamed[value.name] = builder.emit("map", value, noise, outputs=(_sum(value.type.dtype),))
                disturbed.append(places[value.name])
    finished = builder.finish([renamed.get(value.name, value) for value in graph.outputs])
    return replace(finished, output_names=()), tuple(disturbed)


def _can_be_noisy(value: Value) -> bool:
    type = value.type
    known = isinstance(type, TensorType) and (type.dtype in _NOISY_FLOATS or type.dtype in _NOISY_CODES)
    return known and type.is_static


def _sum(dtype: DType) -> Any:
    if dtype in _NOISY_FLOATS:
        return arg(0, dtype) + arg(1, dtype)
    low, high = (const(limit, dtypes.int32) for limit in _NOISY_CODES[dtype])
    noise = cast(cast(arg(1, dtype), dtypes.int8), dtypes.int32)  # of uint8 as well: the code 255 is -1
    total = cast(arg(0, dtype), dtypes.int32) + noise
    return cast(apply("max", apply("min", total, high), low), dtype)


def _units(graph: Graph) -> list[list[Node]]:
    """What is isolated together: the nodes of an imported node, joined where values that are no tensors pass."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root.setdefault(name, name) != name:
            name = root[name]
        return name

    producer = {value.name: node for node in graph.nodes for value in node.outputs}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and value.name in producer and not isinstance(value.type, TensorType):
                root[find(imported_of(node))] = find(imported_of(producer[value.name]))
    units: dict[str, list[Node]] = {}
    for node in graph.nodes:
        units.setdefault(find(imported_of(node)), []).append(node)
    return list(units.values())


class _Isolation:
    """The graph being made, and what its parts share: inputs and constants."""

    def __init__(self, graph: Graph, observed: Mapping[str, Any]) -> None:
        self.graph, self.observed = graph, observed
        self.builder = Builder()
        self.shared: dict[tuple[str, bool], Value] = {}
        self.fed: list[str] = []
        self.outputs: dict[str, Value] = {}
        self.baked: set[str] = set()
        self.left_out: dict[str, str] = {}
        self.boundary = {value.name for value in graph.outputs}
        self.sizes = solve(
            (size, number)
            for value in (*graph.inputs, *graph.outputs)
            if isinstance(value.type, TensorType) and value.type.shape is not None and value.name in observed
            for size, number in zip(value.type.shape, observed[value.name].shape, strict=True)
        )

    def add(self, nodes: Sequence[Node], label: str) -> None:
        """Take in one unit, with the fewest constants in place of inputs that make its results' sizes known."""
        baked, reason = self._choose(nodes)
        if reason:
            self.left_out[label] = reason
            return
        self.baked |= baked
        local = _emit(self.builder, nodes, self.sizes, lambda value: self._outside(value, baked))
        for node in nodes:
            for value in node.outputs:
                if value.name in self.boundary and isinstance(value.type, TensorType):
                    self.outputs[value.name] = local[value.name]

    def finish(self) -> Isolated:
        """The graph of all units taken in."""
        made = self.builder.finish(list(self.outputs.values()))
        graph = replace(
            self.graph, inputs=made.inputs, nodes=made.nodes, outputs=made.outputs, constants=made.constants,
            guards=made.guards, output_names=(),
        )  # fmt: skip
        return Isolated(
            graph,
            tuple(self.fed),
            tuple(self.outputs),
            {name: self.observed[name] for name in self.baked},
            self.left_out,
        )

    def _choose(self, nodes: Sequence[Node]) -> tuple[set[str], str]:
        """The values to make constants of, or why nothing helps."""
        inner = {value.name for node in nodes for value in node.outputs}
        reads = {v.name: v for node in nodes for v in node.inputs if v is not None and v.name not in inner}
        small = {
            name: value.type.dtype
            for name, value in reads.items()
            if name not in self.graph.constants and self.observed[name].size <= TRACKED_ELEMENTS
        }
        whole = {name for name, dtype in small.items() if not dtype.is_float}
        first: set[str] | None = None
        reason = ""
        for baked in (set[str](), whole, set(small)):
            try:
                trial = _Trial(self, baked)
                local = _emit(trial.builder, nodes, self.sizes, trial)
            except (SansuanError, ArithmeticError, LookupError, TypeError, ValueError) as error:
                reason = reason or f"{type(error).__name__}: {error}"
                continue
            if all(_settled(value, local[value.name]) for node in nodes for value in node.outputs if value.name):
                return baked, ""
            first = baked if first is None else first
        return (set(), reason) if first is None else (first, "")

    def _outside(self, value: Value, baked: Collection[str]) -> Value:
        key = (value.name, value.name in baked)
        if key not in self.shared:
            self.shared[key] = _entered(self, self.builder, value, baked)
            if value.name not in baked and value.name not in self.graph.constants:
                self.fed.append(value.name)
        return self.shared[key]


class _Trial:
    """What a unit reads from outside, in a builder that is thrown away."""

    def __init__(self, work: _Isolation, baked: Collection[str]) -> None:
        self.work, self.baked, self.builder = work, baked, Builder()
        self.known: dict[str, Value] = {}

    def __call__(self, value: Value) -> Value:
        if value.name not in self.known:
            self.known[value.name] = _entered(self.work, self.builder, value, self.baked)
        return self.known[value.name]


def _entered(work: _Isolation, builder: Builder, value: Value, baked: Collection[str]) -> Value:
    """A value from outside a unit: a constant, or an input of the type it was observed with."""
    if value.name in work.graph.constants:
        return builder.constant(work.graph.constants[value.name], value.name)
    if value.name in baked:
        return builder.constant(work.observed[value.name], value.name)
    return builder.input(value.name, of_array(work.observed[value.name]))


def _settled(old: Value, new: Value) -> bool:
    """Whether a result's sizes are as well known as they were."""
    old_known = isinstance(old.type, TensorType) and old.type.is_static
    return not old_known or (isinstance(new.type, TensorType) and new.type.is_static)


def _emit(
    builder: Builder, nodes: Sequence[Node], sizes: Mapping[str, int], outside: Callable[[Value], Value]
) -> dict[str, Value]:
    """Nodes in a builder, their own results by name."""
    local: dict[str, Value] = {}
    for node in nodes:
        inputs = [None if v is None else local[v.name] if v.name in local else outside(v) for v in node.inputs]
        with builder.at(*node.where):
            attrs = {key: substitute_sizes(item, sizes) for key, item in node.attrs.items()}
            results = builder.emit_many(node.op, inputs, attrs, [v.name for v in node.outputs])
        local.update((old.name, new) for old, new in zip(node.outputs, results, strict=True) if old.name)
    return local
