"""The second version of SME: the same outer products, with the vectors of a step loaded two or four at a time.

Preferred by count: two loads a step instead of four, in FP64 instead of six. One thread of Apple's M4, which has it,
issues about one load of a register a cycle, a quarter of what its unit takes from several (T. Zakharko, "Exploring SME
performance of Apple M4", 2024), so four loads beside four products are a bottleneck there. Nothing is measured here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache

from llvmlite import ir

from backends.native.units import sme
from backends.native.units.base import MatrixUnit
from backends.native.units.dot import call
from backends.native.units.scalable import Scalable
from backends.native.vectors import I8

GROUPS = (4, 2)  # registers one load fills


class Counter(ir.types.Type):
    """LLVM's predicate for groups of registers, which llvmlite lacks."""

    def _to_string(self) -> str:
        return 'target("aarch64.svcount")'

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Counter)

    def __hash__(self) -> int:
        return hash(Counter)


@dataclass(frozen=True)
class GroupedLoadUnit(sme.OuterProductUnit):
    """What a row or a column of the grid takes lies side by side in panels."""

    def step(
        self,
        builder: ir.IRBuilder,
        accs: Sequence[ir.Value | int],
        left: tuple[Iterable[ir.Value], ir.Value],
        right: tuple[Iterable[ir.Value], ir.Value],
        expect: Callable[[], None],
    ) -> list[ir.Value | int]:
        columns = self._loaded(builder, list(right[0]))
        expect()
        rows = self._loaded(builder, list(left[0]))
        pairs = [(a, b) for a in rows for b in columns]
        return [self.mma(builder, acc, *pair) for acc, pair in zip(accs, pairs, strict=True)]

    def _loaded(self, builder: ir.IRBuilder, places: list[ir.Value]) -> list[ir.Value]:
        """The vectors at neighbouring places."""
        count = next((count for count in GROUPS if count <= len(places)), 1)
        if count == 1:
            return [self.load_b(builder, place, None) for place in places]
        kind = Scalable(I8, 16)
        every = call(builder, "llvm.aarch64.sve.ptrue.c8", Counter(), [])
        group = ir.LiteralStructType([kind] * count)
        loaded = call(builder, f"llvm.aarch64.sve.ld1.pn.x{count}.nxv16i8", group, [every, places[0]])
        vectors = [builder.bitcast(builder.extract_value(loaded, i), self.operand) for i in range(count)]
        return vectors + self._loaded(builder, places[count:]) if places[count:] else vectors


@lru_cache(maxsize=8)
def units(vector: int) -> tuple[MatrixUnit, ...]:
    """The units for vectors of `vector` bytes in streaming mode, as `sme.units`."""
    return tuple(_second(unit) for unit in sme.units(vector))


def _second(unit: sme.OuterProductUnit) -> GroupedLoadUnit:
    values = {field.name: getattr(unit, field.name) for field in fields(unit)}
    return GroupedLoadUnit(**{**values, "isa": "sme2", "requires": (*unit.requires, "sme2")})
