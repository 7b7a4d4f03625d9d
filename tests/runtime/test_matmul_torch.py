"""runtime.matmul on torch tensors."""

from __future__ import annotations

import numpy as np
import pytest

import runtime

torch = pytest.importorskip("torch")


def close(found: torch.Tensor, a: torch.Tensor, b: torch.Tensor, error: float) -> None:
    expected = torch.matmul(a.double(), b.double())
    assert found.dtype == a.dtype
    assert found.shape == expected.shape
    assert not found.requires_grad
    assert torch.allclose(found.double(), expected, rtol=error, atol=error)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [(torch.float64, 1e-12), (torch.float32, 1e-4), (torch.float16, 1e-2), (torch.bfloat16, 6e-2)],
)
def test_floats(dtype: torch.dtype, error: float) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 20, 30).to(dtype)
    for _ in range(2):
        for a, b in (
            (x, y.mT), (x[0], y[1].T), (x[:, ::2, :10], y[:, :10]), (x, y[0, 3]), (x[0, 0], y[0, 0]),
            (x.clone().requires_grad_(), y.mT), (torch._neg_view(x), y.mT), (x[:, :, :0], y[:, :0]),
        ):  # fmt: skip
            close(runtime.matmul(a, b), a, b, error)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_integers(dtype: torch.dtype) -> None:
    a, b = torch.randint(-100, 100, (2, 8, 8), dtype=dtype)
    assert torch.equal(runtime.matmul(a, b), a @ b)


def test_out() -> None:
    a = torch.randn(4, 5, 5, dtype=torch.float64)
    for out in (torch.empty(4, 5, 5, dtype=torch.float64), torch.empty(4, 5, 10, dtype=torch.float64)[:, :, ::2]):
        for _ in range(2):
            assert runtime.matmul(a, a, out=out) is out
            assert torch.allclose(out, a @ a)
    memory = torch.zeros(4, 5, 5, dtype=torch.float64)
    runtime.matmul(a, a, out=torch._neg_view(memory))
    assert torch.allclose(memory, -(a @ a))
    half = torch.randn(3, 3).bfloat16()
    out = torch.empty(3, 3, dtype=torch.bfloat16)
    assert runtime.matmul(half, half, out=out) is out
    close(out, half, half, 6e-2)


def test_refused() -> None:
    a = torch.eye(3)
    for args, options, error, words in (
        ((a, np.eye(3, dtype=np.float32)), {}, runtime.DtypeError, "b is ndarray, expected a torch tensor"),
        ((np.eye(3, dtype=np.float32), a), {}, runtime.DtypeError, "a is ndarray"),
        ((a, a), {"out": np.eye(3, dtype=np.float32)}, runtime.DtypeError, "out is ndarray"),
        ((np.eye(3), np.eye(3)), {"out": a}, runtime.DtypeError, "out is Tensor, expected a NumPy array"),
        ((a.to(torch.cfloat), a), {}, runtime.DtypeError, "a is complex64"),
        ((a.to(torch.cfloat).conj(), a), {}, runtime.DtypeError, "a is torch.complex64"),
        ((a > 0, a > 0), {}, runtime.DtypeError, "a is bool"),
        ((a, a.double()), {}, runtime.DtypeError, "b is float64"),
        ((a.to_sparse(), a), {}, runtime.ModelError, "sparse"),
        ((a, a), {"out": torch.eye(4)}, runtime.ShapeError, "expected"),
    ):
        for _ in range(2):
            with pytest.raises(error, match=words):
                runtime.matmul(*args, **options)
            runtime.matmul(a, a)
