"""The matrix units this machine runs, each forced in turn, and what their products are by definition.

Kernels take a tenth of a second to compile, so tests share them: `ask` names the few specs there are, whose kernels
know no extent and are the same for all shapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from backends.native import gemm, units
from backends.native.target import host
from backends.native.units import MatrixUnit, generic
from compiler.canonical import PRODUCT_CHUNK
from compiler.dtypes import DType, float32, float64
from compiler.evaluate import evaluate
from compiler.expr import Expr, arg, cast, extent, stat
from compiler.kernels import BROADCAST, GENERAL, UNIT, GemmSpec
from tests.backends.native.products import multiply

WIDTHS = [vector for vector in (64, 32, 16) if vector != host().vector]
ALL = (*units.known(host()), *(unit for vector in WIDTHS for unit in generic.units(vector)))
RUN_HERE = [unit for unit in ALL if not unit.missing(host())]


def _families() -> dict[tuple[object, ...], list[MatrixUnit]]:
    """Units whose code differs in nothing but the signs of their integers."""
    families: dict[tuple[object, ...], list[MatrixUnit]] = {}
    for unit in RUN_HERE:
        sizes = unit.a.bytes, unit.acc.bytes, unit.acc.is_float, unit.acc == unit.a
        families.setdefault((type(unit), unit.isa, unit.n, unit.k, *sizes), []).append(unit)
    return families


def _dealt() -> Iterator[MatrixUnit]:
    """One unit a family, with every combination of signs among them."""
    met: Counter[int] = Counter()
    for members in _families().values():
        yield members[met[len(members)] % len(members)]
        met[len(members)] += 1


FAMILIES = list(_dealt())
SPECIFIC = [unit for unit in FAMILIES if unit.isa != "generic"]
OF_BYTES = [unit for unit in FAMILIES if unit.a.bytes == 1]


def name_of(unit: MatrixUnit) -> str:
    return f"{unit.name}x{unit.n}"


def use(monkeypatch: pytest.MonkeyPatch, unit: MatrixUnit) -> None:
    """Let the engine take this unit."""
    monkeypatch.setattr(gemm, "select_unit", lambda *_: (unit, ""))


@dataclass(frozen=True)
class Form:
    """Layouts of A and B (row, column or general), whether B is packed ahead, and which of the epilogues below."""

    a: str
    b: str
    constant: bool = False
    epilogue: str = "plain"

    def __str__(self) -> str:
        return f"{self.a} @ {'constant' if self.constant else self.b}, {self.epilogue}"

    def expressions(self, unit: MatrixUnit) -> tuple[tuple[Expr, ...], tuple[DType, ...], tuple[str, ...]]:
        """Outputs, types of operands and their classes."""
        acc = unit.acc
        if self.epilogue == "plain":
            return (), (), ()
        if self.epilogue == "direct":  # finished in registers: a column's, a row's and an element's operand
            value = (arg(0, acc) + arg(1, acc)) * arg(2, acc) + arg(3, acc)
            return (value,), (acc,) * 3, (UNIT, BROADCAST, UNIT)
        # Finished from a tile: a transposed operand and one scalar, two outputs, of which the first is transposed.
        value = arg(0, acc) + arg(1, acc) - arg(2, acc)
        other = float32 if acc != float32 else float64
        return (value, cast(value, other)), (acc,) * 2, (GENERAL, BROADCAST)

    def spec(self, unit: MatrixUnit, batch: int = 0) -> GemmSpec:
        outputs, kinds, classes = self.expressions(unit)
        outs = (GENERAL, UNIT) if self.epilogue == "tile" else (UNIT,)
        layout = self.a, self.b, self.constant
        return GemmSpec(unit.a, unit.b, unit.acc, batch, *layout, outputs, kinds, classes, outs)

    def operands(self, unit: MatrixUnit, m: int, n: int) -> list[np.ndarray]:
        """Random operands of the epilogue, rows further apart than they are long."""
        if self.epilogue == "plain":
            return []
        shapes = [((n,), "row"), ((m, 1), "row"), ((m, n), "row")]
        if self.epilogue == "tile":
            shapes = [((m, n), "column"), ((1, 1), "row")]
        return [draw(shape, unit.acc, layout) for shape, layout in shapes]

    def neutral(self, unit: MatrixUnit, m: int, n: int) -> list[np.ndarray]:
        """Operands with which the (first) output is the accumulator."""
        values = {"plain": (), "direct": (-0.0, 1, -0.0), "tile": (-0.0, 0)}[self.epilogue]
        return [np.full_like(x, value) for x, value in zip(self.operands(unit, m, n), values, strict=True)]

    def run(self, unit: MatrixUnit, a: np.ndarray, b: np.ndarray, operands: Sequence[np.ndarray], **how: object):
        """The product as this form's kernel gives it; the kernel knows no extent."""
        batch = b.ndim - 2
        orders = None if self.epilogue != "tile" else [(*range(batch), batch + 1, batch), None]
        epilogue = self.expressions(unit)[0]
        options = {"operands": operands, "epilogue": epilogue, "constant": self.constant, "out_orders": orders}
        options |= {"spec": self.spec(unit, batch), "symbolic": True, "depth_known": False}
        return multiply(a, b, **options, **how)

    def expected(
        self, unit: MatrixUnit, a: np.ndarray, b: np.ndarray, operands: Sequence[np.ndarray]
    ) -> tuple[np.ndarray, ...]:
        """What it must give."""
        return finished(self.expressions(unit)[0], defined(unit, a, b), operands)


# Every side of B, and every way A is read, meets a kernel.
FRESH, PACKED = Form("row", "row", epilogue="direct"), Form("row", "row", constant=True, epilogue="direct")
TRANSPOSED, SCATTERED = Form("column", "column", epilogue="tile"), Form("general", "general")


def forms(unit: MatrixUnit) -> tuple[tuple[Form, MatrixUnit], ...]:
    """Forms to try a unit in, each with the unit held to the grids it is tried on: what packs B elementwise needs no
    wide ones. Where units differ in widths alone (generic ones, integers of 32 and 64 bits) half of the forms in turn:
    kernels take long to compile."""
    narrower, least = (replace(unit, grids=unit.grids[at:]) for at in (-2, -1))
    every = (FRESH, unit), (PACKED, unit), (TRANSPOSED, narrower), (SCATTERED, least)
    if unit.isa != "generic" and not (unit.a.is_integer and unit.a == unit.acc):
        return every
    return every[:2] if FAMILIES.index(unit) % 2 else every[2:]


DIRECT = [unit for unit in FAMILIES if forms(unit)[0][0] is FRESH]  # what else is tried shares the kernels of these


def draw(shape: Sequence[int], dtype: DType, layout: str = "row", rng: np.random.Generator | None = None) -> np.ndarray:
    """Random elements, of an integer's whole range or of order one, the last two axes laid out as asked: slices of
    something larger, so that strides say which layout it is whatever the extents."""
    rng = rng or RNG
    *outer, rows, columns = (1, *shape) if len(shape) == 1 else shape
    if layout == "column":
        return draw((*outer, columns, rows), dtype, rng=rng).swapaxes(-1, -2)
    step = 2 if layout == "general" else 1
    size = (*outer, rows, step * (columns + 3))
    if dtype.is_integer:
        limits = np.iinfo(dtype.numpy)
        values = rng.integers(limits.min, limits.max, size, dtype.numpy, endpoint=True)
    else:
        values = rng.standard_normal(size).astype(dtype.numpy)
    values = values[..., : step * columns : step]
    return values[0] if len(shape) == 1 else values


RNG = np.random.default_rng(20261128)


def defined(unit: MatrixUnit, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A @ B as the unit means it: mma by mma over ascending k, the last one filled up with zeros; chains end after
    PRODUCT_CHUNK products, and their sums are added in order."""
    kind, total = unit.acc.numpy, None
    with np.errstate(all="ignore"):
        if unit.acc.is_integer:
            return unit.emulate(np.zeros((a.shape[0], b.shape[1]), kind), a, b)
        spare = -a.shape[1] % unit.k
        a, b = np.pad(a, ((0, 0), (0, spare))), np.pad(b, ((0, spare), (0, 0)))
        for start in range(0, max(a.shape[1], 1), PRODUCT_CHUNK):
            chain = np.zeros((a.shape[0], b.shape[1]), kind)
            for k in range(start, min(start + PRODUCT_CHUNK, a.shape[1]), unit.k):
                chain = unit.emulate(chain, a[:, k : k + unit.k], b[k : k + unit.k])
            total = chain if total is None else total + chain
    return total


def finished(
    epilogue: Sequence[Expr], acc: np.ndarray, operands: Sequence[np.ndarray], **sums: np.ndarray
) -> tuple[np.ndarray, ...]:
    """What epilogues make of accumulators, one rounding after the other as native code does. `sums`: of `rows` and
    `columns`, and `extent`."""
    if not epilogue:
        return (acc,)
    leaves = [acc, *(np.broadcast_to(operand, acc.shape) for operand in operands)]

    def leaf(node: Expr) -> np.ndarray:
        if node.op == "arg":
            return leaves[node.value]
        return sums["extent"] if node.op == "extent" else sums[("rows", "columns")[node.value]]

    return tuple(np.broadcast_to(value, acc.shape) for value in evaluate(epilogue, leaf, "emulate"))


def zero_points(unit: MatrixUnit) -> tuple[Expr, ...]:
    """The product of operands less their zero points (operands 1 and 2), from the plain product."""
    acc = unit.acc
    za, zb = cast(arg(1, unit.a), acc), cast(arg(2, unit.b), acc)
    return (arg(0, acc) - za * stat(1, acc) - zb * stat(0, acc) + extent(acc) * za * zb,)
