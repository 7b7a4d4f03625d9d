"""What rates are compared with: the peak of every unit, the bandwidth of memory, threads that start together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from backends.native.target import host
from backends.native.units import ORDERED, MatrixUnit, generic
from bench.bandwidth import AHEAD, BLOCK, LEVELS, Bandwidths, ReadLoop, bandwidth, level, working_set
from bench.parallel import elapsed
from bench.peak import PeakLoop, peak, triple, unit_peak
from compiler import dtypes

HERE = [unit for unit in (*ORDERED, *generic.units(host().vector)) if not unit.missing(host())]


@pytest.mark.parametrize("unit", HERE, ids=lambda unit: f"{unit.name}_{unit.acc}")
def test_the_peak_loop_of_every_unit_runs(unit: MatrixUnit) -> None:
    assert unit_peak(unit, 1, host(), steps=100) > 0


@pytest.mark.parametrize("unit", HERE, ids=lambda unit: f"{unit.name}_{unit.acc}")
def test_the_peak_loop_multiplies_and_adds_in_every_step(unit: MatrixUnit) -> None:
    loop = PeakLoop(unit, host())
    few, many = (_sums(loop(steps), unit, loop.products) for steps in (12, 36))
    assert np.all(few != 0)
    np.testing.assert_allclose(many, few * 3, rtol=0 if unit.acc.is_integer else 1e-5)  # integers wrap


def _sums(memory: np.ndarray, unit: MatrixUnit, products: int) -> np.ndarray:
    """The first element of every accumulator."""
    rows = memory.reshape(-1, 256)[:products, : unit.acc.bytes]
    return np.ascontiguousarray(rows).view(unit.acc.numpy).ravel()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "int8", "uint8"])
def test_peaks_by_element_type(dtype: str) -> None:
    assert peak(dtype) > 0


def test_narrow_types_are_summed_in_32_bits() -> None:
    assert triple("bfloat16") == (dtypes.bfloat16, dtypes.bfloat16, dtypes.float32)
    assert triple(dtypes.int8) == (dtypes.int8, dtypes.int8, dtypes.int32)
    assert triple("float64") == (dtypes.float64,) * 3


@pytest.mark.parametrize("ahead", AHEAD)
@pytest.mark.parametrize("at", [0, BLOCK // 2 + 3, 4 * BLOCK - 1])
def test_the_read_loop_reads_every_byte(at: int, ahead: int) -> None:
    loop = ReadLoop(host(), ahead)
    buffer = np.zeros(4 * BLOCK + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    assert loop(buffer, 4 * BLOCK, 2) == 0
    lanes = host().vector // 8
    found = []
    for lane in range(lanes):  # the answer is the first lane's: the byte's own lane sees it, no other does
        buffer[:] = 0
        buffer[start + (at // 8 // lanes * lanes + lane) * 8 + at % 8] = 1
        found.append(loop(buffer, 4 * BLOCK, 2) != 0)
    assert found == [True] + [False] * (lanes - 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_bandwidth_of_a_small_buffer(threads: int) -> None:
    assert bandwidth(64 << 10, threads) > 0


def test_levels_by_what_a_thread_reads() -> None:
    machine = host()
    assert level(machine.l1, 1, machine) == "L1"
    assert level(machine.l1 + 1, 1, machine) == "L2"
    assert level(2 * machine.l2, 2, machine) == "L2"
    assert level(machine.l3 + 1, 1, machine) == "memory"
    assert [level(working_set(name, 2, machine), 2, machine) for name in LEVELS] == [
        name if name != "L3" or machine.l3 else "memory" for name in LEVELS
    ]
    bare = replace(machine, l3=0)
    assert level(working_set("L3", 2, bare), 2, bare) == "memory"


def test_a_bandwidth_once_seen_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr("bench.bandwidth.bandwidth", lambda size, threads: next(rates))
    bandwidths = Bandwidths(1)
    assert [bandwidths.measured("L1") for _ in range(3)] == [2.0, 2.0, 3.0]


def test_threads_are_timed_from_the_first_start_to_the_last_end() -> None:
    import time

    done: list[int] = []

    def prepare(number: int):  # type: ignore[no-untyped-def]
        def work() -> None:
            time.sleep(0.01 * (number + 1))
            done.append(number)

        return work

    assert elapsed(prepare, 3) >= 0.03
    assert sorted(done) == [0, 1, 2]
