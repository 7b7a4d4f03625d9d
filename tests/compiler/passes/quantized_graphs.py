"""Graphs of quantized tensors for tests of passes: written, run in every way, and looked at."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from backends.native import target
from backends.native.executable import Executable
from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import run
from compiler import dtypes
from compiler.builder import Builder
from compiler.ir import Value
from compiler.kernels import GemmSpec, HostCall, Lowered
from compiler.passes.verify import verify
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options

F32, U8, I8 = dtypes.float32, dtypes.uint8, dtypes.int8
RNG = np.random.default_rng(17)
OPTIONS = Options.resolve(1, False)


class Model:
    """A graph being written: one float input, quantized tensors of it and of constants."""

    def __init__(self, *shape: int) -> None:
        self.b = Builder()
        self.shape = shape
        self.x = self.b.input("x", TensorType(F32, shape))

    def scale(self, value: float) -> Value:
        return self.b.constant(np.float32(value))

    def quantize(self, x: Value, scale: float = 0.03, zero: int = 120, dtype: Any = np.uint8, **attrs: Any) -> Value:
        return self.b.emit("quantize_linear", x, self.scale(scale), self.b.constant(np.array(zero, dtype)), **attrs)

    def both(self, x: Value, scale: float = 0.03, zero: int = 120, dtype: Any = np.uint8) -> Value:
        """x quantized and dequantized."""
        q = self.quantize(x, scale, zero, dtype)
        return self.b.emit("dequantize_linear", q, self.scale(scale), self.b.constant(np.array(zero, dtype)))

    def weight(self, *shape: int, dtype: Any = np.int8, zero: Any = 0, scale: Any = 0.02, **attrs: Any) -> Value:
        """Dequantized constants of random contents."""
        limits = ml_dtypes.iinfo(dtype)
        low, high = int(limits.min), int(limits.max)
        array = RNG.integers(low, high, shape, endpoint=True).astype(dtype)
        parameters = [np.asarray(scale, np.float32), np.asarray(zero).astype(dtype)]
        return self.b.emit("dequantize_linear", *(self.b.constant(a) for a in (array, *parameters)), **attrs)

    def bias(self, scale: Any, count: int) -> Value:
        """Dequantized int32 constants."""
        array = RNG.integers(-3000, 3000, count).astype(np.int32)
        scale = np.asarray(scale, np.float32)
        return self.b.emit("dequantize_linear", self.b.constant(array), self.b.constant(scale), axis=0)

    def check(self, *results: Value, quanta: float = 0.0) -> Lowered:
        """The lowered program, once its results are the reference's up to `quanta`, and the native ones the
        emulator's bit for bit."""
        graph = verify(self.b.finish(results))
        x = (RNG.standard_normal(self.shape) * 1.5).astype(np.float32)
        lowered = lower_graph(graph)
        assert not [call for call in lowered.calls if isinstance(call, HostCall)]
        emulated = EmulatedExecutable(lowered).run([x])
        for ours, native in zip(emulated, Executable(lowered, target.host(), OPTIONS).run([x]), strict=True):
            np.testing.assert_array_equal(native, ours)
        for ours, expected in zip(emulated, run(graph, [x]), strict=True):
            np.testing.assert_allclose(ours.astype(np.float64), expected, rtol=1e-5, atol=quanta + 1e-4)
        return lowered


def specs(lowered: Lowered, kind: type) -> list[Any]:
    return [call.spec for call in lowered.calls if not isinstance(call, HostCall) and isinstance(call.spec, kind)]


def gemm(lowered: Lowered) -> GemmSpec:
    """The one product, of bytes."""
    (spec,) = specs(lowered, GemmSpec)
    assert {spec.a, spec.b} <= {U8, I8} and spec.acc == dtypes.int32
    return spec
