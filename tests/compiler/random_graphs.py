"""Random graphs of core ops for property tests: a hypothesis strategy of (graph, inputs).

Inputs hold small multiples of 1/4, so values made from them by few additions and products are exact. Operations that
jump (rounding, comparing, casting to integers, the position of an extremum) are applied to exact values only: there
every correct compiler gives the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.dtypes import DType
from compiler.expr import Expr, apply, arg, cast, const, extent, index, kept, select, stat
from compiler.ir import Graph, Value
from compiler.kernels import Stage
from compiler.types import TensorType

EXACT_BITS = 18  # significant bits a value may need and still count as exact
MAX_ELEMENTS = 2500
EXTENTS = (2, 3, 1, 4, 5, 8, 7, 17, 33, 65, 2, 3, 1, 4, 5, 0)


@dataclass(frozen=True)
class Case:
    """A graph with inputs for it; `sizes` are the named sizes the inputs have."""

    graph: Graph
    arrays: tuple[np.ndarray, ...]
    sizes: dict[str, int]

    def __repr__(self) -> str:
        return f"{self.graph}\n  with {self.sizes}, inputs {[a.shape for a in self.arrays]}"


@st.composite
def cases(draw: Callable[[Any], Any], max_steps: int = 12) -> Case:
    """A graph of up to `max_steps` random steps and inputs for it."""
    maker = Maker(draw)
    for _ in range(draw(st.integers(1, 3))):
        maker.input(maker.random_shape(), maker.pick((maker.real, maker.real, dtypes.int64, dtypes.boolean)))
    for _ in range(draw(st.integers(1, max_steps))):
        getattr(maker, maker.pick(STEPS))()
    return maker.finish()


class Maker:
    """Builds one random graph; each step adds values to the pool, or nothing where none fits."""

    def __init__(self, draw: Callable[[Any], Any]) -> None:
        self.draw = draw
        self.b = Builder()
        self.pool: list[Value] = []
        self.arrays: list[np.ndarray] = []
        self.bits: dict[str, int] = {}  # significant bits of exact values
        self.rng = np.random.default_rng(draw(st.integers(0, 2**16)))
        self.real = self.pick((dtypes.float32, dtypes.float64))
        self.sizes: dict[str, int] = {}
        if self.chance():
            self.sizes = {name: self.pick(EXTENTS) for name in ("n", "m")}
            for name in self.sizes:
                self.b.claim_symbol(name)

    # Choices.

    def pick(self, items: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(items)))

    def chance(self) -> bool:
        return bool(self.draw(st.booleans()))

    def number(self, size: Size) -> int:
        return dims.evaluate(size, self.sizes)

    def extent(self) -> Size:
        used = [size for value in self.pool for size in value.type.shape]
        if used and self.chance():  # equal extents are where axes get mixed up
            return self.pick(used)
        return self.pick((*EXTENTS, *(dims.symbol(name) for name in self.sizes)))

    def random_shape(self, ranks: Sequence[int] = (2, 3, 1, 4, 0)) -> tuple[Size, ...]:
        shape: tuple[Size, ...] = ()
        for _ in range(self.pick(ranks)):
            size = self.extent()
            shape = (*shape, size if self.count((*shape, size)) <= MAX_ELEMENTS else 1)
        return shape

    def count(self, shape: Sequence[Size]) -> int:
        return math.prod(max(self.number(size), 1) for size in shape)

    def value(self, *, real: bool = True, ranks: Sequence[int] = (0, 1, 2, 3, 4, 5)) -> Value | None:
        """Some value of the pool, latest first."""
        found = [v for v in reversed(self.pool) if v.type.rank in ranks and (v.type.dtype == self.real or not real)]
        return self.pick(found) if found else None

    # Values.

    def keep(self, value: Value, bits: float = math.inf) -> Value:
        if bits <= EXACT_BITS:
            self.bits[value.name] = int(bits)
        self.pool.append(value)
        return value

    def exact(self, *values: Value) -> float:
        return max((self.bits.get(v.name, math.inf) for v in values), default=0)

    def data(self, shape: Sequence[int], dtype: DType) -> np.ndarray:
        if dtype == dtypes.boolean:
            return np.asarray(self.rng.integers(0, 2, shape), bool)
        if dtype == dtypes.int64:
            return np.asarray(self.rng.integers(-5, 6, shape), np.int64)
        return np.asarray(self.rng.integers(-8, 9, shape) / 4, dtype.numpy)

    def input(self, shape: Sequence[Size], dtype: DType) -> Value:
        value = self.b.input("x", TensorType(dtype, tuple(shape)))
        self.arrays.append(self.data([self.number(size) for size in shape], dtype))
        return self.keep(value, 4)

    def fresh(self, shape: Sequence[Size]) -> Value:
        """A constant or an input of a shape."""
        if dims.is_static(shape) and self.chance():
            value = self.b.constant(self.data(shape, self.real), "w")  # type: ignore[arg-type]
            self.bits[value.name] = 4
            return value
        return self.input(shape, self.real)

    def partner(self, x: Value) -> Value:
        """A value that broadcasts with `x` without growing it: of the pool, a constant or an input."""
        shape = x.type.shape
        fitting = [v for v in self.pool if v.type.dtype == x.type.dtype and _fits(v.type.shape, shape)]
        if fitting and self.chance():
            return self.pick(fitting)
        tail = shape[self.draw(st.integers(0, len(shape))) :]
        return self.fresh([1 if self.draw(st.integers(0, 3)) == 0 else size for size in tail])

    def map(self, inputs: Sequence[Value], outputs: Sequence[Expr], bits: float = math.inf) -> list[Value]:
        made = self.b.emit_many("map", inputs, {"outputs": tuple(outputs)}, ["m"] * len(outputs))
        return [self.keep(value, bits) for value in made]

    # Steps: elementwise.

    def unary(self) -> None:
        x = self.value()
        if x is None:
            return
        a, bits = arg(0, self.real), self.exact(x)
        name = self.pick(("relu", "neg", "tanh", "exp", "sigmoid", "root", "scale", "shift", "square", "gelu", "round"))
        if name == "round" and bits > EXACT_BITS:
            return
        made = {
            "relu": (apply("max", a, const(0.0, self.real)), bits),
            "neg": (-a, bits),
            "tanh": (apply("tanh", a), math.inf),
            "exp": (apply("exp", apply("min", a, const(1.5, self.real))), math.inf),
            "sigmoid": (apply("sigmoid", a), math.inf),
            "root": (apply("sqrt", apply("abs", a) + 1.0), math.inf),
            "scale": (a * self.pick((0.5, 0.125, -0.75)), bits + 2),
            "shift": (a + self.pick((0.5, -1.0)), bits + 1),
            "square": (a * a, 2 * bits),
            "gelu": (a * apply("normcdf", a), math.inf),
            "round": (apply(self.pick(("floor", "rint", "trunc")), a), bits),
        }[name]
        self.map([x], [made[0]], made[1])

    def binary(self) -> None:
        x = self.value()
        if x is None:
            return
        y = self.partner(x)
        a, b, bits = arg(0, self.real), arg(1, self.real), self.exact(x, y)
        name = self.pick(("add", "mul", "sub", "max", "min", "div", "lt"))
        if name == "div":
            self.map([x, y], [a / (apply("abs", b) + 1.0)])
        elif name == "lt":
            if bits <= EXACT_BITS:
                self.map([x, y], [apply(self.pick(("lt", "eq", "ge")), a, b)], 1)
        else:
            self.map([x, y], [apply(name, a, b)], 2 * bits if name == "mul" else bits + 1)

    def spread(self) -> None:
        """A map over more than its operands span: an outer sum, or a shape of its own."""
        x = self.value(ranks=(1, 2, 3))
        if x is None:
            return
        size = self.extent()
        if self.count((*x.type.shape, size)) > MAX_ELEMENTS:
            return
        a, b = arg(0, self.real), arg(1, self.real)
        if self.chance():
            shape = (size, *[1] * self.draw(st.integers(0, 1)), *x.type.shape)
            attrs = {"outputs": (self.pick((-a, apply("tanh", a))),), "shape": shape}
            self.keep(self.b.emit_many("map", [x], attrs, ["m"])[0])
        else:
            column = self.b.emit("reshape", x, self.b.sizes((*x.type.shape, 1)))
            self.map([column, self.fresh((size,))], [a + b * 0.5], self.exact(x) + 4)

    def several(self) -> None:
        """A map with two or three results."""
        x = self.value()
        if x is None:
            return
        y = self.partner(x)
        a, b = arg(0, self.real), arg(1, self.real)
        outputs = [a + b, apply("tanh", a - b), a * 0.5][: self.pick((2, 3))]
        self.map([x, y], outputs)

    def where(self) -> None:
        conditions = [v for v in self.pool if v.type.dtype == dtypes.boolean]
        x = self.value()
        fitting = [c for c in conditions if x is not None and _fits(c.type.shape, x.type.shape)]
        if not fitting:
            return
        a, c = arg(0, self.real), arg(1, dtypes.boolean)
        self.map([x, self.pick(fitting)], [select(c, a, -a)], self.exact(x))

    def position(self) -> None:
        x = self.value(ranks=(1, 2, 3, 4))
        if x is None:
            return
        axes = [index(self.draw(st.integers(0, x.type.rank - 1))) for _ in range(2)]
        a = arg(0, self.real)
        if self.chance():
            self.map([x], [a + cast(axes[0], self.real)], self.exact(x) + 6)
        else:
            self.map([x], [select(apply("le", *axes), a, const(0.0, self.real))], self.exact(x))

    def convert(self) -> None:
        x = self.value(real=False)
        target = self.pick((self.real, dtypes.int64, dtypes.boolean))
        if x is None or x.type.dtype == target:
            return
        bits = self.exact(x)
        if x.type.dtype.is_float and bits > EXACT_BITS:
            return
        self.map([x], [cast(arg(0, x.type.dtype), target)], bits)

    def integers(self) -> None:
        found = [v for v in self.pool if v.type.dtype == dtypes.int64]
        if found:
            x = self.pick(found)
            a = arg(0, dtypes.int64)
            self.map([x], [self.pick((a * 3, a - 7, apply("max", a, const(0, dtypes.int64)), -a))], self.exact(x) + 2)

    def again(self) -> None:
        """A node of the graph once more: an equal subexpression."""
        if self.b.nodes:
            node = self.pick(self.b.nodes)
            made = self.b.emit_many(node.op, node.inputs, node.attrs, [v.name for v in node.outputs])
            for old, new in zip(node.outputs, made, strict=True):
                self.keep(new, self.exact(old))

    # Steps: reductions.

    def axes(self, x: Value) -> tuple[int, ...]:
        rank = x.type.rank
        if self.chance():
            return (rank - 1,)
        return tuple(sorted(self.draw(st.sets(st.integers(0, rank - 1), min_size=1))))

    def reduce(self) -> None:
        x = self.value(ranks=(1, 2, 3, 4))
        if x is None:
            return
        axes, keepdims = self.axes(x), self.chance()
        fn = self.pick(("sum", "mean", "max", "min", "argmax", "argmin", "energy", "two"))
        extents = [self.number(x.type.shape[a]) for a in axes]
        bits = self.exact(x)
        if fn.startswith("arg") and (bits > EXACT_BITS or 0 in extents):
            return
        a = arg(0, self.real)
        total = stat(0, self.real)
        grown = bits + math.prod(extents).bit_length()
        stages: tuple[Stage, ...]
        rows: tuple[Expr, ...]
        if fn == "two":
            stages, rows = (Stage("max", a), Stage("sum", a - total)), (total, stat(1, self.real))
            bits = math.inf
        elif fn == "energy":
            stages, rows, bits = (Stage("sum", a * a),), (total,), 2 * grown
        elif fn == "mean":
            stages, rows, bits = (Stage("sum", a),), (total / extent(self.real),), math.inf
        else:
            kind = dtypes.int64 if fn.startswith("arg") else self.real
            stages, rows = (Stage(fn, a),), (stat(0, kind),)
            bits = grown if fn == "sum" else bits
        attrs = {"axes": axes, "keepdims": keepdims, "stages": stages, "rows": rows}
        for made in self.b.emit_many("reduce", [x], attrs, ["r"] * len(rows)):
            self.keep(made, bits)

    def logical(self) -> None:
        found = [v for v in self.pool if v.type.dtype == dtypes.boolean and v.type.rank]
        if found:
            x = self.pick(found)
            rows = (stat(0, dtypes.boolean),)
            stage = Stage(self.pick(("any", "all")), arg(0, dtypes.boolean))
            attrs = {"axes": self.axes(x), "keepdims": self.chance(), "stages": (stage,), "rows": rows}
            self.keep(self.b.emit("reduce", x, **attrs), 1)

    def softmax(self, x: Value | None = None) -> Value | None:
        x = x if x is not None else self.value(ranks=(1, 2, 3, 4))
        if x is None:
            return None
        axes = self.axes(x)
        form = self.pick(("whole", "stages", "decomposed"))
        if form == "whole":
            return self.keep(self.b.emit("softmax", x, axes=axes))
        a, b = arg(0, self.real), arg(1, self.real)
        shifted = apply("exp", a - stat(0, self.real))
        if form == "stages":
            attrs = {"axes": axes, "stages": (Stage("max", a), Stage("sum", shifted, keep=self.chance()))}
            divided = shifted / stat(1, self.real)
            if attrs["stages"][1].keep:
                divided = kept(1, self.real) / stat(1, self.real)
            return self.keep(self.b.emit("reduce", x, elements=(divided,), **attrs))
        top = self.b.emit("reduce", x, axes=axes, stages=(Stage("max", a),), rows=(stat(0, self.real),))
        weights = self.b.emit("map", x, top, outputs=(apply("exp", a - b),))
        total = self.b.emit("reduce", weights, axes=axes, stages=(Stage("sum", a),), rows=(stat(0, self.real),))
        return self.keep(self.b.emit("map", weights, total, outputs=(a / b,)))

    def norm(self) -> None:
        """Layer norm written out, its statistics kept for later."""
        x = self.value(ranks=(1, 2, 3, 4))
        if x is None or 0 in [self.number(size) for size in x.type.shape]:
            return
        axes = self.axes(x)
        a, b = arg(0, self.real), arg(1, self.real)
        mean_of = {"axes": axes, "stages": (Stage("sum", a),), "rows": (stat(0, self.real) / extent(self.real),)}
        mean = self.keep(self.b.emit("reduce", x, **mean_of))
        centred = self.keep(self.b.emit("map", x, mean, outputs=(a - b,)))
        square = self.b.emit("map", centred, outputs=(a * a,))
        variance = self.keep(self.b.emit("reduce", square, **mean_of))
        scale = self.b.emit("map", variance, outputs=(1.0 / apply("sqrt", a + 0.25),))
        self.keep(self.b.emit("map", centred, scale, outputs=(a * b,)))

    def layer_norm(self) -> None:
        x = self.value(ranks=(1, 2, 3, 4))
        if x is not None and self.number(x.type.shape[-1]):
            gain = self.fresh(x.type.shape[-1:])
            self.keep(self.b.emit("layer_norm", x, gain, axis=-1, epsilon=0.25))

    # Steps: products.

    def matmul(self) -> None:
        a = self.value(ranks=(1, 2, 3, 4))
        if a is None:
            return
        k, wide = a.type.shape[-1], self.pick((1, 3, 8, 17, 33))
        form = self.pick(("matrix", "vector", "batched", "self", "left"))
        if form == "matrix":
            made = self.b.emit("matmul", a, self.fresh((k, wide)))
        elif form == "vector":
            made = self.b.emit("matmul", a, self.fresh((k,)))
        elif form == "batched":
            lead = [1 if self.chance() else size for size in a.type.shape[:-2]]
            made = self.b.emit("matmul", a, self.fresh((*lead, k, wide)))
        elif form == "self" and a.type.rank > 1:
            perm = (*range(a.type.rank - 2), a.type.rank - 1, a.type.rank - 2)
            made = self.b.emit("matmul", a, self.b.emit("transpose", a, perm=perm))
        elif a.type.rank > 1:
            made = self.b.emit("matmul", self.fresh((wide, a.type.shape[-2])), a)
        else:
            return
        if self.count(made.type.shape) <= MAX_ELEMENTS:
            inner = self.number(k if form != "left" else a.type.shape[-2])
            self.epilogue(self.keep(made, 2 * self.exact(a) + inner.bit_length()))

    def epilogue(self, x: Value) -> None:
        """What usually follows a product."""
        for _ in range(self.draw(st.integers(0, 2))):
            y = self.partner(x)
            a, b = arg(0, self.real), arg(1, self.real)
            expr = self.pick((a + b, apply("max", a + b, const(0.0, self.real)), apply("tanh", a) * b, b - a * 0.5))
            (x,) = self.map([x, y], [expr])

    def convolution(self) -> None:
        x = self.value(ranks=(3, 4))
        if x is None:
            x = self.input((self.pick((1, 2)), self.pick((4, 1, 6)), *[self.pick((5, 1, 8, 4))] * 2), self.real)
        last = self.chance()
        spatial = x.type.rank - 2
        channels = x.type.shape[-1] if last else x.type.shape[1]
        sizes = [self.number(n) for n in (x.type.shape[1:-1] if last else x.type.shape[2:])]
        if not isinstance(channels, int) or not channels:
            return
        group = self.pick([g for g in (1, 2, channels) if channels % g == 0])
        features = group * self.pick((1, 2, 3))
        kernel = [self.pick((1, 3, 2)) for _ in range(spatial)]
        attrs = {
            "strides": tuple(self.pick((1, 2)) for _ in range(spatial)),
            "dilations": tuple(self.pick((1, 2)) for _ in range(spatial)),
            "pads": tuple(self.pick((0, 1, 2)) for _ in range(2 * spatial)),
        }
        pads = attrs["pads"]
        for i, n in enumerate(sizes):
            if n + pads[i] + pads[spatial + i] < (kernel[i] - 1) * attrs["dilations"][i] + 1:
                return
        w = self.fresh((features, channels // group, *kernel))
        bias = self.fresh((features,)) if self.chance() else None
        made = self.b.emit("conv", x, w, bias, **attrs, group=group, channels_last=last)
        if self.count(made.type.shape) <= MAX_ELEMENTS:
            self.epilogue(self.keep(made))

    def pool_window(self) -> None:
        x = self.value(ranks=(3, 4))
        if x is None:
            return
        last = self.chance()
        spatial = x.type.rank - 2
        sizes = [self.number(n) for n in (x.type.shape[1:-1] if last else x.type.shape[2:])]
        kernel = tuple(self.pick((2, 1, 3)) for _ in range(spatial))
        pads = tuple(self.draw(st.integers(0, (kernel[i % spatial] - 1) // 2)) for i in range(2 * spatial))
        dilations = tuple(self.pick((1, 2)) for _ in range(spatial))
        for i, n in enumerate(sizes):
            if n + pads[i] + pads[spatial + i] < (kernel[i] - 1) * dilations[i] + 1:
                return
        fn = self.pick(("max", "mean", "sum"))
        made = self.b.emit(
            "pool", x, fn=fn, kernel=kernel, strides=tuple(self.pick((1, 2)) for _ in range(spatial)), pads=pads,
            dilations=dilations, channels_last=last, count_include_pad=self.chance(),
        )  # fmt: skip
        self.keep(made, self.exact(x) if fn == "max" else math.inf)

    def attention(self) -> None:
        """softmax(score(q k^T)) v as exporters write it: scaled, masked or causal."""
        rank = self.pick((3, 4, 2))
        lead = [self.pick((1, 2, 3)) for _ in range(rank - 2)]
        queries, keys, head, wide = (self.pick((3, 1, 5, 17)) for _ in range(4))
        queries, keys = (self.pick([x, *map(dims.symbol, self.sizes)]) for x in (queries, keys))
        q = self.fresh((*lead, queries, head))
        k = self.fresh((*[1 if self.chance() else n for n in lead], keys, head)) if self.chance() else q
        keys = k.type.shape[-2]
        if self.chance():
            (q,) = self.map([q], [arg(0, self.real) * 0.5], 5)
        perm = (*range(rank - 2), rank - 1, rank - 2)
        scores = self.b.emit("matmul", q, self.b.emit("transpose", k, perm=perm))
        a = arg(0, self.real)
        form = self.pick(("plain", "scaled", "masked", "causal", "batch"))
        lowest = const(self.pick((-math.inf, -1e9)), self.real)
        if form == "scaled":
            (scores,) = self.map([scores], [a * 0.25])
        elif form == "masked":
            mask = self.fresh((queries if self.chance() else 1, keys))
            hidden = apply("lt", arg(1, self.real), const(0.0, self.real))
            (scores,) = self.map([scores, mask], [select(hidden, lowest, a)])
        elif form == "causal":
            (scores,) = self.map([scores], [select(apply("le", index(rank - 1), index(rank - 2)), a * 0.25, lowest)])
        elif form == "batch" and rank > 2:
            (scores,) = self.map([scores], [a + cast(index(0), self.real)])
        weights = self.softmax(scores)
        v = self.fresh((*[1 if self.chance() else n for n in lead], keys, wide))
        self.keep(self.b.emit("matmul", weights, v))

    # Steps: moves.

    def transpose(self) -> None:
        x = self.value(real=False, ranks=(2, 3, 4, 5))
        if x is not None:
            perm = self.draw(st.permutations(range(x.type.rank)))
            self.keep(self.b.emit("transpose", x, perm=tuple(perm)), self.exact(x))

    def reshape(self) -> None:
        x = self.value(real=False)
        if x is None:
            return
        shape = list(x.type.shape)
        for _ in range(self.draw(st.integers(1, 3))):
            kind = self.pick(("merge", "split", "insert", "drop", "flat"))
            if kind == "merge" and len(shape) > 1:
                at = self.draw(st.integers(0, len(shape) - 2))
                shape[at : at + 2] = [shape[at] * shape[at + 1]]
            elif kind == "split" and shape:
                at = self.draw(st.integers(0, len(shape) - 1))
                factors = [f for f in (2, 3, 4) if isinstance(shape[at], int) and shape[at] and shape[at] % f == 0]
                if factors:
                    f = self.pick(factors)
                    shape[at : at + 1] = [shape[at] // f, f] if self.chance() else [f, shape[at] // f]
            elif kind == "insert" and len(shape) < 5:
                shape.insert(self.draw(st.integers(0, len(shape))), 1)
            elif kind == "drop" and 1 in shape:
                shape.remove(1)
            elif kind == "flat":
                shape = [dims.product(shape)]
        self.keep(self.b.emit("reshape", x, self.b.sizes(shape)), self.exact(x))

    def measured_reshape(self) -> None:
        """A reshape whose shape is computed from the value's own, as exporters write it."""
        x = self.value(real=False, ranks=(2, 3, 4))
        if x is None or 0 in [self.number(n) for n in x.type.shape]:
            return
        first = self.b.emit("take", self.b.emit("shape_of", x), self.b.constant(np.array([0])), axis=0)
        shape = self.b.emit("concat", first, self.b.constant(np.array([-1])), axis=0)
        self.keep(self.b.emit("reshape", x, shape), self.exact(x))

    def expand(self) -> None:
        x = self.value(real=False, ranks=(0, 1, 2, 3))
        if x is None:
            return
        shape = [self.extent() if size == 1 else size for size in x.type.shape]
        if self.chance():
            shape.insert(0, self.pick((2, 1, 3)))
        if self.count(shape) <= MAX_ELEMENTS:
            self.keep(self.b.emit("expand", x, self.b.sizes(shape)), self.exact(x))

    def slice(self) -> None:
        x = self.value(real=False, ranks=(1, 2, 3, 4))
        if x is None:
            return
        starts, sizes, steps = [], [], []
        for extent_ in x.type.shape:
            start, size, step = 0, extent_, 1
            if self.chance():
                pass
            elif isinstance(extent_, Dim):
                start, step = (extent_ - 1, -1) if self.chance() else (0, 1)
            elif extent_:
                step = self.pick((1, -1, 2, -3))
                size = self.draw(st.integers(0, -(-extent_ // abs(step))))
                span = (max(size, 1) - 1) * abs(step)
                low = self.draw(st.integers(0, extent_ - 1 - span))
                start = low if step > 0 else low + span
            starts.append(start)
            sizes.append(size)
            steps.append(step)
        attrs = {"starts": tuple(starts), "sizes": tuple(sizes), "steps": tuple(steps)}
        self.keep(self.b.emit("slice", x, **attrs), self.exact(x))

    def concat(self) -> None:
        x = self.value(real=False, ranks=(1, 2, 3, 4))
        if x is None:
            return
        axis = self.draw(st.integers(0, x.type.rank - 1))
        fitting = [
            v for v in self.pool
            if v.type.dtype == x.type.dtype and v.type.rank == x.type.rank
            and all(a == axis or s == t for a, (s, t) in enumerate(zip(v.type.shape, x.type.shape, strict=True)))
        ]  # fmt: skip
        parts = [x, *(self.pick(fitting) for _ in range(self.draw(st.integers(1, 2))))]
        if self.count(x.type.shape) * 3 <= MAX_ELEMENTS:
            self.keep(self.b.emit("concat", *parts, axis=axis), self.exact(*parts))

    def pad(self) -> None:
        x = self.value(ranks=(1, 2, 3, 4))
        if x is None:
            return
        small = [isinstance(size, int) and size > 1 for size in x.type.shape]
        before, after = (tuple(self.pick((0, 1, -1, 2)) if ok else 0 for ok in small) for _ in range(2))
        if any(b + a + n < 0 for b, a, n in zip(before, after, x.type.shape, strict=True) if isinstance(n, int)):
            return
        fill = self.b.constant(np.array(0.5, self.real.numpy)) if self.chance() else None
        self.keep(self.b.emit("pad", x, fill, before=before, after=after), self.exact(x))

    def take(self) -> None:
        x = self.value(real=False, ranks=(1, 2, 3, 4))
        if x is None:
            return
        axis = self.draw(st.integers(0, x.type.rank - 1))
        size = self.number(x.type.shape[axis])
        if not size:
            return
        positions = self.rng.integers(-size, size, self.pick(((3,), (), (2, 2), (0,), (1,))))
        if self.chance():
            where = self.b.constant(np.asarray(positions), "positions")
        else:
            where = self.b.input("i", TensorType(dtypes.int64, positions.shape))
            self.arrays.append(np.asarray(positions))
        self.keep(self.b.emit("take", x, where, axis=axis), self.exact(x))

    def finish(self) -> Case:
        self.bind_sizes()
        read = {v.name for node in self.b.nodes for v in node.inputs if v is not None}
        made = [v for node in self.b.nodes for v in node.outputs if v.name not in read]
        outputs = made + [v for v in self.pool if v.name in read and self.draw(st.integers(0, 4)) == 0]
        outputs = outputs or [self.pool[0]]
        if self.draw(st.integers(0, 7)) == 0:
            outputs.append(outputs[0])
        return Case(self.b.finish(outputs), tuple(self.arrays), dict(self.sizes))

    def bind_sizes(self) -> None:
        """An input for each named size that no input has as an axis of its own."""
        bound = {str(size) for v in self.b.inputs for size in v.type.shape}
        for name in sorted(self.sizes.keys() - bound):
            self.input((dims.symbol(name),), self.real)


STEPS = (
    "unary", "binary", "several", "where", "position", "convert", "integers", "again", "reduce", "logical", "softmax",
    "norm", "layer_norm", "matmul", "convolution", "pool_window", "attention", "transpose", "reshape",
    "measured_reshape", "expand", "slice", "concat", "pad", "take", "unary", "binary", "reduce", "matmul", "attention",
    "norm", "spread",
)  # fmt: skip


def _fits(shape: Sequence[Size], full: Sequence[Size]) -> bool:
    """Whether `shape` broadcasts to `full` for every value of the names."""
    tail = full[len(full) - len(shape) :] if len(shape) <= len(full) else None
    return tail is not None and all(a in (1, b) for a, b in zip(shape, tail, strict=True))
