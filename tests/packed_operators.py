"""The operators of the packed form in NumPy, for ONNX's reference evaluator: ONNX Runtime has them for CUDA alone.

Written from ONNX Runtime's sources: `contrib_ops/cuda/bert/remove_padding.cc`, `bert_padding.cu`,
`packed_multihead_attention.cc` and `restore_padding.cc`.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


class RemovePadding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, counts: Array) -> tuple[Array, ...]:
        batch, sequence, hidden = x.shape
        assert counts.shape == (batch,)
        assert counts.dtype == np.int32
        token = (np.arange(sequence) < counts[:, None]).ravel()
        places = np.arange(batch * sequence)
        offsets = np.concatenate([places[token], places[~token]]).astype(np.int32).reshape(batch, sequence)
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
        return x.reshape(-1, hidden)[token], offsets, starts, np.array([counts.max()], np.int32)


class RestorePadding(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, offsets: Array) -> tuple[Array, ...]:
        restored = np.zeros((offsets.size, x.shape[-1]), x.dtype)
        restored[offsets.ravel()[: len(x)]] = x
        return (restored.reshape(*offsets.shape, -1),)


class PackedMultiHeadAttention(OpRun):
    op_domain = "com.microsoft"

    def _run(
        self, query: Array, key: Array, value: Array, bias: Any, offsets: Array, starts: Array,
        num_heads: int | None = None, scale: float | None = None,
    ) -> tuple[Array, ...]:  # fmt: skip
        assert bias is None
        assert query.shape == key.shape == value.shape
        assert starts.dtype == offsets.dtype == np.int32
        assert starts.shape == (len(offsets) + 1,)
        result = np.empty_like(query)
        for start, end in itertools.pairwise(starts):
            q, k, v = (x[start:end].reshape(end - start, num_heads, -1).transpose(1, 0, 2) for x in (query, key, value))
            scores = q @ k.transpose(0, 2, 1) * np.float32(scale)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            result[start:end] = (weights @ v).transpose(1, 0, 2).reshape(end - start, -1)
        return (result,)


class SkipLayerNormalization(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, skip: Array, gamma: Array, beta: Any = None, epsilon: float | None = None) -> tuple[Array]:
        total = x + skip
        centred = total - total.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(epsilon)) * gamma
        return (normed if beta is None else normed + beta,)


class BiasGelu(OpRun):
    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array, ...]:
        y = x + bias
        return (y * 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float32])(y / np.float32(math.sqrt(2)))),)


OPERATORS = [RemovePadding, RestorePadding, PackedMultiHeadAttention, SkipLayerNormalization, BiasGelu]
