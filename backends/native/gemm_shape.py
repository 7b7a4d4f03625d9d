"""What shapes the code of a GEMM kernel on a unit: read off a call's types, layouts and those of its sizes it knows."""

from __future__ import annotations

from backends.native.form import Shape
from backends.native.gemv import GEMV_ROWS
from backends.native.sums import ROW, wanted
from backends.native.target import Target
from backends.native.units import Grid, MatrixUnit
from compiler.canonical import PRODUCT_CHUNK
from compiler.dims import Size
from compiler.kernels import GemmSpec, KernelCall

SEGMENT = 16  # channels from which a window's rows are read where they lie
FEW_READERS = 2  # of a panel where M is unknown: prefetching too much of it costs less than too little
MANY_READERS = 3  # or more: a line a k-step is share enough
PACKED_N = 512  # columns from which packing a large A without unit stride along K pays


def shape_of(call: KernelCall, unit: MatrixUnit, target: Target, grid: Grid | None = None) -> Shape:
    """The shape for a call: code for everything that sizes still unknown may ask for.
    grid: None for the one the unit chooses."""
    spec = call.spec
    assert isinstance(spec, GemmSpec)
    m: Size | None = call.writes[0].shape[-2] if spec.ends is None else None  # of a group, known only when running
    n = call.writes[0].shape[-1]
    grid = grid or unit.grid(n)
    return Shape(
        grid,
        rows=_row_counts(unit, grid.rows, m),
        columns=_column_counts(unit, grid, n),
        few=tuple(rows for rows in range(1, GEMV_ROWS + 1) if unit.m == 1 and (not isinstance(m, int) or m == rows)),
        readers=min(max(1, -(-m // (grid.rows * unit.m))), MANY_READERS) if isinstance(m, int) else FEW_READERS,
        packs_a=_packs(call, unit, target),
        indirect=_is_indirect(call, unit),
        copies_a=_copies(call, unit),
    )


def suits_tiles(call: KernelCall) -> bool:
    """Whether units whose accumulators are numbered tiles may multiply this: codes are decoded into registers, and of
    a tile's rows a few would be used."""
    spec, m = call.spec, call.writes[0].shape[-2]
    assert isinstance(spec, GemmSpec)
    return spec.codes is None and not (isinstance(m, int) and m <= GEMV_ROWS)


def deserves_packing(m: int, n: int, row_bytes: int, target: Target) -> bool:
    """Whether A, without unit stride along K, is large enough to miss the TLB and L2 on every k-step (measured: 1024^3
    gains 7 percent of peak, 512 x 256 x 512 loses 6)."""
    return n >= PACKED_N and m * row_bytes > target.l2


def reads_any_stride(spec: GemmSpec, unit: MatrixUnit) -> bool:
    """Whether elements of a row of A may lie apart: single ones are read, and no row is summed."""
    return unit.k == 1 and ROW not in wanted(spec.epilogue)


def _packs(call: KernelCall, unit: MatrixUnit, target: Target) -> bool:
    """Whether there is code that packs A: the unit needs it, or it may pay."""
    spec, a = call.spec, call.reads[0]
    assert isinstance(spec, GemmSpec)
    if not unit.in_place:
        return True
    if spec.window or spec.a_axis == "row" or unit.left != unit.a or unit.k > 1:
        return False
    m, k, n = (*a.shape[-2:], call.writes[0].shape[-1])
    if isinstance(m, int) and isinstance(k, int) and isinstance(n, int):
        return deserves_packing(m, n, k * a.dtype.bytes, target)
    return not isinstance(n, int) or n >= PACKED_N


def _copies(call: KernelCall, unit: MatrixUnit) -> bool:
    """Whether there is code that copies rows of A as the unit reads them, or as they are summed, which packed panels
    are not: gathered rows are that anyway."""
    spec, k = call.spec, call.reads[0].shape[-1]
    assert isinstance(spec, GemmSpec)
    if spec.window:
        return False
    if not unit.in_place:
        return unit.left != unit.a or (ROW in wanted(spec.epilogue) and spec.a_axis != "row")
    whole = isinstance(k, int) and k % unit.k == 0 and spec.a_axis == "row"
    return unit.left != unit.a or not (whole or reads_any_stride(spec, unit))


def _is_indirect(call: KernelCall, unit: MatrixUnit) -> bool:
    """Whether a window's rows are read where they lie: one by one, in whole groups along K, without a sum over them."""
    spec, channels, depth = call.spec, call.reads[0].shape[-1], call.reads[1].shape[-2]
    assert isinstance(spec, GemmSpec)
    if not spec.window or not unit.in_place or unit.m > 1 or unit.left != unit.a or ROW in wanted(spec.epilogue):
        return False
    if not isinstance(channels, int) or channels < SEGMENT or channels % unit.k:
        return False
    # A segment may not span two chunks of a chain.
    return not spec.acc.is_float or (isinstance(depth, int) and depth <= PRODUCT_CHUNK)


def _row_counts(unit: MatrixUnit, rows: int, m: Size | None) -> tuple[int, ...]:
    """Row counts of the micro-kernels for M rows: the grid's and what is left; of an unknown M, powers of two."""
    if not isinstance(m, int):
        return tuple((rows >> shift) * unit.m for shift in range(rows.bit_length()))
    whole = rows * unit.m
    left = -(-(max(m, 1) % whole) // unit.m) * unit.m
    return tuple(count for count in (whole if m >= whole else 0, left) if count)


def _column_counts(unit: MatrixUnit, grid: Grid, n: Size) -> tuple[int, ...]:
    """Column counts of the micro-kernels for N columns, in tiles: the grid's own and what a last panel may need."""
    if not isinstance(n, int):
        return tuple(range(1, grid.columns + 1))
    tail = -(-(n % (grid.columns * unit.n)) // unit.n)
    return (tail, grid.columns) if 0 < tail < grid.columns else (grid.columns,)
