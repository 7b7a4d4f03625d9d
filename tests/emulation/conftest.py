"""Fixtures of the emulators' own tests."""

from tests.emulation.aarch64 import aarch64
from tests.emulation.amx import amx

__all__ = ["aarch64", "amx"]
