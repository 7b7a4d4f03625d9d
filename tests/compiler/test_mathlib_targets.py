"""The same bits on every machine, and no library call on any."""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import numpy as np
import pytest

from backends.native.jit import target_machine
from backends.native.target import named, names
from compiler import dtypes
from compiler.dtypes import DType
from compiler.evaluate import evaluate
from compiler.expr import COMPOSITES, PRIMITIVES, Expr, apply, arg
from tests.backends.native.elementwise import Elementwise, elementwise_module


def composite(name: str, dtype: DType) -> Expr:
    return apply(name, *(arg(i, dtype) for i in range(COMPOSITES[name])))


@pytest.mark.parametrize("target", [name for name in names() if named(name).runs_here and name != "host"])
@pytest.mark.parametrize("name", COMPOSITES)
def test_same_bits_on_narrower_machines(name: str, target: str) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(500) * 8, np.exp(rng.standard_normal(100) * 30)]).astype(np.float32)
    operands = (x, x[::-1])[: COMPOSITES[name]]
    expr = composite(name, dtypes.float32)
    native = Elementwise(expr, named(target).vector // 4, named(target))(*operands)
    (emulated,) = evaluate([expr], lambda leaf: operands[leaf.value], "emulate")
    np.testing.assert_array_equal(native, emulated)


def calls(expr: Expr, target: str) -> list[str]:
    machine = target_machine(named(target))
    module = elementwise_module(expr, named(target).vector // expr.dtype.bytes)
    module.triple = machine.triple
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    return re.findall(r"^\s+(?:callq?|bl|blr)\s+(\S+)", assembly, re.MULTILINE)


@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v4", "aarch64"])
@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.float64, dtypes.bfloat16, dtypes.float16], ids=str)
def test_no_library_calls(dtype: DType, target: str) -> None:
    for name in COMPOSITES:
        assert calls(composite(name, dtype), target) == [], name
    for name, (count, rule) in PRIMITIVES.items():
        if rule == "same" and name not in ("and", "or", "xor", "not", "shl", "shr"):
            assert calls(apply(name, *(arg(i, dtype) for i in range(count))), target) == [], name
