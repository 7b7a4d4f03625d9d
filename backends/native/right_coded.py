"""The B side of a GEMM kernel whose B is stored as codes: decoded into scratch panel by panel, or, for few rows, by
their micro-kernel."""

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
        """Turn to the next block of rows: the first decodes, the others read what is kept, and prefetch the next panel
        of it."""
        context, builder, unit = self.context, self.context.builder, self.context.unit
        self.is_stale = builder.or_(is_first, builder.icmp_signed("==", context.word["b_step"], I64(0)))
        step = builder.udiv(I64(self.width * unit.k * unit.b.bytes), row_blocks)
        self.prefetch_step = builder.select(self.is_stale, I64(0), step)
        self.once = builder.icmp_signed("==", row_blocks, I64(1))
        context.frame.set("prefetch_step", self.prefetch_step)

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
        """The panel for the micro-kernels, decoded for the item's first block."""
        context, builder = self.context, self.context.builder
        number = builder.udiv(builder.sub(n, self.first_column), I64(self.width))
        offset = builder.add(builder.mul(number, context.word["b_step"]), builder.mul(k, context.word["k_step"]))
        panel = move(builder, context.at("b_offset"), offset)
        with builder.if_then(self.is_stale):
            builder.call(self.decoder, [self.start(n, k), *self._parameters(n), self.group, k, depth, panel])
        return panel

    def _parameters(self, n: ir.Value) -> tuple[ir.Value, ir.Value]:
        """The scales and zero points of the panel at column n."""
        builder = self.context.builder
        count = builder.mul(builder.udiv(n, I64(self.width)), self.parameters)
        scales = move(builder, self.scales, builder.mul(count, I64(4)))
        return scales, move(builder, self.zeros, builder.mul(count, I64(self.coding.zero_bytes)))
