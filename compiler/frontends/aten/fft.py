"""ATen's Fourier transforms, as op `dft`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from compiler.dims import Dim, Size
from compiler.frontends.aten.base import AtenBuilder, axis_of, reshape, shape_of, unsupported
from compiler.frontends.aten.complex import Complex, joined, only_complex, split
from compiler.ir import Value

_BY_NUMBER = (0.0, -0.5, -1.0)  # normalization mode -> power of the number of elements the result is multiplied with


@only_complex("aten._fft_r2c.default")
def _real_to_complex(b: AtenBuilder, x: Value, axes: Sequence[int], normalization: int, onesided: bool) -> Complex:
    shape = shape_of(x)
    *others, last = [axis_of(axis, len(shape)) for axis in axes]
    scale = _scale(b, [shape[axis] for axis in (*others, last)], normalization)
    pairs = reshape(b, x, [*shape, 1])
    pairs = _along(b, pairs, last, onesided=int(onesided), scale=scale)
    for axis in others:
        pairs = _along(b, pairs, axis, scale=1.0)
    return split(b, pairs)


@only_complex("aten._fft_c2c.default")
def _complex_to_complex(b: AtenBuilder, x: Complex, axes: Sequence[int], normalization: int, forward: bool) -> Complex:
    shape = shape_of(x.re)
    chosen = [axis_of(axis, len(shape)) for axis in axes]
    scale = _scale(b, [shape[axis] for axis in chosen], normalization)
    pairs = joined(b, x)
    for axis in chosen:
        pairs = _along(b, pairs, axis, inverse=int(not forward), scale=scale)
        scale = 1.0
    return split(b, pairs)


@only_complex("aten._fft_c2r.default")
def _complex_to_real(b: AtenBuilder, x: Complex, axes: Sequence[int], normalization: int, size: Size) -> Value:
    shape = shape_of(x.re)
    *others, last = [axis_of(axis, len(shape)) for axis in axes]
    scale = _scale(b, [size, *(shape[axis] for axis in others)], normalization)
    pairs = joined(b, x)
    for axis in others:
        pairs = _along(b, pairs, axis, inverse=1, scale=1.0)
    result = _along(b, pairs, last, size, inverse=1, onesided=1, scale=scale)
    return reshape(b, result, shape_of(result)[:-1])


def _along(b: AtenBuilder, pairs: Value, axis: int, size: Size | None = None, **attrs: Any) -> Value:
    length = None if size is None else b.sizes((size,))
    return b.emit("dft", pairs, length, b.constant(np.array(axis)), **attrs)


def _scale(b: AtenBuilder, sizes: Sequence[Size], normalization: int) -> float:
    power = _BY_NUMBER[normalization]
    if power and any(isinstance(size, Dim) for size in sizes):
        raise unsupported(b, f"a Fourier transform of {list(sizes)} elements divided by their number; fix these sizes")
    return float(math.prod(sizes)) ** power if power else 1.0  # type: ignore[arg-type]
