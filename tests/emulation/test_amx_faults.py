"""What the manual forbids faults in the emulator as on hardware, and threads know of their own tiles only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from llvmlite import ir

from backends.native.kernel import I64
from tests.backends.native.children import fate
from tests.backends.native.programs import TestKernel, executable, program
from tests.emulation.amx import Emulator, require_emulation
from tests.emulation.machine_code import Step, asm_function, call, compiled, configuration, run

SQUARE = {0: (4, 16), 1: (4, 16), 2: (4, 16)}
LOAD, STORE, PRODUCT = ("tileloadd64", 0, 1, 2), ("tilestored64", 0, 1, 2), ("tdpbf16ps", 0, 1, 2)


@pytest.mark.parametrize(
    ("name", "reason", "steps", "shapes", "patch"),
    [
        ("LDTILECFG", "palette is neither", (), SQUARE, {0: 2}),
        *[("LDTILECFG", "reserved bytes", (), SQUARE, {i: 1}) for i in (2, 15, 32, 47, 56, 63)],
        ("LDTILECFG", "more than 64 bytes", (), {0: (4, 65)}, {}),
        ("LDTILECFG", "more than 64 bytes", (), {7: (4, 320)}, {}),
        ("LDTILECFG", "more than 16 rows", (), {7: (17, 64)}, {}),
        ("LDTILECFG", "without columns", (), {3: (4, 0)}, {}),
        ("LDTILECFG", "without columns", (), {3: (0, 4)}, {}),
        *[(name, "not configured", (("tilerelease",), step), SQUARE, {}) for name, step in (
            ("TILELOADD", LOAD), ("TILESTORED", STORE), ("TILEZERO", ("tilezero", 0)), ("TDPBF16PS", PRODUCT))],
        *[(name, "not configured", (step,), SQUARE, {0: 0}) for name, step in (
            ("TILELOADD", LOAD), ("TILEZERO", ("tilezero", 0)))],
        *[(step[0].removesuffix("64").upper(), "without rows", (step,), {4: (1, 4)}, {}) for step in (
            LOAD, STORE, ("tilezero", 0), PRODUCT)],
        *[(step[0].removesuffix("64").upper(), "no multiple of 4", (step,), {0: (4, 6), 1: (4, 16), 2: (4, 6)}, {})
          for step in (LOAD, STORE, PRODUCT)],
        ("TILELOADD", "start_row is not below", (LOAD,), SQUARE, {1: 4}),
        *[(name.upper(), reason, ((name, 0, 1, 2),), shapes, {})
          for name in ("tdpbf16ps", "tdpfp16ps", "tdpbssd", "tdpbsud", "tdpbusd", "tdpbuud")
          for reason, shapes in (
              ("rows of the sum", {0: (4, 16), 1: (5, 16), 2: (4, 16)}),
              ("bytes per row of the sum", {0: (4, 16), 1: (4, 16), 2: (4, 20)}),
              ("rows of the second factor", {0: (4, 16), 1: (4, 16), 2: (5, 16)}),
              ("rows of the second factor", {0: (4, 16), 1: (4, 12), 2: (4, 16)}))],
        *[("TDPBSSD", "not distinct", (("tdpbssd", *tiles),), SQUARE, {})
          for tiles in ((0, 0, 1), (0, 1, 0), (0, 1, 1))],
        ("TDPBUUD", "start_row is not 0", (("tdpbuud", 0, 1, 2),), SQUARE, {1: 2}),
    ],
)  # fmt: skip
def test_what_the_manual_forbids_faults(
    amx: Emulator, name: str, reason: str, steps: tuple[Step, ...],
    shapes: dict[int, tuple[int, int]], patch: dict[int, int],
) -> None:  # fmt: skip
    config, memory = configuration(shapes), np.zeros(4096, np.uint8)
    for at, value in patch.items():
        config[at] = value
    slots = np.array([config.ctypes.data, memory.ctypes.data, 64])
    assert amx.guarded(compiled(("ldtilecfg", 0), *steps, ("tilerelease",)), slots.ctypes.data)
    (fault,) = amx.faults()
    assert fault.instruction == name and reason in fault.reason
    assert amx.counters()[name] == 0


@pytest.mark.parametrize(
    ("name", "reason", "code"),
    [
        ("TILEZERO", "8 tiles only", "c4 62 7b 49 c0"),
        ("TDPBSSD", "8 tiles only", "c4 e2 3b 5e c1"),  # vvvv = 8
        ("TDPBSSD", "8 tiles only", "c4 c2 73 5e c2"),  # modrm.rm = 10
        ("TILELOADD", "no SIB byte", "c4 e2 7b 4b 07"),
    ],
)
def test_encodings_that_fault(amx: Emulator, name: str, reason: str, code: str) -> None:
    config = configuration(SQUARE)
    encoded = ",".join(f"0x{byte}" for byte in code.split())
    function = asm_function(["movq (%rdi), %rax", "ldtilecfg (%rax)", f".byte {encoded}", "tilerelease"])
    slots = np.array([config.ctypes.data])
    assert amx.guarded(function, slots.ctypes.data)
    (fault,) = amx.faults()
    assert fault.instruction == name and reason in fault.reason


def test_a_fault_leaves_arithmetic_as_it_was(amx: Emulator) -> None:
    config = configuration(SQUARE)
    slots, denormal = np.array([config.ctypes.data]), np.array([1e-40], np.float32)
    assert amx.guarded(compiled(("ldtilecfg", 0), ("tdpbf16ps", 0, 1, 2), ("tilezero", 7)), slots.ctypes.data)
    assert amx.faults()[0].instruction == "TILEZERO"
    assert (denormal * 2)[0] > 0
    run(compiled(("tilerelease",)))


def test_a_call_without_fault_is_no_fault(amx: Emulator) -> None:
    config = configuration(SQUARE)
    slots = np.array([config.ctypes.data])
    assert not amx.guarded(compiled(("ldtilecfg", 0), ("tilezero", 2)), slots.ctypes.data)
    assert amx.configured_threads == 1  # TILERELEASE is missing
    assert not amx.guarded(compiled(("tilerelease",)))
    assert amx.configured_threads == 0


# A configuration in the red zone: tiles 0 to 2 have 1 row of 4 bytes.
CONFIGURE = [
    *[f"movq $0, {offset}(%rsp)" for offset in range(-128, -64, 8)],
    "movb $1, -128(%rsp)", *[f"movb $4, {offset}(%rsp)" for offset in (-112, -110, -108)],
    *[f"movb $1, {offset}(%rsp)" for offset in (-80, -79, -78)], "ldtilecfg -128(%rsp)",
]  # fmt: skip


def test_a_configuration_on_the_stack(amx: Emulator) -> None:
    run(asm_function([*CONFIGURE, "tdpbssd %tmm2, %tmm0, %tmm1", "tilerelease"]))
    assert amx.counters()["TDPBSSD"] == 1


@pytest.mark.parametrize(
    ("signal_name", "lines"),
    [
        ("SIGILL", ["tilezero %tmm0"]),
        ("SIGSEGV", ["movb $2, -128(%rsp)", "ldtilecfg -128(%rsp)"]),
        ("SIGILL", ["ud2"]),
        *[
            ("SIGILL", [*CONFIGURE, f".byte {code}"])
            for code in (
                "0xc4,0xe2,0xfb,0x49,0xc0",  # TILEZERO with W = 1
                "0xc4,0xe2,0x73,0x49,0xc0",  # TILEZERO with a third operand
                "0xc4,0xe2,0x7f,0x49,0xc0",  # TILEZERO of 256 bits
                "0xc4,0xe3,0x7b,0x49,0xc0",  # TILEZERO in map 3
                "0xc4,0xe2,0x79,0x49,0xc0",  # a register form that does not exist
                "0xc4,0xe2,0x78,0x49,0xc1",  # TILERELEASE with an operand
                "0xc4,0xe2,0x78,0x49,0x4c,0x24,0x80",  # LDTILECFG -128(%rsp) with a tile
                "0xc4,0xe2,0x6b,0x5e,0x0f",  # a product from memory
            )
        ],
    ],
)
def test_without_a_guard_a_fault_is_the_signal_of_hardware(signal_name: str, lines: list[str]) -> None:
    require_emulation()
    function = asm_function(lines)

    def body(note: Callable[[object], None]) -> None:
        with Emulator():  # here, because the child began with giving up pytest's handlers
            note(lines)
            run(function)

    assert fate(body) == f"{signal_name} in {lines}"


def test_each_thread_has_tiles_of_its_own(amx: Emulator) -> None:
    configs = [configuration({0: (rows, 16)}) for rows in (3, 16)]
    sources = [np.full((16, 16), i + 1, np.uint8) for i in range(2)]
    outs = [np.zeros((16, 16), np.uint8) for _ in range(2)]
    configure, release = call(("ldtilecfg", 0)), call(("tilerelease",))
    load, store = call(("tileloadd64", 0, 0, 1)), call(("tilestored64", 0, 0, 1))
    together, seen = threading.Barrier(2), []

    def body(i: int) -> None:
        for step, slots in ((configure, [configs[i].ctypes.data]), (load, [sources[i].ctypes.data, 16]),
                            (store, [outs[i].ctypes.data, 16])):  # fmt: skip
            step(slots)
            together.wait(timeout=30)
        seen.append(amx.configured_threads)
        together.wait(timeout=30)
        release()

    threads = [threading.Thread(target=body, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outs[0][:3] == 1).all() and not outs[0][3:].any() and (outs[1] == 2).all()
    assert seen == [2, 2] and amx.configured_threads == 0


@dataclass(frozen=True)
class TileKernel(TestKernel):
    """Each chunk calls a function of tile instructions first."""

    function: int = 0
    slots: int = 0

    @property
    def name(self) -> str:
        return f"{super().name}_{self.function}_{self.slots}"

    def emit(self, module: ir.Module) -> None:
        super().emit(module)
        builder = ir.IRBuilder()
        builder.position_at_start(module.get_global(self.name).entry_basic_block)
        address = builder.inttoptr(I64(self.function), ir.FunctionType(ir.VoidType(), [I64]).as_pointer())
        builder.call(address, [I64(self.slots)])


def test_workers_of_the_team_are_trapped_too(amx: Emulator) -> None:
    config = configuration(SQUARE)
    slots = np.array([config.ctypes.data])
    function = compiled(("ldtilecfg", 0), ("tilezero", 1), ("tilerelease",))
    kernel = TileKernel(spins=400_000, thread=True, function=function, slots=slots.ctypes.data)
    run_program = executable(program(64), kernel, threads=2)
    amx.reset()
    x, two = np.zeros(64), np.array([2.0])
    seen = {worker for _ in range(20) for worker in run_program.run([x, two])[0]}
    assert len(seen) == 2
    assert amx.counters()["TILEZERO"] == 20 * 64
    assert amx.configured_threads == 0


def test_a_configuration_is_its_threads_alone(amx: Emulator) -> None:
    config = configuration(SQUARE)
    call(("ldtilecfg", 0))([config.ctypes.data])
    found = []
    thread = threading.Thread(target=lambda: found.append(amx.guarded(compiled(("tilezero", 0)))))
    thread.start()
    thread.join()
    assert found == [True] and amx.faults()[0].reason == "tiles are not configured"
    assert not amx.guarded(compiled(("tilezero", 0), ("tilerelease",)))


def test_counters_of_many_threads_add_up(amx: Emulator) -> None:
    config = configuration(SQUARE)
    code = call(("ldtilecfg", 0), *[("tilezero", 1)] * 50, ("tilerelease",))

    def body() -> None:
        for _ in range(100):
            code([config.ctypes.data])

    threads = [threading.Thread(target=body) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert amx.counters()["TILEZERO"] == 4 * 100 * 50
    assert amx.configured_threads == 0


def test_the_trap_forgets_tiles_between_tests(amx: Emulator) -> None:
    config = configuration(SQUARE)
    call(("ldtilecfg", 0))([config.ctypes.data])
    amx.__exit__(None, None, None)
    amx.__enter__()
    assert amx.guarded(compiled(("tilezero", 0))) and len(amx.faults()) == 1
    assert amx.configured_threads == 0
