"""Graphs run in NumPy, node by node, by the ops' references."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from compiler import dims
from compiler.dims import Dim
from compiler.errors import DtypeError, SansuanError, ShapeError
from compiler.ir import Graph, Node, Value
from compiler.op import lookup
from compiler.types import TensorType

Observer = Callable[[str, Any], None]


class ReferenceExecutable:
    """A graph ready to run. `run` may be called from several threads."""

    def __init__(self, graph: Graph, observe: Observer | None = None) -> None:
        """observe(name, value) sees every graph input and node output as it is made."""
        self.graph = graph
        self._observe = observe
        self._dead_after = _dead_after(graph)

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """The outputs for the graph's inputs, in order; the arrays are not changed, outputs may share memory with
        them. Raises DtypeError or ShapeError where an input does not have its type; errors of a node name it."""
        if len(arrays) != len(self.graph.inputs):
            raise ShapeError(f"found {len(arrays)} inputs, expected {len(self.graph.inputs)}")
        frame = _Frame(self._observe)
        for value, array in zip(self.graph.inputs, arrays, strict=True):
            frame.define(value, array, "input")
        for name, array in self.graph.constants.items():
            frame.values[name] = array
        for guard in self.graph.guards:
            frame.check(guard.left, guard.right, guard.place)
        for node, dead in zip(self.graph.nodes, self._dead_after, strict=True):
            try:
                frame.step(node)
            except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError, SansuanError) as error:
                error.add_note(f"in node {node.place} ({node.op})")
                raise
            for name in dead:
                frame.values.pop(name, None)
        return [frame.values[value.name] for value in self.graph.outputs]


def run(graph: Graph, arrays: Sequence[Any]) -> list[Any]:
    """The outputs of `graph` for its inputs."""
    return ReferenceExecutable(graph).run(arrays)


class _Frame:
    """One run: values by name, and the sizes known so far."""

    def __init__(self, observe: Observer | None) -> None:
        self.values: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self._observe = observe

    def define(self, value: Value, array: Any, what: str) -> None:
        """Bind a value, its type checked, its new sizes bound."""
        if isinstance(value.type, TensorType) and array is not None:
            array = np.asarray(array)
            if array.dtype != value.type.dtype.numpy:
                raise DtypeError(f"{what} {value.name}: found {array.dtype}, expected {value.type}; convert it first")
            self._bind(value, array.shape, what)
        self.values[value.name] = array
        if self._observe is not None:
            self._observe(value.name, array)

    def step(self, node: Node) -> None:
        """Run one node."""
        entry = lookup(node.op)
        assert entry.reference is not None, f"op {node.op} has no reference"
        operands = [self.values[v.name] if v is not None else None for v in node.inputs]
        attrs = {key: self._concrete(attr) for key, attr in node.attrs.items()}
        with np.errstate(all="ignore"):  # infinities and NaNs are results like others
            results = entry.reference(*operands, **attrs)
        results = results if isinstance(results, tuple) else (results,)
        for value, result in zip(node.outputs, results, strict=False):
            if value.name:
                self.define(value, result, "result")

    def check(self, left: dims.Size, right: dims.Size, place: str) -> None:
        """Raise ShapeError unless two sizes, known by now, are equal."""
        names = {name for size in (left, right) if isinstance(size, Dim) for name in size.names}
        if names <= self.sizes.keys():
            a, b = dims.evaluate(left, self.sizes), dims.evaluate(right, self.sizes)
            if a != b:
                raise ShapeError(f"{place}: {left} is {a}, {right} is {b}; expected equal sizes")

    def _bind(self, value: Value, shape: tuple[int, ...], what: str) -> None:
        expected = value.type.shape  # type: ignore[union-attr]
        if expected is None:
            return
        if len(expected) != len(shape):
            raise ShapeError(f"{what} {value.name}: found shape {shape}, expected {value.type}")
        for size, found in zip(expected, shape, strict=True):
            if isinstance(size, Dim) and size.is_symbol:
                self.sizes.setdefault(str(size), found)
            if isinstance(size, Dim) and not size.names <= self.sizes.keys():
                continue
            if dims.evaluate(size, self.sizes) != found:
                raise ShapeError(f"{what} {value.name}: found shape {shape}, expected {value.type} with {self.sizes}")

    def _concrete(self, attr: Any) -> Any:
        """An attribute with its sizes as numbers and its graphs as callables."""
        if isinstance(attr, Dim):
            return attr.evaluate(self.sizes)
        if isinstance(attr, Graph):
            return lambda arrays: tuple(run(attr, arrays))
        if isinstance(attr, tuple):
            return tuple(self._concrete(item) for item in attr)
        return attr


def _dead_after(graph: Graph) -> list[list[str]]:
    """For each node, the values nobody reads after it; graph outputs live on."""
    last: dict[str, int] = {}
    for i, node in enumerate(graph.nodes):
        for value in (*node.outputs, *node.inputs):
            if value is not None and value.name:
                last[value.name] = i
    for value in graph.outputs:
        last.pop(value.name, None)
    dead: list[list[str]] = [[] for _ in graph.nodes]
    for name, i in last.items():
        dead[i].append(name)
    return dead
