"""Linear attention: a state of keys and values that each position decays, corrects and adds to."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind
from compiler.ops.linear_attention_chunks import LONGEST, ChunkedAttention
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ATTRS = {"q_num_heads": REQUIRED, "kv_num_heads": REQUIRED, "scale": 0.0, "update_rule": "gated_delta",
          "chunk_size": 64}  # fmt: skip


@op(
    "linear_attention",
    onnx=OnnxRow("LinearAttention", _ATTRS, build=lambda b, node: _build(b, node)),
    attrs={key: value for key, value in _ATTRS.items() if key != "chunk_size"},
)
class LinearAttention:
    """Operands q [B,T,Hq*E], k [B,T,H*E], v [B,T,H*D], state [B,H,E,D] or None, decay [B,T,H or H*E] or None, beta
    [B,T,H or 1] or None -> [B,T,Hq*D] and the last state. For each position: S = exp(decay) S + k u' with u = v
    (linear, gated) or beta (v - S'k) after the decay (delta, gated_delta); result scale q'S."""

    def infer(call: Call) -> list[TensorType]:
        dtype = call.same_dtype(0, 1, 2)
        check_kind(call, dtype, FLOAT)
        q, k, v = (call.tensor(i).shape for i in range(3))
        if q is None or k is None or v is None or not len(q) == len(k) == len(v) == 3:
            call.shape_error("expected q, k and v [batch, length, heads * size]")
        heads, groups = call.attrs["q_num_heads"], call.attrs["kv_num_heads"]
        if heads < 1 or groups < 1 or heads % groups:
            call.shape_error(f"{heads} query heads and {groups} key heads; expected a multiple")
        width, size = k[2] // groups, v[2] // groups
        for what, found, expected in (
            ("q", q, (*q[:2], heads * width)),
            ("k", k, (*q[:2], groups * width)),
            ("v", v, (*q[:2], groups * size)),
        ):
            call.same_shape(found, expected, what)
        state, decay, beta = (call.optional(i) for i in (3, 4, 5))
        if state is not None:
            call.same_shape(state.shape, (q[0], groups, width, size), "the state")
        for what, operand, last in (("decay", decay, (groups, groups * width)), ("beta", beta, (groups, 1))):
            if operand is not None and operand.shape is not None:
                call.same_shape(operand.shape, (*q[:2], *operand.shape[2:3]), what)
                if operand.shape[2] not in last:
                    call.shape_error(f"{what} is {operand}; expected {last[0]} or {last[1]} on the last axis")
        held = TensorType(dtype if state is None else state.dtype, (q[0], groups, width, size))
        return [TensorType(dtype, (q[0], q[1], heads * size)), held]

    def reference(
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        state: np.ndarray | None = None,
        decay: np.ndarray | None = None,
        beta: np.ndarray | None = None,
        *,
        q_num_heads: int,
        kv_num_heads: int,
        scale: float,
        update_rule: str,
    ) -> tuple[np.ndarray, np.ndarray]:
        batch, length, _ = q.shape

        def parted(x: np.ndarray, heads: int) -> np.ndarray:
            return x.astype(np.float64).reshape(batch, length, heads, x.shape[2] // heads)

        queries, keys, values = parted(q, q_num_heads), parted(k, kv_num_heads), parted(v, kv_num_heads)
        held = np.zeros((batch, kv_num_heads, keys.shape[-1], values.shape[-1]))
        held = held if state is None else state.astype(np.float64)
        factor = scale or 1 / math.sqrt(keys.shape[-1])
        result = np.zeros((batch, length, q_num_heads, values.shape[-1]))
        for i in range(length):
            key, added = keys[:, i, :, :, None], values[:, i]
            if decay is not None:
                held = held * np.exp(parted(decay, kv_num_heads)[:, i, :, :, None])
            if beta is not None:
                rate = parted(beta, beta.shape[-1])[:, i]
                added = rate * (added - np.sum(held * key, axis=2))
            held = held + key * added[:, :, None]
            read = held.repeat(q_num_heads // kv_num_heads, axis=1)
            result[:, i] = factor * np.sum(queries[:, i, :, :, None] * read, axis=2)
        kept = q.dtype if state is None else state.dtype
        joined = result.reshape(batch, length, q_num_heads * values.shape[-1])
        return round_to(joined, q.dtype), round_to(held, kept)

    def decompose(b: Builder, node: Node) -> tuple[Value, Value]:
        return ChunkedAttention(b, node).run()

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        for rule in ("linear", "gated", "delta", "gated_delta"):
            for length, groups, wide in ((0, 2, 1), (1, 2, 1), (5, 2, 3), (16, 1, 1), (37, 2, 3)):
                k = draw(7, length, groups, 3)
                k /= np.linalg.norm(k, axis=-1, keepdims=True)
                decay = -np.abs(draw(7, length, groups * wide)) * 4 if "gated" in rule else None
                beta = rng.uniform(0, 1, (7, length, groups)).astype(np.float32) if "delta" in rule else None
                state = draw(7, groups, 3, 4) if length != 5 else None
                inputs = (
                    draw(7, length, 12),
                    k.reshape(7, length, groups * 3),
                    draw(7, length, groups * 4),
                    state,
                    decay,
                    beta,
                )
                attrs: dict[str, Any] = {"q_num_heads": 4, "kv_num_heads": groups, "update_rule": rule}
                yield Sample(inputs, attrs, 64, f"{rule} {length}")
        half = tuple(draw(7, 4, 6).astype(np.float16) for _ in range(3))
        attrs = {"q_num_heads": 2, "kv_num_heads": 2, "update_rule": "linear", "scale": 0.5}
        yield Sample((*half, draw(7, 2, 3, 3)), attrs, 2, "float16")
        long = tuple(draw(7, 300, 2) for _ in range(3))
        beta = rng.uniform(0, 1, (7, 300, 1)).astype(np.float32)
        attrs = {"q_num_heads": 1, "kv_num_heads": 1, "update_rule": "delta", "scale": 1.0}
        yield Sample((long[0], long[1] / 2, long[2], None, None, beta), attrs, 256, "long")


def _build(b: Builder, node: Any) -> Any:
    inputs, attrs = node.inputs, node.attrs
    length = known_shape(inputs[0])[1]
    corrected = "delta" in attrs["update_rule"]
    if corrected and (not isinstance(length, int) or length > LONGEST):
        return NotImplemented  # corrections go chunk by chunk: the function's Scan does them
    given = {key: attrs[key] for key in _ATTRS if key != "chunk_size"}
    return b.emit_many("linear_attention", inputs, given, node.outputs)
