"""Linear attention in chunks of positions. Within one everything is products of matrices, the corrections of the delta
rule by the inverse of a triangular matrix (Yang et al. 2024, "Parallelizing linear transformers with the delta rule
over sequence length"); only the state goes from chunk to chunk. Decays enter as exponentials of differences that are
never positive where the decays are not, so nothing overflows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from compiler import dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.expr import Expr, apply, arg, cast, const, index, select, stat
from compiler.ir import Node, Value
from compiler.kernels import Stage
from compiler.ops.elementwise import emit_map
from compiler.ops.shape import known_shape
from compiler.ops.triangular import inverse_of_unit_lower
from compiler.types import TensorType

_F32 = dtypes.float32
_SHORT, _CHUNK, _LONG_CHUNK = 256, 16, 64  # positions to a chunk, of sequences up to _SHORT and longer
LONGEST = 256 * _LONG_CHUNK  # positions; each chunk is a handful of kernel calls


@dataclass
class _Chunks:
    """Positions as [.., chunks, positions of a chunk, ..]."""

    count: int
    size: Size


class ChunkedAttention:
    """The decomposition of one node. Operands are [B, H, members, chunks, positions, size]: `members` query heads share
    a key head, and only the queries have more than one."""

    def __init__(self, b: Builder, node: Node) -> None:
        self.b, self.node = b, node
        q, k, v, state, decay, beta = (*node.inputs, *(None,) * 6)[:6]
        assert q is not None and k is not None and v is not None
        self.batch, self.length, _ = known_shape(q)
        self.groups = node.attrs["kv_num_heads"]
        self.members = node.attrs["q_num_heads"] // self.groups
        self.chunks = _chunks(self.length)
        self.q, self.k, self.v = self.parted(q, self.members), self.parted(k), self.parted(v)
        self.key_size = known_shape(self.k)[-1]
        self.beta = None if beta is None else self.parted(beta)
        self.state = None if state is None else self.state_of(state)
        self.total = None
        if decay is not None:
            self.total = b.emit("cum_sum", self.parted(decay), b.constant(np.array(4)))

    def parted(self, x: Value, members: int = 1) -> Value:
        """[B, T, H * members * size] in float32, padded with zeros to whole chunks."""
        b, held = self.b, x.type.dtype
        x = x if held == _F32 else emit_map(b, cast(arg(0, held), _F32), x)
        width = known_shape(x)[2]
        groups = 1 if width == 1 and self.groups > 1 else self.groups
        split = b.emit("reshape", x, b.sizes((self.batch, self.length, groups, members, width // (groups * members))))
        turned = b.emit("transpose", split, perm=(0, 2, 3, 1, 4))
        shape = known_shape(turned)
        missing = self.chunks.count * self.chunks.size - self.length
        if missing != 0:
            after = (0, 0, 0, missing, 0)
            turned = b.emit("pad", turned, None, before=(0,) * 5, after=after, mode="constant")
        return b.emit("reshape", turned, b.sizes((*shape[:3], self.chunks.count, self.chunks.size, shape[4])))

    def state_of(self, state: Value) -> Value:
        """The state [B, H, 1, E, D] in float32."""
        b, held = self.b, state.type.dtype
        shape = known_shape(state)
        wide = state if held == _F32 else emit_map(b, cast(arg(0, held), _F32), state)
        return b.emit("reshape", wide, b.sizes((*shape[:2], 1, *shape[2:])))

    def run(self) -> tuple[Value, Value]:
        """The result and the last state."""
        b, attrs = self.b, self.node.attrs
        size = self.key_size
        scale = attrs["scale"] or 1 / math.sqrt(size)  # type: ignore[arg-type]
        q = emit_map(b, arg(0, _F32) * scale, self.q)
        weights = self.pairs(q, strict=False)
        read, kept, fade = q, self.k, None
        if self.total is not None:
            last = self.rows(self.total, self.chunks.size - 1)
            read = emit_map(b, arg(0, _F32) * _exp(1), q, self.total)
            kept = emit_map(b, arg(0, _F32) * apply("exp", arg(1, _F32) - arg(2, _F32)), self.k, last, self.total)
            fade = self.swapped(emit_map(b, _exp(0), last))
        added, seen = self.corrected() if self.beta is not None else (self.v, None)
        state, results = self.state, []
        for i in range(self.chunks.count):
            u = self.chunk(added, i)
            if seen is not None and state is not None:
                u = emit_map(b, arg(0, _F32) - arg(1, _F32), u, b.emit("matmul", self.chunk(seen, i), state))
            result = b.emit("matmul", self.chunk(weights, i), u)
            gained = b.emit("matmul", self.swapped(self.chunk(kept, i)), u)
            if state is not None:
                result = self.sum(result, b.emit("matmul", self.chunk(read, i), state))
                old = state if fade is None else emit_map(b, arg(0, _F32) * arg(1, _F32), state, self.chunk(fade, i))
                gained = self.sum(gained, old)
            state = gained
            results.append(result)
        assert state is not None
        return self.joined(results), self.as_output(state, 1)

    def corrected(self) -> tuple[Value, Value]:
        """What each position adds, for a state of zeros, and what of the state it takes away: u = added - seen S."""
        b = self.b
        lower = emit_map(b, arg(0, _F32) * arg(1, _F32), self.pairs(self.k, strict=True), self.beta)
        inverse = inverse_of_unit_lower(b, lower)
        rates = [self.beta] if self.total is None else [self.beta, self.total]
        faded = arg(0, _F32) * arg(1, _F32) if self.total is None else arg(0, _F32) * arg(1, _F32) * _exp(2)
        values = emit_map(b, arg(0, _F32) * arg(1, _F32), self.v, self.beta)
        keys = emit_map(b, faded, self.k, *rates)
        return b.emit("matmul", inverse, values), b.emit("matmul", inverse, keys)

    def pairs(self, x: Value, strict: bool) -> Value:
        """x[t] . k[s] times the decay from s to t, for s <= t (s < t where strict); 0 elsewhere."""
        b, rank = self.b, 6
        keep = apply("gt" if strict else "ge", index(rank - 2), index(rank - 1))
        zero = const(0, _F32)
        if self.total is None or known_shape(self.total)[-1] == 1:
            product = b.emit("matmul", x, self.swapped(self.k))
            if self.total is None:
                return emit_map(b, select(keep, arg(0, _F32), zero), product)
            faded = arg(0, _F32) * apply("exp", arg(1, _F32) - arg(2, _F32))
            return emit_map(b, select(keep, faded, zero), product, self.total, self.swapped(self.total))
        rows, columns = ([self.spread(v, axis) for v in pair] for axis, pair in
                         ((5, (x, self.total)), (4, (self.k, self.total))))  # fmt: skip
        element = arg(0, _F32) * arg(2, _F32) * apply("exp", arg(1, _F32) - arg(3, _F32))
        stage = Stage("sum", select(keep, element, zero))
        return b.emit("reduce", *rows, *columns, axes=(6,), keepdims=False, stages=(stage,), rows=(stat(0, _F32),))

    def spread(self, x: Value, axis: int) -> Value:
        """x with a new axis."""
        shape = list(known_shape(x))
        shape.insert(axis, 1)
        return self.b.emit("reshape", x, self.b.sizes(shape))

    def swapped(self, x: Value) -> Value:
        """x with its last two axes exchanged."""
        rank = len(known_shape(x))
        return self.b.emit("transpose", x, perm=(*range(rank - 2), rank - 1, rank - 2))

    def rows(self, x: Value, start: Size) -> Value:
        """One position of each chunk."""
        shape = known_shape(x)
        starts, sizes = (0, 0, 0, 0, start, 0), (*shape[:4], 1, shape[5])
        return self.b.emit("slice", x, starts=starts, sizes=sizes, steps=(1,) * 6)

    def chunk(self, x: Value, i: int) -> Value:
        """Chunk i of [B, H, m, chunks, .., ..], without its axis."""
        shape = known_shape(x)
        sizes = (*shape[:3], 1, *shape[4:])
        taken = self.b.emit("slice", x, starts=(0, 0, 0, i, 0, 0), sizes=sizes, steps=(1,) * 6)
        return self.b.emit("reshape", taken, self.b.sizes((*shape[:3], *shape[4:])))

    def sum(self, x: Value, y: Value) -> Value:
        """x + y."""
        return emit_map(self.b, arg(0, _F32) + arg(1, _F32), x, y)

    def joined(self, results: list[Value]) -> Value:
        """The chunks' results [B, H, m, positions, D] as the node's own [B, T, H * m * D]."""
        b = self.b
        whole = b.emit("concat", *results, axis=3) if len(results) > 1 else results[0]
        shape = known_shape(whole)
        sizes = (*shape[:3], self.length, shape[4])
        cut = b.emit("slice", whole, starts=(0,) * 5, sizes=sizes, steps=(1,) * 5)
        return self.as_output(b.emit("transpose", cut, perm=(0, 3, 1, 2, 4)), 0)

    def as_output(self, x: Value, number: int) -> Value:
        """x in the shape and type of an output."""
        type = self.node.outputs[number].type
        assert isinstance(type, TensorType) and type.shape is not None
        shaped = self.b.emit("reshape", x, self.b.sizes(type.shape))
        return shaped if type.dtype == _F32 else emit_map(self.b, cast(arg(0, _F32), type.dtype), shaped)


def _exp(number: int) -> Expr:
    return apply("exp", arg(number, _F32))


def _chunks(length: Size) -> _Chunks:
    """How a sequence is cut; one of a length that is not a number stays whole."""
    if not isinstance(length, int):
        return _Chunks(1, length)
    size = _CHUNK if length <= _SHORT else _LONG_CHUNK
    while size > 1 and size // 2 >= length:
        size //= 2
    return _Chunks(max(-(-length // size), 1), size)
