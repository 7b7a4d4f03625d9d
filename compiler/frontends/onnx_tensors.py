"""TensorProto to NumPy array: every element type, no copy of regular types held as raw or external data."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np

from compiler import dtypes
from compiler.dtypes import DType
from compiler.errors import ModelError
from compiler.frontends.onnx_external import ExternalFiles
from compiler.frontends.onnx_types import dtype_of


def tensor_array(tensor: Any, files: ExternalFiles, place: str, payload: memoryview | None = None) -> np.ndarray:
    """The contents of a TensorProto, read-only; `payload` are its raw bytes where they were kept out of the proto.
    Raises ModelError where type, shape and data do not agree."""
    place = f"{place}: tensor {tensor.name!r}" if tensor.name else place
    dtype = dtype_of(tensor.data_type, place)
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape):
        raise ModelError(f"{place}: shape {list(shape)} has a negative size; export the model again")
    if tensor.HasField("segment"):
        raise ModelError(f"{place}: stored in segments, which no exporter writes; save the model again")
    count = math.prod(shape)
    nbytes = (count * dtype.bits + 7) // 8
    external = tensor.data_location == tensor.EXTERNAL
    if dtype is dtypes.string and (external or tensor.HasField("raw_data")):
        raise ModelError(f"{place}: strings stored as raw bytes; expected them in string_data")
    if external:
        payload = files.payload(tensor, nbytes, place)
    elif payload is None and tensor.HasField("raw_data"):
        payload = memoryview(tensor.raw_data)
    if payload is None:
        array = _from_fields(tensor, dtype, count, place)
    else:
        if len(payload) != nbytes:
            raise ModelError(
                f"{place}: {len(payload)} bytes of data, expected {nbytes} for {dtype}{list(shape)}; "
                "the file is damaged"
            )
        array = _from_bytes(payload, dtype, count)
    array = array.reshape(shape)
    array.flags.writeable = False
    return array


def sparse_array(sparse: Any, files: ExternalFiles, place: str) -> np.ndarray:
    """The dense contents of a SparseTensorProto. Raises ModelError where an index lies outside its shape."""
    values = tensor_array(sparse.values, files, place)
    indices = tensor_array(sparse.indices, files, place)
    shape = tuple(sparse.dims)
    dense = np.zeros(shape, values.dtype)
    flat = indices.reshape(-1)
    if indices.ndim == 2:
        inside = indices.shape[1] == len(shape) and bool(((indices >= 0) & (indices < shape)).all())
        flat = np.ravel_multi_index(tuple(indices.T), shape) if inside else np.array([-1])
    if flat.size != values.size or (flat.size and not (flat.min() >= 0 and flat.max() < dense.size)):
        raise ModelError(f"{place}: sparse tensor indices lie outside its shape {list(shape)}; the file is damaged")
    dense.reshape(-1)[flat] = values
    return dense


def _from_bytes(payload: memoryview, dtype: DType, count: int) -> np.ndarray:
    """Little-endian packed bytes to an array, without a copy where one element is whole aligned bytes."""
    if dtype.bits >= 8:
        array = np.frombuffer(payload, dtype.numpy.newbyteorder("<"), count).astype(dtype.numpy, copy=False)
        if array.flags.aligned:
            return array
        array = array.copy()
    else:
        array = _unpack(np.frombuffer(payload, np.uint8), dtype, count)
    _release(payload)
    return array


def _release(payload: memoryview) -> None:
    """Give the pages of a file mapping back once they are copied, so that loading needs the memory of one copy."""
    if not isinstance(payload.obj, mmap.mmap) or not len(payload) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = _address(payload) - _address(memoryview(payload.obj))
    start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
    stop = (first + len(payload)) // mmap.PAGESIZE * mmap.PAGESIZE
    if start < stop:
        payload.obj.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _address(data: memoryview) -> int:
    return int(np.frombuffer(data, np.uint8).__array_interface__["data"][0])


def _unpack(packed: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    """Elements of 2, 4 or 6 bits, the first in the low bits of its byte, to one a byte."""
    bits = np.unpackbits(packed, bitorder="little")[: count * dtype.bits].reshape(count, dtype.bits)
    codes = np.packbits(bits, axis=1, bitorder="little").reshape(count)
    return _from_codes(codes, dtype)


def _from_codes(codes: np.ndarray, dtype: DType) -> np.ndarray:
    """Bit patterns of small types, one a byte, as elements."""
    if dtype.is_integer and dtype.bits < 8:
        signed = codes.astype(np.int8)
        if dtype.kind == "int":
            half = 1 << (dtype.bits - 1)
            signed = (signed ^ half) - half
        return signed.astype(dtype.numpy)
    return codes.view(dtype.numpy)


_FIELDS = {"float32": "float_data", "complex64": "float_data", "float64": "double_data", "complex128": "double_data",
           "int64": "int64_data", "uint64": "uint64_data", "uint32": "uint64_data"}  # fmt: skip


def _from_fields(tensor: Any, dtype: DType, count: int, place: str) -> np.ndarray:
    """The contents of the typed data fields; all the smaller types share int32_data."""
    if dtype is dtypes.string:
        array = np.empty(len(tensor.string_data), object)
        array[:] = [_text(item, place) for item in tensor.string_data]
    else:
        data = getattr(tensor, _FIELDS.get(dtype.name, "int32_data"))
        array = _convert(np.array(data, _field_dtype(dtype)), dtype, count)
    if array.size != count:
        raise ModelError(
            f"{place}: {array.size} elements of data, expected {count} for {dtype}{list(tensor.dims)}; "
            "the file is damaged"
        )
    return array


def _field_dtype(dtype: DType) -> type:
    if dtype.kind == "complex":
        return np.float32 if dtype.bits == 64 else np.float64
    return dtype.numpy.type if dtype.name in _FIELDS else np.int32


def _convert(data: np.ndarray, dtype: DType, count: int) -> np.ndarray:
    if dtype.kind == "complex":
        return data.view(dtype.numpy) if data.size % 2 == 0 else data
    if dtype.name in _FIELDS:
        return data
    if dtype.is_float:
        if dtype.bits == 4:
            return _unpack(data.astype(np.uint8), dtype, count) if 2 * data.size >= count else data
        return data.astype(np.uint16).view(dtype.numpy) if dtype.bits == 16 else data.astype(np.uint8).view(dtype.numpy)
    if dtype.bits < 8:
        return _unpack(data.astype(np.uint8), dtype, count) if data.size * (8 // dtype.bits) >= count else data
    return data.astype(dtype.numpy)


def _text(item: bytes, place: str) -> str:
    try:
        return item.decode("utf-8")
    except UnicodeDecodeError:
        raise ModelError(f"{place}: string data is not UTF-8; save the model again") from None
