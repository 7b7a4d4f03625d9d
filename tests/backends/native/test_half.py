"""Half floats on a machine without instructions that convert them: every value both ways, and whole programs."""

from __future__ import annotations

import ctypes
import struct
from functools import cache

import numpy as np
import pytest
from llvmlite import ir
from onnx import TensorProto, helper

import runtime
from backends.native.executable import Executable
from backends.native.jit import Engine, compile_object
from backends.native.library import _module
from backends.native.target import Target, host, named
from backends.native.vectors import DOUBLE, FLOAT, HALF, I8, widen
from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import arg, cast
from compiler.ir import Graph
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options
from tests.backends.native.harness import assert_same

BARE = named("generic")
EVERY_HALF = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
TYPES = {"float16": HALF, "float32": FLOAT, "float64": DOUBLE}
RNG = np.random.default_rng(16)
ON_ELF_X86 = host().triple.startswith("x86_64") and "linux" in host().triple
pytestmark = pytest.mark.skipif(not ON_ELF_X86, reason="elsewhere every machine has the instructions, or no such files")


@cache
def conversion(target: Target, source: str, result: str, lanes: int) -> tuple[Engine, object]:
    """void f(from, to) on `lanes` elements."""
    module, pointer = ir.Module("conversion"), I8.as_pointer()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [pointer] * 2), "convert")
    builder = ir.IRBuilder(function.append_basic_block())
    have, want = (widen(TYPES[name], lanes) for name in (source, result))
    value = builder.load(builder.bitcast(function.args[0], have.as_pointer()), align=1)
    value = (builder.fpext if source == "float16" else builder.fptrunc)(value, want)
    builder.store(value, builder.bitcast(function.args[1], want.as_pointer()), align=1)
    builder.ret_void()
    engine = Engine(target)
    engine.add(module)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    return engine, kind(engine.address("convert"))


def converted(x: np.ndarray, result: str, lanes: int, target: Target = BARE) -> np.ndarray:
    """`x`, whose length is a multiple of `lanes`, in another type."""
    _, function = conversion(target, str(x.dtype), result, lanes)
    out = np.zeros(x.shape, result)
    for i in range(0, len(x), lanes):
        function(x.ctypes.data + i * x.itemsize, out.ctypes.data + i * out.itemsize)  # type: ignore[operator]
    return out


def around_halves(kind: str) -> np.ndarray:
    """Every half, the points between two, and the nearest numbers of that type to either."""
    with np.errstate(all="ignore"):
        exact, after = (x.astype(kind) for x in (EVERY_HALF, np.nextafter(EVERY_HALF, np.float16(np.inf))))
        points = np.concatenate([exact, exact / 2 + after / 2])
        return np.concatenate([points, *(np.nextafter(points, points.dtype.type(end)) for end in (-np.inf, np.inf))])


@pytest.mark.parametrize("lanes", [1, 4, 8])
def test_every_half_is_widened(lanes: int) -> None:
    assert_same(converted(EVERY_HALF, "float32", lanes), EVERY_HALF.astype(np.float32))
    assert_same(converted(EVERY_HALF, "float64", lanes), EVERY_HALF.astype(np.float64))


@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_floats_are_rounded_to_the_nearest_half(kind: str, lanes: int) -> None:
    with np.errstate(all="ignore"):
        drawn = np.ldexp(RNG.standard_normal(4096), RNG.integers(-40, 20, 4096)).astype(kind)
        x = np.concatenate([around_halves(kind), drawn])
        assert_same(converted(x, "float16", lanes), x.astype(np.float16))


@pytest.mark.skipif(not host().has("f16c"), reason="nothing to compare with")
def test_nans_are_those_of_the_instructions() -> None:
    wide = RNG.integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
    for x, result in ((EVERY_HALF, "float32"), (wide, "float16")):
        bits = f"u{np.dtype(result).itemsize}"
        found, expected = (converted(x, result, 8, target).view(bits) for target in (BARE, host()))
        np.testing.assert_array_equal(found, expected)


def undefined(code: bytes) -> set[str]:
    """The names that an ELF object file of 64 bits leaves to others."""
    (at,) = struct.unpack_from("<Q", code, 0x28)
    size, count = struct.unpack_from("<HH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, at + i * size) for i in range(count)]
    names = set()
    for _, kind, _, _, start, length, link, *_ in sections:
        if kind != 2:  # a symbol table
            continue
        for symbol in range(start, start + length, 24):
            name, _, _, section, _, _ = struct.unpack_from("<IBBHQQ", code, symbol)
            first = sections[link][4] + name
            if section == 0 and name:
                names.add(code[first : code.index(b"\0", first)].decode())
    return names


def in_the_c_library(name: str) -> bool:
    return any(hasattr(ctypes.CDLL(f"lib{library}.so.6"), name) for library in "cm")


def product(constant: bool) -> Graph:
    b = Builder()
    x = b.input("x", TensorType(dtypes.float16, (9, 40)))
    y = b.constant(np.ones((40, 21), np.float16)) if constant else b.input("y", TensorType(dtypes.float16, (40, 21)))
    return b.finish([b.emit("matmul", x, y)])


def conversions() -> Graph:
    b, results = Builder(), []
    f16, f64, i64 = dtypes.float16, dtypes.float64, dtypes.int64
    for source, result in ((f16, f64), (f64, f16), (i64, f16)):
        x = b.input(f"x{len(results)}", TensorType(source, (37,)))
        results.append(b.emit("map", x, outputs=(cast(arg(0, source), result),)))
    return b.finish(results)


@pytest.mark.parametrize("graph", [product(False), product(True), conversions()], ids=["fresh", "constant", "map"])
def test_objects_leave_nothing_to_a_library_that_is_not_there(graph: Graph) -> None:
    executable = Executable(lower_graph(graph), BARE, Options.resolve(1, False))
    for _, kernel in executable.prepared.calls:
        assert kernel is not None
        code = compile_object(_module(kernel), BARE, getattr(kernel, "passes", 1))
        assert [name for name in undefined(code) if not in_the_c_library(name)] == [], kernel.name


def onnx_model() -> bytes:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Add", ["p", "c"], ["q"]),
        helper.make_node("Sigmoid", ["q"], ["y"]),
        helper.make_node("MatMul", ["x", "z"], ["f"]),
    ]
    weights = {"w": RNG.standard_normal((60, 33)), "c": RNG.standard_normal(33)}
    tensors = [helper.make_tensor(n, TensorProto.FLOAT16, w.shape, w.astype(np.float16)) for n, w in weights.items()]
    half = TensorProto.FLOAT16
    inputs = [helper.make_tensor_value_info(n, half, s) for n, s in (("x", (10, 60)), ("z", (60, 7)))]
    outputs = [helper.make_tensor_value_info(n, half, s) for n, s in (("y", (10, 33)), ("f", (10, 7)))]
    graph = helper.make_graph(nodes, "half", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_programs_give_the_same_bits_without_the_instructions() -> None:
    model = onnx_model()
    arrays = [RNG.standard_normal(shape).astype(np.float16) for shape in ((10, 60), (60, 7))]
    found, expected = (runtime.compile(model, target=target, cache=False)(*arrays) for target in ("generic", "host"))
    for got, want in zip(found, expected, strict=True):
        assert_same(np.asarray(got), np.asarray(want))
