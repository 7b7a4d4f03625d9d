"""Blocking: a pure function whose items cover the product, in whole panels, and share it evenly."""

from __future__ import annotations

from dataclasses import replace

import pytest

from backends.native.blocking import Product, blocking, slab_rows
from backends.native.target import named
from backends.native.units import select
from compiler import dtypes
from compiler.canonical import PRODUCT_CHUNK

TARGET = replace(named("x86-64-v4"), l1=48 << 10, l2=1 << 20, l3=16 << 20)
UNIT = select(TARGET, *[dtypes.float32] * 3)[0]
SHAPES = [(1, 1, 1), (0, 5, 3), (5, 0, 3), (128, 768, 768), (128, 768, 3072), (3136, 64, 576), (1, 30522, 768),
          (4096, 4096, 4096), (7, 13, 5000), (100_000, 3, 2)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 12, 0])
def test_items_are_whole_panels_that_cover_the_product(shape: tuple[int, int, int], threads: int, batch: int) -> None:
    m, n, k = shape
    grid = UNIT.grid(n)
    for fresh in (False, True):
        cut = blocking(UNIT, grid, Product(batch, m, n, k, fresh, True, False), TARGET, threads)
        assert cut.item_rows % grid.rows == 0 and cut.block_rows % grid.rows == 0
        assert cut.item_columns % (grid.columns * UNIT.n) == 0
        assert cut.depth > 0 and cut.items_per_chunk > 0 and cut.block_rows > 0
        rows, columns = -(-m // cut.item_rows), -(-n // cut.item_columns)
        assert cut.items(m, n, batch) == batch * rows * columns
        assert fresh or not (cut.pack_b or cut.keeps_b)


def cut_of(m: int, n: int, k: int, threads: int, batch: int = 1, fresh: bool = False):
    """Chunks and blocking of a product."""
    product = Product(batch, m, n, k, fresh, True, False)
    cut = blocking(UNIT, UNIT.grid(n), product, TARGET, threads)
    return -(-cut.items(m, n, batch) // cut.items_per_chunk), cut


def test_small_work_stays_one_chunk() -> None:
    for m, n, k in ((1, 128, 64), (1, 128, 128), (8, 64, 64)):
        assert cut_of(m, n, k, 8)[0] == 1


def test_large_work_is_shared_evenly() -> None:
    for shape in (
        (128, 768, 768),
        (128, 3072, 768),
        (1024, 1024, 1024),
        (3136, 64, 64),
        (12544, 64, 147),
        (49, 512, 2048),
    ):
        for threads in (2, 4):
            chunks, cut = cut_of(*shape, threads)
            work = shape[0] * shape[1]
            turns = -(-chunks // threads)
            assert turns * min(cut.item_rows, shape[0]) * min(cut.item_columns, shape[1]) <= 1.15 * work / threads


def test_a_batch_is_cut_between_its_matrices() -> None:
    chunks, cut = cut_of(128, 128, 64, 2, batch=24)
    assert 2 <= chunks <= 8 and cut.item_rows >= 128 and cut.item_columns >= 128


def test_k_is_not_cut_while_a_panel_stays_in_l2() -> None:
    assert cut_of(128, 768, 3072, 1)[1].depth == 3072
    assert cut_of(128, 768, 8000, 1)[1].depth == 2667
    assert cut_of(128, 768, 10_000, 1)[1].depth == 2048, "blocks end where chunks do"


def test_a_large_fresh_b_passes_few_rows_in_slabs() -> None:
    grid = UNIT.grid(4096)
    few = Product(1, 4, 4096, 4096, True, True, False)
    assert slab_rows(UNIT, grid, few, TARGET) == 16
    for other in (replace(few, m=9), replace(few, fresh_b=False), replace(few, unit_b=False), replace(few, n=100),
                  replace(few, k=100), replace(few, sums_b=True), replace(few, groups=2)):  # fmt: skip
        assert slab_rows(UNIT, grid, other, TARGET) == 0


def test_long_rows_over_a_short_k_are_written_by_rows() -> None:
    assert cut_of(2048, 2048, 16, 1)[1].block_rows == 16
    assert cut_of(2048, 64, 16, 1)[1].block_rows >= 128, "short rows"
    assert cut_of(2048, 2048, 1024, 1)[1].block_rows >= 128, "a long K"


def test_the_size_of_l2_decides_the_rows_of_a_block() -> None:
    rows = [
        blocking(UNIT, UNIT.grid(1024), Product(1, 4096, 1024, 1024, False, True, False), replace(TARGET, l2=size), 1)
        for size in (1 << 20, 4 << 20)
    ]
    assert rows[0].block_rows < rows[1].block_rows


def test_what_an_item_keeps_of_a_fresh_b_fits_the_last_level_cache() -> None:
    for m, n, k in ((4096, 4096, 4096), (1024, 1024, 1024), (264, 100_000, 512), (500, 200, 100_000)):
        cut = cut_of(m, n, k, 1, fresh=True)[1]
        panel = UNIT.grid(n).columns * UNIT.n
        assert cut.item_columns == panel or cut.item_columns * k * 4 <= TARGET.l3 // 2 + panel * k * 4


def test_without_l3_items_are_not_cut_for_what_they_pack() -> None:
    """There B comes from memory for every block of rows anyway, and items of few columns would pack A anew."""
    bare, product = replace(TARGET, l3=0), Product(1, 4096, 4096, 4096, True, True, False)
    grid = UNIT.grid(4096)
    assert blocking(UNIT, grid, product, TARGET, 1).item_columns < 4096
    assert blocking(UNIT, grid, product, bare, 1).item_columns >= 4096
    assert blocking(UNIT, grid, replace(product, k=100_000), bare, 1).item_columns < 4096, "memory has an end as well"
    few = replace(product, m=4)
    assert slab_rows(UNIT, grid, few, bare) == 16 and slab_rows(UNIT, grid, replace(few, k=8), bare) == 0


def test_k_goes_outermost_where_l2_holds_no_block_of_packed_rows() -> None:
    """Of a unit that packs A: K blocks for L2, over all panels, instead of few rows or rows from memory."""
    machine = replace(named("armv9-sme"), l1=32 << 10, l2=768 << 10, l3=0)
    for dtype, k in ((dtypes.float64, 1024), (dtypes.float32, 4096), (dtypes.bfloat16, 4096)):
        acc = dtype if dtype != dtypes.bfloat16 else dtypes.float32
        unit = select(machine, dtype, dtype, acc, tiles=True)[0]
        grid = unit.grid(4096)
        product = Product(1, 4096, 4096, k, False, True, False)
        cut, panel = blocking(unit, grid, product, machine, 1), grid.columns * unit.n
        assert cut.by_slabs and cut.depth < k and cut.depth % unit.k == 0 and cut.block_rows >= 128
        size = cut.depth * (cut.block_rows * unit.left.bytes + 2 * panel * unit.right.bytes)
        assert machine.l2 // 2 < size <= machine.l2 * 3 // 4
        for other in (replace(product, k=128), replace(product, n=panel), replace(product, n=1 << 20)):
            assert not blocking(unit, grid, other, machine, 1).by_slabs
        long = blocking(unit, grid, replace(product, k=10_000), machine, 1)
        assert long.by_slabs and PRODUCT_CHUNK % long.depth == 0
        fresh = blocking(unit, grid, replace(product, fresh_b=True), machine, 1)
        assert fresh.by_slabs and fresh.keeps_b
    assert not blocking(UNIT, UNIT.grid(4096), Product(1, 4096, 4096, 4096, True, False, False), TARGET, 1).by_slabs
