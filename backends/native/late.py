"""Late nodes: integer chains that depend on sizes alone but that symbols do not decide, evaluated with numbers.

Their results fill size buffers, and their shapes bind the sizes that inference had to invent (compiler/lowering/late).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from backends.native.sizes import bind, check_guards, names_of
from backends.reference.interpreter import run as run_graph
from compiler import dims
from compiler.dims import Dim
from compiler.ir import Graph, Guard, Node, Value
from compiler.op import lookup
from compiler.types import TensorType

Body = Callable[[Sequence[Any]], tuple[Any, ...]]


class Settling:
    """The sizes known so far in one run or plan, and what waits for more of them.

    `sizes`: numbers by name. `results`: contents of late values. Constants are the weights late nodes read.
    """

    def __init__(self, nodes: Sequence[Node], guards: Sequence[Guard], constants: Mapping[str, np.ndarray]) -> None:
        self.sizes: dict[str, int] = {}
        self.results: dict[str, np.ndarray] = {}
        self._nodes, self._guards, self._constants = list(nodes), list(guards), constants

    def settle(self) -> None:
        """Evaluate every late node and check every guard that the sizes known by now allow, in turn.

        Raises sizes.GuardBroken.
        """
        waiting: list[Node] = []
        while len(waiting) != len(self._nodes):
            waiting, self._nodes = self._nodes, [node for node in self._nodes if not self._evaluate(node)]
        known = self.sizes.keys()
        ready = [guard for guard in self._guards if names_of((guard.left, guard.right)) <= known]
        self._guards = [guard for guard in self._guards if guard not in ready]
        check_guards(ready, self.sizes)

    def _evaluate(self, node: Node) -> bool:
        if not names_in(node) <= self.sizes.keys():
            return False
        operands = [None if value is None else self._operand(node, i, value) for i, value in enumerate(node.inputs)]
        if any(o is None and value is not None for o, value in zip(operands, node.inputs, strict=True)):
            return False
        for value, array in zip(node.outputs, call_reference(node, operands, self.sizes), strict=False):
            if value.name:
                if node.op != "result_shape":
                    self.results[value.name] = array
                if isinstance(value.type, TensorType):
                    bind(array.shape, value.type, self.sizes, f"{node.place}: {node.op}")
        return True

    def _operand(self, node: Node, number: int, value: Value) -> np.ndarray | None:
        """What a late node reads: contents, or (where only the shape matters) zeros of the right shape."""
        found = self.results.get(value.name)
        if found is None:
            found = self._constants.get(value.name)
        if found is not None or number not in _shape_operands(node):
            return found
        type = value.type
        if not isinstance(type, TensorType) or type.shape is None or not names_of(type.shape) <= self.sizes.keys():
            return None
        shape = tuple(dims.evaluate(size, self.sizes) for size in type.shape)
        return np.broadcast_to(np.zeros((), type.dtype.numpy), shape)


def _shape_operands(node: Node) -> Collection[int]:
    """The operands of which a late node only wants the shape."""
    if node.op == "shape_of":
        return (0,)
    if node.op != "result_shape":
        return ()
    return set(range(len(node.inputs))).difference(lookup(node.attrs["node"].op).value_operands)


def call_reference(
    node: Node, operands: Sequence[Any], sizes: Mapping[str, int], bodies: Mapping[Graph, Body] | None = None
) -> list[Any]:
    """A node's results in NumPy, of the declared element types, sizes in its attributes turned into numbers.

    bodies: what runs the graphs among its attributes; the interpreter without it.
    """
    attrs = {
        key: bodies[value] if bodies and isinstance(value, Graph) else concrete(value, sizes)
        for key, value in node.attrs.items()
    }
    reference = lookup(node.op).reference
    assert reference is not None, f"{node.place}: op {node.op} has no reference"
    with np.errstate(all="ignore"):
        results = reference(*operands, **attrs)
    results = results if isinstance(results, tuple) else (results,)
    return [
        np.asarray(result, value.type.dtype.numpy) if isinstance(value.type, TensorType) else result
        for result, value in zip(results, node.outputs, strict=False)
    ]


def concrete(value: Any, sizes: Mapping[str, int]) -> Any:
    """An attribute with every size in it turned into its number, and every graph into a callable."""
    if isinstance(value, Dim):
        return value.evaluate(sizes)
    if isinstance(value, tuple):
        return tuple(concrete(item, sizes) for item in value)
    if isinstance(value, Graph):
        return lambda arrays: tuple(run_graph(value, arrays))
    if isinstance(value, Node):
        return replace(value, attrs={key: concrete(item, sizes) for key, item in value.attrs.items()})
    if isinstance(value, np.ndarray) and value.dtype == object:
        flat = [concrete(item, sizes) for item in value.flat]
        numeric = all(isinstance(item, int | np.integer) for item in flat)
        return np.array(flat, np.int64 if numeric else object).reshape(value.shape)
    return value


def names_in(node: Node) -> frozenset[str]:
    """Every size name a node's attributes mention, those of a node among them included."""
    inner = (names_in(item) for item in node.attrs.values() if isinstance(item, Node))
    return dims.names_in(node.attrs).union(*inner)
