"""Suppression against a plain loop and the emulated kernel: sizes past vectors, strides, special values, splits."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.suppress import select
from backends.native.target import Target, host
from backends.reference.kernels import run_call
from compiler import dtypes
from compiler.kernels import KernelCall
from compiler.suppression import SuppressSpec
from tests.backends.native.harness import TARGETS, assert_guards, assert_same, guarded, run, view_of

Row = list[int]


def draw(rng: np.random.Generator, shape: tuple[int, int, int], dtype: type = np.float32) -> list[np.ndarray]:
    """Boxes and scores for shape (B, C, N): coarse, so that much is equal."""
    images, kinds, count = shape
    boxes = np.round(rng.uniform(0, 6, (images, count, 4)) * 2) / 2
    scores = rng.integers(0, 20, (images, kinds, count)) / 20
    return [boxes.astype(dtype), scores.astype(dtype)]


def assert_suppresses(
    operands: list[np.ndarray],
    columns: int,
    overlap: float = 0.3,
    most: int | None = None,
    least: float | None = None,
    *,
    centred: bool = False,
    target: Target | None = None,
    threads: int = 1,
    order: tuple[int, ...] = (0, 1, 2),
) -> np.ndarray:
    """The native places, which are the emulated ones."""
    dtype = operands[0].dtype
    spec = SuppressSpec(dtypes.from_numpy(dtype), centred, most is not None, least is not None)
    reads = list(operands)
    reads += [np.array(most, np.int64)] if most is not None else []
    reads += [np.array(value, dtype) for value in (overlap, least) if value is not None]
    write, memory = guarded((*operands[1].shape[:2], columns), np.dtype(np.int64), order)
    assert run(select, spec, reads, [write], target=target or host(), threads=threads) == 0
    assert_guards(memory)
    expected = np.zeros(write.shape, np.int64)
    views = [view_of(array, f"r{i}") for i, array in enumerate(reads)]
    run_call(KernelCall(spec, tuple(views), (view_of(write, "y"),)), reads, [expected], int, "emulate")
    assert_same(np.ascontiguousarray(write), expected)
    return write


def greedy(operands: list[np.ndarray], overlap: float, least: float) -> list[Row]:
    """Box by box in Python, coordinates as opposite corners, for every row."""
    boxes, scores = operands
    rows = []
    for image, kind in np.ndindex(*scores.shape[:2]):
        stay: Row = []
        for place in np.argsort(-scores[image, kind], kind="stable"):
            apart = all(share(boxes[image, place], boxes[image, other]) <= overlap for other in stay)
            if scores[image, kind, place] > least and apart:
                stay.append(int(place))
        rows.append(stay)
    return rows


def share(a: np.ndarray, b: np.ndarray) -> np.floating:
    """The shared area of two boxes by the area of both together; 0 where nothing is shared."""
    corners = [(np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])) for box in (a, b)]
    areas = [np.prod(high - low) for low, high in corners]
    inner = np.minimum(corners[0][1], corners[1][1]) - np.maximum(corners[0][0], corners[1][0])
    shared = np.prod(np.maximum(inner, 0))
    return shared / (areas[0] + areas[1] - shared) if shared > 0 else shared


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_and_limits(rng: np.random.Generator, dtype: type, target: Target) -> None:
    for count in (1, 2, 7, 16, 17, 131):
        operands = draw(rng, (2, 3, count), dtype)
        for columns, most in ((count, None), (max(count // 2, 1), None), (count, 5), (count, 0), (count, -3), (1, 9)):
            assert_suppresses(operands, columns, most=most, target=target)
            assert_suppresses(operands, columns, 0.6, most, 0.3, centred=True, target=target)


def test_no_box() -> None:
    empty = [np.zeros((1, 0, 4), np.float32), np.zeros((1, 2, 0), np.float32)]
    for least in (None, 0.5):
        assert assert_suppresses(empty, 0, least=least).shape == (1, 2, 0)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
def test_a_plain_loop_agrees(rng: np.random.Generator, overlap: float) -> None:
    operands = draw(rng, (2, 2, 90))
    found = assert_suppresses(operands, 90, overlap, least=0.2).reshape(-1, 90)
    assert [[place for place in row if place >= 0] for row in found.tolist()] == greedy(operands, overlap, 0.2)


@pytest.mark.parametrize("overlap", [-1.0, -0.0, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("least", [None, np.nan, np.inf, -np.inf, 0.5])
def test_special_values(rng: np.random.Generator, overlap: float, least: float | None) -> None:
    for dtype in (np.float32, np.float64):
        boxes, scores = draw(rng, (1, 3, 150), dtype)
        special = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-30, 1e30], dtype)
        boxes[rng.random(boxes.shape) < 0.1] = rng.choice(special)
        boxes[0, ::11] = rng.choice(special, boxes[0, ::11].shape)
        scores[..., ::40], scores[:, 1, -4:] = np.nan, -np.inf
        scores[:, 2, ::3] = -0.0
        for centred in (False, True):
            for threshold in (overlap, 0.3):
                assert_suppresses([boxes, scores], 150, threshold, least=least, centred=centred)


def test_strides_of_either_sign(rng: np.random.Generator) -> None:
    boxes, scores = draw(rng, (4, 6, 77))
    wide = np.repeat(boxes, 2, axis=2)[:, :, ::2]
    apart = np.repeat(scores.transpose(1, 0, 2), 2, axis=1)[:, ::2].transpose(1, 0, 2)
    for order in ((0, 1, 2), (2, 1, 0)):
        assert_suppresses([np.asfortranarray(boxes), apart], 77, order=order)
        assert_suppresses([wide, scores], 30, order=order)
        assert_suppresses([np.broadcast_to(boxes[:1], boxes.shape), scores], 30, order=order)


def test_splits_do_not_show(rng: np.random.Generator) -> None:
    operands = draw(rng, (3, 20, 200))
    assert_same(*(np.ascontiguousarray(assert_suppresses(operands, 200, threads=n)) for n in (1, 6)))
