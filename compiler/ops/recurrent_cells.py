"""The step of each recurrent cell, in NumPy and as graph nodes, with ONNX's gate orders and activation functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.expr import Expr, apply, cast, const
from compiler.ir import Value
from compiler.mathlib.reference import sigmoid
from compiler.ops.activation import above, hard_sigmoid, maximum, minimum, softplus, softplus_array
from compiler.ops.elementwise import operand
from compiler.ops.shape import known_shape

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
class Cell:
    """A recurrent cell with `gates` blocks in W and R, and `states` carried values, the output first.

    array(x W^T + Wb [B, gates * H], states, R^T [H, gates * H], Rb [gates * H], peepholes [3 * H] or None, settings)
    answers with the new states. values does the same with graph values and nodes.
    """

    gates: int
    states: int
    functions: tuple[str, ...]
    array: Callable[[Array, Sequence[Array], Array, Array, Array | None, Settings], tuple[Array, ...]]
    values: Callable[[Builder, Value, Sequence[Value], Value, Value | None, Value | None, Settings], tuple[Value, ...]]


def columns(b: Builder, x: Value, start: int, count: int, hidden: int) -> list[Value]:
    """`count` blocks of `hidden` columns of the last axis, from block `start` on."""
    shape = known_shape(x)
    lead = (0,) * (len(shape) - 1)
    steps = (1,) * len(shape)
    return [
        b.emit("slice", x, starts=(*lead, i * hidden), sizes=(*shape[:-1], hidden), steps=steps)
        for i in range(start, start + count)
    ]


def emit_step(b: Builder, values: Sequence[Value], build: Callable[..., tuple[Expr, ...]], hint: str) -> Any:
    """One map of `values`; `build` gets their elements in the type to compute in."""
    dtype = values[0].type.dtype
    results = build(*(operand(i, v) for i, v in enumerate(values)))
    outputs = tuple(cast(e, dtype) for e in results)
    return b.emit_many("map", values, {"outputs": outputs, "shape": None}, (hint,) * len(outputs))


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


def _lstm_values(
    b: Builder, x: Value, states: Sequence[Value], r: Value, rb: Value | None, p: Value | None, s: Settings
) -> tuple[Value, ...]:
    h, c = states
    hidden = known_shape(h)[-1]
    assert isinstance(hidden, int)
    parts = columns(b, x, 0, 4, hidden) + columns(b, b.emit("matmul", h, r), 0, 4, hidden) + [c]
    parts += columns(b, p, 0, 3, hidden) if p is not None else []
    f, g, out = s.exprs

    def build(*e: Expr) -> tuple[Expr, Expr]:
        i, o, forget, new = (e[gate] + e[4 + gate] for gate in range(4))
        before = e[8]
        pi, po, pf = e[9:12] if p is not None else (None, None, None)
        i = f(s.clipped(i if pi is None else i + pi * before))
        keep = 1.0 - i if s.attrs["input_forget"] else f(s.clipped(forget if pf is None else forget + pf * before))
        after = keep * before + i * g(s.clipped(new))
        return f(s.clipped(o if po is None else o + po * after)) * out(after), after

    return tuple(emit_step(b, parts, build, "lstm_step"))


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


def _gru_values(
    b: Builder, x: Value, states: Sequence[Value], r: Value, rb: Value | None, p: Value | None, s: Settings
) -> tuple[Value, ...]:
    (h,) = states
    hidden = known_shape(h)[-1]
    assert isinstance(hidden, int)
    f, g = s.exprs
    x_gates, bias = columns(b, x, 0, 3, hidden), columns(b, rb, 2, 1, hidden) if rb is not None else []

    def blend(z: Expr, new: Expr, before: Expr) -> Expr:
        return (1.0 - z) * new + z * before

    if s.attrs["linear_before_reset"]:
        parts = [*x_gates, *columns(b, b.emit("matmul", h, r), 0, 3, hidden), h, *bias]

        def build(*e: Expr) -> tuple[Expr]:
            z, reset = (f(s.clipped(e[gate] + e[3 + gate])) for gate in range(2))
            inner = reset * (e[5] + e[7] if bias else e[5])
            return (blend(z, g(s.clipped(e[2] + inner)), e[6]),)

        return tuple(emit_step(b, parts, build, "gru_step"))
    (r_z,), (r_r,), (r_h,) = (columns(b, r, gate, 1, hidden) for gate in range(3))
    (held,) = emit_step(
        b, (x_gates[1], b.emit("matmul", h, r_r), h), lambda xr, hr, before: (f(s.clipped(xr + hr)) * before,), "reset"
    )
    parts = [x_gates[0], b.emit("matmul", h, r_z), x_gates[2], b.emit("matmul", held, r_h), h, *bias]

    def finish(xz: Expr, hz: Expr, xh: Expr, hh: Expr, before: Expr, *rest: Expr) -> tuple[Expr]:
        inner = xh + hh + rest[0] if rest else xh + hh
        return (blend(f(s.clipped(xz + hz)), g(s.clipped(inner)), before),)

    return tuple(emit_step(b, parts, finish, "gru_step"))


def _rnn_array(
    x: Array, states: Sequence[Array], r: Array, rb: Array, p: Array | None, s: Settings
) -> tuple[Array, ...]:
    return (s.arrays[0](s.clipped_array(x + states[0] @ r + rb)),)


def _rnn_values(
    b: Builder, x: Value, states: Sequence[Value], r: Value, rb: Value | None, p: Value | None, s: Settings
) -> tuple[Value, ...]:
    parts = [x, b.emit("matmul", states[0], r)]
    return tuple(emit_step(b, parts, lambda v, w: (s.exprs[0](s.clipped(v + w)),), "rnn_step"))


LSTM = Cell(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm_array, _lstm_values)
GRU = Cell(3, 1, ("Sigmoid", "Tanh"), _gru_array, _gru_values)
RNN = Cell(1, 1, ("Tanh",), _rnn_array, _rnn_values)
