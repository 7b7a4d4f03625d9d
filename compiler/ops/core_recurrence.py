"""The core op of recurrent layers: all steps of a sequence in one node (recurrence.RecurrenceSpec)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dtypes
from compiler.dims import Size
from compiler.evaluate import Mode, evaluate
from compiler.expr import Expr, apply, arg
from compiler.ir import Node
from compiler.lowering.recurrence import lower_recurrence
from compiler.op import REQUIRED, Call, Sample, op
from compiler.recurrence import Phase
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering

Array = np.ndarray


@op("recurrence", attrs={"phases": REQUIRED, "states": REQUIRED, "blocks": REQUIRED, "backward": REQUIRED})
class Recurrence:
    """The steps of a recurrent layer: phases of products and expressions on carried states (recurrence.RecurrenceSpec).

    Operands: x [T, D, B, blocks, N], lengths [B] or None, a matrix [D, K, gates, N] a phase, the first value [D, B, N]
    of each state or None for zeros, parameter rows [D, N]. Outputs: state 0 after every step [T, D, B, N], the last
    states [D, B, N]. `backward`: which directions run from the last step to the first.
    """

    def infer(call: Call) -> list[TensorType]:
        phases, states = call.attrs["phases"], call.attrs["states"]
        dtype = call.same_dtype(0, *range(2, len(call.inputs)))
        if dtype not in (dtypes.float32, dtypes.float64):
            call.dtype_error(f"element type {dtype}; expected float32 or float64; insert a cast")
        lengths = call.optional(1)
        if lengths is not None and lengths.dtype.kind != "int":
            call.dtype_error(f"lengths (operand 1) are {lengths.dtype}; expected a signed integer; insert a cast")
        x = call.tensor(0).shape
        matrices = [call.tensor(2 + i).shape for i in range(len(phases))]
        if x is None or any(shape is None for shape in matrices):
            return [TensorType(dtype, None)] * (1 + states)
        if len(x) != 5 or any(len(shape) != 4 for shape in matrices):  # type: ignore[arg-type]
            call.shape_error(f"x is {call.tensor(0)}; expected [T, D, B, blocks, N], and matrices [D, K, gates, N]")
        steps, directions, batch = x[:3]
        call.same_size(x[3], call.attrs["blocks"], "number of blocks (of x, of the attribute)")
        call.same_size(directions, len(call.attrs["backward"]), "number of directions (of x, of the attribute)")
        widths: dict[int, Size] = {}
        for phase, shape in zip(phases, matrices, strict=True):
            widths.update(dict.fromkeys(phase.targets, shape[3]))  # type: ignore[index]
        for number, (phase, shape) in enumerate(zip(phases, matrices, strict=True)):
            call.same_size(shape[1], widths[phase.source], f"rows of matrix {number} (of its source)")  # type: ignore[index]
        for state in range(states):
            first = call.optional(2 + len(phases) + state)
            if first is not None and first.shape is not None:
                call.same_size(first.shape[2], widths[state], f"size of state {state} (of its first value)")
                call.same_size(first.shape[1], batch, f"batch (of the first value of state {state}, of x)")
        last = [TensorType(dtype, (directions, batch, widths[state])) for state in range(states)]
        return [TensorType(dtype, (steps, directions, batch, widths[0])), *last][: call.outputs]

    def reference(
        *operands: Array | None, phases: Sequence[Phase], states: int, blocks: int, backward: Sequence[bool]
    ) -> tuple[Array, ...]:
        x, lengths, *rest = (*operands, *(None,) * (2 + len(phases) + states - len(operands)))
        split = len(phases), len(phases) + states
        run = Steps(phases, states, x, lengths, rest[: split[0]], rest[split[0] : split[1]], rest[split[1] :])  # type: ignore[arg-type]
        return run.run(backward, rounded_product, "truth")

    def lower(node: Node, low: Lowering) -> None:
        lower_recurrence(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> Array:
            return rng.uniform(-1, 1, shape).astype(np.float32)

        f32 = dtypes.float32
        # state' = tanh(x + sum) of one state; then with a temporary, a parameter and states of different sizes.
        plain = Phase(0, 1, (0,), (apply("tanh", arg(0, f32) + arg(2, f32)),))
        attrs: dict[str, Any] = {"phases": (plain,), "states": 1, "blocks": 1, "backward": (False,)}
        yield Sample((draw(3, 1, 2, 1, 17), None, draw(1, 17, 1, 17)), attrs, 16, "plain")
        yield Sample((draw(0, 1, 2, 1, 3), None, draw(1, 3, 1, 3), draw(1, 2, 3)), attrs, 16, "no steps")
        yield Sample((draw(2, 1, 0, 1, 3), None, draw(1, 3, 1, 3)), attrs, 16, "no rows")
        # args: 0, 1 blocks; 2, 3 states [3], [5]; 4 a temporary [5]; 5 a parameter [5]; 6.. sums
        up = Phase(0, 2, (2, 1), (
            apply("tanh", arg(6, f32) + arg(0, f32) * arg(5, f32)),
            apply("sigmoid", arg(7, f32) + arg(1, f32)) * arg(3, f32),
        ))  # fmt: skip
        down = Phase(2, 1, (0,), (arg(6, f32) + arg(2, f32) * 0.5,))
        both = {"phases": (up, down), "states": 2, "blocks": 2, "backward": (False, True)}
        lengths = np.array([4, 0, 2, 9], np.int64)
        matrices = draw(2, 3, 2, 5), draw(2, 5, 1, 3)
        operands = (draw(4, 2, 4, 2, 5), lengths, *matrices, None, draw(2, 4, 5), draw(2, 5))
        yield Sample(operands, both, 32, "two phases")


Product = Callable[[Array, Array], Array]


def rounded_product(a: Array, b: Array) -> Array:
    """a [.., B, K] @ b [.., K, N], rounded once."""
    return np.matmul(a.astype(np.float64), b.astype(np.float64)).astype(a.dtype)


@dataclass(frozen=True)
class Steps:
    """A recurrence in NumPy: operands as the op has them."""

    phases: Sequence[Phase]
    states: int
    x: Array
    lengths: Array | None
    matrices: Sequence[Array]
    first: Sequence[Array | None]
    parameters: Sequence[Array]

    def run(self, backward: Sequence[bool], product: Product, mode: Mode) -> tuple[Array, ...]:
        """State 0 after each step, then the last states. Every function of a step is rounded (`mode` of evaluate)."""
        steps, directions, batch = self.x.shape[:3]
        widths = {t: m.shape[3] for p, m in zip(self.phases, self.matrices, strict=True) for t in p.targets}
        everything = np.zeros((steps, directions, batch, widths[0]), self.x.dtype)
        last = [np.zeros((directions, batch, widths[state]), self.x.dtype) for state in range(self.states)]
        for state, value in enumerate(self.first):
            if value is not None:
                last[state][...] = value
        live = np.full(batch, steps) if self.lengths is None else self.lengths
        for d in range(directions):
            for t in reversed(range(steps)) if backward[d] else range(steps):
                going = (t < live)[:, None]
                vectors = {state: last[state][d] for state in range(self.states)}
                for phase, matrix in zip(self.phases, self.matrices, strict=True):
                    vectors.update(self._phase(phase, matrix[d], vectors, self.x[t, d], d, product, mode))
                for state in range(self.states):
                    last[state][d] = np.where(going, vectors[state], last[state][d])
                everything[t, d] = np.where(going, vectors[0], 0)
        return (everything, *last)

    def _phase(
        self, phase: Phase, matrix: Array, vectors: dict[int, Array], x: Array, d: int, product: Product, mode: Mode
    ) -> dict[int, Array]:
        """The vectors a phase writes; x [B, blocks, N]."""
        k, gates, n = matrix.shape
        sums = product(vectors[phase.source], matrix.reshape(k, gates * n)).reshape(len(x), gates, n)
        count = sum(len(p.targets) for p in self.phases)
        kinds: tuple[Callable[[int], Array], ...] = (
            lambda i: x[:, i], lambda i: vectors[i], lambda i: self.parameters[i][d], lambda i: sums[:, i],
        )  # fmt: skip
        sizes = (x.shape[1], count, len(self.parameters), gates)

        def leaf(node: Expr) -> Array:
            number = node.value
            for kind, size in zip(kinds, sizes, strict=True):
                if number < size:
                    return kind(number)
                number -= size
            raise AssertionError(f"no operand {node.value}")

        values = evaluate(phase.outputs, leaf, mode)
        return {t: np.broadcast_to(v, (len(x), n)) for t, v in zip(phase.targets, values, strict=True)}
