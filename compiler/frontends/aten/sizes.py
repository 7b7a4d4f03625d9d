"""Arithmetic on symbolic sizes in an exported graph: it becomes Sizes while importing and leaves no node.

Assertions torch puts beside it are dropped: the graph's types and guards carry the same facts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from compiler import dims
from compiler.dims import Size, Undecided
from compiler.frontends.aten.base import axis_of, shape_of, tensor_type
from compiler.ir import Value


def _size(x: Value, axis: int) -> Size:
    return shape_of(x)[axis_of(axis, tensor_type(x).rank)]


def _compare(fn: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool | None]:
    # Only assertions read these; None stands for an answer that depends on the sizes.
    def compare(a: Any, b: Any) -> bool | None:
        try:
            return fn(a, b)
        except Undecided:
            return None

    return compare


def _ignore(*arguments: Any, **keywords: Any) -> None:
    return None


SIZE_ROWS: Mapping[str, Callable[..., Any]] = {
    "aten.sym_size.int": _size,
    "aten.sym_numel.default": lambda x: tensor_type(x).elements,
    "aten.sym_is_contiguous.default": lambda x: True,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "neg": operator.neg,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "pow": lambda a, n: dims.product([a] * n),
    "sym_max": dims.maximum,
    "sym_min": dims.minimum,
    "sym_int": lambda a: a,
    **{name: _compare(getattr(operator, name)) for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    "sym_not": lambda a: None if a is None else not a,
    "aten._assert_scalar.default": _ignore,
    "aten._assert_async.msg": _ignore,
    "aten._assert_tensor_metadata.default": _ignore,
    "aten.sym_constrain_range.default": _ignore,
    "aten.sym_constrain_range_for_size.default": _ignore,
}
