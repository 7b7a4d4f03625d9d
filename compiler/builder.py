"""Graph construction: nodes are inferred as they are emitted, and small integer contents are tracked.

Front ends and passes build graphs only here, so names stay unique, guards and symbols stay consistent, and every
node's types are the ones its op infers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.dims import Dim, Size
from compiler.errors import SansuanError
from compiler.ir import Graph, Guard, ImportedNode, Node, Value
from compiler.op import Call, Op, lookup
from compiler.policy import Policy
from compiler.types import TensorType, ValueType, of_array

TRACKED_ELEMENTS = 4096  # larger integer tensors are data, not shapes


class Builder:
    """Builds one Graph. Give `source` to carry over inputs, constants, guards, notes and fresh-name counters."""

    def __init__(self, source: Graph | None = None) -> None:
        self.inputs: list[Value] = list(source.inputs) if source else []
        self.nodes: list[Node] = []
        self.constants: dict[str, np.ndarray] = dict(source.constants) if source else {}
        self.known: dict[str, np.ndarray] = {}  # contents of small values
        self.invented: list[str] = []  # names of sizes made here, in order
        self.guards: dict[tuple[Size, Size], Guard] = {(g.left, g.right): g for g in source.guards} if source else {}
        self.imported: list[ImportedNode] = list(source.imported) if source else []
        self.notes: dict[str, str] = dict(source.notes) if source else {}
        self.output_names: tuple[str, ...] = source.output_names if source else ()
        self.size_names: dict[str, str] = dict(source.size_names) if source else {}
        self.policy: Policy | None = source.policy if source else None
        self.remarks: dict[str, str] = dict(source.remarks) if source else {}
        self._where: tuple[str, ...] = ()
        self._names: set[str] = {value.name for value in source.values()} | set(self.constants) if source else set()
        self._counters: dict[str, int] = {}
        self._symbols: set[str] = _symbols_of(source) if source else set()
        self._scalars: dict[tuple[str, bytes], Value] = {}
        for name, array in self.constants.items():
            self._track_constant(name, array)

    @contextmanager
    def at(self, *where: str) -> Iterator[None]:
        """Nodes emitted inside stand for these imported nodes."""
        outer, self._where = self._where, where
        try:
            yield
        finally:
            self._where = outer

    @property
    def place(self) -> str:
        """The imported node being worked on, for messages."""
        return self._where[0] if self._where else "model"

    def unique(self, hint: str) -> str:
        """A value name not used yet."""
        name = hint
        while name in self._names:
            self._counters[hint] = self._counters.get(hint, 0) + 1
            name = f"{hint}_{self._counters[hint]}"
        self._names.add(name)
        return name

    def symbol(self, hint: str = "u0") -> Dim:
        """A size name not used yet."""
        name, number = hint, 0
        while name in self._symbols:
            number += 1
            name = f"{hint.rstrip('0123456789')}{number}"
        self._symbols.add(name)
        self.invented.append(name)
        return dims.symbol(name)

    def claim_symbol(self, name: str) -> Dim:
        """The size called `name`, shared by all who claim it."""
        self._symbols.add(name)
        return dims.symbol(name)

    def input(self, name: str, type: ValueType) -> Value:
        """A new graph input."""
        value = Value(self.unique(name), type)
        self.inputs.append(value)
        return value

    def constant(self, array: Any, hint: str = "const", dtype: dtypes.DType | None = None) -> Value:
        """A constant tensor (not copied); equal scalars are shared."""
        array = np.asarray(array, dtype=dtype.numpy if dtype else None)
        key = (array.dtype.str, array.tobytes()) if array.ndim == 0 and array.dtype != object else None
        if key and key in self._scalars:
            return self._scalars[key]
        value = Value(self.unique(hint), of_array(array))
        self.constants[value.name] = array
        self._track_constant(value.name, array)
        if key:
            self._scalars[key] = value
        return value

    def sizes(self, sizes: Sequence[Size]) -> Value:
        """A 1-d int64 tensor of sizes: a constant where all are numbers, else a `sizes` node."""
        if dims.is_static(sizes):
            return self.constant(np.array(sizes, np.int64), "shape")
        return self.emit("sizes", sizes=tuple(sizes))

    def contents(self, value: Value | None) -> np.ndarray | None:
        """What is known of a value's contents: an array of its dtype, or an object array of sizes; else None."""
        if value is None:
            return None
        if value.name in self.known:
            return self.known[value.name]
        return self.constants.get(value.name)

    def emit(self, name: str, *inputs: Value | None, hint: str = "", **attrs: Any) -> Value:
        """A node with one output."""
        return self.emit_many(name, inputs, attrs, names=(hint or name,))[0]

    def emit_many(
        self, name: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any], names: Sequence[str]
    ) -> tuple[Value, ...]:
        """A node with outputs named after `names` ('' for one nobody wants). Types are inferred; errors name the
        place. Missing attributes take the op's defaults."""
        entry = lookup(name)
        inputs = _strip(inputs)
        attrs = {**entry.attrs, **attrs}
        created: list[Dim] = []
        types = infer(entry, inputs, attrs, self, len(names), created)
        outputs = tuple(
            Value(self.unique(hint) if hint else "", type) for hint, type in zip(names, types, strict=False)
        )
        self.nodes.append(Node(name, inputs, outputs, attrs, self._where))
        self._track(entry, self.nodes[-1])
        return outputs

    def keep(self, node: Node, inputs: Sequence[Value | None] | None = None, **attrs: Any) -> tuple[Value, ...]:
        """An existing node carried over with its outputs and their types, on new inputs of the same types."""
        fresh = Node(
            node.op,
            node.inputs if inputs is None else tuple(inputs),
            node.outputs,
            {**node.attrs, **attrs} if attrs else node.attrs,
            node.where,
        )
        self.nodes.append(fresh)
        self._names.update(value.name for value in node.outputs)
        self._track(lookup(node.op), fresh)
        return fresh.outputs

    def finish(self, outputs: Sequence[Value]) -> Graph:
        """The finished graph; constants nobody reads are left out."""
        used = {v.name for node in self.nodes for v in node.inputs if v is not None} | {v.name for v in outputs}
        constants = {name: array for name, array in self.constants.items() if name in used}
        return Graph(
            tuple(self.inputs),
            tuple(self.nodes),
            tuple(outputs),
            constants,
            tuple(self.guards.values()),
            tuple(self.imported),
            self.notes,
            self.output_names,
            self.size_names,
            self.policy,
            self.remarks,
        )

    def remark(self, node: str, text: str) -> None:
        """Let the ledger say something about an imported node, beside what ran it."""
        known = self.remarks.get(node, "")
        self.remarks[node] = text if known in ("", text) else f"{known}; {text}"

    def add_guard(self, left: Size, right: Size, asserted: bool = False) -> None:
        """Record that two sizes are taken to be equal, or that the model says so."""
        self.guards.setdefault((left, right), Guard(left, right, self.place, asserted))

    def _track_constant(self, name: str, array: np.ndarray) -> None:
        if array.size <= TRACKED_ELEMENTS and array.dtype != object:
            self.known[name] = array

    def _track(self, entry: Op, node: Node) -> None:
        if not entry.tracks_values or entry.reference is None:
            return
        contents = [self.contents(v) for v in node.inputs]
        symbolic = any(array is None or array.dtype == object for array in contents)
        for value in node.outputs:
            if not isinstance(value.type, TensorType) or value.type.shape is None:
                return
            if value.type.dtype.is_float and symbolic:
                return
            if dims.is_static(value.type.shape) and value.type.elements > TRACKED_ELEMENTS:
                return
        results = evaluate(entry, node, contents)
        for value, array in zip(node.outputs, results or (), strict=False):
            if value.name and array.size <= TRACKED_ELEMENTS:
                self.known[value.name] = array


def infer(
    entry: Op,
    inputs: Sequence[Value | None],
    attrs: Mapping[str, Any],
    builder: Builder,
    outputs: int,
    created: list[Dim],
) -> Sequence[ValueType]:
    """Run an op's inference in a builder's context; `created` receives the symbols it had to invent."""

    def fresh() -> Dim:
        created.append(builder.symbol())
        return created[-1]

    call = Call(
        op=entry.name,
        inputs=tuple(v.type if v is not None else None for v in inputs),
        attrs=attrs,
        values=tuple(builder.contents(v) for v in inputs),
        place=builder.place,
        outputs=outputs,
        fresh=fresh,
        guard=builder.add_guard,
    )
    return entry.infer(call)


def evaluate(entry: Op, node: Node, contents: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...] | None:
    """The contents of a node's outputs where its inputs' contents are known and decide them; else None."""
    missing = any(array is None for array, v in zip(contents, node.inputs, strict=True) if v is not None)
    if node.op == "shape_of":
        carrier: Any = _ShapeCarrier(node.inputs[0].type.shape)  # type: ignore[union-attr,arg-type]
        contents, missing = (carrier,), False
    if missing or entry.reference is None:
        return None
    try:
        results = entry.reference(*contents, **node.attrs)
    except (dims.Undecided, SansuanError, TypeError, ValueError, ZeroDivisionError, IndexError):
        return None
    arrays = results if isinstance(results, tuple) else (results,)
    return tuple(_settle(np.asarray(a), v) for a, v in zip(arrays, node.outputs, strict=False))


class _ShapeCarrier:
    """Stands in for a tensor of which only the shape matters (operand of shape_of)."""

    def __init__(self, shape: tuple[Size, ...]) -> None:
        self.shape = shape


def _settle(array: np.ndarray, value: Value) -> np.ndarray:
    """An object array whose elements are all numbers becomes an array of the value's own dtype."""
    if array.dtype == object and not any(isinstance(x, Dim) for x in array.flat):
        assert isinstance(value.type, TensorType)
        return array.astype(value.type.dtype.numpy)
    return array


def _strip(inputs: Sequence[Value | None]) -> tuple[Value | None, ...]:
    kept = list(inputs)
    while kept and kept[-1] is None:
        kept.pop()
    return tuple(kept)


def _symbols_of(graph: Graph) -> set[str]:
    found: set[str] = set()
    for value in graph.values():
        if isinstance(value.type, TensorType) and value.type.shape is not None:
            for size in value.type.shape:
                if isinstance(size, Dim):
                    found |= size.names
    return found
