"""Weights as kernels want them: packed once, at fixed addresses; originals nobody reads are let go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from backends.native.kernel import NativeKernel
from backends.native.memory import ALIGNMENT, aligned_copy, window
from compiler.dims import is_static
from compiler.kernels import KernelCall, View

COPIED_BYTES = 1 << 20  # weights read as they are: copied up to this size, shared with the model beyond


@dataclass(frozen=True)
class _Packed:
    """One packed form of a weight: the kernel and call that made it can make it again."""

    kernel: NativeKernel
    call: KernelCall
    read: int
    array: np.ndarray


class Weights:
    """The weight memory of one program. `addresses` maps buffer names, packed forms included, to absolute addresses."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self._source: Mapping[str, np.ndarray] = weights
        self._packed: dict[str, _Packed] = {}
        self._wanted: dict[str, tuple[NativeKernel, KernelCall, int]] = {}
        self.plain: dict[str, np.ndarray] = {}
        self.addresses: dict[str, int] = {}

    @property
    def bytes(self) -> int:
        """Memory held for weights, packed or plain."""
        return sum(p.array.nbytes for p in self._packed.values()) + sum(a.nbytes for a in self.plain.values())

    def prepare(self, kernel: NativeKernel, call: KernelCall) -> KernelCall:
        """Note what the kernel wants packed. The call returned reads the packed forms, under names of their own."""
        wanted = kernel.packed_reads(call)
        if not wanted:
            return call
        reads = list(call.reads)
        for read in wanted:
            view = reads[read]
            name = f"{view.buffer}|{view.shape}|{view.strides}|{view.offset}|{kernel.pack_key(call, read)}"
            self._wanted.setdefault(name, (kernel, call, read))
            reads[read] = replace(view, buffer=name, offset=0)
        return replace(call, reads=tuple(reads))

    def pack(self, name: str) -> None:
        """Make the packed form of that name. Forms may be made by several threads at once."""
        kernel, call, read = self._wanted[name]
        view = call.reads[read]
        array = kernel.pack(call, read, _window(self._source[view.buffer], view))
        if not array.flags.c_contiguous or array.ctypes.data % ALIGNMENT or not array.flags.writeable:
            array = aligned_copy(array)
        self._packed[name] = _Packed(kernel, call, read, array)
        self.addresses[name] = array.ctypes.data

    @property
    def wanted(self) -> list[str]:
        """The packed forms to be made."""
        return list(self._wanted)

    def keep(self, names: set[str]) -> None:
        """Keep these weights readable as they are, and let go of the rest."""
        for name in names:
            array = self._source[name]
            dense = array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative
            self.plain[name] = array if dense and array.nbytes > COPIED_BYTES else aligned_copy(array)
            self.addresses[name] = self.plain[name].ctypes.data
        self._source = {}

    def refresh(self, weights: Mapping[str, np.ndarray]) -> bool:
        """Take new values for some weights (same dtype and shape). Says whether an address changed."""
        moved = False
        for packed in self._packed.values():
            view = packed.call.reads[packed.read]
            if view.buffer in weights:
                packed.array[...] = packed.kernel.pack(packed.call, packed.read, _window(weights[view.buffer], view))
        for name, old in self.plain.items():
            new = weights.get(name)
            if new is None or new is old:
                continue
            if old.nbytes > COPIED_BYTES:  # shared with the model, not ours to write to
                self.plain[name] = new if new.flags.c_contiguous and new.flags.aligned else aligned_copy(new)
                self.addresses[name] = self.plain[name].ctypes.data
                moved = True
            else:
                old[...] = new
        return moved


def _window(array: np.ndarray, view: View) -> np.ndarray:
    """A weight seen through a view (whose sizes are numbers), without a copy where the weight is dense."""
    assert is_static((*view.shape, *view.strides, view.offset)), f"weight {view.buffer} has symbolic sizes"
    return window(array, view.shape, view.strides, view.offset)  # type: ignore[arg-type]
