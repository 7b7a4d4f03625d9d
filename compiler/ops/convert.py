"""Conversions, choices between tensors, and the identities of inference: Cast, Where, Clip, Dropout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Dim, Undecided
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, bitcast, cast, const, select
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import ANY, check_kind, common_shape, emit_map, in_float64, known_sizes, operand, widened
from compiler.ops.extents import larger, smaller
from compiler.ops.narrow import element, emit_narrow_map, encoded, exponent, is_narrow, readable
from compiler.ops.onnx_types import name_to_number, onnx_dtype
from compiler.ops.rounding import SATURATING, convert, to_exponent
from compiler.types import TensorType, ValueType


def _build_cast(b: Builder, node: Any) -> Value:
    return b.emit("cast", node.required(0), to=onnx_dtype(node.attr("to")), saturate=node.attr("saturate", 1))


def _build_cast_like(b: Builder, node: Any) -> Value:
    to = node.required(1).type.dtype
    return b.emit("cast", node.required(0), to=to, **_rounding(node))


def _rounding(node: Any) -> dict[str, Any]:
    return {"saturate": node.attr("saturate", 1), "round_mode": node.attr("round_mode", "up")}


@op(
    "cast",
    onnx=(
        OnnxRow("Cast", build=_build_cast, upgrades=((6, name_to_number),)),
        OnnxRow("CastLike", build=_build_cast_like),
    ),
    attrs={"to": REQUIRED, "saturate": 1, "round_mode": "up"},
    tracks_values=True,
    host_reason="strings never reach a kernel",
)
class Cast:
    """x in element type `to`; see rounding.convert for every out-of-range case."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(call.attrs["to"], call.tensor(0).shape)]

    def reference(x: np.ndarray, *, to: DType, saturate: int, round_mode: str) -> np.ndarray:
        if x.dtype == object and any(isinstance(size, Dim) for size in x.flat):
            return _cast_sizes(x, to)
        if to == dtypes.float8_e8m0fnu:
            return to_exponent(x, round_mode, bool(saturate))
        return convert(x, to, bool(saturate))

    def decompose(b: Builder, node: Node) -> Value | None:
        x, to = node.inputs[0], node.attrs["to"]
        source: DType = x.type.dtype
        if "string" in (source.kind, to.kind) or "complex" in (source.kind, to.kind):
            return None
        if source == to:
            return x
        known = known_sizes(b, node)
        if known is not None:
            return known
        value, saturate = element(0, source), bool(node.attrs["saturate"])
        if to == dtypes.float8_e8m0fnu:
            expr = exponent(cast(value, dtypes.float64), node.attrs["round_mode"], saturate)
        else:
            expr = saturated_cast(value, to, saturate)
        return emit_narrow_map(b, expr, to, readable(b, x), hint="cast")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        values = np.array([0.0, -0.0, 0.5, 1.5, -2.5, 127.6, -129.2, 300.0, 1e-3, 65519.0], np.float32)
        targets = (
            dtypes.float64, dtypes.float16, dtypes.bfloat16, dtypes.int64, dtypes.int32, dtypes.int8, dtypes.uint8,
            dtypes.boolean, dtypes.float8_e4m3fn, dtypes.float8_e5m2,
        )  # fmt: skip
        for to in targets:
            yield Sample((values,), {"to": to}, name=f"float32 to {to}")
        every = np.arange(256, dtype=np.uint8)
        far = np.array([448, 465, 57344, 61440, np.inf, -np.inf, np.nan, 2**-10, -(2**-17)], np.float32)
        edges = np.concatenate([values, far])
        for to in (t for t in dtypes.ALL if is_narrow(t)):
            codes = every if to.bits == 8 else every[: 1 << to.bits]
            yield Sample((codes.view(to.numpy),), {"to": dtypes.float32}, name=f"{to} to float32")
            yield Sample((codes.view(to.numpy),), {"to": dtypes.float16}, name=f"{to} to float16")
            for saturate in (0, 1):
                attrs: dict[str, Any] = {"to": to, "saturate": saturate}
                yield Sample((edges,), attrs, name=f"edges to {to} {saturate}")
                yield Sample((edges.astype(np.float16),), attrs, name=f"halves to {to} {saturate}")
        for mode in ("up", "down", "nearest"):
            attrs = {"to": dtypes.float8_e8m0fnu, "round_mode": mode}
            yield Sample((edges,), attrs, name=f"exponents {mode}")
        out_of_range = np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**63, -(2.0**63), 2.0**31], np.float64)
        for to in (dtypes.int64, dtypes.int32, dtypes.uint8, dtypes.boolean, dtypes.float32):
            yield Sample((out_of_range,), {"to": to}, name=f"special to {to}")
        integers = np.array([0, 1, -1, 127, 128, 200, 255, 256, -129, 2**31, 2**40 + 1], np.int64)
        for to in (dtypes.int8, dtypes.uint8, dtypes.int32, dtypes.boolean, dtypes.float32, dtypes.float64):
            yield Sample((integers,), {"to": to}, name=f"int64 to {to}")
        yield Sample((np.array([True, False]),), {"to": dtypes.float32}, name="bool")


def saturated_cast(x: Expr, to: DType, saturate: bool) -> Expr:
    """The expression of Cast: float8 results, given as their codes, are clipped to the format's range where asked."""
    if saturate and x.dtype.is_float and to.name in SATURATING:
        limit = float(ml_dtypes.finfo(to.numpy).max)
        x = widened(x)
        x = apply("max", apply("min", x, const(limit, x.dtype)), const(-limit, x.dtype))
    if x.dtype.is_float and to.is_integer and to.bits < 8:
        x = cast(x, dtypes.int32)  # then the low bits, as for any other integer
    if is_narrow(to):  # every other type fits float64, or is out of the format's range in it too
        return encoded(widened(x) if x.dtype.is_float else cast(x, dtypes.float64), to)
    return cast(x, to)


def _cast_sizes(x: np.ndarray, to: DType) -> np.ndarray:
    if to.kind == "bool":
        truths = [not dims.equal(size, 0) for size in x.flat]
        return np.array(truths, bool).reshape(x.shape)
    if not to.is_integer:
        raise Undecided(f"sizes cannot be followed through {to}")
    return x


@op(
    "bitcast",
    onnx=OnnxRow("BitCast", build=lambda b, node: b.emit("bitcast", node.required(0), to=onnx_dtype(node.attr("to")))),
    attrs={"to": REQUIRED},
)
class BitCast:
    """The bits of x read as element type `to` of the same width."""

    def infer(call: Call) -> list[TensorType]:
        x, to = call.tensor(0), call.attrs["to"]
        if x.dtype.bits != to.bits:
            call.dtype_error(f"{x.dtype} has {x.dtype.bits} bits, {to} has {to.bits}; use types of one width")
        return [TensorType(to, x.shape)]

    def reference(x: np.ndarray, *, to: DType) -> np.ndarray:
        return np.ascontiguousarray(x).view(to.numpy).reshape(x.shape)

    def decompose(b: Builder, node: Node) -> Value:
        x = node.inputs[0]
        return emit_map(b, bitcast(arg(0, x.type.dtype), node.attrs["to"]), x, hint="bitcast")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.standard_normal((2, 3)).astype(np.float32),), {"to": dtypes.int32})
        yield Sample((np.arange(-3, 3, dtype=np.int64),), {"to": dtypes.uint64})


@op("where", onnx="Where", tracks_values=True)
class Where:
    """x where the condition holds, else y."""

    def infer(call: Call) -> list[TensorType]:
        check_kind(call, call.tensor(0).dtype, ("bool",))
        return [TensorType(call.same_dtype(1, 2), common_shape(call))]

    def reference(condition: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(condition.astype(bool), x, y)

    def decompose(b: Builder, node: Node) -> Value | None:
        condition, x, y = node.inputs
        dtype: DType = x.type.dtype
        if dtype.kind in ("string", "complex"):
            return None
        chosen = select(arg(0, dtypes.boolean), arg(1, dtype), arg(2, dtype))
        return known_sizes(b, node) or emit_map(b, chosen, condition, x, y, hint="where")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        condition = rng.integers(0, 2, (3, 1)).astype(bool)
        for dtype in (np.float32, np.float64, np.int64, np.uint8, ml_dtypes.bfloat16):
            x, y = rng.uniform(-9, 9, (3, 5)).astype(dtype), rng.uniform(-9, 9, (5,)).astype(dtype)
            yield Sample((condition, x, y), name=np.dtype(dtype).name)


def _upgrade_clip(b: Builder, node: Any) -> Any:
    x = node.required(0)
    bounds = tuple(
        b.constant(np.array(node.attrs[key]), dtype=x.type.dtype) if key in node.attrs else None
        for key in ("min", "max")
    )
    return replace(node, inputs=(x, *bounds), attrs={})


@op("clip", onnx=OnnxRow("Clip", upgrades=((11, _upgrade_clip),)), tracks_values=True)
class Clip:
    """min(max(x, low), high); either bound may be missing; a NaN in x stays."""

    def infer(call: Call) -> list[TensorType]:
        return [TensorType(call.same_dtype(*range(len(call.inputs))), common_shape(call))]

    def reference(x: np.ndarray, low: np.ndarray | None = None, high: np.ndarray | None = None) -> np.ndarray:
        sizes = any(a is not None and a.dtype == object for a in (x, low, high))
        below, above = (np.frompyfunc(larger, 2, 1), np.frompyfunc(smaller, 2, 1)) if sizes else (
            np.maximum, np.minimum)  # fmt: skip
        x = x if low is None else below(x, low)
        return np.asarray(x if high is None else above(x, high))

    def decompose(b: Builder, node: Node) -> Value:
        given = [v for v in node.inputs if v is not None]
        result = operand(0, given[0])
        for number, value in enumerate(node.inputs[1:], start=1):
            if value is not None:
                bound = operand(given.index(value, 1), value)
                result = apply("max" if number == 1 else "min", result, bound)
        return known_sizes(b, node) or emit_map(b, cast(result, node.output.type.dtype), *given, hint="clip")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.uniform(-3, 3, (4, 5))
        for dtype in (np.float32, np.float64, np.int32, np.float16):
            low, high = np.array(-1, dtype), np.array(2, dtype)
            yield Sample((x.astype(dtype), low, high), name=np.dtype(dtype).name)
        yield Sample((x, None, np.array(0.5)), name="no minimum")
        yield Sample((x, np.array(0.5)), name="no maximum")
        yield Sample((np.array([np.nan, 5.0]), np.array(2.0), np.array(1.0)), name="crossed")


@op("identity", onnx="Identity", tracks_values=True)
class Identity:
    """The operand itself, of any type."""

    def infer(call: Call) -> list[ValueType]:
        return [call.inputs[0]]  # type: ignore[list-item]

    def reference(x: Any) -> Any:
        return x

    def decompose(b: Builder, node: Node) -> Value | None:
        return node.inputs[0]

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.standard_normal((2, 3)).astype(np.float32),))


def _upgrade_dropout(b: Builder, node: Any) -> Any:
    ratio = b.constant(np.array(node.attr("ratio", 0.5), np.float32))
    return replace(node, inputs=(node.required(0), ratio), attrs={})


@op(
    "dropout",
    onnx=OnnxRow("Dropout", {"seed": None}, upgrades=((12, _upgrade_dropout),)),
    attrs={"seed": None},
    host_reason="training mode draws random numbers",
)
class Dropout:
    """The identity at inference, with a mask of true; with operand 2 true it drops elements at the ratio given."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        return [x, TensorType(dtypes.boolean, x.shape)]

    def reference(
        x: np.ndarray, ratio: np.ndarray | None = None, training: np.ndarray | None = None, *, seed: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        share = 0.5 if ratio is None else float(ratio)
        if training is None or not bool(training) or share == 0:
            return x, np.ones(x.shape, bool)
        mask = np.random.RandomState(seed).uniform(0, 1, x.shape) >= share  # the draw onnx.reference makes
        return in_float64(lambda v: v * mask / (1 - share), (x,), {}, x.dtype), mask

    def decompose(b: Builder, node: Node) -> tuple[Value, Value | None] | None:
        training = node.inputs[2] if len(node.inputs) > 2 else None
        known = b.contents(training)
        if training is not None and (known is None or bool(known)):
            return None
        x = node.inputs[0]
        if len(node.outputs) < 2 or not node.outputs[1].name:
            return x, None
        return x, _all_true(b, x)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        yield Sample((rng.standard_normal((2, 3)).astype(np.float32), np.array(0.3, np.float32)))


def _all_true(b: Builder, x: Value) -> Value:
    return b.emit("map", hint="mask", outputs=(const(True, dtypes.boolean),), shape=x.type.shape)


@op("is_inf", onnx="IsInf", attrs={"detect_negative": 1, "detect_positive": 1})
class IsInf:
    """Which elements are infinite, of the signs asked for."""

    def infer(call: Call) -> list[TensorType]:
        check_kind(call, call.tensor(0).dtype, ANY)
        return [TensorType(dtypes.boolean, call.tensor(0).shape)]

    def reference(x: np.ndarray, *, detect_negative: int, detect_positive: int) -> np.ndarray:
        values = x.astype(np.float64)
        return (bool(detect_negative) & (values == -np.inf)) | (bool(detect_positive) & (values == np.inf))

    def decompose(b: Builder, node: Node) -> Value:
        x = operand(0, node.inputs[0])
        found = const(False, dtypes.boolean)
        for key, bound in (("detect_negative", -np.inf), ("detect_positive", np.inf)):
            if node.attrs[key] and x.dtype.is_float:
                found = apply("or", found, apply("eq", x, const(bound, x.dtype)))
        return emit_map(b, found, node.inputs[0], hint="is_inf")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = np.array([1.0, np.inf, -np.inf, np.nan])
        for dtype in (np.float32, np.float64, np.float16):
            for flags in ((1, 1), (0, 1), (1, 0), (0, 0)):
                yield Sample((x.astype(dtype),), dict(zip(("detect_negative", "detect_positive"), flags, strict=True)))
