"""Sansuan, a mixed-precision tensor runtime for CPUs.

    import runtime

    program = runtime.compile("model.onnx")
    outputs = program(inputs)
    print(program.explain())

Names are bound on first use, so `import runtime` stays cheap and imports neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.shadow import check_siblings

check_siblings(Path(__file__).parent.parent)

if TYPE_CHECKING:
    from backends.native.target import Target
    from compiler.errors import DtypeError, ModelError, SansuanError, ShapeError, TargetError, UnsupportedOp
    from runtime import onnx_backend
    from runtime.api import compile, target
    from runtime.options import Options
    from runtime.parity.compare import compare
    from runtime.product import matmul
    from runtime.program import Program

__all__ = [
    "Calibrated",
    "DtypeError",
    "ModelError",
    "Options",
    "Policy",
    "Program",
    "Quantization",
    "Rule",
    "SansuanError",
    "ShapeError",
    "Target",
    "TargetError",
    "UnsupportedOp",
    "calibrate",
    "compare",
    "compile",
    "matmul",
    "onnx_backend",
    "quantize",
    "target",
]

_HOMES = {
    "compiler.errors": ("DtypeError", "ModelError", "SansuanError", "ShapeError", "TargetError", "UnsupportedOp"),
    "backends.native.target": ("Target",),
    "compiler.policy": ("Calibrated", "Policy", "Rule"),
    "runtime.api": ("compile", "target"),
    "runtime.calibration": ("calibrate",),
    "runtime.options": ("Options",),
    "runtime.parity.compare": ("compare",),
    "runtime.product": ("matmul",),
    "runtime.program": ("Program",),
    "runtime.quantization": ("Quantization", "quantize"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "onnx_backend":
        return importlib.import_module("runtime.onnx_backend")
    if name not in _HOME_OF:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
