"""What Fourier transforms refuse, and how exact long ones are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from compiler import dtypes
from compiler.builder import Builder
from compiler.errors import ShapeError
from compiler.ops.fourier import roots_of_unity
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options

REFUSED: dict[str, tuple[str, tuple[int, ...], tuple[Any, ...], dict[str, int], str]] = {
    "parts": ("dft", (2, 5, 3), (), {}, "real and imaginary part"),
    "half of complex": ("dft", (2, 5, 2), (), {"onesided": 1}, "one-sided"),
    "axis of the parts": ("dft", (2, 5, 2), (None, -1), {}, r"axis -1 .* expected -3\.\.-2 or 0\.\.1"),
    "no elements": ("dft", (2, 1, 2), (), {"onesided": 1, "inverse": 1}, "0 elements"),
    "frame longer than the signal": ("stft", (1, 5, 1), (1, None, 9), {}, "expected a longer signal"),
    "step": ("stft", (1, 5, 1), (0, None, 3), {}, "step between frames is 0"),
    "no parts": ("stft", (1, 5), (1, None, 3), {}, r"expected a signal \[batch, length, 1 or 2\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    op, shape, numbers, attrs, message = REFUSED[name]
    b = Builder()
    operands = [None if number is None else b.constant(np.array(number)) for number in numbers]
    with pytest.raises(ShapeError, match=message):
        b.emit(op, b.input("x", TensorType(dtypes.float32, shape)), *operands, **attrs)


@pytest.mark.parametrize("n", [101, 1009, 4096, 6000])
def test_error_near_epsilon(n: int) -> None:
    """Mixed radix, a matrix of a prime length, and a convolution: within a few epsilons of the spectrum's size."""
    rng = np.random.default_rng(n)
    b = Builder()
    x = b.input("x", TensorType(dtypes.float32, (3, n, 2)))
    program = Executable(lower_graph(b.finish([b.emit("dft", x)])), host(), Options(threads=1, cache_dir=None))
    array = rng.standard_normal((3, n, 2)).astype(np.float32)
    (found,) = program.run([array])
    exact = np.fft.fft(array[..., 0].astype(np.float64) + 1j * array[..., 1])
    error = np.abs(found[..., 0] + 1j * found[..., 1] - exact)
    assert error.max() < 16 * np.finfo(np.float32).eps * np.sqrt(np.mean(np.abs(exact) ** 2))


def test_roots_of_unity_are_exact_where_they_are_simple() -> None:
    found = roots_of_unity(8, np.array([0, 2, 4, 6, -2, 16, 3, 5]))
    assert list(found[:6]) == [1, 1j, -1, -1j, -1j, 1]
    np.testing.assert_allclose(found[6:], np.sqrt(0.5) * np.array([-1 + 1j, -1 - 1j]), rtol=2.0**-52)
