"""Sorting: rows of which the first elements are wanted in order, with their places.

A row is sorted whole by one thread; a chunk is a range of rows. Few elements (of the row, or wanted) go by insertion
into a short list; else a radix sort takes keys and places, of all elements or, where much fewer are wanted, of those
that may be among the first. How is decided by the sizes; the result is the same, there is only one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import kernel_name
from backends.native.kernel import I8, I64, ArgumentReader, Arguments, VectorKernel, declare_kernel
from backends.native.loops import Odometer, Values, byte_strides, chunk_range, counted_loop, rows_per_chunk, when
from backends.native.memory import align
from backends.native.sort_emission import DIGITS, ENOUGH, RowSort
from backends.native.sort_keys import Keys
from backends.native.target import Target
from backends.native.vectors import widen
from compiler.dims import Size
from compiler.errors import ShapeError
from compiler.kernels import UNIT, KernelCall, SortSpec, View

PLACE_BYTES = 4
VECTORS = 2  # looked at together: most blocks of a long row have none of the few that are wanted
NARROW_FROM = 4  # times as many elements as are wanted


@dataclass(frozen=True)
class SortKernel(VectorKernel):
    """The NativeKernel of a SortSpec."""

    spec: SortSpec

    @property
    def lanes(self) -> int:
        """Keys that are read at once."""
        return VECTORS * self.target.vector // self.spec.dtype.bytes if self.spec.in_class == UNIT else 1

    def emit(self, module: ir.Module) -> None:
        """Define the kernel in `module`."""
        spec = self.spec
        function = declare_kernel(module, self.name)
        b = ir.IRBuilder(function.append_basic_block("entry"))
        reader = ArgumentReader(b, function)
        pointers = [reader.pointer(I8) for _ in range(1 + spec.values + spec.indices)]
        rows, per_chunk, length, count, short, narrow = (reader.integer() for _ in range(6))
        space = [I64(0), *(reader.integer() for _ in range(4))]
        along = [reader.integer() for _ in pointers]
        extents = [reader.integer() for _ in range(2)]
        odometer = Odometer(b, extents, [[reader.integer() for _ in extents] for _ in pointers])
        keys = Keys(spec.dtype, spec.descending)
        sort = RowSort(b, keys, function.args[3], space, self.lanes)
        first, last = chunk_range(b, function.args[2], per_chunk, rows)

        def row(_: ir.Value, state: Values) -> Values:
            source, *targets = (b.gep(p, [o]) for p, o in zip(pointers, odometer.offsets(state), strict=True))

            def code(i: ir.Value, lanes: int = 1) -> ir.Value:
                address = b.gep(source, [b.mul(i, along[0])])
                return b.load(b.bitcast(address, widen(keys.type, lanes).as_pointer()), align=spec.dtype.bytes)

            def load(place: ir.Value, lanes: int = 1) -> ir.Value:
                return keys.of(b, code(place, lanes))

            (places,) = when(
                b,
                b.icmp_signed("!=", short, I64(0)),
                lambda: [sort.insertion(load, length, count)],
                lambda: [sort.radix(load, length, count, narrow)],
            )

            def result(j: ir.Value, _: Values) -> Values:
                place = b.zext(b.load(b.gep(places, [j])), I64)
                found = [code(place)] * spec.values + [place] * spec.indices
                for value, target, stride in zip(found, targets, along[1:], strict=True):
                    address = b.bitcast(b.gep(target, [b.mul(j, stride)]), value.type.as_pointer())
                    b.store(value, address, align=value.type.width // 8)
                return []

            counted_loop(b, I64(0), count, I64(1), [], result)
            return odometer.next(state)

        counted_loop(b, first, last, I64(1), odometer.at(first), row)
        b.ret_void()

    def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
        """Words: pointers; rows, rows a chunk, n, k, whether by insertion, whether to narrow down first; where in
        scratch the second keys, the two lists of places and the counters begin; byte strides along a row; A, B; byte
        strides along those. Raises ShapeError where k is greater than n."""
        views = (*call.reads, *call.writes)
        length = size(call.reads[0].shape[1])
        outer, count, inner = (size(extent) for extent in call.writes[0].shape)
        check_count(count, length, call.where)
        rows = outer * inner if count else 0
        by_insertion, by_radix = insertion_ns(length, count, self.lanes), radix_ns(length, count, self.spec.dtype.bytes)
        short = by_insertion <= by_radix
        per_chunk = rows_per_chunk(rows, min(by_insertion, by_radix) + 2.0 * count, threads)
        held = count if short else length
        arrays = [
            self.spec.dtype.bytes,
            0 if short else self.spec.dtype.bytes,
            PLACE_BYTES,
            0 if short else PLACE_BYTES,
        ]
        ends: list[int] = []
        for element in arrays:
            ends.append(align(held * element) + (ends[-1] if ends else 0))
        words: list[int | View] = [
            *views,
            rows,
            per_chunk,
            length,
            count,
            int(short),
            int(count * NARROW_FROM <= length),
        ]
        words += [*ends, *(byte_strides(view, (1,), size)[0] for view in views), outer, inner]
        for view in views:
            words += byte_strides(view, (0, 2), size)
        scratch = ends[-1] + (0 if short else DIGITS * PLACE_BYTES)
        return Arguments(tuple(words), max(1, -(-rows // per_chunk)), scratch)


def check_count(count: int, length: int, where: tuple[str, ...]) -> None:
    """Raises ShapeError where more elements are wanted than there are."""
    if count > length:
        raise ShapeError(f"{where[0] if where else 'sort'}: k is {count}, but the axis has only {length} elements")
    assert length < 1 << 32, "places are 32 bits wide"


def insertion_ns(length: int, count: int, lanes: int = 1) -> float:
    """About how long a row of random elements takes by insertion, where so many are looked at at once."""
    inserted = min(length, count * (1.0 + math.log(max(length, 1) / max(count, 1))))
    looked_at = min(length, inserted * lanes + length / 8) if lanes > 1 else length
    return 1.2 * looked_at + inserted * (12.0 + 0.35 * count)


def radix_ns(length: int, count: int, key_bytes: int) -> float:
    """About how long a row takes by radix sort."""
    narrowed = count * NARROW_FROM <= length
    sorted_length = min(length, 2 * count + ENOUGH // 2) if narrowed else length
    return (3.0 if narrowed else 1.0) * length + key_bytes * (140.0 + 2.2 * sorted_length)


def select(call: KernelCall, target: Target) -> SortKernel:
    """The kernel for a SortSpec call."""
    assert isinstance(call.spec, SortSpec)
    return SortKernel(call.spec, target, kernel_name("sort", call.spec, target))
