"""Rows of a block of A shared out among micro-kernels of several heights."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from backends.native.kernel import I64
from backends.native.loops import counted_loop


def for_row_blocks(
    builder: ir.IRBuilder, rows: ir.Value, counts: tuple[int, ...], body: Callable[[int, ir.Value, ir.Value], None]
) -> None:
    """Cover `rows` rows with blocks of the given sizes, descending, each at most twice the next: the largest as often
    as it fits, each smaller one at most once, and the smallest again for what is left of less than that.

    `body(size, first, count)`: `count` is the size but for what is left.
    """

    def largest(i: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
        body(counts[0], i, I64(counts[0]))
        return []

    done = builder.sub(rows, builder.urem(rows, I64(counts[0])))
    counted_loop(builder, I64(0), done, I64(counts[0]), [], largest)
    for size in counts[1:]:
        needed = builder.icmp_signed("<=", builder.add(done, I64(size)), rows)
        with builder.if_then(needed):
            body(size, done, I64(size))
        done = builder.select(needed, builder.add(done, I64(size)), done)
    if counts[-1] > 1:
        with builder.if_then(builder.icmp_signed("<", done, rows)):
            body(counts[-1], done, builder.sub(rows, done))
