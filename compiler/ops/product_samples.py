"""Samples of products in every element type: of matmul and of conv, with zero points that the epilogue takes off."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.expr import Expr, arg, cast, extent, stat
from compiler.op import Sample
from compiler.ops.zero_points import less_zero_points

_BYTES = (np.int8, np.uint8)
_WHOLE = dtypes.int32
_PLAIN = {"strides": (1, 1), "dilations": (1, 1), "pads": (1, 1, 1, 1)}
_ODD = {"strides": (2, 1), "dilations": (1, 2), "pads": (0, 2, 1, 1), "group": 2}


def product_samples(rng: np.random.Generator) -> Iterator[Sample]:
    """Of matmul."""
    for left, right in itertools.product(_BYTES, repeat=2):
        x, y = _whole(rng, left, 3, 37), _whole(rng, right, 37, 18)
        name = f"{np.dtype(left)}-{np.dtype(right)}"
        yield Sample((x, y), {"acc": _WHOLE}, name=name)
        scaled = cast(_less(left, right), dtypes.float32) * 0.25
        zeros = (_whole(rng, left, 3, 1), _whole(rng, right, 18))
        yield Sample((x, y, *zeros), {"acc": _WHOLE, "epilogue": (scaled,)}, name=f"{name}-zeros")
    x, y = _whole(rng, np.uint8, 2, 5, 9), _whole(rng, np.int8, 2, 9, 4)
    both = (arg(0, _WHOLE) - stat(1, _WHOLE) * 3, stat(0, _WHOLE) + extent(_WHOLE))
    yield Sample((x, y), {"acc": _WHOLE, "epilogue": both}, name="sums")
    yield Sample((x[..., :0], y[:, :0]), {"acc": _WHOLE, "epilogue": both}, name="no-depth")
    for dtype in (*_BYTES, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        yield Sample((_whole(rng, dtype, 2, 3, 7), _whole(rng, dtype, 7, 5)), name=np.dtype(dtype).name)
    yield Sample(tuple(_whole(rng, np.int8, *shape) > 60 for shape in ((3, 7), (7, 5))), name="bool")
    for kind in (dtypes.float64, dtypes.float16, dtypes.bfloat16):
        x, y = (rng.standard_normal(shape).astype(kind.numpy) for shape in ((5, 19), (19, 34)))
        yield Sample((x, y), {}, 16, kind.name)
        if kind.bits == 16:
            wide = {"acc": dtypes.float32, "epilogue": (arg(0, dtypes.float32) * 0.5,)}
            yield Sample((x, y), wide, 16, f"{kind.name}-wide")


def conv_samples(rng: np.random.Generator) -> Iterator[Sample]:
    """Of conv, whose padding is the zero point where there is one."""
    less: dict[str, Any] = {"acc": _WHOLE, "fill": 1}
    operands: tuple[np.ndarray | None, ...]
    for left, right in itertools.product(_BYTES, repeat=2):
        x, w, bias = _whole(rng, left, 2, 3, 6, 5), _whole(rng, right, 4, 3, 3, 3), np.arange(4, dtype=np.int32)
        name = f"{np.dtype(left)}-{np.dtype(right)}"
        yield Sample((x, w, bias), {**_PLAIN, "acc": _WHOLE}, name=name)
        operands = (x, w, bias, _whole(rng, left, 1), _whole(rng, right, 4, 1, 1))
        yield Sample(operands, {**_PLAIN, **less, "epilogue": (_less(left, right),)}, name=f"{name}-zeros")
    zeros = (None, np.array(200, np.uint8), np.array(-5, np.int8))
    less["epilogue"] = (_less(np.uint8, np.int8),)
    operands = (_whole(rng, np.uint8, 1, 4, 7, 8), _whole(rng, np.int8, 6, 2, 3, 2), *zeros)
    yield Sample(operands, {**_ODD, **less}, name="grouped-zeros")
    operands = (_whole(rng, np.uint8, 1, 4, 5, 5), _whole(rng, np.int8, 4, 1, 3, 3), *zeros)
    yield Sample(operands[:2], {**_PLAIN, "group": 4, "acc": _WHOLE}, name="depthwise-bytes")
    yield Sample(operands, {**_PLAIN, "group": 4, **less}, name="depthwise-zeros")
    operands = (_whole(rng, np.uint8, 2, 6, 5, 3), _whole(rng, np.int8, 4, 3, 3, 3), *zeros)
    yield Sample(operands, {**_PLAIN, **less, "channels_last": True}, name="channels_last-zeros")
    for dtype in (*_BYTES, np.int16, np.int32, np.int64):
        operands = tuple(_whole(rng, dtype, *shape) for shape in ((1, 5, 6, 5), (4, 5, 1, 1)))
        yield Sample(operands, {**_PLAIN, "pads": (0, 0, 0, 0)}, name=np.dtype(dtype).name)
    for kind in (dtypes.float16, dtypes.bfloat16):
        operands = tuple(rng.standard_normal(s).astype(kind.numpy) for s in ((2, 3, 6, 5), (4, 3, 3, 3), (4,)))
        yield Sample(operands, _PLAIN, 32, kind.name)


def _less(left: type, right: type) -> Expr:
    """The product less zero points of these types, the epilogue's first two operands."""
    return less_zero_points(*(arg(i + 1, dtypes.from_numpy(np.dtype(t))) for i, t in enumerate((left, right))))


def _whole(rng: np.random.Generator, dtype: type, *shape: int) -> np.ndarray:
    """Integers of the type's whole range."""
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
