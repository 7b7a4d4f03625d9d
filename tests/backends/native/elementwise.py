"""Runs expressions natively over arrays, for tests of the emitter and of mathlib."""

from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import ir

from backends.native.emitter import ExprEmitter, llvm_type, load_vector, store_vector, tail_mask
from backends.native.jit import Engine
from backends.native.target import host
from compiler.expr import Expr, arguments, walk

I64 = ir.IntType(64)


class Elementwise:
    """`expr` compiled as a loop over 1-d arrays, `lanes` at a time, with a masked tail."""

    def __init__(self, expr: Expr, lanes: int = 16) -> None:
        self.expr, self.lanes = expr, lanes
        self.dtypes = {n.value: n.dtype for n in walk(expr) if n.op == "arg"}
        self.numbers = arguments(expr)
        module = ir.Module("test")
        self._emit(module)
        self.engine = Engine(host())
        self.engine.add(module)
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (len(self.numbers) + 1))
        self.function = kind(self.engine.address("kernel"))

    def _emit(self, module: ir.Module) -> None:
        types = [llvm_type(self.dtypes[n]).as_pointer() for n in self.numbers]
        signature = ir.FunctionType(ir.VoidType(), [I64, *types, llvm_type(self.expr.dtype).as_pointer()])
        function = ir.Function(module, signature, "kernel")
        builder = ir.IRBuilder(function.append_basic_block("entry"))
        entry, head, body, done = builder.block, *(function.append_basic_block(n) for n in ("head", "body", "done"))
        builder.branch(head)
        builder.position_at_end(head)
        position = builder.phi(I64)
        position.add_incoming(I64(0), entry)
        builder.cbranch(builder.icmp_signed("<", position, function.args[0]), body, done)
        builder.position_at_end(body)
        mask = tail_mask(builder, builder.sub(function.args[0], position), self.lanes)

        def leaf(node: Expr) -> ir.Value:
            pointer = function.args[1 + self.numbers.index(node.value)]
            return load_vector(builder, builder.gep(pointer, [position]), node.dtype, self.lanes, mask)

        value = ExprEmitter(builder, self.lanes, leaf).emit(self.expr)
        store_vector(builder, value, builder.gep(function.args[-1], [position]), self.expr.dtype, mask)
        position.add_incoming(builder.add(position, I64(self.lanes)), builder.block)
        builder.branch(head)
        builder.position_at_end(done)
        builder.ret_void()

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        """The result for one array per operand number, in ascending order."""
        arrays = tuple(np.ascontiguousarray(a) for a in arrays)
        count = arrays[0].size
        assert all(a.shape == (count,) for a in arrays)
        out = np.empty(count, self.expr.dtype.numpy)
        self.function(count, *[a.ctypes.data for a in arrays], out.ctypes.data)
        return out
