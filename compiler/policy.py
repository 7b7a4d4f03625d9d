"""Precision policies: in which type each product of a model is computed, and why.

A policy speaks of *products*: matrix products and convolutions, which are what matrix units speed up. Softmax, norms,
reductions and elementwise work stay in the type the model was written in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from compiler.errors import SansuanError

# fp32: as written. bf16x3: as written too, but products of float32 may be computed through bfloat16 pieces, with an
# error like float32's. Of int8_weights and int4_weights only weights are codes, and activations stay as written.
PRECISIONS = ("fp32", "bf16x3", "bf16", "int8", "int8_weights", "int4_weights")


@dataclass(frozen=True)
class Rule:
    """Nodes whose imported name matches `node` and whose imported op matches `op` (shell patterns, case matters) are
    computed in `precision`. above_error: only those whose measured error in int8 (Policy.errors) is greater. reason:
    what the ledger says instead of quoting the rule."""

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
class Calibrated:
    """How one product runs in 8 bits, found from data. The K channels are those it sums over, the N channels those of
    its result.

    low, high: what the activation spans in real numbers, behind smoothing: [low, high] become its 256 codes. None: each
    row (each sample of a convolution) takes its own as it comes. smoothing: [K] float, what each channel of the
    activation is divided by, and its weights multiplied by. codes: int8, in the shape of the weights, where they are
    not the nearest ones. correction: [N] float, what the result is too great by in the mean. Raises SansuanError for
    ends that are no finite range.
    """

    low: float | None = None
    high: float | None = None
    smoothing: np.ndarray | None = None
    codes: np.ndarray | None = None
    correction: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            return
        if self.low is None or self.high is None or not -np.inf < self.low <= self.high < np.inf:
            raise SansuanError(f"range [{self.low}, {self.high}]: expected two finite ends in order, or neither")


@dataclass(frozen=True, eq=False)
class Policy:
    """In which precision the products of a model run: that of the first rule that matches a node, else `precision`.

    calibrated: by product (a node's name, `name#1` for its second product), how it runs in int8; products without an
    entry take each row's own range and the nearest codes. errors: each product's own error in int8 (relative L2 over
    calibration data), which rules with `above_error` look at. otherwise: for products that cannot run in the
    precision asked for. group: how many weights along K share a scale where only weights are codes, a multiple of 16.
    Raises SansuanError for an unknown precision or group.
    """

    precision: str = "fp32"
    rules: tuple[Rule, ...] = ()
    calibrated: Mapping[str, Calibrated] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)
    otherwise: str = "fp32"
    group: int = 32

    def __post_init__(self) -> None:
        _check(self.precision)
        _check(self.otherwise)
        if self.group < 1 or self.group % 16:
            raise SansuanError(f"group: {self.group}, expected a multiple of 16")

    def choose(self, product: str, node: str, op: str) -> tuple[str, str]:
        """The precision for a product of an imported node, and why, '' where it is the policy's own."""
        for rule in self.rules:
            if rule.matches(node, op, self.errors.get(product)):
                return rule.precision, str(rule)
        return self.precision, ""

    def with_rules(self, *rules: Rule) -> Policy:
        """This policy with rules that come before its own."""
        return replace(self, rules=(*rules, *self.rules))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file (.npz), which `load` reads, and the sansuan command as --precision."""
        from compiler.policy_file import save_policy

        save_policy(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Policy:
        """The policy in a file that `save` wrote. Raises ModelError where it is none."""
        from compiler.policy_file import load_policy

        return load_policy(path)


def resolve(precision: Any) -> Policy | None:
    """The policy that `precision` names or is; None for those that retype whole graphs, and for None."""
    if isinstance(precision, Policy):
        return precision
    return Policy(precision) if precision in PRECISIONS and precision != "fp32" else None


def _check(precision: str) -> None:
    if precision not in PRECISIONS:
        raise SansuanError(f"precision {precision!r} is unknown to a policy; expected one of {', '.join(PRECISIONS)}")
