"""Faults planted into the kernels of one imported node: what porters do wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from llvmlite import ir

from backends.native import gemm, units
from backends.native.target import host
from backends.native.units.dot import WordDotUnit
from backends.native.vectors import constant
from compiler import dtypes, pipeline
from compiler.expr import Expr, apply, arg, cast, const, transform
from compiler.kernels import AttentionSpec, GemmSpec, KernelCall, Lowered, MapSpec, ReduceSpec, WindowSpec

FAULTS = ("constant", "bf16", "saturation")


def wrong_constant(root: Expr) -> Expr:
    """A result times 1.001, or a code one too large."""
    if root.dtype.is_float:
        return root * const(1.001, root.dtype)
    if root.dtype.is_integer:
        return cast(cast(root, dtypes.int64) + const(1, dtypes.int64), root.dtype)
    return apply("not", root)


def through_bfloat(root: Expr) -> Expr:
    """Float32 operands as bfloat16 holds them."""

    def narrowed(node: Expr) -> Expr | None:
        if node.op == "arg" and node.dtype == dtypes.float32:
            return cast(cast(node, dtypes.bfloat16), dtypes.float32)
        return None

    return transform(root, narrowed)


def altered(call: KernelCall, change: Any) -> KernelCall:
    """The call with all its expressions changed; a plain product's is its sum."""
    spec = call.spec
    if isinstance(spec, MapSpec):
        spec = replace(spec, outputs=tuple(map(change, spec.outputs)))
    elif isinstance(spec, ReduceSpec) and change is through_bfloat:
        stages = tuple(replace(stage, expr=change(stage.expr)) for stage in spec.stages)
        spec = replace(spec, stages=stages, element_outputs=tuple(map(change, spec.element_outputs)))
    elif isinstance(spec, ReduceSpec):
        outputs = tuple(map(change, spec.element_outputs)), tuple(map(change, spec.row_outputs))
        spec = replace(spec, element_outputs=outputs[0], row_outputs=outputs[1])
    elif isinstance(spec, GemmSpec | WindowSpec):
        spec = replace(spec, epilogue=tuple(map(change, spec.epilogue or (arg(0, spec.acc),))))
    elif isinstance(spec, AttentionSpec):
        spec = replace(spec, score=change(spec.score))
    return replace(call, spec=spec)


def rounded_weights(lowered: Lowered, node: str) -> dict[str, np.ndarray]:
    """The float32 weights that products of a node read, rounded to bfloat16."""
    weights = dict(lowered.weights)
    for call in lowered.calls:
        if node in call.where and reads_weights(call, lowered):
            name = call.reads[1].buffer
            if weights[name].dtype == np.float32:
                weights[name] = weights[name].astype(ml_dtypes.bfloat16).astype(np.float32)
    return weights


def reads_weights(call: Any, lowered: Lowered) -> bool:
    """Whether a call is a product with a weight."""
    is_product = isinstance(call, KernelCall) and isinstance(call.spec, GemmSpec | WindowSpec)
    return is_product and len(call.reads) > 1 and call.reads[1].buffer in lowered.weights


@dataclass(frozen=True)
class Saturating(WordDotUnit):
    """Sums of pairs of products kept in 16 bits, as an instruction that was meant for something else does."""

    def mma(self, builder: ir.IRBuilder, acc: ir.Value, a: Any, b: Any) -> ir.Value:
        sums = super().mma(builder, constant(acc.type, 0), a, b)
        for sign, limit in ((">", 32767), ("<", -32768)):
            bound = constant(acc.type, limit)
            sums = builder.select(builder.icmp_signed(sign, sums, bound), bound, sums)
        return builder.add(acc, sums)


def saturating_unit(a: dtypes.DType, b: dtypes.DType) -> Saturating | None:
    for unit in units.ORDERED:
        if type(unit) is WordDotUnit and (unit.a, unit.b) == (a, b) and not unit.missing(host()):
            return Saturating(**{name: getattr(unit, name) for name in unit.__dataclass_fields__})
    return None


def is_byte_product(call: Any) -> bool:
    """Whether pairs of products can leave 16 bits: of an unsigned byte and a signed one."""
    spec = getattr(call, "spec", None)
    return isinstance(spec, GemmSpec) and {spec.a.name, spec.b.name} == {"int8", "uint8"}


def is_eligible(call: Any, fault: str) -> bool:
    """Whether a fault changes what a call computes."""
    spec = getattr(call, "spec", None)
    if fault == "saturation":
        return is_byte_product(call) and saturating_unit(spec.a, spec.b) is not None
    if not isinstance(spec, MapSpec | ReduceSpec | GemmSpec | WindowSpec | AttentionSpec):
        return False
    return fault == "constant" or call.reads[0].dtype == dtypes.float32


@contextmanager
def planted(fault: str, *nodes: str) -> Iterator[None]:
    """While this lasts, programs are compiled with a fault in the kernels that carry out an imported node, or (of
    several) all of these nodes together."""
    lower, select, (node, *_) = pipeline.lower, gemm.select, nodes

    def faulty(graph: Any) -> Lowered:
        lowered = lower(graph)
        calls = list(lowered.calls)
        for number, call in enumerate(calls):
            if set(nodes) <= set(call.where) and is_eligible(call, fault):
                if fault == "constant":
                    calls[number] = altered(call, wrong_constant)
                elif not reads_weights(call, lowered):
                    calls[number] = altered(call, through_bfloat)
        weights = rounded_weights(lowered, node) if fault == "bf16" else lowered.weights
        return replace(lowered, calls=tuple(calls), weights=weights)

    def saturating(call: KernelCall, *rest: Any) -> Any:
        if node not in call.where or not is_byte_product(call):
            return select(call, *rest)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gemm, "select_unit", lambda _, a, b, *rest: (saturating_unit(a, b), "saturates"))
            return select(call, *rest)

    with pytest.MonkeyPatch.context() as patch:
        if fault == "saturation":
            patch.setattr(gemm, "select", saturating)
        else:
            patch.setattr(pipeline, "lower", faulty)
        yield
