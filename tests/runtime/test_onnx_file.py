"""`torchless.onnx_file`: weights stay in the file, and nothing else changes."""

from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchless.onnx_file import (
    _ELEMENT,
    DATA_LOCATION,
    DATA_TYPE,
    DOC_STRING,
    EXTERNAL_DATA,
    GRAPH,
    INITIALIZER,
    RAW_DATA,
    SMALLEST,
    fields,
    length_prefixed,
    varint,
    without_weights,
)

FLOAT, INT8, STRING = 1, 3, 8
NAME = 8


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def tensor(name: str, size: int, *more: bytes, kind: int = FLOAT, padding: int = 0) -> bytes:
    spaces = length_prefixed(12, [b" " * padding])
    raw = length_prefixed(RAW_DATA, [bytes(i % 251 for i in range(size))])
    return b"".join((number(DATA_TYPE, kind), length_prefixed(NAME, [name.encode()]), spaces, *more, raw))


def model(*tensors: bytes) -> bytes:
    nodes = length_prefixed(1, [b"\x0a\x01x"])
    graph = [nodes, *(length_prefixed(INITIALIZER, [t]) for t in tensors), length_prefixed(2, [b"graph"])]
    return number(1, 10) + length_prefixed(GRAPH, graph) + length_prefixed(8, [b"\x10\x14"])


def at_a_multiple_of_four(name: str, size: int, *more: bytes) -> bytes:
    """Return a model of one tensor whose data is aligned."""
    for padding in range(4):
        found = model(tensor(name, size, *more, padding=padding))
        if found.index(bytes(range(9))) % 4 == 0:
            return found
    raise AssertionError


def entries(serialized: bytes) -> dict[str, dict[str, str]]:
    """Return tensor name to its external data."""
    found = {}
    for top in fields(serialized):
        for part in fields(serialized, top.value, top.end) if top.number == GRAPH else ():
            if part.number != INITIALIZER:
                continue
            inner = list(fields(serialized, part.value, part.end))
            name = next(serialized[f.value : f.end].decode() for f in inner if f.number == NAME)
            texts = [list(fields(serialized, f.value, f.end)) for f in inner if f.number == EXTERNAL_DATA]
            assert all([g.number for g in pair] == [1, 2] for pair in texts)  # key and value
            pairs = [[serialized[g.value : g.end].decode() for g in pair] for pair in texts]
            if pairs:
                assert not [f for f in inner if f.number == RAW_DATA]
                assert [f.varint for f in inner if f.number == DATA_LOCATION] == [1]
                found[name] = dict(pairs)
    return found


def test_a_large_weight_stays_where_it_lies():
    whole = at_a_multiple_of_four("w", 4 * SMALLEST)
    graph = without_weights(whole, "model.onnx")
    assert graph is not None
    assert len(graph) < 300
    entry = entries(graph)["w"]
    start, length = int(entry["offset"]), int(entry["length"])
    assert entry["location"] == "model.onnx"
    assert whole[start : start + length] == bytes(i % 251 for i in range(4 * SMALLEST))


def test_all_but_the_weight_is_kept_in_order():
    whole = at_a_multiple_of_four("w", 4 * SMALLEST)
    graph = without_weights(whole, "m")
    assert graph is not None
    numbers = [f.number for f in fields(graph)]
    assert numbers == [f.number for f in fields(whole)] == [1, GRAPH, 8]
    top = list(fields(graph))[1]
    assert [f.number for f in fields(graph, top.value, top.end)] == [1, INITIALIZER, 2]


def test_all_else_of_a_weight_is_kept_but_its_description():
    dims, metadata = number(1, SMALLEST), length_prefixed(16, [b"metadata"])
    dims += number(DATA_LOCATION, 0)  # said to lie in the file, as it does
    weight = tensor("w", SMALLEST, dims, length_prefixed(DOC_STRING, [b"description"]), kind=INT8)
    found = without_weights(model(weight + metadata), "m")
    assert found is not None
    assert dims in found
    assert metadata in found
    assert b"description" not in found


def test_numbers_and_sizes_are_those_of_onnx():
    onnx = pytest.importorskip("onnx")
    messages = ("ModelProto", "GraphProto", "TensorProto")
    fields_of = {name: getattr(onnx, name).DESCRIPTOR.fields_by_name for name in messages}
    assert fields_of["ModelProto"]["graph"].number == GRAPH
    assert fields_of["GraphProto"]["initializer"].number == INITIALIZER
    names = ("data_type", "raw_data", "doc_string", "external_data", "data_location")
    assert [fields_of["TensorProto"][name].number for name in names] == [
        DATA_TYPE, RAW_DATA, DOC_STRING, EXTERNAL_DATA, DATA_LOCATION,
    ]  # fmt: skip
    assert {kind: onnx.helper.tensor_dtype_to_np_dtype(kind).itemsize for kind in _ELEMENT} == _ELEMENT
    assert SMALLEST == 1024


def test_what_maps_are_read_as_bytes_are(tmp_path):
    path = tmp_path / "model.onnx"
    whole = at_a_multiple_of_four("w", SMALLEST)
    path.write_bytes(whole)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert without_weights(mapped, "m") == without_weights(whole, "m")


@pytest.mark.parametrize(
    "whole",
    [
        model(),
        model(tensor("small", SMALLEST - 1, kind=INT8)),
        model(tensor("strings", SMALLEST, kind=STRING)),
        at_a_multiple_of_four("twice", SMALLEST, length_prefixed(RAW_DATA, [b"1"])),
        model(length_prefixed(RAW_DATA, [bytes(SMALLEST)])),
        number(1, 10),
        b"",
        number(GRAPH, 3),
    ],
    ids=[
        "no weight",
        "small",
        "strings",
        "two fields of data",
        "no type",
        "no graph",
        "nothing",
        "a graph that is a number",
    ],
)
def test_nothing_to_leave_behind(whole):
    assert without_weights(whole, "m") is None


def test_a_model_that_would_keep_most_of_its_weights_is_left_whole():
    there = tensor("w", SMALLEST, kind=INT8)
    assert without_weights(model(there, tensor("strings", SMALLEST // 2, kind=STRING)), "m") is not None
    assert without_weights(model(there, tensor("strings", 2 * SMALLEST, kind=STRING)), "m") is None


def test_what_lies_between_the_multiples_is_not_read_in_place():
    sizes = {without_weights(model(tensor("w", SMALLEST, padding=p)), "m") is None for p in range(4)}
    assert sizes == {True, False}
    assert all(without_weights(model(tensor("w", SMALLEST, kind=INT8, padding=p)), "m") for p in range(4))


@pytest.mark.parametrize("other", [-1, 1])
def test_what_is_like_a_graph_or_a_weight_and_stands_elsewhere_is_kept(other):
    alike = tensor("w", SMALLEST, kind=INT8)
    weights = [length_prefixed(INITIALIZER, [tensor("large", 4 * SMALLEST, kind=INT8)])]
    no_graph = length_prefixed(GRAPH + other, [length_prefixed(INITIALIZER, [alike])])
    no_weight = length_prefixed(INITIALIZER + other, [alike])
    found = without_weights(length_prefixed(GRAPH, [*weights, no_weight]) + no_graph, "m")
    assert found is not None
    assert found.endswith(no_weight + no_graph)


@pytest.mark.parametrize(("wire", "size"), [(1, 8), (5, 4)])
def test_a_number_in_the_place_of_a_graph_or_a_weight_is_kept(wire, size):
    graph_number = varint(GRAPH << 3 | wire) + bytes(size)
    weight_number = varint(INITIALIZER << 3 | wire) + number(DATA_LOCATION, 1).ljust(size, b"\0")
    graph = [length_prefixed(INITIALIZER, [tensor("w", SMALLEST, kind=INT8)]), weight_number]
    found = without_weights(length_prefixed(GRAPH, graph) + graph_number, "m")
    assert found is not None
    assert found.endswith(weight_number + graph_number)


@pytest.mark.parametrize("more", [number(DATA_LOCATION, 1), length_prefixed(EXTERNAL_DATA, [b"\x0a\x01k\x12\x01v"])])
def test_a_model_with_external_data_of_its_own_is_left_alone(more):
    assert without_weights(model(tensor("w", SMALLEST, kind=INT8), tensor("x", SMALLEST, more, kind=INT8)), "m") is None


@given(st.lists(st.tuples(st.integers(1, 2**28), st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=300)))))
def test_fields_are_what_was_written(wanted):
    data = b"".join(number(n, v) if isinstance(v, int) else length_prefixed(n, [v]) for n, v in wanted)
    found = [(f.number, data[f.value : f.end] if f.varint is None else f.varint) for f in fields(data)]
    assert found == wanted


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_end(data):
    try:
        found = list(fields(data))
    except ValueError:
        return
    assert b"".join(data[f.start : f.end] for f in found) == data


@given(st.integers(0, 200))
def test_a_model_cut_short_is_none(cut):
    whole = model(tensor("w", SMALLEST, kind=INT8))
    cut = cut * len(whole) // 201
    boundaries = {0, *(f.end for f in fields(whole))}
    if cut not in boundaries:
        with pytest.raises(ValueError, match="byte"):
            without_weights(whole[:cut], "m")


def test_a_wire_type_that_no_longer_exists():
    with pytest.raises(ValueError, match="field 1 at byte 0 has the wire type 3"):
        list(fields(b"\x0b"))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**64 - 1])
def test_a_number_has_ten_bytes_at_most_and_as_many_as_it_is_told(value):
    for size in range(1, 11):
        data = varint(1 << 3) + varint(value, size)
        assert len(data) == 1 + max(size, -(-max(value, 1).bit_length() // 7))
        assert [f.varint for f in fields(data)] == [value]
    with pytest.raises(ValueError, match="no number ends at byte 11"):
        list(fields(varint(1 << 3) + varint(value, 11)))


def test_fixed_sizes_are_passed_over():
    data = varint(1 << 3 | 1) + bytes(8) + varint(2 << 3 | 5) + bytes(4)
    assert [(f.number, f.end - f.value) for f in fields(data)] == [(1, 8), (2, 4)]
