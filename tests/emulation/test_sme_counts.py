"""What SME kernels execute, counted, and what they owe to whoever used the tiles before."""

from __future__ import annotations

from dataclasses import replace

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from backends.native import gemm
from backends.native.jit import target_machine
from backends.native.kernel import SLOT_FIRST_INPUT
from backends.native.target import Target, named
from backends.native.units import sme
from compiler import dtypes
from compiler.kernels import UNIT, GemmSpec, KernelCall, View
from tests.backends.native import harness
from tests.backends.native.forced import defined, draw, use
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply
from tests.emulation.aarch64 import CPU, Processor
from tests.emulation.aarch64_counts import FOREIGN, CountingProcessor

USUAL = 64
TARGET = named("armv9-sme")
# Known sizes in tiles and elements more: whole grids, and tails of both sides.
COUNTED = (((2, 0), (2, 0), 5), ((1, 1), (1, 4), 9), ((2, 1), (2, 8), 12), ((1, 0), (4, 0), 7), ((1, 15), (2, 1), 30),
           ((3, 0), (1, 0), 9), ((0, 5), (0, 7), 4), ((4, 0), (4, 1), 3))  # fmt: skip


@pytest.mark.parametrize(
    "length", [USUAL, *(pytest.param(width, marks=pytest.mark.units) for width in sme.WIDTHS if width != USUAL)]
)
def test_instructions_are_as_many_as_the_product_needs(
    length: int, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each kind, counted as they execute: no tile multiplies padding only, the mode is entered once for a block."""
    counting = CountingProcessor(CPU.replace(f"length={USUAL}", f"length={length}"))
    monkeypatch.setattr(harness, "execute", counting.execute)
    for unit, ((m, more_m), (n, more_n), k), constant in zip(
        sme.units(length), COUNTED, (True, False) * 4, strict=True
    ):
        use(monkeypatch, unit)
        m, n = m * unit.m + more_m, n * unit.n + more_n
        multiply(
            draw((m, k), unit.a), draw((k, n), unit.b), constant=constant, target=replace(TARGET, streaming=length)
        )
        rows, columns, steps = -(-m // unit.m), -(-n // unit.n), -(-k // unit.k)
        executed = counting.executed()
        assert executed["outer product"] == rows * columns * steps, unit.name
        assert executed["zero"] == rows * columns
        assert executed["tile row from memory"] == 0
        assert executed["tile row to memory"] + executed["tile row to vector"] == rows * columns * unit.m
        assert executed["mode switch"] == 4  # streaming mode and tiles, on and off
        assert executed[FOREIGN] == 0, "a machine with SME and without SVE would stop here"


CALLER = """
declare void @llvm.aarch64.sme.ldr(i32, ptr, i32)
define void @caller(ptr %args, ptr %slots, i64 %chunk, ptr %scratch) nounwind {{
entry:
  %s = getelementptr ptr, ptr %slots, i64 {first}
  %rows = load ptr, ptr %s
  %t = getelementptr ptr, ptr %slots, i64 {second}
  %block = load ptr, ptr %t
  %u = getelementptr ptr, ptr %slots, i64 {third}
  %kept = load ptr, ptr %u
  call void @llvm.aarch64.sme.za.enable()
  br label %fill
fill:
  %i = phi i64 [0, %entry], [%next, %fill]
  %offset = mul i64 %i, {length}
  %from = getelementptr i8, ptr %rows, i64 %offset
  %row = trunc i64 %i to i32
  call void @llvm.aarch64.sme.ldr(i32 %row, ptr %from, i32 0)
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, {length}
  br i1 %more, label %fill, label %dormant
dormant:
  store ptr %kept, ptr %block
  %count = getelementptr i8, ptr %block, i64 8
  store i64 {length}, ptr %count
  %asked = ptrtoint ptr %block to i64
  call void @llvm.aarch64.sme.set.tpidr2(i64 %asked)
  call void @{kernel}(ptr %args, ptr %slots, i64 %chunk, ptr %scratch)
  %after = call i64 @llvm.aarch64.sme.get.tpidr2()
  store i64 %after, ptr %block
  call void @llvm.aarch64.sme.set.tpidr2(i64 0)
  call void @llvm.aarch64.sme.za.disable()
  ret void
}}
"""


def test_tiles_that_a_caller_left_are_saved(aarch64: Processor, rng: np.random.Generator) -> None:
    """The lazy saving scheme: the kernel stores them where the caller said, and says so."""
    a, b, c = draw((20, 9), dtypes.float32), draw((9, 40), dtypes.float32), np.zeros((20, 40), np.float32)
    views = [View(name, dtypes.float32, x.shape, (x.shape[1], 1)) for name, x in zip("abc", (a, b, c), strict=True)]
    spec = GemmSpec(*[dtypes.float32] * 3, 0, "row", "row", False, (), (), (), (UNIT,))
    call = KernelCall(spec, tuple(views[:2]), tuple(views[2:]))
    kernel = gemm.select(call, TARGET)
    module = ir.Module("caller")
    kernel.emit(module)
    slots = {name: SLOT_FIRST_INPUT + 3 + i for i, name in enumerate(("first", "second", "third"))}
    text = str(module) + CALLER.format(kernel=kernel.name, length=USUAL, **slots)
    planned = kernel.arguments(call, int, 1)
    words: list[int] = []
    for word in planned.words:
        words += [SLOT_FIRST_INPUT + "abc".index(word.buffer), 0] if isinstance(word, View) else [int(word)]
    rows = rng.bytes(USUAL * USUAL)
    contents = [a.tobytes(), b.tobytes(), c.tobytes(), rows, bytes(16), bytes(USUAL * USUAL)]
    entry = aarch64.load(assembled(text, TARGET), "caller")
    _, after, wrong = aarch64.run(entry, words, [(content, 0) for content in contents], [0], planned.scratch)
    assert not wrong
    assert after[5] == rows
    assert after[4][:8] == bytes(8), "the caller would not know that its tiles were saved"
    assert_same(np.frombuffer(after[2], np.float32).reshape(20, 40), defined(sme.units(USUAL)[0], a, b))


def assembled(text: str, target: Target) -> bytes:
    """The object file of a module given as text."""
    machine = target_machine(target)
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))
