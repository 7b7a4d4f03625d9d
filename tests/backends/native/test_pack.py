"""Panels: the packing formula in NumPy, and native packers against it between guards."""

from __future__ import annotations

import ctypes
from functools import cache

import numpy as np
import pytest
from llvmlite import ir

from backends.native.jit import Engine
from backends.native.pack import Panel, define_panel_packer, pack_panels
from backends.native.target import host
from compiler import dtypes
from tests.backends.native.pages import at_page_end

RNG = np.random.default_rng(3)
PANELS = (Panel(dtypes.float32, 32, 1, 16), Panel(dtypes.float64, 8, 1, 8), Panel(dtypes.float32, 8, 1, 16),
          Panel(dtypes.float32, 10, 2, 5), Panel(dtypes.float32, 6, 1, 4), Panel(dtypes.float16, 32, 2, 16, 32),
          Panel(dtypes.float16, 16, 4, 16, 8), Panel(dtypes.float32, 6, 2, 4, 8),
          Panel(dtypes.int8, 32, 4, 4, 4, 16), Panel(dtypes.int8, 12, 8, 4, 8, 16), Panel(dtypes.int8, 24, 8, 8, 8, 32),
          Panel(dtypes.float16, 12, 4, 4, 4, 16), Panel(dtypes.float16, 32, 2, 4, 2, 16))  # fmt: skip
ARGUMENTS = [ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p]


@pytest.mark.parametrize(
    ("width", "depth", "multiple"), [(1, 1, 1), (4, 1, 1), (3, 2, 2), (16, 4, 1), (5, 3, 1), (4, 2, 8), (3, 1, 5)]
)
def test_the_packing_formula(width: int, depth: int, multiple: int) -> None:
    for shape in ((1, 1), (4, 6), (7, 5), (2, 3, 17, 9), (0, 4), (4, 0)):
        array = RNG.standard_normal(shape)
        packed = pack_panels(array, width, depth, multiple)
        *outer, x, k = shape
        whole = max(depth, multiple)
        blocks = -(-k // whole) * (whole // depth)
        assert packed.shape == (*outer, -(-x // width), blocks, width, depth) and packed.flags.c_contiguous
        padded = np.zeros((*outer, -(-x // width) * width, blocks * depth))
        padded[..., :x, :k] = array
        for at in np.ndindex(*padded.shape):
            *o, i, j = at
            assert packed[(*o, i // width, j // depth, i % width, j % depth)] == padded[at]


@cache
def packer(panel: Panel, axis: str) -> tuple[Engine, ctypes._CFuncPtr]:
    """A compiled packer; its engine must stay."""
    module = ir.Module("pack")
    define_panel_packer(module, "pack", panel, axis).linkage = ""
    engine = Engine(host())
    engine.add(module)
    return engine, ctypes.CFUNCTYPE(None, *ARGUMENTS)(engine.address("pack"))


@pytest.mark.parametrize("panel", PANELS, ids=str)
@pytest.mark.parametrize("axis", ["x", "k", ""])
def test_native_packers_follow_it_and_read_nothing_else(panel: Panel, axis: str) -> None:
    function = packer(panel, axis)[1]
    for xs in sorted({1, panel.width - 1, panel.width}):
        for ks in (0, 1, panel.lanes - 1, panel.lanes, panel.lanes + 1, 3 * panel.lanes + 2):
            if not xs:
                continue
            logical = RNG.standard_normal((xs, ks)).astype(panel.dtype.numpy)
            dense = {"x": logical.T, "k": logical, "": np.repeat(logical, 2, axis=1)}[axis]
            source = at_page_end(np.ascontiguousarray(dense))
            view = {"x": source.T, "k": source, "": source[:, ::2]}[axis]
            expected = pack_panels(logical, panel.width, panel.depth, panel.multiple)
            found = np.full(expected.size + 16, 7, expected.dtype)
            function(view.ctypes.data, *view.strides, xs, ks, found.ctypes.data)
            assert np.array_equal(found[: expected.size], expected.reshape(-1))
            assert (found[expected.size :] == 7).all()
