"""How elementwise ops are declared: a `Row` of a table becomes an op whose only lowering is a core `map`.

Floats narrower than 32 bits are computed in float32 and rounded once, in expressions (`wide`); the NumPy reference
computes every float in float64 and rounds once (`in_float64`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder, evaluate
from compiler.dtypes import DType
from compiler.expr import Expr, arg, cast
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Op, Sample, lookup, register
from compiler.ops.rounding import round_to
from compiler.types import TensorType

FLOAT, NUMBER, SIGNED, INTEGER, BOOL, ANY = (
    ("float",),
    ("float", "int", "uint"),
    ("float", "int"),
    ("int", "uint"),
    ("bool",),
    ("float", "int", "uint", "bool"),
)
_SAMPLE_DTYPES: Mapping[str, tuple[DType, ...]] = {
    "float": (dtypes.float32, dtypes.float64, dtypes.float16, dtypes.bfloat16),
    "int": (dtypes.int64, dtypes.int32, dtypes.int8),
    "uint": (dtypes.uint8, dtypes.uint64),
    "bool": (dtypes.boolean,),
}
_SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-40, 3e38, -3e38, 88.0, -104.0)


def f32(value: float) -> float:
    """`value` rounded to float32, as the defaults of ONNX attributes are."""
    return float(np.float32(value))


def wide(dtype: DType) -> DType:
    """The float type expressions on `dtype` compute in: float32 for narrower floats, else `dtype` itself."""
    return dtypes.float32 if dtype.is_float and dtype.bits < 32 else dtype


def widened(x: Expr) -> Expr:
    """`x` in the type to compute in."""
    return cast(x, wide(x.dtype))


def operand(number: int, value: Value | None) -> Expr:
    """Operand `number` of a map over tensor `value`, in the type to compute in."""
    assert value is not None and isinstance(value.type, TensorType)
    return widened(arg(number, value.type.dtype))


def emit_map(b: Builder, expr: Expr, *values: Value | None, hint: str = "map") -> Value:
    """One elementwise node; `expr` numbers its arguments as `values`."""
    return b.emit("map", *values, hint=hint, outputs=(expr,), shape=None)


def known_sizes(b: Builder, node: Node) -> Value | None:
    """The int64 result of a node whose operands are known sizes, so that what reads it still knows them."""
    result = evaluate(lookup(node.op), node, [b.contents(v) for v in node.inputs])
    if result is None or node.output.type.dtype != dtypes.int64 or result[0].dtype != object:
        return None
    contents = result[0]
    return b.emit("reshape", b.sizes(list(contents.flat)), b.sizes(contents.shape), hint=node.op)


def in_float64(fn: Callable[..., Any], arrays: Sequence[np.ndarray], attrs: Mapping[str, Any], dtype: Any) -> Any:
    """fn on the arrays with floats widened to float64; a float result is rounded once to `dtype`."""
    widened = [a.astype(np.float64) if dtypes.from_numpy(a.dtype).is_float else a for a in arrays]
    with np.errstate(all="ignore"):
        result = np.asarray(fn(*widened, **attrs))
    if result.dtype == dtype or result.dtype == bool:
        return result
    return round_to(result, dtype) if result.dtype == np.float64 else result.astype(dtype)


def common_shape(call: Call) -> tuple[Any, ...] | None:
    """The broadcast of all operands' shapes; None where one has no known rank."""
    shapes = [call.tensor(i).shape for i in range(len(call.inputs)) if call.inputs[i] is not None]
    return None if any(shape is None for shape in shapes) else call.broadcast(*shapes)  # type: ignore[arg-type]


def check_kind(call: Call, dtype: DType, kinds: Sequence[str]) -> None:
    """Raise DtypeError unless the element type is of one of `kinds`."""
    if dtype.kind not in kinds:
        call.dtype_error(f"element type {dtype} is not supported; expected {', '.join(kinds)}; insert a cast")


@dataclass(frozen=True)
class Row:
    """One elementwise op.

    expr: operands' expressions (already wide) and attributes -> result, of the operands' type or bool.
    numpy: the same on arrays; floats come as float64. sizes: the same on object arrays of `int | Dim`, where it
    differs from `numpy`; only for ops with `tracks`. kinds: element kinds allowed. arity: operand count, 0 for any
    number from one. domain: range of float samples. ulp: tolerance of the samples.
    """

    name: str
    expr: Callable[..., Expr]
    numpy: Callable[..., Any]
    kinds: Sequence[str] = FLOAT
    onnx: str = ""
    arity: int = 1
    result: str = "same"
    attrs: Mapping[str, Any] = field(default_factory=dict)
    tracks: bool = False
    sizes: Callable[..., Any] | None = None
    domain: tuple[float, float] = (-4.0, 4.0)
    ulp: float = 0.0
    special: bool = True
    doc: str = ""
    upgrades: tuple[tuple[int, Callable[..., Any]], ...] = ()


def declare(row: Row) -> Op:
    """Register the op of a row."""

    def infer(call: Call) -> list[TensorType]:
        if row.arity and len(call.inputs) != row.arity:
            call.shape_error(f"found {len(call.inputs)} operands, expected {row.arity}")
        dtype = call.same_dtype(*range(len(call.inputs)))
        check_kind(call, dtype, row.kinds)
        return [TensorType(dtypes.boolean if row.result == "bool" else dtype, common_shape(call))]

    def reference(*arrays: np.ndarray, **attrs: Any) -> np.ndarray:
        arrays = tuple(np.asarray(a) for a in arrays)
        if any(a.dtype == object for a in arrays):
            result = np.asarray((row.sizes or row.numpy)(*arrays, **attrs))
            return result.astype(bool) if row.result == "bool" else result
        return in_float64(row.numpy, arrays, attrs, arrays[0].dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        dtype = node.inputs[0].type.dtype
        if dtype.kind == "string":
            return None
        known = known_sizes(b, node) if row.tracks else None
        if known is not None:
            return known
        result = row.expr(*(operand(i, v) for i, v in enumerate(node.inputs)), **node.attrs)
        return emit_map(b, result if row.result == "bool" else cast(result, dtype), *node.inputs, hint=row.name)

    return register(
        Op(
            name=row.name,
            infer=infer,
            reference=reference,
            decompose=decompose,
            samples=lambda rng: row_samples(row, rng),
            onnx=(OnnxRow(row.onnx, row.attrs, upgrades=row.upgrades),) if row.onnx else (),
            attrs=row.attrs,
            tracks_values=row.tracks,
            host_reason="strings never reach a kernel" if "string" in row.kinds else "",
            doc=row.doc,
        )
    )


def declare_all(rows: Iterable[Row]) -> None:
    """Register a table."""
    for row in rows:
        declare(row)


def sample_array(rng: np.random.Generator, dtype: DType, shape: tuple[int, ...], domain: tuple[float, float]) -> Any:
    """Random contents: floats uniform in `domain`, small integers with zero and both signs, booleans."""
    if dtype.kind == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.is_integer:
        return rng.integers(0 if dtype.kind == "uint" else -9, 10, shape).astype(dtype.numpy)
    return rng.uniform(*domain, shape).astype(dtype.numpy)


def row_samples(row: Row, rng: np.random.Generator) -> Iterator[Sample]:
    """Each element type once, broadcasting, an empty and a 0-d tensor, and special float values."""
    count = row.arity or 3
    shapes = ((2, 1, 5), (3, 1), (2, 3, 5))[:count] if count > 1 else ((3, 7),)
    for kind in row.kinds:
        for dtype in _SAMPLE_DTYPES.get(kind, ()):
            arrays = tuple(sample_array(rng, dtype, shape, row.domain) for shape in shapes)
            yield Sample(arrays, row.attrs, row.ulp, str(dtype))
    dtype = _SAMPLE_DTYPES[row.kinds[0]][0]
    for shape, name in (((0, 3), "empty"), ((), "scalar")):
        yield Sample(tuple(sample_array(rng, dtype, shape, row.domain) for _ in range(count)), row.attrs, row.ulp, name)
    if row.special and "float" in row.kinds:
        values = np.array(_SPECIAL, np.float32)
        grid = np.meshgrid(*(values,) * min(count, 2)) if count > 1 else [values]
        yield Sample(tuple(grid[i % len(grid)] for i in range(count)), row.attrs, row.ulp, "special")
