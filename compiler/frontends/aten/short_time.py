"""ATen's short-time Fourier transform and its inverse, whole: torch takes the inverse apart into a scatter for each
element of a frame."""

from __future__ import annotations

import operator
from functools import reduce

from compiler.dims import Size
from compiler.expr import arg
from compiler.frontends.aten.base import (
    ROWS,
    AtenBuilder,
    aten,
    pointwise,
    reshape,
    shape_of,
    slice_axis,
    tensor_type,
    transpose,
    unsupported,
)
from compiler.frontends.aten.complex import Complex, joined, on_complex, split
from compiler.ir import Value


def _window(b: AtenBuilder, window: Value | None, length: int, n: int) -> Value:
    """The window [n]: the given one, or ones, in the middle of zeros."""
    if window is None:
        window = b.emit("expand", b.constant(1.0, "one", b.dtype), b.sizes((length,)))
    before = (n - length) // 2
    after = n - length - before
    if not before and not after:
        return window
    return b.emit("pad", window, None, before=(before,), after=(after,), mode="constant")


@aten("aten.stft.default")
@on_complex("aten.stft.default")
def _stft(
    b: AtenBuilder,
    x: Value | Complex,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Value | None = None,
    normalized: bool = False,
    onesided: bool | None = None,
    return_complex: bool | None = None,
    align_to_window: bool | None = None,
) -> Value | Complex:
    """[.., T] -> [.., bins, frames], a complex tensor or the parts along a last axis."""
    real = isinstance(x, Value)
    *lead, total = shape_of(x if isinstance(x, Value) else x.re)
    if align_to_window:
        raise unsupported(b, "torch.stft with align_to_window; leave it out")
    hop = hop_length or n_fft // 4
    pairs = reshape(b, x, [*lead, total, 1]) if isinstance(x, Value) else joined(b, x)
    signal = reshape(b, pairs, [lead[0] if lead else 1, *shape_of(pairs)[-2:]])
    shaped = _window(b, window, win_length or n_fft, n_fft)
    if normalized:
        shaped = pointwise(b, (shaped,), lambda w: w * n_fft**-0.5, result=tensor_type(shaped).dtype)
    half = real if onesided is None else onesided
    result = b.emit("stft", signal, b.sizes((hop,)), shaped, b.sizes((n_fft,)), onesided=int(half))
    turned = transpose(b, result, (0, 2, 1, 3))
    turned = reshape(b, turned, [*lead, *shape_of(turned)[1:]])
    return split(b, turned) if return_complex else turned


@aten("aten.istft.default")
@on_complex("aten.istft.default")
def _istft(
    b: AtenBuilder,
    x: Complex,
    n_fft: int,
    hop_length: int | None = None,
    win_length: int | None = None,
    window: Value | None = None,
    center: bool = True,
    normalized: bool = False,
    onesided: bool | None = None,
    length: Size | None = None,
    return_complex: bool = False,
) -> Value:
    """[.., bins, frames] -> [.., T]: frames added where they overlap, over the sum of the squared windows there."""
    if return_complex or onesided is False:
        raise unsupported(b, "torch.istft to a complex signal; use a one-sided spectrum")
    hop = hop_length or n_fft // 4
    *lead, _, frames = shape_of(x.re)
    shaped = _window(b, window, win_length or n_fft, n_fft)
    spectrum = Complex(*(ROWS["aten.transpose.int"](b, part, -1, -2) for part in (x.re, x.im)))
    scale = n_fft**-0.5 if normalized else None
    pairs = b.emit("dft", joined(b, spectrum), b.sizes((n_fft,)), inverse=1, onesided=1, scale=scale)
    parts = reshape(b, pairs, [lead[0] if lead else 1, frames, n_fft])
    weighted = pointwise(b, (parts, shaped), lambda p, w: p * w)
    squares = pointwise(b, (shaped,), lambda w: w * w)
    envelope = _added(b, b.emit("expand", squares, b.sizes((1, frames, n_fft))), hop)
    signal = pointwise(b, (_added(b, weighted, hop), envelope), lambda s, e: s / e)
    start = n_fft // 2 if center else 0
    held = n_fft + hop * (frames - 1)
    size = held - 2 * start if length is None else length
    if isinstance(length, int) and isinstance(held, int) and start + length > held:
        after = (0, start + length - held)
        signal = b.emit("pad", signal, None, before=(0, 0), after=after, mode="constant")
    return reshape(b, slice_axis(b, signal, 1, start, size), [*lead, size])


def _added(b: AtenBuilder, parts: Value, hop: int) -> Value:
    """[N, hop (frames - 1) + n] from frames [N, frames, n] that start `hop` elements apart."""
    batch, frames, n = shape_of(parts)
    assert isinstance(n, int)
    pieces = -(-n // hop)
    padded = parts
    if pieces * hop > n:
        padded = b.emit("pad", parts, None, before=(0, 0, 0), after=(0, 0, pieces * hop - n), mode="constant")
    shifted = []
    for piece in range(pieces):
        taken = slice_axis(b, padded, 2, piece * hop, hop)
        after = (0, pieces - 1 - piece, 0)
        shifted.append(b.emit("pad", taken, None, before=(0, piece, 0), after=after, mode="constant"))
    total = reduce(operator.add, (arg(i, b.dtype) for i in range(pieces)))
    whole = b.emit("map", *shifted, outputs=(total,))
    rows = reshape(b, whole, [batch, (frames + pieces - 1) * hop])
    return slice_axis(b, rows, 1, 0, (frames - 1) * hop + n)
