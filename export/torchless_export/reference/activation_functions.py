"""Activation functions by the names that `config.json` has for them, as `transformers.activations` defines them."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from torchless.cpu import usable_cpus

__all__ = ["ACTIVATION_FUNCTIONS", "ActivationFunction"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
ActivationFunction = Callable[[Float32], Float32]

# Values worked on at once: a block and its temporaries stay in a core's cache.
_BLOCK = 1 << 15
# From so many blocks on, threads are worth their start.
_THREADED = 8

# W. H. Press et al., Numerical Recipes in C, 2nd edition (1992), section 6.2, `erfcc`:
# erfc(z) = t exp(P(t) - z^2) with t = 1 / (1 + z / 2), for z >= 0; its error is below 1.2e-7 of the value, everywhere.
# P's coefficients, highest power first.
_ERFC = (0.17087277, -0.82215223, 1.48851587, -1.13520398, 0.27886807, -0.18628806, 0.09678418, 0.37409196,
         1.00002368, -1.26551223)  # fmt: skip
# From here on x and gelu(x) are the same float32, and infinity times 0 need not be.
_SAME_FROM = 20


def _gelu(x: Float32) -> Float32:
    """Return gelu(x) = x Phi(x), within 3e-7 of the exact value or of x; of the same shape.

    As max(x, 0) - |x| / 2 erfc(|x| / sqrt(2)), which nothing is lost in for negative x. In float32, in place: it is
    most of what a reference's time goes to beside the products.
    """
    size = np.minimum(np.abs(x), np.float32(_SAME_FROM))
    z = size * np.float32(math.sqrt(0.5))
    t = z * np.float32(0.5)
    t += np.float32(1)
    np.divide(np.float32(1), t, out=t)
    exponent = t * np.float32(_ERFC[0])
    for coefficient in _ERFC[1:-1]:
        exponent += np.float32(coefficient)
        exponent *= t
    exponent += np.float32(_ERFC[-1])
    z *= z
    exponent -= z
    erfc = np.exp(exponent, out=exponent)
    erfc *= t
    erfc *= size
    erfc *= np.float32(0.5)
    result = np.maximum(x, np.float32(0))
    result -= erfc
    return result


def _gelu_tanh(x: Float64) -> Float64:
    result: Float64 = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))
    return result


def _gelu_fast(x: Float64) -> Float64:
    # Differs from the one above by the digits that its constant lacks.
    result: Float64 = 0.5 * x * (1 + np.tanh(x * 0.7978845608 * (1 + 0.044715 * x * x)))
    return result


def _sigmoid(x: Float64) -> Float64:
    # Below, exp would overflow; the value is less than the smallest float32 anyway.
    return 1 / (1 + np.exp(-np.maximum(x, -700.0)))


def _mish(x: Float64) -> Float64:
    # Misra (2019), arXiv:1908.08681: x tanh(softplus(x)).
    result: Float64 = x * np.tanh(np.logaddexp(0, x))
    return result


def _blockwise(function: ActivationFunction) -> ActivationFunction:
    """Return `function` for float32 arrays of any shape, computed block by block, on every usable CPU."""

    def applied(x: Float32) -> Float32:
        flat = x.reshape(-1)
        result = np.empty(flat.shape, np.float32)

        def apply(start: int) -> None:
            block = slice(start, start + _BLOCK)
            result[block] = function(flat[block])

        starts = range(0, flat.size, _BLOCK)
        if len(starts) < _THREADED:
            for start in starts:
                apply(start)
        else:  # NumPy gives up the interpreter's lock where it computes
            state = contextvars.copy_context()  # how errors of floating point are taken is a thread's own
            with ThreadPoolExecutor(usable_cpus()) as pool:
                list(pool.map(lambda start: state.copy().run(apply, start), starts))
        return result.reshape(x.shape)

    return applied


def _in_float64(function: Callable[[Float64], Float64]) -> ActivationFunction:
    """Return `function` for float32 arrays of any shape, computed in float64."""
    return _blockwise(lambda x: function(x.astype(np.float64)).astype(np.float32))


ACTIVATION_FUNCTIONS: Mapping[str, ActivationFunction] = {
    "gelu": _blockwise(_gelu),
    "gelu_python": _blockwise(_gelu),
    "gelu_10": _blockwise(lambda x: np.clip(_gelu(x), -10, 10)),
    "gelu_new": _in_float64(_gelu_tanh),
    "gelu_accurate": _in_float64(_gelu_tanh),
    "gelu_pytorch_tanh": _in_float64(_gelu_tanh),
    "gelu_python_tanh": _in_float64(_gelu_tanh),
    "gelu_fast": _in_float64(_gelu_fast),
    "leaky_relu": _in_float64(lambda x: np.where(x > 0, x, 0.01 * x)),
    "mish": _in_float64(_mish),
    "quick_gelu": _in_float64(lambda x: x * _sigmoid(1.702 * x)),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "relu2": _in_float64(lambda x: np.square(np.maximum(x, 0))),
    "relu6": lambda x: np.clip(x, np.float32(0), np.float32(6)),
    "sigmoid": _in_float64(_sigmoid),
    "silu": _in_float64(lambda x: x * _sigmoid(x)),
    "swish": _in_float64(lambda x: x * _sigmoid(x)),
    "tanh": _in_float64(np.tanh),
    "linear": lambda x: x,
}
"""Name in `config.json` -> the function, for float32 of any shape; accurate to float32's rounding."""
