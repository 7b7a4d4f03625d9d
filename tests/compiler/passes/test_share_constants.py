"""Specs that differ in numbers only become one, with the same results bit for bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from backends.native import target
from backends.native.executable import Executable
from backends.reference.emulator import EmulatedExecutable
from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, cast, const
from compiler.ir import Value
from compiler.kernels import GemmSpec, KernelCall, Lowered, MapSpec, MoveSpec, ReduceSpec, WindowSpec
from compiler.passes.lower import lower
from compiler.passes.share_constants import share_constants
from compiler.pipeline import lower_graph, optimize
from compiler.types import TensorType
from runtime.options import Options

F32 = dtypes.float32
RNG = np.random.default_rng(23)
X = RNG.standard_normal((6, 8)).astype(np.float32)


def specs(lowered: Lowered) -> set:
    return {call.spec for call in lowered.calls if isinstance(call, KernelCall)}


def shared(build: Callable[[Builder, Value], Sequence[Value]]) -> tuple[Lowered, Lowered]:
    """The programs before and after, which give the same bits, natively too."""
    b = Builder()
    x = b.input("x", TensorType(F32, X.shape))
    plain = lower(optimize(b.finish(build(b, x))))
    found = share_constants(plain)
    expected = EmulatedExecutable(plain).run([X])
    for run in (EmulatedExecutable(found), Executable(found, target.host(), Options.resolve(1, False))):
        for ours, theirs in zip(run.run([X]), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    return plain, found


def scaled(b: Builder, x: Value, *factors: float) -> list[Value]:
    return [b.emit("map", x, outputs=(arg(0, F32) * f + 1.0,)) for f in factors]


def test_maps() -> None:
    plain, found = shared(lambda b, x: scaled(b, x, 2, 3, 4))
    assert len(specs(plain)) == 3
    (spec,) = specs(found)
    assert spec.inputs == (F32, F32) and "1.0" in str(spec.outputs)  # what is the same everywhere stays


def test_a_spec_of_its_own_is_not_touched() -> None:
    plain, found = shared(lambda b, x: [*scaled(b, x, 2), b.emit("transpose", x, perm=(1, 0))])
    assert found is plain
    plain, found = shared(lambda b, x: [b.emit("relu", v) for v in scaled(b, x, 2)])
    assert found is plain


def test_equal_numbers_in_one_call_say_nothing() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        return [b.emit("map", x, outputs=(arg(0, F32) * p + q,)) for p, q in ((2, 2), (3, 5), (5, 3))]

    assert len(specs(shared(build)[1])) == 1


def test_shared_subexpressions_stay_shared() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        values = [arg(0, F32) * f for f in (2.0, 3.0)]
        return [b.emit("map", x, outputs=(v * apply("exp", v),)) for v in values]

    (spec,) = specs(shared(build)[1])
    assert len(spec.inputs) == 2


def test_products_windows_and_row_programs() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        results = []
        for half, f in enumerate((0.5, 0.75)):
            w = b.constant(RNG.standard_normal((8, 8)).astype(np.float32))
            results += scaled(b, b.emit("matmul", x, w), f)
            rows = b.emit("slice", x, starts=(3 * half, 0), sizes=(3, 8), steps=(1, 1))
            row = b.emit("softmax", rows, axes=(-1,))
            results += scaled(b, row, f)
            image = b.emit("reshape", x, b.sizes((1, 3, 4, 4)))
            kernel = b.constant(RNG.standard_normal((3, 1, 2, 2)).astype(np.float32))
            size = {"strides": (1, 1), "dilations": (1, 1), "pads": (0,) * 4}
            results += scaled(b, b.emit("conv", image, kernel, group=3, **size), f)
            results += scaled(b, b.emit("pool", image, fn="mean", kernel=(2, 2), **size), f)
        return results

    computing = [[s for s in specs(program) if not isinstance(s, MoveSpec)] for program in shared(build)]
    counts = [Counter(type(spec) for spec in program if "mul" in str(spec)) for program in computing]
    assert counts[0] == {GemmSpec: 2, ReduceSpec: 2, WindowSpec: 2, MapSpec: 2}
    assert counts[1] == {GemmSpec: 1, ReduceSpec: 1, WindowSpec: 1, MapSpec: 1}


def test_zero_points_are_numbers_too() -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        q = cast(arg(0, F32), dtypes.uint8)
        less = [cast(cast(q, dtypes.int32) - cast(const(z, dtypes.uint8), dtypes.int32), F32) for z in (3, 120)]
        return [b.emit("map", x, outputs=(e,)) for e in less]

    assert len(specs(shared(build)[1])) == 1


@pytest.mark.parametrize("exponents", [(2.0, 3.0)])
def test_what_an_expansion_looks_at_stays(exponents: Sequence[float]) -> None:
    def build(b: Builder, x: Value) -> list[Value]:
        return [b.emit("map", x, outputs=(apply("pow", arg(0, F32), const(e, F32)),)) for e in exponents]

    plain, found = shared(build)
    assert found is plain


def quantized_mlp(layers: int) -> Lowered:
    b = Builder()
    x = b.input("x", TensorType(F32, (5, 16)))
    value = x
    for layer in range(layers):
        scale, zero = b.constant(np.float32(0.03 + 0.01 * layer)), b.constant(np.uint8(100 + 7 * layer))
        q = b.emit("quantize_linear", value, scale, zero)
        w = b.constant(RNG.integers(-128, 127, (16, 16)).astype(np.int8))
        w = b.emit("dequantize_linear", w, b.constant(np.float32(0.02 + 0.001 * layer)))
        bias = b.constant(RNG.standard_normal(16).astype(np.float32))
        product = b.emit("matmul", b.emit("dequantize_linear", q, scale, zero), w)
        value = b.emit("relu", b.emit("add", product, bias))
    return lower_graph(b.finish([value]))


def test_layers_of_a_quantized_network_share_their_kernel() -> None:
    assert len(specs(quantized_mlp(4))) == len(specs(quantized_mlp(2))) + 0 == 3
