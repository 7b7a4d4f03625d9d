"""Large initializers kept out of the protobuf parser, which would copy them: they stay views of the file.

Protobuf's encoding: a message is a sequence of fields, each a key (number << 3 | wire type) and a value; wire type 2 is
a length and that many bytes (https://protobuf.dev/programming-guides/encoding/).
"""

from __future__ import annotations

from collections.abc import Iterator

_GRAPH = 7  # of ModelProto
_INITIALIZER = 5  # of GraphProto
_RAW_DATA = 9  # of TensorProto
_SMALLEST = 4096  # bytes; smaller payloads are as well copied


class _Malformed(Exception):
    """The bytes are no protobuf message; the real parser says so to the user."""


def split_payloads(model: memoryview) -> tuple[bytes, dict[int, memoryview]]:
    """A ModelProto's bytes without the large raw_data of the main graph's initializers, and those by the position of
    the initializer."""
    payloads: dict[int, memoryview] = {}
    try:
        graphs = [data for number, data, _ in _fields(model) if number == _GRAPH and data is not None]
        if len(graphs) != 1:
            return bytes(model), {}
        parts: list[bytes | memoryview] = []
        for number, data, field in _fields(model):
            parts += _field(_GRAPH, _slim_graph(data, payloads)) if number == _GRAPH and data is not None else [field]
        return b"".join(parts), payloads
    except _Malformed:
        return bytes(model), {}


def _slim_graph(graph: memoryview, payloads: dict[int, memoryview]) -> list[bytes | memoryview]:
    parts: list[bytes | memoryview] = []
    position = 0
    for number, data, field in _fields(graph):
        if number != _INITIALIZER or data is None:
            parts.append(field)
            continue
        if len(data) < _SMALLEST:
            parts.append(field)
        else:
            tensor: list[bytes | memoryview] = []
            for inner, payload, inner_field in _fields(data):
                if inner == _RAW_DATA and payload is not None and len(payload) >= _SMALLEST:
                    payloads[position] = payload
                else:
                    tensor.append(inner_field)
            parts += _field(_INITIALIZER, tensor)
        position += 1
    return parts


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None, memoryview]]:
    """(number, bytes of a length-delimited value or None, the whole field) of each field."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        wire, data = key & 7, None
        if wire == 0:
            _, at = _varint(message, at)
        elif wire == 2:
            length, at = _varint(message, at)
            data = message[at : at + length]
            at += length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise _Malformed
        if at > len(message):
            raise _Malformed
        yield key >> 3, data, message[start:at]


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A base-128 number, least significant group first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise _Malformed
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _Malformed


def _field(number: int, parts: list[bytes | memoryview]) -> list[bytes | memoryview]:
    """A length-delimited field of these parts."""
    return [_encoded(number << 3 | 2), _encoded(sum(map(len, parts))), *parts]


def _encoded(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
