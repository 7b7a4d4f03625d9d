"""The model against this machine: predictions from its measured limits beside measured products, and the error."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from backends.native.target import host
from bench.gemm_kernels import Case, Runner
from bench.model_cost import Prediction, predict
from bench.model_machines import Machine
from bench.peak import peak
from bench.report import table
from bench.shapes import parse

SHAPES = parse(
    "64x64x64,128x128x128,256x256x256,512x512x512,1024x1024x1024,2048x2048x2048,128x768x768,128x3072x768,"
    "128x768x3072,127x131x137,509x251x1021,3136x64x576,8192x32x256,64x64x16384,4x4096x4096"
)
FORMS = ("constant", "row")
SAMPLES, RUNS = 4, 4  # peaks taken, and runs of the kernel between two
CALLS = 2000  # of a chunk that has nothing to do
COLUMNS = ("product", "unit", "predicted", "measured", "error", "binds", "largest loss")


@dataclass(frozen=True)
class Compared:
    """A prediction and the fraction of peak that was measured."""

    prediction: Prediction
    measured: float

    @property
    def error(self) -> float:
        """Predicted over measured time, less one: above 0 the model is too pessimistic."""
        return self.measured / self.prediction.fraction - 1


def validate(machine: Machine, dtypes: Sequence[str], shapes: Sequence = SHAPES, forms: Sequence[str] = FORMS) -> str:
    """Every product predicted and measured on one thread: a table, and the median and the worst error."""
    found = [
        Compared(predict(machine, case), measure(case))
        for dtype in dtypes
        for case in (Case(s.m, s.n, s.k, form, dtype=dtype) for s in shapes for form in forms)
    ]
    return report(machine, found)


def measure(case: Case) -> float:
    """The best rate of the kernel alone, in parts of the best peak measured around it: the time of this thread, less
    what a call from Python takes that does nothing."""
    runner = Runner(case, host(), 0)
    best, nothing, most = float("inf"), float("inf"), 0.0
    for _ in range(SAMPLES):
        most = max(most, peak(case.dtype))
        best = min(best, *(runner.seconds() for _ in range(RUNS)))
        nothing = min(nothing, _nothing(runner))
    return 2 * case.m * case.n * case.k / (best - nothing) / max(most, peak(case.dtype))


def _nothing(runner: Runner) -> float:
    """Seconds a call takes for the chunk behind the last."""
    block, slots, scratch = runner.blocks[0].ctypes.data, runner.slots.ctypes.data, runner.scratch.ctypes.data
    start = time.thread_time()
    for _ in range(CALLS):
        runner.function(block, slots, runner.chunks, scratch)
    return (time.thread_time() - start) / CALLS * runner.chunks


def report(machine: Machine, found: Sequence[Compared]) -> str:
    """The table, and what the errors come to by element type and over all."""
    lines = [table("", COLUMNS, [_row(compared) for compared in found], left=2), "", _limits(machine)]
    kinds = dict.fromkeys(compared.prediction.case.dtype for compared in found)
    groups = [(kind, [c for c in found if c.prediction.case.dtype == kind]) for kind in kinds]
    for name, some in (*groups, ("all", list(found))):
        errors = [abs(compared.error) for compared in some]
        worst = max(some, key=lambda compared: abs(compared.error))
        lines.append(
            f"{name}: {len(some)} products, median error {statistics.median(errors):.1%}, "
            f"worst {worst.error:+.1%} ({worst.prediction.case}), signed median "
            f"{statistics.median(c.error for c in some):+.1%}"
        )
    return "\n".join(lines)


def _row(compared: Compared) -> tuple[str, ...]:
    prediction = compared.prediction
    loss = prediction.parts[prediction.loss] / prediction.cycles
    return (
        str(prediction.case), prediction.kernel.unit, f"{prediction.fraction:.1%}", f"{compared.measured:.1%}",
        f"{compared.error:+.1%}", prediction.binds, f"{prediction.loss} {loss:.1%}",
    )  # fmt: skip


def _limits(machine: Machine) -> str:
    products = ", ".join(f"{kind} {cycles:.2f}" for kind, cycles in machine.products.items())
    return (
        f"measured: {machine.clock / 1e9:.2f} GHz; cycles a product: {products}; bytes a cycle: L1 "
        f"{machine.inside.load_bytes:.0f}, L2 {machine.l2_bytes:.0f}, L3 {machine.l3_bytes:.1f}, memory "
        f"{machine.memory_bytes(1):.1f}"
    )
