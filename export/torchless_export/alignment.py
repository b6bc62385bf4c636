"""Serialized models whose weights start where a processor reads them best, so that they are used in the mapped file.

protobuf puts a weight wherever the fields before it end. A `doc_string` of spaces before each brings it to a multiple
of 64 bytes (a cache line, and a register of AVX-512); nothing else of the model changes, and any reader of ONNX takes
it, since the order of fields is free.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import onnx

from torchless.onnx_file import DOC_STRING, GRAPH, INITIALIZER, RAW_DATA, SMALLEST, fields, length_prefixed, varint

__all__ = ["ALIGNMENT", "aligned"]

ALIGNMENT = 64

_BYTES = 2  # protobuf's wire type of what has a length


def aligned(model: onnx.ModelProto) -> Iterator[bytes | memoryview]:
    """Yield `model` serialized, in pieces, each weight of 1024 bytes and more at a multiple of 64.

    Raises:
        ValueError: the model passes protobuf's limit of 2 GiB.
    """
    data = memoryview(model.SerializeToString())
    position = 0
    for field in fields(data):
        if field.number != GRAPH:
            pieces: list[bytes | memoryview] = [data[field.start : field.end]]
        else:
            pieces = _aligned_graph(data[field.value : field.end], position)
        yield from pieces
        position += sum(map(len, pieces))


def _aligned_graph(graph: memoryview, position: int) -> list[bytes | memoryview]:
    """Return the pieces of the field `graph`, which starts at `position`."""
    tag, size = varint(GRAPH << 3 | _BYTES), len(varint(len(graph)))
    while True:  # twice at most: the spaces may make the graph's length take one byte more
        start = position + len(tag) + size
        pieces, end = [], start
        for field in fields(graph):
            added: list[bytes | memoryview] = [graph[field.start : field.end]]
            if field.number == INITIALIZER:
                added = _aligned_tensor(graph[field.value : field.end], end)
            pieces += added
            end += sum(map(len, added))
        # With one byte more before them, the spaces may be fewer again, and the length's last byte adds nothing to it.
        length = varint(end - start, size)
        if len(length) == size:
            return [tag, length, *pieces]
        size = len(length)


def _aligned_tensor(tensor: memoryview, position: int) -> list[bytes | memoryview]:
    """Return the pieces of the field `tensor`, which starts at `position`."""
    tag = varint(INITIALIZER << 3 | _BYTES)
    raw = next((field for field in fields(tensor) if field.number == RAW_DATA), None)
    if raw is None or raw.end - raw.value < SMALLEST:
        return [tag, varint(len(tensor)), tensor]
    for spaces in count():
        padding = length_prefixed(DOC_STRING, [b" " * spaces]) if spaces else b""
        head = tag + varint(len(padding) + len(tensor))
        if (position + len(head) + raw.value + len(padding)) % ALIGNMENT == 0:
            return [head, tensor[: raw.start], padding, tensor[raw.start :]]
    raise AssertionError("unreachable")
