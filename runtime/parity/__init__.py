"""Numerical parity: what every node of a model gives on several backends, and who is wrong first."""
