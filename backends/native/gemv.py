"""Few rows (GEMV): several B panels side by side, so that enough independent chains hide the latency of a
multiply-add. A row needs one chain an element whatever is done (design rule 7); one panel alone has two or three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, smaller, when
from backends.native.vectors import I1
from compiler.canonical import PRODUCT_CHUNK

if TYPE_CHECKING:
    from backends.native.macrokernel import MacroKernel

GEMV_ROWS = 3  # from four rows on, one panel has chains enough; fewer are multiplied one by one
CHAINS = 8  # latency times throughput of a vector unit's multiply-add


def panel_groups(kernel: MacroKernel) -> ir.Value:
    """Multiply an item of few rows with whole groups of whole panels; the column where that ended."""
    context, builder, word = kernel.context, kernel.context.builder, kernel.context.word
    panels = -(-CHAINS // context.shape.grid.columns)
    columns = I64(panels * kernel.right.width)
    # A product over nothing is one part too; integers need no parts.
    end = builder.select(builder.icmp_signed(">", word["k"], I64(0)), word["k"], I64(1))
    chunk = I64(PRODUCT_CHUNK) if context.spec.acc.is_float else end

    def group(n: ir.Value, _: Values) -> Values:
        def row(i: ir.Value, _: Values) -> Values:
            what, function = kernel.micro(1, context.shape.grid.columns, panels)
            m, words, tile = builder.add(kernel.m_first, i), context.frame.words, context.scratch
            alone = builder.icmp_signed("<=", end, chunk)
            finish = builder.and_(alone, I1(what.direct))

            def part(k: ir.Value, _: Values) -> Values:
                depth = smaller(builder, chunk, builder.sub(word["k"], k))
                a, b = kernel.left.address(i, k), kernel.right.start(n, k)
                adds = builder.icmp_signed(">", k, I64(0))
                builder.call(function, [words, a, b, depth, tile, tile, I1(0), adds, finish, b, m, n])
                return []

            counted_loop(builder, I64(0), end, chunk, [], part)
            with builder.if_then(builder.not_(finish)):
                builder.call(kernel.finish, [words, tile, I64(what.tile_row), I64(1), columns, m, n])
            return []

        counted_loop(builder, I64(0), kernel.rows, I64(1), [], row)
        return []

    def all_groups() -> Values:
        whole = builder.mul(builder.udiv(builder.sub(kernel.n_end, kernel.n_first), columns), columns)
        stop = builder.add(kernel.n_first, whole)
        counted_loop(builder, kernel.n_first, stop, columns, [], group)
        return [stop]

    few = builder.icmp_signed("<=", kernel.rows, I64(GEMV_ROWS))
    if not context.spec.constant_b:
        few = builder.and_(few, builder.icmp_signed("==", word["pack_b"], I64(0)))
    return when(builder, few, all_groups, [kernel.n_first])[0]
