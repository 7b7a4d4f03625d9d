"""The micro-kernel for few rows and a B stored as codes: these are decoded in registers, between two multiply-adds, and
memory is read for nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from backends.native.coding import Coding, Place, walk
from backends.native.frame import Frame, move
from backends.native.kernel import I64, POINTER
from backends.native.loops import Values
from backends.native.microkernel import MicroKernel


@dataclass(frozen=True)
class CodedMicroKernel(MicroKernel):
    """A grid whose one panel is at `b` as words (see coding); scales, zero points and the first row come from the
    frame."""

    coding: Coding

    @property
    def name(self) -> str:
        """Unique among the micro-kernels of one kernel."""
        return f"codes_{super().name}"

    def _multiply(
        self,
        builder: ir.IRBuilder,
        frame: Frame,
        accs: list[ir.Value | int],
        a: ir.Value,
        b: ir.Value,
        depth: ir.Value,
        prefetch: ir.Value,
    ) -> list[ir.Value | int]:
        unit, wide, deep = self.unit, self.columns, self.unit.k
        row_stride, k_stride = frame.get("a_row"), frame.get("a_k")
        rows = [move(builder, a, builder.mul(row_stride, I64(i))) for i in range(self.rows)]
        scales, zeros = (builder.inttoptr(frame.get(field), POINTER) for field in ("scales", "zeros"))
        place = Place(b, scales, zeros, frame.get("group"), frame.get("first"))

        def step(values: list[ir.Value], _: ir.Value, carried: Values) -> Values:
            position, *current = carried
            columns = []
            for j in range(wide):
                stored = unit.stored_b(builder, values[j * deep : (j + 1) * deep])
                columns.append(unit.held_b(builder, stored))
            after = []
            for i, row in enumerate(rows):
                element = unit.load_a(builder, move(builder, row, position), row_stride)
                after += [unit.mma(builder, current[i * wide + j], element, columns[j]) for j in range(wide)]
            return [builder.add(position, k_stride), *after]

        return list(walk(builder, self.coding, place, depth, [I64(0), *accs], step)[1:])
