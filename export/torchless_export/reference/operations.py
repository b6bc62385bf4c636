"""What every encoder is made of: embeddings, linear layers, normalization, attention.

Hidden states are (batch, sequence, size) float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from torchless.errors import InputError

__all__ = [
    "AttentionMask",
    "Embedding",
    "Inputs",
    "LayerNorm",
    "Linear",
    "attend",
    "merge_heads",
    "softmax",
    "split_heads",
]

Bool = NDArray[np.bool_]
Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
ScoreBias = Callable[[Float32, Float32, slice], Float32]

# What PyTorch writes over the scores of masked keys. A query that sees no key at all then attends to all equally.
_MASKED = np.finfo(np.float32).min
# Attention scores computed at once (of one text, for some of its queries): bounds the memory of long sequences.
_SCORES = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What the tokenizer gives.

    Attributes:
        input_ids, token_type_ids: (batch, sequence) int64.
        attention_mask: (batch, sequence) bool, True for a token that may be attended to.
    """

    input_ids: Int64
    attention_mask: Bool
    token_type_ids: Int64


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A table of vectors.

    Attributes:
        weight: (rows, size).
        what: what its rows are looked up with, for the error.
    """

    weight: Float32
    what: str

    def __call__(self, ids: Int64) -> Float32:
        """Return the rows for `ids` (any shape): (*shape, size).

        Raises:
            InputError: an id without a row.
        """
        rows = len(self.weight)
        wrong = np.argwhere((ids < 0) | (ids >= rows))
        if len(wrong):
            at = wrong[0].tolist()
            raise InputError(f"{self.what} holds {ids[tuple(at)]} at {at}, wanted 0 to {rows - 1}")
        return self.weight[ids]


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """`x W^T + b`.

    Attributes:
        weight: (outputs, inputs).
        bias: (outputs,), or None.
    """

    weight: Float32
    bias: Float32 | None

    def __call__(self, x: Float32) -> Float32:
        """Map (..., inputs) to (..., outputs)."""
        rows: Float32 = x.reshape(-1, x.shape[-1]) @ self.weight.T  # one product instead of one a text
        if self.bias is not None:
            rows += self.bias
        return rows.reshape(*x.shape[:-1], len(self.weight))


@dataclass(frozen=True, slots=True, eq=False)
class LayerNorm:
    """Layer normalization over the last axis: Ba, Kiros, Hinton (2016), arXiv:1607.06450.

    Attributes:
        weight: (size,).
        bias: (size,), or None.
        epsilon: added to the variance.
    """

    weight: Float32
    bias: Float32 | None
    epsilon: float

    def __call__(self, x: Float32) -> Float32:
        """Normalize (..., size)."""
        centred = x - x.mean(axis=-1, keepdims=True, dtype=np.float64)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        centred /= np.sqrt(variance + self.epsilon)
        centred *= self.weight
        if self.bias is not None:
            centred += self.bias
        normalized: Float32 = centred.astype(np.float32)
        return normalized


@dataclass(frozen=True, slots=True, eq=False)
class AttentionMask:
    """Which token may attend to which.

    Attributes:
        tokens: (batch, sequence) bool: the keys that may be seen.
        window: a key is seen from this far on either side; None: from everywhere.
        masks_queries: tokens that may not be seen see nothing either.
    """

    tokens: Bool
    window: int | None = None
    masks_queries: bool = False

    def of(self, text: int, queries: slice) -> Bool:
        """Return for one text (queries or 1, sequence) bool: whether the query sees the key."""
        keys = self.tokens[text]
        seen: Bool = keys[None, :]
        if self.masks_queries:
            seen = seen & keys[queries, None]
        if self.window is not None:
            positions = np.arange(len(keys))
            seen = seen & (np.abs(positions[queries, None] - positions[None, :]) <= self.window)
        return seen


def split_heads(x: Float32, heads: int) -> Float32:
    """Return (..., sequence, heads * size) as (..., heads, sequence, size), a view."""
    return np.swapaxes(x.reshape(*x.shape[:-1], heads, -1), -2, -3)


def merge_heads(x: Float32) -> Float32:
    """Return (..., heads, sequence, size) as (..., sequence, heads * size)."""
    swapped = np.swapaxes(x, -2, -3)
    return swapped.reshape(*swapped.shape[:-2], -1)


def softmax(scores: Float32) -> Float32:
    """Return exp(scores) divided by its sum over the last axis."""
    exponents = scores.astype(np.float64)
    exponents -= exponents.max(axis=-1, keepdims=True)
    np.exp(exponents, out=exponents)
    exponents /= exponents.sum(axis=-1, keepdims=True)
    return exponents.astype(np.float32)


def attend(
    query: Float32,
    key: Float32,
    value: Float32,
    mask: AttentionMask,
    *,
    scale: float | None = None,
    bias: ScoreBias | None = None,
) -> Float32:
    """Scaled dot-product attention: Vaswani et al. (2017), arXiv:1706.03762, section 3.2.

    Args:
        query: (batch, heads, sequence, size).
        key: of the same shape.
        value: of the same shape.
        mask: which query sees which key.
        scale: what the products are divided by; None: the square root of the size.
        bias: what is added to the divided products: called with the queries (heads, queries, size), the keys
            (heads, sequence, size) of one text and the queries' positions, it returns (heads, queries, sequence).

    Returns:
        (batch, sequence, heads * size).
    """
    batch, heads, length, size = query.shape
    divisor = np.float32(math.sqrt(size) if scale is None else scale)
    context = np.empty((batch, length, heads * size), np.float32)
    step = max(1, _SCORES // (heads * length))
    for text in range(batch):
        for start in range(0, length, step):
            rows = slice(start, min(start + step, length))
            queries = query[text, :, rows]
            scores = queries @ np.swapaxes(key[text], -1, -2)
            scores /= divisor
            if bias is not None:
                scores += bias(queries, key[text], rows)
            scores = np.where(mask.of(text, rows), scores, _MASKED)
            context[text, rows] = merge_heads(softmax(scores) @ value[text])
    return context
