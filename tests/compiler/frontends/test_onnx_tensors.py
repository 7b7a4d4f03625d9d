"""Tensors of every element type in every form ONNX stores them, against the onnx package; limits of external data."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler import dtypes
from compiler.errors import ModelError
from compiler.frontends.onnx import load
from compiler.frontends.onnx_external import ExternalFiles
from compiler.frontends.onnx_tensors import sparse_array, tensor_array
from compiler.frontends.onnx_types import elem_type_of

NUMERIC = [dtype for dtype in dtypes.ALL if dtype is not dtypes.string]
SHAPES = [(), (0,), (1,), (7,), (3, 5), (2, 0, 3)]


def sample(dtype: dtypes.DType, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if dtype.kind == "complex":
        return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(dtype.numpy)
    if dtype.is_integer and dtype.bits < 8:
        low = -(1 << (dtype.bits - 1)) if dtype.kind == "int" else 0
        return rng.integers(low, low + (1 << dtype.bits), shape).astype(dtype.numpy)
    return (np.abs(rng.normal(size=shape)) * 3 + 0.5).astype(dtype.numpy)


def read(tensor: TensorProto, folder: Path | None = None) -> np.ndarray:
    return tensor_array(tensor, ExternalFiles(folder), "graph")


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", NUMERIC, ids=str)
def test_raw_data(dtype: dtypes.DType, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    expected = sample(dtype, shape, rng)
    assert_same(read(numpy_helper.from_array(expected, "t")), expected)


@pytest.mark.parametrize("dtype", [d for d in NUMERIC if not d.name.startswith("float6")], ids=str)
def test_typed_fields(dtype: dtypes.DType, rng: np.random.Generator) -> None:
    for shape in SHAPES:
        values = sample(dtype, shape, rng)
        tensor = helper.make_tensor("t", elem_type_of(dtype), shape, values.reshape(-1))
        assert not tensor.HasField("raw_data")
        assert_same(read(tensor), numpy_helper.to_array(tensor))


def test_strings() -> None:
    tensor = helper.make_tensor("t", TensorProto.STRING, (2, 2), ["a", "", "Grüße", "三算"])
    found = read(tensor)
    assert found.dtype == object and found.tolist() == [["a", ""], ["Grüße", "三算"]]


@pytest.mark.parametrize("kind", sorted(set(TensorProto.DataType.values()) - {0}))
def test_every_element_type_number_is_known(kind: int) -> None:
    graph = helper.make_graph([], "g", [helper.make_tensor_value_info("x", kind, [2])],
                              [helper.make_tensor_value_info("x", kind, [2])])  # fmt: skip
    assert elem_type_of(load(helper.make_model(graph)).inputs[0].type.dtype) == kind


def damaged(change: Callable[[TensorProto], None]) -> TensorProto:
    tensor = numpy_helper.from_array(np.arange(6, dtype=np.float32).reshape(2, 3), "t")
    change(tensor)
    return tensor


def set_dims(*sizes: int) -> Callable[[TensorProto], None]:
    def change(tensor: TensorProto) -> None:
        tensor.dims[:] = sizes

    return change


DAMAGED = {
    "too few bytes": (set_dims(2, 4), "24 bytes of data, expected 32"),
    "too many bytes": (set_dims(2), "24 bytes of data, expected 8"),
    "negative size": (set_dims(-2, -3), "negative size"),
    "huge": (set_dims(1 << 40, 1 << 40), "24 bytes of data"),
    "no type": (lambda t: setattr(t, "data_type", 0), "element type number 0"),
    "unknown type": (lambda t: setattr(t, "data_type", 99), "element type number 99"),
    "raw strings": (lambda t: setattr(t, "data_type", TensorProto.STRING), "strings stored as raw"),
    "segment": (lambda t: t.segment.SetInParent(), "segments"),
    "missing elements": (lambda t: t.ClearField("raw_data"), "0 elements of data, expected 6"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_tensors(name: str) -> None:
    change, message = DAMAGED[name]
    with pytest.raises(ModelError, match=message):
        read(damaged(change))


@pytest.mark.parametrize("indices", [[6], [-1], [[0, 3]], [[-1, 0]], [0, 1], [[0]]], ids=str)
def test_sparse_indices_outside(indices: Any) -> None:
    values = numpy_helper.from_array(np.float32([1]), "w")
    sparse = helper.make_sparse_tensor(values, numpy_helper.from_array(np.array(indices), "i"), [2, 3])
    with pytest.raises(ModelError, match="outside its shape"):
        sparse_array(sparse, ExternalFiles(None), "graph")


def external(location: str, array: np.ndarray, **entries: Any) -> TensorProto:
    tensor = TensorProto(name="w", data_type=elem_type_of(dtypes.from_numpy(array.dtype)), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder with data in it, and a secret beside it."""
    (tmp_path / "secret.bin").write_bytes(WEIGHT.tobytes())
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    for name in ("w.bin", "sub/w.bin"):
        (inside / name).write_bytes(b"head" + WEIGHT.tobytes() + b"tail")
    return inside


@pytest.mark.parametrize("location", ["w.bin", "sub/w.bin", "./w.bin", "sub/./w.bin", "sub//w.bin"])
def test_external_data_is_mapped(folder: Path, location: str) -> None:
    found = read(external(location, WEIGHT, offset=4, length=48), folder)
    assert_same(found, WEIGHT)
    assert not found.flags.writeable and not found.flags.owndata
    assert_same(read(external(location, WEIGHT, offset=4), folder), WEIGHT)


def test_external_data_at_an_odd_offset_and_packed(folder: Path) -> None:
    (folder / "odd.bin").write_bytes(b"x" + WEIGHT.tobytes() + bytes([0x21, 0x03]))
    assert_same(read(external("odd.bin", WEIGHT, offset=1), folder), WEIGHT)
    packed = external("odd.bin", np.zeros(3, ml_dtypes.int4), offset=49)
    assert read(packed, folder).astype(int).tolist() == [1, 2, 3]
    assert read(external("odd.bin", np.zeros((0, 3), np.float32)), folder).shape == (0, 3)


def test_a_whole_model_with_external_data(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [3, 4])],
        [helper.make_tensor_value_info("y", 1, [3, 4])],
        [numpy_helper.from_array(WEIGHT, "w")],
    )
    onnx.save(helper.make_model(graph), tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="d")
    assert_same(load(tmp_path / "m.onnx").constants["w"], WEIGHT)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    with pytest.raises(ModelError, match="pass its path"):
        load(proto)


BAD_LOCATIONS = {
    "": "no relative path",
    "/etc/hostname": "no relative path",
    "\\\\server\\share": "no relative path",
    "C:\\w.bin": "no relative path",
    "../secret.bin": "by '..'",
    "sub/../../secret.bin": "by '..'",
    "sub/../w.bin": "by '..'",
    "sub\\..\\..\\secret.bin": "by '..'",
    "w.bin\0.txt": "no relative path",
    ".": "is a folder",
    "sub": "no regular file",
    "w.bin/x": "symbolic link or a file",
    "missing.bin": "cannot open",
}


@pytest.mark.parametrize("location", BAD_LOCATIONS)
def test_locations_that_are_refused(folder: Path, location: str) -> None:
    with pytest.raises(ModelError, match=BAD_LOCATIONS[location]):
        read(external(location, WEIGHT), folder)


def test_links_are_refused(folder: Path) -> None:
    (folder / "link.bin").symlink_to("../secret.bin")
    (folder / "linked").symlink_to("..")
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    os.mkfifo(folder / "pipe.bin")
    for location, message in {
        "link.bin": "symbolic link",
        "linked/secret.bin": "symbolic link",
        "hard.bin": "hard link",
        "pipe.bin": "no regular file",
    }.items():
        with pytest.raises(ModelError, match=message):
            read(external(location, WEIGHT), folder)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"offset": 12}, "past the end"),
        ({"offset": 1 << 62}, "past the end"),
        ({"offset": -4}, "not negative"),
        ({"offset": "4.0"}, "not negative"),
        ({"offset": "9" * 40}, "not negative"),
        ({"offset": 4, "length": 44}, "44 bytes, expected 48"),
        ({"offset": 4, "length": 1 << 50}, "expected 48"),
        ({"length": -1}, "not negative"),
    ],
    ids=str,
)
def test_offsets_and_lengths_outside_the_file(folder: Path, entries: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(external("w.bin", WEIGHT, **entries), folder)
