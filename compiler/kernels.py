"""Kernel specs and the lowered program: what the middle hands to a backend.

A spec holds what shapes the code and nothing that varies (design rule 2): element types, expressions, ranks and
the stride class of each operand on the vectorised axis. Extents, strides and pointers are in the call's views,
symbolic until a plan is made. Specs are hashable: equal specs share one kernel.

Operand order in a call: `reads` are numbered as the spec's expressions number their arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compiler.dims import Size
from compiler.dtypes import DType, bfloat16, float16
from compiler.expr import Expr
from compiler.ir import Guard, ImportedNode, Node, Value
from compiler.recurrence import RecurrenceSpec
from compiler.running import RunningSpec
from compiler.suppression import SuppressSpec

UNIT, BROADCAST, GENERAL = "unit", "broadcast", "general"


_COMPUTED_KINDS = ("int", "uint", "bool")


def computes(dtype: DType) -> bool:
    """Whether kernels do arithmetic on a type (they move elements of any fixed size)."""
    return dtype.kind in _COMPUTED_KINDS or (dtype.is_float and (dtype.bits > 16 or dtype in (float16, bfloat16)))


@dataclass(frozen=True)
class View:
    """A strided window on a buffer. Strides and offset count elements; stride 0 repeats."""

    buffer: str
    dtype: DType
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size = 0


@dataclass(frozen=True)
class MapSpec:
    """outputs[i][p] = expr_i(inputs at p) over an index space of `rank` collapsed axes, the last one vectorised.

    Views of a call all have the index space as their shape. `in_classes`/`out_classes`: stride class of each
    operand on the last axis. An expression may use `index(axis)`.
    """

    outputs: tuple[Expr, ...]
    inputs: tuple[DType, ...]
    rank: int
    in_classes: tuple[str, ...]
    out_classes: tuple[str, ...]


@dataclass(frozen=True)
class Stage:
    """One pass of a reduction over a row: fn in sum, prod, max, min, any, all, argmax, argmin.

    `expr` may use arg, index, extent, stat(j) and kept(j) of earlier stages j; with `keep` the computed element
    stays available as kept(this stage). sum/prod/max/min accumulate in expr.dtype; argmax/argmin give int64
    (first occurrence, a NaN wins); max/min propagate NaN.
    """

    fn: str
    expr: Expr
    keep: bool = False


@dataclass(frozen=True)
class ReduceSpec:
    """A row program: stages in order over the reduced axes, then element outputs and row outputs.

    Views have shape (`outer` axes..., `reduced` axes...); a row output's reduced strides are 0. `element_outputs`
    may use arg, index, stat, kept, extent; `row_outputs` only stat, extent and args that are constant in a row. Writes
    are the element outputs, then the row outputs. `vector_axis`: "row" (the last reduced axis is vectorised, float
    sums in the canonical 64-lane order) or "column" (the last outer axis is vectorised, sums sequential in row order).
    `index(axis)` counts outer axes then reduced axes; argmax counts over the flattened reduced axes.
    """

    inputs: tuple[DType, ...]
    stages: tuple[Stage, ...]
    element_outputs: tuple[Expr, ...]
    row_outputs: tuple[Expr, ...]
    outer: int
    reduced: int
    vector_axis: str
    in_classes: tuple[str, ...]
    out_classes: tuple[str, ...]


@dataclass(frozen=True)
class GemmSpec:
    """C[b.., m, n] = epilogue(sum over ascending k of A[b.., m, k] * B[b.., k, n]).

    Reads: A (B.., M, K), B (B.., K, N), then epilogue operands (B.., M, N, stride 0 where broadcast). Epilogue
    expressions number arg 0 as the accumulator (type `acc`) and arg 1.. as the operands from read 2 on.
    `a_axis`/`b_axis`: which matrix axis of A/B has unit stride: "row" (the last), "column" (the last but one) or
    "general". `constant_b`: B is a weight, packed ahead. With `window` A is gathered: read 0 is then the input
    (N, spatial..., C) with GENERAL strides allowed except channels, K runs over (kernel positions..., C), M over
    (N, output positions...), and the call's `params` are, per spatial axis, output size, kernel, stride, dilation,
    pad before, input size, each group over all axes in that order.
    `epilogue_classes`: stride class of each epilogue operand along N; `out_classes`: of each output along N.
    a and b are one float type (acc: at least float32), any of int8 and uint8 (acc int32), or acc itself; integers wrap.
    bfloat16 products are added pair by pair along K, the second of a pair first (canonical.product_order).
    Epilogues of integer products may use stat(0), the sum of a row of A, stat(1), the sum of a column of B (both of
    type acc), and extent, which is K: all that zero points need. `fill`: number of the epilogue operand whose one
    element, of type a, stands in a window's padding; 0: zeros do.
    With `ends` (int32 or int64) B is one matrix a group, (E, K, N), and the last read, of that type, says where each
    group's rows of A end, (E,) ascending: rows [ends[e-1], ends[e]) take B[e], rows from the last end on are products
    of nothing. Ends that descend or lie outside 0..M are an error flag; `batch_rank` is 0.
    With `codes` (int4, uint4, int8 or uint8) B is a constant stored as such, (K, N); every params[0] rows share a scale
    and, with `zeros`, a zero point of that type: the last reads, (groups, N). An element of B is what ops.core_blocks
    says, rounded to type b. Groups are multiples of 16 rows, or all of them.
    `splits`: into how many bfloat16 pieces a unit may split FP32 operands to multiply them, with an error like FP32's;
    0: not at all.
    """

    a: DType
    b: DType
    acc: DType
    batch_rank: int
    a_axis: str
    b_axis: str
    constant_b: bool
    epilogue: tuple[Expr, ...]
    epilogue_inputs: tuple[DType, ...]
    epilogue_classes: tuple[str, ...]
    out_classes: tuple[str, ...]
    window: int = 0
    ends: DType | None = None
    fill: int = 0
    codes: DType | None = None
    zeros: DType | None = None
    splits: int = 0


@dataclass(frozen=True)
class AttentionSpec:
    """O[b.., i, :] = softmax_j(score(scale-free q.k)) @ V with score an Expr: arg 0 is the dot product (acc type),
    arg 1.. the operands from read 3 on, shaped (B.., L, S); index(0) is the query position, index(1) the key's.
    Reads: Q (B.., L, E), K (B.., S, E), V (B.., S, Ev). Plain softmax of a row all of whose scores are -inf is NaN;
    `zero_rows` says which rows give zeros instead: "none", "empty" (these), "undefined" (these, and every row with a
    NaN weight). A row without any keys gives zeros, as every sum of nothing.
    """

    dtype: DType
    acc: DType
    batch_rank: int
    score: Expr
    score_inputs: tuple[DType, ...]
    score_classes: tuple[str, ...]
    zero_rows: str = "empty"


@dataclass(frozen=True)
class WindowSpec:
    """Channels-last window reduction: pools (fn max, sum) and depthwise convolution (fn dot).

    Read 0: input (N, spatial..., C); for dot read 1: weights (kernel..., C); then epilogue operands (N, output
    spatial..., C). Positions outside the input are skipped. Epilogue: arg 0 is the accumulator, arg 1 the count
    of visited positions (float, acc type), arg 2.. operands. `params` as in GemmSpec.
    """

    fn: str
    dtype: DType
    acc: DType
    spatial: int
    epilogue: tuple[Expr, ...]
    epilogue_inputs: tuple[DType, ...]
    in_classes: tuple[str, ...]
    out_classes: tuple[str, ...]


@dataclass(frozen=True)
class MoveSpec:
    """Data movement that is no arithmetic. `bytes` is the element size.

    copy: read 0 -> write 0, same shape, any strides, `rank` collapsed axes.
    take: out[o, i, r] = data[o, index[i], r] (negative indices count from the end; out of range is an error flag):
    reads (O, A, R) and index (I,), write (O, I, R); rank 3.
    take_elements: out[o, i, r] = data[o, index[o, i, r], r]: reads data (O, A, R), index (O, I, R), write (O, I, R).
    """

    kind: str
    bytes: int
    rank: int
    index: DType | None
    in_classes: tuple[str, ...]
    out_classes: tuple[str, ...]


@dataclass(frozen=True)
class ScatterSpec:
    """table[o, index[o, i, r], r] = combine(what is there, updates[o, i, r]), one i after the other.

    Reads: updates (O, I, R), index (O, I, R); write: table (O, A, R), whose other elements stay as they are. `combine`:
    arg 0 is the element there, arg 1 the update, both of its type: every step is rounded to that, as NumPy's ufunc.at
    does. Negative indices count from the end; out of range is an error flag. Classes are along R; an index of class
    BROADCAST moves whole rows.
    """

    combine: Expr
    index: DType
    in_classes: tuple[str, ...]
    out_classes: tuple[str, ...]


@dataclass(frozen=True)
class SortSpec:
    """The first elements of sorted rows: read (A, n, B) -> those wanted of values (A, k, B), int64 indices (A, k, B),
    their places along n. Rows lie along the middle axis; k <= n.

    Ascending, or `descending`. A NaN is greater than any number; equal elements (-0 and 0, all NaNs) stay as they came.
    """

    dtype: DType
    descending: bool
    values: bool
    indices: bool
    in_class: str


@dataclass(frozen=True)
class WeightedTakeSpec:
    """Gathered rows combined: write[o, i, c] = total over ascending taps t of rows[o, index[t, o, i], c] times
    weights[t, o, i].

    Reads: rows (O, A, C), index (T, O, I), weights (T, O, I) of type `acc`; write (O, I, C); C lies densely. fn sum:
    one fma chain from 0, a tap of weight 0 is not read; max: the greatest product, NaN winning. Negative indices count
    from the end; out of range is an error flag.
    """

    fn: str
    dtype: DType
    acc: DType
    index: DType


Spec = (
    MapSpec | ReduceSpec | GemmSpec | AttentionSpec | WindowSpec | MoveSpec | ScatterSpec | RecurrenceSpec | SortSpec
    | WeightedTakeSpec | RunningSpec | SuppressSpec
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class KernelCall:
    """One kernel on concrete views; `where` names the imported nodes it carries out."""

    spec: Spec
    reads: tuple[View, ...]
    writes: tuple[View, ...]
    params: tuple[Size, ...] = ()
    where: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class HostCall:
    """A node run by the reference backend between native segments. Reads are views (None: missing), writes are
    buffer names in output order ('' where nobody wants the output). `reason` says why no kernel serves it."""

    node: Node
    reads: tuple[View | None, ...]
    writes: tuple[str, ...]
    reason: str
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Buffer:
    """Memory of `elements` elements. role: input, output, weight, sizes (filled while planning) or temp."""

    name: str
    dtype: DType
    elements: Size
    role: str


@dataclass(frozen=True, eq=False)
class Lowered:
    """A lowered program. `inputs` values are bound to buffers of their own name; `outputs` say where each result
    lies (always a dense buffer of role output, or a HostCall's write). `weights` and `sizes` hold buffer contents.
    `late`: see passes/lower: nodes evaluated while planning to bind sizes that symbols alone do not decide.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[tuple[Value, View], ...]
    buffers: Mapping[str, Buffer]
    weights: Mapping[str, np.ndarray]
    sizes: Mapping[str, Any]
    calls: tuple[KernelCall | HostCall, ...]
    late: tuple[Node, ...] = ()
    guards: tuple[Guard, ...] = ()
    imported: tuple[ImportedNode, ...] = ()
    notes: Mapping[str, str] = field(default_factory=dict)
    remarks: Mapping[str, str] = field(default_factory=dict)
