"""Complex values and Fourier transforms within torch modules, against torch itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import runtime as sansuan
from compiler.errors import DtypeError, UnsupportedOp
from compiler.frontends.aten import ROWS
from compiler.frontends.aten.complex import COMPLEX_ROWS
from compiler.frontends.torch import load
from tests.compiler.frontends.torch_check import assert_close, call, check_each

torch.manual_seed(0)
X, Y = torch.randn(3, 4, 10), torch.randn(3, 4, 10)
AS_REAL = torch.view_as_real


def paired(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.complex(x, y)


def test_every_row_for_complex_values_has_one_for_real_ones() -> None:
    assert COMPLEX_ROWS.keys() <= ROWS.keys()


def test_arithmetic() -> None:
    check_each(
        {
            "mul": lambda x, y: AS_REAL(paired(x, y) * paired(y, x)),
            "mul real": lambda x, y: AS_REAL(paired(x, y) * y),
            "mul number": lambda x, y: AS_REAL(paired(x, y) * (2 - 1j)),
            "times i": lambda x, y: AS_REAL(1j * x),
            "div": lambda x, y: AS_REAL(paired(x, y) / paired(y, x)),
            "div real": lambda x, y: AS_REAL(paired(x, y) / (y.abs() + 1)),
            "reciprocal": lambda x, y: AS_REAL(1 / paired(x, y)),
            "add": lambda x, y: AS_REAL(paired(x, y) + y),
            "add number": lambda x, y: AS_REAL(paired(x, y) + 1),
            "sub": lambda x, y: AS_REAL(x - paired(x, y)),
            "neg": lambda x, y: AS_REAL(-paired(x, y)),
            "conj": lambda x, y: AS_REAL(paired(x, y).conj() * paired(x, x)),
            "square": lambda x, y: AS_REAL(paired(x, y) ** 2),
            "root": lambda x, y: AS_REAL(paired(x, y) ** 0.5),
            "exp": lambda x, y: AS_REAL(torch.exp(paired(x, y))),
            "log": lambda x, y: AS_REAL(torch.log(paired(x, y))),
            "sgn": lambda x, y: AS_REAL(torch.sgn(paired(x, y))),
            "polar": lambda x, y: AS_REAL(torch.polar(x.abs(), y)),
            "abs": lambda x, y: paired(x, y).abs(),
            "angle": lambda x, y: paired(x, y).angle(),
            "angle of real": lambda x, y: torch.angle(x),
            "parts": lambda x, y: paired(x, y).real + paired(x, y).imag,
            "matmul": lambda x, y: AS_REAL(paired(x, y) @ paired(y, x).mT),
            "einsum of three": lambda x, y: AS_REAL(torch.einsum("bij,bij,bkj->bik", *[paired(x, y) / 2] * 3)),
            "einsum": lambda x, y: AS_REAL(torch.einsum("bij,bkj->bik", paired(x, y), paired(y, x))),
        },
        (X, Y),
    )


def test_moves_and_sums() -> None:
    def written(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        out = torch.zeros(3, 4, 12, dtype=torch.cfloat)
        out[..., :10] = paired(x, y)
        return AS_REAL(out)

    check_each(
        {
            "reshape": lambda x, y: AS_REAL(paired(x, y).reshape(12, 10).t()),
            "cat": lambda x, y: AS_REAL(torch.cat([paired(x, y), x], -1)),
            "stack": lambda x, y: AS_REAL(torch.stack([paired(x, y), paired(y, x)])),
            "slice": lambda x, y: AS_REAL(paired(x, y)[:, 1:, ::2]),
            "flip": lambda x, y: AS_REAL(paired(x, y).flip(-1)),
            "roll": lambda x, y: AS_REAL(paired(x, y).roll(3, -1)),
            "sum": lambda x, y: AS_REAL(paired(x, y).sum(-1)),
            "mean": lambda x, y: AS_REAL(paired(x, y).mean((0, 1))),
            "where": lambda x, y: AS_REAL(torch.where(x > 0, paired(x, y), 0j)),
            "chunk": lambda x, y: AS_REAL(paired(x, y).chunk(2, -1)[1]),
            "from real": lambda x, y: AS_REAL(x.to(torch.cfloat)),
            "full": lambda x, y: AS_REAL(torch.full((2,), 1 + 2j) * x[0, 0, 0]),
            "written": written,
        },
        (X, Y),
    )


def test_fourier_transforms() -> None:
    check_each(
        {
            "fft": lambda x, y: AS_REAL(torch.fft.fft(x)),
            "fft complex": lambda x, y: AS_REAL(torch.fft.fft(paired(x, y), dim=1)),
            "ifft": lambda x, y: AS_REAL(torch.fft.ifft(paired(x, y), norm="ortho")),
            "rfft": lambda x, y: AS_REAL(torch.fft.rfft(x, n=14)),
            "irfft": lambda x, y: torch.fft.irfft(torch.fft.rfft(x) * torch.fft.rfft(y)),
            "odd irfft": lambda x, y: torch.fft.irfft(torch.fft.rfft(x), n=7),
            "fft2": lambda x, y: torch.fft.fft2(x, norm="forward").real,
            "rfft2": lambda x, y: torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho"), norm="ortho"),
            "rfftn": lambda x, y: torch.fft.irfftn(torch.fft.rfftn(x, dim=(0, 2)), dim=(0, 2)),
            "hfft": lambda x, y: torch.fft.hfft(paired(x, y)),
            "fftshift": lambda x, y: torch.fft.fftshift(torch.fft.fft(x)).real,
            "power": lambda x, y: torch.fft.rfft(x).abs() ** 2,
        },
        (X, Y),
    )


@pytest.mark.filterwarnings("ignore:.*(window was not provided|length of signal is shorter)")
def test_short_time_transforms() -> None:
    window = torch.hann_window(16)

    def there_and_back(x: torch.Tensor, hop: int, **options: Any) -> torch.Tensor:
        normalized = options.pop("normalized", False)
        spectrum = torch.stft(x, 16, hop, window=window, normalized=normalized, return_complex=True)
        return torch.istft(spectrum, 16, hop, window=window, normalized=normalized, **options)

    def narrow(x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(x[0], 20, 6, 16, window, return_complex=True)
        return torch.istft(spectrum, 20, 6, 16, window)

    signal = torch.randn(2, 64)
    check_each(
        {
            "stft": lambda x: torch.stft(x, 16, 4, window=window, return_complex=True).abs() ** 2,
            "centre": lambda x: AS_REAL(torch.stft(x, 16, 5, center=False, return_complex=True)),
            "both sides": lambda x: AS_REAL(torch.stft(x, 16, window=window, onesided=False, return_complex=True)),
            "complex": lambda x: AS_REAL(torch.stft(torch.complex(x, x), 16, window=window, return_complex=True)),
            "istft": lambda x: there_and_back(x, 4),
            "odd steps": lambda x: there_and_back(x, 5, normalized=True),
            "to a length": lambda x: there_and_back(x, 4, length=60),
            "beyond the end": lambda x: there_and_back(x, 5, length=70)[:, :60],
            "window shorter than a frame": narrow,
        },
        (signal,),
    )


class Rotary(torch.nn.Module):
    """Rotary positions as complex factors, kept as a complex buffer."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(4.0), 1 / 100 ** (torch.arange(5.0) / 5))
        self.register_buffer("factors", torch.polar(torch.ones_like(angles), angles))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return AS_REAL(pairs * self.factors).flatten(-2)


def test_a_complex_buffer() -> None:
    module = Rotary()
    imported = load(module, (X,))
    assert_close(call(imported, X), module(X), "rotary")
    assert [array.shape for array in imported.weights().values()] == [(4, 5, 2)]
    program = sansuan.compile(module, (X,))
    assert_close(program(X), module(X), "native")
    with torch.no_grad():
        module.factors.mul_(1j)
    program.refresh()
    assert_close(program(X), module(X), "refreshed")


class Filtered(torch.nn.Module):
    """Complex in and out."""

    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> dict[str, Any]:
        return {"all": torch.fft.fft(x) * scale, "power": (x * x.conj()).real}


def test_complex_inputs_and_results() -> None:
    module, x = Filtered(), torch.complex(X, Y)
    expected = module(x, Y)
    for found in (call(load(module, (x, Y)), x, Y), sansuan.compile(module, (x, Y))(x, Y)):
        for name, tensor in expected.items():
            assert_close(found[name], tensor, name)
    conjugate = sansuan.compile(module, (x, Y))(x.conj(), Y)
    assert_close(conjugate["all"], module(x.conj(), Y)["all"], "a lazily conjugated input")
    with pytest.raises(DtypeError, match="expected a complex tensor"):
        load(module, (x, Y)).flatten((X, Y), {})


def test_what_no_row_covers_is_named() -> None:
    class Unknown(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(torch.view_as_complex(x)).real

    with pytest.raises(UnsupportedOp, match=r"aten.tanh.default of complex values.*view_as_real"):
        load(Unknown(), (torch.randn(3, 2),))
