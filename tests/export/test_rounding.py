"""Weights rounded for activations: smaller errors there, and no pair that saturates."""

from __future__ import annotations

import numpy as np
import pytest

from torchless_export import rounding, saturation
from torchless_export.rounding import round_weights


def correlated(rows: int, k: int, seed: int = 0) -> np.ndarray:
    """Activations of which a few directions explain most, as a model's are."""
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, 4)) @ rng.normal(size=(4, k)) + 0.1 * rng.normal(size=(rows, k))).astype(np.float32)


def weights(k: int, n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(k, n)).astype(np.float32)


def error(matrix: saturation.WeightMatrix, w: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(x @ (w - matrix.values * matrix.scales)).mean())


@pytest.mark.parametrize(("k", "share"), [(16, 0.2), (200, 0.02)])  # less than a block, and more
def test_the_error_on_such_activations_falls(k: int, share: float):
    x, w = correlated(2000, k), weights(k, 24)
    seen, unseen = x[:1000], x[1000:]
    rounded = round_weights(w, seen.T @ seen)
    assert error(rounded, w, unseen) < share * error(saturation.quantize_weights(w), w, unseen)


def test_no_pair_saturates():
    w = np.abs(weights(64, 40)) + 1  # neighbours of one sign, near the limit
    rounded = round_weights(w, np.eye(64, dtype=np.float32))
    bounds = saturation.pair_bounds(rounded.values, np.full(64, 255, dtype=np.uint8))
    assert bounds.max() <= saturation.PAIR_LIMIT
    assert rounded.worst_pair_sum == bounds.max()
    assert rounded.values.dtype == np.int8
    np.testing.assert_allclose(rounded.values * rounded.scales, w, atol=2 * rounded.scales.max())


def test_a_column_that_could_saturate_after_all_is_rounded_to_nearest(monkeypatch: pytest.MonkeyPatch):
    w, x = weights(64, 40), correlated(500, 64)
    monkeypatch.setattr(rounding, "_ROOM", np.float32(0.7))
    rounded, nearest = round_weights(w, x.T @ x), saturation.quantize_weights(w)
    assert rounded.worst_pair_sum <= saturation.PAIR_LIMIT
    same = rounded.scales == nearest.scales
    assert same.any()
    np.testing.assert_array_equal(rounded.values[:, same], nearest.values[:, same])


@pytest.mark.parametrize("moments", [np.zeros((8, 8)), np.full((8, 8), np.nan), np.full((8, 8), np.inf)])
def test_moments_that_say_nothing_leave_the_nearest(moments: np.ndarray):
    w = weights(8, 4)
    found, nearest = round_weights(w, moments.astype(np.float32)), saturation.quantize_weights(w)
    np.testing.assert_array_equal(found.values, nearest.values)
    np.testing.assert_array_equal(found.scales, nearest.scales)


def test_a_feature_that_is_never_seen_does_no_harm():
    x, w = correlated(500, 12), weights(12, 6)
    x[:, 5] = 0
    rounded = round_weights(w, x.T @ x)
    assert np.isfinite(rounded.scales).all()
    assert error(rounded, w, x) < error(saturation.quantize_weights(w), w, x) * 1.05
