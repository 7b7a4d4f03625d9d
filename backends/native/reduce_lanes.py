"""The canonical lanes of one pass over rows: accumulators of all its stages in vector registers.

Lane l of the LANES takes elements l, l + LANES, ... of the flattened row, so a block of LANES elements that starts at a
multiple of LANES meets the accumulators in order, vector by vector. The state is one list of values for loops to carry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain

from llvmlite import ir

from backends.native.accumulate import Accumulator
from backends.native.kernel import I32, I64
from backends.native.loops import Values, when
from backends.native.vectors import splat, tail_mask
from compiler.canonical import LANES

Element = Callable[[int, ir.Value | None], Values]  # offset of a vector in the block, mask -> the stages' elements


class CanonicalLanes:
    """Accumulators of `stages` with vectors of `lanes`."""

    def __init__(self, builder: ir.IRBuilder, stages: Sequence[Accumulator], lanes: int) -> None:
        self.builder, self.stages, self.lanes = builder, stages, lanes
        self.starts = range(0, LANES, lanes)
        self._one = [stage.start(lanes, I32) for stage in stages]
        self.initial: Values = list(chain.from_iterable(self._one)) * len(self.starts)

    def whole(self, carried: Values, flat: ir.Value, element: Element) -> Values:
        """The state after the block of elements that starts at `flat`."""
        taken: Values = []
        for start, states in zip(self.starts, self._split(carried), strict=True):
            taken += self._take(states, flat, element(start, None), None)
        return taken

    def partial(self, carried: Values, flat: ir.Value, element: Element, first: ir.Value, last: ir.Value) -> Values:
        """The state after elements [first, last) of the block that starts at `flat`; vectors outside are skipped."""
        builder, lanes, taken = self.builder, self.lanes, []
        from_start = isinstance(first, ir.Constant) and first.constant == 0
        for start, states in zip(self.starts, self._split(carried), strict=True):

            def masked(start: int = start, states: list[Values] = states) -> Values:
                mask = self._below(last, start)
                if not from_start:
                    mask = builder.and_(mask, builder.not_(self._below(first, start)))
                return self._take(states, flat, element(start, mask), mask)

            inside = builder.icmp_signed(">", last, I64(start))
            if not from_start:
                inside = builder.and_(inside, builder.icmp_signed("<", first, I64(start + lanes)))
            taken += when(builder, inside, masked, list(chain.from_iterable(states)))
        return taken

    def results(self, carried: Values) -> Values:
        """The stages' statistics: all lanes joined."""
        by_vector = self._split(carried)
        found = []
        for number, stage in enumerate(self.stages):
            states = [
                stage.number(self.builder, states[number], start)
                for start, states in zip(self.starts, by_vector, strict=True)
            ]
            found.append(stage.result(stage.tree(self.builder, states)))
        return found

    def _below(self, limit: ir.Value, start: int) -> ir.Value:
        remaining = self.builder.sub(limit, I64(start))
        positive = self.builder.icmp_signed(">", remaining, I64(0))
        return tail_mask(self.builder, self.builder.select(positive, remaining, I64(0)), self.lanes)

    def _take(self, states: list[Values], flat: ir.Value, elements: Values, mask: ir.Value | None) -> Values:
        builder = self.builder
        block = splat(builder, builder.trunc(builder.lshr(flat, I64(LANES.bit_length() - 1)), I32), self.lanes)
        taken = [
            stage.take(builder, state, element, block, mask)
            for stage, state, element in zip(self.stages, states, elements, strict=True)
        ]
        return list(chain.from_iterable(taken))

    def _split(self, carried: Values) -> list[list[Values]]:
        # By vector, by stage, the parts of the state.
        rest = iter(carried)
        return [[[next(rest) for _ in state] for state in self._one] for _ in self.starts]
