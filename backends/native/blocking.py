"""How a product is cut: K blocks by cache size, items (tiles of C) by thread count. A pure function of numbers.

An *item* is what one pass of the macro-kernel computes: some rows and columns of one matrix of the batch. A chunk,
the executor's unit of claiming, is a run of items. Results do not depend on any of it (design rule 7).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from backends.native.target import Target
from backends.native.units import Grid, MatrixUnit
from compiler.canonical import PRODUCT_CHUNK

GIGAHERTZ = 3.0  # only to tell small products from large ones
BYTES_PER_NS = 30.0  # from memory
CHUNK_NS = 2500.0  # below this a chunk costs more in claiming and cache traffic than a second thread gains
CHUNKS_PER_THREAD = 4
DISTURBED = 0.3  # of an item: what an interrupted thread costs the others
ITEM_CYCLES = 150.0
PACK_CYCLES = 0.25  # per packed element
READ_CYCLES = 0.02  # per element of A and B that an item passes over
COLD_CYCLES = 0.1  # per element of an item's first panel, which nothing prefetched
MOST_PACKED = 64 << 20  # bytes of B that an item packs where no cache bounds them
MOST_WAITING = 64 << 20  # bytes of tiles that wait for the next K block, about
NEAR = 0.75  # of L1, for a panel of B and the rows of A it meets
LEAST_ROWS = 128  # of a block
STRIP_BLOCKS = 2  # row blocks of a strip of C that is written row by row
LONG_ROW = 2048  # bytes of a row of B or C
SLAB_ROWS = 16
SLAB_PANELS = 4  # how far ahead of a panel its slab is prefetched
PLACED_BLOCKS = 16  # row blocks up to which a row-major fresh B is read in place
PLACED_BYTES = 512  # of its rows: up to here always


@dataclass(frozen=True)
class Blocking:
    """Rows and columns of an item, rows of A per pass over its panels, K block, items a chunk; whether the call packs
    panels of a fresh B, and keeps them in scratch for the item's later passes; whether a K block passes over all panels
    before the next, while their tiles wait in scratch, so that of a block of rows only so much of K has to be near."""

    item_rows: int
    item_columns: int
    block_rows: int
    depth: int
    items_per_chunk: int
    pack_b: bool
    keeps_b: bool
    by_slabs: bool = False

    def items(self, m: int, n: int, batch: int) -> int:
        """Number of items."""
        return batch * -(-m // self.item_rows) * -(-n // self.item_columns)


@dataclass(frozen=True)
class Product:
    """What blocking has to know about a call. `fresh_b`: B comes unpacked; `unit_b`: with unit stride along N;
    `gathers`: A rows are copied into scratch first. K blocks are whole `segment`s. The rows are shared out among
    `groups` matrices B. `sums_b`: columns of B are summed, which only packing does. `decodes`: panels of a fresh B are
    made of codes, anew for every block of rows."""

    batch: int
    m: int
    n: int
    k: int
    fresh_b: bool
    unit_b: bool
    gathers: bool
    segment: int = 1
    groups: int = 1
    sums_b: bool = False
    decodes: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to multiply."""
        return 0 in (self.batch, self.m, self.n, self.k)


@lru_cache(maxsize=1024)
def blocking(unit: MatrixUnit, grid: Grid, product: Product, target: Target, threads: int) -> Blocking:
    """The cut for one product on `threads` threads."""
    mr, nr = grid.rows * unit.m, grid.columns * unit.n
    batch, m, n, k = max(product.batch, 1), max(product.m, 1), max(product.n, 1), max(product.k, 1)
    # Packing a panel pays once it is read often; narrow rows lie densely anyway.
    pays = m > PLACED_BLOCKS * mr * product.groups and n * unit.right.bytes > PLACED_BYTES
    pack_b = product.fresh_b and (must_pack(unit, product) or pays)
    columns_ns = k * -(-n // nr) * nr * unit.mma_cycles / (unit.n * unit.k * GIGAHERTZ)  # a row of A against all of B
    read_ns = k * n * unit.right.bytes * min(product.groups, m) / BYTES_PER_NS
    total_ns = batch * max(-(-m // unit.m) * columns_ns, read_ns)
    chunks = min(int(total_ns / CHUNK_NS), threads * CHUNKS_PER_THREAD) if threads > 1 else 1

    splits = [(1, 1)]
    if threads > 1 and batch < chunks:
        wanted = -(-chunks // batch)
        splits = [(r, c) for r in range(1, wanted + 1) for c in range(1, wanted // r + 1)]
    least_columns = least_shares(unit, product, target) if pack_b and not product.decodes else 1
    best = (float("inf"), 0, 0)
    for rows, columns in splits:
        item_rows, item_columns = share(m, rows, mr), share(n, max(columns, least_columns), nr)
        best = min(best, (_makespan(unit, product, threads, item_rows, item_columns, nr), item_rows, item_columns))
    item_rows, item_columns = best[1], best[2]
    items = batch * -(-m // item_rows) * -(-n // item_columns)
    per_chunk = -(-items // max(1, min(chunks, items)))
    by_slabs = passes_by_slabs(unit, product, target, (min(item_rows, m), min(item_columns, n)), (mr, nr))
    depth = _depth(unit, product, target, mr, nr, min(item_rows, LEAST_ROWS) if by_slabs else 0)
    block_rows = _block_rows(unit, depth if by_slabs else product.k, target, item_rows, mr, nr)
    if _is_written_by_rows(unit, product, target, min(item_columns, n)):
        block_rows = min(block_rows, STRIP_BLOCKS * mr)
    keeps_b = pack_b and keeps_panels(unit, product, block_rows < item_rows, by_slabs)
    return Blocking(item_rows, item_columns, block_rows, depth, per_chunk, pack_b, keeps_b, by_slabs)


def keeps_panels(unit: MatrixUnit, product: Product, again: bool, by_slabs: bool) -> bool:
    """Whether packed panels of a fresh B stay in scratch: rows that come later meet them `again`, or all are packed
    first, because slabs pass over all, or before a mode is entered. Decoded ones are made anew."""
    return (again or bool(unit.mode) or by_slabs) and not product.decodes


def slab_rows(unit: MatrixUnit, grid: Grid, product: Product, target: Target) -> int:
    """Rows of a slab of K where slabs go outermost, over all panels; else 0. Few rows of A read each element of a fresh
    row-major B once, from memory: panel by panel every row of B would be another page, and few lines of it."""
    few = product.m <= grid.rows * unit.m and product.groups == 1 and product.segment == 1
    plain = product.fresh_b and product.unit_b and not product.sums_b and unit.in_place and SLAB_ROWS % unit.k == 0
    row = product.n * unit.right.bytes
    return SLAB_ROWS if few and plain and row >= LONG_ROW and product.k * row > target.last_level * 3 // 4 else 0


def must_pack(unit: MatrixUnit, product: Product) -> bool:
    """Whether a fresh B has to be packed: in place, only whole panels with neighbours side by side will do."""
    return unit.k > 1 or not unit.in_place or not product.unit_b or product.sums_b


def least_shares(unit: MatrixUnit, product: Product, target: Target) -> int:
    """How many items must share N where they pack B: what one packs stays in its thread's scratch, at most half of its
    part of L3. Where there is none it comes from memory for every block of rows, as a B packed ahead does, and items
    of few columns would only pack A anew, or read it."""
    most = target.l3 // 2 or MOST_PACKED
    return -(-max(product.n, 1) * max(product.k, 1) * unit.right.bytes // most)


def passes_by_slabs(
    unit: MatrixUnit, product: Product, target: Target, item: tuple[int, int], grid: tuple[int, int]
) -> bool:
    """Whether K blocks go outermost: where packed rows of A meet several panels and L2 does not hold all of their K, of
    as many rows as make the passes of B cheap. `item` and `grid` in rows and columns."""
    (rows, columns), (_, nr) = item, grid
    if unit.in_place or product.decodes or product.segment > 1 or product.groups > 1 or columns <= nr:
        return False
    if min(rows, LEAST_ROWS) * columns * unit.acc.bytes > MOST_WAITING:
        return False
    return product.k > _held(unit, target, min(rows, LEAST_ROWS), nr)


def _held(unit: MatrixUnit, target: Target, rows: int, nr: int) -> int:
    """How much of K L2 holds of so many rows of A, the panel in use and the next."""
    return target.l2 * 3 // 4 // (rows * unit.left.bytes + 2 * nr * unit.right.bytes)


def _depth(unit: MatrixUnit, product: Product, target: Target, mr: int, nr: int, rows: int) -> int:
    """The K block: all of K while a B panel stays in L2 beside the stream of A, else K in equal parts; by slabs, while
    the panel does so beside `rows` rows of A. Decoded panels are read from L1, in which they were made; so are panels
    that meet several rows and are read too fast for L2."""
    multiple = unit.k * product.segment
    most = int(0.6 * (target.l1 if product.decodes else target.l2)) // (nr * unit.right.bytes)
    if rows:
        most = min(most, _held(unit, target, rows, nr))
    if unit.outruns_l2 and product.m > mr:
        most = int(NEAR * target.l1) // (mr * unit.left.bytes + nr * unit.right.bytes)
    most = max(most, multiple)
    if unit.acc.is_float and product.k > PRODUCT_CHUNK:  # a block never spans two chunks
        depth = PRODUCT_CHUNK
        while depth > most:
            depth //= 2
        return depth
    if product.k <= most:
        return max(product.k, 1)
    blocks = -(-product.k // most)
    return -(-product.k // (blocks * multiple)) * multiple


def _block_rows(unit: MatrixUnit, k: int, target: Target, item_rows: int, mr: int, nr: int) -> int:
    """Rows of A walked for every panel of B: equal parts of an item that L2 holds, with that much of K, beside two
    panels, but enough of them that B, which passes once for each block, costs little bandwidth."""
    panels = 2 * min(nr * k * unit.right.bytes, target.l2 // 4)  # the one in use and the next
    rows = (target.l2 * 3 // 4 - panels) // max(k * unit.left.bytes, 1)
    most = max(rows // mr, LEAST_ROWS // mr, 1) * mr
    return share(item_rows, -(-item_rows // most), mr)


def _is_written_by_rows(unit: MatrixUnit, product: Product, target: Target, columns: int) -> bool:
    """Whether a few rows at a time should pass over all panels: these are packed and so few that they stay in L2, and
    the rows of C so long that a strip as wide as a panel would touch a page for each."""
    if product.fresh_b or product.gathers or product.segment > 1 or product.groups > 1:
        return False
    return columns * product.k * unit.right.bytes <= target.l2 // 4 and columns * unit.acc.bytes >= LONG_ROW


def share(extent: int, parts: int, multiple: int) -> int:
    """One of `parts` equal shares, rounded up to whole panels."""
    panels = -(-extent // multiple)
    return -(-panels // parts) * multiple


def _makespan(unit: MatrixUnit, product: Product, threads: int, item_rows: int, item_columns: int, nr: int) -> float:
    """Cycles until the last thread is done, items being claimed one by one and now and then one taking longer."""
    k = max(product.k, 1)
    rows, columns = min(item_rows, max(product.m, 1)), min(item_columns, max(product.n, 1))
    cycles = rows * -(-columns // nr) * nr * k * unit.mma_cycles / (unit.m * unit.n * unit.k)
    cycles += ITEM_CYCLES + COLD_CYCLES * nr * k + READ_CYCLES * (rows + columns) * k
    cycles += PACK_CYCLES * k * (rows * product.gathers + columns * product.fresh_b)
    items = product.batch * -(-max(product.m, 1) // item_rows) * -(-max(product.n, 1) // item_columns)
    return cycles * (-(-items // threads) + DISTURBED)
