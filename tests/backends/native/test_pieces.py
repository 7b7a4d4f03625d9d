"""FP32 in bfloat16 pieces: nothing is lost, and native code makes the pieces NumPy makes, in panels and in rows."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from llvmlite import ir

from backends.native.jit import Engine
from backends.native.pack import Panel, define_panel_packer, pack_panels
from backends.native.pieces import COUNT, PIECES, RUN, define_row_splitter, pieces_of, split_panels
from backends.native.target import host
from backends.native.units import amx_bf16x3
from compiler import dtypes
from tests.backends.native.pages import at_page_end

RNG = np.random.default_rng(17)
PANEL = Panel(dtypes.float32, 32, 2, 16, 32)
SPECIAL = np.array(
    [
        0,
        -0.0,
        1,
        -1,
        np.inf,
        -np.inf,
        np.nan,
        1e-40,
        -1e-45,
        3.3895e38,
        3.3962e38,
        2.0**-126,
        1.2e-38,
        -1.17e-38,
        1.175e-38 + 2.0**-117,
    ],
    np.float32,
)


def every_kind(count: int) -> np.ndarray:
    """Random bits, whatever they mean, with ends of the range and special values among them."""
    largest = np.finfo(np.float32).max
    drawn = RNG.integers(0, 2**32, count, np.uint32).view(np.float32)
    some = np.concatenate([SPECIAL, [largest, -largest, np.nextafter(largest, 0, dtype=np.float32)]])
    drawn[RNG.random(count) < 0.3] = RNG.choice(some)
    return drawn


def bits(array: np.ndarray) -> np.ndarray:
    """Comparable whatever NaNs there are: NaNs of one sign and payload."""
    whole = array.astype(np.float32)
    return np.where(np.isnan(whole), np.float32(np.nan), whole).view(np.uint32)


def test_three_pieces_are_all_of_a_number() -> None:
    x = np.concatenate([every_kind(20_000), SPECIAL])
    pieces = pieces_of(x)
    ordinary = np.isfinite(x) & (np.abs(x) >= 2.0**-100)
    total = sum(piece[ordinary].astype(np.float64) for piece in pieces)
    np.testing.assert_array_equal(total, x[ordinary].astype(np.float64))
    for piece in pieces:
        np.testing.assert_array_equal(bits(piece), bits(piece.astype(dtypes.bfloat16.numpy)))
    magnitude = np.abs(x[ordinary].astype(np.float64))
    for piece, share in zip(pieces, (1 + 2.0**-8, 2.0**-8 * (1 + 2.0**-8), 2.0**-16), strict=True):
        assert (np.abs(piece[ordinary]) <= share * magnitude).all()
    assert np.isfinite(pieces[0]).all() and np.isnan(pieces[2][~np.isfinite(x)]).all()


def test_pieces_are_rounded_to_nearest_even() -> None:
    one = np.array([1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-23], np.float32)
    first, second, third = pieces_of(one)
    np.testing.assert_array_equal(first, np.array([1, 1 + 2.0**-6, 1 + 2.0**-7], np.float32))
    np.testing.assert_array_equal(second, np.array([2.0**-8, -(2.0**-8), -(2.0**-8)], np.float32))
    np.testing.assert_array_equal(third, np.array([0, 0, 2.0**-23], np.float32))


@pytest.fixture(scope="module", params=["instruction", "arithmetic"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Pieces rounded by the instruction for it, and by what stands for it elsewhere."""
    (unit,) = amx_bf16x3.UNITS
    if request.param == "instruction":
        unit = unit.on(host())
        if not unit.narrowing:
            pytest.skip("this machine has no instruction that rounds to bfloat16")
    module = ir.Module("pieces")
    for axis in ("x", "k", ""):
        define_panel_packer(module, f"pack_{axis}", PANEL, axis, packing=unit.packing).linkage = ""
    define_row_splitter(module, "split", unit.narrowed).linkage = ""
    compiled = Engine(host())
    compiled.add(module)
    return compiled


@pytest.mark.parametrize("axis", ["x", "k", ""])
def test_fresh_panels_are_those_of_constants(axis: str, engine: Engine) -> None:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p)
    function = kind(engine.address(f"pack_{axis}"))
    for xs in (1, 17, 31, 32):
        for ks in (0, 1, 2, 31, 32, 33, 71):
            logical = every_kind(xs * ks).reshape(xs, ks)
            dense = {"x": logical.T, "k": logical, "": np.repeat(logical, 2, axis=1)}[axis]
            source = at_page_end(np.ascontiguousarray(dense))
            view = {"x": source.T, "k": source, "": source[:, ::2]}[axis]
            expected = split_panels(pack_panels(logical, PANEL.width, PANEL.depth, PANEL.multiple))
            assert expected.nbytes == -(-ks // 32) * 32 * PANEL.width * PIECES.bytes
            found = np.full(expected.size + 16, 7, dtypes.bfloat16.numpy)
            function(view.ctypes.data, *view.strides, xs, ks, found.ctypes.data)
            np.testing.assert_array_equal(bits(found[: expected.size]), bits(expected.reshape(-1)))
            assert (found[expected.size :] == 7).all()


@pytest.mark.parametrize("step", [1, 3])
def test_rows_are_split_run_by_run(step: int, engine: Engine) -> None:
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p, ctypes.c_int64)
    function = kind(engine.address("split"))
    for rows, k in ((3, 1), (2, 31), (3, 32), (1, 33), (2, 95), (4, 96)):
        logical = every_kind(rows * k).reshape(rows, k)
        source = at_page_end(np.repeat(logical, step, axis=1))[:, ::step]
        runs = -(-k // RUN)
        padded = np.pad(logical, ((0, 0), (0, runs * RUN - k))).reshape(rows, runs, RUN)
        expected = np.stack(pieces_of(padded), axis=2)
        found = np.full(expected.size + 16, 7, dtypes.bfloat16.numpy)
        pitch = runs * RUN * PIECES.bytes
        function(source.ctypes.data, *source.strides, rows, k, found.ctypes.data, pitch)
        np.testing.assert_array_equal(bits(found[: expected.size]), bits(expected.reshape(-1)))
        assert (found[expected.size :] == 7).all() and pitch == runs * COUNT * RUN * 2
