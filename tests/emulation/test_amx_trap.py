"""The AMX emulator: every instruction against NumPy and against the manual's list of what must not work."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from tests.emulation.amx import Emulator, library
from tests.emulation.machine_code import KEPT, Step, asm_function, call, configuration, run
from tests.emulation.reference import byte_product, float_product, floats, interleaved, widened

EDGES = [(m, n, k) for m in (1, 2, 15, 16) for n in (1, 3, 16) for k in (1, 2, 15, 16)]
SHAPES = EDGES + [(i + 1, (5 * i + 3) % 16 + 1, (11 * i + 7) % 16 + 1) for i in range(16)]  # each value in each place
BYTES = {"tdpbssd": "ii", "tdpbsud": "iu", "tdpbusd": "ui", "tdpbuud": "uu"}


def product_steps(name: str, c: int = 0, a: int = 1, b: int = 2) -> tuple[Step, ...]:
    """Slots: configuration, then address and stride of c, a and b."""
    loads: list[Step] = [("tileloadd64", c, 1, 2), ("tileloadd64", a, 3, 4), ("tileloadd64", b, 5, 6)]
    return (("ldtilecfg", 0), *loads, (name, c, a, b), ("tilestored64", c, 1, 2), ("tilerelease",))


def multiply(
    name: str, c: np.ndarray, a: np.ndarray, b: np.ndarray, tiles: tuple[int, int, int] = (0, 1, 2)
) -> np.ndarray:
    """c + a b by the instruction; the operands stand in memory with gaps between their rows."""
    images = [np.full((x.shape[0], 80), 0xA5, np.uint8) for x in (c, a, interleaved(b))]
    widths = []
    for image, x in zip(images, (c, a, interleaved(b)), strict=True):
        widths.append(x.shape[1] * x.itemsize)
        image[:, : widths[-1]] = np.ascontiguousarray(x).view(np.uint8)
    config = configuration({tile: (len(x), w) for tile, x, w in zip(tiles, images, widths, strict=True)})
    slots = [config.ctypes.data]
    for image in images:
        slots += [image.ctypes.data, 80]
    call(*product_steps(name, *tiles))(slots)
    assert (images[0][:, widths[0] :] == 0xA5).all()
    return np.ascontiguousarray(images[0][:, : widths[0]]).view(c.dtype)


@pytest.fixture(params=["fast", "portable"])
def arithmetic(amx: Emulator, request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """The emulator, on machines with FMA also as on those without."""
    library().amx_portable(request.param == "portable")
    yield amx
    library().amx_portable(0)


@pytest.mark.parametrize("kind", ["usual", "wide", "special"])
@pytest.mark.parametrize("name", ["tdpbf16ps", "tdpfp16ps"])
def test_float_products(arithmetic: Emulator, rng: np.random.Generator, name: str, kind: str) -> None:
    half = name == "tdpfp16ps"
    for m, n, k in SHAPES:
        a, b = floats(rng, (m, 2 * k), half, kind), floats(rng, (2 * k, n), half, kind)
        c = widened(floats(rng, (m, n), False, kind))
        expected = float_product(c, widened(a), widened(b))
        found = multiply(name, c, a, b)
        nan = np.isnan(expected)
        assert np.array_equal(np.isnan(found), nan)
        assert np.array_equal(found.view(np.uint32)[~nan], expected.view(np.uint32)[~nan])
    assert arithmetic.counters()[name.upper()] == len(SHAPES)


@pytest.mark.parametrize("name", BYTES)
def test_byte_products(arithmetic: Emulator, rng: np.random.Generator, name: str) -> None:
    left, right = (np.int8 if sign == "i" else np.uint8 for sign in BYTES[name])
    for m, n, k in SHAPES:
        a = rng.integers(0, 256, (m, 4 * k), np.uint8).view(left)
        b = rng.integers(0, 256, (4 * k, n), np.uint8).view(right)
        c = rng.integers(-(2**31), 2**31, (m, n), np.int64).astype(np.int32)
        assert np.array_equal(multiply(name, c, a, b), byte_product(c, a, b))
    assert arithmetic.counters()[name.upper()] == len(SHAPES)


def test_byte_sums_wrap(amx: Emulator) -> None:
    ones = np.ones((1, 4), np.uint8)
    found = multiply("tdpbuud", np.array([[2**31 - 1]], np.int32), ones, ones.T)
    assert found[0, 0] == -(2**31) + 3
    found = multiply("tdpbsud", np.array([[-(2**31)]], np.int32), -ones.view(np.int8), ones.T)
    assert found[0, 0] == 2**31 - 4


def bf16(*values: float) -> np.ndarray:
    words = np.array([values], np.float32).view(np.uint32)
    assert not (words & 0xFFFF).any()
    return (words >> 16).astype(np.uint16)


@pytest.mark.parametrize(
    ("left", "right", "start", "expected"),
    [
        # The chains' sum is rounded before it meets C: 1 + 2^-25 is 1, and 2^24 + 1 is 2^24, not 2^24 + 2.
        ((1.0, 2.0**-25), (1.0, 1.0), 2.0**24, 2.0**24),
        # Even and odd elements have sums of their own: 2^30 and -2^30 do not cancel before the ones were lost in them.
        ((2.0**30, 1.0, 1.0, -(2.0**30)), (1.0,) * 4, 0.0, 0.0),
        ((2.0**30, 1.0, -(2.0**30), 1.0), (1.0,) * 4, 0.0, 2.0),
        # Products are not rounded: 2^120 2^120 exceeds float32, and leaves infinity only as an infinite sum.
        ((2.0**120, 0.0), (2.0**120, 0.0), 0.0, np.inf),
        ((2.0**120, 2.0**120), (2.0**120, -(2.0**120)), 0.0, np.nan),
        # Denormals are zeros as factors, as C and as results.
        ((2.0**-127, 0.0), (2.0**100, 0.0), 0.0, 0.0),
        ((0.0, 0.0), (0.0, 0.0), 2.0**-130, 0.0),
        ((2.0**-70, 0.0), (2.0**-60, 0.0), 0.0, 0.0),
        ((2.0**-63, 0.0), (2.0**-63, 0.0), 0.0, 2.0**-126),
        ((2.0**-63, 0.0), (2.0**-63, 0.0), -1.5 * 2.0**-126, -0.0),
        ((0.0, 0.0), (np.inf, 0.0), 0.0, np.nan),
        # A sum of nothing but -0 is -0 only from C's own: the chains start from +0.
        ((-0.0, -0.0), (1.0, 1.0), -0.0, 0.0),
    ],
)
def test_float_sums(
    arithmetic: Emulator, left: tuple[float, ...], right: tuple[float, ...], start: float, expected: float
) -> None:
    found = multiply("tdpbf16ps", np.array([[start]], np.float32), bf16(*left), bf16(*right).T)
    assert np.array_equal(found, np.array([[expected]], np.float32), equal_nan=True)
    assert np.signbit(found[0, 0]) == np.signbit(expected) or np.isnan(expected)


def test_half_denormals_count_in_full(arithmetic: Emulator) -> None:
    a, b = np.array([[2.0**-24, 0]], np.float16), np.array([[3.0], [0]], np.float16)
    assert multiply("tdpfp16ps", np.zeros((1, 1), np.float32), a, b)[0, 0] == np.float32(3 * 2.0**-24)


def test_products_of_any_tiles(amx: Emulator, rng: np.random.Generator) -> None:
    for i in range(8):
        for j in (1, 3, 6):
            tiles = (i, (i + j) % 8, (i + 2 * j + 1) % 8)
            if len(set(tiles)) == 3:
                a, b = rng.integers(-99, 99, (3, 8)).astype(np.int8), rng.integers(-99, 99, (8, 5)).astype(np.int8)
                c = rng.integers(-99, 99, (3, 5)).astype(np.int32)
                assert np.array_equal(multiply("tdpbssd", c, a, b, tiles), byte_product(c, a, b))


@pytest.mark.parametrize("load", ["tileloadd64", "tileloaddt164"])
def test_tiles_go_to_and_from_memory(amx: Emulator, rng: np.random.Generator, load: str) -> None:
    source = rng.integers(0, 256, (40, 100), np.uint8)
    for i, (rows, width) in enumerate((rows, width) for rows in range(1, 17) for width in range(4, 65, 4)):
        tile = i % 8
        target = np.full((16, 70), 0xA5, np.uint8)
        config = configuration({tile: (rows, width)})
        address, stride = ((source[2:].ctypes.data, 100), (source[20:].ctypes.data, -100), (source.ctypes.data, 0))[
            i % 3
        ]
        code = call(("ldtilecfg", 0), (load, tile, 1, 2), ("tilestored64", tile, 3, 4), ("tilerelease",))
        code([config.ctypes.data, address, stride, target.ctypes.data, 70])
        start = (address - source.ctypes.data) // 100
        expected = np.full((16, 70), 0xA5, np.uint8)
        for row in range(rows):
            expected[row, :width] = source[start + row * stride // 100, :width]
        assert np.array_equal(target, expected)


def test_a_start_row_resumes_a_load(amx: Emulator) -> None:
    config, source, out = configuration({0: (4, 16)}), np.ones((4, 16), np.uint8), np.full((4, 16), 9, np.uint8)
    config[1] = 2
    steps = [("ldtilecfg", 0), ("tileloadd64", 0, 1, 2), ("tilestored64", 0, 3, 2), ("tilerelease",)]
    slots = [config.ctypes.data, source.ctypes.data, 16, out.ctypes.data]
    call(*steps)(slots)
    assert out.any(axis=1).tolist() == [False, False, True, True]
    call(steps[0], ("tilezero", 0), *steps[1:])(slots)  # which sets it to 0
    assert out.all()


def test_zero_and_configuration_clear_tiles(amx: Emulator) -> None:
    config, other = configuration({5: (3, 8), 6: (3, 8)}), configuration({5: (3, 8)})
    ones, out = np.ones((3, 8), np.uint8), np.full((3, 3, 8), 9, np.uint8)
    load = (("tileloadd64", 5, 2, 3), ("tileloadd64", 6, 2, 3))
    code = call(
        ("ldtilecfg", 0), *load, ("tilezero", 5), ("tilestored64", 5, 4, 3), ("tilestored64", 6, 5, 3),
        *load, ("ldtilecfg", 1), ("tilestored64", 5, 6, 3), ("tilerelease",),
    )  # fmt: skip
    code([config.ctypes.data, other.ctypes.data, ones.ctypes.data, 8, *(x.ctypes.data for x in out)])
    assert [set(x.flat) for x in out] == [{0}, {1}, {0}]


def test_the_configuration_can_be_read(amx: Emulator) -> None:
    config = configuration({i: (i + 1, 4 * i + 4) for i in range(8)})
    out = np.full((4, 64), 9, np.uint8)
    none = configuration({}, palette=0)
    code = call(
        ("sttilecfg", 2), ("ldtilecfg", 0), ("sttilecfg", 3), ("ldtilecfg", 1), ("sttilecfg", 4),
        ("ldtilecfg", 0), ("tilerelease",), ("sttilecfg", 5),
    )  # fmt: skip
    code([config.ctypes.data, none.ctypes.data, *(x.ctypes.data for x in out)])
    assert np.array_equal(out, [np.zeros(64), config, np.zeros(64), np.zeros(64)])


@pytest.mark.parametrize(("scale", "offset"), [(1, 0), (2, 64), (4, -64), (8, 4096)])
def test_every_base_and_index_register(amx: Emulator, rng: np.random.Generator, scale: int, offset: int) -> None:
    source, out = rng.integers(0, 256, (16, 24), np.uint8), np.zeros((16, 24), np.uint8)
    config = configuration({3: (16, 24)})
    bases = KEPT
    for i, base in enumerate(bases):
        for index in (bases[i - 1], bases[i - 6]):
            # A register of its own, r, holds the slots until base and index were read from them.
            lines = ["ldtilecfg (%rax)"]
            for slot, operand in ((1, f"tileloadd {offset}(%{base},%{index},{scale}), %tmm3"),
                                  (3, f"tilestored %tmm3, {offset}(%{base},%{index},{scale})")):  # fmt: skip
                lines += [f"movq {8 * slot}(%rsp), %{base}", f"movq {8 * slot + 8}(%rsp), %{index}", operand]
            # The slots are copied to the stack, where rsp finds them whatever else is overwritten.
            copies = [f"pushq {8 * slot}(%rdi)" for slot in reversed(range(5))]
            function = asm_function(["movq (%rdi), %rax", *copies, *lines, "addq $40, %rsp", "tilerelease"])
            slots = [x.ctypes.data - offset for x in (source, out)]
            out[:] = 0
            run(function, [config.ctypes.data, slots[0], 24 // scale, slots[1], 24 // scale])
            assert np.array_equal(out, source), (base, index)


def test_addresses_without_base_or_index(amx: Emulator, rng: np.random.Generator) -> None:
    source, out = rng.integers(0, 256, (4, 8), np.uint8), np.zeros((5, 4, 8), np.uint8)
    config = configuration({0: (4, 8)})
    function = asm_function([
        "movq (%rdi), %r13", "ldtilecfg (%r13)",  # r13 and r12 need a displacement or an SIB byte of their own
        "movq 8(%rdi), %rbp", "movq $8, %rcx", "tileloadd (%rbp,%rcx), %tmm0",
        "movq 16(%rdi), %r12", "tilestored %tmm0, (%r12,%rcx)",
        "movq (%rdi), %r12", "ldtilecfg (%r12)",
        "movq 8(%rdi), %rax", "tileloadd (%rax), %tmm0",  # without an index every row is the first
        "movq 24(%rdi), %rax", "tilestored %tmm0, (%rax,%rcx)",
        "movq (%rdi), %rax", "subq $100, %rax", "ldtilecfg 100(%rax)",
        "subq $4000, %rax", "ldtilecfg 4100(%rax)",
        "subq $8, %rax", "ldtilecfg 4100(%rax,%rcx)",
        "movq 8(%rdi), %rax", "tileloaddt1 (%rax,%rcx), %tmm0",
        "subq $64, %rsp", "tilestored %tmm0, (%rsp,%rcx)", "tilezero %tmm0",
        "tileloadd (%rsp,%rcx), %tmm0", "addq $64, %rsp",
        "movq 32(%rdi), %rax", "tilestored %tmm0, (%rax,%rcx)",
        "jmp 2f", "1: .byte 1", ".zero 15", ".byte 8", ".zero 31", ".byte 3", ".zero 15",
        "2: ldtilecfg 1b(%rip)", "movq 8(%rdi), %rax", "tileloadd (%rax,%rcx), %tmm0",
        "movq 40(%rdi), %rax", "tilestored %tmm0, (%rax,%rcx)",
        "tilerelease",
    ])  # fmt: skip
    run(function, [config.ctypes.data, source.ctypes.data, *(x.ctypes.data for x in out)])
    assert np.array_equal(out[0], source)
    assert np.array_equal(out[1], source[[0] * 4])
    assert np.array_equal(out[2], source)
    assert np.array_equal(out[3], np.concatenate([source[:3], np.zeros((1, 8), np.uint8)]))
    assert not amx.faults()


def test_neighbours_share_a_signal(amx: Emulator) -> None:
    config = configuration({i: (1, 4) for i in range(8)})
    function = asm_function(["movq (%rdi), %rax", "ldtilecfg (%rax)", *["tilezero %tmm1"] * 5, "nop", "tilerelease"])
    run(function, [config.ctypes.data])
    assert amx.traps == 2
    assert {name: count for name, count in amx.counters().items() if count} == {
        "LDTILECFG": 1, "TILEZERO": 5, "TILERELEASE": 1
    }  # fmt: skip
    amx.reset()
    assert amx.traps == 0 and set(amx.counters().values()) == {0}
