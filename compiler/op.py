"""The op registry: each op is declared once, with inference, NumPy reference, rewriting and samples side by side.

    @op("softmax", onnx=OnnxRow("Softmax", attrs={"axis": -1}), attrs={"axis": -1})
    class Softmax:
        def infer(call): ...            # Call -> output types
        def reference(x, *, axis): ...  # NumPy arrays -> array or tuple of arrays, exact about dtypes
        def decompose(b, node): ...     # Builder, Node -> Values made of simpler ops
        def samples(rng): ...           # small inputs: the op's generated tests and bench rows

An op either has `decompose`, or is a *core* op with `lower`, or neither (then it runs as a Host step, and
`host_reason` says why). Semantics, operand order and attribute names follow the newest ONNX operator of that name
where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from compiler import dims
from compiler.dims import Size
from compiler.dtypes import DType
from compiler.errors import DtypeError, ModelError, ShapeError
from compiler.types import TensorType, ValueType

REQUIRED: Any = object()  # default of an attribute that has none


@dataclass(frozen=True)
class Call:
    """What `infer` sees of a node. `values[i]` is operand i's contents where known while compiling or planning: an
    array of its own dtype, or an object array of `int | Dim`. Only small tensors are tracked."""

    op: str
    inputs: tuple[ValueType | None, ...]
    attrs: Mapping[str, Any]
    values: tuple[np.ndarray | None, ...]
    place: str
    outputs: int
    fresh: Callable[[], dims.Dim]
    guard: Callable[[Size, Size], None]

    def tensor(self, i: int) -> TensorType:
        """Operand i's type. Raises ModelError where the operand is missing or no tensor."""
        found = self.inputs[i] if i < len(self.inputs) else None
        if not isinstance(found, TensorType):
            raise ModelError(f"{self.place}: {self.op} needs a tensor as operand {i}, found {found or 'nothing'}")
        return found

    def optional(self, i: int) -> TensorType | None:
        """Operand i's type, None where it is missing."""
        return None if i >= len(self.inputs) or self.inputs[i] is None else self.tensor(i)

    def value(self, i: int) -> np.ndarray | None:
        """Operand i's contents if known."""
        return self.values[i] if i < len(self.values) else None

    def axis(self, axis: int, rank: int) -> int:
        """`axis` counted from the front. Raises ShapeError when out of range."""
        if not -rank <= axis < max(rank, 1):
            self.shape_error(f"axis {axis} is outside a tensor of rank {rank}; expected {-rank}..{rank - 1}")
        return axis % max(rank, 1)

    def same_dtype(self, *operands: int) -> DType:
        """The one element type of the operands (missing ones skipped). Raises DtypeError when they differ."""
        found = {i: self.tensor(i).dtype for i in operands if self.optional(i) is not None}
        if len(set(found.values())) != 1:
            listed = ", ".join(f"operand {i} is {dtype}" for i, dtype in found.items())
            raise DtypeError(f"{self.place}: {self.op} needs one element type, found {listed}; insert a cast")
        return next(iter(found.values()))

    def same_size(self, a: Size, b: Size, what: str) -> Size:
        """Unify two extents: numbers must be equal (else ShapeError), symbols are guarded. The number wins."""
        if a == b:
            return a
        if isinstance(a, int) and isinstance(b, int):
            self.shape_error(f"{what} differs, {a} against {b}")
        self.guard(a, b)
        return a if isinstance(a, int) else b

    def same_shape(self, found: Sequence[Size] | None, expected: Sequence[Size], what: str) -> None:
        """Unify a shape (None: unknown, as it may be) with the one expected. Raises ShapeError where they differ."""
        if found is None:
            return
        if len(found) != len(expected):
            self.shape_error(f"{what} has shape {tuple(found)}; expected {tuple(expected)}")
        for axis, (size, wanted) in enumerate(zip(found, expected, strict=True)):
            self.same_size(size, wanted, f"axis {axis} of {what}")

    def broadcast(self, *shapes: Sequence[Size]) -> tuple[Size, ...]:
        """The NumPy broadcast of shapes; two different symbols are guarded to be equal."""
        rank = max((len(shape) for shape in shapes), default=0)
        result: list[Size] = [1] * rank
        for shape in shapes:
            for i, size in enumerate(shape, start=rank - len(shape)):
                if size != 1:
                    result[i] = size if result[i] == 1 else self.same_size(result[i], size, f"broadcast axis {i}")
        return tuple(result)

    def shape_error(self, text: str) -> NoReturn:
        """Raise ShapeError naming this node."""
        raise ShapeError(f"{self.place}: {self.op}: {text}")

    def dtype_error(self, text: str) -> NoReturn:
        """Raise DtypeError naming this node."""
        raise DtypeError(f"{self.place}: {self.op}: {text}")


@dataclass(frozen=True)
class OnnxRow:
    """How an ONNX operator becomes an op.

    `attrs`: ONNX attribute name -> default (REQUIRED if none). `build(b, node)` makes the values when plain
    emission with these attributes is not enough; `node` is frontends.onnx's OnnxNode. `upgrades`: (since, f) rows in
    ascending order; a node from an older opset than `since` goes through f(b, node) -> node first.
    """

    op_type: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    domain: str = ""
    build: Callable[..., Any] | None = None
    upgrades: tuple[tuple[int, Callable[..., Any]], ...] = ()


@dataclass(frozen=True)
class Sample:
    """One small call of an op: arrays (None for a missing operand) and attributes. `tolerance` bounds the native
    result against the reference in units of the output's epsilon (0: equal)."""

    inputs: tuple[np.ndarray | None, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    tolerance: float = 0.0
    name: str = ""


@dataclass(frozen=True)
class Op:
    """A registered op. `value_operands`: operands whose contents decide output shapes. `tracks_values`: reference works
    on object arrays of sizes too, so integer shape chains pass through. `torch`: ATen names it stands for."""

    name: str
    infer: Callable[[Call], Sequence[ValueType]]
    reference: Callable[..., Any] | None = None
    decompose: Callable[..., Any] | None = None
    lower: Callable[..., None] | None = None
    samples: Callable[[np.random.Generator], Iterable[Sample]] | None = None
    onnx: tuple[OnnxRow, ...] = ()
    torch: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)
    value_operands: tuple[int, ...] = ()
    tracks_values: bool = False
    host_reason: str = ""
    doc: str = ""

    @property
    def is_host(self) -> bool:
        """Whether the op can only run as a Host step."""
        return self.decompose is None and self.lower is None


REGISTRY: dict[str, Op] = {}
ONNX_ROWS: dict[tuple[str, str], tuple[Op, OnnxRow]] = {}


def register(entry: Op) -> Op:
    """Enter an op. A second op of the same name, or for the same ONNX operator, is an error in this package."""
    assert entry.name not in REGISTRY, f"op {entry.name} is declared twice"
    REGISTRY[entry.name] = entry
    for row in entry.onnx:
        assert (row.domain, row.op_type) not in ONNX_ROWS, f"two ops claim ONNX {row.domain}:{row.op_type}"
        ONNX_ROWS[row.domain, row.op_type] = (entry, row)
    return entry


def op(
    name: str,
    *,
    onnx: str | OnnxRow | Sequence[OnnxRow] = (),
    torch: str | Sequence[str] = (),
    attrs: Mapping[str, Any] | None = None,
    value_operands: Sequence[int] = (),
    tracks_values: bool = False,
    host_reason: str = "",
) -> Callable[[type], Op]:
    """Class decorator: registers the class's functions as an op and replaces the class by the Op.

    `attrs` are the op's attributes with defaults (REQUIRED for none); `onnx` as a bare operator name means a row
    with the same attributes.
    """

    def build(cls: type) -> Op:
        table = dict(attrs or {})
        rows = (OnnxRow(onnx, table),) if isinstance(onnx, str) else (onnx,) if isinstance(onnx, OnnxRow) else onnx
        functions = {key: cls.__dict__.get(key) for key in ("infer", "reference", "decompose", "lower", "samples")}
        assert functions["infer"] is not None, f"op {name} has no infer"
        return register(
            Op(
                name=name,
                onnx=tuple(rows),
                torch=(torch,) if isinstance(torch, str) else tuple(torch),
                attrs=table,
                value_operands=tuple(value_operands),
                tracks_values=tracks_values,
                host_reason=host_reason,
                doc=(cls.__doc__ or "").strip(),
                **functions,  # type: ignore[arg-type]
            )
        )

    return build


def lookup(name: str) -> Op:
    """The op called `name`. Raises KeyError for a name nothing declares (a defect of this package)."""
    import compiler.ops  # noqa: F401 - importing the families fills the registry

    return REGISTRY[name]
