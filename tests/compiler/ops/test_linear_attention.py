"""Linear attention over sequences whose length is known only in the call."""

from __future__ import annotations

import numpy as np
import pytest

from backends.native.executable import Executable
from backends.native.target import host
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.kernels import HostCall
from compiler.op import lookup
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options

LENGTH = dims.symbol("length")


@pytest.mark.parametrize("rule", ["linear", "gated"])
def test_a_named_length(rule: str) -> None:
    rng = np.random.default_rng(7)
    b = Builder()
    names = ("q", "k", "v", "decay")[: 4 if rule == "gated" else 3]
    inputs = [b.input(name, TensorType(dtypes.float32, (1, LENGTH, 6))) for name in names]
    operands = [*inputs[:3], None, *inputs[3:]]
    attrs = {"q_num_heads": 2, "kv_num_heads": 2, "scale": 0.0, "update_rule": rule}
    lowered = lower_graph(b.finish(b.emit_many("linear_attention", operands, attrs, ["y", "state"])))
    assert not any(isinstance(call, HostCall) for call in lowered.calls)
    program = Executable(lowered, host(), Options(threads=1, cache_dir=None))
    for length in (1, 5, 23):
        arrays = [rng.standard_normal((1, length, 6)).astype(np.float32) for _ in names]
        arrays[3:] = [-np.abs(array) for array in arrays[3:]]
        expected = lookup("linear_attention").reference(*arrays[:3], None, *arrays[3:], **attrs)  # type: ignore[misc]
        for found, want in zip(program.run(arrays), expected, strict=True):
            np.testing.assert_allclose(found, want, rtol=2e-5, atol=2e-5)
