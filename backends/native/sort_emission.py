"""How a kernel sorts one row of keys: insertion into a short list, and radix sort. A sorted row is a list of places (32
bits each) along the row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from llvmlite import ir

from backends.native.kernel import I32, I64
from backends.native.loops import Values, counted_loop, round_down, when
from backends.native.sort_keys import Keys
from backends.native.vectors import any_lane, index_vector, splat, widen

DIGITS = 256  # of a key's byte
ENOUGH = 512  # candidates are not narrowed down further where the last narrowing left no more than this


Body = Callable[[ir.Value, Values], Values]


class Load(Protocol):
    """Reads keys of the row being sorted."""

    def __call__(self, place: ir.Value, lanes: int = 1) -> ir.Value:
        """The key at a place (i64), or those of `lanes` neighbours."""


class RowSort:
    """Emits the sorting of rows of `length` keys, of which the first `count` are wanted, with `space` to work in: the
    byte offsets of four arrays in scratch memory: keys, keys, places, places. The radix sort needs `length` elements of
    each and keeps its counters at the fifth offset; insertion needs `count` of the first and third. `lanes`: keys that
    are read and compared at once, 1 where elements are no neighbours."""

    def __init__(self, builder: ir.IRBuilder, keys: Keys, scratch: ir.Value, space: Values, lanes: int) -> None:
        self.builder, self.keys, self.lanes = builder, keys, lanes
        types = (keys.type, keys.type, I32, I32, I32)
        pointers = [
            builder.bitcast(builder.gep(scratch, [o]), t.as_pointer()) for o, t in zip(space, types, strict=True)
        ]
        self.keys_a, self.keys_b, self.places_a, self.places_b, self.counters = pointers

    def insertion(self, load: Load, length: ir.Value, count: ir.Value) -> ir.Value:
        """Each element moves into a sorted list of the best so far, or is passed over. Returns the list of places."""
        b = self.builder
        last = b.gep(self.keys_a, [b.sub(count, I64(1))])

        def element(i: ir.Value, state: Values) -> Values:
            (held,) = state
            key = load(i)
            full = b.icmp_signed("==", held, count)
            passed = b.and_(full, b.icmp_unsigned("<=", b.load(last), key))

            def insert() -> Values:
                end = b.select(full, b.sub(count, I64(1)), held)
                place = self._shift(end, key)
                self._put(self.keys_a, self.places_a, place, key, b.trunc(i, I32))
                return [b.add(end, I64(1))]

            return when(b, passed, lambda: [held], insert)

        def block(i: ir.Value, state: Values) -> Values:
            best = b.icmp_unsigned("<", load(i, self.lanes), splat(b, b.load(last), self.lanes))
            some = b.or_(b.icmp_signed("<", state[0], count), any_lane(b, best))
            return when(b, some, lambda: counted_loop(b, i, b.add(i, I64(self.lanes)), I64(1), state, element), state)

        self._over(length, [I64(0)], block, element)
        return self.places_a

    def _over(self, length: ir.Value, initial: Values, block: Body, element: Body) -> Values:
        """A loop over a row, whole blocks of `lanes` first."""
        b = self.builder
        if self.lanes == 1:
            return counted_loop(b, I64(0), length, I64(1), initial, element)
        whole = round_down(b, length, self.lanes)
        state = counted_loop(b, I64(0), whole, I64(self.lanes), initial, block)
        return counted_loop(b, whole, length, I64(1), state, element)

    def _shift(self, end: ir.Value, key: ir.Value) -> ir.Value:
        """Move the list's elements before `end` with a greater key up by one; returns where the gap is."""
        b = self.builder
        head, test, move, done = (b.append_basic_block(name) for name in ("gap", "test", "move", "found"))
        before = b.block
        b.branch(head)
        b.position_at_end(head)
        gap = b.phi(I64, name="gap")
        gap.add_incoming(end, before)
        b.cbranch(b.icmp_signed(">", gap, I64(0)), test, done)
        b.position_at_end(test)
        below = b.sub(gap, I64(1))
        neighbour = b.load(b.gep(self.keys_a, [below]))
        b.cbranch(b.icmp_unsigned(">", neighbour, key), move, done)
        b.position_at_end(move)
        self._put(self.keys_a, self.places_a, gap, neighbour, b.load(b.gep(self.places_a, [below])))
        gap.add_incoming(below, move)
        b.branch(head)
        b.position_at_end(done)
        return gap

    def radix(self, load: Load, length: ir.Value, count: ir.Value, narrow: ir.Value) -> ir.Value:
        """Least significant byte first, each pass stable; with `narrow` only of keys that may be among the first
        `count`. Returns the list of places."""
        b = self.builder

        def keys(lanes: int, i: ir.Value, _: Values) -> Values:
            places = b.trunc(index_vector(b, i, lanes) if lanes > 1 else i, widen(I32, lanes))
            for array, value in ((self.keys_a, load(i, lanes)), (self.places_a, places)):
                element = array.type.pointee
                b.store(value, b.bitcast(b.gep(array, [i]), value.type.as_pointer()), align=element.width // 8)
            return []

        self._over(length, [], partial(keys, self.lanes), partial(keys, 1))
        whole = [self.keys_a, self.places_a, self.keys_b, self.places_b, length]

        def narrowed() -> Values:
            found = self._candidates(length, count)
            return [self.keys_b, self.places_b, self.keys_a, self.places_a, found]

        state = when(b, b.icmp_signed("!=", narrow, I64(0)), narrowed, whole)
        for byte in range(self.keys.dtype.bytes):
            state = self._pass(byte, state)
        return state[1]

    def _pass(self, byte: int, state: Values) -> Values:
        """Distribute keys and places by one byte of the keys; nothing moves where all have the same."""
        b = self.builder
        source, places, target, target_places, length = state
        self._count(byte, source, length)
        common = b.load(b.gep(self.counters, [self._digit(b.load(source), byte)]))

        def distribute() -> Values:
            def start(digit: ir.Value, below: Values) -> Values:
                counter = b.gep(self.counters, [digit])
                number = b.load(counter)
                b.store(below[0], counter)
                return [b.add(below[0], number)]

            counted_loop(b, I64(0), I64(DIGITS), I64(1), [I32(0)], start)

            def move(i: ir.Value, _: Values) -> Values:
                key = b.load(b.gep(source, [i]))
                counter = b.gep(self.counters, [self._digit(key, byte)])
                to = b.load(counter)
                b.store(b.add(to, I32(1)), counter)
                self._put(target, target_places, b.zext(to, I64), key, b.load(b.gep(places, [i])))
                return []

            counted_loop(b, I64(0), length, I64(1), [], move)
            return [target, target_places, source, places, length]

        same = b.icmp_unsigned("==", common, b.trunc(length, I32))
        return when(b, same, lambda: state, distribute)

    def _candidates(self, length: ir.Value, count: ir.Value) -> ir.Value:
        """Copy the keys that may be among the first `count`, in their order, to the second arrays; returns how many.

        Byte by byte from the top: which leading bytes the count-th key has, until few keys share them."""
        b = self.builder
        # The leading bytes so far, the bits behind them, keys below these, keys that share them.
        ones = self.keys.type((1 << self.keys.bits) - 1)
        state: Values = [ones, self.keys.type(0), I64(0), length]
        for byte in reversed(range(self.keys.dtype.bytes)):
            few = b.icmp_signed("<=", state[3], I64(ENOUGH))
            narrowed = partial(self._narrow, byte, state, length, count)
            state = when(b, few, partial(list, state), narrowed)
        prefix, shift = state[:2]

        def gather(i: ir.Value, found: Values) -> Values:
            key = b.load(b.gep(self.keys_a, [i]))
            self._put(self.keys_b, self.places_b, found[0], key, b.trunc(i, I32))
            near = b.icmp_unsigned("<=", b.lshr(key, shift), prefix)
            return [b.add(found[0], b.zext(near, I64))]

        return counted_loop(b, I64(0), length, I64(1), [I64(0)], gather)[0]

    def _narrow(self, byte: int, state: Values, length: ir.Value, count: ir.Value) -> Values:
        """One more leading byte of the count-th key."""
        b, kind = self.builder, self.keys.type
        prefix, _, below, _ = state
        if byte == self.keys.dtype.bytes - 1:
            self._count(byte, self.keys_a, length)
        else:
            above = kind(8 * (byte + 1))
            self._count(byte, self.keys_a, length, lambda key: b.icmp_unsigned("==", b.lshr(key, above), prefix))

        def find(digit: ir.Value, found: Values) -> Values:
            number = b.zext(b.load(b.gep(self.counters, [digit])), I64)
            total = b.add(found[0], number)
            here = b.and_(b.icmp_signed("<", found[0], count), b.icmp_signed(">=", total, count))
            new = (digit, found[0], number)
            return [total, *(b.select(here, a, old) for a, old in zip(new, found[1:], strict=True))]

        _, digit, below, shared = counted_loop(b, I64(0), I64(DIGITS), I64(1), [below, I64(0), I64(0), I64(0)], find)
        narrow = digit if kind == I64 else b.trunc(digit, kind)
        if byte < self.keys.dtype.bytes - 1:
            narrow = b.or_(b.shl(prefix, kind(8)), narrow)
        return [narrow, kind(8 * byte), below, shared]

    def _count(
        self, byte: int, source: ir.Value, length: ir.Value, which: Callable[[ir.Value], ir.Value] | None = None
    ) -> None:
        """Count the keys (those of which `which` holds) by one byte."""
        b = self.builder
        zeros = ir.Constant(ir.VectorType(I32, 8), [0] * 8)

        def clear(i: ir.Value, _: Values) -> Values:
            b.store(zeros, b.bitcast(b.gep(self.counters, [i]), zeros.type.as_pointer()), align=4)
            return []

        def element(i: ir.Value, _: Values) -> Values:
            key = b.load(b.gep(source, [i]))
            counter = b.gep(self.counters, [self._digit(key, byte)])
            one = I32(1) if which is None else b.zext(which(key), I32)
            b.store(b.add(b.load(counter), one), counter)
            return []

        counted_loop(b, I64(0), I64(DIGITS), I64(8), [], clear)
        counted_loop(b, I64(0), length, I64(1), [], element)

    def _digit(self, key: ir.Value, byte: int) -> ir.Value:
        b = self.builder
        moved = b.lshr(key, key.type(8 * byte)) if byte else key
        low = b.and_(moved, key.type(DIGITS - 1))
        return low if key.type == I64 else b.zext(low, I64)

    def _put(self, keys: ir.Value, places: ir.Value, at: ir.Value, key: ir.Value, place: ir.Value) -> None:
        self.builder.store(key, self.builder.gep(keys, [at]))
        self.builder.store(place, self.builder.gep(places, [at]))
