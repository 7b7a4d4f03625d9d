"""The package on an Arm machine: it compiles models there, runs them with this machine's bits, and says on what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import runtime
from models import bert, mlp, resnet
from models.export import to_onnx
from tests.backends.native.harness import in_order
from tests.emulation import aarch64_package
from tests.emulation.aarch64 import CPU
from tests.emulation.aarch64_package import Job, Report
from tests.emulation.amx import REQUIRED

MODELS: dict[str, Callable[[], tuple[torch.nn.Module, tuple[torch.Tensor, ...]]]] = {
    "mlp": lambda: mlp.build(batch=5),
    "half": lambda: mlp.build((32, 48, 7), batch=5, dtype=torch.float16),
    "bert": lambda: bert.build("small", batch=2, seq=16),
    "resnet": lambda: resnet.build((1, 1), width=16, classes=10, size=16, batch=2),
    "large": lambda: mlp.build((256, 512, 512, 64), batch=33),  # these two give work to two threads
    "batch": lambda: bert.build("small", batch=4, seq=48),
}
MACHINES = {
    "tiles": CPU,
    "wide": "max,pauth=off,sme=off,sve-default-vector-length=32",
    "narrow": "max,pauth=off,sme=off,sve=off",
}
# The unit that products of a model run on, by the machine and the precision it is compiled in.
EXPECTED = {
    "tiles": {"": "sme_float32", "fp64": "sme_float64", "bf16": "sme_bfloat16", "int8": "sme_uint8_int8"},
    "wide": {"": "sve_float32", "fp64": "sve_float64", "bf16": "sve_bfmmla_bfloat16", "int8": "sve_i8mm_uint8_int8"},
    "narrow": {"": "neon_float32", "fp64": "neon_float64", "bf16": "bfmmla_bfloat16", "int8": "i8mm_uint8_int8"},
}
BRANCH = 128 << 20  # bytes a branch reaches on Arm


@pytest.fixture(autouse=True)
def there() -> Iterator[None]:
    """Skips where something is missing, unless SANSUAN_REQUIRE_EMULATION=1."""
    missing = aarch64_package.missing()
    if missing and os.environ.get(REQUIRED) != "1":
        pytest.skip(f"needs {missing}: `make emulators`")
    assert not missing, f"{missing} is missing: run `make emulators`"
    yield


def save(name: str, folder: Path) -> list[np.ndarray]:
    """A model as a job takes it; the answer is its inputs."""
    module, inputs = MODELS[name]()
    arrays = [tensor.numpy() for tensor in inputs]
    to_onnx(module, inputs, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", **{str(number): array for number, array in enumerate(arrays)})
    return arrays


def here(folder: Path, job: Job, inputs: Sequence[np.ndarray], precision: str | None) -> list[np.ndarray]:
    """What a job's model answers on this machine, on units that sum in the reference's order."""
    policy = runtime.Policy.load(folder / precision) if precision and precision.endswith(".npz") else precision
    program = runtime.compile(folder / f"{job.model}.onnx", precision=policy, target=in_order())
    results = program(*inputs)
    return list(results) if isinstance(results, tuple) else [results]


def check(report: Report, jobs: Sequence[Job], inputs: dict[str, list[np.ndarray]], machine: str) -> None:
    """Every job ran on the units it should, again and again with the same bits: this machine's, where units sum in the
    reference's order, and else as near to what is exact as this machine's."""
    for job in jobs:
        said, given = report.jobs[job.name], inputs[job.model]
        assert said["steady"], job
        # Newer emulators also have the second version of the same tiles.
        units = {row["unit"].replace("sme2_", "sme_") for row in said["rows"]}
        assert "host" not in units, job
        expected = EXPECTED[machine].get(job.precision or "", EXPECTED[machine]["int8"])
        assert expected in units or job.model == "half", (job, units)
        assert said["in_order"] or job.precision == "bf16" or job.model == "half", job
        exact = None if said["in_order"] else here(report.folder, job, given, "fp64")
        both = zip(report.outputs(job.name), here(report.folder, job, given, job.precision), strict=True)
        for number, (ours, theirs) in enumerate(both):
            assert ours.dtype == theirs.dtype
            if exact is None:
                np.testing.assert_array_equal(ours, theirs, err_msg=str(job))
            else:
                error, usual = (np.linalg.norm(x - exact[number]) for x in (ours, theirs))
                assert 0 < error < 1.5 * usual, job


@pytest.mark.slow
def test_a_small_model(tmp_path: Path) -> None:
    """Compiled in a child, the object files come back from the cache; the interpreter is called from afar, and through
    the native entry; the machine is described."""
    jobs = [
        Job("first", "mlp", "int8", apart=True),
        Job("again", "mlp", "int8"),
        Job("plain", "mlp"),
    ]
    inputs = {"mlp": save("mlp", tmp_path)}
    report = aarch64_package.run(jobs, tmp_path, MACHINES["tiles"])
    check(report, jobs, inputs, "tiles")
    first, again = report.jobs["first"], report.jobs["again"]
    assert first["compiled"] == again["cached"] > 1 and first["cached"] == again["compiled"] == 0
    machine = report.machine
    assert machine["triple"] == "aarch64-unknown-linux-gnu"
    assert machine["streaming"] == 64
    assert {"neon", "dotprod", "i8mm", "bf16", "sve", "sme", "sme-f64f64"} <= set(machine["features"])
    assert machine["units"]["sme_float32"] == "" and "x86_64" in machine["units"]["amx_int8_int8"]
    assert "  sme          float32, float64" in machine["command"]
    assert machine["targets"]["generic"] == machine["targets"]["host-neon"] == machine["targets"]["armv9-sme"] == ""
    assert machine["targets"]["x86-64-v3"] == "the architecture x86_64"
    assert machine["targets"]["armv8.4-sve256"] == "vectors of 256 bits: its own have 512"
    assert machine["entry"] and machine["distance"] > BRANCH


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_models(machine: str, tmp_path: Path) -> None:
    """In all precisions; on two threads what they gave on one."""
    inputs = {name: save(name, tmp_path) for name in MODELS}
    jobs = [Job("half", "half")]
    for name in ("mlp", "resnet") if machine == "wide" else ("mlp", "bert", "resnet"):
        runtime.calibrate(tmp_path / f"{name}.onnx", [tuple(inputs[name])]).save(tmp_path / f"{name}-ranges.npz")
        precisions = (None, "fp64", "bf16", "int8", f"{name}-ranges.npz")
        jobs += [Job(f"{name}-{number}", name, precision) for number, precision in enumerate(precisions)]
    shared = [
        Job(f"{name}-{precision}-{threads}", name, precision, threads, runs=5)
        for name in ("large", "batch")
        for precision in (None, "bf16", "int8")
        for threads in (1, 2)
    ]
    report = aarch64_package.run([*jobs, *shared], tmp_path, MACHINES[machine])
    check(report, [*jobs, *shared], inputs, machine)
    for alone, together in zip(shared[::2], shared[1::2], strict=True):
        assert report.jobs[alone.name]["chunks"] == 0 < report.jobs[together.name]["chunks"], together
        for ours, theirs in zip(report.outputs(together.name), report.outputs(alone.name), strict=True):
            np.testing.assert_array_equal(ours, theirs)
