"""What tuning tries: other cuts and grids are valid for every size, and no result depends on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking, Product, blocking, least_shares
from backends.native.candidates import Choice, Problem
from backends.native.question import size_class
from backends.native.target import host, named
from backends.native.trial import number
from backends.native.units import MatrixUnit, select
from backends.native.walker import MAX_CHUNKS
from bench.gemm_kernels import Case, call_of
from compiler import dtypes
from compiler.canonical import PRODUCT_CHUNK
from compiler.kernels import KernelCall, View
from tests.backends.native import harness
from tests.backends.native.test_blocking import SHAPES

TARGET = replace(named("x86-64-v4"), l1=48 << 10, l2=1 << 20, l3=16 << 20)
UNITS = [select(TARGET, *triple)[0] for triple in ((dtypes.float32,) * 3, (dtypes.int8, dtypes.int8, dtypes.int32))]
CASES = [
    Case(61, 150, 70, "row"), Case(61, 150, 600, "column"), Case(61, 150, 1300, "constant", "gelu"),
    Case(5, 70, PRODUCT_CHUNK + 40, "row"), Case(5, 70, PRODUCT_CHUNK + 40, "constant", "bias"),
    Case(40, 100, 600, "row", dtype="float64"), Case(40, 100, 601, "constant", "bias", "bfloat16"),
    Case(40, 100, 601, "row", dtype="int8"), Case(3, 300, 600, "constant", dtype="uint8"),
    Case.conv(9, 32, 50, 3), Case.conv(11, 3, 50, 3, 2),
]  # fmt: skip


def problems(unit: MatrixUnit, shape: tuple[int, int, int]) -> Iterator[Problem]:
    for batch in (1, 12):
        for fresh, unit_b in ((False, True), (True, True), (True, False)):
            product = Product(batch, *shape, fresh, unit_b, False)
            for grid in unit.grids:
                for threads in (1, 2, 8):
                    yield Problem(unit, grid, product, TARGET, threads)


def tried(problem: Problem, steps: int = 2) -> list[Choice]:
    """Every choice within so many steps of the untuned one."""
    found = {problem.choice_of(untuned(problem)): None}
    for _ in range(steps):
        found |= dict.fromkeys(near for choice in list(found) for near in problem.neighbours(choice))
    return list(found)


def untuned(problem: Problem) -> Blocking:
    return blocking(problem.unit, problem.grid, problem.product, problem.target, problem.threads)


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_candidate_covers_the_product_in_whole_panels(unit: MatrixUnit, shape: tuple[int, int, int]) -> None:
    m, n, k = shape
    for problem in problems(unit, shape):
        mr, nr = problem.panel
        for choice in tried(problem, 1):
            cut = problem.cut(choice)
            assert cut.item_rows % mr == cut.block_rows % mr == cut.item_columns % nr == 0
            assert 0 < cut.block_rows <= cut.item_rows and cut.item_columns > 0
            rows, columns = -(-m // cut.item_rows), -(-n // cut.item_columns)
            assert cut.items(m, n, problem.product.batch) == problem.product.batch * rows * columns
            chunks = -(-cut.items(m, n, problem.product.batch) // cut.items_per_chunk)
            assert cut.items_per_chunk > 0 and chunks <= min(MAX_CHUNKS, max(choice.chunks, 1))
            check_depth(problem, cut, k)
            check_packing(problem, cut, k)


def check_depth(problem: Problem, cut: Blocking, k: int) -> None:
    """K blocks are whole groups of what one mma takes, and none spans two chains."""
    assert 0 < cut.depth <= max(k, 1)
    if problem.unit.acc.is_float and k > PRODUCT_CHUNK:
        assert PRODUCT_CHUNK % cut.depth == 0
    assert cut.depth == max(k, 1) or cut.depth % problem.unit.k == 0


def check_packing(problem: Problem, cut: Blocking, k: int) -> None:
    """What has to be packed is, and what an item keeps of it fits half of the last-level cache but for a panel."""
    product, panel = problem.product, problem.panel[1]
    assert product.fresh_b or not (cut.pack_b or cut.keeps_b)
    assert cut.pack_b or not (product.fresh_b and (not product.unit_b or problem.unit.k > 1))
    if cut.pack_b:
        size = k * problem.unit.b.bytes
        assert cut.item_columns == panel or cut.item_columns * size <= TARGET.l3 // 2 + panel * size
        assert (
            least_shares(problem.unit, product, TARGET) <= max(1, -(-product.n // panel)) or cut.item_columns == panel
        )


def test_there_is_something_to_try() -> None:
    shapes = {(128, 768, 768): 2, (128, 768, 3072): 2, (4096, 4096, 4096): 5}
    for shape, least in shapes.items():
        for fresh in (False, True):
            for threads in (1, 2):
                problem = Problem(UNITS[0], UNITS[0].grids[0], Product(1, *shape, fresh, True, False), TARGET, threads)
                found = problem.neighbours(problem.choice_of(untuned(problem)))
                assert least <= len({problem.cut(choice) for choice in found}) == len(found) <= 14


def test_shares_say_the_cut_they_were_made_of() -> None:
    for shape in SHAPES:
        for problem in problems(UNITS[0], shape):
            cut = untuned(problem)
            again = problem.cut(problem.choice_of(cut))
            assert replace(again, items_per_chunk=cut.items_per_chunk) == cut


def test_segments_are_not_cut() -> None:
    product = Product(1, 196, 256, 9 * 48, False, True, False, segment=48)
    problem = Problem(UNITS[0], UNITS[0].grids[0], replace(product, k=27 * 48), TARGET, 1)
    depths = {problem.cut(choice).depth for choice in tried(problem, 3)}
    assert len(depths) > 1 and all(depth % 48 == 0 for depth in depths)


def test_choices_are_plain_numbers() -> None:
    choice = Choice(2, 3, 1, 4, 6, True)
    assert Choice.of_words(choice.words()) == choice
    for words in ((), (1, 2), (0, 1, 1, 1, 1, 0), (1, 1, 1, 1, 1 << 25, 0), (1,) * 7):
        assert Choice.of_words(words) is None


def test_a_class_is_a_quarter_wide_at_most() -> None:
    assert [size_class(size) for size in range(10)] == [*range(9), 10]
    for size in range(1, 5000):
        assert size <= size_class(size) <= size * 1.25 and size_class(size_class(size)) == size_class(size)
    assert size_class(PRODUCT_CHUNK) == PRODUCT_CHUNK < size_class(PRODUCT_CHUNK + 1)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_bit_depends_on_the_candidate(case: Case) -> None:
    call = call_of(case)
    memory = {view.buffer: draw(view) for view in (*call.reads, *call.writes)}
    default = gemm.select(call, host())
    wanted = result(default, call, memory, untuned(problem_of(default, call, 1)), 1)
    for grid in default.matrix_unit.grids:
        kernel = gemm.select(call, host(), grid)
        for threads in (1, 3):
            problem = problem_of(kernel, call, threads)
            cuts = {problem.cut(choice) for choice in tried(problem)}
            for cut in (untuned(problem), *cuts):
                harness.assert_same(result(kernel, call, memory, cut, threads), wanted)


def problem_of(kernel: gemm.GemmKernel, call: KernelCall, threads: int) -> Problem:
    return Problem(kernel.matrix_unit, kernel.shape.grid, kernel.product(call, number), host(), threads)


def result(
    kernel: gemm.GemmKernel, call: KernelCall, memory: dict[str, np.ndarray], cut: Blocking, threads: int
) -> np.ndarray:
    """C, computed under a cut on scratch of just the size the kernel asks for."""
    memory = {**memory, "c": np.full_like(memory["c"], 77)}
    for read in kernel.packed_reads(call):
        view = call.reads[read]
        packed = kernel.pack(call, read, memory["b"].reshape([number(size) for size in view.shape]))
        assert packed.nbytes == kernel.packed_bytes(call, number)
        memory["b"] = packed
    assert harness.execute(kernel, host(), kernel.arguments(call, number, threads, cut), memory) == 0
    return memory["c"]


def draw(view: View) -> np.ndarray:
    """Memory under a view whose strides are not negative."""
    size = 1 + sum((number(n) - 1) * number(step) for n, step in zip(view.shape, view.strides, strict=True))
    numbers = np.random.default_rng(len(view.buffer)).standard_normal(size)
    return (numbers if view.dtype.is_float else 20 * numbers).astype(np.float32).astype(view.dtype.numpy)
