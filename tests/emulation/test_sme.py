"""SME under emulation: products of every form, epilogues, zero points, windows, special values, each with the bits of
the unit's meaning, with vectors of streaming mode of several lengths."""

from __future__ import annotations

from dataclasses import replace

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.jit import target_machine
from backends.native.kernel import SLOT_FIRST_INPUT
from backends.native.target import Target, named
from backends.native.units import MatrixUnit, sme
from compiler import dtypes
from compiler.expr import COMPOSITES, apply, arg
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec, KernelCall, View
from tests.backends.native import harness
from tests.backends.native.forced import (
    FRESH,
    PACKED,
    SCATTERED,
    TRANSPOSED,
    Form,
    defined,
    draw,
    finished,
    use,
    zero_points,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply
from tests.backends.native.test_gemm_epilogues import parts
from tests.backends.native.test_gemm_special_values import special
from tests.emulation.aarch64 import CPU, Processor, processor
from tests.emulation.aarch64_counts import CountingProcessor

USUAL = 64
LENGTHS = (16, 32, 128)
FORMS = (FRESH, PACKED, TRANSPOSED, SCATTERED)
UNITS = sme.units(USUAL)


def target_of(length: int) -> Target:
    return replace(named("armv9-sme"), streaming=length)


TARGET = target_of(USUAL)


def name_of(value: object) -> str:
    return value.name if isinstance(value, MatrixUnit) else str(value)


def shapes(unit: MatrixUnit) -> tuple[tuple[int, int, int], ...]:
    """Every tail of tiles and grids, and of the depth."""
    m, n, k = unit.m, unit.n, unit.k
    return (
        (1, 1, 1),
        (m - 1, n + 1, k + 1),
        (m, 2 * n, 4 * k),
        (m + 1, 2 * n - 1, 3 * k - 1),
        (2 * m, 3 * n + 2, 7),
        (2 * m + 3, 4 * n + 1, 33),
        (5 * m - 2, n, 2),
        (3, 5, 0),
    )


def products(unit: MatrixUnit, form: Form, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all shapes, by one kernel."""
    use(monkeypatch, unit)
    for m, n, k in shapes(unit):
        a, b, operands = draw((m, k), unit.a, form.a), draw((k, n), unit.b, form.b), form.operands(unit, m, n)
        found = form.run(unit, a, b, operands, target=target, threads=2)
        for value, expected in zip(found, form.expected(unit, a, b, operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_products(unit: MatrixUnit, form: Form, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    products(unit, form, TARGET, monkeypatch)


@pytest.fixture(params=LENGTHS, ids=lambda length: f"{8 * length} bits")
def length(request: pytest.FixtureRequest, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> int:
    """Another length of vectors, and a processor that has it."""
    other = processor(CPU.replace(f"length={USUAL}", f"length={request.param}"))
    monkeypatch.setattr(harness, "execute", other.execute)
    return request.param


@pytest.mark.parametrize("number", range(len(UNITS)))
def test_other_lengths(number: int, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    products(sme.units(length)[number], FORMS[(number + LENGTHS.index(length)) % 4], target_of(length), monkeypatch)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_epilogues(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """All parts on a tile: bias, residual, activations, requantised bytes, every type."""
    use(monkeypatch, unit)
    outputs = parts(unit)
    real = unit.acc if unit.acc.is_float else dtypes.float32
    kinds, classes = (unit.acc,) * 3 + (real,), (UNIT, BROADCAST, UNIT, UNIT)
    outs = (GENERAL, *(UNIT,) * (len(outputs) - 1))
    spec = GemmSpec(unit.a, unit.b, unit.acc, 0, "row", "row", True, outputs, kinds, classes, outs)
    orders = [(1, 0), *[None] * (len(outputs) - 1)]
    for m, n, k in ((1, unit.n - 1, 3), (2 * unit.m + 1, 4 * unit.n + 1, 2 * unit.k + 1)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        operands = [draw((n,), unit.acc), draw((m, 1), unit.acc), draw((m, n), unit.acc), draw((n,), real)]
        options = {"operands": operands, "epilogue": outputs, "constant": True, "symbolic": True, "depth_known": False}
        found = multiply(a, b, spec=spec, out_orders=orders, target=TARGET, **options)
        for value, expected in zip(found, finished(outputs, defined(unit, a, b), operands), strict=True):
            assert_same(value, expected)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_blocks_of_k_resume(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From tiles that earlier ones left."""
    use(monkeypatch, unit)
    cut = Blocking(4 * unit.m, 96, 2 * unit.m, 16, 1, True, True)
    monkeypatch.setattr(gemm, "blocking", lambda *_: cut)
    for m, n, k in ((unit.m + 2, 2 * unit.n - 1, 50), (5 * unit.m + 1, 4 * unit.n + 3, 48)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        for form in (PACKED, FRESH):
            operands = form.neutral(unit, m, n)
            assert_same(form.run(unit, a, b, operands, target=TARGET)[0], defined(unit, a, b))


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.acc.is_integer], ids=name_of)
def test_zero_points_from_sums(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    for constant in (True, False):
        spec = GemmSpec(*kinds, unit.acc, 0, "row", "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
        for m, n, k in shapes(unit)[1:6]:
            a, b, za, zb = draw((m, k), unit.a), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
            options = {"operands": [za, zb], "epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True}
            expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
            assert_same(multiply(a, b, depth_known=False, target=TARGET, **options)[0], expected)


@pytest.mark.parametrize("unit", UNITS, ids=name_of)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    padded = np.zeros((2, 8, 7, channels), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), params=params, target=TARGET)[0]
    assert_same(found, defined(unit, columns, b))


@pytest.mark.parametrize("unit", [unit for unit in UNITS if unit.acc.is_float], ids=name_of)
def test_special_values(unit: MatrixUnit, aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for share in (0.02, 0.3):
        a, b = special((9, 7), unit.a, share), special((7, 2 * unit.n + 1), unit.b, share)
        operands = PACKED.neutral(unit, 9, 2 * unit.n + 1)
        expected = PACKED.expected(unit, a, b, operands)[0]
        assert_same(PACKED.run(unit, a, b, operands, target=TARGET)[0], expected)


@pytest.mark.parametrize("lanes", [16, 64])
def test_every_function_in_streaming_mode(
    lanes: int, rng: np.random.Generator, aarch64: Processor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rare sides of functions too, in whole vectors and in tails."""
    unit = UNITS[0]
    use(monkeypatch, unit)
    m, n = 5, lanes + 3
    x = np.concatenate([rng.standard_normal(m * n - 40) * 8, np.exp(rng.standard_normal(40) * 30)]).astype(np.float32)
    x = rng.permutation(x).reshape(m, n)
    one = np.ones((m, 1), np.float32)
    for name, count in COMPOSITES.items():
        expr = apply(name, *(arg(i, dtypes.float32) for i in (1, 2)[:count])) + arg(0, dtypes.float32)
        operands = [x, x[::-1].copy()][:count]
        found = multiply(one, np.zeros((1, n), np.float32), operands=operands, epilogue=(expr,), constant=True,
                         target=TARGET)  # fmt: skip
        assert_same(found[0], finished((expr,), np.zeros((m, n), np.float32), operands)[0])


def test_instructions_are_as_many_as_the_product_needs(aarch64: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each kind, counted as they execute: no tile multiplies padding only, the mode is entered once for a block."""
    counting = CountingProcessor()
    monkeypatch.setattr(harness, "execute", counting.execute)
    for unit, (m, n, k), constant in zip(UNITS, COUNTED, (True, False) * 4, strict=True):
        use(monkeypatch, unit)
        multiply(draw((m, k), unit.a), draw((k, n), unit.b), constant=constant, target=TARGET)
        rows, columns, steps = -(-m // unit.m), -(-n // unit.n), -(-k // unit.k)
        executed = counting.executed()
        assert executed["outer product"] == rows * columns * steps, unit.name
        assert executed["zero"] == rows * columns
        assert executed["tile row from memory"] == 0
        assert executed["tile row to memory"] + executed["tile row to vector"] == rows * columns * unit.m
        assert executed["mode switch"] == 4  # streaming mode and tiles, on and off


# Known sizes: whole grids, and tails of both sides.
COUNTED = ((32, 32, 5), (17, 20, 9), (33, 40, 12), (16, 64, 7), (31, 33, 30), (48, 16, 9), (5, 7, 4), (64, 65, 3))

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
    assert_same(np.frombuffer(after[2], np.float32).reshape(20, 40), defined(UNITS[0], a, b))


def assembled(text: str, target: Target) -> bytes:
    """The object file of a module given as text."""
    machine = target_machine(target)
    module = llvm.parse_assembly(text)
    module.verify()
    return bytes(machine.emit_object(module))
