"""Code generation for GemmSpec: the choice of unit and grid, argument blocks, packed weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from llvmlite import ir

from backends.native.blocking import SLAB_PANELS, Blocking, Product, blocking, slab_rows
from backends.native.coding import Coding
from backends.native.form import HEADER, Shape
from backends.native.gather import window_words
from backends.native.gemm_shape import deserves_packing, reads_any_stride, shape_of, suits_tiles
from backends.native.gemv import panels_beside
from backends.native.grouped import group_words
from backends.native.indirect import ADDRESS
from backends.native.kernel import Arguments
from backends.native.macrokernel import MacroKernel
from backends.native.memory import align, aligned_zeros
from backends.native.pack import pack_panels
from backends.native.pieces import split_panels
from backends.native.sums import ROW, needs_column_sums, wanted
from backends.native.target import Target
from backends.native.units import Grid, MatrixUnit
from backends.native.units import select as select_unit
from compiler.canonical import PRODUCT_CHUNK
from compiler.dims import Size
from compiler.kernels import GemmSpec, KernelCall, View


@dataclass(frozen=True)
class GemmKernel:
    """The NativeKernel of a GemmSpec: one unit, one shape of code, any extents."""

    spec: GemmSpec
    matrix_unit: MatrixUnit
    shape: Shape
    target: Target
    reason: str
    passes = 0  # LLVM's pipelines take as long as code generation and gain nothing on these kernels (measured)

    @property
    def unit(self) -> str:
        """For the ledger."""
        return self.matrix_unit.name

    @property
    def width(self) -> int:
        """Columns of a B panel."""
        return self.matrix_unit.panels(self.shape.grid)[1][0]

    @property
    def coding(self) -> Coding | None:
        """How B's codes lie, if it is stored as such."""
        return None if self.spec.codes is None else Coding.of(self.spec, self.matrix_unit, self.width)

    @property
    def name(self) -> str:
        """gemm_<a>_<b>_<acc>_<isa>_<grid>_<what else shapes the code>."""
        spec, unit = self.spec, self.matrix_unit
        rest = hashlib.sha256(f"{spec!r} {self.shape!r} {unit!r}".encode()).hexdigest()[:10]
        grid = f"{self.shape.grid.rows * unit.m}x{self.width}"
        return f"gemm_{spec.a}_{spec.b}_{spec.acc}_{unit.isa}_{grid}_{rest}"

    def emit(self, module: ir.Module) -> None:
        """Define the kernel and its helpers."""
        MacroKernel(module, self.name, self.spec, self.matrix_unit, self.shape).emit()

    def packed_reads(self, call: KernelCall) -> tuple[int, ...]:
        """B, where it is a weight; of codes also scales and zero points, which come last."""
        if not self.spec.constant_b:
            return ()
        parameters = 0 if self.spec.codes is None else 1 if self.spec.zeros is None else 2
        return (1, *range(len(call.reads) - parameters, len(call.reads)))

    def pack(self, call: KernelCall, read: int, array: np.ndarray) -> np.ndarray:
        """B [.., K, N] as [.., N/W, K/D, W, D]; batch axes along which it repeats are kept once. Codes: see coding."""
        if self.coding is not None:
            place = self.packed_reads(call).index(read)
            return (self.coding.pack_codes, self.coding.pack_scales, self.coding.pack_zeros)[place](array)
        kept = tuple(
            slice(0, 1) if call.reads[read].strides[i] == 0 else slice(None) for i in range(self.spec.batch_rank)
        )
        width, depth = self.matrix_unit.panels(self.shape.grid)[1]
        panels = pack_panels(np.swapaxes(array[kept], -1, -2), width, depth, self.matrix_unit.k)
        if self.matrix_unit.splits:
            return split_panels(panels)
        if not needs_column_sums(self.spec, self.matrix_unit):
            return panels
        sums = array[kept].sum(axis=-2, dtype=self.spec.acc.numpy)
        return _beside(panels, sums, panels.shape[-4] * width)

    def pack_key(self, call: KernelCall, read: int) -> str:
        """The panel layout."""
        width, depth = self.matrix_unit.panels(self.shape.grid)[1]
        if self.coding is not None:
            part = ("codes", "scales", "zeros")[self.packed_reads(call).index(read)]
            return f"{part}_{self.spec.codes}_{self.spec.zeros}_{width}x{depth}"
        sums = "_sums" if needs_column_sums(self.spec, self.matrix_unit) else ""
        whole = f"x{self.matrix_unit.k}" if self.matrix_unit.k > depth else ""
        return f"panels_{self.matrix_unit.right}_{width}x{depth}{whole}{sums}"

    def product(self, call: KernelCall, size: Callable[[Size], int]) -> Product:
        """What decides how a call is cut."""
        spec, (a, b, *_) = self.spec, call.reads
        batch = prod(size(extent) for extent in call.writes[0].shape[: spec.batch_rank])
        m, n = (size(extent) for extent in call.writes[0].shape[-2:])
        fresh = not spec.constant_b or self.coding is not None  # codes become panels in the call
        segment = size(a.shape[-1]) if self.shape.indirect else self.coding.fields if self.coding is not None else 1
        return Product(
            batch, m, n, size(b.shape[-2]), fresh, spec.b_axis == "row" and self.coding is None,
            (bool(spec.window) and not self.shape.indirect) or self.matrix_unit.splits > 0, segment,
            size(call.reads[-1].shape[0]) if spec.ends else 1, needs_column_sums(spec, self.matrix_unit),
            self.coding is not None,
        )  # fmt: skip

    def packed_bytes(self, call: KernelCall, size: Callable[[Size], int]) -> int:
        """Bytes of a constant B in panels."""
        view = call.reads[1]
        if self.coding is not None:
            return -(-size(view.shape[-1]) // self.width) * self.coding.panel_bytes(size(view.shape[-2]))
        matrices = prod(size(view.shape[i]) for i in range(len(view.shape) - 2) if view.strides[i] != 0)
        return matrices * self._matrix_bytes(size(view.shape[-2]), size(view.shape[-1]))

    def arguments(
        self, call: KernelCall, size: Callable[[Size], int], threads: int, cut: Blocking | None = None
    ) -> Arguments:
        """See MacroKernel for the order of the words. cut: instead of the one `blocking` chooses."""
        spec, unit = self.spec, self.matrix_unit
        a, b, *inputs = call.reads
        ends = inputs.pop() if spec.ends else None
        parameters = inputs[len(spec.epilogue_inputs) :]
        inputs = inputs[: len(spec.epilogue_inputs)]
        batch = [size(extent) for extent in call.writes[0].shape[: spec.batch_rank]]
        product = self.product(call, size)
        m, n, k, segment = product.m, product.n, product.k, size(a.shape[-1])
        cut = cut or blocking(unit, self.shape.grid, product, self.target, threads)
        slab = slab_rows(unit, self.shape.grid, product, self.target)
        cut = replace(cut, depth=slab) if slab else cut
        items = cut.items(m, n, prod(batch))
        copies, cuts = self._copied(a, k, size)
        packs = self.shape.packs_a and (not unit.in_place or deserves_packing(m, n, k * spec.a.bytes, self.target))
        pitch = self._pitch(k) if spec.window or copies else self._pitch(1) if cuts else 0
        by_slabs = bool(slab) or (cut.by_slabs and cut.depth < k)
        parts = self._scratch(cut, k, segment, pitch, packs, by_slabs)
        tile, packed_b, gathered, packed_a, row_sums, _ = parts
        header = {
            "items": items, "items_per_chunk": cut.items_per_chunk,
            "m_items": -(-m // cut.item_rows), "n_items": -(-n // cut.item_columns),
            "item_rows": cut.item_rows, "item_columns": cut.item_columns, "block_rows": cut.block_rows,
            "m": m, "n": n, "k": k, "depth": cut.depth, "slab": cut.depth if by_slabs else max(k, 1),
            "ahead": self.width * spec.b.bytes * (SLAB_PANELS if slab else 1), "pack_b": int(cut.pack_b),
            "b_offset": tile, "b_step": self._panel_bytes(k) if cut.keeps_b else 0,
            "k_step": 0 if slab else self.width * unit.right.bytes,
            "copy_a": int(copies), "end_a": int(cuts), "pack_a": int(packs),
            "rows_offset": tile + packed_b, "pitch": self._pitch(k), "a_offset": tile + packed_b + gathered,
            "tile_step": self.width * unit.acc.bytes if cut.depth < k else 0,
            "panel_step": self.width * unit.acc.bytes * self._waiting_rows(cut, k) if by_slabs else 0,
            "total": tile // 2 if self._in_chunks(k) else 0, "segment": segment,
            "row_sums": tile + packed_b + gathered + packed_a,
            "column_sums": tile + packed_b + gathered + packed_a + row_sums,
        }  # fmt: skip
        words: list[int | View] = [header[field] for field in HEADER]
        words += window_words(call, size)
        if spec.window:
            words += [a, k * spec.a.bytes, spec.a.bytes]
        else:
            words += [a, *_bytes(a, (-2, -1), size)]
        words += [b] if spec.constant_b else [b, *_bytes(b, (-2, -1), size)]
        if parameters:
            words += [parameters[0], parameters[-1], size(call.params[0])]
        members = [*inputs, *call.writes]
        for view in members:
            words += [view, size(view.strides[-2]) * view.dtype.bytes, size(view.strides[-1])]
        b_batch = self._packed_strides(call, size) if spec.constant_b else _bytes(b, range(spec.batch_rank), size)
        a_batch = _bytes(a, range(spec.batch_rank), size)
        for axis, extent in enumerate(batch):
            words += [extent, a_batch[axis], b_batch[axis]]
            words += [size(view.strides[axis]) * view.dtype.bytes for view in members]
        if ends:
            matrix = self._matrix_bytes(k, n) if spec.constant_b else size(b.strides[0]) * b.dtype.bytes
            words += group_words(ends, matrix, size)
        chunks = max(1, -(-items // cut.items_per_chunk))
        return Arguments(tuple(words), chunks, sum(parts))

    def _copied(self, a: View, k: int, size: Callable[[Size], int]) -> tuple[bool, bool]:
        """Whether rows of A must be copied, because the unit cannot read them as they are, or only their ends."""
        unit = self.matrix_unit
        dense = size(a.strides[-1]) == 1 or k <= 1
        scattered = unit.left != unit.a or not (dense or reads_any_stride(self.spec, unit))
        ragged = self.shape.copies_a and unit.in_place and k % unit.k != 0
        ends = ragged and not scattered and unit.reads_ends
        return (self.shape.copies_a and scattered) or (ragged and not ends), ends

    def _in_chunks(self, k: int) -> bool:
        """Whether chains are cut, so that tiles of totals lie behind those of chains."""
        return self.spec.acc.is_float and k > PRODUCT_CHUNK

    def _waiting_rows(self, cut: Blocking, k: int) -> int:
        """Rows whose tiles wait in scratch."""
        return max(self.shape.grid.rows * self.matrix_unit.m, cut.block_rows if cut.depth < k else 0)

    def _pitch(self, k: int) -> int:
        """Bytes from row to row of A in scratch."""
        return -(-k // self.matrix_unit.k) * self.matrix_unit.k * self.matrix_unit.left.bytes

    def _scratch(self, cut: Blocking, k: int, segment: int, pitch: int, packs: bool, in_slabs: bool) -> tuple[int, ...]:
        """Bytes for tiles, for packed panels of fresh B, for rows of A gathered or copied, `pitch` each, or their
        addresses, for packed panels of A or a row of padding, for sums of rows, for sums of columns."""
        unit, grid = self.matrix_unit, self.shape.grid
        rows = self._waiting_rows(cut, k)
        coded = self.coding is not None
        few = (count * panels_beside(grid, count, coded) * self.width for count in self.shape.few)
        rows *= -(-cut.item_columns // self.width) if in_slabs else 1
        tile = max([rows * self.width, *few]) * unit.acc.bytes * (2 if self._in_chunks(k) else 1)
        panels = -(-cut.item_columns // self.width) if cut.keeps_b else 1
        packed_b = 0 if self.spec.constant_b else panels * self._panel_bytes(k)
        packed_b = packed_b if self.coding is None else self._panel_bytes(min(cut.depth, k))
        gathered = cut.block_rows * pitch + unit.row_lanes * unit.left.bytes if pitch else 0
        height, deep = unit.panels(grid)[0]
        rows = -(-cut.block_rows // height) * height if packs else 0
        packed_a = rows * -(-k // deep) * deep * unit.left.bytes
        if self.spec.window and unit.splits:  # rows as they are gathered, before they are split
            packed_a = (cut.block_rows * k + unit.row_lanes) * unit.a.bytes
        if self.shape.indirect:
            gathered = -(-cut.block_rows // height) * height * -(-k // max(segment, 1)) * ADDRESS
            packed_a = (segment + unit.n) * unit.a.bytes
        row_sums = cut.block_rows * unit.acc.bytes if ROW in wanted(self.spec.epilogue) else 0
        sums = not self.spec.constant_b and needs_column_sums(self.spec, unit)
        column_sums = -(-cut.item_columns // self.width) * self.width * unit.acc.bytes if sums else 0
        parts = tile, packed_b, gathered, packed_a, row_sums, column_sums
        return tuple(map(align, parts))

    def _panel_bytes(self, k: int) -> int:
        """Bytes of one packed panel of B."""
        depth = self.matrix_unit.k
        return self.width * -(-k // depth) * depth * self.matrix_unit.right.bytes

    def _matrix_bytes(self, k: int, n: int) -> int:
        """Bytes of one matrix B in panels, with the sums of its columns behind it where they are needed."""
        sums = self.width * self.spec.acc.bytes if needs_column_sums(self.spec, self.matrix_unit) else 0
        return -(-n // self.width) * (self._panel_bytes(k) + sums)

    def _packed_strides(self, call: KernelCall, size: Callable[[Size], int]) -> list[int]:
        """Batch strides of packed B, in bytes."""
        view = call.reads[1]
        if self.coding is not None:
            return [0] * self.spec.batch_rank
        k, n = (size(extent) for extent in view.shape[-2:])
        step = self._matrix_bytes(k, n)
        strides: list[int] = []
        for axis in reversed(range(self.spec.batch_rank)):
            repeats = view.strides[axis] == 0
            strides.append(0 if repeats else step)
            step *= 1 if repeats else size(view.shape[axis])
        return strides[::-1]


def select(call: KernelCall, target: Target, grid: Grid | None = None) -> GemmKernel:
    """The kernel for a GemmSpec call: the best unit for its types, a grid for its columns, micro-kernels for the row
    counts its M needs (all of them where M is symbolic). grid: another of the unit's than the one for its columns.
    Raises DtypeError for types no unit multiplies."""
    spec = call.spec
    assert isinstance(spec, GemmSpec)
    unit, reason = select_unit(target, spec.a, spec.b, spec.acc, suits_tiles(call), spec.splits)
    unit = unit.on(target)
    shape = shape_of(call, unit, target, grid)
    return GemmKernel(_shared(spec, shape.packs_a), unit, shape, target, reason)


def _shared(spec: GemmSpec, packs_a: bool) -> GemmSpec:
    """The spec without what does not shape this kernel's code, so that more calls share it: A in place is read through
    strides whatever its layout, a packed B has forgotten its own, and the unit is chosen."""
    a_axis = spec.a_axis if packs_a else "general"
    return replace(spec, a_axis=a_axis, b_axis="row" if spec.constant_b else spec.b_axis, splits=0)


def _beside(panels: np.ndarray, sums: np.ndarray, columns: int) -> np.ndarray:
    """Every matrix's panels [.., N/W, K/D, W, D] and the sums of its columns [.., N] behind them, as bytes."""
    batch = panels.shape[:-4]
    padded = np.zeros((*batch, columns), sums.dtype)
    padded[..., : sums.shape[-1]] = sums
    split = panels.reshape(*batch, -1).view(np.uint8), padded.view(np.uint8)
    joined = aligned_zeros((*batch, sum(part.shape[-1] for part in split)), np.dtype(np.uint8))
    return np.concatenate(split, axis=-1, out=joined)


def _bytes(view: View, axes: tuple[int, ...] | range, size: Callable[[Size], int]) -> list[int]:
    return [size(view.strides[axis]) * view.dtype.bytes for axis in axes]
