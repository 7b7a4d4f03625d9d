"""Lowering: core ops to kernel calls on strided views of buffers.

Layout is decided here and nowhere else: every value is a view, so transposes, slices and channels-last convolution
results cost nothing until a consumer needs another order; elementwise results follow the memory order of
their largest operand. What has no kernel becomes a HostCall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler import dims, dtypes, views
from compiler.dims import Size
from compiler.expr import Expr, arg, cast
from compiler.ir import Graph, Node, Value
from compiler.kernels import Buffer, HostCall, KernelCall, Lowered, MoveSpec, Spec, View
from compiler.lowering import late
from compiler.lowering.axes import collapse
from compiler.lowering.convolution import pack_groups
from compiler.lowering.hosts import host_reason, of_strings
from compiler.lowering.maps import emit_map
from compiler.op import lookup
from compiler.types import TensorType


def lower(graph: Graph) -> Lowered:
    """The lowered program of a graph of core and Host ops."""
    low = Lowering(graph)
    for node in graph.nodes:
        low.lower_node(node)
    return low.finish()


class Lowering:
    """The state of one lowering, and the vocabulary that `lower` functions of ops use."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.buffers: dict[str, Buffer] = {}
        self.views: dict[str, View] = {}
        self.weights: dict[str, np.ndarray] = {}
        self.size_contents: dict[str, Any] = {}
        self.calls: list[KernelCall | HostCall] = []
        self.late = late.LateValues(graph)
        self._results = {value.name for value in graph.outputs}
        self._remarks = dict(graph.remarks)
        self._copies: dict[tuple[View, tuple[int, ...]], View] = {}
        self._where: tuple[str, ...] = ()
        self.splits = 0  # what the node being lowered permits (kernels.GemmSpec)
        self._count = 0
        for value in graph.inputs:
            self._new_buffer(value.name, value.type, "input")

    def lower_node(self, node: Node) -> None:
        """One node: by its own lowering, while planning, or as a Host step."""
        self._where, self.splits = node.where, node.attrs.get("splits", 0)
        entry = lookup(node.op)
        before = len(self.late.nodes)
        claimed = self.late.claims(node)
        reason = entry.host_reason if entry.lower is None or claimed else host_reason(node, self.late)
        if len(self.late.nodes) > before:  # the plan reads its constants from the weights
            for operand in node.inputs:
                if operand is not None and operand.name in self.graph.constants:
                    self.view(operand)
        if claimed:
            for value in node.outputs:
                self.sizes(value, value.name)
            return
        if entry.lower is not None and reason in ("", late.FROM_DATA):
            if reason:
                self._sizes_from_data(node)
            entry.lower(node, self)
        else:
            self._host(node, reason or f"no kernel serves {node.op}")

    def remark(self, text: str) -> None:
        """Let the ledger say something about the node being lowered, beside what runs it."""
        for name in self._where[:1]:
            self._remarks[name] = "; ".join(filter(None, (self._remarks.get(name), text)))

    # Where values live.

    def view(self, value: Value) -> View:
        """Where a value lies. A constant becomes a weight buffer when first asked for."""
        if value.name not in self.views:
            self._new_weight(value.name, self.graph.constants[value.name])
        return self.views[value.name]

    def alias(self, value: Value, view: View) -> None:
        """Let a value be a view of what exists."""
        if value.name:
            self.views[value.name] = view

    def allocate(self, value: Any, order: Sequence[int] | None = None) -> View:
        """New dense memory for a value, axes in memory `order`; a graph output lies row-major."""
        order = None if value.name in self._results else order
        view = self.scratch_dense(value.type.dtype, value.type.shape, order, value.name)
        self.alias(value, view)
        return view

    def scratch_dense(
        self, dtype: dtypes.DType, shape: Sequence[Size], order: Sequence[int] | None = None, hint: str = ""
    ) -> View:
        """A new dense buffer that no value names."""
        name = hint if hint and hint not in self.buffers else self._unique(hint or "tmp")
        self.buffers[name] = Buffer(name, dtype, dims.product(shape), "temp")
        return views.dense(name, dtype, shape, order)

    def is_weight(self, view: View) -> bool:
        """Whether the view is of a constant."""
        return self.buffers[view.buffer].role == "weight"

    def sizes(self, value: Value, contents: Any) -> None:
        """Let a value be filled while planning: by sizes, or (a name) by the late value of that name."""
        if not value.name:
            return
        self._new_buffer(value.name, value.type, "sizes")
        self.size_contents[value.name] = contents

    def broadcast_shape(self, values: Sequence[Value]) -> tuple[Size, ...]:
        """The shape operands broadcast to; a number wins over a symbol guarded to equal it."""
        rank = max(len(v.type.shape) for v in values)
        result: list[Size] = [1] * rank
        for v in values:
            for axis, size in enumerate(v.type.shape, start=rank - len(v.type.shape)):
                if result[axis] == 1 or (isinstance(size, int) and size != 1):
                    result[axis] = size
        return tuple(result)

    def broadcast_view(self, value: Value, shape: Sequence[Size]) -> View:
        """A value's view broadcast to `shape`."""
        return views.broadcast(self.view(value), shape)

    def layout_of(self, values: Sequence[Value], shape: Sequence[Size]) -> tuple[int, ...]:
        """The memory order an elementwise result over `shape` should take: that of its largest operand."""
        best: tuple[int, tuple[int, ...]] = (0, tuple(range(len(shape))))
        for value in values:
            view = self.broadcast_view(value, shape)
            covered = sum(stride != 0 for stride in view.strides)
            if covered > best[0]:
                best = (covered, views.memory_order(view))
        return best[1]

    # Calls.

    def call(self, spec: Spec, reads: Sequence[View], writes: Sequence[View], params: Sequence[Size] = ()) -> None:
        """Append a kernel call."""
        self.calls.append(KernelCall(spec, tuple(reads), tuple(writes), tuple(params), self._where))

    def map(self, outputs: Sequence[Expr], reads: Sequence[View], writes: Sequence[View]) -> None:
        """Append a map call."""
        emit_map(self, outputs, reads, writes)

    def copy(self, source: View, target: View) -> None:
        """Append a copy between views of one shape."""
        if any(size == 0 for size in target.shape):
            return
        space = collapse([target, source], views.memory_order(target))
        spec = MoveSpec(
            "copy", source.dtype.bytes, len(space.extents), None, (space.inner_class(1),), (space.inner_class(0),)
        )
        self.call(spec, [space.view(1, source)], [space.view(0, target)])

    def dense(self, view: View) -> View:
        """The view itself if row-major and gapless, else a copy that is."""
        if views.is_dense(view):
            return view
        return self._copied(view, tuple(range(len(view.shape))))

    def with_unit_axis(self, view: View, axis: int) -> View:
        """The view itself if `axis` is contiguous, else a dense copy with that axis innermost."""
        if view.strides[axis] == 1 or view.shape[axis] == 1:
            return view
        axes = [a for a in range(len(view.shape)) if a != axis % len(view.shape)]
        return self._copied(view, (*axes, axis % len(view.shape)))

    def _copied(self, view: View, order: tuple[int, ...]) -> View:
        """A dense copy in memory `order`; a view is copied once for all who need it so."""
        copy = self._copies.get((view, order))
        if copy is None:
            copy = self._copies[view, order] = self.scratch_dense(view.dtype, view.shape, order)
            self.copy(view, copy)
        return copy

    def converted(self, view: View, dtype: dtypes.DType) -> View:
        """The same elements in another type: while compiling for a constant, else by a map."""
        if self.is_weight(view):
            name = f"{view.buffer}:{dtype}"
            if name not in self.buffers:
                self._new_weight(name, self.weights[view.buffer].astype(dtype.numpy))
            return replace(view, buffer=name, dtype=dtype)
        copy = self.scratch_dense(dtype, view.shape, views.memory_order(view))
        self.map((cast(arg(0, view.dtype), dtype),), [view], [copy])
        return copy

    def reshaped(self, view: View, shape: Sequence[Size]) -> View:
        """The same elements under another shape, copied where strides cannot express it."""
        found = views.reshape(view, shape)
        if found is None:
            found = views.reshape(self.dense(view), shape)
        assert found is not None, "a dense view takes any shape"
        return found

    def rearranged(self, value: Value, perm: Sequence[int], shape: Sequence[Size]) -> View:
        """A value transposed and reshaped in memory: while compiling for a constant, else by a copy."""
        view = self.view(value)
        if self.is_weight(view):
            name = f"{value.name}@{','.join(map(str, perm))}"
            if name not in self.views:
                array = np.transpose(self._weight_array(view), perm)
                self._new_weight(name, np.ascontiguousarray(array).reshape(shape))  # type: ignore[arg-type]
            return self.views[name]
        return self.reshaped(self.dense(views.transpose(view, perm)), shape)

    def rearranged_groups(self, value: Value, group: int) -> View:
        """Convolution weights as dense [group, kernel.., C/group, O/group]."""
        view = self.view(value)
        if self.is_weight(view):
            name = f"{value.name}@groups{group}"
            if name not in self.views:
                self._new_weight(name, pack_groups(self._weight_array(view), group))
            return self.views[name]
        rank = len(view.shape)
        shape = (group, view.shape[0] // group, *view.shape[1:])
        split = self.reshaped(view, shape)
        return self.dense(views.transpose(split, [0, *range(3, rank + 1), 2, 1]))

    def _host(self, node: Node, reason: str) -> None:
        reads = tuple(self.view(v) if v is not None else None for v in node.inputs)
        for value in node.outputs:
            if value.name:
                self._new_buffer(value.name, value.type, "temp")
        writes = tuple(value.name for value in node.outputs)
        self.calls.append(HostCall(node, reads, writes, reason, self._where))

    def _sizes_from_data(self, node: Node) -> None:
        """A Host step that only finds the sizes of a node's results."""
        reads = tuple(self.view(v) if v is not None else None for v in node.inputs)
        nowhere = ("",) * len(node.outputs)
        self.calls.append(HostCall(late.result_shape(node), reads, nowhere, late.FROM_DATA, self._where))

    # Buffers.

    def _new_buffer(self, name: str, type: Any, role: str) -> None:
        known = isinstance(type, TensorType) and type.shape is not None
        dtype = type.dtype if isinstance(type, TensorType) else dtypes.string
        shape = type.shape if known else ()
        self.buffers[name] = Buffer(name, dtype, dims.product(shape) if known else 0, role)
        self.views[name] = views.dense(name, dtype, shape)

    def _new_weight(self, name: str, array: np.ndarray) -> None:
        self.weights[name] = array
        self._new_buffer(name, TensorType(dtypes.from_numpy(array.dtype), array.shape), "weight")

    def _weight_array(self, view: View) -> np.ndarray:
        """The contents of a weight view."""
        base = np.ascontiguousarray(self.weights[view.buffer]).reshape(-1)
        assert isinstance(view.offset, int) and dims.is_static(view.shape)
        strides = [stride * base.itemsize for stride in view.strides]  # type: ignore[operator]
        return np.lib.stride_tricks.as_strided(base[view.offset :], view.shape, strides)  # type: ignore[arg-type]

    def _unique(self, hint: str) -> str:
        self._count += 1
        name = f"{hint}.{self._count}"
        return name if name not in self.buffers else self._unique(hint)

    def finish(self) -> Lowered:
        """Results get dense output buffers of their own; a temp that is one already is promoted."""
        outputs = []
        taken: set[str] = set()
        for value in self.graph.outputs:
            view = self.view(value)
            if not isinstance(value.type, TensorType) or value.type.shape is None or of_strings(value):
                outputs.append((value, view))  # not of a kernel: the run gives out what is there
                continue
            buffer = self.buffers[view.buffer]
            own = buffer.role == "temp" and view.buffer not in taken and view.offset == 0
            if not (own and view.dtype == buffer.dtype and views.is_dense(view) and _covers(view, buffer)):
                self._where = ()
                copy = self.scratch_dense(view.dtype, view.shape)
                self.copy(view, copy)
                view = copy
            taken.add(view.buffer)
            self.buffers[view.buffer] = replace(self.buffers[view.buffer], role="output")
            outputs.append((value, view))
        graph = self.graph
        return Lowered(
            inputs=graph.inputs,
            outputs=tuple(outputs),
            buffers=self.buffers,
            weights=self.weights,
            sizes=self.size_contents,
            calls=tuple(self.calls),
            late=tuple(self.late.nodes),
            guards=graph.guards,
            imported=graph.imported,
            notes=graph.notes,
            remarks=self._remarks,
        )


def _covers(view: View, buffer: Buffer) -> bool:
    return dims.product(view.shape) == buffer.elements
