"""Products of 8- and 16-bit operands, forced on units of every sign and width: sizes, zero points from sums, windows;
s32 exact, floats as the unit's meaning says. Fences, special values, cuts and layouts are in test_gemm_*.py."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from backends.native import gemm
from backends.native.blocking import Blocking
from backends.native.units import MatrixUnit
from compiler import dtypes
from compiler.kernels import BROADCAST, UNIT, GemmSpec
from tests.backends.native.forced import (
    DIRECT,
    FAMILIES,
    FRESH,
    OF_BYTES,
    PACKED,
    RUN_HERE,
    SPECIFIC,
    defined,
    draw,
    name_of,
    use,
    zero_points,
)
from tests.backends.native.harness import assert_same
from tests.backends.native.products import multiply

NARROW = [unit for unit in RUN_HERE if unit.a.bytes < 4]
EXTRA = [unit for unit in NARROW if unit.a.bytes == 1 and unit.isa != "generic" and unit not in FAMILIES]  # other signs
SIZES = [
    (1, 1, 1),
    (1, 200, 37),
    (2, 5, 3),
    (7, 48, 64),
    (9, 33, 5),
    (8, 96, 8),
    (21, 50, 131),
    (3, 17, 0),
    (50, 130, 66),
]


@pytest.mark.parametrize("unit", [unit for unit in DIRECT if unit.a.bytes < 4], ids=name_of)
def test_sizes(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    for m, n, k in SIZES:
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        expected = defined(unit, a, b)
        for form in (FRESH, PACKED):
            assert_same(form.run(unit, a, b, form.neutral(unit, m, n))[0], expected)


@pytest.mark.parametrize("unit", [unit for unit in SPECIFIC if unit.a.bytes < 4], ids=name_of)
def test_known_extents(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whole groups along K, for which no code copies A, and of others."""
    use(monkeypatch, unit)
    for m, n, k, constant in ((1, 200, 36, True), (9, 33, 8, False), (3, 17, 6, True)):
        a, b = draw((m, k), unit.a), draw((k, n), unit.b)
        assert_same(multiply(a, b, constant=constant)[0], defined(unit, a, b))


@pytest.mark.parametrize("unit", [*OF_BYTES, *EXTRA], ids=name_of)
def test_zero_points_from_sums(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows and columns; of bytes of all signs, packed ahead and, of one pair of signs a unit, fresh."""
    use(monkeypatch, unit)
    epilogue, kinds = zero_points(unit), (unit.a, unit.b)
    for constant in (False, True) if unit in OF_BYTES else (True,):
        spec = GemmSpec(*kinds, unit.acc, 0, "row", "row", constant, epilogue, kinds, (BROADCAST, UNIT), (UNIT,))
        options = {"epilogue": epilogue, "constant": constant, "spec": spec, "symbolic": True, "depth_known": False}
        for m, n, k in SIZES:
            a, b, za, zb = draw((m, k), unit.a), draw((k, n), unit.b), draw((m, 1), unit.a), draw((1, n), unit.b)
            expected = (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb)
            assert_same(multiply(a, b, operands=[za, zb], **options)[0], expected)
        assert_same(multiply(a, b, operands=[za, zb], **options)[0], expected)
        cut = Blocking(16, 96, 8, -(-24 // unit.k) * unit.k, 1, True, True)
        with monkeypatch.context() as context:
            context.setattr(gemm, "blocking", lambda *_, cut=cut: cut)
            assert_same(multiply(a, b, operands=[za, zb], **options)[0], expected)


@pytest.mark.parametrize("unit", [unit for unit in SPECIFIC if unit.a.bytes == 1], ids=name_of)
def test_zero_points_of_tensors(unit: MatrixUnit, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    a, b, za, zb = draw((9, 13), unit.a), draw((13, 33), unit.b), draw((1, 1), unit.a), draw((1, 1), unit.b)
    for layout in (lambda x: x, lambda x: np.asfortranarray(x)):
        found = multiply(layout(a), layout(b), operands=[za, zb], epilogue=zero_points(unit))[0]
        assert_same(found, (a.astype(np.int32) - za) @ (b.astype(np.int32) - zb))


@pytest.mark.parametrize("unit", [unit for unit in SPECIFIC if unit.a.bytes < 4], ids=name_of)
@pytest.mark.parametrize("channels", [3, 20])
def test_windows(unit: MatrixUnit, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, unit)
    x, b = draw((2, 6, 5, channels), unit.a), draw((9 * channels, 21), unit.b)
    operands, epilogue, fill = [], (), 0
    pad = np.zeros((), x.dtype)
    if unit.acc.is_integer:
        pad = draw((1, 1), unit.a)
        operands, epilogue, fill = [pad, draw((1, 21), unit.b)], zero_points(unit), 1
    padded = np.full((2, 8, 7, channels), pad.reshape(()), x.dtype)
    padded[:, 1:-1, 1:-1] = x
    columns = np.stack([padded[:, i : i + 6, j : j + 5] for i in range(3) for j in range(3)], 3).reshape(60, -1)
    if unit.acc.is_integer:
        expected = (columns.astype(np.int32) - operands[0]) @ (b.astype(np.int32) - operands[1])
    else:
        expected = defined(unit, columns, b)
    params = [6, 5, 3, 3, 1, 1, 1, 1, 1, 1, 6, 5]
    options = {"operands": operands, "epilogue": epilogue, "fill": fill, "params": params}
    found = multiply(x, b, constant=True, window=2, shape=(60, 21), **options)[0]
    assert_same(found, expected)


def test_denormals_of_pairs_are_taken_and_given_as_the_unit_says(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = np.float32(2.0**-130)
    for unit in (unit for unit in RUN_HERE if unit.a == dtypes.bfloat16):
        use(monkeypatch, unit)
        a = np.array([[tiny, 1, 2.0**-70, tiny]], ml_dtypes.bfloat16)
        b = np.array([[1], [tiny], [2.0**-64], [2.0**8]], ml_dtypes.bfloat16)
        assert_same(multiply(a, b, constant=True)[0], defined(unit, a, b))
