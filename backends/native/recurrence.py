"""Recurrent layers: every step of every row in one call.

A chunk is a few items, each a direction and a block of batch rows; rows are independent, so nothing is waited for
between steps. In an item the carried vectors stay in scratch. A step multiplies them with the phase's matrix (all
panels, few rows at a time: recurrence_product), then evaluates the phase's expressions (recurrence_cell). Sums are one
fma chain over ascending k whatever the block of rows, so neither batch nor threads show in the bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from llvmlite import ir

from backends.native import units
from backends.native.access import cost, kernel_name
from backends.native.kernel import Arguments
from backends.native.loops import CHUNK_NS, CHUNKS_PER_THREAD, byte_strides, rows_per_chunk
from backends.native.memory import align
from backends.native.recurrence_emission import RecurrenceEmission
from backends.native.recurrence_product import ProductShape, pack_matrix
from backends.native.target import Target
from compiler.dims import Size
from compiler.kernels import KernelCall, View
from compiler.recurrence import RecurrenceSpec

LEAST_ROWS = 2  # of an item that another thread takes: two take hardly longer than one, both wait for the matrix
HIGH = 24  # rows that keep the multiply-adds busy for longer than the matrix takes to arrive
MOST_ROWS = 64  # of an item: enough to use a matrix often, few enough for their sums to stay in L2
FLOPS_PER_NS = 4.0  # of a lane, to tell small calls from large ones


@dataclass(frozen=True)
class RecurrenceKernel:
    """The NativeKernel of a RecurrenceSpec."""

    spec: RecurrenceSpec
    shapes: tuple[ProductShape, ...]
    target: Target

    @cached_property
    def _choice(self) -> tuple[units.MatrixUnit, str]:
        dtype = self.spec.dtype
        return units.select(self.target, dtype, dtype, dtype)

    @property
    def name(self) -> str:
        """Equal for equal specs and products."""
        return kernel_name("recurrence", (self.spec, self.shapes, self._choice[0]), self.target)

    @property
    def unit(self) -> str:
        """The unit of the products."""
        return self._choice[0].name

    @property
    def reason(self) -> str:
        """Why not a better unit."""
        return self._choice[1]

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        RecurrenceEmission(self.spec, self.shapes, self._choice[0], module, self.name).emit()

    def packed_reads(self, call: KernelCall) -> tuple[int, ...]:
        """The matrices that are weights."""
        first = self._first_matrix
        return tuple(first + i for i, kind in enumerate(self.spec.matrices) if kind == "constant")

    def pack(self, call: KernelCall, read: int, array: np.ndarray) -> np.ndarray:
        """A matrix in panels of all gates."""
        unit = self._choice[0]
        panels = self.shapes[read - self._first_matrix].panels(unit, array.shape[-1])
        return pack_matrix(array, unit.n, panels)

    def pack_key(self, call: KernelCall, read: int) -> str:
        """The panel layout."""
        shape = self.shapes[read - self._first_matrix]
        return f"gates_{self.spec.dtype}_{self._choice[0].n}x{shape.group}"

    @property
    def _first_matrix(self) -> int:
        return 1 if self.spec.lengths is None else 2

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: items, items a chunk, blocks of rows, rows of a block, T, B, the directions that run backward as bits;
        operands, each followed by byte strides (x: T, D, B, block; lengths; a matrix: D, if it is packed in the call
        also K, gate and N; first values: D, B; parameters: D; y: T, D, B; last states: D, B); K, N and panels of each
        phase; scratch offsets of the lengths, of vectors (with bytes of a row), of sums (with bytes of a row and of a
        gate) and of matrices packed in the call."""
        spec, unit = self.spec, self._choice[0]
        steps, directions, batch = (size(extent) for extent in call.writes[0].shape[:3])
        at = self._first_matrix
        matrices = [[size(extent) for extent in view.shape] for view in call.reads[at : at + len(spec.phases)]]
        row_ns = steps * sum(k * g * n for _, k, g, n in matrices) / (unit.n * FLOPS_PER_NS)
        row_ns += 0.2 * steps * sum(m[3] / unit.n * cost(p.outputs) for m, p in zip(matrices, spec.phases, strict=True))
        rows = _block_rows(batch, directions, row_ns, threads)
        blocks = max(1, -(-batch // rows))
        items = directions * blocks if batch else 0
        per_chunk = rows_per_chunk(items, row_ns * rows, threads)
        backward = sum(size(flag) << d for d, flag in enumerate(call.params))
        panels = [shape.panels(unit, m[3]) for shape, m in zip(self.shapes, matrices, strict=True)]
        words: list[int | View] = [items, per_chunk, blocks, rows, steps, batch, backward]
        for read, (view, axes) in enumerate(zip((*call.reads, *call.writes), self._axes(), strict=True)):
            words.append(view)
            if read in self.packed_reads(call):  # in a layout of its own
                words.append(panels[read - at] * prod(matrices[read - at][1:3]) * unit.n * unit.b.bytes)
            else:
                words += byte_strides(view, axes, size)
        for m, count in zip(matrices, panels, strict=True):
            words += [m[1], m[3], count]
        scratch = _Scratch()
        words.append(scratch.take(8 * rows))
        widths = {t: m[3] for m, p in zip(matrices, spec.phases, strict=True) for t in p.targets}
        for number in range(spec.vectors):
            row = -(-widths[number] // unit.n) * unit.n * spec.dtype.bytes
            words += [scratch.take(rows * row), row]
        for m, count in zip(matrices, panels, strict=True):
            gate = count * unit.n * unit.acc.bytes
            words += [scratch.take(rows * m[2] * gate), m[2] * gate, gate]
        for kind, m, count in zip(spec.matrices, matrices, panels, strict=True):
            if kind != "constant":
                words.append(scratch.take(count * prod(m[1:3]) * unit.n * unit.b.bytes))
        return Arguments(tuple(words), max(1, -(-items // per_chunk)), scratch.bytes)

    def _axes(self) -> list[tuple[int, ...]]:
        """For each operand, the axes whose strides the kernel is told."""
        spec = self.spec
        return [
            (0, 1, 2, 3),
            *([(0,)] if spec.lengths is not None else []),
            *((0,) if kind == "constant" else (0, 1, 2, 3) for kind in spec.matrices),
            *((0, 1) for given in spec.initial if given),
            *[(0,)] * spec.parameters,
            (0, 1, 2),
            *[(0, 1)] * spec.states,
        ]


class _Scratch:
    """Hands out pieces of scratch, each on a cache line."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, size: int) -> int:
        """The offset of a new piece."""
        self.bytes, start = align(self.bytes + size), self.bytes
        return start


def _block_rows(batch: int, directions: int, row_ns: float, threads: int) -> int:
    """Rows of an item: as many items as threads while a call is worth sharing, and more where blocks stay high, since
    each streams the whole matrix."""
    worth = int(row_ns * batch * directions / CHUNK_NS)
    wanted = -(-min(threads, max(worth, 1)) // max(directions, 1))
    spare = min(wanted * CHUNKS_PER_THREAD, batch // HIGH) if threads > 1 else 1
    blocks = max(min(wanted, batch // LEAST_ROWS), spare, -(-batch // MOST_ROWS), 1)
    return max(1, -(-batch // blocks))


def select(call: KernelCall, target: Target) -> RecurrenceKernel:
    """The kernel for a RecurrenceSpec call. Raises DtypeError for types no unit multiplies."""
    spec = call.spec
    assert isinstance(spec, RecurrenceSpec)
    unit, _ = units.select(target, spec.dtype, spec.dtype, spec.dtype)
    first, batch = 1 if spec.lengths is None else 2, call.writes[0].shape[2]
    shapes = tuple(
        ProductShape.of(unit, phase.gates, call.reads[first + i].shape[3], batch, spec.matrices[i] == "constant")
        for i, phase in enumerate(spec.phases)
    )
    return RecurrenceKernel(spec, shapes, target)
