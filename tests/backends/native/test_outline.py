"""Code moved into a function of its own computes what it would have computed in place."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
from llvmlite import ir

from backends.native.jit import Engine
from backends.native.kernel import I64
from backends.native.outline import outlined
from backends.native.target import host
from backends.native.vectors import I1

PAIR = ir.LiteralStructType([I64, I64])


def chosen(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, pair: ir.Value) -> ir.Value:
    """By a switch and a phi over values from outside."""
    one, other, after = (builder.append_basic_block(name) for name in ("one", "other", "after"))
    builder.switch(x, other).add_case(7, one)
    for block in (one, other):
        builder.position_at_end(block)
        builder.branch(after)
    builder.position_at_end(after)
    phi = builder.phi(I64)
    phi.add_incoming(y, one)
    phi.add_incoming(x, other)
    return phi


def element(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, pair: ir.Value) -> ir.Value:
    return builder.sub(builder.extract_value(pair, 0), builder.extract_value(pair, 1))


def inserted(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, pair: ir.Value) -> ir.Value:
    return element(builder, x, y, builder.insert_value(pair, y, 0))


def selected(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, pair: ir.Value) -> ir.Value:
    return builder.select(builder.trunc(x, I1), x, y)


BODIES = {chosen: 30, element: 7 - 30, inserted: 0, selected: 7}


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_values_of_the_functions_around_are_there(body: Callable[..., ir.Value], depth: int) -> None:
    """Of those directly around, and of those around them."""
    module = ir.Module("outlined")
    function = ir.Function(module, ir.FunctionType(I64, [I64, I64]), "whole")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    x, y = function.args
    result = builder.alloca(I64)
    pair = builder.insert_value(builder.insert_value(ir.Constant(PAIR, ir.Undefined), x, 0), y, 1)

    def inside(levels: int) -> None:
        if levels:
            outlined(builder, f"part{levels}", (), lambda: inside(levels - 1))
        else:
            builder.store(body(builder, x, y, pair), result)

    inside(depth)
    builder.ret(builder.load(result))
    engine = Engine(host())
    engine.add(module)
    whole = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(engine.address("whole"))
    assert whole(7, 30) == BODIES[body]
