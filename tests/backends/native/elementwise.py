"""Runs expressions natively over arrays, for tests of the emitter and of mathlib."""

from __future__ import annotations

import ctypes

import numpy as np
from llvmlite import ir

from backends.native.emitter import ExprEmitter
from backends.native.jit import Engine
from backends.native.target import Target, host
from backends.native.vectors import llvm_type, load_vector, store_vector, tail_mask
from compiler.dtypes import DType
from compiler.expr import Expr, walk

I64 = ir.IntType(64)


def operands(expr: Expr) -> dict[int, DType]:
    """The types of the operands of `expr`, by ascending number."""
    return dict(sorted((node.value, node.dtype) for node in walk(expr) if node.op == "arg"))


def elementwise_module(expr: Expr, lanes: int) -> ir.Module:
    """void kernel(count, operand pointers..., result pointer): a loop of `lanes` at a time, all of it masked."""
    module, types = ir.Module("test"), operands(expr)
    pointers = [llvm_type(dtype).as_pointer() for dtype in (*types.values(), expr.dtype)]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, *pointers]), "kernel")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    entry, head, body, done = builder.block, *(function.append_basic_block(n) for n in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    position = builder.phi(I64)
    position.add_incoming(I64(0), entry)
    builder.cbranch(builder.icmp_signed("<", position, function.args[0]), body, done)
    builder.position_at_end(body)
    mask = tail_mask(builder, builder.sub(function.args[0], position), lanes)
    arguments = dict(zip(types, function.args[1:-1], strict=True))

    def leaf(node: Expr) -> ir.Value:
        return load_vector(builder, builder.gep(arguments[node.value], [position]), node.dtype, lanes, mask)

    value = ExprEmitter(builder, lanes, leaf).emit(expr)
    store_vector(builder, value, builder.gep(function.args[-1], [position]), expr.dtype, mask)
    position.add_incoming(builder.add(position, I64(lanes)), builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    builder.ret_void()
    return module


class Elementwise:
    """`expr` compiled for arrays: call it with one 1-d array per operand number, in ascending order."""

    def __init__(self, expr: Expr, lanes: int = 16, target: Target | None = None) -> None:
        self.expr = expr
        self.engine = Engine(target or host())
        self.engine.add(elementwise_module(expr, lanes))
        kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, *[ctypes.c_void_p] * (len(operands(expr)) + 1))
        self.function = kind(self.engine.address("kernel"))

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        contiguous = [np.ascontiguousarray(a) for a in arrays]
        (count,) = {a.size for a in contiguous}
        out = np.empty(count, self.expr.dtype.numpy)
        self.function(count, *[a.ctypes.data for a in contiguous], out.ctypes.data)
        return out
