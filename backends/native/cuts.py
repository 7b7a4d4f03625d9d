"""Programs whose sizes the input shapes do not decide: Host steps, and integer chains evaluated while planning.

A run alternates between planning as far as the sizes are known, walking that segment natively, and taking the next
Host step in NumPy; the shapes of what a Host step or a late node yields bind the sizes that follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from backends.native.plan import Plan, Segment
from backends.native.sizes import bind, concrete, names_of
from compiler import dims
from compiler.dims import Dim
from compiler.ir import Guard, Node
from compiler.kernels import HostCall, Lowered, View
from compiler.op import lookup
from compiler.types import TensorType, ValueType

if TYPE_CHECKING:
    from backends.native.executable import Executable


class CutProgram:
    """The static side: pieces in order, late nodes, guards. `run` is as Executable.run."""

    def __init__(self, executable: Executable, lowered: Lowered) -> None:
        self.executable, self.prepared = executable, executable.prepared
        self.inputs, self.outputs = lowered.inputs, lowered.outputs
        self.buffers, self.late, self.guards = lowered.buffers, lowered.late, lowered.guards
        self.contents = lowered.sizes

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run on inputs in order."""
        return _Run(self, arrays).outputs()


class _Run:
    """One run: the sizes bound so far, and the contents of every buffer that lives across a cut, as flat arrays."""

    def __init__(self, program: CutProgram, arrays: Sequence[Any]) -> None:
        self.program = program
        self.sizes: dict[str, int] = {}
        self.values: dict[str, Any] = {}
        self.late: dict[str, np.ndarray] = {}
        self.pending_late: list[Node] = list(program.late)
        self.pending_guards: list[Guard] = list(program.guards)
        for _ in range(2):  # an axis such as 2*n may come before the axis that decides n
            for value, array in zip(program.inputs, arrays, strict=True):
                self._bind(value.type, array, f"input {value.name!r}")
                self.values[value.name] = array
        for number, piece in enumerate(program.prepared.pieces):
            self._settle()
            if isinstance(piece, HostCall):
                self._host(piece)
            else:
                self._segment(number, piece)
        self._settle()

    def outputs(self) -> list[Any]:
        """Fresh arrays, in output order."""
        taken: set[int] = set()
        results = []
        for value, view in self.program.outputs:
            found = self._read(view)
            if isinstance(found, np.ndarray):
                owner = self.values.get(view.buffer)
                private = self.program.buffers[view.buffer].role == "output" and id(owner) not in taken
                taken.add(id(owner))
                found = found if private and found.flags.c_contiguous else np.array(found, order="C")
                assert isinstance(value.type, TensorType)
            results.append(found)
        return results

    def _bind(self, type: ValueType, value: Any, place: str) -> None:
        if isinstance(type, TensorType) and isinstance(value, np.ndarray):
            bind(value.shape, type, self.sizes, place)

    def _settle(self) -> None:
        """Evaluate the late nodes that can be, and check the guards whose sizes are known."""
        progress = True
        while progress:
            waiting = [node for node in self.pending_late if not self._evaluate(node)]
            progress = len(waiting) < len(self.pending_late)
            self.pending_late = waiting
        known = self.sizes.keys()
        ready = [guard for guard in self.pending_guards if names_of((guard.left, guard.right)) <= known]
        self.pending_guards = [guard for guard in self.pending_guards if guard not in ready]
        from backends.native.sizes import check_guards

        check_guards(ready, self.sizes)

    def _evaluate(self, node: Node) -> bool:
        operands = [None if value is None else self._known(value.name) for value in node.inputs]
        unknown = any(o is None for o, value in zip(operands, node.inputs, strict=True) if value is not None)
        if unknown or not _names_in(node.attrs) <= self.sizes.keys():
            return False
        for value, array in zip(node.outputs, self._reference(node, operands), strict=False):
            if value.name:
                self.late[value.name] = array
                self._bind(value.type, array, f"{node.place}: {node.op}")
        return True

    def _known(self, name: str) -> Any:
        """The contents of a small value a late node reads: a late result, an input, a Host result, a weight."""
        for home in (self.late, self.values, self.program.prepared.weights.plain):
            if name in home:
                return home[name]
        return None

    def _reference(self, node: Node, operands: Sequence[Any]) -> Sequence[Any]:
        attrs = {key: concrete(value, self.sizes) for key, value in node.attrs.items()}
        reference = lookup(node.op).reference
        assert reference is not None, f"{node.place}: op {node.op} has no reference"
        results = reference(*operands, **attrs)
        results = results if isinstance(results, tuple) else (results,)
        return [self._as_declared(result, v.type) for result, v in zip(results, node.outputs, strict=False)]

    def _as_declared(self, result: Any, type: ValueType) -> Any:
        return np.asarray(result, type.dtype.numpy, order="C") if isinstance(type, TensorType) else result

    def _segment(self, number: int, segment: Segment) -> None:
        executable = self.program.executable
        for planned in segment.calls:
            for view in planned.call.writes:
                if view.buffer in segment.slots and view.buffer not in self.values:
                    buffer = self.program.buffers[view.buffer]
                    self.values[view.buffer] = np.empty(dims.evaluate(buffer.elements, self.sizes), buffer.dtype.numpy)
        late = {name: self.late[name] for name in segment.filled if name in self.late}
        names = segment.table.names
        key = (number, tuple(self.sizes[n] for n in names), tuple(array.tobytes() for array in late.values()))
        plan = executable.plans.get(key)
        if plan is None:
            plan = segment.plan(self.sizes, late)
            executable.plans.put(key, plan)
        assert isinstance(plan, Plan)
        nothing = np.empty(0, np.uint8)
        executable.execute(plan, executable.slot_table([self.values.get(name, nothing) for name in segment.slots]))

    def _host(self, call: HostCall) -> None:
        operands = [None if view is None else self._read(view) for view in call.reads]
        results = self._reference(call.node, operands)
        self.program.prepared.counters[self.program.prepared.host_counters[call]] += 1
        for name, value, result in zip(call.writes, call.node.outputs, results, strict=False):
            self._bind(value.type, result, f"{call.node.place}: {call.node.op}")
            if name:
                shared = (
                    any(operand is not None and np.may_share_memory(operand, result) for operand in operands)
                    if (isinstance(result, np.ndarray))
                    else False
                )
                self.values[name] = np.array(result) if shared else result

    def _read(self, view: View) -> Any:
        """What a view shows, as an array (a container as it is)."""
        found = self._contents(view.buffer)
        if not isinstance(found, np.ndarray):
            return found
        shape = tuple(dims.evaluate(size, self.sizes) for size in view.shape)
        strides = [dims.evaluate(stride, self.sizes) * found.itemsize for stride in view.strides]
        flat = found.reshape(-1)[dims.evaluate(view.offset, self.sizes) :]
        return np.lib.stride_tricks.as_strided(flat, shape, strides)

    def _contents(self, name: str) -> Any:
        found = self._known(name)
        if found is None:
            contents = np.asarray(self.program.contents[name], object)
            numbers = [dims.evaluate(size, self.sizes) for size in contents.flat]
            found = np.array(numbers, self.program.buffers[name].dtype.numpy)
        return found


def _names_in(value: Any) -> frozenset[str]:
    """Every size name an attribute mentions."""
    if isinstance(value, Dim):
        return value.names
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, np.ndarray):
        value = tuple(value.flat) if value.dtype == object else ()
    return frozenset().union(*map(_names_in, value)) if isinstance(value, tuple) else frozenset()
