"""`alignment.py`: weights at multiples of 64 bytes, in a model that is otherwise the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from torchless.onnx_file import GRAPH, INITIALIZER, RAW_DATA, SMALLEST, fields, without_weights
from torchless_export.alignment import ALIGNMENT, aligned


def model(arrays: list[np.ndarray], producer: str = "") -> onnx.ModelProto:
    """Return y = x + the sum of every array's first value."""
    initializers = [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)]
    initializers.append(numpy_helper.from_array(np.zeros(1, np.int64), "first"))
    nodes, total = [], "x"
    for i, array in enumerate(arrays):
        nodes.append(helper.make_node("Gather", [f"w{i}", "first"], [f"g{i}"]))
        nodes.append(helper.make_node("Cast", [f"g{i}"], [f"c{i}"], to=onnx.TensorProto.FLOAT))
        nodes.append(helper.make_node("Add", [total, f"c{i}"], [f"t{i}"]))
        total = f"t{i}"
        assert array.ndim == 1
    nodes.append(helper.make_node("Identity", [total], ["y"]))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, producer_name=producer)


def offsets(data: bytes) -> list[int]:
    """Return where the raw data of every large weight starts."""
    return [
        raw.value
        for top in fields(data)
        if top.number == GRAPH
        for part in fields(data, top.value, top.end)
        if part.number == INITIALIZER
        for raw in fields(data, part.value, part.end)
        if raw.number == RAW_DATA and raw.end - raw.value >= SMALLEST
    ]


def without_spaces(data: bytes) -> onnx.ModelProto:
    parsed = onnx.load_from_string(data)
    for tensor in parsed.graph.initializer:
        assert not tensor.doc_string.strip(" ")
        tensor.ClearField("doc_string")
    return parsed


# Lengths of the graph at which its own length takes one byte more (2 ** 14 and 2 ** 21), and all around them.
@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from([np.float32, np.int8, np.int64]), st.integers(1, 3000)), max_size=6),
    st.text("p", max_size=70),
)
@example([(np.int8, (1 << 14) - 330)], "")
@example([(np.int8, (1 << 21) - 330)], "p")
def test_weights_are_aligned_and_nothing_else_changes(kinds, producer):
    wanted = model([np.arange(size).astype(kind) for kind, size in kinds], producer)
    data = b"".join(aligned(wanted))
    found = offsets(data)
    assert len(found) == sum(np.dtype(kind).itemsize * size >= SMALLEST for kind, size in kinds)
    assert [at % ALIGNMENT for at in found] == [0] * len(found)
    assert without_spaces(data) == wanted
    onnx.checker.check_model(onnx.load_from_string(data), full_check=True)


@pytest.mark.parametrize("boundary", [1 << 14, 1 << 21])
def test_the_length_of_the_graph_may_grow_by_the_padding(boundary):
    for size in range(boundary - 400, boundary - 150, 3):
        data = b"".join(aligned(model([np.zeros(size, np.int8)])))
        assert [at % ALIGNMENT for at in offsets(data)] == [0]
        assert onnx.load_from_string(data).graph.initializer[0].raw_data == bytes(size)


def test_onnx_runtime_reads_the_weights_in_place(tmp_path):
    arrays = [
        np.full(500, 3, np.float32),
        np.full(2000, 5, np.int8),
        np.full(7, 7, np.int64),
        np.full(999, 11, np.int64),
    ]
    data = b"".join(aligned(model(arrays)))
    graph = without_weights(data, "weights")
    assert graph is not None
    assert len(graph) < len(data) - 11000
    options = onnxruntime.SessionOptions()
    options.add_external_initializers_from_files_in_memory(["weights"], [data], [len(data)])
    options.add_session_config_entry("session.use_external_initializer_file_buffers_directly", "1")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.ones(1, np.float32)})[0].tolist() == [27.0]
