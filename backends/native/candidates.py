"""Other cuts of a product than the one `blocking` chooses, for tuning to try. Pure functions of numbers.

A choice is kept in shares instead of elements, so that it says something about every size of a class.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields, replace

from backends.native.blocking import Blocking, Product, keeps_panels, least_shares, must_pack, passes_by_slabs, share
from backends.native.target import Target
from backends.native.units import Grid, MatrixUnit
from compiler.canonical import PRODUCT_CHUNK

MOST_SHARES = 1 << 24  # no plan has more chunks
DEEP = 512  # products along K from which several K blocks are worth a try


@dataclass(frozen=True)
class Choice:
    """How a product is cut: the shares of M and of N that items are, row blocks of an item, parts of K (where float
    chains end: of a chain), chunks; whether a fresh B is packed where that is free to choose."""

    rows: int
    columns: int
    blocks: int
    parts: int
    chunks: int
    pack_b: bool

    def words(self) -> tuple[int, ...]:
        """As plain numbers."""
        return tuple(int(value) for value in astuple(self))

    @staticmethod
    def of_words(words: tuple[int, ...]) -> Choice | None:
        """What `words` gave; None for other numbers."""
        if len(words) != len(fields(Choice)) or min(words[:-1]) < 1 or max(words) > MOST_SHARES:
            return None
        rows, columns, blocks, parts, chunks, packs = words
        return Choice(rows, columns, blocks, parts, chunks, bool(packs))


@dataclass(frozen=True)
class Problem:
    """A product and all that decides its cut."""

    unit: MatrixUnit
    grid: Grid
    product: Product
    target: Target
    threads: int

    @property
    def panel(self) -> tuple[int, int]:
        """Rows and columns of a grid."""
        return self.grid.rows * self.unit.m, self.grid.columns * self.unit.n

    def choice_of(self, cut: Blocking) -> Choice:
        """A cut in shares."""
        product = self.product
        items = cut.items(product.m, product.n, product.batch)
        return Choice(
            _parts(product.m, cut.item_rows), _parts(product.n, cut.item_columns),
            _parts(min(cut.item_rows, max(product.m, 1)), cut.block_rows),
            PRODUCT_CHUNK // cut.depth if self._ends_chains else _parts(product.k, cut.depth),
            _parts(items, cut.items_per_chunk), cut.pack_b,
        )  # fmt: skip

    def cut(self, choice: Choice) -> Blocking:
        """The cut that a choice stands for at these sizes: shares become whole panels, and what packing a fresh B asks
        for is kept to."""
        product, (mr, nr) = self.product, self.panel
        m, n = max(product.m, 1), max(product.n, 1)
        packs = product.fresh_b and (choice.pack_b or must_pack(self.unit, product))
        columns = max(choice.columns, least_shares(self.unit, product, self.target)) if packs else choice.columns
        item_rows, item_columns = share(m, choice.rows, mr), share(n, columns, nr)
        block_rows = share(item_rows, choice.blocks, mr)
        items = max(product.batch, 1) * _parts(m, item_rows) * _parts(n, item_columns)
        per_chunk = _parts(items, max(1, min(choice.chunks, items)))
        depth = self._depth(choice.parts)
        item = min(item_rows, m), min(item_columns, n)
        by_slabs = passes_by_slabs(self.unit, product, self.target, item, (mr, nr))
        keeps = packs and keeps_panels(self.unit, product, block_rows < item_rows, by_slabs)
        return Blocking(item_rows, item_columns, block_rows, depth, per_chunk, packs, keeps, by_slabs)

    def neighbours(self, choice: Choice) -> list[Choice]:
        """Choices a step away that cut these sizes in another way, the most promising first."""
        known = {self.cut(choice)}
        found = []
        for near in self._steps(choice):
            cut = self.cut(near)
            if cut not in known:
                known.add(cut)
                found.append(near)
        return found

    def _steps(self, choice: Choice) -> Iterator[Choice]:
        if self.threads > 1:
            yield from self._shared_steps(choice)
        yield replace(choice, blocks=2 * choice.blocks)
        if choice.blocks > 1:
            yield replace(choice, blocks=choice.blocks // 2)
        if self.product.fresh_b:
            yield replace(choice, pack_b=not choice.pack_b)
        if self.threads == 1 and (choice.blocks > 1 or choice.columns > 1):
            # Alone, more items only mean that every block of rows passes over fewer panels at a time.
            yield from (replace(choice, columns=columns) for columns in _steps(choice.columns))
        if self.product.k >= DEEP:
            yield from (replace(choice, parts=parts) for parts in _steps(choice.parts))
        if choice.blocks > 2:
            yield replace(choice, blocks=choice.blocks - 1)

    def _shared_steps(self, choice: Choice) -> Iterator[Choice]:
        """Other tiles of C, and more or fewer chunks where a chunk holds several."""
        rows, columns = choice.rows, choice.columns
        half_rows, half_columns = max(1, rows // 2), max(1, columns // 2)
        tiles = (
            (2 * rows, columns), (rows, 2 * columns), (half_rows, columns), (rows, half_columns),
            (2 * rows, half_columns), (half_rows, 2 * columns),
        )  # fmt: skip
        for r, c in tiles:
            yield replace(choice, rows=r, columns=c, chunks=max(1, choice.chunks * r * c // (rows * columns)))
        yield from (replace(choice, chunks=chunks) for chunks in _steps(choice.chunks))
        yield replace(choice, rows=1, columns=1, chunks=1)

    @property
    def _ends_chains(self) -> bool:
        return self.unit.acc.is_float and self.product.k > PRODUCT_CHUNK

    def _depth(self, parts: int) -> int:
        """The K block for so many parts: what chains end with is a whole number of them."""
        k = max(self.product.k, 1)
        if self._ends_chains:
            depth = PRODUCT_CHUNK
            while depth * parts > PRODUCT_CHUNK and depth > self.unit.k:
                depth //= 2
            return depth
        return k if parts <= 1 else min(k, share(k, parts, self.unit.k * self.product.segment))


def _steps(number: int) -> list[int]:
    return [2 * number, number // 2] if number > 1 else [2]


def _parts(extent: int, part: int) -> int:
    return max(1, -(-extent // part))
