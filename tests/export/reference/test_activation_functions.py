"""The activation functions: erf against the C library's, the others against transformers'."""

from __future__ import annotations

import math

import numpy as np
import pytest

from torchless_export.reference.activation_functions import ACTIVATION_FUNCTIONS, erf


def test_erf_on_a_dense_grid():
    # Everywhere, closer around the edges of the intervals, and far beyond where it is 1.
    edges = [edge + delta for edge in (0.0, 0.46875, 4.0, 6.0) for delta in np.linspace(-1e-3, 1e-3, 2001)]
    x = np.concatenate([np.linspace(-7, 7, 100_001), edges, 10.0 ** np.arange(-300, 301, 10)])
    x = np.concatenate([x, -x])
    wanted = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(erf(x), wanted, rtol=5e-16, atol=0)


def test_erf_keeps_signs_shapes_and_what_is_no_number():
    x = np.array([[0.0, -0.0, np.inf], [-np.inf, np.nan, 1e-310]])
    found = erf(x)
    np.testing.assert_array_equal(found[:, :2], [[0, 0], [-1, np.nan]])
    assert found[0, 2] == 1
    assert found[1, 2] == math.erf(1e-310)
    assert np.signbit(found).tolist() == [[False, True, False], [True, bool(np.signbit(found[1, 1])), False]]


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
    np.testing.assert_allclose(found[:, 0], exact, rtol=6.1e-8, atol=1e-14)
