"""Greedy suppression: a row is sorted and walked by one thread in falling order of scores; a chunk is a range of rows.

Only boxes with a score above the threshold are sorted: mostly they are few.

The boxes that stay are kept side by side in scratch, coordinate by coordinate, and each box is compared with a vector
of them at a time until one overlaps it. The areas after the last are NaN, with which nothing overlaps: no masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import kernel_name
from backends.native.kernel import (
    I8,
    I32,
    I64,
    ArgumentReader,
    Arguments,
    VectorKernel,
    declare_kernel,
)
from backends.native.loops import (
    Odometer,
    Values,
    byte_strides,
    chunk_range,
    counted_loop,
    round_down,
    rows_per_chunk,
    smaller,
    when,
)
from backends.native.memory import align
from backends.native.sort import PLACE_BYTES, radix_ns
from backends.native.sort_emission import DIGITS, RowSort
from backends.native.sort_keys import Keys
from backends.native.target import Target
from backends.native.vectors import (
    I1,
    any_lane,
    constant,
    llvm_type,
    load_vector,
    register_type,
    splat,
    store_vector,
    widen,
)
from compiler.dims import Size
from compiler.kernels import KernelCall, View
from compiler.suppression import SuppressSpec

LISTS = 5  # of the boxes that stay: lower and upper end on one axis, on the other, the area
CANDIDATE_NS, VECTOR_NS = 4.0, 1.5


@dataclass(frozen=True)
class SuppressKernel(VectorKernel):
    """The NativeKernel of a SuppressSpec."""

    spec: SuppressSpec

    @property
    def lanes(self) -> int:
        """Boxes compared at once."""
        return self.target.vector // self.spec.dtype.bytes

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        _Emission(self, module).emit()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: pointers; rows, rows a chunk, N, K, bytes of a list in scratch; where in scratch the candidates, the
        keys and places to sort and the counters begin; byte strides along the coordinates and the N boxes, along K; B,
        C; byte strides of boxes, scores and result along those."""
        boxes, scores = call.reads[:2]
        result = call.writes[0]
        images, kinds, count = (size(extent) for extent in result.shape)
        length, rows = size(scores.shape[2]), images * kinds
        compared = min(count, length) / self.lanes / 2
        row_ns = radix_ns(length, length, self.spec.dtype.bytes) + length * (CANDIDATE_NS + VECTOR_NS * compared)
        per_chunk = rows_per_chunk(rows, row_ns, threads)
        held = align(count * self.spec.dtype.bytes)
        starts = [LISTS * held]
        for element in (PLACE_BYTES, self.spec.dtype.bytes, self.spec.dtype.bytes, PLACE_BYTES, PLACE_BYTES):
            starts.append(starts[-1] + align(length * element))
        words: list[int | View] = [*call.reads, result, rows, per_chunk, length, count, held, *starts]
        words += [*byte_strides(boxes, (2, 1), size), *byte_strides(result, (2,), size)]
        words += [images, kinds, *byte_strides(boxes, (0,), size), 0]
        for view in (scores, result):
            words += byte_strides(view, (0, 1), size)
        return Arguments(tuple(words), max(1, -(-rows // per_chunk)), starts[-1] + DIGITS * PLACE_BYTES)


class _Emission:
    """The state of emitting one kernel."""

    def __init__(self, kernel: SuppressKernel, module: ir.Module) -> None:
        self.spec, self.lanes = kernel.spec, kernel.lanes
        self.function = declare_kernel(module, kernel.name)
        self.b = ir.IRBuilder(self.function.append_basic_block("entry"))
        self.kind = llvm_type(self.spec.dtype)

    def emit(self) -> None:
        b, spec = self.b, self.spec
        reader = ArgumentReader(b, self.function)
        boxes, scores = (reader.pointer(I8) for _ in range(2))
        most = b.load(reader.pointer(I64)) if spec.limited else None
        self.overlap = b.load(reader.pointer(self.kind))
        self.least = b.load(reader.pointer(self.kind)) if spec.thresholded else None
        result = reader.pointer(I8)
        rows, per_chunk, self.length, count, self.held, candidates = (reader.integer() for _ in range(6))
        space = [reader.integer() for _ in range(5)]
        self.coordinate_step, self.box_step, self.result_step = (reader.integer() for _ in range(3))
        scratch = self.function.args[3]
        self.candidates = b.bitcast(b.gep(scratch, [candidates]), I32.as_pointer())
        self.keys = Keys(spec.dtype, descending=True)
        self.sort = RowSort(b, self.keys, scratch, space, 1)
        self.limit = count if most is None else smaller(b, most, count)
        extents = [reader.integer() for _ in range(2)]
        odometer = Odometer(b, extents, [[reader.integer() for _ in extents] for _ in range(3)])
        first, last = chunk_range(b, self.function.args[2], per_chunk, rows)

        def row(_: ir.Value, state: Values) -> Values:
            bases = zip((boxes, scores, result), odometer.offsets(state), strict=True)
            self.boxes, self.scores, self.result = (b.gep(base, [offset]) for base, offset in bases)
            found = self._above_least()
            some = b.and_(b.icmp_signed("<", I64(0), found), b.icmp_signed("<", I64(0), self.limit))
            (stay,) = when(b, some, lambda: [self._row(found)], [I64(0)])

            def nothing(k: ir.Value, _: Values) -> Values:
                b.store(I64(-1), self._element(self.result, k, self.result_step, I64))
                return []

            counted_loop(b, stay, count, I64(1), [], nothing)
            return odometer.next(state)

        counted_loop(b, first, last, I64(1), odometer.at(first), row)
        b.ret_void()

    def _element(self, base: ir.Value, i: ir.Value, step: ir.Value, kind: ir.Type) -> ir.Value:
        return self.b.bitcast(self.b.gep(base, [self.b.mul(i, step)]), kind.as_pointer())

    def _above_least(self) -> ir.Value:
        """List the boxes of a row whose score is above the threshold; how many they are."""
        b = self.b
        scores = b.bitcast(self.scores, self.kind.as_pointer())

        def above(i: ir.Value, lanes: int) -> ir.Value:
            if self.least is None:
                return constant(widen(I1, lanes), 1)
            score = load_vector(b, b.gep(scores, [i]), self.spec.dtype, lanes)
            return b.fcmp_ordered(">", score, splat(b, self.least, lanes))

        def element(i: ir.Value, found: Values) -> Values:
            b.store(b.trunc(i, I32), b.gep(self.candidates, found))
            return [b.add(found[0], b.zext(above(i, 1), I64))]

        def block(i: ir.Value, found: Values) -> Values:
            end = b.add(i, I64(self.lanes))
            some = any_lane(b, above(i, self.lanes))
            return when(b, some, lambda: counted_loop(b, i, end, I64(1), found, element), found)

        whole = round_down(b, self.length, self.lanes)
        found = counted_loop(b, I64(0), whole, I64(self.lanes), [I64(0)], block)
        return counted_loop(b, whole, self.length, I64(1), found, element)[0]

    def _row(self, found: ir.Value) -> ir.Value:
        """Write the places of those of the `found` candidates of a row that stay; how many they are. There is at least
        one, and one may stay."""
        b = self.b

        def key(place: ir.Value, lanes: int = 1) -> ir.Value:
            bits = b.bitcast(self.scores, self.keys.type.as_pointer())
            return self.keys.of(b, b.load(b.gep(bits, [self._place(place)])))

        order = self.sort.radix(key, found, found, I64(0))
        before, candidate, done = b.block, b.append_basic_block("candidate"), b.append_basic_block("stays")
        b.branch(candidate)
        b.position_at_end(candidate)
        i, kept = b.phi(I64), b.phi(I64)
        (after,) = self._candidate(self._place(b.zext(b.load(b.gep(order, [i])), I64)), kept)
        following = b.add(i, I64(1))
        for phi, value in ((i, following), (kept, after)):
            phi.add_incoming(I64(0), before)
            phi.add_incoming(value, b.block)
        more = b.and_(b.icmp_signed("<", following, found), b.icmp_signed("<", after, self.limit))
        b.cbranch(more, candidate, done)
        b.position_at_end(done)
        return after

    def _place(self, i: ir.Value) -> ir.Value:
        """Which box the i-th candidate is."""
        return self.b.zext(self.b.load(self.b.gep(self.candidates, [i])), I64)

    def _candidate(self, place: ir.Value, kept: ir.Value) -> Values:
        """How many boxes stay after that at `place`, before which `kept` did."""
        b = self.b
        ends = self._ends(place)
        box = [*ends, b.fmul(b.fsub(ends[1], ends[0]), b.fsub(ends[3], ends[2]))]

        def stay() -> Values:
            whole = b.icmp_signed("==", b.and_(kept, I64(self.lanes - 1)), I64(0))
            with b.if_then(whole):
                nan = constant(register_type(self.spec.dtype, self.lanes), float("nan"))
                store_vector(b, nan, self._list(LISTS - 1, kept), self.spec.dtype)
            for number, value in enumerate(box):
                b.store(value, self._list(number, kept))
            b.store(place, self._element(self.result, kept, self.result_step, I64))
            return [b.add(kept, I64(1))]

        return when(b, self._is_overlapped(box, kept), [kept].copy, stay)

    def _list(self, number: int, at: ir.Value) -> ir.Value:
        """The address of an element of a list of the boxes that stay."""
        start = self.b.gep(self.function.args[3], [self.b.mul(I64(number), self.held)])
        return self.b.gep(self.b.bitcast(start, self.kind.as_pointer()), [at])

    def _ends(self, place: ir.Value) -> Values:
        """The lower and upper end of a box on one axis, and on the other."""
        b = self.b
        base = b.gep(self.boxes, [b.mul(place, self.box_step)])
        x, y, z, w = (b.load(self._element(base, I64(i), self.coordinate_step, self.kind)) for i in range(4))
        if not self.spec.centred:
            # Of a NaN and a number both ends are the same: without an extent, or NaN, a box overlaps nothing.
            return [self._pick("<", x, z), self._pick(">", x, z), self._pick("<", y, w), self._pick(">", y, w)]
        half_width, half_height = (b.fmul(extent, constant(self.kind, 0.5)) for extent in (z, w))
        return [
            b.fsub(y, half_height),
            b.fadd(y, half_height),
            b.fsub(x, half_width),
            b.fadd(x, half_width),
        ]

    def _pick(self, order: str, x: ir.Value, y: ir.Value) -> ir.Value:
        """The smaller ("<") or greater (">") of two; y where one is NaN."""
        return self.b.select(self.b.fcmp_ordered(order, x, y), x, y)

    def _is_overlapped(self, box: Values, kept: ir.Value) -> ir.Value:
        """Whether one of the `kept` boxes overlaps this one."""
        b = self.b
        wide = [splat(b, value, self.lanes) for value in box]
        before, compare, done = b.block, b.append_basic_block("compare"), b.append_basic_block("compared")
        b.cbranch(b.icmp_signed("<", I64(0), kept), compare, done)
        b.position_at_end(compare)
        at = b.phi(I64)
        found = self._overlaps(wide, at)
        following = b.add(at, I64(self.lanes))
        at.add_incoming(I64(0), before)
        at.add_incoming(following, b.block)
        latch = b.block
        b.cbranch(b.and_(b.not_(found), b.icmp_signed("<", following, kept)), compare, done)
        b.position_at_end(done)
        result = b.phi(I1)
        result.add_incoming(I1(0), before)
        result.add_incoming(found, latch)
        return result

    def _overlaps(self, box: Values, at: ir.Value) -> ir.Value:
        """Whether one of the vector of boxes from `at` on overlaps `box`."""
        b = self.b
        others = [load_vector(b, self._list(i, at), self.spec.dtype, self.lanes) for i in range(LISTS)]
        zero = constant(register_type(self.spec.dtype, self.lanes), 0.0)
        extents = []
        for lower in (0, 2):
            inner = self._pick("<", others[lower + 1], box[lower + 1])
            outer = self._pick(">", others[lower], box[lower])
            extents.append(self._pick(">", b.fsub(inner, outer), zero))
        shared = b.fmul(*extents)

        def divided() -> Values:
            union = b.fsub(b.fadd(others[4], box[4]), shared)
            threshold = splat(b, self.overlap, self.lanes)
            above = b.fcmp_ordered(">", b.fdiv(shared, union), threshold)
            return [any_lane(b, b.and_(above, positive))]

        positive = b.fcmp_ordered(">", shared, zero)
        return when(b, any_lane(b, positive), divided, [I1(0)])[0]


def select(call: KernelCall, target: Target) -> SuppressKernel:
    """The kernel for a SuppressSpec call."""
    assert isinstance(call.spec, SuppressSpec)
    return SuppressKernel(call.spec, target, kernel_name("suppress", call.spec, target))
