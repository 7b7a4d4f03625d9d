"""A compiled model: binds inputs, runs, and says what ran."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from backends.native.executable import CallRow, Executable, Statistics
from backends.native.sizes import GuardBroken
from compiler.errors import ModelError, ShapeError
from compiler.ir import Graph
from compiler.kernels import HostCall, Lowered
from runtime.binding import in_order, spec_of, to_array, to_torch
from runtime.by_value import ByValue
from runtime.ledger import LedgerRow, Notes, ledger, table

SPECIALIZED = 16  # programs kept for sizes that break the general one's guards


class Runner(Protocol):
    """What runs: backends.native's Executable, or a reference executable."""

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Fresh outputs for inputs in order."""


class Structure(Protocol):
    """How a torch module nests its inputs and results; see compiler.frontends.torch.ImportedTorch."""

    @property
    def simple_inputs(self) -> bool:
        """Whether a call's positional arguments are the graph's inputs."""

    @property
    def result_kind(self) -> str:
        """One of "tensor" and "tuple" where the outputs need no `unflatten`, else "tree"."""

    def flatten(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
        """The graph's inputs in a call's arguments."""

    def present_state(self) -> list[Any]:
        """The last of the graph's inputs: buffers the module changes."""

    def write_back(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> None:
        """Store changed buffers and inputs."""

    def unflatten(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> Any:
        """The module's results from the graph's outputs."""


class Program:
    """A compiled model. `program(*inputs, **named)` takes NumPy arrays or torch tensors in the model's input order or
    by name; a torch model answers with torch tensors in the module's own structure, an ONNX model with a tuple of
    arrays.

    Inputs are read in place where they are C-contiguous and in native byte order, else copied; outputs are fresh
    memory. Raises DtypeError, ShapeError (wrong rank or size) or ModelError (missing, unknown or surplus inputs).
    Programs may be called from several threads.
    """

    __slots__ = (
        "__call__", "__weakref__", "_executable", "_fetch_weights", "_hint", "_imported", "_lock", "_notes", "_run",
        "_specialize", "_specialized", "_structure", "inputs", "outputs",
    )  # fmt: skip

    # A slot of this name makes Python call what the instance holds there, without a Python frame in between.
    __call__: Callable[..., Any]

    def __init__(
        self,
        graph: Graph,
        executable: Runner,
        notes: Notes,
        *,
        structure: Structure | None = None,
        specialize: Callable[[tuple[tuple[int, ...], ...]], Runner] | None = None,
        fetch_weights: Callable[[], Lowered] | None = None,
        hint: str = "",
        ranges: Mapping[str, tuple[int, int | None]] | None = None,
    ) -> None:
        """graph: the model as imported (its constants are not kept), its outputs of the types `executable` yields;
        notes: what the ledger adds; specialize(shapes): an executable for inputs of just these shapes,
        for calls that break a guard; fetch_weights(): the program with its present weights, for `refresh`; hint: what
        an error about a fixed size should advise; ranges: least and greatest of named sizes."""
        names = graph.output_names or tuple(value.name for value in graph.outputs)
        self.inputs = tuple(spec_of(value, value.name, graph.size_names, ranges) for value in graph.inputs)
        self.outputs = tuple(spec_of(v, name, graph.size_names) for v, name in zip(graph.outputs, names, strict=True))
        self._executable, self._structure, self._hint = executable, structure, hint
        self._imported, self._notes = graph.imported, notes
        self._specialize, self._fetch_weights = specialize, fetch_weights
        self._specialized: OrderedDict[tuple[tuple[int, ...], ...], Runner] = OrderedDict()
        self._lock = threading.Lock()
        native = executable.entry if isinstance(executable, Executable) else lambda fallback: fallback
        self._run = native(self._run_arrays)
        self.__call__ = native(self._call) if structure is None else self._call_torch

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name for inputs by name. Buffers that a torch module changes as it runs need not be given."""
        structure = self._structure
        if structure is None:
            results = self._arrays(in_order(self.inputs, (), inputs))
        else:
            state = structure.present_state()
            names = [spec.name for spec in self.inputs[len(self.inputs) - len(state) :]]
            values = in_order(self.inputs, (), {**dict(zip(names, state, strict=True)), **inputs})
            results = tuple(to_torch(result) for result in self._arrays(values))
            structure.write_back(results, values)
        return {spec.name: result for spec, result in zip(self.outputs, results, strict=True)}

    def bind(self, *args: Any, **named: Any) -> list[np.ndarray]:
        """The arrays that a call with these arguments would run on, in the order of `inputs`."""
        return self._checked(self._in_order(args, named))

    def results(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The outputs, as arrays in the order of `outputs`, for what `bind` answers; a torch module's own structure and
        state stay out of it."""
        return self._run(*arrays)

    def ledger(self) -> list[LedgerRow]:
        """What ran each node of the imported model; runs are counted since the program was compiled."""
        return ledger(self._imported, self._notes, self._calls())

    def explain(self) -> str:
        """The ledger as a table, then the plan: its kernels, memory and cuts."""
        lines = [table(self.ledger()), ""]
        statistics = self.statistics()
        if statistics is not None:
            weights, arena = statistics.weight_bytes / 2**20, statistics.arena_bytes / 2**20
            counts = f"{statistics.kernels} distinct kernels, {statistics.plans} plans"
            lines.append(f"{counts}, {weights:.1f} MiB of weights, {arena:.1f} MiB of arena")
        cuts = [row for row in self._calls() if isinstance(row.call, HostCall)]
        lines.append(f"cuts: {len(cuts) or 'none'}")
        for row in cuts:
            lines.append(f"  {row.where[0] if row.where else row.kernel}: {row.kernel} on the host: {row.reason}")
        return "\n".join(lines)

    def statistics(self) -> Statistics | None:
        """Kernels, plans and memory; None for a program that is not compiled to kernels."""
        runner = self._executable.general if isinstance(self._executable, ByValue) else self._executable
        return runner.statistics() if isinstance(runner, Executable) else None

    def refresh(self) -> None:
        """Take the module's present weights. Nothing is compiled, except that programs for sizes which break a guard
        are made anew when next called. Not while another thread runs the program.

        Raises ModelError for a model whose weights cannot change (an ONNX model).
        """
        if self._fetch_weights is None:
            raise ModelError("refresh: this model's weights are fixed; compile it again from the changed model")
        lowered = self._fetch_weights()
        if isinstance(self._executable, Executable):
            self._executable.refresh(lowered.weights, lowered.calls)
        self._specialized.clear()

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"Program({inputs} -> {outputs})"

    def _call(self, *args: Any, **named: Any) -> tuple[Any, ...]:
        return self._arrays(self._in_order(args, named))

    def _call_torch(self, *args: Any, **named: Any) -> Any:
        structure = self._structure
        assert structure is not None
        inputs = self._in_order(args, named)
        outputs = [to_torch(array) for array in self._arrays(inputs)]
        if structure.result_kind == "tensor":
            return outputs[0]
        return tuple(outputs) if structure.result_kind == "tuple" else structure.unflatten(outputs, inputs)

    def _in_order(self, args: Sequence[Any], named: Mapping[str, Any]) -> list[Any]:
        """A call's arguments, one for each input."""
        structure = self._structure
        if structure is None:
            return in_order(self.inputs, args, named)
        inputs = list(args) if structure.simple_inputs and not named else structure.flatten(args, named)
        return inputs if len(inputs) == len(self.inputs) else in_order(self.inputs, inputs, {})

    def _checked(self, values: Sequence[Any]) -> list[Any]:
        return [to_array(value, spec, self._hint) for value, spec in zip(values, self.inputs, strict=True)]

    def _arrays(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """Outputs as arrays for inputs in order."""
        return self._run(*self._checked(values))

    def _run_arrays(self, *arrays: Any) -> tuple[Any, ...]:
        try:
            return tuple(self._executable.run(arrays))
        except GuardBroken as broken:
            shapes = tuple(array.shape for array in arrays)
            special = self._special(shapes, broken)
        try:
            return tuple(special.run(arrays))
        except GuardBroken as broken:
            raise _contradicted(shapes, broken) from broken

    def _special(self, shapes: tuple[tuple[int, ...], ...], broken: GuardBroken) -> Runner:
        """The executable for inputs of these shapes, which the general one does not serve."""
        if self._specialize is None or broken.guard.asserted:
            raise _contradicted(shapes, broken) from broken
        with self._lock:
            found = self._specialized.get(shapes)
            if found is None:
                found = self._specialized[shapes] = self._specialize(shapes)
            self._specialized.move_to_end(shapes)
            while len(self._specialized) > SPECIALIZED:
                self._specialized.popitem(last=False)
            return found

    def _calls(self) -> list[CallRow]:
        runners = (self._executable, *self._specialized.values())
        return [row for runner in runners if isinstance(runner, Executable | ByValue) for row in runner.rows()]


def _contradicted(shapes: tuple[tuple[int, ...], ...], broken: GuardBroken) -> ShapeError:
    return ShapeError(f"{broken}, which the inputs, of shapes {list(map(list, shapes))}, contradict")
