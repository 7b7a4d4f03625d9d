"""Fixtures of the emulators' own tests."""

from tests.emulation.amx import amx

__all__ = ["amx"]
