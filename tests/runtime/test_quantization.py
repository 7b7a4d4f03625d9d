"""Calibration, quantization within an error bound, and policies as files."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

import runtime
from compiler.policy import Policy
from compiler.quantization import affine, symmetric
from models.export import to_onnx
from runtime import cli
from runtime.activation_range import METHODS, Histogram, quantized, squared_error
from runtime.weight_rounding import compensated


class Net(torch.nn.Module):
    """Two layers, the second of which is given an activation with outlying channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = torch.nn.Linear(24, 384), torch.nn.Linear(384, 32)
        with torch.no_grad():
            self.first.weight[:3] *= 60

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.nn.functional.gelu(self.first(x)))


@lru_cache
def data() -> list[tuple[torch.Tensor]]:
    torch.manual_seed(5)
    return [(torch.randn(64, 24),) for _ in range(3)]


@lru_cache
def policy(method: str) -> Policy:
    return runtime.calibrate(Net(), data(), method)


def error(precision: object) -> float:
    net, x = Net(), torch.randn(200, 24, generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        truth = net(x).numpy()
    found = runtime.compile(net, (x,), precision=precision).results([x.numpy()])[0]  # type: ignore[arg-type]
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


@pytest.mark.parametrize("method", METHODS)
def test_every_product_is_calibrated_and_near(method: str) -> None:
    found = policy(method)
    assert found.precision == "int8"
    assert set(found.calibrated) == set(found.errors) == {"first/linear", "second/linear_1"}
    assert all(0 < value < 0.03 for value in found.errors.values())
    assert error(found) < 0.03


def test_smoothing_and_rounding_help() -> None:
    calibrated = policy("minmax").calibrated["second/linear_1"]
    assert calibrated.smoothing is not None and calibrated.codes is not None and calibrated.codes.dtype == np.int8
    assert error(policy("minmax")) < error("int8")


def test_channels_silent_in_few_data_do_not_spoil_what_comes() -> None:
    torch.manual_seed(11)
    net = torch.nn.Sequential(torch.nn.Linear(24, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8))
    with torch.no_grad():
        net[0].bias[:20] -= 1.5  # seldom above 0
    found = runtime.calibrate(net, [(torch.randn(1, 24),) for _ in range(12)])
    x = torch.randn(300, 24)
    with torch.inference_mode():
        truth = net(x).numpy()
    (result,) = runtime.compile(net, (x,), precision=found).results([x.numpy()])
    assert np.linalg.norm(result - truth) / np.linalg.norm(truth) < 0.05


def test_a_method_that_is_none_and_no_data_are_refused() -> None:
    with pytest.raises(runtime.SansuanError, match="expected one of minmax, percentile, mse"):
        runtime.calibrate(Net(), data(), "median")
    with pytest.raises(runtime.ModelError):
        runtime.calibrate(to_onnx(Net(), data()[0]), [])


def test_quantize_keeps_out_of_eight_bits_what_the_bound_needs() -> None:
    loose = runtime.quantize(Net(), data(), max_error=0.1)
    assert loose.error <= 0.1 and all(choice.precision == "int8" for choice in loose.choices)
    between = runtime.quantize(Net(), data(), max_error=0.004)
    assert between.error <= 0.004 and any(choice.precision == "bf16" for choice in between.choices)
    tight = runtime.quantize(Net(), data(), max_error=1e-5)
    assert tight.error <= 1e-5 and any(choice.precision == "fp32" for choice in tight.choices)
    assert "products: " in str(tight) and "own error in int8" in str(tight)
    (reason,) = {row.reason.split(":")[0] for row in tight.program.ledger() if row.node == "first/linear"}
    assert reason == "kept in fp32"


def test_policies_are_files(tmp_path: Path) -> None:
    saved = policy("mse").with_rules(runtime.Rule("bf16", node="a*", reason="said so"))
    saved.save(tmp_path / "policy.npz")
    found = Policy.load(tmp_path / "policy.npz")
    assert (found.precision, found.rules, found.errors) == (saved.precision, saved.rules, saved.errors)
    for product, how in saved.calibrated.items():
        again = found.calibrated[product]
        assert (again.low, again.high) == (how.low, how.high)
        np.testing.assert_array_equal(again.codes, how.codes)
        np.testing.assert_array_equal(again.smoothing, how.smoothing)
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(runtime.ModelError, match="no policy file"):
        Policy.load(tmp_path / "other.npz")


def test_the_command_writes_a_policy_that_compiles(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, inputs, written = (str(tmp_path / name) for name in ("net.onnx", "x.npz", "policy.npz"))
    Path(model).write_bytes(to_onnx(Net(), data()[0]))
    (name,) = (spec.name for spec in runtime.compile(model).inputs)
    np.savez(inputs, **{name: data()[0][0].numpy()})  # type: ignore[arg-type]
    assert cli.main(["quantize", model, "--data", inputs, "--max-error", "0.05", "--policy", written]) == 0
    assert "2 in int8" in capsys.readouterr().out
    assert cli.main(["run", model, "--precision", written, "--repeat", "1"]) == 0


def test_a_range_has_a_code_for_zero() -> None:
    for low, high in ((-1.0, 3.0), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0)):
        scale, zero = affine(low, high)
        assert 0 <= zero <= 255
        assert quantized(np.zeros(1), low, high) == 0
        assert abs(quantized(np.array([high]), low, high)[0] - high) <= scale / 2 + 1e-6


def test_symmetric_codes_are_within_half_a_step() -> None:
    weights = np.random.default_rng(0).standard_normal((20, 6))
    codes, scales = symmetric(weights, (0,))
    assert scales.shape == (1, 6) and np.abs(codes).max() == 127
    assert (np.abs(codes * scales - weights) <= scales * 0.5000001).all()


def test_least_squares_leave_outliers_outside() -> None:
    rng, seen = np.random.default_rng(1), Histogram()
    seen.add(rng.standard_normal(20000))
    seen.add(np.array([40.0]))
    ends = {name: method(seen) for name, method in METHODS.items()}
    assert ends["minmax"][1] == 40 and ends["percentile"][1] < 6 and ends["mse"][1] < 40
    assert squared_error(seen, *ends["mse"]) < squared_error(seen, *ends["minmax"])


def test_rounding_together_errs_less_than_rounding_alone() -> None:
    rng = np.random.default_rng(2)
    rows = (rng.standard_normal((400, 8)) @ rng.standard_normal((8, 160))).astype(np.float32)  # far from independent
    weights = rng.standard_normal((160, 12)).astype(np.float32)
    nearest, scales = symmetric(weights, (0,))
    truth = rows @ weights
    alone, together = (
        np.linalg.norm(rows @ (codes * scales) - truth) for codes in (nearest, compensated(weights, scales, rows))
    )
    assert together < 0.3 * alone
