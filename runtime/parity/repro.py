"""A model of one node, with its operands: what to hand to whoever is to blame."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compiler.errors import SansuanError
from compiler.passes.expose import isolate
from runtime.binding import to_torch
from runtime.parity.report import Report, Row, describe
from runtime.parity.truth import OwnTruth

if TYPE_CHECKING:
    from runtime.parity.source import Source


def save(report: Report, folder: Path) -> Path:
    """See Report.save_repro."""
    row = _chosen(report)
    folder.mkdir(parents=True, exist_ok=True)
    if report.source.proto is not None:
        path, names = _save_onnx(report, row.node, folder)
    else:
        path, names = _save_torch(report, row.node, folder)
    expected = _expected(report, row.node)
    np.savez(folder / "expected.npz", **{_key(report.source, name): array for name, array in expected.items()})
    (folder / "README.txt").write_text(_story(report, row, path, names), encoding="utf-8")
    return path


def _chosen(report: Report) -> Row:
    row = report.first_divergence or report.first_inherited
    if row is None or not report.source.values.get(row.node):
        computed = [row for row in report.rows if row.own]
        if not computed:
            raise SansuanError("save_repro: no node of this model has errors of its own; there is nothing to take out")
        row = max(computed, key=lambda row: max(judged.excess for judged in row.own.values()))
    return row


def _expected(report: Report, node: str) -> dict[str, Any]:
    """The node's results in FP64."""
    isolated = isolate(report.source.exposed, report.observed, {node})
    fed = [np.asarray(report.observed[name], order="C") for name in isolated.fed]
    return OwnTruth(isolated, fed, {}).results


def _save_onnx(report: Report, node: str, folder: Path) -> tuple[Path, list[str]]:
    from runtime.parity.onnx_peers import isolated_model

    source = report.source
    results = {str(source.keys[name]) for name in source.values[node] if name in source.keys}
    values = {str(source.keys.get(name, name)): np.asarray(array) for name, array in report.observed.items()}
    model, feeds, _ = isolated_model(source, values, results, ending="")
    if not model.graph.node:
        raise SansuanError(f"save_repro: {node} reads what is no tensor; report it with the whole model")
    wanted = {name for proto in model.graph.node for name in proto.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in wanted]
    copies = [type(tensor).FromString(tensor.SerializeToString()) for tensor in kept]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(copies)
    _declare(model, {str(source.keys[name]): report.observed[name] for name in source.values[node]})
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    np.savez(folder / "inputs.npz", **feeds)
    return path, list(feeds)


def _declare(model: Any, results: dict[str, Any]) -> None:
    """Types for the outputs, which a checker asks for."""
    from onnx import helper

    outputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype), array.shape)
        for name, array in results.items()
    ]
    model.graph.ClearField("output")
    model.graph.output.extend(outputs)


def _save_torch(report: Report, node: str, folder: Path) -> tuple[Path, list[str]]:
    """The one call as a module of its own, through torch.onnx.export, else torch.export.save."""
    import torch

    from compiler.frontends.torch_nodes import place_of
    from compiler.frontends.torch_tensors import array_of

    program = report.source.loaded.structure.program  # type: ignore[union-attr]
    call: Any = next((n for n in program.graph.nodes if n.op == "call_function" and place_of(n) == node), None)
    if call is None:
        raise SansuanError(f"save_repro: {node} is no call of the exported program")
    operands = {n.name: _operand(report, program, n) for n in call.all_input_nodes}
    tensors = {name: value for name, value in operands.items() if isinstance(value, torch.Tensor)}

    class Call(torch.nn.Module):
        """One call, on tensors in order."""

        def forward(self, *given: Any) -> Any:
            known = {**operands, **dict(zip(tensors, given, strict=True))}
            args, kwargs = torch.fx.node.map_arg((call.args, call.kwargs), lambda n: known[n.name])
            return call.target(*args, **kwargs)

    arguments = tuple(tensors.values())
    inputs: dict[str, Any] = {name: array_of(tensor, name) for name, tensor in tensors.items()}
    np.savez(folder / "inputs.npz", **inputs)
    path = folder / "model.onnx"
    try:
        torch.onnx.export(
            Call().eval(), arguments, str(path), dynamo=True, input_names=list(tensors), verbose=False,
            external_data=False,
        )  # fmt: skip
    except Exception:  # whatever the exporter has not got: it has no class of its own for all of it
        path.unlink(missing_ok=True)
        path = folder / "model.pt2"
        torch.export.save(torch.export.export(Call().eval(), arguments), path)
    return path, list(tensors)


def _operand(report: Report, program: Any, node: Any) -> Any:
    """What a call reads: a weight, or a value of the reference; what is no tensor as torch traced it."""
    names = {key: name for name, key in report.source.keys.items()}
    if (node.name, None) in names:
        return to_torch(np.array(report.observed[names[node.name, None]]))
    if node.name in report.observed:
        return to_torch(np.array(report.observed[node.name]))
    for spec in program.graph_signature.input_specs:
        if getattr(spec.arg, "name", None) == node.name and spec.target is not None:
            held = program.state_dict
            return (held[spec.target] if spec.target in held else program.constants[spec.target]).detach()
    if node.name.startswith("getitem") and (place := (node.args[0].name, node.args[1])) in names:
        return to_torch(np.array(report.observed[names[place]]))
    raise SansuanError(f"save_repro: {node.name} is no tensor of its own; report it with the whole model")


def _key(source: Source, name: str) -> str:
    """A result's name in the model, as the name of a file's member."""
    key = source.keys.get(name, name)
    return re.sub(r"[^\w.-]", "_", key if isinstance(key, str) else key[0] if not key[1] else f"{key[0]}.{key[1]}")


def _story(report: Report, row: Row, path: Path, names: list[str]) -> str:
    lines = [
        f"{row.node} ({row.op}), compared with {report.reference}:",
        *(f"  {name}: {describe(judged)}" for name, judged in row.own.items()),
        "",
        f"{path.name}: this node alone, with its weights.",
        f"inputs.npz: its operands ({', '.join(names)}) as {report.reference} computes them.",
        "expected.npz: its results in FP64 on these operands.",
    ]
    return "\n".join(lines) + "\n"
