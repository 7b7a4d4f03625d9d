"""Products with B stored as codes, forced on every unit of floats: the bits of the dequantized product whatever codes,
groups, zero points, rows, cuts and threads; nothing beside operands is read or written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.executable import Executable
from backends.native.target import host
from backends.native.units import MatrixUnit
from backends.reference.emulator import EmulatedExecutable
from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import symbol
from compiler.dtypes import DType
from compiler.expr import arg, cast
from compiler.kernels import UNIT, GemmSpec, KernelCall
from compiler.ops.core_blocks import CODES, dequantized
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from tests.backends.native import harness
from tests.backends.native.forced import FAMILIES, defined, draw, finished, name_of, use
from tests.backends.native.harness import assert_same
from tests.backends.native.pages import at_page_end, at_page_start
from tests.backends.native.test_samples import Settings, same_bits

UNITS = [unit for unit in FAMILIES if unit.a.is_float and unit.a.bits <= 32 and unit.acc_type and unit.in_order]
WIDEST = [unit for unit in UNITS if unit.isa != "generic"]
RNG = np.random.default_rng(20261129)

SIZES = [(1, 1, 1), (1, 200, 37), (2, 96, 64), (3, 53, 33), (4, 50, 130), (5, 17, 3), (8, 96, 48), (20, 130, 70)]


def coded(k: int, n: int, group: int, codes: DType, zeros: DType | None) -> tuple[np.ndarray, ...]:
    """Random codes [K, N], scales and, if asked for, zero points."""

    def whole(shape: tuple[int, int], kind: DType) -> np.ndarray:
        if kind.is_float:
            return RNG.uniform(-3, 3, shape).astype(kind.numpy)
        low = -(1 << kind.bits - 1) if kind.kind == "int" else 0
        return RNG.integers(low, low + (1 << kind.bits), shape).astype(kind.numpy)

    groups = -(-k // group), n
    scales = RNG.uniform(-0.1, 0.1, groups).astype(np.float32)
    return (whole((k, n), codes), scales, *([] if zeros is None else [whole(groups, zeros)]))


def spec_of(unit: MatrixUnit, bits: int, batch: int = 0) -> GemmSpec:
    """Codes of so many bits and zero points of a kind (none, of the codes' type, floats) that go round from unit to
    unit; every product is finished with a column's and an element's operand."""
    turn, acc = UNITS.index(unit) + bits // 8, unit.acc
    codes = next(code for code in CODES[turn % 2 :] if code.bits == bits)
    zeros = (None, codes, dtypes.float32)[turn % 3]
    epilogue = ((arg(0, acc) + arg(1, acc)) * arg(2, acc),)
    spec = GemmSpec(unit.a, unit.b, acc, batch, "row", "row", True, epilogue, (acc, acc), (UNIT, UNIT), (UNIT,))
    return replace(spec, codes=codes, zeros=zeros)


def multiply(
    spec: GemmSpec,
    a: np.ndarray,
    weights: Sequence[np.ndarray],
    group: int,
    operands: Sequence[np.ndarray] = (),
    known: bool = False,
    threads: int = 1,
    place: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Run the product, by a kernel that knows M and N if asked to; `place` puts everything where it shall lie."""
    codes, *parameters = weights
    shape = (*a.shape[:-1], codes.shape[1])
    out, guards = harness.guarded(shape, spec.acc.numpy, None)
    out = place(out) if place else out
    extras = [np.broadcast_to(o, shape) for o in operands]
    arrays = [place(a) if place else a, codes, *extras, *parameters, out]
    views = [harness.view_of(array, f"b{i}") for i, array in enumerate(arrays)]
    call = KernelCall(spec, tuple(views[:-1]), (views[-1],), (group,))
    unknown = (*shape[:-2], symbol("m"), symbol("n"))
    asked = call if known else replace(call, writes=(replace(views[-1], shape=unknown),))
    kernel = _kernel(gemm.select(asked, host()))
    for read in kernel.packed_reads(call):
        panels = kernel.pack(call, read, arrays[read])
        arrays[read] = place(panels) if place else panels
    planned = kernel.arguments(call, int, threads)
    memory = {view.buffer: array for view, array in zip(views, arrays, strict=True)}
    assert harness.execute(kernel, host(), planned, memory) == 0
    harness.assert_guards(guards)
    return out


@cache
def _kernel(kernel: gemm.GemmKernel) -> gemm.GemmKernel:
    return kernel


def expected(unit: MatrixUnit, a: np.ndarray, weights: Sequence[np.ndarray], group: int) -> np.ndarray:
    codes, scales, zeros = (*weights, None)[:3]
    return defined(unit, a, dequantized(codes, scales, zeros, group, unit.b))


def check(
    unit: MatrixUnit, bits: int, size: tuple[int, int, int], group: int, finishes: bool = False, **how: object
) -> None:
    """One product of random operands; unless it `finishes` its epilogue is neutral."""
    (m, n, k), spec = size, spec_of(unit, bits)
    a, weights = draw((m, k), unit.a), coded(k, n, group, spec.codes, spec.zeros)
    operands = [draw((n,), unit.acc), draw((m, n), unit.acc)]
    if not finishes:
        operands = [np.full_like(operands[0], -0.0), np.ones_like(operands[1])]
    wanted = finished(spec.epilogue, expected(unit, a, weights, group), operands)[0]
    assert_same(multiply(spec, a, weights, group, operands, **how), wanted)


BOTH = pytest.mark.parametrize("bits", [4, 8])


@BOTH
@pytest.mark.parametrize("unit", UNITS, ids=name_of)
def test_sizes_and_groups(unit: MatrixUnit, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for m, n, k in SIZES if unit.isa != "generic" else SIZES[1::2]:
        for group in (16, 32, k):
            check(unit, bits, (m, n, k), group)


@BOTH
@pytest.mark.parametrize("unit", WIDEST, ids=name_of)
def test_rows_and_epilogues(unit: MatrixUnit, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for m in (*range(1, 21), 70):
        check(unit, bits, (m, 101, 47), 16, finishes=True)


@BOTH
@pytest.mark.parametrize("unit", WIDEST, ids=name_of)
def test_cuts_and_threads(unit: MatrixUnit, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """K blocks that begin inside groups, several blocks of rows, items of few rows."""
    use(monkeypatch, unit)
    for cut in (
        Blocking(64, 192, 16, 48, 1, True, False),
        Blocking(64, 192, 64, 16, 1, True, False),
        Blocking(8, 48, 8, 200, 2, True, False),
        Blocking(2, 192, 2, 96, 1, True, False),
    ):
        with monkeypatch.context() as context:
            context.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
            check(unit, bits, (37, 150, 200), 64, threads=2)


@BOTH
@pytest.mark.parametrize("unit", WIDEST, ids=name_of)
def test_nothing_beside_the_operands_is_touched(unit: MatrixUnit, bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for size in ((1, 97, 37), (4, 96, 63), (9, 5, 16), (1, 1, 1)):
        for place in (at_page_end, at_page_start):
            check(unit, bits, size, 16, place=place)


@pytest.mark.parametrize("unit", [unit for unit in WIDEST if unit.a != dtypes.float16], ids=name_of)
def test_chains_end_as_those_of_other_products(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for m in (1, 6):
        check(unit, 4, (m, 49, 8192 + 40), 128)


def test_batches_share_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = WIDEST[0]
    use(monkeypatch, unit)
    spec = spec_of(unit, 4, batch=1)
    weights = coded(40, 60, 16, spec.codes, spec.zeros)
    whole, operands = draw((3, 9, 40), unit.a), [np.full(60, -0.0, np.float32), np.ones((3, 6, 60), np.float32)]
    found = multiply(spec, whole[:, :6], weights, 16, operands)
    for part, rows in zip(found, whole[:, :6], strict=True):
        assert_same(part, expected(unit, rows, weights, 16))


@pytest.mark.parametrize("unit", [unit for unit in WIDEST if unit.a != dtypes.float16], ids=name_of)
def test_special_scales(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infinite, NaN, denormal and great scales give what dequantizing gives, in both paths."""
    use(monkeypatch, unit)
    spec = spec_of(unit, 4)
    codes, scales, *zeros = coded(37, 60, 16, spec.codes, spec.zeros)
    scales[:, :5] = np.array([np.inf, np.nan, 1e-40, 1e-38, 3e38], np.float32)
    for m in (1, 7):
        a, weights = draw((m, 37), unit.a), (codes, scales, *zeros)
        operands = [np.full(60, -0.0, np.float32), np.ones((m, 60), np.float32)]
        assert_same(multiply(spec, a, weights, 16, operands), expected(unit, a, weights, 16))


def test_code_knows_the_sizes_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, WIDEST[0])
    for m in (1, 3, 12):
        check(WIDEST[0], 4, (m, 100, 64), 32, known=True)


@pytest.mark.parametrize("dtype", [dtypes.float32, dtypes.bfloat16, dtypes.float16])
def test_programs_give_the_emulated_bits(dtype: DType) -> None:
    """Batches that are rows, ones that are not, and what follows in the epilogue."""
    for codes, zeros, group in ((dtypes.int4, None, 16), (dtypes.uint8, dtypes.uint8, 37)):
        b = Builder()
        x = b.input("x", TensorType(dtype, (symbol("batch"), 3, 37)))
        given = [b.constant(array) for array in coded(37, 70, group, codes, zeros)]
        product = b.emit("block_matmul", x, *given, group=group)
        turned = b.emit("transpose", x, perm=(1, 0, 2))
        bias = b.constant(draw((70,), dtype))
        value = cast(cast(arg(0, dtype), dtypes.float32) + cast(arg(1, dtype), dtypes.float32), dtype)
        others = b.emit("map", b.emit("block_matmul", turned, *given, group=group), bias, outputs=(value,))
        lowered = lower_graph(b.finish([product, others]))
        assert sum(getattr(call.spec, "codes", None) == codes for call in lowered.calls) == 2  # type: ignore[union-attr]
        executable = Executable(lowered, host(), Settings())
        for batch in (1, 2, 5):
            array = draw((batch * 3, 37), dtype).copy().reshape(batch, 3, 37)
            found = executable.run([array])
            for got, want in zip(found, EmulatedExecutable(lowered, "emulate").run([array]), strict=True):
                assert same_bits(got, want)
