"""From a module to an exported program in the form the ATen table covers. Imports torch inside its functions only."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from compiler import dims
from compiler.errors import ModelError, ShapeError, UnsupportedOp
from compiler.frontends import torch_recurrent
from compiler.frontends.aten import ROWS, SIZE_ROWS

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

LEAST_EXAMPLE = 2  # torch.export takes the sizes 0 and 1 of an example for constants


def export(
    model: torch.nn.Module | ExportedProgram, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    """`model` as an exported program without in-place writes, of calls that have rows where torch can put it that way.

    `dynamic_shapes` as in torch.export, where a plain string also names a dim. Raises ShapeError where the model
    does not allow a dim to vary, ModelError where torch.export cannot follow it.
    """
    import torch

    with warnings.catch_warnings(), torch.no_grad(), torch_recurrent.known_by_shape():
        # torch.export copies specs of its own that torch's pytree module has deprecated: nothing a user could change.
        warnings.filterwarnings("ignore", r".*\bLeafSpec\b.* is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", torch_recurrent.FLAT_WEIGHTS, UserWarning)
        if not isinstance(model, torch.export.ExportedProgram):
            shapes = _named_dims(dynamic_shapes, {})
            if shapes:
                args, kwargs, shapes = _prepared(model.forward, args, dict(kwargs), shapes)
            model = _exported(model, args, dict(kwargs), shapes)
        return model if _is_covered(model) else model.run_decompositions(_decompositions())


def _is_covered(program: ExportedProgram) -> bool:
    """Whether every call has a row and none writes in place: then torch need not trace the program once more, which
    takes as long as the export itself (1.5 s of CPU time for BERT-base)."""
    if program.graph_signature.buffers_to_mutate or program.graph_signature.user_inputs_to_mutate:
        return False
    for node in program.graph.nodes:
        if node.op == "call_function" and hasattr(node.target, "overloadpacket"):
            covered = str(node.target) in ROWS or str(node.target) in SIZE_ROWS
            if not covered or node.target._schema.is_mutable:
                return False
        elif node.op == "call_function" and node.target.__name__ not in (*SIZE_ROWS, "getitem"):
            return False
    return True


def _exported(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, deferred: bool = False
) -> ExportedProgram:
    """torch.export, once more with narrower ranges of the dims where the module needs them (positions up to 512...), or
    with its guards `deferred` to assertions in the program where it cannot prove them of every size."""
    import torch
    from torch._dynamo.exc import UserError, UserErrorType
    from torch.export.dynamic_shapes import refine_dynamic_shapes_from_suggested_fixes

    try:
        return torch.export.export(
            model, args, kwargs, dynamic_shapes=shapes, prefer_deferred_runtime_asserts_over_guards=deferred
        )
    except UserError as error:
        text = str(error.msg if hasattr(error, "msg") else error).partition("\n\nThe error above")[0]
        constraint = error.error_type == UserErrorType.CONSTRAINT_VIOLATION
        cause: Exception = error
    except UnsupportedOp:
        raise
    except Exception as error:
        raise ModelError(_refusal(error)) from error
    fixes = re.findall(r"^\s*\w+ = (.+)$", text.partition("Suggested fixes:")[2], re.MULTILINE)
    if constraint and fixes and all(fix.startswith("Dim(") for fix in fixes):
        narrower = refine_dynamic_shapes_from_suggested_fixes(text, shapes)
        if narrower != shapes:
            return _exported(model, args, kwargs, narrower, deferred)
    if constraint and not fixes and not deferred:
        return _exported(model, args, kwargs, shapes, deferred=True)
    if constraint:
        raise ShapeError(f"torch.export refused the module: {text}") from cause
    raise ModelError(_refusal(cause)) from cause


_CONTENTS = (
    "its control flow depends on a tensor's contents; use torch.where or torch.cond, torch.while_loop for a loop, and "
    "torch._check to promise what is known of a size"
)
# What to do about torch.export's failures, by the names of their classes and of those these derive from.
_ADVICE: Mapping[str, str] = {
    "GuardOnDataDependentSymNode": _CONTENTS,
    "DataDependentOutputException": _CONTENTS,
    "UserError": _CONTENTS,
    "DynamicOutputShapeException": "the size of a result is data and torch knows no name for it; use a masked form",
    "UnsupportedOperatorException": "an operator has no shape function; give a custom one torch.library.register_fake",
    "UncapturedHigherOrderOpError": "a branch or body of control flow may only compute with its operands: no side "
    "effects, no Python objects changed, results of the same types and shapes in every branch",
    "Unsupported": "Python code that torch cannot trace; move it out of the module",
}
_OTHERWISE = "call the module with these example_inputs first; if that works, the code torch points at cannot be traced"


def _refusal(error: Exception) -> str:
    """What an error of torch.export says, and what to do about it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    known = (_ADVICE[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _ADVICE)
    found = f"{type(error).__name__}: {' '.join(lines[:2]) or 'no message'}"
    source = next((line for line in lines if line.startswith('File "') and "/torch/" not in line), "")
    return f"torch.export refused the module: {found}{f' ({source})' if source else ''}; {next(known, _OTHERWISE)}"


def size_ranges(
    program: ExportedProgram, names: Mapping[Any, str], dynamic_shapes: Any
) -> dict[str, tuple[int, int | None]]:
    """The least and greatest (None: any) size of each dim that the module or `dynamic_shapes` limits.

    A least size of 2 counts only where a Dim declares it: torch makes it up because it traced sizes above 1.
    """
    declared = _declared_minimums(dynamic_shapes)
    ranges = {}
    for symbol, limits in program.range_constraints.items():
        name = names.get(symbol, str(symbol))
        low = int(limits.lower) if limits.lower.is_Integer else 0
        low = low if low > LEAST_EXAMPLE else min(low, declared.get(name, 0))
        high = int(limits.upper) if limits.upper.is_Integer else None
        if low > 0 or high is not None:
            ranges[name] = (low, high)
    return ranges


def _declared_minimums(shapes: Any) -> dict[str, int]:
    if isinstance(shapes, Mapping):
        shapes = list(shapes.values())
    if isinstance(shapes, (list, tuple)):
        return {name: low for item in shapes for name, low in _declared_minimums(item).items()}
    return {shapes.__name__: int(shapes.min)} if hasattr(shapes, "__name__") and hasattr(shapes, "min") else {}


def size_names(program: ExportedProgram) -> dict[Any, str]:
    """The user's names of symbolic sizes, by sympy symbol; a size nobody named is not in it."""
    names: dict[Any, str] = {}
    for node in program.graph.nodes:
        for size in getattr(node.meta.get("val"), "shape", ()):
            if node.op != "placeholder" or isinstance(size, int):
                continue
            environment = size.node.shape_env
            given = getattr(environment, "source_name_to_debug_name", {})
            for symbol, sources in getattr(environment, "var_to_sources", {}).items():
                for source in sources:
                    name = given.get(source.name if isinstance(source.name, str) else source.name())
                    if name and dims.is_name(name):
                        names[symbol] = name
            return names
    return names


def _decompositions() -> Any:
    """Core ATen decompositions, except that a call with a row of its own stays whole (linear, layer_norm, lstm...), and
    one without is taken apart wherever torch knows how."""
    import torch

    table = torch.export.default_decompositions()
    for operator, function in torch._decomp.decomposition_table.items():
        if operator not in table and isinstance(operator, torch._ops.OpOverload) and str(operator) not in ROWS:
            table[operator] = function
    for operator in list(table):
        if str(operator) in ROWS:
            table.pop(operator)
    return table


def _named_dims(shapes: Any, dims: dict[str, Any]) -> Any:
    """`dynamic_shapes` with strings replaced by torch.export.Dim, one Dim a name."""
    import torch

    if isinstance(shapes, str):
        return dims.setdefault(shapes, torch.export.Dim(shapes))
    if isinstance(shapes, Mapping):
        return {key: _named_dims(item, dims) for key, item in shapes.items()}
    if isinstance(shapes, (list, tuple)):
        return type(shapes)(_named_dims(item, dims) for item in shapes)
    return shapes


def _prepared(
    forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any
) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """Example inputs whose dynamic dims are all at least 2, so that torch.export does not take them for constants, and
    `shapes` by parameter name and complete: torch wants None spelled out for every leaf."""
    bound = inspect.signature(forward).bind(*args, **kwargs)
    if not isinstance(shapes, Mapping):
        shapes = dict(zip(bound.arguments, shapes, strict=False))
    unknown = sorted(set(shapes) - set(bound.arguments))
    if unknown:
        raise ModelError(
            f"dynamic_shapes names {', '.join(unknown)}; expected names of inputs: {', '.join(bound.arguments)}"
        )
    complete = {name: _completed(value, shapes.get(name)) for name, value in bound.arguments.items()}
    for name, value in bound.arguments.items():
        bound.arguments[name] = _grow(value, complete[name])
    return bound.args, bound.kwargs, complete


def _completed(example: Any, shape: Any) -> Any:
    from torch.utils import _pytree

    if shape is None:
        return _pytree.tree_map(lambda leaf: None, example)
    if isinstance(example, (list, tuple)) and isinstance(shape, (list, tuple)):
        return type(example)(_completed(e, s) for e, s in zip(example, shape, strict=False))
    if isinstance(example, Mapping) and isinstance(shape, Mapping):
        return {key: _completed(value, shape.get(key)) for key, value in example.items()}
    return shape


def _grow(example: Any, shape: Any) -> Any:
    import torch

    if shape is None:
        return example
    if isinstance(example, torch.Tensor):
        axes = shape.items() if isinstance(shape, Mapping) else enumerate(shape)
        for axis, dim in axes:
            if dim is not None and not isinstance(dim, int) and example.shape[axis] < LEAST_EXAMPLE:
                wider = list(example.shape)
                wider[axis] = LEAST_EXAMPLE
                example = example.expand(wider).clone() if example.shape[axis] else example.new_zeros(wider)
        return example
    if isinstance(example, (list, tuple)) and isinstance(shape, (list, tuple)):
        return type(example)(_grow(e, s) for e, s in zip(example, shape, strict=False))
    if isinstance(example, Mapping) and isinstance(shape, Mapping):
        return {key: _grow(value, shape.get(key)) for key, value in example.items()}
    return example
