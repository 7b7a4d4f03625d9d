"""runtime.quantize: as much of a model in 8 bits as an error bound allows."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from backends.native import target as targets
from compiler.errors import SansuanError
from compiler.policy import Policy, Rule
from runtime.api import build
from runtime.calibration import Calibration
from runtime.program import Program


@dataclass(frozen=True)
class Choice:
    """A product that can run in 8 bits: its imported node and op, the precision chosen, and its own relative error (L2)
    in int8 over the data."""

    node: str
    op: str
    precision: str
    error: float


@dataclass(frozen=True, eq=False)
class Quantization:
    """What `quantize` decided. error: the relative error (L2) of the outputs over the data against the model as
    written, the worst of all outputs; `policy` and `program` are ready for use; str() is a table of the choices."""

    policy: Policy
    program: Program
    error: float
    max_error: float
    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        counts = {word: sum(c.precision == word for c in self.choices) for word in ("int8", "bf16", "fp32")}
        listed = ", ".join(f"{count} in {word}" for word, count in counts.items() if count)
        lines = [f"error {self.error:.3g} (at most {self.max_error:g}); products: {listed or 'none can run in 8 bits'}"]
        width = max((len(choice.node) for choice in self.choices), default=0)
        ordered = sorted(self.choices, key=lambda choice: -choice.error)
        lines += [f"  {c.node.ljust(width)}  {c.op}  {c.precision}  own error in int8 {c.error:.3g}" for c in ordered]
        return "\n".join(lines)


def quantize(
    model: Any,
    data: Iterable[Any],
    max_error: float = 0.01,
    method: str = "mse",
    *,
    dynamic_shapes: Any = None,
    threads: int | None = None,
) -> Quantization:
    """Calibrate a model, then keep products out of 8 bits until its outputs err by at most `max_error` (relative L2
    over the data, against the model as written): those of greatest own error in bfloat16, then, if all in bfloat16 is
    not enough, in the type they are written in.

    The other arguments are those of runtime.calibrate. Raises SansuanError where even products as written do not meet
    the bound (outputs that are not finite), and what calibrate raises.
    """
    calibration = Calibration.of(model, data, method, dynamic_shapes, threads)
    search = _Search(calibration, calibration.policy(), max_error)
    moved = search.least({}, "bf16")
    if moved is None:
        moved = search.least(dict.fromkeys(search.order, "bf16"), "fp32")
    if moved is None:
        raise SansuanError(
            f"max_error {max_error:g}: not met even with every product as written; check that the outputs of the data "
            "are finite, or choose a greater bound"
        )
    policy = search.with_moved(moved)
    program = search.program(policy)
    keys = {product.site.key: product.site for product in calibration.products}
    choices = tuple(
        Choice(site.name, site.op, moved.get(key, "int8"), policy.errors[key])
        for key, site in keys.items()
        if key in policy.errors
    )
    return Quantization(policy, program, search.error(program), max_error, choices)


class _Search:
    """For the fewest products out of 8 bits that meet a bound."""

    def __init__(self, calibration: Calibration, policy: Policy, max_error: float) -> None:
        self._calibration, self._policy, self._bound = calibration, policy, max_error
        self.order: Sequence[str] = sorted(policy.errors, key=lambda key: -policy.errors[key])
        self._names = {product.site.key: product.site.name for product in calibration.products}

    def least(self, start: dict[str, str], precision: str) -> dict[str, str] | None:
        """`start` with as few of the products of greatest error as possible moved to a precision, so that the bound
        holds; None where it does not with all of them. By bisection: an error hardly grows where precision does."""
        low, high = 0, len(self.order)
        if self._meets(start):
            return start
        if not self._meets({**start, **dict.fromkeys(self.order, precision)}):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            if self._meets({**start, **dict.fromkeys(self.order[:middle], precision)}):
                high = middle
            else:
                low = middle
        return {**start, **dict.fromkeys(self.order[:high], precision)}

    def with_moved(self, moved: dict[str, str]) -> Policy:
        """The policy with a rule for each product moved."""
        rules = [
            Rule(
                precision,
                node=glob.escape(self._names[key]),
                reason=f"kept in {precision}: its own error in int8 is {self._policy.errors[key]:.3g}",
            )
            for key, precision in moved.items()
        ]
        return self._policy.with_rules(*rules)

    def program(self, policy: Policy) -> Program:
        """The model under a policy."""
        return build(self._calibration.imported, policy, "native", targets.host(), self._calibration.options)

    def error(self, program: Program) -> float:
        """Of a program's outputs over the data, relative L2, the worst output; infinite where one is not finite."""
        wrong, whole = np.zeros(len(program.outputs)), np.zeros(len(program.outputs))
        for arrays, expected in zip(self._calibration.calls, self._calibration.outputs, strict=True):
            for i, (a, b) in enumerate(zip(program.results(arrays), expected, strict=True)):
                if b.dtype.kind not in "biu":
                    wide = b.astype(np.float64)
                    wrong[i] += np.sum((a.astype(np.float64) - wide) ** 2)
                    whole[i] += np.sum(wide**2)
        errors = np.sqrt(wrong / np.maximum(whole, 1e-300))
        return float(errors.max(initial=0)) if np.isfinite(errors).all() else float("inf")

    def _meets(self, moved: dict[str, str]) -> bool:
        return self.error(self.program(self.with_moved(moved))) <= self._bound
