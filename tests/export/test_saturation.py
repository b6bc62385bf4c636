"""The pair bound holds, and the emulations are the arithmetic that ONNX Runtime really does."""

from __future__ import annotations

import platform
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("onnx", reason="quantization needs the extra `export`")
ort = pytest.importorskip("onnxruntime", reason="the kernels compared with are ONNX Runtime's")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from torchless_export.saturation import (  # noqa: E402
    PAIR_LIMIT,
    dynamic_quantize,
    exact_product,
    narrow_weights,
    pair_bounds,
    quantize_weights,
    saturated_pairs,
    saturating_product,
)


def saturates_here() -> bool:
    """Whether this processor multiplies uint8 by int8 with VPMADDUBSW: x86-64 with AVX2 and no VNNI."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return False
    vnni = {"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"}
    return platform.machine() == "x86_64" and "avx2" in flags and not vnni.intersection(flags)


def session_of(node, inputs, outputs, constants=()):
    graph = helper.make_graph([node], "one node", inputs, outputs, list(constants))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def integer_product(activations, values):
    """The product as ONNX Runtime's MatMulInteger gives it on this processor."""
    k, n = values.shape
    session = session_of(
        helper.make_node("MatMulInteger", ["a", "b"], ["c"]),
        [helper.make_tensor_value_info("a", TensorProto.UINT8, ["m", k])],
        [helper.make_tensor_value_info("c", TensorProto.INT32, ["m", n])],
        [numpy_helper.from_array(values, "b")],
    )
    return session.run(None, {"a": activations})[0]


def extreme(rng, m, k, n):
    """Activations and weights of which many stand at the ends of their ranges."""
    activations = rng.integers(0, 256, (m, k)).astype(np.uint8)
    activations[rng.random((m, k)) < 0.5] = 255
    values = rng.integers(-127, 128, (k, n)).astype(np.int8)
    values[rng.random((k, n)) < 0.4] = 127
    values[rng.random((k, n)) < 0.3] = -127
    return activations, values


SHAPES = [(1, 1, 1), (1, 2, 1), (3, 3, 2), (2, 7, 5), (1, 64, 33), (5, 65, 16), (13, 130, 48), (4, 384, 100)]


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_this_processor_multiplies_as_emulated(m, k, n):
    activations, values = extreme(np.random.default_rng(m * k * n), m, k, n)
    emulation = saturating_product if saturates_here() else exact_product
    np.testing.assert_array_equal(integer_product(activations, values), emulation(activations, values))


def test_the_two_emulations_differ_where_pairs_saturate():
    activations, values = extreme(np.random.default_rng(0), 4, 64, 32)
    assert saturated_pairs(activations, values) > 0
    assert (saturating_product(activations, values) != exact_product(activations, values)).any()


def test_pairs_are_neighbours_along_k_from_the_first():
    activations = np.full((1, 4), 255, dtype=np.uint8)
    together = np.array([[127], [127], [0], [0]], dtype=np.int8)
    apart = np.array([[0], [127], [127], [0]], dtype=np.int8)
    assert saturating_product(activations, together)[0, 0] == PAIR_LIMIT
    assert saturating_product(activations, apart)[0, 0] == 2 * 255 * 127
    assert saturated_pairs(activations, together) == 1
    assert saturated_pairs(activations, apart) == 0
    assert pair_bounds(together, activations[0])[0] == 2 * 255 * 127
    assert pair_bounds(apart, activations[0])[0] == 255 * 127
    opposite = np.array([[127], [-127], [0], [0]], dtype=np.int8)
    assert pair_bounds(opposite, activations[0])[0] == 255 * 127  # where one of the two activations is zero


def test_saturated_pairs_are_all_counted():
    activations, values = extreme(np.random.default_rng(3), 6, 33, 9)
    left = np.pad(activations.astype(int), ((0, 0), (0, 1))).reshape(6, 17, 2)
    right = np.pad(values.astype(int), ((0, 1), (0, 0))).reshape(17, 2, 9)
    sums = np.einsum("mip,ipn->min", left, right)
    assert saturated_pairs(activations, values) == ((sums > 32767) | (sums < -32768)).sum() > 0


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e20])
@pytest.mark.parametrize("kind", ["mixed", "positive", "negative", "zero", "halves"])
def test_activations_are_quantized_as_by_the_operator(scale, kind):
    session = session_of(
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [
            helper.make_tensor_value_info("q", TensorProto.UINT8, ["n"]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("z", TensorProto.UINT8, []),
        ],
    )
    rng = np.random.default_rng(1)
    for length in (1, 2, 17, 300):
        normal = rng.normal(size=length) * scale
        values = {
            "mixed": normal,
            "positive": np.abs(normal),
            "negative": -np.abs(normal),
            "zero": normal * 0,
            "halves": np.append(rng.integers(-255, 255, length) / 2, [127.5, -127.5]) * scale,
        }[kind].astype(np.float32)
        for got, wanted in zip(dynamic_quantize(values), session.run(None, {"x": values}), strict=True):
            np.testing.assert_array_equal(got, wanted)


weight_shapes = st.tuples(st.integers(1, 9), st.integers(1, 6))


@settings(deadline=None, max_examples=200)
@given(shape=weight_shapes, seed=st.integers(0, 2**32 - 1), bounded=st.booleans(), power=st.integers(-30, 30))
def test_no_activations_within_the_peaks_saturate(shape, seed, bounded, power):
    rng = np.random.default_rng(seed)
    weights = (rng.standard_t(1.5, shape) * 10.0**power).astype(np.float32)
    weights[rng.random(shape) < 0.3] = np.float32(10.0**power)
    peaks = rng.integers(0, 256, shape[0]).astype(np.uint8) if bounded else None
    matrix = quantize_weights(weights, peaks)
    most = np.full(shape[0], 255, dtype=np.uint8) if peaks is None else peaks
    activations = np.vstack([most, rng.integers(0, most.astype(int) + 1, (20, shape[0]))]).astype(np.uint8)
    # Each feature at its peak or at zero is where a pair sum is largest.
    activations = np.vstack([activations, np.where(rng.random((20, shape[0])) < 0.5, most, 0)]).astype(np.uint8)
    assert saturated_pairs(activations, matrix.values) == 0
    np.testing.assert_array_equal(
        saturating_product(activations, matrix.values), exact_product(activations, matrix.values)
    )
    assert matrix.worst_pair_sum <= PAIR_LIMIT
    # No weight is off by more than half a step of its column.
    error = np.abs(matrix.values * matrix.scales - weights)
    assert (error <= matrix.scales * np.float32(0.5001)).all()


@settings(deadline=None, max_examples=100)
@given(shape=weight_shapes, seed=st.integers(0, 2**32 - 1))
def test_scales_are_as_fine_as_the_bound_lets_them(shape, seed):
    weights = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    matrix, (narrow, scales) = quantize_weights(weights), narrow_weights(weights)
    saturating = pair_bounds(narrow, np.full(shape[0], 255, dtype=np.uint8)) > PAIR_LIMIT
    # A column that needs no more keeps the finest scale, but for the few that rounding brings back under the bound.
    np.testing.assert_array_equal(matrix.values[:, ~matrix.widened], narrow[:, ~matrix.widened])
    assert matrix.widened[saturating].all()
    assert (matrix.scales >= scales).all()
    assert (matrix.scales <= scales * np.float32(2.02)).all()
    closest = pair_bounds(matrix.values[:, matrix.widened], np.full(shape[0], 255, dtype=np.uint8))
    assert (closest > PAIR_LIMIT * 0.97).all()


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_this_processor_multiplies_widened_weights_exactly(m, k, n):
    rng = np.random.default_rng(k)
    weights = np.abs(rng.normal(size=(k, n)) * 0.1 + 1).astype(np.float32)
    matrix = quantize_weights(weights)
    activations = np.vstack([np.full((1, k), 255), rng.integers(128, 256, (m, k))]).astype(np.uint8)
    np.testing.assert_array_equal(
        integer_product(activations, matrix.values), exact_product(activations, matrix.values)
    )


def test_odd_columns_have_usable_scales():
    tiny, huge = np.float32(1e-44), np.float32(3e38)
    weights = np.array([[0, tiny, huge, 1], [0, tiny, huge, -1], [0, 0, huge, 0]], dtype=np.float32)
    matrix = quantize_weights(weights)
    assert np.isfinite(matrix.scales).all()
    assert (matrix.scales > 0).all()
    assert (matrix.values[:, 0] == 0).all()
    assert matrix.scales[0] == 1
    np.testing.assert_allclose(matrix.values[:, 2] * matrix.scales[2], huge, rtol=0.01)
    assert list(matrix.values[:, 3]) == [127, -127, 0]
    assert list(matrix.widened) == [False, False, True, False]
