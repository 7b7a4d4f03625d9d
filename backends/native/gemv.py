"""Few rows (GEMV): several B panels side by side, so that enough independent chains hide the latency of a
multiply-add and every panel passes once for all rows. A row needs one chain an element whatever is done (design rule
7); one panel alone has two or three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llvmlite import ir

from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, smaller, when
from backends.native.units import Grid
from backends.native.vectors import I1
from compiler.canonical import PRODUCT_CHUNK

if TYPE_CHECKING:
    from backends.native.macrokernel import MacroKernel

GEMV_ROWS = 4  # more keep pace with memory panel by panel
CHAINS = 8  # latency times throughput of a vector unit's multiply-add


def panels_beside(grid: Grid, rows: int, codes: bool = False) -> int:
    """How many panels side by side for so many rows: what gives one row its chains, as far as the registers that a
    whole grid of accumulators takes last. Decoding takes longer than a multiply-add, so of codes one will do."""
    return 1 if codes else max(1, min(-(-CHAINS // grid.columns), grid.rows // rows))


def panel_groups(kernel: MacroKernel) -> ir.Value:
    """Multiply an item of few rows with whole groups of whole panels; the column where that ended."""
    context, builder = kernel.context, kernel.context.builder
    in_panels: ir.Value = I1(1)
    if not context.spec.constant_b:
        in_place = builder.icmp_signed("==", context.word["pack_b"], I64(0))
        in_panels = builder.and_(in_place, builder.icmp_signed(">=", context.word["slab"], context.word["k"]))
    done: ir.Value = kernel.n_first
    for rows in context.shape.few:
        here = builder.and_(in_panels, builder.icmp_signed("==", kernel.rows, I64(rows)))
        done = when(builder, here, _groups_of(kernel, rows), [done])[0]
    return done


def _groups_of(kernel: MacroKernel, rows: int) -> Callable[[], Values]:
    context, builder, word = kernel.context, kernel.context.builder, kernel.context.word
    panels = panels_beside(context.shape.grid, rows, context.spec.codes is not None)
    columns = I64(panels * kernel.right.width)

    def group(n: ir.Value, _: Values) -> Values:
        what, function = kernel.micro_few(rows, panels)
        m, words, tile = kernel.m_first, context.frame.words, context.scratch
        # A product over nothing is one part too; integers need no parts.
        end = builder.select(builder.icmp_signed(">", word["k"], I64(0)), word["k"], I64(1))
        chunk = I64(PRODUCT_CHUNK) if context.spec.acc.is_float else end
        finish = builder.and_(builder.icmp_signed("<=", end, chunk), I1(what.direct))

        def part(k: ir.Value, _: Values) -> Values:
            depth = smaller(builder, chunk, builder.sub(word["k"], k))
            a, b = kernel.left.address(I64(0), k), kernel.right.stream(n, k)
            adds = builder.icmp_signed(">", k, I64(0))
            ahead = kernel.right.rows_ahead(b)
            builder.call(function, [words, a, b, depth, tile, tile, I1(0), adds, finish, ahead, m, n])
            return []

        counted_loop(builder, I64(0), end, chunk, [], part)
        with builder.if_then(builder.not_(finish)):
            builder.call(kernel.finish, [words, tile, I64(what.tile_row), I64(rows), columns, m, n])
        return []

    def groups() -> Values:
        whole = builder.mul(builder.udiv(builder.sub(kernel.n_end, kernel.n_first), columns), columns)
        stop = builder.add(kernel.n_first, whole)
        kernel.right.expect_rows()
        counted_loop(builder, kernel.n_first, stop, columns, [], group)
        return [stop]

    return groups
