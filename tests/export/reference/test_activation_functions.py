"""The activation functions: gelu against the C library's erfc, all against transformers'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from torchless_export.reference.activation_functions import ACTIVATION_FUNCTIONS


def test_gelu_is_the_exact_one_on_a_dense_grid():
    x = np.concatenate([np.linspace(-25, 25, 200_001), np.linspace(-1e-3, 1e-3, 2001), 10.0 ** np.arange(-37, 38, 5)])
    x = np.concatenate([x, -x]).astype(np.float32)
    wanted = np.array([0.5 * value * math.erfc(-value * math.sqrt(0.5)) for value in x.astype(np.float64)])
    found = ACTIVATION_FUNCTIONS["gelu"](x)
    np.testing.assert_allclose(found, wanted, rtol=5e-7, atol=1e-8)
    np.testing.assert_array_less(np.abs(found - wanted), 3e-7 * np.maximum(1, np.abs(x)))


def test_gelu_of_what_is_no_number():
    found = ACTIVATION_FUNCTIONS["gelu"](np.array([[0.0, -0.0], [np.inf, -np.inf], [np.nan, 1e-40]], np.float32))
    np.testing.assert_array_equal(found[:2], [[0, 0], [np.inf, 0]])
    assert np.isnan(found[2, 0])
    assert found[2, 1] == pytest.approx(5e-41, rel=1e-3)


@pytest.mark.parametrize("name", sorted(ACTIVATION_FUNCTIONS))
def test_activation_functions_are_those_of_transformers(name: str):
    torch = pytest.importorskip("torch")
    activations = pytest.importorskip("transformers.activations")
    x = np.concatenate([np.linspace(-30, 30, 40_001), [0, -0.0, 1e-30, 100, -100, 1e4, -1e4]]).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = ACTIVATION_FUNCTIONS[name](x[:, None])
    wanted = activations.ACT2FN[name](torch.from_numpy(x)).numpy()
    exact = activations.ACT2FN[name](torch.from_numpy(x.astype(np.float64))).numpy()
    assert (found.dtype, found.shape) == (np.float32, (len(x), 1))
    np.testing.assert_allclose(found[:, 0], wanted, rtol=2e-6, atol=2e-6)
    rtol, atol = (5e-7, 1e-8) if name in {"gelu", "gelu_10", "gelu_python"} else (6.1e-8, 1e-14)
    np.testing.assert_allclose(found[:, 0], exact, rtol=rtol, atol=atol)


def test_whatever_a_graph_may_have_can_be_judged():
    pytest.importorskip("onnx")
    from torchless_export.graph.activation import ACTIVATIONS

    assert ACTIVATION_FUNCTIONS.keys() == ACTIVATIONS.keys()
