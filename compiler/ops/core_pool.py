"""The core pooling op."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.ir import Node
from compiler.lowering.pools import lower_pool
from compiler.op import REQUIRED, Call, Sample, op
from compiler.ops.core_compute import identity
from compiler.ops.core_products import sliding_windows
from compiler.types import TensorType

if TYPE_CHECKING:
    from compiler.passes.lower import Lowering


@op(
    "pool",
    attrs={
        "fn": REQUIRED,
        "kernel": REQUIRED,
        "strides": REQUIRED,
        "dilations": REQUIRED,
        "pads": REQUIRED,
        "ceil_mode": False,
        "count_include_pad": False,
        "channels_last": False,
    },
)
class Pool:
    """Sliding-window max, sum or mean over x [N, C, spatial..] (channels_last: [N, spatial.., C]).

    Padding takes no part in max and sum; in mean it counts where count_include_pad says so (as far as `pads` reach).
    """

    def infer(call: Call) -> list[TensorType]:
        x, attrs = call.tensor(0), call.attrs
        if x.shape is None:
            return [x]
        if len(attrs["kernel"]) != len(x.shape) - 2:
            call.shape_error(f"kernel {attrs['kernel']} does not fit {x}; expected one size a spatial axis")
        sizes = x.shape[1:-1] if attrs["channels_last"] else x.shape[2:]
        out = pool_sizes(
            sizes, attrs["kernel"], attrs["strides"], attrs["dilations"], attrs["pads"], attrs["ceil_mode"]
        )
        shape = (x.shape[0], *out, x.shape[-1]) if attrs["channels_last"] else (*x.shape[:2], *out)
        return [TensorType(x.dtype, shape)]

    def reference(
        x: np.ndarray,
        *,
        fn: str,
        kernel: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        pads: Sequence[int],
        ceil_mode: bool,
        count_include_pad: bool,
        channels_last: bool,
    ) -> np.ndarray:
        if channels_last:
            x = np.moveaxis(x, -1, 1)
        spatial = x.ndim - 2
        out = pool_sizes(x.shape[2:], kernel, strides, dilations, pads, ceil_mode)
        # Extend the end padding so that plain windows cover exactly `out` positions.
        reach = [(out[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(spatial)]
        ends = [max(reach[i] - pads[i] - x.shape[2 + i], 0) for i in range(spatial)]
        wide = np.float64 if dtypes.from_numpy(x.dtype).is_float else x.dtype
        axes = tuple(range(-spatial, 0))
        crop = (np.s_[:], np.s_[:], *(np.s_[:n] for n in out))

        def windows(array: np.ndarray, fill: object) -> np.ndarray:
            return sliding_windows(array, kernel, strides, dilations, [*pads[:spatial], *ends], fill)[crop]

        if fn == "max":
            result = windows(x, identity("max", x.dtype)).max(axis=axes)
        else:
            result = windows(x.astype(wide), 0).sum(axis=axes)
        if fn == "mean":
            ones = np.ones((1, 1, *x.shape[2:]))
            if count_include_pad:
                widths = [(pads[i], pads[spatial + i]) for i in range(spatial)]
                ones = np.pad(ones, [(0, 0), (0, 0), *widths], constant_values=1)
                rest = [max(reach[i] - ones.shape[2 + i], 0) for i in range(spatial)]
                count = sliding_windows(ones, kernel, strides, dilations, [0] * spatial + rest)[crop].sum(axis=axes)
            else:
                count = windows(ones, 0).sum(axis=axes)
            result = result / count
        result = result.astype(x.dtype)
        return np.moveaxis(result, 1, -1) if channels_last else result

    def decompose(b: Any, node: Node) -> Any:
        """Padding that counts becomes real zeros, so that every visited position counts."""
        attrs, x = node.attrs, node.inputs[0]
        if attrs["fn"] != "mean" or not attrs["count_include_pad"]:
            return None
        count = len(attrs["kernel"])
        lead, trail = ((0,), (0,)) if attrs["channels_last"] else ((0, 0), ())
        before, after = (
            (*lead, *attrs["pads"][:count], *trail),
            (*lead, *attrs["pads"][count:], *trail),
        )
        none = dims.is_static(attrs["pads"]) and not any(attrs["pads"])
        padded = x if none else b.emit("pad", x, before=before, after=after)
        result = b.emit("pool", padded, **{**attrs, "pads": (0,) * (2 * count), "count_include_pad": False})
        shape = node.output.type.shape
        if result.type.shape == shape:
            return result
        # A window of ceil_mode that starts in the end padding does not count, though it is real now.
        rank = len(shape)
        return b.emit("slice", result, starts=(0,) * rank, sizes=shape, steps=(1,) * rank)

    def lower(node: Node, low: Lowering) -> None:
        lower_pool(node, low)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        x = rng.standard_normal((2, 3, 7, 6)).astype(np.float32)
        attrs = {"kernel": (3, 2), "strides": (2, 1), "dilations": (1, 1), "pads": (1, 0, 1, 1)}
        for fn in ("max", "sum", "mean"):
            yield Sample((x,), {"fn": fn, **attrs}, 8, fn)
        yield Sample((x,), {"fn": "mean", **attrs, "count_include_pad": True, "ceil_mode": True}, 8, "padded")
        dilated = {"kernel": (2, 2), "strides": (2, 2), "dilations": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": True}
        yield Sample((x,), {"fn": "max", **dilated, "channels_last": True}, 0, "dilated")


def pool_sizes(
    sizes: Sequence[Size],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    ceil_mode: bool,
) -> list[Size]:
    """Output extents; with ceil_mode a last partial window counts if it starts in the input or its begin padding."""
    count, result = len(sizes), []
    for i in range(count):
        free = sizes[i] + pads[i] + pads[count + i] - ((kernel[i] - 1) * dilations[i] + 1)
        if not ceil_mode:
            result.append(free // strides[i] + 1)
            continue
        size = dims.ceil_div(free, strides[i]) + 1
        last = sizes[i] + pads[i]
        if isinstance(size, int) and isinstance(last, int):
            size = size - 1 if (size - 1) * strides[i] >= last else size
        else:
            size = dims.minimum(size, dims.ceil_div(last, strides[i]))
        result.append(size)
    return result
