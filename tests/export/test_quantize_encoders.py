"""The int8 form of whole encoders, as optimum exports them: all of it is fused, and nothing saturates."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("onnx", reason="quantization needs the extra `export`")
pytest.importorskip("onnxruntime", reason="calibration runs on ONNX Runtime")

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from quantized_graphs import quantized, run
from torchless_export import saturation

FAMILIES = {
    "bert": {},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "roberta": {},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16},
    "mpnet": {},
    "xlm-roberta": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
    },
}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 1100,
    "max_position_embeddings": 64,
    "num_labels": 3,
}


@pytest.fixture(scope="module", params=FAMILIES)
def encoder(request, tmp_path_factory):
    """(fp32 model, inputs) of a tiny encoder with random weights, as optimum exports it."""
    torch = pytest.importorskip("torch", reason="exports through optimum, which needs torch")
    pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx is not installed")
    import transformers
    from optimum.exporters.onnx import onnx_export_from_model

    config = transformers.AutoConfig.for_model(request.param, **(SIZES | FAMILIES[request.param]))
    torch.manual_seed(0)
    module = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    folder = tmp_path_factory.mktemp(request.param)
    onnx_export_from_model(module, folder, task="text-classification", do_validation=False)
    model = onnx.load(folder / "model.onnx")
    rng = np.random.default_rng(0)
    inputs = {
        "input_ids": rng.integers(3, 1000, (3, 11)),
        "attention_mask": np.ones((3, 11), dtype=np.int64),
        "token_type_ids": np.zeros((3, 11), dtype=np.int64),
    }
    return model, {value.name: inputs[value.name] for value in model.graph.input}


@pytest.mark.filterwarnings("ignore")
def test_every_product_of_an_encoder_is_fused(encoder, tmp_path):
    model, inputs = encoder
    result = quantized(model, [inputs])
    assert len(result.embeddings) == 1
    wanted = run(model, tmp_path / "fp32.onnx", **inputs)
    got = run(result.model, tmp_path / "int8.onnx", **inputs)
    assert np.abs(got - wanted).max() < 0.1 * np.abs(wanted).max()
    before, after = (onnx.load(tmp_path / name).graph for name in ("fp32.onnx", "int8.onnx"))

    def by_constants(graph):
        """The products by constant weights that are left after ONNX Runtime's own folding."""
        constants = {tensor.name for tensor in graph.initializer if len(tensor.dims) == 2}
        kinds = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm"}
        return [n for n in graph.node if n.op_type in kinds and n.input[1] in constants]

    count = Counter(node.op_type for node in after.node)
    assert by_constants(after) == []
    assert count["MatMulInteger"] == 0
    assert count["DynamicQuantizeMatMul"] + count["MatMulIntegerToFloat"] == len(by_constants(before)) >= 10
    # What is quantized apart from a product is read by several, not by one.
    assert 3 * count["DynamicQuantizeLinear"] <= count["MatMulIntegerToFloat"] + 1


@pytest.mark.filterwarnings("ignore")
def test_no_product_of_an_encoder_saturates(encoder):
    """The integers that really meet, pair by pair; and the largest that any text could bring."""
    model, inputs = encoder
    copy = quantized(model, [inputs]).model
    products = [node for node in copy.graph.node if node.op_type == "MatMulInteger"]
    weights = {tensor.name: tensor for tensor in copy.graph.initializer}
    names = list(dict.fromkeys(node.input[0] for node in products))
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in names)
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    activations = dict(zip(names, session.run(names, inputs), strict=True))
    assert products
    for node in products:
        values = numpy_helper.to_array(weights[node.input[1]])
        rows = activations[node.input[0]].reshape(-1, len(values))
        assert saturation.saturated_pairs(rows, values) == 0
        assert saturation.saturated_pairs(np.full((1, len(values)), 255, dtype=np.uint8), values) == 0
