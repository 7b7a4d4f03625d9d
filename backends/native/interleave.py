"""Rows of elements rearranged in registers: squares transposed, neighbours of several rows brought together."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from backends.native.vectors import I32, constant


def transpose(builder: ir.IRBuilder, rows: Sequence[ir.Value]) -> list[ir.Value]:
    """The columns of a square matrix of vectors (a power of two): log2 rounds of swapping halves between row pairs."""
    lanes = len(rows)
    current, half = list(rows), lanes // 2
    while half:
        low = [i if not i & half else i - half + lanes for i in range(lanes)]
        high = [i + half if not i & half else i + lanes for i in range(lanes)]
        following = list(current)
        for i in range(lanes):
            if not i & half:
                pair = current[i], current[i + half]
                following[i] = builder.shuffle_vector(*pair, _shuffle(low))
                following[i + half] = builder.shuffle_vector(*pair, _shuffle(high))
        current, half = following, half // 2
    return current


def _shuffle(lanes: Sequence[int]) -> ir.Constant:
    return ir.Constant(ir.VectorType(I32, len(lanes)), list(lanes))


def by_shifts(builder: ir.IRBuilder, rows: Sequence[ir.Value], group: ir.IntType) -> ir.Value:
    """Elements of D rows as one vector of groups of D, each moved to its place in a wider lane."""
    if len(rows) == 1:
        return rows[0]
    kind, bits = ir.VectorType(group, rows[0].type.count), rows[0].type.element.width
    joined = builder.zext(rows[0], kind)
    for d, row in enumerate(rows[1:], 1):
        joined = builder.or_(joined, builder.shl(builder.zext(row, kind), constant(kind, d * bits)))
    return joined


def by_zips(builder: ir.IRBuilder, rows: Sequence[ir.Value], group: ir.IntType, register: int) -> ir.Value:
    """The same in log2(D) rounds of interleaving halves of registers of `register` bytes: every other row, the rows
    between, and then what both give. D is a power of two, rows are no longer than a register."""
    count = rows[0].type.count
    lanes = 8 * register // rows[0].type.element.width
    wide = [_part(builder, row, 0, lanes) if count < lanes else row for row in rows]
    registers = _zipped(builder, wide, count)
    while len(registers) > 1:  # one vector, which LLVM takes apart again
        pairs = zip(registers[::2], registers[1::2], strict=True)
        registers = [builder.shuffle_vector(*pair, _shuffle(range(2 * pair[0].type.count))) for pair in pairs]
    return builder.bitcast(_part(builder, registers[0], 0, count * len(rows)), ir.VectorType(group, count))


def _zipped(builder: ir.IRBuilder, rows: Sequence[ir.Value], count: int) -> list[ir.Value]:
    """Registers with the first `count` elements of every row."""
    if len(rows) == 1:
        return list(rows)
    lanes, half = rows[0].type.count, count * len(rows) // 2
    found = []
    for i, pair in enumerate(zip(_zipped(builder, rows[::2], count), _zipped(builder, rows[1::2], count), strict=True)):
        for start in (0, lanes // 2):
            if i * lanes + start < half:
                order = [start + lane // 2 + lanes * (lane % 2) for lane in range(lanes)]
                found.append(builder.shuffle_vector(*pair, _shuffle(order)))
    return found


def _part(builder: ir.IRBuilder, vector: ir.Value, start: int, count: int) -> ir.Value:
    """`count` lanes from one on; what lies beyond the vector is undefined."""
    have = vector.type.count
    if (start, count) == (0, have):
        return vector
    undefined = ir.Constant(vector.type, ir.Undefined)
    order = [start + lane if start + lane < have else have for lane in range(count)]
    return builder.shuffle_vector(vector, undefined, _shuffle(order))
