"""Bodies of control flow as programs of their own: lowered and compiled with the program around them, planned by the
shapes each round brings. Python decides which body runs and how often (the ops' references); the bodies are native.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.native.sizes import GuardBroken
from backends.reference.interpreter import ReferenceExecutable
from compiler.errors import DtypeError, ShapeError
from compiler.ir import Graph, Node
from compiler.kernels import KernelCall, Lowered
from compiler.passes.lower import lower
from compiler.passes.specialize import specialize
from compiler.pipeline import optimize
from compiler.types import TensorType

if TYPE_CHECKING:
    from backends.native.executable import Executable

Build = Callable[[Lowered], "Executable"]
Shapes = tuple[tuple[int, ...], ...]
SPECIALIZED = 8  # programs kept for shapes that break a guard of the general one
IN_NUMPY = "runs in NumPy: nothing in it has a kernel"


class SubProgram:
    """A body: called with a list of values, it answers with a tuple of values, which may share memory with those it
    was given and which the caller must not write to. Several threads may call it."""

    def __init__(self, graph: Graph, build: Build) -> None:
        self._graph, self._build = graph, build
        self._general = _Version(graph, build)
        self._special: OrderedDict[Shapes, _Version] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Raises DtypeError or ShapeError where a value does not have the type of its input."""
        arrays = [self._operand(number, array) for number, array in enumerate(arrays)]
        shapes = tuple(array.shape if isinstance(array, np.ndarray) else () for array in arrays)
        if shapes not in self._special:
            try:
                return self._general.run(arrays)
            except GuardBroken as broken:
                place = str(broken)
        else:
            place = "control flow"
        try:
            return self._specialized(shapes).run(arrays)
        except GuardBroken as broken:
            raise ShapeError(f"{place}: {broken}, which shapes {list(map(list, shapes))} contradict") from broken

    def refresh(self, graph: Graph) -> None:
        """Take the constants of `graph`, this body with other values. Not while another thread runs the program."""
        self._graph = graph
        self._general.refresh(graph)
        with self._lock:
            self._special.clear()

    def programs(self) -> Iterator[Executable]:
        """The compiled programs behind this body, not those of bodies within it."""
        with self._lock:
            versions = [self._general, *self._special.values()]
        for version in versions:
            if version.executable is not None:
                yield version.executable

    @property
    def note(self) -> str:
        """What the ledger should say of a body that no kernel serves, else ''."""
        return IN_NUMPY if self._general.interpreter is not None else ""

    def _operand(self, number: int, array: Any) -> Any:
        """A value as native code reads it; containers as they are."""
        value = self._graph.inputs[number]
        if not isinstance(value.type, TensorType) or array is None:
            return array
        array = np.asarray(array)
        if array.dtype != value.type.dtype.numpy:
            raise DtypeError(f"body input {value.name}: found {array.dtype}, expected {value.type}")
        return dense(array)

    def _specialized(self, shapes: Shapes) -> _Version:
        with self._lock:
            found = self._special.get(shapes)
            if found is None:
                found = self._special[shapes] = _Version(specialize(self._graph, shapes), self._build)
            self._special.move_to_end(shapes)
            while len(self._special) > SPECIALIZED:
                self._special.popitem(last=False)
            return found


class _Version:
    """A body compiled for one set of types. What it hands on unchanged, an input or a constant, is never copied."""

    def __init__(self, graph: Graph, build: Build) -> None:
        self.executable: Executable | None = None
        self.interpreter: ReferenceExecutable | None = None
        graph = self._take(graph)
        if not graph.outputs:
            return
        lowered = lower(graph)
        native = any(isinstance(call, KernelCall) or bodies_of(call.node) for call in lowered.calls)
        if native or lowered.guards:
            self.executable = build(lowered)
        else:
            self.interpreter = ReferenceExecutable(graph)

    def refresh(self, graph: Graph) -> None:
        """Take other constants."""
        graph = self._take(graph)
        if self.executable is not None:
            lowered = lower(graph)
            self.executable.refresh(lowered.weights, lowered.calls)
        elif self.interpreter is not None:
            self.interpreter = ReferenceExecutable(graph)

    def _take(self, graph: Graph) -> Graph:
        """Note what is handed on; answer with the optimized graph of what has to be computed."""
        graph = optimize(graph)
        inputs = {value.name: number for number, value in enumerate(graph.inputs)}
        made = {v.name: v for v in graph.outputs if v.name not in inputs and v.name not in graph.constants}
        computed = {name: number for number, name in enumerate(made)}
        # A view, so that who keeps a result sees that the memory is somebody else's.
        self._constants = {v.name: graph.constants[v.name][...] for v in graph.outputs if v.name in graph.constants}
        self._picks: list[tuple[str, Any]] = [
            ("input", inputs[value.name])
            if value.name in inputs
            else ("result", computed[value.name])
            if value.name in computed
            else ("constant", value.name)
            for value in graph.outputs
        ]
        return replace(graph, outputs=tuple(made.values()), output_names=())

    def run(self, arrays: Sequence[Any]) -> tuple[Any, ...]:
        """Raises GuardBroken for shapes this version does not serve."""
        results: Sequence[Any] = ()
        if self.executable is not None:
            results = self.executable.run(arrays)
        elif self.interpreter is not None:
            results = self.interpreter.run(arrays)
        sources: Mapping[str, Any] = {"input": arrays, "result": results, "constant": self._constants}
        return tuple(sources[source][key] for source, key in self._picks)


def bodies_of(node: Node) -> list[Graph]:
    """The bodies among a node's attributes."""
    return [item for item in node.attrs.values() if isinstance(item, Graph)]


def dense(array: Any) -> Any:
    """An array as native code reads it: itself if row-major and aligned, else a copy. Anything else as it is."""
    if not isinstance(array, np.ndarray) or (array.flags.c_contiguous and array.flags.aligned):
        return array
    return np.array(array, order="C")
