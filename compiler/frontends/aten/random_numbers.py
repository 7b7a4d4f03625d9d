"""ATen calls that draw random numbers: of torch's distributions, but not its numbers; each run draws anew."""

from __future__ import annotations

from collections.abc import Sequence

from compiler import dtypes
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.expr import apply, const
from compiler.frontends.aten.base import AtenBuilder, aten, convert, pointwise, shape_of, unsupported
from compiler.ir import Value


def _uniform(b: AtenBuilder, shape: Sequence[Size], dtype: DType, low: float = 0.0, high: float = 1.0) -> Value:
    return b.emit("random_uniform", b.sizes(tuple(shape)), dtype=dtype, low=low, high=high)


def _normal(b: AtenBuilder, shape: Sequence[Size], dtype: DType) -> Value:
    return b.emit("random_normal", b.sizes(tuple(shape)), dtype=dtype)


@aten("aten.rand.default")
def _rand(b: AtenBuilder, shape: Sequence[Size], **ignored: object) -> Value:
    return _uniform(b, shape, b.dtype)


@aten("aten.randn.default")
def _randn(b: AtenBuilder, shape: Sequence[Size], **ignored: object) -> Value:
    return _normal(b, shape, b.dtype)


@aten("aten.rand_like.default")
def _rand_like(b: AtenBuilder, x: Value, **ignored: object) -> Value:
    return _uniform(b, shape_of(x), b.dtype)


@aten("aten.randn_like.default")
def _randn_like(b: AtenBuilder, x: Value, **ignored: object) -> Value:
    return _normal(b, shape_of(x), b.dtype)


def _integers(b: AtenBuilder, low: int, high: int, shape: Sequence[Size]) -> Value:
    drawn = _uniform(b, shape, dtypes.float64, low, high)
    top = const(high - 1, dtypes.float64)
    return pointwise(b, (drawn,), lambda e: apply("min", apply("floor", e), top), dtypes.float64)


@aten("aten.randint.default")
def _randint(b: AtenBuilder, high: int, shape: Sequence[Size], **ignored: object) -> Value:
    return _integers(b, 0, high, shape)


@aten("aten.randint.low")
def _randint_low(b: AtenBuilder, low: int, high: int, shape: Sequence[Size], **ignored: object) -> Value:
    return _integers(b, low, high, shape)


@aten("aten.randint_like.default")
def _randint_like(b: AtenBuilder, x: Value, high: int, **ignored: object) -> Value:
    return _integers(b, 0, high, shape_of(x))


@aten("aten.randint_like.low_dtype")
def _randint_like_low(b: AtenBuilder, x: Value, low: int, high: int, **ignored: object) -> Value:
    return _integers(b, low, high, shape_of(x))


@aten("aten.randperm.default")
def _randperm(b: AtenBuilder, count: Size, **ignored: object) -> Value:
    drawn = _uniform(b, [count], dtypes.float64)
    _, order = b.emit_many("top_k", (drawn, b.sizes((count,))), {"axis": 0, "largest": 1, "sorted": 1}, ("", "order"))
    return convert(b, order, b.dtype)


@aten("aten.bernoulli.default")
def _bernoulli(b: AtenBuilder, x: Value, **ignored: object) -> Value:
    return b.emit("bernoulli", x, dtype=b.dtype)


@aten("aten.bernoulli.p")
def _bernoulli_p(b: AtenBuilder, x: Value, p: float = 0.5, **ignored: object) -> Value:
    drawn = _uniform(b, shape_of(x), dtypes.float64)
    return pointwise(b, (drawn,), lambda e: apply("lt", e, const(p, e.dtype)), dtypes.float64)


@aten("aten.native_dropout.default")
def _native_dropout(b: AtenBuilder, x: Value, p: float, train: bool | None) -> tuple[Value, ...]:
    if train is not False and p:
        raise unsupported(b, f"dropout of {p} in training mode; call model.eval() first")
    return x, b.emit("map", outputs=(const(True, dtypes.boolean),), shape=shape_of(x))


@aten("aten.multinomial.default")
def _multinomial(b: AtenBuilder, x: Value, count: int, replacement: bool = False, **ignored: object) -> Value:
    """Class numbers [.., count] drawn by the weights x [.., classes]; without replacement by the largest of
    log(u) / weight (Efraimidis and Spirakis, 2006)."""
    shape = shape_of(x)
    wide = convert(b, x, dtypes.float64)
    if replacement:
        rows = wide if len(shape) == 2 else b.emit("reshape", wide, b.sizes((1, shape[-1])))
        logs = pointwise(b, (rows,), lambda e: apply("log", e), dtypes.float64, dtypes.float64)
        drawn = b.emit("multinomial", logs, dtype=dtypes.int64, sample_size=count)
        return drawn if len(shape) == 2 else b.emit("reshape", drawn, b.sizes((count,)))
    keys = pointwise(
        b, (_uniform(b, shape, dtypes.float64), wide), lambda u, w: apply("log", u) / w, dtypes.float64, dtypes.float64
    )
    attrs = {"axis": len(shape) - 1, "largest": 1, "sorted": 1}
    return b.emit_many("top_k", (keys, b.sizes((count,))), attrs, ("", "drawn"))[1]
