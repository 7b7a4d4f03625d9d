"""Cycles of copying and packing A, and of packing B: what instructions or traffic take, if that is longer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from backends.native.gemm import GemmKernel
from bench.model_code import Function, Mix, mix_of
from bench.model_counts import Counts, Packed
from bench.model_limits import Limits


@dataclass(frozen=True)
class Packing:
    """That of one call. `home`: where operands come from; `block` and `b`: bytes of a block of rows of A and of what is
    kept of B."""

    kernel: GemmKernel
    code: Mapping[str, Function]
    counts: Counts
    limits: Limits
    home: str
    block: float
    b: float

    def cycles(self) -> float:
        """All of it."""
        unit, kernel, found = self.kernel.matrix_unit, self.kernel, self.counts
        left, right = unit.panels(kernel.shape.grid)
        axis = "k" if kernel.shape.copies_a else {"row": "k", "column": "x"}.get(kernel.spec.a_axis, "")
        total = self._panels("pack_a", found.packed_a, axis, left, unit.left.bytes, self.block)
        axis = {"row": "x", "column": "k"}.get(kernel.spec.b_axis, "")
        total += self._panels("pack_b", found.packed_b, axis, right, unit.right.bytes, self.b)
        if found.copied_a:
            copying = found.copied_a / unit.row_lanes * self.limits.packing(self._copies("copy_a")[0])
            total += max(copying, self._traffic(found.copied_a, unit.a.bytes, unit.left.bytes, self.block))
        return total

    def _panels(
        self, name: str, packed: Mapping[Packed, int], axis: str, panel: tuple[int, int], size: int, kept: float
    ) -> float:
        """Cycles of a panel packer. Along K it moves squares of registers, along the other side rows as wide as a
        panel, else elements; narrow panels and the end of K have loops of their own, with masks."""
        if not packed:
            return 0.0
        (width, depth), lanes = panel, min(self.kernel.matrix_unit.packing_lanes, panel[0])
        cycles = [self.limits.packing(mix) for mix in self._copies(name)]
        whole, narrow, end = cycles[0], cycles[min(1, len(cycles) - 1)], cycles[-1]
        once = self.limits.packing(self.code[f"{self.kernel.name}_{name}"].once()[0])
        working = elements = 0.0
        for (deep, is_narrow), times in packed.items():
            one = narrow if is_narrow else whole
            if axis == "k":
                steps, rest = divmod(deep, lanes * depth)
                passes = width // lanes * (steps * one + (end if rest else 0.0))
            else:
                passes = one * (-(-deep // depth) if axis == "x" else deep * width)
            working += times * (once + passes)
            elements += times * width * deep
        return max(working, self._traffic(elements, size, size, kept))

    def _copies(self, name: str) -> list[Mix]:
        """Passes through the innermost loops of a function that load and store, those that do most at once first."""
        function = self.code[f"{self.kernel.name}_{name}"]
        loops = [mix_of(function.lines(loop), function.streaming) for loop in function.innermost()]
        copies = [mix for mix in loops if mix.loads and mix.stores]
        return sorted(copies, key=lambda mix: -mix.store_bytes / mix.instructions)

    def _traffic(self, elements: float, read: int, written: int, kept: float) -> float:
        rate = self.limits.rate
        return elements * (read / rate(self.home) + written / rate(self.limits.level(kept)))
