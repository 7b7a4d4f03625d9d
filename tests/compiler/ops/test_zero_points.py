"""Products of quantized tensors: zero points of every form, against NumPy's own integers, and what they fuse into."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import run
from compiler import dtypes
from compiler.frontends.onnx import load
from compiler.ir import Graph
from compiler.kernels import GemmSpec, KernelCall, MapSpec, ReduceSpec, WindowSpec
from compiler.pipeline import lower_graph, optimize

RNG = np.random.default_rng(11)
I8, U8 = np.int8, np.uint8


def draw(dtype: type, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def import_node(
    operator: str, arrays: Sequence[np.ndarray | None], constants: Sequence[int] = (), named: Sequence[int] = (),
    **attrs: Any,
) -> Graph:  # fmt: skip
    """A graph of one ONNX node. `constants`: inputs that are initializers; `named`: whose first extent is a symbol."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(arrays)]
    formal, initializers = [], []
    for i, array in enumerate(arrays):
        if array is None:
            continue
        if i in constants:
            initializers.append(numpy_helper.from_array(array, names[i]))
            continue
        shape = [f"n{i}", *array.shape[1:]] if i in named else array.shape
        formal.append(helper.make_tensor_value_info(names[i], helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    result = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    result.ClearField("type")
    graph = helper.make_graph([helper.make_node(operator, names, ["y"], **attrs)], "g", formal, [result], initializers)
    return load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


def results(graph: Graph, arrays: Sequence[np.ndarray | None], constants: Sequence[int] = ()) -> np.ndarray:
    """What the graph gives, the same in every way to run it."""
    feeds = [a for i, a in enumerate(arrays) if a is not None and i not in constants]
    expected = run(graph, feeds)[0]
    np.testing.assert_array_equal(run(optimize(graph), feeds)[0], expected)
    for mode in ("truth", "emulate"):
        np.testing.assert_array_equal(EmulatedExecutable(lower_graph(graph), mode).run(feeds)[0], expected)  # type: ignore[arg-type]
    return expected


def calls(graph: Graph, *specs: type) -> list[Any]:
    every = [call for call in lower_graph(graph).calls if isinstance(call, KernelCall)]
    return [call.spec for call in every if isinstance(call.spec, specs)]


def whole(zero: np.ndarray | None) -> Any:
    return np.int64(0) if zero is None else zero.astype(np.int64)


A_ZEROS = {"none": None, "scalar": (), "one": (1,), "rows": (5,), "columns of one": (5, 1), "batched": (2, 5, 1)}
B_ZEROS = {"none": None, "scalar": (), "one": (1,), "columns": (6,), "rows of one": (1, 6), "batched": (2, 1, 6)}


@pytest.mark.parametrize(("a_form", "b_form"), list(itertools.product(A_ZEROS, B_ZEROS)))
@pytest.mark.parametrize(("left", "right"), [(U8, I8), (I8, I8), (I8, U8), (U8, U8)])
def test_matmul_integer_with_zero_points_of_every_form(a_form: str, b_form: str, left: type, right: type) -> None:
    a, b = draw(left, 2, 5, 13), draw(right, 2, 13, 6)
    zeros = [
        None if shape is None else draw(dtype, *shape)
        for shape, dtype in ((A_ZEROS[a_form], left), (B_ZEROS[b_form], right))
    ]
    arrays = [a, b, *zeros] if zeros[1] is not None else [a, b, zeros[0]] if zeros[0] is not None else [a, b]
    rows = zeros[0].reshape(-1, 1) if zeros[0] is not None and zeros[0].ndim == 1 else zeros[0]
    expected = (a - whole(rows)) @ (b - whole(zeros[1]))
    graph = import_node("MatMulInteger", arrays, named=(0,) if a_form != "batched" and b_form != "batched" else ())
    np.testing.assert_array_equal(results(graph, arrays), expected.astype(np.int32))
    (spec,) = calls(graph, GemmSpec)
    assert (spec.a, spec.b, spec.acc) == (*map(dtypes.from_numpy, (a.dtype, b.dtype)), dtypes.int32)
    assert not calls(graph, MapSpec, ReduceSpec)


def test_a_zero_point_for_each_element_along_k_is_taken_off_first() -> None:
    a, b, zeros = draw(U8, 2, 5, 13), draw(I8, 13, 6), draw(U8, 2, 5, 13)
    graph = import_node("MatMulInteger", (a, b, zeros))
    np.testing.assert_array_equal(results(graph, (a, b, zeros)), (a - whole(zeros)) @ b.astype(np.int64))
    assert [spec.a for spec in calls(graph, GemmSpec)] == [dtypes.int32]


def test_sums_wrap_as_int32() -> None:
    a, b = np.full((2, 1 << 17), 255, U8), np.full((1 << 17, 2), 127, I8)
    zero = np.array(1, U8)
    expected = ((a - whole(zero)) @ b.astype(np.int64)).astype(np.int32)
    np.testing.assert_array_equal(results(import_node("MatMulInteger", (a, b, zero)), (a, b, zero)), expected)


@pytest.mark.parametrize(("left", "right"), [((13,), (13, 6)), ((5, 13), (13,)), ((13,), (13,))])
def test_vectors(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    arrays = (draw(U8, *left), draw(I8, *right), np.array(7, U8), np.array(-3, I8))
    graph = import_node("MatMulInteger", arrays)
    np.testing.assert_array_equal(results(graph, arrays), (arrays[0] - np.int64(7)) @ (arrays[1] + np.int64(3)))


def test_zero_points_known_to_be_zero_cost_nothing() -> None:
    arrays = (draw(U8, 5, 13), draw(I8, 13, 6), np.array(0, U8), np.zeros(6, I8))
    (spec,) = calls(import_node("MatMulInteger", arrays, constants=(2, 3)), GemmSpec)
    assert not spec.epilogue_inputs and spec.epilogue[0].op == "arg"
    (spec,) = calls(import_node("MatMulInteger", arrays, constants=(3,)), GemmSpec)
    assert len(spec.epilogue_inputs) == 1
    x, w = draw(U8, 1, 3, 5, 5), draw(I8, 4, 3, 3, 3)
    graph = import_node("ConvInteger", (x, w, np.array(0, U8)), constants=(2,), pads=[1, 1, 1, 1])
    (spec,) = calls(graph, GemmSpec)
    assert spec.fill == 0 and not spec.epilogue_inputs


def requantized(total: np.ndarray, factor: Any, zero: np.ndarray) -> np.ndarray:
    limits = np.iinfo(zero.dtype)
    scaled = total.astype(np.float32) * factor
    return np.clip(np.rint(scaled) + zero, limits.min, limits.max).astype(zero.dtype)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("target", [U8, I8])
def test_requantizing_is_part_of_the_product(columns: bool, target: type) -> None:
    a, b = draw(U8, 2, 5, 13), draw(I8, 13, 6)
    a_zero, b_zero = np.array(131, U8), draw(I8, 6) if columns else np.array(-3, I8)
    b_scale = RNG.uniform(0.01, 0.1, 6 if columns else ()).astype(np.float32)
    a_scale, scale, zero = np.array(0.03, np.float32), np.array(0.4, np.float32), np.array(9, target)
    arrays = (a, a_scale, a_zero, b, np.asarray(b_scale), b_zero, scale, zero)
    total = (a - whole(a_zero)) @ (b - whole(b_zero))
    factor = np.asarray(np.float64(a_scale) * np.asarray(b_scale, np.float64) / np.float64(scale)).astype(np.float32)
    for named in ((), (0,)):
        graph = import_node("QLinearMatMul", arrays, constants=range(1, 8), named=named)
        np.testing.assert_array_equal(results(graph, arrays, range(1, 8)), requantized(total, factor, zero))
        (spec,) = calls(graph, GemmSpec)
        assert (spec.a, spec.b) == (dtypes.uint8, dtypes.int8) and not calls(graph, MapSpec)


def conv(x: np.ndarray, w: np.ndarray, x_zero: Any, w_zero: Any, pads: Sequence[int], group: int) -> np.ndarray:
    """The exact convolution of x and w less their zero points, zeros around."""
    left, right = x - whole(x_zero), w - whole(w_zero)
    padded = np.pad(left, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    patches = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
    parts = [
        np.einsum("nchwij,ocij->nohw", p, q)
        for p, q in zip(np.split(patches, group, 1), np.split(right, group, 0), strict=True)
    ]
    return np.concatenate(parts, 1)


CONVS = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 3), 1, (1, 1, 1, 1)),
    "asymmetric": ((1, 3, 6, 5), (4, 3, 2, 3), 1, (0, 2, 1, 0)),
    "one by one": ((2, 3, 6, 5), (4, 3, 1, 1), 1, (0, 0, 0, 0)),
    "grouped": ((2, 6, 5, 5), (4, 3, 3, 3), 2, (1, 1, 1, 1)),
    "depthwise": ((2, 4, 5, 5), (4, 1, 3, 3), 4, (1, 1, 1, 1)),
    "several filters a channel": ((2, 3, 5, 5), (6, 1, 3, 3), 3, (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("w_form", ["none", "scalar", "channels"])
@pytest.mark.parametrize("x_form", ["none", "scalar", "one"])
@pytest.mark.parametrize(("left", "right"), [(U8, I8), (I8, I8), (U8, U8)])
def test_conv_integer(name: str, w_form: str, x_form: str, left: type, right: type) -> None:
    image, kernel, group, pads = CONVS[name]
    x, w = draw(left, *image), draw(right, *kernel)
    x_zero = {"none": None, "scalar": draw(left), "one": draw(left, 1)}[x_form]
    w_zero = {"none": None, "scalar": draw(right), "channels": draw(right, kernel[0])}[w_form]
    x_zero, w_zero = (None if zero is None else np.asarray(zero) for zero in (x_zero, w_zero))
    spread = w_zero.reshape(-1, 1, 1, 1) if w_form == "channels" else w_zero
    expected = conv(x, w, x_zero, spread, pads, group).astype(np.int32)
    arrays = [x, w, x_zero, w_zero]
    while arrays[-1] is None:
        arrays.pop()
    for named in ((), (0,)):
        graph = import_node("ConvInteger", arrays, constants=(1,), named=named, pads=pads, group=group)
        np.testing.assert_array_equal(results(graph, arrays, (1,)), expected)
    if name == "depthwise":
        assert [(spec.dtype, spec.acc) for spec in calls(graph, WindowSpec)] == [(dtypes.int32, dtypes.int32)]
    else:
        assert [(s.a, s.b) for s in calls(graph, GemmSpec)] == [tuple(map(dtypes.from_numpy, (x.dtype, w.dtype)))]
        assert not calls(graph, MapSpec)


@pytest.mark.parametrize("name", CONVS)
@pytest.mark.parametrize("bias", [False, True])
def test_qlinear_conv(name: str, bias: bool) -> None:
    image, kernel, group, pads = CONVS[name]
    x, w = draw(U8, *image), draw(I8, *kernel)
    x_zero, w_zero, zero = np.array(100, U8), draw(I8, kernel[0]), np.array(120, U8)
    x_scale, scale = np.array(0.02, np.float32), np.array(0.3, np.float32)
    w_scale = RNG.uniform(0.005, 0.02, kernel[0]).astype(np.float32)
    added = RNG.integers(-9000, 9000, kernel[0]).astype(np.int32)
    arrays = [x, x_scale, x_zero, w, w_scale, w_zero, scale, zero, *([added] if bias else [])]
    total = conv(x, w, x_zero, w_zero.reshape(-1, 1, 1, 1), pads, group)
    total = total + (added.reshape(-1, 1, 1) if bias else 0)
    factor = np.float64(x_scale) * w_scale.astype(np.float64) / np.float64(scale)
    expected = requantized(total, factor.reshape(-1, 1, 1), zero)
    constants = range(1, len(arrays))
    graph = import_node("QLinearConv", arrays, constants, (0,), pads=pads, group=group)
    np.testing.assert_array_equal(results(graph, arrays, constants), expected)
    if name != "depthwise":
        (spec,) = calls(graph, GemmSpec)
        assert (spec.a, spec.b, spec.fill) == (dtypes.uint8, dtypes.int8, int(any(pads)))
        assert not calls(graph, MapSpec)


def test_same_padding_of_named_sizes_is_the_zero_point() -> None:
    x, w, zero = draw(U8, 5, 3, 9, 8), draw(I8, 4, 3, 3, 3), np.array(55, U8)
    nodes = [helper.make_node("ConvInteger", ["x", "w", "z"], ["y"], auto_pad="SAME_UPPER", strides=[2, 2])]
    formal = [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, "h", "v"])]
    weights = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(zero, "z")]
    result = [helper.make_tensor_value_info("y", TensorProto.INT32, ["n", 4, "a", "b"])]
    proto = helper.make_graph(nodes, "g", formal, result, weights)
    graph = load(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    expected = conv(x, w, zero, None, (1, 0, 1, 1), 1)[:, :, ::2, ::2]
    np.testing.assert_array_equal(results(graph, [x]), expected)
    assert [spec.fill for spec in calls(graph, GemmSpec)] == [1]


def test_dynamic_quantization_scales_in_the_epilogue() -> None:
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", "wz"], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["s", "ws"], ["factor"]),
        helper.make_node("Mul", ["f", "factor"], ["scaled"]),
        helper.make_node("Add", ["scaled", "bias"], ["y"]),
    ]
    w, w_zero, w_scale = draw(I8, 13, 6), draw(I8, 6), RNG.uniform(0.01, 0.1, 6).astype(np.float32)
    bias = RNG.standard_normal(6).astype(np.float32)
    named = (("w", w), ("wz", w_zero), ("ws", w_scale), ("bias", bias))
    weights = [numpy_helper.from_array(array, name) for name, array in named]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 13), ("y", 6))]
    proto = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    graph = load(helper.make_model(proto, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    onnx.checker.check_graph(proto)
    x = RNG.standard_normal((7, 13)).astype(np.float32)
    expected = run(graph, [x])[0]
    found = EmulatedExecutable(lower_graph(graph), "emulate").run([x])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    real = x.astype(np.float64) @ ((w - whole(w_zero)) * w_scale.astype(np.float64)) + bias
    assert np.abs(found - real).max() < 0.02 * np.abs(real).max() + 0.1
    (spec,) = calls(graph, GemmSpec)
    assert (spec.a, spec.b) == (dtypes.uint8, dtypes.int8)
    assert spec.epilogue[0].dtype == dtypes.float32
