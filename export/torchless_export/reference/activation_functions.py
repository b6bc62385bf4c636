"""Activation functions by the names that `config.json` has for them, as `transformers.activations` defines them."""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from torchless.cpu import usable_cpus

__all__ = ["ACTIVATION_FUNCTIONS", "ActivationFunction", "erf"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
ActivationFunction = Callable[[Float32], Float32]

# Values worked on at once: a float64 block and its temporaries stay in a core's cache.
_BLOCK = 1 << 15
# From so many blocks on, threads are worth their start.
_THREADED = 8

# W. J. Cody, "Rational Chebyshev approximations for the error function", Mathematics of Computation 23 (1969),
# 631-637; the coefficients of his CALERF (netlib.org/specfun/erf), highest power first. Over the first interval
# erf(x) = x N(x^2) / D(x^2); over the second erfc(x) = exp(-x^2) N(x) / D(x); over the third
# erfc(x) = exp(-x^2) / x (1 / sqrt(pi) - N(1 / x^2) / D(1 / x^2) / x^2).
_NEAR, _FAR = 0.46875, 4.0
_NEAR_N = (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
           3.20937758913846947e3)  # fmt: skip
_NEAR_D = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_MIDDLE_N = (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
             2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
             1.23033935479799725e3)  # fmt: skip
_MIDDLE_D = (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
             3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3)  # fmt: skip
_FAR_N = (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
          1.60837851487422766e-2, 6.58749161529837803e-4)  # fmt: skip
_FAR_D = (1.0, 2.56852019228982242e0, 1.87295284992346047e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
          2.33520497626869185e-3)  # fmt: skip
# From here on erf is 1 in float64, and exp(-x^2) need not underflow.
_ONE_FROM = 6.0


def erf(x: Float64) -> Float64:
    """Return the error function of `x`, of the same shape, within 5e-16 of the exact value; NaN stays NaN."""
    # The two inner intervals are computed for all values and chosen from: that is faster than to pick out their own.
    size = np.abs(x)
    y = np.minimum(size, _NEAR)
    square = y * y
    near = y * _polynomial(_NEAR_N, square) / _polynomial(_NEAR_D, square)
    y = np.minimum(size, _FAR)
    middle = 1 - np.exp(-y * y) * _polynomial(_MIDDLE_N, y) / _polynomial(_MIDDLE_D, y)
    result = np.where(size <= _NEAR, near, middle)
    far = size > _FAR
    if far.any():
        y = np.minimum(size[far], _ONE_FROM)
        inverse = 1 / (y * y)
        tail = inverse * _polynomial(_FAR_N, inverse) / _polynomial(_FAR_D, inverse)
        result[far] = 1 - np.exp(-y * y) / y * (1 / math.sqrt(math.pi) - tail)
    return np.copysign(result, x)


def _polynomial(coefficients: tuple[float, ...], x: Float64) -> Float64:
    """Return the polynomial at `x`, by Horner's rule from the highest power's coefficient."""
    first, *others, last = coefficients
    value = first * x
    for coefficient in others:
        value += coefficient
        value *= x
    value += last
    return value


def _gelu(x: Float64) -> Float64:
    return 0.5 * x * (1 + erf(x * math.sqrt(0.5)))


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


def _blockwise(function: Callable[[Float64], Float64]) -> ActivationFunction:
    """Return `function` for float32 arrays of any shape, computed in float64 block by block, on every usable CPU."""

    def applied(x: Float32) -> Float32:
        flat = x.reshape(-1)
        result = np.empty(flat.shape, np.float32)

        def apply(start: int) -> None:
            block = slice(start, start + _BLOCK)
            result[block] = function(flat[block].astype(np.float64))

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


ACTIVATION_FUNCTIONS: Mapping[str, ActivationFunction] = {
    "gelu": _blockwise(_gelu),
    "gelu_python": _blockwise(_gelu),
    "gelu_10": _blockwise(lambda x: np.clip(_gelu(x), -10, 10)),
    "gelu_new": _blockwise(_gelu_tanh),
    "gelu_accurate": _blockwise(_gelu_tanh),
    "gelu_pytorch_tanh": _blockwise(_gelu_tanh),
    "gelu_python_tanh": _blockwise(_gelu_tanh),
    "gelu_fast": _blockwise(_gelu_fast),
    "quick_gelu": _blockwise(lambda x: x * _sigmoid(1.702 * x)),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "relu2": _blockwise(lambda x: np.square(np.maximum(x, 0))),
    "relu6": lambda x: np.clip(x, np.float32(0), np.float32(6)),
    "sigmoid": _blockwise(_sigmoid),
    "silu": _blockwise(lambda x: x * _sigmoid(x)),
    "swish": _blockwise(lambda x: x * _sigmoid(x)),
    "tanh": _blockwise(np.tanh),
    "linear": lambda x: x,
}
"""Name in `config.json` -> the function, for float32 of any shape; accurate to float32's rounding."""
