"""Ensembles of decision trees: all trees of all rows take one step down at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.errors import ModelError
from compiler.expr import Expr, apply, arg, cast, const, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.elementwise import check_kind, emit_map
from compiler.ops.shape import known_shape
from compiler.types import TensorType

COMPARISONS = ("le", "lt", "ge", "gt", "eq", "ne")
_COMPARE = {"le": np.less_equal, "lt": np.less, "ge": np.greater_equal, "gt": np.greater, "eq": np.equal,
            "ne": np.not_equal}  # fmt: skip
AGGREGATES = ("sum", "average", "min", "max")


@dataclass(frozen=True, eq=False)
class Trees:
    """The nodes of all trees, numbered together. A node compares feature[i] with threshold[i] (comparison: number in
    COMPARISONS; a NaN holds where missing[i] says so) and goes on to children[i, 0] where that holds, to children[i, 1]
    else; a leaf's children are itself. values [nodes, targets]: what a leaf says; NaN where nothing of a target. roots:
    one node a tree. depth: steps from a root to the furthest leaf."""

    feature: np.ndarray
    comparison: np.ndarray
    threshold: np.ndarray
    missing: np.ndarray
    children: np.ndarray
    values: np.ndarray
    roots: np.ndarray
    depth: int


def depth_of(children: np.ndarray, roots: np.ndarray, place: str) -> int:
    """Steps from the roots to the furthest leaf. Raises ModelError where a node is its own descendant."""
    reached, depth = np.unique(roots), 0
    while True:
        below = children[reached]
        inner = reached[(below != reached[:, None]).any(axis=1)]
        if not inner.size:
            return depth
        reached, depth = np.unique(children[inner]), depth + 1
        if depth > len(children):
            raise ModelError(f"{place}: a tree's node is its own descendant; expected trees: export the model again")


@op("tree_ensemble", attrs={"trees": REQUIRED, "aggregate": "sum"})
class TreeEnsemble:
    """x [N, F] -> [N, targets]: the sum, average, minimum or maximum over the trees of what each row's leaves say."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        check_kind(call, x.dtype, ("float",))
        if x.shape is None or len(x.shape) != 2:
            call.shape_error(f"found {x}; expected a matrix, one row of features a sample")
        return [TensorType(x.dtype, (x.shape[0], call.attrs["trees"].values.shape[1]))]

    def reference(x: np.ndarray, *, trees: Trees, aggregate: str) -> np.ndarray:
        place = np.tile(trees.roots, (len(x), 1))
        rows = np.arange(len(x))[:, None]
        for _ in range(trees.depth):
            value = x[rows, trees.feature[place]]
            threshold = trees.threshold.astype(x.dtype)[place]
            results = np.stack([_COMPARE[name](value, threshold) for name in COMPARISONS])
            holds = np.take_along_axis(results, trees.comparison[place][None], 0)[0]
            holds = np.where(np.isnan(value), trees.missing[place], holds)
            place = trees.children[place, np.where(holds, 0, 1)]
        found = np.where(np.isnan(trees.values), neutral(aggregate, x.dtype), trees.values)[place]
        if aggregate in ("min", "max"):
            return (np.min if aggregate == "min" else np.max)(found, axis=1).astype(x.dtype)
        total = found.sum(axis=1)
        return (total / len(trees.roots) if aggregate == "average" else total).astype(x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        (x,) = node.inputs
        trees: Trees = node.attrs["trees"]
        rows, dtype = known_shape(x)[0], x.type.dtype
        place = b.emit("expand", b.constant(trees.roots), b.sizes((rows, len(trees.roots))))
        children = b.constant(trees.children.reshape(-1), "children")
        for _ in range(trees.depth):
            value = b.emit("gather_elements", x, _column(b, trees.feature, place), axis=1)
            operands = [value, _column(b, trees.threshold.astype(dtype.numpy), place)]
            holds = _comparison(b, trees, place, operands)
            step = arg(len(operands), dtypes.int64) * 2
            branch = select(holds, step, step + 1)
            place = b.emit("take", children, emit_map(b, branch, *operands, place, hint="branch"), axis=0)
        return _aggregated(b, trees, place, x, node.attrs["aggregate"])

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for aggregate in AGGREGATES:
            for targets in (1, 3):
                trees = _random_trees(rng, 5, 4, targets)
                x = rng.integers(-3, 4, (7, 3)).astype(np.float32) / 2
                x[0, 0] = np.nan
                attrs = {"trees": trees, "aggregate": aggregate}
                yield Sample((x,), attrs, 4, f"{aggregate} {targets}")
        only = Trees(*(np.zeros(1, np.int64),) * 2, np.zeros(1), np.zeros(1, bool), np.zeros((1, 2), np.int64),
                     np.full((1, 1), 2.5), np.zeros(1, np.int64), 0)  # fmt: skip
        yield Sample((np.ones((3, 2)),), {"trees": only}, name="one leaf")


def neutral(aggregate: str, dtype: np.dtype) -> float:
    """What a leaf says of targets it does not name."""
    if aggregate in ("sum", "average"):
        return 0.0
    limits = np.finfo(dtype)
    return float(limits.max if aggregate == "min" else limits.min)


def _column(b: Builder, table: np.ndarray, place: Value) -> Value:
    """The table's entry for each node."""
    return b.emit("take", b.constant(np.ascontiguousarray(table)), place, axis=0)


def _comparison(b: Builder, trees: Trees, place: Value, operands: list[Value]) -> Expr:
    """Whether value (operand 0) stands as it should to the threshold (operand 1); `operands` gets more where nodes
    differ in how they compare, or in what they make of NaN."""
    inner = (trees.children != np.arange(len(trees.children))[:, None]).any(axis=1)
    value, threshold = (arg(i, operands[i].type.dtype) for i in (0, 1))
    kinds = np.unique(trees.comparison[inner])
    holds = apply(COMPARISONS[kinds[0]], value, threshold)
    if len(kinds) > 1:
        operands.append(_column(b, trees.comparison, place))
        kind = arg(len(operands) - 1, dtypes.int64)
        for other in kinds[1:]:
            compared = apply(COMPARISONS[other], value, threshold)
            holds = select(apply("eq", kind, const(int(other), dtypes.int64)), compared, holds)
    missing = np.unique(trees.missing[inner])
    if len(missing) == 1:
        return select(apply("ne", value, value), const(bool(missing[0]), dtypes.boolean), holds)
    operands.append(_column(b, trees.missing, place))
    return select(apply("ne", value, value), arg(len(operands) - 1, dtypes.boolean), holds)


def _aggregated(b: Builder, trees: Trees, place: Value, x: Value, aggregate: str) -> Value:
    """[N, targets] from the leaves [N, trees]."""
    dtype = x.type.dtype
    values = np.where(np.isnan(trees.values), neutral(aggregate, dtype.numpy), trees.values).astype(dtype.numpy)
    found = _column(b, values, place)
    stage = Stage(aggregate if aggregate in ("min", "max") else "sum", arg(0, dtype))
    row = stat(0, dtype)
    row = row / float(len(trees.roots)) if aggregate == "average" else row
    return b.emit("reduce", found, axes=(1,), keepdims=False, stages=(stage,), rows=(cast(row, dtype),))


def _random_trees(rng: np.random.Generator, count: int, depth: int, targets: int) -> Trees:
    """Trees of three features whose inner nodes compare in every way; some leaves are not at the bottom."""
    size = 2 ** (depth + 1) - 1
    nodes = np.arange(size)
    children = np.stack([2 * nodes + 1, 2 * nodes + 2], axis=1)
    leaf = (nodes >= size // 2) | ((nodes > 2) & (rng.uniform(size=size) < 0.2))
    every = np.concatenate([np.where(leaf[:, None], nodes[:, None], children) + i * size for i in range(count)])
    total = size * count
    values = rng.standard_normal((total, targets)).astype(np.float32).astype(np.float64)
    values[:, 1:][rng.uniform(size=(total, targets - 1)) < 0.3] = np.nan
    roots = np.arange(count) * size
    return Trees(
        feature=rng.integers(0, 3, total),
        comparison=rng.integers(0, len(COMPARISONS), total),
        threshold=rng.integers(-3, 4, total) / 2,
        missing=rng.integers(0, 2, total).astype(bool),
        children=every,
        values=values,
        roots=roots,
        depth=depth_of(every, roots, "sample"),
    )
