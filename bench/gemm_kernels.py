"""Rates of the GEMM kernels alone, called as the executor would on one thread: `python -m bench.gemm_kernels`.

Percent of the register-only peak measured just before each shape; best of many short runs, in time of this thread
alone, so that neighbours cost cache but not whole time slices. `cold` cycles through
300 MB of weights, as a whole model does.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from dataclasses import dataclass, replace

import numpy as np
from llvmlite import ir

from backends.native import gemm
from backends.native.jit import Engine
from backends.native.kernel import SLOT_ABSOLUTE
from backends.native.target import Target, host, named
from backends.native.trial import number
from bench.peak import peak, triple
from compiler import dtypes
from compiler.dims import evaluate
from compiler.expr import Expr, apply, arg, cast, const
from compiler.kernels import GemmSpec, KernelCall, View

COLD_BYTES = 300 << 20
ROUNDS = 12
FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


@dataclass(frozen=True)
class Case:
    """A product: extents, how B comes (constant, cold, row, column), epilogue (plain, bias, gelu), the type of A, and
    for a convolution its channels-last input (size, channels, kernel, stride, pad), M and K then following from it.
    Results are of the type of A, those of integers of the accumulator's; B and accumulator are what products of A are
    made of (`peak.triple`)."""

    m: int
    n: int
    k: int
    b: str = "constant"
    epilogue: str = "plain"
    dtype: str = "float32"
    window: tuple[int, int, int, int, int] | None = None

    @staticmethod
    def conv(size: int, channels: int, n: int, kernel: int, stride: int = 1) -> Case:
        """A square convolution with same padding and a ReLU."""
        pad = kernel // 2
        out = (size + 2 * pad - kernel) // stride + 1
        return Case(
            out * out, n, kernel * kernel * channels, epilogue="relu", window=(size, channels, kernel, stride, pad)
        )

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k} {self.dtype} {self.b} {self.epilogue}{' conv' if self.window else ''}"


NARROW = ("bfloat16", "float16", "int8", "uint8")
CASES = (
    *(Case(1024, 1024, 1024, b) for b in ("constant", "row", "column")),
    *(Case(1024, 1024, 1024, b, dtype="float64") for b in ("constant", "row", "column")),
    Case(128, 768, 768, "cold", "bias"), Case(128, 3072, 768, "cold", "gelu"), Case(128, 768, 3072, "cold", "bias"),
    Case(197, 768, 768, "cold", "bias"), Case(128, 768, 768, "cold", dtype="float64"),
    Case(1, 768, 768, "cold"), Case(1, 3072, 768, "cold"), Case(1, 128, 64), Case(1, 128, 128), Case(1, 10, 128),
    *(Case(1024, 1024, 1024, b, dtype=dtype) for dtype in NARROW for b in ("constant", "row")),
    *(Case(128, 768, 768, "cold", "bias", dtype) for dtype in ("bfloat16", "float16")),
    *(Case(1, 3072, 768, "cold", dtype=dtype) for dtype in NARROW),
    Case(128, 768, 768, "cold", dtype="int8"), Case(128, 768, 768, "cold", dtype="uint8"),
    Case(8, 768, 768, "cold"), Case(128, 64, 128, "row"), Case(128, 128, 64, "column"),
    Case(3136, 64, 64, epilogue="relu"), Case(3136, 256, 64, epilogue="relu"), Case(784, 512, 128, epilogue="relu"),
    Case(196, 1024, 256, epilogue="relu"), Case(49, 2048, 512, epilogue="relu"), Case(49, 512, 2048, epilogue="relu"),
    Case.conv(224, 3, 64, 7, 2), Case.conv(56, 64, 64, 3), Case.conv(28, 128, 128, 3), Case.conv(14, 256, 256, 3),
    Case.conv(7, 512, 512, 3), Case.conv(56, 128, 128, 3, 2),
)  # fmt: skip


def epilogue_of(case: Case, acc: dtypes.DType, result: dtypes.DType) -> tuple[Expr, ...]:
    """The case's epilogue on sums of type `acc`; all but plain add a bias of the result's type first."""
    value = arg(0, acc)
    if case.epilogue != "plain":
        value = value + cast(arg(1, result), acc)
    if case.epilogue == "gelu":
        value = value * apply("normcdf", value)
    if case.epilogue == "relu":
        value = apply("max", value, const(0.0, acc))
    return (cast(value, result),)


def call_of(case: Case) -> KernelCall:
    """The case's call, on buffers a, b, bias and c."""
    kind, right, acc = triple(case.dtype)
    result = kind if kind.is_float else acc
    b = View("b", right, (case.k, case.n), (1, case.k) if case.b == "column" else (case.n, 1))
    c = View("c", result, (case.m, case.n), (case.n, 1))
    bias = [View("bias", result, (case.m, case.n), (0, 1))] if case.epilogue != "plain" else []
    spec = GemmSpec(
        kind, right, acc, 0, "row", "column" if case.b == "column" else "row", case.b in ("constant", "cold"),
        epilogue_of(case, acc, result), (result,) * len(bias), ("unit",) * len(bias), ("unit",),
        2 if case.window else 0,
    )  # fmt: skip
    return KernelCall(spec, (_input(case, kind), b, *bias), (c,), _params(case))


def _input(case: Case, kind: dtypes.DType) -> View:
    if case.window is None:
        return View("a", kind, (case.m, case.k), (case.k, 1))
    size, channels = case.window[:2]
    return View("a", kind, (1, size, size, channels), (size * size * channels, size * channels, channels, 1))


def _params(case: Case) -> tuple[int, ...]:
    if case.window is None:
        return ()
    size, _, kernel, stride, pad = case.window
    out = (size + 2 * pad - kernel) // stride + 1
    return tuple(value for value in (out, kernel, stride, 1, pad, size) for _ in range(2))


class Runner:
    """One compiled case and its memory."""

    def __init__(self, case: Case, target: Target, passes: int) -> None:
        self.case, self.copies = case, 1
        self.call = call_of(case)
        views = (*self.call.reads, *self.call.writes)
        self.memory = {view.buffer: _numbers(view) for view in views}
        self.kernel = gemm.select(self.call, target)
        start = time.perf_counter()
        module = ir.Module("bench")
        self.kernel.emit(module)
        self.engine = Engine(target)
        self.engine.add(module, passes)
        self.function = FUNCTION(self.engine.address(self.kernel.name))
        self.compile_ms = 1e3 * (time.perf_counter() - start)
        if self.kernel.spec.constant_b:
            packed = self.kernel.pack(self.call, 1, self.memory["b"].reshape(case.k, case.n))
            self.copies = max(1, COLD_BYTES // packed.nbytes) if case.b == "cold" else 1
            self.memory["b"] = _aligned(np.repeat(packed.reshape(1, -1), self.copies, 0))
        self.blocks = [self._block(copy) for copy in range(self.copies)]
        self.at = 0

    def _block(self, copy: int) -> np.ndarray:
        planned = self.kernel.arguments(self.call, lambda size: evaluate(size, {}), 1)
        self.chunks, self.scratch = planned.chunks, _aligned(np.zeros(planned.scratch, np.uint8))
        words: list[int] = []
        for word in planned.words:
            if isinstance(word, View):
                array = self.memory[word.buffer]
                words += [SLOT_ABSOLUTE, (array[copy] if word.buffer == "b" and array.ndim == 2 else array).ctypes.data]
            else:
                words.append(int(word))
        self.slots = np.zeros(8, np.int64)
        return np.array(words, np.int64)

    def seconds(self) -> float:
        """One sample: seconds a call, over a millisecond or more of calls."""
        case = self.case
        repeat = max(
            1, min(self.copies if self.copies > 1 else 1 << 20, int(2e8 / (2 * case.m * case.n * case.k + 2e4)))
        )
        blocks = [self.blocks[(self.at + i) % self.copies].ctypes.data for i in range(repeat)]
        self.at += repeat
        function, slots, scratch = self.function, self.slots.ctypes.data, self.scratch.ctypes.data
        start = time.thread_time()
        for block in blocks:
            for chunk in range(self.chunks):
                function(block, slots, chunk, scratch)
        return (time.thread_time() - start) / repeat


def _numbers(view: View) -> np.ndarray:
    """Memory for a view whose strides are not negative."""
    extent = 1 + sum((number(n) - 1) * number(step) for n, step in zip(view.shape, view.strides, strict=True))
    spread = 1 if view.dtype.is_float else 100
    numbers = spread * np.abs(np.random.default_rng(0).standard_normal(extent, np.float32)).clip(0, 1)
    return _aligned(numbers.astype(view.dtype.numpy))


def _aligned(array: np.ndarray) -> np.ndarray:
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="host")
    parser.add_argument("--passes", type=int, default=1, help="LLVM's pipeline level")
    parser.add_argument("--only", default="", help="cases whose text contains this")
    options = parser.parse_args()
    target = replace(named(options.target), l2=host().l2)
    for case in CASES:
        if options.only not in str(case):
            continue
        runner = Runner(case, target, options.passes)
        best, most = float("inf"), 0.0
        for _ in range(4):
            most = max(most, peak(case.dtype, target=target))
            best = min(best, *(runner.seconds() for _ in range(ROUNDS // 4)))
        rate = 2 * case.m * case.n * case.k / best
        print(
            f"{case!s:44s} {rate / most:6.1%} of {most / 1e9:4.0f} GF/s {best * 1e6:9.2f} us, compiled in "
            f"{runner.compile_ms:4.0f} ms, {runner.kernel.name}",
            flush=True,
        )


if __name__ == "__main__":
    main()
