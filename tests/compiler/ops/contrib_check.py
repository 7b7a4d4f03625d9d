"""One-node models of ONNX Runtime's operators, run by it and by us, natively."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

import runtime

MICROSOFT = "com.microsoft"
Arrays = Sequence[np.ndarray | None]


def model_of(
    operator: str,
    inputs: Arrays,
    outputs: Sequence[str],
    attrs: dict[str, Any],
    *,
    symbolic: bool,
    weights: Sequence[int] = (),
    domain: str = MICROSOFT,
) -> onnx.ModelProto:
    """A model of one node. `weights`: inputs given as initializers; `symbolic`: extents are named but for the last."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(inputs)]
    node = helper.make_node(operator, names, list(outputs), domain=domain, **attrs)
    formal, constants = [], []
    for i, array in enumerate(inputs):
        if array is None:
            continue
        if i in weights:
            constants.append(onnx.numpy_helper.from_array(array, names[i]))
            continue
        shape = [f"n{i}_{axis}" if symbolic else size for axis, size in enumerate(array.shape[:-1])]
        shape += array.shape[-1:]
        formal.append(helper.make_tensor_value_info(names[i], helper.np_dtype_to_tensor_dtype(array.dtype), shape))
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs if name]
    for value in results:
        value.ClearField("type")
    graph = helper.make_graph([node], operator, formal, results, constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def expected(model: onnx.ModelProto, inputs: Arrays) -> list[np.ndarray]:
    """What ONNX Runtime computes, without rewriting the model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    return session.run(None, feeds(model, inputs))


def feeds(model: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """The arrays of the inputs that are no initializers, by name."""
    formal = {value.name for value in model.graph.input}
    return {f"x{i}": x for i, x in enumerate(inputs) if x is not None and f"x{i}" in formal}


def check(
    operator: str,
    inputs: Arrays,
    outputs: Sequence[str] = ("y",),
    tolerance: float = 2e-6,
    symbolic: bool = True,
    compared: Sequence[tuple[slice, ...]] | None = None,
    **options: Any,
) -> runtime.Program:
    """Compare every output with ONNX Runtime's, natively; `tolerance` is relative to 1 + the value. `symbolic`: also
    with named extents. `compared`: the part of each output that is defined. Answers with the last program."""
    domain, weights = options.pop("domain", MICROSOFT), options.pop("weights", ())
    for named in (False, True) if symbolic else (False,):
        model = model_of(operator, inputs, outputs, options, symbolic=named, weights=weights, domain=domain)
        wanted = expected(model, inputs)
        program = runtime.compile(model.SerializeToString())
        found = program(**feeds(model, inputs))
        found = list(found) if isinstance(found, tuple | list) else [found]
        for i, (ours, theirs) in enumerate(zip(found, wanted, strict=True)):
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), (i, ours.shape, theirs.shape)
            part = compared[i] if compared is not None else ...
            ours, theirs = (np.asarray(x)[part].astype(np.float64) for x in (ours, theirs))
            error = np.abs(ours - theirs) / (1 + np.abs(theirs))
            assert not error.size or error.max() <= tolerance, f"{operator} {named} output {i}: off by {error.max()}"
        assert not [row for row in program.explain().splitlines() if " host" in row], program.explain()
    return program
