"""Fused attention: softmax(score(q k^T)) v without the scores ever leaving the cache.

For one matrix of the batch K is packed transposed and V as it is (a few queries read V in place), then blocks of query
rows go through three steps in scratch: dot products, a softmax row by row, and the weighted sum of V. The order of
arithmetic (the reference's emulate mode reproduces it): dots are one fma chain over ascending head elements; the row's
maximum is subtracted (0 if that is -inf); exp; the sum in canonical order; the weighted sum is one fma chain over
ascending keys; the division by the sum comes last; the spec says which rows give zeros. Keys a causal score cannot
reach from a group of queries are left out (where V is finite they add nothing). A chunk is a range of (matrix, segment
of query rows).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from llvmlite import ir

from backends.native import units
from backends.native.access import cost, kernel_name, operand_words
from backends.native.attention_emission import AttentionEmission, Shape
from backends.native.causal import GROUP, reach
from backends.native.kernel import Arguments, UnpackedReads
from backends.native.loops import CHUNKS_PER_THREAD, byte_strides, product, rows_per_chunk
from backends.native.target import Target
from compiler.canonical import LANES
from compiler.dims import Size
from compiler.kernels import AttentionSpec, KernelCall

ALIGNMENT = 64
EXP_NS = 3.0  # about, for a vector of weights


@dataclass(frozen=True)
class AttentionKernel(UnpackedReads):
    """The NativeKernel of an AttentionSpec."""

    spec: AttentionSpec
    target: Target
    name: str

    @cached_property
    def _choice(self) -> tuple[units.MatrixUnit, str]:
        return units.select(self.target, self.spec.dtype, self.spec.dtype, self.spec.acc)

    @property
    def unit(self) -> str:
        """The unit of both products."""
        return self._choice[0].name

    @property
    def reason(self) -> str:
        """Why not a better unit."""
        return self._choice[1]

    @cached_property
    def shape(self) -> Shape:
        """Rows, panel width and block of the products."""
        unit = self._choice[0]
        fitting = [grid for grid in unit.grids if LANES % (grid.columns * unit.n) == 0] or unit.grids[-1:]
        return Shape(unit, fitting[0].rows * unit.m, fitting[0].columns, reach(self.spec.score))

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        AttentionEmission(self.spec, self.shape, module, self.name).emit()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: operands (q, k, v, score operands, result); items, items a chunk, segments of a matrix and their rows,
        rows of a block; L, S, E, Ev; byte strides of q, k and v rows; score operands' and result's row strides;
        scratch offsets of V, scores, sums and tile; bytes of a score row; whether V is packed; batch extents; byte
        strides on them."""
        spec, shape = self.spec, self.shape
        views = (*call.reads, *call.writes)
        queries, head = (size(extent) for extent in call.reads[0].shape[-2:])
        keys, values = (size(extent) for extent in call.reads[2].shape[-2:])
        batch = [size(extent) for extent in call.writes[0].shape[:-2]]
        matrices = product(batch)

        wanted = -(-threads * CHUNKS_PER_THREAD // max(matrices, 1)) if threads > 1 else 1
        # Shorter segments than a group of queries would not pay for packing K and V again.
        segment_rows = max(1, -(-queries // (wanted * GROUP))) * GROUP
        segments = max(1, -(-queries // segment_rows))
        items = matrices * segments
        per_chunk = rows_per_chunk(items, self._item_ns(min(segment_rows, queries), keys, head + values), threads)

        score_row = max(-(-keys // step) * step for step in (LANES, shape.width)) * spec.acc.bytes
        block_rows = GROUP
        while block_rows > shape.rows and block_rows * score_row > self.target.l2 // 4:
            block_rows //= 2
        tile_rows = -(-block_rows // shape.rows) * shape.rows
        # A few queries read V once or twice: not worth packing, unless its last panel would be read beyond its end.
        v_packed = queries > shape.rows or values % shape.width != 0
        sizes = [
            -(-keys // shape.width) * shape.width * head * spec.dtype.bytes,
            -(-values // shape.width) * shape.width * keys * spec.dtype.bytes if v_packed else 0,
            tile_rows * score_row,
            block_rows * spec.acc.bytes,
            shape.rows * shape.width * spec.acc.bytes,
        ]
        offsets = [0]
        for part in sizes:
            offsets.append(offsets[-1] + -(-part // ALIGNMENT) * ALIGNMENT)

        words = operand_words(views, ("unit",) * 3 + spec.score_classes + ("unit",), size)
        words += [items, per_chunk, segments, segment_rows, block_rows, queries, keys, head, values]
        words += [size(view.strides[-2]) * view.dtype.bytes for view in views]
        words += [*offsets[1:5], score_row, int(v_packed), *batch]
        for view in views:
            words += byte_strides(view, range(spec.batch_rank), size)
        return Arguments(tuple(words), max(1, -(-items // per_chunk)), offsets[-1])

    def _item_ns(self, rows: int, keys: int, elements: int) -> float:
        lanes = self.shape.unit.n
        return rows * keys / lanes * (0.15 * elements + EXP_NS + 0.2 * cost([self.spec.score]))


def select(call: KernelCall, target: Target) -> AttentionKernel:
    """The kernel for an AttentionSpec call. Raises DtypeError for types no unit multiplies."""
    assert isinstance(call.spec, AttentionSpec)
    kernel = AttentionKernel(call.spec, target, kernel_name("attention", call.spec, target))
    assert kernel.unit
    return kernel
