"""Programs with Host steps: a run alternates between planning as far as the sizes are known, walking that segment
natively, and taking the next Host step in NumPy, whose results' shapes bind the sizes that follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.native.late import Settling, call_reference
from backends.native.memory import window
from backends.native.plan import Plan, Segment
from backends.native.sizes import bind
from backends.native.subprograms import Build, SubProgram, bodies_of, dense
from compiler import dims
from compiler.ir import Graph, Value
from compiler.kernels import HostCall, KernelCall, Lowered, View
from compiler.types import TensorType

if TYPE_CHECKING:
    from backends.native.executable import Executable


class CutProgram:
    """The static side of such a program. `run` is as Executable.run. build: makes the programs of bodies."""

    def __init__(self, executable: Executable, lowered: Lowered, build: Build) -> None:
        self.executable, self.prepared = executable, executable.prepared
        self.inputs, self.outputs = lowered.inputs, lowered.outputs
        self.buffers, self.contents = lowered.buffers, lowered.sizes
        self.late, self.guards = lowered.late, lowered.guards
        self._bodies: dict[HostCall, dict[Graph, SubProgram]] = {
            call: {graph: SubProgram(graph, build) for graph in graphs}
            for call in lowered.calls
            if isinstance(call, HostCall) and (graphs := bodies_of(call.node))
        }

    def bodies(self, call: HostCall) -> dict[Graph, SubProgram]:
        """The bodies of a Host call, none for most."""
        return self._bodies.get(call, {})

    def refresh(self, calls: Sequence[KernelCall | HostCall]) -> None:
        """Give every body the constants it has in `calls`, this program's calls as they are now."""
        renewed = [call for call in calls if isinstance(call, HostCall) and bodies_of(call.node)]
        for bodies, call in zip(self._bodies.values(), renewed, strict=True):
            for body, graph in zip(bodies.values(), bodies_of(call.node), strict=True):
                body.refresh(graph)

    def body_programs(self) -> Iterator[Executable]:
        """Every compiled program of a body, bodies within bodies included."""
        for bodies in self._bodies.values():
            for body in bodies.values():
                for program in body.programs():
                    yield program
                    if program.cuts is not None:
                        yield from program.cuts.body_programs()

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run on inputs in order."""
        run = _Run(self)
        run.bind_inputs(arrays)
        for number, piece in enumerate(self.prepared.pieces):
            run.settling.settle()
            if isinstance(piece, HostCall):
                run.host(piece)
            else:
                run.segment(number, piece)
        run.settling.settle()
        return run.outputs()


class _Run:
    """One run: sizes bound so far, and the contents of every buffer that lives across a cut, as arrays."""

    def __init__(self, program: CutProgram) -> None:
        self.program, self.prepared = program, program.prepared
        self.settling = Settling(program.late, program.guards, program.prepared.weights.plain)
        self.values: dict[str, Any] = {}

    def bind_inputs(self, arrays: Sequence[Any]) -> None:
        """Take the inputs and the sizes their shapes decide."""
        for _ in range(2):  # an axis such as 2*n may come before the axis that decides n
            for value, array in zip(self.program.inputs, arrays, strict=True):
                self._bind(value, array, f"input {value.name!r}")
                self.values[value.name] = array

    def segment(self, number: int, segment: Segment) -> None:
        """Plan and walk native calls."""
        executable, sizes = self.program.executable, self.settling.sizes
        for planned in segment.calls:
            for view in planned.call.writes:
                if view.buffer in segment.slots:
                    self._allocated(view.buffer)
        late = segment.late_contents(self.settling.results)
        names = tuple(sizes[name] for name in segment.table.names)
        key = (number, names, tuple(array.tobytes() for array in late.values()))
        plan = executable.plans.get(key)
        if plan is None:
            plan = segment.plan(sizes, late)
            executable.plans.put(key, plan)
        assert isinstance(plan, Plan)
        executable.execute(plan, executable.slot_table([self._memory(name) for name in segment.slots]))

    def host(self, call: HostCall) -> None:
        """Run a node in NumPy, its bodies natively."""
        operands = [None if view is None else self._read(view) for view in call.reads]
        bodies = self.program.bodies(call)
        if bodies:  # once, not in each round
            operands = [dense(operand) for operand in operands]
        results = call_reference(call.node, operands, self.settling.sizes, bodies)
        self.prepared.counters[self.prepared.host_counters[call]] += 1
        for name, value, result in zip(call.writes, call.node.outputs, results, strict=False):
            self._bind(value, result, f"{call.node.place}: {call.node.op}")
            if name:
                self.values[name] = _own(result, operands)
                operands.append(self.values[name])

    def outputs(self) -> list[Any]:
        """Fresh arrays in output order: no two share memory, and none with an input."""
        inputs = {value.name for value in self.program.inputs}
        given: set[str] = set()
        results = []
        for _, view in self.program.outputs:
            found = self._read(view)
            if isinstance(found, np.ndarray):
                fresh = view.buffer in self.values and view.buffer not in inputs | given
                found = found if fresh and found.flags.c_contiguous else np.array(found, order="C")
                given.add(view.buffer)
            results.append(found)
        return results

    def _bind(self, value: Value, array: Any, place: str) -> None:
        if isinstance(value.type, TensorType) and isinstance(array, np.ndarray):
            bind(array.shape, value.type, self.settling.sizes, place)

    def _memory(self, name: str) -> np.ndarray:
        """What a slot points to; a buffer that other segments use, or a container, is nothing here."""
        found = self.values.get(name)
        return found if isinstance(found, np.ndarray) else np.empty(0, np.uint8)

    def _read(self, view: View) -> Any:
        """What a view shows, as an array (a container as it is)."""
        found = self._contents(view.buffer)
        if not isinstance(found, np.ndarray) or not self._has_layout(view):
            return found
        sizes = self.settling.sizes
        shape = tuple(dims.evaluate(size, sizes) for size in view.shape)
        strides = [dims.evaluate(stride, sizes) for stride in view.strides]
        return window(found, shape, strides, dims.evaluate(view.offset, sizes))

    def _allocated(self, name: str) -> np.ndarray:
        """A buffer that native code writes to."""
        if name not in self.values:
            buffer = self.program.buffers[name]
            elements = dims.evaluate(buffer.elements, self.settling.sizes)
            self.values[name] = np.empty(elements, buffer.dtype.numpy)
        return self.values[name]

    def _has_layout(self, view: View) -> bool:
        """Whether the rank was known while compiling: what is not known (no axes, no elements) is passed on whole."""
        return view.shape != () or self.program.buffers[view.buffer].elements != 0

    def _contents(self, name: str) -> Any:
        for home in (self.values, self.prepared.weights.plain, self.settling.results):
            if name in home:
                return home[name]
        if name not in self.program.contents:  # of no elements, so that no call writes it
            return self._allocated(name)
        contents = self.program.contents[name]
        if isinstance(contents, str):
            return self.settling.results[contents]
        numbers = [dims.evaluate(size, self.settling.sizes) for size in np.asarray(contents, object).flat]
        return np.array(numbers, self.program.buffers[name].dtype.numpy)


def _own(result: Any, operands: Sequence[Any]) -> Any:
    """A Host result as dense memory that is nobody else's."""
    if not isinstance(result, np.ndarray):
        return result
    arrays = [operand for operand in operands if isinstance(operand, np.ndarray)]
    shared = result.base is not None or any(np.may_share_memory(result, array) for array in arrays)
    return np.array(result, order="C") if shared or not result.flags.c_contiguous else result
