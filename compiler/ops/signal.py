"""DFT and STFT: Fourier transforms of tensors whose last axis holds real and imaginary parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import ShapeError
from compiler.expr import apply, arg, cast, index
from compiler.ir import Node, Value
from compiler.op import Call, OnnxRow, Sample, op
from compiler.ops import fourier
from compiler.ops.elementwise import FLOAT, check_kind, emit_map, operand, wide
from compiler.ops.onnx_types import attribute_to_input
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape, listed
from compiler.types import TensorType

_DFT = {"inverse": 0, "onesided": 0}
_MOST_PIECES = 16  # a frame of more steps than this is gathered element by element


def _number(contents: np.ndarray | None) -> Size | None:
    """The one element of an operand, None where it is not known."""
    return None if contents is None else listed(contents)[0]


def _upgrade_dft(b: Builder, node: Any) -> Any:
    return attribute_to_input("axis", 2)(b, node.with_attrs(axis=(node.attr("axis", 1),)))


@op(
    "dft",
    onnx=OnnxRow("DFT", _DFT, upgrades=((20, _upgrade_dft),)),
    attrs={**_DFT, "scale": None},
    value_operands=(1, 2),
    host_reason="the length of the transform is not known while compiling",
)
class Dft:
    """The Fourier transform of x [.., c] along axis operand 2 (default -2), cut or padded with zeros to the length in
    operand 1. c: 2 parts, or 1 for real x. onesided: of real x only the first half of the spectrum; inverse as well:
    a real result [.., 1] from such a half. scale: a factor (None: 1 / length for the inverse)."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        check_kind(call, x.dtype, FLOAT)
        onesided, inverse = call.attrs["onesided"], call.attrs["inverse"]
        if x.shape is None:
            return [x]
        if len(x.shape) < 2 or (isinstance(x.shape[-1], int) and x.shape[-1] not in (1, 2)):
            call.shape_error(f"found {x}; expected [.., length, .., 1 or 2], the last axis for real and imaginary part")
        if onesided and not inverse and x.shape[-1] == 2:
            call.shape_error(f"a one-sided spectrum of complex {x}; expected real input [.., 1]")
        parts = 1 if onesided and inverse else 2
        at = call.value(2)
        if at is None and call.optional(2) is not None:
            return [TensorType(x.dtype, (*(call.fresh() for _ in x.shape[:-1]), parts))]
        axis = _axis(-2 if at is None else int(at.reshape(())), len(x.shape), call.place)
        length = _number(call.value(1))
        if length is None:
            missing = call.optional(1) is None
            length = _default_length(x.shape[axis], parts == 1) if missing else call.fresh()
        if isinstance(length, int) and length < 1:
            call.shape_error(f"a transform of {length} elements of {x}; expected at least 1")
        shape = list(x.shape[:-1])
        shape[axis] = length // 2 + 1 if onesided and not inverse else length
        return [TensorType(x.dtype, (*shape, parts))]

    def reference(
        x: np.ndarray,
        length: np.ndarray | None = None,
        axis: np.ndarray | None = None,
        *,
        inverse: int,
        onesided: int,
        scale: float | None,
    ) -> np.ndarray:
        at = -2 if axis is None else _axis(int(axis.reshape(())), x.ndim, "dft")
        at = at - x.ndim if at >= 0 else at
        wide_x = x.astype(np.float64)
        signal = wide_x[..., 0] + 1j * wide_x[..., 1] if x.shape[-1] == 2 else wide_x[..., 0]
        n = int(length.reshape(())) if length is not None else None
        along = at + 1
        if n is None:
            n = int(_default_length(x.shape[at], bool(onesided and inverse)))  # type: ignore[arg-type]
        if onesided:
            result = (np.fft.irfft if inverse else np.fft.rfft)(signal, n, along)
        else:
            result = (np.fft.ifft if inverse else np.fft.fft)(signal, n, along)
        if scale is not None:
            result = result * (scale * n if inverse else scale)
        parts = [result.real, result.imag] if result.dtype.kind == "c" else [result]
        return round_to(np.stack(parts, axis=-1), x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, length, axis = (*node.inputs, None, None)[:3]
        attrs, shape = node.attrs, known_shape(x)
        if (axis is not None and b.contents(axis) is None) or not isinstance(shape[-1], int):
            return None
        at = -2 if axis is None else int(b.contents(axis).reshape(()))  # type: ignore[union-attr]
        at %= len(shape)
        real_result = bool(attrs["onesided"] and attrs["inverse"])
        n = _default_length(shape[at], real_result) if length is None else _number(b.contents(length))
        if not isinstance(n, int):
            return None
        perm = [a for a in range(len(shape)) if a not in (at, len(shape) - 1)] + [at, len(shape) - 1]
        turned = b.emit("transpose", x, perm=tuple(perm))
        computed = emit_map(b, operand(0, turned), turned) if wide(x.type.dtype) != x.type.dtype else turned
        result = _transform(b, computed, n, **attrs)
        if result.type.dtype != x.type.dtype:
            result = emit_map(b, cast(arg(0, result.type.dtype), x.type.dtype), result)
        return b.emit("transpose", result, perm=tuple(int(a) for a in np.argsort(perm)), hint="dft")

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        for n in (1, 2, 3, 8, 64, 66, 100, 161, 167, 4160):
            units = 64 + n // 4  # of 1, where the results are of the size of sqrt(n)
            yield Sample((draw(6, n, 2),), tolerance=units, name=f"{n}")
            yield Sample((draw(6, n, 1),), {"onesided": 1}, units, f"{n} real")
            yield Sample((draw(6, n // 2 + 1, 2), np.array(n)), {"onesided": 1, "inverse": 1}, 16, f"{n} to real")
        yield Sample((draw(6, 96, 2).astype(np.float64),), {"inverse": 1}, 16, "float64 inverse")
        yield Sample((draw(6, 96, 2).astype(np.float16),), {"inverse": 1}, 1, "float16 inverse")
        yield Sample((draw(96, 6, 1), np.array(80), np.array(0)), {}, 64, "axis 0 cut")
        yield Sample((draw(2, 5, 6, 2), np.array([8]), np.array([-3])), {"scale": 0.25}, 16, "axis -3 padded")
        yield Sample((draw(6, 5, 1),), {"inverse": 1, "onesided": 1}, 16, "real half spectrum")


def _axis(axis: int, rank: int, place: str) -> int:
    """A signal axis counted from the front."""
    at = axis + rank if axis < 0 else axis
    if not 0 <= at < rank - 1:
        raise ShapeError(f"{place}: axis {axis} of a transform of rank {rank}; expected {-rank}..-2 or 0..{rank - 2}")
    return at


def _default_length(size: Size, real_result: bool) -> Size:
    return 2 * (size - 1) if real_result else size


def _transform(b: Builder, x: Value, n: int, inverse: int, onesided: int, scale: float | None) -> Value:
    """x [.., any, c] transformed along its last axis but one."""
    factor = (1 / max(n, 1) if inverse else 1.0) if scale is None else scale
    sign = 1 if inverse else -1
    if onesided and not inverse:
        return fourier.half_spectrum(b, _of_length(b, x, n), sign=sign, scale=factor)
    if not onesided:
        return fourier.transform(b, _of_length(b, x, n), sign=sign, scale=factor, parts=2)
    half = _of_length(b, x, n // 2 + 1)
    if known_shape(half)[-1] == 1:
        half = _of_length(b, half, 2, axis=-1)
    return fourier.transform(b, fourier.whole_spectrum(b, half, n), sign=sign, scale=factor, parts=1)


def _of_length(b: Builder, x: Value, n: Size, axis: int = -2) -> Value:
    """x cut, or padded with zeros, to `n` elements along an axis."""
    shape = known_shape(x)
    at = axis % len(shape)
    if shape[at] == n:
        return x
    after = tuple(n - shape[a] if a == at else 0 for a in range(len(shape)))
    return b.emit("pad", x, None, before=(0,) * len(shape), after=after, mode="constant")


@op(
    "stft",
    onnx=OnnxRow("STFT", {"onesided": 1}),
    attrs={"onesided": 1},
    value_operands=(1, 3),
    host_reason="the length of a frame, or the step between frames, is not known while compiling",
)
class Stft:
    """Fourier transforms of frames of a signal [N, T, 1 or 2], one every `step` (operand 1) elements, each multiplied
    by the window (operand 2) first: [N, frames, bins, 2]. Operand 3: the length of a frame (default: the window's)."""

    def infer(call: Call) -> list[TensorType]:
        x = call.tensor(0)
        check_kind(call, x.dtype, FLOAT)
        step, length = _number(call.value(1)), _frame_length(call)
        if x.shape is None or len(x.shape) != 3 or (isinstance(x.shape[2], int) and x.shape[2] not in (1, 2)):
            call.shape_error(f"found {x}; expected a signal [batch, length, 1 or 2]")
        if call.attrs["onesided"] and x.shape[-1] == 2:
            call.shape_error(f"a one-sided spectrum of complex {x}; expected a real signal or onesided=0")
        if isinstance(step, int) and step < 1:
            call.shape_error(f"the step between frames is {step}; expected at least 1")
        frames = call.fresh() if step is None or length is None else (x.shape[1] - length) // step + 1
        if isinstance(frames, int) and frames < 0:
            call.shape_error(f"frames of {length} elements from a signal of {x.shape[1]}; expected a longer signal")
        bins: Size = call.fresh() if length is None else length // 2 + 1 if call.attrs["onesided"] else length
        return [TensorType(x.dtype, (x.shape[0], frames, bins, 2))]

    def reference(
        x: np.ndarray,
        step: np.ndarray,
        window: np.ndarray | None = None,
        length: np.ndarray | None = None,
        *,
        onesided: int,
    ) -> np.ndarray:
        n = int(length.reshape(())) if length is not None else x.shape[1] if window is None else len(window)
        hop = int(step.reshape(()))
        frames = (x.shape[1] - n) // hop + 1
        places = hop * np.arange(frames)[:, None] + np.arange(n)
        taken = x.astype(np.float64)[:, places]
        if window is not None:
            taken = taken * window.astype(np.float64)[:, None]
        signal = taken[..., 0] + 1j * taken[..., 1] if x.shape[-1] == 2 else taken[..., 0]
        result = (np.fft.rfft if onesided else np.fft.fft)(signal, n)
        return round_to(np.stack([result.real, result.imag], axis=-1), x.dtype)

    def decompose(b: Builder, node: Node) -> Value | None:
        x, step, window, length = (*node.inputs, None, None)[:4]
        hop = _number(b.contents(step))
        _, total, parts = known_shape(x)
        n = total if window is None else known_shape(window)[0]
        n = n if length is None else _number(b.contents(length))  # type: ignore[assignment]
        if not isinstance(hop, int) or not isinstance(n, int) or not isinstance(parts, int):
            return None
        frames = (total - n) // hop + 1
        taken = frames_of(b, x, n, hop, frames)
        dtype = x.type.dtype
        element = operand(0, taken)
        if window is not None:
            window = b.emit("reshape", window, b.sizes((n, 1)))
            element = element * operand(1, window)
        if window is not None or element.dtype != dtype:
            taken = emit_map(b, element, taken, *([] if window is None else [window]), hint="windowed")
        result = b.emit("dft", taken, onesided=node.attrs["onesided"])
        return result if element.dtype == dtype else emit_map(b, cast(arg(0, element.dtype), dtype), result)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 50, 1)).astype(np.float32)
        window = np.hanning(16).astype(np.float32)
        for step in (1, 4, 5, 16, 20):
            yield Sample((x, np.array(step), window), tolerance=16, name=f"step {step}")
        yield Sample((x.astype(np.float16), np.array(8), window.astype(np.float16)), tolerance=1, name="float16")
        both = rng.standard_normal((1, 50, 2)).astype(np.float32)
        yield Sample((both, np.array(7), None, np.array(9)), {"onesided": 0}, 16, "complex")
        yield Sample((x[:, :12], np.array(3)), {}, 16, "one frame")


def _frame_length(call: Call) -> Size | None:
    """The number of elements in a frame, None where it is not known."""
    x, window = call.tensor(0), call.optional(2)
    if call.optional(3) is not None:
        return _number(call.value(3))
    shape = x.shape[1:2] if window is None and x.shape is not None else window.shape if window is not None else None
    return shape[0] if shape else None


def frames_of(b: Builder, x: Value, n: int, hop: int, frames: Size) -> Value:
    """[N, frames, n, c] from x [N, T, c]: elements i hop .. i hop + n - 1 for frame i."""
    batch, _, parts = known_shape(x)
    pieces = -(-n // hop)
    if pieces > _MOST_PIECES:
        places = b.emit("map", hint="places", outputs=(_place(hop),), shape=(frames, n))
        return b.emit("take", x, places, axis=1)
    steps = frames - 1 + pieces
    cut = _of_length(b, x, steps * hop)
    rows = b.emit("reshape", cut, b.sizes((batch, steps, hop * parts)))
    shifted = [_rows(b, rows, i, frames) for i in range(pieces)]
    joined = b.emit("concat", *shifted, axis=2) if pieces > 1 else shifted[0]
    return b.emit("reshape", _of_length(b, joined, n * parts, axis=2), b.sizes((batch, frames, n, parts)))


def _place(hop: int) -> Any:
    return apply("add", index(0) * hop, index(1))


def _rows(b: Builder, x: Value, start: int, count: Size) -> Value:
    batch, _, width = known_shape(x)
    return b.emit("slice", x, starts=(0, start, 0), sizes=(batch, count, width), steps=(1, 1, 1))
