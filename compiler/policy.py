"""Precision policies: in which type each product of a model is computed, and why.

A policy speaks of *products*: matrix products and convolutions, which are what matrix units speed up. Softmax, norms,
reductions and elementwise work stay in the type the model was written in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from compiler.errors import SansuanError

PRECISIONS = ("fp32", "bf16", "int8")  # fp32: as written


@dataclass(frozen=True)
class Rule:
    """Nodes whose imported name matches `node` and whose imported op matches `op` (shell patterns, case matters) are
    computed in `precision`. above_error: only those whose measured error in the policy's own precision (Policy.errors)
    is greater. reason: what the ledger says instead of quoting the rule."""

    precision: str
    node: str = "*"
    op: str = "*"
    above_error: float | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        _check(self.precision)

    def matches(self, node: str, op: str, error: float | None) -> bool:
        """Whether the rule decides for a node."""
        if self.above_error is not None and not (error is not None and error > self.above_error):
            return False
        return fnmatchcase(node, self.node) and fnmatchcase(op, self.op)

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        words = [f"node {self.node}" if self.node != "*" else "", f"op {self.op}" if self.op != "*" else ""]
        words.append(f"error above {self.above_error:g}" if self.above_error is not None else "")
        return f"the policy's rule for {', '.join(filter(None, words)) or 'every node'}"


@dataclass(frozen=True, eq=False)
class Range:
    """What an activation spans, in real numbers: [low, high] become the 256 codes. smoothing: [K], what every channel
    along the summed axis is divided by first (and its weights multiplied by), or None."""

    low: float
    high: float
    smoothing: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.low <= self.high):
            raise SansuanError(f"range [{self.low}, {self.high}]: expected finite ends in order")


@dataclass(frozen=True, eq=False)
class Policy:
    """In which precision the products of a model run: that of the first rule that matches a node, else `precision`.

    ranges: of activations, by product (a node's name, `name#1` for its second product): products in int8 that have one
    are quantized statically, others row by row as they run. errors: each product's own error in `precision` (relative
    L2 over calibration data), which rules with `above_error` look at. otherwise: for products that cannot run in the
    precision asked for. Raises SansuanError for an unknown precision.
    """

    precision: str = "fp32"
    rules: tuple[Rule, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    otherwise: str = "fp32"

    def __post_init__(self) -> None:
        _check(self.precision)
        _check(self.otherwise)

    def choose(self, product: str, node: str, op: str) -> tuple[str, str]:
        """The precision for a product of an imported node, and why, '' where it is the policy's own."""
        for rule in self.rules:
            if rule.matches(node, op, self.errors.get(product)):
                return rule.precision, str(rule)
        return self.precision, ""

    def with_rules(self, *rules: Rule) -> Policy:
        """This policy with rules that come before its own."""
        return replace(self, rules=(*rules, *self.rules))


def resolve(precision: Any) -> Policy | None:
    """The policy that `precision` names or is; None for those that retype whole graphs, and for None."""
    if isinstance(precision, Policy):
        return precision
    return Policy(precision) if precision in PRECISIONS and precision != "fp32" else None


def _check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise SansuanError(f"precision {precision!r} is unknown to a policy; expected one of {', '.join(PRECISIONS)}")
