"""Every op's samples at other sizes (0 and 1, odd, just past a vector), other values and other layouts: what native
code gives is what the op's reference gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st

from backends.native.executable import Executable
from backends.native.target import host
from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Size
from compiler.ir import Graph, Value
from compiler.passes.specialize import specialize
from compiler.pipeline import lower_graph
from compiler.types import TensorType
from runtime.options import Options
from runtime.program import Program
from tests.compiler.ops.generated import FIXED_OPERANDS, ONLY_SYMBOLIC, Case, cases

SIZES = (0, 1, 2, 3, 5, 7, 8, 9, 13, 16, 17, 33)
LAYOUTS = ("plain", "turned", "every second", "reversed")


@dataclass(frozen=True)
class Drawing:
    """How a sample is changed: the sizes that take the place of its sizes (equal ones stay equal), a layout for each
    operand, whether sizes are names while compiling, a seed for the contents."""

    sizes: dict[int, int]
    layouts: tuple[str, ...]
    symbolic: bool
    seed: int


@st.composite
def drawings(draw: Callable[[Any], Any], case: Case) -> Drawing:
    """Any drawing for a sample."""
    found = sorted({size for array in case.sample.inputs if isinstance(array, np.ndarray) for size in array.shape})
    sizes = {size: draw(st.sampled_from((size, *SIZES))) for size in found if size > 1}
    layouts = tuple(draw(st.sampled_from(LAYOUTS)) for _ in case.sample.inputs)
    return Drawing(sizes, layouts, draw(st.booleans()), draw(st.integers(0, 2**16)))


def operand_values(case: Case, drawing: Drawing) -> tuple[np.ndarray | None, ...]:
    """The sample's operands at the drawn sizes, each element one of those the operand had."""
    rng = np.random.default_rng(drawing.seed)
    made: list[np.ndarray | None] = []
    for i, array in enumerate(case.sample.inputs):
        if array is None or i in case.op.value_operands:
            made.append(array)
            continue
        fixed = (case.op.name, i) in FIXED_OPERANDS or array.size == 0
        shape = array.shape if fixed else tuple(drawing.sizes.get(size, size) for size in array.shape)
        made.append(np.asarray(rng.choice(array.reshape(-1), shape) if array.size else array).astype(array.dtype))
    return tuple(made)


def graph_of(case: Case, arrays: tuple[np.ndarray | None, ...], drawing: Drawing, outputs: int) -> tuple[Graph, list]:
    """A graph of the one op, its operands read in the drawn layouts, and what to feed it."""
    b, feeds = Builder(), []
    operands: list[Value | None] = []
    names: dict[int, Size] = {}
    for i, array in enumerate(arrays):
        if array is None:
            operands.append(None)
        elif i in case.op.value_operands:
            operands.append(b.constant(array))
        else:
            layout = drawing.layouts[i] if array.ndim else "plain"
            feed = LAID[layout](array)
            fixed = case.op.name in ONLY_SYMBOLIC or (case.op.name, i) in FIXED_OPERANDS
            symbolic = drawing.symbolic and layout != "every second" and not fixed
            shape = tuple(
                names.setdefault(size, dims.symbol(f"n{size}")) if symbolic and size > 1 else size
                for size in feed.shape
            )
            value = b.input(f"x{i}", TensorType(dtypes.from_numpy(array.dtype), shape))
            operands.append(READ[layout](b, value, array.ndim))
            feeds.append(feed)
    return b.finish(b.emit_many(case.op.name, operands, case.sample.attrs, [f"y{i}" for i in range(outputs)])), feeds


LAID: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "plain": lambda a: a,
    "turned": lambda a: np.ascontiguousarray(a.T),
    "every second": lambda a: np.repeat(a, 2, axis=-1),
    "reversed": lambda a: np.ascontiguousarray(np.flip(a, 0)),
}


def _last_halved(b: Builder, x: Value, rank: int) -> Value:
    shape = x.type.shape
    sizes = (*shape[:-1], shape[-1] // 2)
    return b.emit("slice", x, starts=(0,) * rank, sizes=sizes, steps=(*(1,) * (rank - 1), 2))


def _first_reversed(b: Builder, x: Value, rank: int) -> Value:
    shape = x.type.shape
    return b.emit("slice", x, starts=(shape[0] - 1, *(0,) * (rank - 1)), sizes=shape, steps=(-1, *(1,) * (rank - 1)))


READ: dict[str, Callable[[Builder, Value, int], Value]] = {
    "plain": lambda b, x, rank: x,
    "turned": lambda b, x, rank: b.emit("transpose", x, perm=tuple(reversed(range(rank)))),
    "every second": _last_halved,
    "reversed": _first_reversed,
}


def program_of(graph: Graph) -> Program:
    """The graph compiled for this machine, as runtime.compile would."""
    options = Options.resolve(threads=1, cache=False)

    def native(graph: Graph) -> Executable:
        return Executable(lower_graph(graph), host(), options)

    return Program(graph, native(graph), {}, specialize=lambda shapes: native(specialize(graph, shapes)))


def check(case: Case, drawing: Drawing) -> None:
    """Native code gives what the reference gives, wherever the op means something for what was drawn."""
    arrays = operand_values(case, drawing)
    try:
        with np.errstate(all="ignore"):
            expected = replace(case, sample=replace(case.sample, inputs=arrays)).expected()
        graph_of(case, arrays, replace(drawing, symbolic=False), len(expected))
    except Exception:  # NumPy raises what it likes for sizes and values the op has no meaning for
        reject()
    graph, feeds = graph_of(case, arrays, drawing, len(expected))
    found = program_of(graph)(*feeds)
    # Errors of sums grow with their length, so the tolerance, stated for the sample's sizes, grows too.
    growth = max([new / old for old, new in drawing.sizes.items()], default=1.0)
    for got, want in zip(found, expected, strict=True):
        assert_within(got, np.asarray(want), (case.sample.tolerance + 2) * max(growth, 1))


def assert_within(got: np.ndarray, want: np.ndarray, units: float) -> None:
    """Within so many epsilons of the largest finite value, at least 1; what is no float is equal. What nearly
    overflows may do so on the way."""
    assert got.dtype == want.dtype and got.shape == want.shape
    if want.dtype.kind in "biuO" or not dtypes.from_numpy(want.dtype).is_float:
        np.testing.assert_array_equal(got, want)
        return
    a, b = got.astype(np.float64), want.astype(np.float64)
    scale = np.abs(b).max(initial=1, where=np.isfinite(b))
    bound = units * float(ml_dtypes.finfo(want.dtype).eps) * scale
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(a - b) <= bound) | (a == b) | (np.isnan(a) & np.isnan(b)))
        wrong &= np.isfinite(a) | (np.abs(b) < float(ml_dtypes.finfo(want.dtype).max) / 4)
    assert not wrong.any(), f"found {got[wrong][:5]}, expected {want[wrong][:5]}"


CASES = {
    name: case for name, case in cases() if all(a is None or isinstance(a, np.ndarray) for a in case.sample.inputs)
}
BUDGET = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))


def check_drawings(name: str, budget: settings) -> None:
    """The case, changed as often as the budget says."""

    # A test of its own for each case: settings shared by a thousand cases keep a chain of a thousand parents.
    @settings(budget)
    @given(drawings(CASES[name]))
    def drawn(drawing: Drawing) -> None:
        check(CASES[name], drawing)

    drawn()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_a_redrawn_sample(name: str) -> None:
    check_drawings(name, settings(BUDGET, max_examples=3, derandomize=True, phases=[Phase.generate]))


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_many_redrawn_samples(name: str) -> None:
    check_drawings(name, settings(BUDGET, max_examples=40))
