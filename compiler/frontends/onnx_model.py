"""Reading a model: a path, bytes or a ModelProto to a checked ModelProto with access to its large tensors."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import ModelError
from compiler.frontends.onnx_external import ExternalFiles
from compiler.frontends.onnx_wire import split_payloads

_MOST = 2**31 - 1  # of a domain the onnx package does not know
DEFAULT_DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, eq=False)
class OnnxModel:
    """A parsed model. opsets: version by domain ('' for the default one). functions: model-local FunctionProtos by
    (domain, name, overload). payloads: raw bytes of the main graph's large initializers, by position, where they
    were kept out of the proto."""

    proto: Any
    opsets: Mapping[str, int]
    functions: Mapping[tuple[str, str, str], Any]
    files: ExternalFiles
    payloads: Mapping[int, memoryview]


def read_model(model: Any) -> OnnxModel:
    """Parse `model`. Raises ModelError for an unreadable file, bytes that are no model, and opsets unknown here."""
    import onnx

    folder: Path | None = None
    place = "model"
    payloads: dict[int, memoryview] = {}
    if isinstance(model, onnx.ModelProto):
        proto = model
    else:
        if isinstance(model, (str, os.PathLike)):
            path = Path(model)
            folder, place = path.parent, str(path)
            model = _read_file(path)
        if not isinstance(model, (bytes, bytearray, memoryview)):
            raise ModelError(f"model: found {type(model).__name__}; expected a path, bytes or an onnx.ModelProto")
        data, payloads = split_payloads(memoryview(model))
        proto = _parse(data, place)
    if not proto.HasField("graph"):
        raise ModelError(f"{place}: no graph in it; expected an ONNX ModelProto (is this an ONNX model?)")
    functions = {(domain_name(f.domain), f.name, f.overload): f for f in proto.functions}
    return OnnxModel(proto, _opsets(proto, place), functions, ExternalFiles(folder), payloads)


def domain_name(domain: str) -> str:
    """A domain's one spelling: the default domain has two."""
    return "" if domain in DEFAULT_DOMAINS else domain


def opset_versions(imports: Any, place: str) -> dict[str, int]:
    """Opset version by domain. Raises ModelError for a version newer than the onnx package knows."""
    from onnx import defs

    newest = {"": defs.onnx_opset_version(), "ai.onnx.ml": defs.onnx_ml_opset_version()}
    versions: dict[str, int] = {}
    for entry in imports:
        domain = domain_name(entry.domain)
        most = newest.get(domain, _MOST)
        if not 1 <= entry.version <= most:
            raise ModelError(
                f"{place}: imports opset {entry.version} of domain {domain or 'ai.onnx'!r}; expected 1 to "
                f"{most}, what the installed onnx package knows: export for one of these, or upgrade onnx"
            )
        versions[domain] = entry.version
    # Files of ONNX Runtime's own tools may leave its domain out.
    return {"com.microsoft": 1, **versions} if versions else versions


def _opsets(proto: Any, place: str) -> dict[str, int]:
    versions = opset_versions(proto.opset_import, place)
    if not versions and proto.ir_version >= 3:
        raise ModelError(f"{place}: no opset_import in it; IR version 3 and newer need one: export the model again")
    versions.setdefault("", 1)
    return versions


def _read_file(path: Path) -> memoryview:
    try:
        with path.open("rb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode) and os.fstat(file.fileno()).st_size:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            return memoryview(file.read())
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}; check the path") from None


def _parse(data: bytes, place: str) -> Any:
    import onnx
    from google.protobuf.message import DecodeError

    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise ModelError(
            f"{place}: {len(data)} bytes that are no ONNX model (protobuf cannot parse them); "
            "expected a file written by an ONNX exporter, whole"
        ) from None
    return proto
