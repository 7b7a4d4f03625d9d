"""How far a node's result may lie from FP64 before somebody has made a mistake.

The bound is measured, not guessed: every operand of a node (inputs and weights) is disturbed by one rounding of the
type it is held in, and how far the FP64 result moves says what rounding does to this node on these inputs, whatever
it computes: cancellation, exponentials of large arguments and normalization are in it. A node that adds up n terms
rounds n times; such errors grow like sqrt(n) where they are independent (Higham and Mary, "A new approach to
probabilistic rounding error analysis", SIAM J. Sci. Comput. 41, 2019). So

    |error| <= FACTOR * sqrt(steps) * (|moved by one rounding| + u * |result|)

in L2 norms; where a candidate narrows the operands of products, that is one more rounding, of its type. What is wrong
by design (another constant, operands narrower than said, sums that saturate) lies orders of magnitude beyond.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isinf, prod, sqrt
from typing import Any

import ml_dtypes
import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.ir import Graph, Node
from compiler.passes.decompose import decompose
from compiler.passes.expose import imported_of
from compiler.passes.fold import fold
from compiler.types import TensorType
from runtime.parity.metrics import Errors

FACTOR = 4.0
_DOUBLE = 2.0**-53
CODE_BITS = 8  # integers this narrow are rounded real numbers; wider ones are counts and places
_PRODUCTS = frozenset({"matmul", "grouped_matmul", "conv", "attention", "recurrence"})


@dataclass(frozen=True)
class Roundoff:
    """What one rounding is at most in a candidate's precision. Of a product's operands: `relative` to the element,
    `absolute` as a part of the tensor's greatest magnitude. `every`: of all floats, in place of what their types say.
    Zeros: the types say it."""

    relative: float = 0.0
    absolute: float = 0.0
    every: float = 0.0


OWN_TYPES = Roundoff()
ROUNDOFFS = {
    "bf16": Roundoff(relative=2.0**-8), "int8": Roundoff(absolute=2.0**-8),
    "fp64": Roundoff(every=_DOUBLE), "fp32": Roundoff(every=2.0**-24),
}  # fmt: skip


@dataclass(frozen=True)
class Depth:
    """How many roundings follow one another in an imported node, and whether it has products of floats."""

    steps: float = 4.0
    products: bool = False


@dataclass(frozen=True)
class Limit:
    """What a result may differ by: `norm` in L2; of integers `different` elements by `step` at most (both infinite:
    `norm` decides)."""

    norm: float = 0.0
    different: float = 0.0
    step: float = 1.0

    def allows(self, errors: Errors) -> bool:
        """Whether errors are within it."""
        kind = dtypes.named(errors.dtype).kind
        if kind == "float" or (isinf(self.different) and kind != "string"):
            return errors.misplaced == 0 and errors.norm <= self.norm
        return errors.different <= self.different and (errors.different == 0 or errors.max_abs <= self.step)


def unit_roundoff(dtype: DType) -> float:
    """Half the distance from 1 to the next number of a float type; 0 for other types."""
    return float(ml_dtypes.finfo(dtype.numpy).eps) / 2 if dtype.is_float else 0.0


def disturbed(array: np.ndarray, held: DType, roundoff: Roundoff, rng: np.random.Generator) -> np.ndarray:
    """A float64 array with independent normal errors of one rounding each; `held` is the type its values are stored
    in. What is not finite stays."""
    relative = roundoff.every or max(unit_roundoff(held), roundoff.relative)
    noise = rng.standard_normal(array.shape) * relative
    with np.errstate(all="ignore"):
        moved = array * (1 + noise)
        if roundoff.absolute:
            finite = np.where(np.isfinite(array), np.abs(array), 0)
            moved = moved + rng.standard_normal(array.shape) * (roundoff.absolute * finite.max(initial=0.0))
    return np.where(np.isfinite(array), moved, array)


def own_limit(
    dtype: DType,
    elements: int,
    scale: float,
    moved: tuple[float, float],
    flips: int,
    depth: Depth,
    roundoff: Roundoff,
) -> Limit:
    """The bound for one result of a node. scale: the L2 norm of the FP64 result; moved: how far operands disturbed by a
    rounding of their own types, and by one of the candidate's, move it in L2; flips: in how many elements.

    Narrow operands are rounded once; their products are added up in float32, like others."""
    grown = FACTOR * sqrt(depth.steps)
    narrow = max(roundoff.relative, roundoff.absolute) if depth.products else 0.0
    extra = FACTOR * (moved[1] + narrow * scale) if narrow else 0.0
    if dtype.is_float:
        kept = roundoff.every == _DOUBLE  # results stay float64
        rounding = max(roundoff.every, 0.0 if kept else unit_roundoff(dtype))
        first = moved[1] if roundoff.every else moved[0]
        return Limit(grown * (first + rounding * scale) + extra + _smallest(dtype) * sqrt(elements))
    if dtype.is_integer and dtype.bits <= CODE_BITS:
        if narrow:
            return Limit(extra + sqrt(elements), np.inf, np.inf)
        # A real number within the error of a tie goes either way: twice the error is that chance.
        chance = 2 * grown * unit_roundoff(dtypes.float32) * 2.0 ** (dtype.bits - 1)
        expected = chance * elements + flips
        return Limit(0.0, float(int(1 + expected + 3 * sqrt(expected))))
    return Limit(0.0, float(flips), np.inf)


def total_limit(own: Limit, dtype: DType, moved: float, flips: int) -> Limit:
    """The bound for the same result where its operands have errors of their own: what comes to it where every node
    before errs by as much as it may, twice for the luck of the draw."""
    if dtype.is_float or isinf(own.different):
        return Limit(own.norm + 2 * moved, own.different, own.step)
    return Limit(0.0, own.different + 2 * flips, np.inf if flips else own.step)


def depths(graph: Graph) -> dict[str, Depth]:
    """The depth of every imported node of a graph as imported, from the core ops it decomposes to."""
    found: dict[str, Depth] = {}
    for node in fold(decompose(fold(graph))).nodes:
        known = found.get(imported_of(node), Depth())
        found[imported_of(node)] = Depth(known.steps + _steps(node), known.products or _multiplies(node))
    return found


def _multiplies(node: Node) -> bool:
    type = node.inputs[0].type if node.op in _PRODUCTS and node.inputs[0] is not None else None
    return isinstance(type, TensorType) and type.dtype.is_float


def _steps(node: Node) -> float:
    """Roundings one after another in a core op."""
    shapes = [_shape(value) for value in node.inputs]
    attrs: Mapping[str, Any] = node.attrs
    if node.op in ("matmul", "grouped_matmul") and shapes[0]:
        return shapes[0][-1]
    if node.op == "conv":
        return prod(shapes[1][1:])
    if node.op == "pool":
        return prod(attrs["kernel"])
    if node.op == "attention":
        return shapes[0][-1] + shapes[1][-2]
    if node.op == "recurrence":
        return shapes[0][0] * (shapes[0][-1] + 8)
    if node.op == "reduce":
        rank = max(len(shape) for shape in shapes)
        full = [max(s[axis - rank] if len(s) >= rank - axis else 1 for s in shapes) for axis in range(rank)]
        return prod(full[axis] for axis in attrs["axes"])
    if node.op in ("running", "scatter"):
        return shapes[0][1]
    if node.op == "weighted_take":
        return shapes[1][0]
    if node.op in ("map", "top_k"):
        return 2
    operands = max((prod(shape) for shape in shapes), default=1)
    results = max((prod(_shape(value)) for value in node.outputs), default=1)
    return max(1.0, operands / max(results, 1))


def _shape(value: Any) -> list[float]:
    """Extents, 1 where they are not known."""
    type = value.type if value is not None else None
    if not isinstance(type, TensorType) or type.shape is None:
        return []
    return [size if isinstance(size, int) else 1 for size in type.shape]


def _smallest(dtype: DType) -> float:
    """What a result may lose beside its roundings: numbers below the normal ones."""
    info = ml_dtypes.finfo(dtype.numpy)
    return float(info.smallest_normal) * (1.0 if dtype.bits >= 32 else 2 * unit_roundoff(dtype))
