"""The error classes users see. Every message says where, found against expected, and what to do."""

from __future__ import annotations


class SansuanError(Exception):
    """Base of every error this package raises on purpose."""


class UnsupportedOp(SansuanError):
    """The model uses operators that no front end row or lowering covers; the message lists all of them at once."""


class ShapeError(SansuanError, ValueError):
    """Shapes, ranks or axes that do not fit together."""


class DtypeError(SansuanError, TypeError):
    """Element types that do not fit an operator or a program input."""


class ModelError(SansuanError, ValueError):
    """A malformed model: unreadable file, cyclic graph, a name used but never produced."""


class TargetError(SansuanError, RuntimeError):
    """Code was asked for that this machine cannot run."""


class IndexOutOfRange(SansuanError, IndexError):
    """A model computed an index outside the tensor it indexes."""
