"""What a call of a GEMM kernel does, counted as its macro-kernel does it: micro-kernels called, panels packed.

The walk takes every number from where the kernel gets it: its argument words, which `blocking` decided, and the sizes
there is code for. On units with tiles the counts are those of instructions (`tile_instructions`), which the emulator
confirms.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from backends.native.form import HEADER
from backends.native.gemm import GemmKernel
from backends.native.gemv import panels_beside
from backends.native.trial import number
from compiler.canonical import PRODUCT_CHUNK
from compiler.kernels import KernelCall


@dataclass(frozen=True)
class Micro:
    """One kind of micro-kernel call: a grid of `rows` x `columns` products in each of `panels` panels over `depth` of
    K, from a waiting tile if `resumes`; `last`: then comes the epilogue, inside if `direct`, of `m` rows and `n`
    columns; `limited`: a configuration for fewer rows is loaded before, and the whole one after."""

    rows: int
    columns: int
    panels: int
    depth: int
    resumes: bool
    last: bool
    direct: bool
    m: int
    n: int
    limited: bool


Packed = tuple[int, bool]


@dataclass(frozen=True)
class Counts:
    """All of a call: micro-kernels and how often, passes over a panel and over a block of rows; elements of A copied
    (K rounded up), panels packed of A and of B by their depth and whether they are narrower than a panel; how often all
    of B passes; chunks; the argument words."""

    micro: Counter[Micro]
    panels: int
    blocks: int
    copied_a: int
    packed_a: Counter[Packed]
    packed_b: Counter[Packed]
    passes: float
    chunks: int
    words: dict[str, int]

    def products(self, depth: int) -> int:
        """Multiplications of the unit, `depth` deep each."""
        return sum(n * x.rows * x.columns * x.panels * -(-x.depth // depth) for x, n in self.micro.items())


def counts(kernel: GemmKernel, call: KernelCall, threads: int = 1) -> Counts:
    """The counts of a call of one matrix, without windows, groups and codes; whatever thread does what."""
    assert not (kernel.spec.window or kernel.spec.ends or kernel.spec.codes), "a plain product"
    planned = kernel.arguments(call, number, threads)
    words = {name: word for name, word in zip(HEADER, planned.words, strict=False) if isinstance(word, int)}
    walk = _Walk(kernel, words)
    for m in range(0, words["m"], words["item_rows"]):
        for n in range(0, words["n"], words["item_columns"]):
            walk.item(min(words["item_rows"], words["m"] - m), min(words["item_columns"], words["n"] - n))
    slabs = -(-max(words["k"], 1) // words["slab"])
    passes = walk.panels * kernel.width / max(-(-words["n"] // kernel.width) * kernel.width * slabs, 1)
    return Counts(walk.micro, walk.panels, walk.blocks, walk.copied_a, walk.packed_a, walk.packed_b, passes,
                  planned.chunks, words)  # fmt: skip


class _Walk:
    """The loops of MacroKernel, with counters for bodies."""

    def __init__(self, kernel: GemmKernel, words: dict[str, int]) -> None:
        self.kernel, self.words, self.unit = kernel, words, kernel.matrix_unit
        self.micro: Counter[Micro] = Counter()
        self.packed_a: Counter[Packed] = Counter()
        self.packed_b: Counter[Packed] = Counter()
        self.panels = self.blocks = self.copied_a = 0
        self.direct = _is_direct(kernel) if self.unit.acc_type is not None else self.unit.gives_rows
        self.fresh = not kernel.spec.constant_b

    def item(self, rows: int, columns: int) -> None:
        words, unit = self.words, self.unit
        deep = -(-words["k"] // unit.k) * unit.k
        for first in range(0, rows, words["block_rows"]):
            count = min(words["block_rows"], rows - first)
            self.blocks += 1
            self.copied_a += count * (deep * words["copy_a"] + unit.k * words["end_a"])
            height = self.kernel.shape.grid.rows * unit.m
            if words["pack_a"]:
                self.packed_a += Counter({(words["k"], False): count // height, (words["k"], True): count % height > 0})
            self._block(count, columns, first == 0 or not words["b_step"])

    def _block(self, rows: int, columns: int, stale: bool) -> None:
        width, start = self.kernel.width, 0
        if rows in self.kernel.shape.few:
            in_place = not self.words["pack_b"] and self.words["slab"] >= self.words["k"]
            if in_place or not self.fresh:
                start = self._groups(rows, columns)
        k = max(self.words["k"], 1)
        for slab in range(0, k, self.words["slab"]):
            stop = min(k, slab + self.words["slab"])
            for n in range(start, columns, width):
                self._panel(rows, min(width, columns - n), slab, stop, stale)

    def _groups(self, rows: int, columns: int) -> int:
        """Few rows meet several whole panels at a time; the column where that ends."""
        panels = panels_beside(self.kernel.shape.grid, rows)
        wide = panels * self.kernel.width
        whole, k = columns // wide, max(self.words["k"], 1)
        chunk = PRODUCT_CHUNK if self.unit.acc.is_float else k
        for start in range(0, k, chunk):
            last = start + chunk >= k
            micro = Micro(rows, self.kernel.shape.grid.columns, panels, min(chunk, k - start), False, last,
                          self.direct and k <= chunk, rows, wide, False)  # fmt: skip
            self.micro[micro] += whole
        self.micro = +self.micro
        self.panels += whole * panels
        return whole * wide

    def _panel(self, rows: int, valid: int, start: int, stop: int, stale: bool) -> None:
        unit, words, k = self.unit, self.words, max(self.words["k"], 1)
        columns = next(c for c in self.kernel.shape.columns if valid <= c * unit.n)
        packs = self.fresh and (words["pack_b"] or valid < self.kernel.width) and stale
        self.panels += 1
        for first in range(start, stop, words["depth"]):
            depth = min(words["depth"], words["k"] - first)
            if packs:
                self.packed_b[depth, valid < self.kernel.width] += 1
            last = first + words["depth"] >= words["k"]
            chunk = PRODUCT_CHUNK if unit.acc.is_float else k
            for size, count, limited in row_blocks(rows, self.kernel.shape.rows):
                whole = last and valid == self.kernel.width and count == size
                micro = Micro(size // unit.m, columns, 1, depth, first % chunk != 0, last,
                              self.direct and whole and k <= chunk and self._fills(columns), count, valid,
                              limited and unit.limits_rows)  # fmt: skip
                self.micro[micro] += 1

    def _fills(self, columns: int) -> bool:
        return columns * self.unit.n == self.kernel.width


def row_blocks(rows: int, sizes: tuple[int, ...]) -> Iterator[tuple[int, int, bool]]:
    """(size, rows in use, whether these are fewer or may be) of the micro-kernels down a block of rows, as
    `microkernel.for_row_blocks` emits them."""
    done = rows - rows % sizes[0]
    for _ in range(done // sizes[0]):
        yield sizes[0], sizes[0], False
    for size in sizes[1:]:
        if done + size <= rows:
            yield size, size, False
            done += size
    if sizes[-1] > 1 and done < rows:
        yield sizes[-1], rows - done, True


def _is_direct(kernel: GemmKernel) -> bool:
    from backends.native.epilogue import Epilogue

    return Epilogue.of(kernel.spec, kernel.matrix_unit.n).direct


def tile_instructions(kernel: GemmKernel, found: Counts) -> dict[str, int]:
    """How many instructions on numbered tiles a call takes: products, loads, stores, clearings, configurations."""
    total: Counter[str] = Counter()
    for micro, times in found.micro.items():
        steps, tiles = -(-micro.depth // kernel.matrix_unit.k), micro.rows * micro.columns
        total["products"] += times * tiles * steps
        total["loads"] += times * ((micro.rows + micro.columns) * steps + tiles * micro.resumes)
        total["clearings"] += times * tiles * (not micro.resumes)
        total["stores"] += times * tiles
        total["configurations"] += 2 * times * micro.limited
    total["configurations"] += found.chunks
    return dict(total)
