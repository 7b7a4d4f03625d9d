"""Programs that compute products, one for each form and types, any sizes and strides; and their plans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from backends.native.arena import ArenaPool
from backends.native.executable import Executable
from backends.native.plan import Plan
from backends.native.target import host
from compiler import dims
from compiler.builder import Builder
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.errors import DtypeError
from compiler.expr import arg, cast
from compiler.ir import Value
from compiler.lowering.products import lower_matmul
from compiler.lowering.split_k import Cut, cut_of
from compiler.passes.lower import Lowering
from compiler.pipeline import optimize
from compiler.types import TensorType
from runtime.options import Options
from runtime.product_layout import Form, Layout, lay_out
from runtime.product_operands import BYTES, ProductTypes
from runtime.recent import Recent

PLANS = 1024  # cases (shapes, strides, types, options) whose plans are kept
ARENAS = ArenaPool()  # one for all products, so that builtins may know plans of several programs


@dataclass(frozen=True, eq=False)
class ReadyProduct:
    """A planned product of two arrays, which are read where they lie."""

    executable: Executable
    plan: Plan
    operands: tuple[np.ndarray, np.ndarray]

    def run(self, result: np.ndarray) -> None:
        """Fill `result`, C-contiguous and apart from the operands."""
        self.executable.execute(self.plan, self.executable.slot_table([*self.operands, result]))


_plans: Recent[tuple[Any, ...], tuple[Executable, Plan]] = Recent(PLANS)


def plan_product(a: np.ndarray, b: np.ndarray, types: ProductTypes, options: Options) -> ReadyProduct:
    """A product that is not empty, of `readable` operands that fit."""
    key = (a.shape, a.strides, b.shape, b.strides, types, options)
    found = _plans.get(key)
    if found is None:
        layout = lay_out(a, b)
        assert isinstance(layout, Layout), "operands are readable"
        cut = cut_of(prod(axis.extent for axis in layout.batch), layout.m, layout.k, layout.n)
        executable = _program(layout.form, types, options, _named(cut))
        plan = executable.plan_under(_sizes(layout, cut)).plan
        plan.kept = (*plan.kept, executable)  # whose counters it adds to
        found = executable, plan
        _plans.put(key, found)
    return ReadyProduct(*found, (a, b))


def _named(cut: Cut | None) -> Cut | None:
    """A cut along K of any such sizes."""
    return cut and Cut(dims.symbol("chunks"), dims.symbol("rest") if cut.rest else 0)


def _sizes(layout: Layout, cut: Cut | None) -> dict[str, int]:
    sizes = {
        "m": layout.m, "k": layout.k, "n": layout.n, "left_step": layout.left_step, "right_step": layout.right_step,
    }  # fmt: skip
    if cut is not None:
        sizes |= {"chunks": dims.evaluate(cut.chunks, {}), "rest": dims.evaluate(cut.rest, {})}
    for i, axis in enumerate(layout.batch):
        sizes |= {f"batch{i}": axis.extent, f"left_batch{i}": axis.left, f"right_batch{i}": axis.right}
    return sizes


@lru_cache(maxsize=256)
def _program(form: Form, types: ProductTypes, options: Options, cut: Cut | None) -> Executable:
    """The compiled product. Its inputs are a and b in this order, whichever is the left factor. cut: how it is shared
    out over K, by named sizes; None: it is not."""
    b = Builder()
    names = ("right", "left") if form.swapped else ("left", "right")
    ends = {"left": ("m", "k"), "right": ("k", "n")}

    def factor(side: str, dtype: DType) -> Value:
        index = 0 if side == "left" else 1
        batch = [1 if axis[index] else b.claim_symbol(f"batch{i}") for i, axis in enumerate(form.repeats)]
        return b.input(side, TensorType(dtype, (*batch, *(b.claim_symbol(name) for name in ends[side]))))

    inputs = {side: factor(side, dtype) for side, dtype in zip(names, (types.a, types.b), strict=True)}
    factors = [_converted(b, inputs[side], types.compute) for side in ("left", "right")]
    product = b.emit("matmul", *factors, acc=types.result if types.a in BYTES else None)
    graph = optimize(b.finish([_converted(b, product, types.result if types.compute else None)]))
    found = graph.outputs[0].type
    if not isinstance(found, TensorType) or found.dtype != types.result:
        raise DtypeError(f"matmul: products of {types.a} and {types.b} give {found}, expected {types.result}")
    low = Lowering(graph)
    for side, value in inputs.items():  # inputs are dense to a graph; these lie anywhere
        low.views[value.name] = replace(low.views[value.name], strides=_strides(b, form, side))
    for node in graph.nodes:
        if node.op == "matmul" and cut is not None:
            lower_matmul(node, low, cut)
        else:
            low.lower_node(node)
    return Executable(low.finish(), host(), options, ARENAS)


def _converted(b: Builder, value: Value, dtype: DType | None) -> Value:
    """A value in another type (None: its own)."""
    assert isinstance(value.type, TensorType)
    if dtype is None or dtype == value.type.dtype:
        return value
    return b.emit("map", value, outputs=(cast(arg(0, value.type.dtype), dtype),))


def _strides(b: Builder, form: Form, side: str) -> tuple[Size, ...]:
    """The strides of a factor: named numbers, 1 along the contiguous axis."""
    step: tuple[Size, Size] = (b.claim_symbol(f"{side}_step"), 1)
    contiguous = form.left if side == "left" else form.right
    batch = [b.claim_symbol(f"{side}_batch{i}") for i in range(len(form.repeats))]
    return (*batch, *(step if contiguous == "row" else step[::-1]))
