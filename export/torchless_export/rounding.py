"""Weights rounded for the activations they will meet, instead of each to its nearest integer.

The error of a product is `x @ (W - Q)`: what rounding one row of W gets wrong, the rows after it can make good, as far
as their features go together in x. The rows are rounded in turn, those of the largest activations first, and each error
is spread over the rows still to come by the inverse of the activations' second moments (Frantar et al. 2022, "GPTQ",
after Hassibi and Stork 1993). On MiniLM (SST-2) the squared error of a product falls to a third or a seventh, at no
cost in time or size.

Pure NumPy: knows no graph.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from torchless_export import saturation

__all__ = ["round_weights"]

_BLOCK = 128
# Added to the diagonal, as a share of its mean: features that the texts hardly move must not move the weights.
_DAMPING = 0.01
# Room for the two weights of a pair to end one step off their nearest integers.
_ROOM = np.float32(1 + 2 * 255 / saturation.PAIR_LIMIT)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


def round_weights(weights: Float32, moments: Float32) -> saturation.WeightMatrix:
    """Quantize a weight matrix per column for activations of the second moments given; no pair saturates.

    Args:
        weights: (k, n) float32, finite.
        moments: (k, k) float32, the sum of `x.T @ x` over activations x (rows, k).
    """
    nearest = saturation.quantize_weights(weights)
    scales = nearest.scales * _ROOM
    values = _compensated(weights, scales, moments)
    if values is None:
        return nearest
    peaks = np.full(len(weights), 255, dtype=np.uint8)
    over = np.flatnonzero(saturation.pair_bounds(values, peaks) > saturation.PAIR_LIMIT)
    values[:, over], scales[over] = nearest.values[:, over], nearest.scales[over]
    widened = nearest.widened.copy()
    widened[np.setdiff1d(np.arange(len(scales)), over)] = True
    worst = int(saturation.pair_bounds(values, peaks).max(initial=0))
    return saturation.WeightMatrix(values, scales, widened, worst)


def _compensated(weights: Float32, scales: Float32, moments: Float32) -> saturation.Int8 | None:
    """Return (k, n) int8 rounded in turn, or None where the moments say nothing (no activation, or one not finite)."""
    k, n = weights.shape
    diagonal = np.diag(moments).astype(np.float64)
    if not np.isfinite(diagonal).all() or not diagonal.max(initial=0) > 0:
        return None
    order = np.argsort(-diagonal, kind="stable")
    square = moments[np.ix_(order, order)].astype(np.float64)
    square[np.arange(k), np.arange(k)] += _DAMPING * diagonal.mean()
    try:
        # The Cholesky factor of the inverse, upper: row i says how the error of i spreads over those behind it.
        spread: Float64 = np.linalg.cholesky(np.linalg.inv(square)).T
    except np.linalg.LinAlgError:
        return None
    left = weights[order].astype(np.float64)
    rounded = np.empty((k, n))
    for start in range(0, k, _BLOCK):
        end = min(k, start + _BLOCK)
        errors = np.empty((end - start, n))
        for i in range(start, end):
            rounded[i] = np.clip(np.rint(left[i] / scales), -127, 127)
            errors[i - start] = (left[i] - rounded[i] * scales) / spread[i, i]
            left[i + 1 : end] -= np.outer(spread[i, i + 1 : end], errors[i - start])
        left[end:] -= spread[start:end, end:].T @ errors
    values = np.empty((k, n), dtype=np.int8)
    values[order] = rounded.astype(np.int8)
    return values
