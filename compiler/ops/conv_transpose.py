"""Transposed convolution: the plain one over an input with zeros between its elements and the kernel flipped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from compiler import dims
from compiler.builder import Builder
from compiler.dims import Size
from compiler.errors import ModelError
from compiler.ir import Node, Value
from compiler.op import REQUIRED, Call, OnnxRow, Sample, op
from compiler.ops.elementwise import FLOAT, check_kind
from compiler.ops.rounding import round_to
from compiler.ops.shape import known_shape
from compiler.types import TensorType

_ATTRS = {"strides": REQUIRED, "dilations": REQUIRED, "pads": REQUIRED, "output_padding": REQUIRED, "group": 1}


def output_sizes(sizes: Sequence[Size], kernel: Sequence[Size], attrs: Any) -> list[Size]:
    """Output extents: stride * (size - 1) + reach of the kernel + output_padding - pads."""
    count = len(sizes)
    steps, spread, pads, extra = (attrs[key] for key in ("strides", "dilations", "pads", "output_padding"))
    return [
        (sizes[i] - 1) * steps[i] + (kernel[i] - 1) * spread[i] + 1 + extra[i] - pads[i] - pads[count + i]
        for i in range(count)
    ]


def _build(b: Builder, node: Any) -> Value:
    x, w = node.required(0), node.required(1)
    sizes, kernel = known_shape(x)[2:], tuple(node.attr("kernel_shape") or known_shape(w)[2:])
    rank = len(sizes)
    attrs: dict[str, Any] = {
        "strides": tuple(node.attr("strides") or (1,) * rank),
        "dilations": tuple(node.attr("dilations") or (1,) * rank),
        "output_padding": tuple(node.attr("output_padding") or (0,) * rank),
        "pads": (0,) * 2 * rank,
        "group": node.attr("group", 1),
    }
    mode, wanted = node.attr("auto_pad", "NOTSET"), node.attr("output_shape")
    if wanted is not None or mode.startswith("SAME"):
        attrs["pads"] = _pads_for(b, sizes, kernel, attrs, wanted, mode)
    elif mode == "NOTSET":
        attrs["pads"] = tuple(node.attr("pads") or (0,) * 2 * rank)
    return b.emit("conv_transpose", x, w, node.input(2), **attrs)


def _pads_for(
    b: Builder, sizes: Sequence[Size], kernel: Sequence[Size], attrs: Any, wanted: Sequence[int] | None, mode: str
) -> tuple[int, ...]:
    """The padding that makes the output `wanted`, or size * stride; the odd one at the end for SAME_UPPER."""
    full = output_sizes(sizes, kernel, attrs)
    goal = (
        wanted[-len(sizes) :] if wanted is not None else [n * s for n, s in zip(sizes, attrs["strides"], strict=True)]
    )
    totals = [size - target for size, target in zip(full, goal, strict=True)]
    if not dims.is_static(totals):
        raise ModelError(f"{b.place}: ConvTranspose with output_shape needs fixed sizes, found {list(sizes)}; fix them")
    small: list[Any] = [total // 2 for total in totals]
    large = [total - half for total, half in zip(totals, small, strict=True)]
    return (*small, *large) if mode == "SAME_UPPER" else (*large, *small)  # type: ignore[return-value]


@op(
    "conv_transpose",
    onnx=OnnxRow(
        "ConvTranspose",
        {
            "auto_pad": "NOTSET",
            "dilations": None,
            "group": 1,
            "kernel_shape": None,
            "output_padding": None,
            "output_shape": None,
            "pads": None,
            "strides": None,
        },
        build=_build,
    ),
    attrs=_ATTRS,
)
class ConvTranspose:
    """x [N, C, spatial..] with w [C, O/group, kernel..] plus bias [O]: each element spreads w over the output."""

    def infer(call: Call) -> list[TensorType]:
        x, w = call.tensor(0), call.tensor(1)
        dtype = call.same_dtype(*(i for i in range(3) if call.optional(i) is not None))
        check_kind(call, dtype, FLOAT)
        if x.shape is None or w.shape is None:
            return [TensorType(dtype, None)]
        if len(w.shape) != len(x.shape) or len(x.shape) < 3:
            call.shape_error(f"x is {x}, w is {w}; expected [N, C, spatial..] and [C, O/group, kernel..]")
        call.same_size(x.shape[1], w.shape[0], "number of channels (of x, of w)")
        spatial = output_sizes(x.shape[2:], w.shape[2:], call.attrs)
        return [TensorType(dtype, (x.shape[0], w.shape[1] * call.attrs["group"], *spatial))]

    def reference(
        x: np.ndarray,
        w: np.ndarray,
        bias: np.ndarray | None = None,
        *,
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        output_padding: Sequence[int],
        group: int,
    ) -> np.ndarray:
        rank = x.ndim - 2
        attrs = {"strides": strides, "dilations": dilations, "pads": (0,) * 2 * rank, "output_padding": output_padding}
        full: list[Any] = output_sizes(x.shape[2:], w.shape[2:], attrs)
        n, c, o = x.shape[0], x.shape[1] // group, w.shape[1]
        parts = x.astype(np.float64).reshape(n, group, c, *x.shape[2:])
        weights = w.astype(np.float64).reshape(group, c, o, *w.shape[2:])
        total = np.zeros((n, group, o, *full))
        for place in itertools.product(*(range(k) for k in w.shape[2:])):
            window = tuple(
                np.s_[p * d : p * d + (size - 1) * s + 1 : s]
                for p, d, s, size in zip(place, dilations, strides, x.shape[2:], strict=True)
            )
            tap: Any = np.moveaxis(weights, (0, 1, 2), (-3, -2, -1))[place]
            spread: Any = np.einsum("ngc...,gco->ngo...", parts, tap)
            total[(np.s_[:], np.s_[:], np.s_[:], *window)] += spread
        result = total.reshape(n, group * o, *full)
        room = [(max(-pads[i], 0), max(-pads[rank + i], 0)) for i in range(rank)]
        result = np.pad(result, [(0, 0), (0, 0), *room])
        sizes = result.shape[2:]
        crop = [np.s_[max(pads[i], 0) : sizes[i] - max(pads[rank + i], 0)] for i in range(rank)]
        result = result[(np.s_[:], np.s_[:], *crop)]
        return round_to(result if bias is None else result + bias.astype(np.float64).reshape(-1, *[1] * rank), x.dtype)

    def decompose(b: Builder, node: Node) -> Value:
        x, w, bias = (*node.inputs, None)[:3]
        attrs, kernel = node.attrs, known_shape(w)[2:]
        rank, pads = len(kernel), node.attrs["pads"]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, attrs["dilations"], strict=True)]
        rest = [extra - stride + 1 for extra, stride in zip(attrs["output_padding"], attrs["strides"], strict=True)]
        before = (0, 0, *(reach[i] - 1 - pads[i] for i in range(rank)))
        after = (0, 0, *(reach[i] - 1 - pads[rank + i] + rest[i] for i in range(rank)))
        padded = b.emit("pad", spread_out(b, x, attrs["strides"]), None, before=before, after=after, mode="constant")
        ones = (1,) * rank
        turned = turned_kernel(b, w, attrs["group"])
        return b.emit(
            "conv", padded, turned, bias, strides=ones, dilations=attrs["dilations"], pads=(0,) * 2 * rank,
            group=attrs["group"],
        )  # fmt: skip

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        def draw(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(np.float32)

        plain = {"strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "output_padding": (0, 0)}
        yield Sample((draw(2, 3, 4, 5), draw(3, 2, 3, 3), draw(2)), plain, 64, "plain")
        odd = {"strides": (2, 3), "dilations": (2, 1), "pads": (1, 0, 2, 1), "output_padding": (1, 0), "group": 2}
        yield Sample((draw(1, 4, 4, 5), draw(4, 3, 3, 2)), odd, 64, "grouped")
        line = {"strides": (4,), "dilations": (1,), "pads": (0, 0), "output_padding": (3,)}
        yield Sample((draw(1, 2, 5), draw(2, 2, 2)), line, 64, "gaps")


def spread_out(b: Builder, x: Value, strides: Sequence[int]) -> Value:
    """x with stride - 1 zeros after each element of each spatial axis."""
    if all(stride == 1 for stride in strides):
        return x
    n, c, *sizes = known_shape(x)
    apart = b.emit("reshape", x, b.sizes((n, c, *(part for size in sizes for part in (size, 1)))))
    after = (0, 0, *(part for stride in strides for part in (0, stride - 1)))
    filled = b.emit("pad", apart, None, before=(0,) * len(after), after=after, mode="constant")
    spread = (size * stride for size, stride in zip(sizes, strides, strict=True))
    return b.emit("reshape", filled, b.sizes((n, c, *spread)))


def turned_kernel(b: Builder, w: Value, group: int) -> Value:
    """[C, O/group, kernel..] flipped in space, as [O, C/group, kernel..]."""
    c, o, *kernel = known_shape(w)
    starts = (0, 0, *(size - 1 for size in kernel))
    flipped = b.emit("slice", w, starts=starts, sizes=(c, o, *kernel), steps=(1, 1, *[-1] * len(kernel)))
    parted = b.emit("reshape", flipped, b.sizes((group, c // group, o, *kernel)))
    swapped = b.emit("transpose", parted, perm=(0, 2, 1, *range(3, 3 + len(kernel))))
    return b.emit("reshape", swapped, b.sizes((group * o, c // group, *kernel)))
