"""torch.nn.attention.flex_attention: attention whose scores and mask are functions of positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler import dtypes
from compiler.expr import apply, arg, cast, const, index, select, stat
from compiler.frontends.aten.base import compute_type, convert, pointwise, shape_of, tensor_type
from compiler.ir import Value
from compiler.kernels import Stage

if TYPE_CHECKING:
    from torch import fx

    from compiler.frontends.torch_nodes import Frame


def flex_attention(
    frame: Frame,
    place: str,
    q: Value,
    k: Value,
    v: Value,
    score_function: fx.GraphModule,
    block_mask: Sequence[Any],
    scale: float,
    kernel_options: Any,
    score_operands: Sequence[Any] = (),
    mask_operands: Sequence[Any] = (),
) -> tuple[Value | None, ...]:
    """softmax(score(q k' * scale, batch, head, i, j)) v for q [B,H,L,E], k [B,G,S,E], v [B,G,S,Ev]; where the mask
    function forbids a place its score is -inf, and a query that may see no key gets zeros. Head h reads the k and v of
    head h // (H / G).

    Both functions run once over all places. The blocks of the mask only say which work may be left out.
    """
    b = frame.b
    dtype, acc = tensor_type(q).dtype, compute_type(tensor_type(q).dtype)
    heads = shape_of(q)[1]
    k, v = (_for_heads(frame, x, heads) for x in (k, v))
    wide_q, wide_k = (convert(b, x, acc) for x in (q, k))
    products = b.emit("matmul", wide_q, b.emit("transpose", wide_k, perm=(0, 1, 3, 2)))
    scores = pointwise(b, (products,), lambda e: e * scale, acc, acc)
    places = [
        b.emit("map", outputs=(cast(index(axis), dtypes.int32),), shape=tuple(n if a == axis else 1 for a in range(4)))
        for axis, n in enumerate(shape_of(scores))
    ]
    (scores,) = frame.inner(score_function, elementwise=True).run([scores, *places, *score_operands])
    (allowed,) = frame.inner(block_mask[-1], elementwise=True).run([*places, *mask_operands])
    lowest = const(-math.inf, acc)
    scores = pointwise(b, (allowed, scores), lambda m, s: select(cast(m, dtypes.boolean), s, lowest), acc, acc, raw=1)
    weights = b.emit("softmax", scores, axes=(3,))
    best = b.emit_many(
        "reduce",
        (scores,),
        {"axes": (3,), "keepdims": True, "stages": (Stage("max", arg(0, acc)),), "rows": (stat(0, acc),)},
        ("best",),
    )[0]
    found = b.emit("matmul", weights, convert(b, v, acc))
    return (
        pointwise(b, (best, found), lambda t, e: select(apply("gt", t, lowest), e, const(0, acc)), acc, dtype),
        None,
        None,
    )


def _for_heads(frame: Frame, x: Value, heads: Any) -> Value:
    batch, held, length, size = shape_of(x)
    if held == heads:
        return x
    times = heads // held
    b = frame.b
    apart = b.emit("reshape", x, b.sizes((batch, held, 1, length, size)))
    spread = b.emit("expand", apart, b.sizes((batch, held, times, length, size)))
    return b.emit("reshape", spread, b.sizes((batch, heads, length, size)))
