"""Families of common models with random weights, compiled and compared with double precision: `make coverage`."""
