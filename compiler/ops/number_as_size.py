"""A size out of a number the model computes: what `.item()` of PyTorch is when it decides a shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from compiler import dims, dtypes
from compiler.dims import Size
from compiler.errors import ShapeError
from compiler.op import Call, Sample, op
from compiler.ops.shape import listed
from compiler.types import TensorType


@op(
    "number_as_size",
    attrs={"signed": False},
    value_operands=(0,),
    host_reason="a number computed by the model is used as a size",
)
class NumberAsSize:
    """A tensor of no elements (bool) whose extents tell an integer n, operand 0 of one element: [n, 0], or where
    `signed` [max(n, 0), max(-n, 0), 0]. Raises ShapeError for an n below zero that is not `signed`."""

    def infer(call: Call) -> list[TensorType]:
        if not call.tensor(0).dtype.is_integer:
            call.dtype_error(f"operand 0 is {call.tensor(0)}; expected an integer")
        signed, contents = call.attrs["signed"], call.value(0)
        extents: tuple[Size, ...]
        if contents is None:
            extents = (call.fresh(), call.fresh()) if signed else (call.fresh(),)
        else:
            (number,) = listed(contents)
            if signed:
                extents = (dims.maximum(number, 0), dims.maximum(-number, 0))
            else:
                if isinstance(number, int) and number < 0:
                    call.shape_error(f"a size is {number}; expected at least 0")
                extents = (number,)
        return [TensorType(dtypes.boolean, (*extents, 0))]

    def reference(number: np.ndarray, *, signed: bool) -> np.ndarray:
        n = int(number.item())
        if signed:
            return np.empty((max(n, 0), max(-n, 0), 0), bool)
        if n < 0:
            raise ShapeError(f"a size the model computes is {n}; expected at least 0")
        return np.empty((n, 0), bool)

    def samples(rng: np.random.Generator) -> Iterator[Sample]:
        for number in (0, 1, 17):
            yield Sample((np.array(number),), name=str(number))
            yield Sample((np.array([-number], np.int32),), {"signed": True}, name=f"signed {-number}")
