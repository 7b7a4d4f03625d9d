"""Products of every form under a policy: near to what they were, and the same bits natively as emulated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import run
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, const
from compiler.ir import Graph, ImportedNode, Value
from compiler.kernels import GemmSpec, KernelCall
from compiler.pipeline import lower_graph
from compiler.policy import Calibrated, Policy
from compiler.types import TensorType
from runtime.options import Options

F32 = dtypes.float32
RNG = np.random.default_rng(7)
NAME = "product"


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def infinite(b: Builder, x: Value) -> Value:
    return b.emit("matmul", x, b.constant(np.full((128, 96), np.inf, np.float32)))


def with_itself(b: Builder, x: Value) -> Value:
    return b.emit("matmul", x, b.emit("transpose", x, perm=(1, 0)))


def graph(make: Callable[[Builder, Value], Value], *shape: dims.Size, kind: dtypes.DType = F32) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(kind, shape))
    b.imported.append(ImportedNode(NAME, "Product"))
    with b.at(NAME):
        return b.finish([make(b, x)])


def conv(channels: int, features: int, kernel: tuple[int, ...], **more: Any) -> Callable[[Builder, Value], Value]:
    """A convolution with a bias."""
    group = more.get("group", 1)
    rank = len(kernel)
    given = {"strides": (1,) * rank, "dilations": (1,) * rank, "pads": (1,) * 2 * rank, **more}
    w, bias = floats(features, channels // group, *kernel), floats(features)
    return lambda b, x: b.emit("conv", x, b.constant(w, "w"), b.constant(bias, "bias"), **given)


def matmul(*shape: int, left: bool = False) -> Callable[[Builder, Value], Value]:
    w = floats(*shape)

    def make(b: Builder, x: Value) -> Value:
        return b.emit("matmul", b.constant(w, "w"), x) if left else b.emit("matmul", x, b.constant(w, "w"))

    return make


def behind_moves(b: Builder, x: Value) -> Value:
    """[2, 4, 5, 32] heads joined and multiplied: what narrows x goes before the moves."""
    doubled = b.emit("map", x, outputs=(arg(0, F32) * 2.0,))
    joined = b.emit("reshape", b.emit("transpose", doubled, perm=(0, 2, 1, 3)), b.sizes((2, 5, 128)))
    return b.emit("matmul", joined, b.constant(floats(128, 96), "w"))


def positive(b: Builder, x: Value) -> Value:
    """A convolution behind a ReLU, whose result is pooled and read twice."""
    relu = b.emit("map", x, outputs=(apply("max", arg(0, F32), const(0, F32)),))
    first = conv(8, 8, (3, 3))(b, relu)
    return b.emit("map", first, relu, outputs=(arg(0, F32) + arg(1, F32),))


CASES = {
    "matmul": (graph(matmul(128, 96), 5, 128), (5, 128)),
    "symbolic rows": (graph(matmul(128, 96), dims.symbol("n"), 128), (7, 128)),
    "batch": (graph(matmul(128, 96), 2, 3, 5, 128), (2, 3, 5, 128)),
    "weights a batch": (graph(matmul(3, 128, 96), 3, 5, 128), (3, 5, 128)),
    "weight on the left": (graph(matmul(96, 128, left=True), 128, 5), (128, 5)),
    "behind moves": (graph(behind_moves, 2, 4, 5, 32), (2, 4, 5, 32)),
    "conv": (graph(conv(6, 10, (3, 3)), 2, 6, 9, 8), (2, 6, 9, 8)),
    "conv of one axis": (graph(conv(6, 10, (5,), strides=(2,)), 2, 6, 31), (2, 6, 31)),
    "conv of three axes": (graph(conv(4, 10, (3, 2, 3), dilations=(1, 2, 1)), 1, 4, 6, 7, 5), (1, 4, 6, 7, 5)),
    "groups": (graph(conv(8, 12, (3, 3), group=2), 2, 8, 7, 7), (2, 8, 7, 7)),
    "channels last": (graph(conv(6, 10, (3, 3), channels_last=True), 2, 9, 8, 6), (2, 9, 8, 6)),
    "behind a relu": (graph(positive, 2, 8, 9, 9), (2, 8, 9, 9)),
}  # fmt: skip
POLICIES = {
    "bf16": Policy("bf16"),
    "int8": Policy("int8"),
    "static": Policy("int8", calibrated={NAME: Calibrated(-4.0, 4.5)}),
    "static from 0": Policy("int8", calibrated={NAME: Calibrated(0.0, 9.0)}),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", CASES)
def test_products_of_every_form(name: str, policy: str) -> None:
    made, shape = CASES[name]
    x = np.clip(floats(*shape), -2, 2.2)
    if policy == "static from 0":
        x = np.abs(x)
    lowered = lower_graph(made.with_policy(POLICIES[policy]))
    specs = [call.spec for call in lowered.calls if isinstance(call, KernelCall) and isinstance(call.spec, GemmSpec)]
    assert specs and all(spec.a.bits < 32 for spec in specs), lowered.remarks
    (found,) = Executable(lowered, host(), Options.resolve(1, False)).run([x])
    np.testing.assert_array_equal(found, EmulatedExecutable(lowered).run([x])[0])
    (truth,) = run(made, [x])
    error = np.linalg.norm(found - truth) / np.linalg.norm(truth)
    assert 1e-4 < error < (0.006 if policy == "bf16" else 0.03), error


def test_smoothing_codes_and_correction_are_obeyed() -> None:
    made, shape = CASES["matmul"]
    x, weights = floats(*shape), made.constants["w"]
    factors = RNG.uniform(0.5, 2, 128).astype(np.float32)
    codes = RNG.integers(-127, 128, weights.shape).astype(np.int8)
    how = Calibrated(-6.0, 6.0, factors, codes, np.full(96, 0.25, np.float32))
    lowered = lower_graph(made.with_policy(Policy("int8", calibrated={NAME: how})))
    (found,) = Executable(lowered, host(), Options.resolve(1, False)).run([x])
    scales = np.abs(weights * factors[:, None]).max(axis=0) / 127
    expected = (x / factors) @ (codes * scales) - 0.25
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.02


@pytest.mark.parametrize(
    ("make", "shape", "reason"),
    [
        (conv(16, 16, (3, 3), group=16), (1, 16, 5, 5), "depthwise"),
        (conv(1, 4, (3, 3)), (1, 1, 8, 8), "sums of 9 products"),
        (matmul(64, 16), (4, 64), "64 x 16 weights"),
        (with_itself, (40, 32), "both operands are computed"),
        (matmul(70_000, 16), (1, 70_000), "sums of 70000 products of bytes need more than 32 bits"),
        (infinite, (4, 128), "not all finite"),
    ],
)
def test_what_stays_as_written_says_why(
    make: Callable[[Builder, Value], Value], shape: tuple[int, ...], reason: str
) -> None:
    lowered = lower_graph(graph(make, *shape).with_policy(Policy("int8")))
    assert reason in lowered.remarks[NAME]
    assert not any(view.dtype.bits == 8 for call in lowered.calls for view in call.reads if view is not None)


@pytest.mark.parametrize("left", [False, True])
def test_many_results_of_short_sums_fit_32_bits(left: bool) -> None:
    make, shape = (matmul(70_000, 16, left=True), (16, 2)) if left else (matmul(16, 70_000), (2, 16))
    lowered = lower_graph(graph(make, *shape).with_policy(Policy("int8")))
    assert NAME not in lowered.remarks
    assert any(view.dtype.bits == 8 for call in lowered.calls for view in call.reads if view is not None)


@pytest.mark.parametrize("name", CASES)
def test_splits_are_permitted_and_change_nothing_else(name: str) -> None:
    """The same calls, but for what their products permit: here the same bits, as long as no unit splits."""
    made, _ = CASES[name]
    plain, permitted = lower_graph(made), lower_graph(made.with_policy(Policy("bf16x3")))
    products = 0
    for before, after in zip(plain.calls, permitted.calls, strict=True):
        assert isinstance(before, KernelCall) and isinstance(after, KernelCall)
        if isinstance(before.spec, GemmSpec):
            assert after.spec == replace(before.spec, splits=3)
            products += 1
        else:
            assert after.spec == before.spec
    assert products and not permitted.remarks


@pytest.mark.parametrize(
    ("make", "shape", "kind", "reason"),
    [
        (conv(16, 16, (3, 3), group=16), (1, 16, 5, 5), F32, "depthwise"),
        (conv(1, 4, (3, 3)), (1, 1, 8, 8), F32, "sums of 9 products"),
        (with_itself, (20, 40), dtypes.float16, "not bf16x3: float16 is multiplied as it is"),
        (with_itself, (20, 40), dtypes.float64, "not bf16x3: float64 stays float64"),
    ],
)
def test_what_is_not_split_says_why(
    make: Callable[[Builder, Value], Value], shape: tuple[int, ...], kind: dtypes.DType, reason: str
) -> None:
    lowered = lower_graph(graph(make, *shape, kind=kind).with_policy(Policy("bf16x3")))
    assert reason in lowered.remarks[NAME]
    assert all(call.spec.splits == 0 for call in lowered.calls if isinstance(call.spec, GemmSpec))  # type: ignore[union-attr]


def test_other_precisions_fall_back_to_splits() -> None:
    """with_itself has no weights to quantize."""
    made = graph(with_itself, 40, 32).with_policy(Policy("int8", otherwise="bf16x3"))
    lowered = lower_graph(made)
    assert [call.spec.splits for call in lowered.calls if isinstance(call.spec, GemmSpec)] == [3]  # type: ignore[union-attr]
    assert lowered.remarks[NAME].startswith("not int8")
