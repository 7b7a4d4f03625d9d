"""Kernel calls that differ in nothing but constants of their expressions share one kernel, which reads the constants:
the layers of a quantized model differ in scales and zero points, and each would be compiled by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.expr import Expr, arg, walk
from compiler.kernels import (
    BROADCAST,
    Buffer,
    GemmSpec,
    HostCall,
    KernelCall,
    Lowered,
    MapSpec,
    ReduceSpec,
    Stage,
    View,
    WindowSpec,
)

_ARITHMETIC = frozenset({"add", "sub", "mul", "div", "fma", "min", "max"})
_MOST = 6  # operands that a kernel may get so


def share_constants(lowered: Lowered) -> Lowered:
    """`lowered` with specs that are equal but for numbers as one, if there are several; the numbers that differ become
    weights of one element. The arithmetic, and so every bit, stays the same."""
    groups: dict[Any, list[int]] = {}
    forms = [_Form.of(call) for call in lowered.calls]
    for i, form in enumerate(forms):
        if form is not None:
            groups.setdefault(form.pattern, []).append(i)
    calls, buffers, weights = list(lowered.calls), dict(lowered.buffers), dict(lowered.weights)

    def weight(value: Expr) -> str:
        name = f"constant.{len(weights)}"
        weights[name] = np.asarray(value.value, value.dtype.numpy).reshape(1)
        buffers[name] = Buffer(name, value.dtype, 1, "weight")
        return name

    for members in groups.values():
        found = [forms[i] for i in members]
        differing = _differing([form.constants for form in found if form is not None])
        if not 0 < len(differing) <= _MOST:
            continue
        for i in members:
            form = forms[i]
            assert form is not None
            calls[i] = form.reading(differing, weight)
    if len(weights) == len(lowered.weights):
        return lowered
    return replace(lowered, calls=tuple(calls), buffers=buffers, weights=weights)


def _differing(rows: Sequence[tuple[Expr, ...]]) -> tuple[int, ...]:
    """Which constants are not the same everywhere."""
    return tuple(i for i, column in enumerate(zip(*rows, strict=True)) if len(set(column)) > 1)


@dataclass(frozen=True)
class _Form:
    """A call, its spec with numbered stand-ins for the constants that may be operands (`pattern`), and these, one for
    each place that reads one: that two are equal in one call says nothing about others."""

    call: KernelCall
    pattern: Any
    constants: tuple[Expr, ...]

    @staticmethod
    def of(call: KernelCall | HostCall) -> _Form | None:
        """The form of a call; None where nothing of it can be shared."""
        if not isinstance(call, KernelCall) or not isinstance(call.spec, GemmSpec | MapSpec | ReduceSpec | WindowSpec):
            return None
        if isinstance(call.spec, GemmSpec) and (call.spec.ends is not None or call.spec.codes is not None):
            return None  # the last reads are not the epilogue's
        constants: list[Expr] = []

        def stand_in(constant: Expr) -> Expr:
            constants.append(constant)
            return Expr("const", constant.dtype, (), f"#{len(constants)}")

        pattern = _rewritten(call.spec, stand_in)
        return _Form(call, pattern, tuple(constants)) if constants else None

    def reading(self, differing: Sequence[int], weight: Callable[[Expr], str]) -> KernelCall:
        """The call with these constants as operands."""
        spec = self.call.spec
        shape = self.call.reads[0].shape if isinstance(spec, ReduceSpec) else self.call.writes[0].shape
        values = [self.constants[i] for i in differing]
        views = tuple(View(weight(v), v.dtype, shape, (0,) * len(shape)) for v in values)
        first = len(self.call.reads) + _ahead(spec)
        numbers = {i: arg(first + place, self.constants[i].dtype) for place, i in enumerate(differing)}
        sites = itertools.count()
        fresh: Any = _rewritten(spec, lambda constant: numbers.get(next(sites), constant))
        types, classes = tuple(v.dtype for v in values), (BROADCAST,) * len(values)
        for names, more in (("inputs", types), ("epilogue_inputs", types), ("in_classes", classes),
                            ("epilogue_classes", classes)):  # fmt: skip
            if hasattr(spec, names):
                fresh = replace(fresh, **{names: (*getattr(spec, names), *more)})
        return replace(self.call, spec=fresh, reads=(*self.call.reads, *views))


def _ahead(spec: Any) -> int:
    """By how much the arguments of a spec's expressions are numbered ahead of its reads."""
    if isinstance(spec, GemmSpec):
        return -1  # A and B are one accumulator
    return int(isinstance(spec, WindowSpec) and spec.fn != "dot")  # x is the accumulator; argument 1 is the count


def _rewritten(spec: Any, fresh: Callable[[Expr], Expr]) -> Any:
    """The spec with the constants that may as well be operands replaced, place by place, in one order."""
    done: dict[Expr, Expr] = {}

    def rebuilt(exprs: Sequence[Expr]) -> tuple[Expr, ...]:
        for node in walk(tuple(exprs)):
            if node not in done:
                args = tuple(fresh(a) if _may_be_read(node, a) else done[a] for a in node.args)
                done[node] = Expr(node.op, node.dtype, args, node.value) if args else node
        return tuple(done[e] for e in exprs)

    if isinstance(spec, MapSpec):
        return replace(spec, outputs=rebuilt(spec.outputs))
    if isinstance(spec, ReduceSpec):
        stages = tuple(Stage(s.fn, rebuilt((s.expr,))[0], s.keep) for s in spec.stages)
        elements = rebuilt(spec.element_outputs)
        return replace(spec, stages=stages, element_outputs=elements, row_outputs=rebuilt(spec.row_outputs))
    return replace(spec, epilogue=rebuilt(spec.epilogue))


def _may_be_read(node: Expr, operand: Expr) -> bool:
    """Whether an operand is a constant that may as well be read: a float of plain arithmetic (the expansion of a
    composite may look at it), or a byte, a zero point, that is converted to a wider type."""
    if operand.op != "const":
        return False
    if operand.dtype in (dtypes.float32, dtypes.float64):
        return node.op in _ARITHMETIC
    return operand.dtype in (dtypes.int8, dtypes.uint8) and node.op == "cast" and node.dtype.bits >= 32
