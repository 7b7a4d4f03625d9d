"""Products shared out over K, on kernels: the bits of the same products whole (as lowered when K has no number)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from backends.reference.emulator import EmulatedExecutable
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.canonical import PRODUCT_CHUNK
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const
from compiler.ir import Graph
from compiler.kernels import GemmSpec, KernelCall
from compiler.pipeline import lower_graph
from compiler.types import TensorType, of_array
from runtime.options import Options
from tests.backends.native.harness import assert_same

F32, F64, I32 = dtypes.float32, dtypes.float64, dtypes.int32
LENGTHS = (2 * PRODUCT_CHUNK, 2 * PRODUCT_CHUNK + 1, 3 * PRODUCT_CHUNK + 100)
RNG = np.random.default_rng(8193)


def draw(dtype: DType, *shape: int) -> np.ndarray:
    if dtype.is_float:
        return RNG.standard_normal(shape).astype(dtype.numpy)
    limits = np.iinfo(dtype.numpy)
    return RNG.integers(limits.min, limits.max, shape, dtype.numpy, endpoint=True)


def product(
    x: np.ndarray,
    y: np.ndarray,
    k: Size,
    extras: Sequence[np.ndarray] = (),
    epilogue: tuple[Expr, ...] = (),
    transposed: bool = False,
    constant: bool = False,
    acc: DType | None = None,
) -> Graph:
    """The graph of x @ y with its epilogue. transposed: x comes as [.., K, M], y as [.., N, K], the result goes so."""
    b = Builder()
    b.claim_symbol("k")
    axes = [*range(x.ndim - 2), x.ndim - 1, x.ndim - 2]

    def shape(array: np.ndarray, axis: int) -> tuple[Size, ...]:
        sizes: list[Size] = list(array.shape)
        sizes[axis] = k
        return tuple(sizes)

    first = b.input("x", TensorType(of_array(x).dtype, shape(x, -2 if transposed else -1)))
    second = (
        b.constant(y) if constant else b.input("y", TensorType(of_array(y).dtype, shape(y, -1 if transposed else -2)))
    )
    if transposed:
        first, second = (b.emit("transpose", value, perm=tuple(axes)) for value in (first, second))
    operands = [b.input(f"e{i}", of_array(extra)) for i, extra in enumerate(extras)]
    names = [f"c{i}" for i in range(max(len(epilogue), 1))]
    results = b.emit_many("matmul", [first, second, *operands], {"epilogue": epilogue, "acc": acc}, names)
    if transposed:
        results = tuple(b.emit("transpose", value, perm=tuple(axes)) for value in results)
    return b.finish(list(results))


def products_in(graph: Graph) -> int:
    calls = lower_graph(graph).calls
    return sum(isinstance(call, KernelCall) and isinstance(call.spec, GemmSpec) for call in calls)


def results(graph: Graph, arrays: Sequence[np.ndarray], threads: int) -> list[np.ndarray]:
    executable = Executable(lower_graph(graph), host(), Options.resolve(threads, False))
    return executable.run(list(arrays))


def check(x: np.ndarray, y: np.ndarray, k: int, extras: Sequence[np.ndarray] = (), **options: object) -> None:
    """Shared out on one thread and on several, with y fresh and constant, as whole."""
    whole = product(x, y, dims.symbol("k"), extras, **options)  # type: ignore[arg-type]
    assert products_in(whole) == 1
    expected = results(whole, [x, y, *extras], 1)
    for constant in (False, True):
        graph = product(x, y, k, extras, constant=constant, **options)  # type: ignore[arg-type]
        assert products_in(graph) == (1 if k % PRODUCT_CHUNK == 0 else 2)
        for threads in (1, 2, 5):
            found = results(graph, [x, *extras] if constant else [x, y, *extras], threads)
            for got, want in zip(found, expected, strict=True):
                assert_same(got, want)


@pytest.mark.parametrize("k", LENGTHS)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (3, 5), (1, 70), (40, 1), (17, 50)])
def test_sizes(m: int, n: int, k: int) -> None:
    check(draw(F32, m, k), draw(F32, k, n), k)


@pytest.mark.parametrize("dtype", [F64, dtypes.float16, dtypes.bfloat16, dtypes.int8, dtypes.uint8, I32, dtypes.int64])
def test_types(dtype: DType) -> None:
    k = LENGTHS[1]
    acc = I32 if dtype.is_integer and dtype.bits == 8 else None
    x, y = draw(dtype, 5, k), draw(dtype, k, 9)
    check(x, y, k, acc=acc)
    if dtype.is_integer:
        (found,) = results(product(x, y, k, acc=acc), [x, y], 1)
        np.testing.assert_array_equal(found, x.astype(found.dtype) @ y.astype(found.dtype))


@pytest.mark.parametrize("k", LENGTHS[:2])
def test_batches(k: int) -> None:
    check(draw(F32, 2, 3, k), draw(F32, 2, k, 5), k)
    check(draw(F32, 2, 3, k), draw(F32, 1, k, 5), k)
    check(draw(F32, 1, 3, k), draw(F32, 2, k, 5), k)


@pytest.mark.parametrize("k", LENGTHS[1:])
@pytest.mark.parametrize("transposed", [False, True])
def test_epilogues_and_layouts(k: int, transposed: bool) -> None:
    a, bias, other = arg(0, F32), arg(1, F32), arg(2, F64)
    epilogue = (
        apply("max", a + bias, const(0.0, F32)),
        cast(a, F64) * other,
        cast(apply("gt", a, bias), I32),
    )
    shapes = ((2, k, 6), (2, 11, k)) if transposed else ((2, 6, k), (2, k, 11))
    x, y = (draw(F32, *shape) for shape in shapes)
    check(x, y, k, [draw(F32, 11), draw(F64, 2, 6, 1)], epilogue=epilogue, transposed=transposed)


def test_a_constant_left_operand_is_packed_as_the_right_one_of_the_transposed_product() -> None:
    k = LENGTHS[1]
    x, y = draw(F32, 6, k), draw(F32, k, 7)
    b = Builder()
    graph = b.finish([b.emit("matmul", b.constant(x), b.input("y", of_array(y)))])
    assert products_in(graph) == 2
    expected = results(product(x, y, dims.symbol("k")), [x, y], 1)
    for threads in (1, 2):
        assert_same(results(graph, [y], threads)[0], expected[0])


def test_kernels_give_what_the_emulator_gives() -> None:
    k = LENGTHS[1]
    for dtype in (F32, dtypes.bfloat16):
        x, y = draw(dtype, 2, k), draw(dtype, k, 3)
        graph = product(x, y, k)
        assert_same(results(graph, [x, y], 2)[0], EmulatedExecutable(lower_graph(graph)).run([x, y])[0])


@pytest.mark.parametrize("dtype", [F32, F64])
def test_special_sums(dtype: DType) -> None:
    k, least = LENGTHS[0], np.finfo(dtype.numpy).tiny
    for x, y in ((least, -least), (-least, -least), (np.inf, -1.0), (0.0, np.inf), (-0.0, 1.0)):
        left, right = (np.full(shape, value, dtype.numpy) for shape, value in (((1, k), x), ((k, 1), y)))
        check(left, right, k)
    left, right = np.full((1, k), least, dtype.numpy), np.full((k, 1), -least, dtype.numpy)
    assert np.signbit(results(product(left, right, k), [left, right], 1)[0]).all()  # chains that underflow to -0


def test_one_kernel_serves_chunks_and_rest() -> None:
    k = LENGTHS[2]
    program = Executable(lower_graph(product(np.ones((3, k)), np.ones((k, 5)), k)), host(), Options.resolve(1, False))
    first, rest, total = (kernel.name for _, kernel in program.prepared.calls if kernel is not None)
    assert first == rest != total
