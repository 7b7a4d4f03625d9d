"""What emitting a reduction needs in either loop order: operands, odometers, the loop over rows, scratch, leaves."""

from __future__ import annotations

from llvmlite import ir

from backends.native.access import read_operands
from backends.native.conversions import emit_cast
from backends.native.kernel import I64, ArgumentReader, declare_kernel
from backends.native.loops import Odometer, Values, counted_loop, smaller
from backends.native.reduce_plan import ReducePlan
from backends.native.vectors import llvm_type, load_vector, store_vector
from compiler import dtypes
from compiler.expr import Expr


class ReduceEmission:
    """Reads the argument block (see ReduceKernel.arguments) and walks the rows of a chunk."""

    def __init__(self, plan: ReducePlan, module: ir.Module, name: str) -> None:
        self.plan, self.spec, self.lanes = plan, plan.spec, plan.lanes
        function = declare_kernel(module, name)
        _, _, self.chunk, self.scratch = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._read_arguments(ArgumentReader(self.builder, function))

    def _read_arguments(self, reader: ArgumentReader) -> None:
        spec, row = self.spec, self.spec.vector_axis == "row"
        outputs = (*spec.element_outputs, *spec.row_outputs)
        dtypes_ = (*spec.inputs, *(root.dtype for root in outputs))
        self.operands = read_operands(reader, dtypes_, (*spec.in_classes, *spec.out_classes))
        self.writes = self.operands[len(spec.inputs) :]
        self.length, self.rows, self.per_chunk, self.extent = (reader.integer() for _ in range(4))
        self.pieces, self.piece = (I64(1), self.extent) if row else (reader.integer(), reader.integer())
        self.kept_at = {stage: reader.integer() for stage in self.plan.stored}
        self.outer = self._odometer(reader, spec.outer if row else spec.outer - 1)
        self.reduced = self._odometer(reader, spec.reduced - 1 if row else spec.reduced)

    def _odometer(self, reader: ArgumentReader, rank: int) -> Odometer:
        extents = [reader.integer() for _ in range(rank)]
        return Odometer(self.builder, extents, [[reader.integer() for _ in range(rank)] for _ in self.operands])

    def emit_rows(self) -> None:
        """The whole kernel: `row` for every row of the chunk."""
        builder, outer = self.builder, self.outer
        self.start = builder.mul(builder.urem(self.chunk, self.pieces), self.piece)
        self.stop = smaller(builder, builder.add(self.start, self.piece), self.extent)
        first = builder.mul(builder.udiv(self.chunk, self.pieces), self.per_chunk)
        last = smaller(builder, builder.add(first, self.per_chunk), self.rows)

        def body(_: ir.Value, state: Values) -> Values:
            self.row(outer.indices(state), outer.offsets(state))
            return outer.next(state)

        counted_loop(builder, first, last, I64(1), outer.at(first), body)
        builder.ret_void()

    def row(self, indices: Values, offsets: Values) -> None:
        """Emit the work on the row at `indices` of the outer axes; `offsets` are the operands' byte offsets."""
        raise NotImplementedError

    def load_kept(self, node: Expr, flat: ir.Value, lanes: int) -> ir.Value:
        """Stored elements `flat`, `flat` + 1, ... of the stage that leaf `node` names. Unmasked: scratch is padded."""
        return load_vector(self.builder, self._kept_address(node.value, flat), node.dtype, lanes)

    def store_kept(self, stage: int, value: ir.Value, flat: ir.Value) -> None:
        """Store elements `flat`, `flat` + 1, ... of a stage."""
        store_vector(self.builder, value, self._kept_address(stage, flat), self.plan.stages[stage].expr.dtype)

    def _kept_address(self, stage: int, flat: ir.Value) -> ir.Value:
        element = llvm_type(self.plan.stages[stage].expr.dtype)
        start = self.builder.gep(self.scratch, [self.kept_at[stage]])
        return self.builder.gep(self.builder.bitcast(start, element.as_pointer()), [flat])

    def extent_value(self, node: Expr) -> ir.Value:
        """The row length in the leaf's type."""
        return emit_cast(self.builder, self.length, dtypes.int64, node.dtype)
