"""The B side of a GEMM kernel whose B is stored as codes: decoded into L1, one K block of a panel after the other, or,
for few rows, by their micro-kernel.

Every block of rows decodes anew: of a hundred rows that is a few percent of their time, and codes kept as floats would
be read from further away.
"""

from __future__ import annotations

from llvmlite import ir

from backends.native.coding import Coding, define_decoder
from backends.native.form import Context
from backends.native.frame import move
from backends.native.kernel import I64
from backends.native.right import RightOperand


class CodedOperand(RightOperand):
    """B of one kernel: words in panels (see coding), `scales` and `zeros` beside them, `group` rows of K share one."""

    def __init__(self, context: Context, scales: ir.Value, zeros: ir.Value, group: ir.Value) -> None:
        super().__init__(context, None, None, False)
        self.coding = Coding.of(context.spec, context.unit, self.width)
        self.scales, self.zeros, self.group = scales, zeros, group
        self.decoder = define_decoder(context.module, f"{context.name}_decode", self.coding, context.unit)

    def begin(self) -> None:
        """What every chunk needs once."""
        context, builder = self.context, self.context.builder
        k, rows = context.word["k"], I64(self.coding.rows)
        blocks = builder.udiv(builder.add(k, builder.sub(rows, I64(1))), rows)
        self.panel_bytes = builder.mul(blocks, I64(self.coding.row_bytes))
        groups = builder.udiv(builder.add(k, builder.sub(self.group, I64(1))), self.group)
        self.parameters = builder.mul(groups, I64(self.width))
        context.frame.set("b_panel", I64(0))
        context.frame.set("group", self.group)

    def block(self, is_first: ir.Value, row_blocks: ir.Value) -> None:
        """Turn to the next block of rows. Nothing is prefetched: panels are in L1 when they are read."""
        self.prefetch_step = I64(0)

    def prefetch(self, panel: ir.Value, depth: ir.Value, block: ir.Value) -> ir.Value:
        """What is there already."""
        return panel

    def start(self, n: ir.Value, k: ir.Value) -> ir.Value:
        """The words of the panel at column n, from row k on."""
        builder = self.context.builder
        panel = builder.mul(builder.udiv(n, I64(self.width)), self.panel_bytes)
        row = builder.mul(builder.udiv(k, I64(self.coding.rows)), I64(self.coding.row_bytes))
        return move(builder, self.matrix, builder.add(panel, row))

    def stream(self, n: ir.Value, k: ir.Value) -> ir.Value:
        """The words for a micro-kernel that decodes them itself; what else it needs goes into the frame."""
        frame, builder = self.context.frame, self.context.builder
        for field, pointer in zip(("scales", "zeros"), self._parameters(n), strict=True):
            frame.set(field, builder.ptrtoint(pointer, I64))
        frame.set("first", k)
        return self.start(n, k)

    def panel(self, n: ir.Value, k: ir.Value, valid: ir.Value, depth: ir.Value) -> ir.Value:
        """The panel for the micro-kernels, just decoded."""
        context, panel = self.context, self.context.at("b_offset")
        words = [self.start(n, k), *self._parameters(n), self.group, k, depth, panel]
        context.builder.call(self.decoder, words)
        return panel

    def _parameters(self, n: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The scales and zero points of the panel at column n."""
        builder = self.context.builder
        count = builder.mul(builder.udiv(n, I64(self.width)), self.parameters)
        scales = move(builder, self.scales, builder.mul(count, I64(4)))
        return scales, move(builder, self.zeros, builder.mul(count, I64(self.coding.zero_bytes)))
