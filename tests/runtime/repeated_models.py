"""Small ONNX models whose sizes come from data or from control flow, with inputs of random sizes and the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64
Arrays = tuple[np.ndarray, ...]
node = helper.make_node


@dataclass(frozen=True)
class Repeated:
    """A model; inputs(rng) draws sizes and contents; expected(*inputs) are its outputs. share: of the calls, less than
    1 for models whose calls compile. bodies: programs of control flow in it."""

    name: str
    model: ModelProto
    inputs: Callable[[np.random.Generator], Arrays]
    expected: Callable[..., Arrays]
    share: float = 1.0
    bodies: int = 0


def _info(name: str, shape: Sequence[int | str] | None, elem: int = FLOAT) -> Any:
    return helper.make_tensor_value_info(name, elem, shape)


def _model(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[str], **constants: Any) -> ModelProto:
    weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    results = [_info(name, None) for name in outputs]
    graph = helper.make_graph(list(nodes), "g", list(inputs), results, weights)
    del graph.output[:]
    graph.output.extend(helper.ValueInfoProto(name=name) for name in outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def _body(nodes: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs))


def _floats(rng: np.random.Generator, *most: int) -> np.ndarray:
    """Small whole numbers (sums of them are exact), of random sizes up to `most`, 0 included."""
    return rng.integers(-3, 4, [int(rng.integers(0, size + 1)) for size in most]).astype(np.float32)


def _nonzero() -> Repeated:
    nodes = [
        node("Mul", ["x", "two"], ["m"]),
        node("NonZero", ["m"], ["places"]),
        node("Transpose", ["places"], ["rows"], perm=[1, 0]),
        node("GatherND", ["m", "rows"], ["found"]),
        node("Neg", ["found"], ["y"]),
    ]
    model = _model(nodes, [_info("x", ["a", "b"])], ["places", "y"], two=np.float32(2))
    return Repeated("nonzero", model, lambda rng: (_floats(rng, 40, 30),),
                    lambda x: (np.stack(np.nonzero(x)), -2 * x[x != 0]))  # fmt: skip


def _compress() -> Repeated:
    nodes = [
        node("Less", ["low", "x"], ["above"]),
        node("Compress", ["rows", "above"], ["kept"], axis=0),
        node("ReduceSum", ["kept", "axis"], ["y"], keepdims=0),
    ]
    inputs = [_info("x", ["n"]), _info("rows", ["n", "m"])]
    model = _model(nodes, inputs, ["kept", "y"], low=np.float32(0), axis=np.array([1]))

    def draw(rng: np.random.Generator) -> Arrays:
        rows = _floats(rng, 60, 20)
        return rng.standard_normal(len(rows)).astype(np.float32), rows

    return Repeated("compress", model, draw, lambda x, rows: (rows[x > 0], rows[x > 0].sum(1)))


def _unique() -> Repeated:
    nodes = [
        node("Add", ["x", "one"], ["moved"]),
        node("Unique", ["moved"], ["values", "first", "inverse", "counts"]),
        node("Gather", ["values", "inverse"], ["again"]),
        node("Sub", ["again", "one"], ["y"]),
    ]
    model = _model(nodes, [_info("x", ["n"])], ["values", "first", "counts", "y"], one=np.float32(1))

    def expected(x: np.ndarray) -> Arrays:
        values, first, _, counts = np.unique(x + 1, True, True, True)
        return values, first, counts, x

    return Repeated("unique", model, lambda rng: (_floats(rng, 150),), expected)


def _suppression() -> Repeated:
    nodes = [
        node("NonMaxSuppression", ["boxes", "scores", "most", "overlap"], ["chosen"]),
        node("Gather", ["chosen", "two"], ["places"], axis=1),
        node("Gather", ["boxes", "places"], ["y"], axis=1),
    ]
    limits = {"most": np.array([1000]), "overlap": np.float32([0.3])}
    inputs = [_info("boxes", [1, "n", 4]), _info("scores", [1, 1, "n"])]
    model = _model(nodes, inputs, ["places", "y"], two=np.array(2), **limits)

    def draw(rng: np.random.Generator) -> Arrays:
        count = int(rng.integers(0, 90))
        corner = rng.integers(0, 9, (1, count, 2))
        boxes = np.concatenate([corner, corner + rng.integers(1, 6, (1, count, 2))], axis=2)
        return boxes.astype(np.float32), rng.permutation(count).reshape(1, 1, -1).astype(np.float32)

    def expected(boxes: np.ndarray, scores: np.ndarray) -> Arrays:
        top, left, bottom, right = boxes[0].T
        area = (bottom - top) * (right - left)
        height = np.minimum(bottom[:, None], bottom) - np.maximum(top[:, None], top)
        width = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
        shared = np.maximum(height, 0) * np.maximum(width, 0)
        close = shared / (area[:, None] + area - shared) > np.float32(0.3)
        stay: list[int] = []
        for i in np.argsort(-scores[0, 0]):
            if not close[i, stay].any():
                stay.append(int(i))
        places = np.array(stay, np.int64)
        return places, boxes[:, places]

    return Repeated("suppression", model, draw, expected)


def _top_k() -> Repeated:
    inputs = [_info("x", ["n", "m"]), _info("k", [1], INT64)]
    model = _model([node("TopK", ["x", "k"], ["values", "places"])], inputs, ["values", "places"])

    def draw(rng: np.random.Generator) -> Arrays:
        return rng.standard_normal((2, 48)).astype(np.float32), rng.integers(0, 49, 1)

    def expected(x: np.ndarray, k: np.ndarray) -> Arrays:
        places = np.argsort(-x, 1, kind="stable")[:, : k[0]]
        return np.take_along_axis(x, places, 1), places

    return Repeated("top_k", model, draw, expected, share=0.02)


def _computed_shapes() -> Repeated:
    nodes = [
        node("ReduceMax", ["m"], ["k"], keepdims=1),
        node("TopK", ["x", "k"], ["first", "places"]),
        node("Concat", ["k", "one", "three"], ["shape"], axis=0),
        node("Unsqueeze", ["first", "axes"], ["column"]),
        node("Expand", ["column", "shape"], ["y"]),
        node("Neg", ["y"], ["z"]),
    ]
    constants = {"one": np.array([1]), "three": np.array([3]), "axes": np.array([1, 2])}
    model = _model(nodes, [_info("m", ["c"], INT64), _info("x", ["n"])], ["places", "z"], **constants)

    def draw(rng: np.random.Generator) -> Arrays:
        x = rng.permutation(int(rng.integers(1, 40))).astype(np.float32)
        return rng.integers(0, len(x) + 1, int(rng.integers(1, 5))), x

    def expected(m: np.ndarray, x: np.ndarray) -> Arrays:
        places = np.argsort(-x)[: m.max()]
        return places, -np.repeat(x[places].reshape(-1, 1, 1), 3, axis=2)

    return Repeated("computed shapes", model, draw, expected)


def _if() -> Repeated:
    branches = {
        "then_branch": _body([node("Neg", ["x"], ["t"])], [], [_info("t", None)]),
        "else_branch": _body([node("Concat", ["x", "x"], ["e"], axis=0)], [], [_info("e", None)]),
    }
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Less", ["sum", "zero"], ["below"]),
        node("If", ["below"], ["chosen"], **branches),
        node("Mul", ["chosen", "two"], ["y"]),
    ]
    model = _model(nodes, [_info("x", ["n", "m"])], ["y"], zero=np.float32(0), two=np.float32(2))
    return Repeated("if", model, lambda rng: (_floats(rng, 20, 10),),
                    lambda x: (-2 * x if x.sum() < 0 else 2 * np.concatenate([x, x]),), bodies=2)  # fmt: skip


def _loop(name: str, step: Any, expected: Callable[..., Arrays]) -> Repeated:
    nodes = [node("Identity", ["go"], ["go_on"]), step]
    formals = [_info("i", [], INT64), _info("go", [], BOOL), _info("s", None)]
    inner = _body(nodes, formals, [_info("go_on", None, BOOL), _info("next", None)])
    loop = node("Loop", ["rounds", "", "x"], ["last"], body=inner)
    inputs = [_info("rounds", [], INT64), _info("x", ["n", "m"])]
    model = _model([loop, node("Neg", ["last"], ["y"])], inputs, ["y"])
    return Repeated(name, model, lambda rng: (rng.integers(0, 5, ()), _floats(rng, 20, 10)), expected, bodies=1)


def _scan() -> Repeated:
    nodes = [node("Add", ["state", "slice"], ["next"]), node("Neg", ["next"], ["row"])]
    inner = _body(nodes, [_info("state", ["m"]), _info("slice", ["m"])], [_info("next", ["m"]), _info("row", ["m"])])
    scan = node("Scan", ["start", "x"], ["last", "rows"], body=inner, num_scan_inputs=1)
    model = _model([scan], [_info("start", ["m"]), _info("x", ["n", "m"])], ["last", "rows"])

    def draw(rng: np.random.Generator) -> Arrays:
        x = _floats(rng, 8, 30)
        return np.ones(x.shape[1], np.float32), x

    return Repeated("scan", model, draw, lambda start, x: (start + x.sum(0), -(start + np.cumsum(x, 0))), bodies=1)


def _broken_guard() -> Repeated:
    model = _model([node("Add", ["x", "z"], ["y"])], [_info("x", ["n"]), _info("z", ["m"])], ["y"])

    def draw(rng: np.random.Generator) -> Arrays:
        x = _floats(rng, 60)
        return x, x if rng.integers(0, 2) else np.ones(1, np.float32)

    return Repeated("broken guard", model, draw, lambda x, z: (x + z,), share=0.05)


CASES = (
    _nonzero(),
    _compress(),
    _unique(),
    _suppression(),
    _top_k(),
    _computed_shapes(),
    _if(),
    _loop("loop", node("Add", ["s", "x"], ["next"]), lambda rounds, x: (-(1 + rounds.astype(np.float32)) * x,)),
    _loop(
        "growing loop", node("Concat", ["s", "x"], ["next"], axis=0), lambda rounds, x: (-np.tile(x, (1 + rounds, 1)),)
    ),
    _scan(),
    _broken_guard(),
)
