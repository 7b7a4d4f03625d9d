"""Elementwise expressions: the one small language of maps, reduction prologues and GEMM epilogues.

An Expr is an interned, immutable DAG node: equal expressions are the same object, so memo tables give common
subexpressions for free. Leaves read an operand, a constant, the position, or (in reductions) a finished row
statistic or kept element. Inner nodes apply a function of the table below; every operand of one application has
the same element type except where the table says so, and conversions are explicit casts. There are no fast-math
liberties: a multiply-add is fused only where `fma` is written.

`PRIMITIVES` are what emitters and evaluators implement. `COMPOSITES` (exp, tanh, erf, ...) are expanded to
primitives by compiler/mathlib before emission, and evaluated directly by NumPy in the reference's truth mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from compiler import dtypes
from compiler.dtypes import DType

# name -> (number of operands, result type rule). Rules: same (the operands' type), bool, select (type of
# operand 1; operand 0 is bool), cast (the node's own dtype; operand of any type).
PRIMITIVES: Mapping[str, tuple[int, str]] = {
    "add": (2, "same"), "sub": (2, "same"), "mul": (2, "same"),
    "div": (2, "same"),  # floats: IEEE; integers: towards zero, x/0 = 0
    "rem": (2, "same"),  # C's remainder, sign of the dividend; integers: x rem 0 = 0
    "neg": (1, "same"), "abs": (1, "same"), "sqrt": (1, "same"),
    "min": (2, "same"), "max": (2, "same"),  # NaN in either operand gives NaN
    "fma": (3, "same"),
    "floor": (1, "same"), "ceil": (1, "same"), "trunc": (1, "same"), "rint": (1, "same"),  # rint: half to even
    "copysign": (2, "same"),
    "eq": (2, "bool"), "ne": (2, "bool"), "lt": (2, "bool"), "le": (2, "bool"), "gt": (2, "bool"), "ge": (2, "bool"),
    "and": (2, "same"), "or": (2, "same"), "xor": (2, "same"), "not": (1, "same"),  # bitwise; logical on bool
    "shl": (2, "same"), "shr": (2, "same"),  # shr is arithmetic on int, logical on uint; counts >= width give 0 / sign
    "select": (3, "select"),
    "unlikely": (3, "select"),  # a select whose operand 1 is rarely wanted: may be computed under a branch
    "cast": (1, "cast"),  # float -> int: towards zero, saturating, NaN -> 0; int -> int wraps; x -> bool: x != 0
    "bitcast": (1, "cast"),
}  # fmt: skip

# Functions of one float type that mathlib expands; at most 2 ulp in float32 and float64.
COMPOSITES: Mapping[str, int] = {
    "exp": 1, "exp2": 1, "expm1": 1, "log": 1, "log2": 1, "log10": 1, "log1p": 1,
    "sin": 1, "cos": 1, "tan": 1, "asin": 1, "acos": 1, "atan": 1, "atan2": 2,
    "sinh": 1, "cosh": 1, "tanh": 1, "asinh": 1, "acosh": 1, "atanh": 1,
    "erf": 1, "erfc": 1, "sigmoid": 1, "rsqrt": 1, "cbrt": 1, "pow": 2,
    "normcdf": 1,  # 0.5 * (1 + erf(x / sqrt 2)) without cancellation for negative x: gelu(x) = x * normcdf(x)
}  # fmt: skip

LEAVES = ("arg", "const", "index", "stat", "kept", "extent")

_interned: WeakValueDictionary[tuple[Any, ...], Expr] = WeakValueDictionary()


class Expr:
    """A node of an expression: `op`, result `dtype`, operand expressions `args`, and a leaf's `value`.

    Leaves: arg (value = operand number), const (value = Python number), index (value = axis of the index space;
    int64), stat (value = stage number: a finished row statistic), kept (value = stage number: the element that
    stage kept), extent (number of reduced elements, in `dtype`).
    """

    __slots__ = ("__weakref__", "args", "dtype", "op", "value")

    op: str
    dtype: DType
    args: tuple[Expr, ...]
    value: Any

    def __new__(cls, op: str, dtype: DType, args: tuple[Expr, ...] = (), value: Any = None) -> Expr:
        key = (op, dtype.name, tuple(id(a) for a in args), _constant_key(value))
        found = _interned.get(key)
        if found is not None:
            return found
        self = super().__new__(cls)
        self.op, self.dtype, self.args, self.value = op, dtype, args, value
        return _interned.setdefault(key, self)

    def __reduce__(self) -> tuple[Any, ...]:
        return (Expr, (self.op, self.dtype, self.args, self.value))

    def __str__(self) -> str:
        return format_expr(self)

    __repr__ = __str__

    def __add__(self, other: Expr | float) -> Expr:
        return apply("add", self, self._like(other))

    def __radd__(self, other: float) -> Expr:
        return apply("add", self._like(other), self)

    def __sub__(self, other: Expr | float) -> Expr:
        return apply("sub", self, self._like(other))

    def __rsub__(self, other: float) -> Expr:
        return apply("sub", self._like(other), self)

    def __mul__(self, other: Expr | float) -> Expr:
        return apply("mul", self, self._like(other))

    def __rmul__(self, other: float) -> Expr:
        return apply("mul", self._like(other), self)

    def __truediv__(self, other: Expr | float) -> Expr:
        return apply("div", self, self._like(other))

    def __rtruediv__(self, other: float) -> Expr:
        return apply("div", self._like(other), self)

    def __neg__(self) -> Expr:
        return apply("neg", self)

    def _like(self, other: Expr | float) -> Expr:
        return other if isinstance(other, Expr) else const(other, self.dtype)


def arg(number: int, dtype: DType) -> Expr:
    """The element of operand `number` at the current position."""
    return Expr("arg", dtype, (), number)


def const(value: complex | bool, dtype: DType) -> Expr:
    """A constant. Floats are given in full double precision and rounded once to `dtype` where used."""
    if dtype.kind == "float":
        value = float(value)  # type: ignore[arg-type]
    elif dtype.kind == "bool":
        value = bool(value)
    else:
        value = int(value)  # type: ignore[arg-type]
    return Expr("const", dtype, (), value)


def index(axis: int) -> Expr:
    """The current position along `axis` of the index space, as int64."""
    return Expr("index", dtypes.int64, (), axis)


def stat(stage: int, dtype: DType) -> Expr:
    """The finished row statistic of reduction stage `stage`."""
    return Expr("stat", dtype, (), stage)


def kept(stage: int, dtype: DType) -> Expr:
    """The element that reduction stage `stage` computed at the current position and kept."""
    return Expr("kept", dtype, (), stage)


def extent(dtype: DType) -> Expr:
    """The number of elements a row reduces over, converted to `dtype`."""
    return Expr("extent", dtype)


def cast(x: Expr, dtype: DType) -> Expr:
    """`x` converted to `dtype`; `x` itself where that is its type already."""
    return x if x.dtype == dtype else Expr("cast", dtype, (x,))


def bitcast(x: Expr, dtype: DType) -> Expr:
    """The bits of `x` read as `dtype` (same width)."""
    assert x.dtype.bits == dtype.bits, f"bitcast from {x.dtype} to {dtype} changes the width"
    return x if x.dtype == dtype else Expr("bitcast", dtype, (x,))


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """`yes` where `condition` holds, else `no`; both are computed."""
    return apply("select", condition, yes, no)


def apply(fn: str, *args: Expr) -> Expr:
    """`fn` of `args`, type-checked against the tables."""
    if fn in COMPOSITES:
        assert len(args) == COMPOSITES[fn], f"{fn} takes {COMPOSITES[fn]} operands, got {len(args)}"
        assert all(a.dtype == args[0].dtype and a.dtype.is_float for a in args), f"{fn} of {[a.dtype for a in args]}"
        return Expr(fn, args[0].dtype, args)
    count, rule = PRIMITIVES[fn]
    assert len(args) == count, f"{fn} takes {count} operands, got {len(args)}"
    if rule == "select":
        assert args[0].dtype == dtypes.boolean and args[1].dtype == args[2].dtype, (
            f"select of {[str(a.dtype) for a in args]}"
        )
        return Expr(fn, args[1].dtype, args)
    assert rule in ("same", "bool"), f"build {fn} with its own constructor"
    assert all(a.dtype == args[0].dtype for a in args), f"{fn} of {[str(a.dtype) for a in args]}: cast first"
    return Expr(fn, args[0].dtype if rule == "same" else dtypes.boolean, args)


def walk(roots: tuple[Expr, ...] | Expr) -> Iterator[Expr]:
    """Every distinct node under `roots`, operands before users."""
    seen: set[Expr] = set()
    stack = [(root, False) for root in reversed((roots,) if isinstance(roots, Expr) else roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((a, False) for a in reversed(node.args))


def transform(root: Expr, replace: Callable[[Expr], Expr | None]) -> Expr:
    """`root` with nodes replaced bottom-up: `replace` sees each node with its new operands; None keeps it."""
    done: dict[Expr, Expr] = {}
    for node in walk(root):
        fresh = Expr(node.op, node.dtype, tuple(done[a] for a in node.args), node.value) if node.args else node
        replaced = replace(fresh)
        done[node] = fresh if replaced is None else replaced
    return done[root]


def substitute(root: Expr, leaves: Mapping[Expr, Expr]) -> Expr:
    """`root` with leaves replaced; a replacement must have the leaf's type."""
    for leaf, new in leaves.items():
        assert leaf.dtype == new.dtype, f"{leaf} is {leaf.dtype}, its replacement {new.dtype}"
    return transform(root, lambda node: leaves.get(node) if node.op in LEAVES else None)


def arguments(roots: tuple[Expr, ...] | Expr) -> tuple[int, ...]:
    """The operand numbers read under `roots`, ascending."""
    return tuple(sorted({node.value for node in walk(roots) if node.op == "arg"}))


def renumber(root: Expr, numbers: Mapping[int, int]) -> Expr:
    """`root` with operand numbers mapped."""
    return transform(root, lambda n: arg(numbers[n.value], n.dtype) if n.op == "arg" else None)


def format_expr(root: Expr) -> str:
    """Stable text: a call tree, shared inner nodes named once (`t0 = ...; ...`)."""
    uses: dict[Expr, int] = {}
    order = list(walk(root))
    for node in order:
        for a in node.args:
            uses[a] = uses.get(a, 0) + 1
    text: dict[Expr, str] = {}
    lines: list[str] = []
    for node in order:
        text[node] = _format_node(node, text)
        if node.args and uses.get(node, 0) > 1:
            lines.append(f"t{len(lines)} = {text[node]}")
            text[node] = f"t{len(lines) - 1}"
    return "; ".join([*lines, text[root]])


def _format_node(node: Expr, text: Mapping[Expr, str]) -> str:
    if node.op == "const":
        return f"{node.value!r}:{node.dtype}"
    if node.op == "arg":
        return f"a{node.value}:{node.dtype}"
    if node.op in LEAVES:
        return f"{node.op}{'' if node.value is None else node.value}:{node.dtype}"
    name = f"{node.op}<{node.dtype}>" if node.op in ("cast", "bitcast") else node.op
    return f"{name}({', '.join(text[a] for a in node.args)})"


def _constant_key(value: Any) -> Any:
    # -0.0 == 0.0 and True == 1 must not be merged; NaNs must be.
    if isinstance(value, float):
        return ("f", "nan" if math.isnan(value) else value.hex())
    return (type(value).__name__, value)
