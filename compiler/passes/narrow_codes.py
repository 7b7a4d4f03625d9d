"""Activations as 8-bit codes: in a calibrated range, or in that of each row or sample as it comes."""

from __future__ import annotations

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import Expr, apply, arg, cast, const, select, stat
from compiler.ir import Value
from compiler.kernels import Stage
from compiler.passes.narrow_operands import Operands
from compiler.quantization import CODES, LEAST_SPAN, affine

_F, _WHOLE = dtypes.float32, dtypes.int32
Rows = tuple[Value, Value, Value]


def static_codes(b: Builder, operands: Operands, x: Value, low: float, high: float) -> tuple[Value, np.float32, int]:
    """x as uint8 in a known range, with its scale and zero point."""
    scale, zero = affine(low, high)
    inverse = float(np.float32(1) / scale)

    def convert(value: Value) -> Value:
        code = _code(cast(arg(0, value.type.dtype), _F) * inverse, const(zero, _F))
        return b.emit("map", value, outputs=(code,), hint="codes")

    return operands.beneath_moves(x, convert, f"codes {scale} {zero}"), scale, zero


def smoothed(b: Builder, operands: Operands, x: Value, factors: np.ndarray) -> Value:
    """x divided by factors that broadcast to it; readers of one x that divide alike share the result."""
    key = ("smooth", x.name, factors.tobytes())
    if key not in operands.made:
        inverse = b.constant((1 / factors).astype(np.float32), "smoothing")
        element = cast(arg(0, x.type.dtype), _F) * arg(1, _F)
        operands.made[key] = b.emit("map", x, inverse, outputs=(element,), hint="smoothed")
    return operands.made[key]


def row_codes(b: Builder, operands: Operands, x: Value, axis: int) -> Rows:
    """x as uint8 in the range of each row along `axis`, with the rows' scales (float32) and zero points (uint8), which
    keep the axis. A row with a NaN or an infinity has no finite scale, so its products show it."""
    found = operands.made.get(("rows", x.name, axis))
    if found is None:
        found = _rows_beneath_moves(b, operands, x, axis) or _rows(b, x, axis)
        operands.made["rows", x.name, axis] = found
    return found


def _rows_beneath_moves(b: Builder, operands: Operands, x: Value, axis: int) -> Rows | None:
    """The same for the value that x is a view of, where its rows are the same: what makes the rows can then find their
    ranges too."""
    node, shape = operands.mover(x), x.type.shape
    inner = node.inputs[0] if node is not None else None
    if inner is None or axis != -1 or not inner.type.shape or inner.type.shape[-1] != shape[-1]:
        return None
    if node.op == "transpose":
        if node.attrs["perm"][-1] != len(shape) - 1:
            return None
        codes, scale, zero = (
            b.emit("transpose", v, perm=node.attrs["perm"]) for v in row_codes(b, operands, inner, axis)
        )
        return codes, scale, zero
    codes, scale, zero = row_codes(b, operands, inner, axis)
    one_a_row = b.sizes((*shape[:-1], 1))
    scale, zero = (b.emit("reshape", v, one_a_row) for v in (scale, zero))
    return b.emit("reshape", codes, *node.inputs[1:]), scale, zero


def _rows(b: Builder, x: Value, axis: int) -> Rows:
    value = cast(arg(0, x.type.dtype), _F)
    low, high = (apply(fn, stat(i, _F), const(0, _F)) for i, fn in enumerate(("min", "max")))
    span = high - low
    flat = apply("lt", span, const(LEAST_SPAN, _F))
    scale = select(flat, const(1, _F), span * (1 / CODES))
    inverse = select(flat, const(0, _F), const(CODES, _F) / span)
    zero = _held(apply("rint", -low * inverse))
    stages = (Stage("min", value), Stage("max", value))
    attrs = {"axes": (len(x.type.shape) + axis,), "keepdims": True, "stages": stages,
             "elements": (_code(value * inverse, zero),), "rows": (scale, _byte(zero))}  # fmt: skip
    codes, scale_of_row, point = b.emit_many("reduce", [x], attrs, ["codes", "scale", "zero_point"])
    return codes, scale_of_row, point


def sample_codes(b: Builder, operands: Operands, x: Value) -> tuple[Value, Value]:
    """x [N, ..] in 8 bits by the greatest magnitude in each sample, and the samples' scales [N, 1, ..]: uint8 where no
    element is negative, else int8."""
    key = ("samples", x.name)
    if key not in operands.made:
        rank = len(x.type.shape)
        positive = is_nonnegative(operands, x)
        value = cast(arg(0, x.type.dtype), _F)
        steps, target = (CODES, dtypes.uint8) if positive else (CODES // 2, dtypes.int8)
        greatest = stat(0, _F)
        flat = apply("lt", greatest, const(LEAST_SPAN, _F))
        inverse = select(flat, const(0, _F), const(steps, _F) / greatest)
        limit = const(steps, _F)
        least = const(0 if positive else -steps, _F)
        held = apply("min", apply("max", apply("rint", value * inverse), least), limit)
        attrs = {
            "axes": tuple(range(1, rank)), "keepdims": True,
            "stages": (Stage("max", value if positive else apply("abs", value)),),
            "elements": (cast(cast(held, _WHOLE), target),),
            "rows": (select(flat, const(1, _F), greatest * (1 / steps)),),
        }  # fmt: skip
        operands.made[key] = b.emit_many("reduce", [x], attrs, ["codes", "scale"])
    return operands.made[key]


def is_nonnegative(operands: Operands, value: Value) -> bool:
    """Whether no element of a value can be less than 0, seen from the expressions that make it."""
    node = operands.producer(value)
    if node is None:
        return False
    if node.op in ("transpose", "reshape", "slice", "pool"):
        return is_nonnegative(operands, node.inputs[0])
    if node.op not in ("map", "matmul", "conv"):
        return False
    exprs = node.attrs["outputs" if node.op == "map" else "epilogue"]
    at = [output.name for output in node.outputs].index(value.name)
    return bool(exprs) and _not_below_zero(exprs[at])


def _not_below_zero(expr: Expr) -> bool:
    if expr.op == "cast":
        return _not_below_zero(expr.args[0])
    if expr.op == "const":
        return bool(expr.value >= 0)
    if expr.op in ("max", "min"):
        return (any if expr.op == "max" else all)(_not_below_zero(a) for a in expr.args)
    return expr.op in ("abs", "sigmoid", "exp", "sqrt")


def _code(ratio: Expr, zero: Expr) -> Expr:
    """The uint8 code of an element already divided by its scale."""
    return _byte(_held(apply("rint", ratio) + zero))


def _held(x: Expr) -> Expr:
    return apply("min", apply("max", x, const(0, _F)), const(CODES, _F))


def _byte(x: Expr) -> Expr:
    return cast(cast(x, _WHOLE), dtypes.uint8)
