"""Each pass on a small graph: the text before and after."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from compiler import dtypes
from compiler.builder import Builder
from compiler.expr import apply, arg, extent, stat
from compiler.ir import Graph, Value
from compiler.kernels import Stage
from compiler.passes.canonicalize import canonicalize
from compiler.passes.dce import dce
from compiler.passes.decompose import decompose
from compiler.passes.fold import fold
from compiler.passes.fuse import fuse
from compiler.passes.lower import lower
from compiler.passes.narrow import narrow
from compiler.passes.precision import set_precision
from compiler.passes.specialize import specialize
from compiler.passes.verify import verify
from compiler.policy import Policy
from compiler.text import format_lowered
from compiler.types import TensorType

F32 = dtypes.float32
X = arg(0, F32)
Golden = Callable[[str, str], None]


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def size_chain() -> Graph:
    """A reshape whose shape is computed from the input's, as exporters write it; and a folded constant."""
    b = Builder()
    batch = b.claim_symbol("batch")
    x = b.input("x", TensorType(F32, (batch, 6, 4)))
    with b.at("Shape"):
        shape = b.emit("shape_of", x)
    with b.at("Gather"):
        first = b.emit("take", shape, b.constant(np.array([0])), axis=0)
    with b.at("Concat"):
        wanted = b.emit("concat", first, b.constant(np.array([-1])), axis=0)
    with b.at("Reshape"):
        y = b.emit("reshape", x, wanted)
    with b.at("Transpose"):
        w = b.emit("transpose", b.constant(np.arange(8, dtype=np.float32).reshape(2, 4), "w"), perm=(1, 0))
    return b.finish([y, w])


def moves() -> Graph:
    """Chains of moves that say less than they seem to."""
    b = Builder()
    x = b.input("x", TensorType(F32, (b.claim_symbol("batch"), 4, 7, 8)))
    merged = b.emit("reshape", x, b.sizes([x.type.shape[0] * 4, 7, 8]))
    split = b.emit("reshape", b.emit("transpose", merged, perm=(0, 2, 1)), b.sizes([x.type.shape[0], 4, 8, 7]))
    same = b.emit("transpose", b.emit("transpose", split, perm=(0, 1, 3, 2)), perm=(0, 1, 3, 2))
    last = b.emit("take", same, b.constant(np.array(-1)), axis=2)
    scaled = b.emit("map", last, b.constant(ones(1)), outputs=(X * arg(1, F32),))
    return b.finish([scaled, b.emit("map", last, b.constant(ones(1)), outputs=(X * arg(1, F32),))])


def layer(decomposed: bool) -> Graph:
    """A linear layer with bias, residual and a layer norm, the norm as one op or as a chain of primitives."""
    b = Builder()
    x = b.input("x", TensorType(F32, (b.claim_symbol("batch"), 8)))
    with b.at("linear"):
        y = b.emit("add", b.emit("matmul", x, b.constant(ones(8, 8), "w")), b.constant(ones(8), "bias"))
        y = b.emit("add", y, x)
    with b.at("norm"):
        if not decomposed:
            return b.finish([b.emit("layer_norm", y, b.constant(ones(8), "gain"), axis=-1, epsilon=1e-5)])
        mean = b.emit("reduce", y, axes=(1,), stages=(Stage("sum", X),), rows=(stat(0, F32) / extent(F32),))
        centred = b.emit("map", y, mean, outputs=(X - arg(1, F32),))
        square = b.emit("map", centred, outputs=(X * X,))
        variance = b.emit("reduce", square, axes=(1,), stages=(Stage("sum", X),), rows=(stat(0, F32) / extent(F32),))
        scale = b.emit("map", variance, outputs=(1.0 / apply("sqrt", X + 1e-5),))
        return b.finish(
            [b.emit("map", centred, scale, b.constant(ones(8), "gain"), outputs=(X * arg(1, F32) * arg(2, F32),))]
        )


def attention() -> Graph:
    """Scaled dot-product attention with a mask, written out."""
    b = Builder()
    batch, seq = b.claim_symbol("batch"), b.claim_symbol("seq")

    def heads(name: str) -> Value:
        x = b.input(name, TensorType(F32, (batch, seq, 16)))
        return b.emit("transpose", b.emit("reshape", x, b.sizes([batch, seq, 2, 8])), perm=(0, 2, 1, 3))

    q, k, v = (heads(name) for name in "qkv")
    mask = b.input("mask", TensorType(F32, (batch, 1, 1, seq)))
    scores = b.emit("matmul", q, b.emit("transpose", k, perm=(0, 1, 3, 2)))
    scores = b.emit("map", scores, mask, outputs=(X * 0.25 + arg(1, F32),))
    shifted = apply("exp", X - stat(0, F32))
    stages = (Stage("max", X), Stage("sum", shifted))
    weights = b.emit("reduce", scores, axes=(3,), stages=stages, elements=(shifted / stat(1, F32),))
    joined = b.emit("transpose", b.emit("matmul", weights, v), perm=(0, 2, 1, 3))
    return b.finish([b.emit("reshape", joined, b.sizes([batch, seq, 16]))])


def image() -> Graph:
    """Convolution, activation, residual and a pool: channels last in memory without a transpose in between."""
    b = Builder()
    x = b.input("x", TensorType(F32, (b.claim_symbol("batch"), 4, 6, 6)))
    geometry = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
    y = b.emit("conv", x, b.constant(ones(4, 4, 3, 3), "w"), b.constant(ones(4), "bias"), **geometry)
    y = b.emit("map", y, x, outputs=(apply("max", X + arg(1, F32), X * 0.0),))
    return b.finish([b.emit("pool", y, fn="mean", kernel=(2, 2), strides=(2, 2), dilations=(1, 1), pads=(0, 0, 0, 0))])


def mixed(precision: str) -> Graph:
    """Two products under a policy: the second's activation has no other reader, the first's has a residual."""
    b = Builder()
    x = b.input("x", TensorType(F32, (b.claim_symbol("rows"), 128)))
    hidden = b.emit("map", b.emit("matmul", x, b.constant(ones(128, 64), "w1")), outputs=(apply("max", X, X * 0.0),))
    y = b.emit("matmul", hidden, b.constant(ones(64, 128), "w2"))
    return b.finish([b.emit("map", y, x, outputs=(X + arg(1, F32),))]).with_policy(Policy(precision))


CASES = {
    "fold": (size_chain(), fold),
    "dce": (fold(size_chain()), dce),
    "decompose": (layer(decomposed=False), decompose),
    "canonicalize": (moves(), canonicalize),
    "precision": (layer(decomposed=True), lambda graph: set_precision(graph, "fp64")),
    "specialize": (attention(), lambda graph: specialize(graph, [(2, 3, 16)] * 3 + [(2, 1, 1, 3)])),
    "fuse_norm": (decompose(layer(decomposed=True)), fuse),
    "fuse_attention": (canonicalize(attention()), fuse),
    "fuse_image": (image(), fuse),
    "narrow_bf16": (fuse(mixed("bf16")), lambda graph: fuse(narrow(graph))),
    "narrow_int8": (fuse(mixed("int8")), lambda graph: fuse(narrow(graph))),
}


@pytest.mark.parametrize("name", CASES)
def test_pass(name: str, golden: Golden) -> None:
    before, step = CASES[name]
    after = verify(step(verify(before)))
    golden(f"passes/{name}", f"{before}\n\nbecomes\n\n{after}")


@pytest.mark.parametrize("name", ["fuse_norm", "fuse_attention", "fuse_image"])
def test_lower(name: str, golden: Golden) -> None:
    before, step = CASES[name]
    golden(f"passes/lower_{name.removeprefix('fuse_')}", format_lowered(lower(dce(step(before)))))
