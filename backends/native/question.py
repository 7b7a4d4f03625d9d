"""What tuning asks, as texts that a choice is remembered by: alike for calls that one choice serves."""

from __future__ import annotations

from collections.abc import Callable

from backends.native.access import cost
from backends.native.candidates import Problem
from backends.native.epilogue import Epilogue
from backends.native.gemm import GemmKernel
from compiler.dims import Size
from compiler.kernels import KernelCall


def cut_question(
    problem: Problem, kernel: GemmKernel, call: KernelCall, size: Callable[[Size], int], cold: bool
) -> str:
    """How to cut a product on a grid, by its sizes' classes."""
    product = problem.product
    sizes = [size_class(extent) for extent in (product.batch, product.m, product.n, product.k, product.groups)]
    layout = [product.segment, product.gathers, product.unit_b, size(call.reads[0].strides[-1]) == 1]
    return _text("cut", *_kind(kernel), *layout, *sizes, problem.threads, cold)


def grid_question(kernel: GemmKernel, call: KernelCall, threads: int, cold: bool) -> str:
    """Which grid serves a product of known sizes; what is left over of N matters, so it stands for itself."""
    batch = [size_class(extent) for extent in call.writes[0].shape[: kernel.spec.batch_rank] if isinstance(extent, int)]
    m, n = call.writes[0].shape[-2:]
    k = call.reads[1].shape[-2]
    assert isinstance(m, int) and isinstance(k, int)
    return _text("grid", *_kind(kernel), kernel.spec.a_axis, *batch, size_class(m), n, size_class(k), threads, cold)


def size_class(size: int) -> int:
    """The largest of the sizes that count as one: those with the same three leading binary digits, less one."""
    step = 1 << max(0, (size - 1).bit_length() - 3)
    return -(-size // step) * step


def _kind(kernel: GemmKernel) -> list[object]:
    """Unit, grid and what else shapes the code, as far as it matters to time."""
    spec, shape = kernel.spec, kernel.shape
    epilogue = Epilogue.of(spec, kernel.matrix_unit.n)
    finish = "direct" if epilogue.direct else f"tile{cost(epilogue.outputs).bit_length()}"
    form = [spec.constant_b, spec.b_axis, bool(spec.window), shape.indirect, bool(spec.ends), shape.packs_a]
    return [kernel.unit, shape.grid.rows, shape.grid.columns, finish, len(epilogue.sums), *form, shape.copies_a]


def _text(*parts: object) -> str:
    words = (str(int(part)) if isinstance(part, bool) else str(part) for part in parts)
    return " ".join(word.replace(" ", "") for word in words)
