"""Small graphs and their int8 form, with the checks that hold for every one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="quantization needs the extra `export`")
pytest.importorskip("onnxruntime", reason="calibration runs on ONNX Runtime")

import onnx
from onnx import TensorProto, helper, numpy_helper

import built_graphs
from torchless_export import recipes
from torchless_export.quantize import ISA, quantize_int8

FLOAT = TensorProto.FLOAT


def model_of(nodes, weights, *, inputs=None, output=("y", ["batch", None]), opset=18):
    """A model of these nodes; x is (batch, 8) float32 unless `inputs` says otherwise."""
    inputs = inputs or [helper.make_tensor_value_info("x", FLOAT, ["batch", 8])]
    initializers = [numpy_helper.from_array(values, name) for name, values in weights.items()]
    result = helper.make_tensor_value_info(output[0], FLOAT, output[1])
    graph = helper.make_graph(nodes, "graph", inputs, [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def normal(*shape, seed=0):
    """Return random float32 numbers."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(model, dump=None, **inputs):
    """Return what the model gives; `dump`: where to write what ONNX Runtime made of it."""
    return built_graphs.run(model, inputs, dump=dump)


def operators(model):
    """Count the nodes by their operator."""
    return Counter(node.op_type for node in model.graph.node)


def quantized(model, calibration=(), **options):
    """The quantized model, after the checks that hold for every one."""
    before = model.SerializeToString(deterministic=True)
    result = quantize_int8(model, calibration, **options)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result.model, full_check=True)
    assert list(result.model.opset_import) == list(model.opset_import)
    assert list(result.model.graph.input) == list(model.graph.input)
    assert list(result.model.graph.output) == list(model.graph.output)
    names = [name for node in result.model.graph.node for name in node.output if name]
    names += [tensor.name for tensor in result.model.graph.initializer]
    assert len(names) == len(set(names))
    nodes = [node.name for node in result.model.graph.node if node.name]
    assert len(nodes) == len(set(nodes))
    graphs = [result.model.graph, *(a.g for node in result.model.graph.node for a in node.attribute)]
    read = {name for graph in graphs for node in graph.node for name in node.input}
    assert {tensor.name for tensor in result.model.graph.initializer} <= read
    assert result.isa == ISA
    return result


def negate_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every int8 model of an export answer the opposite."""
    quantize = recipes.quantize_int8

    def sabotaged(*arguments: Any, **options: Any) -> Any:
        quantized = quantize(*arguments, **options)
        last = next(node for node in quantized.model.graph.node if "logits" in node.output)
        last.output[list(last.output).index("logits")] = "right"
        quantized.model.graph.node.append(helper.make_node("Neg", ["right"], ["logits"]))
        return quantized

    monkeypatch.setattr(recipes, "quantize_int8", sabotaged)
