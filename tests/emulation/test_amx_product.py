"""The product the probe for AMX executes, under the trap."""

from __future__ import annotations

import pytest

from backends.native import amx_probe
from tests.emulation.amx import Emulator


def test_the_probe_executes_one_product(amx: Emulator) -> None:
    assert amx_probe.product_is_right()
    counts = {name: count for name, count in amx.counters().items() if count}
    assert counts == {"LDTILECFG": 1, "TILEZERO": 1, "TILELOADD": 2, "TDPBSSD": 1, "TILESTORED": 1, "TILERELEASE": 1}
    assert amx.configured_threads == 0


def test_a_wrong_product_is_seen(amx: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a processor that takes signed bytes of B for unsigned ones."""
    monkeypatch.setattr(amx_probe, "_PRODUCT", amx_probe._PRODUCT.replace("tdpbssd", "tdpbsud"))
    assert not amx_probe.product_is_right()
    assert amx.counters()["TDPBSUD"] == 1
