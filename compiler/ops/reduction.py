"""ONNX reductions along axes, and ArgMax/ArgMin: each becomes one core `reduce`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, extent, index, select, stat, substitute
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import Call, OnnxRow, Op, Sample, op, register
from compiler.ops.core_compute import identity
from compiler.ops.elementwise import BOOL, NUMBER, check_kind, emit_map, in_float64, operand, wide
from compiler.ops.onnx_types import attribute_to_input
from compiler.ops.shape import vector_length
from compiler.types import TensorType

Program = tuple[tuple[Stage, ...], Expr]


@dataclass(frozen=True)
class Reduction:
    """program: the element, in the type to compute in -> stages and the row's result. numpy: array, axes -> result
    with dimensions kept. real: integers are computed in float64, then truncated."""

    name: str
    onnx: str
    program: Callable[[Expr], Program]
    numpy: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]
    since: int
    kinds: Sequence[str] = NUMBER
    real: bool = False
    domain: tuple[float, float] = (-2.0, 2.0)


def one_stage(fn: str, element: Callable[[Expr], Expr] = lambda x: x) -> Callable[[Expr], Program]:
    """The program of a single pass whose statistic is the result."""
    return lambda x: ((Stage(fn, element(x)),), stat(0, x.dtype))


def then(finish: Callable[[Expr], Expr], program: Callable[[Expr], Program]) -> Callable[[Expr], Program]:
    """A program followed by a function of its result."""

    def build(x: Expr) -> Program:
        stages, result = program(x)
        return stages, finish(result)

    return build


def square(x: Expr) -> Expr:
    """x * x."""
    return x * x


def _extreme(fn: str, logical: str) -> Callable[[Expr], Program]:
    return lambda x: one_stage(logical if x.dtype == dtypes.boolean else fn)(x)


def log_sum_exp(x: Expr) -> Program:
    """log(sum(exp(x))) shifted by the row's maximum, where that is finite."""
    top = stat(0, x.dtype)
    finite = apply("lt", apply("abs", top), const(np.inf, x.dtype))
    shift = select(finite, top, const(0, x.dtype))
    stages = (Stage("max", x), Stage("sum", apply("exp", x - shift)))
    return stages, apply("log", stat(1, x.dtype)) + shift


def _log_sum_exp(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    top = np.max(x, axis=axes, keepdims=True, initial=-np.inf)
    shift = np.where(np.isfinite(top), top, 0)
    return np.log(np.sum(np.exp(x - shift), axis=axes, keepdims=True)) + shift


def _extreme_array(fn: str) -> Callable[[np.ndarray, tuple[int, ...]], np.ndarray]:
    run = np.max if fn == "max" else np.min
    return lambda x, axes: run(x, axis=axes, keepdims=True, initial=identity(fn, x.dtype))


def _mean(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    total = np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)
    count = int(np.prod([x.shape[a] for a in axes], dtype=np.int64))
    return total / count if x.dtype.kind == "f" else np.trunc(total / max(count, 1)).astype(x.dtype)


def _sum(x: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)


TABLE = (
    Reduction("reduce_sum", "ReduceSum", one_stage("sum"), _sum, 13),
    Reduction(
        "reduce_mean", "ReduceMean", lambda x: ((Stage("sum", x),), stat(0, x.dtype) / extent(x.dtype)), _mean, 18
    ),
    Reduction(
        "reduce_prod", "ReduceProd", one_stage("prod"),
        lambda x, axes: np.prod(x, axis=axes, keepdims=True, dtype=x.dtype), 18,
    ),
    Reduction("reduce_max", "ReduceMax", _extreme("max", "any"), _extreme_array("max"), 18, (*NUMBER, *BOOL)),
    Reduction("reduce_min", "ReduceMin", _extreme("min", "all"), _extreme_array("min"), 18, (*NUMBER, *BOOL)),
    Reduction(
        "reduce_l1", "ReduceL1", one_stage("sum", lambda x: x if x.dtype.kind == "uint" else apply("abs", x)),
        lambda x, axes: _sum(np.abs(x), axes), 18,
    ),
    Reduction(
        "reduce_l2", "ReduceL2", then(lambda s: apply("sqrt", s), one_stage("sum", square)),
        lambda x, axes: np.sqrt(_sum(x * x, axes)), 18, real=True,
    ),
    Reduction(
        "reduce_log_sum", "ReduceLogSum", then(lambda s: apply("log", s), one_stage("sum")),
        lambda x, axes: np.log(_sum(x, axes)), 18, real=True, domain=(0.1, 2.0),
    ),
    Reduction("reduce_log_sum_exp", "ReduceLogSumExp", log_sum_exp, _log_sum_exp, 18, real=True),
    Reduction(
        "reduce_sum_square", "ReduceSumSquare", one_stage("sum", square), lambda x, axes: _sum(x * x, axes), 18
    ),
)  # fmt: skip

ATTRS = {"keepdims": 1, "noop_with_empty_axes": 0}


def chosen_axes(axes: np.ndarray | None, rank: int, noop: int) -> tuple[int, ...]:
    """The axes to reduce, ascending: all of them where none are named, unless `noop`."""
    if axes is None or axes.size == 0:
        return () if noop else tuple(range(rank))
    return tuple(sorted({int(a) % rank for a in axes.reshape(-1)})) if rank else ()


def reduced_shape(call: Call, keepdims: int, noop: int) -> tuple[Size, ...] | None:
    """The result's shape for operand 0 reduced along the axes in operand 1."""
    shape, axes = call.tensor(0).shape, call.value(1)
    if shape is None:
        return None
    if call.optional(1) is not None and axes is None:
        if keepdims:
            return tuple(call.fresh() for _ in shape)
        count = vector_length(call, 1)
        return None if not count else tuple(call.fresh() for _ in range(len(shape) - count))
    for axis in () if axes is None else axes.reshape(-1):
        call.axis(int(axis), len(shape))
    gone = chosen_axes(axes, len(shape), noop)
    return tuple(1 if a in gone else n for a, n in enumerate(shape) if keepdims or a not in gone)


def emit_reduce(b: Builder, x: Value, axes: tuple[int, ...], keepdims: Any, program: Program, hint: str) -> Value:
    """One core reduce with one row result; over no axes, the map it comes down to."""
    stages, result = program
    if axes:
        return b.emit("reduce", x, hint=hint, axes=axes, keepdims=bool(keepdims), stages=stages, rows=(result,))
    finished: dict[Expr, Expr] = {extent(d): const(1, d) for d in (dtypes.float32, dtypes.float64, result.dtype)}
    for i, stage in enumerate(stages):
        finished[stat(i, stage.expr.dtype)] = substitute(stage.expr, finished)
    return emit_map(b, substitute(result, finished), x, hint=hint)


def _computing_type(row: Reduction, dtype: DType) -> DType:
    return dtypes.float64 if row.real and dtype.is_integer else wide(dtype)


def declare(row: Reduction) -> Op:
    """Register the op of a row."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.tensor(0).dtype
        check_kind(call, dtype, row.kinds)
        return [TensorType(dtype, reduced_shape(call, call.attrs["keepdims"], call.attrs["noop_with_empty_axes"]))]

    def reference(
        x: np.ndarray, axes: np.ndarray | None = None, *, keepdims: int, noop_with_empty_axes: int
    ) -> np.ndarray:
        gone = chosen_axes(axes, x.ndim, noop_with_empty_axes)
        exact = x.astype(np.float64) if row.real and x.dtype.kind in "iu" else x
        result = in_float64(lambda a: row.numpy(a, gone), (exact,), {}, x.dtype)
        return np.asarray(result if keepdims else result.squeeze(gone))

    def decompose(b: Builder, node: Node) -> Value | None:
        x, axes = (*node.inputs, None)[:2]
        known = b.contents(axes)
        if x.type.shape is None or (axes is not None and known is None):
            return None
        dtype: DType = x.type.dtype
        stages, result = row.program(cast(arg(0, dtype), _computing_type(row, dtype)))
        gone = chosen_axes(known, len(x.type.shape), node.attrs["noop_with_empty_axes"])
        return emit_reduce(b, x, gone, node.attrs["keepdims"], (stages, cast(result, dtype)), row.name)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for name in ("float32", "float64", "float16", "bfloat16", "int32"):
            drawn: Any = rng.uniform(*row.domain, (3, 5, 4)) if name != "int32" else rng.integers(1, 5, (3, 5, 4))
            yield Sample((drawn.astype(dtypes.named(name).numpy), np.array([1])), tolerance=8, name=name)
        x = rng.uniform(*row.domain, (3, 5, 4)).astype(np.float32)
        yield Sample((x,), tolerance=16, name="all")
        yield Sample((x, np.array([-1, 0])), {"keepdims": 0}, 16, "two axes")
        yield Sample((x, np.array([], np.int64)), {"noop_with_empty_axes": 1}, 4, "none")
        yield Sample((np.zeros((2, 0), np.float32), np.array([0])), tolerance=2, name="no rows")
        if "bool" in row.kinds:
            yield Sample((rng.integers(0, 2, (4, 3)).astype(bool), np.array([0])), name="bool")

    return register(
        Op(
            name=row.name,
            infer=infer,
            reference=reference,
            decompose=decompose,
            samples=samples,
            onnx=(OnnxRow(row.onnx, ATTRS, upgrades=((row.since, attribute_to_input("axes", 1)),)),),
            attrs=ATTRS,
            value_operands=(1,),
            host_reason="the axes are computed in the graph",
        )
    )


for _row in TABLE:
    declare(_row)


def _declare_position(name: str, onnx: str, fn: str) -> None:
    attrs = {"axis": 0, "keepdims": 1, "select_last_index": 0}

    @op(name, onnx=onnx, attrs=attrs)
    class Position:
        """Where a row has its extreme: the first place, or the last; a NaN counts as the extreme."""

        def infer(call: Call) -> list[TensorType]:
            x = call.tensor(0)
            if x.shape is None:
                return [TensorType(dtypes.int64, None)]
            axis = call.axis(call.attrs["axis"], len(x.shape))
            shape = tuple(1 if a == axis else n for a, n in enumerate(x.shape) if call.attrs["keepdims"] or a != axis)
            return [TensorType(dtypes.int64, shape)]

        def reference(x: np.ndarray, *, axis: int, keepdims: int, select_last_index: int) -> np.ndarray:
            values = x.astype(np.float64) if dtypes.from_numpy(x.dtype).is_float else x
            values = np.flip(values, axis) if select_last_index else values
            found = (np.argmax if fn == "argmax" else np.argmin)(values, axis=axis, keepdims=bool(keepdims))
            return x.shape[axis] - 1 - found if select_last_index else found

        def decompose(b: Builder, node: Node) -> Value:
            x = node.inputs[0]
            axis, value = node.attrs["axis"] % len(x.type.shape), operand(0, x)
            if node.attrs["select_last_index"]:
                matches = apply("eq", value, stat(0, value.dtype))
                if value.dtype.is_float:
                    matches = apply("or", matches, apply("ne", value, value))
                place = select(matches, index(axis), const(-1, dtypes.int64))
                program: Program = (Stage(fn[3:], value), Stage("max", place)), stat(1, dtypes.int64)
            else:
                program = (Stage(fn, value),), stat(0, dtypes.int64)
            return emit_reduce(b, x, (axis,), node.attrs["keepdims"], program, name)

        def samples(rng: np.random.Generator) -> Iterator[Sample]:
            x = rng.integers(0, 3, (4, 9, 2))
            for dtype in (np.float32, np.float64, np.int32, np.uint8):
                yield Sample((x.astype(dtype),), {"axis": 1}, name=np.dtype(dtype).name)
            yield Sample((x.astype(np.float32),), {"axis": -2, "select_last_index": 1, "keepdims": 0}, name="last")
            odd = np.array([[1, np.nan, 3, np.nan], [5, 5, -np.inf, -np.inf]], np.float32)
            yield Sample((odd,), {"axis": 1}, name="special")


_declare_position("arg_max", "ArgMax", "argmax")
_declare_position("arg_min", "ArgMin", "argmin")
