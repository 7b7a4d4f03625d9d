"""Fused elementwise kernels: every output expression evaluated over an n-d index space.

The last axis is vectorised, full vectors first, then one vector at a time under a mask; the other axes are walked by an
Odometer. A chunk is a range of flattened outer positions and a range of the last axis, so elements are independent
of the split. All loads of an iteration precede its stores: a write may alias a read of the same layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import (
    Operand,
    kernel_name,
    operand_words,
    read_operands,
    unroll,
    vector_lanes,
    vector_ns,
)
from backends.native.emitter import ExprEmitter
from backends.native.hoist import Hoisted
from backends.native.kernel import I64, ArgumentReader, Arguments, VectorKernel, declare_kernel
from backends.native.loops import (
    Odometer,
    byte_strides,
    counted_loop,
    product,
    round_down,
    row_pieces,
    rows_per_chunk,
    smaller,
)
from backends.native.target import Target
from backends.native.vectors import index_vector, tail_mask
from compiler.dims import Size
from compiler.expr import Expr
from compiler.kernels import BROADCAST, GENERAL, KernelCall, MapSpec

# Columns a chunk of a transposing map covers: a whole cache line of every strided operand is used before it leaves L1.
TRANSPOSING_BLOCK = 64
SHORTEST_CHUNK = 4096  # elements of a transposing map
SHORTEST_PIECE = 1024  # elements; the last axis is not split finer
GRAIN = 64  # elements; pieces are whole numbers of it


@dataclass(frozen=True)
class MapKernel(VectorKernel):
    """The NativeKernel of a MapSpec."""

    spec: MapSpec

    @property
    def lanes(self) -> int:
        """Elements a vector holds; rank 0 is computed in scalars."""
        spec = self.spec
        dtypes = (*spec.inputs, *(root.dtype for root in spec.outputs))
        return vector_lanes(spec.outputs, dtypes, self.target) if spec.rank else 1

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        _MapEmission(self, module).emit()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: operands, last extent, its chunks and their length, rows, rows a chunk, outer extents, strides."""
        spec, views = self.spec, (*call.reads, *call.writes)
        extents = [size(extent) for extent in call.writes[0].shape]
        inner = extents[-1] if extents else 1
        rows = product(extents[:-1])
        row_ns = inner / self.lanes * vector_ns(spec.outputs, len(views))
        pieces, piece = self._pieces(inner, rows, row_ns, threads)
        per_chunk = rows_per_chunk(rows, row_ns / pieces, -(-threads // pieces))
        classes = (*spec.in_classes, *spec.out_classes)
        words = operand_words(views, classes, size)
        words += [inner, pieces, piece, rows, per_chunk, *extents[:-1]]
        for view in views:
            words += byte_strides(view, range(spec.rank - 1), size)
        return Arguments(tuple(words), max(1, pieces * -(-rows // per_chunk)))

    def _pieces(self, inner: int, rows: int, row_ns: float, threads: int) -> tuple[int, int]:
        # How many pieces the last axis is cut into, and their length.
        if GENERAL in (*self.spec.in_classes, *self.spec.out_classes) and rows > 1 and inner > TRANSPOSING_BLOCK:
            least = -(-SHORTEST_CHUNK // rows)
            piece = -(-max(least, TRANSPOSING_BLOCK) // TRANSPOSING_BLOCK) * TRANSPOSING_BLOCK
            return -(-inner // piece), piece
        return row_pieces(inner, rows, row_ns, threads, SHORTEST_PIECE, GRAIN)


class _MapEmission:
    """The state of emitting one map."""

    def __init__(self, kernel: MapKernel, module: ir.Module) -> None:
        self.spec, self.lanes = kernel.spec, kernel.lanes
        function = declare_kernel(module, kernel.name)
        self.chunk = function.args[2]
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.reader = ArgumentReader(self.builder, function)

    def emit(self) -> None:
        spec, builder, reader = self.spec, self.builder, self.reader
        operands = read_operands(
            reader,
            (*spec.inputs, *(root.dtype for root in spec.outputs)),
            (*spec.in_classes, *spec.out_classes),
        )
        self.reads, self.writes = operands[: len(spec.inputs)], operands[len(spec.inputs) :]
        inner, pieces, piece, rows, per_chunk = (reader.integer() for _ in range(5))
        outer = max(spec.rank - 1, 0)
        extents = [reader.integer() for _ in range(outer)]
        strides = [[reader.integer() for _ in range(outer)] for _ in operands]
        odometer = Odometer(builder, extents, strides)

        start = builder.mul(builder.urem(self.chunk, pieces), piece)
        stop = smaller(builder, builder.add(start, piece), inner)
        first = builder.mul(builder.udiv(self.chunk, pieces), per_chunk)
        last = smaller(builder, builder.add(first, per_chunk), rows)

        def row(_: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
            self._row(odometer.indices(state), odometer.offsets(state), start, stop)
            return odometer.next(state)

        counted_loop(builder, first, last, I64(1), odometer.at(first), row)
        builder.ret_void()

    def _row(self, indices: list[ir.Value], offsets: list[ir.Value], start: ir.Value, stop: ir.Value) -> None:
        builder, lanes = self.builder, self.lanes
        hoisted = Hoisted(self.spec.outputs, self._same_in_a_row)

        def leaf(node: Expr, i: ir.Value, width: int, mask: ir.Value | None) -> ir.Value:
            if node.op == "arg" and node.value in repeated:
                return repeated[node.value]
            if node.op == "arg":
                return self.reads[node.value].load(builder, offsets[node.value], i, width, mask)
            assert node.op == "index", f"a map has no {node.op}"
            return indices[node.value] if node.value < len(indices) else index_vector(builder, i, width)

        def values(i: ir.Value, mask: ir.Value | None) -> list[ir.Value]:
            emitter = ExprEmitter(builder, lanes, lambda node: leaf(node, i, lanes, mask))
            return [emitter.emit(root) for root in hoisted.roots]

        repeated: dict[int, ir.Value] = {}
        repeated = hoisted.emit(builder, lanes, lambda node: leaf(node, I64(0), 1, None))
        block = lanes * unroll(hoisted.roots)
        full = builder.add(start, round_down(builder, builder.sub(stop, start), block))

        def several(i: ir.Value, _: list[ir.Value]) -> Sequence[ir.Value]:
            at = [builder.add(i, I64(step)) for step in range(0, block, lanes)]
            for position, results in zip(at, [values(position, None) for position in at], strict=True):
                self._store(results, position, None, offsets)
            return ()

        def masked(i: ir.Value, _: list[ir.Value]) -> Sequence[ir.Value]:
            mask = tail_mask(builder, builder.sub(stop, i), lanes)
            self._store(values(i, mask), i, mask, offsets)
            return ()

        counted_loop(builder, start, full, I64(block), (), several)
        if block > 1:
            counted_loop(builder, full, stop, I64(lanes), (), masked)

    def _same_in_a_row(self, leaf: Expr) -> bool:
        if leaf.op == "index":
            return leaf.value < self.spec.rank - 1
        return leaf.op == "arg" and self.spec.in_classes[leaf.value] == BROADCAST

    def _store(self, values: list[ir.Value], i: ir.Value, mask: ir.Value | None, offsets: list[ir.Value]) -> None:
        write: Operand
        for write, value, offset in zip(self.writes, values, offsets[len(self.reads) :], strict=True):
            write.store(self.builder, value, offset, i, mask)


def select(call: KernelCall, target: Target) -> MapKernel:
    """The kernel for a MapSpec call."""
    assert isinstance(call.spec, MapSpec)
    return MapKernel(call.spec, target, kernel_name("map", call.spec, target))
