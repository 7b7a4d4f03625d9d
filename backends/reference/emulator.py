"""Lowered programs in NumPy: the whole program as the native backend would run it, kernel call by kernel call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from backends.native.sizes import bind, check_guards, concrete
from backends.reference.kernels import run_call
from compiler import dims
from compiler.dims import Dim
from compiler.evaluate import Mode
from compiler.ir import Node
from compiler.kernels import HostCall, KernelCall, Lowered, View
from compiler.op import lookup


class EmulatedExecutable:
    """Runs a lowered program in NumPy. mode "emulate" gives the native backend's bits, "truth" rounds once a call."""

    def __init__(self, lowered: Lowered, mode: Mode = "emulate") -> None:
        self.lowered = lowered
        self.mode = mode

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs for inputs in order. Raises ShapeError or GuardBroken as the native executable does."""
        return _Run(self.lowered, self.mode, arrays).outputs()


class _Run:
    """One run: named sizes as they become known, and one flat array a buffer."""

    def __init__(self, lowered: Lowered, mode: Mode, arrays: Sequence[np.ndarray]) -> None:
        self.lowered, self.mode = lowered, mode
        self.sizes: dict[str, int] = {}
        self.memory: dict[str, Any] = {}
        self.late: dict[str, np.ndarray] = {}
        self.pending = list(lowered.late)
        for value, array in zip(lowered.inputs, arrays, strict=True):
            bind(array.shape, value.type, self.sizes, f"input {value.name!r}")
            self.memory[value.name] = np.ascontiguousarray(array).reshape(-1)
        for name, array in lowered.weights.items():
            self.memory[name] = np.ascontiguousarray(array).reshape(-1)
        self._settle()
        check_guards(lowered.guards, self.sizes)
        for call in lowered.calls:
            if isinstance(call, HostCall):
                self._host(call)
                self._settle()
            else:
                self._kernel(call)

    def outputs(self) -> list[np.ndarray]:
        """The results, each a fresh array."""
        return [np.array(self._array(view)) for _, view in self.lowered.outputs]

    def _size(self, size: Any) -> int:
        return dims.evaluate(size, self.sizes)

    def _kernel(self, call: KernelCall) -> None:
        reads = [self._array(view) for view in call.reads]
        run_call(call, reads, [self._array(view) for view in call.writes], self._size, self.mode)

    def _host(self, call: HostCall) -> None:
        reads = [None if view is None else self._array(view) for view in call.reads]
        results = lookup(call.node.op).reference(*reads, **_concrete(call.node.attrs, self.sizes))  # type: ignore[misc]
        results = results if isinstance(results, tuple) else (results,)
        for value, name, result in zip(call.node.outputs, call.writes, results, strict=False):
            if name:
                result = np.ascontiguousarray(result)
                bind(result.shape, value.type, self.sizes, f"{call.node.place}: {name}")
                self.memory[name] = result.reshape(-1)

    def _settle(self) -> None:
        """Evaluate the late nodes whose sizes are known by now."""
        left: list[Node] = []
        for node in self.pending:
            operands = [self._late_operand(value) for value in node.inputs]
            if any(operand is None for operand in operands) or not self._known(node.attrs):
                left.append(node)
                continue
            results = lookup(node.op).reference(*operands, **_concrete(node.attrs, self.sizes))  # type: ignore[misc]
            for value, result in zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=False):
                bind(np.shape(result), value.type, self.sizes, node.place)
                if node.op != "result_shape":
                    self.late[value.name] = np.asarray(result)
        self.pending = left

    def _late_operand(self, value: Any) -> np.ndarray | None:
        if value is None:
            return None
        if value.name in self.late:
            return self.late[value.name]
        if value.name in self.lowered.weights:
            return self.lowered.weights[value.name]
        shape = value.type.shape
        if any(isinstance(s, Dim) and not s.names <= self.sizes.keys() for s in shape):
            return None
        return np.broadcast_to(np.zeros((), value.type.dtype.numpy), [self._size(s) for s in shape])

    def _known(self, attrs: Mapping[str, Any]) -> bool:
        sizes = [s for a in attrs.values() if isinstance(a, tuple) for s in a if isinstance(s, Dim)]
        return all(size.names <= self.sizes.keys() for size in sizes)

    def _array(self, view: View) -> np.ndarray:
        if view.buffer not in self.memory:
            self.memory[view.buffer] = self._new(view.buffer)
        base = self.memory[view.buffer]
        shape = [self._size(s) for s in view.shape]
        if 0 in shape:
            return np.zeros(shape, base.dtype)
        strides = [self._size(s) * base.itemsize for s in view.strides]
        return np.ndarray(shape, base.dtype, base, self._size(view.offset) * base.itemsize, strides)

    def _new(self, name: str) -> np.ndarray:
        buffer = self.lowered.buffers[name]
        if buffer.role == "sizes":
            contents = self.lowered.sizes[name]
            values = self.late[contents] if isinstance(contents, str) else [self._size(s) for s in contents]
            return np.array(values, buffer.dtype.numpy).reshape(-1)
        return np.empty(self._size(buffer.elements), buffer.dtype.numpy)


def _concrete(attrs: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Any]:
    return {key: concrete(value, sizes) for key, value in attrs.items()}
