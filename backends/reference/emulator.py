"""Lowered programs in NumPy: the whole program as the native backend would run it, kernel call by kernel call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from backends.native.late import Settling, call_reference
from backends.native.sizes import bind
from backends.reference.kernels import run_call
from compiler import dims
from compiler.evaluate import Mode
from compiler.kernels import HostCall, KernelCall, Lowered, View
from compiler.types import TensorType


class EmulatedExecutable:
    """Runs a lowered program in NumPy. mode "emulate" gives the native backend's bits, "truth" rounds once a call."""

    def __init__(self, lowered: Lowered, mode: Mode = "emulate") -> None:
        self.lowered = lowered
        self.mode = mode

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs in order. Raises ShapeError or GuardBroken as the native executable does."""
        run = _Run(self.lowered, self.mode)
        run.enter(arrays)
        for call in self.lowered.calls:
            if isinstance(call, HostCall):
                run.host(call)
            else:
                run.kernel(call)
        return [np.array(run.array(view)) for _, view in self.lowered.outputs]


class _Run:
    """One run: named sizes as they become known, and one flat array a buffer."""

    def __init__(self, lowered: Lowered, mode: Mode) -> None:
        self.lowered, self.mode = lowered, mode
        self.state = Settling(lowered.late, lowered.guards, lowered.weights)
        self.memory: dict[str, Any] = {}
        for name, array in lowered.weights.items():
            self.memory[name] = np.ascontiguousarray(array).reshape(-1)

    def enter(self, arrays: Sequence[np.ndarray]) -> None:
        """Bind the inputs."""
        for value, array in zip(self.lowered.inputs, arrays, strict=True):
            assert isinstance(value.type, TensorType)
            bind(array.shape, value.type, self.state.sizes, f"input {value.name!r}")
            self.memory[value.name] = np.ascontiguousarray(array).reshape(-1)
        self.state.settle()

    def kernel(self, call: KernelCall) -> None:
        """One kernel call."""
        reads = [self.array(view) for view in call.reads]
        run_call(call, reads, [self.array(view) for view in call.writes], self._size, self.mode)

    def host(self, call: HostCall) -> None:
        """One Host step."""
        operands = [None if view is None else self.array(view) for view in call.reads]
        results = call_reference(call.node, operands, self.state.sizes)
        for value, name, result in zip(call.node.outputs, call.writes, results, strict=False):
            if isinstance(value.type, TensorType):
                bind(result.shape, value.type, self.state.sizes, f"{call.node.place}: {name}")
            if name:
                self.memory[name] = np.ascontiguousarray(result).reshape(-1)
        self.state.settle()

    def array(self, view: View) -> np.ndarray:
        """The array a view stands for."""
        if view.buffer not in self.memory:
            self.memory[view.buffer] = self._new(view.buffer)
        base = self.memory[view.buffer]
        if base.dtype != object:
            base = base.view(view.dtype.numpy)  # a view may read bytes as another type, or in halves
        shape = [self._size(size) for size in view.shape]
        strides = [self._size(stride) * base.itemsize for stride in view.strides]
        offset = self._size(view.offset)
        if 0 in shape:  # may lie anywhere; its strides still say where the rows of an empty reduction go
            return np.lib.stride_tricks.as_strided(base[max(offset, 0) :], shape, strides)
        return np.ndarray(shape, base.dtype, base, offset * base.itemsize, strides)

    def _size(self, size: Any) -> int:
        return dims.evaluate(size, self.state.sizes)

    def _new(self, name: str) -> np.ndarray:
        buffer = self.lowered.buffers[name]
        if buffer.role != "sizes":
            return np.empty(self._size(buffer.elements), buffer.dtype.numpy)
        contents = self.lowered.sizes[name]
        late = isinstance(contents, str)
        values = self.state.results[contents] if late else [self._size(size) for size in contents]
        return np.array(values, buffer.dtype.numpy).reshape(-1)
