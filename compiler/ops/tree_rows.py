"""TreeEnsemble, TreeEnsembleRegressor and TreeEnsembleClassifier as `tree_ensemble`: how they write trees down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.errors import ModelError
from compiler.expr import arg
from compiler.ir import Value
from compiler.op import OnnxRow
from compiler.ops.elementwise import emit_map
from compiler.ops.ml_features import ML, in_float
from compiler.ops.ml_linear import POST_TRANSFORMS, as_float32, labels_of, transformed, two_classes
from compiler.ops.onnx_types import onnx_row
from compiler.ops.shape import known_shape
from compiler.ops.tree_ensemble import AGGREGATES, COMPARISONS, Trees, depth_of

_MODES = {f"BRANCH_{name}": i for i, name in enumerate(("LEQ", "LT", "GTE", "GT", "EQ", "NEQ"))}
_MEMBER = 6  # the mode of TreeEnsemble's nodes that ask for a member of a set; those below number COMPARISONS
_POST_NUMBERS = {0: "NONE", 1: "SOFTMAX", 2: "LOGISTIC"}


def _list(node: Any, name: str) -> np.ndarray | None:
    """An attribute as an array: a list of floats, or the tensor that may stand for it."""
    found = node.attr(name) if node.attr(name) is not None else node.attr(f"{name}_as_tensor")
    return None if found is None else np.asarray(found).reshape(-1)


def _named_trees(node: Any, what: str, targets: int, aggregate: str, place: str) -> Trees:
    """Trees whose nodes are named (tree, node) and whose leaves are listed apart (`what`: target or class)."""
    names = list(zip(node.attrs["nodes_treeids"], node.attrs["nodes_nodeids"], strict=True))
    number = {name: i for i, name in reversed(list(enumerate(names)))}
    children = []
    for i, (tree, _) in enumerate(names):
        if node.attrs["nodes_modes"][i] == "LEAF":
            children.append((i, i))
            continue
        pair = [(tree, node.attrs[f"nodes_{side}nodeids"][i]) for side in ("true", "false")]
        if any(child not in number for child in pair):
            raise ModelError(f"{place}: node {names[i]} leads to {pair}, not all of them nodes: export the model again")
        children.append((number[pair[0]], number[pair[1]]))
    values = np.full((len(names), targets), np.nan)
    weights = _list(node, f"{what}_weights")
    leaves = zip(node.attrs[f"{what}_treeids"], node.attrs[f"{what}_nodeids"], strict=True)
    for name, target, weight in zip(leaves, node.attrs[f"{what}_ids"], weights, strict=True):  # type: ignore[arg-type]
        held = values[number[name], target]
        combine = {"min": min, "max": max}.get(aggregate, lambda x, y: x + y)
        values[number[name], target] = weight if np.isnan(held) else combine(held, weight)
    first: dict[int, int] = {}
    for i, (tree, _) in enumerate(names):
        first.setdefault(tree, i)
    missing = node.attr("nodes_missing_value_tracks_true") or (0,) * len(names)
    table = np.array(children, np.int64)
    roots = np.array([first[tree] for tree in sorted(first)], np.int64)
    return Trees(
        feature=np.array(node.attrs["nodes_featureids"], np.int64),
        comparison=np.array([_MODES.get(mode, 0) for mode in node.attrs["nodes_modes"]], np.int64),
        threshold=np.asarray(_list(node, "nodes_values"), np.float64),
        missing=np.array(missing, bool),
        children=table,
        values=values,
        roots=roots,
        depth=depth_of(table, roots, place),
    )


def _shifted(b: Builder, scores: Value, node: Any) -> Value:
    """Scores plus the base values."""
    base = _list(node, "base_values")
    if base is None or not base.size:
        return scores
    dtype = scores.type.dtype
    return emit_map(b, arg(0, dtype) + arg(1, dtype), scores, b.constant(base.astype(dtype.numpy), "base"))


def _matrix(b: Builder, node: Any) -> Value:
    """The features [N, F] as floats; a vector is one row."""
    x = in_float(b, node.required(0))
    return x if len(known_shape(x)) != 1 else b.emit("reshape", x, b.sizes((1, *known_shape(x))))


def _regressor(b: Builder, node: Any) -> Any:
    aggregate, post = node.attrs["aggregate_function"].lower(), node.attrs["post_transform"]
    if post not in POST_TRANSFORMS:
        return NotImplemented
    trees = _named_trees(node, "target", node.attr("n_targets", 1), aggregate, b.place)
    scores = b.emit("tree_ensemble", _matrix(b, node), trees=trees, aggregate=aggregate)
    return as_float32(b, transformed(b, _shifted(b, scores, node), post))


def _classifier(b: Builder, node: Any) -> Any:
    labels, post = tuple(node.attr("classlabels_int64s") or ()), node.attrs["post_transform"]
    if len(labels) < 2 or post not in POST_TRANSFORMS:
        return NotImplemented  # labels that are strings
    ids = set(node.attrs["class_ids"])
    binary = len(ids) == 1
    if binary and len(labels) != 2:
        return NotImplemented
    trees = _named_trees(node, "class", max(len(labels), max(ids) + 1), "sum", b.place)
    if binary:
        trees = replace(trees, values=trees.values[:, [min(ids)]])
    scores = _shifted(b, b.emit("tree_ensemble", _matrix(b, node), trees=trees), node)
    if binary:
        scores = two_classes(b, scores, complement=post == "NONE")
    scores = transformed(b, scores, post)
    return labels_of(b, scores, labels), as_float32(b, scores)


def _ensemble(b: Builder, node: Any) -> Any:
    post = _POST_NUMBERS.get(node.attr("post_transform", 0))
    if post is None:
        return NotImplemented
    attrs = dict(node.attrs)
    modes = np.asarray(attrs["nodes_modes"]).reshape(-1)
    missing = attrs.get("nodes_missing_value_tracks_true") or (0,) * len(modes)
    chain = _Chain(modes, np.asarray(attrs["nodes_splits"]).reshape(-1), _sets(attrs), np.array(missing, bool))
    inner, leaves = len(modes), len(attrs["leaf_targetids"])
    sides = [(attrs[f"nodes_{side}nodeids"], attrs[f"nodes_{side}leafs"]) for side in ("true", "false")]
    children = np.stack([np.array(ids) + inner * np.array(leaf, bool) for ids, leaf in sides], axis=1)
    weights = np.asarray(attrs["leaf_weights"]).reshape(-1)
    values = np.full((inner + leaves, attrs.get("n_targets", 1)), np.nan)
    values[inner + np.arange(leaves), attrs["leaf_targetids"]] = weights
    trees = chain.trees(attrs["nodes_featureids"], children, values, np.array(attrs["tree_roots"], np.int64), b.place)
    x = _matrix(b, node)
    aggregate = ("average", "sum", "min", "max")[attrs.get("aggregate_function", 1)]
    assert aggregate in AGGREGATES
    scores = transformed(b, b.emit("tree_ensemble", x, trees=trees, aggregate=aggregate), post)
    return in_float(b, scores, node.required(0).type.dtype)


def _sets(attrs: dict[str, Any]) -> list[list[float]]:
    """The members of each set, which a NaN ends."""
    sets: list[list[float]] = [[]]
    for member in np.asarray(attrs.get("membership_values", ())).reshape(-1):
        if np.isnan(member):
            sets.append([])
        else:
            sets[-1].append(float(member))
    return sets


class _Chain:
    """Nodes that compare with one number each: one that asks for a member of a set becomes a node a member, the next
    asked where one does not fit."""

    def __init__(
        self, modes: np.ndarray, splits: np.ndarray, sets: Sequence[Sequence[float]], missing: np.ndarray
    ) -> None:
        waiting = iter(sets)
        self.asked: list[list[tuple[int, float]]] = []
        equal = COMPARISONS.index("eq")
        for mode, split in zip(modes, splits, strict=True):
            members = next(waiting, []) if mode == _MEMBER else []
            alone = (int(mode), float(split)) if mode != _MEMBER else (equal, np.nan)
            self.asked.append([(equal, member) for member in members] or [alone])
        self.missing = missing | (modes == COMPARISONS.index("ne"))  # a NaN differs from every number

    def trees(
        self, features: Sequence[int], children: np.ndarray, values: np.ndarray, roots: np.ndarray, place: str
    ) -> Trees:
        """The trees, nodes in the order given, their further members between the last of them and the leaves."""
        inner, leaves = len(self.asked), len(values) - len(self.asked)
        further = np.cumsum([0, *(len(asked) - 1 for asked in self.asked)])
        start = inner + further[:-1]  # of each node's further members
        total = inner + int(further[-1])
        moved = np.where(children >= inner, children + total - inner, children)
        rows: list[tuple[int, int, float, bool, tuple[int, int]]] = [(0, 0, 0.0, False, (0, 0))] * total
        for i, asked in enumerate(self.asked):
            chain = [i, *range(start[i], start[i] + len(asked) - 1)]
            for at, (mode, number) in enumerate(asked):
                otherwise = chain[at + 1] if at + 1 < len(chain) else int(moved[i, 1])
                rows[chain[at]] = (features[i], mode, number, bool(self.missing[i]), (int(moved[i, 0]), otherwise))
        ends = np.arange(total, total + leaves)
        table = np.concatenate([np.array([row[4] for row in rows], np.int64), np.stack([ends, ends], axis=1)])
        column = [np.array([row[k] for row in rows] + [0] * leaves) for k in range(4)]
        more = np.full((total - inner, values.shape[1]), np.nan)
        return Trees(
            feature=column[0].astype(np.int64),
            comparison=column[1].astype(np.int64),
            threshold=column[2].astype(np.float64),
            missing=column[3].astype(bool),
            children=table,
            values=np.concatenate([values[:inner], more, values[inner:]]),
            roots=roots,
            depth=depth_of(table, roots, place),
        )


_POST = {"post_transform": "NONE"}
onnx_row("tree_ensemble", OnnxRow("TreeEnsembleRegressor", {**_POST, "aggregate_function": "SUM"}, ML, _regressor))
onnx_row("tree_ensemble", OnnxRow("TreeEnsembleClassifier", _POST, ML, _classifier))
onnx_row("tree_ensemble", OnnxRow("TreeEnsemble", {}, ML, _ensemble))
