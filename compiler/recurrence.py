"""The spec of recurrences: many steps of products and expressions on carried states (see compiler/kernels.py)."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.dtypes import DType
from compiler.expr import Expr


@dataclass(frozen=True)
class Phase:
    """One product in a step of a recurrence, and what is made of it. Vector `source` [K] is multiplied with the phase's
    matrix [K, gates, N]; then vector targets[i] [N] becomes outputs[i], all read before any is written.

    Vectors are the states, then temporaries. Expressions number arg 0.. as the blocks of x, the vectors, the
    parameters, the `gates` sums of this phase. Each vector is the target of one phase.
    """

    source: int
    gates: int
    targets: tuple[int, ...]
    outputs: tuple[Expr, ...]


@dataclass(frozen=True)
class RecurrenceSpec:
    """Independent rows b of directions d, each through the steps t = 0..T-1 (T-1..0 where params[d] is 1): in a step,
    the phases in order, then y[t, d, b] = state 0.

    Reads: x (T, D, B, blocks, N); with `lengths` the row lengths (B): steps t >= length leave the states as they are
    and give y = 0; a matrix (D, K, gates, N) a phase; (D, B, N) for each state that `initial` says has a first value
    (others start as 0); `parameters` rows (D, N). Writes: y, then the last states (D, B, N). x, states, parameters and
    writes have unit stride on the last axis. `matrices`: for each phase "constant" (packed ahead), or which matrix
    axis as in GemmSpec, K and N being rows and columns. All elements are `dtype`; sums are one fma chain over ascending
    k.
    """

    dtype: DType
    states: int
    blocks: int
    parameters: int
    phases: tuple[Phase, ...]
    matrices: tuple[str, ...]
    initial: tuple[bool, ...]
    lengths: DType | None

    @property
    def vectors(self) -> int:
        """States and temporaries."""
        return sum(len(phase.targets) for phase in self.phases)
