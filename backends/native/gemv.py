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
    builder, word = kernel.builder, kernel.word
    panels = -(-CHAINS // kernel.shape.grid.columns)
    columns = I64(panels * kernel.width)

    def group(n: ir.Value, _: Values) -> Values:
        def row(i: ir.Value, _: Values) -> Values:
            what, function = kernel.micro(1, kernel.shape.grid.columns, panels)
            m, b = builder.add(kernel.m0, i), kernel.panel_start(n, I64(0))
            a = kernel.a_address(i, I64(0))
            tile, finish = kernel.function.args[3], I1(what.direct)
            builder.call(function, [kernel.frame.words, a, b, word["k"], tile, I1(0), finish, b, m, n])
            if not what.direct:
                arguments = [kernel.frame.words, tile, I64(what.tile_row), I64(1), columns, m, n]
                builder.call(kernel.finish, arguments)

            return []

        counted_loop(builder, I64(0), kernel.rows, I64(1), [], row)
        return []

    def all_groups() -> Values:
        whole = builder.mul(builder.udiv(builder.sub(kernel.n_end, kernel.n0), columns), columns)
        stop = builder.add(kernel.n0, whole)
        counted_loop(builder, kernel.n0, stop, columns, [], group)
        return [stop]

    few = builder.icmp_signed("<=", kernel.rows, I64(GEMV_ROWS))
    if not kernel.spec.constant_b:
        few = builder.and_(few, builder.icmp_signed("==", word["pack_b"], I64(0)))
    return when(builder, few, all_groups, [kernel.n0])[0]
