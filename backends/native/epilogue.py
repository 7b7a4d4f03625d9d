"""GEMM epilogues: expressions over accumulators and operands, straight from registers or row by row from a tile.

Short expressions are emitted into the micro-kernel and read its accumulators where they are. Long ones would be
repeated for every accumulator, so there the micro-kernel leaves a tile in scratch (it stays in L1) and one function
walks it; tail columns always go that way, with masked loads and stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from backends.native.access import Operand, cost
from backends.native.emitter import ExprEmitter
from backends.native.frame import FRAME, Frame, Member, move
from backends.native.kernel import I64, POINTER, define_helper
from backends.native.loops import counted_loop, smaller
from backends.native.sums import COLUMN, wanted
from backends.native.vectors import concatenate, llvm_type, load_vector, split, tail_mask
from compiler.dtypes import DType
from compiler.expr import Expr, arg
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec

DIRECT_COST = 6  # instructions an accumulator may take in the micro-kernel
ROWS_TOGETHER = 2  # four spill

Row = Sequence[tuple[Operand, ir.Value]]  # every member with its row's byte offset


@dataclass(frozen=True)
class Epilogue:
    """What becomes of the accumulators: `outputs` over arg 0 (type `acc`) and the operands, in vectors of `lanes`.
    `sums`: which sums they read; each is one more operand, of rows or columns."""

    outputs: tuple[Expr, ...]
    acc: DType
    inputs: tuple[Member, ...]
    stores: tuple[Member, ...]
    lanes: int
    sums: tuple[int, ...] = ()

    @staticmethod
    def of(spec: GemmSpec, lanes: int) -> Epilogue:
        """The epilogue of a spec; none at all means the plain product."""
        outputs = spec.epilogue or (arg(0, spec.acc),)
        inputs = tuple(map(Member, spec.epilogue_inputs, spec.epilogue_classes))
        stores = tuple(map(Member, (e.dtype for e in outputs), spec.out_classes))
        return Epilogue(outputs, spec.acc, inputs, stores, lanes, wanted(outputs))

    @property
    def members(self) -> tuple[Member, ...]:
        """Operands, outputs, sums: the order they have in a frame."""
        sums = (Member(self.acc, UNIT if which == COLUMN else BROADCAST) for which in self.sums)
        return (*self.inputs, *self.stores, *sums)

    def sum_member(self, which: int) -> int:
        """The number of the member that sums of rows or columns are."""
        return len(self.inputs) + len(self.stores) + self.sums.index(which)

    @property
    def direct(self) -> bool:
        """Whether it is short enough for the micro-kernel."""
        return cost(self.outputs) <= DIRECT_COST and all(m.stride_class != GENERAL for m in self.members)

    def apply(
        self,
        builder: ir.IRBuilder,
        frame: Frame,
        accs: Sequence[ir.Value],
        rows: Sequence[Row],
        column: ir.Value,
        mask: ir.Value | None,
    ) -> None:
        """Compute and store `lanes` columns from `column` on, of one row or several side by side in one long vector."""

        def leaf(node: Expr) -> ir.Value:
            if node.op == "extent":
                return _integer(builder, frame.get("k"), llvm_type(node.dtype))
            if node.op == "arg" and node.value == 0:
                return concatenate(builder, accs)
            member = node.value - 1 if node.op == "arg" else self.sum_member(node.value)
            loads = (row[member] for row in rows)
            return concatenate(builder, [o.load(builder, at, column, self.lanes, mask) for o, at in loads])

        emitter = ExprEmitter(builder, self.lanes * len(rows), leaf)
        # Every value before any store: an output may lie where an operand is read.
        values = [split(builder, emitter.emit(expr), len(rows)) for expr in self.outputs]
        for number, parts in enumerate(values, len(self.inputs)):
            for value, row in zip(parts, rows, strict=True):
                operand, at = row[number]
                operand.store(builder, value, at, column, mask)

    def operands(self, frame: Frame) -> list[tuple[Operand, ir.Value]]:
        """Every member with its row stride in bytes, read from the frame."""
        return [frame.operand(number, member) for number, member in enumerate(self.members)]

    def define(self, module: ir.Module, name: str, attributes: Sequence[str]) -> ir.Function:
        """void name(frame, tile, tile row bytes, rows, columns, m, n): the epilogue of a tile whose first element is
        (m, n) of C, in a function of these attributes."""
        function, builder = define_helper(module, name, [FRAME, POINTER, I64, I64, I64, I64, I64], attributes)
        words, tile, tile_row, rows, columns, m, n = function.args
        frame = Frame(builder, words)
        rest = builder.urem(columns, I64(self.lanes))
        full = builder.sub(columns, rest)
        mask = tail_mask(builder, rest, self.lanes)
        operands = self.operands(frame)

        last = builder.sub(rows, I64(1))

        def some_rows(first: ir.Value, _: list[ir.Value]) -> list[ir.Value]:
            # Several rows side by side have chains enough to fill the machine; beyond the last row, it is repeated.
            numbers = [smaller(builder, builder.add(first, I64(r)), last) for r in range(ROWS_TOGETHER)]
            starts = [move(builder, tile, builder.mul(r, tile_row)) for r in numbers]
            members = [row_of(builder, operands, builder.add(m, r)) for r in numbers]

            def vectors(c: ir.Value, lanes_on: ir.Value | None) -> list[ir.Value]:
                offset = builder.mul(c, I64(self.acc.bytes))
                accs = [load_vector(builder, move(builder, start, offset), self.acc, self.lanes) for start in starts]
                self.apply(builder, frame, accs, members, builder.add(n, c), lanes_on)
                return []

            counted_loop(builder, I64(0), full, I64(self.lanes), [], lambda c, _: vectors(c, None))
            with builder.if_then(builder.icmp_signed(">", rest, I64(0))):
                vectors(full, mask)
            return []

        counted_loop(builder, I64(0), rows, I64(ROWS_TOGETHER), [], some_rows)
        builder.ret_void()
        return function


def _integer(builder: ir.IRBuilder, value: ir.Value, kind: ir.Type) -> ir.Value:
    return value if kind == value.type else builder.trunc(value, kind)


def row_of(builder: ir.IRBuilder, operands: Sequence[tuple[Operand, ir.Value]], m: ir.Value) -> Row:
    """The operands with the byte offset of row `m` instead of their row stride."""
    return [(operand, builder.mul(m, stride)) for operand, stride in operands]
