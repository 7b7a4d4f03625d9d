"""The samples of every registered op, and what the generated tests share."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from compiler import dims, dtypes
from compiler.builder import Builder
from compiler.dims import Dim, Size
from compiler.ir import Graph, Value
from compiler.op import REGISTRY, Op, Sample, lookup
from compiler.types import TensorType, of_array

lookup("map")  # fills the registry
# The last size of an index decides the rank of the result, the sizes of a kernel shape the code.
FIXED_OPERANDS = frozenset({("gather_nd", 1), ("scatter_nd", 1), ("deform_conv", 1)})
# The only sizes of the samples that may be symbols, where the others shape the code: batch and steps of recurrent
# layers, batch of a Fourier transform, of linear attention and of matrices eliminated, length of the signal of a
# short-time transform.
ONLY_SYMBOLIC = {
    "lstm": (3, 4), "gru": (3, 4), "rnn": (3, 4), "dft": (6,), "stft": (50,), "linear_attention": (7,),
    "det": (6,), "slogdet": (6,), "solve": (6,), "cholesky": (6,),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One sample of one op."""

    op: Op
    sample: Sample

    def expected(self) -> tuple[np.ndarray, ...]:
        """What the op's reference makes of it."""
        attrs = {**self.op.attrs, **self.sample.attrs}
        results = self.op.reference(*self.sample.inputs, **attrs)  # type: ignore[misc]
        return results if isinstance(results, tuple) else (results,)


def cases() -> Iterator[tuple[str, Case]]:
    """A test id and a case for every sample of every op."""
    for name, entry in sorted(REGISTRY.items()):
        if entry.samples is None:
            continue
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        for number, sample in enumerate(entry.samples(rng)):
            yield f"{name}-{sample.name or number}", Case(entry, sample)


def static_shape(shape: tuple[int, ...]) -> tuple[Size, ...]:
    """The sizes as they are."""
    return shape


def symbolic_shape(shape: tuple[int, ...]) -> tuple[Size, ...]:
    """Every size above 1 as a symbol, equal sizes as the same one."""
    return tuple(dims.symbol(f"s{size}") if size > 1 else size for size in shape)


def symbol_values(case: Case) -> Mapping[str, int]:
    """What the symbols of `symbolic_shape` stand for."""
    return {f"s{size}": size for array in case.sample.inputs if array is not None for size in array.shape}


def graph_of(case: Case, shape: Callable[[tuple[int, ...]], tuple[Size, ...]], outputs: int) -> tuple[Graph, list[Any]]:
    """A graph of the one node, and the arrays for its inputs. Operands that decide shapes are constants."""
    b, feeds = Builder(), []
    operands: list[Value | None] = []
    for i, array in enumerate(case.sample.inputs):
        if array is None:
            operands.append(None)
        elif i in case.op.value_operands:
            operands.append(b.constant(array))
        else:
            sizes = array.shape if (case.op.name, i) in FIXED_OPERANDS else shape(array.shape)
            only = ONLY_SYMBOLIC.get(case.op.name)
            if only is not None:
                sizes = tuple(new if old in only else old for old, new in zip(array.shape, sizes, strict=True))
            operands.append(b.input(f"x{i}", TensorType(dtypes.from_numpy(array.dtype), sizes)))
            feeds.append(array)
    values = b.emit_many(case.op.name, operands, case.sample.attrs, [f"y{i}" for i in range(outputs)])
    return b.finish(values), feeds


def concrete(type: TensorType, sizes: Mapping[str, int]) -> TensorType:
    """A type with its sizes as numbers; a size made up by inference stays."""

    def number(size: Size) -> Size:
        known = isinstance(size, Dim) and size.names <= sizes.keys()
        return dims.evaluate(size, sizes) if known or isinstance(size, int) else size

    return TensorType(type.dtype, None if type.shape is None else tuple(number(size) for size in type.shape))


def fits(inferred: TensorType, found: np.ndarray) -> bool:
    """Whether an array has a type whose unknown sizes may be anything."""
    actual = of_array(found)
    if inferred.dtype != actual.dtype:
        return False
    if inferred.shape is None:
        return True
    pairs = zip(inferred.shape, actual.shape, strict=False)
    return len(inferred.shape) == len(actual.shape) and all(a == b or isinstance(a, Dim) for a, b in pairs)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    """Equal within `tolerance` epsilons of the type, of the larger of 1 and the expected magnitude."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    if not dtypes.from_numpy(expected.dtype).is_float:
        np.testing.assert_array_equal(found, expected)
        return
    eps = float(2.0 ** -_fraction_bits(expected.dtype))
    a, b = found.astype(np.float64), expected.astype(np.float64)
    with np.errstate(all="ignore"):
        bound = tolerance * eps * np.maximum(np.abs(b), 1)
        close = (a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= bound)
    assert np.all(close), f"found {a[~close][:5]}, expected {b[~close][:5]}"


def _fraction_bits(dtype: np.dtype) -> int:
    import ml_dtypes

    return int(ml_dtypes.finfo(dtype).nmant)
