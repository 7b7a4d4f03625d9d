"""Arena layouts: nothing that lives at the same time overlaps, and maps reuse what dies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.native.arena import KEPT, ArenaPool
from backends.native.executor import executor
from backends.native.memory import ALIGNMENT, ArenaLayout, aligned_copy, aligned_empty
from backends.native.records import ARENA
from compiler.kernels import Buffer, KernelCall, MoveSpec, View
from tests.backends.native.programs import F64, SPEC, dense

COPY = MoveSpec("copy", 8, 1, None, ("unit",), ("unit",))


def layout(*steps: tuple[str, str], spec: object = COPY, elements: int = 8) -> tuple[ArenaLayout, dict[str, int]]:
    """A layout for calls (read, write) over buffers of `elements`, and the bytes of each buffer."""
    calls = [KernelCall(spec, (dense(a, elements),), (dense(b, elements),)) for a, b in steps]  # type: ignore[arg-type]
    names = {name for step in steps for name in step if name not in ("x", "y")}
    buffers = {name: Buffer(name, F64, elements, "temp") for name in names}
    return ArenaLayout(calls, buffers), {name: 8 * elements for name in names}


def test_a_chain_needs_two_buffers() -> None:
    made, sizes = layout(("x", "a"), ("a", "b"), ("b", "c"), ("c", "d"), ("d", "y"))
    offsets, total = made.offsets(sizes)
    assert total == 2 * 64
    assert offsets["a"] == offsets["c"] != offsets["b"] == offsets["d"]


def test_a_chain_of_maps_runs_in_place() -> None:
    made, sizes = layout(("x", "a"), ("a", "b"), ("b", "c"), ("c", "y"), spec=SPEC)
    offsets, total = made.offsets(sizes)
    assert total == 64
    assert set(offsets.values()) == {0}


def test_a_map_does_not_overwrite_what_is_read_later() -> None:
    made, sizes = layout(("x", "a"), ("a", "b"), ("a", "c"), ("b", "y"), ("c", "y"), spec=SPEC)
    offsets, _ = made.offsets(sizes)
    assert offsets["a"] != offsets["b"]  # a is read once more
    assert offsets["c"] == offsets["a"]


@pytest.mark.parametrize(
    "read", [View("a", F64, (4, 2), (1, 4)), View("a", F64, (4, 2), (0, 1)), View("a", F64, (4, 2), (2, 1), 1)]
)
def test_a_map_does_not_overwrite_an_operand_of_another_layout(read: View) -> None:
    buffers = {name: Buffer(name, F64, 8, "temp") for name in "ab"}
    first = KernelCall(SPEC, (dense("x", 4, 2),), (dense("a", 4, 2),))
    second = KernelCall(SPEC, (dense("a", 4, 2), read), (dense("b", 4, 2),))
    third = KernelCall(SPEC, (dense("b", 4, 2),), (dense("y", 4, 2),))
    offsets, _ = ArenaLayout([first, second, third], buffers).offsets({"a": 64, "b": 64})
    assert offsets["a"] != offsets["b"]


def test_empty_buffers() -> None:
    made, sizes = layout(("x", "a"), ("a", "y"), elements=0)
    assert made.offsets(sizes) == ({"a": 0}, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.sampled_from([0, 1, 64, 65, 1000])), max_size=12))
def test_random_lifetimes_never_overlap(rows: list[tuple[int, int, int]]) -> None:
    names = [f"t{i}" for i in range(len(rows))]
    life = [(min(a, b), max(a, b)) for a, b, _ in rows]
    calls = [
        KernelCall(COPY, tuple(dense(n, 1) for n, (a, b) in zip(names, life, strict=True) if step in (a, b)), ())
        for step in range(10)
    ]
    made = ArenaLayout(calls, {name: Buffer(name, F64, 1, "temp") for name in names})
    sizes = {name: row[2] for name, row in zip(names, rows, strict=True)}
    offsets, total = made.offsets(sizes)
    for i, name in enumerate(names):
        assert offsets[name] % ALIGNMENT == 0
        assert offsets[name] + sizes[name] <= total
        for j, other in enumerate(names[:i]):
            together = life[i][0] <= life[j][1] and life[j][0] <= life[i][1]
            apart = offsets[name] + sizes[name] <= offsets[other] or offsets[other] + sizes[other] <= offsets[name]
            assert not together or apart or not (sizes[name] and sizes[other])


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 4096])
def test_aligned_memory(size: int) -> None:
    memory = aligned_empty(size)
    assert memory.nbytes == size
    assert memory.ctypes.data % ALIGNMENT == 0 or size == 0
    source = np.arange(size, dtype=np.float32)[::-1]
    copy = aligned_copy(source)
    assert np.array_equal(copy, source)
    assert copy.flags.c_contiguous


def test_the_arena_pool_is_bounded_and_grows_only_idle_arenas() -> None:
    pool = ArenaPool()
    for _ in range(3 * KEPT):
        pool.another(64)
    assert len(pool.arenas()) == KEPT
    assert executor().acquire(pool.main.address) == 0
    pool.grow(pool.main, 1000, executor())
    assert ARENA.read(pool.main.record, "bytes") == 0  # somebody runs in it
    ARENA.write(pool.main.record, 0, busy=0)
    pool.grow(pool.main, 1000, executor())
    assert ARENA.read(pool.main.record, "bytes") == 1000
    assert executor().acquire(pool.main.address) == 0  # and was given back
