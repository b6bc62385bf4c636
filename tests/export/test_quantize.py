"""The int8 graph: what is rewritten, what stays, what ONNX Runtime makes of it, and that it cannot saturate."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="quantization needs the extra `export`")
pytest.importorskip("onnxruntime", reason="calibration runs on ONNX Runtime")

import onnx
from onnx import TensorProto, helper, numpy_helper

from quantized_graphs import FLOAT, model_of, normal, operators, quantized, run
from torchless.errors import CheckpointError, InputError
from torchless_export import saturation
from torchless_export.quantize import find_products, quantize_int8

INT64 = TensorProto.INT64


def has_vnni() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    return bool({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}.intersection(flags))


def close(got, wanted, tolerance=0.05):
    """Within 8-bit rounding: relative to the largest value."""
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()
    assert (got != wanted).any()


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 21])
def test_matmul_and_gemm_are_quantized_in_every_opset(opset):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Gemm", ["h", "v", "c"], ["y"], "second", transB=1, alpha=0.5, beta=2.0),
    ]
    model = model_of(nodes, {"w": normal(8, 6), "v": normal(3, 6), "c": normal(3)}, opset=opset)
    x = normal(5, 8, seed=1)
    result = quantized(model, [{"x": x}])
    assert [(p.name, p.k, p.n) for p in result.products] == [("first", 8, 6), ("second", 6, 3)]
    assert "MatMul" not in operators(result.model)
    assert "Gemm" not in operators(result.model)
    close(run(result.model, x=x), run(model, x=x))


def test_the_integers_are_those_of_the_definition():
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"], "product")], {"w": normal(8, 6)})
    x = normal(5, 8, seed=1)
    matrix = saturation.quantize_weights(normal(8, 6))
    values, scale, zero_point = saturation.dynamic_quantize(x)
    sums = (values.astype(int) - int(zero_point)) @ matrix.values.astype(int)
    got = run(quantized(model).model, x=x)
    np.testing.assert_allclose(got, sums * scale * matrix.scales, rtol=1e-5, atol=1e-6)


def test_one_activation_read_by_three_products_is_quantized_once(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", name], [f"{name}_out"], name) for name in "qkv"]
    nodes.append(helper.make_node("Sum", [f"{name}_out" for name in "qkv"], ["y"]))
    result = quantized(model_of(nodes, {name: normal(8, 4, seed=i) for i, name in enumerate("qkv")}))
    assert operators(result.model)["DynamicQuantizeLinear"] == 1
    run(result.model, tmp_path / "optimized.onnx", x=normal(2, 8))
    fused = operators(onnx.load(tmp_path / "optimized.onnx"))
    assert fused["MatMulIntegerToFloat"] == 3
    assert fused["DynamicQuantizeLinear"] == 1


def test_a_shared_weight_is_stored_once_and_kept_where_others_read_it():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "w"], ["g"], "second"),
        helper.make_node("Add", ["g", "w"], ["y"]),
    ]
    result = quantized(model_of(nodes, {"w": normal(8, 8)}, output=("y", [8, 8])))
    kinds = Counter(t.data_type for t in result.model.graph.initializer if len(t.dims) == 2)
    assert kinds == {TensorProto.INT8: 1, FLOAT: 1}
    x = normal(8, 8, seed=2)
    assert run(result.model, x=x).shape == (8, 8)


def test_a_weight_read_inside_a_branch_is_kept():
    branch = helper.make_graph(
        [helper.make_node("Add", ["h", "w"], ["inner"])],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", FLOAT, [8, 8])],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["h"], ["same"])],
        "other",
        [],
        [helper.make_tensor_value_info("same", FLOAT, [8, 8])],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
        helper.make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=other),
    ]
    model = model_of(nodes, {"w": normal(8, 8), "condition": np.array(True)}, output=("y", [8, 8]))
    result = quantized(model)
    assert "w" in {tensor.name for tensor in result.model.graph.initializer}
    x = normal(8, 8, seed=2)
    close(run(result.model, x=x), run(model, x=x))


def test_a_weight_read_both_ways_is_quantized_both_ways():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "plain"),
        helper.make_node("Gemm", ["h", "w"], ["y"], "turned", transB=1),
    ]
    model = model_of(nodes, {"w": normal(8, 8)})
    result = quantized(model)
    assert sum(t.data_type == TensorProto.INT8 and len(t.dims) == 2 for t in result.model.graph.initializer) == 2
    close(run(result.model, x=normal(3, 8)), run(model, x=normal(3, 8)))


# The permutations on the way from the weights to the product; None is Transpose's default, which reverses.
WAYS = [(), ([1, 0],), (None,), ([0, 1],), ([1, 0], None), ([1, 0], [0, 1])]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("source", ["initializer", "constant"])
def test_weights_behind_identity_and_transpose_are_found(source, way):
    weights = normal(8, 8)
    nodes = [helper.make_node("Identity", ["w"], ["t0"])]
    for i, permutation in enumerate(way):
        nodes.append(helper.make_node("Transpose", [f"t{i}"], [f"t{i + 1}"], perm=permutation))
    nodes.append(helper.make_node("MatMul", ["x", f"t{len(way)}"], ["y"], "product"))
    if source == "constant":
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights)))
    model = model_of(nodes, {"w": weights} if source == "initializer" else {})
    result = quantized(model)
    assert not {"Identity", "Transpose", "Constant", "MatMul"} & operators(result.model).keys()
    close(run(result.model, x=normal(3, 8)), run(model, x=normal(3, 8)))


def test_products_of_two_activations_and_constant_left_operands_stay():
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "t"], ["scores"], "scores"),
        helper.make_node("MatMul", ["scores", "x"], ["mixed"], "mixed"),
        helper.make_node("MatMul", ["a", "w"], ["folded"], "folded"),
        helper.make_node("MatMul", ["mixed", "folded"], ["y"], "computed"),
    ]
    model = model_of(nodes, {"a": normal(8, 8), "w": normal(8, 8)})
    assert find_products(model) == ()
    with pytest.raises(CheckpointError, match="no product"):
        quantize_int8(model, [])


def test_three_dimensional_weights_stay():
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "p")],
        {"w": normal(1, 8, 6)},
        output=("y", ["batch", "sequence", None]),
    )
    assert find_products(model) == ()


def test_treatments_choose_by_name_and_refuse_unknown_ones():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"], "second"),
    ]
    model = model_of(nodes, {"w": normal(8, 8), "v": normal(8, 2)})
    assert [product.name for product in find_products(model)] == ["h", "second"]  # no name: its output's
    result = quantized(model, treatments={"h": "fp32"})
    assert [product.name for product in result.products] == ["second"]
    assert operators(result.model)["MatMul"] == 1
    with pytest.raises(InputError, match="'third'"):
        quantize_int8(model, [], treatments={"third": "fp32"})
    with pytest.raises(InputError, match="'int4'"):
        quantize_int8(model, [], treatments={"second": "int4"})
    with pytest.raises(InputError, match="'uint8'"):
        quantize_int8(model, [], embeddings="uint8")


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 5), (7, 1), (9, 3), (64, 2)])
def test_odd_shapes(k, n):
    x = helper.make_tensor_value_info("x", FLOAT, ["batch", "sequence", k])
    weights = normal(k, n)
    weights[:, 0] = 0
    model = model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": weights},
        inputs=[x],
        output=("y", ["batch", "sequence", None]),
    )
    result = quantized(model, [{"x": normal(2, 3, k)}])
    got = run(result.model, x=normal(2, 3, k, seed=4))
    assert got.shape == (2, 3, n)
    assert (got[..., 0] == 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_named(bad):
    weights = normal(8, 4)
    weights[2, 3] = bad
    model = model_of([helper.make_node("MatMul", ["x", "layer.w"], ["y"])], {"layer.w": weights})
    with pytest.raises(CheckpointError, match=r"'layer\.w'.*\(2, 3\)"):
        quantize_int8(model, [])


def test_activations_that_are_not_finite_are_named():
    nodes = [helper.make_node("Log", ["x"], ["logs"]), helper.make_node("MatMul", ["logs", "w"], ["y"])]
    model = model_of(nodes, {"w": normal(8, 4)})
    with pytest.raises(CheckpointError, match="'logs'"):
        quantize_int8(model, [{"x": np.zeros((1, 8), dtype=np.float32)}])


def test_old_opsets_and_external_weights_are_refused():
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(CheckpointError, match="opset 10"):
        quantize_int8(model_of([node], {"w": normal(8, 4)}, opset=10), [])
    model = model_of([node], {"w": normal(8, 4)})
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(CheckpointError, match="external"):
        quantize_int8(model, [])


def test_new_names_step_aside():
    nodes = [
        helper.make_node("Relu", ["x"], ["x_uint8"], "product_Mul"),
        helper.make_node("Relu", ["x"], ["w_int8"], "x_DynamicQuantizeLinear"),
        helper.make_node("MatMul", ["x", "w"], ["product_int32"], "product"),
        helper.make_node("MatMul", ["product_int32", "w"], ["other"], "product"),
        helper.make_node("Sum", ["x_uint8", "w_int8", "other"], ["y"]),
    ]
    result = quantized(model_of(nodes, {"w": normal(8, 8)}))
    assert [product.name for product in result.products] == ["product", "other"]


def test_large_embedding_tables_get_a_scale_per_row():
    ids = helper.make_tensor_value_info("ids", INT64, ["batch", "sequence"])
    table, positions = normal(2000, 8) * np.geomspace(1e-3, 1e3, 2000, dtype=np.float32)[:, None], normal(16, 8)
    table[0] = 0
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"]),
        helper.make_node("Gather", ["positions", "one"], ["place"]),
        helper.make_node("Mul", ["place", "zero"], ["nothing"]),
        helper.make_node("Add", ["words", "nothing"], ["y"]),
    ]
    constants = {"one": np.array([1]), "zero": np.zeros(1, dtype=np.float32)}
    weights = {"table": table, "positions": positions} | constants
    model = model_of(nodes, weights, inputs=[ids], output=("y", ["batch", "sequence", None]))
    result = quantized(model, [{"ids": np.array([[1]])}])
    assert result.embeddings == ("table",)
    kept = {t.name for t in result.model.graph.initializer}
    assert "positions" in kept
    assert "table" not in kept
    assert len(result.model.SerializeToString()) < len(model.SerializeToString()) * 0.45
    batch = np.array([[0, 1, 1999], [7, 500, 1000]])
    wanted = run(model, ids=batch)
    error = np.abs(run(result.model, ids=batch) - wanted)
    assert (error <= np.abs(wanted).max(axis=-1, keepdims=True) / 253).all()
    assert error.max() > 0
    assert (run(result.model, ids=np.array([[0]])) == 0).all()
    with pytest.raises(CheckpointError, match="no embedding table"):
        quantize_int8(model, [], embeddings="fp32")


def test_columns_picked_from_a_constant_stay():
    ids = helper.make_tensor_value_info("ids", INT64, ["batch"])
    node = helper.make_node("Gather", ["table", "ids"], ["y"], axis=1)
    model = model_of([node], {"table": normal(2000, 8)}, inputs=[ids], output=("y", [2000, "batch"]))
    with pytest.raises(CheckpointError, match="no embedding table"):
        quantize_int8(model, [])


def crafted():
    """A product whose neighbours along k are largest together, in the weights and in the activations."""
    weights = np.ones((64, 4), dtype=np.float32)
    weights[:, 1] = -1
    weights[1::2, 2] = -1  # signs alternate: cannot saturate
    weights[:, 3] = np.where(np.arange(64) < 2, 1, 0.001)
    return model_of(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        {"w": weights},
        inputs=[helper.make_tensor_value_info("x", FLOAT, ["batch", 64])],
    )


def without_widening(monkeypatch):
    def narrow(weights, peaks=None):
        values, scales = saturation.narrow_weights(weights)
        return saturation.WeightMatrix(values, scales, np.zeros(len(scales), dtype=bool), 0)

    monkeypatch.setattr(saturation, "quantize_weights", narrow)


def test_saturating_weights_are_found_handled_and_reported():
    x = np.ones((3, 64), dtype=np.float32)
    model = crafted()
    seen = quantized(model, [{"x": x}])
    product = seen.products[0]
    assert product.saturating_columns == 3
    assert product.widened_columns == 3
    assert product.worst_pair_sum <= saturation.PAIR_LIMIT
    assert seen.saturation == {
        "products": 1,
        "columns": 4,
        "saturating_columns": 3,
        "widened_columns": 3,
        "worst_pair_sum": product.worst_pair_sum,
        "limit": 32767,
        "calibration_batches": 1,
    }
    np.testing.assert_allclose(run(seen.model, x=x), run(model, x=x), rtol=0.01, atol=0.1)
    # Small activations among larger ones saturate nothing; the scales are safe for every text all the same.
    mild = np.full((1, 64), 0.1, dtype=np.float32)
    mild[0, ::2] = -1
    quiet = quantized(model, [{"x": mild}])
    assert quiet.saturation["saturating_columns"] == 0
    assert quiet.model == seen.model
    assert quantized(model).saturation["saturating_columns"] is None


def test_plain_int8_is_wrong_without_vnni(monkeypatch):
    if platform.machine() != "x86_64" or has_vnni():
        pytest.skip("this processor adds pairs without saturating")
    without_widening(monkeypatch)
    x = np.ones((3, 64), dtype=np.float32)
    plain, wanted = run(quantize_int8(crafted(), []).model, x=x), run(crafted(), x=x)
    assert (np.abs(plain - wanted)[:, [0, 1]] > 20).all()
    assert np.abs(plain - wanted)[:, 2].max() < 1


def test_progress_is_told():
    told = []
    x = normal(2, 64)
    quantized(crafted(), [{"x": x}, {"x": x}], progress=lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]
