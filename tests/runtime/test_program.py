"""Programs: what callers may pass, what they get, and what is said about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from backends.native.sizes import GuardBroken
from compiler import dtypes
from compiler.dims import symbol
from compiler.errors import DtypeError, ModelError, ShapeError
from compiler.ir import Graph, Guard, ImportedNode, Value
from compiler.types import SequenceType, TensorType
from runtime.ledger import Notes
from runtime.options import Options
from runtime.program import Program
from tests.backends.native.programs import TestKernel, executable, program

N = symbol("n")
TWO = np.array([2.0])


class Recorder:
    """A Runner that answers with copies of its inputs and remembers them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        self.seen = list(arrays)
        return [np.array(array) for array in arrays]


def graph(**shapes: tuple[dtypes.DType, tuple[Any, ...] | None]) -> Graph:
    values = tuple(Value(name, TensorType(dtype, shape)) for name, (dtype, shape) in shapes.items())
    return Graph(values, (), values, size_names={"n": "batch size"})


def recorded(**shapes: tuple[dtypes.DType, tuple[Any, ...] | None]) -> tuple[Program, Recorder]:
    recorder = Recorder()
    return Program(graph(**shapes), recorder, Notes()), recorder


PAIR: dict[str, Any] = {"a": (dtypes.float32, (N, 3)), "b": (dtypes.int64, ())}
A, B = np.ones((2, 3), np.float32), np.array(7)


def test_positional_and_named_inputs() -> None:
    program, recorder = recorded(**PAIR)
    for call in (lambda: program(A, B), lambda: program(A, b=B), lambda: program(b=B, a=A)):
        results = call()
        assert isinstance(results, tuple)
        assert recorder.seen[0] is A  # zero copy
        assert recorder.seen[1] is B
    assert set(program.run({"b": B, "a": A})) == {"a", "b"}


@pytest.mark.parametrize(
    ("args", "named", "error", "message"),
    [
        ((), {}, ModelError, "input 'a', 'b' is missing; expected a, b"),
        ((A,), {}, ModelError, "input 'b' is missing"),
        ((A, B, B), {}, ModelError, "3 inputs given, expected at most 2: a, b"),
        ((A, B), {"c": B}, ModelError, "no input is called 'c'; expected a, b"),
        ((A, B), {"a": A}, ModelError, "input 'a' is given twice"),
        ((A, None), {}, ModelError, "input 'b' is None"),
        ((A.astype(np.float64), B), {}, DtypeError, r"input 'a': found float64, expected float32\[batch size, 3\]"),
        ((A, np.float32(1)), {}, DtypeError, "input 'b': found float32, expected int64"),
        ((A, np.array("x")), {}, DtypeError, "input 'b': found string, expected int64"),
        ((A, np.array(0, "M8[s]")), {}, DtypeError, "input 'b': found datetime64"),
        ((A[0], B), {}, ShapeError, r"input 'a': found shape \[3\] of rank 1, expected .* of rank 2"),
        ((A, B[None]), {}, ShapeError, "input 'b': found shape .* of rank 1"),
        ((A[:, :2], B), {}, ShapeError, "input 'a': axis 1 is 2, expected 3"),
    ],
)
def test_wrong_inputs(args: tuple[Any, ...], named: Mapping[str, Any], error: type, message: str) -> None:
    program, _ = recorded(**PAIR)
    with pytest.raises(error, match=message):
        program(*args, **named)


def frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    "given",
    [
        np.arange(12, dtype=np.float32).reshape(4, 3)[::2],
        np.arange(6, dtype=np.float32).reshape(2, 3)[::-1, ::-1],
        np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.frombuffer(b"?" + np.arange(6, dtype=np.float32).tobytes(), np.float32, offset=1).reshape(2, 3),
        frozen(np.arange(6, dtype=np.float32).reshape(2, 3)),
        np.zeros((0, 3), np.float32),
        np.broadcast_to(np.float32(2), (5, 3)),
        np.arange(6, dtype=np.float32).reshape(2, 3).view(np.matrix),
    ],
)
def test_unusual_arrays_mean_what_they_say(given: np.ndarray) -> None:
    program, recorder = recorded(a=(dtypes.float32, (N, 3)))
    (result,) = program(given)
    assert np.array_equal(result, np.asarray(given))
    (seen,) = recorder.seen
    assert seen.flags.c_contiguous
    assert seen.flags.aligned
    assert seen.dtype == np.float32
    assert seen.shape == given.shape


def test_scalars_strings_and_narrow_types() -> None:
    program, recorder = recorded(
        a=(dtypes.int64, ()), s=(dtypes.string, (1,)), h=(dtypes.bfloat16, (2,)), r=(dtypes.float32, None)
    )
    program(np.int64(4), np.array(["word"]), np.ones(2, ml_dtypes.bfloat16), np.ones((1, 2, 3), np.float32))
    assert recorder.seen[0].shape == ()
    assert recorder.seen[1].dtype == object


def test_sequences_pass_as_they_are() -> None:
    value = Value("q", SequenceType(TensorType(dtypes.float32, None)))
    recorder = Recorder()
    program = Program(Graph((value,), (), (value,)), recorder, Notes())
    given = [A, A]
    program(given)
    assert recorder.seen[0] is given
    assert program.inputs[0].dtype is None


def test_specs() -> None:
    program, _ = recorded(**PAIR)
    assert [spec.shape for spec in program.inputs] == [("batch size", 3), ()]
    assert [spec.dtype for spec in program.outputs] == [np.float32, np.int64]
    assert str(program.inputs[0]) == "a: float32[batch size, 3]"
    assert "a: float32" in repr(program)


def test_torch_in_and_out() -> None:
    torch = pytest.importorskip("torch")

    class Structure:
        simple_inputs, result_kind = True, "tuple"

        def present_state(self) -> list[Any]:
            return []

        def write_back(self, outputs: Sequence[Any], inputs: Sequence[Any]) -> None:
            assert len(outputs) == len(inputs)

    recorder = Recorder()
    shapes: dict[str, Any] = {"a": (dtypes.float32, (N, 3)), "h": (dtypes.bfloat16, (2,))}
    program = Program(graph(**shapes), recorder, Notes(), structure=Structure(), hint="see dynamic_shapes")  # type: ignore[arg-type]
    a, h = torch.ones(2, 3, requires_grad=True), torch.tensor([1.5, -2]).bfloat16()
    results = program(a, h)
    assert recorder.seen[0].ctypes.data == a.data_ptr()  # zero copy
    assert results[0].dtype == torch.float32
    assert not results[0].requires_grad
    assert torch.equal(results[1], h)
    lazily_negated = torch.complex(torch.zeros(2, 3), torch.ones(2, 3)).conj().imag
    assert lazily_negated.is_neg()
    assert torch.equal(program(lazily_negated, h)[0], torch.full((2, 3), -1.0))
    assert isinstance(program.run({"a": a, "h": h})["a"], torch.Tensor)
    with pytest.raises(ShapeError, match=r"expected 3 .*see dynamic_shapes"):
        program(torch.ones(2, 4), h)
    with pytest.raises(DtypeError, match="input 'a': found float64"):
        program(torch.ones(2, 3).double(), h)


def test_ledger_and_explain() -> None:
    lowered = program(steps=2)
    nodes = tuple(ImportedNode(name, "Mul") for name in ("node0", "node1", "node2", "node3"))
    imported = Graph(lowered.inputs, (), tuple(v for v, _ in lowered.outputs), imported=nodes)
    made = Program(imported, executable(lowered, TestKernel(), TestKernel(spins=1)), Notes({"node2": "folded"}))
    made(np.ones(3), TWO)
    made(np.ones(3), TWO)
    rows = made.ledger()
    assert [(row.node, row.unit, row.runs, row.reason) for row in rows] == [
        ("node0", "test", 2, "made for a test"),
        ("node1", "test", 2, "made for a test"),
        ("node2", "none", 0, "folded"),
        ("node3", "none", 0, "a view, or folded into its consumers"),
    ]
    assert rows[0].kernel == "test_0_0_0_0"
    assert (rows[0].in_dtype, rows[0].acc_dtype, rows[0].out_dtype) == ("float64", "float64", "float64")
    text = made.explain()
    assert "test_1_0_0_0" in text
    assert "cuts: none" in text


def test_a_broken_guard_is_served_by_a_program_of_its_own() -> None:
    asked: list[Any] = []
    lowered = program()
    guarded = executable(program(guards=(Guard(N, 4, "layer/Add"),)))
    imported = Graph(lowered.inputs, (), tuple(v for v, _ in lowered.outputs))

    def specialize(shapes: Any) -> Any:
        asked.append(shapes)
        return executable(lowered)

    made = Program(imported, guarded, Notes(), specialize=specialize)
    for length in (4, 5, 5, 6, 4):
        assert np.array_equal(made(np.ones(length), TWO)[0], np.full(length, 2.0))
    assert asked == [((5,), (1,)), ((6,), (1,))]
    with pytest.raises(ShapeError, match="layer/Add: the model was compiled for n equal to 4") as caught:
        Program(imported, guarded, Notes())(np.ones(5), TWO)
    assert isinstance(caught.value.__cause__, GuardBroken)


def test_refresh() -> None:
    lowered = program(weights={"f": np.array([3.0])})
    imported = Graph(lowered.inputs, (), tuple(v for v, _ in lowered.outputs))
    with pytest.raises(ModelError, match="compile it again"):
        Program(imported, executable(lowered), Notes()).refresh()
    made = Program(imported, executable(lowered), {}, fetch_weights=lambda: program(weights={"f": np.array([5.0])}))
    assert made(np.ones(2))[0][0] == 3
    made.refresh()
    assert made(np.ones(2))[0][0] == 5


def test_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "3,1")
    assert Options.resolve() == Options(3, tmp_path / "sansuan")
    assert Options.resolve(5, cache=False) == Options(5, None)
    assert Options.resolve(cache=tmp_path).cache_dir == tmp_path
    for text in ("", "0", "-2", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", text)
        assert Options.resolve().threads >= 1
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert Options.resolve().cache_dir == Path.home() / ".cache" / "sansuan"
    with pytest.raises(ValueError, match="threads: 0"):
        Options.resolve(0)
