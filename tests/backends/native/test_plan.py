"""Plans: sizes bound from inputs, argument blocks shared by like calls, bounded memory, cuts and late values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from backends.native.kernel import Arguments
from backends.native.library import counters
from backends.native.sizes import GuardBroken, SizeTable, bind
from compiler import dims, dtypes
from compiler.dims import Size, symbol
from compiler.errors import IndexOutOfRange, ShapeError
from compiler.ir import Guard, Node, Value
from compiler.kernels import Buffer, HostCall, KernelCall, View
from compiler.types import TensorType
from tests.backends.native.programs import F64, SPEC, TestKernel, dense, executable, program, value

N, M = symbol("n"), symbol("m")
TWO = np.array([2.0])


def patch_references(patch: pytest.MonkeyPatch, references: Mapping[str, Callable[..., np.ndarray]]) -> None:
    """Let ops of these names exist, with these references."""
    patch.setattr("backends.native.late.lookup", lambda op: SimpleNamespace(reference=references[op]))


def test_symbols_are_bound_from_shapes() -> None:
    sizes: dict[str, int] = {}
    bind((3, 5), TensorType(F64, (N, M)), sizes, "input 'a'")
    bind((3, 7), TensorType(F64, (N, N + 4)), sizes, "input 'b'")
    assert sizes == {"n": 3, "m": 5}


@pytest.mark.parametrize(("found", "n"), [(11, 4), (3, 0), (5, 1)])
def test_a_linear_size_is_solved(found: int, n: int) -> None:
    sizes: dict[str, int] = {}
    bind((found,), TensorType(F64, (N * 2 + 3,)), sizes, "input 'a'")
    assert sizes == {"n": n}


@pytest.mark.parametrize(
    ("shape", "type", "message"),
    [
        ((3, 4), (N, N), r"input 'a': axis 1 is 4, expected 3 \(n, decided by input 'a' axis 0\)"),
        ((3, 4), (3, 5), "input 'a': axis 1 is 4, expected 5"),
        ((3,), (N, N), "input 'a': rank 1, expected 2"),
        ((3, 7), (N, N * 2), "axis 1 is 7, expected 6"),
    ],
)
def test_shapes_that_do_not_fit(shape: tuple[int, ...], type: tuple[Size, ...], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        bind(shape, TensorType(F64, type), {}, "input 'a'", {})


def test_size_tables_evaluate_everything_at_once() -> None:
    sizes = [N, N * M + 3, dims.maximum(N - 4, 0), (N * 3) // M, 7]
    size = SizeTable(sizes).under({"n": 5, "m": 2})
    assert [size(s) for s in sizes] == [5, 13, 1, 7, 7]
    assert size(N * M * M) == 20  # one that was not announced


def test_a_new_shape_compiles_nothing_and_plans_are_bounded() -> None:
    run = executable(program(steps=3), TestKernel(), plans=4)
    compiled = counters.compiled
    for length in [*range(40), 3, 39]:
        x = np.arange(length, dtype=np.float64)
        assert np.array_equal(run.run([x, TWO])[0], 8 * x)
    statistics = run.statistics()
    assert counters.compiled == compiled
    assert statistics.plans == 4
    assert statistics.planned == 41  # 39 was still known, 3 was not
    assert statistics.arena_bytes < 4 * 39 * 8 + 1024  # what the largest shape needs


def test_like_calls_are_planned_once() -> None:
    asked = []

    class Counting(TestKernel):
        def arguments(self, call: KernelCall, size: Callable[[Size], int], threads: int) -> Arguments:
            asked.append(call.where)
            return super().arguments(call, size, threads)

    run = executable(program(steps=12), Counting())
    x = np.arange(4.0)
    assert np.array_equal(run.run([x, TWO])[0], x * 2.0**12)
    assert asked == [("node0",)]


def test_guards() -> None:
    lowered = program()
    run = executable(replace(lowered, guards=(Guard(N, 4, "layer/Add"),)))
    assert np.array_equal(run.run([np.ones(4), TWO])[0], np.full(4, 2.0))
    with pytest.raises(GuardBroken, match="layer/Add") as caught:
        run.run([np.ones(5), TWO])
    assert caught.value.sizes == {"n": 5}


@pytest.mark.parametrize("threads", [1, 2])
def test_a_failing_kernel_names_its_node(threads: int) -> None:
    run = executable(program(8, steps=3), TestKernel(), TestKernel(fails_at=5), TestKernel(), threads=threads)
    with pytest.raises(IndexOutOfRange, match="node1"):
        run.run([np.ones(8), TWO])
    with pytest.raises(IndexError):
        run.run([np.ones(8), TWO])
    assert [row.runs for row in run.rows()] == [2, 2, 0]  # counted as they execute


def test_weights_are_packed_once_and_refreshed_in_place() -> None:
    kernel = TestKernel(packs=True)
    run = executable(program(steps=5, weights={"f": np.array([3.0])}), kernel)
    x = np.arange(4.0)
    assert np.array_equal(run.run([x])[0], x * (-3.0) ** 5)
    assert kernel.packed == ["f"]
    compiled = counters.compiled
    run.refresh({"f": np.array([2.0]), "unknown": np.ones(3)})
    assert np.array_equal(run.run([x])[0], x * (-2.0) ** 5)
    assert counters.compiled == compiled
    assert run.statistics().plans == 1


@pytest.mark.parametrize("dtype", ["<f8", ">f8"])
def test_plain_weights_are_read_at_compile_time(dtype: str) -> None:
    weight = np.array([3.0]).astype(dtype)
    run = executable(program(weights={"f": weight}))
    weight[:] = 99
    x = np.arange(4.0)
    assert np.array_equal(run.run([x])[0], 3 * x)
    run.refresh({"f": np.array([5.0])})
    assert np.array_equal(run.run([x])[0], 5 * x)


def test_large_weights_are_shared_until_refreshed() -> None:
    large = np.full(1 << 18, 3.0)
    lowered = program(weights={"f": large})
    run = executable(replace(lowered, buffers={**lowered.buffers, "f": Buffer("f", F64, large.size, "weight")}))
    assert run.prepared.weights.plain["f"] is large
    x = np.arange(4.0)
    assert np.array_equal(run.run([x])[0], 3 * x)
    run.refresh({"f": large * 2})
    assert np.array_equal(run.run([x])[0], 6 * x)


def test_size_buffers_are_filled_while_planning() -> None:
    buffers = {
        "x": Buffer("x", F64, N, "input"), "s": Buffer("s", F64, 1, "sizes"), "y": Buffer("y", F64, N, "output")
    }  # fmt: skip
    call = KernelCall(SPEC, (dense("x", N), dense("s", 1)), (dense("y", N),))
    lowered = program(inputs=(value("x", N),), buffers=buffers, calls=(call,), sizes={"s": (N * 10,)})
    run = executable(lowered)
    for length in (3, 5, 3):
        assert np.array_equal(run.run([np.ones(length)])[0], np.full(length, 10.0 * length))


def test_late_values_bind_sizes_and_fill_buffers() -> None:
    i64 = dtypes.int64
    late = Value("half", TensorType(i64, (1,)))
    taken = Value("y", TensorType(F64, (symbol("u0"),)))
    source = Node("sizes", (), (Value("s", TensorType(i64, (1,))),), {"sizes": (N,)})
    halved = Node("map_like", (source.output,), (late,))
    shaped = Node("shaped_like", (late,), (taken,))
    buffers = {
        "x": Buffer("x", F64, N, "input"), "f": Buffer("f", F64, 1, "input"),
        "y": Buffer("y", F64, symbol("u0"), "output"),
    }  # fmt: skip
    call = KernelCall(SPEC, (dense("x", symbol("u0")), dense("f", 1)), (dense("y", symbol("u0")),))
    lowered = program(
        buffers=buffers, calls=(call,), late=(shaped, halved, source), outputs=((taken, dense("y", symbol("u0"))),)
    )
    references = {
        "sizes": lambda sizes: np.array(sizes),
        "map_like": lambda s: s // 2,
        "shaped_like": lambda half: np.zeros(int(half[0])),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "backends.native.late.lookup", lambda op: type("Op", (), {"reference": staticmethod(references[op])})
        )
        run = executable(lowered)
        for length in (8, 5, 0):
            assert np.array_equal(run.run([np.ones(length), TWO])[0], np.full(length // 2, 2.0))


@pytest.fixture
def positive(monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
    """A program: t = x * f; u = the positive elements of t (a Host step); y = u * f; outputs t, u and y."""
    u0 = symbol("u0")
    lookups = {"keep_positive": lambda t: t[t > 0], "view": lambda t: t}
    patch_references(monkeypatch, lookups)

    def build(op: str = "keep_positive") -> object:
        size: Size = u0 if op == "keep_positive" else N
        buffers = {
            "x": Buffer("x", F64, N, "input"), "f": Buffer("f", F64, 1, "input"), "t": Buffer("t", F64, N, "output"),
            "u": Buffer("u", F64, size, "output"), "y": Buffer("y", F64, size, "output"),
        }  # fmt: skip
        t, u, y = value("t", N), value("u", size), value("y", size)
        node = Node(op, (t,), (u,), {}, ("pick",))
        calls = (
            KernelCall(SPEC, (dense("x", N), dense("f", 1)), (dense("t", N),), (), ("first",)),
            HostCall(node, (dense("t", N),), ("u",), "its result's size depends on data", ("pick",)),
            KernelCall(SPEC, (dense("u", size), dense("f", 1)), (dense("y", size),), (), ("second",)),
        )
        outputs = ((t, dense("t", N)), (u, dense("u", size)), (y, dense("y", size)))
        return executable(program(buffers=buffers, calls=calls, outputs=outputs))

    return build


def test_host_steps_cut_the_plan(positive: Callable[..., object]) -> None:
    run = positive()
    for x in (np.array([1.0, -1, 2]), np.array([-1.0]), np.array([1.0, 2, 3]), np.array([])):
        t, u, y = run.run([x, TWO])  # type: ignore[attr-defined]
        assert np.array_equal(t, 2 * x)
        assert np.array_equal(u, t[t > 0])
        assert np.array_equal(y, 2 * u)
    assert [(row.unit, row.runs) for row in run.rows()] == [("test", 4), ("host", 4), ("test", 4)]  # type: ignore[attr-defined]


def test_host_results_that_are_views_do_not_alias(positive: Callable[..., object]) -> None:
    run = positive("view")
    x = np.array([1.0, 2.0])
    t, u, y = run.run([x, TWO])  # type: ignore[attr-defined]
    assert not any(np.may_share_memory(a, b) for a, b in [(t, u), (t, y), (u, y), (t, x), (u, x)])
    assert np.array_equal(u, t)


def test_strided_views_reach_host_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_references(monkeypatch, {"half": lambda a: a + 0.5})
    view = View("x", F64, (3, 2), (1, 3))
    node = Node("half", (value("x", 2, 3),), (value("y", 3, 2),), {}, ("half",))
    buffers = {"x": Buffer("x", F64, 6, "input"), "y": Buffer("y", F64, 6, "temp")}
    lowered = program(
        inputs=(value("x", 2, 3),), buffers=buffers, calls=(HostCall(node, (view,), ("y",), "a test"),),
        outputs=((value("y", 3, 2), dense("y", 3, 2)),),
    )  # fmt: skip
    x = np.arange(6.0).reshape(2, 3)
    assert np.array_equal(executable(lowered).run([x])[0], x.T + 0.5)


def test_host_steps_on_buffers_without_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_references(monkeypatch, {"count": lambda t: np.array([float(t.ndim), float(t.size)])})
    node = Node("count", (value("t", 0, 3),), (value("y", 2),), {}, ("count",))
    buffers = {
        "x": Buffer("x", F64, N, "input"), "t": Buffer("t", F64, 0, "temp"), "y": Buffer("y", F64, 2, "output")
    }  # fmt: skip
    call = HostCall(node, (dense("t", 0, 3),), ("y",), "a test")
    lowered = program(
        inputs=(value("x", N),), buffers=buffers, calls=(call,), outputs=((value("y", 2), dense("y", 2)),)
    )
    assert executable(lowered).run([np.ones(3)])[0].tolist() == [2.0, 0.0]  # its rank is still known


def test_a_host_result_of_unknown_rank_is_passed_on_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_references(monkeypatch, {"square": lambda x: np.outer(x, x), "sum": lambda t: t.sum(axis=0)})
    unknown = Value("t", TensorType(F64, None))
    first = HostCall(Node("square", (value("x", N),), (unknown,)), (dense("x", N),), ("t",), "a test")
    second = HostCall(Node("sum", (unknown,), (value("y", N),)), (dense("t"),), ("y",), "a test")
    buffers = {
        "x": Buffer("x", F64, N, "input"), "t": Buffer("t", F64, 0, "temp"), "y": Buffer("y", F64, N, "output")
    }  # fmt: skip
    lowered = program(
        inputs=(value("x", N),), buffers=buffers, calls=(first, second), outputs=((value("y", N), dense("y", N)),)
    )
    assert executable(lowered).run([np.array([1.0, 2.0])])[0].tolist() == [3.0, 6.0]
