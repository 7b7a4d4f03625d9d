"""ATen calls on complex values that are done to the real and the imaginary part by the rows for real tensors."""

from __future__ import annotations

import itertools
import math
from typing import Any

from compiler.frontends.aten.base import ROWS, AtenBuilder, Row, convert, unsupported
from compiler.frontends.aten.complex import Complex, Part, on_complex, to_complex
from compiler.ir import Value

# Real tensors among the operands are places or conditions.
_MOVES = (
    "_reshape_copy.default", "_unsafe_index.Tensor", "_unsafe_view.default", "alias.default", "clone.default",
    "constant_pad_nd.default", "contiguous.default", "detach.default", "diagonal.default", "empty.memory_format",
    "empty_like.default", "expand.default", "expand_as.default", "flatten.using_ints", "flip.default",
    "gather.default", "index.Tensor", "index_select.default", "lift_fresh_copy.default", "mean.default", "mean.dim",
    "narrow.default", "neg.default", "new_empty.default", "new_zeros.default", "permute.default",
    "reflection_pad1d.default", "reflection_pad2d.default", "repeat.default", "reshape.default", "roll.default",
    "select.int", "slice.Tensor", "split.Tensor", "split_with_sizes.default", "squeeze.default", "squeeze.dim",
    "squeeze.dims", "sum.default", "sum.dim_IntList", "t.default", "transpose.int", "tril.default", "triu.default",
    "unbind.int", "unflatten.int", "unfold.default", "unsqueeze.default", "view.default", "zeros.default",
    "zeros_like.default",
)  # fmt: skip
_FILLS = ("full.default", "full_like.default", "new_full.default", "scalar_tensor.default")
_MOST_PRODUCTS = 8  # of parts in one einsum
# Real tensors and numbers among these operands are complex numbers without an imaginary part.
_JOINS = ("cat.default", "copy.default", "select_scatter.default", "slice_scatter.default", "stack.default")


def _part(item: Any, name: str) -> Any:
    if isinstance(item, (list, tuple)):
        return [_part(inner, name) for inner in item]
    return getattr(item, name) if isinstance(item, Complex) else item


def _paired(re: Any, im: Any) -> Any:
    if isinstance(re, Value):
        return Complex(re, im)
    return tuple(_paired(*pair) for pair in zip(re, im, strict=True))


def _by_parts(name: str) -> Row:
    """The row for real tensors done to both parts of its complex operands."""

    def run(b: AtenBuilder, *args: Any, **kwargs: Any) -> Any:
        results = []
        for part in ("re", "im"):
            given = {key: _part(item, part) for key, item in kwargs.items()}
            results.append(ROWS[name](b, *(_part(item, part) for item in args), **given))
        return _paired(*results)

    return run


def _promoted(b: AtenBuilder, item: Any) -> Any:
    if isinstance(item, list):
        return [_promoted(b, inner) for inner in item]
    return to_complex(b, item) if isinstance(item, (Value, Complex)) else item


def _joined(name: str) -> Row:
    """The row for real tensors done to both parts, real operands made complex first."""
    by_parts = _by_parts(name)

    def run(b: AtenBuilder, *args: Any, **kwargs: Any) -> Any:
        return by_parts(b, *(_promoted(b, item) for item in args), **kwargs)

    return run


def _filled(name: str) -> Row:
    """A row whose last operand is the number to fill with."""

    def run(b: AtenBuilder, *args: Any, **kwargs: Any) -> Any:
        *where, number = args
        if isinstance(number, (Value, Complex)):
            raise unsupported(b, f"{name} with a tensor's value")
        parts = (complex(number).real, complex(number).imag)
        where = [_part(item, "re") for item in where]
        return Complex(*(ROWS[name](b, *where, part, **kwargs) for part in parts))

    return run


for _names, _make in ((_MOVES, _by_parts), (_JOINS, _joined), (_FILLS, _filled)):
    for _name in _names:
        on_complex(f"aten.{_name}")(_make(f"aten.{_name}"))


@on_complex("aten.index_put.default", "aten._unsafe_index_put.default")
def _index_put(
    b: AtenBuilder, x: Value | Complex, places: list[Value | None], values: Value | Complex, accumulate: bool = False
) -> Complex:
    row = _by_parts("aten.index_put.default")
    return row(b, to_complex(b, x), places, to_complex(b, values), accumulate)  # type: ignore[no-any-return]


@on_complex("aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf", "aten.where.Scalar")
def _where(b: AtenBuilder, condition: Value, x: Part | Complex, y: Part | Complex) -> Complex:
    row = _by_parts("aten.where.self")
    return row(b, condition, to_complex(b, x), to_complex(b, y))  # type: ignore[no-any-return]


@on_complex("aten._to_copy.default", "aten.to.dtype", "prims.convert_element_type.default")
def _to_copy(b: AtenBuilder, x: Value | Complex, *ignored: object, **more: object) -> Complex:
    return to_complex(b, x)


@on_complex("aten.mm.default", "aten.bmm.default", "aten.matmul.default", "aten.mv.default", "aten.dot.default")
def _matmul(b: AtenBuilder, x: Value | Complex, y: Value | Complex) -> Complex:
    x, y = to_complex(b, x), to_complex(b, y)
    products = {(p, q): b.emit("matmul", getattr(x, p), getattr(y, q)) for p in ("re", "im") for q in ("re", "im")}
    re = ROWS["aten.sub.Tensor"](b, products["re", "re"], products["im", "im"])
    im = ROWS["aten.add.Tensor"](b, products["re", "im"], products["im", "re"])
    return Complex(re, im)


@on_complex("aten.einsum.default")
def _einsum(b: AtenBuilder, equation: str, operands: list[Value | Complex], **ignored: object) -> Complex:
    """The sum over all choices of a part of each operand, as the products of their units are 1, i, -1 or -i."""
    choices = [("re", "im") if isinstance(x, Complex) else ("",) for x in operands]
    if math.prod(map(len, choices)) > _MOST_PRODUCTS:
        raise unsupported(b, f"torch.einsum of {len(operands)} complex tensors; multiply two at a time")
    totals: list[Value | None] = [None, None]
    for choice in itertools.product(*choices):
        parts: list[Value] = [getattr(x, part) if part else x for x, part in zip(operands, choice, strict=True)]
        product = b.emit("einsum", *(convert(b, part, b.dtype) for part in parts), equation=equation)
        turns = choice.count("im")
        held = totals[turns % 2]
        row = ROWS["aten.sub.Tensor" if turns % 4 >= 2 else "aten.add.Tensor"]
        totals[turns % 2] = product if held is None else row(b, held, product)
    re, im = totals
    assert re is not None and im is not None, "one operand at least is complex"
    return Complex(re, im)
