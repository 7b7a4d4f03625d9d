"""The step of each recurrent cell, in NumPy and as phases of a recurrence, with ONNX's gate orders and functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, const
from compiler.mathlib.reference import sigmoid
from compiler.ops.activation import above, hard_sigmoid, maximum, minimum, softplus, softplus_array
from compiler.recurrence import Phase

Array = np.ndarray
# name -> (expression, NumPy function, default alpha, default beta); None where the function takes no such number.
FUNCTIONS: Mapping[str, tuple[Callable[..., Expr], Callable[..., Array], float | None, float | None]] = {
    "relu": (lambda x: maximum(x, 0), lambda x: np.maximum(x, 0), None, None),
    "tanh": (lambda x: apply("tanh", x), np.tanh, None, None),
    "sigmoid": (lambda x: apply("sigmoid", x), sigmoid, None, None),
    "softsign": (lambda x: x / (1.0 + apply("abs", x)), lambda x: x / (1 + np.abs(x)), None, None),
    "softplus": (softplus, softplus_array, None, None),
    "affine": (lambda x, a, b: x * a + b, lambda x, a, b: x * a + b, 1.0, 0.0),
    "leakyrelu": (lambda x, a: above(x, 0, x, x * a), lambda x, a: np.where(x > 0, x, x * a), 0.01, None),
    "thresholdedrelu": (
        lambda x, a: above(x, a, x, const(0, x.dtype)), lambda x, a: np.where(x > a, x, 0.0), 1.0, None,
    ),
    "elu": (
        lambda x, a: above(x, 0, x, apply("expm1", x) * a), lambda x, a: np.where(x > 0, x, a * np.expm1(x)), 1.0, None,
    ),
    "scaledtanh": (
        lambda x, a, b: apply("tanh", x * b) * a, lambda x, a, b: a * np.tanh(b * x), 1.0, 1.0,
    ),
    "hardsigmoid": (
        lambda x, a, b: hard_sigmoid(x, alpha=a, beta=b), lambda x, a, b: np.clip(a * x + b, 0, 1), 0.2, 0.5,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """What a direction of a layer is run with: the functions of the cell, and the attributes that change it."""

    exprs: tuple[Callable[[Expr], Expr], ...]
    arrays: tuple[Callable[[Array], Array], ...]
    clip: float | None
    attrs: Mapping[str, Any]

    def order(self, gates: int) -> Sequence[int]:
        """Where W, R and the biases have ONNX's gates. GRU's last is the last in any order."""
        return self.attrs["gate_order"] or range(gates)

    def clipped(self, x: Expr) -> Expr:
        """x held within -clip..clip."""
        return x if self.clip is None else maximum(minimum(x, self.clip), -self.clip)

    def clipped_array(self, x: Array) -> Array:
        """The same on arrays."""
        return x if self.clip is None else np.clip(x, -self.clip, self.clip)


def settings(attrs: Mapping[str, Any], defaults: Sequence[str], direction: int, directions: int) -> Settings:
    """The settings of one direction. ONNX lists functions for all directions in a row, and their numbers likewise."""
    names = [name.lower() for name in attrs["activations"] or tuple(defaults) * directions]
    alphas, betas = list(attrs["activation_alpha"] or ()), list(attrs["activation_beta"] or ())
    exprs: list[Any] = []
    arrays: list[Any] = []
    for name in names:
        expr, array, alpha, beta = FUNCTIONS[name]
        numbers = []
        if alpha is not None:
            numbers.append(alphas.pop(0) if alphas else alpha)
        if beta is not None:
            numbers.append(betas.pop(0) if betas else beta)
        exprs.append(lambda x, f=expr, n=tuple(numbers): f(x, *n))
        arrays.append(lambda x, f=array, n=tuple(numbers): f(x, *n))
    count = len(defaults)
    part = slice(direction * count, (direction + 1) * count)
    return Settings(tuple(exprs[part]), tuple(arrays[part]), attrs["clip"], attrs)


@dataclass(frozen=True)
class Elements:
    """The arguments of a cell's expressions, as recurrence.Phase numbers them."""

    dtype: DType
    blocks: int
    vectors: int
    parameters: int

    def x(self, gate: int) -> Expr:
        """x W^T plus the bias that joins it, of one gate."""
        return arg(gate, self.dtype)

    def vector(self, number: int) -> Expr:
        """A state or a temporary."""
        return arg(self.blocks + number, self.dtype)

    def parameter(self, number: int) -> Expr:
        """A row that all steps share."""
        return arg(self.blocks + self.vectors + number, self.dtype)

    def sum(self, number: int) -> Expr:
        """A sum of the phase's product."""
        return arg(self.blocks + self.vectors + self.parameters + number, self.dtype)


@dataclass(frozen=True)
class Part:
    """A phase, and which gates of R its matrix is made of (None: the matrix is the projection)."""

    phase: Phase
    gates: range | None


@dataclass(frozen=True)
class Cell:
    """A recurrent cell with `gates` blocks in W and R, and `states` carried values, the output first.

    array(x W^T + Wb [B, gates * H], states, R^T [H, gates * H], Rb [gates * H], peepholes [3 * H] or None, settings)
    answers with the new states. parts(type, parameters, settings, projected) is the same for a recurrence with
    `parameters` rows: peepholes i, o, f, or the bias of GRU's last gate where the reset gate scales it.
    """

    gates: int
    states: int
    functions: tuple[str, ...]
    array: Callable[[Array, Sequence[Array], Array, Array, Array | None, Settings], tuple[Array, ...]]
    parts: Callable[[DType, int, Settings, bool], tuple[Part, ...]]


def _lstm_array(
    x: Array, states: Sequence[Array], r: Array, rb: Array, p: Array | None, s: Settings
) -> tuple[Array, ...]:
    h, c = states
    f, g, out = s.arrays
    i, o, forget, new = np.split(x + h @ r + rb, 4, axis=-1)
    pi, po, pf = np.split(p, 3) if p is not None else (0, 0, 0)
    i = f(s.clipped_array(i + pi * c))
    keep = 1 - i if s.attrs["input_forget"] else f(s.clipped_array(forget + pf * c))
    c = keep * c + i * g(s.clipped_array(new))
    return f(s.clipped_array(o + po * c)) * out(c), c


def _lstm_parts(dtype: DType, parameters: int, s: Settings, projected: bool) -> tuple[Part, ...]:
    e = Elements(dtype, 4, 2 + projected, parameters)
    f, g, out = s.exprs
    i, o, forget, new = (e.x(gate) + e.sum(gate) for gate in s.order(4))
    before = e.vector(1)

    def watched(x: Expr, peephole: int, state: Expr) -> Expr:
        return x + e.parameter(peephole) * state if parameters else x

    i = f(s.clipped(watched(i, 0, before)))
    keep = 1.0 - i if s.attrs["input_forget"] else f(s.clipped(watched(forget, 2, before)))
    after = keep * before + i * g(s.clipped(new))
    h = f(s.clipped(watched(o, 1, after))) * out(after)
    if not projected:
        return (Part(Phase(0, 4, (0, 1), (h, after)), range(4)),)
    return Part(Phase(0, 4, (2, 1), (h, after)), range(4)), Part(Phase(2, 1, (0,), (e.sum(0),)), None)


def _gru_array(
    x: Array, states: Sequence[Array], r: Array, rb: Array, p: Array | None, s: Settings
) -> tuple[Array, ...]:
    (h,) = states
    f, g = s.arrays
    size = h.shape[-1]
    z, reset = np.split(f(s.clipped_array(x[..., : 2 * size] + h @ r[:, : 2 * size] + rb[: 2 * size])), 2, axis=-1)
    if s.attrs["linear_before_reset"]:
        inner = reset * (h @ r[:, 2 * size :] + rb[2 * size :])
    else:
        inner = (reset * h) @ r[:, 2 * size :] + rb[2 * size :]
    new = g(s.clipped_array(x[..., 2 * size :] + inner))
    return ((1 - z) * new + z * h,)


def _gru_parts(dtype: DType, parameters: int, s: Settings, projected: bool) -> tuple[Part, ...]:
    f, g = s.exprs
    if s.attrs["linear_before_reset"]:
        e = Elements(dtype, 3, 1, parameters)
        z, reset = (f(s.clipped(e.x(gate) + e.sum(gate))) for gate in s.order(3)[:2])
        new = g(s.clipped(e.x(2) + reset * (e.sum(2) + e.parameter(0) if parameters else e.sum(2))))
        return (Part(Phase(0, 3, (0,), ((1.0 - z) * new + z * e.vector(0),)), range(3)),)
    e = Elements(dtype, 3, 3, parameters)
    z, reset = (f(s.clipped(e.x(gate) + e.sum(gate))) for gate in s.order(3)[:2])
    gates = Phase(0, 2, (1, 2), (z, reset * e.vector(0)))
    new = g(s.clipped(e.x(2) + e.sum(0)))
    blend = (1.0 - e.vector(1)) * new + e.vector(1) * e.vector(0)
    return Part(gates, range(2)), Part(Phase(2, 1, (0,), (blend,)), range(2, 3))


def _rnn_array(
    x: Array, states: Sequence[Array], r: Array, rb: Array, p: Array | None, s: Settings
) -> tuple[Array, ...]:
    return (s.arrays[0](s.clipped_array(x + states[0] @ r + rb)),)


def _rnn_parts(dtype: DType, parameters: int, s: Settings, projected: bool) -> tuple[Part, ...]:
    e = Elements(dtype, 1, 1, parameters)
    return (Part(Phase(0, 1, (0,), (s.exprs[0](s.clipped(e.x(0) + e.sum(0))),)), range(1)),)


LSTM = Cell(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm_array, _lstm_parts)
GRU = Cell(3, 1, ("Sigmoid", "Tanh"), _gru_array, _gru_parts)
RNN = Cell(1, 1, ("Tanh",), _rnn_array, _rnn_parts)
