"""What every matrix unit tells the GEMM engine. One instance per instruction set and element type triple.

One *mma* is acc[m, n] += a[m, k] @ b[k, n]. A *grid* is how many accumulators a micro-kernel keeps live. A unit's
loads and products are all that differs between instruction sets: packing, blocking, loops, tails and epilogues are
shared. Units whose accumulators are architectural tiles answer None for `acc_type` and use the accumulator numbers.
Then operands are tiles too, numbered by the row or column of the grid they are for. What `load_a` and `load_b` give
is known to the unit's `mma` alone: a register, several, or a tile's number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir

from backends.native.conversions import emit_cast, round_register
from backends.native.pack import PanelPacker
from backends.native.target import Target
from backends.native.vectors import to_storage
from compiler.dims import Size
from compiler.dtypes import DType, named


@dataclass(frozen=True)
class Grid:
    """Accumulators kept live: `rows` x `columns` mma tiles."""

    rows: int
    columns: int


@dataclass(frozen=True)
class MatrixUnit(ABC):
    """`isa` with the element types makes the unit's name; `requires` are LLVM features of `architecture` ('' is any).
    `grids` are those worth using, widest first; all have the same number of rows. `left` is the type load_a reads:
    where it is not `a`, rows of A are converted to it in scratch. `compensation` is what moved elements of A lack
    there: so many times the sum of a column of B is to be added to what mma adds up."""

    isa: str
    architecture: str
    requires: tuple[str, ...]
    a: DType
    b: DType
    acc: DType
    m: int
    n: int
    k: int
    grids: tuple[Grid, ...]
    compensation: int = 0

    @property
    def name(self) -> str:
        """The unit as the ledger shows it, for example vector_float32."""
        return f"{self.isa}_{self.a}" if self.a == self.b else f"{self.isa}_{self.a}_{self.b}"

    @property
    def left(self) -> DType:
        """The element type of the rows load_a reads."""
        return self.a

    @property
    def right(self) -> DType:
        """The element type of the panels load_b reads: where it is not `b`, B is converted to it as it is packed."""
        return self.b

    @property
    def splits(self) -> int:
        """How many pieces of a narrower type operands are multiplied as, the lesser products left out: only where a
        spec permits it. 0: operands are multiplied as they are."""
        return 0

    @property
    def in_order(self) -> bool:
        """Whether floats are added up one product after the other, with the bits of every unit that does."""
        return self.acc_type is not None

    @property
    def packing(self) -> Callable[..., PanelPacker]:
        """What packs a fresh B into panels: takes what PanelPacker takes."""
        return PanelPacker

    def on(self, target: Target) -> MatrixUnit:
        """The unit as it is emitted for `target`."""
        return self

    def narrowed(self, builder: ir.IRBuilder, elements: ir.Value) -> ir.Value:
        """Elements of a as bfloat16, rounded to nearest even, as memory holds them. Only for units that split."""
        raise AssertionError(f"{self.name} splits nothing")

    def missing(self, target: Target) -> str:
        """What `target` lacks to run this unit, '' if nothing."""
        if self.architecture not in ("", target.architecture):
            return f"the architecture {self.architecture}"
        return target.lacking(self.requires)

    def grid(self, n: Size) -> Grid:
        """The grid for products of `n` columns: the cheapest by a small model of a k-step; without a number the
        widest."""
        if not isinstance(n, int):
            return self.grids[0]
        tiles = max(-(-n // self.n), 1)
        fitting = [grid for grid in self.grids if grid.columns <= tiles] or [self.grids[-1]]
        return min(fitting, key=lambda grid: (self._cycles(grid, tiles), -grid.columns))

    def _cycles(self, grid: Grid, tiles: int) -> float:
        # A k-step of r x c takes r * c / 2 cycles and a little more, loads that wait for L2: wide grids have fewer.
        # A single column does not cover the latency of its products. A tail needs micro-kernels of its own.
        panels, tail = divmod(tiles, grid.columns)
        steps = [(panels, grid.columns), (1 if tail else 0, tail)]
        total = sum(count * (grid.rows * c / 2 + (1.0 if c == 1 else 0.15)) for count, c in steps)
        return total + (0.3 if tail and panels else 0.0)

    def panels(self, grid: Grid) -> tuple[tuple[int, int], tuple[int, int]]:
        """(W, D) of the A and the B panels: [X, K] is packed as [X/W, K/D, W, D], zero padded, K to a multiple of the
        unit's k."""
        return (grid.rows * self.m, self.k), (grid.columns * self.n, self.k)

    @property
    def mma_cycles(self) -> float:
        """How long a mma occupies the unit: two vector units take one each."""
        return 0.5

    @property
    @abstractmethod
    def in_place(self) -> bool:
        """Whether load_a reads rows of `left` that lie any distance apart, k neighbours at a time: where k is 1 at any
        distance too, and then row-major B may be read where it lies."""

    @property
    @abstractmethod
    def acc_type(self) -> ir.Type | None:
        """The LLVM type of an accumulator; None where accumulators are numbered tiles."""

    @property
    def mode(self) -> tuple[str, ...]:
        """LLVM attributes of functions that use the unit, where the machine has a mode for that; else (). Then panels
        are packed before it is entered, and nothing of a block of rows is left to do outside."""
        return ()

    @property
    def tuning(self) -> tuple[str, ...]:
        """LLVM attributes of micro-kernels, besides those of `mode`."""
        return ()

    @property
    def switching(self) -> tuple[str, ...]:
        """LLVM attributes of functions that enter and leave that mode."""
        return ()

    @property
    def gives_rows(self) -> bool:
        """Whether numbered tiles give a row, by a number known only at run time, without a way through memory."""
        return False

    @property
    def finishes_late(self) -> bool:
        """Whether results of numbered tiles are finished while the next product runs: where a machine multiplies tiles
        beside everything else."""
        return False

    @property
    def outruns_l2(self) -> bool:
        """Whether operands are read faster than L2 gives both of them, so that K is blocked for L1 to keep panels."""
        return False

    @property
    def limits_rows(self) -> bool:
        """Whether rows that do not count have to be left out by `limit`; else A is padded."""
        return False

    @abstractmethod
    def enter(self, builder: ir.IRBuilder) -> None:
        """Switch the unit on, once per macro-kernel call."""

    @abstractmethod
    def leave(self, builder: ir.IRBuilder) -> None:
        """Switch the unit off."""

    @property
    def reads_ends(self) -> bool:
        """Whether rows of A whose K is no multiple of the unit's are read where they lie but for the last step, which a
        micro-kernel takes from elsewhere. Only for numbered tiles."""
        return False

    def limit(self, builder: ir.IRBuilder, grid: Grid, rows: ir.Value) -> None:
        """Until the next `enter` only `rows` rows of grids of this size count, no more and at least one of the last row
        of tiles; no other rows of A are read. Only where `limits_rows`."""
        raise AssertionError(f"{self.name} leaves out no rows")

    @abstractmethod
    def zero(self, builder: ir.IRBuilder, number: int) -> ir.Value | int:
        """Accumulator `number`, cleared."""

    def start(self, builder: ir.IRBuilder, number: int, sums: ir.Value) -> ir.Value | int:
        """Accumulator `number`, holding the compensation of columns whose sums are at the i8* `sums`. Only for units
        that have one."""
        raise AssertionError(f"{self.name} compensates nothing")

    @abstractmethod
    def resume(self, builder: ir.IRBuilder, number: int, pointer: ir.Value, row_stride: int) -> ir.Value | int:
        """Accumulator `number` as stored row by row (`row_stride` bytes apart) at the i8* `pointer`."""

    @abstractmethod
    def load_a(self, builder: ir.IRBuilder, pointer: ir.Value, row_stride: ir.Value, number: int = 0) -> Any:
        """The a[m, k] operand at the i8* `pointer`, its rows `row_stride` bytes apart, for row `number` of the grid."""

    @abstractmethod
    def load_b(self, builder: ir.IRBuilder, pointer: ir.Value, group_stride: ir.Value, number: int = 0) -> Any:
        """The b[k, n] operand at the i8* `pointer` into a panel, for column `number` of the grid; groups of D rows are
        `group_stride` bytes apart."""

    def stored_b(self, builder: ir.IRBuilder, parts: Sequence[ir.Value]) -> ir.Value:
        """k * n elements of a B panel, computed as k registers of n FP32, rounded to b as memory holds them."""
        rounded = [to_storage(builder, round_register(builder, part, self.b), self.b) for part in parts]
        if len(rounded) == 1:
            return rounded[0]
        assert len(rounded) == 2, f"{self.name} is {self.k} deep"
        order = ir.Constant(ir.VectorType(ir.IntType(32), 2 * self.n), list(range(2 * self.n)))
        return builder.shuffle_vector(*rounded, order)

    def held_b(self, builder: ir.IRBuilder, stored: ir.Value) -> Any:
        """What load_b gives of k * n elements of a panel that are in registers, as memory holds them. Only for
        floats."""
        raise AssertionError(f"{self.name} only reads B from memory")

    @abstractmethod
    def mma(self, builder: ir.IRBuilder, acc: ir.Value | int, a: Any, b: Any) -> ir.Value | int:
        """acc + a @ b, less the compensation's part."""

    def step(
        self,
        builder: ir.IRBuilder,
        accs: Sequence[ir.Value | int],
        left: tuple[Iterable[ir.Value], ir.Value],
        right: tuple[Iterable[ir.Value], ir.Value],
        expect: Callable[[], None],
    ) -> list[ir.Value | int]:
        """One k-step of a whole grid, whose accumulators come row by row. `left` and `right`: where load_a reads the
        rows and load_b the columns of the grid, computed as they are taken, and their strides. `expect` prefetches,
        best behind the loads of B."""
        loaded = [self.load_b(builder, at, right[1], j) for j, at in enumerate(right[0])]
        expect()
        after = []
        for i, at in enumerate(left[0]):
            element = self.load_a(builder, at, left[1], i)
            cells = accs[i * len(loaded) : (i + 1) * len(loaded)]
            after += [self.mma(builder, acc, element, b) for acc, b in zip(cells, loaded, strict=True)]
        return after

    def ones(self, builder: ir.IRBuilder) -> Any:
        """An a operand of ones as mma takes it: what sums up columns of B. Only for integers."""
        raise AssertionError(f"{self.name} has no sums")

    def converted(self, builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
        """Elements of A, in registers as `row_types` says, as load_a wants them."""
        return value if self.left == self.a else emit_cast(builder, value, self.a, self.left)

    @property
    def row_types(self) -> tuple[DType, DType]:
        """The types to copy rows of A between: plain bits where nothing is to be converted."""
        if self.left != self.a:
            return self.a, self.left
        bits = named(f"uint{8 * self.a.bytes}")
        return bits, bits

    @property
    def row_lanes(self) -> int:
        """Elements of `left` as wide together as a row of an accumulator: what to copy rows of A by."""
        return max(1, self.n * self.acc.bytes // self.left.bytes)

    @property
    def packing_lanes(self) -> int:
        """Groups of elements along K that a register holds where panels are packed."""
        return self.n

    @property
    def zips(self) -> int:
        """Bytes of a register where panels are packed, if one instruction interleaves halves of two; else 0: wider ones
        of x86 do so within each 16 bytes only, and moving elements to their place in wider lanes takes fewer."""
        return self.packing_lanes * self.acc.bytes if self.architecture == "aarch64" else 0

    @abstractmethod
    def row(self, builder: ir.IRBuilder, acc: ir.Value | int, row: int | ir.Value) -> ir.Value:
        """Row `row` of an accumulator as a vector of n; an i64 only where `gives_rows`."""

    def store(self, builder: ir.IRBuilder, acc: ir.Value | int, pointer: ir.Value, row_stride: int) -> None:
        """An accumulator to the i8* `pointer`, as `resume` reads it. Only for numbered tiles; the rows of others are
        vectors, to be stored as such."""
        raise AssertionError(f"{self.name} has no numbered tiles")

    @abstractmethod
    def emulate(self, acc: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """What mma computes, in NumPy: acc [m, n], a [m, k], b [k, n]; bit for bit where the hardware defines it."""
