"""B stored as codes of 4 or 8 bits with a scale, and where there are any a zero point, for each group along K.

A panel is rows of 32-bit words. Lane i of a row holds the codes of one element of the unit's own panel order, [K/D, W,
D], for as many blocks of D along K as fit into it, so a shift and a mask give a register in that very order. Signed
codes are stored moved into unsigned ones. A code becomes a float as the low bits of 2^23's mantissa: the difference to
2^23 and the zero point is exact, and one instruction; then comes the scale, then the rounding to B's type. A code
further up in its word, as far as mantissas reach, is left there, in that of a smaller power of two. That saves a shift:
decoding, not memory, limits a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir

from backends.native.frame import move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import Values, counted_loop, smaller
from backends.native.memory import aligned_zeros
from backends.native.prefetch import CACHE_LINE, prefetch_line
from backends.native.units import MatrixUnit
from backends.native.vectors import FLOAT, I32, constant, load_vector, splat
from compiler import dtypes
from compiler.dtypes import DType
from compiler.errors import DtypeError
from compiler.kernels import GemmSpec

WORD = 32  # bits
AHEAD = 2048  # bytes of codes to prefetch ahead
_MANTISSA, _BIAS = 23, 127  # of float32

# step(values, row, carried) -> carried: values are the registers of D rows of B from row number `row` on.
Step = Callable[[list[ir.Value], ir.Value, Values], Sequence[ir.Value]]


@dataclass(frozen=True)
class Coding:
    """How panels of codes look: the type of the codes, that of the zero points or None, W and D of the unit's panels
    and the lanes of its registers."""

    codes: DType
    zeros: DType | None
    width: int
    depth: int
    lanes: int

    @staticmethod
    def of(spec: GemmSpec, unit: MatrixUnit, width: int) -> Coding:
        """For panels `width` columns wide."""
        assert spec.codes is not None
        return Coding(spec.codes, spec.zeros, width, unit.k, unit.n)

    @property
    def fields(self) -> int:
        """Codes in a word."""
        return WORD // self.codes.bits

    @property
    def rows(self) -> int:
        """Rows of B in a row of words."""
        return self.fields * self.depth

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of words."""
        return self.width * self.depth * WORD // 8

    @property
    def registers(self) -> int:
        """Registers of a row of words."""
        return self.width * self.depth // self.lanes

    @property
    def zero_bytes(self) -> int:
        """Bytes of a zero point as packed: moved as the codes are, or a float."""
        return 0 if self.zeros is None else 4 if self.zeros.is_float else 1

    @property
    def offset(self) -> int:
        """What was added to a code to make it unsigned."""
        return 1 << self.codes.bits - 1 if self.codes.kind == "int" else 0

    def panel_bytes(self, k: int) -> int:
        """Bytes of a panel of K rows."""
        return -(-k // self.rows) * self.row_bytes

    def pack_codes(self, codes: np.ndarray) -> np.ndarray:
        """[K, N] as words [N/W, K/rows, W, D], zeros where there is nothing. Raises DtypeError for codes of another
        type, which new weights may be of."""
        if codes.dtype != self.codes.numpy:
            raise DtypeError(f"weights are {codes.dtype} where {self.codes} was compiled for; compile the model again")
        k, n = codes.shape
        panels, blocks = -(-n // self.width), -(-k // self.rows)
        whole = np.zeros((blocks * self.rows, panels * self.width), np.uint8)
        whole[:k, :n] = codes.astype(np.int16) + self.offset
        parts = whole.reshape(blocks, self.fields, self.depth, panels, self.width)
        words = aligned_zeros((panels, blocks, self.width, self.depth), np.dtype(np.uint32))
        for field in range(self.fields):
            part = parts[:, field].transpose(2, 0, 3, 1).astype(np.uint32)
            words |= part << np.uint32(field * self.codes.bits)
        return words

    def pack_scales(self, scales: np.ndarray) -> np.ndarray:
        """[G, N] as float32 [N/W, G, W]."""
        return self._by_panel(scales.astype(np.float32))

    def pack_zeros(self, zeros: np.ndarray) -> np.ndarray:
        """[G, N] as [N/W, G, W]: float32, or bytes moved as the codes are."""
        if zeros.dtype.kind == "f" or self.zero_bytes == 4:
            return self.pack_scales(zeros)
        return self._by_panel((zeros.astype(np.int16) + self.offset).astype(np.uint8))

    def _by_panel(self, parameters: np.ndarray) -> np.ndarray:
        groups, n = parameters.shape
        panels = -(-n // self.width)
        packed = aligned_zeros((panels, groups, self.width), parameters.dtype)
        padded = np.zeros((groups, panels * self.width), parameters.dtype)
        padded[:, :n] = parameters
        packed[...] = padded.reshape(groups, panels, self.width).swapaxes(0, 1)
        return packed


@dataclass(frozen=True)
class Place:
    """Rows of a panel: its words from row `first` on, its scales and zero points from group 0 on, i8* each, and the
    rows of a group. `first` is the first of a row of words."""

    words: ir.Value
    scales: ir.Value
    zeros: ir.Value
    group: ir.Value
    first: ir.Value


def walk(
    builder: ir.IRBuilder, coding: Coding, place: Place, count: ir.Value, initial: Sequence[ir.Value], step: Step
) -> Values:
    """Pass over `count` rows: `step` for every D of them, group by group, with what it carries. Only the last group may
    end inside a row of words; rows from K on are zero."""
    end = builder.add(place.first, count)
    rows, depth = I64(coding.rows), I64(coding.depth)

    def one_group(number: ir.Value, carried: Values) -> Values:
        begins = builder.mul(number, place.group)
        start = builder.select(builder.icmp_signed("<", begins, place.first), place.first, begins)
        stop = smaller(builder, end, builder.add(begins, place.group))
        decoder = _Decoder(builder, coding, place, number)
        rest = builder.urem(builder.sub(stop, start), rows)
        whole = builder.sub(stop, rest)

        def row_of_words(k: ir.Value) -> ir.Value:
            passed = builder.sdiv(builder.sub(k, place.first), rows)
            return move(builder, place.words, builder.mul(passed, I64(coding.row_bytes)))

        def full(k: ir.Value, carried: Values) -> Values:
            address = row_of_words(k)
            for line in range(0, coding.row_bytes, CACHE_LINE):
                prefetch_line(builder, move(builder, address, I64(AHEAD + line)))
            words, row = decoder.words(address), builder.sub(k, place.first)
            for field in range(coding.fields):
                values = [decoder.value(word, field * coding.codes.bits, i) for i, word in enumerate(words)]
                carried = list(step(values, builder.add(row, I64(field * coding.depth)), carried))
            return carried

        def partial(k: ir.Value, carried: Values) -> Values:
            passed = builder.sub(k, whole)
            shift = builder.trunc(builder.mul(builder.udiv(passed, depth), I64(coding.codes.bits)), I32)
            left = builder.trunc(builder.sub(stop, k), I32)
            values = []
            for i, word in enumerate(decoder.words(row_of_words(whole))):
                inside = builder.icmp_signed("<", decoder.depths, splat(builder, left, coding.lanes))
                value = decoder.value(word, shift, i)
                values.append(builder.select(inside, value, constant(value.type, 0.0)))
            return list(step(values, builder.sub(k, place.first), carried))

        carried = counted_loop(builder, start, whole, rows, carried, full)
        return counted_loop(builder, whole, stop, depth, carried, partial)

    groups = builder.udiv(builder.add(end, builder.sub(place.group, I64(1))), place.group)
    return counted_loop(builder, builder.udiv(place.first, place.group), groups, I64(1), initial, one_group)


class _Decoder:
    """One group of a panel, its parameters in registers."""

    def __init__(self, builder: ir.IRBuilder, coding: Coding, place: Place, group: ir.Value) -> None:
        self.builder, self.coding = builder, coding
        lanes, columns = coding.lanes, coding.lanes // coding.depth
        self.kind, self.bits = ir.VectorType(FLOAT, lanes), ir.VectorType(I32, lanes)
        self.depths = ir.Constant(self.bits, [lane % coding.depth for lane in range(lanes)])
        self.scales, self.zeros = [], []
        first = builder.mul(group, I64(coding.width))
        for register in range(coding.registers):
            column = builder.add(first, I64(register * columns))
            self.scales.append(self._spread(place.scales, column, dtypes.float32, columns))
            if coding.zeros is not None and coding.zeros.is_float:
                self.zeros.append(self._spread(place.zeros, column, dtypes.float32, columns))
            elif coding.zeros is not None:
                whole = builder.zext(self._spread(place.zeros, column, dtypes.uint8, columns), self.bits)
                self.zeros.append(self._as_float(whole))

    def words(self, address: ir.Value) -> Values:
        """The registers of a row of words."""
        builder, step = self.builder, self.coding.lanes * WORD // 8
        places = (move(builder, address, I64(i * step)) for i in range(self.coding.registers))
        return [builder.load(builder.bitcast(at, self.bits.as_pointer()), align=WORD // 8) for at in places]

    def value(self, words: ir.Value, shift: int | ir.Value, register: int) -> ir.Value:
        """(code - zero point) * scale of the codes `shift` bits up in each word."""
        builder, coding = self.builder, self.coding
        of_codes, left = coding.zeros is None or coding.zeros.is_float, 0
        if isinstance(shift, int):
            if of_codes and shift + coding.codes.bits <= _MANTISSA:
                left = shift
            field = words if shift == left else builder.lshr(words, constant(self.bits, shift))
        else:
            field = builder.lshr(words, splat(builder, shift, coding.lanes))
        field = builder.and_(field, constant(self.bits, (1 << coding.codes.bits) - 1 << left))
        code = self._as_float(field, left)
        less = constant(self.kind, float((1 << _MANTISSA - left) + coding.offset)) if of_codes else self.zeros[register]
        difference = builder.fsub(code, less)
        if of_codes and self.zeros:
            difference = builder.fsub(difference, self.zeros[register])
        return builder.fmul(difference, self.scales[register])

    def _as_float(self, whole: ir.Value, left: int = 0) -> ir.Value:
        """Small integers, `left` bits up, plus the power of two whose mantissa's bits there count 1, 2, .."""
        power = constant(self.bits, _BIAS + _MANTISSA - left << _MANTISSA)
        return self.builder.bitcast(self.builder.or_(whole, power), self.kind)

    def _spread(self, base: ir.Value, column: ir.Value, dtype: DType, columns: int) -> ir.Value:
        """The parameters of a register's columns, each as often as the panel is deep."""
        builder = self.builder
        address = move(builder, base, builder.mul(column, I64(dtype.bytes)))
        kind = FLOAT if dtype.is_float else ir.IntType(8)
        loaded = load_vector(builder, builder.bitcast(address, kind.as_pointer()), dtype, columns)
        if self.coding.depth == 1:
            return loaded
        order = [lane // self.coding.depth for lane in range(self.coding.lanes)]
        if columns == 1:
            return splat(builder, loaded, self.coding.lanes)
        return builder.shuffle_vector(loaded, ir.Constant(loaded.type, ir.Undefined), ir.Constant(self.bits, order))


def define_decoder(module: ir.Module, name: str, coding: Coding, unit: MatrixUnit) -> ir.Function:
    """void name(words, scales, zeros, group, first, count, panel): `count` rows from row `first` on as a panel that
    the unit reads. See Place."""
    function, builder = define_helper(module, name, [POINTER, POINTER, POINTER, I64, I64, I64, POINTER])
    *place, count, panel = function.args
    row = coding.width * unit.b.bytes

    def store(values: list[ir.Value], k: ir.Value, _: Values) -> Values:
        to = move(builder, panel, builder.mul(k, I64(row)))
        step = coding.lanes * coding.depth
        for first in range(0, coding.registers, coding.depth):
            stored = unit.stored_b(builder, values[first : first + coding.depth])
            at = move(builder, to, I64(first // coding.depth * step * unit.b.bytes))
            builder.store(stored, builder.bitcast(at, stored.type.as_pointer()), align=unit.b.bytes)
        return []

    walk(builder, coding, Place(*place), count, [], store)
    builder.ret_void()
    return function
