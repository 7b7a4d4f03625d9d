"""The ATen table: rows from ATen calls to ops, one file a family. Importing it fills ROWS and needs no torch."""

from __future__ import annotations

from compiler.frontends.aten import (
    activation,
    batch_statistics,
    complex,
    complex_parts,
    counts,
    experts,
    fft,
    index,
    linalg,
    make,
    masks,
    norm,
    packed_weights,
    pointwise,
    pool,
    product,
    quantization_parameters,
    quantized,
    random_numbers,
    recurrent,
    reduce,
    resample,
    running,
    scatter,
    segments,
    shape,
    short_time,
    sort,
    strided,
    typed_products,
    vision,
    windows,
    write_slices,
)
from compiler.frontends.aten.base import NUMBER_ROWS, ROWS, AtenBuilder
from compiler.frontends.aten.sizes import SIZE_ROWS

__all__ = [
    "NUMBER_ROWS", "ROWS", "SIZE_ROWS", "AtenBuilder",
    "activation", "batch_statistics", "complex", "complex_parts", "counts", "experts", "fft", "index", "linalg", "make",
    "masks", "norm", "packed_weights", "pointwise", "pool", "product", "quantization_parameters", "quantized",
    "random_numbers", "recurrent", "reduce", "resample", "running", "scatter", "segments", "shape", "short_time",
    "sort", "strided", "typed_products", "vision", "windows", "write_slices",
]  # fmt: skip
