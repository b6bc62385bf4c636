"""The engines that say what a machine can do and what a graph asks of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from torchless_bench.contenders import ENGINES
from torchless_bench.plan import Settings, make_plan
from torchless_bench.report import document
from torchless_bench.rounds import run
from torchless_bench.worker import _import_file

rates: Any = _import_file(str(ENGINES / "machine_rates.py"))
profiled: Any = _import_file(str(ENGINES / "profiled_graph.py"))


def test_what_a_cpu_has_no_products_in_is_no_news(sample_bundle):
    given = {"contenders": ["limits-cpu"], "workloads": ["rate-fp16", "rate-fp32"]}
    plan = make_plan([sample_bundle], settings=Settings(rounds=1, seconds=0.01, warmup=0.0, threads=1), **given)
    outcome = run(plan)
    assert outcome.unable == {("rate-fp16", "limits-cpu"): "no fp16 products on cpu"}
    report = document(plan, outcome, [])
    assert report["left_out"] == []
    assert set(report["limits"]["rates"]["cpu"]) == {"fp32"}


class TestRates:
    @pytest.mark.parametrize("what", ["fp32", "int8", "memory"])
    def test_the_product_is_the_product(self, what):
        engine = rates.Engine({"device": "cpu"}, 1)
        found = engine.rate(what, 2, 5, 3)()
        draw = np.random.default_rng(0)
        right, left = draw.integers(-3, 4, (5, 3)), draw.integers(0, 4, (2, 5))
        assert found == (left @ right)[0, 0]

    @pytest.mark.parametrize("what", ["fp32", "int8", "fp16"])
    def test_the_bytes_are_an_onnx_model(self, what):
        onnx = pytest.importorskip("onnx")
        operator, *types = rates._PRODUCTS[what]
        weights = np.arange(600, dtype=np.uint8).reshape(200, 3).astype(rates._DTYPES[types[1]])
        model = onnx.load_from_string(rates.one_product(operator, tuple(types), weights, (300, 200, 3)))
        onnx.checker.check_model(model, full_check=True)
        [node] = model.graph.node
        assert (node.op_type, list(node.input), list(node.output)) == (operator, ["x", "w"], ["y"])
        assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), weights)
        [shape] = [[d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output]
        assert shape == [300, 3]

    def test_what_the_device_has_not(self):
        with pytest.raises(NotImplementedError, match="no fp16 products on cpu"):
            rates.Engine({"device": "cpu"}, 1).rate("fp16", 2, 2, 2)
        with pytest.raises(NotImplementedError, match="no int8 products on cuda"):
            rates.Engine({"device": "cuda:1"}, 1).rate("int8", 2, 2, 2)

    def test_without_cuda(self):
        assert rates.problem({"device": "cpu"}) is None
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            assert rates.problem({"device": "cuda"}) == "the installed onnxruntime is the CPU package"

    @pytest.mark.gpu
    def test_on_a_gpu(self):
        if (reason := rates.problem({"device": "cuda"})) is not None:
            pytest.skip(reason)
        engine = rates.Engine({"device": "cuda"}, 1)
        for what in ("fp32", "fp16", "memory"):
            engine.rate(what, 64, 64, 64)()


def node(operator: str, inputs: list[dict[str, list[int]]], output: list[int]) -> dict[str, Any]:
    return {"args": {"op_name": operator, "input_type_shape": inputs, "output_type_shape": [{"float": output}]}}


class TestCounted:
    """Shapes as ONNX Runtime 1.32 writes them: packed weights are no input."""

    def test_a_packed_product(self):
        found = profiled.counted([node("MatMul", [{"float": [16, 1, 768]}], [16, 1, 3072])])
        assert found == {"fp32": 2 * 16 * 768 * 3072, "weights": 4 * 768 * 3072}

    def test_an_integer_product(self):
        inputs = [{"float": [1, 768]}, {"float": [2]}, {"int8": [1]}, {"float": [2]}]
        found = profiled.counted([node("DynamicQuantizeMatMul", inputs, [1, 2])])
        assert found == {"int8": 2 * 768 * 2, "weights": 768 * 2}

    def test_scores_read_no_weights(self):
        inputs = [{"float": [16, 1, 12, 64]}, {"float": [16, 1, 12, 64]}]
        assert profiled.counted([node("FusedMatMul", inputs, [1, 12, 16, 16])]) == {"fp32": 2 * 12 * 16 * 16 * 64}

    def test_fused_attention(self):
        inputs = [{"float16": [2, 5, 64]}, {"float16": [2, 7, 64]}, {"float16": [2, 7, 64]}]
        assert profiled.counted([node("MultiHeadAttention", inputs, [2, 5, 64])]) == {"fp16": 4 * 2 * 5 * 7 * 64}

    def test_the_rest_is_no_product(self):
        assert profiled.counted([node("Add", [{"float": [4, 4]}, {"float": [4, 4]}], [4, 4])]) == {}

    @pytest.mark.parametrize("operator", ["QAttention", "Conv", "MatMulNBits"])
    def test_what_is_not_known_is_refused(self, operator):
        with pytest.raises(NotImplementedError, match=operator):
            profiled.counted([node(operator, [{"float": [4, 4]}], [4, 4])])


class TestProfile:
    def given(self, bundle: Path, variant: str) -> dict[str, Any]:
        return {"model": str(bundle), "variant": variant, "device": "cpu"}

    def test_problem(self, sample_bundle, tmp_path):
        assert profiled.problem(self.given(sample_bundle, "int8")) is None
        assert profiled.problem(self.given(sample_bundle, "fp16")) == "the bundle has no variant fp16"
        assert "has no torchless.json" in profiled.problem(self.given(tmp_path, "int8"))

    @pytest.mark.parametrize("variant", ["fp32", "int8"])
    def test_counts_what_the_architecture_computes(self, sample_bundle, variant):
        engine = profiled.Engine(self.given(sample_bundle, variant), 1)
        found = engine.arithmetic([16, 32], [[2, 8]])()
        config = json.loads((sample_bundle / "config.json").read_text())
        dim, hidden, layers = config["dim"], config["hidden_dim"], config["n_layers"]
        # Each layer but the last in full: four projections, two of the feed-forward network, two products of attention.
        weights = layers * (4 * dim * dim + 2 * dim * hidden) + dim * dim + 2 * dim
        for tokens in (16, 32):
            counts = found["counts"][str(tokens)]
            full = (layers - 1) * (2 * tokens * (4 * dim * dim + 2 * dim * hidden) + 4 * tokens * tokens * dim)
            # In the last layer keys and values of all tokens, the rest of the first one alone; then the head.
            last = 2 * tokens * 2 * dim * dim + 2 * (2 * dim * dim + 2 * dim * hidden) + 4 * tokens * dim
            head = 2 * (dim * dim + 2 * dim)
            assert counts.get("int8", 0) + counts["fp32"] == full + last + head
            assert weights <= counts["weights"] <= 4 * weights
            assert ("int8" in counts) == (variant == "int8")
        shares = found["shares"]["2x8"]
        assert math.isclose(sum(shares.values()), 1, abs_tol=1e-6)
        assert "LayerNormalization" in shares
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
