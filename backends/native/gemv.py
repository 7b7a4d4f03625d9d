"""Few rows (GEMV): several B panels side by side, so that enough independent chains hide the latency of a
multiply-add. A row needs one chain an element whatever is done (design rule 7); one panel alone has two or three.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir

from backends.native.kernel import I64
from backends.native.loops import Values, counted_loop, when
from backends.native.vectors import I1

if TYPE_CHECKING:
    from backends.native.macrokernel import MacroKernel

GEMV_ROWS = 3  # from four rows on, one panel has chains enough; fewer are multiplied one by one
CHAINS = 8  # latency times throughput of a vector unit's multiply-add


def panel_groups(kernel: MacroKernel) -> ir.Value:
    """Multiply an item of few rows with whole groups of whole panels; the column where that ended."""
    context, builder, word = kernel.context, kernel.context.builder, kernel.context.word
    panels = -(-CHAINS // context.shape.grid.columns)
    columns = I64(panels * kernel.right.width)

    def group(n: ir.Value, _: Values) -> Values:
        def row(i: ir.Value, _: Values) -> Values:
            what, function = kernel.micro(1, context.shape.grid.columns, panels)
            m, a, b = builder.add(kernel.m_first, i), kernel.left.address(i, I64(0)), kernel.right.start(n, I64(0))
            words, tile = context.frame.words, context.scratch
            builder.call(function, [words, a, b, word["k"], tile, I1(0), I1(what.direct), b, m, n])
            if not what.direct:
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
