"""Which kernels products become, of each element type; the order in which narrow ones are summed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from backends.reference.emulator import EmulatedExecutable
from backends.reference.interpreter import run
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dtypes import DType
from compiler.errors import DtypeError
from compiler.expr import arg, cast, extent, stat
from compiler.ir import Graph, Value
from compiler.kernels import GemmSpec, KernelCall, MapSpec, MoveSpec, WindowSpec
from compiler.mathlib.exact import fma32
from compiler.passes.precision import set_precision
from compiler.pipeline import lower_graph
from compiler.types import TensorType, of_array
from tests.compiler.passes.test_grouped_heads import repeat

I8, U8, I16, I32, I64, F32 = (
    dtypes.int8, dtypes.uint8, dtypes.int16, dtypes.int32, dtypes.int64, dtypes.float32,
)  # fmt: skip
PLAIN = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
SUMS = (arg(0, I32) - stat(1, I32) * 3, stat(0, I32) * 5 - extent(I32))
RNG = np.random.default_rng(5)


def draw(dtype: DType, *shape: int) -> np.ndarray:
    if dtype.is_float:
        return RNG.standard_normal(shape).astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    return RNG.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)


def calls_of(graph: Graph) -> list[KernelCall]:
    calls = lower_graph(graph).calls
    assert all(isinstance(call, KernelCall) for call in calls)
    return list(calls)  # type: ignore[arg-type]


def gemm_of(graph: Graph) -> GemmSpec:
    (spec,) = [call.spec for call in calls_of(graph) if isinstance(call.spec, GemmSpec)]
    return spec


def kinds(graph: Graph) -> list[type]:
    return [type(call.spec) for call in calls_of(graph)]


def types(spec: GemmSpec) -> tuple[DType, DType, DType]:
    return spec.a, spec.b, spec.acc


def agree(graph: Graph, *arrays: np.ndarray) -> list[np.ndarray]:
    """What the lowered program gives: in both modes, for integers, exactly what the graph's references do."""
    expected = run(graph, arrays)
    for mode in ("truth", "emulate"):
        found = EmulatedExecutable(lower_graph(graph), mode).run(arrays)  # type: ignore[arg-type]
        for got, want in zip(found, expected, strict=True):
            if want.dtype.kind in "iu":
                np.testing.assert_array_equal(got, want)
    return found


def product(left: DType, right: DType, **attrs: object) -> Graph:
    b = Builder()
    x, y = b.input("x", TensorType(left, (5, 12))), b.input("y", TensorType(right, (12, 6)))
    return b.finish([b.emit("matmul", x, y, **attrs)])


@pytest.mark.parametrize("dtype", [dtypes.float16, dtypes.bfloat16])
def test_narrow_floats_are_multiplied_as_they_are(dtype: DType) -> None:
    graph = product(dtype, dtype)
    assert kinds(graph) == [GemmSpec] and types(gemm_of(graph)) == (dtype, dtype, F32)
    (found,) = agree(graph, draw(dtype, 5, 12), draw(dtype, 12, 6))
    assert found.dtype == dtype.numpy
    wide = product(dtype, dtype, acc=dtypes.float64, epilogue=(arg(0, dtypes.float64),))
    assert types(gemm_of(wide)) == (dtypes.float64,) * 3


@pytest.mark.parametrize(("left", "right"), list(itertools.product((I8, U8), repeat=2)))
def test_bytes_are_multiplied_in_every_mixture(left: DType, right: DType) -> None:
    graph = product(left, right, acc=I32)
    assert kinds(graph) == [GemmSpec] and types(gemm_of(graph)) == (left, right, I32)
    x, y = draw(left, 5, 12), draw(right, 12, 6)
    np.testing.assert_array_equal(agree(graph, x, y)[0], x.astype(np.int32) @ y.astype(np.int32))


@pytest.mark.parametrize("dtype", [I8, U8, I16, dtypes.uint16])
def test_narrow_integers_wrap_in_their_own_type(dtype: DType) -> None:
    graph = product(dtype, dtype)
    spec = gemm_of(graph)
    assert spec.acc == I32 and spec.epilogue == (cast(arg(0, I32), dtype),)
    assert spec.a == spec.b == (dtype if dtype.bits == 8 else I32)
    x, y = draw(dtype, 5, 12), draw(dtype, 12, 6)
    np.testing.assert_array_equal(agree(graph, x, y)[0], x @ y)


@pytest.mark.parametrize("dtype", [I32, I64, dtypes.uint32, dtypes.uint64])
def test_wide_integers_are_products_too(dtype: DType) -> None:
    graph = product(dtype, dtype)
    assert kinds(graph) == [GemmSpec] and types(gemm_of(graph)) == (dtype,) * 3
    x, y = draw(dtype, 5, 12), draw(dtype, 12, 6)
    np.testing.assert_array_equal(agree(graph, x, y)[0], x @ y)


@pytest.mark.parametrize(("left", "right", "acc"), [(I8, U8, None), (I8, I16, I32), (U8, I8, I64), (I8, F32, I32)])
def test_other_mixtures_are_refused(left: DType, right: DType, acc: DType | None) -> None:
    with pytest.raises(DtypeError, match="needs one element type"):
        product(left, right, acc=acc)


@pytest.mark.parametrize(("dtype", "acc"), [(I8, I32), (dtypes.bfloat16, None), (dtypes.float16, None)])
def test_a_narrow_left_operand_lies_along_k(dtype: DType, acc: DType | None) -> None:
    b = Builder()
    x, y = b.input("x", TensorType(dtype, (12, 5))), b.input("y", TensorType(dtype, (12, 6)))
    graph = b.finish([b.emit("matmul", b.emit("transpose", x, perm=(1, 0)), y, acc=acc)])
    assert kinds(graph) == [MoveSpec, GemmSpec] and gemm_of(graph).a_axis == "row"
    agree(graph, draw(dtype, 12, 5), draw(dtype, 12, 6))


def test_a_narrow_left_operand_of_one_column_is_not_moved() -> None:
    b = Builder()
    x, y = b.input("x", TensorType(I8, (1, 5))), b.input("y", TensorType(U8, (1, 6)))
    graph = b.finish([b.emit("matmul", b.emit("transpose", x, perm=(1, 0)), y, acc=I32)])
    assert kinds(graph) == [GemmSpec] and gemm_of(graph).a_axis == "row"
    agree(graph, draw(I8, 1, 5), draw(U8, 1, 6))


@pytest.mark.parametrize("turned", [False, True])
def test_a_constant_on_the_left_is_packed_where_the_other_lies_along_k(turned: bool) -> None:
    b = Builder()
    weight = b.constant(draw(I8, 7, 12), "w")
    y = b.input("y", TensorType(U8, (6, 12) if turned else (12, 6)))
    right = b.emit("transpose", y, perm=(1, 0)) if turned else y
    # The sums change sides with the operands.
    graph = b.finish(b.emit_many("matmul", [weight, right], {"acc": I32, "epilogue": SUMS}, "pq"))
    spec = gemm_of(graph)
    assert types(spec)[:2] == ((U8, I8) if turned else (I8, U8)) and spec.constant_b == turned
    assert MoveSpec not in kinds(graph)[:1]
    agree(graph, draw(U8, *y.type.shape))  # type: ignore[union-attr,misc]


def test_a_float_constant_on_the_left_is_packed() -> None:
    b = Builder()
    y = b.input("y", TensorType(F32, (12, 6)))
    assert gemm_of(b.finish([b.emit("matmul", b.constant(draw(F32, 7, 12)), y)])).constant_b


@pytest.mark.parametrize("batch", [(3,), (1,), (2, 1)])
def test_sums_of_batches_with_named_sizes(batch: tuple[int, ...]) -> None:
    b = Builder()
    m, k = (b.claim_symbol(name) for name in "mk")
    x, y = b.input("x", TensorType(U8, (*batch, m, k))), b.input("y", TensorType(I8, (3, k, 6)))
    graph = b.finish(b.emit_many("matmul", [x, y], {"acc": I32, "epilogue": SUMS}, "pq"))
    for rows, depth in ((5, 12), (1, 1), (4, 0)):
        agree(graph, draw(U8, *batch, rows, depth), draw(I8, 3, depth, 6))


@pytest.mark.parametrize(("dtype", "acc"), [(dtypes.bfloat16, F32), (dtypes.float16, F32), (F32, F32)])
@pytest.mark.parametrize("depth", [1, 2, 7, 8])
def test_an_element_is_one_chain_in_the_canonical_order(dtype: DType, acc: DType, depth: int) -> None:
    x, y = draw(dtype, 3, depth), draw(dtype, depth, 4)
    b = Builder()
    operands = [b.input(name, of_array(array)) for name, array in (("x", x), ("y", y))]
    graph = b.finish([b.emit("matmul", *operands, epilogue=(arg(0, acc),))])
    found = EmulatedExecutable(lower_graph(graph), "emulate").run([x, y])[0]
    order = list(range(depth))
    if dtype == dtypes.bfloat16:
        order = [k for pair in range(depth // 2) for k in (2 * pair + 1, 2 * pair)] + order[depth // 2 * 2 :]
    total = np.zeros((3, 4), np.float32)
    for k in order:
        column, row = (np.broadcast_to(v.astype(np.float32), (3, 4)) for v in (x[:, k, None], y[k]))
        total = fma32(column, row, total)
    assert found.tobytes() == total.tobytes()


def convolution(
    x: Sequence[dims.Size], w: Sequence[int], left: DType = U8, right: DType = I8, **attrs: object
) -> tuple[Graph, Value]:
    b = Builder()
    for size in x:
        if isinstance(size, dims.Dim):
            b.claim_symbol(str(size))
    image, zero = b.input("x", TensorType(left, tuple(x))), b.input("zero", TensorType(left, ()))
    result = b.emit("conv", image, b.constant(draw(right, *w)), None, zero, **{**PLAIN, "acc": I32, **attrs})
    return b.finish([result]), result


LESS = (arg(0, I32) - cast(arg(1, U8), I32) * stat(1, I32),)


def test_convolutions_of_bytes_gather_bytes() -> None:
    graph, _ = convolution((2, 6, 5, 5), (4, 6, 3, 3), epilogue=LESS, fill=1)
    spec = gemm_of(graph)
    assert types(spec) == (U8, I8, I32) and (spec.window, spec.fill) == (2, 1)
    assert MapSpec not in kinds(graph)
    x, zero = draw(U8, 2, 6, 5, 5), np.array(77, np.uint8)
    (found,) = agree(graph, x, zero)
    weights = next(iter(graph.constants.values())).astype(np.int32)
    padded = np.pad(x.astype(np.int32) - 77, ((0, 0), (0, 0), (1, 1), (1, 1)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    np.testing.assert_array_equal(found, np.einsum("nchwij,ocij->nohw", patches, weights))


def test_where_nothing_is_padded_nothing_fills() -> None:
    for kernel in (1, 3):
        graph, _ = convolution((2, 6, 5, 5), (4, 6, kernel, kernel), epilogue=LESS, fill=1, pads=(0, 0, 0, 0))
        assert gemm_of(graph).fill == 0
        agree(graph, draw(U8, 2, 6, 5, 5), np.array(77, np.uint8))


@pytest.mark.parametrize("group", [2, 6])
def test_groups_have_sums_of_their_own(group: int) -> None:
    graph, _ = convolution((2, 6, 5, 5), (6, 6 // group, 3, 3), epilogue=LESS, fill=1, group=group)
    assert gemm_of(graph).batch_rank == 1
    agree(graph, draw(U8, 2, 6, 5, 5), np.array(77, np.uint8))


def test_depthwise_convolutions_of_bytes_are_windows_in_int32() -> None:
    graph, _ = convolution((2, 6, 5, 5), (6, 1, 3, 3), group=6)
    (spec,) = [call.spec for call in calls_of(graph) if isinstance(call.spec, WindowSpec)]
    assert (spec.dtype, spec.acc) == (I32, I32)
    agree(graph, draw(U8, 2, 6, 5, 5), np.array(0, np.uint8))


def test_convolutions_with_named_sizes() -> None:
    n, h = dims.symbol("n"), dims.symbol("h")
    graph, result = convolution((n, 3, h, 5), (4, 3, 3, 3), epilogue=LESS, fill=1)
    assert result.type == TensorType(I32, (n, 4, h, 5))
    for size in (1, 4):
        agree(graph, draw(U8, 2, 3, size, 5), np.array(9, np.uint8))


def test_a_filling_of_another_type_is_refused() -> None:
    b = Builder()
    x, zero = b.input("x", TensorType(U8, (1, 2, 4, 4))), b.input("zero", TensorType(I8, ()))
    with pytest.raises(DtypeError, match="filled"):
        b.emit("conv", x, b.constant(draw(I8, 2, 2, 3, 3)), None, zero, **PLAIN, acc=I32, fill=1)


def test_a_bias_of_bytes_is_refused() -> None:
    b = Builder()
    x, bias = b.input("x", TensorType(U8, (1, 2, 4, 4))), b.input("bias", TensorType(I8, (2,)))
    with pytest.raises(DtypeError, match="the bias is int8; expected int32"):
        b.emit("conv", x, b.constant(draw(I8, 2, 2, 3, 3)), bias, **PLAIN, acc=I32)


@pytest.mark.parametrize("dtype", [I8, dtypes.uint16, I64])
def test_groups_of_rows_of_integers(dtype: DType) -> None:
    b = Builder()
    x, w = b.input("x", TensorType(dtype, (7, 9))), b.input("w", TensorType(dtype, (3, 9, 4)))
    graph = b.finish([b.emit("grouped_matmul", x, w, b.input("ends", TensorType(I32, (3,))))])
    wide = I64 if dtype == I64 else I32
    assert types(gemm_of(graph)) == (wide,) * 3
    a, matrices = draw(dtype, 7, 9), draw(dtype, 3, 9, 4)
    (found,) = agree(graph, a, matrices, np.array([2, 2, 6], np.int32))
    np.testing.assert_array_equal(found[2:6], a[2:6] @ matrices[2])
    assert not found[6].any()


def test_a_map_that_reads_a_product_with_sums_joins_its_epilogue() -> None:
    b = Builder()
    x, y, bias = (b.input(*of) for of in (("x", TensorType(U8, (5, 12))), ("y", TensorType(I8, (12, 6))),
                                          ("bias", TensorType(F32, (6,)))))  # fmt: skip
    zero = b.input("zero", TensorType(U8, (5, 1)))
    less = arg(0, I32) - cast(arg(1, U8), I32) * stat(1, I32) + extent(I32)
    total = b.emit("matmul", x, y, zero, acc=I32, epilogue=(less,))
    scaled = cast(arg(0, I32), F32) * 0.5 + arg(1, F32)
    graph = b.finish([b.emit("map", total, bias, outputs=(scaled,))])
    assert kinds(graph) == [GemmSpec]
    assert gemm_of(graph).epilogue == (cast(less, F32) * 0.5 + arg(2, F32),)
    arrays = (draw(U8, 5, 12), draw(I8, 12, 6), draw(F32, 6), draw(U8, 5, 1))
    np.testing.assert_array_equal(agree(graph, *arrays)[0], run(graph, arrays)[0])


def test_repeated_heads_keep_their_sums() -> None:
    b = Builder()
    q, k = b.input("q", TensorType(U8, (2, 6, 5, 8))), b.input("k", TensorType(I8, (2, 2, 7, 8)))
    keys = b.emit("transpose", repeat(b, k, 3), perm=(0, 1, 3, 2))
    graph = b.finish(b.emit_many("matmul", [q, keys], {"acc": I32, "epilogue": SUMS}, "pq"))
    assert kinds(graph)[0] == GemmSpec  # nothing was repeated in memory
    agree(graph, draw(U8, 2, 6, 5, 8), draw(I8, 2, 2, 7, 8))


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_precision_leaves_integer_products_as_they_are(precision: str) -> None:
    total = arg(0, I32) - stat(1, I32) + extent(I32)
    graph = set_precision(product(U8, I8, acc=I32, epilogue=(cast(total, dtypes.float16) * 0.5,)), precision)
    spec = gemm_of(graph)
    assert types(spec) == (U8, I8, I32)
    retyped = {"fp32": cast(cast(total, F32) * 0.5, dtypes.float16), "fp64": cast(total, dtypes.float64) * 0.5}
    assert spec.epilogue == (retyped[precision],)
