"""From the stages of a reduction to passes over a row.

Stages that do not need each other's statistics share a pass. Elements a later pass needs are stored in scratch, unless
they are just an operand, which is read again. In row order long expressions are not unrolled over the 64 canonical
lanes: they are evaluated into scratch one vector at a time, a piece of the row or (where a later pass wants the
elements) all of it, and feed the lanes from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from backends.native.access import cost, unroll
from compiler.canonical import LANES
from compiler.expr import Expr, kept, substitute, walk
from compiler.kernels import ReduceSpec, Stage

PIECE = 1024  # elements
LONGEST_BODY = 64  # vector instructions unrolled over the canonical lanes, beyond which a pass is split


class Walk(Enum):
    """How a pass in row order goes over a row."""

    FLAT = "elements evenly spaced over the whole row go to the lanes"
    INNER = "inner rows go to the lanes one after another"
    PIECES = "a piece of the row is evaluated into scratch, and from there goes to the lanes"
    EVALUATE = "elements go to scratch only"


@dataclass(frozen=True)
class Pass:
    """One loop over a row. `roots` are the elements of `stages`; those of the stages in `store` go to scratch. All are
    accumulated, unless the walk only evaluates."""

    stages: tuple[int, ...]
    roots: tuple[Expr, ...]
    store: frozenset[int]
    walk: Walk


@dataclass(frozen=True)
class ReducePlan:
    """What the emitters work from. `stages` and the outputs are rewritten so that they read kept(j) only where
    stage j is `stored`. Of the stages in `pieces` no more than PIECE elements are stored at a time."""

    spec: ReduceSpec
    lanes: int
    unroll: int
    stages: tuple[Stage, ...]
    element_outputs: tuple[Expr, ...]
    passes: tuple[Pass, ...]
    stored: tuple[int, ...]
    pieces: frozenset[int]


def plan(spec: ReduceSpec, lanes: int) -> ReducePlan:
    """The passes of `spec` with vectors of `lanes` elements."""
    stages, outputs = _inline_operands(spec)
    by_row = spec.vector_axis == "row"
    read_later = _kept_in((*(stage.expr for stage in stages), *outputs))
    passes: list[Pass] = []
    stored: set[int] = set()
    pieces: set[int] = set()
    for group in _groups(stages):
        elements, flat = _elements(stages, group), spec.reduced == 1
        keep = frozenset(read_later & set(group))
        long = by_row and cost(elements) * (LANES // lanes) > LONGEST_BODY
        stored.update(group if long and flat else keep)
        if by_row and keep and (long or not flat):
            stored.update(group)
            passes.append(Pass(group, elements, frozenset(group), Walk.EVALUATE))
            elements = tuple(kept(stage, stages[stage].expr.dtype) for stage in group)
            passes.append(Pass(group, elements, frozenset(), Walk.FLAT))
        elif long and flat:
            pieces.update(group)
            passes.append(Pass(group, elements, frozenset(group), Walk.PIECES))
        else:
            passes.append(Pass(group, elements, keep, Walk.FLAT if flat else Walk.INNER))
    roots = [*(stage.expr for stage in stages), *outputs]
    return ReducePlan(
        spec,
        lanes,
        1 if by_row else unroll(roots),
        stages,
        outputs,
        tuple(passes),
        tuple(sorted(stored)),
        frozenset(pieces),
    )


def _inline_operands(spec: ReduceSpec) -> tuple[tuple[Stage, ...], tuple[Expr, ...]]:
    # kept(j) of a stage that only reads an operand becomes that operand.
    cheap: dict[Expr, Expr] = {}
    stages: list[Stage] = []
    for number, stage in enumerate(spec.stages):
        stages.append(replace(stage, expr=substitute(stage.expr, cheap)))
        if not stages[-1].expr.args:
            cheap[kept(number, stage.expr.dtype)] = stages[-1].expr
    return tuple(stages), tuple(substitute(root, cheap) for root in spec.element_outputs)


def _groups(stages: tuple[Stage, ...]) -> list[tuple[int, ...]]:
    groups: list[list[int]] = []
    for number, stage in enumerate(stages):
        needed = {node.value for node in walk(stage.expr) if node.op == "stat"}
        # An element kept in the same pass may depend on statistics of earlier passes alone, as its stage does.
        if groups and not needed & set(groups[-1]):
            groups[-1].append(number)
        else:
            groups.append([number])
    return [tuple(group) for group in groups]


def _elements(stages: tuple[Stage, ...], group: tuple[int, ...]) -> tuple[Expr, ...]:
    # Elements kept in the same pass are computed rather than loaded.
    together: dict[Expr, Expr] = {}
    for number in group:
        root = substitute(stages[number].expr, together)
        together[kept(number, root.dtype)] = root
    return tuple(together.values())


def _kept_in(roots: tuple[Expr, ...]) -> set[int]:
    return {node.value for node in walk(roots) if node.op == "kept"}
