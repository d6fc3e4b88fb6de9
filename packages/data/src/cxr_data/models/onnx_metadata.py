"""Metadata of ONNX files, read from the protobuf wire format without the onnx package."""

from collections.abc import Iterator


def onnx_metadata(data: memoryview) -> tuple[dict[str, str], str]:
    """Metadata and producer of a ModelProto.

    Returns:
        Its texts by key, and the name of the program that wrote it.

    Raises:
        ValueError, IndexError: No such message, a truncated one, or one without a graph.
    """
    texts: dict[str, str] = {}
    producer, graph = "", False
    for number, value in _fields(data):
        if number == 2 and isinstance(value, memoryview):
            producer = bytes(value).decode()
        elif number == 7:
            graph = isinstance(value, memoryview) and len(value) > 0
        elif number == 14 and isinstance(value, memoryview):
            entry = {key: bytes(text).decode() for key, text in _fields(value) if isinstance(text, memoryview)}
            texts[entry.get(1, "")] = entry.get(2, "")
    if not graph:
        raise ValueError("no graph")
    return texts, producer


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """(field number, value) of a protobuf message; values of fixed width are passed over as 0."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            length, at = _varint(data, at)
        else:
            length = {1: 8, 5: 4}.get(kind, -1)
        if length < 0 or at + length > len(data):
            raise ValueError("no protobuf message, or a truncated one")
        yield key >> 3, data[at : at + length] if kind == 2 else 0
        at += length


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of variable length, and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("no protobuf message")
